"""The states of groups of rows, packed: where a tally's arrays lie in one array of words, and what holds many of them.

See kernels/group_rows.py.
"""

import math
from typing import Any

import numpy as np

from fastxent.kernels import group_rows as kernels
from fastxent.kernels import scorecard as card
from fastxent.kernels.exactsum import COMPACT_SIZE, STATE_SIZE
from fastxent.kernels.groups import BLOCK
from fastxent.scoring.state import Options, State

SHARDS = 4  # of the groups, each on one thread at a time


class Layout:
    """Where a tally's arrays lie in one array of words; spilled sums come last, listed pairs are elsewhere."""

    def __init__(self, options: Options, n_classes: int, hard: bool, weighted: bool) -> None:
        self.state = State(options, n_classes, hard, weighted)
        tally = self.state.tally
        self.listed = tally.pair_keys.size > 0
        shapes = {name: array.shape for name, array in tally._asdict().items() if name not in ("pair_keys", "spill")}
        if self.listed:
            del shapes["pair_rows"]
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.n_fixed = 0
        for name, shape in shapes.items():
            self.places[name] = self.n_fixed, shape
            self.n_fixed += math.prod(shape)
        self.most_spilled = tally.slots.shape[0]
        self.always, self.tracks = self._what_rows_change()

    def _what_rows_change(self) -> tuple[np.ndarray, np.ndarray]:
        """The words that any row may change, as ranges; and those that it does by its label, prediction or score."""
        state, first = self.state, {name: place for name, (place, _) in self.places.items()}
        c, bins, tops = state.tally.class_rows.shape[0], state.options.bins, state.tops.size
        by = [(kernels.BY_LABEL, 0, c)]  # groups of sums: what selects one, the first, how many
        rest = [(c, bins)]
        if state.weighted:
            weights = c + bins
            by += [(kernels.BY_LABEL, weights, c), (kernels.BY_LABEL, weights + c, c)]
            by += [(kernels.BY_PREDICTED, weights + 2 * c, c)]
            rest += [(weights + 3 * c, 2 * bins + tops)]
            if c == 2:
                by += [(kernels.BY_SCORE, weights + 3 * c + 2 * bins + tops, 2 * card.N_SCORES)]
        always, tracks = [], []
        for name, (place, shape) in self.places.items():
            if name not in ("class_rows", "pair_rows", "score_rows", "slots", "spill_index"):
                always.append((place, place + math.prod(shape)))
        if c:
            for start, count in rest:
                always += [
                    (first["slots"] + COMPACT_SIZE * start, first["slots"] + COMPACT_SIZE * (start + count)),
                    (first["spill_index"] + start, first["spill_index"] + start + count),
                ]
            for what, start, _ in by:
                tracks += [
                    (what, first["slots"] + COMPACT_SIZE * start, COMPACT_SIZE),
                    (what, first["spill_index"] + start, 1),
                ]
            if self.listed:
                tracks += [(what, first["class_rows"], 3) for what in (kernels.BY_LABEL, kernels.BY_PREDICTED)]
            else:
                tracks.append((kernels.BY_PAIR, first["pair_rows"], 1))
            if c == 2:
                tracks.append((kernels.BY_SCORE, first["score_rows"], 1))
        return np.array(always, np.int64).reshape(-1, 2), np.array(tracks, np.int64).reshape(-1, 3)

    def tally(self, words: np.ndarray, pairs: np.ndarray) -> card.Tally:
        """Words, and rows of listed pairs' keys and counts, as a tally."""
        arrays = {n: words[p : p + math.prod(shape)].reshape(shape) for n, (p, shape) in self.places.items()}
        arrays["worst_nll"] = arrays["worst_nll"].view(np.float64)
        arrays["spill"] = words[self.n_fixed :].reshape(-1, STATE_SIZE)
        if self.listed:
            arrays["pair_keys"], arrays["pair_rows"] = pairs
        else:
            arrays["pair_keys"] = pairs[0, :0]
        return card.Tally(**arrays)

    def unpacked(self, places: np.ndarray, values: np.ndarray) -> State:
        """One group's state."""
        of_pair = places >= kernels.PAIR_PLACE
        spilled = int(values[places == self.places["counts"][0] + card.SPILL_USED].sum())
        words = np.zeros(self.n_fixed + spilled * STATE_SIZE, np.int64)
        words[places[~of_pair]] = values[~of_pair]
        pairs = np.stack([places[of_pair] - kernels.PAIR_PLACE, values[of_pair]])
        if self.listed and not pairs.size:  # none at all would look dense
            pairs = np.zeros((2, 1), np.int64)
        state = self.state.twin()
        state.tally = self.tally(words, pairs)
        state.tally.counts[card.PAIRS_USED] = int(of_pair.sum())
        return state

    def packed(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """The places and values of one group's state."""
        arrays, counts = state.tally._asdict(), state.tally.counts.copy()
        used, counts[card.PAIRS_USED] = int(counts[card.PAIRS_USED]), 0
        arrays["counts"] = counts
        parts = [arrays[name].view(np.int64).ravel() for name in self.places]
        words = np.concatenate([*parts, state.tally.spill[: counts[card.SPILL_USED]].ravel()])
        places = np.flatnonzero(words)
        values = words[places]
        if self.listed:
            places = np.concatenate([state.tally.pair_keys[:used] + kernels.PAIR_PLACE, places])
            values = np.concatenate([state.tally.pair_rows[:used], values])
        return places, values

    def refuse_odd(self, places: np.ndarray, values: np.ndarray) -> None:
        """The kernels index by what packed words hold: refuse those that they could not have made."""
        fixed = places < kernels.PAIR_PLACE
        keys, n_words = places[~fixed] - kernels.PAIR_PLACE, self.n_fixed + self.most_spilled * STATE_SIZE
        sound = (places[fixed] >= 0).all() and (places[fixed] < n_words).all()
        sound &= (keys < self.state.n_classes**2).all() and (self.listed or not keys.size)
        first = self.places["counts"][0]
        most = {card.SPILL_USED: self.most_spilled, card.WORST_USED: self.state.options.worst, card.PAIRS_USED: 0}
        for k in range(card.N_COUNTS):
            of_count = values[places == first + k]
            sound &= (of_count >= 0).all() and (of_count <= most.get(k, 2**62)).all()
        first = self.places["spill_index"][0]
        index = values[(places >= first) & (places < first + self.most_spilled)]
        sound &= (index >= 0).all() and (index <= self.most_spilled).all()
        if not sound:
            raise ValueError("groups' words out of bounds")


class Shard:
    """Some of the groups: their packed words in one pool, and the words that one of them is unpacked to."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        weighted, tops = layout.state.weighted, layout.state.tops.size
        self._spilled = layout.most_spilled + card.room(weighted, tops, layout.most_spilled)[1]
        self.words = np.zeros(layout.n_fixed + self._spilled * STATE_SIZE, np.int64)  # untouched, it takes no memory
        self._pairs = np.empty((2, 1), np.int64)
        self.tally = layout.tally(self.words, self._pairs)
        self._fresh = self._pool = (np.empty(0, np.int64), np.empty(0, np.int64))
        self._segments = np.zeros((0, 3), np.int64)  # first in the pool, how many, room
        self._used = 0

    def mark(self) -> tuple[Any, ...]:
        """What `restore` goes back to; until then nothing is overwritten in the pool."""
        mark = self._pool, self._segments.copy(), self._used
        self._segments[:, 2] = 0
        return mark

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Forget what was added since."""
        self._pool, self._segments, self._used = mark
        self.words = np.zeros_like(self.words)  # a group may have been amid its rows
        self.tally = self.layout.tally(self.words, self._pairs)

    def add(self, source: Any, given: Any, records: Any, order: np.ndarray, starts: np.ndarray, group: int) -> bool:
        """Add the rows of every SHARDS-th group from ``group`` on. False where one is refused."""
        layout, n_groups = self.layout, starts.size - 1
        self._reserve_segments(n_groups)
        self._reserve_pairs(int(np.diff(starts).max(initial=0)) + 2 * BLOCK)
        state, report = layout.state, np.zeros(2, np.int64)
        while True:
            report[1] = self._used
            group = kernels.add_to_tallies(
                *(
                    source,
                    given,
                    records,
                    order,
                    starts,
                    group,
                    SHARDS,
                    state.hard,
                    state.weighted,
                    state.tops,
                    state.n_classes,
                ),
                *((layout.n_fixed, layout.always, layout.tracks), self.words, self.tally),
                *(self._pool, self._segments, self._fresh, report),
            )
            self._used = int(report[1])
            if not 0 <= group < n_groups:
                return group >= 0
            n = int(report[0])
            self.store(group, self._fresh[0][:n], self._fresh[1][:n])
            group += SHARDS

    def store(self, group: int, places: np.ndarray, values: np.ndarray) -> None:
        """Put a group's packed words into the pool."""
        n = places.size
        self._reserve_segments(group + 1)
        if n > self._segments[group, 2]:
            room = n + n // 8 + 8
            self._segments[group] = 0
            if self._used + room > self._pool[0].size:
                self._rebuild(room)
            self._segments[group], self._used = (self._used, n, room), self._used + room
        first = self._segments[group, 0]
        self._segments[group, 1] = n
        self._pool[0][first : first + n], self._pool[1][first : first + n] = places, values

    def merge(self, group: int, places: np.ndarray, values: np.ndarray) -> None:
        """Add another state of a group."""
        self._reserve_segments(group + 1)
        if not self._segments[group, 1]:
            self.store(group, places, values)
            return
        other = self.layout.unpacked(places, values).tally
        mine = self.packed(group)
        self._reserve_pairs(int(other.counts[card.PAIRS_USED]) + BLOCK)
        kernels.unpack(*mine, self.words, self.tally)
        card.merge_tally(self.tally, other)
        layout = self.layout
        n = kernels.pack_all(self.words, layout.n_fixed, STATE_SIZE, layout.state.n_classes, self.tally, *self._fresh)
        self.store(group, self._fresh[0][:n], self._fresh[1][:n])

    def packed(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """A group's packed words, as views."""
        first, n, _ = self._segments[group].tolist()
        return self._pool[0][first : first + n], self._pool[1][first : first + n]

    def add_to(self, state: State, group: int) -> None:
        """Add a group to a state."""
        places, values = self.packed(group)
        self._reserve_pairs(BLOCK)
        kernels.unpack(places, values, self.words, self.tally)
        state.absorb(self.tally)
        kernels.clear(places, self.words, self.tally)

    def _reserve_segments(self, n_groups: int) -> None:
        if n_groups > len(self._segments):
            more = np.zeros((2 * n_groups, 3), np.int64)
            more[: len(self._segments)] = self._segments
            self._segments = more

    def _reserve_pairs(self, more: int) -> None:
        """Room for so many pairs more than any group has, and for a whole tally's words."""
        layout = self.layout
        need = int(self._segments[:, 1].max(initial=0)) + more if layout.listed else 1
        if need > self._pairs.shape[1]:
            self._pairs = np.empty((2, 2 * need), np.int64)
            self.tally = layout.tally(self.words, self._pairs)
        size = self.words.size + self._pairs.shape[1]
        if size > self._fresh[0].size:
            self._fresh = np.empty(size, np.int64), np.empty(size, np.int64)

    def _rebuild(self, room: int) -> None:
        """Move the pool's words close together, into one that has room for more."""
        first, n, room_now = self._segments.T
        size = 4 * int(n.sum()) + 16 * room
        places, values = np.empty(size, np.int64), np.empty(size, np.int64)
        starts = np.cumsum(n) - n
        at = np.repeat(first - starts, n) + np.arange(int(n.sum()))
        self._used = at.size
        places[: at.size], values[: at.size] = self._pool[0][at], self._pool[1][at]
        self._pool = places, values
        self._segments = np.stack([starts, n, np.minimum(room_now, n)], 1)
