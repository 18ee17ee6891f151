"""The unit interface: what the sequencer and each of the units say to each other."""

import enum
import functools
from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.formats import Precision
from ulpsim.isa import INDEX_BITS, Cause, Unit

from .decoder import unit_layout

__all__ = ["UnitPort", "causes", "connect_unit", "precision_bits", "unit_members"]


def unit_members(unit: Unit, config: CoreConfig) -> dict[str, wiring.Member]:
    """The interface seen from the unit; `docs/architecture.md` says what each member means."""
    return {
        "instructions": In(stream.Signature(unit_layout(unit, config))),
        "retired": Out(1),
        "retired_post": Out(len(config.units)),
        "fault": Out(1),
        "fault_cause": Out(8),
        "fault_index": Out(INDEX_BITS),
        "busy": Out(1),
        "stop": In(1),
    }


@functools.cache
def _causes(exchange: bool) -> type[enum.Enum]:
    if exchange:
        return Cause
    own = (Cause.COMPRESSION, Cause.COLLECTIVE)
    others: Any = enum.Enum(
        "Cause", {cause.name: cause.value for cause in Cause if cause not in own})
    return others


def causes(config: CoreConfig) -> type[enum.Enum]:
    """The causes that the units of a core can report: the Verilog names no others."""
    return _causes(config.exchange > 0)


def precision_bits(formats: Iterable[Precision]) -> int:
    """Bits of an instruction's precision that tell these formats apart, the lowest ones."""
    return max(1, *(p.value.bit_length() for p in formats))


class UnitPort(wiring.Signature):
    """The interface, seen from the sequencer."""

    def __init__(self, *, unit: Unit, config: CoreConfig) -> None:
        super().__init__({name: member.flip()
                          for name, member in unit_members(unit, config).items()})


def connect_unit(m: Module, port: Any, unit: Any) -> None:
    """Connect a `UnitPort` to the members of the same names of a unit."""
    m.d.comb += [
        unit.instructions.payload.eq(port.instructions.payload),
        unit.instructions.valid.eq(port.instructions.valid),
        port.instructions.ready.eq(unit.instructions.ready),
        unit.stop.eq(port.stop),
        *(getattr(port, name).eq(getattr(unit, name)) for name in
          ("retired", "retired_post", "fault", "fault_cause", "fault_index", "busy")),
    ]
