"""Objectives and a metric for XGBoost, as `xgboost.train(obj=, custom_metric=)` and `XGBClassifier(objective=,
eval_metric=)` take them.

Keep the built-in objective's name among the parameters of `train` ("multi:softprob" with num_class, "binary:logistic"):
predictions then are probabilities. XGBClassifier does so itself.

Without options, training grows the trees of the built-in objective if it begins where that does: at the classes'
frequencies, which `base_score` gives to pass on. Otherwise a custom objective begins at XGBoost's base_score of 0.5.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent.adapters.boosting import BinaryLoss, CrossEntropyLoss, Derivatives, SoftmaxLoss, arguments
from fastxent.adapters.labels import as_labels

__all__ = ["BinaryObjective", "CrossEntropyMetric", "SoftmaxObjective"]

# As in multi:softprob. Twice the diagonal bounds the whole Hessian: its other entries of a row add up to as much.
SOFTMAX_FACTOR = 2.0
LEAST_HESSIAN = 1e-16  # as in both built-in objectives
CACHED = 1 << 14  # numbers that are finished together


def _arguments(first: Any, second: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """boosting.arguments, but the labels and weights of a DMatrix stay where they are."""
    if isinstance(getattr(second, "handle", None), ctypes.c_void_p):
        labels = _shown(second, b"label")
        if labels is not None:
            return first, labels, _shown(second, b"weight")
    return arguments(first, second, sample_weight)


def _shown(data: Any, field: bytes) -> np.ndarray | None:
    """What a DMatrix has in a field, in its own memory, so for one call; None for nothing, or where it cannot be had.

    The copies that get_label and get_weight make take 0.18 ms of a round of 200,000 rows, the derivatives 0.4.
    """
    from xgboost import core

    size, numbers = ctypes.c_uint64(), ctypes.POINTER(ctypes.c_float)()
    read = getattr(getattr(core, "_LIB", None), "XGDMatrixGetFloatInfo", None)
    if read is None or read(data.handle, field, ctypes.byref(size), ctypes.byref(numbers)) or not size.value:
        return None
    return np.ctypeslib.as_array(numbers, (size.value,))


class SoftmaxObjective(SoftmaxLoss):
    """What multi:softprob and multi:softmax minimise, with options.

    Parameters
    ----------
    weight : array, shape (C,), optional
        Class weights: finite, at least 0.
    label_smoothing : float
        ε in [0, 1]: the target becomes (1 - ε) one-hot + ε / C.
    gamma : float
        In [0, 100]; above 0 the loss is the focal one. Not together with label_smoothing.
    threads : int, optional
        At most so many, by default one: XGBoost's own threads wait busily between its steps, and the gradient is little
        work beside its trees. None: as many as `fastxent.set_threads` says.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.xgboost import SoftmaxObjective
    >>> grad, hess = SoftmaxObjective(weight=[1.0, 3.0])(np.array([0, 1]), np.zeros((2, 2), np.float32))
    >>> grad, hess
    (array([[-0.5,  0.5],
           [ 1.5, -1.5]], dtype=float32), array([[0.5, 0.5],
           [1.5, 1.5]], dtype=float32))
    """

    def __init__(
        self,
        *,
        weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        threads: int | None = 1,
    ) -> None:
        super().__init__(weight=weight, label_smoothing=label_smoothing, gamma=gamma, threads=threads)

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Derivatives:
        """Gradient and Hessian of (predictions, DMatrix) or of (labels, predictions, sample_weight)."""
        grad, hess = self.derivatives(*_arguments(first, second, sample_weight))
        flat = hess.reshape(-1, order="A")  # a view, whatever the order
        for start in range(0, flat.size, CACHED):
            part = flat[start : start + CACHED]
            part *= SOFTMAX_FACTOR
            np.maximum(part, LEAST_HESSIAN, out=part)
        return grad, hess

    def base_score(self, labels: ArrayLike, sample_weight: ArrayLike | None = None) -> list[float]:
        """Where multi:softprob begins, for the parameter of that name: ln of each class's frequency, less their mean.

        Parameters
        ----------
        labels : array, shape (n,)
            Whole numbers 0..C-1, each of which occurs.
        sample_weight : array, shape (n,), optional
        """
        counts = np.bincount(as_labels(labels, "labels"), None if sample_weight is None else np.asarray(sample_weight))
        if not counts.all():
            raise ValueError(f"labels: class {int(np.argmin(counts))} does not occur, or has no weight")
        scores = np.log(counts / counts.sum())
        return (scores - scores.mean()).tolist()


class BinaryObjective(BinaryLoss):
    """What binary:logistic minimises, with options.

    Parameters
    ----------
    pos_weight : float, optional
        Weight of the positive class, label 1: finite, at least 0. As XGBoost's scale_pos_weight, which is left alone.
    label_smoothing : float
        ε in [0, 1]: the target t becomes (1 - ε) t + ε / 2.
    gamma : float
        In [0, 100]; above 0 the loss is the focal one, of labels 0 and 1. Not together with label_smoothing.
    threads : int, optional
        At most so many, by default one: XGBoost's own threads wait busily between its steps, and the gradient is little
        work beside its trees. None: as many as `fastxent.set_threads` says.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.xgboost import BinaryObjective
    >>> BinaryObjective()(np.array([0.0, 1.0]), np.zeros(2, np.float32))
    (array([ 0.5, -0.5], dtype=float32), array([0.25, 0.25], dtype=float32))
    """

    def __init__(
        self,
        *,
        pos_weight: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        threads: int | None = 1,
    ) -> None:
        super().__init__(pos_weight=pos_weight, label_smoothing=label_smoothing, gamma=gamma, threads=threads)

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Derivatives:
        """Gradient and Hessian of (predictions, DMatrix) or of (labels, predictions, sample_weight)."""
        return self.derivatives(*_arguments(first, second, sample_weight), LEAST_HESSIAN)

    def base_score(self, labels: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Where binary:logistic begins, for the parameter of that name: the share of label 1.

        Parameters
        ----------
        labels : array, shape (n,)
        sample_weight : array, shape (n,), optional
        """
        weights = None if sample_weight is None else np.asarray(sample_weight, float)
        return float(np.average(np.asarray(labels, float), weights=weights))


class CrossEntropyMetric(CrossEntropyLoss):
    """Mean cross-entropy in nats, XGBoost's mlogloss or logloss, without their clipping.

    Parameters
    ----------
    kind : {"logits", "probs"}
        What it is given: "logits" beside an objective of this module, "probs" beside a built-in one.
    name : str
        What reports call it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.xgboost import CrossEntropyMetric
    >>> round(CrossEntropyMetric()(np.array([0, 1]), np.zeros((2, 3))), 6)
    1.098612
    """

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Any:
        """(name, value) of (predictions, DMatrix); the value of (labels, predictions, sample_weight)."""
        value = self.value(*_arguments(first, second, sample_weight))
        return (self.name, value) if hasattr(second, "get_label") else value
