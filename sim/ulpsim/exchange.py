"""The exchange unit's instructions: the rules that they may break, and the engines' commands.

COMPRESS and DECODE become commands of the compression engine (`compression.engine`), COLLECTIVE one
of the collective engine (`interconnect.collective`). Offsets become addresses by the segments'
bases; steps and rounds are counted from the registers STEP and ROUND, so that one program serves
every step of a training.

Of several rules that an instruction breaks the first one counts: MISALIGNED_ADDRESS,
SEGMENT_READ_ONLY, SEGMENT_RANGE, each for all of its regions. What breaks none goes to the engine,
which may still refuse it, or fail: the core then stops with COMPRESSION or COLLECTIVE, or with
BUS_SLAVE_ERROR or BUS_DECODE_ERROR if it was the bus, and the register EXCHANGE_FAULT says more
(`detail`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .compression import engine as compression
from .compression.packets import STEPS
from .interconnect import collective
from .interconnect.collective import ROUNDS
from .isa import Cause, Instruction, Segment

__all__ = ["Region", "collective_command", "command_cause", "compression_command", "detail",
           "regions", "rules"]

_POINT_BITS = 8
_ADDRESSES = 1 << 32
#: The engines' causes that are the bus's.
_BUS = {"SLAVE_ERROR": Cause.BUS_SLAVE_ERROR, "DECODE_ERROR": Cause.BUS_DECODE_ERROR}

Segments = Mapping[Segment, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Region:
    """What an instruction may touch: `size` bytes from `offset` in a segment; `aligned` are the
    numbers that must be multiples of the bus width."""

    segment: Segment
    offset: int
    size: int
    written: bool
    aligned: tuple[int, ...]


def regions(instruction: Instruction, nodes: int) -> list[Region]:
    """The regions of an instruction in a network of so many nodes."""
    def region(name: str, size: int, written: bool, *aligned: int) -> Region:
        return Region(Segment(instruction[f"{name}_segment"]), instruction[name], size, written,
                      (instruction[name], *aligned))

    if instruction.name == "COLLECTIVE":
        return _collective_regions(instruction, nodes)
    elements, capacity = instruction["elements"], instruction["capacity"]
    if instruction.name == "COMPRESS":
        return [region("gradient", elements * (2 if instruction["dlfloat16"] else 4), False),
                region("residue", 4 * elements, True),
                region("buffer", capacity, True, capacity)]
    # Fewer learners than one are the engine's to refuse.
    others = max(0, instruction["last_learner"] - instruction["learner"])
    pitch = instruction["pitch"]
    return [region("gradient", 4 * elements, True),
            region("buffer", others * pitch + capacity, False, capacity, pitch)]


def _collective_regions(instruction: Instruction, nodes: int) -> list[Region]:
    operation = collective.Operation(instruction["operation"])
    segment, address, pitch = (Segment(instruction["segment"]), instruction["address"],
                               instruction["pitch"])
    if operation is collective.Operation.BARRIER:
        return []
    size = {collective.Operation.ALL_GATHER: nodes * pitch,
            collective.Operation.ALL_REDUCE: instruction["bytes"],
            collective.Operation.BROADCAST: pitch}[operation]
    found = [Region(segment, address, size, True, (address, pitch))]
    if operation is collective.Operation.ALL_GATHER:
        table = instruction["table"]
        found.append(Region(segment, table, 4 * nodes, True, (table,)))
    return found


def rules(bus_bytes: int, segments: Segments, instruction: Instruction, nodes: int
          ) -> Sequence[tuple[bool, Cause]]:
    """Each rule, whether the instruction breaks it, in their order."""
    touched = regions(instruction, nodes)
    return (
        (any(number % bus_bytes for region in touched for number in region.aligned),
         Cause.MISALIGNED_ADDRESS),
        (any(region.written and region.segment not in (Segment.OUTPUT, Segment.WORKSPACE)
             for region in touched), Cause.SEGMENT_READ_ONLY),
        (any(region.offset + region.size > segments.get(region.segment, (0, 0))[1]
             for region in touched), Cause.SEGMENT_RANGE))


def compression_command(instruction: Instruction, segments: Segments, step: int
                        ) -> compression.Command:
    """The command of a COMPRESS or DECODE with `step` in the register STEP."""
    def address(name: str) -> int:
        base, _ = segments[Segment(instruction[f"{name}_segment"])]
        return (base + instruction[name]) % _ADDRESSES

    fields = {field.name for field in dataclasses.fields(compression.Command)}
    values: dict[str, Any] = {name: value for name, value in instruction.values.items()
                              if name in fields}
    values |= {name: address(name) for name in ("gradient", "residue", "buffer") if name in values}
    values["step"] = (step + instruction["step"]) % STEPS
    if "point" in values:
        values["point"] -= (values["point"] >> _POINT_BITS - 1) << _POINT_BITS
    flags = ("append", "exact", "choose", "dlfloat16", "clear")
    arguments: dict[str, Any] = {
        name: bool(value) if name in flags else value for name, value in values.items()}
    return compression.Command(compression.Operation[instruction.name], **arguments)


def collective_command(instruction: Instruction, segments: Segments, round_: int, packed: int
                       ) -> collective.Command:
    """The command of a COLLECTIVE with `round_` in the register ROUND, after a COMPRESS that has
    put `packed` bytes into its buffer."""
    base, _ = segments[Segment(instruction["segment"])]
    operation = collective.Operation(instruction["operation"])
    counts = operation in (collective.Operation.ALL_GATHER, collective.Operation.BROADCAST)
    return collective.Command(
        operation, (round_ + instruction["round"]) % ROUNDS,
        address=(base + instruction["address"]) % _ADDRESSES,
        bytes=packed if instruction["packed"] and counts else instruction["bytes"],
        pitch=instruction["pitch"], table=(base + instruction["table"]) % _ADDRESSES,
        root=instruction["root"], patience=instruction["patience"])


def command_cause(completion: compression.Completion | collective.Completion) -> Cause:
    """What the core stops with when an engine reports this; NONE if it has not failed."""
    if not completion.cause:
        return Cause.NONE
    own = (Cause.COMPRESSION if isinstance(completion, compression.Completion)
           else Cause.COLLECTIVE)
    return _BUS.get(completion.cause.name, own)


def detail(completion: compression.Completion | collective.Completion) -> int:
    """What EXCHANGE_FAULT holds then: the engine's cause in bits 3:0, of a compression its detail
    in 7:4 and place in 9:8, and the learner or node to blame in 21:12."""
    if isinstance(completion, collective.Completion):
        return completion.cause | completion.node << 12
    return (completion.cause | completion.detail << 4 | completion.place << 8
            | completion.learner << 12)
