"""The focal loss against 50-digit arithmetic: its values, its gradient, and what bounds its Hessian."""

import math

import numpy as np
import pytest
import reference
from reference import EXACT

import fastxent
from fastxent.focal import binary_focal_loss_value_and_grad

GAMMAS = (0.0, 0.5, 1.0, 2.0, 2.7, 5.0)
BOUND = {np.float32: 2.0**-21, np.float64: 2.0**-49}
LOSES = {np.float32: 4e-6, np.float64: 1e-13}  # of derivatives, relative to the row's largest


def exact_rows(z, y, gamma):
    """For every row: φ(l), its gradient, and the diagonals of the Hessian and of its bound."""
    rows = []
    for row, label in zip(z.astype(float).tolist(), y.tolist()):
        terms = [EXACT.exp(EXACT.mpf(v) - EXACT.mpf(row[label])) for v in row]
        others = EXACT.fsum(t for k, t in enumerate(terms) if k != label)
        u, nll = others / (1 + others), EXACT.log1p(others)
        q = [t / (1 + others) for t in terms]
        slope = u**gamma + (gamma * u ** (gamma - 1) * q[label] * nll if gamma else 0)
        d = [-u if k == label else q[k] for k in range(len(q))]
        bend = gamma * q[label] * u ** (gamma - 1) * (2 + (gamma - 1) * q[label] * nll / u - nll) if gamma else 0
        spread = [u * q[label] if k == label else q[k] * (1 - q[k]) for k in range(len(q))]
        hessian = [slope * s + bend * v * v for s, v in zip(spread, d)]
        bound = [slope * s + max(bend, 0) * v * v for s, v in zip(spread, d)]
        rows.append((u**gamma * nll, [slope * v for v in d], hessian, bound))
    return [[row[k] for row in rows] for k in range(4)]


