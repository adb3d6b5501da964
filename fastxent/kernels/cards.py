"""A chunk of rows -> the figures of a score card, row by row: NLL, entropy, confidence, Brier score, prediction, rank.

Chunks as in chunks.py; the outputs are six arrays given by their addresses (blocks.CARD). A row with a NaN or +inf, or
nothing but -inf, is invalid: its NLL is NaN and its rank INVALID. An ignored row has rank IGNORED.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    CARD,
    EPS,
    FLAG,
    HAS_IGNORE,
    IGNORE,
    KIND,
    LABEL,
    SCALE,
    SCALE_LOW,
    SUM_TOL,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    row_fault,
    second_view,
    target_fault,
)  # fmt: skip
from fastxent.kernels.card_finish import IGNORED, INVALID, N_FIGURES, TOP, K, blank, finish_card
from fastxent.kernels.card_rows import note_row
from fastxent.kernels.card_tiles import TILE_ROOM, note_tiles
from fastxent.kernels.figures import LABELS
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import address, load_some_double, offset, pointer, scratch
from fastxent.kernels.narrow import read_type
from fastxent.kernels.probabilities import (
    PROBS,
    information,
    pair,
    probability_sum,
    soft_log_loss,
    soft_nll,
)  # fmt: skip
from fastxent.kernels.probability_blocks import label_losses
from fastxent.kernels.rows import largest, rank_of, target_sums
from fastxent.kernels.simd import add_reduce, first_lanes, select, splat
from fastxent.kernels.tiles import ROWS


@inline
def card_arrays(integers, i, reals, labels):
    """Pointers to row i of the six outputs."""
    return (
        address(integers[CARD] + 8 * i, reals),
        address(integers[CARD + 1] + 8 * i, reals),
        address(integers[CARD + 2] + 8 * i, reals),
        address(integers[CARD + 3] + 8 * i, reals),
        address(integers[CARD + 4] + 8 * i, labels),
        address(integers[CARD + 5] + 8 * i, labels),
    )


@chunk
def score_logits(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Logits and class indices, one row at a time."""
    view, n, has_ignore, ignore_index = first_view(integers), integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, N_FIGURES, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p, step = row_block(view, like, i, m, n, buffer)
        card = card_arrays(integers, i, reals, labels)
        for r in range(m):
            if label[r] >= 0:
                first, rank = note_row(offset(p, r * step), n, step, label[r], r, scale, scale_low, figures)
                card[4][r], card[5][r] = first, rank
                if first < 0:
                    label[r] = INVALID
        finish_card(p, figures, card, m, scale, scale_low)
        blank_marked(card, label, m)
        i += m


@chunk
def score_logits_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """The same for few classes, in tiles."""
    view, n, has_ignore, ignore_index = first_view(integers), integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    label = scratch(np.int64, 0, LABELS)
    tile = scratch(read_type(like), 0, TILE_ROOM)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, n)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        card = card_arrays(integers, i, reals, labels)
        note_tiles(view, like, n, i, m, label, labels, scale, scale_low, tile, card)
        i += m


@inline
def blank_marked(card, label, m):
    """Blank the rows whose label is negative: IGNORED or INVALID."""
    for r in range(m):
        if label[r] < 0:
            blank(card, r, label[r])


@chunk
def score_logits_soft(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, N_FIGURES, ROWS)
    straight = scratch(np.float64, 0, ROWS)
    masses = scratch(np.float64, 0, ROWS)
    buffer, t_buffer = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        card = card_arrays(integers, i, reals, labels)
        for r in range(m):
            row = offset(p, r * step)
            first, _ = note_row(row, n, step, -1, r, scale, scale_low, figures)
            top = figures[TOP, r] if first >= 0 else math.nan
            distance, masses[r], total, valid = target_sums(
                row, offset(t, r * t_step), n, top, pointer(reals, 0), False, 1.0, 0.0
            )
            reason = target_fault(total, valid)
            if reason:
                return refuse(report, i + r, reason)
            straight[r] = distance * scale
            card[4][r] = first
            card[5][r] = 0 if first >= 0 else INVALID
        finish_card(p, figures, card, m, scale, scale_low)
        for r in range(m):
            if card[5][r] == INVALID:
                blank(card, r, INVALID)
                continue
            card[0][r] = straight[r] + masses[r] * figures[K, r]
            card[3][r] = squared_distance(
                offset(p, r * step), offset(t, r * t_step), n, figures[TOP, r], figures[K, r], scale, scale_low
            )
        i += m


