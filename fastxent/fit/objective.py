"""The penalised NLL of a linear model with its derivatives, in coordinates that suit an optimiser.

A point is a matrix (K, d) or, with an intercept, (K, d + 1): coefficients of features that are shifted to mean 0 and
scaled to variance 1, then the intercept. X itself is neither shifted nor scaled, and so may be sparse:

    z = X Wᵀ + b,  W = θ_W / σ,  b = θ_b - W μ.

K is 1 for two classes, the log-odds of the second, and else their number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse

from fastxent.fit.blocks import LinearModel, worth_narrowing
from fastxent.fit.priors import Gaussian, Laplace, Prior, checked
from fastxent.kernels.curvature import times_curvature
from fastxent.losses import softmax
from fastxent.threads import blas_on_one_thread, current_threads

# Of fewer logits than this probabilities are made on one thread. BLAS's threads still wait busily for a while after a
# product, and ours would for them: 5 ms a call of 20,000 rows on 2 cores, where one thread takes 0.2 ms.
PARALLEL = 1 << 22
BLOCK = 1 << 21  # numbers of features that are made at once: shifted and scaled, or of float64
CACHED = 1 << 15  # the same, where a core goes over them several times


class Objective:
    """Mean NLL - ln P / Σ s and its derivatives, of points as flat arrays."""

    def __init__(
        self,
        x: Any,
        target: np.ndarray,
        weight: "np.ndarray | None",
        n_classes: int,
        prior: Prior | None,
        intercept: bool,
    ) -> None:
        self.x, self.target, self.weight, self.prior, self.intercept = x, target, weight, prior, intercept
        self.n, self.d = x.shape
        self.total = float(self.n) if weight is None else float(weight.sum())
        self.binary = n_classes == 2
        self.k = 1 if self.binary else n_classes
        self._target = target
        if self.binary:
            self._target = (target if target.ndim == 1 else target[:, 1])[:, None].astype(np.float64)
        self.shift, self.scale = _moments(x, weight, self.total, intercept)
        self.bend = np.zeros(self.d)  # a prior's curvature over that of the loss in logits of 0, (1 - 1/C)/C
        if isinstance(prior, Gaussian):
            self.precision = -prior.precision(self.d)
            self.bend = -self.precision / (self.total * (1.0 - 1.0 / n_classes) / n_classes)
            self.scale = np.sqrt(self.scale**2 + self.bend)
        self.shape = (self.k, self.d + intercept)
        self.share = self._shares()
        origin = np.zeros(self.shape)
        if intercept:
            logits = np.log(self.share / (1.0 - self.share)) if self.binary else np.log(self.share)
            origin[:, self.d] = logits if self.binary else logits - logits.mean()
        self.origin = origin.ravel()  # the point of no coefficients, and of probabilities that are the shares
        self.wide = bool(x.dtype == np.float64)
        self.narrowed = not self.wide  # at the beginning
        self.latest = self.slope = np.empty(0)  # the last point and the gradient there
        self.value = self.nll = np.nan  # what is minimised, and the mean NLL, there
        self.keeps = False
        self._threads = 1
        self._model = self._of(x)
        # What the model's features were already shifted by and scaled with.
        self._shifted: Any = np.zeros(self.d)
        self._scaled: Any = np.ones(self.d)
        self._last: tuple[bytes, np.ndarray] = b"", np.empty(0)  # a point and its gradient in the logits
        self._key: bytes = b""
        self._probs: np.ndarray = np.empty(0)

    def _of(self, x: Any, dtype: Any = None) -> LinearModel:
        dtype = np.dtype(dtype or x.dtype)
        return LinearModel(x, self._target, self.weight, self.k, dtype, 1.0 / self.total, self.keeps)

    def _shares(self) -> np.ndarray:
        """The classes' shares of the weight, that of the second of two; none is 0."""
        if self.target.ndim == 1:
            mass = np.bincount(self.target, self.weight, 2 if self.binary else self.k)
        else:
            mass = self.target.sum(axis=0) if self.weight is None else self.weight @ self.target
        mass = np.maximum(mass, 0.5 * self.total / self.n)
        return np.asarray(mass[1:] / mass.sum() if self.binary else mass / mass.sum())

    def narrow(self) -> None:
        """Compute in float32 from now on, where that is quicker, with a copy of features of float64."""
        if worth_narrowing(self.x, self.k):
            self.wide, self.narrowed, self._scaled = False, True, self.scale
            if sparse.issparse(self.x):
                copy = self.x.astype(np.float32)
                copy.data = (self.x.data / self.scale[self.x.indices]).astype(np.float32)
            else:
                copy, self._shifted = np.empty(self.x.shape, np.float32), self.shift
                step = max(1, CACHED // self.d)
                for start in range(0, self.n, step):
                    rows = slice(start, start + step)
                    np.divide(self.x[rows] - self.shift, self.scale, out=copy[rows], casting="same_kind")
            self._model = self._of(copy)

    def keep(self) -> None:
        """From now on keep gradients in the logits, which probabilities follow from."""
        self.keeps = True
        self._model = self._of(self.x, np.float64 if self.wide else None)

    def widen(self) -> None:
        """From now on compute in float64, with features of float32 a block of rows at a time."""
        if not self.wide:
            self._shifted, self._scaled = np.zeros(self.d), np.ones(self.d)
            self.wide, self._key, self._last = True, b"", (b"", np.empty(0))
            self._model = self._of(self.x, np.float64)

    @contextmanager
    def on_threads(self) -> Iterator[None]:
        """For the block in which losses are made one after another: on threads if worth it, BLAS on one in each.

        Small products take BLAS's threads many times as long where another process wants a core: digits, 600 ms
        instead of 20.
        """
        with blas_on_one_thread() as alone:
            self._threads = current_threads() if alone else 1
            try:
                yield
            finally:
                self._threads = 1

    def _parts(self) -> Iterator[tuple[slice, Any]]:
        """Rows with their features, as they are computed with."""
        if self.x.dtype == np.float64 or not self.wide:
            yield slice(None), self.x
            return
        step = max(1, BLOCK // self.d)
        for start in range(0, self.n, step):
            rows = slice(start, start + step)
            yield rows, self.x[rows].astype(np.float64)

    def coefficients(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W and b of a point."""
        theta = point.reshape(self.shape)
        coef = theta[:, : self.d] / self.scale
        return coef, theta[:, self.d] - coef @ self.shift if self.intercept else np.zeros(self.k)

    def point(self, coef: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The point of W and b."""
        theta = coef * self.scale
        return np.column_stack([theta, bias + coef @ self.shift]).ravel() if self.intercept else theta.ravel()

    def logits(self, coef: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """X Wᵀ + b, (n, K), contiguous."""
        parts = [linear(x, coef, bias) for _, x in self._parts()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        coef, bias = self.coefficients(point)
        made = self._model.loss(coef * self._scaled, bias + coef @ self._shifted, self._threads)
        total, of_coef, of_bias = made
        of_coef = of_coef * self._scaled + of_bias[:, None] * self._shifted
        self.nll = total / self.total
        if self.keeps:
            self._last = point.tobytes(), self._model.z
        log_density, slope = 0.0, None
        if isinstance(self.prior, Gaussian):
            slope = coef * self.precision
            log_density = 0.5 * float(np.vdot(slope, coef))
        elif not (self.prior is None or isinstance(self.prior, Laplace)):
            log_density, slope = checked(self.prior, coef)
        self.latest, self.slope = point, self._pulled_back(of_coef, of_bias, slope)
        self.value = self.nll - log_density / self.total
        return self.value, self.slope

    def _pulled_back(self, of_coef: np.ndarray, of_bias: np.ndarray, slope: "np.ndarray | None") -> np.ndarray:
        """The gradient in a point, from that in coefficients and biases, and that of the log prior in coefficients."""
        result = np.empty(self.shape)
        if self.intercept:
            of_coef = of_coef - of_bias[:, None] * self.shift
            result[:, self.d] = of_bias
        if slope is not None:
            of_coef = of_coef - slope / self.total
        result[:, : self.d] = of_coef / self.scale
        return result.ravel()

    def probs(self, point: np.ndarray) -> np.ndarray:
        """The model's probabilities, (n, K): of the second of two classes. Kept for the next call."""
        key = point.tobytes()
        if key != self._key and key == self._last[0]:
            self._key, self._probs = key, self._of_gradient(self._last[1])
        elif key != self._key:
            z = self.logits(*self.coefficients(point))
            if self.binary:
                z = np.column_stack([np.zeros_like(z), z])
            q = softmax(z, out=z, threads=1 if z.size < PARALLEL else None)
            self._key, self._probs = key, np.ascontiguousarray(q[:, 1:]) if self.binary else q
        return self._probs

    def _of_gradient(self, grad: np.ndarray) -> np.ndarray:
        """The probabilities that a gradient in the logits comes from: softmax would take as long as the loss did."""
        if self.weight is None:
            q = grad * grad.dtype.type(self.total)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.where(self.weight > 0, self.total / self.weight, 0.0)
            q = grad * factor[:, None].astype(grad.dtype)
        if self.binary or self._target.ndim > 1:
            q += self._target.astype(grad.dtype)
        else:
            q[np.arange(self.n), self._target] += 1.0
        return q

    def hessian_product(self, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The Hessian times a direction."""
        q = self.probs(point)
        coef, bias = self.coefficients(direction)  # linear in the point
        parts = [np.ascontiguousarray(x @ coef.T.astype(x.dtype)) for _, x in self._parts()]
        u = parts[0] if len(parts) == 1 else np.concatenate(parts)
        times_curvature(q, u, bias, np.empty(0) if self.weight is None else self.weight, 1.0 / self.total)
        slope = -coef * self.prior.precision(self.d) if isinstance(self.prior, Gaussian) else None
        of_coef = np.zeros((self.k, self.d))
        for rows, x in self._parts():
            of_coef += u[rows].T @ x
        of_bias = np.ones(self.n, u.dtype) @ u  # a product takes a twentieth of a sum over few columns
        return self._pulled_back(of_coef, of_bias, slope)

    def information(self, point: np.ndarray) -> np.ndarray:
        """The Hessian of the summed NLL at a point, a matrix (K·(d + intercept)) squared."""
        q = self.probs(point).astype(np.float64)
        m = self.shape[1]
        result = np.zeros((self.k, m, self.k, m))
        step = max(1, BLOCK // m)
        for start in range(0, self.n, step):
            rows = self._standard(start, min(start + step, self.n))
            part = q[start : start + step]
            weight = np.ones(len(rows)) if self.weight is None else self.weight[start : start + step]
            for a in range(self.k):
                for b in range(a, self.k):
                    w = weight * (part[:, a] * (1.0 - part[:, a]) if a == b else -part[:, a] * part[:, b])
                    result[a, :, b] += rows.T @ (w[:, None] * rows)
        for a in range(self.k):
            for b in range(a):
                result[a, :, b] = result[b, :, a].T
        return result.reshape(self.k * m, self.k * m)

    def _standard(self, start: int, stop: int) -> np.ndarray:
        """Rows of features as the point sees them."""
        x = self.x[start:stop]
        x = (x.toarray() if sparse.issparse(x) else x).astype(np.float64)
        if not self.intercept:
            return np.asarray(x / self.scale)
        return np.column_stack([(x - self.shift) / self.scale, np.ones(len(x))])


def linear(x: Any, coef: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """X Wᵀ + b in the dtype of X, contiguous."""
    z = np.ascontiguousarray(x @ coef.T.astype(x.dtype))
    z += bias.astype(x.dtype)
    return z


def _moments(x: Any, weight: "np.ndarray | None", total: float, centred: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every feature and what to scale it by: its standard deviation, around 0 unless ``centred``."""
    w = np.full(x.shape[0], 1.0 / total) if weight is None else weight / total
    if sparse.issparse(x):
        mean, square = w @ x, w @ x.multiply(x)
        mean, square = np.asarray(mean, np.float64).ravel(), np.asarray(square, np.float64).ravel()
    else:
        w = w.astype(x.dtype)
        mean, square = (w @ x).astype(np.float64), np.zeros(x.shape[1])
        step = max(1, CACHED // x.shape[1])
        for start in range(0, len(w), step):
            part = x[start : start + step]
            square += w[start : start + step] @ np.square(part)
    variance = square - mean**2 if centred else square
    spread = variance > 1e-10 * square  # what is left of a constant feature is rounding
    return mean, np.sqrt(np.where(spread, variance, np.where(square > 0, square, 1.0)))
