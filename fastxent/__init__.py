"""Exact, fast cross-entropy and negative log-likelihood of classifiers' predictions.

The public names load on first use: importing the package costs nothing, Numba comes in with the first call.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastxent.ahead import warmup
    from fastxent.comparing.comparer import Comparer, Comparison, compare
    from fastxent.focal import focal_loss, focal_loss_value_and_grad
    from fastxent.gradients import binary_cross_entropy_value_and_grad, cross_entropy_value_and_grad
    from fastxent.linear.functions import linear_cross_entropy, linear_cross_entropy_value_and_grad
    from fastxent.losses import (
        binary_cross_entropy,
        binary_log_loss,
        cross_entropy,
        entropy,
        kl_divergence,
        log_likelihood,
        log_loss,
        log_softmax,
        logsumexp,
        nll,
        perplexity,
        softmax,
    )
    from fastxent.scoring.scorer import Score, Scorer, score
    from fastxent.threads import get_threads, set_threads

__version__ = "0.1.0"

__all__ = [
    "Comparer",
    "Comparison",
    "Score",
    "Scorer",
    "__version__",
    "binary_cross_entropy",
    "binary_cross_entropy_value_and_grad",
    "binary_log_loss",
    "compare",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "entropy",
    "focal_loss",
    "focal_loss_value_and_grad",
    "get_threads",
    "kl_divergence",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_likelihood",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "nll",
    "perplexity",
    "score",
    "set_threads",
    "softmax",
    "warmup",
]

# Where a name lives, unless in losses.
_HOMES = {
    "Comparer": "comparing.comparer",
    "Comparison": "comparing.comparer",
    "Score": "scoring.scorer",
    "Scorer": "scoring.scorer",
    "score": "scoring.scorer",
    "binary_cross_entropy_value_and_grad": "gradients",
    "compare": "comparing.comparer",
    "cross_entropy_value_and_grad": "gradients",
    "focal_loss": "focal",
    "focal_loss_value_and_grad": "focal",
    "get_threads": "threads",
    "linear_cross_entropy": "linear.functions",
    "linear_cross_entropy_value_and_grad": "linear.functions",
    "set_threads": "threads",
    "warmup": "ahead",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    interrupts = import_module(f"{__name__}.interrupts")
    with interrupts.interrupts_held():  # Numba and SciPy cannot be imported again after they were interrupted
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'losses')}"), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
