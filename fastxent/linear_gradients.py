"""The gradient of linear cross-entropy: after the losses, every block of logits is made once more.

A block becomes dl/dz in place, and is multiplied into the gradients of the hidden states and of its classes. The
classes are the outer loop, so that the classifier's gradient is finished block by block and, like that of the hidden
states, rounded once where its dtype is narrower than the products'.
"""

import math
from typing import Any

import numpy as np

from fastxent.checks import ABSENT, result_dtype
from fastxent.kernels import linear as kernels
from fastxent.kernels.batch import Call
from fastxent.linear_blocks import LinearBatch, Losses, Piece, pieces, product, run
from fastxent.reductions import new_sums, values_of
from fastxent.slices import F32, Predictions

SCALED = [kernels.G_FACTOR, kernels.G_OWN, kernels.G_SPREAD]


def value_and_gradients(
    batch: LinearBatch, reduction: str, grad_scale: float, row_scales: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Rows' losses ("none"), exact sums, and the gradients of hidden states, classifier and (if there is one) bias."""
    work = Losses(batch, ranked=False)
    n, none = batch.hidden.n_rows, reduction == "none"
    rows, sums = np.zeros(n if none else 0), new_sums("sum")
    places: list[Any] = []
    factors: list[np.ndarray] = []
    for piece in pieces(batch):
        own = work.own_logits(piece)
        states = work.states(piece, own)
        found = np.empty(len(own))
        work.finish(piece, own, states, found, sums)
        if none:
            rows[piece.rows] = found
        places.append(piece.rows)
        factors.append(_row_factors(batch, piece, states))
        if row_scales is not None:
            factors[-1][SCALED] *= row_scales[piece.rows]
    if reduction == "mean":
        weight = values_of(sums)[1]
        grad_scale = grad_scale / weight if weight != 0.0 else 0.0
    for made in factors:
        made[SCALED] *= grad_scale
    with np.errstate(over="ignore"):  # beyond a narrow format's range is inf, as in every library
        return rows, sums, _gradients(work, places, factors)


def _row_factors(batch: LinearBatch, piece: Piece, states: np.ndarray) -> np.ndarray:
    """What kernels.gradient takes, for the gradient of the rows' sum: float64[GRADIENT, m]."""
    made = np.empty((kernels.GRADIENT, states.shape[1]))
    keep, spread = 1.0 - batch.label_smoothing, batch.label_smoothing / batch.n_classes
    w = batch.weight[piece.labels] if batch.weight.size else np.ones(len(piece.labels))
    s = piece.sample_weight if piece.sample_weight.size else 1.0
    others = spread * (batch.weight.sum() if batch.weight.size else batch.n_classes) - w * spread
    s = s / batch.temperature
    valid = np.where(states[kernels.NLL] == states[kernels.NLL], s, math.nan)
    share = states[kernels.SHARE]
    made[kernels.G_S], made[kernels.G_K] = states[kernels.S], states[kernels.K]
    made[kernels.G_FACTOR] = valid * (w * (keep + spread) + others) / states[kernels.A]
    # Σ c_k q_y - c_y, with q_y = 1 - share: nothing cancels without smoothing
    made[kernels.G_OWN] = valid * (others * (1.0 - share) - w * (keep + spread) * share)
    made[kernels.G_SPREAD] = s * spread
    return made


def _gradients(work: Losses, places: list[Any], factors: list[np.ndarray]) -> list[np.ndarray]:
    batch, n = work.batch, sum(made.shape[1] for made in factors)
    (integers, reals), biased = work.options, batch.bias.size > 0
    for_hidden, for_classifier = _like(batch.hidden), _like(batch.classifier)
    for_bias = np.zeros(batch.bias.size)
    hidden = for_hidden.reshape(-1, batch.hidden.n_classes)
    sums = hidden[:n] if hidden.dtype == batch.dtype else np.zeros((n, batch.hidden.n_classes), batch.dtype)
    extras = np.zeros((1, 2, batch.n_classes), batch.dtype)  # bias and class weights
    extras[0, 0] = work.bias[0, 0] if biased else 0.0
    extras[0, 1] = batch.weight if batch.weight.size else 1.0
    only = list(pieces(batch)) if len(factors) == 1 else None
    for start, stop in work.bounds if n else []:
        w, into = work.classifier.block(slice(start, stop)), for_classifier[start:stop]
        block = into if into.dtype == batch.dtype else np.zeros(into.shape, batch.dtype)
        integers = integers.copy()
        integers[kernels.CLASSES], integers[kernels.FIRST_CLASS] = stop - start, start
        first = 0
        for piece, made in zip(only or pieces(batch), factors):
            z = product(piece.hidden, w, work.logits)
            data = piece.labels, ABSENT, for_bias[start:stop]
            call = Call(kernels.gradient, z[None], extras[:, :, start:stop], (integers, reals), 0, *data)
            run(call, made.reshape(-1))
            add_product(z, w, sums[first : first + len(z)], turned=False)
            add_product(z, piece.hidden, block, turned=True)
            first += len(z)
        if block is not into:
            np.copyto(into, block, casting="unsafe")
    _put(hidden, sums, [piece.rows for piece in only or pieces(batch)])
    return [for_hidden, for_classifier] + (
        [for_bias.astype(result_dtype(batch.bias_as_given))] if batch.bias_as_given else []
    )


def add_product(left: np.ndarray, right: np.ndarray, into: np.ndarray, *, turned: bool) -> None:
    """Add left @ right, or left.T @ right, to ``into``; all are C-ordered."""
    from scipy.linalg import blas

    multiply = blas.sgemm if into.dtype == F32 else blas.dgemm
    multiply(1.0, right.T, left.T, beta=1.0, c=into.T, trans_b=turned, overwrite_c=1)


def _like(matrix: Predictions) -> np.ndarray:
    """Zeros of a matrix's shape, in its dtype (float64 for integers)."""
    return np.zeros(matrix.array.shape, result_dtype(matrix))


def _put(hidden: np.ndarray, sums: np.ndarray, places: list[Any]) -> None:
    """The gradients of the rows that count to their places, 0 to the others.

    ``sums`` may be the first rows of ``hidden``: a row never lies behind its place, so the last ones go first.
    """
    last = len(sums)
    same = np.may_share_memory(sums, hidden)
    for rows in reversed(places):
        first = last - (rows.stop - rows.start if isinstance(rows, slice) else len(rows))
        if not (same and isinstance(rows, slice) and rows.start == first):
            found = sums[first:last].copy()
            if same:
                hidden[first:last] = 0.0
            hidden[rows] = found
        last = first
