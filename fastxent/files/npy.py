"""NumPy's .npy: memory-mapped, a window at a time, so that neither memory nor address space grows with the file."""

import math
import os
from typing import IO, Literal

import numpy as np

from fastxent.files.base import ml_bfloat16


class Npy:
    """A .npy file: one array, without a name."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.names: list[str] = []
        with open(path, "rb") as file:
            self.shape, self._fortran, self._stored = read_header(file, path)
            self._offset = file.tell()
            size = os.fstat(file.fileno()).st_size - self._offset
        refuse_short(path, self.shape, self._stored, size)
        self.dtype = widened_dtype(self._stored)

    def member(self, name: str) -> "Npy":
        """The array itself."""
        return self

    def window(self, start: int, stop: int, axis: int) -> np.ndarray:
        """Entries start to stop on ``axis``: a read-only view of the file, unmapped with its last reference."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype).take(range(start, stop), axis)
        if axis == 0 and not self._fortran:
            shape = (stop - start, *self.shape[1:])
            offset = self._offset + start * math.prod(self.shape[1:]) * self._stored.itemsize
            return self._map(offset, shape)
        index = (*[slice(None)] * axis, slice(start, stop))
        return self._map(self._offset, self.shape)[index]

    def _map(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        if not math.prod(shape):
            return np.empty(shape, self.dtype)
        order: Literal["C", "F"] = "F" if self._fortran else "C"
        mapped = np.memmap(self.path, self._stored, "r", offset=offset, shape=shape, order=order)
        return mapped.view(np.ndarray).view(self.dtype)


def read_header(file: IO[bytes], path: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of the .npy that starts here; leaves the file at its data."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in formats:
            raise ValueError(f"version {version} of the format is not supported")
        shape, fortran, dtype = formats[version](file)
    except (ValueError, EOFError, SyntaxError) as error:
        detail = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: not a .npy, or cut off in its header ({detail})") from None
    if dtype.hasobject:
        raise ValueError(f"{path}: holds pickled Python objects, which are never loaded; save an array of numbers")
    return shape, fortran, dtype


def widened_dtype(stored: np.dtype) -> np.dtype:
    """The dtype to see the data as: np.save writes ml_dtypes' bfloat16 as an anonymous type of 2 bytes, V2."""
    return ml_bfloat16() if stored.kind == "V" and stored.names is None and stored.itemsize == 2 else stored


def refuse_short(path: str, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raise when the data is shorter than its header promises."""
    promised = math.prod(shape) * dtype.itemsize
    if size < promised:
        raise ValueError(f"{path}: truncated: its header promises {promised} bytes of data {shape}, {size} are there")
