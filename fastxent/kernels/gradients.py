"""A row's figures -> the gradient of its loss with respect to the logits, and the Hessian's diagonal.

With q = softmax(z/T), coefficients c_k >= 0 (w_y at a label y, or w_k·(keep·t_k + spread)) and M = Σ c_k, the loss
Σ c_k·(-ln q_k) has the derivatives

    (q_k·(M - c_k) - c_k·(1 - q_k)) / T        M·q_k·(1 - q_k) / T^2

A label's entry is -w_y·S/(1 + S), with S the sum of the other classes' terms relative to its own: no 1 - q is formed
there, and so its relative accuracy does not end where q rounds to 1. The same holds for the largest class of a target.
With the figures of rows.py, which leave that class out, S/(1 + S)/A is what makes a term e^((z - s)/T)·2^-k a
probability.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, exp_shifted, exp_shifted_over, exp_times
from fastxent.kernels.finish import doubles_at, figures_at, near_sum, wide_sum
from fastxent.kernels.jit import INLINE, inline, part
from fastxent.kernels.memory import (
    load,
    load_some_double,
    store,
    store_some_double,
)  # fmt: skip
from fastxent.kernels.row_groups import REFERENCE, lowest_term
from fastxent.kernels.rows import add_terms, exp_sum_over, floor_exponent, lane_sums, lanes, two_sum, two_words
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    bits,
    by_type,
    fill,
    first_lanes,
    float64x8,
    fma,
    from_bits,
    halves,
    is_float32,
    join,
    lane_numbers,
    maximum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.soft import highest
from fastxent.kernels.softmax import write_row
from fastxent.kernels.term_sums import one_term, term_constants
from fastxent.kernels.tiles import ROWS


@inline
def shares(a, k, s, z, scale, scale_low):
    """S/(1 + S) for S = a·2^k·e^((s - z)/T), and that over a: for eight rows at once, or in float64 for one.

    NaN for an invalid row; 0 and 0 where every other class is masked; 1 where z is.
    """
    sum_, exponent, _, _ = wide_sum(a, k, s, z, scale, scale_low)
    share = sum_ / (sum_ + 1.0)
    share = select(exponent > 600.0, 1.0, select(exponent < -760.0, 0.0, share))
    share = select(a == 0.0, select(z > -math.inf, 0.0, math.nan), share)
    share = select((z < math.inf) & (a == a), share, math.nan)
    return share, select(a == 0.0, share, share / a)


@inline
def shares_of(f, v, m, scale, scale_low):
    """Figures behind the pointer f to both shares, behind v and ROWS later, for the first m rows of a block."""
    for r in range(0, m, 8):
        share, factor = shares(*doubles_at(f, r), scale, scale_low)
        store(v, r, share)
        store(v, ROWS + r, factor)


@inline
def probability(z, s, k, factor, scale, scale_low):
    """q = factor·e^((z - s)/T)·2^-k for eight logits in float64, 0 for a masked class."""
    x = z - s
    back = x - z
    x_low = (z - (x - back)) - (s + back)
    exponent = fma(k, -LN_2, x * scale)
    counts = exponent >= -1100.0
    x_low = select(counts & (x_low == x_low), x_low, 0.0)
    k = select(counts, k, 0.0)
    q = exp_times(factor, select(counts, x, 0.0), x_low, scale, scale_low, -k)
    return select(counts, q, 0.0)


@inline
def fill_row(value, n, target):
    """One value throughout a row: 0 for an ignored one, NaN for an invalid one."""
    for i in range(0, n, 8):
        store_some_double(target, i, first_lanes(n - i, splat(0.0)), splat(value))


# --- labels: in the logits' type, but for what is too small for it or far from 0 ------------------------------------

# The rows of an array (PARTS, ROWS) of the logits' type, one column a row of logits: what a term e^(z/T)·2^-k is
# multiplied with, and the label's entry; for the Hessian what makes a term a probability, the row's factor, the label's
# entry, and the label's probability.
FACTOR, OWN, SHARE, CURVATURE, OWN_CURVATURE, OWN_SHARE, PARTS = range(7)
exponent_place = by_type(23, 52)  # the first bit of a number's exponent
# Factors outside of this range are not for the logits' type.
least_factor, largest_factor = by_type(2.0**-100, 2.0**-900), by_type(2.0**100, 2.0**900)


@inline
def is_moderate_factor(factor):
    """Where a factor, not 0, is for the logits' type."""
    size = select(factor < 0.0, -factor, factor)
    return (size >= least_factor(factor)) & (size <= largest_factor(factor))


