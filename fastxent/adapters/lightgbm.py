"""Objectives and a metric for LightGBM: `lightgbm.train({"objective": ...}, feval=)` takes them, and so do
`LGBMClassifier(objective=)` and its `fit(eval_metric=)`.

Predictions of a model with a custom objective are logits: `fastxent.softmax` makes probabilities of them. Without
options, training grows the trees of the built-in objective with boost_from_average=False: a custom objective begins at
0, or at the data's init_score.
"""

from typing import Any

from fastxent.adapters.boosting import BinaryLoss, CrossEntropyLoss, Derivatives, SoftmaxLoss, arguments

__all__ = ["BinaryObjective", "CrossEntropyMetric", "SoftmaxObjective"]


class SoftmaxObjective(SoftmaxLoss):
    """What LightGBM's multiclass minimises, with options; num_class must be among the parameters of `train`.

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

    References
    ----------
    Friedman: Greedy function approximation: a gradient boosting machine, Annals of Statistics 29 (2001), section 4.6,
    for the factor C / (C - 1) of the Hessian, which is LightGBM's own.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.lightgbm import SoftmaxObjective
    >>> SoftmaxObjective()(np.array([0]), np.zeros((1, 2)))
    (array([[-0.5,  0.5]]), array([[0.5, 0.5]]))
    """

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Derivatives:
        """Gradient and Hessian of (predictions, Dataset) or of (labels, predictions, sample_weight)."""
        grad, hess = self.derivatives(*arguments(first, second, sample_weight))
        n_classes = grad.shape[1]
        hess *= n_classes / (n_classes - 1.0)
        return grad, hess


class BinaryObjective(BinaryLoss):
    """What LightGBM's binary minimises, with options.

    Parameters
    ----------
    pos_weight : float, optional
        Weight of the positive class, label 1: finite, at least 0. As LightGBM's scale_pos_weight, which is left alone.
    label_smoothing : float
        ε in [0, 1]: the target t becomes (1 - ε) t + ε / 2.
    gamma : float
        In [0, 100]; above 0 the loss is the focal one, of labels 0 and 1. Not together with label_smoothing.
    threads : int, optional
        At most so many threads; never changes the result.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.lightgbm import BinaryObjective
    >>> BinaryObjective()(np.array([0.0, 1.0]), np.zeros(2))
    (array([ 0.5, -0.5]), array([0.25, 0.25]))
    """

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Derivatives:
        """Gradient and Hessian of (predictions, Dataset) or of (labels, predictions, sample_weight)."""
        return self.derivatives(*arguments(first, second, sample_weight))


class CrossEntropyMetric(CrossEntropyLoss):
    """Mean cross-entropy in nats, LightGBM's multi_logloss or binary_logloss, without their clipping.

    Parameters
    ----------
    kind : {"logits", "probs"}
        What it is given: "logits" beside an objective of this module, "probs" beside a built-in one.
    name : str
        What reports call it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.adapters.lightgbm import CrossEntropyMetric
    >>> CrossEntropyMetric()(np.array([0, 1]), np.zeros((2, 3)))
    ('cross_entropy', 1.0986122..., False)
    """

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
        """(name, value, whether more is better) of (predictions, Dataset) or (labels, predictions, sample_weight)."""
        return self.name, self.value(*arguments(first, second, sample_weight)), False
