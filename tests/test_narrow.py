"""float16 and bfloat16 are widened exactly and rounded to nearest, whatever the processor; results are float32's."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.kernels import narrow
from fastxent.kernels.blocks import TYPES
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import (
    address,
    load,
    load_double,
    load_some,
    load_some_double,
    offset,
    pointer,
    store,
    store_some,
    store_some_double,
)  # fmt: skip
from fastxent.kernels.simd import first_lanes, splat
from fastxent.kernels.transpose import rows_to_vectors

ml_dtypes = pytest.importorskip("ml_dtypes")
FORMATS = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EVERY = np.arange(1 << 16, dtype=np.uint16)


def seen(x):
    """What the kernels are given of an array: its memory, and an empty array of the type that stands for it."""
    x = x.view(np.int16) if x.dtype.name == "bfloat16" else x
    return x.__array_interface__["data"][0], TYPES[x.dtype]


def kernels():
    """Freshly compiled: what a pointer reads, one array for each way, and the same for writing."""

    @compiled
    def read(where, like, n, out):
        p = address(where, like)
        for i in range(0, n, 16):
            out[0, i : i + 16] = np.float32(7.0)
            store(pointer(out, i), 0, load(p, i))
            here = first_lanes(i // 16 % 17, load(p, i))
            store(pointer(out, n + i), 0, load_some(p, i, here, 7.0))
            q = pointer(out, 2 * n + i)
            store_some_double(q, 0, splat(0.0) == 0.0, load_double(p, i))
            store_some_double(q, 8, splat(0.0) == 0.0, load_some_double(p, i + 8, splat(0.0) == 0.0, 0.0))
            for j in range(16):
                out[3, i + j] = p[i + j]
        for i in range(0, n, 256):
            for j in range(0, 16, 4):
                rows_to_vectors(offset(p, i + j), 16, pointer(out, 4 * n + i + 16 * j), 16)

    @compiled
    def write(values, n, like, whole, masked, doubles, single):
        v, every = pointer(values, 0), splat(0.0) == 0.0
        for i in range(0, n, 16):
            store(address(whole, like), i, load(v, i))
            store_some(address(masked, like), i, first_lanes(i // 16 % 17, load(v, i)), load(v, i))
            store_some_double(address(doubles, like), i, every, load_double(v, i))
            store_some_double(address(doubles, like), i + 8, every, load_double(v, i + 8))
            for j in range(i, i + 16):
                address(single, like)[j] = values[j]

    return read, write


@pytest.fixture(params=[True, False], ids=["as the processor does", "in integers"])
def compile_kernels(request, monkeypatch):
    """With the conversion this processor may have, and without any."""
    if not request.param:
        monkeypatch.setattr(narrow, "_converts", lambda context: False)
    return kernels()


def same(result, expected):
    """The same bits, but any NaN for a NaN."""
    assert result.dtype == expected.dtype
    wide = expected.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(result.astype(np.float32)), np.isnan(wide))
    whole = np.dtype(f"u{expected.dtype.itemsize}")
    np.testing.assert_array_equal(result.view(whole)[~np.isnan(wide)], expected.view(whole)[~np.isnan(wide)])


@pytest.mark.parametrize("name", FORMATS)
def test_every_number_is_widened_exactly(name, compile_kernels):
    values = EVERY.view(FORMATS[name])
    out = np.zeros((5, values.size), np.float32)
    compile_kernels[0](*seen(values), values.size, out)
    expected = values.astype(np.float32)
    kept = np.arange(16) < np.arange(values.size // 16)[:, None] % 17
    same(out[0], expected)
    same(out[1], np.where(kept.ravel(), expected, np.float32(7)))
    same(out[2], expected)
    same(out[3], expected)
    same(out[4], np.ascontiguousarray(expected.reshape(-1, 16, 16).transpose(0, 2, 1)).ravel())


@pytest.mark.parametrize("name", FORMATS)
def test_every_boundary_is_rounded_to_nearest_even(name, compile_kernels):
    """Every number, the middle between it and the next, what is just beside both; the format's ends; any bits."""
    dtype = FORMATS[name]
    with np.errstate(invalid="ignore"):
        exact = EVERY.view(dtype).astype(np.float64)
    exact = np.sort(exact[np.isfinite(exact)])
    middle = (exact[1:] + exact[:-1]) / 2
    exact, middle = exact.astype(np.float32), middle.astype(np.float32)
    near = np.concatenate([exact, middle])
    wild = np.random.default_rng(8).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    ends = np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, 65519.996, 65520.0, 3.4e38, -3.4e38, 1e-45], "f4")
    values = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, -np.float32(np.inf))])
    values = np.concatenate([values, wild, ends])
    values = np.concatenate([values, np.zeros(-values.size % 16, np.float32)])
    results = np.full((4, values.size), 7.0, dtype)
    like = seen(results)[1]
    compile_kernels[1](values, values.size, like, *(seen(row)[0] for row in results))
    with np.errstate(all="ignore"):
        values = np.where(np.isnan(values), np.float32(np.nan), values)  # the kernel saw every NaN
        expected = values.astype(dtype)
    kept = np.arange(16) < np.arange(values.size // 16)[:, None] % 17
    for row, want in zip(results, (expected, np.where(kept.ravel(), expected, dtype.type(7)), expected, expected)):
        np.testing.assert_array_equal(row.view(np.uint16), want.view(np.uint16))
    if name == "bfloat16":
        np.testing.assert_array_equal(narrow.rounded(values.astype(float), np.int16), expected.view(np.int16))


# ---- results --------------------------------------------------------------------------------------------------------


def rows(n_classes, dtype, seed=0):
    """Ordinary rows, and rows with masked classes, far from 0, confident, invalid."""
    rng = np.random.default_rng([seed, n_classes])
    z = rng.standard_normal((40, n_classes)) * 4
    z[1, ::2] = -np.inf
    z[2] = 3e4
    z[3] -= 2e4
    z[4, rng.integers(n_classes)] = 90.0
    z[5] = -np.inf
    z[6, rng.integers(n_classes)] = np.nan
    z[7, rng.integers(n_classes)] = np.inf
    z[8] *= 1e-7
    return z.astype(dtype), rng.integers(0, n_classes, len(z))


def distributions(n_classes, dtype):
    """Rows of one-digit binary fractions that sum to exactly 1."""
    p = np.zeros((40, n_classes))
    for i in range(40):
        rest, k = 1.0, i
        while rest > 2.0**-6 and k < i + n_classes - 1:
            rest /= 2
            p[i, k % n_classes] = rest
            k += 1
        p[i, k % n_classes] = rest
    return p.astype(dtype)


NONE = {"reduction": "none"}
CALLS = {
    "cross_entropy": lambda z, y, p, t: fx.cross_entropy(z, y, **NONE),
    "cross_entropy, T": lambda z, y, p, t: fx.cross_entropy(z, y, temperature=0.7, **NONE),
    "cross_entropy, extreme T": lambda z, y, p, t: fx.cross_entropy(z, y, temperature=2.0**-30, **NONE),
    "cross_entropy, smoothed": lambda z, y, p, t: fx.cross_entropy(z, y, label_smoothing=0.2, **NONE),
    "cross_entropy, soft": lambda z, y, p, t: fx.cross_entropy(z, t, **NONE),
    "cross_entropy, soft of another dtype": lambda z, y, p, t: fx.cross_entropy(z, t.astype("f4"), **NONE),
    "cross_entropy, integer target": lambda z, y, p, t: fx.cross_entropy(
        z, (y[:, None] == np.arange(z.shape[1])).astype(int), **NONE
    ),
    "logsumexp": lambda z, y, p, t: fx.logsumexp(z),
    "softmax": lambda z, y, p, t: fx.softmax(z),
    "softmax, T": lambda z, y, p, t: fx.softmax(z, temperature=3.1),
    "softmax, extreme T": lambda z, y, p, t: fx.softmax(z, temperature=2.0**30),
    "log_softmax": lambda z, y, p, t: fx.log_softmax(z),
    "log_softmax, extreme T": lambda z, y, p, t: fx.log_softmax(z, temperature=2.0**-30),
    "nll": lambda z, y, p, t: fx.nll(-np.abs(t), y, **NONE),
    "nll, soft": lambda z, y, p, t: fx.nll(-np.abs(t), p, **NONE),
    "log_loss": lambda z, y, p, t: fx.log_loss(p, y, **NONE),
    "log_loss, soft": lambda z, y, p, t: fx.log_loss(p, t, eps=1e-3, normalize=True, **NONE),
    "entropy": lambda z, y, p, t: fx.entropy(p, **NONE),
    "entropy of logits": lambda z, y, p, t: fx.entropy(z, kind="logits", **NONE),
    "kl_divergence": lambda z, y, p, t: fx.kl_divergence(p, t, **NONE),
    "kl_divergence of logits": lambda z, y, p, t: fx.kl_divergence(z, z[::-1], kind="logits", **NONE),
    "kl_divergence of two dtypes": lambda z, y, p, t: fx.kl_divergence(p, t.astype("f4"), **NONE),
    "binary_cross_entropy": lambda z, y, p, t: fx.binary_cross_entropy(z, p, pos_weight=2.0, **NONE),
    "binary_cross_entropy, booleans": lambda z, y, p, t: fx.binary_cross_entropy(z, p > 0, **NONE),
    "binary_log_loss": lambda z, y, p, t: fx.binary_log_loss(p, t, eps=1e-3, **NONE),
    "score": lambda z, y, p, t: fx.score(z, y, invalid="count"),
    "score, soft": lambda z, y, p, t: fx.score(z, t, invalid="count"),
    "score of probabilities": lambda z, y, p, t: fx.score(p, y, kind="probs"),
    "score of log-probabilities": lambda z, y, p, t: fx.score(-np.abs(t), y, kind="log_probs"),
}


@pytest.mark.parametrize("dtype", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_the_same_numbers_in_float32(name, dtype):
    for n_classes in (2, 10, 64, 65, 300):
        z, y = rows(n_classes, dtype)
        p, t = distributions(n_classes, dtype), distributions(n_classes, dtype)[::-1].copy()
        expected = CALLS[name](z.astype("f4"), y, p.astype("f4"), t.astype("f4"))
        for change in (np.copy, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]):
            result = CALLS[name](*(change(x) if x.ndim == 2 else x for x in (z, y, p, t)))
            if name.startswith("score"):
                assert repr(result.to_dict()) == repr(expected.to_dict())
                continue
            with np.errstate(over="ignore"):
                wanted = expected.astype(result.dtype)
            assert result.dtype == (dtype if "softmax" in name else np.float64)
            np.testing.assert_array_equal(result.view(f"u{result.itemsize}"), wanted.view(f"u{result.itemsize}"))


@pytest.mark.parametrize("dtype", FORMATS.values(), ids=FORMATS)
def test_softmax_writes_to_any_output(dtype):
    z, _ = rows(100, dtype)
    for function in (fx.softmax, fx.log_softmax):
        expected = function(z)
        itself = z.copy()
        outputs = np.zeros_like(z), np.zeros(z.shape[::-1], dtype).T, np.zeros((80, 200), dtype)[::2, 1::2], itself
        for out in outputs:
            assert function(itself if out is itself else z, out=out) is out
            np.testing.assert_array_equal(out.view(np.uint16), expected.view(np.uint16))


def test_a_row_that_is_refused_shows_its_number():
    for dtype in FORMATS.values():
        p = distributions(4, dtype)
        p[3, 1] = -0.5
        with pytest.raises(ValueError, match=r"^probs: row 3 has -0.5 for class 1"):
            fx.log_loss(p, np.zeros(40, int))
        with pytest.raises(ValueError, match=r"^target: row 3 has -0.5 for class 1"):
            fx.cross_entropy(np.zeros((40, 4), dtype), p)


def test_bytes_in_the_other_order_are_float16_too():
    z, y = rows(10, np.float16)
    assert fx.cross_entropy(z.astype(">f2"), y, **NONE).tobytes() == fx.cross_entropy(z, y, **NONE).tobytes()


# ---- processors -----------------------------------------------------------------------------------------------------

DIGEST = """
import hashlib, sys
import numpy as np
import fastxent as fx
digest = hashlib.sha256()
for c in (10, 100):  # bfloat16 is widened and rounded in integers everywhere
    rng = np.random.default_rng(c)
    z = (rng.integers(-2000, 2000, (50, c)) / 128).astype(np.float16)
    z[0, 0], z[1, 1], z[2, :2] = np.nan, np.inf, -np.inf
    results = [fx.cross_entropy(z, rng.integers(0, c, 50), reduction="none")]
    if c == 10:
        results.append(fx.softmax(z))  # written, too
    for x in results:
        digest.update(x.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an x86 instruction set")
def test_processors_agree_with_and_without_a_conversion():
    """As this one does, as AVX2 does with F16C, and with nothing known of F16C."""
    haswell = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    found = set()
    for extra in ({}, haswell, haswell | {"NUMBA_CPU_FEATURES": "+f16c"}):
        command = [sys.executable, "-W", "ignore", "-c", DIGEST]
        done = subprocess.run(command, env=os.environ | extra, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
