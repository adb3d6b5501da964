"""Few classes: 16 rows of float32 (8 of float64) at once, one row a lane, one class after another.

A tile is a small buffer of n vectors, vector j holding class j of every row. There are no sums across lanes, and rows
that need another treatment differ by lane-wise selection only, so that a row's bits do not depend on its neighbours.
The figures are those of rows.exp_sum_over: see there.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_some, offset, store, store_double, transpose
from fastxent.kernels.rows import add_terms, floor_exponent, lanes, two_words
from fastxent.kernels.simd import fill, first_lanes, float64x8, fma, halves, is_float32, join, maximum, select, splat

# Up to so many classes rows are done in tiles; with more, one row at a time. A function of C alone, as the bits are.
TILE_CLASSES = 64
TILE_SIZE = 16 * (TILE_CLASSES + 15)  # elements of a tile's buffer: fill_tile writes classes by sixteen
# Rows of one block, whose figures are finished in vectors: a multiple of a tile's rows.
ROWS = 256


@inline
def fill_tile(tile, p, step, m, n, class_step):
    """Copy m rows of n classes (strides in elements) to a tile; lanes without a row are 0."""
    width = lanes(tile)
    if class_step == 1:
        for j in range(0, n, width):
            transpose(offset(p, j), step, m, min(n - j, width), offset(tile, j * width))
    elif step == 1:
        here = first_lanes(m, fill(tile, 0.0))
        for j in range(n):
            store(tile, j * width, load_some(p, j * class_step, here, 0.0))
    else:
        for j in range(n):
            for r in range(width):
                tile[j * width + r] = p[r * step + j * class_step] if r < m else 0.0


def store_sum(p, i, total, low, flag):
    """Store flag times the sum that add_terms kept for a tile, one number a row, in the pointer's type."""


@overload(store_sum, jit_options={"forceinline": True})
def _store_sum(p, i, total, low, flag):
    if flag == float64x8:
        return lambda p, i, total, low, flag: store(p, i, (total + low) * flag)
    if is_float32(p):
        return lambda p, i, total, low, flag: store(p, i, join(total, low) * flag)

    def both(p, i, total, low, flag):
        first, second = halves(flag)
        store(p, i, total * first)
        store(p, i + 8, low * second)

    return both


@inline
def tile_term(tile, j, n, label, s, floor, magic, plain, factor, factor_low):
    """Class j's terms of the rows of a tile; a label's own, and those past the last class, are as good as 0."""
    v = load(tile, min(j, n - 1) * lanes(tile))
    v = select(label == j, -math.inf, v) if j < n else fill(tile, -math.inf)
    v = maximum(v - s, floor)
    return exp_shifted(v, magic) if plain else exp_shifted_over(v, factor, factor_low, magic)


@inline
def tile_exp_sum(tile, n, label, figures, r, scale, scale_low):
    """For each row of a tile: A, k, s and the label's logit, to the rows of ``figures`` (4 x ROWS), column r on.

    ``label`` is an integer vector; -1 leaves no class out.
    """
    width = lanes(tile)
    top = fill(tile, -math.inf)
    own = fill(tile, 0.0)
    valid = top < math.inf
    for j in range(n):
        v = load(tile, j * width)
        mine = label == j
        own = select(mine, v, own)
        v = select(mine, -math.inf, v)
        valid = valid & (v < math.inf)
        top = maximum(top, v)
    factor, factor_low = two_words(tile, scale, scale_low)
    scaled = top * factor
    moderate = maximum(scaled, -scaled) <= MODERATE
    empty = top == -math.inf
    k = select(moderate, fma(scaled, LOG2_E, elementary.rounding(tile)) - elementary.rounding(tile), 0.0)
    s = select(moderate | empty, 0.0, top)
    plain = scale == 1.0
    magic = elementary.rounding(tile) - k * (elementary.steps(tile) if plain else 1.0)
    floor = (k + floor_exponent(tile)) * (LN_2 / scale)
    total, low = splat(0.0), splat(0.0)
    for j in range(0, n, 4):
        a = tile_term(tile, j, n, label, s, floor, magic, plain, factor, factor_low)
        b = tile_term(tile, j + 1, n, label, s, floor, magic, plain, factor, factor_low)
        c = tile_term(tile, j + 2, n, label, s, floor, magic, plain, factor, factor_low)
        d = tile_term(tile, j + 3, n, label, s, floor, magic, plain, factor, factor_low)
        total, low = add_terms(total, low, (a + b) + (c + d))
    # NaN for an invalid row, exactly 0 where every class but the label's is masked
    store_sum(figures, r, total, low, select(valid, select(empty, 0.0, fill(top, 1.0)), math.nan))
    store_double(figures, ROWS + r, k)
    store_double(figures, 2 * ROWS + r, s)
    store_double(figures, 3 * ROWS + r, own)
