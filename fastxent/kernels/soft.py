"""One row of logits against a distribution or a smoothed label -> figures around its largest class.

    Σ c_k·(-ln q_k) = Σ c_k·(top - z_k)/T + Σ c_k·ln(1 + Σ_j≠top e^((z_j - top)/T))

is a sum of terms that are not negative, so each may be rounded in the row's own type: nothing cancels. All sums come
from one pass, after one for the largest logit; what that pass cannot do (class weights, rows far from 0 or with a
masked class that counts) goes to the slower functions of rows.py.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.blocks import DISTRIBUTION_TOL, OK, target_fault
from fastxent.kernels.elementary import LN_2, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_double, load_some, load_some_double, prefetch
from fastxent.kernels.rows import (
    add_terms,
    ahead,
    exp_sum_over,
    floor_exponent,
    lanes,
    part,
    reference_of,
    smoothed_sums,
    target_sums,
    too_small,
    two_words,
)  # fmt: skip
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    by_type,
    fill,
    first_lanes,
    fma,
    join,
    max_reduce,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip

# Distances are raised by this power of two, so that t·(top - z) is a normal number for every t > 0 where the distance
# counts: below 1 it is as nothing beside ln q of the largest class, which is then at least ln(1 + 1/e).
raised = by_type(2.0**64, 2.0**512)
# A row so long is not asked for a row ahead, but some way ahead.
NEXT_ROW = 8192


@inline
def highest(p, n):
    """The largest logit and its first class; -1 where it is not finite. NaNs are passed over."""
    width = lanes(p)
    block = 4 * width
    top = fill(p, -math.inf)
    a, b, c, d = top, top, top, top
    full = n - n % block
    for i in range(0, full, block):
        a, b = maximum(a, load(p, i)), maximum(b, load(p, i + width))
        c, d = maximum(c, load(p, i + 2 * width)), maximum(d, load(p, i + 3 * width))
    for i in range(full, n, width):
        a = maximum(a, part(p, i, n, -1))
    largest = max_reduce(maximum(maximum(a, b), maximum(c, d)))
    if not abs(largest) < math.inf:
        return math.nan, -1
    top = fill(p, largest)
    first = 0
    while first < full:
        here = (load(p, first) == top) | (load(p, first + width) == top)
        if any_lane(here | (load(p, first + 2 * width) == top) | (load(p, first + 3 * width) == top)):
            break
        first += block
    while first + width <= n and not any_lane(load(p, first) == top):
        first += width
    while p[first] != largest:
        first += 1
    return np.float64(largest), first


@inline
def some(p, i, n, beyond):
    """Elements i, i + 1, ... of a row; lanes past its end are ``beyond``."""
    return load_some(p, i, first_lanes(n - i, fill(p, 0.0)), beyond)


# The least normal number of float32: below it a target is not rounded to float32.
LEAST = 2.0**-126


def likened(p, t, i):
    """Elements i, i + 1, ... of the target t in the type of the logits behind p.

    A float64 target beside float32 logits is rounded: its loss is no more accurate than the logits' 2^-21 anyway. What
    float32 has no normal number for becomes -1, which no target holds, so that somebody else does that row.
    """


@overload(likened, jit_options=INLINE)
def _likened(p, t, i):
    if p.dtype == t.dtype:
        return lambda p, t, i: load(t, i)
    if p.dtype == types.float64:
        return lambda p, t, i: load_double(t, i)
    return lambda p, t, i: join(normal(load(t, i)), normal(load(t, i + 8)))


def some_likened(p, t, i, n):
    """The same of a row of n elements; lanes past its end are 0."""


@overload(some_likened, jit_options=INLINE)
def _some_likened(p, t, i, n):
    if p.dtype == t.dtype:
        return lambda p, t, i, n: some(t, i, n, 0.0)
    if p.dtype == types.float64:
        return lambda p, t, i, n: load_some_double(t, i, first_lanes(n - i, splat(0.0)), 0.0)
    return lambda p, t, i, n: join(normal(some(t, i, n, 0.0)), normal(some(t, i + 8, n, 0.0)))


@inline
def normal(t):
    """Targets that float32 rounds to a normal number, or 0; -1 for others."""
    return select((t < LEAST) & (t != 0.0), -1.0, t)


@inline
def plain_terms(x, factor, factor_low, magic):
    """exp_shifted with the arguments of exp_shifted_over."""
    return exp_shifted(x, magic)


@inline
def scaled_terms(x, factor, factor_low, magic):
    """exp_shifted_over, as a function that can be handed on."""
    return exp_shifted_over(x, factor, factor_low, magic)


@inline
def product(t, distance):
    """t·distance, 0 where t is 0 and the distance infinite."""
    return select(t > 0.0, t * distance, 0.0)


@inline
def sums_around(terms, p, t, n, top, first, k, grain, scale, scale_low, spread):
    """A without the largest class, Σ t_k·(top - z_k), Σ t_k, Σ (top - z_k) (where spread is not 0), the lowest t_k.

    For |top| <= MODERATE, with s = 0 and k as reference_of gives them; ``grain`` is the unit of the magic number. A is
    NaN for a row with a NaN; the other sums are not finite where a distance is out of the type's range, or a masked
    class (-inf) counts. The next row is asked for meanwhile.
    """
    width = lanes(p)
    block = 4 * width
    magic = fill(p, elementary.rounding(p) - k * grain)
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    factor, factor_low = two_words(p, scale, scale_low)
    down, base = fill(p, -raised(p)), fill(p, top * raised(p))
    zero = splat(0.0)
    total, low, loss, loss_low, mass, mass_low, away, away_low = zero, zero, zero, zero, zero, zero, zero, zero
    masked, level, nothing = fill(p, -math.inf), fill(p, top), fill(p, 0.0)
    lowest = nothing
    own = first // block * block
    further = n if n <= NEXT_ROW else ahead(p)
    for i in range(0, n, block):
        for j in range(4):
            prefetch(p, i + further + j * width)
            prefetch(t, i + ahead(p) + j * width)
        if n - i <= width:  # all that is left, or all there is
            a, a_z, a_t = part(p, i, n, first), some(p, i, n, top), some_likened(p, t, i, n)
            b, c, d = masked, masked, masked
            b_z, c_z, d_z = level, level, level
            b_t, c_t, d_t = nothing, nothing, nothing
        elif i == own or i + block > n:
            a, b = part(p, i, n, first), part(p, i + width, n, first)
            c, d = part(p, i + 2 * width, n, first), part(p, i + 3 * width, n, first)
            a_z, b_z = some(p, i, n, top), some(p, i + width, n, top)
            c_z, d_z = some(p, i + 2 * width, n, top), some(p, i + 3 * width, n, top)
            a_t, b_t = some_likened(p, t, i, n), some_likened(p, t, i + width, n)
            c_t, d_t = some_likened(p, t, i + 2 * width, n), some_likened(p, t, i + 3 * width, n)
        else:
            a, b, c, d = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
            a_z, b_z, c_z, d_z = a, b, c, d
            a_t, b_t = likened(p, t, i), likened(p, t, i + width)
            c_t, d_t = likened(p, t, i + 2 * width), likened(p, t, i + 3 * width)
        a_z, b_z, c_z, d_z = fma(a_z, down, base), fma(b_z, down, base), fma(c_z, down, base), fma(d_z, down, base)
        if spread != 0.0:
            away, away_low = add_terms(away, away_low, (a_z + b_z) + (c_z + d_z))
        a_z, b_z, c_z, d_z = product(a_t, a_z), product(b_t, b_z), product(c_t, c_z), product(d_t, d_z)
        loss, loss_low = add_terms(loss, loss_low, (a_z + b_z) + (c_z + d_z))
        mass, mass_low = add_terms(mass, mass_low, (a_t + b_t) + (c_t + d_t))
        lowest = minimum(minimum(minimum(minimum(lowest, a_t), b_t), c_t), d_t)
        a, b = terms(maximum(a, floor), factor, factor_low, magic), terms(maximum(b, floor), factor, factor_low, magic)
        c, d = terms(maximum(c, floor), factor, factor_low, magic), terms(maximum(d, floor), factor, factor_low, magic)
        total, low = add_terms(total, low, (a + b) + (c + d))
    unit = 1.0 / raised(p)
    loss, away = add_reduce(loss + loss_low) * unit, add_reduce(away + away_low) * unit
    return add_reduce(total + low), loss, add_reduce(mass + mass_low), away, not any_lane(lowest < 0.0)


@inline
def sums_of(p, t, n, top, first, k, scale, scale_low, spread):
    """sums_around at a temperature of 1, or at another one."""
    if scale == 1.0:
        return sums_around(plain_terms, p, t, n, top, first, k, elementary.steps(p), scale, scale_low, spread)
    return sums_around(scaled_terms, p, t, n, top, first, k, 1.0, scale, scale_low, spread)


@inline
def note_top(a, k, p, n, top, first, scale, scale_low, figures, r):
    """Figures of the largest class, for figures.nll_of: A is relative to it, and taken anew where that is too small."""
    s = 0.0
    if top == top and not a > too_small(p):
        a, k, s = exp_sum_over(p, n, first, scale, scale_low)
    figures[0, r] = a
    figures[1, r] = k
    figures[2, r] = s
    figures[3, r] = top


@inline
def soft_figures(p, t, n, w, weighted, keep, spread, scale, scale_low, figures, r):
    """Column r for a target: figures of the largest class, Σ c_k·(top - z_k) and Σ c_k with c_k as in rows.target_sums.

    Returns why the target is refused, or 0.
    """
    top, first = highest(p, n)
    s, k = reference_of(top, scale)
    a, straight, counted, done = math.nan, 0.0, 0.0, False
    if s == 0.0:
        a, loss, mass, away, valid = sums_of(p, t, n, top, first, k, scale, scale_low, spread)
        straight = loss if spread == 0.0 else (0.0 if keep == 0.0 else keep * loss) + spread * away
        counted = fma(keep, mass, spread * n)
        # nearer to the limit than what the sum may be wrong by, it is taken in float64
        done = valid and not weighted and abs(mass - 1.0) < 0.99 * DISTRIBUTION_TOL and straight < math.inf
    reason = OK
    if not done:
        straight, counted, mass, valid = target_sums(p, t, n, top, w, weighted, keep, spread)
        reason = target_fault(mass, valid)
    note_top(a, k, p, n, top, first, scale, scale_low, figures, r)
    figures[4, r] = straight if figures[0, r] == figures[0, r] else 0.0  # an invalid row has one and the same NaN
    figures[5, r] = counted
    return reason


@inline
def smoothed_figures(p, n, y, w, weighted, keep, spread, scale, scale_low, figures, r):
    """The same for a label with smoothing: c_k = w_k·spread, and w_y·(keep + spread) at y."""
    top, first = highest(p, n)
    s, k = reference_of(top, scale)
    a, straight, counted, done = math.nan, 0.0, 0.0, False
    if s == 0.0:
        a, _, _, away, _ = sums_of(p, p, n, top, first, k, scale, scale_low, spread)
        straight = (0.0 if keep == 0.0 else keep * (top - p[y])) + spread * away
        counted = fma(spread, np.float64(n), keep)
        done = not weighted and straight < math.inf
    if not done:
        straight, counted = smoothed_sums(p, n, y, top, w, weighted, keep, spread)
    note_top(a, k, p, n, top, first, scale, scale_low, figures, r)
    figures[4, r] = straight if figures[0, r] == figures[0, r] else 0.0
    figures[5, r] = counted
