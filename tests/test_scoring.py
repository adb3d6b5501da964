"""The score card: every figure against a slow, obvious one, and the same bits however the rows come."""

import hashlib
import json
import math
import pickle
import zlib
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import log_softmax

import fastxent
from fastxent.kernels import batch
from fastxent.kernels.pairs import PAIRS_USED, compact_pairs, sorted_pairs
from fastxent.scoring.scorer import Score, Scorer, score

KINDS = ("logits", "log_probs", "probs")


def some_rows(n, c, seed=0, dtype=np.float64, kind="logits"):
    """Predictions that are right more often than not, with ties among the logits, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, c)).round(1) * 2
    labels = np.where(rng.random(n) < 0.4, logits.argmax(1), rng.integers(0, c, n))
    if kind == "logits":
        return logits.astype(dtype), labels
    log_probs = log_softmax(logits, axis=1)
    return (log_probs if kind == "log_probs" else np.exp(log_probs)).astype(dtype), labels


def figures_of_rows(predictions, kind, target):
    """NLL, entropy, confidence, Brier score, prediction and rank, row by row, in float64."""
    z = predictions.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_probs = {"logits": log_softmax(z, axis=1), "log_probs": z, "probs": np.log(z)}[kind]
    probs = z if kind == "probs" else np.exp(log_probs)
    rows, classes = np.arange(len(z)), np.arange(z.shape[1])
    soft = target if target.ndim == 2 else np.eye(z.shape[1])[target]
    with np.errstate(invalid="ignore"):
        nll = np.where(soft > 0, -soft * log_probs, 0).sum(1)
        entropy = np.where(probs > 0, -probs * log_probs, 0).sum(1)
    brier = ((probs - soft) ** 2).sum(1)
    rank = None
    if target.ndim == 1:
        mine = z[rows, target][:, None]
        rank = (z > mine).sum(1) + ((z == mine) & (classes < target[:, None])).sum(1)
    return nll, entropy, probs.max(1), brier, z.argmax(1), rank


def mean(x, s):
    return math.fsum(x * s) / math.fsum(s) if math.fsum(s) else math.nan


def close(got, want, rel=1e-9):
    np.testing.assert_allclose(got, want, rtol=rel, atol=rel)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("c", [1, 2, 3, 10, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_equals_the_obvious_one(kind, c, weighted):
    z, y = some_rows(700, c, seed=c, kind=kind)
    rng = np.random.default_rng(1)
    y[rng.random(700) < 0.1] = -100
    z[np.flatnonzero(y == -100)[:5]] = np.nan  # an ignored row is not read
    weights = rng.random(700) * rng.integers(0, 2, 700) + 0.25 if weighted else None
    got = score(z, y, kind=kind, ignore_index=-100, sample_weight=weights, top_k=(1, 2, 5), bins=12, worst=7)

    kept = y != -100
    ids, z, y = np.flatnonzero(kept), z[kept], y[kept]
    s = np.ones(y.size) if weights is None else weights[kept]
    nll, entropy, confidence, brier, predicted, rank = figures_of_rows(z, kind, y)
    assert (got.kind, got.target, got.n_classes) == (kind, "labels", c)
    assert (got.n, got.ignored, got.invalid) == (y.size, 700 - y.size, 0)
    assert got.weight == math.fsum(s)
    m = mean(nll, s)
    close(got.nll, m)
    close(got.nll_bits, m / math.log(2))
    close(got.nll_se, math.sqrt(math.fsum(s**2 * (nll - m) ** 2)) / math.fsum(s))
    close(got.nll_interval, (m - 1.959963984540054 * got.nll_se, m + 1.959963984540054 * got.nll_se))
    close(got.log_likelihood, -math.fsum(nll * s))
    close(got.perplexity, math.exp(m))
    close(got.brier, mean(brier, s))
    close(got.entropy, mean(entropy, s))
    close(got.confidence, mean(confidence, s))
    close(got.accuracy, mean(predicted == y, s))
    assert list(got.top_k_accuracy) == [1, 2, 5]
    close(list(got.top_k_accuracy.values()), [mean(rank < k, s) for k in (1, 2, 5)])

    share = np.array([s[y == k].sum() for k in range(c)]) / s.sum()
    prior = -sum(p * math.log(p) for p in share if p > 0)
    close(got.skill, 1 - m / prior if c > 1 else math.nan, 1e-7)

    edges = [k / 12 for k in range(13)]
    assert got.reliability.edges.tolist() == edges
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, 11)
    for k in range(12):
        there = bins == k
        assert got.reliability.n[k] == there.sum()
        close(got.reliability.weight[k], s[there].sum())
        close(got.reliability.accuracy[k], mean((predicted == y)[there], s[there]))
        close(got.reliability.confidence[k], mean(confidence[there], s[there]))
    gaps = [abs(math.fsum((s * ((predicted == y) - confidence))[bins == k])) for k in range(12)]
    close(got.ece, math.fsum(gaps) / math.fsum(s))

    table = got.classes
    for k in range(c):
        mine, called = y == k, predicted == k
        hits = s[mine & called].sum()
        assert table.n[k] == mine.sum()
        close(table.weight[k], s[mine].sum())
        close(table.nll[k], mean(nll[mine], s[mine]))
        close(table.recall[k], hits / s[mine].sum() if mine.any() else math.nan)
        close(table.precision[k], hits / s[called].sum() if called.any() else math.nan)
        both = s[mine].sum() + s[called].sum()
        close(table.f1[k], 2 * hits / both if both else math.nan)
    assert table.accuracy.tobytes() == table.recall.tobytes()

    pairs, counts = np.unique(np.stack([y, predicted]), axis=1, return_counts=True)
    assert np.array_equal(np.stack(got.confusion), [*pairs, counts])

    assert got.nll_histogram.edges.size == got.nll_histogram.n.size + 1
    assert got.nll_histogram.n[:-1].tolist() == np.histogram(nll, got.nll_histogram.edges[:-1])[0].tolist()
    order = sorted(range(y.size), key=lambda i: (-nll[i].round(9), ids[i]))[:7]
    assert [row.label for row in got.worst] == y[order].tolist()
    close([row.nll for row in got.worst], nll[order])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_soft_targets_give_what_needs_no_label(kind, weighted):
    z, _ = some_rows(300, 6, kind=kind)
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.full(6, 0.3), 300)
    p[:20] = np.eye(6)[rng.integers(0, 6, 20)]
    s = rng.random(300) if weighted else np.ones(300)
    got = score(z, p, kind=kind, sample_weight=s if weighted else None)
    nll, entropy, confidence, brier, _, _ = figures_of_rows(z, kind, p)
    close(got.nll, mean(nll, s))
    close(got.nll_se, math.sqrt(math.fsum(s**2 * (nll - got.nll) ** 2)) / math.fsum(s))
    close(got.brier, mean(brier, s))
    close(got.entropy, mean(entropy, s))
    close(got.confidence, mean(confidence, s))
    assert got.target == "distributions"
    assert {got.accuracy, got.top_k_accuracy, got.ece, got.skill, got.roc_auc, got.roc_auc_resolution} == {None}
    assert (got.reliability, got.confusion, got.classes) == (None, None, None)
    assert got.worst[0].label is None
    assert got.worst[0].id == nll.argmax()


def test_figures_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = some_rows(2000, 5, kind="probs")
    s = np.random.default_rng(3).random(2000)
    got, labels = score(p, y, kind="probs", sample_weight=s, top_k=(1, 3)), np.arange(5)
    close(got.nll, metrics.log_loss(y, p, sample_weight=s))
    close(got.accuracy, metrics.accuracy_score(y, p.argmax(1), sample_weight=s))
    close(got.skill, metrics.d2_log_loss_score(y, p, sample_weight=s))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(y, p.argmax(1), sample_weight=s)
    close(got.classes.precision, precision)
    close(got.classes.recall, recall)
    close(got.classes.f1, f1)
    dense = np.zeros((5, 5))
    dense[got.confusion.label, got.confusion.predicted] = got.confusion.n
    assert np.array_equal(dense, metrics.confusion_matrix(y, p.argmax(1), labels=labels))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_roc_auc_is_within_its_resolution(scale, weighted):
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 3000)
    margin = scale * (rng.normal(size=3000) + y)
    margin[:200] = 0.0
    s = rng.random(3000) if weighted else np.ones(3000)
    got = score(np.stack([0 * margin, margin], 1), y, sample_weight=s if weighted else None)
    difference = margin[y == 1][:, None] - margin[y == 0]
    pairs = s[y == 1][:, None] * s[y == 0]
    exact = (((difference > 0) + 0.5 * (difference == 0)) * pairs).sum() / pairs.sum()
    assert abs(got.roc_auc - exact) <= got.roc_auc_resolution + 1e-12
    assert got.roc_auc_resolution < (0.05 if scale == 0.01 else 0.004)
    assert abs(got.roc_auc - exact) < 5e-4


def test_roc_auc_of_constant_predictions_is_a_half_and_of_one_label_nan():
    y = np.array([0, 1, 1, 0, 1])
    for row in ([0.0, 0.0], [0.0, 1.0], [50.0, 0.0], [0.0, 1e-9]):
        assert score(np.tile(row, (5, 1)), y).roc_auc == 0.5
    assert math.isnan(score(np.zeros((5, 2)), np.zeros(5, int)).roc_auc)
    assert score(np.array([[0.0, -3.0], [0.0, 4.0], [0.0, 5.0], [0.0, -1.0], [0.0, 1.0]]), y).roc_auc == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_and_log_likelihood_are_the_functions_bits(dtype):
    s = np.random.default_rng(5).random(5000)
    for weights in (None, s):
        for kind, function in (("log_probs", fastxent.nll), ("probs", fastxent.log_loss)):
            z, y = some_rows(5000, 7, dtype=dtype, kind=kind)
            got = score(z, y, kind=kind, sample_weight=weights)
            assert got.nll == function(z, y, sample_weight=weights)
            assert got.log_likelihood == -function(z, y, sample_weight=weights, reduction="sum")
        z, y = some_rows(5000, 7, dtype=dtype)
        got = score(z, y, sample_weight=weights)
        # From logits the card takes another sum than the loss does; each is within the promised bound.
        bound = 2.0**-20 if dtype == np.float32 else 2.0**-48
        assert got.nll == pytest.approx(fastxent.cross_entropy(z, y, sample_weight=weights), rel=bound)
        assert got.perplexity == pytest.approx(fastxent.perplexity(z, y, sample_weight=weights), rel=8 * bound)


@pytest.mark.parametrize("c", [1, 2, 4, 300])
def test_a_weight_of_one_is_no_weight(c):
    z, y = some_rows(900, c)
    assert score(z, y, sample_weight=np.ones(900)) == score(z, y)
    half = Scorer().update(z[:400], y[:400]).update(z[400:], y[400:], sample_weight=np.ones(500))
    assert half.result() == score(z, y)


# ---- the same bits, however the rows come ----------------------------------------------------------------------------


def carried(scorer, way, folder):
    if way == "pickled":
        return pickle.loads(pickle.dumps(scorer))
    if way == "saved":
        scorer.save(folder / "part.state")
        return Scorer.load(folder / "part.state")
    return scorer


@pytest.mark.parametrize("weights", ["none", "all", "some parts"])
@pytest.mark.parametrize("c", [2, 10, 300])
def test_parts_in_any_order_equal_the_whole(c, weights, tmp_path):
    rng = np.random.default_rng(c)
    n = 3000
    z, y = some_rows(n, c, seed=c)
    z[rng.random(n) < 0.05] *= 1e3  # NLL from 0 and 1e-300 to thousands
    z[rng.random(n) < 0.05, 0] = -np.inf
    z[:4, 0] = np.nan
    y[rng.random(n) < 0.05] = -1
    s = np.ones(n) if weights == "some parts" else rng.lognormal(size=n) * 10.0 ** rng.integers(-30, 30, n)
    options = {"ignore_index": -1, "invalid": "count", "worst": 30}
    whole = score(z, y, sample_weight=None if weights == "none" else s, **options)
    assert whole.n + whole.invalid + whole.ignored == n
    assert whole.invalid > 0
    for trial in range(4):
        cuts = [0, *sorted(rng.integers(0, n + 1, rng.integers(1, 12))), n]
        parts = []
        for i in rng.permutation(len(cuts) - 1):
            low, high = int(cuts[i]), int(cuts[i + 1])
            weighted = weights == "all" or (weights == "some parts" and rng.random() < 0.5)
            rows = slice(low, high)
            where = parts[-1] if parts and rng.random() < 0.3 else Scorer(**options)
            where.update(z[rows], y[rows], start=low, sample_weight=s[rows] if weighted else None)
            if not parts or where is not parts[-1]:
                parts.append(where)
        while len(parts) > 1:
            other = carried(parts.pop(rng.integers(len(parts))), rng.choice(["as is", "pickled", "saved"]), tmp_path)
            parts[rng.integers(len(parts))].merge(other)
        assert parts[0].result() == whole, trial
        assert parts[0].rows == ((0, n),)


@pytest.mark.parametrize("slice_rows", [1 << 15, 1 << 20])
def test_threads_and_slices_change_no_bit(slice_rows, monkeypatch):
    monkeypatch.setattr("fastxent.scoring.rows.SLICE_ROWS", slice_rows)
    z, y = some_rows(150_000, 3, dtype=np.float32)
    s = np.random.default_rng(6).random(150_000)
    for weights in (None, s):
        one = score(z, y, sample_weight=weights, threads=1)
        assert one == score(z, y, sample_weight=weights, threads=2)
        assert one == score(np.asfortranarray(z), y, sample_weight=weights)
        ids, back = np.arange(150_000), None if weights is None else weights[::-1]
        assert one == score(z[::-1], y[::-1], sample_weight=back, ids=ids[::-1])
        square = None if weights is None else weights.reshape(300, 500)
        assert one == score(z.reshape(300, 500, 3), y.reshape(300, 500), sample_weight=square)


def test_a_merged_part_stays_as_it_is():
    z, y = some_rows(100, 3)
    part = Scorer().update(z, y)
    before = part.result()
    total = Scorer().update(z, y, sample_weight=np.full(100, 0.5)).merge(part)
    assert part.result() == before
    assert total.result().weight == 150
    assert total.result().n == 200


@pytest.mark.parametrize("few", [3, 3000])
def test_many_pairs_are_counted_in_a_growing_list(few, monkeypatch):
    """A list that is full is sorted and joined: pairs that come again and again, and ever new ones."""
    monkeypatch.setattr("fastxent.scoring.state._MANY_PAIRS", 1 << 14)
    rng = np.random.default_rng(7)
    c, n = 3000, 60_000
    y, predicted = rng.integers(0, few, n) * (c // few), rng.integers(0, c if few == c else 40, n)
    scorer = Scorer(n_classes=c, top_k=1)
    for k in range(0, n, 5000):
        z = np.zeros((5000, c), np.float32)
        z[np.arange(5000), predicted[k : k + 5000]] = 1
        scorer.update(z, y[k : k + 5000])
    got = scorer.result().confusion
    keys, counts = np.unique(y * c + predicted, return_counts=True)
    assert np.array_equal(got.label * c + got.predicted, keys)
    assert np.array_equal(got.n, counts)
    assert scorer.merge(Scorer(n_classes=c, top_k=1).update(z, y[-5000:])).result().confusion.n.sum() == n + 5000


def test_pairs_of_more_rows_than_are_sorted_in_one_number_keep_them():
    """Beside a key of 40 bits there are 23 for the rows."""
    c, many = 1_000_000, (1 << 26) + 5
    counts, keys, rows = np.zeros(8, np.int64), np.array([3 * c + 7, 2, 3 * c + 7, 0]), np.array([many, 1, many, 9])
    counts[PAIRS_USED] = 3
    class_rows = np.zeros((c, 3), np.int64)
    class_rows[[0, 3, c - 1], :2] = (1, 0), (2 * many + 2, 2), (many, many)
    found = [(0, 2, 1), (3, 3, 2), (3, 7, 2 * many), (c - 1, c - 1, many)]
    assert list(zip(*sorted_pairs(counts, keys, rows, class_rows))) == found
    compact_pairs(counts, keys, rows, c)
    assert counts[PAIRS_USED] == 2
    assert list(zip(keys[:2], rows[:2])) == [(2, 1), (3 * c + 7, 2 * many)]


@pytest.mark.parametrize("k", [300, 2500])
def test_wide_top_k_and_many_bins_are_counted_row_by_row(k):
    """Ranks and bins that are too many to be counted together."""
    z, y = some_rows(3000, 400)
    got = score(z, y, top_k=(1, min(k, 400)), bins=k)
    rank = figures_of_rows(z, "logits", y)[-1]
    assert got.top_k_accuracy[min(k, 400)] == np.mean(rank < min(k, 400))
    assert got.accuracy == np.mean(rank == 0)
    assert got.reliability.n.sum() == 3000
    confidence = figures_of_rows(z, "logits", y)[2]
    close(got.reliability.confidence[got.reliability.n > 0].max(), confidence.max(), 0.01)


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_ties_are_ranked_by_position_as_argmax_does():
    z = np.array([[1.0, 1.0, 1.0, 0.0]] * 4)
    got = score(z, np.arange(4), top_k=(1, 2, 3, 4, 9))
    assert list(got.top_k_accuracy.values()) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert got.confusion.predicted.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("bins", [1, 4, 5, 10, 15])
def test_a_confidence_on_an_edge_is_in_the_bin_below(bins):
    edges = [k / bins for k in range(bins + 1)]
    confidence = [c for e in edges for c in (e, math.nextafter(e, 0), math.nextafter(e, 2)) if 0.5 <= c <= 1]
    p = np.array([[c, 1 - c] for c in confidence])
    got = score(p, np.zeros(len(p), int), kind="probs", bins=bins).reliability
    want = [sum(low < c <= high for c in confidence) for low, high in pairwise(edges)]
    assert got.n.tolist() == want


def test_histogram_boundaries_belong_to_the_bin_above():
    edges = score([[0.0, 0.0]], [0]).nll_histogram.edges
    assert edges[:3].tolist() == [0.0, 2.0**-20, 1.25 * 2.0**-20]
    assert edges[-4:].tolist() == [112.0, 128.0, math.inf, math.inf]
    for k, edge in enumerate(edges[1:-2], 1):
        for nll, place in ((edge, k), (math.nextafter(edge, 0), k - 1)):
            got = score([[-nll, -1.0]], [0], kind="log_probs").nll_histogram.n
            assert np.flatnonzero(got).tolist() == [place]
    for nll, place in ((0.0, 0), (1e-300, 0), (1e30, -2), (math.inf, -1)):
        assert score([[-nll, -1.0]], [0], kind="log_probs").nll_histogram.n[place] == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_variance_of_nearly_constant_losses_does_not_cancel(weighted):
    rng = np.random.default_rng(8)
    nll = 1.0 + rng.integers(0, 5, 1000) * 2.0**-52
    s = rng.integers(1, 9, 1000) / 8 if weighted else np.ones(1000)
    r = [Fraction(float(a * b)) for a, b in zip(s, nll)]
    total = sum(map(Fraction, s))
    m = sum(r) / total
    exact = math.sqrt(sum((x - Fraction(w) * m) ** 2 for x, w in zip(r, s)) / total**2)
    got = score(np.stack([-nll, -nll], 1), np.zeros(1000, int), kind="log_probs", sample_weight=s if weighted else None)
    assert got.nll_se == pytest.approx(exact, rel=1e-14)
    assert 0 < got.nll_se < 1e-16
    assert score(np.full((9, 2), -1.7), np.zeros(9, int), kind="log_probs").nll_se == 0.0


def test_tiny_and_huge_losses_are_summed_exactly_by_class():
    nll = 10.0 ** np.random.default_rng(9).integers(-300, 100, 4000)
    y = np.arange(4000) % 5
    got = score(np.repeat(-nll[:, None], 5, 1), y, kind="log_probs").classes.nll
    assert got.tolist() == [math.fsum(nll[y == k]) / 800 for k in range(5)]


def test_an_infinite_loss_is_infinite():
    got = score([[0.0, -np.inf], [0.0, 0.0]], [1, 1])
    assert (got.nll, got.log_likelihood, got.perplexity) == (math.inf, -math.inf, math.inf)
    assert math.isnan(got.nll_se)
    assert math.isnan(got.skill)  # one label alone: nothing to be skilled at
    assert got.worst[0] == (0, 1, math.inf)
    text = json.dumps(got.to_dict(), allow_nan=False)
    assert json.loads(text)["nll"] == "inf"
    assert json.loads(text)["log_likelihood"] == "-inf"
    assert score([[0.0, -np.inf], [0.0, 0.0]], [1, 0]).skill == -math.inf


def test_invalid_rows_raise_or_are_counted():
    z, y = some_rows(50, 3)
    clean = score(np.delete(z, [3, 20, 30], 0), np.delete(y, [3, 20, 30]), ids=np.delete(np.arange(50), [3, 20, 30]))
    z[3, 1], z[20, 0], z[30] = np.nan, np.inf, -np.inf
    scorer = Scorer().update(z[:3], y[:3])
    before = scorer.result()
    with pytest.raises(ValueError, match=r"predictions: row 3 .*invalid='count'"):
        scorer.update(z, y)
    assert scorer.result() == before
    assert scorer.rows == ()
    counted = score(z, y, invalid="count")
    assert (counted.n, counted.invalid) == (47, 3)
    for name in ("nll", "nll_se", "accuracy", "ece", "classes", "confusion", "worst", "brier"):
        a, b = getattr(counted, name), getattr(clean, name)
        assert all(map(np.array_equal, a, b)) if isinstance(a, tuple) else a == b


def test_a_failed_update_of_many_slices_adds_nothing(monkeypatch):
    monkeypatch.setattr("fastxent.scoring.rows.SLICE_ROWS", 1 << 16)
    z, y = some_rows(200_000, 2, dtype=np.float32)
    scorer = Scorer().update(z, y, start=0)
    before = scorer.result()
    y[-1] = 2
    with pytest.raises(ValueError, match="row 199999"):
        scorer.update(z, y, start=200_000)
    assert scorer.result() == before
    assert scorer.rows == ((0, 200_000),)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("n", "c", "dtype"), [(15_000, 1000, np.float16), (40_000, 2, np.float32), (20_000, 300, np.float32)]
)
def test_a_failed_update_adds_nothing_whatever_it_was_cut_into(n, c, dtype, threads):
    z, y = np.zeros((n, c), dtype), np.arange(n) % c
    scorer = Scorer(threads=threads).update(z[:10], y[:10], start=n)
    before = scorer.result()
    for row, value, message in ((n - 1, c, f"target: row {n - 1}"), (n - 2, 0, f"predictions: row {n - 2} ")):
        kept = y[row]
        y[row], z[n - 2, 0] = value, np.nan if value == 0 else 0
        with pytest.raises(ValueError, match=message):
            scorer.update(z, y, start=0)
        y[row] = kept
    assert scorer.result() == before
    assert scorer.rows == ((n, n + 10),)
    z[n - 2, 0] = 0
    assert scorer.update(z, y, start=0).result().n == n + 10


@pytest.mark.parametrize("c", [1, 2, 5])
def test_no_rows_give_nan_and_a_warning(c):
    for scorer in (Scorer(), Scorer(n_classes=c), Scorer().update(np.zeros((0, c)), np.zeros(0, int))):
        with pytest.warns(RuntimeWarning, match="no row"):
            got = scorer.result()
        assert (got.n, got.log_likelihood) == (0, 0.0)
        assert math.isnan(got.nll)
        assert math.isnan(got.nll_se)
        json.dumps(got.to_dict(), allow_nan=False)
        str(got)
    with pytest.warns(RuntimeWarning, match="no row"):
        assert math.isnan(score(np.zeros((2, c)), [0, 0], sample_weight=[0, 0]).nll)


def test_worst_rows_are_ordered_by_loss_then_id():
    z = np.zeros((6, 2))
    z[:, 1] = [0, 3, 3, 1, 3, 0]
    got = score(z, np.zeros(6, int), ids=[9, 7, 5, 1, 6, 2], worst=4).worst
    assert [row.id for row in got] == [5, 6, 7, 1]
    assert score(z, np.zeros(6, int), worst=0).worst == ()
    assert [row.id for row in score(z, np.zeros(6, int), worst=99).worst] == [1, 2, 4, 3, 0, 5]
    far = Scorer(worst=2).update(z, np.zeros(6, int), start=10**12).result().worst
    assert [row.id for row in far] == [10**12 + 1, 10**12 + 2]


def test_rows_count_on_from_where_an_update_ended():
    scorer = Scorer(worst=1).update([[0.0, 1.0]], [1], start=5).update([[5.0, 0.0]], [1])
    assert scorer.result().worst[0].id == 6


def test_options_of_the_kinds_are_used():
    z, y = some_rows(200, 4)
    close(score(z, y, temperature=2.0).nll, score(z / 2, y).nll)
    p, _ = some_rows(200, 4, kind="probs")
    close(score(p * 3 / 4, y, kind="probs", normalize=True).nll, score(p, y, kind="probs").nll)
    assert score([[1.0, 0.0]], [1], kind="probs", eps=1e-3).nll == pytest.approx(-math.log(1e-3))
    with pytest.raises(ValueError, match="predictions"):
        score(p * 1.1, y, kind="probs")


# ---- the kernels' paths: tiles of rows, single rows, sums by group ---------------------------------------------------


def rows_of(z, y, temperature=1.0):
    """The per-row figures of the score card's kernels."""
    n = len(y)
    rows = batch.ScoreRows(*(np.empty(n) for _ in range(4)), *(np.empty(n, np.int64) for _ in range(2)))
    batch.score_rows(batch.LOGITS, z[None], y, True, -1, 0.0, False, 1e-3, temperature, rows)
    return rows


