"""The link with registers and memory but no core: what tests of the link run at full speed."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.link.device import identity_words

from ..registers import Registers
from .host_link import HostLink
from .memory import OnChipMemory
from .system import SystemConfig

__all__ = ["Coreless"]


class Coreless(wiring.Component):
    """`System`, but programs never end: STATUS stays 0.

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
        m.submodules.registers = registers = Registers(config=config.core)
        m.submodules.memory = memory = OnChipMemory(masters=1, size=config.memory_bytes)
        m.submodules.link = link = HostLink(divisor=config.divisor,
                                            identity=identity_words(config))
        wiring.connect(m, link.read, memory.read[0])
        wiring.connect(m, link.write, memory.write[0])
        wiring.connect(m, link.registers, registers.bus)
        m.d.comb += [link.receive.eq(self.receive), self.transmit.eq(link.transmit)]
        return m
