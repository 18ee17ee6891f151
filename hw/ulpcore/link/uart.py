"""A UART: 8 data bits, lowest first, no parity, one stop bit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]


def _require_divisor(divisor: int) -> int:
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 4:
        raise ValueError(f"divisor must be an integer of clock cycles a bit, at least 4, "
                         f"not {divisor!r}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from a line, each sampled in the middle of its bits.

    A byte without a stop bit is lost. After it, and after reset, the line must have been high
    before a byte can begin: one that is held low sends nothing. The clock may be 4 % off with 16
    cycles a bit or more.

    Parameters
    ----------
    divisor
        Clock cycles a bit, at least 4.

    Members
    -------
    line : In(1)
        High when idle; of any clock.
    byte : Out(8), valid : Out(1)
        Valid for one cycle, no sooner than nine bits after the last time.
    """

    line: In(1)
    byte: Out(8)
    valid: Out(1)

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _require_divisor(divisor)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.line, line, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        bits = Signal(range(10))
        idle = Signal()
        m.d.sync += self.valid.eq(0)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits == 0):
            m.d.sync += idle.eq(line)
            with m.If(idle & ~line):
                # To the middle of the first data bit.
                m.d.sync += [bits.eq(9), timer.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Else():
            m.d.sync += [bits.eq(bits - 1), timer.eq(self.divisor - 1)]
            with m.If(bits == 1):
                m.d.sync += [self.valid.eq(line), timer.eq(0)]
            with m.Else():
                m.d.sync += self.byte.eq(Cat(self.byte[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line; one is taken as soon as the last is out, every 10 * divisor cycles at most.

    Parameters
    ----------
    divisor
        Clock cycles a bit, at least 4.

    Members
    -------
    bytes : In(stream.Signature(8))
    line : Out(1)
        High when idle.
    """

    bytes: In(stream.Signature(8))
    line: Out(1, init=1)

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _require_divisor(divisor)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        waiting = Signal(9, init=0x1FF)
        bits = Signal(range(11))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits != 0):
            m.d.sync += [bits.eq(bits - 1), timer.eq(self.divisor - 1),
                         Cat(self.line, waiting).eq(Cat(waiting, 1))]
        with m.Else():
            m.d.comb += self.bytes.ready.eq(1)
            with m.If(self.bytes.valid):
                # The start bit at once; eight data bits and the stop bit wait behind it.
                m.d.sync += [self.line.eq(0), waiting.eq(Cat(self.bytes.payload, 1)), bits.eq(9),
                             timer.eq(self.divisor - 1)]
        return m
