"""Arrays of any origin: NumPy, lists, buffers, DLPack, torch, jax, Arrow, pandas and polars columns.

What has its numbers in memory as NumPy would is not copied. No library but NumPy is imported: what the user hands in
has imported its own. What does not become an array of numbers is refused here, like every user error in one line.
"""

import sys
from typing import Any

import numpy as np


def as_array(x: Any, name: str) -> tuple[np.ndarray, bool]:
    """(array, False), or (a view of the bits as int16, True) for bfloat16. Nothing is copied that need not be."""
    if type(x) is np.ndarray:
        array, bfloat16 = x, False
    else:
        array, bfloat16 = _foreign(x, name)
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # ml_dtypes' dtype, which jax uses as well
        return array.view(np.int16), True
    return array, bfloat16


def _foreign(x: Any, name: str) -> tuple[np.ndarray, bool]:
    if is_tensor(x):
        return from_tensor(x, name)
    package = type(x).__module__.partition(".")[0]
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array; fill it (x.filled(...)) and mark rows to skip with ignore_index")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(f"{name}: a sparse matrix; pass x.toarray()")
    if x is None or isinstance(x, (str, bytes, dict, set, frozenset)):
        raise TypeError(f"{name}: {kind_of(x)} is no array of numbers")
    nulls = _null_count(x) if package in ("polars", "pyarrow") else 0
    if nulls:
        raise ValueError(f"{name}: has {nulls} missing values (nulls); fill or drop them")
    try:
        array = _through_numpy(x, package)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: {kind_of(x)} does not become an array of numbers: {reason}") from None
    if array.dtype.kind == "O":
        raise TypeError(f"{name}: {kind_of(x)} holds objects, not numbers (missing values, or rows of unequal length?)")
    return array, False


def _through_numpy(x: Any, package: str) -> np.ndarray:
    if package == "pyarrow":
        kind: Any = getattr(x, "type", None)
        if hasattr(kind, "list_size"):  # a column of fixed-size lists: one row of predictions each
            x = x.combine_chunks() if hasattr(x, "combine_chunks") else x
            values = x.flatten()
            if values.null_count:
                raise ValueError(f"{values.null_count} missing values")
            return values.to_numpy(zero_copy_only=False).reshape(len(x), kind.list_size)
        if kind is not None and not hasattr(x, "columns"):
            return x.to_numpy() if hasattr(x, "chunks") else x.to_numpy(zero_copy_only=False)
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    array = np.asarray(x)
    if array.dtype.kind == "O" and package == "pandas" and hasattr(getattr(x, "dtype", None), "numpy_dtype"):
        array = x.to_numpy(dtype=x.dtype.numpy_dtype)  # nullable integers without missing values
    return array


def _null_count(x: Any) -> int:
    if hasattr(x, "columns") and not hasattr(x, "null_count"):  # pyarrow.Table
        return sum(column.null_count for column in x.columns)
    count = getattr(x, "null_count", 0)
    count = count() if callable(count) else count
    return sum(count.row(0)) if hasattr(count, "row") else count  # polars: a frame of one row


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, getattr(torch, "Tensor", ()))


def from_tensor(x: Any, name: str) -> tuple[np.ndarray, bool]:
    if x.device.type != "cpu":
        raise TypeError(f"{name}: a tensor on {x.device}; pass it with .cpu()")
    try:
        if str(x.dtype) == "torch.bfloat16":  # unknown to NumPy: its bits
            return x.detach().view(sys.modules["torch"].int16).numpy(), True
        return x.detach().numpy(), False
    except (RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise TypeError(f"{name}: a tensor ({x.dtype}, {x.layout}) that NumPy cannot see: {reason}") from None


def kind_of(x: Any) -> str:
    return "None" if x is None else f"an object of type {type(x).__name__}"
