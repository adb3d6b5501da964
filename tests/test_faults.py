"""Full disks, killed processes, clocks that jump, locales without letters: nothing is lost, nothing half-written."""

import contextlib
import errno
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
from fastxent.jobs.resume import StateFile
from fastxent.jobs.score import Job, score_files

resource = pytest.importorskip("resource")  # POSIX

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(11)
N, C = 4000, 5
X = RNG.normal(size=(N, C))
Y = (X + RNG.gumbel(size=(N, C))).argmax(1)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BLOCK_BYTES", 20_000)
    np.save("x.npy", X)
    np.save("y.npy", Y)


@contextlib.contextmanager
def full_disk(room=100):
    """A disk on which a file may have so many bytes. Python leaves the signal of it ignored."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names():
    return {path.name for path in Path().iterdir()}


WRITING = {
    "score x.npy y.npy --json out.json": "out.json",
    "score x.npy y.npy --resume out.state": "out.state",
    "score x.npy y.npy --report out.html": "out.html",
    "calibrate x.npy y.npy --save out.json": "out.json",
    "merge one.state --output out.state": "out.state",
}


@pytest.mark.parametrize("command", WRITING)
def test_what_a_full_disk_cannot_hold_leaves_the_old_file_and_no_other(command, capsys):
    if "--report" in command:
        pytest.importorskip("jinja2")
        pytest.importorskip("matplotlib")
    out = WRITING[command]
    Scorer().update(X, Y).save("one.state")
    assert main(command.split()) == 0  # what it compiles goes to that disk too
    assert os.path.getsize(out) > 100
    os.remove(out)
    capsys.readouterr()
    for old in (None, b"the old one"):
        if old is not None and "--resume" not in command:
            Path(out).write_bytes(old)
        before = names()
        with full_disk():
            assert main(command.split()) == 2
        assert capsys.readouterr().err == f"fastxent: error: {out}: file too large\n"
        assert names() == before
        assert out not in before or Path(out).read_bytes() == old


def test_what_cannot_be_flushed_is_not_there(monkeypatch):
    """Disks that tell late that they are full, or in the last step."""
    card = Scorer().update(X, Y)
    for step in ("fsync", "replace"):

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        card.save("a.state")
        before = Path("a.state").read_bytes(), names()
        other = Scorer().update(X[:9], Y[:9])
        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(OSError, match="No space left on device: 'a.state'"):
                other.save("a.state")
        assert (Path("a.state").read_bytes(), names()) == before


def test_a_disk_that_fills_amid_a_run_costs_no_scored_row():
    job, rows = Job("x.npy", "y.npy"), []

    def tell(what, fraction, n, n_bytes):
        rows.append(n)
        if len(rows) == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))

    with full_disk(1 << 30), pytest.raises(OSError, match="s.state"):
        score_files(job, tell=tell, state=StateFile("s.state", 0))
    ((kept,),) = Scorer.load("s.state").sources.values()
    assert kept[0] == 0
    assert 0 < kept[1] < N
    assert names() == {"x.npy", "y.npy", "s.state"}
    again = []
    scorer = score_files(job, tell=lambda *told: again.append(told[2]), state=StateFile("s.state", 0))
    assert again[-1] == N - kept[1]
    assert scorer.result() == score(X, Y)


def test_a_full_disk_for_what_is_unpacked_is_told():
    np.savez_compressed("x.npz", predictions=np.asfortranarray(X), target=Y)
    with (
        full_disk(),
        pytest.raises(ValueError, match=r"x\.npz\[predictions\]: cannot be unpacked into .*: File too large"),
    ):
        score_files(Job("x.npz"))


def test_a_clock_that_jumps_changes_nothing(monkeypatch):
    """Neither the time of day nor files that are younger than it matter to a run and its state."""
    clock = iter(np.random.default_rng(2).uniform(-1e9, 4e9, 100_000).tolist())
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * next(clock)))
    for name, when in (("x.npy", 4_000_000_000), ("y.npy", 1)):
        os.utime(name, (when, when))
    assert score_files(Job("x.npy", "y.npy"), state=StateFile("s.state", 0)).result() == score(X, Y)
    assert score_files(Job("x.npy", "y.npy"), state=StateFile("s.state", 0)).result() == score(X, Y)


CHILD = "import sys; from fastxent.cli.main import main; sys.exit(main())"
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def child(*arguments, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", CHILD, *arguments], env=env, capture_output=True, timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
@pytest.mark.slow
def test_any_locale_and_any_file_name(capsys):
    """ASCII alone for text, and a name that is no text in any encoding."""
    name = os.fsdecode(b"na\xc3\xafve \xff.npy")
    os.rename("x.npy", name)
    os.rename("y.npy", "y\u00e9.npy")
    assert main(["score", name, "y\u00e9.npy", "--json", "here.json", "--resume", "é.state"]) == 0
    assert main(["score", name, "absent"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    done = child("score", os.fsencode(name), os.fsencode("y\u00e9.npy"), "--json", "bare.json", **BARE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"4,000" in done.stdout
    assert json.loads(Path("bare.json").read_bytes()) == json.loads(Path("here.json").read_bytes())


@pytest.mark.slow
def test_bad_files_are_told_in_any_locale():
    for name in (b"absent \xff.npy", "fehlt-é.csv".encode()):
        done = child("score", name, b"y.npy", **BARE)
        assert done.returncode == 2
        assert done.stdout == b""
        assert done.stderr.isascii()
        assert done.stderr.startswith(b"fastxent: error: ")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent():
    pytest.importorskip("distributed")
    psutil = pytest.importorskip("psutil")
    from test_cluster import busy, endless

    endless()
    command = [sys.executable, "-c", CHILD, "score", "x.npy", "y.npy", "--workers", "2", "--json", "never.json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        family, deadline = [], time.monotonic() + 240
        while not any(busy(child) for child in family) and time.monotonic() < deadline:
            time.sleep(0.2)
            family = psutil.Process(process.pid).children(recursive=True)
        assert any(busy(child) for child in family)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    _, left = psutil.wait_procs(family, timeout=60)
    for one in left:
        one.kill()
    assert left == []
    assert not os.path.exists("never.json")


@pytest.mark.slow
def test_a_real_disk_that_is_full(tmp_path, capsys):
    """A small file system of its own, where one may be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a file system")
    try:
        (small / "filler").write_bytes(b"x" * (12 << 10))
        for option in ("--json", "--resume"):
            assert main(["score", "x.npy", "y.npy", option, str(small / "out"), "--worst", "1000"]) == 2
            assert "no space left on device" in capsys.readouterr().err
            left = {path.name for path in small.iterdir()}
            assert left == {"filler", *(["out"] if option == "--resume" else [])}
        assert Scorer.load(small / "out").about["finished"] is False  # what it began with
    finally:
        subprocess.run(["umount", str(small)], check=True)
