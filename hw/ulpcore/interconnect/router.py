"""The router; twin of `ulpsim.interconnect.router`."""

import functools
import operator
from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.router import DEPTH, EJECTION, UNDER_WAY
from ulpsim.interconnect.topology import Address, Direction, Port, Topology

from .arbiter import LeastRecent
from .buffer import Buffer
from .link import AddressLayout, FlitLayout, HeaderLayout, Link, flit_stream
from .routing import Way, legal_ways, ways

__all__ = ["Router"]


class Router(wiring.Component):
    """A router of `topology` at `place`: wormhole packets, virtual channels, two cycles a hop.

    Cycle by cycle what `ulpsim.interconnect.router` says.

    Parameters
    ----------
    topology, place
        Which router of which network.
    width
        Bits of a flit.
    depth
        Flits that a virtual channel's buffer holds.

    Members
    -------
    terminals_in : In(flit_stream).array(terminals)
        Packets into the network.
    terminals_out : Out(flit_stream).array(terminals)
    NAME_in : In(Link), NAME_out : Out(Link)
        For each direction of travel (`x_up`, `x_down`, `y_up`, `y_down`) in which flits come, or
        go.
    dropped : Out(stream(AddressLayout))
        The terminal that sent a packet whose destination does not exist, or whose source it is
        not. One of each is kept until it is taken.
    """

    terminals_in: Any
    terminals_out: Any
    dropped: Any

    def __init__(self, *, topology: Topology, place: tuple[int, ...], width: int = 64,
                 depth: int = DEPTH) -> None:
        self.topology, self.place, self.width, self.depth = topology, place, width, depth
        self.inputs, self.outputs = topology.inputs(place), topology.outputs(place)
        link = Link(width=width, channels=topology.channels)
        flits = flit_stream(width)
        super().__init__({
            "terminals_in": In(flits).array(topology.terminals),
            "terminals_out": Out(flits).array(topology.terminals),
            **{f"{port}_in": In(link) for port in self.inputs if isinstance(port, Direction)},
            **{f"{port}_out": Out(link) for port in self.outputs if isinstance(port, Direction)},
            "dropped": Out(stream.Signature(AddressLayout))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        topology = self.topology
        buffers: dict[Way, tuple[Buffer, list[Way]]] = {}
        dropped = []
        for port in self.inputs:
            legal = legal_ways(topology, self.place, port)
            stored = self._store(m, port, legal)
            buffers |= {(port, c): (buffer, legal) for c, buffer in enumerate(stored)}
            if isinstance(port, int):
                dropped.append(stored[0].dropped)
        grants: dict[Way, list[Value]] = {key: [] for key in buffers}
        for output in self.outputs:
            askers = {key: buffer for key, (buffer, legal) in buffers.items()
                      if (output, 0) in legal}
            asks = {key: [buffer.asks[buffers[key][1].index((output, c))]
                          for c in range(topology.channels_of(output))]
                    for key, buffer in askers.items()}
            arbiter = self._leave(m, output, list(askers.values()), list(asks.values()))
            for key, grant in zip(askers, arbiter.grants, strict=True):
                grants[key].append(grant)
        for key, (buffer, _) in buffers.items():
            m.d.comb += buffer.take.eq(Cat(grants[key]).any())
        self._report(m, dropped)
        return m

    def _store(self, m: Module, port: Port, legal: list[Way]) -> list[Buffer]:
        """The buffers of an input, and what comes."""
        if isinstance(port, Direction):
            link = getattr(self, f"{port}_in")
            flit, valid = link.flit, link.valid
        else:
            source = self.terminals_in[port]
            flit, valid = source.payload, source.valid
        header = data.View(HeaderLayout, flit.data[:HeaderLayout.size])
        buffers = []
        for c in range(self.topology.channels_of(port)):
            buffer = Buffer(width=self.width, depth=self.depth, ways=len(legal))
            m.submodules[f"buffer_{port}_{c}"] = buffer
            taken = ways(self.topology, self.place, port, c, header)
            m.d.comb += [buffer.flit.eq(flit), buffer.multicast.eq(header.multicast),
                         buffer.ways.eq(Cat(taken[way] for way in legal))]
            buffers.append(buffer)
        if isinstance(port, Direction):
            m.d.comb += [link.ready.eq(Cat(b.ready for b in buffers)),
                         *(b.write.eq(valid[c]) for c, b in enumerate(buffers))]
        else:
            m.d.comb += [source.ready.eq(buffers[0].ready),
                         buffers[0].write.eq(valid & buffers[0].ready)]
        return buffers

    def _report(self, m: Module, dropped: list[Value]) -> None:
        pending = Signal(len(dropped))
        reported = Signal(len(dropped))
        own = self.topology.address(self.place, 0).encode()
        m.d.comb += [
            reported.eq(pending & -pending), self.dropped.valid.eq(pending.any()),
            Value.cast(self.dropped.payload).eq(own + _either(
                Mux(bit, Address(0, 0, terminal).encode(), 0)
                for terminal, bit in enumerate(reported)))]
        m.d.sync += pending.eq(
            (pending & ~(reported & self.dropped.ready.replicate(len(pending)))) | Cat(dropped))

    def _leave(self, m: Module, output: Port, buffers: list[Buffer], asks: list[list[Value]]
               ) -> LeastRecent:
        """An output: who may use it now; its link, a cycle later; who has its channels.

        `asks` are the buffers' requests for each of its channels.
        """
        channels = self.topology.channels_of(output)
        layout = FlitLayout(self.width)
        ready = Signal(channels, name=f"ready_{output}")
        busy = Signal(channels, name=f"busy_{output}")
        valid = Signal(channels, name=f"valid_{output}")
        source = Signal(len(buffers), name=f"source_{output}", reset_less=True)
        flit = Signal(layout, name=f"flit_{output}")
        arbiter = m.submodules[f"arbiter_{output}"] = LeastRecent(len(buffers))
        m.d.comb += [
            arbiter.requests.eq(Cat(
                Cat(ask & ready[c] & (buffer.holds | ~busy[c])
                    for c, ask in enumerate(wanted)).any()
                for buffer, wanted in zip(buffers, asks, strict=True))),
            arbiter.served.eq(1),
            Value.cast(flit).eq(_either(
                Mux(source[i], buffer.taken, 0) for i, buffer in enumerate(buffers)))]
        m.d.sync += source.eq(arbiter.grants)
        for c in range(channels):
            going, ending = Signal(name=f"going_{output}_{c}"), Signal(name=f"ending_{output}_{c}")
            ends = [wanted[c] & buffer.last for buffer, wanted in zip(buffers, asks, strict=True)]
            m.d.comb += [going.eq((arbiter.grants & Cat(wanted[c] for wanted in asks)).any()),
                         ending.eq((arbiter.grants & Cat(ends)).any())]
            m.d.sync += [valid[c].eq(going), busy[c].eq((busy[c] | going) & ~ending)]
        if isinstance(output, Direction):
            link = getattr(self, f"{output}_out")
            m.d.comb += [link.flit.eq(flit), link.valid.eq(valid), ready.eq(link.ready)]
        else:
            queue = m.submodules[f"ejection_{output}"] = Ejection(width=self.width)
            wiring.connect(m, queue.terminal, wiring.flipped(self.terminals_out[output]))
            m.d.comb += [queue.flit.eq(flit), queue.write.eq(valid), ready.eq(queue.ready)]
        return arbiter


class Ejection(wiring.Component):
    """The queue at a terminal's output, as `Buffer` to its link: see there."""

    write: Signal
    flit: Any
    ready: Signal
    terminal: Any

    def __init__(self, *, width: int) -> None:
        super().__init__({"write": In(1), "flit": In(FlitLayout(width)), "ready": Out(1, init=1),
                          "terminal": Out(flit_stream(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.flit.shape(), depth=EJECTION, init=[])
        store, load = memory.write_port(), memory.read_port(domain="comb")
        level = Signal(range(EJECTION + 1))
        taken = self.terminal.valid & self.terminal.ready
        m.d.comb += [store.en.eq(self.write), store.data.eq(self.flit),
                     self.terminal.payload.eq(load.data), self.terminal.valid.eq(level != 0)]
        m.d.sync += [
            level.eq(level + self.write - taken),
            self.ready.eq(level + self.write - taken <= EJECTION - UNDER_WAY),
            store.addr.eq(store.addr + self.write), load.addr.eq(load.addr + taken)]
        return m


def _either(values: Iterable[Value]) -> Value:
    return functools.reduce(operator.or_, values)
