"""Between beats of memory and rows of elements."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .positions import require_lanes
from .writer import written_beat

__all__ = ["BeatsFromRows", "RowsFromBeats"]


def _row(lanes: int) -> stream.Signature:
    return stream.Signature(data.ArrayLayout(32, lanes))


class RowsFromBeats(wiring.Component):
    """Elements of 32 bits, or codes of 16, as they lie in memory, in rows of `lanes`.

    A beat or a row a cycle, whichever holds more. The last row may be short; what its other lanes
    hold, and rows of the last beat behind it, have no meaning: reset before the next layer.

    Members
    -------
    half : In(1)
        Codes of 16 bits, each in the lower half of its lane.
    beats : In(stream({data, last}))
    rows : Out(stream(lanes x 32))
    """

    half: Signal
    beats: Any
    rows: Any

    def __init__(self, *, lanes: int, bus_bytes: int) -> None:
        self.lanes, self.bus_bytes = require_lanes(lanes), bus_bytes
        super().__init__({
            "half": In(1), "rows": Out(_row(lanes)),
            "beats": In(stream.Signature(data.StructLayout({"data": 8 * bus_bytes, "last": 1})))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        held = Signal(max(8 * self.bus_bytes, 32 * lanes), name="held", reset_less=True)
        for j in range(lanes):
            m.d.comb += self.rows.payload[j].eq(
                Mux(self.half, held[16 * j:16 * j + 16], held[32 * j:32 * j + 32]))
        if self.bus_bytes >= 4 * lanes:
            self._shift(m, held)
        else:
            self._collect(m, held)
        return m

    def _shift(self, m: Module, held: Signal) -> None:
        """A beat is several rows: the next one is the lowest."""
        rows = self.bus_bytes // (4 * self.lanes)
        left = Signal(range(2 * rows + 1), name="rows_left")
        m.d.comb += [self.rows.valid.eq(left.any()),
                     self.beats.ready.eq(~left.any() | (self.rows.ready & (left == 1)))]
        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += [left.eq(left - 1),
                         held.eq(Mux(self.half, held >> 16 * self.lanes, held >> 32 * self.lanes))]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [left.eq(Mux(self.half, 2 * rows, rows)), held.eq(self.beats.payload.data)]

    def _collect(self, m: Module, held: Signal) -> None:
        """A row is several beats, or one."""
        beats = 4 * self.lanes // self.bus_bytes
        place, full = Signal(range(beats), name="place"), Signal(name="full")
        last = Signal(name="last_of_row")
        m.d.comb += [
            self.rows.valid.eq(full), self.beats.ready.eq(~full | self.rows.ready),
            last.eq(self.beats.payload.last
                    | (place == Mux(self.half, beats // 2 - 1, beats - 1)))]
        with m.If(self.rows.ready):
            m.d.sync += full.eq(0)
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [held.word_select(place, 8 * self.bus_bytes).eq(self.beats.payload.data),
                         full.eq(last), place.eq(Mux(last, 0, place + 1))]


class BeatsFromRows(wiring.Component):
    """Rows of a layer's elements as beats for memory, whose bytes behind the last element are not
    written.

    Members
    -------
    begin : In(1), elements : In(31)
        The layer that comes.
    rows : In(stream(lanes x 32))
    beats : Out(stream(written_beat))
    done : Out(1)
        All beats have been taken.
    """

    begin: Signal
    elements: Signal
    rows: Any
    beats: Any
    done: Signal

    def __init__(self, *, lanes: int, bus_bytes: int) -> None:
        self.lanes, self.bus_bytes = require_lanes(lanes), bus_bytes
        super().__init__({
            "begin": In(1), "elements": In(31), "rows": In(_row(lanes)), "done": Out(1),
            "beats": Out(stream.Signature(written_beat(bus_bytes)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = self.bus_bytes // 4
        # Elements of rows that have not come, and of beats that have not gone.
        to_come, to_go = Signal(31, name="to_come"), Signal(31, name="to_go")
        take, go = Signal(name="take"), Signal(name="go")
        m.d.comb += [take.eq(self.rows.valid & self.rows.ready),
                     go.eq(self.beats.valid & self.beats.ready), self.done.eq(~to_go.any())]
        for counter, count, moves in ((to_come, self.lanes, take), (to_go, words, go)):
            with m.If(moves):
                m.d.sync += counter.eq(Mux(counter > count, counter - count, 0))
            with m.If(self.begin):
                m.d.sync += counter.eq(self.elements)
        for i in range(words):
            m.d.comb += self.beats.payload.strobe[4 * i:4 * i + 4].eq((to_go > i).replicate(4))
        if words >= self.lanes:
            self._collect(m, words // self.lanes, to_come, take, go)
        else:
            self._cut(m, self.lanes // words, to_come, to_go, take, go)
        return m

    def _collect(self, m: Module, rows: int, to_come: Signal, take: Signal, go: Signal) -> None:
        """A beat is several rows, or one."""
        held = Signal(8 * self.bus_bytes, name="held", reset_less=True)
        place, full = Signal(range(max(rows, 2)), name="place"), Signal(name="full")
        last = Signal(name="last_of_beat")
        m.d.comb += [
            self.beats.valid.eq(full), self.beats.payload.data.eq(held),
            self.rows.ready.eq(to_come.any() & (~full | self.beats.ready)),
            last.eq((to_come <= self.lanes) | (place == rows - 1))]
        with m.If(go):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += [
                held.word_select(place, 32 * self.lanes).eq(self.rows.payload.as_value()),
                full.eq(last), place.eq(Mux(last, 0, place + 1))]

    def _cut(self, m: Module, beats: int, to_come: Signal, to_go: Signal, take: Signal,
             go: Signal) -> None:
        """A row is several beats: the next one is the lowest."""
        held = Signal(32 * self.lanes, name="held", reset_less=True)
        place, some = Signal(range(beats), name="place"), Signal(name="some")
        last = Signal(name="last_of_row")
        m.d.comb += [
            last.eq((place == beats - 1) | (to_go <= self.bus_bytes // 4)),
            self.beats.valid.eq(some), self.beats.payload.data.eq(held[:8 * self.bus_bytes]),
            self.rows.ready.eq(to_come.any() & (~some | (self.beats.ready & last)))]
        with m.If(go):
            m.d.sync += [place.eq(place + 1), held.eq(Cat(held[8 * self.bus_bytes:],
                                                          Const(0, 8 * self.bus_bytes)))]
            with m.If(last):
                m.d.sync += [some.eq(0), place.eq(0)]
        with m.If(take):
            m.d.sync += [held.eq(self.rows.payload.as_value()), some.eq(1)]