FEW_AND_MANY = [1, 2, 3, 4, 5, 15, 16, 17, 31, 63, 64, 65, 66, 127, 128, 129, 300]  # tiles up to 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", FEW_AND_MANY)
def test_rows_of_few_and_of_many_classes_have_the_figures_of_the_formula(c, dtype):
    rng = np.random.default_rng(c)
    for scale, shift, temperature in [
        (0.01, 0, 1.0),
        (2, 0, 1.0),
        (2, 5, 0.7),
        (30, -400, 1.0),
        (30, 2e4, 1.0),
        (9, 0, 50.0),
    ]:
        z = (rng.normal(size=(300, c)) * scale + shift).round(2).astype(dtype)
        y = rng.integers(0, c, 300)
        if c > 2:
            z[::5, 1] = -np.inf
            y[y == 1] = 0
        got = rows_of(z, y, temperature)
        want = exact_figures(z, y, temperature)
        for name, values in zip(("nll", "entropy", "confidence", "brier"), want):
            near = -47 if dtype == np.float64 else -21
            np.testing.assert_allclose(getattr(got, name), values, rtol=2.0**near, atol=1e-290)
        mine, classes = z[np.arange(300), y][:, None], np.arange(c)
        assert got.predicted.tolist() == z.argmax(1).tolist()
        assert got.rank.tolist() == ((z > mine) | ((z == mine) & (classes < y[:, None]))).sum(1).tolist()


