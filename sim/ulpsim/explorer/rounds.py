"""The twin of `events` in arrays: a round's messages at once, one link after the other.

A link takes messages in the order of their rounds, then by how many links are behind them, then as
they come. That is the order of arrival, and the result equals that of `events` bit for bit, unless
a message comes to a link before one that was taken earlier. This is looked for: `Result.overtaken`
counts such messages, and 0 proves that the result is exact. Where it is not 0, `simulate` tries
again: parts of a schedule, which meet only on links, go on in the order in which they come to be
ready; and what is small enough goes through `events`.

Rounds that repeat are not all gone through. Times only ever come of maxima and of sums with what
does not change between rounds of a phase; so if a round has moved everything that the next one
depends on by the same time, all further rounds do the same.
"""

import dataclasses
import heapq
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from . import events
from .events import Result
from .graph import Graph
from .schedule import Phase, Schedule

__all__ = ["EXACT", "as_ready", "in_order", "simulate"]

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
#: Links passed that are gone through in `events` if there is need for it: a part of a second.
EXACT = 20_000
#: How equal times of a round must have moved, as a part of them: what rounding makes of it.
_TOLERANCE = 1e-13


@dataclasses.dataclass(eq=False)
class _Hop:
    """What messages of a phase do at their k-th link.

    `groups` are which of them are the first, second ... of their links: messages then stand
    together by their links. There is one group where all links differ.
    """

    messages: Integers
    links: Integers
    latency: Reals
    bandwidth: Reals
    groups: list[Integers]
    everyone: bool


def simulate(graph: Graph, schedule: Schedule, start: Reals | float = 0.0,
             free: Reals | None = None, *, exact: int = EXACT) -> Result:
    """A collective from its start to its end: see `events.simulate`.

    If messages overtake each other, and pass up to `exact` links in all, they go through `events`.
    """
    result = in_order(graph, schedule, start, free)
    if result.overtaken and result.passes <= exact:
        return events.simulate(graph, schedule, start, free)
    if result.overtaken and len(schedule.parts()) > 1:
        other = as_ready(graph, schedule, start, free)
        return min(result, other, key=lambda one: one.overtaken)
    return result


def in_order(graph: Graph, schedule: Schedule, start: Reals | float = 0.0,
             free: Reals | None = None, *, repeats: bool = True) -> Result:
    """Round by round, all parts at once; without `repeats` every round is gone through."""
    run = _Run(graph, schedule, start, free)
    for phase in schedule.phases():
        run.phase(phase, repeats)
    return run.result()


def as_ready(graph: Graph, schedule: Schedule, start: Reals | float = 0.0,
             free: Reals | None = None) -> Result:
    """The next round is always that of the part whose first message may leave first."""
    run = _Run(graph, schedule, start, free)
    waiting = []
    for number, part in enumerate(schedule.parts()):
        rounds = run.rounds_of(part)
        first = next(rounds, None)
        if first is not None:
            heapq.heappush(waiting, (first, number, rounds))
    while waiting:
        _, number, rounds = heapq.heappop(waiting)
        after = next(rounds, None)
        if after is not None:
            heapq.heappush(waiting, (after, number, rounds))
    return run.result()


