"""Public functions of one number a row: over every float32 there is, NaNs and infinities too."""

import numpy as np

import fastxent
from dossier.elementary import BOTH, F32, F64, PLUS, Case
from dossier.errors import EXACT
from dossier.oracles import sigmoid, softplus, wide

PROMISED = {F32: 4.0, F64: 8.0}  # 2^-21 and 2^-49 in epsilons
ROUNDED = {F32: 4.5, F64: 8.5}  # where the result is then rounded to the dtype


def pairs(x):
    """Rows of the logits (x, 0)."""
    return np.stack([x, np.zeros_like(x)], axis=1)


def logits(x):
    """Wide, and NaN for an infinity: a row that has one has no softmax."""
    return np.where(x == np.inf, np.nan, wide(x))


def labels(x, label):
    """That label for every row."""
    return np.full(len(x), label)


def binary(label):
    return lambda z: fastxent.binary_cross_entropy(z, labels(z, label), reduction="none", threads=1)


def binary_gradient(z):
    target = labels(z, 0)
    return fastxent.binary_cross_entropy_value_and_grad(z, target, reduction="none", threads=1)[1]


def log_loss(label):
    return lambda p: fastxent.binary_log_loss(p, labels(p, label), reduction="none", threads=1)


def cross_entropy(z):
    return fastxent.cross_entropy(pairs(z), labels(z, 1), reduction="none", threads=1)


def exact_softplus(x):
    return EXACT.log1p(EXACT.exp(EXACT.mpf(x))) if x < 1e5 else EXACT.mpf(x)


def exact_sigmoid(x):
    return 1 / (1 + EXACT.exp(-EXACT.mpf(max(x, -1e5))))


def _cases():
    everybody = ("NumPy", "SciPy", "torch", "jax")
    for dtype in (F32, F64):
        largest = float(np.finfo(dtype).max)
        promised, rounded = PROMISED[dtype], ROUNDED[dtype]

        def all_of(name, bound, ours, of, exact, peers, *, result=F64, dtype=dtype, largest=largest):
            return Case(name, dtype, 0.0, largest, BOTH, bound, ours, of, exact, peers, result, special=True)

        def up_to_1(name, ours, of, exact, peers, dtype=dtype, promised=promised):
            return Case(name, dtype, 0.0, 1.0, PLUS, promised, ours, of, exact, peers, F64)

        yield all_of("binary_cross_entropy, label 0", promised, binary(0), lambda x: softplus(wide(x)), exact_softplus,
                     dict.fromkeys(everybody, "softplus"))  # fmt: skip
        yield all_of("binary_cross_entropy, label 1", promised, binary(1), lambda x: softplus(-wide(x)),
                     lambda x: exact_softplus(-x), dict.fromkeys(everybody, "softplus of -x"))  # fmt: skip
        yield all_of("binary gradient, label 0", rounded, binary_gradient, lambda x: sigmoid(wide(x)), exact_sigmoid,
                     dict.fromkeys(everybody[1:], "sigmoid"), result=dtype)  # fmt: skip
        yield all_of("cross_entropy of (x, 0), label 1", promised, cross_entropy, lambda x: softplus(logits(x)),
                     exact_softplus, dict.fromkeys(everybody[1:], "cross_entropy"))  # fmt: skip
        yield all_of("log_softmax of (x, 0)", rounded, lambda x: fastxent.log_softmax(pairs(x), threads=1)[:, 0],
                     lambda x: -softplus(-logits(x)), lambda x: -exact_softplus(-x),
                     dict.fromkeys(everybody[1:], "log_softmax"), result=dtype)  # fmt: skip
        yield all_of("softmax of (x, 0)", rounded, lambda x: fastxent.softmax(pairs(x), threads=1)[:, 0],
                     lambda x: sigmoid(logits(x)), exact_sigmoid, dict.fromkeys(everybody[1:], "softmax"),
                     result=dtype)  # fmt: skip
        yield up_to_1("binary_log_loss, label 1", log_loss(1), lambda p: -np.log(wide(p)),
                      lambda p: -EXACT.log(EXACT.mpf(p)), dict.fromkeys(("NumPy", "torch", "jax"), "-log"))  # fmt: skip
        yield up_to_1("binary_log_loss, label 0", log_loss(0), lambda p: -np.log1p(-wide(p)),
                      lambda p: -EXACT.log1p(-EXACT.mpf(p)), dict.fromkeys(everybody, "-log1p of -x"))  # fmt: skip


CASES = {case.key: case for case in _cases()}
