"""none, sum, mean: from exact sums to what the user gets.

A sum is the correctly rounded sum of the rows' losses; a mean is that number over the correctly rounded sum of the
rows' weights: one division. So neither depends on the order, the threads or the chunks the rows came in.
"""

import warnings

import numpy as np

from fastxent.kernels import batch as kernels
from fastxent.kernels.exactsum import STATE_SIZE

LOSSES, WEIGHTS = 0, 1  # rows of a pair of sums
NO_ROWS = "mean of no rows: there is none, or each is ignored or has weight 0"


def new_sums(reduction: str) -> np.ndarray:
    """The pair of exact sums a driver adds to, int64[2, STATE_SIZE]; with no rows, so nothing is summed, for "none"."""
    return np.zeros((0 if reduction == "none" else 2, STATE_SIZE), np.int64)


def values_of(sums: np.ndarray) -> tuple[float, float]:
    """The pair of sums, each rounded once; zeros where nothing was summed."""
    return kernels.values_of(sums) if len(sums) else (0.0, 0.0)


def reduce(
    reduction: str, out: np.ndarray, total: float, weight: float, shape: tuple[int, ...]
) -> "np.ndarray | float":
    """The rows' losses in `shape` ("none"), their sum or their mean (nats).

    Parameters
    ----------
    reduction : {"none", "sum", "mean"}
    out : float64 array of prod(shape) losses; read for "none" alone
    total, weight : the sums of the losses and of their weights, rounded; read for "sum" and "mean"
    shape : the predictions' leading dimensions
    """
    if reduction == "mean":
        return divide(total, weight)
    return total if reduction == "sum" else out.reshape(shape)


def divide(total: float, weight: float) -> float:
    """A mean: total / weight, NaN with a RuntimeWarning when no row has weight."""
    if weight == 0.0:
        warnings.warn(NO_ROWS, RuntimeWarning, stacklevel=5)  # the caller of a function of losses.py
        return float("nan")
    mean = total / weight
    return mean if mean != 0.0 else 0.0  # a tiny negative total must not give -0.0
