"""Functions of rows: what to search for the worst row of, its oracles, and the same function in other libraries.

Rows are a dictionary: "z" (n, C) of the dtype; "y" (n,) labels, or "t" (n, C) targets, or "v" (n, C) a second z.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import reference

import fastxent
from dossier.errors import EXACT
from dossier.oracles import Softmax, divergence_of_logits, log_ratio, softplus, times, wide

F32, F64 = np.float32, np.float64
ROWS = {"reduction": "none", "threads": 1}
GAMMA = 2.0


@dataclass(frozen=True)
class Search:
    """A function of rows, for both dtypes. Errors are relative to a scale, by default the value."""

    name: str
    takes: str  # "y", "t", "v" or "" beside z
    ours: Callable[[dict], np.ndarray]  # (n,) or (n, C)
    wide: Callable[[dict], tuple]  # (value, scale) of the same shape
    exact: Callable[[dict], list]  # of one row: [(value, scale)]
    kind: str = "logits"
    peers: dict[str, Callable[[dict], np.ndarray]] = field(default_factory=dict)
    scale: str = ""  # what errors are relative to, in words; "" is the value itself
    allowed: float = 1.0  # times the promise
    rounded: bool = False  # the result has the input's dtype
    thin: bool = False  # sums of p ln p, where p below float64's normal range has lost digits
    classes: tuple[int, ...] = (2, 3, 10, 17, 100, 1000)

    def bound(self, dtype):
        """The largest relative error promised, in the dtype's epsilon."""
        return (4.0 if dtype == F32 else 8.0) * self.allowed + 0.5 * self.rounded


def own(values, rows):
    """The labels' entries."""
    return np.take_along_axis(values, rows["y"][:, None], 1)[:, 0]


def itself(value):
    return value, np.abs(value)


# --- other libraries --------------------------------------------------------------------------------------------------


def torch_of(function):
    def call(rows):
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        return function(torch, {name: torch.from_numpy(x) for name, x in rows.items()}).numpy()

    return call


def jax_of(function):
    compiled = []

    def call(rows):
        jax = importlib.import_module("jax")
        if not compiled:
            jax.config.update("jax_enable_x64", True)
            compiled.append(jax.jit(lambda rows: function(jax, rows)))
        return np.asarray(compiled[0](rows))

    return call


def scipy_of(function):
    return lambda rows: function(importlib.import_module("scipy.special"), rows)


def jax_picked(jax, logs, rows):
    return -jax.numpy.take_along_axis(logs, rows["y"][:, None], 1)[:, 0]


def by_hand(rows):
    """What is written in NumPy every day."""
    z = rows["z"]
    top = z.max(1, keepdims=True)
    return np.log(np.exp(z - top).sum(1)) + top[:, 0] - own(z, rows)


