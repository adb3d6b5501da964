"""How options are declared, and those that several commands have."""

from enum import Enum
from typing import Annotated, Any

import typer


class Kind(Enum):
    """What the predictions are."""

    logits = "logits"
    log_probs = "log-probs"
    probs = "probs"


class Invalid(Enum):
    """What to do about rows with a NaN or +inf, or all -inf."""

    stop = "raise"
    count = "count"


def option(help_text: str, panel: str | None = None, flag: str | None = None, **more: Any) -> Any:
    """An option whose help stands under a heading; ``flag`` is its name where the parameter's is not."""
    names = () if flag is None else (flag,)
    shown = more.pop("show_default", False)
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=shown, **more)


WHAT, HOW, SHOW, RUN = "What to read", "How to score", "What to show", "What to measure"

AxisOption = Annotated[int, option("Class axis of arrays.", WHAT, show_default=True)]
IgnoreOption = Annotated[int | None, option("Rows with this label are left out, such as -100.", HOW)]
NormalizeOption = Annotated[bool, option("Divide probabilities by their row's sum.", HOW, flag="--normalize")]
EpsOption = Annotated[float, option("Clip probabilities that are nearer to 0 or 1.", HOW, show_default=True)]
SumTolOption = Annotated[float, option("How far a row's sum may be from 1.", HOW, show_default=True)]
InvalidOption = Annotated[
    Invalid, option("Rows with a NaN: raise an error, or count and leave out.", HOW, show_default=True, metavar="DO")
]
TopKOption = Annotated[str, option("Accuracies to count.", SHOW, show_default=True, metavar="K,K")]
BinsOption = Annotated[int, option("Bins of the calibration.", SHOW, show_default=True)]
SeedOption = Annotated[int, option("Decides what they draw.", SHOW, show_default=True)]
JsonOption = Annotated[str | None, option("Write the figures to FILE; - for standard output.", SHOW, metavar="FILE")]
ReportOption = Annotated[str | None, option("Write FILE, one page of HTML with everything.", SHOW, metavar="FILE")]
PlotsOption = Annotated[str | None, option("Write its plots to DIR, as .png and .svg.", SHOW, metavar="DIR")]