def exact_figures(z, y, temperature):
    """NLL, entropy, confidence and Brier score in long double, from non-negative terms around the largest class."""
    x, rows = z.astype(np.longdouble) / np.longdouble(temperature), np.arange(len(z))
    first = x.argmax(1)
    below = x[rows, first][:, None] - x
    terms = np.exp(-below)
    terms[rows, first] = 0
    rest = terms.sum(1)
    q = terms / (1 + rest)[:, None]
    squares = (q**2).sum(1)
    q[rows, first] = 1 / (1 + rest)
    share, top, own = rest / (1 + rest), q[rows, first], q[rows, y]
    entropy = np.log1p(rest) + (terms * np.where(terms > 0, below, 0)).sum(1) / (1 + rest)
    brier = np.where(first == y, share**2, (top**2 - own) + (1 - own)) + squares
    return np.log1p(rest) + below[rows, y], entropy, top, brier


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", FEW_AND_MANY)
def test_a_rows_bits_do_not_depend_on_its_neighbours(c, dtype):
    rng = np.random.default_rng(c)
    z = (rng.normal(size=(70, c)) * 10.0 ** rng.integers(-3, 5, (70, 1))).astype(dtype)
    z[rng.random(z.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf])
    y = rng.integers(-1, c, 70)
    together = np.stack(rows_of(z, y)).view(np.int64)
    fortran = np.stack(rows_of(np.asfortranarray(z), y)).view(np.int64)
    alone = np.concatenate([np.stack(rows_of(z[i : i + 1], y[i : i + 1])) for i in range(70)], 1).view(np.int64)
    assert np.array_equal(together, alone)
    assert np.array_equal(together, fortran)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", FEW_AND_MANY)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_or_infinity_anywhere_makes_its_row_invalid_and_no_other(c, dtype, value):
    z = np.random.default_rng(c).normal(size=(2 * c, c)).astype(dtype)
    z[::2][np.arange(c), np.arange(c)] = value
    z[:c:4] += 1e4  # rows far from 0
    for y in (np.zeros(2 * c, int), np.arange(2 * c) // 2, np.full(2 * c, c - 1)):
        got = rows_of(z, y)
        assert (got.rank[::2] == -2).all()
        assert np.isnan(got.nll[::2]).all()
        assert (got.rank[1::2] >= 0).all()
        assert np.isfinite(np.stack(got[:4])[:, 1::2]).all()
    masked = np.full((2, c), -np.inf, dtype)
    masked[1, c - 1] = -1400.0
    got = rows_of(masked, np.array([0, c - 1]))
    assert got.rank.tolist() == [-2, 0]
    assert [figure[1] for figure in got[:4]] == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("low", [-30, -12, -3])
@pytest.mark.parametrize("high", [1, 6, 9])
@pytest.mark.parametrize("c", [3, 300, 600])
def test_sums_by_class_are_exact_whatever_the_magnitudes(c, low, high):
    """In blocks where parts fit, where some rows do not, and where none does."""
    rng = np.random.default_rng(c)
    nll = 10.0 ** rng.uniform(low, high, 5000)
    y = rng.integers(0, c, 5000)
    z = np.full((5000, c), -1e12)
    z[np.arange(5000), y] = -nll
    z[nll > 100, (c - 1)] = -0.5
    nll = -z[np.arange(5000), y]
    got = score(z, y, kind="log_probs")
    assert got.log_likelihood == -math.fsum(nll)
    counts = np.bincount(y, minlength=c)
    sums = [math.fsum(nll[y == k]) for k in range(c)]
    with np.errstate(invalid="ignore"):
        assert got.classes.nll.tobytes() == (np.array(sums) / counts).tobytes()
    confidence = np.exp(z.max(1))
    close(got.confidence, confidence.mean())
    assert got.reliability.n.sum() == 5000


# ---- the result and the file -----------------------------------------------------------------------------------------


def test_to_dict_has_a_fixed_schema():
    z, y = some_rows(100, 3)
    want = set(score(z, y).to_dict())
    assert want >= {"schema", "arithmetic", "nll", "nll_se", "classes", "worst", "options"}
    with pytest.warns(RuntimeWarning):
        empty = Scorer().result()
    for other in (score(z, np.eye(3)[y]), score(z, y, sample_weight=y + 1.0, worst=0), empty):
        assert set(other.to_dict()) == want
        assert json.loads(json.dumps(other.to_dict(), allow_nan=False)) == other.to_dict()
    got = score(z, y).to_dict()
    assert got["schema"] == "fastxent.score/1"
    assert got["top_k_accuracy"].keys() == {"1", "5"}
    assert sum(got["confusion"]["n"]) == 100
    assert set(got["classes"]) == {"n", "weight", "nll", "accuracy", "precision", "recall", "f1"}
    assert set(got["worst"][0]) == {"id", "label", "nll"}


def test_a_score_is_read_only_and_reads_well():
    z, y = some_rows(100, 3)
    got = score(z, y)
    with pytest.raises(AttributeError):
        got.nll = 0.0
    for table in (got.classes, got.reliability, got.confusion, got.nll_histogram):
        for array in table:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
    for word in ("rows", "NLL", "nats", "perplexity", "accuracy", "Brier", "worst row"):
        assert word in str(got)
    assert repr(got).startswith("<Score of 100 rows>")
    assert got != score(z, y, worst=1)
    assert hash(got) == hash(score(z, y))


def test_a_saved_state_goes_on(tmp_path):
    z, y = some_rows(400, 6)
    path = tmp_path / "run.state"
    Scorer(bins=5, top_k=3).update(z[:100], y[:100], start=0).save(path)
    again = Scorer.load(path)
    assert again.rows == ((0, 100),)
    assert again.update(z[100:], y[100:], start=100).result() == score(z, y, bins=5, top_k=3)
    with pytest.raises(ValueError, match="rows 50 to 59 are covered"):
        again.update(z[:10], y[:10], start=50)
    assert [p.name for p in tmp_path.iterdir()] == ["run.state"]
    Scorer().save(path)
    assert Scorer.load(path).update(z, y).result() == score(z, y)


def test_a_damaged_state_is_refused(tmp_path):
    z, y = some_rows(60, 300)
    path = tmp_path / "s.state"
    Scorer().update(z, y).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(10)
    for cut in [0, 5, 22, 23, 30, 31, *rng.integers(0, len(content), 40)]:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"s\.state: .*(damaged|not a fastxent)"):
            Scorer.load(path)
    for place in rng.integers(0, len(content), 60):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"s\.state: "):
            Scorer.load(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="not a fastxent score state"):
        Scorer.load(path)
    path.write_bytes(content.replace(b"state 2\n", b"state 1\n", 1))
    with pytest.raises(ValueError, match="another format"):
        Scorer.load(path)
    with pytest.raises(FileNotFoundError):
        Scorer.load(tmp_path / "absent")


