"""Toggles of every net of a netlist while it gets what the component got in a real run."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from amaranth.lib import wiring
from numpy.typing import NDArray

from .cells import CutMemory, Netlist, require_library
from .liberty import read_liberty
from .simulation import port_widths

__all__ = ["Activity", "replay"]


@dataclasses.dataclass(frozen=True)
class Activity:
    """`toggles` a cycle by the bit of a net, over `cycles`; `agreeing` says of each output whether
    its values were those that were recorded in all of these."""

    toggles: Mapping[int, float]
    agreeing: Mapping[str, bool]
    cycles: int

    @property
    def agree(self) -> bool:
        return all(self.agreeing.values())


class _Simulator:
    """Levels of cells with a truth table each, evaluated side by side; one clock."""

    def __init__(self, netlist: Netlist) -> None:
        library = read_liberty(require_library())
        module = netlist.module
        # The last two nets are the constants.
        self.place: dict[int | str, int] = {}
        for port in module["ports"].values():
            for bit in port["bits"]:
                self.place.setdefault(bit, len(self.place))
        for _, _, bit in netlist.drivers:
            self.place.setdefault(bit, len(self.place))
        for constant in "01":
            self.place.setdefault(constant, len(self.place))
        self.place["x"] = self.place["0"]
        self.initial = np.zeros(len(self.place), np.uint8)
        self.initial[self.place["1"]] = 1
        tables: dict[tuple[str, str], int] = {}
        pending: list[tuple[list[int], int, int]] = []
        data, outputs = [], []
        for cell in module["cells"].values():
            kind, pins = library[cell["type"]], cell["connections"]
            where = {name: self.place[bits[0]] for name, bits in pins.items()}
            for name, pin in kind.pins.items():
                if not pin.is_output or name not in where:
                    continue
                if kind.is_flip_flop:
                    data.append(where["D"])
                    outputs.append(where[name])
                    continue
                key = cell["type"], name
                if key not in tables:
                    tables[key] = kind.truth(name)
                pending.append(([where[i] for i in kind.inputs], tables[key], where[name]))
        self.data, self.registers = np.array(data, int), np.array(outputs, int)
        self.levels = self._levels(pending)

    def _levels(self, pending: list[tuple[list[int], int, int]]
                ) -> list[tuple[list[NDArray[np.int64]], NDArray[np.uint16], NDArray[np.int64]]]:
        driver = {output: (inputs, table) for inputs, table, output in pending}
        depth: dict[int, int] = {}

        def walk(start: int) -> None:
            stack = [start]
            while stack:
                inputs = driver[stack[-1]][0]
                left = [i for i in inputs if i in driver and i not in depth]
                if left:
                    if len(stack) > len(driver):
                        raise ValueError("cells must not be in a loop")
                    stack += left
                else:
                    output = stack.pop()
                    depth[output] = 1 + max((depth.get(i, 0) for i in inputs), default=0)

        for output in driver:
            if output not in depth:
                walk(output)
        levels = []
        zero = self.place["0"]
        for level in range(1, max(depth.values(), default=0) + 1):
            chosen = [output for output in driver if depth[output] == level]
            # A table of k inputs read with zeros for the others.
            width = max(len(driver[output][0]) for output in chosen)
            sources = [np.array([(driver[o][0] + [zero] * width)[k] for o in chosen])
                       for k in range(width)]
            levels.append((sources, np.array([driver[o][1] for o in chosen], np.uint16),
                           np.array(chosen)))
        return levels

    def settle(self, nets: NDArray[np.uint8]) -> None:
        for sources, tables, outputs in self.levels:
            index = nets[sources[0]]
            for k, source in enumerate(sources[1:], 1):
                index = index | nets[source] << k
            nets[outputs] = tables >> index & 1


class _Memory:
    """The contents of a memory that was cut out, beginning with zeros."""

    def __init__(self, memory: CutMemory, places: Mapping[str, NDArray[np.int64]]) -> None:
        self.clocked = memory.clocked
        self.contents = np.zeros((memory.depth, memory.width), np.uint8)
        self.read_address, self.read_data, self.write_address, self.write_data, self.enable = (
            places[f"{memory.name}.{port}"]
            for port in ("RD_ADDR", "RD_DATA", "WR_ADDR", "WR_DATA", "WR_EN"))
        self.read_enable = places[f"{memory.name}.RD_EN"]

    def read(self, nets: NDArray[np.uint8]) -> NDArray[np.uint8]:
        address = _number(nets[self.read_address])
        return self.contents[address] if address < len(self.contents) else nets[self.read_data]

    def write(self, nets: NDArray[np.uint8]) -> None:
        address = _number(nets[self.write_address])
        if address < len(self.contents):
            chosen = nets[self.enable] == 1
            self.contents[address, chosen] = nets[self.write_data][chosen]


def _number(bits: NDArray[np.uint8]) -> int:
    return sum(int(bit) << i for i, bit in enumerate(bits))


def _settle(simulator: _Simulator, nets: NDArray[np.uint8], memories: list[_Memory]) -> None:
    """Until what unclocked memories give is what they hold where they are read."""
    for _ in range(1 + len(memories)):
        simulator.settle(nets)
        changed = False
        for memory in memories:
            if not memory.clocked:
                word = memory.read(nets)
                changed |= not np.array_equal(word, nets[memory.read_data])
                nets[memory.read_data] = word
        if not changed:
            return
    raise ValueError("memories must not be in a loop")


def _clock(simulator: _Simulator, nets: NDArray[np.uint8], memories: list[_Memory]) -> None:
    """An edge of the clock, at which all is taken that was there before it."""
    words = [memory.read(nets).copy() for memory in memories]
    reads = [memory.clocked and nets[memory.read_enable].all() for memory in memories]
    for memory in memories:
        memory.write(nets)
    nets[simulator.registers] = nets[simulator.data]
    for memory, word, read in zip(memories, words, reads, strict=True):
        if read:
            nets[memory.read_data] = word


def replay(netlist: Netlist, component: wiring.Component, ports: Mapping[str, np.ndarray], *,
           first: int, progress: Callable[[int], None] = lambda cycles: None) -> Activity:
    """Give a netlist the recorded inputs of its component and count toggles of settled values.

    Parameters
    ----------
    ports
        The value of every port of the component, inputs and outputs, in each cycle, before the
        clock's edge, as words: uint32 [cycles, words], lowest first.
    first
        Cycles that are not counted, in which registers get their contents: the netlist begins
        from reset, and with zeros in memories that were cut out, whenever that is in the
        component's run.
    progress
        Called with how many cycles have passed since the last call.

    Raises ValueError when `first` leaves no cycles, or a port is missing.
    """
    in_ports, out_ports = port_widths(component)
    for name in (*in_ports, *out_ports):
        if name not in ports:
            raise ValueError(f"ports must hold {name!r}, not {', '.join(ports)} alone")
    cycles = len(next(iter(ports.values())))
    if not 0 <= first < cycles - 1:
        raise ValueError(f"first must be from 0 to {cycles - 2}, not {first}")
    simulator = _Simulator(netlist)
    places = {name: np.array([simulator.place[bit] for bit in port["bits"]])
              for name, port in netlist.module["ports"].items()}
    bits = {name: _bits(ports[name], width) for name, width in (in_ports | out_ports).items()}
    nets, last = simulator.initial.copy(), simulator.initial.copy()
    memories = [_Memory(memory, places) for memory in netlist.memories]
    toggles = np.zeros(len(nets), np.int64)
    agreeing = dict.fromkeys(out_ports, True)
    nets[places["rst"]] = 1
    _settle(simulator, nets, memories)
    _clock(simulator, nets, memories)
    nets[places["rst"]] = 0
    for cycle in range(cycles):
        for name in in_ports:
            nets[places[name]] = bits[name][cycle]
        _settle(simulator, nets, memories)
        if cycle > first:
            toggles += nets ^ last
        if cycle >= first:
            for name in out_ports:
                if not np.array_equal(nets[places[name]], bits[name][cycle]):
                    agreeing[name] = False
        last[:] = nets
        _clock(simulator, nets, memories)
        if cycle % 500 == 499:
            progress(500)
    counted = cycles - 1 - first
    return Activity({bit: float(toggles[place]) / counted for bit, place in simulator.place.items()
                     if isinstance(bit, int)}, agreeing, counted)


def _bits(words: np.ndarray, width: int) -> NDArray[np.uint8]:
    """[cycles, width] of [cycles, words]."""
    flat = np.ascontiguousarray(words, "<u4").view(np.uint8)
    return np.unpackbits(flat, axis=1, bitorder="little")[:, :width]
