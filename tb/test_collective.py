"""A node's collective engine in RTL against the golden model: every byte of memory, every flit that
it sends, every report. What comes from the left is what the golden model's left neighbour sends."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from collective_bench import BUFFERS, MEMORY, TABLE, NodeRun, model, random_rounds, run_node
from ulpsim.interconnect.collective import (
    Cause,
    Collectives,
    Command,
    Completion,
    Operation,
    Tag,
)
from ulpsim.interconnect.packets import Flit, Header, packetise
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus

RING = Ring(3, one_way=True)
NODE = 1


def memories(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """FP32 numbers of all magnitudes, a few of them zeros, subnormal, infinite."""
    values = (rng.standard_normal((count, MEMORY // 4)) * 2.0 ** rng.integers(
        -30, 30, (count, MEMORY // 4))).astype("<f4")
    values[rng.random(values.shape) < 0.05] = 0
    values[rng.random(values.shape) < 0.002] = np.inf
    values[rng.random(values.shape) < 0.002] = 1e-40
    return [row.view(np.uint8).copy() for row in values]


def flits_of(packets: Sequence[tuple[Header, bytes]], width: int = 64) -> list[Flit]:
    return [flit for header, payload in packets for flit in packetise(header, payload, width)]


def check(topology: Topology, node: int, rounds: Sequence[Sequence[Command]],
          rng: np.random.Generator, *, width: int = 64, largest: int = 1024, **options
          ) -> NodeRun:
    """Commands of all nodes, round by round."""
    count = len(topology.nodes)
    golden = Collectives(topology, memories(rng, count), width=width, largest=largest)
    before = golden.memories[node].copy()
    for commands in rounds:
        assert golden.run(commands) == [Completion()] * count
    run = run_node(model(topology, node, width, largest), before, [c[node] for c in rounds],
                   flits_of(golden.sent[(node - 1) % count], width), width=width, **options)
    assert run.completions == [Completion()] * len(rounds)
    assert run.flits == flits_of(golden.sent[node], width)
    np.testing.assert_array_equal(run.memory, golden.memories[node])
    return run


@pytest.mark.parametrize("stall", [False, True], ids=["flowing", "stalled"])
def test_rounds(stall: bool, rng: np.random.Generator) -> None:
    check(RING, NODE, random_rounds(rng, 3, 24), rng, latency=int(rng.integers(2, 40)),
          stall_seed=int(rng.integers(1, 1 << 30)) if stall else 0,
          stalls={"commands": 0.95, "completions": 0.9, "flits_in": float(rng.random() * 0.8),
                  "flits_out": float(rng.random() * 0.8)} if stall else None)


class Scene:
    """A round of all nodes, to be played to one of them with something wrong."""

    def __init__(self, rng: np.random.Generator, operation: Operation = Operation.ALL_GATHER,
                 own: int | None = None, **fields: int) -> None:
        fields = {"address": BUFFERS, "bytes": 1500, "pitch": 3072, "table": TABLE,
                  "patience": 2000} | fields
        self.commands = [Command(operation, round=5, **fields)] * 3
        if own is not None:
            self.commands[NODE] = dataclasses.replace(self.commands[NODE], bytes=own)
        self.golden = Collectives(RING, memories(rng, 3))
        self.before = self.golden.memories[NODE].copy()
        self.golden.run(self.commands)
        self.coming = self.golden.sent[NODE - 1]

    def play(self, flits: Sequence[Flit], **options) -> NodeRun:
        """The round, and a barrier behind it, which must find nothing left of it."""
        after = dataclasses.replace(self.commands[NODE], operation=Operation.BARRIER, round=6)
        barrier = Collectives(RING, memories(np.random.default_rng(0), 3))
        barrier.run([after] * 3)
        run = run_node(model(RING, NODE), self.before, [self.commands[NODE], after],
                       [*flits, *flits_of(barrier.sent[NODE - 1])], **options)
        assert run.completions[1:] == [Completion()]
        assert run.flits[-4:] == flits_of(barrier.sent[NODE])
        outside = np.ones(MEMORY, bool)
        outside[self.commands[NODE].address:][:3 * self.commands[NODE].pitch] = False
        if run.completions[0] == Completion() or "error" in options:
            outside[TABLE:TABLE + 12] = False
        np.testing.assert_array_equal(run.memory[outside], self.before[outside])
        return run


@pytest.mark.parametrize("operation", [Operation.ALL_GATHER, Operation.BARRIER,
                                       Operation.ALL_REDUCE], ids=lambda o: o.name)
@pytest.mark.parametrize("chunks", [0, 1])
def test_node_that_does_not_come(operation: Operation, chunks: int, rng: np.random.Generator
                                 ) -> None:
    """Node 0, the left neighbour, and all that it would have passed on; or node 2 behind it."""
    scene = Scene(rng, operation)
    ends = [i for i, (header, _) in enumerate(scene.coming) if Tag.decode(header.tag).final]
    run = scene.play(flits_of(scene.coming[:ends[chunks - 1] + 1 if chunks else 0]))
    assert run.completions[0] == Completion(Cause.TIMEOUT, [0, 2][chunks])
    assert 2000 < run.ended[0] - run.begun[0] < 4500


def test_neighbour_that_takes_nothing(rng: np.random.Generator) -> None:
    """All has come, but what is sent waits: of 8 commands every one ends."""
    commands = [Command(Operation.BARRIER, round=i, patience=300) for i in range(8)]
    golden = Collectives(RING, memories(rng, 3))
    before = golden.memories[NODE].copy()
    for command in commands:
        golden.run([command] * 3)
    run = run_node(model(RING, NODE), before, commands, flits_of(golden.sent[0]),
                   stalls={"flits_out": 0.996})
    assert len(run.completions) == 8
    assert {c.cause for c in run.completions} <= {Cause.NONE, Cause.TIMEOUT}
    late = [c for c in run.completions if c.cause is Cause.TIMEOUT]
    assert late and all(c.node in (0, 2) for c in late)


def test_corrupt_flit(rng: np.random.Generator) -> None:
    """A bit of a payload, a header's length, a CRC."""
    scene = Scene(rng)
    flits = flits_of(scene.coming)
    for at, bit, cause in ((7, int(rng.integers(64)), Cause.CRC), (0, 35, Cause.LENGTH),
                           (129, int(rng.integers(32)), Cause.CRC)):
        wrong = list(flits)
        wrong[at] = dataclasses.replace(wrong[at], data=wrong[at].data ^ 1 << bit)
        run = scene.play(wrong)
        assert run.completions[0] == Completion(cause, 0)
        assert run.ended[0] - run.begun[0] < 1000


