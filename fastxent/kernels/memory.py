"""Vectors and memory: pointers, loads, stores, masked tails, prefetching, and arrays on the stack.

A pointer is Numba's CPointer to float32, float64 or int64, or narrow.py's to float16 or bfloat16, which loads and
stores float32; indices count elements; any alignment will do.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.kernels.jit import inline
from fastxent.kernels.narrow import NarrowPointer, pointer_type, round_lanes, stored, widen_lanes
from fastxent.kernels.simd import (
    INTEGER_OF,
    LANES,
    Vector,
    broadcast,
    call_llvm,
    constant,
    float64x8,
    int64x8,
    llvm_type,
    type_suffix,
)  # fmt: skip

__all__ = [
    "address", "borrowed", "elements", "in_use", "load", "load_double", "load_integers", "load_some",
    "load_some_double", "offset", "pointer", "prefetch", "prefetch_second_level", "scratch", "store", "store_double",
    "store_some", "store_some_double", "store_streaming", "streamed", "to_aligned",
]  # fmt: skip


@intrinsic
def pointer(typingctx, array, i):
    """A pointer to element i of a C-contiguous array's data."""

    def build(context, builder, sig, args):
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.gep(data, [context.cast(builder, args[1], i, types.intp)])

    return pointer_type(array.dtype)(array, i), build


@intrinsic
def address(typingctx, number, like):
    """A pointer to elements of the dtype of the array ``like``, from an address in bytes."""
    return pointer_type(like.dtype)(number, like), lambda context, builder, sig, args: builder.inttoptr(
        args[0], context.get_value_type(sig.return_type)
    )


def _bare_array(context, builder, kind, data, shape):
    """An array structure on memory that somebody else holds."""
    array = context.make_array(kind)(context, builder)
    size = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    strides = [size]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    context.populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
    return array._getvalue()


@intrinsic(prefer_literal=True)
def scratch(typingctx, dtype, rows, columns):
    """An uninitialised array on the stack: (rows, columns), or (columns,) for 0 rows; both constants.

    The memory is that of the function in whose own body this stands, so not in an inlined one. The array has no
    reference count, which inlined helpers would raise and lower, atomically, at every call. Of float16 and bfloat16 it
    is what a pointer to them reads: float32.
    """
    shape = [n.literal_value for n in (rows, columns) if n.literal_value]
    kind = types.Array(pointer_type(dtype.dtype).dtype, len(shape), "C")

    def build(context, builder, sig, args):
        size = shape[0] * shape[-1] if len(shape) == 2 else shape[0]
        data = cgutils.alloca_once(builder, context.get_data_type(kind.dtype), size=size)
        data.align = 64
        return _bare_array(context, builder, kind, data, [context.get_constant(types.intp, n) for n in shape])

    return kind(dtype, rows, columns), build


@intrinsic
def borrowed(typingctx, array):
    """The same array without its reference count, for use inside the function that holds the array.

    Inlined helpers would otherwise raise and lower the count, atomically, at every call: most of a row's time.
    """

    def build(context, builder, sig, args):
        view = context.make_array(sig.return_type)(context, builder, value=args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()

    return array(array), build


@intrinsic
def in_use(typingctx, array):
    """Nothing, but the array's last use: Numba frees an array after that, whatever pointers there are into it."""
    return types.none(array), lambda context, builder, sig, args: context.get_dummy_value()


@intrinsic
def offset(typingctx, p, i):
    """The pointer i elements further."""
    return p(p, i), lambda context, builder, sig, args: builder.gep(
        args[0], [context.cast(builder, args[1], i, types.intp)]
    )


def _place(context, builder, sig, args, kind):
    """The address of element args[1] of the pointer args[0], as a pointer to ``kind``; and the alignment in bytes."""
    at = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])
    return builder.bitcast(at, llvm_type(kind).as_pointer()), stored(sig.args[0]).bitwidth // 8


def memory_kind(p, lanes=None):
    """The vector that is read through a pointer."""
    return Vector(p.dtype, lanes or LANES[p.dtype])


