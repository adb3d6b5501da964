"""Files in the page cache are scored where they are, and nobody can change them meanwhile."""

import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from fastxent import score
from fastxent.cli.main import main
from fastxent.files import base, mapped
from fastxent.files.scan import Scan
from fastxent.jobs.score import Job, score_files
from fastxent.scoring.scorer import Scorer

N, C = 4000, 50
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(N, C)).astype("f4"), RNG.integers(0, C, N)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Files of some 16 blocks, all of which are long enough to be mapped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BLOCK_BYTES", X.nbytes // 16)
    monkeypatch.setattr(mapped, "LEAST_BYTES", 2000)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    if whole("x.npy") is None:
        pytest.skip("this file system gives no leases")


def facts(name):
    stat = os.stat(name)
    return stat.st_size, stat.st_mtime_ns


def whole(name):
    return mapped.mapped(name, facts(name), 0, os.path.getsize(name))


def is_mapped(array, name):
    """Whether an array lies in a mapping of that file."""
    at = array.__array_interface__["data"][0]
    regions = re.findall(r"^(\w+)-(\w+) .* (\S+)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return any(int(a, 16) <= at < int(b, 16) and path.endswith(f"/{name}") for a, b, path in regions)


def write(name):
    if name == "x.safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"predictions": X, "target": Y}, name)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_blocks_are_views_of_the_page_cache_with_the_bits_of_copies(name, monkeypatch):
    write(name)
    files = (name, "y.npy" if name == "x.npy" else None)
    n = 0
    for chunk in Scan(*files):
        assert is_mapped(chunk.predictions, name)
        assert not chunk.predictions.flags.writeable
        assert np.array_equal(chunk.predictions, X[n : n + chunk.n_rows])
        n += chunk.n_rows
    assert n == N
    del chunk
    assert name not in Path("/proc/self/maps").read_text()
    views = score_files(Job(*files)).result()
    monkeypatch.setattr(mapped, "LEAST_BYTES", 1 << 60)
    assert not any(is_mapped(chunk.predictions, name) for chunk in Scan(*files))
    assert views == score_files(Job(*files)).result() == score(X, Y)


def test_whoever_would_cut_a_file_off_waits_until_the_view_is_gone():
    view, before = whole("x.npy"), facts("x.npy")
    writer = threading.Thread(target=os.truncate, args=("x.npy", 10))
    writer.start()
    writer.join(0.3)
    assert writer.is_alive()
    assert mapped.mapped("x.npy", before, 0, 4000) is None  # those who wait are not kept waiting by new views
    assert bytes(view) == Path("x.npy").read_bytes()
    del view
    writer.join(30)
    assert not writer.is_alive()
    assert os.path.getsize("x.npy") == 10


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
@pytest.mark.parametrize("size", [0, X.nbytes // 2])
def test_a_file_that_shrinks_while_it_is_mapped_is_one_line(name, size, capsys, monkeypatch):
    write(name)
    writer, real = threading.Thread(target=os.truncate, args=(name, size)), Scorer.update

    def update(self, predictions, *arguments, **options):
        if writer.ident is None:
            assert is_mapped(predictions, name)
            writer.start()
            writer.join(0.2)
            assert writer.is_alive()
        return real(self, predictions, *arguments, **options)

    monkeypatch.setattr(Scorer, "update", update)
    code = main(["score", name, *(["y.npy"] if name == "x.npy" else []), "--json", "-"])
    out, err = capsys.readouterr()
    writer.join(30)
    assert not writer.is_alive()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fastxent: error: ")
    assert name in err


def test_what_cannot_be_held_is_read():
    before = facts("x.npy")
    assert mapped.mapped("x.npy", before, 0, 1999) is None
    assert mapped.mapped("absent.npy", before, 0, 4000) is None
    assert mapped.mapped("x.npy", (before[0], before[1] + 1), 0, 4000) is None
    with open("x.npy", "r+b"):
        assert mapped.mapped("x.npy", before, 0, 4000) is None
        assert score_files(Job("x.npy", "y.npy")).result() == score(X, Y)
    assert mapped.mapped("x.npy", before, 0, 4000) is not None
    with open("x.npy", "rb") as file:
        os.fsync(file.fileno())

        def left_out():
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return mapped.mapped("x.npy", before, 0, 4000) is None

        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 100, os.RWF_NOWAIT)
        except BlockingIOError:  # not in the page cache, though a disk may bring it back meanwhile
            assert any(left_out() for _ in range(20))
