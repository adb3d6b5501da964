"""Calibration: the optimum and its derivatives against plain NumPy and SciPy, the bits, the passes, the messages."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

import fastxent
from fastxent.cli.main import main
from fastxent.fit import TemperatureScaling, VectorScaling
from fastxent.jobs.calibrate import calibrate_files
from fastxent.kernels import batch as kernels
from fastxent.kernels import temperature as tempering
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_value


def rows_of(temperature, n=3000, n_classes=10, seed=0, dtype=np.float64):
    """Logits that are calibrated when divided by a temperature, with their labels."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=(n, n_classes))
    return (x * temperature).astype(dtype), (x + rng.gumbel(size=x.shape)).argmax(axis=1)


def plain_sums(z, target, temperature, weight=1.0):
    """Loss and derivatives in 1/T, from the definitions: mean and variance of the logits under softmax(z / T)."""
    z = z.astype(np.longdouble)
    p = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    total = p.sum(axis=1)
    q = p / total[:, None]
    t = np.eye(z.shape[1])[target] if target.ndim == 1 else target
    loss = np.log(total) + (t * (z.max(axis=1, keepdims=True) - z)).sum(axis=1) / temperature
    mean = (q * z).sum(axis=1)
    second = (q * (z - mean[:, None]) ** 2).sum(axis=1)
    return [float((weight * x).sum()) for x in (loss, mean - (t * z).sum(axis=1), second)]


def kernel_sums(z, target, temperature, weight=None):
    sums = np.zeros((tempering.N_SUMS, STATE_SIZE), np.int64)
    s = np.empty(0) if weight is None else weight
    if target.ndim == 1:
        call = kernels.temperature_sums(z[None], target, s, False, 0, temperature)
    else:
        call = kernels.temperature_sums_soft(z[None], target[None], s, temperature)
    assert call.run(sums=sums) == (-1, 0)
    return [exact_sum_value(state) for state in sums]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.05, 30.0])
def test_one_pass_gives_loss_and_both_derivatives(dtype, tolerance, soft, temperature):
    rng = np.random.default_rng(1)
    for n_classes, scale, offset in ((2, 1, 0), (37, 5, 0), (1000, 3, 5), (50, 1e3, -1e5)):
        z = (offset + scale * rng.normal(size=(40, n_classes))).astype(dtype)
        target = rng.dirichlet(np.ones(n_classes), 40).astype(dtype) if soft else rng.integers(0, n_classes, 40)
        weight = rng.random(40)
        got, want = kernel_sums(z, target, temperature, weight), plain_sums(z, target, temperature, weight)
        spread = np.ptp(z.astype(float), axis=1).mean()
        assert got[0] == pytest.approx(want[0], rel=10 * tolerance)
        assert got[1] == pytest.approx(want[1], abs=tolerance * spread * 400)
        assert got[2] == pytest.approx(want[2], rel=100 * tolerance, abs=tolerance * spread)
        assert got[3] == pytest.approx(math.fsum(weight), rel=1e-15)


def test_second_derivative_does_not_cancel():
    z = np.array([[0.0, 1e-7, -1e-7]])  # the squares are 1e-14 of what a sum of z² + offset would carry
    assert kernel_sums(z + 1024, np.array([0]), 1.0)[2] == pytest.approx(2e-14 / 3, rel=1e-5)
    z = np.array([[0.0] + [-40.0] * 4])  # one class far above the others
    assert kernel_sums(z, np.array([0]), 1.0)[2] == pytest.approx(plain_sums(z, np.array([0]), 1.0)[2], rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.6, 1.0, 1.7, 4.0, 20.0])
def test_temperature_is_the_optimum_in_few_passes(temperature):
    z, y = rows_of(temperature)
    calibrator = TemperatureScaling().fit(z, y)
    best = minimize_scalar(
        lambda u: fastxent.cross_entropy(z, y, temperature=math.exp(u)),
        bracket=(math.log(temperature) - 0.5, math.log(temperature) + 0.5),
        options={"xtol": 1e-8},
    )
    assert calibrator.temperature_ == pytest.approx(math.exp(best.x), rel=1e-6)
    slope = plain_sums(z, y, calibrator.temperature_)[1]
    assert abs(slope) <= 1e-8 * plain_sums(z, y, calibrator.temperature_)[2] / calibrator.temperature_
    assert calibrator.n_passes_ <= 6
    assert calibrator.nll_ == pytest.approx(best.fun, rel=1e-8)


