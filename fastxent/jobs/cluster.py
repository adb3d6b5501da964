"""Files through a score card on a cluster of processes: one started here (``--workers``), or one that runs already
(``--scheduler``).

The workers read the files, a range of rows at a time; the parts' score cards are merged on the workers, in a tree. Or,
where a state file keeps them, by the process that asks, as they are done.
"""

import asyncio
import contextlib
import logging
import math
import os
import queue
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from fastxent.files.source import changed
from fastxent.jobs.resume import StateFile, gaps_of
from fastxent.jobs.score import Job, Progress, begun, cuts_of, score_files, source_of
from fastxent.threads import get_threads, limited

if TYPE_CHECKING:
    from distributed import Client, Future

    from fastxent.scoring.scorer import Scorer

PART_BYTES = 1 << 30  # about as much in a part: beginning one costs little beside it, and so does losing it
KEPT_PART_BYTES = 1 << 28  # where a state is kept: what is lost with a process that is killed is the parts at work
MERGED_AT_ONCE = 16
LOADING_ROWS = 20_000  # enough for the kernels that many rows take
TOLD_EVERY_S = 0.2
SILENT = logging.CRITICAL + 1  # Dask's logs: what goes wrong is raised, and workers that end are no news
PATIENCE_S = 10.0  # for a scheduler to answer, and to have a worker

Rows = tuple[int, int | None]


class Part(NamedTuple):
    """Rows that were scored, and how many that were."""

    scorer: "Scorer"
    rows: int
    n_bytes: int  # of predictions
    elapsed_s: float = 0.0  # of the whole, on a cluster that is ready


def score_on_cluster(
    job: Job,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    tell: Progress | None = None,
    state: StateFile | None = None,
) -> Part:
    """Score a job's rows on a cluster, with the bits of `score_files`.

    Parameters
    ----------
    job : Job
        Its files can be opened under their names by every worker.
    workers : int, optional
        Processes to start on this machine, which share its cores.
    scheduler : str, optional
        The address of a Dask scheduler, in place of that.
    tell : callable, optional
        Is told about progress; see `Progress`.
    state : StateFile, optional
        Where the score card is kept meanwhile, as `score_files` keeps it: each goes on where the other was stopped.

    Returns
    -------
    Part
        All rows; its counts are of those that were not in the state.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        What one process would have raised about the first offending row; or one line about the cluster.
    """
    tell = tell or (lambda *_: None)
    try:
        import distributed
    except ImportError:
        raise ImportError("clusters need Dask: pip install 'fastxent[dask]'") from None
    before, kept = None, None
    if scheduler is None:
        before = job.scan().fingerprint()  # and a missing file is told without waiting for a cluster
        if state is not None:
            kept = _Kept(state, *_begun(job))
            if kept.scorer.about["finished"]:
                return Part(kept.scorer, 0, 0)
        tell("starting workers, loading what is compiled", 0.0, 0, 0)
        cluster = _started(workers or 1)
    else:
        tell("connecting", 0.0, 0, 0)
        job = replace(job, predictions=_absolute(job.predictions), target=job.target and _absolute(job.target))
        cluster = _connected(scheduler)
    with cluster as client, ThreadPoolExecutor(1) as pool:
        pool.submit(import_module, "fastxent.scoring.scorer")  # for the result: Numba is loaded here too, meanwhile
        client.run(_load, job, on_error="ignore")
        begin_s = time.perf_counter()
        try:
            if state is None:
                whole = _score(client, job, tell)
                if before is not None:
                    _refuse_changed(job, before)
            else:
                kept = kept or _Kept(state, *client.submit(_begun, job, pure=False).result())
                whole = _score_kept(client, job, tell, kept)
            return whole._replace(elapsed_s=time.perf_counter() - begin_s)
        except distributed.KilledWorker as error:
            raise OSError(f"a worker died each time it was tried ({error.task}): out of memory?") from None


# In the process that asks


