"""Burst addresses for rows of beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["Bursts"]

_PAGE_BYTES = 4096


class Bursts(wiring.Component):
    """Cuts rows of beats into AXI4 bursts, which never cross 4 KB, and counts those under way.

    A burst's size is found in one cycle and the burst issued in the next, if fewer than
    `outstanding` are under way; the address channel holds it from the cycle after. So one burst
    every two cycles at most. From `begin` in cycle 0, the first is issued in cycle 2 and `valid`
    in cycle 3.

    Parameters
    ----------
    burst_beats
        Longest burst: a power of two, at most 256.
    outstanding
        Most bursts under way.
    beat_bytes
        Width of the bus, a power of two.
    row_bits
        Bits of `row_beats`.

    Members
    -------
    begin, first, rows, row_beats, pitch
        Start with `rows` rows of `row_beats` beats, the first at byte `first`, the others `pitch`
        bytes apart. `pitch` must hold while bursts remain.
    stop
        Issue no more.
    address, length, valid, ready
        The address channel; `length` is one less than the beats, as on AXI.
    issue, beats
        A burst of so many beats is being issued: `valid` follows.
    done
        A burst under way has ended.
    idle
        No burst remains to be issued.
    quiet
        None is under way.
    """

    begin: Signal
    first: Signal
    rows: Signal
    row_beats: Signal
    pitch: Signal
    stop: Signal
    address: Signal
    length: Signal
    valid: Signal
    ready: Signal
    issue: Signal
    beats: Signal
    done: Signal
    idle: Signal
    quiet: Signal

    def __init__(self, *, burst_beats: int, outstanding: int, beat_bytes: int = 4,
                 row_bits: int = 19) -> None:
        if burst_beats not in [1 << i for i in range(9)]:
            raise ValueError(f"burst_beats must be a power of two up to 256, not {burst_beats!r}")
        if not isinstance(outstanding, int) or outstanding < 1:
            raise ValueError(f"outstanding must be a positive integer, not {outstanding!r}")
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        self.beat_bytes = beat_bytes
        self.row_bits = row_bits
        super().__init__({
            "begin": In(1), "first": In(32), "rows": In(16), "row_beats": In(row_bits),
            "pitch": In(32), "stop": In(1),
            "address": Out(32), "length": Out(8), "valid": Out(1), "ready": In(1),
            "issue": Out(1), "beats": Out(range(burst_beats + 1)), "done": In(1),
            "idle": Out(1), "quiet": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, page_beats = exact_log2(self.beat_bytes), _PAGE_BYTES // self.beat_bytes
        active = Signal()
        sized = Signal()
        row = Signal(32, reset_less=True)
        next_address = Signal(32, reset_less=True)
        left = Signal(self.row_bits, reset_less=True)
        row_beats = Signal(self.row_bits, reset_less=True)
        rows_left = Signal(16, reset_less=True)
        address = Signal(32, reset_less=True)
        length = Signal(8, reset_less=True)
        beats = Signal(range(self.burst_beats + 1), reset_less=True)
        under_way = Signal(range(self.outstanding + 1))
        to_page = Signal(range(page_beats + 1))
        limit = Signal(range(self.burst_beats + 1))
        next_row = Signal(32)
        m.d.comb += [
            self.address.eq(address),
            self.length.eq(length),
            self.beats.eq(beats),
            self.idle.eq(~active),
            self.quiet.eq(under_way == 0),
            to_page.eq(page_beats - next_address[low:12]),
            limit.eq(Mux(to_page < self.burst_beats, to_page, self.burst_beats)),
            self.issue.eq(active & sized & ~self.stop & (under_way != self.outstanding)
                          & (~self.valid | self.ready)),
            next_row.eq(row + self.pitch),
        ]
        m.d.sync += under_way.eq(under_way + self.issue - self.done)
        with m.If(self.valid & self.ready):
            m.d.sync += self.valid.eq(0)
        with m.If(active & ~sized):
            m.d.sync += [beats.eq(Mux(left < limit, left, limit)), sized.eq(1)]
        with m.If(self.issue):
            m.d.sync += [
                sized.eq(0),
                self.valid.eq(1),
                address.eq(next_address),
                length.eq(beats - 1),
                next_address.eq(next_address + (beats << low)),
                left.eq(left - beats),
            ]
            with m.If(left == beats):
                m.d.sync += [
                    row.eq(next_row),
                    next_address.eq(next_row),
                    left.eq(row_beats),
                    rows_left.eq(rows_left - 1),
                    active.eq(rows_left != 1),
                ]
        with m.If(self.begin):
            m.d.sync += [
                active.eq(1),
                sized.eq(0),
                row.eq(self.first),
                next_address.eq(self.first),
                left.eq(self.row_beats),
                row_beats.eq(self.row_beats),
                rows_left.eq(self.rows),
            ]
        return m
