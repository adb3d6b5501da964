"""Arrow arrays, tables and data frames as arrays: views of their buffers wherever that can be.

A column is one buffer, or some (chunks). Columns at even distances are a matrix as they stand: those of one NumPy
block, of a batch of an Arrow file, any two. What is not one matrix becomes `Pieces`, which the slices read one after
another: a chunk as it stands; columns in buffers of their own by copying them, some rows at a time.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

FEW_BYTES = 1 << 18  # a piece of fewer bytes than these is rather copied, together with the next ones

ENCODE = "encode each as its class's number, such as [classes.index(name) for name in target]"
ENCODE_CATEGORIES = "pass {}, if the categories are in the order of the classes"

ArrayOrPieces: TypeAlias = Any  # np.ndarray or Pieces


class Pieces:
    """An array of one or two dimensions whose rows are in several buffers.

    Parameters
    ----------
    pieces : list
        Arrays of rows, or lists of the columns of rows. At least one.
    """

    flags = np.empty(4)[::2].flags  # as of an array whose entries are apart

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = pieces
        lengths = [len(p[0] if isinstance(p, list) else p) for p in pieces]
        self._ends = np.cumsum(lengths).tolist()
        first = pieces[0]
        self.shape: tuple[int, ...] = (self._ends[-1], *((len(first),) if isinstance(first, list) else first.shape[1:]))
        self.dtype = np.result_type(*{a.dtype for p in pieces for a in (p if isinstance(p, list) else [p])})
        self.ndim, self.itemsize = len(self.shape), self.dtype.itemsize
        self.size = int(np.prod(self.shape))
        self._buffer = np.empty(0, self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def column(self) -> "Pieces":
        """The same with a last axis of one."""
        return Pieces([piece[:, None] for piece in self._pieces])

    def reach(self, start: int, most: int) -> int:
        """Where to end the rows to read together from ``start``: with the piece, or after ``most`` if copied."""
        i = bisect_right(self._ends, start)
        end: int = self._ends[i]
        row_bytes = self.size // len(self) * self.itemsize
        if isinstance(self._pieces[i], list) or (end - start) * row_bytes < FEW_BYTES:
            return min(start + most, len(self))
        return end

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop: a view if they are one, otherwise a copy that is valid until the next."""
        parts = list(self._parts(start, stop))
        if len(parts) == 1 and not isinstance(parts[0], list):
            return parts[0]
        size = (stop - start) * (self.size // len(self))
        if self._buffer.size < size:
            self._buffer = np.empty(size, self.dtype)
        # Classes stay one after the other, as they come: the kernels read them in any order.
        into = self._buffer[:size].reshape(*self.shape[1:], stop - start).T
        at = 0
        for part in parts:
            n = len(part[0] if isinstance(part, list) else part)
            if isinstance(part, list):
                for k, column in enumerate(part):
                    into[at : at + n, k] = column
            else:
                into[at : at + n] = part
            at += n
        return into

    def whole(self) -> np.ndarray:
        """A copy of all."""
        return self.read(0, len(self))

    def _parts(self, start: int, stop: int) -> Iterator[Any]:
        while start < stop:
            i = bisect_right(self._ends, start)
            piece, end = self._pieces[i], min(stop, self._ends[i])
            before = self._ends[i - 1] if i else 0
            low, high = start - before, end - before
            yield [c[low:high] for c in piece] if isinstance(piece, list) else piece[low:high]
            start = end


class _Memory:
    """Columns that are evenly spaced, as one array; keeps them alive."""

    def __init__(self, columns: Sequence[np.ndarray], step: int) -> None:
        first = columns[0]
        self.columns = columns
        self.__array_interface__ = first.__array_interface__ | {
            "data": (_address(first), True),
            "shape": (len(first), len(columns)),
            "strides": (*first.strides, step),
        }


def side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray | None:
    """Columns of one length as a matrix that shares their memory, or None where they are not evenly spaced."""
    first = columns[0]
    if any(c.dtype != first.dtype or c.strides != first.strides for c in columns):
        return None
    addresses = [_address(c) for c in columns]
    step = addresses[1] - addresses[0] if len(addresses) > 1 else first.itemsize
    if any(b - a != step for a, b in pairwise(addresses)):
        return None
    return np.asarray(_Memory(columns, step))


def matrix_of(columns: Sequence[Sequence[np.ndarray]], n_rows: int) -> ArrayOrPieces:
    """The chunks of each column, as one matrix."""
    if not columns or not n_rows:
        dtypes = {chunk.dtype for column in columns for chunk in column}
        return np.empty((n_rows, len(columns)), np.result_type(*dtypes or {np.dtype("f8")}))
    if all(len(column) == 1 for column in columns):
        rows = [[column[0] for column in columns]]
    else:
        cut = [Pieces(list(column)) for column in columns]
        ends = sorted({0, *(end for column in cut for end in column._ends)})
        rows = [[column.read(start, stop) for column in cut] for start, stop in pairwise(ends)]
    matrices = [(side_by_side(columns), columns) for columns in rows]
    pieces = [columns if matrix is None else matrix for matrix, columns in matrices]
    return pieces[0] if len(pieces) == 1 and not isinstance(pieces[0], list) else Pieces(pieces)


def _joined(chunks: Sequence[np.ndarray], like: np.ndarray) -> ArrayOrPieces:
    """The chunks of one column, or of one matrix."""
    chunks = [chunk for chunk in chunks if len(chunk)] or [like]
    return chunks[0] if len(chunks) == 1 else Pieces(list(chunks))


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


# Arrow


def from_arrow(x: Any, name: str) -> ArrayOrPieces:
    """An Arrow array, chunked array, record batch or table, or what offers Arrow's C interface."""
    pa = _pyarrow(name)
    if not type(x).__module__.startswith("pyarrow"):
        x = pa.chunked_array(x) if hasattr(x, "__arrow_c_stream__") else pa.array(x)
    if isinstance(x, (pa.Array, pa.ChunkedArray)) and pa.types.is_struct(x.type):
        x = pa.Table.from_batches(map(pa.RecordBatch.from_struct_array, _chunks(x)), pa.schema(x.type.fields))
    if isinstance(x, (pa.RecordBatch, pa.Table)):
        columns = [_arrow_chunks(c, name, f", column {k!r}") for k, c in zip(x.schema.names, x.columns)]
        for k, column in zip(x.schema.names, columns):
            if column[0].ndim != 1:
                raise TypeError(f"{name}: column {k!r} holds lists; pass that column alone")
        return matrix_of(columns, x.num_rows)
    if not isinstance(x, (pa.Array, pa.ChunkedArray)):
        raise TypeError(f"{name}: an object of type {type(x).__name__} is no array of numbers")
    chunks = _arrow_chunks(x, name)
    return _joined(chunks, chunks[0])


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ImportError(f"{name}: reading Arrow data needs pyarrow: pip install 'fastxent[parquet]'") from None
    return pyarrow


def _chunks(x: Any) -> list[Any]:
    return list(x.chunks) if hasattr(x, "chunks") else [x]


def _arrow_chunks(x: Any, name: str, where: str = "") -> list[np.ndarray]:
    """Arrays that share the chunks' memory (of booleans, which Arrow keeps as bits: copies); at least one."""
    import pyarrow as pa

    kind = x.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
        x = pa.chunked_array([chunk.storage for chunk in _chunks(x)], kind)
    if pa.types.is_dictionary(kind):
        raise TypeError(f"{name}: categories{where}; {ENCODE_CATEGORIES.format('its .indices')}")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        raise TypeError(f"{name}: strings{where}; {ENCODE}")
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if is_list else kind
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)):
        raise TypeError(f"{name}: {kind}{where}; need numbers, such as .cast(pyarrow.float64())")
    _refuse_nulls(x.null_count, lambda: x.is_null(), name, where)
    chunks, start = [], 0
    for chunk in _chunks(x) or [pa.array([], kind)]:
        chunks.append(_list_rows(chunk, name, start) if is_list else chunk.to_numpy(zero_copy_only=False))
        start += len(chunk)
    if is_list and any(chunk.shape[1] != chunks[0].shape[1] for chunk in chunks):
        lengths = ", ".join(str(n) for n in dict.fromkeys(chunk.shape[1] for chunk in chunks))
        raise ValueError(f"{name}: lists of {lengths} numbers{where}; need as many in each row")
    return chunks


