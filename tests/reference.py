"""Slow, obvious oracles for the tests: NumPy, math.fsum and mpmath; nothing here imports fastxent.

Three kinds, from many rows to many digits:

* `cross_entropy`, `nll`, `log_loss`, ...: the public functions' semantics over whole arrays, in NumPy's widest float;
* `sharp_nll`: many rows' NLL with the label's term left out of the sum, so that tiny losses are right too;
* `exact_*`: one row in mpmath, 60 digits; equal logits are counted rather than repeated, so that C = 200,000 is quick.

A quantity that is 0 times an infinity is 0 here: a class with no weight, or with no probability, contributes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np

WIDE = np.longdouble
WIDE_IS_WIDER = np.finfo(WIDE).nmant >= 63  # 80-bit on x86; tests that need it skip elsewhere
EXACT = mpmath.MPContext()
EXACT.dps = 60


# ---- whole arrays: what each public function must return ------------------------------------------------------------


def rows_of(x, axis=-1):
    """(values as rows, shape of what remains): the class axis moved last and the rest flattened."""
    x = np.moveaxis(np.asarray(x), axis, -1)
    return x.reshape(-1, x.shape[-1]), x.shape[:-1]


def invalid_rows(z):
    """A row with a NaN or +inf, or with no finite logit, has no softmax."""
    return np.isnan(z).any(-1) | np.isposinf(z).any(-1) | np.isneginf(z).all(-1)


def times(a, b):
    """a * b in which 0 wins over inf (never over NaN)."""
    a, b = np.broadcast_arrays(np.asarray(a, WIDE), np.asarray(b, WIDE))
    with np.errstate(invalid="ignore", over="ignore"):
        product = a * b
    return np.where(((a == 0) & np.isinf(b)) | ((b == 0) & np.isinf(a)), WIDE(0), product)


def logsumexp(logits, *, axis=-1, temperature=1.0):
    """ln Σ exp(z / T), NaN for an invalid row."""
    z, shape = rows_of(logits, axis)
    z = z.astype(WIDE) / WIDE(temperature)
    bad = invalid_rows(z)
    z[bad] = 0
    top = z.max(-1)
    value = top + np.log(np.exp(z - top[:, None]).sum(-1))
    value[bad] = np.nan
    return value.reshape(shape)


def log_softmax(logits, *, axis=-1, temperature=1.0):
    """z / T - ln Σ exp(z / T), the logits' shape, wide."""
    z = np.moveaxis(np.asarray(logits), axis, -1).astype(WIDE) / WIDE(temperature)
    lse = logsumexp(logits, axis=axis, temperature=temperature)
    with np.errstate(invalid="ignore"):
        value = z - lse[..., None]
    return np.moveaxis(value, -1, axis)


def softmax(logits, *, axis=-1, temperature=1.0):
    """exp of log_softmax."""
    return np.exp(log_softmax(logits, axis=axis, temperature=temperature))


def cross_entropy(
    logits,
    target,
    *,
    weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    temperature=1.0,
    reduction="mean",
    axis=-1,
):
    """torch.nn.functional.cross_entropy with a temperature, row weights and any class axis."""
    log_probs = log_softmax(logits, axis=axis, temperature=temperature)
    return _losses(log_probs, target, weight, sample_weight, ignore_index, label_smoothing, reduction, axis)


def nll(log_probs, target, *, weight=None, sample_weight=None, ignore_index=None, reduction="mean", axis=-1):
    """-Σ_k w_k p_k log_probs_k."""
    return _losses(np.asarray(log_probs, WIDE), target, weight, sample_weight, ignore_index, 0.0, reduction, axis)


