"""The drivers of losses with gradients: as those of batch.py, with outputs of the logits' shape besides.

``gradient`` and ``hessian`` (or None) are arrays like the logits, which each may be; ``row_scales`` is float64[n_rows],
what each row's derivatives are multiplied with, or empty. A call's ``scale`` multiplies all of them.
"""

import math
import threading

import numpy as np

from fastxent.kernels import gradient_chunks, gradient_terms
from fastxent.kernels.batch import STREAM_BYTES, Call, settings, wide_enough
from fastxent.kernels.blocks import (
    FLAG,
    GRADIENT,
    GRADIENT_SCALE,
    HESSIAN,
    HESSIAN_SCALE,
    KIND,
    LEAST_HESSIAN,
    ROW_SCALES,
    view_of,
)  # fmt: skip
from fastxent.kernels.narrow import rounded
from fastxent.kernels.tiles import TILE_CLASSES

_NO_LABELS = np.empty(0, np.int64)
_NO_REALS = np.empty(0)


def hard_gradient(z, labels, s, gradient, hessian, scale, row_scales, class_weight, has_ignore, ignore_index, *rest):
    """Cross-entropy of logits and class indices; last come label_smoothing and the temperature. Returns a runner."""
    label_smoothing, temperature = rest
    options = settings(z.shape[2], has_ignore, ignore_index, temperature, label_smoothing)
    if label_smoothing != 0.0:
        chunk = gradient_chunks.mixed_gradients
    elif z.shape[2] <= TILE_CLASSES:
        chunk = gradient_chunks.label_gradients_tiles
    elif temperature == 1.0 and hessian is None and gradient.strides[2] == gradient.itemsize:
        chunk = gradient_terms.label_gradients_of_terms
    else:
        chunk = gradient_chunks.label_gradients
    data = labels, s, class_weight
    return _Runner(chunk, z, None, options, data, gradient, hessian, scale / temperature, temperature, row_scales)


class _Prepared(threading.local):
    """Calls of this thread, by what they have in common."""

    def __init__(self):
        self.calls = {}


_prepared = _Prepared()


def small_gradient(z, labels, address, scale, ignore_index):
    """hard_gradient without options, run on this thread: of a small contiguous (1, rows, classes), quickly.

    The gradient goes to an address. Returns as Call.run_all.
    """
    key = z.shape, z.dtype, ignore_index
    calls = _prepared.calls
    call = calls.get(key)
    if call is None:
        if len(calls) >= 64:
            calls.clear()
        _, n_rows, n = z.shape
        integers, reals = (option.copy() for option in settings(n, True, ignore_index))
        integers[GRADIENT : HESSIAN + 5] = (0, n_rows * n, n, 1, n_rows) * 2
        chunk = gradient_chunks.label_gradients_tiles if n <= TILE_CLASSES else gradient_terms.label_gradients_of_terms
        call = calls[key] = Call(chunk, z, z, (integers, reals), z.size)
    call.first = call.second = z
    call.labels = labels
    call.integers[GRADIENT], call.reals[GRADIENT_SCALE] = address, scale
    try:
        return call.run_serial(0, -1, summed=True)
    finally:
        call.first = call.second = call.labels = None  # they are the caller's


def soft_gradient(z, target, s, gradient, hessian, scale, row_scales, class_weight, label_smoothing, temperature):
    """Cross-entropy of logits and distributions."""
    options = settings(z.shape[2], False, 0, temperature, label_smoothing)
    data = _NO_LABELS, s, class_weight
    chunk = gradient_chunks.mixed_gradients
    return _Runner(chunk, z, target, options, data, gradient, hessian, scale / temperature, temperature, row_scales)


def binary_gradient(z, target, s, gradient, hessian, scale, row_scales, pos_weight, least_hessian=-math.inf):
    """Binary cross-entropy of logits, both arguments one number a row."""
    options = settings(1, pos_weight=pos_weight)
    data, chunk = (_NO_LABELS, s, _NO_REALS), gradient_chunks.binary_gradients
    runner = _Runner(chunk, z, target, options, data, gradient, hessian, scale, 1.0, row_scales)
    runner.call.reals[LEAST_HESSIAN] = least_hessian
    return runner


def label_weights(z, labels, s, class_weight, has_ignore, ignore_index):
    """The weights that the mean divides by, and the range of the labels, without reading the logits."""
    options = settings(z.shape[2], has_ignore, ignore_index)
    return Call(gradient_chunks.label_weights, z, z, options, labels.size, labels, s, class_weight)


class _Runner:
    """A Call with outputs like the logits."""

    def __init__(self, chunk, z, target, options, data, gradient, hessian, scale, temperature, row_scales):
        wide = wide_enough(z, temperature)
        self.results = [
            (made, made if wide is z else np.empty(z.shape)) for made in (gradient, hessian) if made is not None
        ]
        self.row_scales = row_scales  # kept alive with its address
        integers, reals = (option.copy() for option in options)
        made = self.results[0][1]
        integers[GRADIENT : HESSIAN + 5] = view_of(made) + view_of(self.results[-1][1])
        integers[KIND] = hessian is not None
        integers[FLAG] = made.nbytes >= STREAM_BYTES and made.flags.aligned and not np.may_share_memory(made, wide)
        integers[ROW_SCALES] = row_scales.ctypes.data if row_scales.size else 0
        reals[GRADIENT_SCALE], reals[HESSIAN_SCALE] = scale, scale / temperature
        labels, s, class_weight = data
        second = wide if target is None else target
        self.call = Call(chunk, wide, second, (integers, reals), 2 * z.size, labels, s, class_weight)

    def run(self, out, sums):
        """Run over the rows, as Call.run."""
        return self._deliver(self.call.run(out, sums))

    def run_all(self, out):
        """Run over the rows, as Call.run_all."""
        return self._deliver(self.call.run_all(out))

    def _deliver(self, status):
        for result, made in self.results:
            if made is not result:
                result[...] = rounded(made, result.dtype)
        return status
