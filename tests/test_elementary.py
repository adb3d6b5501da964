"""The elementary functions, and public functions of one number, against wider arithmetic: the bounds they state.

Here over samples of each domain; `bash ci/accuracy.sh` tries every float32 and 10^8 float64 numbers.
"""

import mpmath
import numpy as np
import pytest
from dossier import elementary as table
from dossier import sweep
from dossier.measure import CASES
from dossier.oracles import WIDE_IS_WIDER

from fastxent.kernels import elementary

EXACT = mpmath.mp.clone()
EXACT.prec = 200

ROUNDING = {np.float32: elementary.ROUND32, np.float64: elementary.ROUND64}
exp_shifted = table._shifted


def cases():
    narrow = pytest.mark.skipif(not WIDE_IS_WIDER, reason="needs an 80-bit long double")
    return [pytest.param(c, id=c.key, marks=[narrow] if c.dtype == np.float64 else []) for c in CASES.values()]


EVERY_CASE = pytest.mark.parametrize("case", cases())
LENGTHS = pytest.mark.parametrize("n", [30_000, pytest.param(3_000_000, marks=pytest.mark.slow)])


@EVERY_CASE
@LENGTHS
def test_errors_stay_within_the_bound_that_is_stated(case, n):
    (found,) = sweep.compare(case, [sweep.specials(case), *sweep.sample(case, n, seed=1)]).values()
    assert found.inputs > n
    assert found.relative <= case.bound, found
    exact, _ = sweep.recheck(case, found)["relative"]
    assert exact == pytest.approx(found.relative, abs=0.002 * case.bound)  # what the wide oracle says is so


@EVERY_CASE
def test_the_wide_oracles_err_by_less_than_a_hundredth_of_an_ulp(case):
    assert sweep.oracle_error(case, sweep.sample(case, 60, seed=2), 60) < 0.01


def test_a_sweep_covers_its_domain_once():
    case = CASES["log1p_unit32 float32"]
    first, last = sweep.patterns(case)
    whole = sweep.pieces(case, 0, whole=True)
    assert [piece[1] for piece in whole[1:]] == [piece[2] for piece in whole[:-1]]
    assert (whole[0][1], whole[-1][2]) == (0, last - first + 1)
    (end,) = sweep.every(case, whole[-1][2] - 3, whole[-1][2])
    assert end.tolist() == [1 - 2.0**-23, 1 - 2.0**-24, 1.0]
    binary = CASES["binary_cross_entropy, label 0 float32"]
    assert sweep.size_of(binary) == 2**32
    half = 2**31
    (seam,) = sweep.every(binary, half - 1, half + 1)
    assert seam.view(np.uint32).tolist() == [half - 1, half]  # the last NaN, -0.0


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
    got = exp_shifted(x, (ROUNDING[dtype] - 8 * k).astype(dtype))
    assert worst_of(got, [EXACT.exp(float(a)) * EXACT.mpf(2) ** int(-b) for a, b in zip(x, k)]) <= bound


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
