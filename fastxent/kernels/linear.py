"""Linear cross-entropy: blocks of logits, rows x some classes, folded into the rows' states; chunk functions for batch.

A row's state is a column of a float64 array (STATE, rows):

    A + A_LOW, K, S     Σ e^(z_j/T) = e^(S/T)·2^K·(A + A_LOW) over the classes seen, the label's left out (see rows.py)
    ABOVE               how many of them stand before the label: z_j > z_y, or z_j = z_y and j < y
    AWAY, MASS, TOP     for smoothing: Σ w_k·(TOP - z_k) and Σ w_k over them, TOP the largest

The label's logit is not taken from the blocks but given (``own_logits``), so a block can be compared with it wherever
the label's class lies. ``finish`` makes losses of the states, and leaves in them what the gradient needs.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.blocks import ROWS, first_view, second_view, settle_labels, strided
from fastxent.kernels.elementary import LN_2, exp_shifted_over, exp_times
from fastxent.kernels.figures import LABELS, row_figures
from fastxent.kernels.finish import log_sum, nll, wide_sum
from fastxent.kernels.jit import INLINE, chunk, inline
from fastxent.kernels.memory import (
    load,
    load_double,
    load_some,
    load_some_double,
    offset,
    pointer,
    scratch,
    store,
    store_some,
)  # fmt: skip
from fastxent.kernels.narrow import read_type
from fastxent.kernels.row_groups import near_one
from fastxent.kernels.rows import (
    exp_sum_over,
    floor_exponent,
    guarded_total,
    lanes,
    largest_but,
    smoothed_sums,
    two_sum,
    two_words,
)
from fastxent.kernels.simd import (
    add_reduce,
    bits,
    fill,
    first_lanes,
    float64x8,
    fma,
    halves,
    lane_numbers,
    maximum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.softcap import capped, slope

A, A_LOW, K, S, ABOVE, AWAY, MASS, TOP, STATE = range(9)
# What finish leaves in the rows of a state: the sum over all classes as A, K and S; ABOVE; then these.
SHARE, LSE, NLL = AWAY, TOP, A_LOW

# A call's numbers by position: integers follow the two views, reals are a call's own.
CLASSES, FIRST_CLASS, HAS_BIAS, HAS_CAP, RANKED, SMOOTHED = range(10, 16)
SCALE, SCALE_LOW, KEEP, SPREAD, CAP, RATE, RATE_LOW, N_REALS = range(8)

# What a row's gradient is made of, by column: e^(z/T - S/T)·2^-K times FACTOR, OWN in the label's place, and SPREAD
# times its weight off every class.
G_S, G_K, G_FACTOR, G_OWN, G_SPREAD, GRADIENT = range(6)

GROWS = 40.0  # a new reference is taken where terms are e^40 as large: what was there before counts no more than 2^-57
NEGLIGIBLE = 745.0  # e^-745 is the least float64
GROUP_CLASSES = 64  # with fewer classes row_figures' groups of rows gain nothing, and may have no whole vector


# --- logits -----------------------------------------------------------------------------------------------------------


@chunk
def own_logits(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The rows' dot products h·w to ``out``, rounded once to the matrices' type; w are the labels' classifiers.

    The sums are float64 in two words (Ogita, Rump, Oishi: Accurate sum and dot product, 2005), so no order shows. A
    bias (``class_weight``, by class) is added and a cap applied as they are to a block.
    """
    view, w_view, n = first_view(integers), second_view(integers), integers[CLASSES]
    logits = scratch(read_type(like), 0, ROWS)
    z = pointer(logits, 0)
    for i in range(start, stop, ROWS):
        m = min(ROWS, stop - i)
        for r in range(m):
            h, w = strided(view, like, i + r), strided(w_view, t_like, i + r)
            total, low = splat(0.0), splat(0.0)
            for k in range(0, n, 8):
                here = first_lanes(n - k, total)
                a, b = load_some_double(h, k, here, 0.0), load_some_double(w, k, here, 0.0)
                product = a * b
                total, low = two_sum(total, low, product)
                low = low + fma(a, b, -product)
            logits[r] = guarded_total(total, low)
            if class_weight.size > 0:
                logits[r] = logits[r] + class_weight[labels[i + r]]
        if integers[HAS_CAP]:
            rate, rate_low = two_words(z, reals[RATE], reals[RATE_LOW])
            for r in range(0, m, lanes(z)):
                store(z, r, capped(load(z, r), fill(z, reals[CAP]), rate, rate_low))
        for r in range(m):
            out[i + r] = logits[r]


