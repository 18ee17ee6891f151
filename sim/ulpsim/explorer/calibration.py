"""The explorer's model of the interconnect that exists: collective engines on a network in RTL.

Links, messages and what waits for what are set so that `events.simulate` comes within 2 % of
`interconnect.collective_cycles`, which equals the RTL, where messages are long: chunks of 4 KB and
more. A second is a cycle here.

| of the RTL | in the explorer |
|---|---|
| router, two cycles a hop | a vertex for each router; links of a flit a cycle, latency 2 |
| a packet of `largest` bytes, header and CRC | a message of so many bytes and two flits |
| an empty packet behind each chunk | a message of two flits |
| reading a chunk's first beats, with nothing else to send | more bytes of its first message |
| a packet's way into memory, before it is passed on | latency of the link to an accelerator |
| a cycle in which the receiver settles a packet | that link takes a packet a cycle longer |
| sums, for which memory is read twice a beat | twice the payload; no header, no CRC |
| the last packet's way into memory, command, table | cycles added at the end |

Packets of shorter chunks are passed on before as much of them is in memory, and a barrier is
nothing but latency: for these the cycle model itself has to be asked.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..interconnect.collective import Command, Operation, links_between
from ..interconnect.packets import packet_flits
from ..interconnect.topology import Direction, Topology
from . import events
from .graph import Graph
from .schedule import Phase, Schedule

__all__ = ["Engines", "collective_cycles", "commands", "engine_schedule", "network_graph"]

#: Cycles of a hop, and of a terminal's link into and out of the network together.
_HOP = 2
#: From a packet in memory to its first flit; reading and writing a beat take a latency each beside.
_READ, _WRITE = 17, 27
#: Beats that are written, and read again, at once.
_BURST = 16
#: From the command to the first packet, and from the last beat in memory to the report.
_COMMAND = 4
#: Writing the table of an all-gather takes a latency and so many cycles.
_TABLE = 9

Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Engines:
    """What the RTL is built with: bits of a flit and of the bus, most bytes of a packet, latency of
    the memories in cycles. At each router there is one terminal, and each has its own memory."""

    width: int = 64
    largest: int = 1024
    latency: int = 16

    @property
    def flit(self) -> int:
        """Bytes."""
        return self.width // 8

    @property
    def packet(self) -> int:
        """Flits of the longest."""
        return packet_flits(self.largest, self.width)

    @property
    def taken(self) -> float:
        """Flits a cycle that a terminal takes: of each packet's cycles one is for settling it."""
        return self.packet / (self.packet + 1)


def network_graph(topology: Topology, engines: Engines) -> Graph:
    """A topology with an accelerator and a router of its own for each terminal.

    Raises ValueError for several terminals at a router.
    """
    if topology.terminals != 1:
        raise ValueError(f"terminals of a router must be 1, not {topology.terminals}")
    routers = topology.routers
    n, number = len(routers), {place: i for i, place in enumerate(routers)}
    hops = [(place, port) for place in routers for port in topology.outputs(place)
            if isinstance(port, Direction)]
    link_of = {hop: 2 * n + i for i, hop in enumerate(hops)}
    beyond = []
    for place, direction in hops:
        neighbour = topology.neighbour(place, direction)
        assert neighbour is not None
        beyond.append(number[neighbour])
    own = np.arange(n)
    source = np.concatenate([own, n + own, [n + number[place] for place, _ in hops]])
    target = np.concatenate([n + own, own, [n + end for end in beyond]])
    bandwidth = np.full(len(source), float(engines.flit))
    bandwidth[n:2 * n] *= engines.taken
    latency = np.full(len(source), float(_HOP))
    latency[:n] = 0
    latency[n:2 * n] += engines.latency + _WRITE
    ways = [[[i, *(link_of[link] for link in links_between(topology, a, b)), n + j]
             for j, b in enumerate(topology.nodes)] for i, a in enumerate(topology.nodes)]
    longest = max(len(way) for row in ways for way in row)
    table = np.array([[way + [-1] * (longest - len(way)) for way in row] for row in ways])
    return Graph(str(topology), n, 2 * n, source, target, bandwidth, latency,
                 lambda start, end: table[start, end], own, (n,), two_way=False)


