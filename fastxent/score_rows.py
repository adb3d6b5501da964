"""A batch's rows into a score card's state: pieces of rows through the kernels, on as many threads as there are."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastxent import checks
from fastxent.checks import Batch
from fastxent.kernels import batch as kernels
from fastxent.score_state import Options, State
from fastxent.threads import current_threads

SLICE_ROWS = 1 << 20
SLICE_BYTES = 1 << 28
PIECE_ROWS = 1 << 14  # a call of so few rows makes all its per-row figures first
PARALLEL_CLASSES = 1 << 12  # with more classes than this, or one piece of rows, figures are added up on one thread
INVALID_RANK = -2
NO_LABELS = np.empty(0, np.int64)


def add_batch(state: State, batch: Batch, names: np.ndarray | None, first: int) -> State:
    """The state with a batch's rows added; what fails halfway leaves it as it was."""
    n_rows, n_classes = batch.predictions.n_rows, batch.predictions.n_classes
    in_two_steps = n_rows <= PIECE_ROWS or n_classes > PARALLEL_CLASSES or state.replicates is not None
    threads = 1 if in_two_steps else current_threads()
    weighted = state.weighted or batch.sample_weight is not None
    parts: list[State] = []
    rows = _new_rows(min(n_rows, PIECE_ROWS) if in_two_steps else 0)
    max_rows = PIECE_ROWS if in_two_steps else SLICE_ROWS
    with ThreadPoolExecutor(max(1, threads - 1)) as pool:  # starts no thread until one is asked for
        for start, stop, z, t, s in batch.slices(max(1, min(max_rows, SLICE_BYTES // (8 * n_classes)))):
            n = stop - start
            if not parts:
                whole = n == n_rows <= PIECE_ROWS  # nothing can fail after its rows have been made
                parts = [state] if whole else [state.twin(weighted) for _ in range(threads)]
            ids = NO_LABELS if names is None else names[start:stop]
            call, labels = score_call(state.options, batch, z, t), t if batch.is_hard else NO_LABELS
            if in_two_steps and not _make(call, rows, n, state.options.invalid):
                raise refusal(batch, call, start, n)
            sources = [kernels.made_rows(rows)] if in_two_steps else [call.source() for _ in parts]
            given = labels, s, ids, first + start
            cuts = [n * k // len(parts) for k in range(len(parts) + 1)]
            work = list(zip(parts, sources, cuts, cuts[1:]))
            others = [pool.submit(part.add, source, *given, *cut) for part, source, *cut in work[1:]]
            mine = parts[0].add(sources[0], *given, *cuts[:2])
            if not all([mine, *(other.result() for other in others)]):
                raise refusal(batch, call, start, n)
            if parts[0].replicates is not None:
                some = kernels.ScoreRows(*(column[:n] for column in rows))
                parts[0].replicates.add(some, s if s.size or not weighted else np.ones(n), first + start)
    if parts and state.is_empty():
        state = parts[0]
    for part in parts:
        if part is not state:
            state.merge(part)
    return state


def score_call(options: Options, batch: Batch, z: np.ndarray, t: np.ndarray) -> kernels.ScoreCall:
    """What makes the per-row figures of one slice."""
    kind = checks.KINDS.index(options.kind)
    numbers = options.eps, options.normalize, options.sum_tol, options.temperature
    if batch.is_hard:
        return kernels.score_call(kind, z, t, batch.has_ignore, batch.ignore_index, *numbers)
    return kernels.score_call_soft(kind, z, t, *numbers)


def _make(call: kernels.ScoreCall, rows: kernels.ScoreRows, n: int, invalid: str) -> bool:
    """Make the figures of a slice's n rows, in a parallel loop where that pays; False where a row is refused."""
    row, _ = call.run(rows)
    return row < 0 and (invalid != "raise" or int(rows.rank[:n].min()) != INVALID_RANK)


def refusal(batch: Batch, call: kernels.ScoreCall, start: int, n: int) -> ValueError:
    """The error about the first row of a slice that is refused."""
    rows = _new_rows(n)
    row, reason = call.run(rows)
    if row >= 0:
        return batch.error(start + row, reason)
    at = checks.where(start + checks.first(rows.rank == INVALID_RANK), batch.predictions.shape)
    return ValueError(f"predictions: {at} has a NaN or +inf, or only -inf; invalid='count' leaves such rows out")


def _new_rows(n: int) -> kernels.ScoreRows:
    """Room for the per-row figures of n rows."""
    return kernels.ScoreRows(*(np.empty(n) for _ in range(4)), *(np.empty(n, np.int64) for _ in range(2)))
