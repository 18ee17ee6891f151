"""The fused multiply-add against `ulpsim.dlfloat.fma`, at every depth of its pipeline."""

import gc
from fractions import Fraction

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.multiply_add import CUTS, MultiplyAdd, ProductAdd, Sum
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


class CodedProductAdd(wiring.Component):
    """A `ProductAdd` whose addend and result are codes, and whose product's members are ports."""

    significand: In(20)
    carry: In(1)
    exponent: In(8)
    sign: In(1)
    zero: In(1)
    c: In(16)
    r: Out(16)

    def __init__(self, *, stages: int, carries: bool) -> None:
        self.add = ProductAdd(stages=stages, carries=carries)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = self.add
        m.d.comb += [
            add.product.eq(Cat(self.significand, self.exponent, self.sign, self.zero, Const(0, 1),
                               self.carry)),
            add.c.eq(Sum.decode(self.c)),
            self.r.eq(add.result.encode()),
        ]
        return m


#: Exponents of products of FP8 for every bias; FP16's reach further on both sides.
EXPONENTS = (14, 76)


def check_products(stages: int, magnitude: np.ndarray, exponent: np.ndarray, sign: np.ndarray,
                   c: np.ndarray, carry: np.ndarray | None, exact: int) -> None:
    """Sums of products given by magnitude and exponent, from registers, and codes.

    Expected are the array model's sums, of which `exact` are checked with rationals.
    """
    carries = carry is not None
    inputs = {"significand": magnitude - (carry if carries else 0), "exponent": exponent & 0xFF,
              "sign": sign, "zero": (magnitude == 0).astype(np.int64), "c": c}
    if carry is not None:
        inputs["carry"] = carry
    out = run_vectors(CodedProductAdd(stages=stages, carries=carries), inputs, flush=stages)
    values = np.where(sign == 1, -1.0, 1.0) * magnitude * 2.0 ** (exponent - 62)
    expected = dlfloat.encode_array(dlfloat.fma_values(values, np.ones(1),
                                                       dlfloat.decode_array(c)))
    for i in range(0, len(c), max(1, len(c) // exact)):
        addend = dlfloat.decode_exact(int(c[i]))
        assert expected[i] == (dlfloat.NAN if addend is None else dlfloat.round_exact(
            Fraction(values[i]) + addend))
    result = out["r"][stages:].astype(np.uint16)
    different = np.flatnonzero(result != expected)
    assert different.size == 0, [
        f"{'+-'[sign[i]]}{magnitude[i]:#x} * 2^({exponent[i]} - 62) + {c[i]:#x} must be "
        f"{expected[i]:#x}, not {result[i]:#x}" for i in different[:5]]


def product_magnitudes(rng: np.random.Generator, count: int) -> np.ndarray:
    """From 2^10 to 2^20 - 1, all lengths alike; ends of binades, runs of ones, few bits."""
    bits = rng.integers(10, 20, count)
    one = np.int64(1) << bits
    spread = rng.integers(0, 1 << 20, count) & (one - 1)
    sparse = spread & rng.integers(0, 1 << 20, count) & rng.integers(0, 1 << 20, count)
    low = np.int64(1) << rng.integers(0, 20, count) % (bits + 1)
    kinds = np.stack([one + spread, one + sparse, 2 * one - 1 - sparse, one, 2 * one - low,
                      one | low])
    return np.take_along_axis(kinds, rng.integers(0, len(kinds), (1, count)), axis=0)[0]


@pytest.mark.parametrize("stages", CUTS)
def test_products_with_carry_and_of_few_bits(stages: int, rng: np.random.Generator) -> None:
    count = 200_000
    magnitude = product_magnitudes(rng, count)
    magnitude[rng.integers(0, 50, count) == 0] = 0
    exponent = rng.integers(EXPONENTS[0], EXPONENTS[1] + 1, count)
    exponent[magnitude == 0] = -64
    # Most addends near the product: from the left end of the window to beyond its right one.
    near = np.clip(exponent - 62 + 31 + 19 + rng.integers(-34, 15, count), 0, 63)
    c_exponent = np.where(rng.integers(0, 4, count) == 0, rng.integers(0, 64, count), near)
    c = c_exponent << 9 | rng.integers(0, 2, count) << 15 | np.where(
        rng.integers(0, 2, count) == 0, rng.integers(0, 512, count),
        (np.int64(1) << rng.integers(0, 10, count)) - 1)
    # Addends that leave few bits of the product, and its rounded value itself.
    close = rng.integers(0, 3, count) == 0
    sign = rng.integers(0, 2, count)
    rounded = dlfloat.encode_array(magnitude * 2.0 ** (exponent - 62)).astype(np.int64)
    c = np.where(close, np.clip(rounded + rng.integers(-2, 3, count), 0, 0x7FFF)
                 | (1 - sign) << 15, c)
    carry = rng.integers(0, 2, count) * (magnitude != 0)
    check_products(stages, magnitude, exponent, sign, c, carry, exact=2000)


def test_products_of_eleven_bits_against_every_addend() -> None:
    """Every fraction and distance at which bits of the addend are lost, and those around."""
    magnitudes = np.array([*range(1 << 10, (1 << 10) + 4), 1535, 1536, 1537, *range(2044, 2052),
                           4095, 4096, (1 << 20) - 1])
    magnitude, c_exponent, fraction, sign, carry = (
        axis.ravel() for axis in np.meshgrid(magnitudes, np.arange(8, 48), np.arange(512),
                                             np.arange(2), np.arange(2), indexing="ij"))
    exponent = np.full_like(magnitude, 48)
    check_products(4, magnitude, exponent, sign, c_exponent << 9 | fraction, carry, exact=2000)


def test_products_without_carry(rng: np.random.Generator) -> None:
    """As the products of FP16 come, but of few bits too."""
    count = 50_000
    check_products(4, product_magnitudes(rng, count), rng.integers(-18, 109, count),
                   rng.integers(0, 2, count), rng.integers(0, 1 << 16, count), None, exact=1000)
