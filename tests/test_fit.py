"""Softmax regression: the optimum and its errors against scikit-learn, statsmodels and finite differences."""

import doctest
import pickle
import subprocess
import sys
import warnings
from importlib import import_module

import numpy as np
import pytest
from scipy import sparse
from scipy.special import log_softmax

from fastxent.fit import Gaussian, Laplace, SoftmaxRegression, Summary
from fastxent.fit.objective import Objective


def drawn(n=400, d=4, n_classes=3, seed=0, dtype=np.float64):
    """Features of different scales and places, and labels that a softmax of them draws."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 2, d) + rng.normal(size=d)).astype(dtype)
    w = rng.normal(size=(n_classes, d)) / x.std(axis=0)
    z = x @ w.T - (x @ w.T).mean(axis=0)
    return x, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


def log_posterior(coef, intercept, x, target, weight, scale):
    """From the definition; the coefficients' normal prior has this scale."""
    z = x @ coef.T + intercept
    if len(coef) == 1:
        z = np.column_stack([np.zeros(len(z)), z])
    t = np.eye(z.shape[1])[target] if target.ndim == 1 else target
    return weight @ (t * log_softmax(z, axis=1)).sum(axis=1) - (coef**2).sum() / (2 * scale**2)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("prior", [None, Gaussian(0.5), Gaussian([0.1, 1.0, 10.0, np.inf])])
