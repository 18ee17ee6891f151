"""Streams of instructions that touch nothing in common, merged into one program.

Each unit runs its instructions in the order of the program. A stream alone would leave the array
idle while the special unit works on what the array has just made, and the other way round; so two
streams take turns, and their order decides how well. `merge` finds it by running both on a
simple clock: next always comes the instruction that can start first; of several, one that drains
accumulators, which the array may be waiting for, and then the one that has been ready longest.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Sequence

from ..config import CoreConfig
from ..cycles_execute import VECTOR_LATENCY, finish_latency
from ..cycles_special import special_cycles
from ..isa import Instruction, Source, Unit
from ..tokens import dependencies

__all__ = ["Step", "merge"]

#: About how long a row of a LOAD or STORE takes beyond its beats, and an instruction beyond that.
_ROW, _MEMORY = 4, 24


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction, the layer that it belongs to, and the loads that must be done before it."""

    label: str
    instruction: Instruction
    needs: tuple[int, ...] = ()


def _duration(instruction: Instruction, config: CoreConfig) -> tuple[int, int]:
    """About how many cycles its unit is busy, and how many later its results can be seen."""
    if instruction.name == "MATMUL":
        vectors = math.prod(instruction[f"count_{i}"] for i in range(3))
        tiles = -(-instruction["depth"] // config.rows)
        return (tiles * max(vectors, config.minimum_tile_period),
                config.rows + VECTOR_LATENCY + finish_latency(config))
    if instruction.name == "SPECIAL":
        return special_cycles(config, instruction, 0), 0
    beats = -(-instruction["length"] // config.bus_slots)
    return instruction["rows"] * (beats + _ROW) + _MEMORY, 0


def _drains(instruction: Instruction) -> bool:
    return instruction.name == "SPECIAL" and instruction.choice("source") is Source.ACCUMULATORS


def _needed(stream: Sequence[Step], config: CoreConfig) -> list[list[int]]:
    """For each step the ones of other units that it must wait for."""
    found = dependencies([step.instruction for step in stream], config)
    return [[int(place) for unit, place in zip(Unit, places, strict=True)
             if place >= 0 and unit is not step.instruction.unit]
            for step, places in zip(stream, found, strict=True)]


def merge(streams: Sequence[Sequence[Step]], config: CoreConfig) -> list[Step]:
    """All steps; those that depend on each other, or are of one unit, in their stream's order.

    The streams must not write what another one reads or writes, row scalars included.
    """
    needed = [_needed(stream, config) for stream in streams]
    waiting: list[dict[Unit, deque[int]]] = []
    for stream in streams:
        queues: dict[Unit, deque[int]] = {unit: deque() for unit in Unit}
        for place, step in enumerate(stream):
            assert step.instruction.unit is not None
            queues[step.instruction.unit].append(place)
        waiting.append(queues)
    done: list[dict[int, int]] = [{} for _ in streams]
    free = dict.fromkeys(Unit, 0)
    result: list[Step] = []
    while True:
        best: tuple[tuple[int, bool, int, int, int], Unit] | None = None
        for number, queues in enumerate(waiting):
            for unit, queue in queues.items():
                if not queue or any(i not in done[number] for i in needed[number][queue[0]]):
                    continue
                ready = max((done[number][i] for i in needed[number][queue[0]]), default=0)
                drains = _drains(streams[number][queue[0]].instruction)
                offer = max(free[unit], ready), not drains, ready, number, queue[0]
                if best is None or offer < best[0]:
                    best = offer, unit
        if best is None:
            return result
        (start, _, _, number, place), unit = best
        waiting[number][unit].popleft()
        step = streams[number][place]
        busy, later = _duration(step.instruction, config)
        free[unit] = start + busy
        done[number][place] = start + busy + later
        result.append(step)
