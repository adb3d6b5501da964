"""Limits on threads, calls from many threads, each threading layer, fork and spawn."""

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastxent
from fastxent import threads

# Scores enough for the parallel path, from several Python threads at once, and prints a digest of the bits.
CONCURRENT = """
import concurrent.futures, numba, numpy as np, fastxent
rng = np.random.default_rng(0)
logits, labels = rng.normal(size=(20000, 40)).astype(np.float32), rng.integers(0, 40, 20000)
def call(_):
    return fastxent.cross_entropy(logits, labels, reduction="none").tobytes()
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    results = set(pool.map(call, range(60)))
assert len(results) == 1
import hashlib
print(numba.threading_layer(), hashlib.sha256(results.pop()).hexdigest())
"""

FORK = """
import os, sys, numpy as np, fastxent
logits, labels = np.ones((20000, 40), np.float32), np.zeros(20000, np.int64)
call = lambda: fastxent.cross_entropy(logits, labels)
before = call()
child = os.fork()
if child == 0:
    os._exit(0 if call() == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or call() != before)
"""

LAYERS = ["omp", "workqueue", "tbb"]


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip("this threading layer is not installed")
    return done


@pytest.fixture(autouse=True)
def restored():
    yield
    fastxent.set_threads(None)


def test_limits_are_bounded_by_the_machine_and_nest():
    machine = fastxent.get_threads()
    fastxent.set_threads(10**6)
    assert fastxent.get_threads() == threads.current_threads() == machine
    fastxent.set_threads(1)
    assert fastxent.get_threads() == threads.current_threads() == 1
    with threads.limited(10**6):
        assert threads.current_threads() == 1
    fastxent.set_threads(None)
    with threads.limited(1):
        with threads.limited(machine):
            assert threads.current_threads() == 1
        with threads.limited(None):
            assert threads.current_threads() == 1
    assert threads.current_threads() == machine


def test_a_limit_holds_in_its_own_thread_only():
    seen = []
    with threads.limited(1):
        thread = threading.Thread(target=lambda: seen.append(threads.current_threads()))
        thread.start()
        thread.join()
    assert seen == [fastxent.get_threads()]


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), ("2", TypeError)]
)
def test_bad_numbers_of_threads_are_refused(value, error):
    for function in (fastxent.set_threads, threads.limited):
        with pytest.raises(error, match=r"^threads: "):
            function(value)


def test_a_team_leaves_the_callers_own_limit_as_it_was():
    import numba

    before = numba.get_num_threads()
    with threads.team() as size:
        assert size == threads.current_threads()
    assert numba.get_num_threads() == before
    try:
        numba.set_num_threads(1)
        assert threads.current_threads() == 1
    finally:
        numba.set_num_threads(before)


def test_small_calls_start_no_threads():
    code = "import numpy as np, fastxent; fastxent.cross_entropy(np.zeros((3, 4)), [0, 1, 2])\n"
    code += "from fastxent.threads import _numba_started; assert not _numba_started()"
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layer", LAYERS)
def test_concurrent_calls_agree_under_every_layer(layer):
    done = run(CONCURRENT, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    name, digest = done.stdout.split()
    assert name == layer
    assert digest == run(CONCURRENT, NUMBA_NUM_THREADS="2").stdout.split()[1]


def test_small_calls_from_many_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    problems = [(rng.normal(size=(n, 10)), rng.integers(0, 10, n)) for n in range(1, 65)]

    def results(_):
        return [fastxent.cross_entropy(z, y, reduction=r) for z, y in problems for r in ("sum", "mean")]

    expected = results(0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(results, range(100)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forked_child_works_after_a_parallel_call(layer):
    done = run(FORK, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


def score_some(seed):
    rng = np.random.default_rng(seed)
    return fastxent.cross_entropy(rng.normal(size=(20000, 40)), rng.integers(0, 40, 20000))


def test_a_spawned_child_works():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(score_some, [1, 2]) == [score_some(1), score_some(2)]


def test_blas_gets_its_threads_back_whoever_leaves_last():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def numbers():
        return {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"}

    from fastxent.threads import blas_on_one_thread

    with blas_on_one_thread():  # finds the libraries, and loads SciPy's
        pass
    before = numbers()
    first, second = blas_on_one_thread(), blas_on_one_thread()
    assert first.__enter__()
    assert second.__enter__()
    first.__exit__(None, None, None)
    assert numbers() == {1}
    second.__exit__(None, None, None)
    assert numbers() == before
