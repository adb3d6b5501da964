"""Arrays of any layout, cut into slices of rows that the kernels can read.

A slice is a view wherever the layout allows: any strides, the class axis anywhere, read-only, memory-mapped. Only where
a dtype or a layout must change is it a copy, and then of at most some 16 MB.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from fastxent.frames import ArrayOrPieces, Pieces
from fastxent.kernels.narrow import widened

SLICE_BYTES = 1 << 28  # read by one kernel call; between two calls Ctrl-C is noticed
COPY_BYTES = 1 << 24  # copied at a time, where a dtype or layout must change
FEW_ELEMENTS = 1024  # evenly spaced rows are read together; of fewer elements than this they are better copied

F32, F64, I64 = (np.dtype(t) for t in ("f4", "f8", "i8"))
BF16 = np.dtype("i2")  # the bits of bfloat16
INT64_MAX = 2**63 - 1
PLAIN = 0x0101  # numpy's NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_ALIGNED, the bits of flags.num


@dataclass(slots=True, eq=False)  # half as long in the making as a NamedTuple; never changed
class Predictions:
    """Predictions (or a target of distributions): the user's memory, seen with the class axis last."""

    name: str
    array: ArrayOrPieces  # (*shape, n_classes); int16 bits where bfloat16
    shape: tuple[int, ...]
    n_rows: int
    n_classes: int
    dtype: np.dtype  # what the kernels see: float32, float64, float16, or bfloat16's bits as int16
    bfloat16: bool

    def _replace(self, **changes: Any) -> "Predictions":
        return replace(self, **changes)

    @property
    def arithmetic(self) -> np.dtype:
        """What the kernels compute with: float64, or float32 for all narrower dtypes."""
        return F64 if self.dtype == F64 else F32

    def rows(self, start: int, stop: int) -> "Predictions":
        """Rows start to stop of what has one leading axis; of pieces valid until the next."""
        array = self.array
        part = array.read(start, stop) if isinstance(array, Pieces) else array[start:stop]
        return replace(self, array=part, shape=(stop - start,), n_rows=stop - start)

    def slices(self, max_rows: int | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (start, stop, z): rows start to stop as a (outer, inner, n_classes) array, valid until the next."""
        for start, stop, views in row_slices([self], max_rows=max_rows):
            yield start, stop, views[0]


def row_slices(
    matrices: Sequence[Predictions], per_row: int = 0, max_rows: int | None = None, outs: Sequence[np.ndarray] = ()
) -> Iterator[tuple[int, int, list[np.ndarray]]]:
    """Cut matrices of one shape into the same rows: yield (start, stop, one (outer, inner, C) view of each).

    Parameters
    ----------
    matrices : sequence of Predictions
        At least one; the same shape and number of classes.
    per_row : int
        Bytes that the caller copies besides, per row.
    max_rows : int, optional
        Most rows of a slice.
    outs : sequence of arrays
        Of the same shape; bfloat16's bits as int16. They come last among the views, in the kernels' dtype of
        ``matrices[0]``; what the caller wrote there is stored when the next slice is asked for.
    """
    first = matrices[0]
    if first.n_rows == 0:
        return
    arrays = [m.array for m in matrices]
    fits = not per_row and (max_rows is None or first.n_rows <= max_rows)
    if fits and all(map(is_whole, matrices)) and all(is_ready(out, first.dtype) for out in outs):
        yield 0, first.n_rows, [array.reshape(1, first.n_rows, first.n_classes) for array in (*arrays, *outs)]
        return  # the usual small call, quickly
    if any(isinstance(array, Pieces) for array in arrays):
        for start, stop in _reaches(matrices):
            parts, into = [m.rows(start, stop) for m in matrices], [out[start:stop] for out in outs]
            for low, high, views in row_slices(parts, per_row, max_rows, into):
                yield start + low, start + high, views
        return
    dtypes = [m.dtype for m in matrices] + [first.dtype] * len(outs)
    arrays += outs
    sizes = (1, first.n_rows) if len(first.shape) <= 1 else merged_sizes(first.shape, arrays)
    tangled = len(sizes) > 2 or (sizes[0] > 1 and sizes[1] * first.n_classes < FEW_ELEMENTS)
    copied = [tangled or not _is_native(array, dtype) for array, dtype in zip(arrays, dtypes)]
    read = first.n_classes * sum(array.itemsize for array in arrays)
    limit = SLICE_BYTES // read
    if per_row or any(copied):
        per_row += first.n_classes * sum(d.itemsize for d, c in zip(dtypes, copied) if c)
        limit = min(limit, COPY_BYTES // per_row)
    limit = max(1, limit if max_rows is None else min(limit, max_rows))
    views = [array.reshape(*sizes, first.n_classes) for array in arrays]
    if first.n_rows <= limit and not any(copied):
        yield 0, first.n_rows, views
        return
    most = min(limit, first.n_rows) * first.n_classes
    buffers = [np.empty(most, dtype) if c else None for c, dtype in zip(copied, dtypes)]
    start = 0
    for index in _block_indices(sizes, limit):
        blocks = [view[index] for view in views]
        lead = blocks[0].shape[:-1]
        rows = math.prod(lead)
        three = (*((1, rows) if all(copied) else lead), first.n_classes)
        ready = []
        for i, (block, buffer) in enumerate(zip(blocks, buffers)):
            if buffer is not None and i < len(matrices):
                widen(block, buffer[: block.size].reshape(block.shape), matrices[i].bfloat16)
            ready.append(block if buffer is None else buffer[: block.size].reshape(three))
        yield start, start + rows, ready
        for block, buffer, made in list(zip(blocks, buffers, ready))[len(matrices) :]:
            if buffer is not None:
                np.copyto(block, made.reshape(block.shape), casting="unsafe")
        start += rows


def _reaches(matrices: Sequence[Predictions]) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows that can be read together, where some matrices are in pieces."""
    n_rows, pieces = matrices[0].n_rows, [m.array for m in matrices if isinstance(m.array, Pieces)]
    start = 0
    while start < n_rows:
        stop = min(p.reach(start, max(1, COPY_BYTES * len(p) // (p.size * p.itemsize))) for p in pieces)
        yield start, stop
        start = stop


def is_whole(m: Predictions) -> bool:
    """Whether one slice holds all rows, and the kernels can read the matrix as it is, contiguous."""
    array = m.array
    return array.dtype is m.dtype and array.flags.num & PLAIN == PLAIN and array.nbytes <= SLICE_BYTES // 2


def _block_indices(sizes: tuple[int, ...], limit: int) -> Iterator[tuple[slice, ...]]:
    """Index tuples of blocks of at most ``limit`` rows that cover the leading axes in C order."""
    below, axis = 1, len(sizes) - 1
    while axis > 0 and below * sizes[axis] <= limit:
        below *= sizes[axis]
        axis -= 1
    step = max(1, limit // below)
    for lead in product(*map(range, sizes[:axis])):
        outer = tuple(slice(i, i + 1) for i in lead)
        for i in range(0, sizes[axis], step):
            yield (*outer, slice(i, min(i + step, sizes[axis])))


def merged_sizes(shape: tuple[int, ...], arrays: list[np.ndarray]) -> tuple[int, ...]:
    """At least two sizes: the leading axes, neighbours merged where the strides of every array allow it."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis, size in enumerate(shape):
        strides = tuple(a.strides[axis] for a in arrays)
        if size == 1:
            continue
        if merged and merged[-1][1] == tuple(s * size for s in strides):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    sizes = tuple(size for size, _ in merged)
    return (1,) * (2 - len(sizes)) + sizes


def _is_native(array: np.ndarray, dtype: np.dtype) -> bool:
    return array.dtype == dtype and array.flags.aligned


def widen(block: np.ndarray, into: np.ndarray, bfloat16: bool) -> None:
    if bfloat16 and into.dtype != BF16:
        block = widened(block)
    np.copyto(into, block, casting="unsafe")


def is_ready(array: np.ndarray, dtype: np.dtype) -> bool:
    return array.dtype == dtype and array.flags.num & PLAIN == PLAIN


def rows_cut(array: ArrayOrPieces, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
    """Entries start to stop in C order, contiguous, as dtype: a view where possible."""
    if isinstance(array, Pieces):
        piece = array.read(start, stop)
    elif array.ndim == 1 or array.flags.c_contiguous:
        array = array.reshape(-1)
        piece = array if stop - start == array.size else array[start:stop]
    else:
        piece = array.flat[start:stop]
    if is_ready(piece, dtype):
        return piece
    if piece.dtype.kind == "u" and piece.dtype.itemsize == 8 and dtype == I64:
        piece = np.minimum(piece, np.uint64(INT64_MAX))  # stays out of range, where a cast would wrap to -1
    return piece.astype(dtype)


def row_of(z: Predictions, row: int) -> np.ndarray:
    """One row, contiguous, in the kernels' dtype or what they widen it to."""
    if isinstance(z.array, Pieces):
        values = z.array.read(row, row + 1)[0]
    else:
        values = z.array[np.unravel_index(row, z.shape)] if z.shape else z.array
    into = np.empty(values.shape, z.dtype)
    widen(values, into, z.bfloat16)
    return widened(into)
