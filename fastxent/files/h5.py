"""HDF5: datasets by their paths in the file."""

from typing import Any

import numpy as np

from fastxent.files.base import ArrayFile, Box
from fastxent.files.source import Source, open_source, told_by

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class H5(ArrayFile):
    """An .h5 file."""

    def __init__(self, path: str) -> None:
        try:
            import h5py
        except ImportError:
            raise ImportError(f"{path}: reading it needs h5py: pip install 'fastxent[files]'") from None
        self.source = open_source(path)
        self.names = []

        def note(name: "str | bytes", item: Any) -> None:
            if isinstance(name, bytes):
                raise ValueError(f"the name {name!r:.60} is not UTF-8")
            if isinstance(item, h5py.Dataset):
                self.names.append(name)

        with told_by(path, ".h5"):
            _refuse_driver(self.source)
            self._file = h5py.File(self.source.for_library(), "r")
            self._file.visititems(note)

    def member(self, name: str) -> "H5Array":
        """One dataset."""
        with told_by(f"{self.path}[{name}]", "dataset"):
            return H5Array(self._file[name], f"{self.path}[{name}]")


def _refuse_driver(source: Source) -> None:
    """Refuse a file that has a driver's block, as parts of a file in several have: the library believes its size.

    The format: support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, "Superblock".
    """
    at, head = 0, bytearray(64)
    while at + len(head) <= source.size and head[:8] != _SIGNATURE:
        source.read_into([(at, memoryview(head))])
        at = max(512, 2 * at)
    version, n = head[8], head[13]  # n: bytes of an address
    place = 24 + 4 * version + 3 * n
    if head[:8] == _SIGNATURE and version < 2 and head[place : place + n] != b"\xff" * n:
        raise ValueError("a file in several, or damaged: its superblock names a driver")


class H5Array:
    """A dataset, read box by box."""

    def __init__(self, dataset: Any, label: str) -> None:
        from h5py import h5d

        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{label}: lies in other files; name those instead, with a pattern such as 'parts/*.h5'")
        if dataset.size and dataset.id.get_space_status() != h5d.SPACE_STATUS_ALLOCATED:
            raise ValueError(f"{label}: some of it was never written")
        self._dataset = dataset.asstr() if dataset.dtype.kind == "O" else dataset
        self._label = label
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype = dataset.dtype
        self.grain: tuple[int, ...] = dataset.chunks or (1,) * len(self.shape)

    def read(self, box: Box) -> np.ndarray:
        """The entries of a box."""
        with told_by(self._label, "dataset"):
            return np.asarray(self._dataset[tuple(slice(*ends) for ends in box)])
