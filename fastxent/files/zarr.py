"""Zarr, of format 2 and 3: arrays by their paths in the store, a folder here or elsewhere."""

from typing import Any

import numpy as np

from fastxent.files.base import ArrayFile, Box
from fastxent.files.source import Folder, told_by


class Zarr(ArrayFile):
    """A .zarr store: one array, or a group of them."""

    def __init__(self, path: str) -> None:
        try:
            import zarr
        except ImportError:
            raise ImportError(f"{path}: reading it needs zarr: pip install 'fastxent[files]'") from None
        self.source = Folder(path)
        with told_by(path, ".zarr"):
            self._root: Any = zarr.open(path.rstrip("/"), mode="r")
            self.names = []
            if isinstance(self._root, zarr.Group):
                members = self._root.members(max_depth=None)
                self.names = sorted(name for name, member in members if isinstance(member, zarr.Array))
                if not self.names:
                    raise ValueError("it holds no array")

    def member(self, name: str) -> "ZarrArray":
        """One array."""
        label = f"{self.path}[{name}]" if name else self.path
        with told_by(label, "zarr array"):
            return ZarrArray(self._root[name] if name else self._root, label)


class ZarrArray:
    """An array of a store, read box by box."""

    def __init__(self, array: Any, label: str) -> None:
        self._array, self._label = array, label
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype = np.dtype(array.dtype)
        self.grain: tuple[int, ...] = array.shards or array.chunks
        there, all_of_it = array.nchunks_initialized, array.nchunks
        if there < all_of_it:  # zarr would make them up
            raise ValueError(
                f"{label}: {all_of_it - there} of {all_of_it} chunks are missing; if they are left out for being all"
                " fill value, write it with write_empty_chunks=True"
            )

    def read(self, box: Box) -> np.ndarray:
        """The entries of a box."""
        with told_by(self._label, "zarr array"):
            return np.asarray(self._array[tuple(slice(*ends) for ends in box)])
