"""The explorer's simulator beside the cycle model of collectives, which equals the RTL."""

import numpy as np
import pytest
from ulpsim.explorer import events, rounds
from ulpsim.explorer.calibration import (
    Engines,
    collective_cycles,
    commands,
    engine_schedule,
    network_graph,
)
from ulpsim.explorer.collectives import all_gather
from ulpsim.interconnect.collective import Operation, links_between
from ulpsim.interconnect.collective_cycles import CollectiveCycles
from ulpsim.interconnect.packets import packet_flits
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus

#: How far the explorer may be off, and the bytes of a chunk from which on it is held to that.
NEAR, LONG = 0.02, 4096
ALL_GATHER, ALL_REDUCE, BROADCAST = (Operation.ALL_GATHER, Operation.ALL_REDUCE,
                                     Operation.BROADCAST)


def model_cycles(topology: Topology, operation: Operation, size: int | list[int],
                 engines: Engines) -> int:
    return CollectiveCycles(
        topology, width=engines.width, largest=engines.largest, latency=engines.latency).run(
            [[own] for own in commands(topology, operation, size, engines)]).cycles


def check(topology: Topology, operation: Operation, size: int | list[int],
          engines: Engines) -> None:
    expected = model_cycles(topology, operation, size, engines)
    found = collective_cycles(topology, operation, size, engines)
    assert abs(found / expected - 1) <= NEAR, (found, expected)


@pytest.mark.parametrize("topology", [
    Ring(2), Ring(4, one_way=True), Mesh(2, 2), Mesh(5),
    *(pytest.param(topology, marks=pytest.mark.nightly) for topology in (
        Ring(8, one_way=True), Ring(8), Torus(4, 2), Mesh(4, 2), Torus(3, 3), Ring(16),
        Mesh(4, 4), Torus(4, 4)))], ids=str)
def test_within_two_per_cent(topology: Topology, rng: np.random.Generator) -> None:
    count = len(topology.nodes)
    engines = Engines(latency=int(rng.integers(4, 50)))
    size = LONG + 8 * int(rng.integers(0, LONG // 8))
    check(topology, ALL_GATHER, size, engines)
    check(topology, ALL_GATHER, rng.integers(LONG, 2 * LONG, count).tolist(), engines)
    check(topology, ALL_REDUCE, count * LONG, engines)
    check(topology, BROADCAST, size, engines)


@pytest.mark.parametrize("engines", [
    Engines(width=256, largest=2048), *(pytest.param(own, marks=pytest.mark.nightly) for own in (
        Engines(width=128), Engines(largest=256), Engines(largest=4096, latency=60)))], ids=str)
def test_other_engines(engines: Engines) -> None:
    """Of wider links and shorter packets; messages are as long in packets, or flits."""
    topology, size = Ring(4, one_way=True), 8 * max(1024, engines.largest)
    check(topology, ALL_GATHER, size, engines)
    check(topology, ALL_REDUCE, 4 * size, engines)
    check(topology, BROADCAST, size, engines)


def test_whole_messages(rng: np.random.Generator) -> None:
    """The explorer's own schedule, which passes on a chunk when all of it has come, on the same
    links: near where a packet's latency is little beside a chunk."""
    topology, engines, size = Ring(4, one_way=True), Engines(), 1 << 15
    flits = size // engines.largest * engines.packet + 2
    graph = network_graph(topology, engines)
    found = events.simulate(graph, all_gather("ring", graph, [flits * engines.flit] * 4)).seconds
    assert found == pytest.approx(model_cycles(topology, ALL_GATHER, size, engines), rel=NEAR)


@pytest.mark.parametrize("topology", [Ring(5), Ring(4, one_way=True), Mesh(3, 2), Torus(4, 3)],
                         ids=str)
def test_graph_is_the_topology(topology: Topology) -> None:
    """A message goes the way of a packet: links of the graph are those of `links_between`."""
    graph, nodes = network_graph(topology, Engines()), topology.nodes
    places = topology.routers
    for i, source in enumerate(nodes):
        for j, target in enumerate(nodes):
            route = [link for link in graph.route(np.array([i]), np.array([j]))[0] if link >= 0]
            assert graph.source[route[0]] == i and graph.target[route[-1]] == j
            assert list(graph.target[route[:-1]]) == list(graph.source[route[1:]])
            passed = [(places[graph.source[link] - len(nodes)],
                       places[graph.target[link] - len(nodes)]) for link in route[1:-1]]
            assert passed == [(place, topology.neighbour(place, way))
                              for place, way in links_between(topology, source, target)]


def test_schedule_sends_what_the_engines_send(rng: np.random.Generator) -> None:
    """Every packet of every chunk but to the node that it is from; sums as often again."""
    topology, engines = Ring(4, one_way=True), Engines()
    graph, sizes = network_graph(topology, engines), [0, 1, 2500, 4096]
    schedule = engine_schedule(4, ALL_GATHER, sizes, engines)
    found = events.simulate(graph, schedule)
    assert found.messages == schedule.count == 3 * (1 + 2 + 4 + 5)
    flits = sum(packet_flits(piece, 64) for size in sizes
                for piece in (*(min(1024, size - at) for at in range(0, size, 1024)), 0))
    reads = 3 * (engines.latency + 17)
    assert found.sent.sum() == 3 * 8 * (flits + reads)
    assert np.array_equal(rounds.simulate(graph, schedule).ready, found.ready)
    assert engine_schedule(4, ALL_REDUCE, sizes, engines).count == 2 * schedule.count
    assert engine_schedule(4, BROADCAST, sizes, engines, root=2).count == 3 * 4


@pytest.mark.parametrize(("arguments", "message"), [
    ((Ring(4), Operation.BARRIER, 0), "operation must be one that moves bytes, not BARRIER"),
    ((Ring(4), ALL_REDUCE, [8] * 4), "ALL_REDUCE takes one size"),
    ((Ring(4), ALL_GATHER, [8] * 3), "sizes must be as many as the 4 nodes, not 3"),
    ((Mesh(2, terminals=2), ALL_GATHER, 8), "terminals of a router must be 1, not 2")])
def test_what_has_no_cycles_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        collective_cycles(*arguments)
