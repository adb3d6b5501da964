"""Wide oracles: float64 for functions of float32, long doubles for float64. Their own errors are checked on samples.

Each is a textbook formula of NumPy's functions; float64's exp, log and log1p are within 1 ulp (2^-29 ulp of a
float32), x86's long doubles within 2^-63 (2^-11 ulp of a float64).
"""

import numpy as np

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
WIDE_IS_WIDER = np.finfo(np.longdouble).nmant >= 63  # 80-bit on x86; what needs it is left out elsewhere


def wide(x):
    """An array of float32 as float64, of float64 as long doubles."""
    return x.astype(WIDER[x.dtype.type])


def exp_by_power(x, k):
    """e^x·2^k where e^x alone may leave the range, for |x| below 1400 and |k| below 2048."""
    half = np.exp(x / 2)
    return np.ldexp(half, k) * half


def quotient(x, divisor):
    """x / divisor in two words: the first is rounded, the second what it misses (Dekker, Numer. Math. 18, 1971)."""
    high = x / x.dtype.type(divisor)
    if x.dtype == np.float64:  # of a float32: 53 bits are enough, as |x / divisor| is at most 1024
        return high, np.zeros_like(high)
    splitter = high * np.longdouble(2**32 + 1)
    top = splitter - (splitter - high)
    low = high - top
    front = np.longdouble(np.float32(divisor))
    back = np.longdouble(divisor) - front
    missed = (x - top * front) - top * back - low * front - low * back
    return high, missed / np.longdouble(divisor)


def softplus(x):
    """ln(1 + e^x)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    """1 / (1 + e^-x), small ones too."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


# --- rows: arrays of shape (n, C) -------------------------------------------------------------------------------------


def times(a, b):
    """a·b in which 0 wins over inf."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0.0, a * b)


class Softmax:
    """Everything about softmax(z / T) that takes no difference of near numbers: all sums are of terms >= 0.

    Beside the largest logit's own term, 1, stands the others' sum `rest`, which is never 1 + rest - 1.
    """

    def __init__(self, z, temperature=1.0):
        z = wide(z)
        rows = np.arange(len(z))
        first = z.argmax(1)
        self.top = z[rows, first]
        with np.errstate(all="ignore"):
            high, low = quotient(z - self.top[:, None], temperature)
            self.terms = np.where(high < -11000, 0.0, np.exp(high) * (1 + np.where(np.isfinite(low), low, 0.0)))
            self.terms[rows, first] = 0
            self.rest = self.terms.sum(1, keepdims=True)
            self.minus_log = np.log1p(self.rest) - high
            self.minus_log[rows, first] = np.log1p(self.rest[:, 0])
            others = 1 + (self.rest - self.terms)
            others[rows, first] = self.rest[:, 0]
            self.terms[rows, first] = 1
            self.share = self.terms / (1 + self.rest)  # q
            self.others = others / (1 + self.rest)  # 1 - q
        self.first = first


def divergence_of_logits(zp, zq):
    """Σ p ln(p / q) and Σ p |ln(p / q)| of softmax(zp), softmax(zq): from the logits' differences, less one of them."""
    p, q = Softmax(zp), Softmax(zq)
    rows = np.arange(len(zp))
    with np.errstate(all="ignore"):
        d = (wide(zp) - p.top[:, None]) - (wide(zq) - q.top[:, None])  # exact where it counts, however large both are
        d = d - d[rows, q.first][:, None]
        lost = q.share < np.finfo(d.dtype).tiny
        grown = np.where(lost, np.exp(d - q.minus_log) - q.share, times(q.share, np.expm1(d)))
        near = np.log1p(grown.sum(1, keepdims=True))
        serves = ((d < 600) | (p.share == 0)).all(1, keepdims=True)
        ratio = np.where(serves, d - near, q.minus_log - p.minus_log)
    terms = times(p.share, ratio)
    return terms.sum(1), np.abs(terms).sum(1)


def log_ratio(p, q):
    """ln(p / q), near 1 too."""
    with np.errstate(all="ignore"):
        return np.where((p < 2 * q) & (q < 2 * p), np.log1p((p - q) / q), np.log(p) - np.log(q))
