"""Standard cells of 180 nm: area, timing, leakage and energy of blocks, with the toggles that real
networks cause in them.

Each Fashion-MNIST network runs once, an image, on the configuration's RTL, with the ports of the
array, of an element in its middle and of a lane of special functions recorded. The mapped netlists
get the window of the recording in which most vectors of the format pass, and what leaves them is
compared with what left the RTL. For four formats a slice of two rows of the array gets what its
rows got; no network has BINARY activations, so it also gets the bits of INT2 as BINARY. Encoder and
router get gradients and traffic of their own (`power_units`).

With `--only` what is not named keeps its last figures.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.lib import wiring
from power_units import (
    energy_row,
    figures_of,
    measure_encoder,
    measure_router,
    measure_slice,
    slice_config,
)
from record import last
from record import record as keep
from rich.console import Console
from ulpcore.activity import replay
from ulpcore.array import Array
from ulpcore.demonstration import load_images, network_codes, network_path
from ulpcore.power import Model
from ulpcore.processing_element import ProcessingElement
from ulpcore.recording import record
from ulpcore.special_lane import SpecialLane
from ulpsim.compiler import compile_network
from ulpsim.config import CoreConfig, load_config
from ulpsim.formats import Precision
from ulpsim.network import load_network

#: Networks by the format of their middle layers' activations, and weights where they are narrower.
NETWORKS = {
    "FP16": ("fashion-fp16", Precision.FP16), "FP8": ("fashion-fp8", Precision.E4M3),
    "INT8": ("fashion-int8", Precision.INT8), "INT4": ("fashion-int4", Precision.INT4),
    "INT2": ("fashion-int2", Precision.INT2),
    "INT8 x BINARY": ("fashion-binary", Precision.INT8),
}
WINDOW, WARM, RECORDED = 2000, 1500, 13000

#: Formats in which a slice of the array is measured, and the units that are measured apart.
SLICE_FORMATS = ("FP16", "FP8", "INT4", "INT2")
UNITS = ("slice", "encoder", "router")

#: Registers of an element, by the beginning of their names, to what they are part of.
GROUPS = {"following": "weights", "weight": "weights", "activation": "activations",
          "control": "activations", "mode": "activations", "product": "multipliers",
          "pair": "FP8 pair", "tags": "FP adder", "add": "FP adder", "differ": "binary",
          "dot": "integer sums", "odd": "integer sums", "north": "integer sums",
          "sum": "integer sums"}


def window_of(array: dict[str, np.ndarray], precision: Precision) -> tuple[int, np.ndarray]:
    """Where the window begins, and which of all cycles have a vector of the format."""
    busy = (array["valid"][:, 0] == 1) & (array["precision"][:, 0] == precision.value)
    counts = np.convolve(busy[WARM:], np.ones(WINDOW, int), "valid")
    return WARM + int(counts.argmax()), busy


def run(config: CoreConfig, name: str, blocks: dict[str, wiring.Component]
        ) -> dict[str, dict[str, np.ndarray]]:
    """The ports of array and blocks while a network runs."""
    network = load_network(network_path(Path(name)))
    compiled = compile_network(network, config, 1)
    codes = network_codes(network, load_images(None, 1)[0])
    return record(compiled, [compiled.pack_input(codes)],
                  {"array": Array(config=config), **blocks}, cycles=RECORDED)


def measure(config: CoreConfig, name: str, precision: Precision, models: dict[str, Model],
            blocks: dict[str, wiring.Component], recorded: dict[str, dict[str, np.ndarray]],
            tell: Any) -> dict[str, Any]:
    """Energy of a cycle and a multiply-add while one network runs."""
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
        row = energy_row(energy) | {"toggles_a_cycle": round(sum(activity.toggles.values()), 1)}
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
    parser.add_argument("--only", nargs="*", choices=[*NETWORKS, *UNITS],
                        default=[*NETWORKS, *UNITS], metavar="WHAT",
                        help=f"formats and units: {', '.join([*NETWORKS, *UNITS])} (default: all)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    before = last("power")
    if before.get("config") != config.name:
        before = {}
    row, column = min(3, config.rows - 1), min(3, config.columns - 1)
    element, lane = f"array.element_{row}_{column}", "special.lane_0"
    blocks: dict[str, wiring.Component] = {
        element: ProcessingElement(config=config), lane: SpecialLane(config=config)}
    areas: dict[str, Any] = before.get("blocks", {})
    runs: dict[str, Any] = before.get("formats", {})
    units: dict[str, Any] = before.get("units", {})
    models: dict[str, Model] = {}
    formats = [title for title in NETWORKS if title in options.only]
    slices = [title for title in SLICE_FORMATS if "slice" in options.only]
    with Console(stderr=True).status("") as status:
        tell = status.update
        for name, block in blocks.items() if formats else ():
            tell(f"mapping {name}")
            areas[name], models[name] = figures_of(
                block, options.period, GROUPS if name == element else None)
        if slices:
            tell("mapping a slice of the array")
            areas["slice"], models["slice"] = figures_of(
                Array(config=slice_config(config)), options.period)
        for title in [title for title in NETWORKS if title in formats or title in slices]:
            name, precision = NETWORKS[title]
            tell(f"{name} on the RTL")
            recorded = run(config, name, blocks)
            if title in formats:
                runs[title] = measure(config, name, precision, models, blocks, recorded, tell)
            if title in slices:
                first, busy = window_of(recorded["array"], precision)
                share = float(busy[first:first + WINDOW].mean())
                arguments = (config, models["slice"], recorded["array"], first, share, precision,
                             tell)
                units.setdefault("slice", {})[title] = measure_slice(*arguments)
                if precision is Precision.INT2:
                    units["slice"]["BINARY"] = measure_slice(*arguments,
                                                             taken_as=Precision.BINARY)
        if "encoder" in options.only:
            areas["encoder"], units["encoder"] = measure_encoder(options.period, tell)
        if "router" in options.only:
            areas["router"], units["router"] = measure_router(options.period, tell, memories=True)
            areas["router without buffers"], units["router without buffers"] = measure_router(
                options.period, tell, memories=False)
    result: dict[str, Any] = {
        "library": "OSU 180 nm, 1.8 V, 25 C, typical; no wires, no clock tree, no glitches",
        "config": config.name, "period_ns": options.period, "element": element, "lane": lane,
        "blocks": areas, "formats": runs, "units": units}
    if {"FP16", "INT2"} <= set(runs):
        def ratio(key: str) -> float:
            return round(runs["FP16"][element][key] / runs["INT2"][element][key], 2)

        result["fp16_over_int2"] = {"energy": ratio("pj_a_multiply_add"),
                                    "without_clock": ratio("pj_a_multiply_add_without_clock")}
    keep("power", result, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
