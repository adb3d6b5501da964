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
    key_bits, n = 0, counts[PAIRS_USED]
    while (n_classes * n_classes - 1) >> key_bits > 0:
        key_bits += 1
    for i in range(counts[PAIRS_USED]):
        n += pair_rows[i] >> (62 - key_bits)
    none = np.empty((0, 3), np.int64)
    pairs, _, n = _sorted(counts, pair_keys, pair_rows, none, key_bits, np.empty(n, np.int64), np.empty(n, np.int64))
    counts[PAIRS_USED] = _join(pairs, n, key_bits, pair_keys, pair_rows)


def sorted_pairs(counts, pair_keys, pair_rows, class_rows):
    """The pairs that occur, by label, then by prediction: labels, predictions and rows, int64[n] each."""
    key_bits = (len(class_rows) ** 2 - 1).bit_length()
    n = int(counts[PAIRS_USED]) + len(class_rows) + (int(class_rows[:, 0].sum()) >> (62 - key_bits))
    room = np.empty((3, n), np.int64)  # NumPy asks for large pages: small ones take as long as the sort
    return _sorted_pairs(counts, pair_keys, pair_rows, class_rows, key_bits, room)


@compiled
def _sorted_pairs(counts, pair_keys, pair_rows, class_rows, key_bits, room):
    n_classes, of_pair, label = class_rows.shape[0], room[2], 0
    predictions, labels, n = _sorted(counts, pair_keys, pair_rows, class_rows, key_bits, room[0], room[1])
    n = _join(predictions, n, key_bits, predictions, of_pair)
    for k in range(n):
        while predictions[k] >= (label + 1) * n_classes:
            label += 1
        labels[k] = label
        predictions[k] -= label * n_classes
    return labels[:n], predictions[:n], of_pair[:n]


@inline
def _sorted(counts, pair_keys, pair_rows, class_rows, key_bits, pairs, spare):
    """The pairs of the list, and right ones, by rising key, and their number; the array that holds them comes first.

    A key and its rows are one number, so that there is half as much to move; what has more rows than that holds becomes
    several. Counting sorts by RADIX_BITS bits at a time, the lowest first.
    """
    n, row_bits = 0, 63 - key_bits
    for i in range(counts[PAIRS_USED]):
        n = _pack(pairs, n, pair_keys[i] << row_bits, pair_rows[i], (1 << row_bits) - 1)
    for k in range(class_rows.shape[0]):
        n = _pack(pairs, n, (k * class_rows.shape[0] + k) << row_bits, class_rows[k, 1], (1 << row_bits) - 1)
    for shift in range(row_bits, 63, RADIX_BITS):
        places = np.zeros((1 << RADIX_BITS) + 1, np.int64)
        for i in range(n):
            places[((pairs[i] >> shift) & RADIX_MASK) + 1] += 1
        for j in range(RADIX_MASK):
            places[j + 1] += places[j]
        for i in range(n):
            j = (pairs[i] >> shift) & RADIX_MASK
            spare[places[j]] = pairs[i]
            places[j] += 1
        pairs, spare = spare, pairs
    return pairs, spare, n


@inline
def _pack(pairs, n, key, rows, most):
    """Append a pair's numbers to the first n."""
    while rows > 0:
        pairs[n] = key | min(rows, most)
        rows -= most
        n += 1
    return n


@inline
def _join(pairs, n, key_bits, keys, rows):
    """The first n sorted pairs as keys and rows, equal keys joined; how many are left. ``keys`` may be ``pairs``."""
    last, before, total = -1, -1, 0
    for i in range(n):
        key, more = pairs[i] >> (63 - key_bits), pairs[i] & ((1 << (63 - key_bits)) - 1)
        total = more + (total if key == before else 0)
        last += key != before
        keys[last], rows[last], before = key, total, key
    return last + 1
