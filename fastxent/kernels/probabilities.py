"""One row of probabilities or log-probabilities -> its statistics, in float64 whatever the row's type."""

import math

from fastxent.kernels import elementary
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load_some_double
from fastxent.kernels.rows import guarded_total, largest, two_sum
from fastxent.kernels.simd import add_reduce, any_lane, first_lanes, lane_numbers, select, splat

# The codes of the kinds of prediction, in the order of checks.KINDS.
LOGITS, LOG_PROBS, PROBS = 0, 1, 2


@inline
def probability_sums(p, n, y):
    """The sum of a row without class y (-1: of all classes) in two words, and whether every entry is in [0, 1]."""
    total, low = splat(0.0), splat(0.0)
    valid = total == 0.0
    for i in range(0, n, 8):
        v = load_some_double(p, i, first_lanes(n - i, total), 0.0)
        valid = valid & (v >= 0.0) & (v <= 1.0)
        total, low = two_sum(total, low, select(lane_numbers(total) == y - i, 0.0, v))
    return add_reduce(total), add_reduce(low), not any_lane(~valid)


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
    if (
        normalize
    ):  # the sum of the others is taken without the largest class, so that it keeps its accuracy for that one
        top, first = largest(probs, n)
        rest, rest_low, _ = probability_sums(probs, n, first)
        rest += rest_low
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
