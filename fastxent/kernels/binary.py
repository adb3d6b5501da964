"""One logit or probability a row: the two-class losses, eight rows at once in float64."""

import math

from fastxent.kernels import elementary
from fastxent.kernels.jit import inline
from fastxent.kernels.simd import maximum, select


@inline
def binary_nll(z, target, pos_weight):
    """w·t·ln(1 + e^-z) + (1 - t)·ln(1 + e^z) for eight logits: both terms are non-negative, nothing cancels."""
    rest = elementary.log1p(elementary.exp(-maximum(z, -z)))
    positive = maximum(-z, 0.0) + rest
    negative = maximum(z, 0.0) + rest
    return _weigh(pos_weight * target, positive) + _weigh(1.0 - target, negative)


@inline
def binary_log_loss(p, target, pos_weight, eps):
    """-w·t·ln p - (1 - t)·ln(1 - p) for eight probabilities, clipped to [eps, 1 - eps] when eps > 0."""
    positive = -elementary.log(p)
    negative = -elementary.log1p(-p)
    if eps > 0.0:
        low, high = -elementary.log(eps), -elementary.log1p(-eps)
        positive = select(p < eps, low, select(p > 1.0 - eps, high, positive))
        negative = select(p < eps, high, select(p > 1.0 - eps, low, negative))
    return _weigh(pos_weight * target, positive) + _weigh(1.0 - target, negative)


@inline
def _weigh(weight, loss):
    """A term without weight counts 0, even where its logarithm is infinite; a NaN stays."""
    return select((weight == 0.0) & (loss == math.inf), 0.0, weight * loss)
