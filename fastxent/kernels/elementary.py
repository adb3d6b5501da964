r"""exp, log and log1p on vectors (and, in float64, on scalars), without a libm call: the same bits on every processor.

Bounds are relative errors, measured by ci/accuracy.sh and held by tests/test_elementary.py:

=======================  ============================================  =================================
function                 range                                         error at most
=======================  ============================================  =================================
exp_shifted, float32     \|x\| <= 1024                                   1.4 · 2^-23
exp_shifted_over, "      \|x·scale\| <= 1024                             1.1 · 2^-23
exp_shifted, float64     \|x\| <= 1024                                   1.0 · 2^-52
exp                      all, gradual underflow                        1.1 · 2^-52 (while normal)
expm1                    all                                           2.2 · 2^-52
log, log1p               all, denormals included                       1.0 · 2^-52
times_exp, float32       \|x\| <= 1024                                   1.2 · 2^-23
times_exp, float64       \|x\| <= 1024                                   1.1 · 2^-52
log1p_positive, float32  0 <= x < 2^126                                1.13 · 2^-23
log1p_positive, float64  0 <= x < 2^1000                               1.0 · 2^-52
log_normal32             2^-126 <= x <= 1                              1.1 · 2^-23
log1p_unit32             0 <= x <= 1                                   1.13 · 2^-23
rough_exp                \|x\| <= 2000, while normal                    1.2 · 2^-28
rough_log1p              0 <= x < 2^1000                               2^-27
=======================  ============================================  =================================

exp: Cody and Waite, Software Manual for the Elementary Functions (1980), ch. 6: x = n·ln 2 + r with ln 2 in two words,
then a polynomial in r (ci/derive_constants.py) and n added to the exponent. n is rounded by adding 1.5·2^23 (2^52): the
sum's low bits hold it. Taking k from that constant gives e^x·2^-k at no cost and without rounding: this is how a row's
terms are brought near 1, where subtracting the row's maximum from x would round.

log, log1p: the reduction and the polynomial of FreeBSD's msun e_log.c (below 1 ulp, as stated there); in float32 a
polynomial in f alone (ci/derive_constants.py). With 1 + x = 2^n·(1 + f), f = x·2^-n + (2^-n - 1) is one fma, which
loses nothing of x.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import simd
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.permutations import table
from fastxent.kernels.simd import bits, fill, fma, from_bits, maximum, select, to_real

ROUND32 = np.float32(1.5 * 2**23)
ROUND64 = 1.5 * 2**52
ROUND64_BITS = int(np.float64(ROUND64).view(np.int64))
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
SQRT_2 = 1.4142135623730951
# ln 2 in two words; n times the first is exact for |n| < 2^15 and 2^20 (Cephes expf.c; FreeBSD e_exp.c)
LN2_HIGH32, LN2_LOW32 = 0.693359375, -2.12194440054690583e-4
LN2_HIGH64, LN2_LOW64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
SQRT_HALF_BITS = int(np.float64(math.sqrt(0.5)).view(np.int64))
EXPONENT32, ONE_BITS32 = -(1 << 23), 127 << 23  # the mask of a float32's sign and exponent; the bits of 1
SQRT_HALF_BITS32 = int(np.float32(math.sqrt(0.5)).view(np.int32))

# e^x·2^-k is for x with a moderate magnitude; beyond it a row's reference is subtracted (rows.py), which is then exact
# for every term that counts: either x is within a factor 2 of the reference (Sterbenz), or its term is below e^-256.
MODERATE = 512.0
# How far above a provisional reference a term may lie (in powers of two) before its row is done again, and the exponent
# at which terms are floored: far below what counts, still a normal number.
HEADROOM32, FLOOR32 = 118, -125
HEADROOM64, FLOOR64 = 990, -1020
# exponent_bits of terms as far above and below: a row that goes beyond is done again.
HIGHEST32 = int((ROUND32 + np.float32(8 * HEADROOM32)).view(np.int32))
HIGHEST64 = int(np.float64(ROUND64 + 8 * HEADROOM64).view(np.int64))
LOWEST32 = int((ROUND32 + np.float32(8 * FLOOR32)).view(np.int32))
LOWEST64 = int(np.float64(ROUND64 + 8 * FLOOR64).view(np.int64))


@inline
def _exp_tail32(r):
    """e^r on [-ln 2 / 2, ln 2 / 2] in float32; polynomial 2^-28."""
    q = fma(r, np.float32(0.0013814467059326510579), np.float32(0.0083687804111805336497))
    q = fma(q, r, np.float32(0.041668394210893869329))
    q = fma(q, r, np.float32(0.16666520107819589424))
    q = fma(q, r, np.float32(0.49999993412501565687))
    return fma(fma(q, r, np.float32(1.0)), r, np.float32(1.0))


@inline
def _expm1_tail32(r):
    """e^r - 1 on the same interval: the same polynomial by Estrin's scheme, for loops that wait for its result."""
    r2 = r * r
    low = fma(r, np.float32(0.16666520107819589424), np.float32(0.49999993412501565687))
    high = fma(r, np.float32(0.0083687804111805336497), np.float32(0.041668394210893869329))
    high = fma(r2, np.float32(0.0013814467059326510579), high)
    return fma(r2, fma(r2, high, low), r)


