"""Every elementary function of fastxent.kernels: over what inputs, within what bound, against what, beside whose.

Where a function takes more than x, a case chooses it as a function of x, so that x alone says what was computed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dossier.errors import EXACT, Limits
from dossier.oracles import exp_by_power, quotient, wide
from fastxent.kernels import elementary
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import load, pointer, store
from fastxent.kernels.rows import lanes, two_words
from fastxent.kernels.simd import fill

F32, F64 = np.float32, np.float64


@dataclass(frozen=True)
class Case:
    """A function of one number."""

    name: str
    dtype: type
    low: float  # |x| from
    high: float  # to, both included
    signs: tuple[int, ...]
    bound: float  # largest relative error stated, in the dtype's epsilon
    ours: Callable[[np.ndarray], np.ndarray]
    wide: Callable[[np.ndarray], np.ndarray]
    exact: Callable[[float], Any]
    peers: dict[str, str] = field(default_factory=dict)  # library -> the name of its function, in peers.py
    result: type | None = None  # the result's dtype, if not the input's
    peers_on: Callable[[np.ndarray], np.ndarray] | None = None  # inputs that a peer's function means the same for
    seams: tuple[float, ...] = ()  # distances between the places where the reduction changes
    special: bool = False  # also NaN and the infinities
    sampled: bool = False  # even where all numbers could be tried

    @property
    def key(self):
        """What names it in the record."""
        return f"{self.name} {np.dtype(self.dtype).name}"

    @property
    def limits(self):
        """The unit of errors; where the result's type begins to lose digits; where it ends."""
        return Limits.of(self.dtype, self.result or self.dtype)


def over(function):
    """A loop over an array whose length is a multiple of 16."""

    @compiled
    def run(x, out):
        p, to = pointer(x, 0), pointer(out, 0)
        for i in range(0, x.size, lanes(p)):
            store(to, i, function(load(p, i)))

    return run


def over_two(function):
    """The same for a function of two vectors."""

    @compiled
    def run(x, k, out):
        p, q, to = pointer(x, 0), pointer(k, 0), pointer(out, 0)
        for i in range(0, x.size, lanes(p)):
            store(to, i, function(load(p, i), load(q, i)))

    return run


@compiled
def run_exp_shifted_over(x, scale, scale_low, magic, out):
    p, m, to = pointer(x, 0), pointer(magic, 0), pointer(out, 0)
    factor, factor_low = two_words(p, scale, scale_low)
    for i in range(0, x.size, lanes(p)):
        store(to, i, elementary.exp_shifted_over(load(p, i), factor, factor_low, load(m, i)))


@compiled
def run_times_exp(factor, x, scale, scale_low, magic, out):
    f, p, m, to = pointer(factor, 0), pointer(x, 0), pointer(magic, 0), pointer(out, 0)
    scale, scale_low = fill(p, scale), fill(p, scale_low)
    for i in range(0, x.size, lanes(p)):
        store(to, i, elementary.times_exp(load(f, i), load(p, i), scale, scale_low, load(m, i)))


