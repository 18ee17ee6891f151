"""Which chunk is next, where it is, and how long."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..compression.writer import written_beat

__all__ = ["ChunkLengths", "ChunkWalk"]


class ChunkWalk(wiring.Component):
    """Goes round the chunks: from that of one node to that of its left neighbour.

    Parameters
    ----------
    nodes, first
        How many chunks, and the one to begin with.

    Members
    -------
    load : In(1), address : In(32), bytes : In(32), pitch : In(32), span : In(40)
        Begin: chunks are `pitch` bytes apart, the first one at `address`, all in `bytes`; `span` is
        from the first to the last. `pitch` and `span` must hold.
    alone : In(1), only : In(8)
        With `load`: there is only one chunk, of this number.
    step : In(1)
        To the next one.
    number : Out(8), place : Out(32), piece : Out(32)
        The chunk; its address; its share of `bytes`, none of it if it begins behind them.
    """

    load: Signal
    address: Signal
    bytes: Signal
    pitch: Signal
    span: Signal
    alone: Signal
    only: Signal
    step: Signal
    number: Signal
    place: Signal
    piece: Signal

    def __init__(self, *, nodes: int, first: int) -> None:
        self.nodes, self.first = nodes, first
        super().__init__({
            "load": In(1), "address": In(32), "bytes": In(32), "pitch": In(32), "span": In(40),
            "alone": In(1), "only": In(8), "step": In(1),
            "number": Out(8), "place": Out(32), "piece": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rest, offset = Signal(signed(42), reset_less=True), Signal(40)
        m.d.comb += [
            offset.eq(Mux(self.alone, 0, self.pitch * Const(self.first, 8))),
            self.piece.eq(Mux(rest < 0, 0, Mux(rest < self.pitch, rest, self.pitch)))]
        with m.If(self.load):
            m.d.sync += [self.number.eq(Mux(self.alone, self.only, self.first)),
                         self.place.eq(self.address + offset), rest.eq(self.bytes - offset)]
        with m.Elif(self.step & (self.number == 0)):
            m.d.sync += [self.number.eq(self.nodes - 1), self.place.eq(self.place + self.span),
                         rest.eq(rest - self.span)]
        with m.Elif(self.step):
            m.d.sync += [self.number.eq(self.number - 1), self.place.eq(self.place - self.pitch),
                         rest.eq(rest + self.pitch)]
        return m


class ChunkLengths(wiring.Component):
    """The bytes of every chunk, and their way to memory as a table of 32-bit numbers.

    Members
    -------
    write : In(data.StructLayout), write_enable : In(1)
        The bytes of a chunk are known.
    number : In(8), bytes : Out(32)
        Those of a chunk, at once. Not while the table goes to memory.
    begin : In(1), beats : Out(stream(written_beat)), done : Out(1)
        Put out the table; it has been, until the next time.
    """

    write: Any
    write_enable: Signal
    number: Signal
    bytes: Signal
    begin: Signal
    beats: Any
    done: Signal

    def __init__(self, *, nodes: int, bus_bytes: int) -> None:
        self.nodes, self.bus_bytes = nodes, bus_bytes
        super().__init__({
            "write": In(data.StructLayout({"number": 8, "bytes": 32})), "write_enable": In(1),
            "number": In(8), "bytes": Out(32), "begin": In(1),
            "beats": Out(stream.Signature(written_beat(bus_bytes))), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = self.bus_bytes // 4
        m.submodules.memory = memory = Memory(shape=32, depth=self.nodes, init=[])
        store, load = memory.write_port(), memory.read_port(domain="comb")
        at, beat = Signal(range(self.nodes + 1)), self.beats.payload
        putting, full = Signal(), Signal()
        place = at[:exact_log2(words)] if words > 1 else Const(0, 1)
        m.d.comb += [
            store.en.eq(self.write_enable), store.addr.eq(self.write.number),
            store.data.eq(self.write.bytes), load.addr.eq(Mux(putting, at, self.number)),
            self.bytes.eq(load.data), self.beats.valid.eq(full),
            self.done.eq(~putting & ~full)]
        with m.If(self.begin):
            m.d.sync += [putting.eq(1), at.eq(0), beat.strobe.eq(0)]
        with m.Elif(full), m.If(self.beats.ready):
            m.d.sync += [full.eq(0), beat.strobe.eq(0)]
        with m.Elif(putting):
            last = at == self.nodes - 1
            m.d.sync += [beat.data.word_select(place, 32).eq(load.data),
                         beat.strobe.word_select(place, 4).eq(0xF), at.eq(at + 1),
                         full.eq((place == words - 1) | last), putting.eq(~last)]
        return m
