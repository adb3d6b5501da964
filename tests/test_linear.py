"""Linear cross-entropy: what is made of blocks of logits equals what is made of all of them."""

import math

import numpy as np
import pytest
import reference

import fastxent
from fastxent import linear_blocks

BOUND = {np.float32: 2.0**-21, np.float64: 2.0**-49}


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """The same work in one block, and in several pieces of rows and blocks of classes."""
    if request.param == "many blocks":
        monkeypatch.setattr(linear_blocks, "BLOCK_ROWS", 16)
        monkeypatch.setattr(linear_blocks, "BLOCK_CLASSES", 100)


def whole_numbers(dtype, rows=37, features=24, classes=333, seed=0):
    """Hidden states and a classifier whose products are exact in any order, and labels."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(-3, 4, (rows, features)).astype(dtype)
    classifier = rng.integers(-3, 4, (classes, features)).astype(dtype)
    return hidden, classifier, rng.integers(0, classes, rows)


OPTIONS = [
    {},
    {"temperature": 0.7},
    {"label_smoothing": 0.1},
    {"weight": True, "sample_weight": True},
    {"weight": True, "label_smoothing": 0.3, "temperature": 2.5, "sample_weight": True},
    {"label_smoothing": 1.0, "ignore_index": 5},
    {"ignore_index": 5, "weight": True},
]


def filled(options, rows, classes, seed=1):
    """Options with random weights where they say True."""
    rng = np.random.default_rng(seed)
    made = {"weight": rng.random(classes) + 0.1, "sample_weight": rng.random(rows)}
    return {name: made[name] if value is True else value for name, value in options.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_equal_those_of_the_logits(dtype, options, blocks):
    hidden, classifier, labels = whole_numbers(dtype)
    labels[::7] = 5
    options = filled(options, *map(len, (hidden, classifier)))
    logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T
    for reduction in ("none", "sum", "mean"):
        found = fastxent.linear_cross_entropy(hidden, classifier, labels, reduction=reduction, **options)
        wanted = reference.cross_entropy(logits, labels, reduction=reduction, **options)
        np.testing.assert_allclose(found, wanted, rtol=BOUND[dtype], atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confident_losses_keep_their_digits(dtype, blocks):
    classifier = np.zeros((333, 24), dtype)
    classifier[:, 0] = np.arange(333) % 7
    classifier[200] = 90.0
    hidden = np.ones((5, 24), dtype) * np.arange(1, 6, dtype=dtype)[:, None] / 16
    labels = np.full(5, 200)
    logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T
    wanted = reference.sharp_nll(logits, labels)
    found = fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="none")
    assert wanted.max() < 1e-50
    np.testing.assert_allclose(found, wanted, rtol=BOUND[dtype], atol=0)


def rank_of(logits, labels):
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return (logits > own).sum(1) + ((logits == own) & before).sum(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_are_numpys_and_sizes_are_logsumexp(dtype, blocks):
    hidden, classifier, labels = whole_numbers(dtype, features=4)
    logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T
    labels[:9] = logits[:9].argmax(1)
    _, lse, rank = fastxent.linear_cross_entropy(hidden, classifier, labels, return_lse=True, return_rank=True)
    assert rank.dtype == np.int64
    np.testing.assert_array_equal(rank, rank_of(logits, labels))
    assert (rank[:9] == 0).all()
    wanted = reference.logsumexp(logits).astype(np.float64)
    np.testing.assert_allclose(lse, wanted, rtol=0, atol=BOUND[dtype] * (abs(logits).max() + 6))


def test_ranks_of_rounded_products_differ_only_within_rounding(blocks):
    rng = np.random.default_rng(3)
    hidden = rng.standard_normal((37, 64)).astype(np.float32)
    classifier = rng.standard_normal((333, 64)).astype(np.float32)
    labels = rng.integers(0, 333, 37)
    logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T
    own = logits[np.arange(37), labels][:, None]
    rounding = 64 * 2.0**-24 * (abs(hidden.astype(np.float64)) @ abs(classifier.astype(np.float64)).T)
    _, rank = fastxent.linear_cross_entropy(hidden, classifier, labels, return_rank=True)
    assert ((logits > own + rounding).sum(1) <= rank).all()
    assert (rank <= (logits >= own - rounding).sum(1) - 1).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_narrow_dtypes_give_the_bits_of_float32(name, blocks):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16
    rng = np.random.default_rng(4)
    hidden, classifier = rng.standard_normal((37, 24)).astype(dtype), rng.standard_normal((333, 24)).astype(dtype)
    labels = rng.integers(0, 333, 37)
    wide = [x.astype(np.float32) for x in (hidden, classifier)]
    wanted = fastxent.linear_cross_entropy(*wide, labels, reduction="none")
    for h in (hidden, wide[0]):
        for w in (classifier, wide[1], np.asfortranarray(classifier)):
            np.testing.assert_array_equal(fastxent.linear_cross_entropy(h, w, labels, reduction="none"), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bias_and_softcap(dtype, blocks):
    hidden, classifier, labels = whole_numbers(dtype)
    rng = np.random.default_rng(5)
    bias = rng.integers(-4, 5, 333).astype(dtype)
    logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T + bias
    for cap in (None, 3.0, 30.0):
        found, lse, rank = fastxent.linear_cross_entropy(
            hidden,
            classifier,
            labels,
            linear_bias=bias,
            softcap=cap,
            reduction="none",
            return_lse=True,
            return_rank=True,
        )
        z = logits if cap is None else cap * np.tanh(logits / cap)
        rounding = 0 if cap is None else 8 * cap * np.finfo(dtype).eps
        np.testing.assert_allclose(found, reference.cross_entropy(z, labels, reduction="none"), BOUND[dtype], rounding)
        np.testing.assert_allclose(lse, reference.logsumexp(z).astype(np.float64), 4 * BOUND[dtype], rounding)
        if cap is None:
            np.testing.assert_array_equal(rank, rank_of(z, labels))


def test_rows_without_a_softmax_and_masked_classes(blocks):
    hidden, classifier, labels = whole_numbers(np.float32)
    hidden[3, 5] = np.nan
    hidden[4, 0] = np.inf
    bias = np.zeros(333, np.float32)
    bias[labels[6]] = -np.inf
    bias[100:250] = -np.inf
    for smoothing in (0.0, 0.1):
        with np.errstate(invalid="ignore"):
            logits = hidden.astype(np.float64) @ classifier.astype(np.float64).T + bias
            wanted = reference.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        found, lse, rank = fastxent.linear_cross_entropy(
            hidden, classifier, labels, linear_bias=bias, label_smoothing=smoothing, reduction="none", return_lse=True,
            return_rank=True,
        )  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=BOUND[np.float32])
        assert np.isnan(found[[3, 4]]).all()
        assert np.isinf(found[6])
        assert (rank[[3, 4]] == -1).all()
        assert np.isnan(lse[[3, 4]]).all()
        assert np.isfinite(np.delete(lse, [3, 4])).all()


def test_ignored_rows_are_not_read(blocks):
    hidden, classifier, labels = whole_numbers(np.float32)
    labels[::3] = -100
    hidden[::3] = np.nan
    kept = labels != -100
    loss, lse, rank = fastxent.linear_cross_entropy(
        hidden, classifier, labels, ignore_index=-100, reduction="none", return_lse=True, return_rank=True
    )
    np.testing.assert_array_equal(
        loss[kept], fastxent.linear_cross_entropy(hidden[kept], classifier, labels[kept], reduction="none")
    )
    assert (loss[~kept] == 0).all()
    assert np.isnan(lse[~kept]).all()
    assert (rank[~kept] == -1).all()
    labels[:] = -100
    assert fastxent.linear_cross_entropy(hidden, classifier, labels, ignore_index=-100, reduction="sum") == 0.0
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        assert math.isnan(fastxent.linear_cross_entropy(hidden, classifier, labels, ignore_index=-100))


def test_any_leading_shape_and_layout(blocks):
    hidden, classifier, labels = whole_numbers(np.float32, rows=36)
    wanted = fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="none")
    whole = hidden.reshape(4, 9, -1)
    for h in (whole, np.asfortranarray(whole), np.repeat(whole, 2, axis=1)[:, ::2], whole[::-1, :, ::-1]):
        w = classifier[:, ::-1] if h.strides[-1] < 0 else classifier
        y = labels.reshape(4, 9)[::-1] if h.strides[0] < 0 else labels.reshape(4, 9)
        found = fastxent.linear_cross_entropy(h, w, y, reduction="none")
        np.testing.assert_array_equal(found[::-1] if h.strides[0] < 0 else found, wanted.reshape(4, 9))
    into = np.empty(36)
    assert fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="none", out=into) is into
    np.testing.assert_array_equal(into, wanted)
    one = fastxent.linear_cross_entropy(hidden[0], classifier, labels[0], reduction="none")
    assert one == wanted[0]
    assert np.ndim(one) == 0


def test_sums_are_fsum_and_runs_repeat(blocks):
    rng = np.random.default_rng(6)
    hidden = rng.standard_normal((70, 48)).astype(np.float32)
    classifier = rng.standard_normal((700, 48)).astype(np.float32)
    labels = rng.integers(0, 700, 70)
    rows = fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="none")
    assert fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="sum") == math.fsum(rows)
    assert fastxent.linear_cross_entropy(hidden, classifier, labels) == math.fsum(rows) / 70
    for _ in range(3):
        np.testing.assert_array_equal(fastxent.linear_cross_entropy(hidden, classifier, labels, reduction="none"), rows)


GOOD = {"hidden": np.ones((3, 2), np.float32), "linear_weight": np.ones((5, 2), np.float32), "target": [0, 1, 2]}
BAD = [
    ({"hidden": np.ones((3, 4))}, ValueError, r"linear_weight: shape \(5, 2\) does not go with hidden"),
    ({"linear_weight": np.ones((2, 5))}, ValueError, "pass its transpose"),
    ({"linear_weight": np.ones(2)}, ValueError, "linear_weight: shape"),
    ({"linear_weight": np.ones((0, 2))}, ValueError, "linear_weight: has no classes"),
    ({"hidden": np.ones((3, 0))}, ValueError, "hidden: shape"),
    ({"target": np.ones((3, 5))}, ValueError, "distributions; linear_cross_entropy takes class indices alone"),
    ({"target": [0, 1]}, ValueError, r"target: shape \(2,\)"),
    ({"target": [0, 1, 5]}, ValueError, "target: row 2 is 5, outside 0..4; class indices start at 0"),
    ({"target": [0, -100, 5]}, ValueError, "target: row 1 is -100, outside 0..4; .*ignore_index=-100"),
    ({"target": [0.0, 1.0, 2.0]}, TypeError, "target: dtype float64 cannot be class indices"),
    ({"linear_bias": np.ones(4)}, ValueError, r"linear_bias: shape \(4,\); need one number a class"),
    ({"linear_bias": ["a"] * 5}, TypeError, "linear_bias"),
    ({"weight": [1, 1, 1, 1, -1]}, ValueError, "weight: class 4 has -1.0"),
    ({"sample_weight": [1, math.nan, 1]}, ValueError, "sample_weight: row 1 has nan"),
    ({"softcap": 0.0}, ValueError, r"softcap: 0.0 is outside \(0, inf\)"),
    ({"softcap": True}, TypeError, "softcap: True is not a number"),
    ({"reduction": "all"}, ValueError, "reduction"),
    ({"label_smoothing": 2.0}, ValueError, "label_smoothing"),
    ({"threads": 0}, ValueError, "threads: must be at least 1"),
    ({"out": np.empty(3)}, ValueError, "out: shape"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD, ids=lambda x: x if isinstance(x, str) else None)
def test_a_bad_call_says_what_is_wrong(wrong, error, message):
    with pytest.raises(error, match=message) as caught:
        fastxent.linear_cross_entropy(**GOOD | wrong)
    assert "\n" not in str(caught.value)
