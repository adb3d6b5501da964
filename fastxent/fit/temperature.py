"""Temperature scaling: one number that divides all logits, by maximum likelihood."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.checks import Batch
from fastxent.fit.calibrator import Calibrator
from fastxent.fit.chunks import Chunks, Data, refusal
from fastxent.fit.evaluation import Calibration, evaluate
from fastxent.kernels import batch as kernels
from fastxent.kernels import temperature as tempering
from fastxent.kernels.exactsum import NANS, NEG_INF, POS_INF, STATE_SIZE, exact_sum_value
from fastxent.options import as_kind, as_temperature
from fastxent.threads import limited

# The last step of Newton's method is taken when it is so small (of ln T): what is left is its square.
LAST_STEP = 1e-5
FIRST_LIMIT = 1.5  # the longest step of ln T; twice that where the one before was as long and in the same direction
FLAT = 1e-30  # derivatives a row that are as good as none: float32 terms are not taken below 2^-125
FURTHEST = 40 * math.log(2.0)  # of ln T from 0: no temperature beyond is looked for


@dataclass(frozen=True)
class Slope:
    """Sums over the rows at one temperature."""

    loss: float  # nats
    first: float  # d loss / d(1/T)
    second: float  # d² loss / d(1/T)²
    weight: float  # of the rows


class TemperatureScaling(Calibrator):
    """Calibrated probabilities softmax(z / T), with the T > 0 that minimises the NLL of held-out rows.

    The NLL is convex in 1/T. Newton's method in ln T takes its derivatives from one pass over the rows a step, in most
    cases three to six, and keeps the bracket that the slopes' signs give. The sums are exact, so that T has the same
    bits for any threads and chunks.

    Parameters
    ----------
    kind : {"logits", "log_probs", "probs"}
        What predictions come in, and come out calibrated. Of probabilities, the logits are their logarithms.
    ignore_index : int, optional
        Rows with this label are not read.
    axis : int
        The class axis of logits.
    threads : int, optional
        At most so many threads; never changes the result.

    Attributes
    ----------
    temperature_ : float
        T. Above 1 the classifier was overconfident.
    temperature_se_ : float
        Its standard error, T² / sqrt(Σ s Var_q[z]), from the observed information; weights count as rows.
    nll_ : float
        Mean NLL (nats) at the last temperature but one, nearly that at T; `evaluate` gives it exactly.
    n_passes_ : int
        Passes over the rows.
    n_classes_ : int

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, ICML (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.fit import TemperatureScaling
    >>> logits, labels = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 0.0]]), np.array([0, 1, 0, 1])
    >>> calibrator = TemperatureScaling().fit(logits, labels)
    >>> round(calibrator.temperature_, 6)  # three of four right: odds of 3 = e^(4 / T)
    3.640957
    >>> calibrator.predict_proba(logits)[0]
    array([0.75, 0.25])
    """

    schema = "fastxent.temperature/1"

    temperature_: float
    temperature_se_: float
    nll_: float
    n_passes_: int
    n_classes_: int

    def __init__(
        self,
        *,
        kind: str = "logits",
        ignore_index: int | None = None,
        axis: int = -1,
        threads: int | None = None,
    ) -> None:
        self.kind = kind
        self.ignore_index = ignore_index
        self.axis = axis
        self.threads = threads

    def fit_chunks(self, chunks: Chunks) -> "TemperatureScaling":
        """Find the temperature of rows that come in chunks.

        Parameters
        ----------
        chunks : iterable of (logits, target) or (logits, target, sample_weight)
            Is gone through once a pass: a list, or an object whose ``__iter__`` starts again, reading from files.

        Returns
        -------
        TemperatureScaling
            This one.

        Raises
        ------
        ValueError, TypeError
            As in `fit`.
        """
        data = self._data(chunks)
        with limited(self.threads):
            temperature, at = minimise(data)
        self.temperature_, self.n_passes_ = temperature, data.passes
        self.nll_ = at.loss / at.weight
        self.temperature_se_ = temperature**2 / math.sqrt(at.second)
        self.n_classes_ = data.n_classes
        return self

    def _scaled(self, z: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        divided: np.ndarray = np.divide(z, np.dtype(dtype).type(self.temperature_))
        return divided

    def _evaluate(self, data: Data, bootstrap: int, seed: int) -> Calibration:
        return evaluate(data, self.temperature_, bootstrap=bootstrap, seed=seed)

    def __str__(self) -> str:
        if not hasattr(self, "temperature_"):
            return repr(self)
        return f"{'temperature':<18}{self.temperature_:.6f} (se {self.temperature_se_:.2g})"

    def to_dict(self) -> dict[str, Any]:
        """The fitted figures as plain Python objects: temperature, standard_error, kind, nll, passes, n_classes."""
        return {
            "temperature": self._require_fit("temperature_"),
            "standard_error": self.temperature_se_,
            "kind": self.kind,
            "nll": self.nll_,
            "passes": self.n_passes_,
            "n_classes": self.n_classes_,
        }

    def _restore(self, facts: dict[str, Any]) -> None:
        self.kind = facts.get("kind", "logits")
        as_kind(self.kind)
        self.temperature_, self.temperature_se_ = as_temperature(facts["temperature"]), facts["standard_error"]
        self.nll_, self.n_passes_, self.n_classes_ = facts["nll"], facts["passes"], facts["n_classes"]


def _slope(data: Data, temperature: float) -> Slope:
    """The sums at one temperature, from one pass."""
    sums = np.zeros((tempering.N_SUMS, STATE_SIZE), np.int64)

    def add(batch: Batch) -> None:
        for start, _, z, t, s in batch.slices():
            if batch.is_hard:
                call = kernels.temperature_sums(z, t, s, batch.has_ignore, batch.ignore_index, temperature)
            else:
                call = kernels.temperature_sums_soft(z, t, s, temperature)
            row, reason = call.run(sums=sums)
            if row >= 0:
                raise batch.error(start + row, reason)
            if sums[tempering.LOSS, [POS_INF, NEG_INF, NANS]].any():
                raise refusal(batch)

    data.go_through(add)
    loss, first, second, weight = (float(exact_sum_value(state)) for state in sums)
    if not weight > 0.0:
        raise ValueError("target: no row to fit: there is none, or each is ignored or has weight 0")
    return Slope(loss, first, second, weight)


def minimise(data: Data) -> tuple[float, Slope]:
    """The temperature of least loss, and the sums at the last one tried."""
    temperature, low, high, limit, last = 1.0, 0.0, math.inf, FIRST_LIMIT, 0.0
    while True:
        at = _slope(data, temperature)
        # The slope of the loss in ln T is -first / T; Newton looks for a zero of `first` as a function of ln T.
        if at.first < 0.0:
            high = temperature
        else:
            low = temperature
        curvature = at.second / temperature
        if at.first == 0.0 and at.second > 0.0:
            return temperature, at
        step = at.first / curvature if abs(at.first) < curvature * 1e9 else math.copysign(math.inf, at.first)
        if abs(step) > limit:
            step = math.copysign(limit, step)
            limit *= 2.0 if step * last > 0.0 else 1.0
        following = temperature * float(kernels.exp_scalar(step))
        if abs(step) <= LAST_STEP and last != 0.0:
            return following, at
        if not low < following < high:
            following = math.sqrt(low * high)  # never without a bracket
        flat = max(abs(at.first), at.second) <= FLAT * at.weight
        if flat or not abs(math.log(following)) < FURTHEST:
            raise ValueError(_no_optimum(at, flat and (at.loss > 0.5 * at.weight or data.n_classes == 1)))
        if following == temperature:
            return temperature, at
        temperature, last = following, step


def _no_optimum(at: Slope, equal: bool) -> str:
    """Why no temperature is best, from the sums far out, and whether a row's logits are all equal."""
    if equal:
        return "logits: those of a row are all equal, in every row: no temperature changes the loss"
    if at.first <= 0.0:
        return (
            "logits: every row's label has its largest logit, so that the likelihood grows without end as T goes to 0; "
            "calibrate on rows that the classifier was not fitted on, or on more of them"
        )
    return (
        "logits: the labels' are no larger than the rows' means, so that the likelihood grows without end as T goes to "
        "infinity: predictions worse than chance; are the classes in the target's order, and are these logits?"
    )