@inline
def _exp_tail64(r):
    """e^r on [-ln 2 / 2, ln 2 / 2] in float64; polynomial 2^-56."""
    return _expm1_tail64(r) + 1.0


@inline
def _expm1_tail64(r):
    """e^r - 1 on the same interval."""
    q = fma(r, 2.5110154340462049191e-8, 2.763279158266233394e-7)
    q = fma(q, r, 2.7557242059340425888e-6)
    q = fma(q, r, 0.000024801486965350888705)
    q = fma(q, r, 0.00019841269886836391551)
    q = fma(q, r, 0.0013888888948140006032)
    q = fma(q, r, 0.0083333333333221269097)
    q = fma(q, r, 0.041666666666520945381)
    q = fma(q, r, 0.16666666666666674601)
    q = fma(q, r, 0.50000000000000103169)
    return fma(q, r * r, r)


# The bits of 2^(j/8), less j << 20: rounding to eighths leaves n = 8·m + j, and adding n << 20 adds m to the exponent.
# In float64 it is << 49. (ci/derive_constants.py)
EIGHTHS = [
    1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
    1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424,
]  # fmt: skip
_eighth_powers32 = table([int(np.float32(x).view(np.int32)) - (j << 20) for j, x in enumerate(EIGHTHS)])
_eighth_powers64 = table([int(np.float64(x).view(np.int64)) - (j << 49) for j, x in enumerate(EIGHTHS)])


# (e^r - 1 - r) / r^2 on [-ln 2 / 16, ln 2 / 16], the highest power first.
EXPM1_OVER32 = 0.16668233841002621368, 0.50007836012019416963
EXPM1_OVER64 = (
    0.00019842306310742700174, 0.0013889821716398000538, 0.0083333333217604257316,
    0.041666666562509769341, 0.16666666666667010296, 0.50000000000003092689,
)  # fmt: skip


@inline
def _exp_shifted32(x, magic):
    """Tang's method (ACM TOMS 15, 1989) with 8 table entries: two multiplications fewer than a polynomial alone."""
    t = fma(x, np.float32(8.0 * LOG2_E), magic)
    n = t - magic
    r = fma(n, np.float32(-LN2_LOW32 / 8.0), fma(n, np.float32(-LN2_HIGH32 / 8.0), x))
    power = from_bits(_eighth_powers32(bits(t)) + (bits(t) << 20))
    q = fma(r, np.float32(EXPM1_OVER32[0]), np.float32(EXPM1_OVER32[1]))
    return fma(power, fma(q, r, np.float32(1.0)) * r, power)


