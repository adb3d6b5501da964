"""Fixed-width vectors for Numba: 16 x float32 (and int32), 8 x float64 (and int64), and masks of as many lanes.

A kernel written in these reads like its mathematics and means the same operations, in the same order, whatever the
processor: LLVM gives 512-bit registers to a vector where there are some, and two or four narrower ones elsewhere.
Every lane is plain IEEE arithmetic: nothing is contracted, reassociated or flushed, so the bits are the same too.

Operators: ``+ - * /`` and ``-v`` (one side may be a scalar, which fills all lanes), comparisons (giving masks),
``& | ^ ~`` on masks and integers, ``<< >>`` (arithmetic) on integers. The functions below work on scalars as well where
that makes sense (fma, select, bits, ...), so that one source serves rows of one and of eight.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

from fastxent.kernels.jit import INLINE

__all__ = [
    "add_reduce", "any_lane", "bits", "by_type", "count_lanes", "fill", "first_lanes", "float32x16",
    "float64x8", "fma", "from_bits", "halves", "int32x16", "int64x8", "is_float32", "join", "lane_numbers",
    "max_reduce", "maximum", "minimum", "select", "splat", "to_real", "words",
]  # fmt: skip


class Vector(types.Type):
    """``lanes`` values of one element type; an element of boolean makes it a mask."""

    def __init__(self, element, lanes):
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"vector({lanes} x {element})")

    def of(self, element):
        """The vector type with as many lanes of another element."""
        return Vector(element, self.lanes)


float32x16 = Vector(types.float32, 16)
float64x8 = Vector(types.float64, 8)
int32x16 = Vector(types.int32, 16)
int64x8 = Vector(types.int64, 8)

LANES = {types.float32: 16, types.float64: 8, types.int32: 16, types.int64: 8}
INTEGER_OF = {types.float32: types.int32, types.float64: types.int64}
FLOAT_OF = {integer: real for real, integer in INTEGER_OF.items()}


def _llvm_element(element):
    if element is types.boolean:
        return ir.IntType(1)
    if isinstance(element, types.Integer):
        return ir.IntType(element.bitwidth)
    return ir.FloatType() if element is types.float32 else ir.DoubleType()


def llvm_type(kind):
    """The LLVM type of a Vector, or of a scalar."""
    if isinstance(kind, Vector):
        return ir.VectorType(_llvm_element(kind.element), kind.lanes)
    return _llvm_element(kind)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, llvm_type(kind))


def _element(kind):
    return kind.element if isinstance(kind, Vector) else kind


def _is_real(kind):
    return isinstance(_element(kind), types.Float)


def constant(kind, value):
    """``value`` in every lane."""
    return ir.Constant(llvm_type(kind), [value] * kind.lanes if isinstance(kind, Vector) else value)


def broadcast(builder, value, kind):
    undefined = ir.Constant(llvm_type(kind), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
    return builder.shuffle_vector(one, undefined, lanes)


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def call_llvm(builder, name, result, arguments):
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def has_avx512(context):
    """Whether code is made for a processor that has it."""
    return "+avx512f" in getattr(context.codegen(), "_tm_features", "")


def type_suffix(kind):
    """The part of an intrinsic's name that says its type, such as v16f32."""
    element = _element(kind)
    letter = "f" if isinstance(element, types.Float) else "i"
    return (f"v{kind.lanes}" if isinstance(kind, Vector) else "") + f"{letter}{element.bitwidth}"


# --- operators ---------------------------------------------------------------------------------------------------


def _operator(function, real, whole, compare=False):
    """Define a binary operator: ``real`` builds it for floats, ``whole`` for integers and masks (None: refused)."""

    def common(a, b):
        """The vector type on which the operator works, or None."""
        if isinstance(a, Vector) and isinstance(b, Vector):
            return a if a == b else None
        vector, scalar = (a, b) if isinstance(a, Vector) else (b, a)
        return vector if isinstance(vector, Vector) and isinstance(scalar, types.Number | types.Boolean) else None

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2:
                return None
            a, b = (types.unliteral(arg) for arg in args)
            kind = common(a, b)
            if kind is None or (real if _is_real(kind) else whole) is None:
                return None
            return signature(kind.of(types.boolean) if compare else kind, a, b)

    infer_global(function)(Template)

    def lower(context, builder, sig, args):
        kind = common(*sig.args)
        operands = []
        for value, given in zip(args, sig.args, strict=True):
            if not isinstance(given, Vector):
                value = broadcast(builder, context.cast(builder, value, given, kind.element), kind)
            operands.append(value)
        return (real if _is_real(kind) else whole)(builder, *operands)

    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *pair)(lower)


def _build(name):
    return lambda builder, a, b: getattr(builder, name)(a, b)


def _ordered(sign):
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


def _signed(sign):
    return lambda builder, a, b: builder.icmp_signed(sign, a, b)


