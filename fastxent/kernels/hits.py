"""Whether a row's label is its first largest class, as NumPy's argmax has it.

A row's loss says so by itself where it is small, as then the label has more than half of the probability, or large;
the others' predictions are read.
"""

import math

import numpy as np

from fastxent.kernels.blocks import KEEP, SPREAD, N, first_view, strided
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load_some, offset, pointer
from fastxent.kernels.rows import lanes
from fastxent.kernels.simd import any_lane, fill, first_lanes, lane_numbers

SURE_HIT, SURE_MISS = KEEP, SPREAD  # reals: a loss below the one or above the other tells


@inline
def _is_beaten(v, z, distance):
    """Whether a lane is larger than the label's z, or equal to it and before it."""
    return any_lane((v > z) | ((v == z) & (lane_numbers(v) < distance)))


@inline
def _is_first(p, n, y):
    """Of a row with adjacent classes; a NaN anywhere but at the label is passed over."""
    z, width = fill(p, p[y]), lanes(p)
    for i in range(0, n, width):
        if _is_beaten(load_some(p, i, first_lanes(n - i, z), -math.inf), z, y - i):
            return False
    return True


@inline
def _is_first_apart(p, n, y, column):
    """Of a row whose classes are ``column`` elements apart."""
    z = p[y * column]
    for j in range(n):
        v = p[j * column]
        if v > z or (v == z and j < y):
            return False
    return True


@compiled
def hits(start, stop, like, t_like, integers, reals, labels, class_weight, losses, out, sums, report):
    """A chunk function (chunks.py): 1.0 or 0.0 a row; losses come where others take weights.

    An ignored row, whose label is out of range, gets anything.
    """
    view, n = first_view(integers), integers[N]
    column, inner, low, high = view[3], view[4], reals[SURE_HIT], reals[SURE_MISS]
    y, loss, to = pointer(labels, 0), pointer(losses, 0), pointer(out, 0)
    i = start
    while i < stop:
        m, p = min(stop - i, inner - i % inner), strided(view, like, i)
        few = column == 1 and n <= lanes(p)  # one look costs less than a wrong guess at what the loss says
        for r in range(m):
            row, label, nll = offset(p, r * view[2]), min(max(y[i + r], 0), n - 1), loss[i + r]
            if few:
                z = fill(p, row[label])
                to[i + r] = np.float64(1 - _is_beaten(load_some(row, 0, first_lanes(n, z), -math.inf), z, label))
            elif nll < low or nll > high:
                to[i + r] = 1.0 if nll < low else 0.0
            elif column == 1:
                to[i + r] = 1.0 if _is_first(row, n, label) else 0.0
            else:
                to[i + r] = 1.0 if _is_first_apart(row, n, label, column) else 0.0
        i += m
