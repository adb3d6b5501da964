"""Where a file's bytes come from, and memory to read them into."""

import errno
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from fastxent.files.mapped import mapped


def open_source(path: str) -> "Source":
    """The bytes of a file on this machine, or at an address such as https://... or s3://... that fsspec knows."""
    return RemoteSource(path) if is_remote(path) else Source(path)


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


class Source:
    """The bytes of a file by position."""

    cheap = True  # whether a look at its state costs next to nothing

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

    def view(self, position: int, n_bytes: int) -> np.ndarray | None:
        """The bytes without a copy, where that is safe and quicker; None: read them."""
        return mapped(self.path, (self.size, self._mtime_ns), position, n_bytes)

    def facts(self) -> dict[str, Any]:
        """What tells this file from another one."""
        return {"name": os.path.basename(self.path), "size": self.size, "mtime_ns": self._mtime_ns}

    def refuse_changed(self) -> None:
        """Raise where the file is no longer the one that was opened."""
        if (self.size, self._mtime_ns) != _facts(self.path):
            raise changed(self.path)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What is read in the block is of the file that was opened; where that has changed, this alone is told.

        Libraries do not tell: a file that shrank leaves Arrow's buffers as they were, full of anything. Where a look is
        dear, it is left to the end of all reading.
        """
        try:
            yield
        except (ValueError, TypeError, OSError):
            self.refuse_changed()
            raise
        if self.cheap:
            self.refuse_changed()


def changed(path: str) -> ValueError:
    """What is raised where a file is no longer the one that was opened."""
    return ValueError(f"{path}: was changed while it was read; nothing that was read of it counts")


def _facts(path: str) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change)."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


_REMOTE_BLOCK = 1 << 18  # bytes that are asked for at least, where a library reads


class RemoteSource(Source):
    """The bytes of a file elsewhere, asked for by range."""

    cheap = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._files, self._inner = filesystem(path)
        info = self._info()
        if info.get("type") == "directory" or info.get("size") is None:
            raise ValueError(f"{path}: its size is not told there; need a file with a known size")
        self.size, self._version = int(info["size"]), _version(info)

    def open(self) -> IO[bytes]:
        opened: IO[bytes] = self._files.open(self._inner, "rb", block_size=_REMOTE_BLOCK)
        return opened

    def for_library(self) -> Any:
        return self.open()

    def view(self, position: int, n_bytes: int) -> np.ndarray | None:
        return None

    def read_into(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        wanted = list(parts)
        for k in range(0, len(wanted), 256):
            some = wanted[k : k + 256]
            ends = [position + memory.nbytes for position, memory in some]
            with told_by(self.path):
                came = self._files.cat_ranges([self._inner] * len(some), [position for position, _ in some], ends)
            for (position, memory), data in zip(some, came):
                if len(data) != memory.nbytes:
                    raise ValueError(
                        f"{self.path}: {len(data)} bytes came for {memory.nbytes} from byte {position} on: the file has"
                        " changed, or its server does not serve ranges"
                    )
                memory[:] = data

    def facts(self) -> dict[str, Any]:
        return {"name": os.path.basename(self.path), "size": self.size, "version": self._version}

    def refuse_changed(self) -> None:
        info = self._info()
        if (self.size, self._version) != (info.get("size"), _version(info)):
            raise changed(self.path)

    def _info(self) -> dict[str, Any]:
        with told_by(self.path):
            self._files.invalidate_cache()
            info: dict[str, Any] = self._files.info(self._inner)
        return info


class Folder(Source):
    """A folder that a library reads: all of its files together."""

    cheap = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._found = self._all()
        self.n_files = len(self._found)
        self.size = sum(size for size, _ in self._found.values())
        self._mtime_ns = max(time for _, time in self._found.values())

    def refuse_changed(self) -> None:
        if self._found != self._all():
            raise changed(self.path)

    def refuse_changed_file(self, name: str) -> None:
        """Raise where one of its files is no longer the one that was found; here, not elsewhere."""
        path = os.path.join(self.path, name)
        if not is_remote(self.path) and self._found.get(os.path.normpath(path)) != _facts(path):
            raise changed(self.path)

    def _all(self) -> dict[str, tuple[int, int]]:
        """Each file's (bytes, nanoseconds of the last change; 0 elsewhere than on this machine)."""
        if is_remote(self.path):
            files, inner = filesystem(self.path)
            with told_by(self.path):
                sizes = files.du(inner, total=False)
            return {name: (size, 0) for name, size in sizes.items()}
        paths = (os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names)
        found = {os.path.normpath(path): _facts(path) for path in paths}
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such file, or an empty folder", self.path)
        return found


def filesystem(path: str) -> tuple[Any, str]:
    """fsspec's filesystem of an address, and the path there."""
    try:
        import fsspec
    except ImportError:
        raise ImportError(f"{path}: reading it needs fsspec: pip install 'fastxent[files]'") from None
    with told_by(path):
        files, inner = fsspec.url_to_fs(path)
    return files, inner


@contextmanager
def told_by(path: str, what: str = "") -> Iterator[None]:
    """Turn whatever a library raises into one line that begins with the path; ``what`` the file then is not."""
    try:
        yield
    except (ImportError, PermissionError, IsADirectoryError):
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: asks for more memory than there is ({str(error)[:80]})") from None
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", path) from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        said = f"{f'not a {what}, truncated or damaged' if what else 'cannot be read'} ({reason[:160]})"
        raise ValueError(reason if path in reason else f"{path}: {said}") from None


def _version(info: dict[str, Any]) -> str:
    """What a server tells of a file's state: its tag, or when it was changed."""
    return next((str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")


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
