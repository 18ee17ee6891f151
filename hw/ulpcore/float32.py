"""FP32 operators: pipelined twins of `ulpsim.float32`, one result a cycle.

A value is its 32 bits; subnormal inputs count as zero and every input with an exponent field of
255 as NaN-Inf; results are canonical (+0, 0x7FC00000). The registers of the data paths have no
reset: what comes out in the first cycles has no meaning.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.formats import Precision

__all__ = [
    "NAN",
    "Add",
    "FromInteger",
    "Multiply",
    "ToFloat",
    "ToInteger",
    "canonical",
    "delay",
    "fp8_to_dlfloat",
    "from_dlfloat",
    "less",
    "maximum",
    "minimum",
]

#: NaN and infinity, merged.
NAN = 0x7FC00000

_FRACTION_BITS = 23
_DLFLOAT_NAN = 0x7FFF


def delay(m: Module, value: ValueLike, cycles: int, *, name: str, reset: bool = False) -> Value:
    """`value` as it was `cycles` cycles ago; before, 0 with `reset` and undefined without."""
    value = Value.cast(value)
    for cycle in range(1, cycles + 1):
        register = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=not reset)
        m.d.sync += register.eq(value)
        value = register
    return value


def _named(m: Module, value: ValueLike, name: str) -> Signal:
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def _sign(value: Value) -> Value:
    return value[31]


def _exponent(value: Value) -> Value:
    return value[_FRACTION_BITS:31]


def _significand(value: Value) -> Value:
    """24 bits, the first one set even if the value counts as zero."""
    return Cat(value[:_FRACTION_BITS], Const(1, 1))


def canonical(value: ValueLike) -> Value:
    """`value` with every zero as +0 and every NaN-Inf as 0x7FC00000. Combinational."""
    value = Value.cast(value)
    return Mux(_exponent(value).all(), NAN,
               value & _exponent(value).any().replicate(32))


def less(a: ValueLike, b: ValueLike) -> Value:
    """a < b; either answer for two zeros or with a NaN-Inf. Combinational."""
    a, b = Value.cast(a), Value.cast(b)
    return Mux(_sign(a) ^ _sign(b), _sign(a), (a[:31] < b[:31]) ^ _sign(a))


def maximum(a: ValueLike, b: ValueLike, *, enable: ValueLike = 1) -> Value:
    """The greater one, NaN-Inf if either is; a if not `enable`. Combinational."""
    return _select(~less(a, b), a, b, enable)


def minimum(a: ValueLike, b: ValueLike, *, enable: ValueLike = 1) -> Value:
    """The lesser one, NaN-Inf if either is; a if not `enable`. Combinational."""
    return _select(less(a, b), a, b, enable)


def _select(first: Value, a: ValueLike, b: ValueLike, enable: ValueLike) -> Value:
    a, b, enable = Value.cast(a), Value.cast(b), Value.cast(enable)[0]
    chosen = Mux(first | ~enable, a, b)
    return Mux(_exponent(a).all() | (enable & _exponent(b).all()), NAN,
               chosen & _exponent(chosen).any().replicate(32))


def from_dlfloat(code: ValueLike) -> Value:
    """A DLFloat16 code as FP32: exact. Combinational."""
    code = Value.cast(code)
    fraction, exponent, sign = code[:9], code[9:15], code[15]
    # 127 - 31 = 0b01100000 is added to the exponent: only its highest bit meets a bit of that.
    wide = Cat(Const(0, 14), fraction, exponent[:5], ~exponent[5], ~exponent[5], exponent[5], sign)
    return Mux(code[:15].all(), NAN, wide & code[:15].any().replicate(32))


def fp8_to_dlfloat(code: ValueLike, backward: ValueLike, forward_bias: ValueLike) -> Value:
    """An FP8 code as DLFloat16: exact. Combinational.

    E5M2 if `backward`, else E4M3 with the bias `forward_bias` (4 bits).
    """
    code, backward = Value.cast(code), Value.cast(backward)[0]
    # DLFloat16's exponent is 16 higher than E5M2's, and than E4M3's plus 15 - bias; those are
    # less than 32, so that adding 16 meets their highest bit alone.
    exponent = Mux(backward, code[2:7], (code[3:7] + ~Value.cast(forward_bias)[:4])[:5])
    fraction = Mux(backward, Cat(Const(0, 1), code[:2]), code[:3])
    wide = Cat(Const(0, 6), fraction, exponent[:4], ~exponent[4], exponent[4], code[7])
    return (wide | Cat(code[:7].all().replicate(15))) & code[:7].any().replicate(16)


def _rounded_result(m: Module, sign: Value, magnitude: Value, overflow: Value, underflow: Value,
                    nan: Value, zero: Value) -> Signal:
    """A result in its register, from 23 bits of fraction and 8 of exponent, rounded."""
    no_number = _named(m, nan | overflow, "no_number")
    special = _named(m, no_number | zero | underflow, "special")
    result = Signal(32, name="result_out", reset_less=True)
    m.d.sync += result[22:31].eq(Mux(special, no_number.replicate(9), magnitude[22:31]))
    # The other bits have one value for all special cases: the registers' own reset does it.
    with m.If(special):
        m.d.sync += [result[:22].eq(0), result[31].eq(0)]
    with m.Else():
        m.d.sync += [result[:22].eq(magnitude[:22]), result[31].eq(sign)]
    return result


class Add(wiring.Component):
    """`result` = a + b, rounded to nearest even, `stages` cycles later.

    The operand of the greater magnitude is found first, and how much greater its exponent is; the
    other one is shifted right against it, bits that drop out gathered in a sticky bit; the sum is
    shifted left until its first one is in front; rounding carries into the exponent by itself.

    Parameters
    ----------
    stages
        Registers from the inputs to the result, 3 to 5.
    """

    a: In(32)
    b: In(32)
    result: Out(32)

    #: After which steps there is a register, besides the one at the end.
    _REGISTERS = {
        3: ("order", "add"),
        4: ("order", "add", "normalise"),
        5: ("order", "align", "add", "normalise"),
    }

    def __init__(self, *, stages: int = 4) -> None:
        if stages not in self._REGISTERS:
            raise ValueError(f"stages must be from {min(self._REGISTERS)} to "
                             f"{max(self._REGISTERS)}, not {stages!r}")
        self.stages = stages
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def after(step: str, **values: ValueLike) -> list[Value]:
            cycles = int(step in self._REGISTERS[self.stages])
            return [delay(m, _named(m, value, f"{step}_{name}"), cycles, name=f"{step}_{name}")
                    for name, value in values.items()]

        swap = self.a[:31] < self.b[:31]
        # Both differences are there before it is known which one counts.
        distance = Mux(swap, (_exponent(self.b) - _exponent(self.a))[:8],
                       (_exponent(self.a) - _exponent(self.b))[:8])
        large, small, distance = after("order", large=Mux(swap, self.b, self.a),
                                       small=Mux(swap, self.a, self.b), distance=distance)

        # If even `large` counts as zero its significand leads to an exponent of 0: zero again.
        present = _exponent(small).any()
        near = present & ~distance[5:].any()
        aligned: Value = Cat(Const(0, 3), _significand(small))
        dropped = []
        for bit in reversed(range(5)):
            step = 1 << bit
            dropped.append(_named(m, distance[bit] & aligned[:step].any(), f"dropped_{step}"))
            aligned = _named(m, Mux(distance[bit], Cat(aligned[step:], Const(0, step)), aligned),
                             f"aligned_{step}")
        sticky = Mux(near, aligned[0] | Cat(dropped).any(), present)
        # The exponent of the result is that of `large`, plus 1, minus the shift to the left: plus
        # 2, plus the complement of the shift.
        significand, addend, subtract, exponent, sign, nan = after(
            "align", significand=_significand(large),
            addend=Cat(sticky, aligned[1:] & near.replicate(26)),
            subtract=_sign(large) ^ _sign(small), exponent=_exponent(large) + 2,
            sign=_sign(large), nan=_exponent(large).all())
        # Beyond the largest exponent, 254, are what begins there and is shifted by nothing, and
        # what comes to it and is carried on.
        last = exponent == 254 + 2
        last_but_one = exponent == 253 + 2

        # The carry into an adder is a lowest bit of both operands, here and below.
        total = (Cat(Const(1, 1), Const(0, 3), significand, Const(0, 1))
                 + Cat(subtract, addend ^ subtract.replicate(27), subtract))[1:29]
        total, exponent, last, last_but_one, sign, nan = after(
            "add", total=total, exponent=exponent, last=last, last_but_one=last_but_one, sign=sign,
            nan=nan)

        total, shift = _normalise(m, total)
        total, unmoved, minus, exponent, last, last_but_one, sign, nan = after(
            "normalise", total=total, unmoved=~shift.any(), minus=~shift, exponent=exponent,
            last=last, last_but_one=last_but_one, sign=sign, nan=nan)
        before, (total, moved) = total, _normalise_last(m, total)
        minus = Cat(~moved, minus, Const(-1, 5))

        round_up = total[3] & (total[4] | total[:3].any())
        rounded = _named(
            m, (Cat(Const(1, 1), total[4:27], exponent, Const(0, 1))
                + Cat(round_up, Const(0, 23), minus))[1:34], "rounded")
        # Known without waiting for `rounded`. A fraction of ones is odd: it rounds up whenever the
        # next bit is set.
        carry = before[3:26].all() & Mux(moved, before[2], before[26])
        overflow = unmoved & (last & (~moved | carry) | last_but_one & ~moved & carry)
        exponent = _named(m, (exponent + minus)[:10], "exponent_before")
        underflow = exponent[9] | ~exponent[:9].any() & ~carry
        m.d.comb += self.result.eq(_rounded_result(m, sign, rounded, overflow, underflow, nan,
                                                   ~total[27]))
        return m


def _normalise(m: Module, value: Value, enable: ValueLike = 1) -> tuple[Value, Value]:
    """`value`, of 28 or 32 bits, shifted left until a one is among the first two bits; the shift
    divided by two, 4 bits. Nothing is shifted without `enable`; a zero by any amount.

    How many groups of four bits are zero in front of the first other one is found at once, without
    waiting for the bits that a step has moved.
    """
    length = len(value)
    groups = _named(m, Cat(value[i:i + 4].any() for i in range(length - 4, -1, -4)), "groups")
    ones = [*groups, *[Const(0, 1)] * (8 - len(groups))]
    odd = ~(ones[0] | ~ones[1] & (ones[2] | ~ones[3] & (ones[4] | ~ones[5] & ones[6])))
    twos = ~(ones[0] | ones[1] | ~(ones[2] | ones[3]) & (ones[4] | ones[5]))
    count = _named(m, Cat(odd, twos, ~groups[:4].any()) & Value.cast(enable).replicate(3), "count")
    for step, moved in ((16, count[2]), (8, count[1]), (4, count[0])):
        value = _named(m, Mux(moved, Cat(Const(0, step), value[:length - step]), value),
                       f"normalised_{step}")
    moved = _named(m, ~value[-2:].any() & enable, "moved_2")
    value = _named(m, Mux(moved, Cat(Const(0, 2), value[:length - 2]), value), "normalised_2")
    return value, Cat(moved, count)


def _normalise_last(m: Module, value: Value, enable: ValueLike = 1) -> tuple[Value, Value]:
    """`value` shifted left by one if its first bit is zero; whether it was."""
    moved = _named(m, ~value[-1] & enable, "moved_1")
    return _named(m, Mux(moved, Cat(Const(0, 1), value[:-1]), value), "normalised_1"), moved


class Multiply(wiring.Component):
    """`result` = a * b, rounded to nearest even, 4 cycles later.

    The first register is at the inputs, the second after the multipliers, the third after the
    sum of their partial products, which is brought to a first bit of 1 there.

    Parameters
    ----------
    significand_bits
        Bits of `a`'s significand that can be other than zero, from the highest: 24, or fewer for
        numbers converted from a shorter format.
    """

    a: In(32)
    b: In(32)
    result: Out(32)

    latency = 4

    def __init__(self, *, significand_bits: int = 24) -> None:
        if significand_bits not in range(1, 25):
            raise ValueError(f"significand_bits must be from 1 to 24, not {significand_bits!r}")
        self.significand_bits = significand_bits
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = delay(m, self.a, 1, name="a_in")
        b = delay(m, self.b, 1, name="b_in")

        # One multiplier for each product of halves; a short `a` may have only an upper half.
        half = 12
        upper_bits = min(self.significand_bits, half)
        lower_bits = self.significand_bits - upper_bits
        low, high = _significand(b)[:half], _significand(b)[half:]
        upper = _significand(a)[24 - upper_bits:]
        upper_low = delay(m, upper * low, 1, name="upper_low")
        upper_high = delay(m, upper * high, 1, name="upper_high")
        if lower_bits:
            lower = _significand(a)[half - lower_bits:half]
            lower_low = delay(m, lower * low, 1, name="lower_low")
            lower_high = delay(m, lower * high, 1, name="lower_high")
        exponent = delay(m, (_exponent(a) + _exponent(b) - 127)[:10], 1,
                         name="exponent_sum")
        zero = delay(m, ~_exponent(a).any() | ~_exponent(b).any(), 2, name="zero")
        nan = delay(m, _exponent(a).all() | _exponent(b).all(), 2, name="nan")
        sign = delay(m, _sign(a) ^ _sign(b), 2, name="sign")

        above_half = Const(0, half - upper_bits)
        middle, ends = Cat(above_half, upper_low), Cat(Const(0, half), Const(0, half), above_half,
                                                       upper_high)
        if lower_bits:
            below_half = Const(0, half - lower_bits)
            middle = middle + Cat(below_half, lower_high)
            ends = Cat(below_half, lower_low, above_half, upper_high)
        product = _named(m, Cat(ends[:half], (ends[half:] + middle)[:36]), "product")
        # The product is from 1 to just below 4.
        above = product[47]
        fraction = delay(m, Mux(above, product[24:47], product[23:46]), 1, name="fraction")
        guard = delay(m, Mux(above, product[23], product[22]), 1, name="guard")
        sticky = delay(m, product[:22].any() | (above & product[22]), 1, name="sticky")
        exponent = delay(m, (exponent + above)[:10], 1, name="exponent")

        round_up = guard & (fraction[0] | sticky)
        rounded = _named(m, (Cat(Const(1, 1), fraction, exponent) + round_up)[1:34], "rounded")
        # Known without waiting for `rounded`. A fraction of ones is odd: it rounds up whenever the
        # next bit is set.
        carry = fraction.all() & guard
        finite = ~exponent[8] & ~exponent[1:8].all()
        overflow = ~exponent[9] & ~finite & (exponent[8] | exponent[0] | carry)
        underflow = exponent[9] | (~exponent[:9].any() & ~carry)
        m.d.comb += self.result.eq(_rounded_result(m, sign, rounded, overflow, underflow, nan,
                                                   zero))
        return m


class FromInteger(wiring.Component):
    """`result` = the INT32 `value` rounded to nearest even, 3 cycles later.

    Without `convert` the bits of `value` pass unchanged, as late.
    """

    value: In(32)
    convert: In(1)
    result: Out(32)

    latency = 3

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign = self.value[31] & self.convert
        magnitude = (Cat(Const(1, 1), self.value ^ sign.replicate(32)) + Cat(sign))[1:33]
        magnitude = delay(m, magnitude, 1, name="magnitude")
        sign = delay(m, sign, 2, name="sign")
        convert = delay(m, self.convert, 1, name="convert_in")

        normal, shift = _normalise(m, magnitude, convert)
        normal, shift = delay(m, normal, 1, name="normal"), delay(m, shift, 1, name="shift")
        convert = delay(m, convert, 1, name="convert_out")

        normal, last = _normalise_last(m, normal, convert)
        shift = Cat(last, shift)
        round_up = normal[7] & (normal[8] | normal[:7].any())
        # The exponent is 158 - shift.
        rounded = _named(
            m, (Cat(Const(1, 1), normal[8:31], Const(159, 8))
                + Cat(round_up, Const(0, 23), ~shift, Const(-1, 3)))[1:32], "rounded")
        result = Mux(convert, Cat(rounded, sign) & normal[31].replicate(32), normal)
        m.d.comb += self.result.eq(delay(m, result, 1, name="result_out"))
        return m


class ToFloat(wiring.Component):
    """`result` = the code nearest to `value`, ties up in magnitude, 1 cycle later.

    Parameters
    ----------
    formats
        FP16, and those of FP8 that are to be built.

    Members
    -------
    precision : In(Precision), forward_bias : In(4)
        The format, one of `formats`, and the bias of E4M3. Constant from the cycle before the
        value to that of its result.
    result : Out(16)
        FP8 stands in the lower byte.
    """

    latency = 1

    def __init__(self, *, formats: Sequence[Precision] = (Precision.FP16,)) -> None:
        self.formats = formats
        super().__init__({"value": In(32), "precision": In(Shape.cast(Precision)),
                          "forward_bias": In(4), "result": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def chosen(precision: Precision) -> Value:
            if precision not in self.formats:
                return Const(0, 1)
            return _named(m, self.precision == precision.value, f"is_{precision.name.lower()}")

        forward, backward = chosen(Precision.E4M3), chosen(Precision.E5M2)
        half = _named(m, ~(forward | backward), "is_fp16")
        # One sum rounds and takes the difference of the biases from the exponent: 96 = 128 - 32,
        # 112 = 128 - 16, or for E4M3 127 - bias = 128 - (bias + 1).
        exponent = Cat(Const(0, 4), backward) | Mux(forward, self.forward_bias + 1, 0)
        addend = Cat(half, Const(0, 5), forward, backward, Const(0, 2), exponent[:5], half,
                     Const(0b110, 3))
        if len(self.formats) > 1:
            addend = delay(m, addend, 1, name="addend")
        rounded = _named(m, (self.value[13:31] + addend)[:19], "rounded")

        # Exponent and fraction of FP16; of them FP8 has neither the lowest bits nor the highest.
        code, beyond, negative = rounded[1:16], rounded[16:18], rounded[18]
        has = Cat(half.replicate(6), half | forward, Const(-1, 6), ~forward, half)
        beyond = beyond.any() | (code & ~has)[13:].any()
        zero = delay(m, negative | ~(code & has).any(), 1, name="zero")
        no_number = delay(m, ~negative & (beyond | (code | ~has).all()), 1, name="no_number")
        code, sign = delay(m, code, 1, name="code"), delay(m, _sign(self.value), 1, name="sign")
        magnitude = Mux(no_number, _DLFLOAT_NAN, code & ~zero.replicate(15))
        sign = sign & ~no_number & ~zero
        fp8 = Cat(Mux(forward, magnitude[6:13], magnitude[7:14]), sign)
        m.d.comb += self.result.eq(Mux(half, Cat(magnitude, sign), fp8))
        return m


class ToInteger(wiring.Component):
    """`result` = `value` rounded to the nearest integer, ties to even, and clamped, a cycle
    later; 0 for NaN-Inf. Two's complement, whatever the format. The one register is in the middle.

    Members
    -------
    highest : In(8)
        Largest integer of the format: one less than a power of two.
    is_signed : In(1)
        The smallest one is ~highest, not 0.
    """

    value: In(32)
    highest: In(8)
    is_signed: In(1)
    result: Out(8)

    latency = 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign, exponent, significand = (_sign(self.value), _exponent(self.value),
                                       _significand(self.value))
        # Exponents from 126 (0.5 and more) to 134 (below 256) are shifted right by 8 to 0.
        above = exponent[7] & (exponent[3:7].any() | exponent[:3].all())
        below = ~exponent[7] & ~exponent[1:7].all()
        amount = _named(m, (6 - exponent[:4])[:4], "amount")
        shifted: Value = Cat(significand[:15].any(), significand[15:])
        for bit in reversed(range(4)):
            step = 1 << bit
            shifted = _named(m, Mux(amount[bit], Cat(shifted[:step + 1].any(), shifted[step + 1:]),
                                    shifted), f"shifted_{step}")
        round_up = shifted[1] & (shifted[0] | shifted[2])
        magnitude = (Cat(Const(1, 1), shifted[2:]) + Cat(round_up))[1:10]
        magnitude = Mux(below, 0, magnitude | (above << 8))
        magnitude = delay(m, magnitude, 1, name="magnitude")
        zero = delay(m, exponent.all() | (sign & ~self.is_signed), 1, name="zero")
        sign = delay(m, sign, 1, name="sign")

        clamp = (magnitude & ~Cat(self.highest, Const(0, 1))).any()
        exact = (Cat(Const(1, 1), magnitude[:8] ^ sign.replicate(8)) + Cat(sign))[1:9]
        result = Mux(clamp, self.highest ^ sign.replicate(8), exact) & ~zero.replicate(8)
        m.d.comb += self.result.eq(result)
        return m
