"""The fast model of a network equals the scalar one in every cycle; what traffic makes of it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulpsim.interconnect.flit_model import NONE, FlitModel, flit
from ulpsim.interconnect.packets import Flit, Header
from ulpsim.interconnect.router import Network, largest_multicast
from ulpsim.interconnect.topology import Address, Mesh, Ring, Topology, Torus
from ulpsim.interconnect.traffic import (
    PATTERNS,
    Phases,
    Schedule,
    bisection_bound,
    destinations,
    full_load,
    measure,
    zero_load_latency,
)

NOWHERE = Address(63, 63, 3)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Small ones of every kind, those with one class of channels among them."""
    x, y = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    kind = draw(st.sampled_from(["ring", "one-way ring", "line", "mesh", "torus"]))
    far = max(x, y) > 3 if kind == "torus" else x > (2 if kind == "one-way ring" else 3)
    one_class = kind in ("line", "mesh") or not far
    settings = {"terminals": draw(st.integers(1, 3)),
                "channels": draw(st.sampled_from([1, 2, 4] if one_class else [2, 4]))}
    match kind:
        case "ring" | "one-way ring":
            return Ring(x, one_way=kind == "one-way ring", **settings)
        case "torus":
            return Torus(x, y, **settings)
        case _:
            return Mesh(x, y if kind == "mesh" else 1, **settings)


def compare(topology: Topology, depth: int, seed: int, *, networks: int = 1, cycles: int = 120,
            longest: int = 20, chance: float = 0.1, stalls: float = 0.3,
            multicast: float = 0.1, lost: float = 0.03) -> None:
    """Run both models on random packets; several networks are one fast model."""
    rng = np.random.default_rng(seed)
    nodes, count = topology.nodes, len(topology.nodes)
    times, sources = np.nonzero(rng.random((cycles, count * networks)) < chance)
    to_all = rng.random(len(times)) < multicast
    lengths = rng.integers(1, longest + 1, len(times))
    lengths[to_all] = np.minimum(lengths[to_all], largest_multicast(depth))
    goals = [NOWHERE if rng.random() < lost else nodes[g]
             for g in rng.integers(0, count, len(times))]
    claimed = np.where(rng.random(len(times)) < lost, rng.integers(0, count, len(times)),
                       sources % count)
    headers = [Header(Address(0) if m else g, nodes[s], 0, bool(m), n)
               for n, (g, s, m) in enumerate(zip(goals, claimed, to_all, strict=True))]
    model = FlitModel(topology, depth, networks)
    scalar = [Network(topology, depth) for _ in range(networks)]
    model.add_packets([h.source.encode() for h in headers],
                      [h.destination.encode() for h in headers], lengths, to_all)
    schedule = Schedule(count * networks, sources, times, lengths)

    def as_flit(number: int) -> Flit | None:
        if number == NONE:
            return None
        return Flit(headers[number >> 2].encode(), bool(number & 2), bool(number & 1))

    for cycle in range(cycles):
        offered, takes = schedule.offer(cycle), rng.random(count * networks) >= stalls
        accepted, leaving = model.step(offered, takes)
        schedule.taken(accepted)
        for number, network in enumerate(scalar):
            part = slice(number * count, (number + 1) * count)
            expected = network.step([as_flit(f) for f in offered[part].tolist()],
                                    takes[part].tolist())
            assert expected == (accepted[part].tolist(),
                                [as_flit(f) for f in leaving[part].tolist()]), cycle
    assert model.flit_hops == sum(network.flit_hops for network in scalar)
    assert sorted(model.dropped) == sorted(
        header.tag for n in scalar for r in n.routers.values() for header in r.dropped)


@settings(max_examples=40, deadline=None)
@given(topologies(), st.sampled_from([4, 5, 8, 16]), st.integers(0, 1 << 31))
def test_every_cycle_is_that_of_the_scalar_network(topology: Topology, depth: int, seed: int
                                                   ) -> None:
    compare(topology, depth, seed)


@pytest.mark.parametrize("topology", [
    Ring(8), Torus(4, 4, channels=4), Torus(5, 3, terminals=2), Mesh(4, 5, terminals=3)],
    ids=str)
@pytest.mark.parametrize("stalls", [0, 0.7])
def test_full_networks_are_alike(topology: Topology, stalls: float, seed: int) -> None:
    compare(topology, 8, seed, cycles=250, longest=6, chance=0.5, stalls=stalls, multicast=0,
            lost=0)


def test_networks_side_by_side_have_nothing_to_do_with_each_other(seed: int) -> None:
    compare(Torus(2, 4, terminals=2), 8, seed, networks=3)


def test_multicast_alone_is_alike(seed: int) -> None:
    for topology in (Ring(5, one_way=True), Torus(4, 3), Mesh(3, 2, terminals=3)):
        compare(topology, 16, seed, multicast=1, longest=15, chance=0.02)


def drain(model: FlitModel, schedule: Schedule, count: int, cycles: int
          ) -> list[tuple[int, int, int]]:
    """Of each flit that comes out: cycle, terminal, flit."""
    out = []
    for cycle in range(cycles):
        accepted, leaving = model.step(schedule.offer(cycle), np.ones(count, bool))
        schedule.taken(accepted)
        out += [(cycle, int(n), int(leaving[n])) for n in np.flatnonzero(leaving != NONE)]
    return out


@pytest.mark.parametrize("topology", [Ring(6), Mesh(4, 4, channels=2), Torus(4, 4, terminals=2)],
                         ids=str)
