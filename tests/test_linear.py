"""Linear cross-entropy: what is made of blocks of logits equals what is made of all of them."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import reference

import fastxent
from fastxent.cli.main import main

BOUND = {np.float32: 2.0**-21, np.float64: 2.0**-49}


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """The same work in one block, and in several pieces of rows and blocks of classes."""
    if request.param == "many blocks":
        monkeypatch.setattr("fastxent.linear.blocks.BLOCK_ROWS", 16)
        monkeypatch.setattr("fastxent.linear.blocks.BLOCK_CLASSES", 100)


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


@pytest.mark.parametrize("classes", [3, 230])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_may_lie_anywhere(dtype, classes, blocks):
    """Found by climbing: NaN where float64 logits lay between -745 and -709, as the first block met an empty state."""
    shifts = np.concatenate([np.arange(-1500.0, 1500.0, 7.3), [-710.0, -745.0, -1e6, 1e6]])
    logits = (3 * np.random.default_rng(3).normal(size=(len(shifts), classes)) + shifts[:, None]).astype(dtype)
    labels = np.arange(len(shifts)) % classes
    every = np.arange(len(logits))
    distances = logits.astype(np.longdouble) - logits[every, labels, None]
    for smoothing, temperature in ((0.0, 1.0), (0.0, 0.7), (0.2, 1.0)):
        options = {"temperature": temperature, "label_smoothing": smoothing, "reduction": "none"}
        found = fastxent.linear_cross_entropy(logits, np.eye(classes, dtype=dtype), labels, **options)
        terms = np.exp(distances / temperature)
        terms[every, labels] = 0
        wanted = np.log1p(terms.sum(1)) - smoothing * distances.mean(1)
        np.testing.assert_allclose(found, wanted.astype(np.float64), rtol=BOUND[dtype], atol=0)


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


def test_threads_of_blas_can_be_limited():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    hidden, classifier, labels = whole_numbers(np.float32)
    wanted = fastxent.linear_cross_entropy(hidden, classifier, labels)
    before = threadpoolctl.threadpool_info()
    assert fastxent.linear_cross_entropy(hidden, classifier, labels, threads=1) == wanted
    assert threadpoolctl.threadpool_info() == before


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


# ---- gradients


@pytest.fixture(params=["one block", "rows in pieces", "blocks made twice"])
def ways(request, monkeypatch):
    """The ways to the gradient: all logits of some rows kept, or blocks of some classes made again."""
    if request.param == "rows in pieces":
        monkeypatch.setattr("fastxent.linear.gradients.MOST_KEPT_ROWS", 16)
    if request.param == "blocks made twice":
        monkeypatch.setattr("fastxent.linear.gradients.KEPT_BYTES", 0)
        monkeypatch.setattr("fastxent.linear.blocks.BLOCK_ROWS", 16)
        monkeypatch.setattr("fastxent.linear.blocks.BLOCK_CLASSES", 100)


def gradients_of(hidden, classifier, labels, reduction, bias=0.0, cap=None, temperature=1.0, smoothing=0.0,
                 weight=None, sample_weight=None, ignored=None):  # fmt: skip
    """With respect to hidden states, classifier and bias, from all logits in float64."""
    h, w, n = hidden.astype(np.float64), classifier.astype(np.float64), len(classifier)
    weight = np.ones(n) if weight is None else weight
    s = np.ones(len(h)) if sample_weight is None else sample_weight
    s = np.where(labels == ignored, 0, s) if ignored is not None else s
    x = h @ w.T + bias
    z = (x if cap is None else cap * np.tanh(x / cap)) / temperature
    q = np.exp(z - z.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    c = np.tile(weight * smoothing / n, (len(h), 1))
    c[np.arange(len(h)), labels] += weight[labels] * (1 - smoothing)
    if reduction == "mean":
        s = s / (s * weight[labels]).sum()
    d = s[:, None] * (c.sum(1, keepdims=True) * q - c) / temperature
    d *= 1 if cap is None else 1 - np.tanh(x / cap) ** 2
    return d @ w, d.T @ h, d.sum(0)


GRADIENT_OPTIONS = [
    ({}, {}),
    ({"temperature": 0.5, "label_smoothing": 0.1}, {"temperature": 0.5, "smoothing": 0.1}),
    ({"softcap": 4.0, "ignore_index": 5}, {"cap": 4.0, "ignored": 5}),
]


@pytest.mark.parametrize(("options", "same"), GRADIENT_OPTIONS, ids=lambda x: str(x))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_equal_those_of_the_logits(dtype, options, same, ways):
    rng = np.random.default_rng(7)
    hidden, classifier = rng.standard_normal((37, 24)).astype(dtype), rng.standard_normal((333, 24)).astype(dtype)
    bias, labels = rng.standard_normal(333).astype(dtype), rng.integers(0, 333, 37)
    labels[::4] = 5
    weights = {"weight": rng.random(333), "sample_weight": rng.random(37)} if "softcap" in options else {}
    for reduction in ("sum", "mean"):
        loss, *found = fastxent.linear_cross_entropy_value_and_grad(
            hidden, classifier, labels, linear_bias=bias, reduction=reduction, grad_scale=2.0, **options, **weights
        )
        alone = fastxent.linear_cross_entropy(
            hidden, classifier, labels, linear_bias=bias, reduction=reduction, **options, **weights
        )
        assert loss == pytest.approx(alone, rel=BOUND[dtype])
        for got, wanted in zip(found, gradients_of(hidden, classifier, labels, reduction, bias, **same, **weights)):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, 2 * wanted, rtol=0, atol=20 * np.finfo(dtype).eps * abs(wanted).max())
        if "ignore_index" in options:
            assert (found[0][labels == 5] == 0).all()


def test_gradients_are_the_losses_differences():
    rng = np.random.default_rng(8)
    hidden, classifier, labels = rng.standard_normal((6, 5)), rng.standard_normal((70, 5)), rng.integers(0, 70, 6)
    bias = rng.standard_normal(70)
    options = {"softcap": 2.0, "label_smoothing": 0.2, "temperature": 1.5, "weight": rng.random(70)}
    _, *found = fastxent.linear_cross_entropy_value_and_grad(hidden, classifier, labels, linear_bias=bias, **options)
    for array, gradient in zip((hidden, classifier, bias), found):
        for place in (0, array.size // 2, array.size - 1):
            ends = []
            for step in (-1e-5, 1e-5):
                array.flat[place] += step
                ends.append(fastxent.linear_cross_entropy(hidden, classifier, labels, linear_bias=bias, **options))
                array.flat[place] -= step
            assert abs((ends[1] - ends[0]) / 2e-5 - gradient.flat[place]) < 1e-8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_labels_gradient_keeps_its_digits(dtype):
    exact = reference.EXACT
    for far in (3.0, 20.0, 80.0):
        bias = np.array([0.5, far, -2.0, -math.inf], dtype)
        hidden, classifier = np.ones((1, 2), dtype), np.zeros((4, 2), dtype)
        _, _, _, found = fastxent.linear_cross_entropy_value_and_grad(hidden, classifier, [1], linear_bias=bias)
        others = sum(exact.exp(exact.mpf(float(b)) - exact.mpf(far)) for b in bias[[0, 2]])
        assert abs(found[1] / (-others / (1 + others)) - 1) < 4 * BOUND[dtype]
        assert found[3] == 0


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_narrow_gradients_are_those_of_float32_rounded(name, blocks, monkeypatch):
    monkeypatch.setattr("fastxent.linear.gradients.KEPT_BYTES", 0)  # where the classifier is not narrow either
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16
    rng = np.random.default_rng(9)
    hidden, classifier = rng.standard_normal((37, 24)).astype(dtype), rng.standard_normal((333, 24)).astype(dtype)
    labels = rng.integers(0, 333, 37)
    labels[1::5] = 5
    wide = [x.astype(np.float32) for x in (hidden, classifier)]
    options = {"ignore_index": 5, "grad_scale": 64.0}
    _, *found = fastxent.linear_cross_entropy_value_and_grad(hidden, classifier, labels, **options)
    _, *wanted = fastxent.linear_cross_entropy_value_and_grad(*wide, labels, **options)
    for got, want in zip(found, wanted):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want.astype(dtype))


def test_gradients_of_the_rows_losses_by_factors_of_theirs(ways):
    hidden, classifier, labels = whole_numbers(np.float64)
    factors = np.random.default_rng(12).standard_normal(37)
    loss, *found = fastxent.linear_cross_entropy_value_and_grad(
        hidden, classifier, labels, reduction="none", grad_scale=factors
    )
    assert loss.shape == (37,)
    logits = hidden @ classifier.T
    q = np.exp(logits - reference.logsumexp(logits).astype(np.float64)[:, None])
    q[np.arange(37), labels] -= 1
    q *= factors[:, None]
    for got, wanted in zip(found, (q @ classifier, q.T @ hidden)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * abs(wanted).max())


def test_gradients_where_no_row_counts_and_where_a_row_has_no_softmax():
    hidden, classifier, labels = whole_numbers(np.float32)
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        _, *found = fastxent.linear_cross_entropy_value_and_grad(
            hidden, classifier, np.full(37, -1), ignore_index=-1, linear_bias=np.zeros(333, np.float32)
        )
    assert [x.shape for x in found] == [hidden.shape, classifier.shape, (333,)]
    assert not any(x.any() for x in found)
    hidden[3] = np.nan
    _, for_hidden, _ = fastxent.linear_cross_entropy_value_and_grad(hidden, classifier, labels)
    assert np.isnan(for_hidden[3]).all()
    assert np.isfinite(np.delete(for_hidden, 3, 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_capped_logits_and_their_slopes_are_within_their_bounds(dtype):
    """With one class its logit is logsumexp; with a second, of zeros, the gradient is the slope over 1 + e^z."""
    rng = np.random.default_rng(10)
    z = np.concatenate([rng.normal(0, s, 20000) for s in (1e-6, 0.1, 1.0, 5.0, 40.0)]).astype(dtype)
    z[:4] = 0.0, 1e30, -1e30, np.finfo(dtype).tiny * 1024
    labels, one = np.zeros(len(z), int), np.ones((1, 1), dtype)
    units, wide = np.finfo(dtype).eps, z.astype(np.longdouble)
    for cap in (1.0, 30.0):
        _, found = fastxent.linear_cross_entropy(z[:, None], one, labels, softcap=cap, return_lse=True)
        wanted = cap * np.tanh(wide / cap)
        assert (abs(found - wanted) <= 2.5 * units * abs(wanted)).all()
    two = np.concatenate([one, 0 * one])
    _, found, _ = fastxent.linear_cross_entropy_value_and_grad(z[:, None], two, labels, softcap=1.0, reduction="sum")
    wanted = -1 / np.cosh(np.minimum(abs(wide), 40)) ** 2 / (1 + np.exp(np.tanh(wide)))
    wanted[abs(wide) > 40] = 0
    assert (abs(found[:, 0] - wanted) <= 8 * units * abs(wanted) + 1e-30).all()


@pytest.mark.peers
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torchs_function_and_gradients(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    hidden, classifier = rng.standard_normal((37, 24), np.float32), rng.standard_normal((333, 24), np.float32)
    bias, labels, weight = rng.standard_normal(333, np.float32), rng.integers(0, 333, 37), rng.random(333)
    labels[::5] = -100
    leaves = [torch.from_numpy(x).requires_grad_() for x in (hidden, classifier, bias)]
    wanted = torch.nn.functional.linear_cross_entropy(
        leaves[0], leaves[1], torch.from_numpy(labels), linear_bias=leaves[2], ignore_index=-100,
        weight=torch.from_numpy(weight.astype(np.float32)), label_smoothing=smoothing,
    )  # fmt: skip
    wanted.backward()
    loss, *found = fastxent.linear_cross_entropy_value_and_grad(
        hidden, classifier, labels, linear_bias=bias, ignore_index=-100, weight=weight, label_smoothing=smoothing
    )
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for got, leaf in zip(found, leaves):
        np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=0, atol=1e-5 * abs(leaf.grad.numpy()).max())


MEMORY = """
import resource, sys
import numpy as np, fastxent
rows, features, classes, dtype, limit = (*map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5]))
def matrix(n):
    made = np.zeros((n, features), dtype)
    made[:] = np.linspace(-1, 1, features)
    return made
