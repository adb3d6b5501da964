"""The gradient of linear cross-entropy.

Where some rows' logits to all classes fit into KEPT_BYTES they are made once: from their sums follow the rows' losses,
then they become dl/dz in place, and are multiplied into the gradients: three products a block. Otherwise every block is
made once more after the losses (four products), classes being the outer loop, so that the classifier's gradient is
finished block by block.

Gradients are summed in the products' dtype, and rounded once where theirs is narrower.
"""

import math
from typing import Any

import numpy as np

from fastxent.checks import ABSENT, result_dtype
from fastxent.kernels import linear as kernels
from fastxent.kernels.batch import Call
from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.linear.blocks import BLOCK_ROWS, LinearBatch, Losses, Piece, labelled, pieces, product, run
from fastxent.reductions import WEIGHTS, new_sums, values_of
from fastxent.slices import F32, Predictions, is_ready

# 2048 rows, 1024 features, float32, two cores, products alone, in s: 0.57 with three of them by 512 rows and 0.75 with
# four for 8192 classes, 1.09 and 1.45 for 16384; 5.35 (by 128 rows) and 6.31 for 65536.
KEPT_BYTES = 1 << 25
FEWEST_KEPT_ROWS, MOST_KEPT_ROWS = 128, 1024
SCALED = [kernels.G_FACTOR, kernels.G_OWN, kernels.G_SPREAD]


