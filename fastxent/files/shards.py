"""Many files as one: the rows of the first, then those of the second, and so on."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from fastxent.files.base import Block
from fastxent.files.rows import Rows, length
from fastxent.files.source import changed


class ShardRows(Rows):
    """The rows of files with the same classes. Each is open while it is read, no longer."""

    def __init__(self, pattern: str, paths: list[str], opened: Callable[[str], Rows]) -> None:
        self.path, self._paths, self._opened = pattern, paths, opened
        shards = [self._said(path) for path in paths]
        first = shards[0]
        for path, shard in zip(paths, shards):
            self._refuse_other_classes(path, shard.n_classes, first.n_classes)
        self.n_classes, self.shape, self.axis = first.n_classes, first.shape, first.axis
        self._facts = [shard.facts() for shard in shards]
        self.n_bytes, self.at_once = sum(shard.n_bytes for shard in shards), all(shard.at_once for shard in shards)
        lengths = [shard.n_rows for shard in shards]
        known = [n for n in lengths if n is not None]
        self.n_rows = sum(known) if len(known) == len(lengths) else None
        self._lengths, self._starts = lengths, list(accumulate(known, initial=0))
        self._done = 0.0

    def blocks(self, start: int, stop: int | None, large: bool = False) -> Iterator[Block]:
        at, width = 0, self.n_classes  # the row that the shard begins with
        for k, (path, rows) in enumerate(zip(self._paths, self._lengths)):
            if stop is not None and at >= stop:
                return
            if rows is not None and at + rows <= start:
                at += rows
                continue
            shard, begin = self._said(path), at
            if shard.facts() != self._facts[k]:
                raise changed(path)
            low = max(0, start - begin) if rows is not None else 0
            at += low
            end = None if stop is None or rows is None else min(rows, stop - begin)
            for block in shard.blocks(low, end, large):
                block, at = _between(block, at, start, stop), at + length(block)
                if length(block):
                    classes = block["predictions"].shape[-1] if "predictions" in block else width
                    self._refuse_other_classes(path, classes, width)
                    width = classes
                    yield block
                self._done = (k + shard.fraction()) / len(self._paths)
                if stop is not None and at >= stop:
                    break
            shard.refuse_changed()
        if at < (start if stop is None else stop):
            raise ValueError(f"{self.path}: has {at} rows; rows {start} to {stop or 'the end'} were to be read")

    def fraction(self) -> float:
        return self._done

    def cheap_start(self, row: int) -> int:
        k = min(bisect_right(self._starts, row), len(self._paths)) - 1
        return self._starts[k] + self._opened(self._paths[k]).cheap_start(row - self._starts[k])

    def facts(self) -> dict[str, Any]:
        return {"shards": self._facts}

    def refuse_changed(self) -> None:
        """Each shard was looked at when its rows had been read."""

    def _said(self, path: str) -> Rows:
        """A shard's rows; what is wrong with it is told with its name."""
        try:
            return self._opened(path)
        except (ValueError, TypeError) as error:
            raise type(error)(str(error) if path in str(error) else f"{path}: {error}") from None

    def _refuse_other_classes(self, path: str, n: int | None, wanted: int | None) -> None:
        if None not in (n, wanted) and n != wanted:
            raise ValueError(f"predictions: {path} has {n} classes, {self._paths[0]} has {wanted}")


def _between(block: Block, at: int, start: int, stop: int | None) -> Block:
    """What a block whose first row is ``at`` has of the rows start to stop."""
    low, high = max(0, start - at), length(block) if stop is None else min(length(block), stop - at)
    if (low, high) == (0, length(block)):
        return block
    if "predictions" in block:
        block["predictions"] = block["predictions"].reshape(-1, block["predictions"].shape[-1])
    return {field: array[low:high] for field, array in block.items()}
