"""Poisson bootstrap: sums of rows' figures, each row times its count in each of B replicates.

A replicate's count of a row is a function of (seed, row, replicate) alone, the figures are rounded to a fixed grid
before they are multiplied, and what is added up is whole numbers. So the sums have the same bits for any order of the
rows and any cut. Binned rows cannot be drawn in place of single ones: a bin's sum of gaps varies as the squares of its
rows' gaps do, which a count and a mean do not tell.

A figure x of level L is the whole number x 2^(32 - 8L); level L takes rows of weights from 2^(8L - 4) up to 2^(8L + 4),
so that 1 is in the middle of level 0. A row's NLL, times its weight, from 2^(8L + 10) nats on goes to a higher one.
Rounding moves a figure by at most 2^-29 times the row's weight (2^-33 without weights), or a NLL so large by 2^-35 of
itself.

Chamandy, Muralidharan, Najmi, Naidu: Estimating uncertainty for massive data streams (2012).
Hanley, MacGibbon: Creating non-parametric bootstrap samples using Poisson frequencies, Computer Methods and Programs in
Biomedicine 83 (2006).
"""

import math

import numpy as np

from fastxent.kernels.histograms import confidence_bin
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, load_double, pointer, scratch, store
from fastxent.kernels.philox import WORD, philox, poisson, together
from fastxent.kernels.simd import bits, fma, from_bits, lane_numbers, max_reduce, splat

STRIP = 32  # replicates at a time
BLOCK = 32  # pairs of rows whose counts are drawn before they are used: 8 KiB of them
COUNTS = 2 * BLOCK * STRIP
FLUSH = 1024  # pairs of rows after which whole numbers move to the sums

# A column of counts holds four of them, of 14 bits: 2 FLUSH rows, 7 times each, stay below. Figures are below 2^42, so
# that 64 rows, 7 times each, stay below 2^51; those that go to bins below 2^36, so that 2 FLUSH rows do.
FIELD_BITS, FIELDS = 14, 4
LEVEL_BITS, UNIT_BITS, MOST_BITS = 8, 32, 10
LOWEST_LEVEL = -120  # of weights below 2^-964 fewer bits count
NO_LEVEL = 1 << 10

NLL, BRIER, ENTROPY, WEIGHT, HITS = range(5)  # columns of sums; then one a k of top-k, then the bins' gaps

_WHOLE = 1.5 * 2.0**52  # adding it rounds to a whole number and leaves that in the low bits


@inline
def _exponent(x):
    """floor(log2 x) of a normal x > 0."""
    return (bits(x) >> 52) - 1023


@inline
def _unit(x, level):
    """The whole number for x at a level."""
    return (x * from_bits((1023 + UNIT_BITS - LEVEL_BITS * level) << 52) + _WHOLE) - _WHOLE


@inline
def _field(k):
    """One row more in the k-th count."""
    return np.float64(1 << (FIELD_BITS * (k % FIELDS)))


