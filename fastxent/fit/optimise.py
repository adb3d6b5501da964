"""SciPy's optimisers on an objective: L-BFGS, Newton's method with conjugate gradients, and orthants for Laplace."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from fastxent.fit.objective import Objective
from fastxent.fit.preconditioner import Preconditioner
from fastxent.fit.priors import Gaussian, Laplace

# Newton's steps for fewer parameters than this; for more they take more products with the Hessian than they save.
MANY = 1000
# The same where the tolerance is larger, unless there is no prior: that far L-BFGS gets in less time.
TIGHT_TOL = 1e-6
# Below it the rounding of float32 logits hides what a step gains: a loss near 1 falls by no more than 1e-8.
FLOAT32_TOL = 2e-5
FLOAT64_TOL = 1e-6  # the same of float64
FALL = 0.1  # times the tolerance: what the last step may have gained, in nats a parameter
NEARLY = 2.0  # times the tolerance: from there one step or two lead to it, which float64 takes
HISTORY = 20  # steps that L-BFGS keeps. Evaluations with 10, 20 and 40: digits 103, 79, 83; breast cancer 33, 35, 33
STOPPED = 99  # the status of SciPy's results where a callback raised StopIteration
SOLVERS = ("auto", "lbfgs", "newton-cg")


@dataclass(frozen=True)
class Optimum:
    """Where an optimiser stopped."""

    point: np.ndarray
    iterations: int
    converged: bool
    message: str


def minimum(objective: Objective, start: np.ndarray, solver: str, tol: float, max_iter: int) -> Optimum:
    """Minimise an objective, until no entry of its gradient is larger than tol, and steps gain next to nothing.

    From where float32 cannot go on, or no longer surely, float64 does.
    """
    prior = objective.prior
    smooth = prior is None or isinstance(prior, Gaussian)
    small = smooth and start.size < MANY and (prior is None or tol < TIGHT_TOL)
    if isinstance(prior, Laplace):
        method: Any = _split
    else:
        method = _newton if solver == "newton-cg" or (solver == "auto" and small) else _lbfgs
    with objective.on_threads():
        found: Optimum = method(objective, start, tol, max_iter)
        if found.converged or found.iterations >= max_iter or not objective.narrowed:
            return found
        objective.widen()  # where it is not yet: values that changed in the 9th digit may have stopped a line search
        wide = method(objective, found.point, tol, max_iter - found.iterations)
    return replace(wide, iterations=found.iterations + wide.iterations)


def _lbfgs(objective: Objective, start: np.ndarray, tol: float, max_iter: int) -> Optimum:
    """L-BFGS in coordinates that suit it, in float32 until it is nearly there."""
    change = Preconditioner(objective)
    if objective.latest.size == 0:  # not so from where float32 could not go on
        objective.narrow()
    ends_wide = objective.x.dtype == np.float64 or tol < FLOAT32_TOL

    before = math.inf

    def largest_slope() -> float:
        return float(np.abs(objective.slope).max())

    def is_there() -> bool:
        nonlocal before
        largest, fall, before = largest_slope(), before - objective.value, objective.value
        if objective.wide or not ends_wide:
            return largest <= tol and (fall == math.inf or fall * objective.total <= FALL * tol * start.size)
        if largest <= NEARLY * max(tol, FLOAT32_TOL):
            objective.widen()
        return False

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective.loss(change.point(v))
        return value, change.slope(slope)

    def stop(_: np.ndarray) -> None:
        if is_there():
            raise StopIteration

    v = change.coordinates(start)
    first = loss(v)
    if is_there():
        return Optimum(objective.latest, 0, True, "")
    # Its first step has length 1, which this makes Newton's if the Hessian is what the coordinates are for.
    unit = float(np.linalg.norm(first[1])) or 1.0
    change.scale = change.scale * unit
    known = [(first[0], first[1] * unit)]
    found = minimize(
        lambda v: known.pop() if known else loss(v),
        v / unit,
        jac=True,
        method="L-BFGS-B",
        callback=stop,
        options={**_options(0.0, max_iter), "maxcor": HISTORY},
    )
    if found.status == STOPPED:
        return replace(_optimum(found, objective.latest), converged=True)
    point = change.point(found.x)
    objective.loss(point)
    reached = tol if not found.success else max(tol, FLOAT64_TOL)  # where the loss falls no more, this is an optimum
    return replace(_optimum(found, point), converged=objective.wide and largest_slope() <= reached)


def _newton(objective: Objective, start: np.ndarray, tol: float, max_iter: int) -> Optimum:
    """Newton's method in a trust region, in float32 as far as that goes."""
    if not objective.keeps:
        objective.keep()
    first = tol if objective.wide else max(tol, FLOAT32_TOL)
    found = minimize(
        objective.loss,
        start,
        jac=True,
        hessp=objective.hessian_product,
        method="trust-ncg",
        options={"gtol": first, "maxiter": max_iter},
    )
    return replace(_optimum(found, found.x), converged=bool(found.success) and first == tol)


def _options(tol: float, max_iter: int) -> dict[str, Any]:
    return {"gtol": tol, "ftol": 64 * np.finfo(float).eps, "maxiter": max_iter, "maxls": 50, "maxfun": 10 * max_iter}


def _optimum(found: Any, point: np.ndarray) -> Optimum:
    message = found.message if isinstance(found.message, str) else found.message.decode()
    return Optimum(point, int(found.nit), bool(found.success), message)


def _split(objective: Objective, start: np.ndarray, tol: float, max_iter: int) -> Optimum:
    """With a Laplace prior: the coefficients' positive and negative parts, each bounded by 0, have a smooth penalty.

    Bounds are kept by projection, so that coefficients become 0 exactly, and stay in their orthant or leave it through
    0, as in OWL-QN.
    """
    prior: Any = objective.prior
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
    first_tol = tol if objective.wide else max(tol, FLOAT32_TOL)
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=_options(first_tol, max_iter))
    return replace(_optimum(found, joined(found.x)), converged=bool(found.success) and first_tol == tol)
