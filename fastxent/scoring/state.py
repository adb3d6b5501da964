"""A score card's state: what its options are, what its rows add up to, and the file that keeps both.

The figures are made from it in score_result.py. Every part of it merges exactly and in any order.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.kernels import scorecard as card
from fastxent.kernels.exactsum import COMPACT_SIZE, STATE_SIZE, exact_sum_add_block, exact_sum_merge
from fastxent.kernels.groups import weigh_counts
from fastxent.kernels.pairs import compact_pairs
from fastxent.options import as_whole
from fastxent.scoring.replicates import Replicates

# Raised whenever the same rows could give other bits than before: the kernels' arithmetic, or the card's boundaries.
ARITHMETIC = 5

_MAGIC = b"fastxent score state 2\n"
_STORED = {code: np.dtype(code) for code in ("<i8", "<u8", "<f8")}
_SPILL_ROOM = 64
_PAIR_ROOM = 1 << 14
_MANY_PAIRS = 1 << 18  # a list so long is sorted, to see whether it needs to grow


@dataclasses.dataclass(frozen=True)
class Options:
    """What a score card is asked for: parts merge only where all of it agrees. See `fastxent.score`."""

    kind: str
    ignore_index: int | None
    eps: float
    normalize: bool
    sum_tol: float
    temperature: float
    top_k: tuple[int, ...]
    bins: int
    worst: int
    invalid: str
    bootstrap: int = 0
    seed: int = 0

    @classmethod
    def checked(cls, *, top_k: Any, invalid: Any, **given: Any) -> "Options":
        """Options of any origin. ValueError or TypeError where one is not what it can be."""
        options = cls(top_k=top_k, invalid=invalid, **given)
        checks.as_kind(options.kind)
        has_ignore, index = checks.as_ignore_index(options.ignore_index)
        eps, normalize, sum_tol = checks.as_log_loss_options(options.eps, options.normalize, options.sum_tol)
        top_k = tuple(top_k) if isinstance(top_k, (tuple, list)) else (top_k,)
        if invalid not in ("raise", "count"):
            raise ValueError(f"invalid: {invalid!r} is not one of 'raise', 'count'")
        return cls(
            kind=options.kind,
            ignore_index=index if has_ignore else None,
            eps=eps,
            normalize=normalize,
            sum_tol=sum_tol,
            temperature=checks.as_temperature(options.temperature),
            top_k=tuple(sorted({as_whole(k, "top_k", 1) for k in top_k})),
            bins=as_whole(options.bins, "bins", 1, 10_000),
            worst=as_whole(options.worst, "worst", 0, 1_000_000),
            invalid=invalid,
            bootstrap=as_whole(options.bootstrap, "bootstrap", 0, 1_000_000),
            seed=as_whole(options.seed, "seed", 0, 2**64 - 1),
        )


class State:
    """The options, a tally of the kernels, and the rows that it covers.

    Attributes
    ----------
    options : Options
    n_classes : int
    hard : bool
        Whether the targets are class indices.
    weighted : bool
        Whether rows came with weights: the tally then sums weights too, 1.0 for a row that came without.
    tally : Tally
    replicates : Replicates or None
        The bootstrap's sums.
    """

    def __init__(self, options: Options, n_classes: int, hard: bool, weighted: bool = False) -> None:
        self.options, self.n_classes, self.hard, self.weighted = options, n_classes, hard, weighted
        self.tops = np.array(options.top_k, np.int64)
        self.edges = np.arange(options.bins + 1) / options.bins
        self.tally = self._empty_tally()
        top_k, bins = (options.top_k, options.bins) if hard else ((), 1)
        known = options.bootstrap and n_classes
        self.replicates = Replicates(options.bootstrap, options.seed, top_k, bins, weighted) if known else None

    def _empty_tally(self) -> card.Tally:
        c, bins, worst = (self.n_classes if self.hard else 0), self.options.bins, self.options.worst
        dense = c * c <= card.DENSE_PAIRS
        groups = card.n_groups(c, bins, self.tops.size, self.weighted)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        return card.Tally(
            counts=zeros(card.N_COUNTS),
            sums=zeros(card.N_SUMS, STATE_SIZE),
            class_rows=zeros(c, 3),
            bin_rows=zeros(bins, 2),
            rank_rows=zeros(min(int(self.tops.max(initial=0)), c) + 1),
            nll_rows=zeros(card.N_NLL),
            score_rows=zeros(2, card.N_SCORES if c == 2 else 0),
            pair_keys=zeros(0 if dense else _PAIR_ROOM),
            pair_rows=zeros(c * c if dense else _PAIR_ROOM),
            slots=zeros(groups, COMPACT_SIZE),
            spill_index=zeros(groups),
            spill=zeros(_SPILL_ROOM, STATE_SIZE),
            worst_nll=np.zeros(worst),
            worst_id=zeros(worst),
            worst_label=zeros(worst),
        )

    def twin(self, weighted: bool | None = None) -> "State":
        """An empty state for the same kind of rows."""
        return State(self.options, self.n_classes, self.hard, self.weighted if weighted is None else weighted)

    def is_empty(self) -> bool:
        """Whether it covers no row, of any kind."""
        return not self.tally.counts.any()

    def add(
        self,
        source: tuple[Any, ...],
        labels: np.ndarray,
        weights: np.ndarray,
        ids: np.ndarray,
        first_id: int,
        start: int,
        stop: int,
    ) -> bool:
        """Add rows start .. stop - 1 of a source (see `accumulate_chunk`), and make room as they need it.

        Returns False where a row is refused.
        """
        if weights.size:
            self.weigh()
        elif self.weighted:
            weights = np.ones(stop)
        given = *source, labels, weights, ids, first_id, self.tops, self.options.invalid == "raise"
        report = np.zeros(2, np.int64)
        while True:
            start = card.accumulate_chunk(*given, start, stop, self.tally, report)
            if report[1]:
                return False
            if start >= stop:
                return True
            self._grow(*card.room(self.weighted, self.tops.size, self.tally.spill_index.size))

    def merge(self, other: "State") -> "State":
        """The state with another one's rows added; `other` stays as it is, in its figures."""
        if other.weighted:
            self.weigh()
        elif self.weighted:
            copy = State(other.options, other.n_classes, other.hard)
            copy.merge(other)
            copy.weigh()
            other = copy
        self.absorb(other.tally)
        if self.replicates is not None and other.replicates is not None:
            self.replicates.merge(other.replicates)
        return self

    def absorb(self, tally: card.Tally) -> None:
        """Add a tally of the same layout."""
        self._grow(int(tally.counts[card.PAIRS_USED]), int(tally.counts[card.SPILL_USED]))
        card.merge_tally(self.tally, tally)

    def weigh(self) -> None:
        """Turn counts of rows into sums of weights of 1.0: from here on rows have weights."""
        if self.weighted:
            return
        self.weighted = True
        if self.replicates is not None:
            self.replicates.weigh()
        old = self.tally
        counts, slots, c, bins = old.counts, old.slots, old.class_rows.shape[0], self.options.bins
        n = float(counts[card.KEPT])
        for into, x in ((card.S, n), (card.SS_HIGH, n), (card.HITS, float(old.bin_rows[:, 1].sum()))):
            exact_sum_add_block(old.sums[into], np.array([x]), 1)
        exact_sum_merge(old.sums[card.SR_HIGH], old.sums[card.R])
        groups = card.n_groups(c, bins, self.tops.size, weighted=True)
        more = np.zeros((groups, COMPACT_SIZE), np.int64)
        more[: slots.shape[0]] = slots
        index = np.zeros(groups, np.int64)
        index[: slots.shape[0]] = old.spill_index
        if c:
            in_bin = [old.bin_rows.sum(1), old.bin_rows[:, 1]]
            rows = [*self.class_counts(), *in_bin, self.top_counts(), old.score_rows.ravel()]
            weigh_counts(more, slots.shape[0], np.concatenate(rows))
        self.tally = old._replace(slots=more, spill_index=index)

    def class_counts(self) -> np.ndarray:
        """For each class, rows with this label, those predicted right, rows predicted as it: int64[3, C]."""
        tally = self.tally
        if tally.pair_keys.size:
            return tally.class_rows.T
        pairs = tally.pair_rows.reshape(tally.class_rows.shape[0], -1)
        return np.stack([pairs.sum(1), pairs.diagonal(), pairs.sum(0)])

    def top_counts(self) -> np.ndarray:
        """For each k of top_k, the rows whose label's rank is below k: int64[K]."""
        below = np.cumsum(self.tally.rank_rows)
        return below[np.minimum(self.tops, below.size) - 1]

    def _grow(self, pairs: int, spilled: int) -> None:
        """Make room for so many more pairs and spilled groups."""
        tally = self.tally
        used, size = int(tally.counts[card.PAIRS_USED]), tally.pair_keys.size
        if size and used + pairs > size:
            if used >= _MANY_PAIRS:
                compact_pairs(tally.counts, tally.pair_keys, tally.pair_rows, self.n_classes)
                used = int(tally.counts[card.PAIRS_USED])
            if 2 * (used + pairs) > size:  # so that it is not full again soon
                more = np.empty((2, 4 * (used + pairs)), np.int64)
                more[:, :used] = tally.pair_keys[:used], tally.pair_rows[:used]
                tally = tally._replace(pair_keys=more[0], pair_rows=more[1])
        size, need = tally.spill.shape[0], int(tally.counts[card.SPILL_USED]) + spilled
        if need > size:
            spill = np.zeros((max(need, 2 * size), STATE_SIZE), np.int64)
            spill[:size] = tally.spill
            tally = tally._replace(spill=spill)
        self.tally = tally

    # The file: magic, the header's length, the header (JSON), the arrays' bytes (deflated), SHA-256 of all that.

    def to_bytes(self, more: dict[str, Any], **extra: np.ndarray) -> bytes:
        """The state and whatever JSON-able facts and int64 arrays go with it, in a self-describing form."""
        tally = self.tally
        if tally.pair_keys.size:
            compact_pairs(tally.counts, tally.pair_keys, tally.pair_rows, self.n_classes)
            used = max(int(tally.counts[card.PAIRS_USED]), 1)  # none at all would look dense
            tally = tally._replace(pair_keys=tally.pair_keys[:used], pair_rows=tally.pair_rows[:used])
        tally = tally._replace(spill=tally.spill[: tally.counts[card.SPILL_USED]])
        kept = {} if self.replicates is None else self.replicates.arrays()
        named = {**tally._asdict(), **kept, **extra}
        arrays = {name: a.astype(a.dtype.newbyteorder("<")) for name, a in named.items()}
        header = {
            **more,
            "arithmetic": ARITHMETIC,
            "options": dataclasses.asdict(self.options),
            "n_classes": self.n_classes,
            "hard": self.hard,
            "weighted": self.weighted,
            "arrays": {name: [a.dtype.str, a.shape] for name, a in arrays.items()},
        }
        head = json.dumps(header).encode()
        body = zlib.compress(b"".join(a.tobytes() for a in arrays.values()), 1)
        content = _MAGIC + len(head).to_bytes(8, "little") + head + body
        return content + hashlib.sha256(content).digest()


