"""The sums of a Poisson bootstrap's replicates: what a score card keeps of its rows besides its tally."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fastxent.kernels import bootstrap as kernel
from fastxent.threads import current_threads, side_by_side

NO_POSITIONS = np.empty(0, np.int64)


class Replicates:
    """Whole numbers that merge in any order: counts of rows, and sums of figures by level (see the kernel).

    Parameters
    ----------
    n : int
        Replicates.
    seed : int
    top_k : tuple of int
        The k of top-k accuracy; none for soft targets.
    bins : int
        Bins of confidence; 1 for soft targets.
    weighted : bool
        Whether rows have weights.
    """

    def __init__(self, n: int, seed: int, top_k: tuple[int, ...], bins: int, weighted: bool) -> None:
        self.n, self.seed, self.bins, self.hard = n, seed, bins, bool(top_k)
        self.tops = np.array(sorted({1, *top_k}) if top_k else [], np.int64)
        self._wide = -(-n // kernel.STRIP) * kernel.STRIP
        self._n_sums = kernel.HITS + self.tops.size + bins
        self.weighted = weighted
        # Unless rows have weights: rows, those of infinite NLL, hits a k of top_k. With weights, the second alone.
        self.counts = np.zeros((2 + self.tops.size, self._wide), np.int64)
        self.levels: dict[int, np.ndarray] = {}  # int64[2, n_sums, wide]: low and high words

    def add(self, rows: Any, weights: np.ndarray, first_row: int, positions: np.ndarray = NO_POSITIONS) -> None:
        """Add the rows of a `ScoreRows`, the first of which has this position in the whole.

        With positions, int64[n], those decide what is drawn: rows of one cluster have that of the cluster.
        """
        n = rows.nll.size
        weighted = weights.size > 0
        n_counted = 1 if weighted else -(-self.counts.shape[0] // kernel.FIELDS)
        n_columns = n_counted + (kernel.HITS + self.tops.size if weighted else kernel.WEIGHT)
        pairs = np.empty(n if positions.size else n // 2 + 1, np.int64)
        columns = np.empty((-(-n_columns // 4) * 4, 2 * pairs.size))
        gaps, places = np.empty(2 * pairs.size), np.empty(2 * pairs.size, np.int64)
        given = tuple(rows), weights, self.hard, self.bins, self.tops, first_row, positions
        made = pairs, columns, gaps, places, n_counted
        level = kernel.LOWEST_LEVEL - 1 if weighted else 0
        seed = int(np.uint64(self.seed).astype(np.int64))
        strips, threads = self._wide // kernel.STRIP, current_threads()
        cuts = [strips * k // threads for k in range(threads + 1)]
        while level != kernel.NO_LEVEL:
            n_pairs, next_level = kernel.prepare(level, *given, *made)
            if n_pairs:
                low, high = self._level(level)
                work = (seed, pairs, n_pairs, columns, gaps, places, n_counted, self.counts, low, high)
                side_by_side([partial(kernel.replicate, *cut, *work) for cut in pairwise(cuts)])
            level = next_level

    def merge(self, other: "Replicates") -> None:
        """Add another one's rows; whether rows have weights agrees."""
        self.counts += other.counts
        for level, (low, high) in other.levels.items():
            self._add(level, low, high)

    def weigh(self) -> None:
        """Turn counts into sums of weights of 1.0."""
        if not self.weighted:
            self.weighted = True
            low, high = np.zeros((2, self._n_sums, self._wide), np.int64)
            for column, rows in zip(range(kernel.WEIGHT, kernel.HITS + self.tops.size), self.counts[[0, *self._hits]]):
                low[column] = rows << kernel.UNIT_BITS
            self._add(0, low, high)
            self.counts[[0, *self._hits]] = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps."""
        levels = sorted(self.levels)
        sums = [self.levels[level] for level in levels]
        return {
            "bootstrap_counts": self.counts,
            "bootstrap_levels": np.array(levels, np.int64),
            "bootstrap_sums": np.array(sums, np.int64).reshape(len(levels), 2, self._n_sums, self._wide),
        }

    def take(self, arrays: dict[str, np.ndarray]) -> None:
        """Take a file's arrays out of all that there are. ValueError where they are of other shapes."""
        expected, own = self.arrays(), {name: arrays.pop(name) for name in self.arrays()}
        counts, levels, sums = own.values()
        for name, array in own.items():
            if array.dtype != np.int64 or array.ndim != expected[name].ndim:
                raise ValueError(f"{name} is not what a bootstrap keeps")
        if counts.shape != self.counts.shape or sums.shape != (levels.size, 2, self._n_sums, self._wide):
            raise ValueError("the bootstrap's sums are not of its replicates")
        self.counts, self.levels = counts, dict(zip(levels.tolist(), sums))

    def rows(self) -> np.ndarray:
        """The weight of the rows that each replicate drew: float64[n]."""
        return self.column(kernel.WEIGHT) if self.weighted else self.counts[0, : self.n].astype(float)

    def infinite(self) -> np.ndarray:
        """How many rows of infinite NLL each replicate drew: int64[n]."""
        return self.counts[1, : self.n]

    def hits(self, k: int) -> np.ndarray:
        """The weight of the rows whose label's rank is below k: float64[n]."""
        t = int(np.flatnonzero(self.tops == k)[0])
        return self.column(kernel.HITS + t) if self.weighted else self.counts[2 + t, : self.n].astype(float)

    def gaps(self) -> np.ndarray:
        """For each bin, the sum of hit minus confidence: float64[bins, n]."""
        return np.stack([self.column(self._n_sums - self.bins + k) for k in range(self.bins)])

    def column(self, j: int) -> np.ndarray:
        """The sum of a column: float64[n]."""
        total = np.zeros(self.n)
        for level in sorted(self.levels):
            low, high = self.levels[level][:, j, : self.n].astype(float)
            total += (high * 2.0**32 + low) * 2.0 ** (kernel.LEVEL_BITS * level - kernel.UNIT_BITS)
        return total

    @property
    def _hits(self) -> range:
        return range(2, self.counts.shape[0])

    def _level(self, level: int) -> np.ndarray:
        if level not in self.levels:
            self.levels[level] = np.zeros((2, self._n_sums, self._wide), np.int64)
        return self.levels[level]

    def _add(self, level: int, low: np.ndarray, high: np.ndarray) -> None:
        mine = self._level(level)
        mine[0] += low
        mine[1] += high + (mine[0] >> 32)
        mine[0] &= kernel.WORD
