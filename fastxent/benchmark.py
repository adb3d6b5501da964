"""fastxent against the other libraries installed, and against the speed at which the same bytes can be read.

``python -m fastxent.benchmark`` prints a table; bench/ tracks the same cases with pytest-benchmark. Inputs, conversions
and compilation stay outside the timing. The contenders of a case take turns, round after round, so that a disturbed
second disturbs them all; the best round counts. The roofline is measured in the same turns: the fastest sum of the same
bytes.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

import fastxent
from fastxent.contenders import CASES, TOLERANCES, WORKS, Call, Case
from fastxent.kernels import batch
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import load, pointer, prefetch
from fastxent.kernels.simd import add_reduce

ROUNDS = 7
FEWEST_ROUNDS = 2
BUDGET_S = 12.0  # a contender that has taken so long in a case has had its rounds
TURN_S = 0.02  # calls shorter than this are repeated until a turn takes so long
PAUSE_S = 0.005  # between turns: other libraries' threads spin for a while after their work
LARGE_BYTES = 10**9  # no cache holds it
LOSS_ALONE = "loss alone"


# --- the roofline -----------------------------------------------------------------------------------------------------


@compiled
def _sum_chunk(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The plain sum of a chunk of words. Whole numbers: those LLVM adds in vectors, in whatever order."""
    words = labels[start:stop]
    total = 0
    for i in range(words.size):
        total += words[i]
    report[0] = total  # so that there is a reason to read them


_AHEAD = 1024  # words


