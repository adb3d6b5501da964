"""Rows that are written a few vectors at a time, between the reads of others: memory does both at once.

What is written is value(x, figures) for every vector x of a source that is near: kept terms, or the row of logits.
Stores past the caches are spread over the arithmetic so, and only whole lines go there: the last one of a row is
finished by the next row if they are side by side.

A pen is (line, waiting, streaming, flat): room for a vector, how many of its elements wait to be written, whether to
write past the caches, and whether rows are side by side.
"""

from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_some, offset, pointer, store, store_some, store_streaming, to_aligned
from fastxent.kernels.rows import lanes
from fastxent.kernels.simd import fill, first_lanes

LINE = 64  # elements of ``line``: what is loaded from the middle of a vector stays inside


@inline
def aligned(array):
    """A pointer into an array, to the first element that is aligned to a vector."""
    p = pointer(array, 0)
    return offset(p, to_aligned(p, 16))


@inline
def same(x, figures):
    """What is written as it is."""
    return x


@inline
def side_by_side(view, stop, n):
    """Whether rows up to ``stop`` follow each other without gaps."""
    return view[2] == n and view[3] == 1 and (stop <= view[4] or view[1] == n * view[4])


@inline
def start_row(value, figures, source, n, target, pen):
    """Write what comes before the first whole line. Returns what go_on_with_row needs."""
    line, waiting, streaming, _ = pen
    first = 0
    if streaming:
        first = to_aligned(target, lanes(source))
    if first > 0:
        g = value(load(source, 0), figures)
        if waiting[0] > 0:
            store(line, waiting[0], g)
            store_streaming(offset(target, -waiting[0]), 0, load(line, 0))
            waiting[0] = 0
        else:
            store_some(target, 0, first_lanes(min(first, n), g), g)
    return offset(source, first), offset(target, first), max(n - first, 0), figures, pen


@inline
def no_row(figures, source, target, pen):
    """The same where nothing is left to write."""
    return source, target, 0, figures, pen


@inline
def go_on_with_row(value, i, row):
    """Write four vectors, from element i on."""
    source, target, left, figures, pen = row
    width = lanes(source)
    if i + 4 * width <= left:
        a, b = load(source, i), load(source, i + width)
        c, d = load(source, i + 2 * width), load(source, i + 3 * width)
        a, b, c, d = value(a, figures), value(b, figures), value(c, figures), value(d, figures)
        if pen[2]:
            store_streaming(target, i, a)
            store_streaming(target, i + width, b)
            store_streaming(target, i + 2 * width, c)
            store_streaming(target, i + 3 * width, d)
        else:
            store(target, i, a)
            store(target, i + width, b)
            store(target, i + 2 * width, c)
            store(target, i + 3 * width, d)


@inline
def finish_row(value, i, row):
    """Write the rest, from element i or what go_on_with_row left before it."""
    source, target, left, figures, pen = row
    line, waiting, streaming, flat = pen
    width = lanes(source)
    i = min(i, left // (4 * width) * (4 * width))
    while i + width <= left:
        g = value(load(source, i), figures)
        if streaming:
            store_streaming(target, i, g)
        else:
            store(target, i, g)
        i += width
    if i < left:
        here = first_lanes(left - i, fill(source, 0.0))
        g = value(load_some(source, i, here, 0.0), figures)
        if streaming and flat:
            store(line, 0, g)
            waiting[0] = left - i
        else:
            store_some(target, i, here, g)


@inline
def flush(target, pen):
    """What waits for the row that begins at ``target``."""
    line, waiting, _, _ = pen
    if waiting[0] > 0:
        v = load(line, 0)
        store_some(offset(target, -waiting[0]), 0, first_lanes(waiting[0], v), v)
        waiting[0] = 0