_operator(operator.add, _build("fadd"), _build("add"))
_operator(operator.sub, _build("fsub"), _build("sub"))
_operator(operator.mul, _build("fmul"), _build("mul"))
_operator(operator.truediv, _build("fdiv"), None)
_operator(operator.and_, None, _build("and_"))
_operator(operator.or_, None, _build("or_"))
_operator(operator.xor, None, _build("xor"))
_operator(operator.lshift, None, _build("shl"))
_operator(operator.rshift, None, _build("ashr"))
for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _operator(_function, _ordered(_sign), _signed(_sign), compare=True)
_operator(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), _signed("!="), compare=True)


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_negative(context, builder, sig, args):
    return builder.fneg(args[0]) if _is_real(sig.args[0]) else builder.neg(args[0])


@infer_global(operator.invert)
class _Invert(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) and not _is_real(args[0]) else None


@lower_builtin(operator.invert, Vector)
def _lower_invert(context, builder, sig, args):
    return builder.not_(args[0])


# --- lane by lane ------------------------------------------------------------------------------------------------


@intrinsic
def splat(typingctx, x):
    """The scalar in every lane: 16 lanes for float32 and int32, 8 for float64 and int64."""
    element = types.unliteral(x)
    kind = Vector(element, LANES[element])
    return kind(x), lambda context, builder, sig, args: broadcast(
        builder, context.cast(builder, args[0], sig.args[0], element), kind
    )


@intrinsic
def fill(typingctx, like, x):
    """The scalar in every lane of a vector of the type of ``like``, or of the type that a pointer loads."""
    kind = like if isinstance(like, Vector) else Vector(like.dtype, LANES[like.dtype])
    return kind(like, x), lambda context, builder, sig, args: broadcast(
        builder, context.cast(builder, args[1], sig.args[1], kind.element), kind
    )


def by_type(for_float32, for_float64):
    """A constant that depends on the element type: call it in a kernel with a vector, a scalar or a pointer."""

    def constant(like):
        """Resolved by its overload."""

    @overload(constant, jit_options=INLINE)
    def _constant(like):
        value = for_float32 if is_float32(like) else for_float64
        return lambda like: value

    return constant


