"""Every format gives back what its own library wrote: whole, in ranges, in shards, and from elsewhere."""

import bz2
import functools
import gzip
import http.server
import io
import json
import lzma
import operator
import os
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest

import fastxent.files.h5
import fastxent.files.zarr
from fastxent import score
from fastxent.cli.main import main
from fastxent.files import FORMATS, base, shards_of
from fastxent.files.labels import read_classes
from fastxent.files.scan import Scan, Wanted
from fastxent.files.source import Source

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")
h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
safetensors = pytest.importorskip("safetensors.numpy")
fsspec = pytest.importorskip("fsspec")
ml_dtypes = pytest.importorskip("ml_dtypes")

N, C = 600, 7
RNG = np.random.default_rng(50)
X = RNG.normal(size=(N, C))
Y = RNG.integers(0, C, N)
W, IDS = RNG.random(N), 1000 - np.arange(N)
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
RANGES = [(0, N), (0, 1), (1, 200), (199, 201), (250, None), (N, None), (5, 5)]
MEMBERS = {"predictions": X, "target": Y, "w": W, "i": IDS}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, tmp_path):
    """Blocks of some 35 rows, and a folder for the files."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 2000)
    monkeypatch.chdir(tmp_path)


def members(rows):
    return {name: array[rows] for name, array in MEMBERS.items()}


def table(rows):
    return pa.table({"y": Y[rows], "w": W[rows], "i": IDS[rows]} | {f"z{k}": X[rows, k] for k in range(C)})


def write_stream(name, rows):
    data = table(rows)
    with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, data.schema) as writer:
        writer.write_table(data, max_chunksize=90)


def write_zarr(name, rows, form):
    group = zarr.open_group(name, mode="w", zarr_format=form)
    for member, array in members(rows).items():
        group.create_array(member, data=array, chunks=(90, 3)[: array.ndim])


def write_sharded_zarr(name, rows):
    group = zarr.open_group(name, mode="w")
    for member, array in members(rows).items():
        group.create_array(member, data=array, chunks=(30, 7)[: array.ndim], shards=(90, 7)[: array.ndim])


def write_h5(name, rows, compressed=False):
    with h5py.File(name, "w") as file:
        for member, array in members(rows).items():
            how = {"chunks": (9, 3)[: array.ndim], "compression": "gzip"} if compressed else {}
            file.create_dataset(member, data=array, **how)


def write_text(name, rows, opened=open):
    text = io.BytesIO()
    arrow_csv.write_csv(table(rows), text, arrow_csv.WriteOptions(delimiter="\t" if ".tsv" in name else ","))
    with opened(name, "wb") as file:
        file.write(text.getvalue())


def write_zst(name, rows):
    with pa.CompressedOutputStream(name, "zstd") as file:
        arrow_csv.write_csv(table(rows), file)


COLUMNS = Wanted(columns="z*", target_column="y", weight_column="w", id_column="i")
KEYS = Wanted(weight_column="w", id_column="i")
WRITERS = {
    "f.npz": (lambda name, rows: np.savez(name, **members(rows)), KEYS),
    "c.npz": (lambda name, rows: np.savez_compressed(name, **members(rows)), KEYS),
    "f.safetensors": (lambda name, rows: safetensors.save_file(members(rows), name), KEYS),
    "f.h5": (write_h5, KEYS),
    "c.hdf5": (lambda name, rows: write_h5(name, rows, compressed=True), KEYS),
    "v2.zarr": (lambda name, rows: write_zarr(name, rows, 2), KEYS),
    "v3.zarr": (lambda name, rows: write_zarr(name, rows, 3), KEYS),
    "sharded.zarr": (write_sharded_zarr, KEYS),
    "f.parquet": (lambda name, rows: pq.write_table(table(rows), name, row_group_size=90), COLUMNS),
    "f.pq": (lambda name, rows: pq.write_table(table(rows), name, compression="zstd"), COLUMNS),
    "f.feather": (lambda name, rows: feather.write_feather(table(rows), name, "lz4", chunksize=90), COLUMNS),
    "f.arrow": (lambda name, rows: feather.write_feather(table(rows), name, "uncompressed", chunksize=90), COLUMNS),
    "stream.arrow": (write_stream, COLUMNS),
    "f.csv": (write_text, COLUMNS),
    "f.csv.gz": (lambda name, rows: write_text(name, rows, gzip.open), COLUMNS),
    "f.csv.bz2": (lambda name, rows: write_text(name, rows, bz2.open), COLUMNS),
    "f.csv.xz": (lambda name, rows: write_text(name, rows, lzma.open), COLUMNS),
    "f.csv.zst": (write_zst, COLUMNS),
    "f.tsv": (write_text, COLUMNS),
    "f.tsv.gz": (lambda name, rows: write_text(name, rows, gzip.open), COLUMNS),
}
ALL = slice(None)


def check(scan, rows=ALL, x=X, more=False):
    """The scan gives these rows, with weights and ids if there are more columns."""
    chunks = list(scan)
    got = np.concatenate([np.empty((0, C), x.dtype), *(c.predictions.reshape(-1, C) for c in chunks)])
    np.testing.assert_array_equal(got, x[rows])
    np.testing.assert_array_equal(np.concatenate([[], *(c.target.reshape(-1) for c in chunks)]), Y[rows])
    for field, want in (("weight", W), ("ids", IDS)):
        if more:
            parts = [getattr(c, field).reshape(-1) for c in chunks]
            np.testing.assert_array_equal(np.concatenate([[], *parts]), want[rows])
        else:
            assert all(getattr(c, field) is None for c in chunks)
    return chunks


@pytest.mark.parametrize("name", WRITERS)
def test_whole_and_in_ranges(name):
    write, wanted = WRITERS[name]
    write(name, ALL)
    assert len(check(Scan(name, wanted=wanted), more=True)) >= 5
    for rows in RANGES:
        check(Scan(name, wanted=wanted, rows=rows), slice(*rows), more=True)
    with pytest.raises(ValueError, match="rows"):
        list(Scan(name, wanted=wanted, rows=(N + 1, None)))
    fingerprint = Scan(name, wanted=wanted).fingerprint()
    assert fingerprint == Scan(name, wanted=wanted).fingerprint()
    assert fingerprint["files"][0]["size"] > 0


def test_every_format_is_written_here():
    assert {suffix for suffix in FORMATS if not any(name.endswith(suffix) for name in WRITERS)} <= {
        *(".npy", ".tsv.bz2", ".tsv.xz", ".tsv.zst")  # .npy: test_files
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8"])
def test_safetensors_keep_every_dtype(dtype):
    x = (10 * X).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    safetensors.save_file({"logits": x, "target": Y.astype("i4")}, "x.safetensors", metadata={"made": "here"})
    got = [c.predictions for c in Scan("x.safetensors")]
    assert {a.dtype for a in got} == {x.dtype}
    np.testing.assert_array_equal(np.concatenate(got).view(np.uint8), x.view(np.uint8))


@pytest.mark.parametrize("form", ["h5", "zarr"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_chunked_arrays_of_more_axes(form, axis):
    images, labels = X.reshape(20, 30, C), Y.reshape(20, 30)
    images = np.moveaxis(images, -1, axis).copy()
    if form == "h5":
        with h5py.File("x.h5", "w") as file:
            file.create_dataset("a/predictions", data=images, chunks=(7, 4, 3))
            file.create_dataset("a/target", data=labels)
    else:
        group = zarr.open_group("x.zarr", mode="w")
        group.create_array("a/predictions", data=images, chunks=(7, 4, 3))
        group.create_array("a/target", data=labels, chunks=(3, 3))
    wanted = Wanted(axis=axis, predictions_key="a/predictions", target_key="a/target")
    for rows in RANGES:
        check(Scan(f"x.{form}", wanted=wanted, rows=rows), slice(*rows))


def test_a_single_zarr_array_and_labels_elsewhere():
    zarr.create_array("x.zarr", data=X, chunks=(90, 4))
    np.save("y.npy", Y)
    check(Scan("x.zarr", "y.npy"))


@pytest.mark.parametrize("form", ["h5", "zarr"])
def test_a_chunk_of_labels_is_unpacked_once(form, monkeypatch):
    if form == "h5":
        with h5py.File("x.h5", "w") as file:
            file["predictions"] = X
            file.create_dataset("target", data=Y, chunks=(250,), compression="gzip")
        module = "h5.H5Array"
    else:
        group = zarr.open_group("x.zarr", mode="w")
        group.create_array("predictions", data=X, chunks=(20, C))
        group.create_array("target", data=Y, chunks=(250,))
        module = "zarr.ZarrArray"
    read, asked = operator.attrgetter(module)(fastxent.files).read, []
    monkeypatch.setattr(f"fastxent.files.{module}.read", lambda self, box: asked.append(box) or read(self, box))
    check(Scan(f"x.{form}"))
    assert [box for box in asked if len(box) == 1] == [((0, 250),), ((250, 500),), ((500, N),)]
    for rows in RANGES:
        check(Scan(f"x.{form}", rows=rows), slice(*rows))


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("end", ["parquet", "arrow"])
def test_list_columns(kind, end):
    flat = pa.array(X.reshape(-1))
    if kind == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(flat, C)
    else:
        made = pa.ListArray if kind == "list" else pa.LargeListArray
        lists = made.from_arrays(
            pa.array(np.arange(0, N * C + 1, C), pa.int64() if kind == "large" else pa.int32()), flat
        )
    data = pa.table({"logits": lists, "y": Y})
    if end == "parquet":
        pq.write_table(data, "x.parquet", row_group_size=90)
    else:
        feather.write_feather(data, "x.arrow", "uncompressed")
    check(Scan(f"x.{end}", wanted=Wanted(target_column="y")))
    check(Scan(f"x.{end}", wanted=Wanted(target_column="y"), rows=(70, 400)), slice(70, 400))


@pytest.mark.parametrize("name", ["f.safetensors", "v3.zarr", "c.hdf5", "f.feather", "f.csv.xz", "shards"])
def test_the_command_has_the_bits_of_the_python_api(name, capsys):
    if name == "shards":
        os.mkdir(name)
        for k, rows in enumerate([slice(0, 100), slice(100, N)]):
            WRITERS["f.npz"][0](f"shards/{k}.npz", rows)
        options = []
    else:
        write, wanted = WRITERS[name]
        write(name, ALL)
        options = ["--columns", "z*", "--target-column", "y"] if wanted is COLUMNS else []
    assert main(["score", name, *options, "--weight-column", "w", "--id-column", "i", "--json", "-"]) == 0
    card = score(X, Y, sample_weight=W, ids=IDS).to_dict()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(card))


def test_progress_does_not_ask_a_file_that_its_reader_may_be_closing(monkeypatch):
    """Its descriptor could be closed, or another file's, by then."""

    class Asked(io.FileIO):
        def tell(self):
            assert threading.current_thread() is not threading.main_thread()
            return super().tell()

    WRITERS["f.csv.xz"][0]("f.csv.xz", ALL)
    scan = Scan("f.csv.xz", wanted=COLUMNS)
    monkeypatch.setattr(Source, "open", lambda source: Asked(source.path))
    assert scan.fraction == 0
    for _ in scan:
        assert 0 < scan.fraction <= 1


