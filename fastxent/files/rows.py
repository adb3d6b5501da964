"""A file as rows: arrays of any shape and tables alike give the rows from one position to another, in order."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.files import base
from fastxent.files.base import ArrayFile, ArrayMember, Block, TableFile, listing
from fastxent.files.source import Source, is_remote, told_by

_MOST_EMPTY_CLASSES = 1 << 20  # that a file without rows may speak of: no byte of it stands for them

Fields = dict[str, list[str]]  # field -> its columns, or its member


class Rows(ABC):
    """A file's rows, as `Scan` asks for them.

    Attributes
    ----------
    n_bytes : int
        About how many there are to read.
    at_once : bool
        Whether several readers at once are quicker than one.
    n_rows : int or None
        None where the file's end alone tells.
    n_classes : int or None
        None for a column of lists, and for files without predictions.
    shape, axis : tuple of int or None, int
        Of the predictions as an array, and its class axis; None and -1 for a table.
    """

    path: str
    n_bytes: int
    at_once: bool
    n_rows: int | None
    n_classes: int | None
    shape: tuple[int, ...] | None
    axis: int
    _rest: Iterator[Block] | None = None  # blocks that follow what was taken
    _kept: Block | None = None  # read and not yet taken

    @abstractmethod
    def blocks(self, start: int, stop: int | None, large: bool = False) -> Iterator[Block]:
        """Yield rows in blocks of bounded size: predictions (..., classes), the rest (rows,) or (rows, classes).

        ``large``: of twice the size, where they may be the file's own pages.
        """

    @abstractmethod
    def fraction(self) -> float:
        """How much of the file was read; for files that do not know their rows."""

    @abstractmethod
    def cheap_start(self, row: int) -> int:
        """The last row up to this one at which reading begins without reading much that is before."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What tells this file from another one."""

    @abstractmethod
    def refuse_changed(self) -> None:
        """Raise where a file is no longer the one that was opened."""

    def begin(self) -> None:
        """Forget what was taken: other rows are next."""
        self._rest = self._kept = None

    def take(self, start: int, rows: int) -> Block:
        """So many rows at once, of a file without predictions; they follow those that were taken before."""
        if self._rest is None:
            self._rest = self.blocks(start, None)
        parts: list[Block] = []
        while rows > 0:
            kept = self._kept or next(self._rest, None)
            if kept is None:
                raise ValueError(f"target: {self.path} has fewer rows than the predictions")
            parts.append({field: array[:rows] for field, array in kept.items()})
            rest = {field: array[rows:] for field, array in kept.items()}
            self._kept = rest if length(rest) else None
            rows -= length(parts[-1])
        return _joined(parts)

    def left(self, start: int) -> int:
        """How many rows there are from ``start`` on, where taking has come to."""
        if self.n_rows is not None:
            return self.n_rows - start
        rest = self.blocks(start, None) if self._rest is None else self._rest
        return (length(self._kept) if self._kept else 0) + sum(map(length, rest))


def length(block: Block) -> int:
    """How many rows."""
    array = next(iter(block.values()))
    return math.prod(array.shape[:-1]) if "predictions" in block else len(array)


def rows_of(file: Any, fields: Fields, axis: int, like: Rows | None = None, whole: bool = True) -> Rows:
    """A file's rows.

    ``like``: the predictions' file, for one that has none itself; ``whole``: both are not in shards, so that the shapes
    are the same.
    """
    if isinstance(file, ArrayFile):
        return ArrayRows(file, fields, axis, None if like is None else like.shape, whole)
    return TableRows(file, fields, axis)


