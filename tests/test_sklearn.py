"""fastxent.adapters.sklearn: the numbers of scikit-learn where both are defined, its label handling, and scorers that
its own model selection runs; where the two differ, how."""

import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import reference

from fastxent.adapters import sklearn as adapter
from fastxent.adapters.labels import class_indices

metrics = pytest.importorskip("sklearn.metrics")
pytestmark = pytest.mark.peers

FUNCTIONS = ("log_loss", "brier_score_loss", "d2_log_loss_score")
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


@pytest.fixture(autouse=True)
def few_threads():
    """Threads that wait for each other are slow where other tests run beside these."""
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        yield


def probabilities(rng, n, c, dtype=np.float64):
    return rng.dirichlet(np.full(c, 0.7), n).astype(dtype)


def agree(name, y, p, dtype=np.float64, **options):
    ours = dict(options)
    if name != "brier_score_loss":
        ours["eps"] = "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about float32 rows that sum to 1 in float32 only
        want = getattr(metrics, name)(y, p, **options)
    got = getattr(adapter, name)(y, p, **ours)
    assert isinstance(got, float)
    assert got == pytest.approx(want, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype]), (name, options)


NAMES = np.array(["ash", "birch", "cedar", "fir", "oak"])
LABELS = {
    "indices": lambda y: y,
    "int8": lambda y: y.astype(np.int8),
    "uint64": lambda y: y.astype(np.uint64),
    "from one": lambda y: y + 1,
    "far apart": lambda y: y * 1_000_003 - 7,
    "whole floats": lambda y: y.astype(float),
    "strings": lambda y: NAMES[y],
    "objects": lambda y: NAMES[y].astype(object),
    "bytes": lambda y: NAMES[y].astype("S"),
    "list": lambda y: NAMES[y].tolist(),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: np.eye(5, dtype=int)[y],
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kind_of_label_gives_scikit_learns_number(name, kind, weighted):
    rng = np.random.default_rng(1)
    y, p, s = rng.integers(0, 5, 400), probabilities(rng, 400, 5), rng.random(400)
    given = LABELS[kind](y)
    options = {"sample_weight": s} if weighted else {}
    if kind == "bytes":
        assert getattr(adapter, name)(given, p, **options) == getattr(adapter, name)(y, p, **options)
    else:
        agree(name, given, p, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 3, 10, 70])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_number_of_classes_and_both_types(name, c, dtype):
    rng = np.random.default_rng(c)
    n = 1500
    y, p = rng.integers(0, c, n), probabilities(rng, n, c, dtype)
    agree(name, y, p, dtype, sample_weight=rng.random(n))
    agree(name, y, np.asfortranarray(p), dtype)
    if name == "log_loss":
        agree(name, y, p, dtype, normalize=False, sample_weight=rng.random(n))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels_name_classes_that_do_not_occur(name):
    rng = np.random.default_rng(2)
    p = probabilities(rng, 90, 5)
    y = rng.choice([0, 2, 3], 90)
    for given, labels in (
        (y, np.arange(5)),
        (y, list(range(5))),
        (NAMES[y], NAMES),
        (NAMES[y].tolist(), NAMES.tolist()),
    ):
        agree(name, given, p, labels=labels)
        with pytest.raises(ValueError, match=r"y_true: 3 classes .* 5 columns; name all classes with labels="):
            getattr(adapter, name)(given, p)
    with pytest.raises(ValueError, match="different number of classes"):
        metrics.log_loss(y, p)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_probability_a_row_is_that_of_the_greater_class(name):
    rng = np.random.default_rng(3)
    p, y, s = rng.random(300), rng.integers(0, 2, 300), rng.random(300)
    for given in (y, y.astype(bool), 2 * y - 1, y + 4, y.astype(float)):
        agree(name, given, p)
        agree(name, given, p[:, None], sample_weight=s)
        agree(name, given, np.stack([1 - p, p], 1))
    if name != "brier_score_loss":
        agree(name, NAMES[y], p)


