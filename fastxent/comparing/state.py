"""What the rows of a comparison add up to: for every pair of models exact sums, counts by group, and the rows that
differ most. Every part of it merges exactly and in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fastxent.comparing.calibration import Bins
from fastxent.kernels import differences as kernels
from fastxent.kernels.exactsum import COMPACT_SIZE, STATE_SIZE, exact_sum_merge
from fastxent.kernels.groups import BLOCK, SPILL_USED, group_values
from fastxent.scoring.groups import numbered
from fastxent.scoring.replicates import Replicates

MOST_GROUPS, MOST_CLUSTERS = 100_000, 10_000_000

CROSSED = {"classes": "classes of clusters", "by": "groups of clusters"}  # by table

NO_LABELS, NO_REALS = np.empty(0, np.int64), np.empty(0)


@dataclass(frozen=True)
class Options:
    """What a comparison is asked for: parts merge only where all of it agrees. See `fastxent.compare`."""

    names: tuple[str, ...]
    kind: tuple[str, ...]
    ignore_index: int | None
    eps: float
    normalize: bool
    sum_tol: float
    temperature: tuple[float, ...]
    worst: int
    invalid: str
    top_k: tuple[int, ...]
    bins: int
    bootstrap: int
    seed: int


class Rows(NamedTuple):
    """Rows that are kept, and what is known of them. K models."""

    losses: np.ndarray  # float64[K, n]
    confidences: np.ndarray  # float64[K, n]; float64[K, 0] for distributions, as the following
    ranks: np.ndarray  # float64[K, n], the label's: 0 where it is the first largest class
    weights: np.ndarray  # float64[n], or NO_REALS
    labels: np.ndarray  # int64[n], or NO_LABELS for distributions
    ids: np.ndarray  # int64[n], or NO_LABELS for first_id + i
    first_id: int
    codes: dict[str, np.ndarray]  # int64[n], each row's group, of every partition of a State


class Groups:
    """Counts and exact sums of the rows of each group, for one pair of models."""

    def __init__(self, n_groups: int, weighted: bool) -> None:
        self.n_groups, self.room, self._weighted = n_groups, n_groups, weighted
        columns = kernels.N_GROUP if weighted else kernels.N_GROUP_PLAIN
        self.outcomes = np.zeros((n_groups, kernels.N_OUTCOMES), np.int64)
        self._counts = np.zeros(SPILL_USED + 1, np.int64)
        self._slots = np.zeros((columns, n_groups, COMPACT_SIZE), np.int64)
        self._spill_index = np.zeros((columns, n_groups), np.int64)
        self._spill = np.zeros((0, STATE_SIZE), np.int64)

    def grow(self, n_groups: int) -> None:
        """Have so many groups, the new ones empty."""
        if n_groups > self.room:
            self.room = max(n_groups, 2 * self.room, 16)
            self.outcomes = _longer(self.outcomes, 0, self.room)
            self._slots, self._spill_index = (_longer(x, 1, self.room) for x in (self._slots, self._spill_index))
        self.n_groups = max(n_groups, self.n_groups)

    def add(self, codes: np.ndarray, pair: tuple[np.ndarray, ...], weights: np.ndarray, n: int) -> None:
        """Add n rows of a pair's losses and ranks."""
        start = 0
        while start < n:
            self._reserve(BLOCK * len(self._slots))
            start = kernels.fold_groups(codes, *pair, weights, start, n, self.outcomes, *self._sums())

    def merge(self, other: "Groups", codes: np.ndarray) -> None:
        """Add another one's groups, whose g-th is our codes[g]."""
        self._reserve(int(other._counts[SPILL_USED]))
        more = other.outcomes, *other._sums()[1:]
        kernels.merge_groups_as(codes, self.room, other.room, self.outcomes, *self._sums(), more)

    def values(self) -> np.ndarray:
        """The correctly rounded sums: float64[columns, groups]."""
        out = np.empty((len(self._slots), self.room))
        group_values(*self._sums()[1:], 0, out.reshape(-1))
        return out[:, : self.n_groups]

    def _sums(self) -> tuple[np.ndarray, ...]:
        return self._counts, self._slots.reshape(-1, COMPACT_SIZE), self._spill_index.reshape(-1), self._spill

    def _reserve(self, n: int) -> None:
        need = min(int(self._counts[SPILL_USED]) + n, self._spill_index.size)
        if need > len(self._spill):
            self._spill = _longer(self._spill, 0, min(max(need, 2 * len(self._spill)), self._spill_index.size))


class Pair:
    """What two models' losses add up to."""

    def __init__(self, n_classes: int, weighted: bool, worst: int, partitions: tuple[str, ...]) -> None:
        self.sums = np.zeros((kernels.N_SUMS, STATE_SIZE), np.int64)
        self.lists = np.zeros(2, np.int64), np.zeros((2, worst, 2)), np.zeros((2, worst, 2), np.int64)
        self.classes = Groups(n_classes, weighted)
        self.groups = {name: Groups(0, weighted) for name in partitions}

    def add(self, rows: Rows, pair: tuple[np.ndarray, ...], n: int) -> None:
        """Add n rows to everything but the groups by name."""
        given = rows.weights, rows.labels, rows.ids, rows.first_id, 0, n
        kernels.fold_rows(*pair, *given, self.sums, *self.lists)
        labels = rows.labels if rows.labels.size else np.zeros(n, np.int64)
        self.classes.add(labels, pair, rows.weights, n)

    def merge(self, other: "Pair", codes: dict[str, np.ndarray]) -> None:
        """Add another one's rows; codes: for each of its groups by name, which of ours it is."""
        for mine, more in zip(self.sums, other.sums):
            exact_sum_merge(mine, more)
        kernels.merge_lists(*self.lists, *other.lists)
        self.classes.merge(other.classes, np.arange(other.classes.n_groups))
        for name, mapped in codes.items():
            self.groups[name].merge(other.groups[name], mapped)


