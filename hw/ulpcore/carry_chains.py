"""Lookup tables in front of the ECP5's carry chains, folded into them.

A half of a carry cell (CCU2C) is a lookup table of four inputs with a carry behind it, of which an
adder uses two: one bit of each addend. Yosys leaves the others alone, so an addend that is masked,
inverted or chosen takes a lookup table of its own, and its delay. Here the tables that feed only a
chain go into its own one as far as they fit:

    sum = table(A, B, C, D) ^ carry in
    carry out = carry in if table(A, B, C, D) else generate(A, B)

where `generate` is the first four entries of the table, those with C = D = 0. With x and y for the
addends the table is x ^ y, and generate must be one of them: so one addend is a function of A and B
alone, and the other one is 0 wherever C = D = 0. A constant D = 1 makes that certain.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["fold"]

#: The table of a plain addition: x = A, y = B ^ C, D constant.
_ADDITION = 0x96AA
_PINS = "ABCD"

#: A net of a module, as Yosys numbers it, or a constant: "0", "1", "x" or "z".
Net = int | str


class _Function(NamedTuple):
    """A function of nets; bit i of `table` is its value where input k has bit k of i."""

    inputs: tuple[Net, ...]
    table: int

    def at(self, values: dict[Net, int]) -> int:
        return self.table >> sum(values[net] << k for k, net in enumerate(self.inputs)) & 1

    @staticmethod
    def of(pins: list[Net], table: int) -> "_Function":
        """The function of a lookup table with these pins, constants left out."""
        inputs = tuple(dict.fromkeys(net for net in pins if isinstance(net, int)))
        result = 0
        for i in range(1 << len(inputs)):
            values = {net: i >> k & 1 for k, net in enumerate(inputs)}
            index = sum((values[net] if isinstance(net, int) else net == "1") << k
                        for k, net in enumerate(pins))
            result |= (table >> index & 1) << i
        return _Function(inputs, result)


def fold(module: dict[str, Any]) -> int:
    """Fold what fits in a module of Yosys's JSON format; the number of lookup tables saved.

    The module holds LUT4 and CCU2C cells; of these only plain additions are touched.
    """
    cells: dict[str, Any] = module["cells"]
    uses = Counter(net for cell in cells.values() for pin, nets in cell["connections"].items()
                   if cell["port_directions"][pin] != "output" for net in nets)
    uses.update(net for port in module["ports"].values() if port["direction"] != "input"
                for net in port["bits"])
    tables = {cell["connections"]["Z"][0]: name for name, cell in cells.items()
              if cell["type"] == "LUT4"}
    saved = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "CCU2C"]:
        for half in "01":
            pins = [cell["connections"][pin + half][0] for pin in _PINS]
            if (int(cell["parameters"]["INIT" + half], 2) != _ADDITION or pins[3] != "1"
                    or isinstance(pins[2], int)):
                continue
            plain = [_Function.of([pins[0]], 0b10), _Function.of(pins[1:3], 0b0110)]
            choices = [[addend] for addend in plain]
            for addend, choice, invert in zip(plain, choices, (False, pins[2] == "1"),
                                              strict=True):
                driver = tables.get(addend.inputs[0]) if addend.inputs else None
                if driver is not None and uses[addend.inputs[0]] == 1:
                    source = cells[driver]
                    function = _Function.of([source["connections"][pin][0] for pin in _PINS],
                                            int(source["parameters"]["INIT"], 2))
                    every = (1 << (1 << len(function.inputs))) - 1
                    choice.insert(0, function._replace(table=function.table ^ every * invert))
            for addends in itertools.product(*choices):
                folded = [p.inputs[0] for p, addend in zip(plain, addends, strict=True)
                          if addend is not p]
                placed = _place(*addends) if folded else None
                if placed is not None:
                    nets, table = placed
                    cell["parameters"]["INIT" + half] = f"{table:016b}"
                    cell["connections"] |= {pin + half: [net]
                                            for pin, net in zip(_PINS, nets, strict=True)}
                    for net in folded:
                        del cells[tables.pop(net)]
                    saved += len(folded)
                    break
    return saved


def _place(x: _Function, y: _Function) -> tuple[list[Net], int] | None:
    """Pins and table of half a carry cell that adds x and y; None if they do not fit."""
    for generate, other in ((x, y), (y, x)):
        for nets in _orders(generate, other):
            table = 0
            for i in range(16):
                values = {net: i >> k & 1 for k, net in enumerate(nets) if isinstance(net, int)}
                first, second = generate.at(values), other.at(values)
                if i < 4 and nets[3] == "1":
                    second = 0
                elif i < 4 and second:
                    break
                table |= (first ^ second) << i
            else:
                return nets, table
    return None


def _orders(generate: _Function, other: _Function) -> Iterator[list[Net]]:
    """Nets for the pins such that `generate` depends on A and B alone."""
    rest = [net for net in other.inputs if net not in generate.inputs]
    count = len(generate.inputs) + len(rest)
    if len(generate.inputs) > 2 or count > 4:
        return
    if count < 4:
        yield [*generate.inputs, *rest, *["0"] * (3 - count), "1"]
        return
    for order in itertools.permutations(rest):
        yield [*generate.inputs, *order]
