"""The columns of a vector combined to one FP32 scalar: twin of `ulpsim.special.combine`."""

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float32 import Add, delay, less
from .functions import pass_if

__all__ = ["NEIGHBOURS_LATENCY", "RowReduction", "neighbours"]

#: Cycles from values to the combinations of neighbours.
NEIGHBOURS_LATENCY = 5


class RowReduction(wiring.Component):
    """The sum or the maximum of eight values that come in four pairs, one a cycle from cycle 0 on.

    One adder, behind a register, does it all: the pairs' sums leave it in cycles 5 to 8, enter it
    by twos in 6 and 8, and what comes out of that in 11 and 13 enters in 13. The next vector may
    come 16 cycles later.

    Members
    -------
    value_0, value_1 : In(32)
        A pair; zero and NaN-Inf in any form but a negative NaN-Inf.
    maximum : In(1)
        Whether to take the maximum; else the sum.
    first : In(1), final : In(1)
        High in cycles 0 to 3 and in cycles 12 to 15.
    result : Out(32)
        In cycle 18.
    """

    value_0: Signal
    value_1: Signal
    maximum: Signal
    first: Signal
    final: Signal
    result: Signal

    def __init__(self) -> None:
        super().__init__({"value_0": In(32), "value_1": In(32), "maximum": In(1),
                          "first": In(1), "final": In(1), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = Add(stages=4)
        before = delay(m, add.result, 1, name="before")
        earlier = delay(m, before, 1, name="earlier")
        a = Mux(self.first, self.value_0, Mux(self.final, earlier, before))
        b = Mux(self.first, self.value_1, add.result)
        m.d.comb += [
            add.a.eq(delay(m, Mux(self.maximum & less(a, b), b, a), 1, name="a")),
            add.b.eq(delay(m, pass_if(~self.maximum, b), 1, name="b")),
            self.result.eq(add.result),
        ]
        return m


def neighbours(m: Module, values: Sequence[Value], maximum: Value, name: str) -> list[Value]:
    """The sum or the maximum of each two values that stand side by side, new ones each cycle."""
    combined = []
    for i, (a, b) in enumerate(zip(values[::2], values[1::2], strict=True)):
        m.submodules[f"{name}_{i}"] = add = Add(stages=4)
        m.d.comb += [
            add.a.eq(delay(m, Mux(maximum & less(a, b), b, a), 1, name=f"{name}_a_{i}")),
            add.b.eq(delay(m, pass_if(~maximum, b), 1, name=f"{name}_b_{i}")),
        ]
        combined.append(add.result)
    return combined
