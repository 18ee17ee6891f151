"""FP32: IEEE 754 binary32 without subnormal numbers and with NaN and infinity merged.

A value is its 32 bits. Differences from IEEE 754, all of them there to save hardware:

- a code with exponent field 0 is zero, whatever its fraction; zero results are 0x00000000;
- a code with exponent field 255 is NaN and infinity merged into one value ("NaN-Inf"), whatever
  its sign and fraction; such results are 0x7FC00000;
- the only rounding is to nearest, ties to even. A result is rounded to 24 significant bits as if
  the exponent had no bounds; then a magnitude below 2^-126 becomes zero, one of 2^128 or more
  NaN-Inf.

Scalar functions compute with exact rationals and read like the definition; their twins for
arrays, with names that end in `_array`, use numpy's float32. Between them a computation can stay
in *values*: arrays of float32 that hold no subnormal and no infinity and in which NaN stands for
NaN-Inf (`to_values`, `from_values`, `add_values`, ...).
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat, fp8
from .formats import Format, Precision

__all__ = [
    "LARGEST",
    "NAN",
    "SMALLEST",
    "add",
    "add_array",
    "add_values",
    "canonical_values",
    "code_to_values",
    "decode",
    "decode_exact",
    "encode",
    "encode_array",
    "from_code",
    "from_code_array",
    "from_dlfloat",
    "from_dlfloat_array",
    "from_int32",
    "from_int32_array",
    "from_values",
    "maximum",
    "maximum_array",
    "minimum",
    "minimum_array",
    "multiply",
    "multiply_array",
    "multiply_values",
    "round_exact",
    "to_code",
    "to_code_array",
    "to_dlfloat",
    "to_dlfloat_array",
    "to_integer",
    "to_integer_array",
    "to_values",
]

#: Bits of NaN-Inf as results have them.
NAN = 0x7FC00000
#: Bits of the largest and of the smallest positive value.
LARGEST, SMALLEST = 0x7F7FFFFF, 0x00800000

_FRACTION_BITS = 23
_BIAS = 127
_ONE = 1 << _FRACTION_BITS
_SIGN = 1 << 31
_INFINITY = 255 << _FRACTION_BITS


def decode_exact(bits: int) -> Fraction | None:
    """The exact value of a code; None for NaN-Inf.

    Raises ValueError if `bits` is not from 0 to 2^32 - 1.
    """
    if not 0 <= bits < 1 << 32:
        raise ValueError(f"bits must be from 0 to 0xFFFFFFFF, not {bits!r}")
    exponent, fraction = divmod(bits & ~_SIGN, _ONE)
    if exponent == 0:
        return Fraction(0)
    if exponent == 255:
        return None
    value = Fraction(2) ** (exponent - _BIAS) * Fraction(_ONE + fraction, _ONE)
    return -value if bits & _SIGN else value


def round_exact(value: Fraction | int) -> int:
    """The bits of the FP32 value that `value` is rounded to."""
    value = Fraction(value)
    magnitude = abs(value)
    if magnitude == 0:
        return 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    significand = round(magnitude / Fraction(2) ** (exponent - _FRACTION_BITS))  # half to even
    # A significand rounded up to 2.0 carries into the exponent by itself.
    bits = (exponent + _BIAS) * _ONE + (significand - _ONE)
    if bits < SMALLEST:
        return 0
    if bits > LARGEST:
        return NAN
    return bits | _SIGN if value < 0 else bits


def encode(value: float | Fraction | int) -> int:
    """The bits that a number is rounded to; infinities and NaN give NaN-Inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return NAN
    return round_exact(Fraction(value))


def decode(bits: int) -> float:
    """The value of a code, which a float holds exactly; NaN for NaN-Inf.

    Raises ValueError if `bits` is not from 0 to 2^32 - 1.
    """
    value = decode_exact(bits)
    return math.nan if value is None else float(value)


def _operation(function: Callable[[Fraction, Fraction], Fraction], a: int, b: int) -> int:
    x, y = decode_exact(a), decode_exact(b)
    if x is None or y is None:
        return NAN
    return round_exact(function(x, y))


def add(a: int, b: int) -> int:
    """The bits of a + b."""
    return _operation(lambda x, y: x + y, a, b)


