"""A core, its memory and the link to a host: everything on a board but its clock and pins."""

import dataclasses
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.link.device import identity_words

from ..core import Core
from .host_link import HostLink
from .memory import OnChipMemory

__all__ = ["System", "SystemConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """A core on a board.

    Parameters
    ----------
    core
        Its bus must be 4 bytes wide.
    memory_bytes
        On-chip memory in which programs, parameters and data stand; a multiple of 4096.
    clock_hz
        What the core runs at.
    baud
        Of the UART; the clock must be 4 times as fast at least, and come within 2 % of it.
    """

    core: CoreConfig
    memory_bytes: int
    clock_hz: int
    baud: int

    def __post_init__(self) -> None:
        if self.core.bus_bytes != 4:
            raise ValueError(f"the core on a board must have a bus of 4 bytes, not "
                             f"{self.core.bus_bytes} as {self.core.name!r}")
        if self.baud <= 0 or self.divisor < 4:
            raise ValueError(f"baud must be from 1 to a quarter of the clock, "
                             f"{self.clock_hz // 4}, not {self.baud}")
        error = abs(self.clock_hz / self.divisor / self.baud - 1)
        if error > 0.02:
            raise ValueError(f"baud must be within 2 % of the clock of {self.clock_hz} Hz divided "
                             f"by an integer, not {self.baud}, {100 * error:.1f} % off")

    @property
    def divisor(self) -> int:
        """Clock cycles a bit."""
        return round(self.clock_hz / self.baud)

    @property
    def configuration(self) -> int:
        """What the core says of its configuration."""
        return self.core.fingerprint


class System(wiring.Component):
    """The core beside `OnChipMemory`, which it shares with the host's `HostLink`.

    Members
    -------
    receive : In(1), transmit : Out(1)
        The UART's lines.
    """

    receive: Signal
    transmit: Signal

    def __init__(self, *, config: SystemConfig) -> None:
        self.config = config
        super().__init__({"receive": In(1), "transmit": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.memory = memory = OnChipMemory(masters=2, size=config.memory_bytes)
        registers = self.add_core(m, memory)
        m.submodules.link = link = HostLink(divisor=config.divisor,
                                            identity=identity_words(config))
        wiring.connect(m, link.read, memory.read[1])
        wiring.connect(m, link.write, memory.write[1])
        wiring.connect(m, link.registers, registers)
        m.d.comb += [link.receive.eq(self.receive), self.transmit.eq(link.transmit)]
        return m

    def add_core(self, m: Module, memory: OnChipMemory) -> Any:
        """Put the core beside the memory, as its first master; the registers."""
        m.submodules.core = core = Core(config=self.config.core)
        wiring.connect(m, core.read, memory.read[0])
        wiring.connect(m, core.write, memory.write[0])
        return core.registers
