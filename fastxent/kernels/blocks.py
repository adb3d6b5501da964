"""What every loop over rows shares: where a row is in memory, and what becomes of a block's losses.

A view is (address, outer, row, column, inner): row i of an array begins outer·(i // inner) + row·(i % inner) elements
after the address, and its classes are ``column`` elements apart. An empty array gives the element type.
"""

from typing import Any

import numpy as np

from fastxent.kernels.exactsum import exact_sum_add, exact_sum_add_block
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import address, load, load_some, offset, pointer, prefetch_second_level, store, store_some
from fastxent.kernels.probabilities import PROBS, are_log_probs, probability_sum
from fastxent.kernels.rows import lanes
from fastxent.kernels.simd import add_reduce, any_lane, first_lanes, select, splat
from fastxent.kernels.tiles import ROWS
from fastxent.kernels.transpose import vectors_to_rows

# Why a row is refused.
OK, LABEL, NOT_PROBABILITY, ROW_SUM, POSITIVE_LOG_PROB, TARGET_NEGATIVE, TARGET_SUM = range(7)

DISTRIBUTION_TOL = 1e-3  # how far from 1 a distribution may sum, where no option says

# A call's options by position: two views (see above), then whole numbers, six addresses for cards.py or, in the same
# place, gradient_chunks.py's two views and an address; and reals.
N, HAS_IGNORE, IGNORE, FLAG, KIND, CARD = range(10, 16)
GRADIENT, HESSIAN, ROW_SCALES = CARD, CARD + 5, CARD + 10
N_INTEGERS = ROW_SCALES + 1
SCALE, SCALE_LOW, KEEP, SPREAD, EPS, SUM_TOL, POS_WEIGHT, GRADIENT_SCALE, HESSIAN_SCALE, GAMMA = range(10)
LEAST_HESSIAN, N_REALS = 10, 11

# Rows whose classes are apart are copied together, about so many elements at a time, and no fewer rows than make up a
# cache line of float32.
COPY_ELEMENTS, COPY_ROWS = 1 << 17, 16
LOSSES, WEIGHTS = 0, 1  # the rows of ``sums``


def view_of(array: np.ndarray) -> tuple[int, int, int, int, int]:
    """The view of a 3-D array (outer, inner, C)."""
    size = array.itemsize
    outer, row, column = array.strides
    return array.__array_interface__["data"][0], outer // size, row // size, column // size, max(array.shape[1], 1)


# What kernels see of an array: float16 as uint16, and int16 for the bits of bfloat16 (narrow.py).
TYPES = {np.dtype(t): np.empty(0, t) for t in (np.float32, np.float64, np.int16)}
TYPES[np.dtype(np.float16)] = np.empty(0, np.uint16)


@inline
def first_view(integers):
    """The view of the first matrix, from a call's integers."""
    return integers[0], integers[1], integers[2], integers[3], integers[4]


@inline
def second_view(integers):
    """That of the second one: a target, or an output."""
    return integers[5], integers[6], integers[7], integers[8], integers[9]


