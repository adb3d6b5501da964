"""Comparisons of models: the statistics' own definitions, SciPy and statsmodels; the same bits for any chunking."""

import json
import math
import pickle

import numpy as np
import pytest
from reference import holm, paired_difference
from scipy import stats

import fastxent
from fastxent import Comparer, compare

RNG = np.random.default_rng(20)
N, C = 3000, 7
Y = RNG.integers(0, C, N)
OLD = RNG.normal(size=(N, C)) + 2.0 * (np.arange(C) == Y[:, None])
NEW = OLD + 0.5 * RNG.normal(size=(N, C)) + 0.3 * (np.arange(C) == Y[:, None])
THIRD = RNG.normal(size=(N, C))
W = RNG.integers(0, 4, N) * RNG.random(N)
CLUSTER = np.repeat(np.arange(N // 6), 6)[RNG.permutation(N)] * 7919 - 10**6
BY = RNG.choice(["north", "south", "Ω"], N)


def losses(z, **options):
    return fastxent.cross_entropy(z, Y, reduction="none", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_weights_it_is_scipys_paired_t_test(dtype):
    a, b = OLD.astype(dtype), NEW.astype(dtype)
    nll = compare(a, b, Y).pair().nll
    test = stats.ttest_rel(losses(a), losses(b))
    assert (nll.t, nll.p_value, nll.dof) == pytest.approx((test.statistic, test.pvalue, test.df), rel=1e-10, abs=0)
    assert nll.interval == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-10)
    assert nll.value == math.fsum(losses(a) - losses(b)) / N


@pytest.mark.parametrize("cluster", [None, CLUSTER])
@pytest.mark.parametrize("weight", [None, W])
def test_differences_are_those_of_the_definition(weight, cluster):
    pair = compare(OLD, NEW, Y, sample_weight=weight, cluster=cluster).pair()
    right = [(z.argmax(1) == Y).astype(float) for z in (OLD, NEW)]
    for found, d in ((pair.nll, losses(OLD) - losses(NEW)), (pair.accuracy, right[0] - right[1])):
        mean, se, dof = paired_difference(d, weight, cluster)
        assert (found.value, found.se, found.dof) == (pytest.approx(mean, rel=1e-14), pytest.approx(se, rel=1e-12), dof)
        assert found.t == pytest.approx(mean / se)
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean / se), dof), rel=1e-9)
        assert found.interval == pytest.approx(stats.t.interval(0.95, dof, mean, se), rel=1e-9)


