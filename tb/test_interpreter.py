"""The interpreter: instructions against loops written out from the table, rules at their limits,
tokens and queues."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulpsim import dlfloat, float32
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.formats import Format, Precision, multipliable
from ulpsim.integers import pack, unpack_codes
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Instruction, Pool, Segment, Target, Unit, encode_program
from ulpsim.matmul import dot, weight_ratio
from ulpsim.rules import check
from ulpsim.special import SpecialFunction, element

BASE = 0x4000_0000
SIZE = 1 << 16
SEGMENTS = {Segment.PARAMETERS: (BASE, 0x8000), Segment.INPUT: (BASE + 0x8000, 0x2000),
            Segment.OUTPUT: (BASE + 0xA000, 0x2000), Segment.WORKSPACE: (BASE + 0xC000, 0x1004)}
HALT = Instruction("HALT")


def _machine(rng: np.random.Generator, config: CoreConfig = EDGE) -> Machine:
    """A machine with noise in all of its memories."""
    machine = Machine(config, rng.integers(0, 256, SIZE).astype(np.uint8), BASE)
    machine.segments = dict(SEGMENTS)
    for memory in (machine.activations, machine.weights):
        memory[:] = rng.integers(0, 1 << 16, memory.shape)
    machine.accumulators[:] = rng.integers(0, 1 << 32, machine.accumulators.shape)
    return machine


def _memories(machine: Machine) -> list[np.ndarray]:
    return [m.copy() for m in (machine.memory, machine.activations, machine.weights,
                               machine.parameters, machine.accumulators)]


def _slot(machine: Machine, address: int) -> int:
    offset = address - BASE
    return int(machine.memory[offset]) | int(machine.memory[offset + 1]) << 8


def test_load(rng: np.random.Generator) -> None:
    for target, address, length, pitch, limit in (
            (Target.ACTIVATIONS, 77, 5, 9, EDGE.activation_slots),
            (Target.ACTIVATIONS, 3, 6, 4, EDGE.activation_slots),            # rows that overlap
            (Target.WEIGHTS, 24, 16, 32, EDGE.weight_slots),
            (Target.PARAMETERS, 32, 16, 48, EDGE.parameter_columns * 8)):
        machine = _machine(rng)
        memory = {Target.ACTIVATIONS: machine.activations, Target.WEIGHTS: machine.weights,
                  Target.PARAMETERS: machine.parameters}[target]
        flat = memory.reshape(-1).view(np.uint16)
        assert flat.size == limit
        expected = flat.copy()
        for i, j in product(range(3), range(length)):
            expected[address + i * pitch + j] = _slot(
                machine, SEGMENTS[Segment.INPUT][0] + 8 + i * 36 + 2 * j)
        before = machine.memory.copy()
        cause = machine.step(Instruction(
            "LOAD", target=target, segment=Segment.INPUT, offset=8, source_pitch=36, rows=3,
            length=length, address=address, pitch=pitch))
        assert cause is Cause.NONE
        np.testing.assert_array_equal(flat, expected)
        np.testing.assert_array_equal(machine.memory, before)


def test_the_layout_of_parameters() -> None:
    """Scale, bias, residual scale, upper bound: little-endian words, column after column."""
    words = np.arange(8, dtype="<u4") * 0x01010101 + 0x3F800000
    machine = Machine(EDGE, bytearray(words.tobytes()))
    machine.segments[Segment.PARAMETERS] = (0, 32)
    load = Instruction("LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS, length=16,
                       address=32)
    assert machine.step(load) is Cause.NONE
    np.testing.assert_array_equal(machine.parameters[4:6], words.reshape(2, 4))
    assert not machine.parameters[:4].any() and not machine.parameters[6:].any()


def test_fill_and_store(rng: np.random.Generator) -> None:
    machine = _machine(rng)
    expected = machine.activations.copy()
    for i in range(3):
        expected[11 + 7 * i:11 + 7 * i + 5] = 0
    assert machine.step(Instruction("FILL", rows=3, length=5, address=11, pitch=7)) is Cause.NONE
    np.testing.assert_array_equal(machine.activations, expected)
    memory = machine.memory.copy()
    for i, j in product(range(4), range(6)):
        first = SEGMENTS[Segment.WORKSPACE][0] - BASE + 4 + 20 * i + 2 * j
        memory[first:first + 2] = divmod(int(expected[9 + 5 * i + j]), 256)[::-1]
    cause = machine.step(Instruction("STORE", segment=Segment.WORKSPACE, offset=4, target_pitch=20,
                                     rows=4, length=6, address=9, pitch=5))
    assert cause is Cause.NONE
    np.testing.assert_array_equal(machine.memory, memory)
    np.testing.assert_array_equal(machine.activations, expected)


def _draw_matmul(rng: np.random.Generator, precision: Precision,
                 weight_precision: Precision) -> Instruction:
    depth = int(rng.integers(1, 30))
    length = int(rng.integers(1, 12))
    weight_signed = int(weight_precision.is_integer and rng.integers(2))
    return Instruction(
        "MATMUL", precision=precision, weight_precision=weight_precision,
        activation_signed=int(precision.is_integer and rng.integers(2)),
        weight_signed=weight_signed, weight_odd=int(weight_signed and rng.integers(2)),
        accumulate=int(rng.integers(2)), depth=depth,
        weights=int(rng.integers(0, 100)), address=int(rng.integers(0, 1000)), run_length=length,
        run_pitch=length + 8 * int(rng.integers(0, 5)), accumulator=int(rng.integers(0, 50)),
        **{f"count_{i}": int(rng.integers(1, 4)) for i in range(3)},
        **{f"stride_{i}": int(rng.integers(0, 60)) for i in range(3)})


_EVERYTHING = replace(EDGE, name="everything", formats=tuple(Precision))


@pytest.mark.parametrize(("config", "precision", "weight_precision"), [
    (config, a, w) for config in (_EVERYTHING, NANO) for a in config.formats
    for w in config.formats if multipliable(a, w)], ids=lambda x: getattr(x, "name", str(x)))
def test_matmul(rng: np.random.Generator, config: CoreConfig, precision: Precision,
                weight_precision: Precision) -> None:
    machine = _machine(rng, config)
    machine.accumulators[:] = float32.encode_array(rng.standard_normal(machine.accumulators.shape))
    machine.forward_bias = int(rng.integers(16))
    if precision is Precision.FP16:
        for memory in (machine.activations, machine.weights):
            memory[:] = dlfloat.encode_array(rng.standard_normal(memory.shape))
        machine.activations[::97] = dlfloat.NAN
    for _ in range(8):
        x = _draw_matmul(rng, precision, weight_precision)
        formats = (
            Format(precision, not precision.is_integer or bool(x["activation_signed"]),
                   bias=machine.forward_bias),
            Format(weight_precision, not weight_precision.is_integer or bool(x["weight_signed"]),
                   bool(x["weight_odd"]), machine.forward_bias))
        lines = -(-x["depth"] // weight_ratio(precision, weight_precision))
        expected = machine.accumulators.copy()
        counts = [x[f"count_{i}"] for i in range(3)]
        for m, i in enumerate(product(*map(range, counts))):
            first = x["address"] + sum(n * x[f"stride_{k}"] for k, n in enumerate(i))
            vector = [int(machine.activations[
                first + k // x["run_length"] * x["run_pitch"] + k % x["run_length"]])
                for k in range(x["depth"])]
            for column in range(config.column_lanes):
                weights = machine.weights[x["weights"]:x["weights"] + lines, column]
                old = int(expected[x["accumulator"] + m, column]) if x["accumulate"] else 0
                expected[x["accumulator"] + m, column] = dot(
                    vector, weights.tolist(), *formats, config.rows, old)
        before = machine.activations.copy()
        result = machine.run([x, HALT])
        assert result.cause is Cause.NONE
        assert result.multiply_adds == (np.prod(counts) * x["depth"] * precision.per_slot
                                        * config.column_lanes)
        np.testing.assert_array_equal(machine.accumulators, expected)
        np.testing.assert_array_equal(machine.activations, before)


@pytest.mark.parametrize("output", [p for p in Precision if p is not Precision.BINARY])
@pytest.mark.parametrize("pool", Pool)
def test_special(rng: np.random.Generator, output: Precision, pool: Pool) -> None:
    machine = _machine(rng, _EVERYTHING)
    machine.accumulators[:] = rng.integers(-3000, 3000, machine.accumulators.shape)
    machine.parameters[:] = float32.encode_array(
        rng.uniform(0.001, 1, machine.parameters.shape) * [0.01, 1, 0.01, 50])
    machine.forward_bias = int(rng.integers(16))
    formats = [p for p in Precision if p is not Precision.BINARY]
    for residual in (None, *formats):
        def sign(precision: Precision | None) -> int:
            return int(precision is not None and precision.is_integer and rng.integers(2))

        def kind(precision: Precision, signed: int) -> Format:
            return Format(precision, not precision.is_integer or bool(signed),
                          bias=machine.forward_bias)

        signs = {"output_signed": sign(output), "residual_signed": sign(residual)}
        x = Instruction(
            "SPECIAL", relu=int(rng.integers(2)), clip=int(rng.integers(2)), pool=pool,
            output_precision=output, residual=int(residual is not None),
            residual_precision=residual or Precision.FP16, **signs, parameters=6,
            accumulator=int(rng.integers(0, 9)), count_0=2, count_1=1, count_2=3,
            window_0=1 if pool is Pool.NONE else 2, window_1=1 if pool is Pool.NONE else 3,
            accumulator_stride_0=40, accumulator_stride_2=3, window_stride_0=11,
            window_stride_1=2, address=1001, stride_0=50, stride_2=int(rng.integers(3, 12)),
            residual_address=5003, residual_stride_0=600, residual_stride_2=9,
            residual_window_stride_0=100, residual_window_stride_1=13)
        function = SpecialFunction(
            output=kind(output, x["output_signed"]), relu=bool(x["relu"]),
            clip=bool(x["clip"]), pool=pool,
            residual=None if residual is None else kind(residual, x["residual_signed"]))
        expected = machine.activations.copy()
        for i in product(range(2), range(1), range(3)):
            vector = []
            for column in range(8):
                accumulators, residuals = [], []
                for j in product(range(x["window_0"]), range(x["window_1"])):
                    place = {name: x[first] + sum(n * x[f"{stride}_{k}"] for k, n in enumerate(i))
                             + sum(n * x[f"{window}_{k}"] for k, n in enumerate(j))
                             for name, first, stride, window in (
                        ("source", "accumulator", "accumulator_stride", "window_stride"),
                        ("residual", "residual_address", "residual_stride",
                         "residual_window_stride"))}
                    accumulators.append(int(machine.accumulators[place["source"], column]))
                    if residual is not None:
                        slots = machine.activations[place["residual"]:][:8 // residual.per_slot]
                        residuals.append(int(unpack_codes(slots, residual)[column]))
                parameters = machine.parameters[6 + column].tolist()
                vector.append(element(function, accumulators, tuple(parameters), residuals))
            first = x["address"] + sum(n * x[f"stride_{k}"] for k, n in enumerate(i))
            expected[first:first + 8 // output.per_slot] = pack(vector, output)
        assert machine.step(x) is Cause.NONE
        np.testing.assert_array_equal(machine.activations, expected)


LOAD = {"segment": Segment.INPUT, "rows": 3, "length": 16, "source_pitch": 64, "pitch": 32}
STORE = {"segment": Segment.WORKSPACE, "rows": 3, "length": 16, "target_pitch": 64, "pitch": 32}
MATMUL = {"precision": Precision.INT8, "depth": 20, "run_length": 8, "run_pitch": 40,
          "count_0": 2, "count_1": 3, "count_2": 4, "stride_0": 100, "stride_1": 10,
          "stride_2": 1}
SPECIAL = {"output_precision": Precision.INT8, "count_0": 2, "count_1": 3, "count_2": 4,
           "stride_0": 100, "stride_1": 10, "stride_2": 4, "accumulator_stride_0": 100,
           "accumulator_stride_1": 10, "accumulator_stride_2": 1, "pool": Pool.SUM,
           "window_0": 2, "window_1": 3, "window_stride_0": 50, "window_stride_1": 5,
           "residual": 1, "residual_precision": Precision.INT4, "residual_stride_0": 1000,
           "residual_stride_1": 100, "residual_stride_2": 10, "residual_window_stride_0": 300,
           "residual_window_stride_1": 30}
LIMITS = [
    # instruction, fields, the field at its limit, the limit, what is beyond, step
    ("LOAD", LOAD, "offset", 0x2000 - 128 - 32, Cause.SEGMENT_RANGE, 4),
    ("LOAD", {**LOAD, "length": 15}, "offset", 0x2000 - 128 - 32, Cause.SEGMENT_RANGE, 4),
    ("LOAD", LOAD, "address", 32768 - 64 - 16, Cause.ACTIVATION_RANGE, 1),
    ("LOAD", {**LOAD, "target": Target.WEIGHTS}, "address", 32768 - 64 - 16, Cause.WEIGHT_RANGE,
     8),
    ("LOAD", {**LOAD, "target": Target.PARAMETERS}, "address", 4096 - 64 - 16,
     Cause.PARAMETER_RANGE, 16),
    ("LOAD", {**LOAD, "rows": 2}, "source_pitch", 0x2000 - 32, Cause.SEGMENT_RANGE, 4),
    ("FILL", {"rows": 3, "length": 5, "pitch": 7}, "address", 32768 - 14 - 5,
     Cause.ACTIVATION_RANGE, 1),
    ("STORE", STORE, "offset", 0x1004 - 128 - 32, Cause.SEGMENT_RANGE, 4),
    ("STORE", STORE, "address", 32768 - 64 - 16, Cause.ACTIVATION_RANGE, 1),
    ("MATMUL", MATMUL, "address", 32768 - 123 - 80 - 4, Cause.ACTIVATION_RANGE, 1),
    ("MATMUL", {**MATMUL, "run_pitch": 0}, "address", 32768 - 123 - 8, Cause.ACTIVATION_RANGE, 1),
    ("MATMUL", {**MATMUL, "run_length": 20}, "address", 32768 - 123 - 20, Cause.ACTIVATION_RANGE,
     1),
    ("MATMUL", MATMUL, "weights", 4096 - 20, Cause.WEIGHT_RANGE, 1),
    ("MATMUL", MATMUL, "accumulator", 512 - 24, Cause.ACCUMULATOR_RANGE, 1),
    ("SPECIAL", SPECIAL, "address", 32768 - 132 - 4, Cause.ACTIVATION_RANGE, 1),
    ("SPECIAL", SPECIAL, "residual_address", 32768 - 1230 - 360 - 2, Cause.ACTIVATION_RANGE, 1),
    ("SPECIAL", SPECIAL, "parameters", 512 - 8, Cause.PARAMETER_RANGE, 2),
    ("SPECIAL", SPECIAL, "accumulator", 512 - 123 - 60 - 1, Cause.ACCUMULATOR_RANGE, 1),
]


@pytest.mark.parametrize(("name", "fields", "field", "limit", "cause", "step"), LIMITS,
                         ids=lambda x: x if isinstance(x, str) else None)
def test_ranges(rng: np.random.Generator, name: str, fields: dict, field: str, limit: int,
                cause: Cause, step: int) -> None:
    machine = _machine(rng)
    assert machine.step(Instruction(name, **{**fields, field: limit})) is Cause.NONE
    before = _memories(machine)
    assert machine.step(Instruction(name, **{**fields, field: limit + step})) is cause
    for old, new in zip(before, _memories(machine), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(("name", "fields", "cause"), [
    *(("LOAD", {**LOAD, f: 2}, Cause.MISALIGNED_ADDRESS) for f in ("offset", "source_pitch")),
    *(("LOAD", {**LOAD, "target": Target.WEIGHTS, f: 12}, Cause.MISALIGNED_ADDRESS)
      for f in ("address", "length", "pitch")),
    *(("LOAD", {**LOAD, "target": Target.PARAMETERS, f: 24}, Cause.MISALIGNED_ADDRESS)
      for f in ("address", "length", "pitch")),
    *(("STORE", {**STORE, f: 6}, Cause.MISALIGNED_ADDRESS) for f in ("offset", "target_pitch")),
    ("STORE", {**STORE, "length": 15}, Cause.MISALIGNED_ADDRESS),
    *(("STORE", {**STORE, "segment": s}, Cause.SEGMENT_READ_ONLY)
      for s in (Segment.PARAMETERS, Segment.INPUT)),
    *(("MATMUL", {**MATMUL, "run_pitch": p}, Cause.MISALIGNED_ADDRESS) for p in (41, 44, 7)),
    *(("MATMUL", {**MATMUL, "precision": Precision.FP16, s: 1}, Cause.ILLEGAL_INSTRUCTION)
      for s in ("activation_signed", "weight_signed")),
    *(("SPECIAL", {**SPECIAL, f"{x}_precision": Precision.FP16, f"{x}_signed": 1},
       Cause.ILLEGAL_INSTRUCTION) for x in ("output", "residual")),
    *(("SPECIAL", {**SPECIAL, "pool": Pool.NONE, w: 1}, Cause.ILLEGAL_INSTRUCTION)
      for w in ("window_0", "window_1")),
    ("SPECIAL", {**SPECIAL, "parameters": 1}, Cause.MISALIGNED_ADDRESS),
    # Of several rules the first one counts.
    ("LOAD", {**LOAD, "offset": 0xFFFFFFFE}, Cause.MISALIGNED_ADDRESS),
    ("LOAD", {**LOAD, "offset": 0xFFFFFFFC, "address": 0xFFFFF}, Cause.SEGMENT_RANGE),
    ("STORE", {**STORE, "segment": Segment.INPUT, "offset": 0xFFFFFFFC}, Cause.SEGMENT_READ_ONLY),
    ("MATMUL", {**MATMUL, "accumulator": 511, "weights": 0xFFFFF}, Cause.WEIGHT_RANGE),
    ("MATMUL", {**MATMUL, "accumulator": 511, "address": 0xFFFFF}, Cause.ACCUMULATOR_RANGE),
    ("SPECIAL", {**SPECIAL, "parameters": 511, "address": 0xFFFFF}, Cause.MISALIGNED_ADDRESS),
    ("SPECIAL", {**SPECIAL, "parameters": 510, "accumulator": 511}, Cause.PARAMETER_RANGE),
    ("SPECIAL", {**SPECIAL, "accumulator": 511, "address": 0xFFFFF}, Cause.ACCUMULATOR_RANGE),
])
def test_rules(rng: np.random.Generator, name: str, fields: dict, cause: Cause) -> None:
    machine = _machine(rng)
    before = _memories(machine)
    result = machine.run([Instruction("FILL", address=1), Instruction(name, **fields), HALT])
    assert (result.cause, result.index) == (cause, 1)
    before[1][1] = 0
    for old, new in zip(before, _memories(machine), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(("name", "fields"), [
    ("MATMUL", {**MATMUL, "depth": 8, "run_pitch": 41}),             # one run only
    ("SPECIAL", {**SPECIAL, "residual": 0, "residual_precision": Precision.FP16,
                 "residual_signed": 1, "residual_address": 0xFFFFF}),
    ("SPECIAL", {**SPECIAL, "pool": Pool.NONE, "window_0": 1, "window_1": 1}),
])
def test_what_is_not_looked_at(name: str, fields: dict) -> None:
    assert check(EDGE, SEGMENTS, Instruction(name, **fields)) is Cause.NONE


def test_formats_that_a_core_lacks() -> None:
    floats = replace(EDGE, formats=(Precision.FP16,))
    for config, precision in ((NANO, Precision.FP16), (floats, Precision.INT8)):
        small = {"depth": 1, "run_length": 1, "precision": precision}
        assert check(config, {}, Instruction("MATMUL", **small)) is Cause.UNSUPPORTED_FORMAT
        other = config.formats[0]
        for output, residual in ((precision, other), (other, precision)):
            special = Instruction("SPECIAL", output_precision=output, residual=1,
                                  residual_precision=residual,
                                  float_accumulator=int(config is floats))
            assert check(config, {}, special) is Cause.UNSUPPORTED_FORMAT
        for is_float in (0, 1):
            special = Instruction("SPECIAL", output_precision=other, residual_precision=precision,
                                  float_accumulator=is_float)
            allowed = is_float == (config is floats)
            assert check(config, {}, special) is (
                Cause.NONE if allowed else Cause.UNSUPPORTED_FORMAT)
            assert check(EDGE, {}, special) is Cause.NONE


def test_memory_that_is_not_there(rng: np.random.Generator) -> None:
    machine = _machine(rng)
    machine.segments = {s: (BASE + SIZE - 64, 128) for s in Segment}
    before = _memories(machine)
    for name, segment in (("LOAD", Segment.INPUT), ("STORE", Segment.OUTPUT)):
        x = Instruction(name, segment=segment, length=32, rows=1)
        assert machine.step(x) is Cause.NONE
        beyond = Instruction(name, segment=segment, length=34, rows=1)
        assert machine.run([beyond, HALT]).cause is Cause.BUS_DECODE_ERROR
    machine.segments[Segment.INPUT] = (BASE - 4, 128)
    assert machine.run([Instruction("LOAD", segment=Segment.INPUT, length=4), HALT]
                       ).cause is Cause.BUS_DECODE_ERROR
    np.testing.assert_array_equal(machine.memory, before[0])


def _fill(address: int, **header: int) -> Instruction:
    return Instruction("FILL", address=address, **header)


def _matmul(**header: int) -> Instruction:
    return Instruction("MATMUL", precision=Precision.INT8, **header)


def _run(*program: Instruction, config: CoreConfig = EDGE) -> tuple[Cause, int]:
    result = Machine(config, bytearray(4)).run(program)
    return result.cause, result.index


def test_program_length() -> None:
    assert _run() == (Cause.PROGRAM_LENGTH, 0)
    assert _run(_fill(0)) == (Cause.PROGRAM_LENGTH, 0)
    assert _run(_fill(0), _fill(1)) == (Cause.PROGRAM_LENGTH, 1)
    assert _run(*[_fill(0)] * 2000, HALT) == (Cause.NONE, 0)
    assert _run(HALT, _fill(1 << 19)) == (Cause.NONE, 0)


def test_token_from_an_instruction_that_cannot_be_fetched() -> None:
    waiting = [Instruction("STORE", wait_load=1, rows=1, length=2), Instruction("STORE", length=2)]

    def run(fills: int) -> tuple[Cause, int]:
        machine = Machine(NANO, bytearray(64))
        machine.segments = {segment: (0, 64) for segment in Segment}
        for store in waiting:
            store.values["segment"] = Segment.OUTPUT.value
        result = machine.run([*waiting, *[_fill(0)] * fills, _fill(0, post_store=1), HALT])
        return result.cause, result.index

    # The second STORE is read from the instruction memory when the first has gone.
    last = NANO.instruction_memory - len(waiting) - 1
    assert run(last) == (Cause.NONE, 0)
    assert run(last + 1) == (Cause.DEADLOCK, 0)


def test_words_that_are_no_instruction() -> None:
    machine = Machine(EDGE, bytearray(4))
    machine.activations[:] = 1
    program = bytearray(encode_program([_fill(7), HALT, HALT]))
    program[64] = 9
    result = machine.run(program)
    assert (result.cause, result.index) == (Cause.ILLEGAL_INSTRUCTION, 1)
    assert machine.activations[7] == 0 and machine.activations[6] == 1
    with pytest.raises(ValueError, match="program must be a multiple of 64 bytes, not 100"):
        machine.run(program[:100])
    machine.segments[Segment.INPUT] = (2, 8)
    with pytest.raises(ValueError, match="base of segment INPUT must be a multiple of 4, not 2"):
        machine.run([HALT])
    with pytest.raises(ValueError, match="memory must be writeable"):
        Machine(EDGE, bytes(4))  # type: ignore


def test_tokens_that_never_come() -> None:
    assert _run(_matmul(wait_load=1), HALT) == (Cause.DEADLOCK, 0)
    assert _run(_fill(0, post_execute=1), _matmul(wait_load=1), HALT) == (Cause.NONE, 0)
    assert _run(_fill(0, post_execute=1), _matmul(wait_load=2), HALT) == (Cause.DEADLOCK, 1)
    # A circle: each unit waits for the other one. The first one of the program is named.
    circle = [_matmul(wait_load=1, post_load=1), _fill(0, wait_execute=1, post_execute=1), HALT]
    assert _run(*circle) == (Cause.DEADLOCK, 0)
    # A token for another unit, or from another one, does not count.
    assert _run(_fill(0, post_special=1), _matmul(wait_load=1), HALT) == (Cause.DEADLOCK, 1)
    assert _run(_fill(0, post_execute=1), _matmul(wait_store=1), HALT) == (Cause.DEADLOCK, 1)


def test_tokens_from_later_instructions() -> None:
    """Legal as long as the queue holds what waits, one of them at the head."""
    late = _fill(0, post_execute=1)
    for depth, waiting, cause in ((4, 5, Cause.NONE), (4, 6, Cause.DEADLOCK)):
        config = replace(EDGE, queue_depth=depth)
        program = [_matmul(wait_load=1)] + [_matmul()] * (waiting - 1) + [late, HALT]
        assert _run(*program, config=config) == (cause, 0)


def test_order_is_that_of_the_tokens() -> None:
    """The product waits for the second fill, which comes after it in the program."""
    machine = Machine(EDGE, bytearray(4))
    machine.weights[:] = 1
    machine.activations[0] = 3
    program = [_matmul(wait_load=1, activation_signed=0), _fill(0, post_execute=1), HALT]
    assert machine.run(program).cause is Cause.NONE
    assert not machine.accumulators[0].any()
    machine.activations[0] = 3
    program = [_matmul(post_load=1), _fill(0, wait_execute=1), HALT]
    assert machine.run(program).cause is Cause.NONE
    assert (machine.accumulators[0] == 3).all()


def test_tokens_are_counted_to_255() -> None:
    give = _fill(0, post_store=1)
    assert _run(*[give] * 255, HALT) == (Cause.NONE, 0)
    assert _run(*[give] * 256, HALT) == (Cause.TOKEN_OVERFLOW, 255)
    machine = Machine(EDGE, bytearray(4))
    for _ in range(2):                            # counts start from zero in every run
        assert machine.run([*[give] * 200, HALT]).cause is Cause.NONE


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(EDGE.units), st.sampled_from(EDGE.units)), max_size=40))
def test_programs_that_wait_for_earlier_posts_end(links: list[tuple[Unit, Unit]]) -> None:
    """Every instruction takes the tokens given so far: no deadlock, whatever the queues hold."""
    names = {Unit.LOAD: "FILL", Unit.EXECUTE: "MATMUL", Unit.SPECIAL: "SPECIAL",
             Unit.STORE: "STORE"}
    outstanding = dict.fromkeys(product(EDGE.units, EDGE.units), 0)
    program = []
    for unit, target in links:
        fields: dict = {f"post_{target.name.lower()}": 1}
        for source in EDGE.units:
            taken = min(15, outstanding[source, unit])
            outstanding[source, unit] -= taken
            fields[f"wait_{source.name.lower()}"] = taken
        outstanding[unit, target] += 1
        if unit is Unit.STORE:
            fields |= {"segment": Segment.OUTPUT, "length": 2}
        program.append(Instruction(names[unit], **fields))
    machine = Machine(replace(EDGE, queue_depth=1), bytearray(8))
    machine.segments[Segment.OUTPUT] = (0, 8)
    assert machine.run([*program, HALT]).cause is Cause.NONE
    if program:
        broken = [*program, Instruction("FILL", wait_store=15), HALT]
        if outstanding[Unit.STORE, Unit.LOAD] < 15:
            assert machine.run(broken).cause is Cause.DEADLOCK


def test_a_layer(rng: np.random.Generator) -> None:
    """Load, multiply, scale, store: against plain numpy."""
    x = rng.integers(0, 256, (20, 72))
    w = rng.integers(-128, 128, (72, 8))
    parameters = np.zeros((8, 4), np.float32)
    parameters[:, 0] = rng.uniform(0.0005, 0.001, 8)
    parameters[:, 1] = rng.uniform(-4, 4, 8)
    memory = bytearray(1 << 14)
    lines = pack(w.T, Precision.INT8).T
    memory[0:lines.size * 2] = lines.astype("<u2").tobytes()
    memory[0x1000:0x1000 + 128] = parameters.astype("<f4").tobytes()
    rows = pack(x, Precision.INT8)
    memory[0x2000:0x2000 + rows.size * 2] = rows.astype("<u2").tobytes()
    machine = Machine(EDGE, memory, 0x8000)
    machine.segments = {Segment.PARAMETERS: (0x8000, 0x2000), Segment.INPUT: (0xA000, 0x1000),
                        Segment.OUTPUT: (0xB000, 0x1000)}
    result = machine.run([
        Instruction("LOAD", target=Target.WEIGHTS, segment=Segment.PARAMETERS, length=36 * 8),
        Instruction("LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS, offset=0x1000,
                    length=64, post_special=1),
        Instruction("LOAD", segment=Segment.INPUT, rows=20, length=36, source_pitch=72, pitch=36,
                    post_execute=1),
        Instruction("MATMUL", wait_load=1, post_special=1, precision=Precision.INT8,
                    weight_signed=1, depth=36, run_length=36, count_2=20, stride_2=36),
        Instruction("SPECIAL", wait_load=1, wait_execute=1, post_store=1, relu=1,
                    output_precision=Precision.INT8, count_2=20, accumulator_stride_2=1,
                    address=1000, stride_2=4),
        Instruction("STORE", wait_special=1, segment=Segment.OUTPUT, length=80, address=1000),
        HALT])
    assert result.cause is Cause.NONE
    assert result.multiply_adds == x.size * 8
    y = (x @ w).astype(np.float32) * parameters[:, 0] + parameters[:, 1]
    expected = np.clip(np.rint(y), 0, 255)
    stored = np.frombuffer(memory, np.uint8)[0x3000:0x3000 + 160].reshape(20, 8)
    np.testing.assert_array_equal(stored, expected)
