"""Hidden states in a file and a classifier -> a small score card: what follows from losses and ranks alone.

The hidden states are read in chunks, the classifier whole; logits exist in blocks (see linear.blocks).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.checks import sample_weight_slice
from fastxent.files import open_file
from fastxent.files.base import ArrayFile, listing
from fastxent.files.scan import Scan, Wanted
from fastxent.kernels.batch import exp_scalar
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_add_block, exact_sum_value
from fastxent.linear.blocks import losses
from fastxent.linear.checks import as_linear_batch
from fastxent.scoring.result import WorstRow, plain

SCHEMA = "fastxent.score-linear/1"

# Called with what is being done, the fraction done (0 to 1), the rows, and the bytes of hidden states read so far.
Progress = Callable[[str, float, int, int], None]


@dataclass(frozen=True)
class LinearScore:
    """The figures of a linear classifier's rows; weighted where rows have weights, as in `fastxent.Score`.

    Attributes
    ----------
    n, ignored, invalid : int
        Rows scored; skipped for their label; without a softmax, which are left out of everything else.
    n_classes, n_features : int
    weight : float
        The sum of the rows' weights; n without.
    nll, nll_bits, nll_se : float
        Mean negative log-likelihood in nats and in bits, and its standard error in nats.
    log_likelihood : float
        Minus the sum, in nats.
    perplexity : float
    accuracy : float
        Of the class with the largest logit.
    top_k_accuracy : dict of int to float
        The share of rows whose label is among the first k classes.
    mean_reciprocal_rank : float
        Mean of 1 / (1 + rank).
    worst : tuple of WorstRow
        The rows with the largest NLL, largest first.
    """

    n: int
    ignored: int
    invalid: int
    n_classes: int
    n_features: int
    weight: float
    nll: float
    nll_bits: float
    nll_se: float
    log_likelihood: float
    perplexity: float
    accuracy: float
    top_k_accuracy: dict[int, float]
    mean_reciprocal_rank: float
    worst: tuple[WorstRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain Python objects that JSON can hold; numbers that are not finite are strings."""
        figures = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return dict(plain({"schema": SCHEMA, **figures}))


def read_matrix(path: str, key: str | None, option: str, n_axes: int) -> np.ndarray:
    """An array of a file, whole: its member ``key``, or the only one with so many axes.

    Raises
    ------
    ValueError, OSError, ImportError
        One line that names the file.
    """
    file = open_file(path)
    if not isinstance(file, ArrayFile):
        raise ValueError(f"{option}: {path} is a table; need an array, such as a .npy or .safetensors")
    if not file.names and key is not None:
        raise ValueError(f"{option}: {path} is one array, which has no members")
    fitting = [name for name in file.names if len(file.member(name).shape) == n_axes] if key is None else [key]
    if file.names and (len(fitting) != 1 or fitting[0] not in file.names):
        wrong = f"no member {key!r}" if key is not None else f"{len(fitting)} members with {n_axes} axes"
        raise ValueError(f"{option}: {path} has {wrong}; say which: it has {listing(file.names)}")
    member = file.member(fitting[0] if file.names else "")
    if len(member.shape) != n_axes:
        raise ValueError(f"{option}: {path} has shape {member.shape}; need {n_axes} axes")
    with file.source.unchanged():
        return member.read(tuple((0, size) for size in member.shape))


