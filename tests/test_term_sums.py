"""Four terms at once: as accurate as stated for a row's sums, and none out of the format's range goes unseen."""

import mpmath
import numpy as np
import pytest

from fastxent.kernels import elementary
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import load, offset, pointer, store
from fastxent.kernels.rows import lanes
from fastxent.kernels.term_sums import exceeds, four_terms, nothing_seen, term_constants

EXACT = mpmath.mp.clone()
EXACT.prec = 200

DTYPES = [np.float32, np.float64]
ROUNDING = {np.float32: elementary.ROUND32, np.float64: elementary.ROUND64}
FLOOR = {np.float32: elementary.FLOOR32, np.float64: elementary.FLOOR64}


@compiled
def sums(x, magic, out, flags):
    """Row by row of four vectors; ``magic`` holds a vector for each."""
    p, m, o = pointer(x, 0), pointer(magic, 0), pointer(out, 0)
    width = lanes(p)
    for r in range(flags.size):
        row = offset(p, 4 * width * r)
        a, b, c, d = load(row, 0), load(row, width), load(row, 2 * width), load(row, 3 * width)
        total, seen = four_terms(a, b, c, d, term_constants(load(m, width * r)))
        store(o, width * r, total)
        flags[r] = exceeds(seen | nothing_seen(p), p)


def run(x, k):
    """x: rows of four vectors. Returns the sums, a vector each, and whether a term was out of range."""
    dtype = x.dtype.type
    width = 64 // x.itemsize
    magic = np.repeat(ROUNDING[dtype] - 8 * k, width).astype(dtype)
    out, flags = np.empty((len(x), width), dtype), np.empty(len(x), bool)
    sums(x.ravel(), magic, out.ravel(), flags)
    return out, flags


def worst_of(got, want):
    return max(float(abs(EXACT.mpf(float(g)) / w - 1)) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_and_their_sums_are_within_their_bounds(dtype):
    """A term: three roundings, of both factors and of their product. A sum: hardly more."""
    alone, together = 1.5, 2.0
    rng = np.random.default_rng(5)
    width, n = 64 // np.dtype(dtype).itemsize, 240
    k = rng.integers(-700, 700, n)
    x = (k[:, None] * elementary.LN_2 + rng.uniform(-3, 3, (n, 4 * width))).astype(dtype)
    halfway = (rng.integers(-30, 30, (n // 4, 4 * width)) + 0.5) / 8
    x[: n // 4] = ((k[: n // 4, None] + halfway) * elementary.LN_2).astype(dtype)
    ulp = float(np.finfo(dtype).eps)
    terms = [[EXACT.exp(float(v)) * EXACT.mpf(2) ** int(-b) for v in row] for row, b in zip(x, k, strict=True)]
    got, flags = run(x, k)
    assert not flags.any()
    want = [EXACT.fsum(row[lane::width]) for row in terms for lane in range(width)]
    assert worst_of(got.ravel(), want) <= together * ulp
    for position in range(4):
        only = np.broadcast_to((k[:, None] + FLOOR[dtype]) * elementary.LN_2, x.shape).astype(dtype)
        mine = slice(position * width, (position + 1) * width)
        only[:, mine] = x[:, mine]
        got, flags = run(only, k)
        assert not flags.any()
        assert worst_of(got.ravel(), [t for row in terms for t in row[mine]]) <= alone * ulp


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_term_out_of_range_is_seen_wherever_it_stands(dtype):
    width, top = 64 // np.dtype(dtype).itemsize, 128 if dtype is np.float32 else 1024
    kept = [FLOOR[dtype], -100, -1, 0, 1, top // 2, top - 2, top - 0.2]
    seen = [top + 0.2, top + 1, 2 * top, 3 * top + 7, 5e4, 1e9, 1e30, np.inf, np.nan, -np.nan]
    for k in (-511, -3, 0, 37, 511):
        for exponents, flag in ((kept, False), (seen, True)):
            x = np.full((len(exponents) * 4 * width, 4 * width), k * elementary.LN_2, dtype)
            for i, exponent in enumerate(exponents):
                rows = x[i * 4 * width : (i + 1) * 4 * width]
                np.fill_diagonal(rows, dtype((k + exponent) * elementary.LN_2))
            _, flags = run(x, np.full(len(x), k))
            assert (flags == flag).all()
