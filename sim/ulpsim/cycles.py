"""The cycle model: predicts, to the cycle, how long a program runs on the core.

Units meet only in tokens, so the model is a walk over instructions, not over cycles: when an
instruction is put into its queue, stands at its head, has its tokens, is taken by its unit and
retires. How long a unit takes is a closed form of its own module (`cycles_memory`,
`cycles_execute`, `cycles_special`); the rules of the sequencer (`ulpcore.sequencer`) are here.

Cycle 0 is the one in which the fetch of the program is offered. The phase of the scratchpad's
shared port in cycle t is t mod 4.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from .config import CoreConfig
from .isa import Instruction, Segment, Unit

__all__ = ["DeadlockError", "Prediction", "Span", "predict"]

_UNITS = len(Unit)
#: Each queue's head is read from the instruction memory once in so many cycles.
_TURNS = 2 * _UNITS
#: Cycles from that read until the instruction is offered.
_HEAD_LATENCY = 2


class DeadlockError(ValueError):
    """The program waits for tokens that never come."""


@dataclasses.dataclass(frozen=True)
class Span:
    """When one instruction ran: all are cycles of the run.

    `offered` is when it could have been taken had its unit been free; `waited_for` the unit whose
    token came last, if that was later than the instruction itself.
    """

    index: int
    offered: int
    taken: int
    retired: int
    waited_for: Unit | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Cycles of a whole run, as the core's CYCLES register counts them, and what ran when."""

    cycles: int
    fetched: int
    spans: tuple[Span, ...]


def predict(program: Sequence[Instruction], config: CoreConfig, *, program_address: int,
            segments: Mapping[Segment, tuple[int, int]], latency: int) -> Prediction:
    """How long the program runs beside a memory of fixed `latency` (see `ulpcore/memory.v`).

    Parameters
    ----------
    program_address
        Byte address of the program.
    segments
        Base and size of each segment: bursts end at multiples of 4 KB.
    latency
        Cycles from a read address to the first data of an idle memory.

    Raises DeadlockError for a program whose tokens never come, and ValueError for one without
    HALT. Programs that fault for another reason are not predicted.
    """
    return _Run(program, config, program_address, segments, latency).finish()


class _Run:
    def __init__(self, program: Sequence[Instruction], config: CoreConfig, program_address: int,
                 segments: Mapping[Segment, tuple[int, int]], latency: int) -> None:
        names = [instruction.name for instruction in program]
        if "HALT" not in names:
            raise ValueError("a program must hold HALT")
        from .cycles_execute import Execute
        from .cycles_memory import Load, Store, fetch_cycles
        from .cycles_special import Special

        self.program = program[:names.index("HALT")]
        self.depth = config.queue_depth
        self.timing = {
            Unit.LOAD: Load(config, segments, latency),
            Unit.EXECUTE: Execute(config),
            Unit.SPECIAL: Special(config),
            Unit.STORE: Store(config, segments, latency),
        }
        # The fetch brings the whole program, also what stands behind its HALT.
        self.fetched = fetch_cycles(config, program_address, len(program), latency)
        self.queues: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        self.put: list[int] = []
        self.heads: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        self.spans: dict[Unit, list[Span]] = {unit: [] for unit in Unit}
        self.posts: dict[tuple[Unit, Unit], list[int]] = {
            (giver, taker): [] for giver in Unit for taker in Unit}
        self.taken_tokens = dict.fromkeys(self.posts, 0)

    def finish(self) -> Prediction:
        # Any list, not a generator: every unit is to advance as far as it can in each round.
        while any([self._dispatch(), *[self._advance(unit) for unit in Unit]]):
            pass
        if len(self.put) < len(self.program) or any(
                len(self.spans[unit]) < len(self.queues[unit]) for unit in Unit):
            stuck = min(self.queues[unit][len(self.spans[unit])] for unit in Unit
                        if len(self.spans[unit]) < len(self.queues[unit]))
            raise DeadlockError(f"instruction {stuck} waits for tokens that never come")
        spans = sorted((span for spans in self.spans.values() for span in spans),
                       key=lambda span: span.index)
        halted = self._next_put() + 1
        done = max([halted, *(span.retired for span in spans)])
        return Prediction(done + 1, self.fetched, tuple(spans))

    def _next_put(self) -> int:
        """The first cycle in which the next instruction can be put into a queue."""
        if self.put:
            return self.put[-1] + 2
        first_read = self.fetched + 1
        return first_read + first_read % 2 + 2

    def _dispatch(self) -> bool:
        moved = False
        while len(self.put) < len(self.program):
            index = len(self.put)
            unit = self.program[index].unit
            assert unit is not None
            queue = self.queues[unit]
            cycle = self._next_put()
            if len(queue) >= self.depth:
                leaving = len(queue) - self.depth
                if leaving >= len(self.heads[unit]):
                    break
                room = self.heads[unit][leaving] + 1
                cycle = max(cycle, room + room % 2)
            self.put.append(cycle)
            queue.append(index)
            moved = True
        return moved

    def _advance(self, unit: Unit) -> bool:
        moved = False
        while len(self.spans[unit]) < len(self.queues[unit]):
            place = len(self.spans[unit])
            index = self.queues[unit][place]
            instruction = self.program[index]
            if len(self.heads[unit]) == place:
                ready = self.put[index] + 1
                if place:
                    ready = max(ready, self.spans[unit][-1].taken + 1)
                self.heads[unit].append(
                    ready + (2 * unit.value + 1 - ready) % _TURNS)
                moved = True
            offered, waited_for = self.heads[unit][place] + _HEAD_LATENCY, None
            needs = {}
            for giver in Unit:
                wait = instruction[f"wait_{giver.name.lower()}"]
                if wait:
                    needs[giver] = self.taken_tokens[giver, unit] + wait
            if any(len(self.posts[giver, unit]) < need for giver, need in needs.items()):
                break
            for giver, need in needs.items():
                token = self.posts[giver, unit][need - 1] + 1
                if token > offered:
                    offered, waited_for = token, giver
                self.taken_tokens[giver, unit] = need
            taken, retired = self.timing[unit].take(instruction, offered)
            self.spans[unit].append(Span(index, offered, taken, retired, waited_for))
            for taker in Unit:
                if instruction[f"post_{taker.name.lower()}"]:
                    self.posts[unit, taker].append(retired)
            moved = True
        return moved
