"""The score card's accumulation: per-row figures -> counts and exact sums that merge in any order.

Everything in a `Tally` is an integer count, an exact sum or a top list under a total order. Adding rows and merging
tallies are therefore associative and commutative, and any partition of the rows, in any order, finishes with the same
bits. A tally without weights counts rows; one with weights also sums them, exactly, so that a weight of 1.0 in every
row gives the same figures as no weights.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels.blocks import CARD
from fastxent.kernels.elementary import log1p
from fastxent.kernels.exactsum import (
    STATE_SIZE,
    exact_sum_add,
    exact_sum_add_block,
    exact_sum_merge,
    exact_sum_value,
)
from fastxent.kernels.groups import (
    BLOCK,
    FEW_GROUPS,
    STRIDE,
    add_to_group,
    add_to_groups,
    add_units,
    count_places,
    fixed_columns,
    flush_groups,
    merge_groups,
)
from fastxent.kernels.histograms import (
    FIRST_OCTAVE,  # noqa: F401
    LAST_OCTAVE,  # noqa: F401
    N_NLL,  # noqa: F401
    N_SCORES,
    QUARTERS,  # noqa: F401
    SCORE_HALF,  # noqa: F401
    confidence_bin,
    nll_bin,
    score_bin,
)
from fastxent.kernels.jit import call_chunk, compiled, inline
from fastxent.kernels.memory import address, borrowed, load, pointer, scratch, store
from fastxent.kernels.pairs import add_pairs, count_pairs
from fastxent.kernels.simd import any_lane, bits, fma, from_bits, max_reduce, maximum, minimum, select, splat
from fastxent.kernels.worst import note_worst

# Tally.counts: rows of each kind, and how much of the growing arrays is in use.
KEPT, IGNORED, INVALID, PAIRS_USED, SPILL_USED, WORST_USED, N_COUNTS = range(7)

# Tally.sums. l: NLL, s: sample weight (1 without weights), r = fl(s l). Squares are in two words (x^2 = high + low
# exactly), so that the variance, taken in rational arithmetic, does not cancel. The columns from S on are for weights.
R, RR_HIGH, RR_LOW, ENTROPY, CONFIDENCE, BRIER, N_PLAIN = range(7)
S, SS_HIGH, SS_LOW, SR_HIGH, SR_LOW, HITS = range(6, 12)
N_SUMS = 12

# A block's rows: the columns above, then the NLL and confidence without weights; and whole numbers.
NLL, SHARE, N_COLUMNS = range(N_SUMS, N_SUMS + 3)
LABEL, PREDICTED, RANK, ROW, CELL, NLL_BIN, SCORE_BIN, HIGH, LOW, HIGH_R, LOW_R, N_MARKS = range(12)

# A column's numbers are below 2^10, squares below 2^20; what products left out starts 53 bits further down.
GROUP_TOPS = (10, 20, -32, 10, 10, 10, 10, 20, -32, 20, -32, 10)

# Rows are counted by bin of confidence and rank together: a cell, bin << shift | rank. With many ranks of interest
# (top_k) a cell tells right from wrong only.
MOST_CELLS = 512

# Without weights a confidence is at most 1, or 2^41 units: a cell's word counts rows from this bit on.
ROWS_BIT = 53
MOST_ROWS = 2047 - BLOCK

DENSE_PAIRS = 1 << 16  # up to so many (label, predicted) pairs have a counter each; above it they are listed


class Tally(NamedTuple):
    """What a set of rows adds up to. G is the number of groups (see `n_groups`), C = 0 for soft targets."""

    counts: Any  # int64[N_COUNTS]
    sums: Any  # int64[N_SUMS, STATE_SIZE]: exact sums
    class_rows: Any  # int64[C, 3]: rows with this label, predicted right, predicted as it; 0 if pairs are dense
    bin_rows: Any  # int64[B, 2]: rows by confidence, wrong and right
    rank_rows: Any  # int64[T + 1]: rows by the label's rank, the last for all from T on
    nll_rows: Any  # int64[N_NLL]
    score_rows: Any  # int64[2, N_SCORES]; [2, 0] unless C = 2
    pair_keys: Any  # int64[P]: label * C + predicted, counts[PAIRS_USED] of them; empty where pairs are dense
    pair_rows: Any  # int64[P]: rows of each wrong pair (see class_rows); dense, int64[C * C]: of every pair
    slots: Any  # int64[G, COMPACT_SIZE]: compact exact sums
    spill_index: Any  # int64[G]: 1 + the row of `spill` with what the compact sum cannot hold, or 0
    spill: Any  # int64[M, STATE_SIZE]: exact sums
    worst_nll: Any  # float64[W], largest first, ties by lower id
    worst_id: Any  # int64[W]
    worst_label: Any  # int64[W]; -1 for soft targets


def n_groups(n_classes: int, n_bins: int, n_top: int, weighted: bool) -> int:
    """How many grouped sums a tally has: NLL a class, confidence a bin; with weights also those of `_add_weighted`."""
    if n_classes == 0:
        return 0
    plain = n_classes + n_bins
    if not weighted:
        return plain
    return plain + 3 * n_classes + 2 * n_bins + n_top + (2 * N_SCORES if n_classes == 2 else 0)


@inline
def product_words(x, y):
    """x y in two words: exact unless the second underflows (|x y| < 2^-969); it is 0 where the first is infinite."""
    high = x * y
    return high, select(maximum(high, -high) < math.inf, fma(x, y, -high), 0.0)


@inline
def room(weighted, n_top, n_groups):
    """How many pairs and spilled groups a block may add: the room that `accumulate_chunk` wants."""
    return BLOCK, min(BLOCK * (8 + n_top if weighted else 2), n_groups)


@inline
def _drop(block, marks, n, counts):
    """Count a block's ignored and invalid rows and close up the others. Returns how many there are of these."""
    kept = 0
    for k in range(n):
        rank = marks[RANK, k]
        if rank < 0:
            counts[IGNORED if rank == -1 else INVALID] += 1
            continue
        for column in (R, ENTROPY, CONFIDENCE, BRIER):
            block[column, kept] = block[column, k]
        for column in (LABEL, PREDICTED, RANK):
            marks[column, kept] = marks[column, k]
        marks[ROW, kept] = k
        kept += 1
    return kept


