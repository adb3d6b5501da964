"""Ctrl-C amid a change of a score card: answered where nothing is half done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["interrupts_held"]


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back inside the block, and answer it at its end; or earlier, by calling what this gives.

    Python runs SIGINT's handler between any two steps of the main thread. Elsewhere, and where no handler of Python's
    is set, there is nothing to hold.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    due: list[Any] = []

    def answer() -> None:
        if due:
            given = due[-1]
            due.clear()
            handler(*given)

    signal.signal(signal.SIGINT, lambda *given: due.append(given))
    try:
        yield answer
    finally:
        signal.signal(signal.SIGINT, handler)
        answer()
