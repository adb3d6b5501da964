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

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, exp_times
from fastxent.kernels.finish import doubles_at
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load_some_double, store, store_some_double
from fastxent.kernels.rows import exp_sum_over, two_sum
from fastxent.kernels.simd import add_reduce, any_lane, first_lanes, fma, lane_numbers, select, splat
from fastxent.kernels.soft import highest
from fastxent.kernels.tiles import ROWS


@inline
def shares(a, k, s, z, scale, scale_low):
    """S/(1 + S) for S = a·2^k·e^((s - z)/T), and that over a: for eight rows at once, or in float64 for one.

    NaN for an invalid row; 0 and 0 where every other class is masked; 1 where z is.
    """
    x = s - z
    back = x - s
    x_low = (s - (x - back)) - (z + back)
    x_low = select(x_low == x_low, x_low, 0.0)
    exponent = fma(k, LN_2, x * scale)
    moderate = (exponent <= 600.0) & (exponent >= -760.0)
    sum_ = exp_times(
        a, select(moderate, x, 0.0), select(moderate, x_low, 0.0), scale, scale_low, select(moderate, k, 0.0)
    )
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
def rest_of_top(p, n, y, share, factor, s, k, scale, scale_low):
    """1 - q of the largest class, that class, where it is not y and more than half; else (0, -1).

    ``share`` is 1 - q of y.
    """
    if share > 0.5:
        top, first = highest(p, n)
        if first >= 0 and first != y:
            q = probability(splat(top), splat(s), splat(k), splat(factor), scale, scale_low)
            if any_lane(q > 0.5):
                a, k_top, s_top = exp_sum_over(p, n, first, scale, scale_low)
                rest, _ = shares(splat(a), splat(k_top), splat(s_top), splat(top), scale, scale_low)
                return add_reduce(rest) * 0.125, first
    return 0.0, -1


@inline
def fill_row(value, n, targets, wants_hessian):
    """One value throughout a row: 0 for an ignored one, NaN for an invalid one."""
    target, hessian = targets
    for i in range(0, n, 8):
        here = first_lanes(n - i, splat(0.0))
        store_some_double(target, i, here, splat(value))
        if wants_hessian:
            store_some_double(hessian, i, here, splat(value))


@inline
def label_gradient(p, n, y, k, s, share, factor, scales, scale, scale_low, targets, wants_hessian):
    """One row's gradient for a label, from its figures and both shares; with the factors and pointers of both results.

    ``targets`` may be the row itself.
    """
    if not share == share:
        fill_row(math.nan, n, targets, wants_hessian)
        return
    gradient_scale, hessian_scale = scales
    target, hessian = targets
    rest, top = 0.0, -1
    if wants_hessian:
        rest, top = rest_of_top(p, n, y, share, factor, s, k, scale, scale_low)
    for i in range(0, n, 8):
        here = first_lanes(n - i, splat(0.0))
        z = load_some_double(p, i, here, -math.inf)
        lane = lane_numbers(z)
        q = probability(z, splat(s), splat(k), splat(factor), scale, scale_low)
        mine = lane == y - i
        if wants_hessian:
            other = select(mine, share, select(lane == top - i, rest, 1.0 - q))
            own = select(mine & (splat(share) < 0.5), 1.0 - share, q)
            store_some_double(hessian, i, here, own * other * hessian_scale + 0.0)
        store_some_double(target, i, here, select(mine, -share, q) * gradient_scale + 0.0)


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
        fill_row(math.nan, n, targets, wants_hessian)
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


@inline
def binary_gradient(z, t, pos_weight):
    """(1 - t)·q - w·t·(1 - q) and (w·t + 1 - t)·q·(1 - q) for eight float64 logits, q = 1/(1 + e^-z)."""
    size = select(z > 0.0, z, -z)
    small = elementary.exp(-size)
    large = 1.0 / (small + 1.0)
    small = small * large
    q, rest = select(z > 0.0, large, small), select(z > 0.0, small, large)
    on, off = t * pos_weight, 1.0 - t
    gradient, hessian = fma(off, q, -(on * rest)), (on + off) * (large * small)
    return select(size == size, gradient, math.nan), select(size == size, hessian, math.nan)
