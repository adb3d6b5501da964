"""A chunk of rows -> their losses: the serial loops that batch.py runs side by side.

Each takes (
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
): the rows start..stop, a tuple of the call's arguments, the exact sums to
add to, and where to note the first row that is refused. Losses are made in blocks of ROWS: figures row by row (or tile by
tile), then what is the same for every row in vectors.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.binary import binary_log_loss, binary_nll
from fastxent.kernels.blocks import (
    EPS, FLAG, HAS_IGNORE, IGNORE, KEEP, KIND, LABEL, N, NOT_PROBABILITY, POS_WEIGHT, POSITIVE_LOG_PROB, ROW_SUM, SCALE,
    SCALE_LOW, SPREAD, SUM_TOL, TARGET_NEGATIVE, TARGET_SUM, block_rows, copy_buffer, first_view, read_labels, refuse,
    row_block, second_view, settle, settle_labels, strided,
)  # fmt: skip
from fastxent.kernels.divergence import divergence, divergence_of_logits
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.probabilities import LOGITS, PROBS, are_log_probs, clipped_log_loss, information
from fastxent.kernels.probabilities import probability_sums, soft_log_loss, soft_nll
from fastxent.kernels.rows import (
    exp_sum, exp_sum_over, lanes, largest, log_sum, moments, nll, smoothed_sums, target_sums,
)  # fmt: skip
from fastxent.kernels.simd import (
    fill, first_lanes, fma, load, load_integers, load_some_double, offset, pointer, scratch, select, splat, store, store_some,
    store_some_double,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS, TILE_SIZE, fill_tile, tile_exp_sum

# Labels are read in vectors, past the last one.
LABELS = ROWS + 16
DISTRIBUTION_TOL = 1e-3  # how far from 1 a distribution may sum, where no option says


@inline
def tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tile):
    """A, k, s and the label's logit of m rows from row i on, to the rows of ``figures``. Label -1: all classes."""
    p, f, q = strided(view, like, i), pointer(figures, 0), pointer(tile, 0)
    width = lanes(q)
    for r in range(0, m, width):
        fill_tile(q, offset(p, r * view[2]), view[2], min(width, m - r), n, view[3])
        tile_exp_sum(q, n, load_integers(pointer(label, r), 0, fill(p, 0.0)), f, r, scale, scale_low)


@inline
def row_figures(view, like, n, i, m, label, scale, scale_low, figures, buffer):
    """The same, one row at a time."""
    p, step = row_block(view, like, i, m, n, buffer)
    for r in range(m):
        row = offset(p, r * step)
        a, k, s, done = 0.0, 0.0, 0.0, False
        if scale == 1.0:
            a, k, done = exp_sum(row, n, label[r])
        if not done:
            a, k, s = exp_sum_over(row, n, label[r], scale, scale_low)
        figures[0, r] = a
        figures[1, r] = k
        figures[2, r] = s
        figures[3, r] = row[max(label[r], 0)]


@inline
def nll_of(figures, values, m, scale, scale_low):
    """The block's figures become losses."""
    f, v = pointer(figures, 0), pointer(values, 0)
    for r in range(0, m, 8):
        store(v, r, nll(load(f, r), load(f, ROWS + r), load(f, 2 * ROWS + r), load(f, 3 * ROWS + r), scale, scale_low))


