"""The packets of a round out of the learners' buffers in memory."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.compression.engine import LARGEST_ROUND
from ulpsim.compression.packets import LARGEST_PACKET, PacketCause
from ulpsim.compression.words import BYTE_BIN

from .decoder import PacketNumber, PacketReport
from .reader import BEAT_COUNT_BITS

__all__ = ["PacketReader"]

_SMALLEST_PACKET = 16
#: Bytes that are read before it is known how long a packet is.
_AHEAD = 64


class PacketReader(wiring.Component):
    """Takes one layer's packets from each learner's buffer in turn, and follows their reports.

    A packet is read in two runs, the second of them if it is longer than what the first holds; the
    next one when the decoder has reported it. Where a learner's packets end is kept in a table, in
    which the next round finds them; those of a round that fails are forgotten.

    Members
    -------
    begin : In(1)
    append, buffer, pitch, capacity
        As in a command. They must hold.
    last_index : In(8)
        Learners less one.
    reading, address, count, idle, discard
        The `begin`, `address`, `beats`, `idle` and `discard` of a BeatReader.
    beats : In(stream({data, last}))
        What it reads.
    packets : Out(stream(PacketNumber)), reports : In(stream(PacketReport))
        The decoder's.
    index : Out(8)
        Of the learner whose turn it is, from 0.
    cause : Out(PacketCause)
        Its packet was refused, or does not end within its buffer; nothing goes on.
    done : Out(1)
        All packets were added.
    commit : In(1)
        The next round begins where this one has ended.
    bytes : Out(32), packets_done : Out(32), incomplete : Out(1)
        Of the packets added.
    """

    begin: Signal
    append: Signal
    buffer: Signal
    pitch: Signal
    capacity: Signal
    last_index: Signal
    reading: Signal
    address: Signal
    count: Signal
    idle: Signal
    discard: Signal
    beats: Any
    packets: Any
    reports: Any
    index: Signal
    cause: Signal
    done: Signal
    commit: Signal
    bytes: Signal
    packets_done: Signal
    incomplete: Signal

    def __init__(self, *, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        super().__init__({
            "begin": In(1), "append": In(1), "buffer": In(32), "pitch": In(32), "capacity": In(32),
            "last_index": In(8), "reading": Out(1), "address": Out(32),
            "count": Out(BEAT_COUNT_BITS), "idle": In(1), "discard": Out(1),
            "beats": In(stream.Signature(data.StructLayout({"data": 8 * bus_bytes, "last": 1}))),
            "packets": Out(stream.Signature(PacketNumber)),
            "reports": In(stream.Signature(PacketReport)),
            "index": Out(8), "cause": Out(4), "done": Out(1), "commit": In(1),
            "bytes": Out(32), "packets_done": Out(32), "incomplete": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, low = self.bus_bytes // 4, exact_log2(self.bus_bytes)
        ahead = max(_AHEAD // self.bus_bytes, 2)
        # Two tables: where this round's packets begin, and where the next one's will.
        m.submodules.cursors = cursors = Memory(shape=32, depth=2 * LARGEST_ROUND, init=[])
        read, write = cursors.read_port(), cursors.write_port()
        # Not reset between commands, as all else is.
        side = Signal(name="side", reset_less=True)
        with m.If(self.commit):
            m.d.sync += side.eq(~side)

        base = Signal(32, name="base")                   # of the learner's buffer
        cursor = Signal(32, name="cursor")
        room = Signal(32, name="room")
        at = Signal(32, name="at")
        beats_left = Signal(BEAT_COUNT_BITS, name="beats_left")
        m.d.comb += [
            read.en.eq(1), read.addr.eq(Cat(self.index, side)),
            write.addr.eq(Cat(self.index, ~side)), write.data.eq(cursor)]

        # A number of the beat that is waiting.
        lane = Signal(range(max(words, 2)), name="lane")
        place = Signal(12, name="place")                 # of the number in its packet
        total = Signal(12, name="total")                 # numbers of the packet
        number = Signal(32, name="number")
        header = Signal(data.StructLayout({
            "size": 14, "count": 13, "last": 1, "incomplete": 1, "continued": 1, "part": 2}),
            name="header")
        offer, take, final = Signal(name="offer"), Signal(name="take"), Signal(name="final")
        m.d.comb += [
            number.eq(self.beats.payload.data.word_select(lane, 32)),
            self.packets.payload.number.eq(number), self.packets.payload.last.eq(final),
            self.packets.valid.eq(offer & self.beats.valid),
            take.eq(self.packets.valid & self.packets.ready),
            self.beats.ready.eq(take & (final | (lane == words - 1))),
        ]
        with m.If(take):
            m.d.sync += [place.eq(place + 1), lane.eq(Mux(lane == words - 1, 0, lane + 1))]

        payload = Signal(12, name="payload_numbers")
        fetched = Signal(range(ahead + 1), name="beats_fetched")
        needed = Signal(12, name="beats_needed")
        m.d.comb += payload.eq(Mux(header.size < BYTE_BIN, (header.count + 3) >> 2,
                                   (header.count + 1) >> 1))

        with m.FSM(name="read"):
            with m.State("IDLE"):
                m.d.sync += [base.eq(self.buffer), self.index.eq(0)]
                with m.If(self.begin):
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.next = "LEARNER"
            with m.State("LEARNER"):
                m.d.sync += cursor.eq(Mux(self.append, read.data, 0))
                m.next = "PACKET"
            with m.State("PACKET"):
                m.d.sync += [room.eq(self.capacity - cursor), at.eq(base + cursor),
                             lane.eq(cursor[2:low]), place.eq(0),
                             beats_left.eq((self.capacity >> low) - (cursor >> low))]
                m.next = "AHEAD"
            with m.State("AHEAD"):
                m.d.comb += [self.address.eq(Cat(Const(0, low), at[low:])),
                             self.count.eq(Mux(beats_left < ahead, beats_left, ahead))]
                m.d.sync += fetched.eq(self.count)
                with m.If((room < _SMALLEST_PACKET) | (cursor > self.capacity)):
                    m.d.sync += self.cause.eq(PacketCause.LENGTH)
                    m.next = "REFUSED"
                with m.Else():
                    m.d.comb += self.reading.eq(1)
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += offer.eq(1)
                with m.If(take & (place == 1)):
                    m.d.sync += header.eq(number)
                    m.next = "LENGTH"
            with m.State("LENGTH"):
                # The lane now is that of number 2.
                m.d.sync += total.eq(payload + 4 + header.continued)
                m.next = "NEED"
            with m.State("NEED"):
                m.d.sync += needed.eq((at[2:low] + total + (words - 1)) >> exact_log2(words))
                with m.If((header.count > LARGEST_PACKET) | (Cat(Const(0, 2), total) > room)):
                    m.d.sync += self.cause.eq(PacketCause.LENGTH)
                    m.next = "REFUSED"
                with m.Else():
                    m.next = "NUMBERS"
            with m.State("NUMBERS"):
                m.d.comb += [offer.eq(1), final.eq(place == total - 1)]
                with m.If(self.idle & (needed > fetched)):
                    m.d.comb += [self.reading.eq(1), offer.eq(0),
                                 self.address.eq(Cat(Const(0, low), at[low:] + fetched)),
                                 self.count.eq(needed - fetched)]
                    m.d.sync += needed.eq(0)
                with m.If(take & final):
                    m.d.sync += cursor.eq(cursor + Cat(Const(0, 2), total))
                    m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += [self.discard.eq(1), self.reports.ready.eq(self.idle), write.en.eq(1)]
                with m.If(self.reports.valid & self.idle):
                    m.d.sync += self.cause.eq(self.reports.payload.cause)
                    with m.If(self.reports.payload.cause != PacketCause.NONE):
                        m.next = "REFUSED"
                    with m.Else():
                        m.d.sync += [self.packets_done.eq(self.packets_done + 1),
                                     self.bytes.eq(self.bytes + Cat(Const(0, 2), total)),
                                     self.incomplete.eq(self.incomplete | header.incomplete)]
                        m.next = "PACKET"
                        with m.If(header.last):
                            m.d.sync += [self.index.eq(self.index + 1), base.eq(base + self.pitch)]
                            m.next = "LOOK_UP"
                            with m.If(self.index == self.last_index):
                                m.next = "DONE"
            with m.State("REFUSED"):
                m.d.comb += self.discard.eq(1)
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
        return m
