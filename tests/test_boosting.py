"""fastxent.adapters.xgboost and .lightgbm: real runs on scikit-learn's data against the built-in objectives."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import reference

import fastxent
from fastxent.adapters import lightgbm as our_lightgbm
from fastxent.adapters import xgboost as our_xgboost
from fastxent.focal import binary_focal_loss_value_and_grad

pytestmark = pytest.mark.peers
datasets = pytest.importorskip("sklearn.datasets")
OURS = {"xgboost": our_xgboost, "lightgbm": our_lightgbm}


@pytest.fixture
def xgb():
    return pytest.importorskip("xgboost")


@pytest.fixture
def lgb():
    return pytest.importorskip("lightgbm")


def data_of(name, weighted=False):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, y, np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None


CLASSES = {"digits": 10, "wine": 3, "iris": 3}

# ---- XGBoost --------------------------------------------------------------------------------------------------------

XGB = {"max_depth": 4, "nthread": 1, "eta": 0.3}


def assert_same_trees(ours, theirs):
    """The same splits, with the same gains to the accuracy of float32."""
    a, b = ours.trees_to_dataframe(), theirs.trees_to_dataframe()
    assert len(a) == len(b) > 20
    assert (a[["Tree", "Node", "Feature"]] == b[["Tree", "Node", "Feature"]]).all(axis=None)
    np.testing.assert_allclose(a["Split"], b["Split"], rtol=1e-6)
    np.testing.assert_allclose(a["Gain"], b["Gain"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_xgboosts_softmax_grows_the_built_in_trees(xgb, name, weighted):
    x, y, s = data_of(name, weighted)
    data = xgb.DMatrix(x, y, weight=s)
    parameters = {**XGB, "objective": "multi:softprob", "num_class": CLASSES[name]}
    objective = our_xgboost.SoftmaxObjective()
    theirs = xgb.train(parameters, data, 6)
    ours = xgb.train({**parameters, "base_score": objective.base_score(y, s)}, data, 6, obj=objective)
    if name == "digits" and not weighted:  # pixels often gain alike: then the last bit decides between them
        losses = [fastxent.log_loss(model.predict(data), y) for model in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)
        return
    assert_same_trees(ours, theirs)
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_xgboosts_binary_grows_the_built_in_trees(xgb, weighted):
    x, y, s = data_of("breast_cancer", weighted)
    data = xgb.DMatrix(x, y, weight=s)
    parameters = {**XGB, "objective": "binary:logistic"}
    for pos_weight in (None, 2.5):
        objective = our_xgboost.BinaryObjective(pos_weight=pos_weight)
        theirs = xgb.train({**parameters, "base_score": 0.5, "scale_pos_weight": pos_weight or 1.0}, data, 6)
        ours = xgb.train({**parameters, "base_score": 0.5}, data, 6, obj=objective)
        assert_same_trees(ours, theirs)
        np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=2e-5)
    theirs = xgb.train(parameters, data, 6)
    ours = xgb.train(
        {**parameters, "base_score": objective.base_score(y, s)}, data, 6, obj=our_xgboost.BinaryObjective()
    )
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=2e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_labels_and_weights_that_a_matrix_is_given_anew_are_seen(xgb, gamma):
    logits = np.linspace(-90, 90, 500, dtype=np.float32)
    labels, weights = np.random.default_rng(0).integers(0, 2, 500), np.linspace(0, 1, 500)
    data, objective = xgb.DMatrix(logits[:, None], labels), our_xgboost.BinaryObjective(gamma=gamma)
    for y, s in ((labels, None), (1 - labels, None), (1 - labels, weights)):
        data.set_info(label=y, weight=s)
        for got, want in zip(objective(logits, data), objective(y, logits, s), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
    grad, hess = objective(logits, data)
    options = {"sample_weight": weights.astype(np.float32), "reduction": "sum", "hessian": True}
    if gamma:
        _, g, h = binary_focal_loss_value_and_grad(logits, 1 - labels, gamma=gamma, **options)
    else:
        _, g, h = fastxent.binary_cross_entropy_value_and_grad(
            logits, np.float32(1) - labels.astype(np.float32), **options
        )
    assert (grad == g).all()
    assert (hess == np.maximum(h, 1e-16)).all()
    assert (hess == np.float32(1e-16)).any()


def test_xgboosts_classifier_takes_them(xgb):
    x, y, s = data_of("digits", weighted=True)
    options = {
        "n_estimators": 4,
        "max_depth": 4,
        "n_jobs": 1,
        "base_score": our_xgboost.SoftmaxObjective().base_score(y, s),
    }
    metric = our_xgboost.CrossEntropyMetric(name="nll")
    ours = xgb.XGBClassifier(objective=our_xgboost.SoftmaxObjective(), eval_metric=metric, **options)
    ours.fit(x, y, sample_weight=s, eval_set=[(x, y)], sample_weight_eval_set=[s], verbose=False)
    theirs = xgb.XGBClassifier(eval_metric="mlogloss", **options)
    theirs.fit(x, y, sample_weight=s, eval_set=[(x, y)], sample_weight_eval_set=[s], verbose=False)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=2e-5, atol=1e-7)
    found, wanted = ours.evals_result()["validation_0"], theirs.evals_result()["validation_0"]
    np.testing.assert_allclose(found["nll"], wanted["mlogloss"], rtol=1e-5)

    x, y, _ = data_of("breast_cancer")
    options |= {"base_score": 0.5}
    ours = xgb.XGBClassifier(objective=our_xgboost.BinaryObjective(), **options).fit(x, y)
    theirs = xgb.XGBClassifier(**options).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=2e-5, atol=1e-7)


def test_xgboosts_metric_is_the_built_in_one_and_stops_training(xgb):
    x, y, s = data_of("digits", weighted=True)
    train, test = xgb.DMatrix(x[::2], y[::2]), xgb.DMatrix(x[1::2], y[1::2], weight=s[1::2])
    parameters = {**XGB, "objective": "multi:softprob", "num_class": 10, "eval_metric": "mlogloss"}
    for objective, kind in ((our_xgboost.SoftmaxObjective(), "logits"), (None, "probs")):
        found = {}
        metric = our_xgboost.CrossEntropyMetric(kind=kind)
        model = xgb.train(
            parameters, train, 60, obj=objective, custom_metric=metric, evals=[(test, "test")], evals_result=found,
            early_stopping_rounds=3, verbose_eval=False,
        )  # fmt: skip
        np.testing.assert_allclose(found["test"]["cross_entropy"], found["test"]["mlogloss"], rtol=1e-4)
        assert model.best_score == min(found["test"]["cross_entropy"])
    x, y, _ = data_of("breast_cancer")
    data, found = xgb.DMatrix(x, y), {}
    parameters = {**XGB, "objective": "binary:logistic", "eval_metric": "logloss"}
    for objective, kind in ((our_xgboost.BinaryObjective(), "logits"), (None, "probs")):
        metric = our_xgboost.CrossEntropyMetric(kind=kind)
        xgb.train(
            parameters, data, 4, obj=objective, custom_metric=metric, evals=[(data, "train")], evals_result=found,
            verbose_eval=False,
        )  # fmt: skip
        np.testing.assert_allclose(found["train"]["cross_entropy"], found["train"]["logloss"], rtol=1e-4)


def test_model_selection_copies_an_objective(xgb):
    from sklearn.model_selection import GridSearchCV

    x, y, _ = data_of("iris")
    model = xgb.XGBClassifier(objective=our_xgboost.SoftmaxObjective(weight=[1.0, 2.0, 1.0]), n_estimators=3, n_jobs=1)
    search = GridSearchCV(model, {"max_depth": [1, 3]}, scoring="neg_log_loss", cv=2).fit(x, y)
    assert search.best_estimator_.predict_proba(x).shape == (150, 3)


# ---- LightGBM -------------------------------------------------------------------------------------------------------

LGB = {"num_leaves": 7, "num_threads": 1, "verbose": -1, "boost_from_average": False, "min_data_in_leaf": 5}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_lightgbms_softmax_grows_the_built_in_trees(lgb, name, weighted):
    x, y, s = data_of(name, weighted)
    models = [
        lgb.train({**LGB, "num_class": CLASSES[name], "objective": objective}, lgb.Dataset(x, y, weight=s), 6)
        for objective in (our_lightgbm.SoftmaxObjective(), "multiclass")
    ]
    ours, theirs = (model.trees_to_dataframe() for model in models)
    assert len(ours) == len(theirs) > 20
    assert list(ours["split_feature"]) == list(theirs["split_feature"])
    np.testing.assert_allclose(ours["threshold"], theirs["threshold"], rtol=1e-6)
    np.testing.assert_allclose(models[0].predict(x), models[1].predict(x, raw_score=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fastxent.softmax(models[0].predict(x)), models[1].predict(x), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pos_weight", [None, 2.5])
def test_lightgbms_binary_grows_the_built_in_trees(lgb, weighted, pos_weight):
    x, y, s = data_of("breast_cancer", weighted)
    ours = lgb.train(
        {**LGB, "objective": our_lightgbm.BinaryObjective(pos_weight=pos_weight)}, lgb.Dataset(x, y, weight=s), 8
    )
    parameters = {**LGB, "objective": "binary", "scale_pos_weight": pos_weight or 1.0}
    theirs = lgb.train(parameters, lgb.Dataset(x, y, weight=s), 8)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x, raw_score=True), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Cannot compute class probabilities")
@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_lightgbms_classifier_takes_them(lgb):
    for name, objective, evaluated in (
        ("wine", our_lightgbm.SoftmaxObjective(), "multi_logloss"),
        ("breast_cancer", our_lightgbm.BinaryObjective(), "binary_logloss"),
    ):
        x, y, s = data_of(name, weighted=True)
        options = {"n_estimators": 6, "num_leaves": 7, "n_jobs": 1, "verbose": -1, "boost_from_average": False}
        fitting = {"sample_weight": s, "eval_set": [(x, y)], "eval_sample_weight": [s]}
        metric = our_lightgbm.CrossEntropyMetric()
        ours = lgb.LGBMClassifier(objective=objective, **options).fit(x, y, eval_metric=metric, **fitting)
        theirs = lgb.LGBMClassifier(**options).fit(x, y, eval_metric=evaluated, **fitting)
        raw = theirs.predict(x, raw_score=True)
        np.testing.assert_allclose(ours.predict(x, raw_score=True), raw, rtol=1e-5, atol=1e-6)
        found, wanted = (next(iter(model.evals_result_.values())) for model in (ours, theirs))
        np.testing.assert_allclose(found["cross_entropy"], wanted[evaluated], rtol=1e-5)


def test_lightgbms_metric_is_the_built_in_one_and_stops_training(lgb):
    x, y, s = data_of("digits", weighted=True)
    for objective, kind in ((our_lightgbm.SoftmaxObjective(), "logits"), ("multiclass", "probs")):
        found = {}
        train = lgb.Dataset(x[::2], y[::2])
        test = lgb.Dataset(x[1::2], y[1::2], weight=s[1::2], reference=train)
        parameters = {**LGB, "num_class": 10, "objective": objective, "metric": "multi_logloss", "learning_rate": 0.5}
        model = lgb.train(
            parameters, train, 60,
            valid_sets=[test], feval=our_lightgbm.CrossEntropyMetric(kind=kind),
            callbacks=[lgb.record_evaluation(found), lgb.early_stopping(3, verbose=False, first_metric_only=True)],
        )  # fmt: skip
        losses = found["valid_0"]["cross_entropy"]
        assert 3 < model.best_iteration < 60
        if kind == "probs":
            np.testing.assert_allclose(losses, found["valid_0"]["multi_logloss"], rtol=1e-5)


def test_lightgbms_arrays_are_not_turned_around():
    """Predictions come class by class, and so go the derivatives: ravel(order="F") then copies nothing."""
    rng = np.random.default_rng(1)
    z, y = np.asfortranarray(rng.standard_normal((300, 7))), rng.integers(0, 7, 300)
    grad, hess = our_lightgbm.SoftmaxObjective()(y, z)
    for array in (grad, hess):
        assert np.shares_memory(array, array.ravel(order="F"))
    assert np.array_equal(grad, our_lightgbm.SoftmaxObjective()(y, np.ascontiguousarray(z))[0])


# ---- both -----------------------------------------------------------------------------------------------------------

FACTOR = {"xgboost": lambda c: 2.0, "lightgbm": lambda c: c / (c - 1)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", OURS)
def test_derivatives_follow_the_options(library, dtype):
    rng = np.random.default_rng(2)
    for c in (2, 3, 12):
        z, y, s = (2 * rng.standard_normal((60, c))).astype(dtype), rng.integers(0, c, 60), rng.random(60) + 0.1
        for weight in (None, rng.random(c) + 0.1):
            for smoothing in (0.0, 0.2):
                objective = OURS[library].SoftmaxObjective(weight=weight, label_smoothing=smoothing)
                grad, hess = objective(y.astype(np.float32), z, s)
                target = (1 - smoothing) * np.eye(c)[y] + smoothing / c
                k = target * (1 if weight is None else weight) * s[:, None]
                q = reference.softmax(z.astype(float))
                want = q * k.sum(1, keepdims=True) - k
                tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-15}
                np.testing.assert_allclose(grad, want, **tolerance)
                bend = FACTOR[library](c) * k.sum(1, keepdims=True) * q * (1 - q)
                np.testing.assert_allclose(hess, bend, **tolerance)
                assert grad.dtype == hess.dtype == dtype


@pytest.mark.parametrize("library", OURS)
def test_binary_derivatives_follow_the_options(library):
    rng = np.random.default_rng(3)
    z, t, s = rng.standard_normal(90), rng.integers(0, 2, 90), rng.random(90)
    q = 1 / (1 + np.exp(-z))
    for pos_weight in (None, 3.0):
        for smoothing in (0.0, 0.2):
            objective = OURS[library].BinaryObjective(pos_weight=pos_weight, label_smoothing=smoothing)
            grad, hess = objective(t.astype(np.float32), z, s)
            smooth = (1 - smoothing) * t + smoothing / 2
            w = 1.0 if pos_weight is None else pos_weight
            np.testing.assert_allclose(grad, s * ((1 - smooth) * q - w * smooth * (1 - q)), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(hess, s * (w * smooth + 1 - smooth) * q * (1 - q), rtol=1e-6)


@pytest.mark.parametrize("library", OURS)
def test_focal_derivatives_are_those_of_the_focal_loss(library):
    rng = np.random.default_rng(4)
    z, y, s, w = rng.standard_normal((70, 4)), rng.integers(0, 4, 70), rng.random(70), rng.random(4)
    grad, hess = OURS[library].SoftmaxObjective(gamma=2.0, weight=w)(y.astype(np.float32), z, s)
    options = {"gamma": 2.0, "sample_weight": s, "reduction": "sum", "hessian": True}
    _, want, bend = fastxent.focal_loss_value_and_grad(z, y, weight=w, **options)
    np.testing.assert_array_equal(grad, want)
    np.testing.assert_allclose(hess, FACTOR[library](4) * bend, rtol=1e-14)
    t, two = y % 2, np.stack([np.zeros(70), z[:, 0]], 1)
    grad, hess = OURS[library].BinaryObjective(gamma=2.0, pos_weight=3.0)(t.astype(np.float32), z[:, 0], s)
    _, want, bend = fastxent.focal_loss_value_and_grad(two, t, weight=[1.0, 3.0], **options)
    np.testing.assert_allclose(grad, want[:, 1], rtol=1e-12)
    np.testing.assert_allclose(hess, bend[:, 1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"^gamma: 2.0 does not go with label_smoothing=0.1"):
        OURS[library].SoftmaxObjective(gamma=2.0, label_smoothing=0.1)


def test_training_lowers_the_focal_loss_every_round(xgb, lgb):
    x, y, s = data_of("wine", weighted=True)
    xb, yb, sb = data_of("breast_cancer", weighted=True)
    settings = {**XGB, "base_score": 0.0}
    data, data_b = xgb.DMatrix(x, y, weight=s), xgb.DMatrix(xb, yb, weight=sb)
    model = xgb.train({**settings, "num_class": 3}, data, 8, obj=our_xgboost.SoftmaxObjective(gamma=2.0))
    binary = xgb.train(settings, data_b, 8, obj=our_xgboost.BinaryObjective(gamma=2.0))
    raw = [model.predict(data, output_margin=True, iteration_range=(0, k)) for k in range(1, 9)]
    raw_b = [binary.predict(data_b, output_margin=True, iteration_range=(0, k)) for k in range(1, 9)]
    assert_falling(raw, raw_b, y, s, yb, sb)
    model = lgb.train(
        {**LGB, "num_class": 3, "objective": our_lightgbm.SoftmaxObjective(gamma=2.0)}, lgb.Dataset(x, y, weight=s), 8
    )
    binary = lgb.train({**LGB, "objective": our_lightgbm.BinaryObjective(gamma=2.0)}, lgb.Dataset(xb, yb, weight=sb), 8)
    raw = [model.predict(x, num_iteration=k) for k in range(1, 9)]
    raw_b = [binary.predict(xb, num_iteration=k) for k in range(1, 9)]
    assert_falling(raw, raw_b, y, s, yb, sb)


def assert_falling(raw, raw_b, y, s, yb, sb):
    losses = [fastxent.focal_loss(z, y, sample_weight=s) for z in raw]
    losses_b = [fastxent.focal_loss(np.stack([0 * z, z], 1), yb, sample_weight=sb) for z in raw_b]
    for values in (losses, losses_b):
        assert (np.diff(values) < 0).all(), values
        assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("library", OURS)
def test_objectives_are_copied_and_pickled(library):
    for thing in (
        OURS[library].SoftmaxObjective(weight=[1.0, 2.0]),
        OURS[library].BinaryObjective(pos_weight=2.0, label_smoothing=0.1),
        OURS[library].CrossEntropyMetric(name="nll"),
    ):
        assert repr(copy.deepcopy(thing)) == repr(pickle.loads(pickle.dumps(thing))) == repr(thing)
    shown = repr(OURS[library].BinaryObjective(pos_weight=2.0, threads=1))
    assert shown == "BinaryObjective(pos_weight=2.0, label_smoothing=0.0, gamma=0.0, threads=1)"


@pytest.mark.parametrize("library", OURS)
def test_bad_labels_are_named(library):
    module = OURS[library]
    z = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"^labels: row 1 is 4, outside 0..3$"):
        module.SoftmaxObjective()(np.array([0.0, 4.0, 1.0]), z)
    with pytest.raises(ValueError, match=r"^labels: row 2 is 0.5; a label is a whole number"):
        module.CrossEntropyMetric()(np.array([0.0, 1.0, 0.5]), z)
    with pytest.raises(ValueError, match=r"^labels: row 1 is 2.0, not a probability"):
        module.BinaryObjective()(np.array([0.0, 2.0, 1.0]), z[:, 0])
    with pytest.raises(ValueError, match=r"predictions: shape \(3,\); need \(rows, classes\): set num_class"):
        module.SoftmaxObjective()(np.array([0.0, 1.0, 1.0]), z[:, 0])
    with pytest.raises(ValueError, match=r"predictions: shape \(3, 4\); need \(rows,\)"):
        module.BinaryObjective()(np.array([0.0, 1.0, 1.0]), z)
    with pytest.raises(ValueError, match="label_smoothing: 2.0 is outside"):
        module.SoftmaxObjective(label_smoothing=2.0)
    with pytest.raises(ValueError, match="kind: 'votes' is not one of"):
        module.CrossEntropyMetric(kind="votes")


@pytest.mark.parametrize("library", OURS)
def test_the_readmes_block_runs(library, capsys):
    pytest.importorskip(library)
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = [b for b in re.findall(r"^```py\n(.*?)^```$", readme, re.M | re.S) if f"adapters.{library}" in b]
    exec(compile(block.replace("n_estimators=20", "n_estimators=3, n_jobs=1"), "README.md", "exec"), {})
    assert "cross_entropy" in capsys.readouterr().out
