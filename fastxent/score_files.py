"""Files through a score card: one job, or a range of its rows, which another process can do as well."""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.files.base import Chunk
from fastxent.files.scan import Scan, Wanted
from fastxent.score_resume import StateFile, undisturbed

if TYPE_CHECKING:
    from fastxent.scoring import Scorer

SOURCE_ROWS = 1024

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
    first_row : int or None
        The position of the files' first row in a whole of many files. Without it their rows are known by what is in
        them, so that parts of different files merge.
    """

    predictions: str
    target: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    options: Mapping[str, Any] = field(default_factory=dict)
    first_row: int | None = None

    def scan(self, rows: "tuple[int, int | None] | None" = None) -> Scan:
        """Open the files, to read all of their rows or a range."""
        return Scan(self.predictions, self.target, self.wanted, rows)


def score_files(
    job: Job,
    rows: "tuple[int, int | None] | None" = None,
    tell: Progress | None = None,
    state: StateFile | None = None,
) -> "Scorer":
    """Score a job's rows, or those of a range: the parts, merged in any order, have the bits of the whole.

    Parameters
    ----------
    job : Job
    rows : (int, int or None), optional
        The first row, and the one past the last; None: to the end.
    tell : callable, optional
        Is told about progress; see `Progress`.
    state : StateFile, optional
        Where the score card is kept meanwhile: rows that it covers are not scored again. For whole jobs.

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

    # Threads that wait for the next block leave the cores to the one that reads it, instead of spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from fastxent import checks  # loads Numba: a missing file is told without waiting for it
    from fastxent.scoring import Scorer

    scorer = Scorer(n_classes=scan.n_classes, **job.options)
    offset, source = job.first_row or 0, None
    if state is not None:
        columns = {name: value for name, value in asdict(job.wanted).items() if value is not None}
        scorer.about = {"columns": columns, "first_row": job.first_row, **scan.fingerprint(), "finished": False}
        scorer = state.load(scorer)
        if scorer.about["finished"]:
            return scorer
        source, covered = next(iter(scorer.sources.items()), (None, scorer.rows))
        if covered:
            scan = job.scan((covered[0][1] - offset, None))
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    try:
        for chunk in scan:
            if state is not None and job.first_row is None:
                source = source or _source(chunk)
            given: dict[str, Any] = {
                "start": chunk.start + offset,
                "source": source,
                "ids": chunk.ids,
                "sample_weight": chunk.weight,
                "by": chunk.by,
            }
            place = checks.part_of((chunk.start + chunk.n_rows,), (chunk.start,))  # errors name rows of the file
            with place, undisturbed() if state is not None else nullcontext():
                scorer.update(chunk.predictions, chunk.target, **given)
            if state is not None:
                state.save_if_due(scorer)
            tell("scoring", scan.fraction, scan.rows_read, scan.bytes_read)
        scorer.about["finished"] = True
    finally:
        if state is not None:
            state.save(scorer)
    return scorer


def _source(chunk: Chunk) -> str:
    """A name for the rows of a job, from the first of them: the same in copies of its files."""
    lead, n_classes = chunk.predictions.shape[:-1], chunk.predictions.shape[-1]
    soft = chunk.target.ndim > len(lead)
    digest = hashlib.sha256()
    for array, width in ((chunk.predictions, n_classes), (chunk.target, n_classes if soft else 1)):
        some = array.reshape(-1, width)[:SOURCE_ROWS]
        digest.update(f"{some.dtype.str} {some.shape} ".encode() + np.ascontiguousarray(some).tobytes())
    return digest.hexdigest()
