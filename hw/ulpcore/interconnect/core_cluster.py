"""A cluster of cores: what `ulpcore generate --cluster` writes."""

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.cluster_registers import MOST_CORES
from ulpsim.config import CoreConfig
from ulpsim.interconnect.packets import WIDTHS
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Topology

from ..bus import AXI4Lite, AXI4Read, AXI4Write
from .arbitration import ReadArbiter, WriteArbiter
from .cluster_registers import ClusterRegisters
from .core_node import CoreNode
from .guard import Guard
from .network import Network
from .port_guard import PortGuard

__all__ = ["PATIENCE", "CoreCluster"]

#: Cycles after which a node that does not take what comes for it is cut off.
PATIENCE = 1 << 20


class CoreCluster(wiring.Component):
    """Cores with their compression and collective engines, network, and one memory port.

    Each node stands behind two guards: what it does not take from the network, or has begun there
    and not ended, stops nobody else, nor does its reset what it has begun on memory. A node is held
    in reset by the register RESET; guards report it, and what it does wrong, by its number.

    Parameters
    ----------
    config
        Of each core: with an exchange unit, and a bus as wide as a link of the network.
    topology
        A core at each terminal, 2 to 16.
    largest
        As of `Collective`.
    depth
        As of `Network`.
    patience
        Cycles for which a flit may wait for its node, which must be more than nodes are ever apart
        in their programs, before the node is cut off.
    shared
        One memory port for all, in turn; else one each.

    Members
    -------
    registers : In(AXI4Lite)
        `ulpsim.cluster_registers`.
    read : Out(AXI4Read), write : Out(AXI4Write)
        Arrays of them, one a node, unless they are shared.
    interrupt : Out(1)
    """

    registers: Any
    read: Any
    write: Any
    interrupt: Any

    def __init__(self, *, config: CoreConfig, topology: Topology, largest: int = 1024,
                 depth: int = DEPTH, patience: int = PATIENCE, shared: bool = True) -> None:
        count, width = len(topology.nodes), 8 * config.bus_bytes
        if not config.exchange:
            raise ValueError(f"exchange of {config.name!r} must not be 0 in a cluster")
        if width not in WIDTHS:
            raise ValueError("bus_bytes of a core in a cluster must be one of "
                             f"{', '.join(str(w // 8) for w in WIDTHS)}, not {config.bus_bytes}")
        if count > MOST_CORES:
            raise ValueError(f"cores of a cluster must be from 2 to {MOST_CORES}, not {count}")
        self.config, self.topology, self.shared = config, topology, shared
        self.bus_bytes = config.bus_bytes
        self.nodes = [CoreNode(config=config, topology=topology, node=i, largest=largest)
                      for i in range(count)]
        self.network = Network(topology=topology, width=width, depth=depth)
        self.guards = [Guard(address=address, width=width, patience=patience)
                       for address in topology.nodes]
        self.port_guards = [PortGuard(data_bytes=self.bus_bytes) for _ in self.nodes]
        self.map = ClusterRegisters(nodes=count)
        ports = {"read": Out(AXI4Read(data_bytes=self.bus_bytes)),
                 "write": Out(AXI4Write(data_bytes=self.bus_bytes))}
        super().__init__({
            "registers": In(AXI4Lite(address_width=self.map.address_width)), "interrupt": Out(1),
            **{name: port if shared else port.array(count) for name, port in ports.items()}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        m.submodules.map = registers = self.map
        # Nodes send to their neighbours only, which are there.
        m.d.comb += [dropped.ready.eq(1) for dropped in network.dropped]
        wiring.connect(m, wiring.flipped(self.registers), registers.bus)
        m.d.comb += self.interrupt.eq(registers.interrupt)
        if self.shared:
            options = {"masters": len(self.nodes), "data_bytes": self.bus_bytes}
            m.submodules.reads = reads = ReadArbiter(**options)
            m.submodules.writes = writes = WriteArbiter(**options)
            wiring.connect(m, reads.bus, wiring.flipped(self.read))
            wiring.connect(m, writes.bus, wiring.flipped(self.write))
            ports = [(getattr(reads, f"master_{i}"), getattr(writes, f"master_{i}"))
                     for i in range(len(self.nodes))]
        else:
            ports = [(wiring.flipped(self.read[i]), wiring.flipped(self.write[i]))
                     for i in range(len(self.nodes))]
        for i, (read, write) in enumerate(ports):
            self._add_node(m, i, read, write)
        return m

    def _add_node(self, m: Module, i: int, read: Any, write: Any) -> None:
        """A node, in a domain of its own for its reset, between its guards."""
        node, guard, port, registers = (self.nodes[i], self.guards[i], self.port_guards[i],
                                        self.map)
        domain = f"node_{i}"
        m.domains += ClockDomain(domain, local=True)
        m.submodules[f"node_{i}"] = DomainRenamer(domain)(node)
        m.submodules[f"guard_{i}"] = guard
        m.submodules[f"port_guard_{i}"] = port
        for source, sink in (
                (node.read, port.node_read), (node.write, port.node_write),
                (port.read, read), (port.write, write),
                (getattr(registers, f"page_{i}"), node.registers),
                (node.flits_out, guard.from_node), (guard.to_node, node.flits_in),
                (guard.to_network, self.network.terminals_in[i]),
                (self.network.terminals_out[i], guard.from_network)):
            wiring.connect(m, source, sink)
        m.d.comb += [
            ClockSignal(domain).eq(ClockSignal()),
            ResetSignal(domain).eq(ResetSignal() | registers.reset[i]),
            guard.node_reset.eq(registers.reset[i]), port.node_reset.eq(registers.reset[i]),
            guard.reconnect.eq(registers.reconnect[i]), guard.faults.ready.eq(1),
            registers.status[i].eq(node.status), registers.cut[i].eq(guard.cut),
            registers.node_faults[i].eq(guard.faults.valid),
            registers.node_causes[i].eq(guard.faults.payload.cause)]
