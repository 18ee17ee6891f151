"""Registers moved into multipliers: only those that a multiplier's own can stand in for."""

import copy

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.multiplier_registers import absorb
from ulpcore.synthesis import synthesise


class Product(wiring.Component):
    """A product, registered at least once; `resets` and `holds` as its first register does."""

    a: In(16)
    b: In(16)
    hold: In(1)
    product: Out(32)

    def __init__(self, *, resets: bool = False, holds: bool = False, watched: bool = False) -> None:
        self.resets, self.holds, self.watched = resets, holds, watched
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(32, reset_less=not self.resets)
        value = self.a * self.b
        with m.If(~self.hold if self.holds else 1):
            m.d.sync += first.eq(value)
        m.d.sync += self.product.eq(first + value if self.watched else first)
        return m


@pytest.mark.parametrize(("options", "flip_flops"), [
    ({}, 32), ({"resets": True}, 64), ({"holds": True}, 64), ({"watched": True}, 64)])
def test_only_a_plain_register_that_alone_takes_the_product_moves(options, flip_flops) -> None:
    area = synthesise(Product(**options), name="product")["product"]
    assert (area.multipliers, area.flip_flops) == (1, flip_flops)


def register(**changes: object) -> dict:
    cell = {"type": "TRELLIS_FF",
            "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "LSRMUX": "LSR", "REGSET": "RESET"},
            "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
            "connections": {"CLK": [1], "LSR": ["0"]}}
    cell["parameters"] |= changes
    return cell


def module(*registers: dict) -> dict:
    """A multiplier whose output i is net 10 + i, and registers from those to nets 50 + i."""
    cells = {f"register_{i}": copy.deepcopy(cell) for i, cell in enumerate(registers)}
    for i, cell in enumerate(cells.values()):
        cell["connections"] |= {"DI": [10 + i], "Q": [50 + i]}
    pins = [f"P{i}" for i in range(36)]
    cells["multiplier"] = {
        "type": "MULT18X18D", "parameters": {},
        "port_directions": {"A0": "input", **dict.fromkeys(pins, "output")},
        "connections": {"A0": [2], **{pin: [10 + i] for i, pin in enumerate(pins)}}}
    return {"cells": cells, "ports": {}}


def test_outputs_become_those_of_the_registers() -> None:
    netlist = module(register(), register())
    assert absorb(netlist) == 2
    assert list(netlist["cells"]) == ["multiplier"]
    multiplier = netlist["cells"]["multiplier"]
    pins = multiplier["connections"]
    assert [pins[f"P{i}"] for i in range(3)] == [[50], [51], [12]]
    assert (pins["CLK0"], pins["CE0"], pins["RST0"]) == ([1], ["1"], ["0"])
    assert multiplier["parameters"]["REG_OUTPUT_CLK"] == "CLK0"
    assert absorb(netlist) == 0


@pytest.mark.parametrize("other", [
    register(REGSET="SET"), register(CLKMUX="INV"), register(CEMUX="CE"), register(LSRMUX="INV"),
    register() | {"type": "LUT4"},
    register() | {"connections": {"CLK": [3], "LSR": ["0"]}},
    register() | {"connections": {"CLK": [1], "LSR": [4]}}])
def test_all_registers_of_a_product_move_or_none(other) -> None:
    netlist = module(register(), other)
    before = copy.deepcopy(netlist)
    assert absorb(netlist) == 0
    assert netlist == before


def test_a_register_behind_a_port_of_the_module_stays() -> None:
    netlist = module(register())
    netlist["ports"]["product"] = {"direction": "output", "bits": [10]}
    assert absorb(netlist) == 0
