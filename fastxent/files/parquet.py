"""Parquet: record batches streamed out of the row groups by PyArrow."""

from collections.abc import Iterator

from fastxent.files.arrow import block_of
from fastxent.files.base import BLOCK_BYTES, Block, pyarrow_for


class Parquet:
    """A .parquet file: a column for each class, or one column of lists."""

    def __init__(self, path: str) -> None:
        pa = pyarrow_for(path)
        import pyarrow.parquet

        self.path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a .parquet, or truncated ({' '.join(str(error).split())[:120]})") from None
        self.names: list[str] = self._file.schema_arrow.names
        self.n_rows: int = self._file.metadata.num_rows

    def blocks(self, fields: dict[str, list[str]]) -> Iterator[Block]:
        """Yield the file in blocks of rows."""
        import pyarrow as pa

        columns = list(dict.fromkeys(name for names in fields.values() for name in names))
        row = 0
        try:
            for batch in self._file.iter_batches(self._batch_rows(columns), columns=columns):
                yield block_of(batch, fields, self.path, row)
                row += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: damaged after row {row} ({' '.join(str(error).split())[:120]})") from None

    def fraction(self) -> float:
        """Told by ``n_rows``."""
        return 0.0

    def _batch_rows(self, columns: list[str]) -> int:
        """As many rows as BLOCK_BYTES of the widest row group hold."""
        meta = self._file.metadata
        per_row = 1.0
        for g in range(meta.num_row_groups):
            group = meta.row_group(g)
            parts = (group.column(c) for c in range(group.num_columns))
            # Dictionary encoding makes the stored size an underestimate, the number of values does not: 8 bytes each.
            values = sum(part.num_values for part in parts if _top(part.path_in_schema, columns))
            per_row = max(per_row, 8 * values / max(1, group.num_rows))
        return max(1, int(BLOCK_BYTES / per_row))


def _top(path: str, columns: list[str]) -> bool:
    """Whether a leaf such as ``logits.list.element`` belongs to one of the columns."""
    return path in columns or path.split(".")[0] in columns
