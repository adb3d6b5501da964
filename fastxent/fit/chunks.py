"""Logits and targets as chunks that can be gone through again and again: one array, or more than memory holds."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from fastxent import checks, losses
from fastxent.checks import Batch
from fastxent.kernels import batch as kernels

# (logits, target) or (logits, target, sample_weight), as often as it is iterated.
Chunks = Iterable[tuple[Any, ...]]


class Data:
    """Checked chunks, with a count of the passes over them."""

    def __init__(self, chunks: Chunks, ignore_index: int | None = None, axis: int = -1, kind: str = "logits") -> None:
        if iter(chunks) is chunks:
            raise TypeError("chunks: an iterator can be gone through once; need a list, or an object that starts again")
        self._chunks, self._ignore_index, self._axis, self._kind = chunks, ignore_index, axis, kind
        self.passes, self.n_classes = 0, 0

    def go_through(self, visit: Callable[[Batch], None]) -> None:
        """One pass: call a function with every chunk. Errors say at which row the chunk begins."""
        self.passes += 1
        start, n_classes = 0, 0
        for logits, target, *weight in self._chunks:
            try:
                batch = checks.as_batch(
                    self._kind, logits, target, self._axis, None, weight[0] if weight else None, self._ignore_index
                )
                batch = as_logits(batch, self._kind)
                z = batch.predictions
                if n_classes not in (0, z.n_classes):
                    raise ValueError(f"logits: {z.n_classes} classes, {n_classes} in the chunks before")
                visit(batch)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{error} (rows counted from row {start})" if start else str(error)) from None
            n_classes, start = z.n_classes, start + z.n_rows
        self.n_classes = n_classes


def as_logits(batch: Batch, kind: str) -> Batch:
    """The batch with logits that have the predictions as softmax: of probabilities their logarithms."""
    p = batch.predictions
    if kind != "probs":
        return batch
    log_p = np.empty((p.n_rows, p.n_classes), p.arithmetic)
    for start, stop, q, t, _ in batch.slices():
        labels = t if batch.is_hard else np.empty(0, np.int64)
        out = log_p[start:stop].reshape(q.shape)
        row, reason = kernels.logarithm_of_probs(
            q, labels, batch.has_ignore, batch.ignore_index, checks.SUM_TOL, out
        ).run()
        if row >= 0:
            raise batch.error(start + row, reason)
    logits = checks.as_predictions(log_p.reshape(*p.shape, p.n_classes), "logits")
    return replace(batch, predictions=logits)


def refusal(batch: Batch) -> ValueError:
    """The error about the first row of a batch whose loss is not finite at any temperature."""
    z = batch.predictions
    logits, target = checks.array_of(z), batch.target
    target = target if batch.is_hard else checks.array_of(target)
    ignore_index = batch.ignore_index if batch.has_ignore else None
    rows: Any = losses.cross_entropy(
        logits, target, sample_weight=batch.sample_weight, ignore_index=ignore_index, reduction="none"
    )
    loss = np.ravel(rows)
    row = checks.first(~np.isfinite(loss))
    if np.isnan(loss[row]):
        return ValueError(f"logits: {checks.where(row, z.shape)} has a NaN or +inf, or only -inf")
    what = "its label's logit is -inf" if batch.is_hard else "a class with a positive target has a logit of -inf"
    return ValueError(
        f"logits: {checks.where(row, z.shape)}: {what}, so that the loss is infinite whatever is fitted; leave it out"
    )
