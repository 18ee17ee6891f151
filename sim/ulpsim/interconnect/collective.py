"""Collective operations of all nodes of a network: what they do to memory, and what they send.

The definition of what `ulpcore.interconnect.collective` does, byte for byte, as long as nothing
goes wrong; how long it takes is not said here. The nodes form a ring in the order of
their numbers: every one sends to its right neighbour, the node of the next number (behind the last
one the first), and takes from its left one, and only from there. So all that comes to a node comes
in one order, and there is nothing that a node could take too early.

What travels is cut into chunks. In step k node i sends chunk i - k to the right and takes chunk
i - 1 - k from the left (modulo the number n of nodes), which is what it sends in step k + 1:

- ALL_GATHER: chunk i is what node i has to tell, as long as it likes. After n - 1 steps every node
  has all of them. A chunk passes every link but the one that leads to its origin.
- BARRIER: an ALL_GATHER of empty chunks.
- ALL_REDUCE: chunk i is the i-th piece of a vector that every node has. In the first n - 1 steps
  what comes is added to what is there: chunk i becomes x[i] + x[i + 1] + ... + x[i - 1], where
  x[j] is node j's, added in this order. In n - 1 more steps the sums go round and replace what is
  there.
- BROADCAST: there is only the chunk of one node, the root.

A chunk is sent as packets of at most `largest` bytes of payload, and behind them an empty one that
says that the chunk is complete. The tag of a packet is its `Tag`.
"""

import collections
import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import float32
from .packets import WIDTHS, Header, packet_flits
from .topology import Address, Direction, Port, Topology

__all__ = ["MOST_NODES", "ROUNDS", "Cause", "Collectives", "Command", "Completion", "Link",
           "Operation", "Tag", "links_between"]

#: Nodes that a tag can name, and numbers of rounds.
MOST_NODES, ROUNDS = 256, 64
_ADDRESSES = 1 << 32


class Operation(enum.IntEnum):
    """What a command does."""

    ALL_GATHER = 0
    ALL_REDUCE = 1
    BROADCAST = 2
    BARRIER = 3


class Cause(enum.IntEnum):
    """Why a command failed; the first of them are those of `NetworkCause`."""

    NONE = 0
    LENGTH = 2          #: a packet is too long or too short, a chunk too long for its place
    CRC = 3             #: the bytes of a packet are not those that were sent
    TIMEOUT = 7         #: still waits for the node
    SLAVE_ERROR = 8     #: the bus answered SLVERR
    DECODE_ERROR = 9    #: the bus answered DECERR
    ROOT = 10           #: there is no such node
    MISALIGNED = 11     #: an address or the pitch is no multiple of the bus, or bytes none of 4
    RANGE = 12          #: beyond the last address
    STOPPED = 13        #: it was told to stop, in RTL only


@dataclasses.dataclass(frozen=True)
class Command:
    """What a node is told. Operation, round and root must be the same at all nodes.

    Attributes
    ----------
    operation
    round
        Goes with every packet: the number of the command before plus 1, modulo 64. Packets of
        earlier rounds are thrown away, those of later ones wait.
    address
        ALL_GATHER: of the buffers of all nodes, the first one's; the chunk of this node is in its
        own one. ALL_REDUCE: of the vector. BROADCAST: of the region.
    bytes
        ALL_GATHER: of this node's chunk. ALL_REDUCE: of the vector, a multiple of 4.
        BROADCAST: of the region; only the root's counts.
    pitch
        ALL_GATHER: from a buffer to the next one, and what each can hold. ALL_REDUCE: of a chunk
        of the vector; `nodes` of them must be at least `bytes`. BROADCAST: what the region can
        hold.
    table
        ALL_GATHER: address at which the bytes of all chunks are put, 4 bytes each.
    root
        BROADCAST: whose region it is.
    patience
        Cycles without any progress after which the command ends with TIMEOUT.
    """

    operation: Operation
    round: int = 0
    address: int = 0
    bytes: int = 0
    pitch: int = 0
    table: int = 0
    root: int = 0
    patience: int = 1 << 16


@dataclasses.dataclass(frozen=True)
class Completion:
    """What came of a command.

    Attributes
    ----------
    cause
    node
        The node that is to blame, by its number: of a TIMEOUT the one whose chunk has not come, or,
        if all have, the right neighbour, which does not take them; of LENGTH and CRC the source
        of the packet; else this one itself. 0 without a cause.
    """

    cause: Cause = Cause.NONE
    node: int = 0


