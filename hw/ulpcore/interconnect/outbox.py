"""Chunks from memory to packets."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.interconnect.topology import Address

from ..compression.reader import ReadClient
from .collective_command import TagLayout
from .growing_reader import GrowingReader
from .interface import SendCommand

__all__ = ["Outbox"]


class Outbox(wiring.Component):
    """Sends a chunk as packets of `largest` bytes, and an empty one behind them.

    A chunk may still be growing: a packet is begun when it is known that all of it comes, the last
    one when the chunk is complete. Packets follow each other without a pause as long as memory
    delivers a beat a cycle. A packet that has been begun is ended, whatever happens.

    Parameters
    ----------
    destination
        Where all packets go.
    width, largest
        Bits of a flit and of the bus; the most bytes of payload, a multiple of a flit.
    burst_beats, outstanding
        As of `GrowingReader`.

    Members
    -------
    begin : In(1), address : In(32), chunk : In(8), round : In(6)
        Send a chunk. Only when `idle`.
    bytes : In(32), written : In(32), complete : In(1)
        How long it is at least, how many bytes of it are in memory, neither ever less than before;
        no more will come. From the cycle after `begin` on, until `done` or `stop`.
    stop : In(1)
        Send no packet of the chunk behind the one that has been begun, and anything in that.
        `idle` comes when it has gone.
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
    chunk: Signal
    round: Signal
    bytes: Signal
    written: Signal
    complete: Signal
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
        self.reader = GrowingReader(bus_bytes=self.bus_bytes, burst_beats=burst_beats,
                                    outstanding=outstanding)
        super().__init__({
            "begin": In(1), "address": In(32), "chunk": In(8), "round": In(6), "bytes": In(32),
            "written": In(32), "complete": In(1), "stop": In(1), "idle": Out(1), "done": Out(1),
            "error": Out(2), "client": Out(ReadClient(bus_bytes=self.bus_bytes)),
            "packets": Out(stream.Signature(SendCommand)),
            "payload": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        wiring.connect(m, wiring.flipped(self.client), reader.client)
        low = exact_log2(self.bus_bytes)
        # What is known of the chunk; after `stop` it stays as it was.
        bytes_, written, complete = Signal(32), Signal(32), Signal()
        sent, left = Signal(32, reset_less=True), Signal(32)
        size = Signal(range(self.largest + 1), reset_less=True)
        beats = Signal(range(self.largest // self.bus_bytes + 1), reset_less=True)
        stopped, broken, stopping = Signal(), Signal(), Signal()
        command, tag = self.packets.payload, Signal(TagLayout)
        number, round_ = Signal.like(self.chunk, reset_less=True), Signal.like(self.round)
        m.d.comb += [
            left.eq(bytes_ - sent), stopping.eq(stopped | self.stop),
            command.destination.eq(self.destination.encode()), command.bytes.eq(size),
            command.tag.eq(tag), tag.final.eq(size == 0), tag.chunk.eq(number),
            tag.round.eq(round_), reader.address.eq(self.address),
            reader.available.eq((written + Mux(complete, self.bus_bytes - 1, 0)) >> low),
            reader.complete.eq(complete), self.error.eq(reader.error),
            self.payload.payload.eq(reader.out.payload)]
        with m.If(self.stop):
            m.d.sync += stopped.eq(1)
        with m.If(~stopping):
            m.d.sync += [bytes_.eq(self.bytes), written.eq(self.written),
                         complete.eq(self.complete)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), reader.begin.eq(self.begin), reader.discard.eq(1)]
                m.d.sync += [number.eq(self.chunk), round_.eq(self.round), sent.eq(0),
                             bytes_.eq(0), written.eq(0), complete.eq(0), stopped.eq(0),
                             broken.eq(0)]
                with m.If(self.begin):
                    m.next = "PACKET"
            with m.State("PACKET"):
                m.d.sync += size.eq(Mux(left < self.largest, left, self.largest))
                with m.If(stopping):
                    m.next = "DISCARD"
                with m.Elif(complete | (left >= self.largest)):
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.packets.valid.eq(1)
                with m.If(self.packets.ready):
                    m.d.sync += [sent.eq(sent + size),
                                 beats.eq((size + (self.bus_bytes - 1)) >> low)]
                    m.next = "FEED"
                    with m.If(size == 0):
                        m.d.comb += self.done.eq(~stopping)
                        m.next = "IDLE"
            with m.State("FEED"):
                # What cannot be read, or will not come any more, is sent as it is: nothing behind
                # it says that the chunk is complete.
                failing = reader.error.any() | broken | stopping
                m.d.sync += broken.eq(failing)
                m.d.comb += [self.payload.valid.eq(reader.out.valid | failing),
                             reader.out.ready.eq(self.payload.ready)]
                with m.If(self.payload.valid & self.payload.ready):
                    m.d.sync += beats.eq(beats - 1)
                    with m.If(beats == 1):
                        m.next = "PACKET"
                        with m.If(failing):
                            m.next = "DISCARD"
            with m.State("DISCARD"):
                m.d.comb += reader.discard.eq(1)
                with m.If(reader.idle):
                    m.next = "IDLE"
        return m
