"""A chunk of rows of many classes -> their losses and gradients, one exponential a logit.

A row's terms stay in a buffer until its factor is known. They are written between the reads of the next block's rows,
a few vectors at a time: memory does both at once, and stores past the caches are spread over the arithmetic.
"""

import math

import numpy as np

from fastxent.kernels.blocks import (
    FLAG,
    GRADIENT,
    GRADIENT_SCALE,
    HAS_IGNORE,
    IGNORE,
    LABEL,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    settle_labels,
    strided,
)  # fmt: skip
from fastxent.kernels.figures import LABELS, nll_of, row_figures_and_terms
from fastxent.kernels.gradient_chunks import NEAR_ELEMENTS, row_scales, view_at, weigh
from fastxent.kernels.gradients import FACTOR, OWN, PARTS, factors_of, fill_row, label_row, refer
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import in_use, offset, pointer, scratch, streamed
from fastxent.kernels.narrow import read_type, room
from fastxent.kernels.row_groups import REFERENCE, SMALL, any_small, note_least
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
from fastxent.kernels.simd import fill, select
from fastxent.kernels.tiles import ROWS


@chunk
def label_gradients_of_terms(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and class indices, T = 1, without the Hessian; outputs with adjacent classes."""
    view, n = first_view(integers), integers[N]
    o_view, streaming = view_at(integers, GRADIENT), integers[FLAG] != 0
    figures, held_figures = scratch(read_type(like), 6, ROWS), scratch(read_type(like), 6, ROWS)
    parts, held_parts = scratch(read_type(like), PARTS, ROWS), scratch(read_type(like), PARTS, ROWS)
    scales, held_scales = scratch(np.float64, 0, ROWS), scratch(np.float64, 0, ROWS)
    label, held_label = scratch(np.int64, 0, LABELS), scratch(np.int64, 0, LABELS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    line, waiting = scratch(read_type(like), 0, LINE), scratch(np.int64, 0, 1)
    waiting[0] = 0
    buffer, other = copy_buffer(view, like, n, 0), copy_buffer(view, like, n, 0)
    most = max(1, min(NEAR_ELEMENTS // n, ROWS))
    terms_step = (n + 15) & -16
    kept, kept_too = room(like, most * terms_step + 48), room(like, most * terms_step + 48)
    terms, held_terms = aligned(kept), aligned(kept_too)
    pen = pointer(line, 0), waiting, streaming, side_by_side(o_view, stop, n)
    i, held, step = start, 0, np.int64(0)
    p, o = strided(view, like, start), strided(o_view, like, start)
    while i < stop or held > 0:
        m, held_p, held_step = 0, p, step
        if i < stop:
            m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n), most)
            bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
            if bad >= 0:
                return refuse(report, bad, LABEL)
            p, step = row_block(view, like, i, m, n, buffer)
            buffer, other = other, buffer
        o = strided(o_view, like, i - held)
        rows = held_p, held_step, n, held_terms, terms_step, held_label, held_figures, held_parts, held_scales
        context = rows, held, o, o_view[2], pen
        row_figures_and_terms(
            p, step, n, m, label, 1.0, 0.0, figures, terms, terms_step, note_least, any_small,
            begin_row, go_on, end_row, context,
        )  # fmt: skip
        for r in range(m, held):
            end_row(0, begin_row(r, context))
        nll_of(figures, values, m, 1.0, 0.0)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        row_scales(integers, reals, class_weight, sample_weight, label, i, m, scales)
        weigh(scales, reals[GRADIENT_SCALE], m, scales)
        factors_of(pointer(figures, 0), pointer(scales, 0), pointer(parts, 0), m, 1.0, 0.0)
        refer(pointer(figures, 0), pointer(parts, 0), m)
        figures, held_figures = held_figures, figures
        parts, held_parts = held_parts, parts
        scales, held_scales = held_scales, scales
        label, held_label = held_label, label
        terms, held_terms = held_terms, terms
        if i >= stop:
            flush(offset(o, held * o_view[2]), pen)
        i, held = i + m, m
    in_use(kept)
    in_use(kept_too)
    streamed()


@inline
def begin_row(r, context):
    """Begin to write row r of those held, if it is one."""
    (p, step, n, terms, terms_step, label, figures, parts, scales), held, o, o_step, pen = context
    source, target = offset(terms, r * terms_step), offset(o, r * o_step)
    values = fill(p, parts[FACTOR, r]), fill(p, parts[OWN, r])
    if r < held:
        if label[r] >= 0 and figures[REFERENCE, r] == figures[REFERENCE, r] and figures[SMALL, r] == 0.0:
            return start_row(value, values, source, n, target, pen)
        flush(target, pen)
        if label[r] < 0:
            fill_row(0.0, n, target)
        else:
            given = offset(pointer(figures, 0), r), offset(pointer(parts, 0), r), scales[r], 1.0, 0.0
            label_row(offset(p, r * step), n, label[r], *given, target, pen[2])
    return no_row(values, source, target, pen)


@inline
def go_on(i, row):
    """Write four vectors."""
    go_on_with_row(value, i, row)


@inline
def end_row(i, row):
    """Write the rest."""
    finish_row(value, i, row)


@inline
def value(term, values):
    """A vector of the gradient: the label's term is inf."""
    factor, own = values
    return select(term == math.inf, own, term * factor)
