"""The router and the network, cycle by cycle: the scalar reference of `ulpcore.interconnect`.

A router has a buffer of `depth` flits for each virtual channel of each input, and a link at each
output. In a cycle

1. every buffer whose front flit can go on asks for its output. It can if the next buffer has
   room for it, and its packet has the output's channel already, or its first flit finds it free;
2. each output takes one of the buffers that ask, the one that it has served least recently. The
   flit is on the link in the next cycle, and in the next router's buffer in the one after: two
   cycles a hop.

Both channels of an input can go on in one cycle, to different outputs. At a terminal's output the
link ends in a queue of four flits, from which the terminal takes them.

A channel is free again when the packet's last flit has passed. A packet without a way is dropped, a
flit a cycle. A multicast packet waits in its buffer until all of it is there, then goes to its
outputs one after another, a cycle for choosing each, as if it were as many packets; so it never
holds one while it waits for another, and the way of each copy is that of a packet to one
destination.
"""

import collections
import dataclasses
from collections.abc import Container, Mapping, Sequence

from .packets import Flit, Header
from .topology import Direction, Hop, Port, Topology

__all__ = ["DEPTH", "EJECTION", "UNDER_WAY", "Network", "Router", "largest_multicast"]

#: Flits of a buffer, unless said otherwise.
DEPTH = 16
#: Flits that wait for a terminal.
EJECTION = 4
#: Flits that may be on their way when a buffer says that it has no more room.
UNDER_WAY = 2


def largest_multicast(depth: int) -> int:
    """The most flits of a multicast packet: what a buffer is sure to take."""
    return depth - UNDER_WAY + 1


#: A channel of an input or of an output.
Key = tuple[Port, int]


class _LeastRecent:
    """Grants the request that was granted least recently."""

    def __init__(self, requesters: list[Key]) -> None:
        self.order = requesters

    def choose(self, requests: Container[Key]) -> Key | None:
        return next((key for key in self.order if key in requests), None)

    def served(self, key: Key) -> None:
        self.order.remove(key)
        self.order.append(key)


@dataclasses.dataclass
class _Entry:
    flit: Flit
    hops: list[Hop]
    multicast: bool


