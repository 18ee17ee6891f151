"""`ulpcore report --html`: figures that were measured before, as one page that needs nothing else.

The figures are those of `bench/results`, which is in the repository and not in an installed
package, and published ones. How far each can be trusted stands beside it.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ulpsim.config import CoreConfig
from ulpsim.page import bars, page, table

from .report_comparison import at_180, comparison, fpga_comparison, fpga_power
from .report_utilisation import roofline, utilisation

__all__ = ["RESULTS", "report_page"]

RESULTS = Path(__file__).parents[2] / "bench" / "results"

#: Heading, text, plots and table.
Section = tuple[str, str, list[str], str]

#: COMB below which a block is not listed, and part of the core below which it is not drawn.
_LEAST, _SHARE = 20, 0.02

_TRUST = [
    {"kind": "measured", "what": "area by block and clock on the FPGA; area, timing, leakage and "
     "energy of blocks in standard cells of 180 nm; utilisation by layer",
     "trust": "RTL that runs; netlists that did what the RTL did in every counted cycle. Energies "
     "have no wires, clock tree or glitches, so are too low. Layers are those of the cycle model, "
     "which is equal to the RTL in every cycle of the samples that were compared."},
    {"kind": "scaled", "what": "TOPS, TOPS/W and TOPS/mm2 at 14 and 7 nm",
     "trust": "Those measurements times published factors, for elements and special lanes alone. "
     "Ranges are of the factors; what is left out is beyond them. No more than the order of "
     "magnitude, and ratios between formats."},
    {"kind": "estimated", "what": "power of the FPGA",
     "trust": "Standard cells times a published average gap; right within a factor of two or "
     "three."},
    {"kind": "published", "what": "the chips and units of others",
     "trust": "As their authors say; chips with all that belongs to them. Units of others on the "
     "FPGA were put through the same tools here."},
]


def _figures(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"the page needs {path}, which is in a checkout of the repository alone, "
                         "for the configurations that were measured")
    return json.loads(path.read_text())


def report_page(config: CoreConfig, *, results: Path = RESULTS) -> str:
    """The page for a configuration. Raises ValueError naming the figures that are missing."""
    def figures(name: str) -> dict[str, Any]:
        return _figures(results / f"{name}.json")

    fpga, power = figures(f"synthesis-{config.name}"), figures("power")
    if power["config"] != config.name:
        raise ValueError(f"energy must be measured for {config.name}, not {power['config']}; see "
                         "bench/power.py")
    published = json.loads(resources.files("ulpcore").joinpath("published.json").read_text())
    resnet, layers = figures("resnet50-rapid"), _figures(
        results.parent / "resnet50_layers.json")["layers"]
    return page(f"ulpcore {config.name}: area, clock, energy and utilisation", [
        ("What is measured, and what is not", "", [],
         table(_TRUST, {"kind": "", "what": "figures", "trust": "how far"})),
        *comparison(power, published),
        at_180(config, power),
        *_energy(power),
        _units(power),
        *_areas(fpga, power),
        *fpga_comparison(fpga, figures(f"synthesis-{config.name}-units"), published),
        fpga_power(config, fpga["routed"], power, published),
        *utilisation(resnet, figures(f"utilisation-{config.name}"), published),
        roofline(resnet, layers)])


def _areas(fpga: dict[str, Any], power: dict[str, Any]) -> list[Section]:
    whole = next(iter(fpga["areas"]))
    areas = [{"block": name, **area} for name, area in fpga["areas"].items()
             if area["comb"] >= _LEAST or area["multipliers"] or area["block_rams"]]
    shares = {heading: _shares(fpga["areas"], whole, resource) for resource, heading in (
        ("comb", "COMB"), ("flip_flops", "FF"), ("multipliers", "DSP"), ("block_rams", "BRAM"))}
    clocks = ", ".join(f"{run['fmax']} MHz (seed {run['seed']})" for run in fpga["routed"])
    dynamic = _dynamic(power)
    cells = [{"block": name, **figures, **({"mw": dynamic[name] * figures["fmax_mhz"] / 1e3}
                                           if name in dynamic else {})}
             for name, figures in power["blocks"].items()]
    return [
        ("Blocks in standard cells", f"Measured on a mapped netlist: {power['library']}. Clocks "
         "are upper bounds, as nothing is placed. Leakage is at 25 degrees. Of the encoder, and of "
         "the router in the last row, memories are cut out; they are in neither area nor power.",
         [], table(cells, {"block": "block", "area_um2": "area um2", "cells": "cells",
                           "flip_flops": "flip-flops", "memory_bits_cut": "bits cut out",
                           "fmax_mhz": "MHz", "mw": "dynamic mW", "leakage_uw": "leakage uW",
                           "path_from": "path from", "path_to": "to"})),
        ("Area by block, FPGA", f"Measured: Yosys and nextpnr on the {fpga['device']}. Clock, "
         f"routed: {clocks or 'not routed'}. Each row holds those that are in it; those of less "
         f"than {_LEAST} COMB with neither DSP nor BRAM are left out.",
         [bars("shares of the core", shares, "percent")],
         table(areas, {"block": "block", "comb": "COMB", "flip_flops": "FF",
                       "multipliers": "DSP", "block_rams": "BRAM"}))]


def _dynamic(power: dict[str, Any]) -> dict[str, float]:
    """pJ that each block takes in a cycle."""
    units, run = power.get("units", {}), power["formats"].get("FP16", {})
    rows = {name: run.get(name) for name in (power["element"], power["lane"])}
    rows |= {"slice": units.get("slice", {}).get("FP16"), "encoder": units.get("encoder")}
    rows |= {name: units.get(name, {}).get("loads", {}).get("1.0")
             for name in ("router", "router without buffers")}
    return {name: row["pj_a_cycle"] for name, row in rows.items() if row}


def _shares(areas: dict[str, Any], whole: str, resource: str) -> dict[str, float]:
    """Percent of the core that each block right inside it takes, small ones together."""
    total = areas[whole][resource] or 1
    shares = {name.removeprefix(f"{whole}."): 100 * area[resource] / total
              for name, area in areas.items() if name.startswith(f"{whole}.")}
    large = {name: share for name, share in shares.items()
             if areas[f"{whole}.{name}"]["comb"] >= _SHARE * areas[whole]["comb"]}
    large["rest"] = 100.0 - sum(large.values())
    return large


def _energy(power: dict[str, Any]) -> list[Section]:
    element, lane = power["element"], power["lane"]
    energy = [{"format": name, **run, **run[element]} for name, run in power["formats"].items()]
    lanes = [{"format": name, **run[lane]} for name, run in power["formats"].items()]
    ratio = power.get("fp16_over_int2", {})
    parts = {row["format"]: {part: row[part] * row["pj_a_multiply_add"] / row["pj_a_cycle"]
                             for part in ("logic", "registers", "clock")} for row in energy}
    return [
        ("Energy of an element by format", "180 nm. Toggles measured in the mapped netlist while "
         "the network runs in RTL, energies of the library; wires, clock tree and glitches are not "
         "in them. Idle cycles of the window are. The clock is that of flip-flops which nothing "
         f"gates. FP16 takes {ratio.get('energy', 'not measured')} times the energy of INT2 a "
         f"multiply-add, without the clock {ratio.get('without_clock', 'not measured')} times.",
         [bars("an element's energy", parts, "pJ a multiply-add"),
          bars("without the clock", {name: {k: v for k, v in row.items() if k != "clock"}
                                     for name, row in parts.items()}, "pJ a multiply-add")],
         table(energy, {"format": "format", "network": "network", "busy": "busy",
                        "pj_a_cycle": "pJ a cycle", "clock": "clock", "registers": "registers",
                        "logic": "logic", "pj_a_multiply_add": "pJ a multiply-add",
                        "pj_a_multiply_add_without_clock": "without clock"})),
        ("Energy of a lane of special functions", "Measured in the same way.", [],
         table(lanes, {"format": "format", "pj_a_cycle": "pJ a cycle", "clock": "clock",
                       "registers": "registers", "logic": "logic"}))]


def _units(power: dict[str, Any]) -> Section:
    units = power.get("units", {})
    rows = [{"unit": f"two rows of the array, {name}", "of": "multiply-add",
             "pj": run["pj_a_multiply_add"],
             "without": run["pj_a_multiply_add_without_clock"], **run}
            for name, run in units.get("slice", {}).items()]
    if "encoder" in units:
        run = units["encoder"]
        rows.append({"unit": f"encoder, {run['lanes']} element a cycle", "of": "element",
                     "pj": run["pj_a_element"], "without": run["pj_a_element_without_clock"],
                     **run})
    for name in ("router", "router without buffers"):
        for load, run in units.get(name, {}).get("loads", {}).items():
            rows.append({"unit": f"{name}, {run['flits_a_cycle']:.2f} flits a cycle, load {load}",
                         "of": "bit", "pj": run["pj_a_bit"],
                         "without": run["pj_a_bit_without_clock"], **run})
    return ("Energy of array slice, encoder and router", "180 nm, measured in the same way. The "
            "slice gets what the first two rows of the array got; BINARY is the bits of INT2 taken "
            "as BINARY. The encoder gets gradients of Fashion-MNIST, its memories cut out. The "
            "router is one of a torus of 4 x 4, with flits of 64 bits between random terminals; "
            "its buffers are flip-flops, whose clock nothing gates and which are most of it, or "
            "cut out.", [],
            table(rows, {"unit": "unit", "pj_a_cycle": "pJ a cycle", "clock": "clock",
                         "registers": "registers", "logic": "logic", "of": "of a", "pj": "pJ",
                         "without": "without clock"}))
