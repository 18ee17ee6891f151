"""A guard between a network and a node that does everything wrong."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator
from ulpcore.interconnect.guard import Guard
from ulpcore.interconnect.network import Network
from ulpsim.interconnect.packets import Flit, Header, NetworkCause, packetise, receive
from ulpsim.interconnect.topology import Address, Ring

PATIENCE = 20
TOPOLOGY = Ring(3)
NODES = TOPOLOGY.nodes


class Node:
    """One side of a terminal: flits to give, flits taken, and whether it does either."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.queue: list[Flit] = []
        self.flits: list[Flit] = []
        self.takes = self.gives = True
        self.faults: list[tuple[NetworkCause, int]] = []

    def packets(self) -> list[tuple[NetworkCause, Header, bytes]]:
        """What a receiver makes of the flits, as it throws away what has no beginning."""
        found, packet = [], []
        for flit in self.flits:
            if flit.first:
                packet = []
            packet.append(flit)
            if flit.last:
                if packet[0].first:
                    found.append(receive(packet))
                packet = []
        return found


def run(script, *, cycles: int) -> list[Node]:
    """A ring with a guard at each terminal. `script(cycle, nodes, set)` is called in each cycle;
    `set` sets a signal of the design."""
    m = Module()
    m.submodules.network = network = Network(topology=TOPOLOGY, depth=4)
    nodes = []
    for i, address in enumerate(NODES):
        m.submodules[f"guard_{i}"] = guard = Guard(address=address, patience=PATIENCE)
        wiring.connect(m, guard.to_network, network.terminals_in[i])
        wiring.connect(m, network.terminals_out[i], guard.from_network)
        m.d.comb += guard.faults.ready.eq(1)
        nodes.append(Node(guard))

    async def bench(ctx):
        for cycle in range(cycles):
            script(cycle, nodes, ctx.set)
            for node in nodes:
                port = node.guard.from_node
                offers = bool(node.queue) and node.gives
                ctx.set(port.valid, offers)
                if offers:
                    flit = node.queue[0]
                    ctx.set(port.payload, {"data": flit.data, "first": flit.first,
                                           "last": flit.last})
                ctx.set(node.guard.to_node.ready, node.takes)
            await ctx.delay(1e-7)
            for node in nodes:
                guard = node.guard
                if ctx.get(guard.from_node.valid) and ctx.get(guard.from_node.ready):
                    node.queue.pop(0)
                if ctx.get(guard.to_node.valid) and node.takes:
                    payload = ctx.get(guard.to_node.payload)
                    node.flits.append(Flit(payload.data, bool(payload.first), bool(payload.last)))
                if ctx.get(guard.faults.valid):
                    fault = ctx.get(guard.faults.payload)
                    node.faults.append((NetworkCause(fault.cause), fault.node.x))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return nodes


def traffic(rng: random.Random, pairs: list[tuple[int, int]], count: int, size: int = 24):
    """For each source the flits, and for each pair the tags in their order."""
    queues: dict[int, list[Flit]] = {0: [], 1: [], 2: []}
    tags: dict[tuple[int, int], list[int]] = {pair: [] for pair in pairs}
    for tag in range(count):
        source, target = rng.choice(pairs)
        queues[source] += packetise(Header(NODES[target], NODES[source], size, tag=tag),
                                    rng.randbytes(size))
        tags[source, target].append(tag)
    return queues, tags


def came(node: Node, source: int) -> list[int]:
    return [header.tag for cause, header, _ in node.packets()
            if cause == NetworkCause.NONE and header.source == NODES[source]]


def test_a_node_that_stalls_for_ever_holds_up_nobody_else(seed):
    rng = random.Random(seed)
    queues, tags = traffic(rng, [(0, 1), (0, 2), (2, 0), (2, 1)], 60)

    def script(cycle, nodes, set_):
        if cycle == 0:
            for i, queue in queues.items():
                nodes[i].queue += queue
        nodes[1].takes = cycle < 50 or cycle >= 700
        set_(nodes[1].guard.reconnect, cycle == 700)
        if cycle == 700:                         # connected again, it gets what comes then
            nodes[0].queue += packetise(Header(NODES[1], NODES[0], 8, tag=999), bytes(8))

    nodes = run(script, cycles=800)
    assert came(nodes[2], 0) == tags[0, 2] and came(nodes[0], 2) == tags[2, 0]
    assert nodes[1].faults == [(NetworkCause.STALLED, 1)]
    assert not nodes[0].faults and not nodes[2].faults
    assert all(cause == NetworkCause.NONE for cause, *_ in nodes[1].packets())
    assert came(nodes[1], 0)[-1] == 999
    assert len(came(nodes[1], 0)) < len(tags[0, 1]) + 1


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_packet_that_is_not_ended_is_reported_with_its_source(length, seed):
    rng = random.Random(seed)
    begun = packetise(Header(NODES[2], NODES[0], 24, tag=7), rng.randbytes(24))
    queues, tags = traffic(rng, [(1, 2), (1, 0)], 40)

    def script(cycle, nodes, set_):
        if cycle == 0:
            nodes[0].queue += begun[:length]
            nodes[1].queue += queues[1]
        if cycle == 300:                         # too late: the rest is thrown away, not the next
            nodes[0].queue += begun[length:]
            nodes[0].queue += packetise(Header(NODES[2], NODES[0], 8, tag=8), bytes(8))

    nodes = run(script, cycles=500)
    assert nodes[0].faults == [(NetworkCause.SILENT, 0)]
    assert came(nodes[2], 1) == tags[1, 2] and came(nodes[0], 1) == tags[1, 0]
    wrong = [(cause, header.source) for cause, header, _ in nodes[2].packets() if cause]
    assert wrong == [(NetworkCause.LENGTH, NODES[0])]
    assert came(nodes[2], 0) == [8]


def test_a_node_in_reset_holds_up_nobody(seed):
    """Whenever it comes, in the middle of packets both ways; afterwards all is as before."""
    for begin in range(20, 60, 3):
        rng = random.Random(seed + begin)
        queues, tags = traffic(rng, [(0, 1), (1, 0), (1, 2), (2, 0), (2, 1)], 60)

        def script(cycle, nodes, set_, queues=queues, begin=begin):
            if cycle == 0:
                for i, queue in queues.items():
                    nodes[i].queue += queue
            held = begin <= cycle < begin + 100
            set_(nodes[1].guard.node_reset, held)
            nodes[1].takes = nodes[1].gives = not held
            if cycle == begin:
                nodes[1].queue.clear()
            if cycle == begin + 150:
                nodes[1].queue += packetise(Header(NODES[0], NODES[1], 8, tag=998), bytes(8))
                nodes[0].queue += packetise(Header(NODES[1], NODES[0], 8, tag=999), bytes(8))

        nodes = run(script, cycles=600)
        assert nodes[1].faults == [(NetworkCause.RESET, 1)]
        assert came(nodes[0], 2) == tags[2, 0]
        assert came(nodes[0], 1)[-1] == 998 and came(nodes[1], 0)[-1] == 999
        wrong = [(cause, header.source) for node in nodes for cause, header, _ in node.packets()
                 if cause]
        assert wrong in ([], [(NetworkCause.LENGTH, NODES[1])])


def test_patience_must_be_long_enough():
    with pytest.raises(ValueError, match="patience must be at least 2 cycles, not 1"):
        Guard(address=Address(0), patience=1)
