"""Coordinates in which the penalised NLL is nearly round, so that L-BFGS needs few steps.

With all coefficients 0 and the intercepts at the logarithms of the classes' shares π the Hessian of the mean NLL is
(diag π - π πᵀ) ⊗ S, S being the features' covariance. Coordinates v with

    point = (v / √π - mean over the classes) Rᵀ,  Rᵀ (S + prior) R = I

make it the identity. Only a change of variables: the optimum is what it was. The mean over the classes is that of the
optimum, unless a prior treats classes differently: the loss does not depend on it, and a prior alone bends it so little
that an optimiser would need long to find it.

References: Böhning: Multinomial logistic regression algorithm, Annals of the Institute of Statistical Mathematics 44
(1992), who bounds this Hessian.
"""

from typing import Any

import numpy as np
from scipy import sparse

from fastxent.fit.objective import Objective
from fastxent.fit.priors import Gaussian

# Near the optimum a loss bends less than where all coefficients are 0, a prior as much as ever. Evaluations of the loss
# with a factor of 1, 10 and 100: digits 215, 79, 63; breast cancer 86, 35, 34; 5000 x 100, 300 classes 44, 39, 28.
PRIOR_FACTOR = 30.0
ROWS_A_FEATURE = 8  # of them the covariance is made, evenly spaced
SHRINKAGE = 0.05  # of a covariance from some rows to that of features without correlation, and from all
SHRINKAGE_OF_ALL = 1e-4
MOST_EVALUATIONS = 20  # as many evaluations of the loss may the covariance cost


class Preconditioner:
    """The change of variables for an objective, v = 0 being its origin."""

    def __init__(self, objective: Objective) -> None:
        self.shape, self.d = objective.shape, objective.d
        self.origin = objective.origin.reshape(self.shape)
        self.per_class = 1.0 / np.sqrt(_bends(objective))[:, None]
        self.centred = objective.k > 1 and (objective.prior is None or isinstance(objective.prior, Gaussian))
        self.root, self.inverse = _whitening(objective)
        self.unit = 1.0

    def point(self, v: np.ndarray) -> np.ndarray:
        """The objective's point of coordinates."""
        theta = self._centred(v.reshape(self.shape) * (self.unit * self.per_class))
        if self.root is not None:
            theta[:, : self.d] = theta[:, : self.d] @ self.root
        return np.asarray(theta + self.origin).ravel()

    def slope(self, slope: np.ndarray) -> np.ndarray:
        """The gradient in the coordinates, of that in a point."""
        slope = slope.reshape(self.shape).copy()
        if self.root is not None:
            slope[:, : self.d] = slope[:, : self.d] @ self.root.T
        return np.asarray(self._centred(slope) * (self.unit * self.per_class)).ravel()

    def coordinates(self, point: np.ndarray) -> np.ndarray:
        """Those of a point, or of one that differs from it by the same numbers for all classes."""
        theta = point.reshape(self.shape) - self.origin
        if self.inverse is not None:
            theta[:, : self.d] = theta[:, : self.d] @ self.inverse
        return np.asarray(self._centred(theta) / (self.unit * self.per_class)).ravel()

    def _centred(self, theta: np.ndarray) -> np.ndarray:
        return theta - theta.mean(axis=0) if self.centred else theta


def _bends(objective: Objective) -> np.ndarray:
    """The second derivatives of the mean loss in the logits, at the origin: of several classes without π πᵀ."""
    if not objective.intercept:
        return np.full(objective.k, 0.25 if objective.binary else 1.0 / objective.k)
    share = objective.share
    return share * (1.0 - share) if objective.binary else share


def _whitening(objective: Objective) -> tuple[Any, Any]:
    """Rᵀ and its inverse; None, None where they would cost more than they save."""
    n, d = objective.n, objective.d
    step = max(1, n // (ROWS_A_FEATURE * d))
    rows = len(range(0, n, step))
    if sparse.issparse(objective.x) or (rows + d) * d > MOST_EVALUATIONS * 2 * n * max(objective.k, 8):
        return None, None
    x = (objective.x[::step] - objective.shift * objective.intercept) / objective.scale
    if objective.weight is not None:
        x *= np.sqrt(objective.weight[::step] * (n / objective.total))[:, None]
    shrinkage = SHRINKAGE if step > 1 else SHRINKAGE_OF_ALL
    covariance = (1.0 - shrinkage) * (x.T @ x) / rows + shrinkage * np.eye(d)
    covariance += np.diag(PRIOR_FACTOR * objective.bend / objective.scale**2)
    lower = np.linalg.cholesky(covariance)
    return np.linalg.inv(lower), lower
