"""The gradients of two-class losses, one logit a row.

A float32 logit of moderate size whose target is 0 or 1 is done in float32, 16 at once: there is one term then, and
nothing to cancel. The others, and all with a weight of the positive class, are done in float64.
"""

import math

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.binary import absolute, moderate
from fastxent.kernels.elementary import exp_shifted
from fastxent.kernels.gradients import columns, is_moderate_factor, keep_columns
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_double, store
from fastxent.kernels.simd import any_lane, fill, fma, is_float32, select


@inline
def binary_gradient(z, t, pos_weight):
    """(1 - t)·q - w·t·(1 - q) and (w·t + 1 - t)·q·(1 - q) for eight float64 logits, q = 1/(1 + e^-z)."""
    size = select(z > 0.0, z, -z)
    small = elementary.exp(-size)
    large = 1.0 / (small + 1.0)
    small = small * large
    q, rest = select(z > 0.0, large, small), select(z > 0.0, small, large)
    on, off = t * pos_weight, 1.0 - t
    gradient, hessian = fma(off, q, -(on * rest)), (on + off) * (large * small)
    return select(size == size, gradient, math.nan), select(size == size, hessian, math.nan)


def narrow_gradients(p, t, weights, h_weights, least, made, h_made, m, wants_hessian):
    """Derivatives of m float32 logits with float32 targets, times float64 weights, to ``made`` and ``h_made``.

    Second derivatives below ``least`` become that. False for other types.
    """


@overload(narrow_gradients, jit_options=INLINE)
def _narrow_gradients(p, t, weights, h_weights, least, made, h_made, m, wants_hessian):
    if not (is_float32(p) and is_float32(t)):
        return lambda p, t, weights, h_weights, least, made, h_made, m, wants_hessian: False

    def gradients(p, t, weights, h_weights, least, made, h_made, m, wants_hessian):
        for r in range(0, m, 16):
            z, target = load(p, r), load(t, r)
            size, weight = absolute(z), columns(z, weights, r)
            small = exp_shifted(-size, fill(z, elementary.ROUND32))
            on = target == 1.0
            wrong = select(on == (z > 0.0), small, fill(z, 1.0)) / (small + 1.0)
            result = select(on, -wrong, wrong) * weight + 0.0
            served = (size <= moderate(z)) & (on | (target == 0.0))
            served = served & (is_moderate_factor(weight) | (weight == 0.0))
            bend = result
            if wants_hessian:
                weight = columns(z, h_weights, r)
                bend = small / ((small + 1.0) * (small + 1.0)) * weight + 0.0
                served = served & (is_moderate_factor(weight) | (weight == 0.0))
            if any_lane(~served):
                for i in range(r, r + 16, 8):
                    gradient, hessian = binary_gradient(load_double(p, i), load_double(t, i), 1.0)
                    keep_columns(made, i, gradient * load(weights, i) + 0.0)
                    keep_columns(h_made, i, hessian * load(h_weights, i) + 0.0)
                result = select(served, result, load(made, r))
                bend = select(served, bend, load(h_made, r))
            store(made, r, result)
            if wants_hessian:
                store(h_made, r, select(bend < np.float32(least), np.float32(least), bend))
        return True

    return gradients
