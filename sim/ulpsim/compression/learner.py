"""A learner: the layers that it compresses step after step, with the residues that stay with it."""

import dataclasses
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .adacomp import Compressed, Gradient, Settings, compress_array, gradient_values, point_for
from .packets import LAYERS, packets_of

__all__ = ["CONVOLUTION_BIN", "DENSE_BIN", "Learner", "LearnerLayer", "bin_size_for",
           "layers_of"]

#: The paper's bins for convolutions, and for fully connected layers and LSTMs.
CONVOLUTION_BIN, DENSE_BIN = 50, 500


def bin_size_for(shape: tuple[int, ...]) -> int:
    """The paper's bin size for weights of a shape: 50 with three dimensions or more, else 500."""
    return CONVOLUTION_BIN if len(shape) >= 3 else DENSE_BIN


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Which arrays make up a layer: those whose names are equal up to the last dot.

    Biases so go with their weights, `conv1.bias` with `conv1.weight`: by themselves they are too
    short to be worth a packet.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


@dataclasses.dataclass
class LearnerLayer:
    """One layer of a learner: its number in packets, settings, residue (in units), and the mean of
    the step before (FP32 bits), None before the first one."""

    number: int
    settings: Settings
    residue: NDArray[np.int32]
    mean: int | None = None


class Learner:
    """Compresses the gradients of layers, keeping their residues.

    Parameters
    ----------
    number
        Of the learner, in its packets.
    factor
        The soft threshold of all layers.
    one_pass
        Use the scale of the step before, as hardware does that passes over a layer only once; the
        first step has none and takes two passes.
    """

    def __init__(self, number: int = 0, *, factor: float | Fraction = 2, one_pass: bool = False,
                 threads: int = 1) -> None:
        self.number, self.factor, self.one_pass = number, factor, one_pass
        self.threads = threads
        self.layers: dict[str, LearnerLayer] = {}
        self.step = 0

    def layer(self, name: str, gradient: Gradient, bin_size: int, point: int | None = None,
              number: int | None = None) -> LearnerLayer:
        """The layer of a name; made for this gradient when it is met first, its point by
        `point_for` if none is given, its number the next one.

        Raises ValueError if the layer has another length, or if there would be more than 4096.
        """
        if name not in self.layers:
            if len(self.layers) == LAYERS:
                raise ValueError(f"layers must be at most {LAYERS}, {name!r} is one more")
            if point is None:
                point = point_for(gradient_values(gradient))
            settings = Settings(bin_size, self.factor, point)
            self.layers[name] = LearnerLayer(len(self.layers) if number is None else number,
                                             settings, np.zeros(len(gradient), np.int32))
        layer = self.layers[name]
        if len(layer.residue) != len(gradient):
            raise ValueError(f"gradient of {name} must have {len(layer.residue)} elements as "
                             f"before, not {len(gradient)}")
        return layer

    def scale(self, layer: LearnerLayer) -> int | None:
        """The scale that the layer's next step is given: None for the exact mean."""
        return layer.mean if self.one_pass else None

    def compress(self, layer: LearnerLayer, gradient: Gradient
                 ) -> tuple[Compressed, list[bytes]]:
        """One step of a layer; its residue goes on to the next."""
        ours = compress_array(layer.residue, gradient, layer.settings, self.scale(layer),
                              threads=self.threads)
        packets = packets_of(ours, layer.settings.bin_size, layer=layer.number,
                             learner=self.number, step=self.step)
        layer.residue, layer.mean = ours.residue, ours.mean
        return ours, packets

    def state(self) -> dict[str, NDArray]:
        """All that has to be kept to go on later, as arrays."""
        arrays: dict[str, NDArray] = {"learner": np.array([self.number, self.step])}
        for name, layer in self.layers.items():
            arrays[f"{name}/residue"] = layer.residue
            arrays[f"{name}/settings"] = np.array(
                [layer.number, layer.settings.bin_size, layer.settings.factor_steps,
                 layer.settings.point, -1 if layer.mean is None else layer.mean])
        return arrays

    def load(self, arrays: Mapping[str, NDArray]) -> None:
        """Go on from a `state`. Raises ValueError if the arrays are not one."""
        if "learner" not in arrays or arrays["learner"].shape != (2,):
            raise ValueError("state must have the array 'learner' of 2 numbers, which is not there")
        number, step = (int(x) for x in arrays["learner"])
        layers = {}
        for key in arrays:
            name, _, what = key.rpartition("/")
            if what != "settings":
                continue
            if f"{name}/residue" not in arrays:
                raise ValueError(f"state must have the array '{name}/residue', which is not there")
            residue = np.asarray(arrays[f"{name}/residue"])
            if residue.dtype != np.int32 or residue.ndim != 1:
                raise ValueError(f"{name}/residue must be a vector of int32, not {residue.dtype} "
                                 f"{residue.shape}")
            if np.shape(arrays[key]) != (5,):
                raise ValueError(f"{key} must have 5 numbers, not the shape "
                                 f"{np.shape(arrays[key])}")
            index, bin_size, steps, point, mean = (int(x) for x in arrays[key])
            layers[name] = LearnerLayer(index, Settings(bin_size, Fraction(steps, 4), point),
                                        residue, None if mean < 0 else mean)
        self.number, self.step, self.layers = number, step, layers
