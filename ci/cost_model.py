#!/usr/bin/env python3
"""What a run over 10^12 rows takes, modelled from rates measured here: python ci/cost_model.py [options]

Measured, on one core: rows scored a second, from memory; a state's size; the time to write one; and the time to load
and merge one, from really merging as many states as the run leaves. Given: the cores, and how fast each of them is
fed. The parts of the run are independent, so their times divide by the cores; the merge is one process at first, and
then a tree.
"""

import argparse
import os
import pickle
import tempfile
import time

import numpy as np

import fastxent


def rows_per_second(predictions, labels, passes=7):
    """The best of several passes over rows in memory, on one thread, after one that compiles: of processor time."""
    took = []
    for _ in range(passes + 1):
        begin = time.process_time()
        fastxent.Scorer(threads=1).update(predictions, labels)
        took.append(time.process_time() - begin)
    return len(labels) / min(took[1:])


def merged(predictions, labels, states, rows=64):
    """Merge so many states, each of its own rows; returns the processor time (s) that loading and merging one takes."""
    whole, spent_s, n = fastxent.Scorer(), 0.0, len(labels)
    for k in range(states):
        at = k * rows % (n - rows + 1)
        part = fastxent.Scorer(threads=1).update(predictions[at : at + rows], labels[at : at + rows], start=k * rows)
        content = pickle.dumps(part)  # what save() writes
        begin = time.process_time()
        whole.merge(pickle.loads(content))
        spent_s += time.process_time() - begin
    if whole.rows != ((0, states * rows),) or whole.result().n != states * rows:
        raise SystemExit("the merged states do not cover the rows")
    return spent_s / states


def save_seconds(scorer, times=20):
    """The median time of a write to the disk, and the file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path, took = os.path.join(folder, "a.state"), []
        for _ in range(times):
            begin = time.perf_counter()
            scorer.save(path)
            took.append(time.perf_counter() - begin)
        return sorted(took)[times // 2], os.path.getsize(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e12)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 50257])
    parser.add_argument("--cores", type=int, default=1000)
    parser.add_argument("--feed", type=float, default=1.0, help="GB/s of predictions that storage gives a core")
    parser.add_argument("--states", type=int, default=100_000, help="parts of the run, each with a state")
    parser.add_argument("--merged", type=int, default=None, help="states really merged for each number of classes")
    given = parser.parse_args()
    print(
        f"{given.rows:.0e} rows of float32 on {given.cores:,} cores, fed with {given.feed:g} GB/s each, in "
        f"{given.states:,} parts.\n"
    )
    for n_classes in given.classes:
        rng = np.random.default_rng(1)
        n = max(2000, min(1_000_000, 100_000_000 // n_classes // 4))
        predictions = 3 * rng.standard_normal((n, n_classes), dtype=np.float32)
        labels = rng.integers(0, n_classes, n)
        rows_s = rows_per_second(predictions, labels)
        count = given.merged or (given.states if n_classes <= 100 else max(100, given.states // n_classes))
        merge_s = merged(predictions, labels, count)
        write_s, size = save_seconds(fastxent.Scorer(threads=1).update(predictions, labels, start=0))

        n_bytes = given.rows * (4 * n_classes + 8)
        compute_s = given.rows / rows_s / given.cores
        feed_s = n_bytes / (given.feed * 1e9) / given.cores
        run_s = max(compute_s, feed_s)  # reading goes on in a thread of its own
        writes_s = given.states * write_s * max(1.0, run_s / 5 * given.cores / given.states) / given.cores
        line_s = merge_s * given.states
        tree_s = merge_s * (given.states / given.cores + given.cores)  # each core its share, then one all of theirs
        total_s = run_s + writes_s + min(line_s, tree_s)
        print(f"{n_classes:,} classes: {n_bytes / 1e12:,.0f} TB, {given.rows / rows_s / 3600:,.0f} core hours")
        print(
            f"  measured: {rows_s:,.0f} rows/s a core ({rows_s * 4 * n_classes / 1e9:.1f} GB/s); a state of {n:,} rows"
        )
        print(f"            {size:,} bytes, written in {1e3 * write_s:.1f} ms")
        print(f"            {count:,} states really merged, {1e6 * merge_s:,.0f} us each")
        parts = [
            ("scoring" if compute_s >= feed_s else "waiting for storage (scoring meanwhile)", run_s),
            ("states written, every 5 s", writes_s),
            (f"merge of {given.states:,} states, as a tree", min(line_s, tree_s)),
        ]
        for name, seconds in parts:
            print(f"  {name:<42}{seconds:>12,.1f} s  {seconds / total_s:>7.2%}")
        print(f"  {'in all':<42}{total_s:>12,.1f} s  (by one process the merge would take {line_s:,.0f} s)\n")


if __name__ == "__main__":
    main()
