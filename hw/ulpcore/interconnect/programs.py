"""Programs of the exchange unit from commands of its engines."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ulpsim.compression import engine as compression
from ulpsim.compression.packets import STEPS
from ulpsim.interconnect.collective import ROUNDS
from ulpsim.isa import Instruction, Segment

from .cluster_rtl import NodeStep

__all__ = ["program_of"]

_POINTS = 256


def program_of(steps: Sequence[NodeStep], *, base: int, step: int, round_: int
               ) -> list[Instruction]:
    """The program that gives a node these commands.

    All addresses are in WORKSPACE, whose base is `base`; steps and rounds are counted from the
    registers STEP and ROUND, which are to hold `step` and `round_`.
    """
    return [*(_instruction(told, base, step, round_) for told in steps), Instruction("HALT")]


def _instruction(told: NodeStep, base: int, step: int, round_: int) -> Instruction:
    command = told.command
    compresses = isinstance(command, compression.Command)
    name = command.operation.name if compresses else "COLLECTIVE"
    known = {field.name for field in Instruction(name).type.fields}
    values: dict[str, Any] = {field: value for field, value in dataclasses.asdict(command).items()
                              if field in known}
    addresses = ("gradient", "residue", "buffer") if compresses else ("address", "table")
    for field in known.intersection(addresses):
        values[field] = max(0, values[field] - base)
    values |= {field: Segment.WORKSPACE for field in known if field.endswith("segment")}
    if compresses:
        values["step"] = (command.step - step) % STEPS
        if "point" in known:
            values["point"] = command.point % _POINTS
    else:
        values |= {"packed": int(told.packed), "round": (command.round - round_) % ROUNDS}
    return Instruction(name, **values)