def value_and_gradients(
    batch: LinearBatch, reduction: str, grad_scale: float, row_scales: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Rows' losses ("none"), exact sums, and the gradients of hidden states, classifier and (if there is one) bias."""
    if reduction == "mean":
        weight = _total_weight(batch)
        grad_scale = grad_scale / weight if weight != 0.0 else 0.0
    with np.errstate(over="ignore"):  # beyond a narrow format's range is inf, as in every library
        return _Gradients(batch, reduction, grad_scale, row_scales).made()


def _total_weight(batch: LinearBatch) -> float:
    """What the mean divides by: Σ s_i·w_y of the rows that count, correctly rounded."""
    sums = new_sums("mean")
    for _, labels, s in labelled(batch, 1 << 16):
        weights = batch.weight[labels] if batch.weight.size else np.ones(len(labels))
        weights = weights * s if s.size else weights
        exact_sum_add_block(sums[WEIGHTS], weights, weights.size)
    return values_of(sums)[1]


def kept_rows(batch: LinearBatch) -> int:
    """How many rows' logits are kept at once; 0: those of some classes are made twice."""
    if batch.softcap < math.inf or not is_ready(batch.classifier.array, batch.dtype):
        return 0  # a cap's slope needs what was capped, and a copied classifier would be copied for every piece
    rows = KEPT_BYTES // (batch.dtype.itemsize * batch.n_classes)
    return min(rows, MOST_KEPT_ROWS, BLOCK_ROWS) if rows >= FEWEST_KEPT_ROWS else 0


class _Gradients:
    def __init__(self, batch: LinearBatch, reduction: str, grad_scale: float, row_scales: np.ndarray | None) -> None:
        self.batch, self.grad_scale, self.row_scales = batch, grad_scale, row_scales
        self.kept = kept_rows(batch)
        self.work = Losses(batch, rows=self.kept)
        none = reduction == "none"
        self.rows, self.sums = np.zeros(batch.hidden.n_rows if none else 0), new_sums("sum")
        self.for_hidden, self.for_classifier = _like(batch.hidden), _like(batch.classifier)
        self.for_bias = np.zeros(batch.bias.size)
        self.flat = flat = self.for_hidden.reshape(-1, batch.hidden.n_classes)
        self.hidden_sums = flat if flat.dtype == batch.dtype else np.zeros(flat.shape, batch.dtype)
        self.extras = np.zeros((1, 2, batch.n_classes), batch.dtype)  # bias and class weights
        self.extras[0, 0] = self.work.bias[0, 0] if batch.bias.size else 0.0
        self.extras[0, 1] = batch.weight if batch.weight.size else 1.0

    def made(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Losses, sums and gradients."""
        places = self.in_one() if self.kept else self.in_two()
        _put(self.flat, self.hidden_sums, places)
        gradients = [self.for_hidden, self.for_classifier]
        if self.batch.bias_as_given is not None:
            gradients.append(self.for_bias.astype(result_dtype(self.batch.bias_as_given)))
        return self.rows, self.sums, gradients

    def in_one(self) -> list[Any]:
        """Every logit made once."""
        places, first = [], 0
        w, classes = self.work.classifier.block(slice(None)), (0, self.batch.n_classes)
        for piece in pieces(self.batch, self.kept):
            places.append(piece.rows)
            factors = self.losses(piece)
            z = self.work.logits[: len(piece.labels) * len(w)].reshape(-1, len(w))  # logits by now
            self.add(piece, factors, z, w, classes, first, self.for_classifier)
            first += len(z)
        return places

    def in_two(self) -> list[Any]:
        """Every logit made for its row's loss, and once more for the gradient."""
        batch, work = self.batch, self.work
        places, factors = [], []
        for piece in pieces(batch):
            places.append(piece.rows)
            factors.append(self.losses(piece))
        only = list(pieces(batch)) if len(places) == 1 else None
        for start, stop in work.bounds if places else []:
            w, into, first = work.classifier.block(slice(start, stop)), self.for_classifier[start:stop], 0
            block = into if into.dtype == batch.dtype else np.zeros(into.shape, batch.dtype)
            for piece, made in zip(only or pieces(batch), factors):
                z = product(piece.hidden, w, work.logits)
                self.add(piece, made, z, w, (start, stop), first, block)
                first += len(z)
            if block is not into:
                np.copyto(into, block, casting="unsafe")
        return places

    def losses(self, piece: Piece) -> np.ndarray:
        """A piece's losses and exact sums; returns what kernels.gradient takes, float64[GRADIENT, m]."""
        own = self.work.own_logits(piece)
        states = self.work.states(piece, own)
        found = np.empty(len(own))
        self.work.finish(piece, own, states, found, self.sums)
        if self.rows.size:
            self.rows[piece.rows] = found
        factors = _row_factors(self.batch, piece, states)
        factors[SCALED] *= self.grad_scale
        if self.row_scales is not None:
            factors[SCALED] *= self.row_scales[piece.rows]
        return factors

    def add(
        self,
        piece: Piece,
        factors: np.ndarray,
        z: np.ndarray,
        w: np.ndarray,
        classes: tuple[int, int],
        first: int,
        into: np.ndarray,
    ) -> None:
        """Make a block of logits (or of products) dl/dz, and add what follows from it to the gradients."""
        start, stop = classes
        integers, reals = self.work.options
        integers = integers.copy()
        integers[kernels.CLASSES], integers[kernels.FIRST_CLASS] = stop - start, start
        if self.kept:
            integers[kernels.HAS_BIAS] = 0  # it is in them
        data = (integers, reals), 0, piece.labels, ABSENT, self.for_bias[start:stop]
        run(Call(kernels.gradient, z[None], self.extras[:, :, start:stop], *data), factors.reshape(-1))
        add_product(z, w, self.hidden_sums[first : first + len(z)], turned=False)
        add_product(z, piece.hidden, into, turned=True)


def _row_factors(batch: LinearBatch, piece: Piece, states: np.ndarray) -> np.ndarray:
    """What kernels.gradient takes, for the gradient of the rows' sum: float64[GRADIENT, m]."""
    made = np.empty((kernels.GRADIENT, states.shape[1]))
    keep, spread = 1.0 - batch.label_smoothing, batch.label_smoothing / batch.n_classes
    w = batch.weight[piece.labels] if batch.weight.size else np.ones(len(piece.labels))
    s = (piece.sample_weight if piece.sample_weight.size else 1.0) / batch.temperature
    others = spread * (batch.weight.sum() if batch.weight.size else batch.n_classes) - w * spread
    valid = np.where(states[kernels.NLL] == states[kernels.NLL], s, math.nan)
    share = states[kernels.SHARE]
    made[kernels.G_S], made[kernels.G_K] = states[kernels.S], states[kernels.K]
    made[kernels.G_FACTOR] = valid * (w * (keep + spread) + others) / states[kernels.A]
    # Σ c_k q_y - c_y with q_y = 1 - share: without smoothing nothing cancels
    made[kernels.G_OWN] = valid * (others * (1.0 - share) - w * (keep + spread) * share)
    made[kernels.G_SPREAD] = s * spread
    return made


def add_product(left: np.ndarray, right: np.ndarray, into: np.ndarray, *, turned: bool) -> None:
    """Add left @ right, or left.T @ right, to ``into``; all are C-ordered."""
    from scipy.linalg import blas

    multiply = blas.sgemm if into.dtype == F32 else blas.dgemm
    multiply(1.0, right.T, left.T, beta=1.0, c=into.T, trans_b=turned, overwrite_c=1)


def _like(matrix: Predictions) -> np.ndarray:
    """Zeros of a matrix's shape, in its dtype (float64 for integers)."""
    return np.zeros(matrix.array.shape, result_dtype(matrix))


def _put(hidden: np.ndarray, sums: np.ndarray, places: list[Any]) -> None:
    """The gradients of the rows that count, the first rows of ``sums``, to their places; 0 to the others.

    ``sums`` may be ``hidden``: a row never lies behind its place, so the last ones go first.
    """
    counts = [rows.stop - rows.start if isinstance(rows, slice) else len(rows) for rows in places]
    last = sum(counts)
    for rows, count in zip(reversed(places), reversed(counts)):
        first = last - count
        if not (sums is hidden and isinstance(rows, slice) and rows.start == first):
            found = sums[first:last].copy()
            if sums is hidden:
                hidden[first:last] = 0.0
            hidden[rows] = found
        last = first