def log_loss(
    probs,
    target,
    *,
    weight=None,
    sample_weight=None,
    ignore_index=None,
    eps=0.0,
    normalize=False,
    sum_tol=1e-3,
    reduction="mean",
    axis=-1,
):
    """nll of ln clip(probs, eps, 1 - eps); a row must sum to 1 within sum_tol unless it is to be normalised first."""
    p = np.moveaxis(np.asarray(probs).astype(WIDE), axis, -1)
    labels = np.asarray(target).ndim < p.ndim
    read = (np.asarray(target) != ignore_index) if labels and ignore_index is not None else np.ones(p.shape[:-1], bool)
    used = p[read]
    if not ((used >= 0) & (used <= 1)).all():
        raise ValueError("probs: outside [0, 1]")
    if not normalize and (abs(used.sum(-1) - 1) > sum_tol).any():
        raise ValueError("probs: a row does not sum to 1")
    with np.errstate(divide="ignore", invalid="ignore"):
        if normalize:
            p = p / p.sum(-1, keepdims=True)
        if eps > 0:
            p = np.clip(p, WIDE(eps), 1 - WIDE(eps))
        log_probs = np.moveaxis(np.log(p), -1, axis)
    return _losses(log_probs, target, weight, sample_weight, ignore_index, 0.0, reduction, axis)


def _losses(log_probs, target, weight, sample_weight, ignore_index, smoothing, reduction, axis):
    lp, shape = rows_of(log_probs, axis)
    n, c = lp.shape
    w = np.ones(c, WIDE) if weight is None else np.asarray(weight, WIDE)
    s = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64).reshape(-1)
    target = np.asarray(target)
    smoothing = WIDE(smoothing)
    if target.ndim < np.ndim(log_probs):  # class indices
        y = target.reshape(-1)
        kept = np.ones(n, bool) if ignore_index is None else y != ignore_index
        safe = np.where(kept, y, 0).astype(np.int64)
        value = times((1 - smoothing) * w[safe], -lp[np.arange(n), safe])
        denominator = s * np.asarray(w[safe], np.float64)
    else:  # distributions
        t, _ = rows_of(target, axis)
        kept = np.ones(n, bool)
        value = times((1 - smoothing) * times(t, w), -lp).sum(-1)
        value[np.isnan(lp).any(-1)] = np.nan
        denominator = s
    if smoothing:
        value = value + smoothing / c * times(w, -lp).sum(-1)
    return reduce(value.astype(np.float64), s, denominator, kept, shape, reduction)


def reduce(losses, sample_weight, denominator, kept, shape, reduction):
    """r = s * l (0.0 for an ignored row); its correctly rounded sum; that sum over the sum of the weights."""
    with np.errstate(invalid="ignore", over="ignore"):
        r = np.where(kept, losses * sample_weight, 0.0) + 0.0
    if reduction == "none":
        return r.reshape(shape)
    total = exact_sum(r)
    if reduction == "sum":
        return total
    weights = exact_sum(denominator[kept])
    return total / weights if kept.any() and weights else math.nan


def exact_sum(values):
    """math.fsum where it is defined; what IEEE says where a term is NaN or infinite."""
    values = np.asarray(values, np.float64)
    if np.isfinite(values).all():
        return math.fsum(values) + 0.0
    with np.errstate(invalid="ignore"):
        return float(np.sum(values[~np.isfinite(values)]))


def softplus(x):
    """ln(1 + e^x), wide, for any x."""
    x = np.asarray(x, WIDE)
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def binary_cross_entropy(logits, target, *, pos_weight=None, sample_weight=None, reduction="mean"):
    """w t ln(1 + e^-z) + (1 - t) ln(1 + e^z)."""
    z, t = np.asarray(logits).astype(WIDE), np.asarray(target).astype(WIDE)
    w = WIDE(1 if pos_weight is None else pos_weight)
    return _binary(times(w * t, softplus(-z)) + times(1 - t, softplus(z)), sample_weight, reduction)