@inline
def _exp_shifted64(x, magic):
    """The same: three multiplications fewer; polynomial 2^-57."""
    t = fma(x, 8.0 * LOG2_E, magic)
    n = t - magic
    r = fma(n, -LN2_LOW64 / 8.0, fma(n, -LN2_HIGH64 / 8.0, x))
    power = from_bits(_eighth_powers64(bits(t)) + (bits(t) << 49))
    q = fma(r, EXPM1_OVER64[0], EXPM1_OVER64[1])
    q = fma(q, r, EXPM1_OVER64[2])
    q = fma(q, r, EXPM1_OVER64[3])
    q = fma(q, r, EXPM1_OVER64[4])
    q = fma(q, r, EXPM1_OVER64[5])
    return fma(power, fma(q, r, 1.0) * r, power)


@inline
def _exp_shifted_over32(x, scale, scale_low, magic):
    t = fma(x, scale * np.float32(LOG2_E), magic)
    n = t - magic
    r = fma(x, scale_low, fma(x, scale, n * np.float32(-LN2_HIGH32)))
    return from_bits(bits(_exp_tail32(fma(n, np.float32(-LN2_LOW32), r))) + (bits(t) << 23))


@inline
def _exp_shifted_over64(x, scale, scale_low, magic):
    t = fma(x, scale * LOG2_E, magic)
    n = t - magic
    r = fma(x, scale_low, fma(x, scale, n * -LN2_HIGH64))
    return from_bits(bits(_exp_tail64(fma(n, -LN2_LOW64, r))) + (bits(t) << 52))


def exp_shifted(x, magic):
    """e^x·2^-k, where magic = rounding(x) - k·steps(x) in every lane. The result must be a normal number."""


def exp_shifted_over(x, scale, scale_low, magic):
    """e^(x·(scale + scale_low))·2^-k with magic = rounding(x) - k: for a temperature, its inverse in two words."""


@overload(exp_shifted, jit_options=INLINE)
def _exp_shifted(x, magic):
    return (
        (lambda x, magic: _exp_shifted32(x, magic))
        if simd.is_float32(x)
        else (lambda x, magic: _exp_shifted64(x, magic))
    )


@overload(exp_shifted_over, jit_options=INLINE)
def _exp_shifted_over(x, scale, scale_low, magic):
    if simd.is_float32(x):
        return lambda x, scale, scale_low, magic: _exp_shifted_over32(x, scale, scale_low, magic)
    return lambda x, scale, scale_low, magic: _exp_shifted_over64(x, scale, scale_low, magic)


@inline
def _times_exp32(factor, x, scale, scale_low, magic):
    t = fma(x, scale * np.float32(LOG2_E), magic)
    n = t - magic
    r = fma(x, scale_low, fma(x, scale, n * np.float32(-LN2_HIGH32)))
    r = fma(n, np.float32(-LN2_LOW32), r)
    power = from_bits(bits(factor) + (bits(t) << 23))
    return fma(power, _expm1_tail32(r), power)


@inline
def exp_parts32(x, scale, scale_low, magic):
    """The same in two parts: what is added to a factor's bits, and what is left of the exponential, less 1."""
    t = fma(x, scale * np.float32(LOG2_E), magic)
    n = t - magic
    r = fma(x, scale_low, fma(x, scale, n * np.float32(-LN2_HIGH32)))
    return bits(t) << 23, _expm1_tail32(fma(n, np.float32(-LN2_LOW32), r))


@inline
def _times_exp64(factor, x, scale, scale_low, magic):
    t = fma(x, scale * LOG2_E, magic)
    n = t - magic
    r = fma(x, scale_low, fma(x, scale, n * -LN2_HIGH64))
    power = from_bits(bits(factor) + (bits(t) << 52))
    return fma(power, _expm1_tail64(fma(n, -LN2_LOW64, r)), power)


def times_exp(factor, x, scale, scale_low, magic):
    """factor·e^(x·(scale + scale_low))·2^k with magic = rounding(x) + k: for a positive factor, rounded but once more.

    Both factor·2^k and the result must be normal numbers, and |x·scale| at most 1024.
    """


@overload(times_exp, jit_options=INLINE)
def _times_exp(factor, x, scale, scale_low, magic):
    if simd.is_float32(x):
        return lambda factor, x, scale, scale_low, magic: _times_exp32(factor, x, scale, scale_low, magic)
    return lambda factor, x, scale, scale_low, magic: _times_exp64(factor, x, scale, scale_low, magic)


