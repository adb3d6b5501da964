"""Exact sums by group, a block of rows at a time: many small sums for little more than their additions.

Numbers below 2^e in magnitude are split in two by adding 1.5·2^(e + 1), whose last bit is 2^(e - 51), and then, to what
was rounded off, 1.5·2^(e - 51): a sum's low bits are the part as a whole number of units. Whole numbers add up exactly,
group by group, for FLUSH_ROWS rows; then they go to the compact or full sums. What has bits below 2^(e - 103), or is
too large, goes there by itself.
"""

import numpy as np

from fastxent.kernels.exactsum import (
    COMPACT_FIRST,
    MASK,
    STATE_SIZE,
    compact_sum_add,
    compact_sum_into,
    compact_sum_merge,
    exact_sum_add,
    exact_sum_merge,
    exact_sum_normalise,
    exact_sum_value,
)
from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, offset, store
from fastxent.kernels.simd import add_reduce, any_lane, bits, from_bits, splat

BLOCK = 256  # rows: their figures stay in the first-level cache
STRIDE = BLOCK + 24  # from one column to the next: vectors are stored past the last row
FEW_GROUPS = 512  # with more groups than this their sums cost more than the rows of a block
FLUSH_ROWS = 2048  # of at most 2^51 units each, so that sums of sums fit as well
SPILL_USED = 4  # Tally.counts: how many groups have a spilled sum

# Grouped sums split numbers below 2^GROUP_TOP: NLL, entropies and shares.
GROUP_TOP = 10
_LIMB_UNIT = 1074 - 32 * COMPACT_FIRST  # a compact sum's first limb counts 2^-_LIMB_UNIT
_HALF_RANGE = 1 << 51


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
def fixed_bases(top):
    """What to split numbers below 2^top with, and the bits of the first."""
    half = np.int64(1) << 51
    high = from_bits(((top + 1024) << 52) | half)
    return high, from_bits(((top + 972) << 52) | half), bits(high)


@inline
def fixed_parts(x, bases):
    """Two whole numbers that make up x, in units of 2^(top - 51) and 2^(top - 103); then 0 unless x does not fit."""
    high_base, low_base, high_bits = bases
    high = x + high_base
    rest = x - (high - high_base)
    low = rest + low_base
    units = bits(high) - high_bits
    return units, bits(low) - bits(low_base), ((units + _HALF_RANGE) >> 52) | bits(rest - (low - low_base))


@inline
def fixed_columns(p, n, top, high_parts, low_parts):
    """The sums of both parts of n numbers (zeros follow the last), and every part by itself.

    Last come whether all numbers fit, and whether any low part is not 0.
    """
    bases = fixed_bases(top)
    highs, lows, odd, some = splat(np.int64(0)), splat(np.int64(0)), splat(np.int64(0)), splat(np.int64(0))
    for i in range(0, n, 8):
        high, low, misfit = fixed_parts(load(p, i), bases)
        store(high_parts, i, high)
        store(low_parts, i, low)
        highs, lows, odd, some = highs + high, lows + low, odd | misfit, some | low
    return add_reduce(highs), add_reduce(lows), not any_lane(odd != 0), any_lane(some != 0)


@inline
def count_places(table, step, place, n):
    """Count n rows, one in each of the places."""
    for k in range(n):
        table[place[k] * step] += 1


@inline
def add_to_groups(totals, step, place, parts, x, n, fit, grouped, first, shift):
    """Add n numbers, given by both parts and whether all fit and have low ones, to the totals in their places.

    What does not fit goes to the sum of its group, first + (place >> shift), by itself. Totals of three or more words
    count the rows as well.
    """
    (high, low), (fits, some_low) = parts, fit
    if step > 2 and fits:
        for k in range(n):
            at = place[k] * step
            totals[at] += high[k]
            totals[at + 2] += 1
    elif step > 2:
        count_places(offset(totals, 2), step, place, n)
    elif fits:
        for k in range(n):
            totals[place[k] * step] += high[k]
    if fits:
        for k in range(n if some_low else 0):
            totals[place[k] * step + 1] += low[k]
        return
    bases = fixed_bases(GROUP_TOP)
    for k in range(n):
        if fixed_parts(x[k], bases)[2] == 0:
            totals[place[k] * step] += high[k]
            totals[place[k] * step + 1] += low[k]
        else:
            add_to_group(*grouped, first + (place[k] >> shift), x[k])


@compiled
def add_units(state, units, exponent):
    """Add units·2^exponent to an exact sum."""
    exact_sum_add(state, np.float64(units >> 32) * from_bits((exponent + 1055) << 52))
    exact_sum_add(state, np.float64(units & MASK) * from_bits((exponent + 1023) << 52))


@inline
def _add_units(slots, units, position):
    """Add units·2^position, in units of the first limb, to a compact sum; |units| <= 2^62."""
    k, shift = position >> 5, position & 31
    low, high = (units & MASK) << shift, (units >> 32) << shift
    limb = slots[k] + (low & MASK)
    slots[k] = limb & MASK
    limb = slots[k + 1] + (low >> 32) + high + (limb >> 32)
    slots[k + 1] = limb & MASK
    slots[k + 2] += limb >> 32


@compiled
def flush_groups(totals, n, shift, slots, first):
    """Move totals, int64[n, 2 or more]: high and low parts, to the sums of the groups first + (place >> shift)."""
    for place in range(n):
        for level in range(2):
            units = totals[place, level]
            if units != 0:
                totals[place, level] = 0
                _add_units(slots[first + (place >> shift)], units, GROUP_TOP - 51 - 52 * level + _LIMB_UNIT)


@compiled
def merge_groups(counts, slots, spill_index, spill, more_slots, more_index, more_spill):
    """Add grouped sums, as many as there are of them, to the first groups."""
    for group in range(more_slots.shape[0]):
        merge_group(counts, slots, spill_index, spill, group, more_slots, more_index, more_spill, group)


@inline
def merge_group(counts, slots, spill_index, spill, group, more_slots, more_index, more_spill, other):
    """Add one of other grouped sums to one of these."""
    compact_sum_merge(slots[group], more_slots[other])
    index = more_index[other]
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
def group_states(slots, spill_index, spill, first, out):
    """The sums of the groups first, first + 1, ... as full states without carries, into int64[n, STATE_SIZE]."""
    for k in range(out.shape[0]):
        group_state(slots, spill_index, spill, first + k, out[k])
        exact_sum_normalise(out[k])


@compiled
def group_state(slots, spill_index, spill, group, state):
    """One group's sum as a full state (overwritten)."""
    state[:] = 0
    compact_sum_into(state, slots[group])
    index = spill_index[group]
    if index != 0:
        exact_sum_merge(state, spill[index - 1])
