"""The benchmark computes what it says, and judges by what it measured. Timings themselves are not judged here."""

import dataclasses
import functools
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fastxent.benchmark import charts, crossover, judging, measuring, references, scaling, session, tables
from fastxent.benchmark.cases import CASES, LARGE_BYTES, Case, Target, select
from fastxent.benchmark.contenders import SLOW_BYTES, WORKS
from fastxent.benchmark.judging import FAIL, NOT_JUDGED, PASS
from fastxent.benchmark.measuring import Pace, Row
from fastxent.cli import main as cli

ROOT = Path(__file__).parent.parent
TINY = [dataclasses.replace(case, n_rows=128) for case in CASES if not case.cached]
ONCE = Pace(rounds=1, fewest_rounds=1, budget_s=0.0, turn_s=1e-4, call_turn_s=1e-4, pause_s=0.0)


SKLEARN = [
    f"sklearn_{metric}{labels}-float64-10"
    for metric in ("log_loss", "brier", "d2")
    for labels in ("", "_strings", "_one_hot", "_weighted")
]


def case_named(name):
    return next(case for case in CASES if case.name == name)


def row_of(name, share=0.5, n_bytes=2 * LARGE_BYTES, ours_s=1.0, **ratios):
    """A made-up measurement: fastxent takes a second."""
    case = case_named(name)
    references_s = {references.LIMITS[case.limit][0]: share * ours_s}
    seconds = {"fastxent": ours_s} | {peer.replace("_", "-"): ratio * ours_s for peer, ratio in ratios.items()}
    return Row(case, case.n_rows, n_bytes, seconds, references_s)


# --- the table of cases -----------------------------------------------------------------------------------------------


def test_case_names_differ():
    assert len({case.name for case in CASES}) == len(CASES)


def test_what_has_a_target_is_beyond_any_cache():
    small = [c.name for c in CASES if c.target and c.n_rows * c.touched_bytes < LARGE_BYTES]
    assert small == [
        "small_call-float32-10",
        *SKLEARN,
        "xgboost_training-float32-10",
        "xgboost_binary_training-float32-1",
        "lightgbm_training-float32-10",
        "lightgbm_binary_training-float32-1",
        "linear-float32-65536",
        "linear-float32-8192",
        *(f"softmax_regression-float64-{n_classes}" for n_classes in (100, 200, 300, 10, 2)),
    ]
    assert not [case.name for case in CASES if case.cached and case.target]


def test_every_row_of_the_issue_has_its_target():
    wanted = {
        "cross_entropy-float32": {1000: 0.9, 50257: 0.9, 128256: 0.9, 100: 0.7, 10: 0.4, 20: 0.4, 2: 0.3, 3: 0.3},
        "cross_entropy-float64": {10: 0.4, 100: 0.7, 1000: 0.8},
        "cross_entropy-float16": {1000: 0.6, 50257: 0.6},
        "cross_entropy-bfloat16": {1000: 0.6, 50257: 0.6},
        "soft_targets-float32": {1000: 0.8},
        "log_loss-float32": {10: 0.4, 1000: 0.8},
        "binary-float32": {1: 0.5},
        "nll-float32": {50: None},
        "class_axis_1-float32": {21: 0.5},
        "fortran_order-float32": {100: 0.5},
        "score_card-float32": {10: 0.2, 1000: 0.45},
        "small_call-float32": {10: None},
        **{name.removesuffix("-10"): {10: None} for name in SKLEARN},
        "value_and_grad-float32": {10: None, 1000: None},
        "binary_value_and_grad-float32": {1: None},
        "torch_cross_entropy-float32": {1000: None, 50257: None},
        "torch_cross_entropy-bfloat16": {1000: None},
        **{f"{library}_training-float32": {10: None} for library in ("xgboost", "lightgbm")},
        **{f"{library}_binary_training-float32": {1: None} for library in ("xgboost", "lightgbm")},
        "linear-float32": {65536: None, 8192: None},
        "softmax-float32": {1000: None},
        "log_softmax-float32": {1000: None},
        "logsumexp-float32": {1000: 0.9},
        "softmax_regression-float64": {2: None, 10: None, 100: None, 200: None, 300: None},
    }
    found = {}
    for case in CASES:
        if case.target is not None:
            found.setdefault(f"{case.work}-{case.dtype}", {})[case.n_classes] = case.target.share
    assert found == wanted


