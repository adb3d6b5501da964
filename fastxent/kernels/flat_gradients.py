"""Gradients of few classes whose rows lie one after the other: the terms of flat.py once more, times a factor a row.

The rows' entries are those of gradients.label_tile, bit for bit: terms and factors differ from a tile's by powers of
two, which cancel. What that function leaves to float64 is left to it.
"""

from fastxent.kernels import elementary
from fastxent.kernels.elementary import log1p_positive
from fastxent.kernels.finish import figures_at, near_sum
from fastxent.kernels.flat import flat_figures, label_places
from fastxent.kernels.gradients import FACTOR, OWN, columns, exponent_place
from fastxent.kernels.jit import inline
from fastxent.kernels.memory import load, load_integers, store, store_double
from fastxent.kernels.permutations import permute
from fastxent.kernels.row_streams import finish_row, go_on_with_row, same
from fastxent.kernels.rows import lanes, two_words
from fastxent.kernels.simd import any_lane, bits, by_type, fill, from_bits, select
from fastxent.kernels.tiles import ROWS, TILES

# With S/(1 + S) and a row's weight within these no factor here or in gradients.py leaves the range of normal numbers
# that is served there, and no tile has taken its terms relative to another class (rows.too_small).
least_share = by_type(2.0**-70, 2.0**-280)
least_weight, largest_weight = by_type(2.0**-50, 2.0**-300), by_type(2.0**60, 2.0**300)


@inline
def write_on(i, row):
    """Write four vectors of a block that is done."""
    go_on_with_row(same, i, row)


@inline
def flat_block(p, n, label, places, weights, f, terms, values, parts, row):
    """Terms, figures, losses and factors of TILES tiles' rows; writes what is left of ``row``. Whether that served."""
    rows = TILES * lanes(p)
    label_places(label, n, rows, places)
    served = flat_figures(p, n, places, 0, f, terms, write_on, row)
    finish_row(same, rows * n, row)
    return served and flat_losses(f, weights, label, values, parts, rows)


@inline
def flat_losses(f, weights, label, values, parts, m):
    """Figures of m rows to losses, and to FACTOR (of e^x) and OWN, 0 for ignored rows. Whether that served."""
    width = lanes(f)
    high, low = two_words(f, -1.0, 0.0)
    served = fill(f, 0.0) == 0.0
    for r in range(0, m, width):
        a, k, s, z = figures_at(f, r)
        weight, ignored = columns(a, weights, r), load_integers(label, r, a) < 0
        sum_, near = near_sum(a, k, s, z, high, low)
        store_double(values, r, log1p_positive(sum_))
        share = sum_ / (sum_ + 1.0)
        power = from_bits(bits(fill(k, 1.0)) - (bits(k + elementary.rounding(k)) << exponent_place(k)))
        store(parts, FACTOR * ROWS + r, select(ignored, 0.0, share / a * weight * power))
        store(parts, OWN * ROWS + r, select(ignored, 0.0, 0.0 - share * weight))
        size = select(weight < 0.0, -weight, weight)
        moderate = ((size >= least_weight(a)) & (size <= largest_weight(a))) | (weight == 0.0)
        served = served & ((near & moderate & (share >= least_share(a))) | ignored)
    return not any_lane(~served)


@inline
def owners_of(n, numbers, owners):
    """Which of a tile's rows each element of its n vectors belongs to: integers behind ``owners``, as bits."""
    width = lanes(owners)
    for k in range(n * width):
        numbers[k] = k // n
    for k in range(0, n * width, width):
        store(owners, k, from_bits(load_integers(numbers, k, fill(owners, 0.0))))


@inline
def flat_gradient(terms, n, parts, owners, rows):
    """The gradients of TILES tiles' rows, one after the other; see owners_of. A label's term is 0, and no other."""
    width = lanes(terms)
    for t in range(0, TILES * width, width):
        factor, own = load(parts, FACTOR * ROWS + t), load(parts, OWN * ROWS + t)
        for k in range(0, n * width, width):
            e, owner = load(terms, t * n + k), bits(load(owners, k))
            store(rows, t * n + k, select(e == 0.0, permute(own, owner), e * permute(factor, owner)))
