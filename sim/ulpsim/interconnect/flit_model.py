"""Many routers at once: the fast twin of `router.Network`, equal to it in every cycle.

State is arrays over channels x ports x routers in this order, so that arbiters compare whole rows.
A buffer has a number in that order, and so has a virtual channel of an output; terminals come first
among the ports, so that the first buffers are the terminals' own. In a cycle only the buffers that
hold flits are looked at, and a way is looked up only when a packet's first flit comes to the front
of a buffer, in tables over routers x places of one dimension that are made of `Topology`'s rules.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .router import DEPTH, largest_multicast
from .topology import Address, Direction, Port, Topology

__all__ = ["NONE", "FlitModel", "flit"]

#: No flit.
NONE = -1
Array = npt.NDArray[np.integer]

_FIRST, _LAST = 2, 1
_NEVER = np.iinfo(np.int32).max
_MULTICAST, _UNKNOWN = 1 << 17, 1 << 18


def flit(packet: npt.ArrayLike, first: npt.ArrayLike, last: npt.ArrayLike) -> Array:
    """Flits as the model has them: the number of their packet, and whether they begin and end
    it."""
    return (np.asarray(packet, np.int32) << 2 | np.asarray(first, np.int32) * _FIRST
            | np.asarray(last, np.int32))


class FlitModel:
    """Networks of a topology, with flits at the terminals.

    Parameters
    ----------
    topology, depth
        As those of `router.Network`.
    networks
        How many that have nothing to do with each other are stepped side by side: for small
        networks most of a step's time is the same for one and for many.

    Attributes
    ----------
    flit_hops
        Flits that have arrived at routers by links, in all networks.
    dropped
        Numbers of the packets without a way, in the order in which they came.
    """

    def __init__(self, topology: Topology, depth: int = DEPTH, networks: int = 1) -> None:
        if networks < 1:
            raise ValueError(f"networks must be at least 1, not {networks!r}")
        self.topology, self.depth, self.networks = topology, depth, networks
        self.cycle = self.flit_hops = 0
        self.dropped: list[int] = []
        self._tables()
        ports, routers, channels = len(self._ports), self._routers, topology.channels
        self._columns = ports * routers
        self._buffers = channels * self._columns
        self._terminals = topology.terminals * routers
        # Where a packet goes that is waiting for its copy to be chosen, or that has no way.
        self._wait, self._drop = self._buffers, self._buffers + 1

        self._addresses = self._by_port(
            [node.encode() for node in topology.nodes] * networks)

        numbers = np.arange(self._buffers)
        # Behind the buffers stand the terminals' registers, and what never has room.
        places = self._buffers + self._terminals + 1
        self._fill = np.zeros(places, np.int32)
        self._fill[-1] = _NEVER
        self._next = np.full(self._buffers + 2, places - 1)
        self._next[:self._terminals] = self._buffers + numbers[:self._terminals]
        for number in range(self._terminals, self._columns):
            router = self._beyond[number // routers][number % routers]
            if router >= 0:
                self._next[number:self._buffers:self._columns] = (
                    numbers[number - number % routers + router::self._columns])

        self._room = largest_multicast(depth)
        self._capacity = 1 << (depth - 1).bit_length()
        self._queue = np.zeros(self._buffers * self._capacity, np.int32)
        self._read = np.zeros(self._buffers, np.int32)
        self._written = np.zeros(self._buffers, np.int32)
        self._target = np.full(self._buffers, self._wait)
        self._downstream = np.full(self._buffers, places - 1)
        # Which buffer's packet has a channel of an output.
        self._owner = np.full(self._buffers + 2, NONE)
        self._served_channel = np.repeat(np.arange(-channels, 0, dtype=np.int32), self._columns)
        self._served_input = np.repeat(np.arange(-ports, 0, dtype=np.int32), self._columns)
        self._registers = np.full(self._terminals, NONE, np.int32)
        self._flying = np.zeros(0, np.int64), np.zeros(0, np.int32)
        # Of each buffer whose front packet is multicast: its outputs that are left, its length.
        self._copies: dict[int, tuple[list[int], int]] = {}
        self._headers = np.zeros(0, np.int32)
        self._sources = np.zeros(0, np.int32)
        self._lengths = np.zeros(0, np.int32)

    def _tables(self) -> None:
        """The topology's rules, by port: a dimension's rows are all alike."""
        topology, sizes = self.topology, self.topology.sizes
        self._places = topology.routers
        here = np.array(self._places).T
        self._ports: list[Port] = [*range(topology.terminals), *topology.directions]
        port_of = {port: number for number, port in enumerate(self._ports)}
        self._routers = len(self._places) * self.networks
        self._dimension = np.array([p.dimension if isinstance(p, Direction) else -1
                                    for p in self._ports])
        # Along each dimension: from a router toward a place.
        self._ways = []
        for d, size in enumerate(sizes):
            parities = 2 if len(sizes) == 2 else 1
            way = np.full((parities, size, size), NONE, np.int8)
            for other, place, goal in np.ndindex(way.shape):
                direction = topology.toward(_row(sizes, d, place, other),
                                            _row(sizes, d, goal, other))
                way[other, place, goal] = NONE if direction is None else port_of[direction]
            other = here[1 - d] % 2 if parities == 2 else 0
            self._ways.append(np.tile(way[other, here[d]], (self.networks, 1)))
        # Channels of packets that enter a dimension, and of those that go on along it.
        ports, longest = len(self._ports), max(sizes)
        self._place = np.zeros((ports, self._routers), np.int8)
        self._entering = np.zeros((ports, longest, longest, 8), np.int8)
        self._going = np.zeros((ports, longest, topology.channels), np.int8)
        self._beyond = np.full((ports, self._routers), NONE)
        router_of = {place: number for number, place in enumerate(self._places)}
        for number, port in enumerate(self._ports):
            if isinstance(port, int):
                continue
            d = port.dimension
            self._place[number] = np.tile(here[d], self.networks)
            for place in range(sizes[d]):
                row = _row(sizes, d, place, 0)
                for goal, flow in np.ndindex(sizes[d], 8):
                    self._entering[number, place, goal, flow] = topology.channel(
                        row, 0, 0, port, goal, flow)
                for channel in range(topology.channels):
                    self._going[number, place, channel] = topology.channel(
                        row, port, channel, port, None, 0)
            for router, place in enumerate(self._places):
                neighbour = topology.neighbour(place, port)
                if neighbour is not None:
                    self._beyond[number, router::len(self._places)] = (
                        router_of[neighbour]
                        + np.arange(0, self._routers, len(self._places)))

    def add_packets(self, sources: npt.ArrayLike, destinations: npt.ArrayLike,
                    lengths: npt.ArrayLike, multicast: npt.ArrayLike = False) -> Array:
        """Make packets known, and return their numbers, which count up from 0.

        Sources and destinations are addresses as numbers (`Address.encode`); lengths are in flits.
        """
        from_, to, lengths, multicast = np.broadcast_arrays(
            np.atleast_1d(sources), destinations, lengths, multicast)
        known = np.zeros(1 << 16, bool)
        known[self._addresses] = True
        # As `Topology.flow` has it.
        mixed = from_ ^ to
        flow = (mixed ^ mixed >> 6 ^ mixed >> 12) & 7
        unknown = ~(multicast | known[to])
        headers = (np.where(unknown | multicast, 0, to) | flow << 14 | multicast * _MULTICAST
                   | unknown * _UNKNOWN)
        begin = len(self._headers)
        if begin + len(headers) > _NEVER >> 2:
            raise ValueError(f"packets must be at most {_NEVER >> 2}, not {begin + len(headers)}")
        self._headers = np.concatenate([self._headers, headers.astype(np.int32)])
        self._sources = np.concatenate([self._sources, from_.astype(np.int32)])
        self._lengths = np.concatenate([self._lengths, lengths.astype(np.int32)])
        return np.arange(begin, len(self._headers))

    def step(self, offered: Array, takes: npt.NDArray[np.bool_]
             ) -> tuple[npt.NDArray[np.bool_], Array]:
        """One cycle, as `router.Network.step`, over the terminals of all networks in order.

        A flit is a number made by `flit`, or NONE.
        """
        offered, takes = self._by_port(offered), self._by_port(takes)
        accepted = (offered >= 0) & (self._fill[:self._terminals] < self._room)
        leaving = self._registers
        kept = (leaving >= 0) & ~takes
        self._fill[self._buffers:-1] = kept * _NEVER
        granted, dropped = self._grants()
        entering = np.flatnonzero(accepted)
        self._check(entering, offered[entering])
        buffers = np.concatenate([entering, self._flying[0]])
        flits = np.concatenate([offered[entering], self._flying[1]])
        self.flit_hops += len(self._flying[0])

        self._choose_copies()
        self._registers = np.where(kept, leaving, NONE)
        fronts = self._leave(granted, dropped)
        empty = self._read[buffers] == self._written[buffers]
        self._arrive(buffers, flits)
        self._route(np.concatenate([fronts, buffers[empty & (flits & _FIRST > 0)]]))
        self.cycle += 1
        return self._by_terminal(accepted), self._by_terminal(leaving)

    def _check(self, terminals: Array, flits: Array) -> None:
        """Packets that will be dropped: to nowhere, or from a terminal that is not their source."""
        begins = flits & _FIRST > 0
        packets = flits[begins] >> 2
        lost = packets[(self._headers[packets] & _UNKNOWN > 0)
                       | (self._sources[packets] != self._addresses[terminals[begins]])]
        self._headers[lost] |= _UNKNOWN
        self.dropped += lost.tolist()

    def _grants(self) -> tuple[Array, Array]:
        """Which buffers let their front flit go, and which let it go away."""
        waiting = np.flatnonzero(self._written > self._read)
        target = self._target[waiting]
        owner = self._owner[target]
        able = (self._fill[self._downstream[waiting]] < self._room) & (
            (owner < 0) | (owner == waiting))
        asking = waiting[able]
        if self.topology.channels > 1:
            asking = asking[_least_recent(self._served_channel, asking, self._columns)]
        inputs, outputs = asking % self._columns, self._target[asking] % self._columns
        slots = inputs // self._routers * self._columns + outputs
        won = _least_recent(self._served_input, slots, self._columns)
        granted = asking[won]
        self._served_channel[granted] = self.cycle
        self._served_input[slots[won]] = self.cycle
        return granted, waiting[target == self._drop]

    def _leave(self, granted: Array, dropped: Array) -> Array:
        """Flits leave their buffers for registers; returns buffers with a new packet in front."""
        buffers = np.concatenate([granted, dropped]) if dropped.size else granted
        place = self._read[buffers]
        flits = self._queue[buffers * self._capacity + (place & self._capacity - 1)]
        self._read[buffers] = place + 1
        self._fill[buffers] -= 1
        last = flits & _LAST > 0
        target, downstream = self._target[granted], self._downstream[granted]
        ends = last
        flits = flits[:granted.size]
        self._owner[target] = np.where(last[:granted.size], NONE, granted)
        ejected = downstream >= self._buffers
        self._registers[downstream[ejected] - self._buffers] = flits[ejected]
        self._flying = downstream[~ejected], flits[~ejected]
        if self._copies:
            ends = last & ~self._read_again(granted, last)
        fronts = buffers[ends]
        return fronts[self._written[fronts] > self._read[fronts]]

    def _arrive(self, buffers: Array, flits: Array) -> None:
        place = self._written[buffers]
        self._queue[buffers * self._capacity + (place & self._capacity - 1)] = flits
        self._written[buffers] = place + 1
        self._fill[buffers] += 1

    def _route(self, buffers: Array) -> None:
        """Look up the way of the packets that have come to the front of buffers."""
        if not buffers.size:
            return
        packets = self._queue[buffers * self._capacity
                              + (self._read[buffers] & self._capacity - 1)] >> 2
        header = self._headers[packets]
        inputs = buffers % self._columns
        router, arrived = inputs % self._routers, inputs // self._routers
        port, goal = header >> 12 & 3, np.zeros(len(buffers), np.int32)
        for d in reversed(range(len(self._ways))):
            coordinate = header >> 6 * d & 63
            way = self._ways[d].take(router * self.topology.sizes[d] + coordinate)
            port = np.where(way >= 0, way, port)
            goal = np.where(way >= 0, coordinate, goal)
        place = self._place.take(port * self._routers + router)
        channels, longest = self.topology.channels, max(self.topology.sizes)
        going = (port * longest + place) * channels + buffers // self._columns
        entering = ((port * longest + place) * longest + goal) * 8 + (header >> 14 & 7)
        channel = np.where(self._dimension[arrived] == self._dimension[port],
                           self._going.take(going), self._entering.take(entering)).astype(np.int64)
        target = channel * self._columns + port * self._routers + router
        if (header & (_MULTICAST | _UNKNOWN)).any():
            target = np.where(header & _UNKNOWN > 0, self._drop,
                              np.where(header & _MULTICAST > 0, self._wait, target))
            for i in np.flatnonzero(target == self._wait).tolist():
                self._copies[int(buffers[i])] = self._outputs(int(buffers[i]), int(packets[i]))
        self._target[buffers] = target
        self._downstream[buffers] = self._next[target]

    # Multicast packets, one by one: they are few.

    def _outputs(self, buffer: int, packet: int) -> tuple[list[int], int]:
        channel, place = divmod(buffer, self._columns)
        port, router = divmod(place, self._routers)
        hops = self.topology.route(
            self._places[router % len(self._places)], self._ports[port], channel,
            Address.decode(int(self._sources[packet])), Address(0), True)
        return [hop.channel * self._columns + self._ports.index(hop.output) * self._routers + router
                for hop in hops], int(self._lengths[packet])

    def _choose_copies(self) -> None:
        """Choose the next output of packets that are there as a whole."""
        for buffer, (outputs, length) in self._copies.items():
            if self._target[buffer] == self._wait and self._fill[buffer] >= length:
                self._target[buffer] = outputs[0]
                self._downstream[buffer] = self._next[outputs[0]]

    def _read_again(self, granted: Array, last: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Keep flits of which a copy is still to be sent; which buffers these are."""
        again = np.zeros(len(last), bool)
        for i in np.flatnonzero(np.isin(granted, list(self._copies))).tolist():
            buffer = int(granted[i])
            outputs, length = self._copies[buffer]
            if len(outputs) > 1:
                again[i] = True
                self._fill[buffer] += 1
                if last[i]:
                    outputs.pop(0)
                    self._read[buffer] -= length
                    self._target[buffer] = self._wait
                    self._downstream[buffer] = self._next[self._wait]
            elif last[i]:
                del self._copies[buffer]
        return again

    # Terminals are numbered router by router outside, port by port inside.

    def _by_port(self, values: npt.ArrayLike) -> npt.NDArray:
        return np.asarray(values).reshape(self._routers, -1).T.ravel()

    def _by_terminal(self, values: npt.NDArray) -> npt.NDArray:
        return values.reshape(-1, self._routers).T.ravel()


def _row(sizes: Iterable[int], dimension: int, place: int, other: int) -> tuple[int, ...]:
    """A router at a place of a dimension, and at another of the other."""
    return tuple(place if d == dimension else other for d, _ in enumerate(sizes))


def _least_recent(served: Array, requests: Array, columns: int) -> npt.NDArray[np.bool_]:
    """Which requests are granted: in each column that which was served least recently.

    `served` has rows x columns, flat, and says when each place of it was served last.
    """
    when = served[requests]
    first = np.full(len(served), _NEVER, np.int32)
    first[requests] = when
    return when == first.reshape(-1, columns).min(axis=0)[requests % columns]