@pytest.mark.parametrize(("name", "module"), [("f.h5", "h5py"), ("v3.zarr", "zarr"), ("memory://x.npy", "fsspec")])
def test_a_missing_library_is_told_with_what_to_install(name, module, monkeypatch):
    if "memory" not in name:
        WRITERS[name][0](name, ALL)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'fastxent\[files\]'"):
        Scan(name)


@pytest.mark.parametrize("end", ["parquet", "arrow"])
def test_small_batches_of_a_file_make_large_blocks(end, monkeypatch):
    monkeypatch.setattr(base, "BLOCK_BYTES", 20_000 * base.TABLE_SHARE)
    if end == "parquet":
        pq.write_table(table(ALL), "x.parquet", row_group_size=3)
    else:
        feather.write_feather(table(ALL), "x.arrow", "uncompressed", chunksize=3)
    assert 2 <= len(check(Scan(f"x.{end}", wanted=COLUMNS), more=True)) <= 5
    check(Scan(f"x.{end}", wanted=COLUMNS, rows=(100, 500)), slice(100, 500), more=True)


# Shards


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith("stream")])
@pytest.mark.parametrize("how", ["pattern", "folder"])
def test_shards_are_one_file(name, how):
    end = name[name.index(".") :]
    os.mkdir("shards")
    write, wanted = WRITERS[name]
    for k, rows in enumerate([(0, 250), (250, 260), (260, 481), (481, N)]):
        write(f"shards/part_{k + 8}{end}", slice(*rows))
    path = f"shards/*{end}" if how == "pattern" else "shards"
    for rows in [(0, None), (0, 250), (249, 261), (255, 500), (480, None)]:
        check(Scan(path, wanted=wanted, rows=rows), slice(*rows), more=True)


