"""The score card's accumulation: per-row figures -> counts and exact sums that merge in any order.

Everything in a `Tally` is an integer count, an exact sum or a top list under a total order. Adding rows and merging
tallies are therefore associative and commutative, and any partition of the rows, in any order, finishes with the same
bits. A tally without weights counts rows; one with weights also sums them, exactly, so that a weight of 1.0 in every
row gives the same figures as no weights.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels.elementary import log1p, whole, whole_float
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
    add_parts,
    add_to_group,
    bases_of,
    flush,
    largest_magnitude,
    merge_groups,
    split,
)
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import borrowed, load, pointer, scratch, store
from fastxent.kernels.pairs import count_pair, count_pairs
from fastxent.kernels.simd import any_lane, bits, fma, from_bits, maximum, minimum, select, splat

# Tally.counts: rows of each kind, and how much of the growing arrays is in use.
KEPT, IGNORED, INVALID, PAIRS_USED, SPILL_USED, WORST_USED, N_COUNTS = range(7)

# Tally.sums. l: NLL, s: sample weight (1 without weights), r = fl(s l). Squares are in two words (x^2 = high + low
# exactly), so that the variance, taken in rational arithmetic, does not cancel. The columns from S on are for weights.
R, RR_HIGH, RR_LOW, ENTROPY, CONFIDENCE, BRIER, N_PLAIN = range(7)
S, SS_HIGH, SS_LOW, SR_HIGH, SR_LOW, HITS = range(6, 12)
N_SUMS = 12

# A block's rows: the columns above, then the NLL and confidence without weights; and whole numbers.
NLL, SHARE, N_COLUMNS = range(N_SUMS, N_SUMS + 3)
LABEL, PREDICTED, RANK, ROW, BIN, NLL_BIN, SCORE_BIN, LATE, N_MARKS = range(9)

# Tally.nll_rows: NLL below 2^FIRST_OCTAVE (0 included); then QUARTERS bins an octave, from 2^k {1, 1.25, 1.5, 1.75} on;
# then finite NLL of 2^LAST_OCTAVE and above; then infinity. The index is in the number's bits.
FIRST_OCTAVE, LAST_OCTAVE, QUARTERS = -20, 7, 4
N_NLL = (LAST_OCTAVE - FIRST_OCTAVE) * QUARTERS + 3
NLL_BASE = (FIRST_OCTAVE + 1023) * QUARTERS - 1

# Tally.score_rows, two classes: rows by label and by the probability of class 1, for the area under the ROC curve. With
# p = 1 - confidence <= 1/2, a bin is a relative step of 2^-SCORE_BITS in p, with 1/2, 1/4, ... amid their bins, not on
# an edge; what is below 2^-SCORE_OCTAVES / 2 shares one bin. SCORE_HALF is the bin of p = 1/2.
SCORE_BITS, SCORE_OCTAVES = 11, 32
SCORE_HALF = SCORE_OCTAVES << SCORE_BITS
N_SCORES = 2 * SCORE_HALF + 1
SCORE_SHIFT = 52 - SCORE_BITS
SCORE_BASE = (1022 << SCORE_BITS) - SCORE_HALF
HALF_STEP = 1 << (SCORE_SHIFT - 1)

DENSE_PAIRS = 1 << 16  # up to so many (label, predicted) pairs have a counter each; above it they are hashed


class Tally(NamedTuple):
    """What a set of rows adds up to. G is the number of groups (see `n_groups`), C = 0 for soft targets."""

    counts: Any  # int64[N_COUNTS]
    sums: Any  # int64[N_SUMS, STATE_SIZE]: exact sums
    class_rows: Any  # int64[C, 3]: rows with this label, predicted right, predicted as it; 0 if pairs are dense
    bin_rows: Any  # int64[B, 2]: rows by confidence, wrong and right
    rank_rows: Any  # int64[T + 1]: rows by the label's rank, the last for all from T on
    nll_rows: Any  # int64[N_NLL]
    score_rows: Any  # int64[2, N_SCORES]; [2, 0] unless C = 2
    pair_keys: Any  # int64[P]: 1 + label * C + predicted, 0 for a free slot; empty where pairs are dense
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
def _square_low(x, y, high):
    """What fl(x y) = high left out of x y: exact unless it underflows (|x y| < 2^-969); 0 where high is not finite."""
    low = fma(x, y, -high)
    return low if abs(high) < np.inf else 0.0


@inline
def room(weighted, n_top, n_groups):
    """How many pairs and spilled groups a block may add: the room that `accumulate_chunk` wants."""
    return BLOCK, min(BLOCK * (8 + n_top if weighted else 2), n_groups)


@inline
def confidence_bin(confidence, n_bins):
    """The bin k with k/n_bins < confidence <= (k + 1)/n_bins; 0 is in the first, what exceeds 1 in the last."""
    k = whole(confidence * n_bins)
    k = k - select(confidence <= whole_float(k) / n_bins, k * 0 + 1, 0)
    return minimum(maximum(k, 0), n_bins - 1)


@inline
def nll_bin(nll):
    """The bin of `nll_rows` for an NLL."""
    k = minimum(maximum((bits(nll) >> 50) - NLL_BASE, 0), N_NLL - 2)
    return select(nll == math.inf, N_NLL - 1, k)


@inline
def score_bin(confidence, predicted):
    """The bin of `score_rows`, rising with the probability of class 1."""
    p = 1.0 - confidence
    k = ((bits(p) + HALF_STEP) >> SCORE_SHIFT) - SCORE_BASE
    k = minimum(maximum(k, 0), SCORE_HALF)
    return select(predicted == 0, k, 2 * SCORE_HALF - k)


@inline
def _worse(nll, row_id, label, other_nll, other_id, other_label):
    """A total order: larger NLL, then lower id, then lower label."""
    if nll != other_nll:
        return nll > other_nll
    if row_id != other_id:
        return row_id < other_id
    return label < other_label


@inline
def _note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label):
    """Keep the row if it is among the worst so far: an insertion into a short sorted list."""
    k = counts[WORST_USED]
    if k == worst_nll.size:
        if k == 0 or not nll >= worst_nll[k - 1]:
            return
        k -= 1
        if not _worse(nll, row_id, label, worst_nll[k], worst_id[k], worst_label[k]):
            return
    counts[WORST_USED] = k + 1
    while k > 0 and _worse(nll, row_id, label, worst_nll[k - 1], worst_id[k - 1], worst_label[k - 1]):
        worst_nll[k] = worst_nll[k - 1]
        worst_id[k] = worst_id[k - 1]
        worst_label[k] = worst_label[k - 1]
        k -= 1
    worst_nll[k] = nll
    worst_id[k] = row_id
    worst_label[k] = label


@inline
def _collect(ranks, start, stop, counts, marks):
    """Note the rows that count among start .. stop - 1, and count the others. Returns how many there are."""
    left_out = splat(np.int64(0))
    for i in range(start, stop - 7, 8):
        left_out = left_out | load(pointer(ranks, i), 0)
    last = np.int64(0)
    for i in range(stop - (stop - start) % 8, stop):
        last |= ranks[i]
    if last >= 0 and not any_lane(left_out < 0):
        for i in range(start, stop):
            marks[ROW, i - start] = i
        return stop - start
    n = 0
    for i in range(start, stop):
        if ranks[i] >= 0:
            marks[ROW, n] = i
            n += 1
        else:
            counts[IGNORED if ranks[i] == -1 else INVALID] += 1
    return n


@inline
def _take(columns, column, values, marks, n):
    """Copy a block's rows of per-row values to a column."""
    start = marks[ROW, 0]
    p, q = pointer(columns, column * STRIDE), pointer(values, start)
    if marks[ROW, n - 1] - start == n - 1:
        for k in range(0, n - 7, 8):
            store(p, k, load(q, k))
        for k in range(n - n % 8, n):
            p[k] = q[k]
    else:
        for k in range(n):
            p[k] = values[marks[ROW, k]]


