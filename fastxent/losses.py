"""The public functions on arrays: a docstring, a check, a kernel call, a reduction.

Shapes below: predictions are (..., C) with the class axis on ``axis``; the other, leading axes are the rows. A function
reads its input in slices, so that its extra memory is bounded and Ctrl-C works; its bits depend on neither.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.checks import ABSENT, Batch
from fastxent.frames import ArrayOrPieces, Pieces
from fastxent.kernels import batch as kernels
from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.reductions import LOSSES, WEIGHTS, new_sums, reduce, values_of
from fastxent.slices import BF16, COPY_BYTES, F64, Predictions, row_slices
from fastxent.threads import limited

__all__ = [
    "binary_cross_entropy",
    "binary_log_loss",
    "cross_entropy",
    "entropy",
    "kl_divergence",
    "log_likelihood",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "nll",
    "perplexity",
    "softmax",
]

Driver = Callable[..., kernels.Call]


def logsumexp(
    logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, out: Any = None, threads: int | None = None
) -> Any:
    """Logarithm of the sum of exponentials of each row, ln Σ_k exp(z_k / T), without overflow.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    axis : int
        The class axis.
    temperature : float
        T: positive, finite.
    out : float64 array, shape (...), optional
        Where to put the result; returned.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    float64 array, shape (...)
        In nats. NaN for a row that holds a NaN or +inf, or nothing but -inf.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    References
    ----------
    Blanchard, Higham, Higham: Accurately computing the log-sum-exp and softmax functions, IMA J. Numer. Anal. (2021).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.logsumexp(np.array([[0.0, 0.0], [1000.0, -1000.0]]))
    array([6.93147181e-01, 1.00000000e+03])
    """
    z = checks.as_predictions(logits, "logits", axis=axis)
    temperature = checks.as_temperature(temperature)
    array, rows = _row_output(out, z.shape, z.n_rows, z.array)
    with limited(threads):
        for start, stop, view in z.slices():
            kernels.logsumexp(view, temperature).run(rows[start:stop])
    return deliver(rows.reshape(z.shape), array, out)


def softmax(
    logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, out: Any = None, threads: int | None = None
) -> Any:
    """Probabilities of each row, q_k = exp(z_k / T) / Σ_j exp(z_j / T).

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    axis : int
        The class axis.
    temperature : float
        T: positive, finite.
    out : array, the logits' shape and dtype, optional
        Where to put the result; returned. May be the logits themselves.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    array, the logits' shape and dtype
        Probabilities (no unit); float64 for integers; for float16 and bfloat16 computed in float32 and rounded once.
        NaN throughout a row that holds a NaN or +inf, or nothing but -inf.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    References
    ----------
    Blanchard, Higham, Higham: Accurately computing the log-sum-exp and softmax functions, IMA J. Numer. Anal. (2021).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return _same_shape(kernels.softmax, logits, axis, temperature, out, threads)


