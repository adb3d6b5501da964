"""The functions of losses and scoring on dask arrays, lazily: the bits of one call, whatever the chunks and cluster.

Each chunk of rows becomes something that merges exactly (exact sums, a Scorer); the parts are merged in a tree, in
whatever order they arrive, and rounded once. A task takes one core, as dask counts them, unless `threads` says more.
Class axes are rechunked to one chunk: parts of a row, merged, would have other bits.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks, gradients, losses
from fastxent.arrays import kind_of
from fastxent.kernels.exactsum import exact_sum_merge
from fastxent.reductions import NO_ROWS, divide, new_sums, values_of
from fastxent.scoring.groups import as_groups
from fastxent.scoring.scorer import NOTHING_SCORED, Score, Scorer, ids_of
from fastxent.slices import F64
from fastxent.threads import limited

if TYPE_CHECKING:
    from dask.array import Array
    from dask.delayed import Delayed

__all__ = ["cross_entropy", "cross_entropy_value_and_grad", "log_softmax", "logsumexp", "score", "softmax"]

OBJECT = np.dtype(object)


def logsumexp(logits: "Array", *, axis: int = -1, temperature: float = 1.0, threads: int | None = 1) -> "Array":
    """`fastxent.logsumexp` of a dask array, lazily.

    Parameters
    ----------
    logits : dask array, shape (..., C)
        Any chunks.
    axis, temperature
        As in `fastxent.logsumexp`.
    threads : int
        Of each task.

    Returns
    -------
    float64 dask array, shape (...)
        In nats.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    Examples
    --------
    >>> import dask.array as da, fastxent.dask
    >>> fastxent.dask.logsumexp(da.zeros((4, 2), chunks=(3, 1))).compute()
    array([0.69314718, 0.69314718, 0.69314718, 0.69314718])
    """
    z, _ = _class_last(logits, "logits", axis)
    options: dict[str, Any] = {"temperature": checks.as_temperature(temperature), "threads": _as_threads(threads)}
    cells = tuple(range(z.ndim))
    return _blockwise(partial(_on_logits, losses.logsumexp, **options), cells[:-1], [z, cells], F64, token="logsumexp")


def softmax(logits: "Array", *, axis: int = -1, temperature: float = 1.0, threads: int | None = 1) -> "Array":
    """`fastxent.softmax` of a dask array, lazily.

    Parameters
    ----------
    logits, axis, temperature, threads
        As in `logsumexp`.

    Returns
    -------
    dask array, the logits' shape and dtype
        Chunked as the logits, the class axis in one.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    Examples
    --------
    >>> import dask.array as da, fastxent.dask
    >>> fastxent.dask.softmax(da.zeros((1, 2), chunks=1)).compute()
    array([[0.5, 0.5]])
    """
    return _same_shape(losses.softmax, logits, axis, temperature, threads)


def log_softmax(logits: "Array", *, axis: int = -1, temperature: float = 1.0, threads: int | None = 1) -> "Array":
    """`fastxent.log_softmax` of a dask array, lazily.

    Parameters
    ----------
    logits, axis, temperature, threads
        As in `logsumexp`.

    Returns
    -------
    dask array, the logits' shape and dtype
        In nats; chunked as the logits, the class axis in one.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    Examples
    --------
    >>> import dask.array as da, fastxent.dask
    >>> fastxent.dask.log_softmax(da.zeros((1, 2), chunks=1)).compute()
    array([[-0.69314718, -0.69314718]])
    """
    return _same_shape(losses.log_softmax, logits, axis, temperature, threads)


def cross_entropy(
    logits: "Array",
    target: "Array | ArrayLike",
    *,
    weight: "Array | ArrayLike | None" = None,
    sample_weight: "Array | ArrayLike | None" = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    axis: int = -1,
    threads: int | None = 1,
) -> "Array":
    """`fastxent.cross_entropy` of a dask array, lazily.

    Parameters
    ----------
    logits : dask array, shape (..., C)
        Any chunks.
    target, weight, sample_weight : dask arrays or arrays
        As in `fastxent.cross_entropy`; cut, or rechunked, to the logits' rows.
    ignore_index, label_smoothing, temperature, reduction, axis
        As in `fastxent.cross_entropy`.
    threads : int
        Of each task.

    Returns
    -------
    float64 dask array, shape () or, for reduction="none", (...)
        In nats. The mean of no rows is NaN, with a RuntimeWarning, on clients of a cluster too.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument: at once for shapes, dtypes and options, by compute() for values, with the
        number of the first offending row of a chunk.

    Examples
    --------
    >>> import dask.array as da, fastxent.dask
    >>> logits, labels = da.zeros((1000, 4), chunks=(100, 2)), da.zeros(1000, dtype=int, chunks=300)
    >>> fastxent.dask.cross_entropy(logits, labels).compute()
    np.float64(1.3862943611198906)
    """
    batch = _Batch("logits", logits, target, axis, weight, sample_weight, ignore_index)
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": checks.as_smoothing(label_smoothing),
        "temperature": checks.as_temperature(temperature),
        "threads": _as_threads(threads),
    }
    if checks.as_reduction(reduction) == "none":
        return batch.each_row(partial(losses.cross_entropy, **options, reduction="none"))
    parts = batch.each_chunk(partial(losses.cross_entropy_sums, **options))
    return _tree(parts, _merge_sums, partial(_finish_sums, reduction), F64)


def cross_entropy_value_and_grad(
    logits: "Array",
    target: "Array | ArrayLike",
    *,
    weight: "Array | ArrayLike | None" = None,
    sample_weight: "Array | ArrayLike | None" = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    grad_scale: "Array | ArrayLike" = 1.0,
    hessian: bool = False,
    axis: int = -1,
    threads: int | None = 1,
) -> tuple["Array", ...]:
    """`fastxent.cross_entropy_value_and_grad` of a dask array, lazily.

    The weight that a mean divides by is summed first, from labels and weights alone; then each chunk is read once for
    its losses and its derivatives. Compute the results together.

    Parameters
    ----------
    logits : dask array, shape (..., C)
        Any chunks.
    target, weight, sample_weight, grad_scale : dask arrays or arrays, or a number for grad_scale
        As in `fastxent.cross_entropy_value_and_grad`; cut, or rechunked, to the logits' rows.
    ignore_index, label_smoothing, temperature, reduction, hessian, axis
        As in `fastxent.cross_entropy_value_and_grad`.
    threads : int
        Of each task.

    Returns
    -------
    loss : float64 dask array, shape () or, for reduction="none", (...)
        In nats.
    grad : dask array, the logits' shape and dtype
        Chunked as the logits, the class axis in one.
    hess : dask array, the logits' shape and dtype
        Only if `hessian`.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Examples
    --------
    >>> import dask, dask.array as da, fastxent.dask
    >>> logits, labels = da.zeros((1000, 4), chunks=(100, 2)), da.zeros(1000, dtype=int, chunks=300)
    >>> loss, grad = dask.compute(*fastxent.dask.cross_entropy_value_and_grad(logits, labels, reduction="sum"))
    >>> grad[0]
    array([-0.75,  0.25,  0.25,  0.25])
    """
    reduction, extra = checks.as_reduction(reduction), {}
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": checks.as_smoothing(label_smoothing),
        "temperature": checks.as_temperature(temperature),
        "hessian": checks.as_flag(hessian, "hessian"),
        "threads": _as_threads(threads),
    }
    if np.ndim(grad_scale):
        extra["grad_scale"] = grad_scale, lambda x, shape: checks.as_grad_scale(x, reduction, shape)[1]
    else:
        options["grad_scale"] = checks.as_grad_scale(grad_scale, reduction, ())[0]
    batch = _Batch("logits", logits, target, axis, weight, sample_weight, ignore_index, extra)
    dtype = checks.result_dtype(checks.as_predictions(_stand_in(logits), "logits", axis))
    if reduction == "none":
        function = partial(gradients.cross_entropy_value_and_grad, **options, reduction="none")
        parts = batch.each_chunk(function)
        loss = batch.rows_of(parts, 0)
    else:
        function = partial(_gradient_part, **options)
        divisor = batch.weight(ignore_index, threads) if reduction == "mean" else 1.0
        if isinstance(divisor, float):
            parts = batch.each_chunk(partial(function, divisor=divisor))
        else:
            parts = batch.each_chunk(function, divisor=divisor)
        loss = _tree(batch.part_of_each(parts, 0), _merge_sums, partial(_finish_sums, reduction), F64)
    return loss, *(batch.cells_of(parts, k, dtype, axis) for k in range(1, 3 if hessian else 2))


def score(
    predictions: "Array",
    target: "Array | ArrayLike",
    *,
    ids: "Array | ArrayLike | None" = None,
    by: "Array | ArrayLike | None" = None,
    sample_weight: "Array | ArrayLike | None" = None,
    axis: int = -1,
    threads: int | None = 1,
    **options: Any,
) -> "Delayed":
    """`fastxent.score` of a dask array, lazily.

    Parameters
    ----------
    predictions : dask array, shape (..., C)
        Any chunks.
    target, ids, by, sample_weight : dask arrays or arrays
        As in `fastxent.score`; cut, or rechunked, to the predictions' rows.
    axis : int
        The class axis.
    threads : int
        Of each task.
    **options
        All else that `fastxent.score` takes.

    Returns
    -------
    Delayed
        Of a `Score`. Compute it in a call of its own: dask 2026.8 mixes up the results of a call where arrays and
        Delayed objects meet.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument: at once for shapes, dtypes and options, by compute() for values, with the
        number of the first offending row of a chunk.

    Examples
    --------
    >>> import dask.array as da, fastxent.dask
    >>> logits, labels = da.zeros((1000, 4), chunks=(100, 2)), da.arange(1000, chunks=300) % 4
    >>> fastxent.dask.score(logits, labels).compute().accuracy
    0.25
    """
    new_scorer = partial(Scorer, **options, threads=_as_threads(threads))
    ignore_index = new_scorer().options["ignore_index"]  # complains about the options here and now
    given = {"ids": (ids, ids_of), "by": (by, _groups_of)}
    extra = {name: one for name, one in given.items() if one[0] is not None}
    batch = _Batch("predictions", predictions, target, axis, None, sample_weight, ignore_index, extra)
    parts = batch.each_chunk(partial(_score_part, new_scorer, batch.shape), placed=True)
    return _tree(parts, _merge_scorers, _finish_score, OBJECT).to_delayed().item()


# What tasks do: a chunk of rows becomes a part, parts are merged, the whole is rounded


def _score_part(
    new_scorer: Callable[[], Scorer],
    shape: tuple[int, ...],
    predictions: np.ndarray,
    target: np.ndarray,
    *,
    starts: tuple[int, ...],
    sample_weight: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    by: np.ndarray | None = None,
) -> Scorer:
    """A score card of the rows that begin at `starts` in the whole, of leading shape `shape`."""
    rows, start = predictions.shape[:-1], None
    if rows[1:] == shape[1:]:  # they follow one another in the whole
        start = starts[0] * math.prod(shape[1:])
    elif ids is None:
        ids = np.ravel_multi_index(np.ix_(*(np.arange(i, i + n) for i, n in zip(starts, rows))), shape)
    return new_scorer().update(predictions, target, start=start, ids=ids, by=by, sample_weight=sample_weight)


def _groups_of(by: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Names of groups, one a row."""
    return as_groups(by, shape).reshape(shape)


