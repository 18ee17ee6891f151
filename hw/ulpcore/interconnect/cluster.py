"""A cluster: nodes at the terminals of a network, with a memory each or one for all."""

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Address, Ring, Topology, Torus

from ..bus import AXI4Read, AXI4Write
from .arbitration import ReadArbiter, WriteArbiter
from .guard import Guard
from .interface import Receiver, Sender
from .network import Network
from .node import Node, NodeCommand, NodeCompletion

__all__ = ["Cluster", "blocks"]


class Cluster(wiring.Component):
    """Nodes that compress gradients, exchange them over a network, and add them up.

    Parameters
    ----------
    topology, depth
        As of `Network`; a node at each terminal.
    shared
        All nodes have one memory port, in turn; else each its own.
    lanes, width, largest, largest_bin
        As of `Node`.

    Members
    -------
    commands : In(stream(NodeCommand)).array(nodes)
    completions : Out(stream(NodeCompletion)).array(nodes)
    read : Out(AXI4Read).array, write : Out(AXI4Write).array
        A port of each node, or one.
    """

    commands: Any
    completions: Any
    read: Any
    write: Any

    def __init__(self, *, topology: Topology, lanes: int, width: int = 64, largest: int = 1024,
                 depth: int = DEPTH, shared: bool = False, **options: int) -> None:
        count = len(topology.nodes)
        self.topology, self.bus_bytes, self.shared = topology, width // 8, shared
        self.nodes = [Node(topology=topology, node=i, lanes=lanes, width=width, largest=largest,
                           **options) for i in range(count)]
        self.network = Network(topology=topology, width=width, depth=depth)
        ports = 1 if shared else count
        super().__init__({
            "commands": In(stream.Signature(NodeCommand)).array(count),
            "completions": Out(stream.Signature(NodeCompletion)).array(count),
            "read": Out(AXI4Read(data_bytes=self.bus_bytes)).array(ports),
            "write": Out(AXI4Write(data_bytes=self.bus_bytes)).array(ports)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        # Nodes send to their neighbours only, which are there.
        m.d.comb += [dropped.ready.eq(1) for dropped in network.dropped]
        reads, writes = self.read, self.write
        if self.shared:
            options = {"masters": len(self.nodes), "data_bytes": self.bus_bytes}
            m.submodules.reads = read = ReadArbiter(**options)
            m.submodules.writes = write = WriteArbiter(**options)
            wiring.connect(m, read.bus, wiring.flipped(self.read[0]))
            wiring.connect(m, write.bus, wiring.flipped(self.write[0]))
        for i, node in enumerate(self.nodes):
            m.submodules[f"node_{i}"] = node
            wiring.connect(m, wiring.flipped(self.commands[i]), node.commands)
            wiring.connect(m, node.completions, wiring.flipped(self.completions[i]))
            wiring.connect(m, node.flits_out, network.terminals_in[i])
            wiring.connect(m, network.terminals_out[i], node.flits_in)
            if self.shared:
                wiring.connect(m, node.read, getattr(read, f"master_{i}"))
                wiring.connect(m, node.write, getattr(write, f"master_{i}"))
            else:
                wiring.connect(m, node.read, wiring.flipped(reads[i]))
                wiring.connect(m, node.write, wiring.flipped(writes[i]))
        return m


def blocks() -> Iterator[tuple[str, wiring.Component]]:
    """The interconnect's blocks that stand by themselves, by the names of their modules."""
    torus = Torus(2, 2)
    yield "network", Network(topology=Torus(3, 3))
    yield "sender", Sender(topology=torus, address=Address(1, 0))
    yield "receiver", Receiver()
    yield "guard", Guard(address=Address(1, 0))
    yield "cluster", Cluster(topology=Ring(2, one_way=True), lanes=1, shared=True)
