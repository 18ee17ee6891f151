"""The page's comparisons: scaled figures beside IBM's chips, units of the FPGA beside those of
others, and the power of the FPGA."""

from collections.abc import Mapping, Sequence
from typing import Any

from ulpsim.config import RAPID, CoreConfig
from ulpsim.page import plot, table

from .estimate import fpga, scaled

__all__ = ["at_180", "comparison", "fpga_comparison", "fpga_power"]

Section = tuple[str, str, list[str], str]
Figures = Mapping[str, Any]

_NODES = (14, 7)
_TABLE = {"what": "", "node": "node", "format": "format", "kind": "", "ghz": "GHz", "tops": "TOPS",
          "tops_w": "TOPS/W", "tops_mm2": "TOPS/mm2"}


def comparison(power: Figures, published: Figures) -> list[Section]:
    """`rapid` at 14 and 7 nm beside IBM's chips."""
    rows: list[dict[str, Any]] = []
    pictures = []
    for nanometres in _NODES:
        ours = scaled(RAPID, power, nanometres)
        node = f"{nanometres} nm"
        theirs = [row for row in published["chips"] if row["node"] == node]
        rows += [{"what": f"{RAPID.name}, {ours[0]['mm2']:.2f} mm2 of cells", "node": node,
                  "kind": "scaled", **row} for row in ours]
        rows += theirs
        for name, heading in (("tops_w", "TOPS/W"), ("tops_mm2", "TOPS/mm2")):
            bits = {"FP16": 16, "FP8": 8, "INT4": 4, "INT2": 2, "BINARY": 1}
            lines = {f"scaled, {end}": [(bits[row["format"]], getattr(row[name], end))
                                        for row in ours] for end in ("low", "high")}
            given = [(bits[row["format"]], row[name]) for row in theirs if name in row]
            if given:
                lines["published"] = given
            pictures.append(plot(f"{heading} at {node}, over bits", lines, "bits", heading,
                                 log_y=True, dots=["published"]))
    slots = RAPID.rows * RAPID.columns * RAPID.lanes
    return [(
        "Beside IBM's chips", f"Scaled: {slots} elements and {RAPID.special_lanes} special lanes "
        f"of the configuration {RAPID.name}, from the areas, the clock and the energies at 180 nm "
        "below, by the equations of A. Stillmaker and B. Baas (Integration 58, 2017; coefficients "
        "at second hand). Not in it: scratchpads (2 MB), accumulators, sequencer, bus, wires, "
        "clock tree, and leakage. In the figures of IBM's chips all of these are, so a chip's "
        "TOPS/W and TOPS/mm2 would be lower than these. On the other hand nothing gates the clock "
        "of the elements, which takes most of their energy. Ranges "
        "are over transistors for speed and for low power, 0.7 to 0.9 V at 14 nm and 0.6 to 0.8 V "
        "at 7 nm; the low end of TOPS/W has capacitances that shrink with the length alone, as "
        "those of wires do at best. The clock is that of a mapped netlist before placement. "
        "Operations are two a multiply-add. TOPS are at full use of the array, of which layers "
        "sustain the utilisation below; TOPS/W are those of the measured windows, a fifth of which "
        "is idle in INT2 and BINARY. BINARY was measured in a slice of the array with bits of "
        "an INT2 network. Area and power of the 2018 core are not published. 7 and 14 nm of a "
        "foundry differ from the models that the equations were fitted to.",
        pictures, table(rows, _TABLE))]


def at_180(config: CoreConfig, power: Figures) -> Section:
    """What the configuration's own elements and special lanes do at 180 nm."""
    rows = scaled(config, power, 180)
    return (f"{config.name} at 180 nm", f"{config.rows * config.columns * config.lanes} elements "
            f"and {config.special_lanes} special lanes, {rows[0]['mm2']:.1f} mm2 of cells, at the "
            "clock of the mapped netlist: measured, but for what is not in it (as above). "
            "BINARY is INT2's element in the proportion of the two in the slice.", [],
            table(rows, {name: _TABLE[name] for name in (
                "format", "ghz", "tops", "tops_w", "tops_mm2")}))