class State:
    """What the rows add up to.

    Attributes
    ----------
    options : Options
    n_classes : int
    hard, weighted : bool
        Whether the targets are class indices; whether rows have weights.
    n, ignored, invalid, positive : int
        Rows compared, left out for their label, left out for a NaN; rows compared whose weight is not 0.
    names : dict of dict
        For each partition of the rows, each group's number by its name: "by" and "cluster", where given, and, with
        clusters, CROSSED's, whose groups are rows of one cluster and one entry of a table: (cluster, entry).
    pairs : dict
        By the models' positions.
    bins : list of Bins
        Of each model; none for distributions.
    replicates : list of Replicates
        The bootstrap's sums of each model, where there is one.
    """

    def __init__(
        self, options: Options, n_classes: int, hard: bool, weighted: bool, partitions: tuple[str, ...]
    ) -> None:
        self.options, self.n_classes, self.hard, self.weighted = options, n_classes, hard, weighted
        self.n = self.ignored = self.invalid = self.positive = 0
        self.partitions = partitions
        tables = (*(["classes"] if hard else []), *(["by"] if "by" in partitions else []))
        crossed = [CROSSED[table] for table in tables if "cluster" in partitions]
        self.names: dict[str, dict[Any, int]] = {name: {} for name in (*partitions, *crossed)}
        kind = n_classes if hard else 1, weighted, options.worst, tuple(self.names)
        models = range(len(options.names))
        self.pairs = {places: Pair(*kind) for places in combinations(models, 2)}
        top_k, n_bins = (options.top_k, options.bins) if hard else ((), 1)
        self.bins = [Bins(n_bins, top_k, weighted) for _ in models if hard]
        drawn = options.bootstrap, options.seed, top_k, n_bins, weighted
        self.replicates = [Replicates(*drawn) for _ in models if options.bootstrap and n_classes]

    def facts(self) -> dict[str, Any]:
        """What kind of rows it is for."""
        kind = {"n_classes": self.n_classes, "hard": self.hard, "weighted": self.weighted}
        return kind | {"partitions": self.partitions}

    def twin(self) -> "State":
        """An empty state for the same kind of rows."""
        return State(self.options, **self.facts())

    def codes(self, given: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
        """Each row's group, of every partition."""
        numbers, names = {}, {}
        for name, values in given.items():
            numbers[name], firsts, _ = numbered(values, values.size)
            names[name] = values[firsts].tolist()
        for table, entries in {"classes": labels, **given}.items():
            if CROSSED.get(table) in self.names:
                own = labels if table == "classes" else numbers[table]
                both = numbers["cluster"] * (1 + int(own.max(initial=0))) + own
                numbers[CROSSED[table]], firsts, _ = numbered(both, both.size)
                names[CROSSED[table]] = list(zip(given["cluster"][firsts].tolist(), entries[firsts].tolist()))
        return {name: codes[numbers[name]] for name, codes in self._codes_of(names).items()}

    def _codes_of(self, groups: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """The groups of names in every partition, new ones among them; none of these where there are too many."""
        known, codes = {name: len(names) for name, names in self.names.items()}, {}
        for partition, values in groups.items():
            names, most = self.names[partition], MOST_GROUPS if partition == "by" else MOST_CLUSTERS
            codes[partition] = np.array([names.setdefault(name, len(names)) for name in values], np.int64)
            if len(names) > most:
                for name, some in self.names.items():
                    while len(some) > known[name]:
                        some.popitem()
                raise ValueError(f"{partition}: more than {most:,} different values")
        return codes

    def add(self, rows: Rows, ignored: int, invalid: int) -> None:
        """Add rows."""
        n = rows.losses.shape[1]
        self.n, self.ignored, self.invalid = self.n + n, self.ignored + ignored, self.invalid + invalid
        self.positive += int(np.count_nonzero(rows.weights)) if self.weighted else n
        for bins, confidences, ranks in zip(self.bins, rows.confidences, rows.ranks):
            bins.add(confidences, ranks, rows.weights)
        for (i, j), pair in self.pairs.items():
            given = rows.losses[i], rows.losses[j], rows.ranks[i], rows.ranks[j]
            pair.add(rows, given, n)
            for name, codes in rows.codes.items():
                pair.groups[name].grow(len(self.names[name]))
                pair.groups[name].add(codes, given, rows.weights, n)

    def merge(self, other: "State") -> None:
        """Add the rows of another one, which stays as it is."""
        mapped = self._codes_of({name: list(values) for name, values in other.names.items()})
        for places, pair in self.pairs.items():
            for name in mapped:
                pair.groups[name].grow(len(self.names[name]))
            pair.merge(other.pairs[places], mapped)
        for bins, more in zip(self.bins, other.bins):
            bins.merge(more)
        for replicates, drawn in zip(self.replicates, other.replicates):
            replicates.merge(drawn)
        for count in ("n", "ignored", "invalid", "positive"):
            setattr(self, count, getattr(self, count) + getattr(other, count))


def _longer(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The array with zeros up to ``size`` along an axis."""
    shape = list(array.shape)
    shape[axis] = size
    out = np.zeros(shape, array.dtype)
    out[tuple(slice(n) for n in array.shape)] = array
    return out
