"""The parallel loops, and the drivers that the rest of the package calls. The only file with parallel loops.

A driver takes one slice of rows as arrays, chooses serial or parallel by the size of the work, and returns (row, reason):
the first row that is refused, and why (blocks.OK and so on), or (-1, OK). ``out`` is float64[n_rows], or empty where rows
are not wanted; ``sums`` is int64[2, STATE_SIZE], exact sums of the losses and of the weights that the mean divides by,
or has no rows. The chunks of a slice may be cut anywhere: rows do not know of each other, and the sums are exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastxent.kernels import chunks, elementary
from fastxent.kernels.blocks import (  # noqa: F401  (the reasons are this module's, to its callers)
    LABEL, NOT_PROBABILITY, OK, POSITIVE_LOG_PROB, ROW_SUM, TARGET_NEGATIVE, TARGET_SUM, TYPES, view_of,
)  # fmt: skip
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_merge
from fastxent.kernels.jit import compiled, parallel, prange
from fastxent.kernels.probabilities import LOG_PROBS, LOGITS, PROBS  # noqa: F401
from fastxent.threads import team

# Below so many elements, starting threads costs more than they save (a parallel call: some 3 us; a thread reads 32 KiB in 2).
SERIAL_ELEMENTS = 1 << 15
CHUNKS_PER_THREAD = 8


class ScoreRows(NamedTuple):
    """The figures of a slice's rows, for the score card: float64[n_rows], the last two int64."""

    nll: Any
    entropy: Any
    confidence: Any
    brier: Any
    predicted: Any
    rank: Any


def _run(
    serial: Callable[..., None], loop: Callable[..., None], n_rows: int, n_classes: int, options: tuple[Any, ...], sums: Any
) -> tuple[int, int]:
    """Run a loop over the rows in chunks, side by side where that pays, and gather sums and the first refusal."""
    if n_rows == 0:
        return -1, OK
    threads = 1
    if n_rows * n_classes >= SERIAL_ELEMENTS and n_rows > 1:
        with team() as threads:
            if threads > 1:
                n_chunks = min(threads * CHUNKS_PER_THREAD, n_rows)
                reports = np.zeros((n_chunks, 2), np.int64)
                parts = np.zeros((n_chunks, *sums.shape), np.int64)
                loop(n_rows, options, parts, reports)
                return _gather(parts, reports, sums)
    report = np.zeros(2, np.int64)
    serial(0, n_rows, options, sums, report)
    return (int(report[0]), int(report[1])) if report[1] else (-1, OK)


def _gather(parts: np.ndarray, reports: np.ndarray, sums: np.ndarray) -> tuple[int, int]:
    for row, reason in reports:
        if reason:
            return int(row), int(reason)
    merge_parts(parts, sums)
    return -1, OK


@compiled
def merge_parts(parts, sums):
    """Add every chunk's exact sums."""
    for c in range(parts.shape[0]):
        for j in range(sums.shape[0]):
            exact_sum_merge(sums[j], parts[c, j])


def scale_of(temperature: float) -> tuple[float, float]:
    """1 / temperature in two words: the second is the first's error, to first order."""
    scale = 1.0 / temperature
    high, low = _two_product(scale, temperature)
    return scale, ((1.0 - high) - low) * scale


def _two_product(a: float, b: float) -> tuple[float, float]:
    """a·b exactly, in two words (Dekker, 1971)."""

    def split(x: float) -> tuple[float, float]:
        c = 134217729.0 * x
        high = c - (c - x)
        return high, x - high

    (a1, a2), (b1, b2) = split(a), split(b)
    product = a * b
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _matrix(array: np.ndarray) -> tuple[Any, ...]:
    return *view_of(array), TYPES[array.dtype]


def _in_wide_type(z: np.ndarray, temperature: float) -> np.ndarray:
    """Logits as float64 where 1/T has no accurate float32 words."""
    return z.astype(np.float64) if z.dtype == np.float32 and not 2.0**-20 <= temperature <= 2.0**20 else z


def hard_cross_entropy(
    z, labels, class_weight, sample_weight, has_ignore, ignore_index, label_smoothing, temperature, out, sums
):
    """Cross-entropy of logits and class indices."""
    z, n = _in_wide_type(z, temperature), z.shape[2]
    common = (*_matrix(z), n, labels, class_weight, sample_weight, has_ignore, ignore_index)
    if label_smoothing == 0.0:
        options = (*common, *scale_of(temperature), out)
        return _run(chunks.hard_cross_entropy, _hard_cross_entropy, labels.size, n, options, sums)
    options = (*common, 1.0 - label_smoothing, label_smoothing / n, *scale_of(temperature), out)
    return _run(chunks.smoothed_cross_entropy, _smoothed_cross_entropy, labels.size, n, options, sums)


