"""One row of logits -> what a score card needs: sums around the largest class, and the label's rank.

The largest class is left out of the sums, so that nothing cancels: a first pass finds it, its place and the rank, a
second one in the first-level cache adds

    A = Σ e_j,  Σ e_j·(z_top - z_j)  and  Σ e_j²,  with e_j = e^((z_j - s)/T)·2^-k.

k and s are the largest class's, with k LIFT less: terms and their squares stay normal numbers further down. Where the
largest stands too far above the others, the sums are taken again with the k and s of the largest of those.

float32 terms and products are summed as trees of eight before they are widened: at most 1.95 · 2^-22 off.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.card_finish import NO_UNIT, OWN, SPREAD, SQUARES, TOP, A, K, S, lift
from fastxent.kernels.elementary import LN_2, MODERATE, exp_shifted_over, exponent_at
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, prefetch
from fastxent.kernels.row_groups import beside
from fastxent.kernels.rows import add_terms, lanes, largest_but, part, reference_of, two_sum, two_words
from fastxent.kernels.simd import (
    add_reduce,
    bits,
    by_type,
    count_lanes,
    fill,
    float64x8,
    fma,
    halves,
    lane_bits,
    lane_numbers,
    max_reduce,
    maximum,
    select,
    splat,
    trailing_zeros,
)  # fmt: skip
from fastxent.kernels.term_sums import one_term, term_constants

# The largest term is about 2^lift; terms are floored at 2^floor_exponent, and squares with them.
floor_exponent = by_type(-62, -510)
# A sum of terms below this (2^-70 and 2^-300 of the largest) is taken again: else what was floored might count.
too_small = by_type(2.0**-10, 2.0**200)
# More than this above all other classes (and times 1/T >= 2^-20) the largest leaves them a share of 0.
far = by_type(2.0**60, 2.0**500)


def add_products(sums, held, e, d, last):
    """Add four vectors e, then e·d, then e² to three totals, each in two vectors of 8 x float64.

    Of float32 they are held back until there are eight of each in a tree, or ``last`` says that no more will come.
    """


@overload(add_products, jit_options=INLINE)
def _add_products(sums, held, e, d, last):
    if e[0] == float64x8:

        def narrow(sums, held, e, d, last):
            a, a_low, b, b_low, c, c_low = sums
            for j in range(4):
                a, a_low = two_sum(a, a_low, e[j])
                b, b_low = two_sum(b, b_low, e[j] * d[j])
                c, c_low = two_sum(c, c_low, e[j] * e[j])
            return (a, a_low, b, b_low, c, c_low), held

        return narrow

    def widened(sums, held, e, d, last):
        a, a_high, b, b_high, c, c_high = sums
        e0, e1, e2, e3 = e
        d0, d1, d2, d3 = d
        terms = held[0] + ((e0 + e1) + (e2 + e3))
        products = held[1] + (fma(e0, d0, e1 * d1) + fma(e2, d2, e3 * d3))
        squares = held[2] + (fma(e0, e0, e1 * e1) + fma(e2, e2, e3 * e3))
        if last:
            a1, a2 = halves(terms)
            b1, b2 = halves(products)
            c1, c2 = halves(squares)
            a, a_high, b, b_high, c, c_high = a + a1, a_high + a2, b + b1, b_high + b2, c + c1, c_high + c2
            terms = products = squares = fill(e0, 0.0)
        return (a, a_high, b, b_high, c, c_high), (terms, products, squares)

    return widened


@inline
def survey(p, n, y, step):
    """The largest logit, its first class (-1 if it is not finite), and the rank of class y (any class where y < 0).

    The rank is #(z_j > z_y) + #(z_j = z_y, j < y): 0 for the class that NumPy's argmax would choose. A row with a NaN
    gives anything; card_sums finds it. What is read one row and a half later is asked for meanwhile, a quarter of it
    here and the rest in card_sums, as the time goes: memory is then asked evenly.
    """
    width = lanes(p)
    block = 4 * width
    z, own, full = p[max(y, 0)], max(y, 0) // block * block, n - n % block
    top = fill(p, -math.inf)
    count, place = bits(fill(p, 0.0)), bits(fill(p, 0.0))  # place: the block where a lane's largest was found first
    one = count + 1
    for i in range(0, full, block):
        prefetch(p, step + n // 2 + i // 4)
        v0, v1, v2, v3 = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        if i < own:
            count = count + select(v0 >= z, one, 0) + select(v1 >= z, one, 0)
            count = count + select(v2 >= z, one, 0) + select(v3 >= z, one, 0)
        else:
            count = count + select(v0 > z, one, 0) + select(v1 > z, one, 0)
            count = count + select(v2 > z, one, 0) + select(v3 > z, one, 0)
        v = maximum(maximum(v0, v1), maximum(v2, v3))
        place = select(v > top, i, place)
        top = maximum(top, v)
    for i in range(full, n, width):
        v = part(p, i, n, -1)
        count = count + select(v > z, one, 0)
        place = select(v > top, i, place)
        top = maximum(top, v)
    rank = np.int64(add_reduce(count))
    for i in range(own, y, width):
        v = part(p, i, n, -1)
        rank += count_lanes((v == z) & (lane_numbers(v) < y - i))
    highest = max_reduce(top)
    if not abs(highest) < math.inf:
        return math.nan, -1, rank
    if y >= 0 and rank == 0 and z == highest:
        return np.float64(highest), y, rank
    first = -np.int64(max_reduce(select(top == highest, -place, -n)))
    if first < full:
        v0, v1 = load(p, first), load(p, first + width)
        v2, v3 = load(p, first + 2 * width), load(p, first + 3 * width)
        found = lane_bits(v0 == highest) | lane_bits(v1 == highest) << width
        found |= lane_bits(v2 == highest) << 2 * width | lane_bits(v3 == highest) << 3 * width
    else:
        found = lane_bits(part(p, first, n, -1) == highest)
    first += trailing_zeros(found)
    return np.float64(highest), first, rank


@inline
def card_sums(p, n, step, top, first, reference, scale, scale_low):
    """A, k, s, Σ e_j·(z_top - z_j) and Σ e_j² for k and s of a reference; the second is NaN in a row with a NaN.

    What is read later is asked for meanwhile (see survey).
    """
    width = lanes(p)
    s, k = reference_of(reference, scale)
    k -= lift(p)
    magic = fill(p, elementary.rounding(p) - k)
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    base = fill(p, min(top - s, far(p)))
    factor, factor_low = two_words(p, scale, scale_low)
    zero = splat(0.0)
    none = fill(p, 0.0)
    sums, held = (zero, zero, zero, zero, zero, zero), (none, none, none)
    block = 4 * width
    masked, onwards = first // block * block, step + 3 * n // 4
    for i in range(0, n, block):
        for j in range(0, block * 3 // 4, width):
            prefetch(p, onwards + i * 3 // 4 + j)
        if i == masked or i + block > n:
            v0, v1 = part(p, i, n, first), part(p, i + width, n, first)
            v2, v3 = part(p, i + 2 * width, n, first), part(p, i + 3 * width, n, first)
        else:
            v0, v1, v2, v3 = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        v0, v1 = maximum(v0 - s, floor), maximum(v1 - s, floor)
        v2, v3 = maximum(v2 - s, floor), maximum(v3 - s, floor)
        e = (
            exp_shifted_over(v0, factor, factor_low, magic),
            exp_shifted_over(v1, factor, factor_low, magic),
            exp_shifted_over(v2, factor, factor_low, magic),
            exp_shifted_over(v3, factor, factor_low, magic),
        )
        d = base - v0, base - v1, base - v2, base - v3
        sums, held = add_products(sums, held, e, d, i // block % 2 == 1 or i + block >= n)
    a, a_low, b, b_low, c, c_low = sums
    return add_reduce(a + a_low), k, s, add_reduce(b + b_low), add_reduce(c + c_low)


@inline
def plain_sums(p, n, step, top, first, reference):
    """card_sums for T = 1 and moderate references: constants stay in registers, and no vector but two needs a mask."""
    width = lanes(p)
    k = exponent_at(reference) - lift(p)
    constants = term_constants(fill(p, elementary.rounding(p) - k * elementary.steps(p)))
    floor, base = fill(p, (k + floor_exponent(p)) * LN_2), fill(p, min(top, far(p)))
    full = n // width
    last = (full - 1) * width
    own = min(first // width * width, last)
    block = 4 * width
    zero, none = splat(0.0), fill(p, 0.0)
    sums, held = (zero, zero, zero, zero, zero, zero), (none, none, none)
    end, onwards = last - last % block, step + 3 * n // 4
    for i in range(0, end, block):
        for j in range(0, block * 3 // 4, width):
            prefetch(p, onwards + i * 3 // 4 + j)
        v0, v1 = load(p, beside(i, own, width)), load(p, beside(i + width, own, width))
        v2, v3 = load(p, beside(i + 2 * width, own, width)), load(p, beside(i + 3 * width, own, width))
        v0, v1, v2, v3 = maximum(v0, floor), maximum(v1, floor), maximum(v2, floor), maximum(v3, floor)
        e = term(v0, constants), term(v1, constants), term(v2, constants), term(v3, constants)
        sums, held = add_products(sums, held, e, (base - v0, base - v1, base - v2, base - v3), i & block != 0)
    a, b, c = held
    for i in range(end, last, width):
        a, b, c = add_one(load(p, beside(i, own, width)), base, floor, constants, a, b, c)
    v = load(p, own)
    a, b, c = add_one(select(lane_numbers(v) == first - own, -math.inf, v), base, floor, constants, a, b, c)
    a1, a2, b1, b2, c1, c2 = sums
    a1, a2 = add_terms(a1, a2, a)
    b1, b2 = add_terms(b1, b2, b)
    c1, c2 = add_terms(c1, c2, c)
    if last + width < n:
        v = part(p, last + width, n, first)
        a, b, c = add_one(v, base, floor, constants, none, none, none)
        a1, a2 = add_terms(a1, a2, a)
        b1, b2 = add_terms(b1, b2, b)
        c1, c2 = add_terms(c1, c2, c)
    return add_reduce(a1 + a2), k, 0.0, add_reduce(b1 + b2), add_reduce(c1 + c2)


@inline
def term(v, constants):
    """e^v times 2^-k, without the bits that say whether it was in range: here none is above 2^lift."""
    return one_term(v, constants)[0]


@inline
def add_one(v, base, floor, constants, a, b, c):
    """Add a vector's terms, their products with the distance below the largest logit, and their squares."""
    v = maximum(v, floor)
    e = term(v, constants)
    return a + e, fma(e, base - v, b), fma(e, e, c)


@inline
def note_row(p, n, step, y, r, scale, scale_low, figures):
    """The figures of one row, in column r. Returns its largest class (-1: the row is invalid) and the rank of y."""
    top, first, rank = survey(p, n, y, step)
    if first < 0:
        return first, rank
    a, k, s, b, c, reference = 0.0, 0.0, 0.0, 0.0, 0.0, top
    for attempt in range(2):
        if scale == 1.0 and abs(reference) <= MODERATE and n >= lanes(p):
            a, k, s, b, c = plain_sums(p, n, step, top, first, reference)
        else:
            a, k, s, b, c = card_sums(p, n, step, top, first, reference, scale, scale_low)
        if attempt == 1 or not a < too_small(p):
            break
        reference = largest_but(p, n, first)
        if reference == -math.inf:
            a, k, s, b, c = 0.0, NO_UNIT, 0.0, b * 0.0, 0.0
            break
    figures[A, r], figures[K, r], figures[S, r], figures[TOP, r] = a, k, s, top
    figures[SPREAD, r], figures[SQUARES, r] = b, c
    figures[OWN, r] = p[max(y, 0)]
    return first if b == b else -1, rank
