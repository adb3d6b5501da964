"""Whatever the bytes are, what reads them ends in figures or in one line, in little time and memory.

The same inputs in every run: those that were kept, and mutations of them by number. `ci/fuzz.sh` goes on from here.
"""

import contextlib
import random
import warnings

import fuzz_targets
import pytest

for module in ("pyarrow", "h5py", "zarr"):
    pytest.importorskip(module)

MUTATIONS = {"zarr": 60, "zarr-v2": 60, "command": 30, "compare": 30, "state-sealed": 30, "h5": 60}
PLENTY = 150


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def replayed(name, mutations, seed):
    target = fuzz_targets.TARGETS[name]
    inputs = fuzz_targets.corpus(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about what they are given
        for content in inputs:
            with contextlib.suppress(fuzz_targets.Broken):  # what is loaded and compiled late takes time and memory
                target.run(content)
        rng = random.Random(seed)
        for content in (*inputs, *(changed(target, inputs, rng) for _ in range(mutations))):
            target.run(content)


def changed(target, inputs, rng):
    return fuzz_targets.mutated(rng.choice(inputs), target.words, rng, inputs)


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_what_was_found_stays_mended(name):
    replayed(name, MUTATIONS.get(name, PLENTY), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_many_mutations(name):
    replayed(name, 30 * MUTATIONS.get(name, PLENTY), seed=2)


def test_a_broken_promise_is_seen(monkeypatch):
    """Not vacuous: time, memory and messages are looked at."""
    if fuzz_targets.peak_bytes():
        with pytest.raises(fuzz_targets.Broken, match="MiB"), fuzz_targets.frugal(0):
            b"x" * (fuzz_targets.LEAST_BYTES + (1 << 24))
    monkeypatch.setattr(fuzz_targets, "MOST_S", 0.01)
    with pytest.raises(fuzz_targets.Broken, match=" s for "), fuzz_targets.frugal(0):
        sum(range(10**6))
    with pytest.raises(fuzz_targets.Broken):
        fuzz_targets.refuse_long(ValueError("two\nlines of x.npy"), "x.npy")
    with pytest.raises(fuzz_targets.Broken):
        fuzz_targets.refuse_long(ValueError("no name"), "x.npy")
