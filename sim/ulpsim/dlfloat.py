"""DLFloat16: the 16-bit floating-point format of the multiply-add, with one rounding and no modes.

A code is `s eeeeee fffffffff`: a sign, 6 bits of exponent with bias 31 and 9 bits of fraction. It
stands for (-1)^s * 2^(e - 31) * (1 + f / 512), except that

- e = 0 with f = 0 is zero: the lowest binade is normal like the others, and lacks 2^-31;
- 0x7FFF and 0xFFFF are NaN and infinity merged into one value ("NaN-Inf").

The signs of zero and of NaN-Inf carry no meaning; results are written as 0x0000 and 0x7FFF.
Results are rounded to 10 significant bits, to nearest, ties up in magnitude, as if the exponent
had no bounds. A rounded magnitude of 2^-31 or less becomes zero; one beyond the largest finite
value becomes NaN-Inf. See A. Agrawal et al., "DLFloat: A 16-b Floating Point Format Designed for
Deep Learning Training and Inference", ARITH 2019, and US patent 10656913.

Scalar functions (`encode`, `decode`, `fma`) compute with exact rationals and read like the
definition. Their twins for arrays (`encode_array`, `decode_array`, `fma_array`) compute in
float64; `fma_values` is the twin that keeps values rather than codes, for long sums.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BIAS",
    "FRACTION_BITS",
    "LARGEST",
    "NAN",
    "SMALLEST",
    "decode",
    "decode_array",
    "decode_exact",
    "encode",
    "encode_array",
    "fma",
    "fma_array",
    "fma_values",
    "round_exact",
    "round_values",
]

FRACTION_BITS = 9
BIAS = 31
#: Code of NaN-Inf as results have it.
NAN = 0x7FFF
#: Codes of the largest and of the smallest positive value.
LARGEST, SMALLEST = 0x7FFE, 0x0001

_SIGN = 0x8000
_ONE = 1 << FRACTION_BITS


def decode_exact(code: int) -> Fraction | None:
    """The exact value of a code; None for NaN-Inf.

    Raises ValueError if `code` is not from 0 to 0xFFFF.
    """
    if not 0 <= code <= 0xFFFF:
        raise ValueError(f"code must be from 0 to 0xFFFF, not {code!r}")
    magnitude = code & ~_SIGN
    if magnitude == NAN:
        return None
    if magnitude == 0:
        return Fraction(0)
    exponent, fraction = divmod(magnitude, _ONE)
    value = Fraction(2) ** (exponent - BIAS) * Fraction(_ONE + fraction, _ONE)
    return -value if code & _SIGN else value


def round_exact(value: Fraction | int) -> int:
    """The code of the DLFloat16 value that `value` is rounded to."""
    value = Fraction(value)
    magnitude = abs(value)
    if magnitude == 0:
        return 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    significand = math.floor(magnitude / Fraction(2) ** (exponent - FRACTION_BITS)
                             + Fraction(1, 2))
    # A significand rounded up to 2.0 carries into the exponent by itself.
    code = (exponent + BIAS) * _ONE + (significand - _ONE)
    if code <= 0:
        return 0
    if code >= NAN:
        return NAN
    return code | _SIGN if value < 0 else code


def encode(value: float | Fraction | int) -> int:
    """The code that a number is rounded to; infinities and NaN give NaN-Inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return NAN
    return round_exact(Fraction(value))


def decode(code: int) -> float:
    """The value of a code, which a float holds exactly; NaN for NaN-Inf.

    Raises ValueError if `code` is not from 0 to 0xFFFF.
    """
    value = decode_exact(code)
    return math.nan if value is None else float(value)


def fma(a: int, b: int, c: int) -> int:
    """The code of a * b + c, rounded once, for three codes."""
    x, y, z = map(decode_exact, (a, b, c))
    if x is None or y is None or z is None:
        return NAN
    return round_exact(x * y + z)


# The fraction of a float64 has 43 bits more than that of DLFloat16.
_EXTRA_BITS = 52 - FRACTION_BITS
_HALF = np.int64(1 << (_EXTRA_BITS - 1))
_TRUNCATE = np.int64(-1 << _EXTRA_BITS)
_REBIAS = np.int64((1023 - BIAS) << FRACTION_BITS)
_LARGEST_VALUE = np.float64(decode(LARGEST))
_MISSING_VALUE = np.float64(2.0 ** -BIAS)


def encode_array(values: ArrayLike) -> NDArray[np.uint16]:
    """`encode` for an array of float64; an array of codes of the same shape."""
    bits = np.atleast_1d(np.asarray(values, np.float64)).view(np.int64)
    code = ((bits & np.int64(2**63 - 1)) + _HALF) >> _EXTRA_BITS
    code -= _REBIAS
    np.clip(code, 0, NAN, out=code)
    code[(bits < 0) & (code != 0) & (code != NAN)] |= _SIGN
    return code.astype(np.uint16).reshape(np.shape(values))


def _decode_table() -> NDArray[np.float64]:
    code = np.arange(1 << 16)
    magnitude = code & ~_SIGN
    value = np.ldexp(1 + magnitude % _ONE / _ONE, magnitude // _ONE - BIAS)
    value[magnitude == 0] = 0.0
    value[magnitude == NAN] = np.nan
    return np.where((code >= _SIGN) & (magnitude != 0), -value, value)


_VALUES = _decode_table()
_VALUES.flags.writeable = False


def decode_array(codes: ArrayLike) -> NDArray[np.float64]:
    """`decode` for an array of codes (uint16)."""
    return _VALUES[np.asarray(codes, np.uint16)]


def round_values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round an array of float64 in place to DLFloat16 values; returns it.

    The sign of a zero is kept; NaN stands for NaN-Inf.
    """
    bits = values.view(np.int64)
    bits += _HALF
    bits &= _TRUNCATE
    magnitude = np.abs(values)
    np.copyto(values, 0.0, where=magnitude <= _MISSING_VALUE)
    if not magnitude.max(initial=0.0) <= _LARGEST_VALUE:
        values[magnitude > _LARGEST_VALUE] = np.nan
    return values


def fma_values(a: NDArray[np.float64], b: NDArray[np.float64],
               c: NDArray[np.float64]) -> NDArray[np.float64]:
    """`fma` for arrays of DLFloat16 values as float64; NaN stands for NaN-Inf.

    The arrays are broadcast against each other. The sign of a zero result has no meaning.
    """
    product = a * b                                    # exact: 20 significant bits
    total = np.atleast_1d(product + c)
    # The sum may need more bits than a float64 has. Ties go up in magnitude, so a sum truncated
    # to 53 bits is rounded like the exact one; a sum that was rounded away from zero is not, and
    # is moved back by one unit. `lost` is exact (Dekker) if the product is the larger addend; if
    # it is the smaller one and bits are lost, the sum is next to c, far from any tie.
    lost = c - (total - product)
    if lost.any():
        away = lost * total < 0
        total.view(np.int64)[away] -= 1
    return round_values(total).reshape(np.broadcast_shapes(np.shape(product), np.shape(c)))


def fma_array(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> NDArray[np.uint16]:
    """`fma` for arrays of codes (uint16), broadcast against each other."""
    return encode_array(fma_values(decode_array(a), decode_array(b), decode_array(c)))
