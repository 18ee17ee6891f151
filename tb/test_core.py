"""The whole core in Verilator against the interpreter (words) and the cycle model (cycles)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from ulpcore.rtl import Job, MemoryModel, run_jobs
from ulpsim import dlfloat, float32
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.coverage import summary
from ulpsim.cycles import predict
from ulpsim.formats import Precision
from ulpsim.interpreter import Machine
from ulpsim.isa import (
    MOST_INSTRUCTIONS,
    Cause,
    Function,
    Instruction,
    Pool,
    Segment,
    Source,
    Target,
    encode_program,
)
from ulpsim.programs import RandomProgram, covering_programs, random_program
from ulpsim.tokens import with_tokens
from wide import FOLDED, FOLDED_NANO, WIDE

_PAGE = 4096


@dataclasses.dataclass
class Placed:
    """Programs with their images at their places in one external memory."""

    memory: np.ndarray
    jobs: list[Job]
    programs: list[list[Instruction]]


def place(cases) -> Placed:
    """Lay out (program, image, segments): program and image each from a page of their own."""
    parts, jobs, programs, first = [], [], [], 0
    for program, image, segments in cases:
        code = encode_program(program)
        base = first + -(-len(code) // _PAGE) * _PAGE
        end = base + -(-max(1, len(image)) // _PAGE) * _PAGE
        part = np.zeros(end - first, np.uint8)
        part[:len(code)] = np.frombuffer(code, np.uint8)
        part[base - first:base - first + len(image)] = np.frombuffer(bytes(image), np.uint8)
        parts.append(part)
        jobs.append(Job(first, len(program), {
            segment: (base + offset, size) for segment, (offset, size) in segments.items()}))
        programs.append(list(program))
        first = end
    return Placed(np.concatenate(parts), jobs, programs)


def place_programs(cases: Sequence[RandomProgram]) -> Placed:
    """Random programs that stand one behind the other."""
    return Placed(np.concatenate([case.memory for case in cases]),
                  [Job(case.base, len(case.program), case.segments,
                       forward_bias=case.forward_bias) for case in cases],
                  [case.program for case in cases])


def place_random(config: CoreConfig, seeds: range) -> Placed:
    """The random programs of these seeds, one behind the other."""
    cases, base = [], 0
    for seed in seeds:
        cases.append(random_program(seed, config, base))
        base += len(cases[-1].memory)
    return place_programs(cases)


def golden(config: CoreConfig, placed: Placed) -> tuple[np.ndarray, list[tuple[Cause, int]]]:
    memory = placed.memory.copy()
    machine = Machine(config, memory)
    ends = []
    for job, program in zip(placed.jobs, placed.programs, strict=True):
        machine.segments = {s: job.segments.get(s, (0, 0)) for s in Segment}
        machine.forward_bias = job.forward_bias
        result = machine.run(program)
        ends.append((result.cause, result.index))
    return memory, ends


@pytest.mark.parametrize("config", [
    EDGE, NANO, *(pytest.param(c, marks=pytest.mark.nightly) for c in (FOLDED_NANO, WIDE, FOLDED))],
    ids=lambda c: c.name)
@pytest.mark.parametrize(("latency", "count"), [
    (2, 40), (16, 40), *(pytest.param(*many, marks=pytest.mark.nightly)
                         for many in ((77, 40), (31, 600)))])
def test_random_programs_words_and_cycles(config, latency, count, seed):
    first = 10_000 * seed + 1000 * latency
    compare(config, place_random(config, range(first, first + count)), latency)


@pytest.mark.parametrize(("config", "instructions_alone"), [
    pytest.param(EDGE, False, id="edge"), pytest.param(NANO, False, id="nano"),
    pytest.param(FOLDED_NANO, True, id="folded_nano", marks=pytest.mark.nightly),
    pytest.param(WIDE, True, id="wide", marks=pytest.mark.nightly),
    pytest.param(FOLDED, True, id="folded", marks=pytest.mark.nightly)])
def test_every_bin_of_the_coverage_is_hit(config, instructions_alone, seed, record_property):
    """Formats, operations, shapes and networks: `ulpsim.coverage` says what must occur."""
    programs = covering_programs(seed, config, instructions_alone=instructions_alone)
    compare(config, place_programs(programs), latency=11)
    groups = summary(config, set().union(*(program.bins(config) for program in programs)),
                     instructions_alone=instructions_alone)
    record_property("coverage", {config.name: {
        "programs": len(programs), "bins": sum(group["bins"] for group in groups.values()),
        "hit": sum(group["hit"] for group in groups.values())}})
    for name, group in groups.items():
        print(f"{config.name}: {group['hit']:4} of {group['bins']:4} {name}")
    assert not {name: group["missing"] for name, group in groups.items() if group["missing"]}


def compare(config: CoreConfig, placed: Placed, latency: int) -> None:
    """Run programs on RTL and models: no word and no cycle may differ."""
    results, memory = run_jobs(config, placed.memory, placed.jobs,
                               model=MemoryModel(latency=latency))
    expected, ends = golden(config, placed)
    assert [(r.cause, r.instruction) for r in results] == ends
    assert all(cause is Cause.NONE for cause, _ in ends)
    assert np.count_nonzero(memory != expected) == 0
    assert (expected != placed.memory).any()
    cycles = [predict(program, config, program_address=job.program, segments=job.segments,
                      latency=latency).cycles
              for job, program in zip(placed.jobs, placed.programs, strict=True)]
    assert [r.cycles for r in results] == cycles


@pytest.mark.parametrize("config", [EDGE, NANO, pytest.param(WIDE, marks=pytest.mark.nightly)],
                         ids=lambda c: c.name)
def test_random_programs_under_random_stalls(config, seed):
    placed = place_random(config, range(10_000 * seed, 10_000 * seed + 20))
    results, memory = run_jobs(config, placed.memory, placed.jobs,
                               model=MemoryModel(latency=9, stall_seed=seed + 77))
    expected, _ = golden(config, placed)
    assert all(r.cause is Cause.NONE for r in results)
    assert np.count_nonzero(memory != expected) == 0


@pytest.mark.parametrize("config", [EDGE, NANO, pytest.param(WIDE, marks=pytest.mark.nightly)],
                         ids=lambda c: c.name)
def test_cycles_of_programs_that_end_in_each_unit(config):
    """HALT waits for the unit that is the last to work, each for as long as the model says."""
    segments = {segment: (_SIZE * segment.value, _SIZE) for segment in Segment}
    lasts = [_load(), Instruction("FILL", length=9), _store(), _special(), _matmul(),
             _matmul(depth=20, run_length=20, count_2=30)]
    programs = [[*before, last, HALT] for last in lasts
                for before in ([], [_load(length=40)], [_matmul(), Instruction("FILL")])]
    placed = place([(program, bytes(4 * _SIZE), segments) for program in programs])
    results, _ = run_jobs(config, placed.memory, placed.jobs, model=MemoryModel(latency=5))
    assert all(r.cause is Cause.NONE for r in results)
    assert [r.cycles for r in results] == [
        predict(program, config, program_address=job.program, segments=job.segments,
                latency=5).cycles for job, program in zip(placed.jobs, programs, strict=True)]


HALT = Instruction("HALT")
_SIZE = 4096
#: Segments of the programs below: offsets in an image of four pages.
SEGMENTS = {segment: (_SIZE * segment.value, _SIZE) for segment in Segment}


def _matmul(**values):
    return Instruction("MATMUL", **{"precision": Precision.INT8, "run_length": 8, **values})


def _special(**values):
    return Instruction("SPECIAL", **{"output_precision": Precision.INT8,
                                     "residual_precision": Precision.INT8, **values})


def _load(**values):
    return Instruction("LOAD", **{"segment": Segment.INPUT, "length": 8, **values})


def _store(**values):
    return Instruction("STORE", **{"segment": Segment.OUTPUT, "length": 8, **values})


FAULTS = {
    "segment too short": (_load(offset=_SIZE - 12), Cause.SEGMENT_RANGE),
    "rows leave the segment": (_load(rows=300, source_pitch=16), Cause.SEGMENT_RANGE),
    "rows wrap around 32 bits": (_load(rows=5, source_pitch=1 << 30), Cause.SEGMENT_RANGE),
    "odd offset": (_load(offset=2), Cause.MISALIGNED_ADDRESS),
    "odd pitch": (_load(source_pitch=6), Cause.MISALIGNED_ADDRESS),
    "load beyond the activations": (_load(address=(1 << 20) - 8), Cause.ACTIVATION_RANGE),
    "fill beyond the activations": (Instruction("FILL", length=8, address=(1 << 20) - 4),
                                    Cause.ACTIVATION_RANGE),
    "load beyond the weights": (_load(target=Target.WEIGHTS, address=(1 << 20) - 8),
                                Cause.WEIGHT_RANGE),
    "weights off their lines": (_load(target=Target.WEIGHTS, address=4),
                                Cause.MISALIGNED_ADDRESS),
    "load beyond the parameters": (_load(target=Target.PARAMETERS, length=16,
                                         address=(1 << 20) - 16), Cause.PARAMETER_RANGE),
    "parameters off their lines": (_load(target=Target.PARAMETERS, length=8),
                                   Cause.MISALIGNED_ADDRESS),
    "store to the input": (_store(segment=Segment.INPUT), Cause.SEGMENT_READ_ONLY),
    "store to the parameters": (_store(segment=Segment.PARAMETERS), Cause.SEGMENT_READ_ONLY),
    "store beyond the segment": (_store(offset=_SIZE - 12), Cause.SEGMENT_RANGE),
    "store of an odd length": (_store(length=3), Cause.MISALIGNED_ADDRESS),
    "store beyond the activations": (_store(address=(1 << 20) - 8), Cause.ACTIVATION_RANGE),
    "matmul beyond the weights": (_matmul(weights=(1 << 20) - 1), Cause.WEIGHT_RANGE),
    "matmul beyond the activations": (_matmul(address=(1 << 20) - 1, depth=8),
                                      Cause.ACTIVATION_RANGE),
    "matmul beyond the accumulators": (_matmul(count_0=4095), Cause.ACCUMULATOR_RANGE),
    "matmul in banks that meet": (_matmul(depth=16, run_length=8, run_pitch=9),
                                  Cause.MISALIGNED_ADDRESS),
    "signed floating point": (_matmul(precision=Precision.FP16, weight_signed=1),
                              Cause.ILLEGAL_INSTRUCTION),
    "special beyond the accumulators": (_special(count_2=4095, accumulator_stride_2=1),
                                        Cause.ACCUMULATOR_RANGE),
    "special beyond the activations": (_special(address=(1 << 20) - 1), Cause.ACTIVATION_RANGE),
    "residual beyond the activations": (_special(residual=1, residual_address=(1 << 20) - 1),
                                        Cause.ACTIVATION_RANGE),
    "special beyond the parameters": (_special(parameters=4088), Cause.PARAMETER_RANGE),
    "window without a pool": (_special(window_1=2), Cause.ILLEGAL_INSTRUCTION),
    "row without a pool": (_special(reduce=1), Cause.ILLEGAL_INSTRUCTION),
    "function of a residual": (_special(residual=1, function=Function.TANH),
                               Cause.ILLEGAL_INSTRUCTION),
}
EDGE_FAULTS = {
    "source beyond the activations": (_special(source=Source.ACTIVATIONS, accumulator=1 << 19),
                                      Cause.ACTIVATION_RANGE),
    "row that is not there": (_special(row_scale=1, row=511, count_1=2), Cause.ROW_RANGE),
    "reduced row that is not there": (_special(reduce=1, pool=Pool.SUM, reduced_row=4095),
                                      Cause.ROW_RANGE),
}
NANO_FAULTS = {
    "no floating-point products": (_matmul(precision=Precision.FP16), Cause.UNSUPPORTED_FORMAT),
    "no floating-point results": (_special(output_precision=Precision.FP16),
                                  Cause.UNSUPPORTED_FORMAT),
    "no functions": (_special(function=Function.SIGMOID), Cause.UNSUPPORTED_FUNCTION),
    "no products": (_special(residual=1, product=1), Cause.UNSUPPORTED_FUNCTION),
    "no sources but accumulators": (_special(source=Source.ACTIVATIONS, source_precision=1),
                                    Cause.UNSUPPORTED_FUNCTION),
    "no row scalars": (_special(row_bias=1), Cause.UNSUPPORTED_FUNCTION),
}


def _working_program() -> list[Instruction]:
    return [_load(post_store=1), _store(wait_load=1), HALT]


@pytest.mark.parametrize("config", [EDGE, NANO], ids=lambda c: c.name)
def test_bad_instructions_stop_with_cause_and_place_and_write_nothing(config, rng):
    """Each bad program is followed by a good one: after a reset the core works again."""
    faults = FAULTS | (NANO_FAULTS if config is NANO else EDGE_FAULTS)
    cases = []
    for instruction, _ in faults.values():
        image = rng.integers(0, 256, 4 * _SIZE, np.uint8).tobytes()
        cases += [([Instruction("FILL"), instruction, _store(wait_execute=1), HALT], image,
                   SEGMENTS), (_working_program(), image, SEGMENTS)]
    placed = place(cases)
    results, memory = run_jobs(config, placed.memory, placed.jobs)
    expected, ends = golden(config, placed)
    got = {name: (r.cause, r.instruction)
           for name, r in zip(faults, results[::2], strict=True)}
    cause_of = {name: cause for name, (_, cause) in faults.items()}
    if config is NANO:
        cause_of["signed floating point"] = got["signed floating point"][0]
        assert cause_of["signed floating point"] in (Cause.ILLEGAL_INSTRUCTION,
                                                     Cause.UNSUPPORTED_FORMAT)
    assert got == {name: (cause, 1) for name, cause in cause_of.items()}
    assert [end for end in ends[::2]] == list(got.values())
    assert all(r.cause is Cause.NONE for r in results[1::2])
    assert np.count_nonzero(memory != expected) == 0


def test_malformed_programs(rng):
    image = rng.integers(0, 256, 4 * _SIZE, np.uint8).tobytes()
    cases = [([Instruction("FILL")], image, SEGMENTS),
             ([Instruction("FILL", wait_store=1), HALT], image, SEGMENTS),
             ([Instruction("FILL"), HALT], image, SEGMENTS),
             ([Instruction("FILL")] * 300 + [HALT], image, SEGMENTS),
             (_working_program(), image, SEGMENTS)]
    cases[3] = ([*[Instruction("FILL", post_execute=1)] * 300, HALT], image, SEGMENTS)
    placed = place(cases)
    # The third program's first word gets an opcode that does not exist.
    placed.memory[placed.jobs[2].program] = 0x0F
    jobs = [*placed.jobs[:4], dataclasses.replace(placed.jobs[4], instructions=0),
            dataclasses.replace(placed.jobs[4], instructions=MOST_INSTRUCTIONS + 1),
            placed.jobs[4]]
    results, memory = run_jobs(EDGE, placed.memory, jobs)
    assert [(r.cause, r.instruction) for r in results[:4]] == [
        (Cause.PROGRAM_LENGTH, 1), (Cause.DEADLOCK, 0), (Cause.ILLEGAL_INSTRUCTION, 0),
        (Cause.TOKEN_OVERFLOW, 255)]
    assert [r.cause for r in results[4:]] == [Cause.PROGRAM_LENGTH] * 2 + [Cause.NONE]
    first, size = placed.jobs[4].segments[Segment.OUTPUT]
    outside = np.ones(len(memory), bool)
    outside[first:first + size] = False
    assert (memory == placed.memory)[outside].all()


@pytest.mark.parametrize(("response", "cause"), [(2, Cause.BUS_SLAVE_ERROR),
                                                 (3, Cause.BUS_DECODE_ERROR)])
@pytest.mark.parametrize("segment", [Segment.INPUT, Segment.OUTPUT])
def test_bus_errors(response, cause, segment, rng):
    image = rng.integers(0, 256, 4 * _SIZE, np.uint8).tobytes()
    big = [_load(length=1000, post_store=1), _store(length=1000, wait_load=1), HALT]
    placed = place([(big, image, SEGMENTS), (_working_program(), image, SEGMENTS)])
    first, _ = placed.jobs[0].segments[segment]
    jobs = [dataclasses.replace(job, error=(first + 1000, 4), error_response=response)
            for job in placed.jobs]
    results, memory = run_jobs(EDGE, placed.memory, jobs)
    assert (results[0].cause, results[0].instruction) == (cause, int(segment is Segment.OUTPUT))
    assert results[1].cause is Cause.NONE
    source, _ = placed.jobs[1].segments[Segment.INPUT]
    target, _ = placed.jobs[1].segments[Segment.OUTPUT]
    assert (memory[target:target + 16] == memory[source:source + 16]).all()


def test_addresses_beyond_the_memory_are_a_decode_error():
    program = [_load(length=8), HALT]
    placed = place([(program, bytes(64), SEGMENTS)])
    job = dataclasses.replace(placed.jobs[0], segments={Segment.INPUT: (1 << 28, 4096)})
    results, memory = run_jobs(EDGE, placed.memory, [job])
    assert (results[0].cause, results[0].instruction) == (Cause.BUS_DECODE_ERROR, 0)
    assert (memory == placed.memory).all()


def test_forward_bias_reaches_array_and_special_unit(rng):
    """To E4M3, times E4M3, plus E4M3, with three biases one after the other."""
    config = EDGE
    size, elements, codes, sums = 64, 0, 128, 192       # slots of a memory, and where they begin
    to_codes = Instruction(
        "SPECIAL", source=Source.ACTIVATIONS, source_precision=Precision.FP16, accumulator=elements,
        count_2=8, accumulator_stride_2=8, output_precision=Precision.E4M3, address=codes,
        stride_2=4)
    product = Instruction("MATMUL", precision=Precision.E4M3, depth=4, run_length=4, count_2=8,
                          address=codes, stride_2=4)
    to_sums = Instruction(
        "SPECIAL", float_accumulator=1, count_2=8, accumulator_stride_2=1, residual=1,
        residual_precision=Precision.E4M3, residual_address=codes, residual_stride_2=4,
        output_precision=Precision.FP16, address=sums, stride_2=8)
    program = with_tokens([
        Instruction("LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS, length=64),
        Instruction("LOAD", target=Target.WEIGHTS, segment=Segment.WORKSPACE, length=size),
        _load(length=size, address=elements), to_codes, product, to_sums,
        _store(address=codes, length=sums + size - codes), HALT], config)
    image = np.zeros(4 * _SIZE, np.uint8)
    weights = rng.integers(0x20, 0x60, 2 * size) | rng.integers(0, 2, 2 * size) << 7
    for segment, content in (
            (Segment.PARAMETERS, np.tile(float32.encode_array(np.array([1, 0, 1, 0])), 8)),
            (Segment.WORKSPACE, weights.astype(np.uint8)),
            (Segment.INPUT, dlfloat.encode_array(rng.standard_normal(size)))):
        content = content.view(np.uint8)
        image[_SIZE * segment.value:][:len(content)] = content
    placed = place([(program, image, SEGMENTS)] * 3)
    placed.jobs = [dataclasses.replace(job, forward_bias=bias)
                   for job, bias in zip(placed.jobs, (11, 4, 8), strict=True)]
    results, memory = run_jobs(config, placed.memory, placed.jobs, model=MemoryModel(latency=5))
    expected, ends = golden(config, placed)
    assert ends == [(Cause.NONE, 0)] * 3 and all(r.cause is Cause.NONE for r in results)
    np.testing.assert_array_equal(memory, expected)
    written = [memory[first:first + 2 * (sums + size - codes)].view("<u2") for first, _ in (
        job.segments[Segment.OUTPUT] for job in placed.jobs)]
    for a, b in ((0, 1), (1, 2)):
        for part in (slice(size // 2), slice(sums - codes, None)):
            assert (written[a][part] != written[b][part]).mean() > 0.5
    assert [r.cycles for r in results] == [
        predict(program, config, program_address=job.program, segments=job.segments,
                latency=5).cycles for job in placed.jobs]
