"""NumPy's .npz: members by name, each streamed out of the archive row by row."""

import math
import zipfile
import zlib

import numpy as np

from fastxent.files.npy import read_header, refuse_short, widened_dtype


class Npz:
    """An .npz file: a zip archive of .npy members, compressed or not."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: not an .npz, or truncated ({error})") from None
        self.names = [name[:-4] for name in self._archive.namelist() if name.endswith(".npy")]

    def member(self, name: str) -> "Member":
        """One array of the archive."""
        return Member(self._archive, name, self.path)


class Member:
    """An array in the archive. In C order, windows of its first axis are read one after the other; otherwise whole."""

    def __init__(self, archive: zipfile.ZipFile, name: str, path: str) -> None:
        self._label = f"{path}[{name}]"
        self._file = archive.open(f"{name}.npy")
        self.shape, self._fortran, self._stored = read_header(self._file, self._label)
        size = archive.getinfo(f"{name}.npy").file_size - self._file.tell()
        refuse_short(self._label, self.shape, self._stored, size)
        self.dtype = widened_dtype(self._stored)
        self._whole: np.ndarray | None = None

    def window(self, start: int, stop: int, axis: int) -> np.ndarray:
        """Entries start to stop on ``axis``; windows must follow each other."""
        if axis == 0 and not self._fortran:
            return self._read((stop - start, *self.shape[1:]))
        if self._whole is None:
            shape = self.shape[::-1] if self._fortran else self.shape
            self._whole = self._read(shape)
            self._whole = self._whole.T if self._fortran else self._whole
        return self._whole[(*[slice(None)] * axis, slice(start, stop))]

    def _read(self, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * self._stored.itemsize
        data = np.empty(size, np.uint8)
        view, done = data.data, 0
        try:
            while done < size:
                n = self._file.readinto(view[done : done + (1 << 22)])  # type: ignore[attr-defined]
                if not n:
                    raise ValueError(f"{self._label}: ends after {done} of {size} bytes")
                done += n
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self._label}: damaged ({error})") from None
        return data.view(self._stored).reshape(shape).view(self.dtype)
