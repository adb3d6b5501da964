"""float16 and bfloat16: two bytes in memory, float32 in registers.

Numba has neither on a CPU, and NumPy lacks bfloat16, so kernels get such arrays as integers: uint16 stands for float16,
int16 for bfloat16. A pointer into one is a NarrowPointer. To a kernel that is a pointer to float32: what is read
through it is widened exactly, and what is written is rounded to nearest, ties to even, a NaN to the one canonical NaN.

float16 goes through the processor's conversion where it is known to have one (F16C), and through integers elsewhere: to
the same bits.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import register_default
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import lower_builtin, overload

from fastxent.kernels.jit import INLINE
from fastxent.kernels.simd import constant, llvm_type

__all__ = [
    "NarrowPointer",
    "pointer_type",
    "read_type",
    "room",
    "round_lanes",
    "rounded",
    "stored",
    "widen_lanes",
    "widened",
]

FLOAT16, BFLOAT16 = types.uint16, types.int16


class NarrowPointer(types.CPointer):
    """A pointer to float16 or bfloat16; its dtype is what the elements are read as."""

    def __init__(self, stored):
        super().__init__(types.float32)
        self.stored = stored
        self.name = f"{'bfloat16' if stored is BFLOAT16 else 'float16'}*"

    @property
    def key(self):
        return self.name


@register_default(NarrowPointer)
class _NarrowPointerModel(PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, llvm_type(kind.stored).as_pointer())


def pointer_type(element):
    """The pointer to the elements of an array with this dtype."""
    return NarrowPointer(element) if element in (FLOAT16, BFLOAT16) else types.CPointer(element)


def stored(pointer):
    """The type of a pointer's elements in memory."""
    return pointer.stored if isinstance(pointer, NarrowPointer) else pointer.dtype


def room(like, size):
    """An uninitialised array of what a pointer into the array ``like`` reads."""


@overload(room, jit_options=INLINE)
def _room(like, size):
    if like.dtype in (FLOAT16, BFLOAT16):
        return lambda like, size: np.empty(size, np.float32)
    return lambda like, size: np.empty(size, like.dtype)


def read_type(like):
    """The type in which a pointer into the array ``like`` reads its elements."""


@overload(read_type, jit_options=INLINE)
def _read_type(like):
    if like.dtype in (FLOAT16, BFLOAT16):
        return lambda like: np.float32
    return lambda like: like.dtype


# --- in registers ----------------------------------------------------------------------------------------------------


def widen_lanes(context, builder, value, kind, pointer):
    """What was loaded through a NarrowPointer, as float32: a vector or a scalar of type ``kind``."""
    whole, real = llvm_type(_bits(kind)), llvm_type(kind)
    if pointer.stored is BFLOAT16:  # the upper half of a float32
        return builder.bitcast(builder.shl(builder.zext(value, whole), _word(kind, 16)), real)
    if _converts(context):
        return builder.fpext(builder.bitcast(value, _half(kind)), real)
    # Sign and the rest moved into place; 2^112 is the ratio of the formats' exponents, and makes denormals normal.
    wide = builder.sext(value, whole)
    moved = builder.and_(builder.shl(wide, _word(kind, 13)), _word(kind, 0x8FFFE000))
    scaled = builder.bitcast(builder.fmul(builder.bitcast(moved, real), constant(kind, 2.0**112)), whole)
    special = builder.icmp_signed("==", builder.and_(wide, _word(kind, 0x7C00)), _word(kind, 0x7C00))
    return builder.bitcast(builder.select(special, builder.or_(scaled, _word(kind, 0x7F800000)), scaled), real)


def round_lanes(context, builder, value, kind, pointer):
    """float32 (a vector or a scalar of type ``kind``) as what a NarrowPointer stores."""
    narrow, whole = llvm_type(_with(kind, pointer.stored)), llvm_type(_bits(kind))
    nan = builder.fcmp_unordered("uno", value, value)
    b = builder.bitcast(value, whole)
    if pointer.stored is BFLOAT16:
        odd = builder.and_(builder.lshr(b, _word(kind, 16)), _word(kind, 1))
        result = builder.lshr(builder.add(builder.add(b, _word(kind, 0x7FFF)), odd), _word(kind, 16))
        return builder.trunc(builder.select(nan, _word(kind, 0x7FC0), result), narrow)
    if _converts(context):
        value = builder.select(nan, builder.bitcast(_word(kind, 0x7FC00000), llvm_type(kind)), value)
        return builder.bitcast(builder.fptrunc(value, _half(kind)), narrow)
    sign = builder.and_(b, _word(kind, 0x80000000))
    size = builder.xor(b, sign)
    # Normal numbers: the lost bits rounded, the exponent moved by 15 - 127. A carry out of it is infinity.
    odd = builder.and_(builder.lshr(size, _word(kind, 13)), _word(kind, 1))
    moved = builder.add(builder.add(size, _word(kind, ((15 - 127) << 23) + 0xFFF)), odd)
    result = builder.lshr(moved, _word(kind, 13))
    # Denormal ones, below 2^-14: adding 2^-1, whose last bit is worth 2^-24, rounds.
    summed = builder.bitcast(builder.fadd(builder.bitcast(size, llvm_type(kind)), constant(kind, 0.5)), whole)
    denormal = builder.sub(summed, _word(kind, 126 << 23))
    result = builder.select(builder.icmp_signed("<", size, _word(kind, 113 << 23)), denormal, result)
    result = builder.select(builder.icmp_signed(">=", size, _word(kind, 143 << 23)), _word(kind, 0x7C00), result)
    result = builder.or_(result, builder.lshr(sign, _word(kind, 16)))
    return builder.trunc(builder.select(nan, _word(kind, 0x7E00), result), narrow)


def _with(kind, element):
    return kind.of(element) if hasattr(kind, "lanes") else element


def _bits(kind):
    return _with(kind, types.int32)


def _word(kind, value):
    """A 32-bit integer in every lane."""
    return constant(_bits(kind), value - (1 << 32) if value >= 1 << 31 else value)


def _half(kind):
    return ir.VectorType(ir.HalfType(), kind.lanes) if hasattr(kind, "lanes") else ir.HalfType()


def _converts(context):
    """Whether the processor is known to convert float16: else LLVM would call a function that may not exist."""
    return "+f16c" in getattr(context.codegen(), "_tm_features", "")


@lower_builtin(operator.getitem, NarrowPointer, types.Integer)
def _read(context, builder, sig, args):
    value = builder.load(builder.gep(args[0], [args[1]]), typ=llvm_type(sig.args[0].stored))
    return widen_lanes(context, builder, value, types.float32, sig.args[0])


@lower_builtin(operator.setitem, NarrowPointer, types.Integer, types.Any)
def _write(context, builder, sig, args):
    builder.store(round_lanes(context, builder, args[2], types.float32, sig.args[0]), builder.gep(args[0], [args[1]]))


# --- whole arrays, for what is seldom done ---------------------------------------------------------------------------


def widened(array):
    """An array of float16, or of bfloat16's bits as int16, in float32; others as they are."""
    if array.dtype == np.int16:
        return (array.astype(np.int32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def rounded(values, dtype):
    """float64 rounded to float32, and on to float16 or to bfloat16's bits as int16, where that is the dtype."""
    with np.errstate(over="ignore"):  # below the format's range is -inf, as in every library
        values = values.astype(np.float32)
        if dtype != np.int16:
            return values.astype(dtype)
    bits = values.view(np.int32).astype(np.int64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.int16)
    return np.where(values == values, nearest, np.int16(0x7FC0))
