"""Calibration of predictions in files of any size: a pass over them a step of the fit, and one to score the result."""

import os
from collections.abc import Callable, Iterator
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
) -> "tuple[TemperatureScaling | VectorScaling, Calibration]":
    """Fit a temperature, or scales and biases, to the logits in a file, and score them as they are and calibrated.

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
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in score_files
    from fastxent.fit import TemperatureScaling, VectorScaling

    kind: Any = {"temperature": TemperatureScaling, "vector": VectorScaling}[method]
    calibrator = kind(ignore_index=ignore_index).fit_chunks(chunks)
    return calibrator, calibrator.evaluate_chunks(chunks)
