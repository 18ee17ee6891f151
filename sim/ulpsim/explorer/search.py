"""The cheapest interconnect that keeps an efficiency, and why the next cheaper one does not."""

import dataclasses
from typing import Any

from .cost import cost_of
from .graph import GraphError
from .sweep import Point, evaluate
from .topologies import TOPOLOGIES

__all__ = ["Found", "cheapest"]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes
    ----------
    best
        Figures of the cheapest topology that keeps the efficiency, or None.
    failed
        Those that are cheaper, or all, the nearest to `best` in cost first.
    refused
        Why topologies are not possible, by name.
    efficiency
        That was asked.
    """

    best: dict[str, Any] | None
    failed: list[dict[str, Any]]
    refused: dict[str, str]
    efficiency: float

    def explanation(self) -> str:
        """In words."""
        lines = []
        if self.best is None:
            lines.append(f"no topology keeps an efficiency of {self.efficiency:.0%}")
        else:
            lines.append(f"{self.best['topology']}: {self.best['efficiency']:.1%} at "
                         f"{self.best['cost_a_chip']:.1f} a chip, the cheapest that keeps "
                         f"{self.efficiency:.0%}")
        for number, row in enumerate(self.failed):
            what = "the next cheaper" if self.best and number == 0 else "also fails"
            lines.append(f"{row['topology']} ({what}): {row['efficiency']:.1%} at "
                         f"{row['cost_a_chip']:.1f} a chip, bound by {row['cause']}: "
                         f"{row['exposed'] * 1e3:.3g} ms of a step of {row['seconds'] * 1e3:.3g} "
                         "ms are exchange that nothing hides")
        lines += [f"{name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def cheapest(point: Point, efficiency: float, topologies: list[str] | None = None) -> Found:
    """Try the point's step on every topology, from the cheapest one on, until one will do.

    Raises ValueError for an efficiency that is not above 0 and at most 1, and for points that are
    not possible on any topology.
    """
    if not 0 < efficiency <= 1:
        raise ValueError(f"the efficiency must be above 0 and at most 1, not {efficiency!r}")
    candidates, refused = [], {}
    for name in topologies or TOPOLOGIES:
        one = dataclasses.replace(point, topology=name)
        try:
            candidates.append((cost_of(one.graph()).total, name, one))
        except GraphError as error:
            if name not in TOPOLOGIES:
                raise
            refused[name] = str(error)
    failed: list[dict[str, Any]] = []
    for _, _, one in sorted(candidates, key=lambda item: item[:2]):
        row = evaluate(one)
        if row["efficiency"] >= efficiency:
            return Found(row, failed[::-1], refused, efficiency)
        failed.append(row)
    if not candidates:
        raise ValueError("; ".join(refused.values()))
    return Found(None, failed[::-1], refused, efficiency)
