"""Every public function on the inputs of one file: a digest of each result, as JSON. Run as a program by test_bits.py.

python tests/bits_suite.py INPUTS.npz [--inspect]: the second looks through the kernels' code as well (assembly.py). The
inputs come from a file because NumPy's own exp and log, with which one would make them, depend on the instruction set.
"""

import hashlib
import json
import sys

import numpy as np

import fastxent
from fastxent.adapters import sklearn
from fastxent.arrays import as_array
from fastxent.kernels import batch
from fastxent.kernels import temperature as tempering
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_value
from fastxent.threads import limited

ONE_VALUE = ("mean", "sum")
KINDS = ("logits", "log_probs", "probs")


def digest(value):
    """The bits of an array, a float or a score card."""
    if hasattr(value, "to_dict"):
        content = json.dumps(value.to_dict(), sort_keys=True).encode()
    elif isinstance(value, np.ndarray):
        content = str((value.shape, value.dtype)).encode() + np.ascontiguousarray(value).tobytes()
    else:
        content = np.float64(value).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def brier_score(y, p, *, threads=None, **options):
    """scikit-learn's signature has no threads."""
    with limited(threads):
        return sklearn.brier_score_loss(y, p, **options)


def temperature_sums(z, y, threads=None):
    """Loss and derivatives in the inverse temperature at T = 0.7, rounded."""
    sums = np.zeros((tempering.N_SUMS, STATE_SIZE), np.int64)
    with limited(threads):
        stored = as_array(np.ascontiguousarray(z), "z")[0][None]
        batch.temperature_sums(stored, y, np.empty(0), False, 0, 0.7).run(sums=sums)
    return np.array([exact_sum_value(state) for state in sums])


