"""Four cores in a cluster: programs beside the golden model, and nodes that stall or are reset."""

import dataclasses

import numpy as np
import pytest
from ulpcore.cli import main
from ulpcore.interconnect.core_cluster import CoreCluster
from ulpcore.interconnect.core_cluster_rtl import (
    Access,
    CoreJob,
    CoreRun,
    Report,
    ends,
    read,
    reports,
    run_cores,
    start,
    wait,
    write,
)
from ulpsim import exchange
from ulpsim.cluster import ClusterMachine
from ulpsim.cluster_registers import BY_NAME, CLUSTER_IDENTIFIER, CLUSTER_REGISTERS, PAGE, page
from ulpsim.config import EDGE, NANO, RAPID, cluster_core
from ulpsim.interconnect.collective import Cause as CollectiveCause
from ulpsim.interconnect.collective import Completion, Operation
from ulpsim.interconnect.packets import NetworkCause
from ulpsim.interconnect.topology import Mesh, Ring
from ulpsim.isa import Cause, Instruction, Segment, encode_program
from ulpsim.registers import BY_NAME as CORE
from ulpsim.registers import Access as Kind

CONFIG, COUNT = cluster_core(NANO), 4
TOPOLOGY = Mesh(2, 2)
#: Cycles until a collective gives up, and until a node that takes nothing is cut off.
PATIENCE, CUT = 3000, 6000
OPTIONS = {"config": CONFIG, "topology": TOPOLOGY, "largest": 256, "patience": CUT}
HALT = Instruction("HALT")
#: The model of four cores takes two minutes to build.
in_rtl = pytest.mark.nightly
#: Of a node's part of the memory: its segments, by their numbers.
PART, SIZE = 1 << 15, 1 << 12
AT = {Segment.PARAMETERS: 1 << 12, Segment.INPUT: 2 << 12, Segment.OUTPUT: 3 << 12,
      Segment.WORKSPACE: 4 << 12}
ELEMENTS, CAPACITY = 150, 0x100
#: In WORKSPACE.
BUFFERS, TABLE, RESIDUE, SUM, VECTOR = 0, 0x400, 0x500, 0x800, 0xB00
RESET, STATUS = BY_NAME["RESET"].offset, BY_NAME["INTERRUPT_STATUS"].offset


def collective(operation: Operation, **fields: int) -> Instruction:
    return Instruction("COLLECTIVE", operation=operation, segment=Segment.WORKSPACE,
                       **({"patience": PATIENCE} | fields))


def reduce(**fields: int) -> Instruction:
    """The sum of all VECTORs."""
    return collective(Operation.ALL_REDUCE, address=VECTOR, bytes=4 * ELEMENTS, pitch=152, **fields)


def fresh_vector() -> list[Instruction]:
    """The gradients to VECTOR through the scratchpad; the exchange unit is to wait for it."""
    slots = 2 * ELEMENTS
    return [Instruction("LOAD", segment=Segment.INPUT, length=slots, post_store=1),
            Instruction("STORE", segment=Segment.WORKSPACE, offset=VECTOR, length=slots,
                        wait_load=1, post_exchange=1)]


def whole_exchange(node: int) -> list[Instruction]:
    """Compress, gather, decode; beside it a vector is loaded, stored and then reduced; the sum goes
    through the scratchpad to OUTPUT, and the root's WORKSPACE to all."""
    layer = {"elements": ELEMENTS, "buffer_segment": Segment.WORKSPACE, "capacity": CAPACITY}
    return [
        *fresh_vector(),
        Instruction("COMPRESS", **layer, gradient_segment=Segment.INPUT, learner=node, bin_size=50,
                    residue_segment=Segment.WORKSPACE, residue=RESIDUE, factor=8, point=20, exact=1,
                    buffer=BUFFERS + node * CAPACITY),
        collective(Operation.ALL_GATHER, address=BUFFERS, pitch=CAPACITY, table=TABLE, packed=1),
        Instruction("DECODE", **layer, gradient_segment=Segment.WORKSPACE, gradient=SUM, clear=1,
                    last_learner=COUNT - 1, buffer=BUFFERS, pitch=CAPACITY, post_load=1),
        reduce(round=1, wait_store=1),
        Instruction("LOAD", segment=Segment.WORKSPACE, offset=SUM, length=2 * ELEMENTS,
                    wait_exchange=1, post_store=1),
        Instruction("STORE", segment=Segment.OUTPUT, length=2 * ELEMENTS, wait_load=1),
        collective(Operation.BROADCAST, round=2, root=2, address=VECTOR + 0x100, bytes=100,
                   pitch=128),
        collective(Operation.BARRIER, round=3), HALT]