def forged(content, change, arrays=None):
    """A state file whose header or arrays were changed, with a right checksum."""
    at = content.index(b"\n") + 9
    end = at + int.from_bytes(content[at - 8 : at], "little")
    header, body = json.loads(content[at:end]), zlib.decompress(content[end:-32])
    change(header)
    if arrays is not None:
        body = arrays(header, bytearray(body))
    head = json.dumps(header).encode()
    content = content[: at - 8] + len(head).to_bytes(8, "little") + head + zlib.compress(bytes(body))
    return content + hashlib.sha256(content).digest()


def test_a_state_of_other_arithmetic_or_impossible_content_is_refused(tmp_path):
    z, y = some_rows(60, 300)
    path = tmp_path / "s.state"
    Scorer().update(z, y).save(path)
    content = path.read_bytes()
    path.write_bytes(forged(content, lambda header: None))
    assert Scorer.load(path).result() == score(z, y)
    path.write_bytes(forged(content, lambda header: header.update(arithmetic=0)))
    with pytest.raises(ValueError, match="arithmetic version 0"):
        Scorer.load(path)

    def place_of(header, name):
        sizes = {k: 8 * math.prod(shape) for k, (_, shape) in header["arrays"].items()}
        names = list(sizes)
        return sum(sizes[k] for k in names[: names.index(name)])

    for name in ("counts", "pair_keys", "spill_index"):

        def fill(header, body, name=name):
            place = place_of(header, name)
            body[place : place + 48] = b"\x7f" * 48
            return body

        path.write_bytes(forged(content, lambda header: None, fill))
        with pytest.raises(ValueError, match="contradicts itself"):
            Scorer.load(path)
    for change in (
        lambda header: header.update(n_classes=301),
        lambda header: header["options"].update(bins=3),
        lambda header: header.update(weighted=True),
        lambda header: header["arrays"].pop("spill"),
        lambda header: header["options"].pop("worst"),
    ):
        path.write_bytes(forged(content, change))
        with pytest.raises(ValueError, match=r"s\.state: "):
            Scorer.load(path)