def _list_rows(chunk: Any, name: str, start: int) -> np.ndarray:
    """A chunk of lists as (rows, length)."""
    n = len(chunk)
    if hasattr(chunk.type, "list_size"):
        width = chunk.type.list_size
    else:
        lengths = np.diff(chunk.offsets.to_numpy())
        width = int(lengths[0]) if n else 0
        if (lengths != width).any():
            at = int(np.argmax(lengths != width))
            raise ValueError(f"{name}: row {start + at} has {lengths[at]} numbers, the rows before {width}")
    values = chunk.flatten()
    _refuse_nulls(values.null_count, lambda: values.is_null(), name, "", start, width)
    return values.to_numpy(zero_copy_only=False).reshape(n, width)


def _refuse_nulls(count: int, mask: Any, name: str, where: str = "", start: int = 0, width: int = 1) -> None:
    if count:
        row = start + int(np.argmax(np.asarray(mask()))) // width
        raise ValueError(f"{name}: row {row}{where} is null, one of {count}; fill or drop missing values")


# Data frames, through Narwhals

FRAME_LIBRARIES = ("pandas", "polars", "modin", "cudf", "narwhals")


def is_frame(x: Any) -> bool:
    """Whether an object is a data frame or a column of one."""
    return any(
        c.__name__ in ("DataFrame", "LazyFrame", "Series") and c.__module__.partition(".")[0] in FRAME_LIBRARIES
        for c in type(x).__mro__
    )


