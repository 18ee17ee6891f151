"""Registers behind the ECP5's multipliers, moved into them.

A multiplier (MULT18X18D) has registers at its outputs, which Yosys leaves unused: a registered
product then crosses the fabric to flip-flops that have room, and the cycle that the product has
for itself is spent on the way there. Where every output that is used goes to one flip-flop, all of
them of one clock, always enabled and never reset, the multiplier takes their place.
"""

from collections import defaultdict
from typing import Any

__all__ = ["absorb"]

_OUTPUTS = [f"P{i}" for i in range(36)]


def absorb(module: dict[str, Any]) -> int:
    """Move what can be moved in a module of Yosys's JSON format; the flip-flops saved."""
    cells: dict[str, Any] = module["cells"]
    users = defaultdict[Any, list[str]](list)
    for name, cell in cells.items():
        for pin, nets in cell["connections"].items():
            if cell["port_directions"][pin] != "output":
                for net in nets:
                    users[net].append(name if pin == "DI" else "")
    for port in module["ports"].values():
        if port["direction"] != "input":
            for net in port["bits"]:
                users[net].append("")
    saved = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "MULT18X18D"]:
        pins = cell["connections"]
        used = {pin: users[pins[pin][0]] for pin in _OUTPUTS if pin in pins and pins[pin]
                and users[pins[pin][0]]}
        if not used or "CLK0" in pins or any(
                len(names) != 1 or not names[0] or not _is_plain(cells[names[0]])
                for names in used.values()):
            continue
        registers = {pin: cells[name] for pin, (name,) in used.items()}
        clocks = {register["connections"]["CLK"][0] for register in registers.values()}
        if len(clocks) != 1:
            continue
        cell["parameters"] |= {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0",
                               "REG_OUTPUT_RST": "RST0", "GSR": "DISABLED"}
        pins |= {"CLK0": [*clocks], "CE0": ["1"], "RST0": ["0"]}
        cell["port_directions"] |= dict.fromkeys(("CLK0", "CE0", "RST0"), "input")
        for pin, register in registers.items():
            pins[pin] = register["connections"]["Q"]
        for (name,) in used.values():
            del cells[name]
        saved += len(used)
    return saved


def _is_plain(cell: dict[str, Any]) -> bool:
    """A flip-flop that is zero at first and takes its input at every rising edge."""
    pins, parameters = cell["connections"], cell["parameters"]
    if cell["type"] != "TRELLIS_FF" or pins.get("LSR", ["0"])[0] not in ("0", "x"):
        return False
    always = parameters["CEMUX"].strip() == "1" or pins.get("CE") == ["1"]
    return always and (parameters["REGSET"], parameters["LSRMUX"], parameters["CLKMUX"]) == (
        "RESET", "LSR", "CLK")
