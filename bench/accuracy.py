"""Accuracy of the Fashion-MNIST networks on the full test set, by the bit-exact model.

Needs the Debian package dataset-fashion-mnist. Every variant and seed in
`examples/fashion_mnist/parameters` is evaluated over 10 000 images: DLFloat16 and integers in the
core's own arithmetic (`ulpsim.evaluation`), float32 in numpy's. Exits 1 if a mean over the seeds
misses its limit. With --variants the rows of the others are those of the last time.
"""

import argparse
import gzip
import re
import sys
from pathlib import Path

import numpy as np
from record import last, record
from rich.progress import track
from ulpsim.evaluation import evaluate, quantise, real_values
from ulpsim.float_network import evaluate_float
from ulpsim.network import load_network

PARAMETERS = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "parameters"
#: Points that a mean may lie below that of float32, which must reach 90 %.
LIMITS = {"fp16": 0.3, "fp8": 0.3, "int8": 0.3, "int4": 0.5, "int2": 1.5, "odd2": 1.5,
          "ternary": 1.5, "binary": 2.6}
#: Variants of which one seed was trained; of the others there are all.
ONE_SEED = ("fp8", "odd2", "ternary", "binary")
FLOAT_LIMIT = 90.0
FLOAT_BYTES = 500 * 1024


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the images whose largest output is that of their label."""
    right = 0
    for first in range(0, len(images), 500):
        pixels = images[first:first + 500, :, :, None] / 255.0
        if "float32" in path.name:
            values = evaluate_float(path, pixels)
        else:
            network = load_network(path)
            codes = evaluate(network, quantise(pixels, network.input))
            values = real_values(codes, network.stored[network.output_name])
        found = values.reshape(len(values), -1).argmax(axis=1)
        right += int((found == labels[first:first + 500]).sum())
    return round(100 * right / len(images), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--variants", nargs="*", metavar="VARIANT", help="(default: all)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"accuracy: {options.data} is not there: install the Debian package "
              "dataset-fashion-mnist, or name its folder by --data", file=sys.stderr)
        return 2
    with gzip.open(options.data / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(options.data / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    images, labels = images[:options.images], labels[:options.images]

    figures: dict = {"images": len(images)}
    if options.variants:
        figures |= {name: row for name, row in last("accuracy").items()
                    if name not in (*options.variants, "float32", "images")}
    for path in track(sorted(PARAMETERS.glob("fashion-*.json")), "networks"):
        match = re.fullmatch(r"fashion-(\w+?)(?:-seed(\d+))?", path.stem)
        assert match is not None, path
        variant, seed = match[1], match[2] or "0"
        if options.variants and variant not in (*options.variants, "float32"):
            continue
        row = figures.setdefault(variant, {"seeds": {}})
        row["seeds"][seed] = accuracy(path, images, labels)
    missed = 0
    float32 = figures["float32"]["seeds"]
    with np.load(PARAMETERS / "fashion-float32.npz") as arrays:
        figures["float32"]["parameter_bytes"] = sum(a.size * 4 for a in arrays.values())
    missed += np.mean(list(float32.values())) < FLOAT_LIMIT
    missed += figures["float32"]["parameter_bytes"] > FLOAT_BYTES
    for variant, row in figures.items():
        if variant == "images":
            continue
        row["mean"] = round(float(np.mean(list(row["seeds"].values()))), 2)
        if variant in LIMITS:
            # Of the same seeds.
            reference = np.mean([float32[seed] for seed in row["seeds"]])
            row["below_float32"] = round(float(reference - row["mean"]), 2)
            row["limit"] = LIMITS[variant]
            missed += row["below_float32"] > row["limit"]
            missed += set(row["seeds"]) != ({"0"} if variant in ONE_SEED else set(float32))
    variants = sorted(name for name in figures if name != "images")
    figures = {name: figures[name] for name in ("images", *variants)}
    record("accuracy", figures, keep=not options.no_keep)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
