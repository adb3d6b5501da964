"""Other models' predictions, in the pieces in which the first one's come."""

import math
from collections.abc import Iterator

import numpy as np

from fastxent.files.base import Block
from fastxent.files.rows import Rows


class Beside:
    """A file of predictions that is read along with another one, of the same rows and classes.

    Attributes
    ----------
    rows : Rows
    """

    def __init__(self, rows: Rows, lead: Rows) -> None:
        self.rows, self._lead = rows, lead.path
        self._blocks: Iterator[Block] = iter(())
        self._kept: np.ndarray | None = None
        for what, mine, its in (("rows", rows.n_rows, lead.n_rows), ("classes", rows.n_classes, lead.n_classes)):
            if None not in (mine, its) and mine != its:
                raise ValueError(f"predictions: {rows.path} has {mine} {what}, {lead.path} has {its}")

    def begin(self, start: int, stop: int | None) -> None:
        """Start at a row."""
        self._blocks, self._kept = iter(self.rows.blocks(start, stop)), None

    def take(self, n: int) -> np.ndarray:
        """The next n rows: as the file has them where that is what it gives at a time; else (rows, classes)."""
        first = self._next()
        if math.prod(first.shape[:-1]) == n:
            return first
        parts, size = [], 0
        self._kept = first
        while size < n:
            flat = self._next()
            flat = flat.reshape(-1, flat.shape[-1])
            parts.append(flat[: n - size])
            size += len(parts[-1])
            self._kept = flat[len(parts[-1]) :] if len(parts[-1]) < len(flat) else None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def refuse_more(self, at: int) -> None:
        """Raise where rows are left after the first file's last one."""
        if self._kept is not None or next(self._blocks, None) is not None:
            raise ValueError(f"predictions: {self.rows.path} has more rows than {self._lead} ({at})")

    def _next(self) -> np.ndarray:
        kept, self._kept = self._kept, None
        if kept is not None:
            return kept
        block = next(self._blocks, None)
        if block is None:
            raise ValueError(f"predictions: {self.rows.path} has fewer rows than {self._lead}")
        return block["predictions"]
