"""Two or more models on the same rows: `compare` for arrays at hand, `Comparer` for predictions that come in parts."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.checks import ABSENT, Batch
from fastxent.compare_figures import summarise
from fastxent.compare_result import (
    Comparison,
    DecidingRow,
    Difference,
    DifferenceTable,
    Model,
    Outcomes,
    PairComparison,
)
from fastxent.compare_state import NO_LABELS, NO_REALS, Rows, State, pieces, run_all
from fastxent.kernels import batch as kernels
from fastxent.score_groups import as_groups
from fastxent.scoring import as_names, as_whole
from fastxent.slices import I64, Predictions, row_slices, rows_cut
from fastxent.threads import current_threads, limited

__all__ = [
    "Comparer",
    "Comparison",
    "DecidingRow",
    "Difference",
    "DifferenceTable",
    "Model",
    "Outcomes",
    "PairComparison",
    "compare",
]

SLICE_ROWS = 1 << 19  # of one model's losses: 4 MB
PIECE_BYTES = 1 << 20  # of predictions, which the second-level cache then holds for what looks at them again
MARGIN = 1e-3  # how far a loss must be from where it would tell whether the label is the largest class
NOTHING_COMPARED = "no row was compared, or each has weight 0: means are NaN"


def compare(
    *predictions: Any,
    target: ArrayLike | None = None,
    kind: "str | Sequence[str]" = "logits",
    names: Sequence[str] | None = None,
    ids: ArrayLike | None = None,
    by: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
    ignore_index: int | None = None,
    sample_weight: ArrayLike | None = None,
    eps: float = 0.0,
    normalize: bool = False,
    sum_tol: float = 1e-3,
    temperature: "float | Sequence[float]" = 1.0,
    worst: int = 20,
    invalid: str = "raise",
    axis: int = -1,
    threads: int | None = None,
) -> Comparison:
    """Compare two or more models on the same rows: paired differences of NLL and accuracy, from one pass over memory.

    ``compare(a, b, target)``, ``compare(a, b, c, target)``, or by name ``compare({"old": a, "new": b}, target)``.

    Parameters
    ----------
    predictions : arrays, shape (..., C), float16, bfloat16, float32, float64 or integers
        Of each model, or one mapping of names to them; any strides, all of one shape. The target comes last unless it
        is given by name.
    target : integer array, shape (...), or floating array of the predictions' shape
        Class indices, or distributions, which give the figures that need no class index.
    kind : {"logits", "log_probs", "probs"} or one of them a model
        What the predictions are.
    names : sequence of str, optional
        The models' names; by default "A", "B", ...
    ids : integer array, shape (...), optional
        Names of the rows, for those that decide; the position by default.
    by : array of integers or strings, shape (...), optional
        The group of each row: differences by group.
    cluster : array of integers or strings, shape (...), optional
        Rows that belong together, such as those of one document or patient: standard errors then allow any dependence
        within a cluster.
    ignore_index : int, optional
        Rows with this label are not read.
    sample_weight : array, shape (...), optional
        Non-negative weights of the rows.
    eps, normalize, sum_tol
        For probabilities, as in `log_loss`.
    temperature : float or one a model
        Divides logits.
    worst : int
        How many rows to list that decide for each model of a pair.
    invalid : {"raise", "count"}
        What to do about rows of logits for which a model's loss is NaN: refuse them, or count them and leave them out.
    axis : int
        The class axis.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    Comparison
        In nats. The rows' losses are those of `cross_entropy`, `nll` or `log_loss`, bit for bit.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Student: The probable error of a mean, Biometrika (1908). Diebold, Mariano: Comparing predictive accuracy, J. Bus.
    Econ. Stat. (1995). McNemar: Note on the sampling error of the difference between correlated proportions,
    Psychometrika (1947). Cameron, Miller: A practitioner's guide to cluster-robust inference, J. Human Resources
    (2015). Holm: A simple sequentially rejective multiple test procedure, Scand. J. Stat. (1979).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> labels = np.array([0, 1, 2, 1])
    >>> old, new = 2.0 * np.eye(3)[labels], 3.0 * np.eye(3)[[0, 1, 2, 2]]
    >>> both = fastxent.compare(old, new, labels)
    >>> round(both.pair().nll.value, 4), round(both.pair().nll.p_value, 4)
    (-0.6054, 0.4786)
    >>> both.pair().outcomes.b_lower, both.pair().outcomes.only_a_right
    (3, 1)
    """
    arrays, target, names = _models(predictions, target, names)
    comparer = Comparer(
        len(arrays),
        kind=kind,
        names=names,
        ignore_index=ignore_index,
        eps=eps,
        normalize=normalize,
        sum_tol=sum_tol,
        temperature=temperature,
        worst=worst,
        invalid=invalid,
        axis=axis,
        threads=threads,
    )
    given: dict[str, Any] = {"ids": ids, "by": by, "cluster": cluster, "sample_weight": sample_weight}
    return comparer.update(*arrays, target, **given).result()


def _models(
    given: tuple[Any, ...], target: Any, names: Sequence[str] | None
) -> tuple[list[Any], Any, Sequence[str] | None]:
    """The models' predictions, the target, and the names."""
    arrays = list(given)
    if target is None and arrays:
        target = arrays.pop()
    if len(arrays) == 1 and isinstance(arrays[0], Mapping):
        if names is not None:
            raise ValueError("names: given twice, as the mapping of predictions has names")
        names, arrays = list(arrays[0]), list(arrays[0].values())
    if len(arrays) < 2:
        raise ValueError(
            f"predictions: {len(arrays)} model{'s' * (len(arrays) != 1)}; need two or more, then the target"
        )
    return arrays, target, names


