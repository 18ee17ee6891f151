"""What measured figures come to elsewhere: a core of another size, other nodes, an FPGA.

Everything here is a calculation from figures of `bench/power.py`; nothing in it was measured on
silicon. It takes multiply-add elements and special lanes alone: memories, accumulators, sequencer,
wires and clock tree are not in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ulpsim.config import CoreConfig
from ulpsim.formats import Precision
from ulpsim.scaling import scalings

__all__ = ["Range", "element_energies", "fpga", "scaled"]

#: Formats of the comparison by the names in the figures.
_FORMATS = {"FP16": Precision.FP16, "FP8": Precision.E4M3, "INT4": Precision.INT4,
            "INT2": Precision.INT2, "BINARY": Precision.BINARY}


@dataclasses.dataclass(frozen=True)
class Range:
    """From `low` to `high`."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = f"{self.low:.3g}", f"{self.high:.3g}"
        return low if low == high else f"{low} to {high}"


def element_energies(power: Mapping[str, Any]) -> dict[str, float]:
    """pJ that an element takes in a cycle at 180 nm, by format.

    BINARY is measured in the slice of the array alone, whose edges are in its figure: taken for
    it is INT2's element times what BINARY takes in the slice over what INT2 takes there.
    """
    energies = {name: power["formats"][name][power["element"]]["pj_a_cycle"] for name in _FORMATS
                if name in power["formats"]}
    in_slice = power.get("units", {}).get("slice", {})
    if {"INT2", "BINARY"} <= set(in_slice) and "INT2" in energies:
        energies["BINARY"] = (energies["INT2"] * in_slice["BINARY"]["pj_a_cycle"]
                              / in_slice["INT2"]["pj_a_cycle"])
    return energies


def _cycles(config: CoreConfig, power: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """For each format the operations of a core in a cycle, two a multiply-add; the share of the
    cycles of the measured window that had a vector; and pJ that elements and special lanes take in
    one at 180 nm."""
    slots = config.rows * config.columns * config.lanes
    found = []
    for name, energy in element_energies(power).items():
        run = power["formats"].get(name, power["formats"].get("INT2"))
        pj = slots * energy + config.special_lanes * run[power["lane"]]["pj_a_cycle"]
        found.append((name, 2 * slots * _FORMATS[name].per_slot, run["busy"], pj))
    return found


def scaled(config: CoreConfig, power: Mapping[str, Any], nanometres: int) -> list[dict[str, Any]]:
    """TOPS, TOPS/W and TOPS/mm2 by format of a core's elements and special lanes at a node.

    TOPS are those of every slot doing what it can in every cycle; TOPS/W leave out the cycles of
    the measured windows that had no vector. The clock is the slower one of element and lane. Each
    `Range` is over the transistors and voltages of `ulpsim.scaling.scalings`; that of the energy
    reaches up to capacitances that shrink with the length alone. Raises ValueError for another node
    than 180, 14 and 7 nm.
    """
    factors = scalings(nanometres)
    element, lane = power["blocks"][power["element"]], power["blocks"][power["lane"]]
    fmax = min(element["fmax_mhz"], lane["fmax_mhz"])
    mm2 = 1e-6 * factors[0].area * (
        config.rows * config.columns * config.lanes * element["area_um2"]
        + config.special_lanes * lane["area_um2"])
    ghz = [fmax / 1000 / factor.delay for factor in factors]
    rows = []
    for name, operations, busy, pj in _cycles(config, power):
        tops = [operations * g / 1000 for g in ghz]
        watt = [operations * busy / (pj * share) for factor in factors
                for share in (factor.energy, factor.by_length)]
        rows.append({"format": name, "ghz": Range(min(ghz), max(ghz)),
                     "tops": Range(min(tops), max(tops)), "tops_w": Range(min(watt), max(watt)),
                     "tops_mm2": Range(min(tops) / mm2, max(tops) / mm2), "mm2": mm2})
    return rows


def fpga(config: CoreConfig, power: Mapping[str, Any], method: Mapping[str, Any], mhz: float
         ) -> list[dict[str, Any]]:
    """By format what a core does and its elements and special lanes may take on an FPGA.

    `gops` are at full use. `static` is current times voltage of `method`, in watts. `dynamic`: the
    energies at 180 nm, with capacitances that go with the length and the voltages squared, are
    those of standard cells at the FPGA's node (`cells`); the FPGA takes `method`'s gap of them.
    `gops_w` is for both together, and leaves out the windows' cycles without a vector.
    """
    supply, gap = method["static"], method["gap"]
    static = supply["volts"] * supply["milliamperes"] / 1000
    rows = []
    for name, operations, busy, pj in _cycles(config, power):
        cells = pj * 1e-6 * mhz * method["nanometres"] / 180 * (supply["volts"] / 1.8) ** 2
        dynamic = Range(cells * gap["low"], cells * gap["high"])
        gops = operations * mhz / 1000
        rows.append({"format": name, "gops": gops, "static": static, "cells": cells,
                     "dynamic": dynamic,
                     "gops_w": Range(gops * busy / (static + dynamic.high),
                                     gops * busy / (static + dynamic.low))})
    return rows
