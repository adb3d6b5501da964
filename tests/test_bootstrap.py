"""The Poisson bootstrap: its counts, its sums, its intervals, and that cuts, threads and order change no bit."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import reference

from fastxent import Scorer, score, softmax
from fastxent.cli.main import main
from fastxent.kernels import philox

SEED = 20261125


def rows(n=3000, c=5, seed=SEED):
    rng = np.random.default_rng(seed)
    z = (2 * rng.normal(size=(n, c))).astype(np.float32)
    return z, np.where(rng.random(n) < 0.5, z.argmax(-1), rng.integers(c, size=n))


def expected(z, y, w, s=None, top_k=(1, 3), bins=15):
    """Every replicate's figures from the whole matrix of counts, int[n_rows, n_replicates]."""
    q = softmax(z.astype(np.float64))
    w = w * (1.0 if s is None else s[:, None])
    nll, hit = -np.log(q[np.arange(len(y)), y]), q.argmax(-1) == y
    rank = (z > z[np.arange(len(y)), y][:, None]).sum(-1)
    share, place = q.max(-1), np.ceil(q.max(-1) * bins).astype(int) - 1
    one_hot = np.eye(z.shape[1])[y]
    total = w.sum(0)
    ece = sum(abs(((hit - share) * (place == k)) @ w) for k in range(bins)) / total
    figures = {
        "nll": nll @ w / total,
        "perplexity": np.exp(nll @ w / total),
        "brier": ((q - one_hot) ** 2).sum(-1) @ w / total,
        "entropy": -(q * np.log(q)).sum(-1) @ w / total,
        "confidence": share @ w / total,
        "accuracy": hit @ w / total,
        "ece": ece,
    }
    return figures | {f"top_{k}_accuracy": (rank < k) @ w / total for k in top_k if k > 1}


def test_philox_is_the_published_one():
    """The known answers of Random123's kat_vectors, by the oracle; the kernel has the oracle's counts (below)."""
    for fill, key, answer in (
        (0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**32 - 1, 2**32 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ):
        assert reference.philox4x32(np.full(4, fill, np.uint64), (key, key)).tolist() == answer


def test_counts_have_mean_and_variance_1_and_are_poisson():
    of_bits = np.bincount(reference.poisson_of_bits(np.arange(2**16)))
    assert of_bits.tolist() == list(philox.VALUES)
    k = np.arange(8)
    assert [int((of_bits * k**power).sum()) for power in (0, 1, 2)] == [2**16, 2**16, 2**17]
    poisson = np.array([math.exp(-1) / math.factorial(j) for j in k])
    assert np.abs(of_bits / 2**16 - poisson).max() < 2**-14.5

    counts = reference.bootstrap_counts(SEED, np.arange(2000), 200)
    seen = np.bincount(np.minimum(counts.ravel(), 6), minlength=7)
    want = counts.size * np.append(poisson[:6], 1 - poisson[:6].sum())
    assert ((seen - want) ** 2 / want).sum() < 22.5  # chi-square of 6 degrees of freedom: 1 in 1000
    for axis in (0, 1):  # and neither rows nor replicates know of each other
        centred = counts - counts.mean(axis, keepdims=True)
        products = [(np.roll(centred, step, 1 - axis) * centred).mean() for step in (1, 2, 16, 32)]
        assert np.abs(products).max() < 4 / math.sqrt(counts.size)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("seed", "first"), [(0, 0), (2**64 - 1, 7), (SEED, 2**40 + 1)])
def test_replicates_are_those_of_the_matrix_of_counts(seed, first, weighted):
    z, y = rows(301)
    s = np.random.default_rng(1).lognormal(0, 4, 301) if weighted else None
    card = Scorer(bootstrap=100, seed=seed, top_k=(3,)).update(z, y, start=first, sample_weight=s).result()
    want = expected(z, y, reference.bootstrap_counts(seed, first + np.arange(301), 100), s)
    got = card.bootstrap.replicates
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
    for name, some in got.items():
        spread = card.bootstrap.figures[name]
        assert spread.se == pytest.approx(some.std(ddof=1), rel=1e-12)
        assert [spread.low, spread.high] == pytest.approx(np.quantile(some, [0.025, 0.975]).tolist(), rel=1e-14)
        figure = card.top_k_accuracy[3] if name == "top_3_accuracy" else getattr(card, name)
        assert spread.bias == pytest.approx(some.mean() - figure, abs=1e-12)


