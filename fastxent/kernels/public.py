"""Kernels on one row, to call from your own @numba.njit code, with or without parallel=True and cache=True.

A row is a contiguous 1-D array of float32 or float64; or of float16 or bfloat16 as their bits, uint16 or int16, as
which Numba can hold them. Every result has the bits of the function of fastxent that does the same for whole arrays: a
row goes through the very code that a batch of one does.

Each is compiled once, or loaded from fastxent's cache, when your function is compiled, and linked into it. Numba does
not notice a new version of fastxent: after an upgrade, delete what cache=True kept.
"""

import numpy as np
from numba.core.errors import TypingError
from numba.extending import overload

from fastxent.kernels.blocks import GRADIENT, GRADIENT_SCALE, HESSIAN, KEEP, N_INTEGERS, N_REALS, POS_WEIGHT, SCALE, N
from fastxent.kernels.chunks import hard_cross_entropy, hard_cross_entropy_tiles
from fastxent.kernels.distributions import logsumexp, logsumexp_tiles, softmax
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_add, exact_sum_merge, exact_sum_new, exact_sum_value
from fastxent.kernels.gradient_chunks import label_gradients, label_gradients_tiles
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import scratch
from fastxent.kernels.softmax_groups import softmax_groups
from fastxent.kernels.tiles import TILE_CLASSES

__all__ = [
    "exact_sum_add",
    "exact_sum_merge",
    "exact_sum_new",
    "exact_sum_value",
    "row_cross_entropy",
    "row_gradient",
    "row_logsumexp",
    "row_softmax",
]


@inline
def _describe(z, integers, reals):
    """A call's options for one row."""
    for k in range(N_INTEGERS):
        integers[k] = 0
    for k in range(N_REALS):
        reals[k] = 0.0
    _put(z, integers, 0)
    _put(z, integers, 5)
    integers[N] = z.size
    reals[SCALE] = reals[KEEP] = reals[POS_WEIGHT] = 1.0


@inline
def _put(array, integers, at):
    """A view (blocks.py) of one row."""
    integers[at], integers[at + 1], integers[at + 2] = array.ctypes.data, 0, array.size
    integers[at + 3], integers[at + 4] = 1, 1


def _check_output(z, out):
    """Refuse an output of another type when the caller is compiled, and of another size when it runs."""


@overload(_check_output)
def _check_output_of(z, out):
    if z.dtype != out.dtype or out.ndim != 1 or out.layout != "C":
        raise TypingError(f"out: {out}; need a contiguous row of the type of z, {z}")

    def check(z, out):
        if out.size != z.size:
            raise ValueError("out: its size is not that of z")

    return check


@compiled
def row_logsumexp(z):
    """Logarithm of the sum of exponentials of a row, ln Σ_k exp(z_k): `fastxent.logsumexp` of it.

    Parameters
    ----------
    z : array, shape (C,), contiguous, float32 or float64 (or bits of float16, bfloat16)
        Logits; -inf is a class of probability 0.

    Returns
    -------
    float64
        In nats; NaN for a row with a NaN or +inf, or nothing but -inf.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.kernels import row_logsumexp
    >>> row_logsumexp(np.array([1000.0, -1000.0]))
    1000.0
    """
    integers, reals = scratch(np.int64, 0, N_INTEGERS), scratch(np.float64, 0, N_REALS)
    labels, out, report = scratch(np.int64, 0, 1), scratch(np.float64, 0, 1), scratch(np.int64, 0, 2)
    sums = scratch(np.int64, 1, STATE_SIZE)
    _describe(z, integers, reals)
    none = reals[:0]
    if z.size <= TILE_CLASSES:
        logsumexp_tiles(0, 1, z, z, integers, reals, labels, none, none, out, sums[:0], report)
    else:
        logsumexp(0, 1, z, z, integers, reals, labels, none, none, out, sums[:0], report)
    return out[0]


