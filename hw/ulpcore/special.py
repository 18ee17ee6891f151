"""The special unit: elements through the special functions to the activation scratchpad.

Everything happens in turns of four cycles, one turn a vector of N = columns * lanes elements
(`special_lanes` = N / 4 elements a cycle). A turn begins in phase 3 of the scratchpad's counter:
the accumulators' address stands for the whole turn, the scratchpad is read at its end, in phase 2,
and the result is written at the beginning of a later turn, in phase 3 again. Every step of the
pipeline takes a turn or several, so each finds the parameters of its columns in one register that
repeats the lines of the instruction's N columns for ever.

Cycles, from phase 0 of a vector's turn, in which its first pair of columns leaves the accumulators,
without `special_functions` and with them:

     0      4   pair taken from the accumulators; to FP32
            6   pair taken from a source in the scratchpad; to FP32
     4      8   times the scale
     8     12   plus the bias
     6     14   pair taken from the residual; to FP32
     8     19   times the residual scale (with them: `functions.SecondStep`, from cycle 16 on)
    12     23   plus the residual's product
    16     28   ReLU, upper bound
    17     29   pool: maximum, sum with the element of the window before, which is there just now
    21     33   to the output format
    24     36   in its place of the vector
           33   or: columns combined by `row_reduction`
           51   written to the row scalars

Without floating point the lanes are those of `fixed_point`, with the first column's cycles from the
residual and the upper bound on.

Sums of groups of columns (`fold.GroupSums`) come some turns later than single accumulators: what
else is known of a turn waits for them.

With a source and a residual both in the scratchpad a vector takes two turns: its source is read
in the first, its residual in the second one after the next. Reducing takes three turns more for
each window. In these turns nothing enters the pipeline.

An instruction that is taken in phase p and has T turns retires 26 + 4 T + (2 - p) mod 4 cycles
later, 38 + 4 T + ... with `special_functions` and 50 + 4 T + ... if it reduces
(more with more than two lanes; `ulpsim.cycles_special`); the next one can be taken in that same
cycle.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.cycles_special import fold_turns, tree_turns
from ulpsim.formats import Precision
from ulpsim.isa import Cause, Fold, Function, Pool, Source, Unit

from .accumulators import ACCUMULATOR_BITS, ACCUMULATOR_READ_LATENCY, read_address_shape
from .fixed_point import FixedPointLane
from .float32 import delay
from .functions import FunctionTable
from .packing import is_any
from .row_reduction import NEIGHBOURS_LATENCY, RowReduction, neighbours
from .scratchpad import (
    PARAMETER_BITS,
    PARAMETER_READ_LATENCY,
    SCRATCHPAD_READ_LATENCY,
    ScratchpadRead,
    ScratchpadWrite,
)
from .special_addresses import SpecialAddresses
from .special_lane import SpecialLane
from .special_vectors import STRIDES, SeveralVectors, gather, sizes, spread
from .unit import precision_bits, unit_members
from .verilog import once

__all__ = ["Special"]

#: Phase of the scratchpad's counter in which a turn begins and results are written.
_BEGIN = 3
#: Phase in which residuals are asked for, the last one of a turn.
_END = 2
#: Turns from a vector's address to the write of its result, and those that come on top.
_TURNS = 7
_FUNCTION_TURNS = 3
_REDUCE_TURNS = 3
#: Turns from a vector's own to that in which its residual is read, with `special_functions`.
_RESIDUAL_TURNS = 2
#: Turns without a vector in front of each window when rows are reduced.
_REDUCE_PAUSE = 3


class Special(wiring.Component):
    """Runs SPECIAL instructions, one after the other; see the module for the timing.

    The fields are checked before the first access, ILLEGAL_INSTRUCTION before UNSUPPORTED_FORMAT,
    UNSUPPORTED_FUNCTION, MISALIGNED_ADDRESS (the parameters must start with a line) and
    PARAMETER_RANGE; addresses as they come up, turn by turn, ACCUMULATOR_RANGE before
    ACTIVATION_RANGE and ROW_RANGE. Vectors before the one whose address is out of range may have
    been written.

    Parameters
    ----------
    config
        Only the conversions that its formats need are built, and the second step, the function
        table and the row scalars only with `special_functions`.

    Members
    -------
    instructions, retired, retired_post, fault, fault_cause, fault_index, busy, stop
        The unit interface. After `stop`, and after its own fault, the unit writes nothing.
    phase : In(2)
        Whose turn it is at the scratchpad's shared port.
    accumulator_address : Out, accumulators : In(N x 32)
        Read port of the accumulators.
    fold : Out(2), fold_is_float : Out(1)
        What `GroupSums`, in front of `accumulators`, must do; with `fold` only.
    parameter_enable, parameter_line : Out, parameters : In(special_lanes x 128)
        Read port of the parameter memory.
    activation_read : Out(ScratchpadRead()), activation_write : Out(ScratchpadWrite.of_special())
        The shared port in the phases 2 and 3.
    forward_bias : In(4)
        Bias of E4M3; constant while the unit is busy.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        if not isinstance(config, CoreConfig):
            raise TypeError(f"config must be a CoreConfig, not {config!r}")
        self.config = config
        assert (ACCUMULATOR_READ_LATENCY, PARAMETER_READ_LATENCY, SCRATCHPAD_READ_LATENCY) == (
            1, 1, 3), "the pipeline is laid out for these latencies"
        super().__init__({
            **unit_members(Unit.SPECIAL, config),
            "phase": In(range(config.phases)),
            "accumulator_address": Out(read_address_shape(config)),
            "accumulators": In(data.ArrayLayout(ACCUMULATOR_BITS, config.column_lanes)),
            **({"fold": Out(2), "fold_is_float": Out(1)} if config.fold > 1 else {}),
            "parameter_enable": Out(1),
            "parameter_line": Out(range(config.parameter_columns // config.quarter)),
            "parameters": In(data.ArrayLayout(PARAMETER_BITS, config.quarter)),
            "activation_read": Out(ScratchpadRead(banks=config.banks)),
            "activation_write": Out(ScratchpadWrite.of_special(config)),
            "forward_bias": In(4),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, phase, extended = self.config, self.phase, self.config.special_functions
        write_turn = _TURNS + (_FUNCTION_TURNS if extended else 0)
        last_turn = write_turn + (_REDUCE_TURNS + tree_turns(config) if extended else 0)
        instruction = Signal(self.instructions.payload.shape(), reset_less=True)
        m.submodules.addresses = addresses = SpecialAddresses(config=config)
        take, waiting, live, failed = (Signal(name=name) for name in (
            "take", "waiting", "live", "failed"))
        halted, turn_ends, wrong = (Signal(name=name) for name in (
            "halted", "turn_ends", "wrong"))
        pause = Signal(3)           # turns until the next vector's own
        enters, stepping = Signal(name="enters"), Signal(name="stepping")
        several = SeveralVectors(m, config, self.instructions.payload, take, instruction, addresses)
        checked = Signal()
        broken, cause = self._error(m, instruction, addresses, several)
        m.d.comb += [
            halted.eq(self.stop | failed),
            self.instructions.ready.eq(~self.busy & ~halted),
            take.eq(self.instructions.valid & self.instructions.ready),
            enters.eq(live & ~pause.any()),
            addresses.start.eq(take),
            addresses.step.eq(stepping),
            wrong.eq(checked & broken & ~halted),
        ]
        first = self.instructions.payload
        for name in ("accumulator", "residual_address", "address"):
            m.d.comb += getattr(addresses, f"{name}_base").eq(getattr(first, name))
        m.d.comb += [
            *(addresses.counts[i].eq(count) for i, count in enumerate((
                *(instruction[f"count_{i}"] for i in range(2)), several.count,
                *(instruction[f"window_{i}"] for i in range(2))))),
            *(addresses.accumulator_strides[i].eq(stride) for i, stride in enumerate((
                *(instruction[f"accumulator_stride_{i}"] for i in range(2)),
                several.stride(instruction.accumulator_stride_2),
                *(instruction[f"window_stride_{i}"] for i in range(2))))),
            *(addresses.residual_address_strides[i].eq(stride) for i, stride in enumerate((
                *(instruction[f"residual_stride_{i}"] for i in range(2)),
                several.stride(instruction.residual_stride_2),
                *(instruction[f"residual_window_stride_{i}"] for i in range(2))))),
            *(addresses.address_strides[i].eq(stride) for i, stride in enumerate((
                *(instruction[f"stride_{i}"] for i in range(2)),
                several.stride(instruction.stride_2)))),
        ]
        if extended:
            m.d.comb += [addresses.row_base.eq(first.row),
                         addresses.reduced_row_base.eq(first.reduced_row)]
        with m.If(take):
            m.d.sync += [instruction.eq(self.instructions.payload), waiting.eq(1),
                         self.busy.eq(1)]
        with m.If(turn_ends):
            m.d.sync += [live.eq(take | waiting | (live & ~(enters & addresses.last))),
                         waiting.eq(0)]
        # `live` and `pause` do not change in the cycle before a turn ends.
        m.d.sync += [turn_ends.eq(phase == _END - 1), stepping.eq((phase == _END - 1) & enters)]
        if extended:
            # Turns in front of a vector: one for its source if there is a residual beside it.
            with m.If(take):
                m.d.sync += pause.eq(_two_reads(first) + Mux(first.reduce, _REDUCE_PAUSE, 0))
            with m.Elif(stepping):
                m.d.sync += pause.eq(_two_reads(instruction) + Mux(
                    instruction.reduce & addresses.window_last, _REDUCE_PAUSE, 0))
            with m.Elif(turn_ends & live):
                m.d.sync += pause.eq(pause - 1)
        # A cycle later than seen: long before the first write.
        m.d.sync += [self.fault.eq(wrong), checked.eq(waiting | live)]
        with m.If(wrong):
            m.d.sync += [failed.eq(1), waiting.eq(0), live.eq(0), self.busy.eq(0),
                         self.fault_cause.eq(cause), self.fault_index.eq(instruction.index)]

        # What a turn must know of its vectors: `most` are there beside the first one. `address` is
        # the row's if it `reduces`. Of these nothing counts in a turn that has no vector.
        turn = data.StructLayout({"enters": 1, "window_first": 1, "window_last": 1, "last": 1})
        place = data.StructLayout({"reduces": 1, "address": exact_log2(config.activation_slots),
                                   **({"most": several.bits} if several.bits else {})})
        turns = [Signal(turn, name=f"turn_{k}") for k in range(last_turn + 1)]
        places = [Signal(place, name=f"place_{k}", reset_less=True) for k in range(last_turn + 1)]
        m.d.comb += [
            turns[0].enters.eq(self._late(m, instruction, enters, "enters")),
            turns[0].window_first.eq(
                self._late(m, instruction, addresses.window_first, "window_first")),
            turns[0].window_last.eq(
                self._late(m, instruction, enters & addresses.window_last, "window_last")),
            turns[0].last.eq(self._late(m, instruction, enters & addresses.last, "last")),
            places[0].reduces.eq(instruction.reduce if extended else 0),
            places[0].address.eq(self._late(
                m, instruction, Mux(instruction.reduce, addresses.reduced_row, addresses.address)
                if extended else addresses.address, "address")),
            *([places[0].most.eq(several.most)] if several.bits else []),
        ]
        with m.If(turn_ends):
            m.d.sync += [after.eq(before) for stages in (turns, places)
                         for before, after in pairwise(stages)]

        # The line of the next phase but one: one cycle in the memory, one in a register.
        lane_bits = exact_log2(config.quarter)
        parameters = Signal(self.parameters.shape(), reset_less=True)
        m.d.sync += parameters.eq(self.parameters)
        written, reduced = turns[write_turn], turns[last_turn]
        written_place, reduced_place = places[write_turn], places[last_turn]
        m.d.comb += [
            self.parameter_enable.eq(1),
            self.parameter_line.eq(instruction.parameters[lane_bits:]
                                   + Cat(phase[0], ~phase[1])),
            self.activation_write.enable.eq(written.window_last & ~written_place.reduces
                                             & ~halted),
            self.activation_write.address.eq(written_place.address),
        ]
        write_slots = self._slots(m, instruction, "output", "write")
        retires = (phase == _BEGIN) & ~halted & (
            (written.last & ~written_place.reduces) | (reduced.last & reduced_place.reduces))
        m.d.sync += [self.retired.eq(retires), self.retired_post.eq(instruction.post)]
        with m.If(retires):
            m.d.sync += self.busy.eq(0)

        source, residual = self._read(m, instruction, addresses, enters, pause, live & ~halted,
                                      several)
        if config.fold > 1:
            m.d.comb += [self.fold.eq(instruction.fold),
                         self.fold_is_float.eq(instruction.float_accumulator)]
        function_turns = write_turn - _TURNS
        window_first = delay(m, turns[4 + function_turns].window_first, 2, name="window_first")
        passes = delay(m, ~turns[4 + function_turns].enters, 2, name="passes")
        results = [Signal(16, name=f"result_{i}") for i in range(config.special_lanes)]
        lanes = [SpecialLane(config=config) if config.has_float else FixedPointLane(config=config)
                 for _ in results]
        residuals = gather(m, config, Value.cast(residual), instruction[STRIDES["residual"]], 16,
                           "residual")
        # A quarter after the one that is due is what was due so many cycles less than a turn ago.
        shown = [parameters, *(delay(m, parameters, config.phases - number, name=f"ahead_{number}")
                               for number in range(1, config.special_vectors))]
        for i, (lane, result) in enumerate(zip(lanes, results, strict=True)):
            m.submodules[f"lane_{i}"] = once(platform, lane, f"{config.name}_special_lane")
            number, place = divmod(i, config.quarter)
            accumulators = [self.accumulators[c] for c in _columns(config, number, place)]
            m.d.comb += [
                lane.accumulator.eq(_choose(m, phase, accumulators, f"accumulator_{i}")),
                lane.parameters.eq(
                    Value.cast(shown[number])[place * PARAMETER_BITS:][:PARAMETER_BITS]),
                lane.residual_code.eq(self._code(m, residuals[number], instruction, "residual", i,
                                                 4 if extended else 1)),
                lane.window_first.eq(window_first),
                *([lane.forward_bias.eq(self.forward_bias)] if config.has_float else []),
                *(getattr(lane, name).eq(instruction[name]) for name in lane.fields),
                result.eq(lane.result),
            ]
        if extended:
            m.submodules.table = table = FunctionTable(lanes=len(lanes))
            row, row_later = self._rows(m, instruction, addresses, turns, reduced_place,
                                        lanes[:config.quarter], halted)
            sources = gather(m, config, Value.cast(source), instruction[STRIDES["source"]], 16,
                             "source")
            for i, lane in enumerate(lanes):
                vector = sources[i // config.quarter]
                m.d.comb += [
                    lane.source_code.eq(self._code(m, vector, instruction, "source", i, 1)),
                    lane.row.eq(row), lane.row_later.eq(row_later), lane.passes.eq(passes),
                    getattr(table, f"index_{i}").eq(lane.index),
                    lane.entry.eq(getattr(table, f"entry_{i}")),
                ]
        vectors = self._vectors(m, instruction, results)
        if config.halved_formats:
            m.d.comb += self.activation_write.upper.eq(
                instruction.upper & self._is_among(instruction, "output", config.halved_formats))
        if several.bits:
            written_slots = Cat(write_slots > i for i in range(config.column_lanes))
            masks = [written_slots, *(
                written_slots & (written_place.most >= number).replicate(config.column_lanes)
                for number in range(1, len(vectors)))]
            stride = instruction[STRIDES["output"]]
            m.d.comb += [
                Value.cast(self.activation_write.data).eq(
                    spread(m, config, vectors, stride, several.taken, 16, "write_data")),
                self.activation_write.mask.eq(
                    spread(m, config, masks, stride, several.taken, 1, "write_mask")),
            ]
        else:
            m.d.comb += self.activation_write.count.eq(write_slots)
        return m

    def _late(self, m: Module, instruction: data.View, value: Value, name: str) -> Value:
        """What is known of a turn, when its accumulators or the sums of groups of them come."""
        if self.config.fold == 1:
            return value
        later = value
        for k in range(fold_turns(self.config)):
            register = Signal(later.shape(), name=f"late_{name}_{k}")
            with m.If(self.phase == _END):
                m.d.sync += register.eq(later)
            later = register
        return Mux(instruction.fold == Fold.ONE.value, value, later)

    def _single(self, m: Module, instruction: data.View, addresses: SpecialAddresses) -> Any:
        """What to assign the accumulators' address to, without regard to groups of columns. These
        are read at once in all columns: in their own turn, or with two groups in the next one."""
        if self.config.fold == 1:
            return self.accumulator_address
        single = Signal(self.accumulator_address.shape(), name="single_address")
        own = addresses.accumulator[:exact_log2(self.config.accumulator_depth)]
        following = Signal.like(own, name="following_address")
        with m.If(self.phase == _END):
            m.d.sync += following.eq(own)
        of_groups = Mux(instruction.fold == Fold.FOUR.value, own, following)
        several = self.config.special_vectors > 1
        for port, address in (zip(self.accumulator_address, single, strict=True) if several
                              else [(self.accumulator_address, single)]):
            m.d.comb += port.eq(Mux(instruction.fold == Fold.ONE.value, address, of_groups))
        return single

    def _read(self, m: Module, instruction: data.View, addresses: SpecialAddresses, enters: Value,
              pause: Value, live: Value, several: SeveralVectors) -> tuple[Signal, Signal]:
        """Read accumulators and scratchpad; the vectors of the source and of the residual."""
        read, turn_ends = self.activation_read, self.phase == _END
        residual = Signal(read.data.shape(), name="residual", reset_less=True)
        source = Signal(read.data.shape(), name="source", reset_less=True)
        arrives = self.phase == (_END + SCRATCHPAD_READ_LATENCY) % self.config.phases
        def slots(name: str) -> Value:
            """What a turn reads: a vector, or whatever can be reached with the first one."""
            return Const(self.config.banks) if several.bits else self._slots(
                m, instruction, name, name)

        residual_slots = slots("residual")
        accumulator_stride = instruction[STRIDES["source"]]
        single = self._single(m, instruction, addresses)
        if not self.config.special_functions:
            # Fixed point needs the accumulators two turns later.
            accumulator = addresses.accumulator
            for k in range(0 if self.config.has_float else 2):
                later = Signal.like(accumulator, name=f"accumulator_turn_{k}")
                with m.If(turn_ends):
                    m.d.sync += later.eq(accumulator)
                accumulator = later
            vectors = several.addresses(accumulator, accumulator_stride)
            if several.bits:
                self._accumulators(m, vectors, single)
            else:
                m.d.comb += single.eq(accumulator)
            m.d.comb += [
                read.enable.eq(self._late(m, instruction, live, "live") & instruction.residual),
                read.address.eq(self._late(m, instruction, addresses.residual_address,
                                           "residual_address")),
                read.count.eq(residual_slots),
            ]
            with m.If(arrives):
                m.d.sync += residual.eq(read.data)
            return source, residual
        residual_enters = [Signal(name=f"residual_enters_{k}") for k in range(_RESIDUAL_TURNS + 1)]
        residual_address = [Signal(addresses.residual_address.shape(), name=f"residual_turn_{k}",
                                   reset_less=True) for k in range(_RESIDUAL_TURNS + 1)]
        due = residual_enters[-1] & instruction.residual
        source_turn = Mux(_two_reads(instruction), pause == 1, enters)
        source_due, read_source, read_residual = (Signal(name=name) for name in (
            "source_due", "read_source", "read_residual"))
        m.d.comb += [
            residual_enters[0].eq(self._late(m, instruction, enters, "enters_residual")),
            residual_address[0].eq(self._late(m, instruction, addresses.residual_address,
                                              "residual_address")),
            source_due.eq(live & source_turn
                          & (instruction.source == Source.ACTIVATIONS.value)),
            read.enable.eq(due | source_due),
            read.address.eq(Mux(due, residual_address[-1], addresses.accumulator)),
            read.count.eq(Mux(due, residual_slots, slots("source"))),
        ]
        vectors = several.addresses(addresses.accumulator, accumulator_stride)
        shown = [single]
        if several.bits:
            shown = [Signal(exact_log2(self.config.accumulator_depth), name=f"accumulators_of_{i}")
                     for i in range(len(vectors))]
            self._accumulators(m, shown, single)
        with m.If(turn_ends):
            m.d.sync += [
                *(after.eq(before) for stages in (residual_enters, residual_address)
                  for before, after in pairwise(stages)),
                *(after.eq(before) for after, before in zip(shown, vectors, strict=True)),
                read_source.eq(source_due),
                read_residual.eq(due),
            ]
        with m.If(arrives & read_residual):
            m.d.sync += residual.eq(read.data)
        # In a turn without a read of its own the port shows what others read.
        with m.If(arrives & read_source):
            m.d.sync += source.eq(read.data)
        return source, residual

    def _accumulators(self, m: Module, vectors: Sequence[Value], quarter_addresses: Any) -> None:
        """Read the accumulators of a turn's vectors, of each another quarter in each cycle."""
        address = [vector[:exact_log2(self.config.accumulator_depth)] for vector in vectors]
        quarters = range(self.config.phases)
        for quarter in quarters:
            # A cycle ahead: vector v is then at the quarter v after that of its phase.
            turns = [address[(quarter - phase - 1) % self.config.phases % len(address)]
                     for phase in quarters]
            m.d.comb += quarter_addresses[quarter].eq(
                _choose(m, self.phase, turns, f"quarter_{quarter}"))

    def _rows(self, m: Module, instruction: data.View, addresses: SpecialAddresses,
              turns: Sequence[data.View], place: data.View, lanes: Sequence[SpecialLane],
              halted: Value) -> tuple[Signal, Signal]:
        """The memory of row scalars: what scales and sources, and a turn later biases, see."""
        depth = self.config.row_scalars
        m.submodules.rows = memory = Memory(shape=32, depth=depth, init=[],
                                            attrs={"no_rw_check": 1})
        read, write = memory.read_port(), memory.write_port()
        stages = [Signal(32, name=f"row_{k}", reset_less=True) for k in range(3)]
        m.d.comb += [read.addr.eq(self._late(m, instruction, addresses.row, "row")),
                     read.en.eq(self.phase == _END)]
        with m.If(self.phase == _BEGIN):
            m.d.sync += [after.eq(before) for before, after
                         in zip((read.data, *stages), stages, strict=False)]

        # The lanes' results of a cycle are combined until two are left, in whole turns.
        tree, values = tree_turns(self.config), [lane.pooled for lane in lanes]
        maximum = instruction.pool == Pool.MAXIMUM.value
        spare = self.config.phases * tree
        while len(values) > 2:
            values = neighbours(m, values, maximum, f"combine_{len(values)}")
            spare -= NEIGHBOURS_LATENCY
        if spare:
            values = [delay(m, value, spare, name=f"combined_{i}")
                      for i, value in enumerate(values)]
        m.submodules.reduction = reduction = RowReduction()
        written = turns[-1]
        m.d.comb += [
            *(getattr(reduction, f"value_{i}").eq(value) for i, value in enumerate(values)),
            reduction.maximum.eq(maximum),
            reduction.first.eq(delay(m, turns[8 + tree].window_last, 2, name="reduces")),
            reduction.final.eq(delay(m, turns[11 + tree].window_last, 2, name="reduces_last")),
            write.addr.eq(place.address),
            write.data.eq(reduction.result),
            write.en.eq((self.phase == _BEGIN) & written.window_last & place.reduces
                        & ~halted),
        ]
        return stages[1], stages[2]

    @staticmethod
    def _is_among(instruction: data.View, name: str, formats: Iterable[Precision]) -> Value:
        precision = instruction[f"{name}_precision"][:precision_bits(Precision)]
        return is_any(precision, formats)

    def _precision(self, instruction: data.View, name: str) -> Value:
        """A precision of the instruction, as many bits as those have that the unit knows."""
        return instruction[f"{name}_precision"][:precision_bits(self.config.formats)]

    def _slots(self, m: Module, instruction: data.View, vector: str, name: str) -> Signal:
        """Slots of a vector (source, residual or output) of the instruction."""
        slots = Signal(range(self.config.banks + 1), name=f"{name}_slots")
        with m.Switch(self._precision(instruction, vector)):
            for bits, codes in self._sizes():
                with m.Case(*codes):
                    count = Const(-(-self.config.column_lanes * bits // 16), len(slots))
                    m.d.comb += slots.eq(count >> instruction.fold if self.config.fold > 1
                                         else count)
        return slots

    def _sizes(self) -> Iterable[tuple[int, list[int]]]:
        """The sizes of elements in bits, each with the codes of its precisions."""
        return [(bits, [p.value for p in precisions])
                for bits, precisions in sizes(self.config.formats).items()]

    def _error(self, m: Module, instruction: data.View, addresses: SpecialAddresses,
               several: SeveralVectors) -> tuple[Value, Value]:
        """Whether the instruction breaks a rule, as far as it has come, and the first one's cause,
        a cycle later.

        The decoder lets no precision, pool, source or function pass that there is not.
        """
        config, extended = self.config, self.config.special_functions
        rules: list[tuple[Value, Cause]] = []

        def is_among(formats: Iterable[Precision], name: str) -> Value:
            return self._is_among(instruction, name, formats)

        def means_nothing(name: str) -> Value:
            """It is signed, but no integer."""
            integers = [p for p in Precision if p.is_integer]
            return instruction[f"{name}_signed"] & ~is_among(integers, name)

        def beyond(address: Value, name: str) -> Value:
            """The last slot of a vector is not in the scratchpad."""
            line = exact_log2(config.banks)
            slots = self._slots(m, instruction, name, f"{name}_checked")
            return address[-1] | (address[line:-1].all()
                                  & (address[:line] + slots > config.banks))

        from_accumulators = instruction.source == Source.ACCUMULATORS.value
        from_activations = instruction.source == Source.ACTIVATIONS.value
        has_function = instruction.function != Function.NONE.value
        used = {"source": from_activations, "residual": instruction.residual,
                "output": ~instruction.reduce}
        wrong_accumulator = (Const(0) if config.has_float and config.has_integer else
                             instruction.float_accumulator != config.has_float)
        # Strides are not negative: of a turn's vectors the last one is the first to be beyond.
        accumulator, residual, output = (
            several.last(address, instruction[STRIDES[name]]) for address, name in (
                (addresses.accumulator, "source"), (addresses.residual_address, "residual"),
                (addresses.address, "output")))
        in_scratchpad = {"residual": residual, "output": output}
        if extended:
            in_scratchpad["source"] = accumulator
            reads_rows = (instruction.row_scale | instruction.row_bias
                          | (instruction.source == Source.ROWS.value))
            rules.append(((reads_rows & addresses.row[-1])
                          | (instruction.reduce & addresses.reduced_row[-1]), Cause.ROW_RANGE))
        rules += [
            (Cat(used[name] & beyond(address, name)
                 for name, address in in_scratchpad.items()).any(), Cause.ACTIVATION_RANGE),
            (from_accumulators & accumulator[exact_log2(config.accumulator_depth):].any(),
             Cause.ACCUMULATOR_RANGE),
            (instruction.parameters > config.parameter_columns - config.column_lanes,
             Cause.PARAMETER_RANGE),
            (instruction.parameters[:exact_log2(config.quarter)].any(),
             Cause.MISALIGNED_ADDRESS),
        ]
        unsupported: Value = instruction.fold > config.folds[-1].value
        if not extended:
            unsupported |= (~from_accumulators | has_function | instruction.row_scale
                            | instruction.row_bias | instruction.reduce
                            | (instruction.residual & instruction.product))
        too_many: Value = Const(0)
        for fold in config.folds[1:]:
            few = [p for p in config.formats
                   if p.per_slot * fold.groups <= config.column_lanes]
            too_many |= (instruction.fold == fold.value) & Cat(
                condition & ~is_among(few, name) for name, condition in used.items()).any()
        rules += [
            (unsupported, Cause.UNSUPPORTED_FUNCTION),
            (Cat(condition & ~is_among(config.formats, name)
                 for name, condition in used.items()).any()
             | (from_accumulators & wrong_accumulator) | too_many, Cause.UNSUPPORTED_FORMAT),
            (Cat(condition & means_nothing(name) for name, condition in used.items()).any()
             | (instruction.residual & has_function)
             | (instruction.upper & ~Cat(condition & is_among(config.halved_formats, name)
                                         for name, condition in used.items()).any())
             | ((instruction.fold != Fold.ONE.value) & (~from_accumulators | instruction.reduce))
             | ((instruction.pool == Pool.NONE.value)
                & ((instruction.window_0 != 1) | (instruction.window_1 != 1)
                   | instruction.reduce)), Cause.ILLEGAL_INSTRUCTION),
        ]
        cause: Value = Const(Cause.NONE.value, 8)
        registers = []
        for rule, its_cause in rules:
            register = Signal(name=f"breaks_{its_cause.name.lower()}")
            m.d.sync += register.eq(rule)
            cause = Mux(register, its_cause.value, cause)
            registers.append(register)
        return Cat(registers).any(), cause

    def _code(self, m: Module, slots: Value, instruction: data.View, name: str, lane: int,
              cycles: int) -> Value:
        """The lane's element that is due of its vector, `cycles` later: the code of a number with
        floating point, or an integer (BINARY: 1 or -1), extended to 16 bits."""
        config = self.config
        pair = Cat(self.phase[0], ~self.phase[1])
        code = Signal(16, name=f"{name}_code_{lane}")
        with m.Switch(self._precision(instruction, name)):
            for bits, codes in self._sizes():
                vector, length = slots, bits * config.column_lanes
                if length < SLOT_BITS:
                    vector = Mux(instruction.upper, slots[length:2 * length], slots[:length])
                elements = [vector[bits * index:bits * (index + 1)] for index in
                            _columns(config, *divmod(lane, config.quarter))]
                with m.Case(*codes):
                    element = _choose(m, pair, elements, f"{name}_of_{bits}_{lane}")
                    sign = element[-1] & instruction[f"{name}_signed"]
                    if bits == 1:
                        element, sign = Const(1, 1), ~element
                    m.d.comb += code.eq(Cat(element, sign.replicate(16 - bits)))
        return delay(m, code, cycles, name=f"{name}_code_{lane}")

    def _vectors(self, m: Module, instruction: data.View,
                 results: Sequence[Value]) -> Sequence[Value]:
        """The results of four cycles as the slots of vectors."""
        config = self.config
        groups = [Signal(data.ArrayLayout(16, config.special_lanes), name=f"group_{k}",
                         reset_less=True) for k in range(config.phases)]
        m.d.sync += [
            *(groups[k].eq(groups[k + 1]) for k in range(config.phases - 1)),
            Value.cast(groups[-1]).eq(Cat(results)),
        ]
        vectors: Sequence[Value] = [Value.cast(self.activation_write.data)]
        if config.special_vectors > 1:
            vectors = [Signal(16 * config.column_lanes, name=f"vector_{number}")
                       for number in range(config.special_vectors)]
        for number, vector in enumerate(vectors):
            columns = {column: group[number * config.quarter + i]
                       for i in range(config.quarter)
                       for column, group in zip(_columns(config, number, i), groups, strict=True)}
            elements = [columns[column] for column in range(config.column_lanes)]
            with m.Switch(self._precision(instruction, "output")):
                for bits, codes in self._sizes():
                    written = Cat(element[:bits] for element in elements)
                    if len(written) < SLOT_BITS:
                        written = Cat(written, Mux(instruction.upper, written, 0))
                    with m.Case(*codes):
                        m.d.comb += vector.eq(written)
        return vectors


def _columns(config: CoreConfig, number: int, place: int) -> list[int]:
    """The columns that a lane of a turn's vector `number` takes, cycle by cycle."""
    return [(number + cycle) % config.phases * config.quarter + place
            for cycle in range(config.phases)]


def _two_reads(instruction: data.View) -> Value:
    """Whether source and residual both come from the scratchpad."""
    return instruction.residual & (instruction.source == Source.ACTIVATIONS.value)


def _choose(m: Module, index: Value, values: Sequence[Value], name: str) -> Signal:
    chosen = Signal(len(values[0]), name=f"chosen_{name}")
    with m.Switch(index):
        for i, value in enumerate(values):
            with m.Case(i):
                m.d.comb += chosen.eq(value)
    return chosen
