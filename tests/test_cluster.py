"""fastxent score --scheduler and --workers: real processes give the bytes and the errors of one, and end with it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fastxent import Scorer
from fastxent.cli.main import main
from fastxent.files import base
from fastxent.files.scan import Wanted
from fastxent.jobs.cluster import score_on_cluster
from fastxent.jobs.resume import StateFile, covered_of
from fastxent.jobs.score import Job, score_files
from fastxent.threads import _numba_started

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")
distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

N, C = 3000, 7
RNG = np.random.default_rng(8)
X = (3 * RNG.normal(size=(N, C))).astype(np.float32)
Y = RNG.integers(0, C, N)
W = RNG.random(N)
ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


@contextmanager
def cluster(folder):
    """A scheduler and two workers of one thread each, as one starts them on machines of a cluster: address, process."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-W", "ignore", "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    start = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    join = [*dask, "worker", "--scheduler-file", str(file), "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    join += ["--memory-limit", "0", "--local-directory", str(folder)]
    with (
        subprocess.Popen(start, env=ENVIRONMENT, **quiet) as first,
        subprocess.Popen(join, env=ENVIRONMENT | {"NUMBA_NUM_THREADS": "2"}, **quiet) as second,
    ):
        try:
            deadline = time.monotonic() + 120
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            address = json.loads(file.read_text())["address"]
            with distributed.Client(address, timeout=60) as client:
                client.wait_for_workers(2, timeout=60)
            yield address, first
        finally:
            second.kill() if first.poll() is not None else second.terminate()  # without a scheduler it would try on
            second.wait(timeout=60)
            first.terminate()
            first.wait(timeout=60)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a cluster's scheduler."""
    with cluster(tmp_path_factory.mktemp("cluster")) as (address, _):
        yield address


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastxent.jobs.cluster.PART_BYTES", 4 * C * N // 16)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def tables():
    np.save("xt.npy", X.T.copy())
    np.savez_compressed("all.npz", predictions=X, target=Y)
    logits = {f"logit_{k}": X[:, k] for k in range(C)}
    table = pa.table({"y": Y, "w": W, "id": 9 * np.arange(N), **logits, "group": [f"g{i % 11}" for i in range(N)]})
    pq.write_table(table, "t.parquet", row_group_size=700)
    arrow_csv.write_csv(table, "t.csv")


@pytest.mark.parametrize(
    "command",
    [
        "x.npy y.npy",
        "x.npy y.npy --ignore-index 3 --temperature 1.5 --top-k 1,2 --worst 4 --first-row 1000",
        "xt.npy y.npy --axis 0",
        "all.npz",
        "t.parquet --columns logit_* --target-column y --weight-column w --id-column id",
        "t.csv --columns logit_* --target-column y",
        "t.parquet --columns logit_* --target-column y --by group",
        "x.npy t.parquet --target-column y",
    ],
)
def test_workers_give_the_bytes_of_one_process(capsys, scheduler, command):
    tables()
    command = ["score", *command.split(), "--json", "-"]
    code, out, err = run(capsys, *command, "--scheduler", scheduler)
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] + json.loads(out)["ignored"] == N
    assert out == run(capsys, *command)[1]


def test_errors_are_those_of_one_process(capsys, scheduler):
    nan = X.copy()
    nan[[2100, 2900], 3] = np.nan
    np.save("nan.npy", nan)
    np.save("far.npy", np.where(np.arange(N) >= 1234, 99, Y))
    Path("long.csv").write_text("\n".join(["target", *map(str, Y), "0", ""]))
    commands = ["nan.npy y.npy", "x.npy far.npy", "x.npy y.npy --kind probs", "absent.npy y.npy", "x.npy"]
    for command in (*commands, "x.npy long.csv"):
        here = run(capsys, "score", *command.split())
        code, out, err = run(capsys, "score", *command.split(), "--scheduler", scheduler)
        assert (code, out) == (2, "")
        assert err.replace(f"{os.getcwd()}/", "") == here[2]
        assert err.count("\n") == 1
    assert "row 1234 is 99" in run(capsys, "score", "x.npy", "far.npy", "--scheduler", scheduler)[2]
    assert "row 2100 has a NaN" in run(capsys, "score", "nan.npy", "y.npy", "--scheduler", scheduler)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 0", "--workers: 0 is below 1"),
        ("--workers 2 --scheduler tcp://127.0.0.1:1", "--workers: starts a cluster"),
        ("--scheduler nonsense://here", "--scheduler: nonsense://here: "),
    ],
)
def test_bad_options_are_one_line(capsys, options, message):
    code, out, err = run(capsys, "score", "x.npy", "y.npy", *options.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"fastxent: error: {message}")
    assert err.count("\n") == 1


def test_progress_is_told_and_workers_share_the_cores(scheduler, monkeypatch):
    """Enough rows for the parallel path, which starts Numba's threads: two workers of two cores have one each."""
    monkeypatch.setattr("fastxent.jobs.cluster.PART_BYTES", 10 * X.nbytes)
    np.save("x.npy", np.tile(X, (200, 1)))
    np.save("y.npy", np.tile(Y, 200))
    told = []
    part = score_on_cluster(Job("x.npy", "y.npy"), scheduler=scheduler, tell=lambda *progress: told.append(progress))
    assert (part.rows, part.n_bytes, part.scorer.rows) == (200 * N, 200 * X.nbytes, ((0, 200 * N),))
    fractions = [fraction for what, fraction, *_ in told if what == "scoring"]
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)
    with distributed.Client(scheduler) as client:
        assert set(client.run(_numba_started).values()) == {False}


