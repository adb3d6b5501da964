"""A bad file ends in one clear line and exit code 2: never in a wrong number, a traceback or a signal."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest

from fastxent.cli.main import main
from fastxent.files import base
from fastxent.files.scan import Scan, Wanted

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")
h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
safetensors = pytest.importorskip("safetensors.numpy")

X = np.array([[0.5, -1.25], [1e-3, 2.0], [7.0, 12345.678]])
Y = np.array([1, 0, 1])
BOTH = {"predictions": X, "target": Y}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def table(x=X, y=Y):
    return pa.table({"a": x[:, 0], "b": x[:, 1], "target": y})


def text():
    packed = io.BytesIO()
    arrow_csv.write_csv(table(), packed)
    return packed.getvalue()


def write(name, content):
    with open(name, "wb") as file:
        file.write(content)


def write_stream(name):
    with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)


def write_h5(name):
    with h5py.File(name, "w", libver="latest") as file:
        for member, array in BOTH.items():
            file.create_dataset(member, data=array, chunks=(2, 2)[: array.ndim])


def write_zarr(name, form=3, **how):
    group = zarr.open_group(name, mode="w", zarr_format=form)
    for member, array in BOTH.items():
        group.create_array(member, data=array, chunks=(2, 2)[: array.ndim], **how)


WRITERS = {
    "x.npz": lambda name: np.savez(name, **BOTH),
    "c.npz": lambda name: np.savez_compressed(name, **BOTH),
    "x.safetensors": lambda name: safetensors.save_file(BOTH, name),
    "x.h5": write_h5,
    "x.parquet": lambda name: pq.write_table(table(), name, row_group_size=2, store_schema=False),
    "x.feather": lambda name: feather.write_feather(table(), name, "lz4", chunksize=2),
    "x.arrow": lambda name: feather.write_feather(table(), name, "uncompressed", chunksize=2),
    "stream.arrow": write_stream,
    "x.csv": lambda name: write(name, text()),
    "x.csv.gz": lambda name: write(name, gzip.compress(text())),
    "x.csv.bz2": lambda name: write(name, bz2.compress(text())),
    "x.csv.xz": lambda name: write(name, lzma.compress(text())),
    "x.csv.zst": lambda name: write(name, pa.Codec("zstd").compress(text(), asbytes=True)),
}
STORES = {
    "v3.zarr": write_zarr,
    "v2.zarr": lambda name: write_zarr(name, form=2),
    "plain.zarr": lambda name: write_zarr(name, compressors=None),
}


def outcome(name, target=None):
    """The rows read, or the one line that says what is wrong."""
    try:
        chunks = list(Scan(name, target))
    except (ValueError, TypeError, OSError) as error:
        message = str(error)
        assert "\n" not in message
        assert name in message
        return message
    x, y = [c.predictions for c in chunks], [c.target for c in chunks]
    return np.concatenate([np.empty((0, 2)), *x]), np.concatenate([np.empty(0), *y])


def whole(got):
    return not isinstance(got, str) and all(np.array_equal(a, b) for a, b in zip(got, (X, Y)))


# What a text loses at a line's end, its format does not tell: fewer rows, all of them right.
def lines_that_are_left(content, cut):
    return content[:cut].count(b"\n") - 1 if content[:cut].endswith(b"\n") else None


@pytest.mark.parametrize("name", WRITERS)
def test_cut_off_at_any_byte(name):
    WRITERS[name](name)
    assert whole(outcome(name))
    with open(name, "rb") as file:
        content = file.read()
    for cut in range(len(content)):
        write(name, content[:cut])
        got = outcome(name)
        rows = lines_that_are_left(content, cut) if name == "x.csv" else None
        if rows is not None:
            assert np.array_equal(got[0], X[:rows])
            assert np.array_equal(got[1], Y[:rows])
        else:
            assert isinstance(got, str) or whole(got), cut


def test_a_npy_cut_off_at_any_byte():
    np.save("x.npy", X)
    np.save("y.npy", Y)
    with open("x.npy", "rb") as file:
        content = file.read()
    for cut in range(len(content)):
        write("x.npy", content[:cut])
        assert isinstance(outcome("x.npy", "y.npy"), str), cut


@pytest.mark.parametrize("name", STORES)
def test_a_store_with_any_file_cut_off_at_any_byte_or_missing(name):
    STORES[name](name)
    assert whole(outcome(name))
    files = [os.path.join(folder, file) for folder, _, names in os.walk(name) for file in names]
    assert len(files) >= 7
    for path in files:
        with open(path, "rb") as file:
            content = file.read()
        for cut in range(0, len(content), 9 if content.startswith(b"{") else 1):
            write(path, content[:cut])
            got = outcome(name)
            assert isinstance(got, str) or whole(got), (path, cut)
        os.remove(path)
        got = outcome(name)
        assert isinstance(got, str) or whole(got), path
        write(path, content)
    assert whole(outcome(name))


@pytest.mark.parametrize("name", [*WRITERS, "x.npy"])
def test_damaged_bytes_end_in_one_line_at_worst(name):
    if name == "x.npy":
        np.save(name, X)
    else:
        WRITERS[name](name)
    np.save("y.npy", Y)
    with open(name, "rb") as file:
        content = file.read()
    rng = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        write(name, damaged)
        outcome(name, "y.npy" if name == "x.npy" else None)


@pytest.mark.parametrize("name", [*WRITERS, "x.npy", "x.zarr"])
@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"hello, world\n" * 9, b"\x80\x04\x95K\x01." * 9])
def test_anything_else_under_the_name_of_a_format(name, content):
    write(name, content)
    assert isinstance(outcome(name), str)


# Headers that lie


def npy_header(text, data=b"\0" * 64):
    body = text.encode() + b" " * (118 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body + data


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10**30, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000000000, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2.0, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 4}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3, 2)}",
        "__import__('os').abort()",
        "[" * 100,
    ],
)
def test_hostile_npy_headers(text):
    write("x.npy", npy_header(text))
    np.save("y.npy", Y)
    assert isinstance(outcome("x.npy", "y.npy"), str)


def tensor_file(header, data=b"\0" * 48):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def tensor(begin=0, end=48, shape=(3, 2), dtype="F64"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        tensor_file(b"[1]"),
        tensor_file(b'{"a": '),
        tensor_file(b"[" * 100_000),
        tensor_file(b"\xff\xfe{}"),
        tensor_file({"predictions": tensor(shape=(-3, -2))}),
        tensor_file({"predictions": tensor(shape=(3, 10**30))}),
        tensor_file({"predictions": tensor(shape=(2**32, 2**32))}),
        tensor_file({"predictions": tensor(end=10**30)}),
        tensor_file({"predictions": tensor(begin=8, end=56)}),
        tensor_file({"predictions": tensor(begin=-48, end=0)}),
        tensor_file({"predictions": tensor(begin=48, end=0)}),
        tensor_file({"predictions": tensor(shape=(True, 6))}),
        tensor_file({"predictions": tensor(dtype="F8_E4M3")}),
        tensor_file({"predictions": tensor(dtype="nonsense")}),
        tensor_file({"predictions": tensor(), "target": tensor(0, 24, (3,), "I64")}),  # they overlap
        tensor_file({"predictions": tensor(), "target": tensor(56, 80, (3,), "I64")}, b"\0" * 80),  # a hole
        tensor_file({"predictions": {"dtype": "F64"}}),
        tensor_file({"predictions": 5}),
        tensor_file(b'{"p": %s, "p": %s}' % ((json.dumps(tensor()).encode(),) * 2)),
        tensor_file({"predictions": tensor()}, b"\0" * 47),
        tensor_file({"predictions": tensor()}, b"\0" * 49),
    ],
)
def test_hostile_safetensors_headers(content):
    write("x.safetensors", content)
    np.save("y.npy", Y)
    assert isinstance(outcome("x.safetensors", "y.npy"), str)


def with_sizes(packed, unpacked, raw):
    """A zip whose directory and header say other sizes of its first member."""
    content = bytearray(raw)
    at = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, at + 20, packed, unpacked)
    return bytes(content)


def zipped(members, how=zipfile.ZIP_DEFLATED):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return raw.getvalue()


def test_zip_bombs_and_sizes_that_lie():
    np.save("y.npy", Y)
    large = npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 2)}", b"\0" * 1_000_000)
    raw = zipped({"predictions": large})
    packed = zipfile.ZipFile(io.BytesIO(raw)).infolist()[0].compress_size
    for unpacked, said in [(1_000_128, "truncated"), (1_600_000_128, "bomb"), (4_000_000_000, "bomb")]:
        write("x.npz", with_sizes(packed, unpacked, raw))
        assert said in outcome("x.npz", "y.npy")
    small = npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}", b"\0" * 1_000_000)
    write("x.npz", zipped({"predictions": small}))  # longer than its header says: only what that says is read
    assert len(outcome("x.npz", "y.npy")[0]) == 3
    write("x.npz", with_sizes(0, 176, zipped({"predictions": small})))
    assert isinstance(outcome("x.npz", "y.npy"), str)


def test_a_bomb_is_not_unpacked_into_memory(monkeypatch):
    """100 MB of zeros from 100 kB are read in blocks."""
    tracemalloc = pytest.importorskip("tracemalloc")
    monkeypatch.setattr(base, "BLOCK_BYTES", 1 << 20)
    np.savez_compressed("x.npz", predictions=np.zeros((12_500_000, 2), "f4"), target=np.zeros(12_500_000, "i1"))
    tracemalloc.start()
    try:
        rows = sum(chunk.n_rows for chunk in Scan("x.npz"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 12_500_000
    assert peak < 30e6


# The command line


def changing(name, change):
    """A file that something changes after the first block was scored."""
    from fastxent.scoring.scorer import Scorer

    real = Scorer.update

    def update(self, *arguments, **options):
        done = real(self, *arguments, **options)
        change(name)
        return done

    return Scorer, "update", update


def big(name):
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(4000, 5)), rng.integers(0, 5, 4000)
    if name.endswith(".npy"):
        np.save(name, x)
        np.save("y.npy", y)
    elif name.endswith(".npz"):
        np.savez(name, predictions=x, target=y)
    elif name.endswith(".safetensors"):
        safetensors.save_file({"predictions": x, "target": y}, name)
    elif name.endswith(".h5"):
        with h5py.File(name, "w") as file:
            file["predictions"], file["target"] = x, y
    elif name.endswith(".zarr"):
        group = zarr.open_group(name, mode="w")
        group.create_array("predictions", data=x, chunks=(500, 5), compressors=None)
        group.create_array("target", data=y, chunks=(4000,))
    else:
        data = pa.table({f"z{k}": x[:, k] for k in range(5)} | {"target": y})
        if name.endswith(".parquet"):
            pq.write_table(data, name, row_group_size=500)
        elif name.endswith(".arrow"):
            feather.write_feather(data, name, "uncompressed", chunksize=500)
        else:
            arrow_csv.write_csv(data, name)


FILES = ["x.npy", "x.npz", "x.safetensors", "x.h5", "x.parquet", "x.arrow", "x.csv", "x.zarr"]


@pytest.mark.parametrize("size", [0, 50_000])
@pytest.mark.parametrize("name", FILES[:-1])
def test_a_file_that_shrinks_while_it_is_read(name, size, capsys, monkeypatch):
    monkeypatch.setattr(base, "BLOCK_BYTES", 20_000)
    big(name)
    monkeypatch.setattr(*changing(name, lambda path: os.truncate(path, size)))
    code = main(["score", name, *(["y.npy"] if name == "x.npy" else []), "--json", "-"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("fastxent: error: ")
    assert name in err
    assert err.count("\n") == 1


def rewritten(path, change):
    """Other bytes in a file, and a time of change that a clock of any resolution tells from the one before."""
    with open(path, "rb") as file:
        content = file.read()
    then = os.stat(path).st_mtime_ns
    os.remove(path)
    write(path, change(content))
    os.utime(path, ns=(then, then + 10**9))


CHANGES = {
    "cut off": lambda path: rewritten(path, lambda content: content[: len(content) // 2]),
    "emptied": lambda path: rewritten(path, lambda content: b""),
    "other bytes": lambda path: rewritten(path, lambda content: bytes(len(content))),
    "the same bytes": lambda path: rewritten(path, lambda content: content),
    "cut off in place": lambda path: os.truncate(path, os.path.getsize(path) // 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_handed_out_of_a_file_once_it_has_changed(change, monkeypatch):
    """Without the thread that reads ahead: what is read after the change is refused, whatever a library makes of it."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 20_000)
    for name in FILES:
        big(name)
        files = (name, "y.npy" if name == "x.npy" else None)
        whole = np.concatenate([chunk.predictions for chunk in Scan(*files)])
        chunks = Scan(*files)._chunks()
        got = [next(chunks).predictions]
        CHANGES[change](name if name != "x.zarr" else "x.zarr/predictions/c/4/0")
        with pytest.raises(ValueError, match=f"^{name}: was changed while it was read"):
            got.extend(chunk.predictions for chunk in chunks)
        assert len(got) == 1 or name == "x.zarr"  # whose other chunks may be read
        got = np.concatenate(got)
        assert 0 < len(got) < 4000
        assert np.array_equal(got, whole[: len(got)]), name


