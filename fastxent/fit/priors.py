"""Prior distributions of coefficients: what is added to the log-likelihood to get the MAP estimate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# coefficients -> (log density up to a constant, its gradient of the same shape)
Prior = Callable[[np.ndarray], tuple[float, np.ndarray]]
STEP = 2.0**-13  # of central differences


@dataclass(frozen=True)
class Gaussian:
    """Coefficients are normal around 0: -ln P = Σ w² / (2 scale²). Ridge; scikit-learn's C is scale².

    Parameters
    ----------
    scale : float or array of shape (features,)
        Standard deviation, positive; inf is flat.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.fit import Gaussian
    >>> Gaussian(2.0)(np.array([[2.0, 4.0]]))
    (-2.5, array([[-0.5, -1. ]]))
    """

    scale: ArrayLike = 1.0

    def precision(self, n_features: int) -> np.ndarray:
        """1/scale² of every feature. ValueError where a scale is not positive."""
        scale = _scales(self.scale, n_features)
        with np.errstate(over="ignore", divide="ignore"):
            return scale**-2.0

    def __call__(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and gradient."""
        slope = -coef * self.precision(coef.shape[1])
        return 0.5 * float((slope * coef).sum()), slope


@dataclass(frozen=True)
class Laplace:
    """Coefficients are Laplace-distributed around 0: -ln P = Σ |w| / scale. Lasso: many become exactly 0.

    Parameters
    ----------
    scale : float or array of shape (features,)
        Mean absolute value, positive; inf is flat.
    """

    scale: ArrayLike = 1.0

    def rate(self, n_features: int) -> np.ndarray:
        """1/scale of every feature. ValueError where a scale is not positive."""
        return 1.0 / _scales(self.scale, n_features)

    def __call__(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and a subgradient."""
        rate = self.rate(coef.shape[1])
        return -float((np.abs(coef) * rate).sum()), -np.sign(coef) * rate


def _scales(scale: ArrayLike, n_features: int) -> np.ndarray:
    values = np.asarray(scale, np.float64)
    if values.shape not in ((), (n_features,)):
        raise ValueError(f"prior: scale of shape {values.shape}; need one number, or one a feature, ({n_features},)")
    if not (values > 0).all():
        raise ValueError(f"prior: scale {values[~(values > 0)].ravel()[0]} is not positive")
    return np.broadcast_to(values, (n_features,))


def checked(prior: Any, coef: np.ndarray) -> tuple[float, np.ndarray]:
    """What a caller's prior says of coefficients. ValueError, TypeError unless that is a log density and a gradient."""
    try:
        value, slope = prior(coef)
        value, slope = float(value), np.asarray(slope, np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"prior: need a function of the coefficients giving (log density, gradient): {error}"
        ) from None
    if slope.shape != coef.shape:
        raise ValueError(f"prior: gradient of shape {slope.shape}; need that of the coefficients, {coef.shape}")
    if not (math.isfinite(value) and np.isfinite(slope).all()):
        raise ValueError(f"prior: log density {value} or a gradient that is not finite")
    return value, slope


def curvature(prior: Prior | None, coef: np.ndarray) -> np.ndarray:
    """Minus the Hessian of the log density, (coef.size, coef.size): exact for Gaussians, else central differences."""
    if prior is None:
        return np.zeros((coef.size, coef.size))
    if isinstance(prior, Gaussian):
        return np.diag(np.tile(prior.precision(coef.shape[1]), coef.shape[0]))
    rows = []
    for k in range(coef.size):
        step = np.zeros(coef.size)
        step[k] = STEP * max(1.0, abs(coef.flat[k]))
        shift = step.reshape(coef.shape)
        rows.append((checked(prior, coef - shift)[1] - checked(prior, coef + shift)[1]).ravel() / (2 * step[k]))
    return 0.5 * (np.array(rows) + np.array(rows).T)
