"""Frames from bytes and bytes from frames; twin `ulpsim.link.frames`."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.link.frames import ESCAPE, FLAG

from .crc import ByteCrc

__all__ = ["FrameReceiver", "FrameSender"]

_INVERTED = 0x20


class FrameReceiver(wiring.Component):
    """Finds frames among bytes, and takes them apart into words.

    Bytes must be ten cycles apart or more.

    Parameters
    ----------
    most_words
        Words in the longest content.

    Members
    -------
    byte : In(8), valid : In(1)
    listen : In(1)
        While low, bytes are thrown away; then all up to the next FLAG.
    word : Out(32), word_valid : Out(1), index : Out
        A word of the frame under way and its place in it; the last is the CRC. Valid for a cycle.
    done : Out(1), good : Out(1), words : Out
        A frame has ended; whether it came undamaged; its words without the CRC. Valid for a cycle.
    """

    byte: Signal
    valid: Signal
    listen: Signal
    word: Signal
    word_valid: Signal
    index: Signal
    done: Signal
    good: Signal
    words: Signal

    def __init__(self, *, most_words: int) -> None:
        self.most_words = most_words
        super().__init__({
            "byte": In(8), "valid": In(1), "listen": In(1),
            "word": Out(32), "word_valid": Out(1), "index": Out(range(most_words + 1)),
            "done": Out(1), "good": Out(1), "words": Out(range(most_words + 2)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = ByteCrc()
        most_bytes = 4 * (self.most_words + 1)
        count = Signal(range(most_bytes + 1))
        hunting = Signal(init=1)
        escaped = Signal()
        overflow = Signal()
        m.d.comb += [
            crc.byte.eq(Mux(escaped, self.byte ^ _INVERTED, self.byte)),
            self.good.eq(crc.matches & ~overflow & ~escaped & (count[:2] == 0) & (count >= 8)),
            self.words.eq(count[2:] - 1),
        ]
        m.d.sync += self.word_valid.eq(0)
        with m.If(~self.listen):
            m.d.sync += hunting.eq(1)
        with m.Elif(self.valid):
            with m.If(self.byte == FLAG):
                m.d.comb += [crc.start.eq(1),
                             self.done.eq(~hunting & ((count != 0) | escaped | overflow))]
                m.d.sync += [hunting.eq(0), count.eq(0), escaped.eq(0), overflow.eq(0)]
            with m.Elif(~hunting):
                with m.If((self.byte == ESCAPE) & ~escaped):
                    m.d.sync += escaped.eq(1)
                with m.Else():
                    m.d.sync += escaped.eq(0)
                    with m.If(count == most_bytes):
                        m.d.sync += overflow.eq(1)
                    with m.Else():
                        m.d.comb += crc.valid.eq(1)
                        m.d.sync += [count.eq(count + 1), self.index.eq(count[2:]),
                                     self.word.eq(Cat(self.word[8:], crc.byte)),
                                     self.word_valid.eq(count[:2] == 3)]
        return m


class FrameSender(wiring.Component):
    """Makes frames of words.

    Members
    -------
    words : In(stream.Signature(32)), last : In(1)
        A content; `last` beside its last word.
    bytes : Out(stream.Signature(8))
        The frame. Bytes must be taken nine cycles apart or more.
    idle : Out(1)
        No frame is under way.
    """

    words: Any
    last: Signal
    bytes: Any
    idle: Signal

    def __init__(self) -> None:
        super().__init__({"words": In(stream.Signature(32)), "last": In(1),
                          "bytes": Out(stream.Signature(8)), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = ByteCrc()
        word = Signal(32)
        left = Signal(2)
        last = Signal()
        checking = Signal()
        special = Signal()
        out = self.bytes
        m.d.comb += [special.eq((word[:8] == FLAG) | (word[:8] == ESCAPE)), crc.byte.eq(word[:8])]

        def next_byte() -> None:
            m.d.sync += [word.eq(word >> 8), left.eq(left - 1)]
            m.next = "BYTE"
            with m.If(left == 0):
                m.next = "WORD"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), crc.start.eq(1)]
                m.d.sync += [last.eq(0), checking.eq(0)]
                with m.If(self.words.valid):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += [out.valid.eq(1), out.payload.eq(FLAG)]
                with m.If(out.ready):
                    m.next = "WORD"
            with m.State("WORD"):
                m.d.sync += left.eq(3)
                with m.If(checking):
                    m.next = "END"
                with m.Elif(last), m.If(~crc.busy):
                    m.d.sync += [word.eq(crc.crc), checking.eq(1)]
                    m.next = "BYTE"
                with m.Else():
                    m.d.comb += self.words.ready.eq(1)
                    with m.If(self.words.valid):
                        m.d.sync += [word.eq(self.words.payload), last.eq(self.last)]
                        m.next = "BYTE"
            with m.State("BYTE"):
                m.d.comb += [out.valid.eq(1), out.payload.eq(Mux(special, ESCAPE, word[:8]))]
                with m.If(out.ready):
                    m.d.comb += crc.valid.eq(~checking)
                    with m.If(special):
                        m.next = "ESCAPED"
                    with m.Else():
                        next_byte()
            with m.State("ESCAPED"):
                m.d.comb += [out.valid.eq(1), out.payload.eq(word[:8] ^ _INVERTED)]
                with m.If(out.ready):
                    next_byte()
            with m.State("END"):
                m.d.comb += [out.valid.eq(1), out.payload.eq(FLAG)]
                with m.If(out.ready):
                    m.next = "IDLE"
        return m
