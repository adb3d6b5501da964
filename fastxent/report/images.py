"""Drawings as SVG inside a page, and as files."""

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

from fastxent.report.plots import COLOURS

POINTS = 72  # an inch

# The whole width is 340 units: a phone shows them as they are, a wide page 1.4 times as large.
WIDTH = 340


class Drawing(NamedTuple):
    """A plot that can be drawn."""

    name: str  # of its files
    says: str  # what it shows, for those who do not see it
    draw: Callable[[Any], object]  # into a Matplotlib figure
    height: int = 230  # where the width is WIDTH


def require() -> None:
    """Raise if reports cannot be made here."""
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"reports and plots need {' and '.join(missing)}: pip install 'fastxent[report]'")


def inline_svg(drawing: Drawing) -> str:
    """A drawing as an element of a page: text as text, colours as the page's variables."""
    with _drawn(drawing, {"svg.fonttype": "none"}) as figure:
        root = ElementTree.fromstring(_saved(figure, "svg", transparent=True))
    used = {value[1:] for e in root.iter() for key, value in e.attrib.items() if key.endswith("}href")}
    used |= {part.partition(")")[0] for e in root.iter() for v in e.attrib.values() for part in v.split("url(#")[1:]}
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):  # a style here would be the whole page's
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            if key == "id" and value not in used:
                continue
            value = f"{drawing.name}-{value}" if key == "id" else value.replace("url(#", f"url(#{drawing.name}-")
            if key.endswith("}href"):
                value = f"#{drawing.name}-{value[1:]}"
            for name, colour in COLOURS.items():
                value = value.replace(colour, f"var(--{name})")
            element.set(_local(key), value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", drawing.says)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def write_images(drawings: "list[Drawing]", folder: str, write: Callable[[str, bytes], None]) -> None:
    """Write every drawing as a .png and a .svg; ``write`` takes a path and the content."""
    os.makedirs(folder, exist_ok=True)
    for drawing in drawings:
        with _drawn(drawing, {"svg.fonttype": "path"}) as figure:
            for form in ("png", "svg"):
                write(os.path.join(folder, f"{drawing.name}.{form}"), _saved(figure, form, dpi=250))


@contextlib.contextmanager
def _drawn(drawing: Drawing, settings: "dict[str, Any]") -> Iterator[Any]:
    """The figure, under Matplotlib's default settings whatever the user's are; its global state stays as it was."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", {"svg.hashsalt": drawing.name, **settings}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the reader's fonts may have it
        figure = Figure(figsize=(WIDTH / POINTS, drawing.height / POINTS), layout="constrained")
        drawing.draw(figure)
        yield figure


def _saved(figure: Any, form: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None, **more)
    return buffer.getvalue()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
