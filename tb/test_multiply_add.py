"""The fused multiply-add against `ulpsim.dlfloat.fma`, at every depth of its pipeline."""

import gc

import numpy as np
import pytest
from ulpcore.multiply_add import CUTS, MultiplyAdd
from ulpcore.simulation import run_vectors
from ulpsim import dlfloat
from ulpsim.cases import multiply_add_operands


def run(stages: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The codes that the hardware gives; c comes one cycle after a and b."""
    out = run_vectors(MultiplyAdd(stages=stages),
                      {"a": np.append(a, a[:1]), "b": np.append(b, b[:1]),
                       "c": np.append(c[:1], c)}, flush=stages)
    return out["r"][stages + 1:].astype(np.uint16)


@pytest.mark.parametrize("stages", CUTS)
def test_equals_the_reference(stages: int, rng: np.random.Generator) -> None:
    a, b, c = multiply_add_operands(60_000, rng)
    expected = dlfloat.fma_array(a, b, c)
    different = np.flatnonzero(run(stages, a, b, c) != expected)
    assert different.size == 0, [
        f"{a[i]:#x} * {b[i]:#x} + {c[i]:#x} must be {expected[i]:#x}" for i in different[:5]]


@pytest.mark.parametrize("a, b, c, r", [
    (0x3E00, 0x3E00, 0x0000, 0x3E00),       # 1 * 1 + 0
    (0x3E00, 0x3E00, 0xBE00, 0x0000),       # 1 * 1 - 1: zero has no sign
    (0x0001, 0x3E00, 0x8002, 0x0000),       # below the smallest
    (0x7FFE, 0x3E00, 0x7FFE, 0x7FFF),       # overflow
    (0x7FFF, 0x0000, 0x3E00, 0x7FFF),       # NaN-Inf times zero
    (0x3E01, 0x3E01, 0x3E00, 0x4001),       # 2 + 2^-8 + 2^-18
    (0x3E00, 0x2A00, 0x3E00, 0x3E01),       # a tie goes up ...
    (0x3E00, 0x2A00, 0xBE01, 0xBE01),       # ... in magnitude
    (0x3E00, 0x2A00, 0xBE00, 0xBDFF),       # exact: a binade lower
])
def test_by_hand(a: int, b: int, c: int, r: int) -> None:
    assert dlfloat.fma(a, b, c) == r
    assert run(4, *(np.array([x], np.uint16) for x in (a, b, c)))[0] == r


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_bad_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="stages must be from 2 to 6, not 7"):
        MultiplyAdd(stages=7)
    gc.collect()
