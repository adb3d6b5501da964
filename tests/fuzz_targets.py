"""Hostile bytes for whatever reads them: what ci/fuzz.sh runs for hours, and test_fuzz.py for seconds.

A target takes any bytes. It raises where a promise is broken: whatever the bytes are, the outcome is figures or one
line that names the file, in little time and memory.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOST_S = 1.0  # of processor time, for a small input
MOST_BYTES = 10  # of memory for a byte of a file
LEAST_BYTES = 96 << 20  # and so much in any case: blocks, threads and their heaps, what libraries load late
REFUSED = (ValueError, TypeError, OSError, MemoryError)
SPLIT = b"\n===\n"  # between the files of a folder

X = np.array([[0.5, -1.25], [1e-3, 2.0], [7.0, 12345.678]])
Y = np.array([1, 0, 1])
CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """What reads bytes, bytes to begin with, and words that belong into them."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]


class Broken(AssertionError):
    """A promise that did not hold."""


@contextlib.contextmanager
def frugal(size: int):
    """Little time and memory pass in the block."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory is counted from here on
    before, begin_s = peak_bytes(), time.process_time()
    yield
    elapsed_s = time.process_time() - begin_s
    grown = peak_bytes() - before
    if grown > LEAST_BYTES + MOST_BYTES * size:
        raise Broken(f"{grown >> 20} MiB for {size} bytes")
    if elapsed_s > MOST_S:
        raise Broken(f"{elapsed_s:.1f} s for {size} bytes")


def peak_bytes() -> int:
    """The most memory that the process had; 0 where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    return 0


def refuse_long(error: Exception, name: str) -> None:
    """A refusal is one line, which names the file."""
    if "\n" in str(error) or (name not in str(error) and name != getattr(error, "filename", None)):
        raise Broken(f"a message without the name, or of more lines: {error}") from error


def settled(run: Callable[[], None]) -> None:
    """Run, and once more where it took long: what is compiled for the first time is not counted."""
    try:
        run()
    except Broken as error:
        if " s for " not in str(error):
            raise
        run()


def scored(name: str, target: str | None, size: int) -> None:
    """Score files as the command does."""
    from fastxent.jobs.score import Job, score_files

    def run() -> None:
        with frugal(size), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                score_files(Job(name, target, options={"invalid": "count"})).result().to_dict()
            except REFUSED as error:
                if not str(error).startswith(("predictions", "target", "weight")):  # of rows, told by the kernels
                    refuse_long(error, name)

    settled(run)