def test_standard_error_covers_the_truth():
    z_scores = []
    for seed in range(40):
        calibrator = TemperatureScaling().fit(*rows_of(1.5, n=500, seed=seed))
        z_scores.append((calibrator.temperature_ - 1.5) / calibrator.temperature_se_)
    assert 0.6 < np.std(z_scores) < 1.5
    assert abs(np.mean(z_scores)) < 0.6


def test_weights_ignored_rows_and_distributions():
    z, y = rows_of(1.7, n=400)
    counts = np.random.default_rng(2).integers(0, 4, 400)
    repeated = TemperatureScaling().fit(np.repeat(z, counts, axis=0), np.repeat(y, counts))
    assert TemperatureScaling().fit(z, y, counts).temperature_ == pytest.approx(repeated.temperature_, rel=1e-12)
    kept = np.where(np.arange(400) % 3 == 0, -100, y)
    spoilt = np.where((kept == -100)[:, None], np.nan, z)
    want = TemperatureScaling().fit(z[kept >= 0], y[kept >= 0])
    assert TemperatureScaling(ignore_index=-100).fit(spoilt, kept).temperature_ == want.temperature_
    one_hot = TemperatureScaling().fit(z, np.eye(10)[y])
    assert one_hot.temperature_ == pytest.approx(TemperatureScaling().fit(z, y).temperature_, rel=1e-12)


def test_same_bits_for_any_chunks_threads_and_layout():
    z, y = rows_of(1.7, n=9000, dtype=np.float32)
    want = TemperatureScaling(threads=1).fit(z, y).to_dict()
    for calibrator in (TemperatureScaling().fit(np.asfortranarray(z), y), TemperatureScaling(axis=0).fit(z.T, y)):
        assert calibrator.to_dict() == want
    for cuts in ([100, 5000], list(range(1, 9000, 1234))):
        chunks = list(zip(np.split(z, cuts), np.split(y, cuts)))
        calibrator = TemperatureScaling().fit_chunks(chunks)
        assert calibrator.to_dict() == want
        assert calibrator.evaluate_chunks(chunks).to_dict() == calibrator.evaluate(z, y).to_dict()


def test_before_and_after_are_the_score_cards_with_errors():
    z, y = rows_of(1.7, n=2000)
    calibrator = TemperatureScaling().fit(z, y)
    result = calibrator.evaluate(z, y)
    assert result.before == fastxent.score(z, y)
    assert result.after == fastxent.score(z, y, temperature=calibrator.temperature_)
    assert result.after.nll < result.before.nll
    assert result.ece[1].value < result.ece[0].value
    for k, temperature in enumerate((1.0, calibrator.temperature_)):
        q = fastxent.softmax(z, temperature=temperature)
        brier = ((q - np.eye(10)[y]) ** 2).sum(axis=1)
        assert result.brier[k].value == pytest.approx(brier.mean(), rel=1e-12)
        assert result.brier[k].se == pytest.approx(brier.std() / math.sqrt(2000), rel=1e-9)
        rng = np.random.default_rng(5)
        picks = [rng.integers(0, 2000, 2000) for _ in range(30)]
        spread = np.std([fastxent.score(z[i], y[i], temperature=temperature).ece for i in picks])
        assert result.ece[k].se == pytest.approx(spread, rel=0.6)  # a bootstrap's, whose bins' signs change too
    assert "calibration error" in str(result)
    json.dumps(result.to_dict(), allow_nan=False)
    weighted = calibrator.evaluate(z, y, np.full(2000, 2.0))
    assert weighted.brier[1].se == pytest.approx(result.brier[1].se, rel=1e-9)
    assert calibrator.evaluate(z, np.eye(10)[y]).ece is None


def test_a_bootstrap_gives_the_calibration_error_and_the_changes_intervals():
    z, y = rows_of(1.7, n=2000)
    calibrator = TemperatureScaling().fit(z, y)
    result = calibrator.evaluate(z, y, bootstrap=200, seed=3)
    for card, figure in ((result.before, result.ece[0]), (result.after, result.ece[1])):
        assert figure.interval == (card.bootstrap.figures["ece"].low, card.bootstrap.figures["ece"].high)
    for name in ("nll", "ece", "brier"):
        change = result.change[name]
        assert change.value == getattr(result.after, name) - getattr(result.before, name)
        assert change.low < change.value < change.high < 0
    apart = math.hypot(result.before.nll_se, result.after.nll_se)
    assert result.change["nll"].se < 0.9 * apart  # of the same rows
    json.dumps(result.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match="other rows"):
        result.before.bootstrap.difference(fastxent.score(z, y, bootstrap=200).bootstrap)


