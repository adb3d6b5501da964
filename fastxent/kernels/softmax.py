"""One row of logits -> its probabilities or their logarithms.

A row is read from memory once. Its terms e^z·2^-k stay in a buffer in the first-level cache, and what is written is
made from them (softmax) or from the row itself, which is near by then (log_softmax).
"""

import math

import numpy as np

from fastxent.kernels import elementary
from fastxent.kernels.elementary import (
    LN_2,
    MODERATE,
    exp_shifted,
    exp_shifted_over,
    exp_times,
    exponent_at,
    exponent_bits,
)  # fmt: skip
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import (
    load,
    load_some,
    load_some_double,
    prefetch,
    store,
    store_some,
    store_some_double,
    store_streaming,
    to_aligned,
)  # fmt: skip
from fastxent.kernels.rows import (
    add_terms,
    ahead,
    first_reference,
    floor_exponent,
    highest_bits,
    lanes,
    part,
    too_small,
    two_words,
)  # fmt: skip
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    bits,
    by_type,
    fill,
    first_lanes,
    fma,
    from_bits,
    max_reduce,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.term_sums import exceeds, nothing_seen, one_term, term_constants

# Room beyond a row of terms: they are written by blocks of four vectors.
SPARE = 64
# Above such a sum of terms its inverse, in two words, might not be accurate: the reference was far from the largest.
LARGEST = 2.0**64
# With so large a share one class's term is left out of the sum, not subtracted from it.
LARGE_SHARE = 0.625
lowest_bits = by_type(elementary.LOWEST32, elementary.LOWEST64)


@inline
def keep_terms(p, n, terms):
    """e^z_j·2^-k to ``terms``, 0 for a masked class. Returns their sum, and whether that served.

    It does not for a row far from 0, or with a NaN or +inf, or with terms far above the first ones or too far below
    them.
    """
    width = lanes(p)
    block = 4 * width
    reference = first_reference(p, n)
    if not abs(reference) <= MODERATE:
        return 0.0, False
    k = exponent_at(reference)
    magic = fill(p, elementary.rounding(p) - k * elementary.steps(p))
    floor = fill(p, (k + floor_exponent(p)) * LN_2)
    lowest = highest = bits(fill(p, elementary.rounding(p)))
    total, low = splat(0.0), splat(0.0)
    full = n // block * block
    for i in range(0, full, block):
        for j in range(4):
            prefetch(p, i + ahead(p) + j * width)  # a vector is a cache line
        a, b, c, d = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        a, lowest, highest = kept_term(a, floor, magic, lowest, highest)
        store(terms, i, a)
        b, lowest, highest = kept_term(b, floor, magic, lowest, highest)
        store(terms, i + width, b)
        c, lowest, highest = kept_term(c, floor, magic, lowest, highest)
        store(terms, i + 2 * width, c)
        d, lowest, highest = kept_term(d, floor, magic, lowest, highest)
        store(terms, i + 3 * width, d)
        total, low = add_terms(total, low, (a + b) + (c + d))
    if full < n:
        rest = fill(p, 0.0)
        for i in range(full, full + block, width):
            a, lowest, highest = kept_term(part(p, i, n, -1), floor, magic, lowest, highest)
            store(terms, i, a)
            rest = rest + a
        total, low = add_terms(total, low, rest)
    a = add_reduce(total + low)
    outside = (lowest <= lowest_bits(p)) | (highest > highest_bits(p))
    return a, 0.0 < a <= LARGEST and not any_lane(outside)


@inline
def kept_term(v, floor, magic, lowest, highest):
    """The term of one vector of logits, and the least and the largest exponents so far (a masked class has none)."""
    masked = v == -math.inf
    x = maximum(v, floor)
    e = exponent_bits(x, magic)
    lowest = select(masked, lowest, minimum(lowest, e))
    return select(masked, 0.0, exp_shifted(x, magic)), lowest, maximum(highest, e)


@inline
def floored_terms(p, n, terms):
    """The same with tiny terms, and a masked class's, as they are floored: what is added up may hold them, as in rows.

    Returns their sum, k, the largest logit, and whether that served. Nothing is asked of how small terms are, which
    saves a quarter of the instructions.
    """
    width = lanes(p)
    block = 4 * width
    reference = first_reference(p, n)
    if not abs(reference) <= MODERATE:
        return 0.0, 0.0, 0.0, False
    k = exponent_at(reference)
    floor = fill(p, (k + floor_exponent(p)) * LN_2)
    constants, seen = constants_at(p, k), nothing_seen(p)
    top, total, low = fill(p, -math.inf), splat(0.0), splat(0.0)
    for i in range(0, n, block):
        for j in range(4):
            prefetch(p, i + ahead(p) + j * width)  # a vector is a cache line
        if i + block <= n:
            a, b, c, d = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        else:
            a, b = part(p, i, n, -1), part(p, i + width, n, -1)
            c, d = part(p, i + 2 * width, n, -1), part(p, i + 3 * width, n, -1)
        top = maximum(top, maximum(maximum(a, b), maximum(c, d)))
        a, seen_a = one_term(maximum(a, floor), constants)
        b, seen_b = one_term(maximum(b, floor), constants)
        c, seen_c = one_term(maximum(c, floor), constants)
        d, seen_d = one_term(maximum(d, floor), constants)
        seen = seen | ((seen_a | seen_b) | (seen_c | seen_d))
        store(terms, i, a)
        store(terms, i + width, b)
        store(terms, i + 2 * width, c)
        store(terms, i + 3 * width, d)
        total, low = add_terms(total, low, (a + b) + (c + d))
    a = add_reduce(total + low)
    return a, k, np.float64(max_reduce(top)), a < math.inf and not exceeds(seen, p)


