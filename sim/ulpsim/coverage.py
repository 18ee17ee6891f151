"""Functional coverage: what must occur in the programs with which a core is tested.

A bin is something that an instruction, or two that follow each other in a unit, or a network can
be like: a pair of formats, a function of a format, a tile that is not full. `required` lists the
bins of a core, group by group, and `bins_of` finds those that a program hits. The groups are
written over the fields and enumerations of the instruction set: what has a format field is
crossed with every precision, and whether a combination exists is asked of the interpreter's
`check`. So a new format makes its own bins.

`python bench/coverage.py` prints the table; `programs.covering_programs` makes programs that hit
every bin of instructions.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .config import CoreConfig
from .cycles_execute import vector_slots
from .cycles_special import vectors_at_once
from .formats import Precision
from .isa import INSTRUCTIONS, Cause, Field, Fold, Instruction, Pool, Segment, Source, Target, Unit
from .network import Network
from .rules import check

__all__ = ["Bin", "Cross", "bins_of", "crosses", "instruction_bins", "network_bins", "required",
           "summary"]

#: A group's name and what is to occur in it.
Bin = tuple[str, tuple[Any, ...]]

_PAGE = 4096
_FIELDS = {row.name: {field.name: field for field in row.fields} for row in INSTRUCTIONS}
#: Segments large enough for any offset: legality is not to be a matter of size.
_EVERYWHERE = {segment: (0, 1 << 32) for segment in Segment}


@dataclasses.dataclass(frozen=True)
class Cross:
    """All combinations of the values of `fields`, where the fields of `given` are as they are."""

    group: str
    instruction: str
    fields: tuple[str, ...]
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def required(self, config: CoreConfig) -> list[tuple[Any, ...]]:
        """The combinations that this core accepts."""
        fields = [_FIELDS[self.instruction][name] for name in self.fields]
        return [values for values in itertools.product(*map(_values, fields))
                if check(config, _EVERYWHERE, self.example(config, values)) is Cause.NONE]

    def example(self, config: CoreConfig, values: tuple[Any, ...]) -> Instruction:
        """The smallest instruction that has these values."""
        smallest: dict[str, Any] = {}
        if self.instruction == "SPECIAL":
            smallest = {name: config.formats[0] for name, field in _FIELDS["SPECIAL"].items()
                        if field.choices is Precision}
            smallest["float_accumulator"] = 0 if config.has_integer else 1
        if self.instruction in ("LOAD", "STORE"):
            # A line of weights or of parameters, and a whole beat.
            smallest["length"] = max(8 * config.quarter, config.column_lanes)
        return Instruction(self.instruction, **{
            **smallest, **self.assignment(values)})

    def assignment(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The fields that an instruction must have to hit this bin."""
        return {**self.given, **dict(zip(self.fields, values, strict=True))}

    def find(self, instruction: Instruction) -> tuple[Any, ...] | None:
        """The combination that an instruction has, if it is one of this cross."""
        if instruction.name != self.instruction or any(
                instruction[name] != _number(value) for name, value in self.given.items()):
            return None
        return tuple(_member(_FIELDS[self.instruction][name], instruction[name])
                     for name in self.fields)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else value.value


def _member(field: Field, number: int) -> Any:
    return field.choices(number) if field.choices else number


def _values(field: Field) -> Iterable[Any]:
    return list(field.choices) if field.choices else range(1 << field.width)


def _format_fields(instruction: str) -> tuple[str, ...]:
    """Fields that say of what format the operands of the array are."""
    return tuple(name for name, field in _FIELDS[instruction].items()
                 if field.choices is Precision or name.endswith(("_signed", "_odd")))


@functools.cache
def crosses() -> tuple[Cross, ...]:
    """What is to occur of single fields and of fields with each other."""
    return (
        Cross("MATMUL: formats", "MATMUL", _format_fields("MATMUL")),
        Cross("MATMUL: precision, accumulate", "MATMUL", ("precision", "accumulate")),
        Cross("MATMUL: precision, fold", "MATMUL", ("precision", "fold")),
        Cross("LOAD: target, segment", "LOAD", ("target", "segment")),
        Cross("STORE: segment", "STORE", ("segment",)),
        Cross("SPECIAL: relu, clip, residual, pool", "SPECIAL",
              ("relu", "clip", "residual", "pool")),
        Cross("SPECIAL: accumulators, output", "SPECIAL",
              ("float_accumulator", "output_precision", "output_signed", "pool"),
              {"source": Source.ACCUMULATORS, "reduce": 0}),
        Cross("SPECIAL: accumulators, fold", "SPECIAL", ("float_accumulator", "fold", "residual"),
              {"source": Source.ACCUMULATORS}),
        Cross("SPECIAL: source, output", "SPECIAL",
              ("source_precision", "source_signed", "output_precision", "output_signed"),
              {"source": Source.ACTIVATIONS, "reduce": 0}),
        Cross("SPECIAL: residual", "SPECIAL",
              ("residual_precision", "residual_signed", "product", "source"), {"residual": 1}),
        Cross("SPECIAL: upper half, output, residual", "SPECIAL",
              ("upper", "output_precision", "residual_precision"), {"residual": 1, "reduce": 0}),
        Cross("SPECIAL: function, output", "SPECIAL",
              ("function", "output_precision", "source"), {"residual": 0, "reduce": 0}),
        Cross("SPECIAL: rows", "SPECIAL",
              ("source", "row_scale", "row_bias", "reduce", "pool")),
    )


