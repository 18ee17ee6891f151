"""Ways of packets: they arrive by the shortest one, keep it, and cannot wait in a circle."""

import graphlib
import itertools

import numpy as np
import pytest
from ulpsim.interconnect.packets import Flit, Header
from ulpsim.interconnect.router import Network
from ulpsim.interconnect.topology import Address, Direction, Mesh, Port, Ring, Topology, Torus

#: A virtual channel of a link: the router that it leaves, its direction, its number.
Link = tuple[tuple[int, ...], Direction, int]

LINES = [
    *(Ring(size, one_way=one_way, terminals=terminals, channels=channels)
      for size in range(2, 10) for one_way in (False, True) for terminals in (1, 2)
      for channels in (2, 4)),
    *(Mesh(size, channels=channels) for size in range(2, 10) for channels in (1, 2, 4))]


def way(topology: Topology, source: Address, destination: Address) -> list[Link]:
    """The channels that a packet takes, in order."""
    links: list[Link] = []
    router, port, channel = topology.coordinates(source), source.terminal, 0
    arrived: Port = port
    while True:
        hop, = topology.route(router, arrived, channel, source, destination, False)
        if not isinstance(hop.output, Direction):
            assert (router, hop.output) == (topology.coordinates(destination),
                                            destination.terminal)
            assert hop.channel == 0
            return links
        assert 0 <= hop.channel < topology.channels
        links.append((router, hop.output, hop.channel))
        assert len(links) <= sum(topology.sizes), "goes on for ever"
        neighbour = topology.neighbour(router, hop.output)
        assert neighbour is not None
        assert hop.output in topology.outputs(router)
        assert hop.output in topology.inputs(neighbour)
        router, arrived, channel = neighbour, hop.output, hop.channel


def distance(topology: Topology, source: Address, destination: Address) -> int:
    total = 0
    for size, a, b in zip(topology.sizes, topology.coordinates(source),
                          topology.coordinates(destination), strict=True):
        up, down = (b - a) % size, (a - b) % size
        total += up if topology.one_way else min(up, down) if topology.wrap else abs(a - b)
    return total


def copies(topology: Topology, source: Address) -> tuple[list[Address], set[tuple[Link, Link]]]:
    """Where the copies of a multicast packet arrive, and from which channel to which they go."""
    arrived, steps = [], set()
    ahead: list[tuple[tuple[int, ...], Port, int, Link | None]] = [
        (topology.coordinates(source), source.terminal, 0, None)]
    while ahead:
        router, port, channel, behind = ahead.pop()
        for hop in topology.route(router, port, channel, source, Address(0), True):
            if not isinstance(hop.output, Direction):
                arrived.append(Address(*(*router, 0)[:2], hop.output))
                continue
            link = router, hop.output, hop.channel
            neighbour = topology.neighbour(router, hop.output)
            assert neighbour is not None
            if behind:
                steps.add((behind, link))
            ahead.append((neighbour, hop.output, hop.channel, link))
        assert len(arrived) <= len(topology.nodes), "goes on for ever"
    return arrived, steps


def check_ways(topology: Topology) -> None:
    """All of them are shortest, a multicast packet comes to all others once, and channels that are
    waited for by those that hold others go in no circle."""
    waits: dict[Link, set[Link]] = {}
    for source in topology.nodes:
        for destination in topology.nodes:
            links = way(topology, source, destination)
            assert len(links) == distance(topology, source, destination)
            for behind, ahead in itertools.pairwise(links):
                waits.setdefault(behind, set()).add(ahead)
        arrived, steps = copies(topology, source)
        assert sorted([*arrived, source]) == sorted(topology.nodes)
        for behind, ahead in steps:
            waits.setdefault(behind, set()).add(ahead)
    graphlib.TopologicalSorter(waits).prepare()     # raises CycleError


def test_ways_in_one_dimension() -> None:
    for topology in LINES:
        check_ways(topology)