def test_brier_scores_positive_label_and_scale():
    rng = np.random.default_rng(4)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    for given, label in ((y, 0), (y, 1), (NAMES[y], "ash"), (NAMES[y], "birch"), (y + 4, 4), (np.ones(200, int), 0)):
        agree("brier_score_loss", given, p, pos_label=label)
    for given in (y, 2 * y - 1, y + 4, np.zeros(200, int), np.full(200, -1)):
        agree("brier_score_loss", given, p)
    for scale in (True, False, "auto"):
        agree("brier_score_loss", y, p, scale_by_half=scale)
        agree("brier_score_loss", y, np.stack([1 - p, p], 1), scale_by_half=scale)
        agree("brier_score_loss", y, np.stack([0.4 * p, 0.6 * p, 1 - p], 1), labels=[0, 1, 2], scale_by_half=scale)
    with pytest.raises(ValueError, match="pos_label: say which of 'ash', 'birch'"):
        adapter.brier_score_loss(NAMES[y], p)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_brier_score_is_exact_to_the_last_digits(dtype):
    rng = np.random.default_rng(5)
    for c in (2, 3, 9, 33):
        z = 40 * rng.standard_normal((50, c))
        p = np.asarray(reference.softmax(z)).astype(dtype)
        y = rng.integers(0, c, 50)
        exact = [math.fsum((float(v) - (k == label)) ** 2 for k, v in enumerate(row)) for row, label in zip(p, y)]
        got = adapter.brier_score_loss(y, p, labels=np.arange(c), scale_by_half=False)
        assert got == pytest.approx(math.fsum(exact) / 50, rel=1e-15)


def test_random_calls_agree():
    rng = np.random.default_rng(6)
    for _ in range(150):
        c, n = int(rng.integers(2, 12)), int(rng.integers(2, 60))
        y, p = rng.integers(0, c, n), probabilities(rng, n, c)
        options = {"labels": np.arange(c)}
        if rng.random() < 0.5:
            options["sample_weight"] = rng.integers(1, 4, n)
        for name in FUNCTIONS:
            if name != "d2_log_loss_score" or len(np.unique(y)) > 1:
                agree(name, y, p, **options)
        agree("log_loss", y, p, normalize=bool(rng.random() < 0.5), **options)


# ---- model selection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["load_iris", "load_wine", "load_digits", "load_breast_cancer"])
def test_cross_validation_scores_as_with_scikit_learns_scorers(data):
    datasets, selection = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.model_selection")
    from sklearn.naive_bayes import GaussianNB

    x, y = getattr(datasets, data)(return_X_y=True)
    model = GaussianNB(var_smoothing=0.1)
    clipping = {"response_method": "predict_proba", "eps": "auto"}
    pairs = {
        "neg_log_loss": metrics.make_scorer(adapter.log_loss, greater_is_better=False, **clipping),
        "neg_brier_score": adapter.neg_brier_score_scorer,
        metrics.make_scorer(metrics.d2_log_loss_score, response_method="predict_proba"): metrics.make_scorer(
            adapter.d2_log_loss_score, **clipping
        ),
    }
    for theirs, ours in pairs.items():
        want = selection.cross_val_score(model, x, y, scoring=theirs, cv=4)
        got = selection.cross_val_score(model, x, y, scoring=ours, cv=4)
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_grid_search_chooses_as_with_scikit_learns_scorer():
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    x, y = load_iris(return_X_y=True)
    names = load_iris().target_names[y]
    grid = {"C": [0.01, 1.0, 100.0]}
    found = [
        GridSearchCV(LogisticRegression(max_iter=3000), grid, scoring=scorer, cv=3, n_jobs=n_jobs).fit(x, names)
        for scorer, n_jobs in ((adapter.neg_log_loss_scorer, 1), ("neg_log_loss", 1))
    ]
    assert found[0].best_params_ == found[1].best_params_
    np.testing.assert_allclose(
        found[0].cv_results_["mean_test_score"], found[1].cv_results_["mean_test_score"], rtol=1e-9
    )


def test_histogram_boosting_stops_early_by_our_scorer():
    from sklearn.datasets import load_wine
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = load_wine(return_X_y=True)
    names = load_wine().target_names[y]
    options = {"early_stopping": True, "n_iter_no_change": 3, "max_iter": 40, "random_state": 0, "max_leaf_nodes": 7}
    ours, theirs = (
        HistGradientBoostingClassifier(scoring=scoring, **options).fit(x, names)
        for scoring in (adapter.neg_log_loss_scorer, "neg_log_loss")
    )
    assert ours.n_iter_ == theirs.n_iter_ > 3
    np.testing.assert_allclose(ours.validation_score_, theirs.validation_score_, rtol=1e-9)
    assert adapter.log_loss(names, ours.predict_proba(x)) == pytest.approx(
        metrics.log_loss(names, theirs.predict_proba(x))
    )