def binary_log_loss(probs, target, *, pos_weight=None, sample_weight=None, eps=0.0, reduction="mean"):
    """-w t ln p - (1 - t) ln(1 - p)."""
    p, t = np.asarray(probs).astype(WIDE), np.asarray(target).astype(WIDE)
    w = WIDE(1 if pos_weight is None else pos_weight)
    if eps > 0:
        p = np.clip(p, WIDE(eps), 1 - WIDE(eps))
    with np.errstate(divide="ignore"):
        return _binary(times(w * t, -np.log(p)) + times(1 - t, -np.log1p(-p)), sample_weight, reduction)


def _binary(value, sample_weight, reduction):
    losses = np.asarray(value, np.float64)
    s = np.ones(losses.size) if sample_weight is None else np.asarray(sample_weight, np.float64).reshape(-1)
    return reduce(losses.reshape(-1), s, s, np.ones(losses.size, bool), losses.shape, reduction)


def _mean_of_rows(value, shape, reduction):
    value = np.asarray(value, np.float64)
    ones = np.ones(value.size)
    return reduce(value, ones, ones, np.ones(value.size, bool), shape, reduction)


def _probs_and_logs(x, kind, axis):
    rows, shape = rows_of(x, axis)
    rows = rows.astype(WIDE)
    if kind == "logits":
        logs = log_softmax(rows)
        return np.exp(logs), logs, shape
    if kind == "log_probs":
        return np.exp(rows), rows, shape
    with np.errstate(divide="ignore"):
        return rows, np.log(rows), shape


def entropy(p, *, kind="probs", reduction="none", axis=-1):
    """-Σ p ln p."""
    probs, logs, shape = _probs_and_logs(p, kind, axis)
    return _mean_of_rows(times(probs, -logs).sum(-1) + 0.0, shape, reduction)


def kl_divergence(p, q, *, kind="probs", reduction="none", axis=-1):
    """Σ p ln(p / q)."""
    probs, logs, shape = _probs_and_logs(p, kind, axis)
    _, q_logs, _ = _probs_and_logs(q, kind, axis)
    with np.errstate(invalid="ignore"):
        ratio = np.where(probs == 0, WIDE(0), logs - q_logs)
    return _mean_of_rows(times(probs, ratio).sum(-1), shape, reduction)


# ---- many rows, small losses included -------------------------------------------------------------------------------


def sharp_nll(logits, labels, *, temperature=1.0):
    """NLL of rows of finite logits with the label's term left out of the sum; wide, relative error near 2^-52.

    >>> float(sharp_nll([[100.0, 0.0]], [0])[0]) == math.exp(-100)
    True
    """
    z = np.asarray(logits).astype(WIDE)
    rows = np.arange(len(z))
    own = z[rows, labels]
    others = z.copy()
    others[rows, labels] = -np.inf
    top = others.max(-1)
    sums = np.exp((others - top[:, None]) / WIDE(temperature)).sum(-1)  # >= 1
    gap = (top - own) / WIDE(temperature)
    with np.errstate(over="ignore"):
        return np.where(gap > 0, gap + np.log(sums + np.exp(-abs(gap))), np.log1p(sums * np.exp(-abs(gap))))


# ---- one row, 60 digits ---------------------------------------------------------------------------------------------

INF, NAN = EXACT.inf, EXACT.nan


def exact(x):
    """The exact value of a float of any width."""
    return EXACT.mpf(float(x))


def _counted(z):
    values, counts = np.unique(np.asarray(z, np.float64), return_counts=True)
    return [(v, int(n)) for v, n in zip(values.tolist(), counts, strict=True) if v > -math.inf]


def _is_invalid(z):
    return bool(invalid_rows(np.asarray(z, np.float64)[None])[0])


def exact_nll(z, label, temperature=1.0):
    """ln(1 + Σ_{j≠y} e^((z_j - z_y) / T))."""
    if _is_invalid(z):
        return NAN
    own, t = float(z[label]), exact(temperature)
    if own == -math.inf:
        return INF
    rest = _counted(np.delete(np.asarray(z, np.float64), label))
    return EXACT.log1p(EXACT.fsum(n * EXACT.exp((exact(v) - exact(own)) / t) for v, n in rest))


