"""A comparison's figures, made from its exact state.

Sums, square roots and divisions are rounded the same way on every machine; p-values and quantiles of t are SciPy's.
"""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np

from fastxent.comparing.result import (
    Comparison,
    DecidingRow,
    Difference,
    DifferenceTable,
    Model,
    Outcomes,
    PairBootstrap,
    PairComparison,
)
from fastxent.comparing.state import CROSSED, Groups, Pair, State
from fastxent.kernels import differences as kernels
from fastxent.kernels.batch import exp_scalar
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_add_block, exact_sum_fraction, exact_sum_value
from fastxent.scoring.bootstrap import intervals
from fastxent.scoring.figures import square_root

LEVEL = 0.95


def summarise(state: State) -> Comparison:
    """Every figure of the rows that a state covers."""
    names = state.options.names
    any_pair = next(iter(state.pairs.values()))
    weight = float(exact_sum_value(any_pair.sums[kernels.S])) if state.weighted else float(state.n)
    models = _models(state, names, weight)
    pairs = [_pair(state, pair, names[i], names[j], weight) for (i, j), pair in state.pairs.items()]
    drawn = [intervals(replicates, _drawn(model)) for replicates, model in zip(state.replicates, models)]
    if drawn:
        both = (PairBootstrap.between(drawn[i], drawn[j]) for i, j in state.pairs)
        pairs = [dataclasses.replace(pair, bootstrap=one) for pair, one in zip(pairs, both)]
    adjusted = holm([pair.nll.p_value for pair in pairs])
    clusters = [_has_weight(state, pair).sum() for pair in state.pairs.values() if "cluster" in state.names]
    return Comparison(
        kinds=state.options.kind,
        target="labels" if state.hard else ("distributions" if state.n_classes else "none"),
        n_classes=state.n_classes,
        n=state.n,
        ignored=state.ignored,
        invalid=state.invalid,
        weight=weight,
        n_clusters=int(clusters[0]) if clusters else None,
        models=models,
        pairs=tuple(_with_holm(pair, p) for pair, p in zip(pairs, adjusted)),
        options={k: list(v) if isinstance(v, tuple) else v for k, v in vars(state.options).items()},
        reliability=dict(zip(names, (bins.reliability() for bins in state.bins))) if state.bins else None,
    )


def _drawn(model: Model) -> dict[str, Any]:
    """The figures that replicates have."""
    figures = {"nll": model.nll, "perplexity": float(exp_scalar(model.nll)), "top_k_accuracy": model.top_k_accuracy}
    return figures | ({} if model.accuracy is None else {"accuracy": model.accuracy, "ece": model.ece})


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment; a NaN stays, and counts as a test."""
    order = sorted(range(len(p_values)), key=lambda k: (math.isnan(p_values[k]), p_values[k]))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, k in enumerate(order):
        if not math.isnan(p_values[k]):
            largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
            adjusted[k] = largest
    return adjusted


def _with_holm(pair: PairComparison, p: float) -> PairComparison:
    return dataclasses.replace(pair, p_holm=p)


def _models(state: State, names: tuple[str, ...], weight: float) -> tuple[Model, ...]:
    """Each model's own figures, from a pair that it belongs to."""
    nll, accuracy = [], []
    for k in range(len(names)):
        (i, _), pair = next((places, pair) for places, pair in state.pairs.items() if k in places)
        first = i == k
        nll.append(_ratio(float(exact_sum_value(pair.sums[kernels.A if first else kernels.B])), weight))
        if state.weighted:
            right = float(exact_sum_value(pair.sums[kernels.HITS_A if first else kernels.HITS_B]))
        else:
            counts = pair.classes.outcomes.sum(0).reshape(4, 3).sum(1)
            right = float(counts[1 if first else 2] + counts[3])
        accuracy.append(_ratio(right, weight))
    keys = [(math.isnan(x), x) for x in nll]  # a NaN ranks last
    ranks = [1 + sum(other < key for other in keys) for key in keys]
    if not state.hard:
        return tuple(Model(name, rank, x, None, None, None) for name, rank, x in zip(names, ranks, nll))
    tops, errors = [bins.top_k_accuracy(weight) for bins in state.bins], [bins.ece() for bins in state.bins]
    return tuple(map(Model, names, ranks, nll, accuracy, tops, errors))


