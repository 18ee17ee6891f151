"""Interconnects as graphs: accelerators and switches, joined by links that each go one way.

Vertices 0 to n - 1 are the accelerators, those behind them switches. A link has a bandwidth in
bytes a second and a latency in seconds, which is that of the router at its end, too. What a message
passes on its way is said by the graph's `route`: fixed, the same for all messages between two
accelerators, and never longer than it must be.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .routing import tables

__all__ = ["Graph", "GraphError", "from_links", "load_graph"]

Integers = NDArray[np.int64]


class GraphError(ValueError):
    """A graph that cannot be built, or that cannot carry the traffic."""


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """An interconnect.

    Attributes
    ----------
    name
        Of the topology.
    accelerators, vertices
        How many; those from `accelerators` on are switches.
    source, target
        Of each link, vertices.
    bandwidth, latency
        Of each link, in bytes a second and in seconds.
    route
        From arrays of sources and targets to the links that each message passes, one row a
        message, -1 behind its last one.
    order
        All accelerators as a ring: neighbours in it are near each other in the graph.
    grid
        Sizes along which accelerators lie, the last one fastest, for collectives that go dimension
        by dimension: (n,) where there is nothing better.
    two_way
        Whether messages against the order are as near as those along it.
    ways
        Streams that a collective over the grid can send at once from each accelerator.
    """

    name: str
    accelerators: int
    vertices: int
    source: Integers
    target: Integers
    bandwidth: NDArray[np.float64]
    latency: NDArray[np.float64]
    route: Callable[[Integers, Integers], Integers]
    order: Integers
    grid: tuple[int, ...]
    two_way: bool = True
    ways: int = 1

    @property
    def links(self) -> int:
        return len(self.source)

    def chip_bandwidth(self) -> float:
        """Bytes a second that leave an accelerator at most, the mean over accelerators."""
        out = self.source < self.accelerators
        return float(self.bandwidth[out].sum() / self.accelerators)


def from_links(name: str, accelerators: int, vertices: int, source: Integers, target: Integers,
               bandwidth: NDArray[np.float64], latency: NDArray[np.float64]) -> Graph:
    """Any graph, checked; routes are shortest ones from tables.

    Raises GraphError for links between vertices that are not there or from one to itself, for
    bandwidths that are not positive, negative latencies, and if an accelerator does not reach
    another.
    """
    if accelerators < 1 or vertices < accelerators:
        raise GraphError(f"{name}: must have at least one accelerator among its vertices, not "
                         f"{accelerators} among {vertices}")
    for number, (start, end) in enumerate(zip(source, target, strict=True)):
        if not (0 <= start < vertices and 0 <= end < vertices) or start == end:
            raise GraphError(f"{name}: link {number} must join two of the {vertices} vertices, "
                             f"not {start} and {end}")
    if np.any(~(bandwidth > 0) | np.isinf(bandwidth)):
        number = int(np.argmax(~(bandwidth > 0) | np.isinf(bandwidth)))
        raise GraphError(f"{name}: the bandwidth of link {number} must be positive, not "
                         f"{bandwidth[number]}")
    if np.any(~(latency >= 0) | np.isinf(latency)):
        number = int(np.argmax(~(latency >= 0) | np.isinf(latency)))
        raise GraphError(f"{name}: the latency of link {number} must not be negative, not "
                         f"{latency[number]}")
    for way, ends in (("from", (source, target)), ("to", (target, source))):
        reached = _reached(vertices, *ends)[:accelerators]
        if not reached.all():
            missing = int(np.argmin(reached))
            raise GraphError(f"{name}: is not connected: there is no way {way} accelerator 0 "
                             f"{'to' if way == 'from' else 'from'} accelerator {missing}; "
                             f"{int(reached.sum())} of {accelerators} are")
    return Graph(name, accelerators, vertices, source, target, bandwidth, latency,
                 tables(vertices, source, target), _tour(accelerators, vertices, source, target),
                 (accelerators,))


def load_graph(path: Path) -> Graph:
    """A graph from a JSON file.

    `{"accelerators": 3, "switches": 1, "links": [{"between": [0, 3], "gbs": 16, "ns": 100}, ...]}`:
    a link goes both ways unless it has `"one_way": true`; gigabytes (10^9) a second each way.
    Raises GraphError for what is not of this form, naming the link.
    """
    try:
        description = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise GraphError(f"{path}: is not JSON: {error}") from error
    if not isinstance(description, dict):
        raise GraphError(f"{path}: must be an object with accelerators and links")
    counts = []
    for key, default in (("accelerators", None), ("switches", 0)):
        value = description.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise GraphError(f"{path}: {key} must be a number of vertices, not {value!r}")
        counts.append(value)
    links = description.get("links")
    if not isinstance(links, list):
        raise GraphError(f"{path}: links must be a list, not {links!r}")
    rows: list[tuple[int, int, float, float]] = []
    for number, link in enumerate(links):
        try:
            start, end = link["between"]
            row = int(start), int(end), float(link["gbs"]) * 1e9, float(link["ns"]) * 1e-9
        except (KeyError, TypeError, ValueError) as error:
            raise GraphError(f"{path}: link {number} must have between (two vertices), gbs and ns, "
                             f"not {link!r}") from error
        rows.append(row)
        if not link.get("one_way", False):
            rows.append((row[1], row[0], *row[2:]))
    table = np.array(rows, float).reshape(-1, 4)
    return from_links(path.stem, counts[0], sum(counts), table[:, 0].astype(np.int64),
                      table[:, 1].astype(np.int64), table[:, 2], table[:, 3])


def _neighbours(vertices: int, source: Integers, target: Integers) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(vertices)]
    for start, end in zip(source.tolist(), target.tolist(), strict=True):
        found[start].append(end)
    return found


def _reached(vertices: int, source: Integers, target: Integers) -> NDArray[np.bool_]:
    """Which vertices there is a way to from vertex 0."""
    neighbours = _neighbours(vertices, source, target)
    reached = np.zeros(vertices, bool)
    reached[0] = True
    waiting = [0]
    while waiting:
        for end in neighbours[waiting.pop()]:
            if not reached[end]:
                reached[end] = True
                waiting.append(end)
    return reached


def _tour(accelerators: int, vertices: int, source: Integers, target: Integers) -> Integers:
    """The accelerators in the order in which a walk in depth comes to them.

    On a tree with links both ways, the ring of this order passes every link once each way.
    """
    neighbours = _neighbours(vertices, source, target)
    seen, order, waiting = [False] * vertices, [], [0]
    while waiting:
        at = waiting.pop()
        if seen[at]:
            continue
        seen[at] = True
        if at < accelerators:
            order.append(at)
        waiting += [end for end in reversed(neighbours[at]) if not seen[end]]
    return np.array(order, np.int64)
