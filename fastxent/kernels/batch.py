"""The parallel loop, and the drivers that the rest of the package calls. The only file with parallel loops.

A driver takes one slice of rows as arrays and its options, and returns a Call, which chooses serial or parallel by the
size of the work. Running it gives (row, reason): the first row that is refused, and why (blocks.OK and so on), or
(-1, OK). ``out`` is float64[n_rows], or empty where rows are not wanted; ``sums`` is int64[2, STATE_SIZE], exact sums
of the losses and of the weights that the mean divides by, or has no rows. The chunks of a slice may be cut anywhere:
rows do not know of each other, and the sums are exact.

One loop serves every chunk function and type, by address: threads are slow to compile, and a function that contains
another would be compiled around it once more.
"""

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
from numba import typeof, types

from fastxent.kernels import brier, cards, chunks, distributions, elementary, focal, softmax_groups, standings, weighing
from fastxent.kernels import temperature as tempering
from fastxent.kernels.blocks import (  # noqa: F401  (the reasons are this module's, to its callers)
    CARD,
    EPS,
    FLAG,
    GAMMA,
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
from fastxent.kernels.exactsum import STATE_SIZE, exact_sum_final, exact_sum_merge, exact_sum_value
from fastxent.kernels.jit import call_chunk, compiled, inline, parallel, prange
from fastxent.kernels.memory import scratch
from fastxent.kernels.narrow import rounded, widened
from fastxent.kernels.probabilities import LOG_PROBS, LOGITS, PROBS  # noqa: F401
from fastxent.kernels.side_by_side import are_side_by_side
from fastxent.kernels.tiles import TILE_CLASSES
from fastxent.threads import team

# Below so many elements starting threads costs more than they save: a parallel call takes some 3 us, in which one
# thread reads 32 KiB.
SERIAL_ELEMENTS = 1 << 15
CHUNKS_PER_THREAD = 8
# An output of so many bytes is written past the caches: it would push out more than it leaves there, and a line that is
# written whole need not be read first. Softmax of 1000 classes, one thread, a 32 MiB cache: 352 ns a row with and 349
# without at 4 MB, 384 and 469 at 16 MB, 904 and 1743 at 64 MB.
STREAM_BYTES = 1 << 24

MANY_WEIGHTS = 1 << 17  # a megabyte: so many are looked at side by side

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


@parallel
def run_chunks(chunk, n_rows, like, integers, reals, labels, class_weight, sample_weight, out, parts, reports):
    """Run a chunk function on every part of the rows, each with its own sums and report."""
    k = parts.shape[0]
    for c in prange(k):
        start, stop = n_rows * c // k, n_rows * (c + 1) // k
        rest = (integers, reals, labels, class_weight, sample_weight, out, parts[c], reports[c])
        call_chunk(chunk, (start, stop, like, like, *rest))


@compiled
def values_of(sums):
    """Both sums, each rounded once."""
    return exact_sum_value(sums[0]), exact_sum_value(sums[1])


@compiled
def merge_parts(parts, sums):
    """Add every chunk's exact sums."""
    for c in range(parts.shape[0]):
        for j in range(sums.shape[0]):
            exact_sum_merge(sums[j], parts[c, j])


@compiled
def run_rows(
    chunk, start, stop, first, second, integers, reals, labels, class_weight, sample_weight, out, sums, summed
):
    """Run a chunk function over rows start .. stop - 1, or to the last if stop is -1, on this thread.

    Returns the first row that is refused, or -1; the reason; and if ``summed``, the sum of the losses and that of
    their weights, which then do not go to ``sums``.
    """
    call = scratch(np.int64, 0, N_INTEGERS)
    for k in range(N_INTEGERS):
        call[k] = integers[k]
    _put_view(call, 0, first)
    _put_view(call, 5, second)
    if stop < 0:
        stop = first.shape[0] * first.shape[1]
    report = scratch(np.int64, 0, 2)
    report[0], report[1] = -1, OK
    own = scratch(np.int64, 2, STATE_SIZE)
    if summed:
        for k in range(STATE_SIZE):
            own[0, k] = own[1, k] = 0
    rest = (call, reals, labels, class_weight, sample_weight, out, own if summed else sums, report)
    call_chunk(chunk, (start, stop, reals, reals, *rest))  # two empty arrays would do: they tell a type, known by now
    if summed:
        return report[0], report[1], exact_sum_final(own[0]), exact_sum_final(own[1])
    return report[0], report[1], 0.0, 0.0


@inline
def _put_view(call, at, array):
    """blocks.view_of, in compiled code."""
    call[at] = array.ctypes.data
    for axis in range(3):
        call[at + 1 + axis] = array.strides[axis] // array.itemsize
    call[at + 4] = max(array.shape[1], 1)


# What Python calls below is the code for one signature, without Numba's choice by the arguments' types: arrays of any
# layout, and those that cannot be written to, would be types of their own, each compiled for anew.

_INTEGERS, _REALS = types.int64[::1], types.float64[::1]
_DATA = _INTEGERS, _REALS, _INTEGERS, _REALS, _REALS, _REALS  # options, labels, weights, out
_OF_CHUNKS = types.int64, types.int64, _REALS, *_DATA, types.int64[:, :, ::1], types.int64[:, ::1]


@functools.cache
def _code(chunk: Any, first: np.dtype, second: np.dtype) -> tuple[int, Any]:
    """The address of a chunk function for matrices of these types, and run_rows for them. Compiled when needed."""
    matrices = [typeof(TYPES[dtype]) for dtype in (first, second)]
    found = _for_signature(chunk, types.int64, types.int64, *matrices, *_DATA, types.int64[:, ::1], _INTEGERS)
    address = found.library.get_pointer_to_function(found.fndesc.llvm_func_name)
    views = [types.Array(matrix.dtype, 3, "A") for matrix in matrices]
    rows = *(types.int64,) * 3, *views, *_DATA, types.int64[:, ::1], types.boolean
    return address, _for_signature(run_rows, *rows).entry_point


@functools.cache
def _code_of(function: Any, *signature: Any) -> Any:
    """Any other function, for a signature."""
    return _for_signature(function, *signature).entry_point


def _for_signature(function: Any, *signature: Any) -> Any:
    function.compile(signature)
    return function.overloads[signature]


class Call:
    """A chunk function, the matrices (3-D), labels and weights it reads, and its options."""

    __slots__ = ("chunk", "class_weight", "elements", "first", "integers", "labels", "reals", "sample_weight", "second")

    def __init__(self, chunk, first, second, options, elements, labels=_NO_LABELS, s=_NO_REALS, class_weight=_NO_REALS):
        self.chunk, self.first, self.second, self.elements = chunk, first, second, elements
        self.integers, self.reals = options
        self.labels, self.sample_weight, self.class_weight = labels, s, class_weight

    def run(self, out: np.ndarray = _NO_REALS, sums: np.ndarray = _NO_SUMS) -> tuple[int, int]:
        """Run over the rows, side by side where that pays; gather sums and the first refusal."""
        n = self.first.shape[0] * self.first.shape[1]
        if n == 0:
            return -1, OK
        if self.elements >= SERIAL_ELEMENTS and n > 1:
            with team() as threads:
                if threads > 1:
                    integers = self.integers.copy()
                    integers[:10] = *view_of(self.first), *view_of(self.second)
                    n_chunks = min(threads * CHUNKS_PER_THREAD, n)
                    reports = np.zeros((n_chunks, 2), np.int64)
                    parts = np.zeros((n_chunks, *sums.shape), np.int64)
                    data = integers, self.reals, self.labels, self.class_weight, self.sample_weight, out, parts, reports
                    _code_of(run_chunks, *_OF_CHUNKS)(
                        _code(self.chunk, self.first.dtype, self.second.dtype)[0], n, self.reals, *data
                    )
                    return _gather(parts, reports, sums)
        return self.run_serial(0, n, out, sums)[:2]

    def run_all(self, out: np.ndarray) -> tuple[int, int, float, float]:
        """Run over the rows, which are all there are: with the sum of the losses and of the weights unless ``out``."""
        summed = out.size == 0
        if self.elements < SERIAL_ELEMENTS:
            return self.run_serial(0, -1, out, _NO_SUMS, summed)
        sums = np.zeros((2, STATE_SIZE), np.int64) if summed else _NO_SUMS
        row, reason = self.run(out, sums)
        return row, reason, *(values_of(sums) if summed else (0.0, 0.0))

    def run_serial(
        self, start: int, stop: int, out: np.ndarray = _NO_REALS, sums: np.ndarray = _NO_SUMS, summed: bool = False
    ) -> tuple[int, int, float, float]:
        """Run over rows start .. stop - 1 on this thread, as run_rows says."""
        first, second = self.first, self.second
        code, run = _code(self.chunk, first.dtype, second.dtype)
        data = self.integers, self.reals, self.labels, self.class_weight, self.sample_weight
        return run(code, start, stop, first, second, *data, out, sums, summed)


def _gather(parts: np.ndarray, reports: np.ndarray, sums: np.ndarray) -> tuple[int, int]:
    refused = reports[reports[:, 1] != OK]
    if len(refused):
        return int(refused[0, 0]), int(refused[0, 1])
    if len(sums):
        merge_parts(parts, sums)
    return -1, OK


@functools.lru_cache(maxsize=1024)
def settings(
    n_classes: int,
    has_ignore: bool = False,
    ignore_index: int = 0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    flag: bool = False,
    kind: int = 0,
    eps: float = 0.0,
    sum_tol: float = 0.0,
    pos_weight: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A call's options in the arrays that a chunk function reads, and nobody writes to."""
    integers, reals = np.zeros(N_INTEGERS, np.int64), np.zeros(N_REALS)
    integers[N], integers[HAS_IGNORE], integers[IGNORE] = n_classes, has_ignore, ignore_index
    integers[FLAG], integers[KIND] = flag, kind
    reals[SCALE], reals[SCALE_LOW] = scale_of(temperature)
    reals[KEEP], reals[SPREAD] = 1.0 - label_smoothing, label_smoothing / n_classes
    reals[EPS], reals[SUM_TOL], reals[POS_WEIGHT] = eps, sum_tol, pos_weight
    return integers, reals


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


def wide_enough(z: np.ndarray, temperature: float) -> np.ndarray:
    """Logits as float64 where 1/T has no accurate float32 words."""
    return z if 2.0**-20 <= temperature <= 2.0**20 or z.dtype == np.float64 else widened(z).astype(np.float64)


# --- the losses: z, then labels or a target of distributions, then the rows' weights ---------------------------------


def hard_cross_entropy(z, labels, s, class_weight, has_ignore, ignore_index, label_smoothing, temperature):
    """Cross-entropy of logits and class indices."""
    z, n = wide_enough(z, temperature), z.shape[2]
    options = settings(n, has_ignore, ignore_index, temperature, label_smoothing)
    apart = z.size >= SERIAL_ELEMENTS and temperature == 1.0 and are_side_by_side(z)
    few = chunks.hard_cross_entropy_tiles_side_by_side if apart else chunks.hard_cross_entropy_tiles
    many = chunks.hard_cross_entropy_side_by_side if apart else chunks.hard_cross_entropy
    chunk = chunks.smoothed_cross_entropy if label_smoothing != 0.0 else few if n <= TILE_CLASSES else many
    return Call(chunk, z, z, options, z.size, labels, s, class_weight)


def soft_cross_entropy(z, target, s, class_weight, label_smoothing, temperature):
    """Cross-entropy of logits and distributions."""
    z = wide_enough(z, temperature)
    options = settings(z.shape[2], False, 0, temperature, label_smoothing)
    return Call(chunks.soft_cross_entropy, z, target, options, z.size, _NO_LABELS, s, class_weight)


def hard_nll(log_probs, labels, s, class_weight, has_ignore, ignore_index):
    """NLL of log-probabilities and class indices."""
    options = settings(log_probs.shape[2], has_ignore, ignore_index)
    elements = 8 * labels.size  # a row costs one entry, in a cache line of its own
    return Call(chunks.hard_nll, log_probs, log_probs, options, elements, labels, s, class_weight)


def soft_nll(log_probs, target, s, class_weight):
    """NLL of log-probabilities and distributions."""
    options = settings(log_probs.shape[2])
    return Call(chunks.soft_nll_rows, log_probs, target, options, log_probs.size, _NO_LABELS, s, class_weight)


def hard_log_loss(probs, labels, s, class_weight, has_ignore, ignore_index, eps, normalize, sum_tol):
    """Log loss of probabilities and class indices."""
    options = settings(probs.shape[2], has_ignore, ignore_index, flag=normalize, eps=eps, sum_tol=sum_tol)
    few = probs.shape[2] <= TILE_CLASSES
    chunk = chunks.hard_log_loss_tiles if few else chunks.hard_log_loss
    return Call(chunk, probs, probs, options, probs.size, labels, s, class_weight)


def soft_log_loss(probs, target, s, class_weight, eps, normalize, sum_tol):
    """Log loss of probabilities and distributions."""
    options = settings(probs.shape[2], flag=normalize, eps=eps, sum_tol=sum_tol)
    return Call(chunks.soft_log_loss_rows, probs, target, options, probs.size, _NO_LABELS, s, class_weight)


def hard_brier(probs, labels, s, sum_tol):
    """Brier score (0 to 2) of probabilities and class indices."""
    options = settings(probs.shape[2], sum_tol=sum_tol)
    chunk = brier.brier_tiles if probs.shape[2] <= TILE_CLASSES else brier.brier_rows
    return Call(chunk, probs, probs, options, probs.size, labels, s)


def class_weights(labels, s, n_classes):
    """Every row's weight, or 1 each, to the exact sum of its class: ``sums`` has one a class."""
    numbers = labels.view(np.float64)[None, :, None]  # which are not read
    elements = labels.size if labels.size >= 1024 * n_classes else 0  # a chunk has sums of its own
    return Call(weighing.class_weights, numbers, numbers, settings(n_classes), elements, labels, s)


def label_standings(
    kind, z, labels, losses, ranks, confidences, has_ignore, ignore_index, normalize, temperature, sure_hit
):
    """Of rows with losses the ranks and confidences (float64[n_rows]); a loss below ``sure_hit`` says that it is 0."""
    options = settings(z.shape[2], has_ignore, ignore_index, temperature, 0.0, normalize, kind)
    few = z.shape[2] <= TILE_CLASSES and not normalize
    chunk = standings.standings_tiles if few else standings.standings
    return _standings(chunk, wide_enough(z, temperature), options, labels, losses, ranks, confidences, sure_hit)


def loss_standings(z, labels, ranks, confidences, has_ignore, ignore_index, temperature):
    """Those of hard_cross_entropy's losses, to ``out``, of logits of at most TILE_CLASSES classes."""
    options = settings(z.shape[2], has_ignore, ignore_index, temperature)
    chunk, z = standings.loss_standings_tiles, wide_enough(z, temperature)
    return _standings(chunk, z, options, labels, _NO_REALS, ranks, confidences, 0.0)


def _standings(chunk, z, options, labels, losses, ranks, confidences, sure_hit):
    integers, reals = (option.copy() for option in options)
    integers[CARD : CARD + 2], reals[standings.SURE_HIT] = (ranks.ctypes.data, confidences.ctypes.data), sure_hit
    return Call(chunk, z, z, (integers, reals), z.size, labels, losses)


def binary_cross_entropy(logits, target, s, pos_weight):
    """Binary cross-entropy of logits, both arguments one number a row."""
    return _binary(logits, target, s, settings(1, flag=True, pos_weight=pos_weight))


def binary_log_loss(probs, target, s, pos_weight, eps):
    """Binary log loss of probabilities, both arguments one number a row."""
    return _binary(probs, target, s, settings(1, eps=eps, pos_weight=pos_weight))


def _binary(x, target, s, options):
    if x.shape[0] != 1:  # the chunk function takes evenly spaced rows
        x, target = x.reshape(1, -1, 1), target.reshape(1, -1, 1)
    return Call(chunks.binary, x, target, options, 8 * x.size, _NO_LABELS, s)


def temperature_sums(z, labels, s, has_ignore, ignore_index, temperature):
    """Loss and derivatives in 1/T of logits and class indices; sums[tempering.N_SUMS] instead of two."""
    z = wide_enough(z, temperature)
    options = settings(z.shape[2], has_ignore, ignore_index, temperature)
    return Call(tempering.temperature, z, z, options, z.size, labels, s)


def temperature_sums_soft(z, target, s, temperature):
    """The same for distributions."""
    z = wide_enough(z, temperature)
    return Call(
        tempering.temperature_soft, z, target, settings(z.shape[2], temperature=temperature), z.size, _NO_LABELS, s
    )


def focal_rows(kind, gamma, nll, labels, s, class_weight, n_classes, has_ignore, ignore_index):
    """What focal.py makes of rows' cross-entropies, float64[n], times the rows' weights."""
    integers, reals = (option.copy() for option in settings(n_classes, has_ignore, ignore_index, kind=kind))
    reals[GAMMA] = gamma
    rows = nll.reshape(1, -1, 1)
    return Call(focal.focal_rows, rows, rows, (integers, reals), 8 * nll.size, labels, s, class_weight)


# --- what has no target -----------------------------------------------------------------------------------------------


def logsumexp(z, temperature):
    """ln Σ e^(z/T) of each row."""
    z, n = wide_enough(z, temperature), z.shape[2]
    chunk = distributions.logsumexp_tiles if n <= TILE_CLASSES else distributions.logsumexp
    return Call(chunk, z, z, settings(n, False, 0, temperature), z.size)


def softmax(z, temperature, out):
    """e^(z/T) over its sum; ``out`` has the shape of z and may be z."""
    return _same_shape(distributions.softmax, softmax_groups.softmax_groups, z, temperature, out)


def log_softmax(z, temperature, out):
    """The logarithm of softmax."""
    return _same_shape(distributions.log_softmax, softmax_groups.log_softmax_groups, z, temperature, out)


def _same_shape(few, many, z, temperature, out):
    wide, chunk = wide_enough(z, temperature), many if temperature == 1.0 and z.shape[2] > TILE_CLASSES else few
    result = out if wide is z else np.empty(z.shape)
    streaming = result.nbytes >= STREAM_BYTES and result.flags.aligned and not np.may_share_memory(wide, result)
    options = settings(z.shape[2], temperature=temperature, flag=streaming)
    status = Call(chunk, wide, result, options, z.size).run()
    if result is not out:
        out[...] = rounded(result, out.dtype)
    return status


def logarithm_of_probs(p, labels, has_ignore, ignore_index, sum_tol, out):
    """ln p, to float32 or float64 of the same shape with contiguous rows."""
    options = settings(p.shape[2], has_ignore, ignore_index, sum_tol=sum_tol)
    return Call(distributions.logarithm_of_probs, p, out, options, p.size, labels)


def entropy(p, kind):
    """-Σ q ln q of each row."""
    return Call(distributions.entropy, p, p, settings(p.shape[2], kind=kind), p.size)


def kl_divergence(p, q, kind):
    """Σ p ln(p / q) of each pair of rows."""
    return Call(distributions.kl_divergence, p, q, settings(p.shape[2], kind=kind), p.size)


# --- the score card ---------------------------------------------------------------------------------------------------


class ScoreCall:
    """The figures of a slice's rows for the score card, all of them or some at a time."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def run(self, card: ScoreRows) -> tuple[int, int]:
        """All rows, side by side where that pays."""
        return self._into(card).run()

    def run_some(self, card: ScoreRows, start: int, stop: int) -> int:
        """Rows start .. stop - 1 on this thread: the first one that is refused, or -1."""
        return self._into(card).run_serial(start, stop)[0]

    def source(self) -> tuple[Any, ...]:
        """What `scorecard.accumulate_chunk` makes rows with, for one thread."""
        call = self.call
        integers = call.integers.copy()
        integers[:10] = *view_of(call.first), *view_of(call.second)
        return _code(call.chunk, call.first.dtype, call.second.dtype)[0], _NO_REALS, integers, call.reals.copy()

    def _into(self, card: ScoreRows) -> Call:
        """The call with the addresses of the card's arrays."""
        call = copy.copy(self.call)
        call.integers = call.integers.copy()
        call.integers[CARD : CARD + 6] = [column.ctypes.data for column in card]
        return call


def made_rows(card: ScoreRows) -> tuple[Any, ...]:
    """The same for rows that are there."""
    integers = np.zeros(N_INTEGERS, np.int64)
    integers[CARD : CARD + 6] = [column.ctypes.data for column in card]
    return 0, _NO_REALS, integers, np.empty(0)


def score_call(kind, z, labels, has_ignore, ignore_index, eps, normalize, sum_tol, temperature):
    """A ScoreCall for class indices."""
    z, n = wide_enough(z, temperature), z.shape[2]
    options = settings(n, has_ignore, ignore_index, temperature, 0.0, normalize, kind, eps, sum_tol)
    logits = cards.score_logits_tiles if n <= TILE_CLASSES else cards.score_logits
    chunk = logits if kind == LOGITS else cards.score_probabilities
    return ScoreCall(Call(chunk, z, z, options, z.size, labels))


def score_call_soft(kind, z, target, eps, normalize, sum_tol, temperature):
    """The same for distributions; the rank is 0."""
    z = wide_enough(z, temperature)
    options = settings(z.shape[2], False, 0, temperature, 0.0, normalize, kind, eps, sum_tol)
    chunk = cards.score_logits_soft if kind == LOGITS else cards.score_probabilities_soft
    return ScoreCall(Call(chunk, z, target, options, z.size))


def score_rows(*arguments):
    """The figures of every row, for class indices: those of score_call, then a ScoreRows."""
    return score_call(*arguments[:-1]).run(arguments[-1])


def first_bad_weight(weights):
    """Position of the first of float64[n] weights that is NaN, infinite or negative; or -1."""
    if weights.size < MANY_WEIGHTS:
        return _code_of(weighing.first_bad, _REALS)(weights)
    numbers = weights[None, :, None]
    return Call(weighing.refuse_bad, numbers, numbers, settings(1), weights.size, s=weights).run()[0]


@compiled
def exp_scalar(x):
    """e^x without libm, for what finishes a result."""
    return elementary.exp(x)
