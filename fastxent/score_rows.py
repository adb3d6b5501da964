"""A batch's rows into a score card's state: pieces of rows through the kernels, on as many threads as there are."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastxent import checks
from fastxent.checks import Batch
from fastxent.kernels import batch as kernels
from fastxent.score_state import Options, State
from fastxent.threads import current_threads

SLICE_ROWS = 1 << 18
SLICE_BYTES = 1 << 28
PIECE_ROWS = 1 << 14  # the per-row figures of so many rows stay in the second-level cache until they are added up
PARALLEL_CLASSES = 1 << 12  # with more classes than this, or one piece of rows, they are added up on one thread
INVALID_RANK = -2
NO_LABELS = np.empty(0, np.int64)


def add_batch(state: State, batch: Batch, names: np.ndarray | None, first: int) -> State:
    """The state with a batch's rows added; what fails halfway leaves it as it was."""
    n_rows, n_classes = batch.predictions.n_rows, batch.predictions.n_classes
    threads = current_threads() if n_rows > PIECE_ROWS and n_classes <= PARALLEL_CLASSES else 1
    weighted = state.weighted or batch.sample_weight is not None
    parts: list[State] = []
    side_by_side = threads == 1 and current_threads() > 1  # the rows at least, in a parallel loop
    cards = [_new_rows(min(n_rows, PIECE_ROWS)) for _ in range(threads)]
    max_rows = PIECE_ROWS if side_by_side else SLICE_ROWS
    with ThreadPoolExecutor(max(1, threads - 1)) as pool:  # starts no thread until one is asked for
        for start, stop, z, t, s in batch.slices(max(1, min(max_rows, SLICE_BYTES // (8 * n_classes)))):
            n = stop - start
            if not parts:
                whole = n == n_rows <= PIECE_ROWS  # nothing can fail after its only piece has been read
                parts = [state] if whole else [state.twin(weighted) for _ in range(threads)]
            ids = NO_LABELS if names is None else names[start:stop]
            call = _score_call(state.options, batch, z, t)
            given = call, t if batch.is_hard else NO_LABELS, s, ids, first + start, side_by_side
            cuts = [n * k // len(parts) for k in range(len(parts) + 1)]
            work = list(zip(parts, cards, cuts, cuts[1:]))
            others = [pool.submit(_add_rows, *given, *one) for one in work[1:]]
            mine = _add_rows(*given, *work[0])
            if not all([mine, *(other.result() for other in others)]):
                raise _refusal(batch, call, start, n)
    if parts and state.is_empty():
        state = parts[0]
    for part in parts:
        if part is not state:
            state.merge(part)
    return state


def _score_call(options: Options, batch: Batch, z: np.ndarray, t: np.ndarray) -> kernels.ScoreCall:
    """What makes the per-row figures of one slice."""
    kind = checks.KINDS.index(options.kind)
    numbers = options.eps, options.normalize, options.sum_tol, options.temperature
    if batch.is_hard:
        return kernels.score_call(kind, z, t, batch.has_ignore, batch.ignore_index, *numbers)
    return kernels.score_call_soft(kind, z, t, *numbers)


def _add_rows(
    call: kernels.ScoreCall,
    labels: np.ndarray,
    weights: np.ndarray,
    ids: np.ndarray,
    first_id: int,
    side_by_side: bool,
    state: State,
    card: kernels.ScoreRows,
    low: int,
    high: int,
) -> bool:
    """Add rows low .. high - 1 of a slice to a state, a piece at a time; False at one that is refused."""
    for start in range(low, high, PIECE_ROWS):
        stop = min(start + PIECE_ROWS, high)
        n = stop - start
        row, _ = call.run(card) if side_by_side else call.run_some(start, stop, card)
        if row >= 0 or (state.options.invalid == "raise" and card.rank[:n].min() == INVALID_RANK):
            return False
        state.add(card, labels[start:stop], weights[start:stop], ids[start:stop], first_id + start, 0, n)
    return True


def _refusal(batch: Batch, call: kernels.ScoreCall, start: int, n: int) -> ValueError:
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
