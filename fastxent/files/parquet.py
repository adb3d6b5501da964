"""Parquet: record batches streamed out of the row groups by PyArrow."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from fastxent.files import base
from fastxent.files.base import Block, TableFile, pyarrow_for
from fastxent.files.columns import block_of
from fastxent.files.source import is_remote, open_source, told_by

_BUFFER_BYTES = 1 << 16  # of a column that are read at once; without it, a row group's column is read whole
_FEWEST_ENTRIES, _MOST_ENTRIES = 64, 1_000_000  # the second is PyArrow's own limit


class Parquet(TableFile):
    """A .parquet file: a column for each class, or one column of lists."""

    at_once = True

    def __init__(self, path: str) -> None:
        pyarrow_for(path)
        import pyarrow.parquet

        self.source = open_source(path)
        with told_by(path, ".parquet"):
            opened = self.source.for_library()
            self._remote = is_remote(path)  # then one request for a row group's neighbouring columns
            # Memory is taken for as many entries as a list in the metadata claims: 0.7 kB for each, of 4 bytes or more.
            entries = max(_FEWEST_ENTRIES, min(self.source.size // 4, _MOST_ENTRIES))
            self._file = pyarrow.parquet.ParquetFile(
                opened, pre_buffer=self._remote, buffer_size=_BUFFER_BYTES, thrift_container_size_limit=entries
            )
            self.names: list[str] = self._file.schema_arrow.names
        meta = self._file.metadata
        self.n_rows: int = meta.num_rows
        self.starts = list(accumulate((meta.row_group(g).num_rows for g in range(meta.num_row_groups)), initial=0))

    def schema(self) -> dict[str, str]:
        """Each column's type."""
        return {field.name: str(field.type) for field in self._file.schema_arrow}

    def blocks(self, fields: dict[str, list[str]], start: int) -> Iterator[Block]:
        """Yield rows from ``start`` on; row groups that end before it are not read."""
        import pyarrow as pa

        columns = list(dict.fromkeys(name for names in fields.values() for name in names))
        first = max(0, bisect_right(self.starts, start) - 1)
        groups, row = range(first, self._file.num_row_groups), self.starts[first]
        try:
            size = self._batch_rows(columns)
            # What is fetched beforehand is kept: one row group at a time then.
            for some in [[group] for group in groups] if self._remote else [groups]:
                for batch in self._file.iter_batches(size, row_groups=some, columns=columns):
                    skip = min(max(0, start - row), batch.num_rows)
                    if skip < batch.num_rows:
                        yield block_of(batch[skip:], fields, self.path, row + skip)
                    row += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: damaged after row {row} ({' '.join(str(error).split())[:120]})") from None

    def _batch_rows(self, columns: list[str]) -> int:
        """As many rows as a chunk holds: every row has as many values as the first."""
        # What the file says of its columns' parts is not asked for: PyArrow ends the process where that is damaged.
        leaves = [leaf for leaf in self._file.schema if _top(leaf.path, columns)]
        values = sum(not leaf.max_repetition_level for leaf in leaves)
        lists = [leaf.path for leaf in leaves if leaf.max_repetition_level]
        groups = range(self._file.num_row_groups)
        group = next((g for g in groups if self.starts[g] < self.starts[g + 1]), None)
        if lists and group is not None:
            first = next(self._file.iter_batches(1, row_groups=[group], columns=lists), None)
            values += sum(len(column.flatten()) for column in first.columns) if first is not None else 0
        return max(1, int(base.BLOCK_BYTES / base.TABLE_SHARE / 8 / max(1, values)))


def _top(path: str, columns: list[str]) -> bool:
    """Whether a leaf such as ``logits.list.element`` belongs to one of the columns."""
    return path in columns or path.split(".")[0] in columns
