"""The inner loops of the sum-product decoder, for `LANES` frames at once, as vector code on 16-bit integers.

A message of a check is the box-plus of all but one of its inputs: of the magnitudes a and b it is
min(a, b) - (g(|a - b|) - g(a + b)) with g(x) = ln(1 + exp(-x)), and the signs multiply. Prefixes and suffixes leave
three of them an edge. Here g is three squarings of what is left of a straight line,

    g(x) + constant = A (((1 - x / X)_+^2 + B)^2 + C)^2,

whose slope is within 0.014 of the true one and nearly always much nearer; the constant cancels. That is good to a few
in a thousand over a whole check, however many edges it has, which is what the frame error rate asks for: with two
squarings, or without g (min-sum), the bias adds up over the edges. A zero stays exactly zero, as punctured positions
start.

Integers make a frame's result the same on every CPU. The code is written in LLVM's vector instructions because Numba
widens integers to 64 bits, and does not vectorise loops over the lanes reliably.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES: Final = 32
ROW_BYTES: Final = 2 * LANES
_A, _X, _B, _C = 0.4720, 8.759, 0.0789, 0.0680
"""The check messages' relative bias is least with them, for 8 to 120 edges at the error rates of the pool."""
_FINE: Final = (_A * 2.0**112 / _X**8) ** (1.0 / 7.0)
"""Units of a log-likelihood ratio inside a check: those in which A is 1 after three squarings that keep the upper half
of each product. 16 bits reach to 13.3, and more is not told from it."""
_SHIFT: Final = 5
UNIT: Final = _FINE / 2**_SHIFT
"""Units of a log-likelihood ratio in posteriors and messages, 154: posteriors reach to 213."""
_REACH: Final = round(_X * _FINE)
_ADDED: Final = (round(_B * _REACH**2 / 2**16), round(_C * _REACH**4 / 2**48))
AHEAD: Final = 16
"""Edges between the prefetch of a posterior and its use."""