# The constant whose addition rounds to an integer; less k, it makes exp_shifted_over leave out a factor 2^k. What
# exp_shifted adds rounds to a multiple of 1 / STEPS: there it is less k·STEPS.
rounding = simd.by_type(ROUND32, ROUND64)
steps = simd.by_type(8.0, 8.0)


@inline
def exponent_bits(x, magic):
    """Integers that order x·log2 e - k, rounded as exp_shifted does: for HIGHEST. A NaN may be anywhere."""
    return bits(fma(x, steps(x) * LOG2_E, magic))


@inline
def exponent_at(x):
    """x / ln 2, rounded to an integer: the k that brings e^x near 1. For |x| <= MODERATE (a float64)."""
    return fma(x, LOG2_E, ROUND64) - ROUND64


@inline
def times_power(x, n):
    """x·2^n in float64 for integers |n| < 2000, rounded once: in two steps, so that neither factor leaves the range."""
    half = n >> 1
    return x * from_bits((half + 1023) << 52) * from_bits((n - half + 1023) << 52)


@inline
def whole(x):
    """A float64 with an integer value, |x| < 2^51, as int64 (processors without AVX-512 lack the conversion)."""
    return bits(x + ROUND64) - ROUND64_BITS


@inline
def whole_float(n):
    """An int64, |n| < 2^51, as float64."""
    return from_bits(n + ROUND64_BITS) - ROUND64


@inline
def exp_times(factor, x, x_low, scale, scale_low, k):
    """factor·e^((x + x_low)·(scale + scale_low))·2^k in float64, for |x·scale| <= 1400 and |k| <= 800."""
    n = fma(x, scale * LOG2_E, ROUND64) - ROUND64
    r = fma(x, scale_low, fma(x, scale, n * -LN2_HIGH64))
    r = fma(n, -LN2_LOW64, fma(x_low, scale, r))
    return times_power(_exp_tail64(r) * factor, whole(n + k))


@inline
def exp(x):
    """e^x in float64."""
    clamped = simd.minimum(maximum(x, -760.0), 720.0)
    n = fma(clamped, LOG2_E, ROUND64) - ROUND64
    r = fma(n, -LN2_LOW64, fma(n, -LN2_HIGH64, clamped))
    return times_power(_exp_tail64(r), whole(select(x == x, n, 0.0)))


@inline
def expm1(x):
    """e^x - 1 in float64."""
    near = simd.minimum(maximum(x, -0.5 * LN_2), 0.5 * LN_2)
    return select(near == x, _expm1_tail64(near), exp(x) - 1.0)


@inline
def _log_parts(f, k):
    """ln(1 + f) + k·ln 2, for f in [sqrt(1/2) - 1, sqrt(2) - 1]; FreeBSD e_log.c."""
    s = f / (f + 2.0)
    z = s * s
    p = fma(z, 1.479819860511658591e-01, 1.531383769920937332e-01)
    p = fma(p, z, 1.818357216161805012e-01)
    p = fma(p, z, 2.222219843214978396e-01)
    p = fma(p, z, 2.857142874366239149e-01)
    p = fma(p, z, 3.999999999940941908e-01)
    p = fma(p, z, 6.666666666666735130e-01)
    half = f * f * 0.5
    return fma(k, LN2_HIGH64, f - (half - fma(s, fma(p, z, half), k * LN2_LOW64)))


@inline
def log(x):
    """ln x in float64: -inf at 0, NaN below."""
    return log_times_power(x, 0.0)


@inline
def log_times_power(x, power):
    """ln(x·2^power) for an integer power (a float64): exponents are added, so that their logarithms cannot cancel."""
    denormal = x < 2.2250738585072014e-308
    b = bits(select(denormal, x * 18014398509481984.0, x))  # 2^54
    n = (b - SQRT_HALF_BITS) >> 52
    k = (whole_float(n) - select(denormal, 54.0, 0.0)) + power
    result = _log_parts(from_bits(b - (n << 52)) - 1.0, k)
    result = select(x == math.inf, math.inf, result)
    return select(x > 0.0, result, select(x == 0.0, -math.inf, math.nan))