def columns(like, p, r):
    """As many float64 from element r of the pointer on as ``like`` has lanes, in its type."""


@overload(columns, jit_options=INLINE)
def _columns(like, p, r):
    if is_float32(like):
        return lambda like, p, r: join(load(p, r), load(p, r + 8))
    return lambda like, p, r: load(p, r)


@inline
def factors_of(f, weights, parts, m, scale, scale_low):
    """Figures behind the pointer f, and what the rows' gradients are multiplied with, to FACTOR and OWN of m rows."""
    width = lanes(f)
    high, low = two_words(f, -scale, -scale_low)
    for r in range(0, m, width):
        a, k, s, z = figures_at(f, r)
        weight = columns(a, weights, r)
        sum_, near = near_sum(a, k, s, z, high, low)
        share = sum_ / (sum_ + 1.0)
        factor, own = share / a * weight, 0.0 - share * weight
        if any_lane(~near):  # the others are rounded once, from float64
            for i in range(r, r + width, 8):
                share_8, factor_8 = shares(*doubles_at(f, i), scale, scale_low)
                weight_8 = load(weights, i)
                keep_columns(parts, FACTOR * ROWS + i, factor_8 * weight_8)
                keep_columns(parts, OWN * ROWS + i, 0.0 - share_8 * weight_8)
            factor = select(near, factor, load(parts, FACTOR * ROWS + r))
            own = select(near, own, load(parts, OWN * ROWS + r))
        store(parts, FACTOR * ROWS + r, factor)
        store(parts, OWN * ROWS + r, own)


@inline
def keep_columns(p, r, value):
    """Store eight float64 in the pointer's type."""
    store_some_double(p, r, value == value, value)
    store_some_double(p, r, value != value, splat(math.nan))


@inline
def curvatures_of(f, weights, parts, m, scale, scale_low):
    """What the Hessian needs besides, of m rows."""
    for r in range(0, m, 8):
        a, k, s, z = doubles_at(f, r)
        share, factor = shares(a, k, s, z, scale, scale_low)
        own = select(share < 0.5, 1.0 - share, probability(z, s, k, factor, scale, scale_low))
        weight = load(weights, r)
        keep_columns(parts, SHARE * ROWS + r, factor)
        keep_columns(parts, CURVATURE * ROWS + r, weight)
        keep_columns(parts, OWN_CURVATURE * ROWS + r, own * share * weight)
        keep_columns(parts, OWN_SHARE * ROWS + r, own)


@inline
def magic_of(factor, k, s, grain):
    """What brings a row's terms near 1, ``grain`` to a power of two: NaN where the logits' type does not serve."""
    serves = (s == 0.0) & (is_moderate_factor(factor) | (factor == 0.0))
    return select(serves, elementary.rounding(k) - k * grain, math.nan)


@inline
def checked_terms(rare, x, t, lowest, result, factor, context):
    """``result``, but where t is below ``lowest`` or a NaN by ``rare``; 0 for a class without a term; NaN with factor.

    t is a term, or the sum whose low bits hold its exponent.
    """
    beneath = ~(t >= lowest)
    if any_lane(beneath):
        result = select(beneath, select(factor == factor, fill(x, 0.0), math.nan), result)
        if any_lane(beneath & (x > -math.inf) & (factor != 0.0)):
            result = select(beneath & (x > -math.inf) & (factor != 0.0), rare(x, context), result)
    return result