def _weight_part(
    is_hard: bool,
    n_classes: int,
    dtype: np.dtype,
    ignore_index: int | None,
    threads: int | None,
    *,
    target: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
) -> np.ndarray:
    """The exact sum of a chunk's weights; predictions that are not read stand in for those that would be."""
    rows: Any = sample_weight if target is None else target
    z = np.broadcast_to(np.zeros((), dtype), (*rows.shape, n_classes))
    t = target if is_hard else z
    with limited(threads):
        return gradients.weight_sums(checks.as_batch("logits", z, t, -1, weight, sample_weight, ignore_index))


def _finish_weight(parts: Iterable[np.ndarray]) -> np.float64:
    return np.float64(values_of(_merge_sums(parts))[1])


def _gradient_part(divisor: float, grad_scale: float, **arguments: Any) -> tuple[np.ndarray, ...]:
    scale = gradients.mean_scale(grad_scale, float(divisor))
    return gradients.cross_entropy_grad_sums(**arguments, grad_scale=scale)


def _merge_scorers(parts: Iterable[Scorer]) -> Scorer:
    """One score card of several, which belong to dask and stay as they are."""
    first, *others = parts
    merged = Scorer(**first.options).merge(first)
    for part in others:
        merged.merge(part)
    return merged


def _finish_score(parts: Iterable[Scorer]) -> Score:
    result = _merge_scorers(parts).result()
    if not result.weight > 0:
        _warn_clients(NOTHING_SCORED)
    return result