_BYTE = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_LANES = ir.VectorType(_I16, LANES)
_WIDE = ir.VectorType(_I32, LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


def _all(x: int) -> ir.Constant:
    return ir.Constant(_LANES, [ir.Constant(_I16, x)] * LANES)


class _Vectors:
    """Arithmetic on rows of `LANES` integers, emitted through one IR builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def call(self, name: str, x: ir.Value, y: ir.Value) -> ir.Value:
        """One of LLVM's: umin, umax, smin, smax, uadd.sat, usub.sat, sadd.sat, ssub.sat."""
        kind = ir.FunctionType(_LANES, [_LANES, _LANES])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.v{LANES}i16")
        return self.builder.call(function, [x, y])

    def squared(self, x: ir.Value) -> ir.Value:
        """Upper half of the square."""
        wide = self.builder.zext(x, _WIDE)
        half = ir.Constant(_WIDE, [ir.Constant(_I32, 16)] * LANES)
        return self.builder.trunc(self.builder.lshr(self.builder.mul(wide, wide), half), _LANES)

    def g(self, x: ir.Value) -> ir.Value:
        y = self.call("usub.sat", _all(_REACH), x)
        for added in _ADDED:
            y = self.call("uadd.sat", self.squared(y), _all(added))
        return self.squared(y)

    def box_plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Of magnitudes."""
        least, most = self.call("umin", x, y), self.call("umax", x, y)
        near, far = self.g(self.builder.sub(most, least)), self.g(self.call("uadd.sat", most, least))
        return self.call("usub.sat", least, self.builder.sub(near, far))

    def row(self, base: ir.Value, at: ir.Value) -> ir.Value:
        """Pointer to a row of a C-contiguous array."""
        start = self.builder.gep(base, [self.builder.mul(at, at.type(LANES))])
        return self.builder.bitcast(start, _LANES.as_pointer())

    def load(self, base: ir.Value, at: ir.Value) -> ir.Value:
        return self.builder.load(self.row(base, at), align=2)

    def store(self, value: ir.Value, base: ir.Value, at: ir.Value) -> None:
        self.builder.store(value, self.row(base, at), align=2)

    def prefetch(self, base: ir.Value, at: ir.Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        place = self.builder.bitcast(self.row(base, at), _BYTE.as_pointer())
        self.builder.call(function, [place, _I32(1), _I32(3), _I32(1)])


def _data(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, position: int) -> ir.Value:
    return context.make_array(signature.args[position])(context, builder, arguments[position]).data


@intrinsic
def update_check(
    typing_context: Any,
    posterior: Any,
    message: Any,
    kept: Any,
    variables: Any,
    first: Any,
    degree: Any,
    targets: Any,
    check: Any,
    scratch: Any,
) -> Any:
    """One check: new messages to its `degree` >= 2 variables, and their posteriors with these messages in.

    kept: uint32, a bit a lane, 0 where the messages are left from another frame.
    posterior (n, LANES), message (edges, LANES) and scratch (>= 4 degree, LANES) are C-contiguous int16; variables
    (edges + `AHEAD`,) int32, of which the last are only prefetched; targets (m,) uint32, the syndrome's bits of all
    lanes; the edges of the check are first .. first + degree - 1, int64; check is its place in `targets`, int64.
    """
    signature = types.void(
        posterior, message, types.uint32, variables, types.int64, types.int64, targets, types.int64, scratch
    )

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        post_data, message_data, variable_data, target_data, scratch_data = (
            _data(context, builder, sig, args, i) for i in (0, 1, 3, 6, 8)
        )
        first_edge, edge_count, check = args[4], args[5], args[7]
        index = first_edge.type
        start, one, last = index(0), index(1), builder.sub(edge_count, index(1))
        vector = _Vectors(builder)
        call = vector.call

        def variable_of(edge: ir.Value) -> ir.Value:
            return builder.zext(builder.load(builder.gep(variable_data, [edge])), index)

        def place(i: ir.Value, field: int) -> ir.Value:
            return builder.add(builder.mul(i, index(4)), index(field))

        def noted(i: ir.Value, field: int) -> ir.Value:
            return vector.load(scratch_data, place(i, field))

        def note(value: ir.Value, i: ir.Value, field: int) -> None:
            vector.store(value, scratch_data, place(i, field))

        own, size, before, after = range(4)
        in_use = builder.bitcast(args[2], _BITS)
        odd = builder.bitcast(builder.load(builder.gep(target_data, [check])), _BITS)
        sign = cgutils.alloca_once_value(builder, builder.sext(odd, _LANES))
        with cgutils.for_range(builder, edge_count) as loop:
            edge = builder.add(first_edge, loop.index)
            vector.prefetch(post_data, variable_of(builder.add(edge, index(AHEAD))))
            old = builder.select(in_use, vector.load(message_data, edge), _all(0))
            q = call("ssub.sat", vector.load(post_data, variable_of(edge)), old)
            magnitude = call("smin", call("smax", q, call("ssub.sat", _all(0), q)), _all(0xFFFF >> _SHIFT))
            note(q, loop.index, own)
            note(builder.shl(magnitude, _all(_SHIFT)), loop.index, size)
            builder.store(builder.xor(builder.load(sign), q), sign)
        product = builder.load(sign)

        # Prefixes and suffixes in one loop: two chains that do not wait for each other.
        forth = cgutils.alloca_once_value(builder, noted(start, size))
        back = cgutils.alloca_once_value(builder, noted(last, size))
        note(builder.load(forth), start, before)
        note(builder.load(back), last, after)
        with cgutils.for_range_slice(builder, one, last, one, inc=True) as (i, _):
            mirrored = builder.sub(last, i)
            for chain, at, field in ((forth, i, before), (back, mirrored, after)):
                value = vector.box_plus(builder.load(chain), noted(at, size))
                note(value, at, field)
                builder.store(value, chain)

        def deliver(i: ir.Value, outgoing: ir.Value) -> None:
            edge = builder.add(first_edge, i)
            q = noted(i, own)
            negative = builder.ashr(builder.xor(product, q), _all(15))
            outgoing = builder.lshr(outgoing, _all(_SHIFT))
            outgoing = builder.sub(builder.xor(outgoing, negative), negative)
            vector.store(outgoing, message_data, edge)
            vector.store(call("sadd.sat", q, outgoing), post_data, variable_of(edge))

        deliver(start, noted(one, after))
        with cgutils.for_range_slice(builder, one, last, one, inc=True) as (i, _):
            deliver(i, vector.box_plus(noted(builder.sub(i, one), before), noted(builder.add(i, one), after)))
        deliver(last, noted(builder.sub(last, one), before))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def signs(typing_context: Any, posterior: Any, variable: Any) -> Any:
    """Hard decisions on a variable, uint32, a bit a lane: 1 where its posterior, int16 (n, LANES), is negative."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        row = _Vectors(builder).load(_data(context, builder, sig, args, 0), args[1])
        return builder.bitcast(builder.icmp_signed("<", row, _all(0)), _I32)

    return types.uint32(posterior, types.int64), codegen


@intrinsic
def count(typing_context: Any, counts: Any, bits: Any) -> Any:
    """Add one to each of `counts`, uint16 (LANES,), whose lane has a bit in `bits`, uint32; 65,535 is the most."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        vector = _Vectors(builder)
        counts = _data(context, builder, sig, args, 0)
        first = ir.IntType(64)(0)
        more = builder.zext(builder.bitcast(args[1], _BITS), _LANES)
        vector.store(vector.call("uadd.sat", vector.load(counts, first), more), counts, first)
        return context.get_dummy_value()

    return types.void(counts, types.uint32), codegen
