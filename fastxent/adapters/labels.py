"""Labels as scikit-learn takes them -> class indices: integers, whole floats, booleans, strings, indicator matrices.

Classes are in sorted order, as the columns of the probabilities must be. What usually comes is recognised from a
sample; then nothing is sorted, and integers 0..C-1 are not even copied.
"""

import warnings
from typing import Any

import numpy as np

from fastxent.arrays import as_array, is_tensor
from fastxent.checks import show
from fastxent.kernels import batch as kernels
from fastxent.kernels import lookup
from fastxent.slices import F64, I64, INT64_MAX
from fastxent.threads import in_parts

SAMPLE = 4096  # labels that are looked at first
FEW_OF_CLASS = 16  # times the number of classes: so few labels show each, where none is rare
TABLE = 1 << 16  # classes so close together are found in a table


def class_indices(y_true: Any, labels: Any, probs: np.ndarray, look: bool = True) -> np.ndarray:
    """The column that every label stands for.

    Parameters
    ----------
    y_true : array, shape (n,) or (n, 1); or an indicator matrix (n, C), one 1 a row
    labels : array, shape (C,), optional
        The classes; by default those that occur in y_true.
    probs : array, shape (n, C), or (n,) for two classes
    look : bool
        Take integers for class indices where a look at some of them suggests it.

    Returns
    -------
    integer array, shape (n,)
        In 0..C-1, but for what is y_true itself: there the kernels check the range.
    """
    n_classes = columns(probs)
    places = _places(y_true, (len(probs), n_classes))
    if places is not None:
        return places
    y = as_labels(y_true, "y_true")
    if len(y) != len(probs):
        raise ValueError(f"y_true: {len(y)} labels, but y_proba has {len(probs)} rows")
    if y.ndim == 2:
        return _indicated(y, n_classes)
    classes = None if labels is None else as_classes(labels)
    if look and y.dtype.kind in "iu":
        first = _first_class(y, classes, n_classes)
        if first is not None:
            return y if first == 0 else y.astype(np.int64) - first
    name = "y_true" if classes is None else "labels"
    classes, indices = encoded(y, classes)
    if len(classes) != n_classes:
        found = ", ".join(map(repr, classes[:10].tolist())) + (", ..." if len(classes) > 10 else "")
        advice = "" if name == "labels" else "; name all classes with labels="
        raise ValueError(f"{name}: {len(classes)} classes ({found}), but y_proba has {n_classes} columns{advice}")
    return indices


def columns(probs: np.ndarray) -> int:
    """Classes of probabilities of shape (n, C), or (n,) for two."""
    return 2 if probs.ndim == 1 else probs.shape[1]


def as_labels(y: Any, name: str) -> np.ndarray:
    """Labels as an array: integers, strings or objects, one a row; or an indicator matrix, integers of two axes."""
    if is_tensor(y) or (hasattr(y, "__dlpack__") and not hasattr(y, "__array__")):
        array, _ = as_array(y, name)
    else:
        array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: shape {array.shape}; need one label a row, or an indicator matrix")
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64)
        strange = whole != array
        if strange.any():
            row = int(np.argmax(strange.reshape(len(array), -1).any(1)))
            value = show(array[row][strange[row]].flat[0])
            raise ValueError(f"{name}: row {row} is {value}; a label is a whole number, a string or a boolean")
        return whole
    if array.dtype.kind not in "iuUSO":
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; need integers, strings or booleans")
    return array


def as_classes(labels: Any) -> np.ndarray:
    """The distinct classes in order. scikit-learn takes columns in that order too, whatever the order of labels."""
    given = as_labels(labels, "labels")
    if given.ndim != 1:
        raise ValueError(f"labels: shape {given.shape}; need one axis")
    classes = _distinct(given, "labels")
    if given.tolist() != classes.tolist():
        message = f"labels: not in sorted order; the columns of y_proba are taken for {classes.tolist()}"
        warnings.warn(message, UserWarning, stacklevel=4)
    return classes


