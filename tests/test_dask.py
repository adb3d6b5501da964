"""Dask arrays and clusters: the bits of one call, for any chunks, any scheduler, and when a worker is killed."""

import math
import os
import signal
import time
import warnings

import numpy as np
import pytest

import fastxent
from fastxent.threads import _numba_started

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from fastxent import dask as lazy  # noqa: E402

N, C = 611, 12
RNG = np.random.default_rng(5)
Z = (4 * RNG.normal(size=(N, C))).astype(np.float32)
Y = RNG.integers(0, C, N)
P = fastxent.softmax(RNG.normal(size=(N, C)))
W, S = RNG.random(C), RNG.random(N)
Y_IGNORED = np.where(Y == 3, -100, Y)

CHUNKINGS = {
    "one chunk": (N, C),
    "uneven rows": ((1, 600, 10), C),
    "many rows": (50, C),
    "classes": (300, 5),
    "classes and an empty chunk": ((40, 0, 571), (1, 11)),
}


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread each."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(params=["threads", "processes of a cluster"])
def compute(request):
    """Compute several results, each by itself: dask 2026.8 mixes up arrays and Delayed objects in one call."""
    if request.param == "threads":
        return lambda *lazies: [lazy.compute(scheduler="threads", num_workers=4) for lazy in lazies]
    client = request.getfixturevalue("cluster")
    return lambda *lazies: client.gather([client.compute(lazy) for lazy in lazies])


def same(got, want):
    if isinstance(want, fastxent.Score):
        return got == want
    return np.asarray(got).dtype == np.asarray(want).dtype and np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=CHUNKINGS)
def test_every_chunking_gives_the_bits_of_one_call(compute, chunks):
    z, y = da.from_array(Z, chunks=chunks), da.from_array(Y_IGNORED, chunks=97)
    p, s = da.from_array(P, chunks=(200, 12)), da.from_array(S, chunks=500)
    weighted = {"weight": W, "ignore_index": -100, "temperature": 1.5}
    pairs = [
        (lazy.logsumexp(z, temperature=0.5), fastxent.logsumexp(Z, temperature=0.5)),
        (lazy.softmax(z), fastxent.softmax(Z)),
        (lazy.log_softmax(z), fastxent.log_softmax(Z)),
        (lazy.cross_entropy(z, p), fastxent.cross_entropy(Z, P)),
        (lazy.cross_entropy(z, P, label_smoothing=0.1), fastxent.cross_entropy(Z, P, label_smoothing=0.1)),
        (lazy.score(z, y, ignore_index=-100), fastxent.score(Z, Y_IGNORED, ignore_index=-100)),
        (lazy.score(z, p, sample_weight=s, worst=3), fastxent.score(Z, P, sample_weight=S, worst=3)),
        *(
            (
                lazy.cross_entropy(z, y, sample_weight=s, reduction=reduction, **weighted),
                fastxent.cross_entropy(Z, Y_IGNORED, sample_weight=S, reduction=reduction, **weighted),
            )
            for reduction in ("none", "sum", "mean")
        ),
    ]
    got = compute(*(pair[0] for pair in pairs))
    assert [same(result, want) for result, (_, want) in zip(got, pairs)] == [True] * len(pairs)
    for result, want in pairs:
        if isinstance(result, da.Array):
            assert (result.shape, result.dtype) == (np.shape(want), np.asarray(want).dtype)


@pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=CHUNKINGS)
def test_gradients_have_the_bits_of_one_call(compute, chunks):
    """A mean's derivatives are divided by the weight of all rows."""
    z, y, s = da.from_array(Z, chunks=chunks), da.from_array(Y_IGNORED, chunks=97), da.from_array(S, chunks=500)
    options = {"weight": W, "ignore_index": -100, "hessian": True}
    calls = [
        (y, Y_IGNORED, {"sample_weight": s, **options}),
        (y, Y_IGNORED, {"grad_scale": s, "reduction": "none", **options}),
        (y, Y_IGNORED, {"reduction": "sum", **options}),
        (P, P, {"sample_weight": s, "grad_scale": 4.0}),
        (P, P, {}),
    ]
    for target, plain, given in calls:
        results = lazy.cross_entropy_value_and_grad(z, target, **given)
        arrays = {name: S if value is s else value for name, value in given.items()}
        wanted = fastxent.cross_entropy_value_and_grad(Z, plain, **arrays)
        assert len(results) == len(wanted)
        for result, got, want in zip(results, compute(*results), wanted):
            assert (result.shape, result.dtype) == (np.shape(want), np.asarray(want).dtype)
            assert same(got, want)


def test_the_weight_of_a_mean_is_summed_without_the_logits():
    def never():
        raise AssertionError("computed")

    z = da.from_delayed(dask.delayed(never)(), shape=(N, C), dtype="f4", meta=Z[:0])
    weight = lazy._Batch("logits", z, Y, -1, W, S, None).weight(None, 1)
    assert weight.compute() == math.fsum(S * W[Y])


