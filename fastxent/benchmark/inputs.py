"""The inputs of the benchmark's cases: arrays, the predictions first."""

import dataclasses

import numpy as np

import fastxent
from fastxent.benchmark.cases import FEATURES, FITTED_FEATURES, Case

POOL = (1 << 22) + 15  # numbers drawn, and repeated: no predictor learns so many, and drawing a gigabyte takes long


def logits(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Normal logits of standard deviation 2."""
    z = np.empty((case.n_rows, case.n_classes), dtype(case.dtype))
    flat, wide = z.reshape(-1), np.float64 if case.dtype == "float64" else np.float32
    pool = (2 * rng.standard_normal(min(POOL, flat.size), wide)).astype(z.dtype)
    for start in range(0, flat.size, pool.size):
        part = flat[start : start + pool.size]
        part[...] = pool[: part.size]
    return z


def dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def labelled(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return logits(case, rng), rng.integers(0, case.n_classes, case.n_rows)


def two_models(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits, labels, and the logits of a model that is less sure."""
    z, y = labelled(case, rng)
    return z, y, z * z.dtype.type(0.5)


def probs(case: Case, rng: np.random.Generator) -> np.ndarray:
    z = logits(case, rng)
    return fastxent.softmax(z, out=z)


def labelled_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return probs(case, rng), rng.integers(0, case.n_classes, case.n_rows)


def named_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    q, y = labelled_probs(case, rng)
    return q, np.array([f"class{k:03d}" for k in range(case.n_classes)])[y]


def one_hot_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    q, y = labelled_probs(case, rng)
    return q, np.eye(case.n_classes)[y]


def weighted_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return *labelled_probs(case, rng), rng.random(case.n_rows)


def distributed(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return logits(case, rng), probs(case, rng)


def binary_inputs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z = logits(case, rng)[:, 0]
    return z, rng.integers(0, 2, case.n_rows).astype(z.dtype)


def images(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits of square images' pixels, (N, C, H, W), and their labels (N, H, W): at least two images of up to 512²."""
    side = 512
    while side > 1 and 2 * side * side > case.n_rows:
        side //= 2
    n_images = max(1, case.n_rows // side**2)
    z = logits(case, rng).reshape(-1)[: n_images * case.n_classes * side**2]
    y = rng.integers(0, case.n_classes, (n_images, side, side))
    return z.reshape(n_images, case.n_classes, side, side), y


def fortran(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z, y = labelled(case, rng)
    return z.reshape(case.n_classes, case.n_rows).T, y


def log_probs(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z, y = labelled(case, rng)
    return fastxent.log_softmax(z, out=z), y


def features(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Two features a class, and labels that the first of them tell, with noise."""
    x = np.concatenate([logits(case, rng), logits(case, rng)], axis=1)
    return x, (x[:, : case.n_classes] + logits(case, rng)[::-1]).argmax(1)


def binary_features(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Twenty features, and labels 0 and 1 that the first of them tells, with noise."""
    x = logits(dataclasses.replace(case, n_classes=20), rng)
    return x, (x[:, 0] + x[::-1, 1] > 0).astype(np.int64)


def labelled_with_room(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z, y = labelled(case, rng)
    return z, y, np.full_like(z, 0.5)


def binary_with_room(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    z, t = binary_inputs(case, rng)
    return z, t, np.full_like(z, 0.5)


def with_room(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits and an array for the result, its pages in memory."""
    z = logits(case, rng)
    return z, np.full_like(z, 0.5)


def linear(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Hidden states, labels, and a classifier that makes logits of standard deviation 4."""
    hidden = logits(dataclasses.replace(case, n_classes=FEATURES), rng)
    classifier = logits(dataclasses.replace(case, n_classes=FEATURES, n_rows=case.n_classes), rng)
    return hidden, rng.integers(0, case.n_classes, case.n_rows), np.multiply(classifier, 1 / 32, out=classifier)


def regression(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Standard normal features, and labels that a softmax of them draws; the first rows have one of each class."""
    x = rng.standard_normal((case.n_rows, FITTED_FEATURES)).astype(case.dtype)
    z = x @ rng.standard_normal((FITTED_FEATURES, case.n_classes)) / np.sqrt(FITTED_FEATURES)
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    y[: case.n_classes] = np.arange(case.n_classes)[: case.n_rows]
    return x, y
