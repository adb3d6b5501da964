"""The public kernels in a user's own compiled code: the bits of the functions on arrays, parallel or not, cached."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import fastxent
from fastxent.kernels import (
    exact_sum_add,
    exact_sum_merge,
    exact_sum_new,
    exact_sum_value,
    row_cross_entropy,
    row_gradient,
    row_logsumexp,
    row_softmax,
)

ROOT = Path(__file__).parent.parent


def users(parallel):
    """A user's functions around each kernel."""
    prange = numba.prange

    @numba.njit(parallel=parallel)
    def every(z, y, lse, nll, q, gradient, losses):
        for i in prange(len(z)):
            lse[i] = row_logsumexp(z[i])
            nll[i] = row_cross_entropy(z[i], y[i])
            row_softmax(z[i], q[i])
            losses[i] = row_gradient(z[i], y[i], 0.5, gradient[i])

    @numba.njit(parallel=parallel)
    def total(values):
        states = np.zeros((4, exact_sum_new().size), np.int64)
        for k in prange(4):
            for i in range(k, len(values), 4):
                exact_sum_add(states[k], values[i])
        whole = exact_sum_new()
        for k in range(4):
            exact_sum_merge(whole, states[k])
        return exact_sum_value(whole)

    return every, total


@pytest.mark.parametrize(("dtype", "parallel"), [(np.float32, False), (np.float64, True)])
def test_a_users_own_function_gets_the_bits_of_the_functions_on_arrays(dtype, parallel):
    every, total = users(parallel)
    for c in (1, 3, 10, 65, 300):
        rng = np.random.default_rng(c)
        z, y = (5 * rng.standard_normal((40, c))).astype(dtype), rng.integers(0, c, 40)
        z[3], z[4, 0], z[5] = -np.inf, np.nan, 1e8
        lse, nll, losses, q, gradient = np.empty(40), np.empty(40), np.empty(40), np.empty_like(z), np.empty_like(z)
        every(z, y, lse, nll, q, gradient, losses)
        want, want_gradient = fastxent.cross_entropy_value_and_grad(z, y, reduction="none", grad_scale=0.5)
        np.testing.assert_array_equal(lse, fastxent.logsumexp(z))
        np.testing.assert_array_equal(nll, fastxent.cross_entropy(z, y, reduction="none"))
        np.testing.assert_array_equal(losses, want)
        np.testing.assert_array_equal(q, fastxent.softmax(z))
        np.testing.assert_array_equal(gradient, want_gradient)
    if dtype == np.float64:
        values = rng.standard_normal(1000) * 10.0 ** rng.integers(-200, 200, 1000)
        assert total(values) == math.fsum(values)


def test_narrow_rows_are_given_as_their_bits():
    z = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float16)
    for row in z:
        bits, q = row.view(np.uint16), np.empty(30, np.uint16)
        row_softmax(bits, q)
        assert np.array_equal(q.view(np.float16), fastxent.softmax(row))
        assert row_logsumexp(bits) == fastxent.logsumexp(row)


def test_what_does_not_fit_is_refused():
    z = np.zeros(3)
    assert np.isnan(row_cross_entropy(z, 3))
    assert np.isnan(row_cross_entropy(z, -1))
    out = np.full(3, 7.0)
    assert np.isnan(row_gradient(z, 3, 1.0, out))
    assert (out == 7).all()
    with pytest.raises(ValueError, match="out: its size"):
        row_softmax(z, np.empty(4))
    with pytest.raises(numba.core.errors.TypingError, match="out: array"):
        row_softmax(z, np.empty(3, np.float32))


def test_a_users_cache_serves_a_later_process(tmp_path):
    """The second process loads the machine code, and gets the same bits."""
    (tmp_path / "user.py").write_text(
        "import numba\nfrom fastxent.kernels import exact_sum_add, exact_sum_new, exact_sum_value, row_cross_entropy\n"
        "@numba.njit(cache=True)\n"
        "def total(z, y):\n"
        "    state = exact_sum_new()\n"
        "    for i in range(len(z)):\n"
        "        exact_sum_add(state, row_cross_entropy(z[i], y[i]))\n"
        "    return exact_sum_value(state)\n"
    )
    program = (
        "import numpy as np, fastxent, user\n"
        "z = np.random.default_rng(0).standard_normal((50, 20)).astype('f4')\n"
        "y = np.arange(50) % 20\n"
        "assert user.total(z, y) == fastxent.cross_entropy(z, y, reduction='sum')\n"
        "print(sum(user.total.stats.cache_hits.values()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    hits = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        hits.append(int(done.stdout))
    assert hits == [0, 1]


def test_importing_the_package_of_kernels_does_not_import_numba():
    program = "import sys, fastxent, fastxent.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
