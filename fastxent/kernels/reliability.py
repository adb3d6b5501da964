"""Rows by confidence: how many there are, how many of them are right, and what their confidences add up to.

Confidences are multiples of 2^-41 (card_finish.py), so that without weights they add up as whole numbers.
"""

import numpy as np

from fastxent.kernels.exactsum import exact_sum_add
from fastxent.kernels.groups import fixed_bases
from fastxent.kernels.histograms import confidence_bin
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load_some, pointer, scratch, store
from fastxent.kernels.simd import add_reduce, bits, first_lanes, select, splat

UNIT_BITS = 41  # a confidence counts units of 2^-41
BLOCK = 256
WEIGHT, HITS, CONFIDENCE, N_SUMS = range(4)  # exact sums a bin, with weights

_ROWS_BIT = 53  # where a word counts rows, above the sum of their confidences: fewer than 2048 of them


@inline
def _flush(words, rows, units):
    """Move what rows added to the counts and sums of their bins."""
    for place in range(2 * rows.shape[0]):
        for k in range(2):
            word = words[2 * place + k]
            rows[place >> 1, place & 1] += word >> _ROWS_BIT
            units[place >> 1] += word & ((1 << _ROWS_BIT) - 1)
            words[2 * place + k] = 0


@compiled
def fold_confidences(confidence, ranks, weights, tops, rows, units, top_rows, sums):
    """Add rows to the bins.

    Parameters
    ----------
    confidence, ranks : float64[n]; at most 2^20 rows
    weights : float64[n], or float64[0]
    tops : int64[K]: the k of top-k accuracy
    rows : int64[B, 2]: rows by bin, wrong and right
    units : int64[B]: the sums of their confidences, without weights
    top_rows : int64[K]: rows whose rank is below k
    sums : int64[N_SUMS B + K, STATE_SIZE], exact sums with weights: N_SUMS a bin, then for each k; or without rows
    """
    n_bins, weighted, n = rows.shape[0], weights.size > 0, confidence.size
    places, values = pointer(scratch(np.int64, 0, BLOCK), 0), pointer(scratch(np.int64, 0, BLOCK), 0)
    words = np.zeros(4 * n_bins, np.int64)  # two a bin for wrong and for right rows: additions to one would wait
    q, rank, w = pointer(confidence, 0), pointer(ranks, 0), pointer(words, 0)
    high, _, high_bits = fixed_bases(np.int64(51 - UNIT_BITS))
    pending = 0
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        for k in range(0, m, 8):
            here = first_lanes(m - k, splat(0.0))
            share, place = load_some(q, start + k, here, 0.0), load_some(rank, start + k, here, 1.0)
            right = select(place == 0.0, splat(np.int64(2)), 0)
            store(places, k, (confidence_bin(share, n_bins) << 2) | right)
            store(values, k, (bits(share + high) - high_bits) + (1 << _ROWS_BIT))
        for k in range(m):
            w[places[k] | (k & 1)] += values[k]
        pending += m
        if pending + BLOCK > 2047:
            pending = 0
            _flush(words, rows, units)
        for t in range(tops.size):
            count, top = splat(0.0), np.float64(tops[t])
            for k in range(0, m, 8):
                r = load_some(rank, start + k, first_lanes(m - k, splat(0.0)), top)
                count = count + select(r < top, splat(1.0), 0.0)
            top_rows[t] += np.int64(add_reduce(count))
        for k in range(m if weighted else 0):
            s, b = weights[start + k], places[k] >> 2
            exact_sum_add(sums[N_SUMS * b + WEIGHT], s)
            exact_sum_add(sums[N_SUMS * b + CONFIDENCE], s * q[start + k])
            if places[k] & 2:
                exact_sum_add(sums[N_SUMS * b + HITS], s)
            for t in range(tops.size):
                if rank[start + k] < tops[t]:
                    exact_sum_add(sums[N_SUMS * n_bins + t], s)
    _flush(words, rows, units)
