"""What a comparison's figures are, as values, as JSON and as text."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fastxent.comparing.frames import columns_of
from fastxent.report import notebook, plots
from fastxent.scoring.bootstrap import Bootstrap, Interval
from fastxent.scoring.frames import frame
from fastxent.scoring.result import Reliability, bits_of, plain
from fastxent.scoring.state import ARITHMETIC

SCHEMA = "fastxent.compare/1"
SHOWN_GROUPS = 10_000  # to_dict gives at most so many groups


class Difference(NamedTuple):
    """A mean difference, a's minus b's, and how far chance can have moved it."""

    value: float
    se: float  # standard error
    interval: tuple[float, float]  # 95 %
    t: float  # value / se
    dof: int  # degrees of freedom
    p_value: float  # of no difference, two-sided


class Outcomes(NamedTuple):
    """Rows, unweighted, by which loss is lower and by which of the models is right."""

    a_lower: int
    b_lower: int
    ties: int
    only_a_right: int | None  # None for distributions, as the following
    only_b_right: int | None
    both_right: int | None
    neither_right: int | None

    @property
    def n(self) -> int:
        """All rows."""
        return self.a_lower + self.b_lower + self.ties


class DifferenceTable(NamedTuple):
    """One entry a class, or a group of rows. Undefined figures (no row, or one) are NaN."""

    value: "list[int | str]"  # the class, or the group's name, in rising order: numbers, then strings
    n: np.ndarray  # int64[G]: rows
    weight: np.ndarray  # float64[G]: their weights' sum
    difference: np.ndarray  # float64[G]: mean NLL of a minus that of b, nats
    se: np.ndarray  # float64[G]: its standard error, of independent rows, or of independent clusters where given
    share: np.ndarray  # float64[G]: weight * difference / all rows' weight: these add up to the whole difference
    a_lower: np.ndarray  # int64[G]: rows where a's loss is lower
    b_lower: np.ndarray  # int64[G]
    accuracy_difference: np.ndarray | None  # float64[G]: a's minus b's; None for distributions

    def largest(self, most: int) -> np.ndarray:
        """The groups that move the whole difference most, by |share|: at most so many positions."""
        return np.argsort(-np.nan_to_num(np.abs(self.share), nan=-1.0, posinf=np.inf), kind="stable")[:most]


class DecidingRow(NamedTuple):
    """A row on which two models differ much."""

    id: int
    label: int | None  # None for distributions
    nll_a: float  # nats, unweighted
    nll_b: float


class Model(NamedTuple):
    """One of the models."""

    name: str
    rank: int  # by mean NLL: 1 is the lowest; the same for equal ones
    nll: float  # mean, nats
    accuracy: float | None  # None for distributions, as the following
    top_k_accuracy: dict[int, float] | None
    ece: float | None  # expected calibration error, as `Score` has it


class PairBootstrap(NamedTuple):
    """Two models' figures in the replicates of one bootstrap, which have the same rows for both.

    References
    ----------
    Efron, Tibshirani: An introduction to the bootstrap (1993), chapters 8 and 13: the percentile intervals of paired
    samples. Field, Welsh: Bootstrapping clustered data, J. Royal Stat. Soc. B (2007): whole clusters are drawn.
    """

    n: int  # replicates
    seed: int
    figures: dict[
        str, Interval
    ]  # by name, a's minus b's: nll, perplexity, accuracy, ...; perplexity_ratio is a's by b's
    of_a: Bootstrap
    of_b: Bootstrap

    @classmethod
    def between(cls, a: Bootstrap, b: Bootstrap) -> "PairBootstrap":
        """Of two models' own."""
        return cls(a.n, a.seed, a.difference(b), a, b)


