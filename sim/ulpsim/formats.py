"""The number formats, as enumerations that the other modules are written over."""

import dataclasses
import enum

__all__ = ["FORMATS", "FORWARD_BIAS", "Format", "Precision", "multipliable"]

#: Bias of E4M3 after a reset: the range is 1.125 * 2^-11 to 1.75 * 2^4 (HFP8's choice).
FORWARD_BIAS = 11


class Precision(enum.Enum):
    """What one 16-bit slot holds; the value is the code used in instructions.

    E4M3 and E5M2 are FP8 forward (1-4-3, programmable bias) and backward (1-5-2). An element of
    BINARY is +1 (code 1) or -1 (code 0).
    """

    FP16 = 0
    INT8 = 1
    INT4 = 2
    INT2 = 3
    E4M3 = 4
    E5M2 = 5
    BINARY = 6

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return {"FP16": 16, "INT8": 8, "INT4": 4, "INT2": 2, "E4M3": 8, "E5M2": 8,
                "BINARY": 1}[self.name]

    @property
    def per_slot(self) -> int:
        """Elements in one slot, the first one in the lowest bits."""
        return 16 // self.bits

    @property
    def is_float(self) -> bool:
        return self is Precision.FP16 or self.is_fp8

    @property
    def is_fp8(self) -> bool:
        return self in (Precision.E4M3, Precision.E5M2)

    @property
    def is_integer(self) -> bool:
        """Its elements are integers, signed or unsigned."""
        return self in (Precision.INT8, Precision.INT4, Precision.INT2)


def multipliable(activations: Precision, weights: Precision) -> bool:
    """Whether the array can multiply activations of one precision by weights of the other.

    FP16 by FP16; FP8 by FP8, of either kind; integers by integers that are no wider, and by
    BINARY; BINARY by BINARY.
    """
    if activations.is_fp8:
        return weights.is_fp8
    if activations.is_integer:
        return not weights.is_float and weights.bits <= activations.bits
    return activations is weights


@dataclasses.dataclass(frozen=True)
class Format:
    """A precision with what the bits of its elements mean.

    Parameters
    ----------
    precision
    signed
        Of integers: two's complement. True for all others.
    odd
        Of integers: the code c, which is signed, stands for 2 c + 1, so that there are as many
        levels above zero as below. That is SAWB's 2-bit coding {-3, -1, 1, 3}.
    bias
        Of E4M3: what is subtracted from the exponent, from 0 to 15.

    Raises ValueError for a combination that means nothing.
    """

    precision: Precision
    signed: bool = True
    odd: bool = False
    bias: int = FORWARD_BIAS

    def __post_init__(self) -> None:
        if not self.signed and not self.precision.is_integer:
            raise ValueError(f"signed must be True with {self.precision.name}, not False")
        if self.odd and not (self.precision.is_integer and self.signed):
            plain = dataclasses.replace(self, odd=False)
            raise ValueError(f"odd must be False with {plain}, not True")
        if not 0 <= self.bias <= 15:
            raise ValueError(f"bias must be from 0 to 15, not {self.bias!r}")

    @property
    def name(self) -> str:
        if self.odd:
            return f"ODD{self.precision.bits}"
        return self.precision.name if self.signed else f"U{self.precision.name}"

    @property
    def lowest(self) -> int:
        """Smallest code of an integer format; 0 for BINARY."""
        if not self.precision.is_integer:
            return 0
        return -(1 << (self.precision.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest code."""
        signed = self.signed and self.precision.is_integer
        return (1 << (self.precision.bits - signed)) - 1

    def __str__(self) -> str:
        return self.name


#: By name: FP16, INT8, UINT8, ODD8, ... BINARY.
FORMATS = {
    f.name: f
    for p in Precision
    for f in ([Format(p), Format(p, signed=False), Format(p, odd=True)] if p.is_integer
              else [Format(p)])
}
