"""Reads of memory for several clients over one AXI4 port."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..bursts import Bursts
from ..bus import AXI4Read, fixed_read

__all__ = ["BEAT_COUNT_BITS", "BeatReader", "BurstRequest", "ReadClient", "ReadPort", "round_robin"]

#: Bits of a number of beats: those of all addresses in beats of 4 bytes.
BEAT_COUNT_BITS = 31
#: Bursts that are under way at most, of all clients together.
_BURSTS = 64


class BurstRequest(data.Struct):
    """A burst: its first byte, and its beats less one."""

    address: 32
    length: 8


class ReadClient(wiring.Signature):
    """A client: it asks for bursts and takes their beats when they come, in this order, always."""

    def __init__(self, *, bus_bytes: int) -> None:
        super().__init__({
            "requests": Out(stream.Signature(BurstRequest)),
            "valid": In(1), "data": In(8 * bus_bytes), "response": In(2), "last": In(1)})


def round_robin(m: Module, waiting: list[Any], enable: Any) -> tuple[Signal, Signal]:
    """Which of those that are waiting has its turn, and whether there is any.

    Behind the one that had it in the last cycle in which `enable` was high and one was waiting.
    """
    count = len(waiting)
    chosen, before = Signal(range(count), name="chosen"), Signal(range(count), name="before")
    some = Signal(name="some_waiting")
    m.d.comb += some.eq(Cat(waiting).any())
    with m.Switch(before):
        for last in range(count):
            with m.Case(last):
                for i in range(count):
                    # The last assignment counts: the one that comes next after `last`.
                    client = (last - i) % count
                    with m.If(waiting[client]):
                        m.d.comb += chosen.eq(client)
    with m.If(enable & some):
        m.d.sync += before.eq(chosen)
    return chosen, some


class ReadPort(wiring.Component):
    """Issues the clients' bursts in turn, one a cycle, and hands out the beats.

    Members
    -------
    client_0, client_1, ... : In(ReadClient)
    stop : In(1)
        Issue no more.
    quiet : Out(1)
        No burst is under way.
    bus : Out(AXI4Read)
    """

    bus: Any
    stop: Signal
    quiet: Signal

    def __init__(self, *, clients: int, bus_bytes: int) -> None:
        self.clients = clients
        super().__init__({
            **{f"client_{i}": In(ReadClient(bus_bytes=bus_bytes)) for i in range(clients)},
            "stop": In(1), "quiet": Out(1), "bus": Out(AXI4Read(data_bytes=bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, clients = self.bus, [getattr(self, f"client_{i}") for i in range(self.clients)]
        fixed_read(m, bus)
        m.submodules.order = order = SyncFIFO(width=2, depth=_BURSTS)
        free = Signal(name="free")
        m.d.comb += free.eq((~bus.arvalid | bus.arready) & order.w_rdy & ~self.stop)
        chosen, some = round_robin(m, [client.requests.valid for client in clients], free)
        m.d.comb += [order.w_en.eq(free & some), order.w_data.eq(chosen)]
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        for i, client in enumerate(clients):
            with m.If(free & some & (chosen == i)):
                m.d.comb += client.requests.ready.eq(1)
                m.d.sync += [bus.arvalid.eq(1), bus.araddr.eq(client.requests.payload.address),
                             bus.arlen.eq(client.requests.payload.length)]
            m.d.comb += [client.valid.eq(bus.rvalid & (order.r_data == i)),
                         client.data.eq(bus.rdata), client.response.eq(bus.rresp),
                         client.last.eq(bus.rlast)]
        m.d.comb += [bus.rready.eq(1), order.r_en.eq(bus.rvalid & bus.rlast),
                     self.quiet.eq(~order.r_rdy & ~bus.arvalid)]
        return m


class BeatReader(wiring.Component):
    """A run of beats from memory, in bursts, some of them ahead of their use.

    Room for a burst is kept before it is asked for, so the bus never waits. From `begin` to the
    first request 3 cycles.

    Parameters
    ----------
    burst_beats, outstanding
        As of `Bursts`: the longest burst, and how many there can be, under way or waiting here.

    Members
    -------
    begin : In(1), address : In(32), beats : In(31)
        Read so many beats, at least 1. Only when `idle`.
    client : Out(ReadClient)
    out : Out(stream({data, last}))
        `last` with the last beat of all.
    error : Out(2)
        The response to the next beat, if it is an error: it does not come, nor does any behind it.
    discard : In(1)
        Drop beats as they come, whatever the response.
    idle : Out(1)
        All beats have been taken.
    """

    begin: Signal
    address: Signal
    beats: Signal
    client: Any
    out: Any
    error: Signal
    discard: Signal
    idle: Signal

    def __init__(self, *, bus_bytes: int, burst_beats: int, outstanding: int) -> None:
        self.bus_bytes = bus_bytes
        self.depth = burst_beats * outstanding
        self.bursts = Bursts(burst_beats=burst_beats, outstanding=outstanding,
                             beat_bytes=bus_bytes, row_bits=BEAT_COUNT_BITS)
        super().__init__({
            "begin": In(1), "address": In(32), "beats": In(BEAT_COUNT_BITS),
            "client": Out(ReadClient(bus_bytes=bus_bytes)),
            "out": Out(stream.Signature(data.StructLayout({"data": 8 * bus_bytes, "last": 1}))),
            "error": Out(2), "discard": In(1), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        client, bursts = self.client, self.bursts
        m.submodules.bursts = bursts
        m.submodules.waiting = waiting = SyncFIFOBuffered(width=8 * self.bus_bytes + 3,
                                                          depth=self.depth)
        left = Signal(BEAT_COUNT_BITS, name="left")
        taken, burst_ends = Signal(name="taken"), Signal(name="burst_ends")
        response = Signal(2, name="response")
        m.d.comb += [
            bursts.begin.eq(self.begin), bursts.first.eq(self.address), bursts.rows.eq(1),
            bursts.row_beats.eq(self.beats), bursts.done.eq(taken & burst_ends),
            client.requests.valid.eq(bursts.valid), bursts.ready.eq(client.requests.ready),
            client.requests.payload.address.eq(bursts.address),
            client.requests.payload.length.eq(bursts.length),
            waiting.w_en.eq(client.valid),
            waiting.w_data.eq(Cat(client.data, client.last, client.response)),
            Cat(self.out.payload.data, burst_ends, response).eq(waiting.r_data),
            self.error.eq(response & (waiting.r_rdy & response[1] & ~self.discard).replicate(2)),
            self.out.valid.eq(waiting.r_rdy & ~response[1] & ~self.discard),
            self.out.payload.last.eq(left == 1),
            taken.eq(Mux(self.discard, waiting.r_rdy, self.out.valid & self.out.ready)),
            waiting.r_en.eq(taken),
            self.idle.eq(~left.any()),
        ]
        with m.If(self.begin):
            m.d.sync += left.eq(self.beats)
        with m.Elif(taken):
            m.d.sync += left.eq(left - 1)
        return m


