"""The record of the measured accuracies, accuracy.json, and its table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from evaluate import accuracy, load
from rich.console import Console
from rich.table import Table

WEIGHT_BITS = {"FP32": 32, "FP16": 16, "E4M3": 8, "INT8": 8, "INT4": 4, "INT2": 2, "ODD2": 2,
               "BINARY": 1}
VARIANTS = ("float32", "fp16", "fp8", "int8", "int4", "int2", "odd2", "ternary", "binary")
GAP_LIMITS = {"float32": 0.0, "fp16": 0.3, "fp8": 0.3, "int8": 0.3, "int4": 0.5, "int2": 1.5,
              "odd2": 1.5, "ternary": 1.5, "binary": 2.6}


def parameter_bytes(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> int:
    """Bytes of the weights at their own width, and of a float32 scale and bias a channel."""
    total = 0
    for layer in description["layers"]:
        if "weights" in layer:
            weights = arrays[layer["weights"]]
            total += (weights.size * WEIGHT_BITS[layer["weight_format"]] + 7) // 8
            total += 8 * len(weights)
    return total


def measure(
    description: dict[str, Any],
    arrays: dict[str, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    float_accuracy: float | None,
    sample: int = 256,
) -> dict[str, float]:
    """The accuracies that an exported description carries, in percent."""
    images, labels = test
    exported = accuracy(description, arrays, images, labels)
    return {
        "float32": exported if float_accuracy is None else float_accuracy,
        "exported": exported,
        "sample": accuracy(description, arrays, images[:sample], labels[:sample]),
    }


def write(path: Path, folder: Path) -> dict[str, Any]:
    """Gather the accuracies of all exported files of `folder` into `path`."""
    variants: dict[str, Any] = {}
    for variant in VARIANTS:
        results: dict[str, float] = {}
        epochs: dict[str, int] = {}
        size = 0
        for file in sorted(folder.glob(f"fashion-{variant}*.json")):
            description, arrays = load(file)
            results[str(description["seed"])] = description["accuracy"]["exported"]
            epochs[str(description["seed"])] = description["epochs"]
            size = parameter_bytes(description, arrays)
        if results:
            variants[variant] = {
                "epochs": epochs,
                "accuracy": results,
                "mean": round(float(np.mean(list(results.values()))), 3),
                "parameter_bytes": size,
            }
    reference = variants.get("float32", {}).get("accuracy", {})
    for variant, entry in variants.items():
        gaps = [reference[s] - a for s, a in entry["accuracy"].items() if s in reference]
        if gaps:
            entry["gap_to_float32"] = round(float(np.mean(gaps)), 3)
            entry["gap_limit"] = GAP_LIMITS[variant]
    result = {"dataset": "Fashion-MNIST", "test_images": 10000, "variants": variants}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def print_table(result: dict[str, Any], console: Console) -> None:
    """Print the record as a table."""
    table = Table("variant", "seeds", "accuracy, mean %", "gap, points", "limit", "parameter bytes")
    for variant, entry in result["variants"].items():
        table.add_row(
            variant,
            "  ".join(f"{a:.2f}" for a in entry["accuracy"].values()),
            f"{entry['mean']:.2f}",
            f"{entry.get('gap_to_float32', 0):.2f}",
            f"{entry.get('gap_limit', 0):.1f}",
            str(entry["parameter_bytes"]),
        )
    console.print(table)
