"""A block of rows of probabilities -> rows of ``figures``: each label's entry, the sum of the others, and that of all.

The others' sum is there where it is needed, when normalising.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import row_block, strided
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_integers, offset, pointer, prefetch_second_level, store, store_double
from fastxent.kernels.probabilities import clipped_log_loss, probability_sum, tile_probability_sum
from fastxent.kernels.rows import ahead, lanes, reads_float32
from fastxent.kernels.simd import any_lane, bits, fill, first_lanes, join, maximum, select, splat
from fastxent.kernels.tiles import ROWS, fill_tiles, tile_row
from fastxent.kernels.transpose import four_of_eight

# Rows of few classes that are read before they are finished: memory then rests for a short time only. float64, 10
# classes, two threads, a million rows: 2.9 ms in blocks of 256, 2.55 of 64, 2.75 of 32.
FEW_ROWS = 64
ONE_BITS = 1023 << 52


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
    eights = not normalize and reads_eights(view, n, m, width)
    for start in range(0, m, width):
        r = tile_row(q, start, 0, m)
        if eights:
            row = offset(p, r * view[2])
            ask_ahead(row, n)
            for k in range(0, width, 8):
                eight_probabilities(offset(row, k * view[2]), view[2], n, load(pointer(label, r), k), offset(f, r + k))
            continue
        fill_tiles(q, p, view[2], start, 1, m, n, view[3])
        tile_probability_sum(q, n, load_integers(pointer(label, r), 0, fill(p, 0.0)), normalize, f, r)


@inline
def reads_eights(view, n, m, width):
    """Whether m rows can be read four classes of eight rows at a time, without a tile."""
    return view[3] == 1 and n >= 4 and m >= width


@inline
def ask_ahead(row, n):
    """Ask for as many lines as a tile's rows take, as tiles.fill_tiles does."""
    for j in range(n):
        prefetch_second_level(row, 2 * ahead(row) + j * lanes(row))


@inline
def _seen(v, mine, own, total, outside):
    return select(mine, v, own), total + v, outside | bits(v) | (ONE_BITS - bits(v))


@inline
def eight_probabilities(p, step, n, label, figures):
    """Of eight rows behind p the labels' entries, 1 for -1, and the sums of all, to columns of ``figures``."""
    own, total, outside = splat(1.0), splat(0.0), splat(np.int64(0))
    for j in range(0, n - 3, 4):
        a, b, c, d = four_of_eight(offset(p, j), step)
        own, total, outside = _seen(a, label == j, own, total, outside)
        own, total, outside = _seen(b, label == j + 1, own, total, outside)
        own, total, outside = _seen(c, label == j + 2, own, total, outside)
        own, total, outside = _seen(d, label == j + 3, own, total, outside)
    if n % 4 > 0:
        _, b, c, d = four_of_eight(offset(p, n - 4), step)
        if n % 4 > 2:
            own, total, outside = _seen(b, label == n - 3, own, total, outside)
        if n % 4 > 1:
            own, total, outside = _seen(c, label == n - 2, own, total, outside)
        own, total, outside = _seen(d, label == n - 1, own, total, outside)
    store(figures, 0, own)
    store(figures, 2 * ROWS, total)
    if any_lane(outside < 0):
        mark_outside(p, step, n, offset(figures, 2 * ROWS))


@inline
def mark_outside(p, step, n, sums):
    """NaN for the sum of each of eight rows with an entry that is not in [0, 1]. (The bits of -0.0 only look so.)"""
    for r in range(8):
        for j in range(n):
            if not 0.0 <= p[r * step + j] <= 1.0:
                sums[r] = math.nan


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
