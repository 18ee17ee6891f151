"""Weights that are narrower than the activations: made as wide before they enter the array."""

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision, multipliable

from .packing import PRECISION_BITS

__all__ = ["PART_BITS", "Widener", "narrower"]

#: Bits that tell the parts of a slot apart: 8 of BINARY for INT8.
PART_BITS = exact_log2(Precision.INT8.bits // Precision.BINARY.bits)


def narrower(precision: Precision, config: CoreConfig) -> list[Precision]:
    """What weights can be of beside wider activations of a precision."""
    return [p for p in config.formats
            if multipliable(precision, p) and p.bits < precision.bits]


class Widener(wiring.Component):
    """One part of a slot of weights, widened to the integers that they are multiplied by.

    A weight of BINARY becomes 0 (code 1) or -1 (code 0): taken as odd, that is +1 or -1.
    Combinational.

    Parameters
    ----------
    config
        Its formats are those that may come.

    Members
    -------
    slot : In(16)
    part : In(3)
        Which part of the slot, counted from the lowest bits.
    precision : In(3), is_signed : In(1)
        Of the slot.
    target : In(3)
        Precision of the activations. If it is no wider, or in floating point, the slot is left as
        it is.
    widened : Out(16)
    """

    slot: In(SLOT_BITS)
    part: In(PART_BITS)
    precision: In(PRECISION_BITS)
    is_signed: In(1)
    target: In(PRECISION_BITS)
    widened: Out(SLOT_BITS)

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.widened.eq(self.slot)
        with m.Switch(self.target):
            for target in self.config.formats:
                with m.Case(target.value):
                    for precision in narrower(target, self.config):
                        with m.If(self.precision == precision.value):
                            m.d.comb += self.widened.eq(self._widen(precision, target))
        return m

    def _widen(self, precision: Precision, target: Precision) -> Value:
        ratio = target.bits // precision.bits
        part = self.slot.word_select(self.part[:exact_log2(ratio)], SLOT_BITS // ratio)
        elements = []
        for i in range(target.per_slot):
            element = part.word_select(i, precision.bits)
            if precision is Precision.BINARY:
                elements.append((~element).replicate(target.bits))
            else:
                sign = element[-1] & self.is_signed
                elements.append(Cat(element, sign.replicate(target.bits - precision.bits)))
        return Cat(elements)
