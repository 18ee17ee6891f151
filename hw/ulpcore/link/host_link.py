"""The board's end of the link to a host: a bus master over a UART; twin `ulpsim.link.device`."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.link.frames import ANSWER, MOST_WORDS, LinkCause, Operation

from ..bus import AXI4Lite, AXI4Read, AXI4Write, Response, fixed_read, fixed_write
from .frames import FrameReceiver, FrameSender
from .uart import UartReceiver, UartTransmitter

__all__ = ["HostLink"]


class HostLink(wiring.Component):
    """Does what the frames on a UART ask for, one request at a time, and answers each.

    Nothing is done before a request's CRC has been found right. While one is done and answered,
    what comes is thrown away: the host waits, and asks again if an answer does not come.

    Parameters
    ----------
    divisor
        Clock cycles a bit of the UART, at least 4.
    identity
        Words that OPEN is answered with, after the number that it repeats; at most seven.

    Members
    -------
    receive : In(1), transmit : Out(1)
        The UART's lines.
    registers : Out(AXI4Lite)
        Byte addresses of 8 bits.
    read : Out(AXI4Read), write : Out(AXI4Write)
        Bursts of up to 256 words within a page of 4096 bytes.
    """

    receive: Signal
    transmit: Signal
    registers: Any
    read: Any
    write: Any

    def __init__(self, *, divisor: int, identity: Sequence[int]) -> None:
        self.divisor, self.identity = divisor, tuple(identity)
        if not 1 <= len(self.identity) <= 7:
            raise ValueError(f"identity must be one to seven words, not {len(self.identity)}")
        super().__init__({
            "receive": In(1), "transmit": Out(1, init=1),
            "registers": Out(AXI4Lite(address_width=8)),
            "read": Out(AXI4Read(data_bytes=4)), "write": Out(AXI4Write(data_bytes=4)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart_receiver = uart_receiver = UartReceiver(divisor=self.divisor)
        m.submodules.uart_transmitter = uart_transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.receiver = receiver = FrameReceiver(most_words=2 + MOST_WORDS)
        m.submodules.sender = self.sender = sender = FrameSender()
        m.submodules.buffer = buffer = Memory(shape=32, depth=MOST_WORDS, init=[])
        self.fetch, self.put = buffer.read_port(), buffer.write_port()
        wiring.connect(m, sender.bytes, uart_transmitter.bytes)
        m.d.comb += [
            uart_receiver.line.eq(self.receive),
            self.transmit.eq(uart_transmitter.line),
            receiver.byte.eq(uart_receiver.byte),
            receiver.valid.eq(uart_receiver.valid),
        ]
        self.sequence, self.operation = Signal(8), Signal(8)
        self.count, self.address = Signal(8), Signal(32)
        self.place = Signal(range(MOST_WORDS + 1))
        self.cause = Signal(LinkCause)
        # Of the request before, for repeated writes.
        self.last_sequence, self.last_cause = Signal(8), Signal(LinkCause)
        self.last_valid = Signal()
        m.d.comb += self.fetch.addr.eq(self.place)
        fixed_read(m, self.read)
        fixed_write(m, self.write)
        m.d.comb += [
            self.read.araddr.eq(self.address), self.read.arlen.eq(self.count),
            self.write.awaddr.eq(self.address), self.write.awlen.eq(self.count),
            self.write.wdata.eq(self.fetch.data), self.write.wstrb.eq(0xF),
            self.write.wlast.eq(self.place == self.count),
            self.registers.araddr.eq(self.address), self.registers.awaddr.eq(self.address),
            self.registers.wdata.eq(self.fetch.data), self.registers.wstrb.eq(0xF),
        ]
        with m.FSM():
            self._listen(m, receiver)
            self._check(m, receiver)
            self._open(m)
            self._read_memory(m)
            self._write_memory(m)
            self._registers(m)
            self._answer(m)
        return m

    def _finish(self, m: Module, cause: Any) -> None:
        m.d.sync += [self.cause.eq(cause), self.last_cause.eq(cause), self.place.eq(0)]
        m.next = "ANSWER"

    def _listen(self, m: Module, receiver: FrameReceiver) -> None:
        self.words = Signal.like(receiver.words)
        with m.State("LISTEN"):
            m.d.comb += receiver.listen.eq(1)
            m.d.sync += self.place.eq(0)
            with m.If(receiver.word_valid):
                with m.If(receiver.index == 0):
                    m.d.sync += Cat(self.sequence, self.operation, self.count).eq(
                        receiver.word[:24])
                with m.Elif(receiver.index == 1):
                    m.d.sync += self.address.eq(receiver.word)
            m.d.comb += [
                self.put.addr.eq(receiver.index - 2),
                self.put.data.eq(receiver.word),
                self.put.en.eq(receiver.word_valid & (receiver.index >= 2)
                               & (receiver.index < 2 + MOST_WORDS)),
            ]
            m.d.sync += self.words.eq(receiver.words)
            with m.If(receiver.done):
                m.next = "CHECK"
                with m.If(~receiver.good | (receiver.words < 2)):
                    m.d.sync += [Cat(self.sequence, self.operation).eq(0),
                                 self.cause.eq(LinkCause.CORRUPT)]
                    m.next = "ANSWER"

    def _check(self, m: Module, receiver: FrameReceiver) -> None:
        operation = self.operation
        opens, writes, memory = Signal(), Signal(), Signal()
        wrong_length, wrong_address = Signal(), Signal()
        m.d.comb += [
            opens.eq(operation == Operation.OPEN),
            writes.eq((operation == Operation.WRITE_MEMORY)
                      | (operation == Operation.WRITE_REGISTER)),
            memory.eq((operation == Operation.READ_MEMORY)
                      | (operation == Operation.WRITE_MEMORY)),
            wrong_length.eq((self.words != Mux(writes, self.count + 3, 2))
                            | ((self.count != 0) & ~memory)),
            wrong_address.eq((self.address[:2] != 0)
                             | (memory & ((self.address[2:12] + self.count)[10:] != 0))),
        ]
        with m.State("CHECK"):
            m.d.sync += [self.last_sequence.eq(self.sequence), self.last_valid.eq(~opens)]
            with m.If(writes & self.last_valid & (self.last_sequence == self.sequence)):
                m.d.sync += self.cause.eq(self.last_cause)
                m.next = "ANSWER"
            with m.Elif(operation > max(Operation)):
                self._finish(m, LinkCause.OPERATION)
            with m.Elif(wrong_length):
                self._finish(m, LinkCause.LENGTH)
            with m.Elif(~opens & wrong_address):
                self._finish(m, LinkCause.ADDRESS)
            with m.Else(), m.Switch(operation):
                for known in Operation:
                    with m.Case(known):
                        m.next = known.name

    def _open(self, m: Module) -> None:
        """The answer is the number and the identity, put into the buffer word by word."""
        words = Array([self.address, *(Const(word, 32) for word in self.identity)])
        with m.State("OPEN"):
            m.d.comb += [self.put.addr.eq(self.place), self.put.data.eq(words[self.place[:3]]),
                         self.put.en.eq(1)]
            m.d.sync += [self.place.eq(self.place + 1), self.count.eq(len(self.identity))]
            with m.If(self.place == len(self.identity)):
                self._finish(m, LinkCause.OKAY)

    def _read_memory(self, m: Module) -> None:
        bus = self.read
        failed = Signal(LinkCause)
        with m.State("READ_MEMORY"):
            m.d.comb += bus.arvalid.eq(1)
            m.d.sync += failed.eq(LinkCause.OKAY)
            with m.If(bus.arready):
                m.next = "READ_BEATS"
        with m.State("READ_BEATS"):
            m.d.comb += [bus.rready.eq(1), self.put.addr.eq(self.place),
                         self.put.data.eq(bus.rdata), self.put.en.eq(bus.rvalid)]
            with m.If(bus.rvalid):
                m.d.sync += self.place.eq(self.place + 1)
                with m.If(failed == LinkCause.OKAY):
                    m.d.sync += failed.eq(_cause(bus.rresp))
                with m.If(bus.rlast):
                    self._finish(m, Mux(failed == LinkCause.OKAY, _cause(bus.rresp), failed))

    def _write_memory(self, m: Module) -> None:
        bus = self.write
        with m.State("WRITE_MEMORY"):
            m.d.comb += bus.awvalid.eq(1)
            with m.If(bus.awready):
                m.next = "WRITE_BEAT"
        # The buffer shows the word of `place` a cycle later.
        with m.State("WRITE_FETCH"):
            m.next = "WRITE_BEAT"
        with m.State("WRITE_BEAT"):
            m.d.comb += bus.wvalid.eq(1)
            with m.If(bus.wready):
                m.d.sync += self.place.eq(self.place + 1)
                m.next = "WRITE_FETCH"
                with m.If(bus.wlast):
                    m.next = "WRITTEN"
        with m.State("WRITTEN"):
            m.d.comb += bus.bready.eq(1)
            with m.If(bus.bvalid):
                self._finish(m, _cause(bus.bresp))

    def _registers(self, m: Module) -> None:
        bus = self.registers
        address_taken, word_taken = Signal(), Signal()
        # The map is 256 bytes.
        outside = self.address[8:] != 0
        with m.State("READ_REGISTER"):
            m.d.comb += bus.arvalid.eq(~outside)
            with m.If(outside):
                self._finish(m, LinkCause.SLAVE_ERROR)
            with m.Elif(bus.arready):
                m.next = "REGISTER_READ"
        with m.State("REGISTER_READ"):
            m.d.comb += [bus.rready.eq(1), self.put.addr.eq(0), self.put.data.eq(bus.rdata),
                         self.put.en.eq(bus.rvalid)]
            with m.If(bus.rvalid):
                self._finish(m, _cause(bus.rresp))
        with m.State("WRITE_REGISTER"):
            m.d.comb += [bus.awvalid.eq(~outside & ~address_taken),
                         bus.wvalid.eq(~outside & ~word_taken), bus.bready.eq(1)]
            with m.If(bus.awvalid & bus.awready):
                m.d.sync += address_taken.eq(1)
            with m.If(bus.wvalid & bus.wready):
                m.d.sync += word_taken.eq(1)
            with m.If(outside | bus.bvalid):
                m.d.sync += [address_taken.eq(0), word_taken.eq(0)]
                self._finish(m, Mux(outside, LinkCause.SLAVE_ERROR, _cause(bus.bresp)))

    def _answer(self, m: Module) -> None:
        sender = self.sender
        reads = Signal()
        m.d.comb += reads.eq((self.cause == LinkCause.OKAY)
                             & (self.operation != Operation.WRITE_MEMORY)
                             & (self.operation != Operation.WRITE_REGISTER))
        with m.State("ANSWER"):
            m.d.comb += [
                sender.words.payload.eq(Cat(self.sequence, self.operation[:7],
                                            Const(ANSWER >> 7, 1), self.cause)),
                sender.words.valid.eq(1),
                sender.last.eq(~reads),
            ]
            m.d.sync += self.place.eq(0)
            with m.If(sender.words.ready):
                m.next = "SENT"
                with m.If(reads):
                    m.next = "ANSWER_DATA"
        with m.State("ANSWER_DATA"):
            # Between two words there is time enough for the buffer.
            m.d.comb += [sender.words.payload.eq(self.fetch.data), sender.words.valid.eq(1),
                         sender.last.eq(self.place == self.count)]
            with m.If(sender.words.ready):
                m.d.sync += self.place.eq(self.place + 1)
                with m.If(sender.last):
                    m.next = "SENT"
        with m.State("SENT"), m.If(sender.idle):
            m.next = "LISTEN"


def _cause(response: Any) -> Mux:
    """The cause of a bus's response."""
    return Mux(response == Response.SLAVE_ERROR, LinkCause.SLAVE_ERROR,
               Mux(response == Response.DECODE_ERROR, LinkCause.DECODE_ERROR, LinkCause.OKAY))