def multiply(a: int, b: int) -> int:
    """The bits of a * b."""
    return _operation(lambda x, y: x * y, a, b)


def maximum(a: int, b: int) -> int:
    """The bits of the greater one; NaN-Inf if either is."""
    return _operation(max, a, b)


def minimum(a: int, b: int) -> int:
    """The bits of the lesser one; NaN-Inf if either is."""
    return _operation(min, a, b)


def from_int32(bits: int) -> int:
    """An accumulator of the integer formats (32 bits, two's complement), rounded to FP32."""
    return round_exact(bits - ((bits & _SIGN) << 1))


def from_dlfloat(code: int) -> int:
    """A DLFloat16 code as FP32: exact."""
    value = dlfloat.decode_exact(code)
    return NAN if value is None else round_exact(value)


def to_dlfloat(bits: int) -> int:
    """The DLFloat16 code that an FP32 value is rounded to (ties up in magnitude)."""
    value = decode_exact(bits)
    return dlfloat.NAN if value is None else dlfloat.round_exact(value)


def to_integer(bits: int, target: Format) -> int:
    """The nearest integer, ties to even, clamped to the range of `target`; 0 for NaN-Inf."""
    value = decode_exact(bits)
    if value is None:
        return 0
    return min(max(round(value), target.lowest), target.highest)


def to_code(bits: int, target: Format) -> int:
    """What an FP32 value becomes in a format: an integer, or the code of another format.

    FP16 and FP8: rounded to nearest, ties up in magnitude. BINARY: 1 if it is at least 0, else 0
    (NaN-Inf included). Integers: `to_integer`. Raises ValueError for an odd format, which only
    weights have.
    """
    if target.odd:
        raise ValueError(f"target must be a format that can be written, not {target}")
    if target.precision.is_integer:
        return to_integer(bits, target)
    value = decode_exact(bits)
    if target.precision is Precision.BINARY:
        return int(value is not None and value >= 0)
    if value is None:
        return fp8.NAN if target.precision.is_fp8 else dlfloat.NAN
    kind = fp8.of(target) if target.precision.is_fp8 else dlfloat
    return kind.round_exact(value)


def from_code(code: int, source: Format) -> int:
    """One element of a slot (its bits as an unsigned number) as FP32: exact."""
    bits = source.precision.bits
    if not 0 <= code < 1 << bits:
        raise ValueError(f"code of {source} must be from 0 to {(1 << bits) - 1}, not {code!r}")
    if source.precision.is_float:
        kind = fp8.of(source) if source.precision.is_fp8 else dlfloat
        value = kind.decode_exact(code)
        return NAN if value is None else round_exact(value)
    if source.precision is Precision.BINARY:
        return round_exact(2 * code - 1)
    return round_exact(code - (1 << bits) if code > source.highest else code)


_SMALLEST_VALUE = np.float32(2.0 ** -126)
# Half way, in 24 significant bits, from the greatest magnitude that becomes zero to 2^-126: the
# tie itself goes to the even 2^-126.
_ROUNDS_TO_SMALLEST = np.float64(2.0 ** -126 - 2.0 ** -151)


