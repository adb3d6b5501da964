"""Compile ahead of the first real call: for images, services and benchmarks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["warmup"]

# Enough elements for batch.py to take its parallel path.
_SMALL_ROWS, _LARGE_ELEMENTS = 3, 1 << 18


def warmup(dtypes: Iterable[str] = ("float32", "float64")) -> None:
    """Compile every public function, serial and parallel, for arrays of these dtypes, or load it from the cache.

    Parameters
    ----------
    dtypes : iterable of str
        Of "float16", "bfloat16" (needs ml_dtypes), "float32" and "float64".

    Raises
    ------
    ValueError
        If a dtype is none of those.

    Examples
    --------
    >>> import fastxent
    >>> fastxent.warmup(["float32"])
    """
    import numpy as np

    for dtype in [dtypes] if isinstance(dtypes, str) else dtypes:
        if dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"dtypes: must be float16, bfloat16, float32 or float64, got {dtype!r}")
        for n_classes in (4, 128):  # tiles of rows, then single rows
            for n_rows in (_SMALL_ROWS, _LARGE_ELEMENTS // n_classes):
                _call_everything(np.zeros((n_rows, n_classes), dtype=_dtype(dtype)))
    _call_pairs()


def _call_pairs() -> None:
    """What a score card of many classes needs besides: its list of pairs."""
    import numpy as np

    from fastxent.kernels import pairs

    counts, keys, rows = np.zeros((3, 6), np.int64)
    pairs.compact_pairs(counts, keys, rows, 1)
    pairs.sorted_pairs(counts, keys, rows, np.zeros((1, 3), np.int64))


def _dtype(name: str) -> Any:
    if name != "bfloat16":
        return name
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError("arrays of bfloat16 need ml_dtypes: pip install ml_dtypes") from None
    return bfloat16


def _call_everything(logits: "np.ndarray[Any, Any]") -> None:
    import numpy as np

    from fastxent import focal, gradients, losses
    from fastxent.comparing.comparer import Comparer
    from fastxent.linear.functions import linear_cross_entropy_value_and_grad
    from fastxent.scoring.scorer import Scorer

    n_rows, n_classes = logits.shape
    labels = np.zeros(n_rows, dtype=np.int64)
    probs = np.full_like(logits, 1 / n_classes)
    log_probs = np.log(probs)
    for function in (losses.logsumexp, losses.softmax, losses.log_softmax):
        function(logits)
    for target in (labels, probs):
        losses.cross_entropy(logits, target)
        losses.nll(log_probs, target)
        losses.log_loss(probs, target)
        for kind, predictions in (("logits", logits), ("log_probs", log_probs), ("probs", probs)):
            parts = [Scorer(kind=kind) for _ in range(2)]
            for k, part in enumerate(parts):
                part.update(predictions, target, start=k * n_rows)
            parts[0].merge(parts[1]).result()
            sides = [Comparer(kind=kind).update(predictions, predictions, target=target) for _ in range(2)]
            sides[0].merge(sides[1]).result()
        gradients.cross_entropy_value_and_grad(logits, target, hessian=True)
    gradients.cross_entropy_value_and_grad(logits, labels, weight=np.ones(n_classes))
    gradients.binary_cross_entropy_value_and_grad(logits.ravel(), probs.ravel(), hessian=True)
    focal.focal_loss_value_and_grad(logits, labels)
    losses.cross_entropy(np.asfortranarray(logits), labels)  # where there are many, rows side by side
    losses.cross_entropy(logits, labels, label_smoothing=0.1, sample_weight=np.ones(n_rows))
    losses.perplexity(logits, labels)
    linear_cross_entropy_value_and_grad(logits[:3], logits[:3], labels[:3])
    losses.binary_cross_entropy(logits.ravel(), probs.ravel())
    losses.binary_log_loss(probs.ravel(), probs.ravel())
    for kind, predictions in (("logits", logits), ("log_probs", log_probs), ("probs", probs)):
        losses.entropy(predictions, kind=kind)
        losses.kl_divergence(predictions, predictions, kind=kind)
