"""Gradients and Hessian diagonals: their values against 60 digits, their semantics, and the losses beside them."""

import ml_dtypes
import numpy as np
import pytest
import reference
from reference import EXACT, exact
from rows import distributions, labels_worth_trying, some_families

import fastxent
from fastxent import binary_cross_entropy_value_and_grad, cross_entropy_value_and_grad

DTYPES = [np.float32, np.float64]
FLOATS = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
NARROW = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # means that are inf or NaN are compared too


def check(errors, row, got, hessian, want, temperature, where, *, soft=False):
    """Every entry of one row against reference.exact_gradient. Of a target M = Σ c is rounded: that is allowed for."""
    least, t = float(np.finfo(row.dtype).smallest_subnormal), exact(temperature)
    for k, (value, scale, curvature, share) in enumerate(want):
        slack = least + (share * EXACT.ldexp(1, -52) if soft else 0)
        errors[0].add(got[k], value / t, f"{where}, class {k}", scale=scale / t, rounding=slack)
        errors[1].add(hessian[k], curvature / t**2, f"{where}, class {k}", rounding=4 * least)  # q is rounded first


@FLOATS
@pytest.mark.parametrize("c", [1, 2, 3, 10, 17, 64, 65, 257])
def test_every_entry_for_labels_is_accurate(c, dtype, errors):
    rng = np.random.default_rng([c, 1])
    found = errors("gradient", np.dtype(dtype)), errors("Hessian diagonal", np.dtype(dtype))
    for name, row in some_families(c, dtype, rng, 2500).items():
        labels = rng.permutation(labels_worth_trying(row, rng))[:3]
        for temperature in (1.0, 0.7) if c < 20 else (1.0,):
            z = np.repeat(row[None], len(labels), 0)
            _, grad, hess = cross_entropy_value_and_grad(
                z, labels, reduction="none", hessian=True, temperature=temperature
            )
            for i, y in enumerate(labels):
                want = reference.exact_gradient(row, np.eye(1, c, y)[0], temperature)
                check(found, row, grad[i], hess[i], want, temperature, f"C = {c}, {name}, label {y}")
    for collected in found:
        collected.verify()


@FLOATS
@pytest.mark.parametrize("c", [1, 2, 10, 257])
def test_every_entry_for_soft_targets_and_smoothing_is_accurate(c, dtype, errors):
    rng = np.random.default_rng([c, 2])
    found = errors("gradient, soft", np.dtype(dtype)), errors("Hessian diagonal, soft", np.dtype(dtype))
    weight = rng.random(c)
    for name, row in some_families(c, dtype, rng, 1200).items():
        for target_name, target in distributions(c, rng).items():
            _, grad, hess = cross_entropy_value_and_grad(row, target, weight=weight, hessian=True, reduction="none")
            want = reference.exact_gradient(row, [exact(w) * exact(p) for w, p in zip(weight, target)])
            check(found, row, grad, hess, want, 1.0, f"C = {c}, {name}, {target_name}", soft=True)
        y = int(rng.integers(c))
        _, grad, hess = cross_entropy_value_and_grad(row, y, label_smoothing=0.1, hessian=True, reduction="none")
        keep, spread = exact(1.0 - 0.1), exact(0.1 / c)
        want = reference.exact_gradient(row, [keep * (k == y) + spread for k in range(c)])
        check(found, row, grad, hess, want, 1.0, f"C = {c}, {name}, smoothed", soft=True)
    for collected in found:
        collected.verify()


