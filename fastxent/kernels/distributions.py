"""A chunk of rows -> what needs no target: logsumexp, softmax and its logarithm, entropy, divergence.

Loops as in chunks.py.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    DISTRIBUTION_TOL,
    KIND,
    SCALE,
    SCALE_LOW,
    N,
    block_rows,
    copy_buffer,
    first_view,
    refuse,
    row_block,
    row_fault,
    second_view,
    strided,
)  # fmt: skip
from fastxent.kernels.divergence import divergence, divergence_of_logits
from fastxent.kernels.elementary import LN_2, exp_shifted, exp_shifted_over, exp_times
from fastxent.kernels.figures import LABELS, left_out, nll_of, row_figures, row_sum, tile_figures, top_figures
from fastxent.kernels.finish import log_sum
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import (
    load,
    load_some,
    load_some_double,
    offset,
    pointer,
    scratch,
    store,
    store_some,
    store_some_double,
)  # fmt: skip
from fastxent.kernels.narrow import room
from fastxent.kernels.probabilities import LOGITS, information
from fastxent.kernels.rows import floor_exponent, lanes, two_words
from fastxent.kernels.simd import any_lane, fill, first_lanes, fma, maximum, select, splat
from fastxent.kernels.tiles import ROWS, TILE_SIZE

NEAR_ELEMENTS = 1 << 14  # rows that are read twice are taken so many elements at a time: they stay in the cache


@compiled
def logsumexp(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """ln Σ e^(z/T), one row at a time."""
    view, n = first_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 4, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer = copy_buffer(view, like, n, 0)
    label[:] = -1
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        row_figures(view, like, n, i, m, label, scale, scale_low, figures, buffer)
        log_sums_of(figures, out, i, m, scale, scale_low)
        i += m


@compiled
def logsumexp_tiles(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same for few classes, in tiles."""
    view, n = first_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 4, ROWS)
    label = scratch(np.int64, 0, LABELS)
    tile = room(like, TILE_SIZE)
    label[:] = -1
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, n)
        tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tile)
        if n == 1:  # e^z and back would round
            for r in range(m):
                z = np.float64(strided(view, like, i + r)[0])
                figures[0, r], figures[1, r], figures[2, r] = (1.0 if abs(z) < math.inf else math.nan), 0.0, z
        log_sums_of(figures, out, i, m, scale, scale_low)
        i += m


@inline
def log_sums_of(figures, out, i, m, scale, scale_low):
    """The block's figures become logsumexp."""
    f = pointer(figures, 0)
    for r in range(0, m, 8):
        value = log_sum(load(f, r), load(f, ROWS + r), load(f, 2 * ROWS + r), scale, scale_low)
        store_some(pointer(out, i + r), 0, first_lanes(m - r, value), value)


