"""A batch's rows into a comparison's state: pieces of rows through the kernels, on as many threads as there are.

A thread makes every model's losses of a piece of rows, sees whether they are right, and adds them to its own part of
the state, while they are in its cache.
"""

import hashlib
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
from fastxent.scoring.groups import numbered
from fastxent.scoring.replicates import NO_POSITIONS
from fastxent.slices import I64, row_slices, rows_cut
from fastxent.threads import current_threads, side_by_side

SLICE_ROWS = 1 << 18  # of one model's losses: 2 MB
PIECE_ROWS = 1 << 16  # that a thread makes, then adds up
FEW_ROWS = 1 << 14  # a call of so few rows makes all their losses, then adds them to the state itself
PIECE_BYTES = 1 << 20  # of predictions, which the second-level cache then holds for what looks at them again
MARGIN = 1e-3  # how far a loss must be below where it would tell that the label is the largest class

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
    room = np.empty((3, len(batches), min(z.n_rows, SLICE_ROWS)))
    parts: list[State] = []
    for low, high, views, t, s in _slices(batches):
        pause()
        n = high - low
        of_labels = room[1:, :, : n if hard else 0]
        made = Slice(options, batches, views, t, room[0, :, :n], of_labels[0], of_labels[1])
        given = s, (NO_LABELS if ids is None else ids[low:high]), first_id + low
        named = {name: x[low:high] for name, x in groups.items()}
        drawn = s, first_id + low, _positions(named["cluster"]) if "cluster" in named else NO_POSITIONS
        cuts = list(pairwise(n * k // threads for k in range(threads + 1)))
        if n == z.n_rows <= FEW_ROWS:  # nothing can fail after its losses have been made
            made.raise_first(side_by_side([partial(made.make, *cut) for cut in cuts]), low)
            state.add(*made.kept(state, *given, named, 0, n))
            made.draw(state, *drawn)
            return
        parts = parts or [state.twin() for _ in range(threads)]
        work = [partial(made.add_to, part, *given, named, *cut) for part, cut in zip(parts, cuts)]
        made.raise_first(side_by_side(work), low)
        made.draw(parts[0], *drawn)
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
    """Some rows of every model: their losses, confidences and labels' ranks, float64[models, rows].

    Parameters
    ----------
    options : Options
    batches : sequence of Batch
    views : list of arrays
        Each model's predictions.
    t : array
        Class indices or distributions.
    losses, confidences, ranks : arrays
        To be filled; of distributions the latter have no columns.
    """

    def __init__(
        self,
        options: Options,
        batches: Sequence[Batch],
        views: list[np.ndarray],
        t: np.ndarray,
        losses: np.ndarray,
        confidences: np.ndarray,
        ranks: np.ndarray,
    ) -> None:
        self._options, self._batches = options, batches
        self._losses, self._confidences, self._ranks = losses, confidences, ranks
        self._hard = batches[0].is_hard
        self._labels = t if self._hard else NO_LABELS
        places = range(len(batches))
        self._calls = [_calls(options, k, batches[k], views[k], t, losses, confidences, ranks) for k in places]
        rows_at_once = max(1, PIECE_BYTES // (views[0].shape[2] * views[0].itemsize))
        self._step = rows_at_once if any(stand is not None for _, stand in self._calls) else SLICE_ROWS

    def make(self, low: int, high: int) -> Fault:
        """Make the figures of rows low .. high - 1, up to a row that is refused."""
        faults: list[tuple[int, int, int]] = []
        ends = [high] * len(self._calls)  # what is made of each model
        for start in range(low, high, self._step):
            stop = min(start + self._step, high)
            for k, (lose, stand) in enumerate(self._calls):
                row, reason = lose.run_serial(start, stop, self._losses[k])[:2]
                ends[k] = start if reason else stop
                if reason:
                    faults.append((row, k, reason))
                elif stand is not None:
                    stand.run_serial(start, stop)
            if faults:
                break
        if self._options.invalid == "raise":
            for k, end in enumerate(ends):
                losses = self._losses[k, low:end]
                if losses.size and math.isnan(losses.min()):
                    faults.append((low + int(np.isnan(losses).argmax()), k, -1))
        return min(faults, default=None)

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
        losses, confidences, ranks = (x[:, cut] for x in (self._losses, self._confidences, self._ranks))
        beside = weights[cut], self._labels[cut], ids[cut], first_id + low, groups
        rows = Rows(losses, confidences, ranks, *beside)
        there, ignored, invalid = self._there(low, high)
        if ignored + invalid:
            rows = _taken(rows, np.flatnonzero(there))
        return rows._replace(codes=part.codes(rows.codes, rows.labels)), ignored, invalid

    def _there(self, low: int, high: int) -> tuple[np.ndarray, int, int]:
        """Which of rows low .. high - 1 count; how many are ignored, and invalid."""
        there, index = np.ones(high - low, np.bool_), self._options.ignore_index
        if index is None and self._options.invalid != "count":
            return there, 0, 0
        if index is not None:
            there = self._labels[low:high] != index
        nan = np.isnan(self._losses[:, low:high]).any(0)  # an ignored row's losses are 0
        return there & ~nan, there.size - int(np.count_nonzero(there)), int(np.count_nonzero(nan))

    def draw(self, part: State, weights: np.ndarray, first_row: int, positions: np.ndarray) -> None:
        """Add all rows to the replicates of a state, if it has some: every model's with the same counts."""
        n = self._losses.shape[1]
        out = ~self._there(0, n)[0] if part.replicates else None
        for k, replicates in enumerate(part.replicates):
            none, rank = np.zeros(n), np.zeros(n, np.int64)
            if self._hard:
                rank[:] = self._ranks[k]
            rank[out] = -1
            confidences = self._confidences[k] if self._hard else none
            rows = kernels.ScoreRows(self._losses[k], none, confidences, none, rank, rank)
            replicates.add(rows, weights, first_row, positions)

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


def _calls(
    options: Options,
    k: int,
    batch: Batch,
    z: np.ndarray,
    t: np.ndarray,
    losses: np.ndarray,
    confidences: np.ndarray,
    ranks: np.ndarray,
) -> tuple[kernels.Call, kernels.Call | None]:
    """What makes a model's losses; then what makes confidences and ranks, unless the first does."""
    if not batch.is_hard:
        return _loss_call(options, k, batch, z, t), None
    kind, temperature, to = options.kind[k], options.temperature[k], (ranks[k], confidences[k])
    ignore = batch.has_ignore, batch.ignore_index
    if kind == "logits" and z.shape[2] <= kernels.TILE_CLASSES:
        return kernels.loss_standings(z, t, *to, *ignore, temperature), None
    # More than half of the probability is the label's where a row of logits has a loss below ln 2: no need to look.
    sure_hit = math.log(2.0) - MARGIN if kind == "logits" else -math.inf
    more = *ignore, options.normalize and kind == "probs", temperature, sure_hit
    stand = kernels.label_standings(checks.KINDS.index(kind), z, t, losses[k], *to, *more)
    return _loss_call(options, k, batch, z, t), stand


def _positions(clusters: np.ndarray) -> np.ndarray:
    """A number for each row, its cluster's, by which a replicate draws: an integer itself, or a hash of a string."""
    if clusters.dtype.kind == "i":
        return clusters
    codes, firsts, _ = numbered(clusters, clusters.size)
    names = [name.encode("utf-8", "surrogatepass") for name in clusters[firsts].tolist()]
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<i8").astype(np.int64)[codes]


def _taken(rows: Rows, kept: np.ndarray) -> Rows:
    """Some of the rows."""

    def take(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[..., kept]) if x.size else x

    ids = rows.ids if rows.ids.size else rows.first_id + np.arange(rows.losses.shape[1])
    codes = {name: take(codes) for name, codes in rows.codes.items()}
    losses, confidences, ranks = (take(x) for x in (rows.losses, rows.confidences, rows.ranks))
    return Rows(losses, confidences, ranks, take(rows.weights), take(rows.labels), take(ids), 0, codes)