@inline
def scaled_terms(rare, x, figures, factor, context):
    """factor·e^(x/T)·2^-k."""
    magic, high, low = figures
    result = exp_shifted_over(x, high, low, magic) * factor
    lowest = elementary.rounding(x) + floor_exponent(x)
    return checked_terms(rare, x, fma(x, high * LOG2_E, magic), lowest, result, factor, context)


def _by_eights(of_eight):
    """A function from a vector of logits to probabilities times something, through float64."""

    def rare(x, context):
        """Resolved by its overload."""

    @overload(rare, jit_options=INLINE)
    def _rare(x, context):
        if x == float64x8:
            return lambda x, context: of_eight(x, context, 0)

        def both(x, context):
            first, second = halves(x)
            return join(of_eight(first, context, 0), of_eight(second, context, 8))

        return both

    @part
    def rare_terms(x, context):
        return rare(x, context)

    return rare_terms


@inline
def _eight_of_row(x, context, at):
    f, weight, scale, scale_low = context
    k, s = splat(np.float64(f[ROWS])), splat(np.float64(f[2 * ROWS]))
    _, factor = shares(splat(np.float64(f[0])), k, s, splat(np.float64(f[3 * ROWS])), scale, scale_low)
    q = probability(x, s, k, factor * weight, scale, scale_low)
    return select(factor == factor, q, math.nan)


@inline
def _eight_of_tile(x, context, at):
    f, weights, weighted, scale, scale_low = context
    a, k, s, z = doubles_at(f, at)
    _, factor = shares(a, k, s, z, scale, scale_low)
    q = probability(x, s, k, factor * select(splat(weighted) > 0.0, load(weights, at), 1.0), scale, scale_low)
    return select(factor == factor, q, math.nan)


_rare_of_row, _rare_of_tile = _by_eights(_eight_of_row), _by_eights(_eight_of_tile)


@inline
def plain_value(x, figures):
    """factor·e^x·2^-k of a row, for write_row."""
    constants, floor, factor, context = figures
    term, _ = one_term(maximum(x, floor), constants)
    return checked_terms(_rare_of_row, x, term, lowest_term(x), term * factor, factor, context)


@inline
def scaled_value(x, figures):
    """scaled_terms of a row."""
    constants, factor, context = figures
    return scaled_terms(_rare_of_row, x, constants, factor, context)


@inline
def refer(f, parts, m):
    """FACTOR of m rows becomes that of terms relative to REFERENCE, which becomes NaN where they do not serve.

    Powers of two: nothing is rounded.
    """
    width = lanes(f)
    for r in range(0, m, width):
        k, reference, factor = load(f, ROWS + r), load(f, REFERENCE * ROWS + r), load(parts, FACTOR * ROWS + r)
        more = k - reference  # 0 or more
        power = from_bits(bits(fill(k, 1.0)) - (bits(more + elementary.rounding(k)) << exponent_place(k)))
        scaled = factor * power
        serves = (more <= 100.0) & (is_moderate_factor(scaled) | (factor == 0.0))
        store(f, REFERENCE * ROWS + r, select(serves, reference, math.nan))
        store(parts, FACTOR * ROWS + r, select(serves, scaled, factor))


@inline
def label_row(p, n, y, f, parts, weight, scale, scale_low, target, streaming):
    """Write a row's gradient for label y: its figures and parts are the column behind f and ``parts``.

    ``target`` may be the row itself.
    """
    factor, k, s = fill(p, parts[FACTOR * ROWS]), fill(p, f[ROWS]), fill(p, f[2 * ROWS])
    context = f, weight, scale, scale_low
    if scale == 1.0:
        reference = fill(p, f[REFERENCE * ROWS])
        k = select(reference == reference, reference, k)
        constants = term_constants(magic_of(factor, k, s, elementary.steps(p)))
        write_row(plain_value, (constants, (k + floor_exponent(p)) * LN_2, factor, context), p, n, target, streaming)
    else:
        high, low = two_words(p, scale, scale_low)
        figures = magic_of(factor, k, s, 1.0), high, low
        write_row(scaled_value, (figures, factor, context), p, n, target, False)
    target[y] = parts[OWN * ROWS]


