"""The only place that calls ``numba.njit``: its flags, the cache of compiled code, the register of kernels.

Numba's own cache is not used, for three reasons. It keys a function on its own file, so an edit in another file that
was inlined goes unnoticed (numba#1833); it numbers its files through an index that two processes may overwrite, so one
can load code compiled for another signature (numba#4807); and it trusts what it reads. Here one file holds one
compiled signature, named by a hash of everything that decided its content, written aside and moved into place, and
read only if its checksum holds.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba import prange, types
from numba.core import caching, cgutils, compiler, config, sigutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numba.misc.appdirs import AppDirs

from fastxent.interrupts import interrupts_held
from fastxent.kernels import sources
from fastxent.kernels.ingredient import IngredientCompiler, without_repetition

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, but fastxent's kernels exist only compiled: unset it")

__all__ = [
    "INLINE",
    "REGISTER",
    "cache_folder",
    "call_chunk",
    "chunk",
    "compiled",
    "inline",
    "parallel",
    "part",
    "prange",
]

F = TypeVar("F", bound=Callable[..., Any])

# A division by zero gives inf or nan, as in NumPy. No fastmath anywhere: the order of operations is the result.
_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}

# Of functions that exist inside others alone, those that @overload picks by type among them (as jit_options).
INLINE: dict[str, Any] = {
    "pipeline_class": IngredientCompiler,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

_MAGIC = b"fastxent cache 1\n"
_KEPT_VERSIONS = 8

# Of the thread that compiles: what to call where an interruption does no harm, the outermost compilation's first.
_pauses: list[Callable[[], None]] = []

# Every entry point in order of definition, for the tools that read generated code.
REGISTER: dict[str, Any] = {}


def inline(function: F) -> F:
    """Compile for use inside other kernels: inlined by LLVM at every call, and no machine code of its own.

    Called from Python it still works, through an entry point that is compiled (or loaded) then.
    """
    return _ingredient(function, INLINE)


def part(function: F) -> F:
    """The same, but one function in the machine code of each kernel that calls it, unless LLVM thinks otherwise."""
    return _ingredient(function, INLINE | {"forceinline": False})


def _ingredient(function: F, flags: dict[str, Any]) -> F:
    dispatcher: Any = numba.njit(**_FLAGS | flags)(function)

    def compile_for_python(*args: Any, **kwargs: Any) -> Any:
        entry: Any = numba.njit(**_FLAGS)(function)
        entry._cache = _cache_of(function)
        dispatcher._compile_for_args = lambda *args, **kwargs: entry
        return entry

    def compile_for_kernels(signature: Any) -> Any:  # Numba's own compile without clocks, which cost a tenth of it
        args, return_type = sigutils.normalize_signature(_without_literals(signature))
        with global_compiler_lock:
            if _pauses:
                _pauses[0]()
            if args not in dispatcher.overloads:  # known to jitted callers, unknown to the dispatch of Python's calls
                with dispatcher._compiling_counter:
                    dispatcher.overloads[args] = dispatcher._compiler.compile(args, return_type)
            return dispatcher.overloads[args].entry_point

    dispatcher._compile_for_args = compile_for_python
    dispatcher.compile = compile_for_kernels
    return dispatcher


def _without_literals(signature: Any) -> Any:
    """The types without their values: a constant argument is no reason to compile a function once more."""
    return tuple(map(types.unliteral, signature)) if isinstance(signature, tuple) else signature


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a serial entry point, on its first call with each signature, through the cache."""
    return _enter(function, numba.njit(**_FLAGS)(function))