def log_softmax(
    logits: ArrayLike, *, axis: int = -1, temperature: float = 1.0, out: Any = None, threads: int | None = None
) -> Any:
    """Log-probabilities of each row, ln q_k = z_k / T - ln Σ_j exp(z_j / T), accurate for confident rows too.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    axis : int
        The class axis.
    temperature : float
        T: positive, finite.
    out : array, the logits' shape and dtype, optional
        Where to put the result; returned. May be the logits themselves.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    array, the logits' shape and dtype
        In nats; float64 for integers; for float16 and bfloat16 computed in float32 and rounded once.
        NaN throughout a row that holds a NaN or +inf, or nothing but -inf.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    References
    ----------
    Blanchard, Higham, Higham: Accurately computing the log-sum-exp and softmax functions, IMA J. Numer. Anal. (2021).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.log_softmax(np.array([0.0, 100.0]))
    array([-1.00000000e+02, -3.72007598e-44])
    """
    return _same_shape(kernels.log_softmax, logits, axis, temperature, out, threads)


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of softmax predictions, l_i = -Σ_k w_k p_ik ln q_ik with q_i = softmax(z_i / T).

    For class indices y: l_i = -w_y ln q_iy, the negative log-likelihood.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    target : integer array, shape (...); or array of the logits' shape
        Class indices 0..C-1, or distributions p (non-negative, summing to 1 within 1e-3; one-hot included).
    weight : array, shape (C,), optional
        Class weights w: finite, at least 0.
    sample_weight : array, shape (...), optional
        Row weights s: finite, at least 0.
    ignore_index : int, optional
        Rows with this label are not read: loss 0, weight 0 in the mean.
    label_smoothing : float
        ε in [0, 1]: the target becomes (1 - ε) p + ε / C.
    temperature : float
        T: positive, finite.
    reduction : {"mean", "sum", "none"}
        With r_i = s_i l_i: "none" returns the r_i; "sum" their correctly rounded sum; "mean" that sum over
        Σ s_i w_y (class indices) or Σ s_i (distributions), of the rows that are not ignored.
    axis : int
        The class axis.
    out : float64 array, optional
        Where to put the result; returned. Shape (...) for "none", () otherwise.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats. A row that holds a NaN or +inf, or nothing but -inf, gives NaN; a label on a -inf logit gives inf.
        The mean of no rows is NaN, with a RuntimeWarning.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Conventions of weights, smoothing and mean: torch.nn.CrossEntropyLoss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[0.0, 0.0], [0.0, 100.0]])
    >>> fastxent.cross_entropy(logits, [0, 1], reduction="none")
    array([6.93147181e-01, 3.72007598e-44])
    >>> fastxent.cross_entropy(logits, [0, -100], ignore_index=-100)
    0.6931471805599453
    """
    options = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    given = "logits", logits, target, axis, weight, sample_weight, ignore_index
    drivers = kernels.hard_cross_entropy, kernels.soft_cross_entropy
    return _losses(given, drivers, options, reduction, out, threads)


def nll(
    log_probs: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Negative log-likelihood of log-probabilities, l_i = -Σ_k w_k p_ik lq_ik; for class indices l_i = -w_y lq_iy.

    With class indices the labels' entries alone are read; nothing is renormalised.

    Parameters
    ----------
    log_probs : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        ln q, at most 0; -inf is probability 0.
    target : integer array, shape (...); or array of the log-probabilities' shape
        Class indices 0..C-1, or distributions.
    weight, sample_weight, ignore_index, reduction, axis, out, threads
        As in `cross_entropy`.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value: a log-probability that counts and is
        positive or NaN among them.

    References
    ----------
    Conventions of weights and mean: torch.nn.NLLLoss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.nll(np.array([[-0.5, -1.0], [-2.0, -0.25]]), [0, 1])
    0.375
    """
    given = "log_probs", log_probs, target, axis, weight, sample_weight, ignore_index
    return _losses(given, (kernels.hard_nll, kernels.soft_nll), (), reduction, out, threads)


