"""Brier scores of probabilities with class indices."""

import math

import numpy as np

from fastxent.kernels.blocks import (
    LABEL,
    SUM_TOL,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    settle_labels,
    strided,
    sum_fault,
)
from fastxent.kernels.figures import LABELS
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import load, load_double, load_some_double, offset, pointer, scratch, store
from fastxent.kernels.narrow import read_type
from fastxent.kernels.probability_blocks import (
    FEW_ROWS,
    ONE_BITS,
    ask_ahead,
    mark_outside,
    reads_eights,
    sums_at_fault,
)  # fmt: skip
from fastxent.kernels.rows import lanes, two_sum
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    bits,
    first_lanes,
    fma,
    lane_numbers,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS, TILE_SIZE, fill_tiles, tile_row
from fastxent.kernels.transpose import four_of_eight


@inline
def squared_distance(p, n, y):
    """Σ_k (p_k - 1{k = y})² of a row, and the row's sum; NaN for the sum where an entry is not in [0, 1]."""
    total, low, mass = splat(0.0), splat(0.0), splat(0.0)
    valid = total == 0.0
    for i in range(0, n, 8):
        v = load_some_double(p, i, first_lanes(n - i, total), 0.0)
        valid = valid & (v >= 0.0) & (v <= 1.0)
        distance = select(lane_numbers(total) == y - i, 1.0 - v, v)
        total, low = two_sum(total, low, distance * distance)
        mass = mass + v
    return add_reduce(total + low), math.nan if any_lane(~valid) else add_reduce(mass)


@chunk
def brier_rows(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """A chunk function (chunks.py): probabilities and class indices."""
    view, n = first_view(integers), integers[N]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        bad = read_labels(labels, i, m, n, False, 0, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            values[r], mass = squared_distance(offset(p, r * step), n, label[r])
            reason = sum_fault(mass, False, reals[SUM_TOL])
            if reason:
                return refuse(report, i + r, reason)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@inline
def tile_distances(tile, n, label, values, masses):
    """The same for the rows of a tile, behind ``values`` and ``masses``; ``label`` points to the first row's.

    Four squares are added with their roundings, so that a score is within 7 · 2^-53 of the exact one, relatively.
    """
    width = lanes(tile)
    for h in range(0, width, 8):
        y, total, low, mass = load(label, h), splat(0.0), splat(0.0), splat(0.0)
        lowest, most = splat(0.0), splat(0.0)
        for first in range(0, n, 4):
            squares = splat(0.0)
            for j in range(first, min(first + 4, n)):
                v = load_double(tile, j * width + h)
                lowest, most = minimum(lowest, v), maximum(most, v)
                distance = select(y == j, 1.0 - v, v)
                squares = fma(distance, distance, squares)
                mass = mass + v
            total, low = two_sum(total, low, squares)
        store(values, h, total + low)
        store(masses, h, select((lowest >= 0.0) & (most <= 1.0), mass, math.nan))


@inline
def _squared(v, mine, squares, mass, outside):
    distance = select(mine, 1.0 - v, v)
    return fma(distance, distance, squares), mass + v, outside | bits(v) | (ONE_BITS - bits(v))


@inline
def eight_distances(p, step, n, label, values, masses):
    """The same, bit for bit, of eight rows in memory with adjacent classes, four or more."""
    total, low, mass, outside = splat(0.0), splat(0.0), splat(0.0), splat(np.int64(0))
    for j in range(0, n - 3, 4):
        a, b, c, d = four_of_eight(offset(p, j), step)
        squares, mass, outside = _squared(a, label == j, splat(0.0), mass, outside)
        squares, mass, outside = _squared(b, label == j + 1, squares, mass, outside)
        squares, mass, outside = _squared(c, label == j + 2, squares, mass, outside)
        squares, mass, outside = _squared(d, label == j + 3, squares, mass, outside)
        total, low = two_sum(total, low, squares)
    if n % 4 > 0:
        _, b, c, d = four_of_eight(offset(p, n - 4), step)
        squares = splat(0.0)
        if n % 4 > 2:
            squares, mass, outside = _squared(b, label == n - 3, squares, mass, outside)
        if n % 4 > 1:
            squares, mass, outside = _squared(c, label == n - 2, squares, mass, outside)
        squares, mass, outside = _squared(d, label == n - 1, squares, mass, outside)
        total, low = two_sum(total, low, squares)
    store(values, 0, total + low)
    store(masses, 0, mass)
    if any_lane(outside < 0):
        mark_outside(p, step, n, masses)


@chunk
def brier_tiles(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same for few classes, in tiles."""
    view, n, sum_tol = first_view(integers), integers[N], reals[SUM_TOL]
    values = scratch(np.float64, 0, LABELS)
    masses = scratch(np.float64, 0, LABELS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    tiles = scratch(read_type(like), 0, TILE_SIZE)
    tile = pointer(tiles, 0)
    width = lanes(tile)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, n), FEW_ROWS)
        bad = read_labels(labels, i, m, n, False, 0, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p = strided(view, like, i)
        eights = reads_eights(view, n, m, width)
        for first in range(0, m, width):
            r = tile_row(tile, first, 0, m)
            if eights:
                row = offset(p, r * view[2])
                ask_ahead(row, n)
                for k in range(r, r + width, 8):
                    own, v, masses_of = load(pointer(label, k), 0), pointer(values, k), pointer(masses, k)
                    eight_distances(offset(p, k * view[2]), view[2], n, own, v, masses_of)
                continue
            fill_tiles(tile, p, view[2], first, 1, m, n, view[3])
            tile_distances(tile, n, pointer(label, r), pointer(values, r), pointer(masses, r))
        if sums_at_fault(pointer(masses, 0), label, m, False, sum_tol):
            for r in range(m):
                reason = sum_fault(masses[r], False, sum_tol)
                if reason:
                    return refuse(report, i + r, reason)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m
