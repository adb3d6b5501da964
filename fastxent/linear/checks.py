"""The arguments of linear cross-entropy, checked; every user error about them is raised here or in checks."""

import math
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.arrays import as_array
from fastxent.linear.blocks import LinearBatch
from fastxent.slices import F32, F64, I64, Predictions, row_of, rows_cut

LABELS_AT_ONCE = 1 << 20  # checked together


def as_linear_batch(
    hidden: Any,
    linear_weight: Any,
    target: Any,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Any = None,
    label_smoothing: Any = 0.0,
    temperature: Any = 1.0,
    softcap: Any = None,
) -> LinearBatch:
    """Check all arguments but what is asked of the result."""
    h, w = _matrix(hidden, "hidden"), _matrix(linear_weight, "linear_weight")
    if len(w.shape) != 1:
        raise ValueError(f"linear_weight: shape {w.array.shape}; need two axes, (classes, features)")
    if w.n_classes != h.n_classes:
        flipped = "; pass its transpose" if w.n_rows == h.n_classes else ""
        raise ValueError(
            f"linear_weight: shape {w.array.shape} does not go with hidden of shape {h.array.shape}; "
            f"need (classes, {h.n_classes}){flipped}"
        )
    if w.n_rows == 0:
        raise ValueError("linear_weight: has no classes; need at least one")
    given = _bias(linear_bias, w.n_rows)
    smoothing, temperature = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    wide = F64 in {m.arithmetic for m in (h, w, given) if m is not None} or not 2.0**-20 <= temperature <= 2.0**20
    has_ignore, index = checks.as_ignore_index(ignore_index)
    return LinearBatch(
        h,
        w,
        checks.ABSENT if given is None else row_of(given, 0).astype(F64),
        given,
        _labels(target, h, w.n_rows, has_ignore, index),
        checks.as_weight(weight, w.n_rows),
        checks.as_sample_weight(sample_weight, h.shape),
        has_ignore,
        index,
        F64 if wide else F32,
        smoothing,
        temperature,
        as_softcap(softcap),
    )


def as_softcap(value: Any) -> float:
    """A positive, finite number; inf for None."""
    if value is None:
        return math.inf
    return checks.as_real(value, "softcap", 0.0, math.inf, open_low=True, open_high=True)


def _matrix(x: Any, name: str) -> Predictions:
    array, bfloat16 = as_array(x, name)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name}: shape {array.shape}; need rows of at least one feature")
    dtype = checks.float_dtype(array, bfloat16, name)
    d = array.shape[-1]
    return Predictions(name, array, array.shape[:-1], array.size // d, d, dtype, bfloat16)


def _bias(linear_bias: Any, n_classes: int) -> Predictions | None:
    if linear_bias is None:
        return None
    array, bfloat16 = as_array(linear_bias, "linear_bias")
    if array.shape != (n_classes,):
        raise ValueError(f"linear_bias: shape {array.shape}; need one number a class, shape ({n_classes},)")
    dtype = checks.float_dtype(array, bfloat16, "linear_bias")
    return Predictions("linear_bias", array, (), 1, n_classes, dtype, bfloat16)


def _labels(target: Any, hidden: Predictions, n_classes: int, has_ignore: bool, ignore_index: int) -> np.ndarray:
    """Class indices of the leading shape, every one in range or ignored."""
    array, bfloat16 = as_array(target, "target")
    if array.shape == (*hidden.shape, n_classes):
        raise ValueError(
            f"target: shape {array.shape} looks like distributions; linear_cross_entropy takes class indices alone, "
            f"shape {hidden.shape}; for distributions pass hidden @ linear_weight.T to cross_entropy"
        )
    if array.shape != hidden.shape:
        raise ValueError(
            f"target: shape {array.shape} does not go with hidden of shape {hidden.array.shape}; "
            f"need class indices of shape {hidden.shape}"
        )
    if array.size == 0 and isinstance(target, (list, tuple)):
        array = array.astype(I64)
    if array.dtype.kind not in "iu" or bfloat16:
        dtype = "bfloat16" if bfloat16 else array.dtype
        advice = "pass .astype('int64')" if array.dtype.kind in "fb" else "need integers"
        raise TypeError(f"target: dtype {dtype} cannot be class indices (shape {array.shape}, one a row); {advice}")
    for start in range(0, array.size, LABELS_AT_ONCE):
        labels = rows_cut(array, start, min(start + LABELS_AT_ONCE, array.size), I64)
        bad = (labels < 0) | (labels >= n_classes)
        if has_ignore:
            bad &= labels != ignore_index
        if bad.any():
            row = start + checks.first(bad)
            raise checks.label_error(int(array.flat[row]), checks.where(row, hidden.shape), n_classes)
    return array