HARD = {
    "NumPy": by_hand,
    "SciPy": scipy_of(lambda s, r: -own(s.log_softmax(r["z"], axis=1), r)),
    "torch": torch_of(lambda t, r: t.nn.functional.cross_entropy(r["z"], r["y"], reduction="none")),
    "jax": jax_of(lambda j, r: jax_picked(j, j.nn.log_softmax(r["z"], 1), r)),
}
SOFT = {
    "SciPy": scipy_of(lambda s, r: -(r["t"] * s.log_softmax(r["z"], axis=1)).sum(1)),
    "torch": torch_of(lambda t, r: t.nn.functional.cross_entropy(r["z"], r["t"], reduction="none")),
    "jax": jax_of(lambda j, r: -(r["t"] * j.nn.log_softmax(r["z"], 1)).sum(1)),
}
LOG_SOFTMAX = {
    "SciPy": scipy_of(lambda s, r: s.log_softmax(r["z"], axis=1)),
    "torch": torch_of(lambda t, r: t.log_softmax(r["z"], 1)),
    "jax": jax_of(lambda j, r: j.nn.log_softmax(r["z"], 1)),
}
SOFTMAX = {
    "SciPy": scipy_of(lambda s, r: s.softmax(r["z"], axis=1)),
    "torch": torch_of(lambda t, r: t.softmax(r["z"], 1)),
    "jax": jax_of(lambda j, r: j.nn.softmax(r["z"], 1)),
}
LOGSUMEXP = {
    "SciPy": scipy_of(lambda s, r: s.logsumexp(r["z"], axis=1)),
    "torch": torch_of(lambda t, r: t.logsumexp(r["z"], 1)),
    "jax": jax_of(lambda j, r: j.nn.logsumexp(r["z"], 1)),
}
ENTROPY = {
    "SciPy": scipy_of(lambda s, r: s.entr(s.softmax(r["z"], axis=1)).sum(1)),
    "torch": torch_of(lambda t, r: -(t.softmax(r["z"], 1) * t.log_softmax(r["z"], 1)).sum(1)),
    "jax": jax_of(lambda j, r: -(j.nn.softmax(r["z"], 1) * j.nn.log_softmax(r["z"], 1)).sum(1)),
}
ENTROPY_OF_PROBS = {
    "SciPy": scipy_of(lambda s, r: s.entr(r["z"]).sum(1)),
    "torch": torch_of(lambda t, r: t.special.entr(r["z"]).sum(1)),
    "jax": jax_of(lambda j, r: j.scipy.special.entr(r["z"]).sum(1)),
}
KL = {
    "SciPy": scipy_of(lambda s, r: (s.softmax(r["z"], axis=1)
                                    * (s.log_softmax(r["z"], axis=1) - s.log_softmax(r["v"], axis=1))).sum(1)),
    "torch": torch_of(lambda t, r: t.nn.functional.kl_div(t.log_softmax(r["v"], 1), t.log_softmax(r["z"], 1),
                                                          log_target=True, reduction="none").sum(1)),
    "jax": jax_of(lambda j, r: (j.nn.softmax(r["z"], 1)
                                * (j.nn.log_softmax(r["z"], 1) - j.nn.log_softmax(r["v"], 1))).sum(1)),
}  # fmt: skip
KL_OF_PROBS = {
    "SciPy": scipy_of(lambda s, r: s.rel_entr(r["z"], r["v"]).sum(1)),
    "torch": torch_of(lambda t, r: t.nn.functional.kl_div(r["v"].log(), r["z"], reduction="none").sum(1)),
    "jax": jax_of(lambda j, r: j.scipy.special.rel_entr(r["z"], r["v"]).sum(1)),
}
GRADIENT = {
    "NumPy": lambda r: SOFTMAX["SciPy"](r) - one_hot(r),
    "torch": torch_of(lambda t, r: t.softmax(r["z"], 1) - t.nn.functional.one_hot(r["y"], r["z"].shape[1])),
    "jax": jax_of(lambda j, r: j.nn.softmax(r["z"], 1) - j.nn.one_hot(r["y"], r["z"].shape[1])),
}
BINARY = {
    "torch": torch_of(
        lambda t, r: t.nn.functional.binary_cross_entropy_with_logits(r["z"], r["t"], reduction="none")[:, 0]
    ),
    "jax": jax_of(lambda j, r: (r["t"] * j.nn.softplus(-r["z"]) + (1 - r["t"]) * j.nn.softplus(r["z"]))[:, 0]),
}  # fmt: skip


def one_hot(rows):
    return np.eye(rows["z"].shape[1], dtype=rows["z"].dtype)[rows["y"]]


# --- what is searched -------------------------------------------------------------------------------------------------


def soft_sum(rows, temperature=1.0, smoothing=0.0):
    minus_log = Softmax(rows["z"], temperature).minus_log
    c = minus_log.shape[1]
    target = wide(rows["t"] if "t" in rows else one_hot(rows))
    smoothing = target.dtype.type(smoothing)
    return itself(times((1 - smoothing) * target + smoothing / c, minus_log).sum(1))


def exactly(one, **options):
    """The exact loss of a row with its label or target."""
    target = one["t"] if "t" in one else one["y"]
    value = reference.exact_cross_entropy(one["z"], target, **options)
    return [(value, value)]


def gradient_wide(rows):
    """q (M - t) - t (1 - q) and the sum of both terms: for labels, one of them is 0."""
    found = Softmax(rows["z"])
    t = wide(rows["t"]) if "t" in rows else one_hot(rows).astype(found.share.dtype)
    rest = t.sum(1, keepdims=True) - t
    if "t" not in rows:
        rest = 1 - t
    up, down = found.share * rest, t * found.others
    return up - down, found.share * t.sum(1, keepdims=True) + t if "t" in rows else up + down


