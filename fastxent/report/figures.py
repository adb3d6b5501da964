"""A score card's single figures: name, value and interval, with as many digits as the error leaves."""

import math
from typing import TYPE_CHECKING, NamedTuple

from fastxent.intervals import NORMAL_95, wilson
from fastxent.report.text import count, counted, decimals_of, fixed, percent

if TYPE_CHECKING:
    from fastxent.scoring.result import Score

Interval = tuple[float, float]
UNKNOWN = math.nan, math.nan


class Figure(NamedTuple):
    """One figure as it is shown."""

    name: str
    value: str
    unit: str = ""
    interval: str = ""  # 95 %
    note: str = ""


def headline(score: "Score") -> list[Figure]:
    """The figures that come first."""
    return [_nll(score), perplexity(score), *(_main(score) if score.accuracy is not None else _soft(score))]


def others(score: "Score") -> list[Figure]:
    """The figures after those."""
    figures = [Figure("Log-likelihood", fixed(score.log_likelihood, 3), "nats", "", "sum over the rows")]
    for k, value in (score.top_k_accuracy or {}).items():
        if 1 < k < score.n_classes:
            figures.append(share(f"Top-{k} accuracy", value, interval_of(score, f"top_{k}_accuracy")))
    if score.accuracy is not None:
        figures += _soft(score)
    interval = interval_of(score, "confidence")
    figures.append(share("Mean confidence", score.confidence, interval, "probability of the top class"))
    if score.skill is not None:
        figures.append(Figure("Skill (D²)", fixed(score.skill), "", "", "0: as the classes' frequencies, 1: perfect"))
    if score.roc_auc is not None:
        within = fixed(score.roc_auc_resolution, 6)
        figures.append(Figure("ROC AUC", fixed(score.roc_auc, 5), "", "", f"within {within}, from a histogram"))
    if score.weight != score.n:
        figures.append(Figure("Weight", fixed(score.weight, 3), "", "", "sum over the rows"))
    return figures


def interval_of(score: "Score", name: str) -> Interval:
    """A figure's 95 % interval: of its formula where it has one, else of the bootstrap; NaN without either."""
    if name == "nll":
        return score.nll_interval
    if name == "accuracy" or name.startswith("top_"):
        k = 1 if name == "accuracy" else int(name.split("_")[1])
        hits = score.accuracy if k == 1 else (score.top_k_accuracy or {}).get(k)
        if hits is not None and score.weight == score.n:
            return wilson(hits, score.n)
    found = score.bootstrap.figures.get(name) if score.bootstrap is not None else None
    if found is not None:
        return found.low, found.high
    if name == "ece" and score.ece is not None:
        half = NORMAL_95 * score.ece_se
        return max(0.0, score.ece - half), score.ece + half
    return UNKNOWN


def measured(name: str, value: float, interval: Interval, unit: str = "", note: str = "", default: int = 5) -> Figure:
    """A number with the decimals that its interval leaves."""
    low, high = interval
    known = math.isfinite(low) and math.isfinite(high)
    decimals = decimals_of((high - low) / (2 * NORMAL_95)) if known and high > low else default
    text = f"{fixed(low, decimals)} to {fixed(high, decimals)}" if known and high > low else ""
    return Figure(name, fixed(value, decimals), unit, text, note)


def share(name: str, value: "float | None", interval: "Interval | None" = None, note: str = "") -> Figure:
    """A share of rows, as per cent."""
    low, high = interval or UNKNOWN
    if not (math.isfinite(low) and math.isfinite(high)):
        return Figure(name, percent(value), "", "", note)
    decimals = min(decimals_of(100 * (high - low) / (2 * NORMAL_95)), 4)
    text = f"{100 * low:.{decimals}f} to {percent(high, decimals)}"
    return Figure(name, percent(value, decimals), "", text, note)


def of_rows(score: "Score") -> str:
    """How many rows there are, and of what kind."""
    parts = [counted(score.n, "row"), counted(score.n_classes, "class", "classes"), score.kind.replace("_", "-")]
    parts += [f"{count(n)} {name}" for name, n in (("ignored", score.ignored), ("invalid", score.invalid)) if n]
    return " · ".join(parts)


def _nll(score: "Score") -> Figure:
    figure = measured("Mean NLL", score.nll, score.nll_interval, "nats")
    decimals = len(figure.value.partition(".")[2]) if math.isfinite(score.nll_bits) else 5
    return figure._replace(note=f"{fixed(score.nll_bits, min(decimals, 8))} bits")


def perplexity(score: "Score") -> Figure:
    """Of the mean NLL, its interval too."""
    low, high = score.nll_interval
    interval = (math.exp(low), math.exp(high)) if high < 700 else UNKNOWN
    return measured("Perplexity", score.perplexity, interval, "", "exp of the mean NLL")


def _main(score: "Score") -> list[Figure]:
    """What takes class indices."""
    accuracy = share("Accuracy", score.accuracy, interval_of(score, "accuracy"), "the top class is the label")
    ece = math.nan if score.ece is None else score.ece
    return [accuracy, measured("Calibration error", ece, interval_of(score, "ece"), "", "expected (ECE)")]


def _soft(score: "Score") -> list[Figure]:
    """What distributions have too."""
    brier = measured("Brier score", score.brier, interval_of(score, "brier"), "", "0 is perfect, 2 the worst")
    return [brier, measured("Mean entropy", score.entropy, interval_of(score, "entropy"), "nats", "of the predictions")]
