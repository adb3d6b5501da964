"""What commands share: a bar of progress, files that appear whole, arguments made of numbers."""

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of an option such as 1,5."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: {text!r} is not whole numbers with commas, such as 1,5") from None


@contextmanager
def own_words(tell: Callable[[str], Any]) -> Iterator[None]:
    """Of the warnings in the block, those of numbers are told; other people's deprecations and logs are not shown."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale or a file's name cannot say is shown by its code
            stream.reconfigure(errors="backslashreplace")
    logging.lastResort = None  # for good: some come when the process ends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", RuntimeWarning)
        warnings.showwarning = lambda message, *_: tell(str(message))  # type: ignore[assignment]
        yield


def one_line(message: str) -> str:
    """A message without line ends, and without what a terminal would obey: names out of a hostile file, say."""
    line = " ".join(message.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def refuse_bad_path(path: str | None, option: str = "--json") -> None:
    """Raise before the work, not after it."""
    if path is not None and path != "-":
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path) or not os.access(folder, os.W_OK):
            raise ValueError(f"{option}: cannot write {path}")


def write_json(figures: dict[str, Any], path: str) -> None:
    """Write to standard output, or a file that appears whole or not at all."""
    import json

    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from fastxent.scoring.state import write_atomically  # loads Numba, which the figures came from

    write_atomically(path, text.encode())


@contextmanager
def progress() -> Iterator[Callable[[str, float, int, int], None]]:
    """A function to call with (what, fraction done, rows, bytes): a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", style="cyan"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task, begin, last = progress.add_task("starting", total=1.0, rate=""), time.perf_counter(), ""

        def tell(what: str, fraction: float, rows: int, n_bytes: int) -> None:
            nonlocal begin, last
            if what != last and rows == 0:
                begin, last = time.perf_counter(), what
            elapsed_s = max(time.perf_counter() - begin, 1e-9)
            rate = f"{rows / elapsed_s:,.0f} rows/s  {n_bytes / elapsed_s / 1e9:.2f} GB/s" if rows else ""
            progress.update(task, description=what, completed=fraction, rate=rate)

        yield tell
