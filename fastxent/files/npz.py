"""NumPy's .npz: members by name, each streamed out of the archive."""

import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import IO

import numpy as np

from fastxent.files.base import ArrayFile
from fastxent.files.npy import read_header, refuse_short
from fastxent.files.source import open_source
from fastxent.files.stored import StoredArray

_PIECE = 1 << 22
_LARGE, _HIGHEST_RATIO = 1 << 30, 200  # bytes; predictions never pack so well, zeros alone do
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


class Npz(ArrayFile):
    """An .npz file: a zip archive of .npy members, compressed or not."""

    def __init__(self, path: str) -> None:
        self.source = open_source(path)
        try:
            self._archive = zipfile.ZipFile(self.source.for_library())
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: not an .npz, or truncated ({error})") from None
        weakref.finalize(self, self._archive.close)
        self.names = [name[:-4] for name in self._archive.namelist() if name.endswith(".npy")]

    def member(self, name: str) -> StoredArray:
        """One array of the archive."""
        label = f"{self.path}[{name}]"
        info = self._archive.getinfo(f"{name}.npy")
        if info.file_size > _LARGE and info.file_size > _HIGHEST_RATIO * info.compress_size:
            raise ValueError(
                f"{label}: {info.compress_size} bytes unpack to {info.file_size}: a zip bomb? If not, save it plain"
            )
        member = _Bytes(lambda: self._archive.open(info), label)
        try:
            shape, fortran, stored = read_header(member.file, label)
        except _DAMAGE as error:
            raise ValueError(f"{label}: damaged ({error})") from None
        member.first = member.file.tell()
        refuse_short(label, shape, stored, info.file_size - member.first)
        return StoredArray(member, shape, fortran, stored)


class _Bytes:
    """The bytes of a member by position: as they stream by, or from a temporary file where they must be had again."""

    def __init__(self, unpack: Callable[[], IO[bytes]], label: str) -> None:
        self._open, self._label = unpack, label
        self.file = unpack()
        self.first = 0  # where the data begins, after the .npy's header
        self._spilled = False

    def read_into(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each part's memory from its position in the array's bytes."""
        for position, memory in parts:
            try:
                self._fill(self.first + position, memory)
            except _DAMAGE as error:
                raise ValueError(f"{self._label}: damaged ({error})") from None

    def view(self, position: int, n_bytes: int) -> np.ndarray | None:
        """They are checked, or unpacked, as they are read."""
        return None

    def _fill(self, position: int, memory: memoryview) -> None:
        if position < self.file.tell() and not self._spilled:
            self._spill()
        if self._spilled:
            self.file.seek(position)
        while (ahead := position - self.file.tell()) > 0:  # a member's own seek checks no sum, and goes astray in 3.12
            if not self.file.read(min(ahead, _PIECE)):
                raise EOFError(f"it ends {ahead} bytes early")
        done = 0
        while done < memory.nbytes:
            n = self.file.readinto(memory[done : done + _PIECE])  # type: ignore[attr-defined]
            if not n:
                raise EOFError(f"it ends {memory.nbytes - done} bytes early")
            done += n

    def _spill(self) -> None:
        """Unpack the member into a file, for arrays whose rows do not lie one after the other."""
        unpacked, packed = tempfile.TemporaryFile(), self._open()  # noqa: SIM115 (open for as long as the member is)
        weakref.finalize(self, unpacked.close)
        while piece := packed.read(_PIECE):
            try:
                unpacked.write(piece)
            except OSError as error:
                where = tempfile.gettempdir()
                raise ValueError(f"{self._label}: cannot be unpacked into {where}: {error.strerror}") from None
        self.file, self._spilled = unpacked, True
