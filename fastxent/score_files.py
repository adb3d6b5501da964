"""Files through a score card: one job, or a range of its rows, which another process can do as well."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastxent.files.base import Chunk
from fastxent.files.scan import Scan, Wanted

if TYPE_CHECKING:
    from fastxent.scoring import Scorer

# Called with what is being done, the fraction done (0 to 1), the rows, and the bytes of predictions read so far.
Progress = Callable[[str, float, int, int], None]


@dataclass(frozen=True)
class Job:
    """What to score and how: what a process needs to know, small and picklable.

    Attributes
    ----------
    predictions : str
        A file that `fastxent.files` reads.
    target : str or None
        Another, unless the predictions' file holds the target.
    wanted : Wanted
        What to read of them.
    options : mapping
        Keywords of `Scorer`.
    """

    predictions: str
    target: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    options: Mapping[str, Any] = field(default_factory=dict)

    def scan(self) -> Scan:
        """Open the files."""
        return Scan(self.predictions, self.target, self.wanted)


def score_files(job: Job, rows: tuple[int, int] | None = None, tell: Progress | None = None) -> "Scorer":
    """Score a job's rows, or those of a range: the parts, merged in any order, have the bits of the whole.

    Parameters
    ----------
    job : Job
    rows : tuple of int, optional
        The first row and the one past the last.
    tell : callable, optional
        Is told about progress; see `Progress`.

    Returns
    -------
    Scorer
        It covers the rows by their positions in the files.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line about the files, the options, or the first offending row and value.
    """
    tell = tell or (lambda *_: None)
    scan = job.scan()

    from fastxent.scoring import Scorer  # loads Numba: a missing file is told without waiting for it

    scorer = Scorer(n_classes=scan.n_classes, **job.options)
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    for start, chunk in _between(scan, rows):
        try:
            scorer.update(chunk.predictions, chunk.target, start=start, ids=chunk.ids, sample_weight=chunk.weight)
        except (ValueError, TypeError) as error:
            if start:
                raise type(error)(f"{error} (rows counted from row {start} of the file)") from None
            raise
        tell("scoring", scan.fraction, scan.rows_read, scan.bytes_read)
    return scorer


def _between(scan: Scan, rows: tuple[int, int] | None) -> Iterator[tuple[int, Chunk]]:
    """The chunks of a range of rows, each with the position of its first."""
    for chunk in scan:
        first = scan.rows_read - chunk.n_rows
        if rows is None:
            yield first, chunk
            continue
        low, high = max(rows[0] - first, 0), min(rows[1] - first, chunk.n_rows)
        if low < high:
            yield first + low, _cut(chunk, low, high)
        if rows[1] <= scan.rows_read:
            return


def _cut(chunk: Chunk, low: int, high: int) -> Chunk:
    """Some rows of a chunk."""
    if low == 0 and high == chunk.n_rows:
        return chunk
    lead, n_classes = chunk.predictions.shape[:-1], chunk.predictions.shape[-1]
    soft = chunk.target.ndim > len(lead)
    return Chunk(
        chunk.predictions.reshape(-1, n_classes)[low:high],
        (chunk.target.reshape(-1, n_classes) if soft else chunk.target.reshape(-1))[low:high],
        *(None if a is None else a.reshape(-1)[low:high] for a in (chunk.weight, chunk.ids)),
    )
