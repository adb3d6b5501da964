"""Promise 1: the same bits, whatever the threads, the instruction set, the layout, the batch and the chunks."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import bits_suite
import numpy as np
import pytest
import reference
from rows import CLASSES, distributions, families

import fastxent

X86 = platform.machine() in ("x86_64", "AMD64")
ROOT = Path(__file__).parent.parent
DTYPES = [np.float32, np.float64]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # means that are inf or NaN are compared too


def make_case(c, dtype, n=0):
    """Adversarial and ordinary rows of c classes, at least n, with labels, targets and weights for them."""
    rng = np.random.default_rng([c, np.dtype(dtype).itemsize])
    rows = np.array(list(families(c, dtype, rng).values()))
    rows = np.concatenate([rows, (3 * rng.standard_normal((40, c))).astype(dtype)])
    targets = np.array(list(distributions(c, rng).values()))
    mild = np.clip(rows, -30, 30)  # whose distributions are of full support, so that no divergence is inf
    log_probs = reference.log_softmax(mild).astype(dtype)
    rows[-3, rng.integers(c)], rows[-2] = np.nan, -np.inf
    rows[-1, rng.integers(c)] = np.inf
    n = max(n, len(rows))
    take, labels = np.arange(n) % len(rows), rng.integers(0, c, n)
    return {
        "logits": rows[take],
        "mild": mild[take],
        "log_probs": np.minimum(log_probs, 0)[take],
        "probs": np.exp(reference.log_softmax(mild)).astype(dtype)[take],
        "labels": labels,
        "labels, some ignored": np.where(rng.random(n) < 0.15, -100, labels),
        "target": targets[np.arange(n) % len(targets)].astype(dtype),
        "weight": rng.random(c),
        "sample_weight": rng.random(n),
    }


# ---- processes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "inputs.npz"
    arrays = {}
    for dtype in DTYPES:
        for c in CLASSES:
            case = make_case(c, dtype, 40_000 // c)  # enough to be cut into chunks and shared among threads
            arrays |= {f"{np.dtype(dtype).name}/{c}/{name}": x for name, x in case.items()}
    np.savez(path, **arrays)
    return path


def run_suite(inputs, *options, **environment):
    """The suite in a fresh process. Code is cached per setting where FASTXENT_CACHE_DIR or the user's cache says."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | environment
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "tests" / "bits_suite.py"), str(inputs), *options]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip("this threading layer is not installed")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected(inputs):
    """The digests of two threads of the processor at hand."""
    return run_suite(inputs, NUMBA_NUM_THREADS="2")


def same(found, expected):
    expected = expected["digests"]
    different = [name for name, value in expected.items() if found["digests"].get(name) != value]
    assert not different, f"{len(different)} of {len(expected)} results differ ({found['about']}): {different[:20]}"
    assert found["digests"].keys() == expected.keys()


def test_one_thread_gives_the_same_bits(inputs, expected):
    found = run_suite(inputs, NUMBA_NUM_THREADS="1")
    assert found["about"]["threads"] == 1
    same(found, expected)


@pytest.fixture(scope="module")
def avx2(inputs):
    """The suite for a processor without AVX-512, and what its code holds; code from a cache cannot be read."""
    if not X86:
        pytest.skip("an x86 instruction set")
    processor = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "NUMBA_NUM_THREADS": "2"}
    found = run_suite(inputs, "--inspect", FASTXENT_CACHE_DIR=os.devnull, **processor)
    assert found["about"]["cpu"] == "haswell"
    assert found["about"]["features"] == ""
    return found


def test_avx2_code_gives_the_same_bits(avx2, expected):
    same(avx2, expected)


def test_no_kernel_calls_the_math_library(avx2):
    kernels = avx2["kernels"]
    assert not [name for name, found in kernels.items() if found["signatures"] == 0]
    assert not {name: found["libm"] for name, found in kernels.items() if found["libm"]}


@pytest.mark.skipif(not X86 or sys.platform != "linux", reason="a tunable of glibc on x86")
def test_a_math_library_without_fma_gives_the_same_bits(inputs, expected):
    same(run_suite(inputs, GLIBC_TUNABLES="glibc.cpu.hwcaps=-FMA,-AVX2,-FMA4"), expected)


