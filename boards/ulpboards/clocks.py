"""Clocks from the PLLs of the devices: which settings, and the instance."""

import abc
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Const, Instance

__all__ = ["Ecp5Pll", "GowinPll", "Ice40Pll", "Pll"]


@dataclasses.dataclass(frozen=True)
class Pll(abc.ABC):
    """A PLL that comes nearest to `wanted` Hz from `source` Hz without being faster.

    `device` is the name that Gowin's PLL is told. ValueError if the device's limits allow nothing
    within 5 % of it.
    """

    source: float
    wanted: float
    device: str = ""

    @abc.abstractmethod
    def settings(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        """What there is: output in Hz, and the device's own numbers for it."""

    @property
    def best(self) -> tuple[float, tuple[int, ...]]:
        possible = [s for s in self.settings() if 0.95 * self.wanted <= s[0] <= self.wanted + 1]
        if not possible:
            raise ValueError(f"the clock must be one that a PLL can make of "
                             f"{self.source / 1e6:g} MHz, not {self.wanted / 1e6:g} MHz")
        return max(possible, key=lambda setting: (setting[0], [-n for n in setting[1]]))

    @property
    def output(self) -> float:
        """Hz."""
        return self.best[0]

    @abc.abstractmethod
    def instance(self, source: Any, clock: Any, locked: Any) -> Instance:
        """The device's PLL from the signal `source` to `clock`."""


class Ecp5Pll(Pll):
    """EHXPLLL, its feedback from the output: phase detector 3.125 to 400 MHz, VCO 400 to 800 MHz
    (Lattice, ECP5 and ECP5-5G Family Data Sheet, FPGA-DS-02012)."""

    def settings(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        for divide, multiply, after in itertools.product(range(1, 26), range(1, 81), range(1, 129)):
            detector = self.source / divide
            output = detector * multiply
            if 3.125e6 <= detector <= 400e6 and 400e6 <= output * after <= 800e6:
                yield output, (divide, multiply, after)

    def instance(self, source: Any, clock: Any, locked: Any) -> Instance:
        divide, multiply, after = self.best[1]
        return Instance(
            "EHXPLLL", p_CLKI_DIV=divide, p_CLKFB_DIV=multiply, p_CLKOP_DIV=after,
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_CPHASE=after - 1, p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP", i_CLKI=source, i_CLKFB=clock, o_CLKOP=clock, o_LOCK=locked,
            i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0), i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2")


class Ice40Pll(Pll):
    """SB_PLL40_PAD with simple feedback: detector 10 to 133 MHz, VCO 533 to 1066 MHz (Lattice,
    iCE40 sysCLOCK PLL Design and Usage Guide, FPGA-TN-02052). Its source is the pad itself."""

    def settings(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        for divide, multiply, after in itertools.product(range(16), range(128), range(1, 7)):
            detector = self.source / (divide + 1)
            vco = detector * (multiply + 1)
            if 10e6 <= detector <= 133e6 and 533e6 <= vco <= 1066e6:
                yield vco / 2 ** after, (divide, multiply, after)

    def instance(self, source: Any, clock: Any, locked: Any) -> Instance:
        divide, multiply, after = self.best[1]
        return Instance("SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(divide, 4),
                        p_DIVF=Const(multiply, 7), p_DIVQ=Const(after, 3),
                        p_FILTER_RANGE=Const(1, 3), i_PACKAGEPIN=source, o_PLLOUTGLOBAL=clock,
                        o_LOCK=locked, i_RESETB=Const(1), i_BYPASS=Const(0))


class GowinPll(Pll):
    """rPLL: detector 3 to 400 MHz, VCO 400 to 1200 MHz for the GW1NR-9C, 500 to 1250 for the
    GW2AR-18C (Gowin, UG286); what both can is taken."""

    def settings(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        afters = (2, 4, 8, *range(16, 129, 16))
        for divide, multiply, after in itertools.product(range(64), range(64), afters):
            detector = self.source / (divide + 1)
            output = detector * (multiply + 1)
            if 3e6 <= detector <= 400e6 and 500e6 <= output * after <= 1200e6:
                yield output, (divide, multiply, after)

    def instance(self, source: Any, clock: Any, locked: Any) -> Instance:
        divide, multiply, after = self.best[1]
        return Instance(
            "rPLL", p_DEVICE=self.device, p_FCLKIN=str(self.source / 1e6), p_IDIV_SEL=divide,
            p_FBDIV_SEL=multiply, p_ODIV_SEL=after, p_DYN_IDIV_SEL="false",
            p_DYN_FBDIV_SEL="false", p_DYN_ODIV_SEL="false", p_DYN_SDIV_SEL=2,
            p_PSDA_SEL="0000", p_DUTYDA_SEL="1000", p_DYN_DA_EN="true", p_CLKFB_SEL="internal",
            p_CLKOUT_BYPASS="false", p_CLKOUTP_BYPASS="false", p_CLKOUTD_BYPASS="false",
            p_CLKOUT_FT_DIR=Const(1, 1), p_CLKOUTP_FT_DIR=Const(1, 1),
            p_CLKOUT_DLY_STEP=0, p_CLKOUTP_DLY_STEP=0, p_CLKOUTD_SRC="CLKOUT",
            p_CLKOUTD3_SRC="CLKOUT", i_CLKIN=source, i_CLKFB=Const(0), i_RESET=Const(0),
            i_RESET_P=Const(0), i_FBDSEL=Const(0, 6), i_IDSEL=Const(0, 6), i_ODSEL=Const(0, 6),
            i_PSDA=Const(0, 4), i_DUTYDA=Const(0, 4), i_FDLY=Const(0, 4), o_CLKOUT=clock,
            o_LOCK=locked)
