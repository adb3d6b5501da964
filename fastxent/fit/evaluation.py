"""Score cards before and after a calibration, from one pass, with the errors that calibration is judged by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.checks import Batch
from fastxent.fit.chunks import Data
from fastxent.intervals import NORMAL_95
from fastxent.kernels import batch as kernels
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_add_block, exact_sum_value
from fastxent.report import notebook, plots
from fastxent.scoring.bootstrap import Interval
from fastxent.scoring.frames import frame, row_of
from fastxent.scoring.result import Score, plain
from fastxent.scoring.scorer import Scorer

ROWS = 1 << 14  # whose Brier scores are made at once

Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Figure:
    """A figure with its standard error."""

    value: float
    se: float
    replicates: Interval | None = None  # of a bootstrap

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: of a bootstrap's percentiles, else of a normal distribution."""
        if self.replicates is not None:
            return self.replicates.low, self.replicates.high
        return self.value - NORMAL_95 * self.se, self.value + NORMAL_95 * self.se


@dataclass(frozen=True)
class Calibration:
    """The same rows before and after.

    Attributes
    ----------
    before, after : Score
        All figures of both.
    nll, brier, ece : tuple of Figure
        Before and after, each with its standard error: of means, sqrt(Σ s² (x - mean)²) / Σ s; of the expected
        calibration error, that of the bins' accuracies, sqrt(Σ w_b² a_b (1 - a_b) / n_b) / Σ w_b. ece is None for
        distributions as targets. With a bootstrap its figures are the replicates'.
    change : dict of Interval, or None
        With a bootstrap: after minus before, from the same replicates (see `Bootstrap.difference`).
    """

    before: Score
    after: Score
    nll: tuple[Figure, Figure]
    brier: tuple[Figure, Figure]
    ece: tuple[Figure, Figure] | None
    change: dict[str, Interval] | None = None

    def _rows(self) -> list[tuple[str, tuple[Figure, Figure]]]:
        rows = [("NLL", self.nll), ("calibration error", self.ece), ("Brier score", self.brier)]
        return [(name, pair) for name, pair in rows if pair is not None]

    def __str__(self) -> str:
        """A small table."""
        lines = [f"{self.before.n:,} rows".ljust(18) + "".join(f"{name:>24}" for name in ("before", "after"))]
        for name, pair in self._rows():
            lines.append(f"{name:<18}" + "".join(f"{f'{x.value:.6f} (se {x.se:.2g})':>24}" for x in pair))
            ends = (f"{low:.4g} to {high:.4g}" for low, high in (x.interval for x in pair))
            lines.append(f"{'  95 %':<18}" + "".join(f"{text:>24}" for text in ends))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Both score cards and the errors as plain Python objects that JSON can hold.

        Returns
        -------
        dict
            "before" and "after": each what `Score.to_dict` returns, with "brier_se" and "ece_se" (None without ece).
            "change": {name: {"value", "se", "low", "high", "bias"}} of a bootstrap, or None.
        """
        sides = []
        for k, card in enumerate((self.before, self.after)):
            errors = {"brier_se": self.brier[k].se, "ece_se": None if self.ece is None else self.ece[k].se}
            sides.append(card.to_dict() | {n: str(e) if e is not None and e != e else e for n, e in errors.items()})
        return {"before": sides[0], "after": sides[1], "change": plain(self.change)}

    def to_frame(self, *, backend: str | None = None) -> Any:
        """The figures before and after as two rows of a data frame; see `Score.to_frame`.

        Parameters
        ----------
        backend : {"pandas", "polars", "pyarrow"}, optional
            By default the first of them that was imported already, or that is installed.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table
        """
        rows = [{"side": side, **row_of(card)} for side, card in (("before", self.before), ("after", self.after))]
        for k, row in enumerate(rows):
            row |= {"brier_se": self.brier[k].se, "ece_se": None if self.ece is None else self.ece[k].se}
        return frame({name: [row[name] for row in rows] for name in rows[0]}, backend)

    def plot_reliability(self, ax: Any = None) -> Any:
        """Draw accuracy by confidence, before and after, by Matplotlib; see `Score.plot_reliability`."""
        before, after = self.before.reliability, self.after.reliability
        if before is None or after is None:
            raise ValueError("plot_reliability: needs targets that are class indices")
        ax = plots.axes_for(ax)
        plots.reliabilities(ax, {"before": before, "after": after})
        return ax

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return notebook.calibration_html(self)


class _Side:
    """A score card in the making, with sums for the Brier score's error."""

    def __init__(self, temperature: float, transform: Transform | None, options: dict[str, Any]) -> None:
        self.options, self.temperature, self.transform = options, temperature, transform
        self.scorer: Scorer | None = None
        self.sums = np.zeros((3, STATE_SIZE), np.int64)  # Σ s², Σ s² b and Σ s² b²

    def add(self, batch: Batch) -> None:
        """Add the rows of a chunk."""
        logits = checks.array_of(batch.predictions)
        target = batch.target if batch.is_hard else checks.array_of(batch.target)
        if self.transform is not None:
            logits = self.transform(logits)
        ignore_index = batch.ignore_index if batch.has_ignore else None
        self.scorer = self.scorer or Scorer(ignore_index=ignore_index, temperature=self.temperature, **self.options)
        self.scorer.update(logits, target, sample_weight=batch.sample_weight)
        batch = checks.as_batch("logits", logits, target, -1, None, batch.sample_weight, ignore_index)
        for start, stop, z, t, s in batch.slices(ROWS):
            n = stop - start
            rows = kernels.ScoreRows(*(np.empty(n) for _ in range(4)), *(np.empty(n, np.int64) for _ in range(2)))
            numbers = 0.0, False, 1e-3, self.temperature
            if batch.is_hard:
                kernels.score_call(0, z, t, batch.has_ignore, batch.ignore_index, *numbers).run(rows)
            else:
                kernels.score_call_soft(0, z, t, *numbers).run(rows)
            weight = np.where(rows.rank < 0, 0.0, s if s.size else 1.0)
            for state, power in zip(self.sums, range(3)):
                exact_sum_add_block(state, weight**2 * rows.brier**power, n)

    def brier(self, card: Score) -> Figure:
        """The Brier score with its standard error."""
        squares, linear, quadratic = (float(exact_sum_value(state)) for state in self.sums)
        spread = quadratic - card.brier * (2.0 * linear - card.brier * squares)
        return Figure(card.brier, math.sqrt(max(spread, 0.0)) / card.weight if card.weight > 0 else math.nan)


