"""Score cards of many groups of rows: rows by group, and each group's tally, of which only words that are not 0 stay.

A group's tally is unpacked into the words of a `Tally`, takes its rows as any other does (`accumulate_chunk`), and is
packed again: thousands of groups take the room of what occurs in them, and the time of their rows. Where a call has
many rows, a group's predictions are copied side by side, and the rest is as without groups. Where it has few, rows'
figures wait as records, a cache line each, until there are enough of them.
"""

import numpy as np

from fastxent.kernels.blocks import CARD, first_view
from fastxent.kernels.groups import BLOCK
from fastxent.kernels.histograms import N_SCORES, score_bin
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import address, load, pointer, prefetch, scratch
from fastxent.kernels.pairs import compact_pairs
from fastxent.kernels.scorecard import (
    BRIER,
    CONFIDENCE,
    ENTROPY,
    N_COLUMNS,
    N_MARKS,
    N_SUMS,
    PAIRS_USED,
    PREDICTED,
    RANK,
    SPILL_USED,
    STRIDE,
    R,
    accumulate_chunk,
    make_rows,
)
from fastxent.kernels.simd import any_lane, bits, from_bits, max_reduce, splat

# A record, int64[RECORD]: NLL, entropy, confidence, Brier score and weight as their bits; label and prediction, 32 bits
# each; the label's rank; the row's id.
RECORD = 8
R_NLL, R_ENTROPY, R_CONFIDENCE, R_BRIER, R_WEIGHT, R_CLASSES, R_RANK, R_ID = range(RECORD)

# Packed words: their place in the tally's words, and their value. A listed pair's place is PAIR_PLACE + its key.
PAIR_PLACE = 1 << 62

# What a row may change among the words that are many: by its label, prediction, both, or label and score.
BY_LABEL, BY_PREDICTED, BY_PAIR, BY_SCORE = range(4)
SCAN_WORDS = 32  # words that are looked through in the time in which those of one row are

GATHERED = 1024  # rows of a group that are put side by side, at most
GATHERED_BYTES = 1 << 18  # of predictions, while that leaves FEW_GATHERED rows
FEW_GATHERED = 32
AHEAD = 16  # rows that are asked for in advance


@compiled
def note_records(
    chunk, like, integers, reals, labels, weights, ids, first_id, refuse_invalid, start, stop, records, report
):
    """Make the figures of rows start .. stop - 1 and write their records, int64[n, RECORD].

    Parameters as those of `accumulate_chunk`; where report[1] is not 0, a row is refused.
    """
    block, marks = scratch(np.float64, N_COLUMNS, STRIDE), scratch(np.int64, N_MARKS, STRIDE)
    sums = np.empty((N_SUMS, 1), np.int64)
    i = start
    while i < stop:
        m = min(BLOCK, stop - i)
        if not make_rows(chunk, like, integers, reals, labels, sums, i, m, block, marks, report):
            return
        for k in range(m):
            rank, label = marks[RANK, k], labels[i + k] if labels.size else -1
            if rank < -1 and refuse_invalid:
                report[0], report[1] = i + k, -1
                return
            p = pointer(records, (i + k) * RECORD)
            p[R_NLL], p[R_ENTROPY] = bits(block[R, k]), bits(block[ENTROPY, k])
            p[R_CONFIDENCE], p[R_BRIER] = bits(block[CONFIDENCE, k]), bits(block[BRIER, k])
            p[R_WEIGHT] = bits(weights[i + k] if weights.size else 1.0)
            p[R_CLASSES] = (marks[PREDICTED, k] << 32) | (label & 0xFFFFFFFF)
            p[R_RANK] = rank
            p[R_ID] = ids[i + k] if ids.size else first_id + i + k
        i += m


@compiled
def place_by_group(codes, first, places, order):
    """Write rows first, first + 1, ... to the places of their groups: order[places[g]], and the next one the next."""
    for i in range(codes.size):
        g = codes[i]
        order[places[g]] = first + i
        places[g] += 1


@compiled
def unpack(places, values, words, tally):
    """Put a group's packed words into a tally that is empty and has room for its pairs."""
    used = 0
    for k in range(places.size):
        if places[k] >= PAIR_PLACE:
            tally.pair_keys[used], tally.pair_rows[used] = places[k] - PAIR_PLACE, values[k]
            used += 1
        else:
            words[places[k]] = values[k]
    tally.counts[PAIRS_USED] = used


@compiled
def clear(places, words, tally):
    """Make a tally empty that holds a group's packed words and nothing else."""
    for k in range(places.size):
        if places[k] < PAIR_PLACE:
            words[places[k]] = 0
    tally.counts[PAIRS_USED] = 0


@compiled
def pack_all(words, n_fixed, spill_size, n_classes, tally, places, values):
    """Move all words of a tally that are not 0 to a packed form, in which it has room. Returns how many there are."""
    n, spilled = _pack_pairs(tally, n_classes, places, values)
    n = _pack_range(words, 0, n_fixed, places, values, n)
    return _pack_range(words, n_fixed, n_fixed + spilled * spill_size, places, values, n)


