"""Training by other libraries, with our objective or their own: contenders, as those in contenders.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.benchmark.references import Call

ROUNDS = 3  # of boosting


def xgboost_training(ours: bool, binary: bool = False) -> Callable[..., Call]:
    """Training by XGBoost, with our objective or its own; the result is the last round's loss."""

    def prepare(x: np.ndarray, y: np.ndarray) -> Call:
        import xgboost

        from fastxent.adapters.xgboost import BinaryObjective, SoftmaxObjective

        data = xgboost.DMatrix(x, y)
        objective: Any = BinaryObjective() if binary else SoftmaxObjective()
        settings: dict[str, Any] = {"objective": "binary:logistic", "base_score": 0.5}
        if not binary:
            settings |= {"objective": "multi:softprob", "num_class": x.shape[1] // 2}

        def train() -> float:
            found: dict[str, Any] = {}
            options: Any = {"evals": [(data, "train")], "evals_result": found, "verbose_eval": False}
            xgboost.train(settings, data, ROUNDS, obj=objective if ours else None, **options)
            return found["train"]["logloss" if binary else "mlogloss"][-1]

        return train

    return prepare


def lightgbm_training(ours: bool, binary: bool = False) -> Callable[..., Call]:
    """The same by LightGBM; the result is the mean of the first rows' (largest) logits."""

    def prepare(x: np.ndarray, y: np.ndarray) -> Call:
        import lightgbm

        from fastxent.adapters.lightgbm import BinaryObjective, SoftmaxObjective

        settings: dict[str, Any] = {"verbose": -1, "min_data_in_leaf": 2}
        data = lightgbm.Dataset(x, y, params=settings, free_raw_data=False).construct()
        if binary:
            settings |= {"objective": BinaryObjective() if ours else "binary"}
        else:
            settings |= {"objective": SoftmaxObjective() if ours else "multiclass", "num_class": x.shape[1] // 2}
        settings |= {"boost_from_average": False}

        def train() -> float:
            model = lightgbm.train(settings, data, ROUNDS)
            return float(model.predict(x[:128], raw_score=True).reshape(len(x[:128]), -1).max(1).mean())

        return train

    return prepare
