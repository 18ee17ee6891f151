"""The number formats, as enumerations that the other modules are written over."""

import dataclasses
import enum

__all__ = ["FORMATS", "Format", "Precision"]


class Precision(enum.Enum):
    """What one 16-bit slot holds; the value is the code used in instructions."""

    FP16 = 0
    INT8 = 1
    INT4 = 2
    INT2 = 3

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return {"FP16": 16, "INT8": 8, "INT4": 4, "INT2": 2}[self.name]

    @property
    def per_slot(self) -> int:
        """Elements in one slot, the first one in the lowest bits."""
        return 16 // self.bits

    @property
    def is_float(self) -> bool:
        return self is Precision.FP16


@dataclasses.dataclass(frozen=True)
class Format:
    """A precision with its signedness: FP16, INT8, UINT8, INT4, UINT4, INT2, UINT2."""

    precision: Precision
    signed: bool = True

    @property
    def name(self) -> str:
        return self.precision.name if self.signed else f"U{self.precision.name}"

    @property
    def lowest(self) -> int:
        """Smallest code of an integer format."""
        return -(1 << (self.precision.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest code of an integer format."""
        return (1 << (self.precision.bits - self.signed)) - 1

    def __str__(self) -> str:
        return self.name


FORMATS = {
    f.name: f
    for p in Precision
    for f in ([Format(p)] if p.is_float else [Format(p), Format(p, signed=False)])
}
