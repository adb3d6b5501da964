"""Predictions, target, weights and ids from one file or two, as chunks of the same rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.files import open_file
from fastxent.files.base import BLOCK_BYTES, ArrayFile, ArrayMember, Block, Chunk, TableFile, listing, match_columns
from fastxent.files.npy import Npy
from fastxent.files.npz import Npz


@dataclass(frozen=True)
class Wanted:
    """What to read; None takes the only candidate, or the column or member called ``target``."""

    columns: str | None = None  # a pattern such as logit_*, or names with commas: the classes, in that order
    target_column: str | None = None  # one column of class indices, or a pattern: distributions
    weight_column: str | None = None
    id_column: str | None = None
    predictions_key: str | None = None  # a member of an .npz
    target_key: str | None = None
    axis: int = -1  # the class axis of arrays


class Scan:
    """The rows of a file, or of two, in order.

    Attributes
    ----------
    n_rows : int or None
        None where the file tells it at its end alone (.csv).
    n_classes : int or None
        None for a column of lists.
    rows_read, bytes_read : int
        Rows, and bytes of predictions as arrays, in the chunks so far.
    """

    def __init__(self, predictions: str, target: str | None = None, wanted: Wanted | None = None) -> None:
        wanted = wanted or Wanted()
        self.rows_read = self.bytes_read = 0
        first = open_file(predictions)
        second = open_file(target) if target is not None else None
        files = [first] if second is None else [first, second]
        chosen: list[dict[str, list[str]]] = [{} for _ in files]
        chosen[-1]["target"] = _target_names(files[-1], wanted, alone=second is not None)
        for field, name, option in (
            ("weight", wanted.weight_column, "--weight-column"),
            ("ids", wanted.id_column, "--id-column"),
        ):
            if name is not None:
                holder = next((i for i, file in enumerate(files) if name in file.names), None)
                if holder is None:
                    have = "; ".join(f"{file.path} has {listing(file.names)}" for file in files)
                    raise ValueError(f"{option}: no column or member {name!r}: {have}")
                chosen[holder][field] = [name]
        used = {name for names in chosen[0].values() for name in names}
        chosen[0] = {"predictions": _prediction_names(first, wanted, used)} | chosen[0]

        self._lead: Any = _stream(first, chosen[0], wanted.axis)
        self._axis = self._lead.axis
        self.n_rows: int | None = self._lead.n_rows
        self.n_classes: int | None = self._lead.n_classes
        self._other: Any = None
        if second is not None:
            axis = self._axis if self._lead.shape is not None else -1
            self._other = _stream(second, chosen[1], axis, self._lead.shape)
            rows = self._other.n_rows
            if self.n_rows is not None and rows is not None and rows != self.n_rows:
                raise ValueError(f"target: {target} has {rows} rows, {predictions} has {self.n_rows}")
            self.n_rows = rows if self.n_rows is None else self.n_rows

    @property
    def fraction(self) -> float:
        """How much was read, 0 to 1."""
        return self.rows_read / max(1, self.n_rows) if self.n_rows is not None else float(self._lead.fraction())

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks; predictions come with the class axis last."""
        for block in self._lead.blocks():
            rows = math.prod(block["predictions"].shape[:-1])
            if self._other is not None:
                block = block | self._other.take(rows)
            yield self._chunk(block)
        if self._other is not None and (more := self._other.left()):
            raise ValueError(f"target: {self._other.path} has {more} rows more than the predictions ({self.rows_read})")

    def _chunk(self, block: Block) -> Chunk:
        predictions, target = block["predictions"], block["target"]
        shape = predictions.shape
        if predictions.ndim > 2 and predictions.flags.c_contiguous:
            predictions = predictions.reshape(-1, shape[-1])  # rows by their number in messages
        lead = predictions.shape[:-1]
        flat = math.prod(lead)
        soft = target.ndim == len(shape) or (target.ndim == 2 and target.shape != shape[:-1])
        target = target.reshape(*lead, target.shape[-1]) if soft else target.reshape(lead)
        weight, ids = (a.reshape(lead) if a is not None else None for a in (block.get("weight"), block.get("ids")))
        self.rows_read += flat
        self.bytes_read += predictions.nbytes
        return Chunk(predictions, target, weight, ids)


