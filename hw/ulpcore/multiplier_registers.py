"""Registers behind the multipliers of the ECP5 and of Gowin's devices, moved into them.

A multiplier has registers at its outputs, which Yosys leaves unused: a registered product then
crosses the fabric to flip-flops that have room, and the cycle that the product has for itself is
spent on the way there. Where every output that is used goes to one flip-flop, all of them of one
clock, always enabled and never reset, the multiplier takes their place.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

__all__ = ["absorb"]


def _is_plain_ecp5(cell: dict[str, Any]) -> bool:
    """A flip-flop that is zero at first and takes its input at every rising edge."""
    pins, parameters = cell["connections"], cell["parameters"]
    if pins.get("LSR", ["0"])[0] not in ("0", "x"):
        return False
    always = parameters["CEMUX"].strip() == "1" or pins.get("CE") == ["1"]
    return always and (parameters["REGSET"], parameters["LSRMUX"], parameters["CLKMUX"]) == (
        "RESET", "LSR", "CLK")


def _is_plain_gowin(cell: dict[str, Any]) -> bool:
    return cell["parameters"].get("INIT", "0") in ("0", "x")


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A multiplier, its outputs, the register that it has one for, and what switches that on."""

    outputs: tuple[str, ...]
    register: str
    data: str
    is_plain: Callable[[dict[str, Any]], bool]
    parameters: dict[str, str]
    clock: str
    tied: dict[str, str]


_KINDS = {
    "MULT18X18D": _Kind(
        tuple(f"P{i}" for i in range(36)), "TRELLIS_FF", "DI", _is_plain_ecp5,
        {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0",
         "GSR": "DISABLED"}, "CLK0", {"CE0": "1", "RST0": "0"}),
    "MULT18X18": _Kind(("DOUT",), "DFF", "D", _is_plain_gowin, {"OUT_REG": "1"}, "CLK",
                       {"CE": "1", "RESET": "0"}),
}


def absorb(module: dict[str, Any]) -> int:
    """Move what can be moved in a module of Yosys's JSON format; the flip-flops saved."""
    cells: dict[str, Any] = module["cells"]
    users = defaultdict[Any, list[tuple[str, str]]](list)
    for name, cell in cells.items():
        for pin, nets in cell["connections"].items():
            if cell["port_directions"][pin] != "output":
                for net in nets:
                    users[net].append((name, pin))
    for port in module["ports"].values():
        if port["direction"] != "input":
            for net in port["bits"]:
                users[net].append(("", ""))
    return sum(_absorbed(cells, cell, users) for cell in [*cells.values()]
               if cell["type"] in _KINDS)


def _absorbed(cells: dict[str, Any], cell: dict[str, Any],
              users: dict[Any, list[tuple[str, str]]]) -> int:
    kind = _KINDS[cell["type"]]
    pins = cell["connections"]
    used = {(pin, place): users[net] for pin in kind.outputs
            for place, net in enumerate(pins.get(pin, ())) if users[net]}
    if (not used or kind.parameters.items() <= cell["parameters"].items()
            or any(len(takers) != 1 or not _takes(cells, takers[0], kind)
                   for takers in used.values())):
        return 0
    registers = {place: takers[0][0] for place, takers in used.items()}
    clocks = {cells[name]["connections"]["CLK"][0] for name in registers.values()}
    if len(clocks) != 1:
        return 0
    cell["parameters"] |= kind.parameters
    pins |= {kind.clock: [*clocks], **{pin: [level] for pin, level in kind.tied.items()}}
    cell["port_directions"] |= dict.fromkeys((kind.clock, *kind.tied), "input")
    for (pin, place), name in registers.items():
        pins[pin][place] = cells.pop(name)["connections"]["Q"][0]
    return len(registers)


def _takes(cells: dict[str, Any], taker: tuple[str, str], kind: _Kind) -> bool:
    name, pin = taker
    return (pin == kind.data and cells[name]["type"] == kind.register
            and kind.is_plain(cells[name]))