def logits(rng, n, c, dtype, scale):
    z = (scale * rng.standard_normal((n, c))).astype(dtype)
    y = rng.integers(0, c, n)
    z[np.arange(n // 3), y[: n // 3]] += dtype(3 * scale + 10)  # confident
    return z, y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_values_keep_their_relative_accuracy(gamma, dtype):
    rng = np.random.default_rng(1)
    for c, scale in ((2, 1), (5, 8), (70, 3), (3, 30)):
        z, y = logits(rng, 15, c, dtype, scale)
        got = fastxent.focal_loss(z, y, gamma=gamma, reduction="none")
        for i, want in enumerate(exact_rows(z, y, gamma)[0]):
            allowed = BOUND[dtype] * (1 + gamma + (abs(EXACT.log(want)) / 64 if gamma % 1 and want else 0))
            assert abs(reference.exact(got[i]) - want) <= allowed * want + 1e-307, (c, scale, i)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_and_bound_of_the_hessian(gamma, dtype):
    rng = np.random.default_rng(2)
    for c, scale in ((2, 1), (5, 4), (66, 2)):
        z, y = logits(rng, 9, c, dtype, scale)
        loss, grad, hess = fastxent.focal_loss_value_and_grad(z, y, gamma=gamma, reduction="none", hessian=True)
        assert np.array_equal(loss, fastxent.focal_loss(z, y, gamma=gamma, reduction="none"))
        assert grad.dtype == hess.dtype == dtype
        _, gradients, hessians, bounds = exact_rows(z, y, gamma)
        for i in range(len(z)):
            for got, want in ((grad[i], gradients[i]), (hess[i], bounds[i])):
                top = max(map(abs, want))
                error = max(abs(reference.exact(float(g)) - w) for g, w in zip(got, want))
                assert error <= LOSES[dtype] * (1 + gamma) * top + 1e-37, (c, scale, i)
            assert all(b >= h for b, h in zip(bounds[i], hessians[i]))
        assert (hess >= 0).all()


def test_derivatives_are_those_of_the_loss():
    """The formulas themselves, by 50-digit differences."""
    rng = np.random.default_rng(3)
    z, y = 2 * rng.standard_normal((4, 3)), rng.integers(0, 3, 4)
    for gamma in (1.0, 2.0, 2.5):
        for i in range(len(z)):
            for k in range(3):

                def loss(v, i=i, k=k, gamma=gamma):
                    row = [v if j == k else EXACT.mpf(x) for j, x in enumerate(z[i].tolist())]
                    others = sum(EXACT.exp(x - row[y[i]]) for j, x in enumerate(row) if j != y[i])
                    return (others / (1 + others)) ** gamma * EXACT.log(1 + others)

                _, gradient, hessian, _ = (part[0] for part in exact_rows(z[i : i + 1], y[i : i + 1], gamma))
                assert abs(EXACT.diff(loss, z[i, k]) - gradient[k]) < 1e-15
                assert abs(EXACT.diff(loss, z[i, k], 2) - hessian[k]) < 1e-12


def test_gamma_0_is_the_cross_entropy():
    rng = np.random.default_rng(4)
    z, y = rng.standard_normal((40, 6)), rng.integers(0, 6, 40)
    for reduction in ("none", "sum", "mean"):
        got = fastxent.focal_loss_value_and_grad(z, y, gamma=0.0, reduction=reduction, hessian=True)
        want = fastxent.cross_entropy_value_and_grad(z, y, reduction=reduction, hessian=True)
        for a, b in zip(got, want):
            np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("axis", [-1, 1])
def test_weights_ignored_rows_and_reductions(axis):
    rng = np.random.default_rng(5)
    z, y = rng.standard_normal((4, 9, 5)), rng.integers(0, 5, (4, 9))
    w, s = rng.random(5), rng.random((4, 9))
    y[0, :3] = -7
    kept = y != -7
    rows = np.zeros(y.shape)
    rows[kept] = s[kept] * w[y[kept]] * fastxent.focal_loss(z[kept], y[kept], reduction="none")
    mass = math.fsum(s[kept] * w[y[kept]])
    options = {"weight": w, "sample_weight": s, "ignore_index": -7, "axis": axis}
    given = np.moveaxis(z, -1, axis)
    np.testing.assert_allclose(fastxent.focal_loss(given, y, reduction="none", **options), rows, rtol=1e-15)
    total = math.fsum(fastxent.focal_loss(given, y, reduction="none", **options).ravel())
    assert fastxent.focal_loss(given, y, reduction="sum", **options) == total
    assert fastxent.focal_loss(given, y, **options) == pytest.approx(total / mass, rel=1e-15)
    one = fastxent.focal_loss_value_and_grad(z[kept], y[kept], reduction="none", hessian=True)
    for reduction, scale in (("none", 1.0), ("sum", 1.0), ("mean", 1 / mass)):
        loss, *made = fastxent.focal_loss_value_and_grad(given, y, reduction=reduction, hessian=True, **options)
        assert np.array_equal(loss, fastxent.focal_loss(given, y, reduction=reduction, **options))
        for got, rows_of in zip(made, one[1:]):
            want = np.zeros(z.shape)
            want[kept] = (scale * s[kept] * w[y[kept]])[:, None] * rows_of
            np.testing.assert_allclose(np.moveaxis(got, axis, -1), want, rtol=1e-12, atol=1e-18)


def test_the_ends():
    z = np.array([[0.0, -np.inf], [-np.inf, 0.0], [np.nan, 0.0], [0.0, 2000.0], [0.0, -2000.0]])
    got = fastxent.focal_loss(z, np.zeros(5, int), reduction="none")
    np.testing.assert_array_equal(got, [0.0, np.inf, np.nan, 2000.0, 0.0])
    loss, grad, hess = fastxent.focal_loss_value_and_grad(z, np.zeros(5, int), reduction="none", hessian=True)
    np.testing.assert_array_equal(loss, got)
    np.testing.assert_array_equal(grad[[0, 4]], 0.0)
    np.testing.assert_array_equal(grad[3], [-1.0, 1.0])
    assert np.isnan(grad[2]).all()
    assert np.isnan(hess[2]).all()
    np.testing.assert_array_equal(hess[[0, 3, 4]], 0.0)
    assert fastxent.focal_loss(z[:1], [0]) == 0.0


def test_one_logit_a_row_is_two_classes():
    rng = np.random.default_rng(6)
    z, y, s = 3 * rng.standard_normal(50), rng.integers(0, 2, 50), rng.random(50)
    two = np.stack([np.zeros(50), z], 1)
    for reduction in ("none", "sum", "mean"):
        options = {"sample_weight": s, "reduction": reduction, "hessian": True, "gamma": 2.5}
        got = binary_focal_loss_value_and_grad(z, y, pos_weight=3.0, **options)
        want = fastxent.focal_loss_value_and_grad(two, y, weight=[1.0, 3.0], **options)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-14)
        for a, b in zip(got[1:], want[1:]):
            np.testing.assert_allclose(a, b[:, 1], rtol=1e-12)


def test_bad_calls_are_named():
    z = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"^gamma: -1.0 is outside \[0, 100\]$"):
        fastxent.focal_loss(z, [0, 1], gamma=-1.0)
    with pytest.raises(ValueError, match=r"^target: distributions, of the logits' shape; the focal loss needs"):
        fastxent.focal_loss_value_and_grad(z, np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"^target: row 1 is 3, outside 0..2"):
        fastxent.focal_loss(z, [0, 3])
