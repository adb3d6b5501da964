r"""Soft-capped logits, cap·tanh(z / cap), and their derivative, in vectors and without libm.

With u = e^(-2|z|/cap), tanh(|z|/cap) = (1 - u)/(1 + u) and its derivative is 4u/(1 + u)^2. u - 1 comes from the
polynomial for e^r - 1 and one fma, so that nothing cancels for small z, and 1 - tanh^2 is never formed.

Relative errors, measured in tests/test_linear.py: capped logits 2.5 · 2^-23 (float32) and 2.5 · 2^-52 (float64), while
z / cap is a normal number; slopes 4 of these units, and from 4·e^LEAST on no smaller.
"""

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import (
    LN2_HIGH32,
    LN2_HIGH64,
    LN2_LOW32,
    LN2_LOW64,
    LOG2_E,
    ROUND32,
    ROUND64,
)
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.simd import bits, by_type, fill, fma, from_bits, is_float32, maximum, minimum

# e^y is a normal number from here on; tanh is 1 to the last bit long before.
LEAST32, LEAST64 = -85.0, -700.0
least = by_type(LEAST32, LEAST64)
sign_mask = by_type(-(1 << 31), -(1 << 63))


def decay_parts(y):
    """2^n and e^r - 1 of e^y = 2^n·e^r, for y in [LEAST, 0]."""


@overload(decay_parts, jit_options=INLINE)
def _decay_parts(y):
    if is_float32(y):

        def short(y):
            t = fma(y, np.float32(LOG2_E), ROUND32)
            n = t - ROUND32
            r = fma(n, np.float32(-LN2_LOW32), fma(n, np.float32(-LN2_HIGH32), y))
            return from_bits(bits(fill(y, 1.0)) + (bits(t) << 23)), elementary._expm1_tail32(r)

        return short

    def long(y):
        t = fma(y, LOG2_E, ROUND64)
        n = t - ROUND64
        r = fma(n, -LN2_LOW64, fma(n, -LN2_HIGH64, y))
        return from_bits(bits(fill(y, 1.0)) + (bits(t) << 52)), elementary._expm1_tail64(r)

    return long


@inline
def decayed(z, rate, rate_low):
    """u - 1 and u, for rate + rate_low = 2 / cap. A NaN stays."""
    size = from_bits(bits(z) & ~(bits(z) * 0 + sign_mask(z)))
    size = minimum(size, -least(z) / rate)
    power, p = decay_parts(maximum(fma(size, -rate, -(size * rate_low)), least(z)))
    return fma(power, p, power - 1.0), fma(power, p, power)


@inline
def capped(z, cap, rate, rate_low):
    """cap·tanh(z / cap) for vectors that hold cap and the two words of 2 / cap."""
    less, _ = decayed(z, rate, rate_low)
    size = cap * (-less / (less + 2.0))
    return from_bits(bits(size) | (bits(z) & sign_mask(z)))


@inline
def slope(z, rate, rate_low):
    """The derivative, 1 - tanh(z / cap)^2."""
    less, u = decayed(z, rate, rate_low)
    below = less + 2.0
    return u * 4.0 / (below * below)
