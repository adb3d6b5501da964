"""A score card under any order of updates, merges, saving, loading and pickling is the card of its rows, bit for bit.

Hypothesis chooses what is done; a model keeps no more than which rows each card has.
"""

import copy
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, precondition, rule

import fastxent

N, C = 400, 5
FEW = 12  # cards at most


def pool(seed):
    """Rows with every kind of loss: NLL from 1e-300 to thousands, masked classes, invalid and ignored rows."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((N, C)) * np.exp(rng.uniform(-2, 6, (N, 1)))
    z[rng.random(N) < 0.1, 0] = -np.inf
    z[rng.random(N) < 0.05, 1] = np.nan
    y = rng.integers(0, C, N)
    y[rng.random(N) < 0.1] = -1
    return z, y, rng.lognormal(size=N) * 10.0 ** rng.integers(-20, 20, N)


def figures(card):
    return json.dumps(card.result().to_dict(), sort_keys=True)


class Scorers(RuleBasedStateMachine):
    """Cards with the positions of their rows, each position in one card at most, so that any two merge."""

    cards = Bundle("cards")

    @initialize(seed=st.integers(0, 7), weighted=st.booleans(), bootstrap=st.sampled_from([0, 3]))
    def begin(self, seed, weighted, bootstrap):
        self.z, self.y, weights = pool(seed)
        self.weights = weights if weighted else None
        self.options = {"ignore_index": -1, "invalid": "count", "worst": 7, "bins": 4, "bootstrap": bootstrap}
        self.next = 0
        self.folder = tempfile.TemporaryDirectory()

    def add(self, card, start, stop, **more):
        rows = slice(start, stop)
        weights = None if self.weights is None else self.weights[rows]
        card.update(self.z[rows], self.y[rows], start=start, sample_weight=weights, **more)

    def whole(self, positions):
        """The card of these rows, from one update for each run of them."""
        card = fastxent.Scorer(**self.options)
        positions = np.sort(positions)
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            if len(run):
                self.add(card, int(run[0]), int(run[-1]) + 1)
        return card

    @rule(target=cards)
    def new(self):
        return fastxent.Scorer(**self.options), []

    @rule(card=cards, n=st.integers(0, 60))
    def update(self, card, n):
        scorer, positions = card
        stop = min(self.next + n, N)
        self.add(scorer, self.next, stop)
        positions.extend(range(self.next, stop))
        self.next = stop

    @rule(card=cards, bad=st.sampled_from(["label", "shape", "covered"]))
    def refused_update(self, card, bad):
        scorer, positions = card
        z, y = self.z[:3].copy(), np.array([0, 1, C if bad == "label" else 0])
        start = positions[0] if bad == "covered" and positions else N
        if bad == "covered" and not positions:
            return
        with pytest.raises(ValueError):
            scorer.update(z[:, :-1] if bad == "shape" and positions else z, y if bad != "shape" else y[:2], start=start)

    @rule(target=cards, one=consumes(cards), other=consumes(cards))
    def merge(self, one, other):
        assert one[0].merge(other[0]) is one[0]
        return one[0], one[1] + other[1]

    @rule(one=cards, other=cards)
    def refused_merge(self, one, other):
        if one[0] is other[0]:
            with pytest.raises(ValueError, match="itself"):
                one[0].merge(other[0])
        twin = copy.deepcopy(one[0])
        if one[1]:
            with pytest.raises(ValueError, match="other"):
                one[0].merge(twin)

    @rule(target=cards, card=consumes(cards), way=st.sampled_from(["saved", "pickled", "copied"]))
    def carry(self, card, way):
        scorer, positions = card
        if way == "saved":
            path = Path(self.folder.name) / "card.state"
            scorer.save(path)
            return fastxent.Scorer.load(path), positions
        return (pickle.loads(pickle.dumps(scorer)) if way == "pickled" else copy.deepcopy(scorer)), positions

    @precondition(lambda self: self.next)
    @rule(card=cards)
    def result(self, card):
        scorer, positions = card
        if positions:
            assert figures(scorer) == figures(self.whole(positions))
            assert sum(last - first for first, last in scorer.rows) == len(positions)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestScorers = pytest.mark.filterwarnings("ignore::RuntimeWarning")(Scorers.TestCase)