@pytest.mark.parametrize("intercept", [True, False])
def test_derivatives_agree_with_differences(n_classes, prior, intercept):
    x, y = drawn(60, n_classes=n_classes)
    rng = np.random.default_rng(1)
    objective = Objective(x, y, rng.random(60), n_classes, prior, intercept)
    point = rng.normal(size=objective.shape).ravel()
    step = 1e-5 * np.eye(point.size)
    slope = objective.loss(point)[1]
    differences = [(objective.loss(point + h)[0] - objective.loss(point - h)[0]) / 2e-5 for h in step]
    np.testing.assert_allclose(slope, differences, atol=1e-8)
    hessian = np.array([(objective.loss(point + h)[1] - objective.loss(point - h)[1]) / 2e-5 for h in step])
    products = np.array([objective.hessian_product(point, h) for h in np.eye(point.size)])
    np.testing.assert_allclose(products, hessian, atol=1e-8)
    if prior is None:
        np.testing.assert_allclose(objective.information(point) / objective.total, hessian, atol=1e-8)
    np.testing.assert_allclose(objective.point(*objective.coefficients(point)), point, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_map_estimate_is_the_optimum(solver, n_classes):
    x, y = drawn(n_classes=n_classes)
    weight = np.random.default_rng(2).random(len(y))
    model = SoftmaxRegression(prior=Gaussian(0.7), solver=solver, tol=1e-8).fit(x, y, weight)
    best = log_posterior(model.coef_, model.intercept_, x, y, weight, 0.7)
    rng = np.random.default_rng(3)
    for size in (1e-1, 1e-3):
        for _ in range(10):
            coef = model.coef_ + size * rng.normal(size=model.coef_.shape) / x.std(axis=0)
            bias = model.intercept_ + size * rng.normal(size=model.intercept_.shape)
            assert log_posterior(coef, bias, x, y, weight, 0.7) < best
    assert model.log_likelihood_ == pytest.approx(best + (model.coef_**2).sum() / (2 * 0.7**2), rel=1e-9)


def test_weights_sparse_soft_and_callable_give_the_same_model():
    x, y = drawn()
    counts = np.random.default_rng(4).integers(0, 3, len(y))

    def fitted(*arguments, prior=Gaussian(0.5), tol=1e-8, **options):  # noqa: B008
        model = SoftmaxRegression(prior=prior, tol=tol, **options).fit(*arguments)
        return np.column_stack([model.coef_ * x.std(axis=0), model.intercept_])

    close = {"rtol": 1e-5, "atol": 1e-5}
    want = fitted(x, y, counts)
    np.testing.assert_allclose(fitted(np.repeat(x, counts, axis=0), np.repeat(y, counts)), want, **close)
    np.testing.assert_allclose(fitted(sparse.csc_array(x), y, counts), want, **close)
    np.testing.assert_allclose(fitted(sparse.csr_matrix(x), np.eye(3)[y], counts), want, **close)
    balanced = fitted(x, y, class_weight={0: 2.0, 2: 0.5})
    np.testing.assert_allclose(balanced, fitted(x, y, np.array([2.0, 1.0, 0.5])[y]), **close)
    own = fitted(x, y, counts, tol=1e-5, prior=lambda coef: (-2.0 * (coef**2).sum(), -4.0 * coef))
    np.testing.assert_allclose(own, want, rtol=1e-3, atol=1e-4)
    flat = fitted(x, y, prior=None)
    np.testing.assert_allclose(fitted(x, y, prior=Gaussian(1e9)), flat, rtol=1e-4, atol=1e-4)
    mixed = np.full((len(y), 3), 0.1) + 0.7 * np.eye(3)[y]
    split = np.repeat(x, 3, axis=0), np.tile(np.arange(3), len(y)), mixed.ravel()
    np.testing.assert_allclose(fitted(x, mixed), fitted(*split), **close)


def test_float32_stays_float32():
    x, y = drawn(dtype=np.float32)
    model = SoftmaxRegression(prior=Gaussian(1.0)).fit(x, y)
    assert model.decision_function(x).dtype == np.float32
    assert model.predict_proba(x).dtype == np.float64
    wide = SoftmaxRegression(prior=Gaussian(1.0)).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(model.predict_proba(x), wide.predict_proba(x), atol=1e-4)


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("as_x", [np.asarray, sparse.csr_array])
def test_float32_reaches_the_tolerance_of_float64(monkeypatch, solver, n_classes, as_x):
    monkeypatch.setattr("fastxent.fit.objective.BLOCK", 500)  # several blocks, the last one shorter
    for seed in range(3):  # warnings are errors; float32 alone stops where the coefficients are wrong by 1e-4 or so
        x, y = drawn(n_classes=n_classes, seed=seed, dtype=np.float32)
        options = {"prior": Gaussian(1.0), "tol": 1e-8}
        model = SoftmaxRegression(solver=solver, **options).fit(as_x(x), y)
        wide = SoftmaxRegression(**options).fit(x.astype(np.float64), y)
        np.testing.assert_allclose(model.coef_ * x.std(axis=0), wide.coef_ * x.std(axis=0), atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_optimum_is_told(monkeypatch, dtype):
    x, y = drawn(dtype=dtype)
    for tol in (1e-4, 1e-8):
        with pytest.warns(Warning, match=r"no optimum after 2 iterations.*raise max_iter"):
            SoftmaxRegression(prior=Gaussian(1.0), tol=tol, max_iter=2).fit(x, y)
    loss = Objective.loss
    monkeypatch.setattr(Objective, "loss", lambda self, point: (loss(self, point)[0], -loss(self, point)[1]))
    for solver in ("lbfgs", "newton-cg"):  # a wrong gradient, with which nothing falls
        with pytest.warns(Warning, match=r"no optimum after .*raise max_iter"):
            SoftmaxRegression(prior=Gaussian(1.0), solver=solver).fit(x, y)


def test_laplace_prior_gives_exact_zeros_at_the_optimum():
    x, y = drawn(d=6)
    x /= x.std(axis=0)
    for n_classes, labels in ((3, y), (2, y > 0)):
        rate = 40.0
        model = SoftmaxRegression(prior=Laplace(1 / rate), tol=1e-8, max_iter=5000).fit(x, labels)
        zero = model.coef_ == 0
        assert 0 < zero.sum() < zero.size
        q = model.predict_proba(x) - np.eye(n_classes)[labels.astype(int)]
        slope = (q if n_classes == 3 else q[:, 1:]).T @ x  # of the NLL: the subgradient's condition
        np.testing.assert_allclose(slope[~zero], -rate * np.sign(model.coef_[~zero]), rtol=1e-3)
        assert (np.abs(slope[zero]) <= rate * 1.001).all()
        np.testing.assert_allclose((q if n_classes == 3 else q[:, 1:]).sum(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize(
    ("as_x", "intercept", "soft"),
    [
        (np.asarray, True, False),
        (np.asarray, False, True),
        (np.asfortranarray, True, False),
        (sparse.csr_array, True, False),
        (sparse.csr_array, False, False),
    ],
)
def test_float32_first_in_blocks_ends_at_the_same_optimum(monkeypatch, as_x, intercept, soft):
    x, y = drawn(900, 5, 9)
    weight = np.random.default_rng(5).random(len(y))
    target = 0.9 * np.eye(9)[y] + 0.1 / 9 if soft else y
    options = {"prior": Gaussian(2.0), "fit_intercept": intercept, "solver": "lbfgs"}
    whole = SoftmaxRegression(tol=1e-9, **options).fit(x, target, weight)
    narrowed, widened, models = [], [], []
    for name, calls in (("narrow", narrowed), ("widen", widened)):
        method = getattr(Objective, name)
        monkeypatch.setattr(Objective, name, lambda self, m=method, c=calls: (m(self), c.append(self.wide)))
    for name, value in (("MOST_ROWS", 64), ("PARALLEL", 1), ("NARROW", 1)):
        monkeypatch.setattr(f"fastxent.fit.blocks.{name}", value)
    for threads in (1, 2):
        models.append(SoftmaxRegression(threads=threads, **options).fit(as_x(x), target, weight))
    assert (narrowed, widened) == ([False, False], [True, True])
    one, two = models
    assert (one.coef_ == two.coef_).all()
    assert one.log_likelihood_ == two.log_likelihood_
    np.testing.assert_allclose(one.predict_proba(x), whole.predict_proba(x), atol=2e-3)
    penalties = [(model.coef_**2).sum() / 8 - model.log_likelihood_ for model in (one, whole)]
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-6)
    finer = SoftmaxRegression(tol=1e-9, **options).fit(as_x(x), target, weight)
    np.testing.assert_allclose(finer.predict_proba(x), whole.predict_proba(x), atol=1e-6)


def test_warm_start_needs_few_iterations():
    x, y = drawn()
    model = SoftmaxRegression(prior=Gaussian(1.0), warm_start=True).fit(x, y)
    first = model.n_iter_[0]
    assert model.fit(x, y).n_iter_[0] <= 1 < first
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(x, y > 0)


def test_predictions():
    x, y = drawn()
    names = np.array(["cat", "dog", "eel"])
    model = SoftmaxRegression(prior=Gaussian(1.0)).fit(x, names[y])
    q = model.predict_proba(x)
    assert (model.predict(x) == names[q.argmax(axis=1)]).all()
    assert model.score(x, names[y]) == np.mean(model.predict(x) == names[y])
    np.testing.assert_allclose(q.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), q, rtol=1e-9)
    assert model.decision_function(x).shape == (len(y), 3)
    assert pickle.loads(pickle.dumps(model)).predict(x).tolist() == model.predict(x).tolist()
    two = SoftmaxRegression(prior=Gaussian(1.0)).fit(x, y > 0)
    assert two.decision_function(x).shape == (len(y),)
    assert (two.predict(x) == (two.decision_function(x) > 0)).all()
    assert repr(two) == "SoftmaxRegression(prior=Gaussian(scale=1.0))"


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("prior", [None, Gaussian(0.5), lambda w: (-2.0 * (w**2).sum(), -4.0 * w)])
def test_errors_are_the_inverse_information(n_classes, prior):
    x, y = drawn(n_classes=n_classes)
    model = SoftmaxRegression(prior=prior, inference=True, tol=1e-8 if prior is None else 1e-6).fit(x, y)
    table = model.summary()
    k, p = table.estimate.shape
    assert (k, p) == (n_classes - 1, 5)
    full = np.column_stack([model.intercept_, model.coef_])
    q = model.predict_proba(x)
    ones = np.column_stack([np.ones(len(x)), x])
    rows = range(n_classes) if n_classes > 2 else (1,)
    blocks = [[ones.T @ (((a == b) * q[:, a] - q[:, a] * q[:, b])[:, None] * ones) for b in rows] for a in rows]
    information = np.block(blocks) + np.kron(np.eye(len(blocks)), np.diag([0] + [0 if prior is None else 4.0] * 4))
    against = np.eye(p) if n_classes == 2 else np.kron(np.column_stack([-np.ones(k), np.eye(k)]), np.eye(p))
    covariance = against @ np.linalg.pinv(information, rcond=1e-14, hermitian=True) @ against.T
    np.testing.assert_allclose(table.se.ravel(), np.sqrt(np.diag(covariance)), rtol=1e-3)
    want = full if n_classes == 2 else full[1:] - full[0]
    np.testing.assert_allclose(table.estimate, want)
    assert table.is_map == (prior is not None)


def test_summary_covers_the_truth_and_prints():
    true = np.array([[0.5, -1.0], [-0.5, 1.0]])
    inside = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(300, 2))
        z = np.column_stack([np.zeros(300), x @ true.T])
        y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
        table = SoftmaxRegression(inference=True).fit(x, y).summary()
        inside.append((table.lower[:, 1:] < true) & (true < table.upper[:, 1:]))
    assert 0.9 < np.mean(inside) < 0.99
    assert isinstance(table, Summary)
    assert "against class 0" in str(table)
    assert table.p_value.shape == (2, 3)
    with pytest.raises(ValueError, match="inference=True"):
        SoftmaxRegression(prior=Gaussian(1.0)).fit(x, y).summary()


def test_separable_classes_are_diagnosed():
    x = np.arange(20.0)[:, None]
    for y in (np.arange(20) // 10, np.arange(20) // 7):
        with pytest.warns(Warning, match=r"the classes are separated.*prior=Gaussian"):
            SoftmaxRegression(max_iter=20).fit(x, y)
        SoftmaxRegression(prior=Gaussian(1.0)).fit(x, y)  # no warning
    x, y = drawn()
    x[:, 0] += 1e3 * (y == 1)  # the second class alone
    with pytest.warns(Warning, match=r"class 1 is told from all others with certainty"):
        SoftmaxRegression().fit(x, y)
    x, y = drawn()
    with pytest.warns(Warning, match=r"no optimum after 1 iterations.*raise max_iter"):
        SoftmaxRegression(max_iter=1).fit(x, y)
    with pytest.raises(ValueError, match="singular"):
        SoftmaxRegression(inference=True).fit(np.column_stack([x, x[:, 0]]), y)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": [[1.0], [np.nan], [0.0]]}, "X contains NaN at row 1"),
        ({"X": [1.0, 2.0, 3.0]}, "Expected 2D array"),
        ({"y": [0, 1]}, "inconsistent"),
        ({"y": [0.5, 1.0, 0.0]}, "Unknown label type"),
        ({"y": [1, 1, 1]}, "there is one class: 1|one class: np.int64"),
        ({"y": [[0.5, 0.6], [1, 0], [0, 1]]}, "row 0"),
        ({"sample_weight": [1, -1, 1]}, "row 1 is -1"),
        ({"sample_weight": [0, 0, 0]}, "every row is zero"),
        ({"class_weight": {7: 1.0}}, "7 is no class"),
        ({"class_weight": "even"}, "balanced"),
        ({"solver": "sgd"}, "solver: 'sgd'"),
        ({"solver": "newton-cg", "prior": Laplace(1.0)}, "needs a Gaussian prior"),
        ({"prior": Gaussian(-1.0)}, "scale -1.0 is not positive"),
        ({"prior": lambda w: (0.0, w[0])}, "gradient of shape"),
        ({"prior": Laplace(1.0), "inference": True}, "no standard errors"),
    ],
)
def test_bad_input_is_explained(change, words):
    given = {"X": [[0.0], [1.0], [0.5]], "y": [0, 1, 0], "sample_weight": None} | change
    rows = [given.pop(name) for name in ("X", "y", "sample_weight")]
    with pytest.raises((ValueError, TypeError), match=words):
        SoftmaxRegression(**given).fit(*rows)