@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_every_threading_layer_gives_the_same_bits(layer, inputs, expected):
    if expected["about"]["layer"] == layer:  # that run was on this one
        return
    found = run_suite(inputs, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert found["about"]["layer"] == layer
    same(found, expected)


# ---- batches, chunks, layouts: in this process ----------------------------------------------------------------------


def row_calls(case):
    """The calls of the suite that return something for each row."""
    for name, function, arguments, options in bits_suite.calls(case):
        if not (options.get("reduction") in bits_suite.ONE_VALUE or "mean" in name or function in ONE_NUMBER):
            yield name, function, arguments, options


ONE_NUMBER = (fastxent.log_likelihood, fastxent.perplexity, bits_suite.temperature_sums, bits_suite.brier_score)


def pick(case, rows):
    """The case of some of the rows."""
    return {name: x if name == "weight" else x[rows] for name, x in case.items()}


def bits(function, arguments, options):
    return np.ascontiguousarray(function(*arguments, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("c", CLASSES)
def test_a_row_alone_gives_the_bits_it_gives_in_a_batch(c, dtype):
    case = make_case(c, dtype)
    n = len(case["labels"])
    whole = {name: bits(f, args, options) for name, f, args, options in row_calls(case)}
    rng = np.random.default_rng(c)
    for i in rng.choice(n, 12 if c < 1000 else 5, replace=False):
        for name, f, args, options in row_calls(pick(case, [i])):
            assert bits(f, args, options).tobytes() == whole[name][i].tobytes(), (name, i)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("c", [1, 2, 3, 8, 10, 16, 17, 33, 64, 100, 257, 1023])
def test_any_chunks_and_any_order_give_the_same_bits(c, dtype):
    case = make_case(c, dtype)
    n = len(case["labels"])
    whole = {name: bits(f, args, options) for name, f, args, options in row_calls(case)}
    rng = np.random.default_rng(1000 + c)
    for order in (np.arange(n), rng.permutation(n)):
        cuts = np.split(order, np.sort(rng.choice(np.arange(1, n), 4, replace=False)))
        parts = [dict(_results(pick(case, cut))) for cut in cuts]
        for name, expected in whole.items():
            got = np.concatenate([part[name] for part in parts])
            assert got.tobytes() == expected[order].tobytes(), name


def _results(case):
    return [(name, bits(f, args, options)) for name, f, args, options in row_calls(case)]


def layouts(z):
    """{name: the same values in another layout or place in memory}."""
    n, c = z.shape
    wide = np.zeros((2 * n, c + 5), z.dtype)
    wide[::2, 3 : 3 + c] = z
    spread = np.zeros((n, 3 * c), z.dtype)
    spread[:, ::3] = z
    result = {
        "Fortran order": np.asfortranarray(z),
        "rows apart": wide[::2, 3 : 3 + c],
        "entries apart": spread[:, ::3],
        "rows reversed": np.ascontiguousarray(z[::-1])[::-1],
        "classes reversed": np.ascontiguousarray(z[:, ::-1])[:, ::-1],
        "byte-swapped": z.astype(z.dtype.newbyteorder()),
    }
    for shift in (1, z.itemsize, 5 * z.itemsize, 63):
        memory = np.zeros(z.nbytes + 64, np.uint8)[shift : shift + z.nbytes]
        memory[:] = z.ravel().view(np.uint8)
        result[f"shifted by {shift} bytes"] = memory.view(z.dtype).reshape(z.shape)
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [4, 5, 10, 11, 64])
def test_rows_of_moderate_size_do_not_show_whether_others_are(c, dtype):
    """Blocks without far logits take a way of their own (kernels/flat.py); here every block has one, or none has."""
    rng = np.random.default_rng(c)
    z, y = rng.standard_normal((300, c)).astype(dtype) * 9, rng.integers(0, c, 300)
    y[::7] = -100
    mixed, far = z.copy(), np.arange(300) % 29 == 5
    mixed[far] = rng.choice([700.0, -700.0, np.nan, -np.inf, 41.0], (far.sum(), c))
    for function in (fastxent.cross_entropy, fastxent.cross_entropy_value_and_grad):
        found, other = (function(x, y, ignore_index=-100, reduction="none") for x in (z, mixed))
        for a, b in zip(*((x,) if isinstance(x, np.ndarray) else x for x in (found, other)), strict=True):
            assert np.isfinite(a).all()
            assert a[~far].tobytes() == b[~far].tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("c", [1, 2, 3, 8, 10, 16, 17, 33, 64, 100, 257, 1023])
def test_any_layout_of_the_same_values_gives_the_same_bits(c, dtype):
    case = make_case(c, dtype)
    expected = [bits(f, args, options).tobytes() for _, f, args, options in bits_suite.calls(case)]
    others = {name: layouts(case[name]) for name in ("logits", "log_probs", "probs", "target")}
    for layout in others["logits"]:
        moved = case | {name: found[layout] for name, found in others.items()}
        for (name, f, args, options), want in zip(bits_suite.calls(moved), expected):
            got = bits(f, args, options)
            assert got.astype(got.dtype.newbyteorder("=")).tobytes() == want, (layout, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_any_number_of_threads_of_a_call_gives_the_same_bits(dtype):
    for c in (1, 2, 10, 16, 33, 129, 1000):
        case = make_case(c, dtype, 80_000 // c)
        every = [*bits_suite.calls(case), *bits_suite.score_calls(case)]
        for name, f, args, options in every:
            assert bits_suite.digest(f(*args, threads=1, **options)) == bits_suite.digest(
                f(*args, threads=2, **options)
            ), (name, c)
