"""Many routers at once: the fast twin of `router.Network`, equal to it in every cycle.

State is arrays over channels x ports x routers in this order, so that arbiters compare whole rows.
A buffer has a number in that order, and so has a virtual channel of an output; terminals come first
among the ports, so that the first buffers are the terminals' own. In a cycle only the buffers that
hold flits are looked at, and a way is looked up only when a packet's first flit comes to the front
of a buffer.
"""

import numpy as np
import numpy.typing as npt

from .route_tables import NONE, RouteTables
from .router import DEPTH, EJECTION, UNDER_WAY
from .topology import Address, Topology

__all__ = ["NONE", "FlitModel", "flit"]

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
        self._tables = RouteTables(topology)
        self._places = topology.routers
        self._routers = len(self._places) * networks
        self._terminals = topology.terminals * self._routers
        ports, routers, channels = len(self._tables.ports), self._routers, topology.channels
        self._columns = ports * routers
        self._buffers = channels * self._columns
        # Where a packet goes that is waiting for its copy to be chosen, or that has no way.
        self._wait, self._drop = self._buffers, self._buffers + 1

        self._addresses = self._by_port(
            [node.encode() for node in topology.nodes] * networks)

        numbers = np.arange(self._buffers)
        # Behind the buffers stand the queues in front of terminals, and what never has room.
        queues = self._buffers + self._terminals
        self._room = depth - UNDER_WAY + 1
        self._space = np.full(queues + 1, self._room, np.int32)
        self._space[self._buffers:] = EJECTION - UNDER_WAY + 1
        self._space[-1] = 0
        self._next = np.full(self._buffers + 2, queues)
        self._next[:self._terminals] = self._buffers + numbers[:self._terminals]
        # All networks' routers beyond each port's links: those of the first, and so on.
        first = np.arange(0, routers, len(self._places))[:, None]
        for port in range(topology.terminals, ports):
            beyond = self._tables.beyond[port]
            there = np.where(beyond != NONE, first + beyond, NONE).ravel()
            outputs = numbers.reshape(channels, ports, routers)[:, port]
            self._next[outputs[:, there != NONE]] = outputs[:, there[there != NONE]]
        self._capacity = 1 << (max(depth, EJECTION) - 1).bit_length()
        self._queue = np.zeros(queues * self._capacity, np.int32)
        self._read = np.zeros(queues, np.int32)
        self._written = np.zeros(queues, np.int32)
        self._target = np.full(self._buffers, self._wait)
        self._downstream = np.full(self._buffers, queues)
        # Which buffer's packet has a channel of an output.
        self._owner = np.full(self._buffers + 2, NONE)
        # When an output has served a channel of an input: channels x ports x outputs. Before the
        # first cycle they stand in the order of ports, and of the channels of each.
        order = np.arange(ports * channels, dtype=np.int32).reshape(ports, channels).T
        self._served = np.repeat(order.ravel() - ports * channels, self._columns)
        self._links = np.zeros(0, np.int64), np.zeros(0, np.int32)
        # Of each buffer whose front packet is multicast: its outputs that are left, its length.
        self._copies: dict[int, tuple[list[int], int]] = {}
        self._headers = np.zeros(0, np.int32)
        self._sources = np.zeros(0, np.int32)
        self._lengths = np.zeros(0, np.int32)

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
        accepted = (offered >= 0) & (self._space[:self._terminals] > 0)
        granted, dropped = self._grants()
        leaving = self._eject(takes)
        entering = np.flatnonzero(accepted)
        self._check(entering, offered[entering])
        buffers = np.concatenate([entering, self._links[0]])
        flits = np.concatenate([offered[entering], self._links[1]])
        self.flit_hops += int(np.count_nonzero(self._links[0] < self._buffers))

        self._choose_copies()
        fronts = self._leave(granted, dropped)
        begins = (flits & _FIRST > 0) & (self._read[buffers] == self._written[buffers])
        self._arrive(buffers, flits)
        self._route(np.concatenate([fronts, buffers[begins & (buffers < self._buffers)]]))
        self.cycle += 1
        return self._by_terminal(accepted), self._by_terminal(leaving)

    def _eject(self, takes: npt.NDArray[np.bool_]) -> Array:
        """What stands at the front of the terminals' queues, and goes if they take it."""
        queues = np.arange(self._buffers, len(self._read))
        there = self._read[self._buffers:] != self._written[self._buffers:]
        leaving = np.where(there, self._front(queues), NONE)
        taken = queues[there & takes]
        self._read[taken] += 1
        self._space[taken] += 1
        return leaving

    def _front(self, buffers: Array) -> Array:
        return self._queue[buffers * self._capacity + (self._read[buffers] & self._capacity - 1)]

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
        waiting = np.flatnonzero(self._written[:self._buffers] > self._read[:self._buffers])
        target = self._target[waiting]
        owner = self._owner[target]
        able = (self._space[self._downstream[waiting]] > 0) & (
            (owner < 0) | (owner == waiting))
        asking, output = waiting[able], target[able] % self._columns
        # Each output takes the channel that it has served least recently.
        places = asking // self._routers * self._columns + output
        when = self._served[places]
        requests = np.full(len(self._served), _NEVER, np.int32)
        requests[places] = when
        won = when == requests.reshape(-1, self._columns).min(axis=0)[output]
        self._served[places[won]] = self.cycle
        return asking[won], waiting[target == self._drop]

    def _leave(self, granted: Array, dropped: Array) -> Array:
        """Flits leave their buffers for links; returns buffers with a new packet in front."""
        buffers = np.concatenate([granted, dropped]) if dropped.size else granted
        flits = self._front(buffers)
        self._read[buffers] += 1
        self._space[buffers] += 1
        ends = flits & _LAST > 0
        self._owner[self._target[granted]] = np.where(ends[:granted.size], NONE, granted)
        self._links = self._downstream[granted], flits[:granted.size]
        if self._copies:
            ends &= ~self._read_again(granted, ends)
        fronts = buffers[ends]
        return fronts[self._written[fronts] > self._read[fronts]]

    def _arrive(self, buffers: Array, flits: Array) -> None:
        place = self._written[buffers]
        self._queue[buffers * self._capacity + (place & self._capacity - 1)] = flits
        self._written[buffers] = place + 1
        self._space[buffers] -= 1

    def _route(self, buffers: Array) -> None:
        """Look up the way of the packets that have come to the front of buffers."""
        if not buffers.size:
            return
        packets = self._front(buffers) >> 2
        header = self._headers[packets]
        channel, place = buffers // self._columns, buffers % self._columns
        arrived, router = place // self._routers, place % self._routers
        port, channel = self._tables.ways(
            router % len(self._places), arrived, channel,
            [header >> 6 * d & 63 for d in range(len(self.topology.sizes))], header >> 12 & 3,
            header >> 14 & 7)
        target = channel.astype(np.int64) * self._columns + port * self._routers + router
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
            self._places[router % len(self._places)], self._tables.ports[port], channel,
            Address.decode(int(self._sources[packet])), Address(0), True)
        outputs = [hop.channel * self._columns
                   + self._tables.ports.index(hop.output) * self._routers + router for hop in hops]
        return outputs, int(self._lengths[packet])

    def _choose_copies(self) -> None:
        """Choose the next output of packets that are there as a whole."""
        for buffer, (outputs, length) in self._copies.items():
            if self._target[buffer] == self._wait and self._room - self._space[buffer] >= length:
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
                self._space[buffer] -= 1
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
