"""What every format shares: fields, blocks of rows, and how names are chosen."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastxent.files.source import Source

BLOCK_BYTES = 1 << 24  # of predictions in one chunk: two fit in most caches, and a call's cost is small beside it
TABLE_SHARE = 4  # chunks of tables are so many times smaller: they cost more to unpack, and are in memory several times

Block = dict[str, np.ndarray]  # field -> array; every array has the same rows
Box = tuple[tuple[int, int], ...]  # (first, one past the last) on each axis


class Chunk(NamedTuple):
    """Neighbouring rows: predictions (..., classes), the rest of the same leading shape or None."""

    predictions: np.ndarray
    target: Any  # an array; None where none was wanted
    weight: np.ndarray | None
    ids: np.ndarray | None
    start: int  # the position of the first row in the whole
    by: np.ndarray | None = None  # groups
    cluster: np.ndarray | None = None  # groups whose rows depend on each other
    others: tuple[np.ndarray, ...] = ()  # other models' predictions, of the same shape

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return math.prod(self.predictions.shape[:-1])


class ArrayMember(Protocol):
    """An array in a file, read in boxes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    grain: tuple[int, ...]  # on each axis, boxes that begin at multiples of it are cheaper

    def read(self, box: Box) -> np.ndarray:
        """The entries of a box; boxes are asked for in rising order."""
        ...


class ArrayFile(ABC):
    """A file of arrays: one without a name, or some with names."""

    source: Source
    names: list[str]
    at_once = False  # whether several readers of it at once are quicker than one
    can_map = False  # whether a block may be the file's own pages, which are dearer to begin with than to read on

    @property
    def path(self) -> str:
        """Its name, for messages."""
        return self.source.path

    @abstractmethod
    def member(self, name: str) -> ArrayMember:
        """One array of the file."""


class TableFile(ABC):
    """A file of named columns, read in blocks of rows.

    Attributes
    ----------
    names : list of str
    n_rows : int or None
        None where the file's end alone tells.
    starts : list of int
        Rows at which reading begins without reading what is before; the first is 0.
    text_target : bool
        Whether the target is to be read as text.
    """

    source: Source
    names: list[str]
    n_rows: int | None
    starts: Sequence[int] = (0,)
    text_target = False
    at_once = False  # whether several readers of it at once are quicker than one

    @property
    def path(self) -> str:
        """Its name, for messages."""
        return self.source.path

    @abstractmethod
    def schema(self) -> dict[str, str]:
        """Each column's type, in words."""

    @abstractmethod
    def blocks(self, fields: dict[str, list[str]], start: int) -> Iterator[Block]:
        """Yield rows from ``start`` on, in order: the columns of each field, as an array of one or two dimensions."""

    def fraction(self) -> float:
        """How much of the file the blocks so far came from, 0 to 1 (0.0 where ``n_rows`` tells it)."""
        return 0.0


def natural_key(name: str) -> list[Any]:
    """Sort key that puts logit_2 before logit_10.

    Examples
    --------
    >>> sorted(["logit_10", "logit_2", "bias"], key=natural_key)
    ['bias', 'logit_2', 'logit_10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [*((0, int(p), "") if i % 2 else (1, 0, p) for i, p in enumerate(parts)), (0, 0, name)]


def match_columns(names: Sequence[str], patterns: str, option: str, path: str) -> list[str]:
    """The columns that patterns such as ``logit_*`` or ``cat,dog`` name: pattern by pattern, each in natural order."""
    if patterns in names:
        return [patterns]
    chosen: list[str] = []
    for pattern in patterns.split(","):
        found = (
            [pattern] if pattern in names else sorted({n for n in names if fnmatchcase(n, pattern)}, key=natural_key)
        )
        if not found:
            raise ValueError(f"{option}: {path} has no column {pattern!r}; it has {listing(names)}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for a message of one line."""
    shown = ", ".join(name if name.isprintable() else ascii(name)[1:-1] for name in names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "none"


def ml_bfloat16() -> np.dtype:
    """The dtype of bfloat16, which NumPy itself does not have."""
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("reading bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


def pyarrow_for(path: str) -> Any:
    """The module pyarrow; an ImportError that says what to install where it is missing."""
    try:
        import pyarrow
    except ImportError:
        raise ImportError(f"{path}: reading it needs PyArrow: pip install fastxent[parquet]") from None
    return pyarrow
