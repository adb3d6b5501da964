"""The score card's accumulation: per-row figures -> counts and exact sums that merge in any order.

Everything in a `Tally` is an integer count, an exact sum or a top list under a total order. Adding rows and merging
tallies are therefore associative and commutative, and any partition of the rows, in any order, finishes with the same
bits. A tally without weights counts rows; one with weights also sums them, exactly, so that a weight of 1.0 in every
row gives the same figures as no weights.
"""

from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels.elementary import log1p
from fastxent.kernels.exactsum import (
    STATE_SIZE,
    compact_sum_add,
    compact_sum_into,
    compact_sum_merge,
    exact_sum_add,
    exact_sum_add_block,
    exact_sum_merge,
    exact_sum_value,
)
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import borrowed
from fastxent.kernels.simd import bits, fma

# Tally.counts: rows of each kind, and how much of the growing arrays is in use.
KEPT, IGNORED, INVALID, PAIRS_USED, SPILL_USED, WORST_USED, N_COUNTS = range(7)

# Tally.sums. l: NLL, s: sample weight (1 without weights), r = fl(s l). Squares are in two words (x^2 = high + low
# exactly), so that the variance, taken in rational arithmetic, does not cancel. The columns from S on are for weights.
R, RR_HIGH, RR_LOW, ENTROPY, CONFIDENCE, BRIER, N_PLAIN = range(7)
S, SS_HIGH, SS_LOW, SR_HIGH, SR_LOW, HITS = range(6, 12)
N_SUMS = 12

BLOCK = 512  # rows whose columns stay in the first-level cache between the row loop and the exact sums

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

DENSE_PAIRS = 1 << 16  # up to so many (label, predicted) pairs have a counter each; above it they are hashed
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing


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
def _add_to_group(counts, slots, spill_index, spill, group, x):
    """Add x to a group's exact sum. The caller has made room for one more spilled group."""
    if not compact_sum_add(slots[group], x):
        index = spill_index[group]
        if index == 0:
            counts[SPILL_USED] += 1
            index = counts[SPILL_USED]
            spill_index[group] = index
        exact_sum_add(spill[index - 1], x)


@inline
def confidence_bin(confidence, edges):
    """The bin k with edges[k] < confidence <= edges[k + 1]; 0 is in the first, what exceeds 1 in the last."""
    n_bins = edges.size - 1
    k = min(max(int(confidence * n_bins), 0), n_bins - 1)
    while k > 0 and confidence <= edges[k]:
        k -= 1
    while k < n_bins - 1 and confidence > edges[k + 1]:
        k += 1
    return k


@inline
def nll_bin(nll):
    """The bin of `nll_rows` for an NLL."""
    if nll == np.inf:
        return N_NLL - 1
    return min(max((bits(nll) >> 50) - NLL_BASE, 0), N_NLL - 2)


@inline
def score_bin(confidence, predicted):
    """The bin of `score_rows`, rising with the probability of class 1."""
    half_step = np.int64(1) << (SCORE_SHIFT - 1)
    p = 1.0 - confidence
    k = ((bits(p) + half_step) >> SCORE_SHIFT) - SCORE_BASE
    k = min(max(k, 0), SCORE_HALF)
    return k if predicted == 0 else 2 * SCORE_HALF - k


@inline
def _pair_slot(keys, key):
    """Where a pair is or belongs in the open-addressing table: a power of two slots, some of them free."""
    mask = keys.size - 1
    k = np.int64((np.uint64(key) * GOLDEN) >> np.uint64(32)) & mask
    while keys[k] != 0 and keys[k] != key:
        k = (k + 1) & mask
    return k


@inline
def _count_pair(counts, pair_keys, pair_rows, key, rows):
    """Count rows of one wrong pair in the table; key = label * C + predicted."""
    k = _pair_slot(pair_keys, key + 1)
    if pair_keys[k] == 0:
        pair_keys[k] = key + 1
        counts[PAIRS_USED] += 1
    pair_rows[k] += rows


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
def _add_columns(sums, block, n, weighted):
    """Add a block's columns to the exact sums."""
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
        exact_sum_add_block(sums[j], block[j], n)


