"""How long collective operations take: engines, network and memories, cycle by cycle.

What `collective` says without time is said here with nothing but time: no data, and in every cycle
the same as `ulpcore.interconnect.collective` in RTL, as long as nothing goes wrong. The network is
that of `flit_model`, the engines consist of the blocks of `engine_cycles`, and `port_cycles` is
their way to memory.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from .collective import Collectives, Command, Operation
from .engine_cycles import BeatWriter, Inbox, Outbox, Packet, Receiver, Sender
from .flit_model import NONE, FlitModel, flit
from .port_cycles import Memory, ReadArbiter, ReadPort, WriteArbiter, WritePort
from .router import DEPTH
from .topology import Topology

__all__ = ["CollectiveCycles", "CollectiveTimes"]


@dataclasses.dataclass(frozen=True)
class CollectiveTimes:
    """Of each node the cycles in which it took its commands, and those in which it reported them;
    flits that have passed links."""

    begun: list[list[int]]
    ended: list[list[int]]
    flit_hops: int

    @property
    def cycles(self) -> int:
        """From the first begin to the last end."""
        return max(map(max, self.ended)) - min(map(min, self.begun))


#: A flit: the packet that it begins, whether it is one of payload, whether it is the last.
_Flit = tuple[Packet | None, bool, bool]
_NO_FLIT: _Flit = (None, False, False)


class _Walk:
    """Goes round the chunks: the number of the next, the beat where it is, its share of a
    vector."""

    def __init__(self, count: int, command: Command, first: int, bus_bytes: int) -> None:
        self.count, self.command, self.bus_bytes = count, command, bus_bytes
        self.alone = command.operation is Operation.BROADCAST
        self.number = command.root if self.alone else first

    @property
    def beat(self) -> int:
        offset = 0 if self.alone else self.command.pitch * self.number
        return (self.command.address + offset) // self.bus_bytes

    @property
    def piece(self) -> int:
        pitch = self.command.pitch
        return min(pitch, max(0, self.command.bytes - self.number * pitch))

    def step(self) -> None:
        self.number = (self.number - 1) % self.count


class _Lengths:
    """The bytes of every chunk, and their way to memory as a table."""

    def __init__(self, count: int, bus_bytes: int) -> None:
        self.bytes, self.words = [0] * count, bus_bytes // 4
        self.putting = self.full = False
        self.at = 0

    @property
    def done(self) -> bool:
        return not self.putting and not self.full

    def advance(self, begin: bool, ready: bool) -> None:
        if begin:
            self.putting, self.at = True, 0
        elif self.full:
            self.full = not ready
        elif self.putting:
            last = self.at == len(self.bytes) - 1
            self.full = last or self.at % self.words == self.words - 1
            self.putting = not last
            self.at += 1


class _Engine:
    """A node's collective engine: in a cycle it `offers` a flit, its ports settle, and it goes on
    with `advance`."""

    class State(enum.Enum):
        IDLE, LOAD, CHECK, DECIDE, RUN, TABLE, REPORT = range(7)

    def __init__(self, count: int, node: int, bus_bytes: int, largest: int) -> None:
        self.count, self.node, self.bus_bytes = count, node, bus_bytes
        self.left, self.right = (node - 1) % count, (node + 1) % count
        self.sender, self.receiver = Sender(bus_bytes), Receiver(bus_bytes, largest)
        self.outbox, self.inbox = Outbox(bus_bytes, largest), Inbox(bus_bytes)
        self.writer, self.table_writer = BeatWriter(), BeatWriter(longest=2)
        self.reads = ReadPort([self.outbox.reader, self.inbox.reader])
        self.writes = WritePort([self.writer, self.table_writer])
        self.lengths = _Lengths(count, bus_bytes)
        self.state = self.State.IDLE
        self.sent = self.taken = self.sends = self.takes = self.waited = 0
        self.second_half = False
        self.command = Command(Operation.BARRIER)
        #: Bursts of the writer that have not been answered; beats of the chunk that have.
        self.bursts: list[int] = []
        self.written = 0

    def offers(self) -> _Flit:
        packet, beat = self.outbox.packet, self.outbox.beat
        return (packet if self.sender.first(packet) else None, self.sender.body(beat),
                self.sender.last)

    def advance(self, command: Command | None, sent_flit: _Flit, came_flit: _Flit) -> bool:
        """End of the cycle, with a command for an engine that is idle; returns whether one was
        reported."""
        state, outbox, inbox, writer = self.state, self.outbox, self.inbox, self.writer
        runs = state is self.State.RUN
        flushed = writer.idle and self.writes.quiet
        accepted, packet_taken = sent_flit != _NO_FLIT, sent_flit[0] is not None
        sent, taken = runs and outbox.done(packet_taken), runs and inbox.done(flushed)
        header = self.receiver.headers[0] if self.receiver.headers else None
        came = inbox.takes_header(header is not None)
        ready, fetched = writer.ready, self.receiver.fetched
        flit_taken = inbox.takes_flit(fetched, ready)
        offered, ending = inbox.beat(fetched), inbox.ending(header is not None)
        takes_in = self._takes_in() if runs and inbox.idle else None
        sends_out = self._sends_out() if runs and outbox.idle else None
        complete = runs and self.taken >= self.sent
        known = self._known(complete) if runs else 0
        written = known if complete else self.written * self.bus_bytes
        ends = runs and self.sent == self.sends and self.taken == self.takes

        self.sender.advance(outbox.packet, outbox.beat, accepted)
        outbox.advance(begin=sends_out, bytes=known, written=written, complete=complete,
                       packet_taken=packet_taken, beat_taken=sent_flit[1])
        self._count(taken or takes_in is not None)
        writer.advance(begin=None if takes_in is None else takes_in[0], ending=ending,
                       comes=offered)
        if taken:
            self.lengths.bytes[self.taking.number] = inbox.bytes
        inbox.advance(begin=takes_in, header=header, flit_taken=flit_taken, ready=ready,
                      flushed=flushed)
        self.receiver.advance(first=came_flit[0], body=came_flit[1], last=came_flit[2],
                              header_taken=came, flit_taken=flit_taken)
        reported = self._control(ends, sent, taken, came or accepted)
        if command is not None:
            self.command, self.state = command, self.State.LOAD
            self.taken = self.waited = 0
        return reported

    def _takes_in(self) -> tuple[int, int, bool] | None:
        """The chunk that is to be taken next: its first beat, the most bytes, whether to add."""
        command = self.command
        reduces = command.operation is Operation.ALL_REDUCE
        if self.taken == self.takes or (
                reduces and self.taken >= self.sent + self.count - 1):
            return None
        limit = 0 if command.operation is Operation.BARRIER else (
            self.taking.piece if reduces else command.pitch)
        return self.taking.beat, limit, reduces and not self.second_half

    def _sends_out(self) -> int | None:
        """The first beat of the chunk that is to be sent next, if it can be begun."""
        if self.sent == self.sends or self.taken + 1 < self.sent:
            return None
        return self.sending.beat

    def _known(self, complete: bool) -> int:
        """Bytes of the chunk that is being sent, as far as they are known."""
        if not complete:
            return self.inbox.bytes
        if self.command.operation is Operation.ALL_REDUCE:
            return self.sending.piece
        if self.command.operation is Operation.BARRIER:
            return 0
        return self.lengths.bytes[self.sending.number]

    def _count(self, begins: bool) -> None:
        """Beats of the chunk that are in memory."""
        if self.writer.answered:
            beats = self.bursts.pop(0)
            self.written += beats
        if begins:
            self.written = 0
        if self.writer.granted:
            self.bursts.append(self.writer.length)

    def _control(self, ends: bool, sent: bool, taken: bool, moved: bool) -> bool:
        command, state, states = self.command, self.state, self.State
        lengths, gathers = self.lengths, command.operation is Operation.ALL_GATHER
        table_ready, table_comes = self.table_writer.ready, lengths.full
        table_ends = (lengths.done and self.table_writer.idle and self.writes.quiet)
        begins = ends and gathers
        self.table_writer.advance(
            begin=command.table // self.bus_bytes if begins else None, comes=table_comes,
            ending=lengths.done)
        lengths.advance(begins, table_ready)
        if state is states.LOAD:
            self._load()
            self.state = states.CHECK
        elif state is states.CHECK:
            self.sending = _Walk(self.count, command, self.node, self.bus_bytes)
            self.taking = _Walk(self.count, command, self.left, self.bus_bytes)
            self.second_half = False
            self.state = states.DECIDE
        elif state is states.DECIDE:
            lengths.bytes[self.sending.number] = command.bytes
            self.state = states.RUN
        elif state is states.RUN:
            if ends:
                self.state = states.TABLE if gathers else states.REPORT
            elif self.waited >= command.patience:
                raise ValueError(f"patience of node {self.node} must be longer than "
                                 f"{command.patience} cycles")
            self.waited = 0 if moved else self.waited + 1
            if taken:
                self.second_half |= self.taking.number == self.right
                self.taking.step()
            if sent:
                self.sending.step()
            self.sent += sent
            self.taken += taken
        elif state is states.TABLE and table_ends:
            self.state = states.REPORT
        elif state is states.REPORT:
            self.state = states.IDLE
            return True
        return False

    def _load(self) -> None:
        """How many chunks are sent and taken. A root has none to take; who is not has sent none,
        and what it sends first is what it takes."""
        command, count = self.command, self.count
        if command.operation is Operation.BROADCAST:
            is_root = command.root == self.node
            self.sent, self.takes = int(not is_root), int(not is_root)
            self.sends = int(not is_root) + (command.root != self.right)
        else:
            self.sent = 0
            self.sends = self.takes = (count - 1) * (
                2 if command.operation is Operation.ALL_REDUCE else 1)


class CollectiveCycles:
    """Nodes of `ulpcore.interconnect.cluster.Cluster`, whose memories do not stall.

    Parameters
    ----------
    topology, depth
        A node at each terminal; flits that a router's buffers hold.
    width
        Bits of a flit and of the bus.
    largest
        The most bytes of payload.
    latency
        Of the memories, in cycles, at least 2.
    shared
        All nodes have one memory, by an arbiter; else each its own.

    Raises ValueError for what a cluster cannot be.
    """

    def __init__(self, topology: Topology, *, width: int = 64, largest: int = 1024,
                 depth: int = DEPTH, latency: int = 16, shared: bool = False) -> None:
        count = len(topology.nodes)
        # It knows the rules for clusters and for commands.
        self._rules = Collectives(topology, [np.zeros(0, np.uint8)] * count, width=width,
                                  largest=largest)
        if not isinstance(latency, int) or latency < 2:
            raise ValueError(f"latency must be at least 2 cycles, not {latency!r}")
        self.topology, self.width, self.largest = topology, width, largest
        self.depth, self.latency, self.shared = depth, latency, shared

    def run(self, commands: Sequence[Sequence[Command]],
            starts: Sequence[Sequence[int]] | None = None) -> CollectiveTimes:
        """The cycles of commands.

        Parameters
        ----------
        commands
            Of each node, as many for each; those of one place are carried out together.
        starts
            Of each node the first cycle in which each command is there; 0, if not given. It is
            taken when that of before has been reported.

        Raises ValueError for commands that do not belong together, are refused, or would end with
        a cause.
        """
        count = len(self.topology.nodes)
        self._check(commands)
        if starts is None:
            starts = [[0] * len(own) for own in commands]
        network = FlitModel(self.topology, self.depth)
        engines = [_Engine(count, node, self.width // 8, self.largest) for node in range(count)]
        memories, arbiters = self._memories(engines)
        addresses = [node.encode() for node in self.topology.nodes]
        packets: list[Packet] = []
        #: Of each node the number of the packet that it sends.
        sending = [NONE] * count
        times = CollectiveTimes([[] for _ in engines], [[] for _ in engines], 0)
        cycle = 0
        while any(len(ended) < len(own) for ended, own in zip(times.ended, commands, strict=True)):
            flits = [engine.offers() for engine in engines]
            offered = np.full(count, NONE)
            for node, (packet, body, last) in enumerate(flits):
                if packet is not None and sending[node] == NONE:
                    sending[node] = int(network.add_packets(
                        addresses[node], addresses[engines[node].right], 0)[0])
                    packets.append(packet)
                if packet is not None or body or last:
                    offered[node] = flit(sending[node], packet is not None, last)
            takes = np.array([engine.receiver.ready for engine in engines])
            accepted, leaving = network.step(offered, takes)
            for memory in memories:
                memory.settle()
            for block in (*memories, *arbiters):
                block.advance()
            for node, engine in enumerate(engines):
                engine.reads.advance()
                engine.writes.advance()
                came = _NO_FLIT
                if takes[node] and leaving[node] >= 0:
                    packet, first, last = leaving[node] >> 2, leaving[node] & 2, leaving[node] & 1
                    came = (packets[packet] if first else None, not first and not last, bool(last))
                sent = flits[node] if accepted[node] else _NO_FLIT
                if sent[2]:
                    sending[node] = NONE
                at = len(times.begun[node])
                command = None
                if engine.state is engine.State.IDLE and at < len(commands[node]) \
                        and starts[node][at] <= cycle:
                    command = commands[node][at]
                    times.begun[node].append(cycle)
                if engine.advance(command, sent, came):
                    times.ended[node].append(cycle)
            cycle += 1
        return dataclasses.replace(times, flit_hops=network.flit_hops)

    def _memories(self, engines: Sequence[_Engine]
                  ) -> tuple[list[Memory], list[ReadArbiter | WriteArbiter]]:
        """Every engine shares the port of its node, and the nodes may share a memory; arbiters
        nearer to memories come first."""
        reads = [ReadArbiter([engine.reads]) for engine in engines]
        writes = [WriteArbiter([engine.writes]) for engine in engines]
        if not self.shared:
            return [Memory(*ports, self.latency) for ports in zip(reads, writes, strict=True)], [
                *reads, *writes]
        all_reads, all_writes = ReadArbiter(reads), WriteArbiter(writes)
        return [Memory(all_reads, all_writes, self.latency)], [
            all_reads, all_writes, *reads, *writes]

    def _check(self, commands: Sequence[Sequence[Command]]) -> None:
        if len(commands) != len(self.topology.nodes) or len(set(map(len, commands))) != 1:
            raise ValueError(f"commands must be as many for each of the {len(self.topology.nodes)} "
                             f"nodes, not {', '.join(str(len(own)) for own in commands)}")
        for together in zip(*commands, strict=True):
            if len({(c.operation, c.round, c.root) for c in together}) != 1:
                raise ValueError("commands must have one operation, round and root at all nodes")
            for node, command in enumerate(together):
                if cause := self._rules.check(command, node).cause:
                    raise ValueError(f"command of node {node} must be right, it has {cause.name}")
