"""The README says what is so: its examples run, its tables name everything there is, its files exist."""

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dossier.record import RECORD, short_table

import fastxent
from fastxent import fit
from fastxent.benchmark.cases import CASES
from fastxent.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


def first_cells(text):
    """The code in the first column of a section's tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_python_examples():
    names = {}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    assert blocks("python")
    for i, block in enumerate(blocks("python")):
        example = doctest.DocTestParser().get_doctest(block, names, f"README.md, example {i + 1}", "README.md", 0)
        assert example.examples
        runner.run(example, clear_globs=False)
        names = example.globs
    assert runner.failures == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_command_line_example(tmp_path):
    """What follows the last line of bash that scores a file is what it prints, times apart."""
    (script,) = [block for block in blocks("bash") if "fastxent score" in block]
    shown = README[README.index(script) :].split("```text\n")[1].split("```")[0]
    program = f'fastxent() {{ "{sys.executable}" -W ignore -m fastxent "$@"; }}\n{script}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert stable(done.stdout) == stable(shown)


def test_commands_for_parts_and_groups_run(tmp_path, monkeypatch, capsys):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    z, y = rng.standard_normal((200, 3)), rng.integers(0, 3, 200)
    for k, rows in enumerate((slice(0, 120), slice(120, 200))):
        np.save(f"part-{k + 1}.npy", z[rows])
        np.save(f"labels-{k + 1}.npy", y[rows])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    columns = {f"p_{k}": p[:, k] for k in range(3)}
    parquet.write_table(
        pa.table({**columns, "y": y, "country": rng.choice(["Chile", "India"], 200)}), "predictions.parquet"
    )
    for line in section("Interrupted, distributed, by group").split("```sh\n")[1].split("```")[0].splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    assert "India" in capsys.readouterr().out
    assert json.loads(Path("all.json").read_text())["nll"] == fastxent.score(z, y).nll


def stable(text):
    return [line.rstrip() for line in text.splitlines() if line.strip() and "from opening to result" not in line]


def test_api_table_names_every_public_name():
    named = {re.match(r"[\w.]+", code)[0].removeprefix("fastxent.") for code in first_cells(section("API"))}
    assert named == set(fastxent.__all__) - {"__version__"} | {f"fit.{name}" for name in fit.__all__}


@pytest.mark.parametrize(("command", "title"), [("score", "Command line"), ("compare", "Compare models")])
def test_options_table_names_every_option(command, title):
    import typer

    from fastxent.cli.main import app

    parameters = typer.main.get_command(app).commands[command].params
    options = {o for p in parameters for o in p.opts if o.startswith("--") and o != "--help"}
    assert {code.split()[0] for code in first_cells(section(title))} == options


def test_comparison_has_the_benchmarks_rows():
    table = [line.split("|")[1:4] for line in section("Speed").splitlines() if re.match(r"\|.*\d x \d", line)]
    rows = {(re.match(r" *(\w+)", work)[1], dtype.strip(), size.split()[-1]) for work, dtype, size in table}
    assert rows
    assert rows <= {(case.work, case.dtype, str(case.n_classes)) for case in CASES}


def test_accuracy_is_what_is_on_record():
    """`bash ci/accuracy.sh --record` makes both."""
    assert short_table(json.loads(RECORD.read_text())) in section("Accuracy")


def test_files_that_are_named_exist():
    named = set(re.findall(r"(?:ci|tests|bench|fastxent)/[\w/]*\w\.(?:sh|py)", README))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).is_file()]
