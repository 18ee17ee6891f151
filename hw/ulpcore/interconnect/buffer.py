"""The buffer of one virtual channel."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.router import UNDER_WAY

from .link import FlitLayout

__all__ = ["Buffer"]


class Buffer(wiring.Component):
    """Holds the flits of a virtual channel, and the ways of their packets.

    A flit is in front in the cycle after it came, at the earliest. Flits of a packet without a way
    go away, one a cycle. A multicast packet is offered when all of it is here, to one of its ways
    after another, lowest first, with a cycle before each; it leaves with the last copy.

    What decides about the flit in front stands in registers, so that only their inputs depend on
    `take`; its data are read in the cycle after.

    Parameters
    ----------
    width
        Bits of a flit.
    depth
        Flits: a power of two from 4 on.
    ways
        How many ways a packet may take.

    Members
    -------
    write : In(1), flit : In(FlitLayout), ways : In(ways), multicast : In(1)
        A flit comes; ways and `multicast` of the first one are those of the packet.
    ready : Out(1)
        There is room for UNDER_WAY more flits.
    asks : Out(ways)
        The way that the flit in front is to take; none if there is no such flit.
    holds : Out(1)
        The packet has taken the channel already.
    last : Out(1)
        Of the flit in front.
    take : In(1)
        It goes.
    taken : Out(FlitLayout)
        In the cycle after `take`, the flit.
    dropped : Out(1)
        The first flit of a packet without a way comes.
    """

    write: Signal
    flit: Any
    ways: Signal
    multicast: Signal
    ready: Signal
    asks: Signal
    holds: Signal
    last: Signal
    take: Signal
    taken: Any
    dropped: Signal

    def __init__(self, *, width: int, depth: int, ways: int) -> None:
        if not isinstance(depth, int) or depth < 4 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 4 on, not {depth!r}")
        self.depth, self.layout = depth, FlitLayout(width)
        super().__init__({
            "write": In(1), "flit": In(self.layout), "ways": In(ways), "multicast": In(1),
            "ready": Out(1, init=1), "asks": Out(ways), "holds": Out(1), "last": Out(1),
            "take": In(1), "taken": Out(self.layout), "dropped": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth, count = self.depth, len(self.ways)
        control = data.StructLayout({"ways": count, "multicast": 1, "last": 1})
        m.submodules.flits = flits = Memory(shape=self.layout, depth=depth, init=[])
        m.submodules.controls = controls = Memory(shape=control, depth=depth, init=[])

        # What comes. The ways of a packet's first flit go with the others too.
        write_at = Signal(range(depth))
        ways = Signal(count, name="current_ways", reset_less=True)
        multicast = Signal(name="current_multicast", reset_less=True)
        coming = Signal(control)
        m.d.comb += [
            coming.ways.eq(Mux(self.flit.first, self.ways, ways)),
            coming.multicast.eq(Mux(self.flit.first, self.multicast, multicast)),
            coming.last.eq(self.flit.last),
            self.dropped.eq(self.write & self.flit.first & (self.ways == 0))]
        for memory, value in ((flits, self.flit), (controls, coming)):
            port = memory.write_port()
            m.d.comb += [port.en.eq(self.write), port.addr.eq(write_at),
                         Value.cast(port.data).eq(Value.cast(value))]
        m.d.sync += write_at.eq(_stepped(write_at, self.write))
        with m.If(self.write):
            m.d.sync += [ways.eq(coming.ways), multicast.eq(coming.multicast)]

        # What is in front, at `front_at`; what follows it at `next_at`, if there is `more`. Its
        # packet begins at `base` as long as copies of it remain.
        base, front_at, next_at, taken_at = (Signal(range(depth), name=name) for name in (
            "base", "front_at", "next_at", "taken_at"))
        stored = Signal(range(depth + 1))
        valid = Signal()
        front = Signal(control, reset_less=True)
        away, final = (Signal(name=name, reset_less=True) for name in ("away", "final"))
        rewound, ended = (Signal(name=name) for name in ("rewound", "ended"))
        following = Signal(control)
        more, there, advance, keeps, leaves, rewind, load = (Signal(name=name) for name in (
            "more", "there", "advance", "keeps", "leaves", "rewind", "load"))
        ahead, taken = controls.read_port(domain="comb"), flits.read_port(domain="comb")
        m.d.comb += [
            ahead.addr.eq(next_at), taken.addr.eq(taken_at), self.taken.eq(taken.data),
            # Behind a flit in front there are fewer than `depth`; from the start there may be
            # as many.
            more.eq((next_at != write_at) | rewound), there.eq(more | self.write),
            following.eq(Mux(more, ahead.data, coming)),
            keeps.eq(front.multicast & ~away & ~final),
            advance.eq(self.take | (valid & away)),
            leaves.eq(advance & ~keeps), rewind.eq(advance & keeps & front.last),
            load.eq((~valid | advance) & ~rewind & there), self.last.eq(front.last)]
        m.d.sync += [taken_at.eq(front_at), rewound.eq(rewind)]
        # `leaves` comes late in the cycle: what it decides is known for both cases.
        most = depth - UNDER_WAY
        m.d.sync += [
            stored.eq(Mux(leaves, Mux(self.write, stored, stored - 1),
                          Mux(self.write, stored + 1, stored))),
            self.ready.eq(Mux(leaves, stored + self.write <= most + 1,
                              stored + self.write <= most)),
            base.eq(_stepped(base, leaves)),
            next_at.eq(Mux(rewind, base, _stepped(next_at, load)))]
        with m.If(load):
            m.d.sync += front_at.eq(next_at)
        with m.If(~valid | advance):
            m.d.sync += valid.eq(there & ~rewind)
        with m.If(load):
            m.d.sync += [front.eq(following), away.eq(following.ways == 0)]
        with m.If(self.take):
            m.d.sync += self.holds.eq(~front.last)

        # The way: of a multicast packet's copy the same for all its flits.
        with m.If(load & ~following.multicast):
            m.d.sync += self.asks.eq(following.ways)
        with m.Elif(advance & (front.last | ~front.multicast)):
            m.d.sync += self.asks.eq(0)
        done, known, remaining, lowest = (Signal(count, name=name) for name in (
            "done", "known", "remaining", "lowest"))
        choose = Signal()
        # Last flits that have come, and that have left.
        came, left = (Signal(range(2 * depth), name=name) for name in ("came", "left"))
        m.d.comb += [known.eq(Mux(ended, 0, done)), remaining.eq(front.ways & ~known),
                     choose.eq((valid | rewound) & front.multicast & ~away & (self.asks == 0)
                               & (came != left)),
                     lowest.eq(Cat(remaining[i] & ~remaining[:i].any() for i in range(count)))]
        with m.If(choose):
            m.d.sync += [self.asks.eq(lowest), done.eq(known | lowest),
                         final.eq(remaining == lowest)]
        m.d.sync += [came.eq(_stepped(came, self.write & self.flit.last)),
                     left.eq(_stepped(left, leaves & front.last))]
        m.d.sync += ended.eq(leaves & front.last)
        with m.If(ended & ~choose):
            m.d.sync += done.eq(0)
        return m


def _stepped(pointer: Signal, step: Value) -> Value:
    """`pointer` + `step`, in lookup tables: a carry chain is slower for so few bits."""
    return Cat(pointer[i] ^ (step & pointer[:i].all()) for i in range(len(pointer)))