small = matrix(300)
fastxent.linear_cross_entropy(small, small, np.zeros(300, int))  # compiled code and BLAS's own buffers
np.zeros(1)
hidden, classifier, labels = matrix(rows), matrix(classes), np.arange(rows)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = fastxent.linear_cross_entropy(hidden, classifier, labels)
more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert abs(loss - np.log(classes)) < 1e-3, loss
assert more < limit, f"{more:.0f} MB"
"""


def peak_stays_below(*arguments):
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", MEMORY, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_logits_are_never_all_there():
    """256 MB of logits; the classifier of float16 would be 32 MB as float32."""
    peak_stays_below(1024, 128, 65536, "float16", 40)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extra_memory_stays_below_64_mb_at_full_size(dtype):
    peak_stays_below(2048, 1024, 65536, dtype, 64)


# ---- the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Hidden states, a classifier and labels in files; the arrays too."""
    monkeypatch.chdir(tmp_path)
    hidden, classifier, labels = whole_numbers(np.float32, rows=60)
    bias = np.linspace(-1, 1, 333).astype(np.float32)
    np.save("h.npy", hidden)
    np.save("y.npy", labels)
    np.savez("w.npz", weight=classifier, bias=bias)
    np.save("w.npy", classifier)
    np.save("s.npy", np.linspace(0, 1, 60))
    return hidden, classifier, labels, bias


