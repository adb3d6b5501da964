"""Everything that reads or writes arrays, on guarded memory (guarded.py): JSON about what ran. A program of its own.

python tests/guarded_suite.py GRID [--stack] [--plain] [DTYPE ...]: GRID is "tiny", "small" or "full"; --stack guards
the kernels' own arrays too, for which all of them are compiled anew; --plain guards nothing, for a tool that watches,
such as valgrind. What is being called is in the file that GUARDED_LOG names.
"""

import ctypes
import faulthandler
import hashlib
import importlib
import itertools
import json
import os
import pkgutil
import signal
import sys
import warnings

import bits_suite
import guarded
import numpy as np

import fastxent
import fastxent.kernels
from fastxent.adapters import sklearn
from fastxent.fit import SoftmaxRegression, TemperatureScaling, VectorScaling
from fastxent.focal import binary_focal_loss_value_and_grad
from fastxent.kernels import batch, exactsum, groups, jit, pairs, public

LABEL_TYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def sizes(grid):
    """(rows, classes): every number of each within the widths of vectors and tiles, and about the blocks' limits."""
    if grid in ("tiny", "small"):
        return [(17, 10), (6, 3), (1, 33), (1, 1), (6, 65), (18, 100), (257, 4)][: 2 if grid == "tiny" else None]
    every = [(n, c) for c in range(1, 71) for n in (1 + 5 * c % 16, 17)]
    every += [(n, c) for n in range(1, 34) for c in (1, 3, 10, 65)]
    every += [(n, c) for n in (1, 18) for c in (127, 128, 129, 255, 256, 257, 513, 1000, 1023, 1024, 1025, 4099)]
    every += [(n, c) for n in (255, 256, 257, 511, 513, 1023, 1024, 1025) for c in (1, 10)]
    return [*every, (3, 70_001), (40, 9001), (20_000, 3), (5000, 70), (150_000, 2)]


def make_case(n, c, dtype, rng):
    """Rows with the names that bits_suite's calls want. Probabilities are multiples of 1/128, exact in any dtype."""
    logits = 4 * rng.standard_normal((n, c))
    logits[rng.random((n, c)) < 0.02] = -np.inf
    logits[rng.random((n, c)) < 0.002] = np.nan
    probs = rng.multinomial(128, np.full(c, 1 / c), n) / 128
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs)
    labels = rng.integers(0, c, n)
    return {
        "logits": logits.astype(dtype),
        "mild": rng.standard_normal((n, c)).astype(dtype),
        "log_probs": log_probs.astype(dtype),
        "probs": probs.astype(dtype),
        "labels": labels,
        "labels, some ignored": np.where(rng.random(n) < 0.3, -100, labels),
        "target": probs[::-1].astype(dtype),
        "weight": rng.random(c),
        "sample_weight": rng.random(n),
    }