def evaluate(
    data: Data, temperature: float = 1.0, transform: Transform | None = None, bootstrap: int = 0, seed: int = 0
) -> Calibration:
    """Score the rows as they are, and with a temperature or transformed, in one pass."""
    options = {"bootstrap": bootstrap, "seed": seed}
    sides = _Side(1.0, None, options), _Side(temperature, transform, options)

    def add(batch: Batch) -> None:
        for side in sides:
            side.add(batch)

    data.go_through(add)
    if any(side.scorer is None for side in sides):
        raise ValueError("logits: no rows")
    before, after = (side.scorer.result() for side in sides if side.scorer is not None)
    brier = sides[0].brier(before), sides[1].brier(after)
    nll = Figure(before.nll, before.nll_se), Figure(after.nll, after.nll_se)
    change = None
    if before.bootstrap is not None and after.bootstrap is not None:
        change = after.bootstrap.difference(before.bootstrap)
    ece = None if before.ece is None or after.ece is None else (_ece(before, before.ece), _ece(after, after.ece))
    return Calibration(before, after, nll, brier, ece, change)


def _ece(card: Score, ece: float) -> Figure:
    """The calibration error, with a bootstrap's standard error and interval where there is one."""
    if card.bootstrap is None:
        return Figure(ece, card.ece_se)
    spread = card.bootstrap.figures["ece"]
    return Figure(ece, spread.se, spread)
