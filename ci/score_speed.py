"""Print how many times as long a score card takes as the loss alone: python ci/score_speed.py [ROUNDS]

The two take turns in one process, and the best time of each counts.
"""

import sys
import time

import numpy as np

import fastxent

SIZES = (2_000_000, 10), (100_000, 1000)


def times_s(n_rows: int, n_classes: int, rounds: int) -> tuple[float, float]:
    """The best times (seconds) of the loss and of the score card of float32 logits and labels, with default options."""
    rng = np.random.default_rng(0)
    logits, target = 3 * rng.standard_normal((n_rows, n_classes), np.float32), rng.integers(0, n_classes, n_rows)
    works, best = (fastxent.cross_entropy, fastxent.score), [np.inf, np.inf]
    for turn in range(rounds + 1):
        for k, work in enumerate(works):
            before = time.perf_counter()
            work(logits, target)
            if turn > 0:  # before, code is loaded or compiled
                best[k] = min(best[k], time.perf_counter() - before)
    return best[0], best[1]


if __name__ == "__main__":
    for n_rows, n_classes in SIZES:
        loss_s, card_s = times_s(n_rows, n_classes, rounds=int(sys.argv[1]) if len(sys.argv) > 1 else 60)
        print(
            f"{n_rows:,} x {n_classes}: loss {loss_s * 1e3:.2f} ms, score card {card_s * 1e3:.2f} ms, "
            f"{card_s / loss_s:.2f} times the loss"
        )
