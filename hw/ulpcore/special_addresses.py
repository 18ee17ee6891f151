"""The addresses of the special unit: of accumulators, scratchpad and row scalars, turn by turn."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import CoreConfig

from .addresses import saturate
from .float32 import delay

__all__ = ["SpecialAddresses"]


class SpecialAddresses(wiring.Component):
    """The addresses of an instruction's turns: base + the sum of i * stride over its loops.

    The cycle after `start` shows the addresses of the first turn, the cycle after `step` those of
    the next. Between two of either there must be three cycles: in the first it is found which
    loops are at their end, in the second which address and which stride to add, in the third the
    sum. Loops 0 to 2 are the output's, 3 and 4 the window's. The highest bit of an address
    says that it is beyond the memory; those that follow then mean nothing.

    Members
    -------
    accumulator, residual_address, address : Out
        Of the accumulators, the residual and the output, whose loops are 0 to 2.
    row, reduced_row : Out
        Of the row scalars, that count the iterations of loops 0 and 1; with `special_functions`.
    window_first, window_last, last : Out(1)
        The turn is the first or the last one of a window, the last one of all.
    inner_last : Out(1)
        Loop 2 is in its last iteration; if SPECIAL can take several vectors at a time.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        # Bits of an address in the memory, bits of its fields (and of what several vectors make of
        # them), loops.
        bits = 20 + exact_log2(config.special_vectors)
        accumulator, slot = (exact_log2(config.accumulator_depth),
                             exact_log2(config.activation_slots))
        if config.special_functions:
            accumulator = max(accumulator, slot)
        self.streams = {"accumulator": (accumulator, bits, 5),
                        "residual_address": (slot, bits, 5), "address": (slot, bits, 3)}
        self.rows = {}
        if config.special_functions:
            width = exact_log2(config.row_scalars)
            self.rows = {"row": width, "reduced_row": width}
        ports = {"start": In(1), "step": In(1), "counts": In(data.ArrayLayout(12, 5)),
                 "window_first": Out(1), "window_last": Out(1), "last": Out(1)}
        if config.special_vectors > 1:
            ports["inner_last"] = Out(1)
        for name, (width, field, loops) in self.streams.items():
            ports[f"{name}_base"] = In(field)
            ports[f"{name}_strides"] = In(data.ArrayLayout(field, loops))
            ports[name] = Out(width + 1)
        for name, width in self.rows.items():
            ports[f"{name}_base"] = In(12)
            ports[name] = Out(width + 1)
        self.several = config.special_vectors > 1
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The windows' counts have 8 bits.
        passed = [Signal(width, name=f"passed_{i}", reset_less=True)
                  for i, width in enumerate((12, 12, 12, 8, 8))]
        # ends[i]: loop i and those within it are in their last iteration; ends[5] is "always".
        ends: list[Any] = [Signal(name=f"end_{i}") for i in range(5)] + [Const(1, 1)]
        m.d.sync += [ends[i].eq(Cat(passed[j] == self.counts[j][:len(passed[j])]
                                    for j in range(i, 5)).all()) for i in range(5)]
        for i in range(5):
            with m.If(self.start | (self.step & ends[i])):
                m.d.sync += passed[i].eq(1)
            with m.Elif(self.step & ends[i + 1]):
                m.d.sync += passed[i].eq(passed[i] + 1)
        m.d.comb += [self.window_last.eq(ends[3]), self.last.eq(ends[0])]
        if self.several:
            m.d.comb += self.inner_last.eq(passed[2] == self.counts[2])
        with m.If(self.start | self.step):
            m.d.sync += self.window_first.eq(self.start | ends[3])

        for name, (width, _, loops) in self.streams.items():
            # starts[i] is where the current iteration of loop i began; the innermost one's is
            # the address itself. The loop that goes on is the innermost one not at its end.
            starts = [Signal(width + 1, name=f"{name}_start_{i}", reset_less=True)
                      for i in range(loops)]
            strides = [saturate(s, width) for s in getattr(self, f"{name}_strides")]
            origin, stride = starts[0], strides[0]
            for i in range(1, loops):
                origin = Mux(ends[i], origin, starts[i])
                stride = Mux(ends[i], stride, strides[i])
            # An address beyond the memory ends the instruction: its highest bit need not stay.
            origin = delay(m, origin[:width], 1, name=f"{name}_origin")
            stride = delay(m, stride, 1, name=f"{name}_stride")
            total = Signal(width + 1, name=f"{name}_total")
            m.d.comb += [total.eq(origin + stride[:width]), getattr(self, name).eq(starts[-1])]
            following = delay(m, total | (stride[width] << width), 1, name=f"{name}_following")
            base = saturate(getattr(self, f"{name}_base"), width)
            for i in range(loops):
                with m.If(self.start):
                    m.d.sync += starts[i].eq(base)
                with m.Elif(self.step & ends[i + 1]):
                    m.d.sync += starts[i].eq(following)
        for name, width in self.rows.items():
            address = Signal(width + 1, name=f"{name}_address", reset_less=True)
            m.d.comb += getattr(self, name).eq(address)
            with m.If(self.start):
                m.d.sync += address.eq(saturate(getattr(self, f"{name}_base"), width))
            with m.Elif(self.step & ends[2]):
                m.d.sync += address.eq(Cat(address[:width] + 1, 0)[:width + 1]
                                       | (address[width] << width))
        return m