def encoded(y: np.ndarray, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Classes, by default those of y, and each label's index among them."""
    if y.dtype.kind == "O" or (classes is not None and classes.dtype.kind == "O"):
        return _encoded_objects(y, classes)
    if classes is None:
        known = _distinct(y[:: max(1, y.size // SAMPLE)], "y_true")
    elif (classes.dtype.kind in "iu") != (y.dtype.kind in "iu"):
        raise TypeError(f"labels: dtype {classes.dtype} and y_true's, {y.dtype}, have no label in common")
    else:
        known = classes
    indices = _found(y, known)
    if indices is not None and classes is not None and (indices < 0).any():
        raise _outside(y, int(np.argmax(indices < 0)), known)
    if indices is not None and not (indices < 0).any():
        return known, indices
    indices, strange = _looked_up(y, known)
    if strange.any():
        if classes is not None:
            raise _outside(y, int(np.argmax(strange)), known)
        known = np.union1d(known, y[strange])
        indices, _ = _looked_up(y, known)
    return known, indices


def _encoded_objects(y: np.ndarray, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same by a dictionary: what comparing objects would take is some seconds for a million."""
    values = y.tolist()
    known = _distinct(y, "y_true") if classes is None else classes
    position = {label: k for k, label in enumerate(known.tolist())}
    indices = np.fromiter((position.get(label, -1) for label in values), np.int64, len(values))
    if classes is not None and (indices < 0).any():
        raise _outside(y, int(np.argmax(indices < 0)), known)
    return known, indices


def _distinct(y: np.ndarray, name: str) -> np.ndarray:
    if y.dtype.kind != "O":
        return np.unique(y)
    try:
        values = sorted(set(y.tolist()))
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in y.tolist()}))
        raise TypeError(f"{name}: labels of types {kinds} have no order; need one type") from None
    classes = np.empty(len(values), object)
    classes[:] = values
    return classes


def _looked_up(y: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of each label in sorted classes, and whether it is not one of them (then the index is any)."""
    if known.size == 0:
        return np.zeros(y.shape, np.int64), np.ones(y.shape, bool)
    if known.dtype.kind in "iu" and int(known[-1]) - int(known[0]) < TABLE:
        table = np.zeros(int(known[-1]) - int(known[0]) + 1, np.int64)
        table[known - known[0]] = np.arange(known.size)
        indices = table.take(y.astype(np.int64) - np.int64(known[0]), mode="clip")
    else:
        indices = np.minimum(np.searchsorted(known, y), known.size - 1)
    return indices, known[indices] != y


def _found(y: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """The index of each string among the known ones, or -1; None for what is no array of strings in native order."""
    if y.dtype.kind not in "US" or known.dtype.kind != y.dtype.kind or not y.dtype.isnative or not y.dtype.itemsize:
        return None
    same = known.astype(y.dtype)
    if not np.array_equal(same, known):  # longer ones than any label
        return None
    word = next(w for w in (np.uint64, np.uint32, np.uint16, np.uint8) if y.dtype.itemsize % w().itemsize == 0)
    words, known_words = np.ascontiguousarray(y).view(word), np.ascontiguousarray(same).view(word)
    width = y.dtype.itemsize // word().itemsize
    factors = np.random.default_rng(0).integers(0, 2**63, width, np.uint64) << np.uint64(1) | np.uint64(1)
    found = np.empty(y.size, np.int64)

    def find(start: int, stop: int) -> None:
        table = np.empty(1 << (8 * known.size).bit_length(), np.int64)
        lookup.find_words(words[start * width : stop * width], known_words, factors, table, found[start:stop])

    in_parts(find, y.size)
    return found


def _outside(y: np.ndarray, row: int, known: np.ndarray) -> ValueError:
    classes = ", ".join(repr(c) for c in known[:5].tolist()) + (", ..." if known.size > 5 else "")
    return ValueError(f"y_true: row {row} is {y[row : row + 1].tolist()[0]!r}, which is not in labels ({classes})")


def _first_class(y: np.ndarray, classes: np.ndarray | None, n_classes: int) -> int | None:
    """The class of column 0 if the classes are whole numbers in a row, those given or else found; or None.

    All of them occur then, so that any other number is an error, which is left to the kernels.
    """
    if classes is not None:
        if classes.dtype.kind in "iu" and np.array_equal(classes, int(classes[0]) + np.arange(n_classes)):
            return int(classes[0])
        return None
    for part in (y[:: max(1, y.size // (FEW_OF_CLASS * n_classes))], y[:: max(1, y.size // SAMPLE)], y):
        first = int(part.min()) if part.size else 0
        column = part.astype(np.int64, copy=False) - first if first <= INT64_MAX else part
        seen = np.zeros(n_classes, bool)
        seen[column[(column >= 0) & (column < n_classes)]] = True
        if seen.all():
            return first
    return None


def _places(y: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """The column of each row's 1 in the commonest indicator matrices; None for all others, and where one is wrong."""
    if type(y) is not np.ndarray or y.shape != shape or y.size == 0 or y.dtype not in (F64, I64) or y.strides[1] != 8:
        return None
    if not y.dtype.isnative or y.strides[0] % 8 or not y.flags.aligned:
        return None
    one = int(np.ones((), y.dtype).view(np.int64))
    places, numbers = np.empty(len(y), np.int64), y.view(F64)[None]
    _, refused = kernels.Call(
        lookup.indicated_rows, numbers, numbers, kernels.settings(shape[1], kind=one), y.size, places
    ).run()
    return None if refused else places


def _indicated(y: np.ndarray, n_classes: int) -> np.ndarray:
    """The column of each row's 1."""
    if y.dtype.kind not in "iu":
        raise TypeError(f"y_true: an indicator matrix of dtype {y.dtype}; need numbers 0 and 1")
    if y.shape[1] != n_classes:
        raise ValueError(f"y_true: an indicator matrix of {y.shape[1]} columns, but y_proba has {n_classes}")
    rows, columns = np.nonzero(y)
    if not np.array_equal(rows, np.arange(len(y))):
        counts = np.bincount(rows, minlength=len(y))
        row = int(np.argmax(counts != 1))
        raise ValueError(f"y_true: row {row} of the indicator matrix has {counts[row]} entries that are not 0; need 1")
    strange = y[rows, columns] != 1
    if strange.any():
        row = int(np.argmax(strange))
        raise ValueError(f"y_true: row {row} of the indicator matrix has {show(y[row, columns[row]])}; need 0 and 1")
    return columns
