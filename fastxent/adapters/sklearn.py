"""scikit-learn's metrics of probabilities under its own names, signatures and label handling, and scorers of them.

Where scikit-learn's are defined, so are these, to the accuracy of fastxent's losses, except for what they would do
silently: log_loss does not clip a probability of 0 (unless told with ``eps``), rows that do not sum to 1 are refused
(scikit-learn warns; ``sum_tol`` is how far they may be from it), and so are negative weights.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

import fastxent
from fastxent import checks
from fastxent.adapters.errors import renamed
from fastxent.adapters.labels import as_labels, class_indices, columns, encoded
from fastxent.arrays import as_array
from fastxent.kernels import batch as kernels
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_add_block, exact_sum_merge, exact_sum_value
from fastxent.kernels.narrow import widened
from fastxent.kernels.scorecard import prior_nll
from fastxent.reductions import LOSSES, divide, new_sums, values_of
from fastxent.slices import COPY_BYTES

if TYPE_CHECKING:
    d2_log_loss_scorer: Any
    neg_brier_score_scorer: Any
    neg_log_loss_scorer: Any

__all__ = [
    "brier_score_loss",
    "d2_log_loss_score",
    "d2_log_loss_scorer",
    "log_loss",
    "neg_brier_score_scorer",
    "neg_log_loss_scorer",
]


def log_loss(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    eps: float | str = 0.0,
    sum_tol: float = 1e-3,
) -> float:
    """Log loss, the mean or sum of s_i·(-ln p_i,y_i), as sklearn.metrics.log_loss.

    Parameters
    ----------
    y_true : array, shape (n,), integers, strings or booleans; or an indicator matrix (n, C)
        The labels.
    y_proba : array, shape (n, C), or (n,) for two classes, float16, bfloat16, float32 or float64
        Probabilities, the classes in sorted order; of one axis (or one column): that of the greater class.
    normalize : bool
        True: the mean, Σ s_i l_i / Σ s_i. False: the sum, Σ s_i l_i.
    sample_weight : array, shape (n,), optional
        Row weights s: finite, at least 0.
    labels : array, shape (C,), optional
        The classes; by default those that occur in y_true.
    eps : float in [0, 0.5) or "auto"
        Probabilities are clipped to [eps, 1 - eps]. "auto", the machine precision of y_proba's dtype, is what
        scikit-learn does always.
    sum_tol : float
        How far from 1 a row may sum; math.inf accepts all.

    Returns
    -------
    float
        In nats. A label of probability 0 gives inf unless eps > 0.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    sklearn.metrics.log_loss, version 1.9.

    Examples
    --------
    >>> from fastxent.adapters.sklearn import log_loss
    >>> round(log_loss(["spam", "ham", "ham", "spam"], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]), 5)
    0.21616
    """
    if not isinstance(normalize, (bool, np.bool_)):
        raise TypeError(f"normalize: {normalize!r:.60} is neither True nor False")
    probs = _as_probs(y_proba)
    indices = class_indices(y_true, labels, probs)
    return _log_loss(y_true, probs, indices, labels, sample_weight, eps, sum_tol, "mean" if normalize else "sum")


def brier_score_loss(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_label: Any = None,
    labels: ArrayLike | None = None,
    scale_by_half: bool | str = "auto",
    sum_tol: float = 1e-3,
) -> float:
    """Brier score, the mean of Σ_k (p_ik - 1{k = y_i})², as sklearn.metrics.brier_score_loss.

    Parameters
    ----------
    y_true : array, shape (n,), integers, strings or booleans; or an indicator matrix (n, C)
        The labels.
    y_proba : array, shape (n, C), or (n,) for two classes, float16, bfloat16, float32 or float64
        Probabilities, the classes in sorted order; of one axis (or one column): that of pos_label.
    sample_weight : array, shape (n,), optional
        Row weights: finite, at least 0.
    pos_label : label, optional
        For y_proba of one axis: the class that it is about. By default 1 where labels are 0 and 1 or -1 and 1, else
        the greater of two numbers; strings need it.
    labels : array, shape (C,), optional
        For y_proba of two axes: the classes; by default those that occur in y_true.
    scale_by_half : bool or "auto"
        Halve the score, which then is from 0 to 1, not 2; "auto": for two classes.
    sum_tol : float
        How far from 1 a row may sum; math.inf accepts all.

    Returns
    -------
    float
        From 0 to 2, or to 1; 0 is best.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    sklearn.metrics.brier_score_loss, version 1.9.

    Examples
    --------
    >>> from fastxent.adapters.sklearn import brier_score_loss
    >>> round(brier_score_loss([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]), 12)
    0.0375
    """
    probs = _as_probs(y_proba)
    if not (isinstance(scale_by_half, (bool, np.bool_)) or scale_by_half == "auto"):
        raise ValueError(f"scale_by_half: {scale_by_half!r:.60} is not one of True, False, 'auto'")
    half = probs.ndim == 1 or probs.shape[1] < 3 if scale_by_half == "auto" else bool(scale_by_half)
    if probs.ndim == 1:
        return _binary_brier(_is_positive(y_true, pos_label), probs, sample_weight) * (1.0 if half else 2.0)
    _, _, sum_tol = checks.as_log_loss_options(0.0, False, sum_tol)
    indices = class_indices(y_true, labels, probs)
    with _explained(y_true, labels, probs):
        batch = checks.as_batch("y_proba", probs, indices, sample_weight=sample_weight)
        sums = new_sums("mean")
        for start, _, z, t, s in batch.slices():
            row, reason = kernels.hard_brier(z, t, s, sum_tol).run(sums=sums)
            if reason:
                raise batch.error(start + row, reason)
        return float(divide(*values_of(sums))) * (0.5 if half else 1.0)


def d2_log_loss_score(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    eps: float | str = 0.0,
    sum_tol: float = 1e-3,
) -> float:
    """Share of the log loss that is explained, 1 - log loss / that of the classes' frequencies.

    As sklearn.metrics.d2_log_loss_score.

    Parameters
    ----------
    y_true, y_proba, sample_weight, labels, eps, sum_tol
        As in `log_loss`.

    Returns
    -------
    float
        At most 1; 0 for predicting every class with its frequency in y_true. NaN, with a warning, for fewer than two
        rows and where a single class has weight: nothing is there to explain.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    sklearn.metrics.d2_log_loss_score, version 1.9.

    Examples
    --------
    >>> from fastxent.adapters.sklearn import d2_log_loss_score
    >>> d2_log_loss_score([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5])
    0.0
    """
    probs = _as_probs(y_proba)
    indices, n_classes = class_indices(y_true, labels, probs), columns(probs)
    loss = _log_loss(y_true, probs, indices, labels, sample_weight, eps, sum_tol, "mean")
    of_class, total = _class_weights(indices, sample_weight, n_classes)
    if indices.size < 2 or np.count_nonzero(of_class) < 2:
        warnings.warn("D² is not defined for one row or one class: NaN", RuntimeWarning, stacklevel=2)
        return math.nan
    return 1.0 - loss / float(prior_nll(of_class, total))


def _class_weights(indices: np.ndarray, sample_weight: Any, n_classes: int) -> tuple[np.ndarray, float]:
    """Every class's weight and the weight of all, each correctly rounded."""
    s = checks.ABSENT if sample_weight is None else as_array(sample_weight, "sample_weight")[0]
    labels, s = np.ascontiguousarray(indices, np.int64), np.ascontiguousarray(s, float)
    sums, total = np.zeros((n_classes, STATE_SIZE), np.int64), np.zeros(STATE_SIZE, np.int64)
    kernels.class_weights(labels, s, n_classes).run(sums=sums)
    for state in sums:
        exact_sum_merge(total, state)
    return np.array([exact_sum_value(state) for state in sums]), float(exact_sum_value(total))


