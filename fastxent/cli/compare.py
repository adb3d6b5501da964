"""``fastxent compare``: two or more files of predictions of the same rows."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import typer

from fastxent.cli.options import (
    HOW,
    SHOW,
    WHAT,
    AxisOption,
    BinsOption,
    EpsOption,
    IgnoreOption,
    Invalid,
    InvalidOption,
    JsonOption,
    Kind,
    NormalizeOption,
    PlotsOption,
    ReportOption,
    SeedOption,
    SumTolOption,
    TopKOption,
    option,
)
from fastxent.cli.terminal import progress, refuse_bad_path, whole_numbers, write_json

T = TypeVar("T")
_EACH = "; once, or once for each model."


def compare(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Predictions of two models or more, then the target: files as for score. The target may be one of"
            " them again.",
            metavar="A B [C...] TARGET",
        ),
    ],
    kind: Annotated[list[Kind] | None, option(f"logits, log-probs or probs{_EACH}", HOW, metavar="KIND")] = None,
    name: Annotated[list[str] | None, option("A model's name, in order. Default: the files' names.", SHOW)] = None,
    columns: Annotated[list[str] | None, option(f"Columns of the classes, 'logit_*' or a,b{_EACH}", WHAT)] = None,
    target_column: Annotated[
        str | None, option("Class indices; a pattern of columns for distributions. Default: 'target'.", WHAT)
    ] = None,
    weight_column: Annotated[str | None, option("A weight for each row (or a member).", WHAT)] = None,
    id_column: Annotated[str | None, option("Names of the rows, for those that decide.", WHAT)] = None,
    by: Annotated[str | None, option("Differences for each group of rows: integers or text.", WHAT)] = None,
    cluster: Annotated[
        str | None, option("Rows that belong together, such as a document's: standard errors allow for it.", WHAT)
    ] = None,
    predictions_key: Annotated[
        list[str] | None, option(f"Member of an .npz, .safetensors, .zarr or .h5{_EACH}", WHAT)
    ] = None,
    target_key: Annotated[str | None, option("Member, likewise.", WHAT)] = None,
    classes: Annotated[
        str | None, option("Names of the classes, with commas or in a file, one a line: the target is text.", WHAT)
    ] = None,
    axis: AxisOption = -1,
    ignore_index: IgnoreOption = None,
    normalize: NormalizeOption = False,
    eps: EpsOption = 0.0,
    sum_tol: SumTolOption = 1e-3,
    temperature: Annotated[list[float] | None, option(f"Divide logits by it{_EACH}", HOW)] = None,
    invalid: InvalidOption = Invalid.stop,
    top_k: TopKOption = "1,5",
    bins: BinsOption = 15,
    worst: Annotated[int, option("Rows that decide to keep, of each side.", SHOW, show_default=True)] = 20,
    bootstrap: Annotated[
        int, option("Replicates of a bootstrap, for intervals of the differences: 2000, say.", SHOW, metavar="N")
    ] = 0,
    seed: SeedOption = 0,
    json: JsonOption = None,
    report: ReportOption = None,
    plots: PlotsOption = None,
) -> None:
    """Compare models by their predictions of the same rows, in one pass over each file.

    fastxent compare old.npy new.npy labels.npy

    fastxent compare old.parquet new.parquet old.parquet --target-column y --cluster document
    """
    refuse_bad_path(json)
    if len(files) < 3:
        raise ValueError(
            f"A B TARGET: {len(files)} file{'s' * (len(files) != 1)}; need two of predictions or more, and the target"
        )
    from fastxent.cli.report import Output
    from fastxent.files.scan import Wanted
    from fastxent.jobs.compare import compare_files, names_of

    *predictions, target = files
    n = len(predictions)
    each = (_each(columns, n, "--columns"), _each(predictions_key, n, "--predictions-key"))
    models = [
        (
            path,
            Wanted(c, target_column, weight_column, id_column, key, target_key, axis, classes, by, cluster),
        )
        for path, c, key in zip(predictions, *each)
    ]
    kinds = [one.value.replace("_", "-") if one else "logits" for one in _each(kind, n, "--kind")]
    options: dict[str, Any] = {
        "names": tuple(name) if name else names_of(models),
        "kind": [one.replace("-", "_") for one in kinds],
        "temperature": [1.0 if t is None else t for t in _each(temperature, n, "--temperature")],
        "ignore_index": ignore_index,
        "normalize": normalize,
        "eps": eps,
        "sum_tol": sum_tol,
        "top_k": whole_numbers(top_k, "--top-k"),
        "bins": bins,
        "worst": worst,
        "invalid": invalid.value,
        "bootstrap": bootstrap,
        "seed": seed,
    }
    output = Output(context.obj, dict.fromkeys(files), report, plots)
    rows, n_bytes, begin = 0, 0, time.perf_counter()
    with progress() as show_progress:

        def tell(what: str, fraction: float, done: int, bytes_read: int) -> None:
            nonlocal rows, n_bytes
            rows, n_bytes = done, bytes_read
            show_progress(what, fraction, done, bytes_read)

        comparer, class_names = compare_files(models, target, options, tell)
        result = comparer.result()
    elapsed_s, title = time.perf_counter() - begin, ", ".join(files)
    if output:
        from fastxent.report.compare import compare_page

        with progress() as show_progress:
            output.write(lambda run: compare_page(result, title, run, class_names), result.options, show_progress)
    if json is not None:
        write_json(result.to_dict(), json)
    if json != "-":
        from fastxent.cli.cards import show as show_card
        from fastxent.cli.cards import speed
        from fastxent.cli.cards_compare import comparison_card

        show_card(comparison_card(result, title, speed(rows, n_bytes, elapsed_s)))


def _each(values: "Sequence[T] | None", n: int, name: str) -> "list[T | None]":
    """One value a model, of an option that may be given once for all."""
    if not values:
        return [None] * n
    if len(values) not in (1, n):
        raise ValueError(f"{name}: given {len(values)} times for {n} models; give it once, or once for each")
    return [*values] * (n if len(values) == 1 else 1)
