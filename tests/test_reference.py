"""The oracles themselves, against torch, SciPy, scikit-learn and each other: an oracle that is wrong proves nothing."""

import math

import numpy as np
import pytest
import reference
from reference import EXACT, exact
from rows import FEW_CLASSES, distributions, families, labels_worth_trying
from scipy import special, stats

WIDE = pytest.mark.skipif(not reference.WIDE_IS_WIDER, reason="needs an 80-bit long double")


def near(got, want, bits=50, floor=0):
    if EXACT.isnan(want) or EXACT.isinf(want):
        return str(EXACT.mpf(got)) == str(want)
    return abs(EXACT.mpf(got) - want) <= abs(want) * EXACT.mpf(2) ** -bits + floor


@pytest.mark.parametrize("c", [1, 2, 3, 10, 33])
def test_two_ways_to_an_exact_nll_agree(c):
    rng = np.random.default_rng(c)
    for name, row in families(c, np.float64, rng).items():
        labels = labels_worth_trying(row, rng)
        for temperature in (1.0, 0.7, 2.0**-10):
            for y, shared in zip(labels, reference.exact_nlls(row, labels, temperature)):
                assert near(shared, reference.exact_nll(row, y, temperature), bits=180), (name, y)


def test_exact_nll_keeps_its_digits_where_the_loss_is_tiny():
    for gap in (1, 92.1, 700, 1e5, 1e8):
        row = [gap, 0.0, 0.0]
        assert near(reference.exact_nll(row, 0), EXACT.log1p(2 * EXACT.exp(-exact(gap))), bits=190)
    assert reference.exact_nll([5.0], 0) == 0
    assert near(reference.exact_nll(np.zeros(200_000), 7), EXACT.log(200_000), bits=190)


@WIDE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sharp_nll_is_good_to_2_to_the_minus_52(dtype):
    rng = np.random.default_rng(3)
    for c in (2, 5, 16, 33):
        for name, row in families(c, dtype, rng).items():
            if not np.isfinite(row).all():
                continue
            for y in labels_worth_trying(row, rng):
                got = reference.sharp_nll([row], [y])[0]
                want = reference.exact_nll(row, y)
                if want < EXACT.mpf(10) ** -4000:  # below what a long double holds
                    continue
                high = float(got)
                assert near(exact(high) + exact(float(got - high)), want, bits=51, floor=exact(5e-324)), (name, y)


@pytest.mark.parametrize("c", FEW_CLASSES[:12])
def test_exact_and_whole_array_oracles_agree(c):
    rng = np.random.default_rng(c)
    z, weight = 3 * rng.standard_normal((4, c)), rng.random(c)
    if c > 2:
        z[1, 0] = -np.inf
    probs = special.softmax(z, axis=-1)
    for t in distributions(c, rng).values():
        if c > 2:
            t = np.where(np.arange(c) == 0, 0, t)
        soft = reference.cross_entropy(z, np.tile(t, (4, 1)), weight=weight, reduction="none", temperature=0.7)
        loss = reference.log_loss(
            probs, np.tile(t, (4, 1)), weight=weight, normalize=True, eps=0.01, sum_tol=2, reduction="none"
        )
        for i in range(4):
            assert near(soft[i], reference.exact_cross_entropy(z[i], t, weight, temperature=0.7), 40, exact(1e-18))
            assert near(loss[i], reference.exact_log_loss(probs[i], t, weight, eps=0.01, normalize=True), 40)
    y = np.full(4, c - 1)
    hard = reference.cross_entropy(z, y, weight=weight, label_smoothing=0.1, reduction="none")
    for i in range(4):
        assert near(hard[i], reference.exact_cross_entropy(z[i], c - 1, weight, label_smoothing=0.1), 40)
        assert near(float(reference.logsumexp(z)[i]), reference.exact_logsumexp(z[i]), 40, exact(1e-16))
        for got, want in zip(reference.log_softmax(z)[i], reference.exact_log_softmax(z[i])):
            assert near(float(got), want, 40, exact(1e-16))
    for kind, p in (("logits", z), ("probs", probs), ("log_probs", special.log_softmax(z, axis=-1))):
        entropies = reference.entropy(p, kind=kind)
        q = p[::-1].copy()
        q[np.isneginf(q)] = -3
        q[q == 0] = 0.1
        divergences = reference.kl_divergence(p, q, kind=kind)
        for i in range(4):
            assert near(entropies[i], reference.exact_entropy(p[i], kind), 40, exact(1e-16))
            want, scale = reference.exact_kl_divergence(p[i], q[i], kind)
            assert near(divergences[i], want, 60, scale * 1e-14 + exact(1e-16))


