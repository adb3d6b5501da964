"""The page of a comparison, and its figures."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.intervals import NORMAL_95
from fastxent.report import plots
from fastxent.report.figures import Figure
from fastxent.report.images import Drawing
from fastxent.report.page import Column, Page, Plot, Run, Section, Table
from fastxent.report.text import (
    count,
    counted,
    decimals_of,
    fixed,
    name_of,
    percent,
    points,
    probability,
    shown,
    signed,
)

if TYPE_CHECKING:
    from fastxent.comparing.result import Comparison, DecidingRow, Difference, DifferenceTable, PairComparison
    from fastxent.scoring.bootstrap import Interval

MOST_GROUPS = 2000  # lines of a table


def compare_page(comparison: "Comparison", title: str, run: Run, names: "Sequence[str] | None" = None) -> Page:
    """The report of a comparison: all models, then two of them in detail (see `Comparison.pair`).

    Parameters
    ----------
    comparison : Comparison
    title : str
        Such as the files' names.
    run : Run
        What was run.
    names : sequence of str, optional
        The classes' names; by default their numbers.
    """
    pair = comparison.pair()
    named = [str(k) for k in range(comparison.n_classes)] if names is None else [shown(name) for name in names]
    sections, notice = [_models(comparison)], ""
    if comparison.n and comparison.reliability is not None:
        sections.append(_calibration(comparison, pair))
    of = "of independent " + ("rows" if comparison.n_clusters is None else "clusters")
    if comparison.n:
        if pair.classes is not None:
            names_of = [named[int(k)] for k in pair.classes.value]
            sections.append(_table("class", "Classes", pair.classes, names_of, of))
        if pair.by is not None:
            sections.append(_table("group", "Groups", pair.by, [shown(value) for value in pair.by.value], of))
        rows = (pair.a, pair.decide_for_a), (pair.b, pair.decide_for_b)
        tables = [_deciding(pair, better, some, named) for better, some in rows if some]
        sections += [Section("Rows that decide", [], tables)] if tables else []
    if not comparison.weight > 0:
        notice = "No row was compared, so that there are no figures."
    elif pair.accuracy is None:
        notice = "The target holds distributions: what needs one class a row, such as accuracy, is not defined."
    if comparison.invalid:
        notice += f" {counted(comparison.invalid, 'row')} for which a model's loss is NaN: counted and left out."
    a, b = shown(pair.a), shown(pair.b)
    note = f"Differences are {a} minus {b}: where that of NLL is negative, {a} is better."
    if pair.bootstrap is not None:
        drawn = "rows" if comparison.n_clusters is None else "clusters"
        note += f" Bootstrap: percentiles of {count(pair.bootstrap.n)} replicates, the same {drawn} for both."
    figures = headline(pair), others(comparison, pair)
    return Page("compare", shown(title), of_rows(comparison), *figures, sections, run, notice.strip(), note)


def of_rows(comparison: "Comparison") -> str:
    """How many rows there are, and of what kind."""
    kinds = dict.fromkeys(kind.replace("_", "-") for kind in comparison.kinds)
    parts = [counted(comparison.n, "row"), counted(comparison.n_classes, "class", "classes"), *kinds]
    parts += [counted(comparison.n_clusters, "cluster")] if comparison.n_clusters is not None else []
    skipped = ("ignored", comparison.ignored), ("invalid", comparison.invalid)
    return " · ".join([*parts, *(f"{count(n)} {name}" for name, n in skipped if n)])


def headline(pair: "PairComparison") -> list[Figure]:
    """The figures that come first."""
    against = f"{shown(pair.a)} − {shown(pair.b)}"
    figures = [_difference("NLL difference", pair.nll, "nats", against)]
    if pair.accuracy is not None:
        figures.append(_difference("Accuracy difference", pair.accuracy, "pp", against))
    figures.append(Figure("p-value", probability(pair.nll.p_value), "", "", "of no difference in NLL"))
    won = f"{shown(pair.b)} {percent(pair.won_by_b)}"
    return [*figures, Figure(f"Rows won by {shown(pair.a)}", percent(pair.won_by_a), "", "", won)]


def others(comparison: "Comparison", pair: "PairComparison") -> list[Figure]:
    """The figures after those."""
    x, o = pair.nll, pair.outcomes
    kind = "of clusters" if comparison.n_clusters is not None else "of the rows' differences"
    figures = [
        Figure("Standard error", fixed(x.se, decimals_of(x.se)), "nats", "", kind),
        Figure("t", signed(x.t, 2), "", "", counted(x.dof, "degree of freedom", "degrees of freedom")),
    ]
    if pair.mcnemar_p is not None:
        figures.append(Figure("McNemar's test", probability(pair.mcnemar_p), "", "", "p-value, exact"))
        for name, n in ((pair.a, o.only_a_right), (pair.b, o.only_b_right)):
            figures.append(Figure(f"Only {shown(name)} right", count(n or 0), "rows"))
    for name, drawn in (pair.bootstrap.figures if pair.bootstrap is not None else {}).items():
        if name not in ("nll", "perplexity", "accuracy"):
            figures.append(_drawn(name, drawn))
    if o.ties:
        figures.append(Figure("Ties", count(o.ties), "rows", "", "the same loss"))
    return figures


def _drawn(name: str, x: "Interval") -> Figure:
    """A difference, or a ratio, with the interval of its replicates."""
    if name == "perplexity_ratio":
        decimals = decimals_of(x.se)
        interval = "" if math.isnan(x.low) else f"{fixed(x.low, decimals)} to {fixed(x.high, decimals)}"
        return Figure("Perplexity ratio", fixed(x.value, decimals), "", interval, "bootstrap")
    called = name_of(name)
    scale, unit = (1.0, "") if name == "ece" else (100.0, "pp")
    decimals = decimals_of(scale * x.se)
    interval = f"{signed(scale * x.low, decimals)} to {signed(scale * x.high, decimals)}"
    shown_interval = "" if math.isnan(x.low) else interval
    return Figure(
        f"{called[0].upper()}{called[1:]} difference",
        signed(scale * x.value, decimals),
        unit,
        shown_interval,
        "bootstrap",
    )


def _difference(name: str, x: "Difference", unit: str, note: str) -> Figure:
    scale = 100.0 if unit == "pp" else 1.0
    decimals = decimals_of(scale * x.se)
    low, high = x.interval
    interval = "" if math.isnan(low) else f"{signed(scale * low, decimals)} to {signed(scale * high, decimals)}"
    return Figure(name, signed(scale * x.value, decimals), unit, interval, note)


def _models(comparison: "Comparison") -> Section:
    best = comparison.against_best()
    against, hard = {pair.a: pair for pair in best}, comparison.reliability is not None
    columns = [
        Column("model"),
        Column("rank", count),
        Column("NLL", lambda x: fixed(x, 5), "mean, nats"),
        *([Column("accuracy", percent), Column("ECE", fixed, "calibration error")] if hard else []),
        Column("difference", lambda x: signed(x, 5), "of mean NLL, from the best"),
        Column("std err", lambda x: fixed(x, decimals_of(x or 0.0)), "of the difference"),
        Column("p", probability, "adjusted for all pairs (Holm)"),
    ]
    rows = []
    for model in sorted(comparison.models, key=lambda m: m.rank):
        pair = against.get(model.name)
        figures = (pair.nll.value, pair.nll.se, pair.p_holm) if pair is not None else (None,) * 3
        shares = [model.accuracy, model.ece] if hard else []
        rows.append((shown(model.name), model.rank, model.nll, *shares, *figures))
    note = ""
    if len(comparison.pairs) > 1:
        note = f"p-values are adjusted for all {len(comparison.pairs)} pairs (Holm); the best is chosen by these rows."
    table, drawings = Table(columns, rows, "", note), []
    if len(best) > 1 and comparison.n:
        values, lows, highs = (np.array(x) for x in zip(*((p.nll.value, *p.nll.interval) for p in best)))

        def draw(figure: Any) -> None:
            plots.differences(figure.subplots(), [shown(p.a) for p in best], values, lows, highs)

        says = f"Mean NLL less that of {shown(best[0].b)}, with 95 % intervals"
        drawings = [Plot(Drawing("models", says, draw, 60 + 16 * len(best)), "Models", says + ".")]
    return Section("Models", drawings, [table], stacked=True)


def _calibration(comparison: "Comparison", pair: "PairComparison") -> Section:
    """Both models' reliability diagrams in one."""
    bins: Any = comparison.reliability
    ranks = {model.name: model.rank for model in comparison.models}
    behind, front = sorted((pair.a, pair.b), key=lambda name: -ranks[name])

    def draw(figure: Any) -> None:
        plots.reliabilities(figure.subplots(), {shown(name): bins[name] for name in (behind, front)})

    says = f"Accuracy by confidence, of {shown(front)} and {shown(behind)}"
    plot = Plot(Drawing("reliability", says, draw, 290), "Reliability", says + "; on the diagonal confidence is right.")
    columns = [Column("confidence"), *(Column(f"rows of {shown(name)}", count) for name in (front, behind))]
    columns += [Column(f"gap of {shown(name)}", points, "accuracy minus confidence") for name in (front, behind)]
    gaps = [bins[name].accuracy - bins[name].confidence for name in (front, behind)]
    edges = bins[front].edges.tolist()
    rows = [
        (f"{low:.2f} to {high:.2f}", *(int(bins[name].n[k]) for name in (front, behind)), *(float(x[k]) for x in gaps))
        for k, (low, high) in enumerate(pairwise(edges))
        if bins[front].n[k] or bins[behind].n[k]
    ]
    return Section("Calibration", [plot], [Table(columns, rows, "", "")])


