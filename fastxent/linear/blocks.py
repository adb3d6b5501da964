"""Hidden states times a classifier in blocks of rows and classes, each folded away before the next is made.

What is held besides the inputs: one block of logits, the rows' states, and copies of one piece of the hidden states
and one block of the classifier where their dtype or layout does not suit BLAS.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.checks import ABSENT, sample_weight_slice
from fastxent.kernels import linear as kernels
from fastxent.kernels.batch import Call, scale_of
from fastxent.kernels.blocks import N_INTEGERS
from fastxent.reductions import new_sums
from fastxent.slices import BF16, F32, I64, Predictions, is_ready, merged_sizes, rows_cut, widen
from fastxent.threads import limited

# A block has up to so many rows, and so many bytes of logits and of either factor.
BLOCK_ROWS = 2048
BLOCK_BYTES = 1 << 23
FACTOR_BYTES = 1 << 23
# Fewer rows than this are not worth more classes in a block.
BLOCK_CLASSES = 8192

NO_SUMS = new_sums("none")
OWN_ROWS = 256  # whose classifiers are gathered together


@dataclass(slots=True, eq=False)  # never changed
class LinearBatch:
    """Checked arguments."""

    hidden: Predictions  # (..., D)
    classifier: Predictions  # (V, D)
    bias: np.ndarray  # float64[V], or ABSENT
    bias_as_given: Predictions | None
    labels: np.ndarray  # integers, of the leading shape
    weight: np.ndarray  # float64[V], or ABSENT
    sample_weight: np.ndarray | None  # of the leading shape
    has_ignore: bool
    ignore_index: int
    dtype: np.dtype  # of the products
    label_smoothing: float
    temperature: float
    softcap: float  # inf: none

    @property
    def n_classes(self) -> int:
        """V."""
        return self.classifier.n_rows

    @property
    def block_rows(self) -> int:
        """How many rows are taken together."""
        most = FACTOR_BYTES // (self.dtype.itemsize * self.hidden.n_classes)
        return max(1, min(BLOCK_ROWS, max(128, most), self.hidden.n_rows))

    def class_bounds(self) -> list[tuple[int, int]]:
        """The blocks' classes, first and last + 1: as equal as can be."""
        size, n = self.dtype.itemsize, self.n_classes
        most = min(BLOCK_BYTES // (size * self.block_rows), BLOCK_CLASSES)
        if not is_ready(self.classifier.array, self.dtype):
            most = min(most, FACTOR_BYTES // (size * self.hidden.n_classes))
        blocks = math.ceil(n / max(most, 64))
        return [(n * b // blocks, n * (b + 1) // blocks) for b in range(blocks)]

    @property
    def widest(self) -> int:
        """The most classes of a block."""
        return max(stop - start for start, stop in self.class_bounds())

    def options(self, smoothed: bool, ranked: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A call's options; classes and first class are to be filled in."""
        integers, reals = np.zeros(N_INTEGERS, np.int64), np.zeros(kernels.N_REALS)
        integers[kernels.HAS_BIAS], integers[kernels.HAS_CAP] = self.bias.size > 0, self.softcap < math.inf
        integers[kernels.RANKED], integers[kernels.SMOOTHED] = ranked, smoothed
        reals[kernels.SCALE], reals[kernels.SCALE_LOW] = scale_of(self.temperature)
        reals[kernels.KEEP], reals[kernels.SPREAD] = 1.0 - self.label_smoothing, self.label_smoothing / self.n_classes
        reals[kernels.CAP] = self.softcap
        if self.softcap < math.inf:
            rate, rate_low = scale_of(self.softcap)
            reals[kernels.RATE], reals[kernels.RATE_LOW] = 2.0 * rate, 2.0 * rate_low
        return integers, reals


def run(call: Call, out: np.ndarray = ABSENT, sums: np.ndarray = NO_SUMS) -> None:
    """Run a chunk function on this thread.

    BLAS keeps its threads spinning for a while after a product, and so does OpenMP: where they take turns on one
    processor both wait. 2048 rows, 1024 features, 65536 classes on two cores: 2.26 s with both, 1.57 s for the products
    alone, of which the rest takes 2 % on one thread.
    """
    if call.first.size:
        call.run_serial(0, -1, out, sums)


def blas_threads(threads: int | None) -> AbstractContextManager[Any]:
    """Limit BLAS to a number of threads inside the block. None leaves it as it is."""
    if threads is None:
        return nullcontext()
    with limited(threads):  # which checks it
        pass
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError("threads: limiting BLAS needs threadpoolctl: pip install threadpoolctl") from None
    limits: AbstractContextManager[Any] = threadpool_limits(threads, user_api="blas")
    return limits


class Factor:
    """Rows of a matrix as BLAS takes them: C-ordered, in the products' dtype; views where they are so already."""

    def __init__(self, matrix: Predictions, dtype: np.dtype) -> None:
        self.matrix, self.dtype, self.rows = matrix, dtype, matrix.array
        if len(matrix.shape) != 1 and merged_sizes(matrix.shape, [matrix.array])[:-1] == (1,):
            self.rows = matrix.array.reshape(-1, matrix.n_classes)  # a view
        self.buffer = np.empty((0, matrix.n_classes), dtype)

    def block(self, rows: Any) -> np.ndarray:
        """Rows by a slice or by numbers. What is a copy is valid until the next call."""
        if self.rows.ndim != 2:
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            rows = np.unravel_index(numbers, self.matrix.shape)
        found = self.rows[rows]
        if is_ready(found, self.dtype):
            return found
        if len(self.buffer) < len(found):
            self.buffer = np.empty(found.shape, self.dtype)
        into = self.buffer[: len(found)]
        narrow = found.dtype == BF16 if self.matrix.bfloat16 else found.dtype == np.float16
        if narrow and self.dtype == F32 and found.flags.c_contiguous and found.flags.aligned:
            integers = np.zeros(N_INTEGERS, np.int64)
            integers[kernels.CLASSES] = found.shape[1]
            run(Call(kernels.widen_rows, found[None], into[None], (integers, ABSENT), 0))
        else:
            widen(found, into, self.matrix.bfloat16)
        return into


@dataclass(slots=True, eq=False)
class Piece:
    """Some rows, none of them ignored."""

    rows: Any  # their places among all: a slice, or numbers
    hidden: np.ndarray  # (m, D)
    labels: np.ndarray  # int64[m]
    sample_weight: np.ndarray  # float64[m], or ABSENT


def pieces(batch: LinearBatch, most: int = 0) -> Iterator[Piece]:
    """The rows in pieces of at most ``most`` or ``block_rows``, without the ignored ones."""
    hidden = Factor(batch.hidden, batch.dtype)
    for rows, labels, s in labelled(batch, most or batch.block_rows):
        yield Piece(rows, hidden.block(rows), labels, s)


def labelled(batch: LinearBatch, most: int) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """The same without their hidden states: places, labels and weights."""
    n = batch.hidden.n_rows
    for start in range(0, n, most):
        stop = min(start + most, n)
        labels, s, kept = rows_cut(batch.labels, start, stop, I64), ABSENT, None
        if batch.sample_weight is not None:
            s = sample_weight_slice(batch.sample_weight, start, stop, batch.hidden.shape)
        if batch.has_ignore and (labels == batch.ignore_index).any():
            kept = labels != batch.ignore_index
            labels, s = labels[kept], s[kept] if s.size else s
        rows = slice(start, stop) if kept is None else start + np.flatnonzero(kept)
        if labels.size:
            yield rows, labels, s


def product(left: np.ndarray, right: np.ndarray, into: np.ndarray) -> np.ndarray:
    """left @ right.T, both C-ordered, to the start of the flat array ``into``."""
    from scipy.linalg import blas

    z = into[: len(left) * len(right)].reshape(len(left), len(right))
    multiply = blas.sgemm if z.dtype == F32 else blas.dgemm
    multiply(1.0, right.T, left.T, trans_a=1, c=z.T, overwrite_c=1)  # in Fortran's order: z.T = right @ left.T
    return z


class Losses:
    """A batch's losses, piece by piece."""

    def __init__(self, batch: LinearBatch, ranked: bool = False, rows: int = 0) -> None:
        """``rows``: so many at once, and all classes in one block; 0: as suits the losses."""
        self.batch, self.bounds = batch, [(0, batch.n_classes)] if rows else batch.class_bounds()
        self.smoothed = batch.label_smoothing > 0.0
        self.options = batch.options(self.smoothed, ranked)
        self.classifier = Factor(batch.classifier, batch.dtype)
        size = rows * batch.n_classes if rows else batch.block_rows * batch.widest
        self.logits = np.empty(size, batch.dtype)
        self.bias = batch.bias.astype(batch.dtype).reshape(1, 1, -1)

    def own_logits(self, piece: Piece) -> np.ndarray:
        """The labels' logits, float64[m]."""
        own = np.empty(len(piece.labels))
        integers, reals = self.options
        integers = integers.copy()
        integers[kernels.CLASSES] = piece.hidden.shape[1]
        bias = self.bias.astype(np.float64).reshape(-1)
        for start in range(0, len(own), OWN_ROWS):
            part = slice(start, start + OWN_ROWS)
            labels = piece.labels[part]
            w, h = self.classifier.block(labels), piece.hidden[part]
            run(Call(kernels.own_logits, h[None], w[None], (integers, reals), 0, labels, ABSENT, bias), own[part])
        return own

    def states(self, piece: Piece, own: np.ndarray) -> np.ndarray:
        """The rows' states after all classes, float64[STATE, m]."""
        states = np.zeros((kernels.STATE, len(own)))
        states[kernels.TOP] = -math.inf
        for start, stop in self.bounds:
            z = product(piece.hidden, self.classifier.block(slice(start, stop)), self.logits)
            integers, reals = self.options
            integers = integers.copy()
            integers[kernels.CLASSES], integers[kernels.FIRST_CLASS] = stop - start, start
            bias, weight = self.bias[:, :, start:stop], self.batch.weight[start:stop]
            run(Call(kernels.fold, z[None], bias, (integers, reals), 0, piece.labels, own, weight), states.reshape(-1))
        return states

    def finish(self, piece: Piece, own: np.ndarray, states: np.ndarray, out: np.ndarray, sums: np.ndarray) -> None:
        """Losses of states, to ``out`` or to ``sums``."""
        rows = own.reshape(1, -1, 1), states.T[None]
        data = piece.labels, piece.sample_weight, self.batch.weight
        run(Call(kernels.finish, *rows, self.options, 0, *data), out, sums)


def losses(
    batch: LinearBatch, reduction: str, lse: bool = False, rank: bool = False, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Rows' losses (``reduction`` "none"; to ``out`` where given), exact sums, and on demand ln Σ e^(z/T) and ranks.

    An ignored row has loss 0; its ln Σ e^(z/T) is NaN, its rank -1.
    """
    n, none = batch.hidden.n_rows, reduction == "none"
    rows = ABSENT if not none else np.empty(n) if out is None else out
    sums, work = new_sums(reduction), Losses(batch, rank)
    sizes, ranks = np.full(n, math.nan) if lse else None, np.full(n, -1) if rank else None
    rows[:] = 0.0
    for piece in pieces(batch):
        own = work.own_logits(piece)
        states = work.states(piece, own)
        found = np.empty(len(own)) if none else ABSENT
        work.finish(piece, own, states, found, sums)
        if none:
            rows[piece.rows] = found
        if sizes is not None:
            sizes[piece.rows] = states[kernels.LSE]
        if ranks is not None:
            counted = states[kernels.NLL] == states[kernels.NLL]
            ranks[piece.rows] = np.where(counted, states[kernels.ABOVE], -1)
    return rows, sums, sizes, ranks
