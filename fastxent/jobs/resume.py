"""The state file of ``fastxent score --resume``: written every few seconds, found again after whatever happened."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastxent.scoring.scorer import Scorer

EVERY_S = 5.0  # from one write to the next
SHARE = 50  # and so many times as long as a write takes: at most 2 % of the time goes into writing


class StateFile:
    """A score card in a file, with what it is made from.

    Parameters
    ----------
    path : str
        Absent before the first run.
    every_s : float
        Seconds from one write to the next, at least; 0 for a write after every piece that is read.
    """

    def __init__(self, path: str, every_s: float = EVERY_S) -> None:
        self.path, self._every_s = path, every_s
        self._due_s = time.monotonic() + every_s

    def load(self, fresh: "Scorer") -> "Scorer":
        """The score card of an earlier run, which must be one of the same rows and options; or the fresh one."""
        self._sweep()
        if not os.path.exists(self.path):
            self.save(fresh)  # what cannot be written is better known now
            return fresh
        saved = type(fresh).load(self.path)
        if "files" not in saved.about:
            raise ValueError(f"{self.path}: a score card, but not one that fastxent score --resume began")
        self._refuse_others(saved.options, fresh.options)
        self._refuse_others({**saved.about, "finished": False}, fresh.about)
        return saved

    def _refuse_others(self, saved: dict[str, Any], asked: dict[str, Any]) -> None:
        for name, value in asked.items():
            if saved.get(name) != value:
                what, before, now = _first_difference(name, saved.get(name), value)
                raise ValueError(
                    f"--resume: {self.path} was made with {what} {_short(before)}, this command has {_short(now)}; "
                    "give what it was made with, or another state file to start anew"
                )

    def save_if_due(self, scorer: "Scorer") -> None:
        """Write the file if it is time."""
        if time.monotonic() >= self._due_s:
            self.save(scorer)

    def save(self, scorer: "Scorer") -> None:
        """Write the file, in one step."""
        begin_s = time.monotonic()
        scorer.save(self.path)
        now_s = time.monotonic()
        self._due_s = now_s + max(self._every_s, SHARE * (now_s - begin_s)) if self._every_s else now_s

    def _sweep(self) -> None:
        """Remove what a killed process of this machine was writing."""
        path = Path(self.path)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            pid = leftover.name[len(path.name) + 2 :].split(".")[0]
            if pid.isdigit() and not _is_alive(int(pid)):
                leftover.unlink(missing_ok=True)


def covered_of(scorer: "Scorer") -> tuple[tuple[int, int], ...]:
    """The rows that a job's score card covers, as in `Scorer.rows`, whatever they are known by."""
    return next(iter(scorer.sources.values()), scorer.rows)


def gaps_of(scorer: "Scorer", first_row: int | None) -> "list[tuple[int, int | None]]":
    """Ranges of the rows that a job's score card does not cover.

    The last one goes on to the end, even where no row is left: whether the files end together is still to be seen.

    Parameters
    ----------
    scorer : Scorer
        Of this job's rows alone.
    first_row : int or None
        As in `fastxent.jobs.score.Job`.
    """
    offset, covered = first_row or 0, covered_of(scorer)
    lows = [0, *(high - offset for _, high in covered)]
    highs = [*(low - offset for low, _ in covered), None]
    return [(low, high) for low, high in zip(lows, highs) if low != high]


def merge_states(
    paths: Sequence[str], unfinished: bool = False, tell: Callable[[float], object] | None = None
) -> "Scorer":
    """Join state files, of any machines, into one score card.

    Parameters
    ----------
    paths : sequence of str
        Files, or patterns of their names.
    unfinished : bool
        Whether to take a run's state that does not have all its rows yet.
    tell : callable, optional
        Is told which part of the work is done, 0 to 1.

    Returns
    -------
    Scorer

    Raises
    ------
    ValueError, OSError
        One line about a state that does not belong to the others: options, classes, or rows that another one has.
    """
    from fastxent.scoring.scorer import Scorer

    files = [file for path in paths for file in (sorted(glob(path)) if not os.path.exists(path) else []) or [path]]
    whole: Scorer | None = None
    for k, path in enumerate(files):
        part = Scorer.load(path)
        if not part.about.get("finished", True) and not unfinished:
            done = sum(high - low for rows in (part.rows, *part.sources.values()) for low, high in rows)
            raise ValueError(
                f"{path}: a run that is not finished, {done:,} rows so far; finish it with its command, or take what "
                "there is with --unfinished"
            )
        try:
            whole = part if whole is None else whole.merge(part)
        except ValueError as error:
            text = str(error).removeprefix("other: ")
            if "covered already" in text:
                text += "; if it was another file that begins alike, score it again with its --first-row"
            raise ValueError(f"{path}: {text}") from None
        if tell is not None:
            tell((k + 1) / len(files))
    if whole is None:
        raise ValueError("states: none was given")
    finished = whole.about.get("finished", True)
    whole.about = {"merged": len(files)} | ({} if finished else {"finished": False})
    return whole


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done: rows and the record of them change together."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _first_difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first fact in which two descriptions differ: its name, then what it was and is."""
    if isinstance(before, list) and isinstance(now, list) and name == "files" and len(before) == len(now):
        old, new = next((old, new) for old, new in zip(before, now) if old != new)
        if old["name"] != new["name"]:
            return "file", old["name"], new["name"]
        key, was, is_now = _first_difference("", old, new)
        return f"{new['name']}, {'changed at' if key == 'mtime ns' else key}", was, is_now
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**now, **before} if before.get(key) != now.get(key))
        return key.replace("_", " "), before.get(key), now.get(key)
    return name.replace("_", " "), before, now


def _short(value: Any, most: int = 100) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= most else f"{text[:most]}..."
