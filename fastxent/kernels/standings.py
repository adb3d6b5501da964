"""Where a row's label stands among the classes, and what the model gives the first of them: rank and confidence.

The rank is 0 where the label is the first largest class, as NumPy's argmax has it; the confidence is the largest
probability. A row's loss l is known, of which the confidence is e^((top - z)/T - l), z being the label's logit: as
accurate as the loss, to within l 2^-21 of itself from float32, l 2^-49 from float64; beyond FAR it is summed anew. A
loss below SURE_HIT (a real of the call) says by itself that the label has more than half of the probability.
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.blocks import (
    CARD,
    FLAG,
    HAS_IGNORE,
    IGNORE,
    KEEP,
    KIND,
    LABEL,
    SCALE,
    SCALE_LOW,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    settle_labels,
    strided,
)  # fmt: skip
from fastxent.kernels.card_finish import put, settled_share_narrow
from fastxent.kernels.figures import LABELS, nll_of
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import (
    address,
    load,
    load_integers,
    load_some,
    load_some_double,
    offset,
    pointer,
    scratch,
    store_double,
)
from fastxent.kernels.narrow import read_type
from fastxent.kernels.probabilities import LOG_PROBS, LOGITS, PROBS, probability_sum
from fastxent.kernels.rows import lanes, part
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    bits,
    count_lanes,
    fill,
    first_lanes,
    fma,
    lane_numbers,
    max_reduce,
    maximum,
    minimum,
    select,
    splat,
)
from fastxent.kernels.tiles import (
    PAIR_CLASSES,
    ROWS,
    TILE_CLASSES,
    TILE_SIZE,
    TILES,
    add_tops,
    fill_tile,
    fill_tiles,
    tile_exp_sum,
    tile_pair,
    tile_row,
)

SURE_HIT = KEEP
FAR = 16.0

TOPS, OWNS, RANKS = range(3)  # what is noted of a row: its largest number, the label's, and the label's rank


@inline
def _share(p, n, column, top, scale):
    """The largest class's probability, from logits."""
    if column != 1:
        sum_apart = 0.0
        for j in range(n):
            sum_apart += elementary.exp((np.float64(p[j * column]) - top) * scale)
        return 1.0 / sum_apart
    total = splat(0.0)
    for j in range(0, n, 8):
        x = load_some_double(p, j, first_lanes(n - j, total), -math.inf) - top
        total = total + elementary.exp(x * scale)
    return 1.0 / add_reduce(total)


@inline
def _finish(p, step, column, n, m, kind, notes, nll, confidences, ranks, scale, scale_low):
    """Confidences and ranks of m rows, which begin at p, from what was noted of them."""
    note = pointer(notes, 0)
    for r in range(0, m, 8):
        top, loss = load(note, TOPS * LABELS + r), load_some(nll, r, first_lanes(m - r, splat(0.0)), 0.0)
        share = top
        if kind == LOGITS:
            distance = top - load(note, OWNS * LABELS + r)
            share = elementary.exp(minimum(fma(distance, scale_low, distance * scale) - loss, 0.0))
        elif kind == LOG_PROBS:
            share = elementary.exp(top)
        put(confidences, r, m - r, settled_share_narrow(share))
        put(ranks, r, m - r, load(note, RANKS * LABELS + r))
        if kind == LOGITS and any_lane(loss > FAR):
            for k in range(r, min(r + 8, m)):
                if nll[k] > FAR:
                    row = offset(p, k * step)
                    confidences[k] = settled_share_narrow(_share(row, n, column, note[TOPS * LABELS + k], scale))


@inline
def _note_tile(tile, n, y, top, own, note, r):
    """Note a tile's rows, given their labels, largest numbers and the labels' numbers, from column r on."""
    zero, one = fill(tile, 0.0), fill(tile, 1.0)
    rank, equal = zero, zero
    for j in range(n):
        v = load(tile, j * lanes(tile))
        rank = rank + select(v > own, one, zero)
        equal = equal + select(v == own, one, zero)
    if any_lane(equal > 1.0):
        for j in range(n):
            rank = rank + select((load(tile, j * lanes(tile)) == own) & (y > j), one, zero)
    store_double(note, TOPS * LABELS + r, top)
    store_double(note, OWNS * LABELS + r, own)
    store_double(note, RANKS * LABELS + r, rank)


