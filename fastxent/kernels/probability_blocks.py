"""A block of rows of probabilities -> rows of ``figures``: each label's entry, the sum of the others, and that of all.

The others' sum is there where it is needed, when normalising.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import row_block, strided
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_integers, offset, pointer, store, store_double
from fastxent.kernels.probabilities import clipped_log_loss, probability_sum, tile_probability_sum
from fastxent.kernels.rows import lanes, reads_float32
from fastxent.kernels.simd import any_lane, fill, first_lanes, join, maximum, select, splat
from fastxent.kernels.tiles import ROWS, fill_tiles, tile_row


@inline
def row_probabilities(view, like, n, i, m, label, normalize, figures, buffer):
    """One row at a time."""
    p, step = row_block(view, like, i, m, n, buffer)
    for r in range(m):
        figures[0, r], figures[1, r], figures[2, r] = 1.0, 0.0, 1.0
        if label[r] >= 0:
            row = offset(p, r * step)
            figures[0, r] = np.float64(row[label[r]])
            figures[1, r] = probability_sum(row, n, label[r] if normalize else np.int64(-1))
            figures[2, r] = figures[0, r] + figures[1, r] if normalize else figures[1, r]


@inline
def tile_probabilities(view, like, n, i, m, label, normalize, figures, tile):
    """The same for few classes, in tiles."""
    p, f, q = strided(view, like, i), pointer(figures, 0), pointer(tile, 0)
    width = lanes(q)
    for start in range(0, m, width):
        r = tile_row(q, start, 0, m)
        fill_tiles(q, p, view[2], start, 1, m, n, view[3])
        tile_probability_sum(q, n, load_integers(pointer(label, r), 0, fill(p, 0.0)), normalize, f, r)


@inline
def sums_at_fault(sums, label, m, normalize, sum_tol):
    """Whether blocks.sum_fault refuses any of m rows by its sum, but for those whose label is -1."""
    y = pointer(label, 0)
    limit = np.inf if normalize else sum_tol
    fault = splat(0.0) > 0.0
    for r in range(0, m, 8):
        total = load(sums, r)
        distance = maximum(total - 1.0, 1.0 - total)
        good = (total > 0.0) & (distance <= limit)
        fault = fault | (~good & (load_integers(y, r, total) >= 0) & first_lanes(m - r, total))
    return any_lane(fault)


@inline
def label_losses(p, figures, values, m, eps, normalize):
    """The block's figures become losses; ``p`` points to what the probabilities were read from."""
    f, v = pointer(figures, 0), pointer(values, 0)
    narrow = reads_float32(p) and eps == 0.0 and not normalize
    if narrow and not narrow_losses(f, v, m):
        return
    for r in range(0, m, 8):
        result = load(v, r) if narrow else splat(math.nan)
        if any_lane(result != result):
            loss = clipped_log_loss(load(f, r), load(f, ROWS + r), eps, normalize)
            store(v, r, select(result == result, result, loss))


@inline
def narrow_losses(f, v, m):
    """-ln of float32 probabilities, 16 at once, NaN for one that is not a normal number. Whether there is one."""
    missing = splat(np.float32(0.0)) > 0.0
    for r in range(0, m, 16):
        q = join(load(f, r), load(f, r + 8))
        near = q >= np.float32(2.0**-126)
        store_double(v, r, select(near, -elementary.log_normal32(q), math.nan))
        missing = missing | ~near
    return any_lane(missing)