class _Buffer:
    """A virtual channel of an input, and how far its front packet has come."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.entries: collections.deque[_Entry] = collections.deque()
        self.hops: list[Hop] = []                # of the packet that is being written
        self.multicast = False
        self.read = 0                            # flits of this copy of a multicast packet
        self.copy: int | None = None             # which of its copies is being sent
        self.copies = 0                          # how many have been sent
        self.holds = False                       # its packet has the output's channel

    @property
    def ready(self) -> bool:
        return len(self.entries) <= self.depth - UNDER_WAY

    @property
    def front(self) -> _Entry | None:
        """The flit that is to go next."""
        return self.entries[self.read] if self.read < len(self.entries) else None

    @property
    def hop(self) -> Hop | None:
        """How it is to go."""
        entry = self.front
        if entry is None or not entry.hops:
            return None
        if not entry.multicast:
            return entry.hops[0]
        return None if self.copy is None else entry.hops[self.copy]

    def choose_copy(self) -> None:
        """At the end of a cycle: choose the next output of a multicast packet."""
        entry = self.front
        if (entry is not None and entry.multicast and entry.hops and self.copy is None
                and any(e.flit.last for e in self.entries)):
            self.copy = self.copies

    def sent(self, hop: Hop | None) -> None:
        """The front flit has gone, or gone away if there is no hop."""
        entry = self.front
        assert entry is not None
        last = entry.flit.last
        self.holds = hop is not None and not last
        if hop is None or not entry.multicast or self.copy == len(entry.hops) - 1:
            self.entries.popleft()
            if last:
                self.copy, self.copies = None, 0
        elif last:
            self.read, self.copy, self.copies = 0, None, self.copies + 1
        else:
            self.read += 1


class Router:
    """One router of a network.

    Attributes
    ----------
    links
        Of each output the flit that is on its link, and its channel.
    ejection
        Of each terminal the flits that wait for it.
    dropped
        Headers of packets without a way, in the order in which they came.
    """

    def __init__(self, topology: Topology, place: tuple[int, ...], depth: int = DEPTH) -> None:
        self.topology, self.place = topology, place
        self.outputs = topology.outputs(place)
        self.buffers = {(port, c): _Buffer(depth) for port in topology.inputs(place)
                        for c in range(topology.channels_of(port))}
        self.links: dict[Port, tuple[Flit, int] | None] = dict.fromkeys(self.outputs)
        self.ejection: list[collections.deque[Flit]] = [
            collections.deque() for _ in range(topology.terminals)]
        self.busy = {(port, c): False for port in self.outputs
                     for c in range(topology.channels_of(port))}
        self.order = {port: _LeastRecent(list(self.buffers)) for port in self.outputs}
        self.dropped: list[Header] = []

    def store(self, port: Port, channel: int, flit: Flit) -> None:
        """A flit arrives; it will be in front in the next cycle at the earliest."""
        buffer = self.buffers[port, channel]
        if flit.first:
            header = Header.decode(flit.data)
            buffer.multicast = header.multicast
            buffer.hops = self.topology.route(self.place, port, channel, header.source,
                                              header.destination, header.multicast)
            if not buffer.hops:
                self.dropped.append(header)
        buffer.entries.append(_Entry(flit, buffer.hops, buffer.multicast))

    def grants(self, ready: Mapping[Key, bool]) -> dict[Key, Hop | None]:
        """The buffers that let their front flit go, and how; None is away.

        `ready` says which channels of each output have room.
        """
        asking: dict[Port, dict[Key, Hop]] = {port: {} for port in self.outputs}
        gone: dict[Key, Hop | None] = {}
        for key, buffer in self.buffers.items():
            entry, hop = buffer.front, buffer.hop
            if entry is not None and not entry.hops:
                gone[key] = None
            if hop is not None:
                way = hop.output, hop.channel
                if ready[way] and (buffer.holds or not self.busy[way]):
                    asking[hop.output][key] = hop
        for output, requests in asking.items():
            winner = self.order[output].choose(requests)
            if winner is not None:
                gone[winner] = requests[winner]
        return gone

    def advance(self, gone: Mapping[Key, Hop | None]) -> None:
        """End of the cycle: what was granted leaves its buffer for an output's link."""
        for terminal, queue in enumerate(self.ejection):
            if (link := self.links[terminal]) is not None:
                queue.append(link[0])
        self.links = dict.fromkeys(self.outputs)
        for buffer in self.buffers.values():
            buffer.choose_copy()
        for key, hop in gone.items():
            buffer = self.buffers[key]
            entry = buffer.front
            assert entry is not None
            if hop is not None:
                self.links[hop.output] = entry.flit, hop.channel
                self.busy[hop.output, hop.channel] = not entry.flit.last
                self.order[hop.output].served(key)
            buffer.sent(hop)


class Network:
    """Routers and links of a topology, with streams of flits at the terminals."""

    def __init__(self, topology: Topology, depth: int = DEPTH) -> None:
        self.topology = topology
        self.routers = {place: Router(topology, place, depth) for place in topology.routers}
        self.nodes = topology.nodes
        self.flit_hops = 0

    def step(self, offered: Sequence[Flit | None], takes: Sequence[bool]
             ) -> tuple[list[bool], list[Flit | None]]:
        """One cycle.

        Parameters
        ----------
        offered
            By each terminal; a flit stays offered until it is taken.
        takes
            Whether each terminal takes a flit in this cycle.

        Returns for each terminal whether the flit that it offers is taken, and the flit that it is
        offered, which it has if it takes one.
        """
        arrivals: list[tuple[Router, Port, int, Flit]] = []
        decisions = []
        for place, router in self.routers.items():
            ready: dict[Key, bool] = {(t, 0): len(queue) <= EJECTION - UNDER_WAY
                                      for t, queue in enumerate(router.ejection)}
            for port in router.outputs:
                if isinstance(port, Direction):
                    beyond = self.topology.neighbour(place, port)
                    assert beyond is not None
                    neighbour = self.routers[beyond]
                    for c in range(self.topology.channels):
                        ready[port, c] = neighbour.buffers[port, c].ready
                    if (link := router.links[port]) is not None:
                        arrivals.append((neighbour, port, link[1], link[0]))
                        self.flit_hops += 1
            decisions.append((router, router.grants(ready)))
        accepted, leaving = [], []
        for node, flit, take in zip(self.nodes, offered, takes, strict=True):
            router = self.routers[self.topology.coordinates(node)]
            accepted.append(flit is not None and router.buffers[node.terminal, 0].ready)
            if flit is not None and accepted[-1]:
                arrivals.append((router, node.terminal, 0, flit))
            queue = router.ejection[node.terminal]
            leaving.append(queue[0] if queue else None)
            if take and queue:
                queue.popleft()
        for router, gone in decisions:
            router.advance(gone)
        for router, port, channel, flit in arrivals:
            router.store(port, channel, flit)
        return accepted, leaving
