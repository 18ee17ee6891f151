"""The special functions: from accumulators, or elements, to what the next layer reads.

Every element of a window goes, in FP32 and rounded after each step, through

    x = the source, from INT32 or from an element's format, or as FP32
    y = x * scale + bias                    (multiply, then add: two roundings)
    y = y + residual * residual_scale       (if there is a residual: two roundings)
        or y * residual                     (if there is one, with `product`)
        or function(y)                      (see `functions`)
    y = maximum(y, 0)                       (if `relu`)
    y = minimum(y, upper bound)             (if `clip`)

and the window's elements, in order, through the pool: the running maximum, or the running sum
that starts from the first element. What comes out is rounded to the output format; or, to
`reduce` a row, the results of the columns are combined to one FP32 scalar.

`element` and `combine` are this definition, one output at a time; `apply` is their twin for
arrays. A core without floating point does not have them, but `fixed_point`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import float32, functions
from .formats import Format
from .isa import Function, Pool

__all__ = ["ColumnParameters", "SpecialFunction", "apply", "check_window", "combine", "element"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialFunction:
    """What is done to every element: the flags of a SPECIAL instruction.

    `source` is the format of elements, None for words of 32 bits (INT32, or FP32 if
    `float_accumulator`); `residual` is the format of the residual, None if there is none.
    """

    output: Format
    float_accumulator: bool = False
    source: Format | None = None
    relu: bool = False
    clip: bool = False
    residual: Format | None = None
    product: bool = False
    function: Function = Function.NONE
    pool: Pool = Pool.NONE
    reduce: bool = False


@dataclasses.dataclass(frozen=True)
class ColumnParameters:
    """FP32 bits for N columns, or for rows: arrays of uint32 that broadcast to the source's."""

    scale: ArrayLike
    bias: ArrayLike
    residual_scale: ArrayLike
    upper_bound: ArrayLike


def check_window(function: SpecialFunction, window: int) -> None:
    """Raises ValueError for a window that is empty, or of several elements without a pool."""
    if window < 1 or (function.pool is Pool.NONE and window != 1):
        least = "1 without a pool" if function.pool is Pool.NONE else "at least 1"
        raise ValueError(f"elements of a window must be {least}, not {window}")


def _check(function: SpecialFunction, window: int) -> None:
    check_window(function, window)
    if function.residual and function.function is not Function.NONE:
        raise ValueError(f"function must be NONE with a residual, not {function.function.name}")
    if function.reduce and function.pool is Pool.NONE:
        raise ValueError("pool must be MAXIMUM or SUM to reduce a row, not NONE")


def element(function: SpecialFunction, sources: Sequence[int],
            parameters: tuple[int, int, int, int], residuals: Sequence[int] = ()) -> int:
    """One output: an integer or another format's code; FP32 bits for `combine`.

    `sources` are the window's elements (words or codes) in order, `parameters` the column's
    scale, bias, residual scale and upper bound (FP32 bits), `residuals` the codes of the window's
    residuals. Raises ValueError for a window that is empty, or of several elements without a
    pool, or with a wrong number of residuals; and for a residual beside a function.
    """
    _check(function, len(sources))
    if len(residuals) != (len(sources) if function.residual else 0):
        raise ValueError(f"residuals must be as many as sources if there is a residual, "
                         f"else none, not {len(residuals)}")
    scale, bias, residual_scale, upper_bound = parameters
    pooled = None
    for i, source in enumerate(sources):
        if function.source is not None:
            x = float32.from_code(source, function.source)
        else:
            x = source if function.float_accumulator else float32.from_int32(source)
        y = float32.add(float32.multiply(x, scale), bias)
        if function.residual:
            r = float32.from_code(residuals[i], function.residual)
            if function.product:
                y = float32.multiply(r, y)
            else:
                y = float32.add(y, float32.multiply(r, residual_scale))
        elif function.function is not Function.NONE:
            y = functions.evaluate(function.function, y)
        if function.relu:
            y = float32.maximum(y, 0)
        if function.clip:
            y = float32.minimum(y, upper_bound)
        pooled = y if pooled is None else _pool(function, pooled, y)
    assert pooled is not None
    if function.reduce:
        return pooled
    return float32.to_code(pooled, function.output)


def _pool(function: SpecialFunction, a: int, b: int) -> int:
    return float32.maximum(a, b) if function.pool is Pool.MAXIMUM else float32.add(a, b)


def combine(function: SpecialFunction, columns: Sequence[int]) -> int:
    """The row scalar (FP32 bits) of the columns' results, a power of two of them: neighbours are
    combined until one is left."""
    while len(columns) > 1:
        columns = [_pool(function, a, b)
                   for a, b in zip(columns[::2], columns[1::2], strict=True)]
    return columns[0]


def apply(function: SpecialFunction, sources: ArrayLike, parameters: ColumnParameters,
          residuals: ArrayLike | None = None) -> NDArray[np.int64]:
    """Outputs [..., N] (integers, or other formats' codes) for sources [..., window, N] (uint32).

    With `reduce` row scalars [...] (FP32 bits). `residuals` are codes of the same shape, present
    if and only if the function has a residual. Raises ValueError as `element` does.
    """
    source = np.asarray(sources, np.uint32)
    if source.ndim < 2:
        raise ValueError(f"sources must be [..., window, N], not {list(source.shape)}")
    _check(function, source.shape[-2])
    if (residuals is None) != (function.residual is None) or (
            residuals is not None and np.shape(residuals) != source.shape):
        raise ValueError("residuals must have the shape of sources if there is a residual, "
                         "else be None")
    scale, bias, residual_scale, upper_bound = (
        float32.to_values(p) for p in (parameters.scale, parameters.bias,
                                       parameters.residual_scale, parameters.upper_bound))
    if function.source is not None:
        x = float32.code_to_values(source, function.source)
    elif function.float_accumulator:
        x = float32.to_values(source)
    else:
        x = source.astype(np.int32).astype(np.float32)
    y = float32.add_values(float32.multiply_values(x, scale), bias)
    if residuals is not None and function.residual is not None:
        r = float32.code_to_values(residuals, function.residual)
        if function.product:
            y = float32.multiply_values(r, y)
        else:
            y = float32.add_values(y, float32.multiply_values(r, residual_scale))
    elif function.function is not Function.NONE:
        y = float32.to_values(functions.evaluate_array(function.function, float32.from_values(y)))
    if function.relu:
        y = np.maximum(y, np.float32(0))
    if function.clip:
        y = np.minimum(y, upper_bound)
    pooled = y[..., 0, :]
    for i in range(1, y.shape[-2]):
        pooled = _pool_values(function, pooled, y[..., i, :])
    if function.reduce:
        while pooled.shape[-1] > 1:
            pooled = _pool_values(function, pooled[..., ::2], pooled[..., 1::2])
        return float32.from_values(pooled[..., 0]).astype(np.int64)
    return float32.to_code_array(float32.from_values(pooled), function.output)


def _pool_values(function: SpecialFunction, a: NDArray[np.float32],
                 b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(a, b) if function.pool is Pool.MAXIMUM else float32.add_values(a, b)
