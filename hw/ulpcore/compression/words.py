"""Words from rows of sent elements: twin of `ulpsim.compression.words`."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from ulpsim.compression.words import BYTE_BIN, MINUS, PLUS

from ..float32 import delay
from .bins import choose
from .positions import BIN_BITS, INDEX_BITS, require_lanes

__all__ = ["WORD_BITS", "Words", "ahead_bits", "slot_layout"]

WORD_BITS = 16


def ahead_bits(lanes: int) -> int:
    """Bits of a number of bins within a row."""
    return ceil_log2(lanes + 1)


def slot_layout(lanes: int) -> data.StructLayout:
    """A word, and how many bins its element or its skip's target is ahead of the row's first."""
    return data.StructLayout({"word": WORD_BITS, "ahead": ahead_bits(lanes)})


class Words(wiring.Component):
    """At most one word for each lane: its element, or the skip in front of the next element.

    A skip is only ever needed behind an element that is not sent, so it has that one's place: the
    last one of the row before, if it is in front of a row's first element. Therefore a row waits
    here until the next one comes, unless it is the last of its layer. Rows are never held up: what
    follows has room for as many as are under way.

    Members
    -------
    row_valid, sent, negative, index, end, last, refused, bin_size
        A row as `Bins` has it.
    out_valid, used, slots, base, out_last, out_refused
        Later, the row's words: in which lanes there are any, and the bin of the row's first
        element.
    """

    row_valid: Signal
    sent: Signal
    negative: Signal
    index: Any
    end: Signal
    last: Signal
    refused: Signal
    bin_size: Signal
    out_valid: Signal
    used: Signal
    slots: Any
    base: Signal
    out_last: Signal
    out_refused: Signal

    def __init__(self, *, lanes: int) -> None:
        self.lanes = require_lanes(lanes)
        super().__init__({
            "row_valid": In(1), "sent": In(lanes), "negative": In(lanes),
            "index": In(data.ArrayLayout(INDEX_BITS, lanes)), "end": In(lanes),
            "last": In(1), "refused": In(1), "bin_size": In(BIN_BITS),
            "out_valid": Out(1), "used": Out(lanes),
            "slots": Out(data.ArrayLayout(slot_layout(lanes), lanes)), "base": Out(32),
            "out_last": Out(1), "out_refused": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, bits = self.lanes, ahead_bits(self.lanes)

        def later(name: str, value: Any) -> Value:
            return delay(m, value, 1, name=name)

        # Bins that have ended before each lane, and in the row.
        valid = delay(m, self.row_valid, 1, name="counted", reset=True)
        ahead = [later(f"ahead_{j}", _count(self.end[:j], bits)) for j in range(lanes + 1)]
        sent, negative, end = (later(name, getattr(self, name))
                               for name in ("sent", "negative", "end"))
        # The first and the last sent element.
        lowest = [later(f"lowest_{j}", self.sent[j] & ~Cat(self.sent[:j], 0).any())
                  for j in range(lanes)]
        highest = [later(f"highest_{j}", self.sent[j] & ~Cat(self.sent[j + 1:], 0).any())
                   for j in range(lanes)]
        index = [later(f"index_{j}", self.index[j]) for j in range(lanes)]
        last, refused = (later(name, getattr(self, name)) for name in ("last", "refused"))
        small = later("small", self.bin_size <= BYTE_BIN)
        bin_size = later("bin_size", self.bin_size)

        # Where those two are; skips between elements of the row.
        any_sent = later("any_sent", sent.any())
        first_ahead = later("first_ahead", choose(lowest, ahead[:lanes]))
        first_index = later("first_index", choose(lowest, index))
        last_ahead = later("last_ahead", choose(highest, ahead[:lanes]))
        last_index = later("last_index", choose(highest, index))
        is_first = later("is_first", Cat(lowest))
        # The lane before that is sent, and its bin: carried over those that are not.
        place = [Cat(ahead[j], Const(j, bits)) for j in range(lanes)]
        has = [sent[j] for j in range(lanes)]
        previous = [Const(0, 2 * bits), *place[:-1]]
        known = [Const(0, 1), *has[:-1]]
        distance = 1
        while distance < lanes:
            before, was = list(previous), list(known)
            for j in range(distance, lanes):
                previous[j] = Mux(was[j], before[j], before[j - distance])
                known[j] = was[j] | was[j - distance]
            distance *= 2
        previous = [later(f"previous_{j}", value) for j, value in enumerate(previous)]
        valid = delay(m, valid, 1, name="linked", reset=True)
        ahead = [later(f"ahead_linked_{j}", value) for j, value in enumerate(ahead)]
        sent, negative, end, last, refused, small, bin_size = (
            later(f"linked_{name}", value) for name, value in (
                ("sent", sent), ("negative", negative), ("end", end),
                ("last", last), ("refused", refused), ("small", small), ("bin_size", bin_size)))
        index = [later(f"index_linked_{j}", value) for j, value in enumerate(index)]

        # State from row to row: bins from the last word's to the row's first element, its index.
        distance = Signal(BIN_BITS, name="distance")
        last_word = Signal(INDEX_BITS, name="last_word_index")
        fresh = Signal(name="fresh", init=1)
        base = Signal(32, name="current_base")
        longest = Cat(Const(0, 6), small, Const(0, 7), ~small)

        def past(value: Value) -> Value:
            return Mux(small, value[6], value[14])

        to_first = Signal(BIN_BITS + 1, name="to_first")
        to_end = Signal(BIN_BITS + 1, name="to_end")
        to_next = Signal(BIN_BITS + 1, name="to_next")
        m.d.comb += [
            to_first.eq(distance + first_ahead),
            to_end.eq(distance + ahead[lanes] - (end[-1] | last)),
            to_next.eq(distance + ahead[lanes]),
        ]
        # A skip of the longest kind, where the bin begins that is so far from the last word.
        cap = Signal(name="cap")
        m.d.comb += cap.eq(Mux(any_sent, past(to_first), past(to_end)))
        rest = Signal(BIN_BITS, name="rest")
        m.d.comb += rest.eq(to_first & ~longest)
        with m.If(valid):
            m.d.sync += base.eq(base + ahead[lanes])
            with m.If(any_sent):
                m.d.sync += [distance.eq(ahead[lanes] - last_ahead), last_word.eq(last_index),
                             fresh.eq(0)]
            with m.Else():
                m.d.sync += [distance.eq(Mux(cap, to_next & ~longest, to_next)),
                             fresh.eq(fresh | cap)]
            with m.If(last):
                m.d.sync += [base.eq(0), distance.eq(0), fresh.eq(1)]

        # Skips in the row, and everything else a cycle later.
        inner, gaps = [Const(0, 1)] * lanes, []
        for j in range(lanes):
            gap, lanes_back = ahead[j] - previous[j][:bits], j - previous[j][bits:]
            gaps.append(later(f"gap_{j}", (gap - 1)[:bits]))
            if j >= 2:
                after_first = sent[j] & ~is_first[j]
                inner[j] = later(f"inner_{j}", after_first & (
                    (gap[:bits] > 1)
                    | ((gap[:bits] == 1) & (lanes_back[:bits] > bin_size))))
        skip_far = later("skip_far", any_sent & rest[1:].any())
        skip_near = later("skip_near", any_sent & rest[0])
        skip_first = skip_far | (skip_near & later(
            "skip_needed", cap | fresh | (first_index > last_word)))
        rest_before = later("rest_before", rest - 1)
        reached = later("reached", (-distance)[:5])
        valid = delay(m, valid, 1, name="skipped", reset=True)
        ahead = [later(f"ahead_skipped_{j}", value) for j, value in enumerate(ahead)]
        index = [later(f"index_skipped_{j}", value) for j, value in enumerate(index)]
        sent, negative, end, last, refused, longest, cap, is_first, row_base = (
            later(f"skipped_{name}", value) for name, value in (
                ("sent", sent), ("negative", negative), ("end", end), ("last", last),
                ("refused", refused), ("longest", longest - 1), ("cap", cap),
                ("is_first", is_first), ("base", base)))
        skips, skip_index = [], []
        for j in range(lanes):
            begins = end[j - 1] if j else Const(1, 1)
            is_cap = cap & begins & (reached == ahead[j])
            skips.append(is_cap | (skip_first & is_first[j]) | inner[j])
            skip_index.append(Mux(is_cap, longest,
                                  Mux(is_first[j], rest_before, gaps[j]))[:INDEX_BITS])

        # The row waits for the next one's first lane.
        held = Signal(data.StructLayout({
            "valid": 1, "last": 1, "refused": 1, "base": 32, "used": lanes, "open": 1,
            "slots": data.ArrayLayout(slot_layout(lanes), lanes)}))
        with m.If(valid):
            m.d.sync += [held.valid.eq(1), held.last.eq(last), held.refused.eq(refused),
                         held.base.eq(row_base), held.open.eq(~sent[-1])]
            for j in range(lanes):
                follower = skips[j + 1] if j + 1 < lanes else Const(0, 1)
                following = skip_index[j + 1] if j + 1 < lanes else Const(0, INDEX_BITS)
                m.d.sync += [
                    held.used[j].eq(sent[j] | follower),
                    held.slots[j].word.eq(Mux(
                        sent[j], Cat(Mux(negative[j], MINUS, PLUS)[:2], index[j]),
                        Cat(Const(0, 2), following))),
                    held.slots[j].ahead.eq(Mux(sent[j], ahead[j], ahead[j + 1])),
                ]
        with m.Elif(held.last):
            m.d.sync += held.valid.eq(0)
        take_skip = Signal(name="take_skip")
        m.d.comb += take_skip.eq(~held.last & held.open & skips[0])
        m.d.sync += [
            self.out_valid.eq(held.valid & (held.last | valid)),
            self.used.eq(Cat(held.used[:-1], held.used[-1] | take_skip)),
            self.slots.eq(held.slots), self.base.eq(held.base), self.out_last.eq(held.last),
            self.out_refused.eq(held.refused),
        ]
        with m.If(take_skip):
            m.d.sync += self.slots[lanes - 1].word.eq(Cat(Const(0, 2), skip_index[0]))
        return m


def _count(bits: Value, width: int) -> Value:
    """How many are set: of each four by a table, and then by a tree."""
    totals: list[Value] = []
    for first in range(0, len(bits), 4):
        four = bits[first:first + 4]
        totals.append(Cat(*(Cat(n >> k & 1 for n in map(int.bit_count, range(1 << len(four))))
                            .bit_select(four, 1) for k in range(3))))
    while len(totals) > 1:
        totals = [sum(totals[i:i + 2], start=Const(0, 1)) for i in range(0, len(totals), 2)]
    return Cat(*totals, Const(0, width))[:width]