# make_scorer of each: (function, whether greater is better)
_SCORERS = {
    "d2_log_loss_scorer": (d2_log_loss_score, True),
    "neg_brier_score_scorer": (brier_score_loss, False),
    "neg_log_loss_scorer": (log_loss, False),
}


def __getattr__(name: str) -> Any:
    """The scorers are made when they are asked for: only they need scikit-learn."""
    if name not in _SCORERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sklearn.metrics import make_scorer
    except ImportError:
        raise ImportError(f"{name}: needs scikit-learn: pip install 'fastxent[sklearn]'") from None
    function, greater_is_better = _SCORERS[name]
    scorer = make_scorer(function, response_method="predict_proba", greater_is_better=greater_is_better)
    globals()[name] = scorer
    return scorer


def _as_probs(y_proba: Any) -> np.ndarray:
    """Probabilities as they are, (n, C), or (n,) for one column; bfloat16 widened."""
    array, bfloat16 = as_array(y_proba, "y_proba")
    array = widened(array) if bfloat16 else array
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise ValueError(f"y_proba: shape {array.shape}; need (rows, classes), or (rows,) for two classes")
    return array


def _log_loss(
    y_true: Any,
    probs: np.ndarray,
    indices: np.ndarray,
    labels: Any,
    sample_weight: Any,
    eps: Any,
    sum_tol: Any,
    reduction: str,
) -> float:
    options: Any = {"eps": _as_clip(eps, probs), "sample_weight": sample_weight, "reduction": reduction}
    with _explained(y_true, labels, probs):
        if probs.ndim == 1:
            return fastxent.binary_log_loss(probs, indices, **options)
        return fastxent.log_loss(probs, indices, sum_tol=sum_tol, **options)


