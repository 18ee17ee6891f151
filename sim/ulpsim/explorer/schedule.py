"""Collectives as messages that wait for each other.

A schedule is a list of phases, a phase a number of rounds of the same messages. Each accelerator
has a few *slots*, numbers `stream * n + accelerator`. A message reads a slot of its source and
writes one of its target: it may leave when all messages of earlier rounds that write the slot it
reads have arrived. These are all the dependencies there are, so a schedule is a graph without
circles: messages of a round never wait for each other.

A ring has a stream, a tree that goes up and down two of them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Message", "Parts", "Phase", "Schedule", "messages"]

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """Rounds of the same messages.

    Attributes
    ----------
    source, target
        Accelerators, a message each.
    reads, writes
        Slots of the source and of the target.
    size
        Bytes of each message: the same in all rounds, or what to call with the round's number.
    rounds
        How many.
    """

    source: Integers
    target: Integers
    reads: Integers
    writes: Integers
    size: Reals | Callable[[int], Reals]
    rounds: int = 1

    def bytes_of(self, number: int) -> Reals:
        return self.size(number) if callable(self.size) else self.size


#: Phases of each part.
Parts = Sequence[Iterable[Phase]]


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A collective.

    Attributes
    ----------
    name
        Of the algorithm.
    accelerators, streams
        How many; there are accelerators * streams slots.
    parts
        Makes the phases, in order, of each part: parts have slots of their own, so they meet on
        links only.
    count
        Of all messages.
    """

    name: str
    accelerators: int
    streams: int
    parts: Callable[[], Parts]
    count: int

    def phases(self) -> Iterator[Phase]:
        """All parts at once, round by round; cut where a phase of any part ends."""
        parts = self.parts()
        return iter(parts[0]) if len(parts) == 1 else _together(parts)


@dataclasses.dataclass(frozen=True)
class Message:
    """One message, and the numbers of those that must have arrived before it may leave."""

    round: int
    source: int
    target: int
    size: float
    after: tuple[int, ...]


def messages(schedule: Schedule) -> list[Message]:
    """The messages one by one, in the order of rounds: what the schedule says, spelt out."""
    found: list[Message] = []
    written: dict[int, list[int]] = {}
    number = 0
    for phase in schedule.phases():
        for turn in range(phase.rounds):
            sizes = phase.bytes_of(turn)
            begin = len(found)
            for source, target, reads, size in zip(phase.source, phase.target, phase.reads, sizes,
                                                   strict=True):
                found.append(Message(number, int(source), int(target), float(size),
                                     tuple(written.get(int(reads), ()))))
            for index, slot in enumerate(phase.writes):
                written.setdefault(int(slot), []).append(begin + index)
            number += 1
    return found


def _together(parts: Parts) -> Iterator[Phase]:
    waiting = [list(part) for part in parts]
    while any(waiting):
        heads = [part[0] for part in waiting if part]
        rounds = min(phase.rounds for phase in heads)
        constant = all(not callable(phase.size) for phase in heads)
        sizes = np.concatenate([phase.bytes_of(0) for phase in heads]) if constant else \
            _called(heads)
        source, target, reads, writes = (
            np.concatenate([getattr(phase, name) for phase in heads])
            for name in ("source", "target", "reads", "writes"))
        yield Phase(source, target, reads, writes, sizes, rounds)
        for part in waiting:
            if part and part[0].rounds == rounds:
                part.pop(0)
            elif part:
                phase = part[0]
                size = phase.size if not callable(phase.size) else _later(phase.size, rounds)
                part[0] = dataclasses.replace(phase, rounds=phase.rounds - rounds, size=size)


def _called(heads: Sequence[Phase]) -> Callable[[int], Reals]:
    return lambda number: np.concatenate([phase.bytes_of(number) for phase in heads])


def _later(size: Callable[[int], Reals], rounds: int) -> Callable[[int], Reals]:
    return lambda number: size(number + rounds)