@inline
def _weigh(block, weights, marks, n):
    """Multiply a block's columns by its rows' weights; what is wanted without weights was copied."""
    _take(block, S, weights, marks, n)
    for k in range(n):
        s = block[S, k]
        block[HITS, k] = s if marks[RANK, k] == 0 else 0.0
        block[NLL, k], block[R, k] = block[R, k], s * block[R, k]
        block[SHARE, k], block[CONFIDENCE, k] = block[CONFIDENCE, k], s * block[CONFIDENCE, k]
        block[ENTROPY, k] *= s
        block[BRIER, k] *= s


@inline
def _mark_bins(block, nll, share, marks, n, n_bins, two):
    """The bins of a block's rows, eight at a time (and past the last one)."""
    p, q = pointer(block, 0), pointer(marks, 0)
    for i in range(0, n, 8):
        confidence = load(p, share * STRIDE + i)
        store(q, NLL_BIN * STRIDE + i, nll_bin(load(p, nll * STRIDE + i)))
        store(q, BIN * STRIDE + i, confidence_bin(confidence, n_bins))
        if two:
            store(q, SCORE_BIN * STRIDE + i, score_bin(confidence, load(q, PREDICTED * STRIDE + i)))


@inline
def _note_worst_rows(counts, worst_nll, worst_id, worst_label, block, nll, marks, n, ids, first_id):
    """Keep what is among the worst rows so far: in most blocks, nothing."""
    size = worst_nll.size
    if size == 0:
        return
    least = worst_nll[size - 1] if counts[WORST_USED] == size else -1.0
    if from_bits(largest_magnitude(block, nll, n)) >= least:
        for k in range(n):
            row = marks[ROW, k]
            row_id = ids[row] if ids.size > 0 else first_id + row
            _note_worst(counts, worst_nll, worst_id, worst_label, block[nll, k], row_id, marks[LABEL, k])


