"""What holds in a network of routers in RTL at any time, so that it never comes to a stand.

Each claim is about a buffer, an output or a link, and follows a cycle later from all of them: they
are proven by induction, with the claim that something moves among them. Why it does is left to the
solver: the packets that have come furthest along the order of channels can go on.
"""

import dataclasses
from typing import Any

from amaranth.hdl import (
    Array,
    Assert,
    Cat,
    ClockDomain,
    Const,
    Module,
    Mux,
    Signal,
    Value,
)
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from proof import inside
from ulpcore.interconnect import buffer
from ulpcore.interconnect.link import FlitLayout, HeaderLayout
from ulpcore.interconnect.network import Network
from ulpcore.interconnect.routing import Way, legal_ways
from ulpsim.interconnect.packets import Header
from ulpsim.interconnect.router import EJECTION, UNDER_WAY
from ulpsim.interconnect.topology import Address, Direction, Port, Topology

__all__ = ["Rows", "Stand", "stand"]

#: A router, and an input or output of it with its virtual channel.
Place = tuple[int, ...]
Key = tuple[Place, Port, int]
Pair = tuple[Address, Address]


class Rows(wiring.Component):
    """`amaranth.lib.memory.Memory`, as far as buffers use it, of registers that have names."""

    def __init__(self, *, shape: Any, depth: int, init: Any) -> None:
        assert not list(init)
        self.shape, self.depth = shape, depth
        size = data.Layout.cast(shape).size
        self.rows = [Signal(size, name=f"row_{i}") for i in range(depth)]
        self.writes: list[Any] = []
        self.reads: list[Any] = []
        super().__init__({})

    def write_port(self) -> Any:
        port = wiring.Signature({"en": Out(1), "addr": Out(range(self.depth)),
                                 "data": Out(self.shape)}).create(path=("write",))
        self.writes.append(port)
        return port

    def read_port(self, *, domain: str) -> Any:
        assert domain == "comb"
        port = wiring.Signature({"addr": Out(range(self.depth)),
                                 "data": In(self.shape)}).create(path=("read",))
        self.reads.append(port)
        return port

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for port in self.writes:
            for i, row in enumerate(self.rows):
                with m.If(port.en & (port.addr == i)):
                    m.d.sync += row.eq(Value.cast(port.data))
        for port in self.reads:
            m.d.comb += Value.cast(port.data).eq(Array(self.rows)[port.addr])
        return m


@dataclasses.dataclass(frozen=True)
class Stand:
    """A module with the claims, its inputs, and its signals by name."""

    module: Module
    inputs: list[Value]
    signals: dict[str, Signal]


@dataclasses.dataclass(frozen=True)
class _Buffer:
    """A buffer's state, and what the claims remember beside it.

    Attributes
    ----------
    ways
        What the bits of `asks` stand for.
    packets
        Source and destination of all packets that come here, and the way that each takes.
    within
        The last flit that came is not the last one of its packet.
    held
        The way of the flit that left last.
    taken
        A flit has left in the cycle before.
    """

    ways: list[Way]
    packets: dict[Pair, Way]
    signals: dict[str, Signal]
    within: Signal
    held: Signal
    taken: Signal

    def __getattr__(self, name: str) -> Signal:
        return self.signals[name]

    def bit(self, way: Way) -> int:
        return 1 << self.ways.index(way)


def stand(topology: Topology, *, depth: int = 4, alone: bool = False) -> Stand:
    """All claims about a network whose terminals send packets of any length to any terminal, and
    take or do not take what they are offered, as they like in any cycle.

    The claim that it does not come to a stand: when a buffer holds flits, terminals take what they
    are offered, and those that have begun a packet go on with it, then something moves. Payload is
    zero; nothing in the network depends on it. With `alone` this is the only claim.

    Buffers must have been given `Rows` as their memory.
    """
    return _Claims(topology, depth, alone).stand