def command(capsys, *arguments):
    code = main([str(a) for a in ("score", *arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_command_scores_hidden_states(files, capsys):
    hidden, classifier, labels, bias = files
    common = "--hidden", "h.npy", "--target", "y.npy", "--top-k", "1,10", "--worst", 3, "--json", "-"
    code, out, err = command(capsys, *common, "--classifier", "w.npz", "--bias", "bias", "--softcap", 20)
    assert (code, err) == (0, "")
    rows, rank = fastxent.linear_cross_entropy(
        hidden, classifier, labels, linear_bias=bias, softcap=20.0, reduction="none", return_rank=True
    )
    figures = json.loads(out)
    assert (figures["n"], figures["n_classes"], figures["n_features"]) == (60, 333, 24)
    assert figures["nll"] == math.fsum(rows) / 60
    assert figures["log_likelihood"] == -math.fsum(rows)
    assert figures["nll_se"] == pytest.approx(math.sqrt(((rows - rows.mean()) ** 2).sum()) / 60, rel=1e-12)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["nll"]), rel=1e-12)
    assert figures["top_k_accuracy"] == {"1": (rank < 1).mean(), "10": (rank < 10).mean()}
    assert figures["mean_reciprocal_rank"] == pytest.approx((1 / (1 + rank)).mean(), rel=1e-12)
    assert [row["id"] for row in figures["worst"]] == np.argsort(-rows, kind="stable")[:3].tolist()
    code, out, _ = command(capsys, "--hidden", "h.npy", "--target", "y.npy", "--classifier", "w.npy")
    assert code == 0
    assert "60 rows, 24 features, 333 classes" in out
    assert "mean reciprocal rank" in out


def test_command_reads_a_classifier_of_safetensors_in_bfloat16(files, capsys):
    hidden, classifier, labels, _ = files
    numpy = pytest.importorskip("safetensors.numpy")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numpy.save_file({"lm_head.weight": classifier.astype(ml_dtypes.bfloat16), "norm": classifier[0]}, "w.safetensors")
    common = "--hidden", "h.npy", "--target", "y.npy", "--json", "-", "--ignore-index", labels[0]
    code, out, err = command(capsys, *common, "--classifier", "w.safetensors")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    kept = labels != labels[0]
    assert figures["ignored"] == 60 - kept.sum()
    assert figures["nll"] == fastxent.linear_cross_entropy(
        hidden[kept], classifier, labels[kept]
    )  # small whole numbers


def test_command_says_what_is_wrong(files, capsys):
    hidden = files[0]
    hidden[7] = np.nan
    np.save("bad.npy", hidden)
    given = "--hidden", "h.npy", "--classifier", "w.npy"
    for arguments, message in (
        (("--hidden", "h.npy"), "--hidden and --classifier both"),
        ((), "name a file of predictions"),
        ((*given, "--bins", 3), "--bins: does not go with --hidden"),
        ((*given, "--target", "y.npy", "--classifier-key", "w"), "one array, which has no members"),
        (("--hidden", "h.npy", "--classifier", "y.npy", "--target", "y.npy"), "need 2 axes"),
        (("h.npy", "y.npy", "--softcap", 3), "--softcap: is for --hidden"),
        ((*given, "--target", "h.npy"), "distributions|does not go with hidden"),
        (
            ("--hidden", "bad.npy", "--classifier", "w.npy", "--target", "y.npy"),
            "hidden: row 7 gives logits with a NaN",
        ),
    ):
        code, out, err = command(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.search(message, err)
        assert err.count("\n") == 1
    counted = command(
        capsys, "--hidden", "bad.npy", "--classifier", "w.npy", "--target", "y.npy", "--invalid", "count", "--json", "-"
    )
    assert json.loads(counted[1])["invalid"] == 1
