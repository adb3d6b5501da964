"""Many classes: as many rows as a vector has lanes together, each read along its classes.

What is across a row's lanes, and what is scalar, costs as much as a hundred classes: it is done for all rows of a
group at once. A row's bits do not depend on the others: the group only shares instructions.
"""

import math

from numba import types
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
    by_type,
    fill,
    first_lanes,
    fma,
    from_bits,
    is_float32,
    join,
    lane_numbers,
    max_reduce,
    maximum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.term_sums import exceeds, four_terms_apart, nothing_seen, one_term, term_constants
from fastxent.kernels.tiles import ROWS
from fastxent.kernels.transpose import max_across, sum_across

# Bytes of a cache line, and how far ahead memory is asked for: into the second-level cache, where many lines may be on
# their way, then from there into the first.
LINE, FAR, NEAR = 64, 8192, 2048
# Rows of figures beside those of rows.py: k of the terms that were kept; and whether any may have been floored, or the
# largest logit.
REFERENCE, SMALL, TOP = 4, 5, 5
# Terms below it may have been.
lowest_term = by_type(2.0 ** (elementary.FLOOR32 + 1), 2.0 ** (elementary.FLOOR64 + 1))


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
def note_nothing(terms, i, x, e, extreme):
    """Terms are not kept."""
    return extreme


@inline
def no_notes(figures, r, extreme):
    """Nothing is known of a row's terms."""


@inline
def note_least(terms, i, x, e, extreme):
    """A vector of terms goes to ``terms``. Returns the least so far."""
    store(terms, i, e)
    return select(e < extreme, e, extreme)


@inline
def any_small(figures, r, extreme):
    """Whether a row's term may have been floored goes to row SMALL of the figures."""
    figures[SMALL * ROWS + r] = 0.0 if not any_lane(~(extreme >= lowest_term(extreme))) else 1.0


@inline
def note_top(terms, i, x, e, extreme):
    """A vector of terms goes to ``terms``. Returns the largest logit so far."""
    store(terms, i, e)
    return maximum(extreme, x)


@inline
def top_of_row(figures, r, extreme):
    """A row's largest logit goes to row TOP of the figures."""
    figures[TOP * ROWS + r] = max_reduce(extreme)


def row_of(terms, i):
    """Element i on of a pointer, or none."""


@overload(row_of, jit_options=INLINE)
def _row_of(terms, i):
    if isinstance(terms, types.NoneType):
        return lambda terms, i: None
    return lambda terms, i: offset(terms, i)


@inline
def nothing(i, context):
    """What is done beside the rows where there is nothing to do."""


@inline
def group_exp_sums(p, step, m, n, label, r, figures, sums):
    """A, k, s = 0 of m rows without their labels' classes, and these logits, to ``figures``, column r on; T = 1.

    The reference is the largest of a row's first vector. A is NaN, or far too small, where that does not serve: last
    comes whether it always did.
    """
    _, serves = group_terms(
        p, step, m, n, label, r, figures, sums, None, 0, 0.0, note_nothing, no_notes, nothing, nothing, nothing, ()
    )
    return serves


@inline
def group_terms(
    p, step, m, n, label, r, figures, sums, terms, terms_step, first, note, notes, begin, go_on, end, context
):
    """The same with each row's terms e^z·2^-k to ``terms`` (unless None), rows terms_step apart, in whole vectors.

    The label's term is inf, and so is what follows the last. First comes what k is for the terms.

    note(terms, i, x, e, extreme) keeps the terms e of logits x (floored, -inf for the label) and returns the next
    extreme, after ``first``; then comes notes(figures, r, extreme).

    What else to do meanwhile: begin(r, context) before row r is read, which returns what the others get; go_on(i, that)
    with element i, for every fourth vector; and end(i, that) from such an element on.
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
        other = begin(r + row, context)
        z, kept = offset(p, row * step), row_of(terms, (r + row) * terms_step)
        magic, floor = fill(p, figures[r + row]), fill(p, figures[ROWS + r + row])
        y = label[r + row]
        own = min(max(y, 0) // width * width, last)
        if 2 * row >= m:  # the next group's first vectors, which are read together
            for j in range(2):
                following = offset(p, (width + 2 * row - m + j) * step)
                prefetch(following, 0)
                prefetch(following, width - 1)
        constants, seen = term_constants(magic), nothing_seen(p)
        total, low, extreme = splat(0.0), splat(0.0), fill(p, first)
        for i in range(0, last - 3 * width, 4 * width):
            for j in range(0, 4 * width, line):
                ask(z, i + j)
            i0, i1 = beside(i, own, width), beside(i + width, own, width)
            i2, i3 = beside(i + 2 * width, own, width), beside(i + 3 * width, own, width)
            a, b, c, d = load(z, i0), load(z, i1), load(z, i2), load(z, i3)
            a, b, c, d = maximum(a, floor), maximum(b, floor), maximum(c, floor), maximum(d, floor)
            four, found, apart = four_terms_apart(a, b, c, d, constants)
            extreme = note(kept, i1, b, apart[1], note(kept, i0, a, apart[0], extreme))
            extreme = note(kept, i3, d, apart[3], note(kept, i2, c, apart[2], extreme))
            go_on(i, other)
            seen = seen | found
            total, low = add_terms(total, low, four)
        few = fill(p, 0.0)
        for i in range(last - last % (4 * width), last, width):
            ask(z, i)
            i0 = beside(i, own, width)
            x = maximum(load(z, i0), floor)
            e, found = one_term(x, constants)
            extreme = note(kept, i0, x, e, extreme)
            few, seen = few + e, seen | found
        total, low = add_terms(total, low, few)
        # Last comes what needs a mask: the memory that holds it was asked for with the rest.
        ask(z, last)
        mine = lane_numbers(floor) == y - own
        x = maximum(select(mine, -math.inf, load(z, own)), floor)
        few, found = one_term(x, constants)
        extreme = note(kept, own, x, select(mine, math.inf, few), extreme)
        seen = seen | found
        if last + width < n:
            ask(z, n - 1)
            v = load_some(z, last + width, rest, -math.inf)
            mine = lane_numbers(v) == y - (last + width)
            x = maximum(select(mine, -math.inf, v), floor)
            e, found = one_term(x, constants)
            extreme = note(kept, last + width, x, select(mine | ~rest, math.inf, e), extreme)
            few, seen = few + e, seen | found
        total, low = add_terms(total, low, few)
        end(max(last - last % (4 * width), 0), other)
        notes(figures, r + row, extreme)
        figures[3 * ROWS + r + row] = z[max(y, 0)]
        total = total + low
        if exceeds(seen, p):
            total = splat(math.nan)
        store(sums, row * 8, total)
    a, n_a = group_sums(sums, p)
    store_double(figures, r, a)
    store_double(figures, ROWS + r, k + n_a)
    store_double(figures, 2 * ROWS + r, fill(p, 0.0))
    return k, not any_lane(~(a >= too_small(p)) & rows)


@inline
def ask(z, i):
    """Ask for the memory some way behind element i: of this row or of those that follow."""
    prefetch_second_level(z, i + elements(z, FAR))
    prefetch(z, i + elements(z, NEAR))


@inline
def beside(i, own, width):
    """The i-th element but those of the vector at ``own``."""
    return i + width if i >= own else i
