"""The focal loss, cross-entropy in which confident rows count less; with its gradient and Hessian diagonal.

It is a function φ of each row's cross-entropy alone, and so are the factors of its derivatives (kernels/focal.py): the
gradient is that of the cross-entropy, each row times φ'.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.checks import ABSENT, Batch
from fastxent.gradients import binary_cross_entropy_value_and_grad, cross_entropy_value_and_grad
from fastxent.kernels import batch as kernels
from fastxent.kernels.focal import BEND, LOSS, SLOPE
from fastxent.losses import binary_cross_entropy, cross_entropy, deliver, loss_output
from fastxent.reductions import new_sums, reduce, values_of
from fastxent.slices import COPY_BYTES, I64, rows_cut
from fastxent.threads import limited

__all__ = ["focal_loss", "focal_loss_value_and_grad"]


def focal_loss(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    gamma: float = 2.0,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Focal loss of softmax predictions, l_i = -w_y (1 - q_iy)^γ ln q_iy with q_i = softmax(z_i).

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    target : integer array, shape (...)
        Class indices 0..C-1.
    gamma : float
        γ in [0, 100]: how much less confident rows count; 0 is the cross-entropy.
    weight, sample_weight, ignore_index, reduction, axis, out, threads
        As in `cross_entropy`; the mean divides by Σ s_i w_y, whatever γ.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats; relative errors as those of `cross_entropy` times 1 + γ: 1 - q_y is never formed by subtracting.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, ICCV (2017).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.focal_loss(np.array([[0.0, 0.0], [0.0, 30.0]]), [0, 1], reduction="none")
    array([1.73286795e-01, 8.19401262e-40])
    """
    value = checks.as_gamma(gamma)
    batch = _hard_batch(logits, target, axis, weight, sample_weight, ignore_index)
    array, rows = loss_output(batch, reduction, out)
    sums, ignoring = new_sums(reduction), (batch.has_ignore, batch.ignore_index)
    n_classes = batch.predictions.n_classes
    with limited(threads):
        for start, stop, z, labels, s in batch.slices(COPY_BYTES // 8):
            nll = np.empty(stop - start)
            row, reason = kernels.hard_cross_entropy(z, labels, ABSENT, ABSENT, *ignoring, 0.0, 1.0).run(nll)
            if reason:
                raise batch.error(start + row, reason)
            data = nll, labels, s, batch.weight, n_classes, *ignoring
            kernels.focal_rows(LOSS, value, *data).run(rows[start:stop], sums)
    return deliver(reduce(reduction, rows, *values_of(sums), batch.predictions.shape), array, out)


def focal_loss_value_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    gamma: float = 2.0,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    hessian: bool = False,
    axis: int = -1,
    threads: int | None = None,
) -> Any:
    """Focal loss with its gradient, φ'(l)·(q_k - 1{k = y}), where the loss is φ(l) of the cross-entropy l = -ln q_y.

    Parameters
    ----------
    logits, target, gamma, weight, sample_weight, ignore_index, axis, threads
        As in `focal_loss`.
    reduction : {"mean", "sum", "none"}
        Of the loss; derivatives are of the reduced loss, of each row's own for "none".
    hessian : bool
        Whether to return the diagonal of φ'(l) ∇²l + max(φ''(l), 0) ∇l ∇lᵀ too. That is the Hessian where φ'' >= 0;
        for rows that are far wrong φ'' < 0, and the Hessian may have negative directions: there the matrix is above
        it, and positive semi-definite as it is everywhere, so that a Newton step with it descends.

    Returns
    -------
    loss : float, or float64 array of shape (...) for reduction="none"
        In nats: what `focal_loss` returns for the same arguments, bit for bit.
    grad : array, the logits' shape and dtype
        In nats a logit. Rows that are ignored are 0.
    hess : array, the logits' shape and dtype
        Only if `hessian`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, ICCV (2017).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> loss, grad = fastxent.focal_loss_value_and_grad(np.zeros((1, 2)), [0], gamma=1.0)
    >>> grad
    array([[-0.4232868,  0.4232868]])
    """
    value, wants_hessian = checks.as_gamma(gamma), checks.as_flag(hessian, "hessian")
    batch = _hard_batch(logits, target, axis, weight, sample_weight, ignore_index)
    n, shape = batch.predictions.n_rows, batch.predictions.shape
    s = ABSENT if batch.sample_weight is None else checks.sample_weight_slice(batch.sample_weight, 0, n, shape)
    options: dict[str, Any] = {"ignore_index": ignore_index, "axis": axis, "reduction": "none"}
    with limited(threads):
        nll = np.reshape(cross_entropy(logits, target, **options), n)
        labels = rows_cut(batch.target, 0, n, I64)
        data = nll, labels, s, batch.weight, batch.predictions.n_classes, batch.has_ignore, batch.ignore_index
        return _chained(
            lambda **scaled: cross_entropy_value_and_grad(logits, target, **options, **scaled),
            *(value, data, shape, checks.as_reduction(reduction), wants_hessian, axis),
        )


