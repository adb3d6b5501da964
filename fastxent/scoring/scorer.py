"""The score card: `score` for arrays at hand, `Scorer` for predictions that come in parts."""

import dataclasses
import functools
import os
import threading
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks
from fastxent.arrays import as_array
from fastxent.interrupts import interrupts_held
from fastxent.options import as_whole
from fastxent.scoring.by import GroupScores
from fastxent.scoring.figures import summarise
from fastxent.scoring.groups import Groups, as_groups
from fastxent.scoring.result import ClassTable, Confusion, Histogram, Reliability, Score, WorstRow
from fastxent.scoring.rows import add_batch
from fastxent.scoring.state import Options, State, read_state, write_atomically
from fastxent.slices import INT64_MAX
from fastxent.threads import limited

__all__ = ["ClassTable", "Confusion", "Histogram", "Reliability", "Score", "Scorer", "WorstRow", "score"]

Rows = dict[str, list[tuple[int, int]]]  # source -> sorted, disjoint (first, last + 1); "" for rows without a source
NOTHING_SCORED = "no row was scored, or each has weight 0: means are NaN"


def score(
    predictions: ArrayLike,
    target: ArrayLike,
    *,
    kind: str = "logits",
    n_classes: int | None = None,
    ids: ArrayLike | None = None,
    by: ArrayLike | None = None,
    ignore_index: int | None = None,
    sample_weight: ArrayLike | None = None,
    eps: float = 0.0,
    normalize: bool = False,
    sum_tol: float = 1e-3,
    temperature: float = 1.0,
    top_k: "int | tuple[int, ...]" = (1, 5),
    bins: int = 15,
    worst: int = 20,
    invalid: str = "raise",
    bootstrap: int = 0,
    seed: int = 0,
    axis: int = -1,
    threads: int | None = None,
) -> Score:
    """Score predictions against the truth: every figure of a `Score`, from one pass over memory.

    Parameters
    ----------
    predictions : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        Logits, log-probabilities or probabilities; any strides.
    target : integer array, shape (...), or floating array of the predictions' shape
        Class indices, or distributions, which give the figures that need no class index.
    kind : {"logits", "log_probs", "probs"}
        What the predictions are.
    n_classes : int, optional
        C, to be checked.
    ids : integer array, shape (...), optional
        Names of the rows, for the worst ones; the position by default.
    by : array of integers or strings, shape (...), optional
        The group of each row: every group has a card of its own, in `Score.groups`, of the same pass.
    ignore_index : int, optional
        Rows with this label are not read.
    sample_weight : array, shape (...), optional
        Non-negative weights of the rows.
    eps, normalize, sum_tol
        For probabilities, as in `log_loss`.
    temperature : float
        Divides logits.
    top_k : int or tuple of int
        The k of the top-k accuracies.
    bins : int
        Bins of the reliability diagram.
    worst : int
        How many of the worst rows to list.
    invalid : {"raise", "count"}
        What to do about rows with a NaN or +inf, or all -inf: refuse them, or count them and leave them out.
    bootstrap : int
        Replicates of a Poisson bootstrap, for `Score.bootstrap`: standard errors and intervals of figures that have no
        formula for them. 2000 are a good number; 0 for none. A row costs some 0.6 ns a replicate and thread.
    seed : int
        Decides, with a row's position, how often each replicate has the row: 0 to 2^64 - 1.
    axis : int
        The class axis.
    threads : int, optional
        At most so many threads; never changes the result.

    Returns
    -------
    Score
        In nats, except where it says bits.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, ICML (2017).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    >>> card = fastxent.score(logits, np.array([0, 1, 1]), top_k=(1, 2))
    >>> card.accuracy, card.top_k_accuracy[2], round(card.nll, 6)
    (0.6666666666666666, 1.0, 0.986945)
    """
    scorer = Scorer(
        kind=kind,
        n_classes=n_classes,
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
    return scorer.update(predictions, target, ids=ids, by=by, sample_weight=sample_weight).result()


Method = TypeVar("Method", bound=Callable[..., Any])


def _alone(method: Method) -> Method:
    """A method of Scorer that waits until no other thread is in one of them."""

    @functools.wraps(method)
    def call(self: "Scorer", *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


class Scorer:
    """A score card that is filled in parts. Parts merged in any order give the bits of the whole.

    Threads may share one: they wait for each other. Ctrl-C amid an update is answered between two pieces of the rows,
    and nothing of them was added then, or after the last one.

    Parameters
    ----------
    kind, n_classes, ignore_index, eps, normalize, sum_tol, temperature, top_k, bins, worst, invalid, bootstrap, seed
        As in `score`.
    axis, threads
        As in `score`.

    Attributes
    ----------
    about : dict
        Facts of your own that JSON can hold, such as where the rows came from; `save` and `load` keep them.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits, labels = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 1])
    >>> first, second = fastxent.Scorer(), fastxent.Scorer()
    >>> first.update(logits[:1], labels[:1], start=0).result().n
    1
    >>> second.update(logits[1:], labels[1:], start=1).merge(first).result() == fastxent.score(logits, labels)
    True
    """

    def __init__(
        self,
        *,
        kind: str = "logits",
        n_classes: int | None = None,
        ignore_index: int | None = None,
        eps: float = 0.0,
        normalize: bool = False,
        sum_tol: float = 1e-3,
        temperature: float = 1.0,
        top_k: "int | tuple[int, ...]" = (1, 5),
        bins: int = 15,
        worst: int = 20,
        invalid: str = "raise",
        bootstrap: int = 0,
        seed: int = 0,
        axis: int = -1,
        threads: int | None = None,
    ) -> None:
        self._options = Options.checked(
            kind=kind,
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
        )
        self._axis, self._threads = axis, threads
        self._n_classes = None if n_classes is None else as_whole(n_classes, "n_classes", 1)
        self._state: State | Groups | None = None
        self._claimed: Rows = {}
        self._next = 0
        self.about: dict[str, Any] = {}
        self._lock = threading.RLock()

    @property
    def options(self) -> dict[str, Any]:
        """What it was asked for; merge wants the same."""
        return dict(vars(self._options))

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """The rows covered by updates with `start` and no `source`, as sorted, disjoint (first, last + 1)."""
        return tuple(self._claimed.get("", ()))

    @property
    def sources(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """For each `source` of updates, the rows of it that are covered, as in `rows`."""
        return {source: tuple(rows) for source, rows in self._claimed.items() if source}

    @_alone
    def update(
        self,
        predictions: ArrayLike,
        target: ArrayLike,
        *,
        start: int | None = None,
        source: str | None = None,
        ids: ArrayLike | None = None,
        by: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> "Scorer":
        """Add rows.

        Parameters
        ----------
        predictions, target, sample_weight
            As in `score`.
        start : int, optional
            The position of the first of these rows in the whole. Rows that were covered before are then refused, here
            and in merge. By default rows are counted on.
        source : str, optional
            What the rows come from, such as a file's name: `start` is then their position in it, and rows of different
            sources are different rows.
        ids : integer array, shape (...), optional
            Names of the rows, for the worst ones; by default their positions.
        by : array of integers or strings, shape (...), optional
            The group of each row, for `Score.groups`; in all updates of a score card or in none.

        Returns
        -------
        Scorer
            This one.

        Raises
        ------
        ValueError, TypeError
            One line that names the argument, the first offending row and the value. Nothing was added then.
        """
        options = self._options
        arrays = predictions, target, self._axis, None, sample_weight
        batch = checks.as_batch("predictions", *arrays, options.ignore_index)
        z = batch.predictions
        if self._n_classes is not None and z.n_classes != self._n_classes:
            raise ValueError(f"predictions: {z.n_classes} classes, but this score card has {self._n_classes}")
        if self._state is not None and batch.is_hard != self._state.hard:
            raise ValueError("target: class indices and distributions do not go into one score card")
        first = self._next if start is None else as_whole(start, "start", 0)
        if source is not None and (start is None or not isinstance(source, str)):
            raise TypeError(f"source: {source!r:.60} needs to be a string, and start the position in it")
        claimed: Rows = {}
        if (start is not None or options.bootstrap) and z.n_rows:  # a replicate's rows are drawn by their positions
            claimed = joined(self._claimed, {source or "": [(first, first + z.n_rows)]}, "start")
        if by is not None and options.bootstrap:
            raise ValueError("by: goes without bootstrap: groups have no replicates")
        names = as_names(ids, z.shape)
        kind = State if by is None else Groups
        state = self._state if self._state is not None else kind(options, z.n_classes, batch.is_hard)
        if not isinstance(state, kind):
            raise ValueError(f"by: {'not ' if by is None else ''}given, unlike in the updates before")
        with limited(self._threads), interrupts_held() as pause:
            if isinstance(state, Groups):
                self._state = state.add(batch, names, first, as_groups(by, z.shape), pause)
            else:
                self._state = add_batch(state, batch, names, first, pause)
            self._n_classes, self._next = z.n_classes, first + z.n_rows
            self._claimed.update(claimed)
        return self

    def merge(self, other: "Scorer") -> "Scorer":
        """Add the rows of another score card with the same options.

        Parameters
        ----------
        other : Scorer
            Stays as it is.

        Returns
        -------
        Scorer
            This one.

        Raises
        ------
        ValueError
            Where the options or classes differ, or both cover a row.
        """
        if not isinstance(other, Scorer):
            raise TypeError(f"other: {type(other).__name__} is not a Scorer")
        if other is self:
            raise ValueError("other: a score card cannot be merged with itself")
        first, second = sorted((self, other), key=id)  # in one order everywhere: two threads may merge crosswise
        with first._lock, second._lock:
            return self._merge(other)

    def _merge(self, other: "Scorer") -> "Scorer":
        for name, mine in self.options.items():
            if mine != other.options[name]:
                raise ValueError(f"other: has {name}={other.options[name]!r}, this score card {mine!r}")
        if None not in (self._n_classes, other._n_classes) and self._n_classes != other._n_classes:
            raise ValueError(f"other: has {other._n_classes} classes, this score card {self._n_classes}")
        claimed = joined(self._claimed, other._claimed, "other")
        if other._state is not None:
            state = self._state if self._state is not None else other._state.twin()
            if state.hard != other._state.hard:
                raise ValueError("other: class indices and distributions do not go into one score card")
            if type(state) is not type(other._state):
                raise ValueError("other: one of the score cards has groups (by), the other one has none")
        with interrupts_held():
            if other._state is not None:
                merge: Any = state.merge
                self._state = merge(other._state)
            self._n_classes, self._next = self._n_classes or other._n_classes, max(self._next, other._next)
            self._claimed.update(claimed)
        return self

    @_alone
    def result(self) -> Score:
        """Return the figures of the rows so far.

        Returns
        -------
        Score
            Means are NaN, with a RuntimeWarning, where no row was kept.

        Examples
        --------
        >>> import fastxent
        >>> fastxent.Scorer().update([[0.0, 1.0]], [1]).result().accuracy
        1.0
        """
        state = self._state
        if isinstance(state, Groups):
            result = dataclasses.replace(summarise(state.total()), groups=GroupScores(state))
        else:
            result = summarise(state if state is not None else self._empty())
        if not result.weight > 0:
            warnings.warn(NOTHING_SCORED, RuntimeWarning, stacklevel=2)
        return result

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the state to a file, which replaces an older one in one step.

        Parameters
        ----------
        path : str or path
            The file holds the options, the arithmetic's version, the rows covered and a checksum; no pickle.
        """
        write_atomically(path, self._to_bytes())

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Scorer":
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        Scorer
            One to go on with.

        Raises
        ------
        ValueError
            Where the file is damaged, cut short, of another kind, or of another version of the arithmetic.
        """
        scorer = cls.__new__(cls)
        scorer._from_bytes(Path(path).read_bytes(), os.fspath(path))
        return scorer

    def __getstate__(self) -> bytes:
        return self._to_bytes()

    def __setstate__(self, content: bytes) -> None:
        self._from_bytes(content, "state")

    def _empty(self) -> State:
        return State(self._options, self._n_classes or 0, hard=bool(self._n_classes))

    @_alone
    def _to_bytes(self) -> bytes:
        facts = {
            "known_classes": self._n_classes,
            "started": self._state is not None,
            "rows": self._claimed,
            "about": self.about,
            "next": self._next,
            "axis": self._axis,
            "threads": self._threads,
        }
        return (self._state if self._state is not None else self._empty()).to_bytes(facts)

    def _from_bytes(self, content: bytes, name: str) -> None:
        self._lock = threading.RLock()
        state, header, extra = read_state(content, name)
        try:
            content_of = Groups.from_arrays(state, header["groups"], **extra) if "groups" in header else state
            self._claimed = {source: [(int(a), int(b)) for a, b in rows] for source, rows in header["rows"].items()}
            self._options, self._state = state.options, content_of if header["started"] else None
            n_classes = header["known_classes"]
            self._n_classes = None if n_classes is None else as_whole(n_classes, "n_classes", 1)
            self._next = as_whole(header["next"], "next", 0)
            self._axis, self._threads, self.about = header["axis"], header["threads"], header["about"]
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            said = f"{error!r:.200}"
            raise ValueError(f"{name}: the score state contradicts itself ({said})") from None


def ids_of(ids: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Names of the rows: integers, one a row; the values are checked by `as_names`."""
    array, _ = as_array(ids, "ids")
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids: dtype {array.dtype} is not supported; need integers")
    if array.shape != shape:
        raise ValueError(f"ids: shape {array.shape}; need one a row, shape {shape}")
    return array


def as_names(ids: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Names of the rows: int64, contiguous, flat."""
    if ids is None:
        return None
    array = ids_of(ids, shape)
    if array.dtype.kind == "u" and array.size and array.max() > INT64_MAX:
        raise ValueError(f"ids: {array.max()} does not fit in 64 bits with a sign")
    return np.ascontiguousarray(array, np.int64).reshape(-1)


def joined(mine: Rows, more: Rows, name: str) -> Rows:
    """The rows covered of the sources that `more` has: mine and those, none of which may be covered twice."""
    return {source: _inserted(mine.get(source, ()), ranges, name) for source, ranges in more.items()}


def _inserted(ranges: Sequence[tuple[int, int]], more: list[tuple[int, int]], name: str) -> list[tuple[int, int]]:
    """Sorted, disjoint ranges of rows with more of them, neighbours joined."""
    ranges = list(ranges)
    for low, high in more:
        k = bisect_left(ranges, (low, high))
        before = ranges[k - 1] if k > 0 else (-1, -1)
        after = ranges[k] if k < len(ranges) else (high + 1, high + 1)
        if low < before[1] or after[0] < high:
            first, last = (low, min(high, before[1])) if low < before[1] else (after[0], min(high, after[1]))
            raise ValueError(f"{name}: rows {first} to {last - 1} are covered already; a row must be scored once")
        joined = (before[0] if before[1] == low else low, after[1] if after[0] == high else high)
        ranges[k - (before[1] == low) : k + (after[0] == high)] = [joined]
    return ranges