class Comparer:
    """A comparison that is filled in parts. Parts merged in any order give the bits of the whole.

    Parameters
    ----------
    n_models : int
        How many models there are: two or more.
    kind, names, ignore_index, eps, normalize, sum_tol, temperature, worst, invalid, axis, threads
        As in `compare`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> a, b, labels = np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 0, 1]], np.array([0, 1, 1])
    >>> first, second = fastxent.Comparer(2), fastxent.Comparer(2)
    >>> first = first.update(a[:1], b[:1], labels[:1])
    >>> second = second.update(a[1:], b[1:], labels[1:], start=1)
    >>> second.merge(first).result() == fastxent.compare(a, b, labels)
    True
    """

    def __init__(
        self,
        n_models: int = 2,
        *,
        kind: "str | Sequence[str]" = "logits",
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        eps: float = 0.0,
        normalize: bool = False,
        sum_tol: float = 1e-3,
        temperature: "float | Sequence[float]" = 1.0,
        worst: int = 20,
        invalid: str = "raise",
        axis: int = -1,
        threads: int | None = None,
    ) -> None:
        n = as_whole(n_models, "n_models", 2, 1000)
        self._names = _model_names(names, n)
        kinds = [kind] * n if isinstance(kind, str) else list(kind)
        temperatures = list(temperature) if isinstance(temperature, (list, tuple)) else [temperature] * n
        for name, values in (("kind", kinds), ("temperature", temperatures)):
            if len(values) != n:
                raise ValueError(f"{name}: {len(values)} values for {n} models; need one, or one a model")
        for k in kinds:
            checks.as_kind(k)
        has_ignore, index = checks.as_ignore_index(ignore_index)
        eps, normalize, sum_tol = checks.as_log_loss_options(eps, normalize, sum_tol)
        if invalid not in ("raise", "count"):
            raise ValueError(f"invalid: {invalid!r} is not one of 'raise', 'count'")
        self._kinds = tuple(kinds)
        self._options: dict[str, Any] = {
            "ignore_index": index if has_ignore else None,
            "eps": eps,
            "normalize": normalize,
            "sum_tol": sum_tol,
            "temperature": [checks.as_temperature(t) for t in temperatures],
            "worst": as_whole(worst, "worst", 0, 1_000_000),
            "invalid": invalid,
        }
        self._axis, self._threads = axis, threads
        self._state: State | None = None
        self._next = 0

    def update(
        self,
        *predictions: Any,
        target: ArrayLike | None = None,
        start: int | None = None,
        ids: ArrayLike | None = None,
        by: ArrayLike | None = None,
        cluster: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> "Comparer":
        """Add rows.

        Parameters
        ----------
        predictions, target, ids, sample_weight
            As in `compare`.
        start : int, optional
            The position of the first of these rows in the whole, for their ids. By default rows are counted on.
        by, cluster : array of integers or strings, shape (...), optional
            As in `compare`; like sample_weight in all updates or in none.

        Returns
        -------
        Comparer
            This one.

        Raises
        ------
        ValueError, TypeError
            One line that names the argument, the first offending row and the value. Nothing was added then.
        """
        arrays, target, _ = _models(predictions, target, None)
        if len(arrays) != len(self._names):
            raise ValueError(f"predictions: {len(arrays)} models; this comparison is of {len(self._names)}")
        batches = self._batches(arrays, target, sample_weight)
        first = self._next if start is None else as_whole(start, "start", 0)
        z = batches[0].predictions
        row_ids = as_names(ids, z.shape)
        groups = {name: as_groups(x, z.shape, name) for name, x in (("by", by), ("cluster", cluster)) if x is not None}
        state = self._state_for(batches[0], tuple(groups))
        into: State | None = None
        with limited(self._threads):
            for low, high, views, t, s in _slices(batches):
                n = high - low
                losses, hits = self._losses(batches, views, t, low, n)
                labels = t if batches[0].is_hard else NO_LABELS
                kept, ignored, invalid = self._kept(losses, labels)
                if into is None:
                    into = state if n == z.n_rows else state.twin()  # nothing can fail after the whole's losses
                codes = {name: into.codes(name, x[low:high]) for name, x in groups.items()}
                given = NO_LABELS if row_ids is None else row_ids[low:high]
                rows = Rows(losses, hits, s, labels, given, first + low, codes)
                into.add(rows if kept is None else _taken(rows, kept), ignored, invalid)
        if into is not None and into is not state:
            state.merge(into)
        self._state, self._next = state, first + z.n_rows
        return self

    def merge(self, other: "Comparer") -> "Comparer":
        """Add the rows of another comparison with the same options.

        Parameters
        ----------
        other : Comparer
            Stays as it is.

        Returns
        -------
        Comparer
            This one.

        Raises
        ------
        ValueError
            Where the models, options, classes or kinds of target differ.
        """
        if not isinstance(other, Comparer):
            raise TypeError(f"other: {type(other).__name__} is not a Comparer")
        if other is self:
            raise ValueError("other: a comparison cannot be merged with itself")
        mine, others = ({"names": c._names, "kind": c._kinds, **c._options} for c in (self, other))
        for name, value in mine.items():
            if value != others[name]:
                raise ValueError(f"other: has {name}={others[name]!r}, this comparison {value!r}")
        if other._state is not None:
            if self._state is None:
                self._state = other._state.twin()
            self._refuse_other(other._state.facts(), "other: ")
            self._state.merge(other._state)
        self._next = max(self._next, other._next)
        return self

    def result(self) -> Comparison:
        """Return the figures of the rows so far.

        Returns
        -------
        Comparison
            Means are NaN, with a RuntimeWarning, where no row was kept.
        """
        state = self._state
        if state is None:
            state = State(len(self._names), 0, False, False, self._options["worst"], ())
        result = summarise(state, self._names, self._kinds, dict(self._options))
        if not result.weight > 0:
            warnings.warn(NOTHING_COMPARED, RuntimeWarning, stacklevel=2)
        return result

    def _batches(self, arrays: list[Any], target: Any, sample_weight: Any) -> list[Batch]:
        """Every model's predictions with the target, checked."""
        batches: list[Batch] = []
        for name, array in zip(self._names, arrays):
            given = (sample_weight if not batches else None), self._options["ignore_index"]
            batches.append(checks.as_batch(name, array, target, self._axis, None, *given))
            first, z = batches[0].predictions, batches[-1].predictions
            if z.array.shape != first.array.shape:
                shapes = (checks.full_shape(x, self._axis) for x in (z, first))
                raise ValueError(
                    "{}: shape {} does not match {} of shape {}".format(name, *_mixed(shapes, self._names[0]))
                )
        return batches

    def _state_for(self, batch: Batch, partitions: tuple[str, ...]) -> State:
        """The state so far, or an empty one, for rows of this kind."""
        facts: dict[str, Any] = {
            "n_classes": batch.predictions.n_classes,
            "hard": batch.is_hard,
            "weighted": batch.sample_weight is not None,
            "partitions": partitions,
        }
        if self._state is None:
            return State(len(self._names), worst=self._options["worst"], **facts)
        self._refuse_other(facts, "")
        return self._state

    def _refuse_other(self, facts: dict[str, Any], prefix: str) -> None:
        """Raise where rows are not of the state's kind."""
        mine = self._state.facts() if self._state is not None else facts
        if facts["n_classes"] != mine["n_classes"]:
            raise ValueError(f"{prefix}{facts['n_classes']} classes, but this comparison has {mine['n_classes']}")
        if facts["hard"] != mine["hard"]:
            raise ValueError(f"{prefix}target: class indices and distributions do not go into one comparison")
        for name, given, before in (
            ("sample_weight", facts["weighted"], mine["weighted"]),
            *((x, x in facts["partitions"], x in mine["partitions"]) for x in ("by", "cluster")),
        ):
            if given != before:
                raise ValueError(f"{prefix}{name}: {'' if given else 'not '}given, unlike in the updates before")

    def _losses(
        self, batches: list[Batch], views: list[np.ndarray], t: np.ndarray, first: int, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every model's losses of a slice's rows, and whether it is right: float64[models, rows], [models, 0] without.

        Raises for the first row that is refused.
        """
        hard = batches[0].is_hard
        losses = np.empty((len(batches), n))
        hits = np.empty((len(batches), n if hard else 0))
        calls = [self._call(k, batches[k], views[k], t) for k in range(len(batches))]
        seers = [self._seer(k, views[k], t, losses[k]) for k in range(len(batches))] if hard else []
        row_bytes = max(1, views[0].shape[2] * views[0].itemsize)
        step = max(1, PIECE_BYTES // row_bytes)
        threads = min(current_threads(), max(1, n * views[0].shape[2] // kernels.SERIAL_ELEMENTS), n)

        def run(low: int, high: int) -> tuple[int, int, int] | None:
            """The first row that is refused, by which model, and why (-1: a NaN)."""
            for start, stop in pieces(high - low, step):
                cut = low + start, low + stop
                faults = []
                for k, call in enumerate(calls):
                    row, reason = call.run_serial(*cut, losses[k])[:2]
                    if not reason and math.isnan(losses[k, slice(*cut)].min()):
                        row, reason = cut[0] + int(np.isnan(losses[k, slice(*cut)]).argmax()), -1
                        reason = reason if self._options["invalid"] == "raise" else 0
                    if reason:
                        faults.append((row, k, reason))
                    elif hard:
                        seers[k].run_serial(*cut, hits[k])
                if faults:
                    return min(faults)
            return None

        cuts = [n * k // threads for k in range(threads + 1)]
        work = [partial(run, *cut) for cut in pairwise(cuts)]
        faults = [fault for fault in run_all(work, threads) if fault is not None]
        if faults:
            row, k, reason = faults[0]
            if reason > 0:
                raise batches[k].error(first + row, reason)
            at = checks.where(first + row, batches[k].predictions.shape)
            raise ValueError(
                f"{self._names[k]}: {at} has a NaN or +inf, or only -inf; invalid='count' leaves such rows out"
            )
        return losses, hits

    def _call(self, k: int, batch: Batch, z: np.ndarray, t: np.ndarray) -> kernels.Call:
        """What makes a model's losses, those of the public function for its kind."""
        options, kind = self._options, self._kinds[k]
        numbers = options["eps"], options["normalize"], options["sum_tol"]
        if batch.is_hard:
            given = z, t, ABSENT, ABSENT, batch.has_ignore, batch.ignore_index
            if kind == "logits":
                return kernels.hard_cross_entropy(*given, 0.0, options["temperature"][k])
            return kernels.hard_nll(*given) if kind == "log_probs" else kernels.hard_log_loss(*given, *numbers)
        if kind == "logits":
            return kernels.soft_cross_entropy(z, t, ABSENT, ABSENT, 0.0, options["temperature"][k])
        return (
            kernels.soft_nll(z, t, ABSENT, ABSENT)
            if kind == "log_probs"
            else kernels.soft_log_loss(z, t, ABSENT, ABSENT, *numbers)
        )

    def _seer(self, k: int, z: np.ndarray, t: np.ndarray, losses: np.ndarray) -> kernels.Call:
        """What finds a model's hits. Beyond some losses there is no need to look: more than half of the probability is
        the label's, or less than one C-th.
        """
        kind, tol = self._kinds[k], 0.0 if self._options["normalize"] else self._options["sum_tol"]
        if kind == "log_probs":  # which need not sum to 1
            return kernels.label_hits(z, t, losses, -math.inf, math.inf)
        most, least = (1.0, 1.0) if kind == "logits" else (1.0 + tol, 1.0 - tol)  # what a row's probabilities sum to
        sure_miss = math.log(z.shape[2] / least) + MARGIN if least > 0.0 else math.inf
        return kernels.label_hits(z, t, losses, math.log(2.0 / most) - MARGIN, sure_miss)

    def _kept(self, losses: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray | None, int, int]:
        """The positions of the rows to keep, or None for all; how many are ignored, and invalid."""
        n, index = losses.shape[1], self._options["ignore_index"]
        there = labels != index if index is not None else None
        ignored = 0 if there is None else n - int(np.count_nonzero(there))
        invalid = 0
        if self._options["invalid"] == "count":
            nan = np.isnan(losses).any(0)  # an ignored row's losses are 0
            invalid = int(np.count_nonzero(nan))
            there = ~nan if there is None else there & ~nan
        return (np.flatnonzero(there) if there is not None and ignored + invalid else None), ignored, invalid


def _mixed(shapes: Iterator[Any], name: str) -> tuple[Any, str, Any]:
    mine, first = shapes
    return mine, name, first


def _model_names(names: Sequence[str] | None, n: int) -> tuple[str, ...]:
    """The models' names, each once."""
    if names is None:
        return tuple(chr(65 + k) if n <= 26 else f"model {k + 1}" for k in range(n))
    if isinstance(names, str) or len(names) != n:
        raise ValueError(f"names: {names!r:.60} is not one name for each of {n} models")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"names: {wrong!r:.60} is not a string")
    twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if twice is not None:
        raise ValueError(f"names: {twice!r} is there twice")
    return tuple(names)


def _slices(batches: list[Batch]) -> Iterator[tuple[int, int, list[np.ndarray], np.ndarray, np.ndarray]]:
    """Yield (start, stop, predictions, t, s) as `Batch.slices` has them, of all models."""
    lead = batches[0]
    matrices, target = [batch.predictions for batch in batches], lead.target
    hard = not isinstance(target, Predictions)
    if not hard:
        matrices.append(target)
    per_row = (8 if hard else 0) + (0 if lead.sample_weight is None else 8)
    for start, stop, views in row_slices(matrices, per_row, SLICE_ROWS):
        t = rows_cut(target, start, stop, I64) if hard else views[-1]
        s = NO_REALS
        if lead.sample_weight is not None:
            s = checks.sample_weight_slice(lead.sample_weight, start, stop, lead.predictions.shape)
        yield start, stop, views[: len(batches)], t, s


def _taken(rows: Rows, kept: np.ndarray) -> Rows:
    """Some of the rows."""
    take: Callable[[np.ndarray], np.ndarray] = lambda x: x[kept] if x.size else x  # noqa: E731
    return Rows(
        losses=np.ascontiguousarray(rows.losses[:, kept]),
        hits=np.ascontiguousarray(rows.hits[:, kept]) if rows.hits.size else rows.hits,
        weights=take(rows.weights),
        labels=take(rows.labels),
        ids=take(rows.ids) if rows.ids.size else rows.first_id + kept,
        first_id=0,
        codes={name: take(codes) for name, codes in rows.codes.items()},
    )