@chunk
def loss_standings_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """A chunk function (chunks.py): hard_cross_entropy_tiles, and ranks and confidences from the same tiles.

    These go to the addresses at CARD, as float64. An ignored row gets any.
    """
    view, n, scale, scale_low = first_view(integers), integers[N], reals[SCALE], reals[SCALE_LOW]
    figures, values = scratch(read_type(like), 4, ROWS), scratch(np.float64, 0, ROWS)
    factors, label, notes = scratch(np.float64, 0, ROWS), scratch(np.int64, 0, LABELS), scratch(np.float64, 3, LABELS)
    tiles, f, note = pointer(scratch(read_type(like), 0, TILE_SIZE), 0), pointer(figures, 0), pointer(notes, 0)
    width = lanes(tiles)
    i = start
    while i < stop:
        m, p = block_rows(view, i, stop, n, TILE_CLASSES), strided(view, like, i)
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        for first in range(0, m, TILES * width):
            n_tiles = min((m - first + width - 1) // width, TILES)
            fill_tiles(tiles, p, view[2], first, n_tiles, m, n, view[3])
            add_tops(tiles, n_tiles, n)
            for t in range(n_tiles):
                r, tile = tile_row(tiles, first, t, m), offset(tiles, t * (n + 1) * width)
                y = load_integers(pointer(label, r), 0, fill(tile, 0.0))
                if n <= PAIR_CLASSES:
                    tile_pair(tile, n, y, f, r, scale, scale_low)
                else:
                    tile_exp_sum(tile, n, y, f, r, scale, scale_low)
                _note_tile(tile, n, y, load(tile, n * width), load(f, 3 * ROWS + r), note, r)
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        to = address(integers[CARD + 1] + 8 * i, reals), address(integers[CARD] + 8 * i, reals)
        _finish(p, view[2], view[3], n, m, LOGITS, notes, pointer(out, i), *to, scale, scale_low)
        i += m


@chunk
def standings_tiles(start, stop, like, t_like, integers, reals, labels, class_weight, losses, out, sums, report):
    """The same of rows of any kind whose losses are there: where others take weights."""
    view, n, kind, scale, scale_low = first_view(integers), integers[N], integers[KIND], reals[SCALE], reals[SCALE_LOW]
    label, notes = scratch(np.int64, 0, LABELS), scratch(np.float64, 3, LABELS)
    tile, note = pointer(scratch(read_type(like), 0, TILE_SIZE), 0), pointer(notes, 0)
    width = lanes(tile)
    i = start
    while i < stop:
        m, p = block_rows(view, i, stop, n, TILE_CLASSES), strided(view, like, i)
        read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        for first in range(0, m, width):
            r = tile_row(tile, first, 0, m)
            fill_tile(tile, offset(p, r * view[2]), view[2], min(width, m), n, view[3])
            y = load_integers(pointer(label, r), 0, fill(tile, 0.0))
            top, own = fill(tile, -math.inf), fill(tile, 0.0)
            for j in range(n):
                v = load(tile, j * width)
                own, top = select(y == j, v, own), maximum(top, v)
            _note_tile(tile, n, y, top, own, note, r)
        to = address(integers[CARD + 1] + 8 * i, reals), address(integers[CARD] + 8 * i, reals)
        _finish(p, view[2], view[3], n, m, kind, notes, pointer(losses, i), *to, scale, scale_low)
        i += m


@inline
def _look(p, n, y):
    """A row's largest number, and the rank of class y, by one comparison each; anything where there is a NaN."""
    z, width = fill(p, p[y]), lanes(p)
    block, top, count = 4 * width, fill(p, -math.inf), bits(z) * 0
    own, one = y // block * block, count + 1
    for i in range(0, own, block):
        v0, v1, v2, v3 = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        top = maximum(top, maximum(maximum(v0, v1), maximum(v2, v3)))
        more = select(v0 >= z, one, 0) + select(v1 >= z, one, 0)
        count = count + (more + (select(v2 >= z, one, 0) + select(v3 >= z, one, 0)))
    full = n - n % block
    for i in range(own, full, block):
        v0, v1, v2, v3 = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        top = maximum(top, maximum(maximum(v0, v1), maximum(v2, v3)))
        more = select(v0 > z, one, 0) + select(v1 > z, one, 0)
        count = count + (more + (select(v2 > z, one, 0) + select(v3 > z, one, 0)))
    for i in range(full, n, width):
        v = part(p, i, n, -1)
        top, count = maximum(top, v), count + select(v > z, one, 0)
    rank = np.int64(add_reduce(count))
    for i in range(own, y, width):
        v = part(p, i, n, -1)
        rank += count_lanes((v == z) & (lane_numbers(v) < y - i))
    return np.float64(max_reduce(top)), np.float64(rank)


@chunk
def standings(start, stop, like, t_like, integers, reals, labels, class_weight, losses, out, sums, report):
    """The same for any number of classes, row by row."""
    view, n, kind, normalize = first_view(integers), integers[N], integers[KIND], integers[FLAG] != 0
    scale, scale_low, low = reals[SCALE], reals[SCALE_LOW], reals[SURE_HIT]
    label, notes = scratch(np.int64, 0, LABELS), scratch(np.float64, 3, LABELS)
    buffer = copy_buffer(view, like, n, 0)
    i = start
    while i < stop:
        m, nll = block_rows(view, i, stop, n, 0), pointer(losses, i)
        read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        p, step = row_block(view, like, i, m, n, buffer)
        for r in range(m):
            if nll[r] < low:
                notes[TOPS, r] = notes[OWNS, r] = notes[RANKS, r] = 0.0
                continue
            row, y = offset(p, r * step), max(label[r], 0)
            top, notes[RANKS, r] = _look(row, n, y)
            if normalize and kind == PROBS:
                top /= probability_sum(row, n, -1)
            notes[TOPS, r], notes[OWNS, r] = top, row[y]
        to = address(integers[CARD + 1] + 8 * i, reals), address(integers[CARD] + 8 * i, reals)
        _finish(p, step, 1, n, m, kind, notes, nll, *to, scale, scale_low)
        i += m
