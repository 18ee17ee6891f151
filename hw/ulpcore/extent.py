"""The end of a region of rows, for checking it before the first access."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Extent"]


class Extent(wiring.Component):
    """first + (rows - 1) * pitch + length, a bit of `rows` a cycle with a single adder.

    `done` is high for one cycle, `latency` cycles after `start`. `rows` is taken with `start`; the
    other operands must hold from the cycle after it until `done`. The sum has one bit more than
    the operands and saturates: a value of 2**width or more means "beyond everything that can be
    addressed".

    Parameters
    ----------
    width
        Bits of `pitch`, `first` and `length`.
    """

    ROWS_WIDTH = 16
    latency = ROWS_WIDTH + 3

    start: Signal
    rows: Signal
    pitch: Signal
    first: Signal
    length: Signal
    end: Signal
    done: Signal

    def __init__(self, *, width: int) -> None:
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"width must be a positive integer, not {width!r}")
        self.width = width
        super().__init__({
            "start": In(1), "rows": In(self.ROWS_WIDTH), "pitch": In(width), "first": In(width),
            "length": In(width), "end": Out(width + 1), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = Signal(range(self.ROWS_WIDTH + 2))
        active = Signal()
        multiplier = Signal(self.ROWS_WIDTH, reset_less=True)
        end = Signal(self.width + 1, reset_less=True)
        doubled = Signal(self.width + 2)
        operand = Signal(self.width)
        total = Signal(self.width + 3)
        m.d.sync += self.done.eq(0)
        m.d.comb += [self.end.eq(end), doubled.eq(end << 1),
                     operand.eq(Mux(multiplier[-1], self.pitch, 0))]
        with m.If(step == self.ROWS_WIDTH):
            m.d.comb += [doubled.eq(end), operand.eq(self.first)]
        with m.Elif(step == self.ROWS_WIDTH + 1):
            m.d.comb += [doubled.eq(end), operand.eq(self.length)]
        m.d.comb += total.eq(doubled + operand)
        with m.If(self.start):
            m.d.sync += [active.eq(1), step.eq(0), end.eq(0), multiplier.eq(self.rows - 1)]
        with m.Elif(active):
            # Once over the top, the top bit stays: doubling and adding only make it larger.
            m.d.sync += [
                step.eq(step + 1),
                multiplier.eq(multiplier << 1),
                end.eq(Cat(total[:self.width], total[self.width:].any())),
            ]
            with m.If(step == self.ROWS_WIDTH + 1):
                m.d.sync += [active.eq(0), self.done.eq(1)]
        return m