@inline
def squared_distance(p, t, n, top, top_nll, scale, scale_low):
    """Σ (q_k - t_k)² of one row of logits."""
    total = splat(0.0)
    for j in range(0, n, 8):
        here = first_lanes(n - j, total)
        x = load_some_double(p, j, here, -math.inf) - top
        scaled = x * scale
        log_q = select(x > -math.inf, elementary.fma(x, scale_low, scaled), scaled) - top_nll
        difference = elementary.exp(log_q) - load_some_double(t, j, here, 0.0)
        total = elementary.fma(difference, difference, total)
    return add_reduce(total)


@inline
def note_probabilities(p, n, kind, factor, card, r):
    """What a row of probabilities or log-probabilities tells without its target. Returns Σ q² and the largest class."""
    top, first = largest(p, n)
    card[1][r], squares = information(p, n, kind, factor)
    card[2][r] = top * factor if kind == PROBS else elementary.exp(top)
    card[4][r] = first
    return squares, first


@chunk
def score_probabilities(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Probabilities or log-probabilities, and class indices."""
    view, n, has_ignore, ignore_index = first_view(integers), integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE]
    kind, normalize, eps, sum_tol = integers[KIND], integers[FLAG] != 0, reals[EPS], reals[SUM_TOL]
    figures = scratch(np.float64, 2, ROWS)
    values = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, ROWS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p, step = row_block(view, like, i, m, n, buffer)
        card = card_arrays(integers, i, reals, labels)
        for r in range(m):
            row, y = offset(p, r * step), label[r]
            figures[0, r], figures[1, r] = 1.0, 0.0
            if y < 0:
                blank(card, r, IGNORED)
                continue
            factor, reason = row_fault(row, n, kind, normalize, sum_tol)
            if reason:
                return refuse(report, i + r, reason)
            squares, first = note_probabilities(row, n, kind, factor, card, r)
            own = np.float64(row[y])
            if kind == PROBS:
                figures[0, r] = own
                if normalize:  # nothing else looks at the others
                    figures[1, r] = probability_sum(row, n, y)
                own *= factor
            else:
                values[r] = -own
                own = elementary.exp(own)
            if first < 0:
                blank(card, r, INVALID)
                label[r] = INVALID
                continue
            card[3][r] = max((squares - own) + (1.0 - own), 0.0)
            card[5][r] = 0 if y == first else rank_of(row, n, y)
        if kind == PROBS:
            label_losses(p, figures, values, m, eps, normalize)
        for r in range(m):
            if label[r] >= 0:
                card[0][r] = values[r] + 0.0
        i += m


@chunk
def score_probabilities_soft(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Probabilities or log-probabilities, and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    kind, normalize, eps, sum_tol = integers[KIND], integers[FLAG] != 0, reals[EPS], reals[SUM_TOL]
    buffer, t_buffer, w = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0), pointer(reals, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        card = card_arrays(integers, i, reals, labels)
        for r in range(m):
            row, target = offset(p, r * step), offset(t, r * t_step)
            factor, reason = row_fault(row, n, kind, normalize, sum_tol)
            if reason:
                return refuse(report, i + r, reason)
            _, first = note_probabilities(row, n, kind, factor, card, r)
            if kind == PROBS:
                loss, mass, valid = soft_log_loss(row, target, n, w, False, eps, normalize)
            else:
                loss, mass, _, valid = soft_nll(row, target, n, w, False)
            reason = target_fault(mass, valid)
            if reason:
                return refuse(report, i + r, reason)
            if first < 0:
                blank(card, r, INVALID)
                continue
            squares = splat(0.0)
            for j in range(0, n, 8):
                here = first_lanes(n - j, squares)
                difference = pair(row, j, here, kind, factor)[0] - load_some_double(target, j, here, 0.0)
                squares = elementary.fma(difference, difference, squares)
            card[0][r] = loss + 0.0
            card[3][r] = add_reduce(squares)
            card[5][r] = 0
        i += m
