"""Standard errors and intervals of a score card's figures, from the replicates of its bootstrap."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels import bootstrap as kernel
from fastxent.kernels.batch import exp_scalar
from fastxent.scoring.replicates import Replicates


class Interval(NamedTuple):
    """A figure, and how it varies over the replicates: NaN where fewer than two have it."""

    value: float  # of all rows
    se: float  # standard deviation, over n - 1
    low: float  # 2.5 % quantile: the 95 % percentile interval's lower end
    high: float  # 97.5 % quantile
    bias: float  # mean minus value


class Bootstrap(NamedTuple):
    """A Poisson bootstrap of a score card's figures, by name: nll, perplexity, accuracy, top_5_accuracy, ece, ...

    Each replicate has each row a random number of times, Poisson distributed with mean 1. How often depends on seed,
    the row's position and the replicate alone; so two models' replicates with one seed are of the same rows: see
    `difference`.

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
    weight: np.ndarray  # float64[n]: of the rows that were drawn

    def difference(self, other: "Bootstrap") -> dict[str, Interval]:
        """The figures of this model minus those of another on the same rows, from the same replicates.

        Parameters
        ----------
        other : Bootstrap
            Of the same rows and weights, with the same seed.

        Returns
        -------
        dict of Interval
            By name; "perplexity_ratio" besides.

        Raises
        ------
        ValueError
            Where the replicates drew other rows.

        Examples
        --------
        >>> import numpy as np, fastxent
        >>> z, y = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 1])
        >>> a, b = (fastxent.score(model, y, bootstrap=100).bootstrap for model in (z, 2 * z))
        >>> a.difference(b)["accuracy"]
        Interval(value=0.0, se=0.0, low=0.0, high=0.0, bias=0.0)
        """
        if (self.n, self.seed) != (other.n, other.seed) or not np.array_equal(self.weight, other.weight):
            raise ValueError("other: its replicates are of other rows or weights, or of another number or seed")
        with np.errstate(all="ignore"):
            found = {
                name: _interval(self.replicates[name] - other.replicates[name], a.value - other.figures[name].value)
                for name, a in self.figures.items()
                if name in other.figures
            }
            ratio = np.array([exp_scalar(x) for x in (self.replicates["nll"] - other.replicates["nll"]).tolist()])
            value = float(exp_scalar(self.figures["nll"].value - other.figures["nll"].value))
            return found | {"perplexity_ratio": _interval(ratio, value)}


def intervals(replicates: Replicates, figures: dict[str, Any]) -> Bootstrap:
    """The bootstrap of the figures that there are of those of a score card."""
    with np.errstate(all="ignore"):
        values = {**figures, **{f"top_{k}_accuracy": v for k, v in (figures["top_k_accuracy"] or {}).items()}}
        found = _replicates(replicates, math.isnan(figures["nll"]))
        found = {name: some for name, some in found.items() if name in values}
        spread = {name: _interval(some, values[name]) for name, some in found.items()}
    weight = replicates.rows()
    for some in (*found.values(), weight):
        some.setflags(write=False)
    return Bootstrap(replicates.n, replicates.seed, spread, found, weight)


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
        return Interval(figure, *[math.nan] * 4)
    mean = _mean(some)
    se = math.sqrt(math.fsum(((some - mean) ** 2).tolist()) / (some.size - 1)) if math.isfinite(mean) else mean * 0.0
    return Interval(figure, se, _quantile(some, 0.025), _quantile(some, 0.975), mean - figure)


def _quantile(some: np.ndarray, share: float) -> float:
    """NumPy's quantile, for infinite numbers too."""
    some, place = np.sort(some).tolist(), share * (len(some) - 1)
    k = int(place)
    low, high = some[k], some[min(k + 1, len(some) - 1)]
    return low if low == high else low + (high - low) * (place - k)


def _mean(some: np.ndarray) -> float:
    return math.fsum(some.tolist()) / some.size if np.isfinite(some).all() else float(some.max())
