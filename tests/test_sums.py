"""Promise 2: sums and means are correctly rounded, whatever the order, the chunks, the threads or the parts."""

import itertools
import json
import math
import struct

import numpy as np
import pytest

import fastxent
from fastxent import slices

N_ROWS = 1_000_000
N_CLASSES = 3
IGNORE = -1


def bits(x):
    return struct.pack("<d", x).hex()


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Rows:
    """N rows of predictions, targets and weights; each field's first axis is the rows, so that they can be permuted."""

    def __init__(self, n=N_ROWS, dtype=np.float32, seed=1):
        rng = np.random.default_rng(seed)
        scale = 10.0 ** rng.uniform(-2, 1.7, (n, 1))  # from undecided rows to losses near 0 and near 100
        self.logits = (rng.standard_normal((n, N_CLASSES)) * scale).astype(dtype)
        self.logits[rng.random(n) < 0.01, 0] = -np.inf  # a masked class, never the label
        self.labels = rng.integers(1, N_CLASSES, n)
        self.labels[rng.random(n) < 0.3] = IGNORE
        self.soft = softmax(rng.standard_normal((n, N_CLASSES))).astype(dtype)
        self.soft[:, 0] = 0
        self.soft /= self.soft.sum(axis=-1, keepdims=True)
        self.probs = softmax(np.clip(rng.standard_normal((n, N_CLASSES)) * scale, -40, 40)).astype(dtype)
        self.log_probs = np.log(np.maximum(self.probs, 1e-30))
        self.mixed = 10.0 ** rng.uniform(-300, 300, n)
        self.mixed[rng.random(n) < 0.01] = 0.0

    def take(self, index):
        part = object.__new__(Rows)
        part.__dict__ = {name: np.ascontiguousarray(field[index]) for name, field in self.__dict__.items()}
        return part


CLASS_WEIGHT = np.array([0.3, 1e-3, 7.7])
KEEP = {"ignore_index": IGNORE}
CASES = {
    "cross_entropy": lambda r, **k: fastxent.cross_entropy(r.logits, r.labels, **KEEP, **k),
    "cross_entropy, class weights": lambda r, **k: fastxent.cross_entropy(
        r.logits, r.labels, weight=CLASS_WEIGHT, **KEEP, **k
    ),
    "cross_entropy, soft": lambda r, **k: fastxent.cross_entropy(r.logits, r.soft, **k),
    "cross_entropy, smoothed": lambda r, **k: fastxent.cross_entropy(
        np.maximum(r.logits, -80), r.labels, label_smoothing=0.1, **KEEP, **k
    ),
    "nll": lambda r, **k: fastxent.nll(r.log_probs, r.labels, **KEEP, **k),
    "nll, soft": lambda r, **k: fastxent.nll(r.log_probs, r.soft, **k),
    "log_loss": lambda r, **k: fastxent.log_loss(r.probs, r.labels, **KEEP, **k),
    "log_loss, soft": lambda r, **k: fastxent.log_loss(r.probs, r.soft, eps=1e-12, **k),
    "binary_cross_entropy": lambda r, **k: fastxent.binary_cross_entropy(r.logits[:, 1].copy(), r.labels == 1, **k),
    "binary_log_loss": lambda r, **k: fastxent.binary_log_loss(r.probs[:, 1].copy(), r.labels == 1, eps=1e-9, **k),
}
SKIPS = {"cross_entropy", "cross_entropy, class weights", "cross_entropy, smoothed", "nll", "log_loss"}


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def rows(request):
    return Rows(dtype=request.param)


