"""Runs interrupted, killed, or spread over machines: the bits of one undisturbed run, each row counted once."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastxent import Scorer, score
from fastxent.cli.main import main
from fastxent.files import base
from fastxent.files.scan import Wanted
from fastxent.jobs.resume import StateFile, merge_states
from fastxent.jobs.score import Job, score_files

N, C = 30_000, 10
RNG = np.random.default_rng(5)
X = (3 * RNG.normal(size=(N, C))).astype("f4")
Y = RNG.integers(0, C, N)
W = RNG.random(N)
IDS = RNG.permutation(N)

# The command with small pieces, so that a run takes thousands of them; it says when all that it loads is loaded.
DRIVER = """
import contextlib, io, sys
from fastxent.cli import main as cli
from fastxent.files import base
base.BLOCK_BYTES = 4 * 10 * (100 if "t.csv" in sys.argv else 10)  # text takes longer, and lines have to fit
with contextlib.redirect_stdout(io.StringIO()):
    cli.main(["score", "warm.npy", "warm_y.npy", "--resume", "warm.state", "--json", "warm.json"])
print("ready", flush=True)
sys.exit(cli.main(sys.argv[1:]))
"""

# The same on workers, who start before rows are handed out.
DRIVER_OF_WORKERS = """
import sys
from fastxent.cli import main as cli
from fastxent.jobs import cluster
cluster.KEPT_PART_BYTES = 4 * 10 * 100
def begin(*given, begin=cluster._score_kept):
    print("ready", flush=True)
    return begin(*given)
cluster._score_kept = begin
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Predictions, target, weights and ids, read in pieces of 1000 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BLOCK_BYTES", 4 * C * 1000)
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    np.save("x.npy", X)
    np.save("y.npy", Y)
    np.save("warm.npy", X[:200])
    np.save("warm_y.npy", Y[:200])
    np.savez("all.npz", logits=X, labels=Y, w=W, i=IDS)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(card):
    return json.loads(json.dumps(card.to_dict(), allow_nan=False))


def covered(scorer):
    return [rows for ranges in (scorer.rows, *scorer.sources.values()) for rows in ranges]


# ---- killed at any moment --------------------------------------------------------------------------------------------


