"""What both calibrators share: fitting and judging rows at hand, files of their state."""

import os
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks, losses
from fastxent.fit.chunks import Chunks, Data
from fastxent.fit.estimator import Estimator, load_json, save_json
from fastxent.fit.evaluation import Calibration
from fastxent.slices import Predictions
from fastxent.threads import limited

C = TypeVar("C", bound="Calibrator")


class Calibrator(Estimator, ABC):
    """Fitted on logits and a target, it turns logits into better ones."""

    schema: str  # of its files
    ignore_index: int | None
    axis: int
    threads: int | None
    n_classes_: int

    @abstractmethod
    def fit_chunks(self: C, chunks: Chunks) -> C:
        """Fit to rows that come in chunks."""

    @abstractmethod
    def transform(self, logits: ArrayLike, out: Any = None) -> np.ndarray:
        """Calibrated logits."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The fitted figures as plain Python objects."""

    @abstractmethod
    def _restore(self, facts: dict[str, Any]) -> None:
        """Take what `to_dict` gave."""

    @abstractmethod
    def _evaluate(self, data: Data) -> Calibration:
        """Score cards before and after."""

    def fit(self: C, logits: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None) -> C:
        """Fit to held-out rows.

        Parameters
        ----------
        logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
        target : integer array, shape (...), or floating array of the logits' shape
            Class indices or distributions.
        sample_weight : array, shape (...), optional
            Non-negative weights of the rows.

        Returns
        -------
        Calibrator
            This one.

        Raises
        ------
        ValueError, TypeError
            One line that names the argument, the first offending row and the value; or why nothing is best.
        """
        return self.fit_chunks([(logits, target, sample_weight)])

    def apply(self, logits: ArrayLike, out: Any = None) -> np.ndarray:
        """The same as `transform`."""
        return self.transform(logits, out)

    def predict_proba(self, logits: ArrayLike) -> np.ndarray:
        """softmax of the calibrated logits, of the logits' dtype."""
        probs: np.ndarray = losses.softmax(self.transform(logits), axis=self.axis, threads=self.threads)
        return probs

    def evaluate(self, logits: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None) -> Calibration:
        """Score rows as they are and calibrated.

        Parameters
        ----------
        logits, target, sample_weight
            As in `fit`; best of rows that it has not seen.

        Returns
        -------
        Calibration
            Before and after.
        """
        return self.evaluate_chunks([(logits, target, sample_weight)])

    def evaluate_chunks(self, chunks: Chunks) -> Calibration:
        """The same for rows that come in chunks, in one pass."""
        self._require_fit("n_classes_")
        with limited(self.threads):
            return self._evaluate(Data(chunks, self.ignore_index, self.axis))

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write what was fitted as JSON, to a file that appears whole or not at all."""
        save_json(path, self.schema, self.to_dict())

    @classmethod
    def load(cls: type[C], path: "str | os.PathLike[str]") -> C:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Where the file is anything else.
        """
        facts, calibrator = load_json(path, cls.schema), cls()
        try:
            calibrator._restore(facts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: not what {cls.__name__} saves ({error!r})") from None
        return calibrator

    def _checked(self, logits: ArrayLike) -> Predictions:
        """Logits with the class axis last, of the classes that it was fitted to."""
        n_classes = self._require_fit("n_classes_")
        z = checks.as_predictions(logits, "logits", self.axis)
        if z.n_classes != n_classes:
            raise ValueError(f"logits: {z.n_classes} classes; {type(self).__name__} was fitted to {n_classes}")
        return z


def put(calibrated: np.ndarray, axis: int, out: Any) -> np.ndarray:
    """Calibrated logits, class axis last, where the caller wants them."""
    calibrated = np.moveaxis(calibrated, -1, axis)
    if out is None:
        return calibrated
    np.copyto(out, calibrated, casting="same_kind")
    result: np.ndarray = out
    return result
