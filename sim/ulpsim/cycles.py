"""The cycle model: predicts, to the cycle, how long a program runs on the core.

Units meet only in tokens, so the model is a walk over instructions, not over cycles: when an
instruction is put into its queue, stands at its head, has its tokens, is taken by its unit and
retires. How long a unit takes is a closed form of its own module (`cycles_memory`,
`cycles_execute`, `cycles_special`); the rules of the sequencer (`ulpcore.sequencer`) are here.

Cycle 0 is the one in which the fetch of the first block is offered. The phase of the scratchpad's
shared port in cycle t is t mod 4.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

from .config import CoreConfig
from .isa import INSTRUCTION_BYTES, Instruction, Segment, Unit

__all__ = ["DeadlockError", "Prediction", "Span", "predict"]

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
    """Cycles of a whole run, as the core's CYCLES register counts them, and what ran when.

    `arrived` says from which cycle on each instruction was in the instruction memory.
    """

    cycles: int
    arrived: tuple[int, ...]
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
    HALT, and for a core with an exchange unit: there the memory port is shared, with its engines or
    a whole cluster, so time is not a matter of the program alone. Programs that fault for another
    reason are not predicted.
    """
    if config.exchange:
        raise ValueError(f"cycles of {config.name!r} are not predicted: it has an exchange unit")
    return _Run(program, config, program_address, segments, latency).finish()


