"""`ulpcore run`: trained networks on the RTL, every word and cycle compared with the models."""

import dataclasses
import gzip
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from ulpsim.compiler import Compiled, compile_network
from ulpsim.config import CoreConfig
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.evaluation import quantise, real_values
from ulpsim.float_network import evaluate_float
from ulpsim.fusion import fuse
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Segment, encode_program
from ulpsim.network import Network, load_network

from .rtl import Job, JobResult, MemoryModel, build, run_jobs

__all__ = ["Comparison", "NetworkRun", "compare_network", "run_networks"]

_EXAMPLES = Path(__file__).parents[2] / "examples" / "fashion_mnist"
_DEFAULT_NETWORKS = ("fashion-fp16", "fashion-int8", "fashion-int4", "fashion-int2")
_DEFAULT_IMAGES = 32
_PAGE = 4096


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison of RTL and models found; all zero if they agree."""

    differing_words: int
    differing_cycles: int
    faults: tuple[str, ...]

    @property
    def agree(self) -> bool:
        return not (self.differing_words or self.differing_cycles or self.faults)


@dataclasses.dataclass(frozen=True)
class NetworkRun:
    """One network over some images, on RTL and golden model."""

    network: Network
    compiled: Compiled
    images: int
    outputs_rtl: np.ndarray
    outputs_golden: np.ndarray
    cycles: tuple[int, ...]
    predicted: tuple[int, ...]
    comparison: Comparison


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _lay_out(compiled: Compiled, batches: Sequence[bytes]) -> tuple[np.ndarray, list[Job]]:
    """External memory with program, parameters, inputs and room for outputs; a job a batch."""
    placement, sizes = place(compiled), compiled.segment_bytes
    first_input = _aligned(placement.end)
    input_pitch, output_pitch = _aligned(sizes[Segment.INPUT]), _aligned(sizes[Segment.OUTPUT])
    first_output = first_input + len(batches) * input_pitch
    memory = np.zeros(first_output + len(batches) * output_pitch, np.uint8)

    def put(address: int, data: bytes) -> None:
        memory[address:address + len(data)] = np.frombuffer(data, np.uint8)

    put(placement.program, encode_program(compiled.program))
    put(placement.segments[Segment.PARAMETERS][0], compiled.parameters)
    # A pattern where outputs are to stand: a word that is not written is found.
    memory[first_output:] = 0xA5
    jobs = []
    for i, batch in enumerate(batches):
        put(first_input + i * input_pitch, batch)
        jobs.append(Job(placement.program, len(compiled.program), placement.segments | {
            Segment.INPUT: (first_input + i * input_pitch, sizes[Segment.INPUT]),
            Segment.OUTPUT: (first_output + i * output_pitch, sizes[Segment.OUTPUT])}))
    return memory, jobs


def _golden(config: CoreConfig, compiled: Compiled, memory: np.ndarray,
            jobs: Sequence[Job]) -> list[Cause]:
    machine = Machine(config, memory)
    causes = []
    for job in jobs:
        machine.segments = dict(job.segments)
        causes.append(machine.run(compiled.program).cause)
    return causes


def compare_network(network: Network, config: CoreConfig, codes: np.ndarray, *,
                    model: MemoryModel, batch: int | None = None, progress=lambda more: None,
                    ) -> NetworkRun:
    """Run images (codes of the network's input) on RTL and golden model and compare.

    Every word of external memory is compared, and of every run the cycles (unless the memory
    stalls at random). `progress` is called with the number of images done since the last call.
    """
    compiled = compile_network(network, config, batch)
    count = len(codes)
    padded = np.concatenate([codes, np.zeros((-count % compiled.batch, *codes.shape[1:]),
                                             codes.dtype)])
    batches = [compiled.pack_input(padded[i:i + compiled.batch])
               for i in range(0, len(padded), compiled.batch)]
    memory, jobs = _lay_out(compiled, batches)
    golden = memory.copy()
    causes = _golden(config, compiled, golden, jobs)
    results, final = run_jobs(config, memory, jobs, model=model,
                              progress=lambda more: progress(more * compiled.batch))
    predicted = [predict(compiled.program, config, program_address=job.program,
                         segments=job.segments, latency=model.latency).cycles for job in jobs]
    comparison = _compare(results, causes, predicted, final, golden, model)

    def outputs(memory: np.ndarray) -> np.ndarray:
        parts = []
        for job in jobs:
            first, size = job.segments[Segment.OUTPUT]
            parts.append(compiled.unpack_output(memory[first:first + size].tobytes()))
        return np.concatenate(parts)[:count]

    return NetworkRun(network, compiled, count, outputs(final), outputs(golden),
                      tuple(r.cycles for r in results), tuple(predicted), comparison)


def _compare(results: Sequence[JobResult], causes: Sequence[Cause], predicted: Sequence[int],
             final: np.ndarray, golden: np.ndarray, model: MemoryModel) -> Comparison:
    faults = tuple(
        f"run {i}: RTL {result.cause.name} at instruction {result.instruction}, golden {cause.name}"
        for i, (result, cause) in enumerate(zip(results, causes, strict=True))
        if result.cause is not Cause.NONE or cause is not Cause.NONE)
    words = int(np.count_nonzero(final.view("<u4") != golden.view("<u4")))
    cycles = 0
    if model.stall_seed is None:
        cycles = sum(abs(result.cycles - cycle)
                     for result, cycle in zip(results, predicted, strict=True))
    return Comparison(words, cycles, faults)


def _load_images(source: Path | None, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8, [image, height, width, 1]) and labels."""
    path = source or _EXAMPLES / "images.npz"
    if path.is_dir():
        with gzip.open(path / "t10k-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(path / "t10k-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
    else:
        with np.load(path) as arrays:
            for name in ("images", "labels"):
                if name not in arrays:
                    raise ValueError(f"{path} must hold the array {name!r}; "
                                     f"it holds {', '.join(arrays)}")
            images, labels = arrays["images"], arrays["labels"]
    count = _DEFAULT_IMAGES if count is None else count
    if not 1 <= count <= len(images):
        raise ValueError(f"images must be from 1 to the {len(images)} in {path}, not {count}")
    images = images[:count].reshape(count, *images.shape[1:3], -1)
    return images, labels[:count].astype(int)


def _codes(network: Network, images: np.ndarray) -> np.ndarray:
    """Codes of the network's input for pixels 0 to 255, which stand for 0 to 1."""
    return quantise(images / 255.0, network.input)


def _accuracy(network: Network, codes: np.ndarray, labels: np.ndarray) -> float:
    values = real_values(codes.reshape(len(codes), -1), network.stored[network.output_name])
    return _percent(values.argmax(axis=1), labels)


def _percent(found: np.ndarray, labels: np.ndarray) -> float:
    return round(100 * float(np.mean(found == labels)), 2)


def _float_accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float | None:
    """Accuracy in float32 of the network from which the others were made, on the same images."""
    if not path.exists():
        return None
    values = evaluate_float(path, images / 255.0)
    return _percent(values.reshape(len(values), -1).argmax(axis=1), labels)


def run_networks(config: CoreConfig, paths: Sequence[Path], count: int | None,
                 data: Path | None, latency: int, *, as_json: bool) -> int:
    """The main job: run, compare, print the table; 0 if not a word or cycle differs, else 1."""
    folder = _EXAMPLES / "parameters"
    paths = list(paths) or [folder / f"{name}.json" for name in _DEFAULT_NETWORKS]
    images, labels = _load_images(data, count)
    networks = [load_network(path) for path in paths]
    model = MemoryModel(latency=latency)
    console = Console(stderr=True)
    with console.status(f"generating and building {config.name}: a minute or two the first time"):
        build(config)
    lock = threading.Lock()
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console) as progress:
        tasks = {n.name: progress.add_task(f"{n.name}: waiting", total=len(images))
                 for n in networks}

        def work(network: Network) -> NetworkRun:
            task = tasks[network.name]
            progress.update(task, description=f"{network.name}: golden model")

            def advance(more: int) -> None:
                with lock:
                    progress.update(task, advance=more, description=f"{network.name}: on the RTL")

            run = compare_network(network, config, _codes(network, images), model=model,
                                  progress=advance)
            verdict = "agrees" if run.comparison.agree else "DIFFERS"
            progress.update(task, completed=len(images), description=f"{network.name}: {verdict}")
            return run

        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(work, networks))
    reference = _float_accuracy(folder / "fashion-float32.json", images, labels)
    rows = [_row(run, config, labels, reference) for run in runs]
    if as_json:
        print(json.dumps({"config": config.name, "latency": latency, "networks": rows}))
    else:
        _print(rows, config, latency)
    failed = [run for run in runs if not run.comparison.agree]
    for run in failed:
        console.print(f"[red]{run.network.name}: {run.comparison.differing_words} differing words, "
                      f"{run.comparison.differing_cycles} differing cycles "
                      f"{'; '.join(run.comparison.faults)}")
    return 1 if failed else 0