@parallel
def _hard_cross_entropy(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.hard_cross_entropy(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


@parallel
def _smoothed_cross_entropy(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.smoothed_cross_entropy(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def soft_cross_entropy(z, target, class_weight, sample_weight, label_smoothing, temperature, out, sums):
    """Cross-entropy of logits and distributions."""
    z, n = _in_wide_type(z, temperature), z.shape[2]
    mix = 1.0 - label_smoothing, label_smoothing / n
    options = (*_matrix(z), *_matrix(target), n, class_weight, sample_weight, *mix, *scale_of(temperature), out)
    return _run(chunks.soft_cross_entropy, _soft_cross_entropy, z.shape[0] * z.shape[1], n, options, sums)


@parallel
def _soft_cross_entropy(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.soft_cross_entropy(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def hard_nll(log_probs, labels, class_weight, sample_weight, has_ignore, ignore_index, out, sums):
    """NLL of log-probabilities and class indices."""
    n = log_probs.shape[2]
    options = (*_matrix(log_probs), n, labels, class_weight, sample_weight, has_ignore, ignore_index, out)
    return _run(chunks.hard_nll, _hard_nll, labels.size, 8, options, sums)


@parallel
def _hard_nll(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.hard_nll(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def soft_nll(log_probs, target, class_weight, sample_weight, out, sums):
    """NLL of log-probabilities and distributions."""
    outer, inner, n = log_probs.shape
    options = (*_matrix(log_probs), *_matrix(target), n, class_weight, sample_weight, out)
    return _run(chunks.soft_nll_rows, _soft_nll, outer * inner, n, options, sums)


@parallel
def _soft_nll(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.soft_nll_rows(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def hard_log_loss(
    probs, labels, class_weight, sample_weight, has_ignore, ignore_index, eps, normalize, sum_tol, out, sums
):
    """Log loss of probabilities and class indices."""
    n = probs.shape[2]
    common = (*_matrix(probs), n, labels, class_weight, sample_weight, has_ignore, ignore_index)
    options = (*common, eps, normalize, sum_tol, out)
    return _run(chunks.hard_log_loss, _hard_log_loss, labels.size, n, options, sums)


@parallel
def _hard_log_loss(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.hard_log_loss(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def soft_log_loss(probs, target, class_weight, sample_weight, eps, normalize, sum_tol, out, sums):
    """Log loss of probabilities and distributions."""
    outer, inner, n = probs.shape
    options = (*_matrix(probs), *_matrix(target), n, class_weight, sample_weight, eps, normalize, sum_tol, out)
    return _run(chunks.soft_log_loss_rows, _soft_log_loss, outer * inner, n, options, sums)


@parallel
def _soft_log_loss(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.soft_log_loss_rows(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def binary_cross_entropy(logits, target, pos_weight, sample_weight, out, sums):
    """Binary cross-entropy of logits, both arguments one number a row."""
    options = (*_column(logits), *_column(target), pos_weight, sample_weight, True, 0.0, out)
    return _run(chunks.binary, _binary, logits.size, 8, options, sums)


def binary_log_loss(probs, target, pos_weight, sample_weight, eps, out, sums):
    """Binary log loss of probabilities, both arguments one number a row."""
    options = (*_column(probs), *_column(target), pos_weight, sample_weight, False, eps, out)
    return _run(chunks.binary, _binary, probs.size, 8, options, sums)


def _column(array: np.ndarray) -> tuple[Any, ...]:
    return _matrix(array[None, :, None])


@parallel
def _binary(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.binary(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


_NO_SUMS = np.zeros((0, STATE_SIZE), np.int64)


def logsumexp(z, temperature, out):
    """ln Σ e^(z/T) of each row."""
    z, n = _in_wide_type(z, temperature), z.shape[2]
    options = (*_matrix(z), n, *scale_of(temperature), out)
    return _run(chunks.logsumexp, _logsumexp, out.size, n, options, _NO_SUMS)


@parallel
def _logsumexp(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.logsumexp(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def softmax(z, temperature, out):
    """e^(z/T) over its sum; ``out`` has the shape of z and may be z."""
    return _normalised(z, temperature, out, False)


def log_softmax(z, temperature, out):
    """The logarithm of softmax."""
    return _normalised(z, temperature, out, True)


def _normalised(z, temperature, out, logarithm):
    if _in_wide_type(z, temperature) is not z:
        wide = np.empty(z.shape)
        _normalised(z.astype(np.float64), temperature, wide, logarithm)
        out[...] = wide
        return -1, OK
    outer, inner, n = z.shape
    options = (*_matrix(z), *view_of(out), n, *scale_of(temperature), logarithm)
    return _run(chunks.normalised, _normalised_rows, outer * inner, n, options, _NO_SUMS)


@parallel
def _normalised_rows(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.normalised(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def entropy(p, kind, out):
    """-Σ q ln q of each row."""
    options = (*_matrix(p), p.shape[2], kind, out)
    return _run(chunks.entropy, _entropy, out.size, p.shape[2], options, _NO_SUMS)


@parallel
def _entropy(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.entropy(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


def kl_divergence(p, q, kind, out):
    """Σ p ln(p / q) of each pair of rows."""
    options = (*_matrix(p), *_matrix(q), p.shape[2], kind, out)
    return _run(chunks.kl_divergence, _kl_divergence, out.size, p.shape[2], options, _NO_SUMS)


@parallel
def _kl_divergence(n_rows, options, parts, reports):
    k = parts.shape[0]
    for c in prange(k):
        chunks.kl_divergence(n_rows * c // k, n_rows * (c + 1) // k, options, parts[c], reports[c])


@compiled
def exp_scalar(x):
    """e^x without libm, for what finishes a result."""
    return elementary.exp(x)


@compiled
def log_scalar(x):
    """ln x without libm."""
    return elementary.log(x)
