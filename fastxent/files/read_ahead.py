"""Reading goes on in a thread while what was read is worked on."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Generator[T, None, None], ahead: int = 1) -> Iterator[T]:
    """Yield a generator's items, which it makes in a thread, at most so many before they are asked for.

    What the generator raises is raised here, in its place; when this iterator is left, the generator ends too.

    Examples
    --------
    >>> list(read_ahead(k * k for k in range(4)))
    [0, 1, 4, 9]
    """
    made: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    room = threading.Semaphore(ahead)
    left = threading.Event()

    def make() -> None:
        try:
            for item in items:
                made.put((item, None))
                del item  # its memory is used again
                room.acquire()
                if left.is_set():
                    break
            made.put((None, StopIteration()))
        except BaseException as error:
            made.put((None, error))
        finally:
            items.close()

    thread = threading.Thread(target=make, name="fastxent reads ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # type: ignore[misc]
            del item
    finally:
        left.set()
        room.release()
        thread.join()
        item = error = None  # an error's frames hold what was read, and the files
