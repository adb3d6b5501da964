"""The exact sum against math.fsum and fractions: same bits for every input, order, grouping and path."""

import itertools
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxent.kernels import exactsum
from fastxent.kernels.exactsum import (
    COMPACT_SIZE,
    STATE_SIZE,
    compact_sum_add,
    compact_sum_into,
    compact_sum_merge,
    compact_sum_normalise,
    exact_sum_add,
    exact_sum_add_block,
    exact_sum_fraction,
    exact_sum_merge,
    exact_sum_new,
    exact_sum_normalise,
    exact_sum_value,
)

INF, NAN = math.inf, math.nan
TINY, HUGE = 5e-324, 1.7976931348623157e308
# Lengths around every boundary of the block's paths: one by one, one vector, the tail, the chunk.
LENGTHS = [*range(71), 127, 128, 129, 1000, 1016, 1023, 1024, 1025, 1031, 1032, 2047, 2048, 2049, 5000]


def bits(x):
    return struct.pack("<d", x).hex()


def block_state(values):
    values = np.ascontiguousarray(values, np.float64)
    state = exact_sum_new()
    exact_sum_add_block(state, values, values.size)
    return state


def scalar_state(values):
    state = exact_sum_new()
    for x in values:
        exact_sum_add(state, float(x))
    return state


def block_sum(values):
    return exact_sum_value(block_state(values))


def scalar_sum(values):
    return exact_sum_value(scalar_state(values))


def rounded(total):
    """A Fraction as the nearest float64, ties to even (Python's integer division), infinite beyond the range."""
    try:
        return total.numerator / total.denominator
    except OverflowError:
        return INF if total > 0 else -INF


def same_state(a, b):
    a, b = a.copy(), b.copy()
    exact_sum_normalise(a)
    exact_sum_normalise(b)
    return np.array_equal(a, b)


def signed(rng, x):
    return x * rng.choice([-1.0, 1.0], x.size)


# Each gives n numbers, as a model's losses or an adversary would.
DISTRIBUTIONS = {
    "losses": lambda rng, n: rng.exponential(2.0, n),
    "confident": lambda rng, n: 10.0 ** rng.uniform(-12, 1, n),
    "overconfident": lambda rng, n: 10.0 ** rng.uniform(-60, 1, n),
    "signed": lambda rng, n: rng.standard_normal(n),
    "ones": lambda rng, n: np.ones(n),
    "zeros": lambda rng, n: signed(rng, np.zeros(n)),
    "sparse": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.standard_normal(n)),
    "large": lambda rng, n: rng.standard_normal(n) * 1e9,
    "outliers": lambda rng, n: rng.exponential(1.0, n) * np.where(rng.random(n) < 0.01, 1e20, 1.0),
    "mixed": lambda rng, n: signed(rng, 10.0 ** rng.uniform(-300, 300, n)),
    "subnormal": lambda rng, n: signed(rng, rng.integers(0, 1 << 52, n) * TINY),
    "around_the_smallest_normal": lambda rng, n: signed(rng, 2.0 ** rng.uniform(-1074, -960, n)),
    "powers_of_two": lambda rng, n: signed(rng, 2.0 ** rng.integers(-80, 80, n)),
    "all_powers_of_two": lambda rng, n: signed(rng, 2.0 ** rng.integers(-1074, 1010, n)),
    "just_below_powers": lambda rng, n: signed(rng, np.nextafter(2.0 ** rng.integers(-60, 20, n), 0)),
    "full_mantissa": lambda rng, n: signed(rng, np.ldexp(2.0 - 2.0**-52, rng.integers(-100, 14, n))),
    "huge": lambda rng, n: signed(rng, rng.uniform(1e290, 1e300, n)),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_sum_equals_fsum_for_every_length(distribution):
    rng = np.random.default_rng(1)
    for n in LENGTHS:
        values = DISTRIBUTIONS[distribution](rng, n)
        assert bits(block_sum(values)) == bits(math.fsum(values)), n
    values = DISTRIBUTIONS[distribution](rng, 3000)
    assert same_state(block_state(values), scalar_state(values))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_cancellation_leaves_the_exact_rest(distribution):
    rng = np.random.default_rng(2)
    for n in (1, 7, 100, 1500):
        values = DISTRIBUTIONS[distribution](rng, n)
        rest = np.ldexp(rng.standard_normal(5), rng.integers(-1070, 3, 5))
        values = rng.permutation(np.concatenate([values, -values, rest]))
        assert bits(block_sum(values)) == bits(math.fsum(rest))
        assert exact_sum_fraction(block_state(values)) == sum(map(Fraction, rest.tolist()))


