"""What networks ask of a training step: the matrix products and parameters of each layer.

Of AlexNet, VGG19, ResNet50, Inception v1 and DenseNet121 the shapes are those of the light models
in the Python package onnx (`data/networks.json`, written by `bench/explorer_data.py --networks`).
The others are tables here:

- `bert-base`: Devlin et al., NAACL 2019: 12 layers of 768 with 12 heads, 3072 in between, 30522
  words, sequences of 128.
- `lstm-ptb`: Zaremba et al., arXiv:1409.2329, the medium model: 2 layers of 650, 10000 words,
  sequences of 35.
- `deepspeech`: like Deep Speech (Hannun et al., arXiv:1412.5567) in the form that Mozilla gave it:
  26 coefficients of 19 frames, three layers of 2048, an LSTM of 2048, a layer of 2048, 29 letters;
  500 frames, ten seconds.
"""

import dataclasses
import functools

from .data import load

__all__ = ["NETWORKS", "Layer", "Network", "load_network"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as matrix products of a sample.

    Attributes
    ----------
    name
        Unique in its network.
    kind
        "convolution" or "other", as the AdaComp study tells layers apart.
    parameters
        Elements of the gradient, 0 for products of two activations.
    rows, inputs, outputs
        The forward product: rows x inputs times inputs x outputs, of each group.
    taps
        Of a convolution's filter; inputs / taps are channels.
    groups
        Products of a sample that do not depend on each other.
    steps
        Products of a sample that wait for each other.
    """

    name: str
    kind: str
    parameters: int
    rows: int
    inputs: int
    outputs: int
    taps: int = 1
    groups: int = 1
    steps: int = 1

    @property
    def multiply_adds(self) -> int:
        """Of the forward product, of a sample."""
        return self.rows * self.inputs * self.outputs * self.groups * self.steps


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers in the order of the forward pass; a `sample` is what a batch counts."""

    name: str
    sample: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass, of a sample."""
        return sum(layer.multiply_adds for layer in self.layers)


def load_network(name: str) -> Network:
    """A network by its name; ValueError for one that is not known."""
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {name!r}")
    return NETWORKS[name]


def _bert(layers: int = 12, width: int = 768, heads: int = 12, inner: int = 3072,
          words: int = 30522, length: int = 128) -> Network:
    def dense(name: str, inputs: int, outputs: int, rows: int = length, norm: int = 0) -> Layer:
        return Layer(name, "other", (inputs + 1) * outputs + norm, rows, inputs, outputs)

    found = [Layer("embedding", "other", (words + 512 + 2 + 2) * width, 0, 0, 0)]
    for number in range(layers):
        part = width // heads
        found += [
            dense(f"query{number}", width, width), dense(f"key{number}", width, width),
            dense(f"value{number}", width, width),
            Layer(f"scores{number}", "other", 0, length, part, length, groups=heads),
            Layer(f"mix{number}", "other", 0, length, length, part, groups=heads),
            dense(f"attention{number}", width, width, norm=2 * width),
            dense(f"inner{number}", width, inner), dense(f"outer{number}", inner, width,
                                                         norm=2 * width)]
    found.append(dense("pooler", width, width, rows=1))
    return Network("bert-base", f"sequence of {length}", tuple(found))


def _lstm(name: str, inputs: int, units: int, steps: int) -> Layer:
    return Layer(name, "other", (inputs + units + 1) * 4 * units, 1, inputs + units, 4 * units,
                 steps=steps)


def _ptb(units: int = 650, words: int = 10000, steps: int = 35) -> Network:
    return Network("lstm-ptb", f"sequence of {steps}", (
        Layer("embedding", "other", words * units, 0, 0, 0),
        _lstm("lstm0", units, units, steps), _lstm("lstm1", units, units, steps),
        Layer("output", "other", (units + 1) * words, steps, units, words)))


def _deepspeech(units: int = 2048, frames: int = 500) -> Network:
    def dense(name: str, inputs: int, outputs: int) -> Layer:
        return Layer(name, "other", (inputs + 1) * outputs, frames, inputs, outputs)

    return Network("deepspeech", f"sequence of {frames}", (
        dense("dense0", 26 * 19, units), dense("dense1", units, units),
        dense("dense2", units, units), _lstm("lstm", units, units, frames),
        dense("dense3", units, units), dense("output", units, 29)))


@functools.cache
def _from_onnx() -> dict[str, Network]:
    return {name: Network(name, "image", tuple(Layer(layer, *row) for layer, row in rows.items()))
            for name, rows in load("networks")["networks"].items()}


NETWORKS: dict[str, Network] = {
    **_from_onnx(), "bert-base": _bert(), "lstm-ptb": _ptb(), "deepspeech": _deepspeech()}
"""All that are known."""
