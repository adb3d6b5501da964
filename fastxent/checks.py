"""What the user hands in becomes views that the kernels can read; every user error is raised here, in one line.

``as_batch`` and ``as_binary_batch`` take arrays of any origin, check shapes and dtypes, and keep the user's memory;
``Batch.slices`` hands it to the kernels piece by piece. The values are checked by the kernels, which report the first
offending row; ``Batch.error`` turns that report into a message.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.arrays import as_pieces, is_text, kind_of, writable_array
from fastxent.frames import ENCODE, ArrayOrPieces, Pieces
from fastxent.kernels.batch import first_bad_weight
from fastxent.kernels.narrow import widened
from fastxent.options import (  # noqa: F401  (what checks an option is this module's, to its callers)
    KINDS,
    REDUCTIONS,
    as_eps,
    as_flag,
    as_gamma,
    as_ignore_index,
    as_kind,
    as_log_loss_options,
    as_pos_weight,
    as_real,
    as_reduction,
    as_smoothing,
    as_temperature,
)  # fmt: skip
from fastxent.slices import (
    COPY_BYTES,
    F32,
    F64,
    I64,
    PLAIN,
    SLICE_BYTES,
    Predictions,
    is_ready,
    is_whole,
    row_of,
    row_slices,
    rows_cut,
)

ABSENT = np.empty(0)  # stands for weights that were not given
_whole: ContextVar[tuple[tuple[int, ...], tuple[int, ...]] | None] = ContextVar("fastxent_whole", default=None)
SUM_TOL = 1e-3  # how far from 1 a distribution may sum, where no option says


@dataclass(slots=True, eq=False)  # never changed
class Batch:
    """Checked predictions with their target and weights."""

    predictions: Predictions
    target: Any  # class indices of the leading shape (an array, or Pieces), or distributions (Predictions)
    weight: np.ndarray  # float64[n_classes], or ABSENT
    sample_weight: ArrayOrPieces | None  # of the leading shape
    has_ignore: bool
    ignore_index: int
    is_binary: bool = False  # one logit or probability a row: n_classes = 1 and the target a probability

    @property
    def is_hard(self) -> bool:
        """Whether the target holds class indices."""
        return not isinstance(self.target, Predictions)

    def slices(self, max_rows: int | None = None) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (start, stop, z, t, s): predictions and soft target 3-D, labels int64 and weights float64 1-D."""
        for start, stop, z, t, s, _ in self.slices_beside((), max_rows):
            yield start, stop, z, t, s

    def slices_beside(
        self, outs: Sequence[np.ndarray], max_rows: int | None = None
    ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]]:
        """The same with the views of outputs of the predictions' shape, as `slices.row_slices` has them."""
        predictions, target, sample_weight = self.predictions, self.target, self.sample_weight
        matrices, labels = [predictions], None
        if isinstance(target, Predictions):
            matrices.append(target)
            if self.is_binary and not all(m.array.flags.c_contiguous or len(m.shape) < 2 for m in matrices):
                max_rows = COPY_BYTES // 16  # the driver copies
        else:
            labels = target
        per_row = 0 if labels is None or is_ready(labels, I64) else 8
        per_row += 0 if sample_weight is None else 8
        s = ABSENT
        for start, stop, views in row_slices(matrices, per_row, max_rows, outs):
            t = views[1] if labels is None else rows_cut(labels, start, stop, I64)
            if sample_weight is not None:
                s = sample_weight_slice(sample_weight, start, stop, predictions.shape)
            yield start, stop, views[0], t, s, views[len(matrices) :]

    def whole(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The (z, t, s) of slices() if one slice holds all rows as they are, as in the usual small call; or None."""
        z, target, s = self.predictions, self.target, ABSENT
        if z.n_rows == 0 or not is_whole(z):
            return None
        if isinstance(target, Predictions):
            if not is_whole(target):
                return None
            t = target.array.reshape(1, z.n_rows, z.n_classes)
        else:
            if not is_ready(target, I64):
                return None
            t = target if target.ndim == 1 else target.reshape(-1)
        if self.sample_weight is not None:
            if not is_ready(self.sample_weight, F64):
                return None
            s = sample_weight_slice(self.sample_weight, 0, z.n_rows, z.shape)
        return z.array.reshape(1, z.n_rows, z.n_classes), t, s

    def _label(self, row: int) -> int:
        return int(rows_cut(self.target, row, row + 1, self.target.dtype)[0])

    def error(self, row: int, reason: int) -> ValueError:
        """The message for what a kernel reported about a row of the whole batch."""
        from fastxent.kernels import batch as codes

        z, target = self.predictions, self.target
        at = where(row, z.shape)
        if isinstance(target, Predictions):
            if self.is_binary:
                return binary_error(z, target, row)
            if reason in (codes.TARGET_NEGATIVE, codes.TARGET_SUM):
                return distribution_error(target, row, "class indices have one dimension fewer")
        elif reason == codes.LABEL:
            return label_error(self._label(row), at, z.n_classes)
        if reason == codes.POSITIVE_LOG_PROB:
            values = row_of(z, row)
            k = self._label(row) if self.is_hard else first(~(values <= 0))
            return ValueError(f"{z.name}: {at} has {show(values[k])} for class {k}; a log-probability is at most 0")
        return distribution_error(z, row, "normalize=True divides by the sum")


# Predictions, targets, weights


def as_batch(
    name: str,
    predictions: Any,
    target: Any,
    axis: Any = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Any = None,
) -> Batch:
    """Check the arguments that every loss over classes shares."""
    z = as_predictions(predictions, name, axis)
    t = as_target(target, z, axis)
    has_ignore, index = as_ignore_index(ignore_index)
    if has_ignore and isinstance(t, Predictions):
        raise ValueError("ignore_index: applies to class indices, but target holds distributions; use sample_weight")
    return Batch(z, t, as_weight(weight, z.n_classes), as_sample_weight(sample_weight, z.shape), has_ignore, index)


def as_plain(
    name: str, predictions: Any, target: Any, axis: Any, weight: Any, sample_weight: Any, ignore_index: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """What as_batch and Batch.whole make of the commonest arguments, in a quarter of the time; None for all others.

    Those are (rows, classes) of float32 or float64, contiguous, one int64 label a row, and no options.
    """
    if type(predictions) is not np.ndarray or type(target) is not np.ndarray or type(axis) is not int or axis != -1:
        return None
    if weight is not None or sample_weight is not None or ignore_index is not None:
        return None
    dtype, shape = predictions.dtype, predictions.shape
    if target.dtype is not I64 or not (dtype is F32 or dtype is F64) or len(shape) != 2 or target.shape != shape[:1]:
        return None
    if predictions.flags.num & target.flags.num & PLAIN != PLAIN or not 0 < predictions.nbytes <= SLICE_BYTES // 2:
        return None
    return predictions[None], target


def as_binary_batch(name: str, predictions: Any, target: Any, sample_weight: Any = None) -> Batch:
    """Check the arguments of a binary loss: arrays of one shape, one number a row."""
    z, t = (_one_column(x, x_name) for x, x_name in ((predictions, name), (target, "target")))
    if z.array.dtype.kind == "b":
        raise TypeError(f"{name}: booleans; need numbers, such as float64")
    if t.shape != z.shape:
        raise ValueError(f"target: shape {t.shape} does not match {name} of shape {z.shape}; need the same shape")
    if t.array.dtype.kind in "biu" and not t.bfloat16:
        t = t._replace(dtype=z.arithmetic)  # 0 and 1 fit any dtype
    return Batch(z, t, ABSENT, as_sample_weight(sample_weight, z.shape), False, 0, is_binary=True)


def _one_column(x: Any, name: str) -> Predictions:
    array, bfloat16 = as_pieces(x, name)
    if isinstance(array, Pieces) and array.ndim > 1:
        array = array.whole()
    dtype = F32 if array.dtype.kind == "b" else float_dtype(array, bfloat16, name)
    column = array.column() if isinstance(array, Pieces) else array[..., None]
    return Predictions(name, column, array.shape, array.size, 1, dtype, bfloat16)


def as_predictions(x: Any, name: str, axis: Any = -1) -> Predictions:
    """Check predictions of shape (..., C, ...), the classes on ``axis``; nothing is copied."""
    array, bfloat16 = as_pieces(x, name)
    if array.ndim == 0:
        raise ValueError(f"{name}: a single number; need an array with a class axis, such as (rows, classes)")
    dtype = float_dtype(array, bfloat16, name)
    if axis != -1 or type(axis) is not int:
        array = class_axis_last(array, axis, name)
    shape, n_classes = array.shape[:-1], array.shape[-1]
    if n_classes == 0:
        raise ValueError(f"{name}: has no classes ({shape} rows of 0); need at least one class")
    return Predictions(name, array, shape, array.size // n_classes, n_classes, dtype, bfloat16)


def as_pair(p: Any, q: Any, *, axis: Any = -1) -> tuple[Predictions, Predictions]:
    """Two matrices of one shape, which the kernels see in one dtype."""
    a, b = as_predictions(p, "p", axis=axis), as_predictions(q, "q", axis=axis)
    if a.array.shape != b.array.shape:
        shapes = full_shape(b, axis), full_shape(a, axis)
        raise ValueError("q: shape {} does not match p of shape {}; need the same shape".format(*shapes))
    dtype = a.dtype if a.dtype == b.dtype else max(a.arithmetic, b.arithmetic)
    return (a, b) if a.dtype == b.dtype else (a._replace(dtype=dtype), b._replace(dtype=dtype))


def class_axis_last(array: ArrayOrPieces, axis: Any, name: str) -> np.ndarray:
    """A view with ``axis`` moved to the end; pieces become one array."""
    if isinstance(axis, (bool, np.bool_)) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis: {axis!r:.60} is not an integer")
    position = operator.index(axis)
    if not -array.ndim <= position < array.ndim:
        raise ValueError(f"axis: {position} is outside {name}, which has {array.ndim} axes (shape {array.shape})")
    return np.moveaxis(array.whole() if isinstance(array, Pieces) else array, position, -1)


def full_shape(z: Predictions, axis: int) -> tuple[int, ...]:
    """The shape the user gave, the classes on ``axis``."""
    return z.array.shape if axis == -1 else np.moveaxis(z.array, -1, axis).shape


def float_dtype(array: ArrayOrPieces, bfloat16: bool, name: str) -> np.dtype:
    """What the kernels see of an array: its own dtype, in native byte order; float64 for integers."""
    dtype = array.dtype
    if dtype is F32 or dtype is F64:
        return dtype
    kind, size = dtype.kind, dtype.itemsize
    if bfloat16 or (kind == "f" and size <= 8):
        return np.dtype(dtype.char)
    if kind in "iu":
        return F64
    raise TypeError(f"{name}: dtype {dtype} is not supported; need float16, bfloat16, float32, float64 or integers")


def result_dtype(z: Predictions) -> np.dtype:
    """The dtype of a result that has the logits' own: float64 for integers, native byte order."""
    if z.bfloat16:
        return _bfloat16("results")
    return z.array.dtype.newbyteorder("=") if z.array.dtype.kind == "f" else F64


def array_of(checked: Predictions | ArrayOrPieces) -> np.ndarray:
    """What was checked, as one array with its own dtype, bfloat16 too; a class axis last."""
    array = checked.array if isinstance(checked, Predictions) else checked
    array = array.whole() if isinstance(array, Pieces) else array
    is_bfloat16 = isinstance(checked, Predictions) and checked.bfloat16
    return array.view(_bfloat16("arrays")) if is_bfloat16 else array


def _bfloat16(what: str) -> np.dtype:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(f"bfloat16 {what} need ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(bfloat16)


def as_target(target: Any, predictions: Predictions, axis: Any = -1) -> Any:
    """Class indices, an integer array of the leading shape; or distributions, of the predictions' own shape."""
    array, bfloat16 = as_pieces(target, "target")
    z = predictions
    if array.shape == z.shape:
        if array.dtype is I64 or (array.dtype.kind in "iu" and not bfloat16):
            return array
        if array.size == 0 and isinstance(target, (list, tuple)):
            return array.astype(I64)  # an empty list has no dtype of its own
        dtype = "bfloat16" if bfloat16 else array.dtype
        advice = "pass .astype('int64')" if array.dtype.kind in "fb" else ENCODE if is_text(array) else "need integers"
        if array.dtype.kind == "f" and isinstance(array, np.ndarray) and np.isnan(array).any():
            advice = f"{where(first(np.isnan(array)), z.shape)} is nan: fill or drop missing values"
        raise TypeError(f"target: dtype {dtype} cannot be class indices (shape {array.shape}, one a row); {advice}")
    if array.ndim == len(z.shape) + 1:
        soft = array if axis == -1 else class_axis_last(array, axis, "target")
        if soft.shape == z.array.shape:
            one_hot = array.dtype.kind in "biu" and not bfloat16  # 0 and 1 fit any dtype
            dtype = z.arithmetic if one_hot else float_dtype(array, bfloat16, "target")
            return Predictions("target", soft, z.shape, z.n_rows, z.n_classes, dtype, bfloat16)
    full = full_shape(z, axis)
    raise ValueError(
        f"target: shape {array.shape} does not go with {z.name} of shape {full}; "
        f"need class indices of shape {z.shape} or distributions of shape {full}"
    )


def as_weight(weight: Any, n_classes: int) -> np.ndarray:
    """Class weights: float64[n_classes], finite and not negative; ABSENT for None."""
    if weight is None:
        return ABSENT
    array = _real_array(weight, "weight")
    if array.shape != (n_classes,):
        raise ValueError(f"weight: shape {array.shape}; need one weight a class, shape ({n_classes},)")
    array = rows_cut(array, 0, n_classes, F64)
    _refuse_bad_weights(array, "weight", lambda k: f"class {k}")
    return array


def as_sample_weight(sample_weight: Any, shape: tuple[int, ...]) -> ArrayOrPieces | None:
    """Row weights of exactly the leading shape; the values are checked slice by slice."""
    if sample_weight is None:
        return None
    array = _real_array(sample_weight, "sample_weight")
    if array.shape != shape:
        raise ValueError(f"sample_weight: shape {array.shape}; need one weight a row, shape {shape} (no broadcasting)")
    return array


def sample_weight_slice(sample_weight: ArrayOrPieces, start: int, stop: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of rows start to stop: float64, contiguous, checked."""
    piece = rows_cut(sample_weight, start, stop, F64)
    _refuse_bad_weights(piece, "sample_weight", lambda i: where(start + i, shape))
    return piece


def _real_array(x: Any, name: str) -> ArrayOrPieces:
    array, bfloat16 = as_pieces(x, name)
    if bfloat16:
        array = widened(array)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; need real numbers, such as float64")
    return array


def _refuse_bad_weights(array: np.ndarray, name: str, place: Callable[[int], str]) -> None:
    i = first_bad_weight(array)
    if i >= 0:
        raise ValueError(f"{name}: {place(i)} has {show(array[i])}; need finite weights of at least 0")


def as_grad_scale(value: Any, reduction: str, shape: tuple[int, ...]) -> tuple[float, np.ndarray | None]:
    """(a finite number, None); or (1, one number a row), for reduction="none" alone."""
    rows = hasattr(value, "__len__") and not isinstance(value, (str, bytes)) and getattr(value, "shape", None) != ()
    if not rows:
        return as_real(value, "grad_scale", -math.inf, math.inf, open_low=True, open_high=True), None
    if reduction != "none":
        raise ValueError(f"grad_scale: one number a row needs reduction='none', not {reduction!r}; pass one number")
    array = _real_array(value, "grad_scale")
    if array.shape != shape:
        raise ValueError(f"grad_scale: shape {array.shape}; need a number or one a row, shape {shape}")
    return 1.0, array


def as_output(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """The array behind ``out``, which must have exactly this shape and dtype; None for None."""
    if out is None:
        return None
    array = writable_array(out)
    if array is None:
        raise TypeError(f"out: {kind_of(out)} cannot be written to; need a NumPy array of shape {shape}, dtype {dtype}")
    if array.shape != shape:
        raise ValueError(f"out: shape {array.shape}; need {shape}")
    if array.dtype != dtype:
        raise TypeError(f"out: dtype {array.dtype}; need {dtype}")
    if not array.flags.writeable:
        raise ValueError("out: is read-only; need an array that can be written to")
    return array


# Messages


@contextmanager
def part_of(shape: tuple[int, ...], starts: tuple[int, ...]) -> Iterator[None]:
    """Name rows by their place in the whole, of that leading shape: a part's begin at `starts`, one an axis."""
    token = _whole.set((shape, starts))
    try:
        yield
    finally:
        _whole.reset(token)


def where(row: int, shape: tuple[int, ...]) -> str:
    """Name a row, with its index where that says more."""
    whole = _whole.get()
    if whole is not None and len(whole[0]) == 1:  # whatever the part's own shape, its rows follow one another
        row, shape = row + whole[1][0], whole[0]
    elif whole is not None:
        index = [i + start for i, start in zip(np.unravel_index(row, shape), whole[1])]
        shape, row = whole[0], int(np.ravel_multi_index(index, whole[0]))
    if len(shape) < 2:
        return f"row {row}"
    return f"row {row} (index {tuple(int(i) for i in np.unravel_index(row, shape))})"


def show(value: Any) -> str:
    """A number as the user would write it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def first(mask: np.ndarray) -> int:
    """Index of the first True."""
    return int(np.argmax(mask))


def label_error(label: int, at: str, n_classes: int) -> ValueError:
    """A class index out of range, with the convention it may come from."""
    advice = ""
    if label in (-100, -1, 255):
        advice = f"; if {label} marks rows to skip, pass ignore_index={label}"
    elif label == n_classes:
        advice = "; class indices start at 0"
    return ValueError(f"target: {at} is {label}, outside 0..{n_classes - 1}{advice}")


def distribution_error(p: Predictions, row: int, advice: str) -> ValueError:
    """A row that is no distribution: an entry outside [0, 1], or else the sum."""
    at, values = where(row, p.shape), row_of(p, row)
    bad = ~((values >= 0) & (values < math.inf if p.name == "target" else values <= 1))
    if bad.any():
        k = first(bad)
        need = "finite and at least 0" if p.name == "target" else "in [0, 1]"
        return ValueError(f"{p.name}: {at} has {show(values[k])} for class {k}; a probability is {need}")
    total = math.fsum(values.tolist())
    return ValueError(f"{p.name}: {at} sums to {total:.9g}, not to 1; {advice}")


def pair_error(matrices: tuple[Predictions, ...], row: int) -> ValueError:
    """The first of the matrices whose row is no distribution."""
    for m in matrices:
        values = row_of(m, row)
        if not ((values >= 0) & (values <= 1)).all() or not abs(math.fsum(values.tolist()) - 1) <= SUM_TOL:
            break
    return distribution_error(m, row, f"need 1 within {SUM_TOL:g}, or another kind")


def binary_error(z: Predictions, target: Predictions, row: int) -> ValueError:
    """A number that is no probability, in a binary target or else in the predictions."""
    at, value = where(row, z.shape), row_of(target, row)[0]
    if not 0 <= value <= 1:
        advice = "; for labels -1 and 1 pass (y + 1) / 2" if value == -1 else ""
        return ValueError(f"target: {at} is {show(value)}, not a probability (0, 1, or between){advice}")
    return ValueError(f"{z.name}: {at} is {show(row_of(z, row)[0])}, not a probability in [0, 1]")
