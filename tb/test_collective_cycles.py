"""The cycle model of collectives: RTL and model take and report every command in the same cycle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from collective_bench import MEMORY, network_model, random_rounds, run_network
from ulpcore.interconnect.cluster_rtl import NodeStep, run_cluster
from ulpsim.compression import engine as compression
from ulpsim.interconnect.collective import Command, Completion, Operation
from ulpsim.interconnect.collective_cycles import CollectiveCycles, CollectiveTimes
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus

#: What `test_cluster` builds, too.
LINE = Mesh(2)


def by_node(rounds: Sequence[Sequence[Command]]) -> list[list[Command]]:
    return [list(own) for own in zip(*rounds, strict=True)]


def test_cluster_in_rtl(rng: np.random.Generator) -> None:
    """Nodes of whole clusters, each of which first does something else for some time: commands that
    are there at different times."""
    commands = by_node(random_rounds(rng, 2, 24))
    latency = int(rng.integers(2, 40))
    # Nothing is said of how long these take: the cycles in which the others begin are told.
    others = [NodeStep(compression.Command(compression.Operation.DECODE, elements, 0x100, 0, 64))
              for elements in (0, 500)]
    steps = [[other, *map(NodeStep, own)] for other, own in zip(others, commands, strict=True)]
    run = run_cluster([np.zeros(MEMORY, np.uint8)] * 2, steps, topology=LINE, lanes=1,
                      latency=latency)
    begun, ended = ([own[1:] for own in times] for times in (run.begun, run.ended))
    assert all(report == Completion() for own in run.completions for report in own[1:])
    assert begun[0][0] != begun[1][0]
    times = CollectiveCycles(LINE, latency=latency).run(commands, begun)
    assert times.begun == begun
    assert times.ended == ended


@pytest.mark.parametrize(("topology", "options"), [
    pytest.param(Ring(3), {}, marks=pytest.mark.nightly),
    pytest.param(Ring(4, one_way=True), {}, marks=pytest.mark.nightly),
    pytest.param(Mesh(2, 2), {"shared": True}, marks=pytest.mark.nightly),
    pytest.param(Ring(3), {"width": 256, "largest": 64}, marks=pytest.mark.nightly),
    pytest.param(Torus(3, 2), {"width": 128, "largest": 96, "depth": 4},
                 marks=pytest.mark.nightly),
    pytest.param(Mesh(5), {"largest": 2048}, marks=pytest.mark.nightly),
    pytest.param(Ring(8), {}, marks=pytest.mark.nightly),
    pytest.param(Torus(4, 4), {}, marks=pytest.mark.nightly)], ids=str)
def test_networks_in_rtl(topology: Topology, options: dict[str, Any], rng: np.random.Generator
                         ) -> None:
    """All operations one after another, with pauses between them and without."""
    count, bus = len(topology.nodes), options.get("width", 64) // 8
    for stalls in (0.0, 0.95):
        latency = int(rng.integers(2, 40))
        commands = by_node(random_rounds(rng, count, 24, bus))
        begun, ended = run_network(network_model(topology, **options), commands, latency=latency,
                                   stalls=stalls, seed=int(rng.integers(1, 1 << 20)))
        times = CollectiveCycles(topology, latency=latency, **options).run(commands, begun)
        assert times.begun == begun
        assert times.ended == ended


def run_alone(topology: Topology, command: Command, **options: Any) -> CollectiveTimes:
    return CollectiveCycles(topology, **options).run([[command]] * len(topology.nodes))


def test_what_a_barrier_takes() -> None:
    """It has nothing to do with memory, and longer ways take longer."""
    assert run_alone(Mesh(2), Command(Operation.BARRIER)).cycles == run_alone(
        Mesh(2), Command(Operation.BARRIER), latency=40).cycles
    assert run_alone(Ring(5, one_way=True), Command(Operation.BARRIER)).cycles > run_alone(
        Ring(4, one_way=True), Command(Operation.BARRIER)).cycles


def test_flit_hops() -> None:
    """Those that the definition says: every packet over every link of its way."""
    size = 100
    command = Command(Operation.ALL_GATHER, 0, 0, size, 104, 0x1000)
    packets = 3 * (2 + 13 + 2)
    assert run_alone(Ring(4, one_way=True), command).flit_hops == 4 * packets


@pytest.mark.parametrize(("change", "message"), [
    ({"latency": 1}, "latency must be at least 2 cycles, not 1"),
    ({"width": 32}, "width must be one of 64, 128, 256, not 32"),
    ({"largest": 12}, "largest must be a multiple of 8 bytes, not 12")])
def test_clusters_that_cannot_be(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollectiveCycles(LINE, **change)


@pytest.mark.parametrize(("commands", "message"), [
    ([[Command(Operation.BARRIER)]], "as many for each of the 2 nodes, not 1"),
    ([[Command(Operation.BARRIER)], []], "as many for each of the 2 nodes, not 1, 0"),
    ([[Command(Operation.BARRIER)], [Command(Operation.BARRIER, 1)]], "one operation, round and"),
    ([[Command(Operation.ALL_GATHER, address=4)]] * 2, "node 0 must be right, it has MISALIGNED"),
    ([[Command(Operation.BROADCAST, bytes=16, pitch=16)],
      [Command(Operation.BROADCAST, bytes=16, pitch=8)]], "must fit the 8 bytes"),
    ([[Command(Operation.BARRIER, patience=5)]] * 2, "patience of node 0 must be longer than 5")])
def test_commands_that_would_fail(commands: list[list[Command]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollectiveCycles(LINE).run(commands)