@inline
def _pack_pairs(tally, n_classes, places, values):
    """Begin with the pairs. Returns how many there are, and of spilled sums."""
    counts, n = tally.counts, 0
    spilled = counts[SPILL_USED]
    if tally.pair_keys.size:
        if counts[PAIRS_USED] > 0:
            compact_pairs(counts, tally.pair_keys, tally.pair_rows, n_classes)
        for k in range(counts[PAIRS_USED]):
            places[n], values[n] = PAIR_PLACE + tally.pair_keys[k], tally.pair_rows[k]
            n += 1
        counts[PAIRS_USED] = 0
    return n, spilled


@inline
def _pack_word(words, w, places, values, n):
    x = words[w]
    if x != 0:
        places[n], values[n], words[w] = w, x, 0
        n += 1
    return n


@inline
def _pack_range(words, start, stop, places, values, n):
    p, q, r = pointer(words, 0), pointer(places, 0), pointer(values, 0)
    w = start
    while w + 8 <= stop:
        if any_lane(load(p, w) != 0):
            for j in range(w, w + 8):
                n = _pack_word(p, j, q, r, n)
        w += 8
    for j in range(w, stop):
        n = _pack_word(p, j, q, r, n)
    return n


@inline
def _pack_touched(words, n_fixed, always, tracks, n_classes, old, records, order, low, high, places, values, n):
    """The same of those words alone that may not be 0: of the group before, and of its new rows."""
    for k in range(always.shape[0]):
        n = _pack_range(words, always[k, 0], always[k, 1], places, values, n)
    for k in range(old.size):
        if old[k] < n_fixed:
            n = _pack_word(words, old[k], places, values, n)
    for i in range(low, high):
        p = pointer(records, order[i] * RECORD)
        if p[R_RANK] < 0:
            continue
        label, predicted = (p[R_CLASSES] << 32) >> 32, p[R_CLASSES] >> 32
        for t in range(tracks.shape[0]):
            by, key = tracks[t, 0], label
            if by == BY_PREDICTED:
                key = predicted
            elif by == BY_PAIR:
                key = label * n_classes + predicted
            elif by == BY_SCORE:
                score = score_bin(splat(from_bits(p[R_CONFIDENCE])), splat(predicted))
                key = label * N_SCORES + max_reduce(score)
            first = tracks[t, 1] + key * tracks[t, 2]
            for w in range(first, first + tracks[t, 2]):
                n = _pack_word(words, w, places, values, n)
    return n


@inline
def _gather_records(records, order, first, m, reals, whole_numbers):
    """The figures, weights, labels and ids of rows order[first : first + m]."""
    for k in range(m):
        if first + k + AHEAD < order.size:
            prefetch(pointer(records, 0), order[first + k + AHEAD] * RECORD)
        p = pointer(records, order[first + k] * RECORD)
        reals[0, k], reals[1, k] = from_bits(p[R_NLL]), from_bits(p[R_ENTROPY])
        reals[2, k], reals[3, k] = from_bits(p[R_CONFIDENCE]), from_bits(p[R_BRIER])
        reals[4, k] = from_bits(p[R_WEIGHT])
        whole_numbers[0, k], whole_numbers[1, k] = p[R_CLASSES] >> 32, p[R_RANK]
        whole_numbers[2, k], whole_numbers[3, k] = (p[R_CLASSES] << 32) >> 32, p[R_ID]


