"""Errors in the words of the library that an adapter stands in for."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """An error about one of our arguments becomes one about the caller's: renamed(probs="y_proba").

    What follows a semicolon is advice about our own options, and is left out.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        name, _, rest = str(error).partition(":")
        if name not in names:
            raise
        raise type(error)(f"{names[name]}:{rest.partition(';')[0]}") from None
