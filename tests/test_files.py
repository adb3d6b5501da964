"""Every reader gives back what was written, in chunks of bounded size, and names what is wrong with a bad file."""

import builtins
import json
import os
import zipfile

import numpy as np
import pytest

from fastxent.files import FORMATS, base, open_file
from fastxent.files.base import match_columns, natural_key
from fastxent.files.scan import Scan, Wanted

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")

N, C = 1000, 12
RNG = np.random.default_rng(20)
X = RNG.normal(size=(N, C))
Y = RNG.integers(0, C, N)
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
W = RNG.random(N)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, tmp_path):
    """Blocks of some 20 rows, and a folder for the files."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 2000)
    monkeypatch.chdir(tmp_path)


def table(**more):
    return pa.table({"y": Y, "w": W, "id": np.arange(N), **{f"logit_{k}": X[:, k] for k in range(C)}, **more})


def save(name, array):
    np.save(name, array)
    return name


def check(scan, target=Y, weight=None, ids=None, chunks=5):
    got = list(scan)
    assert len(got) >= chunks
    assert max(c.predictions.nbytes for c in got) <= 64_000
    np.testing.assert_array_equal(np.concatenate([c.predictions.reshape(-1, C) for c in got]), X)
    flat = (-1, C) if target.ndim == 2 else (-1,)
    np.testing.assert_array_equal(np.concatenate([c.target.reshape(flat) for c in got]), target)
    for field, want in (("weight", weight), ("ids", ids)):
        if want is None:
            assert all(getattr(c, field) is None for c in got)
        else:
            np.testing.assert_array_equal(np.concatenate([getattr(c, field).reshape(-1) for c in got]), want)
    for c in got:
        assert c.target.shape[: c.predictions.ndim - 1] == c.predictions.shape[:-1]
    assert scan.rows_read == N
    assert scan.bytes_read == X.nbytes


# .npy and .npz


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i8", "bfloat16"])
def test_npy_keeps_every_dtype(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = (10 * X).astype(dtype)
    scan = Scan(save("x.npy", x), save("y.npy", Y))
    got = [c.predictions for c in scan]
    assert {a.dtype for a in got} == {x.dtype}
    np.testing.assert_array_equal(np.concatenate(got).astype("f8"), x.astype("f8"))


@pytest.mark.parametrize(
    ("predictions", "target", "axis"),
    [
        (X, Y, -1),
        (np.asfortranarray(X), Y, 1),
        (np.ascontiguousarray(X.T), Y, 0),
        (X.T, Y, 0),
        (X.reshape(10, 100, C), Y.reshape(10, 100), -1),
        (X.reshape(10, 100, C), Y.reshape(10, 100), 2),
        (np.moveaxis(X.reshape(10, 20, 5, C), -1, 1).copy(), Y.reshape(10, 20, 5), 1),
        (X, P, -1),
        (np.moveaxis(X.reshape(10, 20, 5, C), -1, 1).copy(), np.moveaxis(P.reshape(10, 20, 5, C), -1, 1), 1),
    ],
)
@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
def test_arrays_of_any_layout_and_class_axis(predictions, target, axis, form):
    if form == "npy":
        files = save("x.npy", predictions), save("y.npy", target)
    else:
        (np.savez if form == "npz" else np.savez_compressed)("x.npz", predictions=predictions, target=target)
        files = ("x.npz", None)
    check(Scan(*files, Wanted(axis=axis)), target=P if target.size == P.size else Y)


def test_npz_members_by_key():
    np.savez("x.npz", a=X, b=Y, c=W, d=np.arange(N))
    wanted = Wanted(predictions_key="a", target_key="b", weight_column="c", id_column="d")
    check(Scan("x.npz", None, wanted), weight=W, ids=np.arange(N))
    np.savez("p.npz", logits=X)
    np.savez("t.npz", labels=Y)
    check(Scan("p.npz", "t.npz"))


# Tables


def test_csv_keeps_every_bit_of_float64():
    arrow_csv.write_csv(table(), "t.csv")
    wanted = Wanted(columns="logit_*", target_column="y", weight_column="w", id_column="id")
    check(Scan("t.csv", None, wanted), weight=W, ids=np.arange(N))
    check(Scan("t.csv", None, Wanted(target_column="y", weight_column="w", id_column="id")), weight=W, ids=np.arange(N))


def test_csv_reads_nan_and_infinities_and_a_tab_separated_file():
    with open("t.tsv", "w") as file:
        file.write("a\tb\ttarget\nnan\t-inf\t0\ninf\t1e-310\t1\n")
    (chunk,) = Scan("t.tsv")
    np.testing.assert_array_equal(chunk.predictions, [[np.nan, -np.inf], [np.inf, 1e-310]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_parquet_keeps_every_dtype(dtype):
    x = (10 * X).astype(dtype)
    pq.write_table(pa.table({f"c{k}": x[:, k] for k in range(C)} | {"target": Y}), "t.parquet", row_group_size=300)
    got = np.concatenate([c.predictions for c in Scan("t.parquet")])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, x)


def test_parquet_columns_and_lists():
    pq.write_table(table(), "t.parquet", row_group_size=300)
    wanted = Wanted(columns="logit_*", target_column="y", weight_column="w", id_column="id")
    check(Scan("t.parquet", None, wanted), weight=W, ids=np.arange(N))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), C)
    pq.write_table(pa.table({"logits": fixed, "target": Y}), "f.parquet", row_group_size=300)
    check(Scan("f.parquet"))
    pq.write_table(pa.table({"logits": list(X), "p": list(P)}), "v.parquet", row_group_size=300)
    check(Scan("v.parquet", None, Wanted(target_column="p")), target=P)


def test_two_files_of_different_formats():
    save("x.npy", X)
    save("x3.npy", X.reshape(10, 100, C))
    save("y.npy", Y)
    save("p.npy", P)
    arrow_csv.write_csv(table(), "t.csv")
    arrow_csv.write_csv(pa.table({"whatever": Y}), "y.csv")
    pq.write_table(table(**{f"p{k}": P[:, k] for k in range(C)}), "t.parquet")
    check(Scan("x.npy", "y.csv"))
    check(Scan("x3.npy", "y.csv"))
    wanted = Wanted(target_column="y", weight_column="w", id_column="id")
    check(Scan("x.npy", "t.parquet", wanted), weight=W, ids=np.arange(N))
    check(Scan("t.csv", "y.npy", Wanted(columns="logit_*")))
    check(Scan("t.csv", "p.npy", Wanted(columns="logit_*")), target=P)
    check(Scan("t.csv", "t.parquet", Wanted(columns="logit_*", target_column="p*")), target=P)
    check(Scan("x3.npy", "t.parquet", Wanted(target_column="p*")), target=P)


def test_columns_are_in_natural_order_and_names_in_the_order_given():
    names = ["id", "logit_10", "logit_2", "logit_1", "cat", "dog"]
    assert match_columns(names, "logit_*", "--columns", "f") == ["logit_1", "logit_2", "logit_10"]
    assert match_columns(names, "dog,cat,logit_?", "--columns", "f") == ["dog", "cat", "logit_1", "logit_2"]
    assert sorted(["a10b2", "a10b1", "a9", "a"], key=natural_key) == ["a", "a9", "a10b1", "a10b2"]


def test_empty_files_give_no_chunk():
    assert list(Scan(save("x.npy", X[:0]), save("y.npy", Y[:0]))) == []
    with open("t.csv", "w") as file:
        file.write("a,b,target\n")
    assert sum(len(c.target) for c in Scan("t.csv")) == 0


# Ranges of rows


def in_every_form():
    """(name, files, wanted) with the rows X and Y."""
    save("x.npy", X)
    save("y.npy", Y)
    save("xf.npy", np.asfortranarray(X))
    save("images.npy", np.moveaxis(X.reshape(10, 20, 5, C), -1, 1).copy())
    save("image_labels.npy", Y.reshape(10, 20, 5))
    save("long.npy", X.reshape(2, 500, C))
    save("long_labels.npy", Y.reshape(2, 500))
    np.savez("x.npz", predictions=X, target=Y)
    np.savez_compressed("compressed.npz", predictions=X.T.copy(), target=Y)
    arrow_csv.write_csv(table(), "t.csv")
    pq.write_table(table(), "t.parquet", row_group_size=300)
    columns = Wanted(columns="logit_*", target_column="y")
    return [
        ("npy", ("x.npy", "y.npy"), Wanted()),
        ("Fortran", ("xf.npy", "y.npy"), Wanted()),
        ("class axis 1", ("images.npy", "image_labels.npy"), Wanted(axis=1)),
        ("long axis inside", ("long.npy", "long_labels.npy"), Wanted()),
        ("npz", ("x.npz", None), Wanted()),
        ("compressed, class axis 0", ("compressed.npz", None), Wanted(axis=0)),
        ("csv", ("t.csv", None), columns),
        ("parquet", ("t.parquet", None), columns),
        ("csv beside npy", ("t.csv", "y.npy"), Wanted(columns="logit_*")),
        ("npy beside parquet", ("x.npy", "t.parquet"), Wanted(target_column="y")),
    ]


RANGES = [(0, N), (0, 1), (1, 300), (299, 301), (333, 998), (650, None), (N - 1, N), (N, None), (7, 7)]


def test_a_range_gives_its_rows_and_no_others():
    for what, files, wanted in in_every_form():
        for start, stop in [
            (0, N),
            (0, 1),
            (1, 300),
            (299, 301),
            (333, 998),
            (650, None),
            (N - 1, N),
            (N, None),
            (7, 7),
        ]:
            scan = Scan(*files, wanted, rows=(start, stop))
            chunks = list(scan)
            end = N if stop is None else stop
            assert [c.start for c in chunks] == list(np.cumsum([start, *(c.n_rows for c in chunks)]))[:-1], what
            got = np.concatenate([np.empty((0, C)), *(c.predictions.reshape(-1, C) for c in chunks)])
            np.testing.assert_array_equal(got, X[start:end], what)
            np.testing.assert_array_equal(np.concatenate([[], *(c.target.reshape(-1) for c in chunks)]), Y[start:end])
            assert scan.rows_read == end - start
            assert max((c.predictions.nbytes for c in chunks), default=0) <= 64_000, what


def test_a_range_beyond_the_rows_is_refused():
    for what, files, wanted in in_every_form():
        for rows in [(0, N + 1), (N + 1, None), (-1, 5), (5, 3)]:
            with pytest.raises(ValueError, match=r"rows|lines"):
                pytest.fail(f"{what} {rows}: {len(list(Scan(*files, wanted, rows=rows)))} chunks")


def test_cuts_make_up_the_whole_and_begin_where_it_is_cheap():
    for what, files, wanted in in_every_form():
        for n in (1, 2, 3, 7):
            cuts = Scan(*files, wanted).cuts(n)
            assert 1 <= len(cuts) <= n, what
            assert cuts[0][0] == 0
            assert cuts[-1][1] is None
            assert [stop for _, stop in cuts[:-1]] == [start for start, _ in cuts[1:]]
            assert what != "parquet" or {start for start, _ in cuts} <= {0, 300, 600, 900}
    assert len(Scan("x.npy", "y.npy").cuts(4)) == 4


def test_parquet_reads_only_the_row_groups_of_a_range(monkeypatch):
    pq.write_table(table(), "t.parquet", row_group_size=100)
    asked = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, row_groups, **k: asked.extend(row_groups) or real(self, *a, row_groups=row_groups, **k),
    )
    list(Scan("t.parquet", None, Wanted(target_column="y"), rows=(520, 590)))
    assert asked[0] == 5


def test_npy_seeks_to_a_range_of_a_file_far_larger_than_memory(tmp_path):
    rows = 1 << 40  # 8 TB of zeros that take no room on the disk
    for name, shape in (("x.npy", (rows, 2)), ("y.npy", (rows,))):
        header = np.lib.format.header_data_from_array_1_0(np.empty((0,), "f4")) | {"shape": shape}
        with open(name, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            try:
                file.truncate(file.tell() + 4 * int(np.prod(shape, dtype=object)))
            except OSError:
                pytest.skip("no sparse files of terabytes here")
    (chunk,) = Scan("x.npy", "y.npy", rows=(rows - 3, None))
    assert chunk.start == rows - 3
    assert chunk.predictions.shape == (3, 2)


def test_a_fingerprint_tells_inputs_apart_and_is_json():
    for _, files, wanted in in_every_form():
        first, again = (Scan(*files, wanted).fingerprint() for _ in range(2))
        assert first == again == json.loads(json.dumps(first))
        assert len(first["files"]) == 1 + (files[1] is not None)
    x = Scan("x.npy", "y.npy").fingerprint()
    assert x["files"][0]["arrays"] == {"predictions": {"dtype": "float64", "shape": [N, C]}}
    os.utime("x.npy", ns=(0, 1))
    assert Scan("x.npy", "y.npy").fingerprint() != x
    save("x.npy", X.astype("f4"))
    assert Scan("x.npy", "y.npy").fingerprint()["files"][0]["size"] != x["files"][0]["size"]
    schema = Scan("t.parquet", None, Wanted(target_column="y", columns="logit_?")).fingerprint()["files"][0]["schema"]
    assert schema == {f"logit_{k}": "double" for k in range(10)} | {"y": "int64"}


@pytest.mark.parametrize("name", ["x.npy", "t.csv", "t.parquet"])
def test_a_file_changed_while_it_is_read_is_an_error(name):
    in_every_form()
    files, wanted = ((name, "y.npy"), Wanted()) if name == "x.npy" else ((name,), Wanted(target_column="y"))
    with pytest.raises(ValueError, match=f"{name}: was changed"):
        [os.utime(name, ns=(0, 1)) for _ in Scan(*files, wanted=wanted)]


def test_a_npy_that_shrinks_is_an_error_and_not_a_signal():
    save("x.npy", X)
    save("y.npy", Y)
    with pytest.raises(ValueError, match=r"x.npy: was changed while it was read"):
        [os.truncate("x.npy", 50_000) for _ in Scan("x.npy", "y.npy")]


# Bad files


def write(name, text):
    with open(name, "wb" if isinstance(text, bytes) else "w") as file:
        file.write(text)
    return name


def cut(name, source, size):
    with open(source, "rb") as file:
        return write(name, file.read()[:size])


def bad_files():
    """(what, files, wanted, what the message must hold)."""
    save("x.npy", X)
    save("y.npy", Y)
    np.savez("two.npz", a=X, b=X, target=Y)
    np.savez("o.npz", predictions=np.array([{}, None]), target=Y)
    pq.write_table(table(), "t.parquet")
    pq.write_table(pa.table({"l": [[1.0, 2.0], [3.0]], "target": [0, 1]}), "ragged.parquet")
    pq.write_table(pa.table({"l": [[1.0, 2.0], [3.0, None]], "target": [0, 1]}), "gap.parquet")
    pq.write_table(pa.table({"a": [1.0, None], "b": [1.0, 2.0], "target": [0, 1]}), "null.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": ["x"], "target": [0]}), "text.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": [1.0], "target": ["cat"]}), "label.parquet")
    np.save("pickled.npy", np.array([{}, None]), allow_pickle=True)
    with zipfile.ZipFile("no.npz", "w") as archive:
        archive.writestr("target.npy", b"not an array")
        archive.writestr("x.npy", b"not an array")
    long = "a,b,target\n" + "1,2,0\n" * 2000 + "1,oops,0\n" + "1,2,0\n" * 2000
    csv = {"target_column": "target"}
    return [
        ("truncated .npy", (cut("cut.npy", "x.npy", 5000), "y.npy"), {}, ["cut.npy", "truncated", "96000", "4872"]),
        ("header cut off", (cut("head.npy", "x.npy", 40), "y.npy"), {}, ["head.npy", "header"]),
        ("empty .npy", (write("empty.npy", b""), "y.npy"), {}, ["empty.npy"]),
        ("no .npy", (write("text.npy", "hello"), "y.npy"), {}, ["text.npy", "not a .npy"]),
        ("pickled .npy", ("pickled.npy", "y.npy"), {}, ["pickled.npy", "pickled"]),
        ("pickled member", ("o.npz", None), {}, ["predictions", "pickled"]),
        ("no .npz", (write("z.npz", "hello"), None), {}, ["z.npz", "not an .npz"]),
        ("member not an array", ("no.npz", None), {}, ["no.npz[x]", "not a .npy"]),
        ("two members", ("two.npz", None), {}, ["--predictions-key", "a, b"]),
        ("no such member", ("two.npz", None), {"predictions_key": "q"}, ["--predictions-key", "'q'", "a, b"]),
        ("key of a .npy", ("x.npy", "y.npy"), {"predictions_key": "q"}, ["--predictions-key", "no members"]),
        ("no target", ("x.npy", None), {}, ["target", "x.npy"]),
        ("rows differ", ("x.npy", save("short.npy", Y[:9])), {}, ["short.npy", "(9,)", "(1000,)"]),
        ("class axis", ("x.npy", "y.npy"), {"axis": 2}, ["--axis", "2"]),
        ("one axis", ("y.npy", "y.npy"), {}, ["predictions", "(1000,)"]),
        ("no such weights", ("x.npy", "y.npy"), {"weight_column": "w"}, ["--weight-column", "'w'"]),
        ("text cell", (write("c.csv", long), None), csv, ["c.csv", "row 2000", "column 'b'", "'oops'"]),
        ("empty cell", (write("e.csv", "a,b,target\n1,2,0\n1,,1\n"), None), csv, ["row 1", "column 'b'", "empty"]),
        ("ragged", (write("r.csv", "a,b,target\n1,2,0\n1,2\n"), None), csv, ["r.csv", "row 1", "2 cells"]),
        ("float label", (write("f.csv", "a,b,target\n1,2,0.5\n"), None), csv, ["row 0", "'target'", "'0.5'"]),
        ("text label", (write("l.csv", "a,b,target\n1,2,cat\n"), None), csv, ["row 0", "'target'", "'cat'"]),
        ("text id", (write("d.csv", "a,n,target\n1,r1,0\n"), None), {"id_column": "n"}, ["row 0", "'n'", "integer"]),
        ("empty .csv", (write("n.csv", ""), None), csv, ["n.csv", "empty"]),
        ("no names", (write("h.csv", "0.5,0.2,1\n0.1,0.2,0\n"), None), csv, ["h.csv", "column names"]),
        ("index column", (write("i.csv", ",a,b,target\n0,1,2,1\n"), None), csv, ["--columns", "index"]),
        ("same name", (write("s.csv", "a,a,target\n1,2,0\n"), None), csv, ["'a'", "2 times"]),
        ("binary", (write("b.csv", b"\xff\xfe\x00a,b"), None), csv, ["b.csv"]),
        (
            "no such column",
            ("t.parquet", None),
            {"columns": "prob_*", "target_column": "y"},
            ["--columns", "'prob_*'", "logit_0"],
        ),
        ("no such target", ("t.parquet", None), {"target_column": "q"}, ["--target-column", "'q'"]),
        ("which target", ("t.parquet", None), {}, ["--target-column", "logit_0"]),
        ("axis of a table", ("t.parquet", None), {"target_column": "y", "axis": 0}, ["--axis", "table"]),
        ("no .parquet", (write("n.parquet", b"hello" * 9), None), {}, ["n.parquet", "not a .parquet"]),
        ("cut .parquet", (cut("cut.parquet", "t.parquet", 9000), None), {}, ["cut.parquet", "truncated"]),
        ("ragged lists", ("ragged.parquet", None), {}, ["row 1", "column 'l'"]),
        ("gap in a list", ("gap.parquet", None), {}, ["row 1", "column 'l'", "empty"]),
        ("null", ("null.parquet", None), {}, ["row 1", "column 'a'", "empty"]),
        ("text column", ("text.parquet", None), {}, ["column 'b'", "string"]),
        ("text labels", ("label.parquet", None), {}, ["label.parquet", "row 0", "'cat'", "--classes"]),
        ("too few labels", ("x.npy", write("few.csv", "y\n" + "1\n" * 99)), {}, ["few.csv", "fewer"]),
        ("too many labels", ("x.npy", write("many.csv", "y\n" + "1\n" * 1007)), {}, ["many.csv", "7 rows more"]),
        ("unknown format", (write("x.txt", "1"), None), {}, ["x.txt", *FORMATS]),
    ]


def test_bad_files_are_named_in_one_line():
    for what, files, wanted, parts in bad_files():
        with pytest.raises((ValueError, TypeError)) as caught:
            list(Scan(*files, Wanted(**wanted)))
        message = str(caught.value)
        assert "\n" not in message, what
        assert all(part in message for part in parts), (what, message)
    with pytest.raises(FileNotFoundError):
        open_file("absent.npy")


def test_damaged_npz_is_reported():
    np.savez_compressed("x.npz", predictions=X, target=Y)
    with open("x.npz", "r+b") as file:
        file.seek(20_000)
        file.write(b"\0" * 2000)
    with pytest.raises(ValueError, match=r"x.npz\[predictions\]: damaged"):
        list(Scan("x.npz"))


def test_missing_pyarrow_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    pq.write_table(table(), "t.parquet")
    arrow_csv.write_csv(table(), "t.csv")
    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    for path in ("t.parquet", "t.csv"):
        with pytest.raises(ImportError, match=r"pip install fastxent\[parquet\]"):
            list(Scan(path, None, Wanted(target_column="y")))
