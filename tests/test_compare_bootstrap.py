"""The bootstrap of a comparison: the replicates of a plain paired one, by row or by cluster; cuts change no bit."""

import hashlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import reference

from fastxent import Comparer, compare, log_softmax, softmax
from fastxent.cli.main import main

RNG = np.random.default_rng(20261126)
N, C = 600, 6
Y = RNG.integers(0, C, N)
OLD = (RNG.normal(size=(N, C)) + 2 * np.eye(C)[Y]).astype(np.float32)
NEW = (OLD + 0.7 * RNG.normal(size=(N, C))).astype(np.float32)
W = RNG.lognormal(0, 2, N) * (RNG.random(N) < 0.9)
DOCUMENT = np.repeat(RNG.integers(-(2**60), 2**60, N // 5), 5)[RNG.permutation(N)]
PLACE = np.array([f"place {k % 77} é" for k in DOCUMENT])


def hashed(names):
    """The number of a cluster that is named by a string: eight bytes of BLAKE2b."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests])


@pytest.mark.parametrize("weight", [None, W])
@pytest.mark.parametrize(("cluster", "drawn"), [(None, np.arange(N) + 3), (DOCUMENT, DOCUMENT), (PLACE, hashed(PLACE))])
def test_replicates_are_those_of_a_plain_paired_bootstrap(cluster, drawn, weight):
    given = {"cluster": cluster, "sample_weight": weight, "start": 3}
    result = Comparer(bootstrap=100, seed=7, top_k=(1, 3)).update(OLD, NEW, Y, **given).result()
    counts = reference.bootstrap_counts(7, drawn, 100) * (1.0 if weight is None else weight[:, None])
    a, b = (reference.bootstrap_figures(reference.softmax(z), Y, counts, top_k=3, bins=15) for z in (OLD, NEW))
    found = result.pair().bootstrap
    assert (found.n, found.seed) == (100, 7)
    want = {name: a[name] - b[name] for name in a} | {"perplexity_ratio": a["perplexity"] / b["perplexity"]}
    assert found.figures.keys() == want.keys()
    for name, values in want.items():
        x = found.figures[name]
        assert x.se == pytest.approx(values.std(ddof=1), rel=1e-4)
        ends = np.quantile(values, [0.025, 0.975])
        assert [x.low, x.high] == pytest.approx(ends.tolist(), rel=1e-4, abs=1e-6)
        if name != "perplexity_ratio":
            drawn_figures = found.of_a.replicates[name] - found.of_b.replicates[name]
            np.testing.assert_allclose(drawn_figures, values, rtol=1e-4, atol=2e-6)
    one = np.ones((N, 1)) if weight is None else weight[:, None]
    a, b = (reference.bootstrap_figures(reference.softmax(z), Y, one, top_k=3, bins=15) for z in (OLD, NEW))
    for model, own in zip(result.models, (a, b)):
        assert model.ece == pytest.approx(own["ece"][0], rel=1e-5)
        assert model.top_k_accuracy[3] == pytest.approx(own["top_3_accuracy"][0], rel=1e-12)
    assert found.figures["ece"].value == result.models[0].ece - result.models[1].ece


@pytest.mark.parametrize("cluster", [None, DOCUMENT, PLACE])
def test_cuts_threads_and_order_change_no_bit(cluster, monkeypatch):
    y = Y.copy()
    y[::7] = -1
    given = {"sample_weight": W} | ({} if cluster is None else {"cluster": cluster})
    options = {"bootstrap": 40, "seed": 1, "ignore_index": -1, "invalid": "count"}
    a = OLD.copy()
    a[11] = np.nan
    whole = compare(a, NEW, y, **given, **options)
    assert whole.pair().bootstrap.figures["ece"].se > 0
    assert (whole.ignored, whole.invalid) == ((y < 0).sum(), 1)
    monkeypatch.setattr("fastxent.comparing.rows.FEW_ROWS", 50)
    monkeypatch.setattr("fastxent.comparing.rows.SLICE_ROWS", 70)
    for threads, cuts in ((1, [0, N]), (2, [0, 1, 64, 65, 300, N])):
        merged = Comparer(**options)
        for low, high in reversed(list(pairwise(cuts))):
            rows = {name: x[low:high] for name, x in given.items()}
            part = Comparer(threads=threads, **options)
            merged.merge(part.update(a[low:high], NEW[low:high], y[low:high], start=low, **rows))
        assert merged.result() == whole
    if cluster is not None:  # then it is not the position that decides
        order = RNG.permutation(N)
        rows = {name: x[order] for name, x in given.items()}
        other = compare(a[order], NEW[order], y[order], ids=order, **rows, **options)
        assert other == compare(a, NEW, y, ids=np.arange(N), **given, **options)


def test_clusters_make_intervals_as_wide_as_clustered_standard_errors():
    a, b, y = (np.repeat(x, 8, axis=0) for x in (OLD, NEW, Y))
    cluster = np.repeat(np.arange(N), 8)
    for given, wide in (({"cluster": cluster}, True), ({}, False)):
        pair = compare(a, b, y, bootstrap=1000, **given).pair()
        assert pair.bootstrap.figures["nll"].se == pytest.approx(pair.nll.se, rel=5 / math.sqrt(2000))
        assert pair.bootstrap.figures["accuracy"].se == pytest.approx(pair.accuracy.se, rel=5 / math.sqrt(2000))
        assert (pair.nll.se > 2 * compare(a, b, y).pair().nll.se) == wide


def test_a_pair_the_other_way_round():
    three = compare(OLD, NEW, OLD / 2, Y, bootstrap=30)
    for mine, other in (("A", "B"), ("A", "C"), ("B", "C")):
        x, back = three.pair(mine, other).bootstrap.figures, three.pair(other, mine).bootstrap.figures
        assert back["ece"].low == pytest.approx(-x["ece"].high, rel=1e-12)
        assert back["perplexity_ratio"].value == pytest.approx(1 / x["perplexity_ratio"].value, rel=1e-12)
        alone = compare({name: {"A": OLD, "B": NEW, "C": OLD / 2}[name] for name in (mine, other)}, Y, bootstrap=30)
        assert alone.pair().to_dict()["bootstrap"] == three.pair(mine, other).to_dict()["bootstrap"]


def test_distributions_and_infinite_losses():
    p = softmax(NEW.astype(float))
    figures = compare(OLD, NEW, p, bootstrap=30).pair().bootstrap.figures
    assert figures.keys() == {"nll", "perplexity", "perplexity_ratio"}
    assert figures["perplexity_ratio"].low > 1.0
    a = OLD.copy()
    a[17, Y[17]] = -np.inf
    pair = compare(a, NEW, Y, bootstrap=60).pair()
    assert math.isinf(pair.bootstrap.figures["nll"].high)
    assert math.isfinite(pair.bootstrap.figures["ece"].se)
    json.dumps(pair.to_dict(), allow_nan=False)


def test_rows_whose_positions_are_taken_are_refused():
    first, second = (Comparer(bootstrap=5).update(OLD, NEW, Y) for _ in range(2))
    with pytest.raises(ValueError, match="^other: rows 0 to 599 are covered already"):
        first.merge(second)
    with pytest.raises(ValueError, match="^start: rows 599 to 599 are covered already"):
        first.update(OLD, NEW, Y, start=599)
    by_cluster = [Comparer(bootstrap=5).update(OLD, NEW, Y, cluster=DOCUMENT) for _ in range(2)]
    assert by_cluster[0].merge(by_cluster[1]).result().n == 2 * N
    with pytest.raises(ValueError, match="^bootstrap: "):
        Comparer(bootstrap=-1)


def test_the_command_line_shows_and_writes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastxent.files.base.BLOCK_BYTES", 3000)
    np.savez("all.npz", a=OLD, b=log_softmax(NEW), y=Y, doc=DOCUMENT)
    keys = "--predictions-key a --predictions-key b --target-key y --kind logits --kind log-probs --cluster doc"
    command = ["compare", *["all.npz"] * 3, *keys.split(), "--bootstrap", "50", "--seed", "3", "--top-k", "2"]
    assert main([*command, "--json", "-"]) == 0
    options = {"cluster": DOCUMENT, "kind": ("logits", "log_probs"), "bootstrap": 50, "seed": 3, "top_k": 2}
    whole = compare({"a": OLD, "b": log_softmax(NEW)}, Y, **options)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(whole.to_dict()))
    assert main(command) == 0
    shown = capsys.readouterr().out
    ratio = whole.pair().bootstrap.figures["perplexity_ratio"]
    for text in ("50 replicates", f"{ratio.low:.6g}", f"{ratio.high:.6g}", "calibration error", "top-2 accuracy"):
        assert text in shown
    rows = whole.to_frame("bootstrap", backend="pyarrow").to_pylist()
    assert [row["figure"] for row in rows] == list(whole.pair().bootstrap.figures)
    assert rows[-1]["high"] == ratio.high