def weights_of(case, rows, sample_weight):
    """The denominator's terms, one a row: the definition, in NumPy."""
    s = np.ones(len(rows.labels)) if sample_weight is None else sample_weight
    if case not in SKIPS:
        return s
    if "class weights" in case:
        s = s * CLASS_WEIGHT[rows.labels]  # an ignored row's label picks some weight, which is not kept
    return s[rows.labels != IGNORE]


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "mixed_weights"])
@pytest.mark.parametrize("case", CASES)
def test_sum_equals_fsum_and_mean_divides_the_rounded_sums(case, weighted, rows):
    sample_weight = rows.mixed if weighted else None
    each = CASES[case](rows, reduction="none", sample_weight=sample_weight)
    assert each.shape == (N_ROWS,)
    total = math.fsum(each)
    mean = total / math.fsum(weights_of(case, rows, sample_weight))
    for threads in (1, 2):
        options = {"sample_weight": sample_weight, "threads": threads}
        assert bits(CASES[case](rows, reduction="sum", **options)) == bits(total)
        assert bits(CASES[case](rows, reduction="mean", **options)) == bits(mean)


@pytest.fixture(scope="module")
def reordered(rows):
    permutation = np.random.default_rng(2).permutation(N_ROWS)
    return [rows.take(index) for index in (permutation, np.argsort(rows.mixed))]


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_rows_does_not_matter(case, rows, reordered):
    want = [bits(CASES[case](rows, reduction=r, sample_weight=rows.mixed)) for r in ("sum", "mean")]
    for threads, part in enumerate(reordered, 1):
        options = {"sample_weight": part.mixed, "threads": threads}
        assert [bits(CASES[case](part, reduction=r, **options)) for r in ("sum", "mean")] == want


@pytest.mark.parametrize("slice_bytes", [1, 5000, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_chunks_do_not_matter(case, slice_bytes, monkeypatch):
    rows = Rows(300 if slice_bytes == 1 else 100_000)
    want = [bits(CASES[case](rows, reduction=r, sample_weight=rows.mixed)) for r in ("sum", "mean")]
    monkeypatch.setattr(slices, "SLICE_BYTES", slice_bytes)
    assert [bits(CASES[case](rows, reduction=r, sample_weight=rows.mixed)) for r in ("sum", "mean")] == want


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 63, 64, 65, 1023, 1024, 1025, 4097, 70_001])
@pytest.mark.parametrize("case", ["cross_entropy, class weights", "log_loss, soft", "binary_cross_entropy"])
def test_sums_of_any_number_of_rows(case, n):
    rows = Rows(n, seed=n)
    each = CASES[case](rows, reduction="none", sample_weight=rows.mixed)
    assert bits(CASES[case](rows, reduction="sum", sample_weight=rows.mixed)) == bits(math.fsum(each))


@pytest.mark.parametrize("name", ["entropy", "kl_divergence"])
@pytest.mark.parametrize("threads", [1, 2])
def test_divergences_sum_exactly(name, threads):
    rows = Rows(100_003, np.float64)
    arguments = (rows.probs,) if name == "entropy" else (rows.probs, np.roll(rows.probs, 1, axis=0))
    function = getattr(fastxent, name)
    total = math.fsum(function(*arguments, reduction="none"))
    assert bits(function(*arguments, reduction="sum", threads=threads)) == bits(total)
    assert bits(function(*arguments, reduction="mean", threads=threads)) == bits(total / 100_003)


def test_cancelling_and_extreme_weights_keep_the_small_rows():
    logits = np.zeros((3, 2))
    weight = np.array([1e300, 1e-300, 1e-5])
    each = fastxent.cross_entropy(logits, [0, 1, 0], sample_weight=weight, reduction="none")
    assert np.array_equal(each, weight * fastxent.cross_entropy(logits[:1], [0]))
    assert fastxent.cross_entropy(logits, [0, 1, 0], sample_weight=weight, reduction="sum") == math.fsum(each)


def test_infinite_and_invalid_rows_show_in_the_sum():
    logits = np.zeros((2000, 4))
    labels = np.zeros(2000, np.int64)
    logits[1234, 0] = -np.inf
    assert fastxent.cross_entropy(logits, labels, reduction="sum") == math.inf
    assert fastxent.cross_entropy(logits, labels) == math.inf
    logits[77, 2] = np.nan
    assert math.isnan(fastxent.cross_entropy(logits, labels, reduction="sum"))


