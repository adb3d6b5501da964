"""The plots, drawn by Matplotlib into axes of anybody's.

Colours are those of a light page; `svg` turns each into a variable that the page sets, so that they must differ.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.intervals import wilson
from fastxent.report.text import compact, shortened

if TYPE_CHECKING:
    from fastxent.scoring.result import Reliability, Score

# name of the page's variable -> colour on a light page
COLOURS = {"ink": "#1c2127", "muted": "#5c6670", "rule": "#e2e6ea", "accent": "#0b62a8", "warm": "#c2571a"}
INK, MUTED, RULE, ACCENT, WARM = COLOURS.values()
SMALL, NORMAL = 7.5, 9.0  # sizes of letters

MOST_NAMED = 24  # classes with a line each in the plot of classes
MOST_CONFUSED = 12  # classes in the plot of confusion
MOST_POINTS = 3000  # classes with a dot each
LABELLED = 6  # classes named among many


def reliability(axes: Any, score: "Score", below: Any = None) -> None:
    """Accuracy by confidence with 95 % intervals, and below it how many rows there are."""
    bins = score.reliability
    if bins is None:
        raise ValueError("reliability: distributions as targets have no accuracy")
    _quiet(axes, "y")
    axes.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=MUTED, linewidth=1, zorder=1)
    here = np.flatnonzero(bins.n)
    weighted = score.weight != score.n
    for k in here.tolist():
        x, y = bins.confidence[k], bins.accuracy[k]
        axes.plot([x, x], [x, y], color=WARM, linewidth=3.5, alpha=0.35, solid_capstyle="butt", zorder=2)
        if not weighted:
            low, high = wilson(y, bins.n[k])
            axes.plot([x, x], [low, high], color=ACCENT, linewidth=1.2, solid_capstyle="butt", zorder=3)
    axes.plot(bins.confidence[here], bins.accuracy[here], "o-", color=ACCENT, markersize=4, linewidth=1, zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_ylabel("accuracy", color=MUTED, fontsize=NORMAL)
    ticks = np.linspace(0, 1, 6)
    axes.set_yticks(ticks, [f"{100 * t:.0f} %" for t in ticks])
    last = axes if below is None else below
    axes.set_xticks(ticks, [f"{100 * t:.0f} %" for t in ticks] if below is None else [""] * 6)
    if below is not None:
        _quiet(below, "y")
        widths = np.diff(bins.edges)
        below.bar(bins.edges[:-1], bins.n, widths * 0.9, align="edge", color=ACCENT, alpha=0.55, linewidth=0)
        most = max(1, int(bins.n.max(initial=0)))
        below.set(xlim=(0, 1), ylim=(0, 1.22 * most), yticks=[])
        if bins.n.size <= 20:
            for k in here.tolist():
                x = (bins.edges[k] + bins.edges[k + 1]) / 2
                y = bins.n[k] + 0.03 * most
                below.text(x, y, compact(int(bins.n[k])), ha="center", va="bottom", fontsize=6, color=MUTED)
        below.set_ylabel("rows", color=MUTED, fontsize=NORMAL)
        below.set_xticks(ticks, [f"{100 * t:.0f} %" for t in ticks])
    last.set_xlabel("confidence", color=MUTED, fontsize=NORMAL)


def reliabilities(axes: Any, models: "dict[str, Reliability]") -> None:
    """Accuracy by confidence of models by their names, the last one in front."""
    colours, lines = (ACCENT, WARM, MUTED, INK), ("o-", "s--", "^:", "D-.")
    for place, (name, bins) in enumerate(models.items()):
        k, here = len(models) - 1 - place, bins.n > 0
        style = {"color": colours[k % 4], "markersize": 4, "linewidth": 1, "zorder": 3 + place}
        label = shortened(name, 24)
        label = f" {label}" if label.startswith("_") else label  # else Matplotlib leaves it out
        axes.plot(bins.confidence[here], bins.accuracy[here], lines[(k + k // 4) % 4], label=label, **style)
    axes.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=MUTED, linewidth=1, zorder=1)
    _quiet(axes, "y")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("confidence", color=MUTED, fontsize=NORMAL)
    axes.set_ylabel("accuracy", color=MUTED, fontsize=NORMAL)
    for text in axes.legend(frameon=False, fontsize=NORMAL, labelcolor=MUTED).get_texts():
        text.set_parse_math(False)


def axes_for(ax: Any) -> Any:
    """The axes, or those of a new figure of pyplot's."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("plot_reliability needs Matplotlib: pip install 'fastxent[report]'") from None
    return pyplot.subplots()[1]


