"""Rows to a .npy file, block by block, of a number that the end tells."""

import io
import os
import secrets
from pathlib import Path
from types import TracebackType

import numpy as np


class NpyWriter:
    """Writes aside and moves into place at the end, so that a reader finds all rows or the file of before.

    Parameters
    ----------
    path : str
        Ends in .npy.

    Raises
    ------
    ValueError
        Where it does not.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "x.npy")
    >>> with NpyWriter(path) as file:
    ...     file.append(np.zeros((2, 3)))
    ...     file.append(np.ones((1, 3)))
    >>> np.load(path).shape
    (3, 3)
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(".npy"):
            raise ValueError(f"{path}: rows are written to a .npy")
        self._path = Path(path)
        self._aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        self._like: np.ndarray | None = None
        self.n_rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Write rows, a matrix of the same columns and dtype as those before."""
        if self._like is None:
            self._like = rows[:0]
            self._file.write(self._header())
        self.n_rows += len(rows)
        self._file.write(np.ascontiguousarray(rows).data)

    def _header(self) -> bytes:
        """Of one length for any number of rows: NumPy leaves room for it."""
        if self._like is None:
            raise ValueError(f"{self._path}: no rows to write")
        shape, content = (self.n_rows, *self._like.shape[1:]), io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self._like.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(content, facts)
        return content.getvalue()

    def __enter__(self) -> "NpyWriter":
        self._file = open(self._aside, "xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.seek(0)
                    self._file.write(self._header())
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None:
                os.replace(self._aside, self._path)
        finally:
            self._aside.unlink(missing_ok=True)
