"""Bad programs, resets and bus errors: the core always stops with a cause, and works again."""

import dataclasses
import itertools

import numpy as np
import pytest
from ulpcore.rtl import Job, JobResult, MemoryModel, run_jobs
from ulpsim.config import NANO, CoreConfig
from ulpsim.interpreter import Machine, check
from ulpsim.isa import (
    INSTRUCTION_BYTES,
    OPCODES,
    Cause,
    Instruction,
    Segment,
    Unit,
    decode,
    encode,
    encode_program,
)
from ulpsim.programs import RandomProgram, random_program

HALT = Instruction("HALT")
#: Cycles; more than any instruction of a random program needs.
WATCHDOG = 20_000
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
            for unit in Unit:
                for kind, width in (("wait", 2 if rng.random() < 0.8 else 16), ("post", 2)):
                    field = f"{kind}_{unit.name.lower()}"
                    if field in instruction.values and instruction.unit is not None:
                        instruction.values[field] = int(rng.integers(width))
            code[first:first + INSTRUCTION_BYTES] = np.frombuffer(encode(instruction), np.uint8)


def random_contents(rng: np.random.Generator, code: np.ndarray) -> None:
    """Any bytes at all, as if the program's address were wrong."""
    code[...] = rng.integers(0, 256, len(code), np.uint8)