def nll_histogram(axes: Any, score: "Score") -> None:
    """How many rows have which NLL, and which part of the loss they make."""
    edges, n = score.nll_histogram
    _quiet(axes, "y")
    total = max(1, int(n.sum()))
    low, high = _ends(n)
    finite = np.arange(low, min(high + 1, n.size - 2))
    middle = np.sqrt(edges[finite] * edges[finite + 1]) if low else _middles(edges, finite)
    shares = n[finite] / total
    axes.bar(finite + 0.5, shares, 0.92, color=ACCENT, alpha=0.75, linewidth=0, label="of the rows", zorder=2)
    loss = n[finite] * middle
    if n[-2] == n[-1] == 0 and loss.sum() > 0:
        axes.stairs(
            loss / loss.sum(),
            np.append(finite, finite[-1] + 1),
            color=WARM,
            linewidth=1.3,
            zorder=3,
            label="of the loss",
        )
    beyond = [(n.size - 2, "128 or more"), (n.size - 1, "infinite")]
    at, labels = high + 2, []
    for k, name in beyond:
        if n[k]:
            axes.bar(at + 0.5, n[k] / total, 0.92, color=WARM, alpha=0.75, linewidth=0, zorder=2)
            labels.append((at + 0.5, name))
            at += 3
    first, last = edges[low + 1], edges[min(high + 1, n.size - 2)]
    ticks = [x for x in 10.0 ** np.arange(-6, 3) if first <= x <= last]
    if len(ticks) < 3:
        ticks = [m * x for x in 10.0 ** np.arange(-6, 3) for m in (1, 2, 5) if first <= m * x <= last]
    every = 1 if len(ticks) <= 7 else 2
    marks = [(_place(edges, x), f"{x:g}" if x >= 1e-3 else f"1e{round(math.log10(x))}") for x in ticks[::every]]
    if low == 0:
        marks = [(0.5, "0"), *(mark for mark in marks if mark[0] > 5)]
    if not marks:
        marks = [(k, f"{edges[k]:.3g}") for k in (low, high + 1)]
    marks += labels
    axes.set_xticks([x for x, _ in marks], [text for _, text in marks])
    axes.set_xlim(low - 0.6, max(at, high + 1.6))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    if math.isfinite(score.nll) and edges[low] < score.nll < 128:
        x = _place(edges, score.nll)
        axes.axvline(x, color=INK, linewidth=0.9, zorder=4)
        side = "left" if x < (low + high) / 2 else "right"
        axes.annotate(
            "mean", (x, 1), xycoords=("data", "axes fraction"), xytext=(3 if side == "left" else -3, -2),
            textcoords="offset points", ha=side, va="top", fontsize=SMALL, color=INK,
        )  # fmt: skip
    axes.set_xlabel("NLL, nats", color=MUTED, fontsize=NORMAL)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=SMALL, labelcolor=MUTED,
        borderaxespad=0, handlelength=1.2, handleheight=0.7,
    )  # fmt: skip


