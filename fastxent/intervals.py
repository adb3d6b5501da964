"""Intervals that hold the true figure in 95 of 100 samples."""

import math

NORMAL_95 = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(share: float, n: float) -> tuple[float, float]:
    """The interval of a share of n rows; NaN without rows.

    References
    ----------
    E. B. Wilson: Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22 (1927).

    Examples
    --------
    >>> [round(x, 4) for x in wilson(0.5, 100)], wilson(1.0, 10)[1]
    ([0.4038, 0.5962], 1.0)
    """
    if not n > 0:
        return math.nan, math.nan
    z2 = NORMAL_95 * NORMAL_95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 0.0 if share <= 0 else max(0.0, middle - half), 1.0 if share >= 1 else min(1.0, middle + half)
