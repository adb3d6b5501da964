"""The same values give the same bits: in every layout, dtype that widens to them, container, and slicing."""

import array as stdlib_array
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from rows import families

import fastxent as fx
from fastxent.kernels import batch

DTYPES = ("float32", "float64")
SHAPES = ((37, 1), (33, 2), (50, 10), (19, 100), (5, 1000))


def example(shape, dtype="float32", seed=0, scale=4.0):
    """Logits, labels on every leading index, row weights."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(shape) * scale).astype(dtype)
    return logits, rng.integers(0, shape[-1], shape[:-1]), rng.random(shape[:-1])


def probabilities(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


# name: what to call on (predictions, labels, row weights, axis); the predictions are made from logits by KIND
CALLS = {
    "cross_entropy": lambda z, y, s, axis: fx.cross_entropy(z, y, axis=axis, reduction="none"),
    "cross_entropy, mean": lambda z, y, s, axis: fx.cross_entropy(z, y, sample_weight=s, axis=axis),
    "cross_entropy, options": lambda z, y, s, axis: fx.cross_entropy(
        z, y, sample_weight=s, label_smoothing=0.1, temperature=0.7, ignore_index=0, axis=axis, reduction="none"
    ),
    "log_likelihood": lambda z, y, s, axis: fx.log_likelihood(z, y, sample_weight=s, axis=axis),
    "perplexity": lambda z, y, s, axis: fx.perplexity(z, y, axis=axis),
    "logsumexp": lambda z, y, s, axis: fx.logsumexp(z, axis=axis),
    "softmax": lambda z, y, s, axis: fx.softmax(z, axis=axis),
    "log_softmax": lambda z, y, s, axis: fx.log_softmax(z, axis=axis, temperature=3.0),
    "entropy of logits": lambda z, y, s, axis: fx.entropy(z, kind="logits", axis=axis, reduction="none"),
    "entropy": lambda z, y, s, axis: fx.entropy(z, axis=axis, reduction="none"),
    "kl_divergence": lambda z, y, s, axis: fx.kl_divergence(z, z, kind="logits", axis=axis, reduction="sum"),
    "nll": lambda z, y, s, axis: fx.nll(z, y, axis=axis, sample_weight=s, reduction="none"),
    "log_loss": lambda z, y, s, axis: fx.log_loss(z, y, axis=axis, sample_weight=s, reduction="none"),
}
KIND = {
    "entropy": probabilities,
    "log_loss": probabilities,
    "nll": lambda z: np.minimum(np.log(probabilities(z)), 0),
}


def predictions_for(name, logits):
    return KIND.get(name, lambda z: z)(logits).astype(logits.dtype)


def bits(result):
    return np.ascontiguousarray(result).tobytes()


def same_bits(result, expected):
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert bits(result) == bits(expected)


def offset(x, elements):
    """The same values `elements` elements, or half an element, behind an aligned address."""
    start = int(elements * x.itemsize)
    memory = np.zeros(x.nbytes + start, np.uint8)
    view = memory[start:].view(x.dtype).reshape(x.shape) if x.size else x
    view[...] = x
    return view


def padded(x):
    """Every second row and every third column of a larger array."""
    large = np.full((2 * x.shape[0], 3 * x.shape[1]), np.nan, x.dtype)
    large[::2, 1::3] = x
    return large[::2, 1::3]


def read_only(x):
    copy = x.copy()
    copy.setflags(write=False)
    return copy


def memory_mapped(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "strided": padded,
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "columns reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "columns reversed, Fortran order": lambda x: np.asfortranarray(x[:, ::-1])[:, ::-1],
    "wide rows": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
    "between two rows of another": lambda x: np.stack([x, x], axis=1)[:, 1],
    "read-only": read_only,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "byte-swapped, Fortran order": lambda x: np.asfortranarray(x.astype(x.dtype.newbyteorder())),
    "unaligned": lambda x: offset(x, 0.25),
    "matrix": lambda x: x.view(np.matrix),
} | {f"offset by {k}": lambda x, k=k: offset(x, k) for k in range(1, 16)}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_any_layout_gives_the_same_bits(name, shape, dtype):
    logits, labels, weights = example(shape, dtype)
    z, call = predictions_for(name, logits), CALLS[name]
    expected = call(z, labels, weights, -1)
    for layout, change in LAYOUTS.items():
        changed = change(z)
        np.testing.assert_array_equal(changed, z, err_msg=layout)
        same_bits(call(changed, labels, weights, -1), expected)
    same_bits(call(z.T, labels, weights, 0), expected.T if name.endswith("softmax") else expected)


@pytest.mark.parametrize("name", CALLS)
def test_memory_maps_give_the_same_bits(name, tmp_path):
    logits, labels, weights = example((50, 10))
    z, call = predictions_for(name, logits), CALLS[name]
    same_bits(call(memory_mapped(z, tmp_path), labels, weights, -1), call(z, labels, weights, -1))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("name", CALLS)
def test_the_class_axis_may_be_anywhere(name, axis):
    logits, labels, weights = example((3, 4, 5, 6))
    z, call = predictions_for(name, logits), CALLS[name]
    expected = call(z, labels, weights, -1)
    for moved in (
        np.moveaxis(z, -1, axis),
        np.moveaxis(z, -1, axis).copy(),
        np.asfortranarray(np.moveaxis(z, -1, axis)),
    ):
        result = call(moved, labels, weights, axis)
        if name.endswith("softmax"):
            assert result.shape == moved.shape
            result = np.moveaxis(result, axis, -1)
        same_bits(result, expected)


@pytest.mark.parametrize("shape", [(3, 7, 300), (3, 7, 20, 15), (2, 1200, 3), (1, 7, 300), (300, 7, 1), (300, 2, 7, 1)])
@pytest.mark.parametrize("name", CALLS)
def test_images_give_the_same_bits(name, shape, monkeypatch):
    """Classes on axis 1, the rows on two strided axes: long, short, or a single row."""
    logits, labels, weights = example((shape[0], *shape[2:], shape[1]))
    z, call = predictions_for(name, logits), CALLS[name]
    images = np.ascontiguousarray(np.moveaxis(z, -1, 1))
    for limit in (1 << 28, 100_000, 3000):
        monkeypatch.setattr("fastxent.slices.SLICE_BYTES", limit)
        result, expected = call(images, labels, weights, 1), call(z, labels, weights, -1)
        same_bits(np.moveaxis(result, 1, -1) if name.endswith("softmax") else result, expected)


@pytest.mark.parametrize("classes", [(1, 2, 3, 7, 64), (66, 100, 1000)], ids=["few", "many"])
@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("float16", "float64"))]
)
def test_rows_side_by_side_give_the_same_bits(dtype, classes):
    """As many as it takes for them to be read so, of every kind; and images of fewer rows than a vector has lanes."""
    for c in classes:
        rng = np.random.default_rng(c)
        kinds = list(families(c, np.float64 if dtype == "float64" else np.float32, rng).values())
        with np.errstate(over="ignore"):
            kinds = np.concatenate([kinds, np.full((2, c), [[np.nan], [np.inf]])]).astype(dtype)
        rows = (3 * rng.standard_normal((3 * 63 * (batch.SERIAL_ELEMENTS // 189 // c + 1), c))).astype(dtype)
        rows[-len(kinds) :] = kinds
        labels = rng.integers(-1, c, len(rows))
        expected = fx.cross_entropy(rows, labels, ignore_index=-1, reduction="none")
        apart = np.concatenate([rows, rows], axis=1)[:, :c]
        same_bits(fx.cross_entropy(apart, labels, ignore_index=-1, reduction="none"), expected)
        for shape in (1, len(rows)), (3, len(rows) // 3), (len(rows) // 63, 7, 9), (len(rows) // 9, 1, 9):
            images = np.moveaxis(rows.reshape(*shape, c), -1, 1).copy()
            result = fx.cross_entropy(images, labels.reshape(shape), ignore_index=-1, axis=1, reduction="none")
            same_bits(result.ravel(), expected)


@pytest.mark.parametrize("limits", [(1 << 28, 1 << 24), (1000, 1 << 24), (1 << 28, 400), (900, 500), (1, 1)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_slices_change_no_bit(name, limits, monkeypatch):
    """Leading axes that do not collapse, labels and weights of every layout, cut into slices of every size."""
    logits, labels, weights = example((3, 4, 5, 6), seed=1)
    z, call = predictions_for(name, logits), CALLS[name]
    expected = call(z, labels, weights, -1)
    monkeypatch.setattr("fastxent.slices.SLICE_BYTES", limits[0])
    monkeypatch.setattr("fastxent.slices.COPY_BYTES", limits[1])
    tangled = z.transpose(3, 1, 0, 2).copy().transpose(2, 1, 3, 0)
    holes = np.repeat(np.repeat(np.repeat(z, 2, 0), 2, 1), 2, 2)[::2, ::2, ::2]
    labels_seen = [labels, labels.astype(np.int8), np.asfortranarray(labels.astype(">u2")), labels.astype(np.uint64)]
    weights_seen = [weights, np.asfortranarray(weights), weights[::-1].copy()[::-1], weights]
    for predictions in (z, tangled, holes, z[:, ::-1].copy()[:, ::-1], np.asfortranarray(z)):
        for y, s in zip(labels_seen, weights_seen):
            same_bits(call(predictions, y, s, -1), expected)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_half_precision_is_widened_exactly(name, narrow):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(ml_dtypes.bfloat16) if narrow == "bfloat16" else np.dtype(narrow)
    for shape in ((33, 2), (50, 10), (7, 5, 33)):
        logits, labels, weights = example(shape)
        half = predictions_for(name, logits).astype(dtype)
        if name == "log_loss" or name == "entropy":
            half = np.full(shape, 0.5 ** math.ceil(math.log2(shape[-1])), dtype)  # sums to 1 in few bits
            half[..., 0] = 1 - (shape[-1] - 1) * float(half.flat[0])
        call, wide = CALLS[name], half.astype(np.float32)
        expected = call(wide, labels, weights, -1)
        if name.endswith("softmax"):
            expected = expected.astype(dtype)
        for layout in (half, half[::-1].copy()[::-1], np.asfortranarray(half)):
            same_bits(call(layout, labels, weights, -1), expected)
        moved = call(np.moveaxis(half, -1, 0), labels, weights, 0)
        same_bits(np.moveaxis(moved, 0, -1) if name.endswith("softmax") else moved, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", ">i4"])
def test_integer_logits_are_widened_to_float64(dtype):
    logits, labels, _ = example((20, 7), scale=20)
    z = np.abs(logits).astype(dtype)
    for name in ("cross_entropy", "logsumexp", "softmax", "log_softmax"):
        same_bits(CALLS[name](z, labels, None, -1), CALLS[name](z.astype(np.float64), labels, None, -1))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64", ">i8", ">u2"])
def test_labels_of_any_integer_dtype(dtype):
    logits, labels, _ = example((40, 9))
    expected = fx.cross_entropy(logits, labels, reduction="none")
    same_bits(fx.cross_entropy(logits, labels.astype(dtype), reduction="none"), expected)
    same_bits(fx.cross_entropy(logits, labels.astype(dtype)[::-1].copy()[::-1], reduction="none"), expected)


@pytest.mark.parametrize("dtype", [bool, "int8", "uint64", "float16", "float32", ">f8"])
def test_one_hot_targets_of_any_dtype(dtype):
    for shape in ((40, 9), (3, 4, 5)):
        logits, labels, weights = example(shape)
        one_hot = labels[..., None] == np.arange(shape[-1])
        expected = fx.cross_entropy(logits, one_hot.astype(np.float32), sample_weight=weights, reduction="none")
        for target in (one_hot.astype(dtype), np.asfortranarray(one_hot.astype(dtype))):
            for z in (logits, np.asfortranarray(logits)):
                same_bits(fx.cross_entropy(z, target, sample_weight=weights, reduction="none"), expected)
        np.testing.assert_allclose(expected, weights * fx.cross_entropy(logits, labels, reduction="none"), rtol=1e-6)


def test_read_only_labels_and_weights_compile_nothing_more():
    logits, labels, weights = example((40, 9))
    options = {"weight": np.arange(9.0), "sample_weight": weights, "reduction": "none"}
    expected = fx.cross_entropy(logits, labels, **options)
    from fastxent.kernels.jit import REGISTER

    compiled = {name: len(kernel.signatures) for name, kernel in REGISTER.items()}
    options = {name: read_only(x) if name != "reduction" else x for name, x in options.items()}
    same_bits(fx.cross_entropy(read_only(logits), read_only(labels), **options), expected)
    assert compiled == {name: len(kernel.signatures) for name, kernel in REGISTER.items()}


def outcome(function, *args, **options):
    try:
        return bits(function(*args, **options))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_short_way_of_plain_small_calls_and_the_general_one_agree(shape, dtype):
    logits, y, _ = example(shape, dtype)
    for name in ("cross_entropy", "nll", "log_loss"):
        function, x = getattr(fx, name), predictions_for(name, logits)
        wrong_row, wrong_label, positive = x.copy(), y.copy(), x.copy()
        wrong_row[3], wrong_label[2], positive[1] = np.nan, shape[1], 2.0
        for target in (y, wrong_label):
            for predictions in (x, wrong_row, positive):
                for reduction in ("none", "sum", "mean"):
                    short = outcome(function, predictions, target, reduction=reduction)
                    assert short == outcome(function, predictions, target, reduction=reduction, threads=1)
                    assert isinstance(short, str) or target is y


def test_soft_targets_follow_the_class_axis():
    logits, _, _ = example((3, 4, 5))
    target = probabilities(example((3, 4, 5), seed=5)[0])
    expected = fx.cross_entropy(logits, target, reduction="none")
    for axis in (0, 1):
        z, t = np.moveaxis(logits, -1, axis).copy(), np.moveaxis(target, -1, axis)
        same_bits(fx.cross_entropy(z, t, axis=axis, reduction="none"), expected)


@pytest.mark.parametrize("function", ["binary_cross_entropy", "binary_log_loss"])
def test_binary_layouts_give_the_same_bits(function, monkeypatch):
    rng = np.random.default_rng(3)
    call = getattr(fx, function)
    for limit in (1 << 24, 64):
        monkeypatch.setattr("fastxent.slices.COPY_BYTES", limit)
        for dtype in DTYPES:
            z, t, s = rng.random((8, 9, 10)).astype(dtype), rng.random((8, 9, 10)).astype(dtype), rng.random((8, 9, 10))
            expected = call(z, t, sample_weight=s, pos_weight=2.0, reduction="none")
            total = call(z, t, sample_weight=s, pos_weight=2.0, reduction="sum")
            assert total == math.fsum(expected.ravel())
            for change in (
                np.asfortranarray,
                lambda x: x[::-1].copy()[::-1],
                lambda x: x.astype(x.dtype.newbyteorder()),
            ):
                for other in (change, lambda x: x):
                    options = {"sample_weight": change(s), "pos_weight": 2.0}
                    same_bits(call(change(z), other(t), **options, reduction="none"), expected)
                    assert call(other(z), change(t), **options, reduction="sum") == total
            same_bits(call(z[0, 0], t[0, 0], reduction="none"), call(z[0, 0][None], t[:1, 0], reduction="none")[0])
    hard = rng.integers(0, 2, 20)
    z = rng.random(20)
    for kind in (bool, "int8", "float16", "float32", "float64", ">f4"):
        same_bits(call(z, hard.astype(kind), reduction="none"), call(z, hard, reduction="none"))


# ---- containers ----


class OnlyDlpack:
    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OnlyArray:
    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


@pytest.mark.parametrize("wrap", [np.ndarray.tolist, OnlyDlpack, OnlyArray, memoryview], ids=lambda w: w.__name__)
def test_what_becomes_an_array_is_one(wrap):
    logits, labels, weights = example((20, 6), "float64")
    expected = fx.cross_entropy(logits, labels, weight=np.arange(6.0), sample_weight=weights, reduction="none")
    wrapped = [wrap(x) for x in (logits, labels, np.arange(6.0), weights)]
    result = fx.cross_entropy(*wrapped[:2], weight=wrapped[2], sample_weight=wrapped[3], reduction="none")
    same_bits(result, expected)
    same_bits(
        fx.binary_cross_entropy(stdlib_array.array("d", logits[:, 0]), labels > 2),
        fx.binary_cross_entropy(logits[:, 0], labels > 2),
    )


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    logits, labels, weights = example((20, 6))
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none")
    y, s = torch.from_numpy(labels), torch.from_numpy(weights)
    for z in (
        torch.from_numpy(logits),
        torch.tensor(logits, requires_grad=True).detach(),
        torch.nn.Parameter(torch.tensor(logits)).data,
    ):
        same_bits(fx.cross_entropy(z, y, sample_weight=s, reduction="none"), expected)
    same_bits(fx.cross_entropy(torch.tensor(logits.T.copy()).T, y, sample_weight=s, reduction="none"), expected)
    narrow = torch.from_numpy(logits).to(torch.bfloat16)
    wide = narrow.float().numpy()
    for z in (narrow, narrow.T.contiguous().T):
        same_bits(fx.cross_entropy(z, y, reduction="none"), fx.cross_entropy(wide, labels, reduction="none"))
    pytest.importorskip("ml_dtypes")
    same_bits(
        fx.softmax(narrow),
        torch.from_numpy(fx.softmax(wide)).to(torch.bfloat16).view(torch.int16).numpy().view(fx.softmax(narrow).dtype),
    )
    out = torch.empty(20, dtype=torch.float64)
    assert fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none", out=out) is out
    same_bits(out.numpy(), expected)


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    logits, labels, _ = example((20, 6))
    z, y = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    same_bits(fx.cross_entropy(z, y, reduction="none"), fx.cross_entropy(logits, labels, reduction="none"))
    narrow = z.astype(jax.numpy.bfloat16)
    wide = np.asarray(narrow).astype(np.float32)
    same_bits(fx.cross_entropy(narrow, y, reduction="none"), fx.cross_entropy(wide, labels, reduction="none"))


def test_arrow_columns():
    pa = pytest.importorskip("pyarrow")
    logits, labels, weights = example((20, 6))
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none")
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 6)
    for z in (column, pa.chunked_array([column[:7], column[7:]]), column.slice(0)):
        same_bits(fx.cross_entropy(z, pa.array(labels), sample_weight=pa.array(weights), reduction="none"), expected)
    same_bits(
        fx.cross_entropy(column[3:9], labels[3:9], reduction="none"),
        fx.cross_entropy(logits, labels, reduction="none")[3:9],
    )
    table = pa.table({f"logit_{k}": logits[:, k] for k in range(6)})
    chunked = pa.chunked_array([labels[:3], labels[3:]])
    same_bits(fx.cross_entropy(table, chunked, sample_weight=weights, reduction="none"), expected)
    batch = table.to_batches()[0]
    same_bits(fx.cross_entropy(batch, chunked, sample_weight=weights, reduction="none"), expected)


def test_pandas_columns():
    pd = pytest.importorskip("pandas")
    logits, labels, weights = example((20, 6))
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none")
    frame = pd.DataFrame(logits)
    for y in (pd.Series(labels), pd.Series(labels, dtype="Int64"), pd.Series(labels, dtype="UInt8")):
        same_bits(fx.cross_entropy(frame, y, sample_weight=pd.Series(weights), reduction="none"), expected)
    with pytest.raises((TypeError, ValueError), match=r"^target: "):
        fx.cross_entropy(frame, pd.Series([None, *labels[1:]], dtype="Int64"))
    with pytest.raises(TypeError, match=r"^target: "):
        fx.cross_entropy(frame, pd.Series([None, *labels[1:]]))


def test_polars_columns():
    pl = pytest.importorskip("polars")
    logits, labels, weights = example((20, 6))
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none")
    frame = pl.DataFrame({f"logit_{k}": logits[:, k] for k in range(6)})
    for z in (frame, pl.Series(logits)):
        same_bits(fx.cross_entropy(z, pl.Series(labels), sample_weight=pl.Series(weights), reduction="none"), expected)
    with pytest.raises(ValueError, match=r"^target: row 0 is null"):
        fx.cross_entropy(frame, pl.Series([None, *labels[1:].tolist()]))
    with pytest.raises(ValueError, match=r"^logits: row 0, column 'logit_2' is null, one of 20"):
        fx.cross_entropy(frame.with_columns(pl.lit(None).cast(pl.Float32).alias("logit_2")), labels)


# ---- few rows, one class, what comes back ----


def test_no_rows():
    for z, y in (
        (np.empty((0, 5), np.float32), np.empty(0, int)),
        (np.empty((0, 5)), []),
        (np.empty((2, 0, 5)), np.empty((2, 0), int)),
    ):
        assert fx.cross_entropy(z, y, reduction="none").shape == z.shape[:-1]
        assert math.copysign(1, fx.cross_entropy(z, y, reduction="sum")) == 1
        assert math.copysign(1, fx.log_likelihood(z, y)) == 1
        with pytest.warns(RuntimeWarning, match="mean of no rows"):
            assert math.isnan(fx.cross_entropy(z, y))
        with pytest.warns(RuntimeWarning, match="mean of no rows"):
            assert math.isnan(fx.perplexity(z, y))
        assert fx.softmax(z).shape == z.shape
        assert fx.softmax(z).dtype == z.dtype
        assert fx.logsumexp(z).shape == z.shape[:-1]
        assert fx.entropy(z, reduction="none").shape == z.shape[:-1]
        assert fx.kl_divergence(z, z, reduction="sum") == 0.0
    assert fx.binary_cross_entropy(np.empty(0), np.empty(0), reduction="sum") == 0.0
    assert fx.binary_log_loss([], [], reduction="none").shape == (0,)


def test_all_rows_ignored():
    logits = example((4, 3))[0]
    assert fx.cross_entropy(logits, np.full(4, -100), ignore_index=-100, reduction="sum") == 0.0
    none = fx.cross_entropy(logits, np.full(4, -100), ignore_index=-100, reduction="none")
    same_bits(none, np.zeros(4))
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        assert math.isnan(fx.cross_entropy(logits, np.full(4, -100), ignore_index=-100))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class(dtype):
    z = np.array([[0.0], [-5.0], [1e8], [-np.inf], [np.nan], [np.inf]], dtype)
    labels = np.zeros(6, int)
    same_bits(fx.cross_entropy(z, labels, reduction="none")[:3], np.zeros(3))
    assert np.isnan(fx.cross_entropy(z, labels, reduction="none")[3:]).all()
    same_bits(fx.softmax(z)[:3], np.ones((3, 1), dtype))
    np.testing.assert_allclose(fx.logsumexp(z[:3]), z[:3, 0], rtol=2.0**-21 if dtype == "float32" else 2.0**-49)
    same_bits(fx.entropy(np.ones((3, 1), dtype), reduction="none"), np.zeros(3))


def test_one_row_without_leading_axes():
    logits, _, _ = example((1, 5), "float64")
    alone = fx.cross_entropy(logits[0], 3)
    assert alone == fx.cross_entropy(logits, [3])
    for label in (3, np.int8(3), np.array(3)):
        none = fx.cross_entropy(logits[0], label, reduction="none", sample_weight=1.0)
        assert isinstance(none, np.float64)
        assert none == alone
    assert fx.logsumexp(logits[0]) == fx.logsumexp(logits)[0]
    same_bits(fx.softmax(logits[0]), fx.softmax(logits)[0])
    target = probabilities(logits[0])
    assert fx.cross_entropy(logits[0], target) == fx.cross_entropy(logits, target[None])
    assert fx.entropy(target) == fx.entropy(target[None])


def test_what_is_broadcast_is_read_as_it_is():
    row = np.array([0.5, -1.0, 2.0], np.float32)
    z = np.broadcast_to(row, (4, 5, 3))
    labels = np.broadcast_to(np.int64(1), (4, 5))
    same_bits(fx.cross_entropy(z, labels, reduction="none"), np.full((4, 5), fx.cross_entropy(row, 1)))
    same_bits(fx.softmax(z), np.broadcast_to(fx.softmax(row), (4, 5, 3)))
    equal = np.broadcast_to(np.float32(2), (6, 3))
    same_bits(fx.softmax(equal), fx.softmax(equal.copy()))


def test_sums_and_means_are_python_floats():
    logits, labels, weights = example((20, 5))
    p = probabilities(logits.astype(float))
    for reduction in ("sum", "mean"):
        results = [
            fx.cross_entropy(logits, labels, reduction=reduction),
            fx.cross_entropy(logits, p, reduction=reduction),
            fx.nll(np.log(p), labels, reduction=reduction),
            fx.log_loss(p, labels, reduction=reduction),
            fx.binary_cross_entropy(logits, p, reduction=reduction),
            fx.binary_log_loss(p, p, reduction=reduction),
            fx.entropy(p, reduction=reduction),
            fx.kl_divergence(p, p, reduction=reduction),
        ]
        assert [type(x) for x in results] == [float] * len(results)
    assert type(fx.log_likelihood(logits, labels)) is float
    assert type(fx.perplexity(logits, labels)) is float
    assert type(fx.perplexity(logits, labels, sample_weight=weights)) is float
    assert fx.cross_entropy(logits, labels, reduction="none").dtype == np.float64
    assert fx.logsumexp(logits).dtype == np.float64
    assert fx.softmax(logits).dtype == np.float32


# ---- out ----


def test_out_is_filled_and_returned():
    logits, labels, weights = example((4, 5, 6))
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none")
    larger = np.zeros((8, 5, 2))
    for out in (
        np.zeros((4, 5)),
        np.zeros((5, 4)).T,
        larger[::2, :, 0],
        larger[::-2, ::-1, 1],
        offset(np.zeros((4, 5)), 0.5),
    ):
        assert fx.cross_entropy(logits, labels, sample_weight=weights, reduction="none", out=out) is out
        same_bits(out, expected)
    for reduction in ("sum", "mean"):
        out = np.zeros(())
        assert fx.cross_entropy(logits, labels, reduction=reduction, out=out) is out
        assert out == fx.cross_entropy(logits, labels, reduction=reduction)
    out = np.zeros((4, 5))
    assert fx.logsumexp(logits, out=out) is out
    same_bits(out, fx.logsumexp(logits))
    assert fx.entropy(logits, kind="logits", reduction="none", out=out.T[::-1].T[:, ::-1]) is not None
    same_bits(out, fx.entropy(logits, kind="logits", reduction="none"))
    out = np.zeros(())
    assert fx.kl_divergence(logits, logits, kind="logits", out=out) is out
    assert fx.binary_cross_entropy(logits[0, 0], [1, 0, 1, 0, 1, 0], out=out) is out


def test_out_may_be_an_input():
    logits, labels, weights = example((30, 1), "float64")
    expected = fx.cross_entropy(logits, labels, sample_weight=weights, temperature=0.5, reduction="none")
    assert (
        fx.cross_entropy(logits, labels, sample_weight=weights, temperature=0.5, reduction="none", out=weights)
        is weights
    )
    same_bits(weights, expected)
    logits, labels, _ = example((10, 3), "float64")
    expected = fx.cross_entropy(logits, labels, reduction="none")
    column = logits[:, 1]
    fx.cross_entropy(logits, labels, reduction="none", out=column)
    same_bits(column, expected)
    memory = np.random.default_rng(0).random(40)
    expected = fx.logsumexp(memory[:30].reshape(10, 3))
    same_bits(fx.logsumexp(memory[:30].reshape(10, 3), out=memory[5:15]), expected)
    z, t = np.linspace(-3, 3, 50), np.linspace(0, 1, 50)
    expected = fx.binary_cross_entropy(z, t, reduction="none")
    same_bits(fx.binary_cross_entropy(z, t, reduction="none", out=t), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 3), (33, 10), (9, 100), (3, 1000), (40, 1000), (2, 70_000)], ids=str)
@pytest.mark.parametrize("function", [fx.softmax, fx.log_softmax])
def test_softmax_may_overwrite_its_input(function, shape, dtype):
    logits, _, _ = example(shape, dtype)
    expected = function(logits)
    for layout in (np.copy, np.asfortranarray, padded, lambda x: x[::-1, ::-1].copy()[::-1, ::-1]):
        z = layout(logits).view() if layout is padded else layout(logits).copy(order="K")
        assert function(z, out=z) is z
        same_bits(z, expected)
    memory = np.zeros(logits.size + 7, dtype)
    for shift in (0, 1, 7):  # what overlaps otherwise is computed aside
        memory[: logits.size] = logits.ravel()
        out = memory[shift : shift + logits.size].reshape(shape)
        same_bits(function(memory[: logits.size].reshape(shape), out=out), expected)
    if shape[0] == 3:
        square = logits[:, :3].copy()
        expected = function(square)
        same_bits(function(square, out=square.T), expected)
    out = np.zeros(shape[::-1], dtype).T
    assert function(logits, out=out) is out
    same_bits(out, function(logits))
    other = np.zeros(shape[::-1], dtype)
    assert function(logits.T, axis=0, out=other) is other
    same_bits(other.T, function(logits))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 3), (33, 10), (9, 100), (40, 1001)], ids=str)
@pytest.mark.parametrize("function", [fx.softmax, fx.log_softmax])
def test_softmax_past_the_caches_is_the_same(function, shape, dtype, monkeypatch):
    logits, _, _ = example(shape, dtype)
    expected = function(logits)
    monkeypatch.setattr(batch, "STREAM_BYTES", 0)
    same_bits(function(logits), expected)
    for shift in (0, 1, 5, 31):  # the places in a cache line where a row may begin
        memory = np.full(logits.size + 64, 7, dtype)
        out = memory[shift : shift + logits.size].reshape(shape)
        same_bits(function(logits, out=out), expected)
        assert (np.delete(memory, np.s_[shift : shift + logits.size]) == 7).all()
    wide = np.full((shape[0], shape[1] + 3), 7, dtype)
    same_bits(function(logits, out=wide[:, 1:-2]), expected)
    assert (wide[:, [0, -2, -1]] == 7).all()
    same_bits(function(logits, out=np.zeros((*shape, 2), dtype)[..., 0]), expected)


@pytest.mark.parametrize("function", [fx.softmax, fx.log_softmax])
def test_softmax_of_rows_that_rise_or_fall_far_after_their_beginning(function):
    for first, rest in ((-80, 0), (0, -95), (0, -np.inf), (-np.inf, 0), (-7000, 0)):
        z = np.full((2, 200_000), rest, np.float32)
        z[:, :64] = first
        z[1] = z[1, ::-1]
        np.testing.assert_allclose(function(z), function(z.astype(np.float64)), rtol=3e-7, atol=1e-45)
    z = np.zeros((1, 1000), np.float32)
    z[0, 500] = np.nan
    assert np.isnan(function(z)).all()


# ---- memory ----


@pytest.mark.parametrize(
    "case", ["float16", "byte-swapped", "Fortran order", "small labels", "soft", "read-only", "softmax"]
)
def test_extra_memory_is_bounded(case):
    """128 MB and more of input are read in slices: NumPy reports what it allocates to tracemalloc."""
    rows, classes = 1 << 20, 32
    labels = np.zeros(rows, np.int8 if case == "small labels" else np.int64)
    if case == "float16":
        z = np.zeros((rows, 2 * classes), np.float16)
    elif case == "small labels":
        z = np.zeros((rows * 32, 1), np.float32)
        labels = np.zeros(rows * 32, np.int8)
    else:
        z = np.zeros(
            (rows, classes), ">f4" if case == "byte-swapped" else "f4", order="F" if case == "Fortran order" else "C"
        )
    target = labels
    if case == "soft":
        target = np.zeros((rows, classes), np.int8)
        target[:, 0] = 1
    if case == "read-only":
        z.setflags(write=False)
    out = z if case == "softmax" else None
    weights = np.ones(z.shape[0], np.float32)

    def call():
        if case == "softmax":
            fx.softmax(z, out=out)
        else:
            fx.cross_entropy(z, target, sample_weight=weights, reduction="sum")

    fx.cross_entropy(z[:100], target[:100], sample_weight=weights[:100])  # compiles
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20, f"{peak / 2**20:.0f} MB"


def test_nothing_warns():
    logits, labels, _ = example((5, 4))
    logits[0, 1], logits[1, 2], logits[2, :] = np.inf, np.nan, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fx.cross_entropy(logits, labels, reduction="none")
        fx.softmax(logits.astype(np.float16))
        fx.log_softmax(np.array([[-60000.0, 60000.0]], np.float16))
