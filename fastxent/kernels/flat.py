"""Few classes whose rows lie one after the other: exponentials along memory, and only their sums lane by lane.

A tile (tiles.py) turns rows into vectors first, and then has a reference, a floor and a class's label to look after for
every exponential. Where all logits of some rows are of moderate size none of that is needed: the terms e^x are normal
numbers as they are, and so is what finishes a row. A row's figures are then those of a tile but for powers of two:
nothing that is made of them differs in a single bit. Other rows are left to tiles.
"""

import numpy as np
from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import exp_shifted, whole_float
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_integers, offset, prefetch_second_level, store, store_double
from fastxent.kernels.rows import add_terms, ahead, lane_sums, lanes, magnitude
from fastxent.kernels.simd import (
    any_lane,
    bits,
    by_type,
    fill,
    from_bits,
    is_float32,
    lane_numbers,
    maximum,
    select,
    splat,
    to_real,
)
from fastxent.kernels.tiles import ROWS, TILES
from fastxent.kernels.transpose import adjacent_vectors, as_double, four_of_rows

# Logits of moderate size. With z of the label and m of the largest other class e^m·2^-k is far from a tile's floor, and
# C·e^(m - z) within what finish.near_nll serves: |m - z|/ln 2 is at most 116 (866).
NARROW = by_type(40.0, 300.0)


@inline
def flat_terms(p, n, terms, go_on, context):
    """e^x of TILES tiles' logits behind p, n a row without gaps, to ``terms``. Whether all are of moderate size.

    What else to do meanwhile: go_on(i, context) with element i, for every fourth vector.
    """
    width = lanes(p)
    magic, largest = fill(p, elementary.rounding(p)), bits(fill(p, 0.0))
    for i in range(0, TILES * width * n, 4 * width):
        for j in range(4):
            prefetch_second_level(p, i + j * width + 2 * ahead(p))
        a, b, c, d = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        store(terms, i, exp_shifted(a, magic))
        store(terms, i + width, exp_shifted(b, magic))
        store(terms, i + 2 * width, exp_shifted(c, magic))
        store(terms, i + 3 * width, exp_shifted(d, magic))
        largest = maximum(maximum(largest, bits(a) & magnitude(p)), bits(b) & magnitude(p))
        largest = maximum(maximum(largest, bits(c) & magnitude(p)), bits(d) & magnitude(p))
        go_on(i, context)
    return not any_lane(largest > bits(fill(p, NARROW(p))))


def add_four(total, low, p, step, first):
    """Add four elements of each row, or those from ``first`` on, as tiles.tile_exp_sum adds them."""


@overload(add_four, jit_options=INLINE)
def _add_four(total, low, p, step, first):
    if is_float32(p):

        def short(total, low, p, step, first):
            a, b, c, d, e, f, g, h = four_of_rows(p, step)
            return total + as_double(_in_order(a, b, c, d, first)), low + as_double(_in_order(e, f, g, h, first))

        return short

    def long(total, low, p, step, first):
        a, b, c, d = four_of_rows(p, step)
        return add_terms(total, low, _in_order(a, b, c, d, first))

    return long


@inline
def _in_order(a, b, c, d, first):
    return ((select(first > 0, 0.0, a) + select(first > 1, 0.0, b)) + select(first > 2, 0.0, c)) + d


@inline
def flat_sum(terms, n):
    """The sum of a tile's terms: 4 classes or more."""
    total, low = splat(0.0), splat(0.0)
    for j in range(0, n - 3, 4):
        total, low = add_four(total, low, offset(terms, j), n, 0)
    if n % 4 > 0:
        total, low = add_four(total, low, offset(terms, n - 4), n, 4 - n % 4)
    return lane_sums(total, low, terms)


def near_one(a):
    """A positive normal number as a·2^k with a in [1, 2)."""


@overload(near_one, jit_options=INLINE)
def _near_one(a):
    if is_float32(a):

        def short(a):
            n = (bits(a) - elementary.ONE_BITS32) & elementary.EXPONENT32
            return from_bits(bits(a) - n), to_real(n) * np.float32(2.0**-23)

        return short

    def long(a):
        n = (bits(a) >> 52) - 1023
        return from_bits(bits(a) - (n << 52)), whole_float(n)

    return long


@inline
def label_places(label, n, m, places):
    """Where the labels' logits of m rows are, counted from the first of TILES tiles (8 lanes each at least).

    What reads and writes them one by one is then as short as can be, and costs less than to compare every class.
    """
    rows = lane_numbers(splat(np.int64(0))) * n
    for r in range(0, m, 8):
        store(places, r, maximum(load(label, r), 0) + rows)
        rows = rows + 8 * n


@inline
def flat_figures(p, n, places, r, figures, terms, go_on, context):
    """A, k, s and the label's logit of TILES tiles' rows, from row r of a block on. Whether they are of moderate size.

    ``places`` is a pointer to the first one's. The labels' terms become 0. What else to do meanwhile: see flat_terms.
    """
    width = lanes(p)
    if not flat_terms(p, n, terms, go_on, context):
        return False
    own = offset(figures, 3 * ROWS + r)
    for i in range(TILES * width):
        at = places[i]
        own[i] = p[at]
        terms[at] = 0.0
    for t in range(TILES):
        at = r + t * width
        a, k = near_one(flat_sum(offset(terms, t * width * n), n))
        store_double(figures, at, a)
        store_double(figures, ROWS + at, k)
        store_double(figures, 2 * ROWS + at, fill(a, 0.0))
    return True


@inline
def flat_pairs(p, n, m, label, figures):
    """A, k, s and the label's logit of m rows of 2 or 3 classes, a vector's lanes or more. Whether all are moderate.

    A is the sum as it is, and k is 0: finish.py makes the same of both.
    """
    width = lanes(p)
    magic, largest = fill(p, elementary.rounding(p)), bits(fill(p, 0.0))
    for t in range(0, m, width):
        r = min(t, m - width)
        label_is = load_integers(label, r, magic)
        if n == 2:
            a, b = adjacent_vectors(offset(p, 2 * r), 2)
            own, total = select(label_is == 0, a, b), exp_shifted(select(label_is == 0, b, a), magic)
        else:
            a, b, c = adjacent_vectors(offset(p, 3 * r), 3)
            own = select(label_is == 0, a, select(label_is == 1, b, c))
            total = exp_shifted(select(label_is == 0, b, a), magic)
            total = total + exp_shifted(select(label_is == 2, b, c), magic)
            largest = maximum(largest, bits(c) & magnitude(p))
        largest = maximum(maximum(largest, bits(a) & magnitude(p)), bits(b) & magnitude(p))
        store_double(figures, r, total)
        store_double(figures, ROWS + r, fill(p, 0.0))
        store_double(figures, 2 * ROWS + r, fill(p, 0.0))
        store_double(figures, 3 * ROWS + r, own)
    return not any_lane(largest > bits(fill(p, NARROW(p))))