@pytest.mark.parametrize("module", ["softmax_regression", "priors", "temperature", "vector"])
def test_examples_of_docstrings_run(module):
    done = doctest.testmod(import_module(f"fastxent.fit.{module}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0 == done.failed


def test_fitting_does_not_import_sklearn():
    program = (
        "import sys, numpy as np; from fastxent.fit import Gaussian, SoftmaxRegression;"
        "SoftmaxRegression(prior=Gaussian(1.0)).fit([[0.0], [1.0], [2.0]], [0, 1, 0]).predict([[0.0]]);"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- the same models in other libraries -----------------------------------------------------------------------------


def data_of(name):
    datasets = pytest.importorskip("sklearn.datasets")
    if name == "synthetic":
        return drawn(2000, 8, 5)
    return getattr(datasets, f"load_{name}")(return_X_y=True)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "synthetic"])
def test_same_optimum_as_sklearn(name):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = data_of(name)
    x = x[:, ::4] if name == "digits" else x  # of 640 coefficients their Newton method takes minutes
    for c in (0.01, 1.0):
        peer = linear_model.LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9, max_iter=500).fit(x, y)
        model = SoftmaxRegression(prior=Gaussian(np.sqrt(c)), tol=1e-8).fit(x, y)
        np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.predict_proba(x), peer.predict_proba(x), atol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["iris", "wine", "digits", "synthetic", "breast_cancer"])