def test_every_alignment_and_part_of_a_larger_array():
    rng = np.random.default_rng(3)
    values = 10.0 ** rng.uniform(-30, 3, 1300)
    for start, n in itertools.product(range(9), (0, 1, 8, 63, 200, 1024, 1100)):
        state = exact_sum_new()
        exact_sum_add_block(state, values[start:], n)
        assert bits(exact_sum_value(state)) == bits(math.fsum(values[start : start + n]))


@pytest.mark.parametrize("exponent", [-1000, -850, -300, -8, 0, 3, 500, 970])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_every_level_filled_to_its_bound(sign, exponent):
    # Numbers just below 2^exponent whose remainders after a level's rounding are the largest.
    near_top = 1.0 - 2.0**-53
    remainders = [0.5 + 2.0**-44 - 2.0**-53, 0.5 - 2.0**-44 + 2.0**-53]
    small = [2.0 ** (-44 * level) * (1 - 2.0**-53) for level in range(1, 7)]
    ties = [0.5 + 2.0**-44, 2.0**-44, 3 * 2.0**-44, 2.0**-88, 3 * 2.0**-88, 0.75 - 2.0**-44]
    for x in [near_top, *remainders, *small, *ties]:
        values = np.full(2048, math.ldexp(sign * x, exponent))
        values[:3] = math.ldexp(sign * near_top, exponent)
        assert exact_sum_fraction(block_state(values)) == sum(map(Fraction, values.tolist()))


# Around what fixed point takes: below 2^11, a multiple of 2^-91 or 2^-142.
EDGES = [
    2.0**11,
    2.0**-40,
    2.0**-41,
    2.0**-91,
    2.0**-92,
    1.5 * 2.0**-41,
    2.0**11 - 2.0**-40,
    2.0**-142,
    1.5 * 2.0**-92,
    2.0**-143,
]


@pytest.mark.parametrize("edge", EDGES)
def test_numbers_around_the_ends_of_fixed_point(edge):
    below, above = np.nextafter(edge, 0), np.nextafter(edge, np.inf)
    for n in (24, 31, 64, 1000, 1024, 1025, 3000):
        for x in (edge, below, above):
            for values in (np.full(n, x), np.full(n, -x), np.where(np.arange(n) % 3 == 0, x, -1.75)):
                assert exact_sum_fraction(block_state(values)) == sum(map(Fraction, values.tolist())), (n, x)


