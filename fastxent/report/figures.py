"""A score card's single figures: name, value and interval, with as many digits as the error leaves."""

import math
from typing import TYPE_CHECKING, NamedTuple

from fastxent.intervals import NORMAL_95, wilson
from fastxent.report.text import MISSING, count, decimals_of, fixed, percent

if TYPE_CHECKING:
    from fastxent.score_result import Score


class Figure(NamedTuple):
    """One figure as it is shown."""

    name: str
    value: str
    unit: str = ""
    interval: str = ""  # 95 %
    note: str = ""


def headline(score: "Score") -> list[Figure]:
    """The figures that come first."""
    low, high = score.nll_interval
    decimals = decimals_of(score.nll_se)
    bits = f"negative log-likelihood; {fixed(score.nll_bits, decimals)} bits" if score.n else ""
    figures = [
        Figure("Mean NLL", fixed(score.nll, decimals), "nats", _range(low, high, decimals), bits),
        _perplexity(score, low, high),
    ]
    if score.accuracy is not None:
        figures.append(share("Accuracy", score.accuracy, score.accuracy_interval, "the top class is the label"))
        figures.append(_calibration_error(score))
    else:
        figures.append(Figure("Brier score", fixed(score.brier, 5), "", "", "0 is perfect, 2 the worst"))
        figures.append(Figure("Mean entropy", fixed(score.entropy, 5), "nats", "", "of the predictions"))
    return figures


def others(score: "Score") -> list[Figure]:
    """The figures after those."""
    figures = [Figure("Log-likelihood", fixed(score.log_likelihood, 3), "nats", "", "sum over the rows")]
    figures += [
        share(f"Top-{k} accuracy", value, _wilson_of(score, value))
        for k, value in (score.top_k_accuracy or {}).items()
        if k != 1 and k < score.n_classes
    ]
    if score.accuracy is not None:
        figures.append(Figure("Brier score", fixed(score.brier, 5), "", "", "0 is perfect, 2 the worst"))
        figures.append(Figure("Mean entropy", fixed(score.entropy, 5), "nats", "", "of the predictions"))
    figures.append(Figure("Mean confidence", percent(score.confidence), "", "", "probability of the top class"))
    if score.skill is not None:
        figures.append(
            Figure("Skill (D²)", fixed(score.skill, 4), "", "", "0: as the classes' frequencies, 1: perfect")
        )
    if score.roc_auc is not None:
        within = fixed(score.roc_auc_resolution, 6)
        figures.append(Figure("ROC AUC", fixed(score.roc_auc, 5), "", "", f"within {within}, from a histogram"))
    if score.weight != score.n:
        figures.append(Figure("Weight", fixed(score.weight, 3), "", "", "sum over the rows"))
    return figures


def share(name: str, value: "float | None", interval: "tuple[float, float] | None", note: str = "") -> Figure:
    """A share of rows, as per cent."""
    if interval is None or value is None or not math.isfinite(interval[0]):
        return Figure(name, percent(value), "", "", note)
    low, high = interval
    decimals = min(decimals_of(50 * (high - low)), 4)
    text = f"{100 * low:.{decimals}f} to {percent(high, decimals)}"
    return Figure(name, percent(value, decimals), "", text, note)


def of_rows(score: "Score") -> str:
    """How many rows there are, and of what kind."""
    parts = [f"{count(score.n)} row{'' if score.n == 1 else 's'}"]
    parts.append(f"{count(score.n_classes)} class{'' if score.n_classes == 1 else 'es'}")
    parts.append(score.kind.replace("_", "-"))
    parts += [f"{count(n)} {name}" for name, n in (("ignored", score.ignored), ("invalid", score.invalid)) if n]
    return " · ".join(parts)


def _perplexity(score: "Score", low: float, high: float) -> Figure:
    with_error = math.isfinite(low) and math.isfinite(high) and high < 700
    low, high = (math.exp(low), math.exp(high)) if with_error else (math.nan, math.nan)
    decimals = decimals_of((high - low) / 2)
    return Figure("Perplexity", fixed(score.perplexity, decimals), "", _range(low, high, decimals), "exp of the mean")


def _calibration_error(score: "Score") -> Figure:
    if score.ece is None:
        return Figure("Calibration error", MISSING)
    half = NORMAL_95 * score.ece_se
    decimals = decimals_of(half)
    interval = _range(max(0.0, score.ece - half), score.ece + half, decimals)
    gap = "expected (ECE)"
    return Figure("Calibration error", fixed(score.ece, decimals), "", interval, gap)


def _wilson_of(score: "Score", value: float) -> "tuple[float, float] | None":
    return wilson(value, score.n) if score.weight == score.n else None


def _range(low: float, high: float, decimals: int) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"
