"""Calibration of predictions in files of any size: a pass over them a step of the fit, and one to score the result."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastxent.files.scan import Scan, Wanted
from fastxent.files.source import changed

if TYPE_CHECKING:
    from fastxent.fit import Calibration, TemperatureScaling, VectorScaling


class FileChunks:
    """The rows of files as (logits, target, sample_weight), from the beginning as often as they are asked for."""

    def __init__(self, predictions: str, target: str | None, wanted: Wanted, tell: Callable[..., None]) -> None:
        self._files, self._tell = (predictions, target, wanted), tell
        self.passes = 0
        self._fingerprint = Scan(*self._files).fingerprint()  # a missing file is told before Numba loads

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        self.passes += 1
        scan = Scan(*self._files)
        if scan.fingerprint() != self._fingerprint:
            raise changed(scan.name)
        for chunk in scan:
            yield chunk.predictions, chunk.target, chunk.weight
            self._tell(f"pass {self.passes}", scan.fraction, scan.rows_read, scan.bytes_read)


def calibrate_files(
    predictions: str,
    target: str | None = None,
    wanted: Wanted | None = None,
    ignore_index: int | None = None,
    method: str = "temperature",
    tell: Callable[..., None] | None = None,
    *,
    kind: str = "logits",
    bootstrap: int = 0,
    seed: int = 0,
) -> "tuple[TemperatureScaling | VectorScaling, Calibration]":
    """Fit a temperature, or scales and biases, to predictions in a file, and score them as they are and calibrated.

    Parameters
    ----------
    predictions, target : str
        Files that `fastxent.files` reads; no target where the predictions' file holds it.
    wanted : Wanted, optional
        What to read of them.
    ignore_index : int, optional
        Rows with this label are left out.
    method : {"temperature", "vector"}
    tell : callable, optional
        Is told about progress, as in `score_files`.
    kind : {"logits", "log_probs", "probs"}
    bootstrap, seed : int
        As in `fastxent.score`.

    Returns
    -------
    TemperatureScaling or VectorScaling
    Calibration

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line about the files, the options, or the first offending row and value.
    """
    chunks = FileChunks(predictions, target, wanted or Wanted(), tell or (lambda *_: None))
    from fastxent.fit import TemperatureScaling, VectorScaling

    calibrators: dict[str, Any] = {"temperature": TemperatureScaling, "vector": VectorScaling}
    calibrator = calibrators[method](kind=kind, ignore_index=ignore_index).fit_chunks(chunks)
    return calibrator, calibrator.evaluate_chunks(chunks, bootstrap=bootstrap, seed=seed)


def evaluate_files(
    calibrator: "TemperatureScaling | VectorScaling",
    predictions: str,
    target: str | None = None,
    wanted: Wanted | None = None,
    tell: Callable[..., None] | None = None,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> "Calibration":
    """Score a file's rows as they are and calibrated; arguments as in `calibrate_files`."""
    chunks = FileChunks(predictions, target, wanted or Wanted(), tell or (lambda *_: None))
    return calibrator.evaluate_chunks(chunks, bootstrap=bootstrap, seed=seed)


def load_calibrator(path: str) -> "TemperatureScaling | VectorScaling":
    """Read what a calibrator's `save` wrote.

    Raises
    ------
    ValueError, OSError
        Where there is no such file, or it is anything else.
    """
    from fastxent.fit import TemperatureScaling, VectorScaling

    try:
        return TemperatureScaling.load(path)
    except ValueError:
        return VectorScaling.load(path)


def apply_to_file(
    calibrator: "TemperatureScaling | VectorScaling",
    predictions: str,
    output: str,
    wanted: Wanted | None = None,
    tell: Callable[..., None] | None = None,
) -> int:
    """Write a file's predictions, calibrated, to a .npy of (rows, classes), in one pass that keeps one block in memory.

    Parameters
    ----------
    calibrator : TemperatureScaling or VectorScaling
    predictions : str
        A file that `fastxent.files` reads.
    output : str
        Has the predictions' dtype; float32 for bfloat16, which a .npy cannot hold. It appears whole or not at all.
    wanted : Wanted, optional
        What to read of the file.
    tell : callable, optional

    Returns
    -------
    int
        Rows.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line about the files, or the first offending row and value.
    """
    from fastxent.files.write import NpyWriter

    tell, scan = tell or (lambda *_: None), Scan(predictions, None, replace(wanted or Wanted(), has_target=False))
    with NpyWriter(output) as file:
        for chunk in scan:
            try:
                rows = calibrator.transform(chunk.predictions).reshape(chunk.n_rows, -1)
            except ValueError as error:
                raise ValueError(f"{error} (rows counted from row {chunk.start})" if chunk.start else error) from None
            file.append(rows.astype("f4") if rows.dtype.kind == "V" or rows.dtype.name == "bfloat16" else rows)
            tell("writing", scan.fraction, scan.rows_read, scan.bytes_read)
        return file.n_rows