@compiled
def prepare(level, rows, weights, hard, n_bins, tops, first_row, positions, pairs, columns, gaps, places, n_counted):
    """The figures of one level of some rows, in pairs: (pairs with any, the next level that occurs or NO_LEVEL).

    Parameters
    ----------
    level : int64; below LOWEST_LEVEL: none, to learn which is first
    rows : the six arrays of a score card's rows
    weights : float64[n], or float64[0]
    hard : whether ranks tell hits
    n_bins, tops : the bins of confidence; int64[K], the k of top-k accuracy, with 1
    first_row : the position of rows[0] in the whole
    positions : int64[n], what is drawn for instead, such as a cluster's number for each of its rows; or int64[0]
    pairs : int64[P]: for each pair with figures, half the position of its first row
    columns : float64[M, 2P]: columns of counts, then figures
    gaps, places : float64[2P], int64[2P]: hit minus confidence, and the bin that it goes to
    n_counted : columns of counts
    """
    nll, entropy, confidence, brier, _, rank = rows
    n, weighted, used, next_level = nll.size, weights.size > 0, -1, NO_LEVEL
    last = np.int64(0)
    for i in range(n):
        if rank[i] < 0:
            continue
        s = weights[i] if weighted else 1.0
        if s == 0.0:
            continue
        own = max((_exponent(s) + LEVEL_BITS // 2) // LEVEL_BITS, LOWEST_LEVEL)
        loss, infinite = s * nll[i], False
        if not loss < math.inf:
            loss, infinite = 0.0, True
        of_loss = max(own, (_exponent(loss) - MOST_BITS) // LEVEL_BITS + 1)
        if own > level:
            next_level = min(next_level, own)
        if of_loss > level:
            next_level = min(next_level, of_loss)
        if own != level and of_loss != level:
            continue
        position = positions[i] if positions.size > 0 else first_row + i
        if used < 0 or pairs[used] != position >> 1 or position & 1 <= last:
            used += 1
            pairs[used] = position >> 1
            for k in range(2 * used, 2 * used + 2):
                for c in range(columns.shape[0]):
                    columns[c, k] = 0.0
                gaps[k], places[k] = 0.0, 0
        last = position & 1
        k = 2 * used + last
        if of_loss == level:
            columns[n_counted + NLL, k] = _unit(loss, level)
        if own != level:
            continue
        columns[n_counted + BRIER, k] = _unit(s * brier[i], level)
        columns[n_counted + ENTROPY, k] = _unit(s * entropy[i], level)
        share = 1.0 if hard and rank[i] == 0 else 0.0
        gaps[k] = _unit(s * (share - confidence[i]), level)
        if hard:
            places[k] = max_reduce(confidence_bin(splat(confidence[i]), n_bins))
        if infinite:
            columns[0, k] += _field(1)
        if weighted:
            columns[n_counted + WEIGHT, k] = _unit(s, level)
            for t in range(tops.size if hard else 0):
                if rank[i] < tops[t]:
                    columns[n_counted + HITS + t, k] = _unit(s, level)
        else:
            columns[0, k] += 1.0
            for t in range(tops.size if hard else 0):
                if rank[i] < tops[t]:
                    columns[(t + 2) // FIELDS, k] += _field(t + 2)
    return used + 1, next_level


@inline
def _draw(p, strip, seed, pairs, start, stop):
    """The counts of pairs of rows in a strip's replicates, to p: STRIP of the first row, STRIP of the second, ..."""
    number = lane_numbers(splat(np.int64(0))) + 8 * strip
    zero = splat(np.int64(0))
    for k in range(start, stop):
        pair, at = pairs[k], 2 * STRIP * (k - start)
        a, b, c, d = philox(number, zero + pair, zero + (pair >> 32), zero, seed, seed >> 32)
        for half in range(2):
            u = together(a, b) if half == 0 else together(c, d)
            store(p, at + 16 * half, poisson(u & 0xFFFF))
            store(p, at + STRIP + 16 * half, poisson((u >> 16) & 0xFFFF))


@inline
def _add_whole(parts, i, x):
    """Add a vector of float64 whole numbers below 2^51 to int64."""
    store(parts, i, load(parts, i) + (bits(x + _WHOLE) - bits(splat(_WHOLE))))


@inline
def _add_four(w, m, columns, wide, at, parts):
    """Add m rows' figures of four columns, times the rows' counts, to the parts of these columns."""
    for v in range(0, STRIP, 8):
        a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for k in range(m):
            count = load_double(w, STRIP * k + v)
            a = fma(count, columns[at + k], a)
            b = fma(count, columns[wide + at + k], b)
            c = fma(count, columns[2 * wide + at + k], c)
            d = fma(count, columns[3 * wide + at + k], d)
        _add_whole(parts, v, a)
        _add_whole(parts, STRIP + v, b)
        _add_whole(parts, 2 * STRIP + v, c)
        _add_whole(parts, 3 * STRIP + v, d)


@inline
def _add_gaps(w, m, gaps, places, at, by_bin):
    """Add m rows' gaps, times the rows' counts, to those of their bins."""
    for k in range(m):
        gap, place = gaps[at + k], STRIP * places[at + k]
        for v in range(0, STRIP, 8):
            store(by_bin, place + v, fma(load_double(w, STRIP * k + v), gap, load(by_bin, place + v)))


@inline
def _carry(low, high, x):
    """Add a whole number to a sum of two words, the lower one from 0 to 2^32 - 1."""
    total = low + x
    return total & WORD, high + (total >> 32)


@compiled
def replicate(first_strip, last_strip, seed, pairs, n_pairs, columns, gaps, places, n_counted, counts, low, high):
    """Add the figures of pairs of rows to the sums of the replicates of some strips.

    Parameters
    ----------
    first_strip, last_strip : strips of 32 replicates, the last one exclusive
    seed : int64, the key
    pairs, columns, gaps, places, n_counted : what `prepare` made; the number of columns divides by four
    counts : int64[fields, B]
    low, high : int64[R, B]: low + 2^32 high is the sum of a column, or of a bin's gaps (the last ones)
    """
    w = pointer(scratch(np.float32, 0, COUNTS), 0)
    n_columns, wide, n_sums = columns.shape[0], columns.shape[1], low.shape[0]
    n_gaps = n_sums - (HITS + counts.shape[0] - 2)
    parts, by_bin = np.zeros((n_columns, STRIP), np.int64), np.zeros((n_gaps, STRIP))
    for strip in range(first_strip, last_strip):
        for start in range(0, n_pairs, FLUSH):
            for block in range(start, min(start + FLUSH, n_pairs), BLOCK):
                stop = min(block + BLOCK, start + FLUSH, n_pairs)
                _draw(w, strip, seed, pointer(pairs, 0), block, stop)
                m, at = 2 * (stop - block), 2 * block
                for c in range(0, n_columns, 4):
                    _add_four(w, m, pointer(columns, c * wide), wide, at, pointer(parts, c * STRIP))
                _add_gaps(w, m, pointer(gaps, 0), pointer(places, 0), at, pointer(by_bin, 0))
            for r in range(STRIP):
                b = strip * STRIP + r
                for field in range(min(counts.shape[0], FIELDS * n_counted)):
                    shift = FIELD_BITS * (field % FIELDS)
                    counts[field, b] += (parts[field // FIELDS, r] >> shift) & ((1 << FIELD_BITS) - 1)
                for c in range(n_counted, min(n_columns, n_counted + n_sums - n_gaps)):
                    j = c - n_counted
                    low[j, b], high[j, b] = _carry(low[j, b], high[j, b], parts[c, r])
                for k in range(n_gaps):
                    j = n_sums - n_gaps + k
                    low[j, b], high[j, b] = _carry(low[j, b], high[j, b], np.int64(by_bin[k, r]))
                    by_bin[k, r] = 0.0
                for c in range(n_columns):
                    parts[c, r] = 0