@compiled
def accumulate_chunk(rows, labels, weights, ids, first_id, tops, edges, start, stop, tally):
    """Add the rows start .. stop - 1 of per-row arrays to a tally; returns how far it came.

    It stops early, at a row's beginning, when the tally's growing arrays are full: let them grow and call again.

    Parameters
    ----------
    rows : ScoreRows
        nll, entropy, confidence, brier: float64[n]; predicted, rank: int64[n]. rank -1: ignored, -2: invalid.
    labels : int64[n], unread where the tally is one of soft targets
    weights : float64[n], or float64[0] for a weight of 1
    ids : int64[n], or int64[0] for first_id + i
    tops : int64[K], the k of top-k accuracy
    edges : float64[B + 1], the edges of the confidence bins
    tally : Tally, with the weighted groups where weights are given
    """
    nlls, entropies, confidences = borrowed(rows.nll), borrowed(rows.entropy), borrowed(rows.confidence)
    briers, predictions, ranks = borrowed(rows.brier), borrowed(rows.predicted), borrowed(rows.rank)
    class_rows, bin_rows, rank_rows = borrowed(tally.class_rows), borrowed(tally.bin_rows), borrowed(tally.rank_rows)
    nll_rows, score_rows = borrowed(tally.nll_rows), borrowed(tally.score_rows)
    counts, pair_keys, pair_rows = borrowed(tally.counts), borrowed(tally.pair_keys), borrowed(tally.pair_rows)
    slots, spill_index, spill = borrowed(tally.slots), borrowed(tally.spill_index), borrowed(tally.spill)
    worst_nll, worst_id, worst_label = borrowed(tally.worst_nll), borrowed(tally.worst_id), borrowed(tally.worst_label)
    labels, weights, ids = borrowed(labels), borrowed(weights), borrowed(ids)
    tops, edges = borrowed(tops), borrowed(edges)
    n_classes = class_rows.shape[0]
    n_bins = bin_rows.shape[0]
    dense = pair_keys.size == 0
    # The groups, in order: NLL by label, confidence by bin; weight by label, of hits by label, by prediction, by bin,
    # of hits by bin, by rank, by label and score.
    weight_group = n_classes + n_bins
    bin_group = weight_group + 3 * n_classes
    top_group = bin_group + 2 * n_bins
    score_group = top_group + tops.size
    weighted = weights.size > 0
    block = np.empty((N_SUMS, BLOCK))
    i = start
    while i < stop:
        limit = min(i + BLOCK, stop)
        n = 0
        while i < limit:
            # One more row certainly fits: the table of pairs stays half empty, and every group of a row may spill.
            if 2 * counts[PAIRS_USED] >= pair_keys.size > 0 or counts[SPILL_USED] + 8 + tops.size > spill.shape[0]:
                break
            rank = ranks[i]
            if rank < 0:
                counts[IGNORED if rank == -1 else INVALID] += 1
                i += 1
                continue
            nll = nlls[i]
            confidence = confidences[i]
            label = np.int64(-1)
            s = weights[i] if weighted else 1.0
            r = s * nll
            block[R, n] = r
            block[ENTROPY, n] = s * entropies[i]
            block[CONFIDENCE, n] = s * confidence
            block[BRIER, n] = s * briers[i]
            if n_classes > 0:
                label = labels[i]
                predicted = predictions[i]
                hit = 1 if rank == 0 else 0
                if dense:
                    pair_rows[label * n_classes + predicted] += 1
                else:
                    class_rows[label, 0] += 1
                    class_rows[label, 1] += hit
                    class_rows[predicted, 2] += 1
                    if hit == 0:
                        _count_pair(counts, pair_keys, pair_rows, label * n_classes + predicted, 1)
                rank_rows[min(rank, rank_rows.size - 1)] += 1
                k = confidence_bin(confidence, edges)
                bin_rows[k, hit] += 1
                _add_to_group(counts, slots, spill_index, spill, label, r)
                _add_to_group(counts, slots, spill_index, spill, n_classes + k, s * confidence)
                if weighted:
                    _add_to_group(counts, slots, spill_index, spill, weight_group + label, s)
                    _add_to_group(counts, slots, spill_index, spill, weight_group + 2 * n_classes + predicted, s)
                    _add_to_group(counts, slots, spill_index, spill, bin_group + k, s)
                    if hit == 1:
                        _add_to_group(counts, slots, spill_index, spill, weight_group + n_classes + label, s)
                        _add_to_group(counts, slots, spill_index, spill, bin_group + n_bins + k, s)
                    for j in range(tops.size):
                        if rank < tops[j]:
                            _add_to_group(counts, slots, spill_index, spill, top_group + j, s)
                if n_classes == 2:
                    k = score_bin(confidence, predicted)
                    score_rows[label, k] += 1
                    if weighted:
                        _add_to_group(counts, slots, spill_index, spill, score_group + label * N_SCORES + k, s)
            if weighted:
                block[S, n] = s
                block[HITS, n] = s if rank == 0 else 0.0
            nll_rows[nll_bin(nll)] += 1
            row_id = ids[i] if ids.size > 0 else first_id + i
            _note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label)
            n += 1
            i += 1
        counts[KEPT] += n
        _add_columns(borrowed(tally.sums), borrowed(block), n, weighted)
        if i < limit:
            return i
    return i


