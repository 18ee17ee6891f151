"""The accumulators of groups of columns added as they are read; twin `ulpsim.fold`."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.isa import Fold

from .accumulators import ACCUMULATOR_BITS
from .float32 import Add, delay
from .scratchpad import require_config
from .verilog import once

__all__ = ["GroupSums"]


class GroupSums(wiring.Component):
    """Stands between the accumulators and what reads a vector of them in a turn of four cycles.

    A vector that is there in the phases 0 to 3 of a turn is passed on at once if `fold` is ONE.
    Else its first half (TWO) or quarter (FOUR) is replaced by the sums of the groups, and the rest
    means nothing: in the second turn after its own with TWO, and in the third one with FOUR, in all
    phases.

    One adder for every four columns is enough: half a vector's sums with the other half enter it in
    two phases, the sums of these in a third one.

    Members
    -------
    phase : In(2)
    fold : In(2), is_float : In(1)
        Groups that are added, and as what; they must stand while a vector is under way.
    sums : In(N x 32), folded : Out(N x 32)
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        sums = data.ArrayLayout(ACCUMULATOR_BITS, config.column_lanes)
        super().__init__({
            "phase": In(range(config.phases)), "fold": In(2), "is_float": In(1),
            "sums": In(sums), "folded": Out(sums)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        quarter = self.config.column_lanes // 4
        for n in range(quarter):
            lane = _Lane(config=self.config)
            m.submodules[f"lane_{n}"] = once(platform, lane, f"{self.config.name}_fold_lane")
            column = [self.sums[n + i * quarter] for i in range(4)]
            passes = self.fold == Fold.ONE.value
            m.d.comb += [
                lane.phase.eq(self.phase), lane.is_float.eq(self.is_float),
                lane.four.eq(self.fold == Fold.FOUR.value),
                *(getattr(lane, f"sum_{i}").eq(value) for i, value in enumerate(column)),
                *(self.folded[n + i * quarter].eq(value) for i, value in enumerate((
                    Mux(passes, column[0], lane.first), Mux(passes, column[1], lane.second),
                    *column[2:]))),
            ]
        return m


class _Lane(wiring.Component):
    """The columns that are a quarter of all apart."""

    phase: Signal
    is_float: Signal
    four: Signal
    first: Signal
    second: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            "phase": In(2), "is_float": In(1), "four": In(1),
            **{f"sum_{i}": In(ACCUMULATOR_BITS) for i in range(4)},
            "first": Out(ACCUMULATOR_BITS), "second": Out(ACCUMULATOR_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        add = Add(stages=4)
        total = Signal(ACCUMULATOR_BITS)
        before = delay(m, total, 1, name="before")
        earlier = delay(m, before, 1, name="earlier")
        a, b = Signal(ACCUMULATOR_BITS, reset_less=True), Signal(ACCUMULATOR_BITS, reset_less=True)
        # Totals come five cycles after their operands: of those of phase 0 in phase 1.
        with m.Switch(self.phase):
            for phase, operands in enumerate((
                    (self.sum_0, self.sum_2), (self.sum_1, self.sum_3), (before, total))):
                with m.Case(phase):
                    m.d.sync += [a.eq(operands[0]), b.eq(operands[1])]
        if config.has_integer:
            integer = delay(m, (a + b)[:ACCUMULATOR_BITS], add.stages, name="integer")
            m.d.comb += total.eq(integer)
        if config.has_float:
            m.submodules.add = add
            m.d.comb += [add.a.eq(a), add.b.eq(b)]
            m.d.comb += total.eq(Mux(self.is_float, add.result, integer)
                                 if config.has_integer else add.result)
        with m.If(self.phase == 3):
            m.d.sync += [self.first.eq(Mux(self.four, total, earlier)), self.second.eq(before)]
        return m
