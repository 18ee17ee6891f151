"""A node's way to memory, cycle by cycle: queues, ports, arbiters, and the memory of `memory.v`.

What follows is `ulpcore.compression.reader` and `writer`, `ulpcore.interconnect.arbitration` and
`memory.v` without what they carry: a burst is its length, a beat is whether it is the last one of
its burst. A cycle has two halves. In `settle`, from the memory towards the engines, everyone learns
what the others do in it, which is a matter of registers alone; in `advance`, in the same order,
the registers change.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Memory", "OutputQueue", "ReadArbiter", "ReadClient", "ReadPort", "WriteArbiter",
           "WriteClient", "WritePort"]

#: Bursts that the memory takes each way before the first of them is finished.
_MEMORY_BURSTS = 16
#: Bursts of all masters of an arbiter.
_ARBITER_BURSTS = 16
#: Bursts of all clients of a port.
_READS, _WRITES = 64, 16

#: No beat, or one, and whether it is the last of its burst.
Beat = bool | None


class OutputQueue:
    """A queue whose front is a register: what comes into an empty one is there two cycles later."""

    def __init__(self, depth: int) -> None:
        self.room = depth - 1
        self.inner: collections.deque[bool] = collections.deque()
        self.front: Beat = None

    @property
    def ready(self) -> bool:
        return len(self.inner) != self.room

    @property
    def valid(self) -> bool:
        return self.front is not None

    def advance(self, comes: Beat, goes: bool) -> None:
        ready, moves = self.ready, bool(self.inner) and (self.front is None or goes)
        if moves:
            self.front = self.inner.popleft()
        elif goes:
            self.front = None
        if comes is not None and ready:
            self.inner.append(comes)


class ReadClient:
    """Shows a burst by its `length` until it is `granted`; a `beat` is for it."""

    length = 0
    granted = False
    beat: Beat = None


class WriteClient:
    """Shows a burst; `sends` takes one of its beats, `answered` is the answer to one burst."""

    length = 0
    granted = sends = answered = False


class ReadMaster(Protocol):
    """What stands before a memory, or before an arbiter: it shows a burst, and always takes
    beats."""

    length: int

    def settle(self, ready: bool, beat: Beat) -> None: ...


class WriteMaster(Protocol):
    """The same for writing; `beat` is shown until `beat_ready`."""

    length: int

    @property
    def beat(self) -> Beat: ...

    def settle(self, ready: bool, beat_ready: bool, answer: bool) -> None: ...


def _after(last: int, waiting: Sequence[bool]) -> int | None:
    """Who of those that wait comes next behind `last`."""
    count = len(waiting)
    return next((i % count for i in range(last + 1, last + 1 + count) if waiting[i % count]), None)


class ReadPort:
    """The reads of an engine's clients."""

    def __init__(self, clients: Sequence[ReadClient]) -> None:
        self.clients = clients
        self.length = self.before = 0
        self.order: collections.deque[int] = collections.deque()
        self.ready, self.chosen, self.ends = False, None, False

    def settle(self, ready: bool, beat: Beat) -> None:
        self.ready, self.chosen, self.ends = ready, None, bool(beat)
        if (not self.length or ready) and len(self.order) < _READS:
            self.chosen = _after(self.before, [client.length > 0 for client in self.clients])
        for i, client in enumerate(self.clients):
            client.granted = i == self.chosen
            client.beat = beat if self.order and self.order[0] == i else None

    def advance(self) -> None:
        if self.ready:
            self.length = 0
        if self.ends:
            self.order.popleft()
        if self.chosen is not None:
            self.length, self.before = self.clients[self.chosen].length, self.chosen
            self.order.append(self.chosen)


class WritePort:
    """The writes of an engine's clients."""

    def __init__(self, clients: Sequence[WriteClient]) -> None:
        self.clients = clients
        self.length = self.before = self.sent = 0
        self.beat: Beat = None
        self.order: collections.deque[tuple[int, int]] = collections.deque()
        self.answers: collections.deque[int] = collections.deque()
        self.ready = self.beat_ready = self.answer = self.sends = False
        self.chosen: int | None = None
        #: No burst is under way.
        self.quiet = True

    def settle(self, ready: bool, beat_ready: bool, answer: bool) -> None:
        self.ready, self.beat_ready, self.answer, self.chosen = ready, beat_ready, answer, None
        if (not self.length or ready) and len(self.order) < _WRITES \
                and len(self.answers) < _WRITES:
            self.chosen = _after(self.before, [client.length > 0 for client in self.clients])
        self.sends = bool(self.order) and (self.beat is None or beat_ready)
        self.quiet = not self.answers
        for i, client in enumerate(self.clients):
            client.granted = i == self.chosen
            client.sends = self.sends and self.order[0][0] == i
            client.answered = answer and self.answers[0] == i

    def advance(self) -> None:
        if self.ready:
            self.length = 0
        if self.beat_ready:
            self.beat = None
        if self.sends:
            self.beat = self.sent == self.order[0][1] - 1
            self.sent = 0 if self.beat else self.sent + 1
            if self.beat:
                self.order.popleft()
        if self.answer:
            self.answers.popleft()
        if self.chosen is not None:
            self.length, self.before = self.clients[self.chosen].length, self.chosen
            self.order.append((self.chosen, self.length))
            self.answers.append(self.chosen)