def read_classifier(path: str, key: str | None, bias: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A classifier, and its bias: in a file, or a member of the classifier's."""
    classifier = read_matrix(path, key, "--classifier", 2)
    if bias is None:
        return classifier, None
    if bias in open_file(path).names:
        return classifier, read_matrix(path, bias, "--bias", 1)
    return classifier, read_matrix(bias, None, "--bias", 1)


class _Figures:
    """Sums over chunks: exact ones, and the worst rows."""

    def __init__(self, top_k: tuple[int, ...], worst: int) -> None:
        self.top_k, self.keep = top_k, worst
        self.worst: list[WorstRow] = []
        self.n = self.ignored = self.invalid = 0
        # The rows: Σ s, Σ s l, Σ s / (1 + rank), Σ s^2, Σ s^2 (l - c), Σ s^2 (l - c)^2, then Σ s of each top-k.
        self.sums = np.zeros((6 + len(top_k), STATE_SIZE), np.int64)
        self.center: float | None = None

    def add(self, nll: np.ndarray, rank: np.ndarray, s: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
        """Rows that count."""
        if self.center is None and (finite := nll[np.isfinite(nll)]).size:
            self.center = float(finite.mean())
        self.n += len(nll)
        away = nll - (self.center or 0.0)
        with np.errstate(invalid="ignore"):
            terms = [s, s * nll, s / (1.0 + rank), s * s, s * s * away, s * s * away * away]
            terms = [np.where(s > 0.0, term, 0.0) for term in terms]  # of what has no weight 0 times inf is 0
        terms += [np.where(rank < k, s, 0.0) for k in self.top_k]
        for state, values in zip(self.sums, terms):
            exact_sum_add_block(state, np.ascontiguousarray(values), len(values))
        order = np.argsort(-nll, kind="stable")[: self.keep]
        found = [WorstRow(ids[i].item(), int(labels[i]), float(nll[i])) for i in order]
        self.worst = sorted(self.worst + found, key=lambda row: -row.nll)[: self.keep]

    def result(self, n_classes: int, n_features: int) -> LinearScore:
        """The figures; NaN where no row has weight."""
        weight, total, reciprocal, squares, away, away2, *tops = (exact_sum_value(state) for state in self.sums)
        mean = total / weight if weight else math.nan
        shift = mean - (self.center or 0.0)
        spread = max(0.0, away2 - 2.0 * shift * away + shift * shift * squares) if math.isfinite(mean) else math.nan
        share = {k: top / weight if weight else math.nan for k, top in zip(self.top_k, tops)}
        return LinearScore(
            n=self.n,
            ignored=self.ignored,
            invalid=self.invalid,
            n_classes=n_classes,
            n_features=n_features,
            weight=weight,
            nll=mean,
            nll_bits=mean / math.log(2.0),
            nll_se=math.sqrt(spread) / weight if weight else math.nan,
            log_likelihood=0.0 - total,
            perplexity=float(exp_scalar(mean)),
            accuracy=share[1],
            top_k_accuracy=share,
            mean_reciprocal_rank=reciprocal / weight if weight else math.nan,
            worst=tuple(self.worst),
        )


def score_linear(
    hidden: str,
    target: str | None,
    classifier: np.ndarray,
    bias: np.ndarray | None,
    wanted: Wanted,
    *,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    invalid: str = "raise",
    top_k: tuple[int, ...] = (1, 5),
    worst: int = 20,
    tell: Progress = lambda *_: None,
) -> LinearScore:
    """Score the rows of a file of hidden states.

    Parameters
    ----------
    hidden, target : str
        Files that `fastxent.files` reads; None: the target is in the file of the hidden states.
    classifier : array, shape (V, D)
    bias : array, shape (V,), or None
    wanted : Wanted
        What to read of the files.
    ignore_index, temperature, softcap
        As in `linear_cross_entropy`.
    invalid : {"raise", "count"}
        What to do about rows without a softmax.
    top_k : tuple of int
        Accuracies to count.
    worst : int
        Rows of highest NLL to keep.
    tell : callable
        Is told about progress.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line about the files, the options, or the first offending row and value.
    """
    if any(k < 1 for k in top_k) or worst < 0:
        raise ValueError(f"top_k, worst: {top_k}, {worst}; need whole numbers of at least 1, and at least 0")
    scan = Scan(hidden, target, wanted)
    figures = _Figures(tuple(sorted({1, *top_k})), worst)
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    for chunk in scan:
        try:
            batch = as_linear_batch(
                chunk.predictions, classifier, chunk.target, bias, ignore_index=ignore_index, temperature=temperature,
                softcap=softcap,
            )  # fmt: skip
            s = np.ones(batch.labels.size)
            if chunk.weight is not None:
                s = sample_weight_slice(chunk.weight, 0, s.size, batch.hidden.shape)
            nll, _, _, ranks = losses(batch, "none", rank=True)
        except (ValueError, TypeError) as error:
            place = f" (rows counted from row {chunk.start} of the file)" if chunk.start else ""
            raise type(error)(f"{error}{place}") from None
        rank = np.asarray(ranks)
        labels = batch.labels.reshape(-1).astype(np.int64)
        ignored = labels == ignore_index if ignore_index is not None else np.zeros(len(labels), bool)
        bad = (rank < 0) & ~ignored
        if bad.any() and invalid == "raise":
            row = chunk.start + int(np.argmax(bad))
            raise ValueError(f"hidden: row {row} gives logits with a NaN or +inf, or nothing but -inf")
        kept = ~(bad | ignored)
        figures.ignored += int(ignored.sum())
        figures.invalid += int(bad.sum())
        ids = np.arange(chunk.start, chunk.start + len(labels)) if chunk.ids is None else chunk.ids.reshape(-1)
        figures.add(nll[kept], rank[kept], s[kept], labels[kept], ids[kept])
        tell("scoring", scan.fraction, scan.rows_read, scan.bytes_read)
    return figures.result(*classifier.shape)
