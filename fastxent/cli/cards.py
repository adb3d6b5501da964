"""Score cards for people: tables for a terminal of 80 columns, plain text in a pipe."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fastxent.report.text import name_of

if TYPE_CHECKING:
    from fastxent.demo import Result
    from fastxent.jobs.linear import LinearScore
    from fastxent.scoring.bootstrap import Bootstrap
    from fastxent.scoring.scorer import Score

MOST_BINS = 20
MOST_WORST = 5
MOST_GROUPS = 10  # of the largest, and as many of the worst


def show(card: Group) -> None:
    """Print on standard output."""
    Console(highlight=False).print(card)


def score_card(score: "Score", title: str, footer: str) -> Group:
    """What ``fastxent score`` prints.

    Parameters
    ----------
    score : Score
    title : str
        The files' names.
    footer : str
        How it came about, such as `speed`.
    """
    parts: list[Any] = [Text(title, "bold"), _what(score), "", _figures(score)]
    if score.bootstrap is not None:
        parts += ["", _spreads(score.bootstrap)]
    if score.reliability is not None and score.n:
        parts += ["", _calibration(score)]
    if score.groups is not None:
        parts += _groups(score.groups)
    if score.worst:
        parts += ["", _worst(score)]
    return Group(*parts, "", Text(footer, "dim"))


def linear_card(score: "LinearScore", title: str, footer: str) -> Group:
    """What ``fastxent score --hidden`` prints: `score_card` as far as there are figures."""
    what = [f"{score.n:,} rows", f"{score.n_features:,} features", f"{score.n_classes:,} classes"]
    what += [f"{count:,} {name}" for name, count in (("ignored", score.ignored), ("invalid", score.invalid)) if count]
    if score.weight != score.n:
        what.append(f"weights' sum {score.weight:.6g}")
    rows = [
        ("NLL", score.nll, ".6f", f"nats, standard error {score.nll_se:.2g}"),
        ("", score.nll_bits, ".6f", "bits"),
        ("log-likelihood", score.log_likelihood, ".10g", "nats, the rows' sum"),
        ("perplexity", score.perplexity, ".6g", ""),
        ("accuracy", score.accuracy, ".2%", ""),
        *((f"top-{k} accuracy", v, ".2%", "") for k, v in score.top_k_accuracy.items() if k != 1),
        ("mean reciprocal rank", score.mean_reciprocal_rank, ".6f", "1: every label's logit is the largest"),
    ]
    parts: list[Any] = [Text(title, "bold"), Text(", ".join(what), "dim"), "", figure_lines(rows)]
    if score.worst:
        parts += ["", _worst(score)]
    return Group(*parts, "", Text(footer, "dim"))


def speed(rows: int, n_bytes: int, elapsed_s: float) -> str:
    """The time that reading and scoring took, with rates: of rows, and of bytes of predictions as arrays."""
    rates = f"{rows / elapsed_s:,.0f} rows/s, {n_bytes / elapsed_s / 1e9:.2f} GB/s"
    return f"{elapsed_s:.2f} s from opening to result: {rates}"


def demo_card(result: "Result") -> Group:
    """What ``fastxent demo`` prints."""
    from fastxent.demo import EXPECTED_ROWS

    corpus, outcomes = result.corpus, result.outcomes
    n = outcomes[0].score.n
    story = (
        f"Python's own standard library as data: {corpus.n_files:,} source files in {corpus.folder}. "
        f"Two thirds of them ({corpus.train.size / 1e6:.1f} MB) were counted, byte by byte, pair by pair and triple by "
        f"triple; each model then predicted every byte of the rest from none, one or two bytes before it: "
        f"{n:,} rows of 256 log-probabilities (float32) a model, made in chunks and scored as they came."
    )
    table = new_table("model", "bits/byte", "std err", "perplexity", "accuracy", "top-5", "ECE", "rows/s")
    for outcome in outcomes:
        s = outcome.score
        table.add_row(
            outcome.model.name,
            f"{s.nll_bits:.4f}",
            f"{s.nll_se / math.log(2):.4f}",
            f"{s.perplexity:.3f}",
            f"{s.accuracy:.2%}",
            f"{s.top_k_accuracy[5]:.2%}",
            f"{s.ece:.4f}",
            f"{s.n / outcome.score_s:,.0f}",
        )
    score_s, predict_s = sum(o.score_s for o in outcomes), sum(o.predict_s for o in outcomes)
    n_bytes = 1024 * sum(o.score.n for o in outcomes)
    times = (
        f"{result.elapsed_s:.1f} s in all: counting {result.fit_s:.1f} s, compiling or loading {result.compile_s:.1f} "
        f"s, making the predictions {predict_s:.1f} s, scoring {score_s:.1f} s ({n_bytes / score_s / 1e9:.1f} GB/s). "
        "rows/s is of the scoring alone: NLL with its standard error, accuracies, Brier score, entropy, calibration, "
        "confusion and a table per class, from one pass."
    )
    parts: list[Any] = [Text("fastxent demo", "bold"), "", story, "", table, "", Text(times, "dim")]
    if n < EXPECTED_ROWS:
        short = f"Few sources here: {n:,} rows a model, fewer than the {EXPECTED_ROWS:,} of a whole standard library."
        parts[3:3] = ["", Text(short, "yellow")]
    return Group(*parts)


def _what(score: "Score") -> Text:
    rows = [f"{score.n:,} rows", f"{score.n_classes:,} classes", score.kind.replace("_", "-")]
    rows += [f"{count:,} {name}" for name, count in (("ignored", score.ignored), ("invalid", score.invalid)) if count]
    if score.weight != score.n:
        rows.append(f"weights' sum {score.weight:.6g}")
    return Text(", ".join(rows), "dim")


def _figures(score: "Score") -> Table:
    low, high = score.nll_interval
    rows: list[tuple[str, float | None, str, str]] = [
        ("NLL", score.nll, ".6f", f"nats, standard error {score.nll_se:.2g}"),
        ("", score.nll_bits, ".6f", f"bits; 95 %: {low:.5g} to {high:.5g} nats"),
        ("log-likelihood", score.log_likelihood, ".10g", "nats, the rows' sum"),
        ("perplexity", score.perplexity, ".6g", ""),
        ("accuracy", score.accuracy, ".2%", ""),
        *((f"top-{k} accuracy", v, ".2%", "") for k, v in (score.top_k_accuracy or {}).items() if k != 1),
        ("Brier score", score.brier, ".6f", "0 to 2"),
        ("mean entropy", score.entropy, ".6f", "nats"),
        ("mean confidence", score.confidence, ".2%", ""),
        ("calibration error", score.ece, ".6f", "expected, over the bins below"),
        ("skill", score.skill, ".6f", "1: perfect, 0: predicts the frequencies"),
        ("ROC AUC", score.roc_auc, ".6f", f"within {score.roc_auc_resolution or 0.0:.1g}"),
    ]
    return figure_lines(rows)


def figure_lines(rows: Iterable[tuple[str, float | None, str, str]]) -> Table:
    """Figures with their names and notes."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="cyan")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim", overflow="fold")
    for name, value, form, note in rows:
        if value is not None:
            table.add_row(name, format(value, form), note)
    return table


