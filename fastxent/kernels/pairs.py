"""The table of wrong (label, predicted) pairs, where there are too many classes for a counter each.

Open addressing in a power of two slots, half of them free: pair_keys[k] = 1 + label * C + predicted, 0 for a free slot,
and pair_rows[k] how many rows. Right pairs are counted by class: class_rows, int64[C, 3], holds the rows with a label,
those predicted right, and those predicted as it.
"""

import numpy as np

from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import pointer, prefetch

PAIRS_USED = 3  # Tally.counts: the slots that are not free
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing
RADIX_BITS = 10
RADIX_MASK = (1 << RADIX_BITS) - 1


@inline
def _pair_place(key, mask):
    """Where the search for a pair begins."""
    return np.int64((np.uint64(key) * GOLDEN) >> np.uint64(32)) & mask


@inline
def _pair_slot(keys, key):
    """Where a pair is or belongs in the open-addressing table: a power of two slots, some of them free."""
    mask = keys.size - 1
    k = _pair_place(key, mask)
    while keys[k] != 0 and keys[k] != key:
        k = (k + 1) & mask
    return k


@inline
def count_pair(counts, pair_keys, pair_rows, key, rows):
    """Count rows of one wrong pair in the table; key = label * C + predicted."""
    k = _pair_slot(pair_keys, key + 1)
    if pair_keys[k] == 0:
        pair_keys[k] = key + 1
        counts[PAIRS_USED] += 1
    pair_rows[k] += rows


@inline
def count_pairs(counts, class_rows, pair_keys, pair_rows, marked, n):
    """Count the pairs of a block's rows. Their places in the table are asked for first, all at once."""
    labels, predictions = marked
    n_classes, mask = class_rows.shape[0], pair_keys.size - 1
    for i in range(n):
        place = _pair_place(labels[i] * n_classes + predictions[i] + 1, mask)
        prefetch(pointer(pair_keys, place), 0)
        prefetch(pointer(pair_rows, place), 0)
    for i in range(n):
        label, predicted = labels[i], predictions[i]
        class_rows[label, 0] += 1
        class_rows[predicted, 2] += 1
        if label == predicted:
            class_rows[label, 1] += 1
        else:
            count_pair(counts, pair_keys, pair_rows, label * n_classes + predicted, 1)


@compiled
def rehash(pair_keys, pair_rows, more_keys, more_rows):
    """Move pairs into a larger, empty table."""
    for k in range(more_keys.size):
        if more_keys[k] != 0:
            slot = _pair_slot(pair_keys, more_keys[k])
            pair_keys[slot] = more_keys[k]
            pair_rows[slot] = more_rows[k]


@compiled
def sorted_pairs(pair_keys, pair_rows, class_rows):
    """The pairs that occur, as label * C + predicted in rising order, and their rows: int64[n] each."""
    n_classes, n = class_rows.shape[0], 0
    for k in range(pair_keys.size):
        n += 1 if pair_keys[k] != 0 else 0
    keys, rows = np.empty(n + n_classes + 1, np.int64), np.empty(n + n_classes + 1, np.int64)
    n = 0
    for k in range(pair_keys.size):
        keys[n] = k
        n += 1 if pair_keys[k] != 0 else 0
    for i in range(n):
        k = keys[i]
        keys[i], rows[i] = pair_keys[k] - 1, pair_rows[k]
    for k in range(n_classes):
        if class_rows[k, 1] != 0:
            keys[n], rows[n] = k * n_classes + k, class_rows[k, 1]
            n += 1
    keys, rows = keys[:n], rows[:n]
    more_keys, more_rows = np.empty(n, np.int64), np.empty(n, np.int64)
    shift = 0
    while (n_classes * n_classes - 1) >> shift > 0:  # counting sorts by RADIX_BITS bits at a time, the lowest first
        places = np.zeros((1 << RADIX_BITS) + 1, np.int64)
        for i in range(n):
            places[((keys[i] >> shift) & RADIX_MASK) + 1] += 1
        for j in range(RADIX_MASK):
            places[j + 1] += places[j]
        for i in range(n):
            j = (keys[i] >> shift) & RADIX_MASK
            more_keys[places[j]], more_rows[places[j]] = keys[i], rows[i]
            places[j] += 1
        keys, more_keys, rows, more_rows = more_keys, keys, more_rows, rows
        shift += RADIX_BITS
    return keys, rows