def life(arguments, delay_s):
    """One run of the driver, killed after so many seconds: its exit code, what it printed, how long it lived."""
    driver = DRIVER_OF_WORKERS if "--workers" in arguments else DRIVER
    with subprocess.Popen([sys.executable, "-c", driver, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()  # of the result, where a state was finished before workers start
            begin = time.perf_counter()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay_s)
        finally:
            process.kill()
        lived_s = time.perf_counter() - begin
        return process.wait(), (line + process.stdout.read()).removeprefix("ready\n"), lived_s


def kill_and_resume(files, kills, seed, want, *more):
    rng = np.random.default_rng(seed)
    arguments = ["score", *files, *more, "--resume", "run.state", "--save-every", "0", "--json", "-"]
    done, finished, reached, life_s = 0, 0, [], 60.0
    while done < kills or not finished:
        # The first life is not disturbed: it tells how long one is, from its first row to the exit.
        code, out, lived_s = life(arguments, rng.uniform(0, life_s) if done + finished > 0 and done < kills else 60.0)
        if code == -signal.SIGKILL:
            done += 1
            rows = covered(Scorer.load("run.state")) if os.path.exists("run.state") else []
            assert more or [first for first, _ in rows] == [0] * len(rows)
            reached.append(sum(last for _, last in rows))
            continue
        assert code == 0
        assert json.loads(out) == want
        assert covered(Scorer.load("run.state")) == [(0, N)]
        assert [p.name for p in Path().iterdir() if "run.state" in p.name] == ["run.state"]
        os.unlink("run.state")
        finished += 1
        life_s = min(life_s, lived_s)
    return reached


def test_a_run_killed_at_random_moments_ends_with_the_same_bits():
    reached = kill_and_resume(["x.npy", "y.npy"], 5, 1, as_json(score(X, Y)))
    assert any(0 < rows < N for rows in reached)


@pytest.mark.slow
@pytest.mark.parametrize("files", ["x.npy y.npy", "t.csv"])
def test_a_run_killed_fifty_times_ends_with_the_same_bits(files):
    if files == "t.csv":
        table = np.column_stack([X.astype(float), Y])
        np.savetxt("t.csv", table, "%.17g", ",", header=",".join([*map(str, range(C)), "target"]), comments="")
    want = score(X.astype(float) if files == "t.csv" else X, Y)
    reached = kill_and_resume(files.split(), 50, 2, as_json(want))
    assert len(reached) == 50
    assert sum(0 < rows < N for rows in reached) >= 20  # amid the rows


@pytest.mark.slow
def test_a_run_on_workers_killed_ten_times_ends_with_the_same_bits():
    pytest.importorskip("distributed")
    reached = kill_and_resume(["x.npy", "y.npy"], 10, 3, as_json(score(X, Y)), "--workers", "2")
    assert len(reached) == 10
    assert sum(0 < rows < N for rows in reached) >= 2


class Stop(Exception):
    """What ends a run in these tests."""


def stop_after(pieces):
    told = []

    def tell(what, fraction, rows, n_bytes):
        told.append(rows)
        if rows and len(told) > pieces:
            raise Stop

    return tell


@pytest.mark.parametrize("first_row", [None, 7_000])
@pytest.mark.parametrize("every_s", [0, 3600])
def test_a_run_stopped_after_any_piece_goes_on_after_it(every_s, first_row):
    job = Job("all.npz", None, Wanted(None, None, "w", "i", "logits", "labels"), {"worst": 7}, first_row)
    for pieces in (1, 2, 5, 9, 13):
        with pytest.raises(Stop):
            score_files(job, tell=stop_after(pieces), state=StateFile("s.state", every_s))
    first = first_row or 0
    assert covered(Scorer.load("s.state")) == [(first, first + 30_000)]
    scorer = score_files(job, state=StateFile("s.state"))
    assert scorer.result() == score(X, Y, sample_weight=W, ids=IDS, worst=7)


def test_a_state_is_written_at_the_time_asked_for_and_in_one_step(monkeypatch):
    saves, at = [], [0.0]
    monkeypatch.setattr(Scorer, "save", lambda self, path: saves.append(at[0]))
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    state = StateFile("s.state", 5.0)
    for _ in range(100):
        at[0] += 0.3
        state.save_if_due(Scorer())
    assert [round(s, 1) for s in saves] == [5.1, 10.2, 15.3, 20.4, 25.5]

    def slow_save(self, path):
        at[0] += 1.0

    monkeypatch.setattr(Scorer, "save", slow_save)
    begin = at[0]
    for _ in range(2000):
        at[0] += 0.3
        state.save_if_due(Scorer())
    assert (at[0] - begin - 600) / 600 < 0.03  # what is slow to write is written more seldom


def test_ctrl_c_keeps_what_was_scored():
    np.save("x.npy", np.tile(X, (10, 1)))
    np.save("y.npy", np.tile(Y, 10))
    arguments = ["score", "x.npy", "y.npy", "--resume", "run.state", "--json", "-"]
    with subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "fastxent: interrupted: run.state has what was scored; the same command goes on from there\n"
    ((first, last),) = covered(Scorer.load("run.state"))
    assert first == 0
    assert 0 < last < 10 * N
    assert main([*arguments[:-1], "end.json"]) == 0
    assert json.loads(Path("end.json").read_text()) == as_json(score(np.tile(X, (10, 1)), np.tile(Y, 10)))


# ---- the state of other rows or options ------------------------------------------------------------------------------


def test_a_finished_state_is_shown_again_without_reading(capsys, monkeypatch):
    command = ["score", "x.npy", "y.npy", "--resume", "s.state"]
    first = run(capsys, *command, "--json", "-")
    monkeypatch.setattr(Scorer, "update", None)
    assert run(capsys, *command, "--json", "-") == first
    assert "From s.state, which was finished." in run(capsys, *command)[1]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--bins", 3], "bins 15, this command has 3"),
        (["--temperature", 2], "temperature 1.0, this command has 2.0"),
        (["--kind", "log-probs"], "kind logits, this command has log_probs"),
        (["--axis", 1], "axis -1, this command has 1"),
        (["--first-row", 8], "first row none, this command has 8"),
    ],
)
def test_a_state_of_other_options_is_refused(capsys, more, what):
    assert run(capsys, "score", "x.npy", "y.npy", "--resume", "s.state")[0] == 0
    before = Path("s.state").read_bytes()
    code, out, err = run(capsys, "score", "x.npy", "y.npy", "--resume", "s.state", *more)
    assert (code, out) == (2, "")
    assert err.startswith("fastxent: error: --resume: s.state was made with ")
    assert what in err
    assert err.endswith("another state file to start anew\n")
    assert Path("s.state").read_bytes() == before


