"""What a score card's figures are, as values, as JSON and as text."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastxent.intervals import wilson
from fastxent.report import notebook, plots
from fastxent.scoring.bootstrap import Bootstrap
from fastxent.scoring.frames import columns_of, frame
from fastxent.scoring.state import ARITHMETIC

SCHEMA = "fastxent.score/1"
SHOWN_PAIRS = 10_000  # to_dict gives at most so many confusion counts


class Reliability(NamedTuple):
    """Rows by confidence: bin k holds edges[k] < confidence <= edges[k + 1], the first one 0 too; an empty one NaN."""

    edges: np.ndarray  # float64[bins + 1]
    n: np.ndarray  # int64[bins]: rows
    weight: np.ndarray  # float64[bins]: their weights' sum
    accuracy: np.ndarray  # float64[bins]
    confidence: np.ndarray  # float64[bins]: mean


class Histogram(NamedTuple):
    """Rows by NLL (nats), unweighted; bin k holds edges[k] <= NLL < edges[k + 1], the last one NLL = inf."""

    edges: np.ndarray  # float64[111]: 0, then 2^k (1, 1.25, 1.5, 1.75) for k = -20 .. 6, then 128, inf, inf
    n: np.ndarray  # int64[110]


class Confusion(NamedTuple):
    """Rows by label and prediction, unweighted: the pairs that occur, sorted by label, then predicted."""

    label: np.ndarray  # int64[pairs]
    predicted: np.ndarray  # int64[pairs]
    n: np.ndarray  # int64[pairs]


class ClassTable(NamedTuple):
    """One entry a class. Undefined figures (no row of the class, or none predicted as it) are NaN."""

    n: np.ndarray  # int64[C]: rows with this label
    weight: np.ndarray  # float64[C]: their weights' sum
    nll: np.ndarray  # float64[C]: mean, nats
    accuracy: np.ndarray  # float64[C]: of the rows with this label, the share predicted right
    precision: np.ndarray  # float64[C]: of the rows predicted as this class, the share that has this label
    recall: np.ndarray  # float64[C]: the same as accuracy
    f1: np.ndarray  # float64[C]: 2 hits / (rows with this label + rows predicted as this class)


class WorstRow(NamedTuple):
    """A row with a large NLL."""

    id: int
    label: int | None  # None for soft targets
    nll: float  # nats, unweighted


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """What `score` and `Scorer.result` return. Means are weighted by sample_weight, where it was given.

    With soft targets (distributions) the figures that need a class index are None. Without any kept row the means
    are NaN.

    Attributes
    ----------
    kind : str
        "logits", "log_probs" or "probs".
    target : str
        "labels", "distributions", or "none" before the first row.
    n_classes : int
        C; 0 before it is known.
    n, ignored, invalid : int
        Rows scored; rows skipped for their label; rows with NaN or +inf, or all -inf, left out of everything else.
    weight : float
        The sum of the weights of the scored rows; n without weights.
    nll, nll_bits : float
        Mean negative log-likelihood (cross-entropy) in nats and in bits.
    nll_se : float
        Its standard error, sqrt(sum s^2 (l - mean)^2) / sum s, from an exact variance. NaN if any NLL is infinite.
    nll_interval : tuple of float
        nll -/+ 1.96 nll_se: the 95 % interval of a normal distribution.
    log_likelihood : float
        -sum of s l, nats, correctly rounded.
    perplexity : float
        exp(nll).
    brier : float
        Mean of sum_k (q_k - p_k)^2, from 0 to 2.
    entropy : float
        Mean entropy of the predictions, nats.
    confidence : float
        Mean of the largest probability.
    accuracy : float or None
        Share of rows whose label has rank 0: the first of the largest predictions, as NumPy's argmax has it.
    top_k_accuracy : dict or None
        For each k, the share of rows whose label is among the k largest.
    ece : float or None
        Expected calibration error: sum over bins of |hits - confidences| / weight.
    skill : float or None
        D^2: 1 - nll / (the NLL of predicting each class with its frequency among the labels).
    roc_auc : float or None
        Two classes: the area under the ROC curve of class 1, from a histogram of the probabilities with steps of
        2^-11 of the smaller one, down to 2^-33.
    roc_auc_resolution : float or None
        The most by which that histogram can have moved roc_auc, either way.
    reliability : Reliability or None
    nll_histogram : Histogram
    confusion : Confusion or None
    classes : ClassTable or None
    worst : tuple of WorstRow
        The rows with the largest NLL, largest first; ties by lower id.
    options : dict
        What was asked for.
    groups : mapping or None
        With `by`: the Score of each group's rows, by the group's name; its `table()` has the main figures of all.
    bootstrap : Bootstrap or None
        With `bootstrap`: standard errors and 95 % intervals of the figures, and their replicates.
    """

    kind: str
    target: str
    n_classes: int
    n: int
    ignored: int
    invalid: int
    weight: float
    nll: float
    nll_bits: float
    nll_se: float
    nll_interval: tuple[float, float]
    log_likelihood: float
    perplexity: float
    brier: float
    entropy: float
    confidence: float
    accuracy: float | None
    top_k_accuracy: dict[int, float] | None
    ece: float | None
    skill: float | None
    roc_auc: float | None
    roc_auc_resolution: float | None
    reliability: Reliability | None
    nll_histogram: Histogram
    confusion: Confusion | None
    classes: ClassTable | None
    worst: tuple[WorstRow, ...]
    options: dict[str, Any]
    groups: "Mapping[int | str, Score] | None" = None
    bootstrap: Bootstrap | None = None

    def __eq__(self, other: object) -> bool:
        """Whether every figure has the same bits (NaN equals NaN)."""
        return isinstance(other, Score) and bits_of(self._values()) == bits_of(other._values())

    def __hash__(self) -> int:
        return hash((self.n, self.nll))

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the accuracy; None for distributions and with weights."""
        return None if self.accuracy is None or self.weight != self.n else wilson(self.accuracy, self.n)

    @property
    def ece_se(self) -> float:
        """The standard error that the bins' accuracies give `ece`: sqrt(sum w_b^2 a_b (1 - a_b) / n_b) / sum w_b."""
        if self.reliability is None:
            return math.nan
        bins = self.reliability
        here = bins.n > 0
        accuracy, share = bins.accuracy[here], bins.weight[here] / self.weight
        return float(np.sqrt((share**2 * accuracy * (1.0 - accuracy) / bins.n[here]).sum()))

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _numbers(self) -> dict[str, Any]:
        """The figures that are one number, and those of top_k."""
        return {
            name: value
            for name, value in self._values().items()
            if isinstance(value, (int, float)) or name == "top_k_accuracy"
        }

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python objects that JSON can hold, under a fixed schema.

        Returns
        -------
        dict
            "schema" ("fastxent.score/1"), "arithmetic" (a number that changes when bits may), then the attributes
            under their names. Numbers that are not finite are the strings "nan", "inf" and "-inf".
            "top_k_accuracy": {"1": ..., "5": ...}. "reliability": {"edges", "n", "weight", "accuracy", "confidence"},
            "nll_histogram": {"edges", "n"} and "classes": {"n", "weight", "nll", "accuracy", "precision", "recall",
            "f1"} hold lists. "confusion": {"n_pairs": how many pairs occur, "label", "predicted", "n": lists}, the
            10,000 pairs with the most rows when there are more. "worst": a list of {"id", "label", "nll"}. "groups": a
            list of {"value": the group's name, and those attributes of its card that are numbers}, or None.
            "bootstrap": {"n", "seed", "figures": {name: {"value", "se", "low", "high", "bias"}}}, or None.

        Examples
        --------
        >>> from fastxent import score
        >>> score([[2.0, 0.0], [0.0, 1.0]], [0, 1]).to_dict()["accuracy"]
        1.0
        """
        values = self._values()
        if self.confusion is not None:
            pairs = self.confusion
            most = np.sort(np.argsort(-pairs.n, kind="stable")[:SHOWN_PAIRS])
            values["confusion"] = {"n_pairs": pairs.n.size, **{k: v[most] for k, v in pairs._asdict().items()}}
        if self.groups is not None:
            values["groups"] = [{"value": value, **card._numbers()} for value, card in self.groups.items()]
        if self.bootstrap is not None:
            values["bootstrap"] = {name: getattr(self.bootstrap, name) for name in ("n", "seed", "figures")}
        return plain({"schema": SCHEMA, "arithmetic": ARITHMETIC, **values})

    def to_frame(self, table: str = "figures", *, backend: str | None = None) -> Any:
        """One of the tables as a data frame.

        Parameters
        ----------
        table : str
            "figures": one row of the figures that are numbers, so that those of many models go under each other;
            "groups": such a row for every group; "classes", "reliability", "nll_histogram" (bins by `low` and `high`),
            "confusion", "worst".
        backend : {"pandas", "polars", "pyarrow"}, optional
            By default the first of them that was imported already, or that is installed.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table

        Raises
        ------
        ValueError
            Where there is no such table.
        ImportError
            Where none of the libraries is installed.

        Examples
        --------
        >>> import numpy as np, fastxent
        >>> card = fastxent.score(np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), [0, 1, 1])
        >>> card.to_frame("classes", backend="pyarrow").column("recall").to_pylist()
        [1.0, 0.5]
        """
        return frame(columns_of(self, table), backend)

    def plot_reliability(self, ax: Any = None) -> Any:
        """Draw accuracy by confidence, with 95 % intervals, by Matplotlib.

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
        ax = plots.axes_for(ax)
        plots.reliability(ax, self)
        return ax

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return notebook.score_html(self)

    def __str__(self) -> str:
        """A short table."""
        rows = [("rows", f"{self.n:,}")]
        rows += [(name, f"{n:,}") for name, n in (("ignored", self.ignored), ("invalid", self.invalid)) if n]
        if self.weight != self.n:
            rows.append(("weight", f"{self.weight:.6g}"))
        low, high = self.nll_interval
        rows += [
            ("NLL", f"{self.nll:.6g} nats  (se {self.nll_se:.2g}, 95 % {low:.6g} to {high:.6g})"),
            ("", f"{self.nll_bits:.6g} bits"),
            ("log-likelihood", f"{self.log_likelihood:.8g} nats"),
            ("perplexity", f"{self.perplexity:.6g}"),
        ]
        shares = [("accuracy", self.accuracy)]
        shares += [(f"top-{k} accuracy", v) for k, v in (self.top_k_accuracy or {}).items() if k != 1]
        shares += [
            ("Brier score", self.brier),
            ("mean entropy", self.entropy),
            ("mean confidence", self.confidence),
            ("calibration error", self.ece),
            ("skill (D2)", self.skill),
        ]
        rows += [(name, f"{value:.6g}") for name, value in shares if value is not None]
        if self.roc_auc is not None:
            rows.append(("ROC AUC", f"{self.roc_auc:.6g}  (within {self.roc_auc_resolution:.1g})"))
        if self.groups is not None:
            rows.append(("groups", f"{len(self.groups):,}"))
        if self.worst:
            row = self.worst[0]
            label = "" if row.label is None else f", label {row.label}"
            rows.append(("worst row", f"{row.id}  ({row.nll:.6g} nats{label})"))
        return "\n".join(f"{name:<18}{value}" for name, value in rows)

    def __repr__(self) -> str:
        return f"<Score of {self.n:,} rows>\n{self}"


def plain(value: Any) -> Any:
    """Plain Python objects that JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


def bits_of(value: Any) -> Any:
    """Something that compares equal only for the same bits."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return [(k, bits_of(v)) for k, v in value.items()]
    if isinstance(value, Score):
        return bits_of(value._values())
    return [bits_of(v) for v in value] if isinstance(value, (tuple, list)) else value