def _pair(state: State, pair: Pair, a: str, b: str, weight: float) -> PairComparison:
    outcomes = _outcomes(pair.classes.outcomes.sum(0), state.hard)
    one_right = (outcomes.only_a_right or 0) + (outcomes.only_b_right or 0)
    return PairComparison(
        a=a,
        b=b,
        nll=_nll_difference(state, pair, weight),
        accuracy=_accuracy_difference(state, pair, outcomes, weight) if state.hard else None,
        outcomes=outcomes,
        mcnemar_p=_mcnemar(outcomes.only_a_right or 0, one_right) if state.hard else None,
        p_holm=math.nan,
        classes=_table(state, pair, "classes", list(range(state.n_classes)), weight) if state.hard else None,
        by=_table(state, pair, "by", list(state.names["by"]), weight) if "by" in state.names else None,
        decide_for_a=_deciding(pair, 0, state.hard),
        decide_for_b=_deciding(pair, 1, state.hard),
    )


def _outcomes(counts: np.ndarray, hard: bool) -> Outcomes:
    by_hits, lower = counts.reshape(4, 3).sum(1).tolist(), counts.reshape(4, 3).sum(0).tolist()
    neither, only_a, only_b, both = by_hits if hard else (None,) * 4
    return Outcomes(lower[kernels.A_LOWER], lower[kernels.B_LOWER], lower[kernels.TIE], only_a, only_b, both, neither)


def _nll_difference(state: State, pair: Pair, weight: float) -> Difference:
    sums, n = pair.sums, state.positive
    value = _ratio(float(exact_sum_value(sums[kernels.R])), weight)
    if not math.isfinite(value):
        return _difference(value, math.nan, 0)
    if "cluster" in state.names:
        groups = pair.groups["cluster"]
        return _clustered(groups.values()[kernels.G_R], value, state, pair, weight)
    if not all(
        math.isfinite(exact_sum_value(sums[k])) for k in range(kernels.R, kernels.HITS_A)
    ):  # squares of numbers above 1e154
        return _difference(value, math.inf, n - 1)
    s = ss = Fraction(n)
    r = sr = exact_sum_fraction(sums[kernels.R])
    if state.weighted:
        s, ss = exact_sum_fraction(sums[kernels.S]), _exact(sums, kernels.SS_HIGH, kernels.SS_LOW)
        sr = _exact(sums, kernels.SR_HIGH, kernels.SR_LOW)
    rr = _exact(sums, kernels.RR_HIGH, kernels.RR_LOW)
    return _independent(value, (s, ss, r, sr, rr), n)


def _accuracy_difference(state: State, pair: Pair, outcomes: Outcomes, weight: float) -> Difference:
    sums, n = pair.sums, state.positive
    only_a, only_b = outcomes.only_a_right or 0, outcomes.only_b_right or 0
    s = ss = Fraction(n)
    r = sr = Fraction(only_a - only_b)
    rr = Fraction(only_a + only_b)
    if state.weighted:
        r = exact_sum_fraction(sums[kernels.HITS_A]) - exact_sum_fraction(sums[kernels.HITS_B])
        s, ss = exact_sum_fraction(sums[kernels.S]), _exact(sums, kernels.SS_HIGH, kernels.SS_LOW)
        sr, rr = exact_sum_fraction(sums[kernels.SH]), exact_sum_fraction(sums[kernels.HH])
    value = float(r / s) if s else math.nan
    if "cluster" in state.names and s:
        groups = pair.groups["cluster"]
        h = groups.values()[kernels.G_H] if state.weighted else _net_hits(groups).astype(float)
        return _clustered(h, value, state, pair, weight)
    return _independent(value, (s, ss, r, sr, rr), n)


def _independent(value: float, exact: tuple[Fraction, ...], n: int) -> Difference:
    """With the standard error of independent rows, from exact sums of s, s², r = s d, s r and r²."""
    s, ss, r, sr, rr = exact
    if n < 2:
        return _difference(value, math.nan, 0)
    m = r / s
    squares = max(rr - 2 * m * sr + m * m * ss, Fraction(0))
    return _difference(value, square_root(squares * n / ((n - 1) * s * s)), n - 1)


def _clustered(sums: np.ndarray, value: float, state: State, pair: Pair, weight: float) -> Difference:
    """With that of independent clusters, from each one's sum of s d."""
    return _difference(value, *_clusters_error(sums, _weights(state, pair.groups["cluster"]), value, weight))


def _clusters_error(r: np.ndarray, s: np.ndarray, mean: float, weight: float) -> tuple[float, int]:
    """The standard error of a mean from each cluster's sums of s d and s; then its degrees of freedom."""
    n = int(np.count_nonzero(s > 0.0))
    if n < 2 or not math.isfinite(mean):
        return math.nan, 0
    e, total = r - mean * s, np.zeros(STATE_SIZE, np.int64)
    squares = np.ascontiguousarray(e * e)
    exact_sum_add_block(total, squares, squares.size)
    if not math.isfinite(exact_sum_value(total)):
        return math.inf, n - 1
    return square_root(exact_sum_fraction(total) * Fraction(n, n - 1) / Fraction(weight) ** 2), n - 1


