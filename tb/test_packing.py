"""Operands of the multipliers: every pair of elements' groups, in every signedness."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.packing import PRECISION_BITS, Mode, Packer, Packing
from ulpcore.simulation import run_vectors
from ulpsim.formats import Format, Precision
from ulpsim.integers import unpack

FP16, INT8, INT4, INT2, E4M3, E5M2, BINARY = Precision
SETS = [(FP16, INT8, INT4, INT2), (FP16, INT8), (INT8, INT2), (INT8, INT4), (INT4,), (INT2,),
        tuple(Precision)]


class DotProducts(wiring.Component):
    """Both dot products of two slots."""

    activation: In(16)
    weight: In(16)
    precision: In(PRECISION_BITS)
    activation_signed: In(1)
    weight_signed: In(1)
    low: Out(18)
    high: Out(18)

    def __init__(self, formats: tuple[Precision, ...]) -> None:
        self.formats = formats
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing = Packing(self.formats)
        left = Packer(formats=self.formats, weights=False)
        right = Packer(formats=self.formats, weights=True)
        m.submodules.left, m.submodules.right = left, right
        m.d.comb += [
            left.slot.eq(self.activation), left.precision.eq(self.precision),
            left.is_signed.eq(self.activation_signed),
            right.slot.eq(self.weight), right.precision.eq(self.precision),
            right.is_signed.eq(self.weight_signed),
        ]
        mode = Mode.of(self.precision, self.activation_signed, self.weight_signed)
        for i, output in enumerate((self.low, self.high)):
            product = left.packed.factors[i] * right.packed.factors[i]
            odd = Cat()
            if INT2 in self.formats:
                odd = (left.packed.parities[i] & right.packed.parities[i]).xor()
            dot, carry = packing.dot_product(product, odd, mode)
            m.d.comb += output.eq(dot + carry)
        return m


@pytest.mark.parametrize("formats", SETS, ids=lambda f: "_".join(p.name for p in f))
def test_dot_products(formats: tuple[Precision, ...], rng: np.random.Generator) -> None:
    a, b = (x.ravel().astype(np.uint16) for x in np.meshgrid(np.arange(256), np.arange(256)))
    other = rng.permutation(a.size)
    activations, weights = a | a[other] << 8, b | b[other] << 8
    cases = [(p, s, t) for p in formats if p.is_integer
             for s, t in itertools.product((0, 1), repeat=2)]
    columns = [np.repeat(np.array(c), a.size)
               for c in zip(*((p.value, s, t) for p, s, t in cases), strict=True)]
    out = run_vectors(DotProducts(formats), {
        "activation": np.tile(activations, len(cases)), "weight": np.tile(weights, len(cases)),
        "precision": columns[0], "activation_signed": columns[1], "weight_signed": columns[2]})
    for i, (precision, s, t) in enumerate(cases):
        products = (unpack(activations[:, None], Format(precision, bool(s)))
                    * unpack(weights[:, None], Format(precision, bool(t))))
        expected = products.reshape(a.size, 2, -1).sum(axis=2) % (1 << 18)
        rows = slice(i * a.size, (i + 1) * a.size)
        np.testing.assert_array_equal(out["low"][rows], expected[:, 0], str(cases[i]))
        np.testing.assert_array_equal(out["high"][rows], expected[:, 1], str(cases[i]))


def test_factors_fit_the_multiplier() -> None:
    assert max(Packing(formats).width for formats in SETS) == 18
    assert Packing((FP16,)).multipliers == 1
