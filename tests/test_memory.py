"""Memory: nothing is read or written outside of arrays, after they are freed, or before somebody wrote it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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
