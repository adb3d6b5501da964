"""Four vectors of terms e^x·2^-k added up, and whether each of them was in range: what a row of logits is made of.

Terms and sum are fused, as power·polynomial + sum: two additions and a rounding fewer than exp_shifted's would take.
A term is off by at most 1.5 · 2^-23 (2^-52), a sum by 2.0 of them, relatively (tests/test_term_sums.py).

The magic number of exp_shifted, and BIAS more, leaves n + BIAS in the last bits of a term's first sum: from 0 to
2·BIAS for all that is floored and within the format's exponents (128 or 1024 above k). Anything higher, and a NaN,
changes the bits before those. So the range of any number of terms is watched by one OR each, where a maximum of
integers would cost an instruction more, and in 64 bits, without AVX-512, three.
"""

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import (
    EIGHTHS,
    EXPM1_OVER32,
    EXPM1_OVER64,
    LN2_HIGH32,
    LN2_HIGH64,
    LN2_LOW32,
    LN2_LOW64,
    LOG2_E,
)
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.permutations import table
from fastxent.kernels.simd import any_lane, bits, by_type, fill, fma, from_bits, has_avx512, is_float32

BIAS32, BIAS64 = 1 << 10, 1 << 13
bias = by_type(np.float32(BIAS32), float(BIAS64))
range_mask = by_type(-2 * BIAS32, -2 * BIAS64)
in_range = by_type(
    int((elementary.ROUND32 + np.float32(BIAS32)).view(np.int32)) & (-2 * BIAS32),
    int(np.float64(elementary.ROUND64 + BIAS64).view(np.int64)) & (-2 * BIAS64),
)


def _entries(integer, real, shift, added):
    """The bits of 2^(j/8), less j and less BIAS in the place that n has after a shift, as signed integers."""
    half = 1 << 8 * np.dtype(integer).itemsize - 1
    entries = [int(real(x).view(integer)) - (j + added << shift) for j, x in enumerate(EIGHTHS)]
    return [(entry + half) % (2 * half) - half for entry in entries]


_powers32 = table(_entries(np.int32, np.float32, 20, BIAS32))
_powers64 = table(_entries(np.int64, np.float64, 49, BIAS64))


@intrinsic
def kept(typingctx, x):
    """The vector, in a register where there are 32: LLVM would load constants anew in every iteration."""

    def build(context, builder, sig, args):
        if not has_avx512(context):
            return args[0]
        return builder.asm(ir.FunctionType(args[0].type, [args[0].type]), "", "=v,0", args, False)

    return x(x), build


@inline
def _reduced(x, t, c):
    """x less its multiple of ln 2 / 8."""
    n = t - c[0]
    return fma(n, c[3], fma(n, c[2], x))


def _power(t):
    """2^(n/8 - k) from a term's first sum."""


@overload(_power, jit_options=INLINE)
def _power_of(t):
    if is_float32(t):
        return lambda t: from_bits(_powers32(bits(t)) + (bits(t) << 20))
    return lambda t: from_bits(_powers64(bits(t)) + (bits(t) << 49))


@inline
def _exp32(r, c):
    return fma(fma(fma(r, c[4], c[5]), r, c[6]), r, c[6])


@inline
def _exp64(r, c):
    q = fma(fma(fma(fma(r, c[4], c[5]), r, c[6]), r, c[7]), r, c[8])
    return fma(fma(fma(q, r, c[9]), r, c[10]), r, c[10])


def _exp(r, c):
    """e^r for what is left."""


@overload(_exp, jit_options=INLINE)
def _exp_of(r, c):
    return (lambda r, c: _exp32(r, c)) if is_float32(r) else (lambda r, c: _exp64(r, c))


def term_constants(magic):
    """What four_terms needs beside its terms, for exp_shifted's magic: once for every row."""


@overload(term_constants, jit_options=INLINE)
def _term_constants(magic):
    scale = 8.0 * LOG2_E
    if is_float32(magic):
        high, low, (c0, c1) = -LN2_HIGH32 / 8.0, -LN2_LOW32 / 8.0, EXPM1_OVER32

        def short(magic):
            first = kept(magic + bias(magic)), kept(fill(magic, scale)), kept(fill(magic, high)), kept(fill(magic, low))
            return *first, kept(fill(magic, c0)), kept(fill(magic, c1)), kept(fill(magic, 1.0))

        return short
    high, low, (c0, c1, c2, c3, c4, c5) = -LN2_HIGH64 / 8.0, -LN2_LOW64 / 8.0, EXPM1_OVER64

    def long(magic):
        first = kept(magic + bias(magic)), kept(fill(magic, scale)), kept(fill(magic, high)), kept(fill(magic, low))
        last = kept(fill(magic, c3)), kept(fill(magic, c4)), kept(fill(magic, c5)), kept(fill(magic, 1.0))
        return *first, kept(fill(magic, c0)), kept(fill(magic, c1)), kept(fill(magic, c2)), *last

    return long


def multiplied(constants, factor):
    """term_constants that make one_term's result ``factor`` times as large."""


@overload(multiplied, jit_options=INLINE)
def _multiplied(constants, factor):
    def short(constants, factor):
        magic, scale, high, low, c0, c1, _ = constants
        return magic, scale, high, low, kept(c0 * factor), kept(c1 * factor), kept(factor)

    def long(constants, factor):
        magic, scale, high, low, c0, c1, c2, c3, c4, c5, _ = constants
        more = kept(c0 * factor), kept(c1 * factor), kept(c2 * factor), kept(c3 * factor), kept(c4 * factor)
        return magic, scale, high, low, *more, kept(c5 * factor), kept(factor)

    return short if is_float32(factor) else long


@inline
def one_term(x, constants):
    """e^x·2^-k, and bits as those of four_terms."""
    t = fma(x, constants[1], constants[0])
    return _power(t) * _exp(_reduced(x, t, constants), constants), bits(t)


@inline
def four_terms(a, b, c, d, constants):
    """e^a + e^b + e^c + e^d times 2^-k, one after the other, for terms that are floored.

    Second come bits for ``exceeds``, which may be put together by |. Where it holds, the sum is anything.
    """
    total, seen, _ = four_terms_apart(a, b, c, d, constants)
    return total, seen


@inline
def four_terms_apart(a, b, c, d, constants):
    """The same, and the four terms as one_term gives them."""
    magic, scale = constants[0], constants[1]
    ta, tb, tc, td = fma(a, scale, magic), fma(b, scale, magic), fma(c, scale, magic), fma(d, scale, magic)
    seen = (bits(ta) | bits(tb)) | (bits(tc) | bits(td))
    ra, pa, rb, pb = _reduced(a, ta, constants), _power(ta), _reduced(b, tb, constants), _power(tb)
    rc, pc, rd, pd = _reduced(c, tc, constants), _power(tc), _reduced(d, td, constants), _power(td)
    ea, eb, ec, ed = _exp(ra, constants), _exp(rb, constants), _exp(rc, constants), _exp(rd, constants)
    total = fma(pd, ed, fma(pc, ec, fma(pb, eb, pa * ea)))
    return total, seen, (pa * ea, pb * eb, pc * ec, pd * ed)


@inline
def nothing_seen(like):
    """Where the bits of four_terms start from."""
    return bits(fill(like, 0.0)) | in_range(like)


@inline
def exceeds(seen, like):
    """Whether any of the terms was 2^128 (2^1024) or more, or no number."""
    return any_lane((seen & range_mask(like)) != in_range(like))