@dataclasses.dataclass(frozen=True, eq=False)
class PairComparison:
    """Two of the models, a and b. Differences are a's minus b's: a negative one of NLL, or a positive one of accuracy,
    says that a is better.

    Attributes
    ----------
    a, b : str
        The models' names.
    nll : Difference
        Of mean NLL, nats. With weights s and d_i = fl(l_ai - l_bi), its value is m = sum s d / sum s, correctly rounded
        sums; its standard error sqrt(n / (n - 1) * sum s^2 (d - m)^2) / sum s, n - 1 degrees of freedom (n: rows with
        weight): without weights the paired t-test. With clusters see `Comparison`.
    accuracy : Difference or None
        The same of accuracy; None for distributions.
    outcomes : Outcomes
    mcnemar_p : float or None
        McNemar's exact test, that of the sign: of the rows that one model alone gets right, a fair coin would give a or
        b at least so many. Unweighted, rows as if independent.
    p_holm : float
        nll.p_value adjusted for all pairs of the comparison (Holm).
    classes : DifferenceTable or None
        By label.
    by : DifferenceTable or None
        By group of rows.
    decide_for_a, decide_for_b : tuple of DecidingRow
        The rows with the largest |l_a - l_b| where a's loss is lower, and where b's is; ties by lower id.
    bootstrap : PairBootstrap or None
        With `bootstrap`: standard errors and 95 % intervals of the differences of NLL, accuracies and calibration
        error, and of the perplexities' ratio.
    """

    a: str
    b: str
    nll: Difference
    accuracy: Difference | None
    outcomes: Outcomes
    mcnemar_p: float | None
    p_holm: float
    classes: DifferenceTable | None
    by: DifferenceTable | None
    decide_for_a: tuple[DecidingRow, ...]
    decide_for_b: tuple[DecidingRow, ...]
    bootstrap: PairBootstrap | None = None

    @property
    def won_by_a(self) -> float:
        """Share of rows whose loss is lower under a; NaN without rows."""
        return self.outcomes.a_lower / self.outcomes.n if self.outcomes.n else float("nan")

    @property
    def won_by_b(self) -> float:
        """The same of b."""
        return self.outcomes.b_lower / self.outcomes.n if self.outcomes.n else float("nan")

    def swapped(self) -> "PairComparison":
        """The same pair as b against a."""
        o = self.outcomes
        outcomes = Outcomes(o.b_lower, o.a_lower, o.ties, o.only_b_right, o.only_a_right, o.both_right, o.neither_right)
        rows = [
            tuple(row._replace(nll_a=row.nll_b, nll_b=row.nll_a) for row in some)
            for some in (self.decide_for_b, self.decide_for_a)
        ]
        return dataclasses.replace(
            self,
            a=self.b,
            b=self.a,
            nll=_negative(self.nll),
            accuracy=None if self.accuracy is None else _negative(self.accuracy),
            outcomes=outcomes,
            classes=None if self.classes is None else _swapped(self.classes),
            by=None if self.by is None else _swapped(self.by),
            decide_for_a=rows[0],
            decide_for_b=rows[1],
            bootstrap=self.bootstrap and PairBootstrap.between(self.bootstrap.of_b, self.bootstrap.of_a),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python objects; see `Comparison.to_dict`."""
        values = _values(self)
        for name in ("classes", "by"):
            if values[name] is not None:
                values[name] = _table(values[name])
        if self.bootstrap is not None:
            values["bootstrap"] = {name: getattr(self.bootstrap, name) for name in ("n", "seed", "figures")}
        values |= {"won_by_a": self.won_by_a, "won_by_b": self.won_by_b}
        result: dict[str, Any] = plain(values)
        return result


def _values(figures: Any) -> dict[str, Any]:
    """The attributes of a comparison, those of its pairs too."""
    values = {field.name: getattr(figures, field.name) for field in dataclasses.fields(figures)}
    return values | ({"pairs": [_values(pair) for pair in figures.pairs]} if "pairs" in values else {})


def _negative(x: Difference) -> Difference:
    low, high = x.interval
    return x._replace(value=0.0 - x.value, interval=(0.0 - high, 0.0 - low), t=0.0 - x.t)


def _swapped(x: DifferenceTable) -> DifferenceTable:
    return x._replace(
        difference=0.0 - x.difference,
        share=0.0 - x.share,
        a_lower=x.b_lower,
        b_lower=x.a_lower,
        accuracy_difference=None if x.accuracy_difference is None else 0.0 - x.accuracy_difference,
    )


def _table(table: DifferenceTable) -> dict[str, Any]:
    """The groups that move the difference most, in the table's order."""
    chosen = np.sort(table.largest(SHOWN_GROUPS))
    columns = {name: column for name, column in table._asdict().items() if name != "value"}
    shown = {name: None if column is None else column[chosen] for name, column in columns.items()}
    return {"n_groups": len(table.value), "value": [table.value[k] for k in chosen.tolist()], **shown}


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` and `Comparer.result` return. Means are weighted by sample_weight, where it was given.

    With clusters, the standard errors of the pairs' nll and accuracy are those of sums over clusters g,

        sqrt(G / (G - 1) * sum_g e_g^2) / sum s,  e_g = sum_{i in g} s_i (d_i - m),

    (CR1 of the regression of d on a constant; CR0 without the factor), with G - 1 degrees of freedom: rows of one
    cluster may depend on each other in any way. So are the tables', of the clusters' rows in a class or group.
    All other figures take rows as independent.

    Attributes
    ----------
    kinds : tuple of str
        What each model's predictions are.
    target : str
        "labels", "distributions", or "none" before the first row.
    n_classes : int
        0 before it is known.
    n, ignored, invalid : int
        Rows compared; rows skipped for their label; rows left out because a model's loss is NaN.
    weight : float
        The sum of the weights of the rows compared; n without weights.
    n_clusters : int or None
        Clusters with a row that has weight; None where none were given.
    models : tuple of Model
        In the order given.
    pairs : tuple of PairComparison
        Every two of them, in the order given.
    options : dict
        What was asked for.
    reliability : dict of Reliability or None
        Each model's rows by confidence, by the models' names; None for distributions.
    """

    kinds: tuple[str, ...]
    target: str
    n_classes: int
    n: int
    ignored: int
    invalid: int
    weight: float
    n_clusters: int | None
    models: tuple[Model, ...]
    pairs: tuple[PairComparison, ...]
    options: dict[str, Any]
    reliability: dict[str, Reliability] | None = None

    def __eq__(self, other: object) -> bool:
        """Whether every figure has the same bits (NaN equals NaN)."""
        return isinstance(other, Comparison) and bits_of(_values(self)) == bits_of(_values(other))

    def __hash__(self) -> int:
        return hash((self.n, self.models))

    def pair(self, a: str | None = None, b: str | None = None) -> PairComparison:
        """Two models by their names: a against b.

        Parameters
        ----------
        a, b : str, optional
            By default the only two; of more models the second best against the best.

        Returns
        -------
        PairComparison

        Raises
        ------
        ValueError
            For a name that no model has.

        Examples
        --------
        >>> import fastxent
        >>> both = fastxent.compare([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], [1, 1])
        >>> both.pair("B", "A").nll.value == -both.pair().nll.value
        True
        """
        if a is None and b is None:
            return self.pairs[0] if len(self.pairs) == 1 else self.against_best()[0]
        for pair in self.pairs:
            if {pair.a, pair.b} == {a, b}:
                return pair if pair.a == a else pair.swapped()
        raise ValueError(f"pair: {a!r}, {b!r}: need two of {', '.join(repr(model.name) for model in self.models)}")

    def against_best(self) -> tuple[PairComparison, ...]:
        """Every model against the one of lowest mean NLL (the first of several), by rank.

        The best is chosen by these rows. Its p_holm holds nevertheless, as it is adjusted for all pairs.

        Returns
        -------
        tuple of PairComparison
        """
        order = sorted(self.models, key=lambda model: model.rank)
        return tuple(self.pair(model.name, order[0].name) for model in order[1:])

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python objects that JSON can hold, under a fixed schema.

        Returns
        -------
        dict
            "schema" ("fastxent.compare/1"), "arithmetic" (a number that changes when bits may), then the attributes
            under their names. Numbers that are not finite are the strings "nan", "inf" and "-inf". "models" and "pairs"
            are lists of dicts with those classes' attributes; a table of groups has lists, of at most 10,000 groups,
            those that move the difference most, and "n_groups". A pair's "bootstrap": {"n", "seed", "figures": {name:
            {"value", "se", "low", "high", "bias"}}}, or None. "reliability": {name: lists by bin}, or None.

        Examples
        --------
        >>> import fastxent
        >>> both = fastxent.compare([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], [1, 1])
        >>> both.to_dict()["pairs"][0]["outcomes"]["a_lower"]
        1
        """
        values = _values(self) | {"pairs": [pair.to_dict() for pair in self.pairs]}
        result: dict[str, Any] = plain({"schema": SCHEMA, "arithmetic": ARITHMETIC, **values})
        return result

    def to_frame(self, table: str = "models", *, backend: str | None = None) -> Any:
        """One of the tables as a data frame.

        Parameters
        ----------
        table : str
            "models"; "pairs", a row for every two; "classes", "by" or "rows", of all pairs: where they differ, and the
            rows that decide; "bootstrap", a row for every figure of every two; "reliability", for every bin of a model.
        backend : {"pandas", "polars", "pyarrow"}, optional
            By default the first of them that was imported already, or that is installed.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table

        Raises
        ------
        ValueError
            For another table, or one that there is not.
        ImportError
            Where there is no such library.

        Examples
        --------
        >>> import fastxent
        >>> both = fastxent.compare([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], [1, 1])
        >>> both.to_frame(backend="pyarrow").column("rank").to_pylist()
        [1, 2]
        """
        return frame(columns_of(self, table), backend)

    def plot_reliability(self, ax: Any = None) -> Any:
        """Draw every model's accuracy by confidence, the best model's in front, by Matplotlib.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to; by default those of a new figure of pyplot's.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            For targets that are distributions.
        ImportError
            Where Matplotlib is missing.
        """
        if self.reliability is None:
            raise ValueError("plot_reliability: needs targets that are class indices")
        ax, worst_first = plots.axes_for(ax), sorted(self.models, key=lambda model: -model.rank)
        plots.reliabilities(ax, {model.name: self.reliability[model.name] for model in worst_first})
        return ax

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return notebook.comparison_html(self)

    def __str__(self) -> str:
        """A short table: the models by rank, then the pair, or every model against the best."""
        width = max([5, *(len(model.name) for model in self.models)])
        lines = [f"{'model':<{width}}  rank       NLL  accuracy"]
        for model in sorted(self.models, key=lambda m: m.rank):
            accuracy = "" if model.accuracy is None else f"{model.accuracy:.6f}"
            lines.append(f"{model.name:<{width}}  {model.rank:>4}  {model.nll:>8.6g}  {accuracy:>8}")
        for pair in self.pairs if len(self.pairs) == 1 else self.against_best():
            x = pair.nll
            low, high = x.interval
            lines.append(
                f"{pair.a} - {pair.b}: NLL {x.value:+.6g} nats (se {x.se:.2g}, 95 % {low:+.6g} to {high:+.6g}, "
                f"p {x.p_value:.2g})"
            )
            lines.append(f"rows won: {pair.a} {pair.won_by_a:.2%}, {pair.b} {pair.won_by_b:.2%}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.models)} models, {self.n:,} rows>\n{self}"
