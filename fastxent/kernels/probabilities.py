"""One row of probabilities or log-probabilities -> its statistics, in float64 whatever the row's type."""

import math

from numba.extending import overload

from fastxent.kernels import elementary
from fastxent.kernels.jit import INLINE, inline
from fastxent.kernels.memory import load, load_some, load_some_double, prefetch, store, store_double
from fastxent.kernels.rows import add_terms, ahead, guarded_total, lanes, largest, two_sum
from fastxent.kernels.simd import (
    add_reduce,
    any_lane,
    fill,
    first_lanes,
    float64x8,
    lane_numbers,
    maximum,
    minimum,
    select,
    splat,
)  # fmt: skip
from fastxent.kernels.tiles import ROWS, store_sum

# The codes of the kinds of prediction, in the order of checks.KINDS.
LOGITS, LOG_PROBS, PROBS = 0, 1, 2


@inline
def probability_sum(p, n, y):
    """The sum of a row in float64 without class y (-1: of all classes); NaN where an entry is not in [0, 1].

    The lowest and the highest entry are compared once a row; NaNs, which they pass over, are in the sum.
    """
    width = lanes(p)
    block = 4 * width
    total, low = splat(0.0), splat(0.0)
    lowest, most = fill(p, 0.0), fill(p, 0.0)
    full = n - n % block
    for i in range(0, full, block):
        for j in range(4):
            prefetch(p, i + ahead(p) + j * width)
        a, b, c, d = load(p, i), load(p, i + width), load(p, i + 2 * width), load(p, i + 3 * width)
        lowest = minimum(minimum(minimum(minimum(lowest, a), b), c), d)
        most = maximum(maximum(maximum(maximum(most, a), b), c), d)
        if i <= y < i + block:
            a, b = without(a, y - i), without(b, y - i - width)
            c, d = without(c, y - i - 2 * width), without(d, y - i - 3 * width)
        total, low = add_terms(total, low, a)
        total, low = add_terms(total, low, b)
        total, low = add_terms(total, low, c)
        total, low = add_terms(total, low, d)
    for i in range(full, n, width):
        a = load_some(p, i, first_lanes(n - i, lowest), 0.0)
        lowest, most = minimum(lowest, a), maximum(most, a)
        total, low = add_terms(total, low, without(a, y - i))
    sum_ = add_reduce(total + low)
    return math.nan if any_lane((lowest < 0.0) | (most > 1.0)) or (y >= 0 and not p[max(y, 0)] >= 0.0) else sum_


@inline
def without(v, lane):
    """v with 0 in one lane, if it has that lane."""
    return select(lane_numbers(v) == lane, 0.0, v)


def add_rounded(total, low, terms):
    """add_terms, but float64 terms are added without what is rounded off: for a sum that is only compared with 1."""


@overload(add_rounded, jit_options=INLINE)
def _add_rounded(total, low, terms):
    if terms == float64x8:
        return lambda total, low, terms: (total + terms, low)
    return lambda total, low, terms: add_terms(total, low, terms)


@inline
def tile_probability_sum(tile, n, label, normalize, figures, r):
    """The same for each row of a tile, to ``figures`` (at least 3 x ROWS), column r on.

    That is the label's entry; when normalising the sum of the others; and the sum of all.
    """
    width = lanes(tile)
    own, lowest, most = fill(tile, 1.0), fill(tile, 0.0), fill(tile, 0.0)
    total, low = splat(0.0), splat(0.0)
    if normalize:
        for j in range(n):
            v = load(tile, j * width)
            lowest, most = minimum(lowest, v), maximum(most, v)
            mine = label == j
            own = select(mine, v, own)
            total, low = add_terms(total, low, select(mine, 0.0, v))
    else:
        for j in range(n):
            v = load(tile, j * width)
            lowest, most = minimum(lowest, v), maximum(most, v)
            own = select(label == j, v, own)
            total, low = add_rounded(total, low, v)
    valid = (lowest >= 0.0) & (most <= 1.0) & (own >= 0.0)
    store_double(figures, r, own)
    store_sum(figures, (ROWS if normalize else 2 * ROWS) + r, total, low, select(valid, fill(tile, 1.0), math.nan))
    if normalize:
        for i in range(r, r + width, 8):
            store(figures, 2 * ROWS + i, load(figures, i) + load(figures, ROWS + i))