def write(name: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as file:
        file.write(content)


def reader(name: str, seal: Callable[[bytes], bytes] = bytes, target: str | None = None) -> Callable[[bytes], None]:
    """Bytes as a file; `seal` puts around them what random bytes would never have: lengths and checksums that agree."""

    def run(data: bytes) -> None:
        content = seal(data)
        write(name, content)
        if target is not None and not os.path.exists(target):
            np.save(target, Y)
        scored(name, target, len(content))

    return run


# Bytes to begin with


def saved(save: Callable[[str], object], name: str) -> bytes:
    """What a library writes."""
    save(name)
    content = Path(name).read_bytes()
    os.remove(name)
    return content


def npy(array: np.ndarray = X) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def table(lists: bool = False):
    import pyarrow as pa

    if lists:
        return pa.table({"z": [[float(z) for z in row] for row in X], "target": Y})
    return pa.table({"a": X[:, 0], "b": X[:, 1], "target": Y})


def npz_seeds() -> list[bytes]:
    files = []
    for save in (np.savez, np.savez_compressed):
        files.append(saved(lambda name, save=save: save(name, predictions=X, target=Y), "seed.npz"))
    return files


def zipped(data: bytes) -> bytes:
    """The first byte says how it is packed; the rest is a member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if data[:1] > b"\x7f" else zipfile.ZIP_STORED) as archive:
        archive.writestr("predictions.npy", data[1:])
        archive.writestr("target.npy", npy(Y))
    return file.getvalue()


def tensors(data: bytes) -> bytes:
    """A header and data, with the length of the header before it."""
    header, _, values = data.partition(SPLIT)
    return struct.pack("<Q", len(header)) + header + values


def tensor_seeds() -> list[bytes]:
    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    header = {"predictions": tensor("F64", [3, 2], 0, 48), "target": tensor("I64", [3], 48, 72)}
    return [json.dumps(header).encode() + SPLIT + X.tobytes() + Y.tobytes()]


def parquet_seeds() -> list[bytes]:
    import pyarrow.parquet as pq

    def written(name, lists=False, **how):
        pq.write_table(table(lists), name, **how)

    return [
        saved(lambda name, how=how: written(name, **how), "seed.parquet")
        for how in (
            {"row_group_size": 2, "store_schema": False},
            {"compression": "none", "use_dictionary": False},
            {"lists": True, "compression": "zstd"},
            {"data_page_version": "2.0", "compression": "gzip"},
        )
    ]


def arrow_seeds(stream: bool = False) -> list[bytes]:
    import pyarrow as pa

    files = []
    for lists in (False, True):
        for packed in (None, "lz4", "zstd"):
            file = io.BytesIO()
            options = pa.ipc.IpcWriteOptions(compression=packed)
            made = table(lists)
            new = pa.ipc.new_stream if stream else pa.ipc.new_file
            with new(file, made.schema, options=options) as writer:
                writer.write_table(made, max_chunksize=2)
            files.append(file.getvalue())
    return files


def h5_seeds() -> list[bytes]:
    import h5py

    def written(name, **how):
        with h5py.File(name, "w", libver="earliest") as file:
            for member, array in (("predictions", X), ("target", Y)):
                file.create_dataset(member, data=array, **how)

    return [saved(lambda name, how=how: written(name, **how), "seed.h5") for how in ({}, {"compression": "gzip"})]


def folder_seeds(form: int) -> list[bytes]:
    import zarr

    files = []
    for how in ({}, {"compressors": None}):
        group = zarr.open_group("seed.zarr", mode="w", zarr_format=form)
        for member, array in (("predictions", X), ("target", Y)):
            group.create_array(member, data=array, **how)
        files.append(SPLIT.join(Path("seed.zarr", name).read_bytes() for name in FOLDERS[form]))
        shutil.rmtree("seed.zarr")
    return files


FOLDERS = {
    3: ("zarr.json", "predictions/zarr.json", "predictions/c/0/0", "target/zarr.json", "target/c/0"),
    2: (".zgroup", "predictions/.zarray", "predictions/0.0", "target/.zarray", "target/0"),
}


def folder(form: int) -> Callable[[bytes], None]:
    """Bytes as the files of a store."""
    store = f"v{form}.zarr"

    def run(data: bytes) -> None:
        shutil.rmtree(store, ignore_errors=True)
        for name, content in zip(FOLDERS[form], data.split(SPLIT)):
            write(f"{store}/{name}", content)
        scored(store, None, len(data))

    return run


def csv_seeds() -> list[bytes]:
    rows = "".join(f"{a!r},{b!r},{y}\n" for (a, b), y in zip(X.tolist(), Y.tolist()))
    return [f"a,b,target\n{rows}".encode(), b'"a","b",target\r\n"1","-inf",0\r\nnan,2e400,1\r\n']


# Score cards


def sealed_state(data: bytes) -> bytes:
    """A header, and what differs from the arrays of one of `states`, with the checksum and all that its file has.

    The first byte says which; each difference is a position, of 4 bytes, and a number of 8.
    """
    header, _, rest = data[1:].partition(SPLIT)
    words = np.frombuffer(_arrays_of(ord(data[:1] or b"0"))[1], np.int64).copy()
    for at in range(0, len(rest) - 11, 12):
        place, word = struct.unpack_from("<Iq", rest, at)
        words[place % words.size] = word
    arrays = words.tobytes()
    content = b"fastxent score state 2\n" + struct.pack("<Q", len(header)) + header + zlib.compress(arrays, 1)
    return content + hashlib.sha256(content).digest()


def states() -> list[bytes]:
    from fastxent.scoring.scorer import Scorer

    cards = [
        Scorer(worst=2, bins=3).update(X, Y),
        Scorer(worst=1, bins=2).update(X, Y, sample_weight=[1.0, 2.0, 0.5]),
        Scorer(worst=1, bins=2).update(X, [[0.5, 0.5]] * 3),
        Scorer(worst=0, bins=1).update(np.zeros((2, 70)), [0, 69]),
        Scorer(worst=1, bins=2).update(X, Y, by=[0, 1, 0]),
        Scorer(worst=1, bins=2, bootstrap=3).update(X, Y),
        Scorer(),
    ]
    return [card._to_bytes() for card in cards]


@functools.cache
def _arrays_of(which: int) -> tuple[bytes, bytes]:
    """Header and arrays of one of `states`."""
    made = states()
    content = made[which % len(made)]
    at = content.index(b"\n") + 9
    end = at + int.from_bytes(content[at - 8 : at], "little")
    return content[at:end], zlib.decompress(content[end:-32])


def unsealed_states() -> list[bytes]:
    change = struct.pack("<IqIq", 3, 1, 100, -1)
    return [bytes([which]) + _arrays_of(which)[0] + SPLIT + change * (which % 2) for which in range(len(states()))]


def state(seal: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], None]:
    """Bytes as a score card's file: what loads it can be looked at, saved, merged and gone on with."""
    from fastxent.scoring.scorer import Scorer

    def run(data: bytes) -> None:
        content = seal(data)
        write("x.state", content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with frugal(len(content)):
                try:
                    card = Scorer.load("x.state")
                except REFUSED as error:
                    return refuse_long(error, "x.state")
            card.result().to_dict()
            card.save("again.state")
            with contextlib.suppress(*REFUSED):  # rows that are covered already
                Scorer.load("again.state").merge(card)
            with contextlib.suppress(*REFUSED):  # another number of classes
                card.update(X, Y).result().to_dict()
        return None

    return run


def calibrator_seeds() -> list[bytes]:
    from fastxent.fit import TemperatureScaling, VectorScaling

    x, y = np.tile([[0.5, -1.0], [0.2, 2.0], [1.0, -0.5]], (4, 1)), [0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    return [saved(kind().fit(x, y).save, "seed.json") for kind in (TemperatureScaling, VectorScaling)]


def calibrator(data: bytes) -> None:
    """Bytes as a file of a calibration."""
    from fastxent.fit import TemperatureScaling, VectorScaling

    write("x.json", data)
    for kind in (TemperatureScaling, VectorScaling):
        with frugal(len(data)):
            try:
                kind.load("x.json").transform(X)
            except REFUSED as error:
                if not str(error).startswith("logits"):
                    refuse_long(error, "x.json")


# The command line

COMMANDS = ("score", "calibrate", "merge", "compare")
ELSEWHERE = ("workers", "scheduler", "://", "/", "\\", "~", "\0")  # processes, networks, other folders
OPTIONS = [
    "kind",
    "columns",
    "target-column",
    "weight-column",
    "id-column",
    "by",
    "predictions-key",
    "target-key",
    "classes",
    "axis",
    "ignore-index",
    "normalize",
    "eps",
    "sum-tol",
    "temperature",
    "invalid",
    "top-k",
    "bins",
    "worst",
    "json",
    "resume",
    "save-every",
    "first-row",
    "hidden",
    "classifier",
    "classifier-key",
    "bias",
    "softcap",
    "target",
    "method",
    "save",
    "output",
    "unfinished",
    "cluster",
    "name",
    "bootstrap",
    "seed",
    "load",
    "apply",
    "help",
    "version",
]


def command_files() -> dict[str, bytes]:
    probs = (np.exp(X - 10) / np.exp(X - 10).sum(1, keepdims=True)).round(6)
    return {
        "x.npy": npy(),
        "y.npy": npy(Y),
        "p.npy": npy(probs),
        "w.npy": npy(X[:2]),
        "t.csv": csv_seeds()[0],
        "s.state": states()[0],
        "z.npz": npz_seeds()[0],
    }


_FILES: dict[str, bytes] = {}


def command(data: bytes) -> None:
    """Lines as the words of a command, in a folder of files."""
    _FILES.update(_FILES or command_files())
    commanded(data, _FILES)


def commanded(lines: bytes, files: dict[str, bytes]) -> None:
    """Run a command, one word a line, where there are these files and no others."""
    from fastxent.cli.main import main

    words = lines.decode("utf-8", "surrogateescape").split("\n")[:20]
    if words[0] not in COMMANDS or any(part in word for word in words for part in ELSEWHERE):
        return

    def run() -> None:
        shutil.rmtree("command", ignore_errors=True)
        os.mkdir("command")
        for name, content in files.items():
            write(f"command/{name}", content)
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        size = sum(map(len, files.values()))
        with (
            contextlib.chdir("command"),
            frugal(size),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(words)
        said = [line for line in err.getvalue().splitlines() if not line.startswith("fastxent: warning: ")]
        if code not in (0, 2) or len(said) != (code == 2) or (said and not said[0].startswith("fastxent: error: ")):
            raise Broken(f"{words}: exit code {code}, {err.getvalue()!r}")

    settled(run)


def comparison(data: bytes) -> None:
    """Lines as the words of a command, then the files that it compares."""
    lines, *contents = data.split(SPLIT)
    commanded(lines, dict(zip(("a.npy", "b.csv", "y.npz"), contents)))


def comparison_seeds() -> list[bytes]:
    table = f"a,b,target,w,g\n{''.join(f'{a},{b},{y},{y + 0.5},g{y}{chr(10)}' for (a, b), y in zip(X[::-1], Y))}"
    target = saved(lambda name: np.savez(name, target=Y), "seed.npz")
    lines = [
        "compare a.npy b.csv y.npz --columns a,b",
        "compare b.csv a.npy b.csv --columns a,b --weight-column w --by g --cluster g --worst 2 --json -",
        "compare b.csv b.csv a.npy y.npz --columns a,b --name one --name two --name three --json out.json",
        "compare a.npy b.csv y.npz --kind log-probs --temperature 2 --invalid count --ignore-index 1 --axis 1",
        "compare a.npy b.csv y.npz --kind probs --kind logits --normalize --eps 1e-9 --sum-tol 0.1",
    ]
    return [SPLIT.join([line.replace(" ", "\n").encode(), npy(), table.encode(), target]) for line in lines]


def command_seeds() -> list[bytes]:
    lines = [
        "score x.npy y.npy",
        "score t.csv --json -",
        "score t.csv --columns a,b --target-column target --worst 1 --bins 3 --top-k 1,2",
        "score z.npz --resume new.state --save-every 0",
        "score p.npy y.npy --kind probs --normalize --eps 1e-9 --sum-tol 0.1",
        "score x.npy y.npy --axis 1 --ignore-index 0 --temperature 2 --invalid count --first-row 7",
        "score x.npy y.npy --by a",
        "score --hidden x.npy --classifier w.npy --target y.npy --softcap 30",
        "calibrate x.npy y.npy --json out.json",
        "merge s.state --output joined.state --unfinished",
        "compare x.npy t.csv y.npy --columns a,b --name one --name two",
    ]
    return [line.replace(" ", "\n").encode() for line in lines]


NPY_WORDS = (b"'descr': '<f4'", b"<f2", b">f8", b"|O", b"|V2", b"<U4", b"<M8[s]", b"<c16", b"'shape': (", b"True")
JSON_WORDS = (b"[", b"{", b'"', b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 30, b"\\u0000")
TARGETS = {
    "npy": Target(
        reader("x.npy", target="y.npy"),
        lambda: [npy(), npy(np.asfortranarray(X)), npy(X.astype("f4")), npy(X.astype("f2")), npy(X > 0)],
        NPY_WORDS,
    ),
    "npz": Target(reader("x.npz"), npz_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"../../x.npy", *NPY_WORDS)),
    "npz-members": Target(reader("m.npz", zipped), lambda: [b"\0" + npy(), b"\xff" + npy(X.T)], NPY_WORDS),
    "safetensors": Target(
        reader("x.safetensors", tensors), tensor_seeds, (b"data_offsets", b"BF16", b"F16", b"I64", *JSON_WORDS)
    ),
    "safetensors-raw": Target(reader("r.safetensors"), lambda: [tensors(seed) for seed in tensor_seeds()], JSON_WORDS),
    "parquet": Target(reader("x.parquet"), parquet_seeds, (b"PAR1", b"target")),
    "arrow": Target(reader("x.arrow"), arrow_seeds, (b"ARROW1", b"\xff\xff\xff\xff")),
    "arrow-stream": Target(reader("s.arrow"), lambda: arrow_seeds(stream=True), (b"\xff\xff\xff\xff\0\0\0\0",)),
    "h5": Target(reader("x.h5"), h5_seeds, (b"OHDR", b"TREE", b"SNOD", b"HEAP")),
    "zarr": Target(folder(3), lambda: folder_seeds(3), (SPLIT, b"numcodecs.pickle", b"sharding_indexed", *JSON_WORDS)),
    "zarr-v2": Target(folder(2), lambda: folder_seeds(2), (SPLIT, b'[{"id": "pickle"}]', b"|O", *JSON_WORDS)),
    "csv": Target(reader("x.csv"), csv_seeds, (b'"', b"\r\n", b",", b"nan", b"-inf", b"1e999", b"=1+1")),
    "csv-packed": Target(reader("x.csv.gz", gzip.compress), csv_seeds, (b"\n", b",")),
    "csv-gz": Target(reader("r.csv.gz"), lambda: [gzip.compress(seed) for seed in csv_seeds()], ()),
    "state": Target(state(), states, ()),
    "state-sealed": Target(state(sealed_state), unsealed_states, (SPLIT, b'"groups": ', *JSON_WORDS)),
    "calibrator": Target(calibrator, calibrator_seeds, JSON_WORDS),
    "compare": Target(
        comparison,
        comparison_seeds,
        (SPLIT, b"\n", *(f"\n--{option}\n".encode() for option in OPTIONS), b"a.npy", b"b.csv", b"y.npz", *NPY_WORDS),
    ),
    "command": Target(
        command,
        command_seeds,
        (b"\n", *(f"\n--{option}\n".encode() for option in OPTIONS), b"x.npy", b"t.csv", b"s.state", *JSON_WORDS),
    ),
}


# Mutations

NUMBERS = tuple(
    struct.pack(form, value)
    for form, values in (
        ("<b", (-1, 0, 1, 127)),
        ("<i", (-(2**31), -1, 0, 1, 2**31 - 1)),
        ("<q", (-(2**63), -1, 0, 2**32, 2**62, 2**63 - 1)),
    )
    for value in values
)


def mutated(data: bytes, words: tuple[bytes, ...], rng: random.Random, others: list[bytes]) -> bytes:
    """Bytes with one to four changes, of the kinds that formats trip over."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(9)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            number = rng.choice(NUMBERS)
            out[at : at + len(number)] = number
        elif kind == 2 and words:
            word = rng.choice(words)
            out[at : at + rng.choice((0, len(word)))] = word
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 8, 64))] * rng.choice((1, 2, 500))
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at : at + rng.choice((0, 16))] = other[start : start + rng.choice((4, 16, 200))]
        elif kind == 7:
            digit = re.compile(rb"[0-9]+").search(out, at)
            if digit:
                at = digit.start()
                out[at : at + 1] = rng.choice((b"0", b"-1", b"7", b"4294967296", b"9" * 19, b"1e9", b"1" * 400))
        else:
            out[at : at + 4] = rng.randbytes(4)
    return bytes(out[:100_000])


def corpus(name: str) -> list[bytes]:
    """What a target begins with, and what was found on the way and kept."""
    kept = sorted((CORPUS / name).glob("*"))
    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in kept)]
