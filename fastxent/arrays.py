"""Arrays of any origin: NumPy, lists, buffers, DLPack, torch, jax; Arrow and data frames by frames.py.

What has its numbers in memory as NumPy would is not copied. What does not become an array of numbers is refused here,
like every user error in one line.
"""

import sys
from contextlib import suppress
from typing import Any

import numpy as np

from fastxent.frames import ArrayOrPieces, Pieces, from_arrow, from_frame, is_arrow, is_frame

CPU_DEVICES = (1, 3, 11)  # DLPack's kDLCPU, and the CPU's memory that CUDA or ROCm pinned


def as_array(x: Any, name: str) -> tuple[np.ndarray, bool]:
    """(array, False), or (a view of the bits as int16, True) for bfloat16. Nothing is copied that need not be."""
    array, bfloat16 = as_pieces(x, name)
    return array.whole() if isinstance(array, Pieces) else array, bfloat16


def as_pieces(x: Any, name: str) -> tuple[ArrayOrPieces, bool]:
    """The same, but what is in memory in pieces stays there."""
    if type(x) is np.ndarray:
        array, bfloat16 = x, False
    else:
        array, bfloat16 = _foreign(x, name)
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # ml_dtypes' dtype, which jax uses as well
        return array.view(np.int16), True
    return array, bfloat16


def _foreign(x: Any, name: str) -> tuple[ArrayOrPieces, bool]:
    if is_tensor(x):
        return from_tensor(x, name)
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array; fill it (x.filled(...)) and mark rows to skip with ignore_index")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(f"{name}: a sparse matrix; pass x.toarray()")
    if x is None or isinstance(x, (str, bytes, dict, set, frozenset)):
        raise TypeError(f"{name}: {kind_of(x)} is no array of numbers")
    _refuse_other_devices(x, name)
    if is_frame(x):
        return from_frame(x, name), False
    if is_arrow(x):
        return from_arrow(x, name), False
    try:
        if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
            array = np.from_dlpack(x)
        else:
            array = np.asarray(x)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: {kind_of(x)} does not become an array of numbers: {_first_line(error)}") from None
    if array.dtype.kind == "O":
        raise TypeError(f"{name}: {kind_of(x)} holds objects, not numbers (missing values, or rows of unequal length?)")
    return array, False


def _refuse_other_devices(x: Any, name: str) -> None:
    """An array that is not in the CPU's memory is not copied from there behind the user's back."""
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(f"{name}: {kind_of(x)} on a GPU; copy it to the CPU first")
    device = CPU_DEVICES[0]
    if hasattr(x, "__dlpack_device__"):
        with suppress(Exception):  # spread over several, or being traced: what reads it says so
            device = int(x.__dlpack_device__()[0])
    if device not in CPU_DEVICES:
        raise TypeError(f"{name}: {kind_of(x)} on another device (DLPack's number {device}); copy it to the CPU first")


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, getattr(torch, "Tensor", ()))


def from_tensor(x: Any, name: str) -> tuple[np.ndarray, bool]:
    if x.device.type != "cpu":
        raise TypeError(f"{name}: a tensor on {x.device}; pass it with .cpu()")
    torch = sys.modules["torch"]
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError(f"{name}: a tensor that requires grad, which stops here; pass it with .detach()")
    try:
        if x.dtype is torch.bfloat16:  # unknown to NumPy: its bits
            return x.detach().view(torch.int16).numpy(), True
        return x.detach().numpy(), False
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"{name}: a tensor ({x.dtype}, {x.layout}) that NumPy cannot see: {_first_line(error)}"
        ) from None


def writable_array(out: Any) -> np.ndarray | None:
    """The memory behind an array of any library to write to, bfloat16 in ml_dtypes' type; None where there is none."""
    if isinstance(out, np.ndarray):
        return None if isinstance(out, np.ma.MaskedArray) else out
    if is_tensor(out):
        array, bfloat16 = from_tensor(out, "out")
        if bfloat16:
            from ml_dtypes import bfloat16 as dtype  # there, since it made the result's own dtype

            array = array.view(dtype)
        return array
    if not hasattr(out, "__dlpack__"):
        return None
    _refuse_other_devices(out, "out")
    try:
        return np.from_dlpack(out)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def kind_of(x: Any) -> str:
    return "None" if x is None else f"an object of type {type(x).__name__}"


def is_text(array: ArrayOrPieces) -> bool:
    """Whether an array holds strings."""
    return array.dtype.kind in "UST" or (array.dtype.kind == "O" and array.size > 0 and isinstance(array.flat[0], str))
