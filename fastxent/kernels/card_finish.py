"""Sums around a row's largest class -> the figures of a score card, eight rows at once.

With inner = Σ e^((z_j - top)/T) over the other classes, q_top = 1/(1 + inner), and their share is inner·q_top.

From float32 logits the figures are good to 24 bits, and so many they keep (a confidence: the multiple of 2^-41), so
that sums of them, and of their squares, are cheap to take exactly.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, LOG2_E, fma
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, pointer, store, store_some
from fastxent.kernels.rows import two_words
from fastxent.kernels.simd import (
    any_lane,
    bits,
    by_type,
    fill,
    first_lanes,
    from_bits,
    halves,
    is_float32,
    maximum,
    minimum,
    select,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS

IGNORED, INVALID = -1, -2

# The rows of a block's figures. OWN: the label's logit, or any.
A, K, S, TOP, SPREAD, SQUARES, OWN, N_FIGURES = range(8)

# A row's sums are of terms as large as 2^lift, so that none leaves the format (card_rows.py); here that is taken back.
# Their unit is lifted too, so that it is a normal number where a figure made of many of them is the least there are.
LIFT32, LIFT64 = 60.0, 500.0
lift = by_type(LIFT32, LIFT64)

SHARE_ROUNDING = 1.5 * 2.0 ** (52 - 41)
NO_UNIT = -4000.0  # k of a row without other classes: its unit is 0
LEAST_UNIT, LEAST_INNER = -120.0, 2.0**-60  # for float32: squares of what is larger are normal numbers


def unit_of(like, k, s, top, scale, scale_low):
    """2^k·e^((s - top)·(scale + scale_low)), a row's unit, for eight rows; never much above 2^lift."""


def lowered(like, x):
    """x·2^-lift, as k is lower by it."""


@overload(lowered, jit_options=INLINE)
def _lowered(like, x):
    return (lambda like, x: x * 2.0**-LIFT32) if is_float32(like) else (lambda like, x: x * 2.0**-LIFT64)


def raised(like, k):
    """k + lift."""


@overload(raised, jit_options=INLINE)
def _raised(like, k):
    return (lambda like, k: k + LIFT32) if is_float32(like) else (lambda like, k: k + LIFT64)


@overload(unit_of, jit_options=INLINE)
def _unit_of(like, k, s, top, scale, scale_low):
    if is_float32(like):

        def rough(like, k, s, top, scale, scale_low):
            x = maximum((s - top) * scale, -2000.0)
            return select(fma(k, LN_2, x) >= -700.0, elementary.rough_exp(x, k), 0.0)

        return rough

    def full(like, k, s, top, scale, scale_low):
        x = s - top
        back = x - s
        x_low = (s - (x - back)) - (top + back)
        exponent = fma(k, LN_2, x * scale)
        counts = exponent >= -420.0  # 2^500·e^-766
        unit = elementary.exp_times(
            1.0, select(counts, x, 0.0), select(counts, x_low, 0.0), scale, scale_low, select(counts, k, 0.0)
        )
        return select(counts, unit, 0.0)

    return full


def decay(like, distance):
    """e^-distance for a distance >= 0."""


@overload(decay, jit_options=INLINE)
def _decay(like, distance):
    if is_float32(like):
        return lambda like, distance: elementary.rough_exp(maximum(-distance, -700.0), 0.0)
    return lambda like, distance: elementary.exp(-distance)


def log1p(like, x):
    """ln(1 + x) for x >= 0."""


@overload(log1p, jit_options=INLINE)
def _log1p(like, x):
    if is_float32(like):
        return lambda like, x: elementary.rough_log1p(x)
    return lambda like, x: elementary.log1p(x)


def settled(like, x):
    """A figure with the bits that it keeps; x >= 0."""


@overload(settled, jit_options=INLINE)
def _settled(like, x):
    if is_float32(like):
        return lambda like, x: settled_narrow(x)
    return lambda like, x: x


@inline
def settled_narrow(x):
    """A float64 with 24 of its bits; x >= 0."""
    return from_bits((bits(x) + (1 << 28)) & -(1 << 29))


