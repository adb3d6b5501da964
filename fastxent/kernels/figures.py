"""A block of rows of logits -> figures, one column a row: what is done row by row, before vectors finish the block.

Figures are an array (4 or more, ROWS), float64 or of the logits' type: A, k and s (see rows.py), then the logit that
was left out.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import row_block, strided
from fastxent.kernels.finish import losses_of
from fastxent.kernels.flat import flat_figures, flat_pairs, label_places
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load_integers, offset, pointer, scratch, store_double
from fastxent.kernels.narrow import read_type
from fastxent.kernels.row_groups import REFERENCE, group_exp_sums, group_terms, nothing
from fastxent.kernels.rows import exp_sum_over, lanes, largest, moments, near_one, too_small
from fastxent.kernels.side_by_side import FEW_SUMS, SUMS, WORK, few_classes, many_classes
from fastxent.kernels.simd import fill
from fastxent.kernels.tiles import PAIR_CLASSES, ROWS, TILES, add_tops, fill_tiles, tile_exp_sum, tile_pair, tile_row

# Labels are read in vectors, past the last one.
LABELS = ROWS + 16


@inline
def tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tile):
    """A, k, s and the label's logit of m rows from row i on, to the rows of ``figures``; label -1: anything."""
    _tiles(view, like, n, i, m, label, scale, scale_low, figures, tile, n <= PAIR_CLASSES, False, label)


@inline
def few_figures(view, like, n, i, m, label, scale, scale_low, figures, tile):
    """Figures that give the same losses, sooner where rows lie one after the other; what is in the tile is anything."""
    pair, flat, places = n <= PAIR_CLASSES, is_flat(view, n, scale), scratch(np.int64, 0, ROWS)
    if pair and n > 1 and scale == 1.0 and view[2] == n and view[3] == 1 and m >= lanes(pointer(tile, 0)):
        if flat_pairs(strided(view, like, i), n, m, pointer(label, 0), pointer(figures, 0)):
            return
    _tiles(view, like, n, i, m, label, scale, scale_low, figures, tile, pair, flat, places)


@inline
def few_figures_side_by_side(view, like, n, i, m, label, scale, scale_low, figures, tile):
    """The same sooner where rows are side by side; T = 1."""
    p, sums = strided(view, like, i), scratch(np.float64, 0, FEW_SUMS)
    if n > 1 and m >= lanes(p):
        if few_classes(p, view[3], m, n, pointer(label, 0), pointer(figures, 0), pointer(sums, 0)):
            return
    tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tile)


@inline
def is_flat(view, n, scale):
    """Whether flat.py may serve."""
    return n > PAIR_CLASSES and scale == 1.0 and view[2] == n and view[3] == 1


@inline
def tile_figures_of_all(view, like, n, i, m, label, scale, scale_low, figures, tile):
    """The same over all classes, for labels -1."""
    _tiles(view, like, n, i, m, label, scale, scale_low, figures, tile, False, False, label)


