"""The elementary functions against wider arithmetic: the error bounds that elementary.py states."""

import numpy as np
import pytest

from fastxent.kernels import elementary
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import load, pointer, store
from fastxent.kernels.simd import fill


@compiled
def log1p_positive(x, out):
    p, to = pointer(x, 0), pointer(out, 0)
    for i in range(0, x.size, 16):
        store(to, i, elementary.log1p_positive(load(p, i)))
        if x.itemsize == 8:
            store(to, i + 8, elementary.log1p_positive(load(p, i + 8)))


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
