"""Files through a score card: one job, or a range of its rows, which another process can do as well."""

import ctypes
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastxent.files.base import Chunk
from fastxent.files.scan import Scan, Wanted
from fastxent.files.source import changed
from fastxent.jobs.resume import StateFile, covered_of, gaps_of, undisturbed
from fastxent.threads import current_threads, limited

if TYPE_CHECKING:
    from fastxent.scoring.scorer import Scorer

SOURCE_ROWS = 1024
MOST_READERS = 4  # each has a block of rows in memory, which stays under 300 MB in all, and its share of the threads
FEW_READERS = 2  # each of whom may have a large block
READER_BYTES = 96 << 20  # about as much in a reader's range: beginning one costs little beside it
TOLD_EVERY_S = 0.1
_MALLOC_ARENAS = -8  # M_ARENA_MAX

Result = TypeVar("Result")

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
    source : str or None
        The name of what is in them, for parts whose state is kept: see `source_of`.
    """

    predictions: str
    target: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    options: Mapping[str, Any] = field(default_factory=dict)
    first_row: int | None = None
    source: str | None = None

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
    _share_free_memory()
    scan = job.scan(rows)

    from fastxent.scoring.scorer import Scorer  # loads Numba: a missing file is told without waiting for it

    readers = readers_of(scan) if state is None and rows is None else 1
    if readers > 1:
        return _at_once(job, scan, readers, tell)
    scorer = Scorer(n_classes=scan.n_classes, **job.options)
    scans, n_left = iter([scan]), None
    if state is not None:
        scorer = state.load(begun(job, scan))
        if scorer.about["finished"]:
            return scorer
        job, scans = replace(job, source=next(iter(scorer.sources), None)), _gaps(job, scan, scorer)
        n_left = scan.n_rows and scan.n_rows - sum(high - low for low, high in covered_of(scorer))
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    n_rows = n_bytes = 0
    try:
        for scan in scans:
            for _ in _added(job, scan, scorer, iter(scan), state):
                done = n_rows + scan.rows_read
                tell("scoring", done / n_left if n_left else scan.fraction, done, n_bytes + scan.bytes_read)
            n_rows, n_bytes = n_rows + scan.rows_read, n_bytes + scan.bytes_read
        scorer.about["finished"] = True
    finally:
        if state is not None:
            state.save(scorer)
    return scorer


def begun(job: Job, scan: Scan) -> "Scorer":
    """A score card without rows, for `StateFile.load`: it tells what its rows come from."""
    from fastxent.scoring.scorer import Scorer

    scorer = Scorer(n_classes=scan.n_classes, **job.options)
    columns = {name: value for name, value in asdict(job.wanted).items() if value is not None}
    scorer.about = {"columns": columns, "first_row": job.first_row, **scan.fingerprint(), "finished": False}
    return scorer


def _gaps(job: Job, scan: Scan, scorer: "Scorer") -> Iterator[Scan]:
    """Scans of the rows that a score card does not cover; ``scan`` is of all rows."""
    for gap in gaps_of(scorer, job.first_row):
        own = scan if gap == (0, None) else job.scan(gap)
        if own.fingerprint() != scan.fingerprint():
            raise changed(own.name)
        yield own


def readers_of(scan: Scan) -> int:
    """How many readers at once are quicker than one, each with about as many bytes as it is worth beginning for."""
    return max(1, min(MOST_READERS, current_threads(), scan.n_bytes // READER_BYTES)) if scan.at_once else 1


def cuts_of(scan: Scan, cores: int, part_bytes: int) -> "list[tuple[int, int | None]]":
    """Ranges that make up the rows, where they can be cut, of about as many bytes: as many for each core."""
    return scan.cuts(cores * max(1, scan.n_bytes // (cores * part_bytes))) or [(0, None)]


def _added(
    job: Job, scan: Scan, scorer: "Scorer", chunks: Iterator[Chunk], state: StateFile | None = None
) -> Iterator[None]:
    """Add chunks to a score card, and yield after each."""
    from fastxent import checks

    offset, source = job.first_row or 0, job.source
    for chunk in chunks:
        if state is not None and job.first_row is None:
            source = source or source_of(chunk)
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
        del chunk, given  # its memory is used again
        yield


def _at_once(job: Job, scan: Scan, readers: int, tell: Progress) -> "Scorer":
    """Score a job by several readers at once."""
    from fastxent.scoring.scorer import Scorer

    scorers = [Scorer(n_classes=scan.n_classes, **job.options) for _ in range(readers)]
    large = readers <= FEW_READERS

    def added(own: Scan, scorer: "Scorer") -> Iterator[None]:
        return _added(job, own, scorer, own.here(large))

    read_at_once(scan, job.scan, added, scorers, "scoring", tell)
    whole, *others = scorers
    for scorer in others:
        whole.merge(scorer)
    whole.about["finished"] = True
    return whole


def read_at_once(
    scan: Scan,
    opened: Callable[[], Scan],
    added: Callable[[Scan, Result], Iterator[None]],
    results: list[Result],
    what: str,
    tell: Progress,
) -> None:
    """Read ranges of rows, as many at once as there are results: none waits for another one, as in a parallel loop.

    Parameters
    ----------
    scan : Scan
        Of all rows; the first of the readers.
    opened : callable
        Opens the files again, for another reader.
    added : callable
        Adds to a result what a scan reads, and yields after each chunk.
    results : list
        Each gets some of the ranges.
    what, tell
        As in `Progress`.
    """
    scans = [scan, *(opened() for _ in results[1:])]
    if any(other.fingerprint() != scan.fingerprint() for other in scans[1:]):
        raise changed(scan.name)
    threads, idle = max(1, current_threads() // len(results)), list(zip(scans, results))
    ranges = cuts_of(scan, len(results), READER_BYTES)
    told, left = [(0, 0)] * len(ranges), Event()

    def read(k: int) -> None:
        reader = own, result = idle.pop()
        try:
            own.move(ranges[k])
            with limited(threads):
                for _ in added(own, result):
                    told[k] = own.rows_read, own.bytes_read
                    if left.is_set():
                        break
        finally:
            idle.append(reader)

    n_rows = scan.n_rows or 1
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    with ThreadPoolExecutor(len(results), "fastxent reads and scores") as pool:
        parts = deque(pool.submit(read, k) for k in range(len(ranges)))
        try:
            while parts:  # in their order, so that the first offending row is told of
                done, _ = wait([parts[0]], TOLD_EVERY_S)
                if done:
                    parts.popleft().result()
                rows_read, n_bytes = map(sum, zip(*told))
                tell(what, rows_read / n_rows, rows_read, n_bytes)
        finally:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _share_free_memory() -> None:
    """Let this process's threads use what any of them freed.

    GNU's malloc gives threads arenas of their own, which keep it: 30 MB in each of the threads that unpack a .zarr.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_MALLOC_ARENAS, 1)


def source_of(chunk: Chunk) -> str:
    """A name for the rows of a job, from its first chunk: the same in copies of its files."""
    lead, n_classes = chunk.predictions.shape[:-1], chunk.predictions.shape[-1]
    soft = chunk.target.ndim > len(lead)
    digest = hashlib.sha256()
    for array, width in ((chunk.predictions, n_classes), (chunk.target, n_classes if soft else 1)):
        some = array.reshape(-1, width)[:SOURCE_ROWS]
        digest.update(f"{some.dtype.str} {some.shape} ".encode() + np.ascontiguousarray(some).tobytes())
    return digest.hexdigest()
