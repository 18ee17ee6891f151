"""The execute unit between its memories: what reaches the array, when, and what is refused.

The unit is offered instructions at the cycles that `ulpsim.cycles_execute` predicts, from memories
loaded through their own ports. Every vector and row of weights must then come in its predicted
cycle, and the sums that they make must be the interpreter's.
"""

import dataclasses
import gc

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In
from ulpcore.decoder import unit_layout
from ulpcore.execute import Execute
from ulpcore.scratchpad import ActivationScratchpad, ScratchpadWrite, WeightScratchpad
from ulpcore.simulation import run_vectors
from ulpsim import cycles_execute
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.cycles_execute import VECTOR_LATENCY
from ulpsim.formats import Format, Precision, multipliable
from ulpsim.integers import values
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Fold, Instruction, Unit
from ulpsim.matmul import matmul, weight_ratio
from ulpsim.rules import check

SMALL_EDGE = dataclasses.replace(EDGE, name="small_edge", activation_bytes=4096,
                                 weight_bytes=4096, accumulator_depth=64,
                                 formats=tuple(Precision))
SMALL_NANO = dataclasses.replace(NANO, name="small_nano", activation_bytes=2048,
                                 weight_bytes=2048, accumulator_depth=32)
TWO_ROWS = dataclasses.replace(SMALL_NANO, name="two_rows", rows=2, multiply_add_stages=2)
#: Columns in groups; the second one with more banks than slots to gather.
FOLDED = dataclasses.replace(SMALL_EDGE, name="folded", lanes=2, special_lanes=4, fold=2)
FOLDED_NANO = dataclasses.replace(SMALL_NANO, name="folded_nano", columns=8, lanes=8, fold=4,
                                  special_lanes=16, activation_bytes=4096, weight_bytes=8192)
CONFIGS = pytest.mark.parametrize("config", [SMALL_EDGE, SMALL_NANO, TWO_ROWS, FOLDED, pytest.param(
    FOLDED_NANO, marks=pytest.mark.nightly)], ids=lambda c: c.name)
TO_ARRAY = ("vector", "mask", "valid", "swap", "precision", "activation_signed",
            "vector_weight_signed", "vector_odd", "address", "overwrite", "last", "post", "weights",
            "weight_valid", "weight_row", "weight_precision", "weight_target", "weight_signed",
            "weight_part")
STATUS = ("retired", "retired_post", "fault", "fault_cause", "fault_index", "busy")


