"""Networks over sequences, in Python and as a .json file with arrays in a .npz beside it.

A network reads, for every step of a sequence, one vector, and gives one. Its layers stand in an
order in which each reads only what stands before it; the last layer's result is the output. All
tensors are DLFloat16, [steps, channels] for each sequence. `docs/sequences.md` describes every
operator and key; `SequenceNetwork.from_description` and `load_sequence_network` read the written
form.

Arrays are kept as they were given: `evaluation` and `compiler` round them to the core's formats.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import dlfloat
from ..network import NetworkError

__all__ = [
    "FUNCTIONS",
    "Add",
    "Attention",
    "Constant",
    "Layer",
    "LayerNorm",
    "Linear",
    "Lstm",
    "SequenceNetwork",
    "is_sequence_network",
    "load_sequence_network",
]

Array = NDArray[np.float64]

#: What a linear layer may do with its sums.
FUNCTIONS = ("none", "relu", "sigmoid", "tanh")
#: Gates of an LSTM, in the order of the rows of its weights.
GATES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One operator.

    `name` is that of the layer and of its result, `inputs` name the tensors that it reads.
    """

    name: str
    inputs: tuple[str, ...]

    @property
    def outputs(self) -> int | None:
        """Channels of the result; None if they are those of the first input."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Constant(Layer):
    """A tensor that is the same for every sequence: values [steps, channels]."""

    values: Array

    @property
    def outputs(self) -> int:
        return self.values.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Layer):
    """function(weights [outputs, channels] times the input, plus bias, plus a second input)."""

    weights: Array
    bias: Array
    function: str = "none"

    @property
    def outputs(self) -> int:
        return len(self.weights)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Add(Layer):
    """The sum of two tensors."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + epsilon) over the channels; times scale, plus bias, if given."""

    epsilon: float = 1e-5
    scale: Array | None = None
    bias: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lstm(Layer):
    """A long short-term memory; its state is zero at the first step.

    Rows of the weights are those of the input gate, the forget gate, the cell and the output
    gate: input_weights [4 * hidden, channels], recurrent_weights [4 * hidden, hidden],
    bias [4 * hidden].
    """

    input_weights: Array
    recurrent_weights: Array
    bias: Array

    @property
    def outputs(self) -> int:
        return self.recurrent_weights.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attention(Layer):
    """Self-attention of `heads` heads, their results side by side: softmax(q k' / sqrt(d)) v.

    Weights are [outputs, channels]; a head has d = outputs / heads of the outputs. With `causal`
    a step sees itself and the steps before it.
    """

    query_weights: Array
    key_weights: Array
    value_weights: Array
    heads: int = 1
    causal: bool = False

    @property
    def outputs(self) -> int:
        return len(self.query_weights)


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceNetwork:
    """A checked network.

    Parameters
    ----------
    name
        Appears in reports.
    input_name, steps, input_channels
        Name and shape of the input.
    symbols
        Whether the input is one of `input_channels` symbols a step, each a vector with a one in
        its place; otherwise it is a vector of numbers.
    layers
        In order; the last one is the output.
    alphabet
        The characters that the symbols stand for, in order; empty if they stand for none.

    `channels` holds the channels of every tensor by name. Raises NetworkError naming the layer,
    what was required and what came.
    """

    name: str
    input_name: str
    steps: int
    input_channels: int
    symbols: bool
    layers: tuple[Layer, ...]
    alphabet: str = ""
    channels: Mapping[str, int] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError(f"network {self.name!r} must have at least one layer")
        channels = {self.input_name: self.input_channels}
        constants: set[str] = set()
        for layer in self.layers:
            where = f"layer {layer.name!r}"
            if layer.name in channels:
                raise NetworkError(f"{where}: the name must be used once")
            for source in layer.inputs:
                if source not in channels:
                    raise NetworkError(f"{where}: input {source!r} must be one of "
                                       f"{', '.join(map(repr, channels))}, which stand before it")
            if layer.inputs and layer.inputs[0] in constants:
                raise NetworkError(f"{where}: input {layer.inputs[0]!r} must be no constant, which "
                                   "can only be added")
            if isinstance(layer, Constant):
                constants.add(layer.name)
            _check(layer, where, [channels[source] for source in layer.inputs], self.steps)
            channels[layer.name] = layer.outputs or channels[layer.inputs[0]]
        if self.output_name in constants:
            raise NetworkError(f"layer {self.output_name!r}: the output must be no constant")
        object.__setattr__(self, "channels", channels)

    @property
    def output_name(self) -> str:
        return self.layers[-1].name

    def readers(self, name: str) -> list[Layer]:
        """The layers that read a tensor."""
        return [layer for layer in self.layers if name in layer.inputs]

    def encode(self, text: str) -> NDArray[np.uint8]:
        """Numbers of the symbols that a text is made of. Raises ValueError."""
        if not self.alphabet:
            raise ValueError(f"network {self.name!r}: symbols must be characters to read a text")
        unknown = set(text) - set(self.alphabet)
        if unknown:
            raise ValueError(f"characters must be among {self.alphabet!r}, not {min(unknown)!r}")
        table = np.zeros(256, np.uint8)
        for number, character in enumerate(self.alphabet):
            table[ord(character)] = number
        return table[np.frombuffer(text.encode("latin-1"), np.uint8)]

    def multiply_adds(self) -> dict[str, int]:
        """By layer, the products that all steps of a sequence need by the layer's definition."""
        counts = {}
        for layer in self.layers:
            count = 0
            match layer:
                case Linear():
                    count = layer.weights.size
                case Lstm():
                    count = layer.input_weights.size + layer.recurrent_weights.size
                case Attention():
                    # As many keys a query as it sees, on the average; with each a score and a sum.
                    keys = (self.steps + 1) / 2 if layer.causal else self.steps
                    count = 3 * layer.query_weights.size + 2 * keys * layer.outputs
            if count:
                counts[layer.name] = int(count * self.steps)
        return counts

    def with_steps(self, steps: int) -> "SequenceNetwork":
        """The same network for sequences of fewer or, without constants, more steps."""
        layers = tuple(
            dataclasses.replace(layer, values=layer.values[:steps])
            if isinstance(layer, Constant) else layer for layer in self.layers)
        return dataclasses.replace(self, steps=steps, layers=layers)

    @classmethod
    def from_description(cls, description: Mapping[str, Any],
                         arrays: Mapping[str, ArrayLike] | None = None) -> "SequenceNetwork":
        """The network in the written form (see docs/sequences.md).

        Where the description has a string in the place of an array, it names one of `arrays`.
        Keys beside `name`, `input` and `layers` are notes and have no meaning.
        """
        for key in ("name", "input", "layers"):
            if key not in description:
                raise NetworkError(f"network must have the key {key!r}")
        entry = description["input"]
        _check_keys("input", entry, ("name", "steps"), ("symbols", "channels"))
        if ("symbols" in entry) == ("channels" in entry):
            raise NetworkError("input must have one of the keys 'symbols' and 'channels'")
        symbols = "symbols" in entry
        alphabet = entry["symbols"] if symbols and isinstance(entry["symbols"], str) else ""
        if alphabet:
            if len(set(alphabet)) < len(alphabet) or max(alphabet) > "\xff":
                raise NetworkError("input: symbols must be a number, or different characters of "
                                   f"Latin-1, not {alphabet!r}")
            channels = len(alphabet)
        else:
            channels = _positive("input", entry, "symbols" if symbols else "channels")
        if not isinstance(description["layers"], Sequence):
            raise NetworkError(f"layers must be a list, not {description['layers']!r}")
        layers = tuple(_layer(layer, arrays or {}) for layer in description["layers"])
        return cls(str(description["name"]), str(entry["name"]),
                   _positive("input", entry, "steps"), channels, symbols, layers, alphabet)