@inline
def _tiles(view, like, n, i, m, label, scale, scale_low, figures, tile, pair, flat, places):
    """The same, with or without what is quicker for hardly any classes, and for rows that lie one after the other."""
    p, f, q, y = strided(view, like, i), pointer(figures, 0), pointer(tile, 0), pointer(label, 0)
    width, at = lanes(q), pointer(places, 0)
    for start in range(0, m, TILES * width):
        if flat and start + TILES * width <= m:
            label_places(offset(y, start), n, TILES * width, at)
            if flat_figures(offset(p, start * n), n, at, start, f, q, nothing, ()):
                continue
        n_tiles = min((m - start + width - 1) // width, TILES)
        fill_tiles(q, p, view[2], start, n_tiles, m, n, view[3])
        if not pair:
            add_tops(q, n_tiles, n)
        for t in range(n_tiles):
            r, one = tile_row(q, start, t, m), offset(q, t * (n + 1) * width)
            labels = load_integers(y, r, fill(p, 0.0))
            if pair:
                tile_pair(one, n, labels, f, r, scale, scale_low)
            else:
                tile_exp_sum(one, n, labels, f, r, scale, scale_low)


@inline
def row_figures(view, like, n, i, m, label, scale, scale_low, figures, buffer):
    """The same for many classes."""
    p, step = row_block(view, like, i, m, n, buffer)
    f, width = pointer(figures, 0), lanes(p)
    sums = scratch(np.float64, 0, 128)
    serves = scale == 1.0
    if serves:
        for r in range(0, m, width):
            group = offset(p, r * step)
            serves &= group_exp_sums(group, step, min(width, m - r), n, label, r, f, pointer(sums, 0))
    if not serves:
        for r in range(m):
            _row_alone(offset(p, r * step), n, label[r], scale, scale_low, figures, r)


@inline
def _row_alone(p, n, label, scale, scale_low, figures, r):
    """The figures of a row that its group's sums may not serve. Whether they do not."""
    figures[3, r] = p[max(label, 0)]
    alone = scale != 1.0 or not figures[0, r] >= too_small(p)
    if alone:
        a, k, s = exp_sum_over(p, n, label, scale, scale_low)
        a, k = near_one(a, k)
        figures[0, r] = a
        figures[1, r] = k
        figures[2, r] = s
    return alone


@inline
def row_figures_and_terms(
    p, step, n, m, label, scale, scale_low, figures, terms, terms_step, note, notes, begin, go_on, end, context
):
    """The same with the terms of row_groups.group_terms, which see, where T = 1.

    What k is for them goes to row REFERENCE of the figures: NaN for a row that they do not serve.
    """
    f, width = pointer(figures, 0), lanes(p)
    sums = scratch(np.float64, 0, 128)
    serves = scale == 1.0
    if serves:
        for r in range(0, m, width):
            group, rows = offset(p, r * step), min(width, m - r)
            k, served = group_terms(
                group, step, rows, n, label, r, f, pointer(sums, 0), terms, terms_step, math.inf, note, notes,
                begin, go_on, end, context,
            )  # fmt: skip
            store_double(f, REFERENCE * ROWS + r, k)
            serves &= served
    if not serves:
        for r in range(m):
            if _row_alone(offset(p, r * step), n, label[r], scale, scale_low, figures, r):
                figures[REFERENCE, r] = math.nan


@inline
def row_figures_side_by_side(view, like, n, i, m, label, scale, scale_low, figures, memory):
    """row_figures for rows that are side by side. There is room for a vector of them in ``memory``."""
    sums = scratch(np.float64, 0, SUMS)
    work = scratch(read_type(like), WORK, ROWS)
    p, step, some = strided(view, like, i), view[3], m
    width, room = lanes(p), pointer(memory, 0)
    if m < width:
        for j in range(n):
            for r in range(width):
                room[j * width + r] = p[j * step + min(r, m - 1)]
        p, step, some = room, width, width
    if not many_classes(p, step, some, n, pointer(label, 0), pointer(figures, 0), pointer(work, 0), pointer(sums, 0)):
        p, step = strided(view, like, i), view[3]
        for r in range(m):
            for j in range(n):
                room[j] = p[j * step + r]
            _row_alone(room, n, label[r], scale, scale_low, figures, r)


@inline
def nll_of(figures, values, m, scale, scale_low):
    """The block's figures become losses."""
    losses_of(pointer(figures, 0), pointer(values, 0), m, scale, scale_low)


@inline
def top_figures(p, n, r, scale, scale_low, figures):
    """Figures of a row around its largest class, in column r, for nll_of to give -ln q of it.

    Returns its logit, and the mean of (top - z_j)/T over the other classes, weighted by their probabilities.
    """
    top, first = largest(p, n)
    a, k, s, b = moments(p, n, top, first, scale, scale_low) if top == top else (math.nan, 0.0, 0.0, 0.0)
    figures[0, r] = a
    figures[1, r] = k
    figures[2, r] = s
    figures[3, r] = top
    return top, b / a if a > 0.0 else 0.0


@inline
def left_out(top_nll):
    """1 - q of the class with -ln q = top_nll: the share of all other classes, accurate when it is small."""
    return -elementary.expm1(-top_nll)
