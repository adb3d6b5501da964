"""A chunk of rows -> their losses, the gradient with respect to the logits, and if wanted the Hessian's diagonal.

Loops as in chunks.py, and the losses are those of its functions, bit for bit. A block of rows is read once from memory:
its figures and losses first, then each row again, from the cache, for what is written in its place or elsewhere.
"""

import numpy as np

from fastxent.kernels.binary import any_outside, logit_losses
from fastxent.kernels.binary_gradients import binary_gradient, narrow_gradients
from fastxent.kernels.blocks import (
    FLAG,
    GRADIENT,
    GRADIENT_SCALE,
    HAS_IGNORE,
    HESSIAN,
    HESSIAN_SCALE,
    IGNORE,
    KEEP,
    KIND,
    LABEL,
    LEAST_HESSIAN,
    NOT_PROBABILITY,
    POS_WEIGHT,
    ROW_SCALES,
    SCALE,
    SCALE_LOW,
    SPREAD,
    N,
    block_rows,
    copy_buffer,
    first_view,
    read_labels,
    refuse,
    row_block,
    second_view,
    settle,
    settle_labels,
    strided,
)  # fmt: skip
from fastxent.kernels.chunks import add_distances
from fastxent.kernels.figures import LABELS, is_flat, nll_of, row_figures_and_terms, tile_figures
from fastxent.kernels.flat_gradients import flat_block, flat_gradient, owners_of
from fastxent.kernels.gradients import (
    PARTS,
    curvatures_of,
    factors_of,
    fill_row,
    label_hessian,
    label_row,
    label_tile,
    label_tile_hessian,
    mixed_gradient,
    refer,
    shares_of,
)  # fmt: skip
from fastxent.kernels.jit import chunk, inline
from fastxent.kernels.memory import (
    address,
    load,
    load_integers,
    load_some_double,
    offset,
    pointer,
    scratch,
    store,
    store_some_double,
    streamed,
)  # fmt: skip
from fastxent.kernels.narrow import read_type
from fastxent.kernels.row_groups import no_notes, note_nothing, nothing
from fastxent.kernels.row_streams import LINE, finish_row, flush, no_row, same, side_by_side, start_row
from fastxent.kernels.rows import lanes
from fastxent.kernels.simd import fill, first_lanes, select, splat
from fastxent.kernels.soft import smoothed_figures, soft_figures
from fastxent.kernels.softmax import write_row
from fastxent.kernels.tiles import ROWS, TILE_CLASSES, TILE_SIZE, TILES, tile_row
from fastxent.kernels.transpose import vectors_to_rows

NEAR_ELEMENTS = 1 << 14  # rows are read again so many elements at a time: they stay in the cache
OWNERS = 16 * TILE_CLASSES


@inline
def view_at(integers, at):
    """The view that begins there among a call's integers."""
    return integers[at], integers[at + 1], integers[at + 2], integers[at + 3], integers[at + 4]


