"""The exact, order-free, mergeable sum of float64 numbers.

A state is a plain int64 array of STATE_SIZE slots (or such a row of a larger array); zeros are the empty sum. It holds
the exact sum, a multiple of 2^-1074, as limbs of 32 bits in 64-bit slots (a "small superaccumulator": R. M. Neal, Fast
exact summation using small and large superaccumulators, arXiv:1505.05571), and counts of the infinities and NaNs met.
Integer addition is associative, so adding and merging in any order give the same number, and exact_sum_value rounds it
once: it equals math.fsum bit for bit, without fsum's overflow on the way.

Capacity: any number of additions and merges up to 2^60; carries are propagated before a slot could overflow.
"""

import fractions

import numpy as np

from fastxent.kernels.jit import compiled, inline, part
from fastxent.kernels.memory import load, load_some, offset, pointer
from fastxent.kernels.simd import add_reduce, any_lane, bits, first_lanes, fma, from_bits, splat

# Limb k counts units of 2^(32k - 1074). The largest float64 touches limb 65; two more take 2^60 additions' carries.
N_LIMBS = 68
PENDING = N_LIMBS  # bound: every slot's magnitude is at most (PENDING + 1) * 2^32
POS_INF = N_LIMBS + 1
NEG_INF = N_LIMBS + 2
NANS = N_LIMBS + 3
STATE_SIZE = N_LIMBS + 4
CAPACITY = 1 << 29  # additions between two carry propagations

MASK = 0xFFFFFFFF
MANTISSA = (1 << 52) - 1
HIDDEN = 1 << 52
MAX_EXPONENT = 0x7FF

# A compact sum is COMPACT_SIZE slots: limbs FIRST .. FIRST + COMPACT_SIZE - 1 of a state, in carried form. It takes the
# numbers with 2^-94 <= |x| < 2^34, and 0: limb FIRST's unit is 2^-146.
COMPACT_SIZE = 6
COMPACT_FIRST = 29


@compiled
def exact_sum_new():
    """An empty state: int64[STATE_SIZE] zeros.

    Examples
    --------
    >>> state = exact_sum_new()
    >>> for x in (1e300, 1.0, -1e300):
    ...     exact_sum_add(state, x)
    >>> exact_sum_value(state)
    1.0
    """
    return np.zeros(STATE_SIZE, np.int64)


@part
def exact_sum_normalise(state):
    """Propagate the carries: limbs in [0, 2^32), the last one signed.

    States that are equal as sums become equal arrays.
    """
    carry = np.int64(0)
    for k in range(N_LIMBS - 1):
        limb = state[k] + carry
        state[k] = limb & MASK
        carry = limb >> 32
    state[N_LIMBS - 1] += carry
    state[PENDING] = 0


@inline
def _reserve(state, n):
    """Make room for n (<= CAPACITY) more additions."""
    if state[PENDING] > CAPACITY - n:
        exact_sum_normalise(state)
    state[PENDING] += n


@inline
def _add_reserved(state, x):
    """Add one float64 for which there is room."""
    pattern = bits(x)
    exponent = (pattern >> 52) & MAX_EXPONENT
    mantissa = pattern & MANTISSA
    if exponent == MAX_EXPONENT:
        state[NANS if mantissa != 0 else (NEG_INF if pattern < 0 else POS_INF)] += 1
        return
    normal = min(exponent, 1)
    mantissa |= normal << 52
    position = exponent - normal  # x = mantissa * 2^(position - 1074)
    k = position >> 5
    shift = position & 31
    sign = pattern >> 63  # 0 or -1: (v ^ sign) - sign is v or -v
    low = (mantissa << shift) & MASK
    rest = mantissa >> (32 - shift)
    state[k] += (low ^ sign) - sign
    state[k + 1] += ((rest & MASK) ^ sign) - sign
    state[k + 2] += ((rest >> 32) ^ sign) - sign


@inline
def exact_sum_add(state, x):
    """Add one number to a state, int64[STATE_SIZE], exactly; infinities and NaNs are counted."""
    _reserve(state, 1)
    _add_reserved(state, np.float64(x))


CHUNK = 1024  # numbers of a block that are added together
SHORT = 24  # fewer numbers are faster one by one

# A block is summed in fixed point. Adding BASE_1, whose last bit is 2^-40, rounds a number below 2^11 to a multiple of
# that, which the sum's bits hold as an integer beside BASE_1's own; what was rounded off is exact, at most 2^-41, and
# goes to BASE_2, and from there to BASE_3. Integers are summed: 1024 of them, each below 2^51, stay within 64 bits; a
# base's bits, as many times, are taken off modulo 2^64. Losses nearly always are multiples of 2^-91, which takes two
# bases; float64 losses from 2^-90 up, multiples of 2^-142, take three; the rest is added one by one.
FINE_1, FINE_2, FINE_3 = 40, 91, 142
BASE_1, BASE_2, BASE_3 = (1.5 * 2.0 ** (52 - fine) for fine in (FINE_1, FINE_2, FINE_3))
BASE_1_BITS, BASE_2_BITS, BASE_3_BITS = (int(np.float64(base).view(np.int64)) for base in (BASE_1, BASE_2, BASE_3))


