"""A chunk of rows -> what needs no target: logsumexp, softmax and its logarithm, entropy, divergence.

Loops as in chunks.py.
"""

import math

import numpy as np

from fastxent.kernels.blocks import (
    DISTRIBUTION_TOL,
    FLAG,
    HAS_IGNORE,
    IGNORE,
    KIND,
    SCALE,
    SCALE_LOW,
    SUM_TOL,
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
from fastxent.kernels.elementary import log
from fastxent.kernels.figures import LABELS, left_out, nll_of, row_figures, tile_figures_of_all, top_figures
from fastxent.kernels.finish import log_sum
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import (
    in_use,
    load,
    load_some_double,
    offset,
    pointer,
    scratch,
    store_some,
    store_some_double,
    streamed,
)
from fastxent.kernels.narrow import read_type, room
from fastxent.kernels.probabilities import LOGITS, PROBS, information
from fastxent.kernels.rows import exp_sum_over
from fastxent.kernels.simd import fill, first_lanes, splat
from fastxent.kernels.softmax import (
    SPARE,
    floored_terms,
    inverse,
    keep_terms,
    log_softmax_row,
    logarithm,
    others,
    share,
    softmax_row,
    write_row,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS, TILE_SIZE

NEAR_ELEMENTS = 1 << 14  # rows that are read twice are taken so many elements at a time: they stay in the cache


@chunk
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


@chunk
def logsumexp_tiles(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same for few classes, in tiles."""
    view, n = first_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 4, ROWS)
    label = scratch(np.int64, 0, LABELS)
    tile = scratch(read_type(like), 0, TILE_SIZE)
    label[:] = -1
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, n)
        tile_figures_of_all(view, like, n, i, m, label, scale, scale_low, figures, tile)
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


@chunk
def softmax(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """e^(z/T) over its sum, written in the logits' type; the output may be the logits."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    streaming = integers[FLAG] != 0 and o_view[3] == 1
    buffer, apart = copy_buffer(view, like, n, 0), np.empty(n if o_view[3] != 1 else 0, like.dtype)
    kept = room(like, n + SPARE + 32)
    terms, spare = pointer(kept, 0), pointer(kept, n + SPARE)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
        p, step = row_block(view, like, i, m, n, buffer)
        o = strided(o_view, like, i)
        for r in range(m):
            row = offset(p, r * step)
            target = offset(o, r * o_view[2]) if o_view[3] == 1 else pointer(apart, 0)
            a, served = 0.0, False
            if scale == 1.0:
                a, served = keep_terms(row, n, terms)
            if served:
                write_row(share, inverse(row, a), terms, n, target, streaming)
            else:
                a, k, s = exp_sum_over(row, n, -1, scale, scale_low)
                softmax_row(row, n, a, k, s, scale, scale_low, target, spare)
            for j in range(apart.size):
                o[r * o_view[2] + j * o_view[3]] = target[j]
        i += m
    in_use(kept)
    streamed()


@chunk
def log_softmax(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Its logarithm."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    streaming = integers[FLAG] != 0 and o_view[3] == 1
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    buffer, other = copy_buffer(view, like, n, 0), copy_buffer(view, like, n, 0)
    apart = np.empty(n if o_view[3] != 1 else 0, like.dtype)
    kept = room(like, n + SPARE)
    terms = pointer(kept, 0)
    # A block's rows are written between the reads of the next one's: memory does both at a time.
    i, waiting, step = start, 0, 0
    p = strided(view, like, start)
    while i < stop or waiting > 0:
        m, held, held_step = 0, p, step
        if i < stop:
            m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
            m = min(m, max(1, NEAR_ELEMENTS // n))  # what is read again should still be near
            p, step = row_block(view, like, i, m, n, buffer)
            buffer, other = other, buffer
        o = strided(o_view, like, i - waiting)
        for r in range(max(m, waiting)):
            if r < waiting:
                row, top = offset(held, r * held_step), figures[3, r]
                target = offset(o, r * o_view[2]) if o_view[3] == 1 else pointer(apart, 0)
                if scale == 1.0 and top == top:
                    write_row(logarithm, (fill(row, top), fill(row, values[r])), row, n, target, streaming)
                else:
                    log_softmax_row(row, n, top, values[r], scale, scale_low, target)
                for j in range(apart.size):
                    o[r * o_view[2] + j * o_view[3]] = target[j]
            if r < m:
                row = offset(p, r * step)
                a, k, top, served = 0.0, 0.0, 0.0, False
                if scale == 1.0:
                    a, k, top, served = floored_terms(row, n, terms)
                if served:
                    a, k, served = others(row, n, terms, a, k, top)
                if served:
                    figures[0, r], figures[1, r], figures[2, r], figures[3, r] = a, k, 0.0, top
                else:
                    top_figures(row, n, r, scale, scale_low, figures)
        nll_of(figures, values, m, scale, scale_low)
        i, waiting = i + m, m
    in_use(kept)
    streamed()


@chunk
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


@chunk
def logarithm_of_probs(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """ln p of each class, to an output with contiguous rows; of an ignored row zeros."""
    view, o_view, n, ignore_index = first_view(integers), second_view(integers), integers[N], integers[IGNORE]
    has_ignore, sum_tol = integers[HAS_IGNORE] != 0, reals[SUM_TOL]
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
        p, step = row_block(view, like, i, m, n, buffer)
        o = strided(o_view, t_like, i)
        for r in range(m):
            row, target = offset(p, r * step), offset(o, r * o_view[2])
            ignored = has_ignore and labels[i + r] == ignore_index
            if not ignored:
                _, reason = row_fault(row, n, PROBS, False, sum_tol)
                if reason:
                    return refuse(report, i + r, reason)
            for j in range(0, n, 8):
                here = first_lanes(n - j, splat(0.0))
                value = log(load_some_double(row, j, here, 1.0))
                store_some_double(target, j, here, splat(0.0) if ignored else value)
        i += m


@chunk
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