def _row(run: NetworkRun, config: CoreConfig, labels: np.ndarray,
         reference: float | None) -> dict[str, Any]:
    """The table's line for one network; the figures are those of all its runs together."""
    compiled = run.compiled
    runs = len(run.cycles)
    # Of the peak, as if every multiply-add ran at the rate of its own layer's precision.
    multiply_adds = sum(compiled.multiply_adds.values())
    slots = config.rows * config.column_lanes
    ideal = sum(chain.multiply_adds / (slots * chain.weight_format.precision.per_slot)
                for chain in fuse(run.network, config).chains)
    cycles = sum(run.cycles) / (runs * compiled.batch)
    predicted = sum(run.predicted) / (runs * compiled.batch)
    return {
        "network": run.network.name,
        "formats": "/".join(dict.fromkeys(
            layer.weight_format.name for layer in run.network.layers if layer.weight_format)),
        "images": run.images,
        "batch": compiled.batch,
        "accuracy_rtl": _accuracy(run.network, run.outputs_rtl, labels),
        "accuracy_golden": _accuracy(run.network, run.outputs_golden, labels),
        "accuracy_float32": reference,
        "cycles_predicted": round(predicted, 1),
        "cycles_measured": round(cycles, 1),
        "utilisation": round(100 * ideal / cycles, 1),
        "multiply_adds_per_cycle": round(multiply_adds / cycles, 1),
        "differing_words": run.comparison.differing_words,
        "differing_cycles": run.comparison.differing_cycles,
    }


def _print(rows: Sequence[dict[str, Any]], config: CoreConfig, latency: int) -> None:
    table = Table(title=f"{config.name} in RTL simulation, memory latency {latency} cycles")
    headings = ("network", "formats", "images", "accuracy %\nRTL", "\ngolden", "\nfloat32",
                "cycles an image\npredicted", "\nmeasured", "utilisation\n%",
                "multiply-adds\na cycle", "differing\nwords", "\ncycles")
    keys = ("network", "formats", "images", "accuracy_rtl", "accuracy_golden", "accuracy_float32",
            "cycles_predicted", "cycles_measured", "utilisation", "multiply_adds_per_cycle",
            "differing_words", "differing_cycles")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for row in rows:
        table.add_row(*("-" if row[key] is None else str(row[key]) for key in keys))
    Console(width=None if Console().is_terminal else 160).print(table)