@inline
def log1p(x):
    """ln(1 + x) in float64: -inf at -1, NaN below."""
    u = x + 1.0
    b = bits(u)
    n = (b - SQRT_HALF_BITS) >> 52
    f = select(x < 2.0**60, _scaled_less_1(x, n), from_bits(b - (n << 52)) - 1.0)
    result = _log_parts(f, whole_float(n))
    result = select(x == math.inf, math.inf, result)
    return select(x > -1.0, result, select(x == -1.0, -math.inf, math.nan))


@inline
def _scaled_less_1(x, n):
    """(1 + x)·2^-n - 1, rounded once: 2^-n - 1 is exact where its last bit counts."""
    q = from_bits((1023 - n) << 52)
    return fma(x, q, q - 1.0)


def log1p_positive(x):
    """ln(1 + x) for 0 <= x < 2^126 (float32) or 2^1000 (float64)."""


@overload(log1p_positive, jit_options=INLINE)
def _log1p_positive(x):
    return (lambda x: _log1p_positive32(x)) if simd.is_float32(x) else (lambda x: _log1p_positive64(x))


@inline
def _log1p_positive64(x):
    n = (bits(x + 1.0) - SQRT_HALF_BITS) >> 52
    return _log_parts(_scaled_less_1(x, n), whole_float(n))


@inline
def _log1p_positive32(x):
    n = (bits(x + np.float32(1.0)) - SQRT_HALF_BITS32) & EXPONENT32
    q = from_bits(ONE_BITS32 - n)
    return log_parts32(fma(x, q, q - np.float32(1.0)), n)


@inline
def log_normal32(x):
    """ln x for a normal float32 up to 1."""
    n = (bits(x) - SQRT_HALF_BITS32) & EXPONENT32
    return log_parts32(from_bits(bits(x) - n) - np.float32(1.0), n)


@inline
def log1p_unit32(x):
    """ln(1 + x) for float32 0 <= x <= 1: cheaper than log1p_positive, with its error."""
    above = x > np.float32(SQRT_2 - 1.0)
    result = _log1p_tail32(select(above, fma(x, np.float32(0.5), np.float32(-0.5)), x))
    return result + select(above, fill(x, LN_2), np.float32(0.0))


@inline
def log_parts32(f, n):
    """ln(1 + f) + n·2^-23·ln 2, for f in [sqrt(1/2) - 1, sqrt(2) - 1] and a multiple of 2^23; polynomial 2^-27.8.

    One word of ln 2 will do: as a float32 it is off by 2^-28.
    """
    return fma(to_real(n), np.float32(LN_2 * 2.0**-23), _log1p_tail32(f))


@inline
def _log1p_tail32(f):
    """ln(1 + f) on the same interval, by Estrin's scheme: loops wait for its result."""
    f2 = f * f
    a = fma(f, np.float32(0.33333325692914426599), np.float32(-0.4999998834551794283))
    b = fma(f, np.float32(0.20001973947202686072), np.float32(-0.25001583056512342989))
    c = fma(f, np.float32(0.14181822827805632441), np.float32(-0.16609079961983028453))
    d = fma(f, np.float32(0.12904460689969823293), np.float32(-0.13243009362773707584))
    d = fma(f2, np.float32(-0.076217575174591502325), d)
    p = fma(fma(d, f2, c), f2 * f2, fma(b, f2, a))
    return fma(f2, p, f)


# --- float64 with the polynomials of float32: its range, and no rounding to speak of ----------------------------------


@inline
def rough_exp(x, k):
    """e^x·2^k in float64, where that is a normal number, |x| <= 2000 and k an integer."""
    magic = k + ROUND64
    t = fma(x, LOG2_E, magic)
    r = fma(t - magic, -LN_2, x)
    return from_bits(bits(_exp_tail32(r)) + (bits(t) << 52))


@inline
def rough_log1p(x):
    """ln(1 + x) in float64 for 0 <= x < 2^1000."""
    n = (bits(x + 1.0) - SQRT_HALF_BITS) >> 52
    f = _scaled_less_1(x, n)
    return fma(whole_float(n), LN_2, _log1p_tail32(f))