class _Run:
    def __init__(self, graph: Graph, schedule: Schedule, start: Reals | float,
                 free: Reals | None) -> None:
        n = graph.accelerators
        begin = np.broadcast_to(np.asarray(start, float), (n,))
        self.graph, self.n = graph, n
        self.slots = np.tile(begin, schedule.streams)
        self.ready = begin.copy()
        self.free = np.zeros(graph.links) if free is None else free.copy()
        self.last = np.full(graph.links, -np.inf)
        self.link_bytes = np.zeros(graph.links)
        self.sent, self.received = np.zeros(n), np.zeros(n)
        self.messages = self.passes = self.overtaken = 0

    def phase(self, phase: Phase, repeats: bool) -> None:
        hops = self._hops(phase)
        written = np.isin(phase.reads, phase.writes)
        total = np.zeros(len(phase.source))
        before: Reals | None = None
        for number in range(1, phase.rounds + 1):
            size = phase.bytes_of(number - 1)
            total += size
            earlier = self.overtaken
            waited = self._round(phase, hops, size)
            if not repeats or callable(phase.size) or number == phase.rounds:
                continue
            now = self._state(phase, hops, written | ~waited)
            moved = None if before is None or len(before) != len(now) else now - before
            if moved is not None and len(moved) and \
                    np.ptp(moved) <= _TOLERANCE * np.abs(now).max():
                left = phase.rounds - number
                self.overtaken += (self.overtaken - earlier) * left
                self._skip(phase, hops, float(moved[0]) * left)
                total += size * left
                break
            before = now
        self._count(phase, hops, total, phase.rounds)

    def rounds_of(self, phases: Iterable[Phase]) -> Iterator[float]:
        """Round by round: when its first message may leave, and when asked again, the round."""
        for phase in phases:
            hops = self._hops(phase)
            total = np.zeros(len(phase.source))
            for number in range(phase.rounds):
                yield float(self.slots[phase.reads].min())
                size = phase.bytes_of(number)
                self._round(phase, hops, size)
                total += size
            self._count(phase, hops, total, phase.rounds)

    def _hops(self, phase: Phase) -> list[_Hop]:
        paths = self.graph.route(phase.source, phase.target)
        if np.any(paths[:, :1] < 0):
            raise AssertionError("a message from an accelerator to itself")
        hops = []
        for links in paths.T:
            messages = np.flatnonzero(links >= 0)
            found = links[messages]
            groups = [np.arange(len(found))]
            if len(np.unique(found)) < len(found):
                order = np.argsort(found, kind="stable")
                messages, found = messages[order], found[order]
                first = np.flatnonzero(np.diff(found, prepend=-1))
                rank = np.arange(len(found)) - np.repeat(first, np.diff(first, append=len(found)))
                groups = np.split(np.argsort(rank, kind="stable"),
                                  np.cumsum(np.bincount(rank))[:-1])
            hops.append(_Hop(messages, found, self.graph.latency[found],
                             self.graph.bandwidth[found], groups, len(found) == len(links)))
        end = np.where(paths >= 0, self.graph.target[paths], -1)
        last = np.count_nonzero(paths >= 0, axis=1) - 1
        if np.any(end[np.arange(len(end)), last] != phase.target):
            raise AssertionError("a route does not end at its target")
        return hops

    def _round(self, phase: Phase, hops: list[_Hop], size: Reals) -> NDArray[np.bool_]:
        """All messages of a round; which of them waited for their first link."""
        leave = self.slots[phase.reads]
        head, tail = leave.copy(), np.zeros(len(leave))
        waited = np.zeros(len(leave), bool)
        for number, hop in enumerate(hops):
            alone = len(hop.groups) == 1
            # Those of a link in the order in which they come.
            order = hop.messages if alone else \
                hop.messages[np.lexsort((hop.messages, head[hop.messages], hop.links))]
            for group in hop.groups:
                everyone = alone and hop.everyone
                here = slice(None) if everyone else order if alone else order[group]
                part = slice(None) if alone else group
                links, latency = hop.links[part], hop.latency[part]
                come, open_, last = head[here], self.free[links], self.last[links]
                taken = np.maximum(come, open_)
                gone = np.maximum(taken + size[here] / hop.bandwidth[part], tail[here])
                self.overtaken += int(np.count_nonzero(come < last))
                self.last[links] = np.maximum(come, last)
                self.free[links] = gone
                if number == 0:
                    waited[here] = open_ >= come
                head[here] = taken + latency
                tail[here] = gone + latency
        np.maximum.at(self.slots, phase.writes, tail)
        np.maximum.at(self.ready, phase.target, tail)
        return waited

    def _state(self, phase: Phase, hops: list[_Hop], matters: NDArray[np.bool_]) -> Reals:
        """What the next round of a phase depends on.

        A slot that no message of the phase writes keeps its value. As long as the messages that
        read it have to wait for their link, and links are free ever later, it does not matter.
        """
        return np.concatenate([self.slots[phase.reads[matters]],
                               *(self.free[hop.links] for hop in hops)])

    def _skip(self, phase: Phase, hops: list[_Hop], time: float) -> None:
        links = np.unique(np.concatenate([hop.links for hop in hops]))
        self.free[links] += time
        self.last[links] += time
        written = np.unique(phase.writes)
        self.slots[written] += time
        ends = np.unique(phase.target)
        self.ready[ends] = np.maximum(
            self.ready[ends], np.maximum.reduceat(*_by_target(phase, self.slots)))

    def _count(self, phase: Phase, hops: list[_Hop], total: Reals, rounds: int) -> None:
        """Messages of all rounds, with their bytes in all; each is seen at its last link."""
        self.messages += len(total) * rounds
        self.sent += np.bincount(phase.source, total, self.n)
        arriving = np.zeros(len(total))
        for hop in hops:
            self.passes += len(hop.links) * rounds
            np.add.at(self.link_bytes, hop.links, total[hop.messages])
            arriving[hop.messages] = total[hop.messages]
        self.received += np.bincount(phase.target, arriving, self.n)

    def result(self) -> Result:
        result = Result(self.ready, self.sent, self.received, self.link_bytes, self.free,
                        self.messages, self.passes, self.overtaken)
        result.check()
        return result


def _by_target(phase: Phase, slots: Reals) -> tuple[Reals, Integers]:
    order = np.argsort(phase.target, kind="stable")
    return slots[phase.writes[order]], np.flatnonzero(np.diff(phase.target[order], prepend=-1))
