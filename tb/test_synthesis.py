"""Synthesis: areas by module. Place and route takes too long for a test; see `make synth`."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.multiply_add import MultiplyAdd
from ulpcore.synthesis import Registered, measure, synthesise


class Product(wiring.Component):
    a: In(18)
    b: In(18)
    product: Out(36)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.product.eq(self.a * self.b)
        return m


def test_a_product_is_one_multiplier_between_registers():
    areas = synthesise(Registered(Product()), name="top")
    assert areas["top.inner"].multipliers == areas["top"].multipliers == 1
    assert areas["top.inner"].flip_flops == 0
    # 36 bits in, 36 bits out, one bit of folded outputs and the output's own.
    assert areas["top"].flip_flops == 74


def test_blocks_are_listed_largest_first_and_contain_their_parts():
    figures = measure(MultiplyAdd(stages=4), name="fma")
    assert next(iter(figures["areas"])) == "fma"
    assert figures["areas"]["fma"]["multipliers"] == 1
    assert figures["areas"]["fma"]["comb"] >= figures["areas"]["fma.add"]["comb"] > 100
    assert figures["routed"] == []


def test_a_failure_of_yosys_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="Yosys failed"):
        synthesise(Product(), name="top", netlist=tmp_path / "absent" / "top.json")