class _Run:
    """Everything but the load unit goes as far as it can; then that does one thing more.

    The load unit serves two: its queue and the fetch of the program. What it does next depends
    only on which of them asks first, and what has not been found out by then comes of what it
    does.
    """

    def __init__(self, program: Sequence[Instruction], config: CoreConfig, program_address: int,
                 segments: Mapping[Segment, tuple[int, int]], latency: int) -> None:
        names = [instruction.name for instruction in program]
        if "HALT" not in names:
            raise ValueError("a program must hold HALT")
        from .cycles_execute import Execute
        from .cycles_memory import Load, Store
        from .cycles_special import Special

        self.config = config
        self.units = config.units
        #: Each queue's head is read from the instruction memory once in so many cycles.
        self.turns = 2 * len(self.units)
        self.program = program[:names.index("HALT")]
        #: Instructions that may be fetched: also those behind HALT.
        self.length = len(program)
        self.address = program_address
        self.load = Load(config, segments, latency)
        self.timing = {
            Unit.LOAD: self.load,
            Unit.EXECUTE: Execute(config),
            Unit.SPECIAL: Special(config),
            Unit.STORE: Store(config, segments, latency),
        }
        #: From which cycle on each instruction is in the instruction memory.
        self.arrived: list[int] = []
        self.queues: dict[Unit, list[int]] = {unit: [] for unit in self.units}
        self.put: list[int] = []
        self.heads: dict[Unit, list[int]] = {unit: [] for unit in self.units}
        self.spans: dict[Unit, list[Span]] = {unit: [] for unit in self.units}
        self.posts: dict[tuple[Unit, Unit], list[int]] = {
            (giver, taker): [] for giver in self.units for taker in self.units}
        self.taken_tokens = dict.fromkeys(self.posts, 0)

    def finish(self) -> Prediction:
        others = [unit for unit in self.units if unit is not Unit.LOAD]
        while True:
            # Any list, not a generator: every unit is to advance as far as it can in each round.
            while any([self._dispatch(), self._read_head(Unit.LOAD),
                       *[self._advance(unit) for unit in others]]):
                pass
            if not self._serve():
                break
        if len(self.put) < len(self.program) or any(
                len(self.spans[unit]) < len(self.queues[unit]) for unit in self.units):
            stuck = min(self.queues[unit][len(self.spans[unit])] for unit in self.units
                        if len(self.spans[unit]) < len(self.queues[unit]))
            raise DeadlockError(f"instruction {stuck} waits for tokens that never come")
        spans = sorted((span for spans in self.spans.values() for span in spans),
                       key=lambda span: span.index)
        halted = self._next_put() + 1
        # The execute unit counts its instructions, so it is idle a cycle after the last retired.
        idle = [self.spans[unit][-1].retired + (unit is Unit.EXECUTE)
                for unit in self.units if self.spans[unit]]
        done = max([halted, self.load.free, *idle])
        return Prediction(done + 1, tuple(self.arrived), tuple(spans))

    def _serve(self) -> bool:
        """The load unit takes what asks first, an instruction or the fetch of a block."""
        offers = [offer for offer in (self._fetch_asked(), self._offered(Unit.LOAD)) if offer]
        if not offers:
            return False
        cycle = max(self.load.free, min(offer[0] for offer in offers))
        offers = [offer for offer in offers if offer[0] <= cycle]
        offer = offers[0 if self._execute_waits(cycle) else -1]
        if len(offer) == 1:
            first = len(self.arrived)
            count = min(self.config.fetch_block, self.length - first)
            self.arrived += self.load.fetch(self.address + first * INSTRUCTION_BYTES, count, cycle)
        else:
            self._take(Unit.LOAD, *offer)
        return True

    def _execute_waits(self, cycle: int) -> bool:
        """Whether no instruction waits in the execute unit's queue, but for the one at its head."""
        queue = self.queues[Unit.EXECUTE]
        put = bisect.bisect_left(queue, cycle, key=self.put.__getitem__)
        return put <= bisect.bisect_left(self.heads[Unit.EXECUTE], cycle)

    def _fetch_asked(self) -> tuple[int] | None:
        """When the next block is asked for, if that is known."""
        first = len(self.arrived)
        if first >= self.length:
            return None
        # The first instruction that may still wait in a queue.
        gone = first + self.config.fetch_block - self.config.instruction_memory
        asked = 1
        if gone > 0:
            if gone > len(self.put):
                return None
            for unit, queue in self.queues.items():
                count = bisect.bisect_left(queue, gone)
                if count > len(self.heads[unit]):
                    return None
                if count:
                    asked = max(asked, self.heads[unit][count - 1] + 2)
        halted = self._next_put() if len(self.put) == len(self.program) < first else None
        if halted is not None and max(asked, self.load.free) > halted + 1:
            return None
        return (asked,)

    def _next_put(self) -> int:
        """The first cycle in which the next instruction, which is there, can be put."""
        index = len(self.put)
        read = self.arrived[index] + self.arrived[index] % 2
        if index:
            read = max(read, self.put[-1])
        return read + 2

    def _dispatch(self) -> bool:
        moved = False
        while len(self.put) < min(len(self.program), len(self.arrived)):
            index = len(self.put)
            unit = self.program[index].unit
            assert unit is not None
            queue = self.queues[unit]
            cycle = self._next_put()
            if len(queue) >= self.config.queue_depth:
                leaving = len(queue) - self.config.queue_depth
                if leaving >= len(self.heads[unit]):
                    break
                room = self.heads[unit][leaving] + 1
                cycle = max(cycle, room + room % 2)
            self.put.append(cycle)
            queue.append(index)
            moved = True
        return moved

    def _read_head(self, unit: Unit) -> bool:
        """Let the next instruction of a queue come to its head, if it is there."""
        place = len(self.spans[unit])
        if len(self.heads[unit]) > place or len(self.queues[unit]) <= place:
            return False
        ready = self.put[self.queues[unit][place]] + 1
        if place:
            ready = max(ready, self.spans[unit][-1].taken + 1)
        self.heads[unit].append(ready + (2 * unit.value + 1 - ready) % self.turns)
        return True

    def _offered(self, unit: Unit) -> tuple[int, Unit | None] | None:
        """When the head is offered, and whose token came last, if all are known."""
        place = len(self.spans[unit])
        if len(self.heads[unit]) == place:
            return None
        instruction = self.program[self.queues[unit][place]]
        offered, waited_for = self.heads[unit][place] + _HEAD_LATENCY, None
        for giver in self.units:
            wait = instruction[f"wait_{giver.name.lower()}"]
            if wait:
                need = self.taken_tokens[giver, unit] + wait
                if len(self.posts[giver, unit]) < need:
                    return None
                token = self.posts[giver, unit][need - 1] + 1
                if token > offered:
                    offered, waited_for = token, giver
        return offered, waited_for

    def _take(self, unit: Unit, offered: int, waited_for: Unit | None) -> None:
        index = self.queues[unit][len(self.spans[unit])]
        instruction = self.program[index]
        for giver in self.units:
            self.taken_tokens[giver, unit] += instruction[f"wait_{giver.name.lower()}"]
        taken, retired = self.timing[unit].take(instruction, offered)
        self.spans[unit].append(Span(index, offered, taken, retired, waited_for))
        for taker in self.units:
            if instruction[f"post_{taker.name.lower()}"]:
                self.posts[unit, taker].append(retired)

    def _advance(self, unit: Unit) -> bool:
        moved = False
        while len(self.spans[unit]) < len(self.queues[unit]):
            moved |= self._read_head(unit)
            offer = self._offered(unit)
            if offer is None:
                break
            self._take(unit, *offer)
            moved = True
        return moved