@pytest.mark.parametrize("soft", [False, True])
def test_kinds_of_predictions_are_calibrated_alike(soft):
    z, y = rows_of(1.7, n=900)
    target = np.eye(10)[y] if soft else y
    want = TemperatureScaling().fit(z, target)
    for kind, p in (("probs", fastxent.softmax(z)), ("log_probs", fastxent.log_softmax(z))):
        calibrator = TemperatureScaling(kind=kind).fit(p, target)
        assert calibrator.temperature_ == pytest.approx(want.temperature_, rel=1e-12)
        result, expected = (c.evaluate(x, target).after for c, x in ((calibrator, p), (want, z)))
        assert result.nll == pytest.approx(expected.nll, rel=1e-12)
        q = calibrator.apply(p)
        np.testing.assert_allclose(q if kind == "probs" else np.exp(q), want.predict_proba(z), rtol=1e-10)
        np.testing.assert_allclose(calibrator.predict_proba(p), want.predict_proba(z), rtol=1e-10)
        assert calibrator.apply(p.astype(np.float32)).dtype == np.float32
        vector = VectorScaling(kind=kind, penalty=1.0).fit(p, target)
        assert fastxent.log_loss(vector.predict_proba(p), target) < result.nll + 1e-3


def test_probabilities_that_are_none_are_refused():
    p, y = np.full((4, 2), 0.5), np.array([0, 1, 0, -1])
    p[3] = np.nan
    fitted = TemperatureScaling(kind="probs", ignore_index=-1)
    with pytest.raises(ValueError, match="all equal"):  # the ignored row is not read
        fitted.fit(p, y)
    p[2] = 0.7, 0.7
    with pytest.raises(ValueError, match="probs: row 2 sums to 1.4"):
        fitted.fit(p, y)
    with pytest.raises(ValueError, match="kind"):
        TemperatureScaling(kind="odds").fit(p, y)


def test_transform_and_probabilities():
    z, y = rows_of(1.7, n=200, dtype=np.float32)
    calibrator = TemperatureScaling().fit(z, y)
    assert calibrator.transform(z).dtype == np.float32
    np.testing.assert_allclose(calibrator.transform(z), z / calibrator.temperature_, rtol=1e-6)
    np.testing.assert_allclose(calibrator.predict_proba(z), fastxent.softmax(calibrator.apply(z)), rtol=1e-5)
    own = z.copy()
    assert calibrator.transform(own, out=own) is own
    assert calibrator.transform([range(10)]).dtype == np.float64


def test_saved_and_loaded(tmp_path):
    z, y = rows_of(1.7, n=200)
    calibrator = TemperatureScaling().fit(z, y)
    calibrator.save(tmp_path / "t.json")
    assert TemperatureScaling.load(tmp_path / "t.json").to_dict() == calibrator.to_dict()
    for content, words in (
        ("{", "not JSON"),
        ("[]", "schema None"),
        ('{"schema": "fastxent.temperature/1", "temperature": -1}', "not what TemperatureScaling saves"),
    ):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(ValueError, match=words):
            TemperatureScaling.load(tmp_path / "t.json")
    with pytest.raises(ValueError, match="call fit first"):
        TemperatureScaling().transform(z)


@pytest.mark.parametrize(
    ("logits", "target", "words"),
    [
        ([[1.0, 2.0], [3.0, 1.0]], [1, 0], "as T goes to 0"),
        ([[1e4, 2e4], [3e4, 1e4]], [1, 0], "as T goes to 0"),
        ([[1.0, 2.0], [3.0, 1.0]], [0, 1], "worse than chance"),
        ([[1.0, 1.0], [3.0, 3.0]], [0, 1], "all equal"),
        ([[1.0], [3.0]], [0, 0], "all equal"),
        ([[1.0, 2.0], [np.nan, 1.0]], [0, 1], "row 1 has a NaN"),
        ([[1.0, 2.0], [0.0, -np.inf]], [0, 1], "row 1: its label's logit is -inf"),
        ([[1.0, 2.0], [0.0, 1.0]], [0, 2], "row 1 is 2, outside 0..1"),
        (np.empty((0, 3)), np.empty(0, np.int64), "no row to fit"),
    ],
)
def test_degenerate_rows_are_explained(logits, target, words):
    with pytest.raises(ValueError, match=words):
        TemperatureScaling().fit(np.asarray(logits), np.asarray(target))


