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