class Stop(Exception):
    """What ends a run here."""


class Stopping(StateFile):
    """A state that is written after every piece, and stops the run after some."""

    def __init__(self, path, pieces):
        super().__init__(path, 0)
        self.left = pieces

    def save_if_due(self, scorer):
        super().save_if_due(scorer)
        self.left -= 1
        if not self.left:
            raise Stop


@pytest.mark.parametrize(("files", "first_row"), [("x.npy y.npy", None), ("x.npy y.npy", 7000), ("t.parquet", None)])
def test_workers_and_one_process_take_up_each_others_states(scheduler, monkeypatch, files, first_row):
    """A run that is stopped again and again, here and on the workers by turns, scores every row once."""
    tables()
    wanted = Wanted("logit_*", "y", "w", "id") if files == "t.parquet" else Wanted()
    predictions, _, target = files.partition(" ")
    job = Job(predictions, target or None, wanted, first_row=first_row)
    whole, first, covered = score_files(job).result(), first_row or 0, [0]
    monkeypatch.setattr("fastxent.jobs.cluster.KEPT_PART_BYTES", 4 * C * N // 16)
    monkeypatch.setattr(base, "BLOCK_BYTES", 4 * C * 200)
    for k in range(4):
        way = score_files if k % 2 else partial(score_on_cluster, scheduler=scheduler)
        with pytest.raises(Stop):
            way(job, state=Stopping("s.state", 2))
        covered.append(sum(high - low for low, high in covered_of(Scorer.load("s.state"))))
    assert sorted(set(covered)) == covered
    assert covered[-1] < N
    part = score_on_cluster(job, scheduler=scheduler, state=StateFile("s.state"))
    assert part.rows == N - covered[-1]
    assert part.scorer.result() == whole
    assert covered_of(Scorer.load("s.state")) == ((first, first + N),)
    assert score_on_cluster(job, scheduler=scheduler, state=StateFile("s.state")).rows == 0  # it is finished
    assert score_files(job, state=StateFile("s.state")).result() == whole


def test_a_state_of_other_files_or_of_no_known_rows_is_refused_before_workers_start(capsys):
    tables()
    common = ["score", "t.csv", "--columns", "logit_*", "--target-column", "y", "--resume", "s.state"]
    assert run(capsys, *common)[0] == 0
    for command, what in (
        (common, "--resume: t.csv: how many rows it has is known at its end alone"),
        (["score", "x.npy", "y.npy", "--resume", "s.state"], "--resume: s.state was made with columns"),
    ):
        code, out, err = run(capsys, *command, "--workers", 2)
        assert (code, out) == (2, "")
        assert err.startswith(f"fastxent: error: {what}")
        assert err.count("\n") == 1


class Killer(distributed.WorkerPlugin):
    """Kills the first worker that begins the part in the middle."""

    def __init__(self, marker):
        self.marker = marker

    def setup(self, worker):
        self.worker = worker

    def transition(self, key, start, finish, **_):
        if finish == "executing" and str(key).endswith("-part-7") and not os.path.exists(self.marker):
            with open(self.marker, "w"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(capsys, scheduler, folder):
    marker = folder / "killed"
    with distributed.Client(scheduler) as client:
        client.register_plugin(Killer(str(marker)), name="killer")
        code, out, _ = run(capsys, "score", "x.npy", "y.npy", "--json", "-", "--scheduler", scheduler)
        client.unregister_worker_plugin("killer")
    assert code == 0
    assert marker.exists()
    assert out == run(capsys, "score", "x.npy", "y.npy", "--json", "-")[1]


def test_a_cluster_of_our_own_ends_with_the_command(capsys):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    code, out, err = run(capsys, "score", "x.npy", "y.npy", "--json", "-", "--workers", 2)
    assert (code, err) == (0, "")
    assert out == run(capsys, "score", "x.npy", "y.npy", "--json", "-")[1]
    new = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [child for child in new if "resource_tracker" not in " ".join(child.cmdline())] == []


def endless(rows=1 << 30):
    """Files of zeros that take minutes to read, and no space."""
    for name, shape, dtype in (("x.npy", (rows, 100), np.dtype("f4")), ("y.npy", (rows,), np.dtype("i1"))):
        with open(name, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + dtype.itemsize * int(np.prod(shape)))


def test_ctrl_c_ends_the_cluster_and_exits_with_130(folder):
    endless()
    command = [
        sys.executable,
        "-m",
        "fastxent",
        "score",
        "x.npy",
        "y.npy",
        "--workers",
        "2",
        "--json",
        "never.json",
    ]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    family, deadline = [], time.monotonic() + 120
    while not any(busy(child) for child in family) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "fastxent: interrupted: nothing was written\n"
    _, left = psutil.wait_procs(family, timeout=20)
    assert left == []
    assert not os.path.exists("never.json")


@pytest.mark.slow
def test_a_scheduler_that_dies_is_told_of_in_one_line(folder, monkeypatch, capsys):
    endless()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    went_away = pytest.raises(OSError, match="--scheduler: tcp://.*: went away before the rows were scored")
    with cluster(folder) as (address, process), went_away:
        score_on_cluster(Job("x.npy", "y.npy"), scheduler=address, tell=killing(process))
    assert capsys.readouterr() == ("", "")


def killing(process):
    """Progress that kills a process once rows are being scored."""

    def tell(doing, fraction, rows, n_bytes):
        if rows:
            process.kill()

    return tell


def busy(process):
    """Whether a worker is at its rows."""
    try:
        return process.cpu_times().user > 2
    except psutil.Error:
        return False
