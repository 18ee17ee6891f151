"""Several AXI4 masters at one port."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..bus import AXI4Read, AXI4Write, fixed_read, fixed_write
from .arbiter import LeastRecent

__all__ = ["ReadArbiter", "WriteArbiter"]

#: Bursts under way, of all masters together.
_BURSTS = 16


def _require_masters(masters: int) -> int:
    if not isinstance(masters, int) or masters < 1:
        raise ValueError(f"masters must be a positive integer, not {masters!r}")
    return masters


class ReadArbiter(wiring.Component):
    """Gives the port to the master that has had it least recently, burst by burst.

    An address is on the bus a cycle after the master has shown it, one a cycle; data passes at
    once. The bus must answer in order. A master that takes no data holds up the others.

    Members
    -------
    master_0, master_1, ... : In(AXI4Read)
        With whole beats, INCR bursts and ID 0.
    bus : Out(AXI4Read)
    """

    bus: Any

    def __init__(self, *, masters: int, data_bytes: int) -> None:
        self.masters = _require_masters(masters)
        port = AXI4Read(data_bytes=data_bytes)
        super().__init__({**{f"master_{i}": In(port) for i in range(masters)}, "bus": Out(port)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, masters = self.bus, [getattr(self, f"master_{i}") for i in range(self.masters)]
        fixed_read(m, bus)
        m.submodules.arbiter = arbiter = LeastRecent(self.masters)
        m.submodules.order = order = _order(self.masters)
        free = (~bus.arvalid | bus.arready) & order.w_rdy
        m.d.comb += [arbiter.requests.eq(Cat(master.arvalid for master in masters)),
                     arbiter.served.eq(free), order.w_en.eq(free & arbiter.grants.any()),
                     order.w_data.eq(_number(m, arbiter.grants))]
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        for i, master in enumerate(masters):
            with m.If(free & arbiter.grants[i]):
                m.d.comb += master.arready.eq(1)
                m.d.sync += [bus.arvalid.eq(1), bus.araddr.eq(master.araddr),
                             bus.arlen.eq(master.arlen)]
            m.d.comb += [master.rid.eq(0), master.rdata.eq(bus.rdata), master.rresp.eq(bus.rresp),
                         master.rlast.eq(bus.rlast)]
            with m.If(order.r_rdy & (order.r_data == i)):
                m.d.comb += [master.rvalid.eq(bus.rvalid), bus.rready.eq(master.rready)]
        m.d.comb += order.r_en.eq(bus.rvalid & bus.rready & bus.rlast)
        return m


class WriteArbiter(wiring.Component):
    """Gives the port to the master that has had it least recently, burst by burst.

    An address is on the bus a cycle after the master has shown it, one a cycle; data, in the order
    of the addresses, and answers pass at once. A master that shows no data, or takes no answer,
    holds up the others.

    Members
    -------
    master_0, master_1, ... : In(AXI4Write)
        With whole beats, INCR bursts and ID 0.
    bus : Out(AXI4Write)
    """

    bus: Any

    def __init__(self, *, masters: int, data_bytes: int) -> None:
        self.masters = _require_masters(masters)
        port = AXI4Write(data_bytes=data_bytes)
        super().__init__({**{f"master_{i}": In(port) for i in range(masters)}, "bus": Out(port)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, masters = self.bus, [getattr(self, f"master_{i}") for i in range(self.masters)]
        fixed_write(m, bus)
        m.submodules.arbiter = arbiter = LeastRecent(self.masters)
        m.submodules.order = order = _order(self.masters)
        m.submodules.answers = answers = _order(self.masters)
        free = (~bus.awvalid | bus.awready) & order.w_rdy & answers.w_rdy
        granted, number = free & arbiter.grants.any(), _number(m, arbiter.grants)
        m.d.comb += [arbiter.requests.eq(Cat(master.awvalid for master in masters)),
                     arbiter.served.eq(free)]
        for queue in (order, answers):
            m.d.comb += [queue.w_en.eq(granted), queue.w_data.eq(number)]
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        for i, master in enumerate(masters):
            with m.If(free & arbiter.grants[i]):
                m.d.comb += master.awready.eq(1)
                m.d.sync += [bus.awvalid.eq(1), bus.awaddr.eq(master.awaddr),
                             bus.awlen.eq(master.awlen)]
            with m.If(order.r_rdy & (order.r_data == i)):
                m.d.comb += [bus.wvalid.eq(master.wvalid), master.wready.eq(bus.wready),
                             bus.wdata.eq(master.wdata), bus.wstrb.eq(master.wstrb),
                             bus.wlast.eq(master.wlast)]
            m.d.comb += [master.bid.eq(0), master.bresp.eq(bus.bresp)]
            with m.If(answers.r_rdy & (answers.r_data == i)):
                m.d.comb += [master.bvalid.eq(bus.bvalid), bus.bready.eq(master.bready)]
        m.d.comb += [order.r_en.eq(bus.wvalid & bus.wready & bus.wlast),
                     answers.r_en.eq(bus.bvalid & bus.bready)]
        return m


def _order(masters: int) -> SyncFIFO:
    """Whose bursts are under way, in order."""
    return SyncFIFO(width=max(1, ceil_log2(masters)), depth=_BURSTS)


def _number(m: Module, grants: Value) -> Signal:
    """Of the only bit that is set."""
    number = Signal(range(max(2, len(grants))), name="granted")
    for i in range(len(grants)):
        with m.If(grants[i]):
            m.d.comb += number.eq(i)
    return number
