"""The link with registers and memory but no core: what tests of the link run at full speed."""

from typing import Any

from amaranth.hdl import Module

from ..registers import Registers
from .memory import OnChipMemory
from .system import System

__all__ = ["Coreless"]


class Coreless(System):
    """`System` with registers in the core's place: programs never end, STATUS stays 0."""

    def add_core(self, m: Module, memory: OnChipMemory) -> Any:
        m.submodules.registers = registers = Registers(config=self.config.core)
        return registers.bus
