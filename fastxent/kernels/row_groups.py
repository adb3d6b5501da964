"""Many classes: as many rows as a vector has lanes together, each read along its classes.

What is across a row's lanes, and what is scalar, costs as much as a hundred classes: it is done for all rows of a
group at once. A row's bits do not depend on the others: the group only shares instructions.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, MODERATE, whole_float
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import (
    elements,
    load,
    load_some,
    offset,
    prefetch,
    prefetch_second_level,
    store,
    store_double,
)
from fastxent.kernels.rows import LARGEST_SUM, add_terms, floor_exponent, lanes, too_small
from fastxent.kernels.simd import (
    any_lane,
    bits,
    fill,
    first_lanes,
    fma,
    from_bits,
    is_float32,
    join,
    lane_numbers,
    maximum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.term_sums import exceeds, four_terms, nothing_seen, one_term, term_constants
from fastxent.kernels.tiles import ROWS
from fastxent.kernels.transpose import max_across, sum_across

# Bytes of a cache line, and how far ahead memory is asked for: into the second-level cache, where many lines may be on
# their way, then from there into the first.
LINE, FAR, NEAR = 64, 8192, 1024


@inline
def near_one(a):
    """a as 2^n times a number that is at most LARGEST_SUM, for vectors; n is 0 where it is already; inf becomes NaN."""
    a = select(a < math.inf, a, math.nan)
    n = select(a > LARGEST_SUM, (bits(a) >> 52) - 1023, 0)
    return from_bits(bits(a) - (n << 52)), whole_float(n)


def group_sums(sums, like):
    """The sum of each row's eight, near one, and the powers of two that were taken out of it."""


@overload(group_sums, jit_options=INLINE)
def _group_sums(sums, like):
    if not is_float32(like):
        return lambda sums, like: near_one(sum_across(sums, 8, 8))

    def both(sums, like):
        a, n = near_one(sum_across(sums, 8, 8))
        b, n_b = near_one(sum_across(offset(sums, 64), 8, 8))
        return join(a, b), join(n, n_b)

    return both


@inline
def group_exp_sums(p, step, m, n, label, r, figures, sums):
    """A, k, s = 0 of m rows without their labels' classes, and these logits, to ``figures``, column r on; T = 1.

    The reference is the largest of a row's first vector. A is NaN, or far too small, where that does not serve: last
    comes whether it always did.
    """
    width = lanes(p)
    top = max_across(p, step, m)
    moderate = maximum(top, -top) <= MODERATE
    k = fma(select(moderate, top, 0.0), LOG2_E, elementary.rounding(p)) - elementary.rounding(p)
    store_double(figures, r, elementary.rounding(p) - k * elementary.steps(p))
    store_double(figures, ROWS + r, (k + floor_exponent(p)) * LN_2)
    full = n // width
    last = (full - 1) * width
    line = elements(p, LINE)
    rest, rows = first_lanes(n - full * width, top), first_lanes(m, top)
    for row in range(m):
        z = offset(p, row * step)
        magic, floor = fill(p, figures[r + row]), fill(p, figures[ROWS + r + row])
        y = label[r + row]
        own = min(max(y, 0) // width * width, last)
        if 2 * row >= m:  # the next group's first vectors, which are read together
            for j in range(2):
                first = offset(p, (width + 2 * row - m + j) * step)
                prefetch(first, 0)
                prefetch(first, width - 1)
        constants, seen = term_constants(magic), nothing_seen(p)
        total, low = splat(0.0), splat(0.0)
        for i in range(0, last - 3 * width, 4 * width):
            for j in range(0, 4 * width, line):
                ask(z, i + j)
            a, b = load(z, beside(i, own, width)), load(z, beside(i + width, own, width))
            c, d = load(z, beside(i + 2 * width, own, width)), load(z, beside(i + 3 * width, own, width))
            a, b, c, d = maximum(a, floor), maximum(b, floor), maximum(c, floor), maximum(d, floor)
            terms, found = four_terms(a, b, c, d, constants)
            seen = seen | found
            total, low = add_terms(total, low, terms)
        terms = fill(p, 0.0)
        for i in range(last - last % (4 * width), last, width):
            ask(z, i)
            e, found = one_term(maximum(load(z, beside(i, own, width)), floor), constants)
            terms, seen = terms + e, seen | found
        total, low = add_terms(total, low, terms)
        # Last comes what needs a mask: the memory that holds it was asked for with the rest.
        ask(z, last)
        x = maximum(select(lane_numbers(floor) == y - own, -math.inf, load(z, own)), floor)
        terms, found = one_term(x, constants)
        seen = seen | found
        if last + width < n:
            ask(z, n - 1)
            v = load_some(z, last + width, rest, -math.inf)
            x = maximum(select(lane_numbers(v) == y - (last + width), -math.inf, v), floor)
            e, found = one_term(x, constants)
            terms, seen = terms + e, seen | found
        total, low = add_terms(total, low, terms)
        figures[3 * ROWS + r + row] = z[max(y, 0)]
        total = total + low
        if exceeds(seen, p):
            total = splat(math.nan)
        store(sums, row * 8, total)
    a, n_a = group_sums(sums, p)
    store_double(figures, r, a)
    store_double(figures, ROWS + r, k + n_a)
    store_double(figures, 2 * ROWS + r, fill(p, 0.0))
    return not any_lane(~(a >= too_small(p)) & rows)


@inline
def ask(z, i):
    """Ask for the memory some way behind element i: of this row or of those that follow."""
    prefetch_second_level(z, i + elements(z, FAR))
    prefetch(z, i + elements(z, NEAR))


@inline
def beside(i, own, width):
    """The i-th element but those of the vector at ``own``."""
    return i + width if i >= own else i
