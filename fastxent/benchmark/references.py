"""What nothing can beat: reads of the same bytes, copies, gathers, an empty call, matrix products.

Reads and gathers run in the parallel loop that every kernel runs in.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastxent.benchmark.cases import Case
from fastxent.kernels import batch
from fastxent.kernels.blocks import first_view, strided
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import load, pointer, prefetch
from fastxent.kernels.simd import add_reduce
from fastxent.linear.blocks import Losses, product
from fastxent.linear.checks import as_linear_batch
from fastxent.linear.gradients import add_product, kept_rows

Call = Callable[[], Any]

PREFETCHED = "prefetched read"
LOSS_ALONE = "loss alone"
# The fastest of these is the limit.
LIMITS = {
    "read": ("sum", "torch.sum"),
    "copy": ("numpy.copyto", "torch copy_"),
    "gather": ("gather",),
    "empty call": ("empty call",),
    "products": ("products",),
}
_AHEAD = 1024  # words


@compiled
def sum_chunk(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The plain sum of a chunk of words. Whole numbers: those LLVM adds in vectors, in whatever order."""
    words = labels[start:stop]
    total = 0
    for i in range(words.size):
        total += words[i]
    report[0] = total  # so that there is a reason to read them


@compiled
def read_chunk(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The same, asking for memory ahead as the loss kernels do."""
    words = labels[start:stop]
    p = pointer(words, 0)
    whole = words.size // 32 * 32
    total = 0
    if whole:
        a, b, c, d = load(p, 0), load(p, 8), load(p, 16), load(p, 24)
        for i in range(32, whole, 32):
            for j in range(0, 32, 8):
                prefetch(p, i + j + _AHEAD)
            a, b, c, d = a + load(p, i), b + load(p, i + 8), c + load(p, i + 16), d + load(p, i + 24)
        total = add_reduce(a + b + c + d)
    for i in range(whole, words.size):
        total += words[i]
    report[0] = total


@compiled
def gather_chunk(start, stop, like, t_like, integers, reals, labels, class_weight, sample_weight, out, sums, report):
    """The sum of the labels' entries, as anybody would write it."""
    view = first_view(integers)
    p = strided(view, like, start)
    total = 0.0
    for i in range(stop - start):
        total += p[i * view[2] + labels[start + i] * view[3]]
    report[0] = int(total)


@compiled
def empty_call(z, y):
    """What a jitted call costs that does nothing."""
    return 0.0


def words_of(array: np.ndarray) -> np.ndarray:
    """A contiguous array's memory as int64, up to 7 bytes at its end left out."""
    flat = array.ravel(order="K")
    return flat.view(np.uint8)[: array.nbytes // 8 * 8].view(np.int64)


def reader(chunk: Any, arrays: Sequence[np.ndarray]) -> Call:
    """Run a chunk function over the words of arrays, in the parallel loop that every kernel runs in."""
    calls = []
    for array in arrays:
        words = words_of(array)
        view = words.view(np.float64)[None, :, None]
        calls.append(batch.Call(chunk, view, view, batch.settings(1), view.size, words))
    return lambda: [call.run() for call in calls]


def _torch_sum(arrays: Sequence[np.ndarray]) -> Call:
    import torch

    tensors = [
        torch.from_numpy(a.ravel(order="K") if a.dtype in (np.float32, np.float64) else words_of(a)) for a in arrays
    ]
    return lambda: [tensor.sum() for tensor in tensors]


def _torch_copy(z: np.ndarray, out: np.ndarray) -> Call:
    import torch

    source, sink = torch.from_numpy(z), torch.from_numpy(out)
    return lambda: sink.copy_(source)


def _gather(z: np.ndarray, y: np.ndarray) -> Call:
    return batch.Call(gather_chunk, z[None], z[None], batch.settings(z.shape[1]), z.size, y).run


def products_alone(hidden: np.ndarray, y: np.ndarray, classifier: np.ndarray, gradient: bool) -> None:
    """The matrix products of linear cross-entropy, or of its gradient, in the same blocks."""
    batch = as_linear_batch(hidden, classifier, y)
    kept = kept_rows(batch) if gradient else 0
    work = Losses(batch, rows=kept)
    rows, room = kept or batch.block_rows, work.logits
    into = [np.zeros_like(x) for x in (hidden, classifier)] if gradient else []
    for start in range(0, len(hidden), rows):
        h = hidden[start : start + rows]
        for first, last in work.bounds:
            z = product(h, classifier[first:last], room)
            if gradient and not kept:
                product(h, classifier[first:last], room)
            if gradient:
                add_product(z, classifier[first:last], into[0][start : start + rows], turned=False)
                add_product(z, h, into[1][first:last], turned=True)


def references_of(case: Case, arrays: Sequence[np.ndarray]) -> dict[str, Call]:
    """The calls to measure beside a case's contenders. torch's are left out where it is not installed."""
    if case.limit == "empty call":
        z, y = arrays
        return {"empty call": lambda: empty_call(z, y)}
    if case.work == "softmax_regression":
        x, y = arrays
        coef = np.zeros((case.n_classes, x.shape[1]), x.dtype)
        return {"products": lambda: (x @ coef.T).T @ x}  # of one evaluation of the loss
    if case.limit == "products":
        hidden, y, classifier = arrays
        gradient = case.work == "linear_gradient"
        return {"products": lambda: products_alone(hidden, y, classifier, gradient)}
    if case.limit == "gather":
        z, y = arrays
        return {"gather": _gather(z, y)}
    calls = {"sum": reader(sum_chunk, arrays), PREFETCHED: reader(read_chunk, arrays)}
    with contextlib.suppress(ImportError):
        calls["torch.sum"] = _torch_sum(arrays)
    if case.limit == "copy":
        z, out = arrays[0], arrays[-1]
        calls["numpy.copyto"] = lambda: np.copyto(out, z)
        with contextlib.suppress(ImportError):
            calls["torch copy_"] = _torch_copy(z, out)
    return calls


def limit_s(case: Case, references_s: dict[str, float]) -> float:
    """The time of the fastest reference that is the case's limit, in seconds."""
    return min(references_s[name] for name in LIMITS[case.limit] if name in references_s)
