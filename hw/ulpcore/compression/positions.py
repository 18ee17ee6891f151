"""Where the elements of a row stand in their bins."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..float32 import delay

__all__ = ["BIN_BITS", "INDEX_BITS", "LANES", "Indices", "Positions", "require_lanes"]

#: Elements a cycle that can be chosen.
LANES = (1, 4, 8, 16)
BIN_BITS, INDEX_BITS = 15, 14


def require_lanes(lanes: object) -> int:
    """`lanes` itself. Raises ValueError unless it is one of LANES."""
    if lanes not in LANES:
        raise ValueError(f"lanes must be one of {', '.join(map(str, LANES))}, not {lanes!r}")
    return lanes


class Positions(wiring.Component):
    """Counts through the rows of layers, `lanes` elements each.

    What it counts is how far behind the row's first element the first end of a bin is. Others
    follow it in the row if bins are small: a bit for every one, shifted by as much. A row is
    described a cycle ahead, so that its description comes from registers.

    Parameters
    ----------
    lanes
    layer
        The shape of what goes with a layer's rows.

    Members
    -------
    layers : In(stream(layer)), bin_size : In(15), last_element : In(32)
        The layer that comes next, its bin size and its number of elements less one.
    take : In(1)
        Go on to the next row.
    active : Out(1)
        There is a row. The following describe it:
    layer : Out(layer)
        Its layer.
    to_end : Out(14)
        From its first element to the last one of its bin.
    valid, end : Out(lanes)
        Which lanes hold elements; which of them are the last one of their bin.
    closes : Out(1)
        A bin that began in a row before ends here.
    continues, tail : Out(1)
        Its first element is not the first one of its bin, its last one not the last one.
    first, last : Out(1)
        It is the first, the last one of its layer.
    """

    layers: Any
    bin_size: Signal
    last_element: Signal
    take: Signal
    active: Signal
    layer: Any
    to_end: Signal
    valid: Signal
    end: Signal
    closes: Signal
    continues: Signal
    tail: Signal
    first: Signal
    last: Signal

    def __init__(self, *, lanes: int, layer: Any) -> None:
        self.lanes = require_lanes(lanes)
        super().__init__({
            "layers": In(stream.Signature(layer)), "bin_size": In(BIN_BITS),
            "last_element": In(32), "take": In(1), "active": Out(1), "layer": Out(layer),
            "to_end": Out(INDEX_BITS), "valid": Out(lanes), "end": Out(lanes), "closes": Out(1),
            "continues": Out(1), "tail": Out(1), "first": Out(1), "last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        low = exact_log2(lanes)
        # Of the layer: ends of bins from the first one on, and how a row changes `to_end`.
        ends, ends_loaded = Signal(lanes), Signal(lanes)
        back, back_loaded = Signal(range(lanes + 1)), Signal(range(lanes + 1))
        on = Signal(BIN_BITS)
        m.d.comb += [ends_loaded.eq(1), back_loaded.eq(lanes)]
        with m.Switch(self.bin_size):
            for size in range(1, lanes + 1):
                with m.Case(size):
                    m.d.comb += [ends_loaded.eq(sum(1 << i for i in range(0, lanes, size))),
                                 back_loaded.eq(lanes % size)]

        # The row that is counted, one ahead of the row that is described.
        counted, layer = Signal(), Signal(self.layer.shape())
        first, continues = Signal(), Signal()
        left = Signal(32)                         # elements after the row's first one
        to_end, nearer = Signal(INDEX_BITS), Signal(INDEX_BITS + 1)
        last, valid, end = Signal(), Signal(lanes), Signal(lanes)
        advance = Signal()
        m.d.comb += [
            advance.eq(counted & (~self.active | self.take)),
            self.layers.ready.eq(~counted | (advance & last)),
            nearer.eq(to_end - back)]
        with m.If(advance):
            m.d.sync += [
                to_end.eq(Mux(nearer[-1], to_end + on, nearer)), continues.eq(~end[-1]),
                left.eq(left - lanes), first.eq(0), counted.eq(~last)]
        with m.If(self.layers.valid & self.layers.ready):
            m.d.sync += [
                counted.eq(1), layer.eq(self.layers.payload), first.eq(1), continues.eq(0),
                left.eq(self.last_element), to_end.eq(self.bin_size - 1),
                on.eq(self.bin_size - back_loaded), ends.eq(ends_loaded), back.eq(back_loaded)]

        m.d.comb += last.eq(~left[low:].any())
        final = left[:low] if low else Const(0, 1)
        shifted: Value = ends & (~to_end[low:].any()).replicate(lanes)
        for bit in range(low):
            shifted = Mux(to_end[bit], shifted << (1 << bit), shifted)[:lanes]
        for j in range(lanes):
            m.d.comb += [
                valid[j].eq(~last | (final >= j) if j else 1),
                end[j].eq(valid[j] & shifted[j] | last & (final == j)),
            ]
        with m.If(advance):
            m.d.sync += [
                self.active.eq(1), self.to_end.eq(to_end), self.valid.eq(valid), self.end.eq(end),
                self.closes.eq(continues & (last | ~to_end[low:].any())),
                self.continues.eq(continues), self.tail.eq(~end[-1] & ~last),
                self.first.eq(first), self.last.eq(last)]
            with m.If(first):
                m.d.sync += self.layer.eq(layer)
        with m.Elif(self.take):
            m.d.sync += self.active.eq(0)
        return m


class Indices(wiring.Component):
    """The index of each element of a row in its bin; 2 cycles.

    Members
    -------
    bin_size : In(15), to_end : In(14), end : In(lanes)
        Of the row, as `Positions` has it.
    index : Out(lanes indices)
    """

    bin_size: Signal
    to_end: Signal
    end: Signal
    index: Any

    latency = 2

    def __init__(self, *, lanes: int) -> None:
        self.lanes = require_lanes(lanes)
        super().__init__({
            "bin_size": In(BIN_BITS), "to_end": In(INDEX_BITS), "end": In(lanes),
            "index": Out(data.ArrayLayout(INDEX_BITS, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        low = exact_log2(lanes)
        # Elements between each lane and the last end before it; whether there is one.
        known: list[Value] = [Const(0, 1), *(self.end[j] for j in range(lanes - 1))]
        behind: list[Value] = [Const(0, max(low, 1))] * lanes
        for step in range(low):
            distance = 1 << step
            was, were = list(known), list(behind)
            for j in range(distance, lanes):
                known[j] = was[j] | was[j - distance]
                behind[j] = (~was[j] if step == 0 else
                             Cat(Mux(was[j], were[j], were[j - distance])[:step], ~was[j]))
        first = Signal(INDEX_BITS, name="first_index")
        m.d.sync += first.eq(self.bin_size - 1 - self.to_end)
        following = Signal(INDEX_BITS - low, name="following")
        m.d.comb += following.eq(first[low:] + 1)
        for j in range(lanes):
            starts = delay(m, known[j], 1, name=f"known_{j}")
            place = delay(m, behind[j], 1, name=f"behind_{j}")
            near: Value = first
            if j:
                far = Signal(low + 1, name=f"far_{j}")
                m.d.comb += far.eq(first[:low] + j)
                near = Cat(far[:low], Mux(far[low], following, first[low:]))
            m.d.sync += self.index[j].eq(Mux(starts, place, near))
        return m