def memory_of(rng: np.random.Generator) -> np.ndarray:
    memory = np.zeros(COUNT * PART, np.uint8)
    for node in range(COUNT):
        first = node * PART + AT[Segment.INPUT]
        values = rng.standard_normal(SIZE // 4).astype(np.float32)
        memory[first:first + SIZE] = values.view(np.uint8)
    return memory


def segments_of(node: int) -> dict[Segment, tuple[int, int]]:
    return {segment: (node * PART + at, SIZE) for segment, at in AT.items()}


def load(memory: np.ndarray, programs: dict[int, list[Instruction]], *, offset: int = 0,
         **registers: int) -> dict[int, CoreJob]:
    """The programs in the memory, `offset` bytes behind the beginning of the nodes' parts."""
    jobs = {}
    for node, program in programs.items():
        code = np.frombuffer(encode_program(program), np.uint8)
        at = node * PART + offset
        memory[at:at + len(code)] = code
        jobs[node] = CoreJob(at, len(program), segments_of(node), **registers)
    return jobs


def golden(memory: np.ndarray, programs: list[dict[int, list[Instruction]]],
           registers: list[dict[str, int]]) -> tuple[np.ndarray, list[list[Report]]]:
    """What runs of programs leave in memory, and how each of them ends, but for its cycles."""
    memory = memory.copy()
    cluster = ClusterMachine(TOPOLOGY, CONFIG, [memory] * COUNT, largest=OPTIONS["largest"])
    ended = []
    for run, values in zip(programs, registers, strict=True):
        for node, machine in enumerate(cluster.machines):
            machine.segments = segments_of(node)
            machine.step_register = values.get("step", 0)
            machine.round_register = values.get("round", 0)
        results = cluster.run([run.get(node) for node in range(COUNT)])
        ended.append([Report(result.cause, result.index, machine.exchange_fault, 0)
                      for result, machine in zip(results, cluster.machines, strict=True)
                      if result is not None])
    return memory, ended


def ended(run: CoreRun, first: int, count: int) -> list[Report]:
    """What the accesses of `ends` have told, the first of which is this one, without cycles."""
    found = reports(run.answers[first:first + 1 + 4 * count])
    return [dataclasses.replace(report, cycles=0) for report in found]


@in_rtl
@pytest.mark.parametrize(("latency", "stall_seed"), [(16, 0), (30, 5)])
def test_programs(latency: int, stall_seed: int, rng: np.random.Generator) -> None:
    """Every byte of memory, every flit and every core's end as the golden model has it; twice, from
    the same programs, with the next step and rounds."""
    memory = memory_of(rng)
    programs = {node: whole_exchange(node) for node in range(COUNT)}
    registers = [{"step": 1023, "round": 62}, {"step": 1024, "round": 66}]
    jobs = load(memory, programs, **registers[0])
    accesses = []
    for values in registers:
        accesses += [*start({node: dataclasses.replace(job, **values)
                             for node, job in jobs.items()}), *ends(range(COUNT), 100_000)]
    run = run_cores([memory], accesses, latency=latency, stall_seed=stall_seed, **OPTIONS)
    expected, ends_expected = golden(memory, [programs] * 2, registers)
    assert all(report.cause is Cause.NONE for reports in ends_expected for report in reports)
    half, told = len(accesses) // 2, 1 + 4 * COUNT
    for i in range(2):
        assert ended(run, half * (i + 1) - told, COUNT) == ends_expected[i]
    assert np.array_equal(run.memories[0], expected)
    assert all(len(times) == 8 for times in run.begun)


def who(completion: Completion) -> Report:
    return Report(Cause.COLLECTIVE, 0, exchange.detail(completion), 0)


@in_rtl
def test_a_node_that_stalls_for_ever(rng: np.random.Generator) -> None:
    """Node 2 never starts. All others time out and name it, and are no worse for it; the guard cuts
    it off and reports it. Reset and connected again, it takes part in the next exchange."""
    memory = memory_of(rng)
    absent = 2
    others = [node for node in range(COUNT) if node != absent]
    gather = [collective(Operation.ALL_GATHER, bytes=0x2C0, pitch=0x2C0, table=0xB00), HALT]
    first = load(memory, dict.fromkeys(others, gather))
    alone = load(memory, {node: [*fresh_vector(), Instruction("FILL", length=1), HALT]
                          for node in others}, offset=0x200)
    last = {node: [*fresh_vector(), reduce(wait_store=1), HALT] for node in range(COUNT)}
    together = load(memory, last, offset=0x400, round=1)
    accesses = [*start(first), *ends(others, 50_000)]
    marks = [len(accesses) - 13]
    # What waits for node 2 is thrown away at last.
    accesses += [wait(BY_NAME["CUT"].offset, 1 << absent, 0xFFFF, 50_000),
                 read(BY_NAME["NODE_FAULT"].offset), read(BY_NAME["NODE_CAUSE"].offset),
                 read(BY_NAME["FAULT"].offset), write(BY_NAME["INTERRUPT_ENABLE"].offset, 4 << 16)]
    accesses += [*start(alone), *ends(others, 50_000)]
    marks.append(len(accesses) - 13)
    accesses += [write(RESET, 1 << absent), write(RESET, 0),
                 write(BY_NAME["RECONNECT"].offset, 1 << absent), read(BY_NAME["CUT"].offset)]
    marks.append(len(accesses) - 1)
    accesses += [*start(together), *ends(range(COUNT), 50_000)]
    run = run_cores([memory], accesses, **OPTIONS)
    blamed = who(Completion(CollectiveCause.TIMEOUT, absent))
    assert ended(run, marks[0], len(others)) == [blamed] * len(others)
    at = marks[0] + 13
    values = [answer.data for answer in run.answers[at:at + 4]]
    assert values == [1 << absent, 1 << absent, NetworkCause.STALLED | absent << 8, 0b1011]
    assert run.interrupt
    assert all(report.cause is Cause.NONE for report in ended(run, marks[1], len(others)))
    assert run.answers[marks[2]].data == 0
    assert all(report.cause is Cause.NONE for report in ended(run, len(accesses) - 17, COUNT))
    # By the golden model the others blame it too, and the last exchange is the same.
    _, expected = golden(memory, [dict.fromkeys(others, gather)], [{}])
    assert expected == [[blamed] * len(others)]
    final, _ = golden(memory, [last], [{"round": 1}])
    for node in range(COUNT):
        part = slice(node * PART + AT[Segment.WORKSPACE] + VECTOR,
                     node * PART + AT[Segment.WORKSPACE] + VECTOR + 4 * ELEMENTS)
        assert np.array_equal(run.memories[0][part], final[part]), node


@in_rtl
def test_a_node_in_reset(rng: np.random.Generator) -> None:
    """Node 1 is reset at many moments of an exchange, with bursts and packets under way, and held:
    it is reported at once; the others end with a cause, or have finished; each time all take part
    again in the next one, which is as the golden model has it."""
    memory = memory_of(rng)
    held = 1
    others = [node for node in range(COUNT) if node != held]
    programs = {node: [*fresh_vector(), reduce(wait_store=1), HALT] for node in range(COUNT)}
    jobs = load(memory, programs)
    accesses: list[Access] = []
    marks = []

    def told(run: int) -> dict[int, CoreJob]:
        return {node: dataclasses.replace(job, round=run) for node, job in jobs.items()}

    delays = sorted(int(delay) for delay in rng.integers(0, 150, 12))
    for i, delay in enumerate(delays):
        # An access takes some eight cycles.
        accesses += [*start(told(2 * i)), *[read(0)] * delay, write(RESET, 1 << held)]
        mark = [len(accesses)]
        accesses += [read(page(held) + CORE["STATUS"].offset),
                     write(page(held) + CORE["STEP"].offset, 1), read(BY_NAME["NODE_FAULT"].offset),
                     read(BY_NAME["NODE_CAUSE"].offset), *ends(others, 50_000)]
        mark.append(len(accesses) - 13)
        accesses += [write(BY_NAME["NODE_FAULT"].offset, 0xFFFF),
                     read(BY_NAME["NODE_FAULT"].offset), write(RESET, 0), *start(told(2 * i + 1)),
                     *ends(range(COUNT), 50_000)]
        mark.append(len(accesses) - 17)
        marks.append(mark)
    run = run_cores([memory], accesses, **OPTIONS)
    unfinished = 0
    for mark in marks:
        status, step, faults, cause = run.answers[mark[0]:mark[0] + 4]
        assert status.error and step.error
        assert faults.data == 1 << held and cause.data == NetworkCause.RESET | held << 8
        found = ended(run, mark[1], len(others))
        assert all(report.cause in (Cause.NONE, Cause.COLLECTIVE) for report in found)
        unfinished += any(report.cause is Cause.COLLECTIVE for report in found)
        assert run.answers[mark[1] + 14].data == 0
        assert all(report.cause is Cause.NONE for report in ended(run, mark[2], COUNT))
    assert unfinished >= 3
    final, _ = golden(memory, [programs], [{}])
    assert np.array_equal(run.memories[0], final)


@in_rtl
def test_a_core_that_is_reset_by_its_register(rng: np.random.Generator) -> None:
    """A core that waits in a barrier for ever comes to rest at once, and works again."""
    memory = memory_of(rng)
    barrier = [collective(Operation.BARRIER, patience=0xFFFFFFFF), HALT]
    jobs = load(memory, dict.fromkeys(range(COUNT), barrier))
    control, status = (page(3) + CORE[name].offset for name in ("CONTROL", "STATUS"))
    accesses = [*start({3: jobs[3]}), *[read(0)] * 20, write(control, 2), wait(status, 0, 1, 600),
                *start({node: dataclasses.replace(job, round=1) for node, job in jobs.items()}),
                *ends(range(COUNT), 20_000)]
    run = run_cores([memory], accesses, **OPTIONS)
    assert not any(answer.late or answer.error for answer in run.answers)
    assert all(report.cause is Cause.NONE for report in ended(run, len(accesses) - 17, COUNT))


@in_rtl
def test_registers() -> None:
    """All of the cluster's own: what they hold, what can be written; pages, and what is not there.
    """
    memory = np.zeros(64, np.uint8)
    known = {register.offset: register for register in CLUSTER_REGISTERS}
    accesses = []
    for offset in range(0, PAGE, 4):
        accesses += [read(offset), write(offset, 0xFFFFFFFF if offset != RESET else 5),
                     read(offset)]
    accesses += [write(RESET, 0), write(BY_NAME["NODE_FAULT"].offset, 0xFFFFFFFF),
                 read(BY_NAME["NODE_FAULT"].offset), read(BY_NAME["CUT"].offset)]
    pages = [page(node) + CORE[name].offset for node in range(COUNT)
             for name in ("IDENTIFIER", "NODES", "EXCHANGE")]
    accesses += [*map(read, pages), *(read(page(node)) for node in range(COUNT, 7)),
                 write(page(COUNT), 0), read(page(0) + 0xFC), write(page(0), 0)]
    run = run_cores([memory], accesses, **OPTIONS)
    answers = iter(run.answers)
    held = {"IDENTIFIER": CLUSTER_IDENTIFIER, "NODES": COUNT}
    after = {"INTERRUPT_ENABLE": 0x000F000F, "RESET": 5}
    for offset in range(0, PAGE, 4):
        before, written, again = next(answers), next(answers), next(answers)
        register = known.get(offset)
        assert before.error == again.error == (register is None), offset
        assert written.error == (register is None or register.access is Kind.READ), offset
        if register is not None:
            assert before.data == held.get(register.name, 0), register.name
            assert again.data == after.get(register.name, before.data), register.name
    assert [next(answers).data for _ in range(4)] == [0, 0, 0, 0]
    for _ in range(COUNT):
        assert [next(answers).data for _ in range(3)] == [0x756C7001, COUNT, 1]
    assert all(answer.error for answer in answers)


@pytest.mark.parametrize(("config", "topology", "message"), [
    (NANO, TOPOLOGY, "exchange of 'nano' must not be 0 in a cluster"),
    (dataclasses.replace(NANO, exchange=1), TOPOLOGY, "must be one of 8, 16, 32, not 4"),
    (CONFIG, Ring(17, one_way=True), "cores of a cluster must be from 2 to 16, not 17")])
def test_clusters_that_cannot_be(config, topology, message) -> None:
    with pytest.raises(ValueError, match=message):
        CoreCluster(config=config, topology=topology)
    if not config.exchange:
        with pytest.raises(ValueError, match=message):
            ClusterMachine(topology, config, [np.zeros(64, np.uint8)] * 4)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--cluster", "1"], "cores of a cluster must be from 2 to 16, not 1"),
    (["--cluster", "17"], "cores of a cluster must be from 2 to 16, not 17"),
    (["--cluster", "5", "--topology", "torus"], "must be a product of two numbers above 1, not 5"),
    (["--cluster", "2", "--config", "rapid"], "must be at most 32, the widest link, not 64")])
def test_mistakes_are_one_line_on_stderr(arguments: list[str], message: str,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_golden_cluster_refuses_what_it_does_not_define(rng: np.random.Generator) -> None:
    memory = memory_of(rng)
    broadcast = [collective(Operation.BROADCAST), HALT]
    with pytest.raises(ValueError, match="BROADCAST must be of all 4 nodes, not of 0, 3 alone"):
        golden(memory, [{0: broadcast, 3: broadcast}], [{}])
    refused = [collective(Operation.BROADCAST, root=9), HALT]
    _, found = golden(memory, [{1: refused}], [{}])
    assert found == [[who(Completion(CollectiveCause.ROOT, 1))]]
    assert EDGE.exchange == RAPID.exchange == 0
