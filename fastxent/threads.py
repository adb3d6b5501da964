"""How many threads a call uses, and when threads cannot be used at all. Results never depend on it.

Numba comes in only when a number of threads is asked for or a parallel loop starts.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib import import_module
from operator import index
from typing import Any, TypeVar

__all__ = [
    "blas_on_one_thread",
    "current_threads",
    "get_threads",
    "in_parts",
    "limited",
    "set_threads",
    "side_by_side",
    "team",
]

T = TypeVar("T")

_process_limit: int | None = None
_call_limit: ContextVar[int | None] = ContextVar("fastxent_threads", default=None)

# The workqueue layer aborts the process under concurrent calls (numba#8563): with it, one parallel loop at a time.
_one_at_a_time = threading.Lock()

# A child forked from a process whose OpenMP threads ran would be killed by its first parallel loop: it runs serially.
_threads_lost = False

_helpers: ThreadPoolExecutor | None = None


def set_threads(threads: int | None) -> None:
    """Set how many threads each later call of this process may use.

    Parameters
    ----------
    threads : int or None
        At least 1; more than the machine (or NUMBA_NUM_THREADS) allows counts as all. None goes back to all.

    Raises
    ------
    TypeError
        If `threads` is no integer.
    ValueError
        If `threads` is below 1.

    Examples
    --------
    >>> import fastxent
    >>> fastxent.set_threads(1)
    >>> fastxent.get_threads()
    1
    >>> fastxent.set_threads(None)
    """
    global _process_limit
    _process_limit = None if threads is None else _checked(threads)


def get_threads() -> int:
    """Return how many threads a call of this process may use, unless its own `threads` says fewer.

    Returns
    -------
    int
        At least 1, at most what the machine (or NUMBA_NUM_THREADS) allows.

    Examples
    --------
    >>> import fastxent
    >>> fastxent.get_threads() >= 1
    True
    """
    from numba.core import config

    machine: int = config.NUMBA_NUM_THREADS
    return machine if _process_limit is None else min(_process_limit, machine)


def current_threads() -> int:
    """Return how many threads a parallel loop started here and now would use: 1 means the serial path."""
    if _threads_lost:
        return 1
    threads = get_threads()
    call_limit = _call_limit.get()
    if call_limit is not None:
        threads = min(threads, call_limit)
    if threads > 1 and _numba_started():
        import numba

        threads = min(threads, numba.get_num_threads())  # the caller's own numba.set_num_threads
    return threads


def limited(threads: int | None) -> AbstractContextManager[None]:
    """Limit the calls made inside the block, in this thread, to a number of threads. None leaves it as it is."""
    return nullcontext() if threads is None else _limited(_checked(threads))


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    outer = _call_limit.get()
    token = _call_limit.set(threads if outer is None else min(threads, outer))
    try:
        yield
    finally:
        _call_limit.reset(token)


def side_by_side(work: Sequence[Callable[[], T]]) -> list[T]:
    """What functions return, kernels without a parallel loop, of which this thread calls the first.

    It waits for all. The other threads are kept: to start one takes 0.2 ms.
    """
    global _helpers
    if _helpers is None and len(work) > 1:
        _helpers = ThreadPoolExecutor(os.cpu_count(), "fastxent")
    others = [_helpers.submit(task) for task in work[1:]] if _helpers is not None else []
    try:
        first = work[0]()
    finally:
        wait(others)
    return [first, *(other.result() for other in others)]


@functools.cache
def _blas_controller() -> Any:
    """What sets the numbers of threads of NumPy's and SciPy's BLAS, or None: it takes 3 ms to find them."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    import_module("scipy.linalg.blas")
    return ThreadpoolController()


_blas_lock = threading.Lock()
_blas_users = 0  # blocks that want BLAS on one thread
_blas_limits: list[Any] = []  # what the first of them changed, for the last one to put back


