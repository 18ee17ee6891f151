"""Fused multiply-add in DLFloat16: r = round(a * b + c), rounded once; twin `ulpsim.dlfloat.fma`.

The product is exact and stays where it is; only c is shifted, beside the multiplication, into a
window of 32 bits:

    bit 31       22 21 20                    1 0
        c, unshifted |  product of significands
        ---------------------> c, shifted

If c is so large that it would have to go further left, the product is less than a quarter of its
last place: the sum rounds to c, and the product is left out. Four things keep the rest small:

- For a difference the sum is product + ~c without a carry-in. A negative one needs only its
  complement; a positive one is short by 1, which is added when it is rounded.
- Ties are rounded away from zero, so bits lost from c matter only in a difference, where they
  take the place of that 1. Bits are lost from a c below 2^9 only, and a product is at least 2^11
  there: the sum has 11 bits or more, all those that rounding looks at.
- The product is even there: no difference is 1, which without the 1 would be no bit at all.
- The exponent less the leading zeros, the rounding and its overflow are one addition.

What is zero and what is NaN-Inf is found once per operand at the edge of the array (`Operand`) and
is kept beside a result (`Sum`), of which the code is made only where it leaves the array.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CUTS", "MultiplyAdd", "Operand", "Product", "ProductAdd", "Sum"]

_FRACTION = 9
_WINDOW = 32

#: Where the pipeline is cut for each number of stages: registers stand after the named steps,
#: and after the rounding.
CUTS = {
    2: ("align",),
    3: ("shift", "normalise_16"),
    4: ("shift", "detect", "normalise_2"),
    5: ("shift", "add", "normalise_8", "normalise_2"),
    6: ("shift", "align", "add", "normalise_8", "normalise_2"),
}


class Operand(data.Struct):
    """A factor. The value is (-1)^sign * significand * 2^(exponent - 31), unless zero or NaN-Inf.

    The exponent is that of the code less 9: so the sum of two exponents is that of a place left
    of the window, 13 places left of where the product of two numbers from 1 to 2 begins.
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


class Product(data.Struct):
    """An exact product: (-1)^sign * (significand + carry) * 2^(exponent - 62), unless zero or
    NaN-Inf.

    Significand and carry add up to 2^10 at least and to less than 2^20. The carry is there for a
    product that is itself a sum to which a 1 has still to be added. The exponent is -64 at least.
    If `zero` is set the rest means nothing, but the exponent must be 63 at most, or 94 if
    significand and carry are 0.
    """

    significand: 20
    exponent: signed(8)
    sign: 1
    zero: 1
    nan: 1
    carry: 1

    @staticmethod
    def of(a: data.View, b: data.View, significand: Value) -> "data.View":
        """The product of two `Operand`s, that of whose significands is given, as an expression."""
        exponent = (a.exponent + b.exponent)[:8]
        return Product(Cat(significand, exponent, a.sign ^ b.sign, a.zero | b.zero,
                           a.nan | b.nan, Const(0, 1)))


