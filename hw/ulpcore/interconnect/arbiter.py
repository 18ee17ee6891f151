"""Grants the request that was granted least recently."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LeastRecent"]


class LeastRecent(wiring.Component):
    """An arbiter that starves nobody: whoever asks is passed over by each other at most once.

    A bit for each pair says who of the two comes first. Under full load that is round-robin.

    Parameters
    ----------
    count
        Of requests; at the start the lower one comes first.

    Members
    -------
    requests : In(count), grants : Out(count)
        In the same cycle; at most one bit of `grants` is high.
    served : In(1)
        What was granted counts as served, and comes last from the next cycle on.
    """

    requests: Signal
    grants: Signal
    served: Signal

    def __init__(self, count: int) -> None:
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be a positive integer, not {count!r}")
        self.count = count
        super().__init__({"requests": In(count), "grants": Out(count), "served": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        before = {(i, j): Signal(init=1, name=f"before_{i}_{j}")
                  for i in range(self.count) for j in range(i + 1, self.count)}
        for i in range(self.count):
            others = [self.requests[j] & (before[j, i] if j < i else ~before[i, j])
                      for j in range(self.count) if j != i]
            m.d.comb += self.grants[i].eq(self.requests[i] & ~Cat(others).any())
        with m.If(self.served):
            for (i, j), first in before.items():
                with m.If(self.grants[i]):
                    m.d.sync += first.eq(0)
                with m.If(self.grants[j]):
                    m.d.sync += first.eq(1)
        return m
