"""What a network over sequences computes, straight from its layers.

`evaluate` is the reference for compiled programs, bit for bit: no instruction, address or tile is
looked at. A layer is written with `matmul` and `special.apply` over whole tensors; so every
rounding that docs/sequences.md names stands here. `evaluate_real` is the same network in plain
numpy, in float64 or float32, from the arrays as they were given.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import dlfloat, float32
from ..config import EDGE, CoreConfig
from ..formats import FORMATS
from ..isa import Function, Pool
from ..matmul import matmul
from ..special import ColumnParameters, SpecialFunction, apply
from .network import Add, Attention, Constant, Layer, LayerNorm, Linear, Lstm, SequenceNetwork

__all__ = ["MASK", "evaluate", "evaluate_real", "evaluate_tensors", "input_codes"]

Codes = NDArray[np.int64]

#: What is added to the score of a step that may not be seen: its exponential is zero.
MASK = -(2.0 ** 20)
_FP16 = FORMATS["FP16"]


def input_codes(network: SequenceNetwork, inputs: ArrayLike) -> Codes:
    """DLFloat16 codes [sequences, steps, channels] of the network's input.

    `inputs` are numbers of symbols [sequences, steps], or real numbers [sequences, steps,
    channels]. Raises ValueError for other shapes or symbols.
    """
    array = np.asarray(inputs)
    shape = (network.steps,) if network.symbols else (network.steps, network.input_channels)
    if array.shape[1:] != shape or array.ndim == 0:
        raise ValueError(f"inputs must be [sequences, {', '.join(map(str, shape))}], "
                         f"not {list(array.shape)}")
    if not network.symbols:
        return dlfloat.encode_array(array).astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"inputs must be numbers of symbols, not {array.dtype}")
    outside = (array < 0) | (array >= network.input_channels)
    if outside.any():
        raise ValueError(f"symbols must be from 0 to {network.input_channels - 1}, "
                         f"not {array[outside].flat[0]}")
    return np.where(array[..., None] == np.arange(network.input_channels),
                    dlfloat.encode(1.0), 0).astype(np.int64)


def evaluate(network: SequenceNetwork, inputs: ArrayLike, config: CoreConfig = EDGE) -> Codes:
    """Codes of the output [sequences, steps, channels]; inputs as `input_codes` takes them.

    Of the core it matters how many rows and outputs its array has: they order sums.
    """
    return evaluate_tensors(network, inputs, config)[network.output_name]


def evaluate_tensors(network: SequenceNetwork, inputs: ArrayLike, config: CoreConfig = EDGE
                     ) -> dict[str, Codes]:
    """Codes of every tensor by name; see `evaluate`."""
    tensors = {network.input_name: input_codes(network, inputs)}
    sequences = len(tensors[network.input_name])
    for layer in network.layers:
        sources = [tensors[name] for name in layer.inputs]
        match layer:
            case Constant():
                tensors[layer.name] = np.broadcast_to(
                    _codes(layer.values), (sequences, *layer.values.shape))
            case Lstm():
                tensors[layer.name] = _lstm(layer, sources[0], config)
            case Attention():
                tensors[layer.name] = np.stack([_attention(layer, x, config) for x in sources[0]])
            case _:
                flat = [x.reshape(-1, x.shape[-1]) for x in sources]
                result = _pointwise(layer, flat, config)
                tensors[layer.name] = result.reshape(*sources[0].shape[:2], -1)
    return tensors


def _codes(values: ArrayLike) -> Codes:
    return dlfloat.encode_array(values).astype(np.int64)


def _padded(array: NDArray, config: CoreConfig, axis: int = -1) -> NDArray:
    """Zeros up to a multiple of the array's outputs, as tensors are stored."""
    width = [(0, 0)] * array.ndim
    width[axis] = (0, -array.shape[axis] % config.column_lanes)
    return np.pad(array, width)


def _product(parts: list[tuple[Codes, Codes]], config: CoreConfig) -> NDArray[np.uint32]:
    """Accumulators [rows, outputs] of activations [rows, K] times weights [outputs, K].

    The parts follow on each other along K, each padded as it is stored.
    """
    left = np.concatenate([_padded(x, config) for x, _ in parts], axis=1)
    right = np.concatenate([_padded(w, config) for _, w in parts], axis=1)
    return matmul(left, right.T, _FP16, _FP16, config.rows)


