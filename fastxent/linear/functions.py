"""Linear cross-entropy: classes scored from hidden states and a classifier, the logits never all there."""

from typing import Any

from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.linear.blocks import LinearBatch, blas_threads, losses
from fastxent.linear.checks import as_linear_batch
from fastxent.linear.gradients import value_and_gradients
from fastxent.reductions import reduce, values_of
from fastxent.slices import F64, rows_cut

__all__ = ["linear_cross_entropy", "linear_cross_entropy_value_and_grad"]


def linear_cross_entropy(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    return_lse: bool = False,
    return_rank: bool = False,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of a linear classifier, l_i = -w_y ln softmax(z_i / T)_y with z_i = W h_i + b, in blocks.

    Logits are made by BLAS for some rows and some classes at a time, folded into the rows' sums, and forgotten: memory
    besides the inputs stays below 64 MB however many rows and classes there are. With a soft cap c the logits are
    c tanh(z / c).

    Parameters
    ----------
    hidden : array, shape (..., D), float16, bfloat16, float32, float64 or integers
        Hidden states h.
    linear_weight : array, shape (V, D), of any such dtype
        The classifier W, one row a class. float16 and bfloat16 are widened block by block.
    target : integer array, shape (...)
        Class indices 0..V-1. Distributions are not supported.
    linear_bias : array, shape (V,), optional
        b; -inf masks a class.
    weight : array, shape (V,), optional
        Class weights w: finite, at least 0.
    sample_weight : array, shape (...), optional
        Row weights s: finite, at least 0.
    ignore_index : int, optional
        Rows with this label are not read: loss 0, weight 0 in the mean.
    label_smoothing : float
        ε in [0, 1], as in `cross_entropy`.
    temperature : float
        T: positive, finite.
    softcap : float, optional
        c: positive, finite.
    reduction : {"mean", "sum", "none"}
        As in `cross_entropy`.
    return_lse : bool
        Return each row's ln Σ_k exp(z_k / T) as well.
    return_rank : bool
        Return each row's rank of the label as well: how many classes stand before it.
    out : float64 array, optional
        Where to put the loss. Shape (...) for "none", () otherwise.
    threads : int, optional
        At most so many threads for BLAS, which needs threadpoolctl; the rest takes one.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats; NaN and inf as in `cross_entropy`. With ``return_lse`` or ``return_rank`` a tuple: the loss, then a
        float64 array of shape (...) in nats (NaN for a row that is ignored or has no softmax), then an int64 array of
        shape (...) (-1 for such rows).

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    Notes
    -----
    Products are float64 where an argument is (or T is beyond 2^±20), float32 otherwise, and as exact as BLAS makes
    them: a run with the same library, threads and shapes gives the same bits, another one may not. The label's own
    logit is a dot product apart, rounded once. Given these logits the loss is as accurate as that of `cross_entropy`,
    and sums and means are correctly rounded from the rows' losses.

    The rank counts z_k > z_y, and z_k = z_y for k < y, so rank 0 is NumPy's argmax; classes whose exact logits are
    nearer to the label's than rounding in the products may be counted on either side.

    References
    ----------
    Wijmans et al.: Cut your losses in large-vocabulary language models, ICLR (2025).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> hidden, classifier = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> loss, rank = fastxent.linear_cross_entropy(hidden, classifier, [2, 0], return_rank=True)
    >>> print(round(loss, 4), rank)
    1.1348 [0 2]
    """
    data = linear_bias, weight, sample_weight, ignore_index, label_smoothing, temperature, softcap
    batch = as_linear_batch(hidden, linear_weight, target, *data)
    none = checks.as_reduction(reduction) == "none"
    array = checks.as_output(out, batch.hidden.shape if none else (), F64)
    with blas_threads(threads):
        rows, sums, lse, rank = losses(batch, reduction, return_lse, return_rank)
    loss = _loss(batch, reduction, rows, sums, array, out)
    extra = tuple(x.reshape(batch.hidden.shape)[()] for x in (lse, rank) if x is not None)
    return (loss, *extra) if extra else loss


def linear_cross_entropy_value_and_grad(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    grad_scale: ArrayLike = 1.0,
    out: Any = None,
    threads: int | None = None,
) -> tuple[Any, ...]:
    """`linear_cross_entropy` and its gradients with respect to hidden states, classifier and bias.

    Logits become (q_ik - p_ik) / T, which is multiplied into the gradients at once: three matrix products where 32 MB
    hold at least 128 rows of logits, four elsewhere (each block of logits is made twice). The label's entry is
    -S / (1 + S), S the sum over the others, and keeps its digits where q_iy - 1 would be 0. Memory besides inputs and
    gradients stays below 64 MB, and where hidden states are float16 or bfloat16 their gradient in float32 comes to it.

    Parameters
    ----------
    hidden, linear_weight, target, linear_bias, weight, sample_weight, ignore_index
        As in `linear_cross_entropy`. The gradient of an ignored row is exactly 0.
    label_smoothing, temperature, softcap, out, threads
        As in `linear_cross_entropy`.
    reduction : {"mean", "sum", "none"}
        As in `linear_cross_entropy`; for "none" the gradients are those of the sum (of what `grad_scale` makes of it).
    grad_scale : float, or with reduction="none" also an array of shape (...)
        What derivatives are multiplied with before they are rounded, as in `cross_entropy_value_and_grad`.

    Returns
    -------
    tuple
        The loss (float, or float64 array for reduction="none"), the gradients with respect to hidden and to
        linear_weight, and with a linear_bias that with respect to it: arrays of the arguments' shapes and dtypes
        (float64 for integers).

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Wijmans et al.: Cut your losses in large-vocabulary language models, ICLR (2025).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> hidden, classifier = np.array([[1.0, 2.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    >>> fastxent.linear_cross_entropy_value_and_grad(hidden, classifier, [1])
    (0.6931471805599453, array([[0., 0.]]), array([[ 0.5,  1. ],
           [-0.5, -1. ]]))
    """
    data = linear_bias, weight, sample_weight, ignore_index, label_smoothing, temperature, softcap
    batch = as_linear_batch(hidden, linear_weight, target, *data)
    none = checks.as_reduction(reduction) == "none"
    scale, row_scales = checks.as_grad_scale(grad_scale, reduction, batch.hidden.shape)
    if row_scales is not None:
        row_scales = rows_cut(row_scales, 0, batch.hidden.n_rows, F64)
    array = checks.as_output(out, batch.hidden.shape if none else (), F64)
    with blas_threads(threads):
        rows, sums, gradients = value_and_gradients(batch, reduction, scale, row_scales)
    return _loss(batch, reduction, rows, sums, array, out), *gradients


def _loss(batch: LinearBatch, reduction: str, rows: Any, sums: Any, array: Any, out: Any) -> Any:
    """The loss as the user gets it."""
    loss: Any = reduce(reduction, rows, *values_of(sums), batch.hidden.shape)
    if array is not None:
        array[...] = loss
        return out
    return loss[()] if reduction == "none" else loss
