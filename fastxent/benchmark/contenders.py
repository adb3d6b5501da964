"""How each library computes a case: the inputs, and for every library a call to time.

A contender is made from a case's arrays: conversions and compilation happen then, and what is returned is timed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastxent
from fastxent.benchmark import inputs
from fastxent.benchmark.cases import SKLEARN_FORMS, SKLEARN_METRICS, Case
from fastxent.benchmark.references import Call
from fastxent.benchmark.training import lightgbm_training, xgboost_training

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


def _jax(function: Callable[..., Any], transposed: bool = False) -> Callable[..., Call]:
    """A contender from function(jax, optax, *arrays), jitted; the first array transposed, if so: the same memory."""

    def prepare(*arrays: np.ndarray) -> Call:
        import jax
        import optax

        wide = any(a.dtype == np.float64 for a in arrays)
        precision: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        with precision(wide):
            if transposed:
                arrays = (arrays[0].T, *arrays[1:])
            there = [jax.numpy.asarray(a if a.dtype.kind != "i" else a.astype(np.int32)) for a in arrays]
            jitted = jax.jit(lambda *xs: function(jax, optax, *xs)).lower(*there).compile()
        return lambda: jitted(*there).block_until_ready()

    return prepare


def _torch_linear_gradient(hidden: np.ndarray, y: np.ndarray, classifier: np.ndarray) -> Call:
    import torch

    h, labels, w = _tensors(hidden, y, classifier)
    h.requires_grad_(), w.requires_grad_()

    def step() -> Any:
        h.grad = w.grad = None
        loss = torch.nn.functional.linear_cross_entropy(h, w, labels)
        loss.backward()
        return loss.detach()

    return step


def _scipy_loss(z: np.ndarray, y: np.ndarray) -> Call:
    from scipy.special import logsumexp

    def loss() -> Any:
        own = np.take_along_axis(z, np.expand_dims(y, 1), 1)
        return (logsumexp(z, axis=1) - own.squeeze(1)).mean()

    return loss


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


def _sklearn_metric(module: str, name: str) -> Callable[..., Call]:
    """A metric of scikit-learn's signature, from this module; weights come last."""

    def prepare(q: np.ndarray, y: np.ndarray, *weights: np.ndarray) -> Call:
        from importlib import import_module

        function, options = getattr(import_module(module), name), dict(zip(["sample_weight"], weights))
        return lambda: function(y, q, **options)

    return prepare


def _sklearn_works() -> "dict[str, Work]":
    given = inputs.labelled_probs, inputs.named_probs, inputs.one_hot_probs, inputs.weighted_probs
    return {
        f"sklearn_{metric}{form}": Work(
            arrays,
            _sklearn_metric("fastxent.adapters.sklearn", name),
            {"scikit-learn": Peer(_sklearn_metric("sklearn.metrics", name))},
        )
        for metric, name in SKLEARN_METRICS.items()
        for form, arrays in zip(SKLEARN_FORMS, given, strict=True)
    }


def _torch_step(module: str) -> Callable[..., Call]:
    """cross_entropy of torch's signature, from this module, and its gradient."""

    def prepare(z: np.ndarray, y: np.ndarray) -> Call:
        from importlib import import_module

        function = import_module(module).cross_entropy
        logits, labels = _tensors(z, y)
        logits.requires_grad_()

        def step() -> Any:
            logits.grad = None
            loss = function(logits, labels)
            loss.backward()
            return loss.detach()

        return step

    return prepare


def _softmax_regression(x: np.ndarray, y: np.ndarray) -> Call:
    from fastxent.fit import Gaussian, SoftmaxRegression

    return lambda: (SoftmaxRegression(prior=Gaussian(1.0)).fit(x, y), x, y)


def _logistic_regression(x: np.ndarray, y: np.ndarray) -> Call:
    from sklearn.linear_model import LogisticRegression

    return lambda: (LogisticRegression(C=1.0, max_iter=1000).fit(x, y), x, y)


def _penalised_loss(result: Any) -> float:
    """What a fit minimises, a row: by the definition, of its coefficients."""
    from scipy.special import logsumexp

    model, x, y = result
    z = x @ model.coef_.T + model.intercept_
    z = np.column_stack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    own = np.take_along_axis(z, y[:, None], 1)[:, 0]
    return float(((logsumexp(z, axis=1) - own).sum() + (model.coef_**2).sum() / 2) / len(y))


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