def binary_focal_loss_value_and_grad(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    gamma: float = 2.0,
    pos_weight: float | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    hessian: bool = False,
    threads: int | None = None,
) -> Any:
    """`focal_loss_value_and_grad` of one logit a row, shape (n,), and labels 0 and 1, integers of the same shape."""
    value, weight = checks.as_gamma(gamma), np.array([1.0, checks.as_pos_weight(pos_weight)])
    batch = checks.as_binary_batch("logits", logits, labels, sample_weight)
    n, shape = batch.predictions.n_rows, batch.predictions.shape
    s = ABSENT if batch.sample_weight is None else checks.sample_weight_slice(batch.sample_weight, 0, n, shape)
    with limited(threads):
        nll = binary_cross_entropy(logits, labels, reduction="none")
        data = nll, rows_cut(labels, 0, n, I64), s, weight, 2, False, 0
        return _chained(
            lambda **scaled: binary_cross_entropy_value_and_grad(logits, labels, reduction="none", **scaled),
            *(value, data, shape, checks.as_reduction(reduction), hessian, None),
        )


def _hard_batch(logits: Any, target: Any, axis: Any, weight: Any, sample_weight: Any, ignore_index: Any) -> Batch:
    batch = checks.as_batch("logits", logits, target, axis, weight, sample_weight, ignore_index)
    if not batch.is_hard:
        raise ValueError("target: distributions, of the logits' shape; the focal loss needs class indices, one a row")
    return batch


def _chained(
    differentiate: Callable[..., Any],
    gamma: float,
    data: tuple[Any, ...],
    shape: tuple[int, ...],
    reduction: str,
    hessian: bool,
    axis: int | None,
) -> Any:
    """(loss, grad[, hess]) by the chain rule, from the rows' cross-entropies (``data`` begins with them)."""
    nll, labels, _, _, *classes = data
    rows, scale, sums = np.empty(nll.size if reduction == "none" else 0), np.empty(nll.size), new_sums(reduction)
    kernels.focal_rows(LOSS, gamma, *data).run(rows, sums)
    kernels.focal_rows(SLOPE, gamma, *data).run(scale)
    total, mass = values_of(sums)
    if reduction == "mean":
        scale *= 1.0 / mass if mass else 0.0
    _, grad, *hess = differentiate(grad_scale=scale.reshape(shape), hessian=hessian)
    if hess:
        bend = np.empty(nll.size)
        kernels.focal_rows(BEND, gamma, nll, labels, ABSENT, ABSENT, *classes).run(bend)
        _add_bend(hess[0], grad, scale, bend, shape, axis)
    return deliver(reduce(reduction, rows, total, mass, shape), None, None), grad, *hess


def _add_bend(
    hess: np.ndarray, grad: np.ndarray, scale: np.ndarray, bend: np.ndarray, shape: tuple[int, ...], axis: int | None
) -> None:
    """Add max(φ'', 0)·(∂l/∂z)² times the rows' weights, which is g²·bend / scale for the gradient g.

    Where that quotient is not finite, the row is sure, and g² is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = bend / scale
    factor = np.where(np.isfinite(factor), factor, 0.0).reshape(shape)
    if axis is not None:
        hess, grad, factor = np.moveaxis(hess, axis, -1), np.moveaxis(grad, axis, -1), factor[..., None]
    step = max(1, COPY_BYTES // 8 // max(1, grad[:1].size)) if grad.ndim > 1 else max(1, grad.size)
    for i in range(0, len(grad), step):
        g = grad[i : i + step].astype(np.float64)
        h = hess[i : i + step]
        np.add(h, g * factor[i : i + step] * g, out=h, casting="unsafe")