def _exponentials(z, temperature):
    """({logit: (how many, e^((z - max) / T))}, a function logit -> -ln q)."""
    t, counted = exact(temperature), _counted(z)
    top = counted[-1][0]
    e = {v: (n, EXACT.exp((exact(v) - exact(top)) / t)) for v, n in counted}
    total = EXACT.fsum(n * power for n, power in e.values())
    below_top = EXACT.fsum(n * power for v, (n, power) in e.items() if v != top)

    def minus_log(v):
        if v == -math.inf:
            return INF
        n, power = e[v]
        rest = below_top + (n - 1) if v == top else total - power  # everything but one class of this logit
        return EXACT.log1p(rest / power)

    return e, total, minus_log


def exact_nlls(z, labels, temperature=1.0):
    """[exact_nll(z, y) for y in labels], the exponentials shared."""
    if _is_invalid(z):
        return [NAN] * len(labels)
    _, _, minus_log = _exponentials(z, temperature)
    return [minus_log(float(z[y])) for y in labels]


def exact_distribution(z, temperature=1.0):
    """{logit: (how many, q, -ln q)} of softmax(z / T); masked classes are left out."""
    e, total, minus_log = _exponentials(z, temperature)
    return {v: (n, power / total, minus_log(v)) for v, (n, power) in e.items()}


def exact_logsumexp(z, temperature=1.0):
    """max / T + ln Σ e^((z - max) / T)."""
    if _is_invalid(z):
        return NAN
    top, t = float(np.max(z)), exact(temperature)
    return exact(top) / t + EXACT.log(EXACT.fsum(n * EXACT.exp((exact(v) - exact(top)) / t) for v, n in _counted(z)))


def exact_log_softmax(z, temperature=1.0):
    """-(-ln q) class by class."""
    if _is_invalid(z):
        return [NAN] * len(z)
    found = exact_distribution(z, temperature)
    return [-found[float(v)][2] if v > -math.inf else -INF for v in z]


def exact_cross_entropy(z, target, weight=None, label_smoothing=0.0, temperature=1.0):
    """Σ_k w_k ((1 - ε) p_k + ε / C) (-ln q_k); `target` is a label or a distribution."""
    if _is_invalid(z):
        return NAN
    if np.ndim(target) == 0 and label_smoothing == 0:
        return exact_nll(z, target, temperature) * (1 if weight is None else exact(weight[target]))
    c, epsilon = len(z), exact(label_smoothing)
    p = np.eye(1, c, target)[0] if np.ndim(target) == 0 else target
    w = np.ones(c) if weight is None else weight
    kinds = Counter(zip(*(np.asarray(x, np.float64).tolist() for x in (z, p, w)), strict=True))  # few, if C is large
    coefficients = {}  # summed over equal logits, so that the logarithms are few
    for (v, p_k, w_k), n in kinds.items():
        coefficients.setdefault(v, []).append(n * exact(w_k) * ((1 - epsilon) * exact(p_k) + epsilon / c))
    found = exact_distribution(z, temperature)
    total = EXACT.mpf(0)
    for v, parts in coefficients.items():
        own = EXACT.fsum(parts)
        if own:
            total += own * (found[v][2] if v > -math.inf else INF)
    return total


def exact_gradient(z, coefficients, temperature=1.0):
    """[(gradient, what its error is measured on, Hessian's diagonal, M q)] of Σ c_k (-ln q_k), times T and T^2.

    q_k (M - c_k) - c_k (1 - q_k) with M = Σ c, beside the sum of both terms; and M q_k (1 - q_k).
    """
    if _is_invalid(z):
        return [(NAN, NAN, NAN, NAN)] * len(z)
    c = [exact(x) if not isinstance(x, EXACT.mpf) else x for x in coefficients]
    mass, found = EXACT.fsum(c), exact_distribution(z, temperature)
    result = []
    for v, own in zip(z, c, strict=True):
        _, q, minus_log = found.get(float(v), (1, EXACT.mpf(0), INF))
        rest = -EXACT.expm1(-minus_log)
        result.append((q * (mass - own) - own * rest, q * (mass - own) + own * rest, mass * q * rest, mass * q))
    return result


