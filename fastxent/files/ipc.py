"""Arrow's own files, .arrow and .feather: record batches as they lie there, of the file format or of the stream's."""

import weakref
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, count, pairwise
from typing import Any

from fastxent.files import base
from fastxent.files.base import Block, TableFile, pyarrow_for
from fastxent.files.columns import block_of
from fastxent.files.source import Source, open_source, told_by

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class _Whole:
    """A file whose reads are whole, or fail.

    Where Arrow reads some of a batch's columns it takes a short read for a whole one: the rest is as memory was.
    """

    def __init__(self, source: Source) -> None:
        self._file, self._size = source.open(), source.size
        weakref.finalize(self, self._file.close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """So many bytes."""
        at = self._file.tell()
        data = self._file.read(size) if at + size <= self._size else b""
        if len(data) < size:
            raise ValueError(f"it speaks of {size} bytes from byte {at} on, and has {self._size}")
        return data


class Ipc(TableFile):
    """An Arrow IPC file, or a stream that was written into a file."""

    at_once = True

    def __init__(self, path: str) -> None:
        pyarrow_for(path)
        self.source = open_source(path)
        head, tail = bytearray(8), bytearray(8)
        if self.source.size >= 16:
            self.source.read_into([(0, memoryview(head)), (self.source.size - 8, memoryview(tail))])
        if head.startswith(b"FEA1"):
            raise ValueError(f"{path}: Feather of version 1; write it again with version 2")
        self._is_stream = not head.startswith(b"ARROW1")
        if self._is_stream and bytes(tail) != _END_OF_STREAM:  # Arrow itself takes any end for a good one
            raise ValueError(f"{path}: not an Arrow file, or truncated: its stream has no end")
        with told_by(path, "Arrow file"):
            self.names: list[str] = []
            reader = self._reader([])
            self._schema, self.names = reader.schema, reader.schema.names
            self.n_rows = None
            if not self._is_stream:
                self.starts = list(accumulate(self._lengths(), initial=0))
                self.n_rows = self.starts[-1]

    def schema(self) -> dict[str, str]:
        """Each column's type."""
        return {field.name: str(field.type) for field in self._schema}

    def blocks(self, fields: dict[str, list[str]], start: int) -> Iterator[Block]:
        """Yield rows from ``start`` on; batches of an IPC file that end before it are not read."""
        columns = list(dict.fromkeys(name for names in fields.values() for name in names))
        for row, batch in self._batches(sorted(self.names.index(name) for name in columns), start):
            with told_by(self.path, "Arrow file"):
                batch.validate(full=True)  # a hostile file's offsets stay inside it
            bytes_a_row = max(1, batch.nbytes // max(1, batch.num_rows))
            low, most = max(0, start - row), max(1, base.BLOCK_BYTES // base.TABLE_SHARE // bytes_a_row)
            n, k = batch.num_rows - low, -(-(batch.num_rows - low) // most)
            cuts = [low + n * i // k for i in range(k + 1)]  # even: a small rest would be kept, and all of the batch
            for at, end in pairwise(cuts):
                yield block_of(batch[at:end], fields, self.path, row + at)
            del batch  # before the next one is read

    def _reader(self, columns: list[int]) -> Any:
        import pyarrow as pa

        if 0 < len(columns) < len(self.names) and not self._is_stream:
            file = pa.PythonFile(_Whole(self.source), "r")
        else:  # Arrow looks at the length of what it reads whole
            columns, opened = [], self.source.for_library()
            file = pa.OSFile(opened) if isinstance(opened, str) else pa.PythonFile(opened, "r")
        options = pa.ipc.IpcReadOptions(included_fields=columns)
        return (pa.ipc.open_stream if self._is_stream else pa.ipc.open_file)(file, options=options)

    def _lengths(self) -> Iterator[int]:
        """The rows of each batch, told by its simplest column."""
        simple = next((k for k, field in enumerate(self._schema) if field.type.num_fields == 0), 0)
        reader = self._reader([simple])
        return (reader.get_batch(k).num_rows for k in range(reader.num_record_batches))

    def _batches(self, columns: list[int], start: int) -> Iterator[tuple[int, Any]]:
        """(first row, batch) of those that reach beyond ``start``."""
        first = bisect_right(self.starts, start) - 1
        row = self.starts[first]
        with told_by(self.path, "Arrow file"):
            reader = self._reader(columns)
        for k in count(first):
            with told_by(self.path, "Arrow file"):
                if self._is_stream:
                    batch = next(reader, None)
                else:
                    batch = reader.get_batch(k) if k < reader.num_record_batches else None
            if batch is None:
                break
            first, row = row, row + batch.num_rows
            if row > start:
                yield first, batch
            del batch
        if row < start:
            raise ValueError(f"{self.path}: has {row} rows, fewer than {start}, where reading was to begin")
