"""Losses with their gradient and Hessian diagonal, for fitting: one read of the logits, one write of the gradient.

Shapes as in losses.py, and so are the losses, bit for bit.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.checks import ABSENT, Batch
from fastxent.kernels import gradient_calls
from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.losses import deliver, driver_for, empty_like, inputs_of, may_overlap, same_memory
from fastxent.reductions import WEIGHTS, new_sums, reduce, values_of
from fastxent.slices import BF16, COPY_BYTES, F64, INT64_MAX, Predictions, rows_cut
from fastxent.threads import limited

__all__ = ["binary_cross_entropy_value_and_grad", "cross_entropy_value_and_grad"]

Driver = Callable[..., Any]
FEW_LABELS = 1 << 14  # which NumPy compares in no time
DRIVERS = gradient_calls.hard_gradient, gradient_calls.soft_gradient


def cross_entropy_value_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    grad_scale: ArrayLike = 1.0,
    hessian: bool = False,
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of softmax predictions with its gradient, dL/dz_k = (q_k Σ_j c_j - c_k) / T, q = softmax(z / T).

    c_k = w_k p_k are the target's coefficients: w_y at a label y and 0 elsewhere, so that the label's entry is
    -w_y S / (1 + S) / T, with S the sum of the other classes' terms relative to its own.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    target, weight, sample_weight, ignore_index, label_smoothing, temperature, reduction, axis, threads
        As in `cross_entropy`.
    grad_scale : float, or with reduction="none" also an array of shape (...)
        What derivatives are multiplied with before they are rounded to the logits' dtype: so that those of a mean do
        not underflow in float16, or by the gradient with respect to each loss.
    hessian : bool
        Whether to return the diagonal of the Hessian too, Σ_j c_j q_k (1 - q_k) / T^2 of every row, scaled alike.
    out : array, the logits' shape and dtype, optional
        Where to put the gradient; returned. May be the logits themselves. After an error it holds anything.

    Returns
    -------
    loss : float, or float64 array of shape (...) for reduction="none"
        In nats: what `cross_entropy` returns for the same arguments, bit for bit.
    grad : array, the logits' shape and dtype
        grad_scale times the derivatives of the reduced loss with respect to the logits (in nats a logit), of each
        row's own loss for reduction="none"; float64 for integers. Rows that are ignored, and all rows where no row has
        weight, are 0. Rows with a NaN or +inf, or nothing but -inf, are NaN. A class at -inf has 0, unless the target
        gives it weight: then the loss is inf and the entry is the formula's -c_k / T, as in torch.
    hess : array, the logits' shape and dtype
        Only if `hessian`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Bishop: Pattern Recognition and Machine Learning, section 4.3.4. Conventions: torch.nn.CrossEntropyLoss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> loss, grad = fastxent.cross_entropy_value_and_grad(np.array([[0.0, 0.0], [0.0, 100.0]]), [0, 1])
    >>> grad
    array([[-2.50000000e-01,  2.50000000e-01],
           [ 1.86003799e-44, -1.86003799e-44]])
    """
    options: tuple[Any, ...] = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    if out is None and threads is None and weight is None and sample_weight is None:
        made = _of_plain(logits, target, axis, ignore_index, options, reduction, grad_scale, hessian)
        if made is not None:
            return made
    batch = checks.as_batch("logits", logits, target, axis, weight, sample_weight, ignore_index)
    return _value_and_grad(
        batch, *driver_for(batch, DRIVERS, options), reduction, grad_scale, hessian, axis, out, threads
    )


