"""Rows of logits that are hard to score: each family aims at one way a kernel goes wrong. No fastxent here."""

from __future__ import annotations

import numpy as np

# One class, odd and even counts, either side of every vector width and tile, and past the blocks of long rows.
FEW_CLASSES = (1, 2, 3, 5, 7, 8, 10, 15, 16, 17, 20, 31, 32, 33, 50, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257)
CLASSES = (*FEW_CLASSES, 1000, 1023, 4099)
TEMPERATURES = (*(2.0**k for k in range(-10, 11)), 0.7, 3.1, 1e-3, 17.3)
LN2 = float(np.log(2.0))


def families(c, dtype, rng):
    """{name: row of c logits of dtype}."""
    info, big = np.finfo(dtype), 1e8
    underflow = 80.0 if dtype == np.float32 else 690.0  # e^-x is still a normal number of the dtype
    u, g, k = rng.random(c), rng.standard_normal(c), np.arange(c)
    spike = np.eye(1, c, rng.integers(c))[0]
    rows = {f"normal, scale {s:g}": g * s for s in (1e-30, 1e-6, 0.01, 1.0, 10.0, 100.0, 1e4, 1e8)}
    rows |= {
        "equal 0": np.zeros(c),
        "equal 0.1": np.full(c, 0.1),
        "equal 1e8": np.full(c, big),
        "equal -1e8": np.full(c, -big),
        "equal -87.3": np.full(c, -87.3),
        "two tied maxima": np.where((k == 0) | (k == c - 1), 3.3, g - 5),
        "ties of three values": rng.integers(0, 3, c) * 1.7,
        "plus or minus 1e8": np.where(u < 0.5, -big, big),
        "1e8 and small": np.where(u < 0.5, g, big + 8 * np.round(g)),
        "near 1e8": big + 8 * np.round(3 * g),
        "1e30": g * 1e30,
        "largest": np.where(u < 0.5, -0.49, 0.49) * float(info.max),
        "denormal": g * float(info.smallest_subnormal) * 100,
        "smallest normal": g * float(info.tiny),
        "negative zero": np.where(u < 0.5, 0.0, -0.0),
        "ascending": np.linspace(-120.0, 130.0, c),
        "descending": np.linspace(130.0, -120.0, c),
        "steep ascending": k * 70.0,
        "steep descending": k * -70.0,
        "ascending by 0.01": k * 0.01 - 300,
        "low first": np.where(k < 16, -1e4, g),
        "low then just in headroom": np.where(k < 1, 0.0, 87.0 + 0.1 * u),
        "high first": np.where(k < 16, 1e4, g),
        "low first, far above last": np.where(k == 0, -512.0, np.where(k == c - 1, 500.0, g)),
        "last is the maximum": np.where(k == c - 1, 60.0, g),
        "half multiples of ln 2": (rng.integers(-60, 60, c) + 0.5) * LN2,
        "multiples of ln 2": rng.integers(-60, 60, c) * LN2,
        "edge of underflow": -underflow - 30 * u,
        "wide": (u - 0.5) * 2 * underflow,
        "moderate edge": (u - 0.5) * 4000,
        "thousands": 8000 + g,
        "tens of thousands": -60000 + 5 * g,
        "one probability near a half": np.log(np.where(spike > 0, 0.5, np.maximum(0.5 / max(c - 1, 1), 1e-300))),
    }
    for level in (
        1.0,
        5.0,
        17.0,
        40.0,
        underflow,
        1.05 * underflow,
        2000.0,
    ):  # NLL near e^-level
        rows[f"confident by {level:g}"] = g - np.abs(g).max() + level * spike
        rows[f"confident by {level:g} around 37"] = 37.7 + g * 0.01 + level * spike
    for level in (92.1, 690.8):  # NLL near 1e-40 and 1e-300, whatever the dtype
        rows[f"NLL of e^-{level:g}"] = u * 1e-3 - level * (1 - spike)
        rows[f"NLL of e^-{level:g}, high up"] = 100 + g - (level + 3) * (1 - spike)
    with np.errstate(over="ignore"):
        rows = {name: np.clip(row, -info.max, info.max).astype(dtype) for name, row in rows.items()}
    masked = -np.inf
    rows |= {
        "masked at random": np.where(u < 0.4, masked, g).astype(dtype),
        "masked but one": np.where(spike > 0, g, masked).astype(dtype),
        "masked but two": np.where((k == 0) | (k == c - 1), g, masked).astype(dtype),
        "masked first block": np.where(k < min(64, c - 1), masked, 30 * g).astype(dtype),
        "masked and 1e8": np.where(u < 0.3, masked, np.where(u < 0.6, -big, big)).astype(dtype),
    }
    for row in rows.values():
        if np.isneginf(row).all():
            row[rng.integers(c)] = 1.0
    return rows


def some_families(c, dtype, rng, budget=6_000):
    """families, or as many of them, at least eight, as hold some `budget` logits: mpmath is slow."""
    rows = families(c, dtype, rng)
    names = list(rows)
    most = max(8, budget // c)
    return rows if len(names) <= most else {n: rows[n] for n in sorted(rng.choice(names, most, replace=False))}


def labels_worth_trying(row, rng):
    """The maximum, the minimum, the runner-up, the ends and a random class, each once."""
    order = np.argsort(row, kind="stable")
    return sorted({int(order[-1]), int(order[0]), int(order[-2:][0]), 0, len(row) - 1, int(rng.integers(len(row)))})


def distributions(c, rng):
    """{name: a float64 target of c entries that sums to 1}."""
    flat, skewed = rng.dirichlet(np.ones(c)), rng.dirichlet(np.full(c, 0.05))
    sparse = np.where(rng.random(c) < 0.7, 0.0, flat)
    sparse = sparse / sparse.sum() if sparse.sum() > 0 else np.eye(1, c)[0]
    return {
        "one-hot": np.eye(1, c, rng.integers(c))[0],
        "uniform": np.full(c, 1 / c),
        "Dirichlet": flat,
        "skewed": skewed,
        "sparse": sparse,
    }