@inline
def _number_rows(marks, n):
    """Rows as they are where none is dropped."""
    for k in range(n):
        marks[ROW, k] = k


@inline
def _weigh(block, weights, start, marks, n):
    """Multiply a block's columns by its rows' weights; what is wanted without weights is copied first."""
    for k in range(n):
        s = weights[start + marks[ROW, k]]
        block[S, k] = s
        block[HITS, k] = s if marks[RANK, k] == 0 else 0.0
        block[NLL, k], block[R, k] = block[R, k], s * block[R, k]
        block[SHARE, k], block[CONFIDENCE, k] = block[CONFIDENCE, k], s * block[CONFIDENCE, k]
        block[ENTROPY, k] *= s
        block[BRIER, k] *= s


@inline
def _mark_bins(block, nll, share, marks, n, n_bins, shift, two):
    """The bins of a block's rows, eight at a time, and the largest NLL. Past the last row there are zeros."""
    p, q = pointer(block, 0), pointer(marks, 0)
    largest = splat(np.int64(0))
    for i in range(0, n, 8):
        loss, confidence = load(p, nll * STRIDE + i), load(p, share * STRIDE + i)
        largest = maximum(largest, bits(loss))
        rank = minimum(load(q, RANK * STRIDE + i), (1 << shift) - 1)
        store(q, NLL_BIN * STRIDE + i, nll_bin(loss))
        store(q, CELL * STRIDE + i, (confidence_bin(confidence, n_bins) << shift) + rank)
        if two:
            store(q, SCORE_BIN * STRIDE + i, score_bin(confidence, load(q, PREDICTED * STRIDE + i)))
    return from_bits(max_reduce(largest))


