"""Area, delay and energy of a circuit of 180 nm in finer nodes, by published factors.

A. Stillmaker and B. Baas, "Scaling equations for the accurate prediction of CMOS device performance
from 180 nm to 7 nm", Integration, the VLSI Journal 58 (2017), 74-81: polynomials of the supply
voltage, fitted to simulated inverters with a fan-out of four of predictive transistor models, and a
table of areas. The coefficients are second hand: as the program nodeScale of W. Romaszkan (UCLA)
has them.

The models have no wires. Energies fall by more than length times voltage squared, which is what
wires do at best: `by_length` is that, and the upper end of a range.
"""

import dataclasses
from collections.abc import Sequence

__all__ = ["NODES", "SOURCE", "Node", "Scaling", "scalings"]

#: Steps between the ends of a range of voltages.
_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Node:
    """A technology.

    Parameters
    ----------
    nanometres, area
        Its name, and the area of a circuit that takes 1 at 180 nm.
    lowest, highest
        Supply voltages, V, in which the polynomials are used: within them delay falls and energy
        rises with the voltage.
    delays, energies
        Coefficients of the polynomials, the highest power first.
    """

    nanometres: int
    area: float
    lowest: float
    highest: float
    delays: tuple[float, ...]
    energies: tuple[float, ...]

    def delay(self, volts: float) -> float:
        """In the unit of the paper, common to all nodes. Raises ValueError beyond the voltages."""
        return self._at(self.delays, volts)

    def energy(self, volts: float) -> float:
        """As for `delay`."""
        return self._at(self.energies, volts)

    def _at(self, coefficients: Sequence[float], volts: float) -> float:
        if not self.lowest <= volts <= self.highest:
            raise ValueError(f"voltage at {self.nanometres} nm must be from {self.lowest} to "
                             f"{self.highest} V, not {volts!r}")
        value = 0.0
        for coefficient in coefficients:
            value = value * volts + coefficient
        return value


#: By name: HP are transistors for speed, LP those for little power.
NODES = {
    "180": Node(180, 1.0, 1.2, 1.8, (97.09, -356.7, 406.5), (24.64, -17.98)),
    "HP14": Node(14, 1 / 110, 0.7, 0.9, (-40.66, 109.2, -100.6, 35.92),
                 (0.2363, -0.09675, 0.02239)),
    "LP14": Node(14, 1 / 110, 0.7, 0.9, (-85.37, 271.6, -292.2, 111.4),
                 (0.1556, -0.06472, 0.03066)),
    "HP7": Node(7, 1 / 320, 0.6, 0.8, (-28.58, 76.6, -70.26, 24.69),
                (0.1776, -0.09097, 0.02447)),
    "LP7": Node(7, 1 / 320, 0.6, 0.8, (-61.79, 196.1, -210.3, 79.55),
                (0.09365, -0.03409, 0.02043)),
}

#: The voltage of the library at 180 nm that all is scaled from.
SOURCE = 1.8


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Factors from 180 nm at 1.8 V to a node at a voltage; `by_length` is that of the energy if
    capacitances went with the length alone."""

    node: str
    volts: float
    area: float
    delay: float
    energy: float
    by_length: float


def scalings(nanometres: int) -> list[Scaling]:
    """Those of all transistors of 14 or 7 nm, over their voltages, or the one of 180 nm, which
    changes nothing. Their extremes are the range that a scaled figure has. Raises ValueError for
    another node."""
    source = NODES["180"]
    found = []
    for name, node in NODES.items():
        if node.nanometres != nanometres:
            continue
        lowest = SOURCE if node is source else node.lowest
        for step in range(1 if node is source else _STEPS + 1):
            volts = round(lowest + (node.highest - lowest) * step / _STEPS, 3)
            found.append(Scaling(
                name, volts, node.area, node.delay(volts) / source.delay(SOURCE),
                node.energy(volts) / source.energy(SOURCE),
                node.nanometres / source.nanometres * (volts / SOURCE) ** 2))
    if not found:
        raise ValueError(f"nanometres must be 180, 14 or 7, not {nanometres!r}")
    return found
