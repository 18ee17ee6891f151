"""Energy of a netlist in standard cells from the toggles of its nets.

A toggle of a net takes C V^2 / 2, with C what the pins on it have; a toggle of a cell's output the
library's internal energy for its load and slew, rising and falling and over the inputs averaged; a
toggle of an input that has a table of its own (D of a flip-flop) that. Each cycle the clock's net
takes C V^2 and each clock pin its internal energy twice, rising and falling. There are no wires and
no tree for the clock, and no glitches: toggles are those of settled values.

The power that OpenSTA of 2019, Debian's, reports is not used: it took no activity of inner nets,
and seems to count some energies twice (`docs/power.md`).
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from .cells import OUTPUT_LOAD, Netlist, require_library
from .liberty import Cell, Table, read_liberty

__all__ = ["VOLTAGE", "Energy", "Model", "leakage"]

VOLTAGE = 1.8
#: Slew of the clock, of inputs, and at the begin of the search for those of nets, ns.
_SLEW = 0.1
#: How often slews are followed through the netlist; after three cells nothing is left of one.
_PASSES = 4


@dataclasses.dataclass(frozen=True)
class Energy:
    """What a cycle takes on average, pJ: `clock` the pins and net of the clock, `registers` the
    flip-flops but for that, `logic` all other cells. `groups` cuts `registers` and `logic` by the
    names of the registers (`Model.groups`)."""

    clock: float
    registers: float
    logic: float
    groups: Mapping[str, float]

    @property
    def total(self) -> float:
        return self.clock + self.registers + self.logic


def leakage(netlist: Netlist) -> float:
    """Leakage in watts, at 25 degrees."""
    library = read_liberty(require_library())
    return sum(library[cell["type"]].leakage for cell in netlist.module["cells"].values()) * 1e-9


class Model:
    """The energy that a toggle of each net takes in a netlist.

    Parameters
    ----------
    netlist
        As `map_cells` gives it.
    names
        Groups of registers: for the beginning of a register's name the group. Cells that no such
        register follows, or several, are of the group `shared`.
    """

    def __init__(self, netlist: Netlist, names: Mapping[str, str] | None = None) -> None:
        self.netlist = netlist
        library = read_liberty(require_library())
        cells = netlist.module["cells"]
        self._cells: dict[str, tuple[Cell, Mapping[str, list[Any]]]] = {
            name: (library[cell["type"]], cell["connections"]) for name, cell in cells.items()}
        loads = self._loads()
        self.groups = self._grouped(names or {})
        slews = self._slews(loads)
        self._clock = 0.0
        #: For each instance what a toggle of each net costs in it.
        self._of: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for name, (cell, pins) in self._cells.items():
            for pin_name, pin in cell.pins.items():
                bit = pins[pin_name][0]
                tables = [t for arc in pin.arcs for t in arc.energies]
                if pin.is_clock:
                    self._clock += pin.capacitance * VOLTAGE ** 2 + sum(
                        table.at(0, _SLEW) for table in tables)
                elif isinstance(bit, int):
                    cost = loads[bit] * VOLTAGE ** 2 / 2 if pin.is_output else 0.0
                    cost += _mean(tables, loads[bit], self._slew_into(name, pin_name, slews))
                    if cost:
                        self._of[name].append((bit, cost))

    def _loads(self) -> dict[int, float]:
        loads: dict[int, float] = defaultdict(float)
        for cell, pins in self._cells.values():
            for name, pin in cell.pins.items():
                if not pin.is_output and isinstance(pins[name][0], int):
                    loads[pins[name][0]] += pin.capacitance
        for port in self.netlist.module["ports"].values():
            if port["direction"] == "output":
                for bit in port["bits"]:
                    loads[bit] += OUTPUT_LOAD
        return loads

    def _slew_into(self, name: str, pin: str, slews: Mapping[int, float]) -> float:
        """The slew that decides the energy of a pin: its own, or the mean of the cell's inputs."""
        cell, pins = self._cells[name]
        if not cell.pins[pin].is_output:
            return slews.get(pins[pin][0], _SLEW)
        sources = [arc.related for arc in cell.pins[pin].arcs if arc.energies]
        found = [_SLEW if cell.pins[s].is_clock else slews.get(pins[s][0], _SLEW)
                 for s in sources if s in pins]
        return sum(found) / len(found) if found else _SLEW

    def _slews(self, loads: Mapping[int, float]) -> dict[int, float]:
        slews: dict[int, float] = {}
        for _ in range(_PASSES):
            after: dict[int, float] = {}
            for name, (cell, pins) in self._cells.items():
                for pin_name, pin in cell.pins.items():
                    if pin.is_output:
                        bit = pins[pin_name][0]
                        after[bit] = _mean([t for arc in pin.arcs for t in arc.slews], loads[bit],
                                           self._slew_into(name, pin_name, slews))
            slews = after
        return slews

    def _grouped(self, names: Mapping[str, str]) -> dict[str, str]:
        """The group of each instance: that of the register, or of all registers, it leads to."""
        readers: dict[int, list[str]] = defaultdict(list)
        for name, (cell, pins) in self._cells.items():
            for pin_name, pin in cell.pins.items():
                if not pin.is_output and not pin.is_clock and isinstance(pins[pin_name][0], int):
                    readers[pins[pin_name][0]].append(name)
        groups: dict[str, str] = {}
        outputs = {name: bit for name, _, bit in self.netlist.drivers}
        for name, bit in outputs.items():
            if bit in self.netlist.registers:
                register = self.netlist.registers[bit]
                groups[name] = next((group for start, group in names.items()
                                     if register.startswith(start)), "shared")
        pending = [name for name in self._cells if name not in groups]
        while pending:
            left = []
            for name in pending:
                follow = readers[outputs[name]]
                if all(reader in groups for reader in follow):
                    kinds = {groups[reader] for reader in follow}
                    groups[name] = kinds.pop() if len(kinds) == 1 else "shared"
                else:
                    left.append(name)
            if len(left) == len(pending):
                raise ValueError(f"cells must not be in a loop, as {left[0]} is")
            pending = left
        return groups

    def energy(self, toggles: Mapping[int, float]) -> Energy:
        """Energy of a cycle from the toggles a cycle of each bit of a net; 0 where there is none
        for it."""
        kinds, groups = defaultdict(float), defaultdict(float)
        for name, costs in self._of.items():
            taken = sum(toggles.get(bit, 0.0) * cost for bit, cost in costs)
            is_register = self.netlist.module["cells"][name]["type"].startswith("DFF")
            kinds["registers" if is_register else "logic"] += taken
            groups[self.groups[name]] += taken
        return Energy(self._clock, kinds["registers"], kinds["logic"], dict(groups))


def _mean(tables: list[Table], load: float, slew: float) -> float:
    return float(np.mean([table.at(load, slew) for table in tables])) if tables else 0.0
