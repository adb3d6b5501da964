"""The elementary functions against wider arithmetic: the error bounds that elementary.py states."""

import mpmath
import numpy as np
import pytest

from fastxent.kernels import elementary
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, pointer, store
from fastxent.kernels.rows import lanes, two_words
from fastxent.kernels.simd import fill, maximum

EXACT = mpmath.mp.clone()
EXACT.prec = 200

ROUNDING = {np.float32: elementary.ROUND32, np.float64: elementary.ROUND64}


@compiled
def log1p_positive(x, out):
    p, to = pointer(x, 0), pointer(out, 0)
    for i in range(0, x.size, 16):
        store(to, i, elementary.log1p_positive(load(p, i)))
        if x.itemsize == 8:
            store(to, i + 8, elementary.log1p_positive(load(p, i + 8)))


@compiled
def log_normal32(x, out):
    p, to = pointer(x, 0), pointer(out, 0)
    for i in range(0, x.size, 16):
        store(to, i, elementary.log_normal32(load(p, i)))


@compiled
def times_exp(factor, x, k, scale, scale_low, out):
    f, p, q, to = pointer(factor, 0), pointer(x, 0), pointer(k, 0), pointer(out, 0)
    scale, scale_low = fill(p, scale), fill(p, scale_low)
    for i in range(0, x.size, 16 if x.itemsize == 4 else 8):
        magic = elementary.rounding(p) + load(q, i)
        store(to, i, elementary.times_exp(load(f, i), load(p, i), scale, scale_low, magic))


def wide(x):
    """In the widest arithmetic that NumPy has: 64 bits of mantissa on x86, more than enough for float32 anywhere."""
    return np.asarray(x, np.longdouble)


def worst(got, want):
    """The largest relative error; where both are 0 there is none."""
    return float(np.max(np.abs(wide(got) - want) / np.where(want == 0, 1, np.abs(want))))


