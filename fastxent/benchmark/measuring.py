"""The clock: the contenders of a case take turns with each other and with the references.

Inputs, conversions and compilation stay outside the timing. Round follows round, so that a disturbed second disturbs
all of them; the best round counts.
"""

import dataclasses
import gc
import math
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastxent.benchmark.cases import LARGE_BYTES, SHAPES, Case
from fastxent.benchmark.contenders import TOLERANCES, WORKS, both_losses
from fastxent.benchmark.references import LIMITS, LOSS_ALONE, PREFETCHED, Call, limit_s, references_of


class Pace(NamedTuple):
    """How long to measure."""

    rounds: int = 7
    fewest_rounds: int = 2
    budget_s: float = 5.0  # a contender that has taken so long in a case has had its rounds
    turn_s: float = 0.02  # calls shorter than this are repeated until a turn takes so long
    call_turn_s: float = 0.7  # where a call's own time is the question, in parts of turn_s: see time_turns
    pause_s: float = 0.005  # between turns: other libraries' threads spin for a while after their work


ALONE_S = 1e-3  # a call that takes so long is timed by itself: the clock's own 0.1 us do not count

FULL = Pace()
QUICK = Pace(rounds=5, fewest_rounds=1, budget_s=0.3, turn_s=0.005, call_turn_s=0.05, pause_s=0.002)


