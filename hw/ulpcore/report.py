"""`ulpcore report --html`: figures that were measured before, as one page that needs nothing else.

The figures are those of `bench/results`, which is in the repository and not in an installed
package. How far each can be trusted stands beside it.
"""

import json
from pathlib import Path
from typing import Any

from ulpsim.config import CoreConfig
from ulpsim.explorer.page import page, table

__all__ = ["RESULTS", "report_page"]

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def _figures(name: str, results: Path) -> dict[str, Any]:
    path = results / f"{name}.json"
    if not path.exists():
        raise ValueError(f"the page needs {path}, which is in a checkout of the repository alone, "
                         "for the configurations that were measured")
    return json.loads(path.read_text())


def report_page(config: CoreConfig, *, results: Path = RESULTS) -> str:
    """The page for a configuration. Raises ValueError naming the figures that are missing."""
    fpga, power = _figures(f"synthesis-{config.name}", results), _figures("power", results)
    if power["config"] != config.name:
        raise ValueError(f"energy must be measured for {config.name}, not {power['config']}; see "
                         "bench/power.py")
    areas = [{"block": name, **area} for name, area in fpga["areas"].items()]
    clocks = ", ".join(f"{run['fmax']} MHz (seed {run['seed']})" for run in fpga["routed"])
    cells = [{"block": name, **figures} for name, figures in power["blocks"].items()]
    energy = [{"format": name, **run, **run[power["element"]]}
              for name, run in power["formats"].items()]
    lanes = [{"format": name, **run[power["lane"]]} for name, run in power["formats"].items()]
    ratio = power.get("fp16_over_int2", {})
    sections: list[tuple[str, str, list[str], str]] = [
        ("Area by block, FPGA", f"Measured: Yosys and nextpnr on the {fpga['device']}. Clock, "
         f"routed: {clocks or 'not routed'}.", [],
         table(areas, {"block": "block", "comb": "COMB", "flip_flops": "FF",
                       "multipliers": "DSP", "block_rams": "BRAM"})),
        ("Blocks in standard cells", f"Measured on a mapped netlist: {power['library']}. Clocks "
         "are upper bounds, as nothing is placed.", [],
         table(cells, {"block": "block", "area_um2": "area um2", "cells": "cells",
                       "flip_flops": "flip-flops", "fmax_mhz": "MHz", "leakage_uw": "leakage uW",
                       "path_from": "path from", "path_to": "to"})),
        ("Energy of an element by format", "Toggles measured in the mapped netlist while the "
         "network runs in RTL, energies of the library; wires, clock tree and glitches are not in "
         "them. Idle cycles of the window are. FP16 takes "
         f"{ratio.get('energy', 'not measured')} times the energy of INT2 a multiply-add, "
         f"without the clock {ratio.get('without_clock', 'not measured')} times.", [],
         table(energy, {"format": "format", "network": "network", "busy": "busy",
                        "pj_a_cycle": "pJ a cycle", "clock": "clock", "registers": "registers",
                        "logic": "logic", "pj_a_multiply_add": "pJ a multiply-add",
                        "pj_a_multiply_add_without_clock": "without clock"})),
        ("Energy of a lane of special functions", "Measured in the same way.", [],
         table(lanes, {"format": "format", "pj_a_cycle": "pJ a cycle", "clock": "clock",
                       "registers": "registers", "logic": "logic"}))]
    return page(f"ulpcore {config.name}: area, clock and energy", sections)
