"""A block's figures -> losses, in vectors: 16 rows at once in float32, 8 in float64.

Figures (see rows.py) are an array (4 or more, ROWS) of the logits' type: A, k, s, then the logit that was left out, one
column a row. A is at most rows.LARGEST_SUM.
"""

import math

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, exp_times, log1p_positive, times_exp
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_double, store, store_double
from fastxent.kernels.rows import lanes, two_words
from fastxent.kernels.simd import any_lane, by_type, fill, fma, select
from fastxent.kernels.tiles import ROWS

# Where near_nll serves: the least and the largest power of two in e^(-z/T)·2^k. With A between 1/2 and LARGEST_SUM, the
# product is a normal number.
lowest, highest = by_type(-120.0, -960.0), by_type(118.0, 960.0)


@inline
def losses_of(f, v, m, scale, scale_low):
    """Figures behind the pointer f to float64 losses behind v, for the first m rows of a block."""
    missing = any_lane(fill(f, 0.0) > 0.0)
    factor, factor_low = two_words(f, -scale, -scale_low)
    for r in range(0, m, lanes(f)):
        result, near = near_nll(*figures_at(f, r), factor, factor_low)
        store_double(v, r, select(near, result, math.nan))
        missing = missing | any_lane(~near)
    if missing:
        for r in range(0, m, 8):
            result = load(v, r)
            if any_lane(result != result):
                a, k, s, z = doubles_at(f, r)
                store(v, r, select(result == result, result, nll(a, k, s, z, scale, scale_low)))


@inline
def figures_at(f, r):
    """A, k, s and the logit of as many rows as a vector has lanes."""
    return load(f, r), load(f, ROWS + r), load(f, 2 * ROWS + r), load(f, 3 * ROWS + r)


@inline
def doubles_at(f, r):
    """The same of eight rows, as float64."""
    return load_double(f, r), load_double(f, ROWS + r), load_double(f, 2 * ROWS + r), load_double(f, 3 * ROWS + r)


@inline
def near_nll(a, k, s, z, factor, factor_low):
    """ln(1 + a·2^k·e^(z·(factor + factor_low))), and the lanes where that holds: a valid row's, of moderate size."""
    inner, near = near_sum(a, k, s, z, factor, factor_low)
    return log1p_positive(inner), near


@inline
def near_sum(a, k, s, z, factor, factor_low):
    """a·2^k·e^(z·(factor + factor_low)), and the same lanes."""
    magic = elementary.rounding(a) + k
    inner = times_exp(a, z, factor, factor_low, magic)
    t = fma(z, factor * LOG2_E, magic) - elementary.rounding(a)
    near = (a > 0.0) & (s == 0.0) & (t >= lowest(a)) & (t <= highest(a))
    return inner, near


@inline
def wide_sum(a, k, s, z, scale, scale_low):
    """a·2^k·e^((s - z)·(scale + scale_low)) for eight rows, its exponent without a, and s - z in two words.

    The sum is anything where the exponent is not between -760 and 600.
    """
    x = s - z
    back = x - s
    x_low = (s - (x - back)) - (z + back)
    x_low = select(x_low == x_low, x_low, 0.0)
    exponent = fma(k, LN_2, x * scale)
    moderate = (exponent <= 600.0) & (exponent >= -760.0)
    inner = exp_times(
        a, select(moderate, x, 0.0), select(moderate, x_low, 0.0), scale, scale_low, select(moderate, k, 0.0)
    )
    return inner, exponent, x, x_low


@inline
def nll(a, k, s, z, scale, scale_low):
    """ln(1 + a·2^k·e^((s - z)·(scale + scale_low))) for eight rows at once: vectors of 8 x float64.

    z is the logit left out of a. +inf where it is masked, 0 where all others are, NaN where the row is invalid.
    """
    inner, exponent, x, x_low = wide_sum(a, k, s, z, scale, scale_low)
    result = elementary.log1p(inner)
    above = exponent > 600.0
    if any_lane(above):
        straight = x * scale + select(x < math.inf, fma(x, scale_low, x_low * scale), 0.0)
        result = select(above, straight + elementary.log_times_power(a, k), result)
    result = select(exponent < -760.0, 0.0, result)
    result = select(a == 0.0, select(z > -math.inf, 0.0, math.nan), result)
    return select((z < math.inf) & (a == a), result, math.nan)


@inline
def log_sum(a, k, s, scale, scale_low):
    """ln(a·2^k) + s·(scale + scale_low) for eight rows: logsumexp from the figures of all classes."""
    return select(a > 0.0, fma(s, scale_low, fma(s, scale, elementary.log_times_power(a, k))), math.nan)