@contextmanager
def blas_on_one_thread() -> Iterator[bool]:
    """Products in the block use the calling thread alone, so that threads can make theirs side by side.

    BLAS's number is the process's, and blocks in several threads may overlap. Gives False, and changes nothing, where
    threadpoolctl is not installed.
    """
    global _blas_users
    controller = _blas_controller()
    if controller is None:
        yield False
        return
    with _blas_lock:
        if _blas_users == 0:
            _blas_limits.append(controller.limit(limits=1, user_api="blas"))
        _blas_users += 1
    try:
        yield True
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limits.pop().restore_original_limits()


def in_parts(work: Callable[[int, int], T], n: int, least: int = 1 << 15) -> list[T]:
    """What work(start, stop) returns of the parts of 0 .. n - 1, of at least so many each, done side by side."""
    k = max(1, min(current_threads(), n // least))
    return side_by_side([functools.partial(work, n * i // k, n * (i + 1) // k) for i in range(k)])


@contextmanager
def team() -> Iterator[int]:
    """Hold what a parallel loop needs, and give the number of its threads; given 1, take the serial path instead.

    Every call of a function with ``parallel=True`` belongs inside::

        with team() as threads:
            run = rows_parallel if threads > 1 else rows_serial
            run(...)
    """
    threads = current_threads()
    if threads == 1:
        yield 1
        return
    import numba

    with nullcontext() if _numba_started() else _sleeping_soon():
        before = numba.get_num_threads()  # starts Numba's threads, which settles the layer
    with _one_at_a_time if numba.threading_layer() == "workqueue" else nullcontext():
        numba.set_num_threads(threads)  # of this thread only
        try:
            yield threads
        finally:
            numba.set_num_threads(before)


# How often GNU's OpenMP threads look for work after a loop before they sleep: 0.1 ms, by default some milliseconds, in
# which a score card's threads and readers want the cores. A loop right after another one still finds them awake.
_SPINS = "GOMP_SPINCOUNT", "20000"


@contextmanager
def _sleeping_soon() -> Iterator[None]:
    """For the block in which that library is loaded, which is when it reads the environment."""
    name, value = _SPINS
    mine = not {name, "OMP_WAIT_POLICY"} & os.environ.keys()
    if mine:
        os.environ[name] = value
    try:
        yield
    finally:
        if mine:
            os.environ.pop(name, None)


def _checked(threads: int) -> int:
    if isinstance(threads, bool):
        raise TypeError("threads: must be an integer, got a bool")
    try:
        number = index(threads)
    except TypeError:
        raise TypeError(f"threads: must be an integer, got {type(threads).__name__}") from None
    if number < 1:
        raise ValueError(f"threads: must be at least 1, got {number}")
    return number


def _numba_started() -> bool:
    """Whether this process, or the one it was forked from, has started Numba's threads."""
    module = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(module, "_is_initialized", False))


_held_over_fork: list[Any] = []


def _before_fork() -> None:
    """Wait until no thread is in the compiler or in LLVM: a child could use neither, and would wait forever."""
    compiler, llvm = (sys.modules.get(name) for name in ("numba.core.compiler_lock", "llvmlite.binding.ffi"))
    for lock in getattr(compiler, "global_compiler_lock", None), getattr(getattr(llvm, "lib", None), "_lock", None):
        if lock is not None:
            lock.__enter__()
            _held_over_fork.append(lock)


def _after_fork() -> None:
    while _held_over_fork:
        _held_over_fork.pop().__exit__(None, None, None)


def _in_child() -> None:
    global _one_at_a_time, _threads_lost, _helpers, _blas_lock, _blas_users
    _after_fork()
    _blas_lock, _blas_users = threading.Lock(), 0
    _blas_limits.clear()
    _one_at_a_time = threading.Lock()  # another thread of the parent may have held it
    _helpers = None
    if _numba_started():
        import numba

        _threads_lost = numba.threading_layer() != "workqueue"  # workqueue starts anew in a child, OpenMP does not


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
