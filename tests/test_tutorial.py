"""The tutorial prints what it says: its Python as doctests, then its commands in the same folder."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from fastxent.cli.main import main

TUTORIAL = (Path(__file__).parent.parent / "fastxent" / "TUTORIAL.md").read_text()
TIMES = re.compile(r"^[\d.]+ s[ ,].*(rows/s|passes over the rows|pass over the rows)")


NUMBER = re.compile(r"[-+]?\d[\d,]*\.\d+(?:e[-+]\d+)?")


def stable(text):
    """(lines without those that tell times and without numbers, these numbers): BLAS decides a fit's last digits."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not TIMES.match(line)]
    return [NUMBER.sub("#", line) for line in lines], [
        float(found.replace(",", "")) for line in lines for found in NUMBER.findall(line)
    ]


@pytest.mark.peers
def test_the_tutorial_prints_what_it_says(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner, names = doctest.DocTestRunner(optionflags=flags), {}
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)):
        example = doctest.DocTestParser().get_doctest(block, names, f"TUTORIAL.md, example {i + 1}", "TUTORIAL.md", 0)
        assert example.examples
        runner.run(example, clear_globs=False)
        names = example.globs
    assert runner.failures == 0
    assert runner.tries > 30
    capsys.readouterr()

    commands = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert len(commands) == 3
    for script, shown in commands:
        for line in script.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
        (text, numbers), (shown_text, shown_numbers) = stable(capsys.readouterr().out), stable(shown)
        assert text == shown_text, script
        assert numbers == pytest.approx(shown_numbers, rel=1e-3, abs=1e-5), script