@inline
def _note_worst_rows(counts, worst_nll, worst_id, worst_label, block, nll, marks, n, most, ids, first_id, start):
    """Keep what is among the worst rows so far: in most blocks, nothing."""
    size = worst_nll.size
    if size > 0 and most >= (worst_nll[size - 1] if counts[WORST_USED] == size else -1.0):
        for k in range(n):
            row = start + marks[ROW, k]
            row_id = ids[row] if ids.size > 0 else first_id + row
            note_worst(counts, worst_nll, worst_id, worst_label, block[nll, k], row_id, marks[LABEL, k])


@inline
def _square(block, n, weighted):
    """A block's squares and products, in two words. Returns whether the low words of r^2 are not all 0."""
    p = pointer(block, 0)
    some = splat(np.int64(0))
    for i in range(0, n, 8):
        r = load(p, R * STRIDE + i)
        high, low = product_words(r, r)
        store(p, RR_HIGH * STRIDE + i, high)
        store(p, RR_LOW * STRIDE + i, low)
        some = some | bits(low)
        if weighted:
            s = load(p, S * STRIDE + i)
            high, low = product_words(s, s)
            store(p, SS_HIGH * STRIDE + i, high)
            store(p, SS_LOW * STRIDE + i, low)
            high, low = product_words(s, r)
            store(p, SR_HIGH * STRIDE + i, high)
            store(p, SR_LOW * STRIDE + i, low)
    return any_lane(some != 0)


@inline
def cell_shift(n_bins, n_ranks):
    """How many bits of a cell's number the rank takes."""
    shift = 1
    while (1 << shift) < n_ranks:
        shift += 1
    return shift if n_bins << shift <= MOST_CELLS else 1


@inline
def make_rows(chunk, like, integers, reals, labels, no_sums, i, m, block, marks, report):
    """The figures of rows i .. i + m - 1 to a block's columns; False where one is refused."""
    columns, whole_numbers = block.ctypes.data, marks.ctypes.data
    places = (
        columns + 8 * STRIDE * R,
        columns + 8 * STRIDE * ENTROPY,
        columns + 8 * STRIDE * CONFIDENCE,
        columns + 8 * STRIDE * BRIER,
        whole_numbers + 8 * STRIDE * PREDICTED,
        whole_numbers + 8 * STRIDE * RANK,
    )
    if chunk == 0:
        for j in range(6):
            p, q = address(places[j], integers), address(integers[CARD + j] + 8 * i, integers)
            for k in range(m):
                p[k] = q[k]
        return True
    for j in range(6):
        integers[CARD + j] = places[j] - 8 * i
    call_chunk(chunk, (i, i + m, like, like, integers, reals, labels, like, like, like, no_sums, report))
    return report[1] == 0


@inline
def _any_negative(marks, n):
    p, last = pointer(marks, RANK * STRIDE), np.int64(0)
    for k in range(n):
        last |= p[k]
    return last < 0


@inline
def _pad(block, marks, n, weighted):
    """Zeros past a block's last row."""
    for j in range(N_COLUMNS if weighted else N_PLAIN):
        store(pointer(block, j * STRIDE), n, splat(0.0))
    store(pointer(marks, RANK * STRIDE), n, splat(np.int64(0)))
    store(pointer(marks, PREDICTED * STRIDE), n, splat(np.int64(0)))


@inline
def _add_column(sums, fixed, block, marks, j, n, into):
    """Add a column to its exact sum. Returns what groups want: whether all numbers fit, and have low parts.

    The parts go to the marks ``into`` and the next one.
    """
    parts = pointer(marks, into * STRIDE), pointer(marks, (into + 1) * STRIDE)
    high, low, fits, some_low = fixed_columns(pointer(block, j * STRIDE), n, GROUP_TOPS[j], *parts)
    if fits:
        fixed[j, 0] += high
        fixed[j, 1] += low
    else:
        exact_sum_add_block(sums[j], block[j], n)
    return fits, some_low