def classes(axes: Any, score: "Score", names: Sequence[str]) -> None:
    """Mean NLL of every class: a line each where they are few, otherwise against the classes' rows."""
    table = score.classes
    if table is None:
        raise ValueError("classes: distributions as targets have no classes of rows")
    here = np.flatnonzero(table.n)
    largest = table.nll[here][np.isfinite(table.nll[here])].max(initial=0.0)
    values = np.where(np.isinf(table.nll), 1.1 * largest or 1.0, table.nll)
    if here.size <= MOST_NAMED:
        order = here[np.argsort(values[here], kind="stable")]
        _quiet(axes, "x")
        axes.axvline(score.nll, color=INK, linewidth=0.9, zorder=1)
        axes.hlines(range(order.size), 0, values[order], color=ACCENT, linewidth=1.4, alpha=0.5, zorder=2)
        _points(axes, values[order], np.arange(order.size), np.isinf(table.nll[order]), ">")
        texts = [shortened(names[k], 18) for k in order.tolist()]
        axes.set_yticks(range(order.size), texts, parse_math=False)
        axes.set(ylim=(-0.7, order.size - 0.3))
        axes.set_xlim(left=0)
        axes.set_xlabel("mean NLL, nats", color=MUTED, fontsize=NORMAL)
        return
    _quiet(axes, "both")
    axes.axhline(score.nll, color=INK, linewidth=0.9, zorder=1)
    n = table.n[here]
    if here.size > MOST_POINTS:
        _clouds(axes, n, values[here])
    else:
        _points(axes, n, values[here], np.isinf(table.nll[here]), "^", 0.55 if here.size < 500 else 0.35)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows of the class", color=MUTED, fontsize=NORMAL)
    axes.set_ylabel("mean NLL, nats", color=MUTED, fontsize=NORMAL)
    heaviest = here[np.argsort(-(table.weight[here] * values[here]), kind="stable")][:LABELLED]
    _names_apart(axes, table.n[heaviest], values[heaviest], [shortened(names[k], 14) for k in heaviest.tolist()])


