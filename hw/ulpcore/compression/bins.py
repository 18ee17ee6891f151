"""The maxima of bins, and which elements reach them: the encoder's bin buffer."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.compression.adacomp import LARGEST_BIN

from ..float32 import delay
from .layer import SentLayer
from .positions import INDEX_BITS, Indices, Positions, require_lanes

__all__ = ["MAXIMA", "Bins", "choose"]

#: Rows beyond one bin that there is room for: those that are on their way to the ring and from it.
_SLACK = 64
#: Bins over several rows whose maximum is known and which have not been read.
MAXIMA = 64
#: None is read where it is being written.
_NO_COLLISIONS: Any = {"no_rw_check": 1}
_BLOCK_RAM: Any = {"no_rw_check": 1, "ram_style": "block"}


class Bins(wiring.Component):
    """Rows of G and |H| in; the same rows and which of their elements are to be sent out.

    Only when the last element of a bin is there is its maximum known. In a ring of rows the
    elements wait for it: while a bin is being read, the next one fills the places behind it, so
    that one bin and a few rows are room enough for reading and writing without a break. The few
    rows have a queue of their own in front of the ring, which so is a power of two if the largest
    bin is. What is known when a row is written, its bins that end there, is decided before; for
    the others, all of one bin, the row asks when it is read.

    The caller sees to it that no more than `rows` rows are on their way from `row_valid` to
    `released`, and no more than MAXIMA bins that began in another row than they end in, from
    `row_valid` to `closed`.

    Parameters
    ----------
    lanes
    largest_bin
        Elements of the largest bin that is to fit.

    Members
    -------
    row_valid, total, total_magnitude, threshold_magnitude, end, continues, last, store, refused
        A row: its lanes as they leave `Accumulate`; which are the last of their bins; whether its
        first element goes on with a bin; whether it is the layer's last; whether it is to be kept
        and not measured alone.
    sum_valid, sum, bins
        For the last row of each layer, the sum of the maxima of its bins, and their number.
    layers : In(stream(SentLayer))
        Those whose rows are to be read next.
    ready : Out(1), read : In(1), reading_first : Out(1), reading : Out(SentLayer)
        The next row can be read; read it; whether it is its layer's first one; its layer.
    released, closed : Out(1)
        Room for a row, for a maximum, has become free.
    read_valid, read_total, read_sent, read_index, read_end, read_last, read_refused
        The row, `read_latency` cycles later.
    """

    read_latency = 3

    row_valid: Signal
    total: Any
    total_magnitude: Any
    threshold_magnitude: Any
    end: Signal
    continues: Signal
    last: Signal
    store: Signal
    refused: Signal
    sum_valid: Signal
    sum: Signal
    bins: Signal
    layers: Any
    ready: Signal
    read: Signal
    reading_first: Signal
    reading: Any
    released: Signal
    closed: Signal
    read_valid: Signal
    read_total: Any
    read_sent: Signal
    read_index: Any
    read_end: Signal
    read_last: Signal
    read_refused: Signal

    def __init__(self, *, lanes: int, largest_bin: int = LARGEST_BIN) -> None:
        self.lanes = require_lanes(lanes)
        if not isinstance(largest_bin, int) or not 1 <= largest_bin <= LARGEST_BIN:
            raise ValueError(f"largest_bin must be an integer from 1 to {LARGEST_BIN}, not "
                             f"{largest_bin!r}")
        self.largest_bin = largest_bin
        self.ring_rows = max(-(-largest_bin // lanes), 2)
        self.rows = self.ring_rows + _SLACK
        words = data.ArrayLayout(32, lanes)
        super().__init__({
            "row_valid": In(1), "total": In(words), "total_magnitude": In(words),
            "threshold_magnitude": In(words), "end": In(lanes),
            "continues": In(1), "last": In(1), "store": In(1), "refused": In(1),
            "sum_valid": Out(1), "sum": Out(64), "bins": Out(32),
            "layers": In(stream.Signature(SentLayer)),
            "ready": Out(1), "read": In(1), "reading_first": Out(1), "reading": Out(SentLayer),
            "released": Out(1), "closed": Out(1),
            "read_valid": Out(1), "read_total": Out(words), "read_sent": Out(lanes),
            "read_index": Out(data.ArrayLayout(INDEX_BITS, lanes)), "read_end": Out(lanes),
            "read_last": Out(1), "read_refused": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        scans = exact_log2(lanes)
        magnitudes = [self.total_magnitude[j] for j in range(lanes)]

        # Maxima from the beginning of each lane's bin, or of the row, to the lane.
        starts = Cat(Const(0, 1), self.end[:-1])
        largest, begun = list(magnitudes), [starts[j] for j in range(lanes)]
        for scan in range(scans):
            distance = 1 << scan
            before, stops = list(largest), list(begun)
            for j in range(lanes):
                value = before[j]
                if j >= distance:
                    other = before[j - distance]
                    value = Mux((other > value) & ~stops[j], other, value)
                    begun[j] = stops[j] | stops[j - distance]
                largest[j] = delay(m, value, 1, name=f"maximum_{scan}_{j}")
                begun[j] = delay(m, begun[j], 1, name=f"begun_{scan}_{j}")

        row = Signal(data.StructLayout({"valid": 1, "end": lanes, "continues": 1, "last": 1,
                                        "store": 1, "refused": 1}))
        m.d.comb += [
            row.valid.eq(self.row_valid), row.end.eq(self.end & self.row_valid.replicate(lanes)),
            row.continues.eq(self.continues), row.last.eq(self.last), row.store.eq(self.store),
            row.refused.eq(self.refused)]

        def at(stage: int) -> Any:
            """The row's description `stage` cycles after it came."""
            if stage not in stages:
                signal = Signal(row.shape(), name=f"row_{stage}")
                m.d.sync += signal.eq(at(stage - 1))
                stages[stage] = signal
            return stages[stage]

        stages: dict[int, Any] = {0: row}

        # The bin that goes on from the row before ends in this row, or takes in all of it.
        scanned = at(scans)
        first_end = [scanned.end[j] & ~(scanned.end[:j].any() if j else Const(0, 1))
                     for j in range(lanes)]
        head = delay(m, choose(first_end, largest), 1, name="head")
        whole = delay(m, largest[-1], 1, name="whole_row")
        running = Signal(32)
        known = at(scans + 1)
        head_maximum = Signal(32)
        m.d.sync += head_maximum.eq(Mux(running > head, running, head))
        with m.If(known.valid):
            with m.If(known.end.any()):
                m.d.sync += running.eq(Mux(known.end[-1] | known.last, 0, whole))
            with m.Elif(whole > running):
                m.d.sync += running.eq(whole)

        # The maximum of a bin that begins and ends in the row comes back from its end.
        own = list(largest)
        ends = [scanned.end[j] for j in range(lanes)]
        distance, stage = 1, 0
        while stage < 2:
            for _ in range(2):
                if distance < lanes:
                    before, stops = list(own), list(ends)
                    for j in range(lanes - distance):
                        own[j] = Mux(stops[j], before[j], before[j + distance])
                        ends[j] = stops[j] | stops[j + distance]
                    distance *= 2
            own = [delay(m, value, 1, name=f"own_{stage}_{j}") for j, value in enumerate(own)]
            ends = [delay(m, value, 1, name=f"own_end_{stage}_{j}") for j, value in enumerate(ends)]
            stage += 1
        combined = at(scans + 2)
        maximum = [delay(m, Mux(combined.end[:j].any() if j else Const(0, 1), own[j], head_maximum),
                         1, name=f"bin_maximum_{j}") for j in range(lanes)]
        decided = delay(m, Cat(combined.end[j:].any() for j in range(lanes)), 2, name="decided")

        # Their sum, a row at a time: all but the first by a tree, while the first is being found.
        others = [delay(m, Mux(scanned.end[j] & ~first_end[j], value, 0), 1, name=f"other_{j}")
                  for j, value in enumerate(largest)]
        number: Value = delay(m, sum(scanned.end[j] for j in range(lanes)), 1, name="ends")
        depth = 1
        while len(others) > 1:
            others = [delay(m, a + b, 1, name=f"others_{depth}_{j}")
                      for j, (a, b) in enumerate(zip(others[::2], others[1::2], strict=True))]
            depth += 1
        total_stage = max(depth, 2)
        other = delay(m, others[0], total_stage - depth, name="others_late")
        head_end = delay(m, head_maximum & combined.end.any().replicate(32), total_stage - 2,
                         name="head_late")
        row_sum = delay(m, other + head_end, 1, name="row_sum")
        number = delay(m, number, total_stage, name="row_bins")
        summed = at(scans + total_stage + 1)
        total, bins = Signal(64), Signal(32)
        with m.If(summed.valid):
            m.d.sync += [total.eq(Mux(summed.last, 0, self.sum)),
                         bins.eq(Mux(summed.last, 0, self.bins))]
        m.d.comb += [self.sum.eq(total + row_sum), self.bins.eq(bins + number),
                     self.sum_valid.eq(summed.valid & summed.last)]

        # Decide what can be decided. An element that is zero has no sign to send.
        write_stage = scans + 5
        m.submodules.queue = queue = Memory(
            shape=data.StructLayout({"refused": 1, "may": lanes,
                                     "total": data.ArrayLayout(32, lanes),
                                     "threshold": data.ArrayLayout(32, lanes)}),
            depth=_SLACK, init=[], attrs=_BLOCK_RAM)
        enter, leave = queue.write_port(), queue.read_port()
        arriving = Signal(queue.shape, name="arriving")
        for j in range(lanes):
            threshold = delay(m, self.threshold_magnitude[j], write_stage - 2,
                              name=f"threshold_{j}")
            reaches = delay(m, threshold >= maximum[j], 1, name=f"reaches_{j}")
            total = delay(m, self.total[j], write_stage - 2, name=f"total_{j}")
            nonzero = delay(m, total.any(), 1, name=f"nonzero_{j}")
            m.d.sync += [
                arriving.may[j].eq(nonzero & (reaches | ~decided[j])),
                arriving.threshold[j].eq(delay(m, threshold, 1, name=f"threshold_late_{j}")),
                arriving.total[j].eq(delay(m, total, 1, name=f"total_late_{j}"))]
        m.d.sync += arriving.refused.eq(at(write_stage - 1).refused)
        arrived = at(write_stage)
        keep, move = Signal(name="keep"), Signal(name="move")
        queued, ring_level = Signal(range(_SLACK + 1)), Signal(range(self.ring_rows + 1))
        enter_row, leave_row = Signal(range(_SLACK)), Signal(range(_SLACK))
        m.d.comb += [
            keep.eq(arrived.valid & arrived.store), enter.en.eq(keep), enter.addr.eq(enter_row),
            enter.data.eq(arriving), move.eq(queued.any() & (ring_level != self.ring_rows)),
            leave.en.eq(move), leave.addr.eq(leave_row)]
        m.d.sync += [enter_row.eq(enter_row + keep), leave_row.eq(leave_row + move),
                     queued.eq(queued + keep - move), ring_level.eq(ring_level + move - self.read)]

        m.submodules.ring = ring = Memory(shape=queue.shape, depth=self.ring_rows, init=[],
                                          attrs=_NO_COLLISIONS)
        write, read = ring.write_port(), ring.read_port()
        moved = delay(m, move, 1, name="moved", reset=True)
        write_row = Signal(range(self.ring_rows))
        m.d.comb += [write.en.eq(moved), write.data.eq(leave.data), write.addr.eq(write_row)]
        with m.If(moved):
            m.d.sync += write_row.eq(Mux(write_row == self.ring_rows - 1, 0, write_row + 1))

        # Maxima of the bins that ended in another row than they began in.
        m.submodules.maxima = maxima = Memory(shape=32, depth=MAXIMA, init=[])
        push, look = maxima.write_port(), maxima.read_port(domain="comb")
        pushed = Signal(range(MAXIMA))
        closes = Signal()
        m.d.comb += [
            closes.eq(combined.valid & combined.store & combined.continues & combined.end.any()),
            push.en.eq(closes), push.addr.eq(pushed),
            push.data.eq(head_maximum)]
        m.d.sync += pushed.eq(pushed + closes)

        # Reading.
        m.submodules.positions = positions = Positions(lanes=lanes, layer=SentLayer)
        m.submodules.indices = indices = Indices(lanes=lanes)
        wiring.connect(m, wiring.flipped(self.layers), positions.layers)
        looked = Signal(range(MAXIMA))
        coming = self.layers.payload
        one_row, _ = _at_least(m, self.ring_rows, moved, self.read, name="waiting")
        one_maximum, two_maxima = _at_least(m, MAXIMA, closes, self.closed, name="known_maxima")
        known = two_maxima | (one_maximum & ~positions.closes)
        m.d.comb += [
            positions.bin_size.eq(coming.header.bin_size),
            positions.last_element.eq(coming.last_element), positions.take.eq(self.read),
            look.addr.eq(looked + positions.closes),
            self.ready.eq(positions.active & one_row & (~positions.tail | known)),
            self.released.eq(self.read), self.closed.eq(self.read & positions.closes),
            read.en.eq(self.read), self.reading_first.eq(positions.first),
            self.reading.eq(positions.layer),
            indices.bin_size.eq(positions.layer.header.bin_size),
            indices.to_end.eq(positions.to_end), indices.end.eq(positions.end),
        ]
        read_row = Signal(range(self.ring_rows))
        m.d.comb += read.addr.eq(read_row)
        with m.If(self.read):
            m.d.sync += [looked.eq(looked + positions.closes),
                         read_row.eq(Mux(read_row == self.ring_rows - 1, 0, read_row + 1))]

        least = delay(m, look.data, 2, name="least")
        from_ring = Signal(ring.shape, name="from_ring")
        m.d.sync += from_ring.eq(read.data)
        latency = self.read_latency
        m.d.comb += self.read_valid.eq(delay(m, self.read, latency, name="read_valid", reset=True))
        for name, value in (("end", positions.end), ("last", positions.last)):
            m.d.comb += getattr(self, f"read_{name}").eq(
                delay(m, value, latency, name=f"read_{name}_late"))
        m.d.sync += self.read_refused.eq(from_ring.refused)
        end = delay(m, positions.end, 2, name="end_from_ring")
        for j in range(lanes):
            m.d.comb += self.read_index[j].eq(
                delay(m, indices.index[j], latency - indices.latency, name=f"read_index_{j}"))
            m.d.sync += [self.read_total[j].eq(from_ring.total[j]),
                         self.read_sent[j].eq(from_ring.may[j] & (
                             end[j:].any() | (from_ring.threshold[j] >= least)))]
        return m


def _at_least(m: Module, most: int, comes: Value, goes: Value, *, name: str
              ) -> tuple[Signal, Signal]:
    """A count from 0 to `most`: whether it is at least 1, at least 2, from registers."""
    count = Signal(range(most + 1), name=name)
    one, two = Signal(name=f"{name}_1"), Signal(name=f"{name}_2")
    beyond = Signal(name=f"{name}_3")
    m.d.comb += beyond.eq(count[2:].any() | count[:2].all())
    m.d.sync += [count.eq(count + comes - goes), one.eq(comes | two | (one & ~goes)),
                 two.eq(beyond | (two & (comes | ~goes)) | (one & comes & ~goes))]
    return one, two


def choose(one_hot: list[Value], values: list[Value]) -> Value:
    """The value whose bit is set; 0 if none is."""
    chosen: Value = Const(0, len(values[0]))
    for bit, value in zip(one_hot, values, strict=True):
        chosen = chosen | (value & bit.replicate(len(value)))
    return chosen
