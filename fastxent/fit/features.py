"""What a classifier is fitted to, from what the user hands in: features, dense or sparse, labels and weights.

The messages use scikit-learn's words where its own tests of estimators look for them.
"""

import warnings
from typing import Any

import numpy as np
from scipy import sparse

from fastxent.arrays import as_array
from fastxent.checks import SUM_TOL


def as_features(x: Any, name: str) -> Any:
    """Features (n, d) as float32 or float64: a dense array, or scipy.sparse in CSR form."""
    if sparse.issparse(x):
        if x.dtype.kind == "c":
            raise ValueError("X: Complex data not supported")
        matrix = sparse.csr_matrix(x) if not isinstance(x, sparse.sparray) else sparse.csr_array(x)
        features: Any = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float64)
        values = features.data
    else:
        if isinstance(x, np.ndarray) or not hasattr(x, "__array__"):
            array = np.asarray(x)
        else:
            array = np.asarray(x) if hasattr(x, "iloc") else as_array(x, "X")[0]
        if array.dtype.kind == "c":
            raise ValueError(f"X: Complex data not supported, dtype {array.dtype}")
        if array.ndim != 2:
            raise ValueError(
                f"X: Expected 2D array, got {array.ndim}D array instead, shape {array.shape}. Reshape your data with "
                "X.reshape(-1, 1) if it has a single feature, or X.reshape(1, -1) if it is a single row"
            )
        features = values = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    n, d = features.shape
    if n == 0:
        raise ValueError(
            f"X: Found array with 0 sample(s) (shape=({n}, {d})) while a minimum of 1 is required by {name}"
        )
    if d == 0:
        raise ValueError(
            f"X: Found array with 0 feature(s) (shape=({n}, {d})) while a minimum of 1 is required by {name}"
        )
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "infinity"
        row = ""
        if not sparse.issparse(features):
            row = f" at row {int(np.argmax(~np.isfinite(features).all(axis=1)))}"
        raise ValueError(f"Input X contains {what}{row}; {name} needs finite features")
    return features


def feature_names(x: Any) -> "np.ndarray | None":
    """The columns' names of a table, if all are strings."""
    columns = getattr(x, "columns", None)
    if columns is None or sparse.issparse(x):
        return None
    names = list(columns)
    return np.array(names, object) if names and all(isinstance(name, str) for name in names) else None


def as_labels(y: Any, n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes, sorted, and the target: class indices (int64), or distributions (n, C) of float."""
    if y is None:
        raise ValueError(f"y: {name} requires y to be passed, but the target y is None")
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        warnings.warn(
            f"A column-vector y was passed when a 1d array was expected, shape {array.shape}; pass y.ravel()",
            _conversion_warning(),
            stacklevel=4,
        )
        array = array.ravel()
    if array.ndim not in (1, 2) or len(array) != n:
        raise ValueError(f"y: shape {array.shape} is inconsistent with X of {n} rows; need ({n},) or ({n}, classes)")
    if array.dtype.kind == "c":
        raise ValueError("y: Complex data not supported")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("Input y contains NaN or infinity; need class labels")
        if array.ndim == 1 and (array != np.floor(array)).any():
            value = array[array != np.floor(array)][0]
            raise ValueError(
                f"Unknown label type: continuous. y has {value}; need classes, or distributions (n, classes)"
            )
    if array.ndim == 2:
        if array.dtype.kind not in "biuf":
            raise ValueError(f"y: dtype {array.dtype} of shape {array.shape}; need distributions as numbers")
        target = array.astype(np.float64)
        bad = (target < 0).any(axis=1) | ~(np.abs(target.sum(axis=1) - 1.0) <= SUM_TOL)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"y: row {row} is no distribution: it sums to {target[row].sum():.6g}, or has a negative entry"
            )
        return np.arange(array.shape[1]), target
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 8:
        low, high = int(array.min()), int(array.max())
        if high - low < max(1000, n):  # a table is quicker than sorting
            offset = (array - low).astype(np.int64) if low else array.astype(np.int64)
            there = np.bincount(offset, minlength=high - low + 1) > 0
            classes = (np.flatnonzero(there) + low).astype(array.dtype)
            return classes, offset if there.all() else (np.cumsum(there) - 1)[offset]
    classes, index = np.unique(array, return_inverse=True)
    return classes, index.reshape(-1).astype(np.int64)


def _conversion_warning() -> type[Warning]:
    try:
        from sklearn.exceptions import DataConversionWarning
    except ImportError:
        return UserWarning
    category: type[Warning] = DataConversionWarning
    return category


def as_weights(sample_weight: Any, class_weight: Any, classes: np.ndarray, target: np.ndarray) -> "np.ndarray | None":
    """The weight of every row, the class's times its own; None if all are 1."""
    n = len(target)
    weight = None
    if sample_weight is not None:
        weight = np.asarray(sample_weight, np.float64)
        if weight.ndim == 0:
            weight = np.full(n, float(weight))
        if weight.shape != (n,):
            raise ValueError(f"sample_weight: shape {weight.shape}; need one weight a row, ({n},)")
        bad = ~((weight >= 0) & (weight < np.inf))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"sample_weight: row {row} is {weight[row]}; need a finite number that is not negative")
    if class_weight is None:
        return weight
    if target.ndim == 2:
        raise ValueError("class_weight: applies to class labels, but y holds distributions; use sample_weight")
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight: {class_weight!r} is neither 'balanced' nor a dict")
        count = np.bincount(target, weight, len(classes))
        with np.errstate(divide="ignore"):
            factor = np.where(count > 0, count.sum() / (len(classes) * count), 0.0)
    else:
        unknown = [label for label in class_weight if label not in classes]
        if unknown:
            raise ValueError(f"class_weight: {unknown[0]!r} is no class of y")
        factor = np.array([class_weight.get(label, 1.0) for label in classes.tolist()], np.float64)
        if not (factor >= 0).all():
            raise ValueError(f"class_weight: {factor.min()} is negative")
    return factor[target] if weight is None else weight * factor[target]
