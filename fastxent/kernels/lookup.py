"""Labels -> class indices: strings of one width by a hash table, rows of an indicator matrix by their 1."""

import numpy as np

from fastxent.kernels.blocks import KIND, LABEL, N, first_view, refuse, strided
from fastxent.kernels.jit import chunk, compiled, inline
from fastxent.kernels.memory import load_some, offset
from fastxent.kernels.simd import add_reduce, any_lane, bits, first_lanes, lane_numbers, select, splat

COUNT = 1 << 40  # a 1 counts so much, and its place besides


@compiled
def find_words(words, known, factors, table, found):
    """The index among ``known`` of every label, or -1, to ``found``: int64[n].

    Labels are ``factors.size`` words each, one after the other, and so are the known ones, which are distinct. A
    label's hash is the sum of its words times odd uint64 factors, of which the last bits count for nothing; ``table``
    has room for some times as many entries, int64, a power of two, as there are known ones.
    """
    width, size, unused = factors.size, table.size, np.uint64(64)
    while size >> (64 - np.int64(unused)) > 1:
        unused -= np.uint64(1)
    table[:] = -1
    for k in range(known.size // width):
        slot = _first_slot(known, k * width, factors, unused)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = k
    for i in range(found.size):
        slot = _first_slot(words, i * width, factors, unused)
        k = table[slot]
        while k >= 0 and not _equal(words, i * width, known, k * width, width):
            slot = (slot + 1) & (size - 1)
            k = table[slot]
        found[i] = k


@inline
def _first_slot(words, start, factors, unused):
    total = np.uint64(0)
    for j in range(factors.size):
        total += np.uint64(words[start + j]) * factors[j]
    return np.int64(total >> unused)


@inline
def _equal(a, i, b, k, width):
    different = 0
    for j in range(width):
        different |= np.int64(a[i + j]) ^ np.int64(b[k + j])
    return different == 0


@chunk
def indicated_rows(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """A chunk function (chunks.py): the place of each row's 1 to ``labels``, where all else is 0.

    Numbers are compared by their bits; those of 1 are the call's KIND. The first other row is refused.
    """
    view, n, one = first_view(integers), integers[N], integers[KIND]
    p, zero = strided(view, like, start), splat(np.int64(0))
    for i in range(stop - start):
        row, total, strange = offset(p, i * view[2]), zero, zero < 0
        for j in range(0, n, 8):
            b = bits(load_some(row, j, first_lanes(n - j, zero), 0.0))
            total = total + select(b == one, lane_numbers(zero) + (COUNT + j), 0)
            strange = strange | ((b != one) & (b != 0))
        place = add_reduce(total) - COUNT
        if any_lane(strange) or not 0 <= place < COUNT:
            return refuse(report, start + i, LABEL)
        labels[start + i] = place
