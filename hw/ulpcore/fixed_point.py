"""The lane of a special unit without floating point: twin of `ulpsim.fixed_point`."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.fixed_point import FRACTION_BITS, MULTIPLIER_BITS, SHIFT_BITS
from ulpsim.formats import Precision
from ulpsim.isa import Pool

from .accumulators import ACCUMULATOR_BITS
from .float32 import delay
from .scratchpad import PARAMETER_BITS
from .unit import precision_bits

__all__ = ["FixedPointLane"]

#: A product of an accumulator, the one of a residual beside it, and a bit for their sum.
_SUM_BITS = ACCUMULATOR_BITS + MULTIPLIER_BITS + 1


class FixedPointLane(wiring.Component):
    """The path of one element a cycle, from its accumulator to its code.

    Members
    -------
    accumulator : In(32), cycle 8
    residual_code : In(16), cycle 7
        An integer (BINARY: 1 or -1), extended to 16 bits.
    parameters : In(128), cycles 8 (multiplier, shift, residual multiplier), 12 (bias), 16 (upper
        bound)
    window_first : In(1), cycle 17
        The element is the first one of its window.
    result : Out(16), cycle 23
        An element of fewer bits stands in the lowest ones.
    The other inputs, `fields`, are fields of the instruction.
    """

    accumulator: Signal
    residual_code: Signal
    parameters: Signal
    window_first: Signal
    result: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        self.fields = {"relu": 1, "clip": 1, "residual": 1, "pool": 2,
                       "output_precision": precision_bits(config.formats),
                       "output_signed": 1}
        super().__init__({
            "accumulator": In(ACCUMULATOR_BITS), "parameters": In(PARAMETER_BITS),
            "residual_code": In(16), "window_first": In(1), "result": Out(16),
            **{name: In(width) for name, width in self.fields.items()}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scale, bias, residual_scale, upper_bound = (
            self.parameters[i * 32:(i + 1) * 32] for i in range(4))
        multiplier = scale[:MULTIPLIER_BITS].as_signed()
        shift = scale[MULTIPLIER_BITS:MULTIPLIER_BITS + SHIFT_BITS]

        # Registers in front of the multipliers, behind them, and behind the sums of their halves.
        product = self._product(m, self.accumulator, multiplier, "product")
        # Nine bits hold any element, signed or not.
        residual = delay(m, self.residual_code[:9] & self.residual.replicate(9), 1,
                         name="residual")
        residual_product = self._product(m, residual_scale, residual.as_signed(),
                                         "residual_product")
        total = Signal(_SUM_BITS, name="total")
        m.d.sync += total.eq(product.as_signed() + residual_product.as_signed())    # cycle 12

        # Below the number a bit for what is shifted out last: ties go up.
        shift = delay(m, shift, 4, name="shift")
        shifted = Cat(Const(0, 1), total).as_signed() >> (shift & 0b11000)
        shifted = delay(m, shifted, 1, name="coarse").as_signed()
        shifted = shifted >> delay(m, shift[:3], 1, name="fine_shift")
        shifted = delay(m, shifted, 1, name="fine")                                 # cycle 14
        v = Signal(_SUM_BITS + 1, name="unclamped")
        bias = delay(m, bias, 2, name="bias").as_signed()
        m.d.sync += v.eq(shifted[1:].as_signed() + bias + shifted[0])
        above = v[31:-1].any() & ~v[-1]
        below = ~v[31:-1].all() & v[-1]
        v = delay(m, Cat((v[:31] | above.replicate(31)) & ~below.replicate(31), v[-1]), 1,
                  name="clamped")                                                   # cycle 16

        v = v & ~(self.relu & v[31]).replicate(32)
        lesser = self.clip & (upper_bound.as_signed() < v.as_signed())
        v = delay(m, Mux(lesser, upper_bound, v), 1, name="v")
        pooled = self._pool(m, v)
        m.d.comb += self.result.eq(self._to_code(m, pooled))
        return m

    def _product(self, m: Module, wide: Value, narrow: Value, name: str) -> Value:
        """32 bits, signed, times `narrow`, three cycles later."""
        wide = delay(m, wide, 1, name=f"{name}_wide")
        narrow = delay(m, narrow, 1, name=f"{name}_narrow").as_signed()
        low = delay(m, Cat(wide[:16], Const(0, 1)).as_signed() * narrow, 1, name=f"{name}_low")
        high = delay(m, wide[16:].as_signed() * narrow, 1, name=f"{name}_high")
        total = (high.as_signed() + (low.as_signed() >> 16))[:16 + len(narrow)]
        return delay(m, Cat(low[:16], total), 1, name=name)

    def _pool(self, m: Module, v: Value) -> Value:
        """The window's elements in one, four cycles later: so is the element before."""
        pooled = Signal(32, name="pooled_1")
        running = delay(m, pooled, 3, name="running")
        further = ~self.window_first
        with m.If(further & (self.pool == Pool.SUM.value)):
            m.d.sync += pooled.eq(running + v)
        with m.Elif(further & (v.as_signed() < running.as_signed())):
            m.d.sync += pooled.eq(running)
        with m.Else():
            m.d.sync += pooled.eq(v)
        return running

    def _to_code(self, m: Module, pooled: Value) -> Value:
        """The element in the output format, two cycles after `pooled`."""
        rounded = (Cat(pooled[FRACTION_BITS:], pooled[31]).as_signed()
                   + pooled[FRACTION_BITS - 1])[:25]
        rounded = delay(m, rounded, 1, name="rounded")
        highest = Signal(8, name="highest")
        with m.Switch(self.output_precision):
            for p in self.config.formats:
                if p.is_integer:
                    with m.Case(p.value):
                        m.d.comb += highest.eq(Cat(Const(-1, p.bits - 1), ~self.output_signed))
        sign = rounded[-1]
        # Clamped if a bit above the format differs from the sign.
        differs = ((rounded[:24] ^ sign.replicate(24)) & ~Cat(highest, Const(0, 16))).any()
        result = Mux(differs, highest ^ sign.replicate(8), rounded[:8])
        result = result & ~(sign & ~self.output_signed).replicate(8)
        if Precision.BINARY in self.config.formats:
            positive = delay(m, ~pooled[31], 1, name="positive")
            result = Mux(self.output_precision == Precision.BINARY.value, positive, result)
        return delay(m, result, 1, name="result_out")
