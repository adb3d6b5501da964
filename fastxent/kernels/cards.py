"""A chunk of rows -> the figures of a score card, row by row: NLL, entropy, confidence, Brier score, prediction, rank.

Chunks as in chunks.py; the outputs are six arrays given by their addresses (blocks.CARD). A row with a NaN or +inf, or
nothing but -inf, is invalid: its NLL is NaN and its rank INVALID. An ignored row has rank IGNORED.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    CARD, EPS, FLAG, HAS_IGNORE, IGNORE, KIND, LABEL, N, NOT_PROBABILITY, POSITIVE_LOG_PROB, ROW_SUM, SCALE, SCALE_LOW,
    SUM_TOL, TARGET_NEGATIVE, TARGET_SUM, block_rows, copy_buffer, first_view, read_labels, refuse, row_block, second_view,
)  # fmt: skip
from fastxent.kernels.chunks import DISTRIBUTION_TOL, left_out, nll_of
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.probabilities import (
    LOGITS, PROBS, are_log_probs, clipped_log_loss, information, pair, probability_sums, soft_log_loss, soft_nll,
)  # fmt: skip
from fastxent.kernels.rows import largest, moments, rank_of, target_sums
from fastxent.kernels.simd import (
    add_reduce, address, first_lanes, load, load_some_double, offset, pointer, scratch, select, splat, store_some,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS

IGNORED, INVALID = -1, -2

# The rows of a block's figures: exp_sum's, then those of the score card.
A, K, S, TOP, SPREAD, SQUARES, DISTANCE, IS_TOP, N_FIGURES = range(9)


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


@inline
def blank(card, r, rank):
    """A row that does not count."""
    nll, entropy, confidence, brier, predicted, ranks = card
    nll[r] = 0.0 if rank == IGNORED else math.nan
    entropy[r] = 0.0
    confidence[r] = 0.0
    brier[r] = 0.0
    predicted[r] = 0
    ranks[r] = rank


@inline
def note_moments(p, n, r, scale, scale_low, figures):
    """The figures of one row of logits, in column r. Returns its largest logit (NaN: invalid) and that one's class."""
    top, first = largest(p, n)
    if top == top:
        a, k, s, spread, squares = moments(p, n, top, first, scale, scale_low)
        figures[A, r], figures[K, r], figures[S, r], figures[TOP, r] = a, k, s, top
        figures[SPREAD, r] = spread / a if a > 0.0 else 0.0
        figures[SQUARES, r] = squares / (a * a) if a > 0.0 else 0.0
    else:
        figures[A, r], figures[K, r], figures[S, r], figures[TOP, r] = 0.0, 0.0, 0.0, 0.0
        figures[SPREAD, r], figures[SQUARES, r] = 0.0, 0.0
    return top, first


@inline
def finish_card(figures, values, card, m):
    """From the block's figures: with a = Σ e^(z_j - top) over the other classes, q_top = 1/(1 + a) and so on."""
    nll, entropy, confidence, brier, _, _ = card
    f, v = pointer(figures, 0), pointer(values, 0)
    for r in range(0, m, 8):
        top_nll = load(v, r)
        share, q = left_out(top_nll), elementary.exp(-top_nll)
        loss = top_nll + load(f, DISTANCE * ROWS + r)
        rest = load(f, SQUARES * ROWS + r) * share * share
        own = elementary.exp(-loss)
        is_top = load(f, IS_TOP * ROWS + r) > 0.0
        here = first_lanes(m - r, q)
        store_some(nll, r, here, loss)
        store_some(entropy, r, here, top_nll + load(f, SPREAD * ROWS + r) * share)
        store_some(confidence, r, here, q)
        store_some(brier, r, here, select(is_top, share * share, (q * q - own) + (1.0 - own)) + rest)