def layouts(x):
    """Equal arrays (n, c) whose first and last element are at an end of their memory, with the class axis's place."""
    n, c = x.shape
    yield "contiguous", x.copy(), -1
    yield "Fortran", np.asfortranarray(x), -1
    yield "classes first", np.ascontiguousarray(x.T), 0
    wide = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)
    yield "apart", np.ascontiguousarray(wide[1:, 2:])[::2, ::3], -1
    yield "reversed", x[::-1, ::-1].copy()[::-1, ::-1], -1
    for name, columns in (("right of others", slice(3, None)), ("left of others", slice(None, c))):
        room = np.zeros((n, c + 3), x.dtype)
        room[:, columns] = x
        yield name, room[:, columns], -1
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:].view(x.dtype).reshape(n, c)[:] = x
    yield "unaligned", raw[1:].view(x.dtype).reshape(n, c), -1
    if n % 2 == 0:
        yield "three axes", np.ascontiguousarray(x.reshape(2, n // 2, c).transpose(1, 2, 0)).transpose(2, 0, 1), -1


def layout_calls(case):
    """Inputs and outputs of any layout, in place, labels of any width."""
    y, none = case["labels"], {"reduction": "none"}
    n, c = case["logits"].shape
    for kind in ("logits", "log_probs", "probs"):
        for name, x, axis in layouts(case[kind]):
            leading = np.moveaxis(x, axis, -1).shape[:-1]
            (
                t,
                _,
            ) = next((array, a) for other, array, a in layouts(case["target"]) if other == name)
            labels, o = y.reshape(leading), {"axis": axis, "reduction": "none"}
            out = np.empty(leading)
            if kind == "logits":
                yield f"cross_entropy, {name}", fastxent.cross_entropy, (x, labels), {**o, "out": out}
                yield f"cross_entropy, soft, {name}", fastxent.cross_entropy, (x, t), o
                yield f"logsumexp, {name}", fastxent.logsumexp, (x,), {"axis": axis, "out": out}
                for f in (fastxent.softmax, fastxent.log_softmax):
                    yield f"{f.__name__}, {name}", f, (x,), {"axis": axis}
                    yield f"{f.__name__}, in place, {name}", in_place(f), (x,), {"axis": axis}
                o = {"axis": axis, "hessian": True, "sample_weight": case["sample_weight"].reshape(leading)}
                yield f"gradient, {name}", gradients, (x, labels), o
                yield f"gradient, soft, {name}", gradients, (x, t), o
                yield f"gradient, in place, {name}", in_place(gradients), (x, labels), {"axis": axis}
            elif kind == "log_probs":
                yield f"nll, {name}", fastxent.nll, (x, labels), o
                yield f"nll, soft, {name}", fastxent.nll, (x, t), o
            else:
                yield f"log_loss, {name}", fastxent.log_loss, (x, labels), o
                yield f"log_loss, soft, {name}", fastxent.log_loss, (x, t), o
                yield f"entropy, {name}", fastxent.entropy, (x,), {**o, "out": out}
                yield f"kl_divergence, {name}", fastxent.kl_divergence, (x, x), o
            if name in ("Fortran", "apart"):
                options = {"kind": kind, "axis": axis, "invalid": "count"}
                yield f"score, {kind}, {name}", fastxent.score, (x, labels), options
                yield f"score, soft, {kind}, {name}", fastxent.score, (x, t), options
    for kind in LABEL_TYPES:
        if c - 1 <= np.iinfo(kind).max:
            yield f"labels {kind}", fastxent.cross_entropy, (case["mild"], y.astype(kind)), none
            yield f"score, labels {kind}", fastxent.score, (case["mild"], y.astype(kind)), {}
            yield f"gradient, labels {kind}", gradients, (case["mild"], y.astype(kind)), {}
    column = np.ascontiguousarray(case["mild"][:, 0])
    for kind in (*LABEL_TYPES, "?", "f4", "f8"):
        yield f"binary, target {kind}", fastxent.binary_cross_entropy, (column, (y % 2).astype(kind)), none
        yield f"binary gradient, target {kind}", bits_suite.binary_gradient, (column, (y % 2).astype(kind)), none
    for name, x, _ in layouts(case["mild"]):
        yield (
            f"binary, {name}",
            fastxent.binary_cross_entropy,
            (x, x > 0),
            {"reduction": "none", "out": np.empty(x.shape)},
        )
        yield f"binary gradient, {name}", bits_suite.binary_gradient, (x, x > 0), none
    for name, x, _ in layouts(case["probs"]):
        yield f"binary_log_loss, {name}", fastxent.binary_log_loss, (x, x), none
    options = {"reduction": "none", "grad_scale": case["sample_weight"], "hessian": True}
    yield "gradient, scale of each row", gradients, (case["mild"], y), options
    ids = np.arange(n)[::-1].copy()
    for by in (y % 5, np.array([f"group {k % 3}" for k in range(n)])) if c <= 1025 else ():
        options = {"by": by, "ids": ids, "sample_weight": case["sample_weight"]}
        yield f"groups, {by.dtype.kind}", groups_of, (case["mild"], y), options
        yield f"groups, soft, {by.dtype.kind}", groups_of, (case["mild"], case["target"]), {"by": by}


def in_place(function):
    def call(x, *rest, **options):
        room = x.copy(order="K")
        return function(room, *rest, out=room, **options)

    return call


def gradients(*arguments, **options):
    """What cross_entropy_value_and_grad returns, in one array."""
    return np.concatenate([np.ravel(part) for part in fastxent.cross_entropy_value_and_grad(*arguments, **options)])


def groups_of(x, target, bootstrap=0, **options):
    """Score cards of two halves with groups, merged, saved and loaded."""
    half = len(x) // 2
    parts = []
    for rows in (slice(0, half), slice(half, None)):
        given = {key: value[rows] for key, value in options.items()}
        made = fastxent.Scorer(bootstrap=bootstrap)
        parts.append(made.update(x[rows], target[rows], start=rows.start, **given))
    merged = fastxent.Scorer()
    merged.__setstate__(parts[0].merge(parts[1]).__getstate__())
    return merged.result()


def compare_calls(case):
    """Comparisons of any layout, labels of any width, groups and clusters, in parts; replicates; labels by name."""
    x, y, s = case["mild"], case["labels"], case["sample_weight"]
    n, c = x.shape
    ids, names = np.arange(n)[::-1].copy(), np.sort([f"{'class ' * (1 + k % 3)}{k}" for k in range(c)])
    others = {name: array for name, array, _ in layouts(x[:, ::-1])}
    for name, a, axis in layouts(x):
        leading = np.moveaxis(a, axis, -1).shape[:-1]
        options = {"axis": axis, "worst": 3, "ids": ids.reshape(leading)}
        yield f"compare, {name}", fastxent.compare, (a, others[name], y.reshape(leading)), options
    other = others["contiguous"]
    for kind in ("log_probs", "probs"):
        options = {"kind": kind, "ignore_index": -100}
        yield (
            f"compare, {kind}",
            fastxent.compare,
            (case[kind], case[kind][::-1].copy(), case["labels, some ignored"]),
            options,
        )
    for kind in LABEL_TYPES[:: 1 if c == 10 else 7]:
        yield f"compare, labels {kind}", fastxent.compare, (x, other, (y % 128).astype(kind)), {}
    for by in (y % 5, names[y]):
        options = {"by": by, "cluster": by[::-1].copy(), "ids": ids, "sample_weight": s}
        yield f"compare, in parts, {by.dtype.kind}", compared, (x, other, x[::-1].copy(), y), options
        yield f"compare, in parts, soft, {by.dtype.kind}", compared, (x, other, case["target"]), {"by": by}
    for replicates in (1, 17, 65):
        options = {"bootstrap": replicates, "sample_weight": s}
        yield f"bootstrap {replicates}", groups_of, (x, y), {"bootstrap": replicates}
        yield f"bootstrap {replicates}, soft, weights", fastxent.score, (x, case["target"]), options
    if c > 1:
        probs = case["probs"].astype(np.float64)
        for labels in (names[y], names[y].astype("S"), np.eye(c)[y], np.eye(c, dtype=np.int64)[y]):
            options = {"labels": names.astype(labels.dtype) if labels.ndim == 1 else np.arange(c)}
            yield f"names, {labels.dtype.str}", sklearn.log_loss, (labels, probs), options


def compared(*given, **options):
    """The comparison of two halves, merged."""
    half = len(given[0]) // 2
    parts = []
    for rows in (slice(half, None), slice(0, half)):
        some = {key: value[rows] for key, value in options.items()}
        comparer = fastxent.Comparer(len(given) - 1, worst=3)
        parts.append(comparer.update(*(x[rows] for x in given), start=rows.start, **some))
    return parts[0].merge(parts[1]).result()


def linear_calls(case):
    """Linear cross-entropy with every option, of inputs apart too."""
    h, y = case["mild"][:, : 1 + case["mild"].shape[1] // 2], case["labels"]
    c = case["mild"].shape[1]
    w = np.linspace(-1, 1, c * h.shape[1]).reshape(c, -1).astype(h.dtype)
    options = {"linear_bias": case["weight"], "weight": case["weight"], "sample_weight": case["sample_weight"]}
    more = {"ignore_index": -100, "label_smoothing": 0.1, "temperature": 0.7, "softcap": 20.0}
    kept = case["labels, some ignored"]
    for name, a, b in (("", h.copy(), w), (", apart", h, np.asfortranarray(w))):
        yield f"linear{name}", fastxent.linear_cross_entropy, (a, b, y), {"reduction": "none"}
        yield f"linear, options{name}", fastxent.linear_cross_entropy, (a, b, kept), options | more
        yield f"linear gradient{name}", linear_gradients, (a, b, y), {}
        yield f"linear gradient, options{name}", linear_gradients, (a, b, kept), options | more


def linear_gradients(*arguments, **options):
    parts = fastxent.linear_cross_entropy_value_and_grad(*arguments, **options)
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def other_calls(case):
    """Rows for users' compiled code, exact sums, focal losses of one number a row, fits."""
    z, y, s = case["mild"], case["labels"], case["sample_weight"]
    n, c = z.shape
    yield "row kernels", row_kernels, (z[:2], y), {}
    yield "exact sums", sums_of, (s,), {}
    options = {"hessian": True, "reduction": "none", "sample_weight": s, "pos_weight": 2.0}
    yield "binary focal", lambda *a, **o: np.stack(binary_focal_loss_value_and_grad(*a, **o)), (z[:, 0], y % 2), options
    yield "class weights", lambda y, s: sums_by_class(y, s, c), (y, s), {}
    if 2 <= c <= 10 and n >= 17 and len(set(y.tolist())) == c:
        own = np.eye(c)[y]
        soft, x = 0.5 * own + 0.5 / c, (z + own).astype(z.dtype)  # better than chance, and not certain
        for model, target in ((TemperatureScaling, y), (TemperatureScaling, soft), (VectorScaling, y)):
            yield f"{model.__name__}, {target.dtype}", fitted(model()), (x, target), {}
        yield "SoftmaxRegression", fitted(SoftmaxRegression()), (x.astype(np.float64), y), {}


def sums_by_class(y, s, n_classes):
    sums = np.zeros((n_classes, exactsum.STATE_SIZE), np.int64)
    batch.class_weights(y, s, n_classes).run(sums=sums)
    return sums


def fitted(model):
    return lambda x, target: model.fit(x, target).predict_proba(x)


def row_kernels(z, y):
    if z.dtype.itemsize == 2:
        z = z.view(np.uint16 if z.dtype == np.float16 else np.int16)
    found = []
    for row, label in zip(z, y):
        row, out = row.copy(), np.empty_like(row)
        found += [public.row_logsumexp(row), public.row_cross_entropy(row, label)]
        public.row_softmax(row, out)
        found += out.astype(np.float64).tolist()
        found.append(public.row_gradient(row, label, 0.5, out))
        found += out.astype(np.float64).tolist()
    return np.array(found)


def sums_of(values):
    """Every exact sum that Python code can reach."""
    state, other = exactsum.exact_sum_new(), exactsum.exact_sum_new()
    exactsum.exact_sum_add(state, 0.1)
    exactsum.exact_sum_add_block(other, values, values.size)
    exactsum.exact_sum_merge(state, other)
    compact = np.zeros(exactsum.COMPACT_SIZE, np.int64)
    groups.weigh_counts(compact[None], 0, np.ones(1, np.int64))
    exactsum.compact_sum_into(state, compact)
    return exactsum.exact_sum_value(state)


def kernels_run():
    """How many compiled functions there are, and the names of those that were not called."""
    for module in pkgutil.iter_modules(fastxent.kernels.__path__):
        importlib.import_module(f"fastxent.kernels.{module.name}")
    return len(jit.REGISTER), sorted(name for name, entry in jit.REGISTER.items() if not entry.overloads)


def alarms(made):
    """Out of how many attempts to read a byte outside of an array, and how many of them ended the process."""
    made.side = "after"
    ends = [array.ctypes.data + array.nbytes for array in kept_arrays()]
    made.side = "before"
    starts = [array.ctypes.data - 1 for array in kept_arrays()]
    addresses = [*ends, *starts, np.zeros(3).ctypes.data]  # the last one is freed
    ended = 0
    for address in addresses:
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            ctypes.string_at(address, 1)
            os._exit(0)
        ended += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
    return len(addresses), ended


def kept_arrays():
    """An array of NumPy's and one of compiled code's."""
    _kept.extend([np.zeros(3), exactsum.exact_sum_new()])
    return _kept[-2:]


_kept = []


def run(made, side, grid, dtypes, log):
    """Every call on every case, with the arrays on one side of their memory. Returns how many, and a digest of all."""
    made.side = side
    rng, digest, calls = np.random.default_rng(0), hashlib.sha256(), 0
    for dtype in dtypes:
        kind = importlib.import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        for n, c in sizes(grid):
            case = make_case(n, c, kind, rng)
            every = [bits_suite.calls(case), bits_suite.score_calls(case), layout_calls(case), other_calls(case)]
            if c <= 1025 and n <= 1025:
                every += [linear_calls(case), compare_calls(case)]
            for name, function, arguments, keywords in itertools.chain(*every):
                os.pwrite(log, f"{side}, {dtype}, {n} x {c}: {name}".ljust(200).encode(), 0)
                digest.update(bits_suite.digest(function(*arguments, **keywords)).encode())
                calls += 1
    pairs.compact_pairs(*np.zeros((3, 6), np.int64), 1)
    return calls, digest.hexdigest()


def main(grid, *options):
    plain = "--plain" in options
    made = guarded.Guard() if plain else guarded.guard()
    log = os.open(os.environ.get("GUARDED_LOG", os.devnull), os.O_WRONLY | os.O_CREAT)
    tried, ended = (0, 0) if plain else alarms(made)
    if "--stack" in options:
        guarded.guard_stack(made)
    dtypes = [option for option in options if not option.startswith("--")] or DTYPES
    results = {side: run(made, side, grid, dtypes, log) for side in guarded.SIDES[: 1 if plain else 2]}
    n_kernels, unused = kernels_run()
    about = {"arrays": made.count, "kernels": n_kernels, "unused": unused, "alarms": ended, "tried": tried}
    print(json.dumps({"results": results, **about}), flush=True)
    os._exit(0)  # what was guarded cannot be freed once Python's functions are gone


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore", RuntimeWarning)
    main(*sys.argv[1:])
