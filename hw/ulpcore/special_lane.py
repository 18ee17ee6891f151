"""A lane of the special unit with floating point: twin of `ulpsim.special.element`."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.formats import Precision
from ulpsim.isa import Pool, Source

from .accumulators import ACCUMULATOR_BITS
from .float32 import (
    Add,
    FromInteger,
    Multiply,
    ToFloat,
    ToInteger,
    delay,
    fp8_to_dlfloat,
    from_dlfloat,
    less,
)
from .functions import ENTRY_BITS, INDEX_BITS, SecondStep, pass_if
from .scratchpad import PARAMETER_BITS
from .unit import precision_bits

__all__ = ["SpecialLane"]


class SpecialLane(wiring.Component):
    """The path of one element a cycle, from its source to its code.

    Cycles are those of the table in `special`, without and with `special_functions`.

    Members
    -------
    accumulator : In(32), cycle 0 or 4
    source_code : In(16), cycle 7
        Of a number with floating point, or an integer (BINARY: 1 or -1) extended to 16 bits; as
        the residual.
    row : In(32), cycle 8, row_later : In(32), cycle 12
        The row scalar.
    residual_code : In(16), cycle 7 or 18
    index : Out, cycle 18, entry : In, cycle 19
        To and from the table of functions.
    parameters : In(128), cycles 4, 8 (scale), 8, 12 (bias), 8, 16 (residual scale), 16, 28 (upper
        bound)
    window_first : In(1), cycle 17 or 29
        The element is the first one of its window.
    passes : In(1), cycle 29
        There is no element: the pool keeps what it has.
    pooled : Out(32), cycle 33
        Zero and NaN-Inf in any form but a negative NaN-Inf.
    result : Out(16), cycle 23 or 35
        An element of fewer bits stands in the lowest ones.
    forward_bias : In(4)
        Bias of E4M3.
    The other inputs, `fields`, are fields of the instruction.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        bits = precision_bits(config.formats)
        self.fields = {
            "float_accumulator": 1, "relu": 1, "clip": 1, "residual": 1, "pool": 2,
            "output_precision": bits, "output_signed": 1, "residual_precision": bits}
        ports = {"accumulator": In(ACCUMULATOR_BITS), "parameters": In(PARAMETER_BITS),
                 "residual_code": In(16), "window_first": In(1), "result": Out(16),
                 "forward_bias": In(4)}
        if config.special_functions:
            self.fields |= {"source": 2, "source_precision": bits, "product": 1, "function": 3,
                            "row_scale": 1, "row_bias": 1}
            ports |= {"source_code": In(16), "row": In(32), "row_later": In(32), "passes": In(1),
                      "index": Out(INDEX_BITS), "entry": In(ENTRY_BITS), "pooled": Out(32)}
        super().__init__(ports | {name: In(width) for name, width in self.fields.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        scale, bias, residual_scale, upper_bound = (
            self.parameters[i * 32:(i + 1) * 32] for i in range(4))

        x = delay(m, self.accumulator, 1, name="accumulator")
        if config.has_integer:
            m.submodules.from_integer = from_integer = FromInteger()
            m.d.comb += [
                from_integer.value.eq(x),
                from_integer.convert.eq(~self.float_accumulator),
            ]
            x = from_integer.result
        else:
            x = delay(m, x, FromInteger.latency, name="x")
        if config.special_functions:
            element = delay(m, self._from_code(m, "source"), 1, name="source")
            x = Mux(self.source == Source.ACTIVATIONS.value, element,
                    Mux(self.source == Source.ROWS.value, self.row, x))
            scale = Mux(self.row_scale, self.row, scale)
            bias = Mux(self.row_bias, self.row_later, bias)
        m.submodules.multiply = multiply = Multiply()
        m.submodules.add_bias = add_bias = Add(stages=4)
        m.d.comb += [
            multiply.a.eq(x),
            multiply.b.eq(scale),
            add_bias.a.eq(multiply.result),
            add_bias.b.eq(bias),
        ]
        y = add_bias.result
        residual = delay(m, self._from_code(m, "residual"), 1, name="residual")
        if config.special_functions:
            m.submodules.second = second = SecondStep()
            m.d.comb += [
                second.y.eq(y), second.scale.eq(residual_scale), second.factor.eq(residual),
                second.residual.eq(self.residual), second.product.eq(self.product & self.residual),
                second.function.eq(self.function),
                self.index.eq(second.index), second.entry.eq(self.entry),
            ]
            y = second.result
        else:
            m.submodules.multiply_residual = multiply_residual = Multiply(significand_bits=10)
            m.submodules.add_residual = add_residual = Add(stages=4)
            m.d.comb += [
                multiply_residual.a.eq(residual),
                multiply_residual.b.eq(residual_scale),
                add_residual.a.eq(y),
                add_residual.b.eq(pass_if(self.residual, multiply_residual.result)),
            ]
            y = add_residual.result
        # From here on any form of a zero or of NaN-Inf will do as long as NaN-Inf compares as the
        # greatest.
        y = pass_if(~(self.relu & y[31]), y)
        lesser = Mux(self.clip & less(upper_bound, y), upper_bound, y)
        nan = y[23:31].all() | (self.clip & upper_bound[23:31].all())
        y = Cat(lesser[:23], lesser[23:31] | nan.replicate(8), lesser[31] & ~nan)
        y = delay(m, y, 1, name="y")

        pooled = self._pool(m, y)
        if config.special_functions:
            m.d.comb += self.pooled.eq(pooled)
        m.d.comb += self.result.eq(self._to_code(m, pooled))
        return m

    def _pool(self, m: Module, y: Value) -> Value:
        """The window's elements in one, four cycles later: so is the element before."""
        passes = self.passes if self.config.special_functions else Const(0)
        further = ~self.window_first
        m.submodules.pool_sum = pool_sum = Add(stages=4)
        m.d.comb += [
            pool_sum.a.eq(Mux(passes, pool_sum.result, y)),
            pool_sum.b.eq(pass_if(further & ~passes, pool_sum.result)),
        ]
        greatest = Signal(32, name="greatest_1", reset_less=True)
        running = delay(m, greatest, 3, name="greatest_before")
        with m.If(passes | (further & less(y, running))):
            m.d.sync += greatest.eq(running)
        with m.Else():
            m.d.sync += greatest.eq(y)
        return Mux(self.pool == Pool.SUM.value, pool_sum.result, running)

    def _from_code(self, m: Module, name: str) -> Value:
        """An element of the source or of the residual as FP32."""
        code, precision = getattr(self, f"{name}_code"), getattr(self, f"{name}_precision")
        number, sign = code[:8], code[-1]
        magnitude = Signal(8, name=f"{name}_magnitude")
        m.d.comb += magnitude.eq((number ^ sign.replicate(8)) + sign)
        shift = []
        for step in (4, 2, 1):
            empty = ~magnitude[8 - step:].any()
            shift.insert(0, empty)
            shifted = Signal(8, name=f"{name}_shifted_{step}")
            m.d.comb += shifted.eq(Mux(empty, magnitude << step, magnitude))
            magnitude = shifted
        # The exponent is 134 - shift: 127 and the complement of the shift's three bits.
        integer = Cat(Const(0, 16), magnitude[:7], (Const(127, 8) + ~Cat(shift))[:8], sign)
        integer = integer & magnitude[7].replicate(32)
        forward, backward = (self._is(precision, [p]) for p in (Precision.E4M3, Precision.E5M2))
        half = Mux(forward | backward, fp8_to_dlfloat(code[:8], backward, self.forward_bias), code)
        return Mux(self._is(precision, self._floats), from_dlfloat(half), integer)

    @property
    def _floats(self) -> list[Precision]:
        return [p for p in self.config.formats if p.is_float]

    def _is(self, precision: Value, among: Sequence[Precision]) -> Value:
        """Whether a precision that the unit knows is one of these."""
        known = self.config.formats
        if set(known) <= set(among):
            return Const(1, 1)
        return Cat(Const(0, 1), *(precision == p.value for p in known if p in among)).any()

    def _to_code(self, m: Module, pooled: Value) -> Value:
        """The element in the output format, two cycles after `pooled`."""
        precision = self.output_precision
        pooled = delay(m, pooled, 1, name="pooled_in")
        m.submodules.to_float = to_float = ToFloat(formats=self._floats)
        m.d.comb += [to_float.value.eq(pooled), to_float.precision.eq(precision),
                     to_float.forward_bias.eq(self.forward_bias)]
        code: Value = to_float.result
        integers = [p for p in self.config.formats if p.is_integer]
        if integers:
            m.submodules.to_integer = to_integer = ToInteger()
            m.d.comb += [to_integer.value.eq(pooled), to_integer.is_signed.eq(self.output_signed)]
            with m.Switch(precision):
                for p in integers:
                    with m.Case(p.value):
                        m.d.comb += to_integer.highest.eq(
                            Cat(Const(-1, p.bits - 1), ~self.output_signed))
            code = Mux(self._is(precision, integers), to_integer.result, code)
        if Precision.BINARY in self.config.formats:
            exponent = pooled[23:31]
            positive = ~exponent.all() & ~(exponent.any() & pooled[31])
            code = Mux(self._is(precision, [Precision.BINARY]),
                       delay(m, positive, 1, name="positive"), code)
        return code