def gradient_exact(one):
    c = len(one["z"])
    t = one["t"] if "t" in one else np.eye(1, c, one["y"])[0]
    found = reference.exact_gradient(one["z"], t)
    return [(g, share + EXACT.mpf(float(own)) if "t" in one else scale) for (g, scale, _, share), own in zip(found, t)]


def gradient(rows):
    return fastxent.cross_entropy_value_and_grad(rows["z"], rows.get("t", rows.get("y")), **ROWS)[1]


def card(rows):
    """Each row's NLL in a score card, from its list of the worst."""
    n = len(rows["z"])
    found = fastxent.score(rows["z"], rows["y"], worst=n, threads=1).worst
    out = np.empty(n)
    out[[row.id for row in found]] = [row.nll for row in found]
    return out


def linear(rows):
    """Hidden states that are the logits: the products with the unit matrix are exact."""
    c = rows["z"].shape[1]
    return fastxent.linear_cross_entropy(rows["z"], np.eye(c, dtype=rows["z"].dtype), rows["y"], **ROWS)


def logsumexp_wide(rows):
    found = Softmax(rows["z"])
    return found.top + np.log1p(found.rest[:, 0]), np.abs(found.top) + np.log(found.top.dtype.type(rows["z"].shape[1]))


def logsumexp_exact(one):
    z = one["z"]
    return [(reference.exact_logsumexp(z), abs(EXACT.mpf(float(z.max()))) + EXACT.log(len(z)))]


def softmax_wide(rows):
    found = Softmax(rows["z"])
    return found.share, found.share * (1 + found.minus_log)


def softmax_exact(one):
    logs = reference.exact_log_softmax(one["z"])
    return [(EXACT.exp(v), EXACT.exp(v) * (1 - v)) for v in logs]


def focal_wide(rows):
    found = Softmax(rows["z"])
    return itself(own(found.others, rows) ** 2 * own(found.minus_log, rows))


def focal_exact(one):
    nll = reference.exact_nll(one["z"], one["y"])
    value = (-EXACT.expm1(-nll)) ** 2 * nll
    return [(value, value)]


def entropy_wide(kind):
    def of(rows):
        if kind == "logits":
            found = Softmax(rows["z"])
            return itself(times(found.share, found.minus_log).sum(1))
        p = wide(rows["z"])
        with np.errstate(all="ignore"):
            return itself(times(np.exp(p), -p).sum(1) if kind == "log_probs" else times(p, -np.log(p)).sum(1))

    return of


def entropy_exact(kind):
    def of(one):
        value = reference.exact_entropy(one["z"], kind)
        return [(value, abs(value))]

    return of


def kl_wide(kind):
    def of(rows):
        if kind == "logits":
            return divergence_of_logits(rows["z"], rows["v"])
        p, q = wide(rows["z"]), wide(rows["v"])
        terms = times(np.exp(p), p - q) if kind == "log_probs" else times(p, log_ratio(p, q))
        return terms.sum(1), np.abs(terms).sum(1)

    return of


def kl_exact(kind):
    def of(one):
        with EXACT.workdps(700):  # logarithms of two rows that are certain of one class differ in the last digits
            return [reference.exact_kl_divergence(one["z"], one["v"], kind)]

    return of


def log_loss_wide(rows):
    """-ln of normalised probabilities: ln(1 + rest / own), or ln(sum / own) where that is no small number."""
    p = wide(rows["z"])
    mine = own(p, rows)
    rest = p.copy()
    np.put_along_axis(rest, rows["y"][:, None], 0, 1)
    with np.errstate(all="ignore"):
        return itself(np.log1p(rest.sum(1) / mine))


def log_loss_exact(one):
    value = reference.exact_log_loss(one["z"], one["y"], normalize=True)
    return [(value, value)]


def binary_wide(rows):
    z, t = wide(rows["z"]), wide(rows["t"])
    return itself((times(t, softplus(-z)) + times(1 - t, softplus(z)))[:, 0])


