"""Random numbers that a counter and a key decide: Philox4x32-10, eight counters at once; Poisson counts from them.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC (2011). Any number can be had at any time,
so what is drawn for a row depends neither on the rows before it nor on who draws.
"""

from fastxent.kernels.jit import inline
from fastxent.kernels.permutations import table
from fastxent.kernels.simd import from_bits, select, words

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what a round adds to the key: the golden ratio, sqrt(3) - 1
WORD = 0xFFFFFFFF

# A count of mean 1 from 16 random bits, by Walker's alias method (1977): of the 2^16 values of the bits, so many give
# 0, 1, ..., 7. They are the Poisson distribution's to within 2.4 / 2^16, with its mean and variance exactly (1 and 1)
# and its third moment within 2^-15; 8 and more, once in 98,000 draws, do not occur.
VALUES = (24109, 24109, 12057, 4017, 1004, 200, 34, 6)
_LIMIT = tuple(8 * n for n in (4754, 7765, 8192, 4017, 1004, 200, 34, 6))  # below it the column's own number
_OTHER = (2, 2, 2, 0, 0, 0, 1, 1)
_FLOAT32 = (0x00000000, 0x3F800000, 0x40000000, 0x40400000, 0x40800000, 0x40A00000, 0x40C00000, 0x40E00000)

_limit, _own = table(_LIMIT), table(_FLOAT32)
_other = table(tuple(_FLOAT32[k] for k in _OTHER))


@inline
def philox(c0, c1, c2, c3, k0, k1):
    """Four random words from the words of a counter and a key, in the low halves of int64; the high ones are noise."""
    for _ in range(ROUNDS):
        p, q = (c0 & WORD) * MULTIPLIERS[0], (c2 & WORD) * MULTIPLIERS[1]
        c0, c1, c2, c3 = (q >> 32) ^ c1 ^ k0, q, (p >> 32) ^ c3 ^ k1, p
        k0, k1 = k0 + WEYL[0], k1 + WEYL[1]
    return c0, c1, c2, c3


@inline
def together(a, b):
    """The low halves of two vectors of int64, by turns: 16 x int32."""
    return words((a & WORD) | (b << 32))


@inline
def poisson(u):
    """Counts, as 16 x float32, from 16 random bits in each of 16 x int32."""
    return from_bits(select(u < _limit(u), _own(u), _other(u)))
