"""What the benchmark measures: the table of cases, their inputs, and how each library computes them.

A contender is made from a case's arrays: conversions and compilation happen then, and what is returned is timed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastxent

Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: what is computed, of which dtype, and how large."""

    work: str
    dtype: str
    n_classes: int
    n_rows: int
    quick_rows: int

    @property
    def name(self) -> str:
        return f"{self.work}-{self.dtype}-{self.n_classes}"

    @property
    def topic(self) -> str:
        return WORKS[self.work].topic

    def quick(self) -> "Case":
        """The same, small enough for a first impression."""
        return dataclasses.replace(self, n_rows=self.quick_rows)


CASES = (
    Case("cross_entropy", "float32", 1000, 100_000, 10_000),
    Case("cross_entropy", "float32", 100, 1_000_000, 100_000),
    Case("cross_entropy", "float32", 10, 2_000_000, 500_000),
    Case("cross_entropy", "float64", 1000, 50_000, 5_000),
    Case("cross_entropy", "bfloat16", 1000, 200_000, 20_000),
    Case("small_call", "float32", 10, 32, 32),
    Case("soft_targets", "float32", 1000, 50_000, 5_000),
    Case("log_loss", "float32", 10, 2_000_000, 200_000),
    Case("log_loss", "float32", 1000, 100_000, 10_000),
    Case("binary", "float32", 1, 50_000_000, 5_000_000),
    Case("logsumexp", "float32", 1000, 100_000, 10_000),
    Case("softmax", "float32", 1000, 100_000, 10_000),
    Case("score_card", "float32", 10, 2_000_000, 100_000),
    Case("score_card", "float32", 1000, 100_000, 5_000),
)


# --- inputs: arrays of a case, the predictions first ------------------------------------------------------------------


