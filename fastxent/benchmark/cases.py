"""The table of cases: what is computed, of which type and shape, and the speed that it should reach.

A target is judged on at least 1 GB, which no cache holds. The limit of a case is what nothing can beat: a read of the
same bytes, labels and targets counted; for softmax a copy, for log-probabilities with labels a plain gather, for a
small call an empty jitted call, for linear cross-entropy its matrix products in the same blocks.
"""

import dataclasses
import math
from typing import NamedTuple

LARGE_BYTES = 10**9  # no cache holds it
FULL_BYTES = 105 * 10**7  # of a case for that
CACHED_BYTES = 4 << 20  # two threads' share of a common last-level cache, beyond their second level
QUICK_BYTES = 16 << 20
LINE_BYTES = 64  # what a gather reads for an entry, where rows are at least so long
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
LABEL_BYTES = 8
FEATURES = 1024  # of a hidden state, for linear cross-entropy
FITTED_FEATURES = 50  # of a row, for softmax regression

BEST = "best"  # whichever peer is the fastest of those installed


class Target(NamedTuple):
    """What a case should reach. Every part that is there must hold."""

    share: float | None = None  # the limit's time over ours, at least
    times: float | None = None  # our time over the limit's, at most
    over_s: float | None = None  # our time minus the limit's, at most
    against: tuple[tuple[str, float], ...] = ()  # a peer's time over ours, at least


class Shape(NamedTuple):
    """What a row of a work occupies."""

    topic: str
    matrices: int = 1  # rows of n_classes numbers: predictions, distributions, outputs
    labels: bool = False
    limit: str = "read"
    more_bytes: int = 0  # besides


# What scikit-learn's metrics are given besides probabilities: labels, and weights.
SKLEARN_METRICS = {"log_loss": "log_loss", "brier": "brier_score_loss", "d2": "d2_log_loss_score"}
SKLEARN_FORMS = {
    "": Shape("adapters", labels=True),
    "_strings": Shape("adapters", labels=True, more_bytes=24),  # of 8 characters
    "_one_hot": Shape("adapters", matrices=2),
    "_weighted": Shape("adapters", labels=True, more_bytes=8),
}

