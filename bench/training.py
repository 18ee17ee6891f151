"""Utilisation of the three products of training in FP16: forward, weight and data gradient.

Each product is a program of its own, from start to interrupt, with all operands in external memory
at the start and all results there at the end; the transposition of the weights belongs to the data
gradient, and `without_transposition_percent` is that product by itself. Layers of `MODELLED` run
on the cycle model; with --rtl those of `SAMPLES` run on the RTL, all three products in one program,
and every word and cycle is compared. Exits 1 if one differs.
"""

import argparse
import sys
from typing import Any

import numpy as np
from record import record
from rich.progress import track
from ulpsim import dlfloat
from ulpsim.breakdown import breakdown
from ulpsim.config import CoreConfig, load_config
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Segment, encode_program
from ulpsim.training import PRODUCTS, compile_training, training_products

#: Batch, inputs and outputs of layers, by core.
MODELLED = {"edge": [(512, 512, 512), (128, 512, 512)],
            "rapid": [(512, 512, 512), (2048, 1024, 1024), (12544, 256, 64)]}
SAMPLES = {"edge": [(64, 128, 96), (37, 50, 21)], "rapid": [(64, 128, 96)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", choices=list(MODELLED))
    parser.add_argument("--latency", type=int, default=16, help="of the memory, in cycles")
    parser.add_argument("--rtl", action="store_true", help="compare samples with the RTL, too")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    figures: dict[str, Any] = {"latency": options.latency}
    for shape in track(MODELLED[config.name], "training"):
        figures[" x ".join(map(str, shape))] = {
            product: measure(shape, product, config, options.latency) for product in PRODUCTS}
    different = 0
    if options.rtl:
        figures["rtl"] = {}
        for shape in track(SAMPLES[config.name], "RTL"):
            row = compare(shape, config, options.latency)
            figures["rtl"][" x ".join(map(str, shape))] = row
            different += row["differing_words"] + row["differing_cycles"] + row["faults"]
    record(f"training-{config.name}", figures, keep=not options.no_keep)
    return 1 if different else 0


def measure(shape: tuple[int, int, int], product: str, config: CoreConfig,
            latency: int) -> dict[str, Any]:
    """Figures of one product by the cycle model."""
    compiled = compile_training(*shape, config, [product])
    placement = place(compiled)
    run = predict(compiled.program, config, program_address=placement.program,
                  segments=placement.segments, latency=latency)
    ideal = compiled.multiply_adds[product] / (config.rows * config.column_lanes)
    figures = {"cycles": run.cycles, "ideal_cycles": round(ideal),
               "utilisation_percent": round(100 * ideal / run.cycles, 2)}
    if product == "data_gradient":
        spent = breakdown(run, compiled.program, compiled.labels, config)[product]
        figures["without_transposition_percent"] = round(100 * ideal / sum(spent.values()), 2)
    return figures


def compare(shape: tuple[int, int, int], config: CoreConfig, latency: int) -> dict[str, int]:
    """All products on RTL, interpreter and by their definitions."""
    from ulpcore.rtl import Job, MemoryModel, run_jobs
    batch, inputs, outputs = shape
    rng = np.random.default_rng(1)
    x, w, dy = (dlfloat.encode_array(rng.normal(size=size)).astype(np.int64)
                for size in ((batch, inputs), (inputs, outputs), (batch, outputs)))
    compiled = compile_training(*shape, config)
    placement = place(compiled)
    memory = np.full(-(-placement.end // 4096) * 4096, 0xA5, np.uint8)
    for address, data in ((placement.program, encode_program(compiled.program)),
                          (placement.segments[Segment.PARAMETERS][0], compiled.parameters),
                          (placement.segments[Segment.INPUT][0], compiled.pack(x, w, dy))):
        memory[address:address + len(data)] = np.frombuffer(data, np.uint8)
    golden = memory.copy()
    machine = Machine(config, golden)
    machine.segments = dict(placement.segments)
    cause = machine.run(compiled.program).cause
    results, final = run_jobs(config, memory, [Job(
        placement.program, len(compiled.program), placement.segments)],
        model=MemoryModel(latency=latency))
    predicted = predict(compiled.program, config, program_address=placement.program,
                        segments=placement.segments, latency=latency).cycles
    first, size = placement.segments[Segment.OUTPUT]
    found = compiled.unpack(final[first:first + size])
    expected = training_products(x, w, dy, config)
    words = int(np.count_nonzero(final.view("<u4") != golden.view("<u4")))
    words += sum(int(np.count_nonzero(found[name] != expected[name])) for name in expected)
    return {"cycles": results[0].cycles, "differing_words": words,
            "differing_cycles": abs(results[0].cycles - predicted),
            "faults": sum(c is not Cause.NONE for c in (cause, results[0].cause))}


if __name__ == "__main__":
    sys.exit(main())