def test_every_flit_comes_out_once_and_flows_stay_in_order(
        topology: Topology, rng: np.random.Generator) -> None:
    count = len(topology.nodes)
    addresses = np.array([node.encode() for node in topology.nodes])
    times, sources = np.nonzero(rng.random((300, count)) < 0.3)
    goals = destinations(topology, "uniform", sources, rng)
    lengths = rng.integers(1, 9, len(times))
    model = FlitModel(topology)
    model.add_packets(addresses[sources], addresses[goals], lengths)
    out = drain(model, Schedule(count, sources, times, lengths), count, 4000)
    assert len(out) == lengths.sum()
    latest: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    for _, terminal, number in out:
        packet = number >> 2
        assert terminal == goals[packet]
        seen[packet] = seen.get(packet, 0) + 1
        assert number == flit(packet, seen[packet] == 1, seen[packet] == lengths[packet])
        flow = int(sources[packet]), terminal
        assert latest.get(flow, -1) <= packet
        latest[flow] = packet


@pytest.mark.parametrize("topology", [Ring(7, one_way=True), Mesh(5, 2), Torus(4, 4)], ids=str)
@pytest.mark.parametrize("length", [1, 5])
def test_latency_of_a_lone_packet(topology: Topology, length: int) -> None:
    nodes = topology.nodes
    for goal in nodes[1:]:
        hops, place = 0, topology.coordinates(nodes[0])
        while direction := topology.toward(place, topology.coordinates(goal)):
            place = topology.neighbour(place, direction)
            assert place is not None
            hops += 1
        model = FlitModel(topology)
        model.add_packets(nodes[0].encode(), goal.encode(), length)
        schedule = Schedule(len(nodes), np.array([0]), np.array([3]), np.array([length]))
        out = drain(model, schedule, len(nodes), 80)
        assert out[-1][0] - 3 == zero_load_latency(hops, length)
        assert model.flit_hops == hops * length


def test_patterns() -> None:
    torus, mesh, rng = Torus(4, 4, terminals=2), Mesh(3, 3), np.random.default_rng(1)
    all_of = np.arange(32)

    def goal(pattern: str, topology: Topology, x: int, y: int, terminal: int = 0):
        number = topology.nodes.index(Address(x, y, terminal))
        to = int(destinations(topology, pattern, np.array([number]), rng)[0])
        return None if to == NONE else topology.nodes[to]

    assert goal("transpose", torus, 1, 3, 1) == Address(3, 1, 1)
    assert goal("transpose", torus, 2, 2) is None
    assert goal("neighbour", torus, 3, 1) == Address(0, 1)
    assert goal("neighbour", torus, 0, 1, 1) == Address(3, 1, 1)
    assert goal("neighbour", mesh, 2, 1) is None
    assert goal("tornado", torus, 3, 0) == Address(0, 1)
    assert goal("complement", mesh, 0, 1) == Address(2, 1)
    assert goal("complement", mesh, 1, 1) is None
    many = np.repeat(all_of, 2000)
    to = destinations(torus, "uniform", many, rng)
    assert (to != many).all()
    # 2064 packets each are expected, with a deviation of 45.
    assert abs(np.bincount(to, minlength=32) - 2000).max() < 250
    to = destinations(torus, "hotspot", many, rng)
    hot = torus.nodes.index(Address(2, 2))
    assert np.bincount(to).argmax() == hot
    assert (to[many == hot] != hot).all()
    for pattern in PATTERNS:
        for topology in (torus, mesh):
            to = destinations(topology, pattern, np.arange(len(topology.nodes)), rng)
            assert ((to >= NONE) & (to < len(topology.nodes))).all()


def test_bisection_bound_by_counting_pairs() -> None:
    for topology in (Torus(4, 4), Torus(4, 4, terminals=4), Mesh(5, 3), Ring(7, terminals=2)):
        nodes = topology.nodes
        d = topology.sizes.index(max(topology.sizes))
        half = [topology.coordinates(n)[d] < topology.sizes[d] // 2 for n in nodes]
        crossing = sum(a != b for a in half for b in half) / (len(nodes) * (len(nodes) - 1))
        bound = topology.bisection / (crossing * len(nodes))
        assert math.isclose(bisection_bound(topology), bound)
    assert bisection_bound(Torus(4, 4)) == 1.875


def test_measurement_takes_the_load_until_the_network_is_full(seed: int) -> None:
    few, more, full = measure(Torus(4, 4), "uniform", [0.1, 0.5, full_load(4)], 4,
                              phases=Phases(300, 1500, 600), seed=seed).points
    # 8/15 x 4 hops on average: 2 cycles for each router, three more flits, and some waiting.
    assert few.latency is not None and more.latency is not None
    assert 10.2 < few.latency < 12 < more.latency < 25
    assert few.accepted == pytest.approx(0.1, abs=0.02)
    assert more.accepted == pytest.approx(0.5, abs=0.04)
    assert full.latency is None and 0.6 < full.accepted < 1


def test_neighbours_use_all_of_their_links(seed: int) -> None:
    for length in (1, 4):
        for topology in (Torus(4, 4, terminals=4), Ring(8, one_way=True)):
            point, = measure(topology, "neighbour", [full_load(length)], length,
                             phases=Phases(100, 500, 0), seed=seed).points
            assert point.accepted == 1


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="networks must be at least 1, not 0"):
        FlitModel(Ring(4), networks=0)
    with pytest.raises(ValueError, match=r"pattern must be one of uniform.*, not 'random'"):
        destinations(Ring(4), "random", np.arange(4), np.random.default_rng(1))
    with pytest.raises(ValueError, match="as many rows as columns"):
        measure(Torus(4, 2), "transpose", [0.1])
    with pytest.raises(ValueError, match=r"above 0 and at most a packet a cycle.*4 flits, not 5"):
        measure(Ring(4), "uniform", [5])
    with pytest.raises(ValueError, match="length must be at least 1 flit, not 0"):
        measure(Ring(4), "uniform", [0.1], 0)