@pytest.mark.parametrize("outlier", [2.0**11, -(2.0**11), 2.0**-92, -TINY, 1e300, INF, -INF, NAN])
def test_one_number_that_fixed_point_does_not_take(outlier):
    rng = np.random.default_rng(8)
    for n in (24, 29, 32, 1024, 1100):
        for at in {0, 7, n // 2, n - 2, n - 1}:
            values = rng.exponential(1.0, n).astype(np.float32).astype(np.float64)
            values[at] = outlier
            assert same_state(block_state(values), scalar_state(values)), (n, at)


def test_order_does_not_matter():
    rng = np.random.default_rng(4)
    values = np.concatenate([DISTRIBUTIONS[d](rng, 200) for d in DISTRIBUTIONS])
    first = block_state(values)
    for _ in range(20):
        assert same_state(first, block_state(rng.permutation(values)))
    assert same_state(first, block_state(np.sort(values)))
    assert same_state(first, block_state(values[::-1]))


def test_merges_in_random_trees_equal_the_whole():
    rng = np.random.default_rng(5)
    values = np.concatenate([DISTRIBUTIONS[d](rng, 100) for d in DISTRIBUTIONS] + [[INF]])
    whole = block_state(values)
    for _ in range(20):
        cuts = np.sort(rng.integers(0, values.size + 1, 12))
        states = [block_state(part) for part in np.split(rng.permutation(values), cuts)]
        while len(states) > 1:
            other = states.pop(rng.integers(len(states)))
            before = other.copy()
            exact_sum_merge(states[rng.integers(len(states))], other)
            assert np.array_equal(before, other)
        assert same_state(whole, states[0])


def test_a_row_of_a_larger_array_is_a_state():
    states = np.zeros((3, STATE_SIZE), np.int64)
    exact_sum_add_block(states[1], np.arange(100.0), 100)
    exact_sum_add(states[1], 0.5)
    exact_sum_merge(states[2], states[1])
    assert [exact_sum_value(s) for s in states] == [0.0, 4950.5, 4950.5]


# Ties and their neighbours, at the ends of the range too; each with its exact rounding.
HALF_ULPS = [
    [1.0, 2.0**-53],
    [1.0, 2.0**-53, TINY],
    [1.0, 2.0**-53, -TINY],
    [1.0 + 2.0**-52, 2.0**-53],
    [1.0 + 2.0**-52, 2.0**-53, -TINY],
    [-1.0, -(2.0**-53)],
    [-1.0 - 2.0**-52, -(2.0**-53)],
    [2.0 - 2.0**-52, 2.0**-53],
    [2.0**53, 1.0],
    [2.0**53, 3.0],
    [2.0**53, 1.0, 2.0**-1000],
    [2.0**32, 2.0**-21, 2.0**-53],
    [2.0**-1022, -TINY],
    [2.0**-1022, TINY],
    [2.0**-1022 - TINY, TINY],
    [TINY] * 3,
    [HUGE, 2.0**969],
    [HUGE, 2.0**969, -TINY],
    [HUGE, -HUGE, TINY],
]


@pytest.mark.parametrize("values", HALF_ULPS, ids=str)
def test_ties_go_to_even(values):
    for order in itertools.permutations(values):
        assert bits(block_sum(order)) == bits(scalar_sum(order)) == bits(math.fsum(order))


def test_rounding_at_every_bit_position():
    rng = np.random.default_rng(6)
    for position in range(-1074, 970):
        odd = float(rng.integers(1 << 52, 1 << 53))
        values = [math.ldexp(odd, max(position, -1074)), math.ldexp(1.0, position - 1) if position > -1074 else 0.0]
        values.append(rng.choice([0.0, TINY, -TINY]))
        assert bits(block_sum(values)) == bits(math.fsum(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([-0.0], 0.0),
        ([-0.0] * 30, 0.0),
        ([3.0, -3.0], 0.0),
        ([HUGE, HUGE], INF),
        ([-HUGE, -HUGE], -INF),
        ([HUGE, 2.0**970], INF),
        ([HUGE, 2.0**970, -TINY], HUGE),
        ([HUGE] * 1000 + [-HUGE] * 999, HUGE),
        ([HUGE] * 50_000, INF),
        ([INF], INF),
        ([-INF, 1.0], -INF),
        ([INF, INF, -HUGE], INF),
        ([INF, -INF], NAN),
        ([NAN], NAN),
        ([-NAN, INF], NAN),
    ],
)
def test_special_values(values, expected):
    for padding in (0, 20, 1500):  # the short path, and both sides of a chunk
        for padded in (values + [0.0] * padding, [0.0] * padding + values):
            assert bits(block_sum(padded)) == bits(expected)
            assert bits(scalar_sum(padded)) == bits(expected)


@pytest.mark.parametrize("special", [NAN, -NAN, INF, -INF, HUGE, -HUGE, TINY, 1e-30, -1e40])
def test_one_special_value_at_every_position(special):
    values = np.random.default_rng(7).exponential(1.0, 130)
    for i in range(values.size):
        changed = values.copy()
        changed[i] = special
        expected = math.fsum(changed)
        assert bits(block_sum(changed)) == bits(NAN if math.isnan(expected) else expected)


@pytest.mark.parametrize("values", [[HUGE] * 2, [HUGE] * 3 + [-math.nextafter(HUGE, 0)], [HUGE] * 40, [HUGE, 2.0**970]])
def test_a_sum_past_the_largest_number_is_infinite(values):
    assert block_sum(values) == scalar_sum(values) == rounded(sum(map(Fraction, values))) == INF
    assert block_sum([-x for x in values]) == -INF


def test_infinities_are_counted_not_added_up():
    values = np.array([INF, 1.0, -INF, NAN, INF, 2.0] + [0.25] * 100)
    state = block_state(values)
    assert state[[exactsum.POS_INF, exactsum.NEG_INF, exactsum.NANS]].tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match="state"):
        exact_sum_fraction(state)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=80), st.randoms())
def test_sum_is_the_rounded_fraction(values, random):
    exact = sum(map(Fraction, values), Fraction(0))
    state = block_state(values)
    assert exact_sum_fraction(state) == exact
    assert bits(exact_sum_value(state)) == bits(rounded(exact))
    random.shuffle(values)
    assert same_state(state, scalar_state(values))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), max_size=60), st.integers(0, 60))