def test_shards_of_two_files_need_not_end_together():
    for k, (low, high) in enumerate([(0, 100), (100, 110), (110, N)]):
        np.save(f"x{k}.npy", X[low:high].astype("f4"))
    for k, (low, high) in enumerate([(0, 350), (350, N)]):
        np.save(f"y{k}.npy", Y[low:high])
        arrow_csv.write_csv(pa.table({"y": Y[low:high]}), f"y{k}.csv")
    np.save("y.npy", Y)
    x = X.astype("f4")
    for target in ("y?.npy", "y.npy", "y?.csv"):
        check(Scan("x*.npy", target), x=x)
        check(Scan("x*.npy", target, rows=(90, 400)), slice(90, 400), x)
    cuts = Scan("x*.npy", "y.npy").cuts(3)
    assert [cuts[0][0], cuts[-1][1]] == [0, None]
    assert len(Scan("x*.npy", "y.npy").fingerprint()["files"][0]["shards"]) == 3


def test_shards_of_images():
    images = np.moveaxis(X.reshape(6, 10, 10, C), -1, 1).copy()
    labels = Y.reshape(6, 10, 10)
    for k in range(3):
        np.save(f"x{k}.npy", images[2 * k : 2 * k + 2])
    np.save("a.npy", labels[:1])
    np.save("b.npy", labels[1:])
    check(Scan("x*.npy", "[ab].npy", Wanted(axis=1)))