@compiled
def _read_chunk(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same, asking for memory ahead as the loss kernels do."""
    words = labels[start:stop]
    p = pointer(words, 0)
    whole = words.size // 32 * 32
    total = 0
    if whole:
        a, b, c, d = load(p, 0), load(p, 8), load(p, 16), load(p, 24)
        for i in range(32, whole, 32):
            for j in range(0, 32, 8):
                prefetch(p, i + j + _AHEAD)
            a, b, c, d = a + load(p, i), b + load(p, i + 8), c + load(p, i + 16), d + load(p, i + 24)
        total = add_reduce(a + b + c + d)
    for i in range(whole, words.size):
        total += words[i]
    report[0] = total


def _words(array: np.ndarray) -> np.ndarray:
    """An array's memory as int64, up to 7 bytes at its end left out."""
    return array.reshape(-1).view(np.uint8)[: array.nbytes // 8 * 8].view(np.int64)


def _reader(chunk: Any, arrays: Sequence[np.ndarray]) -> Call:
    """Run a chunk function over the words of arrays, in the parallel loop that every kernel runs in."""
    calls = []
    for array in arrays:
        words = _words(array)
        call = batch.Call(words.view(np.float64)[None, :, None], n_classes=1)
        call.labels = words
        calls.append(call)
    return lambda: [call.run(chunk) for call in calls]


def _torch_sum(arrays: Sequence[np.ndarray]) -> Call:
    import torch

    tensors = [torch.from_numpy(a if a.dtype in (np.float32, np.float64) else _words(a)) for a in arrays]
    return lambda: [tensor.sum() for tensor in tensors]


# --- measuring --------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A case with its inputs in memory and its contenders ready to be timed."""

    case: Case
    n_bytes: int  # of the arrays that are read or written
    contenders: dict[str, Call]  # "fastxent" first, then its peers
    references: dict[str, Call]  # reads of the same bytes, and the loss alone for a score card
    absent: dict[str, str]  # peer -> what is not installed


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured for a case: the best time of each contender and reference, in seconds."""

    case: Case
    n_bytes: int
    seconds: dict[str, float]
    references_s: dict[str, float]
    absent: dict[str, str]
    notes: tuple[str, ...]

    @property
    def rows_per_s(self) -> float:
        return self.case.n_rows / self.seconds["fastxent"]

    @property
    def gb_per_s(self) -> float:
        return self.n_bytes / self.seconds["fastxent"] / 1e9

    @property
    def roofline_gb_per_s(self) -> float:
        """Of the fastest sum of the same bytes."""
        return self.n_bytes / roofline_s(self.references_s) / 1e9

    @property
    def read_gb_per_s(self) -> float:
        """Of a read that prefetches: the limit to chase."""
        return self.n_bytes / self.references_s["prefetched read"] / 1e9

    @property
    def share_of_roofline(self) -> float:
        return self.gb_per_s / self.roofline_gb_per_s

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long each peer takes."""
        ours = self.seconds["fastxent"]
        return {name: s / ours for name, s in self.seconds.items() if name != "fastxent"}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python objects."""
        return {
            "name": self.case.name,
            **dataclasses.asdict(self.case),
            "topic": self.case.topic,
            "bytes": self.n_bytes,
            "large": self.n_bytes >= LARGE_BYTES,
            "seconds": self.seconds,
            "references_s": self.references_s,
            "rows_per_s": self.rows_per_s,
            "gb_per_s": self.gb_per_s,
            "roofline_gb_per_s": self.roofline_gb_per_s,
            "read_gb_per_s": self.read_gb_per_s,
            "share_of_roofline": self.share_of_roofline,
            "ratios": self.ratios,
            "absent": self.absent,
            "notes": list(self.notes),
        }


def roofline_s(references_s: dict[str, float]) -> float:
    """The time of the fastest plain sum."""
    return min(references_s[name] for name in ("sum", "torch.sum") if name in references_s)


def prepare(case: Case, seed: int = 0) -> Problem:
    """Make a case's inputs and get every installed contender ready.

    Parameters
    ----------
    case : Case
    seed : int
        Of the inputs.

    Raises
    ------
    ImportError
        If the case itself needs what is not installed (ml_dtypes, for bfloat16).
    """
    work = WORKS[case.work]
    arrays = work.inputs(case, np.random.default_rng(seed))
    contenders: dict[str, Call] = {"fastxent": work.ours(*arrays)}
    references = {"sum": _reader(_sum_chunk, arrays), "prefetched read": _reader(_read_chunk, arrays)}
    absent: dict[str, str] = {}
    for name, peer in work.peers.items():
        try:
            contenders[name] = peer(*arrays)
        except ImportError as error:
            absent[name] = error.name or str(error)
    with contextlib.suppress(ImportError):
        references["torch.sum"] = _torch_sum(arrays)
    if case.work == "score_card":
        references[LOSS_ALONE] = WORKS["cross_entropy"].ours(*arrays)
    return Problem(case, sum(a.nbytes for a in arrays), contenders, references, absent)


def time_turns(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """The best time of each call, in seconds, over rounds in which they take turns."""
    best, spent, repeats = {}, dict.fromkeys(calls, 0.0), {}
    for name, call in calls.items():
        call()  # compiles, where nothing else did
        once = _timed(call, 1)
        best[name], repeats[name] = math.inf, max(1, min(10_000, math.ceil(TURN_S / max(once, 1e-7))))
    for turn in range(rounds):
        for name, call in calls.items():
            if turn < FEWEST_ROUNDS or spent[name] < BUDGET_S:
                time.sleep(PAUSE_S)
                elapsed_s = _timed(call, repeats[name])
                best[name] = min(best[name], elapsed_s)
                spent[name] += elapsed_s * repeats[name]
    return best


def _timed(call: Call, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def measure(case: Case, rounds: int = ROUNDS) -> Row:
    """Time a case: fastxent, its installed peers and the roofline, in turns.

    Parameters
    ----------
    case : Case
    rounds : int
        At least 1; a contender that takes long has fewer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        problem = prepare(case)
        notes = disagreements(problem)
        seconds = time_turns(problem.contenders | problem.references, rounds)
    ours = {name: seconds[name] for name in problem.contenders}
    references = {name: seconds[name] for name in problem.references}
    if LOSS_ALONE in references:
        times = ours["fastxent"] / references[LOSS_ALONE]
        notes.append(f"{case.name}: {times:.2f} times the time of fastxent's loss alone")
    return Row(case, problem.n_bytes, ours, references, problem.absent, tuple(notes))


def disagreements(problem: Problem) -> list[str]:
    """Which contenders compute something else than fastxent, beyond the rounding of the dtype."""
    figure, tolerance = WORKS[problem.case.work].figure, TOLERANCES[problem.case.dtype]
    ours = figure(problem.contenders["fastxent"]())
    notes = []
    for name, call in problem.contenders.items():
        theirs = figure(call())
        if not abs(theirs - ours) <= tolerance * abs(ours):
            notes.append(f"{problem.case.name}: {name} says {theirs:.6g}, fastxent {ours:.6g}")
    return notes


# --- the machine, and the table ---------------------------------------------------------------------------------------

_PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "optax", "scipy", "scikit-learn", "torchmetrics")


def machine() -> dict[str, Any]:
    """The processor, its cores, what is used of them, and the versions of everything that takes part."""
    import numba
    from numba.core.registry import cpu_target

    with batch.team():  # starts the threads, which settles their layer
        pass
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    vectors = 512 if "+avx512f" in features else 256 if "+avx2" in features else 128
    versions = {"python": platform.python_version(), "fastxent": fastxent.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": _processor(),
        "code_for": name,
        "vector_bits": vectors,
        "cores": os.cpu_count(),
        "threads": fastxent.get_threads(),
        "threading_layer": numba.threading_layer() if fastxent.get_threads() > 1 else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(facts: dict[str, Any]) -> str:
    """The machine in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['processor']} (code for {facts['code_for']}, vectors of {facts['vector_bits']} bits), "
        f"{facts['cores']} cores, {facts['threads']} threads ({facts['threading_layer']}), {facts['system']}\n"
        f"{versions}"
    )


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Rows as text: columns aligned for a terminal, or Markdown.

    Parameters
    ----------
    rows : sequence of Row
    markdown : bool
        Pipes between the columns.
    """
    peers = list(dict.fromkeys(peer for row in rows for peer in WORKS[row.case.work].peers))
    head = ["work", "dtype", "rows x classes", "time", "GB/s", "sum GB/s", "of the sum", *peers]
    lines = [head] + [[*_cells(row), *(_ratio(row, peer) for peer in peers)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = [
        [text.ljust(w) if k < 2 else text.rjust(w) for k, (text, w) in enumerate(zip(line, widths))] for line in lines
    ]
    if markdown:
        rule = ["-" * w if k < 2 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in [aligned[0], ["-" * w for w in widths], *aligned[1:]])


def _cells(row: Row) -> list[str]:
    case = row.case
    cells = [case.work, case.dtype, f"{case.n_rows:,} x {case.n_classes}", _duration(row.seconds["fastxent"])]
    if row.n_bytes < 1 << 16:  # the time of a call, not of memory
        return [*cells, "", "", ""]
    return [*cells, f"{row.gb_per_s:.1f}", f"{row.roofline_gb_per_s:.1f}", f"{row.share_of_roofline:.2f}"]


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _ratio(row: Row, peer: str) -> str:
    if peer in row.absent:
        return "absent"
    return f"{row.ratios[peer]:.1f}x" if peer in row.ratios else ""


def legend(rows: Iterable[Row]) -> str:
    """What the columns mean, and what was noticed."""
    lines = [
        "time, GB/s: fastxent's. sum: the fastest plain sum of the same bytes, labels and targets counted. "
        "Other columns: how many times as long that library takes (jax: jitted; torchmetrics: on torch)."
    ]
    for row in rows:
        lines += row.notes
        lines += [f"{row.case.name}: {peer} is absent ({what} is not installed)" for peer, what in row.absent.items()]
        if row.n_bytes >= LARGE_BYTES:
            lines.append(f"{row.case.name}: {row.n_bytes / 1e9:.1f} GB, beyond any cache")
    return "\n".join(lines)


# --- the command ------------------------------------------------------------------------------------------------------


def select(names: Iterable[str]) -> list[Case]:
    """The cases whose name or topic holds one of these words; all of them where there is no word.

    Raises
    ------
    ValueError
        If a word matches none.
    """
    words = list(names)
    for word in words:
        if not any(word in f"{case.topic} {case.name}" for case in CASES):
            raise ValueError(f"names: {word!r} matches none of {', '.join(case.name for case in CASES)}")
    return [c for c in CASES if not words or any(word in f"{c.topic} {c.name}" for word in words)]


def run(cases: Iterable[Case], rounds: int = ROUNDS, tell: Callable[[str], Any] = lambda _: None) -> list[Row]:
    """Measure cases one after another; one whose own dtype is not installed is named and left out.

    Parameters
    ----------
    cases : iterable of Case
    rounds : int
    tell : callable
        Called with each case's name before it, and with what was left out.
    """
    rows = []
    for case in cases:
        tell(case.name)
        try:
            rows.append(measure(case, rounds))
        except ImportError as error:
            tell(f"{case.name}: left out ({error.name} is not installed)")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m fastxent.benchmark``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fastxent.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="words of the cases to measure, such as float32-1000; default: all")
    parser.add_argument("--quick", action="store_true", help="small inputs, under a minute")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each contender (default {ROUNDS})")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to FILE; - for standard output")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: must be at least 1")
    try:
        cases = select(options.names)
    except ValueError as error:
        parser.error(str(error))
    rows = run(
        [case.quick() for case in cases] if options.quick else cases,
        options.rounds,
        lambda text: sys.stderr.write(text + "\n") if sys.stderr.isatty() or "left out" in text else None,
    )
    facts = machine()
    if options.json:
        content = {"schema": "fastxent.benchmark/1", "machine": facts, "quick": options.quick}
        text = json.dumps({**content, "rounds": options.rounds, "rows": [row.to_dict() for row in rows]}, indent=2)
        if options.json == "-":
            sys.stdout.write(text + "\n")
            return 0
        with open(options.json, "w") as file:
            file.write(text + "\n")
    if rows:
        parts = [table(rows, markdown=options.markdown), legend(rows), describe(facts)]
        sys.stdout.write("\n\n".join(parts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
