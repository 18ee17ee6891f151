"""Proofs of the network's blocks: arbiters for ever, buffers and routers for whole packets."""

import itertools

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Signal, Value
from proof import check, inside, prove
from ulpcore.interconnect.arbiter import LeastRecent
from ulpcore.interconnect.buffer import Buffer
from ulpcore.interconnect.link import FlitLayout, HeaderLayout
from ulpcore.interconnect.router import Router
from ulpsim.interconnect.topology import Address, Ring


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_an_arbiter_starves_nobody(count):
    """Who asks is granted at once if alone; and nobody goes before him twice until he is served,
    however often he stops asking in between."""
    m = Module()
    arbiter = LeastRecent(count)
    m.submodules.arbiter, signals = inside(arbiter)
    before = {(i, j): signals[f"before_{i}_{j}"] for i in range(count) for j in range(i + 1, count)}
    before |= {(j, i): ~first for (i, j), first in before.items()}
    grants, requests = arbiter.grants, arbiter.requests
    m.d.comb += [Assert((grants & ~requests) == 0), Assert((grants & (grants - 1)[:count]) == 0),
                 Assert(grants.any() == requests.any())]
    # Who comes before whom is an order, in every cycle.
    for i, j, k in itertools.permutations(range(count), 3):
        m.d.comb += Assert(~(before[i, j] & before[j, k] & before[k, i]))
    for i, j in itertools.permutations(range(count), 2):
        passed = Signal(name=f"passed_{i}_{j}")
        served = arbiter.served
        with m.If(served & grants[i]):
            m.d.sync += passed.eq(0)
        with m.Elif(served & requests[i] & grants[j]):
            m.d.sync += passed.eq(1)
        m.d.comb += [Assert(~passed | before[i, j]), Assert(~(passed & requests[i] & grants[j]))]
    prove(m, [requests, arbiter.served])


def watch(m: Module, came: Value, came_flit: Value, gone: Value, gone_flit: Value,
          limit: int, name: str = "queue") -> Signal:
    """Follow one flit, any one, through a queue: after as many flits as were before it, exactly
    it comes out. Returns the input that says which."""
    chosen, seen, done = (Signal(name=f"{what}_{name}") for what in ("chosen", "seen", "done"))
    content = Signal(len(came_flit), name=f"content_{name}")
    level, ahead = (Signal(range(limit + 1), name=f"{what}_{name}") for what in ("level", "ahead"))
    m.d.sync += level.eq(level + came - gone)
    m.d.comb += [Assume(~chosen | (came & ~seen)), Assert(~gone | (level != 0))]
    with m.If(chosen):
        m.d.sync += [seen.eq(1), content.eq(came_flit), ahead.eq(level - gone)]
    with m.If(seen & ~done & gone):
        m.d.sync += [ahead.eq(ahead - 1), done.eq(ahead == 0)]
        with m.If(ahead == 0):
            m.d.comb += Assert(gone_flit == content)
    return chosen


def test_a_buffer_loses_nothing():
    """Any flits, any stalls, packets without a way among them: what goes is what came, in order,
    on the way of its packet."""
    m = Module()
    depth, ways = 4, 2
    m.submodules.buffer = buffer = Buffer(width=64, depth=depth, ways=ways)
    flit, take = Signal(FlitLayout(64)), Signal()
    # A sender as on a link: what it sends was promised room; packets are whole.
    promised, within = Signal(), Signal()
    way, new_way = Signal(ways), Signal(ways)
    m.d.sync += promised.eq(buffer.ready)
    m.d.comb += [
        buffer.flit.eq(flit), buffer.ways.eq(new_way), buffer.take.eq(take),
        Assume(~buffer.write | promised), Assume(~buffer.write | (flit.first == ~within)),
        Assume((new_way & (new_way - 1)[:ways]) == 0), Assume(~take | buffer.asks.any()),
        Assume((flit.data >> 8) == 0)]
    with m.If(buffer.write):
        m.d.sync += within.eq(~flit.last)
        with m.If(flit.first):
            m.d.sync += way.eq(new_way)
    taken = Signal()
    leaving_way = Signal(ways)
    m.d.sync += [taken.eq(take), leaving_way.eq(buffer.asks)]
    current = Signal(ways)
    m.d.comb += current.eq(buffer.ways)
    with m.If(~flit.first):
        m.d.comb += current.eq(way)
    # Flits without a way go away: they are not counted as coming.
    came = Signal()
    m.d.comb += came.eq(buffer.write & (current != 0))
    chosen = watch(m, came, Cat(flit.as_value(), current), taken,
                   Cat(buffer.taken.as_value(), leaving_way), depth + 1)
    check(m, [buffer.write, flit.as_value(), new_way, take, chosen], cycles=11)


