"""What an interconnect costs, and the energy that messages take on it.

A link costs its two ports and its wire, a vertex its router; prices are in `data/costs.json`, which
says of each where it comes from. Wires are as long as the way along the sides of a floor on which
accelerators stand in a rectangle, in the order of their numbers; a switch stands in the middle of
what hangs at it. So a torus has wires as long as its sides, and the top of a fat tree is far away.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from .data import load
from .graph import Graph

__all__ = ["Cost", "cost_of", "energy_of", "wire_lengths"]

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Cost:
    """In units of a port of 1 GB/s."""

    ports: float
    wires: float
    routers: float

    @property
    def total(self) -> float:
        return self.ports + self.wires + self.routers


@functools.cache
def _prices() -> dict[str, float]:
    return {name: row["value"] for name, row in load("costs").items()}


def wire_lengths(graph: Graph) -> Reals:
    """Of each link, in distances between neighbouring accelerators; at least 1."""
    n = graph.accelerators
    # The shape of a grid with two dimensions, otherwise as near to a square as it goes.
    width = graph.grid[-1] if len(graph.grid) == 2 else math.ceil(math.sqrt(n))
    places = np.zeros((graph.vertices, 2))
    places[:n] = np.stack(np.divmod(np.arange(n), width), axis=1)
    settled = np.arange(graph.vertices) < n
    while not settled.all():
        # Switches at which something that has its place hangs: the lower ones first.
        use = settled[graph.source] & ~settled[graph.target]
        if not use.any():
            break
        count = np.bincount(graph.target[use], minlength=graph.vertices)
        for axis in (0, 1):
            total = np.bincount(graph.target[use], places[graph.source[use], axis],
                                graph.vertices)
            places[count > 0, axis] = total[count > 0] / count[count > 0]
        settled |= count > 0
    span = np.abs(places[graph.source] - places[graph.target]).sum(axis=1)
    return np.maximum(span, 1.0)


def cost_of(graph: Graph) -> Cost:
    """Of all links and routers."""
    prices = _prices()
    gbs = graph.bandwidth / 1e9
    # An accelerator's own port counts with those of its links.
    out = np.bincount(graph.source, minlength=graph.vertices)
    into = np.bincount(graph.target, minlength=graph.vertices)
    own = np.arange(graph.vertices) < graph.accelerators
    speed = np.zeros(graph.vertices)
    np.maximum.at(speed, graph.source, gbs)
    # Who only sends and receives, over one link each way, needs no router.
    routes = ~own | (out > 1) | (into > 1)
    crosspoints = np.where(routes, (out + own) * (into + own) * speed, 0.0)
    buffers = np.where(routes, (into + own) * speed, 0.0)
    return Cost(float(2 * gbs.sum()) * prices["port, per GB/s"],
                float((gbs * wire_lengths(graph)).sum()) * prices["wire, per GB/s and distance"],
                float(crosspoints.sum()) * prices["crosspoint, per GB/s"]
                + float(buffers.sum()) * prices["router port, per GB/s"])


def energy_of(graph: Graph, link_bytes: Reals) -> float:
    """Joules of what passed the links: ports, wires, and a router at the end of each."""
    prices = _prices()
    bits = 8 * link_bytes
    return 1e-12 * float(
        bits.sum() * (prices["link, pJ a bit"] + prices["router, pJ a bit"])
        + (bits * wire_lengths(graph)).sum() * prices["wire, pJ a bit and distance"])