def binary_cross_entropy_value_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: float | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_scale: ArrayLike = 1.0,
    hessian: bool = False,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of one logit a row with its gradient, dL/dz = (1 - t) q - w t (1 - q), q = 1 / (1 + exp(-z)).

    Parameters
    ----------
    logits : array, any shape, float16, bfloat16, float32, float64 or integers
        Log-odds of the positive class.
    target, pos_weight, sample_weight, reduction, threads
        As in `binary_cross_entropy`.
    grad_scale, out
        As in `cross_entropy_value_and_grad`; an array for `grad_scale` has the logits' shape.
    hessian : bool
        Whether to return the second derivative of every row too, (w t + 1 - t) q (1 - q), scaled alike.

    Returns
    -------
    loss : float, or float64 array of the logits' shape for reduction="none"
        In nats: what `binary_cross_entropy` returns for the same arguments, bit for bit.
    grad : array, the logits' shape and dtype
        grad_scale times the derivatives of the reduced loss (in nats a logit); NaN for a NaN logit.
    hess : array, the logits' shape and dtype
        Only if `hessian`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Bishop: Pattern Recognition and Machine Learning, section 4.3.2. Conventions: torch.nn.BCEWithLogitsLoss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> loss, grad, hess = fastxent.binary_cross_entropy_value_and_grad(np.array([0.0, 50.0]), [0, 1], hessian=True)
    >>> grad
    array([ 2.50000000e-01, -9.64374924e-23])
    """
    options = (checks.as_pos_weight(pos_weight),)
    batch = checks.as_binary_batch("logits", logits, target, sample_weight)
    driver = gradient_calls.binary_gradient
    return _value_and_grad(batch, driver, options, reduction, grad_scale, hessian, None, out, threads)


def _of_plain(
    logits: Any,
    target: Any,
    axis: Any,
    ignore_index: Any,
    options: tuple[Any, ...],
    reduction: Any,
    grad_scale: Any,
    hessian: Any,
) -> tuple[Any, ...] | None:
    """The usual small call without options, quickly; None for all others, and for what is refused, for its error."""
    ignores = type(ignore_index) is int and -INT64_MAX <= ignore_index < INT64_MAX
    if type(reduction) is not str or reduction not in checks.REDUCTIONS or type(hessian) is not bool:
        return None
    if type(grad_scale) is not float or not -math.inf < grad_scale < math.inf:
        return None
    views = checks.as_plain("logits", logits, target, axis, None, None, None if ignores else ignore_index)
    if views is None or (ignores and views[1].size > FEW_LABELS):
        return None
    z, labels = views
    index = ignore_index if ignores else 0
    if reduction == "mean":
        kept = labels.size - (int(np.count_nonzero(labels == index)) if ignores else 0)
        grad_scale = mean_scale(grad_scale, kept)
    gradient, second = np.empty_like(z), np.empty_like(z) if hessian else None
    rows = np.empty(labels.size) if reduction == "none" else ABSENT
    driver = gradient_calls.hard_gradient(
        z, labels, ABSENT, gradient, second, grad_scale, ABSENT, ABSENT, ignores, index, *options
    )
    _, refused, total, mass = driver.run_all(rows)
    if refused:
        return None
    loss = reduce(reduction, rows, total, mass, labels.shape)
    return (loss, gradient[0]) if second is None else (loss, gradient[0], second[0])


def _value_and_grad(
    batch: Batch,
    driver: Driver,
    options: tuple[Any, ...],
    reduction: str,
    grad_scale: Any,
    hessian: bool,
    axis: int | None,
    out: Any,
    threads: int | None,
) -> Any:
    """Run a driver over a batch. ``axis`` is None for one number a row."""
    z, reduction = batch.predictions, checks.as_reduction(reduction)
    scale, row_scales = checks.as_grad_scale(grad_scale, reduction, z.shape)
    wants_hessian = checks.as_flag(hessian, "hessian")
    shape = z.shape if axis is None else checks.full_shape(z, axis)
    array = checks.as_output(out, shape, checks.result_dtype(z))
    into = _classes_last(array, axis)
    if into is not None and all(same_memory(into, x) or not may_overlap(into, x) for x in inputs_of(batch)):
        gradient = into
    else:
        gradient = empty_like(z, checks.result_dtype(z))
    results = [gradient] + ([np.empty_like(gradient)] if wants_hessian else [])
    rows = np.empty(z.n_rows) if reduction == "none" else ABSENT
    sums = new_sums(reduction)
    with limited(threads):
        if reduction == "mean":
            scale = mean_scale(scale, values_of(weight_sums(batch))[1])
        _fill(batch, driver, options, scale, row_scales, results, rows, sums)
    loss = deliver(reduce(reduction, rows, *values_of(sums), z.shape), None, None)
    made = [_classes_back(result, axis) for result in results]
    if into is not None and gradient is not into:
        into[...] = gradient
    return loss, (made[0] if out is None else out), *made[1:]


def cross_entropy_grad_sums(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    grad_scale: float = 1.0,
    hessian: bool = False,
    threads: int | None = None,
) -> tuple[np.ndarray, ...]:
    """A part of the rows: the exact sums of the losses, to be merged, and the derivatives of their sum."""
    options: tuple[Any, ...] = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    batch = checks.as_batch("logits", logits, target, -1, weight, sample_weight, ignore_index)
    results = [empty_like(batch.predictions, checks.result_dtype(batch.predictions)) for _ in range(1 + hessian)]
    sums = new_sums("sum")
    with limited(threads):
        _fill(batch, *driver_for(batch, DRIVERS, options), grad_scale, None, results, ABSENT, sums)
    return sums, *results


def binary_cross_entropy_derivatives(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: float | None = None,
    sample_weight: ArrayLike | None = None,
    least_hessian: float = -math.inf,
    threads: int | None = None,
) -> tuple[Any, ...]:
    """First and second derivatives of the sum of the losses, which are not computed; the second ones at least so."""
    batch = checks.as_binary_batch("logits", logits, target, sample_weight)
    options = checks.as_pos_weight(pos_weight), least_hessian
    results = [empty_like(batch.predictions, checks.result_dtype(batch.predictions)) for _ in range(2)]
    with limited(threads):
        _fill(batch, gradient_calls.binary_gradient, options, 1.0, None, results, ABSENT, new_sums("none"))
    return tuple(_classes_back(result, None) for result in results)


def _fill(
    batch: Batch,
    driver: Driver,
    options: tuple[Any, ...],
    scale: float,
    row_scales: np.ndarray | None,
    results: list[np.ndarray],
    rows: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Run a driver over a batch, slice by slice: into the derivatives, the rows' losses, or ABSENT, and exact sums."""
    seen = [result.view(BF16) if batch.predictions.bfloat16 else result for result in results]
    for start, stop, x, t, s, (g, *h) in batch.slices_beside(seen):
        more = ABSENT if row_scales is None else rows_cut(row_scales, start, stop, F64)
        row, reason = driver(x, t, s, g, h[0] if h else None, scale, more, *options).run(rows[start:stop], sums)
        if reason:
            raise batch.error(start + row, reason)