# --- shapes

def _several(instruction: Instruction) -> tuple[bool, ...]:
    return tuple(instruction[f"count_{i}"] > 1 for i in range(3))


def _part_of_tile(depth: int, slots: int) -> str:
    rest = depth % slots
    return {0: "full", 1: "one slot"}.get(rest, "part")


def _matmul_shapes(config: CoreConfig, i: Instruction) -> Iterable[Bin]:
    slots = vector_slots(config, Fold(i["fold"]))
    tiles = -(-i["depth"] // slots)
    vectors = i["count_0"] * i["count_1"] * i["count_2"]
    precision = Precision(i["precision"])
    yield "MATMUL: precision, last tile", (precision, _part_of_tile(i["depth"], slots))
    yield "MATMUL: tiles", (min(tiles, 3),)
    several = i["depth"] > i["run_length"]
    yield "MATMUL: runs", (several, several and i["run_length"] % config.residues != 0)
    yield "MATMUL: vectors against the tile period", (
        (vectors > config.minimum_tile_period) - (vectors < config.minimum_tile_period),)
    yield "MATMUL: loops", _several(i)


def _special_shapes(config: CoreConfig, i: Instruction) -> Iterable[Bin]:
    pool = Pool(i["pool"])
    if pool is not Pool.NONE:
        yield "SPECIAL: windows", (pool, i["window_0"] > 1, i["window_1"] > 1)
    yield "SPECIAL: loops", _several(i)
    if config.special_vectors > 1 and not i["reduce"]:
        vectors = vectors_at_once(config, i)
        yield "SPECIAL: vectors at once, fewer at the end, residual, pool", (
            vectors, i["count_2"] % vectors != 0, bool(i["residual"]), pool is not Pool.NONE)


def _row_shapes(config: CoreConfig, i: Instruction) -> Iterable[Bin]:
    yield f"{i.name}: rows, alignment", (i["rows"] > 1, i["address"] % config.banks != 0
                                         if _is_free(i) else False)
    if i.name != "FILL":
        beats = -(-i["length"] // config.bus_slots)
        yield f"{i.name}: length", (
            "beat" if beats == 1 else "burst" if beats <= config.burst_beats else "bursts",)
    else:
        yield "FILL: length", (i["length"] > config.banks, i["length"] % config.banks != 0)


def _is_free(i: Instruction) -> bool:
    """Whether any slot may be the first."""
    return i.name != "LOAD" or Target(i["target"]) is Target.ACTIVATIONS


def _follows(config: CoreConfig, before: Instruction, i: Instruction) -> Iterable[Bin]:
    if before.name == i.name == "MATMUL":
        yield "MATMUL: precision after precision", (
            Precision(before["precision"]), Precision(i["precision"]))
        if i["accumulate"]:
            yield "MATMUL: accumulates where the last did", (
                before["accumulator"] == i["accumulator"],)
    if before.name == i.name == "SPECIAL":
        yield "SPECIAL: source after source", (Source(before["source"]), Source(i["source"]))


def instruction_bins(config: CoreConfig, instruction: Instruction,
                     before: Instruction | None = None) -> set[Bin]:
    """The bins that an instruction hits; `before` is its predecessor in the same unit."""
    found: set[Bin] = set()
    for cross in crosses():
        values = cross.find(instruction)
        if values is not None:
            found.add((cross.group, values))
    shapes: dict[str, Callable[[CoreConfig, Instruction], Iterable[Bin]]] = {
        "MATMUL": _matmul_shapes, "SPECIAL": _special_shapes, "LOAD": _row_shapes,
        "FILL": _row_shapes, "STORE": _row_shapes}
    if instruction.name in shapes:
        found.update(shapes[instruction.name](config, instruction))
    if before is not None:
        found.update(_follows(config, before, instruction))
    return found


def _shapes_required(config: CoreConfig) -> dict[str, list[tuple[Any, ...]]]:
    precisions = [values[0] for values in Cross(
        "", "MATMUL", ("precision", "accumulate")).required(config) if not values[1]]
    bits = (False, True)
    sources = [s for s in Source if config.special_functions or s is Source.ACCUMULATORS]
    together = [(n, *rest) for n in (1, 2, 4) if n <= config.special_vectors > 1
                for rest in itertools.product(bits, repeat=3) if n > 1 or not rest[0]]
    parts = ["full", "one slot", "part"] if config.rows > 2 else ["full", "one slot"]
    return {
        "MATMUL: precision, last tile": list(itertools.product(precisions, parts)),
        "MATMUL: tiles": [(1,), (2,), (3,)],
        "MATMUL: runs": [(False, False), (True, False), (True, True)],
        "MATMUL: vectors against the tile period": [(-1,), (0,), (1,)],
        "MATMUL: loops": list(itertools.product(bits, repeat=3)),
        "MATMUL: precision after precision": list(itertools.product(precisions, repeat=2)),
        "MATMUL: accumulates where the last did": [(False,), (True,)],
        "SPECIAL: windows": list(itertools.product(list(Pool)[1:], bits, bits)),
        "SPECIAL: loops": list(itertools.product(bits, repeat=3)),
        "SPECIAL: vectors at once, fewer at the end, residual, pool": together,
        "SPECIAL: source after source": list(itertools.product(sources, repeat=2)),
        **{f"{name}: rows, alignment": list(itertools.product(bits, bits))
           for name in ("LOAD", "FILL", "STORE")},
        **{f"{name}: length": [("beat",), ("burst",), ("bursts",)] for name in ("LOAD", "STORE")},
        "FILL: length": list(itertools.product(bits, bits)),
    }


# --- whole programs

def _program_bins(program: Iterable[Instruction],
                  segments: Mapping[Segment, tuple[int, int]]) -> Iterable[Bin]:
    for i in program:
        if i.unit is None:
            continue
        for giver in Unit:
            if i[f"wait_{giver.name.lower()}"]:
                yield "tokens: from, to", (giver, i.unit)
        if i.name in ("LOAD", "STORE"):
            base, _ = segments[Segment(i["segment"])]
            first = (base + i["offset"]) % _PAGE
            yield f"{i.name}: row across a page", (first + 2 * i["length"] > _PAGE,)


def network_bins(network: Network) -> Iterable[Bin]:
    """The bins that a network hits."""
    for layer in network.layers:
        yield "networks: operators", (layer.op,)
        if layer.op == "convolution":
            assert layer.weights is not None
            for axis in range(2):
                yield f"networks: convolution along axis {axis}: kernel, stride, padding", (
                    layer.weights.shape[1 + axis], layer.stride[axis], layer.padding[axis])
            yield "networks: groups, dilation", (
                layer.groups > 1, layer.dilation[0] > 1, layer.dilation[1] > 1)
        if layer.op in ("max_pool", "average_pool"):
            for axis in range(2):
                yield f"networks: pool along axis {axis}: operator, window, stride", (
                    layer.op, layer.size[axis], layer.stride[axis])


def _programs_required(config: CoreConfig) -> dict[str, list[tuple[Any, ...]]]:
    operators = ("convolution", "fully_connected", "add", "relu", "clip", "max_pool",
                 "average_pool")
    return {
        # STORE and MATMUL touch nothing that the other writes.
        "tokens: from, to": [pair for pair in itertools.permutations(config.units, 2)
                             if set(pair) != {Unit.EXECUTE, Unit.STORE}],
        **{f"{name}: row across a page": [(False,), (True,)] for name in ("LOAD", "STORE")},
        "networks: operators": [(op,) for op in operators],
        **{f"networks: convolution along axis {axis}: kernel, stride, padding":
           list(itertools.product((1, 2, 3), (1, 2), (0, 1, 2))) for axis in range(2)},
        "networks: groups, dilation": list(itertools.product((False, True), repeat=3)),
        **{f"networks: pool along axis {axis}: operator, window, stride":
           list(itertools.product(("max_pool", "average_pool"), (1, 2, 3, 4), (1, 2, 3)))
           for axis in range(2)},
    }


def required(config: CoreConfig, *, instructions_alone: bool = False
             ) -> dict[str, list[tuple[Any, ...]]]:
    """The bins of every group that has any on this core.

    With `instructions_alone` those of whole programs (tokens, places in memory, networks) are left
    out.
    """
    groups = {cross.group: cross.required(config) for cross in crosses()}
    groups |= _shapes_required(config)
    if not instructions_alone:
        groups |= _programs_required(config)
    return {group: values for group, values in groups.items() if values}


def bins_of(config: CoreConfig, program: Iterable[Instruction],
            segments: Mapping[Segment, tuple[int, int]],
            network: Network | None = None) -> set[Bin]:
    """The bins that a program hits, and the network of which it was made."""
    program = list(program)
    found = set(_program_bins(program, segments))
    last: dict[Unit, Instruction] = {}
    for instruction in program:
        if instruction.unit is not None:
            found |= instruction_bins(config, instruction, last.get(instruction.unit))
            last[instruction.unit] = instruction
    if network is not None:
        found.update(network_bins(network))
    return found


def summary(config: CoreConfig, found: set[Bin], *, instructions_alone: bool = False
            ) -> dict[str, dict[str, Any]]:
    """For each group the number of its bins, of those hit, and the names of those that are not."""
    return {group: {"bins": len(values), "hit": sum((group, v) in found for v in values),
                    "missing": [_name(v) for v in values if (group, v) not in found]}
            for group, values in required(
                config, instructions_alone=instructions_alone).items()}


def _name(values: tuple[Any, ...]) -> str:
    return ", ".join(str(getattr(value, "name", value)) for value in values)
