"""The special functions of a core without floating point: integers from end to end.

Every accumulator of a window goes through

    v = shift_right(accumulator * multiplier + residual * residual_multiplier, shift) + bias
    v = v, clamped to 32 bits
    v = maximum(v, 0)                       (if `relu`)
    v = minimum(v, upper bound)             (if `clip`)

where shift_right rounds to nearest, ties up; the sum in front of it is exact. v counts in 256ths
of the result's unit. The window's elements go through the pool: the running maximum, or the running
sum modulo 2^32. The result is shift_right(pooled, 8), clamped to the output format.

A column's four words of parameters hold

    scale           multiplier, 16 bits (two's complement), and above it shift, 5 bits
    bias            32 bits, two's complement, as are the following
    residual scale  residual multiplier
    upper bound

`element` is this definition, one output at a time; `apply` is its twin for arrays. `words` makes
the parameters from real numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import Precision
from .isa import Pool
from .special import ColumnParameters, SpecialFunction, check_window

__all__ = ["FRACTION_BITS", "MULTIPLIER_BITS", "SHIFT_BITS", "apply", "element", "words"]

#: Bits behind the point of a result before it is rounded to an integer.
FRACTION_BITS = 8
MULTIPLIER_BITS, SHIFT_BITS = 16, 5

_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1


def _signed(word: int, bits: int = 32) -> int:
    word &= (1 << bits) - 1
    return word - (word >> bits - 1 << bits)


def _shift_right(value: int, shift: int) -> int:
    return value if shift == 0 else (value + (1 << shift - 1)) >> shift


def element(function: SpecialFunction, accumulators: Sequence[int],
            parameters: tuple[int, int, int, int], residuals: Sequence[int] = ()) -> int:
    """One output. Like `special.element`, with the words above as `parameters`."""
    check_window(function, len(accumulators))
    if len(residuals) != (len(accumulators) if function.residual else 0):
        raise ValueError(f"residuals must be as many as accumulators if there is a residual, "
                         f"else none, not {len(residuals)}")
    scale, bias, residual_scale, upper_bound = parameters
    multiplier, shift = _signed(scale, MULTIPLIER_BITS), scale >> MULTIPLIER_BITS & 31
    pooled = None
    for i, accumulator in enumerate(accumulators):
        product = _signed(accumulator) * multiplier
        if function.residual:
            code, kind = residuals[i], function.residual
            if kind.precision is Precision.BINARY:
                residual = 2 * code - 1
            else:
                residual = _signed(code, kind.precision.bits) if kind.signed else code
            product += residual * _signed(residual_scale)
        v = _shift_right(product, shift) + _signed(bias)
        v = min(max(v, _LOWEST), _HIGHEST)
        if function.relu:
            v = max(v, 0)
        if function.clip:
            v = min(v, _signed(upper_bound))
        if pooled is None:
            pooled = v
        elif function.pool is Pool.MAXIMUM:
            pooled = max(pooled, v)
        else:
            pooled = _signed(pooled + v)
    assert pooled is not None
    if function.output.precision is Precision.BINARY:
        return int(pooled >= 0)
    return min(max(_shift_right(pooled, FRACTION_BITS), function.output.lowest),
               function.output.highest)


def apply(function: SpecialFunction, accumulators: ArrayLike, parameters: ColumnParameters,
          residuals: ArrayLike | None = None) -> NDArray[np.int64]:
    """Outputs [..., N] for accumulators [..., window, N] (uint32). Like `special.apply`."""
    source = np.asarray(accumulators, np.uint32).view(np.int32).astype(np.int64)
    if source.ndim < 2:
        raise ValueError(f"accumulators must be [..., window, N], not {list(source.shape)}")
    check_window(function, source.shape[-2])
    if (residuals is None) != (function.residual is None) or (
            residuals is not None and np.shape(residuals) != source.shape):
        raise ValueError("residuals must have the shape of accumulators if there is a residual, "
                         "else be None")
    scale, bias, residual_scale, upper_bound = (
        np.asarray(word, np.uint32).astype(np.int32).astype(np.int64) for word in (
            parameters.scale, parameters.bias, parameters.residual_scale, parameters.upper_bound))
    product = source * scale.astype(np.int16)
    if residuals is not None and function.residual is not None:
        codes = np.asarray(residuals).astype(np.int64)
        kind = function.residual
        if kind.precision is Precision.BINARY:
            numbers = 2 * codes - 1
        else:
            numbers = np.where(codes > kind.highest, codes - (1 << kind.precision.bits), codes)
        product += numbers * residual_scale
    shift = scale >> MULTIPLIER_BITS & (1 << SHIFT_BITS) - 1
    v = (product + (1 << shift >> 1) >> shift) + bias
    v = np.clip(v, 0 if function.relu else _LOWEST, _HIGHEST)
    if function.clip:
        v = np.minimum(v, upper_bound)
    if function.pool is Pool.MAXIMUM:
        pooled = v.max(axis=-2)
    else:
        pooled = v.sum(axis=-2).astype(np.int32).astype(np.int64)
    if function.output.precision is Precision.BINARY:
        return (pooled >= 0).astype(np.int64)
    rounded = pooled + (1 << FRACTION_BITS - 1) >> FRACTION_BITS
    return np.clip(rounded, function.output.lowest, function.output.highest)


def words(scale: ArrayLike, bias: ArrayLike, residual_scale: ArrayLike,
          upper_bound: ArrayLike) -> NDArray[np.uint32]:
    """Words [N, 4] for real numbers [N] in units of the result.

    The shift is the largest at which both multipliers have room. Raises ValueError naming what is
    too large, its limit and what came.
    """
    numbers = np.stack([np.asarray(n, np.float64) for n in (
        scale, bias, residual_scale, upper_bound)]) * (1 << FRACTION_BITS)
    # No result is above the highest upper bound.
    numbers[3] = np.minimum(numbers[3], _HIGHEST)
    limits = ((1 << MULTIPLIER_BITS - 1) - 1, _HIGHEST, _HIGHEST)
    for name, values, limit in zip(("scale", "bias", "residual scale"), numbers[:3], limits,
                                   strict=True):
        if not (np.abs(values) <= limit).all():
            worst = values[np.argmax(np.abs(values))]
            raise ValueError(f"{name} must be at most {limit / (1 << FRACTION_BITS):.7g} on a core "
                             f"without floating point, not {worst / (1 << FRACTION_BITS):.7g}")
    shift = np.zeros(numbers.shape[1], np.int64)
    for step in range((1 << SHIFT_BITS) - 1, 0, -1):
        fits = (np.abs(np.rint(numbers[0] * 2.0**step)) <= limits[0]) & (
            np.abs(np.rint(numbers[2] * 2.0**step)) <= limits[2])
        shift = np.where((shift == 0) & fits, step, shift)
    multiplier = np.rint(numbers[0] * 2.0**shift).astype(np.int64)
    result = np.stack([multiplier & 0xFFFF | shift << MULTIPLIER_BITS, np.rint(numbers[1]),
                       np.rint(numbers[2] * 2.0**shift), np.rint(numbers[3])], axis=1)
    return (result.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
