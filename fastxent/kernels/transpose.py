"""Rows in memory <-> vectors that hold one class of many rows, by shuffles in registers.

A row is as many lanes of a vector (16 rows of float32, 8 of float64). Nothing is read or written outside the elements
that a function names, and no mask is needed.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastxent.kernels.memory import memory_kind, read
from fastxent.kernels.narrow import stored
from fastxent.kernels.simd import Vector, llvm_type, shuffle

__all__ = [
    "adjacent_to_vectors",
    "adjacent_vectors",
    "as_double",
    "four_of_eight",
    "four_of_rows",
    "max_across",
    "rows_to_vectors",
    "sum_across",
    "vectors_to_rows",
]

PIECE = 4  # elements of a row that are moved together


def _exchange(builder, vectors, lanes):
    """Four vectors of pieces of four lanes: lane j of each vector's piece goes to vector j, piece by piece.

    It is its own inverse. Shuffles within 128 bits cost least: four lanes of float32, two of float64.
    """

    def pairs(a, b, places):
        """Of each piece the lanes ``places``, counted through the piece of a and then that of b."""
        chosen = [piece + (i if i < PIECE else lanes + i - PIECE) for piece in range(0, lanes, PIECE) for i in places]
        return shuffle(builder, a, b, chosen)

    a, b, c, d = vectors
    if vectors[0].type.element != ir.DoubleType():
        first, second = (0, 4, 1, 5), (2, 6, 3, 7)  # interleave, then join halves
        ab0, ab1, cd0, cd1 = pairs(a, b, first), pairs(a, b, second), pairs(c, d, first), pairs(c, d, second)
        low, high = (0, 1, 4, 5), (2, 3, 6, 7)
        return pairs(ab0, cd0, low), pairs(ab0, cd0, high), pairs(ab1, cd1, low), pairs(ab1, cd1, high)
    even, odd = (0, 4, 2, 6), (1, 5, 3, 7)
    ab0, ab1, cd0, cd1 = pairs(a, b, even), pairs(a, b, odd), pairs(c, d, even), pairs(c, d, odd)
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return pairs(ab0, cd0, low), pairs(ab1, cd1, low), pairs(ab0, cd0, high), pairs(ab1, cd1, high)


def _at(builder, p, index, kind):
    """The pointer ``index`` elements on, to a vector of a kind; and its alignment in bytes."""
    at = builder.gep(p, [index if isinstance(index, ir.Value) else ir.Constant(ir.IntType(64), index)])
    return builder.bitcast(at, llvm_type(kind).as_pointer()), kind.element.bitwidth // 8


def _get(builder, p, index, kind):
    at, align = _at(builder, p, index, kind)
    return builder.load(at, align=align, typ=llvm_type(kind))


def _put(builder, p, index, value, kind):
    at, align = _at(builder, p, index, kind)
    builder.store(value, at, align=align)


def _times(builder, step, n):
    return builder.mul(step, ir.Constant(ir.IntType(64), n))


def _pieces(context, builder, p, lanes, rows):
    """Four vectors, one an element, of four elements of each of the first ``rows`` (see _rows), as many as lanes."""
    kind = memory_kind(p, lanes)
    piece, vectors = Vector(stored(p), PIECE), []
    for r in range(PIECE):
        pieces, width = [_get(builder, *place, piece) for place in rows[r:lanes:PIECE]], PIECE
        while width < lanes:
            width *= 2
            pieces = [shuffle(builder, a, b, range(width)) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
        vectors.append(read(context, builder, pieces[0], kind, p))
    return _exchange(builder, vectors, lanes)


def _opaque(builder, value):
    """The value, of which LLVM does not know what it is made of: it would keep a register for each row's address."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def _rows(builder, base, step, n):
    """The places of n rows, as pairs of a pointer and an index: multiples of few numbers, as instructions take them."""
    bases = [_opaque(builder, base)]
    if n > 8:
        bases.append(_opaque(builder, builder.gep(bases[0], [_times(builder, step, 8)])))
    odd = {k: step if k == 1 else _opaque(builder, _times(builder, step, k)) for k in (1, 3, 5, 7)}
    rows = []
    for row in range(n):
        base, r = bases[row // 8], row % 8
        power = r & -r
        rows.append((base, ir.Constant(ir.IntType(64), 0) if r == 0 else _times(builder, odd[r // power], power)))
    return rows


@intrinsic
def rows_to_vectors(typingctx, source, step, target, target_step):
    """Four elements of each row, rows ``step`` apart, to four vectors ``target_step`` apart: element j to vector j."""

    def build(context, builder, sig, args):
        base, step, target, target_step = args
        kind = memory_kind(source)
        rows = [(base, _times(builder, step, row)) for row in range(kind.lanes)]
        for j, vector in enumerate(_pieces(context, builder, source, kind.lanes, rows)):
            _put(builder, target, _times(builder, target_step, j), vector, kind)
        return context.get_dummy_value()

    return types.none(source, types.int64, target, types.int64), build


@intrinsic
def four_of_rows(typingctx, source, step):
    """Four elements of each row, rows ``step`` apart, as four vectors: one an element.

    Vectors of 8 lanes: of float32 four for the first rows, then four for the others, so that no half need be moved.
    """
    kind = memory_kind(source, 8)
    halves = memory_kind(source).lanes // kind.lanes
    result = types.UniTuple(kind, PIECE * halves)

    def build(context, builder, sig, args):
        rows, vectors = _rows(builder, *args, kind.lanes * halves), []
        for half in range(halves):
            vectors += _pieces(context, builder, source, kind.lanes, rows[half * kind.lanes :])
        return context.make_tuple(builder, result, vectors)

    return result(source, types.int64), build


@intrinsic
def four_of_eight(typingctx, source, step):
    """Four elements of each of eight rows, ``step`` apart, as four vectors of float64: one an element."""
    kind = memory_kind(source, 8)
    wide = kind.of(types.float64)
    result = types.UniTuple(wide, PIECE)

    def build(context, builder, sig, args):
        vectors = _pieces(context, builder, source, kind.lanes, _rows(builder, *args, kind.lanes))
        if kind != wide:
            vectors = [builder.fpext(vector, llvm_type(wide)) for vector in vectors]
        return context.make_tuple(builder, result, vectors)

    return result(source, types.int64), build


@intrinsic
def vectors_to_rows(typingctx, source, source_step, target, step):
    """The way back: four vectors ``source_step`` apart to four elements of each row, ``step`` apart; the same type."""
    kind = memory_kind(source).of(stored(source))
    piece, lanes = Vector(kind.element, PIECE), kind.lanes

    def build(context, builder, sig, args):
        base, source_step, target, step = args
        vectors = [_get(builder, base, _times(builder, source_step, j), kind) for j in range(PIECE)]
        for r, vector in enumerate(_exchange(builder, vectors, lanes)):
            for row in range(r, lanes, PIECE):
                value = shuffle(builder, vector, vector, range(row - r, row - r + PIECE))
                _put(builder, target, _times(builder, step, row), value, piece)
        return context.get_dummy_value()

    return types.none(source, types.int64, target, types.int64), build


def _adjacent(context, builder, base, source, n_classes):
    """n_classes vectors of rows without gaps between them."""
    kind = memory_kind(source)
    kept, lanes = kind.of(stored(source)), kind.lanes
    vectors = [_get(builder, base, j * lanes, kept) for j in range(n_classes)]
    vectors = [read(context, builder, vector, kind, source) for vector in vectors]
    values = []
    for j in range(n_classes):
        value = vectors[0]
        places = [divmod(place, lanes) for place in range(j, n_classes * lanes, n_classes)]
        for v in range(1, n_classes):  # lanes from vector v; the others as they are, at first from vector 0
            before = [lane if v == 1 else r for r, (_, lane) in enumerate(places)]
            chosen = [lanes + lane if of == v else before[r] for r, (of, lane) in enumerate(places)]
            value = shuffle(builder, value, vectors[v], chosen)
        values.append(value)
    return values


@intrinsic(prefer_literal=True)
def adjacent_to_vectors(typingctx, source, n, target):
    """Rows of n elements (a small constant) without gaps between them, to n vectors: element j to vector j."""
    kind, n_classes = memory_kind(source), n.literal_value

    def build(context, builder, sig, args):
        for j, value in enumerate(_adjacent(context, builder, args[0], source, n_classes)):
            _put(builder, args[2], j * kind.lanes, value, kind)
        return context.get_dummy_value()

    return types.none(source, n, target), build


@intrinsic(prefer_literal=True)
def adjacent_vectors(typingctx, source, n):
    """The same vectors, as a tuple."""
    result = types.UniTuple(memory_kind(source), n.literal_value)

    def build(context, builder, sig, args):
        return context.make_tuple(builder, result, _adjacent(context, builder, args[0], source, n.literal_value))

    return result(source, n), build


@intrinsic
def as_double(typingctx, x):
    """A vector of float32 as float64, in as many lanes."""
    kind = x.of(types.float64)
    return kind(x), lambda context, builder, sig, args: builder.fpext(args[0], llvm_type(kind))


def _across(combine):
    """A function of rows as long as a vector, ``step`` apart: lane r is what ``combine`` makes of row r, or the last.

    The order is a fixed tree, that of simd.add_reduce and simd.max_reduce.
    """

    @intrinsic
    def across(typingctx, p, step, m):
        kind = memory_kind(p)
        kept, lanes = kind.of(stored(p)), kind.lanes

        def build(context, builder, sig, args):
            base, step, m = args
            end = builder.sub(m, ir.Constant(ir.IntType(64), 1))
            rows = []
            for r in range(lanes):
                row = ir.Constant(ir.IntType(64), r)
                row = builder.select(builder.icmp_signed("<", row, end), row, end)
                row = _get(builder, base, builder.mul(row, step), kept)
                rows.append(read(context, builder, row, kind, p))
            while len(rows) > 1:
                half = len(rows) // 2  # what is left of a row's piece when this step is done
                pieces = range(0, lanes, 2 * half)
                low = [piece + other + i for piece in pieces for other in (0, lanes) for i in range(half)]
                high = [i + half for i in low]
                pairs = list(zip(rows[:half], rows[half:], strict=True))
                rows = [combine(builder, shuffle(builder, *pair, low), shuffle(builder, *pair, high)) for pair in pairs]
            return rows[0]

        return kind(p, types.int64, types.int64), build

    return across


max_across = _across(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
sum_across = _across(lambda builder, a, b: builder.fadd(a, b))
