"""Sigmoid, tanh, 2^y, reciprocal and reciprocal square root: piecewise linear, of FP32 values.

An argument y is reduced to an index into one table and a factor t; then

    z = slope * t + offset                  (multiply, then add: two roundings to FP32)
    result = z * 2^shift                    (exact, with the limits of FP32)

with slope and offset from the table's entry `index`:

    function                  index                             t                 shift
    SIGMOID                   sign, binade, 4 bits of fraction  y                 0
    TANH                      binade, 4 bits of fraction        y                 0
    EXPONENTIAL               6 bits of f                       1 + f             n
    RECIPROCAL                6 bits of fraction                +-(1 + fraction)  -e
    RECIPROCAL_SQUARE_ROOT    parity of e, 6 bits of fraction   1 + fraction or   floor(-e / 2)
                                                                (1 + fraction)/2

where y = +-2^e (1 + fraction); the binade counts from 0 for |y| < 2^-6 to 15 for |y| >= 2^8 (from
2^9 on with a fraction of ones); and n + f is y with 15 bits behind the point, the rest of its
magnitude cut off. TANH and RECIPROCAL are odd: their offset takes the sign of y.

NaN-Inf gives NaN-Inf, and so do the reciprocal and the root of zero, the root of a negative
number and the exponential of 128 and more; the exponential of -128 and less is zero.

`evaluate` is the definition, `evaluate_array` its twin for arrays; `tables` is what the hardware
holds. The worst errors are stated in docs/numerics.md and tested over every DLFloat16 argument.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat, float32
from .isa import Function

__all__ = ["ENTRIES", "OFFSET_BITS", "SLOPE_BITS", "evaluate", "evaluate_array", "offset_value",
           "tables"]

#: Entries of the table, for all functions together.
ENTRIES = 1024
#: A slope is a DLFloat16 code; an offset one with four more bits of fraction.
SLOPE_BITS, OFFSET_BITS = 16, 20

_OFFSET_FRACTION = 13
#: Where the entries of each function begin.
_FIRST = {Function.SIGMOID: 0, Function.TANH: 512, Function.RECIPROCAL_SQUARE_ROOT: 768,
          Function.RECIPROCAL: 896, Function.EXPONENTIAL: 960}
_ODD = (Function.TANH, Function.RECIPROCAL)
#: Exponent field of the first binade of SIGMOID and TANH.
_FIRST_BINADE = 120
#: Bits behind the point of EXPONENTIAL's argument.
_FIXED_BITS = 15
_BIAS = 127


# --- the table

def offset_value(code: int) -> Fraction:
    """The value of an offset: `s eeeeee fffffffffffff`, the exponent's bias 31; code 0 is 0."""
    magnitude = code & ~(1 << OFFSET_BITS - 1)
    if magnitude == 0:
        return Fraction(0)
    exponent, fraction = divmod(magnitude, 1 << _OFFSET_FRACTION)
    value = Fraction(2) ** (exponent - 31) * (1 + Fraction(fraction, 1 << _OFFSET_FRACTION))
    return -value if magnitude != code else value


def _offset_code(value: float) -> int:
    if abs(value) < 2.0 ** -31:
        return 0
    exponent = int(np.floor(np.log2(abs(value))))
    # A fraction rounded up to 1 carries into the exponent by itself.
    magnitude = ((exponent + 31) << _OFFSET_FRACTION) + round(
        (abs(value) / 2.0 ** exponent - 1) * (1 << _OFFSET_FRACTION))
    return magnitude | (value < 0) << OFFSET_BITS - 1


def _segments() -> Iterator[tuple[int, Callable, float, float, bool]]:
    """(index, function of t, least t, greatest t, whether the line must pass through zero)."""
    for binade in range(16):
        for part in range(16):
            low, high = (2.0 ** (binade - 7) * (1 + (part + i) / 16) for i in range(2))
            if binade == 0:
                low, high = 0.0, 2.0 ** -6
            elif binade == 15 and part == 15:
                high = low      # and all beyond: the function has reached its limit
            index = 16 * binade + part
            yield _FIRST[Function.SIGMOID] + index, _sigmoid, low, high, False
            yield _FIRST[Function.SIGMOID] + 256 + index, _sigmoid, -high, -low, False
            yield _FIRST[Function.TANH] + index, np.tanh, low, high, binade == 0
    for part in range(64):
        low, high = (1 + (part + i) / 64 for i in range(2))
        root = _FIRST[Function.RECIPROCAL_SQUARE_ROOT]
        yield root + part, _root, low / 2, high / 2, False
        yield root + 64 + part, _root, low, high, False
        yield _FIRST[Function.RECIPROCAL] + part, np.reciprocal, low, high, False
        yield _FIRST[Function.EXPONENTIAL] + part, _power, low, high, False


def _sigmoid(y: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-y))


def _root(y: NDArray[np.float64]) -> NDArray[np.float64]:
    return y ** -0.5