def engine_schedule(count: int, operation: Operation, sizes: Sequence[int], engines: Engines, *,
                    root: int = 0) -> Schedule:
    """What `interconnect.collective` sends, packet by packet; `sizes` are the chunks'."""
    flit, steps = engines.flit, (2 if operation is Operation.ALL_REDUCE else 1) * (count - 1)
    pieces = [_pieces(size, engines) for size in sizes]
    #: A stream is a packet of a chunk.
    first = [0, *itertools.accumulate(map(len, pieces))]

    def bytes_of(chunk: int, adds: bool, begins: bool) -> list[float]:
        # Memory is what limits sums, at any terminal.
        found = [2 * engines.taken * piece if adds
                 else float(flit * packet_flits(piece, engines.width)) for piece in pieces[chunk]]
        if len(found) > 1 and (begins or not adds):
            found[0] += flit * (engines.latency + _READ)
        return found

    def phases() -> Iterator[Phase]:
        for step in range(steps):
            adds = operation is Operation.ALL_REDUCE and step < count - 1
            senders = [(root + step) % count] if operation is Operation.BROADCAST \
                else range(count)
            source, stream, size = [], [], []
            for node in senders:
                chunk = (node - step) % count
                source += [node] * len(pieces[chunk])
                stream += range(first[chunk], first[chunk + 1])
                size += bytes_of(chunk, adds, step == 0)
            begin = np.array(source, np.int64)
            end, slot = (begin + 1) % count, np.array(stream, np.int64) * count
            yield Phase(begin, end, slot + begin, slot + end, np.array(size))

    chunks = [root] if operation is Operation.BROADCAST else range(count)
    return Schedule("engines", count, first[-1], lambda: [phases()],
                    steps * sum(len(pieces[chunk]) for chunk in chunks))


def _pieces(size: int, engines: Engines) -> list[int]:
    """Bytes of payload of a chunk's packets; the last one is empty."""
    return [*(min(engines.largest, size - at) for at in range(0, size, engines.largest)), 0]


def commands(topology: Topology, operation: Operation, size: int | Sequence[int],
             engines: Engines, *, root: int = 0) -> list[Command]:
    """What the nodes are told so that they do what `collective_cycles` is asked about."""
    sizes = _chunks(topology, operation, size, engines)
    pitch = engines.flit * max(1, -(-max(sizes) // engines.flit))
    count = len(sizes)
    own = [sum(sizes)] * count if operation is Operation.ALL_REDUCE else sizes
    return [Command(operation, 0, 0, one, pitch, count * pitch, root) for one in own]


def collective_cycles(topology: Topology, operation: Operation, size: int | Sequence[int],
                      engines: Engines | None = None, *, root: int = 0,
                      simulate: Callable[[Graph, Schedule], events.Result] = events.simulate
                      ) -> float:
    """Cycles of a collective, from the command of all nodes to the last report.

    Parameters
    ----------
    size
        Bytes: ALL_GATHER of each node's chunk, one for all or one each; ALL_REDUCE of the vector,
        which is cut into equal chunks; BROADCAST of the region.
    root
        Of a BROADCAST.

    Raises ValueError for a BARRIER, which nothing is sent for, and other numbers of sizes.
    """
    engines = engines or Engines()
    sizes = _chunks(topology, operation, size, engines)
    found = simulate(network_graph(topology, engines),
                     engine_schedule(len(sizes), operation, sizes, engines, root=root))
    # The last packet has been passed on as soon as a burst of it was in memory.
    beats = -(-min(engines.largest, max(sizes)) // engines.flit)
    end = _COMMAND + max(0, beats - _BURST)
    if operation is Operation.ALL_GATHER:
        end += engines.latency + _TABLE
    return found.seconds + end


def _chunks(topology: Topology, operation: Operation, size: int | Sequence[int],
            engines: Engines) -> list[int]:
    """Bytes of the chunks, by their numbers."""
    count, flit = len(topology.nodes), engines.flit
    if operation is Operation.BARRIER:
        raise ValueError("operation must be one that moves bytes, not BARRIER")
    if not isinstance(size, int):
        if operation is not Operation.ALL_GATHER:
            raise ValueError(f"{operation.name} takes one size, not {size!r}")
        if len(size) != count:
            raise ValueError(f"sizes must be as many as the {count} nodes, not {len(size)}")
        return list(size)
    if operation is Operation.ALL_REDUCE:
        pitch = flit * -(-size // (count * flit))
        return [min(pitch, max(0, size - i * pitch)) for i in range(count)]
    return [size] * count
