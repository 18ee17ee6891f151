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
        self.stride_width = require_positive("stride_width", stride_width)
        self.levels = require_positive("levels", levels)
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
        # starts[i] is where the current iteration of loop i began; the innermost one's is the
        # address.
        starts, strides = ([Signal(self.width + 1, name=f"{name}_{i}", reset_less=True)
                            for i in range(self.levels)] for name in ("start", "stride"))
        # ends[i]: loop i and all loops within it are in their last iterations; a register, so that
        # what hangs on `last` can be far away.
        ends = [Signal(name=f"end_{i}") for i in range(self.levels)] + [Const(1, 1)]
        coming_ends: list[Value] = [Const(1, 1)]
        for i in reversed(range(self.levels)):
            coming_ends.insert(0, coming_ends[0] & self._count(m, i, ends))
            m.d.sync += ends[i].eq(coming_ends[0])
        m.d.comb += [self.address.eq(starts[-1]), self.last.eq(ends[0]),
                     self.coming_last.eq(coming_ends[0])]

        # The loop that goes on is the innermost one that is not at its end. Where it goes on from
        # and by how much is chosen a cycle ahead. Loops that have just begun anew begin where the
        # address is: only an outer one goes on from elsewhere, and there nothing has changed.
        first_stride, stride, outer = (Signal(self.width + 1, name=name, reset_less=True)
                                       for name in ("first_stride", "next_stride", "outer_start"))
        from_outer = Signal(reset_less=True)
        singles = [Cat(count == 1 for count in list(self.counts)[i:]).all()
                   for i in range(self.levels)] + [Const(1, 1)]
        goes_further_out = _continuing(ends, coming_ends[:-1])
        m.d.sync += [
            first_stride.eq(_continuing(singles, [saturate(s, self.width) for s in self.strides])),
            stride.eq(Mux(self.start, first_stride, _continuing(coming_ends, strides))),
            outer.eq(_continuing(coming_ends, starts)),
            from_outer.eq(~self.start & Mux(self.step, goes_further_out, coming_ends[-2])),
        ]
        following = Signal(self.width + 1)
        m.d.comb += following.eq(saturating_add(
            Mux(from_outer, outer, self.address), stride, self.width))
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
        count, left = (Signal(self.count_width, name=f"{name}_{i}", reset_less=True)
                       for name in ("count", "left"))
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


def _continuing(ends: Sequence[Value], values: Sequence[Value]) -> Value:
    """The value of the loop that goes on: the innermost one that is not at its end, if any."""
    chosen = values[0]
    for i in range(1, len(values)):
        chosen = Mux(ends[i], chosen, values[i])
    return chosen


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
        passed = Signal(self.length_width, reset_less=True)
        run = Signal(self.width + 1, reset_less=True)
        offset = Signal(self.width + 1, reset_less=True)
        crossing = Signal()
        following = Signal(self.width + 1)
        m.d.comb += [
            crossing.eq(passed == self.run_length),
            self.offset.eq(offset),
            following.eq(saturating_add(
                Mux(crossing, run, offset),
                Mux(crossing, saturate(self.run_pitch, self.width), 1), self.width)),
        ]
        with m.If(self.start):
            m.d.sync += [offset.eq(0), run.eq(0), passed.eq(1)]
        with m.Elif(self.step):
            m.d.sync += [offset.eq(following), passed.eq(passed + 1)]
            with m.If(crossing):
                m.d.sync += [run.eq(following), passed.eq(1)]
        return m
