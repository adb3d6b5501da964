"""A score card's tables as data frames of whatever library is there."""

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastxent.scoring.result import Score

LIBRARIES = ("pandas", "polars", "pyarrow")
TABLES = ("figures", "classes", "reliability", "nll_histogram", "confusion", "worst", "groups")

Columns = dict[str, Any]


def frame(columns: Columns, backend: str | None = None) -> Any:
    """Columns as a data frame of a library: the one that is named, or that is in use, or that is installed."""
    import narwhals

    if backend not in (None, *LIBRARIES):
        raise ValueError(f"backend: {backend!r} is not one of {', '.join(map(repr, LIBRARIES))}")
    there = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    chosen: Any = backend or next((name for name in there if name in sys.modules), there[0] if there else None)
    if chosen not in there:
        raise ImportError(
            f"backend: {chosen or 'no library of data frames'} is missing: pip install {chosen or 'pandas'}"
        )
    return narwhals.from_dict(columns, backend=chosen).to_native()


def columns_of(score: "Score", table: str) -> Columns:
    """The columns of one of `TABLES`."""
    if table not in TABLES:
        raise ValueError(f"table: {table!r} is not one of {', '.join(map(repr, TABLES))}")
    if table == "figures":
        return {name: [value] for name, value in row_of(score).items()}
    if table == "worst":
        return {name: [getattr(row, name) for row in score.worst] for name in ("id", "label", "nll")}
    if table == "groups":
        if score.groups is None:
            raise ValueError("table: 'groups' needs rows that were scored with by=")
        rows = [{"value": value, **row_of(card)} for value, card in score.groups.items()]
        return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"value": []}
    found = getattr(score, table)
    if found is None:
        raise ValueError(f"table: {table!r} needs targets that are class indices")
    columns: Columns = found._asdict()
    if table == "classes":
        columns = {"class": np.arange(score.n_classes), **columns}
    if "edges" in columns:
        edges = columns.pop("edges")
        columns = {"low": edges[:-1], "high": edges[1:], **columns}
    return {name: np.array(values) for name, values in columns.items()}


def row_of(score: "Score") -> dict[str, Any]:
    """The figures that are single numbers."""
    row: dict[str, Any] = {"kind": score.kind, "n_classes": score.n_classes}
    names = ("n", "ignored", "invalid", "weight", "nll", "nll_bits", "nll_se", "log_likelihood", "perplexity", "brier")
    row |= {name: getattr(score, name) for name in names}
    row["nll_low"], row["nll_high"] = score.nll_interval
    row |= {name: getattr(score, name) for name in ("entropy", "confidence", "accuracy", "ece", "skill", "roc_auc")}
    return row | {f"top_{k}_accuracy": value for k, value in (score.top_k_accuracy or {}).items()}