@inline
def block_rows(view, i, stop, n, few):
    """How many of the rows from i on to take together: they are evenly spaced, and copying them stays small."""
    _, _, _, column, inner = view
    m = min(ROWS, stop - i, inner - i % inner)
    if column != 1 and n > few:
        m = min(m, max(COPY_ROWS, COPY_ELEMENTS // n))
    return m


@inline
def copy_buffer(view, like, n, few):
    """Room for the rows that row_block copies."""
    return np.empty(max(min(ROWS * n, COPY_ELEMENTS), COPY_ROWS * n) if view[3] != 1 and n > few else 1, like.dtype)


@inline
def strided(view, like, i):
    """A pointer to the first class of row i, where rows from there on are view[2] elements apart."""
    base, outer, row, _, inner = view
    return offset(address(base, like), outer * (i // inner) + row * (i % inner))


@inline
def row_block(view, like, i, m, n, buffer):
    """A pointer to row i, and the distance to the next one, with adjacent classes: copied where they are apart.

    Copying rows that are side by side asks for as many more, which arrive while these are worked on: float32, 100
    classes 10 MB apart, 53 to 55 ns a row on one thread, 81 without. (With 128 or 64 rows at a time 64 and 70.)
    """
    _, _, row, column, _ = view
    p = strided(view, like, i)
    if column == 1:
        return p, row
    q, width = pointer(buffer, 0), lanes(p)
    if row == 1 and m >= width and n >= 4:
        for j in range(0, n, 4):
            first = min(j, n - 4)  # what comes last overlaps what is before it
            for start in range(0, m, width):
                r = min(start, m - width)
                for k in range(first, first + 4):
                    prefetch_second_level(p, k * column + r + m)
                vectors_to_rows(offset(p, r + first * column), column, offset(q, r * n + first), n)
        return q, n
    for j in range(n):
        for r in range(m):
            q[r * n + j] = p[r * row + j * column]
    return q, n


@inline
def read_labels(labels, i, m, n, has_ignore, ignore_index, label):
    """Labels i.. to ``label``, -1 for an ignored row. Returns the first row out of range, or -1.

    Up to the next multiple of 16 rows -1 follows: what reads them in vectors finds no row there.
    """
    p, to = pointer(labels, i), pointer(label, 0)
    outside = splat(np.int64(0))  # negative where a label was, or n - 1 less a label
    full = m & -8
    if has_ignore:
        for r in range(0, full, 8):
            y = load(p, r)
            ignored = y == ignore_index
            store(to, r, select(ignored, -1, y))
            y = select(ignored, 0, y)
            outside = outside | y | (n - 1 - y)
    else:
        for r in range(0, full, 8):
            y = load(p, r)
            store(to, r, y)
            outside = outside | y | (n - 1 - y)
    bad = any_lane(outside < 0)
    for r in range(full, m):
        y = p[r]
        ignored = has_ignore and y == ignore_index
        bad |= (not ignored) and (y < 0 or y >= n)
        to[r] = -1 if ignored else y
    for r in range(m, (m + 15) & -16):
        to[r] = -1
    if bad:
        for r in range(m):
            if not (has_ignore and p[r] == ignore_index) and (p[r] < 0 or p[r] >= n):
                return i + r
    return -1


@inline
def target_fault(mass, valid):
    """Why a distribution is refused, or 0: its sum, and whether every entry is finite and not negative."""
    if not valid:
        return TARGET_NEGATIVE
    return OK if abs(mass - 1.0) <= DISTRIBUTION_TOL else TARGET_SUM


@inline
def sum_fault(total, normalize, sum_tol):
    """Why a row of probabilities is refused, or 0, by its sum: NaN where an entry is not in [0, 1]."""
    if total != total:
        return NOT_PROBABILITY
    return OK if total != 0.0 and (normalize or abs(total - 1.0) <= sum_tol) else ROW_SUM


@inline
def row_fault(p, n, kind, normalize, sum_tol):
    """The factor that normalises a row of probabilities or log-probabilities, and why it is refused, or 0.

    Log-probabilities need not sum to anything.
    """
    if kind != PROBS:
        return 1.0, OK if are_log_probs(p, n) else POSITIVE_LOG_PROB
    total = probability_sum(p, n, -1)
    return 1.0 / total if normalize else 1.0, sum_fault(total, normalize, sum_tol)


@inline
def weighed(w, loss):
    """w·loss; what has no weight counts 0, even an infinite loss. A NaN stays."""
    return select((w == 0.0) & (loss == np.inf), 0.0, w * loss)


@inline
def settle_labels(values, label, m, i, class_weight, sample_weight, weigh_values, factors, out, sums):
    """Losses of rows with labels: class weights (onto the losses unless they have them), then as ``settle``."""
    weighted = class_weight.size > 0
    v, f, y = pointer(values, 0), pointer(factors, 0), pointer(label, 0)
    if weighted:
        for r in range(m):
            f[r] = class_weight[y[r]] if y[r] >= 0 else 0.0
        if weigh_values:
            for r in range(0, m, 8):
                store(v, r, weighed(load(f, r), load(v, r)))
    if weighted or sample_weight.size > 0:
        for r in range(0, m, 8):
            ignored = load(y, r) < 0
            store(v, r, select(ignored, 0.0, load(v, r)))
            if not weighted:
                store(f, r, select(ignored, splat(0.0), 1.0))
        settle(values, factors, weighted, m, i, sample_weight, out, sums)
        return
    seen, kept = splat(np.int64(0)), m
    for r in range(0, m, 8):
        seen = seen | load(y, r)
    if any_lane(seen < 0):
        count, one = splat(np.int64(0)), splat(np.int64(1))
        for r in range(0, m, 8):
            ignored = load(y, r) < 0
            store(v, r, select(ignored, 0.0, load(v, r)))
            count = count + select(ignored, 0, one)
        kept = add_reduce(count)
    _emit(values, m, i, out, sums)
    if sums.shape[0] > 0:
        exact_sum_add(sums[WEIGHTS], np.float64(kept))


@inline
def settle(values, factors, weighted, m, i, sample_weight, out, sums):
    """Sample weights; then losses to ``out`` and to the exact sums, with the weights that the mean divides by."""
    v, f = pointer(values, 0), pointer(factors, 0)
    weighted = weighted or sample_weight.size > 0
    if sample_weight.size > 0:
        s = pointer(sample_weight, i)
        for r in range(0, m, 8):
            w = load_some(s, r, first_lanes(m - r, splat(0.0)), 0.0)
            store(v, r, weighed(w, load(v, r)))
            store(f, r, w * load(f, r))
    _emit(values, m, i, out, sums)
    if sums.shape[0] > 0:
        if weighted:
            exact_sum_add_block(sums[WEIGHTS], factors, m)
        else:  # every row counts 1
            exact_sum_add(sums[WEIGHTS], np.float64(m))


@inline
def _emit(values, m, i, out, sums):
    """Losses to ``out`` and to their exact sum, where these are wanted."""
    if out.size > 0:
        v, o = pointer(values, 0), pointer(out, i)
        full = m & -8
        for r in range(0, full, 8):
            store(o, r, load(v, r) + 0.0)  # -0.0 becomes 0.0
        if full < m:
            store_some(o, full, first_lanes(m - full, splat(0.0)), load(v, full) + 0.0)
    if sums.shape[0] > 0:
        exact_sum_add_block(sums[LOSSES], values, m)


@inline
def refuse(report: Any, row, reason):
    """Note the row that ends this chunk."""
    report[0] = row
    report[1] = reason
