"""One row of logits -> what a score card needs: sums around the largest class, and the label's rank.

The largest class is left out of the sums and of their reference, which is the next largest (see rows.py), so nothing
cancels and no row is done twice: one pass finds both and the rank, a second one in the first-level cache adds

    A = Σ e_j,  Σ e_j·(z_top - z_j)  and  Σ e_j²,  with e_j = e^((z_j - s)/T)·2^-k.

float32 products are summed as trees of four before they are widened: at most 1.7 · 2^-22 off, relatively.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, prefetch
from fastxent.kernels.rows import lanes, part, reference_of, two_sum, two_words
from fastxent.kernels.simd import (
    add_reduce,
    bits,
    by_type,
    count_lanes,
    fill,
    float64x8,
    fma,
    halves,
    lane_numbers,
    max_reduce,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip

# The rows of a block's figures.
A, K, S, TOP, SPREAD, SQUARES, DISTANCE, N_FIGURES = range(8)

# Terms are floored here, relative to the largest (as exponents of 2): their squares are still normal numbers, and too
# small to count beside it.
floor_exponent = by_type(-62, -510)
# More than this above all other classes (and times 1/T >= 2^-20) the largest leaves them a share of 0.
far = by_type(2.0**100, 2.0**1000)


def add_products(sums, e, d):
    """Add four vectors e, then e·d, then e² to three totals, each in two vectors of 8 x float64."""


@overload(add_products, jit_options={"forceinline": True})
def _add_products(sums, e, d):
    if e[0] == float64x8:

        def narrow(sums, e, d):
            a, a_low, b, b_low, c, c_low = sums
            for j in range(4):
                a, a_low = two_sum(a, a_low, e[j])
                b, b_low = two_sum(b, b_low, e[j] * d[j])
                c, c_low = two_sum(c, c_low, e[j] * e[j])
            return a, a_low, b, b_low, c, c_low

        return narrow

    def widened(sums, e, d):
        a, a_high, b, b_high, c, c_high = sums
        e0, e1, e2, e3 = e
        d0, d1, d2, d3 = d
        a1, a2 = halves((e0 + e1) + (e2 + e3))
        b1, b2 = halves(fma(e0, d0, e1 * d1) + fma(e2, d2, e3 * d3))
        c1, c2 = halves(fma(e0, e0, e1 * e1) + fma(e2, e2, e3 * e3))
        return a + a1, a_high + a2, b + b1, b_high + b2, c + c1, c_high + c2

    return widened


@inline
def higher(top, second, v):
    """The largest and the second largest so far, lane by lane. NaNs are passed over."""
    return maximum(top, v), maximum(second, minimum(v, top))


@inline
def survey(p, n, y):
    """The largest logit, its first class, the largest of the others, and the rank of class y (any class where y < 0).

    The rank is #(z_j > z_y) + #(z_j = z_y, j < y): 0 for the class that NumPy's argmax would choose. NaNs are passed
    over; card_sums finds them. Without a finite largest logit the class is -1.
    """
    width = lanes(p)
    z, own = p[max(y, 0)], max(y, 0) // width * width
    top, second = fill(p, -math.inf), fill(p, -math.inf)
    count = bits(fill(p, 0.0))
    for i in range(0, own, width):
        v = load(p, i)
        top, second = higher(top, second, v)
        count = count + select(v >= z, count * 0 + 1, 0)
    for i in range(own, n, width):
        v = load(p, i) if i + width <= n else part(p, i, n, -1)
        top, second = higher(top, second, v)
        count = count + select(v > z, count * 0 + 1, 0)
    v = part(p, own, n, -1)
    rank = np.int64(add_reduce(count)) + count_lanes((v == z) & (lane_numbers(v) < y - own))
    highest = max_reduce(top)
    if not abs(highest) < math.inf:
        return math.nan, -1, 0.0, rank
    highest_lanes = top == highest
    following = highest
    if count_lanes(highest_lanes) == 1:
        following = max_reduce(maximum(second, select(highest_lanes, -math.inf, top)))
    first = 0
    if y >= 0 and rank == 0 and z == highest:
        first = y
    else:
        while first + width <= n and count_lanes(load(p, first) == highest) == 0:
            first += width
        while p[first] != highest:
            first += 1
    return np.float64(highest), first, np.float64(following), rank


@inline
def card_sums(p, n, step, top, first, following, scale, scale_low):
    """A, k, s, Σ e_j·(z_top - z_j) and Σ e_j²; A is NaN in a row with a NaN. The next row is asked for meanwhile."""
    width = lanes(p)
    s, k = reference_of(following if following > -math.inf else top, scale)
    plain = scale == 1.0 and s == 0.0
    magic = fill(p, elementary.rounding(p) - k * (elementary.steps(p) if plain else 1.0))
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    base = fill(p, min(top - s, far(p)))
    factor, factor_low = two_words(p, scale, scale_low)
    zero = splat(0.0)
    sums = zero, zero, zero, zero, zero, zero
    block = 4 * width
    masked = first // block * block
    for i in range(0, n, block):
        for j in range(0, block, width):
            prefetch(p, i + j + step)
        if i == masked or i + block > n:
            v0, v1 = part(p, i, n, first), part(p, i + width, n, first)
            v2, v3 = part(p, i + 2 * width, n, first), part(p, i + 3 * width, n, first)
        else:
            v0, v1, v2, v3 = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        if not plain:
            v0, v1, v2, v3 = v0 - s, v1 - s, v2 - s, v3 - s
        v0, v1, v2, v3 = maximum(v0, floor), maximum(v1, floor), maximum(v2, floor), maximum(v3, floor)
        if plain:
            e = exp_shifted(v0, magic), exp_shifted(v1, magic), exp_shifted(v2, magic), exp_shifted(v3, magic)
        else:
            e = (
                exp_shifted_over(v0, factor, factor_low, magic),
                exp_shifted_over(v1, factor, factor_low, magic),
                exp_shifted_over(v2, factor, factor_low, magic),
                exp_shifted_over(v3, factor, factor_low, magic),
            )
        sums = add_products(sums, e, (base - v0, base - v1, base - v2, base - v3))
    a, a_low, b, b_low, c, c_low = sums
    a, b, c = add_reduce(a + a_low), add_reduce(b + b_low), add_reduce(c + c_low)
    if following == -math.inf and a == a:  # every other class is masked
        return 0.0, k, s, 0.0, 0.0
    return a, k, s, b, c


@inline
def note_row(p, n, step, y, r, scale, scale_low, figures):
    """The figures of one row, in column r. Returns its largest class (-1: the row is invalid) and the rank of y."""
    top, first, following, rank = survey(p, n, y)
    if first < 0:
        return first, rank
    a, k, s, b, c = card_sums(p, n, step, top, first, following, scale, scale_low)
    figures[A, r], figures[K, r], figures[S, r], figures[TOP, r] = a, k, s, top
    figures[SPREAD, r], figures[SQUARES, r] = b, c
    figures[DISTANCE, r] = top - p[max(y, 0)]
    return first if a == a else -1, rank
