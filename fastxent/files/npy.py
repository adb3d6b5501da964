"""NumPy's .npy: read a box at a time, so that memory does not grow with the file."""

import math
from typing import IO

import numpy as np

from fastxent.files.base import ArrayFile
from fastxent.files.source import open_source
from fastxent.files.stored import StoredArray, Stretch

MOST_HEADER = 2048  # characters; 64 axes need 1500, and what is no header takes NumPy time in the square of its length


class Npy(ArrayFile):
    """A .npy file: one array, without a name."""

    at_once = can_map = True

    def __init__(self, path: str) -> None:
        self.source, self.names = open_source(path), []
        with self.source.open() as file:
            shape, fortran, stored = read_header(file, path)
            offset = file.tell()
        refuse_short(path, shape, stored, self.source.size - offset)
        self._array = StoredArray(Stretch(self.source, offset), shape, fortran, stored)

    def member(self, name: str) -> StoredArray:
        """The array itself."""
        return self._array


def read_header(file: IO[bytes], path: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of the .npy that starts here; leaves the file at its data."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in formats:
            raise ValueError(f"version {version} of the format is not supported")
        shape, fortran, dtype = formats[version](file, max_header_size=MOST_HEADER)
    except (ValueError, EOFError, SyntaxError) as error:
        detail = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ValueError(f"{path}: not a .npy, or cut off in its header ({detail})") from None
    if min(shape, default=0) < 0:
        raise ValueError(f"{path}: its header gives the shape {shape}; no axis can be negative")
    if dtype.subdtype is not None:  # arrays as entries, of no bytes at all if it likes
        raise ValueError(f"{path}: its header gives the type {dtype}; need one of single numbers")
    if dtype.hasobject:
        raise ValueError(f"{path}: holds pickled Python objects, which are never loaded; save an array of numbers")
    return shape, fortran, dtype


def refuse_short(path: str, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raise when the data is shorter than its header promises."""
    promised = math.prod(shape) * dtype.itemsize
    if size < promised:
        raise ValueError(f"{path}: truncated: its header promises {promised} bytes of data {shape}, {size} are there")
