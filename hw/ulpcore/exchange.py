"""The exchange unit: instructions become commands of the compression and the collective engine."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.compression import engine as compression
from ulpsim.config import CoreConfig
from ulpsim.interconnect import collective
from ulpsim.isa import OPCODES, Cause, Segment, Unit

from .compression.engine_command import EngineCommand, EngineCompletion
from .extent import Extent
from .interconnect.collective_command import CollectiveCommand, CollectiveCompletion
from .load import SegmentBounds
from .unit import unit_members

__all__ = ["Exchange", "ExchangeFault"]

_OPCODES = {row.name: row.opcode for row in OPCODES.values() if row.unit is Unit.EXCHANGE}


class ExchangeFault(data.Struct):
    """The register EXCHANGE_FAULT; `ulpsim.exchange.detail`."""

    cause: 4
    detail: 4
    place: 2
    _spare: 2
    who: 10


class Exchange(wiring.Component):
    """Gives one command after another to the engines; twin of `ulpsim.exchange`.

    An instruction is checked as a whole before it is given to an engine: alignment
    (MISALIGNED_ADDRESS), then the segments of what it writes (SEGMENT_READ_ONLY), then the ends of
    all regions (SEGMENT_RANGE). That takes some 25 cycles. It retires when the engine reports that
    it has done it; how long that takes is a matter of memory and network, and not predicted. If the
    engine reports a cause, the unit's fault is that of the bus, or COMPRESSION or COLLECTIVE.

    Members
    -------
    instructions, retired, retired_post, fault, fault_cause, fault_index, busy, stop
        The unit interface. After `stop` a command under way is aborted, and nothing retires.
    quiet : Out(1)
        No engine has a command.
    segments : In
        Bases and sizes by segment number.
    step : In(10), round : In(6), nodes : In(9)
        The registers STEP and ROUND; nodes of the network.
    exchange_fault : Out(ExchangeFault)
        Of the engine that has failed, until the next reset.
    commands : Out(stream(EngineCommand)), completions : In(stream(EngineCompletion))
        Of the compression engine.
    collective : Out(stream(CollectiveCommand)), collective_done : In(stream(CollectiveCompletion))
    abort : Out(1)
        To both engines: end the command under way.
    """

    instructions: Any
    retired: Signal
    retired_post: Signal
    fault: Signal
    fault_cause: Signal
    fault_index: Signal
    busy: Signal
    stop: Signal
    quiet: Signal
    segments: Any
    step: Signal
    round: Signal
    nodes: Signal
    exchange_fault: Any
    commands: Any
    completions: Any
    collective: Any
    collective_done: Any
    abort: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            **unit_members(Unit.EXCHANGE, config),
            "quiet": Out(1),
            "segments": In(data.ArrayLayout(SegmentBounds, len(Segment))),
            "step": In(10), "round": In(6), "nodes": In(9),
            "exchange_fault": Out(ExchangeFault),
            "commands": Out(stream.Signature(EngineCommand)),
            "completions": In(stream.Signature(EngineCompletion)),
            "collective": Out(stream.Signature(CollectiveCommand)),
            "collective_done": In(stream.Signature(CollectiveCompletion)),
            "abort": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instruction: Any = Signal.like(self.instructions.payload, name="instruction",
                                       reset_less=True)
        failed, halted, collects = Signal(), Signal(), Signal()
        packed = Signal(32)
        compressed, collected = self.completions, self.collective_done
        is_compress = instruction.opcode == _OPCODES["COMPRESS"]
        m.d.comb += [halted.eq(self.stop | failed),
                     collects.eq(instruction.opcode == _OPCODES["COLLECTIVE"])]
        m.submodules.extent = extent = Extent(width=32)
        error = self._check(m, instruction, extent)
        self._commands(m, instruction, packed)
        m.d.sync += [self.retired.eq(0), self.fault.eq(0)]

        def fail(cause: Any) -> None:
            m.d.sync += [failed.eq(1), self.fault.eq(1), self.fault_cause.eq(cause),
                         self.fault_index.eq(instruction.index)]
            m.next = "IDLE"

        def report(own: Cause, bus: Any, completion: Any, fields: dict[str, Value]) -> None:
            """An engine has ended its command."""
            m.next = "IDLE"
            with m.If(~halted & (completion.cause == 0)):
                m.d.sync += [self.retired.eq(1), self.retired_post.eq(instruction.post)]
            with m.Elif(~halted):
                m.d.sync += [self.exchange_fault.cause.eq(completion.cause),
                             *(self.exchange_fault[name].eq(value)
                               for name, value in fields.items())]
                fail(Mux(completion.cause == bus.SLAVE_ERROR, Cause.BUS_SLAVE_ERROR,
                         Mux(completion.cause == bus.DECODE_ERROR, Cause.BUS_DECODE_ERROR, own)))

        with m.FSM(name="control") as control:
            m.d.comb += [self.busy.eq(~control.ongoing("IDLE")),
                         self.quiet.eq(~control.ongoing("GIVE") & ~control.ongoing("WAIT"))]
            with m.State("IDLE"):
                m.d.comb += self.instructions.ready.eq(~halted)
                with m.If(self.instructions.valid & ~halted):
                    m.d.sync += instruction.eq(self.instructions.payload)
                    m.next = "REGIONS"
            with m.State("REGIONS"):
                m.d.comb += extent.start.eq(1)
                m.next = "CHECK"
            with m.State("CHECK"), m.If(extent.done):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.next = "GIVE"
                with m.If(halted):
                    m.next = "IDLE"
                with m.Elif(error != Cause.NONE):
                    fail(error)
            with m.State("GIVE"):
                m.d.comb += [self.collective.valid.eq(collects), self.commands.valid.eq(~collects)]
                with m.If(Mux(collects, self.collective.ready, self.commands.ready)):
                    m.next = "WAIT"
                with m.Elif(halted):        # a core without a network waits here for ever
                    m.next = "IDLE"
            with m.State("WAIT"):
                m.d.comb += [self.abort.eq(halted), compressed.ready.eq(~collects),
                             collected.ready.eq(collects)]
                with m.If(collects & collected.valid):
                    report(Cause.COLLECTIVE, collective.Cause, collected.payload,
                           {"who": collected.payload.node})
                with m.Elif(~collects & compressed.valid):
                    done = compressed.payload
                    report(Cause.COMPRESSION, compression.EngineCause, done,
                           {"detail": done.detail, "place": done.place, "who": done.learner})
                    with m.If(is_compress):
                        m.d.sync += packed.eq(done.bytes)
        return m

    def _check(self, m: Module, instruction: Any, extent: Extent) -> Signal:
        """The first rule that an instruction breaks, two cycles after `extent` is done."""
        low = exact_log2(self.config.bus_bytes)
        decodes, collects, gathers, reduces, barrier = (
            Signal(name=name) for name in ("decodes", "is_collective", "gathers", "reduces",
                                           "barrier"))
        learners = Signal(10)
        operation = collective.Operation
        m.d.comb += [
            decodes.eq(instruction.opcode == _OPCODES["DECODE"]),
            collects.eq(instruction.opcode == _OPCODES["COLLECTIVE"]),
            gathers.eq(instruction.operation == operation.ALL_GATHER),
            reduces.eq(instruction.operation == operation.ALL_REDUCE),
            barrier.eq(collects & (instruction.operation == operation.BARRIER)),
            learners.eq(Mux(instruction.last_learner > instruction.learner,
                            instruction.last_learner - instruction.learner, 0)),
            # The region of several pieces: packets, or that of a collective.
            extent.pitch.eq(instruction.pitch),
            extent.first.eq(Mux(collects, instruction.address, instruction.buffer)),
            extent.length.eq(Mux(collects, Mux(reduces, instruction.bytes, instruction.pitch),
                                 instruction.capacity)),
            extent.rows.eq(Mux(collects, Mux(gathers, self.nodes, 1),
                               Mux(decodes, learners + 1, 1)))]
        # In each of three places a region, or none.
        gradient_bytes = instruction.elements << Mux(~decodes & instruction.dlfloat16, 1, 2)
        places = (
            (~collects, instruction.gradient_segment, instruction.gradient + gradient_bytes,
             decodes),
            (~decodes & (~collects | gathers),
             Mux(collects, instruction.segment, instruction.residue_segment),
             Mux(collects, instruction.table + (self.nodes << 2),
                 instruction.residue + (instruction.elements << 2)), 1),
            (1, Mux(collects, instruction.segment, instruction.buffer_segment), extent.end,
             ~decodes))
        read_only, too_long = (Signal(len(places), name=name) for name in ("read_only", "too_long"))
        for i, (there, segment, end, written) in enumerate(places):
            size = Signal(32, name=f"size_{i}", reset_less=True)
            ends = Signal(36, name=f"end_{i}", reset_less=True)
            m.d.sync += [size.eq(self.segments[segment].size), ends.eq(end)]
            m.d.comb += [
                too_long[i].eq(there & (ends > size)),
                read_only[i].eq(there & written & (segment != Segment.OUTPUT)
                                & (segment != Segment.WORKSPACE))]
        aligned = Mux(collects, Cat(instruction.address[:low], instruction.pitch[:low],
                                    instruction.table[:low] & gathers.replicate(low)),
                      Cat(instruction.gradient[:low], instruction.buffer[:low],
                          instruction.capacity[:low],
                          Mux(decodes, instruction.pitch[:low], instruction.residue[:low])))
        error = Signal(Cause, name="error")
        rules = ((aligned.any(), Cause.MISALIGNED_ADDRESS),
                 (read_only.any(), Cause.SEGMENT_READ_ONLY), (too_long.any(), Cause.SEGMENT_RANGE))
        with m.If(~barrier):
            for broken, cause in reversed(rules):
                with m.If(broken):
                    m.d.comb += error.eq(cause)
        return error

    def _commands(self, m: Module, instruction: Any, packed: Signal) -> None:
        """Addresses by the segments' bases, steps and rounds from the registers."""
        command, told = self.commands.payload, self.collective.payload
        operation = collective.Operation
        base = self.segments[instruction.segment].base
        m.d.comb += [
            command.operation.eq(Mux(instruction.opcode == _OPCODES["DECODE"],
                                     compression.Operation.DECODE, compression.Operation.COMPRESS)),
            command.step.eq(self.step + instruction.step),
            *(getattr(command, name).eq(getattr(instruction, name)) for name in (
                "append", "clear", "exact", "dlfloat16", "choose", "layer", "learner",
                "last_learner", "elements", "capacity", "pitch", "bin_size", "factor", "point",
                "scale")),
            *(getattr(command, name).eq(
                self.segments[getattr(instruction, f"{name}_segment")].base
                + getattr(instruction, name)) for name in ("gradient", "residue", "buffer")),
            told.round.eq(self.round + instruction.round),
            told.address.eq(base + instruction.address), told.table.eq(base + instruction.table),
            *(getattr(told, name).eq(getattr(instruction, name)) for name in (
                "operation", "root", "pitch", "patience")),
            told.bytes.eq(Mux(
                instruction.packed & ((instruction.operation == operation.ALL_GATHER)
                                      | (instruction.operation == operation.BROADCAST)),
                packed, instruction.bytes))]