def test_selection():
    assert {case.name for case in select(["score"])} == {c.name for c in CASES if c.topic == "score"}
    assert all(case.n_rows * case.row_bytes <= 1 << 24 for case in select(quick=True))
    assert {case.name for case in select(targets=True)} == {c.name for c in CASES if c.target}
    with pytest.raises(ValueError, match="nothing-like-it"):
        select(["nothing-like-it"])


# --- measuring --------------------------------------------------------------------------------------------------------


# Of a work and dtype the fewest classes and the most.
ENDS = [
    case
    for case in TINY
    if case.n_classes
    in {end(c.n_classes for c in TINY if (c.work, c.dtype) == (case.work, case.dtype)) for end in (min, max)}
]


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case.name)
def test_contenders_compute_the_same(case):
    library = case.work.partition("_")[0]
    if library in ("torch", "xgboost", "lightgbm"):  # where fastxent itself needs it
        pytest.importorskip(library)
    (row,) = measuring.run([case], ONCE)
    assert not [note for note in row.notes if "says" in note]
    assert set(row.seconds) | set(row.absent) == {"fastxent", *WORKS[case.work].peers}
    assert all(0 < seconds < math.inf for seconds in (row.seconds | row.references_s).values())
    assert row.share == pytest.approx(row.gb_per_s / row.limit_gb_per_s)
    assert row.n_bytes == row.n_rows * case.touched_bytes
    assert json.loads(json.dumps(row.to_dict()))["name"] == case.name
    if case.target:
        judging.judge([row])


def test_a_wrong_contender_is_noticed(monkeypatch):
    wrong = WORKS["logsumexp"].peers["torch"]._replace(prepare=lambda z: lambda: np.ones(3))
    monkeypatch.setitem(WORKS["logsumexp"].peers, "torch", wrong)
    (row,) = measuring.run([c for c in TINY if c.work == "logsumexp"], ONCE)
    assert "torch says 1, fastxent" in " ".join(row.notes)


def test_slow_peers_get_a_part_of_the_rows(monkeypatch):
    given = []

    def prepare(z, y):
        given.append(len(z))
        return measuring.WORKS["cross_entropy"].ours(z, y)

    case = dataclasses.replace(case_named("cross_entropy-float32-1000"), n_rows=128)
    peer = WORKS["cross_entropy"].peers["scipy"]
    assert peer.most_bytes == SLOW_BYTES
    monkeypatch.setitem(WORKS["cross_entropy"].peers, "scipy", peer._replace(prepare=prepare, most_bytes=1 << 17))
    (row,) = measuring.run([case], ONCE)
    assert given == [32]
    assert any("scipy had 1/4.0 of the rows" in note for note in row.notes)
    assert not any("says" in note for note in row.notes)


def test_turns_are_interleaved_and_the_best_counts(monkeypatch):
    clock = iter([0, 5, 0, 2, 0, 3, 0, 9, 0, 4, 0, 1])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    called = []
    calls = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    best = measuring.time_turns(calls, Pace(rounds=3, fewest_rounds=1, budget_s=100, pause_s=0.0))
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert best == {"a": 4, "b": 1}


def test_slow_contenders_stop_at_their_budget():
    called = []
    calls = {"slow": lambda: called.append(1)}
    measuring.time_turns(calls, Pace(rounds=50, fewest_rounds=2, budget_s=0.0, turn_s=0.0, pause_s=0.0))
    assert len(called) == 2


@pytest.mark.parametrize("n_words", [1, 31, 32, 33, 1000, 100_003])
def test_the_reads_read_every_word(n_words):
    words = np.random.default_rng(n_words).integers(-1000, 1000, n_words)
    totals = []
    for chunk in (references.sum_chunk, references.read_chunk):
        (report,) = np.zeros((1, 2), np.int64)
        none = np.empty(0)
        chunk(0, n_words, none, none, words, none, words, none, none, none, words.reshape(1, -1), report)
        totals.append(int(report[0]))
    assert totals == [words.sum()] * 2


def test_the_gather_reads_the_labels_entries():
    z, y = np.arange(12.0).reshape(4, 3).astype(np.float32), np.array([2, 0, 1, 2])
    batch = references.batch
    call = batch.Call(references.gather_chunk, z[None], z[None], batch.settings(3), z.size, y)
    total, _, _, _ = call.run_serial(1, 4)
    assert total == int(z[np.arange(1, 4), y[1:]].sum())


