"""ResNet50's convolutions on a large core, by the cycle model: cycles, utilisation and bounds.

The whole network is one program for a batch: every tensor begins and ends in external memory,
layers follow on each other, and a layer's weights come while the one before it is computed. A
layer's cycles are those from the last vector of the layer before it to its own last one (for the
first layer from the start), as `ulpsim.breakdown` splits the run; the convolutions' are all but
those of the pool, which is no convolution and stands beside them. `alone` is each layer as a
program of its own, from start to interrupt. Utilisation is ideal cycles (products by definition /
products in a cycle) over cycles.

Three lower bounds of a layer's cycles, each with what it is made of:

- `array`: tiles of weights times vectors, no fewer than the tile period; and the bus, which must
  bring the weights once and move each activation once.
- `special`: the special functions take `special_lanes` elements a cycle.
- a layer's bound is the larger one. `array_bound_percent` leaves the special functions out.

Weights and activations hold nothing: cycles do not depend on them. In the integer networks the
first convolution is FP16. With --rtl, instead, some layers with fewer rows of the image and random
numbers run on the RTL, and every word and cycle is compared. Exits 1 if one differs.

The layers stand in resnet50_layers.json, written with --write-layers from light_resnet50.onnx of
the package onnx (extra `onnx`).
"""

import argparse
import gc
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import record
from rich.progress import track
from ulpsim.breakdown import breakdown
from ulpsim.compiler import Compiled, compile_network
from ulpsim.config import CoreConfig, load_config
from ulpsim.cycles import Prediction, predict
from ulpsim.driver import place
from ulpsim.formats import FORMATS, Format, Precision
from ulpsim.network import Network
from ulpsim.programs import random_codes

