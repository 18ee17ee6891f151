"""A memory on the device for several AXI4 masters, with a fixed latency."""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from ..bus import AXI4Read, AXI4Write, Response

__all__ = ["OnChipMemory"]

_PAGE = 4096


class OnChipMemory(wiring.Component):
    """RAM from address 0 on. Of masters that ask in the same cycle the first goes first.

    One master alone finds the timing of `memory.v` at a latency of `LATENCY`: a burst's first beat
    that many cycles after its address, then one a cycle, with no pause between bursts; write data
    from the cycle after its address on, the answer `LATENCY` cycles after the last beat. A burst
    beyond the end is answered with DECODE_ERROR, and writes nothing.

    Bursts are INCR, of whole beats, and within a page of 4096 bytes; strobes are taken as all ones.

    Parameters
    ----------
    masters
        How many there are.
    size
        Bytes, a multiple of 4096.
    data_bytes
        Of a beat.
    depth
        Bursts that wait, of each kind.

    Members
    -------
    read, write : In(AXI4Read), In(AXI4Write), one for each master
    """

    LATENCY = 3

    read: Any
    write: Any

    def __init__(self, *, masters: int, size: int, data_bytes: int = 4, depth: int = 4) -> None:
        if not isinstance(size, int) or size <= 0 or size % _PAGE:
            raise ValueError(f"size must be a multiple of {_PAGE} bytes, not {size!r}")
        self.masters, self.size, self.data_bytes, self.depth = masters, size, data_bytes, depth
        super().__init__({"read": In(AXI4Read(data_bytes=data_bytes)).array(masters),
                          "write": In(AXI4Write(data_bytes=data_bytes)).array(masters)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=8 * self.data_bytes, depth=self.size // self.data_bytes, init=[])
        self._reads(m, memory.read_port())
        self._writes(m, memory.write_port())
        return m

    def _queue(self, m: Module, kind: str) -> tuple[Any, SyncFIFO]:
        """The bursts that wait, the first of them taken apart: master, first beat, beats - 1,
        beyond the end."""
        first_bit = exact_log2(self.data_bytes)
        burst = data.StructLayout({
            "master": range(self.masters), "beat": range(self.size // self.data_bytes),
            "length": 8, "beyond": 1})
        queue = SyncFIFO(width=burst.size, depth=self.depth)
        m.submodules[f"{kind}_bursts"] = queue
        buses = self.read if kind == "read" else self.write
        prefix = "ar" if kind == "read" else "aw"
        before = Const(0, 1)
        coming = Signal(burst, name=f"{kind}_coming")
        m.d.comb += queue.w_data.eq(coming)
        for index, bus in enumerate(buses):
            valid, address = getattr(bus, prefix + "valid"), getattr(bus, prefix + "addr")
            m.d.comb += getattr(bus, prefix + "ready").eq(queue.w_rdy & ~before)
            with m.If(valid & ~before):
                m.d.comb += [queue.w_en.eq(1), coming.master.eq(index),
                             coming.beat.eq(address[first_bit:]),
                             coming.length.eq(getattr(bus, prefix + "len")),
                             coming.beyond.eq(address[12:] >= self.size // _PAGE)]
            before = before | valid
        return data.View(burst, queue.r_data), queue

    def _reads(self, m: Module, port: Any) -> None:
        burst, queue = self._queue(m, "read")
        stage = data.StructLayout({"valid": 1, "last": 1, "beyond": 1,
                                   "master": range(self.masters)})
        fetched, shown = Signal(stage), Signal(stage)
        word = Signal(8 * self.data_bytes)
        offset = Signal(8)
        advance = Signal()
        ready = Array(bus.rready for bus in self.read)
        m.d.comb += [
            advance.eq(~shown.valid | ready[shown.master]),
            port.addr.eq(burst.beat + offset),
            port.en.eq(advance),
        ]
        for index, bus in enumerate(self.read):
            m.d.comb += [
                bus.rvalid.eq(shown.valid & (shown.master == index)),
                bus.rdata.eq(word),
                bus.rlast.eq(shown.last),
                bus.rresp.eq(Mux(shown.beyond, Response.DECODE_ERROR, Response.OKAY)),
            ]
        with m.If(advance):
            last = offset == burst.length
            m.d.sync += [shown.eq(fetched), word.eq(port.data), fetched.valid.eq(queue.r_rdy),
                         fetched.last.eq(last), fetched.beyond.eq(burst.beyond),
                         fetched.master.eq(burst.master)]
            with m.If(queue.r_rdy):
                m.d.comb += queue.r_en.eq(last)
                m.d.sync += offset.eq(Mux(last, 0, offset + 1))

    def _writes(self, m: Module, port: Any) -> None:
        burst, queue = self._queue(m, "write")
        stage = data.StructLayout({"valid": 1, "beyond": 1, "master": range(self.masters)})
        stages = Array(Signal(stage, name=f"answer_{i}") for i in range(self.LATENCY))
        answer = stages[-1]
        ready = Array(bus.bready for bus in self.write)
        valid = Array(bus.wvalid for bus in self.write)
        word = Array(bus.wdata for bus in self.write)
        last = Array(bus.wlast for bus in self.write)
        advance, taken = Signal(), Signal()
        offset = Signal(8)
        m.d.comb += [
            advance.eq(~answer.valid | ready[answer.master]),
            taken.eq(queue.r_rdy & advance & valid[burst.master]),
            queue.r_en.eq(taken & last[burst.master]),
        ]
        m.d.sync += [port.en.eq(taken & ~burst.beyond), port.addr.eq(burst.beat + offset),
                     port.data.eq(word[burst.master])]
        with m.If(taken):
            m.d.sync += offset.eq(Mux(last[burst.master], 0, offset + 1))
        with m.If(advance):
            m.d.sync += [Cat(*(s.as_value() for s in stages[1:])).eq(
                            Cat(*(s.as_value() for s in stages[:-1]))),
                         stages[0].valid.eq(queue.r_en), stages[0].beyond.eq(burst.beyond),
                         stages[0].master.eq(burst.master)]
        for index, bus in enumerate(self.write):
            m.d.comb += [
                bus.wready.eq(queue.r_rdy & advance & (burst.master == index)),
                bus.bvalid.eq(answer.valid & (answer.master == index)),
                bus.bresp.eq(Mux(answer.beyond, Response.DECODE_ERROR, Response.OKAY)),
            ]
