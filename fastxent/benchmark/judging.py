"""Verdicts: whether a case reaches its target, and what became slower since another measurement."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from fastxent.benchmark.cases import BEST, Case
from fastxent.benchmark.measuring import Row

PASS, FAIL, NOT_JUDGED = "pass", "FAIL", "not judged"
TOLERANCE = 0.15  # of the share of the limit: what shares vary by from run to run on a machine with neighbours


class Check(NamedTuple):
    """One part of a target, and what was measured."""

    what: str
    wanted: float
    got: float | None  # None: there is nothing to compare with
    at_most: bool = False
    unit: str = ""

    @property
    def result(self) -> str:
        if self.got is None:
            return NOT_JUDGED
        return PASS if (self.got <= self.wanted if self.at_most else self.got >= self.wanted) else FAIL


class Verdict(NamedTuple):
    """A case, the parts of its target, and the runs that they were judged by."""

    case: Case
    checks: tuple[Check, ...]
    runs: tuple[Row, ...]

    @property
    def result(self) -> str:
        """Fails if any part fails; small inputs are not judged, and neither is a target whose peer is absent."""
        if not self.case.is_judged(self.runs[0].n_bytes):
            return NOT_JUDGED
        results = [check.result for check in self.checks]
        return next((r for r in (FAIL, NOT_JUDGED) if r in results), PASS)


def judge(runs: Sequence[Row]) -> Verdict:
    """Judge a case by its runs: the median of each figure decides.

    Parameters
    ----------
    runs : sequence of Row
        Of one case that has a target.
    """
    case = runs[0].case
    target = case.target
    if target is None:
        raise ValueError(f"{case.name}: has no target")
    checks = []
    if target.share is not None:
        checks.append(Check(f"of the {case.limit}", target.share, median(row.share for row in runs)))
    if target.times is not None:
        got = median(1 / row.share for row in runs)
        checks.append(Check(f"the time of the {case.limit}", target.times, got, True, "x"))
    if target.over_s is not None:
        got = median(row.ours_s - row.limit_s for row in runs) * 1e6
        checks.append(Check(f"over an {case.limit}", target.over_s * 1e6, got, True, " us"))
    for peer, ratio in target.against:
        name, times = peer, [row.ratios[peer] for row in runs if peer in row.ratios]
        if peer == BEST:
            medians = {name: median(row.ratios[name] for row in runs) for name in runs[0].ratios}
            name = min(medians, key=medians.__getitem__) if medians else "any peer"
            times = [medians[name]] if medians else []
        checks.append(Check(f"against {name}", ratio, median(times) if times else None, False, "x"))
    return Verdict(case, tuple(checks), tuple(runs))


def typical(runs: Sequence[Row]) -> Row:
    """The run with the median share of the limit."""
    return sorted(runs, key=lambda row: row.share)[(len(runs) - 1) // 2]


class Change(NamedTuple):
    """A case in two measurements."""

    name: str
    before: float  # share of the limit
    after: float
    result: str  # "slower", "faster", "as before", or why they cannot be compared

    @property
    def ratio(self) -> float:
        return self.after / self.before


def compare(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]], tolerance: float = TOLERANCE) -> list[Change]:
    """Compare two measurements' rows by the share of the limit: the machine, and what disturbed it, divide out.

    Parameters
    ----------
    old, new : iterable of dict
        ``Row.to_dict``'s.
    tolerance : float
        How much smaller (or, inverted, larger) a share may become before it counts.
    """
    before = {row["name"]: row for row in old}
    changes = []
    for row in new:
        if row["name"] not in before:
            continue
        earlier, share = before[row["name"]], row["share_of_limit"]
        if earlier["bytes"] != row["bytes"]:
            result = f"not compared: {earlier['bytes'] / 1e6:.4g} MB then, {row['bytes'] / 1e6:.4g} MB now"
        elif share < earlier["share_of_limit"] * (1 - tolerance):
            result = "slower"
        elif share * (1 - tolerance) > earlier["share_of_limit"]:
            result = "faster"
        else:
            result = "as before"
        changes.append(Change(row["name"], earlier["share_of_limit"], share, result))
    return changes
