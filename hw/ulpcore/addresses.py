"""Address generators without multipliers: nested loops, and windows made of runs."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AffineLoop", "WindowWalker", "require_positive", "saturate", "saturating_add"]


def require_positive(name: str, value: object) -> int:
    """`value` itself. Raises ValueError unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    return value


def saturate(value: Value, width: int) -> Value:
    """`value` in width + 1 bits, of which the top one says that it is 2**width or more."""
    return Cat(value[:width], value[width:].any())


def saturating_add(a: Value, b: Value, width: int) -> Value:
    """The sum of two numbers as `saturate` makes them, in the same form.

    Once the top bit is set it stays; the bits below it are the sum modulo 2**width.
    """
    total = a[:width] + b[:width]
    return Cat(total[:width], total[width] | a[width] | b[width])


class AffineLoop(wiring.Component):
    """base + the sum of i * stride over nested loops, one address a cycle, with one adder.

    The cycle after `start` shows the address of the first iteration; the cycle after `step` that of
    the next. A `start` in the cycle of the last step follows without a gap; it wins over `step`.

    Parameters
    ----------
    width
        Bits of an address. One more bit is shown: set if the address is 2**width or more.
    stride_width, count_width
        Bits of the strides and counts.
    levels
        Number of loops; loop 0 is the outermost.

    Members
    -------
    start : In(1)
        Start the loops that `base`, `counts` and `strides` describe.
    base : In(stride_width), counts, strides : In(levels)
        Where to start; for each loop its iterations (at least 1) and the addresses from one to the
        next. They count in the cycle of `start`; the counts must be there in the one before too.
    step : In(1)
        Go on to the next iteration.
    address : Out(width + 1)
        The address, or with the top bit set a number that means nothing.
    first : Out(1), last : Out(1), coming_last : Out(1)
        The first and the last iteration of all loops; whether the next cycle has the last one.
    """

    start: Signal
    base: Signal
    step: Signal
    counts: Any
    strides: Any
    address: Signal
    first: Signal
    last: Signal
    coming_last: Signal

    def __init__(self, *, width: int, stride_width: int = 20, count_width: int = 12,
                 levels: int = 3) -> None:
        self.width = require_positive("width", width)
        self.levels = require_positive("levels", levels)
        require_positive("stride_width", stride_width)
        self.count_width = require_positive("count_width", count_width)
        if width > stride_width:
            raise ValueError(f"width must be at most stride_width, {stride_width}, not {width!r}")
        super().__init__({
            "start": In(1), "base": In(stride_width), "step": In(1),
            "counts": In(data.ArrayLayout(unsigned(count_width), levels)),
            "strides": In(data.ArrayLayout(unsigned(stride_width), levels)),
            "address": Out(width + 1), "first": Out(1), "last": Out(1), "coming_last": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inner = self.levels - 1
        # starts[i] is where the current iteration of loop i began; loop `inner`'s is the address.
        starts = [self.address if i == inner else Signal(self.width + 1, name=f"start_{i}")
                  for i in range(self.levels)]
        strides = [Signal(self.width + 1, name=f"stride_{i}") for i in range(self.levels)]
        # ends[i]: loop i and all loops within it are in their last iterations; a register, so that
        # what hangs on `last` can be far away.
        ends = [Signal(name=f"end_{i}") for i in range(self.levels)] + [Const(1)]
        coming_end: Value = Const(1, 1)
        for i in reversed(range(self.levels)):
            coming_end = coming_end & self._count(m, i, ends)
            m.d.sync += ends[i].eq(coming_end)
        m.d.comb += [self.last.eq(ends[0]), self.coming_last.eq(coming_end)]

        # The loop that goes on is the innermost one that is not at its end.
        origin, stride = starts[0], strides[0]
        for i in range(1, self.levels):
            origin = Mux(ends[i], origin, starts[i])
            stride = Mux(ends[i], stride, strides[i])
        following = Signal(self.width + 1)
        m.d.comb += following.eq(saturating_add(origin, stride, self.width))
        with m.If(self.start):
            m.d.sync += [start.eq(saturate(self.base, self.width)) for start in starts]
            m.d.sync += [stride.eq(saturate(self.strides[i], self.width))
                         for i, stride in enumerate(strides)]
            m.d.sync += self.first.eq(1)
        with m.Elif(self.step):
            m.d.sync += self.first.eq(0)
            for i in range(self.levels):
                with m.If(ends[i + 1]):
                    m.d.sync += starts[i].eq(following)
        return m

    def _count(self, m: Module, i: int, ends: Sequence[Signal | Const]) -> Signal:
        """The iterations of loop i; whether it will be in its last one in the next cycle."""
        count, left = (Signal(self.count_width, name=f"{name}_{i}") for name in ("count", "left"))
        coming_single, single, own, coming = (
            Signal(name=f"{name}_{i}") for name in ("coming_single", "single", "last", "coming"))
        m.d.comb += coming.eq(own)
        m.d.sync += [own.eq(coming), coming_single.eq(self.counts[i] == 1)]
        with m.If(self.start):
            m.d.comb += coming.eq(coming_single)
            m.d.sync += [count.eq(self.counts[i]), left.eq(self.counts[i]),
                         single.eq(coming_single)]
        with m.Elif(self.step & ends[i + 1]):
            m.d.comb += coming.eq(Mux(own, single, left == 2))
            m.d.sync += left.eq(Mux(own, count, left - 1))
        return coming


class WindowWalker(wiring.Component):
    """(k div run_length) * run_pitch + k mod run_length for successive k, one a cycle.

    The cycle after `start` shows k = 0; the cycle after `step` the next k.

    Parameters
    ----------
    width
        Bits of an offset. One more bit is shown: set if the offset is 2**width or more.
    pitch_width, length_width
        Bits of `run_pitch` and `run_length`.

    Members
    -------
    start : In(1), step : In(1)
        Go to k = 0, to the next k. `start` wins.
    run_length, run_pitch : In
        They must hold from the cycle after `start` on.
    offset : Out(width + 1)
        The offset, or with the top bit set a number that means nothing.
    """

    start: Signal
    step: Signal
    run_length: Signal
    run_pitch: Signal
    offset: Signal

    def __init__(self, *, width: int, pitch_width: int = 20, length_width: int = 16) -> None:
        self.width = require_positive("width", width)
        require_positive("pitch_width", pitch_width)
        self.length_width = require_positive("length_width", length_width)
        if width > pitch_width:
            raise ValueError(f"width must be at most pitch_width, {pitch_width}, not {width!r}")
        super().__init__({
            "start": In(1), "step": In(1), "run_length": In(length_width),
            "run_pitch": In(pitch_width), "offset": Out(width + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        passed = Signal(self.length_width)
        run = Signal(self.width + 1)
        crossing = Signal()
        following = Signal(self.width + 1)
        m.d.comb += [
            crossing.eq(passed == self.run_length),
            following.eq(saturating_add(
                Mux(crossing, run, self.offset),
                Mux(crossing, saturate(self.run_pitch, self.width), 1), self.width)),
        ]
        with m.If(self.start):
            m.d.sync += [self.offset.eq(0), run.eq(0), passed.eq(1)]
        with m.Elif(self.step):
            m.d.sync += [self.offset.eq(following), passed.eq(passed + 1)]
            with m.If(crossing):
                m.d.sync += [run.eq(following), passed.eq(1)]
        return m
