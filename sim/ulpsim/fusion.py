"""From layers to chains: what one pass over the accumulators can do is one chain.

The core computes a convolution and, as the accumulators are drained, scale and bias, a residual,
ReLU or clip, a pool and the conversion to the stored format, in this order. `fuse` cuts a network
into such chains. A chain ends at a layer with an `output`. An operator that does not follow on
what stands before it in this order begins a chain of its own, behind a convolution by identity.

A fully connected layer is a convolution with a kernel as large as its input.

The numbers of a chain are those of stored codes: with real = code * step on both sides

    scale = weight step * input step / output step      bias = real bias / output step
    residual scale = residual step / output step        upper bound = alpha / output step

all divided by the number of elements if the pool is an average: the core sums over the window,
and ReLU and clip commute with a positive factor.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from . import dlfloat, fixed_point, float32
from .config import CoreConfig
from .cycles_execute import vector_slots
from .fold import group_depth
from .formats import Format, Precision
from .isa import Fold, Pool
from .matmul import weight_ratio
from .network import Layer, Network, Shape, Stored, decode_real

__all__ = ["Chain", "CompileError", "Fused", "Tensor", "fuse"]


class CompileError(ValueError):
    """A network that cannot be compiled: `layer` names where, `reason` what was required."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"layer {layer!r}: {reason}")
        self.layer = layer
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A stored tensor.

    `pixel_slots` is the number of slots of one pixel, all channels with their padding; `border`
    the (rows, columns) of zeros that its readers need around it; `row_residue` what the pitch of
    its rows must be modulo `row_modulus` (None: anything), the residues of the banks in which the
    slots of a vector must differ; `gap` how many slots of a pixel nothing is ever written to.
    """

    name: str
    shape: Shape
    stored: Stored
    pixel_slots: int
    border: tuple[int, int]
    row_residue: int | None
    gap: int = 0
    row_modulus: int = CoreConfig.residues

    @property
    def channels_stored(self) -> int:
        """Channels with their padding."""
        return self.pixel_slots * self.stored.format.precision.per_slot


@dataclasses.dataclass(kw_only=True, eq=False)
class Chain:
    """A convolution with what is fused behind it.

    Parameters
    ----------
    name
        The layer that ends it, and so the tensor that it writes.
    layers
        Names of its layers, in order.
    source, residual
        Names of the tensors that it reads; `source_stored` and `residual_stored` say how they are
        stored.
    weights, weight_format
        Codes [outputs, kernel height, kernel width, channels / groups].
    stride, padding, dilation, groups
        Of the convolution; the first three (vertical, horizontal).
    convolution_shape, shape
        Of the convolution's result and of the chain's.
    operand
        Name of the tensor [channels, outputs] that holds the weights, if the program does not:
        then `weights` counts with its shape alone.
    transposed
        The source lies as [channels, rows of the result]: its slots are FP16.
    relu, clip, pool, window, pool_stride
        What is done behind the convolution; window (1, 1) without a pool.
    output
        How the result is stored.
    scale, bias, residual_scale, upper
        FP32 bits (uint32) for each output; `numbers` are what they are rounded from.
    multiply_adds
        Products that the layer's definition asks for, for one image; 0 for an identity.
    """

    name: str
    layers: list[str]
    source: str
    weights: NDArray[np.int64]
    weight_format: Format
    weight_step: NDArray[np.float64]
    real_bias: NDArray[np.float64]
    stride: tuple[int, int]
    padding: tuple[int, int]
    convolution_shape: Shape
    shape: Shape
    multiply_adds: int
    output: Stored
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    operand: str | None = None
    transposed: bool = False
    residual: str | None = None
    residual_stored: Stored | None = None
    source_stored: Stored | None = None
    relu: bool = False
    alpha: float | None = None
    pool: Pool = Pool.NONE
    window: tuple[int, int] = (1, 1)
    pool_stride: tuple[int, int] = (1, 1)
    scale: NDArray[np.uint32] = dataclasses.field(init=False)
    bias: NDArray[np.uint32] = dataclasses.field(init=False)
    residual_scale: NDArray[np.uint32] = dataclasses.field(init=False)
    upper: NDArray[np.uint32] = dataclasses.field(init=False)
    numbers: list[NDArray[np.float64]] = dataclasses.field(init=False)

    @property
    def clip(self) -> bool:
        return self.alpha is not None

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weights.shape[1], self.weights.shape[2]

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns that the kernel spans."""
        rows, columns = ((size - 1) * step + 1
                         for size, step in zip(self.kernel, self.dilation, strict=True))
        return rows, columns

    def fold(self, config: CoreConfig, column: int) -> Fold:
        """Groups that the array's columns form for a tile of columns: the fewest of those that let
        it end first, of as many as have room for its outputs.

        One where the slots of a vector of several groups would not lie apart, or where a group's
        outputs do not fill a slot.
        """
        stored = [self.output, *([self.residual_stored] if self.residual_stored else [])]
        most = max(min(len(self.weights) - column * config.column_lanes, config.column_lanes),
                   *(each.format.precision.per_slot for each in stored))
        if (self.groups > 1 or self.dilation != (1, 1) or self.transposed or self.operand
                or self.source_stored is None):
            return Fold.ONE
        slots = math.prod(self.kernel) * -(
            -self.weights.shape[3] // self.source_stored.format.precision.per_slot)
        vectors = math.prod(self.convolution_shape[:2])
        windows = math.prod(self.shape[:2]) * math.prod(self.window)

        def cycles(fold: Fold) -> float:
            """Of the array for each vector, or of the special functions if they take longer: sums
            of groups are taken one vector at a time."""
            at_once = config.special_vectors if fold is Fold.ONE else 1
            return max(-(-slots // vector_slots(config, fold)),
                       config.phases / at_once * windows / vectors)

        return min((fold for fold in config.folds if fold is Fold.ONE
                    or most * fold.groups <= config.column_lanes), key=cycles)

    def most_groups(self, config: CoreConfig) -> int:
        """The most groups that any tile of columns forms: the last one, if any does."""
        return self.fold(config, -(-len(self.weights) // config.column_lanes) - 1).groups

    def channels_written(self, config: CoreConfig) -> int:
        """Channels that SPECIAL writes: whole tiles of columns, of the last one a group."""
        tiles = -(-len(self.weights) // config.column_lanes)
        return ((tiles - 1) * config.column_lanes
                + config.column_lanes // self.most_groups(config))

    def slots(self, source: Tensor, config: CoreConfig, column: int) -> tuple[int, int]:
        """(first, count) of the slots of each pixel that a tile of columns multiplies.

        All slots without groups; otherwise those that hold the channels of its groups, in whole
        rounds over the banks.
        """
        if self.groups == 1:
            matrix = self.transposed or self.operand is not None
            return 0, self.weights.shape[3] if matrix else source.pixel_slots
        every = source.shape[0] if self.transposed else source.pixel_slots
        outputs, channels = len(self.weights) // self.groups, self.weights.shape[3]
        first = column * config.column_lanes
        last = min(first + config.column_lanes, len(self.weights)) - 1
        granule = config.residues * source.stored.format.precision.per_slot
        begin = first // outputs * channels // granule
        end = -(-(last // outputs + 1) * channels // granule)
        begin, end = begin * config.residues, min(end * config.residues, every)
        return begin, end - begin

    def tile_weights(self, source: Tensor, config: CoreConfig, column: int) -> NDArray[np.int64]:
        """Codes [column lanes, kernel height, kernel width, channels] that a tile of columns
        multiplies `slots` by: code 0 where a channel is not the output's, or is padding."""
        first, count = self.slots(source, config, column)
        per_slot, channels = source.stored.format.precision.per_slot, self.weights.shape[3]
        begin = column * config.column_lanes
        weights = self.weights[begin:begin + config.column_lanes]
        tile = np.zeros((config.column_lanes, *self.kernel, count * per_slot), np.int64)
        if self.groups == 1:
            tile[:len(weights), ..., :channels] = weights
            return tile
        groups = (begin + np.arange(len(weights))) // (len(self.weights) // self.groups)
        for group in range(groups[0], groups[-1] + 1):
            place = group * channels - first * per_slot
            tile[:len(weights)][groups == group, ..., place:place + channels] = \
                weights[groups == group]
        return tile

    def depths(self, source: Tensor, config: CoreConfig) -> list[int]:
        """Slots of K of each tile of columns."""
        return [math.prod(self.kernel) * self.slots(source, config, column)[1]
                for column in range(-(-len(self.weights) // config.column_lanes))]

    def tiles(self, source: Tensor, config: CoreConfig) -> list[int]:
        """Tiles of K of each tile of columns."""
        return [-(-depth // vector_slots(config, self.fold(config, column)))
                for column, depth in enumerate(self.depths(source, config))]

    def ratio(self, source: Tensor) -> int:
        """Slots of K that a line of weights serves."""
        return weight_ratio(source.stored.format.precision, self.weight_format.precision)

    def lines(self, source: Tensor, config: CoreConfig) -> list[int]:
        """Lines of weights of each tile of columns, if K is not cut."""
        return [-(-group_depth(depth, config.rows, self.fold(config, column))
                  // self.ratio(source))
                for column, depth in enumerate(self.depths(source, config))]

    def finish(self, tensors: dict[str, Stored]) -> None:
        """Compute the numbers of the columns, now that the output's step is known."""
        factor = 1 / self.output.step
        if self.pool is Pool.SUM:
            factor /= math.prod(self.window)
        outputs = self.weights.shape[0]
        self.source_stored = tensors[self.source]
        residual_step = 0.0
        if self.residual is not None:
            self.residual_stored = tensors[self.residual]
            residual_step = self.residual_stored.step
        numbers = {
            "scale": self.weight_step * (tensors[self.source].step * factor),
            "bias": self.real_bias * factor,
            "residual_scale": np.full(outputs, residual_step * factor),
            "upper": np.full(outputs, (self.alpha or 0.0) * factor),
        }
        for name, values in numbers.items():
            bits = float32.encode_array(values)
            if np.isnan(float32.to_values(bits)).any():
                worst = values[np.argmax(np.abs(values))]
                raise CompileError(self.name, f"{name} must be at most "
                                   f"{float32.decode(float32.LARGEST):.4g}, not {worst:.4g}")
            setattr(self, name, bits)
        self.numbers = list(numbers.values())

    def column_parameters(self, config: CoreConfig) -> NDArray[np.uint32]:
        """Words [outputs, 4] as a core takes them: FP32, or integers without floating point.

        Raises CompileError for a number that has no place in an integer.
        """
        if config.has_float:
            return np.stack([self.scale, self.bias, self.residual_scale, self.upper], axis=1)
        try:
            return fixed_point.words(*self.numbers)
        except ValueError as error:
            raise CompileError(self.name, str(error)) from error


@dataclasses.dataclass(frozen=True)
class Fused:
    """A network as the core computes it: stored tensors by name, and chains in order."""

    network: Network
    tensors: dict[str, Tensor]
    chains: list[Chain]


def fuse(network: Network, config: CoreConfig) -> Fused:
    """Cut a network into chains, with its tensors as they lie in a core.

    Channels of what the core writes are padded to what it writes at once: its `column_lanes`, or
    half or a quarter of them where columns form groups. Raises CompileError naming the layer and
    the requirement.
    """
    stored = network.stored
    begun: dict[str, Chain] = {}
    chains = []
    for layer in network.layers:
        chain = _extended(network, layer, begun)
        chain.layers.append(layer.name)
        chain.name, chain.shape = layer.name, network.shapes[layer.name]
        if layer.output is not None:
            chain.output = layer.output
            chain.finish(stored)
            chains.append(chain)
        elif layer.name == network.output_name:
            raise CompileError(layer.name, "the network's output must have an \"output\" format")
        else:
            readers = network.consumers(layer.name)
            if len(readers) != 1:
                raise CompileError(layer.name, f"must have an \"output\" format, as it is read "
                                   f"{len(readers)} times, not once")
            begun[layer.name] = chain
    shapes = network.shapes
    tensors = {name: _tensor(name, shapes[name], stored[name], chains, config) for name in stored}
    for chain in chains:
        _check_precision(chain, tensors[chain.source])
    return Fused(network, tensors, chains)


def _check_precision(chain: Chain, source: Tensor) -> None:
    layer, precision = chain.layers[0], source.stored.format.precision
    try:
        weight_ratio(precision, chain.weight_format.precision)
    except ValueError as error:
        raise CompileError(layer, str(error)) from error
    kind = chain.weight_format
    if chain.groups > 1 and (kind.odd or kind.precision is Precision.BINARY):
        raise CompileError(layer, f"groups must be 1 with weights of {kind}, which has no zero for "
                           f"the channels of other groups, not {chain.groups}")
    if precision is not Precision.BINARY:
        return
    # There is no zero among +1 and -1 that could stand where nothing is.
    if chain.padding != (0, 0):
        raise CompileError(layer, f"padding must be 0 around {source.name!r}, as {precision.name} "
                           f"has no zero, not {chain.padding[0]} x {chain.padding[1]}")
    if source.channels_stored != source.shape[2]:
        raise CompileError(layer, f"channels of {source.name!r} must be the "
                           f"{source.channels_stored} that are stored, as {precision.name} has no "
                           f"zero to fill them up, not {source.shape[2]}")


def _require_stored(network: Network, layer: Layer, source: str, why: str) -> None:
    if source not in network.stored:
        raise CompileError(source, f"must have an \"output\" format: {layer.op} {layer.name!r} "
                           f"{why}")


def _extended(network: Network, layer: Layer, begun: dict[str, Chain]) -> Chain:
    """The chain that a layer belongs to, with the layer's work put into it."""
    if layer.op in ("convolution", "fully_connected"):
        _require_stored(network, layer, layer.inputs[0], "reads it from the scratchpad")
        return _convolution(network, layer)
    inputs = list(layer.inputs)
    if layer.op == "add" and inputs[0] not in begun and inputs[1] in begun:
        inputs.reverse()
    if inputs[0] in begun:
        chain = begun.pop(inputs[0])
        if not _follows(layer, chain):
            raise CompileError(inputs[0], f"must have an \"output\" format: {layer.op} "
                               f"{layer.name!r} cannot follow on {' and '.join(chain.layers)} "
                               "within one pass")
    else:
        chain = _identity(network, inputs[0])
    if layer.op == "add":
        _require_stored(network, layer, inputs[1], "reads it beside another result")
        chain.residual = inputs[1]
    elif layer.op == "relu":
        chain.relu = True
    elif layer.op == "clip":
        chain.relu, chain.alpha = True, layer.alpha
    else:
        chain.pool = Pool.MAXIMUM if layer.op == "max_pool" else Pool.SUM
        chain.window, chain.pool_stride = layer.size, layer.stride
        if max(layer.size) > 255:
            raise CompileError(layer.name, f"a window must be at most 255 x 255, "
                               f"not {layer.size[0]} x {layer.size[1]}")
    return chain


def _follows(layer: Layer, chain: Chain) -> bool:
    """Whether an operator comes later in the core's order than what the chain has so far."""
    if chain.pool is not Pool.NONE:
        return False
    if layer.op == "add":
        return not chain.relu and chain.residual is None
    return layer.op != "clip" or chain.alpha is None


def _convolution(network: Network, layer: Layer) -> Chain:
    assert layer.weights is not None and layer.weight_format is not None
    assert layer.weight_step is not None and layer.bias is not None
    shape, weights = network.shapes[layer.name], layer.weights
    if layer.op == "fully_connected":
        weights = weights.reshape(len(weights), *network.shapes[layer.inputs[0]])
    # Where the kernel has one row or column there is nothing to be apart.
    dilation = (layer.dilation[0] if weights.shape[1] > 1 else 1,
                layer.dilation[1] if weights.shape[2] > 1 else 1)
    return Chain(
        name=layer.name, layers=[], source=layer.inputs[0], weights=weights,
        weight_format=layer.weight_format, weight_step=layer.weight_step, real_bias=layer.bias,
        stride=layer.stride, padding=layer.padding, dilation=dilation,
        groups=layer.groups, convolution_shape=shape, shape=shape,
        multiply_adds=shape[0] * shape[1] * weights.size, output=network.input)


def _identity(network: Network, source: str) -> Chain:
    shape, stored = network.shapes[source], network.stored[source]
    channels, kind = shape[2], Format(stored.format.precision, bias=stored.format.bias)
    if kind.precision is Precision.BINARY:
        raise CompileError(source, f"format must be one with a zero, as what reads it needs a "
                           f"convolution by the identity, not {kind}")
    one, step = 1, 1.0
    if kind.precision.is_float:
        # Of FP8 a power of two from the middle of the range: not every bias leaves room for 1.
        one = 0x40 if kind.precision.is_fp8 else dlfloat.encode(1.0)
        step = 1 / float(decode_real([one], kind)[0])
    weights = np.full((channels, 1, 1, 1), one, np.int64)
    return Chain(
        name=source, layers=[], source=source, weights=weights,
        weight_format=kind, weight_step=np.full(channels, step),
        real_bias=np.zeros(channels), stride=(1, 1), padding=(0, 0), groups=channels,
        convolution_shape=shape, shape=shape, multiply_adds=0, output=stored)


def _tensor(name: str, shape: Shape, stored: Stored, chains: list[Chain],
            config: CoreConfig) -> Tensor:
    per_slot = stored.format.precision.per_slot
    readers = [c for c in chains if c.source == name]
    writers = [c for c in chains if name in (c.name, c.residual)]
    channels = max((c.channels_written(config) for c in writers), default=shape[2])
    pixel = -(-channels // per_slot)
    # A window's rows lie a whole number of rounds over the banks apart, beyond their own length.
    widths = [c.kernel[1] for c in readers if c.kernel[0] > 1]
    modulus = config.residues * max(
        (c.most_groups(config) for c in readers if c.kernel[0] > 1), default=1)
    # Where pixels or rows are left out, or slots of a pixel, each pixel is a run of its own.
    apart = any(math.prod(c.kernel) > 1 and (c.groups > 1 or c.dilation != (1, 1))
                for c in readers)
    if apart or len({width * pixel % modulus for width in widths}) > 1:
        pixel = -(-pixel // modulus) * modulus
    gap = next((pixel - -(-c.channels_written(config) // per_slot)
                for c in writers if c.name == name), 0)
    residue = widths[0] * pixel % modulus if widths else None
    border = (max((c.padding[0] for c in readers), default=0),
              max((c.padding[1] for c in readers), default=0))
    return Tensor(name, shape, stored, pixel, border, residue, gap, modulus)
