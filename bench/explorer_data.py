"""The system explorer's data, in `sim/ulpsim/explorer/data`: written by this, then committed.

- `--networks`: layers of the light models in the package onnx (extra `onnx`).
- `--cycles`: what the three products of training take on a core, by the cycle model (tens of
  minutes; what is there already is not computed again).
- `--rates`: bytes that learners send, from the AdaComp study's runs (`bench/results`).
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.progress import track
from ulpsim import explorer
from ulpsim.config import CoreConfig, load_config
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.training import compile_training

DATA = Path(explorer.__file__).parent / "data"
RESULTS = Path(__file__).parent / "results"
#: Names here, and those of the light models.
MODELS = {"alexnet": "bvlc_alexnet", "vgg19": "vgg19", "resnet50": "resnet50",
          "inception-v1": "inception_v1", "densenet121": "densenet121"}
#: Of the study's runs that are read.
BIN_SIZE = {"convolution": 50, "other": 500}
CORE, LATENCY = "rapid", 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("networks", "cycles", "rates"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    if options.networks:
        write_networks()
    if options.cycles:
        write_cycles()
    if options.rates:
        write_rates()
    if not (options.networks or options.cycles or options.rates):
        parser.error("nothing to do")
    return 0


# --- layers

def write_networks() -> None:
    import onnx  # pyright: ignore[reportMissingImports]
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    parts = []
    for name, file in MODELS.items():
        rows = layers_of(folder / f"light_{file}.onnx")
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(
            f"   {json.dumps(layer)}: {json.dumps(row)}" for layer, row in rows.items()) + "\n  }")
    source = json.dumps(f"light models of the Python package onnx {onnx.__version__}")
    columns = json.dumps(["kind", "parameters", "rows", "inputs", "outputs", "taps", "groups"])
    (DATA / "networks.json").write_text(
        f'{{\n "source": {source},\n "columns": {columns},\n "networks": {{\n'
        + ",\n".join(parts) + "\n }\n}\n")


def layers_of(path: Path) -> dict[str, list[Any]]:
    """Convolutions and fully connected layers, and the parameters of what follows them."""
    import onnx  # pyright: ignore[reportMissingImports]
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
             for value in (*graph.value_info, *graph.input, *graph.output)}
    rows: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weights, result = sizes[node.input[1]], sizes[node.output[0]]
            name = node.input[1].removeprefix("gpu_0/").removesuffix("_w_0")
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            outputs, channels, *kernel = weights
            taps = kernel[0] * kernel[1] if kernel else 1
            pixels = result[2] * result[3] if len(result) == 4 else 1
            bias = outputs if len(node.input) > 2 else 0
            convolution = taps > 1 or pixels > 1
            rows[name] = ["convolution" if convolution else "other",
                          outputs * channels * taps + bias, pixels, channels * taps,
                          outputs // groups, taps, groups]
        elif node.op_type == "BatchNormalization" and rows:
            # DenseNet normalises in front of a convolution: the parameters count with the last.
            rows[next(reversed(rows))][1] += 2 * sizes[node.input[0]][1]
    return rows


# --- cycles

def write_cycles() -> None:
    from ulpsim.explorer.compute import BATCHES, products_of
    from ulpsim.explorer.networks import NETWORKS
    path = DATA / "cycles.json"
    config = load_config(CORE)
    table: dict[str, Any] = json.loads(path.read_text())["cycles"] if path.exists() else {}
    wanted = {}
    for network in NETWORKS.values():
        for layer in network.layers:
            wanted |= {part.key: None for batch in BATCHES
                       for part in products_of(layer, batch)}
    for key in track(wanted, "cycles"):
        if key not in table:
            product, *shape = key.split()
            table[key] = cycles(product, tuple(map(int, shape)), config)
            if len(table) % 20 == 0:
                keep_cycles(path, table, config)
    keep_cycles(path, {key: table[key] for key in wanted}, config)


def keep_cycles(path: Path, table: dict[str, int], config: CoreConfig) -> None:
    rows = ",\n".join(f"  {json.dumps(key)}: {value}" for key, value in table.items())
    path.write_text(f'{{\n "core": "{config.name}", "format": "FP16", "memory latency": {LATENCY},'
                    f'\n "cycles": {{\n{rows}\n }}\n}}\n')


def cycles(product: str, shape: tuple[int, ...], config: CoreConfig) -> int:
    """Of a program for one product (rows, inputs, outputs), from start to interrupt."""
    compiled = compile_training(*shape, config, [product])
    placement = place(compiled)
    return predict(compiled.program, config, program_address=placement.program,
                   segments=placement.segments, latency=LATENCY).cycles


# --- rates

def write_rates() -> None:
    """Mean over the seeds of bytes an element (over the whole run), and of what a learner sends and
    any learner sends (at its end), by method, kind of layer and learners."""
    runs = [run for name in ("cnn", "lstm")
            for run in json.loads((RESULTS / f"study-adacomp-{name}.json").read_text()).values()]
    groups: dict[str, dict[str, dict[str, list[tuple[float, ...]]]]] = {}
    for run in runs:
        task, _, rest = run["setting"].partition(", ")
        method, _, tail = rest.partition(", n ")
        learners = tail.partition(",")[0]
        if not method.startswith("topk") and not method.endswith("bins 50 500"):
            continue
        for kind in ("convolution", "other"):
            if kind in run:
                label = f"{task}, {method}"
                size = 4 / run[kind]["rate"]
                # Top-k has no bins: it sends values of 4 bytes and indices of 2.
                density = size / 6 if method.startswith("topk") else \
                    run[kind]["words a bin"][-1] / BIN_SIZE[kind]
                groups.setdefault(label, {}).setdefault(kind, {}).setdefault(learners, []).append(
                    (size, density, run[kind]["union"][-1]))
    table = {
        label: {kind: {learners: {
            "bytes an element": _mean(found, 0), "density": _mean(found, 1),
            "union": _mean(found, 2), "seeds": len(found)}
            for learners, found in sorted(of_kind.items(), key=lambda item: int(item[0]))}
            for kind, of_kind in kinds.items()} for label, kinds in groups.items()}
    (DATA / "rates.json").write_text(json.dumps({
        "source": "bench/results/study-adacomp-cnn.json and -lstm.json", "methods": table},
        indent=1) + "\n")


def _mean(found: list[tuple[float, ...]], index: int) -> float:
    return round(statistics.mean(row[index] for row in found), 6)


if __name__ == "__main__":
    sys.exit(main())