def test_chunks_must_start_again_and_agree():
    z, y = rows_of(1.7, n=20)
    with pytest.raises(TypeError, match="chunks: an iterator can be gone through once"):
        TemperatureScaling().fit_chunks(iter([(z, y)]))
    with pytest.raises(ValueError, match=r"9 classes, 10 in the chunks before \(rows counted from row 20\)"):
        TemperatureScaling().fit_chunks([(z, y), (z[:, :9], np.minimum(y, 8))])


def scaled_rows(n=4000, n_classes=5):
    """Logits that scales and biases calibrate, with their labels."""
    rng = np.random.default_rng(3)
    x = 2 * rng.normal(size=(n, n_classes))
    scale, bias = rng.uniform(0.5, 2, n_classes), rng.normal(size=n_classes)
    return (x - bias) / scale, (x + rng.gumbel(size=x.shape)).argmax(axis=1)


def test_vector_scaling_is_the_optimum():
    z, y = scaled_rows()
    weight = np.random.default_rng(4).random(len(y))

    def plain(parameters):
        a, b = np.split(parameters, 2)
        return plain_sums(z * a + b, y, 1.0, weight)[0] / weight.sum()

    start = np.repeat([1.0, 0.0], 5)
    best = minimize(plain, start, method="BFGS", options={"gtol": 1e-6})
    calibrator = VectorScaling(tol=1e-8).fit(z, y, weight)
    np.testing.assert_allclose(calibrator.scale_, best.x[:5], atol=1e-4)
    np.testing.assert_allclose(calibrator.bias_, best.x[5:] - best.x[5:].mean(), atol=1e-4)
    assert calibrator.nll_ == pytest.approx(best.fun, rel=1e-9)
    cuts = [7, 1000]
    chunks = list(zip(np.split(z, cuts), np.split(y, cuts), np.split(weight, cuts)))
    assert VectorScaling(tol=1e-8, threads=1).fit_chunks(chunks).to_dict() == calibrator.to_dict()
    soft = VectorScaling(tol=1e-8).fit(z.astype(np.float32), np.eye(5)[y], weight)
    np.testing.assert_allclose(soft.scale_, calibrator.scale_, rtol=1e-4)
    result = calibrator.evaluate(z, y)
    assert result.after == fastxent.score(z * calibrator.scale_ + calibrator.bias_, y)
    assert result.after.ece < TemperatureScaling().fit(z, y).evaluate(z, y).after.ece
    np.testing.assert_allclose(calibrator.predict_proba(z), fastxent.softmax(calibrator.transform(z)))


def test_vector_scaling_of_masked_and_absent_classes(tmp_path):
    z, y = scaled_rows(500)
    masked = np.where((np.arange(5) == 2) & (y != 2)[:, None] & (np.arange(500) % 3 == 0)[:, None], -np.inf, z)
    calibrator = VectorScaling(penalty=1.0).fit(masked, y)
    assert np.isfinite(calibrator.scale_).all()
    assert (np.isneginf(calibrator.transform(masked)) == np.isneginf(masked)).all()
    calibrator.save(tmp_path / "v.json")
    assert VectorScaling.load(tmp_path / "v.json").to_dict() == calibrator.to_dict()
    with pytest.raises(ValueError, match="4 classes; VectorScaling was fitted to 5"):
        calibrator.transform(z[:, :4])
    rare = np.where(y == 3, 0, y)
    with pytest.raises(ValueError, match="target: class 3 has no row"):
        VectorScaling().fit(z, rare)
    assert VectorScaling(penalty=1.0).fit(z, rare).bias_[3] < -1