@inline
def constants_at(p, k):
    """one_term's, for terms relative to 2^k."""
    return term_constants(fill(p, elementary.rounding(p) - k * elementary.steps(p)))


@inline
def others(p, n, terms, a, k, top):
    """The sum of all terms but the largest, scaled to be near 1: A·2^k. Last comes whether no floor counts in it.

    Subtracting the largest is accurate where it is not most of the sum; otherwise the others are added anew.
    """
    largest, _ = one_term(fill(p, top), constants_at(p, k))
    own = np.float64(max_reduce(largest))
    rest = a - own
    if own > LARGE_SHARE * a:
        width = lanes(p)
        total, low = splat(0.0), splat(0.0)
        for i in range(0, n, 4 * width):
            b, c = but(load(terms, i), largest), but(load(terms, i + width), largest)
            d, e = but(load(terms, i + 2 * width), largest), but(load(terms, i + 3 * width), largest)
            total, low = add_terms(total, low, (b + c) + (d + e))
        rest = add_reduce(total + low)
    n = (bits(rest) >> 52) - 1023
    return from_bits(bits(rest) - (n << 52)), k + n, rest >= too_small(p)


@inline
def but(v, largest):
    """A vector of terms, 0 in the place of the largest."""
    return select(v == largest, 0.0, v)


# --- writing a row ---------------------------------------------------------------------------------------------------


@inline
def write_row(value, figures, source, n, target, streaming):
    """value(x, figures) of every vector x of a row to ``target``, past the caches if ``streaming``.

    A store past the caches takes whole lines: what lies before and after them goes the ordinary way.
    """
    width = lanes(source)
    i = 0
    if streaming:
        i = to_aligned(target, width)
        if i > 0:
            here = first_lanes(min(i, n), fill(source, 0.0))
            store_some(target, 0, here, value(load_some(source, 0, here, 0.0), figures))
        while i + width <= n:
            store_streaming(target, i, value(load(source, i), figures))
            i += width
    while i + width <= n:
        store(target, i, value(load(source, i), figures))
        i += width
    if i < n:
        here = first_lanes(n - i, fill(source, 0.0))
        store_some(target, i, here, value(load_some(source, i, here, 0.0), figures))


@inline
def share(e, figures):
    """e / a, rounded but once, from 1 / a in two words: a class alone gets exactly 1."""
    high, low = figures
    return fma(e, high, e * low)


@inline
def inverse(like, a):
    """1 / a in two words, for ``share``."""
    high = 1.0 / a
    return two_words(like, high, fma(-high, a, 1.0) * high)


@inline
def softmax_row(p, n, a, k, s, scale, scale_low, target, spare):
    """q_j = e^(z_j/T) / (e^(s/T)·2^k·a), from exp_sum_over's figures over all classes.

    Terms below the floor of the type's exponents are done in float64, one by one: q may be smaller than that. ``spare``
    has room for 32 elements.
    """
    width = lanes(p)
    if not a > 0.0:
        for j in range(n):
            target[j] = math.nan
        return
    magic = fill(p, elementary.rounding(p) - k)
    floor = fill(p, (k + floor_exponent(p)) * LN_2 / scale)
    lowest = (k - 1100.0) * LN_2 / scale
    factor, factor_low = two_words(p, scale, scale_low)
    figures = inverse(p, a)
    for i in range(0, n, width):
        here = first_lanes(n - i, floor)
        x = (load(p, i) if i + width <= n else load_some(p, i, here, 0.0)) - s
        q = share(exp_shifted_over(maximum(x, floor), factor, factor_low, magic), figures)
        low = (x < floor) & here
        if any_lane(low):
            store(spare, 0, x)
            store(spare, width, floor)
            for j in range(min(width, n - i)):
                if spare[j] < spare[width]:
                    difference = np.float64(p[i + j]) - s
                    small = exp_times(1.0 / a, max(difference, lowest), 0.0, scale, scale_low, -k)
                    target[i + j] = small if difference > lowest else 0.0
            store_some(target, i, here & ~low, q)
        elif i + width <= n:
            store(target, i, q)
        else:
            store_some(target, i, here, q)


@inline
def logarithm(x, figures):
    """ln q = (x - top) - (-ln q_top), for T = 1: two terms of one sign, so float32 is off by one unit at most."""
    top, top_nll = figures
    return (x - top) - top_nll


@inline
def log_softmax_row(p, n, top, top_nll, scale, scale_low, target):
    """ln q_k = (z_k - top)/T - (-ln q_top): two terms of one sign."""
    for j in range(0, n, 8):
        here = first_lanes(n - j, splat(0.0))
        x = load_some_double(p, j, here, 0.0) - top
        scaled = x * scale
        store_some_double(target, j, here, select(x > -math.inf, fma(x, scale_low, scaled), scaled) - top_nll)
