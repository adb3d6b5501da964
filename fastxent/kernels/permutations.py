"""Lanes of a vector, or entries of a small table, at places that another vector holds.

With AVX-512 one permutation. With AVX2 permutations of eight words, which the two halves of a vector of 512 bits need
one by one: LLVM makes one of eight variable extractions.
"""

from llvmlite import ir
from numba.extending import intrinsic

from fastxent.kernels.simd import (
    call_llvm,
    constant,
    float32x16,
    has_avx512,
    int32x16,
    int64x8,
    is_float32,
    llvm_type,
    shuffle,
)

__all__ = ["permute", "table"]

_WORDS = ir.VectorType(ir.IntType(32), 8)


@intrinsic
def permute(typingctx, x, index):
    """The lanes of a vector of floats at the indices, each from 0 to less than the number of lanes."""

    def build(context, builder, sig, args):
        kind = llvm_type(x)
        if has_avx512(context):
            name = f"llvm.x86.avx512.permvar.{'sf' if is_float32(x) else 'df'}.512"
            return call_llvm(builder, name, kind, [args[0], args[1]])
        low, high = _eights(builder, builder.bitcast(args[0], llvm_type(float32x16)))
        found = []
        for at in _eights(builder, args[1] if is_float32(x) else _places_of_words(builder, args[1], 7)):
            above = builder.icmp_signed(">", at, ir.Constant(_WORDS, [7] * 8))
            found.append(builder.select(above, _lookup(builder, high, at), _lookup(builder, low, at)))
        return builder.bitcast(shuffle(builder, *found, range(16)), kind)

    return x(x, index), build


def table(values):
    """A function from 16 x int32, or 8 x int64, to the values at (index mod 8) out of 8 integers."""

    @intrinsic
    def lookup(typingctx, index):
        def build(context, builder, sig, args):
            kind, wide = llvm_type(index), index == int64x8
            if has_avx512(context):
                name = f"llvm.x86.avx512.permvar.{'di' if wide else 'si'}.512"
                entries = ir.Constant(kind, (2 * list(values))[: index.lanes])
                return call_llvm(builder, name, kind, [entries, args[0]])
            if wide:
                return _lookup_wide(builder, values, args[0])
            entries = ir.Constant(_WORDS, list(values))
            found = [_lookup(builder, entries, part) for part in _eights(builder, args[0])]
            return shuffle(builder, *found, range(16))

        return index(index), build

    return lookup


def _eights(builder, words):
    return [shuffle(builder, words, words, range(start, start + 8)) for start in (0, 8)]


def _lookup(builder, entries, index):
    """Eight words at (index mod 8)."""
    index = builder.and_(index, ir.Constant(_WORDS, [7] * 8))
    found = ir.Constant(entries.type, ir.Undefined)
    for lane in range(8):
        at = builder.extract_element(index, ir.Constant(ir.IntType(32), lane))
        value = builder.extract_element(entries, at)
        found = builder.insert_element(found, value, ir.Constant(ir.IntType(32), lane))
    return found


def _places_of_words(builder, index, mask):
    """Where both words of the elements at (index & mask) of 8 x int64 are among words: 16 x int32."""
    pair = builder.and_(builder.shl(index, constant(int64x8, 1)), constant(int64x8, 2 * mask))
    pair = builder.or_(pair, builder.shl(pair, constant(int64x8, 32)))
    return builder.bitcast(builder.or_(pair, constant(int64x8, 1 << 32)), llvm_type(int32x16))


def _lookup_wide(builder, values, index):
    """8 x int64 at (index mod 8): the words of four entries by one permutation, and which four by a third bit."""
    words = [(value >> shift) % 2**32 for value in values for shift in (0, 32)]
    words = [word - (word >> 31 << 32) for word in words]
    places = _eights(builder, _places_of_words(builder, index, 3))
    first, second = (
        builder.bitcast(
            shuffle(builder, *(_lookup(builder, ir.Constant(_WORDS, four), at) for at in places), range(16)),
            llvm_type(int64x8),
        )
        for four in (words[:8], words[8:])
    )
    upper = builder.icmp_signed("<", builder.shl(index, constant(int64x8, 61)), constant(int64x8, 0))
    return builder.select(upper, second, first)