@inline
def _count_together(nll_rows, pair_rows, cells, totals, marks, n, n_classes, some_low, some_low_r):
    """What a block's rows add to the tables of few classes, in one loop: additions to one place wait for each other."""
    nll, pairs, cell, of_label = pointer(nll_rows, 0), pointer(pair_rows, 0), pointer(cells, 0), pointer(totals, 0)
    p = pointer(marks, 0)
    for k in range(n):
        label = p[LABEL * STRIDE + k]
        nll[p[NLL_BIN * STRIDE + k]] += 1
        pairs[label * n_classes + p[PREDICTED * STRIDE + k]] += 1
        cell[4 * p[CELL * STRIDE + k]] += p[HIGH * STRIDE + k] + (1 << ROWS_BIT)
        of_label[2 * label] += p[HIGH_R * STRIDE + k]
    for k in range(n if some_low else 0):
        cell[4 * p[CELL * STRIDE + k] + 1] += p[LOW * STRIDE + k]
    for k in range(n if some_low_r else 0):
        of_label[2 * p[LABEL * STRIDE + k] + 1] += p[LOW_R * STRIDE + k]


@compiled
def _flush(sums, fixed, totals, few, cells, shift, n_classes, bin_rows, rank_rows, slots, packed):
    """Move what several blocks add up to into the tally."""
    for j in range(N_SUMS):
        for level in range(2):
            if fixed[j, level] != 0:
                add_units(sums[j], fixed[j, level], GROUP_TOPS[j] - 51 - 52 * level)
                fixed[j, level] = 0
    flush_groups(totals, n_classes if few else 0, 0, slots, 0)
    if n_classes == 0:
        return
    by_rank, most = (1 << shift) >= rank_rows.size, (1 << shift) - 1
    for cell in range(cells.shape[0]):
        if packed:
            cells[cell, 2] += (cells[cell, 0] >> ROWS_BIT) & 2047
            cells[cell, 0] &= (1 << ROWS_BIT) - 1
        rows, rank = cells[cell, 2], cell & most
        if rows != 0:
            bin_rows[cell >> shift, 1 if rank == 0 else 0] += rows
            if by_rank:
                rank_rows[min(rank, rank_rows.size - 1)] += rows
            cells[cell, 2] = 0
    flush_groups(cells, cells.shape[0], shift, slots, n_classes)


