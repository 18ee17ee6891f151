"""Bad programs, resets and bus errors: the core always stops with a cause, and works again."""

import dataclasses
import itertools

import numpy as np
import pytest
from ulpcore.rtl import Job, JobResult, MemoryModel, run_jobs
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.formats import Precision
from ulpsim.interpreter import Machine
from ulpsim.isa import (
    INSTRUCTION_BYTES,
    OPCODES,
    Cause,
    Instruction,
    Segment,
    Target,
    Unit,
    decode,
    encode,
    encode_program,
)
from ulpsim.programs import RandomProgram, random_program
from ulpsim.rules import PARAMETER_SLOTS, check
from ulpsim.tokens import with_tokens
from wide import WIDE

HALT = Instruction("HALT")
#: Cycles; more than any instruction of a random program needs, and than any program.
WATCHDOG = 20_000
LIMIT = 4_000_000
#: Ranges that SPECIAL and MATMUL find while they work: the first one that they come to counts.
UNDER_WAY = {Cause.ACCUMULATOR_RANGE, Cause.ACTIVATION_RANGE, Cause.ROW_RANGE}
WRITABLE = (Segment.OUTPUT, Segment.WORKSPACE)
_GUARD = 64
_HEADER_BITS = 32


def serial(program: list[Instruction]) -> list[Instruction]:
    """The same instructions with tokens that let each start only when the one before is done."""
    chained = [Instruction(i.name, **{f.name: i[f.name] for f in i.type.fields}) for i in program]
    working = [i for i in chained if i.unit is not None]
    for giver, taker in itertools.pairwise(working):
        if giver.unit is not taker.unit:
            giver.values[f"post_{taker.unit.name.lower()}"] = 1
            taker.values[f"wait_{giver.unit.name.lower()}"] = 1
    return chained


