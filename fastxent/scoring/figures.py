"""A score card's figures, made from its exact state.

Nothing here calls libm: square roots, divisions and rational arithmetic round the same way on every machine.
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from fastxent.intervals import NORMAL_95
from fastxent.kernels import groups as grouped
from fastxent.kernels import scorecard as card
from fastxent.kernels.batch import exp_scalar
from fastxent.kernels.exactsum import STATE_SIZE, UNITS, exact_sum_units, exact_sum_value, units_of
from fastxent.kernels.pairs import sorted_pairs
from fastxent.scoring.bootstrap import intervals
from fastxent.scoring.result import ClassTable, Confusion, Histogram, Reliability, Score, WorstRow
from fastxent.scoring.state import State

LN_2 = 0.6931471805599453


class _Groups:
    """The grouped sums of a tally by meaning, in the order of `accumulate_chunk`."""

    def __init__(self, state: State) -> None:
        tally = state.tally
        self._arrays = tally.slots, tally.spill_index, tally.spill
        c, bins, tops = tally.class_rows.shape[0], tally.bin_rows.shape[0], state.tops.size
        if state.weighted:
            plain = [c, bins, c, c, c, bins, bins, tops, *([card.N_SCORES] * 2 if c == 2 else [])]
        else:
            plain = [c, bins]
        self._first = np.cumsum([0, *plain]).tolist()
        self._size = plain

    def values(self, k: int) -> np.ndarray:
        """The k-th kind of sums, correctly rounded."""
        out = np.empty(self._size[k])
        grouped.group_values(*self._arrays, self._first[k], out)
        return out

    def units(self, k: int) -> list[int]:
        """The k-th kind of sums, exactly, as whole numbers of 1 / UNITS: to reduce fractions would take long."""
        states = np.empty((self._size[k], STATE_SIZE), np.int64)
        grouped.group_states(*self._arrays, self._first[k], states)
        return [units_of(state) for state in states]


NLL, CONFIDENCE, WEIGHT, HITS, PREDICTED, BIN_WEIGHT, BIN_HITS, TOP, SCORES = range(9)  # kinds of grouped sums


def summarise(state: State) -> Score:
    """Every figure of the rows that a state covers."""
    tally, hard, n_classes = state.tally, state.hard, state.n_classes
    counts, sums = tally.counts, tally.sums
    n = int(counts[card.KEPT])
    weight = float(exact_sum_value(sums[card.S])) if state.weighted else float(n)
    total = float(exact_sum_value(sums[card.R]))
    nll = _ratio(total, weight)
    se = _standard_error(state, n)
    figures = _label_figures(state, nll, weight) if hard else dict.fromkeys(_LABEL_FIGURES)
    used = int(counts[card.WORST_USED])
    worst = zip(tally.worst_id[:used].tolist(), tally.worst_label[:used].tolist(), tally.worst_nll[:used].tolist())
    result = Score(
        kind=state.options.kind,
        target="labels" if hard else ("distributions" if n_classes else "none"),
        n_classes=n_classes,
        n=n,
        ignored=int(counts[card.IGNORED]),
        invalid=int(counts[card.INVALID]),
        weight=weight,
        nll=nll,
        nll_bits=nll / LN_2,
        nll_se=se,
        nll_interval=(nll - NORMAL_95 * se, nll + NORMAL_95 * se),
        log_likelihood=0.0 - total,
        perplexity=float(exp_scalar(nll)),
        brier=_ratio(float(exact_sum_value(sums[card.BRIER])), weight),
        entropy=_ratio(float(exact_sum_value(sums[card.ENTROPY])), weight),
        confidence=_ratio(float(exact_sum_value(sums[card.CONFIDENCE])), weight),
        nll_histogram=Histogram(nll_edges(), _fixed(tally.nll_rows.copy())),
        worst=tuple(WorstRow(i, label if hard else None, value) for i, label, value in worst),
        options={k: list(v) if isinstance(v, tuple) else v for k, v in vars(state.options).items()},
        **figures,
    )
    if state.replicates is not None:
        result = dataclasses.replace(result, bootstrap=intervals(state.replicates, vars(result)))
    return result


@functools.cache
def nll_edges() -> np.ndarray:
    """The edges of the histogram of NLL."""
    octaves = 2.0 ** np.arange(card.FIRST_OCTAVE, card.LAST_OCTAVE)
    steps = octaves[:, None] * (1 + np.arange(card.QUARTERS) / card.QUARTERS)
    return _fixed(np.array([0.0, *steps.ravel(), 2.0**card.LAST_OCTAVE, math.inf, math.inf]))


_LABEL_FIGURES = (
    *("accuracy", "top_k_accuracy", "ece", "skill", "roc_auc", "roc_auc_resolution"),
    *("reliability", "confusion", "classes"),
)


def _label_figures(state: State, nll: float, weight: float) -> dict[str, Any]:
    """The figures that need class indices."""
    tally, groups, weighted = state.tally, _Groups(state), state.weighted
    if weighted:
        of_label, hits, of_prediction, in_bin, bin_hits = (groups.values(k) for k in range(WEIGHT, TOP))
        tops, all_hits = groups.values(TOP), float(exact_sum_value(tally.sums[card.HITS]))
        exact_bin_hits = groups.units(BIN_HITS)
    else:
        of_label, hits, of_prediction = state.class_counts().astype(float)
        in_bin, bin_hits = tally.bin_rows.sum(1).astype(float), tally.bin_rows[:, 1].astype(float)
        tops, all_hits = state.top_counts().astype(float), float(hits.sum())
        exact_bin_hits = [k * UNITS for k in tally.bin_rows[:, 1].tolist()]
    gaps = sum(abs(h - c) for h, c in zip(exact_bin_hits, groups.units(CONFIDENCE)))
    auc, resolution = _roc_auc(state, groups)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        recall = hits / of_label
        classes = ClassTable(
            n=state.class_counts()[0].copy(),
            weight=of_label,
            nll=groups.values(NLL) / of_label,
            accuracy=recall,
            precision=hits / of_prediction,
            recall=recall,
            f1=2 * hits / (of_label + of_prediction),
        )
        bins = Reliability(
            edges=state.edges,
            n=tally.bin_rows.sum(1),
            weight=in_bin,
            accuracy=bin_hits / in_bin,
            confidence=groups.values(CONFIDENCE) / in_bin,
        )
    prior = float(card.prior_nll(np.ascontiguousarray(of_label), weight)) if weight > 0 else math.nan
    return {
        "accuracy": _ratio(all_hits, weight),
        "top_k_accuracy": {k: _ratio(float(v), weight) for k, v in zip(state.options.top_k, tops)},
        "ece": gaps / _total_weight(state) if weight > 0 else math.nan,
        "skill": 1.0 - nll / prior if prior > 0 else math.nan,
        "roc_auc": auc,
        "roc_auc_resolution": resolution,
        "reliability": Reliability(*map(_fixed, bins)),
        "confusion": _confusion(state),
        "classes": ClassTable(*map(_fixed, classes)),
    }


def _confusion(state: State) -> Confusion:
    """The pairs that occur, sorted by label, then predicted."""
    tally, n_classes = state.tally, state.n_classes
    if tally.pair_keys.size:
        pairs = sorted_pairs(tally.counts, tally.pair_keys, tally.pair_rows, tally.class_rows)
    else:
        keys = np.flatnonzero(tally.pair_rows)
        pairs = *np.divmod(keys, n_classes), tally.pair_rows[keys]
    return Confusion(*map(_fixed, pairs))


def _standard_error(state: State, n: int) -> float:
    """sqrt(sum (r - s mean)^2) / sum s from exact sums of both words of each square, so that nothing cancels."""
    sums, weighted = state.tally.sums, state.weighted
    if n == 0 or not math.isfinite(exact_sum_value(sums[card.R])):
        return math.nan
    used = range(card.N_SUMS) if weighted else range(card.RR_LOW + 1)
    if not all(math.isfinite(exact_sum_value(sums[k])) for k in used):  # squares of numbers above 1e154
        return math.inf

    def exact(*columns: int) -> int:
        return sum(exact_sum_units(sums[k]) for k in columns)

    r, rr = exact(card.R), exact(card.RR_HIGH, card.RR_LOW)
    s = ss = n * UNITS
    sr = r
    if weighted:
        s, ss, sr = exact(card.S), exact(card.SS_HIGH, card.SS_LOW), exact(card.SR_HIGH, card.SR_LOW)
    if s == 0:
        return math.nan
    return _root(max((rr * s - 2 * r * sr) * s + r * r * ss, 0) * UNITS, s**4)


def square_root(x: Fraction) -> float:
    """sqrt(x), from an integer square root of at least 100 bits."""
    return _root(x.numerator, x.denominator)


def _root(a: int, b: int) -> float:
    """sqrt(a / b), from an integer square root of at least 99 bits. A fraction would have to be reduced."""
    if a == 0:
        return 0.0
    half = max(0, 100 - (a.bit_length() - b.bit_length()) // 2)
    return math.isqrt((a << (2 * half)) // b) / (1 << half)


def _roc_auc(state: State, groups: _Groups) -> tuple[float | None, float | None]:
    """(area, half the share of pairs with different labels in one bin), or None unless there are two classes."""
    if state.n_classes != 2:
        return None, None
    if state.weighted:
        zeros, ones = groups.values(SCORES), groups.values(SCORES + 1)
    else:
        zeros, ones = state.tally.score_rows.astype(float)
    places = np.flatnonzero((zeros > 0) | (ones > 0))
    below = pairs = ties = Fraction(0)
    for a, b in zip(zeros[places].tolist(), ones[places].tolist()):
        a, b = Fraction(a), Fraction(b)
        pairs += b * below
        ties += a * b
        below += a
    all_pairs = below * sum(map(Fraction, ones[places].tolist()))
    if all_pairs == 0:
        return math.nan, math.nan
    return float((pairs + ties / 2) / all_pairs), float(ties / 2 / all_pairs)


def _total_weight(state: State) -> int:
    """The rows' weight as a whole number of 1 / UNITS."""
    if state.weighted:
        return exact_sum_units(state.tally.sums[card.S])
    return int(state.tally.counts[card.KEPT]) * UNITS


def _ratio(total: float, weight: float) -> float:
    """One division; NaN where there is no weight."""
    return total / weight if weight > 0 else math.nan


def _fixed(array: np.ndarray) -> np.ndarray:
    """The array, read-only."""
    array = array.view()
    array.setflags(write=False)
    return array
