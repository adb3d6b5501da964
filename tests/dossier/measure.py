"""The command: bash ci/accuracy.sh [--quick] [--folder F] [--workers N] [NAME...]."""

import argparse
import concurrent.futures
import multiprocessing
import os
import time
from pathlib import Path

from dossier import elementary, one_number, sweep
from dossier.peers import LIBRARIES
from dossier.record import Journal

CASES = elementary.CASES | one_number.CASES
SAMPLES = {True: 1 << 18, False: 100_000_000}  # by --quick


def work(key, piece):
    """One piece, in a process of its own."""
    return sweep.run(CASES[key], piece, LIBRARIES)


def main():
    parser = argparse.ArgumentParser(prog="ci/accuracy.sh", description="Measure the errors of every function.")
    parser.add_argument("--quick", action="store_true", help="a minute: samples alone")
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy"), help="where results go")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("names", nargs="*", help="parts of the names of what to measure")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.folder / ("quick.jsonl" if options.quick else "journal.jsonl"))
    cases = [c for c in CASES.values() if not options.names or any(name in c.key for name in options.names)]
    plan = {c.key: sweep.pieces(c, SAMPLES[options.quick], whole(c) and not options.quick) for c in cases}
    left = [(key, piece) for key, pieces in plan.items() for piece in pieces if (key, piece) not in journal.done]
    begun = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, key, piece): (key, piece) for key, piece in left}
        for i, done in enumerate(concurrent.futures.as_completed(running), 1):
            key, piece = running[done]
            journal.add(key, piece, done.result())
            ours = journal.total(key, plan[key])["fastxent"]
            print(
                f"{i} of {len(left)} pieces, {time.monotonic() - begun:.0f} s: {key}: {ours.inputs:,} inputs, "
                f"worst {ours.ulp:.4f} ulp at {ours.ulp_at}",
                flush=True,
            )


def whole(case):
    """Few enough numbers to try them all."""
    return sweep.size_of(case) <= 1 << 32 and not case.sampled