def canonical_values(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flush subnormals and merge infinities into NaN, in place; returns the array."""
    magnitude = np.abs(values)
    np.copyto(values, np.float32(0), where=magnitude < _SMALLEST_VALUE)
    if not magnitude.max(initial=np.float32(0)) < np.inf:
        values[magnitude == np.inf] = np.nan
    return values


def to_values(bits: ArrayLike) -> NDArray[np.float32]:
    """Bits (uint32) as a new array of values."""
    codes = np.array(bits, np.uint32, ndmin=1)
    exponent = codes & np.uint32(_INFINITY)
    codes[exponent == 0] = 0
    codes[exponent == _INFINITY] = NAN
    return codes.view(np.float32).reshape(np.shape(bits))


def from_values(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Values as a new array of bits, zero and NaN-Inf in their canonical form."""
    codes = np.atleast_1d(values + np.float32(0)).view(np.uint32)      # -0 + 0 is +0
    codes[np.atleast_1d(np.isnan(values))] = NAN
    return codes.reshape(np.shape(values))


def add_values(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """`add` for arrays of values."""
    with np.errstate(over="ignore"):
        total = np.atleast_1d(a + b)
    return canonical_values(total).reshape(np.broadcast_shapes(np.shape(a), np.shape(b)))


def multiply_values(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """`multiply` for arrays of values."""
    exact = np.atleast_1d(np.multiply(a, b, dtype=np.float64))
    np.copyto(exact, 0.0, where=np.abs(exact) < _ROUNDS_TO_SMALLEST)
    with np.errstate(over="ignore"):
        product = exact.astype(np.float32)
    return canonical_values(product).reshape(np.broadcast_shapes(np.shape(a), np.shape(b)))


def encode_array(values: ArrayLike) -> NDArray[np.uint32]:
    """`encode` for an array of float64."""
    wide = np.array(values, np.float64, ndmin=1)
    np.copyto(wide, 0.0, where=np.abs(wide) < _ROUNDS_TO_SMALLEST)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return from_values(canonical_values(narrow)).reshape(np.shape(values))


def add_array(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint32]:
    """`add` for arrays of bits (uint32), broadcast against each other."""
    return from_values(add_values(to_values(a), to_values(b)))


def multiply_array(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint32]:
    """`multiply` for arrays of bits (uint32), broadcast against each other."""
    return from_values(multiply_values(to_values(a), to_values(b)))


def maximum_array(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint32]:
    """`maximum` for arrays of bits (uint32), broadcast against each other."""
    return from_values(np.maximum(to_values(a), to_values(b)))


def minimum_array(a: ArrayLike, b: ArrayLike) -> NDArray[np.uint32]:
    """`minimum` for arrays of bits (uint32), broadcast against each other."""
    return from_values(np.minimum(to_values(a), to_values(b)))


def from_int32_array(bits: ArrayLike) -> NDArray[np.uint32]:
    """`from_int32` for an array of bits (uint32)."""
    return from_values(np.asarray(bits, np.uint32).astype(np.int32).astype(np.float32))


def from_dlfloat_array(codes: ArrayLike) -> NDArray[np.uint32]:
    """`from_dlfloat` for an array of codes (uint16)."""
    return from_values(dlfloat.decode_array(codes).astype(np.float32))


def to_dlfloat_array(bits: ArrayLike) -> NDArray[np.uint16]:
    """`to_dlfloat` for an array of bits (uint32)."""
    return dlfloat.encode_array(to_values(bits).astype(np.float64))


def to_integer_array(bits: ArrayLike, target: Format) -> NDArray[np.int64]:
    """`to_integer` for an array of bits (uint32)."""
    values = np.rint(to_values(bits))
    values = np.where(np.isnan(values), np.float32(0), values)
    return np.clip(values, target.lowest, target.highest).astype(np.int64)


def to_code_array(bits: ArrayLike, target: Format) -> NDArray[np.int64]:
    """`to_code` for an array of bits (uint32)."""
    if target.odd:
        raise ValueError(f"target must be a format that can be written, not {target}")
    if target.precision.is_integer:
        return to_integer_array(bits, target)
    values = to_values(bits)
    if target.precision is Precision.BINARY:
        return (values >= 0).astype(np.int64)
    kind = fp8.of(target) if target.precision.is_fp8 else dlfloat
    return kind.encode_array(values.astype(np.float64)).astype(np.int64)


def code_to_values(codes: ArrayLike, source: Format) -> NDArray[np.float32]:
    """Elements of slots (their bits as unsigned numbers) as FP32 values."""
    if source.precision.is_float:
        kind = fp8.of(source) if source.precision.is_fp8 else dlfloat
        return kind.decode_array(codes).astype(np.float32)
    numbers = np.asarray(codes).astype(np.int64)
    if source.precision is Precision.BINARY:
        return (2 * numbers - 1).astype(np.float32)
    return np.where(numbers > source.highest, numbers - (1 << source.precision.bits),
                    numbers).astype(np.float32)


def from_code_array(codes: ArrayLike, source: Format) -> NDArray[np.uint32]:
    """`from_code` for an array of codes."""
    return from_values(code_to_values(codes, source))