def test_same_maximum_and_errors_as_statsmodels(name):
    statsmodels = pytest.importorskip("statsmodels.api")
    x, y = data_of(name)
    if name == "iris":  # the first class has no finite coefficients
        x, y = x[50:], y[50:] - 1
    columns = {"wine": [1, 8], "digits": [20, 21, 28, 36], "breast_cancer": [0, 1]}
    x = x[:, columns.get(name, slice(None))]
    x = x / x.std(axis=0)  # statsmodels' own Newton wants it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = statsmodels.MNLogit(y, statsmodels.add_constant(x)).fit(
            method="newton", disp=False, maxiter=200, tol=1e-12
        )
    model = SoftmaxRegression(inference=True, tol=1e-9).fit(x, y)
    table = model.summary()
    np.testing.assert_allclose(table.estimate, peer.params.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.se, peer.bse.T, rtol=1e-4)
    np.testing.assert_allclose(table.p_value, peer.pvalues.T, rtol=1e-2, atol=1e-8)
    low, high = np.moveaxis(peer.conf_int().reshape(*table.se.shape, 2), -1, 0)
    np.testing.assert_allclose([table.lower, table.upper], [low, high], rtol=1e-3, atol=1e-4)
    assert table.log_likelihood == pytest.approx(peer.llf, rel=1e-9)
    assert table.log_likelihood_null == pytest.approx(peer.llnull, rel=1e-7)
    assert table.aic == pytest.approx(peer.aic, rel=1e-8)
    assert table.bic == pytest.approx(peer.bic, rel=1e-8)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prior", [None, Gaussian(1.0), Laplace(1.0)])
def test_passes_sklearns_check_estimator(prior):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    results = checks.check_estimator(SoftmaxRegression(prior=prior), on_fail=None, on_skip=None)
    assert len(results) > 30
    assert [(r["check_name"], str(r["exception"])) for r in results if r["status"] not in ("passed", "skipped")] == []