@inline
def add_counts(into, more):
    """Add counts of one shape. A loop: the message of a failed array assignment would bring in libm's log10."""
    a, b = into.reshape(-1), more.reshape(-1)
    for j in range(a.size):
        a[j] += b[j]


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
                _count_pair(counts, pair_keys, pair_rows, other.pair_keys[k] - 1, other.pair_rows[k])
    worst_nll, worst_id, worst_label = into.worst_nll, into.worst_id, into.worst_label
    for j in range(more[WORST_USED]):
        nll, row_id, label = other.worst_nll[j], other.worst_id[j], other.worst_label[j]
        _note_worst(counts, worst_nll, worst_id, worst_label, nll, row_id, label)


@compiled
def merge_groups(counts, slots, spill_index, spill, more_slots, more_index, more_spill):
    """Add grouped sums, as many as there are of them, to the first groups."""
    for group in range(more_slots.shape[0]):
        compact_sum_merge(slots[group], more_slots[group])
        index = more_index[group]
        if index != 0:
            if spill_index[group] == 0:
                counts[SPILL_USED] += 1
                spill_index[group] = counts[SPILL_USED]
            exact_sum_merge(spill[spill_index[group] - 1], more_spill[index - 1])


@compiled
def rehash(pair_keys, pair_rows, more_keys, more_rows):
    """Move pairs into a larger, empty table."""
    for k in range(more_keys.size):
        if more_keys[k] != 0:
            slot = _pair_slot(pair_keys, more_keys[k])
            pair_keys[slot] = more_keys[k]
            pair_rows[slot] = more_rows[k]


@compiled
def weigh_counts(slots, first, rows):
    """Add numbers of rows, as weights of 1.0 each, to the grouped sums first, first + 1, ..."""
    for k in range(rows.size):
        rest = rows[k]
        while rest > 0:  # in parts that a compact sum can hold
            part = min(rest, np.int64(1) << 33)
            compact_sum_add(slots[first + k], np.float64(part))
            rest -= part


@compiled
def group_values(slots, spill_index, spill, first, out):
    """The correctly rounded sums of the groups first, first + 1, ... into out (float64)."""
    state = np.empty(STATE_SIZE, np.int64)
    for k in range(out.size):
        group_state(slots, spill_index, spill, first + k, state)
        out[k] = exact_sum_value(state)


@compiled
def group_state(slots, spill_index, spill, group, state):
    """One group's sum as a full state (overwritten)."""
    state[:] = 0
    compact_sum_into(state, slots[group])
    index = spill_index[group]
    if index != 0:
        exact_sum_merge(state, spill[index - 1])


@compiled
def prior_nll(weights, total):
    """The mean NLL (nats) of predicting each class with its frequency: the exact sum of (w / total) ln(total / w)."""
    state = np.zeros(STATE_SIZE, np.int64)
    for k in range(weights.size):
        w = weights[k]
        if w > 0.0:
            exact_sum_add(state, w / total * log1p((total - w) / w))  # keeps its accuracy where w is nearly all
    return exact_sum_value(state)
