"""The whole core: RTL against interpreter and cycle model, and how fast it is simulated.

Prints the words and cycles that differ over random programs (with a memory of fixed latency, and
words alone with random stalls), and over the Fashion-MNIST networks; cycles that Verilator
simulates in a second of processor time; cycles that the cycle model predicts in one. Exits 1 if
anything differs.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
from record import record
from ulpcore.demonstration import compare_network
from ulpcore.rtl import Job, MemoryModel, build, run_jobs
from ulpsim.compiler import compile_network
from ulpsim.config import NAMED, CoreConfig
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.evaluation import quantise
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause
from ulpsim.network import load_network
from ulpsim.programs import random_program

EXAMPLES = Path(__file__).parents[1] / "examples" / "fashion_mnist"
NETWORKS = ("fashion-fp16", "fashion-int8", "fashion-int4", "fashion-int2",
            "fashion-fp8", "fashion-odd2", "fashion-ternary", "fashion-binary")


def random_programs(config: CoreConfig, count: int, seed: int, model: MemoryModel) -> dict:
    """Words and cycles that differ over `count` random programs."""
    parts, jobs, programs, base = [], [], [], 0
    for i in range(count):
        case = random_program(1_000_000 * seed + i, config, base)
        parts.append(case.memory)
        jobs.append(Job(case.base, len(case.program), case.segments,
                        forward_bias=case.forward_bias))
        programs.append(case.program)
        base += len(case.memory)
    memory = np.concatenate(parts)
    results, final = run_jobs(config, memory, jobs, model=model)
    expected = memory.copy()
    machine = Machine(config, expected)
    faults = 0
    for job, program, result in zip(jobs, programs, results, strict=True):
        machine.segments, machine.forward_bias = dict(job.segments), job.forward_bias
        faults += machine.run(program).cause is not Cause.NONE or result.cause is not Cause.NONE
    figures = {"programs": count, "latency": model.latency,
               "written_words": int(np.count_nonzero(expected.view("<u4") != memory.view("<u4"))),
               "differing_words": int(np.count_nonzero(final.view("<u4") != expected.view("<u4"))),
               "faults": faults}
    if model.stall_seed is None:
        predicted = [predict(program, config, program_address=job.program, segments=job.segments,
                             latency=model.latency).cycles
                     for job, program in zip(jobs, programs, strict=True)]
        figures["cycles"] = sum(result.cycles for result in results)
        figures["differing_cycles"] = sum(
            abs(result.cycles - cycles) for result, cycles in zip(results, predicted, strict=True))
    return figures


def networks(config: CoreConfig, images: int) -> dict:
    """Words and cycles that differ over the networks, and the speed of the simulation."""
    with np.load(EXAMPLES / "images.npz") as arrays:
        pixels = arrays["images"][:images, :, :, None] / 255.0
    figures: dict = {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cycles = 0
    for name in NETWORKS:
        network = load_network(EXAMPLES / "parameters" / f"{name}.json")
        run = compare_network(network, config, quantise(pixels, network.input),
                              model=MemoryModel())
        cycles += sum(run.cycles)
        figures[name] = {
            "images": images, "cycles_an_image": round(sum(run.cycles) / len(run.cycles)
                                                       / run.compiled.batch, 1),
            "differing_words": run.comparison.differing_words,
            "differing_cycles": run.comparison.differing_cycles}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures["simulated_cycles_a_second"] = round(cycles / seconds)
    return figures


def model_speed(config: CoreConfig) -> int:
    """Cycles that the cycle model predicts in a second of processor time."""
    network = load_network(EXAMPLES / "parameters" / "fashion-int8.json")
    compiled = compile_network(network, config)
    placement = place(compiled)
    begin = time.process_time()
    prediction = predict(compiled.program, config, program_address=placement.program,
                         segments=placement.segments, latency=16)
    return round(prediction.cycles / (time.process_time() - begin))


def differing(figures: object) -> int:
    """The sum of all that must be zero."""
    if not isinstance(figures, dict):
        return 0
    return sum(value if key in ("differing_words", "differing_cycles", "faults")
               else differing(value) for key, value in figures.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=200, help="random programs (default: 200)")
    parser.add_argument("--images", type=int, default=16, help="images a network (default: 16)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--configs", nargs="+", choices=NAMED, default=list(NAMED), metavar="NAME",
                        help=f"cores, of {', '.join(NAMED)} (default: all)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    figures: dict = {"seed": options.seed}
    for name in options.configs:
        config = NAMED[name]
        build(config)
        figures[config.name] = {
            "random_programs": random_programs(config, options.programs, options.seed,
                                               MemoryModel(latency=16)),
            "random_programs_with_stalls": random_programs(
                config, options.programs // 4, options.seed + 1,
                MemoryModel(latency=16, stall_seed=options.seed)),
        }
    if "edge" in figures:
        edge = NAMED["edge"]
        figures["edge"]["networks"] = networks(edge, options.images)
        figures["edge"]["predicted_cycles_a_second"] = model_speed(edge)
    record("core", figures, keep=not options.no_keep)
    return 1 if differing(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
