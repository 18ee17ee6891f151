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
from ulpsim.evaluation import quantise, real_values
from ulpsim.float_network import evaluate_float
from ulpsim.formats import Precision
from ulpsim.fusion import fuse
from ulpsim.network import Network, load_network
from ulpsim.sequences.network import SequenceNetwork, is_sequence_network, load_sequence_network

from .comparison import Comparison, compare_compiled
from .rtl import MemoryModel, build
from .sequence_demonstration import (
    DEFAULT_MODELS,
    SequenceRun,
    compare_sequences,
    load_windows,
    sequence_row,
    sequence_table,
)

__all__ = ["NetworkRun", "compare_network", "load_images", "network_codes", "network_path",
           "network_row", "network_table", "run_networks"]

_EXAMPLES = Path(__file__).parents[2] / "examples" / "fashion_mnist"
_DEFAULT_NETWORKS = ("fashion-fp16", "fashion-fp8", "fashion-int8", "fashion-int4", "fashion-int2",
                     "fashion-odd2", "fashion-ternary", "fashion-binary")
_DEFAULT_IMAGES = 32


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
    run = compare_compiled(compiled, batches, model,
                           progress=lambda runs: progress(runs * compiled.batch))
    return NetworkRun(network, compiled, count, run.outputs_rtl[:count],
                      run.outputs_golden[:count], run.cycles, run.predicted, run.comparison)


def network_path(name: Path) -> Path:
    """The file of a network that is named on the command line: itself, or one of the examples.

    Of the Fashion-MNIST examples the name is enough (`fashion-int2`, or `fashion-2bit`).
    """
    if name.suffix or name.parent != Path():
        return name
    stem = {"fashion-2bit": "fashion-int2"}.get(name.name, name.name)
    path = _EXAMPLES / "parameters" / f"{stem}.json"
    return path if path.exists() else name


def load_images(source: Path | None, count: int | None) -> tuple[np.ndarray, np.ndarray]:
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


def _precisions(network: Network) -> set[Precision]:
    """Those of all tensors and weights."""
    kinds = [stored.format for stored in network.stored.values()]
    kinds += [layer.weight_format for layer in network.layers if layer.weight_format is not None]
    return {kind.precision for kind in kinds}


def network_codes(network: Network, images: np.ndarray) -> np.ndarray:
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
                 data: Path | None, latency: int, *, as_json: bool, sequences: int | None = None,
                 text: Path | None = None) -> int:
    """The main job: run, compare, print the tables; 0 if not a word or cycle differs, else 1.

    `count` and `data` are the images for networks of images, `sequences` and `text` the windows
    of text for character models.
    """
    folder = _EXAMPLES / "parameters"
    named = list(paths) or [*(folder / f"{name}.json" for name in _DEFAULT_NETWORKS),
                            *DEFAULT_MODELS]
    of_images = [load_network(path) for path in named if not is_sequence_network(path)]
    of_text = [load_sequence_network(path) for path in named if is_sequence_network(path)]
    if not paths:
        # Those that the core has the formats for; if there are none, the compiler says what lacks.
        of_images = [n for n in of_images if _precisions(n) <= set(config.formats)] or of_images
    images, labels = load_images(data, count) if of_images else (np.zeros(0), np.zeros(0))
    windows = {id(network): load_windows(network, text, sequences) for network in of_text}
    model = MemoryModel(latency=latency)
    console = Console(stderr=True)
    with console.status(f"generating and building {config.name}: a minute or two the first time"):
        build(config)
    lock = threading.Lock()
    # The longest first.
    networks: list[Network | SequenceNetwork] = [*of_text, *of_images]
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console) as progress:
        tasks = {id(n): progress.add_task(f"{n.name}: waiting",
                                          total=len(windows.get(id(n), images))) for n in networks}

        def work(network: Network | SequenceNetwork) -> NetworkRun | SequenceRun:
            task = tasks[id(network)]
            progress.update(task, description=f"{network.name}: golden model")

            def advance(more: int) -> None:
                with lock:
                    progress.update(task, advance=more, description=f"{network.name}: on the RTL")

            if isinstance(network, SequenceNetwork):
                run = compare_sequences(network, config, windows[id(network)], model=model,
                                        progress=advance)
                comparison = run.run.comparison
            else:
                run = compare_network(network, config, network_codes(network, images), model=model,
                                      progress=advance)
                comparison = run.comparison
            verdict = "agrees" if comparison.agree else "DIFFERS"
            progress.update(task, completed=len(windows.get(id(network), images)),
                            description=f"{network.name}: {verdict}")
            return run

        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(work, networks))
    reference = _float_accuracy(folder / "fashion-float32.json", images, labels) \
        if of_images else None
    rows = [network_row(run, config, labels, reference)
            for run in runs if isinstance(run, NetworkRun)]
    text_rows = [sequence_row(run) for run in runs if isinstance(run, SequenceRun)]
    if as_json:
        print(json.dumps({"config": config.name, "latency": latency, "networks": rows,
                          "sequences": text_rows}))
    else:
        title = f"{config.name} in RTL simulation, memory latency {latency} cycles"
        tables = [network_table(rows, title)] if rows else []
        tables += [sequence_table(text_rows, config, latency)] if text_rows else []
        for table in tables:
            Console(width=None if Console().is_terminal else 160).print(table)
    failed = {run.network.name: comparison for run in runs
              for comparison in [run.comparison if isinstance(run, NetworkRun)
                                 else run.run.comparison] if not comparison.agree}
    for name, comparison in failed.items():
        console.print(f"[red]{name}: {comparison.differing_words} differing words, "
                      f"{comparison.differing_cycles} differing cycles "
                      f"{'; '.join(comparison.faults)}")
    return 1 if failed else 0


def network_row(run: NetworkRun, config: CoreConfig, labels: np.ndarray,
         reference: float | None) -> dict[str, Any]:
    """The table's line for one network; the figures are those of all its runs together."""
    compiled = run.compiled
    runs = len(run.cycles)
    # Of the peak, as if every multiply-add ran at the rate of what its layer reads.
    multiply_adds = sum(compiled.multiply_adds.values())
    slots = config.rows * config.column_lanes
    stored = run.network.stored
    ideal = sum(chain.multiply_adds / (slots * stored[chain.source].format.precision.per_slot)
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


def network_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The lines of `network_row` for people."""
    table = Table(title=title)
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
    return table
