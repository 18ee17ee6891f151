"""Accuracy of exported networks, computed in numpy by the arithmetic of the core.

An integer layer sums codes exactly; then, in float32 and per output channel,
`y = acc * scale + bias (+ residual * residual_scale)`, ReLU and pooling follow, and the stored
code is `clamp(round_half_even(y), 0, 2^bits - 1)`. The division by the output step, and by the
size of an average pool, is part of scale and bias. A floating-point layer sums in float32 and
stores rounded DLFloat16 (FP16), FP8 (E4M3) or float32 (FP32) values: the core adds in another order
and rounds more often, so its bit-exact result is the golden model's to give.

    python examples/fashion_mnist/evaluate.py                     # all files, whole test set
    python examples/fashion_mnist/evaluate.py --sample NAME.json  # the embedded 256 images
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from dataset import DEFAULT_FOLDER, DatasetMissingError, load_sample, load_split

Description = dict[str, Any]
Arrays = dict[str, np.ndarray]

PARAMETERS = Path(__file__).parent / "parameters"
WEIGHT_LIMITS = {"INT8": 127, "INT4": 7, "INT2": 2, "ODD2": 3, "BINARY": 1}
ACTIVATION_LIMITS = {"UINT8": 255, "UINT4": 15, "UINT2": 3}
FLOAT_FORMATS = ("FP16", "FP32", "E4M3")
#: Fraction bits, the number below which there is zero, and the largest, of the core's formats.
FLOAT_SHAPES = {"FP16": (9, 2.0**-31, 8573157376.0), "E4M3": (3, 2.0**-11, 28.0)}
FLOAT_LIMITS = {name: shape[2] for name, shape in FLOAT_SHAPES.items()}
FLOAT32_EXACT = 2**24
BATCH = 500
# Float sums depend on the order in which the BLAS library adds: some images may change sides.
FLOAT_TOLERANCE = 0.5


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """Round to a format of floating point, held in float32; ties go up in magnitude.

    FP16 is DLFloat16 (1-6-9, bias 31), E4M3 is FP8 (1-4-3, bias 11). What is too small becomes
    zero, what is too large NaN. FP32 is left as it is.
    """
    if kind == "FP32":
        return values
    fraction_bits, smallest, largest = FLOAT_SHAPES[kind]
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    sign, magnitude = bits & np.uint32(1 << 31), bits & np.uint32((1 << 31) - 1)
    last = 1 << (23 - fraction_bits)
    magnitude = (magnitude + np.uint32(last >> 1)) & np.uint32((1 << 32) - last)
    size = magnitude.view(np.float32)
    result = (magnitude | sign).view(np.float32)
    result = np.where(size > smallest, result, np.float32(0))
    return np.where(size <= largest, result, np.float32(np.nan))


def load(path: Path) -> tuple[Description, Arrays]:
    """Read NAME.json and the NAME.npz beside it."""
    with np.load(path.with_suffix(".npz")) as file:
        return json.loads(path.read_text()), dict(file)


def _store(values: np.ndarray, tensor_format: str) -> np.ndarray:
    """Convert scaled float32 values to what memory holds: codes or rounded values."""
    if tensor_format in FLOAT_FORMATS:
        return rounded(values, tensor_format)
    return np.rint(values).clip(0, ACTIVATION_LIMITS[tensor_format]).astype(np.float32)


def _columns(image: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """The receptive fields (count, y, x, kernel * kernel * channels) of NHWC images."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(*windows.shape[:3], -1)


def _product(
    columns: np.ndarray, weights: np.ndarray, weight_format: str, input_format: str
) -> np.ndarray:
    """Sums of products as float32. Integer sums are exact, then rounded once to float32."""
    kind: type = np.float32
    if weight_format not in FLOAT_FORMATS:
        bound = columns.shape[-1] * WEIGHT_LIMITS[weight_format] * ACTIVATION_LIMITS[input_format]
        kind = np.float32 if bound < FLOAT32_EXACT else np.float64
    if weight_format == "ODD2":
        weights = 2 * weights + 1
    elif weight_format == "BINARY":
        weights = 2 * weights - 1
    result = columns.astype(kind) @ weights.reshape(len(weights), -1).T.astype(kind)
    return result.astype(np.float32)


