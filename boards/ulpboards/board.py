"""What a board is to this project, and the top of its design."""

import dataclasses
from collections.abc import Callable
from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Signal,
)
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from ulpcore.devices import Device
from ulpcore.link.system import SystemConfig
from ulpsim.config import CoreConfig, load_config

from .clocks import Ecp5Pll, GowinPll, Ice40Pll, Pll

__all__ = ["Board", "Top"]

_PLLS: dict[str, type[Pll]] = {"ecp5": Ecp5Pll, "ice40": Ice40Pll, "gowin": GowinPll}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Parameters
    ----------
    name, title
        On the command line; for people.
    platform
        Makes amaranth-boards' platform, with a UART as resource `uart`.
    device
        The FPGA.
    core
        Name of the core, or file of the configuration, that is built if nothing else is said.
    memory_bytes
        On-chip memory beside that core.
    clock_hz
        What is asked of the PLL.
    baud
        Of the UART.
    programmer
        openFPGALoader's name of the board.
    """

    name: str
    title: str
    platform: Callable[[], Any]
    device: Device
    core: str
    memory_bytes: int
    clock_hz: int
    baud: int
    programmer: str

    def pll(self, clock_hz: int | None = None) -> Pll:
        """The PLL for this clock, by default the board's own."""
        platform = self.platform()
        return _PLLS[self.device.family.name](platform.default_clk_frequency,
                                              clock_hz or self.clock_hz,
                                              getattr(platform, "family", ""))

    def system(self, core: CoreConfig | None = None, *, clock_hz: int | None = None,
               memory_bytes: int | None = None) -> SystemConfig:
        """The system on the board: by default the board's own core, clock and memory."""
        return SystemConfig(core=core or load_config(self.core),
                            memory_bytes=memory_bytes or self.memory_bytes,
                            clock_hz=round(self.pll(clock_hz).output), baud=self.baud)


class Top(Elaboratable):
    """PLL, reset and pins of a board around the Verilog module `system`."""

    def __init__(self, pll: Pll) -> None:
        self.pll = pll

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source, locked = Signal(), Signal()
        m.domains.sync = domain = ClockDomain()
        clock = domain.clk  # pyright: ignore[reportAttributeAccessIssue]
        pad = platform.request(platform.default_clk, dir="-")
        if isinstance(self.pll, Ice40Pll):
            # The PLL is the input's own buffer.
            m.submodules.pll = self.pll.instance(pad.io, clock, locked)
        else:
            m.submodules.clock_buffer = buffer = io.Buffer(io.Direction.Input, pad)
            m.d.comb += source.eq(buffer.i)
            m.submodules.pll = self.pll.instance(source, clock, locked)
        platform.add_clock_constraint(clock, self.pll.output)
        m.submodules.reset = ResetSynchronizer(~locked)
        port = platform.request("uart", dir={"rx": "-", "tx": "-"})
        m.submodules.receive = receive = io.Buffer(io.Direction.Input, port.rx)
        m.submodules.transmit = transmit = io.Buffer(io.Direction.Output, port.tx)
        m.submodules.system = Instance(
            "system", i_clk=ClockSignal(), i_rst=ResetSignal(), i_receive=receive.i,
            o_transmit=transmit.o)
        return m