@inline
def label_hessian(p, n, y, f, parts, scale, scale_low, target):
    """Write a row's part of the Hessian's diagonal, in float64."""
    a, k, s, z = np.float64(f[0]), np.float64(f[ROWS]), np.float64(f[2 * ROWS]), np.float64(f[3 * ROWS])
    _, factor = shares(splat(a), splat(k), splat(s), splat(z), scale, scale_low)
    rest, top = rest_of_top(p, n, y, s, k, factor, scale, scale_low)
    curvature = np.float64(parts[CURVATURE * ROWS])
    for i in range(0, n, 8):
        here = first_lanes(n - i, splat(0.0))
        x = load_some_double(p, i, here, -math.inf)
        lane = lane_numbers(x)
        q = probability(x, splat(s), splat(k), factor, scale, scale_low)
        h = q * select(lane == top - i, rest, 1.0 - q) * curvature
        store_some_double(target, i, here, select(factor == factor, h, math.nan) + 0.0)
    target[y] = parts[OWN_CURVATURE * ROWS]


@inline
def rest_of_top(p, n, y, s, k, factor, scale, scale_low):
    """1 - q of the largest class, and that class, where it is not y and more than half; else (0, -1)."""
    top, first = highest(p, n)
    if first >= 0 and first != y:
        q = probability(splat(top), splat(s), splat(k), factor, scale, scale_low)
        if any_lane(q > 0.5):
            a, k_top, s_top = exp_sum_over(p, n, first, scale, scale_low)
            rest, _ = shares(splat(a), splat(k_top), splat(s_top), splat(top), scale, scale_low)
            return add_reduce(rest) * 0.125, first
    return 0.0, -1


@inline
def tile_figures_at(f, r, factor, scale, scale_low):
    """For tile_terms, the factor apart."""
    k, s = load(f, ROWS + r), load(f, 2 * ROWS + r)
    high, low = two_words(k, scale, scale_low)
    return magic_of(factor, k, s, elementary.steps(k) if scale == 1.0 else 1.0), high, low


@inline
def tile_terms(x, figures, factor, plain, context):
    """factor·e^(x/T)·2^-k of one class of a tile's rows."""
    if plain:
        magic, _, _ = figures
        lowest = elementary.rounding(x) + elementary.steps(x) * floor_exponent(x)
        place = fma(x, elementary.steps(x) * LOG2_E, magic)
        return checked_terms(_rare_of_tile, x, place, lowest, exp_shifted(x, magic) * factor, factor, context)
    return scaled_terms(_rare_of_tile, x, figures, factor, context)


@inline
def label_tile(tile, n, label, f, weights, parts, scale, scale_low, target):
    """Its rows' gradients to another tile, for one label a lane; the first row's figures come first."""
    width, plain = lanes(tile), scale == 1.0
    factor, own = load(parts, FACTOR * ROWS), load(parts, OWN * ROWS)
    if not (plain and usual_tile(tile, n, label, f, factor, own, target)):
        figures, context = tile_figures_at(f, 0, factor, scale, scale_low), (f, weights, 1.0, scale, scale_low)
        for j in range(n):
            g = tile_terms(load(tile, j * width), figures, factor, plain, context)
            store(target, j * width, select(label == j, own, g))
    clear_ignored(target, n, label)


@inline
def usual_tile(tile, n, label, f, factor, own, target):
    """The same for T = 1, without a look at every vector. Returns whether that served: no row was out of the ordinary.

    10 classes of float32, in the cache: 3.9 ns a row with the look, for which the processor waits, and 2.0 without.
    """
    width = lanes(tile)
    k = load(f, ROWS)
    magic, floor = magic_of(factor, k, load(f, 2 * ROWS), elementary.steps(k)), (k + floor_exponent(k)) * LN_2
    least = fill(factor, math.inf)
    for j in range(n):
        term = exp_shifted(maximum(load(tile, j * width), floor), magic)
        least = select(term < least, term, least)
        store(target, j * width, select(label == j, own, term * factor))
    return not any_lane(~(magic == magic) | ~(least >= lowest_term(least)))


