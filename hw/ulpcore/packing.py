"""Operands for the array's multipliers from 16-bit slots; unpacked by `ulpsim.integers`.

Every slot of the array has two signed multipliers, and every precision goes through them. With
integers, one product is the dot product of several elements: the activations' elements stand
`s` bits apart in one factor, the weights' in the other, in the opposite order,

    A = a0 + a1 2^s + a2 2^2s + a3 2^3s        B = b3 + b2 2^s + b1 2^2s + b0 2^3s

so that in A B the field at bit 3 s is a0 b0 + a1 b1 + a2 b2 + a3 b3. INT2 takes four elements
with s = 5, INT4 two with s = 10, INT8 one. The factors are shifted further so that the wanted
field starts at the same bit (`Packing.field`) in every precision, where `dot_product` finds it.
FP16 multiplies its significands in the first multiplier and carries sign, exponent and tags in
the other one's bits.

All this is made once for a row (activations) or a column (weights), where slots enter the array.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision

from .multiply_add import Operand

__all__ = ["Mode", "Packer", "Packing"]

_SPACING = {Precision.INT8: 0, Precision.INT4: 10, Precision.INT2: 5}
_TAGS = 10                                         # exponent, sign, zero, nan of an Operand


class Mode(data.Struct):
    """What a slot has to know of the precision to find the dot products of integers.

    `eights`: INT8. `twos`: INT2. `unsigned_twos`: INT2, activations and weights both unsigned.
    """

    eights: 1
    twos: 1
    unsigned_twos: 1

    @staticmethod
    def of(precision: Value, activation_signed: Value, weight_signed: Value) -> "data.View":
        """As an expression."""
        twos = precision == Precision.INT2.value
        return Mode(Cat(precision == Precision.INT8.value, twos,
                        twos & ~activation_signed & ~weight_signed))


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the operands of a set of precisions are laid out."""

    formats: tuple[Precision, ...]

    @cached_property
    def integers(self) -> tuple[Precision, ...]:
        return tuple(p for p in self.formats if not p.is_float)

    @cached_property
    def multipliers(self) -> int:
        """Multipliers in a slot."""
        return 2 if self.integers else 1

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
        widths = [Operand.as_shape()["significand"].width + 1] if Precision.FP16 in self.formats \
            else []
        widths += [p.bits + 1 + _span(p) + self.shift(p, weights=True) for p in self.integers]
        return max(widths)

    @cached_property
    def layout(self) -> data.StructLayout:
        """One side's operand: factors; what else FP16 and INT2 need.

        `parities` holds the lowest bits of the three elements that meet in the field above the
        wanted one: `dot_product` needs to know whether that field is odd.
        """
        members: dict = {"factors": data.ArrayLayout(signed(self.width), self.multipliers)}
        if not self.integers:
            members["tags"] = _TAGS
        if Precision.INT2 in self.formats:
            members["parities"] = data.ArrayLayout(3, 2)
        return data.StructLayout(members)

    def operand(self, packed: data.View) -> data.View:
        """The `Operand` that FP16 sees in a packed operand, as an expression."""
        tags = packed.factors[1].as_unsigned()[:_TAGS] if self.integers else packed.tags
        significand = packed.factors[0].as_unsigned()[:Operand.as_shape()["significand"].width]
        return Operand(Cat(significand, tags))

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
    precision : In(2)
        A `Precision`'s value; others than those of `formats` give a meaningless operand.
    is_signed : In(1)
        The integers are signed.
    packed : Out(Packing(formats).layout)
    """

    def __init__(self, *, formats: tuple[Precision, ...], weights: bool) -> None:
        self.packing = Packing(CoreConfig(formats=formats).formats)
        self.weights = weights
        super().__init__({
            "slot": In(SLOT_BITS),
            "precision": In(2),
            "is_signed": In(1),
            "packed": Out(self.packing.layout),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing, packed = self.packing, self.packed
        with m.Switch(self.precision):
            for precision in packing.formats:
                with m.Case(precision.value):
                    if precision.is_float:
                        operand = Operand.decode(self.slot)
                        tags = operand.as_value()[-_TAGS:]
                        m.d.comb += packed.factors[0].eq(operand.significand)
                        m.d.comb += (packed.factors[1] if packing.integers else packed.tags).eq(
                            tags)
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

    def _factor(self, precision: Precision, multiplier: int) -> Value:
        half = self.slot.word_select(multiplier, SLOT_BITS // 2)
        elements = [half.word_select(i, precision.bits) for i in range(precision.per_slot // 2)]
        if self.weights:
            elements.reverse()
        factor = _spread(elements, self.is_signed, _SPACING[precision])
        return Cat(Const(0, self.packing.shift(precision, weights=self.weights)),
                   factor).as_signed()