@inline
def _row_address(view, itemsize, i):
    """Where row i of the predictions begins; without a division, which takes as long as a row, where one will do."""
    base, outer, row, _, inner = view
    if i < inner:
        return base + itemsize * row * i
    return base + itemsize * (outer * (i // inner) + row * (i % inner))


@inline
def _gather_rows(view, row_bytes, itemsize, order, first, m, labels, into):
    """The predictions of rows order[first : first + m], side by side; their labels are asked for."""
    target, like, full = into.ctypes.data, np.empty(0, np.uint8), row_bytes >> 3
    last = order.size - 1
    for k in range(m):
        ahead = order[min(first + k + AHEAD, last)]
        q = address(_row_address(view, itemsize, ahead), into)
        prefetch(pointer(labels, ahead), 0)
        prefetch(q, 0)
        for j in range(7, full + 7, 8):
            prefetch(q, min(j, full))
        at, to = _row_address(view, itemsize, order[first + k]), target + k * row_bytes
        p, q = address(at, into), address(to, into)
        for j in range(full):
            q[j] = p[j]
        p, q = address(at, like), address(to, like)
        for j in range(8 * full, row_bytes):
            q[j] = p[j]


@compiled
def add_to_tallies(
    source,
    given,
    records,
    order,
    starts,
    group,
    step,
    hard,
    weighted,
    tops,
    n_classes,
    layout,
    words,
    tally,
    pool,
    segments,
    fresh,
    report,
):
    """Add their rows to the tallies of groups `group`, `group` + `step`, ..., up to the first that lacks room.

    Parameters
    ----------
    source : (chunk, like, integers, reals) as in `accumulate_chunk`, then the predictions' bytes an entry
    given : (labels, weights, ids, first id, whether invalid rows are refused) of the source's rows, as there
    records : int64[n, RECORD] in place of the source, where `chunk` is 0; see `note_records`
    order, starts : the rows of group g are order[starts[g] : starts[g + 1]]
    layout : (words without the spilled sums, ranges of them that are always looked through, int64[A, 2], what else a
        row may change, int64[T, 3]: by what, first word, how many words a key)
    words, tally : an empty tally of the same words, with room for every pair and spilled sum of a group
    pool : (places, values) of all groups
    segments : int64[G, 3]: first in the pool, how many, how many there is room for
    fresh : (places, values) with room for a whole tally
    report : int64[2]: how many words of the group that lacks room are in `fresh`; how much of the pool is in use

    Returns
    -------
    group
        The one that lacks room: its words are in `fresh`. The number of groups, or more, where all had it. -1 where
        a row of the source is refused.
    """
    chunk, like, given_integers, numbers, itemsize = source
    integers = given_integers.copy()
    all_labels, all_weights, all_ids, first_id, refuse_invalid = given
    n_fixed, always, tracks = layout
    (pool_places, pool_values), (places, values) = pool, fresh
    reals, whole_numbers = np.empty((5, GATHERED)), np.empty((4, GATHERED), np.int64)
    labels = whole_numbers[2] if hard else whole_numbers[2, :0]
    ids, weights = whole_numbers[3], reals[4] if weighted else reals[4, :0]
    note, view, most = np.zeros(2, np.int64), first_view(integers), GATHERED
    row_bytes = itemsize * n_classes
    if chunk != 0:
        most = max(FEW_GATHERED, min(GATHERED, GATHERED_BYTES // row_bytes))
    rows = np.empty(1 if chunk == 0 else (most * row_bytes >> 3) + 1, np.int64)
    if chunk != 0:
        integers[0], integers[1], integers[2], integers[3], integers[4] = rows.ctypes.data, 0, n_classes, 1, most
    while group < starts.size - 1:
        low, high = starts[group], starts[group + 1]
        if high > low:
            first, n_old = segments[group, 0], segments[group, 1]
            old = pool_places[first : first + n_old]
            unpack(old, pool_values[first : first + n_old], words, tally)
            for begin in range(low, high, most):
                m = min(most, high - begin)
                if chunk == 0:
                    _gather_records(records, order, begin, m, reals, whole_numbers)
                    for j in range(4):
                        integers[CARD + j] = reals.ctypes.data + 8 * GATHERED * j
                    for j in range(2):
                        integers[CARD + 4 + j] = whole_numbers.ctypes.data + 8 * GATHERED * j
                else:
                    _gather_rows(view, row_bytes, itemsize, order, begin, m, all_labels, rows)
                    for k in range(m):
                        i = order[begin + k]
                        whole_numbers[2, k] = all_labels[i]
                        whole_numbers[3, k] = all_ids[i] if all_ids.size else first_id + i
                        if weighted:
                            reals[4, k] = all_weights[i] if all_weights.size else 1.0
                accumulate_chunk(
                    *(chunk, like, integers, numbers, labels, weights, ids, 0, tops, refuse_invalid, 0, m, tally, note)
                )
                if note[1] != 0:
                    return -1
            n, spilled = _pack_pairs(tally, n_classes, places, values)
            if n_fixed <= SCAN_WORDS * (high - low) or chunk != 0:
                n = _pack_range(words, 0, n_fixed, places, values, n)
            else:
                n = _pack_touched(
                    words, n_fixed, always, tracks, n_classes, old, records, order, low, high, places, values, n
                )
            n = _pack_range(words, n_fixed, n_fixed + spilled * tally.spill.shape[1], places, values, n)
            if n > segments[group, 2]:
                room = n + (n >> 3) + 8
                if report[1] + room > pool_places.size:
                    report[0] = n
                    return group
                first = report[1]
                segments[group, 0], segments[group, 2] = first, room
                report[1] += room
            for k in range(n):
                pool_places[first + k], pool_values[first + k] = places[k], values[k]
            segments[group, 1] = n
        group += step
    return group


@compiled
def number_words(rows, codes, firsts, counts, table):
    """Number rows of words, int64[n, k], by what is in them, in order of appearance. Returns how many differ.

    codes : int64[n], each row's number; firsts, counts : int64[m], for each number its first row, and how many it has
    table : int64[power of two > 2 m], all -1. -1 is returned, and the rest void, where more than m differ.
    """
    n_words, mask, found = rows.shape[1], table.size - 1, 0
    for i in range(rows.shape[0]):
        h = np.int64(0)
        for k in range(n_words):
            h = (h ^ rows[i, k]) * np.int64(-7046029254386353131)
            h ^= (h >> 29) & 0x7FFFFFFFF
        at = h & mask
        while True:
            code = table[at]
            if code < 0:
                if found == firsts.size:
                    return -1
                table[at], firsts[found], counts[found], codes[i] = found, i, 1, found
                found += 1
                break
            same = True
            for k in range(n_words):
                same = same and rows[firsts[code], k] == rows[i, k]
            if same:
                codes[i] = code
                counts[code] += 1
                break
            at = (at + 1) & mask
    return found
