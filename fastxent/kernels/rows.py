"""One row of logits -> its statistics. Each function reads a row of n classes behind a pointer (float32 or float64).

For every reference, Σ_j e^(z_j/T) = e^(s/T)·2^k·A. A row whose largest term is moderate takes s = 0 and a power of two,
which scales exactly; a row far from 0 takes k = 0 and s = its maximum: there z_j - s is exact wherever the term counts.
Leaving one term (the label's, or the largest) out of the sum and of the reference,

    -ln q_y = ln(1 + A·2^k·e^((s - z_y)/T))

keeps full relative accuracy from 1e-300 to 1e300: nothing cancels.

Terms are summed in float64: float32 ones by at most four first, float64 ones with TwoSum (Knuth, TAOCP 2,
4.2.2). The order is a function of the type and of n alone.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, MODERATE, exp_shifted, exp_shifted_over, exponent_at
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_some, load_some_double, prefetch
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
    max_reduce,
    maximum,
    select,
    splat,
)  # fmt: skip

lanes = by_type(16, 8)
reads_float32 = by_type(True, False)
highest_bits = by_type(elementary.HIGHEST32, elementary.HIGHEST64)
floor_exponent = by_type(elementary.FLOOR32, elementary.FLOOR64)
# Above it (and NaN excepted) a sum's exponent goes to k, so that what finishes a row need not fear overflow.
LARGEST_SUM = 128.0
# How far ahead a row is asked for, in elements (4 KiB): flat between 2 and 8 KiB on the processors measured.
ahead = by_type(1024, 512)


# --- sums ------------------------------------------------------------------------------------------------------------


@inline
def two_sum(total, low, x):
    """Add x to total + low, the rounding error of the addition going to low."""
    result = total + x
    back = result - total
    return result, low + ((total - (result - back)) + (x - back))


def add_terms(total, low, terms):
    """Add a vector of terms to two vectors of 8 x float64 whose sum is the total."""


@overload(add_terms, jit_options=INLINE)
def _add_terms(total, low, terms):
    if terms == float64x8:
        return lambda total, low, terms: two_sum(total, low, terms)

    def widened(total, low, terms):
        first, second = halves(terms)
        return total + first, low + second

    return widened


def lane_sums(total, low, like):
    """What add_terms kept of terms of the type of ``like``, as one vector of that type: a number a lane."""


@overload(lane_sums, jit_options=INLINE)
def _lane_sums(total, low, like):
    if is_float32(like):
        return lambda total, low, like: join(total, low)
    return lambda total, low, like: total + low


# --- the sum of exponentials, one term left out -----------------------------------------------------------------------


@inline
def part(p, i, n, y):
    """Elements i, i + 1, ... of a row; lanes past its end, and that of class y, are -inf."""
    v = load_some(p, i, first_lanes(n - i, fill(p, 0.0)), -math.inf)
    return select(lane_numbers(v) == y - i, -math.inf, v)


@inline
def near_one(a, k):
    """The same a·2^k with a at most LARGEST_SUM: a sum may be as large as the format's exponents allow."""
    if a > LARGEST_SUM:
        n = (bits(a) >> 52) - 1023
        a, k = from_bits(bits(a) - (n << 52)), k + n
    return a, k


@inline
def first_reference(p, n):
    """The largest logit of a row's first four vectors."""
    width = lanes(p)
    top = fill(p, -math.inf)
    for i in range(0, min(n, 4 * width), width):
        top = maximum(top, part(p, i, n, -1))
    return np.float64(max_reduce(top))


@inline
def reference_of(top, scale):
    """s and k for a row whose largest term is top·scale."""
    if abs(top * scale) <= MODERATE:
        return 0.0, exponent_at(top * scale)
    return top, 0.0


