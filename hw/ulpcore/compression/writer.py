"""Writes of memory for several clients over one AXI4 port."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus import AXI4Write, fixed_write
from .reader import BurstRequest, round_robin

__all__ = ["WRITES_UNDER_WAY", "BeatWriter", "WriteClient", "WritePort", "written_beat"]

#: Bursts whose beats have not been sent, and whose answers have not come.
WRITES_UNDER_WAY = 16


def written_beat(bus_bytes: int) -> data.StructLayout:
    """A beat, and which of its bytes are written."""
    return data.StructLayout({"data": 8 * bus_bytes, "strobe": bus_bytes})


class WriteClient(wiring.Signature):
    """A client: it asks for bursts whose beats it has. `next` takes a beat; `answered` says that a
    burst has been, in their order."""

    def __init__(self, *, bus_bytes: int) -> None:
        super().__init__({
            "requests": Out(stream.Signature(BurstRequest)), "beat": Out(written_beat(bus_bytes)),
            "next": In(1), "answered": In(1)})


class WritePort(wiring.Component):
    """Issues the clients' bursts in turn, sends their beats, one a cycle, and takes the answers.

    Members
    -------
    client_0, client_1, ... : In(WriteClient)
    stop : In(1)
        Issue no more; those that were are finished.
    quiet : Out(1)
        No burst is under way.
    error : Out(2), error_client : Out
        The response to one of this client's bursts, if it is an error, for a cycle.
    bus : Out(AXI4Write)
    """

    bus: Any
    stop: Signal
    quiet: Signal
    error: Signal
    error_client: Signal

    def __init__(self, *, clients: int, bus_bytes: int) -> None:
        self.clients, self.bus_bytes = clients, bus_bytes
        super().__init__({
            **{f"client_{i}": In(WriteClient(bus_bytes=bus_bytes)) for i in range(clients)},
            "stop": In(1), "quiet": Out(1), "error": Out(2), "error_client": Out(range(clients)),
            "bus": Out(AXI4Write(data_bytes=bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, clients = self.bus, [getattr(self, f"client_{i}") for i in range(self.clients)]
        fixed_write(m, bus)
        issued = data.StructLayout({"client": range(self.clients), "length": 8})
        m.submodules.order = order = SyncFIFO(width=issued.size, depth=WRITES_UNDER_WAY)
        m.submodules.answers = answers = SyncFIFO(width=issued["client"].width,
                                                  depth=WRITES_UNDER_WAY)
        free = Signal(name="free")
        m.d.comb += free.eq((~bus.awvalid | bus.awready) & order.w_rdy & answers.w_rdy & ~self.stop)
        chosen, some = round_robin(m, [client.requests.valid for client in clients], free)
        m.d.comb += [order.w_en.eq(free & some), answers.w_en.eq(free & some),
                     answers.w_data.eq(chosen)]
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)

        burst = data.View(issued, order.r_data)
        sent, send = Signal(8, name="sent"), Signal(name="send")
        last = Signal(name="last_beat")
        m.d.comb += [send.eq(order.r_rdy & (~bus.wvalid | bus.wready)),
                     last.eq(sent == burst.length), order.r_en.eq(send & last),
                     bus.bready.eq(1), answers.r_en.eq(bus.bvalid),
                     self.error.eq(bus.bresp & (bus.bvalid & bus.bresp[1]).replicate(2)),
                     self.error_client.eq(answers.r_data), self.quiet.eq(~answers.r_rdy)]
        with m.If(send):
            m.d.sync += [bus.wvalid.eq(1), bus.wlast.eq(last), sent.eq(Mux(last, 0, sent + 1))]
        for i, client in enumerate(clients):
            request = client.requests
            with m.If(free & some & (chosen == i)):
                m.d.comb += [request.ready.eq(1),
                             order.w_data.eq(Cat(chosen, request.payload.length))]
                m.d.sync += [bus.awvalid.eq(1), bus.awaddr.eq(request.payload.address),
                             bus.awlen.eq(request.payload.length)]
            with m.If(send & (burst.client == i)):
                m.d.comb += client.next.eq(1)
                m.d.sync += [bus.wdata.eq(client.beat.data), bus.wstrb.eq(client.beat.strobe)]
            m.d.comb += client.answered.eq(bus.bvalid & (answers.r_data == i))
        return m


class BeatWriter(wiring.Component):
    """A run of beats to memory, however many come, in bursts that end where a burst's length does.

    Members
    -------
    begin : In(1), address : In(32)
        Of the first beat, a multiple of the bus.
    beats : In(stream(written_beat))
    ending : In(1)
        No more beats come: those that wait are written now.
    client : Out(WriteClient)
    idle : Out(1)
        None wait.
    """

    begin: Signal
    address: Signal
    beats: Any
    ending: Signal
    client: Any
    idle: Signal

    def __init__(self, *, bus_bytes: int, burst_beats: int) -> None:
        self.bus_bytes, self.burst_beats = bus_bytes, burst_beats
        super().__init__({
            "begin": In(1), "address": In(32), "ending": In(1), "idle": Out(1),
            "beats": In(stream.Signature(written_beat(bus_bytes))),
            "client": Out(WriteClient(bus_bytes=bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        longest, low = self.burst_beats, exact_log2(self.bus_bytes)
        request, depth = self.client.requests, 2 * longest
        m.submodules.waiting = waiting = SyncFIFOBuffered(
            width=written_beat(self.bus_bytes).size, depth=depth)
        address = Signal(32, name="next_address")
        beats = Signal(range(depth + 1), name="beats_to_ask_for")
        left = Signal(range(depth + 1), name="beats_waiting")
        whole, length = Signal(range(longest + 1)), Signal(range(longest + 1))
        ask, came = Signal(name="ask"), Signal(name="came")
        m.d.comb += [
            waiting.w_en.eq(self.beats.valid), self.beats.ready.eq(waiting.w_rdy),
            waiting.w_data.eq(self.beats.payload), self.client.beat.eq(waiting.r_data),
            waiting.r_en.eq(self.client.next),
            came.eq(self.beats.valid & self.beats.ready),
            # Bursts begin at multiples of the longest one, but for the first.
            whole.eq(longest - address[low:low + exact_log2(longest)]),
            length.eq(Mux(beats < whole, beats, whole)),
            ask.eq((~request.valid | request.ready)
                   & ((beats >= whole) | (self.ending & beats.any()))),
            self.idle.eq(~left.any()),
        ]
        m.d.sync += [beats.eq(beats + came - Mux(ask, length, 0)),
                     left.eq(left + came - self.client.next)]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(ask):
            m.d.sync += [request.valid.eq(1), request.payload.address.eq(address),
                         request.payload.length.eq(length - 1),
                         address.eq(address + (length << low))]
        with m.If(self.begin):
            m.d.sync += address.eq(self.address)
        return m
