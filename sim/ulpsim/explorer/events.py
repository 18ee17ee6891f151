"""What happens on the links, event by event: the definition.

A message passes its links as one train. Its head is at the first link when it may leave; a link
takes trains whole, in the order in which their heads come to it (of heads that come at once the one
of the earlier round, then of fewer links behind it, then of the lower number); the head is at the
next link a latency after its link took it, and the link is free when the tail has left it. The tail
leaves after size / bandwidth, and no sooner than a latency after it has left the link before. The
message has arrived a latency after its tail has left its last link. So a message alone over equal
links takes size / bandwidth + links * latency.

Queues are unbounded and routes go round nothing, so no message waits for one that waits for it;
what buffers must be like so that this holds in hardware is the routers' affair.

`simulate` here handles one event after the other from a queue; `rounds.simulate` does the same in
arrays.
"""

import dataclasses
import heapq

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .schedule import Schedule, messages

__all__ = ["Result", "simulate"]

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What came of a collective.

    Attributes
    ----------
    ready
        Of each accelerator, when it has got all its messages and may go on, seconds.
    sent, received
        Of each accelerator, bytes.
    link_bytes
        Of each link, bytes that passed it.
    free
        Of each link, from when on it is free.
    messages, passes
        How many messages there were, and how many links they passed in all.
    overtaken
        How many came to a link before another one that the link had been made to take first. Not 0
        only where `rounds` gave up the order of arrival.
    """

    ready: Reals
    sent: Reals
    received: Reals
    link_bytes: Reals
    free: Reals
    messages: int
    passes: int
    overtaken: int = 0

    @property
    def seconds(self) -> float:
        """When all have finished."""
        return float(self.ready.max())

    def check(self) -> None:
        """Raise AssertionError unless every byte that was sent was received."""
        sent, received = self.sent.sum(), self.received.sum()
        if not np.isclose(sent, received, rtol=1e-9, atol=0):
            raise AssertionError(f"{sent} bytes were sent, {received} received")


def simulate(graph: Graph, schedule: Schedule, start: Reals | float = 0.0,
             free: Reals | None = None) -> Result:
    """A collective from its start to its end.

    Parameters
    ----------
    start
        When each accelerator begins, seconds.
    free
        From when on each link is free: `Result.free` of what came before.

    Raises AssertionError if a message does not arrive, or not where it should.
    """
    n = graph.accelerators
    begin = np.broadcast_to(np.asarray(start, float), (n,))
    spelt = messages(schedule)
    routes = graph.route(np.array([message.source for message in spelt], np.int64),
                         np.array([message.target for message in spelt], np.int64))
    paths = [[link for link in route if link >= 0] for route in routes.tolist()]
    followers: list[list[int]] = [[] for _ in spelt]
    waits = [len(message.after) for message in spelt]
    leave = [float(begin[message.source]) for message in spelt]
    for number, message in enumerate(spelt):
        for earlier in message.after:
            followers[earlier].append(number)
    latencies, bandwidths = graph.latency.tolist(), graph.bandwidth.tolist()
    link_free = [0.0] * graph.links if free is None else free.tolist()
    link_bytes, ready = [0.0] * graph.links, begin.tolist()
    sent, received, tails = [0.0] * n, [0.0] * n, [0.0] * len(spelt)
    arrived = [False] * len(spelt)
    # Time; -1 for arrivals at a target, which come first; round; links behind; number.
    queue: list[tuple[float, int, int, int, int]] = []

    def release(number: int) -> None:
        sent[spelt[number].source] += spelt[number].size
        heapq.heappush(queue, (leave[number], 0, spelt[number].round, 0, number))

    for number, count in enumerate(waits):
        if not count:
            release(number)
    while queue:
        time, kind, _, hop, number = heapq.heappop(queue)
        message, path = spelt[number], paths[number]
        if kind < 0:
            if arrived[number] or graph.target[path[-1]] != message.target:
                raise AssertionError(f"message {number} arrived twice or at a wrong place")
            arrived[number] = True
            received[message.target] += message.size
            ready[message.target] = max(ready[message.target], time)
            for after in followers[number]:
                leave[after] = max(leave[after], time)
                waits[after] -= 1
                if not waits[after]:
                    release(after)
            continue
        link = path[hop]
        latency = latencies[link]
        taken = max(time, link_free[link])
        tail = max(taken + message.size / bandwidths[link], tails[number])
        link_free[link] = tail
        link_bytes[link] += message.size
        tails[number] = tail + latency
        if hop + 1 < len(path):
            heapq.heappush(queue, (taken + latency, 0, message.round, hop + 1, number))
        else:
            heapq.heappush(queue, (tail + latency, -1, message.round, hop, number))
    if not all(arrived):
        raise AssertionError(f"message {arrived.index(False)} never arrived")
    result = Result(np.array(ready), np.array(sent), np.array(received), np.array(link_bytes),
                    np.array(link_free), len(spelt), sum(len(path) for path in paths))
    result.check()
    return result