def _scipy_comparison(a: np.ndarray, y: np.ndarray, b: np.ndarray) -> Call:
    """A comparison's main figures, each as NumPy's and SciPy's users would write it."""
    from scipy.special import logsumexp
    from scipy.stats import binomtest, ttest_rel

    def comparison() -> Any:
        own = y[:, None]
        la, lb = (logsumexp(z, axis=1) - np.take_along_axis(z, own, 1)[:, 0] for z in (a, b))
        d = la - lb
        test = ttest_rel(la, lb)
        test.confidence_interval()
        right = [z.argmax(1) == y for z in (a, b)]
        only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
        won = (d < 0).mean(), (d > 0).mean()
        p_value = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        of_class = [np.bincount(y, weights=x, minlength=a.shape[1]) for x in (d, d * d, right[0], right[1])]
        rows = [order[:20] for order in (np.argpartition(d, 20), np.argpartition(-d, 20))] if len(d) > 20 else []
        return d.mean(), test, right, won, p_value, of_class, rows

    return comparison


def both_losses(a: np.ndarray, y: np.ndarray, b: np.ndarray) -> Call:
    return lambda: (fastxent.cross_entropy(a, y), fastxent.cross_entropy(b, y))


class Peer(NamedTuple):
    """Another library's way to compute something."""

    prepare: Callable[..., Call]  # from the case's arrays
    most_bytes: int | None = None  # beyond these it is given the first rows alone, and its time counts in proportion


class Work(NamedTuple):
    """Something to compute: its inputs, and how each library computes it."""

    inputs: Callable[[Case, np.random.Generator], tuple[np.ndarray, ...]]
    ours: Callable[..., Call]
    peers: dict[str, Peer]
    figure: Callable[[Any], float] = float  # of a result: one number, to see that all compute the same
    optimum: float | None = None  # where all look for a minimum: how far ours may be above theirs, as a part of it


# What allocates many times its input, or takes a minute for a gigabyte.
SLOW_BYTES = 1 << 28


def _loss_peers(axis: int = 1) -> dict[str, Peer]:
    """Of logits and labels; the classes on this axis of what jax gets, whose arrays have one order alone."""
    return {
        "torch": Peer(_torch(lambda torch, f, z, y: f.cross_entropy(z, y))),
        "jax": Peer(
            _jax(
                lambda jax, optax, z, y: optax.softmax_cross_entropy_with_integer_labels(z, y, axis=axis).mean(),
                transposed=axis == 0,
            )
        ),
        "scipy": Peer(_scipy_loss, SLOW_BYTES),
    }


def _loss(z: np.ndarray, y: np.ndarray) -> Call:
    return lambda: fastxent.cross_entropy(z, y)


def _first_of_several(result: Any) -> float:
    return float(result[0] if isinstance(result, tuple) else result)


def _first(result: Any) -> float:
    return float(np.asarray(result).reshape(-1)[0])


def _written(name: str) -> Work:
    """softmax or log_softmax, written to an array that is there where the library can."""
    function = getattr(fastxent, name)
    return Work(
        inputs.with_room,
        lambda z, out: lambda: function(z, out=out),
        {
            "torch": Peer(_torch(lambda torch, f, z, out: getattr(torch, name)(z, 1, out=out))),
            "jax": Peer(_jax(lambda jax, optax, z, out: getattr(jax.nn, name)(z, axis=1))),
            "scipy": Peer(_scipy(name), SLOW_BYTES),
        },
        _first,
    )


def _torch_gradient(loss: str) -> Callable[..., Call]:
    """Forward and backward, the gradient in an array of torch's own."""

    def prepare(z: np.ndarray, y: np.ndarray, out: np.ndarray) -> Call:
        import torch

        function, (tz, ty) = getattr(torch.nn.functional, loss), _tensors(z, y)
        tz.requires_grad_()

        def both() -> Any:
            tz.grad = None
            value = function(tz, ty)
            value.backward()
            return value.detach()

        return both

    return prepare


def _jax_gradient(loss: str) -> Callable[..., Call]:
    """jax.value_and_grad, jitted."""

    def prepare(z: np.ndarray, y: np.ndarray, out: np.ndarray) -> Call:
        import jax
        import optax

        there = [jax.numpy.asarray(a if a.dtype.kind != "i" else a.astype(np.int32)) for a in (z, y)]
        both = jax.value_and_grad(lambda z, y: getattr(optax, loss)(z, y).mean())
        jitted = jax.jit(both).lower(*there).compile()
        return lambda: jax.block_until_ready(jitted(*there))[0]

    return prepare


def _gradient(inputs: Any, name: str, torch_loss: str, jax_loss: str) -> Work:
    """A loss and its gradient, ours written to an array that is there."""
    function = getattr(fastxent, name)
    peers = {"torch": Peer(_torch_gradient(torch_loss)), "jax": Peer(_jax_gradient(jax_loss))}
    return Work(inputs, lambda z, y, out: lambda: function(z, y, out=out)[0], peers)