@inline
def exp_sum_over(p, n, y, scale, scale_low):
    """A, k and s for logits multiplied by scale + scale_low = 1/T: the maximum first, then the terms.

    A is NaN for a row with a NaN or +inf, and 0 when every other class is masked (-inf).
    """
    width = lanes(p)
    highest = fill(p, -math.inf)
    valid = highest < math.inf
    for i in range(0, n, width):
        v = part(p, i, n, y)
        valid = valid & (v < math.inf)
        highest = maximum(highest, v)
    top = np.float64(max_reduce(highest))
    if any_lane(~valid):
        return math.nan, 0.0, 0.0
    if top == -math.inf:
        return 0.0, 0.0, 0.0
    s, k = reference_of(top, scale)
    magic = fill(p, elementary.rounding(p) - k)
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    total, low = splat(0.0), splat(0.0)
    factor, factor_low = two_words(p, scale, scale_low)
    for i in range(0, n, width):
        terms = exp_shifted_over(maximum(part(p, i, n, y) - s, floor), factor, factor_low, magic)
        total, low = add_terms(total, low, terms)
    return add_reduce(total + low), k, s


def two_words(like, scale, scale_low):
    """scale + scale_low (float64) as two vectors of the type of ``like``."""


@overload(two_words, jit_options=INLINE)
def _two_words(like, scale, scale_low):
    def narrow(like, scale, scale_low):
        high = np.float32(scale)
        return fill(like, high), fill(like, scale - np.float64(high))

    wide = lambda like, scale, scale_low: (fill(like, scale), fill(like, scale_low))  # noqa: E731
    return narrow if elementary.simd.is_float32(like) else wide


# --- the largest class, and moments around it -------------------------------------------------------------------------


magnitude = by_type(0x7FFFFFFF, 0x7FFFFFFFFFFFFFFF)
infinite = by_type(0x7F800000, 0x7FF0000000000000)
# Below this sum of terms relative to the largest one they are taken relative to the next: float32 terms are floored at
# 2^-125, and in a row far from 0 a difference is exact up to e^-256 only (elementary.MODERATE).
too_small = by_type(2.0**-80, 2.0**-300)


@inline
def largest(p, n):
    """The largest logit and its first class; NaN for an invalid row: one with a NaN or +inf, or nothing but -inf.

    NaNs are looked for in the bits: integers compared lane by lane cost less than a mask carried along.
    """
    width = lanes(p)
    highest = fill(p, -math.inf)
    widest = bits(fill(p, 0.0))
    full = n - n % width
    for i in range(0, full, width):
        v = load(p, i)
        widest = maximum(widest, bits(v) & magnitude(p))
        highest = maximum(highest, v)
    if full < n:
        v = part(p, full, n, -1)
        widest = maximum(widest, bits(v) & magnitude(p))
        highest = maximum(highest, v)
    top = max_reduce(highest)
    if any_lane(widest > infinite(p)) or not abs(top) < math.inf:
        return math.nan, -1
    first = 0
    while first < full and not any_lane(load(p, first) == top):
        first += width
    while p[first] != top:
        first += 1
    return np.float64(top), first


@inline
def largest_but(p, n, first):
    """The largest logit of the other classes."""
    highest = fill(p, -math.inf)
    for i in range(0, n, lanes(p)):
        highest = maximum(highest, part(p, i, n, first))
    return np.float64(max_reduce(highest))


def add_moments(sums, e, x, base):
    """Add e and e·(base - x) to two totals, each in two vectors of 8 x float64."""


@overload(add_moments, jit_options=INLINE)
def _add_moments(sums, e, x, base):
    if e == float64x8:

        def narrow(sums, e, x, base):
            a, a_low, b, b_low = sums
            a, a_low = two_sum(a, a_low, e)
            b, b_low = two_sum(b, b_low, e * (base - x))
            return a, a_low, b, b_low

        return narrow

    def widened(sums, e, x, base):
        a, a_high, b, b_high = sums
        e1, e2 = halves(e)
        x1, x2 = halves(x)
        return a + e1, a_high + e2, fma(e1, base - x1, b), fma(e2, base - x2, b_high)

    return widened


@inline
def moments(p, n, top, first, scale, scale_low):
    """Sums over all classes but ``first``, the largest: A, k and s as in exp_sum_over, and Σ e_j·(top - z_j)/T.

    The terms are relative to the largest class; where it stands too far above the others, to the next one.
    """
    a, k, s, b = 0.0, 0.0, 0.0, 0.0
    reference = top
    for attempt in range(2):
        s, k = reference_of(reference, scale)
        a, b = _moments_at(p, n, top, first, s, k, scale, scale_low)
        if attempt == 1 or a > too_small(p):
            break
        reference = largest_but(p, n, first)
        if reference == -math.inf:
            return 0.0, 0.0, 0.0, 0.0
    if (top - s) * scale > 2000.0:  # the others' share is 0, and the distance may be infinite
        b = 0.0
    return a, k, s, b