def test_sums_are_the_correctly_rounded_sums_of_the_rows(compute):
    z, y = da.from_array(Z, chunks=(30, C)), da.from_array(Y, chunks=77)
    rows, total, mean = compute(
        *(lazy.cross_entropy(z, y, sample_weight=S, reduction=reduction) for reduction in ("none", "sum", "mean"))
    )
    assert total == math.fsum(rows)
    assert mean == math.fsum(rows) / math.fsum(S)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", "int32"])
def test_every_dtype_keeps_its_own(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = Z[:100].astype(dtype)
    z = da.from_array(x, chunks=(33, 7))
    for name in ("softmax", "log_softmax", "logsumexp"):
        result, want = getattr(lazy, name)(z), getattr(fastxent, name)(x)
        assert result.dtype == want.dtype
        assert same(result.compute(), want)


SHAPE = (5, C, 6, 4)  # class axis 1


@pytest.mark.parametrize("chunks", [(2, 5, 4, 3), (5, C, 6, 2)], ids=str)
def test_leading_dimensions_and_the_class_axis(chunks):
    x, soft = RNG.normal(size=SHAPE), fastxent.softmax(RNG.normal(size=SHAPE), axis=1)
    y = RNG.integers(0, C, (5, 6, 4))
    z = da.from_array(x, chunks=chunks)
    for name in ("softmax", "log_softmax", "logsumexp"):
        assert same(getattr(lazy, name)(z, axis=1).compute(), getattr(fastxent, name)(x, axis=1))
    for target, plain in ((y, y), (da.from_array(y, chunks=3), y), (da.from_array(soft, chunks=3), soft)):
        assert lazy.score(z, target, axis=1).compute() == fastxent.score(x, plain, axis=1)
        for reduction in ("none", "sum", "mean"):
            got = lazy.cross_entropy(z, target, axis=1, reduction=reduction)
            assert same(got.compute(), fastxent.cross_entropy(x, plain, axis=1, reduction=reduction))
    one = da.from_array(x[0, :, 0, 0], chunks=5)
    assert same(lazy.cross_entropy(one, 3, reduction="none").compute(), fastxent.cross_entropy(x[0, :, 0, 0], 3))
    assert lazy.score(one, 3).compute() == fastxent.score(x[0, :, 0, 0], 3)


def test_worst_rows_have_their_place_in_the_whole_or_their_ids():
    z, ids = da.from_array(Z, chunks=(45, C)), 9000 - np.arange(N)
    card, named = dask.compute(lazy.score(z, Y, worst=7), lazy.score(z, Y, worst=7, ids=da.from_array(ids, chunks=100)))
    rows = fastxent.cross_entropy(Z, Y, reduction="none")
    assert [row.id for row in card.worst] == np.argsort(-rows)[:7].tolist()
    assert named == lazy.score(z, Y, worst=7, ids=ids).compute() == fastxent.score(Z, Y, worst=7, ids=ids)


def test_groups_have_the_bits_of_one_call(compute):
    rng, whole = np.random.default_rng(6), da.from_array(Z, chunks=(90, 5))
    country = np.array(["Chile", "India", "Peru"])[rng.integers(0, 3, N)]
    for by in (country, rng.integers(-2, 40, N)):
        lazies = [lazy.score(whole, da.from_array(Y, chunks=200), by=x) for x in (by, da.from_array(by, chunks=77))]
        want = fastxent.score(Z, Y, by=by)
        for card in compute(*lazies):
            assert card == want
            assert dict(card.groups) == dict(want.groups)
    with pytest.raises(ValueError, match=r"^by: shape \(3,\)"):
        lazy.score(whole, Y, by=country[:3])


def test_nothing_is_computed_before_it_is_asked_for():
    def never():
        raise AssertionError("computed")

    z = da.from_delayed(dask.delayed(never)(), shape=(N, C), dtype="f4", meta=Z[:0]).rechunk((100, 5))
    y = da.from_delayed(dask.delayed(never)(), shape=(N,), dtype="i8", meta=Y[:0])
    for result in (lazy.softmax(z), lazy.cross_entropy(z, y), lazy.cross_entropy(z, y, reduction="none")):
        assert isinstance(result, da.Array)
    with pytest.raises(AssertionError, match="computed"):
        lazy.score(z, y).compute()


def test_the_mean_of_no_rows_is_a_warning_on_the_client_too(cluster):
    z, y = da.from_array(Z, chunks=(50, C)), np.full(N, 3)
    mean, card = lazy.cross_entropy(z, y, ignore_index=3), lazy.score(z[:0], y[:0])
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        assert math.isnan(mean.compute(scheduler="threads"))
    with pytest.warns(RuntimeWarning, match="no row was scored"):
        assert math.isnan(card.compute(scheduler="threads").nll)
    assert lazy.cross_entropy(z, y, ignore_index=3, reduction="sum").compute(scheduler="threads") == 0.0
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert math.isnan(cluster.compute(mean).result())
        assert math.isnan(cluster.compute(card).result().nll)
        wait_until(lambda: len(heard) >= 2)
    assert sorted(str(warning.message)[:12] for warning in heard) == ["mean of no r", "no row was s"]


def wait_until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z, y: lazy.softmax(Z), TypeError, "logits: an object of type ndarray; need a dask array"),
        (lambda z, y: lazy.score([[1.0]], y), TypeError, "predictions: an object of type list"),
        (lambda z, y: lazy.cross_entropy(z, y[:5]), ValueError, r"target: shape \(5,\) does not go with logits"),
        (lambda z, y: lazy.cross_entropy(z, y.astype("f4")), TypeError, "target: dtype float32"),
        (lambda z, y: lazy.cross_entropy(z, y, sample_weight=S[:3]), ValueError, "sample_weight: shape"),
        (lambda z, y: lazy.cross_entropy(z, y, weight=-W), ValueError, "weight: class 0 has -"),
        (lambda z, y: lazy.cross_entropy(z, y, reduction="all"), ValueError, "reduction: 'all'"),
        (lambda z, y: lazy.cross_entropy(z, y, temperature=0), ValueError, "temperature: 0"),
        (lambda z, y: lazy.cross_entropy(z[z[:, 0] > 0], y), ValueError, "logits: the sizes of its chunks are unknown"),
        (lambda z, y: lazy.cross_entropy(z, y, axis=2), ValueError, "axis: 2 is outside logits"),
        (lambda z, y: lazy.softmax(z, threads=0), ValueError, "threads: must be at least 1"),
        (lambda z, y: lazy.score(z, y, bins=0), ValueError, "bins: 0"),
        (lambda z, y: lazy.score(z, y, ids=Y[:4]), ValueError, r"ids: shape \(4,\)"),
    ],
)
def test_bad_calls_are_refused_at_once(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(da.from_array(Z, chunks=(100, C)), da.from_array(Y, chunks=N))


def test_bad_values_are_named_by_their_row_in_the_whole(compute):
    far, nan, weights = np.where(np.arange(N) == 432, 77, Y), Z.copy(), S.copy()
    nan[432, 2], weights[432] = np.nan, -1
    z = da.from_array(Z, chunks=(50, C))
    for result in (lazy.cross_entropy(z, far), lazy.cross_entropy(z, far, reduction="none"), lazy.score(z, far)):
        with pytest.raises(ValueError, match="^target: row 432 is 77, outside 0..11"):
            compute(result)
    with pytest.raises(ValueError, match="^sample_weight: row 432 has -1"):
        compute(lazy.cross_entropy(z, Y, sample_weight=weights))
    with pytest.raises(ValueError, match="^predictions: row 432 has a NaN"):
        compute(lazy.score(da.from_array(nan, chunks=(50, C)), Y))
    deep = da.from_array(Z[:600].reshape(20, 30, C), chunks=(7, 8, C))
    with pytest.raises(ValueError, match=r"^target: row 432 \(index \(14, 12\)\) is 77"):
        compute(lazy.cross_entropy(deep, far[:600].reshape(20, 30)))


def test_tasks_take_one_core_each(cluster):
    """Enough rows for the parallel path: it would start Numba's threads."""
    z = da.from_array(np.tile(Z, (60, 1)), chunks=(20_000, C))
    y = da.zeros(len(z), dtype=int)
    lazies = lazy.cross_entropy(z, y), lazy.score(z, y), lazy.softmax(z)[0, 0]
    cluster.gather([cluster.compute(x) for x in lazies])
    assert set(cluster.run(_numba_started).values()) == {False}


def killed_once(block, marker, block_info=None):
    """The block; but the first process that comes to the middle one is killed."""
    if block_info[0]["chunk-location"][0] == 10 and not os.path.exists(marker):
        with open(marker, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(cluster, tmp_path):
    marker = tmp_path / "killed"
    before = set(cluster.run(os.getpid).values())
    z = da.from_array(Z, chunks=(30, C)).map_blocks(killed_once, marker=str(marker), dtype=Z.dtype, meta=Z[:0])
    mean, card = cluster.gather([cluster.compute(x) for x in (lazy.cross_entropy(z, Y), lazy.score(z, Y))])
    assert marker.exists()
    assert mean == fastxent.cross_entropy(Z, Y)
    assert card == fastxent.score(Z, Y)
    cluster.wait_for_workers(2, timeout=60)
    assert len(before & set(cluster.run(os.getpid).values())) == 1
