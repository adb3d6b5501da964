"""The parallel loop, and the drivers that the rest of the package calls. The only file with parallel loops.

A driver takes one slice of rows as arrays, chooses serial or parallel by the size of the work, and returns (row,
reason): the first row that is refused, and why (blocks.OK and so on), or (-1, OK). ``out`` is float64[n_rows], or empty
where rows are not wanted; ``sums`` is int64[2, STATE_SIZE], exact sums of the losses and of the weights that the mean
divides by, or has no rows. The chunks of a slice may be cut anywhere: rows do not know of each other, and the sums are
exact.

One loop serves every chunk function and type, by address: threads are slow to compile, and a function that contains
another would be compiled around it once more.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.kernels import cards, chunks, distributions, elementary
from fastxent.kernels.blocks import (  # noqa: F401  (the reasons are this module's, to its callers)
    CARD,
    EPS,
    FLAG,
    HAS_IGNORE,
    IGNORE,
    KEEP,
    KIND,
    LABEL,
    N_INTEGERS,
    N_REALS,
    NOT_PROBABILITY,
    OK,
    POS_WEIGHT,
    POSITIVE_LOG_PROB,
    ROW_SUM,
    SCALE,
    SCALE_LOW,
    SPREAD,
    SUM_TOL,
    TARGET_NEGATIVE,
    TARGET_SUM,
    TYPES,
    N,
    view_of,
)  # fmt: skip
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_merge
from fastxent.kernels.jit import compiled, parallel, prange
from fastxent.kernels.narrow import rounded, widened
from fastxent.kernels.probabilities import LOG_PROBS, LOGITS, PROBS  # noqa: F401
from fastxent.kernels.tiles import TILE_CLASSES
from fastxent.threads import team

# Below so many elements starting threads costs more than they save: a parallel call takes some 3 us, in which one
# thread reads 32 KiB.
SERIAL_ELEMENTS = 1 << 15
CHUNKS_PER_THREAD = 8

_NO_LABELS = np.empty(0, np.int64)
_NO_REALS = np.empty(0)
_NO_SUMS = np.zeros((0, STATE_SIZE), np.int64)


class ScoreRows(NamedTuple):
    """The figures of a slice's rows, for the score card: contiguous float64[n_rows], the last two int64."""

    nll: Any
    entropy: Any
    confidence: Any
    brier: Any
    predicted: Any
    rank: Any


# --- running a chunk function over rows -------------------------------------------------------------------------------


@intrinsic
def call_chunk(typingctx, chunk, arguments):
    """Call a chunk function, given by its address, with a tuple of arguments."""

    def build(context, builder, signature, args):
        kinds = signature.args[1].types
        values = cgutils.unpack_tuple(builder, args[1])
        kind = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(args[0], kind.as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.none, kinds, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(chunk, arguments), build


@parallel
def run_chunks(chunk, n_rows, like, integers, reals, labels, class_weight, sample_weight, out, parts, reports):
    """Run a chunk function on every part of the rows, each with its own sums and report."""
    k = parts.shape[0]
    for c in prange(k):
        start, stop = n_rows * c // k, n_rows * (c + 1) // k
        rest = (integers, reals, labels, class_weight, sample_weight, out, parts[c], reports[c])
        call_chunk(chunk, (start, stop, like, like, *rest))


@compiled
def merge_parts(parts, sums):
    """Add every chunk's exact sums."""
    for c in range(parts.shape[0]):
        for j in range(sums.shape[0]):
            exact_sum_merge(sums[j], parts[c, j])


def _address(chunk: Any, arguments: tuple[Any, ...]) -> int:
    """The compiled code of a chunk function for these arguments; compiled or loaded when needed."""
    key = chunk, arguments[2].dtype, arguments[3].dtype
    if key not in _addresses:
        from numba import typeof

        signature = tuple(typeof(x) for x in arguments)
        chunk.compile(signature)
        result = chunk.overloads[signature]
        _addresses[key] = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return _addresses[key]


_addresses: dict[Any, int] = {}


class _Alias:
    """Another array's memory, writable: for Numba a read-only array is another type, and would be compiled for anew."""

    def __init__(self, array: np.ndarray) -> None:
        self.owner = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}


