"""Where the elements of a row stand in their bins."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["BIN_BITS", "INDEX_BITS", "LANES", "Positions", "require_lanes"]

#: Elements a cycle that can be chosen.
LANES = (1, 4, 8, 16)
BIN_BITS, INDEX_BITS = 15, 14


def require_lanes(lanes: object) -> int:
    """`lanes` itself. Raises ValueError unless it is one of LANES."""
    if lanes not in LANES:
        raise ValueError(f"lanes must be one of {', '.join(map(str, LANES))}, not {lanes!r}")
    return lanes


class Positions(wiring.Component):
    """Counts through the rows of layers, `lanes` elements each. No latency.

    Members
    -------
    bin_size : In(15), last_element : In(32)
        Of the current layer: its bin size and its number of elements less one.
    take : In(1)
        Go on to the next row, or after the last one to the first row of the next layer.
    index : Out(lanes indices)
        Of each element in its bin.
    valid, end : Out(lanes)
        Which lanes hold elements; which of them are the last one of their bin.
    first, last : Out(1)
        The row is the first, the last one of its layer.
    """

    bin_size: Signal
    last_element: Signal
    take: Signal
    index: Any
    valid: Signal
    end: Signal
    first: Signal
    last: Signal

    def __init__(self, *, lanes: int) -> None:
        self.lanes = require_lanes(lanes)
        super().__init__({
            "bin_size": In(BIN_BITS), "last_element": In(32), "take": In(1),
            "index": Out(data.ArrayLayout(INDEX_BITS, lanes)),
            "valid": Out(lanes), "end": Out(lanes), "first": Out(1), "last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        begins = Signal(init=1)
        left = Signal(32, name="left")            # elements after this row's first one
        following = Signal(data.ArrayLayout(INDEX_BITS, lanes))
        left_before = Signal(32)
        m.d.comb += [self.first.eq(begins), left.eq(Mux(begins, self.last_element, left_before))]

        # Small bins: the place of lane j, and of the row's first element `lanes` further on.
        places = [Signal(range(lanes), name=f"place_{j}") for j in range(lanes)]
        step = Signal(range(lanes + 1))
        m.d.comb += [step.eq(lanes), *(place.eq(j) for j, place in enumerate(places))]
        with m.Switch(self.bin_size):
            for size in range(1, lanes + 1):
                with m.Case(size):
                    m.d.comb += [step.eq(lanes % size),
                                 *(place.eq(j % size) for j, place in enumerate(places))]
        for j in range(lanes):
            index = Signal(INDEX_BITS, name=f"index_{j}")
            beyond = Signal(INDEX_BITS + 2, name=f"beyond_{j}")
            m.d.comb += [
                index.eq(Mux(begins, places[j], following[j])),
                self.index[j].eq(index),
                beyond.eq(index + step - self.bin_size),
            ]
            with m.If(self.take):
                m.d.sync += following[j].eq(Mux(beyond[-1], index + step, beyond))

        low = exact_log2(lanes)
        m.d.comb += self.last.eq(~left[low:].any())
        final = self.bin_size - 1
        for j in range(lanes):
            m.d.comb += [
                self.valid[j].eq(~self.last | (left[:low] >= j)),
                self.end[j].eq(self.valid[j] & ((self.index[j] == final)
                                                | (self.last & (left[:low] == j)))),
            ]
        with m.If(self.take):
            m.d.sync += [begins.eq(self.last), left_before.eq(left - lanes)]
        return m