@pytest.mark.parametrize("columns", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", [Mesh, Torus])
def test_ways_in_two_dimensions(columns: int, kind: type[Mesh] | type[Torus]) -> None:
    for rows, channels in itertools.product(range(2, 7), (2, 4)):
        check_ways(kind(columns, rows, channels=channels))


@pytest.mark.nightly
@pytest.mark.parametrize("columns", range(2, 10))
@pytest.mark.parametrize("kind", [Mesh, Torus])
def test_ways_in_two_dimensions_of_up_to_nine(columns: int, kind: type[Mesh] | type[Torus]
                                              ) -> None:
    for rows, channels in itertools.product(range(2, 10), (2, 4)):
        if max(columns, rows) > 6:
            check_ways(kind(columns, rows, channels=channels))


def test_a_circle_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With packets that stay in the channel in which they are, wherever the dateline is."""
    monkeypatch.setattr(Topology, "channel", lambda *_: 0)
    for topology in (Ring(4, one_way=True), Ring(5), Torus(3, 5)):
        with pytest.raises(graphlib.CycleError):
            check_ways(topology)
    check_ways(Mesh(5, 4))


@pytest.mark.parametrize("topology", [
    Ring(5, one_way=True, terminals=2), Ring(6, channels=4), Mesh(3, 4, channels=2),
    Torus(4, 3, channels=4)], ids=str)
def test_packets_of_a_flow_take_one_way(topology: Topology, rng: np.random.Generator) -> None:
    """What the network does with them under stalls is what `Topology.route` says of them alone."""
    network, nodes = Network(topology, 4), topology.nodes
    queues: list[list[Flit]] = [[] for _ in nodes]
    headers = []
    for tag in range(150):
        source, destination = (nodes[i] for i in rng.integers(0, len(nodes), 2))
        headers.append(Header(destination, source, 0, False, tag))
        length = int(rng.integers(1, 6))
        queues[nodes.index(source)] += [
            Flit(headers[-1].encode(), i == 0, i == length - 1) for i in range(length)]
    ways: dict[int, list[Link]] = {tag: [] for tag in range(150)}
    for _ in range(1200):
        accepted, _ = network.step([q[0] if q else None for q in queues],
                                   (rng.random(len(nodes)) < 0.7).tolist())
        for queue, taken in zip(queues, accepted, strict=True):
            del queue[:taken]
        for place, router in network.routers.items():
            for port, link in router.links.items():
                if link and link[0].first and isinstance(port, Direction):
                    ways[Header.decode(link[0].data).tag].append((place, port, link[1]))
    assert not any(queues)
    for header in headers:
        assert ways[header.tag] == way(topology, header.source, header.destination)


def test_both_directions_carry_as_much_between_opposite_routers() -> None:
    ring = Ring(6)
    ups = [ring.toward((place,), ((place + 3) % 6,)) == Direction(0, 1) for place in range(6)]
    assert ups == [True, False] * 3


def test_addresses() -> None:
    for address in (Address(63, 0, 3), Address(5, 62, 1), Address(0)):
        assert Address.decode(address.encode()) == address
    torus = Torus(4, 3, terminals=2)
    assert [torus.exists(a) for a in (Address(3, 2, 1), Address(4, 0), Address(0, 3),
                                      Address(0, 0, 2), Address.decode(1 << 14))] == [
        True, False, False, False, False]
    assert not Ring(4).exists(Address(1, 1))


@pytest.mark.parametrize("kind", [
    lambda channels: Ring(4, channels=channels),
    lambda channels: Ring(3, one_way=True, channels=channels),
    lambda channels: Torus(2, 4, channels=channels)], ids=["ring", "one-way ring", "torus"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_with_which_packets_could_wait_for_ever_are_refused(kind, channels: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 2 on rings of . routers, not {channels}: "
                                         "with one class of channels packets around a ring could "
                                         "wait for each other for ever"):
        kind(channels)


def test_one_channel_is_enough_where_no_packet_waits_around_a_ring() -> None:
    for topology in (Ring(3, channels=1), Ring(2, one_way=True, channels=1),
                     Torus(3, 2, channels=1), Mesh(5, 4)):
        check_ways(topology)


@pytest.mark.parametrize(("arguments", "message"), [
    (((2, 2, 2), True), "sizes must be of one or two dimensions, not (2, 2, 2)"),
    (((1,), True), "routers in a dimension must be from 2 to 64, not 1"),
    (((4, 65), False), "routers in a dimension must be from 2 to 64, not 65"),
    (((4,), True, False, 5), "terminals of a router must be from 1 to 4, not 5"),
    (((4,), True, False, 1, 0), "channels must be from 1 to 8, not 0"),
    (((4,), False, True), "one_way must go with wrap: what lies behind could not be reached")])
def test_what_cannot_be_built_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Topology(*arguments)
    assert str(error.value) == message
