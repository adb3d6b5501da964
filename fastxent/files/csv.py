"""Comma- and tab-separated text, compressed or not, streamed by PyArrow.

Numbers are read as float64, correctly rounded. A last line without an end is taken for a file that was cut off: nothing
else would tell a number that lost its last digits.
"""

import csv
import io
import lzma
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastxent.files import base
from fastxent.files.base import Block, TableFile, pyarrow_for
from fastxent.files.columns import block_of
from fastxent.files.source import Buffers, open_source

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
_DAMAGE = (OSError, EOFError, lzma.LZMAError)
_MOST_BLOCKS, _PATIENCE_S = 4, 0.2


class _Bounded:
    """A text of which no more than some blocks are read before Arrow has split them into cells: its queue takes 32."""

    closed = False

    def __init__(self, text: Any, packed: Any) -> None:
        self._text, self._packed, self._buffers = text, packed, Buffers()
        self._room, self._reading = threading.Semaphore(_MOST_BLOCKS), threading.Lock()
        self.position = 0  # in the packed file; whoever asked that itself would ask a file that is just being closed

    def read(self, size: int) -> Any:
        """So many bytes; none after the end."""
        self._room.acquire(timeout=_PATIENCE_S)  # should Arrow need more blocks than that to go on, it gets them
        with self._reading:
            if self._text is None:
                return b""
            memory = self._buffers.take(size)
            block = memory[: self._text.readinto(memory.data)]
            self.position = self._packed.tell()
        weakref.finalize(block, self._room.release).atexit = False
        return block

    def end(self) -> None:
        """Wait for a read that Arrow's thread is at, and read no more: the text is about to be closed."""
        with self._reading:
            self._text, self._packed, self._buffers = None, None, Buffers()

    def close(self) -> None:
        """Leave the text to whoever opened it."""


class Csv(TableFile):
    """A .csv or .tsv file with a line of names at its top."""

    n_rows = None

    def __init__(self, path: str) -> None:
        self.source = open_source(path)
        name = path.lower()
        self._compression = next((how for end, how in _COMPRESSIONS.items() if name.endswith(end)), None)
        self._delimiter = "\t" if ".tsv" in name[-8:] else ","
        pyarrow_for(path)
        self._read: _Bounded | None = None
        try:
            with self._text() as (text, _), io.TextIOWrapper(text, encoding="utf-8-sig", newline="") as file:
                self.names = next(csv.reader(file, delimiter=self._delimiter), [])
        except (UnicodeDecodeError, csv.Error, *_DAMAGE) as error:
            raise ValueError(f"{path}: not a text of columns, or damaged ({error})") from None
        if not self.names:
            raise ValueError(f"{path}: empty; need a line of column names, then one line a row")
        if any(_is_fraction(name) for name in self.names):
            raise ValueError(f"{path}: its first line holds numbers ({self.names[0]!r}, ...); need column names there")
        last = bytearray(1)
        self.source.read_into([(self.source.size - 1, memoryview(last))])
        if self._compression is None and last not in (b"\n", b"\r"):
            raise ValueError(f"{path}: truncated? Its last line has no end; if it is whole, add a newline")

    def schema(self) -> dict[str, str]:
        """Each column's type."""
        return dict.fromkeys(self.names, "text")

    def blocks(self, fields: dict[str, list[str]], start: int) -> Iterator[Block]:
        """Yield rows from ``start`` on; those before are split into cells, not made numbers."""
        pa = pyarrow_for(self.path)
        row = max(0, start - 1)  # one row more, which must be there: more rows than the file has can be skipped
        try:
            for batch in self._batches(fields, row, threads=True):
                skip = max(0, start - row)
                yield block_of(batch[skip:], fields, self.path, row + skip)
                row += batch.num_rows
            if row < start:
                raise ValueError(f"{self.path}: has fewer rows than {start}, where reading was to begin")
        except pa.ArrowInvalid as error:
            message = str(error)
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: damaged, or truncated ({' '.join(str(error).split())[:160]})") from None
        else:
            return
        try:  # Arrow tells the row of a bad cell to a single thread alone
            for _ in self._batches(fields, row, threads=False):
                pass
        except pa.ArrowInvalid as error:
            message = str(error)
        raise ValueError(self._explained(message, fields))

    def fraction(self) -> float:
        """How much of the file was read, 0 to 1."""
        return self._read.position / max(1, self.source.size) if self._read is not None else 0.0

    @contextmanager
    def _text(self) -> Iterator[tuple[Any, Any]]:
        """The file from its beginning, unpacked and packed."""
        import pyarrow as pa

        if self._compression == "xz":
            packed: Any = self.source.open()
            text: Any = lzma.open(packed)  # noqa: SIM115 (closed below)
        else:
            opened = self.source.for_library()
            packed = pa.OSFile(opened) if isinstance(opened, str) else pa.PythonFile(opened, "r")
            text = packed if self._compression is None else pa.CompressedInputStream(packed, self._compression)
        try:
            yield text, packed
        finally:
            text.close()
            packed.close()

    def _batches(self, fields: dict[str, list[str]], skip: int, threads: bool) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.csv

        types = {name: pa.float64() for name in (*fields.get("predictions", ()), *fields.get("weight", ()))}
        target = fields.get("target", ())
        types |= {name: pa.int64() for name in fields.get("ids", ())}
        one = pa.string() if self.text_target else pa.int64()
        types |= {name: one if len(target) == 1 else pa.float64() for name in target}
        with self._text() as (text, packed):
            self._read = read = _Bounded(text, packed)
            try:
                yield from pyarrow.csv.open_csv(
                    pa.PythonFile(read, "r"),
                    read_options=pyarrow.csv.ReadOptions(
                        block_size=base.BLOCK_BYTES // base.TABLE_SHARE, use_threads=threads, skip_rows_after_names=skip
                    ),
                    parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=list(dict.fromkeys(name for names in fields.values() for name in names)),
                        column_types=types,
                        null_values=[""],  # "nan" and "-inf" are numbers
                    ),
                )
            finally:
                read.end()

    def _explained(self, message: str, fields: dict[str, list[str]]) -> str:
        """Arrow's message in our words: rows are counted from 0 below the names."""
        row = re.search(r"Row #(\d+)", message)
        at = f"row {int(row[1]) - 2}" if row else "a row"
        cell = re.search(r"In CSV column #(\d+): .*conversion error to \w+: invalid value '(.*)'", message, re.DOTALL)
        if cell:
            name = self.names[int(cell[1])]
            field = next(field for field, names in fields.items() if name in names)
            need = {
                "target": "a class index (--classes names text labels)",
                "ids": "an integer",
                "by": "of the kind of the rows before",
            }.get(field, "a number")
            return f"{field}: {self.path}, {at}, column {name!r}: {cell[2]!r:.60} is not {need}"
        width = re.search(r"Expected (\d+) columns, got (\d+)", message)
        if width:
            return f"{self.path}, {at}: {width[2]} cells, where the first line names {width[1]} columns"
        return f"{self.path}: {' '.join(message.split())[:200]}"


def _is_fraction(name: str) -> bool:
    """Whether a column name is a number other than a plain count, as data is and names are not."""
    try:
        float(name)
    except ValueError:
        return False
    return not name.isdigit() and name.lower() not in ("nan", "inf", "infinity")