@FLOATS
@pytest.mark.parametrize("pos_weight", [1.0, 2.5])
@pytest.mark.parametrize("t", [0.0, 1.0, 0.25])
def test_every_binary_gradient_is_accurate(t, pos_weight, dtype, errors):
    rng = np.random.default_rng(3)
    found = errors("binary gradient", np.dtype(dtype)), errors("binary Hessian", np.dtype(dtype))
    z = np.concatenate([rng.standard_normal(150) * s for s in (1e-6, 1, 30, 300)])
    z = np.concatenate([z, [0.0, 80.5, -80.5, 699.0, -701.0, 1e8, -1e8, 1e30]]).astype(dtype)
    _, grad, hess = binary_cross_entropy_value_and_grad(
        z, np.full(len(z), t, dtype), pos_weight=pos_weight, reduction="none", hessian=True
    )
    least = float(np.finfo(dtype).smallest_subnormal)
    for x, g, h in zip(z, grad, hess, strict=True):
        q, rest = 1 / (1 + EXACT.exp(-exact(x))), 1 / (1 + EXACT.exp(exact(x)))
        on, off = exact(pos_weight) * exact(t), 1 - exact(t)
        found[0].add(g, off * q - on * rest, f"z = {x!r}", scale=off * q + on * rest, rounding=least)
        found[1].add(h, (on + off) * q * rest, f"z = {x!r}", rounding=least)
    for collected in found:
        collected.verify()


# ---- against the losses themselves ----------------------------------------------------------------------------------


def case(n=60, c=7, dtype=np.float64, seed=4):
    rng = np.random.default_rng([seed, c])
    z, y = (3 * rng.standard_normal((n, c))).astype(dtype), rng.integers(0, c, n)
    return {
        "z": z,
        "y": y,
        "kept": np.where(rng.random(n) < 0.3, -100, y),
        "t": rng.dirichlet(np.ones(c), n),
        "weight": rng.random(c) + 0.1,
        "sample_weight": rng.random(n) + 0.1,
    }


def option_sets(case):
    """(name, target, options) of every way to call."""
    weights = {"weight": case["weight"], "sample_weight": case["sample_weight"]}
    for reduction in ("mean", "sum"):
        yield f"plain, {reduction}", case["y"], {"reduction": reduction}
        yield f"weights, {reduction}", case["y"], {**weights, "reduction": reduction}
        yield f"ignored, {reduction}", case["kept"], {"ignore_index": -100, **weights, "reduction": reduction}
        smoothed = {"label_smoothing": 0.2, "ignore_index": -100, "temperature": 1.7, **weights}
        yield f"smoothed, {reduction}", case["kept"], {**smoothed, "reduction": reduction}
        yield f"soft, {reduction}", case["t"], {"label_smoothing": 0.1, **weights, "reduction": reduction}
        yield f"T, {reduction}", case["y"], {"temperature": 0.6, "reduction": reduction}


@pytest.mark.parametrize("c", [2, 7, 70])
def test_the_gradient_is_what_differences_of_the_loss_say(c):
    made = case(12, c)
    z, step = made["z"], 1e-5
    for name, target, options in option_sets(made):
        loss, grad = cross_entropy_value_and_grad(z, target, **options)
        assert loss == fastxent.cross_entropy(z, target, **options), name
        for i, k in ((0, 0), (3, c - 1), (5, int(made["y"][5]))):
            moved = z.copy()
            moved[i, k] += step
            up = fastxent.cross_entropy(moved, target, **options)
            moved[i, k] -= 2 * step
            slope = (up - fastxent.cross_entropy(moved, target, **options)) / (2 * step)
            assert grad[i, k] == pytest.approx(slope, rel=1e-5, abs=1e-8), (name, i, k)


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow), "float32", "float64"])
@pytest.mark.parametrize("c", [1, 2, 10, 64, 70])
def test_the_losses_beside_a_gradient_are_cross_entropys_bit_for_bit(c, dtype):
    made = case(300, c, NARROW.get(dtype, dtype))
    for name, target, options in option_sets(made):
        for reduction in ("none", options["reduction"]):
            options = {**options, "reduction": reduction}
            loss, grad = cross_entropy_value_and_grad(made["z"], target, **options)
            assert np.array_equal(loss, fastxent.cross_entropy(made["z"], target, **options)), name
            assert grad.dtype == made["z"].dtype
            assert grad.shape == made["z"].shape


def test_a_mean_is_the_rows_own_gradients_over_what_the_mean_divides_by():
    made = case()
    for _, target, options in option_sets(made):
        own = options | {"reduction": "none"}
        rows, grad = cross_entropy_value_and_grad(made["z"], target, **own)
        loss, reduced = cross_entropy_value_and_grad(made["z"], target, **options)
        ratio = loss / rows.sum()
        np.testing.assert_allclose(reduced, grad * ratio, rtol=1e-13)