def test_sum_beyond_the_largest_float_is_infinite():
    logits = np.array([[0.0, 100.0]] * 3)
    weight = np.full(3, 1e306)
    assert fastxent.cross_entropy(logits, [0, 0, 0], sample_weight=weight, reduction="sum") == math.inf
    assert fastxent.cross_entropy(logits[:1], [0], sample_weight=weight[:1], reduction="sum") < math.inf


@pytest.mark.parametrize(("n", "labels"), [(0, []), (3, [IGNORE] * 3)])
def test_mean_of_no_rows_is_nan_with_a_warning(n, labels):
    logits, labels = np.ones((n, 4)), np.array(labels, np.int64)
    assert bits(fastxent.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")) == bits(0.0)
    with pytest.warns(RuntimeWarning, match="mean of no rows") as caught:
        assert math.isnan(fastxent.cross_entropy(logits, labels, ignore_index=IGNORE))
    assert caught[0].filename == __file__


def test_no_result_is_negative_zero():
    logits = np.array([[800.0, 0.0], [0.0, 800.0]])
    for labels in ([0, 1], [IGNORE, IGNORE]):
        for reduction in ("none", "sum"):
            got = fastxent.cross_entropy(logits, labels, ignore_index=IGNORE, reduction=reduction)
            assert not np.signbit(got).any()


# --- score cards --------------------------------------------------------------------------------------------------


def card(scorer):
    """A score card as text: equal texts are equal figures, bit for bit."""
    return json.dumps(scorer.result().to_dict(), sort_keys=True)


def scorer_of(rows, start, stop, order=None):
    scorer = fastxent.Scorer(kind="logits", n_classes=N_CLASSES, ignore_index=IGNORE)
    for a, b in order or [(start, stop)]:
        part = rows.take(slice(a, b))
        scorer.update(part.logits, part.labels, start=a, sample_weight=part.mixed)
    return scorer


@pytest.fixture(scope="module")
def finite_rows():
    rows = Rows(200_000)
    rows.logits = np.maximum(rows.logits, -80)
    return rows


def test_merged_scorers_equal_the_whole(finite_rows):
    rng = np.random.default_rng(3)
    n = len(finite_rows.labels)
    whole = card(scorer_of(finite_rows, 0, n))
    for parts in (2, 5, 17):
        cuts = [0, *np.sort(rng.integers(0, n, parts - 1)).tolist(), n]
        ranges = list(itertools.pairwise(cuts))
        one_by_one = scorer_of(finite_rows, 0, n, [ranges[i] for i in rng.permutation(parts)])
        assert card(one_by_one) == whole
        scorers = [scorer_of(finite_rows, a, b) for a, b in ranges]
        while len(scorers) > 1:  # a random tree
            other = scorers.pop(rng.integers(len(scorers)))
            scorers[rng.integers(len(scorers))].merge(other)
        assert card(scorers[0]) == whole


def test_scored_mean_divides_the_rounded_sums(finite_rows):
    rows = finite_rows.take(slice(0, 400))
    kept = np.flatnonzero(rows.labels != IGNORE)
    alone = np.array([fastxent.score(rows.logits[i : i + 1], rows.labels[i : i + 1]).nll for i in kept])
    scored = fastxent.score(rows.logits, rows.labels, ignore_index=IGNORE, sample_weight=rows.mixed)
    assert bits(scored.nll) == bits(math.fsum(rows.mixed[kept] * alone) / math.fsum(rows.mixed[kept]))
    # The functions' kernels are others: they agree within both bounds.
    each = fastxent.cross_entropy(rows.logits, rows.labels, ignore_index=IGNORE, reduction="none")
    assert np.allclose(alone, each[kept], rtol=2.0**-20, atol=0)
