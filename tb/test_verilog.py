"""Generated Verilog: the same each time, each distinct element once."""

import collections
import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.core import Core
from ulpcore.verilog import Generator, generate, once
from ulpsim.config import NANO


class Leaf(wiring.Component):
    a: In(4)
    s: Out(4)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.s.eq(self.a + 1)
        return m


class Other(wiring.Component):
    a: In(4)
    s: Out(4)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.s.eq(self.a)
        return m


class Row(wiring.Component):
    a: In(4)
    s: Out(4)

    def elaborate(self, platform):
        m = Module()
        previous = self.a
        for i in range(5):
            leaf = Leaf()
            m.submodules[f"leaf_{i}"] = once(platform, leaf, "leaf")
            m.d.comb += leaf.a.eq(previous)
            previous = leaf.s
        m.d.comb += self.s.eq(previous)
        return m


def test_elements_stand_once():
    text, elements = generate(Row(), name="row")
    assert elements == ["leaf"]
    assert len(re.findall(r"^module ", text, re.M)) == 2
    assert len(re.findall(r"^  leaf \w+ \(", text, re.M)) == 5


def test_different_components_must_not_share_a_name():
    generator = Generator()
    generator.once(Leaf(), "leaf")
    with pytest.raises(ValueError, match="elements named 'leaf' must be alike"):
        generator.once(Other(), "leaf")


def test_text_is_deterministic():
    assert generate(Row(), name="row") == generate(Row(), name="row")


def test_no_two_modules_of_a_core_are_alike():
    text, _ = generate(Core(config=NANO), name="nano")
    bodies = collections.defaultdict(list)
    for name, body in re.findall(r"^module (\S+)\(.*?\);\n(.*?)^endmodule", text, re.M | re.S):
        bodies[body].append(name)
    large = {tuple(names) for body, names in bodies.items()
             if len(names) > 1 and len(body) > 20_000}
    assert not large
    assert text.count("\nmodule nano_element(") == 1
