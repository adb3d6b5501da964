"""Two models' losses of the same rows -> counts and exact sums that merge in any order.

With l_a, l_b the losses, d = fl(l_a - l_b) and s the row's weight (1 without weights), r = fl(s d). Everything is an
integer count, an exact sum or a list under a total order, so that rows in any order and parts give the same bits.
"""

import math

import numpy as np

from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.kernels.groups import (
    BLOCK,
    FEW_GROUPS,
    FLUSH_ROWS,
    GROUP_TOP,
    SPILL_USED,
    STRIDE,
    add_to_group,
    add_to_groups,
    add_units,
    count_places,
    fixed_columns,
    flush_groups,
    merge_group,
)
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import borrowed, load_some, pointer, scratch, store
from fastxent.kernels.scorecard import product_words
from fastxent.kernels.simd import any_lane, bits, first_lanes, max_reduce, select, splat

# Sums over all rows. Squares are in two words, so that the variance, taken in rational arithmetic, does not cancel.
# From S on they are for weights. h = hit_a - hit_b, -1, 0 or 1, where a hit is a
# rank of 0; HH and SH are of products rounded once.
A, B, R, RR_HIGH, RR_LOW, N_PLAIN = range(6)
S, SS_HIGH, SS_LOW, SR_HIGH, SR_LOW, HITS_A, HITS_B, HH, SH, N_SUMS = range(5, 15)
_TOPS = (10, 10, 10, 20, -32, 10, 20, -32, 20, -32, 10, 10, 20, 20)  # numbers below 2^top are split as groups' are

# Sums by group, of products rounded once; those from G_S on are for weights.
G_R, G_RR, N_GROUP_PLAIN = range(3)
G_S, G_SS, G_SR, G_H, N_GROUP = range(2, 7)

# How a row came out: 3 (hit_a + 2 hit_b), and which of the losses is lower.
TIE, A_LOWER, B_LOWER = range(3)
N_OUTCOMES = 12

_ROWS, _PLACE, _HIGH, _LOW, _N_MARKS = range(5)


@inline
def _load(array, i, n):
    """Eight numbers, zeros past n of them."""
    return load_some(pointer(array, 0), i, first_lanes(n - i, splat(0.0)), 0.0)


@inline
def _hits(ranks, i, n):
    """1 where a rank is 0, else 0."""
    return select(load_some(pointer(ranks, 0), i, first_lanes(n - i, splat(0.0)), 1.0) == 0.0, splat(1.0), 0.0)


@inline
def _times(s, x):
    """s·x, where a weight of 0 counts nothing, even of an infinity or NaN."""
    return select(s == 0.0, 0.0, s * x)


@inline
def _add_fixed(sums, fixed, block, marks, j, n):
    """Add a column to its exact sum, in whole numbers where it fits."""
    parts = pointer(marks, _HIGH * STRIDE), pointer(marks, _LOW * STRIDE)
    high, low, fits, _ = fixed_columns(pointer(block, j * STRIDE), n, _TOPS[j], *parts)
    if fits:
        fixed[j, 0] += high
        fixed[j, 1] += low
    else:
        exact_sum_add_block(sums[j], block[j], n)


@inline
def _flush_fixed(sums, fixed):
    for j in range(N_SUMS):
        for level in range(2):
            if fixed[j, level] != 0:
                add_units(sums[j], fixed[j, level], _TOPS[j] - 51 - 52 * level)
                fixed[j, level] = 0