@compiled
def softmax(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """e^(z/T) over its sum, written in the logits' type; the output may be the logits."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    buffer, apart = copy_buffer(view, like, n, 0), np.empty(n if o_view[3] != 1 else 0, like.dtype)
    spare = room(like, 32)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
        p, step = row_block(view, like, i, m, n, buffer)
        o = strided(o_view, like, i)
        for r in range(m):
            row = offset(p, r * step)
            a, k, s, plain = row_sum(row, n, -1, scale, scale_low)
            target = offset(o, r * o_view[2]) if o_view[3] == 1 else pointer(apart, 0)
            softmax_row(row, n, a, k, s, plain, scale, scale_low, target, pointer(spare, 0))
            for j in range(apart.size):
                o[r * o_view[2] + j * o_view[3]] = target[j]
        i += m


@compiled
def log_softmax(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Its logarithm, rounded once, from float64."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    buffer, apart = copy_buffer(view, like, n, 0), np.empty(n if o_view[3] != 1 else 0, like.dtype)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
        m = min(m, max(8, NEAR_ELEMENTS // n))  # what is read again should still be near
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            top_figures(offset(p, r * step), n, r, scale, scale_low, figures)
        nll_of(figures, values, m, scale, scale_low)
        o = strided(o_view, like, i)
        for r in range(m):
            target = offset(o, r * o_view[2]) if o_view[3] == 1 else pointer(apart, 0)
            log_softmax_row(offset(p, r * step), n, figures[3, r], values[r], scale, scale_low, target)
            for j in range(apart.size):
                o[r * o_view[2] + j * o_view[3]] = target[j]
        i += m


@inline
def softmax_row(p, n, a, k, s, plain, scale, scale_low, target, spare):
    """q_j = e^(z_j/T) / (e^(s/T)·2^k·a), from exp_sum's figures over all classes (plain: exp_sum's own).

    Terms below the floor of the type's exponents are done in float64, one by one: q may be smaller than that. ``spare``
    has room for 32 elements.
    """
    width = lanes(p)
    if not a > 0.0:
        for j in range(n):
            target[j] = math.nan
        return
    magic = fill(p, elementary.rounding(p) - k * (elementary.steps(p) if plain else 1.0))
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    lowest = (k - 1100.0) * LN_2 / scale
    factor, factor_low = two_words(p, scale, scale_low)
    total = fill(p, a)
    inverse = fill(p, 1.0) / total
    for i in range(0, n, width):
        here = first_lanes(n - i, floor)
        v = load(p, i) if i + width <= n else load_some(p, i, here, 0.0)
        x = v if plain else v - s
        near = maximum(x, floor)
        e = exp_shifted(near, magic) if plain else exp_shifted_over(near, factor, factor_low, magic)
        q = e * inverse
        q = fma(fma(-q, total, e), inverse, q)  # e / total, rounded but once: a class alone gets exactly 1
        low = (x < floor) & here
        if any_lane(low):
            store(spare, 0, x)
            store(spare, width, floor)
            for j in range(min(width, n - i)):
                if spare[j] < spare[width]:
                    difference = np.float64(p[i + j]) - s
                    small = exp_times(1.0 / a, max(difference, lowest), 0.0, scale, scale_low, -k)
                    target[i + j] = small if difference > lowest else 0.0
            store_some(target, i, here & ~low, q)
        elif i + width <= n:
            store(target, i, q)
        else:
            store_some(target, i, here, q)


@inline
def log_softmax_row(p, n, top, top_nll, scale, scale_low, target):
    """ln q_k = (z_k - top)/T - (-ln q_top): two terms of one sign."""
    for j in range(0, n, 8):
        here = first_lanes(n - j, splat(0.0))
        x = load_some_double(p, j, here, 0.0) - top
        scaled = x * scale
        store_some_double(target, j, here, select(x > -math.inf, fma(x, scale_low, scaled), scaled) - top_nll)


@compiled
def entropy(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """-Σ q ln q of each row."""
    view, n, kind = first_view(integers), integers[N], integers[KIND]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            row = offset(p, r * step)
            if kind == LOGITS:
                _, figures[4, r] = top_figures(row, n, r, 1.0, 0.0, figures)
                continue
            _, reason = row_fault(row, n, kind, False, DISTRIBUTION_TOL)
            if reason:
                return refuse(report, i + r, reason)
            values[r], _ = information(row, n, kind, 1.0)
        if kind == LOGITS:
            nll_of(figures, values, m, 1.0, 0.0)
            for r in range(m):
                values[r] = values[r] + figures[4, r] * left_out(values[r])
        for r in range(m):
            out[i + r] = values[r] + 0.0
        i += m


@compiled
def kl_divergence(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Σ p ln(p / q) of each pair of rows."""
    view, q_view, n, kind = first_view(integers), second_view(integers), integers[N], integers[KIND]
    buffer, q_buffer = copy_buffer(view, like, n, 0), copy_buffer(q_view, t_like, n, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(q_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        q, q_step = row_block(q_view, t_like, i, m, n, q_buffer)
        for r in range(m):
            a, b = offset(p, r * step), offset(q, r * q_step)
            if kind == LOGITS:
                out[i + r] = divergence_of_logits(a, b, n) + 0.0
                continue
            _, reason = row_fault(a, n, kind, False, DISTRIBUTION_TOL)
            if reason == 0:
                _, reason = row_fault(b, n, kind, False, DISTRIBUTION_TOL)
            if reason:
                return refuse(report, i + r, reason)
            out[i + r] = divergence(a, b, n, kind) + 0.0
        i += m