def called(run):
    """Make a function of arrays out of a loop that writes."""

    def call(x, *more):
        size = len(x)
        x, *more = (np.resize(a, -(-size // 16) * 16) if size % 16 else a for a in (x, *more))
        out = np.empty_like(x)
        run(x, *more, out)
        return out[:size]

    return call


_shifted = called(over_two(elementary.exp_shifted))
_ROUND = {F32: elementary.ROUND32, F64: elementary.ROUND64}
_NORMAL = {F32: 87.0, F64: 708.0}  # e^x is a normal number to here


def power_near(x, temperature=1.0):
    """k for e^(x/T)·2^-k: 0 where that is a normal number, else what brings it near 1."""
    exponent = x.astype(F64) / temperature
    return np.where(np.abs(exponent) < _NORMAL[x.dtype.type], 0, np.rint(exponent / np.log(2))).astype(np.int64)


def factor_of(x):
    """Some factor in [0.5, 128) and power from -100 to 99: a function of x's bits."""
    word = x.view(np.uint32 if x.itemsize == 4 else np.uint64)
    mixed = (word.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    factor = 0.5 + (mixed & np.uint64(0xFFFFFFFF)).astype(F64) * (127.5 / 2**32)
    return factor.astype(x.dtype), (mixed >> np.uint64(32)).astype(np.int64) % 200 - 100


def shifted(x):
    k = power_near(x)
    return _shifted(x, (_ROUND[x.dtype.type] - 8 * k).astype(x.dtype))


def shifted_wide(x):
    return exp_by_power(wide(x), -power_near(x))


def shifted_exact(dtype):
    def exact(x):
        return EXACT.exp(EXACT.mpf(x)) * EXACT.mpf(2) ** -int(power_near(np.array([x], dtype))[0])

    return exact


def words_of(temperature):
    """1/T in two words."""
    scale = 1 / temperature
    return scale, float(1 / EXACT.mpf(temperature) - EXACT.mpf(scale))


def shifted_over(temperature):
    scale, scale_low = words_of(temperature)
    call = called(lambda x, magic, out: run_exp_shifted_over(x, scale, scale_low, magic, out))
    return lambda x: call(x, (_ROUND[x.dtype.type] - power_near(x, temperature)).astype(x.dtype))


def shifted_over_wide(temperature):
    def of(x):
        high, low = quotient(wide(x), temperature)
        return exp_by_power(high, -power_near(x, temperature)) * (1 + low)

    return of


def shifted_over_exact(temperature, dtype):
    def exact(x):
        k = int(power_near(np.array([x], dtype), temperature)[0])
        return EXACT.exp(EXACT.mpf(x) / EXACT.mpf(temperature)) * EXACT.mpf(2) ** -k

    return exact


def times(temperature):
    scale, scale_low = words_of(temperature)

    def call(x):
        factor, k = factor_of(x)
        k -= np.rint(x.astype(F64) * (scale / np.log(2))).astype(np.int64)
        magic = (_ROUND[x.dtype.type] + k).astype(x.dtype)
        high, low = float(x.dtype.type(scale)), scale - float(x.dtype.type(scale)) + scale_low
        return called(lambda x, f, m, out: run_times_exp(f, x, high, low, m, out))(x, factor, magic)

    return call


def times_wide(temperature):
    def of(x):
        factor, k = factor_of(x)
        k -= np.rint(x.astype(F64) * (1 / temperature / np.log(2))).astype(np.int64)
        high, low = quotient(wide(x), temperature)
        return exp_by_power(high, k) * (1 + low) * wide(factor)

    return of


def times_exact(temperature, dtype):
    def exact(x):
        one = np.array([x], dtype)
        factor, k = factor_of(one)
        k = int(k[0]) - int(np.rint(float(one[0]) * (1 / temperature / np.log(2))))
        return EXACT.mpf(float(factor[0])) * EXACT.exp(EXACT.mpf(x) / EXACT.mpf(temperature)) * EXACT.mpf(2) ** k

    return exact


def rough_exp(x):
    return _rough_exp(x, -np.rint(x / np.log(2)))


_rough_exp = called(over_two(elementary.rough_exp))
BOTH, PLUS = (1, -1), (1,)
LN2 = float(np.log(2))
ROOT_SEAMS = (2**0.5 - 1,)


def _cases():
    for dtype in (F32, F64):
        exp_peers = dict.fromkeys(("NumPy", "torch", "jax"), "exp")
        log1p_peers = dict.fromkeys(("NumPy", "SciPy", "torch", "jax"), "log1p")
        single = dtype is F32
        yield Case("exp_shifted", dtype, 0.0, 1024.0, BOTH, 1.4 if single else 1.0, shifted, shifted_wide,
                   shifted_exact(dtype), exp_peers, seams=(LN2 / 16,),
                   peers_on=lambda x: power_near(x) == 0)  # fmt: skip
        for t in (0.7, 3.0, 2.0**-10, 1000.1, -1.0):
            high = float(np.nextafter(dtype(1024 * abs(t)), dtype(0)))
            rare = t not in (0.7, 3.0)
            yield Case(f"exp_shifted_over, T = {t:g}", dtype, 0.0, high, BOTH, 1.1 if single else 1.0,
                       shifted_over(t), shifted_over_wide(t), shifted_over_exact(t, dtype),
                       seams=(LN2 / 2 * abs(t),), sampled=rare)  # fmt: skip
            yield Case(f"times_exp, T = {t:g}", dtype, 0.0, high, BOTH, 1.2 if single else 1.1, times(t),
                       times_wide(t), times_exact(t, dtype), seams=(LN2 / 2 * abs(t),),
                       sampled=rare)  # fmt: skip
        yield Case("log1p_positive", dtype, 0.0, float(np.nextafter(dtype(2.0 ** (126 if single else 1000)), dtype(0))),
                   PLUS, 1.13 if single else 1.0, called(over(elementary.log1p_positive)), lambda x: np.log1p(wide(x)),
                   lambda x: EXACT.log1p(EXACT.mpf(x)), log1p_peers, seams=ROOT_SEAMS)  # fmt: skip
    yield Case("log_normal32", F32, 2.0**-126, 1.0, PLUS, 1.1, called(over(elementary.log_normal32)),
               lambda x: np.log(wide(x)), lambda x: EXACT.log(EXACT.mpf(x)),
               dict.fromkeys(("NumPy", "torch", "jax"), "log"))  # fmt: skip
    yield Case("log1p_unit32", F32, 0.0, 1.0, PLUS, 1.13, called(over(elementary.log1p_unit32)),
               lambda x: np.log1p(wide(x)), lambda x: EXACT.log1p(EXACT.mpf(x)), seams=ROOT_SEAMS)  # fmt: skip
    largest = float(np.finfo(F64).max)
    yield Case("exp", F64, 0.0, largest, BOTH, 1.1, called(over(elementary.exp)), lambda x: np.exp(clipped(x)),
               lambda x: EXACT.exp(EXACT.mpf(min(max(x, -1e4), 1e4))), dict.fromkeys(("NumPy", "torch", "jax"), "exp"),
               seams=(LN2 / 2,), special=True)  # fmt: skip
    yield Case("expm1", F64, 0.0, largest, BOTH, 2.2, called(over(elementary.expm1)), lambda x: np.expm1(clipped(x)),
               lambda x: EXACT.expm1(EXACT.mpf(min(max(x, -1e4), 1e4))),
               dict.fromkeys(("NumPy", "SciPy", "torch", "jax"), "expm1"), seams=(LN2 / 2,), special=True)  # fmt: skip
    yield Case("log", F64, 0.0, largest, PLUS, 1.0, called(over(elementary.log)), lambda x: np.log(wide(x)),
               lambda x: EXACT.log(EXACT.mpf(x)), dict.fromkeys(("NumPy", "torch", "jax"), "log"),
               special=True)  # fmt: skip
    yield Case("log1p", F64, 0.0, largest, PLUS, 1.0, called(over(elementary.log1p)), lambda x: np.log1p(wide(x)),
               lambda x: EXACT.log1p(EXACT.mpf(x)), dict.fromkeys(("NumPy", "SciPy", "torch", "jax"), "log1p"),
               seams=ROOT_SEAMS, special=True)  # fmt: skip
    yield Case("log1p, negative", F64, 0.0, 1.0, (-1,), 1.0, called(over(elementary.log1p)),
               lambda x: np.log1p(wide(x)), lambda x: EXACT.log1p(EXACT.mpf(x)),
               dict.fromkeys(("NumPy", "SciPy", "torch", "jax"), "log1p"))  # fmt: skip
    unit = 2.0**-28 / float(np.finfo(F64).eps)
    yield Case("rough_exp", F64, 0.0, 1300.0, BOTH, 1.2 * unit, rough_exp,
               lambda x: exp_by_power(wide(x), -np.rint(x / LN2).astype(np.int64)),
               lambda x: EXACT.exp(EXACT.mpf(x)) * EXACT.mpf(2) ** -int(np.rint(x / LN2)),
               seams=(LN2 / 2,))  # fmt: skip
    yield Case("rough_log1p", F64, 0.0, float(np.nextafter(2.0**1000, 0)), PLUS, 2 * unit,
               called(over(elementary.rough_log1p)), lambda x: np.log1p(wide(x)),
               lambda x: EXACT.log1p(EXACT.mpf(x)), seams=ROOT_SEAMS)  # fmt: skip


def clipped(x):
    """Wide, and within what long doubles hold e^x of."""
    return np.clip(wide(x), -2000, 2000)


CASES = {case.key: case for case in _cases()}
