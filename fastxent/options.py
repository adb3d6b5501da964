"""Options that are single values: each comes back as what the kernels take, or as an error in one line."""

import math
import operator
from typing import Any

import numpy as np

from fastxent.slices import INT64_MAX

REDUCTIONS = ("none", "sum", "mean")
KINDS = ("logits", "log_probs", "probs")  # a kind's position is its code in the kernels


def as_ignore_index(value: Any) -> tuple[bool, int]:
    """(given, value)."""
    if value is None:
        return False, 0
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__") or getattr(value, "ndim", 0) != 0:
        raise TypeError(f"ignore_index: {value!r:.60} is not an integer")
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index: {value!r:.60} is not an integer") from None
    if not -INT64_MAX <= index < INT64_MAX:
        raise ValueError(f"ignore_index: {index} does not fit in 64 bits")
    return True, index


def as_reduction(value: Any) -> str:
    """One of REDUCTIONS."""
    return _one_of(value, "reduction", REDUCTIONS)


def as_kind(value: Any) -> int:
    """The kernels' code of a kind of predictions."""
    return KINDS.index(_one_of(value, "kind", KINDS))


def _one_of(value: Any, name: str, names: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in names:
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name}: {value!r:.60} is not one of {', '.join(map(repr, names))}")


def as_real(
    value: Any, name: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """A number between low and high, as a float."""
    if type(value) is not float:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name}: {value!r:.60} is not a number")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name}: a number of {len(bin(value)) - 2} bits is outside of floating point") from None
    if (low < value if open_low else low <= value) and (value < high if open_high else value <= high):
        return value
    ends = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise ValueError(f"{name}: {value!r} is outside {ends}")


def as_whole(value: Any, name: str, low: int, high: int = INT64_MAX // 2) -> int:
    """An integer from low to high."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: {value!r:.60} is not an integer")
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError(f"{name}: {number} is outside {low}..{high}")
    return number


def as_temperature(value: Any) -> float:
    """A positive, finite number."""
    if type(value) is float and 0.0 < value < math.inf:
        return value
    return as_real(value, "temperature", 0.0, math.inf, open_low=True, open_high=True)


def as_smoothing(value: Any) -> float:
    """A number in [0, 1]."""
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    return as_real(value, "label_smoothing", 0.0, 1.0)


def as_eps(value: Any) -> float:
    """A number in [0, 0.5)."""
    return as_real(value, "eps", 0.0, 0.5, open_high=True)


def as_gamma(value: Any) -> float:
    """A number in [0, 100]."""
    return as_real(value, "gamma", 0.0, 100.0)


def as_log_loss_options(eps: Any, normalize: Any, sum_tol: Any) -> tuple[float, bool, float]:
    """(eps in [0, 0.5), normalize, sum_tol >= 0)."""
    return as_eps(eps), as_flag(normalize, "normalize"), as_real(sum_tol, "sum_tol", 0.0, math.inf)


def as_flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {value!r:.60} is neither True nor False")
    return bool(value)


def as_pos_weight(value: Any) -> float:
    """A finite number of at least 0; 1 for None."""
    return 1.0 if value is None else as_real(value, "pos_weight", 0.0, math.inf, open_high=True)
