"""Memory: nothing is read or written outside of arrays, after they are freed, or before somebody wrote it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="guard pages as Linux has them")


def guarded(tmp_path, *options, **environment):
    """What guarded_suite.py says in a process of its own: whatever touches a guard page ends it."""
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GUARDED_LOG": str(log)} | environment
    command = [sys.executable, str(ROOT / "tests" / "guarded_suite.py"), *options]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{log.read_text().strip()}\n{done.stderr[:3000]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["alarms"] == found["tried"] == 5  # the harness sees what it is there for
    (calls, digest), other = found["results"].values()
    assert [calls, digest] == other  # nothing depends on what fresh memory holds, or on where an array begins
    assert calls > 1000
    return found


def test_nothing_outside_of_its_arrays_is_touched(tmp_path):
    guarded(tmp_path, "small", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_nothing_outside_of_its_arrays_is_touched_in_any_dtype(tmp_path, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    guarded(tmp_path, "small", dtype)


# ---- how much --------------------------------------------------------------------------------------------------------


def memory(what):
    """A figure of this process's memory in bytes, by its name in /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what + ":"))
    return 1024 * int(line.split()[1])


def peak(call):
    """How far memory rises above what is in use, in bytes, while a call runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory("VmRSS")
    result = call()
    return memory("VmHWM") - before, result


def test_a_call_takes_little_memory_besides_its_inputs_and_outputs():
    """Inputs of 400 MB and more, which are one row again and again and so take nothing: what is left is the calls'."""
    row = np.linspace(0, 1, 100).astype("f4")
    p = row / row.sum()

    def calls(n):
        def many(x):
            return np.broadcast_to(x, (n, *np.shape(x)))

        yield "cross_entropy", lambda: fastxent.cross_entropy(many(row), many(3))
        yield "other bytes first", lambda: fastxent.cross_entropy(many(row.astype(">f4")), many(np.int8(3)))
        yield "integers", lambda: fastxent.cross_entropy(many(np.arange(100, dtype="i1")), many(3))
        yield "soft", lambda: fastxent.cross_entropy(many(row), many(p))
        yield "weights", lambda: fastxent.cross_entropy(many(row), many(3), sample_weight=many(0.5))
        yield "entropy", lambda: fastxent.entropy(many(p))
        yield "kl_divergence", lambda: fastxent.kl_divergence(many(p), many(p))
        yield "score", lambda: fastxent.score(many(row), many(3))
        yield "score, weights", lambda: fastxent.score(many(row), many(np.int8(3)), sample_weight=many(np.float32(0.5)))

    assert peak(lambda: np.ones(8_000_000).sum())[0] > 50e6  # what it is there for is seen
    for _, call in calls(1 << 16):  # which compiles, and starts threads
        call()
    most = {name: peak(call)[0] for name, call in calls(1_000_000)}
    print({name: f"{size / 1e6:.1f} MB" for name, size in most.items()})
    assert max(most.values()) < 64e6, most
    z, y, out = np.tile(row, (100_000, 1)), np.full(100_000, 3), np.zeros((100_000, 100), "f4")
    out[:] = 1  # its pages are there
    in_place = {
        "gradient": lambda n: fastxent.cross_entropy_value_and_grad(z[:n], y[:n], out=z[:n]),
        "softmax": lambda n: fastxent.softmax(z[:n], out=out[:n]),
    }
    for call in in_place.values():
        call(1 << 14)
    most = {name: peak(lambda call=call: call(100_000))[0] for name, call in in_place.items()}
    assert max(most.values()) < 16e6, most
