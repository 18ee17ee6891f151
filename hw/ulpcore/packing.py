"""Operands for the array's multipliers from 16-bit slots; unpacked by `ulpsim.integers`.

Every slot of the array has two signed multipliers, and every precision goes through them. With
integers, one product is the dot product of several elements: the activations' elements stand
`s` bits apart in one factor, the weights' in the other, in the opposite order,

    A = a0 + a1 2^s + a2 2^2s + a3 2^3s        B = b3 + b2 2^s + b1 2^2s + b0 2^3s

so that in A B the field at bit 3 s is a0 b0 + a1 b1 + a2 b2 + a3 b3. INT2 takes four elements
with s = 5, INT4 two with s = 10, INT8 one. The factors are shifted further so that the wanted
field starts at the same bit (`Packing.field`) in every precision, where `dot_product` finds it.
FP16 multiplies its significands in the first multiplier and carries sign, exponent and tags in
the other one's bits. FP8 has one product in each: a factor's significand of 4 bits stands at its
lower end, and its tags so far above that the 8 bits of the product are not touched. The 16 elements
of BINARY, which are not multiplied, stand in the factors' lowest bytes.

All this is made once for a row (activations) or a column (weights), where slots enter the array.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision
from ulpsim.fp8 import PAIR_BITS

from .multiply_add import Operand
from .pair import PRODUCT_BITS, Tags

__all__ = ["PRECISION_BITS", "Mode", "Packer", "Packing", "is_any"]

PRECISION_BITS = max(p.value for p in Precision).bit_length()
_SPACING = {Precision.INT8: 0, Precision.INT4: 10, Precision.INT2: 5}
_TAGS = Tags.as_shape().size
_SIGNIFICAND = Operand.as_shape()["significand"].width
#: The exponents of two FP8 factors, activation and weight, add up to that of `pair.PairSum`'s
#: product: that of its last bit, plus `Product`'s 62.
_EXPONENT_OFFSETS = (22, 23)
assert sum(_EXPONENT_OFFSETS) == 62 - 2 * 3 - PAIR_BITS


def is_any(precision: Value, precisions: Iterable[Precision]) -> Value:
    """Whether a precision's code is among those of `precisions`, as an expression."""
    return Cat(precision == p.value for p in precisions).any()