def is_float32(kind):
    """Whether a vector, scalar or pointer type holds float32."""
    element = kind.dtype if isinstance(kind, types.CPointer) else _element(kind)
    return element is types.float32


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, rounded once (LLVM: llvm.fma). A scalar among vectors fills all lanes."""
    kinds = [types.unliteral(x) for x in (a, b, c)]
    kind = next((k for k in kinds if isinstance(k, Vector)), kinds[0])

    def build(context, builder, sig, args):
        operands = []
        for value, given in zip(args, sig.args, strict=True):
            if given != kind:
                value = context.cast(builder, value, given, _element(kind))
                value = broadcast(builder, value, kind) if isinstance(kind, Vector) else value
            operands.append(value)
        return call_llvm(builder, f"llvm.fma.{type_suffix(kind)}", llvm_type(kind), operands)

    return kind(a, b, c), build


@intrinsic
def select(typingctx, mask, a, b):
    """a where the mask holds, b elsewhere. One of a and b may be a scalar beside a vector."""
    kinds = [types.unliteral(x) for x in (a, b)]
    kind = next((k for k in kinds if isinstance(k, Vector)), kinds[0])
    if isinstance(mask, Vector) and not isinstance(kind, Vector):
        kind = Vector(kind, mask.lanes)

    def build(context, builder, sig, args):
        operands = []
        for value, given in zip(args[1:], sig.args[1:], strict=True):
            if given != kind:
                value = context.cast(builder, value, given, _element(kind))
                value = broadcast(builder, value, kind) if isinstance(kind, Vector) else value
            operands.append(value)
        return builder.select(args[0], *operands)

    return kind(mask, a, b), build


def _clamp(sign):
    def build(context, builder, sig, args):
        kind, limit = sig.args
        bound = args[1]
        if limit != kind:
            bound = context.cast(builder, bound, limit, _element(kind))
            bound = broadcast(builder, bound, kind) if isinstance(kind, Vector) else bound
        compare = builder.fcmp_ordered if _is_real(kind) else builder.icmp_signed
        return builder.select(compare(sign, args[0], bound), bound, args[0])

    return build


@intrinsic
def maximum(typingctx, x, bound):
    """The larger; a NaN in x stays, so bound must not be one."""
    return x(x, bound), _clamp("<")


@intrinsic
def minimum(typingctx, x, bound):
    """The smaller; a NaN in x stays, so bound must not be one."""
    return x(x, bound), _clamp(">")


def _cast_lanes(kind, element):
    return kind.of(element) if isinstance(kind, Vector) else element


@intrinsic
def bits(typingctx, x):
    """The bits of floats, as integers of the same width."""
    kind = _cast_lanes(x, INTEGER_OF[_element(x)])
    return kind(x), lambda context, builder, sig, args: builder.bitcast(args[0], llvm_type(kind))


@intrinsic
def from_bits(typingctx, x):
    """The floats that have these bits."""
    kind = _cast_lanes(x, FLOAT_OF[_element(x)])
    return kind(x), lambda context, builder, sig, args: builder.bitcast(args[0], llvm_type(kind))


@intrinsic
def words(typingctx, x):
    """The words of 8 x int64 as 16 x int32: the low one of each, then the high one."""
    return int32x16(x), lambda context, builder, sig, args: builder.bitcast(args[0], llvm_type(int32x16))


@intrinsic
def to_real(typingctx, x):
    """int32 as float32, rounded to nearest."""
    kind = _cast_lanes(x, FLOAT_OF[_element(x)])
    return kind(x), lambda context, builder, sig, args: builder.sitofp(args[0], llvm_type(kind))


@intrinsic
def halves(typingctx, x):
    """16 x float32 widened to two vectors of 8 x float64 (exact): lanes 0-7 and 8-15; int32 to int64 likewise."""
    element = types.float64 if _is_real(x) else types.int64
    half = Vector(element, 8)

    def build(context, builder, sig, args):
        widen = builder.fpext if _is_real(x) else builder.sext
        parts = [widen(shuffle(builder, args[0], args[0], range(i, i + 8)), llvm_type(half)) for i in (0, 8)]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.UniTuple(half, 2)(x), build


@intrinsic
def join(typingctx, low, high):
    """Two vectors of 8 x float64 rounded to 16 x float32."""

    def build(context, builder, sig, args):
        parts = [builder.fptrunc(a, ir.VectorType(ir.FloatType(), 8)) for a in args]
        return shuffle(builder, *parts, range(16))

    return float32x16(low, high), build


# --- across lanes ------------------------------------------------------------------------------------------------


@intrinsic
def any_lane(typingctx, mask):
    """Whether the mask holds in any lane."""

    def build(context, builder, sig, args):
        lanes = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", lanes, ir.Constant(lanes.type, 0))

    return types.boolean(mask), build


@intrinsic
def lane_bits(typingctx, mask):
    """The mask as an int64: lane 0 in its lowest bit."""

    def build(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), ir.IntType(64))

    return types.int64(mask), build


@intrinsic
def trailing_zeros(typingctx, n):
    """How many zeros are below the lowest 1 of an int64; 64 if there is none."""

    def build(context, builder, sig, args):
        return call_llvm(builder, "llvm.cttz.i64", ir.IntType(64), [args[0], ir.Constant(ir.IntType(1), 0)])

    return types.int64(n), build


@intrinsic
def count_lanes(typingctx, mask):
    """In how many lanes the mask holds."""

    def build(context, builder, sig, args):
        lanes = builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), ir.IntType(64))
        return call_llvm(builder, "llvm.ctpop.i64", ir.IntType(64), [lanes])

    return types.int64(mask), build


def _tree(builder, value, lanes, combine):
    """Combine lane i with lane i + lanes/2, until one is left: a fixed order."""
    while lanes > 1:
        lanes //= 2
        value = combine(
            shuffle(builder, value, value, range(lanes)), shuffle(builder, value, value, range(lanes, 2 * lanes))
        )
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def add_reduce(typingctx, x):
    """The sum of the lanes, as a fixed tree."""
    return _element(x)(x), lambda context, builder, sig, args: _tree(
        builder, args[0], x.lanes, builder.fadd if _is_real(x) else builder.add
    )


@intrinsic
def max_reduce(typingctx, x):
    """The largest lane. A NaN may be lost: look for one beforehand."""

    def build(context, builder, sig, args):
        compare = builder.fcmp_ordered if _is_real(x) else builder.icmp_signed
        return _tree(builder, args[0], x.lanes, lambda a, b: builder.select(compare("<", a, b), b, a))

    return _element(x)(x), build


@intrinsic
def lane_numbers(typingctx, like):
    """0, 1, 2, ... as integers in as many lanes as the vector ``like`` has, of the same width."""
    kind = like.of(INTEGER_OF.get(like.element, like.element))
    return kind(like), lambda context, builder, sig, args: ir.Constant(llvm_type(kind), list(range(kind.lanes)))


@intrinsic
def first_lanes(typingctx, n, like):
    """The mask of the first n lanes, for n up to the number of lanes or more."""
    mask = like.of(types.boolean)

    def build(context, builder, sig, args):
        number = builder.trunc(context.cast(builder, args[0], n, types.int64), ir.IntType(32))
        kind = Vector(types.int32, like.lanes)
        lanes = ir.Constant(llvm_type(kind), list(range(kind.lanes)))
        return builder.icmp_signed("<", lanes, broadcast(builder, number, kind))

    return mask(n, like), build
