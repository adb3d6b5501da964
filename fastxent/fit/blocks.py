"""A linear model's losses and their gradient, for blocks of rows whose logits stay in a core's cache.

Every block is visited once: its logits are made by BLAS, become the gradient in the logits in place, and are
multiplied with its features. Blocks belong to parts, which threads take; parts do not depend on the threads' number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from fastxent.checks import ABSENT
from fastxent.kernels import gradient_calls
from fastxent.kernels.batch import merge_parts, values_of
from fastxent.linear.gradients import add_product
from fastxent.reductions import new_sums
from fastxent.threads import side_by_side

BLOCK_BYTES = 1 << 19  # of logits
FEWEST_ROWS, MOST_ROWS = 64, 4096
PARTS = 8  # at most: each has a gradient of its own
# Products of fewer multiplications than this are made on one thread, or on BLAS's: 1 ms or so.
PARALLEL = 1 << 23
# From so many multiplications and logits a row on products in float32 save more than a copy of the features costs.
NARROW, NARROW_CLASSES = 1 << 20, 8


@dataclass
class LinearModel:
    """Rows of features, targets and weights, and how many logits there are a row (one of two classes)."""

    x: Any
    target: np.ndarray  # int64[n], or floating [n, k]
    weight: "np.ndarray | None"  # float64[n]
    k: int
    dtype: np.dtype[Any]  # of the products

    def __post_init__(self) -> None:
        n, d = self.x.shape
        self.sparse = bool(sparse.issparse(self.x))
        step = max(FEWEST_ROWS, min(MOST_ROWS, BLOCK_BYTES // (self.k * self.dtype.itemsize)))
        self.blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        parts = min(PARTS, len(self.blocks))
        cuts = [len(self.blocks) * part // parts for part in range(parts + 1)]
        self.parts = [self.blocks[first:last] for first, last in pairwise(cuts)]
        each = self.x.nnz if self.sparse else n * d
        self.parallel = len(self.parts) > 1 and each * self.k >= PARALLEL
        if self.target.ndim > 1:
            self.target = np.ascontiguousarray(self.target, self.dtype)

    def loss(
        self, coef: np.ndarray, bias: np.ndarray, scale: float, threads: int = 1, keep: "np.ndarray | None" = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Summed loss, and ``scale`` times its gradient: in the coefficients (k, d), and in the biases (k,).

        More than one thread where BLAS uses the calling one alone. ``keep``, of shape (n, k), gets the gradient in the
        logits.
        """
        w, b = coef.astype(self.dtype, copy=False), bias.astype(self.dtype, copy=False)
        if len(self.parts) == 1:
            sums, of_coef, of_bias = self._part(self.blocks, w, b, scale, keep)
            return values_of(sums)[0], of_coef.astype(np.float64, copy=False), of_bias
        work = [partial(self._part, part, w, b, scale, keep) for part in self.parts]
        made = _on_threads(work, threads if self.parallel else 1)
        sums = new_sums("sum")
        merge_parts(np.stack([part[0] for part in made]), sums)
        of_coef, of_bias = made[0][1].astype(np.float64), made[0][2]
        for _, more, bias_more in made[1:]:
            of_coef += more
            of_bias += bias_more
        return values_of(sums)[0], of_coef, of_bias

    def _part(
        self, blocks: list[slice], w: np.ndarray, b: np.ndarray, scale: float, keep: "np.ndarray | None"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One part's exact sums, and its gradients in coefficients and biases."""
        sums, of_bias = new_sums("sum"), np.zeros(self.k)
        of_coef: Any = None
        longest = blocks[0].stop - blocks[0].start
        buffer, ones = np.empty((longest, self.k), self.dtype), np.ones(longest, self.dtype)
        for rows in blocks:
            x, m = self.features(rows), rows.stop - rows.start
            z = buffer[:m] if keep is None else keep[rows]
            if self.sparse:
                np.add(x @ w.T, b, out=z)
            else:
                np.matmul(x, w.T, out=z)
                z += b
            self._to_gradient(z, rows, scale, sums)
            if of_coef is None:
                of_coef = np.ascontiguousarray((x.T @ z).T) if self.sparse else z.T @ x
            elif self.sparse or not x.flags.c_contiguous or self.k == 1:
                of_coef += (x.T @ z).T
            else:
                add_product(z, x, of_coef, turned=True)
            of_bias += ones[:m] @ z  # a product takes a twentieth of a sum over few columns
        return sums, of_coef, of_bias

    def _to_gradient(self, z: np.ndarray, rows: slice, scale: float, sums: np.ndarray) -> None:
        """Logits become the gradient in their place; their losses go to exact sums."""
        s, target, views = ABSENT if self.weight is None else self.weight[rows], self.target[rows], z[None]
        if self.k == 1:
            call = gradient_calls.binary_gradient(views, target[None], s, views, None, scale, ABSENT, 1.0)
        elif target.ndim > 1:
            call = gradient_calls.soft_gradient(views, target[None], s, views, None, scale, ABSENT, ABSENT, 0.0, 1.0)
        else:
            call = gradient_calls.hard_gradient(
                views, target, s, views, None, scale, ABSENT, ABSENT, False, 0, 0.0, 1.0
            )
        call.call.run_serial(0, -1, ABSENT, sums)

    def features(self, rows: slice) -> Any:
        """Rows of features as they are multiplied."""
        x = _rows_of(self.x, rows) if self.sparse else self.x[rows]
        return x if x.dtype == self.dtype else x.astype(self.dtype)


def _rows_of(x: Any, rows: slice) -> Any:
    """Rows of a CSR matrix; its numbers are not copied."""
    first, last = x.indptr[rows.start], x.indptr[rows.stop]
    parts = x.data[first:last], x.indices[first:last], x.indptr[rows.start : rows.stop + 1] - first
    return type(x)(parts, shape=(rows.stop - rows.start, x.shape[1]))


def _on_threads(work: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """What functions return; each thread takes the next one that is left."""
    made: list[Any] = [None] * len(work)
    left = iter(range(len(work)))

    def take() -> None:
        for index in left:  # next() of a range's iterator is one step of the interpreter
            made[index] = work[index]()

    side_by_side([take] * min(threads, len(work)))
    return made


def worth_narrowing(x: Any, k: int) -> bool:
    """Whether products in float32 save more than a copy of the features costs."""
    each = x.nnz if sparse.issparse(x) else math.prod(x.shape)
    return bool(x.dtype == np.float64 and k >= NARROW_CLASSES and each * k >= NARROW)
