"""The page of a score card."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.report import plots
from fastxent.report.figures import headline, of_rows, others
from fastxent.report.images import Drawing
from fastxent.report.page import Column, Page, Plot, Run, Section, Table
from fastxent.report.text import count, counted, fixed, percent, shown

if TYPE_CHECKING:
    from fastxent.scoring.result import Score

MOST_CLASSES = 2000  # lines of the table of classes
MOST_GROUPS = 1000
MOST_PAIRS = 25


def score_page(score: "Score", title: str, run: Run, names: "Sequence[str] | None" = None) -> Page:
    """The report of a score card.

    Parameters
    ----------
    score : Score
    title : str
        Such as the files' names.
    run : Run
        What was run.
    names : sequence of str, optional
        The classes' names; by default their numbers.
    """
    names = class_names(score, names)
    sections = []
    if score.n:
        sections += [_loss(score)]
        sections += [_classes(score, names), _confusion(score, names)] if score.classes is not None else []
        sections += [_groups(score)] if score.groups is not None else []
        sections += [_worst(score, names)] if score.worst else []
    notice = ""
    if not score.weight > 0:
        notice = "No row was scored, so that there are no figures."
    elif score.accuracy is None:
        notice = "The target holds distributions: what needs one class a row, such as accuracy, is not defined."
    note = "NLL is the negative log-likelihood. Under each figure its 95 % interval, where there is one."
    if score.bootstrap is not None:
        note = f"{note} Where it has no formula it is that of {count(score.bootstrap.n)} bootstrap replicates."
    if score.invalid:
        notice += f" {counted(score.invalid, 'row')} with NaN or +inf, or nothing but -inf: counted and left out."
    figures = headline(score), others(score)
    return Page("score", shown(title), of_rows(score), *figures, sections, run, notice.strip(), note)


def class_names(score: "Score", names: "Sequence[str] | None") -> list[str]:
    """What the classes are called on the page."""
    return [str(k) for k in range(score.n_classes)] if names is None else [shown(name) for name in names]


def reliability_plot(score: "Score", when: str = "") -> Plot:
    """The reliability diagram with counts; ``when`` tells it from another one on the page."""

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, height_ratios=(3.2, 1))
        plots.reliability(above, score, below)

    intervals = "95 % intervals as lines; " if score.weight == score.n else ""
    caption = f"Accuracy by confidence; {intervals}the gap to the diagonal in orange. Below, the rows of each bin."
    drawing = Drawing(_joined("reliability", when), "Reliability diagram: accuracy by confidence", draw, 290)
    return Plot(drawing, f"Reliability, {when}" if when else "Reliability", caption)


def nll_plot(score: "Score", when: str = "") -> Plot:
    """The distribution of NLL."""

    def draw(figure: Any) -> None:
        plots.nll_histogram(figure.subplots(), score)

    n = score.nll_histogram.n
    caption = "Shares of the rows by their NLL, four bins to each doubling"
    caption += "." if n[-2] or n[-1] else "; the line shows which part of the whole loss they make."
    drawing = Drawing(_joined("nll", when), "Histogram of the rows' NLL", draw, 290)
    return Plot(drawing, f"Distribution of NLL, {when}" if when else "Distribution of NLL", caption)


def _joined(name: str, when: str) -> str:
    return f"{name}-{when}" if when else name


def _loss(score: "Score") -> Section:
    some = [reliability_plot(score)] if score.reliability is not None else []
    return Section("Calibration and loss" if some else "Loss", [*some, nll_plot(score)])


def _classes(score: "Score", names: Sequence[str]) -> Section:
    table = score.classes
    if table is None:
        raise ValueError("classes: there are none")
    here = int(np.count_nonzero(table.n))
    few = here <= plots.MOST_NAMED
    height = 60 + 13 * here if few else 260

    def draw(figure: Any) -> None:
        plots.classes(figure.subplots(), score, names)

    caption = "Mean NLL of the rows with each label; the line is the mean of all rows."
    if not few:
        dot = "A dot is a class" if here <= plots.MOST_POINTS else "Squares are the darker the more classes they hold"
        caption = f"{dot}; those are named that make most of the loss. {caption}"
    plot = Plot(Drawing("classes", "Mean NLL of each class", draw, height), "Loss by class", caption)
    with np.errstate(invalid="ignore"):
        loss = np.where(table.n > 0, table.nll * table.weight, 0.0)
        shares = loss / loss.sum() if 0 < loss.sum() < math.inf else np.full(loss.size, math.nan)
    order = np.argsort(-np.where(np.isnan(loss), -1.0, loss), kind="stable")
    chosen = order[:MOST_CLASSES]
    columns = [
        Column("class"),
        Column("rows", count),
        Column("NLL", fixed, "mean, nats"),
        Column("of loss", percent, "share of the whole loss"),
        Column("recall", _tenth, "of the rows with this label, predicted right"),
        Column("precision", _tenth, "of the rows predicted as this class, right"),
        Column("F1", _third, "mean of recall and precision, harmonic"),
    ]
    figures = (table.n, table.nll, shares, table.recall, table.precision, table.f1)
    rows = [(names[k], *(values[k].item() for values in figures)) for k in chosen.tolist()]
    left = order.size - chosen.size
    note = (
        f"The {count(MOST_CLASSES)} classes that make most of the loss; {count(left)} more are left out."
        if left
        else ""
    )
    return Section("Classes", [plot], [Table(columns, rows, "Every class" if not left else "Classes", note, 3)])


def _confusion(score: "Score", names: Sequence[str]) -> Section:
    pairs = score.confusion
    if pairs is None:
        raise ValueError("confusion: there is none")
    chosen = plots.most_confused(score)
    wrong = np.flatnonzero(pairs.label != pairs.predicted)
    order = wrong[np.argsort(-pairs.n[wrong], kind="stable")][:MOST_PAIRS]
    columns = [
        Column("label"),
        Column("predicted"),
        Column("rows", count),
        Column("of label", percent, "share of the rows with this label"),
    ]
    labels, predictions, n = (x[order].tolist() for x in (pairs.label, pairs.predicted, pairs.n))
    of_label: Any = score.classes.n if score.classes is not None else {}
    rows = [(names[i], names[j], k, k / int(of_label[i])) for i, j, k in zip(labels, predictions, n)]
    left = wrong.size - order.size
    note = f"{count(left)} other pairs occur." if left else ""
    tables = [Table(columns, rows, "Most confused pairs", note, 2)] if rows else []
    if not chosen:
        return Section("Confusion", [], tables, "Every row was predicted right.")

    def draw(figure: Any) -> None:
        plots.confusion(figure.subplots(), score, names)

    which = "" if len(chosen) == score.n_classes else f"The {len(chosen)} most confused of {count(score.n_classes)}. "
    caption = f"{which}Rows by label and prediction; the shade is their share of the label's rows."
    height = 330 if len(chosen) > 4 else 230
    plot = Plot(Drawing("confusion", "Confusion matrix", draw, height), "Confusion", caption)
    return Section("Confusion", [plot], tables)


def _groups(score: "Score") -> Section:
    groups: Any = score.groups
    table = groups.table()
    order = np.argsort(-table.n, kind="stable")[:MOST_GROUPS].tolist()
    columns = [Column("group"), Column("rows", count), Column("NLL", fixed, "mean, nats")]
    rows: list[tuple[Any, ...]] = [(shown(table.value[k]), int(table.n[k]), float(table.nll[k])) for k in order]
    if table.accuracy is not None:
        columns.append(Column("accuracy", percent))
        rows = [(*row, float(table.accuracy[k])) for row, k in zip(rows, order)]
    left = len(groups) - len(order)
    note = f"The {count(MOST_GROUPS)} largest groups; {count(left)} more are left out." if left else ""
    return Section("Groups", [], [Table(columns, rows, "", note, 1)])


def _worst(score: "Score", names: Sequence[str]) -> Section:
    columns = [Column("row"), Column("label"), Column("NLL", fixed, "nats"), Column("probability", _probability)]
    rows: list[tuple[Any, ...]] = [
        (str(row.id), "" if row.label is None else names[row.label], row.nll, math.exp(-row.nll)) for row in score.worst
    ]
    if score.worst[0].label is None:
        columns, rows = [columns[0], columns[2]], [(row[0], row[2]) for row in rows]
    return Section("Worst rows", [], [Table(columns, rows, "", "", len(columns) - 2 if len(columns) > 2 else 1)])


def _third(x: float) -> str:
    return fixed(x, 3)


def _tenth(x: float) -> str:
    """Per cent with one decimal."""
    return percent(x, 1)


def _probability(x: float) -> str:
    """Of the label."""
    return fixed(x, 6 if x else 0)