def _logits(case: Case, rng: np.random.Generator, n_classes: int | None = None) -> np.ndarray:
    """Normal logits of standard deviation 2."""
    shape = case.n_rows, n_classes or case.n_classes
    dtype = _dtype(case.dtype)
    z = np.empty(shape, dtype)
    step = max(1, (1 << 22) // shape[1])  # what has to be cast is cast piece by piece
    for start in range(0, shape[0], step):
        part = z[start : start + step]
        part[...] = 2 * rng.standard_normal(part.shape, np.float64 if dtype == np.float64 else np.float32)
    return z


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _labelled(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return _logits(case, rng), rng.integers(0, case.n_classes, case.n_rows)


def _probs(case: Case, rng: np.random.Generator) -> np.ndarray:
    z = _logits(case, rng)
    return fastxent.softmax(z, out=z)


def _labelled_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return _probs(case, rng), rng.integers(0, case.n_classes, case.n_rows)


def _distributed(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return _logits(case, rng), _probs(case, rng)


def _binary_inputs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z = _logits(case, rng)[:, 0]
    return z, rng.integers(0, 2, case.n_rows).astype(z.dtype)


def _with_room(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits and an array for the result, its pages in memory."""
    z = _logits(case, rng)
    return z, np.full_like(z, 0.5)


# --- contenders: arrays -> a call to time -----------------------------------------------------------------------------


def _tensors(*arrays: np.ndarray) -> list[Any]:
    """The same memory as torch tensors."""
    import torch

    return [
        torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)
        for a in arrays
    ]


def _torch(function: Callable[..., Any]) -> Callable[..., Call]:
    """A contender from function(torch, torch.nn.functional, *tensors)."""

    def prepare(*arrays: np.ndarray) -> Call:
        import torch

        tensors = _tensors(*arrays)
        return lambda: function(torch, torch.nn.functional, *tensors)

    return prepare


def _jax(function: Callable[..., Any]) -> Callable[..., Call]:
    """A contender from function(jax, optax, *arrays), jitted."""

    def prepare(*arrays: np.ndarray) -> Call:
        import jax
        import optax

        wide = any(a.dtype == np.float64 for a in arrays)
        precision: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        with precision(wide):
            there = [jax.numpy.asarray(a if a.dtype.kind != "i" else a.astype(np.int32)) for a in arrays]
            jitted = jax.jit(lambda *xs: function(jax, optax, *xs)).lower(*there).compile()
        return lambda: jitted(*there).block_until_ready()

    return prepare


def _scipy_loss(z: np.ndarray, y: np.ndarray) -> Call:
    from scipy.special import logsumexp

    rows = np.arange(len(y))
    return lambda: (logsumexp(z, axis=1) - z[rows, y]).mean()


def _scipy(name: str) -> Callable[..., Call]:
    def prepare(z: np.ndarray, *_: np.ndarray) -> Call:
        import scipy.special

        function = getattr(scipy.special, name)
        return lambda: function(z, axis=1)

    return prepare


def _sklearn_log_loss(q: np.ndarray, y: np.ndarray) -> Call:
    from sklearn.metrics import log_loss

    labels = np.arange(q.shape[1])
    return lambda: log_loss(y, q, labels=labels)


def _torchmetrics_card(z: np.ndarray, y: np.ndarray) -> Call:
    """The score card's main figures, each by the function that its users would call."""
    import torch
    import torchmetrics.functional.classification as metrics
    from torch.nn.functional import cross_entropy

    n_classes, (tz, ty) = z.shape[1], _tensors(z, y)

    def card() -> Any:
        nll = cross_entropy(tz, ty, reduction="none")
        q = tz.softmax(1)
        right = q.gather(1, ty[:, None])[:, 0]
        figures = [
            nll.mean(),
            nll.std(),
            (q.square().sum(1) - 2 * right + 1).mean(),
            torch.special.entr(q).sum(1).mean(),
            metrics.multiclass_accuracy(q, ty, n_classes, average="micro"),
            metrics.multiclass_accuracy(q, ty, n_classes, average="micro", top_k=5),
            metrics.multiclass_calibration_error(q, ty, n_classes, n_bins=15),
            metrics.multiclass_precision(q, ty, n_classes, average="none"),
            metrics.multiclass_recall(q, ty, n_classes, average="none"),
            metrics.multiclass_f1_score(q, ty, n_classes, average="none"),
            metrics.multiclass_confusion_matrix(q, ty, n_classes),
            nll.topk(min(20, len(nll))),
        ]
        return figures[0]

    return card


class Work(NamedTuple):
    """Something to compute: its inputs, and how each library computes it."""

    topic: str
    inputs: Callable[[Case, np.random.Generator], tuple[np.ndarray, ...]]
    ours: Callable[..., Call]
    peers: dict[str, Callable[..., Call]]
    figure: Callable[[Any], float] = float  # of a result: one number, to see that all compute the same


_LOSS_PEERS: dict[str, Callable[..., Call]] = {
    "torch": _torch(lambda torch, f, z, y: f.cross_entropy(z, y)),
    "jax": _jax(lambda jax, optax, z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean()),
    "scipy": _scipy_loss,
}

WORKS = {
    "cross_entropy": Work("losses", _labelled, lambda z, y: lambda: fastxent.cross_entropy(z, y), _LOSS_PEERS),
    "small_call": Work("losses", _labelled, lambda z, y: lambda: fastxent.cross_entropy(z, y), _LOSS_PEERS),
    "soft_targets": Work(
        "losses",
        _distributed,
        lambda z, p: lambda: fastxent.cross_entropy(z, p),
        {
            "torch": _torch(lambda torch, f, z, p: f.cross_entropy(z, p)),
            "jax": _jax(lambda jax, optax, z, p: optax.softmax_cross_entropy(z, p).mean()),
        },
    ),
    "log_loss": Work(
        "losses",
        _labelled_probs,
        lambda q, y: lambda: fastxent.log_loss(q, y),
        {"scikit-learn": _sklearn_log_loss, "torch": _torch(lambda torch, f, q, y: f.nll_loss(torch.log(q), y))},
    ),
    "binary": Work(
        "losses",
        _binary_inputs,
        lambda z, y: lambda: fastxent.binary_cross_entropy(z, y),
        {
            "torch": _torch(lambda torch, f, z, y: f.binary_cross_entropy_with_logits(z, y)),
            "jax": _jax(lambda jax, optax, z, y: optax.sigmoid_binary_cross_entropy(z, y).mean()),
        },
    ),
    "logsumexp": Work(
        "transforms",
        lambda case, rng: (_logits(case, rng),),
        lambda z: lambda: fastxent.logsumexp(z),
        {
            "torch": _torch(lambda torch, f, z: torch.logsumexp(z, 1)),
            "jax": _jax(lambda jax, optax, z: jax.nn.logsumexp(z, axis=1)),
            "scipy": _scipy("logsumexp"),
        },
        lambda result: float(result[0]),
    ),
    "softmax": Work(
        "transforms",
        _with_room,
        lambda z, out: lambda: fastxent.softmax(z, out=out),
        {
            "torch": _torch(lambda torch, f, z, out: torch.softmax(z, 1, out=out)),
            "jax": _jax(lambda jax, optax, z, out: jax.nn.softmax(z, axis=1)),
            "scipy": _scipy("softmax"),
        },
        lambda result: float(result[0, 0]),
    ),
    "score_card": Work(
        "score",
        _labelled,
        lambda z, y: lambda: fastxent.score(z, y).nll,
        {"torchmetrics": _torchmetrics_card},
    ),
}
TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-3, "float64": 1e-9}
