"""Chunks from packets to memory."""

from typing import Any

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.interconnect.packets import LARGEST_PAYLOAD
from ulpsim.interconnect.topology import Address

from ..compression.reader import BeatReader, ReadClient
from ..compression.writer import written_beat
from ..float32 import Add
from .collective_command import TagLayout
from .link import HeaderLayout

__all__ = ["Inbox", "Sums"]


class Sums(wiring.Component):
    """FP32 sums of beats, `Add.stages` cycles later, one a cycle.

    Members
    -------
    beats : In(stream(written_beat)), others : In
        What is added, element by element.
    sums : Out(stream(written_beat))
    empty : Out(1)
        None is under way.
    """

    beats: Any
    others: Signal
    sums: Any
    empty: Signal

    def __init__(self, *, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        beat = stream.Signature(written_beat(bus_bytes))
        super().__init__({"beats": In(beat), "others": In(8 * bus_bytes), "sums": Out(beat),
                          "empty": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        go = Signal()
        strobe, valid = self.beats.payload.strobe, self.beats.valid
        stages = []
        adders = [Add() for _ in range(self.bus_bytes // 4)]
        for i in range(adders[0].stages):
            registers = Signal.like(strobe, name=f"strobe_{i}", reset_less=True), Signal(
                name=f"valid_{i}")
            with m.If(go):
                m.d.sync += [registers[0].eq(strobe), registers[1].eq(valid)]
            strobe, valid = registers
            stages.append(valid)
        m.d.comb += [go.eq(~valid | self.sums.ready), self.beats.ready.eq(go),
                     self.sums.valid.eq(valid), self.sums.payload.strobe.eq(strobe),
                     self.empty.eq(~Cat(stages).any())]
        for i, adder in enumerate(adders):
            m.submodules[f"add_{i}"] = EnableInserter(go)(adder)
            at = slice(32 * i, 32 * i + 32)
            m.d.comb += [adder.a.eq(self.beats.payload.data[at]), adder.b.eq(self.others[at]),
                         self.sums.payload.data[at].eq(adder.result)]
        return m


class Inbox(wiring.Component):
    """Takes the packets of a chunk, and puts them into memory or adds them to what is there.

    A beat a cycle. It waits for memory alone: whatever becomes of what is sent, this goes on.

    Parameters
    ----------
    source
        Where packets come from; those of others are thrown away.
    width
        Bits of a flit, and of the bus.
    burst_beats, outstanding
        As of `BeatReader`, for what is added to.

    Members
    -------
    begin : In(1), address : In(32), chunk : In(8), round : In(6)
        Take a chunk. Only when `idle`.
    limit : In(32), exact : In(1), add : In(1)
        The most bytes of it, or with `exact` how many it must have. With `add` (and `exact`) they
        are FP32 and added to what is at `address`.
    packets : In(stream(HeaderLayout)), payload : In(stream(width))
        As of `Receiver`. A packet of an earlier round is thrown away, one of a later round waits.
    beats : Out(stream(written_beat)), ending : Out(1), flushed : In(1)
        To memory; none come for the moment; all have been written.
    stop : In(1)
        Take no more. `idle` comes when what was taken has been written.
    idle : Out(1)
    done : Out(1), bytes : Out(32)
        A chunk is complete and in memory, for a cycle; how long it is, and before, how long it is
        at least, with the packet that is being taken; 0 when there is none.
    came : Out(1)
        A packet of the chunk has come.
    wrong : Out(1)
        A packet that is out of place or too long, for a cycle: it is thrown away. `stop` must
        follow.
    error : Out(2)
        The response to a read, if it is an error. `stop` must follow.
    client : Out(ReadClient)
    """

    begin: Signal
    address: Signal
    chunk: Signal
    round: Signal
    limit: Signal
    exact: Signal
    add: Signal
    packets: Any
    payload: Any
    beats: Any
    ending: Signal
    flushed: Signal
    stop: Signal
    idle: Signal
    done: Signal
    bytes: Signal
    came: Signal
    wrong: Signal
    error: Signal
    client: Any

    def __init__(self, *, source: Address, width: int, burst_beats: int = 16,
                 outstanding: int = 8) -> None:
        self.source, self.bus_bytes = source, width // 8
        self.reader = BeatReader(bus_bytes=self.bus_bytes, burst_beats=burst_beats,
                                 outstanding=outstanding)
        self.sums = Sums(bus_bytes=self.bus_bytes)
        super().__init__({
            "begin": In(1), "address": In(32), "chunk": In(8), "round": In(6), "limit": In(32),
            "exact": In(1), "add": In(1),
            "packets": In(stream.Signature(HeaderLayout)), "payload": In(stream.Signature(width)),
            "beats": Out(stream.Signature(written_beat(self.bus_bytes))), "ending": Out(1),
            "flushed": In(1), "stop": In(1), "idle": Out(1), "done": Out(1), "bytes": Out(32),
            "came": Out(1), "wrong": Out(1), "error": Out(2),
            "client": Out(ReadClient(bus_bytes=self.bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.sums = sums = self.sums
        wiring.connect(m, wiring.flipped(self.client), reader.client)
        bus_bytes, low = self.bus_bytes, exact_log2(self.bus_bytes)
        number, round_ = Signal.like(self.chunk), Signal.like(self.round)
        limit, exact, add = Signal(32, reset_less=True), Signal(), Signal()
        left = Signal(range(LARGEST_PAYLOAD // bus_bytes + 2), reset_less=True)
        tail = Signal(low, reset_less=True)      # bytes in the last beat; 0 for all
        settled = Signal()
        m.d.comb += [
            reader.address.eq(self.address),
            reader.beats.eq((self.limit + (bus_bytes - 1)) >> low),
            self.error.eq(reader.error), settled.eq(self.flushed & sums.empty)]

        header = self.packets.payload
        tag = data.View(TagLayout, header.tag)
        age = Signal(6)
        ours, misplaced = Signal(), Signal()
        total = Signal(33)
        m.d.comb += [
            ours.eq(header.source.as_value() == self.source.encode()),
            age.eq(tag.round - round_), total.eq(self.bytes + header.bytes),
            misplaced.eq((tag.chunk != number) | (total > limit)
                         | Mux(tag.final, header.bytes.any() | (exact & (self.bytes != limit)),
                               self.bytes[:low].any()))]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1),
                             reader.begin.eq(self.begin & self.add & self.limit.any())]
                m.d.sync += [number.eq(self.chunk), round_.eq(self.round), limit.eq(self.limit),
                             exact.eq(self.exact), add.eq(self.add)]
                with m.If(self.begin):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += self.ending.eq(~self.packets.valid & sums.empty)
                m.d.sync += [left.eq((header.bytes + (bus_bytes - 1)) >> low),
                             tail.eq(header.bytes[:low])]
                with m.If(self.stop):
                    m.next = "CLEAR"
                with m.Elif(self.packets.valid & (~ours | age[5])):
                    m.d.comb += self.packets.ready.eq(1)
                    m.next = "DROP"
                with m.Elif(self.packets.valid & (age == 0)):
                    m.d.comb += [self.packets.ready.eq(1), self.came.eq(1),
                                 self.wrong.eq(misplaced)]
                    with m.If(misplaced):
                        m.next = "DROP"
                    with m.Else():
                        m.d.sync += self.bytes.eq(total)
                        m.next = "TAKE"
                        with m.If(tag.final):
                            m.next = "FLUSH"
            with m.State("TAKE"):
                taken = self.payload.valid & self.payload.ready
                m.d.sync += left.eq(left - taken)
                with m.If(self.stop):
                    m.next = "DROP"
                with m.Else():
                    self._take(m, add, Mux((left == 1) & (tail != 0), (1 << tail) - 1, -1))
                    with m.If((left == 0) | (left == 1) & taken):
                        m.next = "WAIT"
            with m.State("DROP"):
                m.d.comb += self.payload.ready.eq(left != 0)
                m.d.sync += left.eq(left - (self.payload.valid & self.payload.ready))
                with m.If(left == 0):
                    m.next = "WAIT"
            with m.State("FLUSH"):
                m.d.comb += self.ending.eq(1)
                with m.If(settled):
                    m.d.comb += self.done.eq(1)
                    m.d.sync += self.bytes.eq(0)
                    m.next = "IDLE"
            with m.State("CLEAR"):
                m.d.comb += [self.ending.eq(1), reader.discard.eq(1)]
                m.d.sync += self.bytes.eq(0)
                with m.If(settled & reader.idle):
                    m.next = "IDLE"
        # Sums still come while the next header is awaited.
        with m.If(add):
            wiring.connect(m, sums.sums, wiring.flipped(self.beats))
        return m

    def _take(self, m: Module, add: Signal, strobe: Value) -> None:
        """A beat to memory, or to the sums together with what is there."""
        stored, sums = self.reader.out, self.sums
        with m.If(add):
            m.d.comb += [
                sums.beats.valid.eq(self.payload.valid & stored.valid),
                sums.beats.payload.data.eq(self.payload.payload),
                sums.beats.payload.strobe.eq(strobe), sums.others.eq(stored.payload.data),
                self.payload.ready.eq(stored.valid & sums.beats.ready),
                stored.ready.eq(self.payload.valid & sums.beats.ready)]
        with m.Else():
            m.d.comb += [
                self.beats.valid.eq(self.payload.valid),
                self.beats.payload.data.eq(self.payload.payload),
                self.beats.payload.strobe.eq(strobe), self.payload.ready.eq(self.beats.ready)]
