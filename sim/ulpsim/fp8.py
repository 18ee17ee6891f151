"""FP8: the two 8-bit floating-point formats, and the sum of a slot's two products.

A code is a sign, `exponent_bits` bits of exponent and the rest of fraction, with the rules of
DLFloat16: (-1)^s * 2^(e - bias) * (1 + f / 2^fraction_bits), except that an exponent and fraction
of all zeros are zero (the lowest binade is normal like the others) and of all ones NaN-Inf.
Results are rounded to nearest, ties up in magnitude, as if the exponent had no bounds; then what
is too small becomes zero and what is too large NaN-Inf. Forward has 4 bits of exponent and a
programmable bias, backward 5 bits and bias 15. See X. Sun et al., "Hybrid 8-bit Floating Point
(HFP8) Training and Inference for Deep Neural Networks", NeurIPS 2019.

A slot holds two elements. Their products are added before the DLFloat16 sum (`pair`): the product
with the greater exponent, being the sum of its factors' exponents, keeps 11 bits below its last
bit; the other one is cut to that last place, towards zero. So a pair's sum has no more bits than a
product of two DLFloat16 significands. The pair's sum is added to the
DLFloat16 partial sum with one rounding (`fma2`).

`pair` and `fma2` compute with exact rationals and read like the definition; `pair_values` and
`fma2_values` are their twins for arrays.
"""

import dataclasses
import math
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat
from .formats import FORWARD_BIAS, Format, Precision

__all__ = [
    "BACKWARD",
    "NAN",
    "PAIR_BITS",
    "Float8",
    "fma2",
    "fma2_values",
    "forward",
    "of",
    "pair",
    "pair_values",
]

#: Code of NaN-Inf as results have it.
NAN = 0x7F
#: Bits that the greater product of a pair keeps below its last bit.
PAIR_BITS = 11
#: Bits of fraction that a product of two significands of 1-4-3 has.
_PRODUCT_FRACTION = 6
_SIGN = 0x80


@dataclasses.dataclass(frozen=True)
class Float8:
    """An 8-bit floating-point format; ValueError for a bias that no register holds.

    Parameters
    ----------
    exponent_bits
        4 (forward) or 5 (backward).
    bias
        What is subtracted from the exponent, from 0 to 15.
    """

    exponent_bits: int
    bias: int

    def __post_init__(self) -> None:
        if self.exponent_bits not in (4, 5):
            raise ValueError(f"exponent_bits must be 4 or 5, not {self.exponent_bits!r}")
        if not 0 <= self.bias <= 15:
            raise ValueError(f"bias must be from 0 to 15, not {self.bias!r}")

    @property
    def fraction_bits(self) -> int:
        return 7 - self.exponent_bits

    def decode_exact(self, code: int) -> Fraction | None:
        """The exact value of a code; None for NaN-Inf.

        Raises ValueError if `code` is not from 0 to 0xFF.
        """
        if not 0 <= code <= 0xFF:
            raise ValueError(f"code must be from 0 to 0xFF, not {code!r}")
        magnitude = code & ~_SIGN
        if magnitude == NAN:
            return None
        if magnitude == 0:
            return Fraction(0)
        one = 1 << self.fraction_bits
        exponent, fraction = divmod(magnitude, one)
        value = Fraction(2) ** (exponent - self.bias) * Fraction(one + fraction, one)
        return -value if code & _SIGN else value

    def round_exact(self, value: Fraction | int) -> int:
        """The code of the value that `value` is rounded to."""
        magnitude = abs(Fraction(value))
        if magnitude == 0:
            return 0
        exponent = _exponent(magnitude)
        one = 1 << self.fraction_bits
        significand = math.floor(magnitude / Fraction(2) ** exponent * one + Fraction(1, 2))
        # A significand rounded up to 2.0 carries into the exponent by itself.
        code = (exponent + self.bias) * one + (significand - one)
        if code <= 0:
            return 0
        if code >= NAN:
            return NAN
        return code | _SIGN if value < 0 else code

    def encode(self, value: float | Fraction | int) -> int:
        """The code that a number is rounded to; infinities and NaN give NaN-Inf."""
        if isinstance(value, float) and not math.isfinite(value):
            return NAN
        return self.round_exact(Fraction(value))

    def encode_array(self, values: ArrayLike) -> NDArray[np.uint8]:
        """`encode` for an array of float64; an array of codes of the same shape."""
        bits = np.atleast_1d(np.asarray(values, np.float64)).view(np.int64)
        extra = 52 - self.fraction_bits
        code = ((bits & np.int64(2**63 - 1)) + np.int64(1 << (extra - 1))) >> extra
        code -= np.int64((1023 - self.bias) << self.fraction_bits)
        np.clip(code, 0, NAN, out=code)
        code[(bits < 0) & (code != 0) & (code != NAN)] |= _SIGN
        return code.astype(np.uint8).reshape(np.shape(values))

    def decode_array(self, codes: ArrayLike) -> NDArray[np.float64]:
        """The values of codes (uint8), which float64 holds exactly; NaN for NaN-Inf."""
        return self._values[np.asarray(codes, np.uint8)]

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        exact = [self.decode_exact(code) for code in range(256)]
        values = np.array([math.nan if value is None else float(value) for value in exact])
        values.flags.writeable = False
        return values