@dataclasses.dataclass(frozen=True)
class Tag:
    """The tag of a collective packet: bits 0 to 7 the number of the chunk, 8 to 13 the round, 14
    whether the chunk is complete."""

    chunk: int
    round: int
    final: bool

    def encode(self) -> int:
        return self.chunk | self.round << 8 | self.final << 14

    @classmethod
    def decode(cls, number: int) -> "Tag":
        return cls(number & 255, number >> 8 & 63, bool(number >> 14 & 1))


#: A link: the router that it leaves, and in which direction.
Link = tuple[tuple[int, ...], Direction]


def links_between(topology: Topology, source: Address, destination: Address) -> list[Link]:
    """The links that a packet passes on its way."""
    router, arrived, channel = topology.coordinates(source), source.terminal, 0
    passed: list[Link] = []
    port: Port = arrived
    while True:
        (hop,) = topology.route(router, port, channel, source, destination, False)
        if isinstance(hop.output, int):
            return passed
        passed.append((router, hop.output))
        neighbour = topology.neighbour(router, hop.output)
        assert neighbour is not None
        router, port, channel = neighbour, hop.output, hop.channel


class Collectives:
    """All nodes beside their memories.

    Parameters
    ----------
    topology
        Its terminals are the nodes, in the order of `Topology.nodes`.
    memories
        Of each node: uint8, from address 0 on; changed in place.
    width
        Bits of a flit, and of the memory's bus.
    largest
        The most bytes of payload, a multiple of a flit.

    Attributes
    ----------
    sent
        Of each node the packets that it has sent to its right neighbour.
    """

    def __init__(self, topology: Topology, memories: Sequence[NDArray[np.uint8]], *,
                 width: int = 64, largest: int = 1024) -> None:
        self.topology, self.memories, self.nodes = topology, memories, topology.nodes
        if len(self.nodes) not in range(2, MOST_NODES + 1):
            raise ValueError(f"nodes must be from 2 to {MOST_NODES}, not {len(self.nodes)}")
        if len(memories) != len(self.nodes):
            raise ValueError(f"memories must be as many as the {len(self.nodes)} nodes, not "
                             f"{len(memories)}")
        if width not in WIDTHS:
            raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS))}, not {width!r}")
        if largest % (width // 8):
            raise ValueError(f"largest must be a multiple of {width // 8} bytes, not {largest!r}")
        self.width, self.largest = width, largest
        self.sent: list[list[tuple[Header, bytes]]] = [[] for _ in self.nodes]

    def check(self, command: Command, node: int) -> Completion:
        """What a node finds wrong with its command, before it sends or takes anything."""
        count, bus = len(self.nodes), self.width // 8
        operation, cause = command.operation, Cause.NONE
        gathers, reduces = operation is Operation.ALL_GATHER, operation is Operation.ALL_REDUCE
        if operation is Operation.BARRIER:
            return Completion()
        end = command.address + (command.bytes if reduces else
                                 command.pitch * (count if gathers else 1))
        if operation is Operation.BROADCAST and command.root >= count:
            cause = Cause.ROOT
        elif (command.address % bus or command.pitch % bus or (gathers and command.table % bus)
              or (reduces and command.bytes % 4)):
            cause = Cause.MISALIGNED
        elif end > _ADDRESSES or (gathers and command.table + 4 * count > _ADDRESSES):
            cause = Cause.RANGE
        elif command.bytes > command.pitch * (count if reduces else 1) and (
                operation is not Operation.BROADCAST or node == command.root):
            cause = Cause.LENGTH
        return Completion(cause, node if cause else 0)

    def run(self, commands: Sequence[Command]) -> list[Completion]:
        """Carry out a command of every node.

        Raises ValueError if they do not belong together or are refused (`check`).
        """
        if len(commands) != len(self.nodes):
            raise ValueError(f"commands must be as many as the {len(self.nodes)} nodes, not "
                             f"{len(commands)}")
        if len({(c.operation, c.round, c.root) for c in commands}) != 1:
            raise ValueError("commands must have one operation, round and root at all nodes")
        for node, command in enumerate(commands):
            if (cause := self.check(command, node).cause) is not Cause.NONE:
                raise ValueError(f"command of node {node} must be right, it has {cause.name}")
        action = {Operation.ALL_GATHER: self._gather, Operation.ALL_REDUCE: self._reduce,
                  Operation.BROADCAST: self._broadcast, Operation.BARRIER: self._barrier}
        action[commands[0].operation](commands)
        return [Completion() for _ in commands]

    def _gather(self, commands: Sequence[Command]) -> None:
        count = len(self.nodes)
        lengths = [command.bytes for command in commands]
        for step in range(count - 1):
            for node in range(count):
                chunk, right = (node - step) % count, (node + 1) % count
                places = [c.address + chunk * c.pitch for c in commands]
                sent = self._send(node, commands[node], chunk,
                                  self._read(node, places[node], lengths[chunk]))
                if len(sent) > commands[right].pitch:
                    raise ValueError(f"chunk of node {chunk} must fit the {commands[right].pitch} "
                                     f"bytes that node {right} has for it, not {len(sent)}")
                self._write(right, places[right], sent)
        table = np.array(lengths, "<u4").tobytes()
        for node, command in enumerate(commands):
            self._write(node, command.table, table)

    def _reduce(self, commands: Sequence[Command]) -> None:
        if len({(c.bytes, c.pitch) for c in commands}) != 1:
            raise ValueError("commands must have one size of the vector and of its chunks")
        count, size, pitch = len(self.nodes), commands[0].bytes, commands[0].pitch
        for step in range(2 * (count - 1)):
            # All at once: nobody sends in a step what comes in the same one.
            chunks = [(node - step) % count for node in range(count)]
            sent = [self._send(node, command, chunk, self._read(
                        node, command.address + chunk * pitch,
                        min(pitch, max(0, size - chunk * pitch))))
                    for node, (command, chunk) in enumerate(zip(commands, chunks, strict=True))]
            for node, (chunk, piece) in enumerate(zip(chunks, sent, strict=True)):
                right = (node + 1) % count
                place = commands[right].address + chunk * pitch
                if step < count - 1:
                    ours = self._read(right, place, len(piece))
                    piece = float32.add_array(np.frombuffer(piece, "<u4"),
                                              np.frombuffer(ours, "<u4")).astype("<u4").tobytes()
                self._write(right, place, piece)

    def _broadcast(self, commands: Sequence[Command]) -> None:
        count, root = len(self.nodes), commands[0].root
        size = commands[root].bytes
        for step in range(count - 1):
            node, right = (root + step) % count, (root + step + 1) % count
            sent = self._send(node, commands[node], root,
                              self._read(node, commands[node].address, size))
            if size > commands[right].pitch:
                raise ValueError(f"region of node {root} must fit the {commands[right].pitch} "
                                 f"bytes that node {right} has for it, not {size}")
            self._write(right, commands[right].address, sent)

    def _barrier(self, commands: Sequence[Command]) -> None:
        count = len(self.nodes)
        for step in range(count - 1):
            for node, command in enumerate(commands):
                self._send(node, command, (node - step) % count, b"")

    def _send(self, node: int, command: Command, chunk: int, data: bytes) -> bytes:
        """A chunk to the right neighbour; what comes there."""
        source, destination = self.nodes[node], self.nodes[(node + 1) % len(self.nodes)]
        for at in range(0, len(data), self.largest):
            part = data[at:at + self.largest]
            tag = Tag(chunk, command.round, False).encode()
            self.sent[node].append((Header(destination, source, len(part), tag=tag), part))
        tag = Tag(chunk, command.round, True).encode()
        self.sent[node].append((Header(destination, source, 0, tag=tag), b""))
        return data

    def _read(self, node: int, address: int, size: int) -> bytes:
        if address + size > len(self.memories[node]):
            raise ValueError(f"memory of node {node} must reach to {address + size}, it has "
                             f"{len(self.memories[node])} bytes")
        return self.memories[node][address:address + size].tobytes()

    def _write(self, node: int, address: int, data: bytes) -> None:
        if address + len(data) > len(self.memories[node]):
            raise ValueError(f"memory of node {node} must reach to {address + len(data)}, it has "
                             f"{len(self.memories[node])} bytes")
        self.memories[node][address:address + len(data)] = np.frombuffer(data, np.uint8)

    @property
    def link_bytes(self) -> dict[Link, int]:
        """The bytes that have passed each link that is used, headers and CRCs included."""
        passed: collections.Counter[Link] = collections.Counter()
        for node, packets in enumerate(self.sent):
            flits = sum(packet_flits(header.bytes, self.width) for header, _ in packets)
            for link in links_between(self.topology, self.nodes[node],
                                      self.nodes[(node + 1) % len(self.nodes)]):
                passed[link] += flits * self.width // 8
        return dict(passed)