@pytest.mark.parametrize("weights", ["none", "some parts", "all"])
def test_cuts_threads_and_order_change_no_bit(weights):
    z, y = rows()
    s = np.random.default_rng(1).lognormal(0, 3, len(y))
    y[::7], y[5:90] = -1, -1
    options = {"bootstrap": 70, "seed": 3, "ignore_index": -1}
    given = {"none": None, "all": s, "some parts": np.where(np.arange(len(y)) < 1500, 1.0, s)}[weights]
    whole = score(z, y, sample_weight=given, **options)
    assert whole.bootstrap.figures["ece"].se > 0
    for threads, cuts in ((1, [0, 3000]), (2, [0, 1, 64, 65, 1500, 2999, 3000]), (3, [0, 1500, 3000])):
        parts = []
        for start, stop in pairwise(cuts):
            weight = None if given is None or (weights != "all" and stop <= 1500) else given[start:stop]
            part = Scorer(threads=threads, **options)
            parts.append(part.update(z[start:stop], y[start:stop], start=start, sample_weight=weight))
        merged = Scorer(**options)
        for part in reversed(parts):
            merged.merge(part)
        assert merged.result() == whole


def test_a_state_keeps_the_replicates(tmp_path):
    z, y = rows(500)
    whole = score(z, y, bootstrap=40)
    Scorer(bootstrap=40).update(z[:200], y[:200]).save(tmp_path / "state")
    assert Scorer.load(tmp_path / "state").update(z[200:], y[200:]).result() == whole
    plain = Scorer().update(z[:200], y[:200])
    with pytest.raises(ValueError, match="bootstrap"):
        Scorer.load(tmp_path / "state").merge(plain)


