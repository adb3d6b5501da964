"""Figures as a piece of HTML for notebooks: small, in the notebook's own colours, made without any library."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from fastxent.report import compare
from fastxent.report.calibration import changes
from fastxent.report.figures import Figure, headline, of_rows, others
from fastxent.report.text import fixed, percent, shown

if TYPE_CHECKING:
    from fastxent.comparing.result import Comparison
    from fastxent.fit import Calibration
    from fastxent.scoring.result import Reliability, Score

_SIDE = 150  # of the diagram, pixels


def score_html(score: "Score") -> str:
    """A score card: its figures with 95 % intervals, and a small reliability diagram."""
    diagram = _diagram(score.reliability) if score.reliability is not None and score.n else ""
    return card_html(of_rows(score), [*headline(score), *others(score)], diagram)


def comparison_html(comparison: "Comparison") -> str:
    """A comparison: the models by rank, and the figures of two of them."""
    pair = comparison.pair()
    lines = "".join(
        f"<tr>{_cell(str(m.rank), 'text-align:right')}{_cell(shown(m.name))}"
        f"{_cell(fixed(m.nll, 5), 'text-align:right;font-weight:600')}"
        f"{_cell('' if m.accuracy is None else percent(m.accuracy), 'text-align:right')}</tr>"
        for m in sorted(comparison.models, key=lambda m: m.rank)
    )
    models = f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">{lines}</table>'
    figures = [*compare.headline(pair), *compare.others(comparison, pair)]
    return card_html(compare.of_rows(comparison), figures, models)


def calibration_html(result: "Calibration") -> str:
    """A calibration: the figures after it with their intervals, and before."""
    figures = [f._replace(interval=f"{f.interval} ({f.note})") for f in changes(result)]
    return card_html(of_rows(result.before), figures)


def card_html(title: str, figures: Sequence[Figure], beside: str = "") -> str:
    """Figures under a title; ``beside`` is HTML."""
    lines = "".join(
        f"<tr>{_cell(f.name)}{_cell(f'{f.value} {f.unit}'.strip(), 'text-align:right;font-weight:600')}"
        f"{_cell(f.interval or f.note, 'opacity:.7')}</tr>"
        for f in figures
    )
    table = f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">{lines}</table>'
    heading = f'<div style="opacity:.7;margin-bottom:.4em">{escape(title)}</div>'
    row = "display:flex;flex-wrap:wrap;gap:1em 2.5em;align-items:flex-start"
    return f'<div>{heading}<div style="{row}">{table}{beside}</div></div>'


def _cell(text: str, style: str = "") -> str:
    return f'<td style="text-align:left;padding:.15em .9em .15em 0;{style}">{escape(text)}</td>'


def _diagram(bins: "Reliability") -> str:
    here = np.flatnonzero(bins.n)
    points = [(_SIDE * bins.confidence[k], _SIDE * (1 - bins.accuracy[k])) for k in here.tolist()]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="currentColor"/>' for x, y in points)
    return (
        f'<svg width="{_SIDE}" height="{_SIDE}" viewBox="-4 -4 {_SIDE + 8} {_SIDE + 8}" role="img" '
        'aria-label="accuracy by confidence" fill="none" stroke="currentColor">'
        "<title>accuracy by confidence</title>"
        f'<path d="M0 0V{_SIDE}H{_SIDE}" opacity=".3"/>'
        f'<path d="M0 {_SIDE}L{_SIDE} 0" stroke-dasharray="3 3" opacity=".5"/>'
        f'<polyline points="{line}"/><g stroke="none">{dots}</g></svg>'
    )
