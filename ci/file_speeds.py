"""How fast files are scored: format, size, speed, memory, share of what the file can be read with.

    python ci/file_speeds.py [--gigabytes 1] [--classes 1000] [--cold] [--rounds 3] [FORMAT...]

Each format's file is scored in a process of its own, after a small one that loads what is compiled. Beside it the same
file is read from its beginning to its end, by plain read() into one buffer of 1 MiB, and through the library that reads
its format, in turns; the quickest of the rounds counts. --cold drops the file from the page cache before every turn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

FORMATS = ["npy", "npz", "compressed.npz", "safetensors", "h5", "zarr", "parquet", "arrow", "csv"]
BLOCK_ROWS = 1 << 12  # written, or read by a library, at once; main sets it to 16 MB


def blocks(rows: int, classes: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    block = rng.standard_normal((BLOCK_ROWS, classes), dtype="f4")
    for start in range(0, rows, BLOCK_ROWS):
        yield block[: rows - start]


def write(path: Path, rows: int, classes: int) -> None:
    """A file with members or columns predictions and target."""
    labels = np.random.default_rng(1).integers(0, classes, rows)
    form = path.name.partition(".")[2]
    if form in ("npy", "npz", "compressed.npz", "safetensors"):
        whole = np.concatenate(list(blocks(rows, classes)))
        if form == "npy":
            np.save(path, whole)
            np.save(path.with_name("labels.npy"), labels)
        elif form == "safetensors":
            from safetensors.numpy import save_file

            save_file({"predictions": whole, "target": labels}, path)
        else:
            (np.savez if form == "npz" else np.savez_compressed)(path, predictions=whole, target=labels)
    elif form == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            file["target"] = labels
            data = file.create_dataset("predictions", (rows, classes), "f4")
            for k, block in enumerate(blocks(rows, classes)):
                data[k * BLOCK_ROWS : k * BLOCK_ROWS + len(block)] = block
    elif form == "zarr":
        import zarr

        group = zarr.open_group(str(path), mode="w")
        group.create_array("target", data=labels)
        data = group.create_array("predictions", shape=(rows, classes), dtype="f4", chunks=(BLOCK_ROWS, classes))
        for k, block in enumerate(blocks(rows, classes)):
            data[k * BLOCK_ROWS : k * BLOCK_ROWS + len(block)] = block
    else:
        write_table(path, rows, classes, labels, form)


def write_table(path: Path, rows: int, classes: int, labels: np.ndarray, form: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    writer: object = None
    for k, block in enumerate(blocks(rows, classes)):
        target = pa.array(labels[k * BLOCK_ROWS : k * BLOCK_ROWS + len(block)])
        if form == "csv":
            columns = {f"z{j}": pa.array(block[:, j]) for j in range(classes)}
        else:
            columns = {"predictions": pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), classes)}
        data = pa.table({**columns, "target": target})
        if writer is None:
            made = {"csv": pa.csv.CSVWriter, "parquet": pa.parquet.ParquetWriter, "arrow": pa.ipc.new_file}[form]
            writer = made(str(path), data.schema)
        writer.write_table(data)
    writer.close()


def files_of(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


def plain(path: Path) -> None:
    buffer = bytearray(1 << 20)
    for name in files_of(path):
        with open(name, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def library(path: Path) -> None:
    """The predictions and the target, block by block, as the format's own library gives them."""
    form = path.name.partition(".")[2]
    if form == "npy":
        data = np.load(path, mmap_mode="r")
        for start in range(0, len(data), BLOCK_ROWS):
            np.array(data[start : start + BLOCK_ROWS])
    elif form in ("h5", "zarr"):
        import h5py
        import zarr

        file = h5py.File(path) if form == "h5" else zarr.open(str(path), mode="r")
        for start in range(0, file["target"].shape[0], BLOCK_ROWS):
            file["predictions"][start : start + BLOCK_ROWS]
        file["target"][:]
    elif form == "parquet":
        import pyarrow.parquet

        for _ in pyarrow.parquet.ParquetFile(path).iter_batches(BLOCK_ROWS):
            pass
    elif form == "arrow":
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.OSFile(str(path)))
        for k in range(reader.num_record_batches):
            reader.get_batch(k)
    elif form == "csv":
        import pyarrow.csv

        for _ in pyarrow.csv.open_csv(path):
            pass
    elif form == "safetensors":
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            rows = file.get_slice("predictions")
            n = rows.get_shape()[0]
            for start in range(0, n, BLOCK_ROWS):
                rows[start : min(n, start + BLOCK_ROWS)]
    else:
        np.load(path)["predictions"]


def score(path: Path) -> None:
    from fastxent.jobs.score import Job, score_files

    target = str(path.with_name("labels.npy")) if path.name.endswith(".npy") else None
    score_files(Job(str(path), target)).result()


def drop(path: Path) -> None:
    """Take a file out of the page cache."""
    for name in files_of(path):
        with open(name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_bytes() -> float:
    """The most memory this program has had; what getrusage tells would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def measure(big: Path, small: Path, rounds: int, cold: bool) -> dict[str, float]:
    """Seconds of each way, and the memory that scoring took."""
    score(small)
    score(small)
    best: dict[str, float] = {}

    def turn(way: Callable[[Path], None]) -> None:
        if cold:
            drop(big)
        begin = time.perf_counter()
        way(big)
        best[way.__name__] = min(best.get(way.__name__, np.inf), time.perf_counter() - begin)

    for k in range(rounds):
        turn(score)
        if k == 0:
            best["memory"] = peak_bytes()
    for _ in range(rounds):
        for way in (plain, library, score):
            turn(way)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of predictions as arrays")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--folder", help="where the files go; they are removed at the end")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    global BLOCK_ROWS
    BLOCK_ROWS = max(1, (1 << 22) // given.classes)
    if given.child:
        print(json.dumps(measure(*map(Path, given.child), given.rounds, given.cold)))
        return
    rows = int(given.gigabytes * 1e9 / 4 / given.classes)
    print(f"{rows:,} rows of {given.classes:,} float32 logits, page cache {'cold' if given.cold else 'warm'}")
    print("| format | file, GB | predictions, GB/s | memory, MB | share of plain read | time / library's own |")
    print("|---|---|---|---|---|---|")
    for form in given.formats:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            big, small = (Path(folder, name, f"x.{form}") for name in ("big", "small"))
            for path, n in ((big, rows), (small, 3 * BLOCK_ROWS)):
                path.parent.mkdir()
                write(path, n, given.classes)
            own = [sys.executable, __file__, "--classes", str(given.classes), "--rounds", str(given.rounds)]
            subprocess.run([*own, "--child", str(small), str(small)], check=True, stdout=subprocess.DEVNULL)
            command = [*own, *["--cold"] * given.cold, "--child", str(big), str(small)]
            took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            size = sum(file.stat().st_size for file in files_of(big)) / 1e9
            speed = 4e-9 * rows * given.classes / took["score"]
            print(
                f"| .{form} | {size:.2f} | {speed:.2f} | {took['memory'] / 1e6:.0f} "
                f"| {took['plain'] / took['score']:.2f} | {took['score'] / took['library']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