def test_a_state_of_other_files_is_refused(capsys):
    assert run(capsys, "score", "x.npy", "y.npy", "--resume", "s.state")[0] == 0
    np.save("z.npy", X + 1)
    np.save("short.npy", X[:5])
    np.save("five.npy", Y[:5])
    for files in (["z.npy", "y.npy"], ["short.npy", "five.npy"]):
        code, _, err = run(capsys, "score", *files, "--resume", "s.state")
        assert code == 2
        assert "s.state was made" in err
    os.utime("x.npy", ns=(1, 1))
    code, _, err = run(capsys, "score", "x.npy", "y.npy", "--resume", "s.state")
    assert code == 2
    assert "changed" in err


def test_what_is_no_state_of_a_run_is_refused(capsys):
    command = ["score", "x.npy", "y.npy", "--resume"]
    Path("empty.state").touch()
    Path("text.state").write_text("fastxent")
    Scorer().update(X, Y).save("other.state")
    for path, what in (("empty.state", "not a"), ("text.state", "not a"), ("other.state", "began")):
        before = Path(path).read_bytes()
        code, _, err = run(capsys, *command, path)
        assert code == 2
        assert err.count("\n") == 1
        assert path in err
        assert what in err
        assert Path(path).read_bytes() == before
    assert run(capsys, *command, "absent/x.state")[0] == 2
    for option in ("--first-row", "--save-every"):
        assert f"{option}: -1" in run(capsys, *command, "s.state", option, -1)[2]


# ---- parts made on different machines --------------------------------------------------------------------------------


def shards(capsys, cuts, *more):
    """States of parts of the rows, each from files of its own."""
    states = []
    for k, (low, high) in enumerate(zip([0, *cuts], [*cuts, N])):
        np.save("part.npy", X[low:high])
        np.save("labels.npy", Y[low:high])
        where = ["--first-row", low] if "--first-row" in more else []
        states.append(f"{k}.state")
        assert run(capsys, "score", "part.npy", "labels.npy", "--resume", states[-1], *where)[0] == 0
    return states


def test_merged_parts_have_the_bits_of_one_run(capsys):
    states = shards(capsys, [100, 1000, 20_000], "--first-row")
    code, out, err = run(capsys, "merge", *states[::-1], "--json", "-", "--output", "all.state")
    assert (code, err) == (0, "")
    assert json.loads(out) == as_json(score(X, Y))
    assert Scorer.load("all.state").rows == ((0, N),)
    assert run(capsys, "merge", "all.state", "--json", "-")[1] == out
    assert "4 states" in run(capsys, "merge", "?.state")[1]
    assert merge_states(states).result() == score(X, Y)


def test_parts_of_files_of_their_own_need_no_positions(capsys):
    states = shards(capsys, [100, 1000, 20_000])
    got = json.loads(run(capsys, "merge", *states, "--json", "-")[1])
    want = as_json(score(X, Y))
    del got["worst"], want["worst"]  # rows by their position in their own file
    assert got == want