def test_absent_peers_are_named(monkeypatch):
    if importlib.util.find_spec("jax") is None:  # optax is what has to be missed
        monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
    monkeypatch.setitem(sys.modules, "optax", None)
    (row,) = measuring.run(TINY[:1], ONCE)
    assert row.absent["jax"] == "optax"
    assert "absent" in tables.text(tables.results([row]))
    assert f"{TINY[0].name}: jax is absent (optax is not installed)" in tables.legend([row])


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (row_of("cross_entropy-float32-1000", 0.9, torch=6.0, jax=7.0), PASS),
        (row_of("cross_entropy-float32-1000", 0.89, torch=6.0, jax=7.0), FAIL),  # the share
        (row_of("cross_entropy-float32-1000", 0.9, torch=6.0, jax=5.9), FAIL),  # the best peer counts
        (row_of("cross_entropy-float32-1000", 0.9), NOT_JUDGED),  # no peer
        (row_of("cross_entropy-float32-1000", 0.9, n_bytes=10**8, torch=6.0), NOT_JUDGED),  # in a cache
        (row_of("cross_entropy-float32-10", 0.4, torch=20.0, jax=2.5, scipy=1.0), PASS),  # scipy is not asked for
        (row_of("cross_entropy-float32-10", 0.4, torch=20.0, jax=2.4), FAIL),
        (row_of("cross_entropy-float32-10", 0.4, torch=20.0), NOT_JUDGED),  # jax is absent
        (row_of("cross_entropy-float32-10", 0.3, torch=20.0), FAIL),  # which does not save a bad share
        (row_of("log_loss-float32-10", 0.4, scikit_learn=40.0, torch=1.0), PASS),
        (row_of("log_loss-float32-10", 0.4, scikit_learn=39.0, torch=50.0), FAIL),
        (row_of("softmax-float32-1000", 1 / 1.09, torch=2.0, jax=3.0), PASS),  # 1.1 times a copy
        (row_of("softmax-float32-1000", 1 / 1.11, torch=2.0, jax=3.0), FAIL),
        (row_of("nll-float32-50", 1.0, torch=5.0, jax=6.0), PASS),
        (row_of("nll-float32-50", 0.98, torch=5.0, jax=6.0), FAIL),
        (row_of("small_call-float32-10", 0.1, 6144, 5.5e-6, torch=1.1, scipy=9.0, jax=0.5), PASS),
        (row_of("small_call-float32-10", 0.1, 6144, 5.6e-6, torch=1.1, scipy=9.0), FAIL),  # 5.04 us over the empty call
        (row_of("small_call-float32-10", 0.1, 6144, 5.5e-6, torch=0.9, scipy=9.0), FAIL),
        (row_of("sklearn_brier_weighted-float64-10", n_bytes=96 * 10**6, scikit_learn=40.0), PASS),
        (row_of("sklearn_brier_weighted-float64-10", n_bytes=96 * 10**6, scikit_learn=39.0), FAIL),
        (row_of("xgboost_training-float32-10", n_bytes=88 * 10**5, xgboost=0.92), PASS),
        (row_of("xgboost_training-float32-10", n_bytes=88 * 10**5, xgboost=0.9), FAIL),
    ],
)
def test_verdicts(row, result):
    verdict = judging.judge([row])
    assert verdict.result == result
    assert tables.text(tables.verdicts([verdict])).count(result) >= 1


def test_the_median_run_decides():
    name = "logsumexp-float32-1000"
    good, bad = row_of(name, 0.95, torch=6.0), row_of(name, 0.5, torch=6.0)
    assert judging.judge([good, bad, good]).result == PASS
    assert judging.judge([bad, good, bad]).result == FAIL
    assert judging.typical([good, bad, row_of(name, 0.7)]).share == pytest.approx(0.7)


def test_the_best_peer_is_the_best_by_its_median():
    name = "logsumexp-float32-1000"
    runs = [row_of(name, 1.0, torch=t, jax=j) for t, j in ((4.0, 9.0), (9.0, 6.0), (8.0, 6.0))]
    (check,) = [c for c in judging.judge(runs).checks if "against" in c.what]
    assert (check.what, check.got) == ("against jax", 6.0)


