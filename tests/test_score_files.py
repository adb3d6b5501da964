"""Jobs: files through a score card, whole or in ranges of rows, here or in another process."""

import pickle

import numpy as np
import pytest

from fastxent import Scorer, score
from fastxent.files import base
from fastxent.files.scan import Wanted
from fastxent.score_files import Job, score_files

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


def test_progress_rises_to_the_end():
    told = []
    score_files(Job("x.npy", "y.npy"), tell=lambda *facts: told.append(facts))
    assert len(told) > 5
    assert told[0][1:] == (0.0, 0, 0)
    assert told[-1] == ("scoring", 1.0, N, X.nbytes)
    assert told[1:] == sorted(told[1:], key=lambda facts: facts[1:])