@part
def exact_sum_add_block(state, values, n):
    """Add values[:n], contiguous float64, to a state, int64[STATE_SIZE]: exactly, so as one by one in any order."""
    p = pointer(values, 0)
    start = 0
    while n - start >= SHORT:
        m = min(n - start, CHUNK)
        if not _add_fixed(state, offset(p, start), m):
            _add_mixed(state, offset(p, start), m)
        start += m
    _reserve(state, n - start)
    for i in range(start, n):
        _add_reserved(state, p[i])


@inline
def _add_fixed(state, p, n):
    """Add n <= CHUNK numbers behind p. False, and nothing added, if one of them takes more than two bases."""
    zero = splat(np.int64(0))
    totals = zero, zero, zero, zero
    one = splat(np.float64(min(n, 1)))  # the compiler does not know, so a product with it stays one
    full = n & -8
    for i in range(0, full, 8):
        totals = _fixed_step(load(p, i), one, totals)
    if full < n:
        totals = _fixed_step(load_some(p, full, first_lanes(n - full, splat(0.0)), 0.0), one, totals)
    sum_1, sum_2, outside, rest = totals
    if any_lane(_is_beyond(outside)) or any_lane(rest != 0):
        return False
    _reserve(state, 2)
    bases = np.int64((n + 7) & -8)
    _add_units(state, add_reduce(sum_1) - bases * BASE_1_BITS, 1074 - FINE_1)
    _add_units(state, add_reduce(sum_2) - bases * BASE_2_BITS, 1074 - FINE_2)
    return True


@inline
def _fixed_step(x, one, totals):
    sum_1, sum_2, outside, rest = totals
    at_1, left = _at_base(x, one, BASE_1)
    at_2, left = _at_base(left, one, BASE_2)
    return sum_1 + bits(at_1), sum_2 + bits(at_2), outside | (bits(at_1) ^ BASE_1_BITS), rest | bits(left)


@inline
def _at_base(x, one, base):
    """x + base, and what of x was rounded off (exact). The fma takes units that the additions leave idle."""
    at = x + base
    return at, x - fma(at, one, -base)


@inline
def _is_beyond(changes):
    """Where the exponent of BASE_1 + x is not that of BASE_1: |x| is 2^11 or more, or x no number."""
    return (changes >> 52) != 0


@inline
def _add_units(state, count, position):
    """Add count·2^(position - 1074) for an int64 count."""
    k, shift = position >> 5, position & 31
    state[k] += (count << shift) & MASK
    state[k + 1] += (count >> (32 - shift)) & MASK
    state[k + 2] += count >> (32 - shift) >> 32


@part
def _add_mixed(state, p, n):
    """Add n <= CHUNK numbers behind p, of which some take a third base, or fit none and are added one by one."""
    _reserve(state, n + 3)
    zero = splat(np.int64(0))
    sum_1, sum_2, sum_3 = zero, zero, zero
    one = splat(np.float64(min(n, 1)))
    bases = 0
    for i in range(0, n, 8):
        x = load_some(p, i, first_lanes(n - i, splat(0.0)), 0.0)
        at_1, left = _at_base(x, one, BASE_1)
        at_2, left = _at_base(left, one, BASE_2)
        at_3, left = _at_base(left, one, BASE_3)
        if any_lane(_is_beyond(bits(at_1) ^ BASE_1_BITS) | (left != 0.0)):
            for j in range(i, min(i + 8, n)):
                _add_reserved(state, p[j])
        else:
            sum_1, sum_2, sum_3 = sum_1 + bits(at_1), sum_2 + bits(at_2), sum_3 + bits(at_3)
            bases += 8
    _add_units(state, add_reduce(sum_1) - bases * BASE_1_BITS, 1074 - FINE_1)
    _add_units(state, add_reduce(sum_2) - bases * BASE_2_BITS, 1074 - FINE_2)
    _add_units(state, add_reduce(sum_3) - bases * BASE_3_BITS, 1074 - FINE_3)


@compiled
def exact_sum_merge(state, other):
    """Add another state to this one, both int64[STATE_SIZE]; `other` stays as it is."""
    _reserve(state, 2)
    for k in range(N_LIMBS - 1):  # a limb's halves go into two slots, so that no count of additions adds up
        state[k] += other[k] & MASK
        state[k + 1] += other[k] >> 32
    state[N_LIMBS - 1] += other[N_LIMBS - 1]
    for k in range(POS_INF, STATE_SIZE):
        state[k] += other[k]


@part
def exact_sum_value(state):
    """The sum in a state, int64[STATE_SIZE], as a correctly rounded float64.

    Ties go to even and overflow to infinity; a NaN, or infinities of both signs, give NaN; zero is never -0.0.
    """
    return exact_sum_final(state.copy())