def test_failure_of_what_is_passed_on(rng: np.random.Generator) -> None:
    """With nothing of its own to say, the node passes on packets of a chunk that then fails: by a
    corrupt packet, or because no more comes. It sends no more than has come, nor the chunk's
    end."""
    scene = Scene(rng, own=0, bytes=2900)
    for packets, cause in ((1, Cause.TIMEOUT), (2, Cause.CRC)):
        flits = flits_of(scene.coming[:2])[:130 * packets]
        if packets == 2:
            flits[-2] = dataclasses.replace(flits[-2], data=flits[-2].data ^ 1)
        run = scene.play(flits)
        assert run.completions[0] == Completion(cause, 0)
        headers = [Header.decode(f.data) for f in run.flits if f.first]
        ours = [Tag.decode(h.tag) for h in headers if Tag.decode(h.tag).round == 5]
        assert ours[0] == Tag(NODE, 5, True) and set(ours[1:]) <= {Tag(0, 5, False)}
        assert len(ours) <= 2
        assert sum(f.last for f in run.flits) == len(headers)


def test_packets_out_of_place(rng: np.random.Generator) -> None:
    """Of another chunk, beyond the buffer, behind one that is no whole number of beats; and a chunk
    of a vector that has lost a packet."""
    scene = Scene(rng)
    header, payload = scene.coming[0]
    for packets in (
            [(dataclasses.replace(header, tag=Tag(2, 5, False).encode()), payload)],
            [(header, payload)] * 4,
            [(dataclasses.replace(header, bytes=9), payload[:9])] * 2,
            [(dataclasses.replace(header, tag=Tag(0, 5, True).encode()), payload)]):
        run = scene.play(flits_of(packets))
        assert run.completions[0] == Completion(Cause.LENGTH, 0)
    scene = Scene(rng, Operation.ALL_REDUCE, bytes=9000)
    run = scene.play(flits_of([*scene.coming[:1], *scene.coming[2:]]))
    assert run.completions[0] == Completion(Cause.LENGTH, 0)


def test_packets_of_others(rng: np.random.Generator) -> None:
    """Those of another source and of earlier rounds are thrown away, one of a later round waits."""
    scene = Scene(rng)
    header, payload = scene.coming[0]
    foreign = dataclasses.replace(header, source=RING.nodes[2])
    old = [dataclasses.replace(header, tag=Tag(0, r % 64, False).encode()) for r in (4, -20, -27)]
    run = scene.play(flits_of([(foreign, payload), *((h, payload) for h in old), *scene.coming,
                               (foreign, payload)]))
    assert run.completions[0] == Completion()
    assert run.flits[:-4] == flits_of(scene.golden.sent[NODE])
    run = scene.play([])
    assert run.completions[0] == Completion(Cause.TIMEOUT, 0)