def mean_scale(scale: float, weight: float) -> float:
    """What each row's derivatives are multiplied with in a mean over rows of this weight."""
    return scale / weight if weight != 0.0 else 0.0


def _classes_last(array: np.ndarray | None, axis: int | None) -> np.ndarray | None:
    if array is None or axis == -1:
        return array
    return array[..., None] if axis is None else np.moveaxis(array, axis, -1)


def _classes_back(array: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        array = array[..., 0]
        return array[()] if array.ndim == 0 else array
    return array if axis == -1 else np.moveaxis(array, -1, axis)


def weight_sums(batch: Batch) -> np.ndarray:
    """Exact sums, of the weights alone: what the mean divides by, Σ s_i·w_y of the rows that count, or Σ s_i."""
    z, target, s = batch.predictions, batch.target, batch.sample_weight
    sums = new_sums("mean")
    if s is None and (isinstance(target, Predictions) or not (batch.weight.size or batch.has_ignore)):
        exact_sum_add_block(sums[WEIGHTS], np.array([float(z.n_rows)]), 1)
    elif isinstance(target, Predictions):
        for start in range(0, z.n_rows, COPY_BYTES // 8):
            piece = checks.sample_weight_slice(s, start, min(start + COPY_BYTES // 8, z.n_rows), z.shape)
            exact_sum_add_block(sums[WEIGHTS], piece, piece.size)
    else:
        for start, _, x, t, weights in batch.slices():
            call = gradient_calls.label_weights(x, t, weights, batch.weight, batch.has_ignore, batch.ignore_index)
            row, reason = call.run(sums=sums)
            if reason:
                raise batch.error(start + row, reason)
    return sums
