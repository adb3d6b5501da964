"""Standard errors and intervals of a score card's figures, from the replicates of its bootstrap."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels import bootstrap as kernel
from fastxent.kernels.batch import exp_scalar
from fastxent.score_replicates import Replicates


class Interval(NamedTuple):
    """How a figure varies over the replicates. NaN where fewer than two have it."""

    se: float  # standard deviation, over n - 1
    low: float  # 2.5 % quantile: the 95 % percentile interval's lower end
    high: float  # 97.5 % quantile
    bias: float  # mean, minus the figure itself


class Bootstrap(NamedTuple):
    """A Poisson bootstrap of a score card's figures, by name: nll, perplexity, accuracy, top_5_accuracy, ece, ...

    Each replicate has each row a random number of times, Poisson distributed with mean 1. How often depends on seed,
    the row's position and the replicate alone; so two models' replicates with one seed are of the same rows, and
    `a.bootstrap.replicates["ece"] - b.bootstrap.replicates["ece"]` are replicates of the difference.

    References
    ----------
    Efron, Tibshirani: An introduction to the bootstrap (1993), chapters 6 and 13.
    Chamandy, Muralidharan, Najmi, Naidu: Estimating uncertainty for massive data streams (2012).
    Hanley, MacGibbon: Creating non-parametric bootstrap samples using Poisson frequencies (2006).
    """

    n: int
    seed: int
    figures: dict[str, Interval]
    replicates: dict[str, np.ndarray]  # float64[n]; NaN in a replicate that drew no row


def intervals(replicates: Replicates, figures: dict[str, Any]) -> Bootstrap:
    """The bootstrap of the figures that a score card has."""
    with np.errstate(all="ignore"):
        found = _replicates(replicates, math.isnan(figures["nll"]))
        values = {**figures, **{f"top_{k}_accuracy": v for k, v in (figures["top_k_accuracy"] or {}).items()}}
        spread = {name: _interval(some, values[name]) for name, some in found.items()}
    for some in found.values():
        some.setflags(write=False)
    return Bootstrap(replicates.n, replicates.seed, spread, found)


def _replicates(sums: Replicates, undefined: bool) -> dict[str, np.ndarray]:
    weight = sums.rows()
    nll = np.where(sums.infinite() > 0, math.nan if undefined else math.inf, sums.column(kernel.NLL) / weight)
    gaps = sums.gaps()
    found = {
        "nll": nll,
        "perplexity": np.array([exp_scalar(x) for x in nll.tolist()]),
        "brier": sums.column(kernel.BRIER) / weight,
        "entropy": sums.column(kernel.ENTROPY) / weight,
        "confidence": ((sums.hits(1) if sums.hard else 0.0) - gaps.sum(0)) / weight,
    }
    if sums.hard:
        found["accuracy"] = sums.hits(1) / weight
        found |= {f"top_{k}_accuracy": sums.hits(k) / weight for k in sums.tops.tolist() if k > 1}
        found["ece"] = np.abs(gaps).sum(0) / weight
    return found


def _interval(some: np.ndarray, figure: float) -> Interval:
    some = some[~np.isnan(some)]
    if some.size < 2:
        return Interval(*[math.nan] * 4)
    mean = _mean(some)
    se = math.sqrt(math.fsum(((some - mean) ** 2).tolist()) / (some.size - 1)) if math.isfinite(mean) else mean * 0.0
    return Interval(se, _quantile(some, 0.025), _quantile(some, 0.975), mean - figure)


def _quantile(some: np.ndarray, share: float) -> float:
    """NumPy's quantile, for infinite numbers too."""
    some, place = np.sort(some).tolist(), share * (len(some) - 1)
    k = int(place)
    low, high = some[k], some[min(k + 1, len(some) - 1)]
    return low if low == high else low + (high - low) * (place - k)


def _mean(some: np.ndarray) -> float:
    return math.fsum(some.tolist()) / some.size if np.isfinite(some).all() else float(some.max())