class _Kept:
    """The score card of a run whose state is kept.

    Attributes
    ----------
    state : StateFile
    scorer : Scorer
        With the rows of runs before.
    source : str or None
        As in `Job`.
    """

    def __init__(self, state: StateFile, fresh: "Scorer", source: str | None) -> None:
        self.state, self.scorer = state, state.load(fresh)
        self.source = next(iter(self.scorer.sources), source)


def _score(client: "Client", job: Job, tell: Progress) -> Part:
    """Hand out ranges of rows, and wait for the whole."""
    run = _Run(client, job, PART_BYTES)
    level = list(run.pending.values())
    while len(level) > 1:
        cuts = range(0, len(level), MERGED_AT_ONCE)
        level = [client.submit(_merge, level[i : i + MERGED_AT_ONCE], key=f"{run.name}-{len(level)}-{i}") for i in cuts]
    for _ in run.done(tell, level):
        pass
    return level[0].result()


def _score_kept(client: "Client", job: Job, tell: Progress, kept: _Kept) -> Part:
    """Hand out the ranges of rows that are not covered, and add them up here, in the order in which they are done."""
    scorer, rows, n_bytes = kept.scorer, 0, 0
    try:
        if not scorer.about["finished"]:
            run = _Run(client, replace(job, source=kept.source), KEPT_PART_BYTES, gaps_of(scorer, job.first_row))
            for future in run.done(tell):
                part = future.result()
                scorer.merge(part.scorer)
                rows, n_bytes = rows + part.rows, n_bytes + part.n_bytes
                kept.state.save_if_due(scorer)
            client.submit(_refuse_changed, job, {"files": scorer.about["files"]}, pure=False).result()
            scorer.about["finished"] = True
    finally:
        kept.state.save(scorer)
    return Part(scorer, rows, n_bytes)


class _Run:
    """A job's parts, handed out to workers.

    Attributes
    ----------
    name : str
        Begins the keys of its tasks.
    pending : dict
        The parts that are not done.
    """

    def __init__(self, client: "Client", job: Job, part_bytes: int, gaps: Sequence[Rows] = ((0, None),)) -> None:
        threads: dict[str, int] = {}  # of the workers on each host
        for address, n in client.nthreads().items():
            threads[_host(address)] = threads.get(_host(address), 0) + n
        self.name = run = f"fastxent-{uuid4().hex}"
        self._reports: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        client.subscribe_topic(run, lambda event: self._reports.put(event[1]))
        ranges = client.submit(_cuts, job, sum(threads.values()), part_bytes, gaps, key=f"{run}-cuts").result()
        self.pending: dict[int, Future] = {
            k: client.submit(_score_part, job, rows, threads, run, k, key=f"{run}-part-{k}")
            for k, rows in enumerate(ranges)
        }
        for k, part in self.pending.items():
            part.add_done_callback(lambda _, k=k: self._reports.put((k, None)))

    def done(self, tell: Progress, later: "list[Future] | None" = None) -> "Iterator[Future]":
        """Yield parts as they are done. Where some failed, raise at the end what the first of them raised.

        The cluster forgets what nothing here refers to and nothing there depends on: parts that are done, or, after a
        failure, those of later rows, and ``later``, which is made of all parts.
        """
        pending, n, failed = self.pending, len(self.pending), None
        progress: dict[int, tuple[float, int, int]] = {}
        while pending:
            k, report = self._reports.get()
            if report is not None:
                progress[k] = report
                fraction, rows, n_bytes = map(sum, zip(*progress.values()))
                tell("scoring", fraction / n, rows, n_bytes)
            elif k in pending:
                part = pending.pop(k)
                if part.status == "error":
                    failed = part
                    if later is not None:
                        later.clear()
                    for i in [i for i in pending if i > k]:
                        del pending[i]
                else:
                    yield part
                del part
        if failed is not None:
            failed.result()


