"""Between a terminal and its node: what the node does wrong stays with the node."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.packets import NetworkCause
from ulpsim.interconnect.topology import Address

from .interface import NetworkFault
from .link import FlitLayout, HeaderLayout, flit_stream

__all__ = ["Guard"]


class Guard(wiring.Component):
    """Keeps a node that stalls, falls silent or is in reset from stopping the network.

    - STALLED: a flit has been offered to the node for `patience` cycles. From then on what comes
      for the node is thrown away, so that others go on.
    - SILENT: the node has begun a packet and not gone on for `patience` cycles. The packet is ended
      by its header again, marked as first and last at once, which goes the same way; a `Receiver`
      takes that for a packet of a wrong length, of this node. The rest that the node may still
      send of it is thrown away.
    - RESET: the node is in reset. Both at once, and nothing is taken from the node.

    A node that was cut off is connected again, at the beginning of a packet, by `reconnect`, or, if
    it was by its reset, when that ends. Nothing of this delays a flit.

    Parameters
    ----------
    address
        The terminal, for reports.
    width
        Bits of a flit.
    patience
        Cycles, at least 2.

    Members
    -------
    from_node : In(flit_stream), to_network : Out(flit_stream)
    from_network : In(flit_stream), to_node : Out(flit_stream)
    node_reset : In(1)
        The node is in reset.
    reconnect : In(1)
    cut : Out(1)
        What comes for the node is thrown away.
    faults : Out(stream(NetworkFault))
        With the terminal's address. The latest is kept until it is taken.
    """

    from_node: Any
    to_network: Any
    from_network: Any
    to_node: Any
    node_reset: Signal
    reconnect: Signal
    cut: Signal
    faults: Any

    def __init__(self, *, address: Address, width: int = 64, patience: int = 4096) -> None:
        if not isinstance(patience, int) or patience < 2:
            raise ValueError(f"patience must be at least 2 cycles, not {patience!r}")
        self.address, self.width, self.patience = address, width, patience
        flits = flit_stream(width)
        super().__init__({
            "from_node": In(flits), "to_network": Out(flits), "from_network": In(flits),
            "to_node": Out(flits), "node_reset": In(1), "reconnect": In(1), "cut": Out(1),
            "faults": Out(stream.Signature(NetworkFault))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cause = Signal(3)
        stalled = self._to_node(m)
        silent = self._from_node(m)
        was_reset = Signal()
        m.d.sync += was_reset.eq(self.node_reset)
        with m.If(self.node_reset & ~was_reset):
            m.d.comb += cause.eq(NetworkCause.RESET)
        with m.Elif(stalled):
            m.d.comb += cause.eq(NetworkCause.STALLED)
        with m.Elif(silent):
            m.d.comb += cause.eq(NetworkCause.SILENT)
        report = self.faults.payload
        with m.If(self.faults.ready):
            m.d.sync += self.faults.valid.eq(0)
        with m.If(cause != NetworkCause.NONE):
            m.d.sync += [self.faults.valid.eq(1), report.cause.eq(cause), report.tag.eq(0),
                         report.node.eq(self.address.encode())]
        return m

    def _to_node(self, m: Module) -> Value:
        """What comes for the node; returns that it has just been cut off."""
        source, sink = self.from_network, self.to_node
        within, skips = Signal(name="within_to"), Signal()      # a packet; one that is thrown away
        waited = Signal(range(self.patience + 1), name="waited_to")
        away, late = Signal(name="away_to"), Signal()
        taken = source.valid & source.ready
        m.d.comb += [
            away.eq(self.node_reset | self.cut | skips),
            sink.payload.eq(source.payload), sink.valid.eq(source.valid & ~away),
            source.ready.eq(away | sink.ready),
            late.eq(~away & (waited == self.patience))]
        with m.If(sink.valid & ~sink.ready & ~late):
            m.d.sync += waited.eq(waited + 1)
        with m.Else():
            m.d.sync += waited.eq(0)
        with m.If(taken):
            m.d.sync += within.eq(~source.payload.last)
        # A packet of which the node has not had the beginning, or will not get the end.
        with m.If(taken & source.payload.last):
            m.d.sync += skips.eq(0)
        with m.Elif((self.cut | self.node_reset | late) & (within | taken | late)):
            m.d.sync += skips.eq(1)
        with m.If(late):
            m.d.sync += self.cut.eq(1)
        with m.Elif(self.reconnect):
            m.d.sync += self.cut.eq(0)
        return late

    def _from_node(self, m: Module) -> Value:
        """What comes from the node; returns that it has fallen silent."""
        source, sink = self.from_node, self.to_network
        header = Signal(HeaderLayout, reset_less=True)
        within, ends, skips = (Signal(name=f"{name}_from") for name in ("within", "ends", "skips"))
        waited = Signal(range(self.patience + 1), name="waited_from")
        late = Signal(name="late_from")
        end = Signal(FlitLayout(self.width))
        m.d.comb += [
            end.data.eq(header), end.first.eq(1), end.last.eq(1),
            late.eq(within & ~ends & (waited == self.patience))]
        with m.If(ends):
            m.d.comb += [sink.valid.eq(1), sink.payload.eq(end)]
            with m.If(sink.ready):
                m.d.sync += [ends.eq(0), within.eq(0)]
        with m.Elif(self.node_reset):
            m.d.sync += [ends.eq(within), skips.eq(0)]
        with m.Elif(skips & ~source.payload.first):
            m.d.comb += source.ready.eq(1)
            with m.If(source.valid & source.payload.last):
                m.d.sync += skips.eq(0)
        with m.Elif(late):
            m.d.sync += [ends.eq(1), skips.eq(1)]
        with m.Else():
            m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload),
                         source.ready.eq(sink.ready)]
            with m.If(source.valid & sink.ready):
                m.d.sync += [within.eq(~source.payload.last), skips.eq(0)]
                with m.If(source.payload.first):
                    m.d.sync += header.eq(source.payload.data[:HeaderLayout.size])
        m.d.sync += waited.eq(Mux(within & ~source.valid & ~late, waited + 1, 0))
        return late
