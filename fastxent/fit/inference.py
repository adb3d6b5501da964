"""Standard errors, intervals and the table of a fitted model, from the observed information."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.fit.objective import Objective
from fastxent.fit.priors import curvature

FORMS = (".4g", ".4g", ".4g", ".2g", ".4g", ".4g")  # of a table's columns
NORMAL_95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Summary:
    """Coefficients with their errors: log-odds of each class against the first, a unit of the feature.

    Attributes
    ----------
    classes : array, shape (C,)
        The first one is the reference.
    names : list of str, length p
        "intercept", where there is one, then the features.
    estimate, se, z, p_value : array, float64, shape (C - 1, p)
        Estimates, standard errors, their ratio and its two-sided p-value under a normal distribution.
    lower, upper : array, float64, shape (C - 1, p)
        95 % intervals.
    covariance : array, float64, shape ((C - 1) p, (C - 1) p)
        Of the estimates, class after class.
    n : float
        Sum of the rows' weights.
    log_likelihood, log_likelihood_null : float
        At the estimate, and of the classes' frequencies alone (nats).
    aic, bic : float
        2 k - 2 log-likelihood and k ln n - 2 log-likelihood with k = (C - 1) p.
    is_map : bool
        Whether a prior took part: errors are then those of the posterior's normal approximation.
    """

    classes: np.ndarray
    names: list[str]
    estimate: np.ndarray
    covariance: np.ndarray
    n: float
    log_likelihood: float
    log_likelihood_null: float
    is_map: bool

    @property
    def se(self) -> np.ndarray:
        """Standard errors."""
        return np.sqrt(np.diag(self.covariance)).reshape(self.estimate.shape)

    @property
    def z(self) -> np.ndarray:
        """Estimates over standard errors."""
        return self.estimate / self.se

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided p-values of the hypothesis that a coefficient is 0."""
        from scipy.special import ndtr

        return np.asarray(2.0 * ndtr(-np.abs(self.z)))

    @property
    def lower(self) -> np.ndarray:
        """Lower ends of the 95 % intervals."""
        return self.estimate - NORMAL_95 * self.se

    @property
    def upper(self) -> np.ndarray:
        """Upper ends of the 95 % intervals."""
        return self.estimate + NORMAL_95 * self.se

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return 2.0 * self.estimate.size - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's (Bayesian) information criterion."""
        return self.estimate.size * math.log(self.n) - 2.0 * self.log_likelihood

    def __str__(self) -> str:
        """A table for people."""
        width = max(12, *(len(name) for name in self.names))
        lines = [
            f"{'MAP' if self.is_map else 'maximum likelihood'}, {self.n:,.6g} rows, {len(self.classes)} classes, "
            f"against class {self.classes[0]}",
            f"log-likelihood {self.log_likelihood:.6f} (of frequencies alone {self.log_likelihood_null:.6f}), "
            f"AIC {self.aic:.4f}, BIC {self.bic:.4f}",
        ]
        head = "".join(f"{h:>11}" for h in ("estimate", "std error", "z", "p", "95 % from", "to"))
        columns = np.stack([self.estimate, self.se, self.z, self.p_value, self.lower, self.upper], axis=-1)
        for label, rows in zip(self.classes[1:], columns):
            lines.append(f"{f'class {label}':<{width}}{head}")
            lines += [
                f"{n:<{width}}" + "".join(f"{v:>11{form}}" for v, form in zip(row, FORMS))
                for n, row in zip(self.names, rows)
            ]
        return "\n".join(lines)


def covariance(objective: Objective, point: np.ndarray) -> np.ndarray:
    """The inverse of the observed information (and prior precision), of log-odds against the first class.

    Shape ((C - 1)·p)², class after class, the intercept first. LinAlgError where the information is singular.
    """
    k, m = objective.shape
    d, prior = objective.d, objective.prior
    information: Any = objective.information(point)
    if k > 1 and prior is None:  # the first class's coefficients held at 0
        information = information.reshape(k, m, k, m)[1:, :, 1:].reshape((k - 1) * m, -1)
    elif prior is not None:
        coef, _ = objective.coefficients(point)
        bend = curvature(prior, coef).reshape(k, d, k, d) / (objective.scale[:, None, None] * objective.scale)
        information.reshape(k, m, k, m)[:, :d, :, :d] += bend
        if k > 1:  # what the log-odds do not depend on: a number added to all classes' intercepts
            size = np.trace(information) / len(information)
            information.reshape(k, m, k, m)[:, d:, :, d:] += size / k
    result: Any = _inverse(information)
    if k > 1 and prior is not None:
        against: Any = np.kron(np.column_stack([-np.ones(k - 1), np.eye(k - 1)]), np.eye(m))
        result = against @ result @ against.T
    back: Any = np.eye(m)
    back[:d, :d] = np.diag(1.0 / objective.scale)
    if objective.intercept:
        back[d, :d] = -objective.shift / objective.scale
        back = np.vstack([back[d:], back[:d]])
    classes = max(k - 1, 1)
    back = np.kron(np.eye(classes), back)
    return np.asarray(back @ result @ back.T)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric, positive definite matrix, scaled to a diagonal of ones meanwhile."""
    diagonal = np.diag(matrix)
    if not (diagonal > 0).all():
        raise np.linalg.LinAlgError("a row of zeros")
    scale = 1.0 / np.sqrt(diagonal)
    values: Any
    vectors: Any
    values, vectors = np.linalg.eigh(matrix * scale[:, None] * scale)
    if values[0] < 1e-12 * values[-1]:
        raise np.linalg.LinAlgError(f"eigenvalues from {values[0]:.2g} to {values[-1]:.2g}")
    half = vectors / np.sqrt(values) * scale[:, None]
    return np.asarray(half @ half.T)
