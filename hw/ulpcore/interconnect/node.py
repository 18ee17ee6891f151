"""A node of a cluster: compression and collective engine at one memory port."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.compression.engine import EngineCause, Operation
from ulpsim.interconnect.topology import Topology

from ..bus import AXI4Read, AXI4Write
from ..compression.engine import CompressionEngine
from ..compression.engine_command import EngineCommand, EngineCompletion
from ..verilog import once
from .arbitration import ReadArbiter, WriteArbiter
from .collective import Collective
from .collective_command import CollectiveCommand, CollectiveCompletion
from .link import flit_stream

__all__ = ["Node", "NodeCommand", "NodeCompletion", "NodeUnit"]


class NodeUnit(enum.Enum, shape=1):
    """Whose command it is."""

    COMPRESSION = 0
    COLLECTIVE = 1


class NodeCommand(data.Struct):
    """A command of one of the units. With `packed`, the bytes of a collective command are those
    that the COMPRESS before has reported (none if it failed): the packets are what is sent."""

    unit: NodeUnit
    packed: 1
    compression: EngineCommand
    collective: CollectiveCommand


class NodeCompletion(data.Struct):
    """What the unit reports."""

    unit: NodeUnit
    compression: EngineCompletion
    collective: CollectiveCompletion


class Node(wiring.Component):
    """Carries out commands of both engines, one after another.

    Parameters
    ----------
    topology, node, largest
        As of `Collective`.
    width
        Bits of a flit and of the bus.
    lanes, largest_bin
        As of `CompressionEngine`.

    Members
    -------
    commands : In(stream(NodeCommand)), completions : Out(stream(NodeCompletion))
        One for each command. The next one is begun whatever became of the one before.
    flits_in : In(flit_stream), flits_out : Out(flit_stream)
    read : Out(AXI4Read), write : Out(AXI4Write)
    """

    commands: Any
    completions: Any
    flits_in: Any
    flits_out: Any
    read: Any
    write: Any

    def __init__(self, *, topology: Topology, node: int, lanes: int, width: int = 64,
                 largest: int = 1024, **options: int) -> None:
        self.bus_bytes = width // 8
        self.compression = CompressionEngine(lanes=lanes, bus_bytes=self.bus_bytes, **options)
        self.collective = Collective(topology=topology, node=node, width=width, largest=largest)
        super().__init__({
            "commands": In(stream.Signature(NodeCommand)),
            "completions": Out(stream.Signature(NodeCompletion)),
            "flits_in": In(flit_stream(width)), "flits_out": Out(flit_stream(width)),
            "read": Out(AXI4Read(data_bytes=self.bus_bytes)),
            "write": Out(AXI4Write(data_bytes=self.bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        compression, collective = self.compression, self.collective
        m.submodules.compression = once(platform, compression, "compression_engine")
        m.submodules.collective = collective
        m.submodules.reads = reads = ReadArbiter(masters=2, data_bytes=self.bus_bytes)
        m.submodules.writes = writes = WriteArbiter(masters=2, data_bytes=self.bus_bytes)
        for i, unit in enumerate((compression, collective)):
            wiring.connect(m, unit.read, getattr(reads, f"master_{i}"))
            wiring.connect(m, unit.write, getattr(writes, f"master_{i}"))
        for source, sink in ((reads.bus, wiring.flipped(self.read)),
                             (writes.bus, wiring.flipped(self.write)),
                             (wiring.flipped(self.flits_in), collective.flits_in),
                             (collective.flits_out, wiring.flipped(self.flits_out))):
            wiring.connect(m, source, sink)

        busy, bytes_ = Signal(), Signal(32)
        unit, compresses = Signal(NodeUnit), Signal()
        command, completion = self.commands.payload, self.completions.payload
        compression_done, collective_done = compression.completions, collective.completions
        m.d.comb += [
            compression.commands.payload.eq(command.compression),
            collective.commands.payload.eq(command.collective),
            completion.unit.eq(unit), completion.compression.eq(compression_done.payload),
            completion.collective.eq(collective_done.payload)]
        with m.If(command.packed):
            m.d.comb += collective.commands.payload.bytes.eq(bytes_)
        with m.If(~busy):
            with m.If(command.unit == NodeUnit.COMPRESSION):
                m.d.comb += [compression.commands.valid.eq(self.commands.valid),
                             self.commands.ready.eq(compression.commands.ready)]
            with m.Else():
                m.d.comb += [collective.commands.valid.eq(self.commands.valid),
                             self.commands.ready.eq(collective.commands.ready)]
            m.d.sync += [busy.eq(self.commands.valid & self.commands.ready), unit.eq(command.unit),
                         compresses.eq(command.compression.operation == Operation.COMPRESS)]
        with m.Else():
            ended = Signal()
            with m.If(unit == NodeUnit.COMPRESSION):
                m.d.comb += [self.completions.valid.eq(compression_done.valid),
                             compression_done.ready.eq(self.completions.ready)]
                with m.If(ended & compresses):
                    good = compression_done.payload.cause == EngineCause.NONE
                    m.d.sync += bytes_.eq(Mux(good, compression_done.payload.bytes, 0))
            with m.Else():
                m.d.comb += [self.completions.valid.eq(collective_done.valid),
                             collective_done.ready.eq(self.completions.ready)]
            m.d.comb += ended.eq(self.completions.valid & self.completions.ready)
            m.d.sync += busy.eq(~ended)
        return m
