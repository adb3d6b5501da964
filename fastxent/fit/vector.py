"""Vector scaling: a scale and a bias for every class, by maximum likelihood."""

import math
import warnings
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.checks import Batch
from fastxent.fit.calibrator import Calibrator
from fastxent.fit.chunks import Chunks, Data, refusal
from fastxent.fit.estimator import convergence_warning
from fastxent.fit.evaluation import Calibration, evaluate
from fastxent.fit.temperature import minimise
from fastxent.gradients import cross_entropy_value_and_grad
from fastxent.kernels.columns import exact_sum_add_columns
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_value
from fastxent.kernels.narrow import widened
from fastxent.options import as_kind, as_real
from fastxent.threads import limited

BLOCK = 1 << 20  # logits that are scaled at once


class VectorScaling(Calibrator):
    """Calibrated probabilities softmax(a·z + b), with a scale a_k and a bias b_k a class that minimise the NLL.

    L-BFGS of SciPy, from the best temperature (a_k = 1/T, b_k = 0) on; Σ b_k = 0. The loss and its slopes are exact
    sums over the rows, so that chunks and threads change no bit. In as many parameters as 2 C it wants more held-out
    rows than `TemperatureScaling`, and can change which class is predicted.

    Parameters
    ----------
    penalty : float
        λ of λ/2 (Σ (T a_k - 1)² + Σ b_k²), which is added to the rows' summed NLL: a Gaussian prior of variance 1/λ
        around the best temperature. 0: maximum likelihood, which needs rows of every class.
    max_iter : int
        Most iterations.
    tol : float
        Of the mean loss's slope in any of T a_k and b_k.
    kind, ignore_index, axis, threads
        As in `TemperatureScaling`.

    Attributes
    ----------
    scale_, bias_ : array, float64, shape (C,)
    nll_ : float
        Mean NLL (nats) of the rows.
    n_passes_ : int
        Passes over the rows.
    n_classes_ : int

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, ICML (2017), section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.fit import VectorScaling
    >>> logits = np.repeat([[2.0, 0.0], [0.0, 2.0]], 4, axis=0)  # right three times of four
    >>> calibrator = VectorScaling().fit(logits, [0, 0, 0, 1, 1, 1, 1, 0])
    >>> calibrator.predict_proba(logits)[0].round(4)
    array([0.75, 0.25])
    """

    schema = "fastxent.vector/1"

    scale_: np.ndarray
    bias_: np.ndarray
    nll_: float
    n_passes_: int
    n_classes_: int

    def __init__(
        self,
        *,
        penalty: float = 0.0,
        max_iter: int = 500,
        tol: float = 1e-6,
        kind: str = "logits",
        ignore_index: int | None = None,
        axis: int = -1,
        threads: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.max_iter = max_iter
        self.tol = tol
        self.kind = kind
        self.ignore_index = ignore_index
        self.axis = axis
        self.threads = threads

    def fit_chunks(self, chunks: Chunks) -> "VectorScaling":
        """Find scales and biases of rows that come in chunks; as `TemperatureScaling.fit_chunks`."""
        from scipy.optimize import minimize

        penalty = as_real(self.penalty, "penalty", 0.0, math.inf, open_high=True)
        data = self._data(chunks)
        with limited(self.threads):
            temperature, at = minimise(data)
            objective = _Objective(data, temperature, at.weight, penalty)
            start = np.repeat([1.0, 0.0], data.n_classes)
            found = minimize(
                objective, start, jac=True, method="L-BFGS-B", options={"gtol": self.tol, "maxiter": self.max_iter}
            )
        if not found.success:
            warnings.warn(
                f"VectorScaling: no optimum after {found.nit} iterations ({found.message}); raise max_iter, or pass "
                "penalty=1.0 or so where scales and biases grow without end",
                convergence_warning(),
                stacklevel=2,
            )
        alpha, bias = np.split(found.x, 2)
        self.scale_, self.bias_ = alpha / temperature, bias
        self.nll_, self.n_passes_, self.n_classes_ = objective.nll, data.passes, data.n_classes
        return self

    def _scaled(self, z: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """a·z + b in float64; a masked class (-inf) stays one."""
        with np.errstate(invalid="ignore"):
            return np.where(z == -np.inf, -np.inf, z.astype(np.float64) * self.scale_ + self.bias_)

    def __str__(self) -> str:
        if not hasattr(self, "scale_"):
            return repr(self)
        ranges = ((name, x.min(), x.max()) for name, x in (("scales", self.scale_), ("biases", self.bias_)))
        return "\n".join(f"{name:<18}{low:.6f} to {high:.6f}" for name, low, high in ranges)

    def to_dict(self) -> dict[str, Any]:
        """The fitted figures as plain Python objects: scale, bias, kind, nll, passes, n_classes."""
        self._require_fit("scale_")
        figures = {"scale": self.scale_.tolist(), "bias": self.bias_.tolist(), "nll": self.nll_}
        return {**figures, "kind": self.kind, "passes": self.n_passes_, "n_classes": self.n_classes_}

    def _restore(self, facts: dict[str, Any]) -> None:
        self.kind = facts.get("kind", "logits")
        as_kind(self.kind)
        self.scale_, self.bias_ = np.array(facts["scale"], np.float64), np.array(facts["bias"], np.float64)
        self.nll_, self.n_passes_, self.n_classes_ = facts["nll"], facts["passes"], facts["n_classes"]
        if not self.scale_.shape == self.bias_.shape == (self.n_classes_,):
            raise ValueError("scale and bias need one number a class")

    def _evaluate(self, data: Data, bootstrap: int, seed: int) -> Calibration:
        return evaluate(data, transform=self._scaled, bootstrap=bootstrap, seed=seed)


class _Objective:
    """The penalised mean NLL and its gradient in T·a and b, from one pass over the rows."""

    def __init__(self, data: Data, temperature: float, weight: float, penalty: float) -> None:
        self._data, self._temperature, self._weight, self._penalty = data, temperature, weight, penalty
        self.nll = math.nan
        self._seen = False

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        alpha, bias = np.split(parameters, 2)
        in_class = np.zeros(alpha.size)
        sums = np.zeros((1 + 2 * alpha.size, STATE_SIZE), np.int64)  # the loss, then its slopes in alpha and in bias

        def add(batch: Batch) -> None:
            ignore_index = batch.ignore_index if batch.has_ignore else None
            for _, _, z, t, s in batch.slices(max(1, BLOCK // alpha.size)):
                x = widened(z).reshape(-1, alpha.size).astype(np.float64) / self._temperature
                masked = x == -np.inf
                x[masked] = 0.0
                logits = x * alpha + bias
                logits[masked] = -np.inf
                t = t if batch.is_hard else widened(t).reshape(x.shape)
                weights = s if s.size else None
                rows, grad = cross_entropy_value_and_grad(
                    logits, t, sample_weight=weights, ignore_index=ignore_index, reduction="none", out=logits
                )
                if not np.isfinite(rows).all():
                    raise refusal(batch)
                exact_sum_add_columns(sums[:1], rows[:, None])
                exact_sum_add_columns(sums[1 + alpha.size :], grad)
                exact_sum_add_columns(sums[1 : 1 + alpha.size], np.multiply(grad, x, out=x))
                if not self._seen:
                    in_class[:] += _class_weights(t, weights, alpha.size, ignore_index)

        self._data.go_through(add)
        if not self._seen and self._penalty == 0.0 and not in_class.all():
            raise ValueError(
                f"target: class {checks.first(in_class == 0)} has no row, so that its bias would go to -infinity; "
                "pass penalty=1.0 or so, or calibrate by a temperature"
            )
        total, *slopes = (float(exact_sum_value(state)) for state in sums)
        of_alpha, of_bias = np.split(np.array(slopes), 2)
        self._seen, self.nll = True, total / self._weight
        total += 0.5 * self._penalty * float(((alpha - 1.0) ** 2).sum() + (bias**2).sum())
        slope = np.concatenate([of_alpha + self._penalty * (alpha - 1.0), of_bias + self._penalty * bias])
        return total / self._weight, slope / self._weight


def _class_weights(t: np.ndarray, s: np.ndarray | None, n_classes: int, ignore_index: int | None) -> np.ndarray:
    """The weight that each class has in the target."""
    if t.ndim > 1:
        return np.asarray(t.sum(axis=0) if s is None else s @ t, np.float64)
    kept = slice(None) if ignore_index is None else t != ignore_index
    return np.bincount(t[kept], None if s is None else s[kept], n_classes)
