"""Calibrate a .npy file that is larger than what is kept of it, and print passes, seconds and memory.

    python ci/out_of_core_calibration.py [ROWS [CLASSES [FOLDER]]]

A million rows of 1000 classes, 4 GB, unless told otherwise; the files are removed at the end.
"""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BLOCK_ROWS = 4096
TEMPERATURE = 1.7  # of the logits that are made


def make(folder, n_rows, n_classes):
    """Logits that are calibrated when divided by TEMPERATURE, and labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float32, (n_rows, n_classes))
    labels = np.empty(n_rows, np.int64)
    for start in range(0, n_rows, BLOCK_ROWS):
        block = logits[start : start + BLOCK_ROWS]
        z = rng.standard_normal(block.shape, np.float32) * 2
        e = np.exp(z)
        drawn = (e.cumsum(-1) < rng.random((len(block), 1)) * e.sum(-1, keepdims=True)).sum(-1)
        block[:], labels[start : start + BLOCK_ROWS] = TEMPERATURE * z, np.minimum(drawn, n_classes - 1)
    logits.flush()
    np.save(folder / "labels.npy", labels)


def measure(folder):
    """(figures, seconds of the process and of the command in it, MB at most) of a calibration."""
    command = [sys.executable, "-W", "ignore", "-m", "fastxent", "calibrate", "logits.npy", "labels.npy"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--json", "found.json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - begin
    if status:
        raise RuntimeError(told)
    peak_mb = usage.ru_maxrss / 1024
    within_s = float(re.search(r"([\d.]+) s,", told)[1])
    return json.loads((folder / "found.json").read_text()), elapsed_s, within_s, peak_mb


def main(n_rows=1_000_000, n_classes=1000, folder=None):
    """Make, measure, print."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        # Elsewhere: a process begins with the most that the one which starts it ever had.
        maker = multiprocessing.get_context("spawn").Process(
            target=make, args=(Path(name), int(n_rows), int(n_classes))
        )
        maker.start()
        maker.join()
        size_gb = (Path(name) / "logits.npy").stat().st_size / 1e9
        found, elapsed_s, within_s, peak_mb = measure(Path(name))
    passes = found["passes"]
    print(f"{int(n_rows):,} rows of {int(n_classes):,} float32 classes, {size_gb:.2f} GB in a .npy")
    print(
        f"temperature {found['temperature']:.6f}, standard error {found['standard_error']:.2g}; made with {TEMPERATURE}"
    )
    print(f"{passes} passes to fit and 1 to score; {within_s:.1f} s, {elapsed_s:.1f} s with the process")
    print(f"{peak_mb:,.0f} MB of memory at most; {(passes + 1) * size_gb / within_s:.2f} GB/s")
    return 0 if passes <= 8 and abs(found["temperature"] - TEMPERATURE) < 5 * found["standard_error"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
