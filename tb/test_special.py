"""The special unit beside its memories against `Machine`: results, faults and cycles."""

import dataclasses
import gc
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, ResetInserter, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from selection import nightly_but
from test_fixed_point import random_words
from ulpcore.decoder import unit_layout
from ulpcore.fold import GroupSums
from ulpcore.scratchpad import ActivationScratchpad, ParameterMemory, ScratchpadWrite
from ulpcore.simulation import run_vectors
from ulpcore.special import Special
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.cycles_special import special_cycles, vectors_at_once
from ulpsim.fixed_point import words
from ulpsim.formats import FORMATS, Format, Precision
from ulpsim.interpreter import Machine
from ulpsim.isa import INDEX_BITS, Cause, Fold, Function, Instruction, Pool, Source, Unit
from wide import WIDE

_SMALL = {"activation_bytes": 4096, "accumulator_depth": 64, "parameter_columns": 32}
_CONFIGS = {
    # With all formats; vectors of BINARY fill half a slot.
    "edge": dataclasses.replace(EDGE, **_SMALL),
    "drain_only": dataclasses.replace(EDGE, name="drain_only", **_SMALL,
                                      special_functions=False),
    "nano": dataclasses.replace(NANO, **_SMALL),
    # Four vectors at a time in half of the banks.
    "wide": dataclasses.replace(WIDE, **_SMALL),
    "twice_wide": dataclasses.replace(WIDE, name="twice_wide", special_lanes=8, **_SMALL),
    "one_wide": dataclasses.replace(WIDE, name="one_wide", special_lanes=4, **_SMALL),
    # With so many lanes that their results go through two levels before the last ones.
    "wider": dataclasses.replace(WIDE, name="wider", columns=8, special_lanes=8,
                                 formats=(Precision.FP16,), **_SMALL),
    "float_only": dataclasses.replace(EDGE, name="float_only", formats=(Precision.FP16,),
                                      **_SMALL, special_functions=True),
    "folded": dataclasses.replace(WIDE, name="folded", fold=2, formats=tuple(Precision), **_SMALL),
    "folded_four": dataclasses.replace(WIDE, name="folded_four", columns=8, special_lanes=8, fold=4,
                                       formats=(Precision.FP16, Precision.INT8, Precision.INT2),
                                       **_SMALL),
    "folded_drain": dataclasses.replace(WIDE, name="folded_drain", columns=8, special_lanes=8,
                                        fold=4, formats=(Precision.FP16,), special_functions=False,
                                        **_SMALL),
    "folded_integers": dataclasses.replace(NANO, name="folded_integers", lanes=4, special_lanes=8,
                                           fold=4, **_SMALL),
    "backward": dataclasses.replace(EDGE, name="backward",
                                    formats=(Precision.FP16, Precision.E5M2), **_SMALL,
                                    special_functions=False),
    # Two and four vectors at a time, with special functions and without.
    "twice": dataclasses.replace(EDGE, name="twice", special_lanes=4, **_SMALL),
    "fourfold": dataclasses.replace(EDGE, name="fourfold", special_lanes=8, **_SMALL),
    "fourfold_drain_only": dataclasses.replace(EDGE, name="fourfold_drain_only", special_lanes=8,
                                               special_functions=False, **_SMALL),
    "fourfold_nano": dataclasses.replace(NANO, name="fourfold_nano", special_lanes=8, **_SMALL),
    # As many outputs, banks and lanes as `rapid` has, of the smaller kind of lane.
    "rapid_nano": dataclasses.replace(
        NANO, name="rapid_nano", columns=8, lanes=8, special_lanes=64, bus_bytes=64,
        activation_bytes=8192, weight_bytes=8192, accumulator_depth=64, parameter_columns=128),
    "binary": dataclasses.replace(NANO, name="binary", columns=16, special_lanes=4,
                                  formats=(Precision.INT8, Precision.INT2, Precision.BINARY),
                                  **_SMALL),
}


