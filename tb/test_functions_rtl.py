"""The second step of a special lane against the models: functions, residuals and products."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.functions import FunctionTable, SecondStep
from ulpcore.simulation import run_vectors
from ulpsim import float32
from ulpsim.functions import evaluate_array
from ulpsim.isa import Function


class _Bench(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"y": In(32), "scale": In(32), "factor": In(32), "residual": In(1),
                          "product": In(1), "function": In(3), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.step = step = SecondStep()
        m.submodules.table = table = FunctionTable(lanes=2)
        m.d.comb += [table.index_1.eq(step.index), step.entry.eq(table.entry_1)]
        for name in ("y", "scale", "factor", "residual", "product", "function"):
            m.d.comb += getattr(step, name).eq(getattr(self, name))
        m.d.comb += self.result.eq(step.result)
        return m


def _arguments(rng: np.random.Generator) -> np.ndarray:
    usual = float32.encode_array(rng.standard_normal(20_000) * 2.0 ** rng.integers(-20, 20, 20_000))
    near = float32.encode_array([s * v * (1 + d * 2.0**-23) for s in (1, -1) for d in (-1, 0, 1, 2)
                                 for v in 2.0 ** np.arange(-30, 10)])
    special = [0, float32.NAN, float32.LARGEST, float32.SMALLEST, 1 << 31 | float32.LARGEST,
               1 << 31 | float32.SMALLEST]
    every_code = float32.from_dlfloat_array(np.arange(1 << 16))
    return np.concatenate([usual, near, special, every_code]).astype(np.uint32)


def _run(y: np.ndarray, scale: object = 0, factor: object = 0, residual: int = 0,
         product: int = 0, function: Function = Function.NONE) -> np.ndarray:
    cycles = len(y) + SecondStep.latency

    def column(values: object, late: int = 0) -> np.ndarray:
        result = np.zeros(cycles, np.uint64)
        result[late:late + len(y)] = values
        return result

    outputs = run_vectors(_Bench(), {
        "y": column(y), "scale": column(scale), "factor": column(factor, 3),
        "residual": np.full(cycles, residual, np.uint64),
        "product": np.full(cycles, product, np.uint64),
        "function": np.full(cycles, function.value, np.uint64)})
    return float32.from_values(float32.to_values(
        outputs["result"][SecondStep.latency:].astype(np.uint32)))


@pytest.mark.parametrize("function", Function, ids=lambda f: f.name)
def test_functions(rng: np.random.Generator, function: Function) -> None:
    y = float32.from_values(float32.to_values(_arguments(rng)))
    expected = y if function is Function.NONE else evaluate_array(function, y)
    result = _run(y, function=function)
    wrong = np.flatnonzero(result != expected)
    assert not len(wrong), (hex(y[wrong[0]]), hex(result[wrong[0]]), hex(expected[wrong[0]]))


def test_residuals_and_products(rng: np.random.Generator) -> None:
    y = float32.from_values(float32.to_values(_arguments(rng)))
    factor = float32.from_dlfloat_array(rng.integers(0, 1 << 16, len(y)))
    scale = float32.from_values(float32.to_values(rng.permutation(y)))
    np.testing.assert_array_equal(_run(y, scale, factor, residual=1),
                                  float32.add_array(y, float32.multiply_array(factor, scale)))
    np.testing.assert_array_equal(_run(y, scale, factor, residual=1, product=1),
                                  float32.multiply_array(factor, y))