@pytest.mark.nightly
def test_a_router_loses_nothing_and_leads_right():
    """Packets of a terminal and of a link, any stalls: every flit of the terminal leaves once, in
    order, by the output and the channel of its packet's destination."""
    topology, place = Ring(4, one_way=True), (1,)
    m = Module()
    m.submodules.router = router = Router(topology=topology, place=place, depth=4)
    terminal, sink = router.terminals_in[0], router.terminals_out[0]
    link, onward = router.x_up_in, router.x_up_out

    def packets(flit, comes, mark: int, name: str, sources: list[Address]) -> Signal:
        """Assume whole packets between terminals that exist, marked in the highest bit."""
        within = Signal(name=f"within_{name}")
        header = HeaderLayout(flit.data)
        exist = [address.encode() for address in topology.nodes]
        m.d.comb += [
            Assume(~comes | (flit.first == ~within)), Assume(~comes | (flit.data[63] == mark)),
            Assume(~(comes & flit.first) | (
                header.source.as_value().matches(*(a.encode() for a in sources))
                & header.destination.as_value().matches(*exist) & ~header.multicast)),
            Assume(flit.data[16:48] == flit.data[16:24])]
        with m.If(comes):
            m.d.sync += within.eq(~flit.last)
        return header.destination.x

    here = Address(*place)
    comes = Signal()
    m.d.comb += comes.eq(terminal.valid & terminal.ready)
    target = packets(terminal.payload, comes, 1, "terminal", [here])
    channel_of = Signal(2)
    for address in topology.nodes:
        hop, = topology.route(place, 0, 0, here, address, False)
        with m.If(target == address.x):
            m.d.comb += channel_of.eq(0 if hop.output == 0 else 1 << hop.channel)
    current = Signal(2)
    way = Signal(2)
    m.d.comb += way.eq(channel_of)
    with m.If(comes & terminal.payload.first):
        m.d.sync += current.eq(channel_of)
    with m.If(~terminal.payload.first):
        m.d.comb += way.eq(current)

    # The link's sender keeps to what it was promised, a channel at a time.
    for c in range(2):
        promised = Signal(name=f"promised_{c}")
        arrives = Signal(name=f"arrives_{c}")
        m.d.sync += promised.eq(link.ready[c])
        m.d.comb += [Assume(~link.valid[c] | promised), arrives.eq(link.valid[c])]
        packets(link.flit, arrives, 0, f"link_{c}", [a for a in topology.nodes if a != here])
    m.d.comb += [Assume(~link.valid.all()), Assert(~onward.valid.all())]

    sent, given = onward.valid.any() & onward.flit.data[63], sink.valid & sink.payload.data[63]
    chosen = watch(m, comes & (way != 0), Cat(terminal.payload.as_value(), way), sent,
                   Cat(onward.flit.as_value(), onward.valid), 8, "onward")
    own = watch(m, comes & (way == 0), terminal.payload.as_value(), given & sink.ready,
                sink.payload.as_value(), 8, "own")
    check(m, [terminal.valid, terminal.payload.as_value(), sink.ready, link.valid,
              link.flit.as_value(), onward.ready, chosen, own], cycles=9)
