"""Fused multiply-add in DLFloat16: r = round(a * b + c), rounded once; twin `ulpsim.dlfloat.fma`.

The product is exact and stays where it is; only c is shifted, beside the multiplication, into a
window of 32 bits:

    bit 31       22 21 20 19                    0
        c, unshifted |  |  product of significands
        ---------------------> c, shifted

If c is so large that it would have to go further left, it stays at the left end: the product is
then less than a quarter of the last place of c, and wherever below that it stands, the sum rounds
to c. Three things keep the rest small:

- For a difference the sum is product + ~c without a carry-in. A negative one needs only its
  complement; a positive one is short by 1, which is added when it is rounded.
- Ties are rounded away from zero, so bits lost from c matter only in a difference, where they
  take the place of that 1.
- The exponent less the leading zeros, the rounding and its overflow are one addition.

What is zero and what is NaN-Inf is found once per operand at the edge of the array (`Operand`) and
is kept beside a result (`Sum`), of which the code is made only where it leaves the array.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CUTS", "MultiplyAdd", "Operand", "ProductAdd", "Sum"]

_FRACTION = 9
_WINDOW = 32

#: Where the pipeline is cut for each number of stages: registers stand after the named steps,
#: and after the rounding.
CUTS = {
    2: ("align",),
    3: ("shift", "normalise_16"),
    4: ("shift", "normalise_16", "normalise_2"),
    5: ("align", "add", "normalise_8", "normalise_1"),
    6: ("shift", "align", "add", "normalise_8", "normalise_1"),
}
_BEFORE_ADDITION = ("exponents", "shift", "align")


class Operand(data.Struct):
    """A factor. The value is (-1)^sign * significand * 2^(exponent - 31), unless zero or NaN-Inf.

    The exponent of the code is kept less 9, the significand's fraction bits: the sum of two
    exponents is that of bit 31 of the window, 13 places left of the unit of the product.
    """

    significand: 10
    exponent: signed(7)
    sign: 1
    zero: 1
    nan: 1

    @staticmethod
    def decode(code: Value) -> "data.View":
        """The operand that a code stands for, as an expression."""
        magnitude = code[:15]
        exponent = (code[_FRACTION:15] - _FRACTION)[:7]
        return Operand(Cat(code[:_FRACTION], Const(1, 1), exponent, code[15],
                           ~magnitude.any(), magnitude.all()))


class Sum(data.Struct):
    """A rounded sum before its code is made; the exponent may lie outside the code's 6 bits.

    `none` marks a sum that is exactly zero. Beyond that a sum is zero or NaN-Inf if its exponent
    or its code says so: see `is_zero` and `is_nan`.
    """

    fraction: _FRACTION
    exponent: signed(8)
    sign: 1
    none: 1
    nan: 1

    def is_zero(self) -> Value:
        """It is zero, unless it is NaN-Inf."""
        return (self.none | self.exponent[7]
                | ~Cat(self.fraction, self.exponent[:6]).any() & ~self.exponent[6])

    def is_nan(self) -> Value:
        return (self.nan | ~self.exponent[7] & self.exponent[6]
                | Cat(self.fraction, self.exponent[:6]).all() & ~self.exponent[7])

    def encode(self) -> Value:
        """The code: 0x7FFF for NaN-Inf, 0 for zero."""
        number = Cat(self.fraction, self.exponent[:6], self.sign)
        return Mux(self.is_nan(), 0x7FFF, Mux(self.is_zero(), 0, number))

    @staticmethod
    def decode(code: Value) -> "data.View":
        """The sum that a code stands for, as an expression."""
        return Sum(Cat(code[:15], Const(0, 2), code[15], Const(0, 2)))


class ProductAdd(wiring.Component):
    """Adds a product of two significands to a sum.

    Parameters
    ----------
    stages
        Cycles from the operands to the result, from 2 to 6: the operands come from registers,
        and `result` is one.

    Members
    -------
    a, b
        The factors; their significands are not used.
    c
        The addend, in the same cycle.
    product
        The product of the factors' significands, one cycle later, from a register.
    result
        a * b + c, rounded, `stages` cycles after the operands. One result each cycle.
    """

    a: In(Operand)
    b: In(Operand)
    c: In(Sum)
    product: In(20)
    result: Out(Sum)

    def __init__(self, *, stages: int) -> None:
        if stages not in CUTS:
            raise ValueError(f"stages must be from {min(CUTS)} to {max(CUTS)}, not {stages!r}")
        self.stages = stages
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cuts = CUTS[self.stages]

        def after(step: str, **values: Value) -> list[Value]:
            """The values as the next step sees them: through registers where the pipeline is cut."""
            if step not in cuts:
                return list(values.values())
            ranks = [Signal(value.shape(), name=f"{name}_after_{step}", reset_less=True)
                     for name, value in values.items()]
            m.d.sync += [rank.eq(value) for rank, value in zip(ranks, values.values(), strict=True)]
            return ranks

        def named(name: str, value: Value) -> Signal:
            signal = Signal(value.shape(), name=name)
            m.d.comb += signal.eq(value)
            return signal

        # Exponents. `base` is the exponent that a leading one in bit 31 has.
        a, b, c = self.a, self.b, self.c
        product_zero = a.zero | b.zero
        product_exponent = named("product_exponent", a.exponent + b.exponent)
        distance = named("distance", (product_exponent - c.exponent[:6])[:8].as_signed())
        c_zero = named("c_zero", c.is_zero())
        dominant = named("dominant", ~c_zero & (distance[7] | product_zero))
        far = named("far", c_zero | ~dominant & distance[5:7].any())
        base = named("base", Mux(dominant, c.exponent[:6], product_exponent)[:8])
        shift, base, far, lost, significand, subtract, sign, none, nan = after(
            "exponents", shift=distance[:5] & ~dominant.replicate(5), base=base, far=far,
            lost=far & ~c_zero, significand=Cat(c.fraction, Const(1, 1)),
            subtract=a.sign ^ b.sign ^ c.sign, sign=a.sign ^ b.sign, none=product_zero & c_zero,
            nan=a.nan | b.nan | c.is_nan())

        # Shift c, first within 17 bits, then to its place.
        shifted = named("shifted", (Cat(Const(0, 7), significand) >> shift[:3])[:17])
        shifted = Mux(far, 0, shifted)
        shifted, shift, base, lost, subtract, sign, none, nan = after(
            "shift", shifted=shifted, shift=shift[3:], base=base, lost=lost, subtract=subtract,
            sign=sign, none=none, nan=nan)
        aligned = named("aligned", Cat(Const(0, 15), shifted) >> Cat(Const(0, 3), shift))
        addend = named("addend", aligned ^ subtract.replicate(_WINDOW))
        lost = lost | shift[1] & (shifted[0] | shift[0] & shifted[1:9].any())
        addend, increment, base, subtract, sign, none, nan = after(
            "align", addend=addend, increment=subtract & ~lost, base=base, subtract=subtract,
            sign=sign, none=none, nan=nan)

        product = self.product
        for i in range(sum(cut in _BEFORE_ADDITION for cut in cuts) - 1):
            delayed = Signal(20, name=f"product_{i + 1}", reset_less=True)
            m.d.sync += delayed.eq(product)
            product = delayed
        total = named("total", (product + Cat(addend, subtract))[:_WINDOW + 1])
        total, increment, base, sign, none, nan = after(
            "add", total=total, increment=increment, base=base, sign=sign, none=none, nan=nan)

        # Normalise. Of each step's result only the bits that can still reach the significand and
        # its rounding bit are kept; `ones` tells whether all those dropped were 1, so that the
        # missing 1 would carry through them. The places that become free hold 1 for the same end.
        negative = total[_WINDOW]
        word = named("magnitude", total[:_WINDOW] ^ negative.replicate(_WINDOW))
        sign, increment = sign ^ negative, increment & ~negative
        ones: Value = Const(1, 1)
        zeros: Value = Const(0, 0)
        fill = ~negative
        for step in (16, 8, 4, 2, 1):
            kept = _FRACTION + 2 + step - 1
            empty = named(f"empty_{step}", ~word[-step:].any())
            moved = named(f"moved_{step}", Mux(empty, Cat(fill.replicate(step), word[:-step]),
                                               word))
            dropped = len(word) - kept
            word, ones, fill, zeros, increment, base, sign, none, nan = after(
                f"normalise_{step}", word=moved[dropped:], ones=ones & moved[:dropped].all(),
                fill=fill, zeros=Cat(empty, zeros), increment=increment, base=base, sign=sign,
                none=none, nan=nan)

        # A difference of 1 appears as no 1 at all: it has 32 leading zeros, not 31.
        # -zeros bit by bit: the carry of a complement is an OR, which costs less than a chain.
        leading = word[-1]
        minus = Cat(zeros[0] & leading, *(zeros[i] ^ zeros[:i].any() for i in range(1, 5)),
                    zeros.any().replicate(3))
        carry = word[0] | ones & increment
        rounded = named("rounded", (Cat(word[1:-1], base) + Cat(Const(0, _FRACTION), minus)
                                    + carry)[:_FRACTION + 8])
        result = Signal(Sum, reset_less=True)
        m.d.sync += [
            Cat(result.fraction, result.exponent).eq(rounded),
            result.sign.eq(sign),
            result.none.eq(none | ~leading & ~fill),
            result.nan.eq(nan),
        ]
        m.d.comb += self.result.eq(result)
        return m


class MultiplyAdd(wiring.Component):
    """r = round(a * b + c) in DLFloat16 codes, one each cycle.

    Parameters
    ----------
    stages
        Cycles from the operands to the result, from 2 to 6. The operands are used as they come;
        in the array they come from registers.

    Members
    -------
    a, b, c
        Codes.
    r
        The code of the result, `stages` cycles later.
    """

    a: In(16)
    b: In(16)
    c: In(16)
    r: Out(16)

    def __init__(self, *, stages: int = 4) -> None:
        self.stages = stages
        self._add = ProductAdd(stages=stages)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = self._add
        product = Signal(20, reset_less=True)
        m.d.comb += [
            add.a.eq(Operand.decode(self.a)),
            add.b.eq(Operand.decode(self.b)),
            add.c.eq(Sum.decode(self.c)),
            add.product.eq(product),
            self.r.eq(add.result.encode()),
        ]
        m.d.sync += product.eq(add.a.significand * add.b.significand)
        return m