@FLOATS
@pytest.mark.parametrize("c", [10, 100])
def test_ignored_rows_have_zero_gradients_and_are_not_read(c, dtype):
    made = case(64, c, dtype)
    ignored = made["kept"] == -100
    made["z"][ignored] = np.nan
    for smoothing in (0.0, 0.1):
        loss, grad, hess = cross_entropy_value_and_grad(
            made["z"], made["kept"], ignore_index=-100, label_smoothing=smoothing, hessian=True
        )
        assert np.isfinite(loss)
        for made_ in (grad, hess):
            assert (made_[ignored] == 0).all()
            assert not np.signbit(made_[ignored]).any()
            assert np.isfinite(made_[~ignored]).all()


def test_no_row_with_weight_gives_a_mean_of_nan_and_no_gradient():
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        loss, grad = cross_entropy_value_and_grad(np.ones((2, 3)), [7, 7], ignore_index=7)
    assert np.isnan(loss)
    assert (grad == 0).all()
    loss, grad = cross_entropy_value_and_grad(np.ones((0, 3)), np.zeros(0, int), reduction="sum")
    assert loss == 0.0
    assert grad.shape == (0, 3)


@FLOATS
@pytest.mark.parametrize("c", [4, 100])
def test_a_masked_class_has_gradient_0_and_a_label_on_one_a_finite_one(c, dtype):
    rng = np.random.default_rng(5)
    z = rng.standard_normal((2, c)).astype(dtype)
    z[:, 1] = -np.inf
    loss, grad, hess = cross_entropy_value_and_grad(z, [0, 1], reduction="none", hessian=True)
    assert list(np.isinf(loss)) == [False, True]
    assert grad[0, 1] == hess[0, 1] == hess[1, 1] == 0
    assert grad[1, 1] == -1
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad.sum(1), 0, atol=1e-6)
    z[0, 1:] = -np.inf
    loss, grad, hess = cross_entropy_value_and_grad(z[:1], [0], hessian=True)
    assert loss == 0
    assert (grad == 0).all()
    assert (hess == 0).all()
    assert not np.signbit(grad).any()


@FLOATS
@pytest.mark.parametrize("c", [3, 16, 65])
def test_an_invalid_row_is_nan_and_no_other(c, dtype):
    for bad in (np.nan, np.inf):
        for k in range(c):
            z = np.zeros((3, c), dtype)
            z[1, k] = bad
            for target in ([0, c - 1, 1], np.full((3, c), 1 / c)):
                _, grad, hess = cross_entropy_value_and_grad(z, target, reduction="sum", hessian=True)
                for made in (grad, hess):
                    assert np.isnan(made[1]).all()
                    assert np.isfinite(made[[0, 2]]).all()
    _, grad = cross_entropy_value_and_grad(np.full((1, c), -np.inf, dtype), [0])
    assert np.isnan(grad).all()


@pytest.mark.parametrize("c", [3, 10, 100])
def test_the_output_may_be_the_logits_themselves_or_overlap_them(c):
    for dtype in (np.float32, np.float64, np.float16):
        made = case(1000, c, dtype)
        for _, target, options in option_sets(made):
            loss, want = cross_entropy_value_and_grad(made["z"], target, **options)
            for place in ("itself", "shifted", "Fortran", "elsewhere"):
                memory = np.zeros(made["z"].size + 1, dtype)
                z = memory[1:].reshape(made["z"].shape)
                z[...] = made["z"]
                if place == "Fortran":
                    z = np.asfortranarray(z)
                out = {"shifted": memory[:-1].reshape(z.shape), "elsewhere": np.full(z.shape, 7, dtype)}.get(place, z)
                found, got = cross_entropy_value_and_grad(z, target, out=out, **options)
                assert got is out
                assert found == loss
                assert np.array_equal(got, want), place


