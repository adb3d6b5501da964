"""What objectives and metrics for XGBoost and LightGBM share: arrays of predictions, labels and weights -> numbers."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import fastxent
from fastxent import checks
from fastxent.adapters.errors import renamed
from fastxent.adapters.labels import as_labels
from fastxent.focal import binary_focal_loss_value_and_grad
from fastxent.gradients import binary_cross_entropy_derivatives

Derivatives = tuple[np.ndarray, np.ndarray]


class _Options:
    """Attributes that are the constructor's arguments, and a repr of them."""

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({given})"


class SoftmaxLoss(_Options):
    """Cross-entropy of one logit a class, summed over the rows.

    Parameters
    ----------
    weight : array, shape (C,), optional
        Class weights: finite, at least 0.
    label_smoothing : float
        ε in [0, 1]: the target becomes (1 - ε) one-hot + ε / C.
    gamma : float
        In [0, 100]; above 0 the loss is the focal one. Not together with label_smoothing.
    threads : int, optional
        At most so many threads; never changes the result.
    """

    def __init__(
        self,
        *,
        weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        threads: int | None = None,
    ) -> None:
        self.weight, self.label_smoothing = weight, checks.as_smoothing(label_smoothing)
        self.gamma, self.threads = _as_gamma(gamma, self.label_smoothing), threads

    def derivatives(self, logits: np.ndarray, labels: Any, sample_weight: Any) -> Derivatives:
        """First derivatives, and the diagonal of the second ones: of the logits' shape, dtype and memory order.

        Parameters
        ----------
        logits : float array, shape (n, C)
        labels : array, shape (n,)
            Whole numbers 0..C-1, of any dtype.
        sample_weight : array, shape (n,), or None
        """
        if logits.ndim != 2:
            raise ValueError(f"predictions: shape {logits.shape}; need (rows, classes): set num_class")
        options: dict[str, Any] = {"weight": self.weight, "sample_weight": sample_weight}
        options |= {"reduction": "sum", "hessian": True, "threads": self.threads}
        with renamed(target="labels", logits="predictions"):
            indices = as_labels(labels, "labels")
            if self.gamma:
                _, grad, hess = fastxent.focal_loss_value_and_grad(logits, indices, gamma=self.gamma, **options)
            else:
                options["label_smoothing"] = self.label_smoothing
                _, grad, hess = fastxent.cross_entropy_value_and_grad(logits, indices, **options)
        return grad, hess


class BinaryLoss(_Options):
    """Cross-entropy of one logit a row, summed over the rows.

    Parameters
    ----------
    pos_weight : float, optional
        Weight of the positive class, label 1: finite, at least 0.
    label_smoothing : float
        ε in [0, 1]: the target t becomes (1 - ε) t + ε / 2.
    gamma : float
        In [0, 100]; above 0 the loss is the focal one, of labels 0 and 1. Not together with label_smoothing.
    threads : int, optional
        At most so many threads; never changes the result.
    """

    def __init__(
        self,
        *,
        pos_weight: float | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        threads: int | None = None,
    ) -> None:
        self.pos_weight, self.label_smoothing = pos_weight, checks.as_smoothing(label_smoothing)
        self.gamma, self.threads = _as_gamma(gamma, self.label_smoothing), threads
        checks.as_pos_weight(pos_weight)

    def derivatives(
        self, logits: np.ndarray, labels: Any, sample_weight: Any, least_hessian: float = -math.inf
    ) -> Derivatives:
        """First and second derivatives, of the logits' shape and dtype.

        Parameters
        ----------
        logits : float array, shape (n,)
        labels : array, shape (n,)
            0, 1 or a probability between.
        sample_weight : array, shape (n,), or None
        least_hessian : float
            What smaller second derivatives become.
        """
        if logits.ndim != 1:
            raise ValueError(f"predictions: shape {logits.shape}; need (rows,): one logit a row")
        options: dict[str, Any] = {"pos_weight": self.pos_weight, "sample_weight": sample_weight}
        options["threads"] = self.threads
        with renamed(target="labels", logits="predictions"):
            if self.gamma:
                indices, options = as_labels(labels, "labels"), options | {"reduction": "sum", "hessian": True}
                _, grad, hess = binary_focal_loss_value_and_grad(logits, indices, gamma=self.gamma, **options)
                np.maximum(hess, least_hessian, out=hess)
            else:
                target = smoothed(labels, self.label_smoothing)
                grad, hess = binary_cross_entropy_derivatives(logits, target, least_hessian=least_hessian, **options)
        return grad, hess


class CrossEntropyLoss(_Options):
    """Mean cross-entropy in nats, for reports and early stopping.

    Parameters
    ----------
    kind : {"logits", "probs"}
        What the metric is given: "logits" beside an objective of this module, "probs" beside a built-in one.
    name : str
        What reports call it.
    """

    def __init__(self, *, kind: str = "logits", name: str = "cross_entropy") -> None:
        if kind not in ("logits", "probs"):
            raise ValueError(f"kind: {kind!r:.60} is not one of 'logits', 'probs'")
        self.kind, self.name = kind, name
        self.__name__ = name  # what XGBoost's classifier reports

    def value(self, predictions: np.ndarray, labels: Any, sample_weight: Any) -> float:
        """Mean over the rows, (n, C) or (n,) predictions."""
        with renamed(target="labels", logits="predictions", probs="predictions"):
            if predictions.ndim == 1:
                binary = fastxent.binary_cross_entropy if self.kind == "logits" else fastxent.binary_log_loss
                return float(binary(predictions, labels, sample_weight=sample_weight))
            loss = fastxent.cross_entropy if self.kind == "logits" else fastxent.log_loss
            return float(loss(predictions, as_labels(labels, "labels"), sample_weight=sample_weight))


def arguments(first: Any, second: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Predictions, labels and weights from either convention of a library.

    Its own is (predictions, data), where the data knows its labels and weights; its scikit-learn classes pass
    (labels, predictions, weights).
    """
    if not hasattr(second, "get_label"):
        return second, first, sample_weight
    weights = second.get_weight()
    return first, second.get_label(), weights if weights is not None and len(weights) else None


def smoothed(labels: Any, label_smoothing: float) -> Any:
    """(1 - ε) t + ε / 2."""
    return np.asarray(labels) * (1.0 - label_smoothing) + label_smoothing / 2 if label_smoothing else labels


def _as_gamma(gamma: Any, label_smoothing: float) -> float:
    value = checks.as_gamma(gamma)
    if value and label_smoothing:
        raise ValueError(f"gamma: {value!r} does not go with label_smoothing={label_smoothing!r}; choose one")
    return value
