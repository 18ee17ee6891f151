"""The load unit: LOAD and FILL, and the fetch of the program."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.isa import INDEX_BITS, INSTRUCTION_BITS, OPCODES, Cause, Segment, Target, Unit
from ulpsim.rules import PARAMETER_SLOTS

from .bursts import Bursts
from .bus import AXI4Read, Response, fixed_read
from .extent import Extent
from .unit import causes, unit_members

__all__ = ["INSTRUCTION_SLOTS", "Load", "SegmentBounds", "program_slots"]

INSTRUCTION_SLOTS = INSTRUCTION_BITS // SLOT_BITS

_FILL = next(opcode for opcode, row in OPCODES.items() if row.name == "FILL")


def program_slots(config: CoreConfig) -> int:
    """Slots of the program that are written to the instruction memory at once."""
    return min(config.banks, INSTRUCTION_SLOTS)


class SegmentBounds(data.Struct):
    """Where a segment lies in external memory, in bytes."""

    base: unsigned(32)
    size: unsigned(32)


class Load(wiring.Component):
    """Copies rows from external memory to a scratchpad, or fills activations with zeros.

    An instruction is checked as a whole before its first bus access, in this order: alignment
    (MISALIGNED_ADDRESS), the segment (SEGMENT_RANGE), the target (ACTIVATION_RANGE, WEIGHT_RANGE,
    PARAMETER_RANGE). Beats are assembled to groups, counted from the row's first slot, of as many
    slots as the scratchpad has banks (a line for the weights, `program_slots` of a program), in two
    buffers: a group for the activations waits for phase 0 in the second while the next is
    assembled in the first. Groups for other memories are written as soon as they are complete. The
    read channel is stalled only when both buffers are full, which groups of four beats never cause.

    Cycles, from the one in which an instruction is taken (0): the bursts start in 21 (a fetch: in
    2), and `ulpsim.cycles_memory` has the rest.

    Members
    -------
    instructions, retired, retired_post, fault, fault_cause, fault_index, busy, stop
        The unit interface. `stop` and the unit's own fault end everything but the bursts under
        way, whose beats are thrown away.
    fetch : In(stream)
        `address` (bytes, a multiple of the bus width) and `count` (instructions): copies them to
        the instruction memory, the first as instruction `index` modulo its size. `fetched` is the
        one-cycle pulse at its end.
    fetch_first : In(1)
        Of a fetch and an instruction that could both be taken, take the fetch.
    quiet : Out(1)
        No burst is under way.
    bus : Out(AXI4Read)
    segments : In
        Bases and sizes by segment number.
    phase : In(2)
        Turn at the activations' shared port.
    activation_enable, activation_address, activation_count, data
        Write of `count` slots of `data` at slot `address`, in phase 0 only.
    weight_enable, weight_line, data
        Write of one line of the weight memory.
    parameter_enable, parameter_line, parameter_data
        Write of one line (8 slots for each of `quarter` columns) of the parameter memory.
    program_enable, program_address, data
        Write of `program_slots` slots of the instruction memory, counted in those.
    """

    instructions: Any
    fetch: Any
    retired: Signal
    retired_post: Signal
    fault: Signal
    fault_cause: Signal
    fault_index: Signal
    busy: Signal
    stop: Signal
    fetch_first: Signal
    fetched: Signal
    quiet: Signal
    phase: Signal
    data: Signal
    activation_enable: Signal
    activation_address: Signal
    activation_count: Signal
    weight_enable: Signal
    weight_line: Signal
    parameter_enable: Signal
    parameter_line: Signal
    parameter_data: Signal
    program_enable: Signal
    program_address: Signal
    bus: Any
    segments: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        self.group_bits = config.banks * SLOT_BITS
        #: Slots that are written at once, and how many such writes make a line of parameters.
        self.granules = {Target.ACTIVATIONS: config.banks, Target.WEIGHTS: config.column_lanes,
                         Target.PARAMETERS: config.banks}
        self.parameter_groups = PARAMETER_SLOTS * config.quarter // config.banks
        super().__init__({
            **unit_members(Unit.LOAD, config),
            "fetch": In(stream.Signature(data.StructLayout({
                "address": unsigned(32), "count": range(config.fetch_block + 1),
                "index": unsigned(INDEX_BITS)}))),
            "fetch_first": In(1),
            "fetched": Out(1),
            "quiet": Out(1),
            "bus": Out(AXI4Read(data_bytes=config.bus_bytes)),
            "segments": In(data.ArrayLayout(SegmentBounds, len(Segment))),
            "phase": In(2),
            "data": Out(self.group_bits),
            "activation_enable": Out(1),
            "activation_address": Out(exact_log2(config.activation_slots)),
            "activation_count": Out(range(config.banks + 1)),
            "weight_enable": Out(1),
            "weight_line": Out(exact_log2(config.weight_lines)),
            "parameter_enable": Out(1),
            "parameter_line": Out(range(max(2, config.parameter_columns // config.quarter))),
            "parameter_data": Out(self.group_bits * self.parameter_groups),
            "program_enable": Out(1),
            "program_address": Out(range(INSTRUCTION_SLOTS // program_slots(config)
                                        * config.instruction_memory)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bus = self.config, self.bus
        fixed_read(m, bus)
        m.submodules.source = source = Extent(width=32)
        m.submodules.destination = destination = Extent(width=20)
        m.submodules.bursts = bursts = Bursts(burst_beats=config.burst_beats,
                                              outstanding=config.outstanding_reads,
                                              beat_bytes=config.bus_bytes)

        instruction: Any = Signal.like(self.instructions.payload, reset_less=True)
        fetching = Signal()
        checking = Signal()
        checked = Signal()
        starting = Signal()
        running = Signal()
        failed = Signal()
        halted = Signal()
        fill = Signal()
        begin = Signal()
        error = Signal(causes(self.config))
        row_beats = Signal(19)
        m.d.comb += [
            halted.eq(self.stop | failed),
            fill.eq((instruction.opcode == _FILL) & ~fetching),
            row_beats.eq((instruction.length + (config.bus_slots - 1))
                         >> exact_log2(config.bus_slots)),
            self.busy.eq(checking | starting | running),
            self.quiet.eq(bursts.quiet),
            self.instructions.ready.eq(~self.busy & ~halted
                                       & ~(self.fetch.valid & self.fetch_first)),
            self.fetch.ready.eq(~self.busy & ~halted
                                & (self.fetch_first | ~self.instructions.valid)),
        ]
        m.d.sync += [self.retired.eq(0), self.fetched.eq(0), self.fault.eq(0)]

        with m.If(self.instructions.valid & self.instructions.ready):
            m.d.sync += [instruction.eq(self.instructions.payload), fetching.eq(0), checking.eq(1)]
            m.d.comb += [source.start.eq(1), destination.start.eq(1)]
        with m.Elif(self.fetch.valid & self.fetch.ready):
            m.d.sync += [
                instruction.eq(0),
                instruction.rows.eq(1),
                instruction.offset.eq(self.fetch.payload.address),
                instruction.length.eq(self.fetch.payload.count << 5),
                instruction.address.eq(
                    self.fetch.payload.index[:exact_log2(config.instruction_memory)] << 5),
                instruction.index.eq(self.fetch.payload.index),
                fetching.eq(1),
                starting.eq(1),
            ]

        segment: Any = Signal(SegmentBounds, reset_less=True)
        m.d.comb += [
            source.rows.eq(self.instructions.payload.rows),
            source.pitch.eq(instruction.source_pitch),
            source.first.eq(instruction.offset),
            source.length.eq(row_beats << exact_log2(config.bus_bytes)),
            destination.rows.eq(self.instructions.payload.rows),
            destination.pitch.eq(instruction.pitch),
            destination.first.eq(instruction.address),
            destination.length.eq(instruction.length),
        ]
        found = self._check(m, instruction, fill, segment, source.end, destination.end)
        m.d.sync += [checked.eq(source.done), error.eq(found),
                     segment.eq(self.segments[instruction.segment])]
        # To begin when halted does no harm: no burst is issued and nothing written.
        with m.If(checking & checked):
            m.d.sync += checking.eq(0)
            with m.If(error == Cause.NONE):
                m.d.comb += begin.eq(1)
            with m.Elif(~halted):
                self._fail(m, failed, error, instruction)
        with m.If(starting):
            m.d.comb += begin.eq(1)
        with m.If(begin):
            m.d.sync += [starting.eq(0), running.eq(1)]

        # Read addresses.
        m.d.comb += [
            bursts.begin.eq(begin & ~fill),
            bursts.first.eq(Mux(fetching, 0, segment.base) + instruction.offset),
            bursts.rows.eq(instruction.rows),
            bursts.row_beats.eq(row_beats),
            bursts.pitch.eq(instruction.source_pitch),
            bursts.stop.eq(halted),
            bursts.done.eq(bus.rvalid & bus.rready & bus.rlast),
            bus.araddr.eq(bursts.address),
            bus.arlen.eq(bursts.length),
            bus.arvalid.eq(bursts.valid),
            bursts.ready.eq(bus.arready),
        ]

        # First buffer: beats to groups.
        words = Signal(data.ArrayLayout(8 * config.bus_bytes, config.banks // config.bus_slots),
                       reset_less=True)
        full = Signal()
        beat = Signal(range(config.banks // config.bus_slots))
        group_slots = self._group_slots(m, instruction, fetching)
        beats_left = Signal.like(row_beats, reset_less=True)
        move = Signal()
        accept = Signal()
        m.d.comb += [bus.rready.eq(halted | ~full | move), accept.eq(bus.rvalid & bus.rready)]
        with m.If(move):
            m.d.sync += full.eq(0)
        with m.If(begin):
            m.d.sync += [full.eq(0), beat.eq(0), beats_left.eq(row_beats)]
        with m.If(accept):
            m.d.sync += [words[beat].eq(bus.rdata), beat.eq(beat + 1),
                         beats_left.eq(beats_left - 1)]
            group_beats = group_slots >> exact_log2(config.bus_slots)
            with m.If((beat == group_beats - 1) | (beats_left == 1)):
                m.d.sync += [full.eq(1), beat.eq(0)]
            with m.If(beats_left == 1):
                m.d.sync += beats_left.eq(row_beats)
            with m.If(bus.rresp[1] & ~halted):
                self._fail(m, failed, Mux(bus.rresp == Response.SLAVE_ERROR,
                                          Cause.BUS_SLAVE_ERROR, Cause.BUS_DECODE_ERROR),
                           instruction)

        # Second buffer: groups to memories.
        moving = Signal()
        valid = Signal()
        last = Signal()
        write = Signal()
        row_address = Signal(20, reset_less=True)
        address = Signal(20, reset_less=True)
        slots_left = Signal(20, reset_less=True)
        rows_left = Signal(16, reset_less=True)
        row_end = Signal()
        group = Signal(self.group_bits, reset_less=True)
        group_address = Signal(20, reset_less=True)
        count = Signal(range(config.banks + 1), reset_less=True)
        next_row = Signal(20)
        # Known well before the first write: the enables of memories far apart hang on them.
        filling = Signal()
        to_activations, to_weights, to_parameters = (
            Signal(name=f"to_{target.name.lower()}")
            for target in (Target.ACTIVATIONS, Target.WEIGHTS, Target.PARAMETERS))
        m.d.sync += [
            filling.eq(fill),
            to_activations.eq(~fetching & (fill | (instruction.target == Target.ACTIVATIONS))),
            to_weights.eq(~fetching & ~fill & (instruction.target == Target.WEIGHTS)),
            to_parameters.eq(~fetching & ~fill & (instruction.target == Target.PARAMETERS)),
        ]
        m.d.comb += [
            write.eq(valid & ~halted & (~to_activations | (self.phase == 0))),
            move.eq(moving & (full | filling) & (~valid | write)),
            row_end.eq(slots_left <= group_slots),
            next_row.eq(row_address + instruction.pitch),
        ]
        with m.If(begin):
            m.d.sync += [
                moving.eq(1),
                row_address.eq(instruction.address),
                address.eq(instruction.address),
                slots_left.eq(instruction.length),
                rows_left.eq(instruction.rows),
            ]
        with m.If(write):
            m.d.sync += valid.eq(0)
            with m.If(last):
                m.d.sync += [
                    running.eq(0),
                    self.retired.eq(~fetching),
                    self.retired_post.eq(instruction.post),
                    self.fetched.eq(fetching),
                ]
        history = []
        with m.If(move):
            m.d.sync += [
                valid.eq(1),
                group.eq(Mux(filling, 0, words.as_value())),
                group_address.eq(address),
                count.eq(Mux(row_end, slots_left, group_slots)),
                last.eq(row_end & (rows_left == 1)),
                address.eq(address + group_slots),
                slots_left.eq(slots_left - group_slots),
            ]
            with m.If(row_end):
                m.d.sync += [
                    row_address.eq(next_row),
                    address.eq(next_row),
                    slots_left.eq(instruction.length),
                    rows_left.eq(rows_left - 1),
                    moving.eq(rows_left != 1),
                ]
            newer = group
            for i in range(self.parameter_groups - 1):
                previous = Signal(self.group_bits, name=f"previous_{i}", reset_less=True)
                m.d.sync += previous.eq(newer)
                history.insert(0, previous)
                newer = previous

        number = group_address >> exact_log2(config.banks)
        group_bits = exact_log2(self.parameter_groups)
        m.d.comb += [
            self.data.eq(group),
            self.activation_enable.eq(write & to_activations),
            self.activation_address.eq(group_address),
            self.activation_count.eq(count),
            self.weight_enable.eq(valid & to_weights),
            self.weight_line.eq(group_address >> exact_log2(config.column_lanes)),
            self.parameter_enable.eq(valid & to_parameters
                                     & (number[:group_bits].all() if group_bits else 1)),
            self.parameter_line.eq(number >> group_bits),
            self.parameter_data.eq(Cat(*history, group)),
            self.program_enable.eq(valid & fetching),
            self.program_address.eq(group_address >> exact_log2(program_slots(config))),
        ]
        return m

    def _group_slots(self, m: Module, instruction: Any, fetching: Value) -> Value | int:
        """Slots that the running instruction, or fetch, writes at once."""
        fetched = program_slots(self.config)
        if {*self.granules.values(), fetched} == {self.config.banks}:
            return self.config.banks
        slots = Signal(range(self.config.banks + 1), name="group_slots")
        m.d.comb += slots.eq(self.config.banks)
        with m.If(fetching):
            m.d.comb += slots.eq(fetched)
        with m.Elif((instruction.opcode != _FILL)
                    & (instruction.target == Target.WEIGHTS)):
            m.d.comb += slots.eq(self.config.column_lanes)
        return slots

    def _fail(self, m: Module, failed: Signal, cause: Value, instruction: Any) -> None:
        m.d.sync += [failed.eq(1), self.fault.eq(1), self.fault_cause.eq(cause),
                     self.fault_index.eq(instruction.index)]

    def _check(self, m: Module, instruction: Any, fill: Value, segment: Any,
               source_end: Value, destination_end: Value) -> Signal:
        """The first rule that the instruction breaks."""
        config = self.config
        error = Signal(causes(self.config))
        slots = Cat(instruction.address, instruction.length, instruction.pitch)
        granules = {Target.WEIGHTS: config.column_lanes,
                    Target.PARAMETERS: PARAMETER_SLOTS * config.quarter}
        limits = {Target.ACTIVATIONS: (config.activation_slots, Cause.ACTIVATION_RANGE),
                  Target.WEIGHTS: (config.weight_slots, Cause.WEIGHT_RANGE),
                  Target.PARAMETERS: (config.parameter_columns * PARAMETER_SLOTS,
                                      Cause.PARAMETER_RANGE)}
        with m.Switch(Mux(fill, Target.ACTIVATIONS, instruction.target)):
            for target, (limit, cause) in limits.items():
                with m.Case(target):
                    with m.If(destination_end > limit):
                        m.d.comb += error.eq(cause)
                    with m.If(~fill & (source_end > segment.size)):
                        m.d.comb += error.eq(Cause.SEGMENT_RANGE)
                    low = exact_log2(config.bus_bytes)
                    misaligned = Cat(instruction.offset[:low], instruction.source_pitch[:low])
                    if target in granules:
                        low = exact_log2(granules[target])
                        misaligned = Cat(misaligned, *(slots[i:i + low] for i in (0, 20, 40)))
                    with m.If(~fill & misaligned.any()):
                        m.d.comb += error.eq(Cause.MISALIGNED_ADDRESS)
        return error