def from_frame(x: Any, name: str) -> ArrayOrPieces:
    """A data frame with a column a class, or a series."""
    if type(x).__module__.startswith("pandas"):
        array = _pandas_block(x)
        if array is not None:
            return array
    import narwhals.stable.v1 as nw

    try:
        frame = nw.from_native(x, eager_only=True, allow_series=True)
    except TypeError:
        advice = "pass x.collect()" if hasattr(x, "collect") else "need numbers"
        raise TypeError(f"{name}: an object of type {type(x).__name__} is no array of numbers; {advice}") from None
    except ValueError as error:  # columns of one name
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from None
    if frame.implementation.is_cudf():
        raise TypeError(f"{name}: a data frame of cudf, on a GPU; bring it to the CPU with .to_pandas()")
    if isinstance(frame, nw.Series):
        chunks = _series_chunks(frame, name, nw)
        return _joined(chunks, chunks[0])
    columns = [_series_chunks(series, name, nw, f", column {series.name!r}") for series in frame.iter_columns()]
    return matrix_of(columns, len(frame))


def _pandas_block(x: Any) -> np.ndarray | None:
    """What pandas keeps as one NumPy array: a series, or a frame whose columns are evenly spaced."""
    dtypes = {x.dtype} if x.ndim == 1 else set(x.dtypes)
    (dtype,) = dtypes if len(dtypes) == 1 else (None,)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
        return None
    if x.ndim == 2:
        n_columns = x.shape[1]
        first, second, last = (_address(x.iloc[:, k].to_numpy()) for k in (0, min(1, n_columns - 1), -1))
        if last - first != (n_columns - 1) * (second - first):
            return None
    array: np.ndarray = x.to_numpy()
    return array


def _series_chunks(series: Any, name: str, nw: Any, where: str = "") -> list[np.ndarray]:
    """A series' memory: one array, or one a chunk."""
    own, dtype = series.to_native(), series.dtype
    if dtype in (nw.Categorical, nw.Enum):
        codes = "x.to_physical()" if series.implementation.is_polars() else "x.cat.codes"
        raise TypeError(f"{name}: categories{where}; {ENCODE_CATEGORIES.format(codes)}")
    if dtype == nw.String:
        raise TypeError(f"{name}: strings{where}; {ENCODE}")
    is_list = dtype in (nw.Array, nw.List)
    if is_list and not series.implementation.is_polars():
        return _arrow_chunks(_pyarrow(name).chunked_array(own), name, where)
    if not (dtype.is_numeric() or dtype == nw.Boolean or dtype == nw.Array):
        advice = "cast them to polars.Array" if is_list else "need numbers"
        raise TypeError(f"{name}: {dtype}{where}; {advice}")
    if not isinstance(getattr(own, "dtype", None), np.dtype):  # NumPy's own have no nulls: NaN is a number there
        _refuse_nulls(series.null_count(), lambda: series.is_null(), name, where)
    if not series.implementation.is_polars():
        return [series.to_numpy()]
    if is_list:
        inner = own.explode() if own.n_chunks() else own
        _refuse_nulls(inner.null_count(), lambda: inner.is_null(), name, where, 0, own.dtype.size)
    return [chunk.to_numpy() for chunk in own.get_chunks()]


def is_arrow(x: Any) -> bool:
    """Whether an object offers Arrow's C interface, or is one of pyarrow's."""
    return hasattr(x, "__arrow_c_array__") or hasattr(x, "__arrow_c_stream__")