@FLOATS
@pytest.mark.parametrize("c", [65, 80, 257])
@pytest.mark.parametrize("past_the_caches", [False, True])
def test_a_gradient_has_the_same_bits_beside_a_hessian_and_wherever_it_is_written(
    c, past_the_caches, dtype, monkeypatch
):
    """With a Hessian rows are made otherwise. Among them are some whose terms are far apart, masked or invalid."""
    monkeypatch.setattr("fastxent.kernels.gradient_calls.STREAM_BYTES", 0 if past_the_caches else 1 << 60)
    rng = np.random.default_rng([c, 9])
    for n in (1, 17, 200):
        z = (3 * rng.standard_normal((n, c))).astype(dtype)
        kinds = rng.integers(0, 7, n)
        z[kinds == 1] *= 30
        z[kinds == 2, 5] = -np.inf
        z[kinds == 3, c - 1] = np.nan
        z[kinds == 4] += 600
        z[kinds == 5, rng.integers(c)] += 150
        y = rng.integers(0, c, n)
        y[rng.random(n) < 0.1] = -1
        options = {"ignore_index": -1, "weight": rng.random(c), "reduction": "none"}
        loss, want, _ = cross_entropy_value_and_grad(z, y, hessian=True, **options)
        memory = np.full((n, c + 7), 7, dtype)
        for out in (None, np.full(n * c + 1, 7, dtype)[1:].reshape(n, c), memory[:, 3:-4], z):
            found, grad = cross_entropy_value_and_grad(z, y, out=out, **options)
            assert np.array_equal(found, loss, equal_nan=True)
            assert np.array_equal(grad, want, equal_nan=True)
        assert (memory[:, [0, 1, 2, -4, -3, -2, -1]] == 7).all()


def test_grad_scale_multiplies_before_rounding():
    made = case(500, 30)
    z16 = made["z"].astype(np.float16)
    _, small = cross_entropy_value_and_grad(z16, made["y"], sample_weight=np.full(500, 1.0))
    _, large = cross_entropy_value_and_grad(z16, made["y"], grad_scale=2.0**14)
    _, exact_ones = cross_entropy_value_and_grad(z16.astype(np.float64), made["y"], grad_scale=2.0**14)
    np.testing.assert_allclose(large.astype(float), exact_ones, rtol=2**-10, atol=2**-24)
    assert (small == 0).sum() > (large == 0).sum()
    upstream = np.random.default_rng(6).standard_normal(500)
    _, grad = cross_entropy_value_and_grad(made["z"], made["y"], reduction="none", grad_scale=upstream)
    _, plain, hess = cross_entropy_value_and_grad(made["z"], made["y"], reduction="none", hessian=True)
    np.testing.assert_allclose(grad, plain * upstream[:, None], rtol=1e-14)
    _, _, scaled = cross_entropy_value_and_grad(made["z"], made["y"], reduction="sum", hessian=True, grad_scale=-2.0)
    assert np.array_equal(scaled, -2 * hess)


@pytest.mark.parametrize("dtype", list(NARROW))
@pytest.mark.parametrize("c", [10, 100])
def test_narrow_gradients_are_float32s_rounded_once(c, dtype):
    made = case(200, c, NARROW[dtype])
    for _, target, options in option_sets(made):
        _, got, h = cross_entropy_value_and_grad(made["z"], target, hessian=True, grad_scale=1e3, **options)
        wide = made["z"].astype(np.float32)
        _, want, h_want = cross_entropy_value_and_grad(wide, target, hessian=True, grad_scale=1e3, **options)
        assert np.array_equal(got, want.astype(NARROW[dtype]))
        assert np.array_equal(h, h_want.astype(NARROW[dtype]))


def test_the_class_axis_may_be_anywhere_and_integers_are_widened():
    made = case(60, 7)
    z = made["z"].reshape(4, 15, 7)
    loss, want, h_want = cross_entropy_value_and_grad(z, made["y"].reshape(4, 15), hessian=True)
    for axis in (0, 1, -2):
        moved = np.ascontiguousarray(np.moveaxis(z, -1, axis))
        found, grad, hess = cross_entropy_value_and_grad(moved, made["y"].reshape(4, 15), axis=axis, hessian=True)
        assert found == loss
        assert np.array_equal(np.moveaxis(grad, axis, -1), want)
        assert np.array_equal(np.moveaxis(hess, axis, -1), h_want)
    whole = np.round(made["z"]).astype(np.int8)
    _, grad = cross_entropy_value_and_grad(whole, made["y"])
    _, want = cross_entropy_value_and_grad(whole.astype(float), made["y"])
    assert grad.dtype == np.float64
    assert np.array_equal(grad, want)


