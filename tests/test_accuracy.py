"""Promise 3: for every finite input a relative error of at most 2^-21 (float32) or 2^-49 (float64), against mpmath.

Every test draws rows from rows.py and compares with reference.py; the table of the worst errors is printed at the end
of the run (bash ci/accuracy.sh prints it alone). --slow makes the sweeps fifty times longer.
"""

import math

import numpy as np
import pytest
import reference
from reference import EXACT, exact
from rows import FEW_CLASSES, TEMPERATURES, distributions, labels_worth_trying, some_families

import fastxent

DTYPES = [np.float32, np.float64]
pytestmark = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
SOME_CLASSES = (1, 2, 3, 8, 10, 17, 33, 65, 129)
CLASSES = (*SOME_CLASSES, 7, 15, 16, 31, 64, 100, 257, 1000, 4099)
EPSILONS = (0.0, 0.1, 1e-3, 1.0)


def name_of(dtype):
    return np.dtype(dtype).name


def hard_cases(c, dtype, rng):
    """(names, rows, labels): every family of rows with every label worth trying, one case a row."""
    cases = [(n, r, y) for n, r in some_families(c, dtype, rng).items() for y in labels_worth_trying(r, rng)]
    names, rows, labels = zip(*cases)
    return names, np.array(rows), np.array(labels)


def half_an_ulp(want, dtype):
    """Half the gap between neighbours of dtype at an exact value: what rounding an output to dtype may cost."""
    if EXACT.isnan(want) or EXACT.isinf(want):
        return 0
    with np.errstate(over="ignore"):
        at = dtype(float(want))
    return 0 if np.isinf(at) else exact(np.spacing(abs(at), dtype=dtype)) / 2


