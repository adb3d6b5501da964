"""Brier scores of probabilities with class indices, and the exact weight of every class."""

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
from fastxent.kernels.exactsum import exact_sum_add
from fastxent.kernels.figures import LABELS
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, load_double, load_some_double, offset, pointer, scratch, store
from fastxent.kernels.narrow import read_type
from fastxent.kernels.probability_blocks import sums_at_fault
from fastxent.kernels.rows import lanes, two_sum
from fastxent.kernels.simd import add_reduce, any_lane, first_lanes, fma, lane_numbers, maximum, minimum, select, splat
from fastxent.kernels.tiles import ROWS, TILE_SIZE, fill_tiles, tile_row


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


@compiled
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


@compiled
def brier_tiles(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same for few classes, in tiles: a million rows of 10 of float64, two threads, in 2.8 ms; a read takes 1.5."""
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
        m = block_rows(view, i, stop, n, n)
        bad = read_labels(labels, i, m, n, False, 0, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p = strided(view, like, i)
        for first in range(0, m, width):
            r = tile_row(tile, first, 0, m)
            fill_tiles(tile, p, view[2], first, 1, m, n, view[3])
            tile_distances(tile, n, pointer(label, r), pointer(values, r), pointer(masses, r))
        if sums_at_fault(pointer(masses, 0), label, m, False, sum_tol):
            for r in range(m):
                reason = sum_fault(masses[r], False, sum_tol)
                if reason:
                    return refuse(report, i + r, reason)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@compiled
def add_class_weights(labels, weights, sums):
    """Add every row's weight to the exact sum of its class, int64[C, STATE_SIZE]. Labels must be in range."""
    for i in range(labels.size):
        exact_sum_add(sums[labels[i]], weights[i])
