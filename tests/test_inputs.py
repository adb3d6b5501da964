"""What comes in from other libraries: read where it is, or refused in one line that says what to do."""

import io
from itertools import pairwise

import numpy as np
import pytest

import fastxent as fx
from fastxent.arrays import as_array, as_pieces
from fastxent.frames import Pieces

N, C = 40, 5
RNG = np.random.default_rng(7)
Z = RNG.standard_normal((N, C)).astype(np.float32)
P = fx.softmax(RNG.standard_normal((N, C)).astype(np.float32))
Y = RNG.integers(0, C, N)
S = RNG.random(N)
W = RNG.random(C) + 0.5


def address(x):
    return x.__array_interface__["data"][0]


def reads_in_place(x, memory):
    """Whether fastxent reads exactly the memory of an array, element by element."""
    seen, _ = as_pieces(x, "x")
    return (
        isinstance(seen, np.ndarray)
        and address(seen) == address(memory)
        and seen.shape == memory.shape
        and (seen.strides == memory.strides or seen.size < 2)
    )


def every_function(z, p, y, s, w, b, t):
    """Each public function that takes arrays; z logits, p probabilities, b binary logits, t binary targets."""
    log_p = fx.log_softmax(z)
    card = fx.score(z, y, sample_weight=s, ids=y).to_dict()
    return [
        fx.cross_entropy(z, y, weight=w, sample_weight=s, reduction="none"),
        fx.cross_entropy(z, p, weight=w, sample_weight=s, label_smoothing=0.1),
        fx.nll(log_p, y, weight=w, sample_weight=s),
        fx.log_loss(p, y, weight=w, sample_weight=s, normalize=True),
        fx.log_likelihood(z, y, sample_weight=s),
        fx.perplexity(z, y, sample_weight=s),
        fx.entropy(p, reduction="none"),
        fx.kl_divergence(p, p),
        fx.logsumexp(z),
        fx.softmax(z),
        log_p,
        fx.binary_cross_entropy(b, t, sample_weight=s, reduction="none"),
        fx.binary_log_loss(t, t, sample_weight=s),
        card,
        *fx.cross_entropy_value_and_grad(z, y, weight=w, sample_weight=s),
        *fx.cross_entropy_value_and_grad(z, p, reduction="none", grad_scale=s),
        *fx.binary_cross_entropy_value_and_grad(b, t, sample_weight=s),
    ]


def same(results, expected):
    for a, b in zip(results, expected, strict=True):
        if isinstance(a, np.ndarray):
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()
        else:
            assert a == b


ARRAYS = (Z, P, Y, S, W, Z[:, 0].copy(), P[:, 0].copy())


@pytest.fixture(scope="module")
def expected():
    return every_function(*ARRAYS)


# ---- Arrow ----

pa = pytest.importorskip("pyarrow")


def lists(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])


def table(x, **options):
    return pa.table({f"class_{k}": pa.array(x[:, k]) for k in range(x.shape[1])}, **options)


def chunked(x, cuts=(0, 7, 7, 30, N)):
    make = pa.array if x.ndim == 1 else lists
    return pa.chunked_array([make(np.ascontiguousarray(x[a:b])) for a, b in pairwise(cuts)])


def chunked_table(x):
    """Columns cut at different rows."""
    return pa.table({f"class_{k}": chunked(x[:, k], (0, k, 20 + k, N)) for k in range(x.shape[1])})


class Stream:
    """What other libraries hand over: Arrow's C interface and nothing else."""

    def __init__(self, x):
        self.x = x

    def __arrow_c_stream__(self, requested_schema=None):
        return self.x.__arrow_c_stream__(requested_schema)


class Array(Stream):
    def __arrow_c_array__(self, requested_schema=None):
        return self.x.__arrow_c_array__(requested_schema)

    __arrow_c_stream__ = property()


def varying(x):
    return pa.array(list(x))


MATRICES = {
    "fixed-size lists": lists,
    "lists": varying,
    "lists in chunks": chunked,
    "table": table,
    "table in chunks": chunked_table,
    "record batch": lambda x: table(x).to_batches()[0],
    "stream": lambda x: Stream(table(x)),
    "stream of lists": lambda x: Stream(chunked(x)),
    "C array": lambda x: Array(lists(x)),
    "C struct array": lambda x: Array(table(x).to_batches()[0]),
    "tensors": lambda x: pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (C,)), lists(x)),
}