def test_parts_that_do_not_belong_together_are_refused():
    z, y = some_rows(10, 3)
    mine = Scorer().update(z, y, start=0)
    for other, what in (
        (Scorer(bins=3), "bins"),
        (Scorer(kind="log_probs"), "kind"),
        (Scorer(temperature=2.0), "temperature"),
        (Scorer(invalid="count"), "invalid"),
        (Scorer(n_classes=4), "classes"),
        (Scorer().update(z, np.eye(3)[y]), "distributions"),
        (Scorer().update(z, y, start=9), "rows 9 to 9 are covered"),
        (mine, "itself"),
    ):
        with pytest.raises(ValueError, match=f"other: .*{what}"):
            mine.merge(other)
    with pytest.raises(TypeError, match="other"):
        mine.merge(mine.result())
    with pytest.raises(ValueError, match="predictions: 4 classes"):
        mine.update(np.zeros((1, 4)), [0])
    with pytest.raises(ValueError, match="target: .*distributions"):
        mine.update(z, np.eye(3)[y])
    assert mine.result() == score(z, y)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"kind": "logit"}, ValueError, "kind"),
        ({"kind": 0}, TypeError, "kind"),
        ({"bins": 0}, ValueError, "bins"),
        ({"bins": 2.0}, TypeError, "bins"),
        ({"top_k": 0}, ValueError, "top_k"),
        ({"top_k": (1, "a")}, TypeError, "top_k"),
        ({"top_k": True}, TypeError, "top_k"),
        ({"worst": -1}, ValueError, "worst"),
        ({"invalid": "drop"}, ValueError, "invalid"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"eps": 0.5}, ValueError, "eps"),
        ({"n_classes": 0}, ValueError, "n_classes"),
        ({"n_classes": 4}, ValueError, "predictions"),
        ({"ids": [0.5, 1.5]}, TypeError, "ids"),
        ({"ids": [1]}, ValueError, "ids"),
        ({"ids": np.array([1, 2**64 - 1], np.uint64)}, ValueError, "ids"),
        ({"sample_weight": [1.0, -1.0]}, ValueError, "sample_weight"),
        ({"axis": 2}, ValueError, "axis"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_a_bad_option_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}:"):
        score([[0.0, 1.0], [1.0, 0.0]], [0, 1], **options)
    assert isinstance(score([[0.0, 1.0]], [0]), Score)
