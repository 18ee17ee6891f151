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

With a source and a residual both in the scratchpad a vector takes two turns: its source is read
in the first, its residual in the second one after the next. Reducing takes three turns more for
each window. In these turns nothing enters the pipeline.

An instruction that is taken in phase p and has T turns retires 26 + 4 T + (2 - p) mod 4 cycles
later, 38 + 4 T + ... with `special_functions` and 50 + 4 T + ... if it reduces
(more with more than two lanes; `ulpsim.cycles_special`); the next one can be taken in that same
cycle.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import CoreConfig
from ulpsim.cycles_special import tree_turns
from ulpsim.formats import Precision
from ulpsim.isa import Cause, Function, Pool, Source, Unit

from .accumulators import ACCUMULATOR_BITS, ACCUMULATOR_READ_LATENCY
from .addresses import saturate
from .fixed_point import FixedPointLane
from .float32 import (
    Add,
    FromInteger,
    Multiply,
    ToFloat,
    ToInteger,
    delay,
    fp8_to_dlfloat,
    from_dlfloat,
    less,
)
from .functions import ENTRY_BITS, INDEX_BITS, FunctionTable, SecondStep, pass_if
from .row_reduction import NEIGHBOURS_LATENCY, RowReduction, neighbours
from .scratchpad import (
    PARAMETER_BITS,
    PARAMETER_READ_LATENCY,
    SCRATCHPAD_READ_LATENCY,
    ScratchpadRead,
    ScratchpadWrite,
)
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
    parameter_enable, parameter_line : Out, parameters : In(special_lanes x 128)
        Read port of the parameter memory.
    activation_read : Out(ScratchpadRead()), activation_write : Out(ScratchpadWrite())
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
            "accumulator_address": Out(range(config.accumulator_depth)),
            "accumulators": In(data.ArrayLayout(ACCUMULATOR_BITS, config.column_lanes)),
            "parameter_enable": Out(1),
            "parameter_line": Out(range(config.parameter_columns // config.special_lanes)),
            "parameters": In(data.ArrayLayout(PARAMETER_BITS, config.special_lanes)),
            "activation_read": Out(ScratchpadRead(banks=config.banks)),
            "activation_write": Out(ScratchpadWrite(banks=config.banks)),
            "forward_bias": In(4),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, phase, extended = self.config, self.phase, self.config.special_functions
        write_turn = _TURNS + (_FUNCTION_TURNS if extended else 0)
        last_turn = write_turn + (_REDUCE_TURNS + tree_turns(config) if extended else 0)
        instruction = Signal(self.instructions.payload.shape())
        m.submodules.addresses = addresses = _Addresses(config=config)
        take, waiting, live, failed = (Signal(name=name) for name in (
            "take", "waiting", "live", "failed"))
        halted, turn_ends, wrong = (Signal(name=name) for name in (
            "halted", "turn_ends", "wrong"))
        pause = Signal(3)           # turns until the next vector's own
        enters, stepping = Signal(name="enters"), Signal(name="stepping")
        cause = Signal(Cause)
        m.d.comb += [
            halted.eq(self.stop | failed),
            turn_ends.eq(phase == _END),
            self.instructions.ready.eq(~self.busy & ~halted),
            take.eq(self.instructions.valid & self.instructions.ready),
            enters.eq(live & ~pause.any()),
            stepping.eq(turn_ends & enters),
            addresses.start.eq(take),
            addresses.step.eq(stepping),
            wrong.eq((cause != Cause.NONE) & ~halted),
        ]
        first = self.instructions.payload
        for name in ("accumulator", "residual_address", "address"):
            m.d.comb += getattr(addresses, f"{name}_base").eq(getattr(first, name))
        m.d.comb += [
            *(addresses.counts[i].eq(count) for i, count in enumerate((
                *(instruction[f"count_{i}"] for i in range(3)),
                *(instruction[f"window_{i}"] for i in range(2))))),
            *(addresses.accumulator_strides[i].eq(stride) for i, stride in enumerate((
                *(instruction[f"accumulator_stride_{i}"] for i in range(3)),
                *(instruction[f"window_stride_{i}"] for i in range(2))))),
            *(addresses.residual_address_strides[i].eq(stride) for i, stride in enumerate((
                *(instruction[f"residual_stride_{i}"] for i in range(3)),
                *(instruction[f"residual_window_stride_{i}"] for i in range(2))))),
            *(addresses.address_strides[i].eq(instruction[f"stride_{i}"]) for i in range(3)),
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
        m.d.sync += [self.fault.eq(wrong), cause.eq(Cause.NONE)]
        with m.If(waiting | live):
            m.d.sync += cause.eq(self._error(m, instruction, addresses))
        with m.If(wrong):
            m.d.sync += [failed.eq(1), waiting.eq(0), live.eq(0), self.busy.eq(0),
                         self.fault_cause.eq(cause), self.fault_index.eq(instruction.index)]

        # What a turn must know of its vector. `address` is the row's if it `reduces`.
        turn = data.StructLayout({"enters": 1, "window_first": 1, "window_last": 1, "last": 1,
                                  "reduces": 1, "address": exact_log2(config.activation_slots)})
        turns = [Signal(turn, name=f"turn_{k}") for k in range(last_turn + 1)]
        m.d.comb += [
            turns[0].enters.eq(enters),
            turns[0].window_first.eq(addresses.window_first),
            turns[0].window_last.eq(enters & addresses.window_last),
            turns[0].last.eq(enters & addresses.last),
            turns[0].reduces.eq(instruction.reduce if extended else 0),
            turns[0].address.eq(Mux(instruction.reduce, addresses.reduced_row, addresses.address)
                                if extended else addresses.address),
        ]
        with m.If(turn_ends):
            m.d.sync += [turns[k + 1].eq(turns[k]) for k in range(last_turn)]

        # The line of the next phase but one: one cycle in the memory, one in a register.
        lane_bits = exact_log2(config.special_lanes)
        parameters = Signal(self.parameters.shape(), reset_less=True)
        m.d.sync += parameters.eq(self.parameters)
        written, reduced = turns[write_turn], turns[last_turn]
        m.d.comb += [
            self.parameter_enable.eq(1),
            self.parameter_line.eq(instruction.parameters[lane_bits:]
                                   + Cat(phase[0], ~phase[1])),
            self.activation_write.enable.eq(written.window_last & ~written.reduces & ~halted),
            self.activation_write.address.eq(written.address),
            self.activation_write.count.eq(self._slots(m, instruction, "output", "write")),
        ]
        retires = (phase == _BEGIN) & ~halted & (
            (written.last & ~written.reduces) | (reduced.last & reduced.reduces))
        m.d.sync += [self.retired.eq(retires), self.retired_post.eq(instruction.post)]
        with m.If(retires):
            m.d.sync += self.busy.eq(0)

        source, residual = self._read(m, instruction, addresses, enters, pause, live & ~halted)
        function_turns = write_turn - _TURNS
        window_first = delay(m, turns[4 + function_turns].window_first, 2, name="window_first")
        passes = delay(m, ~turns[4 + function_turns].enters, 2, name="passes")
        results = [Signal(16, name=f"result_{i}") for i in range(config.special_lanes)]
        lanes = [_Lane(config=config) if config.has_float else FixedPointLane(config=config)
                 for _ in results]
        for i, (lane, result) in enumerate(zip(lanes, results, strict=True)):
            m.submodules[f"lane_{i}"] = once(platform, lane, f"{config.name}_special_lane")
            pairs = range(i, config.column_lanes, config.special_lanes)
            m.d.comb += [
                lane.accumulator.eq(_choose(m, phase, [self.accumulators[c] for c in pairs],
                                            f"accumulator_{i}")),
                lane.parameters.eq(parameters[i]),
                lane.residual_code.eq(self._code(m, residual, instruction, "residual", i,
                                                 4 if extended else 1)),
                lane.window_first.eq(window_first),
                *([lane.forward_bias.eq(self.forward_bias)] if config.has_float else []),
                *(getattr(lane, name).eq(instruction[name]) for name in lane.fields),
                result.eq(lane.result),
            ]
        if extended:
            m.submodules.table = table = FunctionTable(lanes=len(lanes))
            row, row_later = self._rows(m, instruction, addresses, turns, lanes, halted)
            for i, lane in enumerate(lanes):
                m.d.comb += [
                    lane.source_code.eq(self._code(m, source, instruction, "source", i, 1)),
                    lane.row.eq(row), lane.row_later.eq(row_later), lane.passes.eq(passes),
                    getattr(table, f"index_{i}").eq(lane.index),
                    lane.entry.eq(getattr(table, f"entry_{i}")),
                ]
        self._assemble(m, instruction, results)
        return m

    def _read(self, m: Module, instruction: data.View, addresses: "_Addresses", enters: Value,
              pause: Value, live: Value) -> tuple[Signal, Signal]:
        """Read accumulators and scratchpad; the vectors of the source and of the residual."""
        read, turn_ends = self.activation_read, self.phase == _END
        residual = Signal(read.data.shape(), name="residual", reset_less=True)
        source = Signal(read.data.shape(), name="source", reset_less=True)
        arrives = self.phase == (_END + SCRATCHPAD_READ_LATENCY) % self.config.phases
        residual_slots = self._slots(m, instruction, "residual", "residual")
        if not self.config.special_functions:
            # Fixed point needs the accumulators two turns later.
            accumulator = addresses.accumulator
            for k in range(0 if self.config.has_float else 2):
                later = Signal.like(accumulator, name=f"accumulator_turn_{k}")
                with m.If(turn_ends):
                    m.d.sync += later.eq(accumulator)
                accumulator = later
            m.d.comb += [
                self.accumulator_address.eq(accumulator),
                read.enable.eq(live & instruction.residual),
                read.address.eq(addresses.residual_address),
                read.count.eq(residual_slots),
            ]
            with m.If(arrives):
                m.d.sync += residual.eq(read.data)
            return source, residual
        delayed = [Signal(data.StructLayout({
            "enters": 1, "address": len(addresses.residual_address)}), name=f"residual_turn_{k}")
            for k in range(_RESIDUAL_TURNS + 1)]
        due = delayed[-1].enters & instruction.residual
        source_turn = Mux(_two_reads(instruction), pause == 1, enters)
        source_due, read_source, read_residual = (Signal(name=name) for name in (
            "source_due", "read_source", "read_residual"))
        m.d.comb += [
            delayed[0].enters.eq(enters),
            delayed[0].address.eq(addresses.residual_address),
            source_due.eq(live & source_turn
                          & (instruction.source == Source.ACTIVATIONS.value)),
            read.enable.eq(due | source_due),
            read.address.eq(Mux(due, delayed[-1].address, addresses.accumulator)),
            read.count.eq(Mux(due, residual_slots,
                              self._slots(m, instruction, "source", "source"))),
        ]
        with m.If(turn_ends):
            m.d.sync += [
                *(delayed[k + 1].eq(delayed[k]) for k in range(_RESIDUAL_TURNS)),
                self.accumulator_address.eq(addresses.accumulator),
                read_source.eq(source_due),
                read_residual.eq(due),
            ]
        with m.If(arrives & read_residual):
            m.d.sync += residual.eq(read.data)
        # In a turn without a read of its own the port shows what others read.
        with m.If(arrives & read_source):
            m.d.sync += source.eq(read.data)
        return source, residual

    def _rows(self, m: Module, instruction: data.View, addresses: "_Addresses",
              turns: Sequence[data.View], lanes: "Sequence[_Lane]",
              halted: Value) -> tuple[Signal, Signal]:
        """The memory of row scalars: what scales and sources, and a turn later biases, see."""
        depth = self.config.row_scalars
        m.submodules.rows = memory = Memory(shape=32, depth=depth, init=[],
                                            attrs={"no_rw_check": 1})
        read, write = memory.read_port(), memory.write_port()
        stages = [Signal(32, name=f"row_{k}", reset_less=True) for k in range(3)]
        m.d.comb += [read.addr.eq(addresses.row), read.en.eq(self.phase == _END)]
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
            write.addr.eq(written.address),
            write.data.eq(reduction.result),
            write.en.eq((self.phase == _BEGIN) & written.window_last & written.reduces
                        & ~halted),
        ]
        return stages[1], stages[2]

    def _precision(self, instruction: data.View, name: str) -> Value:
        """A precision of the instruction, as many bits as those have that the unit knows."""
        return instruction[f"{name}_precision"][:precision_bits(self.config.special_formats)]

    def _slots(self, m: Module, instruction: data.View, vector: str, name: str) -> Signal:
        """Slots of a vector (source, residual or output) of the instruction."""
        slots = Signal(range(self.config.banks + 1), name=f"{name}_slots")
        with m.Switch(self._precision(instruction, vector)):
            for bits, codes in self._sizes():
                with m.Case(*codes):
                    m.d.comb += slots.eq(self.config.column_lanes * bits // 16)
        return slots

    def _sizes(self) -> Iterable[tuple[int, list[int]]]:
        """The sizes of elements in bits, each with the codes of its precisions."""
        sizes: dict[int, list[int]] = {}
        for p in self.config.special_formats:
            sizes.setdefault(p.bits, []).append(p.value)
        return sizes.items()

    def _error(self, m: Module, instruction: data.View, addresses: "_Addresses") -> Signal:
        """The first rule that the instruction breaks, as far as it has come.

        The decoder lets no precision, pool, source or function pass that there is not.
        """
        config, extended = self.config, self.config.special_functions
        error = Signal(Cause)

        def is_among(formats: Iterable[Precision], name: str) -> Value:
            precision = instruction[f"{name}_precision"][:precision_bits(Precision)]
            return Cat(precision == p.value for p in formats).any()

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
        in_scratchpad = {"residual": addresses.residual_address, "output": addresses.address}
        if extended:
            in_scratchpad["source"] = addresses.accumulator
            reads_rows = (instruction.row_scale | instruction.row_bias
                          | (instruction.source == Source.ROWS.value))
            with m.If((reads_rows & addresses.row[-1])
                      | (instruction.reduce & addresses.reduced_row[-1])):
                m.d.comb += error.eq(Cause.ROW_RANGE)
        with m.If(Cat(used[name] & beyond(address, name)
                      for name, address in in_scratchpad.items()).any()):
            m.d.comb += error.eq(Cause.ACTIVATION_RANGE)
        with m.If(from_accumulators
                  & addresses.accumulator[exact_log2(config.accumulator_depth):].any()):
            m.d.comb += error.eq(Cause.ACCUMULATOR_RANGE)
        with m.If(instruction.parameters > config.parameter_columns - config.column_lanes):
            m.d.comb += error.eq(Cause.PARAMETER_RANGE)
        with m.If(instruction.parameters[:exact_log2(config.special_lanes)].any()):
            m.d.comb += error.eq(Cause.MISALIGNED_ADDRESS)
        if not extended:
            with m.If(~from_accumulators | has_function | instruction.row_scale
                      | instruction.row_bias | instruction.reduce
                      | (instruction.residual & instruction.product)):
                m.d.comb += error.eq(Cause.UNSUPPORTED_FUNCTION)
        with m.If(Cat(condition & ~is_among(config.special_formats, name)
                      for name, condition in used.items()).any()
                  | (from_accumulators & wrong_accumulator)):
            m.d.comb += error.eq(Cause.UNSUPPORTED_FORMAT)
        with m.If(Cat(condition & means_nothing(name) for name, condition in used.items()).any()
                  | (instruction.residual & has_function)
                  | ((instruction.pool == Pool.NONE.value)
                     & ((instruction.window_0 != 1) | (instruction.window_1 != 1)
                        | instruction.reduce))):
            m.d.comb += error.eq(Cause.ILLEGAL_INSTRUCTION)
        return error

    def _code(self, m: Module, vector: data.View, instruction: data.View, name: str, lane: int,
              cycles: int) -> Value:
        """The lane's element of the pair that is due, `cycles` later: the code of a number with
        floating point, or an integer (BINARY: 1 or -1), extended to 16 bits."""
        config, slots = self.config, Value.cast(vector)
        pair = Cat(self.phase[0], ~self.phase[1])
        code = Signal(16, name=f"{name}_code_{lane}")
        with m.Switch(self._precision(instruction, name)):
            for bits, codes in self._sizes():
                elements = [slots[bits * index:bits * (index + 1)] for index in
                            range(lane, config.column_lanes, config.special_lanes)]
                with m.Case(*codes):
                    element = _choose(m, pair, elements, f"{name}_of_{bits}_{lane}")
                    sign = element[-1] & instruction[f"{name}_signed"]
                    if bits == 1:
                        element, sign = Const(1, 1), ~element
                    m.d.comb += code.eq(Cat(element, sign.replicate(16 - bits)))
        return delay(m, code, cycles, name=f"{name}_code_{lane}")

    def _assemble(self, m: Module, instruction: data.View, results: Sequence[Value]) -> None:
        """Four groups of results to the slots of a vector."""
        config = self.config
        groups = [Signal(data.ArrayLayout(16, config.special_lanes), name=f"group_{k}",
                         reset_less=True) for k in range(config.phases)]
        m.d.sync += [
            *(groups[k].eq(groups[k + 1]) for k in range(config.phases - 1)),
            Value.cast(groups[-1]).eq(Cat(results)),
        ]
        elements = [group[i] for group in groups for i in range(config.special_lanes)]
        with m.Switch(self._precision(instruction, "output")):
            for bits, codes in self._sizes():
                with m.Case(*codes):
                    m.d.comb += Value.cast(self.activation_write.data).eq(
                        Cat(element[:bits] for element in elements))


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


class _Addresses(wiring.Component):
    """The addresses of an instruction's turns: base + the sum of i * stride over its loops.

    The cycle after `start` shows the addresses of the first turn, the cycle after `step` those of
    the next. Between two of either there must be three cycles: in the first it is found which
    loops are at their end, in the second which address and which stride to add, in the third the
    sum. Loops 0 to 2 are the output's, 3 and 4 the window's. The highest bit of an address
    says that it is beyond the memory; those that follow then mean nothing.

    Members
    -------
    accumulator, residual_address, address : Out
        Of the accumulators, the residual and the output, whose loops are 0 to 2.
    row, reduced_row : Out
        Of the row scalars, that count the iterations of loops 0 and 1; with `special_functions`.
    window_first, window_last, last : Out(1)
        The turn is the first or the last one of a window, the last one of all.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        # Bits of an address in the memory, bits of its fields, loops.
        accumulator, slot = (exact_log2(config.accumulator_depth),
                             exact_log2(config.activation_slots))
        if config.special_functions:
            accumulator = max(accumulator, slot)
        self.streams = {"accumulator": (accumulator, 20, 5), "residual_address": (slot, 20, 5),
                        "address": (slot, 20, 3)}
        self.rows = {}
        if config.special_functions:
            width = exact_log2(config.row_scalars)
            self.rows = {"row": width, "reduced_row": width}
        ports = {"start": In(1), "step": In(1), "counts": In(data.ArrayLayout(12, 5)),
                 "window_first": Out(1), "window_last": Out(1), "last": Out(1)}
        for name, (width, field, loops) in self.streams.items():
            ports[f"{name}_base"] = In(field)
            ports[f"{name}_strides"] = In(data.ArrayLayout(field, loops))
            ports[name] = Out(width + 1)
        for name, width in self.rows.items():
            ports[f"{name}_base"] = In(12)
            ports[name] = Out(width + 1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The windows' counts have 8 bits.
        passed = [Signal(width, name=f"passed_{i}") for i, width in enumerate((12, 12, 12, 8, 8))]
        # ends[i]: loop i and those within it are in their last iteration; ends[5] is "always".
        ends: list[Any] = [Signal(name=f"end_{i}") for i in range(5)] + [Const(1, 1)]
        m.d.sync += [ends[i].eq(Cat(passed[j] == self.counts[j][:len(passed[j])]
                                    for j in range(i, 5)).all()) for i in range(5)]
        for i in range(5):
            with m.If(self.start | (self.step & ends[i])):
                m.d.sync += passed[i].eq(1)
            with m.Elif(self.step & ends[i + 1]):
                m.d.sync += passed[i].eq(passed[i] + 1)
        m.d.comb += [self.window_last.eq(ends[3]), self.last.eq(ends[0])]
        with m.If(self.start | self.step):
            m.d.sync += self.window_first.eq(self.start | ends[3])

        for name, (width, _, loops) in self.streams.items():
            # starts[i] is where the current iteration of loop i began; the innermost one's is
            # the address itself. The loop that goes on is the innermost one not at its end.
            starts = [Signal(width + 1, name=f"{name}_start_{i}") for i in range(loops)]
            strides = [saturate(s, width) for s in getattr(self, f"{name}_strides")]
            origin, stride = starts[0], strides[0]
            for i in range(1, loops):
                origin = Mux(ends[i], origin, starts[i])
                stride = Mux(ends[i], stride, strides[i])
            # An address beyond the memory ends the instruction: its highest bit need not stay.
            origin = delay(m, origin[:width], 1, name=f"{name}_origin")
            stride = delay(m, stride, 1, name=f"{name}_stride")
            total = Signal(width + 1, name=f"{name}_total")
            m.d.comb += [total.eq(origin + stride[:width]), getattr(self, name).eq(starts[-1])]
            following = delay(m, total | (stride[width] << width), 1, name=f"{name}_following")
            base = saturate(getattr(self, f"{name}_base"), width)
            for i in range(loops):
                with m.If(self.start):
                    m.d.sync += starts[i].eq(base)
                with m.Elif(self.step & ends[i + 1]):
                    m.d.sync += starts[i].eq(following)
        for name, width in self.rows.items():
            address = getattr(self, name)
            with m.If(self.start):
                m.d.sync += address.eq(saturate(getattr(self, f"{name}_base"), width))
            with m.Elif(self.step & ends[2]):
                m.d.sync += address.eq(Cat(address[:width] + 1, 0)[:width + 1]
                                       | (address[width] << width))
        return m


class _Lane(wiring.Component):
    """The path of one element a cycle, from its source to its code.

    Cycles are those of the module's table, without and with `special_functions`.

    Members
    -------
    accumulator : In(32), cycle 0 or 4
    source_code : In(16), cycle 7
        Of a number with floating point, or an integer (BINARY: 1 or -1) extended to 16 bits; as
        the residual.
    row : In(32), cycle 8, row_later : In(32), cycle 12
        The row scalar.
    residual_code : In(16), cycle 7 or 18
    index : Out, cycle 18, entry : In, cycle 19
        To and from the table of functions.
    parameters : In(128), cycles 4, 8 (scale), 8, 12 (bias), 8, 16 (residual scale), 16, 28 (upper
        bound)
    window_first : In(1), cycle 17 or 29
        The element is the first one of its window.
    passes : In(1), cycle 29
        There is no element: the pool keeps what it has.
    pooled : Out(32), cycle 33
        Zero and NaN-Inf in any form but a negative NaN-Inf.
    result : Out(16), cycle 23 or 35
        An element of fewer bits stands in the lowest ones.
    forward_bias : In(4)
        Bias of E4M3.
    The other inputs, `fields`, are fields of the instruction.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        bits = precision_bits(config.special_formats)
        self.fields = {
            "float_accumulator": 1, "relu": 1, "clip": 1, "residual": 1, "pool": 2,
            "output_precision": bits, "output_signed": 1, "residual_precision": bits}
        ports = {"accumulator": In(ACCUMULATOR_BITS), "parameters": In(PARAMETER_BITS),
                 "residual_code": In(16), "window_first": In(1), "result": Out(16),
                 "forward_bias": In(4)}
        if config.special_functions:
            self.fields |= {"source": 2, "source_precision": bits, "product": 1, "function": 3,
                            "row_scale": 1, "row_bias": 1}
            ports |= {"source_code": In(16), "row": In(32), "row_later": In(32), "passes": In(1),
                      "index": Out(INDEX_BITS), "entry": In(ENTRY_BITS), "pooled": Out(32)}
        super().__init__(ports | {name: In(width) for name, width in self.fields.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        scale, bias, residual_scale, upper_bound = (
            self.parameters[i * 32:(i + 1) * 32] for i in range(4))

        x = delay(m, self.accumulator, 1, name="accumulator")
        if config.has_integer:
            m.submodules.from_integer = from_integer = FromInteger()
            m.d.comb += [
                from_integer.value.eq(x),
                from_integer.convert.eq(~self.float_accumulator),
            ]
            x = from_integer.result
        else:
            x = delay(m, x, FromInteger.latency, name="x")
        if config.special_functions:
            element = delay(m, self._from_code(m, "source"), 1, name="source")
            x = Mux(self.source == Source.ACTIVATIONS.value, element,
                    Mux(self.source == Source.ROWS.value, self.row, x))
            scale = Mux(self.row_scale, self.row, scale)
            bias = Mux(self.row_bias, self.row_later, bias)
        m.submodules.multiply = multiply = Multiply()
        m.submodules.add_bias = add_bias = Add(stages=4)
        m.d.comb += [
            multiply.a.eq(x),
            multiply.b.eq(scale),
            add_bias.a.eq(multiply.result),
            add_bias.b.eq(bias),
        ]
        y = add_bias.result
        residual = delay(m, self._from_code(m, "residual"), 1, name="residual")
        if config.special_functions:
            m.submodules.second = second = SecondStep()
            m.d.comb += [
                second.y.eq(y), second.scale.eq(residual_scale), second.factor.eq(residual),
                second.residual.eq(self.residual), second.product.eq(self.product & self.residual),
                second.function.eq(self.function),
                self.index.eq(second.index), second.entry.eq(self.entry),
            ]
            y = second.result
        else:
            m.submodules.multiply_residual = multiply_residual = Multiply(significand_bits=10)
            m.submodules.add_residual = add_residual = Add(stages=4)
            m.d.comb += [
                multiply_residual.a.eq(residual),
                multiply_residual.b.eq(residual_scale),
                add_residual.a.eq(y),
                add_residual.b.eq(pass_if(self.residual, multiply_residual.result)),
            ]
            y = add_residual.result
        # From here on any form of a zero or of NaN-Inf will do as long as NaN-Inf compares as the
        # greatest.
        y = pass_if(~(self.relu & y[31]), y)
        lesser = Mux(self.clip & less(upper_bound, y), upper_bound, y)
        nan = y[23:31].all() | (self.clip & upper_bound[23:31].all())
        y = Cat(lesser[:23], lesser[23:31] | nan.replicate(8), lesser[31] & ~nan)
        y = delay(m, y, 1, name="y")

        pooled = self._pool(m, y)
        if config.special_functions:
            m.d.comb += self.pooled.eq(pooled)
        m.d.comb += self.result.eq(self._to_code(m, pooled))
        return m

    def _pool(self, m: Module, y: Value) -> Value:
        """The window's elements in one, four cycles later: so is the element before."""
        passes = self.passes if self.config.special_functions else Const(0)
        further = ~self.window_first
        m.submodules.pool_sum = pool_sum = Add(stages=4)
        m.d.comb += [
            pool_sum.a.eq(Mux(passes, pool_sum.result, y)),
            pool_sum.b.eq(pass_if(further & ~passes, pool_sum.result)),
        ]
        greatest = Signal(32, name="greatest_1", reset_less=True)
        running = delay(m, greatest, 3, name="greatest_before")
        with m.If(passes | (further & less(y, running))):
            m.d.sync += greatest.eq(running)
        with m.Else():
            m.d.sync += greatest.eq(y)
        return Mux(self.pool == Pool.SUM.value, pool_sum.result, running)

    def _from_code(self, m: Module, name: str) -> Value:
        """An element of the source or of the residual as FP32."""
        code, precision = getattr(self, f"{name}_code"), getattr(self, f"{name}_precision")
        number, sign = code[:8], code[-1]
        magnitude = Signal(8, name=f"{name}_magnitude")
        m.d.comb += magnitude.eq((number ^ sign.replicate(8)) + sign)
        shift = []
        for step in (4, 2, 1):
            empty = ~magnitude[8 - step:].any()
            shift.insert(0, empty)
            shifted = Signal(8, name=f"{name}_shifted_{step}")
            m.d.comb += shifted.eq(Mux(empty, magnitude << step, magnitude))
            magnitude = shifted
        # The exponent is 134 - shift: 127 and the complement of the shift's three bits.
        integer = Cat(Const(0, 16), magnitude[:7], (Const(127, 8) + ~Cat(shift))[:8], sign)
        integer = integer & magnitude[7].replicate(32)
        forward, backward = (self._is(precision, [p]) for p in (Precision.E4M3, Precision.E5M2))
        half = Mux(forward | backward, fp8_to_dlfloat(code[:8], backward, self.forward_bias), code)
        return Mux(self._is(precision, self._floats), from_dlfloat(half), integer)

    @property
    def _floats(self) -> list[Precision]:
        return [p for p in self.config.special_formats if p.is_float]

    def _is(self, precision: Value, among: Sequence[Precision]) -> Value:
        """Whether a precision that the unit knows is one of these."""
        known = self.config.special_formats
        if set(known) <= set(among):
            return Const(1, 1)
        return Cat(Const(0, 1), *(precision == p.value for p in known if p in among)).any()

    def _to_code(self, m: Module, pooled: Value) -> Value:
        """The element in the output format, two cycles after `pooled`."""
        precision = self.output_precision
        pooled = delay(m, pooled, 1, name="pooled_in")
        m.submodules.to_float = to_float = ToFloat(formats=self._floats)
        m.d.comb += [to_float.value.eq(pooled), to_float.precision.eq(precision),
                     to_float.forward_bias.eq(self.forward_bias)]
        code: Value = to_float.result
        integers = [p for p in self.config.special_formats if p.is_integer]
        if integers:
            m.submodules.to_integer = to_integer = ToInteger()
            m.d.comb += [to_integer.value.eq(pooled), to_integer.is_signed.eq(self.output_signed)]
            with m.Switch(precision):
                for p in integers:
                    with m.Case(p.value):
                        m.d.comb += to_integer.highest.eq(
                            Cat(Const(-1, p.bits - 1), ~self.output_signed))
            code = Mux(self._is(precision, integers), to_integer.result, code)
        if Precision.BINARY in self.config.special_formats:
            exponent = pooled[23:31]
            positive = ~exponent.all() & ~(exponent.any() & pooled[31])
            code = Mux(self._is(precision, [Precision.BINARY]),
                       delay(m, positive, 1, name="positive"), code)
        return code