class ProductAdd(wiring.Component):
    """Adds a product to a sum and rounds, one each cycle.

    Parameters
    ----------
    stages
        Cycles from the addends to the result, from 2 to 6: the addends come from registers, and
        `result` is one.
    carries
        Products can have a carry; without, it is ignored.

    Members
    -------
    product : In(Product)
    c : In(Sum)
    result : Out(Sum)
        product + c, `stages` cycles later.
    """

    product: In(Product)
    c: In(Sum)
    result: Out(Sum)

    def __init__(self, *, stages: int, carries: bool = False) -> None:
        if stages not in CUTS:
            raise ValueError(f"stages must be from {min(CUTS)} to {max(CUTS)}, not {stages!r}")
        self.stages = stages
        self.carries = carries
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cuts = CUTS[self.stages]

        def after(step: str, **values: Value) -> list[Value]:
            """The values as the next step sees them: through registers at a cut."""
            if step not in cuts:
                return list(values.values())
            ranks: list[Value] = [
                Signal(value.shape(), name=f"{name}_after_{step}", reset_less=True)
                for name, value in values.items()]
            m.d.sync += [rank.eq(value) for rank, value in zip(ranks, values.values(), strict=True)]
            return ranks

        def named(name: str, value: Value) -> Signal:
            signal = Signal(value.shape(), name=name)
            m.d.comb += signal.eq(value)
            return signal

        # Exponents. c is shifted by `distance` unless it is `larger`. `base` is the exponent of
        # the place left of the window, or that of c, which needs no normalisation.
        product, c = self.product, self.c
        distance = named("distance", ~(c.exponent[:6] - product.exponent)[:8])
        c_zero = named("c_zero", c.is_zero())
        larger = named("larger", ~c_zero & (distance[7] | product.zero))
        far = named("far", c_zero | ~larger & distance[5:7].any())
        base = named("base", Mux(larger, c.exponent[:6], product.exponent)[:8])
        carry = product.carry if self.carries else Const(0, 1)
        shift, base, far, lost, significand, factor, carry, larger, subtract, sign, none, nan = (
            after("exponents", shift=distance[:5] & ~larger.replicate(5), base=base, far=far,
                  lost=far & ~c_zero, significand=Cat(c.fraction, Const(1, 1)),
                  product=product.significand, carry=carry, larger=larger,
                  subtract=product.sign ^ c.sign, sign=product.sign, none=product.zero & c_zero,
                  nan=product.nan | c.is_nan()))

        # Shift c, first within 17 bits, then to its place.
        shifted = named("shifted", (Cat(Const(0, 7), significand) >> shift[:3])[:17])
        shifted = Mux(far, 0, shifted)
        shifted, shift, base, lost, factor, carry, larger, subtract, sign, none, nan = after(
            "shift", shifted=shifted, shift=shift[3:], base=base, lost=lost, product=factor,
            carry=carry, larger=larger, subtract=subtract, sign=sign, none=none, nan=nan)
        aligned = named("aligned", Cat(Const(0, 15), shifted) >> Cat(Const(0, 3), shift))
        addend = named("addend", aligned ^ subtract.replicate(_WINDOW))
        lost = lost | shift[1] & (shifted[0] | shift[0] & shifted[1:9].any())
        addend, increment, base, factor, carry, larger, subtract, sign, none, nan = after(
            "align", addend=addend, increment=subtract & ~lost, base=base, product=factor,
            carry=carry, larger=larger, subtract=subtract, sign=sign, none=none, nan=nan)

        # The carry enters as the sum of a place below the product's lowest.
        factor, upper = factor & ~larger.replicate(len(factor)), Cat(addend[1:], subtract)
        if self.carries:
            factor, upper = Cat(Const(1, 1), factor), Cat(carry & ~larger, upper)
        upper = named("upper", (factor + upper)[int(self.carries):][:_WINDOW])
        total, increment, base, larger, sign, none, nan = after(
            "add", total=Cat(addend[0], upper), increment=increment, base=base, larger=larger,
            sign=sign, none=none, nan=nan)

        # Normalise. Of each step's result only the bits that can still reach the significand and
        # its rounding bit are kept; `ones` tells whether all those dropped were 1, so that the
        # missing 1 would carry through them. The places that become free hold 1 for the same end:
        # where a step shifts, it drops nothing else.
        negative = total[_WINDOW]
        empty = named("empty_16", ~(total[16:_WINDOW] ^ negative.replicate(16)).any())
        total, empty, increment, base, larger, sign, none, nan = after(
            "detect", total=total, empty=empty, increment=increment, base=base, larger=larger,
            sign=sign, none=none, nan=nan)
        negative = total[_WINDOW]
        word = named("magnitude", total[:_WINDOW] ^ negative.replicate(_WINDOW))
        sign, increment = sign ^ negative, increment & ~negative
        ones: Value = Const(1, 1)
        zeros: Value = Const(0, 0)
        fill = ~negative
        for step in (16, 8, 4, 2, 1):
            kept = _FRACTION + 2 + step - 1
            if step < 16:
                empty = named(f"empty_{step}", ~word[-step:].any())
            moved = named(f"moved_{step}", Mux(empty, Cat(fill.replicate(step), word[:-step]),
                                               word))
            dropped = len(word) - kept
            word, ones, fill, zeros, increment, base, larger, sign, none, nan = after(
                f"normalise_{step}", word=moved[dropped:],
                ones=ones & (empty | word[:dropped].all()), fill=fill, zeros=Cat(empty, zeros),
                increment=increment, base=base, larger=larger, sign=sign, none=none, nan=nan)

        minus = Cat(~zeros, Const(-1, 3)) & ~larger.replicate(8)
        carry = word[0] | ones & increment
        rounded = named("rounded", (Cat(word[1:-1], base) + Cat(Const(0, _FRACTION), minus)
                                    + carry)[:_FRACTION + 8])
        result = Signal(Sum, reset_less=True)
        m.d.sync += [
            Cat(result.fraction, result.exponent).eq(rounded),
            result.sign.eq(sign),
            result.none.eq(none | ~word[-1] & ~fill),
            result.nan.eq(nan),
        ]
        m.d.comb += self.result.eq(result)
        return m


class MultiplyAdd(wiring.Component):
    """r = round(a * b + c) in DLFloat16 codes, one each cycle.

    The multiplication has a cycle to itself. A chain of sums does not wait for it: from one sum
    to the next it is `stages` cycles.

    Parameters
    ----------
    stages
        Cycles from c to the result, from 2 to 6.

    Members
    -------
    a, b : In(16)
        Codes of the factors.
    c : In(16)
        Code of the addend, one cycle later.
    r : Out(16)
        The code of the result, `stages` cycles after c.
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
        a, b = Operand.decode(self.a), Operand.decode(self.b)
        product = Signal(Product, reset_less=True)
        m.d.sync += product.eq(Product.of(a, b, a.significand * b.significand))
        m.d.comb += [
            add.product.eq(product),
            add.c.eq(Sum.decode(self.c)),
            self.r.eq(add.result.encode()),
        ]
        return m
