"""Exact sums by group, a block of rows at a time: many small sums for little more than their additions.

With a block's numbers below 2^X, each is split into three parts that are multiples of 2^(X - 43), 2^(X - 87) and
2^(X - 131); the first is at most 2^X, the others half the unit before (as in exactsum.py). Sums of BLOCK such parts are
exact in float64, group by group, and go to the compact sums as integers. What has bits below is added one by one.
"""

import numpy as np

from fastxent.kernels.exactsum import (
    COMPACT_FIRST,
    COMPACT_SIZE,
    MASK,
    STATE_SIZE,
    compact_sum_add,
    compact_sum_into,
    compact_sum_merge,
    exact_sum_add,
    exact_sum_merge,
    exact_sum_value,
)
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, pointer
from fastxent.kernels.simd import bits, from_bits, max_reduce, maximum, splat

BLOCK = 512  # rows: at most 2^9
STRIDE = BLOCK + 8  # from one column to the next: at 4096 bytes they would all share the same lines of the cache
FEW_GROUPS = 512  # with more groups than this their sums cost more than the rows of a block
LEVELS = 3
SPILL_USED = 4  # Tally.counts: how many groups have a spilled sum

# The exponent field of a block's largest number, X + 1022: the third part's unit must be one of a compact sum's limbs
# (of 2^-146 and up), and the first part must end below its last one.
_LIMB_UNIT = 1074 - 32 * COMPACT_FIRST
LEAST_FIELD, MOST_FIELD = 1022 + 131 - _LIMB_UNIT, 1022 + 43 - _LIMB_UNIT + 32 * (COMPACT_SIZE - 2) - 1
MAGNITUDE = (1 << 63) - 1


@inline
def add_to_group(counts, slots, spill_index, spill, group, x):
    """Add x to a group's exact sum. The caller has made room for one more spilled group."""
    if not compact_sum_add(slots[group], x):
        index = spill_index[group]
        if index == 0:
            counts[SPILL_USED] += 1
            index = counts[SPILL_USED]
            spill_index[group] = index
        exact_sum_add(spill[index - 1], x)


@inline
def largest_magnitude(block, column, n):
    """The largest of |x| in a column, as its bits: above infinity's where there is a NaN."""
    p = pointer(block, column * STRIDE)
    largest = splat(np.int64(0))
    for i in range(0, n - n % 8, 8):
        largest = maximum(largest, bits(load(p, i)) & MAGNITUDE)
    most = max_reduce(largest)
    for i in range(n - n % 8, n):
        most = max(most, bits(p[i]) & MAGNITUDE)
    return most


@inline
def bases_of(block, column, n):
    """What to split a column's numbers with; and whether that can be: none is huge, infinite or a NaN."""
    field = max(largest_magnitude(block, column, n) >> 52, LEAST_FIELD)
    fits = field <= MOST_FIELD
    field = min(field, MOST_FIELD)
    half = np.int64(1) << 51  # of the bases, each 1.5 times a power of two
    return (
        from_bits(((field + 10) << 52) | half),
        from_bits(((field - 34) << 52) | half),
        from_bits(((field - 78) << 52) | half),
        field,
    ), fits


@inline
def split(x, bases):
    """The three parts of x, and whether they are all of it."""
    base_1, base_2, base_3, _ = bases
    part_1 = (x + base_1) - base_1
    rest = x - part_1
    part_2 = (rest + base_2) - base_2
    rest -= part_2
    part_3 = (rest + base_3) - base_3
    return part_1, part_2, part_3, rest == part_3


@inline
def add_parts(totals, group, parts):
    """Add what `split` returned to a group's totals: a pointer to float64[n, LEVELS + 1]."""
    at = group * (LEVELS + 1)
    totals[at] += parts[0]
    totals[at + 1] += parts[1]
    totals[at + 2] += parts[2]


@inline
def flush(totals, first_total, slots, first, n_groups, bases, state):
    """Move a block's totals to the compact sums of the groups from ``first`` on, and their sum to an exact sum."""
    for level in range(LEVELS):
        position = bases[3] - LEAST_FIELD + 44 * (LEVELS - 1 - level)  # the unit of this level, in bits above a limb's
        per_unit = from_bits((1023 + _LIMB_UNIT - position) << 52)
        total = 0.0
        for group in range(n_groups):
            part = totals[first_total + group, level]
            if part != 0.0:
                totals[first_total + group, level] = 0.0
                total += part
                _add_units(slots[first + group], np.int64(part * per_unit), position)
        exact_sum_add(state, total)


@inline
def _add_units(slots, units, position):
    """Add units·2^position, in units of the first limb, to a compact sum; |units| <= 2^53."""
    k, shift = position >> 5, position & 31
    low, high = (units & MASK) << shift, (units >> 32) << shift
    limb = slots[k] + (low & MASK)
    slots[k] = limb & MASK
    limb = slots[k + 1] + (low >> 32) + high + (limb >> 32)
    slots[k + 1] = limb & MASK
    slots[k + 2] += limb >> 32


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
