"""What both calibrators share: fitting and judging rows at hand, files of their state."""

import os
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastxent import checks, losses
from fastxent.fit.chunks import Chunks, Data, as_logits
from fastxent.fit.estimator import Estimator, load_json, save_json
from fastxent.fit.evaluation import Calibration
from fastxent.options import as_kind
from fastxent.threads import limited

C = TypeVar("C", bound="Calibrator")


class Calibrator(Estimator, ABC):
    """Fitted on predictions and a target, it turns predictions into better ones of the same kind."""

    schema: str  # of its files
    kind: str
    ignore_index: int | None
    axis: int
    threads: int | None
    n_classes_: int

    @abstractmethod
    def fit_chunks(self: C, chunks: Chunks) -> C:
        """Fit to rows that come in chunks."""

    @abstractmethod
    def _scaled(self, z: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Calibrated logits of logits, class axis last."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The fitted figures as plain Python objects."""

    @abstractmethod
    def _restore(self, facts: dict[str, Any]) -> None:
        """Take what `to_dict` gave."""

    @abstractmethod
    def _evaluate(self, data: Data, bootstrap: int, seed: int) -> Calibration:
        """Score cards before and after."""

    def fit(self: C, logits: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None) -> C:
        """Fit to held-out rows.

        Parameters
        ----------
        logits : array, shape (..., C), float16, bfloat16, float32, float64 or integers
            Or probabilities or their logarithms, as ``kind`` says.
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

    def transform(self, logits: ArrayLike, out: Any = None) -> np.ndarray:
        """Calibrated predictions, of the kind that comes in.

        Parameters
        ----------
        logits : array
            Predictions as in `fit`.
        out : array, the predictions' shape and dtype, optional
            May be the predictions themselves.

        Returns
        -------
        array, the predictions' shape and dtype
            float64 for integers.
        """
        z, dtype = self._checked(logits)
        if self.kind == "logits":
            return put(self._scaled(z, dtype).astype(dtype, copy=False), self.axis, out)
        of_logits = losses.softmax if self.kind == "probs" else losses.log_softmax
        return put(of_logits(self._scaled(z), threads=self.threads).astype(dtype), self.axis, out)

    def apply(self, logits: ArrayLike, out: Any = None) -> np.ndarray:
        """The same as `transform`."""
        return self.transform(logits, out)

    def predict_proba(self, logits: ArrayLike) -> np.ndarray:
        """Calibrated probabilities, of the predictions' dtype."""
        probs: np.ndarray = self.transform(logits)
        if self.kind == "logits":
            probs = losses.softmax(probs, axis=self.axis, threads=self.threads)
        elif self.kind == "log_probs":
            z, dtype = self._checked(logits)
            probs = put(losses.softmax(self._scaled(z), threads=self.threads).astype(dtype), self.axis, None)
        return probs

    def evaluate(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> Calibration:
        """Score rows as they are and calibrated.

        Parameters
        ----------
        logits, target, sample_weight
            As in `fit`; best of rows that it has not seen.
        bootstrap, seed : int
            As in `fastxent.score`: replicates for the calibration error's interval and those of the changes.

        Returns
        -------
        Calibration
            Before and after.
        """
        return self.evaluate_chunks([(logits, target, sample_weight)], bootstrap=bootstrap, seed=seed)

    def evaluate_chunks(self, chunks: Chunks, *, bootstrap: int = 0, seed: int = 0) -> Calibration:
        """The same for rows that come in chunks, in one pass."""
        self._require_fit("n_classes_")
        with limited(self.threads):
            return self._evaluate(self._data(chunks), bootstrap, seed)

    def _data(self, chunks: Chunks) -> Data:
        as_kind(self.kind)
        return Data(chunks, self.ignore_index, self.axis, self.kind)

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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{os.fspath(path)}: not what {cls.__name__} saves ({error!r})") from None
        return calibrator

    def _checked(self, predictions: ArrayLike) -> tuple[np.ndarray, Any]:
        """Logits with the class axis last, of the classes that it was fitted to, and the predictions' dtype."""
        n_classes, kind = self._require_fit("n_classes_"), self.kind
        as_kind(kind)
        z = checks.as_predictions(predictions, kind, self.axis)
        if z.n_classes != n_classes:
            raise ValueError(f"{kind}: {z.n_classes} classes; {type(self).__name__} was fitted to {n_classes}")
        no_labels = np.zeros(z.shape, np.int64)
        batch = as_logits(checks.Batch(z, no_labels, checks.ABSENT, None, False, 0), kind)
        return checks.array_of(batch.predictions), checks.result_dtype(z)


def put(calibrated: np.ndarray, axis: int, out: Any) -> np.ndarray:
    """Calibrated logits, class axis last, where the caller wants them."""
    calibrated = np.moveaxis(calibrated, -1, axis)
    if out is None:
        return calibrated
    np.copyto(out, calibrated, casting="same_kind")
    result: np.ndarray = out
    return result