@pytest.mark.parametrize("positions", [[], ["--first-row"]])
def test_a_row_that_two_parts_have_is_refused(capsys, positions):
    states = shards(capsys, [1000, 20_000], *positions)
    copy = Path("again.state")
    copy.write_bytes(Path(states[1]).read_bytes())
    code, _, err = run(capsys, "merge", *states, copy)
    assert code == 2
    assert "again.state: rows" in err
    assert "covered already" in err
    os.unlink(copy)
    np.save("a copy.npy", X[1000:20_000])
    np.save("labels.npy", Y[1000:20_000])
    where = ["--first-row", 19_999] if positions else []
    assert run(capsys, "score", "a copy.npy", "labels.npy", "--resume", "again.state", *where)[0] == 0
    code, out, err = run(capsys, "merge", *states, "again.state")
    assert (code, out) == (2, "")
    assert "again.state: rows " in err


def test_parts_that_do_not_belong_together_are_refused(capsys):
    shards(capsys, [1000])
    np.save("wide.npy", np.zeros((5, C + 1)))
    np.save("five.npy", np.zeros(5, int))
    assert run(capsys, "score", "wide.npy", "five.npy", "--resume", "wide.state")[0] == 0
    assert run(capsys, "score", "x.npy", "y.npy", "--bins", 3, "--resume", "bins.state")[0] == 0
    for path, what in (("wide.state", "11 classes"), ("bins.state", "bins=3"), ("absent.state", "absent.state")):
        code, out, err = run(capsys, "merge", "0.state", "1.state", path, "--output", "all.state")
        assert (code, out) == (2, "")
        assert path in err
        assert what in err
        assert not os.path.exists("all.state")


def test_an_unfinished_part_is_taken_only_when_asked_for(capsys):
    with pytest.raises(Stop):
        score_files(Job("x.npy", "y.npy"), tell=stop_after(3), state=StateFile("s.state"))
    code, _, err = run(capsys, "merge", "s.state")
    assert code == 2
    assert "s.state: a run that is not finished, 3,000 rows so far" in err
    code, out, _ = run(capsys, "merge", "s.state", "--unfinished", "--json", "-")
    assert code == 0
    assert json.loads(out) == as_json(score(X[:3000], Y[:3000]))


# ---- rows covered, in Python -----------------------------------------------------------------------------------------


def test_rows_of_different_sources_are_different_rows():
    one = Scorer().update(X[:10], Y[:10], start=0, source="a").update(X[10:20], Y[10:20], start=0, source="b")
    other = Scorer().update(X[20:30], Y[20:30], start=0).update(X[30:40], Y[30:40], start=10, source="a")
    one.merge(other)
    assert one.sources == {"a": ((0, 20),), "b": ((0, 10),)}
    assert one.rows == ((0, 10),)
    want = score(X[:40], Y[:40], worst=0).to_dict()
    got = one.result().to_dict()
    assert {**got, "worst": [], "options": want["options"]} == want
    with pytest.raises(ValueError, match="other: rows 0 to 9 are covered already"):
        one.merge(Scorer().update(X[:20], Y[:20], start=0, source="b"))
    with pytest.raises(TypeError, match="source: "):
        one.update(X[:1], Y[:1], source="c")
    with pytest.raises(TypeError, match="source: "):
        one.update(X[:1], Y[:1], start=0, source=3)


def test_rows_covered_are_kept_as_few_ranges_whatever_the_order():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cuts = np.unique(rng.integers(0, 60, 12))
        parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
        scorer, seen = Scorer(), set()
        for part in rng.permutation(len(parts)):
            where = parts[part]
            scorer.merge(Scorer().update(X[where], Y[where], start=where.start))
            seen |= set(range(where.start, where.stop))
            assert {i for low, high in scorer.rows for i in range(low, high)} == seen
            assert all(a[1] < b[0] for a, b in zip(scorer.rows, scorer.rows[1:]))
            low = int(rng.integers(0, 60))
            taken = seen & set(range(low, low + 3))
            if taken:
                text = f"rows {min(taken)} to "
                with pytest.raises(ValueError, match=text):
                    scorer.update(X[:3], Y[:3], start=low)
        assert scorer.rows == ((int(cuts[0]), int(cuts[-1])),)
