"""Files through a score card: one job, or a range of its rows, which another process can do as well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

    def scan(self, rows: "tuple[int, int | None] | None" = None) -> Scan:
        """Open the files, to read all of their rows or a range."""
        return Scan(self.predictions, self.target, self.wanted, rows)


def score_files(job: Job, rows: "tuple[int, int | None] | None" = None, tell: Progress | None = None) -> "Scorer":
    """Score a job's rows, or those of a range: the parts, merged in any order, have the bits of the whole.

    Parameters
    ----------
    job : Job
    rows : (int, int or None), optional
        The first row, and the one past the last; None: to the end.
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
    scan = job.scan(rows)

    from fastxent.scoring import Scorer  # loads Numba: a missing file is told without waiting for it

    scorer = Scorer(n_classes=scan.n_classes, **job.options)
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    for chunk in scan:
        given: dict[str, Any] = {"start": chunk.start, "ids": chunk.ids, "sample_weight": chunk.weight}
        try:
            scorer.update(chunk.predictions, chunk.target, **given)
        except (ValueError, TypeError) as error:
            if chunk.start:
                raise type(error)(f"{error} (rows counted from row {chunk.start} of the file)") from None
            raise
        tell("scoring", scan.fraction, scan.rows_read, scan.bytes_read)
    return scorer
