"""Many threads, forked and spawned processes, other libraries' workers: the results of one call alone, or an error."""

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastxent

ROOT = Path(__file__).parent.parent
LAYERS = ["omp", "workqueue", "tbb"]


def run(*command, **environment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | environment
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=3000)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip("this threading layer is not installed")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@functools.cache
def together(layer):
    """What concurrent_suite.py finds under a threading layer."""
    found = run(str(ROOT / "tests" / "concurrent_suite.py"), NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    name, calls, digest = found.split()
    assert name == layer
    assert int(calls) > 3000
    return digest


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_everything_at_once_from_32_threads_under_every_layer(layer):
    assert together(layer) == together("omp")


def test_threads_may_share_a_score_card():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((640, 5)).astype("f4"), rng.integers(0, 5, 640)
    shared, other = fastxent.Scorer(worst=5), fastxent.Scorer(worst=5)

    def add(k):
        for i in range(k * 80, k * 80 + 80, 8):
            (shared, other)[k % 2].update(z[i : i + 8], y[i : i + 8], start=i)
            shared.result()

    threads = [threading.Thread(target=add, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.merge(other).result() == fastxent.score(z, y, worst=5)
    assert shared.rows == ((0, 640),)


def some_scores(seed):
    """A loss on threads and a score card: what a worker is asked for."""
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(20_000, 40)).astype("f4"), rng.integers(0, 40, 20_000)
    return fastxent.cross_entropy(z, y), fastxent.score(z, y).to_dict()


POOLS = """
import multiprocessing, sys
from test_concurrency import some_scores
if __name__ == "__main__":
    method, when = sys.argv[1:]
    if when == "after":
        some_scores(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(some_scores, range(4))
    assert found == [some_scores(k) for k in range(4)]
"""


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "method", sorted({"fork", "forkserver", "spawn"} & set(multiprocessing.get_all_start_methods()))
)
def test_pools_of_processes_before_and_after_a_first_call(tmp_path, method, when, layer):
    (tmp_path / "pools.py").write_text(POOLS)
    run(str(tmp_path / "pools.py"), method, when, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


# A fork while another thread compiles: the child must not wait for a lock that nobody will give back.
FORK_AMID = """
import os, sys, threading, time
import numpy as np, fastxent
z, y = np.zeros((3, 100), np.float32), np.zeros(3, np.int64)
fastxent.logsumexp(z)
thread = threading.Thread(target=fastxent.score, args=(z, y))
thread.start()
from numba.core.compiler_lock import global_compiler_lock
while global_compiler_lock._lock.acquire(blocking=False):
    global_compiler_lock._lock.release()
    time.sleep(0.001)
child = os.fork()
if child == 0:
    os._exit(0 if abs(fastxent.cross_entropy(z, y) - np.log(100)) < 1e-6 else 1)
thread.join()
for _ in range(600):
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.2)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_a_thread_compiles_can_compile(tmp_path):
    run("-W", "ignore", "-c", FORK_AMID, FASTXENT_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend):
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=3, backend=backend)(joblib.delayed(some_scores)(k) for k in range(6))
    assert found == [some_scores(k) for k in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["threads", "processes", "synchronous"])
def test_dask(scheduler):
    dask = pytest.importorskip("dask")
    found = dask.compute(*(dask.delayed(some_scores)(k) for k in range(4)), scheduler=scheduler, num_workers=4)
    assert list(found) == [some_scores(k) for k in range(4)]


# A loader's workers are forked from a process in which torch's threads and Numba's have run.
LOADER = """
import sys
import torch, numpy as np, fastxent
class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, k):
        z = torch.randn(20_000, 40, generator=torch.Generator().manual_seed(k))
        return torch.tensor(fastxent.cross_entropy(z, torch.arange(20_000) % 40), dtype=torch.float64)
if __name__ == "__main__":
    torch.randn(2000, 2000).mm(torch.randn(2000, 2000))
    alone = [float(Rows()[k]) for k in range(8)]
    loader = torch.utils.data.DataLoader(Rows(), num_workers=2, multiprocessing_context=sys.argv[1])
    assert [float(x) for x in loader] == alone
"""


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_torch_data_loaders(tmp_path, method):
    pytest.importorskip("torch")
    (tmp_path / "loader.py").write_text(LOADER)
    run("-W", "ignore", str(tmp_path / "loader.py"), method)


# ---- disks ----------------------------------------------------------------------------------------------------------

FIRST = "import numpy as np, fastxent; print(fastxent.cross_entropy(np.zeros((9, 10), 'f4'), np.zeros(9, 'i8')))"
COUNTED = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {FIRST}
print([str(w.message)[:30] for w in caught])
"""


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for some 64 KB, and how to mount it in another way."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting needs root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_a_cache_on_a_full_or_read_only_disk_costs_one_warning(small_disk, options):
    folder = small_disk(options)
    result, caught = run("-c", COUNTED, FASTXENT_CACHE_DIR=str(folder / "cache")).splitlines()
    assert float(result) == pytest.approx(np.log(10))
    assert caught == "['compiled kernels are not kept ']"
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.slow
def test_a_filled_cache_that_became_read_only_is_read(small_disk):
    folder = small_disk("size=64m")
    run("-c", FIRST, FASTXENT_CACHE_DIR=str(folder))
    assert subprocess.run(["mount", "-o", "remount,ro", str(folder)]).returncode == 0
    _, caught = run("-c", COUNTED, FASTXENT_CACHE_DIR=str(folder)).splitlines()
    assert caught == "[]"
