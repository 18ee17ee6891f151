"""The fused multiply-add: differences over many vectors, area and frequency.

The hardware of each stage count against the array model, the array model against exact rationals;
with `--seeds`, area and routed clock frequency of a multiply-add as it stands in the array. Exits 1
if anything differs.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from record import record
from ulpcore.multiply_add import CUTS, MultiplyAdd, Operand, Product, ProductAdd, Sum
from ulpcore.simulation import run_vectors
from ulpcore.synthesis import Registered, place_and_route, synthesise
from ulpsim import dlfloat
from ulpsim.cases import multiply_add_operands

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
    """Vectors whose result in hardware is not that of the array model."""
    rng = np.random.default_rng(seed)
    count, different = 0, 0
    while count < vectors:
        a, b, c = multiply_add_operands(min(CHUNK, vectors - count) // 3 + 1, rng)
        # c comes one cycle after a and b.
        out = run_vectors(MultiplyAdd(stages=stages),
                          {"a": np.append(a, a[:1]), "b": np.append(b, b[:1]),
                           "c": np.append(c[:1], c)}, flush=stages)["r"][stages + 1:]
        different += int((out != dlfloat.fma_array(a, b, c)).sum())
        count += len(a)
    return different


def differences_from_rationals(vectors: int, seed: int) -> int:
    """Vectors whose result in the array model is not that of exact rationals, rounded once."""
    a, b, c = multiply_add_operands(vectors // 3 + 1, np.random.default_rng(seed))
    exact = [dlfloat.fma(*codes) for codes in zip(a.tolist(), b.tolist(), c.tolist(),
                                                  strict=True)]
    return int((dlfloat.fma_array(a, b, c) != np.array(exact)).sum())


def measure(stages: int, vectors: int, seed: int, seeds: list[int]) -> dict:
    entry: dict = {"cuts": CUTS[stages]}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--rationals", type=int, default=1_000_000,
                        help="vectors of the model that are compared with exact rationals")
    parser.add_argument("--stages", type=int, nargs="+", default=[4], choices=list(CUTS))
    parser.add_argument("--seed", type=int, default=1, help="of the vectors")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="of place and route")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    figures: dict = {"seed": options.seed, "rational_vectors": options.rationals,
                     "rational_differences": differences_from_rationals(options.rationals,
                                                                        options.seed)}
    for stages in options.stages:
        figures[f"stages_{stages}"] = measure(stages, options.vectors, options.seed,
                                              options.seeds)
    record("multiply_add", figures, keep=not options.no_keep)
    return int(any(figures[f"stages_{s}"].get("differences", 0) for s in options.stages)
               or figures["rational_differences"] > 0)


if __name__ == "__main__":
    sys.exit(main())