def _table(one: str, title: str, table: "DifferenceTable", names: Sequence[str], of: str) -> Section:
    """Where the two differ: a plot of the groups that move the difference most, and all in a table."""
    chosen = table.largest(MOST_GROUPS)
    total = math.fsum(x for x in table.share.tolist() if math.isfinite(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = table.share / (total or math.nan)
    columns = [
        Column(one),
        Column("rows", count),
        Column("difference", signed, "of mean NLL, nats"),
        Column("std err", lambda x: fixed(x, decimals_of(x)), of),
        Column("share", lambda x: signed(100 * x, 1) + " %", "of the whole difference"),
        *([Column("accuracy", points, "difference")] if table.accuracy_difference is not None else []),
    ]
    figures = [table.n, table.difference, table.se, shares]
    figures += [table.accuracy_difference] if table.accuracy_difference is not None else []
    rows = [(names[k], *(x[k].item() for x in figures)) for k in chosen.tolist()]
    left = len(names) - chosen.size
    note = f"Those that move the difference most; {count(left)} more are left out." if left else ""
    most = chosen[: plots.MOST_NAMED]
    half = NORMAL_95 * table.se[most]
    values = table.difference[most]

    def draw(figure: Any) -> None:
        plots.differences(figure.subplots(), [names[k] for k in most.tolist()], values, values - half, values + half)

    caption = "Difference of mean NLL with 95 % intervals"
    caption += f", of the {most.size} that move the whole difference most." if len(names) > most.size else "."
    plot = Plot(Drawing(one, f"{title}: {caption}", draw, 60 + 13 * most.size), f"By {one}", caption)
    return Section(title, [plot], [Table(columns, rows, "", note)])


def _deciding(pair: "PairComparison", better: str, rows: "Sequence[DecidingRow]", names: Sequence[str]) -> Table:
    label = [Column("label")] if rows[0].label is not None else []
    columns = [
        Column("row"),
        *label,
        Column(f"NLL of {shown(pair.a)}", fixed, "nats"),
        Column(f"NLL of {shown(pair.b)}", fixed, "nats"),
        Column("difference", signed),
    ]
    lines = []
    for row in rows:
        of_row = [] if row.label is None else [names[row.label]]
        lines.append((str(row.id), *of_row, row.nll_a, row.nll_b, row.nll_a - row.nll_b))
    return Table(columns, lines, f"For {shown(better)}", "The rows with the largest difference.")
