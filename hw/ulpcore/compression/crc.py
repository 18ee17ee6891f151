"""CRC-32 of several numbers a cycle, as a tree of exclusive ors for each of its bits."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Crc32"]

_POLYNOMIAL = 0xEDB88320              # of Ethernet and zlib, its lowest bit the highest power


class Crc32(wiring.Component):
    """The CRC-32 of zlib of a stream of 32-bit numbers, least significant byte first.

    amaranth.lib.crc's equal, written as trees: its chains of exclusive ors stay chains in lookup
    tables, 33 behind one another for 128 bits.

    Parameters
    ----------
    numbers
        A cycle.

    Members
    -------
    start : In(1), valid : In(1), data : In(32 * numbers)
        Begin anew; take data in. Both in one cycle begin with these data.
    crc : Out(32)
        Of all data that were taken in before.
    """

    def __init__(self, *, numbers: int) -> None:
        self.bits = 32 * numbers
        super().__init__({"start": In(1), "valid": In(1), "data": In(self.bits), "crc": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(32, init=0xFFFFFFFF)
        source = Signal(32)
        inputs = Cat(source, self.data)
        m.d.comb += [source.eq(Mux(self.start, 0xFFFFFFFF, state)), self.crc.eq(~state)]
        with m.If(self.valid):
            for bit, taps in enumerate(self._taps()):
                m.d.sync += state[bit].eq(
                    Cat(inputs[i] for i in range(32 + self.bits) if taps >> i & 1).xor())
        with m.Elif(self.start):
            m.d.sync += state.eq(0xFFFFFFFF)
        return m

    def _taps(self) -> list[int]:
        """For each bit of the next state the set of inputs that it is the exclusive or of."""
        state = [1 << i for i in range(32)]
        for i in range(self.bits):
            back = state[0] ^ 1 << 32 + i
            state = [after ^ (back if _POLYNOMIAL >> bit & 1 else 0)
                     for bit, after in enumerate([*state[1:], 0])]
        return state