#: 1-5-2, for gradients.
BACKWARD = Float8(5, 15)


def forward(bias: int = FORWARD_BIAS) -> Float8:
    """1-4-3, for activations and weights."""
    return Float8(4, bias)


def of(source: Format) -> Float8:
    """The FP8 format of a `Format` of E4M3 or E5M2; ValueError for another."""
    if not source.precision.is_fp8:
        raise ValueError(f"source must be a format of FP8, not {source}")
    return forward(source.bias) if source.precision is Precision.E4M3 else BACKWARD


def pair(a: tuple[Fraction | None, Fraction | None],
         w: tuple[Fraction | None, Fraction | None]) -> Fraction | None:
    """a[0] * w[0] + a[1] * w[1] for values of FP8, as the hardware adds them; None for NaN-Inf."""
    terms: list[tuple[int, Fraction]] = []
    for x, y in zip(a, w, strict=True):
        if x is None or y is None:
            return None
        if x and y:
            terms.append((_exponent(abs(x)) + _exponent(abs(y)), x * y))
    if not terms:
        return Fraction(0)
    last = Fraction(2) ** (max(exponent for exponent, _ in terms) - _PRODUCT_FRACTION - PAIR_BITS)
    return sum((math.trunc(product / last) * last for _, product in terms), Fraction(0))


def fma2(a: tuple[Fraction | None, Fraction | None],
         w: tuple[Fraction | None, Fraction | None], c: int) -> int:
    """The DLFloat16 code of `pair` plus the DLFloat16 code `c`, rounded once."""
    product, addend = pair(a, w), dlfloat.decode_exact(c)
    if product is None or addend is None:
        return dlfloat.NAN
    return dlfloat.round_exact(product + addend)


def pair_values(a0: NDArray[np.float64], w0: NDArray[np.float64], a1: NDArray[np.float64],
                w1: NDArray[np.float64]) -> NDArray[np.float64]:
    """`pair` for arrays of values, broadcast against each other; NaN stands for NaN-Inf."""
    last = np.maximum(_binade(a0) * _binade(w0), _binade(a1) * _binade(w1))
    last *= 2.0 ** -(_PRODUCT_FRACTION + PAIR_BITS)
    return (np.trunc(a0 * w0 / last) + np.trunc(a1 * w1 / last)) * last


def fma2_values(a0: NDArray[np.float64], w0: NDArray[np.float64], a1: NDArray[np.float64],
                w1: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """`fma2` for arrays of values; `c` and the result are DLFloat16 values.

    A pair's 20 bits and the 10 of a DLFloat16 value leave `dlfloat.fma_values` exact.
    """
    return dlfloat.fma_values(pair_values(a0, w0, a1, w1), np.ones(1), c)


def _exponent(magnitude: Fraction) -> int:
    """The power of two of the binade that a positive number lies in."""
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent - 1 if magnitude < Fraction(2) ** exponent else exponent


def _binade(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of two below a magnitude; for zero one that is less than any product's."""
    bits = np.asarray(values, np.float64).view(np.int64) & np.int64(0x7FF << 52)
    return np.where(bits == 0, 2.0 ** -200, bits.view(np.float64))