def _special(sources: NDArray, *, accumulators: bool = False, scale: ArrayLike = 1.0,
             bias: ArrayLike = 0.0, residual: Codes | None = None, product: bool = False,
             function: Function = Function.NONE, relu: bool = False) -> Codes:
    """One pass of elements: of accumulators (bits), or of stored codes."""
    parameters = ColumnParameters(
        float32.encode_array(scale), float32.encode_array(bias), float32.encode(1.0), 0)
    kind = SpecialFunction(
        output=_FP16, float_accumulator=accumulators, source=None if accumulators else _FP16,
        residual=None if residual is None else _FP16, product=product, function=function,
        relu=relu)
    return apply(kind, sources[..., None, :], parameters,
                 None if residual is None else residual[..., None, :])


def _reduce(sources: Codes, pool: Pool, config: CoreConfig, *, scale: float = 1.0,
            squared: bool = False) -> NDArray[np.float32]:
    """A row scalar [rows] of codes [rows, channels]; `squared` sums x * x * scale."""
    vectors = sources.reshape(len(sources), -1, config.column_lanes)
    kind = SpecialFunction(output=_FP16, source=_FP16, pool=pool, reduce=True, product=squared,
                           residual=_FP16 if squared else None)
    parameters = ColumnParameters(float32.encode(scale), 0, 0, 0)
    return float32.to_values(apply(kind, vectors, parameters, vectors if squared else None))


def _scalars(rows: NDArray[np.float32], function: Function = Function.NONE, *,
             scale: float = 1.0, bias: float = 0.0) -> NDArray[np.float32]:
    """function(row scalar * scale + bias)."""
    kind = SpecialFunction(output=_FP16, float_accumulator=True, function=function,
                           pool=Pool.MAXIMUM, reduce=True)
    parameters = ColumnParameters(float32.encode(scale), float32.encode(bias), 0, 0)
    return float32.to_values(apply(kind, float32.from_values(rows)[:, None, None], parameters))


_FUNCTIONS = {"none": Function.NONE, "relu": Function.NONE, "sigmoid": Function.SIGMOID,
              "tanh": Function.TANH}


def _pointwise(layer: Layer, sources: list[Codes], config: CoreConfig) -> Codes:
    """A layer that takes every step for itself; tensors are [rows, channels]."""
    x = sources[0]
    match layer:
        case Linear():
            return _special(
                _product([(x, _codes(layer.weights))], config), accumulators=True,
                bias=layer.bias, residual=sources[1] if len(sources) > 1 else None,
                function=_FUNCTIONS[layer.function], relu=layer.function == "relu")
        case Add():
            return _special(x, residual=sources[1])
        case LayerNorm():
            return _layer_norm(layer, x, config)
    raise TypeError(f"layer must be one of those above, not {layer!r}")


def _layer_norm(layer: LayerNorm, x: Codes, config: CoreConfig) -> Codes:
    channels = x.shape[1]
    minus_mean = _reduce(x, Pool.SUM, config, scale=-1 / channels)
    centred = _special(x, bias=minus_mean[:, None, None])
    variance = _reduce(centred, Pool.SUM, config, scale=1 / channels, squared=True)
    factor = _scalars(variance, Function.RECIPROCAL_SQUARE_ROOT, bias=layer.epsilon)
    result = _special(centred, scale=factor[:, None, None])
    if layer.scale is None and layer.bias is None:
        return result
    return _special(result, scale=1.0 if layer.scale is None else layer.scale,
                    bias=0.0 if layer.bias is None else layer.bias)


def _lstm(layer: Lstm, x: Codes, config: CoreConfig) -> Codes:
    sequences, steps, _ = x.shape
    weights = [_codes(w) for w in (layer.input_weights, layer.recurrent_weights)]
    hidden = cell = np.zeros((sequences, layer.outputs), np.int64)
    results = []
    for t in range(steps):
        sums = np.split(_product(list(zip((x[:, t], hidden), weights, strict=True)), config), 4, 1)
        entering, forgetting, candidate, leaving = (
            _special(part, accumulators=True, bias=bias, function=function)
            for part, bias, function in zip(
                sums, np.split(layer.bias, 4),
                (Function.SIGMOID, Function.SIGMOID, Function.TANH, Function.SIGMOID),
                strict=True))
        # Both products and their sum are FP32: a window of two.
        kind = SpecialFunction(output=_FP16, source=_FP16, residual=_FP16, product=True,
                               pool=Pool.SUM)
        cell = apply(kind, np.stack([forgetting, entering], 1),
                     ColumnParameters(float32.encode(1.0), 0, 0, 0),
                     np.stack([cell, candidate], 1))
        hidden = _special(leaving, residual=_special(cell, function=Function.TANH), product=True)
        results.append(hidden)
    return np.stack(results, 1)