def test_files_give_the_figures_of_arrays(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    z, y = rows_of(1.7, n=5000, dtype=np.float32)
    np.save("z.npy", z)
    np.save("y.npy", y)
    monkeypatch.setattr("fastxent.files.base.BLOCK_BYTES", 30_000)
    want = TemperatureScaling().fit(z, y)
    passes = []
    calibrator, result = calibrate_files("z.npy", "y.npy", tell=lambda what, *_: passes.append(what))
    assert calibrator.to_dict() == want.to_dict()
    assert result.to_dict() == want.evaluate(z, y).to_dict()
    assert len(set(passes)) == want.n_passes_ + 1 <= 8
    assert main(["calibrate", "z.npy", "y.npy", "--save", "t.json"]) == 0
    assert "after" in capsys.readouterr().out
    assert TemperatureScaling.load("t.json").temperature_ == want.temperature_
    assert main(["calibrate", "z.npy", "y.npy", "--json", "-"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["temperature"] == want.temperature_
    assert shown["after"]["nll"] == result.after.nll
    assert main(["calibrate", "z.npy", "y.npy", "--method", "vector", "--save", "v.json"]) == 0
    assert "biases" in capsys.readouterr().out
    loaded, whole = VectorScaling.load("v.json"), VectorScaling().fit(z, y)
    assert loaded.to_dict() == whole.to_dict()
    assert main(["calibrate", "z.npy"]) == 2
    assert "error: target" in capsys.readouterr().err


@pytest.mark.parametrize(
    "size", [["3000", "20"], pytest.param(["1000000", "1000"], marks=pytest.mark.slow)], ids=["small", "4 GB"]
)
def test_a_file_on_the_disk_is_calibrated_in_few_passes_and_little_memory(size, tmp_path):
    script = Path(__file__).parent.parent / "ci" / "out_of_core_calibration.py"
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *size, tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr  # at most 8 passes, and the temperature that was put in
    peak_mb = float(re.search(r"([\d,]+) MB of memory", done.stdout)[1].replace(",", ""))
    assert peak_mb < 1000
    assert not list(tmp_path.iterdir())


def test_a_saved_calibrator_is_applied_to_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    z, y = rows_of(1.7, n=3000, dtype=np.float32)
    p = fastxent.softmax(z)
    np.save("p.npy", p)
    np.save("y.npy", y)
    monkeypatch.setattr("fastxent.files.base.BLOCK_BYTES", 30_000)
    assert main(["calibrate", "p.npy", "y.npy", "--kind", "probs", "--save", "t.json", "--bootstrap", "50"]) == 0
    assert "95 %" in capsys.readouterr().out
    assert main(["calibrate", "p.npy", "--load", "t.json", "--apply", "q.npy"]) == 0
    assert "q.npy: 3,000 rows of probs, calibrated" in capsys.readouterr().out
    calibrator = TemperatureScaling.load("t.json")
    np.testing.assert_array_equal(np.load("q.npy"), calibrator.apply(p))
    assert main(["calibrate", "p.npy", "y.npy", "--load", "t.json", "--json", "-"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["after"]["nll"] == pytest.approx(fastxent.log_loss(np.load("q.npy"), y), rel=1e-6)
    for arguments, words in (
        (["p.npy", "--load", "t.json", "--kind", "logits"], "--kind: t.json calibrates probs"),
        (["p.npy", "--load", "y.npy"], "not JSON"),
        (["p.npy", "--load", "t.json", "--apply", "q.csv"], "--apply: q.csv does not end in .npy"),
    ):
        assert main(["calibrate", *arguments]) == 2
        assert words in capsys.readouterr().err
    np.save("bad.npy", np.full((50, 10), 0.2))
    assert main(["calibrate", "bad.npy", "--load", "t.json", "--apply", "q.npy"]) == 2
    assert "row 0 sums to 2" in capsys.readouterr().err
    assert np.load("q.npy").shape == (3000, 10)  # still that of before
    assert not list(tmp_path.glob(".q*"))


def test_columns_of_a_table_are_applied_without_its_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    z, y = rows_of(1.7, n=200, n_classes=3)
    lines = [",".join([*map(repr, map(float, row)), str(label)]) for row, label in zip(z, y)]
    (tmp_path / "z.csv").write_text("\n".join(["a,b,c,target", *lines]) + "\n")
    assert main(["calibrate", "z.csv", "--save", "t.json", "--apply", "q.npy"]) == 0
    np.testing.assert_allclose(np.load("q.npy"), TemperatureScaling.load("t.json").apply(z), rtol=1e-12)
