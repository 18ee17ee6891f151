"""Liberty files: cells with their areas, capacitances and tables of delay and energy."""

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

__all__ = ["Arc", "Cell", "Pin", "Table", "read_liberty"]


@dataclasses.dataclass(frozen=True)
class Table:
    """Values [load, input slew], or [input slew] with no loads; pF and ns."""

    loads: tuple[float, ...]
    slews: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, load: float, slew: float) -> float:
        """Linear between the points, and beyond them held at the last one."""
        column, across = _between(self.slews, slew)
        rows = [row[column] + (row[column + 1] - row[column]) * across if len(row) > 1 else row[0]
                for row in self.values]
        if len(rows) == 1:
            return rows[0]
        row, along = _between(self.loads, load)
        return rows[row] + (rows[row + 1] - rows[row]) * along


@dataclasses.dataclass(frozen=True)
class Arc:
    """From a pin (or none) to an output: slews that leave (ns) and energies of a toggle (pJ)."""

    related: str
    slews: tuple[Table, ...]
    energies: tuple[Table, ...]


@dataclasses.dataclass(frozen=True)
class Pin:
    """`capacitance` is in pF; `function` is what an output is made of, in Liberty's notation."""

    is_output: bool
    is_clock: bool
    capacitance: float
    function: str
    arcs: tuple[Arc, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """`area` is in um2, `leakage` in nW; `is_flip_flop` says that an output follows D at a rising
    clock, with neither set nor reset."""

    area: float
    leakage: float
    is_flip_flop: bool
    pins: Mapping[str, Pin]

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in their order."""
        return [name for name, pin in self.pins.items() if not pin.is_output]

    def truth(self, output: str) -> int:
        """The truth table of an output: bit i is its value when bit k of i is input k."""
        inputs, text = self.inputs, self.pins[output].function
        # Operands beside each other are and-ed.
        text = re.sub(r"(?<=[\w)'])\s+(?=[\w(!])", " & ", text.strip())
        text = text.replace("!", "~").replace("+", "|").replace("*", "&")
        if not text or re.search(r"[^\w\s()~|&^]", text):
            raise ValueError(f"function of {output} must be of !, *, + and ^, not {text!r}")
        table = 0
        for i in range(1 << len(inputs)):
            values = {name: i >> k & 1 for k, name in enumerate(inputs)}
            table |= (eval(text, {"__builtins__": {}}, values) & 1) << i
        return table


class _Group:
    def __init__(self, kind: str, argument: str) -> None:
        self.kind, self.argument = kind, argument
        self.values: dict[str, str] = {}
        self.groups: list[_Group] = []

    def all(self, kind: str) -> Iterator["_Group"]:
        return (group for group in self.groups if group.kind == kind)


_STATEMENT = re.compile(r"\s*(?:(?P<close>\})|(?P<name>\w+)\s*(?:\((?P<argument>[^)]*)\)\s*"
                        r"(?:(?P<open>\{)|;?)|:\s*(?P<value>\"[^\"]*\"|[^;]*);))")


def _parse(text: str) -> _Group:
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    root = _Group("", "")
    stack = [root]
    position = 0
    while found := _STATEMENT.match(text, position):
        position = found.end()
        if found["close"]:
            stack.pop()
        elif found["open"]:
            group = _Group(found["name"], found["argument"].strip())
            stack[-1].groups.append(group)
            stack.append(group)
        else:
            stack[-1].values[found["name"]] = (
                found["value"] if found["value"] is not None else found["argument"]).strip()
    if len(stack) != 1 or text[position:].strip():
        raise ValueError(f"a Liberty file must be closed groups, not {text[position:][:60]!r}")
    return root


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.replace('"', " ").replace(",", " ").split()))


def _table(group: _Group) -> Table:
    first, second = (_numbers(group.values.get(f"index_{i}", "")) for i in (1, 2))
    values = _numbers(group.values["values"])
    loads, slews = (first, second) if second else ((), first)
    rows = len(loads) or 1
    width = len(values) // rows
    return Table(loads, slews, tuple(values[i * width:(i + 1) * width] for i in range(rows)))


def _pin(group: _Group) -> Pin:
    arcs: dict[str, tuple[list[Table], list[Table]]] = {}
    for kind, side, names in (("timing", 0, ("rise_transition", "fall_transition")),
                              ("internal_power", 1, ("rise_power", "fall_power"))):
        for inner in group.all(kind):
            related = inner.values.get("related_pin", "").strip('"')
            for name in names:
                arcs.setdefault(related, ([], []))[side].extend(map(_table, inner.all(name)))
    return Pin(group.values["direction"] == "output", group.values.get("clock") == "true",
               float(group.values.get("capacitance", 0)),
               group.values.get("function", "").strip('"'),
               tuple(Arc(related, tuple(slews), tuple(energies))
                     for related, (slews, energies) in arcs.items() if slews or energies))


@lru_cache
def read_liberty(path: Path) -> Mapping[str, Cell]:
    """The cells of a library by name. Raises ValueError for a text that is not Liberty.

    The library must measure ns, pF, V and nW, and its tables must be [load, slew]; both are so
    for the one of OSU.
    """
    library = next(_parse(path.read_text()).all("library"), None)
    if library is None:
        raise ValueError(f"{path} must hold a library")
    return {cell.argument: Cell(float(cell.values["area"]),
                                float(cell.values.get("cell_leakage_power", 0)),
                                any(ff.values.get("next_state") == '"D"'
                                    and ff.values.get("clocked_on") == '"CLK"'
                                    and "clear" not in ff.values for ff in cell.all("ff")),
                                {pin.argument: _pin(pin) for pin in cell.all("pin")})
            for cell in library.all("cell")}


def _between(points: Sequence[float], value: float) -> tuple[int, float]:
    """The place before `value` and how far it is from there to the next one, 0 to 1."""
    if len(points) < 2:
        return 0, 0.0
    place = min(max(bisect_right(points, value) - 1, 0), len(points) - 2)
    part = (value - points[place]) / (points[place + 1] - points[place])
    return place, min(max(part, 0.0), 1.0)
