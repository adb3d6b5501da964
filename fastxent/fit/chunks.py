"""Logits and targets as chunks that can be gone through again and again: one array, or more than memory holds."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastxent import checks, losses
from fastxent.checks import Batch

# (logits, target) or (logits, target, sample_weight), as often as it is iterated.
Chunks = Iterable[tuple[Any, ...]]


class Data:
    """Checked chunks, with a count of the passes over them."""

    def __init__(self, chunks: Chunks, ignore_index: int | None = None, axis: int = -1) -> None:
        if iter(chunks) is chunks:
            raise TypeError("chunks: an iterator can be gone through once; need a list, or an object that starts again")
        self._chunks, self._ignore_index, self._axis = chunks, ignore_index, axis
        self.passes, self.n_classes = 0, 0

    def go_through(self, visit: Callable[[Batch], None]) -> None:
        """One pass: call a function with every chunk. Errors say at which row the chunk begins."""
        self.passes += 1
        start, n_classes = 0, 0
        for logits, target, *weight in self._chunks:
            try:
                batch = checks.as_batch(
                    "logits", logits, target, self._axis, None, weight[0] if weight else None, self._ignore_index
                )
                z = batch.predictions
                if n_classes not in (0, z.n_classes):
                    raise ValueError(f"logits: {z.n_classes} classes, {n_classes} in the chunks before")
                visit(batch)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{error} (rows counted from row {start})" if start else str(error)) from None
            n_classes, start = z.n_classes, start + z.n_rows
        self.n_classes = n_classes


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
