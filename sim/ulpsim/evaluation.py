"""What a network computes, straight from its chains: the reference for compiled programs.

No instruction, address or tile is looked at: a chain is its definition over whole tensors. Sums
of integers are exact; those of floating point are taken in the array's order, over the kernel's
rows, its columns and the stored channels.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import fixed_point, float32, fold
from .config import EDGE, CoreConfig
from .formats import Precision
from .fusion import Chain, Fused, Tensor, fuse
from .integers import numbers, pack
from .isa import Pool
from .network import Network, Stored, decode_real, encode_real
from .special import ColumnParameters, SpecialFunction

__all__ = ["check_codes", "evaluate", "evaluate_tensors", "quantise", "real_values"]

#: Images that are computed at once.
_BLOCK = 64


def quantise(values: ArrayLike, stored: Stored) -> NDArray[np.int64]:
    """Codes of real numbers: value / step, rounded and clamped as the core does.

    Integers: to nearest, ties to even. Floating point: the code of the rounded value. NaN becomes
    0 or NaN-Inf. BINARY: 1 (for +1) if it is not negative, else 0.
    """
    scaled = np.asarray(values, np.float64) / stored.step
    if stored.format.precision.is_float:
        return encode_real(scaled, stored.format)
    if stored.format.precision is Precision.BINARY:
        return (scaled >= 0).astype(np.int64)
    rounded = np.nan_to_num(np.rint(scaled), nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.clip(rounded, stored.format.lowest, stored.format.highest).astype(np.int64)


def real_values(codes: ArrayLike, stored: Stored) -> NDArray[np.float64]:
    """The real numbers that codes stand for; NaN for NaN-Inf."""
    if stored.format.precision.is_float:
        return decode_real(codes, stored.format) * stored.step
    return numbers(np.asarray(codes, np.int64), stored.format).astype(np.float64) * stored.step


def evaluate(network: Network, images: ArrayLike, config: CoreConfig = EDGE
             ) -> NDArray[np.int64]:
    """Codes of the output [images, height, width, channels] for codes of the input.

    Of the core it matters how many rows its array has and which groups its columns form (for
    floating point alone), and whether it has floating point, in which results are scaled. Raises
    ValueError for images of another shape or with codes outside of the input's format,
    CompileError for what `fuse` refuses.
    """
    fused, codes = fuse(network, config), check_codes(network, images)
    return np.concatenate([_evaluate_block(fused, block, config)[network.output_name]
                           for block in _blocks(codes)])


def evaluate_tensors(network: Network, images: ArrayLike, config: CoreConfig = EDGE
                     ) -> dict[str, NDArray[np.int64]]:
    """Codes of every stored tensor by name; see `evaluate`."""
    fused, codes = fuse(network, config), check_codes(network, images)
    parts = [_evaluate_block(fused, block, config) for block in _blocks(codes)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blocks(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [codes[first:first + _BLOCK] for first in range(0, max(1, len(codes)), _BLOCK)]


def check_codes(network: Network, images: ArrayLike) -> NDArray[np.int64]:
    """Codes of images [images, height, width, channels], checked against the network's input."""
    codes = np.asarray(images)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"images must be integer codes, not {codes.dtype}")
    if codes.ndim != 4 or codes.shape[1:] != network.input_shape:
        raise ValueError(f"images must be [images, *{list(network.input_shape)}], "
                         f"not {list(codes.shape)}")
    kind = network.input.format
    lowest, highest = kind.lowest, kind.highest
    outside = (codes < lowest) | (codes > highest)
    if outside.any():
        raise ValueError(f"codes of {kind} must be from {lowest} to {highest}, "
                         f"not {codes[outside].flat[0]}")
    return codes.astype(np.int64)


def _evaluate_block(fused: Fused, images: NDArray[np.int64],
                    config: CoreConfig) -> dict[str, NDArray[np.int64]]:
    tensors = {fused.network.input_name: images}
    for chain in fused.chains:
        source = fused.tensors[chain.source]
        codes = tensors[chain.source]
        residual = None if chain.residual is None else fused.tensors[chain.residual].stored
        residual_codes = None if chain.residual is None else tensors[chain.residual]
        sums = _convolve(chain, codes, source, config)
        if not config.has_float:
            tensors[chain.name] = _finish_integers(chain, sums, residual_codes, residual, config)
            continue
        values = None
        if residual is not None and residual_codes is not None:
            # The bits of a code, as memory holds it.
            mask = (1 << residual.format.precision.bits) - 1
            values = float32.code_to_values(residual_codes & mask, residual.format)
        if not chain.weight_format.precision.is_float:
            sums = sums.astype(np.float32)
        tensors[chain.name] = _finish(chain, sums, values)
    return tensors


