"""The packets of a layer as beats for memory, one behind the other."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .framing import packet_stream
from .writer import written_beat

__all__ = ["PacketWriter"]

#: Bits of the second number of a packet: the last one of its layer; gradients were not taken.
LAST_BIT, INCOMPLETE_BIT = 27, 28


class PacketWriter(wiring.Component):
    """Packs the 32-bit numbers of packets, one a cycle, and counts them.

    Parameters
    ----------
    numbers
        Of a beat of the packets.

    Members
    -------
    begin : In(1), used : In(32), capacity : In(32)
        A layer begins so many bytes behind the beginning of the buffer, a multiple of 4.
    count : In(1)
        Only count.
    packets : In(packet_stream)
    beats : Out(stream(written_beat))
        From the beat on in which the layer begins; bytes before it are not written.
    bytes : Out(33)
        Of the buffer up to here, what was only counted included.
    packets_done : Out(32), incomplete : Out(1), scale : Out(32)
        Of the layer's packets.
    done : Out(1)
        The layer has ended and all beats have been taken.
    overflow : Out(1)
        There is a number that has no room; nothing goes on.
    """

    begin: Signal
    used: Signal
    capacity: Signal
    count: Signal
    packets: Any
    beats: Any
    bytes: Signal
    packets_done: Signal
    incomplete: Signal
    scale: Signal
    done: Signal
    overflow: Signal

    def __init__(self, *, numbers: int, bus_bytes: int) -> None:
        self.numbers, self.bus_bytes = numbers, bus_bytes
        super().__init__({
            "begin": In(1), "used": In(32), "capacity": In(32), "count": In(1),
            "packets": In(packet_stream(numbers)),
            "beats": Out(stream.Signature(written_beat(bus_bytes))),
            "bytes": Out(33), "packets_done": Out(32), "incomplete": Out(1),
            "scale": Out(32), "done": Out(1), "overflow": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packet, words = self.packets.payload, self.bus_bytes // 4
        place = Signal(range(max(self.numbers, 2)), name="place")
        # Numbers of this packet so far, up to three: those of the header.
        before = Signal(2, name="numbers_before")
        number = Signal(32, name="number")
        last_packet, ended = Signal(name="last_packet"), Signal(name="ended")
        take, ends = Signal(name="take"), Signal(name="number_ends_beat")
        full = Signal(name="full")
        held = Signal(8 * self.bus_bytes, name="held", reset_less=True)
        strobe = Signal(words, name="strobe")
        lane = self.bytes[2:2 + exact_log2(words)]
        m.d.comb += [
            number.eq(packet.numbers.as_value().word_select(place, 32)),
            self.overflow.eq(self.packets.valid & ~self.count & (self.bytes >= self.capacity)),
            take.eq(self.packets.valid & ~self.overflow & (~full | self.beats.ready)),
            ends.eq(place == packet.count - 1),
            self.packets.ready.eq(take & ends),
            self.beats.valid.eq(full), self.beats.payload.data.eq(held),
            self.beats.payload.strobe.eq(Cat(bit.replicate(4) for bit in strobe)),
            self.done.eq(ended & ~full),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [full.eq(0), strobe.eq(0)]
        with m.If(take):
            m.d.sync += [
                place.eq(Mux(ends, 0, place + 1)), self.bytes.eq(self.bytes + 4),
                before.eq(Mux(before == 3, 3, before + 1))]
            with m.If(before == 1):
                m.d.sync += [last_packet.eq(number[LAST_BIT]),
                             self.incomplete.eq(self.incomplete | number[INCOMPLETE_BIT])]
            with m.If(before == 2):
                m.d.sync += self.scale.eq(number)
            with m.If(ends & packet.last):
                m.d.sync += [before.eq(0), self.packets_done.eq(self.packets_done + 1),
                             ended.eq(last_packet)]
            with m.If(~self.count):
                m.d.sync += [
                    held.word_select(lane, 32).eq(number),
                    strobe.eq(Mux(full, 0, strobe) | (1 << lane)),
                    full.eq((lane == words - 1) | (ends & packet.last & last_packet))]
        with m.If(self.begin):
            m.d.sync += self.bytes.eq(self.used)
        return m