@contextlib.contextmanager
def _started(workers: int) -> "Iterator[Client]":
    """Processes on this machine, which end with the block."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastxent-"))
        with _deaf():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # pages of files count as a worker's memory
                dashboard_address=None,
                local_directory=folder,
                silence_logs=SILENT,
            )
        stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(workers)
        client.run(_ignore_ctrl_c)  # whatever a library in there unblocks
        yield client


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Threads and processes that start in the block, and theirs, do not hear Ctrl-C: this process ends them then."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where it does not run yet, the thread that starts the first worker starts it, and hears Ctrl-C from then on.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what came meanwhile arrives now


@contextlib.contextmanager
def _connected(address: str) -> "Iterator[Client]":
    """A cluster that runs already, and goes on after the block."""
    from distributed import Client
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.utils import silence_logging_cmgr

    with contextlib.ExitStack() as stack:
        stack.enter_context(silence_logging_cmgr(SILENT))
        try:
            client = stack.enter_context(Client(address, timeout=PATIENCE_S, set_as_default=False))
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
            raise OSError(f"--scheduler: {address}: {error}") from None
        try:
            yield client
        except (CommClosedError, FutureCancelledError):
            raise OSError(f"--scheduler: {address}: went away before the rows were scored; start it again") from None


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


# In the workers


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _load(job: Job) -> None:
    """Load, or compile, what this process needs: by scoring a few rows, which may be as bad as they like."""
    with contextlib.suppress(Exception), ThreadPoolExecutor(1) as pool:  # not the thread that answers the scheduler
        scan = job.scan()
        rows = min(LOADING_ROWS, (PART_BYTES >> 6) // (scan.n_classes or 1), scan.n_rows or LOADING_ROWS)
        pool.submit(score_files, job, (0, rows)).result()


def _begun(job: Job) -> tuple["Scorer", str | None]:
    """What a state that is kept begins with: a score card without rows, and what its rows are known by."""
    scan = job.scan()
    if scan.n_rows is None:
        raise ValueError(
            f"--resume: {scan.name}: how many rows it has is known at its end alone: workers cannot share it, and would"
            " keep nothing before; leave --workers or --scheduler out"
        )
    first = next(scan.here(), None) if job.first_row is None else None
    return begun(job, scan), None if first is None else source_of(first)


def _refuse_changed(job: Job, before: dict[str, Any]) -> None:
    """Raise where the files are no longer those whose fingerprint was taken: each part looks at its own time alone."""
    scan = job.scan()
    if scan.fingerprint() != before:
        raise changed(scan.name)


def _cuts(job: Job, cores: int, part_bytes: int, gaps: Sequence[Rows]) -> list[Rows]:
    """Ranges of a job's rows, of those in some gaps."""
    cuts = cuts_of(job.scan(), cores, part_bytes)
    both = [
        (max(a, low), b if high is None else high if b is None else min(b, high)) for a, b in cuts for low, high in gaps
    ]
    return [(low, high) for low, high in both if high is None or low < high]


def _score_part(job: Job, rows: Rows, threads: dict[str, int], run: str, k: int) -> Part:
    """Score a range of rows, on this task's share of the host's cores, and report on the way."""
    from distributed import get_worker

    worker = get_worker()
    last_s, done, n_bytes = -math.inf, 0, 0

    def tell(_: str, fraction: float, rows_read: int, bytes_read: int) -> None:
        nonlocal last_s, done, n_bytes
        done, n_bytes = rows_read, bytes_read
        if time.monotonic() >= last_s + TOLD_EVERY_S or fraction >= 1:
            last_s = time.monotonic()
            worker.log_event(run, (k, (fraction, done, n_bytes)))

    with limited(max(1, get_threads() // threads.get(_host(worker.address), 1))):
        scorer = score_files(job, rows, tell)
    return Part(scorer, done, n_bytes)


def _merge(parts: Sequence[Part]) -> Part:
    """Add up parts, which stay as they are: a task may be run twice."""
    from fastxent.scoring.scorer import Scorer

    whole = Scorer(**parts[0].scorer.options)
    for part in parts:
        whole.merge(part.scorer)
    return Part(whole, sum(part.rows for part in parts), sum(part.n_bytes for part in parts))


def _host(address: str) -> str:
    return address.rpartition(":")[0]