def test_changes_are_of_the_share_of_the_limit():
    name = "logsumexp-float32-1000"
    old = [row_of(name, 0.8).to_dict(), row_of("binary-float32-1", 0.5).to_dict()]

    def after(share, **more):
        (change,) = judging.compare(old, [row_of(name, share, **more).to_dict()], 0.1)
        return change.result

    assert after(0.8, ours_s=3.0) == "as before"  # a slower machine
    assert after(0.73) == "as before"
    assert after(0.71) == "slower"
    assert after(0.88) == "as before"
    assert after(0.9) == "faster"
    assert "not compared" in after(0.1, n_bytes=10**6)
    assert judging.compare(old, [row_of("softmax-float32-1000").to_dict()]) == []


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_tables_are_aligned():
    row = row_of("cross_entropy-float32-1000", 0.5, 8 * 10**8, 0.02, torch=10.0)
    row = dataclasses.replace(row, absent={"jax": "jax"})
    sheet = tables.results([row])
    plain, marked = tables.text(sheet), tables.text(sheet, markdown=True)
    assert len({len(line) for line in marked.splitlines()}) == 1
    for text in ("20.0 ms", "40.0", "80.0", "0.50", "10.0x", "absent"):
        assert text in plain
    assert "torch 10.0x, jax absent" in tables.text(tables.results([row], narrow=True))


def test_bars():
    assert tables.bar(0.0) == " " * 10
    assert tables.bar(1.0) == tables.bar(3.0) == "█" * 10
    assert tables.bar(0.5) == "█████     "
    assert tables.bar(0.55) == "█████▌    "


@pytest.mark.parametrize("width", [80, 200])
def test_terminal_tables(width):
    from rich.console import Console

    row = row_of("cross_entropy-float32-1000", 0.9, torch=7.0)
    for sheet in (tables.results([row], narrow=width < 100), tables.verdicts([judging.judge([row])])):
        console = Console(width=width, file=io.StringIO())
        console.print(tables.rich_table(sheet))
        shown = console.file.getvalue()
        assert sheet.lines[0][0] in shown
        assert max(map(len, shown.splitlines())) <= width
        assert "7.0x" in shown or "pass" in shown


def test_roofline_chart(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row_of(case.name, 0.5, torch=3.0, jax=5.0) for case in CASES]
    facts = {"processor": "x", "threads": 2, "vector_bits": 512, "versions": {"fastxent": "0"}}
    charts.roofline(rows, facts, str(tmp_path / "chart.svg"))
    text = (tmp_path / "chart.svg").read_text()
    assert text.count("<g id=") > 3 * len(rows)


def test_a_chart_without_matplotlib_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(charts.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", "small", "--quick", "--plot", "chart.png"]) == 2
    assert "pip install fastxent[report]" in capsys.readouterr().err


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch):
    """Commands measure for a moment only."""
    monkeypatch.setattr(session, "QUICK", ONCE)
    monkeypatch.setattr(session, "FULL", ONCE)


def test_command(hurried, capsys, tmp_path):
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "--quick", "--runs", "2", "--json", str(file), "small"]) == 0
    assert "small_call" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["schema"] == session.SCHEMA
    assert figures["machine"]["versions"]["numba"]
    assert [row["work"] for row in figures["rows"]] == ["small_call"]
    assert [len(rows) for rows in figures["runs"]] == [1, 1]