@inline
def _moments_at(p, n, top, first, s, k, scale, scale_low):
    """A and Σ e_j·(top - z_j)/T for given k and s. The next row is asked for meanwhile, for its first pass."""
    width = lanes(p)
    plain = scale == 1.0 and s == 0.0
    magic = fill(p, elementary.rounding(p) - k * (elementary.steps(p) if plain else 1.0))
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    base = top - s
    factor, factor_low = two_words(p, scale, scale_low)
    zero = splat(0.0)
    sums = zero, zero, zero, zero
    own = first // width * width
    for i in range(0, n, width):
        prefetch(p, i + n)
        v = load(p, i) if i != own and i + width <= n else part(p, i, n, first)
        if plain:
            x = maximum(v, floor)
            e = exp_shifted(x, magic)
        else:
            x = maximum(v - s, floor)
            e = exp_shifted_over(x, factor, factor_low, magic)
        sums = add_moments(sums, e, x, base)
    a, a_low, b, b_low = sums
    return add_reduce(a + a_low), add_reduce(b + b_low) * scale


@inline
def rank_of(p, n, y):
    """#(z_j > z_y) + #(z_j = z_y, j < y): 0 for the class that NumPy's argmax would choose."""
    z = p[y]
    width = lanes(p)
    count = bits(fill(p, 0.0))
    own = y - y % width
    for i in range(0, own, width):
        count = count + select(load(p, i) >= z, count * 0 + 1, 0)
    for i in range(own, n, width):
        v = load(p, i) if i > own and i + width <= n else part(p, i, n, -1)
        before = (v == z) & (lane_numbers(v) < y - i)
        count = count + select((v > z) | before, count * 0 + 1, 0)
    return np.int64(add_reduce(count))


# --- linear sums over a row: soft targets, smoothing ------------------------------------------------------------------


@inline
def _weights(w, weighted, i, here):
    """Class weights, or ones: memory is read only where there are some."""
    return load_some_double(w, i, here & (splat(1.0 if weighted else 0.0) > 0.0), 1.0)


@inline
def target_sums(z, t, n, top, w, weighted, keep, spread):
    """Σ c_k·(top - z_k) and Σ c_k with c_k = w_k·(keep·t_k + spread), then Σ t_k and whether every t_k is valid.

    A masked class (-inf) counts 0 where c_k = 0, and makes the sum +inf elsewhere.
    """
    loss, loss_low, mass, mass_low = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    sum_, valid = splat(0.0), splat(0.0) == 0.0
    for i in range(0, n, 8):
        here = first_lanes(n - i, loss)
        target = load_some_double(t, i, here, 0.0)
        valid = valid & (target >= 0.0) & (target < math.inf)
        c = fma(target, keep, spread) * _weights(w, weighted, i, here)
        c = select(here, c, 0.0)
        distance = top - load_some_double(z, i, here, 0.0)
        loss, loss_low = two_sum(loss, loss_low, select(c == 0.0, 0.0, c * distance))
        mass, mass_low = two_sum(mass, mass_low, c)
        sum_ = sum_ + target
    return guarded_total(loss, loss_low), guarded_total(mass, mass_low), add_reduce(sum_), not any_lane(~valid)


@inline
def guarded_total(total, low):
    """The sum of a TwoSum pair; an infinite total has no rounding error worth keeping (it would be NaN)."""
    return add_reduce(total + select(low == low, low, 0.0))


@inline
def smoothed_sums(z, n, y, top, w, weighted, keep, spread):
    """The same for a label y: c_k = w_k·spread, and w_y·(keep + spread) at y. Σ c_k·(top - z_k) and Σ c_k."""
    loss, loss_low, mass, mass_low = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        here = first_lanes(n - i, loss)
        c = select(lane_numbers(loss) == y - i, keep + spread, spread) * _weights(w, weighted, i, here)
        c = select(here, c, 0.0)
        distance = top - load_some_double(z, i, here, 0.0)
        loss, loss_low = two_sum(loss, loss_low, select(c == 0.0, 0.0, c * distance))
        mass, mass_low = two_sum(mass, mass_low, c)
    return guarded_total(loss, loss_low), guarded_total(mass, mass_low)
