"""The second multiply-add of a special lane: a residual, a product, or a function."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.functions import ENTRIES, OFFSET_BITS, SLOPE_BITS, tables
from ulpsim.isa import Function

from .float32 import Add, Multiply, delay, from_dlfloat

__all__ = ["ENTRY_BITS", "INDEX_BITS", "FunctionTable", "SecondStep", "pass_if"]

INDEX_BITS = (ENTRIES - 1).bit_length()
#: The slope, in the lowest bits, and the offset.
ENTRY_BITS = SLOPE_BITS + OFFSET_BITS


def pass_if(condition: Value, value: Value) -> Value:
    """`value`, or a zero: an exponent field of 0, whatever the fraction."""
    return Cat(value[:23], value[23:31] & condition.replicate(8), value[31])


class FunctionTable(wiring.Component):
    """Slopes and offsets of all functions, for `lanes` lanes: constants in a block RAM.

    Members
    -------
    indices : In(lanes), entries : Out(lanes)
        Each lane's entry, one cycle after its index: the port `index_i` and `entry_i` of lane i.
    """

    def __init__(self, *, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            **{f"index_{i}": In(INDEX_BITS) for i in range(lanes)},
            **{f"entry_{i}": Out(ENTRY_BITS) for i in range(lanes)},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slopes, offsets = tables()
        entries = [int(slope) | int(offset) << SLOPE_BITS
                   for slope, offset in zip(slopes, offsets, strict=True)]
        m.submodules.memory = memory = Memory(shape=ENTRY_BITS, depth=ENTRIES, init=entries)
        for i in range(self.lanes):
            port = memory.read_port()
            m.d.comb += [port.addr.eq(getattr(self, f"index_{i}")), port.en.eq(1),
                         getattr(self, f"entry_{i}").eq(port.data)]
        return m


class SecondStep(wiring.Component):
    """y + factor * scale, y * factor, or a function of y (`ulpsim.functions`), 12 cycles later.

    A function's table gives it `slope` and `offset`, and the multiply-add that residuals use is
    its own: t and slope in the places of scale and factor, offset in the place of y. In the cycles
    before y is reduced to t, and in the one after the exponent is shifted.

    Members
    -------
    y : In(32), scale : In(32), cycle 0
        `y` must be canonical.
    factor : In(32), cycle 3
        With a significand of at most 10 bits.
    index : Out(10), cycle 2, entry : In(36), cycle 3
        To and from the `FunctionTable`.
    result : Out(32), cycle 12
        Zero and NaN-Inf in any form but a negative NaN-Inf.
    residual, product, function : In
        What to do, constant as long as any element is under way; without any result = y.
    """

    y: Signal
    scale: Signal
    factor: Signal
    index: Signal
    entry: Signal
    result: Signal
    residual: Signal
    product: Signal
    function: Signal

    latency = 12

    def __init__(self) -> None:
        super().__init__({
            "y": In(32), "scale": In(32), "factor": In(32), "index": Out(INDEX_BITS),
            "entry": In(ENTRY_BITS), "result": Out(32), "residual": In(1), "product": In(1),
            "function": In(3),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        has_function = Signal()
        m.d.comb += has_function.eq(self.function != Function.NONE.value)
        b = delay(m, Mux(has_function | self.product, self.y, self.scale), 1, name="b")
        t, shift, flip = self._reduce(m, b)

        slope, offset = self.entry[:SLOPE_BITS], self.entry[SLOPE_BITS:]
        addend = Mux(has_function, _from_offset(offset, flip),
                     pass_if(~(self.residual & self.product), delay(m, self.y, 3, name="y")))
        m.submodules.multiply = multiply = Multiply(significand_bits=10)
        m.submodules.add = add = Add(stages=4)
        m.d.comb += [
            multiply.a.eq(Mux(has_function, from_dlfloat(slope), self.factor)),
            multiply.b.eq(t),
            add.a.eq(delay(m, addend, Multiply.latency, name="addend")),
            add.b.eq(pass_if(self.residual | has_function, multiply.result)),
        ]
        shift = delay(m, shift, Multiply.latency + 4, name="shift")
        exponent = add.result[23:31]
        shifted = Signal(10)
        m.d.comb += shifted.eq(exponent + shift.as_signed())
        # Below: negative or zero. Above: 255 or more, as a number that is not negative.
        zero = ~exponent.any() | shifted[9] | ~shifted.any()
        nan = exponent.all() | (~shifted[9] & (shifted[8] | shifted[:8].all()))
        result = Cat(add.result[:23],
                     Mux(nan, 0xFF, shifted[:8] & ~zero.replicate(8)), add.result[31] & ~nan)
        m.d.comb += self.result.eq(delay(m, result, 1, name="result_out"))
        return m

    def _reduce(self, m: Module, y: Value) -> tuple[Value, Value, Value]:
        """t, the shift of the exponent (9 bits, signed) and the offset's sign, in cycle 3, from
        y in cycle 1; the index in cycle 2."""
        # The magnitude of an argument of the exponential, 7 bits and 15 behind the point.
        amount = Signal(8, name="amount")
        m.d.comb += amount.eq(133 - y[23:31])
        magnitude: Any = Cat(y[2:23], Const(1, 1)) & (~amount[5:].any()).replicate(22)
        for bit in reversed(range(5)):
            moved = Signal(22, name=f"magnitude_{bit}")
            m.d.comb += moved.eq(Mux(amount[bit], magnitude >> (1 << bit), magnitude))
            magnitude = moved
        magnitude = delay(m, magnitude, 1, name="magnitude_in")
        y = delay(m, y, 1, name="reduced")

        fraction, exponent, sign = y[:23], y[23:31], y[31]
        fixed = Signal(23, name="fixed")
        m.d.comb += fixed.eq((magnitude ^ sign.replicate(23)) + sign)
        f, n = fixed[:15], fixed[15:]
        beyond = exponent[7] & (exponent[3:7].any() | (exponent[1:3].all()))      # 134 or more
        minus_e = Cat(~exponent[:7], exponent[7], exponent[7])                    # 127 - field
        # Binades have the fields 120 to 135.
        high = exponent[7] & exponent[3:7].any()
        low = ~exponent[7] & ~exponent[3:7].all()
        binade = Cat(exponent[:3], exponent[7]) & ~low.replicate(4)
        place = Cat(fraction[19:], binade) | high.replicate(8)

        t = Signal(32, name="factor_t")
        shift = Signal(9, name="shift_in")
        flip, nan = Signal(name="flip_in"), Signal(name="no_number")
        m.d.comb += t.eq(y)
        with m.Switch(self.function):
            with m.Case(Function.SIGMOID.value):
                m.d.comb += self.index.eq(Cat(place, sign, Const(0, 1)))
            with m.Case(Function.TANH.value):
                m.d.comb += [self.index.eq(Cat(place, Const(2, 2))), flip.eq(sign)]
            with m.Case(Function.EXPONENTIAL.value):
                m.d.comb += [
                    self.index.eq(Cat(f[9:], Const(15, 4))),
                    t.eq(Cat(Const(0, 8), f, Const(127, 9))),
                    nan.eq(beyond & ~sign),
                    # Less than any exponent can stand.
                    shift.eq(Mux(beyond, 1 << 8, Cat(n, n[-1]))),
                ]
            with m.Case(Function.RECIPROCAL.value):
                m.d.comb += [
                    self.index.eq(Cat(fraction[17:], Const(14, 4))),
                    t.eq(Cat(fraction, Const(127, 8), sign)),
                    nan.eq(~exponent.any() | exponent.all()),
                    shift.eq(minus_e), flip.eq(sign),
                ]
            with m.Case(Function.RECIPROCAL_SQUARE_ROOT.value):
                m.d.comb += [
                    self.index.eq(Cat(fraction[17:], exponent[0], Const(6, 3))),
                    t.eq(Cat(fraction, exponent[0], Const(63, 8))),
                    nan.eq(~exponent.any() | exponent.all() | sign),
                    shift.eq(Cat(minus_e[1:], minus_e[-1])),
                ]
        t = Cat(t[:23], t[23:31] | nan.replicate(8), t[31])
        return (delay(m, t, 1, name="t"), delay(m, shift, 1, name="shift_first"),
                delay(m, flip, 1, name="flip"))


def _from_offset(code: Value, flip: Value) -> Value:
    """An offset as FP32, its sign changed by `flip`: exact. Combinational."""
    fraction, exponent, sign = code[:13], code[13:19], code[19]
    wide = Cat(Const(0, 10), fraction, exponent[:5], ~exponent[5], ~exponent[5], exponent[5],
               sign ^ flip)
    return wide & code[:19].any().replicate(32)
