"""One logit or probability a row: the two-class losses.

With w for pos_weight and L = ln(1 + e^-|z|), a logit's loss is w·t·ln(1 + e^-z) + (1 - t)·ln(1 + e^z), which is

    (w·t + 1 - t)·L + |z|·(1 - t where z > 0, w·t elsewhere)

and a probability's is -w·t·ln p - (1 - t)·ln(1 - p). No term is negative: nothing cancels. float32 logits and
probabilities of moderate size are done in float32, 16 at once; what is not moderate (or no number) in float64.
Rows are read in whole vectors: behind the last one there must be room, holding numbers that are probabilities.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import EXPONENT32, ONE_BITS32, SQRT_HALF_BITS32
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_double, prefetch, store, store_double
from fastxent.kernels.rows import ahead, lanes, magnitude, reads_float32
from fastxent.kernels.simd import (
    any_lane,
    bits,
    by_type,
    fill,
    fma,
    from_bits,
    is_float32,
    maximum,
    select,
)  # fmt: skip

one_bits = by_type(ONE_BITS32, 1023 << 52)
# A logit of moderate size: e^-|z| is a normal number.
moderate = by_type(80.0, 700.0)
LEAST_NORMAL, BELOW_1 = np.float32(2.0**-126), np.float32(1.0 - 2.0**-24)


@inline
def any_outside(p, m):
    """Whether one of m numbers is outside [0, 1], or no number. -0.0 is inside."""
    outside = bits(fill(p, 0.0))
    for r in range(0, m, lanes(p)):
        outside = outside | beyond(load(p, r))
    return any_lane(outside < 0)


@inline
def beyond(x):
    """Negative where x is outside [0, 1], or no number."""
    b = bits(x + 0.0)
    return b | (one_bits(x) - b)


@inline
def binary_nll(z, target, pos_weight):
    """w·t·ln(1 + e^-z) + (1 - t)·ln(1 + e^z) for eight float64 logits of any size."""
    size = maximum(z, -z)
    rest = elementary.log1p(elementary.exp(-size))
    result = _combine(z, size, rest, target, pos_weight)
    # a certain prediction costs nothing where its class has all the weight
    wrong = select(z > 0.0, 1.0 - target, pos_weight * target) > 0.0
    result = select(size < math.inf, result, select(wrong, math.inf, 0.0 * target))
    return select(size == size, result, math.nan)


@inline
def _combine(z, size, rest, target, pos_weight):
    on, off = pos_weight * target, 1.0 - target
    return fma(select(z > 0.0, off, on), size, (on + off) * rest)


@inline
def binary_log_loss(p, target, pos_weight, eps):
    """-w·t·ln p - (1 - t)·ln(1 - p) for eight probabilities, clipped to [eps, 1 - eps] when eps > 0."""
    positive = -elementary.log(p)
    negative = -elementary.log1p(-p)
    if eps > 0.0:
        low, high = -elementary.log(eps), -elementary.log1p(-eps)
        positive = select(p < eps, low, select(p > 1.0 - eps, high, positive))
        negative = select(p < eps, high, select(p > 1.0 - eps, low, negative))
    return _weigh(pos_weight * target, positive) + _weigh(1.0 - target, negative)


@inline
def _weigh(weight, loss):
    """A term without weight counts 0, even where its logarithm is infinite."""
    return select(weight == 0.0, 0.0, weight * loss)


@inline
def absolute(x):
    """The absolute value."""
    return from_bits(bits(x) & magnitude(x))


# --- a block of logits ------------------------------------------------------------------------------------------------


@inline
def logit_losses(p, t, v, m, pos_weight):
    """Losses of m logits behind p with targets behind t, to float64 behind v. Whether one of the targets is none."""
    largest = bits(fill(p, 0.0))
    if _both_narrow(p, t) and pos_weight == 1.0:
        outside, largest = narrow_logits(p, t, v, m, largest)
        bad = any_lane(outside < 0)
    else:
        bad = any_outside(t, m)
        for r in range(0, m, lanes(p)):
            size = absolute(load(p, r))
            largest = maximum(largest, bits(size))
            store_double(v, r, softened(size))
        for r in range(0, m, 8):
            z = load_double(p, r)
            store(v, r, _combine(z, absolute(z), load(v, r), load_double(t, r), pos_weight))
    if any_lane(largest > bits(fill(p, moderate(p)))):
        for r in range(0, m, 8):
            z = load_double(p, r)
            near = absolute(z) <= moderate(p)
            if any_lane(~near):
                store(v, r, select(near, load(v, r), binary_nll(z, load_double(t, r), pos_weight)))
    return bad


def softened(size):
    """ln(1 + e^-size) for 0 <= size <= moderate."""


@overload(softened, jit_options=INLINE)
def _softened(size):
    if is_float32(size):
        return lambda size: elementary.log1p_unit32(elementary.exp_shifted(-size, fill(size, elementary.ROUND32)))
    return lambda size: elementary.log1p_positive(elementary.exp_shifted(-size, fill(size, elementary.ROUND64)))


@inline
def _both_narrow(p, t):
    """Whether both are float32."""
    return reads_float32(p) and reads_float32(t)


def narrow_logits(p, t, v, m, largest):
    """Losses of m float32 logits of moderate size with float32 targets, without pos_weight.

    Returns what any_outside looks at, and the larger of the bits of ``largest`` and of the logits' magnitudes.
    """


@overload(narrow_logits, jit_options=INLINE)
def _narrow_logits(p, t, v, m, largest):
    if not (is_float32(p) and is_float32(t)):
        return lambda p, t, v, m, largest: (largest, largest)

    def losses(p, t, v, m, largest):
        outside = largest
        for r in range(0, m, 16):
            prefetch(p, r + ahead(p))
            prefetch(t, r + ahead(t))
            z, target = load(p, r), load(t, r)
            size = absolute(z)
            store_double(v, r, fma(select(z > 0.0, 1.0 - target, target), size, softened(size)))
            outside = outside | beyond(target)
            largest = maximum(largest, bits(size))
        return outside, largest

    return losses


# --- a block of probabilities -----------------------------------------------------------------------------------------


@inline
def probability_losses(p, t, v, m, pos_weight, eps):
    """Losses of m probabilities behind p with targets behind t, to float64 behind v. Whether one of them is none."""
    bad = any_outside(p, m) or any_outside(t, m)
    narrow = _both_narrow(p, t) and pos_weight == 1.0
    missing = True
    low, high = np.float32(0.0), np.float32(1.0)
    if eps > 0.0:  # well inside, and less than 1: what eps clips is settled in float64
        low = max(np.float32(2.0 * eps), LEAST_NORMAL)
        high = min(np.float32(1.0 - 2.0 * eps), BELOW_1)
    if narrow:
        missing = narrow_probabilities(p, t, v, m, low, high)
    if missing:
        for r in range(0, m, 8):
            x, target = load_double(p, r), load_double(t, r)
            far = ~(_is_near(x, target, low, high) & (fill(x, 1.0 if narrow else 0.0) > 0.0))
            if any_lane(far):
                store(v, r, select(far, binary_log_loss(x, target, pos_weight, eps), load(v, r)))
    return bad


@inline
def _is_near(x, target, low, high):
    """Whether float32 serves: the logarithms that count are of normal numbers, and nothing is clipped."""
    counts = select(target > 0.0, x, 1.0 - x) >= LEAST_NORMAL
    return counts & ((target == 1.0) | (x < 1.0)) & (x >= low) & (x <= high)


def narrow_probabilities(p, t, v, m, low, high):
    """Losses of m float32 probabilities where _is_near, without pos_weight. Whether some were not."""


@overload(narrow_probabilities, jit_options=INLINE)
def _narrow_probabilities(p, t, v, m, low, high):
    if not (is_float32(p) and is_float32(t)):
        return lambda p, t, v, m, low, high: True

    def losses(p, t, v, m, low, high):
        missing = False
        for r in range(0, m, 16):
            x, target = load(p, r), load(t, r)
            missing |= any_lane(~_is_near(x, target, low, high))
            on = target > 0.0
            loss = _minus_log(select(on, x, 1.0 - x), select(on, x, -x), select(on, x * 0.0, 1.0))
            soft = on & (target < 1.0)
            if any_lane(soft):
                both = fma(target, loss, (1.0 - target) * _minus_log(1.0 - x, -x, fill(x, 1.0)))
                loss = select(soft, both, loss)
            store_double(v, r, loss)
        return missing

    return losses


@inline
def _minus_log(about, x, base):
    """-ln(base + x) for a normal number, where ``about`` is base + x rounded."""
    n = (bits(about) - SQRT_HALF_BITS32) & EXPONENT32
    q = from_bits(ONE_BITS32 - n)
    return -elementary.log_parts32(fma(x, q, fma(base, q, -1.0)), n)
