"""Reads memory that is still being written."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..compression.reader import BEAT_COUNT_BITS, ReadClient

__all__ = ["GrowingReader"]


class GrowingReader(wiring.Component):
    """A run of beats from memory, of which more and more are there.

    Beats are asked for in bursts that end at multiples of the longest one, shorter ones only when
    no more will come; room for them is kept before, so the bus never waits.

    Parameters
    ----------
    burst_beats, outstanding
        The longest burst, a power of two, and how many there can be, under way or waiting here.

    Members
    -------
    begin : In(1), address : In(32)
        Of the first beat. Only when `idle`.
    available : In(31), complete : In(1)
        Beats that are there, never fewer than before; no more will come.
    client : Out(ReadClient)
    out : Out(stream(8 * bus_bytes))
    error : Out(2)
        The response to the next beat, if it is an error: it does not come, nor does any behind it.
    discard : In(1)
        Ask for no more, and drop what comes.
    idle : Out(1)
        All beats that were asked for have been taken.
    """

    begin: Signal
    address: Signal
    available: Signal
    complete: Signal
    client: Any
    out: Any
    error: Signal
    discard: Signal
    idle: Signal

    def __init__(self, *, bus_bytes: int, burst_beats: int, outstanding: int) -> None:
        self.bus_bytes, self.burst_beats = bus_bytes, burst_beats
        self.depth = burst_beats * outstanding
        super().__init__({
            "begin": In(1), "address": In(32), "available": In(BEAT_COUNT_BITS), "complete": In(1),
            "client": Out(ReadClient(bus_bytes=bus_bytes)),
            "out": Out(stream.Signature(8 * bus_bytes)), "error": Out(2), "discard": In(1),
            "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        longest, low, client = self.burst_beats, exact_log2(self.bus_bytes), self.client
        request = client.requests
        m.submodules.waiting = waiting = SyncFIFOBuffered(width=8 * self.bus_bytes + 2,
                                                          depth=self.depth)
        address, asked = Signal(32, name="next_address"), Signal(BEAT_COUNT_BITS, name="asked")
        kept = Signal(range(self.depth + 1), name="beats_kept")
        rest, whole = Signal(BEAT_COUNT_BITS, name="rest"), Signal(range(longest + 1))
        length, ask = Signal(range(longest + 1), name="length"), Signal(name="ask")
        response, taken = Signal(2, name="response"), Signal(name="taken")
        m.d.comb += [
            rest.eq(self.available - asked),
            whole.eq(longest - address[low:low + exact_log2(longest)]),
            length.eq(Mux(rest < whole, rest, whole)),
            ask.eq((~request.valid | request.ready) & ~self.discard
                   & (kept <= self.depth - longest)
                   & ((rest >= whole) | (self.complete & rest.any()))),
            waiting.w_en.eq(client.valid), waiting.w_data.eq(Cat(client.data, client.response)),
            Cat(self.out.payload, response).eq(waiting.r_data),
            self.error.eq(response & (waiting.r_rdy & response[1] & ~self.discard).replicate(2)),
            self.out.valid.eq(waiting.r_rdy & ~response[1] & ~self.discard),
            taken.eq(Mux(self.discard, waiting.r_rdy, self.out.valid & self.out.ready)),
            waiting.r_en.eq(taken), self.idle.eq(kept == 0)]
        m.d.sync += kept.eq(kept + Mux(ask, length, 0) - taken)
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(ask):
            m.d.sync += [request.valid.eq(1), request.payload.address.eq(address),
                         request.payload.length.eq(length - 1), asked.eq(asked + length),
                         address.eq(address + (length << low))]
        with m.If(self.begin):
            m.d.sync += [address.eq(self.address), asked.eq(0)]
        return m
