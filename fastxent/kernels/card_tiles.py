"""Few classes: the sums of card_rows.py for a tile of rows at once, one row a lane (see tiles.py)."""

import math

from fastxent.kernels import elementary
from fastxent.kernels.blocks import strided
from fastxent.kernels.card_finish import IGNORED, INVALID, NO_UNIT, blank, finish_tile, lift, put_integers
from fastxent.kernels.card_rows import far, floor_exponent, too_small
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, exp_shifted, exp_shifted_over
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_integers, offset, pointer, prefetch, store
from fastxent.kernels.rows import add_terms, lane_sums, lanes, two_words
from fastxent.kernels.simd import (
    any_lane,
    bits,
    by_type,
    fill,
    fma,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.tiles import TILE_CLASSES, fill_tile

TILE_ROOM = 16 * (TILE_CLASSES + 1)  # elements: a tile, then the labels' logits

SELECT_CLASSES = 16  # with more, a label's logit is sooner read than selected

FEW_CLASSES = 16  # float32 terms of so many are not widened: they are rounded as often as trees of four, joined again

# Terms that are added to each other before they are widened to float64; those of float64 go to the totals at once.
group = by_type(4, 1)


@inline
def note_tiles(view, like, n, i, m, label, given, scale, scale_low, tile, card):
    """The card's figures of m rows of few classes, tile by tile. Label -1: an ignored row; given: all of them.

    The next block's rows and labels are asked for meanwhile: between blocks nothing is read for a long time. With the
    whole card that is 1.2 ns a row of 10 classes.
    """
    p, q, own, labels = strided(view, like, i), pointer(tile, 0), pointer(tile, TILE_ROOM - 16), pointer(label, 0)
    width, next_labels = lanes(q), pointer(given, i + m)
    for start in range(0, m, width):
        if view[2] == n and view[3] == 1:
            for j in range(start * n, (start + width) * n, width):
                prefetch(p, m * n + j)
        for j in range(0, width, 8):
            prefetch(next_labels, start + j)
        r, some = min(start, max(m - width, 0)), min(width, m)  # the last tile overlaps the one before, to be full
        fill_tile(q, offset(p, r * view[2]), view[2], some, n, view[3])
        y = load_integers(labels, r, fill(q, 0.0))
        if n <= SELECT_CLASSES:
            z = load(q, 0)
            for j in range(1, n):
                z = select(y == j, load(q, j * width), z)
            store(own, 0, z)
        else:
            for lane in range(some):
                own[lane] = p[(r + lane) * view[2] + max(labels[r + lane], 0) * view[3]]
        invalid = note_tile(q, load(own, 0), n, y, scale, scale_low, card, r, some)
        if any_lane(invalid | (y < 0)):
            for lane in range(some):
                ranks = card[5]
                if labels[r + lane] < 0:
                    blank(card, r + lane, IGNORED)
                elif ranks[r + lane] < 0:
                    blank(card, r + lane, INVALID)


@inline
def note_tile(tile, own, n, label, scale, scale_low, card, r, m):
    """The figures of a tile's m rows, in rows r, r + 1, ... of the card. Returns which are invalid: their rank is -1.

    own: the labels' logits.
    """
    width = lanes(tile)
    top, zero = fill(tile, -math.inf), fill(tile, 0.0)
    # Not a plain 1: what LLVM knows to be 1 it does not add under a mask, which takes 10 cycles a tile less.
    first, rank, equal, one = bits(zero), bits(zero), bits(zero), bits(zero) + min(n, 1)
    for j in range(n):
        v = load(tile, j * width)
        first = select(v > top, j, first)
        top = maximum(top, v)
        rank = rank + select(v > own, one, 0)
        equal = equal + select(v == own, one, 0)
    if any_lane(equal > 1):
        for j in range(n):
            rank = rank + select((load(tile, j * width) == own) & (label > j), one, 0)
    factor, factor_low = two_words(tile, scale, scale_low)
    plain = scale == 1.0
    reference = top
    empty = first < 0
    k, s, totals = zero, zero, (zero, zero, zero)
    for attempt in range(2):
        scaled = reference * factor
        moderate = maximum(scaled, -scaled) <= MODERATE
        k = select(moderate, fma(scaled, LOG2_E, elementary.rounding(tile)) - elementary.rounding(tile), 0.0)
        k = k - lift(tile)
        s = select(moderate, 0.0, reference)
        magic = elementary.rounding(tile) - k * (elementary.steps(tile) if plain else 1.0)
        floor = (k + floor_exponent(tile)) * (LN_2 / scale)
        base = minimum(top - s, far(tile))
        sums = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        near, few = plain and not any_lane(s != 0.0), n <= FEW_CLASSES and group(tile) > 1
        if near and few:
            totals = sum_few(near_term, tile, n, (first, floor, magic, base))
        elif few:
            totals = sum_few(far_term, tile, n, (first, floor, magic, base, s, plain, factor, factor_low))
        elif near:
            whole = n - n % group(tile)
            for j in range(0, whole, group(tile)):
                a, b, c = zero, zero, zero
                for i in range(j, j + group(tile)):
                    a, b, c = _add_class(load(tile, i * width), first == i, floor, magic, base, a, b, c)
                sums = add_all(sums, a, b, c)
            a, b, c = zero, zero, zero
            for i in range(whole, n):
                a, b, c = _add_class(load(tile, i * width), first == i, floor, magic, base, a, b, c)
            totals = totals_of(add_all(sums, a, b, c), tile)
        else:
            for j in range(0, n, group(tile)):
                a, b, c = zero, zero, zero
                for i in range(j, min(j + group(tile), n)):
                    v = maximum(load(tile, i * width) - s, floor)
                    e = exp_shifted(v, magic) if plain else exp_shifted_over(v, factor, factor_low, magic)
                    e = select(first == i, 0.0, e)
                    a, b, c = a + e, fma(e, base - v, b), fma(e, e, c)
                sums = add_all(sums, a, b, c)
            totals = totals_of(sums, tile)
        weak = totals[0] < too_small(tile)
        if attempt == 1 or not any_lane(weak):
            break
        # The largest class stands far above the others: their sums are taken relative to the largest of them.
        others = fill(tile, -math.inf)
        for j in range(n):
            others = select(first == j, others, maximum(others, load(tile, j * width)))
        empty = weak & (others == -math.inf)
        reference = select(weak & (others > -math.inf), others, top)
    distances = totals[1]  # a NaN shows here; an exponential's bits may become a number's
    invalid = ~(maximum(top, -top) < math.inf) | (distances != distances)
    finish_tile(totals, select(empty, NO_UNIT, k), s, top, own, scale, scale_low, card, r, m)
    put_integers(card[4], r, m, first)
    put_integers(card[5], r, m, select(invalid, -1, rank))
    return invalid


@inline
def _add_class(v, largest, floor, magic, base, a, b, c):
    """Add a class's term, its distance below the largest times it, and its square; for T = 1 and s = 0."""
    v = maximum(v, floor)
    e = select(largest, 0.0, exp_shifted(v, magic))
    return a + e, fma(e, base - v, b), fma(e, e, c)


@inline
def sum_few(term_of, tile, n, rows):
    """The three totals for few classes, in the terms' own type."""
    zero = fill(tile, 0.0)
    a, b, c = zero, zero, zero
    for j in range(0, n - 3, 4):
        e0, d0 = term_of(tile, j, rows)
        e1, d1 = term_of(tile, j + 1, rows)
        e2, d2 = term_of(tile, j + 2, rows)
        e3, d3 = term_of(tile, j + 3, rows)
        a = a + ((e0 + e1) + (e2 + e3))
        b = b + (fma(e0, d0, e1 * d1) + fma(e2, d2, e3 * d3))
        c = c + (fma(e0, e0, e1 * e1) + fma(e2, e2, e3 * e3))
    for j in range(n - n % 4, n):
        e, d = term_of(tile, j, rows)
        a, b, c = a + e, fma(e, d, b), fma(e, e, c)
    return a, b, c


@inline
def near_term(tile, j, rows):
    """Class j's term, 0 for the largest, and its distance below that; for T = 1 and s = 0."""
    first, floor, magic, base = rows
    v = maximum(load(tile, j * lanes(tile)), floor)
    return select(first == j, 0.0, exp_shifted(v, magic)), base - v


@inline
def far_term(tile, j, rows):
    """The same for any; with the same bits where T = 1 and s = 0."""
    first, floor, magic, base, s, plain, factor, factor_low = rows
    v = maximum(load(tile, j * lanes(tile)) - s, floor)
    e = exp_shifted(v, magic) if plain else exp_shifted_over(v, factor, factor_low, magic)
    return select(first == j, 0.0, e), base - v


@inline
def totals_of(sums, like):
    """The three totals, in the type of ``like``."""
    a1, a2, b1, b2, c1, c2 = sums
    return lane_sums(a1, a2, like), lane_sums(b1, b2, like), lane_sums(c1, c2, like)


@inline
def add_all(sums, a, b, c):
    """Add three vectors of terms to three totals, each in two vectors of 8 x float64."""
    a1, a2, b1, b2, c1, c2 = sums
    a1, a2 = add_terms(a1, a2, a)
    b1, b2 = add_terms(b1, b2, b)
    c1, c2 = add_terms(c1, c2, c)
    return a1, a2, b1, b2, c1, c2
