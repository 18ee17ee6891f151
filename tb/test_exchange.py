"""The exchange unit in a core: compressing and adding up between loads and stores, and its faults,
beside the interpreter."""

import dataclasses

import numpy as np
import pytest
from ulpcore.rtl import Job, MemoryModel, run_jobs
from ulpsim import exchange
from ulpsim.compression.adacomp import EncoderCause
from ulpsim.compression.engine import Completion, EngineCause, Place
from ulpsim.compression.packets import PacketCause
from ulpsim.config import EDGE, NANO, RAPID, cluster_core
from ulpsim.cycles import predict
from ulpsim.interconnect import collective
from ulpsim.interpreter import Machine, Result
from ulpsim.isa import Cause, Instruction, Segment, encode_program
from ulpsim.tokens import TokenError, with_tokens

CONFIG = cluster_core(NANO)
HALT = Instruction("HALT")
#: Of the memory, of which each run has its own part: where its segments are, by their numbers.
PART, SIZE = 1 << 15, 1 << 12
AT = {Segment.PARAMETERS: 1 << 12, Segment.INPUT: 2 << 12, Segment.OUTPUT: 3 << 12,
      Segment.WORKSPACE: 4 << 12}
LAYERS = (300, 77)
GRADIENT, RESIDUE, BUFFER, SUM = 0, 0x600, 0x400, 0x800      # in INPUT, WORKSPACE, OUTPUT, OUTPUT
CAPACITY = 0x200
SECOND = 0x4C0


def compress(**changes: int) -> Instruction:
    fields = {"elements": LAYERS[0], "gradient_segment": Segment.INPUT, "gradient": GRADIENT,
              "residue_segment": Segment.WORKSPACE, "residue": RESIDUE,
              "buffer_segment": Segment.OUTPUT, "buffer": BUFFER, "capacity": CAPACITY,
              "bin_size": 50, "factor": 8, "point": 20, "exact": 1, "learner": 5, "step": 1020}
    return Instruction("COMPRESS", **(fields | changes))


def decode(**changes: int) -> Instruction:
    fields = {"elements": LAYERS[0], "gradient_segment": Segment.OUTPUT, "gradient": SUM,
              "buffer_segment": Segment.OUTPUT, "buffer": BUFFER, "capacity": CAPACITY,
              "clear": 1, "learner": 5, "last_learner": 5, "step": 1020}
    return Instruction("DECODE", **(fields | changes))


def copied(**header: int) -> list[Instruction]:
    """The sum to WORKSPACE through the scratchpad."""
    slots = 2 * sum(LAYERS) + 2
    return [Instruction("LOAD", segment=Segment.OUTPUT, offset=SUM, length=slots, post_store=1,
                        **header),
            Instruction("STORE", segment=Segment.WORKSPACE, length=slots, wait_load=1,
                        post_exchange=1)]


def a_step() -> list[Instruction]:
    """Two layers, whose sum is copied; then the second one again, to where the first one was."""
    second = {"elements": LAYERS[1], "gradient": SECOND, "layer": 1}
    return [
        compress(), compress(**second, residue=RESIDUE + SECOND, append=1, bin_size=500),
        decode(), decode(**second | {"gradient": SUM + 0x4B0}, append=1, post_load=1),
        *copied(wait_exchange=1),
        # After the copy, though the exchange unit has been free for long.
        decode(wait_store=1, clear=0), HALT]


