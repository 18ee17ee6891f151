"""Write a trained network in the form the compiler reads: one .json and one .npz.

The JSON lists the layers; the strings under "weights", "weight_step" and "bias" name arrays of the
.npz of the same stem. A real weight is code * weight_step, and weight_step holds the folded
BatchNorm multiplier of the output channel.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import to_dlfloat16
from network import FLOAT32, FP16, IMAGE_SIZE, Convolution, FashionNetwork, Precision, weight_codes
from torch import nn

Description = dict[str, Any]
Arrays = dict[str, np.ndarray]

FLOAT_FORMATS = {FLOAT32.name: "FP32", FP16.name: "FP16"}


def stem_of(precision: Precision, seed: int) -> str:
    """File stem: seed 0 is the one others use and bears no suffix."""
    return f"fashion-{precision.name}" + (f"-seed{seed}" if seed else "")


def _weights(
    layer: nn.Module, bits: int | None, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (or float weights) with the input channel last, and the step of each channel."""
    weight: torch.Tensor = layer.weight.detach()
    if bits is None:
        codes, step = weight, torch.ones(weight.shape[0])
    else:
        codes, step = weight_codes(weight, bits)
    if weight.dim() == 4:
        codes = codes.permute(0, 2, 3, 1)
    array = codes.contiguous().numpy()
    if bits is not None:
        array = array.astype(np.int8)
    elif precision == FP16:
        array = to_dlfloat16(array)
    return array, step.double().numpy()


def describe(
    network: FashionNetwork, precision: Precision, name: str
) -> tuple[Description, Arrays]:
    """The description and the arrays of a trained network.

    `precision` may be FP16 for a network trained in float32: the conversion needs no training.
    """
    float_format = FLOAT_FORMATS.get(precision.name)
    arrays: Arrays = {}
    layers: list[Description] = []

    def stored(index: int) -> Description:
        activation = network.activations[index - 1]
        if activation.bits is None:
            return {"format": float_format, "step": 1.0}
        return {"format": f"UINT{activation.bits}", "step": activation.step}

    def weighted(name: str, bits: int | None, norm: nn.BatchNorm2d | None) -> Description:
        layer = getattr(network, name)
        weights, step = _weights(layer, bits, precision)
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
            "weight_format": float_format or f"INT{bits}",
            "weight_step": f"{name}.weight_step",
            "bias": f"{name}.bias",
        }

    def convolution(index: int, source: str) -> str:
        name = f"conv{index}"
        layer: Convolution = getattr(network, name)
        norm = getattr(network, f"norm{index}")
        entry = {"name": name, "op": "convolution", "input": source}
        entry |= weighted(name, layer.bits, norm)
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
    logits = {"format": "FP32" if precision == FLOAT32 else "FP16", "step": 1.0}
    add("fc", "fully_connected", x, **weighted("fc", network.fc.bits, None), output=logits)

    image: Description = {"name": "image", "height": IMAGE_SIZE, "width": IMAGE_SIZE, "channels": 1}
    if float_format:
        image |= {"format": float_format, "step": 1.0}
    else:
        image |= {"format": "UINT8", "step": 1 / 255}
    return {"name": name, "input": image, "layers": layers}, arrays


def save(folder: Path, stem: str, description: Description, arrays: Arrays) -> None:
    """Write `stem`.json and `stem`.npz into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{stem}.npz", **arrays)
    (folder / f"{stem}.json").write_text(json.dumps(description, indent=1) + "\n")
