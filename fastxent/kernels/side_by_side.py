"""Rows that are side by side in memory, their classes apart: one row a lane without turning anything, for T = 1.

Images with their classes on axis 1, and matrices in Fortran order. Each class is read along all rows of a block before
the next one is: classes may be a power of two apart, where a cache holds no more than eight of them. A row's terms are
added up in the order of the kernels for rows that lie one after the other, so that its bits are the same: flat.py's
and tiles.py's for few classes, those of row_groups.py for many.

A block has at least as many rows as a vector has lanes. Where it is not a multiple, the last vector overlaps the one
before: what is kept by vector, not by row, is not added up twice.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary, row_groups
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, exp_shifted
from fastxent.kernels.flat import NARROW
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_integers, offset, prefetch_second_level, store, store_double
from fastxent.kernels.rows import add_terms, floor_exponent, lane_sums, lanes, magnitude, too_small
from fastxent.kernels.simd import (
    any_lane,
    bits,
    by_type,
    fill,
    fma,
    from_bits,
    is_float32,
    join,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.term_sums import four_terms, in_range, nothing_seen, one_term, range_mask, term_constants
from fastxent.kernels.tiles import ROWS

# Of more classes too many lines would be read in turn.
MOST_CLASSES = 4096
# Rows of ``work`` for many classes: k, what makes exp_shifted leave it out, the least logit and its term, what was seen
# of the terms, the first class of the label's vector (see row_groups.py), and the label's place in it.
KEPT, MAGIC, FLOOR, LEAST, SEEN, BLOCK, PLACE, WORK = range(8)
levels = by_type(4, 3)  # of the tree of as many partial sums as a vector has lanes
SUMS, FEW_SUMS = 5 * 2 * ROWS, 2 * ROWS


def are_side_by_side(z):
    """Whether the rows of an array (outer, inner, C) are."""
    return z.strides[1] == z.itemsize != z.strides[2] and z.shape[2] <= MOST_CLASSES


# --- few classes ------------------------------------------------------------------------------------------------------


@inline
def _term(x, j, label, magic, own, largest):
    """e^x, 0 where class j is the label's, whose logit goes to ``own``; and the largest of the magnitudes' bits."""
    mine = label == j
    return select(mine, 0.0, exp_shifted(x, magic)), select(mine, x, own), maximum(largest, bits(x) & magnitude(x))


@inline
def few_classes(p, step, m, n, label, figures, sums):
    """A, k, s and the label's logit of m rows, 2 or more classes ``step`` apart. Whether all are of moderate size.

    A is the sum as it is, and k is 0 (see flat.flat_pairs).
    """
    width, own_at = lanes(p), offset(figures, 3 * ROWS)
    magic, largest = fill(p, elementary.rounding(p)), bits(fill(p, 0.0))
    for t in range(0, m, width):
        r = min(t, m - width)
        store(figures, r, from_bits(load_integers(label, r, magic)))
        store(own_at, r, fill(p, 0.0))
        store(sums, 2 * t, splat(0.0))
        store(sums, 2 * t + 8, splat(0.0))
    for j in range(0, n - 3, 4):
        p0 = offset(p, j * step)
        p1, p2, p3 = offset(p0, step), offset(p0, 2 * step), offset(p0, 3 * step)
        following = 4 * step if j + 8 <= n else m - j * step  # the next classes, or the first ones of the next rows
        for t in range(0, m, width):
            r = min(t, m - width)
            prefetch_second_level(p0, r + following)
            prefetch_second_level(p1, r + following)
            prefetch_second_level(p2, r + following)
            prefetch_second_level(p3, r + following)
            y, own = bits(load(figures, r)), load(own_at, r)
            a, own, largest = _term(load(p0, r), j, y, magic, own, largest)
            b, own, largest = _term(load(p1, r), j + 1, y, magic, own, largest)
            c, own, largest = _term(load(p2, r), j + 2, y, magic, own, largest)
            d, own, largest = _term(load(p3, r), j + 3, y, magic, own, largest)
            total, low = add_terms(load(sums, 2 * t), load(sums, 2 * t + 8), ((a + b) + c) + d)
            store(sums, 2 * t, total)
            store(sums, 2 * t + 8, low)
            store(own_at, r, own)
    for t in range(0, m, width):
        r = min(t, m - width)
        y, own, terms = bits(load(figures, r)), load(own_at, r), fill(p, 0.0)
        for j in range(n & -4, n):
            prefetch_second_level(p, j * step + r + m)
            a, own, largest = _term(load(p, j * step + r), j, y, magic, own, largest)
            terms = terms + a
        total, low = add_terms(load(sums, 2 * t), load(sums, 2 * t + 8), terms)
        store(sums, 2 * t, total)
        store(sums, 2 * t + 8, low)
        store(own_at, r, own)
    for t in range(0, m, width):
        r = min(t, m - width)
        store_double(figures, r, lane_sums(load(sums, 2 * t), load(sums, 2 * t + 8), magic))
        store_double(figures, ROWS + r, fill(p, 0.0))
        store_double(figures, 2 * ROWS + r, fill(p, 0.0))
    return not any_lane(largest > bits(fill(p, NARROW(p))))


# --- many classes -----------------------------------------------------------------------------------------------------


@inline
def _references(p, step, m, n, label, figures, work):
    """k of m rows to ``figures``, as row_groups.group_terms chooses it, and what ``work`` holds."""
    width = lanes(p)
    for t in range(0, m, width):
        store(figures, min(t, m - width), fill(p, -math.inf))
    for j in range(0, width, 4):
        z = offset(p, j * step)
        for t in range(0, m, width):
            r = min(t, m - width)
            top = maximum(maximum(load(figures, r), load(z, r)), load(z, step + r))
            store(figures, r, maximum(maximum(top, load(z, 2 * step + r)), load(z, 3 * step + r)))
    for t in range(0, m, width):
        r = min(t, m - width)
        top = load(figures, r)
        moderate = maximum(top, -top) <= MODERATE
        k = fma(select(moderate, top, 0.0), LOG2_E, elementary.rounding(p)) - elementary.rounding(p)
        magic, floor = elementary.rounding(p) - k * elementary.steps(p), (k + floor_exponent(p)) * LN_2
        least, _ = one_term(floor, term_constants(magic))
        y = load_integers(label, r, magic)
        block = minimum(maximum(y, 0) & -width, (n // width - 1) * width)
        store(work, KEPT * ROWS + t, k)
        store(work, MAGIC * ROWS + t, magic)
        store(work, FLOOR * ROWS + t, floor)
        store(work, LEAST * ROWS + t, least)
        store(work, SEEN * ROWS + t, from_bits(nothing_seen(p)))
        store(work, BLOCK * ROWS + t, from_bits(block))
        store(work, PLACE * ROWS + t, from_bits(y - block))


@inline
def _reversed_bits(i, size):
    """The bits of i < size, a power of two, in reversed order."""
    result = 0
    while size > 1:
        result = 2 * result + (i & 1)
        i, size = i >> 1, size >> 1
    return result


@inline
def _unless(mine, x, following):
    """What is next of a row but its label's vector, and what comes after that, or is the label's."""
    return select(mine, following, x), select(mine, x, following)


def _by_row(total, low, like):
    """What add_terms kept as a number a row: two vectors of 8 x float64; of 8 rows only the first counts."""


@overload(_by_row, jit_options=INLINE)
def _by_row_of(total, low, like):
    if is_float32(like):
        return lambda total, low, like: (total, low)
    return lambda total, low, like: (total + low, low)


def _near_one(first, second, like):
    """row_groups.near_one of them, as one vector of the type of ``like`` each."""


@overload(_near_one, jit_options=INLINE)
def _near_one_of(first, second, like):
    if not is_float32(like):
        return lambda first, second, like: row_groups.near_one(first)

    def both(first, second, like):
        a, n = row_groups.near_one(first)
        b, n_b = row_groups.near_one(second)
        return join(a, b), join(n, n_b)

    return both


@inline
def many_classes(p, step, m, n, label, figures, work, sums):
    """A, k, s and the label's logit of m rows, classes ``step`` apart; 4 vectors of classes or more.

    Last comes whether the reference always served (row_groups.group_exp_sums). Partial sum number l of a row is that of
    the classes l, l + width, l + 2·width and so on, but for the label's vector, which comes last. They are made in an
    order in which those that are added together are neighbours.
    """
    width = lanes(p)
    _references(p, step, m, n, label, figures, work)
    positions = n // width - 1
    rest, far = n % width, width * step
    for count in range(width):
        number, following = _reversed_bits(count, width), _reversed_bits((count + 1) % width, width)
        ahead = (following - number) * step + (m if following == 0 else 0)
        level = 0
        while count >> level & 1 != 0:
            level += 1
        for t in range(0, m, width):
            z = offset(p, number * step + min(t, m - width))
            constants, floor = term_constants(load(work, MAGIC * ROWS + t)), load(work, FLOOR * ROWS + t)
            block, place = bits(load(work, BLOCK * ROWS + t)), bits(load(work, PLACE * ROWS + t))
            seen = bits(load(work, SEEN * ROWS + t))
            total, low = splat(0.0), splat(0.0)
            x = load(z, 0)
            prefetch_second_level(z, ahead)
            for i in range(0, positions - 3, 4):
                z1 = offset(z, (i + 1) * far)
                prefetch_second_level(z1, ahead)
                prefetch_second_level(z1, ahead + far)
                prefetch_second_level(z1, ahead + 2 * far)
                prefetch_second_level(z1, ahead + 3 * far)
                here = block - i * width
                a, x = _unless(here <= 0, x, load(z1, 0))
                b, x = _unless(here <= width, x, load(z1, far))
                c, x = _unless(here <= 2 * width, x, load(z1, 2 * far))
                d, x = _unless(here <= 3 * width, x, load(z1, 3 * far))
                a, b, c, d = maximum(a, floor), maximum(b, floor), maximum(c, floor), maximum(d, floor)
                four, found = four_terms(a, b, c, d, constants)
                seen = seen | found
                total, low = add_terms(total, low, four)
            few = fill(p, 0.0)
            for i in range(positions & -4, positions):
                prefetch_second_level(z, (i + 1) * far + ahead)
                a, x = _unless(block <= i * width, x, load(z, (i + 1) * far))
                e, found = one_term(maximum(a, floor), constants)
                few, seen = few + e, seen | found
            total, low = add_terms(total, low, few)
            few, found = one_term(maximum(select(place == number, -math.inf, x), floor), constants)
            seen = seen | found
            if number < rest:
                prefetch_second_level(z, (positions + 1) * far + ahead)
                x = select(place == width + number, -math.inf, load(z, (positions + 1) * far))
                e, found = one_term(maximum(x, floor), constants)
                few, seen = few + e, seen | found
            elif rest > 0:  # a lane behind the last class
                few = few + load(work, LEAST * ROWS + t)
            first, second = _by_row(*add_terms(total, low, few), floor)
            store(work, SEEN * ROWS + t, from_bits(seen))
            to = offset(sums, 2 * t)
            for i in range(level):
                first, second = load(to, 2 * ROWS * i) + first, load(to, 2 * ROWS * i + 8) + second
            store(to, 2 * ROWS * level, first)
            store(to, 2 * ROWS * level + 8, second)
    return _finish(p, step, m, label, figures, work, sums)


@inline
def _finish(p, step, m, label, figures, work, sums):
    """The sums to figures; whether they serve."""
    serves, width, sums = True, lanes(p), offset(sums, 2 * ROWS * levels(p))
    for t in range(0, m, width):
        r = min(t, m - width)
        seen = bits(load(work, SEEN * ROWS + t))
        a, n = _near_one(load(sums, 2 * t), load(sums, 2 * t + 8), from_bits(seen))
        a = select((seen & range_mask(p)) == in_range(p), a, math.nan)
        store(figures, r, a)
        store(figures, ROWS + r, load(work, KEPT * ROWS + t) + n)
        store(figures, 2 * ROWS + r, fill(p, 0.0))
        serves &= not any_lane(~(a >= too_small(p)))
    for r in range(m):
        figures[3 * ROWS + r] = p[max(label[r], 0) * step + r]
    return serves