def memory_of(rng: np.random.Generator, runs: int) -> np.ndarray:
    memory = np.zeros(runs * PART, np.uint8)
    for run in range(runs):
        first = run * PART + AT[Segment.INPUT]
        values = (rng.standard_normal(SIZE // 4) * np.exp(rng.standard_normal(SIZE // 4))
                  ).astype(np.float32)
        memory[first:first + SIZE] = values.view(np.uint8)
    return memory


def segments_of(run: int) -> dict[Segment, tuple[int, int]]:
    return {segment: (run * PART + at, SIZE) for segment, at in AT.items()}


def place(programs: list[list[Instruction]], rng: np.random.Generator,
          changes: dict[int, dict] | None = None) -> tuple[np.ndarray, list[Job]]:
    """The memory with the programs in it, and their jobs with their `changes`."""
    memory, jobs = memory_of(rng, len(programs)), []
    for run, program in enumerate(programs):
        code = np.frombuffer(encode_program(program), np.uint8)
        memory[run * PART:run * PART + len(code)] = code
        jobs.append(dataclasses.replace(
            Job(run * PART, len(program), segments_of(run), limit=200_000),
            **(changes or {}).get(run, {})))
    return memory, jobs


def check(programs: list[list[Instruction]], rng: np.random.Generator,
          model: MemoryModel | None = None) -> list[tuple[Cause, int]]:
    """Run programs one after another on one core and on the interpreter, and compare all memory;
    of each its cause, and what EXCHANGE_FAULT says by the interpreter."""
    memory, jobs = place(programs, rng)
    golden = memory.copy()
    machine = Machine(CONFIG, golden)
    ends = []
    found, final = run_jobs(CONFIG, memory, jobs, model=model)
    for run, (job, program) in enumerate(zip(jobs, programs, strict=True)):
        machine.segments = dict(job.segments)
        result = machine.run(program)
        assert (found[run].cause, found[run].instruction) == (result.cause, result.index), run
        ends.append((result.cause, machine.exchange_fault))
    assert np.array_equal(final, golden)
    return ends


@pytest.mark.parametrize("model", [MemoryModel(), MemoryModel(latency=40, stall_seed=7)],
                         ids=["latency 16", "stalls"])
def test_steps(model: MemoryModel, rng: np.random.Generator) -> None:
    """Programs of one core after another, every byte of memory as the interpreter has it."""
    assert check([a_step(), [HALT], a_step()], rng, model) == [(Cause.NONE, 0)] * 3


#: Programs that fail, why, and what EXCHANGE_FAULT says.
BAD = {
    "gradient misaligned": ([compress(gradient=4)], Cause.MISALIGNED_ADDRESS, 0),
    "residue misaligned": ([compress(residue=4)], Cause.MISALIGNED_ADDRESS, 0),
    "buffer misaligned": ([decode(buffer=4)], Cause.MISALIGNED_ADDRESS, 0),
    "capacity misaligned": ([decode(capacity=12)], Cause.MISALIGNED_ADDRESS, 0),
    "pitch misaligned": ([decode(pitch=4)], Cause.MISALIGNED_ADDRESS, 0),
    "residue to INPUT": ([compress(residue_segment=Segment.INPUT)], Cause.SEGMENT_READ_ONLY, 0),
    "packets to PARAMETERS": ([compress(buffer_segment=Segment.PARAMETERS)],
                              Cause.SEGMENT_READ_ONLY, 0),
    "sum to INPUT": ([decode(gradient_segment=Segment.INPUT)], Cause.SEGMENT_READ_ONLY, 0),
    "gradient too long": ([compress(gradient=SIZE - 8 * 149)], Cause.SEGMENT_RANGE, 0),
    "many elements": ([compress(elements=(1 << 32) - 1)], Cause.SEGMENT_RANGE, 0),
    "residue too long": ([compress(residue=SIZE - 8 * 149)], Cause.SEGMENT_RANGE, 0),
    "packets too long": ([compress(buffer=SIZE - CAPACITY + 8)], Cause.SEGMENT_RANGE, 0),
    "learners too many": ([decode(learner=0, last_learner=200, pitch=64)], Cause.SEGMENT_RANGE, 0),
    "pitch too large": ([decode(learner=0, pitch=1 << 31)], Cause.SEGMENT_RANGE, 0),
    "no learners": ([decode(last_learner=4)], Cause.COMPRESSION,
                    Completion(EngineCause.LEARNERS, learner=5)),
    "buffer too small": ([compress(), compress(capacity=16, learner=9)], Cause.COMPRESSION,
                         Completion(EngineCause.OVERFLOW, place=Place.PACKETS, learner=9)),
    "factor": ([compress(factor=0)], Cause.COMPRESSION,
               Completion(EngineCause.ENCODER, EncoderCause.FACTOR, learner=5)),
    "point": ([compress(point=0x80)], Cause.COMPRESSION,
              Completion(EngineCause.ENCODER, EncoderCause.POINT, learner=5)),
    "no packets": ([decode(learner=3, capacity=8)], Cause.COMPRESSION,
                   Completion(EngineCause.PACKET, PacketCause.LENGTH, learner=3)),
    "out of order, at once": (
        [compress(), compress(post_load=1, gradient=4), Instruction("FILL", wait_exchange=1)],
        Cause.MISALIGNED_ADDRESS, 0),
    "gather misaligned": ([Instruction("COLLECTIVE", segment=Segment.OUTPUT, table=4)],
                          Cause.MISALIGNED_ADDRESS, 0),
    "reduce in INPUT": ([Instruction("COLLECTIVE", segment=Segment.INPUT, bytes=8, pitch=8,
                                     operation=collective.Operation.ALL_REDUCE)],
                        Cause.SEGMENT_READ_ONLY, 0),
    "reduce too much": ([Instruction("COLLECTIVE", segment=Segment.OUTPUT, bytes=SIZE, address=8,
                                     operation=collective.Operation.ALL_REDUCE)],
                        Cause.SEGMENT_RANGE, 0),
    "broadcast too much": ([Instruction("COLLECTIVE", segment=Segment.WORKSPACE, pitch=SIZE + 8,
                                        operation=collective.Operation.BROADCAST)],
                           Cause.SEGMENT_RANGE, 0)}


def test_faults(rng: np.random.Generator) -> None:
    """Each is found with its cause and place in the program, has changed nothing, and leaves a core
    that works; the point of two's complement is one of those that work."""
    programs, expected = [], []
    for program, cause, why in BAD.values():
        programs += [[*program, HALT], [compress(point=0xFE, append=0), HALT]]
        expected += [(cause, exchange.detail(why) if why else 0), (Cause.NONE, 0)]
    assert check(programs, rng) == expected


def test_bus_errors_and_resets(rng: np.random.Generator) -> None:
    """While the engine works, at any time: the bus's cause, or a stop; and the next run works."""
    programs, changes = [], {}
    for where, response in (((AT[Segment.INPUT], 8), 2), ((AT[Segment.WORKSPACE] + RESIDUE, 8), 3)):
        changes[len(programs)] = {"error": (len(programs) * PART + where[0], where[1]),
                                  "error_response": response}
        programs += [[compress(), HALT], [compress(), HALT]]
    for after in (30, 60, 100, 200, 400, 900):
        changes[len(programs)] = {"reset_after": after}
        programs += [a_step(), a_step()]
    # One that waits for a network that is not there.
    changes[len(programs)] = {"reset_after": 300}
    programs += [[Instruction("COLLECTIVE", operation=collective.Operation.BARRIER), HALT],
                 a_step()]
    memory, jobs = place(programs, rng, changes)
    golden = memory.copy()
    machine = Machine(CONFIG, golden)
    found, final = run_jobs(CONFIG, memory, jobs)
    assert [result.cause for result in found[:4:2]] == [Cause.BUS_SLAVE_ERROR,
                                                        Cause.BUS_DECODE_ERROR]
    for run in range(1, len(programs), 2):
        machine.segments = segments_of(run)
        assert machine.run(programs[run]).cause is found[run].cause is Cause.NONE
        part = slice(run * PART, (run + 1) * PART)
        assert np.array_equal(final[part], golden[part]), run


def test_what_needs_other_nodes_or_is_not_said() -> None:
    barrier = Instruction("COLLECTIVE", operation=collective.Operation.BARRIER)
    with pytest.raises(ValueError, match="BARRIER must be run by a ClusterMachine"):
        Machine(CONFIG, bytearray(64)).run([barrier, HALT])
    with pytest.raises(ValueError, match="cycles of 'nano' are not predicted: it has an exchange"):
        predict([HALT], CONFIG, program_address=0, segments={}, latency=16)
    with pytest.raises(TokenError, match="COMPRESS must be given its tokens by whoever writes"):
        with_tokens([compress()], CONFIG)
    with pytest.raises(ValueError, match="memory_base must be 0 for an exchange unit, not 64"):
        Machine(CONFIG, bytearray(64), 64)


@pytest.mark.parametrize("instruction", [
    compress(), decode(), Instruction("FILL", wait_exchange=1),
    Instruction("FILL", post_exchange=1), Instruction("COLLECTIVE")], ids=str)
def test_cores_without_the_unit(instruction: Instruction) -> None:
    """To them they are words with reserved bits or unknown opcodes."""
    assert Machine(EDGE, bytearray(64)).run([HALT, instruction]) == Result(Cause.NONE, 0)
    assert Machine(EDGE, bytearray(64)).run([instruction, HALT]) == Result(
        Cause.ILLEGAL_INSTRUCTION, 0)


def test_cores_of_clusters() -> None:
    assert (CONFIG.exchange, CONFIG.bus_bytes) == (1, 8)
    wide = dataclasses.replace(RAPID, bus_bytes=32, exchange=4)
    assert cluster_core(wide) is not None and cluster_core(wide) == wide
    with pytest.raises(ValueError, match="must be at most 32, the widest link, not 64 as 'rapid'"):
        cluster_core(RAPID)