def exact_log_loss(probs, target, weight=None, eps=0.0, normalize=False):
    """-Σ_k w_k p_k ln(clip(q_k, eps, 1 - eps)), q divided by its sum first when asked."""
    c = len(probs)
    q = [exact(v) for v in probs]
    total = EXACT.fsum(q)
    rest = {k: EXACT.fsum(q[:k] + q[k + 1 :]) for k in range(c) if q[k] > total / 2}

    def minus_log(k):
        ratio = q[k] / total if normalize else q[k]
        if eps > 0 and not eps < ratio < 1 - exact(eps):
            return -EXACT.log(exact(eps)) if ratio <= eps else -EXACT.log1p(-exact(eps))
        if normalize and k in rest:
            return EXACT.log1p(rest[k] / q[k])  # a loss below 1e-60 keeps its digits
        return -EXACT.log(ratio) if ratio else INF

    p = np.eye(1, c, target)[0] if np.ndim(target) == 0 else target
    w = np.ones(c) if weight is None else weight
    return EXACT.fsum(exact(w[k]) * exact(p[k]) * minus_log(k) for k in range(c) if p[k] and w[k])


def exact_entropy(p, kind):
    """-Σ p ln p for any kind of prediction."""
    if kind == "logits":
        if _is_invalid(p):
            return NAN
        return EXACT.fsum(n * q * minus_log for n, q, minus_log in exact_distribution(p).values())
    if kind == "log_probs":
        return EXACT.fsum(-exact(v) * EXACT.exp(exact(v)) for v in p if v > -math.inf)
    return EXACT.fsum(-exact(v) * EXACT.log(exact(v)) for v in p if v)


def exact_kl_divergence(p, q, kind):
    """(Σ p ln(p / q), Σ |p ln(p / q)|): the value and the scale its error is measured on."""
    terms = []
    if kind == "logits":
        a, b = exact_distribution(p), exact_distribution(q)
        for u, v in zip(p, q, strict=True):
            if u > -math.inf:
                _, prob, minus_log = a[float(u)]
                terms.append(prob * ((b[float(v)][2] if v > -math.inf else INF) - minus_log))
    elif kind == "log_probs":
        terms = [EXACT.exp(exact(u)) * (exact(u) - exact(v)) for u, v in zip(p, q, strict=True) if u > -math.inf]
    else:
        terms = [exact(u) * (EXACT.log(exact(u) / exact(v)) if v else INF) for u, v in zip(p, q, strict=True) if u]
    return EXACT.fsum(terms), EXACT.fsum(abs(term) for term in terms)


def exact_binary_cross_entropy(z, t, pos_weight=1.0):
    """w t ln(1 + e^-z) + (1 - t) ln(1 + e^z)."""
    z, t = exact(z), exact(t)
    positive = exact(pos_weight) * t * EXACT.log1p(EXACT.exp(-z)) if t else EXACT.mpf(0)
    return positive + ((1 - t) * EXACT.log1p(EXACT.exp(z)) if t != 1 else 0)


def exact_binary_log_loss(p, t, pos_weight=1.0, eps=0.0):
    """-w t ln p - (1 - t) ln(1 - p)."""
    p, t = exact(p), exact(t)
    if eps > 0:
        p = min(max(p, exact(eps)), 1 - exact(eps))
    positive = exact(pos_weight) * t * (-EXACT.log(p) if p else INF) if t else EXACT.mpf(0)
    return positive + ((1 - t) * (-EXACT.log1p(-p) if p != 1 else INF) if t != 1 else 0)


# ---- two models on the same rows ------------------------------------------------------------------------------------