def test_counts_of_rows_won_and_of_right_predictions():
    a, b = OLD.copy(), NEW.copy()
    a[:50] = b[:50]
    d = losses(a) - losses(b)
    o = compare(a, b, Y).pair().outcomes
    assert (o.a_lower, o.b_lower, o.ties) == ((d < 0).sum(), (d > 0).sum(), (d == 0).sum())
    assert o.ties >= 50
    right = [z.argmax(1) == Y for z in (a, b)]
    assert o.only_a_right == (right[0] & ~right[1]).sum()
    assert o.only_b_right == (right[1] & ~right[0]).sum()
    assert (o.both_right, o.neither_right) == ((right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum())


def test_models_have_the_figures_of_their_own_score_cards():
    for weight in (None, W):
        result = compare({"old": OLD, "new": NEW, "third": THIRD}, Y, sample_weight=weight)
        cards = [fastxent.score(z, Y, sample_weight=weight) for z in (OLD, NEW, THIRD)]
        assert [m.accuracy for m in result.models] == [card.accuracy for card in cards]
        assert [m.nll for m in result.models] == pytest.approx([card.nll for card in cards], rel=1e-14)
        assert [m.rank for m in result.models] == [2, 1, 3]


@pytest.mark.parametrize("cluster", [None, CLUSTER, CLUSTER.astype(str)])
@pytest.mark.parametrize("weight", [None, W])
def test_tables_by_class_and_group_are_comparisons_of_their_rows(weight, cluster):
    pair = compare(OLD, NEW, Y, by=BY, sample_weight=weight, cluster=cluster).pair()
    for table, of in ((pair.classes, Y), (pair.by, BY)):
        assert table.value == sorted(set(of.tolist()))
        for k, value in enumerate(table.value):
            rows = of == value
            given = {"sample_weight": weight, "cluster": cluster}
            given = {name: None if x is None else x[rows] for name, x in given.items()}
            part = compare(OLD[rows], NEW[rows], Y[rows], **given)
            one = part.pair()
            assert (table.n[k], table.weight[k], table.difference[k]) == (part.n, part.weight, one.nll.value)
            assert table.accuracy_difference[k] == pytest.approx(one.accuracy.value, rel=1e-14, abs=1e-16)
            assert (table.a_lower[k], table.b_lower[k]) == (one.outcomes.a_lower, one.outcomes.b_lower)
            if weight is None or cluster is not None:  # without clusters they count rows of weight 0 as well
                assert table.se[k] == pytest.approx(one.nll.se, rel=1e-10)
        assert math.fsum(table.share) == pytest.approx(pair.nll.value, rel=1e-12)
        assert abs(table.share[table.largest(1)[0]]) == abs(table.share).max()


def test_rows_that_decide_are_the_largest_differences():
    ids = RNG.permutation(10 * N)[:N]
    a, b = np.round(OLD), np.round(NEW)  # with ties
    pair = compare(a, b, Y, ids=ids, worst=25).pair()
    la, lb = losses(a), losses(b)
    for found, gain in ((pair.decide_for_a, lb - la), (pair.decide_for_b, la - lb)):
        order = sorted(range(N), key=lambda i: (-gain[i], ids[i]))[:25]
        assert found == tuple((ids[i], Y[i], la[i], lb[i]) for i in order)


def test_pairs_of_several_models_are_those_of_two():
    models = {"old": OLD, "new": NEW, "third": THIRD}
    result = compare(models, Y, by=BY, cluster=CLUSTER)
    assert [(p.a, p.b) for p in result.pairs] == [("old", "new"), ("old", "third"), ("new", "third")]
    for pair in result.pairs:
        alone = compare({name: models[name] for name in (pair.a, pair.b)}, Y, by=BY, cluster=CLUSTER)
        assert alone.pair().to_dict() | {"p_holm": pair.p_holm} == pair.to_dict()
        assert (
            compare({name: models[name] for name in (pair.b, pair.a)}, Y, by=BY, cluster=CLUSTER).pair().to_dict()
            | {"p_holm": pair.p_holm}
            == result.pair(pair.b, pair.a).to_dict()
        )
    assert [p.p_holm for p in result.pairs] == pytest.approx(holm([p.nll.p_value for p in result.pairs]))
    assert [(p.a, p.b) for p in result.against_best()] == [("old", "new"), ("third", "new")]


@pytest.mark.parametrize("weight", [None, W])
def test_same_bits_for_any_parts_order_and_threads(weight):
    given = {"by": BY, "cluster": CLUSTER, "ids": np.arange(N)}
    if weight is not None:
        given["sample_weight"] = weight
    whole = compare(OLD, NEW, Y, **given)
    assert compare(OLD, NEW, Y, **given, threads=1) == whole
    assert compare(OLD[::-1], NEW[::-1], Y[::-1], **{k: v[::-1] for k, v in given.items()}) == whole
    merged = Comparer()
    for rows in np.array_split(RNG.permutation(N), 9):
        part = Comparer().update(OLD[rows], NEW[rows], Y[rows], **{k: v[rows] for k, v in given.items()})
        merged = pickle.loads(pickle.dumps(part)).merge(merged)
    assert merged.result() == whole


def test_many_rows_go_through_threads_and_slices_to_the_same_bits(monkeypatch):
    n = 70_000
    y, by = np.resize(Y, n), np.resize(BY, n)
    a, b = np.resize(OLD, (n, C)).astype("f4"), np.resize(THIRD, (n, C)).astype("f4")
    a[::2] *= 1e-3
    a[5], b[7] = [80.0, *[-80.0] * (C - 1)], [3e3, *[-3e3] * (C - 1)]  # losses outside the usual range
    whole = compare(a, b, y, by=by)
    d = np.subtract(*(fastxent.cross_entropy(z, y, reduction="none") for z in (a, b)))
    assert whole.pair().nll.value == math.fsum(d) / n
    parts = Comparer()
    for start in range(0, n, 999):
        parts.update(*(x[start : start + 999] for x in (a, b, y)), by=by[start : start + 999])
    assert parts.result() == whole
    monkeypatch.setattr("fastxent.comparing.rows.SLICE_ROWS", 20_000)
    assert compare(a, b, y, by=by, threads=2) == whole


@pytest.mark.parametrize("kinds", [("probs", "log_probs"), ("logits", "probs")])
def test_models_of_other_kinds(kinds):
    make = {"logits": lambda z: z, "log_probs": fastxent.log_softmax, "probs": fastxent.softmax}
    loss = {"logits": fastxent.cross_entropy, "log_probs": fastxent.nll, "probs": fastxent.log_loss}
    a, b = make[kinds[0]](OLD), make[kinds[1]](NEW)
    result = compare(a, b, Y, kind=kinds)
    la, lb = (loss[kind](z, Y, reduction="none") for kind, z in zip(kinds, (a, b)))
    assert result.pair().nll.value == math.fsum(la - lb) / N
    assert [m.accuracy for m in result.models] == [(z.argmax(1) == Y).mean() for z in (a, b)]


def test_temperatures_of_one_model():
    result = compare(OLD, OLD, Y, temperature=(1.0, 1.7), names=("raw", "calibrated"))
    assert result.pair().nll.value == math.fsum(losses(OLD) - losses(OLD, temperature=1.7)) / N
    assert result.pair().accuracy.value == 0.0
    assert result.pair().mcnemar_p == 1.0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("layout", ["C", "F", "axis"])
def test_hits_and_ranks_in_any_layout_break_ties_as_argmax_does(dtype, layout):
    rng = np.random.default_rng(4)
    for n_classes in (1, 2, 16, 17, 70):
        y = rng.integers(0, n_classes, 400)
        z = [np.round(rng.normal(size=(400, n_classes)) * 2).astype(dtype) for _ in range(2)]
        options = {}
        if layout == "F":
            z = [np.asfortranarray(x) for x in z]
        given = z
        if layout == "axis":
            given, options = [x.T.copy() for x in z], {"axis": 0}
        result = compare(*given, y, **options)
        assert [m.accuracy for m in result.models] == [(x.argmax(1) == y).mean() for x in z]
        ranks = [np.argsort(np.argsort(-x, axis=1, kind="stable"), axis=1)[np.arange(400), y] for x in z]
        assert [m.top_k_accuracy[5] for m in result.models] == [(rank < 5).mean() for rank in ranks]


@pytest.mark.parametrize("weight", [None, W])
@pytest.mark.parametrize("kind", ["logits", "warm", "float32", "log_probs", "probs", "normalize", "many classes"])
def test_reliability_is_that_of_score_cards(kind, weight):
    a, b, y, options = OLD.copy(), 3 * NEW, Y, {}
    a[5], a[6], b[7] = 1e30 * a[5], 1e5 * a[6], [-math.inf] * (C - 1) + [0.0]
    if kind == "warm":
        options = {"temperature": 3.0}
    elif kind == "float32":
        a, b = a.astype("f4"), b.astype("f4")
    elif kind == "many classes":
        y, weight = Y[:300], None if weight is None else weight[:300]
        a, b = (np.concatenate([z[:300], RNG.normal(size=(300, 70)) - 1], axis=1) for z in (a, b))
        b[9, 7:] += 60.0  # far from the label
    elif kind != "logits":
        make = fastxent.log_softmax if kind == "log_probs" else fastxent.softmax
        a, b, options = make(a), make(b), {"kind": "log_probs" if kind == "log_probs" else "probs"}
    if kind == "normalize":
        a, b, options = a * 0.5, b / 3, options | {"normalize": True}
    result = compare(a, b, y, sample_weight=weight, **options)
    for z, model in zip((a, b), result.models):
        card = fastxent.score(z, y, sample_weight=weight, **options)
        bins = result.reliability[model.name]
        assert bins.n.tolist() == card.reliability.n.tolist()
        for found, want in zip(bins, card.reliability):
            np.testing.assert_allclose(found, want, rtol=2e-7 if kind == "float32" else 2e-12)
        assert model.top_k_accuracy == pytest.approx(card.top_k_accuracy, rel=1e-14)
        assert model.ece == pytest.approx(card.ece, rel=1e-6 if kind == "float32" else 1e-11)


def test_distributions_give_what_needs_no_label():
    p = fastxent.softmax(THIRD)
    result = compare(OLD, NEW, p, by=BY)
    d = np.subtract(*(fastxent.cross_entropy(z, p, reduction="none") for z in (OLD, NEW)))
    assert result.pair().nll.value == math.fsum(d) / N
    assert result.pair().nll.se == pytest.approx(paired_difference(d)[1], rel=1e-12)
    pair = result.pair()
    assert (result.target, pair.accuracy, pair.mcnemar_p, pair.classes) == ("distributions", None, None, None)
    assert [m.accuracy for m in result.models] == [None, None]
    assert pair.outcomes.only_a_right is None
    assert pair.by.accuracy_difference is None


def test_ignored_and_invalid_rows_are_left_out():
    a, b, y = OLD.copy(), NEW.copy(), Y.copy()
    y[::5] = -100
    b[::5] = np.nan
    b[1], a[2], a[3] = np.nan, np.inf, -np.inf
    kept = np.setdiff1d(np.flatnonzero(y >= 0), [1, 2, 3])
    result = compare(a, b, y, ignore_index=-100, invalid="count", cluster=CLUSTER, by=BY, sample_weight=W)
    rows = {k: v[kept] for k, v in {"cluster": CLUSTER, "by": BY, "sample_weight": W}.items()}
    alone = compare(a[kept], b[kept], y[kept], ids=kept, **rows)
    assert (result.ignored, result.invalid, result.n) == (N // 5, 3, len(kept))
    assert result.pairs[0].to_dict() == alone.pairs[0].to_dict()
    with pytest.raises(ValueError, match=r"^B: row 1 has a NaN or \+inf, or only -inf; invalid='count' leaves"):
        compare(a, b, y, ignore_index=-100)


def test_infinite_losses_and_differences_without_a_spread():
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    q = np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    pair = compare(p, q, [1, 1, 0], kind="probs").pair()
    assert (pair.outcomes.a_lower, pair.outcomes.b_lower, pair.outcomes.ties) == (0, 1, 2)  # inf and inf: a tie
    assert math.isnan(pair.nll.value)
    pair = compare(p[[0, 2]], q[[0, 2]], [1, 0], kind="probs").pair()
    assert (pair.nll.value, pair.decide_for_b[0].nll_a) == (math.inf, math.inf)
    assert math.isnan(pair.nll.p_value)
    same = compare(OLD, OLD, Y).pair().nll
    assert (same.value, same.se, same.t, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    shifted = compare([[0.0, 0.0]] * 3, [[0.0, 1.0]] * 3, [1, 1, 1]).pair().nll
    assert (shifted.se, shifted.p_value) == (0.0, 0.0)
    one = compare([[0.0, 0.0]], [[0.0, 1.0]], [1]).pair().nll
    assert math.isnan(one.se)
    with pytest.warns(RuntimeWarning, match="no row was compared"):
        empty = compare(OLD[:0], NEW[:0], Y[:0])
    assert empty.n == 0
    json.dumps(empty.to_dict(), allow_nan=False)


def test_a_refused_update_adds_nothing():
    comparer = Comparer().update(OLD[:100], NEW[:100], Y[:100], by=BY[:100])
    before = comparer.result()
    bad = Y.copy()
    bad[2000] = C
    for arrays, given in (
        ((OLD, NEW, bad), {"by": BY}),
        ((OLD, NEW, Y), {"by": np.arange(N) + 0.5}),
        ((OLD, NEW, Y), {}),
        ((OLD[:, :3], NEW[:, :3], Y % 3), {"by": BY}),
    ):
        with pytest.raises((ValueError, TypeError)):
            comparer.update(*arrays, **given)
        assert comparer.result() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(OLD, Y), r"^predictions: 1 model; need two or more, then the target"),
        (lambda: compare(OLD, NEW[:, :3], Y), r"^B: shape \(3000, 3\) does not match A of shape \(3000, 7\)"),
        (lambda: compare(OLD, NEW, Y + 1), r"^target: row \d+ is 7, outside 0..6"),
        (lambda: compare(OLD, NEW, Y, kind=("logits",)), r"^kind: 1 values for 2 models"),
        (lambda: compare(OLD, NEW, Y, kind="odds"), r"^kind: 'odds' is not one of"),
        (lambda: compare(OLD, NEW, Y, names=("x", "x")), r"^names: 'x' is there twice"),
        (lambda: compare(OLD, NEW, Y, cluster=CLUSTER[:5]), r"^cluster: shape \(5,\); need one a row"),
        (lambda: compare(OLD, NEW, Y, cluster=W), r"^cluster: dtype float64 is not supported"),
        (lambda: compare(OLD, NEW, Y, sample_weight=-W), r"^sample_weight: row \d+ has -"),
        (lambda: compare(OLD, OLD, Y, kind=("logits", "probs")), r"^B: row 0 has .* a probability is in \[0, 1\]"),
        (lambda: compare(OLD, NEW, Y).pair("A", "C"), r"^pair: 'A', 'C': need two of 'A', 'B'"),
        (lambda: Comparer().merge(Comparer(temperature=2.0)), r"^other: has temperature=\(2.0, 2.0\)"),
    ],
)
def test_errors_are_one_line_that_names_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.peers
def test_clusters_and_mcnemar_are_those_of_statsmodels():
    ols = pytest.importorskip("statsmodels.regression.linear_model")
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    d, ones = losses(OLD) - losses(NEW), np.ones((N, 1))
    groups = np.unique(CLUSTER, return_inverse=True)[1]
    pair = compare(OLD, NEW, Y, cluster=CLUSTER).pair()
    fitted = ols.OLS(d, ones).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    for found, theirs in (
        (pair.nll.value, fitted.params),
        (pair.nll.se, fitted.bse),
        (pair.nll.p_value, fitted.pvalues),
    ):
        assert found == pytest.approx(theirs[0], rel=1e-9)
    assert pair.nll.interval == pytest.approx(fitted.conf_int()[0], rel=1e-9)
    kept = W > 0
    fitted = ols.WLS(d[kept], ones[kept], weights=W[kept])
    for cluster, how in (
        (None, {"cov_type": "HC1"}),
        (CLUSTER, {"cov_type": "cluster", "cov_kwds": {"groups": groups[kept]}}),
    ):
        found = compare(OLD, NEW, Y, cluster=cluster, sample_weight=W).pair().nll
        theirs = fitted.fit(**how, use_t=True)
        assert (found.se, found.p_value) == pytest.approx((theirs.bse[0], theirs.pvalues[0]), rel=1e-9)
    o = pair.outcomes
    table = [[o.both_right, o.only_a_right], [o.only_b_right, o.neither_right]]
    assert pair.mcnemar_p == pytest.approx(tables.mcnemar(table, exact=True).pvalue, rel=1e-9)
    three = compare(OLD, NEW, THIRD, Y)
    adjusted = multiple.multipletests([p.nll.p_value for p in three.pairs], method="holm")[1]
    assert [p.p_holm for p in three.pairs] == pytest.approx(adjusted)


@pytest.mark.peers
def test_real_models_of_digits():
    linear_model = pytest.importorskip("sklearn.linear_model")
    datasets, metrics = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.metrics")
    x, y = datasets.load_digits(return_X_y=True)
    models = {c: linear_model.LogisticRegression(C=c, max_iter=300).fit(x[:900] / 16, y[:900]) for c in (1.0, 0.01)}
    p = {str(c): model.predict_proba(x[900:] / 16) for c, model in models.items()}
    held = y[900:]
    result = compare(p, held, kind="probs")
    pair = result.pair("1.0", "0.01")
    assert result.models[0].rank == 1
    assert pair.nll.value == pytest.approx(np.subtract(*(metrics.log_loss(held, q) for q in p.values())), rel=1e-9)
    rows = [-np.log(q[np.arange(len(held)), held]) for q in p.values()]
    assert pair.nll.p_value == pytest.approx(stats.ttest_rel(*rows).pvalue, rel=1e-6)
    right = [metrics.accuracy_score(held, q.argmax(1)) for q in p.values()]
    assert pair.accuracy.value == pytest.approx(right[0] - right[1])