def fpga_comparison(fpga: Figures, units: Figures, published: Figures) -> list[Section]:
    """Multiply-add units and arrays beside those of others."""
    columns = {"what": "", "comb": "COMB", "flip_flops": "FF", "multipliers": "DSP",
               "fmax": "MHz"}
    # As of the others: those routed, with registers at their ends.
    ours = [{"what": f"ulpcore, {name}", **unit["routed"][0],
             "fmax": " / ".join(map(str, unit["fmax"]))}
            for name, unit in units.items() if unit["routed"]]
    slots = [{"what": name, **unit["area"]} for name, unit in units.items()]
    element = fpga["areas"][next(name for name in fpga["areas"] if name.endswith("_element"))]
    whole = fpga["areas"][next(name for name in fpga["areas"] if name.endswith(".array"))]
    arrays = [{"what": row["what"], "fmax": row["fmax"],
               **{key: row[key] / row["multiply_adds"]
                  for key in ("comb", "flip_flops", "multipliers")}}
              for row in published["fpga_arrays"]]
    # An element multiplies two pairs of INT8 in a cycle.
    count = whole["multipliers"] // element["multipliers"]
    arrays.insert(0, {"what": "ulpcore, the array for all formats, edges included",
                      "fmax": f"{fpga['routed'][0]['fmax']} (in the core)" if fpga["routed"] else
                      "not routed",
                      **{key: whole[key] / (2 * count)
                         for key in ("comb", "flip_flops", "multipliers")}})
    integer = next((unit for name, unit in units.items() if name == "slot, INT8"), None)
    if integer is not None:
        arrays.insert(1, {"what": "ulpcore, an element for INT8 alone, no edges",
                          "fmax": " / ".join(map(str, integer["fmax"])),
                          **{key: integer["area"][key] / 2
                             for key in ("comb", "flip_flops", "multipliers")}})
    flow = f"Measured, {published['fpga_flow']}"
    return [
        ("Multiply-add units on the FPGA", f"{flow}; of ours three seeds, area of the first. Ours "
         "is fused, DLFloat16. A slot is an element of the array for the formats named.", [],
         table([*ours, *published["fpga_float_units"]], columns)),
        ("Our units by format, FPGA", "Measured after synthesis, without registers at their ends.",
         [], table(slots, {name: columns[name] for name in columns if name != "fmax"})),
        ("Integer arrays on the FPGA, an INT8 multiply-add a cycle", f"{flow}. Area of an array "
         "divided by the INT8 multiply-adds that it does in a cycle. Our array does all other "
         "formats with the same elements. Ours is after synthesis.", [], table(arrays, columns))]


def fpga_power(config: CoreConfig, routed: Sequence[Figures], power: Figures, published: Figures
               ) -> Section:
    """What the FPGA does at the clock of the first of the routed ones, and an estimate of what it
    takes."""
    method = published["fpga_power"]
    if not routed:
        return "Peak and power of the FPGA", "Not estimated: the core is not routed.", [], ""
    mhz = routed[0]["fmax"]
    rows = fpga(config, power, method, mhz)
    return ("Peak and power of the FPGA", f"Peaks at {mhz} MHz, the routed clock. Power is "
            "estimated; nothing was measured on a device, and the open tools have no power model "
            f"of the ECP5. Static: {method['static']['source']}. Dynamic, of elements and special "
            f"lanes: the energies at 180 nm, capacitances with the length to "
            f"{method['nanometres']} nm and voltages squared to {method['static']['volts']} V, "
            f"times {method['gap']['low']:g} to {method['gap']['high']:g} by "
            f"{method['gap']['source']}. Memories, accumulators, sequencer and pins are not in it, "
            "and the gap is an average over circuits at 90 nm. So power may be wrong by a factor "
            "of two or three.", [],
            table(rows, {"format": "format", "gops": "GOPS at peak", "static": "static W",
                         "cells": f"W in cells of {method['nanometres']} nm",
                         "dynamic": "dynamic W", "gops_w": "GOPS/W"}))