def mutated(rng: np.random.Generator, code: np.ndarray) -> None:
    """Change one to three bits of one instruction: fields or reserved bits, but no token."""
    first = int(rng.integers(len(code) // INSTRUCTION_BYTES)) * INSTRUCTION_BYTES
    row = OPCODES[int(code[first]) & 0xF]
    end = max(first + width for name, (first, width) in row.layout().items()
              if name != "reserved")
    for _ in range(rng.integers(1, 4)):
        bit = int(rng.integers(_HEADER_BITS, max(_HEADER_BITS, end) + 2))
        code[first + bit // 8] ^= 1 << bit % 8


def random_words(rng: np.random.Generator, code: np.ndarray) -> None:
    """Put any bits in the place of some instructions, in their fields or in the whole word."""
    for first in range(0, len(code), INSTRUCTION_BYTES):
        if rng.random() < 0.3:
            row = list(OPCODES.values())[rng.integers(len(OPCODES))]
            word = int.from_bytes(rng.bytes(INSTRUCTION_BYTES), "little")
            if rng.random() < 0.8:
                end = max(first + width for name, (first, width) in row.layout().items()
                          if name != "reserved")
                word = (word & ((1 << end) - 1)) & ~0xFFFFFFFF | row.opcode
            code[first:first + INSTRUCTION_BYTES] = np.frombuffer(
                word.to_bytes(INSTRUCTION_BYTES, "little"), np.uint8)


def random_tokens(rng: np.random.Generator, code: np.ndarray) -> None:
    """Let one or two instructions, or many, wait for and give any tokens."""
    share = 0.3 if rng.random() < 0.2 else 1.5 * INSTRUCTION_BYTES / len(code)
    for first in range(0, len(code), INSTRUCTION_BYTES):
        if rng.random() < share:
            instruction = decode(code[first:first + INSTRUCTION_BYTES].tobytes())
            for unit in EDGE.units:
                for kind, width in (("wait", 2 if rng.random() < 0.8 else 16), ("post", 2)):
                    field = f"{kind}_{unit.name.lower()}"
                    if field in instruction.values and instruction.unit is not None:
                        instruction.values[field] = int(rng.integers(width))
            code[first:first + INSTRUCTION_BYTES] = np.frombuffer(encode(instruction), np.uint8)


def random_contents(rng: np.random.Generator, code: np.ndarray) -> None:
    """Any bytes at all, as if the program's address were wrong."""
    code[...] = rng.integers(0, 256, len(code), np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A random program after what was done to it, in its place in memory."""

    kind: str
    seed: int
    code: np.ndarray
    job: Job


def random_memory(rng: np.random.Generator, program: RandomProgram, job: Job,
                  memory: np.ndarray) -> Job:
    """Any bytes in all segments: every element of every format, NaN-Inf among them."""
    for first, size in job.segments.values():
        memory[first - program.base:][:size] = rng.integers(0, 256, size, np.uint8)
    return job


def random_registers(rng: np.random.Generator, program: RandomProgram, job: Job,
                     memory: np.ndarray) -> Job:
    """What the host says is wrong: places, sizes, lengths, or a watchdog that is too short."""
    segments = dict(job.segments)
    for segment, (first, size) in segments.items():
        if rng.random() < 0.3:
            # Smaller, elsewhere in its own place, beyond the memory, or around 2^32.
            segments[segment] = [
                (first, int(rng.integers(size + 1))),
                (first + 64 * int(rng.integers(1 + size // 64)), 0),
                (1 << 31, size), ((1 << 32) - 4096, 1 << 20)][rng.integers(4)]
    choice = rng.integers(4)
    place = 64 * int(rng.integers(len(memory) // 64)) if choice == 1 else 0
    return dataclasses.replace(
        job, segments=segments, program=job.program + place,
        instructions=int(rng.integers(4 * job.instructions)) if choice == 2 else job.instructions,
        watchdog=int(rng.integers(1, 400)) if choice == 3 else job.watchdog)


def random_reset(rng: np.random.Generator, program: RandomProgram, job: Job,
                 memory: np.ndarray) -> Job:
    """A good program, reset in the middle by the register or by the pin."""
    return dataclasses.replace(job, reset_after=int(rng.integers(1, 3000)),
                               reset_pin=bool(rng.integers(2)))


def random_bus_error(rng: np.random.Generator, program: RandomProgram, job: Job,
                     memory: np.ndarray) -> Job:
    """A good program beside a memory that fails in one place."""
    return dataclasses.replace(
        job, error=(program.base + int(rng.integers(len(memory))), int(rng.integers(1, 256))),
        error_response=int(rng.integers(2, 4)))


#: What can be done to the code of a program, and to all else.
CODE_KINDS = (mutated, random_words, random_tokens, random_contents)
OTHER_KINDS = (random_memory, random_registers, random_reset, random_bus_error)
KINDS = CODE_KINDS + OTHER_KINDS
BUS_ERRORS = {2: Cause.BUS_SLAVE_ERROR, 3: Cause.BUS_DECODE_ERROR}


def expected(config: CoreConfig, sample: Sample) -> set[tuple[Cause, int]]:
    """All that the core may report of a serial program whose tokens are as they were."""
    code = sample.code.tobytes()
    count = len(code) // INSTRUCTION_BYTES
    allowed: set[tuple[Cause, int]] = set()
    faulty = False
    for index in range(count):
        try:
            instruction = decode(code[index * INSTRUCTION_BYTES:][:INSTRUCTION_BYTES])
        except ValueError:
            return allowed | {(Cause.ILLEGAL_INSTRUCTION, index)}
        if instruction.name == "HALT":
            return allowed if faulty else allowed | {(Cause.NONE, 0)}
        allowed.add((Cause.WATCHDOG, index))
        cause = check(config, sample.job.segments, instruction)
        if cause is not Cause.NONE:
            faulty = True
            causes = UNDER_WAY if cause in UNDER_WAY and instruction.unit is Unit.SPECIAL \
                else {cause}
            allowed |= {(c, index) for c in causes}
    # The end of the program is seen while its last instructions still run.
    return allowed | {(Cause.PROGRAM_LENGTH, count)}


def place(config: CoreConfig, seeds: range) -> tuple[np.ndarray, list[Sample],
                                                    list[RandomProgram]]:
    """A good program and a bad one made of it for each seed, between guards."""
    parts, samples, good, address = [], [], [], 0
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        kind = KINDS[seed % len(KINDS)]
        for bad in (True, False):
            program = random_program(seed, config, base=address)
            memory = program.memory.copy()
            code = memory[:len(program.program) * INSTRUCTION_BYTES]
            if bad:
                job = Job(address, len(program.program), program.segments, WATCHDOG, limit=LIMIT,
                          forward_bias=program.forward_bias)
                if kind is mutated:
                    code[...] = np.frombuffer(encode_program(serial(program.program)), np.uint8)
                if kind in CODE_KINDS:
                    kind(rng, code)
                else:
                    job = kind(rng, program, job, memory)
                samples.append(Sample(kind.__name__, seed, code.copy(), job))
            else:
                good.append(program)
            parts += [memory, np.full(_GUARD, 0x5A, np.uint8)]
            address += len(memory) + _GUARD
    return np.concatenate(parts), samples, good


def possible(config: CoreConfig, sample: Sample, bad: JobResult) -> bool:
    """Whether the core may report this of what was done to a program."""
    if sample.kind == "mutated":
        return (bad.cause, bad.instruction) in expected(config, sample)
    if sample.kind == "random_tokens":
        return bad.cause in (Cause.NONE, Cause.DEADLOCK, Cause.TOKEN_OVERFLOW)
    if sample.kind in ("random_memory", "random_reset"):
        return bad.cause is Cause.NONE
    if sample.kind == "random_bus_error":
        return bad.cause in (Cause.NONE, BUS_ERRORS[sample.job.error_response])
    return True


def fuzz(config: CoreConfig, seeds: range, model: MemoryModel | None = None
         ) -> dict[str, dict[str, int]]:
    """Run bad programs, each with a good one after it; how often each cause came, by kind.

    A hang, or a stop without a cause, fails the simulation itself.
    """
    before, samples, good = place(config, seeds)
    jobs = [job for sample, program in zip(samples, good, strict=True) for job in (
        sample.job, Job(program.base, len(program.program), program.segments,
                        forward_bias=program.forward_bias))]
    results, memory = run_jobs(config, before, jobs, model=model)
    machine = Machine(config, before.copy(), 0)
    may_change = np.zeros(len(before), bool)
    counts: dict[str, dict[str, int]] = {}
    for sample, program, bad, after in zip(samples, good, results[::2], results[1::2],
                                           strict=True):
        name = f"{sample.kind} {sample.seed}"
        assert bad.instruction <= sample.job.instructions, f"{name}: {bad}"
        assert possible(config, sample, bad), f"{name}: {bad}"
        if sample.kind == "random_memory":
            machine.segments = dict(sample.job.segments)
            machine.forward_bias = sample.job.forward_bias
            assert machine.run(sample.code.tobytes()).cause is Cause.NONE
        else:
            for segment in WRITABLE:
                first, size = sample.job.segments[segment]
                may_change[first:first + size] = True
        assert after == JobResult(Cause.NONE, 0, after.cycles), f"after {name}: {after}"
        machine.segments, machine.forward_bias = program.segments, program.forward_bias
        assert machine.run(program.program).cause is Cause.NONE
        kind = counts.setdefault(sample.kind, {})
        kind[bad.cause.name] = kind.get(bad.cause.name, 0) + 1
    wrong = np.flatnonzero((memory != machine.memory) & ~may_change)
    assert len(wrong) == 0, f"written outside of the segments, or wrongly: {wrong[:8]}"
    return counts


@pytest.mark.parametrize("config", [NANO, EDGE], ids=lambda c: c.name)
def test_bad_programs_stop_and_good_ones_still_run(config, seed, record_property):
    counts = fuzz(config, range(seed * 100_000, seed * 100_000 + 160))
    record_property("fuzz", {config.name: counts})
    assert set(counts) == {kind.__name__ for kind in KINDS}
    assert len(set().union(*counts.values())) >= 8, counts


@pytest.mark.nightly
@pytest.mark.parametrize("config", [NANO, EDGE], ids=lambda c: c.name)
@pytest.mark.parametrize("batch", range(10))
def test_ten_thousand_bad_programs(config, batch, seed, record_property):
    first = seed * 100_000 + 1000 * (batch + 1)
    model = MemoryModel(latency=(2, 16, 77, 900)[batch % 4],
                        stall_seed=first if batch % 2 else None)
    record_property("fuzz", {config.name: fuzz(config, range(first, first + 500), model)})


def short_program(base: int, words: int = 12) -> tuple[list[Instruction], Job, np.ndarray]:
    """Load, fill and store a few words; the program, its job, and its memory from `base` on."""
    program = [Instruction("LOAD", segment=Segment.INPUT, length=2 * words, post_store=1),
               Instruction("FILL", address=256, length=8),
               Instruction("STORE", segment=Segment.OUTPUT, length=2 * words, wait_load=1), HALT]
    size = 4 * words
    source, target = base + 512, base + 1024
    memory = np.random.default_rng(base).integers(0, 256, 2048, np.uint8)
    code = encode_program(program)
    memory[:len(code)] = np.frombuffer(code, np.uint8)
    return program, Job(base, len(program), {
        Segment.INPUT: (source, size), Segment.OUTPUT: (target, size)}, limit=LIMIT), memory


def full_program(base: int) -> tuple[list[Instruction], Job, np.ndarray]:
    """As `short_program`, but with work for every unit."""
    precision = Precision.INT8
    program = with_tokens([
        Instruction("LOAD", segment=Segment.INPUT, target=Target.WEIGHTS, length=64),
        Instruction("LOAD", segment=Segment.PARAMETERS, target=Target.PARAMETERS,
                    length=8 * PARAMETER_SLOTS),
        Instruction("LOAD", segment=Segment.INPUT, offset=32, length=40),
        Instruction("MATMUL", precision=precision, depth=8, run_length=8, count_2=4, stride_2=5,
                    activation_signed=1, weight_signed=1),
        Instruction("SPECIAL", output_precision=precision, residual_precision=precision, relu=1,
                    count_2=4, accumulator_stride_2=1, address=64, stride_2=4),
        Instruction("STORE", segment=Segment.OUTPUT, address=64, length=16), HALT], NANO)
    memory = np.random.default_rng(base).integers(0, 256, 2048, np.uint8)
    code = encode_program(program)
    memory[:len(code)] = np.frombuffer(code, np.uint8)
    return program, Job(base, len(program), {
        Segment.INPUT: (base + 512, 256), Segment.PARAMETERS: (base + 1024, 256),
        Segment.OUTPUT: (base + 1536, 32)}, limit=LIMIT), memory


def run_short(config: CoreConfig, jobs: int, change, model: MemoryModel,
              program=short_program) -> tuple[list[JobResult], list[bool]]:
    """Run short programs after one another, job n as `change(n, job)`.

    Returns the results, and of each job whether its output is as it should be. All other memory
    must be as it was.
    """
    placed = [program(2048 * n) for n in range(jobs)]
    before = np.concatenate([memory for _, _, memory in placed])
    results, memory = run_jobs(config, before, [change(n, job) for n, (_, job, _) in
                                                enumerate(placed)], model=model)
    machine = Machine(config, before.copy())
    may_change, right = np.zeros(len(before), bool), []
    for instructions, job, _ in placed:
        machine.segments = dict(job.segments)
        assert machine.run(instructions).cause is Cause.NONE
        target, size = job.segments[Segment.OUTPUT]
        may_change[target:target + size] = True
        right.append(bool((memory == machine.memory)[target:target + size].all()))
    assert (memory == before)[~may_change].all()
    return results, right


@pytest.mark.parametrize("pin", [False, True], ids=["register", "pin"])
@pytest.mark.parametrize(("config", "program", "latency"), [
    (NANO, short_program, 2),
    pytest.param(NANO, full_program, 2, marks=pytest.mark.nightly),
    pytest.param(NANO, full_program, 60, marks=pytest.mark.nightly),
    pytest.param(EDGE, full_program, 5, marks=pytest.mark.nightly)])
def test_reset_at_every_cycle(config, program, latency, pin):
    """Reset at every cycle from the start to after the end; each time the next program is right."""
    model = MemoryModel(latency=latency)
    length = run_short(config, 1, lambda _, job: job, model, program)[0][0].cycles
    assert length < 2000

    def change(number: int, job: Job) -> Job:
        return job if number % 2 else dataclasses.replace(
            job, reset_after=1 + number // 2, reset_pin=pin)

    results, right = run_short(config, 2 * (length + 4), change, model, program)
    assert all(r.cause is Cause.NONE for r in results)
    assert all(right[1::2])
    # The earliest resets leave the output as it was; the latest come when it is complete.
    assert not right[0] and right[-2]
    assert [r.cycles for r in results[1::2]] == [length] * (length + 4)


@pytest.mark.parametrize("config", [NANO, EDGE, pytest.param(WIDE, marks=pytest.mark.nightly)],
                         ids=lambda c: c.name)
@pytest.mark.parametrize("stall_seed", [None, 1, 2])
def test_bus_error_at_every_beat(config, stall_seed):
    """Either error at each beat of the program, of LOAD and of STORE; then the core works again.

    A fetch is known by the first instruction of its block.
    """
    program, job, _ = short_program(0)
    regions = [((0, INSTRUCTION_BYTES * len(program)), 0),
               (job.segments[Segment.INPUT], 0), (job.segments[Segment.OUTPUT], 2)]
    beats = [(first, instruction, response) for (start, size), instruction in regions
             for first in range(start, start + size, config.bus_bytes) for response in BUS_ERRORS]
    assert len(beats) == 2 * (INSTRUCTION_BYTES * 4 + 48 + 48) // config.bus_bytes

    def change(number: int, job: Job) -> Job:
        if number % 2:
            return job
        first, _, response = beats[number // 2]
        # The memory answers whole beats: an error in any of its bytes will do.
        return dataclasses.replace(job, error=(job.program + first, config.bus_bytes),
                                   error_response=response)

    results, right = run_short(config, 2 * len(beats), change,
                               MemoryModel(latency=7, stall_seed=stall_seed))
    assert [(r.cause, r.instruction) for r in results[::2]] == [
        (BUS_ERRORS[response], instruction) for _, instruction, response in beats]
    assert all(r.cause is Cause.NONE for r in results[1::2])
    assert all(right[1::2]) and not any(right[::2])


@pytest.mark.parametrize(("latency", "stall_seed"), [(2, 1), (5000, 2), pytest.param(
    60_000, 3, marks=pytest.mark.nightly)])
def test_late_responses(latency, stall_seed):
    """Responses as late as one likes, short of the watchdog, change nothing but the cycles."""
    results, right = run_short(NANO, 4, lambda _, job: job,
                               MemoryModel(latency=latency, stall_seed=stall_seed), full_program)
    assert all(r.cause is Cause.NONE for r in results) and all(right)


def test_a_response_later_than_the_watchdog_is_named():
    results, right = run_short(
        NANO, 2, lambda n, job: job if n else dataclasses.replace(job, watchdog=2000),
        MemoryModel(latency=3000))
    assert results[0].cause is Cause.WATCHDOG
    assert results[1].cause is Cause.NONE and right[1] and not right[0]
