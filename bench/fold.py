"""Convolutions with few outputs on a large core, with and without groups of columns.

Every layer is a program of its own, from start to interrupt, by the cycle model: once on the core
as it is, and once on the same core without `fold`. DenseNet121's layers (blocks of 6, 12, 24 and 16
with 32 outputs each, behind a bottleneck of 128; transitions that halve the channels) are all of
them, each as often as it occurs; its tensors, which join the outputs of many layers, are taken as
they would lie if they had been written side by side. AlexNet's are its convolutions, in one tower.
Utilisation is ideal cycles (products by definition / products in a cycle) over cycles. Weights and
activations hold nothing: cycles do not depend on them.

With --rtl, instead, one layer in groups of two and one in groups of four run on the RTL with random
numbers, and every word and cycle is compared. Exits 1 if one differs.
"""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from typing import Any

from record import record
from resnet50 import bounds, compare, one_layer, percent, timing
from rich.progress import track
from ulpsim.compiler import compile_network
from ulpsim.config import CoreConfig, load_config
from ulpsim.formats import FORMATS

#: Layers that run on the RTL: outputs, format.
SAMPLES = [(32, "FP16"), (16, "INT8")]


def shape(height: int, channels: int, outputs: int, kernel: int, stride: int = 1,
          padding: int | None = None) -> dict[str, int]:
    return {"height": height, "width": height, "channels": channels, "outputs": outputs,
            "kernel": kernel, "stride": stride,
            "padding": kernel // 2 if padding is None else padding}


def densenet121() -> dict[str, list[dict[str, int]]]:
    """Its convolutions, those with 32 outputs apart from the others."""
    others, growing = [shape(224, 3, 64, 7, 2, 3)], []
    height, channels, growth = 56, 64, 32
    for layers in (6, 12, 24, 16):
        for _ in range(layers):
            others.append(shape(height, channels, 4 * growth, 1))
            growing.append(shape(height, 4 * growth, growth, 3))
            channels += growth
        if layers != 16:
            channels //= 2
            others.append(shape(height, 2 * channels, channels, 1))
            height //= 2
    return {"DenseNet121, 32 outputs": growing, "DenseNet121": others + growing}


def alexnet() -> dict[str, list[dict[str, int]]]:
    first = shape(224, 3, 96, 11, 4, 2)
    return {"AlexNet, 96 outputs": [first], "AlexNet": [
        first, shape(27, 96, 256, 5), shape(13, 256, 384, 3), shape(13, 384, 384, 3),
        shape(13, 384, 256, 3)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="rapid", help="a named core or a TOML file")
    parser.add_argument("--formats", nargs="*", default=["FP16", "INT8", "INT4"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--latency", type=int, default=16, help="of the memory, in cycles")
    parser.add_argument("--rtl", action="store_true", help="only compare samples with the RTL")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    figures: dict[str, Any] = {"latency": options.latency, "fold": config.fold}
    if options.rtl:
        for outputs, kind in track(SAMPLES, "RTL"):
            figures[f"{outputs} outputs, {kind}"] = compare(
                shape(8, 64, outputs, 3), kind, config, options.latency)
        record(f"fold-{config.name}-rtl", figures, keep=not options.no_keep)
        return int(any(row["differing_words"] or row["differing_cycles"] or row["faults"]
                       for row in figures.values() if isinstance(row, dict)))
    runs = [(kind, batch) for kind in options.formats for batch in options.batches]
    for kind, batch in track(runs, "fold"):
        figures.setdefault(kind, {})[f"batch {batch}"] = {
            name: measure(layers, kind, batch, config, options.latency)
            for name, layers in (densenet121() | alexnet()).items()}
    record(f"fold-{config.name}", figures, keep=not options.no_keep)
    return 0


def measure(layers: list[dict[str, int]], kind: str, batch: int, config: CoreConfig,
            latency: int) -> dict[str, float]:
    """Cycles of all layers with and without groups, and what they make of the array."""
    plain = dataclasses.replace(config, fold=1)
    ideal = cycles = without = 0.0
    for key, times in Counter(map(json.dumps, layers)).items():
        layer = json.loads(key)
        ideal += times * bounds(layer, FORMATS[kind], batch, config)[0]
        cycles += times * _cycles(key, kind, batch, config, latency)
        without += times * _cycles(key, kind, batch, plain, latency)
    return {"cycles": cycles, "cycles_without": without,
            "utilisation_percent": percent(ideal, cycles),
            "utilisation_without_percent": percent(ideal, without)}


_KNOWN: dict[tuple[str, str, int, int], int] = {}


def _cycles(layer: str, kind: str, batch: int, config: CoreConfig, latency: int) -> int:
    key = layer, kind, batch, config.fold
    if key not in _KNOWN:
        _KNOWN[key] = timing(compile_network(one_layer(json.loads(layer), kind), config, batch),
                             latency).cycles
    return _KNOWN[key]


if __name__ == "__main__":
    sys.exit(main())
