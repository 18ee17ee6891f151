"""The host's view of the core: an AXI4-Lite slave over the table `ulpsim.registers.REGISTERS`."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.isa import Segment
from ulpsim.registers import REGISTERS, Access, constants, registers_of, writable

from .bus import AXI4Lite, Response
from .load import SegmentBounds

__all__ = ["Registers"]


class Registers(wiring.Component):
    """Registers and interrupt.

    A read is answered in the cycle after its address, a write three cycles after both address and
    data have come; either may come first. One access of each kind at a time.

    Members
    -------
    bus : In(AXI4Lite)
    interrupt : Out(1)
        Enabled and (done or fault).
    start, reset : Out(1)
        One-cycle pulses, when the write is answered. STATUS is BUSY from then on.
    program_address, program_length, watchdog, forward_bias, segments : Out
        What has been written.
    busy, done, fault, fault_cause, fault_index, cycles
        From the sequencer. `done` and `fault` are pulses.
    status : Out(3), step : Out(10), round : Out(6), exchange_fault : In(32), nodes : In(9)
        Of a core with an exchange unit.
    """

    bus: Any
    interrupt: Signal
    start: Signal
    reset: Signal
    program_address: Signal
    program_length: Signal
    watchdog: Signal
    forward_bias: Signal
    busy: Signal
    done: Signal
    fault: Signal
    fault_cause: Signal
    fault_index: Signal
    cycles: Signal
    segments: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            "bus": In(AXI4Lite(address_width=8)),
            "interrupt": Out(1),
            "start": Out(1),
            "reset": Out(1),
            "program_address": Out(32),
            "program_length": Out(32),
            "watchdog": Out(32),
            "forward_bias": Out(4),
            "segments": Out(data.ArrayLayout(SegmentBounds, len(Segment))),
            "busy": In(1),
            "done": In(1),
            "fault": In(1),
            "fault_cause": In(8),
            "fault_index": In(32),
            "cycles": In(64),
            **({"status": Out(3), "step": Out(10), "round": Out(6), "exchange_fault": In(32),
                "nodes": In(9)} if config.exchange else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        finished = Signal()
        failed = Signal()
        busy = Signal()
        registers = registers_of(self.config)
        values = {r.name: Signal(32, name=r.name.lower(), init=r.reset) for r in registers}
        stored = [r for r in registers if r.access is Access.WRITE]
        m.d.comb += [
            *(values[name].eq(value) for name, value in constants(self.config).items()),
            busy.eq(self.busy | self.start | self.reset),
            values["STATUS"].eq(Cat(busy, finished, failed)),
            values["CAUSE"].eq(self.fault_cause),
            values["FAULT_INSTRUCTION"].eq(self.fault_index),
            Cat(values["CYCLES_LOW"], values["CYCLES_HIGH"]).eq(self.cycles),
            self.program_address.eq(values["PROGRAM_ADDRESS"]),
            self.program_length.eq(values["PROGRAM_LENGTH"]),
            self.watchdog.eq(values["WATCHDOG"]),
            self.forward_bias.eq(values["FORWARD_BIAS"]),
            self.interrupt.eq(values["INTERRUPT_ENABLE"][0] & (finished | failed)),
        ]
        if self.config.exchange:
            m.d.comb += [
                self.step.eq(values["STEP"]), self.round.eq(values["ROUND"]),
                self.status.eq(values["STATUS"]),
                values["EXCHANGE_FAULT"].eq(self.exchange_fault), values["NODES"].eq(self.nodes)]
        for segment in Segment:
            bounds = self.segments[segment.value]
            m.d.comb += [bounds.base.eq(values[f"SEGMENT_{segment.value}_BASE"]),
                         bounds.size.eq(values[f"SEGMENT_{segment.value}_SIZE"])]

        # Reads.
        m.d.comb += bus.arready.eq(~bus.rvalid)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0), bus.rresp.eq(Response.SLAVE_ERROR)]
            with m.Switch(bus.araddr[2:]):
                for register in registers:
                    with m.Case(register.offset >> 2):
                        m.d.sync += bus.rresp.eq(Response.OKAY)
                        if register.access is not Access.COMMAND:
                            m.d.sync += bus.rdata.eq(values[register.name])

        # Writes.
        # Pads can be far from each other: `write` and what it writes come from registers.
        write = Signal()
        address = Signal(8, reset_less=True)
        word = Signal(32, reset_less=True)
        strobe = Signal(4, reset_less=True)
        address_held = Signal()
        word_held = Signal()
        m.d.comb += [bus.awready.eq(~address_held), bus.wready.eq(~word_held)]
        m.d.sync += write.eq(address_held & word_held & ~write & ~bus.bvalid)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address_held.eq(1), address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word_held.eq(1), word.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        m.d.sync += [self.start.eq(0), self.reset.eq(0)]
        with m.If(write):
            m.d.sync += [address_held.eq(0), word_held.eq(0), bus.bvalid.eq(1),
                         bus.bresp.eq(Response.SLAVE_ERROR)]
            with m.Switch(address[2:]):
                for register in stored:
                    value, mask = values[register.name], writable(register, self.config)
                    with m.Case(register.offset >> 2):
                        m.d.sync += bus.bresp.eq(Response.OKAY)
                        for lane in range(4):
                            with m.If(strobe[lane]):
                                for bit in range(8 * lane, 8 * lane + 8):
                                    if mask >> bit & 1:
                                        m.d.sync += value[bit].eq(word[bit])
                with m.Case(next(r.offset for r in REGISTERS if r.name == "CONTROL") >> 2):
                    start, reset, clear = (word[bit] & strobe[0] for bit in range(3))
                    with m.If(~(start & busy)):
                        m.d.sync += bus.bresp.eq(Response.OKAY)
                        m.d.sync += [self.start.eq(start & ~reset), self.reset.eq(reset)]
                        with m.If(start | reset | clear):
                            m.d.sync += [finished.eq(0), failed.eq(0)]
        with m.If(self.done):
            m.d.sync += finished.eq(1)
        with m.If(self.fault):
            m.d.sync += failed.eq(1)
        return m
