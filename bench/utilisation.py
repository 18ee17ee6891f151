"""Sustained utilisation in RTL: a matrix product and convolutions in every format.

A product of 512 x 512 by 512 x 512 and 3 x 3 convolutions from 64 to 64 channels on 28 x 28, one
program each, all operands in external memory at the start and all results there at the end; one
of the convolutions is dilated, one has 4 groups and one 64. Utilisation is ideal cycles (products
by definition / products in a cycle) over all cycles that the core reports, from start to
interrupt. `bound_percent` is what the array can reach at most, by `bound_cycles`. Every word and
every cycle is compared with the models. With --model the cycles are the cycle model's, in seconds.
Exits 1 if one differs.
"""

import argparse
import math
import sys

import numpy as np
from record import record
from rich.progress import track
from ulpcore.demonstration import compare_network
from ulpcore.rtl import MemoryModel
from ulpsim.compiler import Compiled, compile_network
from ulpsim.config import CoreConfig, load_config
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.formats import Format
from ulpsim.fusion import fuse
from ulpsim.network import Network
from ulpsim.programs import random_codes

#: Names of layers, with the shapes of their input, their weights, padding, dilation and groups.
_CONVOLUTION = "convolution 3 x 3, 64 to 64, 28 x 28"
LAYERS = {
    "product 512 x 512 x 512": ((512, 1, 512), (512, 1, 1, 512), 0, 1, 1),
    _CONVOLUTION: ((28, 28, 64), (64, 3, 3, 64), 1, 1, 1),
    f"{_CONVOLUTION}, dilation 2": ((28, 28, 64), (64, 3, 3, 64), 2, 2, 1),
    f"{_CONVOLUTION}, 4 groups": ((28, 28, 64), (64, 3, 3, 16), 1, 1, 4),
    f"{_CONVOLUTION}, depthwise": ((28, 28, 64), (64, 3, 3, 1), 1, 1, 64),
}


def network(name: str, kind: Format, rng: np.random.Generator) -> Network:
    """One layer with random weights; its result is stored in the format of its input."""
    shape, weights_shape, padding, dilation, groups = LAYERS[name]
    if kind.precision.is_float:
        weights = rng.normal(size=weights_shape) / np.sqrt(np.prod(weights_shape[1:]))
        # Few results are beyond the range of FP8.
        step = 8.0 if kind.precision.is_fp8 else 1.0
    else:
        weights = rng.integers(kind.lowest, kind.highest + 1, weights_shape)
        # The result fills the format's range.
        size = (kind.highest - kind.lowest) / np.sqrt(12)
        step = size * np.sqrt(np.prod(weights_shape[1:]))
    return Network.from_description({
        "name": name,
        "input": {"name": "input", "height": shape[0], "width": shape[1], "channels": shape[2],
                  "format": kind.name, "step": 1.0},
        "layers": [{"name": "layer", "op": "convolution", "input": "input", "padding": padding,
                    "dilation": dilation, "groups": groups,
                    "weights": weights, "weight_format": kind.name,
                    "output": {"format": kind.name, "step": float(step)}}]})


def bound_cycles(layer: Network, config: CoreConfig) -> int:
    """No run can take fewer: tiles of weights times vectors, with the slots of a tile of columns'
    own groups in whole eights; or four cycles of the special functions for each vector; or the
    words of the bus that come, or go."""
    fused = fuse(layer, config)
    chain = fused.chains[0]
    source, result = fused.tensors[chain.source], fused.tensors[chain.name]
    lines, pixels = chain.lines(source, config), math.prod(chain.shape[:2])
    array = sum(-(-count // config.rows) for count in lines) * pixels
    special = config.phases * len(lines) * pixels
    loads = sum(lines) * config.column_lanes + math.prod(source.shape[:2]) * source.pixel_slots
    stores = pixels * result.pixel_slots
    return max(array, special, max(loads, stores) // config.bus_slots)


def model(name: str, kind: Format, config: CoreConfig, seed: int, latency: int) -> dict:
    """The same as `measure`, by the cycle model."""
    layer = network(name, kind, np.random.default_rng(seed))
    compiled = compile_network(layer, config, 1)
    placement = place(compiled)
    cycles = predict(compiled.program, config, program_address=placement.program,
                     segments=placement.segments, latency=latency).cycles
    return figures_of(layer, compiled, kind, config, cycles)


def figures_of(layer: Network, compiled: Compiled, kind: Format, config: CoreConfig,
               cycles: int) -> dict:
    ideal = sum(compiled.multiply_adds.values()) / (
        config.rows * config.column_lanes * kind.precision.per_slot)
    bound = bound_cycles(layer, config)
    return {
        "cycles": cycles,
        "ideal_cycles": round(ideal),
        "utilisation_percent": round(100 * ideal / cycles, 2),
        "bound_percent": round(100 * ideal / bound, 2),
        "of_bound_percent": round(100 * bound / cycles, 2),
        "instructions": len(compiled.program),
    }


def measure(name: str, kind: Format, config: CoreConfig, seed: int, latency: int) -> dict:
    """Cycles and utilisation of one layer in one format."""
    rng = np.random.default_rng(seed)
    layer = network(name, kind, rng)
    codes = random_codes(rng, kind, (1, *layer.input_shape))
    run = compare_network(layer, config, codes, model=MemoryModel(latency=latency), batch=1)
    return figures_of(layer, run.compiled, kind, config, run.cycles[0]) | {
        "differing_words": run.comparison.differing_words,
        "differing_cycles": run.comparison.differing_cycles,
        "faults": len(run.comparison.faults),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", help="a named core or a TOML file")
    parser.add_argument("--formats", nargs="*", metavar="FORMAT",
                        help="(default: those of FP16, E4M3, INT8, INT4, INT2 that the core has)")
    parser.add_argument("--latency", type=int, default=16, help="of the memory, in cycles")
    parser.add_argument("--model", action="store_true", help="by the cycle model alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    # The two kinds of FP8 take the same time.
    kinds = [Format(p) for p in config.formats if p.name in (
        options.formats or ("FP16", "E4M3", "INT8", "INT4", "INT2"))]
    figures: dict = {"latency": options.latency, "seed": options.seed}
    for name, kind in track([(n, k) for n in LAYERS for k in kinds], "utilisation"):
        figures.setdefault(name, {})[kind.name] = (model if options.model else measure)(
            name, kind, config, options.seed, options.latency)
    suffix = "-model" if options.model else ""
    record(f"utilisation-{config.name}{suffix}", figures, keep=not options.no_keep)
    different = sum(row.get(key, 0) for name in LAYERS for row in figures[name].values()
                    for key in ("differing_words", "differing_cycles", "faults"))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
