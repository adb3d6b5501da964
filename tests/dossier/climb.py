"""Hill climbing for the row with the largest error: many climbers, each keeps a change that makes its row worse."""

import base64

import numpy as np
import rows as families

from dossier.errors import Limits, Worst, errors, exact_errors
from dossier.oracles import Softmax

CLIMBERS = 128
STEP = 0.08664339756999316  # ln 2 / 8: where the reduction changes


def start(search, c, n, rng):
    """Rows to begin with: the families that are hard to score, and random ones."""
    latent = rng.standard_normal((n, c)) * np.exp(rng.uniform(-3, 4, (n, 1)))
    hard = [np.float64(row) for row in families.families(c, np.float64, rng).values() if np.abs(row).max() < 1e5]
    some = rng.permutation(len(hard))[: n // 2]
    latent[: len(some)] = [hard[i] for i in some]
    made = {"latent": latent}
    if search.takes == "y":
        made["y"] = rng.integers(0, c, n)
    if search.takes == "t":
        made["target"] = rng.random((n, c)) if c == 1 else rng.dirichlet(np.full(c, 0.5), n)
    if search.takes == "v":
        made["second"] = latent + rng.standard_normal((n, c)) * np.exp(rng.uniform(-20, 2, (n, 1)))
    return made


def as_rows(search, made, dtype):
    """What the function is given: the latent logits as its kind of prediction, in its dtype."""

    def predictions(latent):
        z = latent.astype(dtype)
        if search.kind == "logits":
            return z
        found = Softmax(z)
        with np.errstate(under="ignore"):
            return np.maximum((found.share if search.kind == "probs" else -found.minus_log).astype(dtype), -1e4)

    made_rows = {"z": predictions(made["latent"])}
    if "second" in made:
        made_rows["v"] = predictions(made["second"])
    if "target" in made:
        made_rows["t"] = made["target"].astype(dtype)
    if "y" in made:
        made_rows["y"] = made["y"]
    return made_rows


def changed(made, dtype, rng):
    """Every climber's next try."""
    tried = {name: x.copy() for name, x in made.items()}
    n, c = tried["latent"].shape
    every = np.arange(n)
    name = "second" if "second" in tried and rng.random() < 0.5 else "latent"
    z = tried[name]
    way, k, j = rng.integers(0, 8, n), rng.integers(0, c, n), rng.integers(0, c, n)
    at = z[every, k]
    size = np.exp(rng.uniform(-16, 3, n))
    steps = np.rint(rng.uniform(-100, 100, n)) * STEP / 2
    ulps = rng.integers(-6, 7, n) * np.spacing(np.abs(at).astype(dtype)).astype(np.float64)
    z[every, k] = np.select(
        [way == 0, way == 1, way == 2, way == 3],
        [at + ulps, at + rng.standard_normal(n) * size, z[every, j] + steps, steps + ulps],
        at,
    )
    z += np.where(way == 4, rng.standard_normal(n) * size, 0)[:, None]
    z *= np.where(way == 5, 1 + rng.standard_normal(n) * size / 20, 1)[:, None]
    z += (way == 6)[:, None] * rng.standard_normal((n, c)) * size[:, None]
    if name == "second":
        z[way == 7] = tried["latent"][way == 7]
    np.clip(z, -1e8, 1e8, out=z)
    if "y" in tried:
        tried["y"] = np.where(rng.random(n) < 0.1, k, tried["y"])
    if "target" in tried and rng.random() < 0.5:
        t = tried["target"]
        t[every, k] = np.where(rng.random(n) < 0.2, 0.0, t[every, k] * np.exp(rng.standard_normal(n) * size))
        t[t.sum(1) == 0] = 1.0
        tried["target"] = np.clip(t, 0, 1) if c == 1 else t / t.sum(1, keepdims=True)
    return tried


def errors_of(search, rows, dtype, function, least=None):
    """(in ulp, relative) of each row, its worst entry's."""
    with np.errstate(all="ignore"):
        want, scale = search.wide(rows)
        limits = limits_of(search, dtype, rows["z"].shape[1])
        ulp, relative = errors(function(rows), want, limits, scale)
    if least is not None:
        outside = ~((scale >= least) & (np.abs(want) <= np.finfo(dtype).max))
        ulp, relative = np.where(outside, -1.0, ulp), np.where(outside, -1.0, relative)
    if want.ndim == 2:
        i = relative.argmax(1)[:, None]
        return np.take_along_axis(ulp, i, 1)[:, 0], np.take_along_axis(relative, i, 1)[:, 0]
    return ulp, relative


def limits_of(search, dtype, c):
    """Losses are float64, what is rounded has the dtype."""
    limits = Limits.of(dtype, dtype if search.rounded else np.float64)
    return limits._replace(least=400 * c * limits.least) if search.thin else limits


def climb(search, dtype, c, tries, seed, libraries=()):
    """{who: Worst} over so many rows of c classes; the last climbs go on from the best of the others."""
    rng = np.random.default_rng(seed)
    found = {"fastxent": Worst()} | {library: Worst() for library in libraries if library in search.peers}
    made, heights = None, None
    for turn in range(max(tries // CLIMBERS, 1)):
        tried = start(search, c, CLIMBERS, rng) if made is None else changed(made, dtype, rng)
        given = as_rows(search, tried, dtype)
        ulp, relative = errors_of(search, given, dtype, search.ours)
        found["fastxent"].add(ulp, relative, lambda i, given=given: written(given, i))
        for library in found:
            if library != "fastxent":
                theirs = errors_of(search, given, dtype, search.peers[library], np.finfo(dtype).tiny)
                found[library].add(*theirs, lambda i, given=given: written(given, i))
        if made is None:
            made, heights = tried, relative
            continue
        better = relative >= heights
        for name, x in tried.items():
            made[name][better] = x[better]
        heights = np.where(better, relative, heights)
        if turn % 64 == 63:  # the lower half goes on from the upper one, some of it anew
            order = np.argsort(heights)
            low, high = order[: CLIMBERS // 2], order[CLIMBERS // 2 :]
            fresh = start(search, c, CLIMBERS, rng)
            anew = rng.random(len(low)) < 0.5
            for name, x in made.items():
                x[low] = np.where(anew.reshape(-1, *[1] * (x.ndim - 1)), fresh[name][low], x[high])
            heights[low] = 0.0
    return found


def written(rows, i):
    """A row as text: {name: [dtype, the bytes in base64]}."""
    return {
        name: [str(x.dtype), base64.b64encode(np.ascontiguousarray(x[i]).tobytes()).decode()]
        for name, x in rows.items()
    }


def read(text):
    """What `written` wrote, as rows of one."""
    return {name: np.frombuffer(base64.b64decode(data), kind)[None].copy() if name != "y"
            else np.frombuffer(base64.b64decode(data), kind) for name, (kind, data) in text.items()}  # fmt: skip


def recheck(search, dtype, at, function=None):
    """(in ulp, relative) of a written row against mpmath: its worst entry's."""
    rows = read(at)
    with np.errstate(all="ignore"):
        got = np.ravel((function or search.ours)(rows))
    wanted = search.exact({name: x[0] for name, x in rows.items()})
    limits = limits_of(search, dtype, rows["z"].shape[1])
    return max(
        (exact_errors(float(g), w, limits, s) for g, (w, s) in zip(got, wanted, strict=True)), key=lambda e: e[1]
    )
