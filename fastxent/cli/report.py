"""``--report`` and ``--plots``: what was run, the page, and where it goes."""

import hashlib
import os
import platform
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fastxent.cli.terminal import refuse_bad_path
from fastxent.files import shards_of
from fastxent.files.source import is_remote

if TYPE_CHECKING:
    from fastxent.fit import Calibration
    from fastxent.report.page import File, Page, Run
    from fastxent.scoring.result import Score

BLOCK_BYTES = 1 << 22

Progress = Callable[[str, float, int, int], None]


class Output:
    """Where the report and the plots of a command go; what they lack is told before the work.

    Parameters
    ----------
    arguments : sequence of str
        The command's.
    inputs : iterable of str or None
        Files, patterns or folders that will be read; the report has their checksums.
    report, plots : str or None
        A file and a folder.
    """

    def __init__(
        self,
        arguments: "Sequence[str] | None",
        inputs: "Iterable[str | None]",
        report: "str | None",
        plots: "str | None",
    ) -> None:
        self._arguments, self._report, self._plots = arguments or (), report, plots
        self._begin_s = time.perf_counter()
        if report == "-":
            raise ValueError("--report: goes to a file, such as report.html")
        refuse_bad_path(report, "--report")
        if plots is not None:
            folder = plots if os.path.isdir(plots) else os.path.dirname(os.path.abspath(plots))
            if os.path.isfile(plots) or not os.access(folder, os.W_OK):
                raise ValueError(f"--plots: cannot write into {plots}")
        self._inputs: dict[str, tuple[int, int] | None] = {}
        if self:
            from fastxent.report.images import require

            require()
            paths = [path for given in inputs if given is not None for path in _files_of(given)]
            self._inputs = {path: _facts(path) for path in paths}

    def __bool__(self) -> bool:
        return self._report is not None or self._plots is not None

    def write_score(self, score: "Score", title: str, names: "Sequence[str] | None", tell: Progress) -> None:
        """Write a score card's report and plots; ``names`` are the classes'."""
        from fastxent.report.score import score_page

        idle = {"eps", "normalize", "sum_tol"} if score.kind != "probs" else set()
        idle |= {"bootstrap", "seed"} if score.bootstrap is None else set()
        options = {name: value for name, value in score.options.items() if name not in idle}
        self.write(lambda run: score_page(score, title, run, names), options, tell)

    def write_calibration(
        self, fitted: dict[str, Any], result: "Calibration", title: str, names: "Sequence[str] | None", tell: Progress
    ) -> None:
        """Write a calibration's report and plots; ``fitted`` is what the calibrator's `to_dict` gives."""
        from fastxent.report.calibration import calibration_page

        options = {"bins": result.before.options["bins"], "ignore_index": result.before.options["ignore_index"]}
        self.write(lambda run: calibration_page(fitted, result, title, run, names), options, tell)

    def write(self, page_of: "Callable[[Run], Page]", options: "dict[str, Any]", tell: Progress) -> None:
        """Write what was asked for.

        Parameters
        ----------
        page_of : callable
            Makes the page of what was run.
        options : dict
            What the figures depend on besides the files.
        tell : callable
            Is told about progress, as in `score_files`.

        Raises
        ------
        ValueError
            Where a file is no longer what it was at first.
        """
        from fastxent.report.images import write_images
        from fastxent.report.page import Run, render
        from fastxent.scoring.state import ARITHMETIC, write_atomically

        elapsed_s = time.perf_counter() - self._begin_s
        files = self._checksums(tell) if self._report is not None else []
        facts = [("time", f"{elapsed_s:.2f} s"), *_versions(ARITHMETIC), *_told(options)]
        page = page_of(Run(_command(self._arguments), _utc(time.time()), facts, files))
        if self._report is not None:
            write_atomically(self._report, render(page).encode())
        if self._plots is not None:
            write_images(page.drawings(), self._plots, write_atomically)

    def _checksums(self, tell: Progress) -> "list[File]":
        """Names, sizes and SHA-256 of the files that were read."""
        from fastxent.report.page import File
        from fastxent.report.text import shown

        total, done, found = sum(facts[0] for facts in self._inputs.values() if facts), 0, []
        for path, facts in self._inputs.items():
            if facts is None:
                found.append(File(shown(_without_secrets(path)), None, "", "not computed: it is not on this machine"))
                continue
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    done += len(block)
                    tell("checksums", min(1.0, done / max(1, total)), 0, 0)
            if _facts(path) != facts:
                raise ValueError(f"{path}: was changed while it was read; nothing that was read of it counts")
            found.append(File(shown(path), facts[0], _utc(facts[1] / 1e9), digest.hexdigest()))
        return found


def _facts(path: str) -> tuple[int, int] | None:
    """(bytes, nanoseconds of the last change); None of an address."""
    stat = None if is_remote(path) else os.stat(path)
    return None if stat is None else (stat.st_size, stat.st_mtime_ns)


def _files_of(given: str) -> list[str]:
    """The files of a name, in order; those of a folder that is one array too."""
    found: list[str] = []
    for path in shards_of(given):
        if not is_remote(path) and os.path.isdir(path):
            found += sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        else:
            found.append(path)
    return found


def _command(arguments: Sequence[str]) -> list[str]:
    """The words of a command, as a shell takes them."""
    from fastxent.report.text import printable

    return ["fastxent", *(printable(shlex.quote(_without_secrets(word))) for word in arguments)]


def _without_secrets(text: str) -> str:
    """An address without a password or a signature."""
    if not is_remote(text):
        return text
    return re.sub(r"\?.*", "?…", re.sub(r"://[^/@]*@", "://…@", text))


def _versions(arithmetic: int) -> list[tuple[str, str]]:
    import fastxent

    versions = [("fastxent", f"{fastxent.__version__}, arithmetic {arithmetic}"), ("Python", platform.python_version())]
    versions += [(name, metadata.version(name.lower())) for name in ("NumPy", "Numba", "Matplotlib")]
    return [*versions, ("system", f"{platform.system()} {platform.machine()}")]


def _told(options: dict[str, Any]) -> list[tuple[str, str]]:
    """Options that are set, in words."""
    from fastxent.report.text import shown

    return [
        (name.replace("_", " "), shown(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value))
        for name, value in options.items()
        if value is not None
    ]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