class _LeastRecent:
    """Of the masters that show a burst the one that was served least recently."""

    def __init__(self, count: int) -> None:
        self.order = list(range(count))

    def choose(self, masters: Sequence[ReadMaster] | Sequence[WriteMaster]) -> int | None:
        return next((i for i in self.order if masters[i].length), None)

    def served(self, number: int) -> None:
        self.order.remove(number)
        self.order.append(number)


class ReadArbiter:
    """Several masters' reads: an address is passed on a cycle later, beats at once."""

    def __init__(self, masters: Sequence[ReadMaster]) -> None:
        self.masters, self.length = masters, 0
        self.turn = _LeastRecent(len(masters))
        self.order: collections.deque[int] = collections.deque()
        self.ready, self.chosen, self.ends = False, None, False

    def settle(self, ready: bool, beat: Beat) -> None:
        self.ready, self.chosen, self.ends = ready, None, bool(beat)
        if (not self.length or ready) and len(self.order) < _ARBITER_BURSTS:
            self.chosen = self.turn.choose(self.masters)
        for i, master in enumerate(self.masters):
            master.settle(i == self.chosen,
                          beat if self.order and self.order[0] == i else None)

    def advance(self) -> None:
        if self.ready:
            self.length = 0
        if self.ends:
            self.order.popleft()
        if self.chosen is not None:
            self.length = self.masters[self.chosen].length
            self.order.append(self.chosen)
            self.turn.served(self.chosen)


class WriteArbiter:
    """Several masters' writes: an address is passed on a cycle later, beats in the order of the
    addresses and answers at once."""

    def __init__(self, masters: Sequence[WriteMaster]) -> None:
        self.masters, self.length = masters, 0
        self.turn = _LeastRecent(len(masters))
        self.order: collections.deque[int] = collections.deque()
        self.answers: collections.deque[int] = collections.deque()
        self.ready = self.ends = self.answer = False
        self.chosen: int | None = None

    @property
    def beat(self) -> Beat:
        return self.masters[self.order[0]].beat if self.order else None

    def settle(self, ready: bool, beat_ready: bool, answer: bool) -> None:
        self.ready, self.answer, self.chosen = ready, answer, None
        self.ends = beat_ready and bool(self.beat)
        if (not self.length or ready) and len(self.order) < _ARBITER_BURSTS \
                and len(self.answers) < _ARBITER_BURSTS:
            self.chosen = self.turn.choose(self.masters)
        for i, master in enumerate(self.masters):
            master.settle(i == self.chosen,
                          beat_ready and bool(self.order) and self.order[0] == i,
                          answer and self.answers[0] == i)

    def advance(self) -> None:
        if self.ready:
            self.length = 0
        if self.ends:
            self.order.popleft()
        if self.answer:
            self.answers.popleft()
        if self.chosen is not None:
            self.length = self.masters[self.chosen].length
            self.order.append(self.chosen)
            self.answers.append(self.chosen)
            self.turn.served(self.chosen)


@dataclasses.dataclass
class Memory:
    """The memory: `latency` cycles from an address to its first beat, and from a last beat to its
    answer."""

    reads: ReadMaster
    writes: WriteMaster
    latency: int
    now: int = 0

    def __post_init__(self) -> None:
        self.reading: collections.deque[tuple[int, int]] = collections.deque()
        self.answering: collections.deque[int] = collections.deque()
        self.writing = self.sent = 0
        self.beat: Beat = None
        self.answer = False

    @property
    def _write_ready(self) -> bool:
        return self.writing > 0 and len(self.answering) < _MEMORY_BURSTS

    def settle(self) -> None:
        self.reads.settle(len(self.reading) < _MEMORY_BURSTS, self.beat)
        self.writes.settle(self.writing < _MEMORY_BURSTS, self._write_ready, self.answer)

    def advance(self) -> None:
        self._read()
        self._write()
        self.now += 1

    def _read(self) -> None:
        ready, self.beat = len(self.reading) < _MEMORY_BURSTS, None
        if self.reading and (self.sent or self.reading[0][0] <= self.now + 1):
            self.sent += 1
            self.beat = self.sent == self.reading[0][1]
            if self.beat:
                self.reading.popleft()
                self.sent = 0
        if self.reads.length and ready:
            self.reading.append((self.now + self.latency, self.reads.length))

    def _write(self) -> None:
        ready = self.writing < _MEMORY_BURSTS
        ended = self._write_ready and bool(self.writes.beat)
        self.answer = bool(self.answering) and self.answering[0] <= self.now + 1
        if self.answer:
            self.answering.popleft()
        if ended:
            self.answering.append(self.now + self.latency)
        self.writing += bool(self.writes.length and ready) - ended
