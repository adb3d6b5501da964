"""Text labels to class indices, by the list of classes that the user gives."""

import os

import numpy as np


def read_classes(given: str) -> list[str]:
    """The classes of ``--classes``: names with commas, or a file with one a line.

    Examples
    --------
    >>> read_classes("cat,dog")
    ['cat', 'dog']
    """
    if os.path.isfile(given):
        with open(given, encoding="utf-8-sig") as file:
            classes = file.read().splitlines()
    elif "," in given:
        classes = given.split(",")
    else:
        raise ValueError(f"--classes: {given!r} is neither names with commas nor a file with one a line")
    twice = next((name for k, name in enumerate(classes) if name in classes[:k]), None)
    if twice is not None or not classes:
        raise ValueError(f"--classes: {'has no name' if twice is None else f'{twice!r} is there twice'}")
    return classes


class Labels:
    """Indices of classes by their names; without names, indices are what the target must hold already."""

    def __init__(self, classes: list[str]) -> None:
        self._index = {name: k for k, name in enumerate(classes)}

    def indices(self, target: np.ndarray, path: str, row: int) -> np.ndarray:
        """The target whose first row is ``row``, its labels (text, or whole numbers by their digits) made indices."""
        text = target.dtype.kind in "OUST"
        if not self._index and not text:
            return target
        if target.ndim != 1 or not (text or target.dtype.kind in "iu"):
            raise ValueError(f"--classes: the target in {path} holds {target.dtype}; need one label a row")
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in target.tolist()]
        found = [self._index.get(name, -1) for name in names]
        if -1 in found:
            at = found.index(-1)
            problem = "not one of --classes" if self._index else "text; name the classes with --classes"
            raise ValueError(f"target: {path}, row {row + at}: {names[at]!r:.60} is {problem}")
        return np.array(found, np.int64)
