"""A terminal's interface to the network: payload to packets, packets to payload.

Twins: `ulpsim.interconnect.packets.packetise` and `receive`.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from ulpsim.interconnect.packets import LARGEST_PAYLOAD, NetworkCause, packet_flits
from ulpsim.interconnect.router import DEPTH, largest_multicast
from ulpsim.interconnect.topology import Address, Topology

from ..compression.crc import Crc32
from .link import AddressLayout, FlitLayout, HeaderLayout, flit_stream

__all__ = ["NetworkFault", "Receiver", "SendCommand", "Sender"]

_CAUSE_BITS = 3


class SendCommand(data.Struct):
    """A packet to send: the fields of its header but for the source."""

    destination: AddressLayout
    bytes: 16
    multicast: 1
    tag: 15


class NetworkFault(data.Struct):
    """What was wrong (`NetworkCause`), with a packet of whom, and its tag."""

    cause: _CAUSE_BITS
    node: AddressLayout
    tag: 15


def _exists(topology: Topology, address: Any) -> Any:
    sizes = (*topology.sizes, 1)
    return ((address.x < sizes[0]) & (address.y < sizes[1])
            & (address.terminal < topology.terminals))


class Sender(wiring.Component):
    """Makes packets: header, payload, CRC-32; one flit a cycle, two more than the payload.

    A command that cannot be carried out (no such destination; more payload than `largest`, or, of a
    multicast packet, than a router's buffer holds) is reported in `refused`, and its payload taken
    and thrown away.

    Parameters
    ----------
    topology, address
        The terminal.
    width
        Bits of a flit.
    largest
        The most bytes of payload that receivers take.
    depth
        Of the routers' buffers.

    Members
    -------
    commands : In(stream(SendCommand))
    payload : In(stream(width))
        Of each command its bytes, from the lowest of a flit's on; what is beyond the last one in
        its flit is sent as zero.
    flits : Out(flit_stream)
    refused : Out(stream(NetworkFault))
        With the terminal's own address.
    """

    commands: Any
    payload: Any
    flits: Any
    refused: Any

    def __init__(self, *, topology: Topology, address: Address, width: int = 64,
                 largest: int = 1024, depth: int = DEPTH) -> None:
        if not topology.exists(address):
            raise ValueError(f"address must be a terminal of the topology, not {address}")
        self.topology, self.address = topology, address
        self.width, self.largest, self.depth = width, _require_largest(largest), depth
        super().__init__({
            "commands": In(stream.Signature(SendCommand)), "payload": In(stream.Signature(width)),
            "flits": Out(flit_stream(width)), "refused": Out(stream.Signature(NetworkFault))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, flit = self.width, self.flits.payload
        low = exact_log2(width // 8)
        command = self.commands.payload
        m.submodules.crc = crc = Crc32(numbers=width // 32)
        header = Signal(HeaderLayout)
        left = Signal(range(packet_flits(LARGEST_PAYLOAD, width)), reset_less=True)
        tail = Signal(low, reset_less=True)      # bytes in the last flit of payload; 0 for all
        final, rest = Signal(width), Signal(width // 8)
        cause = Signal(_CAUSE_BITS)
        most_copied = (largest_multicast(self.depth) - 2) * width // 8
        m.d.comb += [
            header.destination.eq(Mux(command.multicast, 0, command.destination)),
            header.source.eq(self.address.encode()), header.bytes.eq(command.bytes),
            header.multicast.eq(command.multicast), header.tag.eq(command.tag),
            rest.eq(Mux((left == 1) & (tail != 0), (1 << tail) - 1, -1)),
            final.eq(self.payload.payload & Cat(bit.replicate(8) for bit in rest))]
        with m.If(command.bytes > Mux(command.multicast, min(most_copied, self.largest),
                                      self.largest)):
            m.d.comb += cause.eq(NetworkCause.LENGTH)
        with m.If(~command.multicast & ~_exists(self.topology, command.destination)):
            m.d.comb += cause.eq(NetworkCause.DESTINATION)
        m.d.comb += [self.refused.payload.cause.eq(cause), self.refused.payload.tag.eq(command.tag),
                     self.refused.payload.node.eq(self.address.encode()), crc.data.eq(flit.data)]
        begin = Signal()
        with m.If(begin):
            m.d.sync += [left.eq((command.bytes + width // 8 - 1) >> low),
                         tail.eq(command.bytes[:low])]
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += [flit.data.eq(header), flit.first.eq(1), crc.start.eq(1)]
                with m.If(cause == NetworkCause.NONE):
                    m.d.comb += [self.flits.valid.eq(self.commands.valid),
                                 begin.eq(self.commands.valid & self.flits.ready),
                                 crc.valid.eq(begin)]
                    with m.If(begin):
                        m.next = "PAYLOAD"
                with m.Else():
                    m.d.comb += [self.refused.valid.eq(self.commands.valid),
                                 begin.eq(self.commands.valid & self.refused.ready)]
                    with m.If(begin):
                        m.next = "REFUSED"
                m.d.comb += self.commands.ready.eq(begin)
            with m.State("PAYLOAD"):
                with m.If(left == 0):
                    m.d.comb += [flit.data.eq(crc.crc), flit.last.eq(1), self.flits.valid.eq(1)]
                    with m.If(self.flits.ready):
                        m.next = "HEADER"
                with m.Else():
                    goes = self.payload.valid & self.flits.ready
                    m.d.comb += [flit.data.eq(final), self.flits.valid.eq(self.payload.valid),
                                 self.payload.ready.eq(self.flits.ready), crc.valid.eq(goes)]
                    m.d.sync += left.eq(left - goes)
            with m.State("REFUSED"):
                m.d.comb += self.payload.ready.eq(left != 0)
                m.d.sync += left.eq(left - (self.payload.valid & self.payload.ready))
                with m.If(left == 0):
                    m.next = "HEADER"
        return m


def _require_largest(largest: int) -> int:
    if not isinstance(largest, int) or not 1 <= largest <= LARGEST_PAYLOAD:
        raise ValueError(f"largest must be from 1 to {LARGEST_PAYLOAD} bytes, not {largest!r}")
    return largest


class Receiver(wiring.Component):
    """Takes packets as a whole: only what is right comes out.

    A packet is received into a memory of at least two of the largest ones and put out when its last
    flit has shown that it is as long as its header says and that its CRC is right; a packet that is
    not is reported in `faults` and leaves nothing behind. A flit a cycle; from the last flit of a
    packet to its first payload two cycles.

    Parameters
    ----------
    width
        Bits of a flit.
    largest
        The most bytes of payload.

    Members
    -------
    flits : In(flit_stream)
        Flits before the first one of a packet are thrown away.
    packets : Out(stream(HeaderLayout)), payload : Out(stream(width))
        The headers, and the flits of payload of all packets in the same order; up to 16 headers
        wait.
    faults : Out(stream(NetworkFault))
        With the source of the packet. Receiving waits for it.
    """

    flits: Any
    packets: Any
    payload: Any
    faults: Any

    def __init__(self, *, width: int = 64, largest: int = 1024) -> None:
        self.width, self.largest = width, _require_largest(largest)
        FlitLayout(width)
        super().__init__({
            "flits": In(flit_stream(width)), "packets": Out(stream.Signature(HeaderLayout)),
            "payload": Out(stream.Signature(width)),
            "faults": Out(stream.Signature(NetworkFault))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.width
        low = exact_log2(width // 8)
        most = packet_flits(self.largest, width) - 2
        depth = 1 << ceil_log2(max(2 * most, 2))
        m.submodules.memory = memory = Memory(shape=width, depth=depth, init=[])
        m.submodules.headers = headers = SyncFIFO(width=HeaderLayout.size, depth=16)
        m.submodules.crc = crc = Crc32(numbers=width // 32)
        flit = self.flits.payload
        store, load = memory.write_port(), memory.read_port()

        # Receive: `write_at` moves with every flit, `end` with every packet that is right.
        header = Signal(HeaderLayout, reset_less=True)
        write_at, end, begin = (Signal(range(2 * depth), name=name) for name in (
            "write_at", "end", "begin"))
        expected = Signal(range(packet_flits(LARGEST_PAYLOAD, width)), reset_less=True)
        came = Signal.like(expected)
        within, settled = Signal(), Signal()
        arrived, wrong = Signal(32, reset_less=True), Signal(_CAUSE_BITS)
        take, room = Signal(), Signal()
        new = data.View(HeaderLayout, flit.data[:HeaderLayout.size])
        m.d.comb += [
            room.eq((write_at - begin)[:len(write_at)] != depth),
            self.flits.ready.eq(~settled & room), take.eq(self.flits.valid & self.flits.ready),
            crc.start.eq(take & flit.first), crc.valid.eq(take & ~flit.last),
            crc.data.eq(flit.data),
            store.addr.eq(write_at), store.data.eq(flit.data),
            store.en.eq(take & within & ~flit.first & ~flit.last & (came < most))]
        with m.If(take):
            with m.If(flit.first):
                m.d.sync += [header.eq(new), within.eq(1), came.eq(0), write_at.eq(end),
                             expected.eq((new.bytes + width // 8 - 1) >> low)]
            with m.Elif(within & ~flit.last & ~came.all()):
                m.d.sync += came.eq(came + 1)
            with m.If(store.en):
                m.d.sync += write_at.eq(write_at + 1)
            with m.If(flit.last & (within | flit.first)):
                m.d.sync += [within.eq(0), settled.eq(1), arrived.eq(flit.data)]
                # A single flit is first and last at once, and never right.
                m.d.sync += wrong.eq(Mux(flit.first, NetworkCause.LENGTH, NetworkCause.NONE))

        # Settle.
        cause = Signal(_CAUSE_BITS)
        m.d.comb += [
            cause.eq(wrong), headers.w_data.eq(header), self.faults.payload.cause.eq(cause),
            self.faults.payload.node.eq(header.source), self.faults.payload.tag.eq(header.tag)]
        with m.If((came != expected) | (header.bytes > self.largest)):
            m.d.comb += cause.eq(NetworkCause.LENGTH)
        with m.Elif((arrived != crc.crc) & (wrong == NetworkCause.NONE)):
            m.d.comb += cause.eq(NetworkCause.CRC)
        with m.If(settled):
            with m.If(cause == NetworkCause.NONE):
                m.d.comb += headers.w_en.eq(1)
                with m.If(headers.w_rdy):
                    m.d.sync += [settled.eq(0), end.eq(write_at)]
            with m.Else():
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.d.sync += [settled.eq(0), write_at.eq(end)]

        # Put out. `read_at` is a flit ahead of `begin`, what has been taken.
        read_at = Signal(range(2 * depth))
        fetched = Signal()
        follow = Signal()
        m.d.comb += [
            headers.r_en.eq(self.packets.ready), self.packets.valid.eq(headers.r_rdy),
            self.packets.payload.eq(headers.r_data), self.payload.valid.eq(fetched),
            self.payload.payload.eq(load.data), follow.eq(~fetched | self.payload.ready),
            load.en.eq(follow), load.addr.eq(read_at)]
        with m.If(follow):
            m.d.sync += fetched.eq(read_at != end)
            with m.If(read_at != end):
                m.d.sync += read_at.eq(read_at + 1)
        with m.If(fetched & self.payload.ready):
            m.d.sync += begin.eq(begin + 1)
        return m
