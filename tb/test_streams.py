"""Simulation of components with streams: order, stalls, times, mistakes."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpcore.simulation import SimulationError
from ulpcore.streams import StreamModel


class Adder(wiring.Component):
    """Numbers of two streams added, one of 8 bits and one of 100, and how many there were."""

    def __init__(self) -> None:
        super().__init__({"a": In(stream.Signature(8)), "b": In(stream.Signature(100)),
                          "total": Out(stream.Signature(100)), "count": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal()
        ready = Signal()
        m.d.comb += [
            ready.eq(~full | self.total.ready), self.total.valid.eq(full),
            self.a.ready.eq(ready & self.b.valid), self.b.ready.eq(ready & self.a.valid)]
        with m.If(self.total.ready):
            m.d.sync += full.eq(0)
        with m.If(ready & self.a.valid & self.b.valid):
            m.d.sync += [full.eq(1), self.total.payload.eq(self.a.payload + self.b.payload),
                         self.count.eq(self.count + 1)]
        return m


@pytest.fixture(scope="module")
def adder() -> StreamModel:
    return StreamModel(Adder())


@pytest.mark.parametrize("stalls", [{}, {"a": 0.5}, {"total": 0.9}, {"a": 0.7, "b": 0.2,
                                                                   "total": 0.4}])
def test_numbers_pass_in_order(adder: StreamModel, stalls: dict, rng: np.random.Generator) -> None:
    a = rng.integers(0, 256, (500, 1)).astype(np.uint32)
    b = rng.integers(0, 1 << 32, (500, 4)).astype(np.uint32)
    b[:, 3] &= 15
    run = adder.run({"a": a, "b": b}, stalls=stalls, seed=int(rng.integers(1, 1000)))

    def number(row: np.ndarray) -> int:
        return sum(int(word) << 32 * i for i, word in enumerate(row))

    assert [number(row) for row in run.outputs["total"]] == [
        (number(x) + number(y)) % (1 << 100) for x, y in zip(a, b, strict=True)]
    assert run.status["count"] == 500
    assert all(len(times) == 500 for times in run.times.values())
    cycles = int(run.times["total"][-1] - run.times["total"][0]) + 1
    assert cycles == 500 if not stalls else cycles > 600


def test_nothing_comes_of_one_side_alone(adder: StreamModel) -> None:
    run = adder.run({"a": np.ones((3, 1), np.uint32)})
    assert len(run.times["a"]) == len(run.outputs["total"]) == 0


def test_mistakes(adder: StreamModel) -> None:
    with pytest.raises(ValueError, match="stream must be one of a, b, total, not 'c'"):
        adder.run({"c": np.ones((3, 1), np.uint32)})
    with pytest.raises(ValueError, match=r"payloads of b must have the shape \(transfers, 4\)"):
        adder.run({"b": np.ones((3, 1), np.uint32)})
    with pytest.raises(ValueError, match="stalls of a must be from 0 to below 1, not 1"):
        adder.run({}, stalls={"a": 1})
    with pytest.raises(SimulationError, match="has not come to rest in 100 cycles"):
        adder.run({name: np.zeros((200, words), np.uint32) for name, words in (("a", 1), ("b", 4))},
                  limit=100)

    class Plain(wiring.Component):
        x: In(3)

        def elaborate(self, platform: object) -> Module:
            return Module()

    with pytest.raises(ValueError, match="members must be streams and outputs, not 'x'"):
        StreamModel(Plain())
