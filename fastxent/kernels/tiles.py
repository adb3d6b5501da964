"""Few classes: 16 rows of float32 (8 of float64) at once, one row a lane, one class after another.

A tile is a small buffer of n vectors, vector j holding class j of every row. There are no sums across lanes, and rows
that need another treatment differ by lane-wise selection only, so that a row's bits do not depend on its neighbours.
The figures are those of rows.exp_sum_over: see there.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, offset, prefetch_second_level, store, store_double
from fastxent.kernels.rows import add_terms, ahead, floor_exponent, lane_sums, lanes, too_small, two_words
from fastxent.kernels.simd import (
    any_lane,
    fill,
    float64x8,
    fma,
    halves,
    is_float32,
    maximum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.transpose import adjacent_to_vectors, rows_to_vectors

# Up to so many classes rows are done in tiles; with more, in groups that are read along the classes. A function of C
# alone, as the bits are. Figures of float32, one thread, in the cache, ns a row in tiles and in groups: 18.3 and 21.1
# for 56 classes, 19.5 and 21.2 for 60, 21.1 and 20.2 for 64. (`fastxent bench --crossover` measures it.)
TILE_CLASSES = 64
TILES = 4  # so many are filled together
TILE_SIZE = 16 * TILES * (TILE_CLASSES + 1)  # elements of their buffer: the largest logits follow the classes
PAIR_CLASSES = 3  # with so many, two are left beside the label's (or one, or none)
# How far ahead classes apart are asked for: each comes as a stream of its own, too many for the processor to foresee.
# (N, 21, H, W) of float32 in memory, one thread: 11.1 ns a row with 128 to 512 rows, 14.3 without.
ROWS_AHEAD = 128
# Rows of one block, whose figures are finished in vectors: a multiple of a tile's rows.
ROWS = 256


@inline
def fill_tiles(tiles, p, step, start, n_tiles, m, n, class_step):
    """Copy the rows of some tiles, from row ``start`` of m on (see tile_row), to one tile after the other.

    Rows side by side are read across all tiles, class by class: with classes a power of two apart the cache would lose
    a line that one tile shares with the next one.

    What follows is asked for. Adjacent classes in memory, one thread, ns a row without, and 4, 8 and 16 KiB ahead: 7.2,
    6.3 and 6.4 for 10 of float32; 13.6, 10.6 and 9.6 for 20; 14.6, 13.2, 13.1, 13.7 for 10 of float64.
    """
    width = lanes(tiles)
    if step == 1 and class_step != 1 and m >= width:
        for j in range(n):
            for t in range(n_tiles):
                r = tile_row(tiles, start, t, m)
                prefetch_second_level(p, j * class_step + r + ROWS_AHEAD)
                v = load(p, j * class_step + r)
                store(tiles, (t * (n + 1) + j) * width, v)
    else:
        for t in range(n_tiles):
            row = offset(p, tile_row(tiles, start, t, m) * step)
            if class_step == 1 and n > PAIR_CLASSES:
                for j in range(n):  # as many lines as a tile's rows take
                    prefetch_second_level(row, 2 * ahead(p) + j * width)
            fill_tile(offset(tiles, t * (n + 1) * width), row, step, min(width, m), n, class_step)


@inline
def tile_row(tiles, start, t, m):
    """The first row of a tile. The last tile of m rows overlaps the one before, so that it is full."""
    return min(start + t * lanes(tiles), max(m - lanes(tiles), 0))


@inline
def add_tops(tiles, n_tiles, n):
    """The largest logit of every row becomes a class n of its own: apart from what waits for it."""
    width = lanes(tiles)
    for t in range(n_tiles):
        tile = offset(tiles, t * (n + 1) * width)
        top = fill(tile, -math.inf)
        for j in range(n):
            top = maximum(top, load(tile, j * width))
        store(tile, n * width, top)


@inline
def fill_tile(tile, p, step, m, n, class_step):
    """Copy m rows of n classes (strides in elements) to a tile; lanes without a row hold anything."""
    width = lanes(tile)
    if m == width and class_step == 1 and n >= 4:
        for j in range(0, n, 4):
            first = min(j, n - 4)  # the last four overlap those before
            rows_to_vectors(offset(p, first), step, offset(tile, first * width), width)
    elif m == width and class_step == 1 and n == 2 and step == 2:
        adjacent_to_vectors(p, 2, tile)
    elif m == width and class_step == 1 and n == 3 and step == 3:
        adjacent_to_vectors(p, 3, tile)
    elif m == width and step == 1:
        for j in range(n):
            store(tile, j * width, load(p, j * class_step))
    else:
        for j in range(n):
            for r in range(m):
                tile[j * width + r] = p[r * step + j * class_step]


def store_sum(p, i, total, low, flag):
    """Store flag times the sum that add_terms kept for a tile, one number a row, in the pointer's type."""


@overload(store_sum, jit_options=INLINE)
def _store_sum(p, i, total, low, flag):
    if flag == float64x8 or is_float32(p):
        return lambda p, i, total, low, flag: store(p, i, lane_sums(total, low, flag) * flag)

    def both(p, i, total, low, flag):
        first, second = halves(flag)
        store(p, i, total * first)
        store(p, i + 8, low * second)

    return both