@compiled
def score_logits(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and class indices."""
    view, n, has_ignore, ignore_index = first_view(integers), integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, N_FIGURES, ROWS)
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
            if y < 0:
                continue
            top, first = note_moments(row, n, r, scale, scale_low, figures)
            if top != top:
                label[r] = INVALID
                continue
            figures[DISTANCE, r] = (top - row[y]) * scale
            figures[IS_TOP, r] = 1.0 if y == first else 0.0
            card[4][r] = first
            card[5][r] = 0 if y == first else rank_of(row, n, y)
        nll_of(figures, values, m, scale, scale_low)
        finish_card(figures, values, card, m)
        for r in range(m):
            if label[r] < 0:
                blank(card, r, label[r])
        i += m


@compiled
def score_logits_soft(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, N_FIGURES, ROWS)
    values = scratch(np.float64, 0, ROWS)
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
            top, first = note_moments(row, n, r, scale, scale_low, figures)
            distance, masses[r], total, valid = target_sums(
                row, offset(t, r * t_step), n, top, pointer(reals, 0), False, 1.0, 0.0
            )
            if not valid:
                return refuse(report, i + r, TARGET_NEGATIVE)
            if not abs(total - 1.0) <= DISTRIBUTION_TOL:
                return refuse(report, i + r, TARGET_SUM)
            straight[r] = distance * scale
            card[4][r] = first
            card[5][r] = 0 if top == top else INVALID
        nll_of(figures, values, m, scale, scale_low)
        finish_card(figures, values, card, m)
        for r in range(m):
            if card[5][r] == INVALID:
                blank(card, r, INVALID)
                continue
            card[0][r] = straight[r] + masses[r] * values[r]
            card[3][r] = squared_distance(
                offset(p, r * step), offset(t, r * t_step), n, figures[TOP, r], values[r], scale, scale_low
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
def probability_fault(p, n, kind, normalize, sum_tol):
    """The factor that normalises a row, and why the row is refused, or 0."""
    if kind != PROBS:
        return 1.0, 0 if are_log_probs(p, n) else POSITIVE_LOG_PROB
    total, low, valid = probability_sums(p, n, -1)
    if not valid:
        return 1.0, NOT_PROBABILITY
    if total == 0.0 or not (normalize or abs(total - 1.0) <= sum_tol):
        return 1.0, ROW_SUM
    return 1.0 / (total + low) if normalize else 1.0, 0


@inline
def note_probabilities(p, n, kind, factor, card, r):
    """What a row of probabilities or log-probabilities tells without its target. Returns Σ q² and the predicted class."""
    top, first = largest(p, n)
    card[1][r], squares = information(p, n, kind, factor)
    card[2][r] = top * factor if kind == PROBS else elementary.exp(top)
    card[4][r] = first
    return squares, first


@compiled
def score_probabilities(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Probabilities or log-probabilities, and class indices."""
    view, n, has_ignore, ignore_index = first_view(integers), integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE]
    kind, normalize, eps, sum_tol = integers[KIND], integers[FLAG] != 0, reals[EPS], reals[SUM_TOL]
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
            if y < 0:
                blank(card, r, IGNORED)
                continue
            factor, reason = probability_fault(row, n, kind, normalize, sum_tol)
            if reason:
                return refuse(report, i + r, reason)
            squares, first = note_probabilities(row, n, kind, factor, card, r)
            own = np.float64(row[y])
            if kind == PROBS:
                others, others_low, _ = probability_sums(row, n, y)
                card[0][r] = clipped_log_loss(own, others + others_low, eps, normalize) + 0.0
                own *= factor
            else:
                card[0][r] = -own + 0.0
                own = elementary.exp(own)
            if first < 0:
                blank(card, r, INVALID)
                continue
            card[3][r] = max((squares - own) + (1.0 - own), 0.0)
            card[5][r] = 0 if y == first else rank_of(row, n, y)
        i += m


@compiled
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
            factor, reason = probability_fault(row, n, kind, normalize, sum_tol)
            if reason:
                return refuse(report, i + r, reason)
            _, first = note_probabilities(row, n, kind, factor, card, r)
            if kind == PROBS:
                loss, mass, valid = soft_log_loss(row, target, n, w, False, eps, normalize)
            else:
                loss, mass, _, valid = soft_nll(row, target, n, w, False)
            if not valid:
                return refuse(report, i + r, TARGET_NEGATIVE)
            if not abs(mass - 1.0) <= DISTRIBUTION_TOL:
                return refuse(report, i + r, TARGET_SUM)
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
