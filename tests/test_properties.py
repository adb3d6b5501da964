"""What holds for any rows, whatever the numbers are: Hypothesis looks for rows for which it does not.

A few examples by default, always the same ones; --slow tries a thousand new ones of each.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fastxent

BOUND = {"float32": 2.0**-21, "float64": 2.0**-49}
NONE = {"reduction": "none", "threads": 1}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

KINDS = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)
# Numbers at which kernels change their ways, and any others.
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-30, 88.0, -104.0, 512.0, 690.5, -746.0, 1e4, 1e8, -1e8]
NUMBERS = st.one_of(st.sampled_from(SPECIAL), st.floats(-30, 30, width=32), st.floats(-2e3, 2e3, width=32))


@st.composite
def logits(draw, numbers=NUMBERS, most_classes=20):
    """A few rows of a few classes; float32 or float64."""
    shape = draw(st.integers(1, 5)), draw(st.integers(1, most_classes))
    return draw(arrays.arrays(draw(KINDS), shape, elements=numbers, fill=numbers))


@st.composite
def labelled(draw, **options):
    z = draw(logits(**options))
    return z, np.array([draw(st.integers(0, z.shape[1] - 1)) for _ in z])


@st.composite
def distributions(draw, z):
    """A target for every row: some entries 0, the sum 1."""
    weights = draw(arrays.arrays(np.float64, z.shape, elements=st.sampled_from([0.0, 1e-9, 0.01, 0.3, 1.0, 2.5])))
    weights[weights.sum(1) == 0] = 1.0
    return weights / weights.sum(1, keepdims=True)


def bound_of(z):
    return BOUND[z.dtype.name]


def losses(z, y, **options):
    return fastxent.cross_entropy(z, y, **NONE, **options)


def assert_near(a, b, relative, absolute=0.0):
    """Within a relative distance of each other; the same infinities."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(a - b) <= relative * np.maximum(np.abs(a), np.abs(b)) + absolute + 2e-323
    assert (near | (a == b)).all(), (a, b)


@given(labelled(numbers=st.integers(-1600, 1600).map(lambda k: k / 16)), st.integers(-900, 900))
def test_a_shift_that_is_exact_changes_no_loss_beyond_the_bound(rows, shift):
    z, y = rows
    moved = z + z.dtype.type(shift)  # sixteenths below 1024: exact in float32
    assert ((moved - z.dtype.type(shift)) == z).all()
    assert_near(losses(moved, y), losses(z, y), 2 * bound_of(z))
    assert_near(fastxent.log_softmax(moved), fastxent.log_softmax(z), 2.1 * bound_of(z))
    scale = np.abs(z).max() + abs(shift) + math.log(z.shape[1])
    assert_near(fastxent.logsumexp(moved), fastxent.logsumexp(z) + shift, 0, 2.1 * bound_of(z) * scale)


@given(labelled(), SEEDS)
def test_the_order_of_classes_changes_no_loss_beyond_the_bound(rows, seed):
    z, y = rows
    order = np.random.default_rng(seed).permutation(z.shape[1])
    place = np.argsort(order)
    assert_near(losses(z[:, order], place[y]), losses(z, y), 2 * bound_of(z))
    entropies = [fastxent.entropy(x, kind="logits", **NONE) for x in (z[:, order], z)]
    assert_near(*entropies, 2 * bound_of(z), 1e-300)
    card, other = fastxent.score(z, y), fastxent.score(z[:, order], place[y])
    assert_near(card.nll, other.nll, 2 * bound_of(z))
    assert card.n == other.n


@given(labelled(), st.integers(0, 19), st.floats(0, 50, width=32))
def test_a_loss_falls_with_its_labels_logit_and_rises_with_others(rows, k, step):
    z, y = rows
    k %= z.shape[1]
    moved = z.copy()
    moved[:, k] += z.dtype.type(step)
    before, after = losses(z, y), losses(moved, y)
    own = y == k
    slack = 1 + 2 * bound_of(z)
    assert (after[own] <= before[own] * slack).all()
    assert (after[~own] * slack >= before[~own]).all()