@inline
def near_rows(views, i, stop, n, few):
    """How many of the rows from i on to take together, for the logits and both outputs."""
    view, o_view, h_view = views
    m = min(block_rows(view, i, stop, n, few), block_rows(o_view, i, stop, n, n), block_rows(h_view, i, stop, n, n))
    return min(m, max(16, NEAR_ELEMENTS // n))


@inline
def row_scales(integers, reals, class_weight, sample_weight, label, i, m, scales):
    """The factor of each of m rows: of its label's class if there are class weights, of the row, and the caller's."""
    s, more, p = pointer(sample_weight, i), address(integers[ROW_SCALES], reals), pointer(scales, 0)
    if class_weight.size == 0 and sample_weight.size == 0 and integers[ROW_SCALES] == 0:
        for r in range(0, m, 8):
            store(p, r, splat(1.0))
        return
    for r in range(m):
        scale = 1.0
        if class_weight.size > 0 and label[r] >= 0:
            scale = class_weight[label[r]]
        if sample_weight.size > 0:
            scale = scale * s[r]
        if integers[ROW_SCALES] != 0:
            scale = scale * more[i + r]
        scales[r] = scale


@inline
def weigh(scales, factor, m, products):
    """Every row's factor times one."""
    p, q = pointer(scales, 0), pointer(products, 0)
    for r in range(0, m, 8):
        store(q, r, load(p, r) * factor + 0.0)


@inline
def place(view, like, i, r, apart):
    """Where to write row i + r, of rows that are evenly spaced from i on: there, or apart where classes are."""
    return offset(strided(view, like, i), r * view[2]) if view[3] == 1 else pointer(apart, 0)


@inline
def spread_row(view, like, i, r, apart):
    """Copy a row that was written apart."""
    if view[3] != 1:
        target, source = offset(strided(view, like, i), r * view[2]), pointer(apart, 0)
        for j in range(apart.size):
            target[j * view[3]] = source[j]


@chunk
def label_gradients(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Logits and class indices, without smoothing, a block of rows after the other."""
    view, n = first_view(integers), integers[N]
    o_view, h_view = view_at(integers, GRADIENT), view_at(integers, HESSIAN)
    wants_hessian, streaming = integers[KIND] != 0, integers[FLAG] != 0
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(read_type(like), 5, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    scales = scratch(np.float64, 0, ROWS)
    parts = scratch(read_type(like), PARTS, ROWS)
    label = scratch(np.int64, 0, LABELS)
    f, g = pointer(figures, 0), pointer(parts, 0)
    buffer = copy_buffer(view, like, n, 0)
    apart, h_apart = np.empty(n if o_view[3] != 1 else 0, like.dtype), np.empty(n if h_view[3] != 1 else 0, like.dtype)
    i = start
    while i < stop:
        m = near_rows((view, o_view, h_view), i, stop, n, 0)
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        p, step = row_block(view, like, i, m, n, buffer)
        row_figures_and_terms(
            p, step, n, m, label, scale, scale_low, figures, None, 0, note_nothing, no_notes,
            nothing, nothing, nothing, (),
        )  # fmt: skip
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        row_scales(integers, reals, class_weight, sample_weight, label, i, m, scales)
        if wants_hessian:
            weigh(scales, reals[HESSIAN_SCALE], m, factors)
            curvatures_of(f, pointer(factors, 0), g, m, scale, scale_low)
        weigh(scales, reals[GRADIENT_SCALE], m, scales)
        factors_of(f, pointer(scales, 0), g, m, scale, scale_low)
        if scale == 1.0:
            refer(f, g, m)
        for r in range(m):
            row = offset(p, r * step)
            if wants_hessian:  # before the gradient, which may be written in the row's place
                target = place(h_view, like, i, r, h_apart)
                if label[r] < 0:
                    fill_row(0.0, n, target)
                else:
                    label_hessian(row, n, label[r], offset(f, r), offset(g, r), scale, scale_low, target)
                spread_row(h_view, like, i, r, h_apart)
            target = place(o_view, like, i, r, apart)
            if label[r] < 0:
                fill_row(0.0, n, target)
            else:
                given = offset(f, r), offset(g, r), scales[r], scale, scale_low
                label_row(row, n, label[r], *given, target, streaming)
            spread_row(o_view, like, i, r, apart)
        i += m
    streamed()


@chunk
def label_gradients_tiles(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """The same for few classes, in tiles."""
    view, n = first_view(integers), integers[N]
    o_view, h_view = view_at(integers, GRADIENT), view_at(integers, HESSIAN)
    wants_hessian, streaming = integers[KIND] != 0, integers[FLAG] != 0
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    figures = scratch(read_type(like), 4, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    scales = scratch(np.float64, 0, ROWS)
    parts = scratch(read_type(like), PARTS, ROWS)
    label = scratch(np.int64, 0, LABELS)
    tiles = scratch(read_type(like), 0, TILE_SIZE)
    terms = scratch(read_type(like), 0, TILE_SIZE)
    owners = scratch(read_type(like), 0, OWNERS)
    numbers = scratch(np.int64, 0, OWNERS)
    places = scratch(np.int64, 0, ROWS)
    made = scratch(read_type(like), 0, TILE_SIZE)
    g_tile = scratch(read_type(like), 0, TILE_SIZE)
    h_tile = scratch(read_type(like), 0, TILE_SIZE)
    h_made = scratch(read_type(like), 0, TILE_SIZE)
    f, g, w, tiles_of = pointer(figures, 0), pointer(parts, 0), pointer(scales, 0), pointer(tiles, 0)
    y, q = pointer(label, 0), pointer(owners, 0)
    width = lanes(tiles_of)
    flat = is_flat(view, n, scale) and not wants_hessian
    if flat:
        owners_of(n, pointer(numbers, 0), q)
    # A block's gradient is written while the next one's exponentials are taken: memory hardly rests.
    whole, in_line = TILES * width, side_by_side(o_view, stop, n)
    line, waiting = scratch(read_type(like), 0, LINE), scratch(np.int64, 0, 1)
    waiting[0] = 0
    o = strided(o_view, like, start)
    pen = pointer(line, 0), waiting, streaming, True
    row = no_row((), pointer(made, 0), o, pen)
    even = class_weight.size == 0 and sample_weight.size == 0 and integers[ROW_SCALES] == 0
    alike = scratch(np.float64, 0, ROWS)
    alike[:] = reals[GRADIENT_SCALE] + 0.0
    i = start
    while i < stop:
        m = near_rows((view, o_view, h_view), i, stop, n, n)
        p, o = strided(view, like, i), strided(o_view, like, i)
        if flat and m >= whole:
            bad = read_labels(labels, i, whole, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
            if bad >= 0:
                return refuse(report, bad, LABEL)
            if not even:
                row_scales(integers, reals, class_weight, sample_weight, label, i, whole, scales)
                weigh(scales, reals[GRADIENT_SCALE], whole, scales)
            weights = pointer(alike, 0) if even else w
            served = flat_block(p, n, y, pointer(places, 0), weights, f, pointer(terms, 0), pointer(values, 0), g, row)
            row = no_row((), pointer(made, 0), o, pen)
            if served:
                settle_labels(values, label, whole, i, class_weight, sample_weight, True, factors, out, sums)
                flat_gradient(pointer(terms, 0), n, g, q, pointer(made, 0))
                if in_line:
                    row = start_row(same, (), pointer(made, 0), whole * n, o, pen)
                else:
                    write_rows(pointer(made, 0), n, whole, o_view, o, streaming)
                i += whole
                continue
        finish_row(same, 0, row)
        flush(o, pen)
        row = no_row((), pointer(made, 0), o, pen)
        m = min(m, TILES * width)  # whose tiles stay
        bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        tile_figures(view, like, n, i, m, label, scale, scale_low, figures, tiles)
        nll_of(figures, values, m, scale, scale_low)
        settle_labels(values, label, m, i, class_weight, sample_weight, True, factors, out, sums)
        row_scales(integers, reals, class_weight, sample_weight, label, i, m, scales)
        if wants_hessian:
            weigh(scales, reals[HESSIAN_SCALE], m, factors)
            curvatures_of(f, pointer(factors, 0), g, m, scale, scale_low)
        weigh(scales, reals[GRADIENT_SCALE], m, scales)
        factors_of(f, pointer(scales, 0), g, m, scale, scale_low)
        for t in range((m + width - 1) // width):
            r, tile = tile_row(tiles_of, 0, t, m), offset(tiles_of, t * (n + 1) * width)
            own = load_integers(y, r, fill(tile, 0.0))
            given = offset(f, r), offset(w, r), offset(g, r)
            if wants_hessian:
                label_tile_hessian(tile, n, own, *given, scale, scale_low, pointer(h_tile, 0))
                tile_to_rows(pointer(h_tile, 0), n, min(width, m), pointer(h_made, r * n))
            label_tile(tile, n, own, *given, scale, scale_low, pointer(g_tile, 0))
            tile_to_rows(pointer(g_tile, 0), n, min(width, m), pointer(made, r * n))
        if wants_hessian:
            write_rows(pointer(h_made, 0), n, m, h_view, strided(h_view, like, i), False)
        write_rows(pointer(made, 0), n, m, o_view, o, streaming)
        i += m
    finish_row(same, 0, row)
    flush(strided(o_view, like, stop), pen)
    streamed()


@inline
def tile_to_rows(tile, n, m, rows):
    """A tile's first m rows one after the other, n elements each; m is the number of lanes, or less."""
    width = lanes(tile)
    if m == width and n >= 4:
        for j in range(0, n, 4):
            first = min(j, n - 4)
            vectors_to_rows(offset(tile, first * width), width, offset(rows, first), n)
    else:
        for j in range(n):
            for r in range(m):
                rows[r * n + j] = tile[j * width + r]


@inline
def write_rows(rows, n, m, view, target, streaming):
    """Copy m rows of n adjacent elements to where a view has them, from ``target`` on."""
    _, _, row, column, _ = view
    if column == 1 and row == n:
        write_row(same, (), rows, m * n, target, streaming)
    elif column == 1:
        for r in range(m):
            write_row(same, (), offset(rows, r * n), n, offset(target, r * row), False)
    else:
        for j in range(n):
            for r in range(m):
                target[r * row + j * column] = rows[r * n + j]


@chunk
def mixed_gradients(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """Logits and distributions, or class indices with label smoothing."""
    view, t_view, n = first_view(integers), second_view(integers), integers[N]
    o_view, h_view = view_at(integers, GRADIENT), view_at(integers, HESSIAN)
    wants_hessian, soft = integers[KIND] != 0, labels.size == 0
    scale, scale_low = reals[SCALE], reals[SCALE_LOW]
    keep, spread = reals[KEEP], reals[SPREAD]
    figures = scratch(np.float64, 6, ROWS)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    shares = scratch(np.float64, 2, ROWS)
    scales = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    buffer, t_buffer = copy_buffer(view, like, n, 0), copy_buffer(t_view, t_like, n, 0)
    apart, h_apart = np.empty(n if o_view[3] != 1 else 0, like.dtype), np.empty(n if h_view[3] != 1 else 0, like.dtype)
    w, weighted, none = pointer(class_weight, 0), class_weight.size > 0, class_weight[:0]
    i = start
    while i < stop:
        m = near_rows((view, o_view, h_view), i, stop, n, 0)
        p, step = row_block(view, like, i, m, n, buffer)
        if soft:
            m = min(m, block_rows(t_view, i, stop, n, 0))
            t, t_step = row_block(t_view, t_like, i, m, n, t_buffer)
            for r in range(m):
                row, target = offset(p, r * step), offset(t, r * t_step)
                reason = soft_figures(row, target, n, w, weighted, keep, spread, scale, scale_low, figures, r)
                if reason:
                    return refuse(report, i + r, reason)
                factors[r], label[r] = 1.0, n
            nll_of(figures, values, m, scale, scale_low)
            add_distances(figures, values, m, scale)
            settle(values, factors, False, m, i, sample_weight, out, sums)
        else:
            t, t_step = strided(t_view, t_like, i), 0
            bad = read_labels(labels, i, m, n, integers[HAS_IGNORE] != 0, integers[IGNORE], label)
            if bad >= 0:
                return refuse(report, bad, LABEL)
            for r in range(m):
                if label[r] >= 0:
                    row = offset(p, r * step)
                    smoothed_figures(row, n, label[r], w, weighted, keep, spread, scale, scale_low, figures, r)
            nll_of(figures, values, m, scale, scale_low)
            add_distances(figures, values, m, scale)
            settle_labels(values, label, m, i, class_weight, sample_weight, False, factors, out, sums)
        shares_of(pointer(figures, 0), pointer(shares, 0), m, scale, scale_low)
        row_scales(integers, reals, none, sample_weight, label, i, m, scales)
        for r in range(m):
            targets = place(o_view, like, i, r, apart), place(h_view, like, i, r, h_apart)
            if label[r] < 0:
                fill_row(0.0, n, targets[0])
                if wants_hessian:
                    fill_row(0.0, n, targets[1])
            else:
                both = reals[GRADIENT_SCALE] * scales[r], reals[HESSIAN_SCALE] * scales[r]
                coefficients = label[r], offset(t, r * t_step), w, weighted, keep, spread
                mixed_gradient(
                    offset(p, r * step), n, figures, r, coefficients, shares, both, scale, scale_low, targets,
                    wants_hessian,
                )  # fmt: skip
            spread_row(o_view, like, i, r, apart)
            if wants_hessian:
                spread_row(h_view, like, i, r, h_apart)
        i += m


@chunk
def label_weights(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The weights that a mean over class indices divides by, alone, so that no logit is read."""
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    i = start
    while i < stop:
        m = min(ROWS, stop - i)
        bad = read_labels(labels, i, m, integers[N], integers[HAS_IGNORE] != 0, integers[IGNORE], label)
        if bad >= 0:
            return refuse(report, bad, LABEL)
        values[:] = 0.0
        settle_labels(values, label, m, i, class_weight, sample_weight, False, factors, out, sums)
        i += m


@chunk
def binary_gradients(
    start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report
):
    """One logit a row, the target a probability. Without room for losses or their sum these are not computed."""
    view, t_view = first_view(integers), second_view(integers)
    o_view, h_view = view_at(integers, GRADIENT), view_at(integers, HESSIAN)
    wants_hessian, streaming = integers[KIND] != 0, integers[FLAG] != 0
    pos_weight, least = reals[POS_WEIGHT], reals[LEAST_HESSIAN]
    copy, t_copy = np.empty(ROWS, like.dtype), np.empty(ROWS, t_like.dtype)
    made, h_made = np.empty(ROWS, like.dtype), np.empty(ROWS, like.dtype)
    values = scratch(np.float64, 0, ROWS)
    factors = scratch(np.float64, 0, ROWS)
    scales = scratch(np.float64, 0, ROWS)
    label = scratch(np.int64, 0, LABELS)
    none = class_weight[:0]
    i = start
    while i < stop:
        m = min(near_rows((view, o_view, h_view), i, stop, 1, 1), block_rows(t_view, i, stop, 1, 1))
        p = numbers(strided(view, like, i), view[2], m, pointer(copy, 0))
        t = numbers(strided(t_view, t_like, i), t_view[2], m, pointer(t_copy, 0))
        if any_outside(t, m):
            r = 0
            while 0.0 <= t[r] <= 1.0:
                r += 1
            return refuse(report, i + r, NOT_PROBABILITY)
        if out.size > 0 or sums.shape[0] > 0:
            logit_losses(p, t, pointer(values, 0), m, pos_weight)
            factors[:] = 1.0
            settle(values, factors, False, m, i, sample_weight, out, sums)
        row_scales(integers, reals, none, sample_weight, label, i, m, scales)
        weigh(scales, reals[GRADIENT_SCALE], m, factors)
        if wants_hessian:
            weigh(scales, reals[HESSIAN_SCALE], m, scales)
        f, hf, o, h = pointer(factors, 0), pointer(scales, 0), pointer(made, 0), pointer(h_made, 0)
        if pos_weight != 1.0 or not narrow_gradients(p, t, f, hf, least, o, h, m, wants_hessian):
            for r in range(0, m, 8):
                here = first_lanes(m - r, splat(0.0))
                gradient, hessian = binary_gradient(
                    load_some_double(p, r, here, 0.0), load_some_double(t, r, here, 0.0), pos_weight
                )
                store_some_double(o, r, here, gradient * load(f, r) + 0.0)
                hessian = hessian * load(hf, r) + 0.0
                store_some_double(h, r, here, select(hessian < least, least, hessian))
        target, h_target = strided(o_view, like, i), strided(h_view, like, i)
        if o_view[2] == 1:
            write_row(same, (), o, m, target, streaming)
        else:
            for r in range(m):
                target[r * o_view[2]] = o[r]
        if wants_hessian and h_view[2] == 1:
            write_row(same, (), h, m, h_target, False)
        elif wants_hessian:
            for r in range(m):
                h_target[r * h_view[2]] = h[r]
        i += m
    streamed()


@inline
def numbers(p, step, m, copy):
    """m numbers, ``step`` elements apart, as whole vectors: in place, or else copied and followed by zeros."""
    if step == 1 and m == ROWS:
        return p
    for r in range(m):
        copy[r] = p[r * step]
    for r in range(m, (m + 15) & -16):
        copy[r] = 0.0
    return copy