def _attention(layer: Attention, x: Codes, config: CoreConfig) -> Codes:
    """Of one sequence [steps, channels]."""
    query, key, value = (
        _special(_product([(x, _codes(w))], config), accumulators=True)
        for w in (layer.query_weights, layer.key_weights, layer.value_weights))
    steps, size = len(x), layer.outputs // layer.heads
    mask = None
    if layer.causal:
        mask = _codes(np.where(np.tri(steps, dtype=bool), 0.0, MASK))
    results = []
    for first in range(0, layer.outputs, size):
        head = slice(first, first + size)
        # Scores to the base of two.
        scores = _special(_product([(query[:, head], key[:, head])], config), accumulators=True,
                          scale=math.log2(math.e) / math.sqrt(size), residual=mask)
        minus_maximum = _scalars(_reduce(scores, Pool.MAXIMUM, config), scale=-1.0)
        powers = _special(scores, bias=minus_maximum[:, None, None], function=Function.EXPONENTIAL)
        factor = _scalars(_reduce(powers, Pool.SUM, config), Function.RECIPROCAL)
        results.append(_special(_product([(powers, value[:, head].T)], config), accumulators=True,
                                scale=factor[:, None, None]))
    return np.concatenate(results, 1)


# --- without the core's roundings

def evaluate_real(network: SequenceNetwork, inputs: ArrayLike, dtype: DTypeLike = np.float64
                  ) -> NDArray:
    """The output [sequences, steps, channels] in float64, or in another type of numpy's.

    Nothing is rounded to DLFloat16 but inputs of real numbers.
    """
    x = dlfloat.decode_array(input_codes(network, inputs)).astype(dtype)
    tensors: dict[str, NDArray] = {network.input_name: x}
    for layer in network.layers:
        sources = [tensors[name] for name in layer.inputs]
        tensors[layer.name] = _real(layer, sources, dtype)
    return tensors[network.output_name]


def _sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def _real(layer: Layer, sources: list[NDArray], dtype: DTypeLike) -> NDArray:
    def cast(array: NDArray) -> NDArray:
        return array.astype(dtype)

    match layer:
        case Constant():
            return cast(layer.values)
        case Linear():
            y = sources[0] @ cast(layer.weights).T + cast(layer.bias)
            y = y + sources[1] if len(sources) > 1 else y
            return {"none": lambda y: y, "relu": lambda y: np.maximum(y, 0),
                    "sigmoid": _sigmoid, "tanh": np.tanh}[layer.function](y)
        case Add():
            return sources[0] + sources[1]
        case LayerNorm():
            x = sources[0] - sources[0].mean(-1, keepdims=True)
            y = x / np.sqrt((x * x).mean(-1, keepdims=True) + cast(np.array(layer.epsilon)))
            y = y if layer.scale is None else y * cast(layer.scale)
            return y if layer.bias is None else y + cast(layer.bias)
        case Lstm():
            hidden = cell = np.zeros((len(sources[0]), layer.outputs), dtype)
            results = []
            for x in sources[0].swapaxes(0, 1):
                i, f, g, o = np.split(x @ cast(layer.input_weights).T
                                      + hidden @ cast(layer.recurrent_weights).T
                                      + cast(layer.bias), 4, 1)
                cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
                hidden = _sigmoid(o) * np.tanh(cell)
                results.append(hidden)
            return np.stack(results, 1)
        case Attention():
            query, key, value = (
                (sources[0] @ cast(w).T).reshape(*sources[0].shape[:2], layer.heads, -1)
                .swapaxes(1, 2) for w in (layer.query_weights, layer.key_weights,
                                          layer.value_weights))
            scores = query @ key.swapaxes(2, 3) / cast(np.array(math.sqrt(query.shape[-1])))
            if layer.causal:
                scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            y = powers / powers.sum(-1, keepdims=True) @ value
            return y.swapaxes(1, 2).reshape(*sources[0].shape[:2], -1)
    raise TypeError(f"layer must be one of those above, not {layer!r}")
