"""CRC-32 of a stream of bytes, a bit a cycle: small, for bytes that come from a UART."""

import zlib

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ByteCrc"]

_POLYNOMIAL = 0xEDB88320              # of Ethernet and zlib, its lowest bit the highest power


class ByteCrc(wiring.Component):
    """zlib's CRC-32.

    Members
    -------
    start : In(1)
        Begin anew.
    byte : In(8), valid : In(1)
        Take a byte in; not while busy, and not together with `start`.
    busy : Out(1)
        High in the eight cycles after a byte.
    crc : Out(32), matches : Out(1)
        Of the bytes taken in, when not busy; whether the last four of them are the CRC of those
        before, lowest byte first.
    """

    start: In(1)
    byte: In(8)
    valid: In(1)
    busy: Out(1)
    crc: Out(32)
    matches: Out(1)

    #: The CRC of anything and its own CRC.
    residue = zlib.crc32(zlib.crc32(b"").to_bytes(4, "little"))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(32, init=0xFFFFFFFF)
        waiting = Signal(8)
        count = Signal(range(9))
        m.d.comb += [self.busy.eq(count != 0), self.crc.eq(~state),
                     self.matches.eq(self.crc == self.residue)]
        with m.If(self.start):
            m.d.sync += [state.eq(0xFFFFFFFF), count.eq(0)]
        with m.Elif(self.valid):
            m.d.sync += [waiting.eq(self.byte), count.eq(8)]
        with m.Elif(self.busy):
            back = state[0] ^ waiting[0]
            m.d.sync += [waiting.eq(Cat(waiting[1:], 0)), count.eq(count - 1),
                         state.eq(state[1:] ^ Mux(back, _POLYNOMIAL, 0))]
        return m