def short_and_long(test):
    """A sweep against long doubles, with ``slow`` for how long: the long one is among the slow tests."""
    test = pytest.mark.skipif(not reference.WIDE_IS_WIDER, reason="needs an 80-bit long double")(test)
    lengths = [False, pytest.param(True, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("slow", lengths, ids=["short", "long"])(test)


# ---- hard labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CLASSES)
def test_hard_nll_is_accurate_on_adversarial_rows(c, dtype, errors):
    rng = np.random.default_rng(c)
    names, rows, labels = hard_cases(c, dtype, rng)
    got = fastxent.cross_entropy(rows, labels, reduction="none")
    found = errors("cross_entropy, labels", name_of(dtype))
    wanted = {}
    for i, (name, y) in enumerate(zip(names, labels)):
        if name not in wanted:
            mine = [int(k) for k, other in zip(labels, names) if other == name]
            wanted[name] = dict(zip(mine, reference.exact_nlls(rows[i], mine)))
        found.add(got[i], wanted[name][int(y)], f"C = {c}, {name}, label {y}")
    found.verify()


@pytest.mark.parametrize("c", [1, 2, 3, 10, 33, 129])
def test_hard_nll_is_accurate_at_every_temperature(c, dtype, errors):
    rng = np.random.default_rng(c)
    names, rows, labels = hard_cases(c, dtype, rng)
    found = errors("cross_entropy, temperature", name_of(dtype))
    picks = np.arange(len(rows))
    for temperature in TEMPERATURES:
        some = picks if c <= 2 else rng.choice(picks, 40, replace=False)
        got = fastxent.cross_entropy(rows[some], labels[some], temperature=temperature, reduction="none")
        for i, value in zip(some, got):
            want = reference.exact_nll(rows[i], labels[i], temperature)
            found.add(value, want, f"C = {c}, T = {temperature:g}, {names[i]}, label {labels[i]}")
    found.verify()


@pytest.mark.parametrize("c", [50_257, 200_000])
def test_hard_nll_is_accurate_with_very_many_classes(c, dtype, errors):
    k = np.arange(c)
    rows = {f"equal {v:g}": np.full(c, v) for v in (0.0, 0.1, -0.7, 100.3, -87.3, 1e8, 1e-40)}
    rows |= {
        "a spike of 50": np.where(k == 7, 50.0, 0.1),
        "a spike of 110 at the end": np.where(k == c - 1, 110.0, 0.1),
        "three values": (k % 3) * 1.3,
        "nine values, far apart": (k % 9) * 11.7,
        "ascending steps of 40": k // (c // 8) * 40.0,
        "descending steps of 40": k // (c // 8) * -40.0,
        "half masked": np.where(k % 2 == 0, -np.inf, 3.3),
        "masked until the end": np.where(k < c - 5, -np.inf, 3.3),
        "low first": np.where(k < 100, -1e4, 0.3),
        "in the headroom": np.where(k == 0, 0.0, 80.0),
    }
    found = errors("cross_entropy, C to 200,000", name_of(dtype))
    for name, row in rows.items():
        z = row.astype(dtype)
        labels = sorted({0, 7, c // 2, c - 1})
        got = fastxent.cross_entropy(np.tile(z, (len(labels), 1)), labels, reduction="none")
        for y, value, want in zip(labels, got, reference.exact_nlls(z, labels)):
            found.add(value, want, f"C = {c}, {name}, label {y}")
    found.verify()


@short_and_long
def test_hard_nll_is_accurate_over_a_sweep_of_rows(slow, dtype, errors):
    """Very many rows against the wide oracle, which test_reference.py measures against mpmath."""
    rng = np.random.default_rng(11)
    found = errors("cross_entropy, sweep", name_of(dtype))
    n = 1_000_000 if slow else 20_000
    for c in (2, 3, 5, 10, 16, 33, 100):
        for temperature in (1.0, 0.7, 3.1):
            scale = np.exp(rng.uniform(-8, 5, n // c + 1))[:, None]
            z = (rng.standard_normal((len(scale), c)) * scale + rng.uniform(-300, 300, (len(scale), 1))).astype(dtype)
            y = rng.integers(0, c, len(z))
            confident = rng.random(len(z)) < 0.5
            z[confident, y[confident]] = z[confident].max(-1) + rng.uniform(0, 80, confident.sum()).astype(dtype)
            add_sweep(found, z, y, temperature, f"C = {c}, T = {temperature}")
    found.verify()


@short_and_long
def test_two_classes_are_accurate_at_every_distance(slow, dtype, errors):
    """z = (0, d): NLL is ln(1 + e^±d), so the sweep over d is one over exp's and log1p's arguments, their seams too."""
    rng = np.random.default_rng(12)
    n = 2_000_000 if slow else 40_000
    seams = (np.arange(-2160, 2160) / 2 * math.log(2)).astype(dtype)
    below, above = np.nextafter(seams, dtype(-np.inf)), np.nextafter(seams, dtype(np.inf))
    tiny = np.exp(rng.uniform(-90, 0, n)) * rng.choice([-1, 1], n)
    d = np.concatenate([rng.uniform(-800, 800, n), rng.uniform(-5, 5, n), tiny, seams, below, above]).astype(dtype)
    found = errors("cross_entropy, C = 2", name_of(dtype))
    z = np.stack([np.zeros_like(d), d], axis=1)
    for label in (0, 1):
        add_sweep(found, z, np.full(len(z), label), 1.0, f"label {label}")
    found.verify()


def add_sweep(found, z, y, temperature, what):
    """Add the worst row and the count of a sweep against the wide oracle, in NumPy."""
    got = fastxent.cross_entropy(z, y, temperature=temperature, reduction="none")
    want = reference.sharp_nll(z, y, temperature=temperature)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.maximum(abs(got - want) - 2.0**-1074, 0) / want
    error = np.where(np.isnan(error), np.where(got == want, 0, np.inf), error)
    for i in np.argsort(-error)[:5]:
        exact_value = reference.exact_nll(z[i], int(y[i]), temperature)
        found.add(got[i], exact_value, f"{what}, z = {z[i][:4].tolist()}, label {y[i]}")
    found.count(len(z) - 5)


# ---- soft targets, smoothing, weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("c", SOME_CLASSES)
def test_soft_targets_smoothing_and_weights_are_accurate(c, dtype, errors):
    rng = np.random.default_rng(100 + c)
    found = {kind: errors(f"cross_entropy, {kind}", name_of(dtype)) for kind in ("soft", "smoothing")}
    for name, row in some_families(c, dtype, rng).items():
        targets = distributions(c, rng)
        for what in rng.choice(list(targets), 3, replace=False):
            target = targets[what]
            if np.isneginf(row).any():  # or the loss is inf, which is no test
                target = np.where(np.isneginf(row), 0, target)
                target = target / target.sum() if target.sum() > 0 else (row == row.max()) / (row == row.max()).sum()
            target = target.astype(rng.choice([np.float32, np.float64]))
            weight = rng.random(c) if rng.random() < 0.5 else None
            temperature = float(rng.choice(TEMPERATURES)) if rng.random() < 0.3 else 1.0
            epsilon = float(rng.choice(EPSILONS))
            options = {"weight": weight, "temperature": temperature, "label_smoothing": epsilon}
            got = fastxent.cross_entropy(row[None], target[None], reduction="none", **options)[0]
            want = reference.exact_cross_entropy(row, target, **options)
            found["smoothing" if epsilon else "soft"].add(
                got,
                want,
                f"C = {c}, {name}, {what}, T = {temperature:g}, ε = {epsilon:g}, weights {weight is not None}",
            )
        y = int(rng.choice(labels_worth_trying(row, rng)))
        for epsilon in rng.choice(EPSILONS[1:], 2, replace=False).tolist():
            weight = rng.random(c) if rng.random() < 0.5 else None
            got = fastxent.cross_entropy(row[None], [y], weight=weight, label_smoothing=epsilon, reduction="none")[0]
            want = reference.exact_cross_entropy(row, y, weight, epsilon)
            found["smoothing"].add(got, want, f"C = {c}, {name}, label {y}, ε = {epsilon:g}")
    found["soft"].verify()
    found["smoothing"].verify()


@pytest.mark.parametrize("c", [1000, 1023, 50_257, 200_000])
def test_soft_targets_and_smoothing_are_accurate_with_many_classes(c, dtype, errors):
    rng, k = np.random.default_rng(c), np.arange(c)
    found = errors("cross_entropy, soft, C to 200,000", name_of(dtype))
    rows = {
        "equal": np.full(c, 0.1),
        "seven values": (k % 7) * 1.3 - 5,
        "a spike": np.where(k == c // 3, 60, 0.1),
        "ascending steps": k // (c // 8) * 40.0,
        "descending steps": k // (c // 8) * -40.0,
    }
    for name, row in rows.items():
        z = row.astype(dtype)
        uniform, peaked = np.full(c, 1 / c, dtype), np.where(k == c // 3, 1 - 1e-4, 1e-4 / (c - 1)).astype(dtype)
        for what, target in (("uniform", uniform), ("peaked", peaked)):
            got = fastxent.cross_entropy(z[None], target[None], reduction="none")[0]
            found.add(got, reference.exact_cross_entropy(z, target), f"C = {c}, {name}, {what}")
        y = int(rng.integers(c))
        got = fastxent.cross_entropy(z[None], [y], label_smoothing=0.1, reduction="none")[0]
        found.add(
            got, reference.exact_cross_entropy(z, y, label_smoothing=0.1), f"C = {c}, {name}, smoothing, label {y}"
        )
    found.verify()


@pytest.mark.parametrize("target_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 17, 130])
def test_soft_targets_are_accurate_at_the_limits_of_the_type(c, dtype, target_dtype, errors):
    """Distances beyond the type's range, targets below its normal numbers, and both beside nothing larger."""
    info, k = np.finfo(dtype), np.arange(c)
    least = np.finfo(target_dtype)
    largest, tiny = float(info.max), float(info.smallest_subnormal)
    largest *= 1.0 if dtype == np.float32 else 0.49  # in float64 the distance itself has to be finite
    found = errors("cross_entropy, soft, limits", name_of(dtype))
    rows = {
        "as far apart as can be": np.where(k == 1, largest, -largest),
        "far apart": np.where(k == 1, 0.0, -0.9 * largest),
        "masked": np.where(k == 1, 1.0, -np.inf),
        "near, and one far above": np.where(k == 1, 400.0, 0.1),
        "equal": np.zeros(c),
        "a hair apart": np.where(k == 1, tiny, 0.0),
        "out of sight": np.where(k == 1, 0.0, -(60.0 if dtype == np.float32 else 500.0)),
    }
    targets = {
        "one-hot": k == 1,
        "nearly": np.where(k == 1, 1.0, max(float(least.smallest_subnormal), 1e-300)),  # NLLs count from there on
        "nearly, one more": np.where(k == 1, 1.0, np.where(k == 0, max(float(least.tiny) / 8, 1e-300), 0.0)),
        "even": np.full(c, 1 / c),
    }
    for name, row in rows.items():
        for what, target in targets.items():
            if name == "masked" and what != "one-hot":
                continue
            z, t = row.astype(dtype), target.astype(target_dtype)
            for temperature in (1.0, 2.0**-10, 700.0):
                got = fastxent.cross_entropy(z[None], t[None], temperature=temperature, reduction="none")[0]
                want = reference.exact_cross_entropy(z, t, temperature=temperature)
                found.add(got, want, f"C = {c}, {name}, {what}, T = {temperature:g}")
    found.verify()


# ---- logsumexp, softmax, log_softmax --------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CLASSES)
def test_logsumexp_is_accurate_on_the_scale_of_the_maximum(c, dtype, errors):
    rng = np.random.default_rng(200 + c)
    found = errors("logsumexp / (|max| + ln C)", name_of(dtype))
    rows = some_families(c, dtype, rng)
    z = np.array(list(rows.values()))
    for temperature in (1.0, float(rng.choice(TEMPERATURES))):
        for name, row, got in zip(rows, z, fastxent.logsumexp(z, temperature=temperature)):
            scale = abs(exact(row.max())) / exact(temperature) + EXACT.log(c)
            want = reference.exact_logsumexp(row, temperature)
            found.add(got, want, f"C = {c}, {name}, T = {temperature:g}", scale=scale)
    found.verify()


@pytest.mark.parametrize("c", SOME_CLASSES)
def test_log_softmax_and_softmax_are_accurate_before_they_are_rounded(c, dtype, errors):
    rng = np.random.default_rng(300 + c)
    logs = errors("log_softmax", name_of(dtype))
    probs = errors("softmax / (1 + |ln q|)", name_of(dtype), promised=False)
    rows = some_families(c, dtype, rng)
    z = np.array(list(rows.values()))
    for temperature in (1.0, float(rng.choice(TEMPERATURES))):
        got_logs = fastxent.log_softmax(z, temperature=temperature)
        got_probs = fastxent.softmax(z, temperature=temperature)
        assert got_logs.dtype == got_probs.dtype == dtype
        for i, name in enumerate(rows):
            for k, want in enumerate(reference.exact_log_softmax(z[i], temperature)):
                where = f"C = {c}, {name}, class {k}, T = {temperature:g}"
                add_rounded(logs, got_logs[i, k], want, where, dtype)
                prob = EXACT.exp(want) if not EXACT.isinf(want) else EXACT.mpf(0)
                add_rounded(probs, got_probs[i, k], prob, where, dtype, prob * (1 - want) if prob else None)
    logs.verify()
    probs.verify()


def add_rounded(found, got, want, where, dtype, scale=None):
    """Add an output that was rounded to dtype, beyond its range too: there infinity is right."""
    largest = exact(np.finfo(dtype).max)
    if EXACT.isinf(want) or abs(want) > largest:
        found.add(got, want if EXACT.isinf(want) else want * EXACT.inf, where)
    elif not np.isinf(got) or abs(want) < largest * (1 - EXACT.mpf(2) ** -20):
        found.add(got, want, where, scale=scale, rounding=half_an_ulp(want, dtype))


# ---- entropy and divergence -----------------------------------------------------------------------------------------

# What rounding a probability below float64's normal range costs, times its logarithm: 2^-1075 * 750.
DENORMAL_TERM = EXACT.ldexp(375, -1074)


def as_kind(z, kind, dtype):
    """Logits as that kind of prediction, rounded to dtype; no longer exactly normalised, which entropy(kind) allows."""
    if kind == "logits":
        return z
    log_probs = np.array([[float(v) for v in reference.exact_log_softmax(row)] for row in z])
    with np.errstate(under="ignore", over="ignore"):
        return (log_probs if kind == "log_probs" else np.exp(log_probs)).astype(dtype)


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize("c", [*SOME_CLASSES, 1000])
def test_entropy_is_accurate(c, kind, dtype, errors):
    rng = np.random.default_rng(400 + c)
    rows = some_families(c, dtype, rng)
    p = as_kind(np.array(list(rows.values())), kind, dtype)
    found = errors(f"entropy, {kind}", name_of(dtype))
    for name, row, got in zip(rows, p, fastxent.entropy(p, kind=kind, reduction="none")):
        found.add(got, reference.exact_entropy(row, kind), f"C = {c}, {name}", rounding=c * DENORMAL_TERM)
    found.verify()


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize("c", [*SOME_CLASSES, 1000])
def test_kl_divergence_is_accurate_on_the_scale_of_its_terms(c, kind, dtype, errors):
    rng = np.random.default_rng(500 + c)
    found = errors(f"kl_divergence, {kind}", name_of(dtype))
    rows = some_families(c, dtype, rng)
    names = list(rows)
    z = np.array(list(rows.values()))
    partner = rng.permutation(len(z))
    partner = np.where(np.isneginf(z[partner]).any(-1), 3, partner)  # or the divergence is inf
    p, q = as_kind(z, kind, dtype), as_kind(z[partner], kind, dtype)
    for i, got in enumerate(fastxent.kl_divergence(p, q, kind=kind, reduction="none")):
        want, scale = reference.exact_kl_divergence(p[i], q[i], kind)
        where = f"C = {c}, {names[i]} from {names[partner[i]]}"
        found.add(got, want, where, scale=scale, rounding=c * DENORMAL_TERM)
    found.verify()


@pytest.mark.parametrize("kind", ["log_probs", "probs"])
@pytest.mark.parametrize("c", SOME_CLASSES)
def test_kl_divergence_of_near_distributions_is_accurate(c, kind, dtype, errors):
    rng = np.random.default_rng(600 + c)
    found = errors(f"kl_divergence, {kind}, near", name_of(dtype))
    z = rng.standard_normal((30, c)) * 3
    p = as_kind(z.astype(dtype), kind, dtype)
    nudge = 1 + np.sign(rng.standard_normal(p.shape)) * np.exp(rng.uniform(-16, -8, (30, 1)))
    q = np.minimum(p * nudge, 0 if kind == "log_probs" else 1).astype(dtype)
    for i, got in enumerate(fastxent.kl_divergence(p, q, kind=kind, reduction="none")):
        want, scale = reference.exact_kl_divergence(p[i], q[i], kind)
        found.add(got, want, f"C = {c}, row {i}", scale=scale)
    found.verify()
    assert not fastxent.kl_divergence(p, p, kind=kind, reduction="none").any()


# ---- probabilities and log-probabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize("c", [*SOME_CLASSES, 1000])
def test_nll_and_log_loss_are_accurate(c, dtype, errors):
    rng = np.random.default_rng(700 + c)
    names, z, labels = hard_cases(c, dtype, rng)
    some = rng.choice(len(z), min(len(z), 3000 // c + 20), replace=False)
    names, z, labels = [names[i] for i in some], z[some], labels[some]
    log_probs, p = as_kind(z, "log_probs", dtype), as_kind(z, "probs", dtype)
    found = errors("nll", name_of(dtype))
    for i, got in enumerate(fastxent.nll(log_probs, labels, reduction="none")):
        want = -exact(log_probs[i, labels[i]])
        found.add(got, want, f"C = {c}, {names[i]}, label {labels[i]}")
    found.verify()
    for eps in (0.0, 2.0**-50, float(np.finfo(dtype).eps), 0.01):
        found = errors("log_loss", name_of(dtype))
        for i, got in enumerate(fastxent.log_loss(p, labels, eps=eps, reduction="none")):
            want = reference.exact_log_loss(p[i], labels[i], eps=eps)
            found.add(got, want, f"C = {c}, {names[i]}, label {labels[i]}, eps = {eps:g}")
        found.verify()
        found = errors("log_loss, normalize", name_of(dtype))
        scaled = (p * rng.uniform(0.1, 1, (len(p), 1))).astype(dtype)
        for i, got in enumerate(fastxent.log_loss(scaled, labels, eps=eps, normalize=True, reduction="none")):
            want = reference.exact_log_loss(scaled[i], labels[i], eps=eps, normalize=True)
            found.add(got, want, f"C = {c}, {names[i]}, label {labels[i]}, eps = {eps:g}")
        found.verify()


@pytest.mark.parametrize("c", [2, 3, 10, 17, 65])
def test_soft_nll_and_log_loss_are_accurate(c, dtype, errors):
    rng = np.random.default_rng(800 + c)
    rows = {n: r for n, r in some_families(c, dtype, rng).items() if np.ptp(r.astype(np.float64)) < 80}
    z = np.array(list(rows.values()))
    log_probs, p = as_kind(z, "log_probs", dtype), as_kind(z, "probs", dtype)
    soft_nll, loss = errors("nll, soft", name_of(dtype)), errors("log_loss, soft", name_of(dtype))
    for what, target in distributions(c, rng).items():
        t, weight = np.tile(target.astype(dtype), (len(z), 1)), rng.random(c)
        got_nll = fastxent.nll(log_probs, t, weight=weight, reduction="none")
        got_loss = fastxent.log_loss(p, t, weight=weight, normalize=True, reduction="none")
        for i, name in enumerate(rows):
            want = EXACT.fsum(-exact(weight[k]) * exact(t[i, k]) * exact(log_probs[i, k]) for k in range(c))
            soft_nll.add(got_nll[i], want, f"C = {c}, {name}, {what}")
            want = reference.exact_log_loss(p[i], t[i], weight, normalize=True)
            loss.add(got_loss[i], want, f"C = {c}, {name}, {what}")
    soft_nll.verify()
    loss.verify()


def test_log_loss_near_certainty(dtype, errors):
    """p = 1 - k ulp, where 1 - p is a handful of bits and a rounded logarithm would return noise."""
    found = errors("log_loss, p near 1", name_of(dtype))
    ulp = float(np.finfo(dtype).epsneg)
    p = (1 - ulp * np.concatenate([np.arange(60), 2.0 ** np.arange(5, 20)])).astype(dtype)
    probs = np.stack([p, 1 - p], axis=1).astype(dtype)
    for name, normalize in (("", False), (", normalised", True)):
        for i, got in enumerate(fastxent.log_loss(probs, np.zeros(len(p), int), normalize=normalize, reduction="none")):
            found.add(got, reference.exact_log_loss(probs[i], 0, normalize=normalize), f"p = {p[i]!r}{name}")
    tiny = np.geomspace(float(np.finfo(dtype).smallest_subnormal), 0.1, 60).astype(dtype)
    probs = np.stack([np.ones_like(tiny), tiny], axis=1)  # confident once normalised
    for i, got in enumerate(fastxent.log_loss(probs, np.zeros(60, int), normalize=True, reduction="none")):
        found.add(got, reference.exact_log_loss(probs[i], 0, normalize=True), f"1 against {tiny[i]!r}, normalised")
    found.verify()


# ---- one number a row -----------------------------------------------------------------------------------------------


def test_binary_cross_entropy_is_accurate(dtype, errors):
    rng = np.random.default_rng(900)
    info = np.finfo(dtype)
    edges = [
        0.0,
        1e-45,
        1e-30,
        1e-8,
        0.5,
        1.0,
        17.3,
        36.7,
        87.3,
        88.8,
        92.1,
        103.9,
        690.8,
        708.4,
        745.2,
        1e4,
        1e8,
        1e30,
    ]
    z = np.array([*edges, *(-np.array(edges)), float(info.max), -float(info.max), float(info.tiny)])
    z = np.concatenate([z, rng.standard_normal(300) * np.exp(rng.uniform(-30, 8, 300))]).astype(dtype)
    found = errors("binary_cross_entropy", name_of(dtype))
    for target in (0.0, 1.0, 0.3, 1e-30, 1 - float(info.epsneg), None):
        t = (rng.random(len(z)) if target is None else np.full(len(z), target)).astype(dtype)
        for w in (None, 3.7):
            for i, got in enumerate(fastxent.binary_cross_entropy(z, t, pos_weight=w, reduction="none")):
                want = reference.exact_binary_cross_entropy(z[i], t[i], 1.0 if w is None else w)
                found.add(got, want, f"z = {z[i]!r}, t = {t[i]!r}, pos_weight {w}")
    found.verify()


def test_binary_log_loss_is_accurate(dtype, errors):
    rng = np.random.default_rng(901)
    info = np.finfo(dtype)
    ulp, least = float(info.epsneg), float(info.smallest_subnormal)
    p = np.concatenate([np.geomspace(least, 1, 80), 1 - ulp * np.arange(1, 20), rng.random(200), [0.0, 1.0]]).astype(
        dtype
    )
    found = errors("binary_log_loss", name_of(dtype))
    for target in (0.0, 1.0, 0.3, 1e-30, 1 - ulp, None):
        t = (rng.random(len(p)) if target is None else np.full(len(p), target)).astype(dtype)
        for eps in (0.0, 2.0**-50, ulp, 0.01):
            for w in (1.0, 2.9):
                for i, got in enumerate(fastxent.binary_log_loss(p, t, eps=eps, pos_weight=w, reduction="none")):
                    want = reference.exact_binary_log_loss(p[i], t[i], w, eps)
                    found.add(got, want, f"p = {p[i]!r}, t = {t[i]!r}, eps = {eps:g}, pos_weight {w}")
    for eps in (1e-300, 1e-50, 1e-44, 1e-38):  # clips from below alone
        got = fastxent.binary_log_loss(np.zeros(2, dtype), np.array([0, 1], dtype), eps=eps, reduction="none")
        for t in (0, 1):
            found.add(got[t], reference.exact_binary_log_loss(0.0, t, 1.0, eps), f"p = 0, t = {t}, eps = {eps}")
    found.verify()


@short_and_long
def test_binary_losses_are_accurate_over_a_sweep(slow, dtype, errors):
    """Very many numbers, targets of either dtype, against long doubles."""
    rng = np.random.default_rng(902)
    n = 10_000_000 if slow else 200_000
    z = (rng.standard_normal(n) * np.exp(rng.uniform(-20, 5, n))).astype(dtype)
    p = rng.random(n).astype(dtype)
    p[: n // 3] = np.exp2(rng.uniform(-120, 0, n // 3))
    p[n // 3 : n // 2] = 1 - np.exp2(rng.uniform(-24, 0, n // 2 - n // 3))
    p = np.clip(p, np.finfo(dtype).tiny, 1 - np.finfo(dtype).epsneg)
    hard = rng.integers(0, 2, n)
    soft = np.where(rng.random(n) < 0.5, rng.random(n), np.exp2(rng.uniform(-90, 0, n)))
    wide = np.longdouble
    for name, target in (("labels", hard.astype(dtype)), ("float32", soft.astype(np.float32)), ("float64", soft)):
        t, zw, pw = target.astype(wide), z.astype(wide), p.astype(wide)
        for w in (1.0, 3.7):
            rest = np.log1p(np.exp(-np.abs(zw)))
            want = w * t * (np.maximum(-zw, 0) + rest) + (1 - t) * (np.maximum(zw, 0) + rest)
            got = fastxent.binary_cross_entropy(z, target, pos_weight=w, reduction="none")
            add_worst(errors("binary_cross_entropy, sweep", name_of(dtype)), got, want, z, (name, w))
            want = -w * t * np.log(pw) - (1 - t) * np.log1p(-pw)
            got = fastxent.binary_log_loss(p, target, pos_weight=w, reduction="none")
            add_worst(errors("binary_log_loss, sweep", name_of(dtype)), got, want, p, (name, w))


def add_worst(found, got, want, x, about):
    """Count a sweep and add its worst value."""
    i = int(np.argmax(np.abs(got - want) / np.abs(want)))
    found.count(len(got) - 1)
    found.add(got[i], exact(want[i]), f"{x[i]!r}, target, pos_weight: {about}")
    found.verify()


# ---- means ----------------------------------------------------------------------------------------------------------


def test_perplexity_is_accurate(dtype, errors):
    """Absolutely in its logarithm, as exp is: the error of the mean NLL is all there is, and an ulp."""
    rng = np.random.default_rng(902)
    found = errors("perplexity / (1 + mean NLL)", name_of(dtype), promised=False)
    for c in (2, 10, 100):
        z, y = (3 * rng.standard_normal((20, c))).astype(dtype), rng.integers(0, c, 20)
        mean = EXACT.fsum(reference.exact_nll(row, k) for row, k in zip(z, y)) / 20
        want = EXACT.exp(mean)
        found.add(fastxent.perplexity(z, y), want, f"C = {c}", scale=want * (1 + mean))
    found.verify()


def test_float16_and_bfloat16_are_widened_exactly(dtype):
    """Their results are those of the float32 rows of the same values, bit for bit (dtype: which of the two)."""
    half = np.float16 if dtype is np.float32 else pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(903)
    for c in FEW_CLASSES:
        z = (rng.standard_normal((9, c)) * 8).astype(half)
        wide, y = z.astype(np.float32), rng.integers(0, c, 9)
        for function in (fastxent.cross_entropy, fastxent.log_likelihood, fastxent.perplexity):
            assert function(z, y) == function(wide, y)
        assert fastxent.logsumexp(z).tobytes() == fastxent.logsumexp(wide).tobytes()
        assert fastxent.log_softmax(z).tobytes() == fastxent.log_softmax(wide).astype(half).tobytes()