@inline
def settled_share_narrow(q):
    """A share as a multiple of 2^-41."""
    return (q + SHARE_ROUNDING) - SHARE_ROUNDING


def settled_share(like, q):
    """A share with the bits that it keeps."""


@overload(settled_share, jit_options=INLINE)
def _settled_share(like, q):
    if is_float32(like):
        return lambda like, q: settled_share_narrow(q)
    return lambda like, q: q


@inline
def finish_eight(like, a, k, s, top, spread, squares, own, scale, scale_low):
    """The figures of eight rows: NLL, entropy, confidence, Brier score, and -ln q of the largest class."""
    unit = unit_of(like, raised(like, raised(like, k)), s, top, scale, scale_low)
    inner = lowered(like, lowered(like, a) * unit)
    q, top_nll = 1.0 / (inner + 1.0), log1p(like, inner)
    share, unit, spread = inner * q, unit * q, lowered(like, spread)
    least = lowered(like, lowered(like, unit))
    distance = (top - own) * scale
    own_q = decay(like, distance) * q
    brier = select(distance == 0.0, share * share, (q * q - own_q) + (1.0 - own_q)) + squares * least * least
    nll, entropy = settled(like, top_nll + distance), settled(like, top_nll + lowered(like, spread * scale * unit))
    return nll, entropy, settled_share(like, q), settled(like, brier), top_nll


@inline
def put(p, r, m, values):
    """Store the first m of eight numbers."""
    if m >= 8:
        store(p, r, values)
    else:
        store_some(p, r, first_lanes(m, values), values)


@inline
def put_figures(card, r, m, figures):
    """Store the figures of the first m of eight rows."""
    put(card[0], r, m, figures[0])
    put(card[1], r, m, figures[1])
    put(card[2], r, m, figures[2])
    put(card[3], r, m, figures[3])


@inline
def finish_card(like, figures, card, m, scale, scale_low):
    """The block's figures become those of the card; -ln q of the largest class takes the place of K."""
    f = pointer(figures, 0)
    for r in range(0, m, 8):
        a, k, s, top = load(f, A * ROWS + r), load(f, K * ROWS + r), load(f, S * ROWS + r), load(f, TOP * ROWS + r)
        spread, squares, own = load(f, SPREAD * ROWS + r), load(f, SQUARES * ROWS + r), load(f, OWN * ROWS + r)
        figures = finish_eight(like, a, k, s, top, spread, squares, own, scale, scale_low)
        put_figures(card, r, m - r, figures)
        store(f, K * ROWS + r, figures[4])


def finish_tile(totals, k, s, top, own, scale, scale_low, card, r, m):
    """The same for a tile of rows, given A, Σ e_j·(z_top - z_j) and Σ e_j²."""


@overload(finish_tile, jit_options=INLINE)
def _finish_tile(totals, k, s, top, own, scale, scale_low, card, r, m):
    if not is_float32(k):

        def narrow(totals, k, s, top, own, scale, scale_low, card, r, m):
            a, b, c = totals
            eight = finish_eight(k, a, k, s, top, b, c, own, scale, scale_low)
            put_figures(card, r, m, eight)

        return narrow

    def both(totals, k, s, top, own, scale, scale_low, card, r, m):
        a, b, c = totals
        near = finish_near(a, k, s, top, b, c, own, scale, scale_low)
        a1, a2 = halves(a)
        b1, b2 = halves(b)
        c1, c2 = halves(c)
        k1, k2 = halves(k)
        s1, s2 = halves(s)
        top1, top2 = halves(top)
        own1, own2 = halves(own)
        nll1, nll2 = halves(near[0])
        entropy1, entropy2 = halves(near[1])
        share1, share2 = halves(near[2])
        q1, q2 = halves(near[3])
        inner1, inner2 = halves(near[4])
        squares1, squares2 = halves(near[5])
        own_q1, own_q2 = halves(near[6])
        brier1, brier2 = brier_of(inner1, squares1, q1, own_q1), brier_of(inner2, squares2, q2, own_q2)
        eight = nll1, entropy1, confidence_of(share1, q1), brier1
        if any_lane(brier1 != brier1):
            eight = mended(eight, finish_eight(k, a1, k1, s1, top1, b1, c1, own1, scale, scale_low))
        put_figures(card, r, m, eight)
        if m > 8:
            eight = nll2, entropy2, confidence_of(share2, q2), brier2
            if any_lane(brier2 != brier2):
                eight = mended(eight, finish_eight(k, a2, k2, s2, top2, b2, c2, own2, scale, scale_low))
            put_figures(card, r + 8, m - 8, eight)

    return both