def read_state(content: bytes, name: str) -> tuple[State, dict[str, Any], dict[str, np.ndarray]]:
    """What `State.to_bytes` wrote: the state, its header, extra arrays. ValueError where it is anything else."""
    line, whole, _ = content[:64].partition(b"\n")
    if not line.startswith(_MAGIC[:20]):
        raise ValueError(f"{name}: not a fastxent score state")
    if whole and line != _MAGIC[:-1]:
        raise ValueError(f"{name}: a score state of another format; this fastxent reads format 2")
    if len(content) < len(_MAGIC) + 40 or hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise ValueError(f"{name}: the score state is damaged or cut short")
    at = len(_MAGIC) + 8
    end = at + int.from_bytes(content[at - 8 : at], "little")
    try:
        header = json.loads(content[at:end])
        arithmetic = header["arithmetic"]
        if arithmetic == ARITHMETIC:
            state, extra = _rebuilt(header, content[end:-32])
            return state, header, extra
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, zlib.error) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{name}: the score state contradicts itself ({said})") from None
    raise ValueError(
        f"{name}: made with arithmetic version {arithmetic}, but this fastxent has {ARITHMETIC}; "
        "bits may differ: score the rows again"
    )


def _rebuilt(header: dict[str, Any], deflated: bytes) -> tuple[State, dict[str, np.ndarray]]:
    """The state from a file's header and the deflated bytes of its arrays, and the arrays that are not its own."""
    n_bytes = sum(8 * math.prod(shape) for _, shape in header["arrays"].values())
    hard, weighted = (checks.as_flag(header[name], name) for name in ("hard", "weighted"))
    n_classes = as_whole(header["n_classes"], "n_classes", 0, n_bytes)  # each has some bytes of its own
    state = State(Options.checked(**header["options"]), n_classes, hard, weighted)
    body = zlib.decompressobj().decompress(deflated, n_bytes + 1)  # never more than the header speaks of
    if len(body) != n_bytes:
        raise ValueError("the arrays have another size than the header says")
    position, arrays = 0, {}
    for key, (dtype, shape) in header["arrays"].items():
        flat = np.frombuffer(body, _STORED[dtype], math.prod(shape), position)
        position += flat.nbytes
        arrays[key] = flat.reshape(shape).astype(flat.dtype.newbyteorder("="))
    tally = card.Tally(**{name: arrays.pop(name) for name in card.Tally._fields})
    _refuse_odd(tally, state.tally)
    state.tally = tally
    if state.replicates is not None:
        state.replicates.take(arrays)
    return state, arrays