def test_command_says_what_became_slower(hurried, capsys, tmp_path):
    file = tmp_path / "old.json"
    assert cli.main(["bench", "--quick", "small", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    figures["rows"][0]["share_of_limit"] *= 1e6
    file.write_text(json.dumps(figures))
    assert cli.main(["bench", "--quick", "small", "--compare", str(file)]) == 1
    assert "1 slower, 0 faster" in capsys.readouterr().out
    figures["rows"][0]["share_of_limit"] /= 1e12
    file.write_text(json.dumps(figures))
    assert cli.main(["bench", "--quick", "small", "--compare", str(file)]) == 0
    assert "0 slower, 1 faster" in capsys.readouterr().out


@pytest.mark.parametrize(("over_s", "code", "word"), [(1.0, 0, "1 pass"), (-1.0, 1, "1 FAIL")])
def test_command_judges_targets(hurried, capsys, monkeypatch, over_s, code, word):
    case = Case("small_call", "float32", 10, Target(over_s=over_s), n_rows=32)
    monkeypatch.setattr(session, "select", lambda names, **_: [case])
    assert cli.main(["bench", "--targets", "small"]) == code
    assert f"{word}; the median of 3 runs decides" in capsys.readouterr().out


def test_interrupted_command_shows_what_was_measured(hurried, capsys, monkeypatch, tmp_path):
    measured = session.run

    def stopped(cases, *rest):
        if cases[0].work == "softmax":
            raise KeyboardInterrupt
        return measured(cases, *rest)

    monkeypatch.setattr(session, "run", stopped)
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "--quick", "small", "softmax", "logsumexp", "--json", str(file)]) == 130
    shown = capsys.readouterr()
    assert "small_call" in shown.out
    assert "logsumexp" not in shown.out.partition("time, GB/s")[0]
    assert "interrupted" in shown.err
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing-like-it"], "nothing-like-it"),
        (["small", "--runs", "0"], "--runs"),
        (["small", "--plot", "chart.gif"], "--plot"),
        (["small", "--compare", "absent.json"], "absent.json"),
        (["small", "--json", "absent/folder/x.json"], "--json"),
    ],
)
def test_wrong_arguments_are_refused(arguments, complaint, capsys):
    assert cli.main(["bench", "--quick", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_files_of_another_kind_are_not_compared(capsys, tmp_path):
    for content in ("nonsense", "{}", "[]"):
        file = tmp_path / "old.json"
        file.write_text(content)
        assert cli.main(["bench", "--quick", "small", "--compare", str(file)]) == 2
        assert "--compare" in capsys.readouterr().err


# --- bench/ -----------------------------------------------------------------------------------------------------------


def test_bench_suites_cover_every_case(tmp_path):
    """pytest bench finds a benchmark for each contender of each case, and one of them runs."""
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # ours, not its
    run = functools.partial(subprocess.run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    found = run([*command, "--collect-only"])
    assert found.returncode == 0, found.stdout + found.stderr
    listed = [line for line in found.stdout.splitlines() if "::" in line]
    assert len(listed) == sum(1 + len(WORKS[case.work].peers) for case in CASES)
    file = tmp_path / "bench.json"
    command += ["-k", "small_call and fastxent", f"--benchmark-json={file}"]
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = json.loads(file.read_text())["benchmarks"]
    assert {"bytes", "rows_per_s", "gb_per_s", "share_of_limit"} <= set(record["extra_info"])


# --- scaling and the crossover ----------------------------------------------------------------------------------------


def test_scaling_covers_rows_classes_and_threads():
    steps = list(scaling.plan(all_threads=6))
    by_series = {name: [(case, threads) for s, case, threads in steps if s == name] for name, *_ in steps}
    rows = [case.n_rows for case, _ in by_series["rows"]]
    assert (min(rows), max(rows)) == (10**3, 10**8)
    assert [case.n_classes for case, _ in by_series["classes"]] == list(scaling.CLASSES)
    sizes = [case.n_rows * case.row_bytes for case, _ in by_series["classes"]]
    assert min(sizes) > 0.99 * max(sizes)
    assert [threads for _, threads in by_series["threads"]][:4] == [1, 2, 4, 6]
    assert max(case.n_rows * case.row_bytes for _, case, _ in steps) <= 1.6e9
    assert max(case.n_rows * case.row_bytes for _, case, _ in scaling.plan(quick=True)) <= 1 << 24


def test_scaling_measures_and_draws(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "QUICK", ONCE)
    case = case_named("cross_entropy-float32-10").sized(1 << 14)
    steps = [("rows", case, 1), ("classes", case, 1), ("threads", case, 1), ("threads", case, 2)]
    growth = scaling.measure(True, steps=steps)
    assert [(p.n_rows, p.threads) for p in growth.points] == [(case.n_rows, threads) for _, _, threads in steps]
    assert json.loads(json.dumps(growth.to_dict()))["points"][0]["row_ns"] > 0
    growth.show()
    assert "threads" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    growth.draw(str(tmp_path / "chart.svg"))
    assert (tmp_path / "chart.svg").stat().st_size


def test_interrupted_scaling_keeps_what_it_measured(monkeypatch):
    def stopped(series, *_):
        if series == "threads":
            raise KeyboardInterrupt
        return scaling.Point(series, 1, 2, 1, 3, 1.0, 1.0)

    monkeypatch.setattr(scaling, "_point", stopped)
    case = case_named("cross_entropy-float32-10")
    growth = scaling.measure(steps=[("rows", case, 1), ("threads", case, 1)])
    assert growth.interrupted
    assert len(growth.points) == 1


@pytest.mark.slow
def test_crossover_measures_both_ways():
    """Beyond the constant too: a process of its own makes the tiles' buffers larger."""
    found = crossover.measure(quick=True)
    assert [p["n_classes"] for p in found.points] == 2 * list(crossover.FEW_CLASSES)
    assert all(p["tiles_ns"] > 0 and p["rows_ns"] > 0 for p in found.points)
    assert found.chosen < crossover.MOST


def test_score_speed_times_the_loss_and_the_score_card():
    spec = importlib.util.spec_from_file_location("score_speed", ROOT / "ci" / "score_speed.py")
    score_speed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score_speed)
    loss_s, card_s = score_speed.times_s(1000, 10, rounds=2)
    assert 0 < loss_s < card_s < 60
