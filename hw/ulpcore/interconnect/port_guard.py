"""Between a node and memory: bursts that the node's reset leaves unfinished are finished."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..bus import AXI4Read, AXI4Write, fixed_read, fixed_write

__all__ = ["PortGuard"]

#: Bursts of a node under way, each way.
_BURSTS = 16


class PortGuard(wiring.Component):
    """Keeps a node that is reset from stopping those with which it shares its memory port.

    From the first cycle of its reset on nothing is taken from the node. Bursts that it has begun
    are finished: what is read is thrown away, beats that have still to be written come with no
    strobe, so memory keeps what it had. When the reset has ended and all have been answered the
    node is connected again. Addresses and data that are written are a cycle late.

    Members
    -------
    node_read : In(AXI4Read), node_write : In(AXI4Write)
        With whole beats, INCR bursts and ID 0.
    read : Out(AXI4Read), write : Out(AXI4Write)
    node_reset : In(1)
        The node is in reset.
    """

    node_read: Any
    node_write: Any
    read: Any
    write: Any
    node_reset: Signal

    def __init__(self, *, data_bytes: int) -> None:
        read, write = AXI4Read(data_bytes=data_bytes), AXI4Write(data_bytes=data_bytes)
        super().__init__({"node_read": In(read), "node_write": In(write), "read": Out(read),
                          "write": Out(write), "node_reset": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stale, away = Signal(), Signal()
        m.d.comb += away.eq(self.node_reset | stale)
        pending = self._reads(m, away), self._writes(m, away)
        with m.If(self.node_reset):
            m.d.sync += stale.eq(1)
        with m.Elif(~pending[0] & ~pending[1]):
            m.d.sync += stale.eq(0)
        return m

    def _reads(self, m: Module, away: Signal) -> Value:
        """Returns that a burst is under way."""
        node, bus = self.node_read, self.read
        fixed_read(m, bus)
        bursts = Signal(range(_BURSTS + 1), name="reads")
        begun, ended = Signal(name="read_begun"), Signal(name="read_ended")
        m.d.comb += [
            node.arready.eq((~bus.arvalid | bus.arready) & (bursts != _BURSTS) & ~away),
            begun.eq(node.arvalid & node.arready),
            node.rid.eq(0), node.rdata.eq(bus.rdata), node.rresp.eq(bus.rresp),
            node.rlast.eq(bus.rlast), node.rvalid.eq(bus.rvalid & ~away),
            bus.rready.eq(node.rready | away), ended.eq(bus.rvalid & bus.rready & bus.rlast)]
        m.d.sync += bursts.eq(bursts + begun - ended)
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(begun):
            m.d.sync += [bus.arvalid.eq(1), bus.araddr.eq(node.araddr), bus.arlen.eq(node.arlen)]
        return bursts.any()

    def _writes(self, m: Module, away: Signal) -> Value:
        """Returns that a burst is under way."""
        node, bus = self.node_write, self.write
        fixed_write(m, bus)
        # Lengths of the bursts whose data has not all gone, and how many have not been answered.
        m.submodules.lengths = lengths = SyncFIFO(width=8, depth=_BURSTS)
        bursts, sent = Signal(range(_BURSTS + 1), name="writes"), Signal(8)
        begun, ended = Signal(name="write_begun"), Signal(name="write_ended")
        room, take, last = Signal(), Signal(), Signal()
        m.d.comb += [
            node.awready.eq((~bus.awvalid | bus.awready) & lengths.w_rdy & (bursts != _BURSTS)
                            & ~away),
            begun.eq(node.awvalid & node.awready),
            lengths.w_en.eq(begun), lengths.w_data.eq(node.awlen),
            room.eq((~bus.wvalid | bus.wready) & lengths.r_rdy),
            node.wready.eq(room & ~away), take.eq(room & (node.wvalid | away)),
            last.eq(sent == lengths.r_data), lengths.r_en.eq(take & last),
            node.bid.eq(0), node.bresp.eq(bus.bresp), node.bvalid.eq(bus.bvalid & ~away),
            bus.bready.eq(node.bready | away), ended.eq(bus.bvalid & bus.bready)]
        m.d.sync += bursts.eq(bursts + begun - ended)
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(begun):
            m.d.sync += [bus.awvalid.eq(1), bus.awaddr.eq(node.awaddr), bus.awlen.eq(node.awlen)]
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        with m.If(take):
            m.d.sync += [bus.wvalid.eq(1), bus.wlast.eq(last), bus.wdata.eq(node.wdata),
                         bus.wstrb.eq(Mux(away, 0, node.wstrb)), sent.eq(Mux(last, 0, sent + 1))]
        return bursts.any()
