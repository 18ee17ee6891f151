"""Standard cells of 180 nm: area, timing, leakage and energy of blocks, with the toggles that real
networks cause in them.

Each Fashion-MNIST network runs once, an image, on the configuration's RTL, with the ports of the
array, of an element in its middle and of a lane of special functions recorded. The mapped netlists
get the window of the recording in which most vectors of the format pass, and what leaves them is
compared with what left the RTL.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.lib import wiring
from record import record as keep
from rich.console import Console
from ulpcore.activity import replay
from ulpcore.array import Array
from ulpcore.cells import map_cells, measure_timing
from ulpcore.demonstration import load_images, network_codes, network_path
from ulpcore.interconnect.router import Router
from ulpcore.power import Model, leakage
from ulpcore.processing_element import ProcessingElement
from ulpcore.recording import record
from ulpcore.special_lane import SpecialLane
from ulpsim.compiler import compile_network
from ulpsim.config import CoreConfig, load_config
from ulpsim.formats import Precision
from ulpsim.interconnect.topology import Torus
from ulpsim.network import load_network

#: Networks by the format of their middle layers' activations, and weights where they are narrower.
NETWORKS = {
    "FP16": ("fashion-fp16", Precision.FP16), "FP8": ("fashion-fp8", Precision.E4M3),
    "INT8": ("fashion-int8", Precision.INT8), "INT4": ("fashion-int4", Precision.INT4),
    "INT2": ("fashion-int2", Precision.INT2),
    "INT8 x BINARY": ("fashion-binary", Precision.INT8),
}
WINDOW, WARM, RECORDED = 2000, 1500, 13000

#: Registers of an element, by the beginning of their names, to what they are part of.
GROUPS = {"following": "weights", "weight": "weights", "activation": "activations",
          "control": "activations", "mode": "activations", "product": "multipliers",
          "pair": "FP8 pair", "tags": "FP adder", "add": "FP adder", "differ": "binary",
          "dot": "integer sums", "odd": "integer sums", "north": "integer sums",
          "sum": "integer sums"}


def figures_of(component: wiring.Component, model_groups: dict[str, str], period: float
               ) -> tuple[dict[str, Any], Model]:
    """Area, timing and leakage, and the model of the energy."""
    netlist = map_cells(component, period_ns=period)
    model = Model(netlist, model_groups)
    return {"area_um2": round(netlist.area), "cells": netlist.cells,
            "flip_flops": netlist.flip_flops, **measure_timing(netlist, period_ns=period),
            "leakage_uw": round(leakage(netlist) * 1e6, 4)}, model


def window_of(array: dict[str, np.ndarray], precision: Precision) -> tuple[int, np.ndarray]:
    """Where the window begins, and which of all cycles have a vector of the format."""
    busy = (array["valid"][:, 0] == 1) & (array["precision"][:, 0] == precision.value)
    counts = np.convolve(busy[WARM:], np.ones(WINDOW, int), "valid")
    return WARM + int(counts.argmax()), busy


def measure(config: CoreConfig, name: str, precision: Precision, models: dict[str, Model],
            blocks: dict[str, wiring.Component], tell: Any) -> dict[str, Any]:
    """Energy of a cycle and a multiply-add while one network runs."""
    network = load_network(network_path(Path(name)))
    compiled = compile_network(network, config, 1)
    codes = network_codes(network, load_images(None, 1)[0])
    tell(f"{name} on the RTL")
    recorded = record(compiled, [compiled.pack_input(codes)],
                      {"array": Array(config=config), **blocks}, cycles=RECORDED)
    first, busy = window_of(recorded["array"], precision)
    share = float(busy[first:first + WINDOW].mean())
    entry: dict[str, Any] = {"network": name, "precision": precision.name,
                             "cycles": WINDOW, "busy": round(share, 4),
                             "multiply_adds_a_slot": precision.per_slot}
    for path, component in blocks.items():
        tell(f"{name}: toggles in {path}")
        ports = {port: words[first - WARM:first + WINDOW]
                 for port, words in recorded[path].items()}
        activity = replay(models[path].netlist, component, ports, first=WARM)
        if not activity.agree:
            raise RuntimeError(f"the netlist of {path} must do what the RTL does while {name} "
                               f"runs; {activity.agreeing}")
        energy = models[path].energy(activity.toggles)
        row = {"pj_a_cycle": round(energy.total, 2), "clock": round(energy.clock, 2),
               "registers": round(energy.registers, 2), "logic": round(energy.logic, 2),
               "toggles_a_cycle": round(sum(activity.toggles.values()), 1)}
        if path.startswith("array."):
            per = share * precision.per_slot * config.lanes
            row |= {"pj_a_multiply_add": round(energy.total / per, 3),
                    "pj_a_multiply_add_without_clock":
                        round((energy.registers + energy.logic) / per, 3),
                    "groups": {k: round(v, 2) for k, v in sorted(energy.groups.items())}}
        entry[path] = row
    return entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", help="a named core or a TOML file")
    parser.add_argument("--period", type=float, default=5.0, metavar="NS",
                        help="clock that the mapping aims at (default: 5)")
    parser.add_argument("--formats", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--slice", action="store_true",
                        help="also area and timing of a slice of two rows of the array (minutes)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    row, column = min(3, config.rows - 1), min(3, config.columns - 1)
    element, lane = f"array.element_{row}_{column}", "special.lane_0"
    components = {element: lambda: ProcessingElement(config=config),
                  lane: lambda: SpecialLane(config=config)}
    extra = {"router": lambda: Router(topology=Torus(4, 4), place=(1, 2))}
    if options.slice:
        extra["slice"] = lambda: Array(config=dataclasses.replace(config, rows=2))
    areas: dict[str, Any] = {}
    models: dict[str, Model] = {}
    with Console(stderr=True).status("") as status:
        for name, make in (components | extra).items():
            status.update(f"mapping {name}")
            areas[name], models[name] = figures_of(
                make(), GROUPS if name == element else {}, options.period)
        runs = {title: measure(config, *NETWORKS[title], models,
                               {path: make() for path, make in components.items()}, status.update)
                for title in options.formats}
    result: dict[str, Any] = {
        "library": "OSU 180 nm, 1.8 V, 25 C, typical; no wires, no clock tree, no glitches",
        "config": config.name, "element": element, "lane": lane, "blocks": areas,
        "formats": runs}
    if {"FP16", "INT2"} <= set(runs):
        def ratio(key: str) -> float:
            return round(runs["FP16"][element][key] / runs["INT2"][element][key], 2)

        result["fp16_over_int2"] = {"energy": ratio("pj_a_multiply_add"),
                                    "without_clock": ratio("pj_a_multiply_add_without_clock")}
    keep("power", result, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
