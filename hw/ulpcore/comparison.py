"""Compiled programs on the RTL and on the golden model: every word and every cycle compared."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ulpsim.compiler import Compiled
from ulpsim.config import CoreConfig
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Segment, encode_program
from ulpsim.sequences.compiler import CompiledSequences

from .rtl import Job, JobResult, MemoryModel, run_jobs

__all__ = ["Comparison", "CompiledRun", "compare_compiled", "lay_out"]

_PAGE = 4096


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison of RTL and models found; all zero if they agree."""

    differing_words: int
    differing_cycles: int
    faults: tuple[str, ...]

    @property
    def agree(self) -> bool:
        return not (self.differing_words or self.differing_cycles or self.faults)


@dataclasses.dataclass(frozen=True)
class CompiledRun:
    """Runs of one program, on RTL and golden model: the outputs of all, the cycles of each."""

    outputs_rtl: np.ndarray
    outputs_golden: np.ndarray
    cycles: tuple[int, ...]
    predicted: tuple[int, ...]
    comparison: Comparison


def compare_compiled(compiled: Compiled | CompiledSequences, batches: Sequence[bytes],
                     model: MemoryModel, progress: Callable[[int], None] = lambda runs: None
                     ) -> CompiledRun:
    """Run a program for each of several contents of the segment INPUT.

    Every word of external memory is compared, and of every run the cycles (unless the memory
    stalls at random). `progress` is called with the number of runs done since the last call.
    """
    config = compiled.config
    memory, jobs = lay_out(compiled, batches)
    golden = memory.copy()
    causes = _golden(config, compiled, golden, jobs)
    results, final = run_jobs(config, memory, jobs, model=model, progress=progress)
    predicted = [predict(compiled.program, config, program_address=job.program,
                         segments=job.segments, latency=model.latency).cycles for job in jobs]
    comparison = _compare(results, causes, predicted, final, golden, model)

    def outputs(memory: np.ndarray) -> np.ndarray:
        parts = []
        for job in jobs:
            first, size = job.segments[Segment.OUTPUT]
            parts.append(compiled.unpack_output(memory[first:first + size].tobytes()))
        return np.concatenate(parts)

    return CompiledRun(outputs(final), outputs(golden), tuple(r.cycles for r in results),
                       tuple(predicted), comparison)


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def lay_out(compiled: Compiled | CompiledSequences, batches: Sequence[bytes]
            ) -> tuple[np.ndarray, list[Job]]:
    """External memory with program, parameters, inputs and room for outputs; a job a batch."""
    placement, sizes = place(compiled), compiled.segment_bytes
    first_input = _aligned(placement.end)
    input_pitch, output_pitch = _aligned(sizes[Segment.INPUT]), _aligned(sizes[Segment.OUTPUT])
    first_output = first_input + len(batches) * input_pitch
    memory = np.zeros(first_output + len(batches) * output_pitch, np.uint8)

    def put(address: int, data: bytes) -> None:
        memory[address:address + len(data)] = np.frombuffer(data, np.uint8)

    put(placement.program, encode_program(compiled.program))
    put(placement.segments[Segment.PARAMETERS][0], compiled.parameters)
    # A pattern where outputs are to stand: a word that is not written is found.
    memory[first_output:] = 0xA5
    jobs = []
    for i, batch in enumerate(batches):
        put(first_input + i * input_pitch, batch)
        jobs.append(Job(placement.program, len(compiled.program), placement.segments | {
            Segment.INPUT: (first_input + i * input_pitch, sizes[Segment.INPUT]),
            Segment.OUTPUT: (first_output + i * output_pitch, sizes[Segment.OUTPUT])},
            forward_bias=compiled.forward_bias))
    return memory, jobs


def _golden(config: CoreConfig, compiled: Compiled | CompiledSequences, memory: np.ndarray,
            jobs: Sequence[Job]) -> list[Cause]:
    machine = Machine(config, memory)
    causes = []
    for job in jobs:
        machine.segments, machine.forward_bias = dict(job.segments), job.forward_bias
        causes.append(machine.run(compiled.program).cause)
    return causes


def _compare(results: Sequence[JobResult], causes: Sequence[Cause], predicted: Sequence[int],
             final: np.ndarray, golden: np.ndarray, model: MemoryModel) -> Comparison:
    faults = tuple(
        f"run {i}: RTL {result.cause.name} at instruction {result.instruction}, golden {cause.name}"
        for i, (result, cause) in enumerate(zip(results, causes, strict=True))
        if result.cause is not Cause.NONE or cause is not Cause.NONE)
    words = int(np.count_nonzero(final.view("<u4") != golden.view("<u4")))
    cycles = 0
    if model.stall_seed is None:
        cycles = sum(abs(result.cycles - cycle)
                     for result, cycle in zip(results, predicted, strict=True))
    return Comparison(words, cycles, faults)