def test_extreme_temperatures_of_float32_are_done_in_float64():
    made = case(20, 5, np.float32)
    for temperature in (2.0**-30, 2.0**30):
        _, grad = cross_entropy_value_and_grad(made["z"], made["y"], temperature=temperature)
        _, want = cross_entropy_value_and_grad(made["z"].astype(float), made["y"], temperature=temperature)
        assert grad.dtype == np.float32
        assert np.array_equal(grad, want.astype(np.float32))


def test_binary_losses_are_binary_cross_entropys_and_weights_count():
    rng = np.random.default_rng(8)
    z, t, s = rng.standard_normal((30, 20)) * 3, rng.random((30, 20)), rng.random((30, 20))
    for options in ({}, {"pos_weight": 3.0}, {"sample_weight": s, "pos_weight": 0.5}):
        for reduction in ("none", "sum", "mean"):
            options = {**options, "reduction": reduction}
            loss, grad, hess = binary_cross_entropy_value_and_grad(z, t, hessian=True, **options)
            assert np.array_equal(loss, fastxent.binary_cross_entropy(z, t, **options))
            q = 1 / (1 + np.exp(-z))
            w, weights = options.get("pos_weight", 1.0), options.get("sample_weight", np.ones_like(z))
            over = weights.sum() if reduction == "mean" else 1.0
            np.testing.assert_allclose(grad, weights * ((1 - t) * q - w * t * (1 - q)) / over, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(hess, weights * (w * t + 1 - t) * q * (1 - q) / over, rtol=1e-12)
            for moved in (np.asfortranarray(z), np.repeat(z, 2, 0)[::2]):
                found, other = binary_cross_entropy_value_and_grad(moved, t, out=moved, **options)
                assert other is moved
                assert np.array_equal(other, grad)
                assert np.array_equal(found, loss)
    loss, grad = binary_cross_entropy_value_and_grad(np.array([np.nan, np.inf, -np.inf]), [1, 1, 1], reduction="none")
    assert np.isnan(loss[0])
    assert np.isnan(grad[0])
    assert list(grad[1:]) == [0.0, -1.0]


BAD = [
    ({"reduction": "sum", "grad_scale": np.ones(2)}, ValueError, "grad_scale: one number a row needs"),
    ({"reduction": "none", "grad_scale": np.ones(3)}, ValueError, r"grad_scale: shape \(3,\); need"),
    ({"grad_scale": np.inf}, ValueError, "grad_scale: inf is outside"),
    ({"grad_scale": "1"}, TypeError, "grad_scale: '1' is not a number"),
    ({"hessian": 1}, TypeError, "hessian: 1 is neither"),
    ({"out": np.zeros((2, 3), np.float32)}, TypeError, "out: dtype float32; need float64"),
    ({"out": np.zeros((3, 3))}, ValueError, r"out: shape \(3, 3\); need \(2, 3\)"),
    ({"reduction": "all"}, ValueError, "reduction: 'all' is not one of"),
    ({"target": [0, 3]}, ValueError, "target: row 1 is 3, outside 0..2"),
    ({"target": [[1, 0, 0], [1, 1, 0]]}, ValueError, "target: row 1 sums to 2"),
    ({"sample_weight": [1, -1]}, ValueError, "sample_weight: row 1 has -1.0"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments_raise_one_line(options, error, message):
    target = options.get("target", [0, 1])
    options = {name: value for name, value in options.items() if name != "target"}
    with pytest.raises(error, match=message) as caught:
        cross_entropy_value_and_grad(np.zeros((2, 3)), target, **options)
    assert "\n" not in str(caught.value)
