"""The router and the network, cycle by cycle: the scalar reference of `ulpcore.interconnect`.

A router has a buffer of `depth` flits for each virtual channel of each input, and a register at
each output. In a cycle

1. every buffer whose front flit can go on asks for its output. It can if the next buffer has
   room for it, and its packet has the output's channel already, or its first flit finds it free;
2. each input lets one of its channels ask, the one that was served least recently;
3. each output takes one of the inputs that ask, the one that it has served least recently. The
   flit stands in the output's register in the next cycle, and in the next router's buffer in the
   one after: two cycles a hop.

A channel is free again when the packet's last flit has passed. A packet without a way is dropped, a
flit a cycle. A multicast packet waits in its buffer until all of it is there, then goes to its
outputs one after another, a cycle for choosing each, as if it were as many packets; so it never
holds one while it waits for another, and the way of each copy is that of a packet to one
destination.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from .packets import Flit, Header
from .topology import Direction, Hop, Port, Topology

__all__ = ["DEPTH", "Network", "Router", "largest_multicast"]

#: Flits of a buffer, unless said otherwise.
DEPTH = 16
#: Flits that may be on their way when a buffer says that it has no more room.
_UNDER_WAY = 2


def largest_multicast(depth: int) -> int:
    """The most flits of a multicast packet: what a buffer is sure to take."""
    return depth - _UNDER_WAY + 1


class _LeastRecent:
    """Grants the request that was granted least recently."""

    def __init__(self, count: int) -> None:
        self.order = list(range(count))

    def choose(self, requests: Sequence[bool]) -> int | None:
        return next((i for i in self.order if requests[i]), None)

    def served(self, index: int) -> None:
        self.order.remove(index)
        self.order.append(index)


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
        return len(self.entries) <= self.depth - _UNDER_WAY

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
    registers
        Of each output the flit that is leaving, and its channel.
    dropped
        Headers of packets without a way, in the order in which they came.
    """

    def __init__(self, topology: Topology, place: tuple[int, ...], depth: int = DEPTH) -> None:
        self.topology, self.place = topology, place
        self.inputs, self.outputs = topology.inputs(place), topology.outputs(place)
        self.buffers = {port: [_Buffer(depth) for _ in range(topology.channels_of(port))]
                        for port in self.inputs}
        self.registers: dict[Port, tuple[Flit, int] | None] = dict.fromkeys(self.outputs)
        self.busy = {(port, c): False for port in self.outputs
                     for c in range(topology.channels_of(port))}
        self.input_order = {p: _LeastRecent(topology.channels_of(p)) for p in self.inputs}
        self.output_order = {p: _LeastRecent(len(self.inputs)) for p in self.outputs}
        self.dropped: list[Header] = []

    def store(self, port: Port, channel: int, flit: Flit) -> None:
        """A flit arrives; it will be in front in the next cycle at the earliest."""
        buffer = self.buffers[port][channel]
        if flit.first:
            header = Header.decode(flit.data)
            buffer.multicast = header.multicast
            buffer.hops = self.topology.route(self.place, port, channel, header.source,
                                              header.destination, header.multicast)
            if not buffer.hops:
                self.dropped.append(header)
        buffer.entries.append(_Entry(flit, buffer.hops, buffer.multicast))

    def grants(self, ready: Mapping[tuple[Port, int], bool]
               ) -> list[tuple[Port, int, Hop | None]]:
        """Which buffers let their front flit go, and how; None is away.

        `ready` says which channels of each output have room.
        """
        asking: dict[Port, list[tuple[int, Hop] | None]] = {
            port: [None] * len(self.inputs) for port in self.outputs}
        gone: list[tuple[Port, int, Hop | None]] = []
        for i, port in enumerate(self.inputs):
            wanted: list[Hop | None] = []
            for channel, buffer in enumerate(self.buffers[port]):
                entry, hop = buffer.front, buffer.hop
                if entry is not None and not entry.hops:
                    gone.append((port, channel, None))
                if hop is not None:
                    key = hop.output, hop.channel
                    if not ready[key] or (self.busy[key] and not buffer.holds):
                        hop = None
                wanted.append(hop)
            chosen = self.input_order[port].choose([hop is not None for hop in wanted])
            if chosen is not None and (hop := wanted[chosen]) is not None:
                asking[hop.output][i] = chosen, hop
        for output, requests in asking.items():
            winner = self.output_order[output].choose([r is not None for r in requests])
            if winner is not None and (request := requests[winner]) is not None:
                gone.append((self.inputs[winner], *request))
        return gone

    def advance(self, gone: Sequence[tuple[Port, int, Hop | None]]) -> None:
        """End of the cycle: what was granted leaves its buffer for an output's register."""
        self.registers = dict.fromkeys(self.outputs)
        for buffers in self.buffers.values():
            for buffer in buffers:
                buffer.choose_copy()
        for port, channel, hop in gone:
            buffer = self.buffers[port][channel]
            entry = buffer.front
            assert entry is not None
            if hop is not None:
                self.registers[hop.output] = entry.flit, hop.channel
                self.busy[hop.output, hop.channel] = not entry.flit.last
                self.input_order[port].served(channel)
                self.output_order[hop.output].served(self.inputs.index(port))
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
        arrivals, accepted, leaving, kept = [], [], [], []
        for node, flit, take in zip(self.nodes, offered, takes, strict=True):
            router = self.routers[self.topology.coordinates(node)]
            accepted.append(flit is not None and router.buffers[node.terminal][0].ready)
            if accepted[-1]:
                arrivals.append((router, node.terminal, 0, flit))
            register = router.registers[node.terminal]
            leaving.append(register[0] if register else None)
            if register and not take:
                kept.append((router, node.terminal, register))
        waiting = {(router.place, port) for router, port, _ in kept}
        decisions = []
        for place, router in self.routers.items():
            ready = {}
            for port in router.outputs:
                if isinstance(port, Direction):
                    neighbour = self.topology.neighbour(place, port)
                    assert neighbour is not None
                    for c, buffer in enumerate(self.routers[neighbour].buffers[port]):
                        ready[port, c] = buffer.ready
                    if (register := router.registers[port]) is not None:
                        arrivals.append((self.routers[neighbour], port, register[1], register[0]))
                else:
                    ready[port, 0] = (place, port) not in waiting
            decisions.append((router, router.grants(ready)))
        for router, gone in decisions:
            router.advance(gone)
        for router, port, register in kept:
            router.registers[port] = register
        for router, port, channel, flit in arrivals:
            router.store(port, channel, flit)
            self.flit_hops += isinstance(port, Direction)
        return accepted, leaving