LAYERS = Path(__file__).with_name("resnet50_layers.json")
FIRST, LAST_POOL = "conv1", "pool"
#: Bounds of the design study for 512 lanes and 64 bytes a cycle, in percent, by format and batch.
STUDY = {"FP16": {1: 99.1, 8: 99.8}, "INT4": {1: 96.8, 8: 99.4}, "INT2": {1: 94.4, 8: 99.0}}
#: Layers that run on the RTL: name, format, rows of the image.
SAMPLES = [("conv1", "FP16", 13), ("res2_0_branch2b", "INT4", 8), ("res2_0_branch2c", "INT4", 4),
           ("res2_0_branch2c", "INT2", 8), ("res3_0_branch2c", "INT2", 4),
           ("res4_0_branch2b", "INT8", 10), ("res5_0_branch1", "INT2", 14)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="rapid", help="a named core or a TOML file")
    parser.add_argument("--formats", nargs="*", default=["FP16", "INT8", "INT4", "INT2"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--latency", type=int, default=16, help="of the memory, in cycles")
    parser.add_argument("--rtl", action="store_true", help="only compare samples with the RTL")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    parser.add_argument("--write-layers", metavar="ONNX", help="write the table of layers and stop")
    options = parser.parse_args()
    if options.write_layers:
        write_layers(Path(options.write_layers))
        return 0
    config, layers = load_config(options.config), json.loads(LAYERS.read_text())["layers"]
    if options.rtl:
        return compare_samples(layers, config, options.latency, keep=not options.no_keep)
    figures: dict[str, Any] = {"latency": options.latency}
    runs = [(name, batch) for name in options.formats for batch in options.batches]
    for name, batch in track(runs, "resnet50"):
        figures.setdefault(name, {})[f"batch {batch}"] = measure(
            layers, name, batch, config, options.latency)
    record(f"resnet50-{config.name}", figures, keep=not options.no_keep)
    return 0


def compare_samples(layers: dict[str, dict], config: CoreConfig, latency: int, *,
                    keep: bool) -> int:
    """Sampled layers on the RTL; 0 if not a word or cycle differs, else 1."""
    figures: dict[str, Any] = {"latency": latency}
    different = 0
    for name, kind, rows in track(SAMPLES, "RTL"):
        row = compare(layers[name] | {"height": rows}, kind, config, latency)
        figures[f"{name} {kind}, {rows} rows"] = row
        different += row["differing_words"] + row["differing_cycles"] + row["faults"]
    record(f"resnet50-{config.name}-rtl", figures, keep=keep)
    return 1 if different else 0


def measure(layers: dict[str, dict], name: str, batch: int, config: CoreConfig,
            latency: int) -> dict[str, Any]:
    """Figures of the network in one format for one batch."""
    kinds = {layer: "FP16" if layer == FIRST else name for layer in layers}
    compiled = compile_network(whole_network(layers, name), config, batch)
    run = timing(compiled, latency)
    spent = {label: sum(causes.values()) for label, causes in breakdown(
        run, compiled.program, compiled.labels, config).items()}
    instructions = len(compiled.program)
    del compiled
    gc.collect()
    rows: dict[str, dict[str, Any]] = {}
    alone: dict[str, int] = {}
    totals = dict.fromkeys(("cycles", "alone", "ideal", "array", "bound"), 0.0)
    for layer, shape in layers.items():
        ideal, array, special = bounds(shape, FORMATS[kinds[layer]], batch, config)
        key = json.dumps([kinds[layer], shape])
        if key not in alone:
            alone[key] = timing(compile_network(
                one_layer(shape, kinds[layer]), config, batch), latency).cycles
        bound = max(array, special)
        for total, value in zip(totals, (spent[layer], alone[key], ideal, array, bound),
                                strict=True):
            totals[total] += value
        rows[layer] = {"cycles": spent[layer], "utilisation_percent": percent(ideal, spent[layer]),
                       "alone_percent": percent(ideal, alone[key]),
                       "bound_percent": percent(ideal, bound)}
    cycles, alone_cycles, ideal, array, bound = totals.values()
    study = STUDY.get(name, {}).get(batch)
    return {
        "convolutions": {
            "cycles": cycles, "ideal_cycles": round(ideal),
            "utilisation_percent": percent(ideal, cycles),
            "alone_percent": percent(ideal, alone_cycles),
            "bound_percent": percent(ideal, bound),
            "array_bound_percent": percent(ideal, array),
            **({"study_bound_percent": study,
                "of_study_bound_percent": round(percent(ideal, cycles) / study * 100, 2)}
               if study else {})},
        "program": {"cycles": run.cycles, "instructions": instructions},
        "layers": rows,
    }


def percent(ideal: float, cycles: float) -> float:
    return round(100 * ideal / cycles, 2)


def bounds(shape: dict[str, int], kind: Format, batch: int,
           config: CoreConfig) -> tuple[float, int, int]:
    """Ideal cycles, and the bounds by array and bus, and by the special functions."""
    per_slot = kind.precision.per_slot
    height, width = output_size(shape)
    pixels = batch * height * width
    products = pixels * shape["outputs"] * shape["kernel"] ** 2 * shape["channels"]
    slots = shape["kernel"] ** 2 * -(-shape["channels"] // per_slot)
    tiles = -(-slots // config.rows)
    columns = -(-shape["outputs"] // config.column_lanes)
    vectors = max(pixels, config.minimum_tile_period)
    moved = (columns * slots * config.column_lanes
             + batch * shape["height"] * shape["width"] * -(-shape["channels"] // per_slot))
    array = max(columns * tiles * vectors, moved // config.bus_slots)
    return (products / (config.rows * config.column_lanes * per_slot), array,
            columns * pixels * config.column_lanes // config.special_lanes)


def output_size(shape: dict[str, int]) -> tuple[int, int]:
    height, width = ((shape[axis] + 2 * shape["padding"] - shape["kernel"]) // shape["stride"] + 1
                     for axis in ("height", "width"))
    return height, width


def timing(compiled: Compiled, latency: int) -> Prediction:
    placement = place(compiled)
    return predict(compiled.program, compiled.config, program_address=placement.program,
                   segments=placement.segments, latency=latency)


# --- networks

def convolution(name: str, shape: dict[str, int], kind: str, source: str,
                rng: np.random.Generator | None = None) -> dict[str, Any]:
    """A layer of the description; its weights are zeros unless they are drawn."""
    form = FORMATS[kind]
    size = shape["outputs"], shape["kernel"], shape["kernel"], shape["channels"]
    if rng is None:
        weights: Any = np.zeros(size, float if form.precision.is_float else np.int16)
    elif form.precision.is_float:
        weights = rng.normal(size=size)
    else:
        weights = rng.integers(form.lowest, form.highest + 1, size)
    return {"name": name, "op": "convolution", "input": source, "weights": weights,
            "weight_format": kind, "stride": shape["stride"], "padding": shape["padding"]}


def one_layer(shape: dict[str, int], kind: str,
              rng: np.random.Generator | None = None) -> Network:
    depth = shape["kernel"] ** 2 * shape["channels"]
    form = FORMATS[kind]
    step = 1.0 if form.precision.is_float else 4.0 * form.highest * math.sqrt(depth)
    return Network.from_description({
        "name": "layer",
        "input": {"name": "input", "height": shape["height"], "width": shape["width"],
                  "channels": shape["channels"], "format": kind},
        "layers": [convolution("layer", shape, kind, "input", rng)
                   | {"output": {"format": kind, "step": step}}]})


def whole_network(layers: dict[str, dict], kind: str) -> Network:
    """ResNet50 but for its last layer, which is no convolution."""
    output = {"format": kind}
    image = layers[FIRST]
    entries: list[dict[str, Any]] = []

    def rectified(name: str, source: str) -> str:
        form = "FP16" if name == FIRST else kind
        entries.append(convolution(name, layers[name], form, source))
        entries.append({"name": f"{name}_relu", "op": "relu", "input": name, "output": output})
        return f"{name}_relu"

    before = rectified(FIRST, "image")
    # 3 x 3 with stride 2 and padding 1: behind ReLU zeros are what padding a maximum needs.
    channels = image["outputs"]
    identity = np.eye(channels, dtype=float if FORMATS[kind].precision.is_float else np.int16)
    entries += [
        {"name": LAST_POOL, "op": "convolution", "input": before, "padding": 1,
         "weights": identity.reshape(channels, 1, 1, channels), "weight_format": kind},
        {"name": "maximum", "op": "max_pool", "input": LAST_POOL, "size": 3, "stride": 2,
         "output": output}]
    before = "maximum"
    blocks = [name.removesuffix("_branch2a") for name in layers if name.endswith("_branch2a")]
    for block in blocks:
        inner = rectified(f"{block}_branch2b", rectified(f"{block}_branch2a", before))
        if f"{block}_branch1" in layers:
            name = f"{block}_branch1"
            entries.append(convolution(name, layers[name], kind, before) | {"output": output})
            before = name
        name = f"{block}_branch2c"
        entries += [convolution(name, layers[name], kind, inner),
                    {"name": f"{block}_sum", "op": "add", "inputs": [name, before]},
                    {"name": block, "op": "relu", "input": f"{block}_sum", "output": output}]
        before = block
    last = output_size(layers[f"{before}_branch2c"])[0]
    del entries[-1]["output"]
    entries.append({"name": "average", "op": "average_pool", "input": before, "size": last,
                    "output": output})
    return Network.from_description({
        "name": "resnet50", "layers": entries,
        "input": {"name": "image", "height": image["height"], "width": image["width"],
                  "channels": image["channels"], "format": "FP16"}})


def compare(shape: dict[str, int], kind: str, config: CoreConfig, latency: int) -> dict[str, int]:
    """One layer with random numbers on the RTL and on the models."""
    from ulpcore.demonstration import compare_network
    from ulpcore.rtl import MemoryModel
    rng = np.random.default_rng(1)
    network = one_layer(shape, kind, rng)
    codes = random_codes(rng, Format(Precision[kind]), (1, *network.input_shape))
    run = compare_network(network, config, codes, model=MemoryModel(latency=latency), batch=1)
    return {"cycles": run.cycles[0], "differing_words": run.comparison.differing_words,
            "differing_cycles": run.comparison.differing_cycles,
            "faults": len(run.comparison.faults)}


# --- the table of layers

def write_layers(path: Path) -> None:
    """The convolutions of an ONNX file of ResNet50, in order, by the names of their weights."""
    import onnx  # pyright: ignore[reportMissingImports]
    graph = onnx.load(path).graph
    # Filters are made from constant shapes: the file is light.
    filters = {i.name.removesuffix("__SHAPE"): onnx.numpy_helper.to_array(i).tolist()
               for i in graph.initializer}
    data = next(i for i in graph.input if i.name not in filters)
    sizes = {data.name: tuple(d.dim_value for d in data.type.tensor_type.shape.dim)[2:]}
    layers = {}
    for node in graph.node:
        if node.input[0] not in sizes:
            continue
        size = sizes[node.input[0]]
        attributes = {a.name: list(a.ints) for a in node.attribute}
        if "kernel_shape" in attributes:
            shape = {"height": size[0], "width": size[1], "kernel": attributes["kernel_shape"][0],
                     "stride": attributes["strides"][0], "padding": attributes.get("pads", [0])[0]}
            size = output_size(shape)
            if node.op_type == "Conv":
                outputs, channels = filters[node.input[1]][:2]
                name = node.input[1].removeprefix("gpu_0/").removesuffix("_w_0")
                layers[name] = {"outputs": outputs, "channels": channels, **shape}
        sizes[node.output[0]] = size
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}"
                      for name, shape in layers.items())
    source = json.dumps(f"{path.name} of the Python package onnx {onnx.__version__}")
    LAYERS.write_text(f'{{\n "source": {source},\n "layers": {{\n{rows}\n }}\n}}\n')


if __name__ == "__main__":
    sys.exit(main())