def paired_difference(d, sample_weight=None, cluster=None):
    """(mean, standard error, degrees of freedom) of differences d, in rational arithmetic up to the square root."""
    s = [Fraction(1)] * len(d) if sample_weight is None else [Fraction(float(w)) for w in sample_weight]
    d = [Fraction(float(x)) for x in d]
    rows = [i for i in range(len(d)) if s[i]]
    total = sum(s[i] for i in rows)
    mean = sum(s[i] * d[i] for i in rows) / total
    parts = {}
    for i in rows:
        key = i if cluster is None else cluster[i]
        parts[key] = parts.get(key, 0) + s[i] * (d[i] - mean)
    n = len(parts)
    variance = Fraction(n, n - 1) * sum(e * e for e in parts.values()) / total**2
    return float(mean), math.sqrt(variance), n - 1


def holm(p_values):
    """Adjusted p-values: the largest, over the smaller ones and this one, of p times the hypotheses that are left."""
    ranked = sorted(p_values)
    m = len(ranked)
    return [min(1.0, max((m - k) * ranked[k] for k in range(m) if ranked[k] <= p)) for p in p_values]


# ---- the bootstrap -------------------------------------------------------------------------------------------------


def philox4x32(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    """Philox4x32 (Salmon, Moraes, Dror, Shaw, SC 2011) of counters uint32[..., 4]."""
    c, (k0, k1) = np.asarray(counter, np.uint64), key
    low = np.uint64(0xFFFFFFFF)
    for _ in range(rounds):
        p, q = c[..., 0] * np.uint64(0xD2511F53), c[..., 2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = np.stack(
            [(q >> shift) ^ c[..., 1] ^ np.uint64(k0), q & low, (p >> shift) ^ c[..., 3] ^ np.uint64(k1), p & low], -1
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c.astype(np.uint32)


def poisson_of_bits(u: np.ndarray) -> np.ndarray:
    """Counts of mean 1 from 16 random bits: the low three name a column, the others choose one of its two values."""
    column, rest = u & 7, u >> 3
    own = rest < np.array([4754, 7765, 8192, 4017, 1004, 200, 34, 6])[column]
    return np.where(own, column, np.array([2, 2, 2, 0, 0, 0, 1, 1])[column])


def bootstrap_counts(seed: int, rows: np.ndarray, n: int) -> np.ndarray:
    """How often each of n replicates has each row, by its position: int[n_rows, n]."""
    rows, b = np.asarray(rows, np.int64)[:, None], np.arange(n)[None, :]
    pair = rows >> 1
    number = 8 * (b // 32) + b % 16 // 2 + 0 * pair
    counter = np.stack([number, pair % 2**32 + 0 * b, (pair >> 32) % 2**32 + 0 * b, 0 * number], -1)
    word = 2 * (b % 32 // 16) + b % 2 + 0 * pair
    drawn = np.take_along_axis(philox4x32(counter, (seed % 2**32, seed >> 32)), word[..., None], -1)[..., 0]
    return poisson_of_bits(np.where(rows % 2 == 1, drawn >> 16, drawn & 0xFFFF).astype(np.int64))


def bootstrap_figures(probs, labels, counts, *, top_k, bins):
    """Every replicate's figures of a model, by name, from rows' counts (times weights), float64[n_rows, n]."""
    rows, total = np.arange(len(labels)), counts.sum(0)
    own, hit, share = probs[rows, labels], probs.argmax(-1) == labels, probs.max(-1)
    place = np.ceil(share * bins).astype(int) - 1
    nll = -np.log(own) @ counts / total
    return {
        "nll": nll,
        "perplexity": np.exp(nll),
        "accuracy": hit @ counts / total,
        f"top_{top_k}_accuracy": ((probs > own[:, None]).sum(-1) < top_k) @ counts / total,
        "ece": sum(abs(((hit - share) * (place == k)) @ counts) for k in range(bins)) / total,
    }