def test_scorers_are_pickled_for_other_processes():
    for name in ("neg_log_loss_scorer", "neg_brier_score_scorer", "d2_log_loss_scorer"):
        scorer = getattr(adapter, name)
        assert repr(pickle.loads(pickle.dumps(scorer))) == repr(scorer)


# ---- where the two differ -------------------------------------------------------------------------------------------


def test_a_probability_of_zero_costs_infinity_unless_clipped():
    y, p = [0, 1, 1], np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert adapter.log_loss(y, p) == math.inf
    assert adapter.log_loss(y, p[:, 1]) == math.inf
    want = metrics.log_loss(y, p)
    assert adapter.log_loss(y, p, eps="auto") == pytest.approx(want, rel=1e-14)
    assert adapter.log_loss(y, p, eps=float(np.finfo(float).eps)) == pytest.approx(want, rel=1e-14)
    p32 = p.astype(np.float32)
    assert adapter.log_loss(y, p32, eps="auto") == pytest.approx(metrics.log_loss(y, p32), rel=1e-6)


def test_what_scikit_learn_warns_about_is_refused():
    y, p = [0, 1], np.array([[0.5, 0.4], [0.3, 0.7]])
    with pytest.raises(ValueError, match=r"^y_proba: row 0 sums to 0.9, not to 1$"):
        adapter.log_loss(y, p)
    with pytest.raises(ValueError, match=r"^y_proba: row 0 sums to 0.9, not to 1$"):
        adapter.brier_score_loss(y, p)
    with pytest.warns(UserWarning, match="do not sum to one"):
        want = metrics.log_loss(y, p), metrics.brier_score_loss(y, p)
    got = adapter.log_loss(y, p, sum_tol=math.inf), adapter.brier_score_loss(y, p, sum_tol=math.inf)
    assert got == pytest.approx(want, rel=1e-14)
    with pytest.raises(ValueError, match=r"^sample_weight: row 1 has -1.0; need finite weights of at least 0$"):
        adapter.log_loss(y, [[0.5, 0.5], [0.3, 0.7]], sample_weight=[1.0, -1.0])


def test_labels_out_of_order_are_taken_in_order_with_scikit_learns_warning():
    y, p = ["b", "a", "c"], np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]])
    with pytest.warns(UserWarning, match="labels: not in sorted order"):
        got = adapter.log_loss(y, p, labels=["b", "a", "c"])
    assert got == adapter.log_loss(y, p, labels=["a", "b", "c"])
    with pytest.warns(UserWarning, match="ordered lexicographically"):
        assert got == pytest.approx(metrics.log_loss(y, p, labels=["b", "a", "c"]), rel=1e-14)


def test_integers_are_not_taken_for_columns_that_they_may_not_mean():
    rng = np.random.default_rng(7)
    p = probabilities(rng, 9000, 3)
    y = rng.integers(1, 3, 9000)  # classes 1 and 2 of 1..3, or of 0..2?
    with pytest.raises(ValueError, match=r"y_true: 2 classes \(1, 2\), but y_proba has 3 columns"):
        adapter.log_loss(y, p)
    y[1234] = 3  # beyond what a sample sees
    agree("log_loss", y, p)
    y[4321] = 0
    with pytest.raises(ValueError, match=r"y_true: 4 classes \(0, 1, 2, 3\), but y_proba has 3 columns"):
        adapter.log_loss(y, p)
    with pytest.raises(ValueError, match=r"y_true: row 1234 is 3, which is not in labels \(0, 1, 2\)"):
        adapter.log_loss(y, p, labels=[0, 1, 2])


