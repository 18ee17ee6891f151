"""The fused multiply-add: differences from the reference over many vectors, area and frequency.

Prints one JSON object. `python bench/multiply_add.py --vectors 10000000 --stages 4 --seeds 1 2 3`;
without seeds nothing is synthesised.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.multiply_add import CUTS, Operand, Product, ProductAdd, Sum
from ulpcore.synthesis import Registered, place_and_route, synthesise
from ulpsim import dlfloat

sys.path.insert(0, str(Path(__file__).parents[1] / "tb"))
from test_multiply_add import operands, run

CHUNK = 1_000_000


class Slot(wiring.Component):
    """A multiply-add as it stands in the array: with tagged operands."""

    a: In(Operand)
    b: In(Operand)
    c: In(Sum)
    result: Out(Sum)

    def __init__(self, *, stages: int) -> None:
        self.stages = stages
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = ProductAdd(stages=self.stages)
        product = Signal(Product, reset_less=True)
        m.d.sync += product.eq(Product.of(self.a, self.b,
                                          self.a.significand * self.b.significand))
        m.d.comb += [add.product.eq(product), add.c.eq(self.c), self.result.eq(add.result)]
        return m


def differences(stages: int, vectors: int, seed: int) -> int:
    """Vectors whose result is not the reference's."""
    rng = np.random.default_rng(seed)
    count, different = 0, 0
    while count < vectors:
        a, b, c = operands(min(CHUNK, vectors - count) // 3 + 1, rng)
        different += int((run(stages, a, b, c) != dlfloat.fma_array(a, b, c)).sum())
        count += len(a)
    return different


def measure(stages: int, vectors: int, seed: int, seeds: list[int]) -> dict:
    entry: dict = {"stages": stages, "cuts": CUTS[stages]}
    if vectors:
        entry |= {"vectors": vectors, "differences": differences(stages, vectors, seed)}
    if seeds:
        with tempfile.TemporaryDirectory() as folder:
            netlist = Path(folder) / "slot.json"
            areas = synthesise(Registered(Slot(stages=stages)), name="slot", netlist=netlist)
            timings = [place_and_route(netlist, seed=s, target_mhz=130.0) for s in seeds]
        area = areas["slot.inner"]
        entry |= {"comb": area.comb, "flip_flops": area.flip_flops,
                  "multipliers": area.multipliers,
                  "routed_comb": timings[0].comb, "fmax": [t.fmax for t in timings],
                  "fmax_median": statistics.median(t.fmax for t in timings)}
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--stages", type=int, nargs="+", default=list(CUTS), choices=list(CUTS))
    parser.add_argument("--seed", type=int, default=1, help="of the vectors")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="of place and route")
    options = parser.parse_args()
    print(json.dumps([measure(stages, options.vectors, options.seed, options.seeds)
                      for stages in options.stages], indent=2))


if __name__ == "__main__":
    main()
