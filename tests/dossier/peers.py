"""The same functions in other libraries, over NumPy arrays. Those that are not installed are left out."""

import functools
import importlib

import numpy as np

PLAIN = ("exp", "expm1", "log", "log1p")


def _pairs(x):
    return np.stack([x, np.zeros_like(x)], axis=1)


def _numpy():
    return {name: getattr(np, name) for name in PLAIN} | {"softplus": lambda x: np.logaddexp(x.dtype.type(0), x)}


def _scipy():
    special = importlib.import_module("scipy.special")
    return {
        "expm1": special.expm1,
        "log1p": special.log1p,
        "sigmoid": special.expit,
        "softplus": lambda x: -special.log_expit(-x),
        "cross_entropy": lambda x: special.logsumexp(_pairs(x), axis=1),
        "log_softmax": lambda x: special.log_softmax(_pairs(x), axis=1)[:, 0],
        "softmax": lambda x: special.softmax(_pairs(x), axis=1)[:, 0],
    }


def _torch():
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    f = torch.nn.functional

    def through(function):
        return lambda x: function(torch.from_numpy(x)).numpy()

    def pairs(x):
        return torch.stack([x, torch.zeros_like(x)], 1)

    def cross_entropy(x):
        return f.cross_entropy(pairs(x), torch.ones(len(x), dtype=torch.int64), reduction="none")

    functions = {name: getattr(torch, name) for name in (*PLAIN, "sigmoid")} | {
        "softplus": lambda x: f.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none"),
        "cross_entropy": cross_entropy,
        "log_softmax": lambda x: torch.log_softmax(pairs(x), 1)[:, 0],
        "softmax": lambda x: torch.softmax(pairs(x), 1)[:, 0],
    }
    return {name: through(function) for name, function in functions.items()}


def _jax():
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)

    def pairs(x):
        return jax.numpy.stack([x, jax.numpy.zeros_like(x)], 1)

    functions = {name: getattr(jax.numpy, name) for name in PLAIN} | {
        "sigmoid": jax.nn.sigmoid,
        "softplus": jax.nn.softplus,
        "cross_entropy": lambda x: -jax.nn.log_softmax(pairs(x), 1)[:, 1],
        "log_softmax": lambda x: jax.nn.log_softmax(pairs(x), 1)[:, 0],
        "softmax": lambda x: jax.nn.softmax(pairs(x), 1)[:, 0],
    }

    def through(function):
        compiled = jax.jit(function)
        return lambda x: np.asarray(compiled(x))

    return {name: through(function) for name, function in functions.items()}


_LIBRARIES = {"NumPy": _numpy, "SciPy": _scipy, "torch": _torch, "jax": _jax}
LIBRARIES = tuple(_LIBRARIES)


@functools.cache
def functions(library):
    """{name: function} of a library, or nothing where it is not installed."""
    try:
        made = _LIBRARIES[library]()
    except ImportError:
        return {}
    turned = {f"{name} of -x": lambda x, f=f: f(-x) for name, f in made.items()}
    return made | turned | {f"-{name}": lambda x, f=f: -f(x) for name, f in (made | turned).items()}
