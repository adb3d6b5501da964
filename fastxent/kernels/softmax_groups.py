"""A chunk of rows of many classes -> softmax or its logarithm, T = 1: one exponential a logit, rows in groups.

A block's terms stay in a buffer until its rows' sums are known, and its rows are written between the reads of the next
ones.
"""

import math

import numpy as np

from fastxent.kernels.blocks import (
    FLAG,
    N,
    block_rows,
    copy_buffer,
    first_view,
    row_block,
    second_view,
    strided,
)  # fmt: skip
from fastxent.kernels.figures import LABELS, nll_of, top_figures
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import in_use, load, load_some, offset, pointer, scratch, store_double, streamed
from fastxent.kernels.narrow import read_type, room
from fastxent.kernels.row_groups import REFERENCE, SMALL, TOP, any_small, group_terms, note_least, note_top, top_of_row
from fastxent.kernels.row_streams import (
    LINE,
    aligned,
    finish_row,
    flush,
    go_on_with_row,
    no_row,
    side_by_side,
    start_row,
)  # fmt: skip
from fastxent.kernels.rows import add_terms, exp_sum_over, lanes, too_small
from fastxent.kernels.simd import add_reduce, bits, fill, first_lanes, from_bits, max_reduce, splat
from fastxent.kernels.softmax import (
    LARGEST,
    SPARE,
    but,
    constants_at,
    inverse,
    keep_terms,
    log_softmax_row,
    logarithm,
    share,
    softmax_row,
    write_row,
)  # fmt: skip
from fastxent.kernels.term_sums import one_term
from fastxent.kernels.tiles import ROWS

NEAR_ELEMENTS = 1 << 14  # terms of a block and of the one before it: they stay in the cache
# With so large a share one class's term is left out of the sum, not subtracted from it: a sum of four terms is off by
# up to 2^-22, and what is left of it then by no more than 2^-20.7, which counts less than two thirds in ln(1 + A).
LARGE_SHARE = 0.4