def test_scipy_agrees():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((5, 7, 11)) * 20
    for axis in (0, 1, -1):
        np.testing.assert_allclose(reference.logsumexp(z, axis=axis), special.logsumexp(z, axis=axis), rtol=1e-14)
        np.testing.assert_allclose(reference.softmax(z, axis=axis), special.softmax(z, axis=axis), rtol=1e-12)
        np.testing.assert_allclose(
            reference.log_softmax(z, axis=axis), special.log_softmax(z, axis=axis), rtol=1e-12, atol=1e-13
        )
    p, q = rng.dirichlet(np.ones(9), 30), rng.dirichlet(np.ones(9), 30)
    p[::3, 2] = 0
    np.testing.assert_allclose(reference.entropy(p / p.sum(-1, keepdims=True)), stats.entropy(p, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(reference.kl_divergence(p, q), special.rel_entr(p, q).sum(-1), rtol=1e-12)
    q[0, 4] = 0
    assert reference.kl_divergence(p, q)[0] == np.inf


def test_torch_agrees():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng = np.random.default_rng(2)
    for _ in range(300):
        n, c = int(rng.integers(1, 8)), int(rng.integers(1, 12))
        z, weight = 5 * rng.standard_normal((n, c)), rng.random(c) if rng.random() < 0.5 else None
        smoothing, reduction = float(rng.choice([0, 0.1, 0.9, 1])), str(rng.choice(["none", "sum", "mean"]))
        ignore = int(rng.choice([-100, 0]))
        y = rng.integers(0, c, n)
        y[rng.random(n) < 0.2] = ignore
        w = None if weight is None else torch.tensor(weight)
        options = {"label_smoothing": smoothing, "reduction": reduction}
        want = f.cross_entropy(torch.tensor(z), torch.tensor(y), weight=w, ignore_index=ignore, **options)
        got = reference.cross_entropy(z, y, weight=weight, ignore_index=ignore, **options)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-14)
        t = rng.dirichlet(np.ones(c), n)
        want = f.cross_entropy(torch.tensor(z), torch.tensor(t), weight=w, **options)
        got = reference.cross_entropy(z, t, weight=weight, **options)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-14)
        lp = special.log_softmax(z, axis=-1)
        want = f.nll_loss(torch.tensor(lp), torch.tensor(y), weight=w, ignore_index=ignore, reduction=reduction)
        got = reference.nll(lp, y, weight=weight, ignore_index=ignore, reduction=reduction)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-14)
        p = rng.random(n)
        want = f.binary_cross_entropy_with_logits(
            torch.tensor(z[:, 0]), torch.tensor(p), pos_weight=torch.tensor(2.5), reduction=reduction
        )
        got = reference.binary_cross_entropy(z[:, 0], p, pos_weight=2.5, reduction=reduction)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11)
        want = f.binary_cross_entropy(torch.tensor(p), torch.tensor(1 - p), reduction=reduction)
        np.testing.assert_allclose(reference.binary_log_loss(p, 1 - p, reduction=reduction), want.numpy(), rtol=1e-11)


def test_sklearn_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    p, y = rng.dirichlet(np.full(5, 0.1), 200), rng.integers(0, 5, 200)
    p[:3] = np.eye(5)[:3]
    s = rng.random(200)
    eps = float(np.finfo(np.float64).eps)
    want = metrics.log_loss(y, p, labels=np.arange(5), sample_weight=s)
    assert math.isclose(reference.log_loss(p, y, sample_weight=s, eps=eps), want, rel_tol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_masked_and_invalid_rows():
    inf, nan = math.inf, math.nan
    z = np.array([[0, 1, -inf], [-inf, -inf, -inf], [0, nan, 0], [0, inf, 0]])

    def none(y, **options):
        return reference.cross_entropy(z, np.full(4, y), reduction="none", **options).tolist()

    assert str(none(2)) == str([inf, nan, nan, nan])
    assert none(0)[0] == pytest.approx(math.log1p(math.e))
    assert none(0, label_smoothing=0.1)[0] == inf
    soft = reference.cross_entropy(z, np.tile([0.5, 0.5, 0.0], (4, 1)), reduction="none")
    assert np.isfinite(soft[0])
    assert np.isnan(soft[1:]).all()
    assert reference.log_softmax(z)[0, 2] == -inf
    assert reference.softmax(z)[0, 2] == 0
    assert np.isfinite(reference.entropy(z, kind="logits")[0])
    assert reference.cross_entropy(z, np.array([0, -1, -1, -1]), ignore_index=-1) == none(0)[0]
    assert math.isnan(reference.cross_entropy(z, np.full(4, -1), ignore_index=-1))
    assert reference.cross_entropy(z, np.full(4, -1), ignore_index=-1, reduction="sum") == 0.0
