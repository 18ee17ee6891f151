"""The decoder's elements of the dense gradient in memory, each a burst of one beat."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .decoder import GradientWrite
from .reader import ReadClient
from .writer import WriteClient

__all__ = ["Elements"]

_WRITES = 16


class Elements(wiring.Component):
    """Reads and writes elements of 32 bits by their number, memory's first one being 0.

    Parameters
    ----------
    outstanding
        Reads under way at most.

    Members
    -------
    reads, values, writes, written
        The decoder's. Values have to be taken when they come.
    read_client : Out(ReadClient), write_client : Out(WriteClient)
    """

    reads: Any
    values: Any
    writes: Any
    written: Signal
    read_client: Any
    write_client: Any

    def __init__(self, *, bus_bytes: int, outstanding: int) -> None:
        self.bus_bytes, self.outstanding = bus_bytes, outstanding
        super().__init__({
            "reads": In(stream.Signature(32)), "values": Out(stream.Signature(32)),
            "writes": In(stream.Signature(GradientWrite)), "written": Out(1),
            "read_client": Out(ReadClient(bus_bytes=bus_bytes)),
            "write_client": Out(WriteClient(bus_bytes=bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = self.bus_bytes // 4
        lane_bits = exact_log2(words)
        reading, writing = self.read_client.requests, self.write_client.requests
        # Where in its beat an element stands, until the beat comes or goes.
        m.submodules.lanes = lanes = SyncFIFO(width=max(lane_bits, 1), depth=self.outstanding)
        m.submodules.waiting = waiting = SyncFIFO(width=32 + lane_bits, depth=_WRITES)

        def beat(element: Any) -> Any:
            return Cat(Const(0, 2 + lane_bits), element[lane_bits:30])

        m.d.comb += [
            reading.valid.eq(self.reads.valid & lanes.w_rdy), reading.payload.length.eq(0),
            reading.payload.address.eq(beat(self.reads.payload)),
            self.reads.ready.eq(reading.ready), lanes.w_en.eq(reading.valid & reading.ready),
            lanes.w_data.eq(self.reads.payload[:lane_bits]), lanes.r_en.eq(self.read_client.valid),
            self.values.valid.eq(self.read_client.valid),
            self.values.payload.eq(self.read_client.data.word_select(lanes.r_data[:lane_bits], 32)),
        ]
        write, lane = self.writes.payload, waiting.r_data[32:]
        m.d.comb += [
            writing.valid.eq(self.writes.valid & waiting.w_rdy), writing.payload.length.eq(0),
            writing.payload.address.eq(beat(write.address)),
            self.writes.ready.eq(writing.ready), waiting.w_en.eq(writing.valid & writing.ready),
            waiting.w_data.eq(Cat(write.value, write.address[:lane_bits])),
            waiting.r_en.eq(self.write_client.next),
            self.write_client.beat.data.eq(waiting.r_data[:32].replicate(words)),
            self.write_client.beat.strobe.eq(Cat((lane == i).replicate(4) for i in range(words))),
            self.written.eq(self.write_client.answered),
        ]
        return m