@pytest.mark.parametrize("change", CHANGES)
def test_a_target_or_a_shard_that_changes_before_its_turn_is_refused(change):
    big("x.npy")
    for end in "ab":
        big(f"shard_{end}.arrow")
    for files, changed in ((("x.npy", "y.npy"), "y.npy"), (("shard_*.arrow", None), "shard_b.arrow")):
        chunks = Scan(*files)._chunks()
        assert files[1] or next(chunks).n_rows == 4000
        CHANGES[change](changed)
        with pytest.raises(ValueError, match=f"{changed}"):
            list(chunks)


def test_a_file_that_changes_between_the_passes_of_a_fit_is_refused(capsys, monkeypatch):
    from fastxent.jobs.calibrate import FileChunks

    big("x.npy")
    chunks = FileChunks("x.npy", "y.npy", Wanted(), lambda *_: None)
    assert sum(len(target) for _, target, _ in chunks) == 4000
    CHANGES["the same bytes"]("y.npy")
    with pytest.raises(ValueError, match=r"x\.npy, y\.npy: was changed"):
        list(chunks)


def test_names_of_a_hostile_file_do_not_reach_the_terminal_as_they_are(capsys):
    """No line more, and nothing that a terminal would do."""
    write("x.csv", b'"a\nfastxent: done",b,"c\x1b[2J"\n1,2,0\n')
    assert main(["score", "x.csv"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "c\\x1b[2J" in err


def test_shapes_that_no_byte_stands_for():
    np.save("y.npy", Y)
    for shape, said in [("(3, 0)", "0 classes"), ("(0, 4294967296)", "4294967296 classes and no row")]:
        write("x.npy", npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"))
        assert said in outcome("x.npy", "y.npy")


def test_names_in_h5_that_are_no_text():
    with h5py.File("x.h5", "w") as file:
        file["predictions"], file["target"] = X, Y
        file[b"\xff"] = Y
    assert "UTF-8" in outcome("x.h5")


def test_a_zarr_array_of_more_chunks_than_files_is_refused_without_looking_for_them():
    write_zarr("x.zarr")
    for path in ("x.zarr/predictions/zarr.json", "x.zarr/target/zarr.json"):
        with open(path) as file:
            meta = json.load(file)
        meta["shape"][0] = 10**15
        write(path, json.dumps(meta).encode())
    assert "500000000000000 chunks are missing" in outcome("x.zarr").replace("499999999999992 of ", "")


def test_zarr_arrays_that_would_be_unpickled_are_refused():
    write_zarr("x.zarr", form=2)
    path = "x.zarr/predictions/.zarray"
    with open(path) as file:
        meta = json.load(file)
    for change in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"dtype": "|O"}):
        write(path, json.dumps(meta | {"compressor": None, "filters": None} | change).encode())
        assert isinstance(outcome("x.zarr"), str)


def test_arrow_buffers_beyond_the_end_are_not_read_as_memory_was(monkeypatch):
    """A batch of which some columns are read: Arrow looks at none of their lengths."""
    feather.write_feather(table().append_column("id", pa.array(Y)), "x.arrow", "uncompressed")
    with open("x.arrow", "rb") as file:
        content = file.read()
    wanted, refused = Wanted(columns="a,b"), 0
    lengths = [k for k in range(0, len(content) - 8, 8) if content[k : k + 8] == struct.pack("<q", X[:, 0].nbytes)]
    assert lengths
    for at in lengths:
        write("x.arrow", content[:at] + struct.pack("<q", 1 << 20) + content[at + 8 :])
        try:
            assert all(np.array_equal(chunk.predictions, X) for chunk in Scan("x.arrow", None, wanted))
        except ValueError as error:
            refused += "x.arrow" in str(error)
    assert refused


def bad_commands():
    """(what, command, parts of the line)."""
    for name, columns in (("a.npy", 2), ("b.npy", 3)):
        os.makedirs("shards", exist_ok=True)
        np.save(f"shards/{name}", np.zeros((3, columns)))
    np.save("y6.npy", np.zeros(6, int))
    for k, width in enumerate((2, 3)):
        os.makedirs("lists", exist_ok=True)
        pq.write_table(pa.table({"z": [[0.0] * width] * 3, "target": Y}), f"lists/{k}.parquet")
    np.save("pickle.npy", np.array([{}, None]), allow_pickle=True)
    np.save("y.npy", Y)
    write("magic.parquet", b"PAR2" + b"\0" * 100 + b"PAR2")
    pq.write_table(pa.table({"a": [1.0, None], "b": [0.0, 1.0], "target": [0, 1]}), "null.parquet")
    feather.write_feather(pa.table({"a": [1.0, 2.0], "b": [0.0, 1.0], "target": [0, None]}), "null.arrow")
    write("null.csv", b"a,b,target\n1,2,0\n1,,1\n")
    write("cut.csv", b"a,b,target\n1,2,0\n1,2.5")
    pq.write_table(pa.table({"z": [[1.0, 2.0], [3.0]], "target": [0, 1]}), "ragged.parquet")
    feather.write_feather(pa.table({"z": [[1.0, 2.0], [3.0]], "target": [0, 1]}), "ragged.arrow")
    lists = pa.table({"z": [[1.0, 2.0], [3.0]], "target": [0, 1]})
    feather.write_feather(lists, "ragged_batches.arrow", "uncompressed", chunksize=1)
    write("label.csv", b"a,b,target\n1,2,cat\n1,2,cow\n")
    with h5py.File("holes.h5", "w") as file:
        file.create_dataset("predictions", (100, 2), "f8", chunks=(10, 2))[:10] = 1.0
        file["target"] = np.zeros(100, int)
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 2))
    with h5py.File("virtual.h5", "w") as file:
        file.create_virtual_dataset("predictions", layout)
        file["target"] = Y
    with h5py.File("external.h5", "w") as file:
        file.create_dataset("predictions", (3, 2), "f8", external=[("/etc/hostname", 0, 48)])
        file["target"] = Y
    write_zarr("holes.zarr")
    shutil.rmtree("holes.zarr/predictions/c/1")
    os.makedirs("empty", exist_ok=True)
    np.save("text.npy", np.array([["a", "b"]] * 3))
    np.save("record.npy", np.zeros(3, [("a", "f8"), ("b", "f8")]))
    np.save("time.npy", np.zeros((3, 2), "M8[s]"))
    return [
        ("another class count", "shards/*.npy y6.npy", ["shards/b.npy", "3 classes", "shards/a.npy has 2"]),
        ("another class count in a folder", "shards y6.npy", ["shards/b.npy", "3 classes"]),
        ("another list length", "lists", ["lists/1.parquet", "3 classes", "lists/0.parquet has 2"]),
        ("pickle", "pickle.npy y.npy", ["pickle.npy", "pickled"]),
        ("pickled target", "y.npy pickle.npy", ["pickle.npy", "pickled"]),
        ("magic", "magic.parquet", ["magic.parquet", "not a .parquet"]),
        ("null", "null.parquet", ["null.parquet", "row 1", "column 'a'", "empty"]),
        ("null target", "null.arrow", ["null.arrow", "row 1", "column 'target'", "empty"]),
        ("null in text", "null.csv", ["null.csv", "row 1", "column 'b'", "empty"]),
        ("cut off in a number", "cut.csv", ["cut.csv", "truncated", "newline"]),
        ("ragged", "ragged.parquet", ["ragged.parquet", "row 1", "a list of 1"]),
        ("ragged Arrow", "ragged.arrow", ["ragged.arrow", "row 1", "a list of 1"]),
        ("ragged between batches", "ragged_batches.arrow", ["ragged_batches.arrow", "row 1", "a list of 1"]),
        ("text without --classes", "label.csv", ["label.csv", "row 0", "'cat'", "--classes"]),
        ("unknown label", "label.csv --classes cat,dog", ["label.csv", "row 1", "'cow'", "--classes"]),
        ("one class", "label.csv --classes cat", ["--classes", "'cat'"]),
        ("unwritten chunks", "holes.h5", ["holes.h5[predictions]", "never written"]),
        ("virtual dataset", "virtual.h5", ["virtual.h5[predictions]", "other files"]),
        ("external dataset", "external.h5", ["external.h5[predictions]", "other files"]),
        ("missing chunk", "holes.zarr", ["holes.zarr", "1 of 2 chunks are missing"]),
        ("empty folder", "empty y.npy", ["empty", "no file"]),
        ("pattern without a file", "no*.npy y.npy", ["no*.npy", "no file"]),
        ("absent", "absent.zarr y.npy", ["absent.zarr", "no such file"]),
        ("text for predictions", "text.npy y.npy", ["predictions"]),
        ("records", "record.npy y.npy", ["record.npy"]),
        ("times", "time.npy y.npy", ["predictions", "datetime64"]),
    ]


def test_bad_files_are_one_line_and_exit_code_2(capsys):
    for what, command, parts in bad_commands():
        code = main(["score", *command.split(), "--json", "-"])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), what
        assert err.startswith("fastxent: error: "), (what, err)
        assert err.count("\n") == 1, what
        assert not [part for part in parts if part not in err], (what, err)


def test_wanted_is_what_is_read():
    """The oracle above reads the file that was written."""
    write("x.csv", text())
    assert whole(outcome("x.csv"))
    (chunk,) = Scan("x.csv", wanted=Wanted(columns="b,a"))
    np.testing.assert_array_equal(chunk.predictions, X[:, ::-1])
