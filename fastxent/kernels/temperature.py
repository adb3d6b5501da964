"""A chunk of rows of logits -> exact sums of the loss and of its derivatives in the inverse temperature β = 1/T.

With q = softmax(β z) and d_j = z_top - z_j >= 0, the distance from the row's largest logit,

    l = β·Σ p_k d_k + ln(1 + A),   dl/dβ = Σ p_k d_k - B/(1 + A),   d²l/dβ² = C/(1 + A) - (B/(1 + A))²

with A = Σ e_j, B = Σ e_j d_j and C = Σ e_j d_j² over the classes but the largest, e_j = e^(-β d_j). The variance loses
no more than a factor C (the number of classes) of its accuracy in the last difference: the largest class has d = 0 and
a share of at least 1/C, so the mean's square is at most C times the variance.

Chunks as in chunks.py, but ``sums`` has the rows LOSS, FIRST, SECOND and WEIGHT. A row with a NaN or +inf, or nothing
but -inf, gives NaN.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    HAS_IGNORE,
    IGNORE,
    LABEL,
    SCALE,
    SCALE_LOW,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    second_view,
    target_fault,
    weighed,
)  # fmt: skip
from fastxent.kernels.card_finish import log1p, unit_of
from fastxent.kernels.elementary import LN_2, exp_shifted_over
from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.kernels.figures import LABELS
from fastxent.kernels.jit import INLINE, chunk, inline
from fastxent.kernels.memory import load, load_some, offset, pointer, prefetch, scratch, store
from fastxent.kernels.rows import floor_exponent, lanes, largest, part, reference_of, target_sums, two_sum, two_words
from fastxent.kernels.simd import add_reduce, fill, first_lanes, float64x8, fma, halves, maximum, splat
from fastxent.kernels.tiles import ROWS

LOSS, FIRST, SECOND, WEIGHT, N_SUMS = range(5)
# The rows of a block's figures; A, B and C are in units of 2^k·e^((s - top)/T).
A, B, C, K, S, TOP, DISTANCE, FACTOR, N_FIGURES = range(9)


def add_spread(sums, e, x, base):
    """Add e, e·d and e·d² with d = base - x to three totals, each in two vectors of 8 x float64."""


@overload(add_spread, jit_options=INLINE)
def _add_spread(sums, e, x, base):
    if e == float64x8:

        def narrow(sums, e, x, base):
            a, a_low, b, b_low, c, c_low = sums
            d = base - x
            first = e * d
            a, a_low = two_sum(a, a_low, e)
            b, b_low = two_sum(b, b_low, first)
            c, c_low = two_sum(c, c_low, first * d)
            return a, a_low, b, b_low, c, c_low

        return narrow

    def widened(sums, e, x, base):
        a, a_high, b, b_high, c, c_high = sums
        e1, e2 = halves(e)
        x1, x2 = halves(x)
        d1, d2 = base - x1, base - x2
        first1, first2 = e1 * d1, e2 * d2
        return a + e1, a_high + e2, b + first1, b_high + first2, fma(first1, d1, c), fma(first2, d2, c_high)

    return widened


@inline
def note_spread(p, n, r, scale, scale_low, figures):
    """The sums of one row, in column r. Returns its largest logit: NaN for an invalid row."""
    top, first = largest(p, n)
    if first < 0:
        return math.nan
    width = lanes(p)
    s, k = reference_of(top, scale)
    magic = fill(p, elementary.rounding(p) - k)
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    base = top - s
    factor, factor_low = two_words(p, scale, scale_low)
    zero = splat(0.0)
    sums = zero, zero, zero, zero, zero, zero
    own = first // width * width
    for i in range(0, n, width):
        prefetch(p, i + n)
        v = load(p, i) if i != own and i + width <= n else part(p, i, n, first)
        x = maximum(v - s, floor)
        sums = add_spread(sums, exp_shifted_over(x, factor, factor_low, magic), x, base)
    a, a_low, b, b_low, c, c_low = sums
    figures[A, r], figures[B, r], figures[C, r] = add_reduce(a + a_low), add_reduce(b + b_low), add_reduce(c + c_low)
    figures[K, r], figures[S, r], figures[TOP, r] = k, s, top
    return top


@inline
def add_block(like, figures, m, i, scale, scale_low, sample_weight, sums):
    """The block's figures become losses, derivatives and weights in their place, and go to the exact sums."""
    f = pointer(figures, 0)
    for r in range(0, m, 8):
        top = load(f, TOP * ROWS + r)
        unit = unit_of(like, load(f, K * ROWS + r), load(f, S * ROWS + r), top, scale, scale_low)
        inner = load(f, A * ROWS + r) * unit
        share = unit / (inner + 1.0)
        mean, square = load(f, B * ROWS + r) * share, load(f, C * ROWS + r) * share
        distance, weight = load(f, DISTANCE * ROWS + r), load(f, FACTOR * ROWS + r)
        if sample_weight.size > 0:
            weight = weight * load_some(pointer(sample_weight, i), r, first_lanes(m - r, weight), 0.0)
        valid = top * 0.0  # NaN in an invalid row
        store(f, LOSS * ROWS + r, weighed(weight, distance * scale + log1p(like, inner) + valid))
        store(f, FIRST * ROWS + r, weighed(weight, distance - mean))
        store(f, SECOND * ROWS + r, weight * maximum(square - mean * mean, 0.0))
        store(f, WEIGHT * ROWS + r, weight)
    for j in range(N_SUMS):
        exact_sum_add_block(sums[j], figures[j], m)


@inline
def blank(figures, r):
    """A row that does not count."""
    for j in range(N_FIGURES):
        figures[j, r] = 0.0


@chunk
def temperature(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Logits and class indices."""
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
        for r in range(m):
            if label[r] < 0:
                blank(figures, r)
                continue
            row = offset(p, r * step)
            top = note_spread(row, n, r, scale, scale_low, figures)
            figures[TOP, r], figures[DISTANCE, r], figures[FACTOR, r] = top, top - np.float64(row[label[r]]), 1.0
        add_block(p, figures, m, i, scale, scale_low, sample_weight, sums)
        i += m


@chunk
def temperature_soft(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """Logits and distributions."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(np.float64, N_FIGURES, ROWS)
    buffer, t_buffer = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0)
    i = start
    while i < stop:
        m = min(block_rows(view, i, stop, n, 0), block_rows(t_view, i, stop, n, 0))
        p, step = row_block(view, like, i, m, n, buffer)
        t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
        for r in range(m):
            row = offset(p, r * step)
            top = note_spread(row, n, r, scale, scale_low, figures)
            distance, _, total, valid = target_sums(
                row, offset(t, r * t_step), n, top, pointer(reals, 0), False, 1.0, 0.0
            )
            reason = target_fault(total, valid)
            if reason:
                return refuse(report, i + r, reason)
            figures[TOP, r], figures[DISTANCE, r], figures[FACTOR, r] = top, distance, 1.0
        add_block(p, figures, m, i, scale, scale_low, sample_weight, sums)
        i += m
