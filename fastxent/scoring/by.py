"""The score cards of groups of rows, made when they are looked at."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fastxent.kernels import scorecard as card
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_value
from fastxent.scoring.figures import summarise
from fastxent.scoring.groups import Groups, Value
from fastxent.scoring.result import Score


class GroupTable(NamedTuple):
    """One entry a group, by rising name. Means are NaN in a group without a kept row."""

    value: list[Value]
    n: np.ndarray  # int64[G]: rows scored
    weight: np.ndarray  # float64[G]: the sum of their weights; n without weights
    nll: np.ndarray  # float64[G]: mean, nats
    accuracy: np.ndarray | None  # float64[G]; None for distributions


class GroupScores(Mapping[Value, Score]):
    """The score card of every group by its name, in rising order: numbers, then strings.

    Examples
    --------
    >>> import fastxent
    >>> card = fastxent.score([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [0, 1, 1], by=["b", "a", "b"])
    >>> list(card.groups), card.groups["b"].n, card.groups["b"].accuracy
    (['a', 'b'], 2, 0.5)
    """

    def __init__(self, groups: Groups) -> None:
        self._layout = groups.layout
        packed = {value: (places.copy(), values.copy()) for value, places, values in groups.packed()}
        self._packed = {value: packed[value] for value in sorted(packed, key=lambda v: (isinstance(v, str), v))}

    def __getitem__(self, value: Value) -> Score:
        return summarise(self._layout.unpacked(*self._packed[value]))

    def __iter__(self) -> Iterator[Value]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __repr__(self) -> str:
        return f"<score cards of {len(self):,} groups>"

    def table(self) -> GroupTable:
        """The main figures of all groups at once: quicker than their cards one by one.

        Returns
        -------
        GroupTable

        Examples
        --------
        >>> import fastxent
        >>> fastxent.score([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [0, 1, 1], by=[7, 3, 7]).groups.table().n
        array([1, 2])
        """
        layout = self._layout
        counts, rows, sums = (layout.places[name][0] for name in ("counts", "bin_rows", "sums"))
        weighted, hard, n_bins = layout.state.weighted, layout.state.hard, layout.state.options.bins
        n = self._words(counts + card.KEPT, 1)[:, 0]
        weight = self._sums(sums, card.S) if weighted else n.astype(float)
        hits = self._words(rows, 2 * n_bins)[:, 1::2].sum(1).astype(float)
        if weighted:
            hits = self._sums(sums, card.HITS)
        with np.errstate(divide="ignore", invalid="ignore"):
            nll, accuracy = self._sums(sums, card.R) / weight, hits / weight
        return GroupTable(list(self), n, weight, nll, accuracy if hard else None)

    def _words(self, first: int, count: int) -> np.ndarray:
        """Some neighbouring words of every group's tally."""
        out = np.zeros((len(self), count), np.int64)
        for line, (places, values) in zip(out, self._packed.values()):
            here = (places >= first) & (places < first + count)
            line[places[here] - first] = values[here]
        return out

    def _sums(self, first: int, column: int) -> np.ndarray:
        """One exact sum of every group, rounded."""
        return np.array([exact_sum_value(s) for s in self._words(first + column * STATE_SIZE, STATE_SIZE)])