def _refuse_odd(tally: card.Tally, expected: card.Tally) -> None:
    """The kernels index by what a state holds: refuse one that they could not have made."""
    for key, array in expected._asdict().items():
        found, grows = getattr(tally, key), key in ("pair_keys", "pair_rows", "spill")
        if found.dtype != array.dtype or found.ndim != array.ndim or found.shape[grows:] != array.shape[grows:]:
            raise ValueError(f"{key} has shape {found.shape}, not {array.shape}")
    counts, keys, n_classes = tally.counts, tally.pair_keys, tally.class_rows.shape[0]
    sound = (
        (counts >= 0).all()
        and counts[card.WORST_USED] <= tally.worst_nll.size
        and counts[card.SPILL_USED] <= tally.spill.shape[0]
        and ((tally.spill_index >= 0) & (tally.spill_index <= counts[card.SPILL_USED])).all()
        and (keys.size == 0) == (expected.pair_keys.size == 0)
        and tally.pair_rows.size == (keys.size or expected.pair_rows.size)
        and counts[card.PAIRS_USED] <= keys.size
        and ((keys >= 0) & (keys < max(n_classes, 1) ** 2)).all()
    )
    if not sound:
        raise ValueError("counts and indices out of bounds")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write aside, flush to the disk, move into place: a reader finds the old file or the new one, whole."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # by the name that the caller knows
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