@compiled
def accumulate_chunk(
    chunk, like, integers, reals, labels, weights, ids, first_id, tops, refuse_invalid, start, stop, tally, report
):
    """Make the figures of rows start .. stop - 1 and add them to a tally, a block at a time; returns how far it came.

    It stops early, at a row's beginning, where report[1] says that a row is refused; or when the tally's growing arrays
    are full: let them grow and call again (see `room`).

    Parameters
    ----------
    chunk : address of a chunk function of cards.py; or 0: `integers` has the addresses of figures that are there
    like, integers, reals : what it is called with; the addresses are overwritten
    labels : int64[n], or int64[0] where the tally is one of soft targets
    weights : float64[n], or float64[0] for a weight of 1
    ids : int64[n], or int64[0] for first_id + i
    tops : int64[K], the k of top-k accuracy
    refuse_invalid : whether a row with a NaN or +inf, or only -inf, is refused
    tally : Tally, with the weighted groups where weights are given
    report : int64[2]: the row and the reason
    """
    class_rows, bin_rows, rank_rows = borrowed(tally.class_rows), borrowed(tally.bin_rows), borrowed(tally.rank_rows)
    nll_rows, score_rows = borrowed(tally.nll_rows), borrowed(tally.score_rows)
    counts, pair_keys, pair_rows = borrowed(tally.counts), borrowed(tally.pair_keys), borrowed(tally.pair_rows)
    slots, spill_index, spill = borrowed(tally.slots), borrowed(tally.spill_index), borrowed(tally.spill)
    worst_nll, worst_id, worst_label = borrowed(tally.worst_nll), borrowed(tally.worst_id), borrowed(tally.worst_label)
    sums = borrowed(tally.sums)
    n_classes, n_bins = class_rows.shape[0], bin_rows.shape[0]
    # The groups, in order: NLL by label, confidence by bin; weight by label, of hits by label, by prediction, by bin,
    # of hits by bin, by rank, by label and score.
    weight_group = n_classes + n_bins
    bin_group = weight_group + 3 * n_classes
    top_group = bin_group + 2 * n_bins
    score_group = top_group + tops.size
    weighted, hard = weights.size > 0, n_classes > 0
    nll, share = (NLL, SHARE) if weighted else (R, CONFIDENCE)
    new_pairs, new_spilled = room(weighted, tops.size, spill_index.size)
    block, marks = scratch(np.float64, N_COLUMNS, STRIDE), scratch(np.int64, N_MARKS, STRIDE)
    totals, fixed = scratch(np.int64, FEW_GROUPS, 2), scratch(np.int64, N_SUMS, 2)
    totals[:], fixed[:], marks[LABEL, :] = 0, 0, -1
    few, dense = hard and n_classes <= FEW_GROUPS, hard and pair_keys.size == 0
    shift = cell_shift(n_bins, rank_rows.size)
    by_rank = (1 << shift) >= rank_rows.size
    cells, grouped = np.zeros((n_bins << shift, 4), np.int64), (counts, slots, spill_index, spill)
    together = dense and not weighted
    parts = pointer(marks, HIGH * STRIDE), pointer(marks, LOW * STRIDE)
    parts_r = pointer(marks, HIGH_R * STRIDE), pointer(marks, LOW_R * STRIDE)
    pending, i = 0, start
    _number_rows(marks, BLOCK)
    while i < stop:
        if counts[PAIRS_USED] + new_pairs > pair_keys.size > 0 or counts[SPILL_USED] + new_spilled > spill.shape[0]:
            break
        m = n = min(BLOCK, stop - i)
        if not make_rows(chunk, like, integers, reals, labels, sums, i, m, block, marks, report):
            break
        p, q = pointer(marks, 0), pointer(labels, i)
        for k in range(m if hard else 0):
            p[LABEL * STRIDE + k] = q[k]
        dropped = _any_negative(marks, n)
        if dropped:
            n = _drop(block, marks, n, counts)
            if refuse_invalid and counts[INVALID] > 0:
                report[0], report[1] = i, -1
                break
        counts[KEPT] += n
        if weighted:
            _weigh(block, weights, i, marks, n)
        _pad(block, marks, n, weighted)
        most = _mark_bins(block, nll, share, marks, n, n_bins, shift, n_classes == 2)
        fit = fit_r = False, False
        if hard:
            fit = _add_column(sums, fixed, block, marks, CONFIDENCE, n, HIGH)
            fit_r = _add_column(sums, fixed, block, marks, R, n, HIGH_R)
        if together and fit[0] and fit_r[0]:
            _count_together(nll_rows, pair_rows, cells, totals, marks, n, n_classes, fit[1], fit_r[1])
        else:
            count_places(pointer(nll_rows, 0), 1, pointer(marks, NLL_BIN * STRIDE), n)
            marked = pointer(marks, LABEL * STRIDE), pointer(marks, PREDICTED * STRIDE)
            if dense:
                p = pointer(pair_rows, 0)
                for k in range(n):
                    p[marked[0][k] * n_classes + marked[1][k]] += 1
            elif hard:
                count_pairs(counts, class_rows, pair_keys, pair_rows, marked, n)
            if hard:
                place, x = pointer(marks, CELL * STRIDE), pointer(block, CONFIDENCE * STRIDE)
                add_to_groups(pointer(cells, 0), 4, place, parts, x, n, fit, grouped, n_classes, shift)
                if few:
                    place, x = pointer(marks, LABEL * STRIDE), pointer(block, R * STRIDE)
                    add_to_groups(pointer(totals, 0), 2, place, parts_r, x, n, fit_r, grouped, 0, 0)
                else:
                    for k in range(n):
                        add_to_group(*grouped, marks[LABEL, k], block[R, k])
        for k in range(n if hard and not by_rank else 0):
            rank_rows[min(marks[RANK, k], rank_rows.size - 1)] += 1
        if n_classes == 2:
            p = pointer(score_rows, 0)
            for k in range(n):
                p[marks[LABEL, k] * N_SCORES + marks[SCORE_BIN, k]] += 1
        for k in range(n if weighted and hard else 0):
            s, label, j, rank = block[S, k], marks[LABEL, k], marks[CELL, k] >> shift, marks[RANK, k]
            add_to_group(*grouped, weight_group + label, s)
            add_to_group(*grouped, weight_group + 2 * n_classes + marks[PREDICTED, k], s)
            add_to_group(*grouped, bin_group + j, s)
            if rank == 0:
                add_to_group(*grouped, weight_group + n_classes + label, s)
                add_to_group(*grouped, bin_group + n_bins + j, s)
            for t in range(tops.size):
                if rank < tops[t]:
                    add_to_group(*grouped, top_group + t, s)
            if n_classes == 2:
                add_to_group(*grouped, score_group + label * N_SCORES + marks[SCORE_BIN, k], s)
        _note_worst_rows(counts, worst_nll, worst_id, worst_label, block, nll, marks, n, most, ids, first_id, i)
        low = _square(block, n, weighted)
        for j in range(N_SUMS if weighted else N_PLAIN):
            if j == ENTROPY or j == BRIER or j == RR_HIGH:  # the parts by themselves are not wanted
                exact_sum_add_block(sums[j], block[j], n)
            elif not (hard and (j == R or j == CONFIDENCE)) and (j != RR_LOW or low):
                _add_column(sums, fixed, block, marks, j, n, HIGH)
        if dropped:
            _number_rows(marks, BLOCK)
        i += m
        pending += m
        if pending > MOST_ROWS:
            pending = 0
            _flush(sums, fixed, totals, few, cells, shift, n_classes, bin_rows, rank_rows, slots, together)
    _flush(sums, fixed, totals, few, cells, shift, n_classes, bin_rows, rank_rows, slots, together)
    return i