def _pool(values: np.ndarray, op: str, size: int, stride: int) -> np.ndarray:
    """Maximum or sum over windows of NHWC values; a sum adds row by row, left to right."""
    height = (values.shape[1] - size) // stride + 1
    width = (values.shape[2] - size) // stride + 1
    combine = np.maximum if op == "max_pool" else np.add
    result: np.ndarray | None = None
    for y in range(size):
        for x in range(size):
            part = values[:, y : y + height * stride : stride, x : x + width * stride : stride]
            part = part[:, :height, :width]
            result = part if result is None else combine(result, part)
    assert result is not None
    return result


def run(description: Description, arrays: Arrays, images: np.ndarray) -> np.ndarray:
    """Logits (count, classes) of uint8 images (count, height, width)."""
    source = description["input"]
    image = images[..., np.newaxis].astype(np.float32)
    if source["format"] in FLOAT_FORMATS:
        image = _store(image / np.float32(255), source["format"])
    stored = {source["name"]: image}
    outputs = {source["name"]: source}
    values, chain = image, []
    for layer in description["layers"]:
        chain.append(layer)
        if "output" in layer:
            values = _run_chain(chain, arrays, stored, outputs)
            stored[layer["name"]], outputs[layer["name"]] = values, layer["output"]
            chain = []
    if chain:
        raise ValueError(f"layer {chain[-1]['name']!r} is last and must have an output format")
    return values.reshape(len(images), -1)


def _run_chain(
    chain: list[Description], arrays: Arrays, stored: Arrays, outputs: dict[str, Description]
) -> np.ndarray:
    """Run a convolution or fully connected layer and what is fused to it; return what is stored."""
    first, output = chain[0], chain[-1]["output"]
    divisor = output["step"]
    for layer in chain:
        if layer["op"] == "average_pool":
            divisor *= layer["size"] ** 2
    data, source = stored[first["input"]], outputs[first["input"]]
    weights = arrays[first["weights"]]
    if first["op"] == "convolution":
        columns = _columns(data, weights.shape[1], first["stride"], first["padding"])
    elif first["op"] == "fully_connected":
        columns = data.reshape(len(data), -1)
    else:
        raise ValueError(f"layer {first['name']!r} must not begin a chain: op {first['op']!r}")
    values = _product(columns, weights, first["weight_format"], source["format"])
    step = arrays[first["weight_step"]].astype(np.float64)
    scale = (step * source["step"] / divisor).astype(np.float32)
    bias = (arrays[first["bias"]].astype(np.float64) / divisor).astype(np.float32)
    values = values * scale + bias
    for layer in chain[1:]:
        if layer["op"] == "relu":
            values = np.maximum(values, np.float32(0))
        elif layer["op"] in ("max_pool", "average_pool"):
            values = _pool(values, layer["op"], layer["size"], layer["stride"])
        elif layer["op"] == "add":
            (other,) = (name for name in layer["inputs"] if name in stored)
            values = values + stored[other] * np.float32(outputs[other]["step"] / divisor)
        else:
            raise ValueError(f"layer {layer['name']!r} has the unknown op {layer['op']!r}")
    return _store(values, output["format"])


def accuracy(
    description: Description, arrays: Arrays, images: np.ndarray, labels: np.ndarray
) -> float:
    """Percentage of images whose largest logit (the first of equals) is at their label."""
    right = 0
    for start in range(0, len(images), BATCH):
        logits = run(description, arrays, images[start : start + BATCH])
        right += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return 100 * right / len(images)


def main() -> int:
    """Print the accuracy of each file; fail if one is not what its file records."""
    parser = argparse.ArgumentParser(description="Evaluate exported Fashion-MNIST networks.")
    parser.add_argument("files", nargs="*", type=Path, help="JSON files; default: all")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--sample", action="store_true", help="use the embedded 256 images")
    arguments = parser.parse_args()
    try:
        images, labels = load_sample() if arguments.sample else load_split(arguments.data, "t10k")
    except DatasetMissingError as error:
        print(f"{error} Or evaluate on the embedded images with --sample.", file=sys.stderr)
        return 2
    differences = 0
    for path in arguments.files or sorted(PARAMETERS.glob("*.json")):
        description, arrays = load(path)
        measured = accuracy(description, arrays, images, labels)
        recorded = description["accuracy"]["sample" if arguments.sample else "exported"]
        exact = description["input"]["format"] not in FLOAT_FORMATS
        same = abs(measured - recorded) < (1e-9 if exact else FLOAT_TOLERANCE)
        differences += not same
        note = "" if same else f"   differs: {recorded:.2f} % is recorded"
        print(f"{description['name']:24} {measured:6.2f} % of {len(images)}{note}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
