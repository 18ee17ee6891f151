"""A node of a cluster of cores: a core and its collective engine at one memory port."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.interconnect.topology import Topology

from ..bus import AXI4Lite, AXI4Read, AXI4Write
from ..core import Core
from ..verilog import once
from .arbitration import ReadArbiter, WriteArbiter
from .collective import Collective
from .link import flit_stream

__all__ = ["CoreNode"]


class CoreNode(wiring.Component):
    """A core whose exchange unit starts the collective engine beside it.

    Parameters
    ----------
    config
        Of the core; with an exchange unit. Its bus is as wide as the links.
    topology, node, largest
        As of `Collective`.

    Members
    -------
    registers : In(AXI4Lite), interrupt : Out(1), status : Out(3)
        Of the core.
    flits_in : In(flit_stream), flits_out : Out(flit_stream)
    read : Out(AXI4Read), write : Out(AXI4Write)
        Of core and collective engine, in turn.
    """

    registers: Any
    interrupt: Any
    status: Any
    flits_in: Any
    flits_out: Any
    read: Any
    write: Any

    def __init__(self, *, config: CoreConfig, topology: Topology, node: int,
                 largest: int = 1024) -> None:
        self.config = config
        self.core = Core(config=config)
        self.collective = Collective(topology=topology, node=node, width=8 * config.bus_bytes,
                                     largest=largest)
        flits = flit_stream(8 * config.bus_bytes)
        super().__init__({
            "registers": In(AXI4Lite(address_width=8)), "interrupt": Out(1), "status": Out(3),
            "flits_in": In(flits), "flits_out": Out(flits),
            "read": Out(AXI4Read(data_bytes=config.bus_bytes)),
            "write": Out(AXI4Write(data_bytes=config.bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        core, collective = self.core, self.collective
        m.submodules.core = once(platform, core, f"{self.config.name}_core")
        m.submodules.collective = collective
        options = {"masters": 2, "data_bytes": self.config.bus_bytes}
        m.submodules.reads = reads = ReadArbiter(**options)
        m.submodules.writes = writes = WriteArbiter(**options)
        for i, unit in enumerate((core, collective)):
            wiring.connect(m, unit.read, getattr(reads, f"master_{i}"))
            wiring.connect(m, unit.write, getattr(writes, f"master_{i}"))
        for source, sink in ((reads.bus, wiring.flipped(self.read)),
                             (writes.bus, wiring.flipped(self.write)),
                             (wiring.flipped(self.registers), core.registers),
                             (core.collective, collective.commands),
                             (collective.completions, core.collective_done),
                             (wiring.flipped(self.flits_in), collective.flits_in),
                             (collective.flits_out, wiring.flipped(self.flits_out))):
            wiring.connect(m, source, sink)
        m.d.comb += [collective.stop.eq(core.collective_stop), core.nodes.eq(collective.count),
                     self.interrupt.eq(core.interrupt), self.status.eq(core.status)]
        return m