def _load(context, builder, sig, args, kind):
    kept = kind.of(stored(sig.args[0]))
    at, align = _place(context, builder, sig, args, kept)
    return read(context, builder, builder.load(at, align=align, typ=llvm_type(kept)), kind, sig.args[0])


def _load_some(context, builder, sig, args, kind):
    fill = broadcast(builder, context.cast(builder, args[3], sig.args[3], kind.element), kind)
    at, _ = _place(context, builder, sig, args, kind.of(stored(sig.args[0])))
    return _masked_load(context, builder, sig.args[0], at, args[2], fill, kind)


def _masked_load(context, builder, p, at, mask, fill, kind):
    """A vector from the address ``at`` of the pointer type ``p``; ``fill`` where the mask does not hold."""
    kept = kind.of(stored(p))
    name, align = f"llvm.masked.load.{type_suffix(kept)}.p0", ir.Constant(ir.IntType(32), kept.element.bitwidth // 8)
    if kept == kind:
        return call_llvm(builder, name, llvm_type(kind), [at, align, mask, fill])
    value = call_llvm(builder, name, llvm_type(kept), [at, align, mask, constant(kept, 0)])
    return builder.select(mask, widen_lanes(context, builder, value, kind, p), fill)


def _masked_store(context, builder, p, at, mask, value, kind):
    """Store ``value``, a vector of type ``kind``, to the address ``at`` of the pointer type ``p``."""
    kept = kind.of(stored(p))
    value = _written(context, builder, value, kind, p)
    name, align = f"llvm.masked.store.{type_suffix(kept)}.p0", ir.Constant(ir.IntType(32), kept.element.bitwidth // 8)
    call_llvm(builder, name, ir.VoidType(), [value, at, align, mask])


def read(context, builder, value, kind, p):
    """What was loaded through a pointer of type p, as a vector of type ``kind``."""
    return widen_lanes(context, builder, value, kind, p) if isinstance(p, NarrowPointer) else value


def _written(context, builder, value, kind, p):
    return round_lanes(context, builder, value, kind, p) if isinstance(p, NarrowPointer) else value


@intrinsic
def load(typingctx, p, i):
    """A vector from elements i, i + 1, ... of the pointer, at any alignment."""
    kind = memory_kind(p)
    return kind(p, i), lambda context, builder, sig, args: _load(context, builder, sig, args, kind)


@intrinsic
def load_some(typingctx, p, i, mask, fill):
    """The same where the mask holds; elsewhere memory is not touched and the lane is ``fill``."""
    kind = memory_kind(p)
    return kind(p, i, mask, fill), lambda context, builder, sig, args: _load_some(context, builder, sig, args, kind)


@intrinsic
def load_double(typingctx, p, i):
    """8 elements of float32 or float64, as 8 x float64."""
    kind = memory_kind(p, 8)

    def build(context, builder, sig, args):
        value = _load(context, builder, sig, args, kind)
        return value if kind == float64x8 else builder.fpext(value, llvm_type(float64x8))

    return float64x8(p, i), build


@intrinsic
def load_some_double(typingctx, p, i, mask, fill):
    """The same where the mask holds; elsewhere memory is not touched and the lane is ``fill``."""
    kind = memory_kind(p, 8)

    def build(context, builder, sig, args):
        value = _load_some(context, builder, sig, args, kind)
        return value if kind == float64x8 else builder.fpext(value, llvm_type(float64x8))

    return float64x8(p, i, mask, fill), build


@intrinsic
def load_integers(typingctx, p, i, like):
    """Elements of a pointer to int64, as many and as wide as the lanes of ``like``; their values must fit."""
    kind = like.of(INTEGER_OF[like.element])

    def build(context, builder, sig, args):
        value = _load(context, builder, sig, args, like.of(types.int64))
        return value if kind == int64x8 else builder.trunc(value, llvm_type(kind))

    return kind(p, i, like), build


@intrinsic
def store(typingctx, p, i, value):
    """Store a vector to elements i, i + 1, ... of the pointer, at any alignment."""

    def build(context, builder, sig, args):
        at, align = _place(context, builder, sig, args, value.of(stored(p)))
        builder.store(_written(context, builder, args[2], value, p), at, align=align)
        return context.get_dummy_value()

    return types.none(p, i, value), build


@intrinsic
def store_streaming(typingctx, p, i, value):
    """The same past the caches, to a place that is aligned to the vector's size: see to_aligned."""

    def build(context, builder, sig, args):
        kind = value.of(stored(p))
        at, _ = _place(context, builder, sig, args, kind)
        written = _written(context, builder, args[2], value, p)
        instruction = builder.store(written, at, align=kind.lanes * stored(p).bitwidth // 8)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.none(p, i, value), build


@intrinsic
def streamed(typingctx):
    """What store_streaming wrote is there for other threads too."""

    def build(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), build


@intrinsic
def _number(typingctx, p):
    return types.uint64(p), lambda context, builder, sig, args: builder.ptrtoint(args[0], ir.IntType(64))


@intrinsic
def _stored_size(typingctx, p):
    size = stored(p).bitwidth // 8
    return types.uint64(p), lambda context, builder, sig, args: ir.Constant(ir.IntType(64), size)


@inline
def elements(p, size):
    """How many elements of the pointer so many bytes hold."""
    return np.int64(size // np.int64(_stored_size(p)))


@inline
def to_aligned(p, lanes):
    """How many elements after the pointer a place is that is aligned to a vector of so many elements.

    The pointer is aligned to its elements.
    """
    size = _stored_size(p)
    return np.int64((lanes - _number(p) // size % np.uint64(lanes)) % np.uint64(lanes))


@intrinsic
def store_some(typingctx, p, i, mask, value):
    """The same where the mask holds; elsewhere memory is not touched."""

    def build(context, builder, sig, args):
        at, _ = _place(context, builder, sig, args, value.of(stored(p)))
        _masked_store(context, builder, p, at, args[2], args[3], value)
        return context.get_dummy_value()

    return types.none(p, i, mask, value), build


@intrinsic
def store_some_double(typingctx, p, i, mask, value):
    """Store 8 x float64, rounded to the pointer's type, where the mask holds."""
    narrow = Vector(p.dtype, 8)

    def build(context, builder, sig, args):
        at, _ = _place(context, builder, sig, args, narrow.of(stored(p)))
        result = args[3] if narrow == float64x8 else builder.fptrunc(args[3], llvm_type(narrow))
        _masked_store(context, builder, p, at, args[2], result, narrow)
        return context.get_dummy_value()

    return types.none(p, i, mask, value), build


def _prefetch(locality):
    @intrinsic
    def ask(typingctx, p, i):
        def build(context, builder, sig, args):
            at, _ = _place(context, builder, sig, args, sig.args[0].dtype)
            at = builder.bitcast(at, ir.IntType(8).as_pointer())
            read, where, data = (ir.Constant(ir.IntType(32), v) for v in (0, locality, 1))
            call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [at, read, where, data])
            return context.get_dummy_value()

        return types.none(p, i), build

    return ask


# Ask for the cache line of element i of a pointer; any address is allowed. For what comes from memory the second-level
# cache is the better place: a core waits for few lines at a time in its first level, which plain loads need too.
prefetch, prefetch_second_level = _prefetch(3), _prefetch(2)


@intrinsic
def store_double(typingctx, p, i, value):
    """Store floats to a pointer to float64, widened where they are float32; or to a pointer of their own type."""

    def build(context, builder, sig, args):
        kind = sig.args[2].of(sig.args[0].dtype)
        value = args[2] if kind == sig.args[2] else builder.fpext(args[2], llvm_type(kind))
        at, align = _place(context, builder, sig, args, kind)
        builder.store(value, at, align=align)
        return context.get_dummy_value()

    return types.none(p, i, value), build