def _merge_sums(parts: Iterable[np.ndarray]) -> np.ndarray:
    merged = new_sums("sum")
    for part in parts:
        for into, sums in zip(merged, part):
            exact_sum_merge(into, sums)
    return merged


def _finish_sums(reduction: str, parts: Iterable[np.ndarray]) -> np.float64:
    total, weight = values_of(_merge_sums(parts))
    if reduction == "mean" and weight == 0.0:
        _warn_clients(NO_ROWS)
    return np.float64(total if reduction == "sum" else divide(total, weight))


def _warn_clients(message: str) -> None:
    """A warning in a worker stays there: pass it on to the clients."""
    if "distributed.worker" in sys.modules:
        from distributed.worker import get_worker, warn

        with contextlib.suppress(ValueError):  # this is no worker
            get_worker()
            warn(message, RuntimeWarning)


# Graphs


class _Batch:
    """Checked predictions, class axis last, and what else has their rows, in the same chunks of rows.

    ``extra`` holds further arguments, one a row: a name, the value, and the function that checks it and its shape.
    """

    def __init__(
        self,
        name: str,
        predictions: Any,
        target: Any,
        axis: int,
        weight: Any,
        sample_weight: Any,
        ignore_index: int | None,
        extra: Mapping[str, tuple[Any, Callable[[Any, tuple[int, ...]], Any]]] = MappingProxyType({}),
    ) -> None:
        from dask.array import Array, from_array, moveaxis

        z, stand_in = _class_last(predictions, name, axis)
        given = {"target": target, "weight": weight, "sample_weight": sample_weight}
        given |= {key: value for key, (value, _) in extra.items()}
        given = {key: x for key, x in given.items() if x is not None or key == "target"}
        lazy = {key: _known(x, key) for key, x in given.items() if isinstance(x, Array)}
        looks = {key: _stand_in(lazy[key]) if key in lazy else x for key, x in given.items()}
        checked = checks.as_batch(
            name, stand_in, looks["target"], axis, looks.get("weight"), looks.get("sample_weight"), ignore_index
        )
        shape, self.is_hard = checked.predictions.shape, checked.is_hard
        plain = {key: checks.array_of(getattr(checked, key)) for key in given if key not in extra}
        plain |= {key: check(looks[key], shape) for key, (_, check) in extra.items()}
        if not self.is_hard and "target" in lazy:
            lazy["target"] = moveaxis(lazy["target"], axis, -1)

        self._single = shape == ()  # one row, given without a leading dimension: it gets one here
        self.shape = shape or (1,)
        self._z = z[None] if self._single else z
        cells = tuple(range(self._z.ndim))
        self._rows, classes = cells[:-1], cells[-1:]
        self._arrays: dict[str, tuple[Any, tuple[int, ...]]] = {name: (self._z, cells)}
        for key in given:
            x: Any = lazy.get(key, plain[key])
            x = x[None] if self._single and key != "weight" else x
            axes = classes if key == "weight" else cells[: x.ndim]
            chunks = tuple(self._z.chunks[k] for k in axes)
            self._arrays[key] = x.rechunk(chunks) if key in lazy else from_array(x, chunks=chunks), axes

    def each_row(self, function: Callable[..., Any]) -> "Array":
        """A function's number for each row, lazily: float64, of the leading shape."""
        return self._as_given(self._map(function, self._arrays, F64, "rows"))

    def each_chunk(self, function: Callable[..., Any], placed: bool = False, **more: "Array") -> "Array":
        """A function's result for each chunk, lazily; where ``placed``, it is told where the chunk begins.

        ``more`` are further arguments, lazy numbers.
        """
        arrays = self._arrays | {key: (number, ()) for key, number in more.items()}
        return self._map(function, arrays, OBJECT, "parts", placed, adjust_chunks=dict.fromkeys(self._rows, 1))

    def weight(self, ignore_index: int | None, threads: int | None) -> "Array | float":
        """What a mean divides by, without a look at the predictions."""
        arrays = {key: x for key, x in self._arrays.items() if key == "sample_weight"}
        if self.is_hard:
            arrays |= {key: x for key, x in self._arrays.items() if key in ("target", "weight")}
        if not arrays:
            return float(math.prod(self.shape))
        dtype = self._z.dtype if self._z.dtype.kind in "fV" else F64
        options = {"n_classes": self._z.shape[-1], "dtype": dtype, "ignore_index": ignore_index, "threads": threads}
        function, single = partial(_weight_part, self.is_hard, **options), dict.fromkeys(self._rows, 1)
        parts = self._map(function, arrays, OBJECT, "weights", adjust_chunks=single)
        return _tree(parts, _merge_sums, _finish_weight, F64)

    def part_of_each(self, parts: "Array", k: int) -> "Array":
        """Entry k of each chunk's result."""
        return _blockwise(partial(_entry, k), self._rows, [parts, self._rows], OBJECT, token="entries")

    def rows_of(self, parts: "Array", k: int) -> "Array":
        """Entry k of each chunk's result, a float64 number a row, as one array of the leading shape."""
        chunks = {axis: self._z.chunks[axis] for axis in self._rows}
        rows = _blockwise(partial(_entry, k), self._rows, [parts, self._rows], F64, token="rows", adjust_chunks=chunks)
        return self._as_given(rows)

    def cells_of(self, parts: "Array", k: int, dtype: np.dtype, axis: int) -> "Array":
        """Entry k of each chunk's result, of the predictions' shape, as one array like the predictions."""
        from dask.array import moveaxis

        *rows, classes = range(self._z.ndim)
        chunks = {axis: self._z.chunks[axis] for axis in rows}
        more: dict[str, Any] = {"new_axes": {classes: self._z.shape[-1]}, "adjust_chunks": chunks}
        cells = _blockwise(
            partial(_entry, k), (*rows, classes), [parts, tuple(rows)], dtype, token="derivatives", **more
        )
        return moveaxis(self._as_given(cells), -1, axis)

    def _as_given(self, rows: "Array") -> "Array":
        return rows[0] if self._single else rows

    def _map(
        self,
        function: Callable[..., Any],
        arrays: dict[str, tuple[Any, tuple[int, ...]]],
        dtype: np.dtype,
        token: str,
        placed: bool = False,
        **more: Any,
    ) -> "Array":
        from dask.layers import ArraySliceDep

        call = partial(_on_chunk, function, tuple(arrays), self.shape, placed)
        pairs = [ArraySliceDep(self._z.chunks[:-1]), self._rows, *(x for pair in arrays.values() for x in pair)]
        return _blockwise(call, self._rows, pairs, dtype, token=token, **more)


