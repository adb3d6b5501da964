"""A file as rows: arrays of any shape and tables alike give the rows from one position to another, in order."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.files import base
from fastxent.files.base import ArrayFile, ArrayMember, Block, TableFile

Fields = dict[str, list[str]]  # field -> its columns, or its member


class Rows(ABC):
    """What `Scan` asks of a file.

    Attributes
    ----------
    n_rows : int or None
        None where the file's end alone tells.
    n_classes : int or None
        None for a column of lists, and for files without predictions.
    shape, axis : tuple of int or None, int
        Of the predictions as an array; None and -1 for a table.
    """

    path: str
    n_rows: int | None
    n_classes: int | None
    shape: tuple[int, ...] | None
    axis: int

    @abstractmethod
    def blocks(self, start: int, stop: int | None) -> Iterator[Block]:
        """Yield rows in blocks of bounded size: predictions (..., classes), the rest (rows,) or (rows, classes)."""

    @abstractmethod
    def take(self, start: int, rows: int) -> Block:
        """So many rows at once; what is asked for follows what was asked for before."""

    @abstractmethod
    def left(self, start: int) -> int:
        """How many rows there are from ``start`` on, where taking has come to."""

    @abstractmethod
    def fraction(self) -> float:
        """How much of the file was read; for files that do not know their rows."""

    @abstractmethod
    def cheap_start(self, row: int) -> int:
        """The last row up to this one at which reading begins without reading much that is before."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What tells this file from another one."""


def rows_of(file: Any, fields: Fields, axis: int, like: "Rows | None" = None) -> Rows:
    """A file's rows; ``like``: the predictions' file, for one that has none itself."""
    if isinstance(file, ArrayFile):
        return ArrayRows(file, fields, axis, None if like is None else like.shape)
    return TableRows(file, fields, axis)


class ArrayRows(Rows):
    """Members of an array file, in lockstep: class axis last."""

    def __init__(self, file: ArrayFile, fields: Fields, axis: int, shape: tuple[int, ...] | None) -> None:
        self.path, self._file = file.path, file
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
            lead, axis, self.n_classes = target[:1], 1, None
        else:
            axis %= len(shape)
            lead, self.n_classes = shape[:axis] + shape[axis + 1 :], shape[axis]
        for field, member in members.items():
            need = [shape] if field == "predictions" else [lead, shape] if field == "target" and shape else [lead]
            if member.shape not in need and (shape is not None or field != "target"):
                also = f" (class indices) or {shape} (distributions)" if field == "target" else ""
                raise ValueError(f"{field}: {self.path} has shape {member.shape}; need {lead}{also}")
        self.axis = axis
        self._arrays = {
            field: _MemberRows(member, axis if len(member.shape) > len(lead) else None)
            for field, member in members.items()
        }
        self.n_rows = self._total = math.prod(lead)
        self._at = 0

    def blocks(self, start: int, stop: int | None) -> Iterator[Block]:
        predictions, at, end = self._arrays["predictions"], start, self._total if stop is None else stop
        rows = max(1, base.BLOCK_BYTES // max(1, (self.n_classes or 1) * predictions.itemsize))
        while at < end:
            array = predictions.slab(at, end, rows)
            n = math.prod(array.shape[:-1])
            yield {"predictions": array} | self.take(at, n)
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


class _MemberRows:
    """An array's rows: its entries, or its vectors along the class axis."""

    def __init__(self, member: ArrayMember, axis: int | None) -> None:
        self.shape, self.dtype = member.shape, member.dtype
        self._member, self._axis = member, axis
        self._lead = [k for k in range(len(member.shape)) if k != axis]  # the array's axes that count rows
        self._inner = [math.prod(member.shape[i] for i in self._lead[k + 1 :]) for k in range(len(self._lead))]
        self.itemsize = member.dtype.itemsize
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
        array = self._member.read(tuple(box))
        if self._axis is not None:
            array = np.moveaxis(array, self._axis, -1)
            return array.reshape(-1, array.shape[-1]) if array.flags.c_contiguous else array
        return array.reshape(-1)

    def take(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop: (rows,) or (rows, classes)."""
        parts: list[np.ndarray] = []
        while start < stop:
            part = self.slab(start, stop, stop - start)
            parts.append(part if self._axis is None else part.reshape(-1, part.shape[-1]))
            start += len(parts[-1])
        if not parts:
            return np.empty((0,) if self._axis is None else (0, self.shape[self._axis]), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class TableRows(Rows):
    """Columns of a table, as blocks of rows or as many rows as asked for."""

    def __init__(self, file: TableFile, fields: Fields, axis: int) -> None:
        if "predictions" in fields and axis not in (-1, 1):
            raise ValueError(f"--axis: {axis} applies to arrays; {file.path} is a table, with a column a class")
        self.path, self.n_rows, self.shape, self.axis = file.path, file.n_rows, None, -1
        columns = fields.get("predictions", [])
        self.n_classes = len(columns) if len(columns) > 1 else None
        self._file, self._fields = file, fields
        self._rest: Iterator[Block] | None = None
        self._kept: Block = {}  # read and not yet taken

    def blocks(self, start: int, stop: int | None) -> Iterator[Block]:
        at = start
        for block in self._file.blocks(self._fields, start) if stop is None or start < stop else ():
            if stop is not None:
                block = {field: array[: stop - at] for field, array in block.items()}
            at += _length(block)
            if _length(block):
                yield block
            if at == stop:
                return
        if stop is not None and at < stop:
            raise ValueError(f"{self.path}: has {at} rows; rows {start} to {stop} were to be read")

    def take(self, start: int, rows: int) -> Block:
        if self._rest is None:
            self._rest = self._file.blocks(self._fields, start)
        parts: list[Block] = []
        while rows > 0:
            if not _length(self._kept):
                kept = next(self._rest, None)
                if kept is None:
                    raise ValueError(f"target: {self.path} has fewer rows than the predictions")
                self._kept = kept
            parts.append({field: array[:rows] for field, array in self._kept.items()})
            self._kept = {field: array[rows:] for field, array in self._kept.items()}
            rows -= _length(parts[-1])
        return parts[0] if len(parts) == 1 else {f: np.concatenate([p[f] for p in parts]) for f in parts[0]}

    def left(self, start: int) -> int:
        rest = self._file.blocks(self._fields, start) if self._rest is None else self._rest
        return _length(self._kept) + sum(map(_length, rest))

    def fraction(self) -> float:
        return self._file.fraction()

    def cheap_start(self, row: int) -> int:
        return self._file.starts[bisect_right(self._file.starts, row) - 1]

    def facts(self) -> dict[str, Any]:
        types = self._file.schema()
        names = dict.fromkeys(name for names in self._fields.values() for name in names)
        return self._file.source.facts() | {"rows": self.n_rows, "schema": {name: types[name] for name in names}}


def _length(block: Block) -> int:
    return len(next(iter(block.values()), ()))