def _windows(chain: Chain, codes: NDArray) -> NDArray:
    """[images, height, width, kernel height, kernel width, channels]"""
    (py, px), (sy, sx), (dy, dx) = chain.padding, chain.stride, chain.dilation
    padded = np.pad(codes, ((0, 0), (py, py), (px, px), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, chain.extent, axis=(1, 2))
    return windows[:, ::sy, ::sx, :, ::dy, ::dx].transpose(0, 1, 2, 4, 5, 3)


def _convolve(chain: Chain, codes: NDArray[np.int64], source: Tensor,
              config: CoreConfig) -> NDArray:
    """The accumulators [images, height, width, outputs], INT32 or FP32 values."""
    kind = source.stored.format
    if kind.precision.is_float:
        missing = source.channels_stored - codes.shape[-1]
        slots = pack(np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, missing))), kind.precision)
        left = _windows(chain, slots)
        return np.concatenate([_float_columns(chain, left, source, config, column)
                               for column in range(len(chain.depths(source, config)))], axis=-1)
    outputs, groups = len(chain.weights), chain.groups
    weights = numbers(chain.weights, chain.weight_format).reshape(outputs, -1)
    activations = numbers(codes, kind)
    # Sums in float32 are exact up to 2^24, in float64 for any depth that the core can hold.
    largest = int(np.abs(activations).max(initial=0)) * int(np.abs(weights).sum(1).max())
    exact = np.float32 if largest < 1 << 24 else np.float64
    left = _windows(chain, activations.astype(exact))
    shape = left.shape[:3]
    left = left.reshape(math.prod(shape), math.prod(chain.kernel), groups, -1)
    left = left.transpose(2, 0, 1, 3).reshape(groups, math.prod(shape), -1)
    weights = weights.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
    sums = (left @ weights.astype(exact)).astype(np.int64).astype(np.int32)
    return sums.transpose(1, 0, 2).reshape(*shape, outputs)


def _float_columns(chain: Chain, windows: NDArray, source: Tensor, config: CoreConfig,
                   column: int) -> NDArray[np.float32]:
    """The accumulators of a tile of columns, which is multiplied by the slots it needs."""
    kind = source.stored.format
    first, count = chain.slots(source, config, column)
    columns = min(config.column_lanes, len(chain.weights) - column * config.column_lanes)
    weights = pack(chain.tile_weights(source, config, column)[:columns], kind.precision)
    shape = windows.shape[:3]
    sums = fold.product(windows[..., first:first + count].reshape(math.prod(shape), -1),
                        weights.reshape(columns, -1).T, kind, chain.weight_format, config.rows,
                        chain.fold(config, column))
    return float32.to_values(sums).reshape(*shape, columns)


def _places(chain: Chain, values: NDArray) -> NDArray:
    """The windows of the pool [images, height, width, element of the window, channels]."""
    windows = np.lib.stride_tricks.sliding_window_view(values, chain.window, axis=(1, 2))
    windows = windows[:, ::chain.pool_stride[0], ::chain.pool_stride[1]]
    return np.moveaxis(windows.reshape(*windows.shape[:4], -1), -1, 3)


def _finish_integers(chain: Chain, sums: NDArray[np.int32],
                     residual: NDArray[np.int64] | None, stored: Stored | None,
                     config: CoreConfig) -> NDArray[np.int64]:
    """The same as `_finish` on a core without floating point."""
    function = SpecialFunction(
        output=chain.output.format, relu=chain.relu, clip=chain.clip, pool=chain.pool,
        residual=None if stored is None else stored.format)
    codes = None
    if residual is not None and stored is not None:
        codes = _places(chain, residual & (1 << stored.format.precision.bits) - 1)
    return fixed_point.apply(function, _places(chain, sums.view(np.uint32)),
                             ColumnParameters(*chain.column_parameters(config).T), codes)


def _finish(chain: Chain, sums: NDArray[np.float32],
            residual: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Scale, bias, residual, ReLU, clip, pool and conversion."""
    scale, bias, residual_scale, upper = map(
        float32.to_values, (chain.scale, chain.bias, chain.residual_scale, chain.upper))
    values = float32.add_values(float32.multiply_values(sums, scale), bias)
    if residual is not None:
        values = float32.add_values(values, float32.multiply_values(residual, residual_scale))
    if chain.relu:
        values = np.maximum(values, np.float32(0))
    if chain.clip:
        values = np.minimum(values, upper)
    if chain.pool is not Pool.NONE:
        windows = np.lib.stride_tricks.sliding_window_view(values, chain.window, axis=(1, 2))
        windows = windows[:, ::chain.pool_stride[0], ::chain.pool_stride[1]]
        values = windows[..., 0, 0]
        for i, j in list(np.ndindex(*chain.window))[1:]:
            values = np.maximum(values, windows[..., i, j]) if chain.pool is Pool.MAXIMUM \
                else float32.add_values(values, windows[..., i, j])
    return float32.to_code_array(float32.from_values(values), chain.output.format)