@inline
def finish_logits(p, bias, n, has_bias, has_cap, cap, rate, rate_low):
    """A row of a block becomes logits: the bias added, then capped."""
    high, low = two_words(p, rate, rate_low)
    for i in range(0, n, lanes(p)):
        here = first_lanes(n - i, high)
        v = load_some(p, i, here, 0.0)
        if has_bias:
            v = v + load_some(bias, i, here, 0.0)
        if has_cap:
            v = capped(v, fill(p, cap), high, low)
        store_some(p, i, here, v)


@chunk
def widen_rows(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Rows of float16 or bfloat16 to the second matrix, of float32; neighbours of a row are adjacent."""
    view, to_view, n = first_view(integers), second_view(integers), integers[CLASSES]
    for i in range(start, stop):
        p, q = strided(view, like, i), strided(to_view, t_like, i)
        full = n - n % lanes(p)
        for j in range(0, full, lanes(p)):
            store(q, j, load(p, j))
        for j in range(full, n):
            q[j] = p[j]


# --- a block into the rows' states ------------------------------------------------------------------------------------


@chunk
def fold(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """A block of products (which become logits), its bias, labels, class weights and own logits; ``out``: states."""
    view, n = first_view(integers), integers[CLASSES]
    bias = strided(second_view(integers), t_like, 0)
    has_bias, has_cap = integers[HAS_BIAS] != 0, integers[HAS_CAP] != 0
    cap, rate, rate_low = reals[CAP], reals[RATE], reals[RATE_LOW]
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    rows = out.size // STATE
    states, w = pointer(out, 0), pointer(class_weight, 0)
    figures = scratch(read_type(like), 4, ROWS)
    label = scratch(np.int64, 0, LABELS)
    f = pointer(figures, 0)
    for i in range(start, stop, ROWS):
        m = min(ROWS, stop - i)
        for r in range(m):
            y = labels[i + r] - integers[FIRST_CLASS]
            label[r] = y if 0 <= y < n else -1
        if has_bias or has_cap:
            for r in range(m):
                finish_logits(strided(view, like, i + r), bias, n, has_bias, has_cap, cap, rate, rate_low)
        if n >= GROUP_CLASSES:
            row_figures(view, like, n, i, m, label, scale, scale_low, figures, like)
        else:
            for r in range(m):
                a, k, s = exp_sum_over(strided(view, like, i + r), n, label[r], scale, scale_low)
                figures[0, r], figures[1, r], figures[2, r] = a, k, s
        for r in range(0, m, 8):
            merge_eight(offset(states, i + r), rows, first_lanes(m - r, splat(0.0)), f, r, scale, scale_low)
        if integers[RANKED]:
            for r in range(m):
                y = labels[i + r] - integers[FIRST_CLASS]
                out[ABOVE * rows + i + r] += above(strided(view, like, i + r), n, sample_weight[i + r], y)
        if integers[SMOOTHED]:
            for r in range(m):
                p = strided(view, like, i + r)
                add_distances(p, n, label[r], w, class_weight.size > 0, offset(states, i + r), rows)


@inline
def merge_eight(state, rows, here, f, r, scale, scale_low):
    """Add the figures of eight rows to their states."""
    a, low = load_some(state, A * rows, here, 0.0), load_some(state, A_LOW * rows, here, 0.0)
    k, s = load_some(state, K * rows, here, 0.0), load_some(state, S * rows, here, 0.0)
    b, k_b, s_b = load_double(f, r), load_double(f, ROWS + r), load_double(f, 2 * ROWS + r)
    a, low, k, s = merged(a, low, k, s, b, k_b, s_b, scale, scale_low)
    store_some(state, A * rows, here, a)
    store_some(state, A_LOW * rows, here, low)
    store_some(state, K * rows, here, k)
    store_some(state, S * rows, here, s)


@inline
def merged(a, low, k, s, b, k_b, s_b, scale, scale_low):
    """(a + low)·2^k·e^(s/T) + b·2^k_b·e^(s_b/T) as four such numbers, for eight rows.

    The first reference stays unless what comes is far above it: so nothing is rounded again and again, and between
    rows near 0, whose references are powers of two, nothing at all is.
    """
    x, k_x = s_b - s, k_b - k
    distance = fma(k_x, LN_2, x * scale)
    grows = (b > 0.0) & ((distance > GROWS) | (a == 0.0))
    # What is added to nothing may be as small as e^-745, and 0·e^745 would be NaN.
    near = (a > 0.0) & (maximum(distance, -distance) <= NEGLIGIBLE)
    x, k_x = select(near, select(grows, -x, x), 0.0), select(near, select(grows, -k_x, k_x), 0.0)
    shrunk = select(near, exp_times(1.0, x, 0.0, scale, scale_low, k_x), 0.0)
    a, low, b = select(grows, a * shrunk, a), select(grows, low * shrunk, low), select(grows, b, b * shrunk)
    a, low = two_sum(a, low, select(b == b, b, math.nan))
    return a, low, select(grows, k_b, k), select(grows, s_b, s)


@inline
def above(p, n, own, y):
    """How many of a block's classes stand before class y, whose logit is ``own``: larger, or as large and earlier."""
    width = lanes(p)
    z = fill(p, own)
    count = bits(z) * 0
    for i in range(0, n, width):
        v = load(p, i) if i + width <= n else load_some(p, i, first_lanes(n - i, z), math.nan)
        lane = lane_numbers(z)
        other = (lane < y - i) | (lane > y - i)
        count = count + select(((v > z) & other) | ((v == z) & (lane < y - i)), count * 0 + 1, 0)
    return np.float64(add_reduce(count))


@inline
def add_distances(p, n, y, w, weighted, state, rows):
    """Σ w_k·(top - z_k) and Σ w_k of a block's classes but y, to a row's state."""
    top = largest_but(p, n, y)
    away, mass = smoothed_sums(p, n, y, top if top > -math.inf else 0.0, w, weighted, -1.0, 1.0)
    before = state[TOP * rows]
    if top > before:
        if state[MASS * rows] > 0.0:
            state[AWAY * rows] += state[MASS * rows] * (top - before)
        state[TOP * rows] = top
    elif mass > 0.0 and before > top > -math.inf:
        away += mass * (before - top)
    state[AWAY * rows] += away
    state[MASS * rows] += mass


# --- states into losses -----------------------------------------------------------------------------------------------


@chunk
def finish(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """States (the second matrix, rows x STATE) and own logits (the first) become losses.

    ``labels``, ``sample_weight``, ``out`` and ``sums`` are those of every loss; ``class_weight`` is that of all
    classes. In the states stay the sums over all classes, the other classes' share of the probability, ln Σ e^(z/T) and
    the loss before it is weighted.
    """
    states, own = strided(second_view(integers), t_like, 0), strided(first_view(integers), like, 0)
    rows, smoothed = integers[8], integers[SMOOTHED] != 0  # a state is a column
    scale, scale_low, keep, spread = reals[SCALE], reals[SCALE_LOW], reals[KEEP], reals[SPREAD]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    v = pointer(values, 0)
    for i in range(start, stop, ROWS):
        m = min(ROWS, stop - i)
        for r in range(m):
            label[r] = labels[i + r]
            factors[r] = class_weight[labels[i + r]] if class_weight.size > 0 else 1.0
        for r in range(m, (m + 15) & -16):
            label[r] = -1
        for r in range(0, m, 8):
            w = load(pointer(factors, r), 0)
            here = first_lanes(m - r, w)
            state, z = offset(states, i + r), load_some(own, i + r, here, 0.0)
            store(v, r, finish_eight(state, rows, here, z, w, smoothed, keep, spread, scale, scale_low))
        settle_labels(values, label, m, i, class_weight, sample_weight, not smoothed, factors, out, sums)


@inline
def finish_eight(state, rows, here, z, w, smoothed, keep, spread, scale, scale_low):
    """The losses of eight rows with these own logits and class weights of their labels."""
    a = load_some(state, A * rows, here, 0.0) + load_some(state, A_LOW * rows, here, 0.0)
    a, n = near_one(a)
    k, s = load_some(state, K * rows, here, 0.0) + n, load_some(state, S * rows, here, 0.0)
    loss = nll(a, k, s, z, scale, scale_low)
    one = select(z > -math.inf, splat(1.0), 0.0)
    whole, low, k, s = merged(a, splat(0.0), k, s, one, splat(0.0), select(z > -math.inf, z, s), scale, scale_low)
    whole, n = near_one(whole + low)
    k = k + n
    store_some(state, A * rows, here, whole)
    store_some(state, K * rows, here, k)
    store_some(state, S * rows, here, s)
    lse = log_sum(whole, k, s, scale, scale_low)
    valid = loss == loss
    store_some(state, NLL * rows, here, loss)
    away, mass = load_some(state, AWAY * rows, here, 0.0), load_some(state, MASS * rows, here, 0.0)
    top = load_some(state, TOP * rows, here, 0.0)
    store_some(state, SHARE * rows, here, -elementary.expm1(-loss))
    store_some(state, LSE * rows, here, select(valid, lse, math.nan))
    if smoothed:
        loss = smoothed_loss(loss, whole, k, s, z, away, mass, top, w, keep, spread, scale, scale_low)
    return loss


@inline
def smoothed_loss(loss, whole, k, s, z, away, mass, top, w, keep, spread, scale, scale_low):
    """Σ c_k·(top - z_k)/T + Σ c_k·(-ln q_top): terms that are not negative."""
    highest = maximum(top, z)
    away = select(mass > 0.0, away + select(highest > top, mass * (highest - top), 0.0), 0.0)
    own = w * (keep + spread)
    others, _, _, _ = wide_sum(whole, k, s, highest, scale, scale_low)  # relative to the largest: no digits cancel
    rest = select(z >= top, loss, maximum(elementary.log(others), 0.0))
    distance = select(own > 0.0, own * (highest - z), 0.0)
    counted = fma(mass, spread, own)
    return select(
        loss == loss, fma(fma(away, spread, distance), scale, select(counted > 0.0, counted * rest, 0.0)), math.nan
    )


# --- the gradient -----------------------------------------------------------------------------------------------------


def add_double(sums, n, x):
    """Add the first n lanes of a vector to sums of float64."""


@overload(add_double, jit_options=INLINE)
def _add_double(sums, n, x):
    if x == float64x8:
        return lambda sums, n, x: add_some(sums, 0, n, x)

    def both(sums, n, x):
        low, high = halves(x)
        add_some(sums, 0, n, low)
        add_some(sums, 8, n - 8, high)

    return both


@inline
def add_some(sums, i, n, x):
    """Add the first n of 8 numbers to sums from the i-th on."""
    here = first_lanes(n, x)
    store_some(sums, i, here, load_some(sums, i, here, 0.0) + x)


@chunk
def gradient(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """A block of products becomes the loss's gradient with respect to them; ``out``: GRADIENT numbers a row.

    The second matrix holds the bias and the class weights of the block. The rows' gradients are added to
    ``class_weight`` unless it is empty: the bias's gradient.

    Probabilities are e^((z - S)/T)·2^-K·FACTOR. A class of probability 0 has 0 (or what smoothing asks for).
    """
    view, n = first_view(integers), integers[CLASSES]
    bias, weights = strided(second_view(integers), t_like, 0), strided(second_view(integers), t_like, 1)
    has_bias, has_cap, smoothed = integers[HAS_BIAS] != 0, integers[HAS_CAP] != 0, integers[SMOOTHED] != 0
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    rows = out.size // GRADIENT
    for i in range(start, stop):
        p, y = strided(view, like, i), labels[i] - integers[FIRST_CLASS]
        g = pointer(out, i)
        s, k, factor = g[G_S * rows], g[G_K * rows], g[G_FACTOR * rows]
        own, spread = g[G_OWN * rows], g[G_SPREAD * rows]
        rate, rate_low = two_words(p, reals[RATE], reals[RATE_LOW])
        high, low = two_words(p, scale, scale_low)
        magic = fill(p, elementary.rounding(p) - k)
        floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
        for j in range(0, n, lanes(p)):
            here = first_lanes(n - j, rate)
            x = load_some(p, j, here, 0.0)
            if has_bias:
                x = x + load_some(bias, j, here, 0.0)
            z = x
            if has_cap:
                z = capped(x, fill(p, reals[CAP]), rate, rate_low)
            z = z - s
            d = select(z >= floor, exp_shifted_over(maximum(z, floor), high, low, magic), 0.0) * factor
            d = select(z == z, d, math.nan)
            if smoothed:
                d = d - load_some(weights, j, here, 0.0) * spread
            d = select(lane_numbers(d) == y - j, fill(p, own), d)
            if has_cap:
                d = d * slope(x, rate, rate_low)
            store_some(p, j, here, d)
            if class_weight.size > 0:
                add_double(pointer(class_weight, j), n - j, d)