def chunk(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what is called by its address alone, see call_chunk: without an entry for Python."""
    dispatcher: Any = numba.njit(**_FLAGS, no_cpython_wrapper=True)(function)

    def keep(result: Any) -> None:
        dispatcher.overloads[tuple(result.signature.args)] = result  # unknown to the dispatch of Python's calls

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{function.__name__}: Python cannot call it; batch.Call does by its address")

    dispatcher.add_overload, dispatcher._compile_for_args = keep, refuse
    return _enter(function, dispatcher)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an entry point whose ``prange`` loops run on threads. Slow to compile: few of them, few signatures."""
    return _enter(function, numba.njit(parallel=True, **_FLAGS)(function))


def _enter(function: Callable[..., Any], dispatcher: Any) -> Any:
    dispatcher._cache = _cache_of(function)
    compile_signature = dispatcher.compile

    def compile_for_signature(signature: Any) -> Any:
        # Ctrl-C is answered between two ingredients: in LLVM's callbacks and in destructors it would get lost.
        with global_compiler_lock, without_repetition(), interrupts_held() as pause:
            _pauses.append(pause)
            try:
                return compile_signature(_without_literals(signature))
            finally:
                _pauses.pop()

    dispatcher.compile = compile_for_signature
    if function.__module__.startswith(__package__ + "."):
        REGISTER[f"{function.__module__}.{function.__qualname__}"] = dispatcher
    return dispatcher


def _cache_of(function: Callable[..., Any]) -> Any:
    """The cache, or none for code from elsewhere (a test, say): the hash of the sources does not cover it."""
    return _KernelCache(function) if function.__module__.startswith(__package__ + ".") else caching.NullCache()


@intrinsic
def call_chunk(typingctx, chunk, arguments):
    """Call a chunk function, given by its address, with a tuple of arguments."""

    def build(context, builder, signature, args):
        kinds = signature.args[1].types
        values = cgutils.unpack_tuple(builder, args[1])
        kind = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(args[0], kind.as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.none, kinds, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(chunk, arguments), build


@functools.cache
def cache_folder() -> Path:
    """The folder of this version's compiled code: FASTXENT_CACHE_DIR or the user's cache folder, then a hash.

    The hash covers every source file of the kernels, and the versions of what compiles them. The processor's name and
    features are part of each entry's name, so machines of different kinds can share one folder.
    """
    root = os.environ.get("FASTXENT_CACHE_DIR") or AppDirs(appname="fastxent", appauthor=False).user_cache_dir
    versions = f"{numba.__version__} {llvmlite.__version__} {sys.version} {platform.machine()}"
    return Path(root) / hashlib.sha256(f"{versions} {sources.AT_IMPORT}".encode()).hexdigest()[:20]


# What else changes the generated code, and Numba leaves out of its keys.
_SWITCHES = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "LLVM_REFPRUNE_PASS")


class _KernelCache(caching.Cache):
    """One function's entries. A Numba cache by interface; the files are ours."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._py_func = function
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(cache_folder())

    def flush(self) -> None:
        """Forget nothing on disk: an entry's name already says what it was compiled from."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compile result of a signature, or None: an unreadable entry counts as absent."""
        target_context.refresh()
        if not self._enabled:
            return None
        try:
            path, key = self._entry(sig, target_context.codegen())
            payload = _read(path, key)
            return None if payload is None else compiler.CompileResult._rebuild(target_context, *payload)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compile result for other processes; where that is impossible, warn once and go on without."""
        if not self._enabled or data.library.has_dynamic_globals or any(not x.can_cache for x in data.lifted):
            return
        path, key = self._entry(sig, data.codegen)
        if b" at 0x" in key:  # an address among the argument types: no other process would find the entry
            return
        if sources.digest() != sources.AT_IMPORT:
            return
        try:
            _write(path, key, data._reduce())
        except OSError as error:
            if path.is_file():  # another process was first, and where files in use cannot be replaced it holds it open
                return
            _warn_once(f"{path.parent}: {error.strerror or error}")

    def _entry(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        switches = [(name, getattr(config, name, None)) for name in _SWITCHES]
        key = repr((self._name, self._index_key(sig, codegen), switches)).encode()
        name = f"{self._name.removeprefix(__package__ + '.')}-{hashlib.sha256(key).hexdigest()[:24]}.bin"
        return cache_folder() / name, key


def _read(path: Path, key: bytes) -> Any:
    """The payload of a whole, undamaged entry with this key, or None."""
    content = path.read_bytes()
    head = len(_MAGIC) + 32
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : head] != hashlib.sha256(content[head:]).digest():
        return None
    stored, payload = pickle.loads(content[head:])
    return payload if stored == key else None


def _write(path: Path, key: bytes, payload: Any) -> None:
    """Write aside and move into place, so that no reader meets half an entry and the last of several writers wins."""
    body = caching.dumps((key, payload))
    fresh = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        _prune(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _prune(current: Path) -> None:
    """Keep the newest few versions' folders. Removing one in use only makes its users compile again."""
    with contextlib.suppress(OSError):
        versions = [p for p in current.parent.iterdir() if len(p.name) == len(current.name) and p.is_dir()]
        versions.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for stale in versions[_KEPT_VERSIONS:]:
            shutil.rmtree(stale, ignore_errors=True)


_warned = False


def _warn_once(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels are not kept ({reason}); FASTXENT_CACHE_DIR can name a folder for them",
            RuntimeWarning,
            stacklevel=2,
        )