@compiled
def fold_rows(loss_a, loss_b, rank_a, rank_b, weights, labels, ids, first_id, start, stop, sums, used, losses, names):
    """Add rows start .. stop - 1 to the sums over all rows and to the lists of those that differ most.

    Parameters
    ----------
    loss_a, loss_b : float64[n]
    rank_a, rank_b : float64[n], read with weights alone; float64[0] for distributions
    weights : float64[n], or float64[0]
    labels, ids : int64[n], or int64[0] for distributions; int64[n], or int64[0] for first_id + i
    sums : int64[N_SUMS, STATE_SIZE]
    used, losses, names : int64[2], float64[2, W, 2], int64[2, W, 2]: the lists (see note_rows)
    """
    block, marks = scratch(np.float64, N_SUMS, STRIDE), scratch(np.int64, _N_MARKS, STRIDE)
    fixed = scratch(np.int64, N_SUMS, 2)
    fixed[:] = 0
    sums, used = borrowed(sums), borrowed(used)
    losses, names = borrowed(losses), borrowed(names)
    weighted, hard = weights.size > 0, rank_a.size > 0
    p, size = pointer(block, 0), losses.shape[1]
    pending, i = 0, start
    while i < stop:
        n = min(BLOCK, stop - i)
        least, most, low_bits = splat(math.inf), splat(-math.inf), splat(np.int64(0))
        for k in range(0, n, 8):
            a, b = _load(loss_a, i + k, stop), _load(loss_b, i + k, stop)
            d = a - b
            least, most = select(d < least, d, least), select(d > most, d, most)
            r = d
            if weighted:
                s = _load(weights, i + k, stop)
                a, b, r = _times(s, a), _times(s, b), _times(s, d)
                high, low = product_words(s, s)
                store(p, S * STRIDE + k, s)
                store(p, SS_HIGH * STRIDE + k, high)
                store(p, SS_LOW * STRIDE + k, low)
                high, low = product_words(s, r)
                store(p, SR_HIGH * STRIDE + k, high)
                store(p, SR_LOW * STRIDE + k, low)
                if hard:
                    ha, hb = _hits(rank_a, i + k, stop), _hits(rank_b, i + k, stop)
                    h = ha - hb
                    store(p, HITS_A * STRIDE + k, s * ha)
                    store(p, HITS_B * STRIDE + k, s * hb)
                    store(p, HH * STRIDE + k, s * s * (h * h))
                    store(p, SH * STRIDE + k, s * s * h)
            store(p, A * STRIDE + k, a)
            store(p, B * STRIDE + k, b)
            store(p, R * STRIDE + k, r)
            high, low = product_words(r, r)
            store(p, RR_HIGH * STRIDE + k, high)
            store(p, RR_LOW * STRIDE + k, low)
            low_bits = low_bits | bits(low)
        for j in range((N_SUMS if hard else HITS_A) if weighted else N_PLAIN):
            if j != RR_LOW or any_lane(low_bits != 0):
                _add_fixed(sums, fixed, block, marks, j, n)
        if size > 0:
            for side in range(2):
                largest = max_reduce(most) if side else max_reduce(-least)
                if largest > 0.0 and largest >= _threshold(used, losses, side):
                    note_rows(side, loss_a, loss_b, labels, ids, first_id, i, n, used, losses, names)
        i += n
        pending += n
        if pending >= FLUSH_ROWS:
            pending = 0
            _flush_fixed(sums, fixed)
    _flush_fixed(sums, fixed)


@inline
def _threshold(used, losses, side):
    """The least difference that a list has, once it is full."""
    last = losses.shape[1] - 1
    return abs(losses[side, last, 0] - losses[side, last, 1]) if used[side] > last else 0.0


@inline
def _note(used, losses, names, side, a, b, row_id, label):
    """Put a row where it belongs in a list that is sorted by larger |d|, lower id, lower label, lower loss."""
    size, k = losses.shape[1], used[side]
    if k == size:
        k -= 1
        if not _precedes(losses, names, side, k, a, b, row_id, label):
            return
    used[side] = k + 1
    while k > 0 and _precedes(losses, names, side, k - 1, a, b, row_id, label):
        for j in range(2):
            losses[side, k, j], names[side, k, j] = losses[side, k - 1, j], names[side, k - 1, j]
        k -= 1
    losses[side, k, 0], losses[side, k, 1], names[side, k, 0], names[side, k, 1] = a, b, row_id, label


@inline
def _precedes(losses, names, side, k, a, b, row_id, label):
    """Whether a row comes before the list's k-th."""
    mine, other = abs(a - b), abs(losses[side, k, 0] - losses[side, k, 1])
    if mine != other:
        return mine > other
    if row_id != names[side, k, 0]:
        return row_id < names[side, k, 0]
    if label != names[side, k, 1]:
        return label < names[side, k, 1]
    return a < losses[side, k, 0]


@compiled
def note_rows(side, loss_a, loss_b, labels, ids, first_id, start, n, used, losses, names):
    """Keep what belongs in one of the lists of rows start .. start + n - 1."""
    if losses.shape[1] == 0:
        return
    for i in range(start, start + n):
        a, b = loss_a[i], loss_b[i]
        d = a - b if side else b - a
        if d > 0.0 and d >= _threshold(used, losses, side):
            row_id = ids[i] if ids.size > 0 else first_id + i
            _note(used, losses, names, side, a, b, row_id, labels[i] if labels.size > 0 else -1)


