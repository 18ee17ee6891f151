"""The multiply-add alone: a polynomial in DLFloat16, one value each clock cycle.

    python examples/blocks/polynomial.py

simulates it with Amaranth's own simulator and compares every result with the golden model.
"""

import sys
from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from ulpcore import MultiplyAdd
from ulpsim import dlfloat


class Polynomial(wiring.Component):
    """y = c[0] + c[1] x + c[2] x^2 + ... by Horner's rule, each step rounded once.

    Parameters
    ----------
    coefficients
        DLFloat16 codes, two or more; c[0] comes first.
    stages
        Pipeline stages of each multiply-add.

    Members
    -------
    x : In(16), y : Out(16)
        Codes; y belongs to the x of `latency` cycles before.
    """

    x: In(16)
    y: Out(16)

    def __init__(self, coefficients: Sequence[int], *, stages: int = 4) -> None:
        if len(coefficients) < 2:
            raise ValueError(f"coefficients must be two or more, not {len(coefficients)}")
        self.coefficients = list(coefficients)
        self.steps = [MultiplyAdd(stages=stages) for _ in coefficients[1:]]
        #: A multiply-add takes its addend one cycle after its factors.
        self.step_latency = stages + 1
        self.latency = self.step_latency * len(self.steps)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        *rest, total = self.coefficients
        x = self.x
        for number, (step, coefficient) in enumerate(zip(self.steps, reversed(rest), strict=True)):
            m.submodules[f"step_{number}"] = step
            m.d.comb += [step.a.eq(total), step.b.eq(x), step.c.eq(coefficient)]
            total = step.r
            for _ in range(self.step_latency):
                later = Signal.like(x)
                m.d.sync += later.eq(x)
                x = later
        m.d.comb += self.y.eq(total)
        return m


def golden(coefficients: Sequence[int], x: np.ndarray) -> np.ndarray:
    """The same with the golden model's multiply-add."""
    total: np.ndarray = np.full(len(x), coefficients[-1], np.uint16)
    for coefficient in reversed(coefficients[:-1]):
        total = dlfloat.fma_array(total, x, np.uint16(coefficient))
    return total


def simulate(polynomial: Polynomial, x: np.ndarray) -> np.ndarray:
    """y for each x."""
    results = []

    async def bench(ctx) -> None:
        for cycle in range(len(x) + polynomial.latency):
            ctx.set(polynomial.x, int(x[min(cycle, len(x) - 1)]))
            if cycle >= polynomial.latency:
                results.append(ctx.get(polynomial.y))
            await ctx.tick()

    simulator = Simulator(polynomial)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(results, np.uint16)


def main() -> int:
    coefficients = [dlfloat.encode(c) for c in (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24)]
    x = dlfloat.encode_array(np.linspace(-1, 1, 201))
    x[-1] = dlfloat.NAN
    y = simulate(Polynomial(coefficients), x)
    differing = int(np.count_nonzero(y != golden(coefficients, x)))
    error = np.abs(dlfloat.decode_array(y) - np.exp(dlfloat.decode_array(x)))
    print(f"{len(x)} values, {differing} differ from the golden model; "
          f"exp(x) from -1 to 1 is met within {np.nanmax(error):.4f}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