def _calibration(score: "Score") -> Table:
    table = new_table("confidence", "rows", "mean", "accuracy", "gap")
    bins = score.reliability
    filled = [k for k in range(len(bins.n)) if bins.n[k]] if bins is not None else []
    if bins is None or len(filled) > MOST_BINS:
        return table
    for k in filled:
        gap = bins.accuracy[k] - bins.confidence[k]
        table.add_row(
            f"{bins.edges[k]:.3f} to {bins.edges[k + 1]:.3f}",
            f"{bins.n[k]:,}",
            f"{bins.confidence[k]:.4f}",
            f"{bins.accuracy[k]:.4f}",
            Text(f"{gap:+.4f}", "red" if abs(gap) > 0.05 else "yellow" if abs(gap) > 0.01 else "green"),
        )
    return table


def _spreads(bootstrap: "Bootstrap") -> Table:
    table = new_table(f"{bootstrap.n:,} replicates", "std err", "2.5 %", "97.5 %")
    for name, figure in bootstrap.figures.items():
        shown = f"{figure.se:.2g}", f"{figure.low:.6g}", f"{figure.high:.6g}"
        table.add_row(name_of(name), *shown)
    return table


def _groups(groups: Any) -> list[Any]:
    """The largest groups of rows, then the worst of the others."""
    figures = groups.table()
    largest = np.argsort(-figures.n, kind="stable")
    shown, rest = largest[:MOST_GROUPS], largest[MOST_GROUPS:]
    worst = rest[np.argsort(-np.nan_to_num(figures.nll[rest], nan=-1.0), kind="stable")][:MOST_GROUPS]
    left = rest.size - worst.size
    parts: list[Any] = []
    for title, chosen in (("largest groups" if rest.size else "groups", shown), ("worst of the others", worst)):
        if chosen.size:
            table = new_table(title, "rows", "NLL", "std err", "accuracy", "ECE")
            for k in chosen.tolist():
                card = groups[figures.value[k]]
                shares = [
                    "" if x is None else form.format(x) for x, form in ((card.accuracy, "{:.2%}"), (card.ece, "{:.4f}"))
                ]
                table.add_row(str(figures.value[k]), f"{card.n:,}", f"{card.nll:.6f}", f"{card.nll_se:.2g}", *shares)
            parts += ["", table]
    if left:
        parts.append(Text(f"and {left:,} groups more; --json has all of them", "dim"))
    return parts


def _worst(score: "Score | LinearScore") -> Table:
    table = new_table("worst rows", "label", "NLL")
    for row in score.worst[:MOST_WORST]:
        table.add_row(str(row.id), "" if row.label is None else str(row.label), f"{row.nll:.6g}")
    return table


def new_table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if Console().is_terminal else None, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
