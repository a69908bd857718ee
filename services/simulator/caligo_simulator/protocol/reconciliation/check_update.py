"""The check update of the sum-product decoder, for `LANES` frames at once, as one piece of vector code.

With t_i = tanh(q_i / 2) = s_i (1 - e_i) / (1 + e_i), e_i = exp(-|q_i|), the message of a check to its i-th
variable is 2 atanh(prod_{j != i} t_j). Numerator N and denominator D of the product are carried apart, as
prefix times suffix, which leaves ln((D + N) / (D - N)): one exponential, one logarithm and one division an
edge, and no division by a vanishing t (punctured positions start at q = 0 exactly).

It is written in LLVM's vector instructions because Numba's loop over the lanes is not vectorised reliably:
Numba widens every 32-bit integer to 64 bits, which the exponent arithmetic below would pay for, and the
compiler has to assume that the arrays overlap.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_FLOATS = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)
_FAST = ("fast",)


def _floats(x: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [ir.Constant(_F32, x)] * LANES)


def _ints(x: int) -> ir.Constant:
    return ir.Constant(_INTS, [ir.Constant(_I32, x)] * LANES)


class _Vectors:
    """Arithmetic on vectors of `LANES` floats, emitted through one IR builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fadd(x, y, flags=_FAST)

    def sub(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fsub(x, y, flags=_FAST)

    def mul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fmul(x, y, flags=_FAST)

    def div(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fdiv(x, y, flags=_FAST)

    def max(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered(">", x, y, flags=_FAST), x, y)

    def bits(self, x: ir.Value) -> ir.Value:
        return self.builder.bitcast(x, _INTS)

    def of_bits(self, x: ir.Value) -> ir.Value:
        return self.builder.bitcast(x, _FLOATS)

    def magnitude(self, x: ir.Value) -> ir.Value:
        return self.of_bits(self.builder.and_(self.bits(x), _ints(0x7FFFFFFF)))

    def with_sign_of(self, magnitude: ir.Value, x: ir.Value) -> ir.Value:
        sign = self.builder.and_(self.bits(x), _ints(-0x80000000))
        return self.of_bits(self.builder.or_(self.bits(magnitude), sign))

    def polynomial(self, x: ir.Value, highest_first: list[float]) -> ir.Value:
        result: ir.Value = _floats(highest_first[0])
        for coefficient in highest_first[1:]:
            result = self.add(self.mul(result, x), _floats(coefficient))
        return result

    def exp(self, x: ir.Value) -> ir.Value:
        """exp(x) for x <= 0, relative error below 2e-7, exactly 1 at 0, held at 2^-40 below."""
        y = self.max(self.mul(x, _floats(1.4426950408889634)), _floats(-40.0))
        k = self.builder.fptosi(y, _INTS)
        fraction = self.sub(y, self.builder.sitofp(k, _FLOATS))
        p = self.polynomial(
            fraction, [9.38116809e-04, 9.18687864e-03, 5.52781429e-02, 2.40171594e-01, 6.93142172e-01, 1.0]
        )
        scale = self.builder.shl(self.builder.add(k, _ints(127)), _ints(23))
        return self.mul(p, self.of_bits(scale))

    def ln(self, x: ir.Value) -> ir.Value:
        """Natural logarithm of positive normal numbers, absolute error below 3e-6 + 1e-7 |ln x|."""
        sqrt_half = _ints(0x3F3504F3)
        k = self.builder.ashr(self.builder.sub(self.bits(x), sqrt_half), _ints(23))
        mantissa = self.of_bits(self.builder.sub(self.bits(x), self.builder.shl(k, _ints(23))))
        u = self.sub(mantissa, _floats(1.0))
        p = self.polynomial(
            u,
            [
                -0.14338474483021846,
                0.2207053930890687,
                -0.25397863721346137,
                0.3325676082544792,
                -0.49990359852872723,
                1.000004686370902,
            ],
        )
        return self.add(self.mul(p, u), self.mul(self.builder.sitofp(k, _FLOATS), _floats(0.6931471805599453)))


@intrinsic
def update_check(
    typing_context: Any,
    posterior: Any,
    message: Any,
    keep: Any,
    variables: Any,
    first: Any,
    degree: Any,
    signs: Any,
    check: Any,
    scratch: Any,
) -> Any:
    """One check: new messages to its `degree` variables, and their posteriors with these messages in.

    keep (LANES,) is 0 in the lanes whose messages are left from another frame, 1 elsewhere.
    posterior (n, LANES), message (edges, LANES), signs (m, LANES: -1 where the syndrome bit is 1) and
    scratch (>= 4 degree, LANES) are C-contiguous float32; variables (edges,) int32; the edges of the check are
    first .. first + degree - 1, int64; check is its row in `signs`, int64.
    """
    signature = types.void(posterior, message, keep, variables, types.int64, types.int64, signs, types.int64, scratch)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        def data(position: int) -> ir.Value:
            return context.make_array(sig.args[position])(context, builder, args[position]).data

        post_data, message_data, keep_data, variable_data, sign_data, scratch_data = (
            data(i) for i in (0, 1, 2, 3, 6, 8)
        )
        first_edge, edge_count, row = args[4], args[5], args[7]
        index = first_edge.type
        vector = _Vectors(builder)

        def pointer(base: ir.Value, at: ir.Value) -> ir.Value:
            start = builder.gep(base, [builder.mul(at, index(LANES))])
            return builder.bitcast(start, _FLOATS.as_pointer())

        def load(base: ir.Value, at: ir.Value) -> ir.Value:
            return builder.load(pointer(base, at), align=4)

        def store(value: ir.Value, base: ir.Value, at: ir.Value) -> None:
            builder.store(value, pointer(base, at), align=4)

        def variable_of(edge: ir.Value) -> ir.Value:
            return builder.zext(builder.load(builder.gep(variable_data, [edge])), index)

        def scratch_row(i: ir.Value, field: int) -> ir.Value:
            return builder.add(builder.mul(i, index(4)), index(field))

        def denominator(numerator: ir.Value) -> ir.Value:
            # 1 + e from +-(1 - e)
            return vector.sub(_floats(2.0), vector.magnitude(numerator))

        kept = load(keep_data, index(0))
        run_n = cgutils.alloca_once_value(builder, load(sign_data, row))
        run_d = cgutils.alloca_once_value(builder, _floats(1.0))
        with cgutils.for_range(builder, edge_count) as loop:
            edge = builder.add(first_edge, loop.index)
            old = vector.mul(load(message_data, edge), kept)
            q = vector.sub(load(post_data, variable_of(edge)), old)
            e = vector.exp(builder.fneg(vector.magnitude(q)))
            factor = vector.with_sign_of(vector.sub(_floats(1.0), e), q)
            prefix_n, prefix_d = builder.load(run_n), builder.load(run_d)
            for field, value in enumerate((q, factor, prefix_n, prefix_d)):
                store(value, scratch_data, scratch_row(loop.index, field))
            builder.store(vector.mul(prefix_n, factor), run_n)
            builder.store(vector.mul(prefix_d, denominator(factor)), run_d)

        builder.store(_floats(1.0), run_n)
        builder.store(_floats(1.0), run_d)
        with cgutils.for_range(builder, edge_count) as loop:
            i = builder.sub(builder.sub(edge_count, index(1)), loop.index)
            edge = builder.add(first_edge, i)
            q, factor, prefix_n, prefix_d = (load(scratch_data, scratch_row(i, field)) for field in range(4))
            suffix_n, suffix_d = builder.load(run_n), builder.load(run_d)
            product_n = vector.mul(prefix_n, suffix_n)
            product_d = vector.mul(prefix_d, suffix_d)
            smallest = vector.mul(product_d, _floats(1e-7))
            ratio = vector.div(
                vector.max(vector.add(product_d, product_n), smallest),
                vector.max(vector.sub(product_d, product_n), smallest),
            )
            outgoing = vector.ln(ratio)
            store(outgoing, message_data, edge)
            store(vector.add(q, outgoing), post_data, variable_of(edge))
            builder.store(vector.mul(suffix_n, factor), run_n)
            builder.store(vector.mul(suffix_d, denominator(factor)), run_d)
        return context.get_dummy_value()

    return signature, codegen