@inline
def finish_near(a, k, s, top, spread, squares, own, scale, scale_low):
    """The same figures of sixteen rows in float32, where the other classes have a share of 2^-60 or more.

    NLL, entropy, that share, q of the largest class; and for the Brier score inner (NaN where all this does not hold),
    Σ e_j² in its units, and the label's q, or 0 where the label is the largest class.
    """
    factor, factor_low = two_words(a, -scale, -scale_low)
    one, magic = fill(a, 1.0), elementary.rounding(a) + k
    t = fma(top, factor * LOG2_E, magic) - elementary.rounding(a)
    powers, rest = elementary.exp_parts32(top, factor, factor_low, magic)
    power = from_bits(bits(one) + powers)  # the unit of the sums is power·(1 + rest)
    inner = times(a, power, rest)
    near = (s == 0.0) & (t >= LEAST_UNIT) & (inner >= LEAST_INNER)
    q, top_nll = one / (inner + 1.0), elementary.log1p_positive(inner)
    share = inner * q
    distance = (own - top) * factor
    none = fill(a, 0.0)
    own_q = elementary.times_exp(q, minimum(distance, 80.0), none - 1.0, none, none + elementary.rounding(a))
    return (
        top_nll + distance,
        fma(times(spread, power, rest) * q, -factor, top_nll),
        share,
        q,
        select(near, inner, math.nan),
        times(times(squares, power, rest), power, rest),
        select(distance == 0.0, none, own_q),
    )


@inline
def brier_of(inner, squares, q, own_q):
    """The Brier score of eight rows in float64: where it is small it is a square, which doubles what is lost in inner.

    own_q: the label's, or 0 where the label is the largest class.
    """
    q = fma(q, fma(-q, inner, 1.0 - q), q)  # 1/(1 + inner), by Newton's step from its value in float32
    share, q2 = inner * q, q * q
    of_others = squares * q2
    return settled_narrow(select(own_q == 0.0, fma(share, share, of_others), (q2 - own_q) + (1.0 - own_q) + of_others))


@inline
def times(x, power, rest):
    """x·power·(1 + rest), for a power of two: rounded once."""
    x = x * power
    return fma(x, rest, x)


@inline
def confidence_of(share, q):
    """The largest probability of eight rows, given the others' share too, which tells a small one more accurately."""
    return (select(share < 0.5, 1.0 - share, q) + SHARE_ROUNDING) - SHARE_ROUNDING


@inline
def mended(figures, full):
    """Figures of eight rows, those of ``full`` where they do not hold."""
    missing = figures[3] != figures[3]
    return (
        select(missing, full[0], figures[0]),
        select(missing, full[1], figures[1]),
        select(missing, full[2], figures[2]),
        select(missing, full[3], figures[3]),
    )


def put_integers(p, r, m, values):
    """Store the first m of a vector of integers as int64."""


@overload(put_integers, jit_options=INLINE)
def _put_integers(p, r, m, values):
    if values.lanes == 8:
        return lambda p, r, m, values: put(p, r, m, values)

    def both(p, r, m, values):
        low, high = halves(values)
        put(p, r, m, low)
        put(p, r + 8, m - 8, high)

    return both


@inline
def blank(card, r, rank):
    """A row that does not count."""
    nll, entropy, confidence, brier, predicted, ranks = card
    nll[r] = 0.0 if rank == IGNORED else math.nan
    entropy[r] = 0.0
    confidence[r] = 0.0
    brier[r] = 0.0
    predicted[r] = 0
    ranks[r] = rank
