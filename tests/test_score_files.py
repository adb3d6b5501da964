"""Jobs: files through a score card, whole or in ranges of rows, here or in another process."""

import os
import pickle
import threading

import numpy as np
import pytest

import fastxent.jobs.score as score_files_module
from fastxent import Scorer, score
from fastxent.files import base
from fastxent.files.scan import Scan, Wanted
from fastxent.jobs.score import Job, score_files

N, C = 1000, 7
RNG = np.random.default_rng(8)
X = RNG.normal(size=(N, C)).astype("f4")
Y = RNG.integers(0, C, N)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Predictions and target, in blocks of 96 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BLOCK_BYTES", 96 * 4 * C)
    np.save("x.npy", X)
    np.save("y.npy", Y)


@pytest.mark.parametrize("cuts", [[], [1, 2, 999], [96, 192, 500], [500, 500]])
def test_ranges_of_rows_merge_to_the_bits_of_the_whole(cuts):
    job = pickle.loads(pickle.dumps(Job("x.npy", "y.npy", Wanted(), {"top_k": (1, 3), "worst": 9})))
    parts = [score_files(job, rows=rows) for rows in zip([0, *cuts], [*cuts, N])]
    whole = Scorer(top_k=(1, 3), worst=9)
    for part in reversed(parts):
        whole.merge(pickle.loads(pickle.dumps(part)))
    assert whole.result() == score(X, Y, top_k=(1, 3), worst=9) == score_files(job).result()
    assert whole.rows == ((0, N),)


@pytest.fixture
def readers(monkeypatch):
    """Two readers at once, of ranges of about 170 rows."""
    monkeypatch.setattr("fastxent.jobs.score.READER_BYTES", X.nbytes // 6)
    monkeypatch.setattr("fastxent.threads.get_threads", lambda: 2)


@pytest.mark.parametrize("name", ["x.npy", "x*.npy", "x.safetensors", "x.zarr", "x.parquet", "x.arrow"])
def test_several_readers_at_once_give_the_bits_of_one(name, readers, monkeypatch):
    write(name)
    job = Job(name, "y.npy" if name.endswith(".npy") else None, Wanted(), {"worst": 9})
    at_once = []
    monkeypatch.setattr("fastxent.jobs.score._at_once", noted(score_files_module._at_once, at_once))
    many = score_files(job)
    assert at_once
    monkeypatch.setattr("fastxent.jobs.score.MOST_READERS", 1)
    one = score_files(job)
    assert len(at_once) == 1
    assert many.result() == one.result() == score(X, Y, worst=9)
    assert many.rows == one.rows == ((0, N),)


def write(name):
    if name == "x*.npy":
        np.save("x1.npy", X[:430])
        np.save("x2.npy", X[430:])
        os.remove("x.npy")
    elif name == "x.safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"predictions": X, "target": Y}, name)
    elif name == "x.zarr":
        group = pytest.importorskip("zarr").open_group(name, mode="w")
        group.create_array("predictions", data=X, chunks=(100, C))
        group.create_array("target", data=Y)
    elif name != "x.npy":
        pa = pytest.importorskip("pyarrow")
        table = pa.table({**{f"logit_{k}": X[:, k] for k in range(C)}, "target": Y})
        if name == "x.arrow":
            with pa.ipc.new_file(name, table.schema) as file:
                file.write_table(table, max_chunksize=100)
        else:
            pytest.importorskip("pyarrow.parquet").write_table(table, name, row_group_size=100)


def noted(function, calls):
    def call(*given):
        calls.append(given)
        return function(*given)

    return call


def test_several_readers_tell_of_the_first_offending_row(readers):
    labels = Y.copy()
    labels[[300, 900]] = C, -7
    np.save("y.npy", labels)
    with pytest.raises(ValueError, match=r"target: row 300 is 7"):
        score_files(Job("x.npy", "y.npy"))


def test_several_readers_read_one_version_of_a_file(readers, monkeypatch):
    job, scans = Job("x.npy", "y.npy"), []

    def changes(scan, large=False):
        scans.append(scan)
        if len(scans) == 4:
            os.utime("x.npy", ns=(0, 0))
        return Scan.here(scan, large)

    class Changing(Scan):
        here = changes

    monkeypatch.setattr("fastxent.jobs.score.Scan", Changing)
    with pytest.raises(ValueError, match=r"x\.npy.*: was changed while it was read"):
        score_files(job)


def test_several_readers_end_when_the_caller_is_interrupted(readers):
    def tell(doing, fraction, rows, n_bytes):
        if doing == "scoring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_files(Job("x.npy", "y.npy"), tell=tell)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastxent reads and scores")]


def test_several_readers_tell_of_progress(readers):
    told = []
    score_files(Job("x.npy", "y.npy"), tell=lambda *facts: told.append(facts))
    assert told[0][1:] == (0.0, 0, 0)
    assert told[-1] == ("scoring", 1.0, N, X.nbytes)
    assert told[1:] == sorted(told[1:], key=lambda facts: facts[1:])


def test_progress_rises_to_the_end():
    told = []
    score_files(Job("x.npy", "y.npy"), tell=lambda *facts: told.append(facts))
    assert len(told) > 5
    assert told[0][1:] == (0.0, 0, 0)
    assert told[-1] == ("scoring", 1.0, N, X.nbytes)
    assert told[1:] == sorted(told[1:], key=lambda facts: facts[1:])