BAD = {
    "continuous": (lambda: ([0.5, 1.0], [[0.5, 0.5]] * 2), ValueError, "y_true: row 0 is 0.5; a label is"),
    "missing": (lambda: ([1.0, math.nan], [[0.5, 0.5]] * 2), ValueError, "y_true: row 1 is nan; a label is"),
    "mixed": (lambda: (np.array([1, "a"], object), [[0.5, 0.5]] * 2), TypeError, "y_true: labels of types int, str"),
    "too short": (lambda: ([0, 1, 1], [[0.5, 0.5]] * 2), ValueError, "y_true: 3 labels, but y_proba has 2 rows"),
    "two ones": (
        lambda: ([[1, 1], [0, 1]], [[0.5, 0.5]] * 2),
        ValueError,
        "row 0 of the indicator matrix has 2 entries",
    ),
    "not one": (lambda: ([[0, 1], [3, 0]], [[0.5, 0.5]] * 2), ValueError, "row 1 of the indicator matrix has 3"),
    "wide": (lambda: ([[0, 1, 0]] * 2, [[0.5, 0.5]] * 2), ValueError, "indicator matrix of 3 columns"),
    "one class": (lambda: ([1, 1], [[0.5, 0.5]] * 2), ValueError, "y_true: 1 classes"),
    "negative": (lambda: ([0, 1], [[0.5, 0.5], [-0.1, 1.1]]), ValueError, "y_proba: row 1 has -0.1 for class 0"),
    "nan": (lambda: ([0, 1], [[0.5, 0.5], [math.nan, 1]]), ValueError, "y_proba: row 1 has nan for class 0"),
    "complex": (lambda: (np.array([1j, 0]), [[0.5, 0.5]] * 2), TypeError, "y_true: dtype complex128"),
    "cube": (lambda: ([0, 1], np.ones((2, 2, 2))), ValueError, r"y_proba: shape \(2, 2, 2\)"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_scikit_learns_words(case, name):
    make, kind, message = BAD[case]
    y, p = make()
    with pytest.raises(kind, match=message) as caught:
        getattr(adapter, name)(y, p)
    assert "\n" not in str(caught.value)
    assert "target" not in str(caught.value)


def test_nothing_to_explain_is_nan_with_a_warning():
    for y, p in (([1], [0.5]), ([1, 1], [[0.5, 0.5], [0.4, 0.6]])):
        with pytest.warns(RuntimeWarning, match="not defined for one row or one class"):
            assert math.isnan(adapter.d2_log_loss_score(y, p, labels=[0, 1]))


def test_the_loss_of_labels_needs_no_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    monkeypatch.delitem(vars(adapter), "neg_log_loss_scorer", raising=False)
    assert adapter.log_loss([0, 1], [[0.5, 0.5]] * 2) == pytest.approx(math.log(2))
    with pytest.raises(
        ImportError, match=r"neg_log_loss_scorer: needs scikit-learn: pip install 'fastxent\[sklearn\]'"
    ):
        _ = adapter.neg_log_loss_scorer
    with pytest.raises(AttributeError):
        _ = adapter.no_such_thing


def test_the_readmes_block_runs():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = [
        block for block in re.findall(r"^```py\n(.*?)^```$", readme, re.M | re.S) if "adapters.sklearn" in block
    ]
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["log_loss"](names["y"], names["search"].predict_proba(names["x"])) < 0.5


@pytest.mark.parametrize("kind", ["U", "S"])
def test_strings_of_any_width_are_found_as_unique_finds_them(kind):
    rng = np.random.default_rng(12)
    for width, n_classes in ((1, 2), (3, 30), (9, 700)):
        letters = rng.integers(97, 103, (n_classes, width), dtype=np.uint32)
        letters[rng.random(letters.shape) < 0.2] = 0  # shorter ones, and gaps
        names = np.unique(letters.view(f"U{width}")[:, 0].astype(kind))
        y = names[rng.integers(0, len(names), 5000)]
        probs = rng.dirichlet(np.ones(len(names)), y.size)
        want = np.searchsorted(names, y)
        for given in (y, y[::-1][::-1], y.astype(f"{kind}{width + 4}"), y.astype(y.dtype.newbyteorder())):
            for labels in (names, names.astype(f"{kind}{width + 9}")):
                assert np.array_equal(class_indices(given, labels, probs), want)
        with pytest.raises(ValueError, match="y_true: row 7 is .*, which is not in labels"):
            class_indices(np.concatenate([y[y != names[0]][:7], names[:1]]), names[1:], probs[:8, 1:])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float32, np.uint8, bool])
def test_an_indicator_matrix_of_any_dtype_and_strides_says_where_its_ones_are(dtype):
    rng = np.random.default_rng(13)
    for n_classes in (2, 3, 8, 17):
        y = rng.integers(0, n_classes, 300)
        hot, probs = np.eye(n_classes, dtype=dtype)[y], rng.dirichlet(np.ones(n_classes), 300)
        for given in (hot, np.asfortranarray(hot), np.repeat(hot, 2, 0)[::2]):
            assert np.array_equal(class_indices(given, None, probs), y)
        if dtype is not bool:
            hot[5] = 2 * hot[5]
            with pytest.raises(ValueError, match="row 5 of the indicator matrix has 2"):
                class_indices(hot, None, probs)
        hot[3] = 0
        with pytest.raises(ValueError, match="row 3 of the indicator matrix has 0 entries"):
            class_indices(hot, None, probs)