@inline
def clear_ignored(tile, n, label):
    """What has no label becomes 0."""
    if any_lane(label < 0):
        for j in range(n):
            store(tile, j * lanes(tile), select(label < 0, 0.0, load(tile, j * lanes(tile))))


@inline
def label_tile_hessian(tile, n, label, f, weights, parts, scale, scale_low, target):
    """Its rows' parts of the Hessian's diagonal to another tile."""
    width, plain = lanes(tile), scale == 1.0
    curvature, own, share = load(parts, CURVATURE * ROWS), load(parts, OWN_CURVATURE * ROWS), load(parts, SHARE * ROWS)
    figures, context = tile_figures_at(f, 0, share, scale, scale_low), (f, weights, 0.0, scale, scale_low)
    over = fill(tile, 0.0)
    total, low = splat(0.0), splat(0.0)
    for j in range(n):
        q = tile_terms(load(tile, j * width), figures, share, plain, context)
        mine = label == j
        large = ~mine & (q > 0.5)
        over = select(large, q, over)
        total, low = add_terms(total, low, select(mine | large, 0.0, q))
        h = select(large, math.nan, fma(-q, q, q) * curvature)
        store(target, j * width, select(mine, own, h))
    if any_lane(over > 0.5):
        h = over * (lane_sums(total, low, tile) + load(parts, OWN_SHARE * ROWS)) * curvature
        for j in range(n):
            v = load(target, j * width)
            store(target, j * width, select((over > 0.5) & ~(v == v), h, v))
    clear_ignored(target, n, label)


# --- distributions and smoothed labels ------------------------------------------------------------------------------


@inline
def coefficients_at(coefficients, i, n, here):
    """c_k of eight classes from i on."""
    y, t, w, weighted, keep, spread = coefficients
    if y < n:
        c = select(lane_numbers(splat(keep)) == y - i, keep + spread, splat(spread))
    else:
        c = fma(load_some_double(t, i, here, 0.0), keep, splat(spread))
    return c * load_some_double(w, i, here & (splat(1.0 if weighted else 0.0) > 0.0), 1.0)


@inline
def mixed_gradient(p, n, figures, r, coefficients, shares, scales, scale, scale_low, targets, wants_hessian):
    """Row r's gradient for coefficients c_k = w_k·(keep·t_k + spread), or for a label y those of label smoothing.

    ``coefficients`` are the label, or n; pointers to the target and to class weights, and whether there are such; keep
    and spread. The figures are soft.py's.
    """
    k, s, top = figures[1, r], figures[2, r], figures[3, r]
    share, factor = shares[0, r], shares[1, r]
    gradient_scale, hessian_scale = scales
    target, hessian = targets
    if not share == share:
        fill_row(math.nan, n, target)
        if wants_hessian:
            fill_row(math.nan, n, hessian)
        return
    total, low = splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        here = first_lanes(n - i, total)
        total, low = two_sum(total, low, select(here, coefficients_at(coefficients, i, n, here), 0.0))
    mass = add_reduce(total + low)
    for i in range(0, n, 8):
        here = first_lanes(n - i, total)
        z, c = load_some_double(p, i, here, -math.inf), coefficients_at(coefficients, i, n, here)
        q = probability(z, splat(s), splat(k), splat(factor), scale, scale_low)
        largest = z == top
        q = select(largest & (splat(share) < 0.5), 1.0 - share, q)
        rest = select(largest, share, 1.0 - q)
        if wants_hessian:
            store_some_double(hessian, i, here, q * rest * (mass * hessian_scale) + 0.0)
        store_some_double(target, i, here, fma(q, mass - c, -(c * rest)) * gradient_scale + 0.0)
