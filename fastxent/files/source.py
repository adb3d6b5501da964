"""Where a file's bytes come from, and memory to read them into."""

import os
import weakref
from collections.abc import Iterable
from typing import IO, Any

import numpy as np


class Source:
    """The bytes of a file by position.

    They are read, not mapped: a mapped file that shrinks kills the process, and its pages count as the process's own.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size, self._mtime_ns = _facts(path)

    def open(self) -> IO[bytes]:
        """The file from its beginning."""
        return open(self.path, "rb")

    def for_library(self) -> Any:
        """What a library opens that reads the file itself, and closes it."""
        return self.path

    def read_into(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each part's memory from its position in the file."""
        with open(self.path, "rb", buffering=0) as file:
            for position, memory in parts:
                while memory.nbytes:
                    file.seek(position)
                    n = file.readinto(memory)
                    if not n:
                        raise ValueError(f"{self.path}: it ends at byte {position} now, and had {self.size} at first")
                    position, memory = position + n, memory[n:]

    def facts(self) -> dict[str, Any]:
        """What tells this file from another one."""
        return {"name": os.path.basename(self.path), "size": self.size, "mtime_ns": self._mtime_ns}

    def refuse_changed(self) -> None:
        """Raise where the file is no longer the one that was opened."""
        if (self.size, self._mtime_ns) != _facts(self.path):
            raise ValueError(f"{self.path}: was changed while it was read; nothing that was read of it counts")


def _facts(path: str) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change)."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


class Buffers:
    """Memory that is used again once no array looks at it: the first touch of fresh memory costs as much as the read.

    Examples
    --------
    >>> buffers = Buffers()
    >>> address = buffers.take(100).ctypes.data
    >>> buffers.take(100).ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, n_bytes: int) -> np.ndarray:
        """So many bytes, of any content, which are the caller's for as long as the array or a view of it lives."""
        memory = self._free.pop() if self._free else None
        if memory is None or memory.nbytes < n_bytes:
            memory = np.empty(max(1, n_bytes), np.uint8)
        lent = np.frombuffer(memory.data, np.uint8)  # every view's base, unlike the memory itself, so that it tells
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent[:n_bytes]
