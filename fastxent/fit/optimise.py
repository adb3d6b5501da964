"""SciPy's optimisers on an objective: L-BFGS, Newton's method with conjugate gradients, and orthants for Laplace."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from fastxent.fit.objective import Objective
from fastxent.fit.priors import Gaussian, Laplace

# From so many parameters on L-BFGS is quicker: Newton's steps take more products with the Hessian than they save.
MANY = 1000
# Below it the rounding of float32 logits hides what a step gains: a loss near 1 falls by no more than 1e-8.
FLOAT32_TOL = 1e-4
SOLVERS = ("auto", "lbfgs", "newton-cg")


@dataclass(frozen=True)
class Optimum:
    """Where an optimiser stopped."""

    point: np.ndarray
    iterations: int
    converged: bool
    message: str


def minimum(objective: Objective, start: np.ndarray, solver: str, tol: float, max_iter: int) -> Optimum:
    """Minimise an objective, until no entry of its gradient is larger than tol.

    From where float32 cannot go on, or no longer surely, float64 does.
    """
    first = tol if objective.wide else max(tol, FLOAT32_TOL)
    found = _minimum(objective, start, solver, first, max_iter)
    left = max_iter - found.iterations
    if objective.wide or (first == tol if found.converged else left <= 0):
        return found
    objective.widen()
    wide = _minimum(objective, found.point, solver, tol, left)
    return replace(wide, iterations=found.iterations + wide.iterations)


def _minimum(objective: Objective, start: np.ndarray, solver: str, tol: float, max_iter: int) -> Optimum:
    if isinstance(objective.prior, Laplace):
        return _split(objective, objective.prior, start, tol, max_iter)
    smooth = objective.prior is None or isinstance(objective.prior, Gaussian)
    if solver == "newton-cg" or (solver == "auto" and smooth and start.size < MANY):
        found = minimize(
            objective.loss,
            start,
            jac=True,
            hessp=objective.hessian_product,
            method="trust-ncg",
            options={"gtol": tol, "maxiter": max_iter},
        )
    else:
        found = minimize(objective.loss, start, jac=True, method="L-BFGS-B", options=_options(tol, max_iter))
    return _optimum(found, found.x)


def _options(tol: float, max_iter: int) -> dict[str, Any]:
    return {"gtol": tol, "ftol": 64 * np.finfo(float).eps, "maxiter": max_iter, "maxls": 50, "maxfun": 10 * max_iter}


def _optimum(found: Any, point: np.ndarray) -> Optimum:
    message = found.message if isinstance(found.message, str) else found.message.decode()
    return Optimum(point, int(found.nit), bool(found.success), message)


def _split(objective: Objective, prior: Laplace, start: np.ndarray, tol: float, max_iter: int) -> Optimum:
    """With a Laplace prior: the coefficients' positive and negative parts, each bounded by 0, have a smooth penalty.

    Bounds are kept by projection, so that coefficients become 0 exactly, and stay in their orthant or leave it through
    0, as in OWL-QN.
    """
    d, (k, m) = objective.d, objective.shape
    rate = np.zeros((k, m))
    rate[:, :d] = prior.rate(d) / objective.scale / objective.total
    bounded = np.zeros((k, m), bool)
    bounded[:, :d] = True
    bounded = bounded.ravel()
    theta = start.copy()
    first = np.concatenate([np.where(bounded, np.maximum(theta, 0.0), theta), np.maximum(-theta[bounded], 0.0)])

    def joined(parts: np.ndarray) -> np.ndarray:
        point = parts[: theta.size].copy()
        point[bounded] -= parts[theta.size :]
        return point

    def loss(parts: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective.loss(joined(parts))
        penalties = rate.ravel()
        value += float(parts[: theta.size] @ penalties + parts[theta.size :] @ penalties[bounded])
        return value, np.concatenate([slope + penalties, penalties[bounded] - slope[bounded]])

    low = np.concatenate([np.where(bounded, 0.0, -np.inf), np.zeros(int(bounded.sum()))])
    bounds = np.column_stack([low, np.full(low.size, np.inf)])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=_options(tol, max_iter))
    return _optimum(found, joined(found.x))
