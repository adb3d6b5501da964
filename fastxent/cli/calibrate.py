"""``fastxent calibrate``: what calibrates predictions in files, and what it changes."""

import time
from enum import Enum
from typing import Annotated

import typer

from fastxent.cli.options import (
    HOW,
    SHOW,
    WHAT,
    AxisOption,
    IgnoreOption,
    JsonOption,
    Kind,
    PlotsOption,
    ReportOption,
    SeedOption,
    option,
)
from fastxent.cli.terminal import progress, refuse_bad_path, write_json


class Method(Enum):
    """What to fit to logits."""

    temperature = "temperature"
    vector = "vector"


def calibrate(
    context: typer.Context,
    predictions: Annotated[str, typer.Argument(help="A file of predictions, as for score.", metavar="PREDICTIONS")],
    target: Annotated[
        str | None,
        typer.Argument(help="Another, unless PREDICTIONS holds the target.", metavar="TARGET", show_default=False),
    ] = None,
    kind: Annotated[Kind | None, option("logits (default), log-probs or probs.", HOW, metavar="KIND")] = None,
    columns: Annotated[
        str | None, option("A column a class, in natural order ('logit_*'), or names with commas.", WHAT)
    ] = None,
    target_column: Annotated[
        str | None, option("Class indices; a pattern of columns for distributions. Default: 'target'.", WHAT)
    ] = None,
    weight_column: Annotated[str | None, option("A weight for each row (or a member of an .npz).", WHAT)] = None,
    predictions_key: Annotated[str | None, option("Member of an .npz.", WHAT)] = None,
    target_key: Annotated[str | None, option("Member of an .npz.", WHAT)] = None,
    axis: AxisOption = -1,
    load: Annotated[str | None, option("Fit nothing: take what --save wrote to FILE.", WHAT, metavar="FILE")] = None,
    ignore_index: IgnoreOption = None,
    method: Annotated[
        Method,
        option("temperature, or vector: a scale and a bias a class.", HOW, show_default=True, metavar="METHOD"),
    ] = Method.temperature,
    bootstrap: Annotated[
        int, option("Replicates for the calibration error's interval and the changes'.", SHOW, metavar="N")
    ] = 0,
    seed: SeedOption = 0,
    apply: Annotated[
        str | None, option("Write PREDICTIONS, calibrated and of their kind, to FILE, a .npy.", SHOW, metavar="FILE")
    ] = None,
    save: Annotated[
        str | None, option("Write what was fitted to FILE, for --load and fastxent.fit's load.", SHOW, metavar="FILE")
    ] = None,
    json: JsonOption = None,
    report: ReportOption = None,
    plots: PlotsOption = None,
) -> None:
    """Find what calibrates predictions by maximum likelihood, and show what it changes; or apply what was found.

    fastxent calibrate logits.npy labels.npy

    fastxent calibrate held-out.parquet --columns 'logit_*' --target-column y --save temperature.json

    fastxent calibrate test.npy --load temperature.json --apply calibrated.npy
    """
    for name, path in (("--json", json), ("--save", save), ("--apply", apply)):
        refuse_bad_path(path, name)
    if apply is not None and not apply.endswith(".npy"):
        raise ValueError(f"--apply: {apply} does not end in .npy")
    from fastxent.cli.report import Output
    from fastxent.files.scan import Scan, Wanted
    from fastxent.jobs.calibrate import apply_to_file, calibrate_files, evaluate_files, load_calibrator

    output = Output(context.obj, (predictions, target), report, plots)
    evaluates = load is None or any(given is not None for given in (target, target_column, target_key))
    if output and not evaluates:
        raise ValueError("--report: needs a TARGET, or --target-column or --target-key, beside --load")
    wanted = Wanted(columns, target_column, weight_column, None, predictions_key, target_key, axis)
    chosen = None if kind is None else kind.value.replace("-", "_")
    begin, result = time.perf_counter(), None
    with progress() as tell:
        if load is None:
            calibrator, result = calibrate_files(
                *(predictions, target, wanted, ignore_index, method.value, tell),
                kind=chosen or "logits",
                bootstrap=bootstrap,
                seed=seed,
            )
        else:
            calibrator = load_calibrator(load)
            if chosen not in (None, calibrator.kind):
                raise ValueError(f"--kind: {load} calibrates {calibrator.kind}, not {chosen}")
            calibrator.ignore_index = ignore_index
            if evaluates:
                result = evaluate_files(calibrator, predictions, target, wanted, tell, bootstrap=bootstrap, seed=seed)
        written = 0 if apply is None else apply_to_file(calibrator, predictions, apply, wanted, tell)
        if output and result is not None:
            title = predictions if target is None else f"{predictions}, {target}"
            names = Scan(predictions, target, wanted).class_names
            output.write_calibration(calibrator.to_dict(), result, title, names, tell)
    if save is not None:
        calibrator.save(save)
    if json is not None:
        write_json(calibrator.to_dict() | (result.to_dict() if result is not None else {}), json)
    if json != "-":
        passes = calibrator.n_passes_ if load is None else 0
        print(calibrator, *(() if result is None else ("", result)), "", sep="\n")
        if apply is not None:
            print(f"{apply}: {written:,} rows of {calibrator.kind.replace('_', '-')}, calibrated")
        parts = [passes, *(1 for done in (result, apply) if done is not None)]
        shown = " + ".join(str(n) for n in parts if n) or "0"
        print(f"{time.perf_counter() - begin:.2f} s, {shown} pass{'es' * (shown != '1')} over the rows")