KINDS = (mutated, random_words, random_tokens, random_contents)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A random program after what was done to its code, in its place in memory."""

    kind: str
    seed: int
    code: np.ndarray
    job: Job


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
                if kind is mutated:
                    code[...] = np.frombuffer(encode_program(serial(program.program)), np.uint8)
                kind(rng, code)
                samples.append(Sample(kind.__name__, seed, code.copy(), Job(
                    address, len(program.program), program.segments, WATCHDOG)))
            else:
                good.append(program)
            parts += [memory, np.full(_GUARD, 0x5A, np.uint8)]
            address += len(memory) + _GUARD
    return np.concatenate(parts), samples, good


def fuzz(config: CoreConfig, seeds: range, model: MemoryModel | None = None
         ) -> dict[str, dict[str, int]]:
    """Run bad programs, each with a good one after it; how often each cause came, by kind."""
    before, samples, good = place(config, seeds)
    jobs = [job for sample, program in zip(samples, good, strict=True) for job in (
        sample.job, Job(program.base, len(program.program), program.segments))]
    results, memory = run_jobs(config, before, jobs, model=model)
    machine = Machine(config, before.copy(), 0)
    may_change = np.zeros(len(before), bool)
    counts: dict[str, dict[str, int]] = {}
    for sample, program, bad, after in zip(samples, good, results[::2], results[1::2],
                                           strict=True):
        name = f"{sample.kind} {sample.seed}"
        outcome = bad.cause, bad.instruction
        assert bad.instruction <= sample.job.instructions, f"{name}: {outcome}"
        if sample.kind == "mutated":
            assert outcome in expected(config, sample), f"{name}: {outcome}"
        if sample.kind == "random_tokens":
            assert bad.cause in (Cause.NONE, Cause.DEADLOCK, Cause.TOKEN_OVERFLOW), \
                f"{name}: {outcome}"
        for segment in WRITABLE:
            first, size = sample.job.segments[segment]
            may_change[first:first + size] = True
        assert after == JobResult(Cause.NONE, 0, after.cycles), f"after {name}: {after}"
        machine.segments = program.segments
        assert machine.run(program.program).cause is Cause.NONE
        kind = counts.setdefault(sample.kind, {})
        kind[bad.cause.name] = kind.get(bad.cause.name, 0) + 1
    wrong = np.flatnonzero((memory != machine.memory) & ~may_change)
    assert len(wrong) == 0, f"written outside of the segments: {wrong[:8]}"
    return counts


def test_bad_programs_stop_and_good_ones_still_run(seed):
    counts = fuzz(NANO, range(seed * 100_000, seed * 100_000 + 100))
    assert set(counts) == {kind.__name__ for kind in KINDS}
    assert len(set().union(*counts.values())) >= 5, counts


@pytest.mark.nightly
@pytest.mark.parametrize("batch", range(20))
def test_ten_thousand_bad_programs(batch, seed):
    first = seed * 100_000 + 1000 * (batch + 1)
    model = MemoryModel(latency=(2, 16, 77, 900)[batch % 4],
                        stall_seed=first if batch % 2 else None)
    print(fuzz(NANO, range(first, first + 500), model))


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
        Segment.INPUT: (source, size), Segment.OUTPUT: (target, size)}), memory


def run_short(jobs: int, change, model: MemoryModel) -> tuple[list[JobResult], np.ndarray,
                                                             list[bool]]:
    """Run short programs after one another, job n as `change(n, job)`.

    Returns the results, and of each job whether its output is as it should be. All other memory
    must be as it was.
    """
    placed = [short_program(2048 * n) for n in range(jobs)]
    before = np.concatenate([memory for _, _, memory in placed])
    results, memory = run_jobs(NANO, before, [change(n, job) for n, (_, job, _) in
                                              enumerate(placed)], model=model)
    may_change, right = np.zeros(len(before), bool), []
    for _, job, _ in placed:
        source, size = job.segments[Segment.INPUT]
        target, _ = job.segments[Segment.OUTPUT]
        may_change[target:target + size] = True
        right.append(bool((memory[target:target + size] == before[source:source + size]).all()))
    assert (memory == before)[~may_change].all()
    return results, memory, right


@pytest.mark.parametrize("latency", [2, pytest.param(60, marks=pytest.mark.nightly)])
def test_reset_at_every_cycle(latency):
    """Reset at every cycle from the start to after the end; each time the next program is right."""
    model = MemoryModel(latency=latency)
    length = run_short(1, lambda _, job: job, model)[0][0].cycles
    assert length < 1000

    def change(number: int, job: Job) -> Job:
        return job if number % 2 else dataclasses.replace(job, reset_after=1 + number // 2)

    results, _, right = run_short(2 * (length + 4), change, model)
    assert all(r.cause is Cause.NONE for r in results)
    assert all(right[1::2])
    # The earliest resets leave the output as it was; the latest come when it is complete.
    assert not right[0] and right[-2]
    assert [r.cycles for r in results[1::2]] == [length] * (length + 4)


@pytest.mark.parametrize("response", [2, 3])
@pytest.mark.parametrize("beat", [
    *(pytest.param(n, marks=() if n in (0, 17, 63, 64, 75, 76, 87) else pytest.mark.nightly)
      for n in range(64 + 12 + 12))])
def test_bus_error_at_every_beat(beat, response):
    """An error at each beat of the program, of LOAD and of STORE; then the core works again.

    A fetch is known by the first instruction of its block.
    """
    cause = Cause.BUS_SLAVE_ERROR if response == 2 else Cause.BUS_DECODE_ERROR
    if beat < 64:
        address, instruction = 4 * beat, 0
    elif beat < 76:
        address, instruction = 512 + 4 * (beat - 64), 0
    else:
        address, instruction = 1024 + 4 * (beat - 76), 2
    results, _, right = run_short(2, lambda _, job: job, MemoryModel(
        latency=7, stall_seed=beat % 3 or None, error=(address, 4), error_response=response))
    assert (results[0].cause, results[0].instruction) == (cause, instruction)
    assert results[1].cause is Cause.NONE and right[1] and not right[0]


@pytest.mark.parametrize(("latency", "stall_seed"), [(2, 1), (5000, 2), pytest.param(
    60_000, 3, marks=pytest.mark.nightly)])
def test_late_responses(latency, stall_seed):
    """Responses as late as one likes, short of the watchdog, change nothing but the cycles."""
    results, _, right = run_short(4, lambda _, job: job,
                                  MemoryModel(latency=latency, stall_seed=stall_seed))
    assert all(r.cause is Cause.NONE for r in results) and all(right)


def test_a_response_later_than_the_watchdog_is_named():
    results, _, right = run_short(
        2, lambda n, job: job if n else dataclasses.replace(job, watchdog=2000),
        MemoryModel(latency=3000))
    assert results[0].cause is Cause.WATCHDOG
    assert results[1].cause is Cause.NONE and right[1] and not right[0]
