"""Numba kernels. Public are those that work on one row, and the exact sums, for your own compiled code: see `public`.

>>> from fastxent.kernels import row_cross_entropy

The others, on tiles and slices of rows, are the package's own and may change. Nothing is imported before it is used,
except for `sources`, which must be first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastxent.kernels import sources  # noqa: F401

if TYPE_CHECKING:
    from fastxent.kernels.public import (
        exact_sum_add,
        exact_sum_merge,
        exact_sum_new,
        exact_sum_value,
        row_cross_entropy,
        row_gradient,
        row_logsumexp,
        row_softmax,
    )

__all__ = [
    "exact_sum_add",
    "exact_sum_merge",
    "exact_sum_new",
    "exact_sum_value",
    "row_cross_entropy",
    "row_gradient",
    "row_logsumexp",
    "row_softmax",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.public"), name)