def _weights(state: State, groups: Groups) -> np.ndarray:
    """The sum of each group's weights."""
    return groups.values()[kernels.G_S] if state.weighted else _rows(groups).astype(float)


def _has_weight(state: State, pair: Pair) -> np.ndarray:
    return _weights(state, pair.groups["cluster"]) > 0.0


def _difference(value: float, se: float, dof: int) -> Difference:
    """With Student's t: no difference in any row has p = 1, the same difference in all of them p = 0."""
    from scipy.special import stdtr, stdtrit

    if dof < 1 or not math.isfinite(se):
        return Difference(value, se, (math.nan, math.nan), math.nan, dof, math.nan)
    half = float(stdtrit(dof, 0.5 + LEVEL / 2)) * se
    t = value / se if se > 0.0 else (math.copysign(math.inf, value) if value else 0.0)
    return Difference(value, se, (value - half, value + half), t, dof, 2.0 * float(stdtr(dof, -abs(t))))


def _mcnemar(only_a: int, n: int) -> float:
    """The exact two-sided test of a fair coin."""
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(only_a, n - only_a), n, 0.5))) if n else 1.0


def _table(state: State, pair: Pair, which: str, names: "list[int | str]", weight: float) -> DifferenceTable:
    groups = pair.classes if which == "classes" else pair.groups[which]
    order = np.array(sorted(range(len(names)), key=lambda k: (isinstance(names[k], str), names[k])), np.int64)
    outcomes, sums = groups.outcomes[order].reshape(-1, 4, 3), groups.values()[:, order]
    n = outcomes.sum((1, 2))
    s = sums[kernels.G_S] if state.weighted else n.astype(float)
    r, rr = sums[kernels.G_R], sums[kernels.G_RR]
    ss, sr = (sums[kernels.G_SS], sums[kernels.G_SR]) if state.weighted else (s, r)
    h = sums[kernels.G_H] if state.weighted else _net_hits(groups)[order].astype(float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        m = r / s
        if CROSSED[which] in state.names:
            se = _clusters_errors(state, pair, which, names, m[np.argsort(order)], s[np.argsort(order)])[order]
        else:
            squares = np.maximum(rr - 2 * m * sr + m * m * ss, 0.0)
            se = np.sqrt(squares * (n / (n - 1.0))) / s
        table = DifferenceTable(
            value=[names[k] for k in order.tolist()],
            n=n,
            weight=s,
            difference=m,
            se=np.where(n > 1, se, math.nan),
            share=r / weight,
            a_lower=outcomes.sum(1)[:, kernels.A_LOWER],
            b_lower=outcomes.sum(1)[:, kernels.B_LOWER],
            accuracy_difference=h / s if state.hard else None,
        )
    for column in table[1:]:
        if column is not None:
            column.setflags(write=False)
    return table


def _clusters_errors(
    state: State, pair: Pair, which: str, names: "list[int | str]", means: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The standard errors of a table's means, given those and the weights' sums in the order of the names."""
    cells = pair.groups[CROSSED[which]]
    places = {name: k for k, name in enumerate(names)}
    of_cell = np.array([places[entry] for _, entry in state.names[CROSSED[which]]], np.int64)
    order = np.argsort(of_cell, kind="stable")
    r, s = cells.values()[kernels.G_R][order], _weights(state, cells)[order]
    ends = np.cumsum(np.bincount(of_cell, minlength=len(names)))[:-1]
    each = zip(np.split(r, ends), np.split(s, ends), means.tolist(), weights.tolist())
    return np.array([_clusters_error(*one)[0] for one in each])


def _rows(groups: Groups) -> np.ndarray:
    return groups.outcomes[: groups.n_groups].sum(1)


def _net_hits(groups: Groups) -> np.ndarray:
    """Rows that a alone gets right less those that b alone does."""
    by_hits = groups.outcomes[: groups.n_groups].reshape(-1, 4, 3).sum(2)
    return by_hits[:, 1] - by_hits[:, 2]


def _deciding(pair: Pair, side: int, hard: bool) -> tuple[DecidingRow, ...]:
    used, losses, names = pair.lists
    rows = zip(losses[side, : used[side]].tolist(), names[side, : used[side]].tolist())
    return tuple(DecidingRow(i, label if hard else None, a, b) for (a, b), (i, label) in rows)


def _exact(sums: np.ndarray, *columns: int) -> Fraction:
    return sum((exact_sum_fraction(sums[k]) for k in columns), Fraction(0))


def _ratio(total: float, weight: float) -> float:
    """One division; NaN where there is no weight; never -0.0."""
    return total / weight + 0.0 if weight > 0 else math.nan
