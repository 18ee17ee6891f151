"""Random packets through networks in RTL: each arrives once, in order, unchanged."""

from itertools import pairwise

import numpy as np
import pytest
from ulpcore.interconnect import buffer
from ulpcore.interconnect.network_rtl import NetworkBench, deliver
from ulpcore.streams import StreamModel
from ulpsim.interconnect.delivery import FIRST, Delivery, Flits, check, random_traffic
from ulpsim.interconnect.packets import TAGS, Flit, NetworkCause, receive
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus


def random_stalls(topology: Topology, rng: np.random.Generator) -> list[float]:
    """Of each end of each terminal its own: from none to three cycles in four."""
    return (0.75 * rng.random(2 * len(topology.nodes))).tolist()


def send(topology: Topology, packets: int, seed: int, rng: np.random.Generator) -> None:
    traffic = random_traffic(topology, packets, rng)
    stalls = random_stalls(topology, rng)
    delivery, cycles = deliver(traffic, stalls=stalls, seed=seed)
    print(delivery, f"in {cycles} cycles, stalls {np.round(stalls, 2).tolist()}")
    assert delivery.perfect
    copies = int(traffic.multicast.sum()) * (len(topology.nodes) - 2)
    assert delivery.sent == packets + copies


@pytest.mark.parametrize("topology", [
    Ring(4), pytest.param(Torus(2, 2), marks=pytest.mark.nightly)], ids=str)
def test_packets_arrive(topology, seed, rng):
    send(topology, 20_000, seed, rng)


@pytest.mark.nightly
@pytest.mark.parametrize("topology", [Ring(8), Torus(4, 4)], ids=str)
def test_a_million_packets_arrive(topology, seed, rng):
    send(topology, 1_000_000, seed, rng)


def test_a_network_that_loses_flits_is_found_out(monkeypatch, seed, rng):
    """Buffers that promise room for one flit more than they have."""
    monkeypatch.setattr(buffer, "UNDER_WAY", 1)
    topology = Ring(4)
    traffic = random_traffic(topology, 2000, rng, depth=4)
    delivery, _ = deliver(traffic, stalls=[0.0] * 4 + [0.8] * 4, seed=seed,
                          model=StreamModel(NetworkBench(topology, 4)))
    assert delivery.lost and delivery.damaged and not delivery.perfect


def perfect_flits(traffic) -> list[Flits]:
    """What arrives where, one source after the other."""
    parts: list[list[int]] = [[] for _ in traffic.topology.nodes]
    for packet, (source, destination, to_all) in enumerate(zip(
            traffic.source, traffic.destination, traffic.multicast, strict=True)):
        for terminal in range(len(parts)):
            if terminal != source if to_all else terminal == destination:
                parts[terminal].append(packet)
    return [of_packets(traffic, packets) for packets in parts]


def of_packets(traffic, packets) -> Flits:
    flits = np.concatenate([np.arange(traffic.begin[p], traffic.begin[p + 1]) for p in packets])
    return Flits(traffic.flits.data[flits].copy(), traffic.flits.marks[flits].copy())


def packets_of(flits: Flits) -> list[Flits]:
    begin = np.flatnonzero(flits.marks & FIRST)
    return [Flits(data, marks) for data, marks in zip(
        np.split(flits.data, begin[1:]), np.split(flits.marks, begin[1:]), strict=True)]


def joined(packets: list[Flits]) -> Flits:
    return Flits(np.concatenate([p.data for p in packets]),
                 np.concatenate([p.marks for p in packets]))


def test_each_fault_has_its_count(rng):
    """Of packets that have come right, one is spoilt in each way."""
    topology = Mesh(2, 2)
    traffic = random_traffic(topology, 400, rng, multicast=0.1)
    right = perfect_flits(traffic)
    sent = sum(len(packets_of(flits)) for flits in right)
    assert check(traffic, right) == Delivery(sent, 0, 0, 0, 0, 0)
    at = int(rng.integers(4))
    packets = packets_of(right[at])
    one = int(rng.integers(len(packets)))

    def with_packets(changed: list[Flits], extra: dict[int, list[Flits]] | None = None) -> Delivery:
        came = list(right)
        came[at] = joined(changed)
        for terminal, more in (extra or {}).items():
            came[terminal] = joined([*packets_of(came[terminal]), *more])
        return check(traffic, came)

    without = packets[:one] + packets[one + 1:]
    assert with_packets(without) == Delivery(sent, 1, 0, 0, 0, 0)
    assert with_packets([*packets[:one], packets[one], *packets[one:]]) == Delivery(
        sent, 0, 1, 0, 0, 0)
    single = next(p for p in packets if not int(p.data[0]) >> 48 & 1)
    rest = [p for p in packets if p is not single]
    assert with_packets(rest, {(at + 1) % 4: [single]}) == Delivery(sent, 1, 0, 1, 0, 0)
    for flit in (0, len(packets[one].data) - 1):
        data = packets[one].data.copy()
        data[flit] ^= np.uint64(1 << int(rng.integers(64)))
        assert with_packets([*packets[:one], Flits(data, packets[one].marks),
                             *packets[one + 1:]]) == Delivery(sent, 1, 0, 0, 1, 0)
    short = Flits(np.delete(packets[one].data, 1), np.delete(packets[one].marks, 1))
    assert with_packets([*packets[:one], short, *packets[one + 1:]]) == Delivery(
        sent, 1, 0, 0, 1, 0)
    # Sources come one after another: neighbours of one flow change places.
    flow = [int(p.data[0]) & 0x1FFFFFFFFFFFF & ~(0xFFFF << 32) for p in packets]
    first = next(i for i, (a, b) in enumerate(pairwise(flow)) if a == b)
    swapped = list(packets)
    swapped[first:first + 2] = packets[first + 1], packets[first]
    assert with_packets(swapped) == Delivery(sent, 0, 0, 0, 0, 1)


def test_packets_are_those_of_the_definition(rng):
    """`packets.receive` makes of each what it is to be."""
    traffic = random_traffic(Torus(3, 2), 300, rng, payload=20)
    for number in range(300):
        begin, end = traffic.begin[number:number + 2]
        flits = [Flit(int(d), bool(m & 1), bool(m & 2)) for d, m in zip(
            traffic.flits.data[begin:end], traffic.flits.marks[begin:end], strict=True)]
        assert [f.first for f in flits] == [True] + [False] * (len(flits) - 1)
        assert [f.last for f in flits] == [False] * (len(flits) - 1) + [True]
        cause, header, payload = receive(flits)
        assert cause is NetworkCause.NONE and len(payload) == header.bytes <= 20
        assert header.source == traffic.topology.nodes[traffic.source[number]]
        if not header.multicast:
            assert header.destination == traffic.topology.nodes[traffic.destination[number]]


def test_flows_must_be_short_enough_to_tell_their_packets_apart(rng):
    with pytest.raises(ValueError, match=f"packets of a flow must be at most {TAGS}, not"):
        random_traffic(Ring(2), 5 * TAGS, rng)