def test_merged_halves_equal_the_whole(values, cut):
    left, right = block_state(values[:cut]), block_state(values[cut:])
    swapped = right.copy()
    exact_sum_merge(swapped, left)
    exact_sum_merge(left, right)
    assert same_state(left, block_state(values))
    assert same_state(left, swapped)


@pytest.mark.parametrize("x", [HUGE, -HUGE, 1.0, -TINY, 2.0 - 2.0**-52])
def test_capacity_of_2_to_the_60_additions(x):
    state = block_state([x] * 1024)
    total = Fraction(x) * 1024
    for _ in range(50):  # doubling by merging with itself's copy
        exact_sum_merge(state, state.copy())
        total *= 2
        assert exact_sum_fraction(state) == total
    exact_sum_add(state, x)
    assert exact_sum_fraction(state) == total + Fraction(x)
    assert bits(exact_sum_value(state)) == bits(rounded(total + Fraction(x)))


def test_carries_are_propagated_before_a_slot_overflows():
    x = HUGE
    for pending in (exactsum.CAPACITY - 2, exactsum.CAPACITY - 1, exactsum.CAPACITY):
        state = exact_sum_new()  # as if `pending` additions had filled every slot to its bound
        state[: exactsum.N_LIMBS - 2] = (pending + 1) << 32
        state[exactsum.PENDING] = pending
        expected = exact_sum_fraction(state)
        for i in range(5):
            exact_sum_add(state, x)
            exact_sum_add_block(state, np.full(1030, x), 1030)
            exact_sum_merge(state, state.copy())
            expected = 2 * (expected + 1031 * Fraction(x))
            assert exact_sum_fraction(state) == expected, i
        assert 0 <= state[exactsum.PENDING] <= exactsum.CAPACITY


IN_RANGE = [0.0, -0.0, 2.0**-94, -(2.0**-94), np.nextafter(2.0**34, 0), 1.0, -3.5, 1e-12, 1e10]
OUT_OF_RANGE = [np.nextafter(2.0**-94, 0), 2.0**34, -(2.0**34), TINY, HUGE, INF, -INF, NAN, 1e-40]


def test_compact_range():
    for x in IN_RANGE:
        assert compact_sum_add(np.zeros(COMPACT_SIZE, np.int64), x)
    for x in OUT_OF_RANGE:
        slots = np.zeros(COMPACT_SIZE, np.int64)
        assert not compact_sum_add(slots, x)
        assert not slots.any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-(2.0**34), 2.0**34, exclude_min=True, exclude_max=True), max_size=60), st.integers(0, 60))
def test_compact_sum_equals_the_full_one(values, cut):
    outside = exact_sum_new()
    parts = np.zeros((2, COMPACT_SIZE), np.int64)
    for i, x in enumerate(values):
        if not compact_sum_add(parts[int(i >= cut)], x):
            exact_sum_add(outside, x)
    state = outside.copy()
    compact_sum_into(state, parts[0])
    compact_sum_into(state, parts[1])
    assert same_state(state, block_state(values))
    compact_sum_merge(parts[0], parts[1])
    compact_sum_into(outside, parts[0])
    assert same_state(outside, block_state(values))


def test_compact_capacity_of_2_to_the_40_additions():
    for x in (np.nextafter(2.0**34, 0), -np.nextafter(2.0**34, 0), 2.0**-94, -1.0):
        slots = np.zeros(COMPACT_SIZE, np.int64)
        for _ in range(1024):
            assert compact_sum_add(slots, x)
        total = 1024 * Fraction(x)
        for _ in range(30):
            compact_sum_merge(slots, slots.copy())
            total *= 2
        assert compact_sum_add(slots, x)
        state = exact_sum_new()
        compact_sum_into(state, slots)
        assert exact_sum_fraction(state) == total + Fraction(x)
        carried = slots.copy()
        compact_sum_normalise(carried)
        again = exact_sum_new()
        compact_sum_into(again, carried)
        assert same_state(state, again)
        assert ((carried[:-1] >= 0) & (carried[:-1] < 1 << 32)).all()


def test_callable_from_the_users_own_compiled_code():
    numba = pytest.importorskip("numba")

    @numba.njit
    def mean_of_squares(values):
        state = exact_sum_new()
        part = exact_sum_new()
        for x in values:
            exact_sum_add(part, x * x)
        exact_sum_merge(state, part)
        return exact_sum_value(state) / values.size

    values = np.random.default_rng(8).standard_normal(1000)
    assert mean_of_squares(values) == math.fsum(values * values) / 1000
