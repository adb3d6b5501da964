"""The charts, drawn by Matplotlib where it is installed."""

import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from fastxent.benchmark.measuring import Row

OURS, LIMIT, READ, GRID = "#0b5fa5", "#222222", "#9a9a9a", "#e4e4e4"
PEER_STYLES = {  # marker, colour: lighter than ours
    "torch": ("s", "#e8a07e"),
    "jax": ("^", "#8fc1a4"),
    "scipy": ("D", "#c9a9d8"),
    "scikit-learn": ("v", "#e3c565"),
    "torchmetrics": ("P", "#e8a07e"),
}
FORMATS = ("png", "svg", "pdf")


def require(path: str | None) -> None:
    """Raise before the measurement if a chart could not be drawn.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the file's name ends in no known format.
    """
    if path is None:
        return
    if path.rpartition(".")[2].lower() not in FORMATS:
        raise ValueError(f"--plot: {path} must end in .{', .'.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs Matplotlib: pip install fastxent[report]")


def figure(width: float, height: float) -> Any:
    """An empty Matplotlib figure, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def quiet(axes: Any) -> None:
    """No frame, a light grid behind the data."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def roofline(rows: Sequence[Row], facts: dict[str, Any], path: str) -> None:
    """GB/s of every case on a logarithmic scale: fastxent, its peers, and what can be reached.

    Parameters
    ----------
    rows : sequence of Row
        Those whose limit is no speed of memory are left out.
    facts : dict
        The machine.
    path : str
        A .png, .svg or .pdf.
    """
    shown = [row for row in rows if row.case.of_memory]
    drawing = figure(9.5, 1.9 + 0.3 * max(len(shown), 3))
    axes = drawing.subplots()
    seen: dict[str, Any] = {}
    for y, row in enumerate(shown):
        ours, limit = row.gb_per_s, row.limit_gb_per_s
        axes.plot([ours, limit], [y, y], color=OURS, linewidth=2.2, alpha=0.25, solid_capstyle="butt", zorder=1)
        if row.read_gb_per_s is not None and row.case.limit == "read":
            seen["prefetching read"] = axes.plot(
                row.read_gb_per_s, y, "|", color=READ, markersize=11, markeredgewidth=1.5, zorder=2
            )[0]
        seen["limit: sum, copy or gather"] = axes.plot(
            limit, y, "|", color=LIMIT, markersize=13, markeredgewidth=2.2, zorder=3
        )[0]
        if row.case.target is not None and (aim := _aim(row)) is not None:
            seen["target"] = axes.plot(
                aim * limit, y, "o", color=OURS, markerfacecolor="none", markersize=9, linestyle="none", zorder=3
            )[0]
        for peer, ratio in row.ratios.items():
            marker, colour = PEER_STYLES.get(peer, ("o", "#bbbbbb"))
            seen[peer] = axes.plot(ours / ratio, y, marker, color=colour, markersize=5, zorder=3, linestyle="none")[0]
        seen["fastxent"] = axes.plot(ours, y, "o", color=OURS, markersize=7, zorder=4, linestyle="none")[0]
        axes.annotate(
            f"{row.share:.0%}", (1.005, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=OURS
        )
    axes.annotate("of limit", (1.005, -1), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=OURS)
    axes.set_yticks(range(len(shown)), [_label(row) for row in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("GB/s, inputs and outputs counted once", fontsize=9)
    quiet(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    _divide(axes, shown)
    order = ["fastxent", "limit: sum, copy or gather", "prefetching read", "target", *PEER_STYLES]
    names = [name for name in order if name in seen] + [name for name in seen if name not in order]
    drawing.legend([seen[n] for n in names], names, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    machine = f"{facts['processor']}, {facts['threads']} threads, vectors of {facts['vector_bits']} bits"
    axes.set_title(f"fastxent {facts['versions']['fastxent']} on {machine}", fontsize=9, loc="left")
    save(drawing, path)


def _aim(row: Row) -> float | None:
    """The share of the limit that a case should reach."""
    target = row.case.target
    return None if target is None else 1 / target.times if target.times else target.share


def _label(row: Row) -> str:
    case = row.case
    classes = "" if case.work == "binary" else f", C = {case.n_classes:,}"
    work = case.work.replace("_", " ")
    return f"{work} {case.dtype}{classes}{' (in cache)' if case.cached else ''}"


def _divide(axes: Any, rows: Sequence[Row]) -> None:
    """A line between one topic and the next."""
    for y in range(1, len(rows)):
        before, after = rows[y - 1].case, rows[y].case
        if (before.topic, before.cached) != (after.topic, after.cached):
            axes.axhline(y - 0.5, color="#bbbbbb", linewidth=0.8)


SERIES = ("#0b5fa5", "#d9702e", "#4d9a6a")
PANELS = {
    "rows": ("rows", "n_rows", "ns a row"),
    "classes": ("classes, at constant bytes", "n_classes", "GB/s"),
    "threads": ("threads, at constant bytes", "threads", "GB/s"),
}


def scaling(series: dict[str, Sequence[Any]], facts: dict[str, Any], path: str) -> None:
    """Time by rows, GB/s by classes and by threads; dashed, the plain sum of the same bytes.

    Parameters
    ----------
    series : dict
        "rows", "classes" and "threads" -> scaling.Point's.
    facts : dict
        The machine.
    path : str
        A .png, .svg or .pdf.
    """
    drawing = figure(12, 4)
    for axes, (name, (label, x, unit)) in zip(drawing.subplots(1, 3), PANELS.items()):
        groups: dict[Any, list[Any]] = {}
        for point in series[name]:
            groups.setdefault(None if name == "classes" else point.n_classes, []).append(point)
        for colour, (n_classes, points) in zip(SERIES, groups.items()):
            xs = [getattr(point, x) for point in points]
            ours = [point.row_ns if name == "rows" else point.gb_per_s for point in points]
            plain = [value * (p.sum_s / p.seconds) ** (1 if name == "rows" else -1) for value, p in zip(ours, points)]
            text = "fastxent" if n_classes is None else f"C = {n_classes:,}"
            axes.plot(xs, ours, "o-", color=colour, markersize=4, linewidth=1.5, label=text)
            axes.plot(xs, plain, "--", color=colour, linewidth=1, alpha=0.7)
        axes.set_xscale("log")
        if name == "rows":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_ylim(bottom=0)
        if name == "threads":
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        quiet(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_title(f"{unit}, by {label}", fontsize=10, loc="left")
        axes.plot([], [], "--", color="#888888", linewidth=1, label="plain sum")
        axes.legend(frameon=False, fontsize=8)
    machine = f"{facts['processor']}, {facts['threads']} threads"
    drawing.suptitle(f"cross_entropy, float32, fastxent {facts['versions']['fastxent']} on {machine}", fontsize=10)
    save(drawing, path)


def crossover(points: Sequence[dict[str, Any]], chosen: int, facts: dict[str, Any], path: str) -> None:
    """ns a class of tiles and of single rows, by classes.

    Parameters
    ----------
    points : sequence of dict
        crossover.points'.
    chosen : int
        The most classes of a tile.
    facts : dict
        The machine.
    path : str
        A .png, .svg or .pdf.
    """
    dtypes = list(dict.fromkeys(point["dtype"] for point in points))
    drawing = figure(5.5 * len(dtypes), 4)
    for axes, dtype in zip(drawing.subplots(1, len(dtypes), squeeze=False)[0], dtypes):
        some = [point for point in points if point["dtype"] == dtype]
        xs = [point["n_classes"] for point in some]
        for colour, way in zip(SERIES, ("tiles", "rows")):
            ys = [point[f"{way}_ns"] / point["n_classes"] for point in some]
            axes.plot(xs, ys, "o-", color=colour, markersize=4, label=way)
        axes.axvline(chosen, color=READ, linewidth=1, linestyle=":", label=f"tiles up to {chosen}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=0)
        quiet(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_title(f"{dtype}: ns a logit, by classes; one thread, in cache", fontsize=9, loc="left")
        axes.legend(frameon=False, fontsize=8)
    drawing.suptitle(f"fastxent {facts['versions']['fastxent']} on {facts['processor']}", fontsize=10)
    save(drawing, path)


def save(drawing: Any, path: str) -> None:
    """Write a figure to a file that appears whole or not at all."""
    from fastxent.scoring.state import write_atomically

    content = io.BytesIO()
    drawing.savefig(content, format=path.rpartition(".")[2].lower())
    write_atomically(path, content.getvalue())
