"""Zarr, of format 2 and 3: arrays by their paths in the store, a folder here or elsewhere."""

import math
from typing import Any

import numpy as np

from fastxent.files.base import ArrayFile, Box
from fastxent.files.source import Folder, told_by

_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")


class Zarr(ArrayFile):
    """A .zarr store: one array, or a group of them."""

    at_once = True

    def __init__(self, path: str) -> None:
        try:
            import zarr
        except ImportError:
            raise ImportError(f"{path}: reading it needs zarr: pip install 'fastxent[files]'") from None
        self.source = folder = Folder(path)
        self._n_files = folder.n_files
        with told_by(path, ".zarr"):
            opened: Any = zarr.open(path.rstrip("/"), mode="r")
            self._store = _checked(opened.store, folder)
            self._root: Any = zarr.open(self._store, path=opened.path, mode="r")
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
            array = self._root[name] if name else self._root
            if any("Blosc" in type(codec).__name__ + str(codec) for codec in array.compressors):
                self._store.blosc += (array.path,)
            return ZarrArray(array, label, self._n_files)


def _checked(store: Any, folder: Folder) -> Any:
    """The store, with an error for a file changed meanwhile, and for a chunk that is cut off.

    Blosc would read past such a chunk's end and make numbers of that.
    """
    from zarr.storage import WrapperStore

    class Checked(WrapperStore):  # type: ignore[type-arg]
        blosc: tuple[str, ...] = ()  # paths of arrays

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            value = await super().get(key, prototype, byte_range)
            if value is not None:
                folder.refuse_changed_file(key)
            if value is None or byte_range is not None or not key.startswith(self.blosc) or key.endswith(_METADATA):
                return value
            size = int.from_bytes(value.as_numpy_array()[12:16].tobytes(), "little")  # as its header says
            if size != len(value):
                raise ValueError(f"{key} has {len(value)} bytes, its header says {size}")
            return value

    return Checked(store)


def _prototype() -> Any:
    """How zarr takes memory: a chunk that is the whole box is that, not copied into it."""
    from zarr.core.buffer import BufferPrototype
    from zarr.core.buffer.cpu import Buffer, NDBuffer

    class Taking(NDBuffer):
        _data: Any

        @classmethod
        def empty(cls, shape: Any, dtype: Any, order: Any = "C") -> Any:
            nothing: Any = np.broadcast_to(np.empty((), dtype), shape)  # no memory yet
            return cls(nothing)

        def __setitem__(self, key: Any, value: Any) -> None:
            if isinstance(value, NDBuffer) and value.shape == self.shape and value.dtype == self.dtype:
                self._data = value._data
                return
            if not self._data.flags.writeable:
                self._data = np.empty(self.shape, self.dtype)
            super().__setitem__(key, value)

    return BufferPrototype(buffer=Buffer, nd_buffer=Taking)


class ZarrArray:
    """An array of a store, read box by box."""

    def __init__(self, array: Any, label: str, n_files: int) -> None:
        self._array, self._label = array, label
        self._prototype = _prototype() if array.shards is None else None  # shards take zarr's own alone
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype = np.dtype(array.dtype)
        self.grain: tuple[int, ...] = array.shards or array.chunks
        codecs = [*(array.filters or ()), *array.compressors]
        if any("pickle" in f"{type(codec).__name__} {codec}".lower() for codec in codecs):
            raise ValueError(f"{label}: holds pickled Python objects, which are never loaded")
        there, all_of_it = n_files, math.prod(-(-n // grain) for n, grain in zip(self.shape, self.grain))
        if all_of_it <= n_files:  # else zarr would look for every one, of as many as the shape speaks of
            there, all_of_it = array.nchunks_initialized, array.nchunks
        if there < all_of_it:  # zarr would make them up
            raise ValueError(
                f"{label}: {all_of_it - there} of {all_of_it} chunks are missing; if they are left out for being all"
                " fill value, write it with write_empty_chunks=True"
            )

    def read(self, box: Box) -> np.ndarray:
        """The entries of a box."""
        with told_by(self._label, "zarr array"):
            slices = tuple(slice(*ends) for ends in box)
            return np.asarray(self._array.get_basic_selection(slices, prototype=self._prototype))