@pytest.mark.parametrize("form", MATRICES)
def test_arrow_goes_into_every_function(form, expected):
    column = chunked if "chunks" in form else pa.array
    forms = [MATRICES[form] if x.ndim == 2 else column for x in ARRAYS]
    same(every_function(*(make(x) for make, x in zip(forms, ARRAYS))), expected)


def test_arrow_memory_is_read_in_place():
    assert reads_in_place(pa.array(Y), Y)
    assert reads_in_place(pa.chunked_array([pa.array(S)]), S)
    assert reads_in_place(pa.array(S)[3:9], S[3:9])
    assert reads_in_place(lists(Z), Z)
    assert reads_in_place(lists(Z)[3:9], Z[3:9])
    assert reads_in_place(pa.chunked_array([lists(Z)]), Z)
    values = pa.array(Z.reshape(-1))
    offsets = pa.array(np.arange(0, N * C + 1, C, dtype=np.int32))
    assert reads_in_place(pa.ListArray.from_arrays(offsets, values), Z)
    assert reads_in_place(Stream(pa.chunked_array([lists(Z)])), Z)
    assert reads_in_place(Array(lists(Z)), Z)
    halves = Z.astype(np.float16)
    assert reads_in_place(lists(halves), halves)


def test_evenly_spaced_columns_are_a_matrix_as_they_stand():
    by_class = np.asfortranarray(Z)
    assert reads_in_place(table(by_class), by_class)
    assert reads_in_place(table(by_class).to_batches()[0], by_class)
    assert reads_in_place(table(by_class)[3:9], by_class[3:9])
    assert reads_in_place(table(by_class).select(["class_4", "class_2", "class_0"]), by_class[:, ::-2])
    assert reads_in_place(Stream(table(by_class)), by_class)
    two = [Z[:, 0].copy(), Z[:, 1].copy()]  # wherever they are
    seen, _ = as_pieces(pa.table({"a": two[0], "b": two[1]}), "x")
    assert [address(seen[:, k]) for k in (0, 1)] == [address(x) for x in two]


def test_an_arrow_file_in_memory_is_read_in_place():
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table(Z).schema) as writer:
        writer.write_table(table(Z))
        writer.write_table(table(Z[:9]))
    content = np.frombuffer(sink.getvalue(), np.uint8)
    pieces, _ = as_pieces(pa.ipc.open_file(pa.py_buffer(content)).read_all(), "x")
    for start, stop in ((0, N), (N, N + 9)):
        seen = pieces.read(start, stop)
        assert address(content) <= address(seen) < address(content) + content.size
        assert seen.tobytes() == Z[: stop - start].tobytes()


def test_chunks_are_read_one_by_one_and_in_place(monkeypatch):
    """Large chunks as they are; small ones together; columns apart a few rows at a time."""
    parts = [Z, np.concatenate([Z, Z])]
    pieces, _ = as_pieces(pa.chunked_array([lists(x) for x in parts]), "x")
    assert isinstance(pieces, Pieces)
    assert pieces.reach(0, 1000) == 3 * N  # a copy costs less than a call
    monkeypatch.setattr("fastxent.frames.FEW_BYTES", 0)
    assert pieces.reach(0, 1) == N
    assert pieces.reach(N, 1) == 3 * N
    assert [address(pieces.read(0, N)), address(pieces.read(N, 3 * N))] == [address(x) for x in parts]
    apart, _ = as_pieces(chunked_table(Z), "x")
    assert apart.reach(10, 7) == 17
    assert apart.whole().tobytes() == Z.tobytes()


@pytest.mark.parametrize("copied", [1, 200, 1 << 24])
@pytest.mark.parametrize("few", [0, 1 << 18])
def test_pieces_change_no_bit(copied, few, expected, monkeypatch):
    monkeypatch.setattr("fastxent.slices.COPY_BYTES", copied)
    monkeypatch.setattr("fastxent.frames.FEW_BYTES", few)
    z, y, s = chunked_table(Z), chunked(Y), chunked(S, (0, 11, N))
    same(
        [fx.cross_entropy(z, y, weight=W, sample_weight=s, reduction="none"), fx.softmax(z)], [expected[0], expected[9]]
    )
    same(
        [fx.cross_entropy(chunked(Z), chunked_table(P), weight=W, sample_weight=s, label_smoothing=0.1)], [expected[1]]
    )
    same([fx.softmax(table(Z), axis=0)], [fx.softmax(Z, axis=0)])
    out = np.empty_like(Z)
    assert fx.softmax(z, out=out) is out
    same([out], [expected[9]])
    out = np.empty(N)
    assert fx.cross_entropy(z, y, weight=W, sample_weight=s, reduction="none", out=out) is out
    same([out], [expected[0]])


