"""Sums around a row's largest class -> the figures of a score card, eight rows at once.

With inner = Σ e^((z_j - top)/T) over the other classes, q_top = 1/(1 + inner), and their share is inner·q_top.

From float32 logits the figures are good to 24 bits, and so many they keep (a confidence: the multiple of 2^-41), so
that sums of them, and of their squares, are cheap to take exactly.
"""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.elementary import LN_2, fma
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, pointer, store, store_some
from fastxent.kernels.simd import bits, by_type, first_lanes, from_bits, halves, is_float32, maximum, select
from fastxent.kernels.tiles import ROWS

IGNORED, INVALID = -1, -2

# The rows of a block's figures. OWN: the label's logit, or any.
A, K, S, TOP, SPREAD, SQUARES, OWN, N_FIGURES = range(8)

# A row's sums are of terms as large as 2^lift, so that none leaves the format (card_rows.py); here that is taken back.
LIFT32, LIFT64 = 60.0, 500.0
lift = by_type(LIFT32, LIFT64)

SHARE_ROUNDING = 1.5 * 2.0 ** (52 - 41)
NO_UNIT = -4000.0  # k of a row without other classes: its unit is 0


def unit_of(like, k, s, top, scale, scale_low):
    """2^k·e^((s - top)·(scale + scale_low)), the unit of a row's sums, for eight rows; never much above 1."""


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
        counts = exponent >= -760.0
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
        return lambda like, x: from_bits((bits(x) + (1 << 28)) & -(1 << 29))
    return lambda like, x: x


def settled_share(like, q):
    """A share with the bits that it keeps."""


@overload(settled_share, jit_options=INLINE)
def _settled_share(like, q):
    if is_float32(like):
        return lambda like, q: (q + SHARE_ROUNDING) - SHARE_ROUNDING
    return lambda like, q: q


@inline
def finish_eight(like, a, k, s, top, spread, squares, own, scale, scale_low, card, r, m):
    """The figures of eight rows, to rows r .. r + m - 1 of the card. Returns -ln q of the largest class."""
    unit = unit_of(like, raised(like, k), s, top, scale, scale_low)
    inner = lowered(like, a) * unit
    q, top_nll = 1.0 / (inner + 1.0), log1p(like, inner)
    share, unit, spread = inner * q, unit * q, lowered(like, spread)
    least = lowered(like, unit)
    distance = (top - own) * scale
    own_q = decay(like, distance) * q
    brier = select(distance == 0.0, share * share, (q * q - own_q) + (1.0 - own_q)) + squares * least * least
    put(card[0], r, m, settled(like, top_nll + distance))
    put(card[1], r, m, settled(like, top_nll + spread * scale * unit))
    put(card[2], r, m, settled_share(like, q))
    put(card[3], r, m, settled(like, brier))
    return top_nll


@inline
def put(p, r, m, values):
    """Store the first m of eight numbers."""
    if m >= 8:
        store(p, r, values)
    else:
        store_some(p, r, first_lanes(m, values), values)


@inline
def finish_card(like, figures, card, m, scale, scale_low):
    """The block's figures become those of the card; -ln q of the largest class takes the place of K."""
    f = pointer(figures, 0)
    for r in range(0, m, 8):
        a, k, s, top = load(f, A * ROWS + r), load(f, K * ROWS + r), load(f, S * ROWS + r), load(f, TOP * ROWS + r)
        spread, squares, own = load(f, SPREAD * ROWS + r), load(f, SQUARES * ROWS + r), load(f, OWN * ROWS + r)
        top_nll = finish_eight(like, a, k, s, top, spread, squares, own, scale, scale_low, card, r, m - r)
        store(f, K * ROWS + r, top_nll)


def finish_tile(sums, k, s, top, own, scale, scale_low, card, r, m):
    """The same for a tile of rows, whose sums are those of card_rows.add_products."""


@overload(finish_tile, jit_options=INLINE)
def _finish_tile(sums, k, s, top, own, scale, scale_low, card, r, m):
    if not is_float32(k):

        def narrow(sums, k, s, top, own, scale, scale_low, card, r, m):
            a, a_low, b, b_low, c, c_low = sums
            finish_eight(k, a + a_low, k, s, top, b + b_low, c + c_low, own, scale, scale_low, card, r, m)

        return narrow

    def both(sums, k, s, top, own, scale, scale_low, card, r, m):
        a1, a2, b1, b2, c1, c2 = sums
        k1, k2 = halves(k)
        s1, s2 = halves(s)
        top1, top2 = halves(top)
        own1, own2 = halves(own)
        finish_eight(k, a1, k1, s1, top1, b1, c1, own1, scale, scale_low, card, r, m)
        if m > 8:
            finish_eight(k, a2, k2, s2, top2, b2, c2, own2, scale, scale_low, card, r + 8, m - 8)

    return both


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
