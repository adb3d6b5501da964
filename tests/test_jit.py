"""The decorators of kernels, on small functions of this file."""

import numpy as np
import pytest
from numba import types

from fastxent.kernels.jit import REGISTER, chunk, compiled, inline, parallel, prange


@inline
def square(x):
    return x * x


@inline
def square_or_less(x, least):
    if x < least:
        return least
    return square(x)


@compiled
def sum_of_squares(values):
    total = 0.0
    for i in range(values.size):
        total += square_or_less(values[i], -1.0)
    return total


@parallel
def squares(values, out):
    for i in prange(values.size):
        out[i] = square_or_less(values[i], -1.0)


def test_kernels_call_inline_functions():
    values = np.arange(100.0)
    out = np.empty(100)
    squares(values, out)
    np.testing.assert_array_equal(out, values**2)
    assert sum_of_squares(values) == 328350.0


def test_python_calls_inline_functions_before_and_after_kernels_do():
    assert square(3) == 9
    sum_of_squares(np.arange(3.0))
    assert square(3.0) == 9.0
    assert square_or_less(-2.0, least=-1.0) == -1.0


def test_a_users_kernel_calls_inline_functions():
    from numba import njit

    @njit
    def fourth_power(x):
        return square(square(x))

    assert fourth_power(3.0) == 81.0


def test_division_by_zero_is_numpys():
    @compiled
    def quotient(a, b):
        return a / b

    assert quotient(1.0, 0.0) == np.inf


def test_inline_functions_report_type_errors():
    from numba.core.errors import TypingError

    @compiled
    def wrong(x):
        return square(x)

    with pytest.raises(TypingError):
        wrong("a")


def test_functions_from_elsewhere_are_neither_cached_nor_registered():
    sum_of_squares(np.arange(3.0))
    assert sum_of_squares._cache.cache_path is None
    assert not any("test_jit" in name for name in REGISTER)


def test_a_chunk_function_refuses_to_be_called_by_python():
    @chunk
    def increment(numbers):
        numbers[0] += 1

    with pytest.raises(TypeError, match="increment: Python cannot call it"):
        increment(np.zeros(1, np.int64))
    increment.compile((types.int64[::1],))
    with pytest.raises(TypeError, match="increment: Python cannot call it"):
        increment(np.zeros(1, np.int64))