def test_columns_of_several_dtypes_are_read_in_their_common_one():
    mixed = pa.table({"a": Z[:, 0], "b": Z[:, 1].astype(np.float64), "c": Y.astype(np.int8)})
    same([fx.logsumexp(mixed)], [fx.logsumexp(np.column_stack([Z[:, :2], Y]).astype(np.float64))])


def test_errors_about_pieces_name_the_row():
    y = Y.copy()
    y[33] = 9
    with pytest.raises(ValueError, match=r"^target: row 33 is 9, outside 0\.\.4"):
        fx.cross_entropy(chunked_table(Z), chunked(y))
    p = P.copy()
    p[21, 3] = 2
    with pytest.raises(ValueError, match=r"^probs: row 21 has 2\.0 for class 3"):
        fx.log_loss(chunked_table(p), Y)
    with pytest.raises(ValueError, match=r"^log_probs: row 21 has 2\.0 for class 3"):
        fx.nll(chunked_table(np.where(p == 2, 2, -p)), np.full(N, 3))
    s = S.copy()
    s[31] = -1
    with pytest.raises(ValueError, match=r"^sample_weight: row 31 has -1\.0"):
        fx.cross_entropy(chunked(Z), Y, sample_weight=chunked(s))
    t = P[:, 0].copy()
    t[8] = 3
    with pytest.raises(ValueError, match=r"^target: row 8 is 3\.0"):
        fx.binary_cross_entropy(chunked(Z[:, 0]), chunked(t))


def with_null(x, row):
    x = x.tolist()
    x[row] = None
    return x


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (pa.array(with_null(Y, 4)), "row 4 is null"),
        (pa.chunked_array([Y[:10], pa.array(with_null(Y[10:], 2))]), "row 12 is null"),
        (pa.array(Y).cast("string"), "strings; encode each as its class's number"),
        (pa.array(Y).cast("string").dictionary_encode(), "pass its .indices"),
        (pa.array([None] * N), "null; need numbers"),
        (pa.array(Y).cast("timestamp[s]"), "timestamp[s]; need numbers"),
        (lists(np.stack([Y, Y], 1)), "shape (40, 2) does not go with logits"),
    ],
    ids=str,
)
def test_arrow_targets_that_are_no_classes(target, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        fx.cross_entropy(Z, target)
    message = str(caught.value)
    assert message.startswith("target: ")
    assert says in message
    assert "\n" not in message


def test_arrow_predictions_that_are_no_matrix():
    rows = Z.tolist()
    rows[6][2] = None
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), C)):
        with pytest.raises(ValueError, match=r"^logits: row 6 is null"):
            fx.cross_entropy(pa.array(rows, kind), Y)
    with pytest.raises(ValueError, match=r"^logits: row 6 is null"):
        fx.cross_entropy(pa.array(with_null(Z, 6), pa.list_(pa.float32(), C)), Y)
    with pytest.raises(ValueError, match=r"^logits: row 5 has 3 numbers, the rows before 5"):
        fx.cross_entropy(pa.array([*Z.tolist()[:5], [1.0, 2.0, 3.0]]), Y[:6])
    with pytest.raises(ValueError, match=r"^logits: lists of 5, 3 numbers"):
        fx.cross_entropy(pa.chunked_array([pa.array(Z.tolist()), pa.array([[1.0, 2.0, 3.0]])]), Y)
    with pytest.raises(ValueError, match=r"^logits: row 3, column 'b' is null, one of 1"):
        fx.cross_entropy(pa.table({"a": Z[:, 0], "b": with_null(Z[:, 1], 3)}), Y)
    with pytest.raises(TypeError, match=r"^logits: column 'z' holds lists; pass that column alone"):
        fx.cross_entropy(pa.table({"z": lists(Z)}), Y)
    with pytest.raises(TypeError, match=r"^logits: strings, column 'b'"):
        fx.cross_entropy(pa.table({"a": [1.0], "b": ["x"]}), [0])
    with pytest.raises(ValueError, match=r"^logits: has no classes"):
        fx.cross_entropy(pa.table({}), [])


