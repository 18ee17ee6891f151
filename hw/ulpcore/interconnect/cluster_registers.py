"""One AXI4-Lite space for a cluster: `ulpsim.cluster_registers`, and a page of each core."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from ulpsim.cluster_registers import (
    BY_NAME,
    CLUSTER_IDENTIFIER,
    CLUSTER_REGISTERS,
    MOST_CORES,
    PAGE,
)
from ulpsim.registers import Access

from ..bus import AXI4Lite, Response

__all__ = ["ClusterRegisters"]

_PAGE_BITS = ceil_log2(PAGE)


class ClusterRegisters(wiring.Component):
    """Registers and interrupt of a cluster, and the way to those of its cores.

    One access at a time, a write first if both have come. The cluster's own are answered a few
    cycles after address and data have come, those of a core a few more.

    Parameters
    ----------
    nodes
        1 to 16.

    Members
    -------
    bus : In(AXI4Lite)
    page_0, page_1, ... : Out(AXI4Lite)
        To the cores' registers.
    status : In(3 bits for each node)
        Busy, done, fault of each core.
    cut, node_faults : In(nodes), node_causes : In(3 bits for each node)
        Of the guards; a fault is a pulse.
    reset : Out(nodes), reconnect : Out(nodes)
        Reset of each node; a pulse to its guard.
    interrupt : Out(1)
    """

    bus: Any
    status: Any
    cut: Signal
    node_faults: Signal
    node_causes: Any
    reset: Signal
    reconnect: Signal
    interrupt: Signal

    def __init__(self, *, nodes: int) -> None:
        if not isinstance(nodes, int) or not 1 <= nodes <= MOST_CORES:
            raise ValueError(f"nodes must be from 1 to {MOST_CORES}, not {nodes!r}")
        self.nodes = nodes
        self.address_width = _PAGE_BITS + ceil_log2(nodes + 1)
        page = AXI4Lite(address_width=_PAGE_BITS)
        super().__init__({
            "bus": In(AXI4Lite(address_width=self.address_width)),
            **{f"page_{i}": Out(page) for i in range(nodes)},
            "status": In(data.ArrayLayout(3, nodes)), "cut": In(nodes), "node_faults": In(nodes),
            "node_causes": In(data.ArrayLayout(3, nodes)),
            "reset": Out(nodes), "reconnect": Out(nodes), "interrupt": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        values = {r.name: Signal(32, name=r.name.lower()) for r in CLUSTER_REGISTERS}
        self._values(m, values)

        address, strobe = Signal(self.address_width), Signal(4, reset_less=True)
        word, write_address = Signal(32, reset_less=True), Signal(self.address_width)
        read_address = Signal(self.address_width)
        address_held, word_held, read_held, writes = (
            Signal(name=name) for name in ("address_held", "word_held", "read_held", "writes"))
        m.d.comb += [bus.awready.eq(~address_held), bus.wready.eq(~word_held),
                     bus.arready.eq(~read_held)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address_held.eq(1), write_address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word_held.eq(1), word.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [read_held.eq(1), read_address.eq(bus.araddr)]

        page, response = address[_PAGE_BITS:], Signal(Response)
        there, answered = Signal(), Signal()
        given, data_given, offered = (Signal(name=name)
                                      for name in ("given", "data_given", "offered"))
        m.d.comb += there.eq(Cat((page == i + 1) & ~self.reset[i] for i in range(self.nodes)).any())
        m.d.sync += self.reconnect.eq(0)
        with m.FSM(name="control"):
            with m.State("IDLE"):
                m.d.sync += [writes.eq(address_held & word_held), given.eq(0), data_given.eq(0),
                             address.eq(Mux(address_held & word_held, write_address,
                                            read_address))]
                with m.If((address_held & word_held) | read_held):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [response.eq(Response.SLAVE_ERROR), bus.rdata.eq(0)]
                m.next = "ANSWER"
                with m.If(page == 0):
                    self._own(m, values, address, writes, word, strobe, response)
                with m.Elif(there):
                    m.next = "PAGE"
            with m.State("PAGE"):
                m.d.comb += offered.eq(1)
                with m.If(answered):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.sync += [bus.bvalid.eq(writes), bus.rvalid.eq(~writes),
                             bus.bresp.eq(response), bus.rresp.eq(response)]
                m.next = "TAKEN"
            with m.State("TAKEN"), m.If(Mux(writes, bus.bready, bus.rready)):
                m.d.sync += [bus.bvalid.eq(0), bus.rvalid.eq(0)]
                with m.If(writes):
                    m.d.sync += [address_held.eq(0), word_held.eq(0)]
                with m.Else():
                    m.d.sync += read_held.eq(0)
                m.next = "IDLE"
        for i in range(self.nodes):
            core, chosen = getattr(self, f"page_{i}"), Signal(name=f"chosen_{i}")
            m.d.comb += [
                chosen.eq(offered & (page == i + 1)),
                core.awaddr.eq(address[:_PAGE_BITS]), core.araddr.eq(address[:_PAGE_BITS]),
                core.wdata.eq(word), core.wstrb.eq(strobe),
                core.awvalid.eq(chosen & writes & ~given),
                core.wvalid.eq(chosen & writes & ~data_given),
                core.arvalid.eq(chosen & ~writes & ~given),
                core.bready.eq(chosen), core.rready.eq(chosen)]
            with m.If(Mux(writes, core.awvalid & core.awready, core.arvalid & core.arready)):
                m.d.sync += given.eq(1)
            with m.If(core.wvalid & core.wready):
                m.d.sync += data_given.eq(1)
            with m.If(chosen & Mux(writes, core.bvalid, core.rvalid)):
                m.d.comb += answered.eq(1)
                m.d.sync += [response.eq(Mux(writes, core.bresp, core.rresp)),
                             bus.rdata.eq(core.rdata)]
            # A report that comes while another is cleared stays.
            with m.If(self.node_faults[i]):
                m.d.sync += [values["NODE_FAULT"][i].eq(1),
                             values["NODE_CAUSE"].eq(Cat(self.node_causes[i], Value.cast(i << 5)))]
        return m

    def _values(self, m: Module, values: dict[str, Signal]) -> None:
        """What the registers hold, and the interrupt."""
        count = self.nodes
        reports = Cat(values["DONE"][:MOST_CORES] | values["FAULT"][:MOST_CORES],
                      values["NODE_FAULT"][:MOST_CORES])
        m.d.comb += [
            values["IDENTIFIER"].eq(CLUSTER_IDENTIFIER), values["NODES"].eq(count),
            *(values[name].eq(Cat(self.status[i][bit] for i in range(count)))
              for bit, name in enumerate(("BUSY", "DONE", "FAULT"))),
            values["CUT"].eq(self.cut), values["INTERRUPT_STATUS"].eq(reports),
            self.reset.eq(values["RESET"])]
        m.d.sync += self.interrupt.eq((reports & values["INTERRUPT_ENABLE"]).any())

    def _own(self, m: Module, values: dict[str, Signal], address: Signal, writes: Signal,
             word: Signal, strobe: Signal, response: Signal) -> None:
        """An access to the cluster's own registers."""
        there = (1 << self.nodes) - 1
        bits = Signal(32, name="bits")
        m.d.comb += bits.eq(word & Cat(strobe[lane].replicate(8) for lane in range(4)))
        kept = Cat((~strobe[lane]).replicate(8) for lane in range(4))
        with m.Switch(address[2:_PAGE_BITS]):
            for register in CLUSTER_REGISTERS:
                value = values[register.name]
                with m.Case(register.offset >> 2):
                    with m.If(~writes):
                        m.d.sync += response.eq(Response.OKAY)
                        if register.access is not Access.COMMAND:
                            m.d.sync += self.bus.rdata.eq(value)
                    if register.access is Access.READ:
                        continue
                    with m.Else():
                        m.d.sync += response.eq(Response.OKAY)
                        if register is BY_NAME["RECONNECT"]:
                            m.d.sync += self.reconnect.eq(bits)
                        elif register is BY_NAME["NODE_FAULT"]:
                            m.d.sync += value.eq(value & ~bits)
                        elif register is BY_NAME["RESET"]:
                            m.d.sync += value.eq((value & kept | bits) & there)
                        elif register.access is Access.WRITE:
                            m.d.sync += value.eq((value & kept | bits) & (there << 16 | there))
