"""Networks: a chain or graph of layers, in Python and as a .json file with arrays in a .npz.

A network has one input image and a list of layers in an order in which each reads only what
stands before it. The last layer's result is the network's output. `docs/networks.md` describes
every operator and key; `Network.from_description` and `load_network` read the written form.

Numbers of a stored tensor are codes: real = what the code stands for * step. Weights are codes as
well, with a step for the layer or for each output channel; biases and bounds are real numbers.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat, fp8
from .formats import FORMATS, FORWARD_BIAS, Format, Precision

__all__ = [
    "OPERATORS",
    "Layer",
    "Network",
    "NetworkError",
    "Shape",
    "Stored",
    "decode_real",
    "encode_real",
    "load_network",
    "save_network",
]

#: Height, width and channels of a tensor.
Shape = tuple[int, int, int]


class NetworkError(ValueError):
    """A description that is no network; the message names the layer and what was required."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """How a tensor is stored: its format, and the real value of the number 1."""

    format: Format
    step: float = 1.0


@dataclasses.dataclass(frozen=True)
class Operator:
    """Keys of an operator's description: those it needs, and the others with their defaults."""

    required: tuple[str, ...] = ()
    optional: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: int = 1


OPERATORS = {
    "convolution": Operator(("weights", "weight_format"),
                            {"weight_step": 1.0, "bias": 0.0, "stride": 1, "padding": 0,
                             "dilation": 1, "groups": 1}),
    "fully_connected": Operator(("weights", "weight_format"), {"weight_step": 1.0, "bias": 0.0}),
    "relu": Operator(),
    "clip": Operator(("alpha",)),
    "add": Operator(inputs=2),
    "max_pool": Operator(("size",), {"stride": None}),
    "average_pool": Operator(("size",), {"stride": None}),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One operator.

    Parameters
    ----------
    name
        Name of the layer and of its result.
    op
        One of `OPERATORS`.
    inputs
        Names of the layers (or of the network's input) that it reads.
    output
        How the result is stored. None: it is not, the next layer takes it as it comes.
    weights
        [outputs, kernel height, kernel width, channels / groups] for a convolution, [outputs,
        inputs] for a fully connected layer, inputs in the order (y, x, channel). Codes.
    weight_format, weight_step, bias
        Format of the weights, and one value or one for each output.
    stride, padding, dilation, size
        (vertical, horizontal).
    groups
        Parts that channels and outputs are cut into, in order; each part of the outputs is a
        convolution of its own part of the channels.
    alpha
        Upper bound of `clip`.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: Stored | None = None
    weights: NDArray[np.int64] | None = None
    weight_format: Format | None = None
    weight_step: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, int] = (1, 1)
    alpha: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A checked network.

    Parameters
    ----------
    name
        Appears in reports.
    input_name, input_shape, input
        Name, shape and storage of the image.
    layers
        In order; the last one is the output.
    forward_bias
        That of E4M3, in all tensors and weights.

    `shapes` holds the shape of every tensor by name. Raises NetworkError.
    """

    name: str
    input_name: str
    input_shape: Shape
    input: Stored
    layers: tuple[Layer, ...]
    forward_bias: int = FORWARD_BIAS
    shapes: Mapping[str, Shape] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError(f"network {self.name!r} must have at least one layer")
        shapes: dict[str, Shape] = {self.input_name: self.input_shape}
        for layer in self.layers:
            if layer.name in shapes:
                raise NetworkError(f"layer {layer.name!r}: the name must be used once")
            for source in layer.inputs:
                if source not in shapes:
                    raise NetworkError(f"layer {layer.name!r}: input {source!r} must be one of "
                                       f"{', '.join(map(repr, shapes))}, which stand before it")
            shapes[layer.name] = _shape(layer, [shapes[s] for s in layer.inputs])
        kinds = [(name, stored.format) for name, stored in self.stored.items()]
        for name, kind in kinds:
            if kind.odd:
                raise NetworkError(f"tensor {name!r}: format must be one that can be stored, "
                                   f"not {kind}, which is for weights alone")
        kinds += [(x.name, x.weight_format) for x in self.layers if x.weight_format is not None]
        for name, kind in kinds:
            if kind.precision is Precision.E4M3 and kind.bias != self.forward_bias:
                raise NetworkError(f"tensor {name!r}: bias of {kind} must be the network's "
                                   f"{self.forward_bias}, not {kind.bias}")
        object.__setattr__(self, "shapes", shapes)

    @property
    def output_name(self) -> str:
        return self.layers[-1].name

    @property
    def stored(self) -> dict[str, Stored]:
        """How each stored tensor is stored, by name."""
        tensors = {self.input_name: self.input}
        tensors |= {layer.name: layer.output for layer in self.layers
                    if layer.output is not None}
        return tensors

    def with_output(self, stored: Stored) -> "Network":
        """The same network with its output stored otherwise, as a core without FP16 needs it."""
        last = dataclasses.replace(self.layers[-1], output=stored)
        return dataclasses.replace(self, layers=(*self.layers[:-1], last))

    def consumers(self, name: str) -> list[Layer]:
        """The layers that read a tensor, once for each time that they do."""
        return [layer for layer in self.layers for source in layer.inputs if source == name]

    @classmethod
    def from_description(cls, description: Mapping[str, Any],
                         arrays: Mapping[str, ArrayLike] | None = None) -> "Network":
        """The network in the written form (see docs/networks.md).

        Where the description has a string in the place of an array, it names one of `arrays`.
        Keys beside `name`, `input`, `layers` and `forward_bias` are notes and have no meaning.
        """
        for key in ("name", "input", "layers"):
            if key not in description:
                raise NetworkError(f"network must have the key {key!r}")
        name = description["name"]
        image = description["input"]
        bias = _positive("network", "forward_bias",
                         description.get("forward_bias", FORWARD_BIAS), 0)
        if bias > 15:
            raise NetworkError(f"network: forward_bias must be from 0 to 15, not {bias}")
        keys = ("name", "height", "width", "channels", "format", "step")
        _check_keys("input", image, keys[:5], keys)
        shape = tuple(_positive("input", key, image[key])
                      for key in ("height", "width", "channels"))
        stored = _stored("input", {k: image[k] for k in ("format", "step") if k in image}, bias)
        if not isinstance(description["layers"], Sequence):
            raise NetworkError(f"layers must be a list, not {description['layers']!r}")
        layers = tuple(_layer(entry, arrays or {}, bias) for entry in description["layers"])
        return cls(str(name), str(image["name"]), (shape[0], shape[1], shape[2]), stored, layers,
                   bias)

    def to_description(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The written form: what `from_description` takes."""
        height, width, channels = self.input_shape
        arrays: dict[str, np.ndarray] = {}
        layers = []
        for layer in self.layers:
            operator = OPERATORS[layer.op]
            entry: dict[str, Any] = {"name": layer.name, "op": layer.op}
            if operator.inputs == 1:
                entry["input"] = layer.inputs[0]
            else:
                entry["inputs"] = list(layer.inputs)
            for key in (*operator.required, *operator.optional):
                value = getattr(layer, key)
                if key == "weights":
                    if layer.weight_format is not None and layer.weight_format.precision.is_float:
                        value = decode_real(value, layer.weight_format)
                    else:
                        value = value.astype(np.int16)
                if isinstance(value, np.ndarray):
                    arrays[f"{layer.name}.{key}"] = value
                    value = f"{layer.name}.{key}"
                elif isinstance(value, Format):
                    value = value.name
                elif isinstance(value, tuple):
                    value = list(value)
                entry[key] = value
            if layer.output is not None:
                entry["output"] = _written(layer.output)
            layers.append(entry)
        image = {"name": self.input_name, "height": height, "width": width, "channels": channels}
        return {"name": self.name, "forward_bias": self.forward_bias,
                "input": image | _written(self.input), "layers": layers}, arrays


def load_network(path: str | Path) -> Network:
    """Read a .json file and the .npz beside it.

    The .npz has the same stem and may be missing if no layer names an array. Raises NetworkError
    naming the file.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        beside = path.with_suffix(".npz")
        if beside.exists():
            with np.load(beside, allow_pickle=False) as archive:
                arrays = dict(archive)
    except OSError as error:
        raise NetworkError(f"network {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise NetworkError(f"network {path} is not JSON with an .npz: {error}") from error
    if not isinstance(description, dict):
        raise NetworkError(f"network {path} must be a JSON object, "
                           f"not {type(description).__name__}")
    try:
        return Network.from_description(description, arrays)
    except NetworkError as error:
        raise NetworkError(f"network {path}: {error}") from error


def save_network(network: Network, path: str | Path) -> None:
    """Write a .json file and the .npz beside it; `load_network` reads them back."""
    path = Path(path)
    description, arrays = network.to_description()
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    if arrays:
        np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **arrays)


def encode_real(values: ArrayLike, kind: Format) -> NDArray[np.int64]:
    """The codes of a format of floating point that real numbers are rounded to."""
    rounding = fp8.of(kind) if kind.precision.is_fp8 else dlfloat
    return rounding.encode_array(values).astype(np.int64)


def decode_real(codes: ArrayLike, kind: Format) -> NDArray[np.float64]:
    """The real numbers that codes of a format of floating point stand for; NaN for NaN-Inf."""
    rounding = fp8.of(kind) if kind.precision.is_fp8 else dlfloat
    return rounding.decode_array(codes)


def _written(stored: Stored) -> dict[str, Any]:
    return {"format": stored.format.name, "step": stored.step}


def _check_keys(where: str, entry: Any, required: Sequence[str],
                known: Sequence[str] | None = None) -> None:
    if not isinstance(entry, Mapping):
        raise NetworkError(f"{where} must be an object with keys, not {entry!r}")
    for key in required:
        if key not in entry:
            raise NetworkError(f"{where} must have the key {key!r}")
    for key in entry:
        if known is not None and key not in known:
            raise NetworkError(f"{where} has no key {key!r}; it has {', '.join(known)}")


def _positive(where: str, key: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise NetworkError(f"{where}: {key} must be an integer of at least {least}, "
                           f"not {value!r}")
    return int(value)


def _pair(where: str, key: str, value: Any, least: int = 1) -> tuple[int, int]:
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise NetworkError(f"{where}: {key} must be a number or two, not {value!r}")
        return _positive(where, key, value[0], least), _positive(where, key, value[1], least)
    number = _positive(where, key, value, least)
    return number, number


def _real(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) \
            or not math.isfinite(value) or value <= 0:
        raise NetworkError(f"{where}: {key} must be a positive number, not {value!r}")
    return float(value)


def _format(where: str, key: str, value: Any, bias: int) -> Format:
    if not isinstance(value, str) or value not in FORMATS:
        raise NetworkError(f"{where}: {key} must be one of {', '.join(FORMATS)}, not {value!r}")
    return dataclasses.replace(FORMATS[value], bias=bias)


def _stored(where: str, entry: Any, bias: int) -> Stored:
    _check_keys(where, entry, ("format",), ("format", "step"))
    return Stored(_format(where, "format", entry["format"], bias),
                  _real(where, "step", entry.get("step", 1.0)))


def _layer(entry: Any, arrays: Mapping[str, ArrayLike], bias: int) -> Layer:
    _check_keys("a layer", entry, ("name", "op"))
    name, op = entry["name"], entry["op"]
    if not isinstance(name, str) or not name:
        raise NetworkError(f"a layer's name must be a string, not {name!r}")
    where = f"layer {name!r}"
    if not isinstance(op, str) or op not in OPERATORS:
        raise NetworkError(f"{where}: op must be one of {', '.join(OPERATORS)}, not {op!r}")
    operator = OPERATORS[op]
    source = "input" if operator.inputs == 1 else "inputs"
    _check_keys(where, entry, (source, *operator.required),
                ("name", "op", source, *operator.required, *operator.optional, "output"))
    inputs = [entry["input"]] if operator.inputs == 1 else entry["inputs"]
    if not isinstance(inputs, Sequence) or len(inputs) != operator.inputs \
            or not all(isinstance(i, str) for i in inputs):
        raise NetworkError(f"{where}: {source} must be {operator.inputs} names, not {inputs!r}")
    values = {k: entry.get(k, d) for k, d in operator.optional.items()}
    fields: dict[str, Any] = {}
    if "output" in entry and entry["output"] is not None:
        fields["output"] = _stored(f"{where}: output", entry["output"], bias)
    if "weights" in operator.required:
        kind = _format(where, "weight_format", entry["weight_format"], bias)
        weights = _weights(where, _array(where, "weights", entry["weights"], arrays), kind)
        fields |= {"weight_format": kind, "weights": weights}
        for key in ("weight_step", "bias"):
            array = _array(where, key, values[key], arrays).astype(np.float64)
            if array.ndim and array.shape != weights.shape[:1]:
                raise NetworkError(f"{where}: {key} must be one number or {weights.shape[:1]}, "
                                   f"one for each output, not {array.shape}")
            fields[key] = np.broadcast_to(array, weights.shape[:1])
    if "stride" in values:
        stride = entry["size"] if values["stride"] is None else values["stride"]
        fields["stride"] = _pair(where, "stride", stride)
    if "padding" in values:
        fields["padding"] = _pair(where, "padding", values["padding"], 0)
    if "dilation" in values:
        fields["dilation"] = _pair(where, "dilation", values["dilation"])
        fields["groups"] = _positive(where, "groups", values["groups"])
    if "size" in operator.required:
        fields["size"] = _pair(where, "size", entry["size"])
    if "alpha" in operator.required:
        fields["alpha"] = _real(where, "alpha", entry["alpha"])
    return Layer(name=name, op=op, inputs=tuple(inputs), **fields)


def _array(where: str, key: str, value: Any, arrays: Mapping[str, ArrayLike]) -> np.ndarray:
    if isinstance(value, str):
        if value not in arrays:
            raise NetworkError(f"{where}: {key} names {value!r}, which is not among the arrays")
        value = arrays[value]
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise NetworkError(f"{where}: {key} must be an array of numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        raise NetworkError(f"{where}: {key} must be an array of numbers, not {array.dtype}")
    if not np.isfinite(array).all():
        raise NetworkError(f"{where}: {key} must be finite, "
                           f"not {array[~np.isfinite(array)].flat[0]}")
    return array


def _weights(where: str, array: np.ndarray, kind: Format) -> NDArray[np.int64]:
    """Codes of the weights, checked."""
    if array.ndim == 0 or 0 in array.shape:
        raise NetworkError(f"{where}: weights must be [outputs, ...], not of shape "
                           f"{array.shape}")
    if kind.precision.is_float:
        codes = encode_real(array, kind)
        beyond = np.isnan(decode_real(codes, kind))
        if beyond.any():
            largest = decode_real([(kind.highest >> 1) - 1], kind)[0]
            raise NetworkError(f"{where}: weights must be at most {largest} in magnitude, "
                               f"not {array[beyond].flat[0]}")
        return codes
    if array.dtype.kind == "f":
        raise NetworkError(f"{where}: weights of {kind} must be integers, not {array.dtype}")
    codes = array.astype(np.int64)
    outside = (codes < kind.lowest) | (codes > kind.highest)
    if outside.any():
        raise NetworkError(f"{where}: weights of {kind} must be from {kind.lowest} to "
                           f"{kind.highest}, not {codes[outside].flat[0]}")
    return codes


def _windows(layer: Layer, shape: Shape, size: tuple[int, int]) -> tuple[int, int]:
    """Places of a window in a tensor, with the layer's stride and padding."""
    places = []
    for axis, name in enumerate(("height", "width")):
        extent = shape[axis] + 2 * layer.padding[axis]
        if size[axis] > extent:
            raise NetworkError(f"layer {layer.name!r}: a window of {name} {size[axis]} must fit "
                               f"into its input with padding, {extent}")
        places.append((extent - size[axis]) // layer.stride[axis] + 1)
    return places[0], places[1]


def _shape(layer: Layer, inputs: Sequence[Shape]) -> Shape:
    """Shape of a layer's result."""
    where, shape = f"layer {layer.name!r}", inputs[0]
    if layer.op == "convolution":
        assert layer.weights is not None
        for name, count in (("channels", shape[2]), ("outputs", layer.weights.shape[0])):
            if count % layer.groups:
                raise NetworkError(f"{where}: groups must divide its {name}, {count}, "
                                   f"not {layer.groups}")
        channels = shape[2] // layer.groups
        if layer.weights.ndim != 4 or layer.weights.shape[3] != channels:
            raise NetworkError(f"{where}: weights must be [outputs, height, width, {channels}], "
                               f"not {list(layer.weights.shape)}")
        kernel = ((layer.weights.shape[1] - 1) * layer.dilation[0] + 1,
                  (layer.weights.shape[2] - 1) * layer.dilation[1] + 1)
        return *_windows(layer, shape, kernel), layer.weights.shape[0]
    if layer.op == "fully_connected":
        assert layer.weights is not None
        if layer.weights.ndim != 2 or layer.weights.shape[1] != math.prod(shape):
            raise NetworkError(f"{where}: weights must be [outputs, {math.prod(shape)}], "
                               f"not {list(layer.weights.shape)}")
        return 1, 1, layer.weights.shape[0]
    if layer.op == "add" and inputs[0] != inputs[1]:
        raise NetworkError(f"{where}: inputs must have the same height, width and channels, "
                           f"not {inputs[0]} and {inputs[1]}")
    if layer.op in ("max_pool", "average_pool"):
        return *_windows(layer, shape, layer.size), shape[2]
    return shape
