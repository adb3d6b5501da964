"""Fixed bins: of NLL, of confidence, and of the probability of class 1. All functions work on vectors of eight."""

import math

from fastxent.kernels.elementary import whole, whole_float
from fastxent.kernels.jit import inline
from fastxent.kernels.simd import bits, fma, maximum, minimum, select

# Tally.nll_rows: NLL below 2^FIRST_OCTAVE (0 included); then QUARTERS bins an octave, from 2^k {1, 1.25, 1.5, 1.75} on;
# then finite NLL of 2^LAST_OCTAVE and above; then infinity. The index is in the number's bits.
FIRST_OCTAVE, LAST_OCTAVE, QUARTERS = -20, 7, 4
N_NLL = (LAST_OCTAVE - FIRST_OCTAVE) * QUARTERS + 3
NLL_BASE = (FIRST_OCTAVE + 1023) * QUARTERS - 1

# Tally.score_rows, two classes: rows by label and by the probability of class 1, for the area under the ROC curve. With
# p = 1 - confidence <= 1/2, a bin is a relative step of 2^-SCORE_BITS in p, with 1/2, 1/4, ... amid their bins, not on
# an edge; what is below 2^-SCORE_OCTAVES / 2 shares one bin. SCORE_HALF is the bin of p = 1/2.
SCORE_BITS, SCORE_OCTAVES = 11, 32
SCORE_HALF = SCORE_OCTAVES << SCORE_BITS
N_SCORES = 2 * SCORE_HALF + 1
SCORE_SHIFT = 52 - SCORE_BITS
SCORE_BASE = (1022 << SCORE_BITS) - SCORE_HALF
HALF_STEP = 1 << (SCORE_SHIFT - 1)


@inline
def confidence_bin(confidence, n_bins):
    """The bin k with k/n_bins < confidence <= (k + 1)/n_bins; 0 is in the first, what exceeds 1 in the last."""
    k = whole(confidence * n_bins)
    k = k - select(confidence <= quotient(whole_float(k), n_bins, 1.0 / n_bins), k * 0 + 1, 0)
    return minimum(maximum(k, 0), n_bins - 1)


@inline
def quotient(a, b, inverse):
    """a / b, rounded once, given 1 / b rounded once: P. Markstein, IBM J. Res. Dev. 34 (1990), theorem 8.1."""
    guess = a * inverse
    return fma(fma(guess, -b, a), inverse, guess)


@inline
def nll_bin(nll):
    """The bin of `nll_rows` for an NLL."""
    k = minimum(maximum((bits(nll) >> 50) - NLL_BASE, 0), N_NLL - 2)
    return select(nll == math.inf, N_NLL - 1, k)


@inline
def score_bin(confidence, predicted):
    """The bin of `score_rows`, rising with the probability of class 1."""
    p = 1.0 - confidence
    k = ((bits(p) + HALF_STEP) >> SCORE_SHIFT) - SCORE_BASE
    k = minimum(maximum(k, 0), SCORE_HALF)
    return select(predicted == 0, k, 2 * SCORE_HALF - k)
