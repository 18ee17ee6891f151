"""Chunks from memory to packets."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.interconnect.topology import Address

from ..compression.reader import BeatReader, ReadClient
from .collective_command import TagLayout
from .interface import SendCommand

__all__ = ["Outbox"]


class Outbox(wiring.Component):
    """Sends a chunk as packets of `largest` bytes, and an empty one behind them.

    Packets follow each other without a pause as long as memory delivers a beat a cycle. A packet
    that has been begun is ended, whatever happens.

    Parameters
    ----------
    destination
        Where all packets go.
    width, largest
        Bits of a flit and of the bus; the most bytes of payload, a multiple of a flit.
    burst_beats, outstanding
        As of `BeatReader`.

    Members
    -------
    begin : In(1), address : In(32), bytes : In(32), chunk : In(8), round : In(6)
        Send a chunk. Only when `idle`.
    stop : In(1)
        Send no packet of the chunk behind the one that has been begun. `idle` comes when that has
        gone.
    idle : Out(1)
    done : Out(1)
        The last packet of a chunk has been begun, for a cycle; never after `stop`.
    error : Out(2)
        The response to a read, if it is an error: as after `stop`, nothing more of the chunk goes.
    client : Out(ReadClient)
    packets : Out(stream(SendCommand)), payload : Out(stream(width))
        As `Sender` takes them.
    """

    begin: Signal
    address: Signal
    bytes: Signal
    chunk: Signal
    round: Signal
    stop: Signal
    idle: Signal
    done: Signal
    error: Signal
    client: Any
    packets: Any
    payload: Any

    def __init__(self, *, destination: Address, width: int, largest: int, burst_beats: int = 16,
                 outstanding: int = 8) -> None:
        self.destination, self.largest, self.bus_bytes = destination, largest, width // 8
        self.reader = BeatReader(bus_bytes=self.bus_bytes, burst_beats=burst_beats,
                                 outstanding=outstanding)
        super().__init__({
            "begin": In(1), "address": In(32), "bytes": In(32), "chunk": In(8), "round": In(6),
            "stop": In(1), "idle": Out(1), "done": Out(1), "error": Out(2),
            "client": Out(ReadClient(bus_bytes=self.bus_bytes)),
            "packets": Out(stream.Signature(SendCommand)),
            "payload": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        wiring.connect(m, wiring.flipped(self.client), reader.client)
        low = exact_log2(self.bus_bytes)
        left = Signal(32, reset_less=True)
        size = Signal(range(self.largest + 1))
        beats = Signal(range(self.largest // self.bus_bytes + 1), reset_less=True)
        stopped, broken = Signal(), Signal()
        command, tag = self.packets.payload, Signal(TagLayout)
        m.d.comb += [
            size.eq(Mux(left < self.largest, left, self.largest)),
            command.destination.eq(self.destination.encode()), command.bytes.eq(size),
            command.tag.eq(tag), tag.final.eq(left == 0),
            reader.address.eq(self.address),
            reader.beats.eq((self.bytes + (self.bus_bytes - 1)) >> low),
            self.error.eq(reader.error), self.payload.payload.eq(reader.out.payload.data)]
        number, round_ = Signal.like(self.chunk, reset_less=True), Signal.like(self.round)
        m.d.comb += [tag.chunk.eq(number), tag.round.eq(round_)]
        with m.If(self.stop):
            m.d.sync += stopped.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), reader.begin.eq(self.begin & self.bytes.any())]
                m.d.sync += [left.eq(self.bytes), number.eq(self.chunk), round_.eq(self.round),
                             stopped.eq(0), broken.eq(0)]
                with m.If(self.begin):
                    m.next = "PACKET"
            with m.State("PACKET"):
                m.d.comb += self.packets.valid.eq(1)
                with m.If(self.packets.ready):
                    m.d.sync += [left.eq(left - size),
                                 beats.eq((size + (self.bus_bytes - 1)) >> low)]
                    m.next = "FEED"
                    with m.If(left == 0):
                        m.d.comb += self.done.eq(~stopped & ~self.stop)
                        m.next = "IDLE"
            with m.State("FEED"):
                # What cannot be read is sent as it is: nothing behind it says that it is complete.
                failing = reader.error.any() | broken
                m.d.sync += broken.eq(failing)
                m.d.comb += [self.payload.valid.eq(reader.out.valid | failing),
                             reader.out.ready.eq(self.payload.ready)]
                with m.If(self.payload.valid & self.payload.ready):
                    m.d.sync += beats.eq(beats - 1)
                    with m.If(beats == 1):
                        m.next = "PACKET"
                        with m.If(stopped | self.stop | failing):
                            m.next = "DISCARD"
            with m.State("DISCARD"):
                m.d.comb += reader.discard.eq(1)
                with m.If(reader.idle):
                    m.next = "IDLE"
        return m