@inline
def block_of(view, o_view, i, stop, n):
    """How many rows to take together."""
    return min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n), max(1, NEAR_ELEMENTS // n))


@inline
def spread(source, n, target, column):
    """Copy a row to where classes are apart."""
    for j in range(n):
        target[j * column] = source[j]


@chunk
def softmax_groups(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """e^z over its sum, written in the logits' type; the output may be the logits."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    streaming = integers[FLAG] != 0 and o_view[3] == 1
    figures = scratch(read_type(like), 6, ROWS)
    total, held_total = scratch(np.float64, 0, ROWS), scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    label[:] = -1
    line, waiting = scratch(read_type(like), 0, LINE), scratch(np.int64, 0, 1)
    waiting[0] = 0
    eights = scratch(np.float64, 0, 128)
    buffer, other = copy_buffer(view, like, n, 0), copy_buffer(view, like, n, 0)
    apart = np.empty(n if o_view[3] != 1 else 0, like.dtype)
    most, terms_step = max(1, min(NEAR_ELEMENTS // n, ROWS, stop - start)), (n + 15) & -16
    kept, kept_too = room(like, most * terms_step + 16), room(like, (most + 1) * terms_step + SPARE + 16)
    terms, held_terms = aligned(kept), aligned(kept_too)
    alone, spare = offset(held_terms, most * terms_step), scratch(read_type(like), 0, 32)
    pen = pointer(line, 0), waiting, streaming, side_by_side(o_view, stop, n)
    i, held, step = start, 0, np.int64(0)
    p = strided(view, like, start)
    width, f = lanes(p), pointer(figures, 0)
    while i < stop or held > 0:
        m, held_p, held_step = 0, p, step
        if i < stop:
            m = block_of(view, o_view, i, stop, n)
            p, step = row_block(view, like, i, m, n, buffer)
            buffer, other = other, buffer
        o = strided(o_view, like, i - held)
        context = (
            (held_p, held_step, n, held_terms, terms_step, held_total),
            held, o, o_view, pointer(apart, 0), alone, pointer(spare, 0), pen,
        )  # fmt: skip
        for r in range(0, m, width):
            group, rows = offset(p, r * step), min(width, m - r)
            group_terms(
                group, step, rows, n, label, r, f, pointer(eights, 0), terms, terms_step,
                math.inf, note_least, any_small, begin_softmax, go_on_softmax, end_softmax, context,
            )  # fmt: skip
            for k in range(rows):
                a = add_reduce(load(pointer(eights, 0), 8 * k))
                total[r + k] = a if figures[SMALL, r + k] == 0.0 and 0.0 < a <= LARGEST else math.nan
        for r in range(m, held):
            end_softmax(0, begin_softmax(r, context))
        total, held_total = held_total, total
        terms, held_terms = held_terms, terms
        if i >= stop:
            flush(offset(o, held * o_view[2]), pen)
        i, held = i + m, m
    in_use(kept)
    in_use(kept_too)
    streamed()


@inline
def begin_softmax(r, context):
    """Begin to write row r of those held, if it is one."""
    (p, step, n, terms, terms_step, total), held, o, o_view, apart, alone, spare, pen = context
    source, target = offset(terms, r * terms_step), offset(o, r * o_view[2])
    a = total[r] if r < held else 1.0
    figures = inverse(p, a)
    if r < held:
        if a == a and o_view[3] == 1:
            return start_row(share, figures, source, n, target, pen)
        flush(target, pen)
        to = target if o_view[3] == 1 else apart
        if a == a:
            write_row(share, figures, source, n, to, False)
        else:
            softmax_alone(offset(p, r * step), n, alone, to, spare, pen[2])
        if o_view[3] != 1:
            spread(apart, n, target, o_view[3])
    return no_row(figures, source, target, pen)


@inline
def softmax_alone(p, n, terms, target, spare, streaming):
    """A row that has masked classes, or terms far below the largest, or is far from 0."""
    a, served = keep_terms(p, n, terms)
    if served:
        write_row(share, inverse(p, a), terms, n, target, streaming)
    else:
        a, k, s = exp_sum_over(p, n, -1, 1.0, 0.0)
        softmax_row(p, n, a, k, s, 1.0, 0.0, target, spare)


@inline
def go_on_softmax(i, row):
    """Write four vectors."""
    go_on_with_row(share, i, row)


@inline
def end_softmax(i, row):
    """Write the rest."""
    finish_row(share, i, row)


@chunk
def log_softmax_groups(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Its logarithm."""
    view, o_view, n = first_view(integers), second_view(integers), integers[N]
    streaming = integers[FLAG] != 0 and o_view[3] == 1
    raw = scratch(read_type(like), 6, ROWS)
    figures, tops = scratch(np.float64, 4, ROWS), scratch(np.float64, 0, ROWS)
    values, held_values = scratch(np.float64, 0, ROWS), scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    label[:] = -1
    line, waiting = scratch(read_type(like), 0, LINE), scratch(np.int64, 0, 1)
    waiting[0] = 0
    eights = scratch(np.float64, 0, 128)
    buffer, other = copy_buffer(view, like, n, 0), copy_buffer(view, like, n, 0)
    apart = np.empty(n if o_view[3] != 1 else 0, like.dtype)
    most, terms_step = max(1, min(16, NEAR_ELEMENTS // n, stop - start)), (n + 15) & -16
    kept = room(like, most * terms_step + 16)
    terms = aligned(kept)
    pen = pointer(line, 0), waiting, streaming, side_by_side(o_view, stop, n)
    i, held, step = start, 0, np.int64(0)
    p = strided(view, like, start)
    width, f = lanes(p), pointer(raw, 0)
    while i < stop or held > 0:
        m, held_p, held_step = 0, p, step
        if i < stop:
            m = block_of(view, o_view, i, stop, n)
            p, step = row_block(view, like, i, m, n, buffer)
            buffer, other = other, buffer
        o = strided(o_view, like, i - held)
        context = (held_p, held_step, n, tops, held_values), held, o, o_view, pointer(apart, 0), pen
        for r in range(0, m, width):
            group, rows = offset(p, r * step), min(width, m - r)
            beyond = offset(terms, -r * terms_step)  # rows of terms are counted from the block's first
            references, _ = group_terms(
                group, step, rows, n, label, r, f, pointer(eights, 0), beyond, terms_step,
                -math.inf, note_top, top_of_row, begin_logarithm, go_on_logarithm, end_logarithm, context,
            )  # fmt: skip
            store_double(f, REFERENCE * ROWS + r, references)
            for k in range(rows):
                row, top = offset(group, k * step), np.float64(raw[TOP, r + k])
                a = add_reduce(load(pointer(eights, 0), 8 * k))
                a, k_a, served = others(row, n, offset(terms, k * terms_step), a, raw[REFERENCE, r + k], top)
                if served:
                    figures[0, r + k], figures[1, r + k], figures[2, r + k], figures[3, r + k] = a, k_a, 0.0, top
                else:
                    top_figures(row, n, r + k, 1.0, 0.0, figures)
        for r in range(m, held):
            end_logarithm(0, begin_logarithm(r, context))
        nll_of(figures, values, m, 1.0, 0.0)
        for r in range(m):
            tops[r] = figures[3, r]
        values, held_values = held_values, values
        if i >= stop:
            flush(offset(o, held * o_view[2]), pen)
        i, held = i + m, m
    in_use(kept)
    streamed()


@inline
def begin_logarithm(r, context):
    """Begin to write row r of those held, if it is one."""
    (p, step, n, tops, values), held, o, o_view, apart, pen = context
    source, target = offset(p, r * step), offset(o, r * o_view[2])
    top, nll = (tops[r], values[r]) if r < held else (0.0, 0.0)
    figures = fill(p, top), fill(p, nll)
    if r < held:
        if top == top and o_view[3] == 1:
            return start_row(logarithm, figures, source, n, target, pen)
        flush(target, pen)
        to = target if o_view[3] == 1 else apart
        if top == top:
            write_row(logarithm, figures, source, n, to, False)
        else:
            log_softmax_row(source, n, top, nll, 1.0, 0.0, to)
        if o_view[3] != 1:
            spread(apart, n, target, o_view[3])
    return no_row(figures, source, target, pen)


@inline
def go_on_logarithm(i, row):
    """Write four vectors."""
    go_on_with_row(logarithm, i, row)


@inline
def end_logarithm(i, row):
    """Write the rest."""
    finish_row(logarithm, i, row)


@inline
def others(p, n, terms, a, k, top):
    """The sum of all terms but the largest, scaled to be near 1: A·2^k. Last comes whether it serves.

    Subtracting the largest is accurate where it is not most of the sum; otherwise the others are added anew. A term
    that was floored must not count.
    """
    largest, _ = one_term(fill(p, top), constants_at(p, k))
    own = np.float64(max_reduce(largest))
    rest = a - own
    if own > LARGE_SHARE * a:
        width = lanes(p)
        total, low = splat(0.0), splat(0.0)
        full = n // (4 * width) * (4 * width)
        for i in range(0, full, 4 * width):
            b, c = but(load(terms, i), largest), but(load(terms, i + width), largest)
            d, e = but(load(terms, i + 2 * width), largest), but(load(terms, i + 3 * width), largest)
            total, low = add_terms(total, low, (b + c) + (d + e))
        few = fill(p, 0.0)
        for i in range(full, n, width):
            few = few + but(load_some(terms, i, first_lanes(n - i, few), 0.0), largest)
        total, low = add_terms(total, low, few)
        rest = add_reduce(total + low)
        if a - rest > 1.5 * own:  # two classes are the largest
            rest = rest + own
    n = (bits(rest) >> 52) - 1023
    return from_bits(bits(rest) - (n << 52)), k + n, (rest >= too_small(p)) & (rest < math.inf)