class ArrayRows(Rows):
    """Members of an array file, in lockstep: class axis last."""

    def __init__(self, file: ArrayFile, fields: Fields, axis: int, shape: tuple[int, ...] | None, whole: bool) -> None:
        self.path, self._file = file.path, file
        self.n_bytes, self.at_once = file.source.size, file.at_once and not is_remote(file.path)
        missing = next((name for names in fields.values() for name in names if name not in file.names), None)
        if missing is not None:
            raise ValueError(f"{self.path}: has no member {missing!r}; it has {listing(file.names)}")
        with file.source.unchanged(), told_by(file.path):
            members = {field: file.member(name) for field, names in fields.items() for name in names or [""]}
        if "predictions" in members:
            shape = members["predictions"].shape
            if len(shape) < 2:
                raise ValueError(f"predictions: {self.path} has shape {shape}; need rows and a class axis")
            if not -len(shape) <= axis < len(shape):
                raise ValueError(f"--axis: {axis} is outside the predictions' {len(shape)} axes, shape {shape}")
        self.shape = shape
        if shape is None:  # beside a table
            target = members["target"].shape
            if len(target) not in (1, 2):
                raise ValueError(f"target: {self.path} has shape {target}; a table needs (rows,) or (rows, classes)")
            axis, self.n_classes = 1, None
            lead, soft = target[:1], target
        else:
            axis %= len(shape)
            self.n_classes, long = shape[axis], 1 if axis == 0 else 0
            if not 0 < shape[axis] <= _MOST_EMPTY_CLASSES and 0 in shape:  # a figure a class is kept
                raise ValueError(f"predictions: {self.path} has shape {shape}, {shape[axis]} classes and no row")
            if not whole and "predictions" not in members:  # as many entries of the first axis as the target has
                target = members["target"].shape
                n = target[long if len(target) == len(shape) else 0 :][:1]
                shape = (*shape[:long], *n, *shape[long + 1 :])
            lead, soft = shape[:axis] + shape[axis + 1 :], shape
        for field, member in members.items():
            need = [shape] if field == "predictions" else [lead, soft] if field == "target" else [lead]
            if member.shape not in need:
                also = f" (class indices) or {soft} (distributions)" if field == "target" else ""
                raise ValueError(f"{field}: {self.path} has shape {member.shape}; need {lead}{also}")
        self.axis = axis
        self._arrays = {
            field: _MemberRows(member, file.source, axis if len(member.shape) > len(lead) else None)
            for field, member in members.items()
        }
        self.n_rows = self._total = math.prod(lead)
        self._at = 0

    def blocks(self, start: int, stop: int | None, large: bool = False) -> Iterator[Block]:
        at, end = start, self._total if stop is None else stop
        itemsize = self._arrays["predictions" if "predictions" in self._arrays else "target"].dtype.itemsize
        n_bytes = base.BLOCK_BYTES << (large and self._file.can_map)
        rows = max(1, n_bytes // max(1, (self.n_classes or 1) * itemsize))
        if self._file.can_map and at < end:  # blocks of the same size: a small last one costs more than its bytes
            rows = math.ceil((end - at) / math.ceil((end - at) / rows))
        while at < end:
            block: Block = {}
            n = min(rows, end - at)
            if "predictions" in self._arrays:
                block["predictions"] = self._arrays["predictions"].slab(at, end, rows)
                n = length(block)
            yield block | self.take(at, n)
            at += n

    def take(self, start: int, rows: int) -> Block:
        if self._total < start + rows:
            raise ValueError(f"target: {self.path} has {self._total} rows, fewer than the predictions")
        self._at = start + rows
        return {f: array.take(start, self._at) for f, array in self._arrays.items() if f != "predictions"}

    def left(self, start: int) -> int:
        return self._total - start

    def fraction(self) -> float:
        return self._at / max(1, self._total)

    def cheap_start(self, row: int) -> int:
        return row - row % self._arrays["predictions"].grain

    def facts(self) -> dict[str, Any]:
        arrays = {f: {"dtype": str(a.dtype), "shape": list(a.shape)} for f, a in self._arrays.items()}
        return self._file.source.facts() | {"arrays": arrays}

    def refuse_changed(self) -> None:
        self._file.source.refuse_changed()


class _MemberRows:
    """An array's rows: its entries, or its vectors along the class axis."""

    def __init__(self, member: ArrayMember, source: Source, axis: int | None) -> None:
        self.shape, self.dtype = member.shape, member.dtype
        self._member, self._source, self._axis = member, source, axis
        self._lead = [k for k in range(len(member.shape)) if k != axis]  # the array's axes that count rows
        self._inner = [math.prod(member.shape[i] for i in self._lead[k + 1 :]) for k in range(len(self._lead))]
        self._window: tuple[int, np.ndarray] | None = None  # (first row, rows), of a chunk that is taken piece by piece
        self.grain = max(
            (member.grain[i] * n for i, n in zip(self._lead, self._inner) if member.grain[i] > 1), default=1
        )

    def slab(self, start: int, stop: int, most: int) -> np.ndarray:
        """Rows from ``start`` on that are a box of the array, at most so many: (..., classes)."""
        most = min(most, stop - start)
        k = next(k for k, inner in enumerate(self._inner) if inner == 1 or (start % inner == 0 and inner <= most))
        axis, inner = self._lead[k], self._inner[k]
        length, grain = self.shape[axis], self._member.grain[axis]
        at = start // inner % length
        reach = min(length, at + (stop - start) // inner)
        end = min(reach, at + most // inner)
        if end < reach:  # end at a border of the file's own chunks, at the next one at most
            back = end - end % grain
            end = back if back > at else min(reach, at - at % grain + grain)
        box = [(0, n) for n in self.shape]
        for outer, size in zip(self._lead[:k], self._inner):
            i = start // size % self.shape[outer]
            box[outer] = (i, i + 1)
        box[axis] = (at, end)
        with self._source.unchanged(), told_by(self._source.path):
            array = self._member.read(tuple(box))
        if self._axis is not None:
            array = np.moveaxis(array, self._axis, -1)
            return array.reshape(-1, array.shape[-1]) if array.flags.c_contiguous else array
        return array.reshape(-1)

    def take(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop: (rows,) or (rows, classes)."""
        if self._axis is not None or self.grain == 1:
            return self._read(start, stop)
        first, kept = self._window or (start, np.empty(0, self.dtype))
        if not first <= start <= first + len(kept):
            first, kept = start, kept[:0]
        if stop > first + len(kept):  # read to the end of a chunk, which is unpacked whole anyway
            more = self._read(first + len(kept), min(math.prod(self.shape), stop + -stop % self.grain))
            first, kept = start, np.concatenate([kept[start - first :], more])
        self._window = first, kept
        return kept[start - first : stop - first]

    def _read(self, start: int, stop: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        while start < stop:
            part = self.slab(start, stop, stop - start)
            parts.append(part if self._axis is None else part.reshape(-1, part.shape[-1]))
            start += len(parts[-1])
        if not parts:
            return np.empty((0,) if self._axis is None else (0, self.shape[self._axis]), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class TableRows(Rows):
    """Columns of a table, as blocks of rows."""

    def __init__(self, file: TableFile, fields: Fields, axis: int) -> None:
        if "predictions" in fields and axis not in (-1, 1):
            raise ValueError(f"--axis: {axis} applies to arrays; {file.path} is a table, with a column a class")
        missing = next((name for names in fields.values() for name in names if name not in file.names), None)
        if missing is not None:
            raise ValueError(f"{file.path}: has no column {missing!r}; it has {listing(file.names)}")
        self.path, self.n_rows, self.shape, self.axis = file.path, file.n_rows, None, -1
        columns = fields.get("predictions", [])
        self.n_classes = len(columns) if len(columns) > 1 else None
        self._file, self._fields = file, fields
        self.n_bytes, self.at_once = file.source.size, file.at_once and not is_remote(file.path)

    def blocks(self, start: int, stop: int | None, large: bool = False) -> Iterator[Block]:
        return _gathered(self._between(start, stop))

    def _between(self, start: int, stop: int | None) -> Iterator[Block]:
        at, width = start, self.n_classes
        blocks = self._file.blocks(self._fields, start) if stop is None or start < stop else iter(())
        while True:
            with self._file.source.unchanged(), told_by(self.path):
                block = next(blocks, None)
            if block is None:
                break
            if stop is not None:
                block = {field: array[: stop - at] for field, array in block.items()}
            if length(block):
                classes = block["predictions"].shape[1] if "predictions" in block else width
                if width not in (None, classes):
                    raise ValueError(
                        f"predictions: {self.path}, row {at}: a list of {classes}, where the rows before have {width}"
                    )
                width = classes
                yield block
            at += length(block)
            del block  # before more is read
            if at == stop:
                return
        if stop is not None and at < stop:
            raise ValueError(f"{self.path}: has {at} rows; rows {start} to {stop} were to be read")

    def fraction(self) -> float:
        return self._file.fraction()

    def cheap_start(self, row: int) -> int:
        return self._file.starts[bisect_right(self._file.starts, row) - 1]

    def facts(self) -> dict[str, Any]:
        types = self._file.schema()
        names = dict.fromkeys(name for names in self._fields.values() for name in names)
        return self._file.source.facts() | {"rows": self.n_rows, "schema": {name: types[name] for name in names}}

    def refuse_changed(self) -> None:
        self._file.source.refuse_changed()


def _gathered(blocks: Iterator[Block]) -> Iterator[Block]:
    """The rows in as few blocks as their size allows: a call for each of a file's own small ones would cost more."""
    parts: list[Block] = []
    size = 0
    for block in blocks:
        n_bytes = sum(array.nbytes for array in block.values())
        parts.append(block)
        size += n_bytes
        del block
        if size + n_bytes > base.BLOCK_BYTES // base.TABLE_SHARE:  # no room for another one like it
            whole, parts, size = _joined(parts), [], 0
            yield whole
            del whole  # before more is read
    if parts:
        yield _joined(parts)


def _joined(parts: list[Block]) -> Block:
    return parts[0] if len(parts) == 1 else {f: np.concatenate([p[f] for p in parts]) for f in parts[0]}
