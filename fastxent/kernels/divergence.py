"""Kullback-Leibler divergence of two rows, Σ p ln(p / q), in float64 whatever the rows' type.

0 ln 0 = 0; +inf where q = 0 < p. Errors are relative to Σ p |ln(p / q)|: where p and q are near, their difference is
taken before any logarithm.
"""

import math

from fastxent.kernels import elementary
from fastxent.kernels.elementary import exp_times
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load_some_double
from fastxent.kernels.probabilities import PROBS
from fastxent.kernels.rows import guarded_total, largest, two_sum
from fastxent.kernels.simd import add_reduce, any_lane, first_lanes, fma, lane_numbers, maximum, select, splat


@inline
def log_ratio(p, q):
    """ln(p / q) for positive p and q: through (p - q) / q where they are near, which is exact there."""
    near = (p < q * 2.0) & (p * 2.0 > q)
    ratio = p / q
    far = (ratio < 1e-290) | (ratio > 1e290)
    result = elementary.log1p(select(near, (p - q) / q, 0.0))
    result = select(near, result, elementary.log(ratio))
    return select(far, elementary.log(p) - elementary.log(q), result)


@inline
def divergence(p, q, n, kind):
    """Σ p ln(p / q) of two rows of probabilities or log-probabilities; 0 ln 0 = 0, and +inf where q = 0 < p."""
    total, low = splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        here = first_lanes(n - i, total)
        if kind == PROBS:
            a, b = load_some_double(p, i, here, 0.0), load_some_double(q, i, here, 1.0)
            ratio = log_ratio(a, b)
        else:
            u, v = load_some_double(p, i, here, -math.inf), load_some_double(q, i, here, 0.0)
            a, ratio = elementary.exp(u), u - v
        total, low = two_sum(total, low, select(a == 0.0, 0.0, a * ratio))
    return guarded_total(total, low)


# --- of logits --------------------------------------------------------------------------------------------------------


@inline
def _difference(a, b):
    """a - b in two words (Knuth's TwoSum); an infinite difference has no second one."""
    x = a - b
    back = x - a
    low = (a - (x - back)) - (b + back)
    return x, select(low == low, low, 0.0)


@inline
def _relative(z, i, here, own):
    """z_k - own in two words; lanes past the row are masked classes."""
    return _difference(load_some_double(z, i, here, -math.inf), splat(own))


@inline
def _exponential(factor, x, low):
    """factor·e^(x + low) for x <= 1300."""
    inner = maximum(x, -1300.0)
    return select(x < -1300.0, 0.0, exp_times(factor, inner, select(inner == x, low, 0.0), 1.0, 0.0, 0.0))


@inline
def _log_remainder(z, n, own, but):
    """ln Σ e^(z_k - own), where class ``but`` has z = own: ln(1 + the others)."""
    total, low = splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        x, x_low = _relative(z, i, first_lanes(n - i, total), own)
        term = _exponential(splat(1.0), x, x_low)
        total, low = two_sum(total, low, select(lane_numbers(total) == but - i, 0.0, term))
    return elementary.log1p(guarded_total(total, low))


@inline
def divergence_of_logits(zp, zq, n):
    """Σ p ln(p / q) of two rows of logits.

    With r the largest class of p, d_k = (zp_k - zp_r) - (zq_k - zq_r) and any constant c,

        KL = Σ p_k (d_k - c) + ln(1 + Σ (p_r e^(zq_k - zq_r + c) - p_k))

    since Σ q = 1. With c near the mean of d, both sums are small where p and q are near; there each term of the second
    one is p_k (e^(c - d_k) - 1).
    """
    top, r = largest(zp, n)
    q_top, q_first = largest(zq, n)
    if top != top or q_top != q_top:
        return math.nan
    q_own = zq[r] * 1.0
    log_sum = _log_remainder(zp, n, top, r)
    zero = splat(0.0)
    mean, impossible = zero, zero > 0.0
    for i in range(0, n, 8):
        here = first_lanes(n - i, zero)
        x, x_low = _relative(zp, i, here, top)
        y, y_low = _relative(zq, i, here, q_own)
        impossible = impossible | ((x > -math.inf) & ~(load_some_double(zq, i, here, 0.0) > -math.inf))
        p = _exponential(splat(1.0), x - log_sum, x_low)
        mean = mean + select(p > 0.0, p * (x - y), 0.0)
    if any_lane(impossible):
        return math.inf
    c = add_reduce(mean)
    if not abs(c) < 1e300 or q_top - q_own + c > 600.0:
        return _distant(zp, zq, n, top, q_top, log_sum, _log_remainder(zq, n, q_top, q_first))
    p_own = elementary.exp(-log_sum)
    first, first_low, second, second_low = zero, zero, zero, zero
    for i in range(0, n, 8):
        here = first_lanes(n - i, zero)
        x, x_low = _relative(zp, i, here, top)
        y, y_low = _relative(zq, i, here, q_own)
        p = _exponential(splat(p_own), x, x_low)
        d, d_low = _difference(x, y)
        d, c_low = _difference(d, splat(c))
        # d_low holds the rounding of x and y, which may be far larger than d: e^-d is 1 - d only near enough.
        d, d_low = two_sum(d, zero, ((x_low - y_low) + d_low) + c_low)
        shifted, shifted_low = _difference(y, splat(-c))
        far = _exponential(splat(p_own), shifted, shifted_low + y_low) - p
        near = p * fma(-d_low, 1.0 - d, elementary.expm1(-d))
        first, first_low = two_sum(first, first_low, select(p > 0.0, p * (d + d_low), 0.0))
        second, second_low = two_sum(second, second_low, select((d > -0.5) & (d < 0.5), near, far))
    total = guarded_total(first, first_low)
    return total + elementary.log1p(guarded_total(second, second_low))


@inline
def _distant(zp, zq, n, top, q_top, log_sum, q_log_sum):
    """The same from ln p and ln q, for rows so far apart that their ratio leaves the format."""
    total, low = splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        here = first_lanes(n - i, total)
        log_p = _relative(zp, i, here, top)[0] - log_sum
        log_q = (load_some_double(zq, i, here, 0.0) - q_top) - q_log_sum
        p = elementary.exp(log_p)
        total, low = two_sum(total, low, select(p == 0.0, 0.0, p * (log_p - log_q)))
    return guarded_total(total, low)