@inline
def references(top, scaled):
    """k and s for rows whose largest logit is ``top``, ``scaled`` by 1/T (rows.reference_of), and where top is -inf."""
    moderate = maximum(scaled, -scaled) <= MODERATE
    empty = top == -math.inf
    k = select(moderate, fma(scaled, LOG2_E, elementary.rounding(top)) - elementary.rounding(top), 0.0)
    return k, select(moderate | empty, 0.0, top), empty


@inline
def shifts(k, plain, scale):
    """What makes exp_shifted (if plain) or exp_shifted_over leave out 2^k, and the least logit for it."""
    magic = elementary.rounding(k) - k * (elementary.steps(k) if plain else 1.0)
    return magic, (k + floor_exponent(k)) * (LN_2 / scale)


@inline
def tile_pair(tile, n, label, figures, r, scale, scale_low):
    """tile_exp_sum for at most two classes beside the label's."""
    width, plain = lanes(tile), scale == 1.0
    first, missing = load(tile, 0), fill(tile, -math.inf)
    second = load(tile, width) if n > 1 else missing
    third = load(tile, 2 * width) if n > 2 else missing
    own = select(label == 0, first, select(label == 1, second, third))
    x, y = select(label == 0, second, first), select(label == 2, second, third)
    top = maximum(x, y)
    valid = (top < math.inf) & (y < math.inf)  # a NaN in y does not show in the maximum
    factor, factor_low = two_words(tile, scale, scale_low)
    k, s, empty = references(top, top * factor)
    magic, floor = shifts(k, plain, scale)
    x, y = maximum(x - s, floor), maximum(y - s, floor)
    if plain:
        total = exp_shifted(x, magic) + exp_shifted(y, magic)
    else:
        total = exp_shifted_over(x, factor, factor_low, magic) + exp_shifted_over(y, factor, factor_low, magic)
    store_double(figures, r, select(valid, select(empty, 0.0, total), math.nan))
    store_double(figures, ROWS + r, k)
    store_double(figures, 2 * ROWS + r, s)
    store_double(figures, 3 * ROWS + r, own)


@inline
def tile_term(tile, j, label, floor, magic, own):
    """Class j's term of each row, for T = 1 and s = 0; 0 for the label's, whose logit goes to ``own``."""
    v = load(tile, j * lanes(tile))
    mine = label == j
    return select(mine, 0.0, exp_shifted(maximum(v, floor), magic)), select(mine, v, own)


@inline
def tile_exp_sum(tile, n, label, figures, r, scale, scale_low):
    """For each row of a tile: A, k, s and the label's logit, to the rows of ``figures`` (4 x ROWS), column r on.

    ``label`` is an integer vector; -1 leaves no class out.
    """
    width, plain = lanes(tile), scale == 1.0
    factor, factor_low = two_words(tile, scale, scale_low)
    top = load(tile, n * width)
    own, seen = fill(tile, 0.0), fill(tile, 0.0)
    for attempt in range(2):
        k, s, empty = references(top, top * factor)
        magic, floor = shifts(k, plain, scale)
        total, low = splat(0.0), splat(0.0)
        if plain and not any_lane(s != 0.0):
            for j in range(0, n - 3, 4):
                a, own = tile_term(tile, j, label, floor, magic, own)
                b, own = tile_term(tile, j + 1, label, floor, magic, own)
                c, own = tile_term(tile, j + 2, label, floor, magic, own)
                d, own = tile_term(tile, j + 3, label, floor, magic, own)
                total, low = add_terms(total, low, ((a + b) + c) + d)
            terms = fill(tile, 0.0)
            for j in range(n - n % 4, n):
                a, own = tile_term(tile, j, label, floor, magic, own)
                terms = terms + a
            total, low = add_terms(total, low, terms)
        else:
            for j in range(0, n, 4):
                terms = fill(tile, 0.0)
                for i in range(j, min(j + 4, n)):
                    v = load(tile, i * width)
                    mine = label == i
                    own = select(mine, v, own)
                    x = maximum(v - s, floor)
                    seen = seen + x  # exp_shifted_over may make a number of a NaN
                    e = exp_shifted(x, magic) if plain else exp_shifted_over(x, factor, factor_low, magic)
                    terms = terms + select(mine, 0.0, e)
                total, low = add_terms(total, low, terms)
        small = lane_sums(total, low, tile) < too_small(tile)  # so small that what was floored would count
        if attempt == 1 or not any_lane(small):
            break
        # The label's class stands far above the others: their sum is taken relative to the largest of them.
        others = fill(tile, -math.inf)
        for j in range(n):
            others = select(label == j, others, maximum(others, load(tile, j * width)))
        top = select(small, others, top)
    # NaN for an invalid row, exactly 0 where every class but the label's is masked
    valid = (top < math.inf) & (seen == seen)
    store_sum(figures, r, total, low, select(valid, select(empty, 0.0, fill(top, 1.0)), math.nan))
    store_double(figures, ROWS + r, k)
    store_double(figures, 2 * ROWS + r, s)
    store_double(figures, 3 * ROWS + r, own)
