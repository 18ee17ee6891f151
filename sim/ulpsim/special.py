"""The special functions: from accumulators to the elements that the next layer reads.

Every accumulator of a window goes, in FP32 and rounded after each step, through

    x = the accumulator, from INT32 or as FP32
    y = x * scale + bias                    (multiply, then add: two roundings)
    y = y + residual * residual_scale       (if there is a residual: two roundings)
    y = maximum(y, 0)                       (if `relu`)
    y = minimum(y, upper bound)             (if `clip`)

and the window's elements, in order, through the pool: the running maximum, or the running sum
that starts from the first element. What comes out is rounded to the output format.

`element` is this definition, one output at a time; `apply` is its twin for arrays.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import float32
from .formats import Format
from .isa import Pool

__all__ = ["ColumnParameters", "SpecialFunction", "apply", "element"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialFunction:
    """What is done to every element: the flags of a SPECIAL instruction.

    `residual` is the format of the residual, None if there is none.
    """

    output: Format
    float_accumulator: bool = False
    relu: bool = False
    clip: bool = False
    residual: Format | None = None
    pool: Pool = Pool.NONE


@dataclasses.dataclass(frozen=True)
class ColumnParameters:
    """FP32 bits for one column (integers) or for N columns (arrays [N] of uint32)."""

    scale: ArrayLike
    bias: ArrayLike
    residual_scale: ArrayLike
    upper_bound: ArrayLike


def _check_window(function: SpecialFunction, window: int) -> None:
    if window < 1 or (function.pool is Pool.NONE and window != 1):
        least = "1 without a pool" if function.pool is Pool.NONE else "at least 1"
        raise ValueError(f"elements of a window must be {least}, not {window}")


def element(function: SpecialFunction, accumulators: Sequence[int],
            parameters: tuple[int, int, int, int], residuals: Sequence[int] = ()) -> int:
    """One output: an integer, or the code of an FP16 result.

    `accumulators` are the window's elements (32 bits each) in order, `parameters` the column's
    scale, bias, residual scale and upper bound (FP32 bits), `residuals` the codes of the window's
    residuals. Raises ValueError for a window that is empty, or of several elements without a
    pool, or with a wrong number of residuals.
    """
    _check_window(function, len(accumulators))
    if len(residuals) != (len(accumulators) if function.residual else 0):
        raise ValueError(f"residuals must be as many as accumulators if there is a residual, "
                         f"else none, not {len(residuals)}")
    scale, bias, residual_scale, upper_bound = parameters
    pooled = None
    for i, accumulator in enumerate(accumulators):
        x = accumulator if function.float_accumulator else float32.from_int32(accumulator)
        y = float32.add(float32.multiply(x, scale), bias)
        if function.residual:
            r = float32.from_code(residuals[i], function.residual)
            y = float32.add(y, float32.multiply(r, residual_scale))
        if function.relu:
            y = float32.maximum(y, 0)
        if function.clip:
            y = float32.minimum(y, upper_bound)
        if pooled is None:
            pooled = y
        elif function.pool is Pool.MAXIMUM:
            pooled = float32.maximum(pooled, y)
        else:
            pooled = float32.add(pooled, y)
    assert pooled is not None
    if function.output.precision.is_float:
        return float32.to_dlfloat(pooled)
    return float32.to_integer(pooled, function.output)


def apply(function: SpecialFunction, accumulators: ArrayLike, parameters: ColumnParameters,
          residuals: ArrayLike | None = None) -> NDArray[np.int64]:
    """Outputs [..., N] (integers, or codes of FP16) for accumulators [..., window, N] (uint32).

    `residuals` are codes of the same shape, present if and only if the function has a residual.
    Raises ValueError as `element` does.
    """
    source = np.asarray(accumulators, np.uint32)
    if source.ndim < 2:
        raise ValueError(f"accumulators must be [..., window, N], not {list(source.shape)}")
    _check_window(function, source.shape[-2])
    if (residuals is None) != (function.residual is None) or (
            residuals is not None and np.shape(residuals) != source.shape):
        raise ValueError("residuals must have the shape of accumulators if there is a residual, "
                         "else be None")
    scale, bias, residual_scale, upper_bound = (
        float32.to_values(p) for p in (parameters.scale, parameters.bias,
                                       parameters.residual_scale, parameters.upper_bound))
    if function.float_accumulator:
        x = float32.to_values(source)
    else:
        x = source.astype(np.int32).astype(np.float32)
    y = float32.add_values(float32.multiply_values(x, scale), bias)
    if residuals is not None and function.residual is not None:
        r = float32.code_to_values(residuals, function.residual)
        y = float32.add_values(y, float32.multiply_values(r, residual_scale))
    if function.relu:
        y = np.maximum(y, np.float32(0))
    if function.clip:
        y = np.minimum(y, upper_bound)
    pooled = y[..., 0, :]
    for i in range(1, y.shape[-2]):
        if function.pool is Pool.MAXIMUM:
            pooled = np.maximum(pooled, y[..., i, :])
        else:
            pooled = float32.add_values(pooled, y[..., i, :])
    bits = float32.from_values(pooled)
    if function.output.precision.is_float:
        return float32.to_dlfloat_array(bits).astype(np.int64)
    return float32.to_integer_array(bits, function.output)
