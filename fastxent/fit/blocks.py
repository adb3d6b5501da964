"""A linear model's losses and their gradient, for blocks of rows whose logits stay in a core's cache.

Every block is visited once: its logits are made by BLAS, become the gradient in the logits in place, and are
multiplied with its features. Blocks belong to parts, which threads take; parts do not depend on the threads' number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastxent.checks import ABSENT
from fastxent.kernels import gradient_calls
from fastxent.kernels.batch import Call, merge_parts, values_of
from fastxent.linear.gradients import add_product
from fastxent.reductions import new_sums
from fastxent.threads import side_by_side

BLOCK_BYTES = 1 << 19  # of logits, and of features
FEWEST_ROWS, MOST_ROWS = 128, 4096
PARTS = 8  # at most: each has a gradient of its own
# Products of fewer multiplications than this are made on one thread: half a millisecond or so.
PARALLEL = 1 << 22
# From so many multiplications and logits a row on products in float32 save more than a copy of the features costs.
NARROW, NARROW_CLASSES = 1 << 20, 8


class Block(NamedTuple):
    """Some rows: how their logits become the gradient in them."""

    rows: slice
    x: Any  # their features; None where they are another dtype than the products'
    z: np.ndarray  # their logits, (m, k)
    call: Call  # losses of z, and their gradient in its place


@dataclass
class LinearModel:
    """Rows of features, targets and weights, and how many logits there are a row (one of two classes)."""

    x: Any
    target: np.ndarray  # int64[n], or floating [n, k]
    weight: "np.ndarray | None"  # float64[n]
    k: int
    dtype: np.dtype[Any]  # of the products
    scale: float  # of gradients
    keeps: bool = False  # whether all rows' gradients in the logits are kept, as ``z``

    def __post_init__(self) -> None:
        n, d = self.x.shape
        self.sparse = bool(sparse.issparse(self.x))
        self.target = self.target if self.target.ndim == 1 else np.ascontiguousarray(self.target, self.dtype)
        each = self.x.nnz if self.sparse else n * d
        step = BLOCK_BYTES // (max(self.k, each // n) * self.dtype.itemsize)
        step = max(FEWEST_ROWS, min(MOST_ROWS, step))
        slices = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        parts = min(PARTS, len(slices))
        self.z = np.empty((n if self.keeps else parts * min(step, n), self.k), self.dtype)
        self.parts = [
            [self._block(rows, part * step) for rows in slices[len(slices) * part // parts : last]]
            for part, last in enumerate(len(slices) * (part + 1) // parts for part in range(parts))
        ]
        self.parallel = parts > 1 and each * self.k >= PARALLEL

    def _block(self, rows: slice, at: int) -> Block:
        at = rows.start if self.keeps else at
        x = _rows_of(self.x, rows) if self.sparse else self.x[rows]
        z = self.z[at : at + rows.stop - rows.start]
        s, target, views = ABSENT if self.weight is None else self.weight[rows], self.target[rows], z[None]
        data = s, views, None, self.scale, ABSENT
        if self.k == 1:
            runner = gradient_calls.binary_gradient(views, target[None], *data, 1.0)
        elif target.ndim > 1:
            runner = gradient_calls.soft_gradient(views, target[None], *data, ABSENT, 0.0, 1.0)
        else:
            runner = gradient_calls.hard_gradient(views, target, *data, ABSENT, False, 0, 0.0, 1.0)
        return Block(rows, x if x.dtype == self.dtype else None, z, runner.call)

    def loss(self, coef: np.ndarray, bias: np.ndarray, threads: int = 1) -> tuple[float, np.ndarray, np.ndarray]:
        """Summed loss, and its scaled gradient: in the coefficients (k, d), and in the biases (k,).

        More than one thread where BLAS uses the calling one alone.
        """
        w, b = coef.astype(self.dtype, copy=False), bias.astype(self.dtype, copy=False)
        if len(self.parts) == 1:
            sums, of_coef, of_bias = self._part(self.parts[0], w, b)
            return values_of(sums)[0], of_coef.astype(np.float64, copy=False), of_bias
        work = [partial(self._part, part, w, b) for part in self.parts]
        made = _on_threads(work, threads if self.parallel else 1)
        sums = new_sums("sum")
        merge_parts(np.stack([part[0] for part in made]), sums)
        of_coef, of_bias = made[0][1].astype(np.float64), made[0][2]
        for _, more, bias_more in made[1:]:
            of_coef += more
            of_bias += bias_more
        return values_of(sums)[0], of_coef, of_bias

    def _part(self, blocks: list[Block], w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One part's exact sums, and its gradients in coefficients and biases."""
        sums, of_bias, ones = new_sums("sum"), np.zeros(self.k), np.ones(len(blocks[0].z), self.dtype)
        of_coef: Any = None
        for rows, given, z, call in blocks:
            x = self._converted(rows) if given is None else given
            if self.sparse:
                np.add(x @ w.T, b, out=z)
            else:
                np.matmul(x, w.T, out=z)
                z += b
            call.run_serial(0, -1, ABSENT, sums)
            if of_coef is None:
                of_coef = np.ascontiguousarray((x.T @ z).T) if self.sparse else z.T @ x
            elif self.sparse or self.k == 1 or not x.flags.c_contiguous:
                of_coef += (x.T @ z).T
            else:
                add_product(z, x, of_coef, turned=True)
            of_bias += ones[: len(z)] @ z  # a product takes a twentieth of a sum over few columns
        return sums, of_coef, of_bias

    def _converted(self, rows: slice) -> Any:
        return (_rows_of(self.x, rows) if self.sparse else self.x[rows]).astype(self.dtype)


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
