"""A chunk of rows -> their losses: the serial loops that batch.py runs side by side.

All take the same arguments, so that one parallel loop serves them all: the rows start..stop; an empty array of each
matrix's type; the call's options as integers and as reals (blocks.py names the positions); labels, weights and the
output, empty where there are none; the exact sums to add to; and where to note the first row that is refused.

Losses are made in blocks of ROWS: figures row by row (or tile by tile), then what is the same for every row in vectors.
"""

import numpy as np

from fastxent.kernels.binary import logit_losses, probability_losses
from fastxent.kernels.blocks import (
    EPS,
    FLAG,
    HAS_IGNORE,
    IGNORE,
    KEEP,
    LABEL,
    NOT_PROBABILITY,
    OK,
    POS_WEIGHT,
    POSITIVE_LOG_PROB,
    SCALE,
    SCALE_LOW,
    SPREAD,
    SUM_TOL,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    second_view,
    settle,
    settle_labels,
    strided,
    sum_fault,
    target_fault,
)  # fmt: skip
from fastxent.kernels.figures import (
    LABELS,
    few_figures,
    few_figures_side_by_side,
    nll_of,
    row_figures,
    row_figures_side_by_side,
)  # fmt: skip
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import load, offset, pointer, prefetch_second_level, scratch
from fastxent.kernels.narrow import read_type
from fastxent.kernels.probabilities import probability_sum, soft_log_loss, soft_nll
from fastxent.kernels.probability_blocks import (
    FEW_ROWS,
    label_losses,
    row_probabilities,
    sums_at_fault,
    tile_probabilities,
)  # fmt: skip
from fastxent.kernels.simd import any_lane, splat
from fastxent.kernels.soft import smoothed_figures, soft_figures
from fastxent.kernels.tiles import ROWS, TILE_CLASSES, TILE_SIZE


