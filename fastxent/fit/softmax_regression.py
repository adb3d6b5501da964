"""Multinomial logistic regression by maximum likelihood (MLE) or, with a prior, maximum a posteriori (MAP)."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastxent.fit.estimator import Estimator, convergence_warning
from fastxent.fit.features import as_features, as_labels, as_weights, feature_names
from fastxent.fit.inference import Summary, covariance
from fastxent.fit.objective import Objective, linear
from fastxent.fit.optimise import SOLVERS, minimum
from fastxent.fit.priors import Gaussian, Laplace, Prior
from fastxent.losses import log_softmax, softmax
from fastxent.options import as_real
from fastxent.threads import limited

INFERENCE_TOL = 1e-7  # so that a table's digits are those of the optimum
CERTAIN = 0.05  # how far a probability is from 0 or 1, at most, that counts as certain


class SoftmaxRegression(Estimator):
    """Classifier softmax(x·W + b), with W and b of largest likelihood, or posterior density if there is a prior.

    Minimises Σ s_i (-ln q_i,y_i) - ln P(W), with scipy.optimize on fused loss-and-gradient kernels, in coordinates of
    features shifted to mean 0 and scaled to variance 1. An estimator as scikit-learn's, which need not be installed.

    Parameters
    ----------
    prior : None, Gaussian, Laplace or callable
        Of the coefficients; None is flat, which makes it maximum likelihood. A callable takes the coefficients,
        (C, d) or (1, d) for two classes, and returns their log density and its gradient. Intercepts have a flat one.
    fit_intercept : bool
        Whether there is b.
    class_weight : dict or "balanced", optional
        Weights of classes; "balanced" makes them count alike.
    solver : {"auto", "lbfgs", "newton-cg"}
        L-BFGS, or trust-region Newton with conjugate gradients on products with the Hessian. "auto" is Newton for
        fewer than 1000 parameters without a prior, or with a Gaussian one and tol below 1e-6, else L-BFGS; with a
        Laplace prior always L-BFGS with bounds.
    tol : float
        Converged when no derivative of the mean loss, a standard deviation of the feature, is larger; L-BFGS's last
        step must also have gained less than a tenth of it, in nats a parameter, over all rows. The default ends where
        scikit-learn's 1e-4 does or closer to the optimum. At most 1e-7 with ``inference``.
    max_iter : int
        Most iterations.
    warm_start : bool
        Whether a fit starts from the one before.
    inference : bool
        Whether to keep the covariance of the estimates, for `summary`.
    threads : int, optional
        At most so many threads. While L-BFGS or Newton run, BLAS is held to one in each, if threadpoolctl is installed;
        otherwise it has its own.

    Attributes
    ----------
    classes_ : array, shape (C,)
    coef_ : array, float64, shape (C, d), or (1, d) for two classes: log-odds of the second one
    intercept_ : array, float64, shape (C,) or (1,)
    log_likelihood_ : float
        Σ s ln q of the rows (nats), without the prior.
    n_iter_ : array, int32, shape (1,)
    n_features_in_ : int
    feature_names_in_ : array of str, where X had column names

    References
    ----------
    Bishop: Pattern Recognition and Machine Learning, section 4.3.4. Albert, Anderson: On the existence of maximum
    likelihood estimates in logistic regression models, Biometrika 71 (1984).

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.fit import Gaussian, SoftmaxRegression
    >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["no", "yes", "no", "yes"])
    >>> mle = SoftmaxRegression().fit(x, y)
    >>> mle.predict_proba([[4.0]]).round(3)
    array([[0.094, 0.906]])
    >>> SoftmaxRegression(prior=Gaussian(0.5)).fit(x, y).coef_.round(3)  # drawn towards 0
    array([[0.191]])
    """

    def __init__(
        self,
        *,
        prior: "Prior | None" = None,
        fit_intercept: bool = True,
        class_weight: "Mapping[Any, float] | str | None" = None,
        solver: str = "auto",
        tol: float = 2e-5,
        max_iter: int = 1000,
        warm_start: bool = False,
        inference: bool = False,
        threads: int | None = None,
    ) -> None:
        self.prior = prior
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.inference = inference
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> "SoftmaxRegression":
        """Fit to rows.

        Parameters
        ----------
        X : array or scipy.sparse, shape (n, d)
            Features; float32 stays so, everything else becomes float64. Of more than a million products of features
            and coefficients, for 8 classes or more, L-BFGS's first iterations compute in float32, on a copy; those
            that end at the optimum compute in float64. Features of float32 are widened for them, a block of rows at a
            time, where tol is below 2e-5, or the rounding of float32 stops the optimiser.
        y : array, shape (n,), or floating array, shape (n, C)
            Labels of any kind, or distributions over classes 0 .. C - 1.
        sample_weight : array, shape (n,), optional
            Non-negative weights of the rows.

        Returns
        -------
        SoftmaxRegression
            This one.

        Raises
        ------
        ValueError, TypeError
            One line that names the argument, the first offending row and the value.

        Warns
        -----
        ConvergenceWarning
            Where max_iter did not do, or the classes can be separated, so that no maximum exists; says what to do.
            (A RuntimeWarning where scikit-learn is not installed.)
        """
        name = type(self).__name__
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: {self.solver!r} is not one of {', '.join(map(repr, SOLVERS))}")
        if self.solver == "newton-cg" and not (self.prior is None or isinstance(self.prior, Gaussian)):
            raise ValueError("solver: 'newton-cg' needs a Gaussian prior or none; pass 'lbfgs'")
        tol = as_real(self.tol, "tol", 0.0, math.inf, open_low=True)
        tol = min(tol, INFERENCE_TOL) if self.inference else tol
        x = as_features(X, name)
        classes, target = as_labels(y, x.shape[0], name)
        if len(classes) < 2:
            raise ValueError(f"y: {name} needs samples of at least 2 classes, but there is one class: {classes[0]!r}")
        weight = as_weights(sample_weight, self.class_weight, classes, target)
        if weight is not None and not weight.sum() > 0:
            raise ValueError("sample_weight: the weight of every row is zero")
        with limited(self.threads):
            objective = Objective(x, target, weight, len(classes), self.prior, bool(self.fit_intercept))
            start = self._start(objective, classes)
            found = minimum(objective, start, self.solver, tol, int(self.max_iter))
            coef, bias = objective.coefficients(found.point)
            self._keep_names(X, x.shape[1])
            self.classes_, self.coef_, self.intercept_ = classes, coef, bias
            self.n_iter_ = np.array([found.iterations], np.int32)
            if objective.latest is not found.point:
                objective.loss(found.point)
            self.log_likelihood_ = -objective.nll * objective.total
            self._warn(objective, found)
            self._covariance: np.ndarray | None = None
            if self.inference:
                self._infer(objective, found.point)
        return self

    def _start(self, objective: Objective, classes: np.ndarray) -> np.ndarray:
        """Where optimising begins: at the coefficients of the fit before, or at none."""
        k, d = objective.k, objective.d
        if self.warm_start and hasattr(self, "coef_"):
            if self.coef_.shape == (k, d) and np.array_equal(self.classes_, classes):
                return objective.point(self.coef_, self.intercept_)
            raise ValueError(
                f"warm_start: the fit before had coefficients {self.coef_.shape} of classes {self.classes_.tolist()}; "
                f"now they are {(k, d)} of {classes.tolist()}"
            )
        return objective.origin

    def _warn(self, objective: Objective, found: Any) -> None:
        """Say what to do where there is no optimum."""
        message = None
        if self.prior is None and objective.target.ndim == 1 and _separates(objective, self.coef_, self.intercept_):
            message = (
                "the classes are separated: a linear function tells every row's class, so that the likelihood grows "
                "without end with the coefficients, and these are where the optimiser stopped; pass "
                "prior=Gaussian(1.0), or leave out features"
            )
        elif self.prior is None and (certain := _certain(objective, found.point)) >= 0:
            message = (
                f"class {self.classes_[certain]} is told from all others with certainty in every row: its coefficients "
                "most likely grow without end, and these are where the optimiser stopped; pass prior=Gaussian(1.0), or "
                "leave out features"
            )
        elif not found.converged:
            largest = float(np.abs(found.point).max())
            message = (
                f"no optimum after {found.iterations} iterations ({found.message}): raise max_iter or tol"
                + ("; coefficients that grow without end (" if self.prior is None else " (")
                + f"the largest is {largest:.3g} a standard deviation of its feature)"
                + (" mean that classes are nearly separated: pass prior=Gaussian(1.0)" if self.prior is None else "")
            )
        if message is not None:
            warnings.warn(f"{type(self).__name__}: {message}", convergence_warning(), stacklevel=3)

    def _infer(self, objective: Objective, point: np.ndarray) -> None:
        if isinstance(self.prior, Laplace):
            raise ValueError("inference: a Laplace prior has no curvature at 0, hence no standard errors")
        try:
            self._covariance = covariance(objective, point)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"inference: the information matrix is singular ({error}): features that are linear functions of "
                "others, or separated classes; leave some out, or pass prior=Gaussian(1.0)"
            ) from None
        self._weight = objective.total
        target = objective.target
        if target.ndim == 1:
            counts = np.bincount(target, objective.weight, len(self.classes_))
        else:
            counts = target.sum(axis=0) if objective.weight is None else objective.weight @ target
        share = counts[counts > 0] / counts.sum()
        self._null = float((counts[counts > 0] * np.log(share)).sum())

    def summary(self) -> Summary:
        """The coefficients as log-odds against the first class, with errors, intervals and fit.

        Returns
        -------
        Summary
            Prints as a table.

        Raises
        ------
        ValueError
            Unless the model was fitted with ``inference=True``.
        """
        self._require_fit("coef_")
        if self._covariance is None:
            raise ValueError("summary: fit with inference=True, which keeps what it needs")
        coef = np.column_stack([self.intercept_, self.coef_]) if self.fit_intercept else self.coef_
        features = getattr(self, "feature_names_in_", [f"x{j}" for j in range(self.n_features_in_)])
        return Summary(
            classes=self.classes_,
            names=[*(["intercept"] if self.fit_intercept else []), *map(str, features)],
            estimate=coef if len(coef) == 1 else coef[1:] - coef[0],
            covariance=self._covariance,
            n=self._weight,
            log_likelihood=self.log_likelihood_,
            log_likelihood_null=self._null,
            is_map=self.prior is not None,
        )

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits, (n, C); of two classes the log-odds of the second, (n,)."""
        z = self._logits(X)
        return z.ravel() if z.shape[1] == 1 else z

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, float64, (n, C)."""
        z = self._both(X)
        return np.asarray(softmax(z, out=z, threads=self.threads))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms, float64, (n, C), accurate also where a probability is 0 or 1 to rounding."""
        z = self._both(X)
        return np.asarray(log_softmax(z, out=z, threads=self.threads))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, (n,)."""
        z = self._logits(X)
        found = (z[:, 0] > 0).astype(np.intp) if z.shape[1] == 1 else z.argmax(axis=1)
        return np.asarray(self.classes_[found])

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy: the share of rows, by weight, that are predicted right."""
        weights: Any = sample_weight
        return float(np.average(self.predict(X) == np.asarray(y), weights=weights))

    def _logits(self, X: Any) -> np.ndarray:
        self._require_fit("coef_")
        names = feature_names(X)
        x = as_features(X, type(self).__name__)
        if x.shape[1] != self.n_features_in_:
            expecting = f"{type(self).__name__} is expecting {self.n_features_in_} features as input"
            raise ValueError(f"X has {x.shape[1]} features, but {expecting}")
        self._check_names(names)
        return linear(x, self.coef_, self.intercept_)

    def _both(self, X: Any) -> np.ndarray:
        z = self._logits(X).astype(np.float64)
        return np.column_stack([np.zeros_like(z), z]) if z.shape[1] == 1 else z

    def _keep_names(self, X: Any, n_features: int) -> None:
        names = feature_names(X)
        self.n_features_in_ = n_features
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _check_names(self, names: "np.ndarray | None") -> None:
        """Columns of a table must be those of the fit, in their order."""
        fitted = getattr(self, "feature_names_in_", None)
        if fitted is None and names is None:
            return
        name = type(self).__name__
        if names is None or fitted is None:
            text = (
                f"X does not have valid feature names, but {name} was fitted with feature names"
                if names is None
                else f"X has feature names, but {name} was fitted without feature names"
            )
            warnings.warn(text, UserWarning, stacklevel=4)
            return
        if len(names) == len(fitted) and (names == fitted).all():
            return
        unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
        text = "The feature names should match those that were passed during fit.\n"
        for what, some in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
            if some:
                text += f"Feature names {what}:\n" + "".join(f"- {n}\n" for n in some[:5])
        if not unseen and not missing:
            text += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(text)

    # What scikit-learn asks an estimator. Its classes are made when it asks, so that nothing imports it.

    _estimator_type = "classifier"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(sparse=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


def _certain(objective: Objective, point: np.ndarray) -> int:
    """The first class whose probability is within CERTAIN of the target's in every row that counts; or -1.

    At a maximum Σ (q - t) x = 0 for every class: differences that are all tiny are rather the slope of what has none.
    """
    q, target = objective.probs(point), objective.target
    if q.shape[1] == 1:
        off = np.abs(q - (target if target.ndim == 1 else target[:, 1])[:, None])
    elif target.ndim == 1:
        off = q.copy()
        off[np.arange(len(q)), target] = 1.0 - off[np.arange(len(q)), target]
    else:
        off = np.abs(q - target)
        off[:, ~((target == 0) | (target == 1)).all(axis=0)] = 1.0  # a soft target may well be met
    if objective.weight is not None:
        off = off[objective.weight > 0]
    worst = off.max(axis=0)
    return int(worst.argmin()) if worst.min() < CERTAIN else -1


def _separates(objective: Objective, coef: np.ndarray, bias: np.ndarray) -> bool:
    """Whether every row that counts has its label's logit above all others."""
    if objective.nll > 0.5:  # more than one bit would be strange
        return False
    z = objective.logits(coef, bias)
    if z.shape[1] == 1:
        right = np.where(objective.target == 1, z[:, 0] > 0, z[:, 0] < 0)
    else:
        own = np.take_along_axis(z, objective.target[:, None], axis=1)
        right = (z >= own).sum(axis=1) == 1
    return bool(right.all() if objective.weight is None else right[objective.weight > 0].all())