def test_files_and_resumed_runs_give_the_figures_of_arrays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    z, y = rows(2000)
    np.save("z.npy", z)
    np.save("y.npy", y)
    want = score(z, y, bootstrap=40, seed=5).to_dict()["bootstrap"]
    assert want["n"] == 40
    command = ["score", "z.npy", "y.npy", "--bootstrap", "40", "--seed", "5", "--json", "-"]
    monkeypatch.setattr("fastxent.files.base.BLOCK_BYTES", 10_000)
    for more in ([], ["--resume", "state"]):
        assert main([*command, *more]) == 0
        assert json.loads(capsys.readouterr().out)["bootstrap"] == want
    for k, (start, stop) in enumerate([(0, 1200), (1200, 2000)]):
        np.save("part.npy", z[start:stop])
        np.save("part-y.npy", y[start:stop])
        part = ["score", "part.npy", "part-y.npy", "--bootstrap", "40", "--seed", "5", "--first-row", str(start)]
        assert main([*part, "--resume", f"part-{k}.state"]) == 0
    capsys.readouterr()
    assert main(["merge", "part-1.state", "part-0.state", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["bootstrap"] == want
    assert main(["score", "z.npy", "y.npy", "--bootstrap", "40"]) == 0
    assert "40 replicates" in capsys.readouterr().out


@pytest.mark.peers
def test_dask_gives_the_same_replicates():
    pytest.importorskip("dask.array")
    import dask.array

    from fastxent import dask as lazily

    z, y = rows(2000)
    chunked = dask.array.from_array(z, (700, 5)), dask.array.from_array(y, 700)
    with dask.config.set(scheduler="synchronous"):
        assert lazily.score(*chunked, bootstrap=40).compute() == score(z, y, bootstrap=40)


def test_parts_without_positions_are_refused():
    z, y = rows(20)
    first, second = (Scorer(bootstrap=5).update(z, y) for _ in range(2))
    with pytest.raises(ValueError, match="covered already"):
        first.merge(second)
    with pytest.raises(ValueError, match="by: goes without bootstrap"):
        Scorer(bootstrap=5).update(z, y, by=y)
    for bad in (-1, 1.5, 2**63):
        with pytest.raises((ValueError, TypeError), match="bootstrap"):
            Scorer(bootstrap=bad)
    with pytest.raises(ValueError, match="seed"):
        Scorer(seed=-1)


def test_soft_targets_and_rows_of_infinite_loss():
    z, y = rows(400)
    soft = score(z, np.eye(5)[y], bootstrap=60).bootstrap.replicates
    hard = score(z, y, bootstrap=60).bootstrap.replicates
    assert "ece" not in soft
    for name in ("nll", "perplexity", "brier", "entropy", "confidence"):
        np.testing.assert_allclose(soft[name], hard[name], rtol=1e-6)

    z[17, y[17]] = -np.inf
    z[90] *= 1e9  # far above the others: its NLL goes to a higher level
    y[90] = z[90].argmin()
    card = score(z, y, bootstrap=60).bootstrap
    counts = reference.bootstrap_counts(0, np.arange(400), 60)
    assert ((card.replicates["nll"] == np.inf) == (counts[17] > 0)).all()
    assert math.isinf(card.figures["nll"].high)
    assert np.isfinite(card.replicates["ece"]).all()
    losses = -np.log(softmax(z.astype(float)).max(-1))
    some = np.flatnonzero((counts[17] == 0) & (counts[90] > 0))
    assert some.size > 5
    assert losses.shape == (400,)
    far = float(z[90].max()) - float(z[90].min())
    for b in some:
        assert card.replicates["nll"][b] == pytest.approx(far * counts[90, b] / counts[:, b].sum(), rel=1e-5)


def test_standard_errors_are_those_of_formulas():
    z, y = rows(20_000)
    card = score(z, y, bootstrap=2000)
    figures, n, tolerance = card.bootstrap.figures, card.n, 5 / math.sqrt(2 * 2000)
    assert figures["nll"].se == pytest.approx(card.nll_se, rel=tolerance)
    for name, p in (("accuracy", card.accuracy), ("top_5_accuracy", 1.0)):
        assert figures[name].se == pytest.approx(math.sqrt(p * (1 - p) / n), rel=tolerance)
    assert figures["perplexity"].se == pytest.approx(card.perplexity * card.nll_se, rel=tolerance)


def test_two_models_replicates_are_of_the_same_rows():
    z, y = rows(20_000)
    a, b = (score(model, y, bootstrap=500) for model in (z, 0.9 * z))
    losses = [reference.cross_entropy(model, y, reduction="none") for model in (z, (0.9 * z))]
    paired = float(np.std(losses[0] - losses[1])) / math.sqrt(len(y))
    difference = a.bootstrap.replicates["nll"] - b.bootstrap.replicates["nll"]
    assert difference.std() == pytest.approx(paired, rel=0.2)
    assert paired < 0.3 * a.nll_se


@pytest.mark.peers
def test_intervals_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    z, y = rows(300)
    card = score(z, y, bootstrap=20_000)
    nll = reference.cross_entropy(z, y, reduction="none").astype(float)
    hit = (z.argmax(-1) == y).astype(float)
    for name, some in (("nll", nll), ("accuracy", hit)):
        peer = stats.bootstrap(
            (some,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0), batch=2000
        )
        mine = card.bootstrap.figures[name]
        assert mine.se == pytest.approx(peer.standard_error, rel=0.04)
        # An end's Monte Carlo error: sqrt(0.025 0.975 / B) over the density there, 0.058 / se.
        close = 6 * math.sqrt(0.025 * 0.975 / 20_000) / 0.058 * mine.se
        assert mine.low == pytest.approx(peer.confidence_interval.low, abs=close)
        assert mine.high == pytest.approx(peer.confidence_interval.high, abs=close)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """400 samples of 500 rows from a known distribution: 95 % within three standard errors, ECE's true value known."""
    rng = np.random.default_rng(SEED)
    z = (2 * rng.normal(size=(400, 500, 4))).astype(np.float32)
    q = softmax(z / 2)  # the model is too confident, by a known amount
    y = (rng.random((400, 500, 1)) > np.cumsum(q, -1)[..., :-1]).sum(-1)
    many = (2 * rng.normal(size=(1_000_000, 4))).astype(np.float32)
    truth = (rng.random((1_000_000, 1)) > np.cumsum(softmax(many / 2), -1)[..., :-1]).sum(-1)
    population = score(many, truth)
    covered = {"nll": 0, "accuracy": 0, "brier": 0, "ece": 0}
    for one, labels in zip(z, y):
        figures = score(one, labels, bootstrap=1000).bootstrap.figures
        for name in covered:
            covered[name] += figures[name].low <= getattr(population, name) <= figures[name].high
    for name in ("nll", "accuracy", "brier"):
        assert abs(covered[name] / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400) + 0.01, covered
    assert covered["ece"] / 400 > 0.8, covered  # biased upwards at 33 rows a bin