def is_sequence_network(path: str | Path) -> bool:
    """Whether a .json file describes a network over sequences: its input has steps."""
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))["input"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(entry, dict) and "steps" in entry


def load_sequence_network(path: str | Path) -> SequenceNetwork:
    """Read a .json file and, if it is there, the .npz of the same stem.

    Raises NetworkError naming the file, the layer and what was required.
    """
    path = Path(path)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        arrays: dict[str, np.ndarray] = {}
        if path.with_suffix(".npz").exists():
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
                arrays = dict(file)
    except (OSError, ValueError) as error:
        raise NetworkError(f"network {path} cannot be read: {error}") from error
    if not isinstance(description, Mapping):
        raise NetworkError(f"network {path} must be an object with keys, "
                           f"not a {type(description).__name__}")
    try:
        return SequenceNetwork.from_description(description, arrays)
    except NetworkError as error:
        raise NetworkError(f"network {path}: {error}") from error


# --- what a layer must be

def _check(layer: Layer, where: str, inputs: Sequence[int], steps: int) -> None:
    """Raises NetworkError if a layer's arrays do not fit its inputs' channels."""
    def matrix(name: str, array: Array, *shape: int) -> None:
        if array.shape != shape:
            raise NetworkError(f"{where}: {name} must be {list(shape)}, not {list(array.shape)}")
        beyond = np.abs(dlfloat.decode_array(dlfloat.encode_array(array)))
        if np.isnan(beyond).any():
            raise NetworkError(f"{where}: {name} must be at most "
                               f"{dlfloat.decode(dlfloat.LARGEST)} in magnitude, "
                               f"not {array[np.isnan(beyond)].flat[0]}")

    match layer:
        case Constant():
            matrix("values", layer.values, steps, layer.values.shape[-1])
        case Linear():
            matrix("weights", layer.weights, len(layer.weights), inputs[0])
            matrix("bias", layer.bias, len(layer.weights))
            if layer.function not in FUNCTIONS:
                raise NetworkError(f"{where}: function must be one of {', '.join(FUNCTIONS)}, "
                                   f"not {layer.function!r}")
            if len(inputs) > 1 and layer.function not in ("none", "relu"):
                raise NetworkError(f"{where}: function must be none or relu with 'add', "
                                   f"not {layer.function}")
            if len(inputs) > 1 and inputs[1] != layer.outputs:
                raise NetworkError(f"{where}: what is added must have {layer.outputs} channels, "
                                   f"not {inputs[1]}")
        case Add():
            if inputs[0] != inputs[1]:
                raise NetworkError(f"{where}: inputs must have the same channels, "
                                   f"not {inputs[0]} and {inputs[1]}")
        case LayerNorm():
            if not layer.epsilon > 0:
                raise NetworkError(f"{where}: epsilon must be a positive number, "
                                   f"not {layer.epsilon!r}")
            for name, array in (("scale", layer.scale), ("bias", layer.bias)):
                if array is not None:
                    matrix(name, array, inputs[0])
        case Lstm():
            hidden = layer.recurrent_weights.shape[-1]
            matrix("input_weights", layer.input_weights, GATES * hidden, inputs[0])
            matrix("recurrent_weights", layer.recurrent_weights, GATES * hidden, hidden)
            matrix("bias", layer.bias, GATES * hidden)
        case Attention():
            for name in ("query_weights", "key_weights", "value_weights"):
                matrix(name, getattr(layer, name), layer.outputs, inputs[0])
            if layer.heads < 1 or layer.outputs % layer.heads:
                raise NetworkError(f"{where}: heads must divide the {layer.outputs} outputs, "
                                   f"not {layer.heads}")


# --- the written form

def _array(rank: int) -> Callable[[str, str, Any, Mapping[str, ArrayLike]], Array]:
    def read(where: str, key: str, value: Any, arrays: Mapping[str, ArrayLike]) -> Array:
        if isinstance(value, str):
            if value not in arrays:
                raise NetworkError(f"{where}: {key} names {value!r}, which is not among the arrays")
            value = arrays[value]
        try:
            array = np.asarray(value, np.float64)
        except (ValueError, TypeError) as error:
            raise NetworkError(f"{where}: {key} must be an array of numbers: {error}") from error
        if array.ndim != rank or not array.size:
            raise NetworkError(f"{where}: {key} must be an array of {rank} dimensions, "
                               f"not of shape {list(array.shape)}")
        if not np.isfinite(array).all():
            raise NetworkError(f"{where}: {key} must be finite, "
                               f"not {array[~np.isfinite(array)].flat[0]}")
        return array
    return read


def _number(where: str, key: str, value: Any, _: Mapping[str, ArrayLike]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NetworkError(f"{where}: {key} must be a number, not {value!r}")
    return float(value)


def _integer(where: str, key: str, value: Any, _: Mapping[str, ArrayLike]) -> int:
    return _positive(where, {key: value}, key)


def _flag(where: str, key: str, value: Any, _: Mapping[str, ArrayLike]) -> bool:
    if not isinstance(value, bool):
        raise NetworkError(f"{where}: {key} must be true or false, not {value!r}")
    return value


def _text(where: str, key: str, value: Any, _: Mapping[str, ArrayLike]) -> str:
    if not isinstance(value, str):
        raise NetworkError(f"{where}: {key} must be a string, not {value!r}")
    return value


@dataclasses.dataclass(frozen=True)
class _Operator:
    """An operator: its class, the keys that it needs and those that it may have."""

    layer: type[Layer]
    required: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, Callable] = dataclasses.field(default_factory=dict)


_VECTOR, _MATRIX = _array(1), _array(2)
_OPERATORS = {
    "constant": _Operator(Constant, {"values": _MATRIX}),
    "linear": _Operator(Linear, {"input": _text, "weights": _MATRIX},
                        {"bias": _VECTOR, "function": _text, "add": _text}),
    "add": _Operator(Add, {"input": _text, "add": _text}),
    "layer_norm": _Operator(LayerNorm, {"input": _text},
                            {"epsilon": _number, "scale": _VECTOR, "bias": _VECTOR}),
    "lstm": _Operator(Lstm, {"input": _text, "input_weights": _MATRIX,
                             "recurrent_weights": _MATRIX}, {"bias": _VECTOR}),
    "attention": _Operator(Attention, {"input": _text, "query_weights": _MATRIX,
                                       "key_weights": _MATRIX, "value_weights": _MATRIX},
                           {"heads": _integer, "causal": _flag}),
}
#: Layers whose bias is zero if it is left out, and the array that has as many rows.
_ZERO_BIAS = {"linear": "weights", "lstm": "input_weights"}


def _layer(entry: Any, arrays: Mapping[str, ArrayLike]) -> Layer:
    _check_keys("a layer", entry, ("name", "op"), None)
    name, op = entry["name"], entry["op"]
    if not isinstance(name, str) or not name:
        raise NetworkError(f"a layer's name must be a string, not {name!r}")
    where = f"layer {name!r}"
    if not isinstance(op, str) or op not in _OPERATORS:
        raise NetworkError(f"{where}: op must be one of {', '.join(_OPERATORS)}, not {op!r}")
    operator = _OPERATORS[op]
    _check_keys(where, entry, tuple(operator.required), ("name", "op", *operator.optional))
    values = {key: read(where, key, entry[key], arrays)
              for key, read in {**operator.required, **operator.optional}.items() if key in entry}
    inputs = tuple(values.pop(key) for key in ("input", "add") if key in values)
    if op in _ZERO_BIAS:
        values.setdefault("bias", np.zeros(len(values[_ZERO_BIAS[op]])))
    return operator.layer(name=name, inputs=inputs, **values)


def _check_keys(where: str, entry: Any, required: Sequence[str],
                optional: Sequence[str] | None) -> None:
    """`optional` None: any other keys."""
    if not isinstance(entry, Mapping):
        raise NetworkError(f"{where} must be an object with keys, not {entry!r}")
    for key in required:
        if key not in entry:
            raise NetworkError(f"{where} must have the key {key!r}")
    for key in entry:
        if optional is not None and key not in (*required, *optional):
            raise NetworkError(f"{where} has no key {key!r}; it has "
                               f"{', '.join((*required, *optional))}")


def _positive(where: str, entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise NetworkError(f"{where}: {key} must be an integer of at least 1, not {value!r}")
    return value
