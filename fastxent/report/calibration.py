"""The page of a calibration: what was fitted, and the figures before and after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastxent.intervals import NORMAL_95
from fastxent.report.figures import UNKNOWN, Figure, Interval, interval_of, measured, of_rows, perplexity, share
from fastxent.report.page import Column, Page, Run, Section, Table
from fastxent.report.score import class_names, nll_plot, reliability_plot
from fastxent.report.text import fixed, shown

if TYPE_CHECKING:
    from fastxent.fit import Calibration


def calibration_page(
    fitted: "dict[str, Any]", result: "Calibration", title: str, run: Run, names: "Sequence[str] | None" = None
) -> Page:
    """The report of a calibration.

    Parameters
    ----------
    fitted : dict
        What the calibrator's `to_dict` gives.
    result : Calibration
    title : str
        Such as the files' names.
    run : Run
        What was run.
    names : sequence of str, optional
        The classes' names; by default their numbers.
    """
    before, after = result.before, result.after
    headline = [_of_fit(fitted), *changes(result)]
    sections = [Section("Before and after", [], [_table(result)])]
    sides = (("before", before), ("after", after))
    if before.reliability is not None:
        sections.append(Section("Reliability", [reliability_plot(card, when) for when, card in sides]))
    sections.append(Section("Loss", [nll_plot(card, when) for when, card in sides]))
    if "scale" in fitted:
        columns = [Column("class"), Column("scale", fixed), Column("bias", fixed, "nats")]
        rows = list(zip(class_names(before, names), fitted["scale"], fitted["bias"]))
        sections.append(Section("Scales and biases", [], [Table(columns, rows)]))
    note = "After the calibration, under each figure its 95 % interval; both sides are of the same rows."
    return Page("calibrate", shown(title), of_rows(before), headline, [], sections, run, "", note)


def changes(result: "Calibration") -> list[Figure]:
    """The main figures after it, with those before as notes."""
    pairs = [("Mean NLL", result.nll, "nats"), ("Calibration error", result.ece, ""), ("Brier score", result.brier, "")]
    figures = []
    for name, pair, unit in pairs:
        if pair is not None:
            was, is_now = (measured(name, x.value, x.interval, unit) for x in pair)
            figures.append(is_now._replace(note=f"before: {was.value}, {was.interval}"))
    return figures


def _of_fit(fitted: "dict[str, Any]") -> Figure:
    if "temperature" in fitted:
        t, half = fitted["temperature"], NORMAL_95 * fitted["standard_error"]
        passes = f"logits are divided by it; {fitted['passes']} passes over the rows"
        return measured("Temperature", t, (t - half, t + half), "", passes)
    scales = f"{fixed(min(fitted['scale']), 3)} to {fixed(max(fitted['scale']), 3)}"
    return Figure("Scales", scales, "", "", f"and a bias a class; {fitted['passes']} passes over the rows")


def _table(result: "Calibration") -> Table:
    """Every figure on both sides."""
    before, after = result.before, result.after
    lines: list[tuple[str, list[Figure]]] = [("Mean NLL, nats", [_of(x.value, x.interval) for x in result.nll])]
    lines.append(("Perplexity", [perplexity(card) for card in (before, after)]))
    if result.ece is not None:
        lines.append(("Calibration error", [_of(x.value, x.interval) for x in result.ece]))
    lines.append(("Brier score", [_of(x.value, x.interval) for x in result.brier]))
    if before.accuracy is not None:
        lines.append(
            ("Accuracy", [share("", card.accuracy, interval_of(card, "accuracy")) for card in (before, after)])
        )
    lines.append(("Mean confidence", [share("", card.confidence) for card in (before, after)]))
    lines.append(("Mean entropy, nats", [_of(card.entropy) for card in (before, after)]))
    columns = [Column(name) for name in ("", "before", "95 %", "after", "95 % ")]
    rows = [(name, a.value, a.interval, b.value, b.interval) for name, (a, b) in lines]
    return Table(columns, rows)


def _of(value: float, interval: "Interval | None" = None) -> Figure:
    return measured("", value, interval or UNKNOWN, default=4)