class Problem(NamedTuple):
    """A case with its inputs in memory and its contenders ready to be timed."""

    case: Case
    n_rows: int
    n_bytes: int  # that must be read or written
    contenders: dict[str, Call]  # "fastxent" first, then its peers
    references: dict[str, Call]  # reads of the same bytes and the like, and losses alone beside cards and comparisons
    absent: dict[str, str]  # peer -> what is not installed
    scales: dict[str, float]  # peer that has a part of the rows -> all rows over its rows
    checks: dict[str, Call]  # the same peers -> fastxent on those rows


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured for a case: the best time of each contender and reference, in seconds."""

    case: Case
    n_rows: int
    n_bytes: int
    seconds: dict[str, float]
    references_s: dict[str, float]
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ours_s(self) -> float:
        return self.seconds["fastxent"]

    @property
    def limit_s(self) -> float:
        """Of what nothing can beat: the fastest read of the same bytes; a copy, a gather, an empty call."""
        return limit_s(self.case, self.references_s)

    @property
    def share(self) -> float:
        """Of the limit's speed."""
        return self.limit_s / self.ours_s

    @property
    def rows_per_s(self) -> float:
        return self.n_rows / self.ours_s

    @property
    def gb_per_s(self) -> float:
        return self.n_bytes / self.ours_s / 1e9

    @property
    def limit_gb_per_s(self) -> float:
        return self.n_bytes / self.limit_s / 1e9

    @property
    def read_gb_per_s(self) -> float | None:
        """Of a read that prefetches: the limit to chase."""
        s = self.references_s.get(PREFETCHED)
        return None if s is None else self.n_bytes / s / 1e9

    @property
    def large(self) -> bool:
        return self.n_bytes >= LARGE_BYTES

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long each peer takes."""
        return {name: s / self.ours_s for name, s in self.seconds.items() if name != "fastxent"}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python objects."""
        case = self.case
        return {
            "name": case.name,
            "topic": case.topic,
            "work": case.work,
            "dtype": case.dtype,
            "n_classes": case.n_classes,
            "cached": case.cached,
            "n_rows": self.n_rows,
            "bytes": self.n_bytes,
            "large": self.large,
            "seconds": self.seconds,
            "references_s": self.references_s,
            "rows_per_s": self.rows_per_s,
            "gb_per_s": self.gb_per_s,
            "limit": case.limit,
            "limit_gb_per_s": self.limit_gb_per_s,
            "read_gb_per_s": self.read_gb_per_s,
            "share_of_limit": self.share,
            "ratios": self.ratios,
            "absent": self.absent,
            "notes": list(self.notes),
        }


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
    n_bytes = sum(a.nbytes for a in arrays)
    contenders, absent, scales, checks = {"fastxent": work.ours(*arrays)}, {}, {}, {}
    for name, peer in work.peers.items():
        part = arrays
        if peer.most_bytes is not None and n_bytes > peer.most_bytes:
            kept = max(1, len(arrays[0]) * peer.most_bytes // n_bytes)
            part = tuple(a[:kept] for a in arrays)
            scales[name], checks[name] = len(arrays[0]) / kept, work.ours(*part)
        try:
            contenders[name] = peer.prepare(*part)
        except ImportError as error:
            absent[name] = error.name or str(error)
    references = references_of(case, arrays)
    if case.work == "score_card":
        references[LOSS_ALONE] = WORKS["cross_entropy"].ours(*arrays)
    if case.work == "compare":
        references[LOSS_ALONE] = both_losses(*arrays)
    n_rows = arrays[1].size if SHAPES[case.work].labels else len(arrays[0])
    n_bytes = n_rows * case.touched_bytes
    return Problem(case, n_rows, n_bytes, contenders, references, absent, scales, checks)


def time_turns(calls: dict[str, Call], pace: Pace = FULL, turn_s: float | None = None) -> dict[str, float]:
    """The best time of each call, in seconds, over rounds in which they take turns.

    Each was called before, so that nothing compiles or loads here. Every other round goes backwards: who comes after a
    call of another kind pays for it (a training of 25 ms after a sum by other threads 2 ms). Calls of a millisecond or
    more are timed one by one. A turn of ``turn_s`` seconds is one of several parts, whose best counts: after a pause
    the clock is low, and for 0.7 s no machine is undisturbed.
    """
    parts = dict.fromkeys(calls, 1 if turn_s is None else max(1, round(turn_s / pace.turn_s)))
    best, spent, repeats = dict.fromkeys(calls, math.inf), dict.fromkeys(calls, 0.0), {}
    for turn in range(pace.rounds):
        for name, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
            if turn >= pace.fewest_rounds and spent[name] >= pace.budget_s:
                continue
            time.sleep(pace.pause_s)
            if name not in repeats:
                once_s = timed(call, 1)
                spent[name] += once_s
                repeats[name] = max(1, math.ceil(pace.turn_s / max(once_s, 1e-7)))
                if repeats[name] == 1:  # long enough to be a turn of its own
                    best[name] = once_s
                    continue
                if once_s >= ALONE_S:
                    repeats[name], parts[name] = 1, parts[name] * repeats[name]
            for _ in range(parts[name]):
                elapsed_s = timed(call, repeats[name])
                best[name] = min(best[name], elapsed_s)
                spent[name] += elapsed_s * repeats[name]
    return best


def timed(call: Call, repeats: int) -> float:
    """Seconds a call, over so many of them."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def measure(case: Case, pace: Pace = FULL) -> Row:
    """Time a case: fastxent, its installed peers and the references, in turns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        problem = prepare(case)
        notes = disagreements(problem)
        for call in problem.references.values():
            call()
        calls = problem.contenders | problem.references
        seconds = time_turns(calls, pace, pace.call_turn_s if case.limit == "empty call" else None)
    ours = {name: seconds[name] * problem.scales.get(name, 1.0) for name in problem.contenders}
    references = {name: seconds[name] for name in problem.references}
    for name, scale in problem.scales.items():
        if name in ours:
            notes.append(f"{case.name}: {name} had 1/{scale:.1f} of the rows, its time is that times {scale:.1f}")
    if LOSS_ALONE in references:
        times = ours["fastxent"] / references[LOSS_ALONE]
        notes.append(f"{case.name}: {times:.2f} times the time of fastxent's loss alone")
    return Row(case, problem.n_rows, problem.n_bytes, ours, references, problem.absent, tuple(notes))


def disagreements(problem: Problem) -> list[str]:
    """Call every contender once: which compute something else than fastxent, beyond the rounding of the dtype?"""
    work, tolerance = WORKS[problem.case.work], TOLERANCES[problem.case.dtype]
    figure, optimum = work.figure, work.optimum
    whole = figure(problem.contenders["fastxent"]())
    notes = []
    for name, call in problem.contenders.items():
        ours = figure(problem.checks[name]()) if name in problem.checks else whole
        theirs = figure(call())
        if optimum is not None and name != "fastxent" and ours <= theirs * (1.0 + optimum):
            notes.append(f"{problem.case.name}: ends at {ours:.9g} nats a row, {name} at {theirs:.9g}")
        elif not abs(theirs - ours) <= tolerance * abs(ours):
            notes.append(f"{problem.case.name}: {name} says {theirs:.6g}, fastxent {ours:.6g}")
    return notes


def run(
    cases: Iterable[Case], pace: Pace = FULL, tell: Callable[[str], Any] = lambda _: None, rows: list[Row] | None = None
) -> list[Row]:
    """Measure cases one after another; one whose own dtype is not installed is named and left out.

    Parameters
    ----------
    cases : iterable of Case
    pace : Pace
    tell : callable
        Called with what was left out.
    rows : list of Row, optional
        To append to, so that what was measured survives an interruption.
    """
    rows = [] if rows is None else rows
    for case in cases:
        try:
            rows.append(measure(case, pace))
        except ImportError as error:
            tell(f"{case.name}: left out ({error.name} is not installed)")
        gc.collect()  # one case's gigabytes before the next's
    return rows


__all__ = ["FULL", "LIMITS", "QUICK", "Pace", "Problem", "Row", "measure", "prepare", "run", "time_turns"]
