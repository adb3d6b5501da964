"""Sweeps of functions of one number: every pattern of bits in a case's domain, or samples of it, in pieces."""

import itertools
import math

import numpy as np

from dossier import peers
from dossier.errors import Worst, binade, errors, exact_errors

BLOCK = 1 << 16  # numbers at a time: what the caches hold
PIECES = {"every": 1 << 26, "sample": 1 << 23}  # numbers a piece: of progress, resumption and parallel work
PEERS = {"every": 16, "sample": 1}  # other libraries take several times our time: each 16th block of every number
INTEGER = {np.float32: np.uint32, np.float64: np.uint64}


def patterns(case):
    """(first, last) of the bit patterns of |x|: to the last NaN, where those belong to the domain."""
    kind = INTEGER[case.dtype]
    first, last = (int(case.dtype(end).view(kind)) for end in (case.low, case.high))
    return first, np.iinfo(kind).max >> 1 if case.special else last


def size_of(case):
    """How many numbers a case's domain holds."""
    first, last = patterns(case)
    return (last - first + 1) * len(case.signs)


def every(case, start, stop):
    """Blocks of the numbers from one place in the domain's order to another."""
    first, last = patterns(case)
    length, kind = last - first + 1, INTEGER[case.dtype]
    for begin in range(start, stop, BLOCK):
        place = np.arange(begin, min(begin + BLOCK, stop), dtype=np.uint64)
        x = ((place % np.uint64(length)) + np.uint64(first)).astype(kind).view(case.dtype)
        yield signed(case, x, np.where(place < length, case.signs[0], case.signs[-1]))


def signed(case, x, signs):
    """x with these signs, if they are ever negative."""
    return x if case.signs == (1,) else np.copysign(x, signs.astype(case.dtype))


def sample(case, n, seed):
    """Blocks of n random numbers: of any bits, between the ends, within 60, and next to where the reduction changes."""
    rng = np.random.default_rng(seed)
    first, last = patterns(case)
    kind, dtype = INTEGER[case.dtype], case.dtype
    ways = 4 if case.seams else 3
    while n > 0:
        size = min(n, BLOCK)
        n -= size
        some = -(-size // ways)
        parts = [rng.integers(first, last, some, endpoint=True, dtype=np.uint64).astype(kind).view(dtype)]
        for end in (min(case.high, 1e4), min(case.high, 60.0)):
            parts.append(rng.uniform(case.low, end, some).astype(dtype))
        if case.seams:
            step = rng.choice(case.seams)
            whole = rng.integers(0, max(int(min(case.high, 2000.0) / step), 1), some, endpoint=True)
            near = (whole * step).astype(dtype).view(kind).astype(np.int64) + rng.integers(-40, 41, some)
            parts.append(np.maximum(near, 0).astype(kind).view(dtype))
        x = np.clip(np.concatenate(parts)[:size], dtype(case.low), dtype(case.high))
        yield signed(case, x, rng.choice(case.signs, size))


def specials(case):
    """The ends, their neighbours, and what is no number."""
    ends = np.array([case.low, case.high], case.dtype)
    with np.errstate(over="ignore"):
        near = [np.nextafter(ends, case.dtype(math.inf)), np.nextafter(ends, case.dtype(-math.inf)), ends]
    x = np.clip(np.concatenate(near), ends[0], ends[1])
    x = np.concatenate([x * case.dtype(sign) for sign in case.signs])
    return np.concatenate([x, np.array([math.nan, math.inf, -math.inf], case.dtype)]) if case.special else x


def compare(case, blocks, libraries=(), apart=1):
    """{who: Worst}, "fastxent" over blocks of inputs, and libraries over one block of so many."""
    found = {"fastxent": Worst()} | {library: Worst() for library in libraries if library in case.peers}
    theirs = {
        library: peers.functions(library)[name]
        for library, name in case.peers.items()
        if library in libraries and name in peers.functions(library)
    }
    for number, x in enumerate(blocks):
        with np.errstate(all="ignore"):
            want = case.wide(x)
        found["fastxent"].add(*errors(case.ours(x), want, case.limits), lambda i, x=x: written(x[i]))
        if not theirs or number % apart:
            continue
        kept = comparable(case, x, want)
        if not kept.any():
            continue
        for library, function in theirs.items():
            with np.errstate(all="ignore"):
                got = function(x)
            wrong = [np.where(kept, error, -1.0) for error in errors(got, want, case.limits)]
            found[library].add(*wrong, lambda i, x=x: written(x[i]))
            found[library].inputs -= len(x) - int(kept.sum())
    return {who: worst for who, worst in found.items() if who == "fastxent" or worst.inputs}


def comparable(case, x, want):
    """Where both are normal numbers of the dtype, so that no library is blamed for the format's ends."""
    info = np.finfo(case.dtype)
    kept = (np.abs(want) >= info.tiny) & (np.abs(want) <= info.max)
    kept &= ((np.abs(x) >= info.tiny) & (np.abs(x) <= info.max)) | (x == 0)
    return kept & case.peers_on(x) if case.peers_on else kept


def written(x):
    """A float with every digit: hexadecimal."""
    return float(x).hex()


def read(text, dtype):
    """What `written` wrote, as an array of one."""
    return np.array([float.fromhex(text)], dtype)


def pieces(case, n, whole):
    """What a sweep is cut into: ("every", from, to) or ("sample", how many, seed)."""
    way, total = ("every", size_of(case)) if whole else ("sample", n)
    cuts = [(start, min(start + PIECES[way], total)) for start in range(0, total, PIECES[way])]
    return [(way, *cut) if whole else (way, cut[1] - cut[0], i) for i, cut in enumerate(cuts)]


def run(case, piece, libraries):
    """{who: Worst} of one piece; the first of a sample has the special numbers too."""
    way, first, second = piece
    if way == "every":
        blocks = every(case, first, second)
        extra = [specials(case)] if first == 0 and case.special else []
    else:
        blocks, extra = sample(case, first, second), [specials(case)] if second == 0 else []
    return compare(case, itertools.chain(extra, blocks), libraries, PEERS[way])


def recheck(case, worst, function=None):
    """The errors at the worst inputs once more, against mpmath: {kind: (error, input)}."""
    function = function or case.ours
    found = {}
    for kind, at in (("ulp", worst.ulp_at), ("relative", worst.relative_at)):
        x = read(at, case.dtype)
        with np.errstate(all="ignore"):
            pair = exact_errors(float(function(x)[0]), case.exact(float(x[0])), case.limits)
        found[kind] = (pair[kind == "relative"], at)
    return found


def oracle_error(case, blocks, n):
    """The wide oracle's own largest error in ulp of the case's dtype, over the first n numbers of each block."""
    worst = 0.0
    for x in blocks:
        with np.errstate(all="ignore"):
            want = case.wide(x[:n])
        for value, wide in zip(x[:n], want):
            exact = case.exact(float(value))
            high = float(wide)
            if not math.isfinite(high) or high == 0:
                continue
            got = type(exact)(high) + type(exact)(float(wide - wide.dtype.type(high)))
            scale = float(binade(np.array([max(abs(high), case.limits.least)]))[0]) * case.limits.epsilon
            worst = max(worst, float(abs(got - exact) / scale))
    return worst
