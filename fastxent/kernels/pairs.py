"""The list of wrong (label, predicted) pairs, where there are too many classes for a counter each.

pair_keys[k] = label * C + predicted and pair_rows[k], how many rows: new pairs go to the end of the list, at the speed
of memory; a long list that is full is sorted, and equal pairs become one. Right pairs are counted by class: class_rows,
int64[C, 3], holds the rows with a label, those predicted right, and those predicted as it.
"""

import numpy as np

from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import pointer

PAIRS_USED = 3  # Tally.counts: the length of the list
RADIX_BITS = 10
RADIX_MASK = (1 << RADIX_BITS) - 1


@inline
def count_pairs(counts, class_rows, pair_keys, pair_rows, marked, n):
    """Count the pairs of a block's rows; there is room for as many more."""
    labels, predictions = marked
    n_classes, used = class_rows.shape[0], counts[PAIRS_USED]
    by_class, keys, rows = pointer(class_rows, 0), pointer(pair_keys, 0), pointer(pair_rows, 0)
    for i in range(n):
        label, predicted = labels[i], predictions[i]
        wrong = np.int64(label != predicted)
        by_class[3 * label] += 1
        by_class[3 * label + 1] += 1 - wrong
        by_class[3 * predicted + 2] += 1
        keys[used], rows[used] = label * n_classes + predicted, 1  # overwritten unless it was wrong
        used += wrong
    counts[PAIRS_USED] = used


@inline
def add_pairs(counts, pair_keys, pair_rows, more_keys, more_rows, n):
    """Add the first n of other pairs to the list, which has room for them."""
    used = counts[PAIRS_USED]
    for i in range(n):
        pair_keys[used + i], pair_rows[used + i] = more_keys[i], more_rows[i]
    counts[PAIRS_USED] = used + n


@compiled
def compact_pairs(counts, pair_keys, pair_rows, n_classes):
    """Sort the list and join equal pairs."""
    n = counts[PAIRS_USED]
    keys, rows, _, n = _joined(pair_keys[:n].copy(), pair_rows[:n].copy(), n, n_classes)
    counts[PAIRS_USED] = 0
    add_pairs(counts, pair_keys, pair_rows, keys, rows, n)


@compiled
def sorted_pairs(counts, pair_keys, pair_rows, class_rows):
    """The pairs that occur, by label, then by prediction: labels, predictions and rows, int64[n] each."""
    n, n_classes = counts[PAIRS_USED], class_rows.shape[0]
    keys, rows = np.empty(n + n_classes, np.int64), np.empty(n + n_classes, np.int64)
    for k in range(n):
        keys[k], rows[k] = pair_keys[k], pair_rows[k]
    for k in range(n_classes):
        if class_rows[k, 1] != 0:
            keys[n], rows[n] = k * n_classes + k, class_rows[k, 1]
            n += 1
    keys, rows, labels, n = _joined(keys, rows, n, n_classes)
    label = 0
    for k in range(n):
        while keys[k] >= (label + 1) * n_classes:
            label += 1
        labels[k] = label
        keys[k] -= label * n_classes
    return labels[:n], keys[:n], rows[:n]


@inline
def _joined(keys, rows, n, n_classes):
    """The first n pairs by rising key, equal ones joined; a spare array; how many are left. Overwrites its arguments.

    Counting sorts by RADIX_BITS bits at a time, the lowest first, then neighbours are compared.
    """
    more_keys, more_rows = np.empty(keys.size, np.int64), np.empty(keys.size, np.int64)
    shift = 0
    while (n_classes * n_classes - 1) >> shift > 0:
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
    last = -1
    for i in range(n):
        if last >= 0 and keys[last] == keys[i]:
            rows[last] += rows[i]
        else:
            last += 1
            keys[last], rows[last] = keys[i], rows[i]
    return keys, rows, more_keys, last + 1