# A step through all bit patterns that shares no factor with the length of a binade.
EVERY = {np.float32: (np.int32, 2.0**126, 499), np.float64: (np.int64, 2.0**1000, 9_223_372_036_854_7)}
ULP = {np.float32: 2.0**-23, np.float64: 2.0**-52}
BOUND = {np.float32: (1.1, 1.2), np.float64: (1.0, 1.1)}  # of log1p_positive and of times_exp
EXTENDED = np.finfo(np.longdouble).nmant > 52
DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.skipif(not EXTENDED, reason="no wider arithmetic"))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_positive_over_all_binades(dtype):
    integer, end, step = EVERY[dtype]
    last = int(dtype(end).view(integer))
    patterns = np.concatenate([np.arange(0, last, step)[:-1], [0, 1, 2], last - np.arange(1, 200)])
    edges = [0.0, np.sqrt(2) - 1, 1.0, 2 * np.sqrt(2) - 1, 3.0, 2.0**24, 2.0**53]  # where the exponent n changes
    near = np.concatenate([int(dtype(x).view(integer)) + np.arange(-2000, 2000) for x in edges])
    patterns = np.concatenate([patterns, near[near >= 0]])
    x = np.resize(patterns, -(-patterns.size // 16) * 16).astype(integer).view(dtype)
    out = np.empty_like(x)
    log1p_positive(x, out)
    assert worst(out, np.log1p(wide(x))) <= BOUND[dtype][0] * ULP[dtype]
    assert not np.signbit(out).any()


def test_log_normal32_over_all_binades_up_to_1():
    first, one = 1 << 23, 127 << 23
    edges = int(np.float32(np.sqrt(0.5)).view(np.int32)) + np.arange(-5000, 5000)
    patterns = np.concatenate([np.arange(first, one, 499), one - np.arange(100_000), first + np.arange(200), edges])
    x = np.resize(patterns, -(-patterns.size // 16) * 16).astype(np.int32).view(np.float32)
    out = np.empty_like(x)
    log_normal32(x, out)
    assert worst(out, np.log(wide(x))) <= 1.1 * ULP[np.float32]
    assert not (out > 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.7, 3.1, 2.0**-10, 1000.1, -1.0])
def test_times_exp_with_its_factor_and_power(dtype, scale):
    rng = np.random.default_rng(7)
    n = 1 << 18
    high = dtype(scale)
    low = scale - float(high)
    limit = 1024.0 if dtype is np.float64 else 700.0
    x = (rng.uniform(-limit, limit, n) / scale).astype(dtype)
    x[:1024] = (rng.uniform(-1e-3, 1e-3, 1024) / scale).astype(dtype)
    exponent = wide(x) * (wide(high) + wide(dtype(low)))
    k = np.round(rng.uniform(-100, 100, n) - np.asarray(exponent / np.log(2), float)).astype(dtype)
    factor = rng.uniform(0.5, 128.0, n).astype(dtype)
    out = np.empty_like(x)
    times_exp(factor, x, k, float(high), low, out)
    # e^y·2^k in parts, as y alone may be out of range
    half = exponent / 2
    want = wide(factor) * np.exp(half) * np.ldexp(wide(1), (k // 2).astype(int))
    want = want * np.exp(half) * np.ldexp(wide(1), (k - k // 2).astype(int))
    assert worst(out, want) <= BOUND[dtype][1] * ULP[dtype]


@compiled
def rough(x, k, e, log):
    p, q, to, log_to = pointer(x, 0), pointer(k, 0), pointer(e, 0), pointer(log, 0)
    for i in range(0, x.size, 8):
        store(to, i, elementary.rough_exp(load(p, i), load(q, i)))
        store(log_to, i, elementary.rough_log1p(abs_of(load(p, i))))


@inline
def abs_of(x):
    return maximum(x, -x)


@pytest.mark.parametrize("limit", [1e-300, 1e-3, 0.4, 1.0, 30.0, 700.0, 2000.0])
def test_rough_functions_of_float64_are_good_to_float32(limit):
    rng = np.random.default_rng(8)
    x = rng.uniform(-limit, limit, 1 << 16)
    k = np.round(rng.uniform(-300, 300, x.size) - x / np.log(2))
    e, log = np.empty_like(x), np.empty_like(x)
    rough(x, k, e, log)
    assert worst(e, np.exp(wide(x) + wide(k) * np.log(wide(2)))) <= 2.0**-27.5
    assert worst(log, np.log1p(np.abs(wide(x)))) <= 2.0**-27


@compiled
def exp_shifted(x, magic, out):
    p, m, o = pointer(x, 0), pointer(magic, 0), pointer(out, 0)
    for i in range(0, x.size, lanes(p)):
        store(o, i, elementary.exp_shifted(load(p, i), load(m, i)))


@compiled
def exp_shifted_over(x, scale, scale_low, magic, out):
    p, m, o = pointer(x, 0), pointer(magic, 0), pointer(out, 0)
    factor, factor_low = two_words(p, scale, scale_low)
    for i in range(0, x.size, lanes(p)):
        store(o, i, elementary.exp_shifted_over(load(p, i), factor, factor_low, load(m, i)))


def moderate(dtype, rng):
    """Numbers of either sign up to 1024, many of them near a place where the reduction rounds the other way."""
    halfway = (rng.integers(-11000, 11000, 2048) + 0.5) / 8 * elementary.LN_2
    x = np.concatenate([rng.uniform(-1024, 1024, 1024), rng.normal(size=512), halfway, [0.0, -0.0, 1024, -1024]])
    x = np.concatenate([x, 2.0 ** -rng.integers(1, 60, 508) * rng.choice([-1, 1], 508)]).astype(dtype)
    return np.nextafter(x, rng.choice([-np.inf, np.inf], x.size).astype(dtype))


def worst_of(got, want):
    return max(float(abs(EXACT.mpf(float(g)) / w - 1)) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1.4 * 2**-23), (np.float64, 1.0 * 2**-52)])
def test_exp_shifted_is_within_its_bound_for_every_shift(dtype, bound):
    rng = np.random.default_rng(1)
    x = moderate(dtype, rng)
    largest = 120 if dtype is np.float32 else 1000  # exponents of the results, which must be normal numbers
    k = np.rint(x.astype(np.float64) * elementary.LOG2_E) + rng.integers(-largest, largest + 1, x.size)
    out = np.empty_like(x)
    exp_shifted(x, (ROUNDING[dtype] - 8 * k).astype(dtype), out)
    assert worst_of(out, [EXACT.exp(float(a)) * EXACT.mpf(2) ** int(-b) for a, b in zip(x, k)]) <= bound


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1.1 * 2**-23), (np.float64, 1.0 * 2**-52)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_exp_shifted_over_is_within_its_bound(dtype, bound, temperature):
    rng = np.random.default_rng(2)
    x = (moderate(dtype, rng) * min(temperature, 1.0) * 0.999).astype(dtype)
    scale = 1 / temperature
    scale_low = float(1 / EXACT.mpf(temperature) - EXACT.mpf(scale))
    k = np.rint(x.astype(np.float64) * scale * elementary.LOG2_E)
    out = np.empty_like(x)
    exp_shifted_over(x, scale, scale_low, (ROUNDING[dtype] - k).astype(dtype), out)
    want = [EXACT.exp(float(a) / EXACT.mpf(temperature)) * EXACT.mpf(2) ** int(-b) for a, b in zip(x, k)]
    assert worst_of(out, want) <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponent_bits_are_in_order_up_to_the_headroom_and_beyond_it(dtype):
    headroom, highest = (990, elementary.HIGHEST64) if dtype is np.float64 else (118, elementary.HIGHEST32)
    k = 37
    magic = dtype(ROUNDING[dtype] - 8 * k)
    found = []
    for exponent in (k - 100, k, k + headroom - 1, k + headroom, k + headroom + 0.2, 5e4, 1e30, np.inf):
        x = dtype(exponent * elementary.LN_2)
        found.append(elementary.exponent_bits(x, magic) > highest)
    assert found == [False] * 4 + [True] * 4
