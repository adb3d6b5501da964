"""Few classes: the sums of card_rows.py for a tile of rows at once, one row a lane (see tiles.py)."""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.blocks import strided
from fastxent.kernels.card_rows import (
    DISTANCE,
    SPREAD,
    SQUARES,
    TOP,
    A,
    K,
    S,
    add_products,
    far,
    floor_exponent,
    higher,
)
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_integers, offset, pointer, store, store_double, store_some
from fastxent.kernels.rows import lanes, two_words
from fastxent.kernels.simd import bits, fill, first_lanes, float64x8, fma, halves, maximum, minimum, select, splat
from fastxent.kernels.tiles import ROWS, TILE_SIZE, fill_tile, store_sum


@inline
def note_tiles(view, like, n, i, m, label, scale, scale_low, figures, tile, card, invalid):
    """The figures of m rows of few classes, tile by tile. Invalid ones are marked in ``label``."""
    p, f, q, own = strided(view, like, i), pointer(figures, 0), pointer(tile, 0), pointer(tile, TILE_SIZE)
    width = lanes(q)
    for r in range(0, m, width):
        for lane in range(min(width, m - r)):
            own[lane] = p[(r + lane) * view[2] + max(label[r + lane], 0) * view[3]]
        fill_tile(q, offset(p, r * view[2]), view[2], min(width, m - r), n, view[3])
        labels = load_integers(pointer(label, r), 0, fill(p, 0.0))
        first, rank = note_tile(q, load(own, 0), n, labels, f, r, scale, scale_low)
        store_integers(card[4], r, m - r, first)
        store_integers(card[5], r, m - r, rank)
    for r in range(m):
        if label[r] >= 0 and figures[A, r] != figures[A, r]:
            label[r] = invalid


@inline
def _tile_term(tile, j, n, first, s, floor, magic, plain, factor, factor_low, base):
    """Class j's terms of the rows of a tile, and how far it is below the largest; 0 past the last class."""
    e, d = fill(tile, 0.0), fill(tile, 0.0)
    if j < n:
        v = maximum(select(first == j, -math.inf, load(tile, j * lanes(tile))) - s, floor)
        e = exp_shifted(v, magic) if plain else exp_shifted_over(v, factor, factor_low, magic)
        d = base - v
    return e, d


@inline
def note_tile(tile, own, n, label, figures, r, scale, scale_low):
    """The figures of a tile's rows (see tiles.py), in columns r, r + 1, ...; own: their labels' logits.

    Returns the largest class and the label's rank, as vectors of integers. A is NaN where the row is invalid.
    """
    width = lanes(tile)
    top, second = fill(tile, -math.inf), fill(tile, -math.inf)
    first, rank = bits(fill(tile, 0.0)), bits(fill(tile, 0.0))
    for j in range(n):
        v = load(tile, j * width)
        first = select(v > top, j, first)
        top, second = higher(top, second, v)
        rank = rank + select((v > own) | ((v == own) & (label > j)), first * 0 + 1, 0)
    empty = second == -math.inf
    factor, factor_low = two_words(tile, scale, scale_low)
    reference = select(empty, top, second)
    scaled = reference * factor
    moderate = maximum(scaled, -scaled) <= MODERATE
    k = select(moderate, fma(scaled, LOG2_E, elementary.rounding(tile)) - elementary.rounding(tile), 0.0)
    s = select(moderate, 0.0, reference)
    plain = scale == 1.0
    magic = elementary.rounding(tile) - k * (elementary.steps(tile) if plain else 1.0)
    floor = (k + floor_exponent(tile)) * (LN_2 / scale)
    base = minimum(top - s, far(tile))
    zero = splat(0.0)
    sums = zero, zero, zero, zero, zero, zero
    for j in range(0, n, 4):
        e0, d0 = _tile_term(tile, j, n, first, s, floor, magic, plain, factor, factor_low, base)
        e1, d1 = _tile_term(tile, j + 1, n, first, s, floor, magic, plain, factor, factor_low, base)
        e2, d2 = _tile_term(tile, j + 2, n, first, s, floor, magic, plain, factor, factor_low, base)
        e3, d3 = _tile_term(tile, j + 3, n, first, s, floor, magic, plain, factor, factor_low, base)
        sums = add_products(sums, (e0, e1, e2, e3), (d0, d1, d2, d3))
    a, a_low, b, b_low, c, c_low = sums
    # 0 where every other class is masked, NaN where the row is invalid; a NaN's term has made it NaN already
    flag = select(maximum(top, -top) < math.inf, select(empty, 0.0, fill(tile, 1.0)), math.nan)
    store_sum(figures, A * ROWS + r, a, a_low, flag)
    store_sum(figures, SPREAD * ROWS + r, b, b_low, flag)
    store_sum(figures, SQUARES * ROWS + r, c, c_low, flag)
    store_double(figures, K * ROWS + r, k)
    store_double(figures, S * ROWS + r, s)
    store_double(figures, TOP * ROWS + r, top)
    store_difference(figures, DISTANCE * ROWS + r, top, own)
    return first, rank


def store_difference(p, i, a, b):
    """Store a - b in float64."""


@overload(store_difference, jit_options={"forceinline": True})
def _store_difference(p, i, a, b):
    if a == float64x8:
        return lambda p, i, a, b: store(p, i, a - b)

    def both(p, i, a, b):
        a1, a2 = halves(a)
        b1, b2 = halves(b)
        store(p, i, a1 - b1)
        store(p, i + 8, a2 - b2)

    return both


def store_integers(p, i, n, values):
    """Store the first n of a vector of integers as int64."""


@overload(store_integers, jit_options={"forceinline": True})
def _store_integers(p, i, n, values):
    if values.lanes == 8:
        return lambda p, i, n, values: store_some(p, i, first_lanes(n, values), values)

    def both(p, i, n, values):
        low, high = halves(values)
        store_some(p, i, first_lanes(n, low), low)
        store_some(p, i + 8, first_lanes(n - 8, high), high)

    return both
