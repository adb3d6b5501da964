"""A page: headline figures, plots, tables, and what was run, as one HTML file that holds all it needs."""

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, NamedTuple

from fastxent.report.figures import Figure
from fastxent.report.images import Drawing, inline_svg, require


class Column(NamedTuple):
    """A column of a table."""

    name: str
    form: "Callable[[Any], str] | None" = None  # makes a number's text; None: the values are text
    says: str = ""  # what it is, where the name does not say all
    bar: bool = False  # whether a bar shows the number, a share from 0 to 1


class Table(NamedTuple):
    """Rows of raw values, which sort as what they are."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""  # such as what was left out
    sorted_by: int | None = None  # the column by which the rows come, largest first


class Plot(NamedTuple):
    """A drawing with its caption."""

    drawing: Drawing
    title: str
    caption: str


class Section(NamedTuple):
    """A part of the page."""

    title: str
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    text: str = ""
    stacked: bool = False  # whether its parts stand under each other on a wide page too


class File(NamedTuple):
    """A file that was read."""

    name: str
    size: int | None  # bytes; None for an address
    changed: str  # when, UTC
    sha256: str  # or why there is none


class Run(NamedTuple):
    """What was run."""

    command: Sequence[str]  # its words
    when: str  # UTC
    facts: Sequence[tuple[str, str]]  # versions, options, times
    files: Sequence[File]


class Page(NamedTuple):
    """All of it."""

    command: str  # such as score
    title: str
    subtitle: str
    headline: Sequence[Figure]
    figures: Sequence[Figure]
    sections: Sequence[Section]
    run: Run
    notice: str = ""  # what a reader must know first
    note: str = ""  # under the headline

    def drawings(self) -> list[Drawing]:
        """Every drawing on it."""
        return [plot.drawing for section in self.sections for plot in section.plots]


def render(page: Page) -> str:
    """The HTML of a page.

    Raises
    ------
    ImportError
        Where Jinja or Matplotlib is missing; says what to install.
    """
    require()
    import jinja2
    from markupsafe import Markup

    folder = resources.files("fastxent.report") / "templates"
    files = {name: (folder / name).read_text("utf-8") for name in ("page.html", "style.css", "sort.js")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda drawing: Markup(inline_svg(drawing))
    environment.filters["key"] = sort_key
    digest = base64.b64encode(hashlib.sha256(files["sort.js"].encode()).digest()).decode()
    return environment.from_string(files["page.html"]).render(
        page=page, style=Markup(files["style.css"]), script=Markup(files["sort.js"]), script_digest=digest
    )


def sort_key(value: Any) -> str:
    """A number for the table's script: repr, without numpy's words; nothing for NaN and None, which stay at the end."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return "Infinity" if value == math.inf else "-Infinity" if value == -math.inf else repr(float(value))