@part
def exact_sum_final(limbs):
    """The same, of a state that is not needed any more: the limbs that it holds are changed."""
    if limbs[NANS] > 0 or (limbs[POS_INF] > 0 and limbs[NEG_INF] > 0):
        return np.nan
    if limbs[POS_INF] > 0:
        return np.inf
    if limbs[NEG_INF] > 0:
        return -np.inf
    exact_sum_normalise(limbs)
    negative = limbs[N_LIMBS - 1] < 0
    if negative:
        for k in range(N_LIMBS):
            limbs[k] = -limbs[k]
        exact_sum_normalise(limbs)
    top = N_LIMBS - 1
    while top > 0 and limbs[top] == 0:
        top -= 1
    magnitude = _round_limbs(limbs, top)
    return -magnitude if negative else magnitude


@inline
def _round_limbs(limbs, top):
    """The non-negative number in carried limbs 0 .. top (limbs[top] != 0 unless top = 0), rounded to float64."""
    high = limbs[top]
    length = 0  # of limbs[top], in bits
    while high >> length != 0:
        length += 1
    drop = 32 * top + length - 53  # bits below the 53 that a float64 keeps
    if drop >= MAX_EXPONENT - 1:  # 2^1024 or more
        return np.inf
    if drop <= 0:  # fits: a subnormal's bits are the integer itself, and so are those of the first normal binade
        return from_bits(limbs[0] + ((limbs[1] << 32) if top > 0 else np.int64(0)))
    k = drop >> 5
    shift = drop & 31
    mantissa = limbs[k] >> shift
    for j in range(k + 1, top + 1):
        mantissa |= limbs[j] << (32 * (j - k) - shift)
    # Round to nearest, ties to even: the first dropped bit is the half, the others are sticky.
    half_k = (drop - 1) >> 5
    half_bit = np.int64(1) << ((drop - 1) & 31)
    if limbs[half_k] & half_bit != 0:
        sticky = limbs[half_k] & (half_bit - 1)
        for j in range(half_k):
            sticky |= limbs[j]
        if sticky != 0 or mantissa & 1 != 0:
            mantissa += 1
    # A mantissa of 2^53 (rounded up) carries into the exponent by itself, up to infinity.
    return from_bits(min((np.int64(drop) << 52) + mantissa, np.int64(MAX_EXPONENT) << 52))


UNITS = 1 << 1074


def exact_sum_fraction(state):
    """The sum as a fractions.Fraction, unrounded. ValueError when an infinity or a NaN was added."""
    return fractions.Fraction(exact_sum_units(state), UNITS)


def exact_sum_units(state):
    """The sum as a whole number of 1 / UNITS, unrounded. ValueError when an infinity or a NaN was added."""
    if state[POS_INF] or state[NEG_INF] or state[NANS]:
        raise ValueError("state: holds an infinity or a NaN, which is no fraction")
    carried = state.copy()
    exact_sum_normalise(carried)
    return units_of(carried)


def units_of(carried):
    """The whole number that limbs make which hold no carries."""
    return int.from_bytes(carried[:N_LIMBS].astype("<u4").tobytes(), "little", signed=True)


@inline
def compact_sum_add(slots, x):
    """Add x to a compact sum (int64[COMPACT_SIZE]). False, and nothing added, when x is outside its range.

    In range: 0 and 2^-94 <= |x| < 2^34. The caller adds what is outside (NaN and infinities too) to a full state.
    """
    pattern = bits(np.float64(x))
    position = ((pattern >> 52) & MAX_EXPONENT) - 1
    k = (position >> 5) - COMPACT_FIRST
    if k < 0 or k > COMPACT_SIZE - 3:
        return x == 0.0
    mantissa = (pattern & MANTISSA) | HIDDEN
    shift = position & 31
    sign = pattern >> 63
    rest = mantissa >> (32 - shift)
    low = slots[k] + ((((mantissa << shift) & MASK) ^ sign) - sign)
    middle = slots[k + 1] + (((rest & MASK) ^ sign) - sign) + (low >> 32)
    slots[k] = low & MASK
    slots[k + 1] = middle & MASK
    carry = (middle >> 32) + (((rest >> 32) ^ sign) - sign)
    slots[k + 2] += carry
    return True


@compiled
def compact_sum_into(state, slots):
    """Add a compact sum to a full state."""
    _reserve(state, 2)
    for k in range(COMPACT_SIZE):
        state[COMPACT_FIRST + k] += slots[k] & MASK
        state[COMPACT_FIRST + k + 1] += slots[k] >> 32


@compiled
def compact_sum_normalise(slots):
    """Propagate the carries: compact sums that are equal as numbers become equal arrays."""
    for k in range(COMPACT_SIZE - 1):
        slots[k + 1] += slots[k] >> 32
        slots[k] &= MASK


@compiled
def compact_sum_merge(slots, other):
    """Add another compact sum to this one; `other` stays as it is."""
    carry = np.int64(0)
    for k in range(COMPACT_SIZE - 1):
        limb = slots[k] + other[k] + carry
        slots[k] = limb & MASK
        carry = limb >> 32
    slots[COMPACT_SIZE - 1] += other[COMPACT_SIZE - 1] + carry