@pytest.mark.parametrize(("response", "cause"), [(2, Cause.SLAVE_ERROR), (3, Cause.DECODE_ERROR)])
def test_bus_errors(response: int, cause: Cause, rng: np.random.Generator) -> None:
    """Where it reads its own chunk, writes another one, reads and writes a vector. A chunk that
    could not be read is never said to be complete."""
    for operation, at in ((Operation.ALL_GATHER, BUFFERS + NODE * 3072 + 1200),
                          (Operation.ALL_GATHER, BUFFERS + 800), (Operation.ALL_GATHER, TABLE),
                          (Operation.ALL_REDUCE, BUFFERS + 40),
                          (Operation.ALL_REDUCE, BUFFERS + 3072 + 40)):
        fields = {"bytes": 9000} if operation is Operation.ALL_REDUCE else {}
        scene = Scene(rng, operation, **fields)
        run = scene.play(flits_of(scene.coming), error=(at, 8, response))
        assert run.completions[0] == Completion(cause, NODE)
        if at >= BUFFERS + 3072 and at != TABLE:
            finals = [f for f in run.flits if f.first and Tag.decode(
                Header.decode(f.data).tag).final and Header.decode(f.data).tag >> 8 & 63 == 5]
            assert not finals


@pytest.mark.parametrize(("fields", "cause"), [
    ({"operation": Operation.BROADCAST, "root": 3}, Cause.ROOT),
    ({"operation": Operation.BROADCAST, "root": 1, "bytes": 65, "pitch": 64}, Cause.LENGTH),
    ({"operation": Operation.BROADCAST, "address": 1 << 32 - 1, "pitch": 1 << 31}, Cause.NONE),
    ({"operation": Operation.BROADCAST, "address": (1 << 32) - 8, "pitch": 16}, Cause.RANGE),
    ({"operation": Operation.ALL_GATHER, "address": 4}, Cause.MISALIGNED),
    ({"operation": Operation.ALL_GATHER, "table": 12}, Cause.MISALIGNED),
    ({"operation": Operation.ALL_GATHER, "pitch": 20}, Cause.MISALIGNED),
    ({"operation": Operation.ALL_GATHER, "bytes": 17, "pitch": 16}, Cause.LENGTH),
    ({"operation": Operation.ALL_GATHER, "pitch": 0xF0000000}, Cause.RANGE),
    ({"operation": Operation.ALL_GATHER, "table": (1 << 32) - 8}, Cause.RANGE),
    ({"operation": Operation.ALL_REDUCE, "bytes": 6, "pitch": 8}, Cause.MISALIGNED),
    ({"operation": Operation.ALL_REDUCE, "bytes": 28, "pitch": 8}, Cause.LENGTH),
    ({"operation": Operation.ALL_REDUCE, "bytes": 24, "address": (1 << 32) - 16, "pitch": 8},
     Cause.RANGE)])
def test_commands_that_are_refused(fields: dict, cause: Cause, rng: np.random.Generator) -> None:
    command = Command(**{"operation": Operation.BARRIER, "patience": 50} | fields)
    golden = Collectives(RING, memories(rng, 3))
    want = golden.check(command, NODE)
    assert want == Completion(cause, NODE if cause else 0)
    if cause:
        run = run_node(model(RING, NODE), golden.memories[NODE], [command], [])
        assert run.completions == [want] and not run.flits
        np.testing.assert_array_equal(run.memory, golden.memories[NODE])


def test_speed(rng: np.random.Generator) -> None:
    """A beat a cycle, two flits a packet, and little else."""
    size, latency = 2048, 16
    commands = [Command(Operation.ALL_GATHER, 0, BUFFERS, size, size, TABLE)] * 3
    run = check(RING, NODE, [commands], rng, latency=latency)
    flits = size // 8 + 2 * 2 + 2
    # What comes is there from the beginning: the chunk that is to be passed on is sent last.
    assert run.ended[0] - run.begun[0] < 2 * flits + 130 + 5 * latency + 60


@pytest.mark.parametrize(("topology", "node", "width", "largest"), [
    pytest.param(Ring(2), 0, 64, 64, marks=pytest.mark.nightly),
    pytest.param(Mesh(2, 2), 3, 128, 1024, marks=pytest.mark.nightly),
    pytest.param(Torus(2, 2), 2, 256, 96, marks=pytest.mark.nightly)])
def test_widths(topology: Topology, node: int, width: int, largest: int,
                rng: np.random.Generator) -> None:
    count = len(topology.nodes)
    for _ in range(3):
        check(topology, node, random_rounds(rng, count, 24, width // 8), rng, width=width,
              largest=largest, latency=int(rng.integers(2, 40)),
              stall_seed=int(rng.integers(1, 1 << 30)),
              stalls={name: float(rng.random() * 0.8) for name in ("flits_in", "flits_out")})