class Bench(wiring.Component):
    """The unit with its two memories; `clear` resets them all."""

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        self.unit = Execute(config=config)
        members = self.unit.signature.members
        super().__init__({
            "instructions": In(stream.Signature(unit_layout(Unit.EXECUTE, config))),
            **{name: members[name] for name in (*TO_ARRAY, *STATUS, "stop", "completed",
                                                "completed_post")},
            "clear": In(1), "load": In(ScratchpadWrite(banks=config.banks)),
            "line_enable": In(1), "line": In(range(config.weight_lines)),
            "line_data": In(data.ArrayLayout(16, config.column_lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clear = ResetInserter(self.clear)
        execute = self.unit
        activations = ActivationScratchpad(config=self.config)
        lines = WeightScratchpad(config=self.config)
        m.submodules.execute = clear(execute)
        m.submodules.activations = clear(activations)
        m.submodules.weight_lines = clear(lines)
        wiring.connect(m, wiring.flipped(self.instructions), execute.instructions)
        wiring.connect(m, wiring.flipped(self.load), activations.load)
        m.d.comb += [
            *(getattr(self, name).eq(getattr(execute, name)) for name in (*TO_ARRAY, *STATUS)),
            *(getattr(execute, name).eq(getattr(self, name))
              for name in ("stop", "completed", "completed_post")),
            activations.gather_enable.eq(execute.gather_enable),
            activations.addresses.eq(execute.gather_addresses),
            *([activations.gather_groups.eq(execute.gather_groups)]
              if self.config.fold > 1 else []),
            execute.gathered.eq(activations.gathered),
            lines.read_enable.eq(execute.weight_read_enable),
            lines.read_line.eq(execute.weight_read_line),
            execute.weight_read_data.eq(lines.read_data),
            lines.write_enable.eq(self.line_enable),
            lines.write_line.eq(self.line),
            lines.write_data.eq(self.line_data),
        ]
        return m


def payload(config: CoreConfig, instruction: Instruction, index: int, post: int) -> np.ndarray:
    """The words of an instruction as the unit gets it."""
    layout = unit_layout(Unit.EXECUTE, config)
    values = {"index": index, "post": post, "opcode": instruction.type.opcode}
    word = 0
    for name, field in layout:
        word |= values.get(name, instruction.values.get(name, 0)) << field.offset
    return np.array([word >> (32 * i) & 0xFFFFFFFF for i in range(-(-layout.size // 32))],
                    np.uint32)


def vectors_of(instruction: Instruction) -> int:
    return int(np.prod([instruction[f"count_{i}"] for i in range(3)]))


class Run:
    """A run of instructions, instruction i offered from cycle `arrivals[i]` or when it is its turn.

    With `failing`, that instruction is offered after them, and then the first one again for ever.
    `plan` holds for each of them when it was offered, is taken, and its first and last tile begin;
    `retired` when it retires. Cycles count from the end of loading the memories; the run goes on
    for `tail` cycles after the last instruction. `simulate` makes the bench's outputs available.
    """

    def __init__(self, config: CoreConfig, machine: Machine, program: list[Instruction],
                 arrivals: list[int], *, failing: Instruction | None = None, tail: int = 80,
                 stop: int | None = None) -> None:
        self.config = config
        timing = cycles_execute.Execute(config)
        self.loading = loading = 1 + max(4 * (config.activation_slots // config.banks),
                                      config.weight_lines)
        self.plan, self.retired = [], []
        free = 0
        for instruction, arrival in zip(program, arrivals, strict=True):
            offered = max(arrival, free)
            taken, first, last = timing.feed(instruction, offered)
            self.plan.append((offered, taken, first, last))
            self.retired.append(last + VECTOR_LATENCY + vectors_of(instruction) - 1
                                + cycles_execute.finish_latency(config))
            free = taken + 1
        length = self.retired[-1] + tail
        cycles = loading + length
        words = -(-unit_layout(Unit.EXECUTE, config).size // 32)
        inputs = {name: np.zeros(cycles, np.uint64) for name in (
            "instructions__valid", "load__enable", "load__address", "load__count", "line_enable",
            "line", "completed", "completed_post", "stop", "clear")}
        inputs["clear"][0] = 1
        inputs["instructions__payload"] = np.zeros((cycles, words), np.uint32)
        inputs["load__data"] = np.zeros((cycles, config.banks // 2), np.uint32)
        inputs["line_data"] = np.zeros((cycles, config.column_lanes // 2), np.uint32)

        groups = config.activation_slots // config.banks
        turns = 1 + 4 * np.arange(groups)
        inputs["load__enable"][turns] = 1
        inputs["load__address"][turns] = config.banks * np.arange(groups)
        inputs["load__count"][turns] = config.banks
        inputs["load__data"][turns] = machine.activations.reshape(groups, -1).view(np.uint32)
        lines = np.arange(config.weight_lines)
        inputs["line_enable"][lines] = 1
        inputs["line"][lines] = lines
        inputs["line_data"][lines] = machine.weights.view(np.uint32)
        self.posts = [7 * i % 16 for i in range(len(program))]
        for i, (instruction, (offered, taken, _, _)) in enumerate(
                zip(program, self.plan, strict=True)):
            during = slice(loading + offered, loading + taken + 1)
            inputs["instructions__valid"][during] = 1
            inputs["instructions__payload"][during] = payload(config, instruction, i,
                                                              self.posts[i])
            inputs["completed"][loading + self.retired[i]] = 1
            inputs["completed_post"][loading + self.retired[i]] = self.posts[i]
        if failing is not None:
            inputs["instructions__valid"][loading + free:] = 1
            inputs["instructions__payload"][loading + free:] = payload(config, program[0], 0, 0)
            until = loading + max(free, timing.begin) + 1
            inputs["instructions__payload"][loading + free:until] = payload(
                config, failing, len(program), 15)
        if stop is not None:
            inputs["stop"][loading + stop:] = 1
        self.inputs = inputs
        self.cycles = length
        self.outputs: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.outputs[name].astype(np.int64)


def simulate(runs: list[Run]) -> list[Run]:
    """Simulate the runs, one after the other on one bench; returns them."""
    config = runs[0].config
    outputs = run_vectors(Bench(config=config), {
        name: np.concatenate([run.inputs[name] for run in runs]) for name in runs[0].inputs})
    for name, count in (("vector", config.fold * config.rows), ("weights", config.column_lanes)):
        words = np.ascontiguousarray(outputs[name])
        outputs[name] = words.view(np.uint16).reshape(len(words), -1)[:, :count]
    end = 0
    for run in runs:
        begin, end = end + run.loading, end + run.loading + run.cycles
        run.outputs = {name: values[begin:end] for name, values in outputs.items()}
    return runs


def window(instruction: Instruction) -> np.ndarray:
    k = np.arange(instruction["depth"])
    length = instruction["run_length"]
    return k // length * instruction["run_pitch"] + k % length


def bases(instruction: Instruction) -> np.ndarray:
    i = np.indices([instruction[f"count_{i}"] for i in range(3)]).reshape(3, -1)
    return instruction["address"] + np.array([instruction[f"stride_{i}"] for i in range(3)]) @ i


def group_columns(config: CoreConfig, group: int) -> slice:
    """Of the smallest groups of columns."""
    columns = config.column_lanes // config.fold
    return slice(group * columns, (group + 1) * columns)


def expect(run: Run, machine: Machine, program: list[Instruction]) -> dict[str, np.ndarray]:
    """What the array must get in each cycle, by the definition of MATMUL."""
    config = run.config
    rows = config.rows
    expected = {name: np.zeros(run.cycles, np.int64) for name in TO_ARRAY}
    expected["vector"] = np.zeros((run.cycles, config.fold * rows), np.int64)
    expected["weights"] = np.zeros((run.cycles, config.column_lanes), np.int64)
    for i, (instruction, (_, _, begin, _)) in enumerate(zip(program, run.plan, strict=True)):
        count, depth = vectors_of(instruction), instruction["depth"]
        slots = bases(instruction)[:, None] + window(instruction)
        fold = Fold(instruction["fold"])
        period = max(count, config.minimum_tile_period, fold.groups * rows + 1)
        for tile, k in enumerate(range(0, depth, fold.groups * rows)):
            at = np.arange(count) + VECTOR_LATENCY + begin + tile * period
            assert not expected["valid"][at].any()
            expected["valid"][at] = 1
            firsts = [k + place * fold.groups // config.fold * rows for place in range(config.fold)]
            useds = [min(max(0, depth - first), rows) for first in firsts]
            for place, (first, used) in enumerate(zip(firsts, useds, strict=True)):
                expected["vector"][at, place * rows:place * rows + used] = machine.activations[
                    slots[:, first:first + used]]
                expected["mask"][at] |= (1 << used) - 1 << place * rows
            expected["swap"][at[0]] = 1
            expected["precision"][at] = instruction["precision"]
            expected["activation_signed"][at] = instruction["activation_signed"]
            precision, weight_precision = (Precision(instruction[name]) for name in (
                "precision", "weight_precision"))
            signs = precision.is_integer and weight_precision is Precision.BINARY
            expected["vector_weight_signed"][at] = instruction["weight_signed"] or signs
            expected["vector_odd"][at] = instruction["weight_odd"] or signs
            expected["address"][at] = instruction["accumulator"] + np.arange(count)
            expected["overwrite"][at] = k == 0 and not instruction["accumulate"]
            expected["last"][at[-1]] = k + fold.groups * rows >= depth
            expected["post"][at] = run.posts[i]
            given = at[0] - 2 + np.arange(rows)
            expected["weight_valid"][given] = 1
            expected["weight_row"][given] = np.arange(rows)
            expected["weight_precision"][given] = weight_precision.value
            expected["weight_target"][given] = precision.value
            expected["weight_signed"][given] = instruction["weight_signed"]
            ratio = weight_ratio(precision, weight_precision)
            line, part = np.divmod(tile * rows + np.arange(rows), ratio)
            expected["weight_part"][given] = part
            for place, used in enumerate(useds):
                columns = group_columns(config, place)
                expected["weights"][given[:used], columns] = machine.weights[
                    instruction["weights"] + line[:used], columns]
    return expected


def compare(run: Run, expected: dict[str, np.ndarray]) -> None:
    for valid, names in (("valid", TO_ARRAY[:12]), ("weight_valid", TO_ARRAY[12:])):
        np.testing.assert_array_equal(run[valid], expected[valid], valid)
        given = expected[valid] == 1
        for name in names:
            found = run[name]
            if name == "vector":
                slots = run.config.fold * run.config.rows
                masked = expected["mask"][:, None] >> np.arange(slots) & 1
                found = found * masked
            np.testing.assert_array_equal(found[given], expected[name][given], name)


def loaded(config: CoreConfig, rng: np.random.Generator) -> Machine:
    machine = Machine(config, bytearray(4))
    # DLFloat16 codes of moderate size, so that sums tell one order from another.
    for memory in (machine.activations, machine.weights):
        sign, exponent, fraction = (rng.integers(*limits, memory.shape)
                                    for limits in ((0, 2), (28, 34), (0, 1 << 9)))
        memory[...] = sign << 15 | exponent << 9 | fraction
    return machine


def random_instruction(config: CoreConfig, rng: np.random.Generator, **given) -> Instruction:
    """A legal MATMUL."""
    while True:
        precision = config.formats[rng.integers(len(config.formats))]
        precision = given.get("precision", precision)
        partners = [p for p in config.formats if multipliable(precision, p)]
        weight_precision = partners[rng.integers(len(partners))]
        weight_signed = int(weight_precision.is_integer and rng.integers(2))
        fold = config.folds[rng.integers(len(config.folds))]
        slots = fold.groups * config.rows
        depth = int(rng.choice([rng.integers(1, 2 * slots + 2), rng.integers(1, 5 * slots + 1)]))
        length = int(rng.choice([1, 3, 5, 8, 9, 12, 20, 33, depth]))
        pitch = length + 8 * fold.groups * int(rng.integers(0, 5))
        counts = rng.choice([1, 1, 2, 3, 4], 3)
        if rng.random() < 0.4:
            near = config.minimum_tile_period + int(rng.integers(-1, 2))
            counts = rng.permutation([1, 1, near])
        values = dict(
            precision=precision, weight_precision=weight_precision,
            activation_signed=int(precision.is_integer and rng.integers(2)),
            weight_signed=weight_signed, weight_odd=int(weight_signed and rng.integers(2)),
            accumulate=int(rng.integers(0, 2)), fold=fold, depth=depth,
            run_length=length, run_pitch=pitch,
            weights=int(rng.integers(0, max(1, config.weight_lines - depth + 1))),
            address=int(rng.integers(0, config.activation_slots)),
            accumulator=int(rng.integers(0, config.accumulator_depth)))
        for i in range(3):
            values[f"count_{i}"] = int(counts[i])
            values[f"stride_{i}"] = int(rng.integers(0, 40))
        instruction = Instruction("MATMUL", **(values | given))
        if check(config, {}, instruction) is Cause.NONE:
            return instruction


def sums(run: Run, machine: Machine) -> np.ndarray:
    """Accumulators after what the array got: products of whole tiles, in order."""
    config = run.config
    result = machine.accumulators.copy()
    swaps = np.flatnonzero(run["valid"] & run["swap"])
    for number, begin in enumerate(swaps):
        end = swaps[number + 1] if number + 1 < len(swaps) else run.cycles
        at = begin + np.flatnonzero(run["valid"][begin:end])
        address = run["address"][at]
        old = np.where(run["overwrite"][at, None], 0, result[address]).astype(np.uint32)
        for group in range(config.fold):
            columns = group_columns(config, group)
            result[address, columns] = group_sums(run, begin, at, group, old[:, columns])
    return result


def group_sums(run: Run, begin: int, at: np.ndarray, group: int, old: np.ndarray) -> np.ndarray:
    """Accumulators of a group of columns after one tile."""
    config = run.config
    given = slice(begin - 2, begin - 2 + config.rows)
    current = run["weights"][given, group_columns(config, group)].astype(np.uint16)
    rows = slice(group * config.rows, (group + 1) * config.rows)
    vector = run["vector"][at, rows]
    mask = run["mask"][begin] >> np.arange(rows.start, rows.stop) & 1
    precision, weight_precision = (Precision(run[name][cycle]) for name, cycle in (
        ("precision", begin), ("weight_precision", begin - 2)))
    activation = Format(precision, not precision.is_integer
                        or bool(run["activation_signed"][begin]))
    if precision.is_float:
        return matmul(vector * mask, current, activation, Format(weight_precision), config.rows,
                      old)
    weight = Format(weight_precision,
                    not weight_precision.is_integer or bool(run["weight_signed"][begin - 2]),
                    weight_precision.is_integer and bool(run["vector_odd"][begin]))
    used = np.flatnonzero(mask)
    if not len(used):
        return old
    elements = values(current[used, :, None], weight)
    parts = [range(part * precision.per_slot, (part + 1) * precision.per_slot)
             for part in run["weight_part"][given][used]]
    return old + np.einsum(
        "mke,kne->mn", values(vector[:, used, None].astype(np.uint16), activation),
        np.stack([elements[k][:, part] for k, part in enumerate(parts)]))


@CONFIGS
def test_random_instructions(config, rng):
    machine = loaded(config, rng)
    program = [random_instruction(config, rng) for _ in range(150)]
    # Mostly back to back, some just about when the unit waits for them, some long after.
    gaps = rng.choice([0, 0, 0, 5, 30, 300], len(program)) * rng.random(len(program))
    arrivals = np.cumsum(gaps).astype(int).tolist()
    probe = cycles_execute.Execute(config)
    for i, instruction in enumerate(program):
        if i and rng.random() < 0.5:
            arrivals[i] = probe.begin + int(rng.integers(-config.rows, 40))
        probe.feed(instruction, max(arrivals[i], 0))
    run, = simulate([Run(config, machine, program, arrivals)])
    compare(run, expect(run, machine, program))
    assert not run["fault"].any()
    # Taken exactly when predicted, known to be busy until the last one retires.
    offered = run.inputs["instructions__valid"][run.loading:].astype(int)
    taken = np.flatnonzero(run["instructions__ready"] & offered)
    assert taken.tolist() == [t for _, t, _, _ in run.plan]
    cycles = np.arange(run.cycles)[:, None]
    under_way = (cycles > taken) & (cycles <= np.array(run.retired))
    assert (run["busy"] == under_way.any(axis=1)).all()
    retired = np.flatnonzero(run["retired"])
    assert retired.tolist() == run.retired
    assert run["retired_post"][retired].tolist() == run.posts
    result = sums(run, machine)
    for instruction in program:
        assert machine.step(instruction) is Cause.NONE
    assert (result == machine.accumulators).all()


@CONFIGS
def test_no_cycle_is_lost(config, rng):
    """Back to back, at and beside the smallest tile that fills the array, in all precisions."""
    machine = loaded(config, rng)
    programs = [
        [random_instruction(config, rng, precision=p, weight_precision=p, activation_signed=0,
                            weight_signed=0, weight_odd=0, accumulate=0, accumulator=0, count_0=1,
                            count_1=1, count_2=count, stride_2=3, address=8, fold=fold)
         for p in (*config.formats, *config.formats)]
        for fold in config.folds
        for count in range(config.minimum_tile_period - 1, config.minimum_tile_period + 2)]
    runs = simulate([Run(config, machine, program, [0] * len(program)) for program in programs])
    for run, program in zip(runs, programs, strict=True):
        compare(run, expect(run, machine, program))
        swaps = np.flatnonzero(run["swap"] & run["valid"])
        slots = config.rows * Fold(program[0]["fold"]).groups
        assert len(swaps) == sum(-(-i["depth"] // slots) for i in program)
        period = max(program[0]["count_2"], config.minimum_tile_period, slots + 1)
        assert (np.diff(swaps) == period).all()


@CONFIGS
def test_accumulators_are_not_met_early(config, rng):
    """No address comes again within `accumulate_latency`, if the second one adds to it."""
    machine = loaded(config, rng)
    count = config.minimum_tile_period
    program = []
    for first in (0, count - 1, 1, 2, 2, 0, count - 2, 3):
        program.append(random_instruction(config, rng, accumulate=1, accumulator=first, depth=3,
                                          count_0=1, count_1=count, count_2=1, weights=0,
                                          address=0, stride_1=1))
    run, = simulate([Run(config, machine, program, [0] * len(program))])
    compare(run, expect(run, machine, program))
    seen: dict[int, int] = {}
    for cycle in np.flatnonzero(run["valid"]):
        address = run["address"][cycle]
        if address in seen and not run["overwrite"][cycle]:
            assert cycle - seen[address] >= config.accumulate_latency
        seen[address] = cycle


def faults(config: CoreConfig) -> list[tuple[Cause, dict[str, int]]]:
    slots, lines, depth = config.activation_slots, config.weight_lines, config.accumulator_depth
    good = dict(precision=Precision.INT4, depth=2 * config.rows + 3, run_length=5, run_pitch=13,
                count_0=2, count_1=2, count_2=3, stride_0=8, stride_1=4, stride_2=1)
    cases = [
        (Cause.MISALIGNED_ADDRESS, dict(run_pitch=14)),
        (Cause.NONE, dict(run_pitch=14, run_length=2 * config.rows + 3)),
        (Cause.WEIGHT_RANGE, dict(weights=lines - 2 * config.rows - 2)),
        (Cause.NONE, dict(weights=lines - 2 * config.rows - 3)),
        (Cause.WEIGHT_RANGE, dict(weights=(1 << 20) - 1, depth=(1 << 16) - 1, run_pitch=5)),
        (Cause.WEIGHT_RANGE, dict(depth=(1 << 16) - 1, run_length=(1 << 16) - 1)),
        (Cause.ACCUMULATOR_RANGE, dict(accumulator=depth - 11)),
        (Cause.NONE, dict(accumulator=depth - 12)),
        (Cause.ACCUMULATOR_RANGE, dict(accumulator=4095)),
        (Cause.ACCUMULATOR_RANGE, dict(count_0=4095, count_1=4095, count_2=4095)),
        (Cause.ACCUMULATOR_RANGE, dict(count_0=4095, stride_0=1 << 18)),
        (Cause.ACCUMULATOR_RANGE, dict(address=slots, accumulator=depth - 11)),
        (Cause.ACTIVATION_RANGE, dict(address=slots)),
        (Cause.ACTIVATION_RANGE, dict(address=(1 << 20) - 1)),
        (Cause.ACTIVATION_RANGE, dict(stride_2=slots)),
        (Cause.ACTIVATION_RANGE, dict(stride_0=(1 << 20) - 1)),
        (Cause.ACTIVATION_RANGE, dict(run_pitch=(1 << 20) - 3)),
        (Cause.NONE, dict(run_pitch=(1 << 20) - 3, depth=5)),
        (Cause.NONE, dict(count_0=1, stride_0=(1 << 20) - 1)),
        (Cause.NONE, dict(address=slots - 1, depth=1, count_0=1, count_1=1, count_2=1)),
        (Cause.ILLEGAL_INSTRUCTION, dict(precision=Precision.FP16, activation_signed=1)),
        (Cause.ILLEGAL_INSTRUCTION, dict(precision=Precision.FP16, weight_signed=1, run_pitch=14)),
        (Cause.ILLEGAL_INSTRUCTION, dict(weight_odd=1)),
        (Cause.NONE, dict(weight_odd=1, weight_signed=1)),
        (Cause.ILLEGAL_INSTRUCTION, dict(weight_precision=Precision.INT8)),
        (Cause.ILLEGAL_INSTRUCTION, dict(weight_precision=Precision.FP16, weights=lines)),
        (Cause.ILLEGAL_INSTRUCTION, dict(precision=Precision.FP16,
                                         weight_precision=Precision.E4M3)),
        (Cause.ILLEGAL_INSTRUCTION, dict(precision=Precision.BINARY,
                                         weight_precision=Precision.INT2)),
        # Two slots of activations to one of weights.
        (Cause.NONE, dict(weight_precision=Precision.INT2, weights=lines - config.rows - 2)),
        (Cause.WEIGHT_RANGE, dict(weight_precision=Precision.INT2,
                                  weights=lines - config.rows - 1)),
        (Cause.MISALIGNED_ADDRESS, dict(run_pitch=14, weights=lines, address=slots)),
    ]
    if config.fold > 1:
        cases += [
            (Cause.MISALIGNED_ADDRESS, dict(fold=Fold.TWO)),
            (Cause.NONE, dict(fold=Fold.TWO, run_pitch=21)),
            (Cause.WEIGHT_RANGE, dict(fold=Fold.TWO, run_pitch=21,
                                      weights=lines - config.rows - 2)),
            (Cause.NONE, dict(fold=Fold.TWO, run_pitch=21, weights=lines - config.rows - 3)),
            (Cause.WEIGHT_RANGE, dict(fold=Fold.TWO, run_pitch=21, depth=4 * config.rows,
                                      weights=lines - 2 * config.rows + 1)),
            (Cause.NONE, dict(fold=Fold.TWO, run_pitch=21, depth=4 * config.rows,
                              weights=lines - 2 * config.rows))]
    if config.fold == 4:
        cases += [
            (Cause.MISALIGNED_ADDRESS, dict(fold=Fold.FOUR, run_pitch=21)),
            (Cause.NONE, dict(fold=Fold.FOUR, run_pitch=37, weights=lines - config.rows)),
            (Cause.WEIGHT_RANGE, dict(fold=Fold.FOUR, run_pitch=37,
                                      weights=lines - config.rows + 1))]
    else:
        cases += [(Cause.UNSUPPORTED_FUNCTION, dict(fold=Fold.FOUR, run_pitch=14, weights=lines))]
    if Precision.FP16 not in config.formats:
        cases += [(Cause.UNSUPPORTED_FORMAT, dict(precision=Precision.FP16, weights=lines)),
                  (Cause.UNSUPPORTED_FORMAT, dict(weight_precision=Precision.BINARY))]
    # The last slot of the last vector, and one more.
    top = slots - 1 - (8 + 4 + 2) - int(window(Instruction("MATMUL", **good)).max())
    cases += [(Cause.NONE, dict(address=top)), (Cause.ACTIVATION_RANGE, dict(address=top + 1))]
    return [(cause, good | change) for cause, change in cases]


@CONFIGS
def test_faults(config, rng):
    machine = loaded(config, rng)
    cases = []
    for cause, fields in faults(config):
        bad = Instruction("MATMUL", **fields)
        assert check(config, {}, bad) is cause, fields
        before = [random_instruction(config, rng) for _ in range(2)]
        if cause is Cause.NONE:
            cases.append((cause, [*before, bad], Run(config, machine, [*before, bad], [0] * 3)))
        else:
            run = Run(config, machine, before, [0] * 2, failing=bad, tail=400)
            cases.append((cause, before, run))
    simulate([run for _, _, run in cases])
    for cause, program, run in cases:
        expected = expect(run, machine, program)
        if cause is Cause.NONE:
            assert not run["fault"].any()
            compare(run, expected)
            continue
        found = np.flatnonzero(run["fault"])
        assert len(found) == 1, cause
        assert Cause(run["fault_cause"][found[0]]) is cause
        assert run["fault_index"][found[0]] == 2
        # What came before is whole; of the bad one nothing unsafe came, and nothing after it.
        until = np.flatnonzero(expected["last"])[-1] + 1
        for name in ("valid", "address", "swap"):
            np.testing.assert_array_equal((run[name] * run["valid"])[:until],
                                          expected[name][:until])
        assert not (run["valid"] & run["last"])[until:].any()
        assert not run["valid"][found[0] + VECTOR_LATENCY:].any()
        assert not run["instructions__ready"][found[0]:].any()
        if cause not in (Cause.ACTIVATION_RANGE, Cause.ACCUMULATOR_RANGE):
            assert not run["valid"][until:].any()


def test_stop(rng):
    """After `stop` nothing begins: no more reads, no vectors, no instruction taken."""
    config = SMALL_NANO
    machine = loaded(config, rng)
    program = [random_instruction(config, rng) for _ in range(20)]
    offers = [0] * len(program)
    whole, = simulate([Run(config, machine, program, offers)])
    stops = rng.integers(1, whole.plan[-1][3], 12).tolist()
    runs = simulate([Run(config, machine, program, offers, stop=stop) for stop in stops])
    for stop, run in zip(stops, runs, strict=True):
        assert (run["valid"][:stop] == whole["valid"][:stop]).all()
        assert not run["valid"][stop + VECTOR_LATENCY:].any()
        assert not run["instructions__ready"][stop + 1:].any()
        assert not run["fault"].any()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_configuration_is_checked():
    with pytest.raises(TypeError, match="config must be a CoreConfig, not 8"):
        Execute(config=8)
    with pytest.raises(TypeError, match="config must be a CoreConfig, not 8"):
        cycles_execute.Execute(8)
    gc.collect()
