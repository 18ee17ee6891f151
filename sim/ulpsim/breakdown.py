"""Where the cycles of a run go: by layer and cause, as the array sees them."""

import math
from collections.abc import Sequence

from .config import CoreConfig
from .cycles import Prediction, Span
from .cycles_execute import VECTOR_LATENCY, finish_latency, tile_period, vector_slots
from .isa import Fold, Instruction

__all__ = ["CAUSES", "breakdown"]

#: What the array does in a cycle, or what it waits for.
CAUSES = {
    "multiply": "a vector enters the array",
    "short tile": "a tile has fewer vectors than the minimum tile period",
    "fetch": "the instruction has not been fetched yet",
    "load": "a token of the load unit is missing: inputs, weights or parameters",
    "execute": "a token of the execute unit is missing",
    "special": "a token of the special unit is missing: accumulators or the layer before",
    "store": "a token of the store unit is missing",
    "dispatch": "the instruction is on its way through sequencer and queue",
    "start": "the first tile of an instruction is being prepared",
    "finish": "the last sums, special functions and stores, up to HALT",
}


def breakdown(prediction: Prediction, program: Sequence[Instruction], labels: Sequence[str],
              config: CoreConfig) -> dict[str, dict[str, int]]:
    """Cycles by label and cause; all of them together are `prediction.cycles`.

    `labels` names the layer of each instruction. Cycles before a MATMUL's first vector count for
    its layer; those behind the last one for the last layer.
    """
    table: dict[str, dict[str, int]] = {}
    now = 0

    def spend(label: str, cause: str, until: int) -> None:
        nonlocal now
        if until > now:
            row = table.setdefault(label, {})
            row[cause] = row.get(cause, 0) + until - now
            now = until

    period_end = 0
    label = labels[0] if labels else ""
    for span in prediction.spans:
        instruction = program[span.index]
        if instruction.name != "MATMUL":
            continue
        label = labels[span.index]
        first, tiles, vectors, period = _tiles(span, instruction, config)
        spend(label, "short tile", min(period_end, first))
        if not span.waited_for:
            spend(label, "fetch", min(prediction.arrived[span.index], first))
        cause = span.waited_for.name.lower() if span.waited_for else "dispatch"
        spend(label, cause, min(span.offered, first))
        spend(label, "start", first)
        for tile in range(tiles):
            spend(label, "multiply", first + tile * period + vectors)
            if tile < tiles - 1:
                spend(label, "short tile", first + (tile + 1) * period)
        period_end = first + tiles * period
    spend(label, "finish", prediction.cycles)
    return table


def _tiles(span: Span, instruction: Instruction, config: CoreConfig) -> tuple[int, int, int, int]:
    """Begin of a MATMUL's first tile, its tiles, the vectors of a tile, and its period."""
    vectors = math.prod(instruction[f"count_{i}"] for i in range(3))
    fold = Fold(instruction["fold"])
    tiles = -(-instruction["depth"] // vector_slots(config, fold))
    period = tile_period(config, vectors, fold)
    last = span.retired - finish_latency(config) - VECTOR_LATENCY - vectors + 1
    return last - (tiles - 1) * period, tiles, vectors, period
