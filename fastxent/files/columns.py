"""Arrow columns to arrays: what .csv, .parquet and Arrow's own files share."""

from typing import Any

import numpy as np

from fastxent.files.base import Block


def block_of(batch: Any, fields: dict[str, list[str]], path: str, row: int) -> Block:
    """The arrays of a record batch whose first row is ``row`` of the file."""
    columns = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    block = {}
    for field, names in fields.items():
        if len(names) == 1:
            block[field] = _column(columns[names[0]], names[0], field, path, row)
        else:
            # One class after the other in memory: each column is copied as it stands, and the kernels take any strides.
            parts = [_column(columns[name], name, field, path, row) for name in names]
            into = np.empty((len(names), batch.num_rows), np.result_type(*{part.dtype for part in parts}))
            for line, part in zip(into, parts):
                line[:] = part
            block[field] = into.T
        if field == "predictions" and block[field].ndim == 1:
            block[field] = block[field][:, None]
    return block


def _column(column: Any, name: str, field: str, path: str, row: int) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    where = f"{field}: {path}"
    if column.null_count:
        at = row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where}, row {at}, column {name!r}: the cell is empty")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if field not in ("predictions", "target"):
            raise ValueError(f"{where}, column {name!r}: holds lists; need one value a row")
        return _lists(column, name, where, row)
    if field in ("by", "cluster") and not pa.types.is_integer(kind):
        return _names(column, name, where)
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if field == "target" and str(kind) in ("string", "large_string", "string_view"):
        return column.to_numpy(zero_copy_only=False)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"{where}, column {name!r}: holds {kind}; need numbers{', or --classes' if field == 'target' else ''}"
        )
    return _values(column)


def _values(column: Any) -> np.ndarray:
    """A column's numbers, none of which is missing: what Arrow's own way needs pandas for, where that is installed."""
    import pyarrow as pa

    return column.to_numpy(zero_copy_only=False) if pa.types.is_boolean(column.type) else np.from_dlpack(column)


def _names(column: Any, name: str, where: str) -> np.ndarray:
    """A column of text, dates or truth values as fixed-width strings."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        raise ValueError(f"{where}, column {name!r}: holds {column.type}; groups need integers or text")
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    names = np.array(column.dictionary.cast(pa.string()).to_pylist(), np.str_)
    return names[_values(column.indices)] if len(column) else np.empty(0, "U1")


def _lists(column: Any, name: str, where: str, row: int) -> np.ndarray:
    """A column of lists of one length, as (rows, length)."""
    import pyarrow.compute as pc

    lengths = _values(pc.list_value_length(column))
    width = int(lengths[0]) if len(lengths) else getattr(column.type, "list_size", 0)
    if (lengths != width).any():
        at = int(np.flatnonzero(lengths != width)[0])
        raise ValueError(
            f"{where}, row {row + at}, column {name!r}: a list of {lengths[at]}, where the rows before have {width}"
        )
    flat = column.flatten()
    if flat.null_count:
        at = row + int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise ValueError(f"{where}, row {at}, column {name!r}: the list has an empty entry")
    return _values(flat).reshape(len(column), width)
