"""A comparison's tables as columns of data frames."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastxent.comparing.result import Comparison, Model, PairComparison

TABLES = ("models", "pairs", "classes", "by", "rows", "bootstrap", "reliability")


def columns_of(comparison: "Comparison", table: str) -> dict[str, Any]:
    """The columns of one of `TABLES`."""
    if table not in TABLES:
        raise ValueError(f"table: {table!r} is not one of {', '.join(map(repr, TABLES))}")
    if table == "models":
        rows = [_model(model) for model in comparison.models]
    elif table == "pairs":
        rows = [_pair(pair) for pair in comparison.pairs]
    elif table == "bootstrap":
        rows = [row for pair in comparison.pairs for row in _drawn(pair)]
    elif table == "reliability":
        rows = _reliability(comparison)
    elif table == "rows":
        rows = [
            {"a": pair.a, "b": pair.b, "better": better, **row._asdict()}
            for pair in comparison.pairs
            for better, some in ((pair.a, pair.decide_for_a), (pair.b, pair.decide_for_b))
            for row in some
        ]
    else:
        rows = [row for pair in comparison.pairs for row in _groups(pair, table)]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _pair(pair: "PairComparison") -> dict[str, Any]:
    row: dict[str, Any] = {"a": pair.a, "b": pair.b}
    for name, x in (("nll", pair.nll), ("accuracy", pair.accuracy)):
        figures: dict[str, Any] = {"": None, "_se": None, "_low": None, "_high": None, "_p": None}
        if x is not None:
            figures = {"": x.value, "_se": x.se, "_low": x.interval[0], "_high": x.interval[1], "_p": x.p_value}
        row |= {f"{name}_difference{end}": value for end, value in figures.items()}
    return row | {"p_holm": pair.p_holm, "mcnemar_p": pair.mcnemar_p, **pair.outcomes._asdict()}


def _model(model: "Model") -> dict[str, Any]:
    row = model._asdict()
    top_k: dict[int, float] = row.pop("top_k_accuracy") or {}
    return row | {f"top_{k}_accuracy": value for k, value in top_k.items() if k > 1}


def _drawn(pair: "PairComparison") -> list[dict[str, Any]]:
    if pair.bootstrap is None:
        raise ValueError("table: 'bootstrap' needs rows that were compared with bootstrap=")
    figures = pair.bootstrap.figures.items()
    return [{"a": pair.a, "b": pair.b, "figure": name, **interval._asdict()} for name, interval in figures]


def _reliability(comparison: "Comparison") -> list[dict[str, Any]]:
    if comparison.reliability is None:
        raise ValueError("table: 'reliability' needs targets that are class indices")
    return [
        {"model": name, "low": low, "high": high, "n": n, "weight": weight, "accuracy": hits, "confidence": share}
        for name, (edges, *columns) in comparison.reliability.items()
        for low, high, n, weight, hits, share in zip(edges[:-1].tolist(), edges[1:].tolist(), *map(list, columns))
    ]


def _groups(pair: "PairComparison", table: str) -> list[dict[str, Any]]:
    found = getattr(pair, table)
    if found is None:
        needs = "targets that are class indices" if table == "classes" else "rows that were compared with by="
        raise ValueError(f"table: {table!r} needs {needs}")
    columns = {name: x.tolist() if hasattr(x, "tolist") else x for name, x in found._asdict().items() if x is not None}
    lines = zip(*columns.values())
    return [{"a": pair.a, "b": pair.b, **dict(zip(columns, line))} for line in lines]
