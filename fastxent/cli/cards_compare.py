"""Comparisons of models for people, as cards.py has score cards."""

import math
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastxent.cli.cards import figure_lines, new_table
from fastxent.report.text import name_of

if TYPE_CHECKING:
    from fastxent.comparing.result import Comparison, DecidingRow, DifferenceTable, PairBootstrap, PairComparison

MOST_GROUPS = 10
MOST_DECIDING = 5


def comparison_card(comparison: "Comparison", title: str, footer: str) -> Group:
    """What ``fastxent compare`` prints: the models by rank, then the best two in detail.

    Parameters
    ----------
    comparison : Comparison
    title : str
        The files' names.
    footer : str
        How it came about.
    """
    best = comparison.against_best()
    pair = comparison.pair()
    parts: list[Any] = [Text(title, "bold"), _what(comparison), "", _models(comparison)]
    if len(comparison.models) > 2:
        note = f"Differences are from {best[0].b}; p-values are adjusted for all {len(comparison.pairs)} pairs (Holm)."
        parts += [Text(note, "dim")]
    parts += ["", Text(f"{pair.a} against {pair.b}", "bold"), _pair(comparison, pair)]
    if pair.bootstrap is not None:
        parts += ["", _drawn(pair.bootstrap)]
    for name, table in (("class", pair.classes), ("group", pair.by)):
        if table is not None and len(table.value) > 1:
            parts += ["", *_groups(name, table, comparison.n_clusters is not None)]
    for better, rows in ((pair.a, pair.decide_for_a), (pair.b, pair.decide_for_b)):
        if rows:
            parts += ["", _deciding(f"rows for {better}", pair, rows)]
    return Group(*parts, "", Text(footer, "dim"))


def _what(comparison: "Comparison") -> Text:
    kinds = dict.fromkeys(kind.replace("_", "-") for kind in comparison.kinds)
    words = [f"{comparison.n:,} rows", f"{comparison.n_classes:,} classes", *kinds]
    if comparison.n_clusters is not None:
        words.append(f"{comparison.n_clusters:,} clusters")
    words += [f"{n:,} {name}" for name, n in (("ignored", comparison.ignored), ("invalid", comparison.invalid)) if n]
    if comparison.weight != comparison.n:
        words.append(f"weights' sum {comparison.weight:.6g}")
    return Text(", ".join(words), "dim")


def _models(comparison: "Comparison") -> Table:
    several = len(comparison.models) > 2
    hard = comparison.reliability is not None
    shown = "rank", "NLL", *(("accuracy", "ECE") if hard else ()), *(("difference", "std err", "p") if several else ())
    table = new_table("model", *shown)
    against = {pair.a: pair for pair in comparison.against_best()}
    for model in sorted(comparison.models, key=lambda model: model.rank):
        shares = [f"{model.accuracy:.2%}", f"{model.ece:.4f}"] if hard else []
        more = [""] * 3 if several else []
        if several and model.name in against:
            pair = against[model.name]
            more = [f"{pair.nll.value:+.6f}", f"{pair.nll.se:.2g}", f"{pair.p_holm:.2g}"]
        table.add_row(model.name, str(model.rank), f"{model.nll:.6f}", *shares, *more)
    return table


def _pair(comparison: "Comparison", pair: "PairComparison") -> Table:
    nll, accuracy, outcomes = pair.nll, pair.accuracy, pair.outcomes
    of = "(of clusters)" if comparison.n_clusters is not None else ""
    ties = f", {outcomes.ties / outcomes.n:.2%} ties" if outcomes.ties else ""
    rows: list[tuple[str, float | None, str, str]] = [
        ("NLL difference", nll.value, "+.6f", f"nats, standard error {nll.se:.2g} {of}"),
        ("", nll.p_value, ".2g", f"p-value; 95 %: {nll.interval[0]:+.5g} to {nll.interval[1]:+.5g} nats"),
    ]
    if accuracy is not None:
        low, high = accuracy.interval
        alone = (
            f"p-value: {pair.a} alone right in {outcomes.only_a_right:,} rows, {pair.b} in {outcomes.only_b_right:,}"
        )
        note = f"standard error {accuracy.se:.2g}; 95 %: {low:+.2%} to {high:+.2%}"
        rows += [
            ("accuracy difference", accuracy.value, "+.2%", note),
            ("McNemar's test", pair.mcnemar_p, ".2g", alone),
        ]
    rows.append(("rows won", pair.won_by_a, ".2%", f"{pair.b} {pair.won_by_b:.2%}{ties}"))
    return figure_lines(rows)


def _drawn(bootstrap: "PairBootstrap") -> Table:
    """The differences, and how they vary over the replicates."""
    table = new_table(f"{bootstrap.n:,} replicates", "difference", "std err", "2.5 %", "97.5 %")
    for name, x in bootstrap.figures.items():
        form = ".6g" if name == "perplexity_ratio" else "+.6g"
        table.add_row(name_of(name), format(x.value, form), f"{x.se:.2g}", format(x.low, form), format(x.high, form))
    return table


def _groups(name: str, table: "DifferenceTable", clustered: bool) -> list[Any]:
    chosen = table.largest(MOST_GROUPS)
    lines = new_table(name, "rows", "difference", "std err", "share", *(["accuracy"] if _has_accuracy(table) else []))
    total = math.fsum(x for x in table.share.tolist() if math.isfinite(x))
    for k in chosen.tolist():
        share = table.share[k] / total if total else math.nan
        more = [f"{table.accuracy_difference[k]:+.2%}"] if table.accuracy_difference is not None else []
        figures = f"{table.difference[k]:+.6f}", f"{table.se[k]:.2g}", f"{share:+.1%}"
        lines.add_row(str(table.value[k]), f"{table.n[k]:,}", *figures, *more)
    left = len(table.value) - chosen.size
    note = "share: of the whole difference" + ("; std err: of clusters" if clustered else "")
    note += f"; {left:,} more are in --json" if left else ""
    return [lines, Text(note, "dim")]


def _has_accuracy(table: "DifferenceTable") -> bool:
    return table.accuracy_difference is not None


def _deciding(title: str, pair: "PairComparison", rows: "tuple[DecidingRow, ...]") -> Table:
    table = new_table(title, "label", f"NLL of {pair.a}", f"NLL of {pair.b}")
    for row in rows[:MOST_DECIDING]:
        label = "" if row.label is None else str(row.label)
        table.add_row(str(row.id), label, f"{row.nll_a:.6g}", f"{row.nll_b:.6g}")
    return table