@inline
def clipped_log_loss(own, others, eps, normalize):
    """-ln of the label's probability for eight rows, clipped to [eps, 1 - eps] when eps > 0.

    Normalised, it is ln(1 + others / own): the ratio to the row's sum is not formed, so nothing is lost near 1.
    """
    if normalize:
        total = own + others
        low, high = own < eps * total, others < eps * total
        ratio = others / own
        far = elementary.log(total) - elementary.log(own)  # for an own so small that the ratio overflows
        result = select(ratio < math.inf, elementary.log1p(ratio), select(own == 0.0, math.inf, far))
    else:
        low, high = own < eps, own > 1.0 - eps
        result = -elementary.log(own)
    if eps > 0.0:
        result = select(low, -elementary.log(eps), select(high, -elementary.log1p(-eps), result))
    return result


@inline
def soft_nll(log_probs, target, n, w, weighted):
    """Σ w_k·t_k·(-ln q_k) of one row of log-probabilities and of one target; Σ t_k; and whether both are valid."""
    loss, loss_low, mass, mass_low = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    valid = loss == 0.0
    sound = valid
    for i in range(0, n, 8):
        here = first_lanes(n - i, loss)
        v = load_some_double(log_probs, i, here, 0.0)
        t = load_some_double(target, i, here, 0.0)
        c = t * load_some_double(w, i, here & (splat(1.0 if weighted else 0.0) > 0.0), 1.0)
        sound = sound & (v <= 0.0)
        valid = valid & (t >= 0.0) & (t < math.inf)
        loss, loss_low = two_sum(loss, loss_low, select(c == 0.0, 0.0, -(c * v)))
        mass, mass_low = two_sum(mass, mass_low, t)
    return guarded_total(loss, loss_low), add_reduce(mass + mass_low), not any_lane(~sound), not any_lane(~valid)


@inline
def soft_log_loss(probs, target, n, w, weighted, eps, normalize):
    """Σ w_k·t_k·(-ln q_k) of one row of probabilities; Σ t_k; and whether the target is valid."""
    loss, loss_low, mass, mass_low = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    valid = loss == 0.0
    rest, top, first = 0.0, 0.0, -1
    if normalize:  # the others' sum is taken without the largest class, so that it keeps its accuracy for that one
        top, first = largest(probs, n)
        rest = probability_sum(probs, n, first)
    for i in range(0, n, 8):
        here = first_lanes(n - i, loss)
        v = load_some_double(probs, i, here, 1.0)
        t = load_some_double(target, i, here, 0.0)
        c = t * load_some_double(w, i, here & (splat(1.0 if weighted else 0.0) > 0.0), 1.0)
        valid = valid & (t >= 0.0) & (t < math.inf)
        others = select(lane_numbers(loss) == first - i, rest, (top - v) + rest)
        value = clipped_log_loss(v, others, eps, normalize)
        loss, loss_low = two_sum(loss, loss_low, select(c == 0.0, 0.0, c * value))
        mass, mass_low = two_sum(mass, mass_low, t)
    return guarded_total(loss, loss_low), add_reduce(mass + mass_low), not any_lane(~valid)


@inline
def pair(p, i, here, kind, factor):
    """Eight probabilities and their logarithms, from a row of either kind; lanes past the row are probability 0."""
    if kind == PROBS:
        q = load_some_double(p, i, here, 0.0) * factor
        return q, elementary.log(q)
    v = load_some_double(p, i, here, -math.inf)
    return elementary.exp(v), v


@inline
def information(p, n, kind, factor):
    """Entropy -Σ q ln q and Σ q² of one row of probabilities (times ``factor``) or log-probabilities."""
    entropy, entropy_low, squares, squares_low = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, n, 8):
        q, log_q = pair(p, i, first_lanes(n - i, entropy), kind, factor)
        entropy, entropy_low = two_sum(entropy, entropy_low, select(q == 0.0, 0.0, -(q * log_q)))
        squares, squares_low = two_sum(squares, squares_low, q * q)
    return guarded_total(entropy, entropy_low), add_reduce(squares + squares_low)


@inline
def are_log_probs(p, n):
    """Whether every entry of a row is at most 0 (and no NaN)."""
    zero = splat(0.0)
    valid = zero == 0.0
    for i in range(0, n, 8):
        valid = valid & (load_some_double(p, i, first_lanes(n - i, zero), 0.0) <= 0.0)
    return not any_lane(~valid)