@given(labelled(), st.data())
def test_gradients_sum_to_zero(rows, data):
    z, y = rows
    t = data.draw(distributions(z))
    for target in (y, t):
        _, grad = fastxent.cross_entropy_value_and_grad(z, target, **NONE)
        wide = grad.astype(np.float64)
        size = np.abs(wide).sum(1) + (t.sum(1) if target is t else 0)
        least = z.shape[1] * float(np.finfo(z.dtype).tiny)
        assert (np.abs(wide.sum(1)) <= 2 * bound_of(z) * size + least).all(), (z, target)


@given(logits(), st.data())
def test_cross_entropy_is_at_least_the_targets_entropy(z, data):
    t = data.draw(distributions(z))
    entropy = fastxent.entropy(t, **NONE)
    slack = np.abs(t.sum(1) - 1) + 2.0**-50
    assert (losses(z, t) * (1 + bound_of(z)) + slack >= entropy * (1 - BOUND["float64"])).all()
    own = fastxent.softmax(z.astype(np.float64))
    assert_near(losses(z, own), fastxent.entropy(z, kind="logits", **NONE), 2 * bound_of(z), 1e-14)


@given(logits(numbers=st.floats(-20, 20, width=32)), st.data())
def test_cross_entropy_is_entropy_and_divergence(z, data):
    t = data.draw(distributions(z))
    q = fastxent.softmax(z.astype(np.float64))
    whole = fastxent.log_loss(q, t, **NONE)
    parts = fastxent.entropy(t, **NONE) + fastxent.kl_divergence(t, q, **NONE)
    assert_near(whole, parts, 2.0**-44, 2.0**-44)


@given(labelled(), SEEDS)
def test_rows_are_what_they_are_alone_in_any_company_and_layout(rows, seed):
    z, y = rows
    rng = np.random.default_rng(seed)
    alone = np.concatenate([losses(z[i : i + 1], y[i : i + 1]) for i in range(len(z))])
    n, c = z.shape
    room = np.full((3 * n, 2 * c + 1), np.nan, z.dtype)
    room[::3, 1::2] = z
    reversed_rows = np.ascontiguousarray(z[::-1])[::-1]
    reversed_classes = np.ascontiguousarray(z[:, ::-1])[:, ::-1]
    for view in (z, np.asfortranarray(z), room[::3, 1::2], reversed_rows, reversed_classes):
        assert losses(view, y).tobytes() == alone.tobytes()
    assert losses(z.T, y, axis=0).tobytes() == alone.tobytes()
    order = rng.integers(0, n, 40)
    assert losses(z[order], y[order]).tobytes() == alone[order].tobytes()
    if np.isfinite(alone).all():
        assert fastxent.cross_entropy(z[order], y[order], reduction="sum") == math.fsum(alone[order])


@given(labelled(), st.integers(-300, 300))
def test_weights_by_a_power_of_two_change_no_mean(rows, power):
    z, y = rows
    s = np.linspace(0.5, 2, len(z))
    assert fastxent.cross_entropy(z, y, sample_weight=np.ldexp(s, power)) == fastxent.cross_entropy(
        z, y, sample_weight=s
    )


@given(logits())
def test_logsumexp_lies_between_the_maximum_and_ln_c_above_it(z):
    top = z.max(1).astype(np.float64)
    slack = bound_of(z) * (np.abs(top) + math.log(z.shape[1]))
    lse = fastxent.logsumexp(z)
    assert (lse >= top - slack).all()
    assert (lse <= top + math.log(z.shape[1]) + slack).all()
    assert_near(fastxent.softmax(z).astype(np.float64).sum(1), 1.0, z.shape[1] * bound_of(z))


@given(labelled())
def test_labels_are_one_hot_targets(rows):
    z, y = rows
    one_hot = np.eye(z.shape[1])[y]
    assert_near(losses(z, y), losses(z, one_hot), 2 * bound_of(z))
    assert_near(losses(z, y, label_smoothing=0.25), losses(z, one_hot, label_smoothing=0.25), 2 * bound_of(z))


@given(labelled(), st.integers(-8, 8))
def test_a_temperature_divides_the_logits(rows, power):
    z, y = rows
    z = np.where(np.abs(z) < 1e-20, 0, z).astype(z.dtype)  # or dividing would round
    assert_near(losses(z, y, temperature=2.0**power), losses(z * z.dtype.type(2.0**-power), y), 2 * bound_of(z))