class _Arrays:
    """Members of an array file, in lockstep: class axis last, cut along the first other axis."""

    def __init__(self, file: ArrayFile, fields: dict[str, list[str]], axis: int, shape: tuple[int, ...] | None) -> None:
        self.path = file.path
        self._members: dict[str, ArrayMember] = {
            field: file.member(name) for field, names in fields.items() for name in names or [""]
        }
        if "predictions" in self._members:
            shape = self._members["predictions"].shape
            if len(shape) < 2:
                raise ValueError(f"predictions: {self.path} has shape {shape}; need rows and a class axis")
            if not -len(shape) <= axis < len(shape):
                raise ValueError(f"--axis: {axis} is outside the predictions' {len(shape)} axes, shape {shape}")
        self.shape = shape
        if shape is None:  # beside a table
            target = self._members["target"].shape
            if len(target) not in (1, 2):
                raise ValueError(f"target: {self.path} has shape {target}; a table needs (rows,) or (rows, classes)")
            lead, axis, self.n_classes = target[:1], 1, None
        else:
            axis %= len(shape)
            lead, self.n_classes = shape[:axis] + shape[axis + 1 :], shape[axis]
        self.axis = axis
        for field, member in self._members.items():
            need = [shape] if field == "predictions" else [lead, shape] if field == "target" and shape else [lead]
            if member.shape not in need and (shape is not None or field != "target"):
                also = f" (class indices) or {shape} (distributions)" if field == "target" else ""
                raise ValueError(f"{field}: {self.path} has shape {member.shape}; need {lead}{also}")
        self._along = 1 if axis == 0 else 0  # the axis of a class-last array's first rows, in the file's own order
        self._inner = math.prod(lead[1:])
        self._steps, self._at = lead[0], 0
        self.n_rows = math.prod(lead)

    def blocks(self) -> Iterator[Block]:
        member = self._members["predictions"]
        per_step = self._inner * (self.n_classes or 1) * member.dtype.itemsize
        steps = max(1, BLOCK_BYTES // max(1, per_step))
        while self._at < self._steps:
            yield self._window(min(steps, self._steps - self._at))

    def take(self, rows: int) -> Block:
        if self.n_rows - self._at * self._inner < rows:
            raise ValueError(f"target: {self.path} has {self.n_rows} rows, fewer than the predictions")
        return self._window(rows // self._inner if rows else 0)

    def left(self) -> int:
        return self.n_rows - self._at * self._inner

    def fraction(self) -> float:
        return self._at / max(1, self._steps)

    def _window(self, steps: int) -> Block:
        start, self._at = self._at, self._at + steps
        block = {}
        for field, member in self._members.items():
            matrix = len(member.shape) == (len(self.shape) if self.shape is not None else 2)
            array = member.window(start, self._at, self._along if matrix else 0)
            block[field] = np.moveaxis(array, self.axis, -1) if matrix else array
        return block


class _Rows:
    """Columns of a table, as blocks of rows or as many rows as asked for."""

    def __init__(self, file: TableFile, fields: dict[str, list[str]], axis: int, shape: tuple[int, ...] | None) -> None:
        if "predictions" in fields and axis not in (-1, 1):
            raise ValueError(f"--axis: {axis} applies to arrays; {file.path} is a table, with a column a class")
        self.path, self.n_rows, self.shape, self.axis = file.path, file.n_rows, None, -1
        columns = fields.get("predictions", [])
        self.n_classes = len(columns) if len(columns) > 1 else None
        self.fraction = file.fraction
        self._blocks = file.blocks(fields)
        self._kept: Block = {}  # read and not yet taken

    def blocks(self) -> Iterator[Block]:
        return self._blocks

    def take(self, rows: int) -> Block:
        parts: list[Block] = []
        while rows > 0:
            if not _length(self._kept):
                kept = next(self._blocks, None)
                if kept is None:
                    raise ValueError(f"target: {self.path} has fewer rows than the predictions")
                self._kept = kept
            parts.append({field: array[:rows] for field, array in self._kept.items()})
            self._kept = {field: array[rows:] for field, array in self._kept.items()}
            rows -= _length(parts[-1])
        return parts[0] if len(parts) == 1 else {f: np.concatenate([p[f] for p in parts]) for f in parts[0]}

    def left(self) -> int:
        return _length(self._kept) + sum(map(_length, self._blocks))


def _length(block: Block) -> int:
    return len(next(iter(block.values()), ()))


def _is_array_file(file: Any) -> bool:
    return isinstance(file, (Npy, Npz))


def _stream(file: Any, fields: dict[str, list[str]], axis: int, shape: tuple[int, ...] | None = None) -> Any:
    return (_Arrays if _is_array_file(file) else _Rows)(file, fields, axis, shape)


def _prediction_names(file: Any, wanted: Wanted, used: set[str]) -> list[str]:
    """The columns or the member that hold the predictions."""
    if not _is_array_file(file):
        if wanted.columns is not None:
            return _once(match_columns(file.names, wanted.columns, "--columns", file.path), file)
        names = [name for name in file.names if name not in used]
        unnamed = [name for name in names if not name.strip() or name.startswith(("Unnamed: ", "__index_level_"))]
        if unnamed or not names:
            what = f"column {unnamed[0]!r} looks like an index" if unnamed else "no column is left for the predictions"
            raise ValueError(f"--columns: {what}: name the classes' columns; {file.path} has {listing(file.names)}")
        return _once(names, file)
    return _member_names(file, wanted.predictions_key, "predictions", "--predictions-key", used)


def _target_names(file: Any, wanted: Wanted, alone: bool) -> list[str]:
    """The columns or the member that hold the target; ``alone`` in a file of their own."""
    if _is_array_file(file):
        if not file.names and not alone:
            raise ValueError(f"target: {file.path} holds predictions alone; give a file with the target after it")
        taken = {wanted.weight_column, wanted.id_column} - {None}
        return _member_names(file, wanted.target_key, "target", "--target-key", taken if alone else None)
    if wanted.target_column is not None:
        return _once(match_columns(file.names, wanted.target_column, "--target-column", file.path), file)
    rest = [name for name in file.names if name not in (wanted.weight_column, wanted.id_column)]
    if alone and len(rest) == 1:
        return rest
    if "target" in file.names:
        return ["target"]
    raise ValueError(f"--target-column: say which column of {file.path} is the target; it has {listing(file.names)}")


def _member_names(file: Any, key: str | None, default: str, option: str, used: Any) -> list[str]:
    """A member of an .npz: by its key, by the field's own name, or the only one that is left (``used`` not None)."""
    if isinstance(file, Npy):
        if key is not None:
            raise ValueError(f"{option}: {file.path} is a .npy, which has no members")
        return []
    if key is not None:
        if key not in file.names:
            raise ValueError(f"{option}: {file.path} has no member {key!r}; it has {listing(file.names)}")
        return [key]
    if default in file.names:
        return [default]
    rest = [name for name in file.names if used is not None and name not in used]
    if len(rest) == 1:
        return rest
    raise ValueError(f"{option}: say which member of {file.path} is the {default}; it has {listing(file.names)}")


def _once(names: list[str], file: Any) -> list[str]:
    """The names, each of which the file must have once."""
    twice = next((name for name in names if file.names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file.path}: column {twice!r} is there {file.names.count(twice)} times")
    return names