def comparison(a, b, y, **options):
    """What a comparison's exact sums give; p-values are SciPy's."""
    result = fastxent.compare(a, b, y, invalid="count", by=y % 3, cluster=np.arange(len(y)) // 4, **options)
    pair = result.pair()
    tables = [x for table in (pair.classes, pair.by) for x in (table.n, table.difference, table.se, table.share)]
    numbers = [pair.nll.value, pair.nll.se, pair.accuracy.value, pair.accuracy.se, *pair.outcomes]
    return np.concatenate([*tables, numbers, [row.id for row in (*pair.decide_for_a, *pair.decide_for_b)]])


def gradient(logits, target, *, hessian=False, **options):
    """Gradients, and if wanted Hessians beside them, in one array of a row each."""
    _, *made = fastxent.cross_entropy_value_and_grad(logits, target, hessian=hessian, **options)
    return np.concatenate(made, axis=-1)


def binary_gradient(logits, target, **options):
    """Those of one number a row."""
    _, *made = fastxent.binary_cross_entropy_value_and_grad(logits, target, hessian=True, **options)
    return np.stack(made, axis=-1)


def linear(z, y, **options):
    """Losses, logsumexp and gradients by the identity as classifier: products that BLAS cannot round."""
    classifier = np.eye(z.shape[1], dtype=z.dtype)
    loss, lse, rank = fastxent.linear_cross_entropy(
        z, classifier, y, reduction="none", return_lse=True, return_rank=True, **options
    )
    _, made, _ = fastxent.linear_cross_entropy_value_and_grad(z, classifier, y, **options)
    return np.concatenate([loss, lse, rank, made.astype(np.float64).reshape(-1)])


def calls(case):
    """(name, function, arguments, options) of every call on one case: rows of one dtype and number of classes."""
    z, lp, p, y, t = (case[name] for name in ("logits", "log_probs", "probs", "labels", "target"))
    w, s = case["weight"], case["sample_weight"]
    weights = {"weight": w, "sample_weight": s}
    kept = case["labels, some ignored"]
    for reduction in ("none", *ONE_VALUE):
        r = {"reduction": reduction}
        yield f"cross_entropy, {reduction}", fastxent.cross_entropy, (z, y), r
        yield f"cross_entropy, soft, {reduction}", fastxent.cross_entropy, (z, t), r
        options = {"ignore_index": -100, "label_smoothing": 0.1, **weights, **r}
        yield f"cross_entropy, options, {reduction}", fastxent.cross_entropy, (z, kept), options
        yield f"nll, {reduction}", fastxent.nll, (lp, y), r
        yield f"log_loss, {reduction}", fastxent.log_loss, (p, y), r
        yield f"binary_cross_entropy, {reduction}", fastxent.binary_cross_entropy, (z[:, 0], p[:, 0]), r
        yield f"binary_log_loss, {reduction}", fastxent.binary_log_loss, (p[:, 0], p[:, -1]), r
    none = {"reduction": "none"}
    for temperature in (0.7, 3.1, 2.0**-10):
        options = {"temperature": temperature, **none}
        yield f"cross_entropy, T = {temperature}", fastxent.cross_entropy, (z, y), options
        yield f"cross_entropy, soft, T = {temperature}", fastxent.cross_entropy, (z, t), options
    yield "cross_entropy, soft, options", fastxent.cross_entropy, (z, t), {"label_smoothing": 0.3, **weights, **none}
    yield "nll, soft", fastxent.nll, (lp, t), {**weights, **none}
    yield "nll, options", fastxent.nll, (lp, kept), {"ignore_index": -100, **weights, **none}
    yield "log_loss, options", fastxent.log_loss, (p, y), {"eps": 1e-7, "normalize": True, **weights, **none}
    yield "log_loss, soft", fastxent.log_loss, (p, t), {"normalize": True, **none}
    yield "binary, pos_weight", fastxent.binary_cross_entropy, (z[:, 0], y % 2), {"pos_weight": 2.5, **none}
    yield "gradient", gradient, (z, y), none
    yield "gradient, options", gradient, (z, kept), {"ignore_index": -100, "hessian": True, **weights, **none}
    yield "gradient, T", gradient, (z, y), {"temperature": 0.7, "hessian": True, **none}
    yield "gradient, smoothing", gradient, (z, kept), {"ignore_index": -100, "label_smoothing": 0.1, **none}
    yield "gradient, soft", gradient, (z, t), {"hessian": True, **weights, **none}
    yield "gradient, mean", gradient, (z, kept), {"ignore_index": -100, **weights}
    yield "binary gradient", binary_gradient, (z[:, 0], y % 2), {"pos_weight": 2.5, **none}
    yield "logsumexp", fastxent.logsumexp, (z,), {}
    yield "logsumexp, T", fastxent.logsumexp, (z,), {"temperature": 3.1}
    yield "softmax", fastxent.softmax, (z,), {}
    yield "log_softmax", fastxent.log_softmax, (z,), {}
    yield "log_softmax, T", fastxent.log_softmax, (z,), {"temperature": 0.7}
    options = {"gamma": 2.5, "hessian": True, **weights, **none}
    yield "focal", fastxent.focal_loss, (z, y), {"gamma": 1.5, **weights, **none}
    yield "focal, Hessian", lambda *a, **o: fastxent.focal_loss_value_and_grad(*a, **o)[2], (z, y), options
    yield "brier score", brier_score, (y, p), {"labels": np.arange(p.shape[1]), "sample_weight": s}
    for kind, x in zip(KINDS, (z, lp, p)):
        yield f"entropy, {kind}", fastxent.entropy, (x,), {"kind": kind, **none}
        yield f"kl_divergence, {kind}", fastxent.kl_divergence, (x, np.roll(x, 1, axis=1)), {"kind": kind, **none}
    yield "entropy, mean", fastxent.entropy, (z,), {"kind": "logits"}
    yield "log_likelihood", fastxent.log_likelihood, (z, y), {}
    yield "perplexity", fastxent.perplexity, (case["mild"], y), {}
    yield "temperature", temperature_sums, (case["mild"], y), {}


def linear_calls(case):
    """The same for linear cross-entropy."""
    if case["mild"].shape[1] <= 257:
        yield "linear", linear, (case["mild"], case["labels"]), {}
        options = {"label_smoothing": 0.1, "temperature": 0.7, "softcap": 20.0, "weight": case["weight"]}
        yield "linear, options", linear, (case["mild"], case["labels"]), options


def score_calls(case):
    """The same for score cards."""
    for kind, x in zip(KINDS, (case["logits"], case["log_probs"], case["probs"])):
        options = {"kind": kind, "invalid": "count"}
        yield f"score, {kind}", fastxent.score, (x, case["labels"]), options
        yield f"score, {kind}, soft", fastxent.score, (x, case["target"]), options
    options = {"sample_weight": case["sample_weight"], "temperature": 0.7, "invalid": "count"}
    yield "score, weights", fastxent.score, (case["logits"], case["labels"]), options
    if case["mild"].shape[1] == 10:
        yield "score, bootstrap", fastxent.score, (case["mild"], case["labels"]), {"bootstrap": 40, "seed": 2**63}
        options |= {"bootstrap": 40}
        yield "score, bootstrap, weights", fastxent.score, (case["logits"], case["labels"]), options
    other = case["logits"][:, ::-1]
    yield "compare", comparison, (case["logits"], other, case["labels"]), {}
    options = {"sample_weight": case["sample_weight"], "temperature": (1.0, 0.7)}
    yield "compare, weights", comparison, (case["mild"], other, case["labels"]), options


def cases(path):
    """{(dtype, classes): case} from a file of arrays."""
    found = {}
    with np.load(path) as file:
        for key in file.files:
            dtype, c, name = key.split("/")
            found.setdefault((dtype, int(c)), {})[name] = file[key]
    return found


def digests(path):
    """{what was called: its digest} over the whole suite."""
    result = {}
    for (dtype, c), case in cases(path).items():
        every = [*calls(case), *linear_calls(case), *(score_calls(case) if c in (2, 10, 33, 257, 1000) else ())]
        for name, function, arguments, options in every:
            result[f"{dtype}, C = {c}: {name}"] = digest(function(*arguments, **options))
    return result


if __name__ == "__main__":
    import warnings

    from numba import get_num_threads, threading_layer
    from numba.core.registry import cpu_target

    warnings.simplefilter("ignore", RuntimeWarning)
    results = digests(sys.argv[1])
    codegen = cpu_target.target_context.codegen()
    about = {"cpu": codegen._get_host_cpu_name(), "features": codegen._get_host_cpu_features()}
    about |= {"threads": get_num_threads(), "layer": threading_layer()}
    about["all"] = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]
    found = {"about": about, "digests": results}
    if "--inspect" in sys.argv:
        from assembly import inspect_here

        found["kernels"] = inspect_here(machine_code=False)
    print(json.dumps(found))