def _power(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 ** (t - 1)


@cache
def tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of the slopes and of the offsets of all entries.

    A segment's slope is the chord's, or a neighbour of it: the one whose line, with the best
    offset that has a code, has the smallest worst error.
    """
    slopes, offsets = np.zeros((2, ENTRIES), np.int64)
    for index, function, low, high, through_zero in _segments():
        t = np.linspace(low, high, 65)
        values = function(t)
        chord = float((values[-1] - values[0]) / (high - low)) if high > low else 0.0
        nearest = dlfloat.encode(chord)
        best = np.inf
        for slope in (range(nearest - 2, nearest + 3) if nearest else (0,)):
            rest = values - dlfloat.decode(slope) * t
            offset = 0 if through_zero else _offset_code(float(rest.max() + rest.min()) / 2)
            worst = float(np.abs(rest - float(offset_value(offset))).max())
            if worst < best:
                best, slopes[index], offsets[index] = worst, slope, offset
    return slopes, offsets


# --- the functions

def evaluate(function: Function, y: int) -> int:
    """The FP32 bits of a function of an FP32 value."""
    value = float32.decode_exact(y)
    if value is None:
        return float32.NAN
    negative, magnitude = value < 0, abs(value)
    exponent, fraction = divmod(0 if value == 0 else y & 0x7FFFFFFF, 1 << 23)
    e = exponent - _BIAS
    significand = 1 + Fraction(fraction, 1 << 23)
    shift = 0
    match function:
        case Function.SIGMOID | Function.TANH:
            binade = min(max(exponent - _FIRST_BINADE, 0), 15)
            part = fraction >> 19 if exponent <= _FIRST_BINADE + 15 else 15
            index, t = 16 * binade + part, value
            if function is Function.SIGMOID and negative:
                index += 256
        case Function.EXPONENTIAL:
            if magnitude >= 128:
                return 0 if negative else float32.NAN
            fixed = int(magnitude * (1 << _FIXED_BITS))
            shift, f = divmod(-fixed if negative else fixed, 1 << _FIXED_BITS)
            index, t = f >> _FIXED_BITS - 6, 1 + Fraction(f, 1 << _FIXED_BITS)
        case Function.RECIPROCAL:
            if value == 0:
                return float32.NAN
            index, t, shift = fraction >> 17, -significand if negative else significand, -e
        case Function.RECIPROCAL_SQUARE_ROOT:
            if value <= 0:
                return float32.NAN
            index, t, shift = 64 + (fraction >> 17), significand, -e >> 1
            if e % 2:
                index, t = fraction >> 17, t / 2
        case _:
            raise ValueError(f"function must not be {function!r}")
    slopes, offsets = tables()
    index += _FIRST[function]
    offset = float32.round_exact(offset_value(int(offsets[index])))
    if function in _ODD and negative:
        offset = float32.multiply(offset, float32.encode(-1))
    z = float32.add(float32.multiply(float32.from_dlfloat(int(slopes[index])),
                                     float32.round_exact(t)), offset)
    exact = float32.decode_exact(z)
    assert exact is not None
    return float32.round_exact(exact * Fraction(2) ** shift)


def evaluate_array(function: Function, y: ArrayLike) -> NDArray[np.uint32]:
    """`evaluate` for an array of bits (uint32)."""
    values = float32.to_values(y)
    codes = float32.from_values(values)
    nan = np.isnan(values)
    negative = values < 0
    exponent = (codes >> np.uint32(23) & np.uint32(255)).astype(np.int64)
    fraction = (codes & np.uint32((1 << 23) - 1)).astype(np.int64)
    t = (fraction | _BIAS << 23).astype(np.uint32).view(np.float32).astype(np.float64)
    shift = np.zeros(values.shape, np.int64)
    zero = np.zeros(values.shape, bool)
    match function:
        case Function.SIGMOID | Function.TANH:
            binade = np.clip(exponent - _FIRST_BINADE, 0, 15)
            index = 16 * binade + np.where(exponent <= _FIRST_BINADE + 15, fraction >> 19, 15)
            if function is Function.SIGMOID:
                index += 256 * negative
            t = values.astype(np.float64)
        case Function.EXPONENTIAL:
            beyond = exponent >= _BIAS + 7
            nan |= beyond & ~negative
            zero = beyond & negative
            fixed = np.where(beyond | nan, 0, np.abs(values).astype(np.float64)
                             * (1 << _FIXED_BITS)).astype(np.int64)
            fixed = np.where(negative, -fixed, fixed)
            shift, f = fixed >> _FIXED_BITS, fixed & (1 << _FIXED_BITS) - 1
            index, t = f >> _FIXED_BITS - 6, 1 + f / (1 << _FIXED_BITS)
        case Function.RECIPROCAL:
            nan |= values == 0
            index, shift = fraction >> 17, _BIAS - exponent
            t = np.where(negative, -t, t)
        case Function.RECIPROCAL_SQUARE_ROOT:
            nan |= values <= 0
            odd = (exponent + 1) % 2
            index, shift = (fraction >> 17) + 64 * (1 - odd), (_BIAS - exponent) >> 1
            t = np.where(odd, t / 2, t)
        case _:
            raise ValueError(f"function must not be {function!r}")
    slopes, offsets = _table_values()
    index += _FIRST[function]
    offset = offsets[index]
    if function in _ODD:
        offset = np.where(negative, -offset, offset)
    z = float32.add_values(
        float32.multiply_values(slopes[index], np.where(nan, np.nan, t).astype(np.float32)),
        offset)
    with np.errstate(over="ignore"):
        # Powers of two beyond float32, but not beyond the product's float64.
        scaled = z.astype(np.float64) * np.exp2(shift.astype(np.float64))
    return float32.encode_array(np.where(zero, 0.0, scaled))


@cache
def _table_values() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    slopes, offsets = tables()
    return (np.array([dlfloat.decode(int(code)) for code in slopes], np.float32),
            np.array([float(offset_value(int(code))) for code in offsets], np.float32))