@compiled
def merge_tally(into, other):
    """Add another tally of the same layout to this one, which has room for all its pairs and spilled groups."""
    counts, more = into.counts, other.counts
    for j in range(PAIRS_USED):
        counts[j] += more[j]
    add_counts(into.class_rows, other.class_rows)
    add_counts(into.bin_rows, other.bin_rows)
    add_counts(into.rank_rows, other.rank_rows)
    add_counts(into.nll_rows, other.nll_rows)
    add_counts(into.score_rows, other.score_rows)
    for j in range(N_SUMS):
        exact_sum_merge(into.sums[j], other.sums[j])
    merge_groups(counts, into.slots, into.spill_index, into.spill, other.slots, other.spill_index, other.spill)
    if other.pair_keys.size == 0:
        add_counts(into.pair_rows, other.pair_rows)
    else:
        add_pairs(counts, into.pair_keys, into.pair_rows, other.pair_keys, other.pair_rows, more[PAIRS_USED])
    worst_nll, worst_id, worst_label = into.worst_nll, into.worst_id, into.worst_label
    for j in range(more[WORST_USED]):
        nll, row_id, label = other.worst_nll[j], other.worst_id[j], other.worst_label[j]
        note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label)


@inline
def add_counts(into, more):
    """Add counts of one shape. A loop: the message of a failed array assignment would bring in libm's log10."""
    p, q = pointer(into, 0), pointer(more, 0)
    for i in range(into.size):
        p[i] += q[i]


@compiled
def prior_nll(weights, total):
    """The mean NLL (nats) of predicting each class with its frequency: the exact sum of (w / total) ln(total / w)."""
    state = np.zeros(STATE_SIZE, np.int64)
    for k in range(weights.size):
        w = weights[k]
        if w > 0.0:
            exact_sum_add(state, w / total * log1p((total - w) / w))  # keeps its accuracy where w is nearly all
    return exact_sum_value(state)