@inline
def _add_columns(sums, block, n, weighted, grouped):
    """Add a block's columns to the exact sums, without those that `flush` has added."""
    for i in range(n):
        r = block[R, i]
        block[RR_HIGH, i] = r * r
        block[RR_LOW, i] = _square_low(r, r, r * r)
    if weighted:
        for i in range(n):
            s = block[S, i]
            r = block[R, i]
            block[SS_HIGH, i] = s * s
            block[SS_LOW, i] = _square_low(s, s, s * s)
            block[SR_HIGH, i] = s * r
            block[SR_LOW, i] = _square_low(s, r, s * r)
    for j in range(N_SUMS if weighted else N_PLAIN):
        if not (grouped and (j == R or j == CONFIDENCE)):
            exact_sum_add_block(sums[j], block[j], n)


@compiled
def accumulate_chunk(rows, labels, weights, ids, first_id, tops, start, stop, tally):
    """Add the rows start .. stop - 1 of per-row arrays to a tally; returns how far it came.

    It stops early, at a row's beginning, when the tally's growing arrays are full: let them grow and call again (see
    `room`).

    Parameters
    ----------
    rows : ScoreRows
        nll, entropy, confidence, brier: float64[n]; predicted, rank: int64[n]. rank -1: ignored, -2: invalid.
    labels : int64[n], or int64[0] where the tally is one of soft targets
    weights : float64[n], or float64[0] for a weight of 1
    ids : int64[n], or int64[0] for first_id + i
    tops : int64[K], the k of top-k accuracy
    tally : Tally, with the weighted groups where weights are given
    """
    nlls, entropies, confidences = borrowed(rows.nll), borrowed(rows.entropy), borrowed(rows.confidence)
    briers, predictions, ranks = borrowed(rows.brier), borrowed(rows.predicted), borrowed(rows.rank)
    class_rows, bin_rows, rank_rows = borrowed(tally.class_rows), borrowed(tally.bin_rows), borrowed(tally.rank_rows)
    nll_rows, score_rows = borrowed(tally.nll_rows), borrowed(tally.score_rows)
    counts, pair_keys, pair_rows = borrowed(tally.counts), borrowed(tally.pair_keys), borrowed(tally.pair_rows)
    slots, spill_index, spill = borrowed(tally.slots), borrowed(tally.spill_index), borrowed(tally.spill)
    worst_nll, worst_id, worst_label = borrowed(tally.worst_nll), borrowed(tally.worst_id), borrowed(tally.worst_label)
    labels, weights, ids, tops = borrowed(labels), borrowed(weights), borrowed(ids), borrowed(tops)
    sums = borrowed(tally.sums)
    n_classes, n_bins = class_rows.shape[0], bin_rows.shape[0]
    # The groups, in order: NLL by label, confidence by bin; weight by label, of hits by label, by prediction, by bin,
    # of hits by bin, by rank, by label and score.
    weight_group = n_classes + n_bins
    bin_group = weight_group + 3 * n_classes
    top_group = bin_group + 2 * n_bins
    score_group = top_group + tops.size
    weighted = weights.size > 0
    new_pairs, new_spilled = room(weighted, tops.size, spill_index.size)
    block, marks = scratch(np.float64, N_COLUMNS, STRIDE), scratch(np.int64, N_MARKS, STRIDE)
    totals = scratch(np.float64, FEW_GROUPS, 4)
    totals[:] = 0.0
    nll, share = (NLL, SHARE) if weighted else (R, CONFIDENCE)
    marks[LABEL, :] = -1
    hard = n_classes > 0
    dense, few = hard and pair_keys.size == 0, hard and n_classes + n_bins <= FEW_GROUPS
    for i in range(start, stop, BLOCK):
        if (
            2 * (counts[PAIRS_USED] + new_pairs) > pair_keys.size > 0
            or counts[SPILL_USED] + new_spilled > spill.shape[0]
        ):
            return i
        n = _collect(ranks, i, min(i + BLOCK, stop), counts, marks)
        if n == 0:
            continue
        counts[KEPT] += n
        _take(block, R, nlls, marks, n)
        _take(block, ENTROPY, entropies, marks, n)
        _take(block, CONFIDENCE, confidences, marks, n)
        _take(block, BRIER, briers, marks, n)
        _take(marks, PREDICTED, predictions, marks, n)
        _take(marks, RANK, ranks, marks, n)
        if hard:
            _take(marks, LABEL, labels, marks, n)
        if weighted:
            _weigh(block, weights, marks, n)
        _mark_bins(block, nll, share, marks, n, n_bins, n_classes == 2)
        bases, fits = bases_of(block, R, n)
        share_bases, shares_fit = bases_of(block, CONFIDENCE, n)
        grouped = few and fits and shares_fit
        for k in range(n):
            nll_rows[marks[NLL_BIN, k]] += 1
        if dense:
            for k in range(n):
                pair_rows[marks[LABEL, k] * n_classes + marks[PREDICTED, k]] += 1
        for k in range(n if hard else 0):
            rank = marks[RANK, k]
            rank_rows[min(rank, rank_rows.size - 1)] += 1
            bin_rows[marks[BIN, k], 1 if rank == 0 else 0] += 1
        n_late, at = 0, pointer(totals, 0)
        for k in range(n if grouped else 0):
            parts, shares = split(block[R, k], bases), split(block[CONFIDENCE, k], share_bases)
            if parts[3] and shares[3]:
                add_parts(at, marks[LABEL, k], parts)
                add_parts(at, n_classes + marks[BIN, k], shares)
            else:
                marks[LATE, n_late] = k
                n_late += 1
        for j in range(n_late if grouped or not hard else n):
            k = marks[LATE, j] if grouped else j
            add_to_group(counts, slots, spill_index, spill, marks[LABEL, k], block[R, k])
            add_to_group(counts, slots, spill_index, spill, n_classes + marks[BIN, k], block[CONFIDENCE, k])
            if grouped:
                exact_sum_add(sums[R], block[R, k])
                exact_sum_add(sums[CONFIDENCE], block[CONFIDENCE, k])
        if grouped:
            flush(totals, 0, slots, 0, n_classes, bases, sums[R])
            flush(totals, n_classes, slots, n_classes, n_bins, share_bases, sums[CONFIDENCE])
        if hard and not dense:
            marked = pointer(marks, LABEL * STRIDE), pointer(marks, PREDICTED * STRIDE)
            count_pairs(counts, class_rows, pair_keys, pair_rows, marked, n)
        if n_classes == 2:
            for k in range(n):
                score_rows[marks[LABEL, k], marks[SCORE_BIN, k]] += 1
        for k in range(n if weighted and hard else 0):
            groups = counts, slots, spill_index, spill
            s, label, j, rank = block[S, k], marks[LABEL, k], marks[BIN, k], marks[RANK, k]
            add_to_group(*groups, weight_group + label, s)
            add_to_group(*groups, weight_group + 2 * n_classes + marks[PREDICTED, k], s)
            add_to_group(*groups, bin_group + j, s)
            if rank == 0:
                add_to_group(*groups, weight_group + n_classes + label, s)
                add_to_group(*groups, bin_group + n_bins + j, s)
            for t in range(tops.size):
                if rank < tops[t]:
                    add_to_group(*groups, top_group + t, s)
            if n_classes == 2:
                add_to_group(*groups, score_group + label * N_SCORES + marks[SCORE_BIN, k], s)
        _note_worst_rows(counts, worst_nll, worst_id, worst_label, block, nll, marks, n, ids, first_id)
        _add_columns(sums, block, n, weighted, grouped)
    return stop


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
    pair_keys, pair_rows = into.pair_keys, into.pair_rows
    if other.pair_keys.size == 0:
        add_counts(pair_rows, other.pair_rows)
    else:
        for k in range(other.pair_keys.size):
            if other.pair_keys[k] != 0:
                count_pair(counts, pair_keys, pair_rows, other.pair_keys[k] - 1, other.pair_rows[k])
    worst_nll, worst_id, worst_label = into.worst_nll, into.worst_id, into.worst_label
    for j in range(more[WORST_USED]):
        nll, row_id, label = other.worst_nll[j], other.worst_id[j], other.worst_label[j]
        _note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label)


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