@compiled
def row_cross_entropy(z, y):
    """Cross-entropy of a row, -ln softmax(z)_y: `fastxent.cross_entropy` of it.

    Parameters
    ----------
    z : array, shape (C,), contiguous, float32 or float64 (or bits of float16, bfloat16)
        Logits; -inf is a class of probability 0.
    y : int
        The label, 0..C-1.

    Returns
    -------
    float64
        In nats; inf for a label on -inf; NaN for a row with a NaN or +inf, or nothing but -inf, and for a label out of
        range: compiled code in parallel cannot raise.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.kernels import row_cross_entropy
    >>> row_cross_entropy(np.array([0.0, 100.0]), 1)
    3.72007597602083...e-44
    """
    integers, reals = scratch(np.int64, 0, N_INTEGERS), scratch(np.float64, 0, N_REALS)
    labels, out, report = scratch(np.int64, 0, 1), scratch(np.float64, 0, 1), scratch(np.int64, 0, 2)
    sums = scratch(np.int64, 1, STATE_SIZE)
    if y < 0 or y >= z.size:
        return np.nan
    _describe(z, integers, reals)
    labels[0] = y
    none = reals[:0]
    if z.size <= TILE_CLASSES:
        hard_cross_entropy_tiles(0, 1, z, z, integers, reals, labels, none, none, out, sums[:0], report)
    else:
        hard_cross_entropy(0, 1, z, z, integers, reals, labels, none, none, out, sums[:0], report)
    return out[0]


@compiled
def row_softmax(z, out):
    """Probabilities of a row, exp(z_k) / Σ_j exp(z_j): `fastxent.softmax` of it.

    Parameters
    ----------
    z : array, shape (C,), contiguous, float32 or float64 (or bits of float16, bfloat16)
        Logits; -inf is a class of probability 0.
    out : array like z
        Where to put the probabilities; may be z.

    Raises
    ------
    ValueError
        If `out` is not as large as z. In a parallel loop Numba drops it; nothing is written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.kernels import row_softmax
    >>> q = np.empty(2)
    >>> row_softmax(np.array([0.0, 0.0]), q)
    >>> q
    array([0.5, 0.5])
    """
    integers, reals = scratch(np.int64, 0, N_INTEGERS), scratch(np.float64, 0, N_REALS)
    labels, losses, report = scratch(np.int64, 0, 1), scratch(np.float64, 0, 1), scratch(np.int64, 0, 2)
    sums = scratch(np.int64, 1, STATE_SIZE)
    _check_output(z, out)
    _describe(z, integers, reals)
    _put(out, integers, 5)
    none = reals[:0]
    if z.size <= TILE_CLASSES:
        softmax(0, 1, z, z, integers, reals, labels, none, none, losses, sums[:0], report)
    else:
        softmax_groups(0, 1, z, z, integers, reals, labels, none, none, losses, sums[:0], report)


@compiled
def row_gradient(z, y, scale, out):
    """Gradient of a row's cross-entropy, scale·(softmax(z)_k - [k = y]): as `fastxent.cross_entropy_value_and_grad`.

    Parameters
    ----------
    z : array, shape (C,), contiguous, float32 or float64 (or bits of float16, bfloat16)
        Logits; -inf is a class of probability 0.
    y : int
        The label, 0..C-1.
    scale : float
        What the derivatives are multiplied with: a weight, 1 / N for a mean.
    out : array like z
        Where to put the gradient; may be z.

    Returns
    -------
    float64
        The row's cross-entropy in nats, not scaled, as of `row_cross_entropy`. For a label out of range it is NaN and
        nothing is written.

    Raises
    ------
    ValueError
        If `out` is not as large as z. In a parallel loop Numba drops it; nothing is written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.kernels import row_gradient
    >>> gradient = np.empty(2)
    >>> row_gradient(np.array([0.0, 0.0]), 1, 1.0, gradient)
    0.6931471805599453
    >>> gradient
    array([ 0.5, -0.5])
    """
    integers, reals = scratch(np.int64, 0, N_INTEGERS), scratch(np.float64, 0, N_REALS)
    labels, losses, report = scratch(np.int64, 0, 1), scratch(np.float64, 0, 1), scratch(np.int64, 0, 2)
    sums = scratch(np.int64, 1, STATE_SIZE)
    _check_output(z, out)
    if y < 0 or y >= z.size:
        return np.nan
    _describe(z, integers, reals)
    _put(out, integers, GRADIENT)
    _put(out, integers, HESSIAN)
    reals[GRADIENT_SCALE] = scale
    labels[0] = y
    none = reals[:0]
    if z.size <= TILE_CLASSES:
        label_gradients_tiles(0, 1, z, z, integers, reals, labels, none, none, losses, sums[:0], report)
    else:
        label_gradients(0, 1, z, z, integers, reals, labels, none, none, losses, sums[:0], report)
    return losses[0]
