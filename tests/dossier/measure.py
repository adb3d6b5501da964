"""The command: bash ci/accuracy.sh [--quick] [--folder F] [--workers N] [--tries N] [--record] [NAME...]."""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

from dossier import climb, elementary, one_number, sweep
from dossier.losses import SEARCHES
from dossier.peers import LIBRARIES
from dossier.record import RECORD, Journal, as_record, fuller, long_table

CASES = elementary.CASES | one_number.CASES
CLIMBS = {f"{s.name} {np.dtype(d).name}": (s, d) for s in SEARCHES.values() for d in (np.float32, np.float64)}
SAMPLES = {True: 1 << 18, False: 100_000_000}  # by --quick
TRIES = {True: 1024, False: 200_000}


def whole(case):
    """Few enough numbers to try them all."""
    return sweep.size_of(case) <= 1 << 32 and not case.sampled


def pieces_of(key, quick, tries):
    """What is done for a case or a search."""
    if key in CASES:
        return sweep.pieces(CASES[key], SAMPLES[quick], whole(CASES[key]) and not quick)
    search, _ = CLIMBS[key]
    return [("climb", c, max(tries * 100 // max(c, 100), climb.CLIMBERS)) for c in search.classes]


def work(key, piece):
    """One piece, in a process of its own."""
    if key in CASES:
        return sweep.run(CASES[key], piece, LIBRARIES)
    _, c, tries = piece
    return climb.climb(*CLIMBS[key], c, tries, seed=c, libraries=LIBRARIES)


def rechecked(key, worst):
    """What fastxent's worst inputs give against mpmath: {"ulp": ..., "relative": ...}."""
    if key in CASES:
        return {kind: error for kind, (error, _) in sweep.recheck(CASES[key], worst).items()}
    return {
        kind: climb.recheck(*CLIMBS[key], at)[kind == "relative"]
        for kind, at in (("ulp", worst.ulp_at), ("relative", worst.relative_at))
    }


def facts_of(key):
    """What the record says of a case beside its errors."""
    if key in CASES:
        return {"bound": CASES[key].bound, "scale": "", "of": sweep.size_of(CASES[key]) if whole(CASES[key]) else None}
    search, dtype = CLIMBS[key]
    return {"bound": search.bound(dtype), "scale": search.scale, "of": None}


def arguments():
    parser = argparse.ArgumentParser(prog="ci/accuracy.sh", description="Measure the errors of every function.")
    parser.add_argument("--quick", action="store_true", help="a minute or two: samples and short climbs")
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy"), help="where results go")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--tries", type=int, help="rows that a climb tries, for 100 classes or fewer")
    parser.add_argument("--record", action="store_true", help="write tests/accuracy.json, which the tests hold")
    parser.add_argument("names", nargs="*", help="parts of the names of what to measure; none: everything")
    return parser.parse_args()


def main():
    options = arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.folder / ("quick.jsonl" if options.quick else "journal.jsonl"))
    tries = options.tries or TRIES[options.quick]
    keys = [k for k in (*CASES, *CLIMBS) if not options.names or any(name in k for name in options.names)]
    plan = {key: pieces_of(key, options.quick, tries) for key in keys}
    left = [(key, piece) for key, pieces in plan.items() for piece in pieces if (key, piece) not in journal.done]
    begun = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, key, piece): (key, piece) for key, piece in left}
        for i, done in enumerate(concurrent.futures.as_completed(running), 1):
            key, piece = running[done]
            journal.add(key, piece, done.result())
            ours = journal.total(key)["fastxent"]
            said = f"{key}: {ours.inputs:,} inputs, worst {ours.ulp:.4g} ulp, {ours.relative:.4g} epsilon"
            print(f"{i} of {len(left)} pieces, {time.monotonic() - begun:.0f} s: {said}", flush=True)
    record = as_record(journal, facts_of, rechecked)
    (options.folder / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.folder / "accuracy.md").write_text(long_table(record))
    if options.record:
        both = fuller(json.loads(RECORD.read_text())["cases"], record["cases"], (*CASES, *CLIMBS))
        record["cases"] = {key: case | facts_of(key) for key, case in both.items()}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(long_table(record))
