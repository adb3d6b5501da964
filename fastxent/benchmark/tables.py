"""What was measured, as text: columns aligned in a pipe, Markdown, Rich on a terminal."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastxent.benchmark.contenders import WORKS
from fastxent.benchmark.judging import FAIL, PASS, Change, Verdict
from fastxent.benchmark.measuring import Row

STYLES = {PASS: "green", FAIL: "bold red", "slower": "bold red", "faster": "green", "absent": "dim"}
BLOCKS = " ▏▎▍▌▋▊▉█"
BAR_CELLS = 10


class Sheet(NamedTuple):
    """Cells; the first columns are words, the others numbers."""

    head: list[str]
    lines: list[list[str]]
    words: int


def results(rows: Sequence[Row], *, narrow: bool = False) -> Sheet:
    """A line for each case.

    Parameters
    ----------
    rows : sequence of Row
    narrow : bool
        All peers in one column, and none for the time.
    """
    if narrow:
        head = ["case", "GB/s", "of limit", "time of others / ours"]
        return Sheet(head, [[row.case.name, *_speed(row)[::3], _others(row)] for row in rows], 1)
    peers = list(dict.fromkeys(peer for row in rows for peer in WORKS[row.case.work].peers))
    head = ["work", "dtype", "rows x classes", "time", "GB/s", "limit", "read", "of limit", *peers]
    lines = []
    for row in rows:
        case = row.case
        shape = f"{row.n_rows:,} x {case.n_classes}"
        lines.append(
            [case.work, case.dtype, shape, duration(row.ours_s), *_speed(row), *(_ratio(row, p) for p in peers)]
        )
    return Sheet(head, lines, 2)


def fitting(rows: Sequence[Row]) -> Sheet:
    """The results, in the form that fits the terminal."""
    wide = results(rows)
    narrow = sys.stdout.isatty() and len(text(wide).splitlines()[1]) + BAR_CELLS > shutil.get_terminal_size().columns
    return results(rows, narrow=True) if narrow else wide


def _speed(row: Row) -> list[str]:
    if not row.case.of_memory:
        return ["", "", "", f"{row.share:.2f}"]
    read = "" if row.read_gb_per_s is None else f"{row.read_gb_per_s:.1f}"
    return [f"{row.gb_per_s:.1f}", f"{row.limit_gb_per_s:.1f}", read, f"{row.share:.2f}"]


def _ratio(row: Row, peer: str) -> str:
    if peer in row.absent:
        return "absent"
    return f"{row.ratios[peer]:.1f}x" if peer in row.ratios else ""


def _others(row: Row) -> str:
    return ", ".join(f"{peer} {_ratio(row, peer)}" for peer in WORKS[row.case.work].peers)


def duration(seconds: float) -> str:
    """Three digits or so, in the unit that suits."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"


def verdicts(found: Sequence[Verdict]) -> Sheet:
    """A line for each case that has a target: what was wanted, what was measured, pass or fail."""
    head = ["case", "size", "wanted", "measured", "result"]
    lines = []
    for verdict in found:
        wanted = [f"{'<=' if c.at_most else '>='} {c.wanted:g}{c.unit} {c.what}" for c in verdict.checks]
        measured = ["absent" if c.got is None else f"{c.got:.3g}{c.unit}" for c in verdict.checks]
        size = f"{verdict.runs[0].n_bytes / 1e9:.2f} GB"
        lines.append([verdict.case.name, size, "; ".join(wanted), "; ".join(measured), verdict.result])
    return Sheet(head, lines, 5)


def changes(found: Sequence[Change]) -> Sheet:
    """A line for each case that was measured twice."""
    head = ["case", "result", "of limit before", "now", "ratio"]
    lines = [[c.name, c.result, f"{c.before:.3f}", f"{c.after:.3f}", f"{c.ratio:.2f}"] for c in found]
    return Sheet(head, lines, 2)


def text(sheet: Sheet, *, markdown: bool = False) -> str:
    """Columns aligned; in Markdown, with pipes between them."""
    widths = [max(map(len, column)) for column in zip(sheet.head, *sheet.lines)]
    aligned = [
        [cell.ljust(w) if k < sheet.words else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths))]
        for line in [sheet.head, *sheet.lines]
    ]
    if markdown:
        rule = ["-" * w if k < sheet.words else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in [aligned[0], ["-" * w for w in widths], *aligned[1:]])


def show(sheet: Sheet, markdown: bool = False) -> None:
    """Print a sheet: Rich on a terminal, plain text in a pipe, or Markdown."""
    if markdown or not sys.stdout.isatty():
        sys.stdout.write(text(sheet, markdown=markdown) + "\n")
        return
    from rich.console import Console

    Console(highlight=False).print(rich_table(sheet))


def rich_table(sheet: Sheet) -> Any:
    """A Rich table, with a bar beside each share of the limit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, head in enumerate(sheet.head):
        table.add_column(head, justify="left" if k < sheet.words else "right", overflow="fold", no_wrap=k == 0)
    for line in sheet.lines:
        cells = []
        for head, cell in zip(sheet.head, line):
            if head == "of limit" and cell:
                cells.append(Text(f"{bar(float(cell))} {cell}", "cyan"))
            else:
                cells.append(Text(cell, STYLES.get(cell, "")))
        table.add_row(*cells)
    return table


def bar(share: float) -> str:
    """A share of 1 as eighths of BAR_CELLS characters."""
    eighths = round(8 * BAR_CELLS * min(max(share, 0.0), 1.0))
    return (BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8]).rstrip().ljust(BAR_CELLS)[:BAR_CELLS]


def legend(rows: Sequence[Row]) -> str:
    """What the columns mean, and what was noticed."""
    lines = [
        "time, GB/s: fastxent's. limit: the fastest plain sum of the same bytes, labels and targets counted; for "
        "softmax a copy, for nll a plain gather of the labels' entries, for a small call an empty jitted call, "
        "for linear cross-entropy its matrix products in the same blocks. "
        "read: a read of the same bytes that prefetches. Both in GB/s. "
        "Other columns: how many times as long that library takes (jax: jitted; torchmetrics: on torch)."
    ]
    if not all(row.large or row.case.cached or not row.case.of_memory for row in rows):
        lines.append("Inputs below 1 GB: a cache may hold them, and then delivers the limit too.")
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines += row.notes
        for peer, what in row.absent.items():
            missing.setdefault((peer, what), []).append(row.case.name)
    for (peer, what), names in missing.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{more}: {peer} is absent ({what} is not installed)")
    return "\n".join(lines)