def test_no_rows_of_arrow():
    assert fx.cross_entropy(table(Z)[:0], pa.array(Y)[:0], reduction="sum") == 0.0
    assert fx.cross_entropy(lists(Z)[:0], pa.chunked_array([], pa.int64()), reduction="none").shape == (0,)
    assert fx.softmax(pa.chunked_array([], pa.list_(pa.float32(), C))).shape == (0, C)


def test_arrow_without_pyarrow_says_what_to_install(monkeypatch):
    import sys

    x = Stream(table(Z))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'fastxent\[parquet\]'"):
        fx.cross_entropy(x, Y)


# ---- NumPy's own ----


@pytest.mark.parametrize("target", [["cat", "dog"], np.array(["cat", "dog"]), np.array(["cat", "dog"], object)])
def test_names_of_classes_are_refused_with_advice(target):
    with pytest.raises(TypeError, match=r"^target: .*encode each as its class's number") as caught:
        fx.cross_entropy(Z[:2], target)
    assert "\n" not in str(caught.value)


def test_a_missing_label_is_named_where_it_made_floats_of_the_others():
    with pytest.raises(TypeError, match=r"^target: dtype float64 .*row 2 is nan: fill or drop missing values"):
        fx.cross_entropy(Z[:4], [1, 0, float("nan"), 3])


class Elsewhere:
    def __init__(self, device):
        self.device = device

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, **options):
        raise AssertionError("read")

    __array__ = __dlpack__


def test_other_devices_are_refused_before_anything_is_copied():
    for name, call in (("logits", lambda x: fx.cross_entropy(x, Y)), ("out", lambda x: fx.softmax(Z, out=x))):
        with pytest.raises(TypeError, match=rf"^{name}: .* on another device \(DLPack's number 2\)"):
            call(Elsewhere(2))

    class OnGpu:
        __cuda_array_interface__ = None

    with pytest.raises(TypeError, match=r"^logits: an object of type OnGpu on a GPU; copy it to the CPU first"):
        fx.cross_entropy(OnGpu(), Y)


class Dlpack:
    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_out_may_be_any_array_that_can_be_written_through_dlpack():
    assert reads_in_place(Dlpack(Z), Z)
    memory = np.empty_like(Z)
    out = Dlpack(memory)
    assert fx.softmax(Z, out=out) is out
    same([memory], [fx.softmax(Z)])
    fixed = np.empty_like(Z)
    fixed.flags.writeable = False
    for bad in (Dlpack(fixed), fixed):
        with pytest.raises((TypeError, ValueError), match=r"^out: "):
            fx.softmax(Z, out=bad)
    with pytest.raises(TypeError, match=r"^out: an object of type Table cannot be written to"):
        fx.softmax(Z, out=table(Z))


# ---- pandas, polars, torch, jax ----