def _plain(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else np.asarray(_Alias(array))


class Call:
    """One call's options, in the arrays that a chunk function reads."""

    def __init__(self, first: np.ndarray, second: np.ndarray | None = None, *, n_classes: int) -> None:
        self.matrices = first, second  # the chunk functions have no more than their addresses
        self.integers = np.zeros(N_INTEGERS, np.int64)
        self.reals = np.zeros(N_REALS)
        self.integers[:5] = view_of(first)
        self.integers[N] = n_classes
        self.like = self.second_like = TYPES[first.dtype]
        if second is not None:
            self.integers[5:10] = view_of(second)
            self.second_like = TYPES[second.dtype]
        self.n_rows = first.shape[0] * first.shape[1]
        self.elements = self.n_rows * n_classes
        self.labels, self.class_weight, self.sample_weight = _NO_LABELS, _NO_REALS, _NO_REALS

    def ignore(self, has_ignore: bool, index: int) -> None:
        self.integers[HAS_IGNORE] = has_ignore
        self.integers[IGNORE] = index

    def temperature(self, temperature: float) -> None:
        self.reals[SCALE], self.reals[SCALE_LOW] = scale_of(temperature)

    def run(self, chunk: Any, out: np.ndarray = _NO_REALS, sums: np.ndarray = _NO_SUMS) -> tuple[int, int]:
        """Run a chunk function over the rows, side by side where that pays; gather sums and the first refusal."""
        n = self.n_rows
        if n == 0:
            return -1, OK
        if self.elements >= SERIAL_ELEMENTS and n > 1:
            with team() as threads:
                if threads > 1:
                    data = self.integers, *self._data(), out
                    n_chunks = min(threads * CHUNKS_PER_THREAD, n)
                    reports = np.zeros((n_chunks, 2), np.int64)
                    parts = np.zeros((n_chunks, *sums.shape), np.int64)
                    address = _address(chunk, (0, n, self.like, self.second_like, *data, parts[0], reports[0]))
                    run_chunks(address, n, TYPES[np.dtype(np.float64)], *data, parts, reports)
                    return _gather(parts, reports, sums)
        return self.run_serial(chunk, 0, n, self.integers, out, sums)

    def run_serial(
        self, chunk: Any, start: int, stop: int, integers: np.ndarray, out: np.ndarray, sums: np.ndarray
    ) -> tuple[int, int]:
        """Run a chunk function over rows start .. stop - 1 on this thread."""
        report = np.zeros(2, np.int64)
        chunk(start, stop, self.like, self.second_like, integers, *self._data(), out, sums, report)
        return (int(report[0]), int(report[1])) if report[1] else (-1, OK)

    def _data(self) -> tuple[np.ndarray, ...]:
        return self.reals, *(_plain(x) for x in (self.labels, self.class_weight, self.sample_weight))


def _gather(parts: np.ndarray, reports: np.ndarray, sums: np.ndarray) -> tuple[int, int]:
    refused = reports[reports[:, 1] != OK]
    if len(refused):
        return int(refused[0, 0]), int(refused[0, 1])
    if len(sums):
        merge_parts(parts, sums)
    return -1, OK


def scale_of(temperature: float) -> tuple[float, float]:
    """1 / temperature in two words: the second is the first's error, to first order."""
    if temperature == 1.0:
        return 1.0, 0.0
    scale = 1.0 / temperature
    high, low = _two_product(scale, temperature)
    return scale, ((1.0 - high) - low) * scale


def _two_product(a: float, b: float) -> tuple[float, float]:
    """a·b exactly, in two words (Dekker, 1971)."""

    def split(x: float) -> tuple[float, float]:
        c = 134217729.0 * x  # 2^27 + 1
        high = c - (c - x)
        return high, x - high

    (a1, a2), (b1, b2) = split(a), split(b)
    product = a * b
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _wide_enough(z: np.ndarray, temperature: float) -> np.ndarray:
    """Logits as float64 where 1/T has no accurate float32 words."""
    return z if z.dtype == np.float64 or 2.0**-20 <= temperature <= 2.0**20 else widened(z).astype(np.float64)


# --- the losses -------------------------------------------------------------------------------------------------------


def hard_cross_entropy(
    z, labels, class_weight, sample_weight, has_ignore, ignore_index, label_smoothing, temperature, out, sums
):
    """Cross-entropy of logits and class indices."""
    call = _hard(_wide_enough(z, temperature), labels, class_weight, sample_weight, has_ignore, ignore_index)
    call.temperature(temperature)
    if label_smoothing == 0.0:
        few = z.shape[2] <= TILE_CLASSES
        return call.run(chunks.hard_cross_entropy_tiles if few else chunks.hard_cross_entropy, out, sums)
    _smooth(call, label_smoothing)
    return call.run(chunks.smoothed_cross_entropy, out, sums)


def soft_cross_entropy(z, target, class_weight, sample_weight, label_smoothing, temperature, out, sums):
    """Cross-entropy of logits and distributions."""
    call = _soft(_wide_enough(z, temperature), target, class_weight, sample_weight)
    call.temperature(temperature)
    _smooth(call, label_smoothing)
    return call.run(chunks.soft_cross_entropy, out, sums)


def hard_nll(log_probs, labels, class_weight, sample_weight, has_ignore, ignore_index, out, sums):
    """NLL of log-probabilities and class indices."""
    call = _hard(log_probs, labels, class_weight, sample_weight, has_ignore, ignore_index)
    call.elements = 8 * call.n_rows  # a row costs one entry, in a cache line of its own
    return call.run(chunks.hard_nll, out, sums)


def soft_nll(log_probs, target, class_weight, sample_weight, out, sums):
    """NLL of log-probabilities and distributions."""
    return _soft(log_probs, target, class_weight, sample_weight).run(chunks.soft_nll_rows, out, sums)


def hard_log_loss(
    probs, labels, class_weight, sample_weight, has_ignore, ignore_index, eps, normalize, sum_tol, out, sums
):
    """Log loss of probabilities and class indices."""
    call = _hard(probs, labels, class_weight, sample_weight, has_ignore, ignore_index)
    call.integers[FLAG], call.reals[EPS], call.reals[SUM_TOL] = normalize, eps, sum_tol
    few = probs.shape[2] <= TILE_CLASSES
    return call.run(chunks.hard_log_loss_tiles if few else chunks.hard_log_loss, out, sums)


def soft_log_loss(probs, target, class_weight, sample_weight, eps, normalize, sum_tol, out, sums):
    """Log loss of probabilities and distributions."""
    call = _soft(probs, target, class_weight, sample_weight)
    call.integers[FLAG], call.reals[EPS], call.reals[SUM_TOL] = normalize, eps, sum_tol
    return call.run(chunks.soft_log_loss_rows, out, sums)


def binary_cross_entropy(logits, target, pos_weight, sample_weight, out, sums):
    """Binary cross-entropy of logits, both arguments one number a row."""
    return _binary(logits, target, pos_weight, sample_weight, True, 0.0, out, sums)


def binary_log_loss(probs, target, pos_weight, sample_weight, eps, out, sums):
    """Binary log loss of probabilities, both arguments one number a row."""
    return _binary(probs, target, pos_weight, sample_weight, False, eps, out, sums)


def _binary(x, target, pos_weight, sample_weight, is_logits, eps, out, sums):
    call = _soft(x[None, :, None], target[None, :, None], _NO_REALS, sample_weight)
    call.integers[FLAG], call.reals[POS_WEIGHT], call.reals[EPS] = is_logits, pos_weight, eps
    call.elements = 8 * call.n_rows
    return call.run(chunks.binary, out, sums)


def _hard(z, labels, class_weight, sample_weight, has_ignore, ignore_index):
    call = Call(z, n_classes=z.shape[2])
    call.labels, call.class_weight, call.sample_weight = labels, class_weight, sample_weight
    call.ignore(has_ignore, ignore_index)
    return call


def _soft(z, target, class_weight, sample_weight):
    call = Call(z, target, n_classes=z.shape[2])
    call.class_weight, call.sample_weight = class_weight, sample_weight
    return call


def _smooth(call, label_smoothing):
    call.reals[KEEP], call.reals[SPREAD] = 1.0 - label_smoothing, label_smoothing / int(call.integers[N])


# --- what has no target -----------------------------------------------------------------------------------------------


def logsumexp(z, temperature, out):
    """ln Σ e^(z/T) of each row."""
    call = Call(_wide_enough(z, temperature), n_classes=z.shape[2])
    call.temperature(temperature)
    return call.run(distributions.logsumexp_tiles if z.shape[2] <= TILE_CLASSES else distributions.logsumexp, out)


def softmax(z, temperature, out):
    """e^(z/T) over its sum; ``out`` has the shape of z and may be z."""
    return _same_shape(distributions.softmax, z, temperature, out)


def log_softmax(z, temperature, out):
    """The logarithm of softmax."""
    return _same_shape(distributions.log_softmax, z, temperature, out)


def _same_shape(chunk, z, temperature, out):
    wide = _wide_enough(z, temperature)
    result = out if wide is z else np.empty(z.shape)
    call = Call(wide, result, n_classes=z.shape[2])
    call.temperature(temperature)
    status = call.run(chunk)
    if result is not out:
        out[...] = rounded(result, out.dtype)
    return status


def entropy(p, kind, out):
    """-Σ q ln q of each row."""
    call = Call(p, n_classes=p.shape[2])
    call.integers[KIND] = kind
    return call.run(distributions.entropy, out)


def kl_divergence(p, q, kind, out):
    """Σ p ln(p / q) of each pair of rows."""
    call = Call(p, q, n_classes=p.shape[2])
    call.integers[KIND] = kind
    return call.run(distributions.kl_divergence, out)


# --- the score card ---------------------------------------------------------------------------------------------------


class ScoreCall:
    """The figures of a slice's rows for the score card, all of them or some at a time."""

    def __init__(self, call: Call, chunk: Any) -> None:
        self.call, self.chunk = call, chunk

    def run(self, card: ScoreRows) -> tuple[int, int]:
        """All rows, side by side where that pays."""
        self.call.integers[CARD : CARD + 6] = _addresses_of(card)
        return self.call.run(self.chunk)

    def run_some(self, start: int, stop: int, card: ScoreRows) -> tuple[int, int]:
        """Rows start .. stop - 1, on this thread, to the beginning of the card's arrays."""
        integers = self.call.integers.copy()
        integers[CARD : CARD + 6] = [address - 8 * start for address in _addresses_of(card)]
        return self.call.run_serial(self.chunk, start, stop, integers, _NO_REALS, _NO_SUMS)


def _addresses_of(card: ScoreRows) -> list[int]:
    return [column.ctypes.data for column in card]


def score_call(kind, z, labels, has_ignore, ignore_index, eps, normalize, sum_tol, temperature):
    """A ScoreCall for class indices."""
    z = _wide_enough(z, temperature)
    call = _hard(z, labels, _NO_REALS, _NO_REALS, has_ignore, ignore_index)
    logits = cards.score_logits_tiles if z.shape[2] <= TILE_CLASSES else cards.score_logits
    return _score(call, kind, eps, normalize, sum_tol, temperature, logits, cards.score_probabilities)


def score_call_soft(kind, z, target, eps, normalize, sum_tol, temperature):
    """The same for distributions; the rank is 0."""
    call = _soft(_wide_enough(z, temperature), target, _NO_REALS, _NO_REALS)
    drivers = cards.score_logits_soft, cards.score_probabilities_soft
    return _score(call, kind, eps, normalize, sum_tol, temperature, *drivers)


def score_rows(*arguments):
    """The figures of every row, for class indices: those of score_call, then a ScoreRows."""
    return score_call(*arguments[:-1]).run(arguments[-1])


def _score(call, kind, eps, normalize, sum_tol, temperature, logits, probabilities):
    call.temperature(temperature)
    call.integers[KIND], call.integers[FLAG], call.reals[EPS], call.reals[SUM_TOL] = kind, normalize, eps, sum_tol
    return ScoreCall(call, logits if kind == LOGITS else probabilities)


@compiled
def exp_scalar(x):
    """e^x without libm, for what finishes a result."""
    return elementary.exp(x)


@compiled
def log_scalar(x):
    """ln x without libm."""
    return elementary.log(x)
