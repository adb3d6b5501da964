"""What each function means: thousands of random option combinations against reference.py, torch, SciPy and
scikit-learn; NaN, infinities and masks at every position of a row; and the cases where libraries differ, one by one."""

import math
import warnings

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

import fastxent

DTYPES = [np.float32, np.float64]
IDS = ["float32", "float64"]
REDUCTIONS = ("none", "sum", "mean")
CLASSES = (1, 2, 3, 5, 7, 8, 10, 15, 16, 17, 31, 33, 64, 65, 100, 130)
SHAPES = ((), (0,), (1,), (2,), (5,), (17,), (33,), (3, 4), (2, 3, 5), (1, 6), (0, 3))
INF, NAN = math.inf, math.nan


def close(got, want, dtype, scale=1.0, what=None):
    """Equal as far as the oracle knows: it rounds on the scale of the logits, the package does not."""
    rtol = 2.0**-20 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-17 * scale, err_msg=str(what))


def quietly(function, *args, **options):
    """The result, with the warning about a mean of no rows turned off (it has a test of its own)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return function(*args, **options)


def random_case(rng, kind="logits", soft=None):
    """(predictions, target, options, dtype) of a random shape, class axis, target and options of cross_entropy."""
    c, shape = int(rng.choice(CLASSES)), SHAPES[rng.integers(len(SHAPES))]
    dtype = DTYPES[rng.integers(2)]
    z = rng.standard_normal((*shape, c)) * float(rng.choice([0.1, 1, 10, 100]))
    if kind == "logits" and rng.random() < 0.3:
        z[rng.random(z.shape) < 0.1] = -INF
    if kind == "logits" and rng.random() < 0.1:
        z[rng.random(z.shape) < 0.05] = rng.choice([INF, NAN])
    if kind == "log_probs":
        z = special.log_softmax(z, axis=-1)
    if kind == "probs":
        z = special.softmax(z, axis=-1)
    options = {"reduction": str(rng.choice(REDUCTIONS))}
    if rng.random() < 0.5:
        options["sample_weight"] = rng.random(shape) * 3
    if rng.random() < 0.5:
        options["weight"] = rng.random(c).astype(DTYPES[rng.integers(2)])
    if rng.random() < 0.5 if soft is None else soft:
        target = rng.dirichlet(np.full(c, 0.3), shape)
        if rng.random() < 0.3:
            target = np.eye(c)[rng.integers(0, c, shape)]
        target = target.astype(dtype)
    else:
        target = np.asarray(rng.integers(0, c, shape)).astype(rng.choice(["u1", "i2", "i4", "u4", "i8", "u8"]))
        if rng.random() < 0.5 and target.dtype.kind == "i":
            ignore = int(rng.choice([-100, -1, 0]))
            options["ignore_index"] = ignore
            target = np.where(rng.random(shape) < 0.3, np.asarray(ignore, target.dtype), target)
    axis = int(rng.integers(-len(shape) - 1, len(shape) + 1))
    z = np.moveaxis(z, -1, axis).astype(dtype)
    if target.ndim == z.ndim:
        target = np.moveaxis(target, -1, axis)
    if axis != -1 or rng.random() < 0.5:
        options["axis"] = axis
    return z, target, options, dtype


def check(function, oracle, case, what):
    z, target, options, dtype = case
    got, want = quietly(function, z, target, **options), oracle(z, target, **options)
    rows = options["reduction"] == "none"
    assert np.shape(got) == np.shape(want)
    assert isinstance(got, (np.ndarray, np.floating) if rows else float), type(got)
    finite = abs(np.asarray(z, np.float64)[np.isfinite(z)])
    weights = max(1.0, float(np.sum(options.get("sample_weight", 1.0))))
    scale = (1 + finite.max(initial=0)) / options.get("temperature", 1.0) * weights
    close(got, want, dtype, scale, (what, options, z.shape, dtype))
    assert not np.signbit(np.asarray(got)[np.asarray(got) == 0]).any()


# ---- thousands of random options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_cross_entropy_agrees_with_its_reference_under_random_options(seed):
    rng = np.random.default_rng(seed)
    for i in range(150):
        z, target, options, dtype = random_case(rng)
        if rng.random() < 0.5:
            options["label_smoothing"] = float(rng.choice([0.0, 0.1, 0.5, 1.0]))
        if rng.random() < 0.5:
            options["temperature"] = float(rng.choice([0.01, 0.5, 0.7, 1.0, 3.1, 100.0]))
        check(fastxent.cross_entropy, reference.cross_entropy, (z, target, options, dtype), (seed, i))


@pytest.mark.parametrize("seed", range(10))
def test_nll_agrees_with_its_reference_under_random_options(seed):
    rng = np.random.default_rng(1000 + seed)
    for i in range(100):
        check(fastxent.nll, reference.nll, random_case(rng, "log_probs"), (seed, i))


@pytest.mark.parametrize("seed", range(10))
def test_log_loss_agrees_with_its_reference_under_random_options(seed):
    rng = np.random.default_rng(2000 + seed)
    for i in range(100):
        p, target, options, dtype = random_case(rng, "probs")
        options["eps"] = float(rng.choice([0.0, 1e-15, 1e-7, 0.01]))
        if rng.random() < 0.5:
            options["normalize"] = True
            p = (p * rng.uniform(0.1, 1)).astype(dtype)
        check(fastxent.log_loss, reference.log_loss, (p, target, options, dtype), (seed, i))


@pytest.mark.parametrize("seed", range(5))
def test_binary_losses_agree_with_their_references_under_random_options(seed):
    rng = np.random.default_rng(3000 + seed)
    for i in range(100):
        shape, dtype = SHAPES[rng.integers(len(SHAPES))], DTYPES[rng.integers(2)]
        options = {"reduction": str(rng.choice(REDUCTIONS))}
        if rng.random() < 0.5:
            options["sample_weight"] = rng.random(shape)
        if rng.random() < 0.5:
            options["pos_weight"] = float(rng.choice([0.0, 0.3, 7.0]))
        target = np.asarray(rng.random(shape)).astype(DTYPES[rng.integers(2)])
        if rng.random() < 0.6:
            target = (target > 0.5).astype(rng.choice(["?", "i4", "u1", "f4", "f8"]))
        z = np.asarray(rng.standard_normal(shape) * float(rng.choice([1, 30, 1000]))).astype(dtype)
        check(fastxent.binary_cross_entropy, reference.binary_cross_entropy, (z, target, options, dtype), (seed, i))
        options["eps"] = float(rng.choice([0.0, 1e-7, 0.01]))
        p = np.asarray(special.expit(z)).astype(dtype)
        check(fastxent.binary_log_loss, reference.binary_log_loss, (p, target, options, dtype), (seed, i))


@pytest.mark.parametrize("seed", range(5))
def test_likelihoods_and_softmaxes_agree_with_their_references_under_random_options(seed):
    rng = np.random.default_rng(4000 + seed)
    for i in range(60):
        z, target, options, dtype = random_case(rng)
        axis = options.get("axis", -1)
        del options["reduction"]
        scale = 1 + abs(np.asarray(z, np.float64)[np.isfinite(z)]).max(initial=0)
        what = (seed, i, z.shape, dtype, options)
        total, mean = (reference.cross_entropy(z, target, **options, reduction=r) for r in ("sum", "mean"))
        close(fastxent.log_likelihood(z, target, **options), 0.0 - total, dtype, 200 * scale, what)
        if not mean > 700:
            np.testing.assert_allclose(
                quietly(fastxent.perplexity, z, target, **options), np.exp(mean), rtol=1e-6 * (1 + mean)
            )
        temperature = float(rng.choice([0.7, 1.0, 3.1]))
        for name in ("logsumexp", "softmax", "log_softmax"):
            got = getattr(fastxent, name)(z, axis=axis, temperature=temperature)
            want = getattr(reference, name)(z, axis=axis, temperature=temperature)
            assert got.dtype == (np.float64 if name == "logsumexp" else dtype)
            rtol, atol = (1e-6, 1e-13 * scale) if dtype == np.float32 else (1e-12, 1e-17 * scale)
            if name == "logsumexp":
                atol = rtol * scale  # promised on the scale of the maximum
            np.testing.assert_allclose(got, want.astype(np.float64), rtol=rtol, atol=atol, err_msg=f"{name} {what}")


def entropy_cases(rng, kind):
    """Pairs of rows as that kind, some classes of probability 0 in both."""
    c, n, dtype = int(rng.choice(CLASSES)), int(rng.integers(1, 20)), DTYPES[rng.integers(2)]
    z = rng.standard_normal((2, n, c)) * float(rng.choice([0.1, 1, 10]))
    if rng.random() < 0.5 and c > 1:
        z[:, :, int(rng.integers(c))] = -INF
    if kind != "logits":
        z = special.log_softmax(z, axis=-1)
    if kind == "probs":
        z = np.exp(z)
    return z.astype(dtype), dtype


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_entropy_and_kl_divergence_agree_with_their_references(kind):
    rng = np.random.default_rng(5000)
    for i in range(200):
        (p, q), dtype = entropy_cases(rng, kind)
        for reduction in REDUCTIONS:
            got = fastxent.entropy(p, kind=kind, reduction=reduction)
            close(got, reference.entropy(p, kind=kind, reduction=reduction), dtype, 100, (i, p.shape))
            got = fastxent.kl_divergence(p.T, q.T, kind=kind, reduction=reduction, axis=0)
            want = reference.kl_divergence(p, q, kind=kind, reduction=reduction)
            error = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(got, want, rtol=error, atol=error)


# ---- peers ----------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(10))
def test_torch_agrees_under_random_options(seed):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng = np.random.default_rng(6000 + seed)
    for _ in range(100):
        n, c, inner = int(rng.integers(1, 40)), int(rng.choice(CLASSES)), [(), (3,), (2, 2)][rng.integers(3)]
        z = rng.standard_normal((n, c, *inner)) * float(rng.choice([0.1, 1, 10]))
        w = rng.random(c) if rng.random() < 0.5 else None
        reduction, ignore = str(rng.choice(REDUCTIONS)), int(rng.choice([-100, 0]))
        common = {"reduction": reduction, "weight": None if w is None else torch.tensor(w)}
        smoothing = {"label_smoothing": float(rng.choice([0.0, 0.1, 0.7, 1.0]))}
        y = rng.integers(0, c, (n, *inner))
        y[rng.random(y.shape) < 0.2] = ignore
        want = f.cross_entropy(torch.tensor(z), torch.tensor(y), ignore_index=ignore, **common, **smoothing)
        got = quietly(
            fastxent.cross_entropy, z, y, weight=w, ignore_index=ignore, reduction=reduction, axis=1, **smoothing
        )
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-13)
        t = np.moveaxis(rng.dirichlet(np.ones(c), (n, *inner)), -1, 1)
        want = f.cross_entropy(torch.tensor(z), torch.tensor(t), **common, **smoothing)
        got = fastxent.cross_entropy(z, t, weight=w, reduction=reduction, axis=1, **smoothing)
        if reduction == "mean":  # torch divides by the rows, as we do
            assert got == pytest.approx(want.item(), rel=1e-11)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-13)
        lp = special.log_softmax(z, axis=1)
        want = f.nll_loss(torch.tensor(lp), torch.tensor(y), ignore_index=ignore, **common)
        got = quietly(fastxent.nll, lp, y, weight=w, ignore_index=ignore, reduction=reduction, axis=1)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-13)
        pos = float(rng.choice([0.5, 1, 4]))
        want = f.binary_cross_entropy_with_logits(
            torch.tensor(z), torch.tensor(t), pos_weight=torch.tensor(pos), reduction=reduction
        )
        got = fastxent.binary_cross_entropy(z, t, pos_weight=pos, reduction=reduction)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-13)
        p = np.clip(special.expit(z), 1e-12, 1 - 1e-12)  # torch clips the logarithm at -100
        want = f.binary_cross_entropy(torch.tensor(p), torch.tensor(t), reduction=reduction)
        got = fastxent.binary_log_loss(p, t, reduction=reduction)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.peers
def test_torch_agrees_on_masked_classes():
    torch = pytest.importorskip("torch")
    z = np.array([[0.0, 1.0, -INF], [3.0, -INF, -INF], [1.0, 2.0, 3.0]])
    for y in ([0, 0, 0], [2, 1, 1], [1, 0, 2]):
        for smoothing in (0.0, 0.1):
            options = {"reduction": "none", "label_smoothing": smoothing}
            want = torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor(y), **options).numpy()
            np.testing.assert_allclose(fastxent.cross_entropy(z, y, **options), want, rtol=1e-14)


@pytest.mark.peers
def test_sklearn_log_loss_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(7000)
    for dtype in DTYPES:
        for c in (2, 3, 10, 33):
            p = rng.dirichlet(np.full(c, 0.05), 300).astype(dtype)
            y, s = rng.integers(0, c, 300), rng.random(300)
            options = {"labels": np.arange(c), "sample_weight": s}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about rows that sum to 1 only in the dtype
                want = metrics.log_loss(y, p, **options)
                total = metrics.log_loss(y, p, normalize=False, **options)
            eps = float(np.finfo(dtype).eps)
            tolerance = 1e-5 if dtype == np.float32 else 1e-11
            assert fastxent.log_loss(p, y, eps=eps, sample_weight=s) == pytest.approx(want, rel=tolerance)
            got = fastxent.log_loss(p, y, eps=eps, sample_weight=s, reduction="sum")
            assert got == pytest.approx(total, rel=tolerance)
            if c == 2:
                got = fastxent.binary_log_loss(p[:, 1], y, eps=eps, sample_weight=s)
                assert got == pytest.approx(want, rel=1e-4)


def test_scipy_agrees():
    rng = np.random.default_rng(8000)
    for scale in (0.1, 3.0, 300.0):
        z = rng.standard_normal((5, 7, 11)) * scale
        z[0, 0, 0] = -INF
        for axis in (0, 1, 2, -1, -3):
            for name in ("logsumexp", "softmax", "log_softmax"):
                got, want = getattr(fastxent, name)(z, axis=axis), getattr(special, name)(z, axis=axis)
                np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14 * scale * (name != "softmax"))
    p, q = rng.dirichlet(np.full(9, 0.3), (2, 40))
    p[::5, 3] = 0
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(fastxent.entropy(p, reduction="none"), stats.entropy(p, axis=-1), rtol=1e-13)
    want = special.rel_entr(p, q).sum(-1)
    np.testing.assert_allclose(fastxent.kl_divergence(p, q, reduction="none"), want, rtol=1e-11)


# ---- NaN, infinities and masks at every position --------------------------------------------------------------------

EVERY_CLASSES = (*range(1, 71), 127, 128, 129, 130, 1000)


def row_functions(z, labels):
    """{name: one value a row} of everything that reads whole rows of logits."""
    n, c = z.shape
    flat = np.full((n, c), 1 / c, z.dtype)
    return {
        "labels": fastxent.cross_entropy(z, labels, reduction="none"),
        "labels, weights": fastxent.cross_entropy(z, labels, weight=np.arange(c) + 0.5, reduction="none"),
        "temperature": fastxent.cross_entropy(z, labels, temperature=0.7, reduction="none"),
        "smoothing": fastxent.cross_entropy(z, labels, label_smoothing=0.1, reduction="none"),
        "soft": fastxent.cross_entropy(z, flat, reduction="none"),
        "one-hot": fastxent.cross_entropy(z, np.eye(c, dtype=z.dtype)[labels], reduction="none"),
        "logsumexp": fastxent.logsumexp(z),
        "softmax": fastxent.softmax(z).sum(-1, dtype=np.float64),
        "log_softmax": fastxent.log_softmax(z)[np.arange(n), labels],
        "entropy": fastxent.entropy(z, kind="logits", reduction="none"),
        "kl_divergence": fastxent.kl_divergence(z, np.zeros_like(z), kind="logits", reduction="none"),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("bad", [NAN, INF, "both", "nan among masked"])
def test_a_row_with_nan_or_inf_anywhere_gives_nan_and_its_neighbours_do_not(bad, dtype):
    rng = np.random.default_rng(9000)
    for c in EVERY_CLASSES:
        z = rng.standard_normal((c + 2, c)).astype(dtype)  # row i + 1 is bad at class i; the ends are good
        if bad == "nan among masked":
            z[1:-1] = -INF
        z[np.arange(1, c + 1), np.arange(c)] = NAN if isinstance(bad, str) else bad
        if bad == "both" and c > 1:
            z[np.arange(1, c + 1), (np.arange(c) + 1) % c] = INF
        for labels in (np.zeros(c + 2, int), rng.integers(0, c, c + 2)):
            for name, value in row_functions(z, labels).items():
                assert np.isnan(value[1:-1]).all(), (name, c, np.flatnonzero(~np.isnan(value[1:-1]))[:5])
                assert np.isfinite(value[[0, -1]]).all(), (name, c)
            if c == 1000:
                break


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_a_masked_class_at_any_position_is_a_class_of_probability_zero(dtype):
    rng = np.random.default_rng(9001)
    for c in EVERY_CLASSES[1:]:
        z = (3 * rng.standard_normal((c, c))).astype(dtype)
        np.fill_diagonal(z, -INF)
        labels = (np.arange(c) + 1 + rng.integers(0, c - 1, c)) % c
        others = np.array([np.delete(row, i) for i, row in enumerate(z)])
        moved = labels - (labels > np.arange(c))
        close(
            fastxent.cross_entropy(z, labels, reduction="none"),
            reference.cross_entropy(others, moved, reduction="none"),
            dtype,
            10,
            c,
        )
        close(fastxent.logsumexp(z), reference.logsumexp(others).astype(np.float64), dtype, 1e11, c)
        soft = rng.dirichlet(np.ones(c), c)
        np.fill_diagonal(soft, 0)
        soft = (soft / soft.sum(-1, keepdims=True)).astype(dtype)
        without = np.array([np.delete(row, i) for i, row in enumerate(soft)])
        close(
            fastxent.cross_entropy(z, soft, reduction="none"),
            reference.cross_entropy(others, without, reduction="none"),
            dtype,
            10,
            c,
        )
        close(
            fastxent.entropy(z, kind="logits", reduction="none"), reference.entropy(others, kind="logits"), dtype, 10, c
        )
        assert (fastxent.cross_entropy(z, np.arange(c), reduction="none") == INF).all()
        assert (fastxent.cross_entropy(z, labels, label_smoothing=0.1, reduction="none") == INF).all()
        assert (fastxent.cross_entropy(z, np.full_like(z, 1 / c), reduction="none") == INF).all()
        assert (np.diagonal(fastxent.softmax(z)) == 0).all()
        assert (np.diagonal(fastxent.log_softmax(z)) == -INF).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_a_row_that_is_all_masked_gives_nan(dtype):
    for c in EVERY_CLASSES:
        z = np.full((3, c), -INF, dtype)
        z[1] = 0
        for name, value in row_functions(z, np.zeros(3, int)).items():
            assert np.isnan(value[[0, 2]]).all(), (name, c)
            assert np.isfinite(value[1]), (name, c)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_one_class_left_is_certain(dtype):
    for c in EVERY_CLASSES:
        z = np.full((c, c), -INF, dtype)
        np.fill_diagonal(z, 3.7)
        y = np.arange(c)
        for value in (
            fastxent.cross_entropy(z, y, reduction="none"),
            fastxent.cross_entropy(z, np.eye(c, dtype=dtype), reduction="none"),
            fastxent.entropy(z, kind="logits", reduction="none"),
            np.diagonal(fastxent.log_softmax(z)),
        ):
            assert (value == 0).all(), c
            assert not np.signbit(value).any(), c
        assert (np.diagonal(fastxent.softmax(z)) == 1).all()
        if c > 1:
            assert (fastxent.cross_entropy(z, (y + 1) % c, reduction="none") == INF).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_binary_losses_at_the_ends(dtype):
    z = np.array([INF, INF, -INF, -INF, NAN, 0, 1000, -1000], dtype)
    t = np.array([1, 0, 1, 0, 1, 1, 1, 0])
    got = fastxent.binary_cross_entropy(z, t, reduction="none")
    np.testing.assert_allclose(got, [0, INF, INF, 0, NAN, math.log(2), 0, 0], rtol=1e-6)
    assert not np.signbit(got[got == 0]).any()
    p = np.array([1, 1, 0, 0, 0.5], dtype)
    t = np.array([1, 0, 1, 0, 1])
    got = fastxent.binary_log_loss(p, t, reduction="none")
    np.testing.assert_allclose(got, [0, INF, INF, 0, math.log(2)], rtol=1e-6)
    assert not np.signbit(got).any()


# ---- where libraries differ, one by one -----------------------------------------------------------------------------


def test_ignored_rows_are_not_read():
    z = np.array([[NAN, INF], [1.0, 2.0], [-INF, -INF]])
    y = np.array([-1, 1, -1])
    for options in ({}, {"label_smoothing": 0.1}, {"temperature": 3.0}, {"weight": [1.0, 2.0]}):
        got = fastxent.cross_entropy(z, y, ignore_index=-1, reduction="none", **options)
        want = fastxent.cross_entropy(z[1:2], y[1:2], reduction="none", **options)
        assert got.tolist() == [0.0, want[0], 0.0]
        mean = fastxent.cross_entropy(z, y, ignore_index=-1, **options)
        assert mean == fastxent.cross_entropy(z[1:2], y[1:2], **options)
    assert fastxent.nll(np.array([[5.0, NAN], [-1.0, -2.0]]), [-1, 1], ignore_index=-1, reduction="sum") == 2.0
    assert fastxent.log_loss(np.array([[5.0, NAN], [0.5, 0.5]]), [-1, 1], ignore_index=-1) == math.log(2)


@pytest.mark.parametrize(
    "function", [fastxent.cross_entropy, fastxent.nll, fastxent.log_loss, fastxent.binary_cross_entropy]
)
def test_no_row_gives_a_mean_of_nan_with_a_warning_and_a_sum_of_zero(function):
    empty = (np.empty(0),) * 2 if function is fastxent.binary_cross_entropy else (np.empty((0, 3)), np.empty(0, int))
    assert function(*empty, reduction="sum") == 0.0
    assert function(*empty, reduction="none").shape == (0,)
    with pytest.warns(RuntimeWarning):
        assert math.isnan(function(*empty))
    if function is not fastxent.binary_cross_entropy:
        full = (np.full((2, 2), 0.5) if function is fastxent.log_loss else np.full((2, 2), -0.7)), np.array([-1, -1])
        assert math.copysign(1, function(*full, ignore_index=-1, reduction="sum")) == 1
        with pytest.warns(RuntimeWarning):
            assert math.isnan(function(*full, ignore_index=-1))


def test_a_soft_mean_divides_by_the_sample_weights_and_a_hard_one_by_the_class_weights_too():
    z, w, s = np.zeros((2, 2)), np.array([1.0, 3.0]), np.array([2.0, 5.0])
    y = np.array([0, 1])
    per_row = math.log(2) * w[y] * s
    assert fastxent.cross_entropy(z, y, weight=w, sample_weight=s) == pytest.approx(per_row.sum() / (w[y] * s).sum())
    got = fastxent.cross_entropy(z, np.eye(2)[y], weight=w, sample_weight=s)
    assert got == pytest.approx(per_row.sum() / s.sum())


def test_a_target_of_the_same_shape_is_a_distribution_even_of_integers():
    z = np.array([[1.0, 2.0], [0.5, -3.0]])
    want = fastxent.cross_entropy(z, np.array([1, 0]))
    for dtype in (bool, np.int64, np.uint8, np.float32, np.float64):
        assert fastxent.cross_entropy(z, np.array([[0, 1], [1, 0]], dtype)) == pytest.approx(want, rel=1e-15)


def test_log_loss_clips_after_it_checks_and_never_renormalises():
    p = np.array([[0.0, 1.0], [0.25, 0.75]])
    assert fastxent.log_loss(p, [0, 0], reduction="none").tolist() == [INF, -math.log(0.25)]
    got = fastxent.log_loss(p, [0, 1], eps=0.3, reduction="none")
    np.testing.assert_allclose(got, [-math.log(0.3), -math.log(0.7)], rtol=1e-15)
    with pytest.raises(ValueError, match="probs"):
        fastxent.log_loss(p * 0.9, [0, 0])
    np.testing.assert_allclose(
        fastxent.log_loss(p * 0.9, [1, 1], normalize=True, reduction="none"), [0, -math.log(0.75)], atol=1e-15
    )
    assert fastxent.log_loss(p * 0.9, [1, 1], sum_tol=0.2, reduction="none")[0] == pytest.approx(-math.log(0.9))


def test_a_class_of_no_weight_or_no_probability_contributes_nothing():
    z = np.array([[0.0, 1.0, -INF]])
    half = np.array([[0.5, 0.5, 0.0]])
    finite = reference.cross_entropy(z[:, :2], half[:, :2])
    assert fastxent.cross_entropy(z, half) == pytest.approx(finite, rel=1e-15)
    assert fastxent.nll(np.log(np.array([[0.5, 0.5, 1e-300]])), [[0.5, 0.5, 0.0]]) == pytest.approx(math.log(2))
    weight = np.array([1.0, 1.0, 0.0])
    thirds = np.full((1, 3), 1 / 3)
    assert fastxent.cross_entropy(z, thirds, weight=weight) == pytest.approx(finite * 2 / 3, rel=1e-15)
    got = fastxent.cross_entropy(z, [0], weight=weight, label_smoothing=0.3)
    assert got == pytest.approx(reference.cross_entropy(z, np.array([0]), weight=weight, label_smoothing=0.3))
    for y in (0, 2):  # a label is the distribution that is all on it, whatever its weight
        one_hot = fastxent.cross_entropy(z, np.eye(3)[[y]], weight=weight, reduction="none")
        assert fastxent.cross_entropy(z, [y], weight=weight, reduction="none") == pytest.approx(one_hot, rel=1e-15)
    got = fastxent.binary_log_loss(np.array([0.0, 1.0]), [1, 0], pos_weight=0.0, reduction="none")
    assert got.tolist() == [0.0, INF]
    assert fastxent.kl_divergence([[0.0, 1.0]], [[0.5, 0.5]]) == pytest.approx(math.log(2))
    assert fastxent.kl_divergence([[0.5, 0.5]], [[0.0, 1.0]]) == INF
    assert fastxent.entropy([[0.0, 1.0]]) == 0


def test_no_result_is_a_negative_zero():
    z = np.array([[0.0, -INF], [0.0, -INF]])
    values = [
        fastxent.log_likelihood(z, [0, 0]),
        fastxent.cross_entropy(z, [0, 0]),
        fastxent.nll(np.array([[-0.0, -INF]]), [0]),
        fastxent.nll(np.array([[0.0, -INF]]), [0]),
        fastxent.log_loss([[1.0, 0.0]], [0]),
        fastxent.entropy([[1.0, 0.0]]),
        fastxent.kl_divergence([[1.0, 0.0]], [[1.0, 0.0]]),
        fastxent.logsumexp(np.array([-0.0])),
        fastxent.cross_entropy(z, [0, 0], sample_weight=[0.0, 0.0], reduction="sum"),
        *fastxent.log_softmax(np.array([-0.0])),
        *fastxent.nll(np.array([[0.0, -1.0]]), np.array([[1.0, 0.0]]), reduction="none"),
    ]
    assert [math.copysign(1, v) for v in values] == [1] * len(values), values


def test_out_is_honoured_and_returned():
    rng = np.random.default_rng(9002)
    z, y = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    for function, args in ((fastxent.cross_entropy, (z, y)), (fastxent.binary_cross_entropy, (z[:, 0], y > 1))):
        rows = np.empty(12)[::2]
        assert function(*args, reduction="none", out=rows) is rows
        np.testing.assert_array_equal(rows, function(*args, reduction="none"))
    for name in ("softmax", "log_softmax"):
        want, out = getattr(fastxent, name)(z), np.asfortranarray(np.empty_like(z))
        assert getattr(fastxent, name)(z, out=out) is out
        np.testing.assert_array_equal(out, want)
        own = z.copy()
        assert getattr(fastxent, name)(own, out=own) is own
        np.testing.assert_array_equal(own, want)
    sums = np.empty(6)
    assert fastxent.logsumexp(z, out=sums) is sums
    np.testing.assert_array_equal(sums, fastxent.logsumexp(z))


# ---- properties of arbitrary rows -----------------------------------------------------------------------------------

LOGITS = hnp.arrays(
    st.sampled_from(DTYPES),
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-1e6, 1e6, width=32) | st.floats(-5, 5, width=32) | st.just(-INF),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(LOGITS, st.integers(0, 2**32 - 1), st.sampled_from([0.25, 1.0, 3.1]))
def test_any_rows_agree_with_the_reference(z, seed, temperature):
    y = np.random.default_rng(seed).integers(0, z.shape[1], len(z))
    got = fastxent.cross_entropy(z, y, temperature=temperature, reduction="none")
    want = reference.cross_entropy(z, y, temperature=temperature, reduction="none")
    close(got, want, z.dtype, 1e7)
    assert not (got < 0).any()
    assert (
        got.tobytes()
        == np.concatenate(
            [
                fastxent.cross_entropy(z[i : i + 1], y[i : i + 1], temperature=temperature, reduction="none")
                for i in range(len(z))
            ]
        ).tobytes()
    )
    probs = fastxent.softmax(z, temperature=temperature).astype(np.float64).sum(-1)
    valid = ~reference.invalid_rows(z)
    np.testing.assert_allclose(probs[valid], 1, rtol=1e-5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hnp.arrays(st.sampled_from(DTYPES), st.integers(0, 60), elements=st.floats(-1e5, 1e5, width=32)))
def test_any_binary_rows_agree_with_the_reference(z):
    t = np.resize([0.0, 1.0, 0.25], len(z))
    got = fastxent.binary_cross_entropy(z, t, reduction="none")
    close(got, reference.binary_cross_entropy(z, t, reduction="none"), z.dtype, 1.0)
    assert fastxent.binary_cross_entropy(z, t, reduction="sum") == math.fsum(got)