@pytest.mark.peers
class TestPandas:
    pd = None

    @pytest.fixture(autouse=True)
    def _pandas(self):
        type(self).pd = pytest.importorskip("pandas")

    def frames(self, x):
        pd = self.pd
        grown = pd.DataFrame({"class_0": x[:, 0]})
        for k in range(1, x.shape[1]):
            grown[f"class_{k}"] = x[:, k].copy()
        arrow = pd.DataFrame(
            {f"c{k}": pd.Series(x[:, k], dtype=pd.ArrowDtype(pa.float32())) for k in range(x.shape[1])}
        )
        nullable = pd.DataFrame(x).astype("Float32")
        listed = pd.Series(x.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float32(), x.shape[1])))
        return {"block": pd.DataFrame(x), "grown": grown, "arrow": arrow, "nullable": nullable, "lists": listed}

    @pytest.mark.parametrize("form", ["block", "grown", "arrow", "nullable", "lists"])
    def test_frames_go_into_every_function(self, form, expected):
        forms = [self.frames(x)[form] if x.ndim == 2 else self.pd.Series(x) for x in ARRAYS]
        same(every_function(*forms), expected)

    def test_memory_is_read_in_place(self):
        pd = self.pd
        frame = pd.DataFrame(Z)
        block = frame.to_numpy()
        assert reads_in_place(frame, block)
        assert reads_in_place(frame.iloc[3:9], block[3:9])
        assert reads_in_place(frame[1], block[:, 1])
        assert reads_in_place(pd.Series(Y, copy=False), Y)
        column = pd.Series(Y, dtype="Int64")
        assert reads_in_place(column, column.to_numpy(dtype="int64"))
        column = pd.Series(S, dtype=pd.ArrowDtype(pa.float64()))
        assert reads_in_place(column, column.to_numpy())
        seen, _ = as_pieces(self.frames(Z)["grown"], "x")
        assert isinstance(seen, Pieces) or seen.base is not None

    def test_what_is_no_number_is_refused(self):
        pd = self.pd
        for target, says in (
            (pd.Series(with_null(Y, 4), dtype="Int64"), "row 4 is null"),
            (pd.Series(with_null(Y, 4), dtype=pd.ArrowDtype(pa.int64())), "row 4 is null"),
            (pd.Series(Y).astype(str), "strings; encode each"),
            (pd.Series(Y).astype("category"), "pass x.cat.codes"),
            (pd.Series([{}] * N), "need numbers"),
            (pd.Series(pd.to_datetime(Y)), "need numbers"),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                fx.cross_entropy(Z, target)
            assert str(caught.value).startswith("target: ")
            assert says in str(caught.value)
        frame = pd.DataFrame(Z).astype("Float32")
        frame.iloc[6, 2] = pd.NA
        with pytest.raises(ValueError, match=r"^logits: row 6, column 2 is null"):
            fx.cross_entropy(frame, Y)
        with pytest.raises(ValueError, match=r"^logits: has no classes"):
            fx.cross_entropy(pd.DataFrame(index=range(3)), Y[:3])
        with pytest.raises(ValueError, match=r"^logits: Expected unique column names.*'a' 2 times$"):
            fx.softmax(pd.concat([pd.DataFrame({"a": [1.0], "b": [1]}), pd.DataFrame({"a": [1.0]})], axis=1))


@pytest.mark.peers
class TestPolars:
    pl = None

    @pytest.fixture(autouse=True)
    def _polars(self):
        type(self).pl = pytest.importorskip("polars")

    def matrices(self, x):
        pl = self.pl
        frame = pl.DataFrame({f"class_{k}": x[:, k].copy() for k in range(x.shape[1])})
        array = pl.Series(np.ascontiguousarray(x), dtype=pl.Array(pl.Float32, x.shape[1]))
        return {
            "frame": frame,
            "chunks": pl.concat([frame[:9], frame[9:]], rechunk=False),
            "arrays": array,
            "arrays in chunks": pl.concat([array[:9], array[9:]], rechunk=False),
        }

    @pytest.mark.parametrize("form", ["frame", "chunks", "arrays", "arrays in chunks"])
    def test_frames_go_into_every_function(self, form, expected):
        forms = [self.matrices(x)[form] if x.ndim == 2 else self.pl.Series(x) for x in ARRAYS]
        same(every_function(*forms), expected)

    def test_memory_is_read_in_place(self):
        pl = self.pl
        by_class = np.asfortranarray(Z)
        assert reads_in_place(pl.DataFrame(by_class), by_class)
        assert reads_in_place(pl.DataFrame(by_class)[3:9], by_class[3:9])
        series = pl.Series(Y)
        assert reads_in_place(series, series.to_numpy())
        array = self.matrices(Z)["arrays"]
        assert reads_in_place(array, array.to_numpy())
        assert reads_in_place(array[3:9], array.to_numpy()[3:9])
        frame = self.matrices(Z)["frame"]  # columns in buffers of their own: each is read where it is
        seen, _ = as_pieces(frame, "x")
        columns = seen._pieces[0] if isinstance(seen, Pieces) else list(seen.T)
        assert [address(c) for c in columns] == [address(c.to_numpy()) for c in frame.get_columns()]

    def test_what_is_no_number_is_refused(self):
        pl = self.pl
        for target, says in (
            (pl.Series(with_null(Y, 4)), "row 4 is null"),
            (pl.Series(Y).cast(pl.String), "strings; encode each"),
            (pl.Series(Y).cast(pl.String).cast(pl.Categorical), "pass x.to_physical()"),
            (pl.Series(Z.tolist()), "cast them to polars.Array"),
            (pl.DataFrame({"a": Y}).lazy(), "pass x.collect()"),
        ):
            with pytest.raises((TypeError, ValueError)) as caught:
                fx.cross_entropy(Z, target)
            assert str(caught.value).startswith("target: ")
            assert says in str(caught.value)
        rows = Z.tolist()
        rows[6][2] = None
        with pytest.raises(ValueError, match=r"^logits: row 6 is null"):
            fx.cross_entropy(pl.Series(rows, dtype=pl.Array(pl.Float32, C)), Y)
        frame = pl.DataFrame({"a": Z[:, 0], "b": with_null(Z[:, 1], 3)})
        with pytest.raises(ValueError, match=r"^logits: row 3, column 'b' is null"):
            fx.cross_entropy(frame, Y)

    def test_narwhals_own_frames(self):
        nw = pytest.importorskip("narwhals")
        frame = self.matrices(Z)["frame"]
        same([fx.softmax(nw.from_native(frame))], [fx.softmax(Z)])


@pytest.mark.peers
class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    def test_tensors_go_into_every_function(self, expected):
        same(every_function(*map(self.torch.from_numpy, ARRAYS)), expected)

    def test_memory_is_read_in_place(self):
        torch = self.torch
        for x in (Z, Z[::2], Z.T, Z.reshape(2, 20, C), Y):
            assert reads_in_place(torch.from_numpy(x), x)
        halves = torch.from_numpy(Z).to(torch.bfloat16)
        for x in (halves, halves.T, halves[::3]):
            seen, bfloat16 = as_array(x, "x")
            assert bfloat16
            assert address(seen) == x.data_ptr()
            assert seen.strides == tuple(2 * s for s in x.stride())

    def test_a_tensor_that_requires_grad_is_refused_where_gradients_are_recorded(self):
        torch = self.torch
        z = torch.tensor(Z, requires_grad=True)
        with pytest.raises(TypeError, match=r"^logits: a tensor that requires grad, which stops here; .*\.detach\(\)"):
            fx.cross_entropy(z, Y)
        same([fx.cross_entropy(z.detach(), Y)], [fx.cross_entropy(Z, Y)])
        with torch.no_grad():
            same([fx.cross_entropy(z, Y)], [fx.cross_entropy(Z, Y)])
        with torch.inference_mode():
            same([fx.softmax(torch.tensor(Z), out=torch.empty(N, C)).numpy()], [fx.softmax(Z)])

    @pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
    def test_out_may_be_a_tensor(self, name):
        pytest.importorskip("ml_dtypes")
        torch = self.torch
        z = torch.tensor(Z).to(getattr(torch, name))
        out = torch.empty(C, N, dtype=z.dtype).T  # of any strides
        assert fx.softmax(z, out=out) is out
        assert torch.equal(out, torch.from_numpy(fx.softmax(z).view(f"i{z.itemsize}")).view(z.dtype))
        with pytest.raises(TypeError, match=r"^out: a tensor that requires grad"):
            fx.softmax(z, out=out.requires_grad_())
        with pytest.raises(TypeError, match=r"^out: a tensor on meta"):
            fx.softmax(z, out=torch.empty(N, C, dtype=z.dtype, device="meta"))


@pytest.mark.peers
class TestJax:
    @pytest.fixture(autouse=True)
    def _jax(self):
        self.jax = pytest.importorskip("jax")

    def test_arrays_go_into_every_function(self, expected):
        narrow = (Z, P, Y.astype(np.int32), S.astype(np.float32), W.astype(np.float32), *ARRAYS[5:])
        same(every_function(*map(self.jax.numpy.asarray, narrow)), every_function(*narrow))

    def test_memory_is_read_in_place_and_never_written(self):
        jnp = self.jax.numpy
        for z in (jnp.asarray(Z), jnp.asarray(Z).astype("bfloat16")):
            seen, _ = as_array(z, "x")
            assert address(seen) == z.unsafe_buffer_pointer()
        with pytest.raises(ValueError, match=r"^out: is read-only"):
            fx.softmax(Z, out=jnp.zeros((N, C), jnp.float32))

    def test_inside_jit_it_is_refused_in_one_line(self):
        with pytest.raises(TypeError, match=r"^logits: ") as caught:
            self.jax.jit(lambda z: fx.cross_entropy(z, Y))(Z)
        assert "\n" not in str(caught.value)


# ---- Every function reads the memory that it is given ----

LOG_P, HIDDEN, CLASSIFIER = np.log(P), RNG.standard_normal((N, C)).astype(np.float32), Z[::-2].copy()
READERS = {  # name: (call, the arrays whose memory the kernels must read), by letters
    "cross_entropy": ("zys", lambda z, y, s: fx.cross_entropy(z, y, sample_weight=s)),
    "cross_entropy of distributions": ("zps", lambda z, p, s: fx.cross_entropy(z, p, sample_weight=s)),
    "nll": ("lys", lambda log_p, y, s: fx.nll(log_p, y, sample_weight=s)),
    "log_loss": ("pys", lambda p, y, s: fx.log_loss(p, y, sample_weight=s)),
    "log_likelihood": ("zys", lambda z, y, s: fx.log_likelihood(z, y, sample_weight=s)),
    "perplexity": ("zys", lambda z, y, s: fx.perplexity(z, y, sample_weight=s)),
    "entropy": ("p", fx.entropy),
    "kl_divergence": ("pq", fx.kl_divergence),
    "logsumexp": ("z", fx.logsumexp),
    "softmax": ("z", fx.softmax),
    "log_softmax": ("z", fx.log_softmax),
    "binary_cross_entropy": ("bts", lambda b, t, s: fx.binary_cross_entropy(b, t, sample_weight=s)),
    "binary_log_loss": ("ts", lambda t, s: fx.binary_log_loss(t, t, sample_weight=s)),
    "focal_loss": ("zys", lambda z, y, s: fx.focal_loss(z, y, sample_weight=s)),
    "focal gradient": ("zy", fx.focal_loss_value_and_grad),
    "gradient": ("zys", lambda z, y, s: fx.cross_entropy_value_and_grad(z, y, sample_weight=s)),
    "gradient of distributions": ("zp", fx.cross_entropy_value_and_grad),
    "binary gradient": ("bt", fx.binary_cross_entropy_value_and_grad),
    "score": ("zy", fx.score),
    "score of probabilities": ("py", lambda p, y: fx.score(p, y, kind="probs")),
    "compare": ("zay", lambda z, a, y: fx.compare(z, a, target=y)),
}
NUMBERS = {"z": Z, "a": Z[::-1].copy(), "p": P, "q": P[::-1].copy(), "l": LOG_P, "y": Y, "s": S}
NUMBERS |= {"b": ARRAYS[5], "t": ARRAYS[6]}


def from_torch(x):
    tensor = pytest.importorskip("torch").from_numpy(x)
    return tensor, tensor.data_ptr()


def from_jax(x):
    array = pytest.importorskip("jax").numpy.asarray(x)
    return array, array.unsafe_buffer_pointer()


def from_arrow(x):
    return (lists(x) if x.ndim == 2 else pa.array(x)), address(x)


def from_pandas(x):
    pd = pytest.importorskip("pandas")
    made = pd.DataFrame(x) if x.ndim == 2 else pd.Series(x)
    return made, address(made.to_numpy())


def from_polars(x):
    pl = pytest.importorskip("polars")
    made = pl.Series(x, dtype=pl.Array(pl.Float32, x.shape[1])) if x.ndim == 2 else pl.Series(x)
    return made, address(made.to_numpy())


@pytest.mark.peers
@pytest.mark.parametrize("function", READERS)
@pytest.mark.parametrize("make", [from_torch, from_jax, from_arrow, from_pandas, from_polars])
def test_the_kernels_of_every_function_read_the_users_own_memory(make, function, monkeypatch):
    """jax holds labels and weights in types of half the width, which alone are widened."""
    from fastxent.kernels.batch import Call

    letters, call = READERS[function]
    made, there = zip(*(make(NUMBERS[letter]) for letter in letters))
    seen, create = set(), Call.__init__

    def watched(self, *args, **options):
        create(self, *args, **options)
        seen.update(address(x) for x in (self.first, self.second, self.labels, self.sample_weight))

    monkeypatch.setattr(Call, "__init__", watched)
    call(*made)
    must = {at for letter, at in zip(letters, there) if make is not from_jax or letter not in "ys"}
    assert must <= seen, [letter for letter, at in zip(letters, there) if at in must - seen]


def test_linear_cross_entropy_multiplies_the_users_own_memory(monkeypatch):
    from fastxent.linear import blocks

    seen, product = set(), blocks.product

    def watched(left, right, into):
        seen.update({address(left), address(right)})
        return product(left, right, into)

    monkeypatch.setattr(blocks, "product", watched)
    fx.linear_cross_entropy(lists(HIDDEN), lists(CLASSIFIER), pa.array(Y % len(CLASSIFIER)))
    assert {address(HIDDEN), address(CLASSIFIER)} <= seen