@compiled
def hard_cross_entropy(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and class indices, without smoothing, one row at a time."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 4, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, 0)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        row_figures(view, like, n, i, m, label, scale, scale_low, figures, buffer)
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@compiled
def hard_cross_entropy_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """The same for few classes, in tiles."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 4, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    tile = np.empty(TILE_SIZE, like.dtype)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, n)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tile)
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@inline
def top_figures(p, n, r, scale, scale_low, figures):
    """Figures of a row around its largest class, in column r; -ln q of that class is then nll_of's. Returns its logit."""
    top, first = largest(p, n)
    a, k, s, _, _ = moments(p, n, top, first, scale, scale_low) if top == top else (math.nan, 0.0, 0.0, 0.0, 0.0)
    figures[0, r] = a
    figures[1, r] = k
    figures[2, r] = s
    figures[3, r] = top
    return top


@inline
def add_distances(figures, values, m, scale):
    """Σ c_k·(top - z_k)/T + Σ c_k·(-ln q_top): sums of non-negative terms. Column r of figures[4] and [5] holds the sums."""
    for r in range(m):
        straight, mass = figures[4, r], figures[5, r]
        values[r] = straight * scale + (mass * values[r] if mass != 0.0 or values[r] != values[r] else 0.0)


@compiled
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
                top = top_figures(row, n, r, scale, scale_low, figures)
                figures[4, r], figures[5, r] = smoothed_sums(
                    row, n, label[r], top, w, class_weight.size > 0, keep, spread
                )
        nll_of(figures, values, m, scale, scale_low)
        add_distances(figures, values, m, scale)
        settle_labels(values, label, m, i, class_weight, sample_weight, False, factors, out, sums)
        i += m


@compiled
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
            row = offset(p, r * step)
            top = top_figures(row, n, r, scale, scale_low, figures)
            figures[4, r], figures[5, r], mass, valid = target_sums(
                row, offset(t, r * t_step), n, top, w, class_weight.size > 0, keep, spread
            )
            if not valid:
                return refuse(report, i + r, TARGET_NEGATIVE)
            if not abs(mass - 1.0) <= DISTRIBUTION_TOL:
                return refuse(report, i + r, TARGET_SUM)
            factors[r] = 1.0
        nll_of(figures, values, m, scale, scale_low)
        add_distances(figures, values, m, scale)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


@compiled
def hard_nll(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Log-probabilities and class indices: the labels' entries alone are read."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    i = start
    while i < stop:
        m = block_rows(view, i, stop, n, n)
        bad = read_labels(labels, i, m, n, has_ignore, ignore_index, label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p = strided(view, like, i)
        for r in range(m):
            if label[r] >= 0:
                values[r] = -np.float64(p[r * view[2] + label[r] * view[3]])
                if not values[r] >= 0.0:
                    return refuse(report, i + r, POSITIVE_LOG_PROB)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@compiled
def soft_nll_rows(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
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
            if not valid:
                return refuse(report, i + r, TARGET_NEGATIVE)
            if not abs(mass - 1.0) <= DISTRIBUTION_TOL:
                return refuse(report, i + r, TARGET_SUM)
            if not sound:
                return refuse(report, i + r, POSITIVE_LOG_PROB)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


@compiled
def hard_log_loss(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Probabilities and class indices. Range and row sums are checked in the same pass."""
    view, n = first_view(integers), integers[N]
    has_ignore, ignore_index = integers[HAS_IGNORE] != 0, integers[IGNORE]
    eps, normalize, sum_tol = reals[EPS], integers[FLAG] != 0, reals[SUM_TOL]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer = copy_buffer(view, like, n, 0)
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
                others, others_low, valid = probability_sums(row, n, label[r])
                own = np.float64(row[label[r]])
                if not valid:
                    return refuse(report, i + r, NOT_PROBABILITY)
                if others + own == 0.0 or not (normalize or abs((others + own) - 1.0) <= sum_tol):
                    return refuse(report, i + r, ROW_SUM)
                figures[0, r] = own
                figures[1, r] = others + others_low
        f, v = pointer(figures, 0), pointer(values, 0)
        for r in range(0, m, 8):
            store(v, r, clipped_log_loss(load(f, r), load(f, ROWS + r), eps, normalize))
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        i += m


@compiled
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
            total, _, sound = probability_sums(row, n, -1)
            values[r], mass, valid = soft_log_loss(
                row, offset(t, r * t_step), n, w, class_weight.size > 0, eps, normalize
            )
            factors[r] = 1.0
            if not valid:
                return refuse(report, i + r, TARGET_NEGATIVE)
            if not abs(mass - 1.0) <= DISTRIBUTION_TOL:
                return refuse(report, i + r, TARGET_SUM)
            if not sound:
                return refuse(report, i + r, NOT_PROBABILITY)
            if total == 0.0 or not (normalize or abs(total - 1.0) <= sum_tol):
                return refuse(report, i + r, ROW_SUM)
        settle(values, factors, False, m, i, sample_weight, out, sums)
        i += m


@compiled
def binary(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """One logit or probability a row, the target a probability."""
    view, t_view = first_view(integers), second_view(integers)
    pos_weight, is_logits, eps = reals[POS_WEIGHT], integers[FLAG] != 0, reals[EPS]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    f, v = pointer(figures, 0), pointer(values, 0)
    for i in range(start, stop, ROWS):
        m = min(ROWS, stop - i)
        p, t = strided(view, like, i), strided(t_view, t_like, i)
        bad = -1
        for r in range(m):
            figures[0, r] = p[r * view[2]]
            figures[1, r] = t[r * t_view[2]]
            factors[r] = 1.0
        for r in range(m):
            good = 0.0 <= figures[1, r] <= 1.0 and (is_logits or 0.0 <= figures[0, r] <= 1.0)
            bad = r if bad < 0 and not good else bad
        if bad >= 0:
            return refuse(report, i + bad, NOT_PROBABILITY)
        for r in range(0, m, 8):
            if is_logits:
                store(v, r, binary_nll(load(f, r), load(f, ROWS + r), pos_weight))
            else:
                store(v, r, binary_log_loss(load(f, r), load(f, ROWS + r), pos_weight, eps))
        settle(values, factors, False, m, i, sample_weight, out, sums)


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
    tile = np.empty(TILE_SIZE, like.dtype)
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
def normalised(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """softmax, or its logarithm, of each row, written in the logits' type: rounded once, from float64."""
    view, o_view, n, logarithm = first_view(integers), second_view(integers), integers[N], integers[FLAG] != 0
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    buffer, result = copy_buffer(view, like, n, 0), np.empty(n, like.dtype)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(o_view, i, stop, n, n))
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            top_figures(offset(p, r * step), n, r, scale, scale_low, figures)
        nll_of(figures, values, m, scale, scale_low)
        o = strided(o_view, like, i)
        for r in range(m):
            normalise_row(offset(p, r * step), n, figures[3, r], values[r], scale, scale_low, logarithm, pointer(result, 0))
            for j in range(n):
                o[r * o_view[2] + j * o_view[3]] = result[j]
        i += m


@inline
def normalise_row(p, n, top, top_nll, scale, scale_low, logarithm, result):
    """ln q_k = (z_k - top)/T - (-ln q_top): two terms of one sign."""
    for j in range(0, n, 8):
        here = first_lanes(n - j, splat(0.0))
        x = load_some_double(p, j, here, 0.0) - top
        scaled = x * scale
        value = select(x > -math.inf, fma(x, scale_low, scaled), scaled) - top_nll
        store_some_double(result, j, here, value if logarithm else elementary.exp(value))


@compiled
def entropy(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
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
                top, first = largest(row, n)
                if top != top:
                    figures[0, r] = math.nan
                    continue
                a, k, s, b, _ = moments(row, n, top, first, 1.0, 0.0)
                figures[0, r], figures[1, r], figures[2, r], figures[3, r] = a, k, s, top
                figures[4, r] = b / a if a > 0.0 else 0.0
                continue
            reason = distribution_fault(row, n, kind, DISTRIBUTION_TOL)
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


@inline
def left_out(top_nll):
    """1 - q of the class with -ln q = top_nll: the share of all other classes, accurate when it is small."""
    return -elementary.expm1(-top_nll)


@inline
def distribution_fault(p, n, kind, sum_tol):
    """Why a row of probabilities or log-probabilities is refused, or 0. Log-probabilities need not sum to anything."""
    if kind == PROBS:
        total, _, valid = probability_sums(p, n, -1)
        if not valid:
            return NOT_PROBABILITY
        return 0 if abs(total - 1.0) <= sum_tol else ROW_SUM
    return 0 if are_log_probs(p, n) else POSITIVE_LOG_PROB


@compiled
def kl_divergence(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
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
            reason = distribution_fault(a, n, kind, DISTRIBUTION_TOL)
            if reason == 0:
                reason = distribution_fault(b, n, kind, DISTRIBUTION_TOL)
            if reason:
                return refuse(report, i + r, reason)
            out[i + r] = divergence(a, b, n, kind) + 0.0
        i += m
