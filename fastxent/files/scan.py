"""Predictions, target, weights and ids from one file or two, as chunks of the same rows."""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from fastxent.files import open_file, shards_of
from fastxent.files.base import ArrayFile, Block, Chunk, TableFile, listing
from fastxent.files.beside import Beside
from fastxent.files.choose import Wanted, no_predictions, prediction_names, target_names
from fastxent.files.labels import Labels, read_classes
from fastxent.files.read_ahead import read_ahead
from fastxent.files.rows import Rows, rows_of
from fastxent.files.shards import ShardRows

__all__ = ["Scan", "Wanted"]


class Scan:
    """The rows of a file, or of two, in order; or a range of them.

    Parameters
    ----------
    predictions : str
        A file of one of `fastxent.files.FORMATS`, a pattern such as 'shards/*.npy', or a folder of files of one format.
    target : str, optional
        Another, unless `predictions` holds the target.
    wanted : Wanted, optional
        What to read of them.
    rows : (int, int or None), optional
        The first row to read, and the one to stop before; None: all that follow. Rows count from 0 over the whole,
        class axis last. What is before the first is passed by without being read, but in a .csv or a compressed .npz.
    others : sequence of (str, Wanted), optional
        Other models' predictions of the same rows, and what to read of each.

    Attributes
    ----------
    n_rows : int or None
        Of the whole; None where the file tells it at its end alone (.csv, Arrow's streams).
    n_classes : int or None
        None for a column of lists.
    class_names : list of str or None
        Of the option, or those of the columns where each class has one.
    rows_read, bytes_read : int
        Rows, and bytes of predictions as arrays, in the chunks so far.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line that names the file, and the row and value where there is one.
    """

    def __init__(
        self,
        predictions: str,
        target: str | None = None,
        wanted: Wanted | None = None,
        rows: "tuple[int, int | None] | None" = None,
        others: "Sequence[tuple[str, Wanted]]" = (),
    ) -> None:
        wanted = wanted or Wanted()
        self.rows_read = self.bytes_read = 0
        classes = read_classes(wanted.classes) if wanted.classes is not None else []
        self._labels = Labels(classes)
        own = [path for path in (predictions, target) if path is not None]
        names = [*own, *(path for path, _ in others)]
        paths = [shards_of(path) for path in names]
        files = [open_file(shards[0]) for shards in paths]
        chosen = _chosen(files[: len(own)], wanted, classes)
        for file, (_, of_it) in zip(files[len(own) :], others):
            chosen.append({"predictions": prediction_names(file, of_it, no_predictions(file, of_it), classes)})
        columns = chosen[0]["predictions"]
        self.class_names = classes or (columns if len(columns) > 1 else None)

        def rows_in(i: int, like: Rows | None) -> Rows:
            whole = all(len(shards) == 1 for shards in paths[: len(own)])
            axis = wanted.axis if like is None else like.axis

            def opened(path: str) -> Rows:
                file = files[i] if path == paths[i][0] else open_file(path)
                if isinstance(file, TableFile):
                    file.text_target = bool(classes)
                return rows_of(file, chosen[i], axis, like, whole)

            if len(paths[i]) == 1:
                return opened(paths[i][0])
            return ShardRows(names[i], paths[i], opened)

        self._lead = rows_in(0, None)
        self._other = rows_in(1, self._lead) if len(own) > 1 else None
        self.n_rows, self.n_classes = self._lead.n_rows, self._lead.n_classes
        if classes and self.n_classes not in (None, len(classes)):
            raise ValueError(f"--classes: {len(classes)} names, but {predictions} has {self.n_classes} classes")
        if self._other is not None:
            n_rows = self._other.n_rows
            if None not in (self.n_rows, n_rows) and n_rows != self.n_rows:
                raise ValueError(f"target: {target} has {n_rows} rows, {predictions} has {self.n_rows}")
            self.n_rows = n_rows if self.n_rows is None else self.n_rows
        self._models = [Beside(rows_in(i, None), self._lead) for i in range(len(own), len(names))]
        self._start, self._stop = self._range(rows)

    @property
    def name(self) -> str:
        """The files, for messages."""
        return ", ".join(rows.path for rows in self._files())

    @property
    def fraction(self) -> float:
        """How much was read, 0 to 1."""
        stop = self.n_rows if self._stop is None else self._stop
        return self.rows_read / max(1, stop - self._start) if stop is not None else self._lead.fraction()

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks, read ahead in a thread; predictions come with the class axis last."""
        return self._counted(read_ahead(self._chunks()))

    def here(self, large: bool = False) -> Iterator[Chunk]:
        """Yield the chunks, each read in this thread when it is asked for; large ones as in `Rows.blocks`."""
        return self._counted(self._chunks(large))

    def move(self, rows: "tuple[int, int | None]") -> None:
        """Read other rows of the same files next, as if it was made for them."""
        self._start, self._stop = self._range(rows)
        self.rows_read = self.bytes_read = 0
        for rows_of_file in self._files():
            rows_of_file.begin()

    def _counted(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.rows_read += chunk.n_rows
            self.bytes_read += sum(array.nbytes for array in (chunk.predictions, *chunk.others))
            yield chunk
            del chunk  # so that its memory is used again

    def _chunks(self, large: bool = False) -> Generator[Chunk, None, None]:
        at = self._start
        for model in self._models:
            model.begin(self._start, self._stop)
        for block in self._lead.blocks(self._start, self._stop, large):
            rows = math.prod(block["predictions"].shape[:-1])
            if self._other is not None:
                block |= self._other.take(at, rows)
            if "target" in block:
                block["target"] = self._labels.indices(block["target"], (self._other or self._lead).path, at)
            yield _chunk(block, at, [model.take(rows) for model in self._models])
            at += rows
            del block
        if self._other is not None and self._stop is None and (more := self._other.left(at)):
            raise ValueError(f"target: {self._other.path} has {more} rows more than the predictions ({at})")
        for model in self._models:
            model.refuse_more(at)
        for rows_of_file in self._files():
            rows_of_file.refuse_changed()

    def fingerprint(self) -> dict[str, Any]:
        """What tells these inputs from others, for JSON: of each file its name, size, last change, and types.

        Whoever goes on from a saved state compares it with the one of then.
        """
        return {"files": [rows.facts() for rows in self._files()]}

    @property
    def at_once(self) -> bool:
        """Whether several scans of ranges of the rows, each in a thread, are quicker than one of all."""
        return self.n_rows is not None and all(rows.at_once for rows in self._files())

    @property
    def n_bytes(self) -> int:
        """About how many there are to read."""
        return sum(rows.n_bytes for rows in self._files())

    def cuts(self, n: int) -> "list[tuple[int, int | None]]":
        """At most n ranges of rows that make up the whole, cheap to begin at; one where ``n_rows`` is not known.

        The last one goes to the end, where it is seen whether the files end together.
        """
        if self.n_rows is None or self._lead.n_rows is None:
            return [(0, None)]
        starts = sorted({self._lead.cheap_start(self.n_rows * k // n) for k in range(n)} - {self.n_rows})
        return list(zip(starts, [*starts[1:], None]))

    def _files(self) -> list[Rows]:
        return [rows for rows in (self._lead, self._other, *(m.rows for m in self._models)) if rows is not None]

    def _range(self, rows: "tuple[int, int | None] | None") -> "tuple[int, int | None]":
        start, stop = rows or (0, None)
        end = start if stop is None else stop
        if not 0 <= start <= end <= (end if self.n_rows is None else self.n_rows):
            raise ValueError(f"rows: ({start}, {stop}) is no range of the {self.n_rows} rows of {self._lead.path}")
        return start, stop


def _chosen(files: list[ArrayFile | TableFile], wanted: Wanted, classes: list[str]) -> list[dict[str, list[str]]]:
    """What to read of each file: field -> names of its columns or members."""
    chosen: list[dict[str, list[str]]] = [{} for _ in files]
    if wanted.has_target:
        chosen[-1]["target"] = target_names(files[-1], wanted, alone=len(files) > 1)
    for field, name, option in (
        ("weight", wanted.weight_column, "--weight-column"),
        ("ids", wanted.id_column, "--id-column"),
        ("by", wanted.by_column, "--by"),
        ("cluster", wanted.cluster_column, "--cluster"),
    ):
        if name is not None:
            holder = next((i for i, file in enumerate(files) if name in file.names), None)
            if holder is None:
                have = "; ".join(f"{file.path} has {listing(file.names)}" for file in files)
                raise ValueError(f"{option}: no column or member {name!r}: {have}")
            chosen[holder][field] = [name]
    used = {name for names in chosen[0].values() for name in names}
    if not wanted.has_target:
        used |= no_predictions(files[0], wanted)
    chosen[0] = {"predictions": prediction_names(files[0], wanted, used, classes)} | chosen[0]
    return chosen


def _chunk(block: Block, start: int, others: list[np.ndarray]) -> Chunk:
    """A block whose target, weights and ids have the predictions' leading shape, as have other models'."""
    predictions, target = block["predictions"], block.get("target")
    if any(other.shape != predictions.shape for other in others):
        predictions, *others = (array.reshape(-1, array.shape[-1]) for array in (predictions, *others))
    lead = predictions.shape[:-1]
    target = None if target is None else target.reshape(*lead, *target.shape[1:])
    beside = {field: block[field].reshape(lead) for field in ("by", "cluster") if field in block}
    weight, ids = (block[field].reshape(lead) if field in block else None for field in ("weight", "ids"))
    return Chunk(predictions, target, weight, ids, start, **beside, others=tuple(others))