class _Claims:
    def __init__(self, topology: Topology, depth: int, alone: bool) -> None:
        self.topology, self.depth, self.m = topology, depth, Module()
        m = self.m
        m.domains.sync = domain = ClockDomain(reset_less=True)
        network = Network(topology=topology, depth=depth)
        m.submodules.network, self.signals = inside(network)
        self.inputs: list[Value] = [domain.clk]
        self.moves: list[Value] = []
        self.willing: list[Value] = []
        self.packets: dict[Key, dict[Pair, Way]] = {}
        self._walk()
        within = self._terminals(network)
        self.buffers: dict[Key, _Buffer] = {}
        for place in topology.routers:
            for port in topology.inputs(place):
                for c in range(topology.channels_of(port)):
                    self.buffers[place, port, c] = self._buffer(place, port, c, within)
        for place in topology.routers:
            for output in topology.outputs(place):
                self.moves.append(self.of_router(place, f"valid_{output}").any())
                if not alone:
                    self._claim_output(place, output)
        if not alone:
            for each in self.buffers.values():
                self._claim_buffer(each)
        held = Cat(each.valid for each in self.buffers.values()).any()
        self.claim(~(held & Cat(self.willing).all()) | Cat(self.moves).any())
        self.stand = Stand(m, self.inputs, self.signals)

    def claim(self, value: Value) -> None:
        self.m.d.comb += Assert(value)

    def _walk(self) -> None:
        """Which packets come to which buffer, and how they leave it."""
        topology = self.topology
        for source in topology.nodes:
            for destination in topology.nodes:
                place: Place = topology.coordinates(source)
                port: Port = source.terminal
                channel = 0
                while True:
                    hop, = topology.route(place, port, channel, source, destination, False)
                    self.packets.setdefault((place, port, channel), {})[source, destination] = (
                        hop.output, hop.channel)
                    if not isinstance(hop.output, Direction):
                        break
                    beyond = topology.neighbour(place, hop.output)
                    assert beyond is not None
                    place, port, channel = beyond, hop.output, hop.channel

    def _terminals(self, network: Network) -> dict[Key, Signal]:
        m, nodes, found = self.m, self.topology.nodes, {}
        for i, source in enumerate(nodes):
            flits, out = network.terminals_in[i], network.terminals_out[i]
            offers, last, takes, within = (Signal(name=f"{name}_{i}") for name in (
                "offers", "last", "takes", "within"))
            to = Signal(range(len(nodes)), name=f"to_{i}")
            self.inputs += [offers, last, takes, to]
            m.d.comb += [
                flits.valid.eq(offers), flits.payload.first.eq(~within),
                flits.payload.last.eq(last), out.ready.eq(takes)]
            with m.If(~within):
                m.d.comb += flits.payload.data.eq(
                    Array(Header(node, source, 0).encode() for node in nodes)[
                        Mux(to < len(nodes), to, 0)])
            with m.If(offers & flits.ready):
                m.d.sync += within.eq(~last)
            self.moves += [offers & flits.ready, out.valid & takes]
            self.willing += [takes, offers | ~within]
            found[self.topology.coordinates(source), source.terminal, 0] = within
        for stream in network.dropped:
            m.d.comb += stream.ready.eq(1)
        return found

    def of_router(self, place: Place, name: str) -> Signal:
        return self.signals[f"router_{'_'.join(map(str, place))}.{name}"]

    def upstream(self, place: Place, port: Direction) -> Place:
        return next(p for p in self.topology.routers if self.topology.neighbour(p, port) == place)

    def _buffer(self, place: Place, port: Port, c: int, within: dict[Key, Signal]) -> _Buffer:
        m = self.m
        name = f"{port}_{c}_at_{'_'.join(map(str, place))}"
        prefix = f"router_{'_'.join(map(str, place))}.buffer_{port}_{c}."
        signals = {key.removeprefix(prefix): signal for key, signal in self.signals.items()
                   if key.startswith(prefix)}
        ways = legal_ways(self.topology, place, port)
        if isinstance(port, Direction):
            open_ = Signal(name=f"within_{name}")
            behind = self.upstream(place, port)
            with m.If(self.of_router(behind, f"valid_{port}")[c]):
                m.d.sync += open_.eq(~_flit(self.of_router(behind, f"flit_{port}")).last)
        else:
            open_ = within[place, port, c]
        held, taken = Signal(len(ways), name=f"held_{name}"), Signal(name=f"taken_{name}")
        m.d.sync += taken.eq(signals["advance"])
        with m.If(signals["advance"]):
            m.d.sync += held.eq(signals["asks"])
        self.moves.append(signals["advance"])
        return _Buffer(ways, self.packets.get((place, port, c), {}), signals, open_, held, taken)

    def _claim_buffer(self, b: _Buffer) -> None:
        depth, claim = self.depth, self.claim
        control = data.StructLayout({"ways": len(b.ways), "multicast": 1, "last": 1})
        rows = [_flit(b.signals[f"flits.row_{i}"]) for i in range(depth)]
        controls = [data.View(control, b.signals[f"controls.row_{i}"]) for i in range(depth)]
        legal = [b.bit(way) for way in dict.fromkeys(b.packets.values())]

        def among(value: Value) -> Value:
            return value.matches(*legal) if legal else Const(0, 1)

        def at(values: list[Any], address: Value, field: str) -> Value:
            return Array(Value.cast(getattr(v, field)) for v in values)[address]

        size = len(b.base)
        claim((b.stored <= depth) & (b.valid == (b.stored != 0)))
        claim(b.ready == (b.stored <= depth - buffer.UNDER_WAY))
        claim((b.base + b.stored)[:size] == b.write_at)
        claim(b.next_at == (b.base + b.valid)[:size])
        claim(~b.valid | (b.front_at == b.base))
        newest, before = Signal(size), Signal(size)
        self.m.d.comb += [newest.eq(b.write_at - 1), before.eq(b.base - 1)]
        for i, (row, store) in enumerate(zip(rows, controls, strict=True)):
            # Headers are those of packets that come here, and their ways are known.
            claim(~row.first | Cat(
                _is_header(row, pair) & (store.ways == b.bit(way))
                for pair, way in b.packets.items()).any())
            claim(~store.multicast & (store.last == row.last))
            offset = Signal(size, name=f"offset_{i}")
            self.m.d.comb += offset.eq(i - b.base)
            occupied = offset < b.stored
            claim(~occupied | among(store.ways))
            behind, its = rows[i - 1], controls[i - 1]
            claim(~occupied | (offset == 0) | (
                (row.first == behind.last) & (row.first | (store.ways == its.ways))))
        front = data.View(control, b.front)
        claim(~b.valid | (
            (b.front == Array(Value.cast(c) for c in controls)[b.front_at])
            & (b.asks == front.ways) & ~b.away))
        claim(b.valid | ~b.asks.any())
        claim(~b.valid | (b.holds == ~at(rows, b.base, "first")))
        claim(~(b.valid & b.holds) | (front.ways == b.held))
        claim(Mux(b.valid, b.within == ~at(rows, newest, "last"), b.holds == b.within))
        claim(~b.within | (b.current_ways == Mux(
            b.valid, at(controls, newest, "ways"), b.held)))
        claim(~b.current_multicast & ~b.rewound)
        claim(~b.holds | among(b.held))
        claim(~b.taken | (among(b.held) & (b.taken_at == before)
                          & (at(rows, before, "last") == ~b.holds)
                          & (at(controls, before, "ways") == b.held)))

    def _claim_output(self, place: Place, output: Port) -> None:
        claim = self.claim
        valid, busy, source = (self.of_router(place, f"{name}_{output}")
                               for name in ("valid", "busy", "source"))
        askers = [key for key, b in self.buffers.items()
                  if key[0] == place and (output, 0) in b.ways]
        buffers = [self.buffers[key] for key in askers]
        claim((valid & (valid - 1)[:len(valid)]) == 0)
        claim((source & (source - 1)[:len(source)]) == 0)
        claim(valid.any() == source.any())
        for i, b in enumerate(buffers):
            goes_here = Cat(b.held == b.bit((output, c)) for c in range(len(valid)))
            claim(source[i] == (b.taken & goes_here.any()))
            claim(~source[i] | (valid == goes_here))
        for c in range(len(valid)):
            holders = Cat(b.holds & (b.held == b.bit((output, c))) for b in buffers)
            claim(busy[c] == holders.any())
            claim((holders & (holders - 1)[:len(holders)]) == 0)
        before = {}
        for i in range(len(buffers)):
            for j in range(i + 1, len(buffers)):
                signal = self.of_router(place, f"arbiter_{output}.before_{i}_{j}")
                before[i, j], before[j, i] = signal, ~signal
        for i in range(len(buffers)):
            for j in range(len(buffers)):
                for k in range(len(buffers)):
                    if len({i, j, k}) == 3:
                        claim(~(before[i, j] & before[j, k] & before[k, i]))
        if not isinstance(output, Direction):
            level = self.of_router(place, f"ejection_{output}.level")
            ready = self.of_router(place, f"ejection_{output}.ready")
            claim(ready == (level <= EJECTION - UNDER_WAY))
            claim(level + valid <= EJECTION)
            return
        flit = _flit(self.of_router(place, f"flit_{output}"))
        beyond = self.topology.neighbour(place, output)
        assert beyond is not None
        for c in range(len(valid)):
            to = self.buffers[beyond, output, c]
            claim(~valid[c] | (to.stored != self.depth))
            claim(Mux(valid[c], (flit.first == ~to.within) & (flit.last == ~busy[c]),
                      to.within == busy[c]))


def _flit(signal: Signal) -> Any:
    return data.View(FlitLayout(64), signal)


def _is_header(row: Any, pair: Pair) -> Value:
    source, destination = pair
    header = data.View(HeaderLayout, row.data)
    return ((header.source.as_value() == source.encode()) & ~header.multicast
            & (header.destination.as_value() == destination.encode()))
