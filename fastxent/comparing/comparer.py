"""Two or more models on the same rows: `compare` for arrays at hand, `Comparer` for predictions that come in parts."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.checks import Batch
from fastxent.comparing.figures import summarise
from fastxent.comparing.result import (
    Comparison,
    DecidingRow,
    Difference,
    DifferenceTable,
    Model,
    Outcomes,
    PairComparison,
)
from fastxent.comparing.rows import add_batches
from fastxent.comparing.state import Options, State
from fastxent.interrupts import interrupts_held
from fastxent.options import as_whole
from fastxent.scoring.groups import as_groups
from fastxent.scoring.scorer import as_names, joined
from fastxent.scoring.state import Options as ScoreOptions
from fastxent.threads import limited

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
    top_k: "int | tuple[int, ...]" = (1, 5),
    bins: int = 15,
    worst: int = 20,
    invalid: str = "raise",
    bootstrap: int = 0,
    seed: int = 0,
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
    top_k : int or tuple of int
        For which k to give top-k accuracy.
    bins : int
        Bins of confidence for the expected calibration error.
    worst : int
        How many rows to list that decide for each model of a pair.
    invalid : {"raise", "count"}
        What to do about rows of logits for which a model's loss is NaN: refuse them, or count them and leave them out.
    bootstrap : int
        Replicates of a Poisson bootstrap, 2000 for example, for standard errors and intervals of differences of
        accuracies and calibration errors and of the ratio of perplexities. A replicate has the same rows for all
        models; with clusters, all rows of one equally often.
    seed : int
        Of the bootstrap: what is drawn is a function of it, the replicate, and the row's position or cluster.
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
        top_k=top_k,
        bins=bins,
        worst=worst,
        invalid=invalid,
        bootstrap=bootstrap,
        seed=seed,
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

    Ctrl-C amid an update is answered between two pieces of the rows, and nothing of them was added then, or after the
    last one.

    Parameters
    ----------
    n_models : int
        How many models there are: two or more.
    kind, names, ignore_index, eps, normalize, sum_tol, temperature, top_k, bins, worst, invalid, bootstrap, seed
        As in `compare`.
    axis, threads
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
        top_k: "int | tuple[int, ...]" = (1, 5),
        bins: int = 15,
        worst: int = 20,
        invalid: str = "raise",
        bootstrap: int = 0,
        seed: int = 0,
        axis: int = -1,
        threads: int | None = None,
    ) -> None:
        n = as_whole(n_models, "n_models", 2, 1000)
        kinds = [kind] * n if isinstance(kind, str) else list(kind)
        temperatures = list(temperature) if isinstance(temperature, (list, tuple)) else [temperature] * n
        for name, values in (("kind", kinds), ("temperature", temperatures)):
            if len(values) != n:
                raise ValueError(f"{name}: {len(values)} values for {n} models; need one, or one a model")
        for k in kinds:
            checks.as_kind(k)
        for_all = ScoreOptions.checked(
            kind=kinds[0],
            ignore_index=ignore_index,
            eps=eps,
            normalize=normalize,
            sum_tol=sum_tol,
            temperature=1.0,
            top_k=top_k,
            bins=bins,
            worst=worst,
            invalid=invalid,
            bootstrap=bootstrap,
            seed=seed,
        )
        each = {"kind": tuple(kinds), "temperature": tuple(checks.as_temperature(t) for t in temperatures)}
        self._options = Options(names=_model_names(names, n), **vars(for_all) | each)
        self._axis, self._threads = axis, threads
        self._state: State | None = None
        self._next = 0
        self._claimed: dict[str, list[tuple[int, int]]] = {}  # rows whose positions decided what was drawn

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
            The position of the first of these rows in the whole, for their ids and the bootstrap, which refuses rows
            that were covered before. By default rows are counted on.
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
        if len(arrays) != len(self._options.names):
            raise ValueError(f"predictions: {len(arrays)} models; this comparison is of {len(self._options.names)}")
        batches = self._batches(arrays, target, sample_weight)
        first = self._next if start is None else as_whole(start, "start", 0)
        z = batches[0].predictions
        row_ids = as_names(ids, z.shape)
        groups = {name: as_groups(x, z.shape, name) for name, x in (("by", by), ("cluster", cluster)) if x is not None}
        state, claimed = self._state_for(batches[0], tuple(groups)), {}
        if self._options.bootstrap and cluster is None and z.n_rows:
            claimed = joined(self._claimed, {"": [(first, first + z.n_rows)]}, "start")
        with limited(self._threads), interrupts_held() as pause:
            add_batches(state, self._options, batches, row_ids, first, groups, pause)
            self._state, self._next = state, first + z.n_rows
            self._claimed.update(claimed)
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
            Where the models, options, classes or kinds of target differ, or both cover rows of a bootstrap.
        """
        if not isinstance(other, Comparer):
            raise TypeError(f"other: {type(other).__name__} is not a Comparer")
        if other is self:
            raise ValueError("other: a comparison cannot be merged with itself")
        for name, mine in vars(self._options).items():
            if mine != getattr(other._options, name):
                raise ValueError(f"other: has {name}={getattr(other._options, name)!r}, this comparison {mine!r}")
        if other._state is not None:
            self._refuse_other(other._state.facts(), "other: ")
        claimed = joined(self._claimed, other._claimed, "other")
        with interrupts_held():
            if other._state is not None:
                state = self._state if self._state is not None else other._state.twin()
                state.merge(other._state)
                self._state = state
            self._next = max(self._next, other._next)
            self._claimed.update(claimed)
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
            state = State(self._options, 0, False, False, ())
        result = summarise(state)
        if not result.weight > 0:
            warnings.warn(NOTHING_COMPARED, RuntimeWarning, stacklevel=2)
        return result

    def _batches(self, arrays: list[Any], target: Any, sample_weight: Any) -> list[Batch]:
        """Every model's predictions with the target, checked."""
        batches: list[Batch] = []
        for name, array in zip(self._options.names, arrays):
            given = (sample_weight if not batches else None), self._options.ignore_index
            batches.append(checks.as_batch(name, array, target, self._axis, None, *given))
            first, z = batches[0].predictions, batches[-1].predictions
            if z.array.shape != first.array.shape:
                shapes = (checks.full_shape(x, self._axis) for x in (z, first))
                raise ValueError(
                    "{}: shape {} does not match {} of shape {}".format(name, *_mixed(shapes, self._options.names[0]))
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
            return State(self._options, **facts)
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
