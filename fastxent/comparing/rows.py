"""A batch's rows into a comparison's state: pieces of rows through the kernels, on as many threads as there are.

A thread makes every model's losses of a piece of rows, sees whether they are right, and adds them to its own part of
the state, while they are in its cache.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.checks import ABSENT, Batch
from fastxent.comparing.state import NO_LABELS, NO_REALS, Options, Rows, State
from fastxent.kernels import batch as kernels
from fastxent.slices import I64, row_slices, rows_cut
from fastxent.threads import current_threads, side_by_side

SLICE_ROWS = 1 << 18  # of one model's losses: 2 MB
PIECE_ROWS = 1 << 16  # that a thread makes, then adds up
FEW_ROWS = 1 << 14  # a call of so few rows makes all their losses, then adds them to the state itself
PIECE_BYTES = 1 << 20  # of predictions, which the second-level cache then holds for what looks at them again
MARGIN = 1e-3  # how far a loss must be from where it would tell whether the label is the largest class

Fault = tuple[int, int, int] | None  # the first row that is refused, the model, and why: -1 for a NaN


def add_batches(
    state: State,
    options: Options,
    batches: Sequence[Batch],
    ids: np.ndarray | None,
    first_id: int,
    groups: Mapping[str, np.ndarray],
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Add the rows of every model's batch (the first has the weights); what fails leaves the state as it was.

    Before each slice ``pause`` is called, which may raise.
    """
    z, hard = batches[0].predictions, batches[0].is_hard
    threads = max(1, min(current_threads(), z.array.size // kernels.SERIAL_ELEMENTS))
    room = np.empty((2, len(batches), min(z.n_rows, SLICE_ROWS)))
    parts: list[State] = []
    for low, high, views, t, s in _slices(batches):
        pause()
        n = high - low
        made = Slice(options, batches, views, t, room[0, :, :n], room[1, :, : n if hard else 0])
        given = s, (NO_LABELS if ids is None else ids[low:high]), first_id + low
        named = {name: x[low:high] for name, x in groups.items()}
        cuts = list(pairwise(n * k // threads for k in range(threads + 1)))
        if n == z.n_rows <= FEW_ROWS:  # nothing can fail after its losses have been made
            made.raise_first(side_by_side([partial(made.make, *cut) for cut in cuts]), low)
            state.add(*made.kept(state, *given, named, 0, n))
            return
        parts = parts or [state.twin() for _ in range(threads)]
        work = [partial(made.add_to, part, *given, named, *cut) for part, cut in zip(parts, cuts)]
        made.raise_first(side_by_side(work), low)
    for part in parts:
        state.merge(part)


def _slices(batches: Sequence[Batch]) -> Iterator[tuple[int, int, list[np.ndarray], np.ndarray, np.ndarray]]:
    """Yield (start, stop, predictions, t, s) as `Batch.slices` has them, of all models."""
    lead = batches[0]
    matrices = [batch.predictions for batch in batches]
    per_row = (8 if lead.is_hard else 0) + (0 if lead.sample_weight is None else 8)
    for start, stop, views in row_slices([*matrices, *([] if lead.is_hard else [lead.target])], per_row, SLICE_ROWS):
        t = rows_cut(lead.target, start, stop, I64) if lead.is_hard else views[-1]
        s = NO_REALS
        if lead.sample_weight is not None:
            s = checks.sample_weight_slice(lead.sample_weight, start, stop, lead.predictions.shape)
        yield start, stop, views[: len(batches)], t, s


class Slice:
    """Some rows of every model, their losses, and whether each is right; both float64[models, rows].

    Parameters
    ----------
    options : Options
    batches : sequence of Batch
    views : list of arrays
        Each model's predictions.
    t : array
        Class indices or distributions.
    losses, hits : arrays
        To be filled; of distributions hits has no columns.
    """

    def __init__(
        self,
        options: Options,
        batches: Sequence[Batch],
        views: list[np.ndarray],
        t: np.ndarray,
        losses: np.ndarray,
        hits: np.ndarray,
    ) -> None:
        self._options, self._batches, self._losses, self._hits = options, batches, losses, hits
        self._hard = batches[0].is_hard
        self._labels = t if self._hard else NO_LABELS
        places = range(len(batches))
        self._calls = [_loss_call(options, k, batches[k], views[k], t) for k in places]
        self._seers = [_hit_call(options, k, views[k], t, losses[k]) for k in places] if self._hard else []
        self._step = max(1, PIECE_BYTES // (views[0].shape[2] * views[0].itemsize))

    def make(self, low: int, high: int) -> Fault:
        """Make losses and hits of rows low .. high - 1, up to a row that is refused."""
        refuse_nan = self._options.invalid == "raise"
        for start in range(low, high, self._step):
            stop = min(start + self._step, high)
            faults = []
            for k, call in enumerate(self._calls):
                losses = self._losses[k]
                row, reason = call.run_serial(start, stop, losses)[:2]
                if not reason and refuse_nan and math.isnan(losses[start:stop].min()):
                    row, reason = start + int(np.isnan(losses[start:stop]).argmax()), -1
                if reason:
                    faults.append((row, k, reason))
                elif self._hard:
                    self._seers[k].run_serial(start, stop, self._hits[k])
            if faults:
                return min(faults)
        return None

    def add_to(
        self,
        part: State,
        weights: np.ndarray,
        ids: np.ndarray,
        first_id: int,
        groups: Mapping[str, np.ndarray],
        low: int,
        high: int,
    ) -> Fault:
        """Make rows low .. high - 1 and add them to a state, up to a row that is refused."""
        for start in range(low, high, PIECE_ROWS):
            stop = min(start + PIECE_ROWS, high)
            fault = self.make(start, stop)
            if fault is not None:
                return fault
            part.add(*self.kept(part, weights, ids, first_id, groups, start, stop))
        return None

    def kept(
        self,
        part: State,
        weights: np.ndarray,
        ids: np.ndarray,
        first_id: int,
        groups: Mapping[str, np.ndarray],
        low: int,
        high: int,
    ) -> tuple[Rows, int, int]:
        """What is to be added of rows low .. high - 1; how many are ignored, and invalid."""
        cut = slice(low, high)
        groups = {name: x[cut] for name, x in groups.items()}
        rows = Rows(
            self._losses[:, cut], self._hits[:, cut], weights[cut], self._labels[cut], ids[cut], first_id + low, groups
        )
        there, index = np.ones(high - low, np.bool_), self._options.ignore_index
        if index is not None:
            there = rows.labels != index
        ignored = invalid = 0
        if index is not None or self._options.invalid == "count":
            ignored = there.size - int(np.count_nonzero(there))
            nan = np.isnan(rows.losses).any(0)  # an ignored row's losses are 0
            invalid = int(np.count_nonzero(nan))
            if ignored + invalid:
                rows = _taken(rows, np.flatnonzero(there & ~nan))
        return rows._replace(codes=part.codes(rows.codes, rows.labels)), ignored, invalid

    def raise_first(self, faults: list[Fault], first: int) -> None:
        """Raise for the first row that was refused, if any, of rows that begin with row ``first`` of the whole."""
        row, k, reason = next((fault for fault in faults if fault is not None), (-1, 0, 0))
        if reason > 0:
            raise self._batches[k].error(first + row, reason)
        if reason < 0:
            at = checks.where(first + row, self._batches[k].predictions.shape)
            raise ValueError(
                f"{self._options.names[k]}: {at} has a NaN or +inf, or only -inf; invalid='count' leaves such rows out"
            )


def _loss_call(options: Options, k: int, batch: Batch, z: np.ndarray, t: np.ndarray) -> kernels.Call:
    """What makes a model's losses, those of the public function for its kind."""
    kind = options.kind[k]
    more: Any = {
        "logits": (0.0, options.temperature[k]),
        "log_probs": (),
        "probs": (options.eps, options.normalize, options.sum_tol),
    }[kind]
    if batch.is_hard:
        hard: Any = {
            "logits": kernels.hard_cross_entropy,
            "log_probs": kernels.hard_nll,
            "probs": kernels.hard_log_loss,
        }
        call: kernels.Call = hard[kind](z, t, ABSENT, ABSENT, batch.has_ignore, batch.ignore_index, *more)
        return call
    soft: Any = {"logits": kernels.soft_cross_entropy, "log_probs": kernels.soft_nll, "probs": kernels.soft_log_loss}
    call = soft[kind](z, t, ABSENT, ABSENT, *more)
    return call


def _hit_call(options: Options, k: int, z: np.ndarray, t: np.ndarray, losses: np.ndarray) -> kernels.Call:
    """What sees a model's hits. Beyond some losses there is no need to look: more than half of the probability is the
    label's, or less than one C-th.
    """
    kind, tol = options.kind[k], 0.0 if options.normalize else options.sum_tol
    if kind == "log_probs":  # which need not sum to 1
        return kernels.label_hits(z, t, losses, -math.inf, math.inf)
    most, least = (1.0, 1.0) if kind == "logits" else (1.0 + tol, 1.0 - tol)  # what a row's probabilities sum to
    sure_miss = math.log(z.shape[2] / least) + MARGIN if least > 0.0 else math.inf
    return kernels.label_hits(z, t, losses, math.log(2.0 / most) - MARGIN, sure_miss)


def _taken(rows: Rows, kept: np.ndarray) -> Rows:
    """Some of the rows."""

    def take(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[..., kept]) if x.size else x

    ids = rows.ids if rows.ids.size else rows.first_id + np.arange(rows.losses.shape[1])
    codes = {name: take(codes) for name, codes in rows.codes.items()}
    return Rows(take(rows.losses), take(rows.hits), take(rows.weights), take(rows.labels), take(ids), 0, codes)
