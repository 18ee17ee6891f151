"""A network in float32 without any of the core's arithmetic: what its accuracy is measured from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["evaluate_float"]


def evaluate_float(path: str | Path, images: ArrayLike) -> NDArray[np.float32]:
    """The output [images, ...] of the network in `path` for real-valued images.

    The file has the form of `docs/networks.md`, its arrays in the .npz beside it. Weights are
    taken times their step; formats of stored tensors are ignored. Images are
    [images, height, width, channels]. Raises ValueError for an operator that is not known.
    """
    path = Path(path)
    description = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        arrays = {name: file[name].astype(np.float32) for name in file}
    tensors = {description["input"]["name"]: np.asarray(images, np.float32)}
    for layer in description["layers"]:
        names = layer["inputs"] if "inputs" in layer else [layer["input"]]
        values = _layer(layer, [tensors[name] for name in names], arrays)
        tensors[layer["name"]] = values.astype(np.float32)
    return tensors[description["layers"][-1]["name"]]


def _layer(layer: dict[str, Any], inputs: list[NDArray], arrays: dict[str, NDArray]) -> NDArray:
    match layer["op"]:
        case "convolution" | "fully_connected":
            return _convolution(layer, inputs[0], arrays)
        case "add":
            return inputs[0] + inputs[1]
        case "relu":
            return np.maximum(inputs[0], 0)
        case "clip":
            return np.clip(inputs[0], 0, layer["alpha"])
        case "max_pool":
            return _windows(inputs[0], layer["size"], layer["stride"]).max(axis=(3, 4))
        case "average_pool":
            return _windows(inputs[0], layer["size"], layer["stride"]).mean(axis=(3, 4))
        case other:
            raise ValueError(f"layer {layer['name']!r}: op {other!r} is not known")


def _pair(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _windows(tensor: NDArray, size: Any, stride: Any) -> NDArray:
    """[images, height, width, window height, window width, channels]"""
    (height, width), (down, right) = _pair(size), _pair(stride)
    windows = np.lib.stride_tricks.sliding_window_view(tensor, (height, width), axis=(1, 2))
    return windows[:, ::down, ::right].transpose(0, 1, 2, 4, 5, 3)


def _convolution(layer: dict[str, Any], tensor: NDArray, arrays: dict[str, NDArray]) -> NDArray:
    def array(key: str) -> NDArray:
        value = layer[key]
        return arrays[value] if isinstance(value, str) else np.asarray(value, np.float32)

    weights = array("weights")
    if layer["op"] == "fully_connected":
        weights = weights.reshape(len(weights), *tensor.shape[1:])
    (down, right) = _pair(layer.get("padding", 0))
    padded = np.pad(tensor, ((0, 0), (down, down), (right, right), (0, 0)))
    down, right = _pair(layer.get("dilation", 1))
    extent = [(weights.shape[1] - 1) * down + 1, (weights.shape[2] - 1) * right + 1]
    windows = _windows(padded, extent, layer.get("stride", 1))[:, :, :, ::down, ::right]
    groups = layer.get("groups", 1)
    parts = zip(np.split(windows, groups, axis=-1), np.split(weights, groups), strict=True)
    products = np.concatenate([part.reshape(*part.shape[:3], -1) @ filters.reshape(
        len(filters), -1).T for part, filters in parts], axis=-1)
    return products * array("weight_step") + array("bias")
