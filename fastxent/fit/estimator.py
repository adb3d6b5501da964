"""What estimators share: scikit-learn's parameters and tags, without scikit-learn, and a state that JSON holds."""

import inspect
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from fastxent.scoring.state import write_atomically

E = TypeVar("E", bound="Estimator")


class Estimator:
    """Constructor arguments as parameters, kept as attributes of the same names."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn wants them; ``deep`` changes nothing."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self: E, **parameters: Any) -> E:
        """Change constructor arguments. Returns this estimator; ValueError for one that does not exist."""
        names = self._parameter_names()
        for name, value in parameters.items():
            if name not in names:
                raise ValueError(f"{name}: no parameter of {type(self).__name__}; it has {', '.join(names)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        given = [f"{k}={v!r}" for k, v in self.get_params().items() if v is not defaults[k].default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _require_fit(self, attribute: str) -> Any:
        """A fitted attribute; scikit-learn's NotFittedError, where it is loaded, or a ValueError before the fit."""
        if not hasattr(self, attribute):
            raise not_fitted()(f"{type(self).__name__}: not fitted yet; call fit first")
        return getattr(self, attribute)


def not_fitted() -> type[Exception]:
    """The exception for an estimator that has not been fitted."""
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return ValueError
    error: type[Exception] = NotFittedError
    return error


def save_json(path: "str | os.PathLike[str]", schema: str, facts: dict[str, Any]) -> None:
    """Write facts that JSON holds (floats exactly) to a file that appears whole or not at all."""
    write_atomically(path, (json.dumps({"schema": schema, **facts}, allow_nan=False) + "\n").encode())


def load_json(path: "str | os.PathLike[str]", schema: str) -> dict[str, Any]:
    """What `save_json` wrote. ValueError where it is anything else."""
    try:
        facts = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or numbers and depths beyond Python's limits
        raise ValueError(f"{os.fspath(path)}: not JSON ({error})") from None
    found = facts.get("schema") if isinstance(facts, dict) else None
    if found != schema:
        raise ValueError(f"{os.fspath(path)}: schema {found!r:.60}; need {schema!r}")
    return facts


def convergence_warning() -> type[Warning]:
    """The category of a fit that found no optimum: scikit-learn's own where that is installed."""
    try:
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        return RuntimeWarning
    category: type[Warning] = ConvergenceWarning
    return category
