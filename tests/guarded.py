"""Memory with unmapped pages on both sides: whatever reads or writes outside of it ends the process at once.

``guard`` makes NumPy, and Numba's compiled code, allocate from it, for every array of this thread from then on. An
array ends at the byte before an unmapped page, or begins at the byte after one, so a program is run once for each side.
Freed memory is unmapped too. New memory holds zeros for one side and ones in every bit for the other, so that a result
made of what nobody wrote differs. Masked loads and stores do not fault where the mask is off, nor do prefetches.
"""

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
SIDES = ("after", "before")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

_NONE, _READ_WRITE, _PRIVATE_ANONYMOUS_NORESERVE = 0, 3, 0x4022  # Linux
_FILLED = 1 << 20  # so many bytes of an array are filled: some arrays are large, and nearly empty
_kept = []  # callbacks that C holds


class Guard:
    """Allocates whole pages between two that cannot be touched; ``side`` may be changed at any time."""

    def __init__(self):
        self.side, self.regions, self.count = SIDES[0], {}, 0

    def allocate(self, size, zero=False):
        """The address of so many bytes."""
        inner = max(-(-size // PAGE), 1) * PAGE
        base = _libc.mmap(None, inner + 2 * PAGE, _NONE, _PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value) or _libc.mprotect(base + PAGE, inner, _READ_WRITE):
            raise MemoryError(f"{size} bytes: errno {ctypes.get_errno()}")
        address = base + PAGE + (inner - size if self.side == "after" else 0)
        self.regions[address] = base, inner + 2 * PAGE, size
        self.count += 1
        if self.side == "before" and not zero:
            _libc.memset(address, 255, min(size, _FILLED))
        return address

    def free(self, address):
        if address:
            base, total, _ = self.regions.pop(address)
            _libc.munmap(base, total)

    def resize(self, address, size):
        new = self.allocate(size)
        if address:
            ctypes.memmove(new, address, min(size, self.regions[address][2]))
            self.free(address)
        return new


def guard():
    """Guard what NumPy and compiled code allocate from here on. Returns the Guard."""
    made = Guard()
    _guard_numpy(made)
    _guard_numba(made)
    return made


# ---- NumPy: a handler of array data (NEP 49) ------------------------------------------------------------------------

_size, _pointer = ctypes.c_size_t, ctypes.c_void_p


class _Handler(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _pointer),
        ("malloc", ctypes.CFUNCTYPE(_pointer, _pointer, _size)),
        ("calloc", ctypes.CFUNCTYPE(_pointer, _pointer, _size, _size)),
        ("realloc", ctypes.CFUNCTYPE(_pointer, _pointer, _pointer, _size)),
        ("free", ctypes.CFUNCTYPE(None, _pointer, _pointer, _size)),
    ]


_SET_HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's table of functions


def _guard_numpy(made):
    kinds = dict(_Handler._fields_)
    handler = _Handler(
        b"guarded",
        1,
        None,
        kinds["malloc"](lambda _, size: made.allocate(size)),
        kinds["calloc"](lambda _, n, size: made.allocate(n * size, zero=True)),
        kinds["realloc"](lambda _, address, size: made.resize(address, size)),
        kinds["free"](lambda _, address, size: made.free(address)),
    )
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = _pointer, [ctypes.py_object, ctypes.c_char_p]
    table = get(np._core._multiarray_umath._ARRAY_API, None)
    address = ctypes.cast(table, ctypes.POINTER(_pointer))[_SET_HANDLER]
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [_pointer, ctypes.c_char_p, _pointer]
    name = b"mem_handler"
    capsule = new(ctypes.addressof(handler), name, None)
    _kept.extend([handler, name, capsule])
    ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)(capsule)


# ---- Numba: what np.empty and np.zeros in compiled code call ---------------------------------------------------------

_Destructor = ctypes.CFUNCTYPE(None, _pointer, _size, _pointer)


class _MemInfo(ctypes.Structure):
    _fields_ = [
        ("count", _size),
        ("destructor", _pointer),
        ("about", _pointer),
        ("data", _pointer),
        ("size", _size),
        ("external", _pointer),
    ]


def _guard_numba(made):
    import llvmlite.binding
    from numba.core.registry import cpu_target

    cpu_target.target_context.refresh()  # which names Numba's own functions

    @_Destructor
    def destroy(data, size, about):
        made.free(data)

    def allocate(size, *align):
        place = _libc.malloc(ctypes.sizeof(_MemInfo))  # Numba frees it
        destructor = ctypes.cast(destroy, _pointer).value
        info = _MemInfo(1, destructor, None, made.allocate(size), size, None)
        ctypes.memmove(place, ctypes.addressof(info), ctypes.sizeof(info))
        return place

    plain = ctypes.CFUNCTYPE(_pointer, _size)(allocate)
    aligned = ctypes.CFUNCTYPE(_pointer, _size, ctypes.c_uint32)(allocate)
    _kept.extend([destroy, plain, aligned])
    functions = {"alloc": plain, "alloc_safe": plain, "alloc_aligned": aligned, "alloc_safe_aligned": aligned}
    for name, function in functions.items():
        llvmlite.binding.add_symbol(f"NRT_MemInfo_{name}", ctypes.cast(function, _pointer).value)


def guard_stack(made):
    """Put kernels' arrays on the stack into guarded memory too, one place each for good: for one thread, no cache."""
    from llvmlite import ir
    from numba.core import types

    from fastxent.kernels import memory

    bare = memory._bare_array

    def array(context, builder, kind, data, shape):
        size = kind.dtype.bitwidth // 8
        for extent in shape:
            size *= extent.constant
        number = ir.Constant(context.get_value_type(types.intp), made.allocate(size))
        return bare(context, builder, kind, builder.inttoptr(number, data.type), shape)

    memory._bare_array = array
