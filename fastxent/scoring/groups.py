"""Score cards of groups of rows: which group a row belongs to, and the exact state of every group.

A group's state is that of its rows alone, as `State` has it, packed to the words that are not 0 (see group_rows.py).
The whole is what the groups' states add up to.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastxent.checks import Batch
from fastxent.kernels import group_rows as kernels
from fastxent.kernels.blocks import N_INTEGERS
from fastxent.scoring.packed import SHARDS, Layout, Shard
from fastxent.scoring.rows import NO_LABELS, SLICE_BYTES, refusal, score_call
from fastxent.scoring.state import Options, State
from fastxent.threads import current_threads

PENDING_ROWS = 1 << 20  # records that are taken up together, group by group: 64 MB
DIRECT_ROWS = 1 << 17  # so many rows of one call are taken up at once, without records
DIRECT_BYTES = 1 << 23  # of predictions, which the last cache then holds while groups take their rows
FEW_ROWS = 1024  # of a group are not worth the tally's unpacking, if more can be had at once
MOST_GROUPS = 100_000
TOO_MANY = f"by: more than {MOST_GROUPS:,} different values; a group needs many rows"

Value = int | str  # what names a group

_NO_REALS = np.empty(0)
_FROM_RECORDS = (
    (0, _NO_REALS, np.zeros(N_INTEGERS, np.int64), _NO_REALS, 8),
    (NO_LABELS, _NO_REALS, NO_LABELS, 0, False),
)
_NO_RECORDS = np.empty((0, kernels.RECORD), np.int64)


class Groups:
    """Groups of rows by name, each with its own exact state.

    Attributes
    ----------
    values : dict of int or str to int
        The number of each group, by its name.
    """

    def __init__(self, options: Options, n_classes: int, hard: bool, weighted: bool = False) -> None:
        self.values: dict[Value, int] = {}
        self.layout = Layout(options, n_classes, hard, weighted)
        self._shards: list[Shard | None] = [None] * SHARDS
        self._records, self._codes_pending = np.empty((0, kernels.RECORD), np.int64), np.empty(0, np.int64)
        self._pending = 0

    def add(
        self,
        batch: Batch,
        names: np.ndarray | None,
        first: int,
        by: np.ndarray,
        pause: Callable[[], None] = lambda: None,
    ) -> "Groups":
        """The groups with a batch's rows added; what fails halfway leaves them as they were. See `add_batch`."""
        if batch.sample_weight is not None and not self.layout.state.weighted:
            return self._weighed().add(batch, names, first, by, pause)
        if self._pending + batch.predictions.n_rows > PENDING_ROWS:
            self.flush()
        before, known = self._pending, self.values
        marks = [(shard, shard.mark()) for shard in map(self._shard, range(SHARDS))]
        self.values = dict(known)
        try:
            self._add(batch, names, first, by, pause)
        except BaseException:
            for shard, mark in marks:
                shard.restore(mark)
            self._pending, self.values = before, known
            raise
        return self

    def _add(self, batch: Batch, names: Any, first: int, by: np.ndarray, pause: Callable[[], None]) -> None:
        options, threads = self.layout.state.options, current_threads()
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for start, stop, part, t, s in batch.slices(self._slice_rows(batch, by)):
                pause()
                n = stop - start
                cuts = [start + n * k // threads for k in range(threads + 1)]
                pieces = list(pool.map(lambda low, high: numbered(by[low:high]), cuts, cuts[1:]))
                codes = [self._codes(by[low + firsts]) for low, (_, firsts, _) in zip(cuts, pieces)]
                call, labels = score_call(options, batch, part, t), t if batch.is_hard else NO_LABELS
                ids = NO_LABELS if names is None else names[start:stop]
                given = labels, s, ids, first + start, options.invalid == "raise"
                if n >= DIRECT_ROWS and batch.is_hard and part.strides[2] == part.itemsize:
                    source = *call.source(), part.itemsize
                    done = self._add_in_order(pool, pieces, codes, source, given, _NO_RECORDS)
                else:
                    numbers = np.concatenate([code[piece[0]] for code, piece in zip(codes, pieces)])
                    done = self._note(pool, numbers, n, call, given)
                if not done:
                    raise refusal(batch, call, start, n)

    def _slice_rows(self, batch: Batch, by: np.ndarray) -> int:
        """How many rows to take up at a time: in the cache, but many of each group."""
        z = batch.predictions
        groups = max(len(self.values), len(set(by[:4096].tolist())))
        rows = max(DIRECT_BYTES // (z.dtype.itemsize * z.n_classes), FEW_ROWS * groups, DIRECT_ROWS)
        return max(1, min(rows, PENDING_ROWS, SLICE_BYTES // (8 * z.n_classes)))

    def _codes(self, names: np.ndarray) -> np.ndarray:
        """The numbers of groups by their names, new ones among them."""
        codes = [self.values.setdefault(name, len(self.values)) for name in names.tolist()]
        if len(self.values) > MOST_GROUPS:
            raise ValueError(TOO_MANY)
        return np.array(codes, np.int64)

    def _note(self, pool: Any, codes: np.ndarray, n: int, call: Any, given: Any) -> bool:
        """Write rows' records, to be added later; False where one is refused."""
        if self._pending + n > PENDING_ROWS:  # rows of a batch that is larger
            self.flush()
        at, threads = self._pending, current_threads()
        self._reserve(at + n)
        cuts, reports = [n * k // threads for k in range(threads + 1)], np.zeros((threads, 2), np.int64)
        work = [
            pool.submit(kernels.note_records, *call.source(), *given, *cut, self._records[at:], report)
            for *cut, report in zip(cuts, cuts[1:], reports)
        ]
        for one in work:
            one.result()
        self._codes_pending[at : at + n] = codes
        self._pending += n
        return not reports[:, 1].any()

    def _reserve(self, n: int) -> None:
        """Make room for n pending rows."""
        old, used = self._codes_pending, self._pending
        if n > old.size:
            size = max(n, min(2 * n, PENDING_ROWS))
            records, codes = np.empty((size, kernels.RECORD), np.int64), np.empty(size, np.int64)
            records[:used], codes[:used] = self._records[:used], old[:used]
            self._records, self._codes_pending = records, codes

    def flush(self) -> None:
        """Add pending rows to their groups."""
        n, self._pending = self._pending, 0
        if n:
            codes = self._codes_pending[:n]
            numbers = np.arange(len(self.values))
            piece = codes, numbers, np.bincount(codes, minlength=numbers.size)
            with ThreadPoolExecutor(max(1, min(current_threads(), SHARDS))) as pool:
                self._add_in_order(pool, [piece], [numbers], *_FROM_RECORDS, self._records)

    def _add_in_order(
        self, pool: Any, pieces: list[Any], codes: list[np.ndarray], source: Any, given: Any, records: np.ndarray
    ) -> bool:
        """Add rows group by group, given in pieces by numbers that `codes` translates; False where one is refused."""
        rows = np.zeros((len(pieces), len(self.values)), np.int64)  # how many a piece has of each group
        for line, code, (_, _, counts) in zip(rows, codes, pieces):
            line[code] = counts
        starts = np.append(0, np.cumsum(rows.sum(0)))
        places = starts[:-1] + np.cumsum(rows, 0) - rows
        order, at, work = np.empty(int(starts[-1]), np.int64), 0, []
        for line, code, (numbers, _, _) in zip(places, codes, pieces):
            work.append(pool.submit(kernels.place_by_group, numbers, at, line[code], order))
            at += numbers.size
        for one in work:
            one.result()
        shards = [self._shard(k) for k in range(SHARDS)]
        work = [pool.submit(s.add, source, given, records, order, starts, k) for k, s in enumerate(shards)]
        return all([one.result() for one in work])  # noqa: C419 (none may be at work after a refusal)

    def merge(self, other: "Groups") -> "Groups":
        """The groups with another one's rows added; `other` stays as it is, in its figures."""
        if len(self.values.keys() | other.values.keys()) > MOST_GROUPS:
            raise ValueError(TOO_MANY)
        if other.layout.state.weighted and not self.layout.state.weighted:
            return self._weighed().merge(other)
        if self.layout.state.weighted and not other.layout.state.weighted:
            other = other._copy()._weighed()
        self.flush()
        for value, places, values in other.packed():
            code = self.values.setdefault(value, len(self.values))
            self._shard(code % SHARDS).merge(code, places, values)
        return self

    def packed(self) -> Iterator[tuple[Value, np.ndarray, np.ndarray]]:
        """Every group's name, places and values."""
        self.flush()
        for value, code in self.values.items():
            yield value, *self._shard(code % SHARDS).packed(code)

    @property
    def hard(self) -> bool:
        """Whether the targets are class indices."""
        return self.layout.state.hard

    def twin(self, weighted: bool | None = None) -> "Groups":
        """No groups yet, for the same kind of rows."""
        model = self.layout.state
        return Groups(model.options, model.n_classes, model.hard, model.weighted if weighted is None else weighted)

    def to_bytes(self, more: dict[str, Any]) -> bytes:
        """As `State.to_bytes`: an empty state, with every group's packed words beside it."""
        packed = list(self.packed())
        places, values = (np.concatenate([part[k] for part in packed] or [NO_LABELS]) for k in (1, 2))
        sizes = np.array([part[1].size for part in packed], np.int64)
        names = {"groups": [part[0] for part in packed]}
        return self.layout.state.to_bytes(more | names, sizes=sizes, places=places, values=values)

    @classmethod
    def from_arrays(
        cls, state: State, names: list[Value], sizes: np.ndarray, places: np.ndarray, values: np.ndarray
    ) -> "Groups":
        """What `to_bytes` wrote. ValueError where the kernels could not have made it."""
        groups = cls(state.options, state.n_classes, state.hard, state.weighted)
        groups.layout.refuse_odd(places, values)
        known = all(isinstance(name, (int, str)) for name in names) and len(set(names)) == len(names) == sizes.size
        if not known or (sizes < 0).any() or not sizes.sum() == places.size == values.size:
            raise ValueError("groups' names and sizes do not fit")
        ends = np.cumsum(sizes)
        for name, end, size in zip(names, ends.tolist(), sizes.tolist()):
            groups._put(name, places[end - size : end], values[end - size : end])
        return groups

    def _put(self, value: Value, places: np.ndarray, values: np.ndarray) -> None:
        """Add a group that is not there."""
        code = self.values.setdefault(value, len(self.values))
        self._shard(code % SHARDS).store(code, places, values)

    def total(self) -> State:
        """What all groups add up to."""
        state = self.layout.state.twin()
        self.flush()
        for code in self.values.values():
            self._shard(code % SHARDS).add_to(state, code)
        return state

    def _weighed(self) -> "Groups":
        """The same groups, in which rows have weights of 1.0."""
        groups = self.twin(weighted=True)
        for value, places, values in self.packed():
            state = self.layout.unpacked(places, values)
            state.weigh()
            groups._put(value, *groups.layout.packed(state))
        return groups

    def _copy(self) -> "Groups":
        groups = self.twin()
        for packed in self.packed():
            groups._put(*packed)
        return groups

    def _shard(self, k: int) -> "Shard":
        shard = self._shards[k]
        if shard is None:
            shard = self._shards[k] = Shard(self.layout)
        return shard


def numbered(by: np.ndarray, most: int = MOST_GROUPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's number by its name, in order of appearance; each number's first row, and how many rows it has."""
    words = by.reshape(-1, 1) if by.dtype.kind == "i" else _text_words(by)
    codes, m = np.empty(by.size, np.int64), 512
    while True:
        firsts, counts = np.empty((2, min(m, most + 1)), np.int64)
        n = int(kernels.number_words(words, codes, firsts, counts, np.full(4 * m, -1, np.int64)))
        if n >= 0:
            return codes, firsts[:n], counts[:n]
        if m > most:
            raise ValueError(TOO_MANY)
        m *= 16


def _text_words(by: np.ndarray) -> np.ndarray:
    """Strings as rows of words."""
    n_words = max((by.dtype.itemsize + 7) // 8, 1)
    return np.ascontiguousarray(by, f"U{2 * n_words}").view(np.int64).reshape(by.size, n_words)


def as_groups(by: Any, shape: tuple[int, ...], name: str = "by") -> np.ndarray:
    """Names of groups: flat, contiguous, int64 or fixed-width strings."""
    array = by if isinstance(by, np.ndarray) else np.asarray(by)
    if array.dtype.kind == "O":
        missing = [i for i, value in enumerate(array.ravel().tolist()) if not isinstance(value, str)]
        if missing:
            value = array.ravel()[missing[0]]
            raise TypeError(f"{name}: row {missing[0]} is {value!r:.60}; need integers or strings")
        array = np.array(array.tolist(), dtype=np.str_).reshape(array.shape)
    if array.dtype.kind not in "biuU":
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; need integers or strings")
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}; need one a row, shape {shape}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > 2**63 - 1:
        raise ValueError(f"{name}: {array.max()} does not fit in 64 bits with a sign")
    kind = array.dtype if array.dtype.kind == "U" else np.int64
    return np.ascontiguousarray(array, kind).reshape(-1)