def binary_exact(one):
    value = reference.exact_binary_cross_entropy(one["z"][0], one["t"][0])
    return [(value, value)]


_SEARCHES = [
    Search("cross_entropy", "y", lambda r: fastxent.cross_entropy(r["z"], r["y"], **ROWS),
           lambda r: itself(own(Softmax(r["z"]).minus_log, r)), exactly, peers=HARD),
    Search("cross_entropy, T = 0.7", "y", lambda r: fastxent.cross_entropy(r["z"], r["y"], temperature=0.7, **ROWS),
           lambda r: itself(own(Softmax(r["z"], 0.7).minus_log, r)), lambda one: exactly(one, temperature=0.7)),
    Search("cross_entropy, soft", "t", lambda r: fastxent.cross_entropy(r["z"], r["t"], **ROWS), soft_sum, exactly,
           peers=SOFT),
    Search("cross_entropy, smoothing 0.1", "y",
           lambda r: fastxent.cross_entropy(r["z"], r["y"], label_smoothing=0.1, **ROWS),
           lambda r: soft_sum(r, smoothing=0.1), lambda one: exactly(one, label_smoothing=0.1)),
    Search("linear_cross_entropy", "y", linear, lambda r: itself(own(Softmax(r["z"]).minus_log, r)), exactly,
           peers=HARD, classes=(2, 10, 100)),
    Search("score, NLL of a row", "y", card, lambda r: itself(own(Softmax(r["z"]).minus_log, r)), exactly, peers=HARD),
    Search("focal_loss, gamma = 2", "y", lambda r: fastxent.focal_loss(r["z"], r["y"], gamma=GAMMA, **ROWS),
           focal_wide, focal_exact, allowed=1 + GAMMA),
    Search("log_softmax", "", lambda r: fastxent.log_softmax(r["z"], threads=1),
           lambda r: itself(-Softmax(r["z"]).minus_log),
           lambda one: [(v, -v) for v in reference.exact_log_softmax(one["z"])], peers=LOG_SOFTMAX, rounded=True),
    Search("softmax", "", lambda r: fastxent.softmax(r["z"], threads=1), softmax_wide, softmax_exact, peers=SOFTMAX,
           scale="q (1 + |ln q|)", rounded=True),
    Search("logsumexp", "", lambda r: fastxent.logsumexp(r["z"], threads=1), logsumexp_wide, logsumexp_exact,
           peers=LOGSUMEXP, scale="|max| + ln C"),
    # Of the dtype are an exponential, the sum of all of them, and the factor of both: each is rounded.
    Search("gradient, labels", "y", gradient, gradient_wide, gradient_exact, peers=GRADIENT, rounded=True,
           allowed=1.25),
    Search("gradient, soft", "t", gradient, gradient_wide, gradient_exact, scale="q + t", rounded=True, allowed=1.25),
    *(Search(f"entropy, {kind}", "", lambda r, kind=kind: fastxent.entropy(r["z"], kind=kind, **ROWS),
             entropy_wide(kind), entropy_exact(kind), kind, peers, thin=True)
      for kind, peers in (("logits", ENTROPY), ("log_probs", {}), ("probs", ENTROPY_OF_PROBS))),
    *(Search(f"kl_divergence, {kind}", "v",
             lambda r, kind=kind: fastxent.kl_divergence(r["z"], r["v"], kind=kind, **ROWS),
             kl_wide(kind), kl_exact(kind), kind, peers, scale="Σ|p ln(p/q)|", thin=True,
             classes=(2, 3, 10, 17))
      for kind, peers in (("logits", KL), ("log_probs", {}), ("probs", KL_OF_PROBS))),
    Search("log_loss, normalize", "y", lambda r: fastxent.log_loss(r["z"], r["y"], normalize=True, **ROWS),
           log_loss_wide, log_loss_exact, "probs"),
    Search("binary_cross_entropy, soft", "t",
           lambda r: fastxent.binary_cross_entropy(r["z"], r["t"], **ROWS)[:, 0], binary_wide, binary_exact,
           peers=BINARY, classes=(1,)),
]  # fmt: skip
SEARCHES = {search.name: search for search in _SEARCHES}