def _as_clip(eps: Any, probs: np.ndarray) -> float:
    if isinstance(eps, str) and eps == "auto":
        return float(np.finfo(probs.dtype if probs.dtype.kind == "f" else float).eps)
    return checks.as_eps(eps)


@contextmanager
def _explained(y_true: Any, labels: Any, probs: np.ndarray) -> Iterator[None]:
    """Errors in scikit-learn's words."""
    try:
        with renamed(probs="y_proba", y_proba="y_proba", target="y_true"):
            yield
    except ValueError as error:
        if str(error).startswith("y_true: row"):  # of integers that were taken for class indices after a look at some
            class_indices(y_true, labels, probs, look=False)
        raise


def _is_positive(y_true: Any, pos_label: Any) -> np.ndarray:
    """Whether each label is pos_label."""
    y = as_labels(y_true, "y_true")
    if y.ndim != 1:
        raise ValueError(f"y_true: shape {y.shape}; y_proba of one axis needs one label a row")
    classes, indices = encoded(y, None)
    if len(classes) > 2:
        raise ValueError(f"y_true: {len(classes)} classes; y_proba of one axis needs two")
    if pos_label is None:
        if classes.dtype.kind not in "iu":
            raise ValueError(f"pos_label: say which of {', '.join(map(repr, classes.tolist()))} y_proba is about")
        known = set(classes.tolist())
        pos_label = 1 if known <= {0, 1} or known <= {-1, 1} else classes[-1]
    matches = np.flatnonzero(classes == pos_label)
    return indices == (matches[0] if matches.size else -1)


def _binary_brier(positive: np.ndarray, probs: np.ndarray, sample_weight: Any) -> float:
    """The mean of (p - 1{positive})²."""
    batch = checks.as_binary_batch("y_proba", probs, positive, sample_weight)
    sums = new_sums("mean")
    for start, stop, p, t, s in batch.slices(COPY_BYTES // 8):
        q = p.reshape(-1).astype(float)
        bad = ~((q >= 0.0) & (q <= 1.0))
        if bad.any():
            raise batch.error(start + checks.first(bad), kernels.NOT_PROBABILITY)
        squares = (t.reshape(-1) - q) ** 2
        weights = s if s.size else np.ones(stop - start)
        exact_sum_add_block(sums[LOSSES], squares * weights, q.size)
        exact_sum_add_block(sums[1 - LOSSES], weights, q.size)
    return float(divide(*values_of(sums)))
