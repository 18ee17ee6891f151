"""Folding into carry chains: every table against the definition, whole adders by SAT."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.carry_chains import fold
from ulpcore.synthesis import synthesise
from ulpcore.verilog import generate

DIRECTIONS = {**dict.fromkeys([*(p + h for p in "ABCD" for h in "01"), "CIN"], "input"),
              **dict.fromkeys(["S0", "S1", "COUT"], "output")}


def lut(pins: list, table: int, output: int) -> dict:
    return {"type": "LUT4", "parameters": {"INIT": f"{table:016b}"},
            "port_directions": {**dict.fromkeys("ABCD", "input"), "Z": "output"},
            "connections": {**{pin: [net] for pin, net in zip("ABCD", pins, strict=True)},
                            "Z": [output]}}


def carry_cell(halves: list[list], carry_in: int = 90) -> dict:
    connections = {pin + str(i): [net] for i, pins in enumerate(halves)
                   for pin, net in zip("ABCD", pins, strict=True)}
    return {"type": "CCU2C", "parameters": {"INIT0": f"{0x96AA:016b}", "INIT1": f"{0x96AA:016b}"},
            "port_directions": DIRECTIONS,
            "connections": {**connections, "CIN": [carry_in], "S0": [91], "S1": [92],
                            "COUT": [93]}}


def evaluate(cells: dict, nets: dict) -> tuple[int, int]:
    """Sum and carry of the first half of cell `add`, by the definition of the cells."""
    values = {"0": 0, "1": 1, **nets}
    for cell in cells.values():
        if cell["type"] == "LUT4":
            index = sum(values[cell["connections"][pin][0]] << k for k, pin in enumerate("ABCD"))
            values[cell["connections"]["Z"][0]] = int(cell["parameters"]["INIT"][15 - index])
    add = cells["add"]
    a, b, c, d = (values[add["connections"][pin + "0"][0]] for pin in "ABCD")
    init = add["parameters"]["INIT0"][::-1]
    propagate, generate = int(init[d << 3 | c << 2 | b << 1 | a]), int(init[b << 1 | a])
    return propagate ^ nets[90], nets[90] if propagate else generate


@pytest.mark.parametrize("inverted", "01")
def test_folded_cells_compute_the_same(inverted: str, rng: np.random.Generator) -> None:
    """Tables of up to four inputs, some shared, before either addend or both."""
    folded = 0
    for _ in range(400):
        cells: dict = {}
        addends: list[int] = []
        for output in (20, 21):
            count = int(rng.integers(0, 5))
            if count == 0:
                addends.append(int(rng.integers(1, 5)))
                continue
            pins = [*rng.choice(np.arange(1, 6), count, replace=False).tolist(),
                    *["0"] * (4 - count)]
            cells[f"lut_{output}"] = lut(pins, int(rng.integers(1 << 16)), output)
            addends.append(output)
        cells["add"] = carry_cell([[*addends, inverted, "1"], ["0", "0", inverted, "1"]])
        before = json.loads(json.dumps(cells))
        saved = fold({"cells": cells, "ports": {}})
        assert len(cells) == len(before) - saved
        folded += saved
        for bits in itertools.product((0, 1), repeat=6):
            nets = dict(zip((1, 2, 3, 4, 5, 90), bits, strict=True))
            assert evaluate(cells, nets) == evaluate(before, nets), (before, cells)
    assert folded > 200


def test_a_mask_and_an_exclusive_or_fit_together() -> None:
    cells = {"mask": lut([1, 2, "0", "0"], 0x8888, 20), "invert": lut([3, 4, "0", "0"], 0x6666, 21),
             "add": carry_cell([[20, 21, "0", "1"], ["0", "0", "0", "1"]])}
    assert fold({"cells": cells, "ports": {}}) == 2
    assert list(cells) == ["add"]


def test_a_table_with_another_use_stays() -> None:
    cells = {"mask": lut([1, 2, "0", "0"], 0x8888, 20),
             "add": carry_cell([[20, 3, "0", "1"], ["0", "0", "0", "1"]])}
    ports = {"mask": {"direction": "output", "bits": [20]}}
    assert fold({"cells": cells, "ports": ports}) == 0
    assert len(cells) == 2


class Adders(wiring.Component):
    """Combinational: sums and a difference of masked, inverted and chosen addends."""

    a: In(9)
    b: In(9)
    c: In(4)
    masked: Out(10)
    chosen: Out(10)
    difference: Out(10)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = self.a & self.c[0].replicate(9)
        m.d.comb += [
            self.masked.eq(first + (self.b ^ self.c[1].replicate(9))),
            self.chosen.eq(self.a + Cat(self.b[:5], self.c) + self.c[3]),
            self.difference.eq((self.a | self.c[2].replicate(9)) - (self.b & self.a)),
        ]
        return m


def test_mapped_adders_are_equivalent_by_sat(tmp_path) -> None:
    """The netlist after folding, with the vendor's models of its cells, against the Verilog."""
    areas = synthesise(Adders(), name="adders", netlist=tmp_path / "netlist.json")
    # Three chains of 10 or 11 bits, and hardly anything beside them.
    assert areas["adders"].comb <= 50
    (tmp_path / "gold.v").write_text(generate(Adders(), name="adders")[0])
    script = f"""
        read_verilog {tmp_path}/gold.v
        prep -flatten -top adders
        design -stash gold
        read_json {tmp_path}/netlist.json
        read_verilog -overwrite +/lattice/ccu2c_sim.vh
        read_verilog -overwrite +/lattice/common_sim.vh
        prep -flatten -top adders
        design -stash mapped
        design -copy-from gold -as gold adders
        design -copy-from mapped -as mapped adders
        miter -equiv -flatten -make_outputs gold mapped miter
        sat -verify -prove trigger 0 miter"""
    program = ("import sys\nfrom pyosys import libyosys as yosys\ndesign = yosys.Design()\n"
               "for line in sys.stdin.read().split('\\n'):\n    yosys.run_pass(line, design)\n")
    result = subprocess.run([sys.executable, "-c", program], input=script.strip(), text=True,
                            capture_output=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-2000:]
    assert "SAT proof finished - no model found: SUCCESS!" in result.stdout