class Mode(data.Struct):
    """What a slot has to know of the precision.

    `eights`: INT8. `twos`: INT2. `unsigned_twos`: INT2, activations and weights both unsigned.
    `fp8`: FP8 of either kind. `binary`: BINARY.
    """

    eights: 1
    twos: 1
    unsigned_twos: 1
    fp8: 1
    binary: 1

    @staticmethod
    def of(precision: Value, activation_signed: Value, weight_signed: Value) -> "data.View":
        """As an expression."""
        twos = precision == Precision.INT2.value
        return Mode(Cat(precision == Precision.INT8.value, twos,
                        twos & ~activation_signed & ~weight_signed,
                        is_any(precision, [p for p in Precision if p.is_fp8]),
                        precision == Precision.BINARY.value))


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the operands of a set of precisions are laid out."""

    formats: tuple[Precision, ...]

    @cached_property
    def integers(self) -> tuple[Precision, ...]:
        return tuple(p for p in self.formats if p.is_integer)

    @cached_property
    def has_fp8(self) -> bool:
        return any(p.is_fp8 for p in self.formats)

    @cached_property
    def has_binary(self) -> bool:
        return Precision.BINARY in self.formats

    @cached_property
    def multipliers(self) -> int:
        """Multipliers in a slot."""
        return 2 if self.integers or self.has_fp8 else int(Precision.FP16 in self.formats)

    @cached_property
    def tags(self) -> int:
        """First bit of the tags in a factor that has them."""
        return PRODUCT_BITS if self.has_fp8 else 0

    @cached_property
    def field(self) -> int:
        """First bit of the wanted field in a product of integers."""
        return max((_span(p) for p in self.integers), default=0)

    def shift(self, precision: Precision, *, weights: bool) -> int:
        """Bits by which a factor is shifted to bring its field to `field`."""
        rest = self.field - _span(precision)
        return (rest + 1) // 2 if weights else rest // 2

    @cached_property
    def width(self) -> int:
        """Bits of a factor, its sign included: at most 18."""
        widths = [_SIGNIFICAND + 1] if Precision.FP16 in self.formats else []
        if self.multipliers > 1 and Precision.FP16 in self.formats:
            widths.append(self.tags + _TAGS)
        widths += [p.bits + 1 + _span(p) + self.shift(p, weights=True) for p in self.integers]
        return max(widths)

    @cached_property
    def layout(self) -> data.StructLayout:
        """One side's operand: factors; what else FP16, INT2 and BINARY need.

        `tags` are there only with one multiplier, `bits` only without two. `parities` holds the
        lowest bits of the three elements that meet in the field above the wanted one:
        `dot_product` needs to know whether that field is odd.
        """
        members: dict = {}
        if self.multipliers:
            members["factors"] = data.ArrayLayout(signed(self.width), self.multipliers)
        if self.multipliers == 1:
            members["tags"] = _TAGS
        if self.has_binary and self.multipliers < 2:
            members["bits"] = SLOT_BITS
        if Precision.INT2 in self.formats:
            members["parities"] = data.ArrayLayout(3, 2)
        return data.StructLayout(members)

    def operand(self, packed: data.View) -> data.View:
        """The `Operand` that FP16 sees in a packed operand, as an expression."""
        tags = packed.tags if self.multipliers == 1 else self.tags_of(packed, 1)
        return Operand(Cat(packed.factors[0].as_unsigned()[:_SIGNIFICAND], tags))

    def tags_of(self, packed: data.View, factor: int) -> Value:
        """A factor's `Tags` in a packed operand with two factors, as an expression."""
        return packed.factors[factor].as_unsigned()[self.tags:self.tags + _TAGS]

    def bits_of(self, packed: data.View) -> Value:
        """The elements of BINARY in a packed operand, as an expression."""
        if self.multipliers < 2:
            return packed.bits
        return Cat(factor.as_unsigned()[:SLOT_BITS // 2] for factor in packed.factors)

    @cached_property
    def dot_bits(self) -> int:
        """Bits of the dot product that one multiplier gives, its sign included."""
        return max(2 * p.bits + (p.per_slot // 2 - 1).bit_length() + 1 for p in self.integers)

    def dot_product(self, product: Value, odd: Value, mode: data.View) -> tuple[Value, Value]:
        """The dot product in a product of factors, as a signed number and a bit to be added to it.

        `odd` is the exclusive or of both sides' `parities`, multiplied bit by bit.

        The fields below the wanted one take 1 from it if their sum is negative: that is the bit
        to be added. With 15 such bits (INT2) the sum is from -18822 to 12548 if a side is signed,
        so it is negative if its bits are at least 0x3400; else it is at most 28233. INT2 gives
        from -24 to 36: the sixth bit is that of the product unless the field above is odd.
        """
        first = self.field
        high = product[first:]
        carry: Value = Const(0, 1)
        sign = product[first + 2 * 4 + 1] if Precision.INT4 in self.formats else Const(0, 1)
        low = high
        if Precision.INT2 in self.formats:
            sixth = high[5] ^ odd
            # From -25 to 36, before the bit is added.
            sign_of_twos = sixth & (high[4] | high[3] | high[1])
            others = [p for p in self.integers if p is not Precision.INT2]
            if others:
                width = max(2 * p.bits + (p is Precision.INT4) + 1 for p in others)
                low = Cat(high[:5], Mux(mode.twos, sixth, high[5]),
                          Mux(mode.twos, sign_of_twos.replicate(width - 6), high[6:width]))
                sign = Mux(mode.twos, sign_of_twos, sign)
            else:
                low, sign = Cat(high[:5], sixth), sign_of_twos
            below = product[first - 5:first]
            carry = ~mode.unsigned_twos & (below[4] | below[3] & below[2] & (below[1] | below[0]))
        elif Precision.INT4 in self.formats:
            carry = product[first - 1]
        narrow = {Precision.INT4: 10, Precision.INT2: 6}
        if Precision.INT8 not in self.formats:
            width = max(narrow[p] for p in self.integers)
            return Cat(low[:width], sign).as_signed(), carry
        if len(self.integers) == 1:
            return high[:17].as_signed(), carry
        width = max(narrow[p] for p in self.integers if p is not Precision.INT8)
        upper = Mux(mode.eights, high[width:17], sign.replicate(17 - width))
        return Cat(low[:width], upper).as_signed(), carry


def _span(precision: Precision) -> int:
    """First bit of the wanted field, without any shift."""
    return (precision.per_slot // 2 - 1) * _SPACING[precision]


def _spread(elements: Sequence[Value], is_signed: Value, spacing: int) -> Value:
    """sum of elements[i] * 2^(spacing i), as a signed number.

    Written digit by digit: a digit that is negative takes 1 from the next. This is cheaper than
    adders, since a digit has only one value from which the 1 must be taken further: 0.
    """
    digits: list[Value] = []
    borrow: Value = Const(0, 1)
    for i, element in enumerate(elements):
        width = len(element)
        negative = is_signed & element[-1] | borrow & ~element.any()
        low = [element[bit] ^ (borrow & ~element[:bit].any()) for bit in range(width)]
        last = i == len(elements) - 1
        digits.append(Cat(*low, negative.replicate(1 if last else spacing - width)))
        borrow = negative
    return Cat(*digits).as_signed()


class Packer(wiring.Component):
    """A slot's operand for the multipliers. Combinational.

    Parameters
    ----------
    formats
        The precisions that may come.
    weights
        It serves weights, not activations.

    Members
    -------
    slot : In(16)
    precision : In(3)
        A `Precision`'s value; others than those of `formats` give a meaningless operand.
    is_signed : In(1)
        The integers are signed.
    forward_bias : In(4)
        What is subtracted from the exponents of E4M3.
    packed : Out(Packing(formats).layout)
    """

    def __init__(self, *, formats: tuple[Precision, ...], weights: bool) -> None:
        self.packing = Packing(CoreConfig(formats=formats).formats)
        self.weights = weights
        super().__init__({
            "slot": In(SLOT_BITS),
            "precision": In(PRECISION_BITS),
            "is_signed": In(1),
            "forward_bias": In(4),
            "packed": Out(self.packing.layout),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing, packed = self.packing, self.packed
        with m.Switch(self.precision):
            for precision in packing.formats:
                with m.Case(precision.value):
                    if precision is Precision.FP16:
                        operand = Operand.decode(self.slot)
                        tags = operand.as_value()[-_TAGS:]
                        m.d.comb += packed.factors[0].eq(operand.significand)
                        m.d.comb += (
                            packed.tags.eq(tags) if packing.multipliers == 1 else
                            packed.factors[1].eq(Cat(Const(0, packing.tags), tags).as_signed()))
                    elif precision.is_fp8:
                        m.d.comb += [factor.eq(value) for factor, value in zip(
                            packed.factors, self._fp8(m, precision), strict=True)]
                    elif precision is Precision.BINARY:
                        halves = self.slot[:SLOT_BITS // 2], self.slot[SLOT_BITS // 2:]
                        m.d.comb += (
                            packed.bits.eq(self.slot) if packing.multipliers < 2 else
                            [packed.factors[i].eq(half) for i, half in enumerate(halves)])
                    else:
                        m.d.comb += [packed.factors[i].eq(self._factor(precision, i))
                                     for i in range(packing.multipliers)]
        if Precision.INT2 in packing.formats:
            first = 0 if self.weights else 1
            m.d.comb += [
                packed.parities[i][j].eq(self.slot[8 * i + 2 * (first + j)])
                for i in range(2) for j in range(3)
            ]
        return m

    def _fp8(self, m: Module, precision: Precision) -> list[Value]:
        """Both factors of a slot of FP8."""
        codes = self.slot[:SLOT_BITS // 2], self.slot[SLOT_BITS // 2:]
        fraction_bits = 3 if precision is Precision.E4M3 else 2
        exponents = [code[fraction_bits:-1] for code in codes]
        bias = self.forward_bias if precision is Precision.E4M3 else Const(15)
        offset = Const(_EXPONENT_OFFSETS[self.weights]) - bias
        factors = []
        for i, (code, number) in enumerate(zip(
                codes, (exponents[0] - exponents[1], exponents[1] + offset), strict=True)):
            exponent = Signal(Tags.as_shape()["exponent"].shape,
                              name=f"{precision.name}_exponent_{i}")
            m.d.comb += exponent.eq(number)
            zero = ~code[:-1].any()
            significand = Cat(Const(0, 3 - fraction_bits), code[:fraction_bits], ~zero)
            factors.append(Cat(significand, Const(0, PRODUCT_BITS - len(significand)),
                               exponent, code[-1], zero, code[:-1].all()).as_signed())
        return factors

    def _factor(self, precision: Precision, multiplier: int) -> Value:
        half = self.slot.word_select(multiplier, SLOT_BITS // 2)
        elements = [half.word_select(i, precision.bits) for i in range(precision.per_slot // 2)]
        if self.weights:
            elements.reverse()
        factor = _spread(elements, self.is_signed, _SPACING[precision])
        return Cat(Const(0, self.packing.shift(precision, weights=self.weights)),
                   factor).as_signed()