def test_shards_come_in_natural_order_without_hidden_names():
    os.mkdir("d")
    for name in ("part-10.csv", "part-9.csv", "_SUCCESS", ".crc"):
        open(f"d/{name}", "w").close()
    assert shards_of("d") == ["d/part-9.csv", "d/part-10.csv"]
    assert shards_of("d/part*") == ["d/part-9.csv", "d/part-10.csv"]


# Text labels


@pytest.mark.parametrize("end", ["csv", "parquet", "dictionary.parquet", "arrow", "npz", "h5", "zarr"])
def test_text_labels_are_mapped_by_the_classes(end):
    labels = np.array(NAMES)[Y]
    data = pa.table({"y": pa.array(labels), **{f"z{k}": X[:, k] for k in range(C)}})
    wanted = {"columns": "z*", "target_column": "y"}
    if end == "csv":
        arrow_csv.write_csv(data, f"x.{end}")
    elif end == "arrow":
        feather.write_feather(data, f"x.{end}")
    elif "parquet" in end:
        data = data.set_column(0, "y", data["y"].dictionary_encode()) if end.startswith("d") else data
        pq.write_table(data, f"x.{end}")
    else:
        wanted = {}
        if end == "npz":
            np.savez("x.npz", predictions=X, target=labels)
        elif end == "h5":
            with h5py.File("x.h5", "w") as file:
                file["predictions"] = X
                file.create_dataset("target", data=labels.astype(object), dtype=h5py.string_dtype())
        else:
            group = zarr.open_group("x.zarr", mode="w", zarr_format=2)
            group.create_array("predictions", data=X)
            group.create_array("target", data=labels.astype("U3"))
    with open("names.txt", "w") as file:
        file.write("\n".join(NAMES) + "\n")
    for classes in (",".join(NAMES), "names.txt"):
        check(Scan(f"x.{end}", wanted=Wanted(**wanted, classes=classes)))
    unknown = Wanted(**wanted, classes=",".join(["cow", *NAMES[1:]]))
    with pytest.raises(ValueError, match=rf"x.{end}.*row {list(Y).index(0)}: 'ant' is not one of --classes"):
        list(Scan(f"x.{end}", wanted=unknown))
    with pytest.raises(ValueError, match=r"row 0.*--classes"):
        list(Scan(f"x.{end}", wanted=Wanted(**wanted)))
    with pytest.raises(ValueError, match="--classes: 2 names, but .* has 7 classes"):
        list(Scan(f"x.{end}", wanted=Wanted(**wanted, classes="ant,bee")))


def test_labels_that_are_numbers_are_mapped_by_their_digits():
    np.save("x.npy", X)
    np.save("y.npy", 10 * Y + 5)
    check(Scan("x.npy", "y.npy", Wanted(classes="5,15,25,35,45,55,65")))


def test_columns_called_as_the_classes_are_taken_in_the_classes_order():
    with open("t.csv", "w") as file:
        file.write("day,dog,cat,what\n1,0.5,0.25,cat\n")
    (chunk,) = Scan("t.csv", wanted=Wanted(target_column="what", classes="cat,dog"))
    np.testing.assert_array_equal(chunk.predictions, [[0.25, 0.5]])
    np.testing.assert_array_equal(chunk.target, [0])
    with pytest.raises(ValueError, match="--classes.*order"):
        Scan("t.csv", wanted=Wanted(columns="dog,cat", target_column="what", classes="cat,dog"))


