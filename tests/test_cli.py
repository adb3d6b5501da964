"""The command line: the figures of the Python API from every format, one line for every error, exit codes."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fastxent import __version__
from fastxent import score as score_arrays
from fastxent.cli.main import main

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")

N, C = 500, 12
RNG = np.random.default_rng(21)
X = 3 * RNG.normal(size=(N, C))
Y = RNG.integers(0, C, N)
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
W = RNG.random(N)
IDS = 1000 - np.arange(N)
COMMAND = [sys.executable, "-m", "fastxent"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the same predictions in every format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    np.save("x.npy", X)
    np.save("xf.npy", np.asfortranarray(X))
    np.save("xt.npy", X.T.copy())
    np.save("y.npy", Y)
    np.savez("all.npz", logits=X, labels=Y, w=W, i=IDS)
    np.savez_compressed("pair.npz", predictions=X, target=Y)
    table = pa.table({"y": Y, "w": W, "id": IDS, **{f"logit_{k}": X[:, k] for k in range(C)}})
    arrow_csv.write_csv(table, "t.csv")
    pq.write_table(table, "t.parquet", row_group_size=200)
    pq.write_table(pa.table({"logits": list(X), "target": Y}), "lists.parquet")
    return tmp_path


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(score):
    return json.loads(json.dumps(score.to_dict(), allow_nan=False))


@pytest.mark.parametrize(
    "files",
    [
        "x.npy y.npy",
        "xf.npy y.npy",
        "xt.npy y.npy --axis 0",
        "pair.npz",
        "all.npz --predictions-key logits --target-key labels",
        "lists.parquet",
        "t.csv --columns logit_* --target-column y",
        "t.parquet --columns logit_* --target-column y",
        "x.npy t.csv --target-column y",
        "t.parquet y.npy --columns logit_*",
    ],
)
def test_json_has_the_bits_of_the_python_api_from_every_format(capsys, files):
    code, out, err = run(capsys, "score", *files.split(), "--json", "-")
    assert (code, err) == (0, "")
    assert json.loads(out) == as_json(score_arrays(X, Y))


@pytest.mark.parametrize(
    "files",
    [
        "t.csv --columns logit_* --target-column y --weight-column w --id-column id",
        "t.parquet --target-column y --weight-column w --id-column id",
        "all.npz --predictions-key logits --target-key labels --weight-column w --id-column i",
        "x.npy t.parquet --target-column y --weight-column w --id-column id",
    ],
)
def test_weights_and_ids(capsys, files):
    code, out, _ = run(capsys, "score", *files.split(), "--json", "-")
    assert code == 0
    assert json.loads(out) == as_json(score_arrays(X, Y, sample_weight=W, ids=IDS))


def test_options_reach_the_scorer(capsys):
    common = ["--ignore-index", 3, "--top-k", "1,2,7", "--bins", 9, "--worst", 4, "--json", "-"]
    python = {"ignore_index": 3, "top_k": (1, 2, 7), "bins": 9, "worst": 4}
    code, out, _ = run(capsys, "score", "x.npy", "y.npy", "--temperature", 2.5, *common)
    assert code == 0
    assert json.loads(out) == as_json(score_arrays(X, Y, temperature=2.5, **python))
    np.save("p.npy", 0.3 * P)
    more = ["--kind", "probs", "--normalize", "--eps", 0.01, "--sum-tol", 1e-6]
    code, out, _ = run(capsys, "score", "p.npy", "y.npy", *more, *common)
    assert code == 0
    same = score_arrays(0.3 * P, Y, kind="probs", normalize=True, eps=0.01, sum_tol=1e-6, **python)
    assert json.loads(out) == as_json(same)
    np.save("l.npy", np.log(P))
    code, out, _ = run(capsys, "score", "l.npy", "y.npy", "--kind", "log-probs", "--json", "-")
    assert json.loads(out) == as_json(score_arrays(np.log(P), Y, kind="log_probs"))


def test_soft_targets_float16_and_rows_left_out(capsys):
    np.save("p.npy", P)
    np.save("h.npy", X.astype("f2"))
    bad = X.copy()
    bad[7, 2] = np.nan
    np.save("bad.npy", bad)
    assert json.loads(run(capsys, "score", "x.npy", "p.npy", "--json", "-")[1]) == as_json(score_arrays(X, P))
    half = score_arrays(X.astype("f2"), Y)
    assert json.loads(run(capsys, "score", "h.npy", "y.npy", "--json", "-")[1]) == as_json(half)
    counted = run(capsys, "score", "bad.npy", "y.npy", "--invalid", "count", "--json", "-")
    assert json.loads(counted[1]) == as_json(score_arrays(bad, Y, invalid="count"))


def test_chunks_do_not_change_a_bit(capsys, monkeypatch):
    monkeypatch.setattr("fastxent.files.base.BLOCK_BYTES", 2000)
    for files in (["x.npy", "y.npy"], ["t.csv", "--columns", "logit_*", "--target-column", "y"]):
        code, out, _ = run(capsys, "score", *files, "--json", "-")
        assert code == 0
        assert json.loads(out) == as_json(score_arrays(X, Y))
    np.save("far.npy", np.where(np.arange(N) == 400, 99, Y))
    code, _, err = run(capsys, "score", "x.npy", "far.npy")
    assert code == 2
    assert "target: row 400 is 99" in err


def test_the_table_is_plain_in_a_pipe_and_fits_80_columns(capsys):
    code, out, err = run(capsys, "score", "x.npy", "y.npy")
    assert (code, err) == (0, "")
    card = score_arrays(X, Y)
    for text in (
        f"{card.nll:.6f}",
        f"{card.accuracy:.2%}",
        "top-5 accuracy",
        "calibration error",
        "worst rows",
        "rows/s",
    ):
        assert text in out
    assert str(card.worst[0].id) in out
    assert "\x1b" not in out
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80


def test_json_file_is_written_whole_beside_the_table(capsys, folder):
    code, out, _ = run(capsys, "score", "x.npy", "y.npy", "--json", "card.json")
    assert code == 0
    assert "NLL" in out
    assert json.loads((folder / "card.json").read_text()) == as_json(score_arrays(X, Y))
    before = (folder / "card.json").read_bytes()
    assert run(capsys, "score", "x.npy", "xt.npy", "--json", "card.json")[0] == 2
    assert (folder / "card.json").read_bytes() == before
    assert not [name for name in os.listdir(folder) if name.startswith(".card")]


def test_no_row_is_a_warning(capsys):
    np.save("x0.npy", X[:0])
    np.save("y0.npy", Y[:0])
    code, out, err = run(capsys, "score", "x0.npy", "y0.npy", "--json", "-")
    assert code == 0
    assert json.loads(out)["nll"] == "nan"
    assert err.startswith("fastxent: warning: no row was scored")
    assert run(capsys, "score", "x0.npy", "y0.npy")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("score", ["PREDICTIONS"]),
        ("scor x.npy", ["scor"]),
        ("score x.npy y.npy --colums a", ["--colums"]),
        ("score x.npy y.npy --kind odds", ["--kind", "odds"]),
        ("score x.npy y.npy --bins many", ["--bins", "integer"]),
        ("score x.npy y.npy --bins 0", ["bins", "0"]),
        ("score x.npy y.npy --top-k 1;5", ["--top-k", "1;5"]),
        ("score x.npy y.npy --temperature 0", ["temperature", "0"]),
        ("score x.npy y.npy --eps 0.7", ["eps", "0.7"]),
        ("score x.npy y.npy --json no/such/folder.json", ["--json"]),
        ("score absent.npy y.npy", ["absent.npy", "no such file"]),
        ("score x.npy absent.csv", ["absent.csv", "no such file"]),
        ("score absent.parquet y.npy", ["absent.parquet"]),
        ("score . y.npy", ["different formats", "pattern"]),
        ("score x.npy", ["target"]),
        ("score x.npy xt.npy", ["target", "(12, 500)"]),
        ("score x.npy y.npy --kind probs", ["predictions", "row 0"]),
        ("score x.npy y.npy --kind log-probs", ["predictions", "row"]),
        ("score x.npy y.npy --axis 5", ["--axis", "5"]),
        ("score xt.npy y.npy", ["target", "(500,)"]),
        ("score t.csv --target-column w --columns logit_*", ["target", "row 0", "'w'"]),
        ("score t.parquet --target-column w --columns logit_*", ["target", "int"]),
        ("score x.npy t.csv --target-column y --id-column w", ["ids", "row 0", "'w'"]),
        ("demo --files 0", ["demo"]),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, arguments, parts):
    code, out, err = run(capsys, *arguments.split())
    assert code == 2
    assert out == ""
    assert err.startswith("fastxent: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part.lower() in err.lower()


def test_help_and_version(capsys):
    assert run(capsys, "--version") == (0, f"fastxent {__version__}\n", "")
    code, out, _ = run(capsys)
    assert code == 0
    assert "score" in out
    code, out, _ = run(capsys, "score", "--help")
    assert code == 0
    for option in ("kind", "columns", "weight-column", "axis", "ignore-index", "eps", "top-k", "worst", "json"):
        assert f"--{option}" in out


def test_help_imports_nothing_slow():
    code = "import sys; from fastxent.cli.main import main; main(['--help']); print([*sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("numba", "numpy", "pyarrow", "scipy"):
        assert f"'{name}'" not in done.stderr


def test_a_pipe_has_no_progress_bar_and_a_closed_one_no_traceback():
    done = subprocess.run([*COMMAND, "score", "x.npy", "y.npy"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NLL" in done.stdout
    command = " ".join([*COMMAND, "score x.npy y.npy --json - | true"])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


# Scores the same chunk until it is stopped.
ENDLESS = """
import sys
from fastxent.files.scan import Scan
once = Scan.__iter__
def again(self):
    (chunk,) = once(self)
    while True:
        yield chunk._replace(start=self.rows_read)
        self.rows_read += chunk.n_rows
Scan.__iter__, Scan.fraction = again, property(lambda self: 0.5)
from fastxent.cli.main import main
sys.exit(main(["score", "x.npy", "y.npy", "--json", "never.json"]))
"""


def test_a_terminal_has_a_progress_bar_and_ctrl_c_exits_with_130(folder):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = bytearray()

    def listen():
        try:
            while block := os.read(ours, 4096):
                seen.extend(block)
        except OSError:  # the other end is closed
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + 120
    while b"rows/s" not in seen and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    listener.join(timeout=10)
    os.close(ours)
    assert b"rows/s" in seen
    assert b"GB/s" in seen
    assert process.returncode == 130
    assert b"fastxent: interrupted" in seen
    assert b"Traceback" not in seen
    assert out == b""
    assert not os.path.exists("never.json")
