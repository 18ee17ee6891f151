"""What is added to the sums of odd and of binary weights, once for a vector.

An odd weight of code c stands for 2 c + 1. So the sum over K of a (2 c + 1) is twice that of a c,
which the array makes, and the sum of the activations a, which is the same for every column. The
array counts of BINARY how many pairs differ; the sum of products is their number less twice
that. Twin: `ulpsim.integers.values`.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision

from .packing import PRECISION_BITS

__all__ = ["SlotOffset", "offset_bits", "with_offset"]


def offset_bits(config: CoreConfig) -> int:
    """Bits of the sum of all activations of a vector, or of the number of its elements."""
    largest = max(config.rows * p.per_slot * ((1 << p.bits) - 1)
                  for p in config.formats if not p.is_float)
    return largest.bit_length() + 1


class SlotOffset(wiring.Component):
    """The sum of a slot's elements; for BINARY the number of those that count. Combinational.

    Members
    -------
    slot : In(16)
        Zero where it does not count.
    counts : In(1)
        The slot counts.
    precision : In(3), is_signed : In(1)
        Of the slot; it means nothing for floating point.
    offset : Out
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            "slot": In(SLOT_BITS), "counts": In(1), "precision": In(PRECISION_BITS),
            "is_signed": In(1), "offset": Out(signed(offset_bits(config))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.Switch(self.precision):
            for precision in self.config.formats:
                if precision is Precision.BINARY:
                    with m.Case(precision.value):
                        m.d.comb += self.offset.eq(Mux(self.counts, SLOT_BITS, 0))
                elif precision.is_integer:
                    elements: list[Value] = []
                    for i in range(precision.per_slot):
                        element = self.slot.word_select(i, precision.bits)
                        elements.append(Cat(element, element[-1] & self.is_signed).as_signed())
                    while len(elements) > 1:
                        elements = [a + b for a, b in zip(elements[::2], elements[1::2],
                                                          strict=True)]
                    with m.Case(precision.value):
                        m.d.comb += self.offset.eq(elements[0])
        return m


def with_offset(total: Value, offset: Value, doubled: Value, negated: Value) -> Value:
    """What an integer sum of the array becomes, as an expression of the same width.

    It is `total` itself, or if `doubled` twice that, added to `offset`, or subtracted from it if
    also `negated`. Without `doubled` the offset must be zero.
    """
    bits = len(total)
    twice = Mux(doubled, Cat(Const(0, 1), total)[:bits], total)
    # One carry chain: the carry enters as the sum of a place below the lowest.
    left, right = Cat(1, offset).as_signed(), Cat(negated, twice ^ negated.replicate(bits))
    return (left + right.as_signed())[1:bits + 1]