def _on_chunk(
    function: Callable[..., Any],
    names: tuple[str, ...],
    shape: tuple[int, ...],
    placed: bool,
    place: tuple[slice, ...],
    *blocks: Any,
) -> Any:
    """Call a function with a chunk's arrays; its errors name rows by their place in the whole, of leading shape."""
    arguments = dict(zip(names, map(_whole_rows, blocks)))
    starts = tuple(cut.start for cut in place)
    with checks.part_of(shape, starts):
        return function(**arguments, starts=starts) if placed else function(**arguments)


def _entry(k: int, part: tuple[Any, ...]) -> Any:
    return part[k]


def _whole_rows(block: Any) -> Any:
    """A block, out of the list of all blocks along the class axis: it is the only one."""
    return block[0] if isinstance(block, list) else block


def _on_logits(function: Callable[..., Any], block: Any, **options: Any) -> Any:
    return function(_whole_rows(block), **options)


def _blockwise(
    function: Callable[..., Any], axes: tuple[int, ...], pairs: list[Any], dtype: np.dtype, token: str, **more: Any
) -> "Array":
    from dask.array import blockwise

    more |= {"token": f"fastxent-{token}", "dtype": dtype, "meta": np.empty((0,) * len(axes), dtype)}
    return blockwise(function, axes, *pairs, align_arrays=False, **more)  # the chunks agree already


