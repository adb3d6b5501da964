"""The benchmark computes what it says: every contender the same thing, every row complete. Timings are not judged."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastxent import benchmark
from fastxent.contenders import CASES, WORKS

ROOT = Path(__file__).parent.parent
TINY = [dataclasses.replace(case, n_rows=64) for case in CASES]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(benchmark, "TURN_S", 1e-4)
    monkeypatch.setattr(benchmark, "PAUSE_S", 0.0)


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_contenders_compute_the_same(case):
    (row,) = benchmark.run([case], rounds=1)
    assert not [note for note in row.notes if "says" in note]
    assert set(row.seconds) | set(row.absent) == {"fastxent", *WORKS[case.work].peers}
    assert all(seconds > 0 for seconds in (row.seconds | row.references_s).values())
    assert row.share_of_roofline == pytest.approx(row.gb_per_s / row.roofline_gb_per_s)
    assert json.loads(json.dumps(row.to_dict()))["name"] == case.name


def test_case_names_differ():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("n_words", [1, 31, 32, 33, 1000, 100_003])
def test_the_roofline_reads_every_word(n_words, monkeypatch):
    words = np.random.default_rng(n_words).integers(-1000, 1000, n_words)
    totals = []
    for chunk in (benchmark._sum_chunk, benchmark._read_chunk):
        (report,) = np.zeros((1, 2), np.int64)
        none = np.empty(0)
        like = np.empty(0)
        chunk(0, n_words, like, like, words, none, words, none, none, none, words.reshape(1, -1), report)
        totals.append(int(report[0]))
    assert totals == [words.sum()] * 2


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    case = TINY[0]
    (row,) = benchmark.run([case], rounds=1)
    assert row.absent["torch"] == "torch"
    assert "absent" in benchmark.table([row])
    assert f"{case.name}: torch is absent" in benchmark.legend([row])


def test_tables_are_aligned():
    row = benchmark.Row(CASES[0], 8 * 10**8, {"fastxent": 0.02, "torch": 0.2}, {"sum": 0.01}, {"jax": "jax"}, ())
    plain, marked = benchmark.table([row]), benchmark.table([row], markdown=True)
    assert len({len(line) for line in marked.splitlines()}) == 1
    assert "20.0 ms" in plain
    assert "40.0" in plain
    assert "80.0" in plain
    assert "0.50" in plain
    assert "10.0x" in plain
    assert "absent" in plain


def test_command(capsys, tmp_path):
    file = tmp_path / "figures.json"
    assert benchmark.main(["--quick", "--rounds", "1", "--json", str(file), "small"]) == 0
    assert "small_call" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["schema"] == "fastxent.benchmark/1"
    assert figures["machine"]["versions"]["numba"]
    assert [row["work"] for row in figures["rows"]] == ["small_call"]


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["nothing-like-it"])
    assert stopped.value.code == 2
    assert "nothing-like-it" in capsys.readouterr().err


def test_bench_suites_cover_every_case(tmp_path):
    """pytest bench finds a benchmark for each contender of each case, and one of them runs."""
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "bench", "--quick", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run([*command, "--collect-only"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
    listed = [line for line in found.stdout.splitlines() if "::" in line]
    assert len(listed) == sum(1 + len(WORKS[case.work].peers) for case in CASES)
    file = tmp_path / "bench.json"
    command += ["-k", "small_call and fastxent", f"--benchmark-json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = json.loads(file.read_text())["benchmarks"]
    assert {"rows_per_s", "gb_per_s", "share_of_roofline"} <= set(record["extra_info"])
