"""The collective engine of a node; twin of `ulpsim.interconnect.collective`."""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.interconnect.collective import MOST_NODES, Cause, Operation
from ulpsim.interconnect.topology import Topology

from ..bus import AXI4Read, AXI4Write, Response
from ..compression.reader import ReadPort
from ..compression.writer import WRITES_UNDER_WAY, BeatWriter, WritePort
from .chunks import ChunkLengths, ChunkWalk
from .collective_command import CollectiveCommand, CollectiveCompletion
from .inbox import Inbox
from .interface import Receiver, Sender
from .link import flit_stream
from .outbox import Outbox

__all__ = ["Collective"]


class Collective(wiring.Component):
    """Exchanges memory with the other nodes: all-gather, all-reduce, broadcast, barrier.

    One command at a time, as `ulpsim.interconnect.collective` has it; the nodes may begin at
    different times. Sending and taking go on side by side: a packet is passed on as its beats come
    to memory. Taking waits for memory alone, so nodes never wait for each other in a circle.

    A command ends with a cause, and the node to blame, if a packet comes damaged, is out of place
    or too long for its region (nothing is written outside of that), if the bus answers with an
    error, or if for `patience` cycles nothing has come and nothing could be sent. Then the
    regions, but for those of chunks of before, hold what happens to have come, and the table has
    not been written. The next command, of the next round, finds an engine without a memory of it; a
    packet that had been begun is still ended.

    A beat a cycle each way, if the bus takes a read and a write in every cycle, and a packet takes
    two flits more than its payload. All-reduce reads twice while it adds, so it is bound by the bus
    there to half of that. A packet is passed on two latencies of memory and some 40 cycles after
    its last flit has come.

    Parameters
    ----------
    topology, node
        The node's number in `Topology.nodes`.
    width
        Bits of a flit and of the bus.
    largest
        The most bytes of payload, a multiple of a flit.

    Members
    -------
    commands : In(stream(CollectiveCommand)), completions : Out(stream(CollectiveCompletion))
        One for each command.
    stop : In(1)
        End the command under way, with the cause STOPPED, if it does not end by itself first.
    flits_in : In(flit_stream), flits_out : Out(flit_stream)
        The terminal. Flits wait outside of commands.
    read : Out(AXI4Read), write : Out(AXI4Write)
        The bus may take as long as it likes, but must answer.
    """

    commands: Any
    completions: Any
    stop: Signal
    flits_in: Any
    flits_out: Any
    read: Any
    write: Any

    def __init__(self, *, topology: Topology, node: int, width: int = 64,
                 largest: int = 1024) -> None:
        nodes = topology.nodes
        self.count, self.node = len(nodes), node
        if self.count not in range(2, MOST_NODES + 1):
            raise ValueError(f"nodes must be from 2 to {MOST_NODES}, not {self.count}")
        if node not in range(self.count):
            raise ValueError(f"node must be from 0 to {self.count - 1}, not {node!r}")
        flits = flit_stream(width)
        if not isinstance(largest, int) or largest < 1 or largest % (width // 8):
            raise ValueError(f"largest must be a multiple of {width // 8} bytes, not {largest!r}")
        self.topology, self.bus_bytes = topology, width // 8
        self.left, self.right = (node - 1) % self.count, (node + 1) % self.count
        self.sender = Sender(topology=topology, address=nodes[node], width=width, largest=largest)
        self.receiver = Receiver(width=width, largest=largest)
        self.outbox = Outbox(destination=nodes[self.right], width=width, largest=largest)
        self.inbox = Inbox(source=nodes[self.left], width=width)
        self.writer = BeatWriter(bus_bytes=self.bus_bytes, burst_beats=16)
        self.lengths = ChunkLengths(nodes=self.count, bus_bytes=self.bus_bytes)
        self.table_writer = BeatWriter(bus_bytes=self.bus_bytes, burst_beats=2)
        self.sending = ChunkWalk(nodes=self.count, first=node)
        self.taking = ChunkWalk(nodes=self.count, first=self.left)
        super().__init__({
            "commands": In(stream.Signature(CollectiveCommand)),
            "completions": Out(stream.Signature(CollectiveCompletion)), "stop": In(1),
            "flits_in": In(flits), "flits_out": Out(flits),
            "read": Out(AXI4Read(data_bytes=self.bus_bytes)),
            "write": Out(AXI4Write(data_bytes=self.bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in ("sender", "receiver", "outbox", "inbox", "writer", "lengths", "table_writer",
                     "sending", "taking"):
            m.submodules[name] = getattr(self, name)
        sender, receiver, outbox, inbox = self.sender, self.receiver, self.outbox, self.inbox
        m.submodules.read_port = reads = ReadPort(clients=2, bus_bytes=self.bus_bytes)
        m.submodules.write_port = writes = WritePort(clients=2, bus_bytes=self.bus_bytes)
        for source, sink in (
                (wiring.flipped(self.flits_in), receiver.flits),
                (sender.flits, wiring.flipped(self.flits_out)),
                (outbox.packets, sender.commands), (outbox.payload, sender.payload),
                (receiver.packets, inbox.packets), (receiver.payload, inbox.payload),
                (inbox.beats, self.writer.beats), (self.lengths.beats, self.table_writer.beats),
                (outbox.client, reads.client_0), (inbox.client, reads.client_1),
                (self.writer.client, writes.client_0), (self.table_writer.client, writes.client_1),
                (wiring.flipped(self.read), reads.bus), (wiring.flipped(self.write), writes.bus)):
            wiring.connect(m, source, sink)
        # No command of this engine is refused: the neighbour exists, its packets are short.
        m.d.comb += sender.refused.ready.eq(1)
        self._control(m, reads, writes)
        return m

    def _control(self, m: Module, reads: Any, writes: Any) -> None:
        """Check a command, send and take its chunks, report it."""
        outbox, inbox, taking = self.outbox, self.inbox, self.taking
        command: Any = Signal(CollectiveCommand, reset_less=True)
        cause, blamed = Signal(Cause), Signal(8)
        sent, taken, sends, takes = (Signal(range(2 * self.count), name=name)
                                     for name in ("sent", "taken", "sends", "takes"))
        waited = Signal(32)
        gathers, reduces, alone = (Signal(name=name) for name in ("gathers", "reduces", "alone"))
        is_root = Signal()
        m.d.comb += [
            gathers.eq(command.operation == Operation.ALL_GATHER),
            reduces.eq(command.operation == Operation.ALL_REDUCE),
            alone.eq(command.operation == Operation.BROADCAST),
            is_root.eq(command.root == self.node),
            self.completions.payload.cause.eq(cause), self.completions.payload.node.eq(blamed)]
        wrong = self._check(m, command, gathers, reduces, alone, is_root)
        self._move(m, command, reduces, alone)
        flushed = self.writer.idle & writes.quiet
        m.d.comb += [inbox.flushed.eq(flushed), self.writer.ending.eq(inbox.ending),
                     self.table_writer.address.eq(command.table),
                     self.table_writer.ending.eq(self.lengths.done)]
        wrong_bus = Cat(outbox.error[1], inbox.error[1], writes.error[1]).any()
        slave_error = Mux(outbox.error[1], outbox.error,
                          Mux(inbox.error[1], inbox.error, writes.error)) == Response.SLAVE_ERROR
        bus_cause = Mux(slave_error, Cause.SLAVE_ERROR, Cause.DECODE_ERROR)

        def fail(why: Any, node: Any) -> None:
            m.d.sync += [cause.eq(why), blamed.eq(node)]
            m.next = "STOP"

        with m.FSM(name="control"):
            with m.State("IDLE"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [command.eq(self.commands.payload), cause.eq(Cause.NONE),
                             blamed.eq(0), taken.eq(0), waited.eq(0)]
                with m.If(self.commands.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                steps = Mux(reduces, 2 * (self.count - 1), self.count - 1)
                m.d.sync += [
                    sent.eq(alone & ~is_root), takes.eq(Mux(alone, ~is_root, steps)),
                    sends.eq(Mux(alone, (~is_root) + (command.root != self.right), steps))]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [self.sending.load.eq(1), taking.load.eq(1)]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.next = "RUN"
                m.d.comb += [self.lengths.write_enable.eq(1),
                             self.lengths.write.number.eq(self.sending.number),
                             self.lengths.write.bytes.eq(command.bytes)]
                with m.If(wrong != Cause.NONE):
                    m.d.sync += [cause.eq(wrong), blamed.eq(self.node)]
                    m.next = "REPORT"
            with m.State("RUN"):
                # Sums replace what this node has sent: they depend on it, so none comes before, but
                # from a neighbour that sends nonsense.
                safe = ~reduces | (taken < sent + (self.count - 1))
                m.d.comb += [
                    inbox.begin.eq(inbox.idle & (taken != takes) & safe),
                    outbox.begin.eq(outbox.idle & (sent != sends) & (taken + 1 >= sent)),
                    outbox.complete.eq(taken >= sent), self.writer.begin.eq(inbox.begin),
                    taking.step.eq(inbox.done), self.sending.step.eq(outbox.done),
                    self.lengths.write_enable.eq(inbox.done),
                    self.lengths.write.number.eq(taking.number),
                    self.lengths.write.bytes.eq(inbox.bytes),
                    self.receiver.faults.ready.eq(1)]
                m.d.sync += [sent.eq(sent + outbox.done), taken.eq(taken + inbox.done)]
                with m.If(inbox.came | (self.flits_out.valid & self.flits_out.ready)):
                    m.d.sync += waited.eq(0)
                with m.Else():
                    m.d.sync += waited.eq(waited + 1)
                with m.If((sent == sends) & (taken == takes)):
                    m.next = "REPORT"
                    with m.If(gathers):
                        m.d.comb += [self.lengths.begin.eq(1), self.table_writer.begin.eq(1)]
                        m.next = "TABLE"
                with m.Elif(waited >= command.patience):
                    fail(Cause.TIMEOUT, Mux(taken != takes, taking.number, self.right))
                self._watch(m, fail)
                with m.If(wrong_bus):
                    fail(bus_cause, self.node)
                with m.If(self.stop):
                    fail(Cause.STOPPED, self.node)
            with m.State("TABLE"):
                with m.If(self.lengths.done & self.table_writer.idle & writes.quiet):
                    m.next = "REPORT"
                with m.If(wrong_bus):
                    fail(bus_cause, self.node)
            with m.State("STOP"):
                m.d.comb += [inbox.stop.eq(1), outbox.stop.eq(1)]
                with m.If(inbox.idle & flushed & self.lengths.done & self.table_writer.idle):
                    m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.next = "IDLE"

    def _move(self, m: Module, command: Any, reduces: Value, alone: Value) -> None:
        """Where the next chunks are, and how long."""
        outbox, inbox, taking, sending = self.outbox, self.inbox, self.taking, self.sending
        span = Signal(40)
        m.d.sync += span.eq(command.pitch * (self.count - 1))
        for walk in (sending, taking):
            m.d.comb += [
                walk.address.eq(command.address), walk.bytes.eq(command.bytes),
                walk.pitch.eq(command.pitch), walk.span.eq(span), walk.alone.eq(alone),
                walk.only.eq(command.root)]
        m.d.comb += [
            self.lengths.number.eq(sending.number),
            outbox.address.eq(sending.place), outbox.chunk.eq(sending.number),
            outbox.round.eq(command.round),
            inbox.address.eq(taking.place), inbox.chunk.eq(taking.number),
            inbox.round.eq(command.round), inbox.exact.eq(reduces),
            inbox.add.eq(reduces & ~self._second_half(m, taking)),
            self.writer.address.eq(taking.place),
            outbox.written.eq(Mux(outbox.complete, outbox.bytes, self._written(m)))]
        with m.If(~outbox.complete):
            m.d.comb += outbox.bytes.eq(inbox.bytes)
        with m.Elif(reduces):
            m.d.comb += outbox.bytes.eq(sending.piece)
        with m.Elif(command.operation != Operation.BARRIER):
            m.d.comb += outbox.bytes.eq(self.lengths.bytes)
        with m.If(reduces):
            m.d.comb += inbox.limit.eq(taking.piece)
        with m.Elif(command.operation != Operation.BARRIER):
            m.d.comb += inbox.limit.eq(command.pitch)

    def _written(self, m: Module) -> Value:
        """Bytes of the chunk that is being taken that are in memory, in whole beats."""
        inbox, client = self.inbox, self.writer.client
        m.submodules.bursts = bursts = SyncFIFO(width=8, depth=WRITES_UNDER_WAY)
        request = client.requests
        beats = Signal(32, name="beats_written")
        m.d.comb += [bursts.w_en.eq(request.valid & request.ready),
                     bursts.w_data.eq(request.payload.length), bursts.r_en.eq(client.answered)]
        with m.If(inbox.begin | inbox.done):
            m.d.sync += beats.eq(0)
        with m.Elif(client.answered):
            m.d.sync += beats.eq(beats + bursts.r_data + 1)
        return beats << exact_log2(self.bus_bytes)

    def _second_half(self, m: Module, taking: ChunkWalk) -> Signal:
        """The chunk of the right neighbour has been taken: from there on sums come."""
        passed = Signal()
        with m.If(taking.load):
            m.d.sync += passed.eq(0)
        with m.Elif(taking.step & (taking.number == self.right)):
            m.d.sync += passed.eq(1)
        return passed

    def _watch(self, m: Module, fail: Callable[[Any, Any], None]) -> None:
        """What may come that is not right."""
        fault, terminals = self.receiver.faults, self.topology.terminals
        source = fault.payload.node
        with m.If(self.inbox.wrong):
            fail(Cause.LENGTH, self.left)
        with m.If(fault.valid):
            fail(fault.payload.cause, ((source.y * self.topology.sizes[0] + source.x) * terminals
                                       + source.terminal)[:8])

    def _check(self, m: Module, command: Any, gathers: Value, reduces: Value, alone: Value,
               is_root: Value) -> Signal:
        """The first rule that the command breaks; it is known two cycles after the command."""
        low, limit = exact_log2(self.bus_bytes), 1 << 32
        span, end, table_end = Signal(41), Signal(42), Signal(34)
        m.d.sync += span.eq(Mux(reduces | gathers, command.pitch * self.count, command.pitch))
        m.d.sync += [end.eq(command.address + Mux(reduces, command.bytes, span)),
                     table_end.eq(command.table + 4 * self.count)]
        wrong = Signal(Cause)
        rules = (
            (alone & (command.root >= self.count), Cause.ROOT),
            (Cat(command.address[:low], command.pitch[:low],
                 command.table[:low] & gathers.replicate(low),
                 command.bytes[:2] & reduces.replicate(2)).any(), Cause.MISALIGNED),
            ((end > limit) | (gathers & (table_end > limit)), Cause.RANGE),
            ((command.bytes > Mux(reduces, span, command.pitch)) & (~alone | is_root),
             Cause.LENGTH))
        with m.If(command.operation != Operation.BARRIER):
            for broken, cause in reversed(rules):
                with m.If(broken):
                    m.d.comb += wrong.eq(cause)
        return wrong
