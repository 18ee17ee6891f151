"""The special unit: accumulators through the special functions to the activation scratchpad.

Everything happens in turns of four cycles, one turn a vector of N = columns * lanes accumulators
(`special_lanes` = N / 4 elements a cycle). A turn begins in phase 3 of the scratchpad's counter:
the accumulators' address stands for the whole turn, the residual is asked for at its end, in phase
2, and the result is written at the beginning of the seventh turn after it, in phase 3 again. Every
step of the pipeline takes one turn, so each finds the parameters of its columns in one register
that repeats the lines of the instruction's N columns for ever.

    cycle, from the one in which a pair of columns leaves the accumulators
     0   pair taken from the accumulators             6   pair taken from the residual
     1   to FP32                                      7   to FP32
     4   times the scale                              8   times the residual scale
     8   plus the bias
    12   plus the residual's product
    16   ReLU, upper bound
    17   pool: maximum, sum with the element of the window before, which is there just now
    21   to the output format
    24   in its place of the vector

An instruction that is taken in phase p and has V = (output vectors) * (elements of a window)
retires 26 + 4 V + (2 - p) mod 4 cycles later (`ulpsim.cycles_special.special_cycles`); the next one
can be taken in that same cycle.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import CoreConfig
from ulpsim.formats import Precision
from ulpsim.isa import Cause, Pool, Unit

from .accumulators import ACCUMULATOR_BITS, ACCUMULATOR_READ_LATENCY
from .addresses import saturate
from .float32 import (
    Add,
    FromInteger,
    Multiply,
    ToDlfloat,
    ToInteger,
    delay,
    from_dlfloat,
    less,
)
from .scratchpad import (
    PARAMETER_BITS,
    PARAMETER_READ_LATENCY,
    SCRATCHPAD_READ_LATENCY,
    ScratchpadRead,
    ScratchpadWrite,
)
from .unit import unit_members
from .verilog import once

__all__ = ["Special"]

#: Phase of the scratchpad's counter in which a turn begins and results are written.
_BEGIN = 3
#: Phase in which residuals are asked for, the last one of a turn.
_END = 2
#: Turns from a vector's address to the write of its result.
_TURNS = 7


class Special(wiring.Component):
    """Runs SPECIAL instructions, one after the other; see the module for the timing.

    The fields are checked before the first access, ILLEGAL_INSTRUCTION before UNSUPPORTED_FORMAT,
    MISALIGNED_ADDRESS (the parameters must start with a line) and PARAMETER_RANGE; addresses as
    they come up, turn by turn, ACCUMULATOR_RANGE before ACTIVATION_RANGE. Vectors before the one
    whose address is out of range may have been written.

    Parameters
    ----------
    config
        Only the conversions that its formats need are built.

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
            "activation_read": Out(ScratchpadRead()),
            "activation_write": Out(ScratchpadWrite()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, phase = self.config, self.phase
        instruction = Signal(self.instructions.payload.shape())
        m.submodules.addresses = addresses = _Addresses(config=config)
        take, waiting, live, failed = Signal(), Signal(), Signal(), Signal()
        halted, turn_ends, wrong = Signal(), Signal(), Signal()
        error = Signal(Cause)
        m.d.comb += [
            halted.eq(self.stop | failed),
            turn_ends.eq(phase == _END),
            self.instructions.ready.eq(~self.busy & ~halted),
            take.eq(self.instructions.valid & self.instructions.ready),
            addresses.start.eq(take),
            addresses.step.eq(turn_ends & live),
            error.eq(self._error(m, instruction, addresses)),
            wrong.eq((waiting | live) & (error != Cause.NONE) & ~halted),
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
        with m.If(take):
            m.d.sync += [instruction.eq(self.instructions.payload), waiting.eq(1),
                         self.busy.eq(1)]
        with m.If(turn_ends):
            m.d.sync += [live.eq(take | waiting | (live & ~addresses.last)), waiting.eq(0)]
        m.d.sync += self.fault.eq(wrong)
        with m.If(wrong):
            m.d.sync += [failed.eq(1), waiting.eq(0), live.eq(0), self.busy.eq(0),
                         self.fault_cause.eq(error), self.fault_index.eq(instruction.index)]

        # What a turn must know of its vector.
        turn = data.StructLayout({"window_first": 1, "window_last": 1, "last": 1,
                                  "address": exact_log2(config.activation_slots)})
        turns = [Signal(turn, name=f"turn_{k}") for k in range(_TURNS + 1)]
        m.d.comb += [
            turns[0].window_first.eq(addresses.window_first),
            turns[0].window_last.eq(live & addresses.window_last),
            turns[0].last.eq(live & addresses.last),
            turns[0].address.eq(addresses.address),
        ]
        with m.If(turn_ends):
            m.d.sync += [turns[k + 1].eq(turns[k]) for k in range(_TURNS)]

        # The line of the next phase but one: one cycle in the memory, one in a register.
        lane_bits = exact_log2(config.special_lanes)
        parameters = Signal(self.parameters.shape(), reset_less=True)
        m.d.sync += parameters.eq(self.parameters)
        m.d.comb += [
            self.accumulator_address.eq(addresses.accumulator),
            self.parameter_enable.eq(1),
            self.parameter_line.eq(instruction.parameters[lane_bits:]
                                   + Cat(phase[0], ~phase[1])),
            self.activation_read.enable.eq(live & instruction.residual & ~halted),
            self.activation_read.address.eq(addresses.residual_address),
            self.activation_read.count.eq(
                self._slots(m, instruction.residual_precision[:2], "read")),
            self.activation_write.enable.eq(turns[_TURNS].window_last & ~halted),
            self.activation_write.address.eq(turns[_TURNS].address),
            self.activation_write.count.eq(
                self._slots(m, instruction.output_precision[:2], "write")),
        ]
        retires = turns[_TURNS].last & (phase == _BEGIN) & ~halted
        m.d.sync += [self.retired.eq(retires), self.retired_post.eq(instruction.post)]
        with m.If(retires):
            m.d.sync += self.busy.eq(0)

        residual = Signal(self.activation_read.data.shape(), reset_less=True)
        with m.If(phase == (_END + SCRATCHPAD_READ_LATENCY) % config.phases):
            m.d.sync += residual.eq(self.activation_read.data)
        window_first = delay(m, turns[4].window_first, 2, name="window_first")
        results = [Signal(16, name=f"result_{i}") for i in range(config.special_lanes)]
        for i, result in enumerate(results):
            lane = _Lane(config=config)
            m.submodules[f"lane_{i}"] = once(platform, lane, f"{config.name}_special_lane")
            pairs = range(i, config.column_lanes, config.special_lanes)
            m.d.comb += [
                lane.accumulator.eq(_choose(m, phase, [self.accumulators[c] for c in pairs],
                                            f"accumulator_{i}")),
                lane.parameters.eq(parameters[i]),
                lane.residual_code.eq(self._residual_code(m, residual, instruction, i)),
                lane.window_first.eq(window_first),
                *(getattr(lane, name).eq(instruction[name]) for name in _Lane.FIELDS),
                result.eq(lane.result),
            ]
        self._assemble(m, instruction.output_precision[:2], results)
        return m

    def _slots(self, m: Module, precision: Value, name: str) -> Signal:
        """Slots of a vector of that precision."""
        slots = Signal(range(self.config.banks + 1), name=f"{name}_slots")
        with m.Switch(precision):
            for p in self.config.formats:
                with m.Case(p.value):
                    m.d.comb += slots.eq(self.config.column_lanes // p.per_slot)
        return slots

    def _error(self, m: Module, instruction: data.View, addresses: "_Addresses") -> Signal:
        """The first rule that the instruction breaks, as far as it has come.

        The decoder lets no precision of more than two bits pass, nor another pool.
        """
        config = self.config
        error = Signal(Cause)

        def is_float(name: str) -> Value:
            return instruction[f"{name}_precision"][:2] == Precision.FP16.value

        def beyond(address: Value, slots: Value) -> Value:
            """The last slot of a vector is not in the scratchpad."""
            line = exact_log2(config.banks)
            return address[-1] | (address[line:-1].all()
                                  & (address[:line] + slots > config.banks))

        def unsupported(name: str) -> Value:
            precision = instruction[f"{name}_precision"][:2]
            return ~Cat(precision == p.value for p in config.formats).any()

        wrong_accumulator = (Const(0) if config.has_float and config.has_integer else
                             instruction.float_accumulator != config.has_float)
        with m.If(beyond(addresses.address, self.activation_write.count)
                  | (instruction.residual
                     & beyond(addresses.residual_address, self.activation_read.count))):
            m.d.comb += error.eq(Cause.ACTIVATION_RANGE)
        with m.If(addresses.accumulator[-1]):
            m.d.comb += error.eq(Cause.ACCUMULATOR_RANGE)
        with m.If(instruction.parameters > config.parameter_columns - config.column_lanes):
            m.d.comb += error.eq(Cause.PARAMETER_RANGE)
        with m.If(instruction.parameters[:exact_log2(config.special_lanes)].any()):
            m.d.comb += error.eq(Cause.MISALIGNED_ADDRESS)
        with m.If(unsupported("output") | (instruction.residual & unsupported("residual"))
                  | wrong_accumulator):
            m.d.comb += error.eq(Cause.UNSUPPORTED_FORMAT)
        with m.If((is_float("output") & instruction.output_signed)
                  | (instruction.residual & is_float("residual") & instruction.residual_signed)
                  | ((instruction.pool == Pool.NONE.value)
                     & ((instruction.window_0 != 1) | (instruction.window_1 != 1)))):
            m.d.comb += error.eq(Cause.ILLEGAL_INSTRUCTION)
        return error

    def _residual_code(self, m: Module, residual: data.View, instruction: data.View,
                       lane: int) -> Value:
        """The lane's element of the pair that is due, above its bits what there is."""
        config, bits = self.config, Value.cast(residual)
        pair = Cat(self.phase[0], ~self.phase[1])
        code = Signal(16, name=f"residual_code_{lane}")
        with m.Switch(instruction.residual_precision[:2]):
            for p in config.formats:
                elements = [bits[p.bits * index:p.bits * (index + 1)] for index in
                            range(lane, config.column_lanes, config.special_lanes)]
                with m.Case(p.value):
                    m.d.comb += code.eq(_choose(m, pair, elements, f"residual_{p.name}_{lane}"))
        return delay(m, code, 1, name=f"residual_code_{lane}")

    def _assemble(self, m: Module, precision: Value, results: Sequence[Value]) -> None:
        """Four groups of results to the slots of a vector."""
        config = self.config
        groups = [Signal(data.ArrayLayout(16, config.special_lanes), name=f"group_{k}",
                         reset_less=True) for k in range(config.phases)]
        m.d.sync += [
            *(groups[k].eq(groups[k + 1]) for k in range(config.phases - 1)),
            Value.cast(groups[-1]).eq(Cat(results)),
        ]
        elements = [group[i] for group in groups for i in range(config.special_lanes)]
        with m.Switch(precision):
            for p in config.formats:
                with m.Case(p.value):
                    m.d.comb += Value.cast(self.activation_write.data).eq(
                        Cat(element[:p.bits] for element in elements))


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
    the next. Loops 0 to 2 are the output's, 3 and 4 the window's. The highest bit of an address
    says that it is beyond the memory; those that follow then mean nothing.

    Members
    -------
    accumulator, residual_address, address : Out
        Of the accumulators, the residual and the output, whose loops are 0 to 2.
    window_first, window_last, last : Out(1)
        The turn is the first or the last one of a window, the last one of all.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        # Bits of an address in the memory, bits of its fields, loops.
        accumulator, slot = (exact_log2(config.accumulator_depth),
                             exact_log2(config.activation_slots))
        self.streams = {"accumulator": (accumulator, 12, 5), "residual_address": (slot, 20, 5),
                        "address": (slot, 20, 3)}
        ports = {"start": In(1), "step": In(1), "counts": In(data.ArrayLayout(12, 5)),
                 "window_first": Out(1), "window_last": Out(1), "last": Out(1)}
        for name, (width, field, loops) in self.streams.items():
            ports[f"{name}_base"] = In(field)
            ports[f"{name}_strides"] = In(data.ArrayLayout(field, loops))
            ports[name] = Out(width + 1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The windows' counts have 8 bits.
        passed = [Signal(width, name=f"passed_{i}") for i, width in enumerate((12, 12, 12, 8, 8))]
        # ends[i]: loop i and those within it are in their last iteration; ends[5] is "always".
        ends = [Signal(name=f"end_{i}") for i in range(6)]
        m.d.comb += ends[5].eq(1)
        for i in range(5):
            m.d.comb += ends[i].eq(ends[i + 1] & (passed[i] == self.counts[i][:len(passed[i])]))
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
            following = Signal(width + 1, name=f"{name}_following")
            total = Signal(width + 1, name=f"{name}_total")
            m.d.comb += [
                total.eq(origin[:width] + stride[:width]),
                following.eq(total | (stride[width] << width)),
                getattr(self, name).eq(starts[-1]),
            ]
            base = saturate(getattr(self, f"{name}_base"), width)
            for i in range(loops):
                with m.If(self.start):
                    m.d.sync += starts[i].eq(base)
                with m.Elif(self.step & ends[i + 1]):
                    m.d.sync += starts[i].eq(following)
        return m


class _Lane(wiring.Component):
    """The path of one element a cycle, from an accumulator to its code, 23 cycles later.

    Members
    -------
    accumulator : In(32), cycle 0
    residual_code : In(16), cycle 7
    parameters : In(128), cycles 4 (scale), 8 (bias, residual scale), 16 (upper bound)
    window_first : In(1), cycle 17
        The element is the first one of its window.
    result : Out(16), cycle 23
        An integer stands in the lowest bits.
    The other inputs are fields of the instruction.
    """

    FIELDS = ("float_accumulator", "relu", "clip", "residual", "pool", "output_precision",
              "output_signed", "residual_precision", "residual_signed")

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            "accumulator": In(ACCUMULATOR_BITS),
            "parameters": In(PARAMETER_BITS),
            "residual_code": In(16),
            "window_first": In(1),
            **dict.fromkeys(self.FIELDS, In(1)),
            "pool": In(2),
            "output_precision": In(2),
            "residual_precision": In(2),
            "result": Out(16),
        })

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
                from_integer.convert.eq(~self.float_accumulator if config.has_float else 1),
            ]
            x = from_integer.result
        else:
            x = delay(m, x, FromInteger.latency, name="x")
        m.submodules.multiply = multiply = Multiply()
        m.submodules.add_bias = add_bias = Add(stages=4)
        m.submodules.multiply_residual = multiply_residual = Multiply(significand_bits=10)
        m.submodules.add_residual = add_residual = Add(stages=4)
        m.d.comb += [
            multiply.a.eq(x),
            multiply.b.eq(scale),
            add_bias.a.eq(multiply.result),
            add_bias.b.eq(bias),
            multiply_residual.a.eq(delay(m, self._from_code(m), 1, name="residual")),
            multiply_residual.b.eq(residual_scale),
            add_residual.a.eq(add_bias.result),
            add_residual.b.eq(_if(self.residual, multiply_residual.result)),
        ]
        # Results of additions are canonical, and the pool ends with one: in between any form of
        # a zero or of NaN-Inf will do as long as NaN-Inf compares as the greatest.
        y = add_residual.result
        y = _if(~(self.relu & y[31]), y)
        lesser = Mux(self.clip & less(upper_bound, y), upper_bound, y)
        nan = y[23:31].all() | (self.clip & upper_bound[23:31].all())
        y = Cat(lesser[:23], lesser[23:31] | nan.replicate(8), lesser[31] & ~nan)
        y = delay(m, y, 1, name="y")

        m.submodules.pool_sum = pool_sum = Add(stages=4)
        running = pool_sum.result
        further = ~self.window_first
        keep = further & (self.pool == Pool.MAXIMUM.value) & less(y, running)
        m.d.comb += [
            pool_sum.a.eq(Mux(keep, running, y)),
            pool_sum.b.eq(_if(further & (self.pool == Pool.SUM.value), running)),
        ]
        m.d.comb += self.result.eq(self._to_code(m, running))
        return m

    def _from_code(self, m: Module) -> Value:
        """The residual as FP32."""
        config = self.config
        number, sign = Signal(8, name="residual_number"), Signal(name="residual_sign")
        with m.Switch(self.residual_precision):
            for p in config.formats:
                if not p.is_float:
                    bits = self.residual_code[:p.bits]
                    with m.Case(p.value):
                        m.d.comb += [
                            sign.eq(self.residual_signed & bits[-1]),
                            number.eq(Cat(bits, sign.replicate(8 - p.bits))),
                        ]
        magnitude = Signal(8, name="residual_magnitude")
        m.d.comb += magnitude.eq((number ^ sign.replicate(8)) + sign)
        shift = []
        for step in (4, 2, 1):
            empty = ~magnitude[8 - step:].any()
            shift.insert(0, empty)
            shifted = Signal(8, name=f"residual_shifted_{step}")
            m.d.comb += shifted.eq(Mux(empty, magnitude << step, magnitude))
            magnitude = shifted
        # The exponent is 134 - shift: 127 and the complement of the shift's three bits.
        integer = Cat(Const(0, 16), magnitude[:7], (Const(127, 8) + ~Cat(shift))[:8], sign)
        integer = integer & magnitude[7].replicate(32)
        if not config.has_float:
            return integer
        floating = from_dlfloat(self.residual_code)
        return Mux(self.residual_precision == Precision.FP16.value, floating, integer) \
            if config.has_integer else floating

    def _to_code(self, m: Module, pooled: Value) -> Value:
        """The element in the output format, two cycles after `pooled`."""
        config = self.config
        if config.has_float:
            m.submodules.to_dlfloat = to_dlfloat = ToDlfloat()
            m.d.comb += to_dlfloat.value.eq(pooled)
            floating = delay(m, to_dlfloat.result, 1, name="floating")
            if not config.has_integer:
                return floating
        m.submodules.to_integer = to_integer = ToInteger()
        m.d.comb += [to_integer.value.eq(pooled), to_integer.is_signed.eq(self.output_signed)]
        with m.Switch(self.output_precision):
            for p in config.formats:
                if not p.is_float:
                    with m.Case(p.value):
                        m.d.comb += to_integer.highest.eq(
                            Cat(Const(-1, p.bits - 1), ~self.output_signed))
        if not config.has_float:
            return to_integer.result
        return Mux(self.output_precision == Precision.FP16.value, floating, to_integer.result)


def _if(condition: Value, value: Value) -> Value:
    """`value`, or a zero: an exponent field of 0, whatever the fraction."""
    return Cat(value[:23], value[23:31] & condition.replicate(8), value[31])