@pytest.mark.parametrize("given", ["nothing.txt", "a,b,a", "empty.txt"])
def test_bad_classes_are_refused(given):
    open("empty.txt", "w").close()
    with pytest.raises(ValueError, match="--classes"):
        read_classes(given)


# Elsewhere


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and ranges of them, as object stores do."""

    asked: ClassVar = []

    def do_GET(self):
        path = self.translate_path(self.path)
        if "Range" not in self.headers or not os.path.isfile(path):
            self.asked.append((self.path, None))
            super().do_GET()
            return
        low, _, high = self.headers["Range"].removeprefix("bytes=").partition("-")
        size = os.path.getsize(path)
        start = int(low) if low else size - int(high)
        stop = min(size, int(high) + 1) if low and high else size
        self.asked.append((self.path, stop - start))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start))

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    Ranges.asked = []
    handler = functools.partial(Ranges, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


FILES = [name for name in WRITERS if ".zarr" not in name]


@pytest.mark.parametrize("name", FILES)
def test_files_over_http(name, server):
    write, wanted = WRITERS[name]
    write(name, ALL)
    check(Scan(f"{server}/{name}", wanted=wanted), more=True)
    check(Scan(f"{server}/{name}", wanted=wanted, rows=(333, 444)), slice(333, 444), more=True)
    assert Scan(f"{server}/{name}", wanted=wanted).fingerprint()["files"][0]["size"] == os.path.getsize(name)


@pytest.mark.parametrize("name", WRITERS)
def test_files_in_fsspecs_memory(name):
    write, wanted = WRITERS[name]
    write(name, ALL)
    store = fsspec.filesystem("memory")
    try:
        store.put(name, f"/here/{name}", recursive=True)
        check(Scan(f"memory://here/{name}", wanted=wanted), more=True)
    finally:
        store.rm("/here", recursive=True)


def test_remote_shards_by_pattern_and_folder():
    store = fsspec.filesystem("memory")
    np.save("y.npy", Y)
    try:
        for k, (low, high) in enumerate([(0, 50), (50, N)]):
            np.save("x.npy", X[low:high])
            store.put("x.npy", f"/shards/x{k}.npy")
        check(Scan("memory://shards/*.npy", "y.npy"))
        check(Scan("memory://shards", "y.npy"))
    finally:
        store.rm("/shards", recursive=True)


@pytest.mark.parametrize("end", ["npy", "safetensors", "parquet"])
def test_of_a_remote_file_only_the_wanted_part_is_asked_for(end, server, monkeypatch):
    monkeypatch.setattr(base, "BLOCK_BYTES", 1 << 17)
    x, y = np.tile(X, (200, 1)), np.tile(Y, 200)
    if end == "npy":
        np.save("x.npy", x)
        np.save("y.npy", y)
    elif end == "safetensors":
        safetensors.save_file({"predictions": x, "target": y}, "x.safetensors")
    else:
        data = pa.table({f"z{k}": x[:, k] for k in range(C)} | {"target": y})
        pq.write_table(data, "x.parquet", row_group_size=5000, compression="none", use_dictionary=False)
    files = f"{server}/x.{end}", f"{server}/y.npy" if end == "npy" else None
    check(Scan(*files, rows=(60_000, 60_600)))
    whole = os.path.getsize(f"x.{end}")
    assert Ranges.asked
    assert all(length is not None for _, length in Ranges.asked)
    assert sum(length for _, length in Ranges.asked) < whole / 4
    Ranges.asked.clear()
    assert sum(chunk.n_rows for chunk in Scan(*files)) == 200 * N
    assert max(length for _, length in Ranges.asked) < whole / 4


def test_a_server_without_ranges_is_told(tmp_path):
    np.save("x.npy", X)
    np.save("y.npy", Y)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        with pytest.raises(ValueError, match=r"x.npy.*rang"):
            list(Scan(f"http://127.0.0.1:{running.server_port}/x.npy", "y.npy"))
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.csv", "x.zarr", "x.arrow"])
def test_an_absent_remote_file_is_told_in_one_line(name, server):
    for address in (f"{server}/{name}", f"memory://{name}"):
        with pytest.raises((ValueError, OSError), match=name) as caught:
            Scan(address)
        assert "\n" not in str(caught.value)
    with pytest.raises((ValueError, ImportError), match="nowhere://"):
        Scan(f"nowhere://{name}")
