"""A batch's rows into a score card's state: pieces of rows through the kernels, on as many threads as there are."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.checks import Batch
from fastxent.kernels import batch as kernels
from fastxent.scoring.state import Options, State
from fastxent.threads import current_threads, side_by_side

SLICE_ROWS = 1 << 23  # between two slices Ctrl-C is noticed
SLICE_BYTES = 1 << 28
FEW_ROWS = 1 << 14  # a call of so few rows makes all its per-row figures first
PARALLEL_CLASSES = 1 << 12  # with more classes than this, or few rows, figures are added up on one thread
PIECES = 4  # of a slice, for each thread, which takes one after the other: one that is held up does not hold up others
PIECE_ELEMENTS = 1 << 21  # logits of a piece, and ROW_ELEMENTS for what a row costs besides: some 0.7 ms
ROW_ELEMENTS = 32
INVALID_RANK = -2
NO_LABELS = np.empty(0, np.int64)

Given = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # a slice's labels, weights and ids, and the first row's id


def add_batch(
    state: State, batch: Batch, names: np.ndarray | None, first: int, pause: Callable[[], None] = lambda: None
) -> State:
    """The state with a batch's rows added; what fails halfway leaves it as it was.

    Before each slice ``pause`` is called, which may raise.
    """
    n_rows, n_classes = batch.predictions.n_rows, batch.predictions.n_classes
    in_two_steps = n_rows <= FEW_ROWS or n_classes > PARALLEL_CLASSES or state.replicates is not None
    threads = 1 if in_two_steps else current_threads()
    weighted = state.weighted or batch.sample_weight is not None
    parts: list[State] = []
    rows = _new_rows(min(n_rows, FEW_ROWS) if in_two_steps else 0)
    max_rows = max(1, min(FEW_ROWS, SLICE_BYTES // (8 * n_classes))) if in_two_steps else SLICE_ROWS
    for start, stop, z, t, s in batch.slices(max_rows):
        pause()
        n = stop - start
        if not parts:
            whole = n == n_rows <= FEW_ROWS  # nothing can fail after its rows have been made
            parts = [state] if whole else [state.twin(weighted) for _ in range(threads)]
        ids = NO_LABELS if names is None else names[start:stop]
        call, labels = score_call(state.options, batch, z, t), t if batch.is_hard else NO_LABELS
        # OpenMP's threads wait busily after a parallel loop, and the replicates' threads would for them.
        apart = current_threads() if state.replicates is not None else 1
        if in_two_steps and not _make(call, rows, n, state.options.invalid, apart):
            raise refusal(batch, call, start, n)
        sources = [kernels.made_rows(rows)] if in_two_steps else [call.source() for _ in parts]
        if weighted and not s.size:
            s = np.ones(n)  # here, once for all pieces
        given = labels, s, ids, first + start
        pieces = iter(_pieces(n, n_classes, threads))
        work = [partial(_add, part, source, given, pieces) for part, source in zip(parts, sources)]
        if not all(side_by_side(work)):
            raise refusal(batch, call, start, n)
        if parts[0].replicates is not None:
            some = kernels.ScoreRows(*(column[:n] for column in rows))
            parts[0].replicates.add(some, s, first + start)
    if parts and parts[0] is not state:
        for part in parts[1:]:
            parts[0].merge(part)
        state = parts[0] if state.is_empty() else state.merge(parts[0])
    return state


def _pieces(n: int, n_classes: int, threads: int) -> list[tuple[int, int]]:
    """A slice's n rows in pieces, (start, stop) each."""
    k = 1 if threads == 1 else max(threads, min(PIECES * threads, n * (n_classes + ROW_ELEMENTS) // PIECE_ELEMENTS))
    return [(n * i // k, n * (i + 1) // k) for i in range(k)]


def _add(part: State, source: tuple[Any, ...], given: Given, pieces: Iterator[tuple[int, int]]) -> bool:
    """Add to a part whatever piece comes next, as long as there are some; False where a row is refused."""
    return all(part.add(source, *given, start, stop) for start, stop in pieces)


def score_call(options: Options, batch: Batch, z: np.ndarray, t: np.ndarray) -> kernels.ScoreCall:
    """What makes the per-row figures of one slice."""
    kind = checks.KINDS.index(options.kind)
    numbers = options.eps, options.normalize, options.sum_tol, options.temperature
    if batch.is_hard:
        return kernels.score_call(kind, z, t, batch.has_ignore, batch.ignore_index, *numbers)
    return kernels.score_call_soft(kind, z, t, *numbers)


def _make(call: kernels.ScoreCall, rows: kernels.ScoreRows, n: int, invalid: str, apart: int) -> bool:
    """Make the figures of a slice's n rows, in a parallel loop where that pays; False where a row is refused.

    With ``apart`` above 1: in so many parts on helping threads instead.
    """
    if apart == 1:
        row, _ = call.run(rows)
    else:
        cuts = [n * k // apart for k in range(apart + 1)]
        row = max(side_by_side([partial(call.run_some, rows, *cut) for cut in pairwise(cuts)]))
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