def _tree(
    parts: "Array", merge: Callable[[Iterable[Any]], Any], finish: Callable[[Iterable[Any]], Any], dtype: np.dtype
) -> "Array":
    """Parts merged in a tree and finished: a lazy array without dimensions."""
    from dask.array import reduction

    steps = {"chunk": _itself, "combine": partial(_join, merge), "aggregate": partial(_join, finish)}
    return reduction(parts, **steps, name="fastxent", concatenate=False, dtype=dtype, meta=np.empty((), dtype))


def _itself(part: Any, axis: Any, keepdims: Any) -> Any:
    return part


def _join(function: Callable[[Iterable[Any]], Any], parts: Any, axis: Any, keepdims: Any) -> Any:
    from dask.core import flatten

    return function(flatten(parts))


def _same_shape(
    function: Callable[..., Any], logits: Any, axis: int, temperature: float, threads: int | None
) -> "Array":
    """softmax and its like."""
    from dask.array import moveaxis

    z, stand_in = _class_last(logits, "logits", axis)
    options: dict[str, Any] = {"temperature": checks.as_temperature(temperature), "threads": _as_threads(threads)}
    dtype = checks.result_dtype(checks.as_predictions(stand_in, "logits", axis))
    cells = tuple(range(z.ndim))
    result = _blockwise(partial(_on_logits, function, **options), cells, [z, cells], dtype, token=function.__name__)
    return moveaxis(result, -1, axis)


def _class_last(x: Any, name: str, axis: int) -> tuple["Array", np.ndarray]:
    """A dask array with its class axis last, in one chunk; and what stands in for it, as it was, in checks."""
    from dask.array import moveaxis

    array = _known(x, name)
    stand_in = _stand_in(array)
    checks.as_predictions(stand_in, name, axis)
    return moveaxis(array, axis, -1).rechunk({array.ndim - 1: -1}), stand_in


def _known(x: Any, name: str) -> "Array":
    """A dask array whose chunks' sizes are known."""
    from dask.array import Array

    if not isinstance(x, Array):
        raise TypeError(f"{name}: {kind_of(x)}; need a dask array (fastxent's own functions take other arrays)")
    if any(math.isnan(size) for size in x.shape):
        raise ValueError(f"{name}: the sizes of its chunks are unknown; call its compute_chunk_sizes() first")
    return x


def _stand_in(array: "Array") -> np.ndarray:
    """An array of the same shape and dtype that takes no memory: what checks shapes and dtypes takes it for real."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _as_threads(threads: int | None) -> int | None:
    limited(threads)  # complains here and now
    return threads