@compiled
def fold_groups(
    codes, loss_a, loss_b, rank_a, rank_b, weights, start, stop, outcomes, counts, slots, spill_index, spill
):
    """Add rows start .. stop - 1 to the counts and sums of their groups; returns how far it came.

    It stops early where the spilled sums are full: let them grow by BLOCK sums a column and call again.

    Parameters
    ----------
    codes : int64[n], each row's group, below G
    outcomes : int64[G, N_OUTCOMES]
    counts, slots, spill_index, spill : as in groups.py; column j of group g is number j G + g
    """
    block, marks = scratch(np.float64, N_GROUP, STRIDE), scratch(np.int64, _N_MARKS, STRIDE)
    weighted, hard, n_groups = weights.size > 0, rank_a.size > 0, outcomes.shape[0]
    columns, few = N_GROUP if weighted else N_GROUP_PLAIN, n_groups <= FEW_GROUPS
    totals = np.zeros((columns, n_groups if few else 1, 2), np.int64)
    grouped = borrowed(counts), borrowed(slots), borrowed(spill_index), borrowed(spill)
    p, m = pointer(block, 0), pointer(marks, 0)
    parts = pointer(marks, _HIGH * STRIDE), pointer(marks, _LOW * STRIDE)
    pending, i = 0, start
    while i < stop:
        if min(counts[SPILL_USED] + BLOCK * columns, columns * n_groups) > spill.shape[0]:
            break
        n = min(BLOCK, stop - i)
        for k in range(0, n, 8):
            d = _load(loss_a, i + k, stop) - _load(loss_b, i + k, stop)
            r = d
            if weighted:
                s = _load(weights, i + k, stop)
                r = _times(s, d)
                store(p, G_S * STRIDE + k, s)
                store(p, G_SS * STRIDE + k, s * s)
                store(p, G_SR * STRIDE + k, s * r)
            store(p, G_R * STRIDE + k, r)
            store(p, G_RR * STRIDE + k, r * r)
            outcome = select(d < 0.0, splat(np.int64(A_LOWER)), 0) + select(d > 0.0, splat(np.int64(B_LOWER)), 0)
            if hard:
                ha, hb = _hits(rank_a, i + k, stop), _hits(rank_b, i + k, stop)
                outcome = outcome + select(ha != 0.0, splat(np.int64(3)), 0) + select(hb != 0.0, splat(np.int64(6)), 0)
                if weighted:
                    store(p, G_H * STRIDE + k, s * (ha - hb))
            store(m, _ROWS * STRIDE + k, outcome)
        code, place = pointer(codes, i), pointer(marks, _PLACE * STRIDE)
        for k in range(n):
            place[k] = code[k] * N_OUTCOMES + m[k]
        count_places(pointer(outcomes, 0), 1, place, n)
        for j in range(columns if hard or not weighted else G_H):
            x = pointer(block, j * STRIDE)
            if few:
                _, _, fits, some_low = fixed_columns(x, n, GROUP_TOP, *parts)
                to = pointer(totals, j * n_groups * 2)
                add_to_groups(to, 2, code, parts, x, n, (fits, some_low), grouped, j * n_groups, 0)
            else:
                for k in range(n):
                    add_to_group(*grouped, j * n_groups + code[k], x[k])
        i += n
        pending += n
        if few and pending >= FLUSH_ROWS:
            pending = 0
            _flush_groups(totals, slots, n_groups)
    if few:
        _flush_groups(totals, slots, n_groups)
    return i


@inline
def _flush_groups(totals, slots, n_groups):
    for j in range(totals.shape[0]):
        flush_groups(totals[j], n_groups, 0, slots, j * n_groups)


@compiled
def merge_lists(used, losses, names, more_used, more_losses, more_names):
    """Add the lists of other rows."""
    for side in range(2):
        for k in range(more_used[side] if losses.shape[1] > 0 else 0):
            a, b = more_losses[side, k, 0], more_losses[side, k, 1]
            _note(used, losses, names, side, a, b, more_names[side, k, 0], more_names[side, k, 1])


@compiled
def merge_groups_as(codes, n_groups, more_groups, outcomes, counts, slots, spill_index, spill, more):
    """Add other groups' counts and sums, whose g-th is our codes[g]; there is room for what they spilled."""
    more_outcomes, more_slots, more_index, more_spill = more
    for g in range(codes.size):
        for k in range(N_OUTCOMES):
            outcomes[codes[g], k] += more_outcomes[g, k]
        for j in range(slots.shape[0] // n_groups):
            at, other = j * n_groups + codes[g], j * more_groups + g
            merge_group(counts, slots, spill_index, spill, at, more_slots, more_index, more_spill, other)
