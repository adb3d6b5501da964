"""The penalised NLL of a linear model with its derivatives, in coordinates that suit an optimiser.

A point is a matrix (K, d) or, with an intercept, (K, d + 1): coefficients of features that are shifted to mean 0 and
scaled to variance 1, then the intercept. X itself is neither shifted nor scaled, and so may be sparse:

    z = X Wᵀ + b,  W = θ_W / σ,  b = θ_b - W μ.

K is 1 for two classes, the log-odds of the second, and else their number.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from fastxent.fit.priors import Gaussian, Laplace, Prior, checked
from fastxent.gradients import binary_cross_entropy_value_and_grad, cross_entropy_value_and_grad
from fastxent.kernels.curvature import times_curvature
from fastxent.losses import softmax

# Of fewer logits than this the losses are made on one thread. BLAS's threads still wait busily for a while after a
# product, and ours would for them: 5 ms a call of 20,000 rows on 2 cores, where one thread takes 0.2 ms.
PARALLEL = 1 << 22
BLOCK = 1 << 21  # numbers of features that are made at once: shifted and scaled, or of float64


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
        self._target, self._weight = target, weight  # as the loss takes them
        if self.binary:
            column = target if target.ndim == 1 else target[:, 1]
            self._target = np.ascontiguousarray(column[:, None], x.dtype)
            self._weight = None if weight is None else weight[:, None]
        self.shift, self.scale = _moments(x, weight, self.total, intercept)
        if isinstance(prior, Gaussian):  # its curvature joins that of the loss, some (1 - 1/C)/C times the variance
            bend = prior.precision(self.d) / (self.total * (1.0 - 1.0 / n_classes) / n_classes)
            self.scale = np.sqrt(self.scale**2 + bend)
        self.shape = (self.k, self.d + intercept)
        self._threads = 1 if self.n * self.k < PARALLEL else None
        self.wide = bool(x.dtype == np.float64)
        self.nll = np.nan  # mean, at the last point
        self.evaluations = 0
        self._last: tuple[bytes, np.ndarray] = b"", np.empty(0)  # a point and its gradient in the logits
        self._key: bytes = b""
        self._probs: np.ndarray = np.empty(0)

    def widen(self) -> None:
        """From now on compute in float64 with features of float32, a block of rows at a time."""
        self.wide, self._key, self._last = True, b"", (b"", np.empty(0))
        if self.binary:
            self._target = self._target.astype(np.float64)

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
        self.evaluations += 1
        z = self.logits(coef, bias)
        function: Any = binary_cross_entropy_value_and_grad if self.binary else cross_entropy_value_and_grad
        options: Any = {"reduction": "sum", "grad_scale": 1.0 / self.total, "threads": self._threads}
        total, grad = function(z, self._target, sample_weight=self._weight, out=z, **options)
        self.nll, self._last = total / self.total, (point.tobytes(), grad)
        if self.prior is None or isinstance(self.prior, Laplace):
            return self.nll, self._pulled_back(grad, None)
        log_density, slope = checked(self.prior, coef)
        return self.nll - log_density / self.total, self._pulled_back(grad, slope)

    def _pulled_back(self, grad: np.ndarray, slope: "np.ndarray | None") -> np.ndarray:
        """The gradient in a point, from that in the logits, and that of the log prior in W."""
        of_coef = np.zeros((self.k, self.d))
        for rows, x in self._parts():
            of_coef += grad[rows].T @ x
        result = np.empty(self.shape)
        if self.intercept:
            of_bias = np.ones(len(grad), grad.dtype) @ grad  # a product takes a twentieth of a sum over few columns
            of_coef -= of_bias[:, None] * self.shift
            result[:, self.d] = of_bias
        if slope is not None:
            of_coef -= slope / self.total
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
            q = softmax(z, out=z, threads=self._threads)
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
        return self._pulled_back(u, slope)

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
        mean, square = np.asarray(mean).ravel(), np.asarray(square).ravel()
    else:
        w = w.astype(x.dtype)
        mean, square = w @ x, np.einsum("i,ij,ij->j", w, x, x)
    mean, square = mean.astype(np.float64), square.astype(np.float64)
    variance = square - mean**2 if centred else square
    spread = variance > 1e-10 * square  # what is left of a constant feature is rounding
    return mean, np.sqrt(np.where(spread, variance, np.where(square > 0, square, 1.0)))
