"""How sure a model is and how often right: rows by confidence, from exact state to figures; top-k accuracies."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from fastxent.kernels import reliability as kernels
from fastxent.kernels.exactsum import (
    STATE_SIZE,
    exact_sum_merge,
    exact_sum_units,
    exact_sum_value,
)
from fastxent.scoring.result import Reliability

_LOW = (1 << kernels.UNIT_BITS) - 1


class Bins:
    """What one model's confidences and ranks add up to, which merges exactly and in any order."""

    def __init__(self, n_bins: int, top_k: tuple[int, ...], weighted: bool) -> None:
        self.tops, self._weighted = np.array(top_k, np.int64), weighted
        self._rows = np.zeros((n_bins, 2), np.int64)  # wrong, right
        self._units = np.zeros((2, n_bins), np.int64)  # the confidences' sums: low and high words, without weights
        self._top_rows = np.zeros(self.tops.size, np.int64)
        n_sums = kernels.N_SUMS * n_bins + self.tops.size if weighted else 0
        self._sums = np.zeros((n_sums, STATE_SIZE), np.int64)

    def add(self, confidences: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> None:
        """Add rows."""
        units = np.zeros(len(self._rows), np.int64)
        given = confidences, ranks, weights, self.tops, self._rows, units
        kernels.fold_confidences(*given, self._top_rows, self._sums)
        self._carry(units)

    def merge(self, other: "Bins") -> None:
        """Add another one's rows, for the same kind."""
        self._rows += other._rows
        self._top_rows += other._top_rows
        self._units[1] += other._units[1]
        self._carry(other._units[0])
        for mine, more in zip(self._sums, other._sums):
            exact_sum_merge(mine, more)

    def reliability(self) -> Reliability:
        """Accuracy by confidence."""
        n_bins, rows = len(self._rows), self._rows.sum(1)
        weight, hits = rows.astype(float), self._rows[:, 1].astype(float)
        total = np.array([float(Fraction(units, _LOW + 1)) for units in self._whole_units()])
        if self._weighted:
            values = [exact_sum_value(state) for state in self._bin_sums()]
            weight, hits, total = np.array(values).reshape(n_bins, kernels.N_SUMS).T
        with np.errstate(divide="ignore", invalid="ignore"):
            bins = Reliability(np.arange(n_bins + 1) / n_bins, rows, weight, hits / weight, total / weight)
        for column in bins:
            column.setflags(write=False)
        return bins

    def ece(self) -> float:
        """Expected calibration error: the sum of |hits - confidences| over bins / weight; NaN without weight."""
        if self._weighted:
            weights, hits, shares = np.reshape([exact_sum_units(x) for x in self._bin_sums()], (-1, kernels.N_SUMS)).T
            total, gaps = sum(weights.tolist()), sum(abs(h - c) for h, c in zip(hits.tolist(), shares.tolist()))
            return float(Fraction(gaps, total)) if total else float("nan")
        n = int(self._rows.sum())
        gaps = sum(abs((h << kernels.UNIT_BITS) - c) for h, c in zip(self._rows[:, 1].tolist(), self._whole_units()))
        return float(Fraction(gaps, n << kernels.UNIT_BITS)) if n else float("nan")

    def top_k_accuracy(self, weight: float) -> dict[int, float]:
        """For each k, the share of rows whose label is among the k largest."""
        hits: Sequence[float] = self._top_rows.tolist()
        if self._weighted:
            hits = [float(exact_sum_value(state)) for state in self._sums[len(self._sums) - self.tops.size :]]
        return {k: x / weight if weight > 0 else float("nan") for k, x in zip(self.tops.tolist(), hits)}

    def _bin_sums(self) -> np.ndarray:
        return self._sums[: kernels.N_SUMS * len(self._rows)]

    def _whole_units(self) -> list[int]:
        return [(high << kernels.UNIT_BITS) + low for low, high in self._units.T.tolist()]

    def _carry(self, units: np.ndarray) -> None:
        self._units[1] += (self._units[0] + units) >> kernels.UNIT_BITS
        self._units[0] = (self._units[0] + units) & _LOW