WORKS = {
    "value_and_grad": _gradient(
        inputs.labelled_with_room,
        "cross_entropy_value_and_grad",
        "cross_entropy",
        "softmax_cross_entropy_with_integer_labels",
    ),
    "binary_value_and_grad": _gradient(
        inputs.binary_with_room,
        "binary_cross_entropy_value_and_grad",
        "binary_cross_entropy_with_logits",
        "sigmoid_binary_cross_entropy",
    ),
    "cross_entropy": Work(inputs.labelled, _loss, _loss_peers()),
    "small_call": Work(inputs.labelled, _loss, _loss_peers()),
    "class_axis_1": Work(inputs.images, lambda z, y: lambda: fastxent.cross_entropy(z, y, axis=1), _loss_peers()),
    "fortran_order": Work(inputs.fortran, _loss, _loss_peers(axis=0)),
    "soft_targets": Work(
        inputs.distributed,
        lambda z, p: lambda: fastxent.cross_entropy(z, p),
        {
            "torch": Peer(_torch(lambda torch, f, z, p: f.cross_entropy(z, p))),
            "jax": Peer(_jax(lambda jax, optax, z, p: optax.softmax_cross_entropy(z, p).mean())),
        },
    ),
    "log_loss": Work(
        inputs.labelled_probs,
        lambda q, y: lambda: fastxent.log_loss(q, y),
        {
            "scikit-learn": Peer(_sklearn_log_loss, SLOW_BYTES),
            "torch": Peer(_torch(lambda torch, f, q, y: f.nll_loss(torch.log(q), y))),
        },
    ),
    **_sklearn_works(),
    "torch_cross_entropy": Work(
        inputs.labelled,
        _torch_step("fastxent.adapters.torch"),
        {"torch": Peer(_torch_step("torch.nn.functional"))},
    ),
    "torch_few_rows": Work(
        inputs.labelled,
        _torch_step("fastxent.adapters.torch"),
        {"torch": Peer(_torch_step("torch.nn.functional"))},
    ),
    **{
        f"{library}{'_binary' if binary else ''}_training": Work(
            inputs.binary_features if binary else inputs.features,
            training(True, binary),
            {library: Peer(training(False, binary))},
        )
        for library, training in (("xgboost", xgboost_training), ("lightgbm", lightgbm_training))
        for binary in (False, True)
    },
    "nll": Work(
        inputs.log_probs,
        lambda log_q, y: lambda: fastxent.nll(log_q, y),
        {
            "torch": Peer(_torch(lambda torch, f, log_q, y: f.nll_loss(log_q, y))),
            "jax": Peer(_jax(lambda jax, optax, log_q, y: -jax.numpy.take_along_axis(log_q, y[:, None], 1).mean())),
        },
    ),
    "binary": Work(
        inputs.binary_inputs,
        lambda z, y: lambda: fastxent.binary_cross_entropy(z, y),
        {
            "torch": Peer(_torch(lambda torch, f, z, y: f.binary_cross_entropy_with_logits(z, y))),
            "jax": Peer(_jax(lambda jax, optax, z, y: optax.sigmoid_binary_cross_entropy(z, y).mean())),
        },
    ),
    "logsumexp": Work(
        lambda case, rng: (inputs.logits(case, rng),),
        lambda z: lambda: fastxent.logsumexp(z),
        {
            "torch": Peer(_torch(lambda torch, f, z: torch.logsumexp(z, 1))),
            "jax": Peer(_jax(lambda jax, optax, z: jax.nn.logsumexp(z, axis=1))),
            "scipy": Peer(_scipy("logsumexp"), SLOW_BYTES),
        },
        _first,
    ),
    "softmax": _written("softmax"),
    "log_softmax": _written("log_softmax"),
    "linear": Work(
        inputs.linear,
        lambda h, y, w: lambda: fastxent.linear_cross_entropy(h, w, y),
        {"torch": Peer(_torch(lambda torch, f, h, y, w: f.linear_cross_entropy(h, w, y)))},
    ),
    "linear_gradient": Work(
        inputs.linear,
        lambda h, y, w: lambda: fastxent.linear_cross_entropy_value_and_grad(h, w, y),
        {"torch": Peer(_torch_linear_gradient)},
        _first_of_several,
    ),
    "softmax_regression": Work(
        inputs.regression,
        _softmax_regression,
        {"scikit-learn": Peer(_logistic_regression)},
        _penalised_loss,
        1e-7,
    ),
    "score_card": Work(
        inputs.labelled,
        lambda z, y: lambda: fastxent.score(z, y).nll,
        {"torchmetrics": Peer(_torchmetrics_card, SLOW_BYTES)},
    ),
    "compare": Work(
        inputs.two_models,
        lambda a, y, b: lambda: (fastxent.compare(a, b, y).pair().nll.value,),
        {"scipy": Peer(_scipy_comparison)},
        _first_of_several,
    ),
}
TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-3, "float64": 1e-9}
