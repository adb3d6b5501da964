"""``fastxent score --hidden``: hidden states and a linear classifier."""

import time
from typing import Any

from fastxent.cli.terminal import progress, write_json

# Options of score that mean something for hidden states and a classifier.
_OF_LINEAR = {
    "hidden", "classifier", "classifier_key", "bias", "softcap", "target_file", "target_column", "weight_column",
    "id_column", "predictions_key", "target_key", "ignore_index", "temperature", "invalid", "top_k", "worst", "json",
}  # fmt: skip


def refuse_other_options(context: Any) -> None:
    """Raise for an option of score that was given and means nothing here."""
    if context.params["hidden"] is None or context.params["classifier"] is None:
        raise ValueError("PREDICTIONS: name a file of predictions, or --hidden and --classifier both")
    for name in context.params.keys() - _OF_LINEAR:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')}: does not go with --hidden")


def show_linear(
    hidden: str | None,
    target: str | None,
    classifier: str | None,
    classifier_key: str | None,
    bias: str | None,
    wanted: Any,
    options: dict[str, Any],
    json: str | None,
) -> None:
    """Score, and print or write the figures."""
    from fastxent.jobs.linear import read_classifier, score_linear

    begin = time.perf_counter()
    with progress() as show_progress:
        w, b = read_classifier(str(classifier), classifier_key, bias)
        result = score_linear(str(hidden), target, w, b, wanted, tell=show_progress, **options)
    elapsed_s = time.perf_counter() - begin
    if json is not None:
        write_json(result.to_dict(), json)
    if json != "-":
        from fastxent.cli.cards import linear_card, show

        files = ", ".join(name for name in (hidden, classifier, bias, target) if name is not None)
        rows = result.n + result.ignored + result.invalid
        show(linear_card(result, files, f"{elapsed_s:.2f} s from opening to result: {rows / elapsed_s:,.0f} rows/s"))
