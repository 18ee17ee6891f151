"""The golden model of collective operations against what they are, and the bytes on the links."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from ulpsim import float32
from ulpsim.interconnect.collective import (
    Collectives,
    Command,
    Operation,
    Tag,
    links_between,
)
from ulpsim.interconnect.topology import Direction, Mesh, Ring, Topology, Torus

TOPOLOGIES: Sequence[Topology] = (Ring(2), Ring(4, one_way=True), Ring(5), Mesh(3, 2),
                                  Torus(2, 2, terminals=2))


def memories(rng: np.random.Generator, count: int, size: int = 1 << 14) -> list[np.ndarray]:
    return list(rng.integers(0, 256, (count, size), dtype=np.uint8))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_gather(topology: Topology, rng: np.random.Generator) -> None:
    count = len(topology.nodes)
    lengths = [int(n) for n in rng.integers(0, 1500, count)]
    lengths[0] = 0
    nodes = Collectives(topology, memories(rng, count), largest=256)
    own = [nodes.memories[i][64 * i + i * 1536:][:length].copy()
           for i, length in enumerate(lengths)]
    nodes.run([Command(Operation.ALL_GATHER, 3, 64 * i, length, 1536, 0x3F00)
               for i, length in enumerate(lengths)])
    for i, memory in enumerate(nodes.memories):
        for j, chunk in enumerate(own):
            np.testing.assert_array_equal(memory[64 * i + 1536 * j:][:len(chunk)], chunk)
        assert memory[0x3F00:][:4 * count].view("<u4").tolist() == lengths
    for i, packets in enumerate(nodes.sent):
        # Every chunk but that of the node to which the link leads.
        right = (i + 1) % count
        assert sum(h.bytes for h, _ in packets) == sum(lengths) - lengths[right]
        assert sum(Tag.decode(h.tag).final for h, _ in packets) == count - 1
        assert {Tag.decode(h.tag).round for h, _ in packets} == {3}


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize("elements", [0, 1, 7, 64, 65, 999])
def test_reduce(topology: Topology, elements: int, rng: np.random.Generator) -> None:
    """Element by element, with the scalar adder, in the stated order."""
    count = len(topology.nodes)
    values = rng.standard_normal((count, 2048)).astype("<f4")
    values[:, ::9] *= np.float32(1e30)
    nodes = Collectives(topology, [row.view(np.uint8).copy() for row in values])
    pitch = 8 * -(-elements // (2 * count))
    nodes.run([Command(Operation.ALL_REDUCE, address=16, bytes=4 * elements, pitch=pitch)] * count)
    bits = values.view(np.uint32)[:, 4:].tolist()
    for at in range(elements):
        first = at // (pitch // 4)
        total = bits[first][at]
        for j in range(first + 1, first + count):
            total = float32.add(total, bits[j % count][at])
        assert {int(m.view("<u4")[4 + at]) for m in nodes.memories} == {total}
    for memory, row in zip(nodes.memories, values, strict=True):
        rest = np.r_[0:4, 4 + elements:2048]
        np.testing.assert_array_equal(memory.view("<u4")[rest], row.view("<u4")[rest])


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_broadcast_and_barrier(topology: Topology, rng: np.random.Generator) -> None:
    count = len(topology.nodes)
    nodes = Collectives(topology, memories(rng, count))
    root = count - 1
    region = nodes.memories[root][800:800 + 777].copy()
    nodes.run([Command(Operation.BROADCAST, address=800 if i == root else 8 * i, bytes=777,
                       pitch=784, root=root) for i in range(count)])
    for i, memory in enumerate(nodes.memories):
        np.testing.assert_array_equal(memory[800 if i == root else 8 * i:][:777], region)
    assert [len(packets) for packets in nodes.sent] == [2] * (count - 2) + [0, 2]
    before = [m.copy() for m in nodes.memories]
    nodes.run([Command(Operation.BARRIER)] * count)
    np.testing.assert_array_equal(nodes.memories, before)
    assert [len(p) for p in nodes.sent] == [count + 1] * (count - 2) + [count - 1, count + 1]


def test_links() -> None:
    ring = Ring(4, one_way=True)
    up = Direction(0, 1)
    assert links_between(ring, ring.nodes[3], ring.nodes[0]) == [((3,), up)]
    assert links_between(ring, ring.nodes[1], ring.nodes[0]) == [((1,), up), ((2,), up), ((3,), up)]
    mesh = Mesh(3, 2)
    assert links_between(mesh, mesh.nodes[2], mesh.nodes[3]) == [
        ((2, 0), Direction(0, -1)), ((1, 0), Direction(0, -1)), ((0, 0), Direction(1, 1))]
    nodes = Collectives(ring, [np.zeros(1 << 14, np.uint8)] * 4)
    nodes.run([Command(Operation.ALL_GATHER, bytes=1028, pitch=2048, table=1 << 13)] * 4)
    # Each of three chunks: 1024 bytes, 4 bytes, none, and two flits each besides.
    assert nodes.link_bytes == {((i,), up): 3 * (1024 + 8 + 3 * 16) for i in range(4)}


@pytest.mark.parametrize("command", [Command(Operation.BARRIER, round=1),
                                     Command(Operation.ALL_GATHER)])
def test_commands_that_do_not_belong_together(command: Command) -> None:
    nodes = Collectives(Ring(2), [np.zeros(64, np.uint8)] * 2)
    with pytest.raises(ValueError, match="must have one operation, round and root"):
        nodes.run([Command(Operation.BARRIER), command])


def test_mistakes() -> None:
    ring, memory = Ring(2), np.zeros(64, np.uint8)
    good = Command(Operation.ALL_GATHER, bytes=8, pitch=8, table=32)
    for message, action in {
            "nodes must be from 2 to 256, not 257": lambda: Collectives(
                Mesh(64, 64, terminals=4), []),
            "memories must be as many as the 2 nodes, not 1": lambda: Collectives(ring, [memory]),
            "width must be one of 64, 128, 256, not 32": lambda: Collectives(
                ring, [memory] * 2, width=32),
            "largest must be a multiple of 8 bytes, not 12": lambda: Collectives(
                ring, [memory] * 2, largest=12),
            "commands must be as many as the 2 nodes, not 1": lambda: Collectives(
                ring, [memory] * 2).run([good]),
            "command of node 1 must be right, it has MISALIGNED": lambda: Collectives(
                ring, [memory] * 2).run([good, dataclasses.replace(good, address=4)]),
            "chunk of node 0 must fit the 8 bytes that node 1 has for it, not 16": lambda:
                Collectives(ring, [memory] * 2).run([
                    Command(Operation.ALL_GATHER, bytes=16, pitch=16, table=32), good]),
            "memory of node 0 must reach to 72, it has 64 bytes": lambda: Collectives(
                ring, [memory] * 2).run([dataclasses.replace(good, table=64)] * 2)}.items():
        with pytest.raises(ValueError, match=message.replace("257", "16384")):
            action()
