"""Character models of `ulpcore run`: windows of a text on the RTL, compared with the models."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from ulpsim import dlfloat
from ulpsim.config import CoreConfig
from ulpsim.sequences.compiler import CompiledSequences, compile_sequences
from ulpsim.sequences.evaluation import evaluate_real
from ulpsim.sequences.network import SequenceNetwork

from .comparison import CompiledRun, compare_compiled
from .rtl import MemoryModel

__all__ = ["DEFAULT_MODELS", "SequenceRun", "bits_per_character", "compare_sequences",
           "load_windows", "sequence_row", "sequence_table"]

_EXAMPLES = Path(__file__).parents[2] / "examples" / "kjv"
DEFAULT_MODELS = tuple(_EXAMPLES / "parameters" / f"kjv-{name}.json"
                       for name in ("lstm", "attention"))
_DEFAULT_SEQUENCES = 64


@dataclasses.dataclass(frozen=True)
class SequenceRun:
    """One network over some windows of text: symbols [sequences, steps + 1], the last the aim."""

    network: SequenceNetwork
    compiled: CompiledSequences
    windows: NDArray[np.uint8]
    run: CompiledRun


def load_windows(network: SequenceNetwork, text: Path | None, count: int | None
                 ) -> NDArray[np.uint8]:
    """The first windows of a text, each a network's steps and one character more; they overlap in
    that one.

    `text` None: the sample of held-out text in examples/kjv. Raises ValueError naming the network
    for one that does not read characters or does not tell the next, and for a text that is too
    short or has other characters.
    """
    symbols = network.input_channels
    if not network.alphabet or network.channels[network.output_name] != symbols:
        raise ValueError(f"network {network.name!r} must read characters and have an output for "
                         "each, to tell the next one of a text")
    path = _EXAMPLES / "sample.txt" if text is None else text
    try:
        numbers = network.encode(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"text {path}: {error}") from error
    steps, count = network.steps, _DEFAULT_SEQUENCES if count is None else count
    most = (len(numbers) - 1) // steps
    if not 1 <= count <= most:
        raise ValueError(f"sequences must be from 1 to the {most} in {path}, not {count}")
    return numbers[np.arange(count)[:, None] * steps + np.arange(steps + 1)]


def bits_per_character(logits: NDArray, windows: NDArray[np.uint8]) -> float:
    """Mean of -log2 of what a softmax of logits [sequences, steps, symbols] gives to the
    characters that come next in windows [sequences, steps + 1]."""
    values = logits.astype(np.float64)
    values = values - values.max(-1, keepdims=True)
    chosen = np.take_along_axis(values, windows[:, 1:, None].astype(int), -1)[..., 0]
    return float(np.mean(np.log2(np.exp(values).sum(-1)) - chosen / np.log(2)))


def compare_sequences(network: SequenceNetwork, config: CoreConfig, windows: NDArray[np.uint8], *,
                      model: MemoryModel, batch: int | None = None,
                      progress: Callable[[int], None] = lambda more: None) -> SequenceRun:
    """Run all but the last character of each window on RTL and golden model and compare.

    `progress` is called with the number of sequences done since the last call.
    """
    compiled = compile_sequences(network, config, batch)
    inputs = windows[:, :-1]
    batches = [compiled.pack_input(inputs[i:i + compiled.batch])
               for i in range(0, len(inputs), compiled.batch)]
    run = compare_compiled(compiled, batches, model,
                           progress=lambda runs: progress(runs * compiled.batch))
    return SequenceRun(network, compiled, windows, run)


def sequence_row(found: SequenceRun) -> dict[str, Any]:
    """The table's line for one network; the figures are those of all its runs together."""
    compiled, run, count = found.compiled, found.run, len(found.windows)
    steps = found.network.steps
    characters = len(run.cycles) * compiled.batch * steps
    cycles, predicted = sum(run.cycles) / characters, sum(run.predicted) / characters
    multiply_adds = sum(compiled.multiply_adds.values()) / steps
    slots = compiled.config.rows * compiled.config.column_lanes

    def bits(codes: NDArray[np.int64]) -> float:
        return round(bits_per_character(dlfloat.decode_array(codes[:count]), found.windows), 4)

    exact = evaluate_real(found.network, found.windows[:, :-1], np.float32)
    return {
        "network": found.network.name,
        "formats": "FP16",
        "sequences": count,
        "steps": steps,
        "batch": compiled.batch,
        "bits_rtl": bits(run.outputs_rtl),
        "bits_golden": bits(run.outputs_golden),
        "bits_float32": round(bits_per_character(exact, found.windows), 4),
        "cycles_predicted": round(predicted, 1),
        "cycles_measured": round(cycles, 1),
        "utilisation": round(100 * multiply_adds / slots / cycles, 1),
        "multiply_adds_per_cycle": round(multiply_adds / cycles, 1),
        "differing_words": run.comparison.differing_words,
        "differing_cycles": run.comparison.differing_cycles,
    }


def sequence_table(rows: Sequence[dict[str, Any]], config: CoreConfig, latency: int) -> Table:
    """The rows as a table."""
    table = Table(title=f"sequences: {config.name} in RTL simulation, memory latency {latency} "
                  "cycles")
    columns = {
        "network": "network", "formats": "formats", "sequences": "sequences",
        "characters\neach": "steps", "bits a character\nRTL": "bits_rtl",
        "\ngolden": "bits_golden", "\nfloat32": "bits_float32",
        "cycles a character\npredicted": "cycles_predicted", "\nmeasured": "cycles_measured",
        "utilisation\n%": "utilisation", "multiply-adds\na cycle": "multiply_adds_per_cycle",
        "differing\nwords": "differing_words", "\ncycles": "differing_cycles"}
    for heading, key in columns.items():
        table.add_column(heading, justify="left" if key in ("network", "formats") else "right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in columns.values()))
    return table