class _Bench(wiring.Component):
    """The unit, the scratchpad and the parameter memory; the accumulators are a plain memory.

    `clear` resets the unit and leaves the memories alone.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        n = config.column_lanes
        super().__init__({
            "clear": In(1),
            "stop": In(1),
            "instructions": In(stream.Signature(unit_layout(Unit.SPECIAL, config))),
            "load": In(ScratchpadWrite(banks=config.banks)),
            "accumulator_write": In(1),
            "accumulator_address": In(range(config.accumulator_depth)),
            "accumulator_data": In(n * 32),
            "parameter_write": In(1),
            "parameter_line": In(range(config.parameter_columns // config.quarter)),
            "parameter_data": In(config.quarter * 128),
            "phase": Out(2),
            "retired": Out(1), "retired_post": Out(4), "busy": Out(1),
            "fault": Out(1), "fault_cause": Out(8), "fault_index": Out(INDEX_BITS),
            "write": Out(1), "write_address": Out(20), "write_mask": Out(config.banks),
            "write_data": Out(16 * config.banks), "write_upper": Out(1),
            "forward_bias": In(4),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        special = Special(config=config)
        m.submodules.special = ResetInserter(self.clear)(special)
        m.submodules.scratchpad = scratchpad = ActivationScratchpad(config=config)
        m.submodules.parameters = parameters = ParameterMemory(config=config)
        sums: Value = Value.cast(special.accumulators)
        if config.fold > 1:
            m.submodules.groups = groups = GroupSums(config=config)
            sums = Value.cast(groups.sums)
            m.d.comb += [
                groups.phase.eq(scratchpad.phase), groups.fold.eq(special.fold),
                groups.is_float.eq(special.fold_is_float), special.accumulators.eq(groups.folded)]
        quarter = config.quarter * 32
        for i in range(config.phases):
            m.submodules[f"accumulators_{i}"] = accumulators = Memory(
                shape=quarter, depth=config.accumulator_depth, init=[])
            write, read = accumulators.write_port(), accumulators.read_port()
            address = special.accumulator_address
            m.d.comb += [
                write.en.eq(self.accumulator_write),
                write.addr.eq(self.accumulator_address),
                write.data.eq(self.accumulator_data[i * quarter:(i + 1) * quarter]),
                read.addr.eq(address if config.special_vectors == 1 else address[i]),
                sums[i * quarter:(i + 1) * quarter].eq(read.data),
            ]
        wiring.connect(m, wiring.flipped(self.instructions), special.instructions)
        wiring.connect(m, wiring.flipped(self.load), scratchpad.load)
        wiring.connect(m, special.activation_read, scratchpad.special_read)
        wiring.connect(m, special.activation_write, scratchpad.special_write)
        m.d.comb += [
            parameters.write_enable.eq(self.parameter_write),
            parameters.write_line.eq(self.parameter_line),
            Value.cast(parameters.write_data).eq(self.parameter_data),
            parameters.read_enable.eq(special.parameter_enable),
            parameters.read_line.eq(special.parameter_line),
            special.parameters.eq(parameters.read_data),
            special.phase.eq(scratchpad.phase),
            special.stop.eq(self.stop),
            special.forward_bias.eq(self.forward_bias),
            self.phase.eq(scratchpad.phase),
            *(getattr(self, name).eq(getattr(special, name)) for name in (
                "retired", "retired_post", "busy", "fault", "fault_cause", "fault_index")),
            self.write.eq(special.activation_write.enable & (scratchpad.phase == 3)),
            self.write_address.eq(special.activation_write.address),
            self.write_mask.eq(
                special.activation_write.mask if config.special_vectors > 1 else
                Cat(special.activation_write.count > i for i in range(config.banks))),
            self.write_data.eq(special.activation_write.data),
        ]
        if config.halved_formats:
            m.d.comb += self.write_upper.eq(special.activation_write.upper)
        return m


def _words(value: int, bits: int) -> np.ndarray:
    count = (bits + 31) // 32
    return np.frombuffer(value.to_bytes(4 * count, "little"), np.uint32)


class _Run:
    """Inputs of the bench, written down cycle by cycle, with the unit's predicted timing."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.config = machine, machine.config
        self.layout = unit_layout(Unit.SPECIAL, self.config)
        n = self.config.column_lanes
        self.widths = {
            "clear": 1, "stop": 1, "instructions__valid": 1,
            "instructions__payload": self.layout.size, "load__enable": 1, "load__address": 20,
            "load__count": 8, "load__data": 16 * self.config.banks, "accumulator_write": 1,
            "accumulator_address": 12, "accumulator_data": n * 32, "parameter_write": 1,
            "parameter_line": 12, "parameter_data": self.config.quarter * 128,
            "forward_bias": 4}
        self.events: dict[int, dict[str, int]] = {}
        self.cycle = 0

    def set(self, cycle: int, **values: int) -> None:
        self.events.setdefault(cycle, {}).update(values)

    def load_memories(self) -> None:
        config, machine = self.config, self.machine
        banks = config.banks
        for line in range(config.activation_slots // banks):
            slots = machine.activations[banks * line:banks * (line + 1)].astype("<u2").tobytes()
            self.set(4 * line, load__enable=1, load__address=banks * line, load__count=banks,
                     load__data=int.from_bytes(slots, "little"))
        for address, vector in enumerate(machine.accumulators):
            self.set(address, accumulator_write=1, accumulator_address=address,
                     accumulator_data=int.from_bytes(vector.astype("<u4").tobytes(), "little"))
        lanes = config.quarter
        for line in range(config.parameter_columns // lanes):
            columns = machine.parameters[line * lanes:(line + 1) * lanes]
            self.set(line, parameter_write=1, parameter_line=line,
                     parameter_data=int.from_bytes(columns.astype("<u4").tobytes(), "little"))
        self.cycle = config.activation_slots // 2 + 8

    def give(self, instruction: Instruction, index: int, post: int) -> None:
        fields = {name: instruction[name] for name in self.layout.members
                  if name not in ("opcode", "index", "post")}
        bits = self.layout.const({**fields, "opcode": instruction.type.opcode, "index": index,
                                  "post": post}).as_value().value
        self.set(self.cycle, instructions__valid=1, instructions__payload=bits)

    def run(self, cycles: int) -> dict[str, np.ndarray]:
        inputs = {}
        for name, width in self.widths.items():
            if width > 64:
                inputs[name] = np.zeros((cycles, (width + 31) // 32), np.uint32)
            else:
                inputs[name] = np.zeros(cycles, np.uint64)
        inputs["forward_bias"][:] = self.machine.forward_bias
        for cycle, values in self.events.items():
            for name, value in values.items():
                inputs[name][cycle] = (_words(value, self.widths[name])
                                       if self.widths[name] > 64 else value)
        return run_vectors(_Bench(config=self.config), inputs)


def _machine(rng: np.random.Generator, config: CoreConfig) -> Machine:
    """Random memories; parameters of a size that makes most results finite and unclamped."""
    machine = Machine(config, bytearray(4))
    machine.forward_bias = int(rng.integers(0, 16))
    machine.activations[:] = rng.integers(0, 1 << 16, config.activation_slots)
    shape = machine.accumulators.shape
    # The first half is for integers, the second one for FP32.
    integers = rng.integers(-1 << 31, 1 << 31, shape) >> rng.integers(8, 31, shape)
    floats = (rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 8, shape)).astype(np.float32)
    floats = np.where(rng.random(shape) < 0.02, np.float32(np.inf), floats)
    half = config.accumulator_depth // 2
    machine.accumulators[:half] = integers[:half].astype(np.int64) & 0xFFFFFFFF
    machine.accumulators[half:] = floats[half:].view(np.uint32)
    parameters = rng.standard_normal(machine.parameters.shape) * [0.25, 8, 0.25, 1]
    parameters[:, 3] = np.abs(parameters[:, 3]) * 16
    machine.parameters[:] = parameters.astype(np.float32).view(np.uint32)
    if not config.has_float:
        machine.parameters[:] = _integer_parameters(rng, config.parameter_columns)
    machine.parameters[-1] = [0x7F800000, 0x80000001, 0x7F7FFFFF, 0x80000001]
    return machine


def _integer_parameters(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Mostly those of usual numbers; at times any."""
    usual = words(rng.standard_normal(columns) * 10.0 ** rng.uniform(-6, 0, columns),
                  rng.standard_normal(columns) * 8, rng.standard_normal(columns),
                  np.abs(rng.standard_normal(columns)) * 30)
    return np.where(rng.random((columns, 1)) < 0.2, random_words(rng, (columns, 4)), usual)


def _formats(config: CoreConfig) -> list[Format]:
    return [f for f in FORMATS.values() if f.precision in config.formats and not f.odd]


def _is_signed(rng: np.random.Generator, used: Format | None) -> bool:
    """The flag of a format; any if it is not looked at."""
    return bool(rng.integers(2)) if used is None else used.signed and used.precision.is_integer


def _random_instruction(rng: np.random.Generator, config: CoreConfig, output: Format,
                        residual: Format | None, pool: Pool, source: Format | None) -> Instruction:
    """What is read comes from the lower half of the scratchpad, results go to the upper one.

    Without a `source` in the scratchpad it is the accumulators, or at times row scalars.
    """
    counts = rng.integers(1, 4, 3)
    window = rng.integers(1, 4, 2) if pool is not Pool.NONE else (1, 1)
    is_float = config.has_float and (not config.has_integer or rng.random() < 0.5)
    half = config.accumulator_depth // 2
    accumulator_strides = rng.integers(0, 4, 3)
    window_strides = rng.integers(0, 3, 2)
    # At times several vectors that can be taken at once, and of the last ones fewer.
    together = config.special_vectors > 1 and rng.random() < 0.75
    if together:
        counts[2], accumulator_strides[2] = rng.integers(1, 9), rng.integers(0, 2)

    def distance(other: int, used: Format | None) -> int:
        if not together:
            return other
        if rng.random() < 0.1:
            return other % (config.banks // 2 + 1)
        first = max(1, config.column_lanes // used.precision.per_slot) if used else 1
        return first << rng.integers(0, max(1, (config.banks // first).bit_length() - 1))

    reach = (counts - 1) @ accumulator_strides + (np.array(window) - 1) @ window_strides
    accumulator = half * is_float + rng.integers(0, half - reach)
    strides, residual_strides = rng.integers(0, 60, 3), rng.integers(0, 60, 3)
    strides[2] = distance(strides[2], output)
    residual_strides[2] = distance(residual_strides[2], residual)
    residual_window_strides = rng.integers(0, 60, 2)
    slots = config.activation_slots
    # Half of the scratchpad, but for a vector and eight of them far apart.
    room = slots // 2 - 4 * config.banks - config.column_lanes
    lines = config.parameter_columns - config.column_lanes
    values = {}
    if config.special_functions:
        values = {
            "source": rng.choice([Source.ACCUMULATORS, Source.ROWS], p=[0.8, 0.2]),
            "source_precision": source.precision if source else rng.choice(list(Precision)),
            "source_signed": _is_signed(rng, source),
            "product": rng.integers(2), "row_scale": rng.random() < 0.3,
            "row_bias": rng.random() < 0.3, "row": rng.integers(0, config.row_scalars - 9),
            "reduced_row": rng.integers(0, config.row_scalars - 9),
            "reduce": pool is not Pool.NONE and rng.random() < 0.5}
        if residual is None:
            values["function"] = rng.choice(list(Function))
        if values["reduce"]:
            # A row read after it is written depends on the pipeline.
            values["row"] = values["reduced_row"] if rng.random() < 0.5 else (
                values["reduced_row"] + config.row_scalars // 2) % config.row_scalars
            counts[1] = min(counts[1], config.row_scalars - values["row"])
            counts[0] = 1
            counts[2] = 1 if values["row"] == values["reduced_row"] else counts[2]
        if source is not None:
            values["source"] = Source.ACTIVATIONS
            accumulator_strides, window_strides = rng.integers(0, 60, 3), rng.integers(0, 60, 2)
            accumulator_strides[2] = distance(accumulator_strides[2], source)
            accumulator = rng.integers(0, room - 500)
    if values.get("source", Source.ACCUMULATORS) is Source.ACCUMULATORS \
            and not values.get("reduce"):
        most = max(f.precision.per_slot for f in (output, residual or output))
        values["fold"] = rng.choice(np.array([
            f for f in config.folds
            if f is Fold.ONE or f.groups * most <= config.column_lanes], object))
    halved = [f for f in (None if values.get("reduce") else output, residual, source)
              if f and f.precision in config.halved_formats]
    return Instruction(
        "SPECIAL", float_accumulator=is_float, relu=rng.integers(2), clip=rng.integers(2),
        residual=residual is not None, pool=pool, upper=bool(halved) and rng.integers(2),
        output_precision=output.precision,
        output_signed=_is_signed(rng, output),
        residual_precision=(residual.precision if residual else rng.choice(list(Precision))),
        residual_signed=_is_signed(rng, residual),
        parameters=rng.integers(0, lines // config.quarter + 1) * config.quarter,
        accumulator=accumulator,
        **{f"count_{i}": counts[i] for i in range(3)},
        **{f"window_{i}": window[i] for i in range(2)},
        **{f"accumulator_stride_{i}": accumulator_strides[i] for i in range(3)},
        **{f"window_stride_{i}": window_strides[i] for i in range(2)},
        address=slots // 2 + rng.integers(0, room - 330),
        **{f"stride_{i}": strides[i] for i in range(3)},
        residual_address=rng.integers(0, room - 500),
        **{f"residual_stride_{i}": residual_strides[i] for i in range(3)},
        **{f"residual_window_stride_{i}": residual_window_strides[i] for i in range(2)}, **values)


def _apply_writes(activations: np.ndarray, outputs: Mapping[str, np.ndarray],
                  cycles: slice) -> None:
    for t in np.flatnonzero(outputs["write"][cycles]) + cycles.start:
        slots = np.ascontiguousarray(outputs["write_data"][t], np.uint32).view(np.uint16)
        written = _written(outputs, t)
        places = int(outputs["write_address"][t]) + written
        kept = 0xFF if outputs["write_upper"][t] else 0
        activations[places] = activations[places] & kept | slots[written] & ~np.uint16(kept)


def _written(outputs: Mapping[str, np.ndarray], cycle: int) -> np.ndarray:
    """The slots of the access that are written."""
    mask = np.atleast_1d(outputs["write_mask"][cycle])
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def _check_instructions(machine: Machine, instructions: Sequence[Instruction],
                        posts: Sequence[int], gaps: Sequence[int]) -> None:
    """Run all, one given as soon as its predecessor retires or `gap` cycles later."""
    run = _Run(machine)
    run.load_memories()
    taken = []
    for index, (instruction, post, gap) in enumerate(zip(instructions, posts, gaps, strict=True)):
        run.cycle += gap
        run.give(instruction, index, post)
        taken.append(run.cycle)
        run.cycle += special_cycles(machine.config, instruction, run.cycle % 4)
    activations = machine.activations.copy()
    outputs = run.run(run.cycle + 40)
    assert not outputs["fault"].any()
    retired = np.flatnonzero(outputs["retired"])
    assert list(retired) == [*taken[1:], run.cycle] or list(retired) == [
        t + special_cycles(machine.config, i, t % 4)
        for t, i in zip(taken, instructions, strict=True)]
    assert list(outputs["retired_post"][retired]) == list(posts)
    for t, end in zip(taken, retired, strict=True):
        assert outputs["busy"][t + 1:end].all() and not outputs["busy"][end]
    for index, instruction in enumerate(instructions):
        assert machine.step(instruction) is Cause.NONE, instruction
        _apply_writes(activations, outputs, slice(taken[index], retired[index]))
        wrong = np.flatnonzero(activations != machine.activations)
        assert not len(wrong), (
            f"{instruction!r}: slot {wrong[0]} is {activations[wrong[0]]:#06x}, not "
            f"{machine.activations[wrong[0]]:#06x} ({len(wrong)} slots differ)")


@pytest.mark.parametrize("name", nightly_but("edge nano binary fourfold_nano",
                                             _CONFIGS))
def test_random_instructions(rng: np.random.Generator, name: str) -> None:
    """Every output format with every residual format and none, every pool, in random order; every
    function, and sources of every format, at random."""
    config = _CONFIGS[name]
    formats = _formats(config)
    sources = [None, *formats] if config.special_functions else [None]
    cases = [(output, residual, pool, sources[rng.integers(len(sources))])
             for output in formats for residual in (None, *formats) for pool in Pool
             for _ in range(4 if config.special_functions else 2)]
    instructions = [_random_instruction(rng, config, *cases[i])
                    for i in rng.permutation(len(cases))]
    taken = {vectors_at_once(config, i) for i in instructions if i["count_2"] > 1}
    assert taken == {n for n in (1, 2, 4) if n <= config.special_vectors}
    gaps = rng.integers(0, 6, len(cases)) * rng.integers(0, 2, len(cases))
    _check_instructions(_machine(rng, config), instructions,
                        rng.integers(0, 16, len(cases)).tolist(), gaps.tolist())


def test_every_phase_in_place(rng: np.random.Generator) -> None:
    """Residuals overwritten by their own outputs, taken in each of the four phases."""
    config = _CONFIGS["edge"]
    instruction = Instruction(
        "SPECIAL", residual=1, pool=Pool.NONE, output_precision=Precision.FP16, count_2=20,
        accumulator_stride_2=1, address=3, stride_2=9, residual_address=3, residual_stride_2=9,
        residual_precision=Precision.FP16)
    _check_instructions(_machine(rng, config), [instruction] * 8, range(8), range(8))


def test_largest_counts(rng: np.random.Generator) -> None:
    """Counters run over their whole width."""
    config = _CONFIGS["edge"]
    instructions = [
        Instruction("SPECIAL", **{field: 4095}, stride_2=0, output_precision=Precision.INT8)
        for field in ("count_0", "count_1", "count_2")]
    instructions.append(Instruction("SPECIAL", window_0=255, window_1=255, pool=Pool.SUM,
                                    output_precision=Precision.FP16, output_signed=0))
    _check_instructions(_machine(rng, config), instructions, [1, 2, 4, 8], [0] * 4)


_GOOD = {"count_1": 3, "accumulator_stride_1": 2, "stride_1": 8, "output_precision":
         Precision.INT8, "pool": Pool.MAXIMUM, "window_1": 2, "window_stride_1": 1}


def _fault_cases(config: CoreConfig) -> list[tuple[dict, Cause]]:
    slots, depth, outputs = config.activation_slots, config.accumulator_depth, config.column_lanes
    last = depth - 6
    length = outputs // Precision.INT8.per_slot
    cases = [
        ({}, Cause.NONE),
        ({"pool": Pool.NONE}, Cause.ILLEGAL_INSTRUCTION),
        ({"pool": Pool.NONE, "window_1": 1, "window_0": 2}, Cause.ILLEGAL_INSTRUCTION),
        ({"pool": Pool.NONE, "window_1": 1}, Cause.NONE),
        ({"residual_precision": Precision.FP16, "residual_signed": 1}, Cause.NONE),
        ({"parameters": 1}, Cause.MISALIGNED_ADDRESS),
        ({"parameters": config.parameter_columns - outputs}, Cause.NONE),
        ({"parameters": config.parameter_columns - outputs + config.quarter},
         Cause.PARAMETER_RANGE),
        ({"parameters": 4096 - config.quarter}, Cause.PARAMETER_RANGE),
        ({"accumulator": last}, Cause.NONE),
        ({"accumulator": last + 1}, Cause.ACCUMULATOR_RANGE),
        ({"accumulator": 4095}, Cause.ACCUMULATOR_RANGE),
        ({"accumulator_stride_0": 4095, "accumulator_stride_1": 4095}, Cause.ACCUMULATOR_RANGE),
        ({"window_1": 3, "accumulator": last}, Cause.ACCUMULATOR_RANGE),
        ({"address": slots - 16 - length}, Cause.NONE),
        ({"address": slots - 16 - length + 1}, Cause.ACTIVATION_RANGE),
        ({"address": (1 << 20) - 1}, Cause.ACTIVATION_RANGE),
        ({"address": slots - 1, "stride_1": (1 << 20) - 1}, Cause.ACTIVATION_RANGE),
        ({"stride_1": (1 << 20) - 1}, Cause.ACTIVATION_RANGE),
        ({"stride_0": (1 << 20) - 1}, Cause.NONE),
        ({"count_0": 2, "stride_0": slots - 16}, Cause.ACTIVATION_RANGE),
        ({"residual_address": (1 << 20) - 1}, Cause.NONE),
    ]
    # Three vectors in the last slots, or accumulators: in turns of as many as there can be.
    row = {"count_1": 1, "count_2": 3, "stride_2": length, "accumulator_stride_2": 2,
           "residual_stride_2": length, "residual_precision": Precision.INT8}
    end = slots - 3 * length
    cases += [
        ({**row, "address": end, "accumulator": last}, Cause.NONE),
        ({**row, "address": end + 1}, Cause.ACTIVATION_RANGE),
        ({**row, "address": (1 << 20) - 1}, Cause.ACTIVATION_RANGE),
        ({**row, "accumulator": last + 1}, Cause.ACCUMULATOR_RANGE),
        ({**row, "accumulator_stride_2": (1 << 20) - 1}, Cause.ACCUMULATOR_RANGE),
        ({**row, "accumulator_stride_2": 1 << 19}, Cause.ACCUMULATOR_RANGE),
        ({**row, "count_2": 1, "accumulator_stride_2": 1 << 19, "accumulator": last + 4},
         Cause.NONE),
        ({**row, "count_0": 2, "accumulator_stride_2": depth // 2 - 1}, Cause.NONE),
        ({**row, "residual": 1, "residual_address": end}, Cause.NONE),
        ({**row, "residual": 1, "residual_address": end + 1}, Cause.ACTIVATION_RANGE),
    ]
    for p in config.formats:
        length = -(-outputs // p.per_slot)
        cause = Cause.NONE if p in config.halved_formats else Cause.ILLEGAL_INSTRUCTION
        cases += [({"upper": 1, "output_precision": p}, cause),
                  ({"upper": 1, "residual": 1, "residual_precision": p}, cause),
                  ({"upper": 1, "residual_precision": p, "source_precision": p},
                   Cause.ILLEGAL_INSTRUCTION)]
        cases += [
            ({"output_precision": p, "address": slots - 16 - length}, Cause.NONE),
            ({"output_precision": p, "address": slots - 16 - length + 1}, Cause.ACTIVATION_RANGE),
            ({"residual_precision": p, "residual": 1, "residual_address": slots - 5 - length,
              "residual_window_stride_1": 5}, Cause.NONE),
            ({"residual_precision": p, "residual": 1, "residual_address": slots - 4 - length,
              "residual_window_stride_1": 5}, Cause.ACTIVATION_RANGE),
            ({"residual_precision": p, "residual": 1, "residual_stride_1": slots},
             Cause.ACTIVATION_RANGE),
        ]
    unsupported = [p for p in Precision if p not in config.formats]
    for p in unsupported:
        cases += [({"output_precision": p}, Cause.UNSUPPORTED_FORMAT),
                  ({"residual_precision": p}, Cause.NONE),
                  ({"residual_precision": p, "residual": 1}, Cause.UNSUPPORTED_FORMAT)]
    for p in Precision:
        if not p.is_integer:
            cases += [({"output_precision": p, "output_signed": 1}, Cause.ILLEGAL_INSTRUCTION),
                      ({"residual_precision": p, "residual_signed": 1, "residual": 1},
                       Cause.ILLEGAL_INSTRUCTION)]
    cases += [({"function": Function.TANH, "residual": 1}, Cause.ILLEGAL_INSTRUCTION),
              ({"reduce": 1, "pool": Pool.NONE, "window_1": 1}, Cause.ILLEGAL_INSTRUCTION),
              ({"product": 1, "row": 4095, "reduced_row": 4095}, Cause.NONE)]
    beyond_draining: list[dict] = [
        {"function": Function.SIGMOID}, {"row_scale": 1}, {"row_bias": 1}, {"reduce": 1},
        {"source": Source.ROWS},
        {"product": 1, "residual": 1, "residual_precision": config.formats[0]},
        {"source": Source.ACTIVATIONS, "source_precision": config.formats[0]}]
    cases += [(fields, Cause.NONE if config.special_functions else Cause.UNSUPPORTED_FUNCTION)
              for fields in beyond_draining]
    if config.special_functions:
        rows = config.row_scalars
        source = beyond_draining[-1]
        length = -(-outputs // config.formats[0].per_slot)
        cases += [
            ({"row_scale": 1, "row": rows - 3}, Cause.NONE),
            ({"row_scale": 1, "row": rows - 2}, Cause.ROW_RANGE),
            ({"row_bias": 1, "row": rows}, Cause.ROW_RANGE),
            ({"source": Source.ROWS, "row": 4095, "accumulator": (1 << 20) - 1}, Cause.ROW_RANGE),
            ({"source": Source.ROWS, "accumulator": (1 << 20) - 1}, Cause.NONE),
            ({"reduce": 1, "reduced_row": rows - 3, "address": (1 << 20) - 1}, Cause.NONE),
            ({"reduce": 1, "reduced_row": rows - 2}, Cause.ROW_RANGE),
            ({**source, "accumulator": slots - 5 - length}, Cause.NONE),
            ({**source, "accumulator": slots - 5 - length + 1}, Cause.ACTIVATION_RANGE),
            *(({**source, "source_precision": p, "source_signed": 1}, Cause.ILLEGAL_INSTRUCTION)
              for p in Precision if not p.is_integer),
            *(({**source, "source_precision": p}, Cause.UNSUPPORTED_FORMAT)
              for p in unsupported)]
    cases += [({"fold": fold}, Cause.NONE if fold in config.folds else Cause.UNSUPPORTED_FUNCTION)
              for fold in Fold]
    for fold in config.folds[1:]:
        length = outputs // fold.groups // Precision.INT8.per_slot
        cases += [
            ({"fold": fold, "address": slots - 16 - length}, Cause.NONE),
            ({"fold": fold, "address": slots - 16 - length + 1}, Cause.ACTIVATION_RANGE),
            ({"fold": fold,
              "parameters": config.parameter_columns - outputs + config.special_lanes},
             Cause.PARAMETER_RANGE),
            ({"fold": fold, "reduce": 1}, Cause.ILLEGAL_INSTRUCTION),
            ({"fold": fold, "source": Source.ROWS}, Cause.ILLEGAL_INSTRUCTION),
            *(({"fold": fold, "output_precision": p}, Cause.NONE if p.per_slot * fold.groups
               <= outputs else Cause.UNSUPPORTED_FORMAT) for p in config.formats),
            *(({"fold": fold, "output_precision": p, "upper": 1}, Cause.UNSUPPORTED_FORMAT)
              for p in config.halved_formats)]
    if not (config.has_float and config.has_integer):
        cases.append(({"float_accumulator": not config.has_float}, Cause.UNSUPPORTED_FORMAT))
    return cases


@pytest.mark.parametrize("name", nightly_but("edge nano binary fourfold_nano",
                                             _CONFIGS))
def test_faults(rng: np.random.Generator, name: str) -> None:
    """Every rule at its limit. The cause, one pulse, no write beyond, nothing more until reset."""
    config = _CONFIGS[name]
    good = {**_GOOD, "float_accumulator": not config.has_integer}
    if not config.has_integer:
        good["output_precision"] = Precision.FP16
    cases = _fault_cases(config)
    if not config.has_integer:      # the limits above are those of INT8 outputs
        cases = [(f, c) for f, c in cases if c not in (Cause.ACTIVATION_RANGE, Cause.NONE)]
    machine = _machine(rng, config)
    run = _Run(machine)
    taken = []
    run.cycle = 8
    for index, (fields, _) in enumerate(cases):
        run.cycle += int(rng.integers(0, 4))
        run.give(Instruction("SPECIAL", **{**good, **fields}), index, 15)
        taken.append(run.cycle)
        run.cycle += 150
        # A second one, which a faulty unit must not take.
        run.give(Instruction("SPECIAL", **good), 0, 0)
        run.cycle += 150
        run.set(run.cycle, clear=1)
        run.cycle += 1
    outputs = run.run(run.cycle)
    for index, (fields, cause) in enumerate(cases):
        instruction = Instruction("SPECIAL", **{**good, **fields})
        part = slice(taken[index], taken[index] + 300)
        pulses = np.flatnonzero(outputs["fault"][part])
        if cause is Cause.NONE:
            assert not len(pulses), fields
            assert outputs["retired"][part].sum() == 2, fields
        else:
            assert len(pulses) == 1, fields
            at = taken[index] + pulses[0]
            assert Cause(outputs["fault_cause"][at]) is cause, fields
            assert outputs["fault_index"][at] == index
            assert not outputs["retired"][part].any()
            assert not outputs["write"][at:part.stop].any()
            assert not outputs["busy"][at:part.stop].any()
        for t in np.flatnonzero(outputs["write"][part]) + part.start:
            assert (outputs["write_address"][t] + _written(outputs, t).max()
                    < config.activation_slots), fields
        assert machine.step(instruction) is cause, fields


def test_stop(rng: np.random.Generator) -> None:
    """Whenever it comes, nothing is written from then on and nothing is taken."""
    config = _CONFIGS["edge"]
    run = _Run(_machine(rng, config))
    instruction = Instruction("SPECIAL", **{**_GOOD, "residual": 1})
    run.cycle, stops = 8, []
    for offset in range(1, 72):
        run.give(instruction, 0, 0)
        stops.append((run.cycle, run.cycle + offset))
        for t in range(run.cycle + offset, run.cycle + 80):
            run.set(t, stop=1, instructions__valid=1)
        run.cycle += 80
        run.set(run.cycle, clear=1)
        run.cycle += 1
    outputs = run.run(run.cycle)
    for first, stop in stops:
        part = slice(stop, first + 80)
        assert not outputs["write"][part].any()
        assert not outputs["retired"][part][1:].any()
        assert outputs["write"][first:stop].sum() <= 3
    assert outputs["write"].sum() > 20


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_what_is_not_a_configuration() -> None:
    with pytest.raises(TypeError, match="config must be a CoreConfig, not None"):
        Special(config=None)  # type: ignore[arg-type]
    gc.collect()