SHAPES = {
    "cross_entropy": Shape("losses", labels=True),
    "soft_targets": Shape("losses", matrices=2),
    "log_loss": Shape("losses", labels=True),
    "binary": Shape("losses", matrices=2),
    "nll": Shape("losses", labels=True, limit="gather"),
    "class_axis_1": Shape("layouts", labels=True),
    "fortran_order": Shape("layouts", labels=True),
    "logsumexp": Shape("transforms"),
    "softmax": Shape("transforms", matrices=2, limit="copy"),
    "log_softmax": Shape("transforms", matrices=2, limit="copy"),
    "value_and_grad": Shape("gradients", matrices=2, labels=True, limit="copy"),
    "binary_value_and_grad": Shape("gradients", matrices=3, limit="copy"),
    "score_card": Shape("score", labels=True),
    "compare": Shape("compare", matrices=2, labels=True),
    "small_call": Shape("calls", labels=True, limit="empty call"),
    "linear": Shape("linear", labels=True, limit="products"),  # of logits, which nobody need make
    "linear_gradient": Shape("linear", labels=True, limit="products"),
    "softmax_regression": Shape("fit", labels=True, limit="products"),  # of logits, as above
    **{f"sklearn_{metric}{form}": shape for metric in SKLEARN_METRICS for form, shape in SKLEARN_FORMS.items()},
    "torch_cross_entropy": Shape("adapters", labels=True),
    "torch_few_rows": Shape("adapters", labels=True, limit="empty call"),
    "xgboost_training": Shape("adapters", matrices=2, labels=True),
    "xgboost_binary_training": Shape("adapters", matrices=20, labels=True),
    "lightgbm_training": Shape("adapters", matrices=2, labels=True),
    "lightgbm_binary_training": Shape("adapters", matrices=20, labels=True),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: what is computed, of which dtype, and how large."""

    work: str
    dtype: str
    n_classes: int
    target: Target | None = None
    n_rows: int = 0  # 0: as many as make FULL_BYTES
    cached: bool = False  # small enough for a cache: a row of its own, without a target
    quick: bool = False  # part of a first impression
    whole: bool = True  # of its own size

    def __post_init__(self) -> None:
        if not self.n_rows:
            n_bytes = CACHED_BYTES if self.cached else FULL_BYTES
            object.__setattr__(self, "n_rows", math.ceil(n_bytes / self.row_bytes))

    @property
    def name(self) -> str:
        return f"{self.work}-{self.dtype}-{self.n_classes}{'-cached' if self.cached else ''}"

    @property
    def topic(self) -> str:
        return SHAPES[self.work].topic

    @property
    def limit(self) -> str:
        return SHAPES[self.work].limit

    @property
    def of_memory(self) -> bool:
        """Whether the limit is a speed of memory, so that the size matters."""
        return self.limit not in ("empty call", "products")

    @property
    def row_bytes(self) -> int:
        """Of memory, for a row."""
        shape = SHAPES[self.work]
        return shape.matrices * self.n_classes * ITEM_BYTES[self.dtype] + LABEL_BYTES * shape.labels + shape.more_bytes

    @property
    def touched_bytes(self) -> int:
        """Of memory that must be read or written, for a row: a gather leaves most of a long row alone."""
        return min(self.row_bytes, LINE_BYTES + LABEL_BYTES) if self.limit == "gather" else self.row_bytes

    def sized(self, n_bytes: int) -> "Case":
        """The same of at most so many bytes."""
        n_rows = max(1, min(self.n_rows, n_bytes // self.row_bytes))
        return dataclasses.replace(self, n_rows=n_rows, whole=self.whole and n_rows == self.n_rows)

    def is_judged(self, n_bytes: int) -> bool:
        """Whether so many bytes are enough for its target: beyond any cache, or against peers alone its own size."""
        if self.target is not None and (self.target.share, self.target.times, self.target.over_s) == (None,) * 3:
            return self.whole
        return n_bytes >= LARGE_BYTES or not self.of_memory


def _reach(share: float, best: float | None = None, **peers: float) -> Target:
    """A share of what can be read, and ratios to the best peer and to peers with names."""
    named = tuple((name.replace("_", "-"), ratio) for name, ratio in peers.items())
    return Target(share=share, against=(((BEST, best),) if best is not None else ()) + named)


def _copies(best: float) -> Target:
    return Target(times=1.1, against=((BEST, best),))


def _gradient(times: float) -> Target:
    return Target(times=times, against=(("torch", 4), ("jax", 2.5)))


_FIT = Target(against=(("scikit-learn", 2),))

CASES = (
    Case("cross_entropy", "float32", 1000, _reach(0.9, 6), quick=True),
    Case("cross_entropy", "float32", 50257, _reach(0.9, 6)),
    Case("cross_entropy", "float32", 128256, _reach(0.9, 6)),
    Case("cross_entropy", "float32", 100, _reach(0.7, 3)),
    Case("cross_entropy", "float32", 20, _reach(0.4, jax=2.5, torch=20)),
    Case("cross_entropy", "float32", 10, _reach(0.4, jax=2.5, torch=20), quick=True),
    Case("cross_entropy", "float32", 3, _reach(0.3, jax=2, torch=20)),
    Case("cross_entropy", "float32", 2, _reach(0.3, jax=2, torch=20), quick=True),
    Case("cross_entropy", "float64", 1000, _reach(0.8, 5), quick=True),
    Case("cross_entropy", "float64", 100, _reach(0.7, 5)),
    Case("cross_entropy", "float64", 10, _reach(0.4, 10)),
    Case("cross_entropy", "float16", 1000, _reach(0.6, 5)),
    Case("cross_entropy", "float16", 50257, _reach(0.6, 5)),
    Case("cross_entropy", "bfloat16", 1000, _reach(0.6, 5), quick=True),
    Case("cross_entropy", "bfloat16", 50257, _reach(0.6, 5)),
    Case("soft_targets", "float32", 1000, _reach(0.8, 5), quick=True),
    Case("log_loss", "float32", 10, _reach(0.4, scikit_learn=40), quick=True),
    Case("log_loss", "float32", 1000, _reach(0.8, scikit_learn=40)),
    Case("binary", "float32", 1, _reach(0.5, 5), n_rows=200_000_000, quick=True),
    # 50 classes: rows as long as three lines, so that what the gather reads alone is beyond any cache.
    Case("nll", "float32", 50, Target(times=1.0, against=((BEST, 5),)), n_rows=15_000_000),
    Case("class_axis_1", "float32", 21, _reach(0.5, 4), n_rows=48 << 18),
    Case("fortran_order", "float32", 100, _reach(0.5, 4)),
    Case("score_card", "float32", 10, _reach(0.2, 50), quick=True),
    Case("score_card", "float32", 1000, _reach(0.45, 100)),
    Case("compare", "float32", 10, n_rows=10**6),
    Case("small_call", "float32", 10, Target(over_s=5e-6, against=(("torch", 1), ("scipy", 1))), n_rows=32, quick=True),
    # scikit-learn's own signatures, on what a predict_proba returns; the size is the issue's.
    *(
        Case(f"sklearn_{metric}{form}", "float64", 10, Target(against=(("scikit-learn", 40),)), n_rows=10**6)
        for metric in SKLEARN_METRICS
        for form in SKLEARN_FORMS
    ),
    # torch's own signature, forward and backward.
    Case("torch_cross_entropy", "float32", 1000, Target(against=(("torch", 4),))),
    Case("torch_cross_entropy", "float32", 50257, Target(against=(("torch", 4),))),
    Case("torch_cross_entropy", "bfloat16", 1000, Target(against=(("torch", 4),))),
    Case("torch_few_rows", "float32", 10, n_rows=32),
    *(
        Case(f"{library}_{task}", "float32", n_classes, Target(against=((library, 1 / 1.1),)), n_rows=10**5)
        for library in ("xgboost", "lightgbm")
        for task, n_classes in (("training", 10), ("binary_training", 1))
    ),
    Case("softmax", "float32", 1000, _copies(2), quick=True),
    Case("value_and_grad", "float32", 1000, _gradient(1.25), quick=True),
    Case("value_and_grad", "float32", 10, _gradient(2)),
    Case("binary_value_and_grad", "float32", 1, _gradient(2)),
    Case("log_softmax", "float32", 1000, _copies(2)),
    Case("logsumexp", "float32", 1000, _reach(0.9, 5), quick=True),
    Case("linear", "float32", 65536, Target(times=1.05, against=(("torch", 1),)), n_rows=2048),
    Case("linear", "float32", 8192, Target(times=1.05, against=(("torch", 1),)), n_rows=2048),
    Case("linear_gradient", "float32", 8192, n_rows=2048),
    # Whole fits to the default tolerance, with the prior that is scikit-learn's C=1; the sizes are the issue's.
    Case("softmax_regression", "float64", 100, _FIT, n_rows=20_000, quick=True),
    Case("softmax_regression", "float64", 200, _FIT, n_rows=20_000),
    Case("softmax_regression", "float64", 300, _FIT, n_rows=10_000),
    Case("softmax_regression", "float64", 10, Target(against=(("scikit-learn", 1),)), n_rows=20_000),
    Case("softmax_regression", "float64", 2, Target(against=(("scikit-learn", 1),)), n_rows=20_000),
    *(Case("cross_entropy", "float32", n_classes, cached=True) for n_classes in (2, 10, 100, 1000, 50257)),
    Case("cross_entropy", "float64", 1000, cached=True),
    Case("cross_entropy", "bfloat16", 1000, cached=True),
    Case("soft_targets", "float32", 1000, cached=True),
    Case("log_loss", "float32", 1000, cached=True),
    Case("binary", "float32", 1, cached=True),
    Case("score_card", "float32", 10, cached=True),
    Case("softmax", "float32", 1000, cached=True),
)


def select(names: tuple[str, ...] | list[str] = (), *, quick: bool = False, targets: bool = False) -> list[Case]:
    """The cases whose topic or name holds one of these words; where there is no word, all of them.

    Parameters
    ----------
    names : sequence of str
    quick : bool
        Small inputs, and only the cases of a first impression unless words choose others.
    targets : bool
        Only those that have a target.

    Raises
    ------
    ValueError
        If a word matches none.
    """
    chosen = [case for case in CASES if (case.target is not None or not targets)]
    for word in names:
        if not any(word in f"{case.topic} {case.name}" for case in chosen):
            raise ValueError(f"names: {word!r} matches none of {', '.join(case.name for case in chosen)}")
    if names:
        chosen = [case for case in chosen if any(word in f"{case.topic} {case.name}" for word in names)]
    elif quick:
        chosen = [case for case in chosen if case.quick]
    return [case.sized(QUICK_BYTES) for case in chosen] if quick else chosen
