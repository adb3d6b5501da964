"""Files larger than the memory allowed are scored, with the figures that they must have."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

C = 1000
MEMORY = 300e6  # bytes

PROGRAM = """
import pathlib, sys
from fastxent.cli.main import main
code = main(["score", *sys.argv[1:], "--json", "-"])
status = pathlib.Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)  # what getrusage tells would count the parent's memory too
sys.exit(code)
"""


def sparse(name, shape, dtype):
    """An .npy of zeros that takes no room on the disk."""
    with open(name, "wb") as file:
        facts = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype)) | {"shape": shape}
        np.lib.format.write_array_header_1_0(file, facts)
        file.truncate(file.tell() + math.prod(shape) * np.dtype(dtype).itemsize)


def score(*files):
    """(figures, most bytes of memory) of the command in a process of its own."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is told by /proc")
    done = subprocess.run([sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, check=True)
    return json.loads(done.stdout), 1024 * int(done.stderr)


@pytest.mark.parametrize("gigabytes", [0.5, pytest.param(20, marks=pytest.mark.slow)])
def test_logits_of_any_size_under_300_mb(gigabytes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (("small", 40_000), ("large", int(gigabytes * 1e9 / 4 / C))):
        sparse(f"{name}.npy", (rows, C), "f4")
        sparse(f"{name}_labels.npy", (rows,), "i4")
    score("small.npy", "small_labels.npy")  # compiles what is not in the cache yet, which takes memory of its own
    figures, most = score("large.npy", "large_labels.npy")
    assert figures["n"] == rows
    assert figures["nll"] == pytest.approx(math.log(C), rel=2**-21)
    print(f"{gigabytes} GB: {most / 1e6:.0f} MB")
    assert most < MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("form", ["arrow", "csv", "h5", "safetensors"])
def test_other_formats_under_300_mb(form, tmp_path):
    """Files of twice that as arrays (of text less: it takes a minute to write) in pieces of 16 MB."""
    for module in ("h5py", "pyarrow", "safetensors"):
        pytest.importorskip(module)
    write = runpy.run_path(str(Path(__file__).parent.parent / "ci" / "file_speeds.py"))["write"]
    path, rows = tmp_path / f"x.{form}", 40_000 if form == "csv" else 150_000
    write(path, rows, C)
    score(str(path))  # compiles
    figures, most = score(str(path))
    assert figures["n"] == rows
    print(f"{form}: {most / 1e6:.0f} MB")
    assert most < MEMORY
