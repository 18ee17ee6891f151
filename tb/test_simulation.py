"""The simulation tools themselves: they must notice what goes wrong."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from simulation import run_bench
from ulpcore.simulation import SimulationError, run_vectors


class Widths(wiring.Component):
    a: In(8)
    b: In(40)
    w: In(80)
    sum: Out(9)
    copy: Out(40)
    late: Out(80)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.sum.eq(self.a + 1), self.copy.eq(self.b)]
        m.d.sync += self.late.eq(self.w)
        return m


def test_vectors_of_every_width(rng):
    a = rng.integers(0, 256, 1000)
    b = rng.integers(0, 1 << 40, 1000)
    w = rng.integers(0, 1 << 16, (1000, 3))
    out = run_vectors(Widths(), {"a": a, "b": b, "w": w}, flush=1)
    assert (out["sum"][:-1] == a + 1).all()
    assert (out["copy"][:-1] == b).all()
    assert (out["late"][1:] == w).all()


@pytest.mark.parametrize(("inputs", "message"), [
    ({"x": np.zeros(3, int)}, "input must be one of a, b, w, not 'x'"),
    ({"a": np.zeros(3, int), "b": np.zeros(4, int)}, r"inputs must have one length, not \[3, 4\]"),
    ({"a": np.array([256])}, "input a must fit 8 bits, not 0x100"),
    ({"w": np.zeros(3, int)}, r"input w must have the shape \(3, 3\), not \(3,\)"),
])
def test_bad_vectors_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        run_vectors(Widths(), inputs)


def test_cocotb_benches_pass_and_fail():
    assert run_bench(Widths(), "bench_widths", testcase="passes") == 1
    with pytest.raises(SimulationError, match="fails of bench_widths failed"):
        run_bench(Widths(), "bench_widths", testcase="fails")
    with pytest.raises(SimulationError, match="bench_widths"):
        run_bench(Widths(), "bench_widths", testcase="absent")