def differences(axes: Any, names: Sequence[str], values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> None:
    """Differences with their intervals, a line each, the largest at the top; what is infinite or NaN has no dot."""
    order = np.argsort(np.nan_to_num(values, nan=-math.inf), kind="stable")
    _quiet(axes, "x")
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    places = np.arange(order.size)
    known = np.isfinite(values[order]) & np.isfinite(lows[order]) & np.isfinite(highs[order])
    shown = order[known]
    axes.hlines(places[known], lows[shown], highs[shown], color=ACCENT, linewidth=1.4, alpha=0.6, zorder=2)
    axes.plot(values[shown], places[known], "o", color=ACCENT, markersize=4, markeredgewidth=0, zorder=3)
    axes.set_yticks(places, [shortened(names[k], 18) for k in order.tolist()], parse_math=False)
    axes.set(ylim=(-0.7, order.size - 0.3))
    axes.set_xlabel("difference of mean NLL, nats", color=MUTED, fontsize=NORMAL)


def confusion(axes: Any, score: "Score", names: Sequence[str]) -> list[int]:
    """Of the most confused classes, rows by label and prediction; returns which these are."""
    chosen = most_confused(score)
    pairs = score.confusion
    if pairs is None or not chosen:
        raise ValueError("confusion: no class has a row")
    place = {k: i for i, k in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen)), np.int64)
    inside = np.isin(pairs.label, chosen) & np.isin(pairs.predicted, chosen)
    for label, predicted, n in zip(pairs.label[inside], pairs.predicted[inside], pairs.n[inside]):
        counts[place[int(label)], place[int(predicted)]] = n
    rows = np.maximum(1, score.classes.n[chosen])[:, None] if score.classes is not None else 1
    shares, small = counts / rows, SMALL if len(chosen) <= 8 else 6.5
    for i, j in np.argwhere(counts):
        colour = ACCENT if i == j else WARM
        alpha = 0.06 + 0.5 * math.sqrt(shares[i, j])
        axes.add_patch(_rectangle(j - 0.48, i - 0.48, 0.96, colour, alpha))
        axes.text(j, i, compact(int(counts[i, j])), ha="center", va="center", fontsize=small, color=INK)
    texts = [shortened(names[k], 12) for k in chosen]
    axes.set(xlim=(-0.5, len(chosen) - 0.5), ylim=(len(chosen) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(chosen)), texts, rotation=90 if max(map(len, texts)) > 2 else 0, parse_math=False)
    axes.set_yticks(range(len(chosen)), texts, parse_math=False)
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED, bottom=False, labelbottom=False, labeltop=True)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted", color=MUTED, fontsize=NORMAL)
    axes.set_ylabel("label", color=MUTED, fontsize=NORMAL, labelpad=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return chosen


def most_confused(score: "Score") -> list[int]:
    """The classes of the pairs (label, another prediction) that have the most rows, by number."""
    pairs = score.confusion
    if pairs is None:
        return []
    wrong = np.flatnonzero(pairs.label != pairs.predicted)
    order = wrong[np.argsort(-pairs.n[wrong], kind="stable")][: 4 * MOST_CONFUSED * MOST_CONFUSED]
    chosen: dict[int, None] = {}
    for k in order.tolist():
        new = [c for c in (int(pairs.label[k]), int(pairs.predicted[k])) if c not in chosen]
        if len(chosen) + len(set(new)) <= MOST_CONFUSED:
            chosen |= dict.fromkeys(new)
    if score.n_classes <= MOST_CONFUSED:
        chosen |= dict.fromkeys(range(score.n_classes))
    return sorted(chosen)


def _quiet(axes: Any, grid: str) -> None:
    """No frame, a light grid behind the data."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=SMALL, labelcolor=MUTED)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=RULE, linewidth=0.8)


def _points(axes: Any, x: Any, y: Any, infinite: np.ndarray, marker: str, alpha: float = 1.0) -> None:
    """Dots; marks at the edge for what is infinite."""
    x, y = np.asarray(x), np.asarray(y)
    size = 4 if alpha == 1.0 else 3
    axes.plot(x[~infinite], y[~infinite], "o", color=ACCENT, markersize=size, alpha=alpha, markeredgewidth=0, zorder=3)
    axes.plot(x[infinite], y[infinite], marker, color=WARM, markersize=5, markeredgewidth=0, zorder=3, linestyle="none")


def _clouds(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Squares, the darker the more points there are in them."""
    edges = np.geomspace(x.min(), 1.0001 * x.max() + 1e-9, 41), np.linspace(0, 1.0001 * y.max() + 1e-9, 31)
    found = np.histogram2d(x, y, edges)[0]
    for i, j in np.argwhere(found):
        alpha = 0.15 + 0.85 * math.log1p(found[i, j]) / math.log1p(found.max())
        (left, right), (bottom, top) = edges[0][i : i + 2], edges[1][j : j + 2]
        axes.bar(left, top - bottom, right - left, bottom, align="edge", color=ACCENT, alpha=alpha, linewidth=0)


def _names_apart(axes: Any, x: Any, y: Any, names: Sequence[str]) -> None:
    """Names beside points, left out where they would be on another one."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width = math.log(right / left)
    taken: list[tuple[float, float]] = []
    for px, py, name in zip(x, y, names):
        u, v = math.log(px / left) / width, (py - bottom) / (top - bottom)
        if any(abs(v - w) < 0.06 and abs(u - t) < 0.25 for t, w in taken):
            continue
        taken.append((u, v))
        side = "right" if u > 0.85 else "center"
        axes.annotate(
            name, (px, py), xytext=(0, 5), textcoords="offset points", ha=side, va="bottom",
            fontsize=SMALL, color=INK, parse_math=False, zorder=5,
        )  # fmt: skip


def _rectangle(x: float, y: float, size: float, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), size, size, color=colour, alpha=alpha, linewidth=0)


def _ends(n: np.ndarray) -> tuple[int, int]:
    """The first and the last of the bins with finite edges that hold rows."""
    filled = np.flatnonzero(n[:-2])
    return (int(filled[0]), int(filled[-1])) if filled.size else (80, 84)


def _middles(edges: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Middles of bins; the first bin begins at 0."""
    low, high = edges[k], edges[k + 1]
    return np.where(low > 0, np.sqrt(low * high), high / 2)


def _place(edges: np.ndarray, x: float) -> float:
    """Where a value is among the bins, as a number of bins, between the edges by its logarithm."""
    k = int(np.searchsorted(edges[1:-2], x, side="right"))
    if k == 0:
        return 0.5
    return k + math.log(x / edges[k]) / math.log(edges[k + 1] / edges[k])
