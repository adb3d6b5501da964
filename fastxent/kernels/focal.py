"""The focal loss φ(l) = (1 - e^-l)^γ·l of a row whose cross-entropy is l = -ln q_y: (1 - q_y)^γ·(-ln q_y).

It depends on the row through l alone, which has its full relative accuracy, and 1 - q_y = -expm1(-l) keeps it: nothing
cancels for confident rows. With u = 1 - q_y and ρ = l / u (1 where u = 0)

    φ'  = u^γ·(1 + γ q_y ρ)
    φ'' = γ q_y u^(γ-1)·(2 + (γ - 1) q_y ρ - l)

The gradient of the focal loss is φ' times that of the cross-entropy; its Hessian is φ'·∇²l + φ''·∇l ∇lᵀ.
"""

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    GAMMA,
    HAS_IGNORE,
    IGNORE,
    KIND,
    LABEL,
    N,
    first_view,
    read_labels,
    refuse,
    settle_labels,
    strided,
)
from fastxent.kernels.figures import LABELS, left_out
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import load_some, pointer, scratch, store
from fastxent.kernels.simd import first_lanes, maximum, select, splat
from fastxent.kernels.tiles import ROWS

LOSS, SLOPE, BEND = range(3)  # what focal_rows makes of l: φ, φ', max(φ'', 0) / φ'


@inline
def power(u, exponent):
    """u^exponent for u in [0, 1] and exponent >= 0.

    Relative error: 2^-52 a factor of the whole part, at most 2^-52·(2 + |ln u|) for what is left of it, below 1.
    """
    whole = int(exponent)
    rest = exponent - whole
    result, square = splat(1.0), u
    while whole > 0:
        if whole & 1:
            result = result * square
        square = square * square
        whole >>= 1
    return result * elementary.exp(rest * elementary.log(u)) if rest != 0.0 else result


@inline
def focal_of(nll, gamma):
    """φ of eight rows; +inf and NaN stay."""
    return power(left_out(nll), gamma) * nll


@inline
def slope_of(nll, gamma):
    """φ' of eight rows: 1 where l is +inf."""
    u = left_out(nll)
    return power(u, gamma) * (1.0 + gamma * share(nll, u))


@inline
def share(nll, u):
    """q_y·l / u, from 1 for a sure row down to 0."""
    q = elementary.exp(-nll)
    return select(q == 0.0, 0.0, q * select(u == 0.0, 1.0, nll / u))


@inline
def bend_of(nll, gamma):
    """max(φ'', 0) / φ' of eight rows; +inf for a sure one."""
    u = left_out(nll)
    near = share(nll, u)
    rise = maximum(2.0 + (gamma - 1.0) * near - nll, 0.0)
    return gamma * elementary.exp(-nll) * rise / (u * (1.0 + gamma * near))


@chunk
def focal_rows(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """A chunk function (chunks.py): cross-entropies and class indices; which of the three, times the row's weights."""
    view, n, kind, gamma = first_view(integers), integers[N], integers[KIND], reals[GAMMA]
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    v = pointer(values, 0)
    for i in range(start, stop, ROWS):
        m = min(ROWS, stop - i)
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p = strided(view, like, i)
        for r in range(0, m, 8):
            nll = load_some(p, r, first_lanes(m - r, splat(0.0)), 0.0)
            if kind == LOSS:
                store(v, r, focal_of(nll, gamma))
            elif kind == SLOPE:
                store(v, r, slope_of(nll, gamma))
            else:
                store(v, r, bend_of(nll, gamma))
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