@inline
def _hard_losses(figures_of, few, start, stop, like, call, memory, out, sums, report):
    """The loop of the functions below; ``memory`` is room for copied rows, or for a tile."""
    integers, reals, labels, class_weight, sample_weight = call
    figures, label = scratch(read_type(like), 4, ROWS), scratch(np.int64, 0, LABELS)
    values, factors = scratch(np.float64, 0, ROWS), scratch(np.float64, 0, ROWS)
    view, n = first_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, few)
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        figures_of(view, like, n, i, m, label, scale, scale_low, figures, memory)
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@chunk
def hard_cross_entropy(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and class indices, without smoothing, rows in groups."""
    call = integers, reals, labels, class_weight, sample_weight
    buffer = copy_buffer(first_view(integers), like, integers[N], 0)
    _hard_losses(row_figures, 0, start, stop, like, call, buffer, out, sums, report)


@chunk
def hard_cross_entropy_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """The same for few classes, in tiles."""
    call = integers, reals, labels, class_weight, sample_weight
    tile = scratch(read_type(like), 0, TILE_SIZE)
    _hard_losses(few_figures, TILE_CLASSES, start, stop, like, call, tile, out, sums, report)


@chunk
def hard_cross_entropy_tiles_side_by_side(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """hard_cross_entropy_tiles for rows that are side by side, T = 1."""
    call = integers, reals, labels, class_weight, sample_weight
    tile = scratch(read_type(like), 0, TILE_SIZE)
    _hard_losses(few_figures_side_by_side, TILE_CLASSES, start, stop, like, call, tile, out, sums, report)


@chunk
def hard_cross_entropy_side_by_side(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """hard_cross_entropy for rows that are side by side, T = 1."""
    call = integers, reals, labels, class_weight, sample_weight
    n = integers[N]
    room = np.empty(16 * n, like.dtype)
    _hard_losses(row_figures_side_by_side, n, start, stop, like, call, room, out, sums, report)


@inline
def add_distances(figures, values, m, scale):
    """Σ c_k·(top - z_k)/T + Σ c_k·(-ln q_top), from Σ c_k·(top - z_k) in figures[4] and Σ c_k in figures[5]."""
    for r in range(m):
        straight, mass = figures[4, r], figures[5, r]
        values[r] = straight * scale + (mass * values[r] if mass != 0.0 or values[r] != values[r] else 0.0)


@chunk
def smoothed_cross_entropy(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and class indices, with label smoothing."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    keep, spread = reals[KEEP], reals[SPREAD]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer, w = copy_buffer(view, like, n, 0), pointer(class_weight, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            if label[r] >= 0:
                row = offset(p, r * step)
                smoothed_figures(row, n, label[r], w, class_weight.size > 0, keep, spread, scale, scale_low, figures, r)
        nll_of(figures, values, m, scale, scale_low)
        add_distances(figures, values, m, scale)
        settle_labels(values, label, m, i, class_weight, sample_weight, False, factors, out, sums)
        i += m


@chunk
def soft_cross_entropy(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    keep, spread = reals[KEEP], reals[SPREAD]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    buffer, t_buffer, w = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0), pointer(class_weight, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        for r in range(m):
            row, target = offset(p, r * step), offset(t, r * t_step)
            reason = soft_figures(row, target, n, w, class_weight.size > 0, keep, spread, scale, scale_low, figures, r)
            if reason:
                return refuse(report, i + r, reason)
            factors[r] = 1.0
        nll_of(figures, values, m, scale, scale_low)
        add_distances(figures, values, m, scale)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


# How many rows ahead a label's entry is asked for, and rows of a block: what a block's rows need besides must not take
# longer than the lines asked for by then. 50 classes of float32 in memory, one thread, ns a row: 3.5 so, 4.5 in blocks
# of 128 or 256, 3.9 asking 64 rows ahead; 11 with 32 or 128 rows ahead into the first-level cache; a plain gather 7.9.
ENTRIES_AHEAD, ENTRIES = 128, 64


@inline
def read_entries(p, view, label, labels, i, m, stop, values):
    """-ln q of the labels of m rows from row i on, 0 where a label is -1. Returns whether one of them is not >= 0.

    Each entry is a cache line of its own, so it is asked for some rows earlier: by a label that may not have been
    checked, but any address may be asked for.
    """
    y, v, following = pointer(label, 0), pointer(values, 0), pointer(labels, i)
    last = stop - 1 - i
    for r in range(m):
        after = min(r + ENTRIES_AHEAD, last)
        prefetch_second_level(p, after * view[2] + following[after] * view[3])
        v[r] = -np.float64(p[r * view[2] + y[r] * view[3]]) if y[r] >= 0 else 0.0
    wrong = splat(0.0) > 0.0
    for r in range(0, m, 8):
        wrong = wrong | (~(load(v, r) >= 0.0) & (load(y, r) >= 0))
    return any_lane(wrong)


@chunk
def hard_nll(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Log-probabilities and class indices: the labels' entries alone are read."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, n), ENTRIES)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        if read_entries(strided(view, like, i), view, label, labels, i, m, stop, values):
            for r in range(m):
                if label[r] >= 0 and not values[r] >= 0.0:
                    return refuse(report, i + r, POSITIVE_LOG_PROB)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@chunk
def soft_nll_rows(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Log-probabilities and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    buffer, t_buffer, w = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0), pointer(class_weight, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        for r in range(m):
            values[r], mass, sound, valid = soft_nll(
                offset(p, r * step), offset(t, r * t_step), n, w, class_weight.size > 0
            )
            factors[r] = 1.0
            reason = target_fault(mass, valid)
            if reason:
                return refuse(report, i + r, reason)
            if not sound:
                return refuse(report, i + r, POSITIVE_LOG_PROB)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


@inline
def _hard_log_losses(figures_of, few, start, stop, like, call, work, memory, out, sums, report):
    """The loop of the two functions below. Range and row sums are checked in the same pass."""
    integers, reals, labels, class_weight, sample_weight = call
    figures, values, factors, label = work
    view, n = first_view(integers), integers[N]
    eps, normalize, sum_tol = reals[EPS], integers[FLAG] != 0, reals[SUM_TOL]
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, few), FEW_ROWS if few > 0 else ROWS)
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        figures_of(view, like, n, i, m, label, normalize, figures, memory)
        if sums_at_fault(pointer(figures, 2 * ROWS), label, m, normalize, sum_tol):
            for r in range(m):
                reason = sum_fault(figures[2, r], normalize, sum_tol) if label[r] >= 0 else OK
                if reason:
                    return refuse(report, i + r, reason)
        label_losses(strided(view, like, i), figures, values, m, eps, normalize)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@chunk
def hard_log_loss(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Probabilities and class indices, one row at a time."""
    figures = scratch(np.float64, 4, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    call, work = (integers, reals, labels, class_weight, sample_weight), (figures, values, factors, label)
    buffer = copy_buffer(first_view(integers), like, integers[N], 0)
    _hard_log_losses(row_probabilities, 0, start, stop, like, call, work, buffer, out, sums, report)


@chunk
def hard_log_loss_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """The same for few classes, in tiles."""
    figures = scratch(np.float64, 4, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    call, work = (integers, reals, labels, class_weight, sample_weight), (figures, values, factors, label)
    tile = scratch(read_type(like), 0, TILE_SIZE)
    _hard_log_losses(tile_probabilities, TILE_CLASSES, start, stop, like, call, work, tile, out, sums, report)


@chunk
def soft_log_loss_rows(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Probabilities and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    eps, normalize, sum_tol = reals[EPS], integers[FLAG] != 0, reals[SUM_TOL]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    buffer, t_buffer, w = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0), pointer(class_weight, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        for r in range(m):
            row = offset(p, r * step)
            total = probability_sum(row, n, -1)
            values[r], mass, valid = soft_log_loss(
                row, offset(t, r * t_step), n, w, class_weight.size > 0, eps, normalize
            )
            factors[r] = 1.0
            reason = target_fault(mass, valid)
            if reason:
                return refuse(report, i + r, reason)
            reason = sum_fault(total, normalize, sum_tol)
            if reason:
                return refuse(report, i + r, reason)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


NUMBERS = 1024  # rows of one number that are done together


@chunk
def binary(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """One logit or probability a row, the target a probability."""
    view, t_view = first_view(integers), second_view(integers)
    pos_weight, is_logits, eps = reals[POS_WEIGHT], integers[FLAG] != 0, reals[EPS]
    copy, t_copy = np.empty(NUMBERS, like.dtype), np.empty(NUMBERS, t_like.dtype)  # as memory holds them
    values = scratch(np.float64, 0, NUMBERS)
    factors = scratch(np.float64, 0, NUMBERS)
    v = pointer(values, 0)
    factors[:] = 1.0
    for i in range(start, stop, NUMBERS):
        m = min(NUMBERS, stop - i)
        p = adjacent(strided(view, like, i), view[2], m, pointer(copy, 0))
        t = adjacent(strided(t_view, t_like, i), t_view[2], m, pointer(t_copy, 0))
        if is_logits:
            bad = logit_losses(p, t, v, m, pos_weight)
        else:
            bad = probability_losses(p, t, v, m, pos_weight, eps)
        if bad:
            r = 0
            while 0.0 <= t[r] <= 1.0 and (is_logits or 0.0 <= p[r] <= 1.0):
                r += 1
            return refuse(report, i + r, NOT_PROBABILITY)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        if sample_weight.size > 0:
            factors[:] = 1.0


@inline
def adjacent(p, step, m, copy):
    """m numbers, ``step`` elements apart, as whole vectors: in place, or else copied and followed by zeros."""
    if step == 1 and m == NUMBERS:
        return p
    for r in range(m):
        copy[r] = p[r * step]
    for r in range(m, (m + 15) & -16):
        copy[r] = 0.0
    return copy
