"""Routers and networks in RTL against their reference, cycle by cycle."""

import collections
import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from network_bench import QUIET, random_traffic, rows_of, run_reference, run_rtl
from ulpcore.interconnect.buffer import Buffer
from ulpcore.interconnect.link import HeaderLayout
from ulpcore.interconnect.routing import legal_ways, ways
from ulpsim.interconnect.packets import Header, NetworkCause, packetise, receive
from ulpsim.interconnect.router import Network
from ulpsim.interconnect.topology import Address, Direction, Mesh, Ring, Topology, Torus

NETWORKS = [
    (Ring(4, one_way=True), 16), (Mesh(2, 2), 8),
    pytest.param(Ring(3), 4, marks=pytest.mark.nightly),
    pytest.param(Torus(3, 3), 16, marks=pytest.mark.nightly),
    pytest.param(Torus(4, 2, terminals=2, channels=4), 8, marks=pytest.mark.nightly),
    pytest.param(Mesh(3, 2, channels=2), 4, marks=pytest.mark.nightly),
    pytest.param(Ring(8), 16, marks=pytest.mark.nightly)]


@pytest.mark.parametrize(("topology", "depth"), NETWORKS, ids=str)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_rtl_is_the_reference_in_every_cycle(topology, depth, stall, seed):
    queues = random_traffic(topology, depth, 600, random.Random(seed), wrong=0.05)
    expected = run_reference(topology, depth, queues, stall, seed)
    run = run_rtl(topology, depth, queues, stall, seed)
    for i in range(len(queues)):
        assert run.times[f"in_{i}"].tolist() == expected.taken[i]
        assert run.times[f"out_{i}"].tolist() == expected.given[i]
        assert (run.outputs[f"out_{i}"] == rows_of(expected.flits[i])).all()
        assert len(expected.taken[i]) == len(queues[i])
    for i, (place, router) in enumerate(expected.network.routers.items()):
        # Of several at once one is kept.
        reported = [Address.decode(int(row[0])) for row in run.outputs[f"dropped_{i}"]]
        assert len(reported) <= len(router.dropped)
        assert bool(reported) == bool(router.dropped)
        assert all((a.x, a.y)[:len(place)] == place for a in reported)


@pytest.mark.parametrize("topology", [
    Ring(5), Ring(4, one_way=True, terminals=2), Mesh(4), Mesh(3, 4), Torus(4, 3, channels=4),
    Torus(2, 2), Torus(5, 4, terminals=3)], ids=str)
def test_everything_arrives_once_and_flows_stay_in_order(topology, seed):
    rng = random.Random(seed)
    depth = rng.choice([4, 8, 16])
    queues = random_traffic(topology, depth, 400, rng, payload=20)
    run = run_reference(topology, depth, queues, 0.3, seed)
    sent, came = collections.defaultdict(list), collections.defaultdict(list)
    for node, queue in zip(topology.nodes, queues, strict=True):
        for flit in queue:
            if flit.first:
                header = Header.decode(flit.data)
                for to in ([n for n in topology.nodes if n != node] if header.multicast
                           else [header.destination]):
                    sent[node, to, header.multicast].append(header.tag)
    for node, flits in zip(topology.nodes, run.flits, strict=True):
        packet = []
        for flit in flits:
            assert flit.first == (not packet)
            packet.append(flit)
            if flit.last:
                cause, header, _ = receive(packet)
                assert cause == NetworkCause.NONE
                came[header.source, node, header.multicast].append(header.tag)
                packet = []
        assert not packet
    assert came == sent


@pytest.mark.parametrize("topology", [
    Ring(8), Ring(6, one_way=True), Mesh(4, 3),
    pytest.param(Torus(5, 4), marks=pytest.mark.nightly),
    pytest.param(Torus(3, 3, terminals=2), marks=pytest.mark.nightly)], ids=str)
def test_a_flit_takes_two_cycles_a_hop(topology):
    """And three more: into its first buffer, onto the last link, and into the terminal's queue."""
    nodes = topology.nodes
    for source in nodes:
        for destination in nodes:
            network = Network(topology)
            queue = packetise(Header(destination, source, 8), bytes(8))
            cycles = []
            for cycle in range(100):
                offered = [queue[0] if queue and node == source else None for node in nodes]
                taken, given = network.step(offered, [True] * len(nodes))
                if any(taken):
                    queue.pop(0)
                if given[nodes.index(destination)] is not None:
                    cycles.append(cycle)
            hops = network.flit_hops // 3
            assert cycles == [2 * hops + 3, 2 * hops + 4, 2 * hops + 5]


@pytest.mark.parametrize("topology", [
    Ring(4, one_way=True), Ring(6, channels=4), Mesh(3, 2, terminals=2), Torus(4, 3)], ids=str)
def test_ways_are_those_of_the_topology(topology: Topology, seed):
    """At every input of every router, for headers that can come there and for wrong ones."""
    rng = random.Random(seed)
    m = Module()
    header = Signal(HeaderLayout)
    found = {}
    for router in topology.routers:
        for port in topology.inputs(router):
            for channel in range(topology.channels_of(port)):
                legal = legal_ways(topology, router, port)
                out = Signal(len(legal))
                logic = ways(topology, router, port, channel, header)
                m.d.comb += [out[i].eq(logic[way]) for i, way in enumerate(legal)]
                found[router, port, channel] = legal, out

    async def bench(ctx):
        for _ in range(400):
            source, destination = rng.choice(topology.nodes), rng.choice(topology.nodes)
            multicast = rng.random() < 0.4
            if rng.random() < 0.2:
                destination = Address(rng.randrange(64), rng.randrange(64), rng.randrange(16))
            ctx.set(header.as_value(), Header(destination, source, 0, multicast).encode())
            # Only where the packet comes is a router to be right.
            places = {(topology.coordinates(source), source.terminal, 0)}
            while places:
                router, port, channel = places.pop()
                legal, out = found[router, port, channel]
                hops = topology.route(router, port, channel, source, destination, multicast)
                value = ctx.get(out)
                assert {way for i, way in enumerate(legal) if value >> i & 1} == {
                    (hop.output, hop.channel) for hop in hops}
                for hop in hops:
                    if isinstance(hop.output, Direction):
                        neighbour = topology.neighbour(router, hop.output)
                        assert neighbour is not None
                        places.add((neighbour, hop.output, hop.channel))
            for router in topology.routers:      # those who say that they are another
                for terminal in range(topology.terminals):
                    if topology.address(router, terminal) != source:
                        assert ctx.get(found[router, terminal, 0][1]) == 0

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()


def test_a_buffer_says_what_it_needs():
    with pytest.raises(ValueError, match="depth must be a power of two from 4 on, not 6"):
        Buffer(width=64, depth=6, ways=3)
    with pytest.raises(ValueError, match="width must be one of 64, 128, 256, not 32"):
        Buffer(width=32, depth=8, ways=3)


def test_nothing_is_left_after_the_last_packet(seed):
    topology = Torus(3, 3)
    queues = random_traffic(topology, 8, 200, random.Random(seed))
    run = run_reference(topology, 8, queues, 0.5, seed)
    assert QUIET > 100
    for router in run.network.routers.values():
        assert not any(buffer.entries for buffer in router.buffers.values())
        assert not any(router.busy.values()) and not any(router.ejection)
