"""Ctrl-C: answered soon, and what it meets is whole: score cards, kernels amid their compilation."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastxent
from fastxent.interrupts import interrupts_held

ROOT = Path(__file__).parent.parent
PACKAGE = str(ROOT / "fastxent")


def interrupted_at(step, call):
    """Run a call, with Ctrl-C before its step-th line of fastxent's code. Whether it has so many lines."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            seen += 1
            if seen == step:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen >= step


def rows(n, c, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, c)).astype(np.float32), rng.integers(0, c, n)


def changes():
    """{name: (a filled score card, a change of it)}."""
    x, y = rows(50, 3, 0)
    many, labels = rows(20_000, 3, 1)  # on several threads
    wide, named = rows(30, 300, 2)  # whose pairs are listed
    by, weights = y % 4, np.linspace(0, 1, 50)
    filled = fastxent.Scorer().update(x, y, start=0)
    groups = fastxent.Scorer().update(x, y, start=0, by=by)
    other = fastxent.Scorer().update(x, y, start=100, sample_weight=weights)
    other_groups = fastxent.Scorer().update(x, y, start=100, by=by + 1)
    compared = fastxent.Comparer().update(x, 2 * x, y, by=by, cluster=y)
    other_comparison = fastxent.Comparer().update(x, 2 * x, y, by=by + 1, cluster=-y)
    return {
        "few rows": (filled, lambda s: s.update(x, y, start=50)),
        "many rows": (filled, lambda s: s.update(many, labels, start=50)),
        "the first rows": (fastxent.Scorer(), lambda s: s.update(wide, named)),
        "weights": (filled, lambda s: s.update(x, y, start=50, sample_weight=weights)),
        "groups": (groups, lambda s: s.update(x, y, start=50, by=by + 2)),
        "merge": (filled, lambda s: s.merge(other)),
        "merge of groups": (groups, lambda s: s.merge(other_groups)),
        "compare": (compared, lambda s: s.update(x, 2 * x, y, by=by + 2, cluster=y)),
        "compare many rows": (compared, lambda s: s.update(many, 2 * many, labels, by=labels, cluster=labels)),
        "merge of comparisons": (compared, lambda s: s.merge(other_comparison)),
    }


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handler")
@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(changes()))
def test_an_interrupted_score_card_is_as_before_or_as_after(name, every):
    """Interrupted before any of the change's lines; then the state says which rows it has, and no row counts twice."""
    card, change = changes()[name]
    before = pickle.dumps(card)
    after = pickle.dumps(change(pickle.loads(before)))
    found, step = set(), 1
    while True:
        one = pickle.loads(before)
        if not interrupted_at(step, lambda one=one: change(one)):
            break
        state = pickle.dumps(one)
        assert state in (before, after), f"interrupted at line {step}"
        found.add(state == after)
        assert pickle.dumps(one if state == after else change(one)) == after
        step += every
    assert found == {False, True}  # the interrupts met both


@pytest.mark.usefixtures("default_handler")
def test_what_is_held_is_answered_at_the_end_or_when_asked():
    steps = []

    def held(asked):
        with interrupts_held() as answer:
            answer()
            signal.raise_signal(signal.SIGINT)
            if asked:
                answer()
            steps.append("held")

    for asked in (False, True):
        with pytest.raises(KeyboardInterrupt):
            held(asked)
    assert steps == ["held"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Calls that take hours: rows that are one and the same row in memory, so that they take no room.
LONG = """
import faulthandler, signal, time, numpy as np, fastxent
faulthandler.dump_traceback_later(1000, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
def many(row):
    return np.broadcast_to(row, (n, *np.shape(row)))
z = np.random.default_rng(0).standard_normal(50).astype("f4")
p = np.full(50, 0.02, "f4")
wild = np.where(z > 0, 1e8, -1e8).astype("f4")
calls = {
    "cross_entropy": lambda: fastxent.cross_entropy(many(z), many(3)),
    "cross_entropy, of two numbers": lambda: fastxent.cross_entropy(many(z[:2]), many(np.int8(1))),
    "cross_entropy, wild": lambda: fastxent.cross_entropy(many(wild), many(3)),
    "cross_entropy, T": lambda: fastxent.cross_entropy(many(z.astype("f2")), many(3), temperature=1e-3),
    "cross_entropy, soft": lambda: fastxent.cross_entropy(many(z), many(p), label_smoothing=0.1),
    "nll": lambda: fastxent.nll(many(np.log(p)), many(3)),
    "log_loss": lambda: fastxent.log_loss(many(p), many(3)),
    "binary": lambda: fastxent.binary_cross_entropy(many(np.float32(2.0)), many(np.float32(0.5))),
    "entropy": lambda: fastxent.entropy(many(p)),
    "kl_divergence": lambda: fastxent.kl_divergence(many(p), many(p)),
    "score": lambda: fastxent.score(many(z), many(3)),
    "score, soft": lambda: fastxent.score(many(p), many(p), kind="probs"),
    "score, of two numbers": lambda: fastxent.score(many(z[:2]), many(np.int8(1))),
}
for name, call in calls.items():
    n = 1 << 16
    call()  # which compiles
    n = 10**9
    try:
        print(name, flush=True)
        call()
    except KeyboardInterrupt:
        print(time.time(), flush=True)
"""


@pytest.mark.slow
def test_long_calls_answer_within_a_second():
    late = {}
    with subprocess.Popen([sys.executable, "-c", LONG], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            time.sleep(0.7)
            sent = time.time()
            process.send_signal(signal.SIGINT)
            late[line.strip()] = float(process.stdout.readline()) - sent
    assert process.returncode == 0
    assert len(late) == 13
    print({name: round(seconds, 3) for name, seconds in late.items()})
    assert max(late.values()) < 1.0, late


# A call that compiles, interrupted after some while, then again and again until it is left alone.
COMPILING = """
import os, signal, sys, threading, time
import numpy as np  # NumPy itself cannot be imported again after it was interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(after_s):
    time.sleep(after_s)
    os.kill(os.getpid(), signal.SIGINT)
met = 0
for k in range(int(sys.argv[2])):
    thread = threading.Thread(target=interrupt, args=(float(sys.argv[1]) * (k + 1),))
    thread.start()
    try:
        import fastxent
        fastxent.cross_entropy(np.zeros((1000, 10), np.float32), np.zeros(1000, np.int64))
        fastxent.score(np.zeros((10, 100), np.float32), np.zeros(10, np.int64))
        thread.join()
    except KeyboardInterrupt:
        met += 1
print(met, fastxent.cross_entropy(np.zeros((1000, 10), np.float32), np.zeros(1000, np.int64)),
      fastxent.score(np.zeros((10, 100), np.float32), np.zeros(10, np.int64)).nll)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.05, 0.31, 0.87])
def test_an_interrupted_compilation_can_be_done_again(tmp_path, after_s):
    environment = os.environ | {"FASTXENT_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMPILING, str(after_s), "12"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    met, *results = done.stdout.split()
    assert int(met) >= 3
    assert [float(x) for x in results] == pytest.approx([np.log(10), np.log(100)], rel=1e-6)
    assert not list(tmp_path.rglob("*.tmp"))
