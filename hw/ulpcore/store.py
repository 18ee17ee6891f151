"""The store unit."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.isa import Cause, Segment, Unit

from .bursts import Bursts
from .bus import AXI4Write, Response, fixed_write
from .extent import Extent
from .load import SegmentBounds
from .scratchpad import SCRATCHPAD_READ_LATENCY
from .unit import causes, unit_members

__all__ = ["Store"]

#: Write bursts under way at once.
OUTSTANDING_WRITES = 4
#: Turn of this unit at the shared port.
READ_PHASE = 1


class Store(wiring.Component):
    """Copies rows from the activation scratchpad to external memory.

    An instruction is checked as a whole before its first access, in this order: alignment, the
    length included (MISALIGNED_ADDRESS), the segment (SEGMENT_READ_ONLY, then SEGMENT_RANGE), the
    scratchpad (ACTIVATION_RANGE). Groups of as many slots as the scratchpad has banks, counted from
    the row's first slot, are read in phase 1 into two buffers and sent beat by beat; beats of a
    burst start when its address has been issued. An instruction retires when all its bursts have
    been answered.

    Cycles, from the one in which an instruction is taken (0): bursts and reads start in 21;
    `ulpsim.cycles_memory` has the rest.

    Members
    -------
    instructions, retired, retired_post, fault, fault_cause, fault_index, busy, stop
        The unit interface. After `stop`, and after the unit's own fault, bursts whose address has
        been issued are finished with their data and no other is begun.
    quiet : Out(1)
        No burst is under way.
    bus : Out(AXI4Write)
    segments : In
        Bases and sizes by segment number.
    phase : In(2)
        Turn at the activations' shared port.
    activation_enable, activation_address, activation_count
        Read of `count` slots from slot `address`, in phase 1 only.
    activation_data : In(16 x banks)
        Its data, 3 cycles later.
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
    phase: Signal
    activation_enable: Signal
    activation_address: Signal
    activation_count: Signal
    activation_data: Signal
    bus: Any
    segments: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            **unit_members(Unit.STORE, config),
            "quiet": Out(1),
            "bus": Out(AXI4Write(data_bytes=config.bus_bytes)),
            "segments": In(data.ArrayLayout(SegmentBounds, len(Segment))),
            "phase": In(2),
            "activation_enable": Out(1),
            "activation_address": Out(exact_log2(config.activation_slots)),
            "activation_count": Out(range(config.banks + 1)),
            "activation_data": In(config.banks * SLOT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bus, group_slots = self.config, self.bus, self.config.banks
        bus_bits, beat_slots = 8 * config.bus_bytes, exact_log2(config.bus_slots)
        fixed_write(m, bus)
        m.submodules.source = source = Extent(width=20)
        m.submodules.destination = destination = Extent(width=32)
        m.submodules.bursts = bursts = Bursts(burst_beats=config.burst_beats,
                                              outstanding=OUTSTANDING_WRITES,
                                              beat_bytes=config.bus_bytes)
        m.submodules.lengths = lengths = fifo.SyncFIFO(width=len(bursts.beats),
                                                       depth=OUTSTANDING_WRITES)

        instruction: Any = Signal.like(self.instructions.payload, reset_less=True)
        checking = Signal()
        checked = Signal()
        running = Signal()
        failed = Signal()
        halted = Signal()
        begin = Signal()
        error = Signal(causes(self.config))
        segment: Any = Signal(SegmentBounds, reset_less=True)
        m.d.comb += [
            halted.eq(self.stop | failed),
            self.busy.eq(checking | running),
            self.quiet.eq(bursts.quiet),
            self.instructions.ready.eq(~self.busy & ~halted),
            source.rows.eq(self.instructions.payload.rows),
            source.pitch.eq(instruction.pitch),
            source.first.eq(instruction.address),
            source.length.eq(instruction.length),
            destination.rows.eq(self.instructions.payload.rows),
            destination.pitch.eq(instruction.target_pitch),
            destination.first.eq(instruction.offset),
            destination.length.eq(instruction.length << 1),
        ]
        m.d.sync += [self.retired.eq(0), self.fault.eq(0),
                     segment.eq(self.segments[instruction.segment])]
        with m.If(self.instructions.valid & self.instructions.ready):
            m.d.sync += [instruction.eq(self.instructions.payload), checking.eq(1)]
            m.d.comb += [source.start.eq(1), destination.start.eq(1)]
        found = self._check(m, instruction, segment, source.end, destination.end)
        m.d.sync += [checked.eq(source.done), error.eq(found)]
        # To begin when halted does no harm: no burst is issued.
        with m.If(checking & checked):
            m.d.sync += checking.eq(0)
            with m.If(error == Cause.NONE):
                m.d.sync += running.eq(1)
                m.d.comb += begin.eq(1)
            with m.Elif(~halted):
                self._fail(m, failed, error, instruction)

        # Write addresses; the lengths of the bursts issued wait for their beats.
        m.d.comb += [
            bursts.begin.eq(begin),
            bursts.first.eq(segment.base + instruction.offset),
            bursts.rows.eq(instruction.rows),
            bursts.row_beats.eq(instruction.length >> beat_slots),
            bursts.pitch.eq(instruction.target_pitch),
            bursts.stop.eq(halted),
            bursts.done.eq(bus.bvalid & bus.bready),
            bus.awaddr.eq(bursts.address),
            bus.awlen.eq(bursts.length),
            bus.awvalid.eq(bursts.valid),
            bursts.ready.eq(bus.awready),
            lengths.w_en.eq(bursts.issue),
            lengths.w_data.eq(bursts.beats),
        ]

        # Requests, and the second buffer, in which their data arrives.
        reading = Signal()
        row_address = Signal(20, reset_less=True)
        address = Signal(20, reset_less=True)
        slots_left = Signal(20, reset_less=True)
        rows_left = Signal(16, reset_less=True)
        row_end = Signal()
        next_row = Signal(20)
        arriving = Signal(SCRATCHPAD_READ_LATENCY)
        arrived = Signal()
        group = Signal(group_slots * SLOT_BITS, reset_less=True)
        group_beats = Signal(range(group_slots // config.bus_slots), reset_less=True)
        move = Signal()
        m.d.comb += [
            row_end.eq(slots_left <= group_slots),
            next_row.eq(row_address + instruction.pitch),
            self.activation_enable.eq(reading & (self.phase == READ_PHASE) & (~arrived | move)),
            self.activation_address.eq(address),
            self.activation_count.eq(Mux(row_end, slots_left, group_slots)),
        ]
        m.d.sync += arriving.eq(Cat(self.activation_enable, arriving))
        with m.If(begin):
            m.d.sync += [
                reading.eq(1),
                row_address.eq(instruction.address),
                address.eq(instruction.address),
                slots_left.eq(instruction.length),
                rows_left.eq(instruction.rows),
            ]
        with m.If(self.activation_enable):
            m.d.sync += [
                group_beats.eq((self.activation_count >> beat_slots) - 1),
                address.eq(address + group_slots),
                slots_left.eq(slots_left - group_slots),
            ]
            with m.If(row_end):
                m.d.sync += [
                    row_address.eq(next_row),
                    address.eq(next_row),
                    slots_left.eq(instruction.length),
                    rows_left.eq(rows_left - 1),
                    reading.eq(rows_left != 1),
                ]
        with m.If(move):
            m.d.sync += arrived.eq(0)
        with m.If(arriving[-1]):
            m.d.sync += [arrived.eq(1), group.eq(self.activation_data)]

        # First buffer: groups to beats.
        words = Signal(group_slots * SLOT_BITS, reset_less=True)
        beat = Signal(bus_bits, reset_less=True)
        beats_left = Signal(range(group_slots // config.bus_slots), reset_less=True)
        sending = Signal()
        send = Signal()
        sent = Signal.like(bursts.beats)
        burst_end = Signal()
        m.d.comb += [
            move.eq(arrived & (~sending | (send & (beats_left == 0)))),
            send.eq(sending & lengths.r_rdy & (~bus.wvalid | bus.wready)),
            burst_end.eq(sent + 1 == lengths.r_data),
            lengths.r_en.eq(send & burst_end),
            bus.wdata.eq(beat),
            bus.wstrb.eq(-1),
            bus.bready.eq(1),
        ]
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        with m.If(send):
            m.d.sync += [
                bus.wvalid.eq(1),
                beat.eq(words[:bus_bits]),
                bus.wlast.eq(burst_end),
                words.eq(words >> bus_bits),
                beats_left.eq(beats_left - 1),
                sent.eq(Mux(burst_end, 0, sent + 1)),
            ]
            with m.If(beats_left == 0):
                m.d.sync += sending.eq(0)
        with m.If(move):
            m.d.sync += [words.eq(group), beats_left.eq(group_beats), sending.eq(1)]

        with m.If(bus.bvalid & bus.bresp[1] & ~halted):
            self._fail(m, failed, Mux(bus.bresp == Response.SLAVE_ERROR, Cause.BUS_SLAVE_ERROR,
                                      Cause.BUS_DECODE_ERROR), instruction)
        with m.If(running & bursts.idle & bursts.quiet & ~halted):
            m.d.sync += [running.eq(0), self.retired.eq(1),
                         self.retired_post.eq(instruction.post)]
        return m

    def _fail(self, m: Module, failed: Signal, cause: Value, instruction: Any) -> None:
        m.d.sync += [failed.eq(1), self.fault.eq(1), self.fault_cause.eq(cause),
                     self.fault_index.eq(instruction.index)]

    def _check(self, m: Module, instruction: Any, segment: Any, source_end: Value,
               destination_end: Value) -> Signal:
        """The first rule that the instruction breaks."""
        error = Signal(causes(self.config))
        low = exact_log2(self.config.bus_bytes)
        with m.If(source_end > self.config.activation_slots):
            m.d.comb += error.eq(Cause.ACTIVATION_RANGE)
        with m.If(destination_end > segment.size):
            m.d.comb += error.eq(Cause.SEGMENT_RANGE)
        with m.If((instruction.segment != Segment.OUTPUT)
                  & (instruction.segment != Segment.WORKSPACE)):
            m.d.comb += error.eq(Cause.SEGMENT_READ_ONLY)
        with m.If(Cat(instruction.offset[:low], instruction.target_pitch[:low],
                      instruction.length[:low - 1]).any()):
            m.d.comb += error.eq(Cause.MISALIGNED_ADDRESS)
        return error
