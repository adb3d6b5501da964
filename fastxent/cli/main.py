"""The command line: arguments, progress, exit codes.

0: done. 1: a benchmark became slower or misses a target. 2: the command or its input is wrong, said in one line on
standard error. 130: interrupted.
What is slow to import (Numba, PyArrow, Rich) comes in with the command that needs it, so that ``--help`` is quick.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastxent.cli.calibrate import calibrate as _calibrate
from fastxent.cli.compare import compare as _compare
from fastxent.cli.options import HOW as _HOW
from fastxent.cli.options import RUN as _RUN
from fastxent.cli.options import SHOW as _SHOW
from fastxent.cli.options import WHAT as _WHAT
from fastxent.cli.options import (
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
)
from fastxent.cli.options import option as _option
from fastxent.cli.terminal import one_line, own_words, progress, refuse_bad_path, whole_numbers, write_json

OK, FELL_SHORT, WRONG, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Exact, fast cross-entropy of classifiers' predictions.",
)


class Interrupted(Exception):
    """Ctrl-C, after a command has shown what there was to show."""


_GO = "Long runs and parts"
_LINEAR = "Hidden states and a linear classifier"
_FILES = (
    "A .npy, .npz, .safetensors, .zarr, .h5, .parquet, .arrow, .feather, .csv or .tsv (also .gz, .bz2, .xz, .zst);"
    " an address such as https://... of one, a pattern such as 'shards/*.npy', or a folder of shards."
)


def _version(given: bool) -> None:
    if given:
        from fastxent import __version__

        print(f"fastxent {__version__}")
        raise typer.Exit(OK)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def score(
    context: typer.Context,
    predictions: Annotated[str | None, typer.Argument(help=_FILES, metavar="PREDICTIONS", show_default=False)] = None,
    target: Annotated[
        str | None,
        typer.Argument(help="Another, unless PREDICTIONS holds the target.", metavar="TARGET", show_default=False),
    ] = None,
    kind: Annotated[
        Kind, _option("logits, log-probs or probs.", _HOW, show_default=True, metavar="KIND")
    ] = Kind.logits,
    columns: Annotated[
        str | None, _option("A column a class, in natural order ('logit_*'), or names with commas.", _WHAT)
    ] = None,
    target_column: Annotated[
        str | None, _option("Class indices; a pattern of columns for distributions. Default: 'target'.", _WHAT)
    ] = None,
    weight_column: Annotated[str | None, _option("A weight for each row (or a member).", _WHAT)] = None,
    id_column: Annotated[str | None, _option("Names of the rows, for the worst ones.", _WHAT)] = None,
    by: Annotated[str | None, _option("A card for each group of rows: integers or text (or a member).", _WHAT)] = None,
    predictions_key: Annotated[str | None, _option("Member of an .npz, .safetensors, .zarr or .h5.", _WHAT)] = None,
    target_key: Annotated[str | None, _option("Member, likewise.", _WHAT)] = None,
    classes: Annotated[
        str | None, _option("Names of the classes, with commas or in a file, one a line: the target is text.", _WHAT)
    ] = None,
    axis: AxisOption = -1,
    ignore_index: IgnoreOption = None,
    normalize: NormalizeOption = False,
    eps: EpsOption = 0.0,
    sum_tol: SumTolOption = 1e-3,
    temperature: Annotated[float, _option("Divide logits by it.", _HOW, show_default=True)] = 1.0,
    invalid: InvalidOption = Invalid.stop,
    top_k: TopKOption = "1,5",
    bins: BinsOption = 15,
    worst: Annotated[int, _option("Rows of highest NLL to keep.", _SHOW, show_default=True)] = 20,
    bootstrap: Annotated[
        int, _option("Replicates of a bootstrap, for intervals of every figure: 2000, say.", _SHOW, metavar="N")
    ] = 0,
    seed: SeedOption = 0,
    json: JsonOption = None,
    report: ReportOption = None,
    plots: PlotsOption = None,
    resume: Annotated[
        str | None,
        _option(
            "Keep what is scored in STATE; go on from there when run again, whatever happened, on workers or here.",
            _GO,
            metavar="STATE",
        ),
    ] = None,
    save_every: Annotated[float, _option("Seconds between writes of STATE.", _GO, show_default=True)] = 5.0,
    workers: Annotated[
        int | None, _option("Score in so many processes, which share this machine's cores.", _GO, metavar="N")
    ] = None,
    scheduler: Annotated[
        str | None, _option("Score on the workers of a Dask scheduler.", _GO, metavar="ADDRESS")
    ] = None,
    first_row: Annotated[
        int | None, _option("The file's first row in a whole of many files, for the ids of rows.", _GO, metavar="N")
    ] = None,
    hidden: Annotated[str | None, _option("Hidden states, in place of PREDICTIONS.", _LINEAR, metavar="FILE")] = None,
    classifier: Annotated[
        str | None, _option("An array (classes, features) that makes logits of them.", _LINEAR, metavar="FILE")
    ] = None,
    classifier_key: Annotated[str | None, _option("Its name in that file.", _LINEAR)] = None,
    bias: Annotated[
        str | None, _option("A number a class, in a file or by its name in that one.", _LINEAR, metavar="FILE")
    ] = None,
    softcap: Annotated[float | None, _option("Logits become C tanh(z / C).", _LINEAR, metavar="C")] = None,
    target_file: Annotated[
        str | None, _option("The target, unless FILE of --hidden holds it.", _LINEAR, flag="--target", metavar="FILE")
    ] = None,
) -> None:
    """Score predictions against the truth.

    fastxent score logits.npy labels.npy

    fastxent score predictions.parquet --columns 'p_*' --target-column y --kind probs

    fastxent score part-7.npy labels-7.npy --resume part-7.state

    fastxent score --hidden h.npy --classifier w.safetensors --target y.npy
    """
    refuse_bad_path(json)
    from fastxent.files.scan import Wanted

    if predictions is None:
        from fastxent.cli.linear import refuse_other_options, show_linear

        refuse_other_options(context)
        wanted = Wanted(None, target_column, weight_column, id_column, predictions_key, target_key)
        kept: dict[str, Any] = {"ignore_index": ignore_index, "temperature": temperature, "softcap": softcap}
        kept |= {"invalid": invalid.value, "top_k": whole_numbers(top_k, "--top-k"), "worst": worst}
        show_linear(hidden, target_file, classifier, classifier_key, bias, wanted, kept, json)
        return
    for name in ("hidden", "classifier", "classifier_key", "bias", "softcap", "target_file"):
        if context.params[name] is not None:
            option = "--target" if name == "target_file" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: is for --hidden and --classifier, without PREDICTIONS")
    for name, value in (("--first-row", first_row), ("--save-every", save_every)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name}: {value} is negative")
    on_cluster = workers is not None or scheduler is not None
    if workers is not None and workers < 1:
        raise ValueError(f"--workers: {workers} is below 1")
    if workers is not None and scheduler is not None:
        raise ValueError("--workers: starts a cluster, --scheduler names one that runs; give one of them")
    from fastxent.cli.report import Output
    from fastxent.jobs.resume import StateFile
    from fastxent.jobs.score import Job, score_files

    wanted = Wanted(
        columns, target_column, weight_column, id_column, predictions_key, target_key, axis, classes, by_column=by
    )
    options = {
        "kind": kind.value.replace("-", "_"),
        "ignore_index": ignore_index,
        "normalize": normalize,
        "eps": eps,
        "sum_tol": sum_tol,
        "temperature": temperature,
        "top_k": whole_numbers(top_k, "--top-k"),
        "bins": bins,
        "worst": worst,
        "invalid": invalid.value,
        "bootstrap": bootstrap,
        "seed": seed,
    }
    output = Output(context.obj, (predictions, target), report, plots)
    job = Job(predictions, target, wanted, options, first_row)
    state = None if resume is None else StateFile(resume, save_every)
    done, n_bytes, cluster_s, begin = 0, 0, 0.0, time.perf_counter()
    with progress() as show_progress:

        def tell(what: str, fraction: float, rows: int, bytes_read: int) -> None:
            nonlocal done, n_bytes
            done, n_bytes = rows, bytes_read
            show_progress(what, fraction, rows, bytes_read)

        try:
            if on_cluster:
                from fastxent.jobs.cluster import score_on_cluster

                part = score_on_cluster(job, workers=workers, scheduler=scheduler, tell=tell, state=state)
                scorer, done, n_bytes = part.scorer, part.rows, part.n_bytes
                cluster_s = time.perf_counter() - begin - part.elapsed_s
            else:
                scorer = score_files(job, tell=tell, state=state)
        except KeyboardInterrupt:
            if state is None:
                raise
            raise Interrupted(f"{resume} has what was scored; the same command goes on from there") from None
    result = scorer.result()
    elapsed_s = time.perf_counter() - begin
    title = predictions if target is None else f"{predictions}, {target}"
    if output:
        names = job.scan().class_names
        with progress() as show_progress:
            output.write_score(result, title, names, show_progress)
    if json is not None:
        write_json(result.to_dict(), json)
    if json != "-":
        from fastxent.cli.cards import score_card, show, speed

        footer = speed(done, n_bytes, elapsed_s - cluster_s)
        if on_cluster:
            footer += f", and {cluster_s:.1f} s to start and end the cluster"
        if done < result.n + result.ignored + result.invalid:
            footer = (
                f"{resume} had rows already. The others: {footer}" if done else f"From {resume}, which was finished."
            )
        show(score_card(result, title, footer))


app.command("compare")(_compare)
app.command("calibrate")(_calibrate)


@app.command()
def merge(
    context: typer.Context,
    states: Annotated[list[str], typer.Argument(help="Files of --resume, or patterns.", metavar="STATE...")],
    output: Annotated[str | None, _option("Write the joined state to FILE.", _SHOW, metavar="FILE")] = None,
    json: JsonOption = None,
    report: ReportOption = None,
    plots: PlotsOption = None,
    unfinished: Annotated[
        bool, _option("Take runs' states that do not have all their rows yet.", _WHAT, flag="--unfinished")
    ] = False,
) -> None:
    """Join what was scored in parts, here or on other machines: the bits are those of one run over everything.

    fastxent merge part-*.state
    """
    refuse_bad_path(json)
    refuse_bad_path(output, "--output")
    from fastxent.cli.report import Output
    from fastxent.jobs.resume import merge_states

    pages, begin = Output(context.obj, states, report, plots), time.perf_counter()
    with progress() as tell:
        scorer = merge_states(states, unfinished, lambda fraction: tell("merging", fraction, 0, 0))
        result = scorer.result()
        n = scorer.about["merged"]
        title = f"{n:,} state" + "s" * (n != 1)
        if pages:
            pages.write_score(result, title, None, tell)
    if output is not None:
        scorer.save(output)
    if json is not None:
        write_json(result.to_dict(), json)
    if json != "-":
        from fastxent.cli.cards import score_card, show

        show(score_card(result, title, f"{time.perf_counter() - begin:.2f} s to merge"))


@app.command()
def demo(
    json: JsonOption = None,
    files: Annotated[int | None, _option("Read so many source files alone: a quick look.", metavar="N")] = None,
) -> None:
    """Score millions of real predictions that need no download.

    Three models predict every next byte in a third of Python's own standard library, after counting bytes, pairs and
    triples in the rest.
    """
    refuse_bad_path(json)
    from fastxent import demo as demonstration

    with progress() as tell:
        result = demonstration.run(files, lambda what, fraction, rows: tell(what, fraction, rows, 1024 * rows))
    if json is not None:
        write_json(demonstration.to_dict(result), json)
    if json != "-":
        from fastxent.cli.cards import demo_card, show

        show(demo_card(result))


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Words: the cases whose name or topic holds one.")] = None,
    quick: Annotated[bool, _option("Small inputs, a few cases: under a minute.", _RUN, flag="--quick")] = False,
    targets: Annotated[
        bool, _option("Judge what has a target: pass or fail. Takes 10 GB and an hour.", _RUN, flag="--targets")
    ] = False,
    runs: Annotated[
        int | None, _option("Whole tables; the median decides. Default: 1; 3 with --targets.", _RUN)
    ] = None,
    rounds: Annotated[int | None, _option("Turns of each contender in a case, where it is not slow.", _RUN)] = None,
    scaling: Annotated[
        bool, _option("Instead: how time grows with rows, classes and threads.", _RUN, flag="--scaling")
    ] = False,
    crossover: Annotated[
        bool, _option("Instead: tiles of rows against single rows, by classes.", _RUN, flag="--crossover")
    ] = False,
    json: JsonOption = None,
    plot: Annotated[str | None, _option("Draw a chart into FILE, a .png, .svg or .pdf.", _SHOW, metavar="FILE")] = None,
    markdown: Annotated[bool, _option("Print the table as Markdown.", _SHOW, flag="--markdown")] = False,
    compare: Annotated[
        str | None, _option("Say what became slower or faster since FILE, of --json.", _SHOW, metavar="FILE")
    ] = None,
    tolerance: Annotated[
        float, _option("By which part the share of the limit may change.", _SHOW, show_default=True)
    ] = 0.15,
) -> int:
    """Measure fastxent, the other libraries installed, and the speed at which the same bytes can be read.

    Exit code 1: slower than in the file of --compare, or a target missed.

    fastxent bench --quick

    fastxent bench float32-1000 score --plot chart.png
    """
    refuse_bad_path(json)
    if plot is not None:
        refuse_bad_path(plot, "--plot")
    from fastxent.benchmark import charts, session

    charts.require(plot)
    tell = _line_on_terminal()
    if scaling or crossover:
        from fastxent.benchmark import crossover as crossing
        from fastxent.benchmark import scaling as growth

        found = (growth if scaling else crossing).measure(quick, tell)
    else:
        if compare is not None:
            session.read_rows(compare)  # complains before the work
        found = session.measure_named(names or (), quick, targets, runs, rounds, tell)
    tell("")
    if json is not None and not found.interrupted:
        write_json(found.to_dict(), json)
    if plot is not None and not found.interrupted:
        found.draw(plot)
    if json != "-":
        found.show(markdown)
    if found.interrupted:
        raise Interrupted("what was measured until then is shown; no file was written")
    return OK if found.judge(targets, compare, tolerance) else FELL_SHORT


def _line_on_terminal() -> Callable[[str], None]:
    """A function that shows what is being done on one line of a terminal, and keeps what was left out."""
    shown = sys.stderr.isatty()

    def tell(text: str) -> None:
        if "left out" in text:
            sys.stderr.write(f"{text}\n")
        elif shown:  # no thread that redraws: it would disturb what is measured
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    return tell


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` unless given.

    Returns
    -------
    int
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with own_words(lambda message: _complain("warning", message)):
            code = app(arguments or ["--help"], prog_name="fastxent", standalone_mode=False, obj=arguments)
            sys.stdout.flush()
        if code != INTERRUPTED:
            return int(code or OK)
    except KeyboardInterrupt:
        pass
    except Interrupted as interruption:
        _complain("interrupted", str(interruption))
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        return _complain("error", f"{name}{(error.strerror or str(error)).lower()}" if name else str(error))
    except (ValueError, TypeError, ImportError, MemoryError) as error:
        return _complain("error", str(error) or type(error).__name__)
    except Exception as error:
        # Typer's errors have no public class in common over its versions.
        if hasattr(error, "format_message"):
            return _complain("error", f"{error.format_message()} (see fastxent --help)")
        if type(error).__name__ != "Abort":  # what some versions make of Ctrl-C; others return 130
            raise
    _complain("interrupted", "nothing was written")
    return INTERRUPTED


def _complain(what: str, message: str) -> int:
    print(f"fastxent: {what}: {one_line(message)}", file=sys.stderr)
    return WRONG
