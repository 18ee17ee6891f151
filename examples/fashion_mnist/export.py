"""Write a trained network in the form the compiler reads: one .json and one .npz.

The JSON lists the layers; the strings under "weights", "weight_step" and "bias" name arrays of the
.npz of the same stem. A real weight is code * weight_step, and weight_step holds the folded
BatchNorm multiplier of the output channel.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import FLOAT_LIMITS, rounded
from network import (
    FLOAT_FORMATS,
    IMAGE_SIZE,
    Convolution,
    FashionNetwork,
    FullyConnected,
    Precision,
    weight_codes,
)
from torch import nn

Description = dict[str, Any]
Arrays = dict[str, np.ndarray]

#: Room that a stored tensor of FP8 has above the largest value seen: beyond it is NaN-Inf.
HEADROOM = 2.0


def stem_of(precision: Precision, seed: int) -> str:
    """File stem: seed 0 is the one others use and bears no suffix."""
    return f"fashion-{precision.name}" + (f"-seed{seed}" if seed else "")


def _weights(layer: nn.Module, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes (or float weights) with the input channel last, and the step of each channel.

    `kind` is a format of floating point, which may be another one than the layer was trained in,
    or the layer's own coding.
    """
    weight: torch.Tensor = layer.weight.detach()
    if kind in FLOAT_FORMATS:
        codes, step = weight, torch.ones(weight.shape[0])
    else:
        codes, step = weight_codes(weight, kind)
    if weight.dim() == 4:
        codes = codes.permute(0, 2, 3, 1)
    array = codes.contiguous().numpy()
    if kind in FLOAT_FORMATS:
        return rounded(array, kind), step.double().numpy()
    return array.astype(np.int8), step.double().numpy()


def _float_step(largest: float, kind: str) -> float:
    """A power of two as the step of a tensor in floating point, of which the largest is known."""
    if kind != "E4M3":
        return 1.0
    return 2.0 ** math.ceil(math.log2(HEADROOM * largest / FLOAT_LIMITS[kind]))


def describe(
    network: FashionNetwork, precision: Precision, name: str
) -> tuple[Description, Arrays]:
    """The description and the arrays of a trained network.

    `precision` may be in floating point for a network trained in float32: the conversion needs no
    training. For FP8 the largest activations must have been measured (`network.measure_largest`).
    """
    arrays: Arrays = {}
    layers: list[Description] = []

    def stored(index: int) -> Description:
        activation = network.activations[index - 1]
        edge = activation is network.activations[-1]
        kind = precision.edge_activations if edge else precision.activations
        if kind in FLOAT_FORMATS:
            return {"format": kind, "step": _float_step(activation.largest, kind)}
        return {"format": kind, "step": activation.step}

    def weighted(name: str, kind: str, norm: nn.BatchNorm2d | None) -> Description:
        layer = getattr(network, name)
        weights, step = _weights(layer, kind)
        if norm is None:
            bias = layer.bias.detach().double().numpy()
        else:
            mean, variance = norm.running_mean.double(), norm.running_var.double()
            multiplier = norm.weight.detach().double() / (variance + norm.eps).sqrt()
            step = step * multiplier.numpy()
            bias = (norm.bias.detach().double() - mean * multiplier).numpy()
        arrays[f"{name}.weights"] = weights
        arrays[f"{name}.weight_step"] = step.astype(np.float32)
        arrays[f"{name}.bias"] = bias.astype(np.float32)
        return {
            "weights": f"{name}.weights",
            "weight_format": "INT2" if kind == "TERNARY" else kind,
            "weight_step": f"{name}.weight_step",
            "bias": f"{name}.bias",
        }

    def convolution(index: int, source: str) -> str:
        name = f"conv{index}"
        layer: Convolution = getattr(network, name)
        norm = getattr(network, f"norm{index}")
        kind = precision.edge_weights if index == 1 else precision.weights
        entry = {"name": name, "op": "convolution", "input": source}
        entry |= weighted(name, kind, norm)
        layers.append(entry | {"stride": layer.stride[0], "padding": layer.padding[0]})
        return name

    def add(name: str, op: str, source: str, **rest: Any) -> str:
        layers.append({"name": name, "op": op, "input": source} | rest)
        return name

    x = add("relu1", "relu", convolution(1, "image"))
    x = add("pool1", "max_pool", x, size=2, stride=2, output=stored(1))
    x = add("relu2", "relu", convolution(2, x))
    x = residual = add("pool2", "max_pool", x, size=2, stride=2, output=stored(2))
    x = add("relu3", "relu", convolution(3, x), output=stored(3))
    x = convolution(4, x)
    layers.append({"name": "add4", "op": "add", "inputs": [x, residual]})
    x = add("relu4", "relu", "add4", output=stored(4))
    x = add("relu5", "relu", convolution(5, x))
    x = add("pool5", "average_pool", x, size=4, stride=4, output=stored(5))
    logits = {"format": "FP32" if precision.weights == "FP32" else "FP16", "step": 1.0}
    weights = weighted("fc", precision.edge_weights, None)
    add("fc", "fully_connected", x, **weights, output=logits)

    image: Description = {"name": "image", "height": IMAGE_SIZE, "width": IMAGE_SIZE, "channels": 1}
    if precision.edge_activations in FLOAT_FORMATS:
        image |= {"format": precision.edge_activations, "step": 1.0}
    else:
        image |= {"format": "UINT8", "step": 1 / 255}
    return {"name": name, "input": image, "layers": layers}, arrays


def restore(network: FashionNetwork, arrays: Arrays, image: torch.Tensor) -> None:
    """Give a float32 network the parameters that were exported.

    A folded normalisation is taken apart by the statistics of `image`: the network computes what
    was exported, and can be trained on.
    """
    with torch.no_grad():
        for index in range(1, 6):
            layer: Convolution = getattr(network, f"conv{index}")
            norm: nn.BatchNorm2d = getattr(network, f"norm{index}")
            weights = torch.from_numpy(arrays[f"conv{index}.weights"])
            layer.weight.copy_(weights.permute(0, 3, 1, 2))
            seen: list[torch.Tensor] = []
            hook = layer.register_forward_hook(lambda _, inputs, output, seen=seen:
                                               seen.append(output))
            network.eval()(image)
            hook.remove()
            variance, mean = torch.var_mean(seen[0], (0, 2, 3), unbiased=False)
            step = torch.from_numpy(arrays[f"conv{index}.weight_step"])
            bias = torch.from_numpy(arrays[f"conv{index}.bias"])
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_(step * (variance + norm.eps).sqrt())
            norm.bias.copy_(bias + step * mean)
        head: FullyConnected = network.fc
        head.weight.copy_(torch.from_numpy(arrays["fc.weights"]))
        head.bias.copy_(torch.from_numpy(arrays["fc.bias"]))


def save(folder: Path, stem: str, description: Description, arrays: Arrays) -> None:
    """Write `stem`.json and `stem`.npz into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{stem}.npz", **arrays)
    (folder / f"{stem}.json").write_text(json.dumps(description, indent=1) + "\n")