def log_loss(
    probs: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    eps: float = 0.0,
    normalize: bool = False,
    sum_tol: float = 1e-3,
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Negative log-likelihood of probabilities, l_i = -Σ_k w_k p_ik ln q_ik; for class indices l_i = -w_y ln q_iy.

    Parameters
    ----------
    probs : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        Probabilities q in [0, 1]; each row sums to 1 within `sum_tol`.
    target : integer array, shape (...); or array of the probabilities' shape
        Class indices 0..C-1, or distributions p.
    eps : float
        In [0, 0.5): q is clipped to [eps, 1 - eps] in the logarithm, without renormalising.
    normalize : bool
        Divide each row by its sum, whatever it is, in place of checking it.
    sum_tol : float
        How far from 1 a row may sum.
    weight, sample_weight, ignore_index, reduction, axis, out, threads
        As in `cross_entropy`.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats. A label of probability 0 gives inf unless eps > 0.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value: probabilities that are NaN or outside
        [0, 1], or that do not sum to 1, among them.

    References
    ----------
    Convention of eps: sklearn.metrics.log_loss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.log_loss(np.array([[0.5, 0.5], [0.0, 1.0]]), [0, 1], reduction="none")
    array([0.69314718, 0.        ])
    """
    options = checks.as_log_loss_options(eps, normalize, sum_tol)
    given = "probs", probs, target, axis, weight, sample_weight, ignore_index
    return _losses(given, (kernels.hard_log_loss, kernels.soft_log_loss), options, reduction, out, threads)


def binary_cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    pos_weight: float | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of one logit a row, l_i = w t_i ln(1 + exp(-z_i)) + (1 - t_i) ln(1 + exp(z_i)).

    Parameters
    ----------
    logits : array, any shape, float16, bfloat16, float32, float64 or integers
        Log-odds of the positive class.
    target : array, the same shape, booleans, integers or floats
        0, 1 or a probability t between.
    pos_weight : float, optional
        Weight w of the positive class: finite, at least 0.
    sample_weight : array, the same shape, optional
        Row weights s: finite, at least 0.
    reduction : {"mean", "sum", "none"}
        With r_i = s_i l_i: "none" returns the r_i; "sum" their correctly rounded sum; "mean" that sum over Σ s_i.
    out : float64 array, optional
        Where to put the result; returned. The logits' shape for "none", () otherwise.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    float, or float64 array of the logits' shape for reduction="none"
        In nats. NaN for a NaN logit.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Convention of pos_weight: torch.nn.BCEWithLogitsLoss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.binary_cross_entropy(np.array([0.0, -100.0]), [1, 0], reduction="none")
    array([6.93147181e-01, 3.72007598e-44])
    """
    w = checks.as_pos_weight(pos_weight)
    batch = checks.as_binary_batch("logits", logits, target, sample_weight)
    return _binary(batch, kernels.binary_cross_entropy, (w,), reduction, out, threads)


def binary_log_loss(
    probs: ArrayLike,
    target: ArrayLike,
    *,
    eps: float = 0.0,
    pos_weight: float | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Cross-entropy of one probability a row, l_i = -w t_i ln q_i - (1 - t_i) ln(1 - q_i).

    Parameters
    ----------
    probs : array, any shape, float16, bfloat16, float32, float64 or integers
        Probabilities q of the positive class, in [0, 1].
    target : array, the same shape, booleans, integers or floats
        0, 1 or a probability t between.
    eps : float
        In [0, 0.5): q is clipped to [eps, 1 - eps].
    pos_weight, sample_weight, reduction, out, threads
        As in `binary_cross_entropy`.

    Returns
    -------
    float, or float64 array of the probabilities' shape for reduction="none"
        In nats. Probability 0 of what happened gives inf unless eps > 0.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Convention of eps: sklearn.metrics.log_loss.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.binary_log_loss(np.array([0.5, 1.0]), [True, True], reduction="none")
    array([0.69314718, 0.        ])
    """
    w, eps = checks.as_pos_weight(pos_weight), checks.as_eps(eps)
    batch = checks.as_binary_batch("probs", probs, target, sample_weight)
    return _binary(batch, kernels.binary_log_loss, (w, eps), reduction, out, threads)


def log_likelihood(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    axis: int = -1,
    threads: int | None = None,
) -> float:
    """Log-likelihood of the labels, ln L = Σ_i ln q_i,y_i with q_i = softmax(z_i / T): minus the summed cross-entropy.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    target : integer array, shape (...); or array of the logits' shape
        Class indices 0..C-1, or distributions.
    weight, sample_weight, ignore_index, label_smoothing, temperature, axis, threads
        As in `cross_entropy`.

    Returns
    -------
    float
        In nats, correctly rounded from the rows' losses; 0.0 for no rows.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Cover, Thomas: Elements of Information Theory, 2nd edition, section 2.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.log_likelihood(np.zeros((3, 2)), [0, 1, 1])
    -2.0794415416798357
    """
    options = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    given = "logits", logits, target, axis, weight, sample_weight, ignore_index
    drivers = kernels.hard_cross_entropy, kernels.soft_cross_entropy
    return 0.0 - _losses(given, drivers, options, "sum", None, threads)


def perplexity(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    axis: int = -1,
    threads: int | None = None,
) -> float:
    """Perplexity, exp of the mean cross-entropy: the number of equally likely classes that would surprise as much.

    Parameters
    ----------
    logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        -inf is a class of probability 0.
    target : integer array, shape (...); or array of the logits' shape
        Class indices 0..C-1, or distributions.
    weight, sample_weight, ignore_index, label_smoothing, temperature, axis, threads
        As in `cross_entropy`.

    Returns
    -------
    float
        At least 1, no unit; NaN, with a RuntimeWarning, for no rows.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Jelinek, Mercer, Bahl, Baker: Perplexity, a measure of the difficulty of speech recognition tasks, JASA 62 (1977).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> round(fastxent.perplexity(np.zeros((3, 7)), [0, 1, 6]), 12)
    7.0
    """
    options = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    given = "logits", logits, target, axis, weight, sample_weight, ignore_index
    drivers = kernels.hard_cross_entropy, kernels.soft_cross_entropy
    return float(kernels.exp_scalar(_losses(given, drivers, options, "mean", None, threads)))


def entropy(
    p: ArrayLike,
    *,
    kind: str = "probs",
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Entropy of each row's distribution, H(p) = -Σ_k p_k ln p_k.

    Parameters
    ----------
    p : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        Distributions, given as `kind` says.
    kind : {"probs", "logits", "log_probs"}
        Probabilities in [0, 1] that sum to 1 within 1e-3; or logits, softmax(p) is meant; or ln p.
    reduction : {"mean", "sum", "none"}
        Over the rows, correctly rounded.
    axis : int
        The class axis.
    out : float64 array, optional
        Where to put the result; returned. Shape (...) for "none", () otherwise.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats, from 0 to ln C.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Cover, Thomas: Elements of Information Theory, 2nd edition, section 2.1.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.entropy(np.array([[0.5, 0.5], [1.0, 0.0]]), reduction="none")
    array([0.69314718, 0.        ])
    """
    code = checks.as_kind(kind)
    matrices = (checks.as_predictions(p, "p", axis=axis),)
    return _divergence(kernels.entropy, matrices, code, reduction, out, threads)


def kl_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    kind: str = "probs",
    reduction: str = "mean",
    axis: int = -1,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Kullback-Leibler divergence of each row of q from p, KL(p ‖ q) = Σ_k p_k ln(p_k / q_k).

    Parameters
    ----------
    p, q : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        Distributions of the same shape, both given as `kind` says.
    kind, reduction, axis, out, threads
        As in `entropy`.

    Returns
    -------
    float, or float64 array of shape (...) for reduction="none"
        In nats, at least 0 for distributions that sum to 1; inf where p_k > 0 = q_k.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Cover, Thomas: Elements of Information Theory, 2nd edition, section 2.3.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.kl_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    0.6931471805599453
    """
    code = checks.as_kind(kind)
    matrices = checks.as_pair(p, q, axis=axis)
    return _divergence(kernels.kl_divergence, matrices, code, reduction, out, threads)


# Slices through a driver, then the reduction


def _losses(
    given: tuple[Any, ...],
    drivers: tuple[Driver, Driver],
    options: tuple[Any, ...],
    reduction: str,
    out: Any,
    threads: int | None,
) -> Any:
    """Run the driver for class indices or the one for distributions over a batch, given by as_batch's arguments."""
    hard = drivers[0]
    if out is None and threads is None and type(reduction) is str and reduction in checks.REDUCTIONS:
        views = checks.as_plain(*given)  # the usual small call, quickly; what is refused comes back below for its error
        if views is not None:
            z, labels = views
            rows = np.empty(labels.size) if reduction == "none" else ABSENT
            _, refused, total, mass = hard(z, labels, ABSENT, ABSENT, False, 0, *options).run_all(rows)
            if not refused:
                return reduce(reduction, rows, total, mass, labels.shape)
    batch = checks.as_batch(*given)
    array, rows, total, mass = _run(batch, *driver_for(batch, drivers, options), reduction, out, threads)
    return deliver(reduce(reduction, rows, total, mass, batch.predictions.shape), array, out)


def driver_for(
    batch: Batch, drivers: tuple[Driver, Driver], options: tuple[Any, ...]
) -> tuple[Driver, tuple[Any, ...]]:
    """The driver for a batch's kind of target, and what it takes besides the arrays."""
    hard, soft = drivers
    if batch.is_hard:
        return hard, (batch.weight, batch.has_ignore, batch.ignore_index, *options)
    return soft, (batch.weight, *options)


def cross_entropy_sums(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    threads: int | None = None,
) -> np.ndarray:
    """The exact sums that `cross_entropy` rounds, of a part of its rows: int64[2, STATE_SIZE], to be merged."""
    options = checks.as_smoothing(label_smoothing), checks.as_temperature(temperature)
    batch = checks.as_batch("logits", logits, target, -1, weight, sample_weight, ignore_index)
    drivers = kernels.hard_cross_entropy, kernels.soft_cross_entropy
    sums = new_sums("sum")
    _add_slices(batch, *driver_for(batch, drivers, options), ABSENT, sums, threads)
    return sums


def _binary(
    batch: Batch, driver: Driver, options: tuple[Any, ...], reduction: str, out: Any, threads: int | None
) -> Any:
    """Run a driver of one number a row over a batch."""
    array, rows, total, mass = _run(batch, driver, options, reduction, out, threads)
    return deliver(reduce(reduction, rows, total, mass, batch.predictions.shape), array, out)


def _run(
    batch: Batch, driver: Driver, options: tuple[Any, ...], reduction: str, out: Any, threads: int | None
) -> tuple[np.ndarray | None, np.ndarray, float, float]:
    """The array behind ``out``, the rows' losses ("none"), or else their sum and that of their weights."""
    array, rows = loss_output(batch, reduction, out)
    views = batch.whole() if threads is None else None
    if views is not None:
        row, reason, total, mass = driver(*views, *options).run_all(rows)
        if reason:
            raise batch.error(row, reason)
        return array, rows, total, mass
    sums = new_sums(reduction)
    _add_slices(batch, driver, options, rows, sums, threads)
    return array, rows, *values_of(sums)


def _add_slices(
    batch: Batch, driver: Driver, options: tuple[Any, ...], rows: np.ndarray, sums: np.ndarray, threads: int | None
) -> None:
    """Run a driver over a batch, slice by slice: into the rows' losses, or ABSENT, and exact sums."""
    with limited(threads):
        for start, stop, z, t, s in batch.slices():
            row, reason = driver(z, t, s, *options).run(rows[start:stop], sums)
            if reason:
                raise batch.error(start + row, reason)


def _divergence(
    driver: Driver,
    matrices: tuple[Predictions, ...],
    kind: int,
    reduction: str,
    out: Any,
    threads: int | None,
) -> Any:
    """Run a driver that takes distributions alone: every row has weight 1, and the sums are made here."""
    p = matrices[0]
    none = checks.as_reduction(reduction) == "none"
    array, rows = _row_output(out, p.shape if none else (), p.n_rows if none else 0, *(m.array for m in matrices))
    sums = new_sums(reduction)
    most = None if none else COPY_BYTES // 8
    with limited(threads):
        for start, stop, views in row_slices(matrices, max_rows=most):
            r = rows[start:stop] if none else np.empty(stop - start)
            row, reason = driver(*views, kind).run(r)
            if reason:
                raise checks.pair_error(matrices, start + row)
            if not none:
                exact_sum_add_block(sums[LOSSES], r, r.size)
    if not none:
        exact_sum_add_block(sums[WEIGHTS], np.array([float(p.n_rows)]), 1)
    return deliver(reduce(reduction, rows, *values_of(sums), p.shape), array, out)


def _same_shape(
    driver: Callable[..., Any], logits: Any, axis: int, temperature: float, out: Any, threads: int | None
) -> Any:
    """Run a driver whose result has the logits' shape and dtype."""
    z = checks.as_predictions(logits, "logits", axis=axis)
    temperature = checks.as_temperature(temperature)
    dtype = checks.result_dtype(z)
    array = checks.as_output(out, checks.full_shape(z, axis), dtype)
    into = None if array is None else np.moveaxis(array, axis, -1)
    if into is None or (may_overlap(into, z.array) and not same_memory(into, z.array)):
        result = empty_like(z, dtype)
    else:
        result = into
    with limited(threads):
        for _, _, (view, result_view) in row_slices([z], outs=[result.view(BF16) if z.bfloat16 else result]):
            driver(view, temperature, result_view)
    if into is None:
        return result if axis == -1 else np.moveaxis(result, -1, axis)
    if result is not into:
        into[...] = result
    return out


def empty_like(z: Predictions, dtype: np.dtype) -> np.ndarray:
    """Room for a result of the predictions' shape, and layout where they have one."""
    return np.empty(z.array.shape, dtype) if isinstance(z.array, Pieces) else np.empty_like(z.array, dtype=dtype)


def may_overlap(a: np.ndarray, b: ArrayOrPieces) -> bool:
    return isinstance(b, Pieces) or np.may_share_memory(a, b)


def same_memory(a: np.ndarray, b: ArrayOrPieces) -> bool:
    """Whether entries of the same index are the same memory: then writing one after reading the other is safe."""
    if isinstance(b, Pieces):
        return False
    return a.__array_interface__["data"][0] == b.__array_interface__["data"][0] and a.strides == b.strides


def loss_output(batch: Batch, reduction: str, out: Any) -> tuple[np.ndarray | None, np.ndarray]:
    if checks.as_reduction(reduction) != "none":
        return checks.as_output(out, (), F64), ABSENT
    z = batch.predictions
    if out is None:
        return None, np.empty(z.n_rows)
    return _row_output(out, z.shape, z.n_rows, *inputs_of(batch))


def inputs_of(batch: Batch) -> list[ArrayOrPieces]:
    """The arrays that are still read while results are written."""
    z, target, s = batch.predictions, batch.target, batch.sample_weight
    inputs = [z.array, target.array if isinstance(target, Predictions) else target, batch.weight]
    return inputs if s is None else [*inputs, s]


def _row_output(
    out: Any, shape: tuple[int, ...], n_rows: int, *inputs: ArrayOrPieces
) -> tuple[np.ndarray | None, np.ndarray]:
    """The array behind ``out``, and contiguous rows to compute into: the same memory where no input overlaps it."""
    array = checks.as_output(out, shape, F64)
    if array is None:
        return None, np.empty(n_rows)
    direct = array.flags.c_contiguous and array.flags.aligned and n_rows == array.size
    if direct and not any(may_overlap(array, x) for x in inputs):
        return array, array.reshape(-1)
    return array, np.empty(n_rows)


def deliver(value: Any, array: np.ndarray | None, out: Any) -> Any:
    """The result as the user gets it: in ``out`` where one was given; no array without dimensions otherwise."""
    if array is None:
        return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    array[...] = value  # nothing to do where the rows were computed in place
    return out
