"""The named topologies, by the number of accelerators.

| name | what it is | n |
|---|---|---|
| ring | links one way round | any |
| bidirectional-ring | both ways | any |
| torus, torus3 | two or three dimensions, ends joined | with no side longer than 4 times another |
| mesh | two dimensions, ends not joined | the same |
| hypercube | a dimension for every factor of two | powers of two |
| fat-tree | switches of 32 ports, half of them up: full bisection | products of factors to 16 |
| dragonfly | groups of routers, all joined in a group, groups all joined | see `_dragonfly` |
| fully-connected | a link from each to each | any |
| switch | one switch for all | any |

A graph's links are all alike. With `per_chip` the bandwidth is what leaves an accelerator in all,
divided by its links; else it is that of a link. Between switches a link has the bandwidth of an
accelerator's.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, GraphError
from .routing import columns, dimension_order

__all__ = ["TOPOLOGIES", "build", "fits", "nearest"]

Integers = NDArray[np.int64]
#: Of the switches of a fat tree: half of them down, half up.
RADIX = 32
#: The longest side of a torus or mesh over its shortest.
_STRETCH = 4


def build(name: str, accelerators: int, bandwidth: float, latency: float, *,
          per_chip: bool = False) -> Graph:
    """A topology.

    Parameters
    ----------
    name
        One of `TOPOLOGIES`.
    accelerators
        From 1 on.
    bandwidth
        Of a link, or (`per_chip`) of all that leave an accelerator, bytes a second.
    latency
        Of a link, seconds.

    Raises GraphError (naming what was required, and the nearest number of accelerators that fits)
    for what cannot be built.
    """
    if name not in TOPOLOGIES:
        raise GraphError(f"topology must be one of {', '.join(TOPOLOGIES)}, not {name!r}")
    if isinstance(accelerators, bool) or not isinstance(accelerators, int) or accelerators < 1:
        raise GraphError(f"the number of accelerators must be a positive integer, not "
                         f"{accelerators!r}")
    if not 0 < bandwidth < math.inf:
        raise GraphError(f"the bandwidth must be positive, not {bandwidth!r}")
    if not 0 <= latency < math.inf:
        raise GraphError(f"the latency must not be negative, not {latency!r}")
    shape = _SHAPES[name](accelerators)
    if shape is None:
        raise GraphError(f"{name}: cannot have {accelerators} accelerators; the nearest number "
                         f"that it can have is {nearest(name, accelerators)}")
    graph = TOPOLOGIES[name](shape, name, accelerators, bandwidth, latency)
    if per_chip and graph.links:
        ports = np.count_nonzero(graph.source < accelerators) / accelerators
        graph = TOPOLOGIES[name](shape, name, accelerators, bandwidth / ports, latency)
    return graph


def fits(name: str, accelerators: int) -> bool:
    """Whether a named topology can have so many accelerators."""
    return _SHAPES[name](accelerators) is not None


def nearest(name: str, accelerators: int) -> int:
    """The nearest number of accelerators that a named topology can have; the smaller of two."""
    for distance in range(accelerators + 1):
        for number in (accelerators - distance, accelerators + distance):
            if number >= 1 and fits(name, number):
                return number
    return 1


# --- shapes

def _line(n: int) -> tuple[int, ...]:
    return (n,)


def _sides(n: int, dimensions: int) -> tuple[int, ...] | None:
    """Factors of n, the longest first, as near to each other as there are any."""
    if dimensions == 1:
        return (n,)
    found: list[tuple[int, ...]] = []
    for side in range(1, math.floor(n ** (1 / dimensions) + 1e-9) + 1):
        if n % side == 0:
            rest = _sides(n // side, dimensions - 1)
            if rest is not None and min(rest) >= side and max(rest) <= _STRETCH * side:
                found.append((*rest, side))
    return min(found, key=max, default=None)


def _cube(n: int) -> tuple[int, ...] | None:
    if n & (n - 1):
        return None
    return (2,) * (n.bit_length() - 1) if n > 1 else (1,)


def _tree(n: int) -> tuple[int, ...] | None:
    """Accelerators, or switches, below a switch of each level: as few levels as there are any."""
    half = RADIX // 2
    levels = 1
    while half ** levels < n:
        levels += 1
    return _balanced(n, levels, half)


def _balanced(n: int, levels: int, most: int) -> tuple[int, ...] | None:
    if levels == 1:
        return (n,) if n <= most else None
    found = []
    for factor in range(2, most + 1):
        if n % factor == 0:
            rest = _balanced(n // factor, levels - 1, most)
            if rest is not None and rest[0] <= factor:
                found.append((factor, *rest))
    return min(found, default=None)


def _dragonfly_shape(n: int) -> tuple[int, ...] | None:
    """Groups, routers in a group, accelerators at a router.

    A router of p accelerators has p links to other groups, and 2 p routers are a group, as in the
    balanced dragonfly (Kim et al., ISCA 2008); p is a power of two, and there are 2 to 2 p^2 + 1
    groups. Up to 4 accelerators may hang at a single router.
    """
    if n <= 4:
        return 1, 1, n
    p = 1
    while p <= 64:
        groups, rest = divmod(n, 2 * p * p)
        if rest == 0 and 2 <= groups <= 2 * p * p + 1:
            return groups, 2 * p, p
        p *= 2
    return None


_SHAPES: dict[str, Callable[[int], tuple[int, ...] | None]] = {
    "ring": _line,
    "bidirectional-ring": _line,
    "torus": lambda n: _sides(n, 2),
    "torus3": lambda n: _sides(n, 3),
    "mesh": lambda n: _sides(n, 2),
    "hypercube": _cube,
    "fat-tree": _tree,
    "dragonfly": _dragonfly_shape,
    "fully-connected": _line,
    "switch": _line,
}


# --- graphs

def _alike(name: str, n: int, vertices: int, source: Integers, target: Integers, bandwidth: float,
           latency: float, **rest) -> Graph:
    return Graph(name, n, vertices, source, target, np.full(len(source), float(bandwidth)),
                 np.full(len(source), float(latency)), **rest)


def _grid(wraps: bool, one_way: bool = False):
    def make(sizes: tuple[int, ...], name: str, n: int, bandwidth: float, latency: float) -> Graph:
        nodes = np.arange(n)
        at = np.unravel_index(nodes, sizes)
        ports = np.full((n, len(sizes), 2), -1, np.int64)
        sources, targets, count = [], [], 0
        for dimension, size in enumerate(sizes):
            for way, step in enumerate((1, -1)):
                if size == 1 or (one_way and way == 1 and size > 2):
                    continue
                there = at[dimension] + step
                # Between two there is one link each way, joined ends or not.
                joined = wraps and size > 2
                exists = nodes if joined else nodes[(there >= 0) & (there < size)]
                moved = [axis[exists] for axis in at]
                moved[dimension] = there[exists] % size
                sources.append(exists)
                targets.append(np.ravel_multi_index(moved, sizes))
                ports[exists, dimension, way] = count + np.arange(len(exists))
                count += len(exists)
        none = np.zeros(0, np.int64)
        real = tuple(size for size in sizes if size > 1) or (1,)
        return _alike(name, n, n, np.concatenate([none, *sources]),
                      np.concatenate([none, *targets]), bandwidth, latency,
                      route=dimension_order(sizes, wraps, one_way, ports), order=_snake(sizes),
                      grid=real, two_way=not one_way,
                      ways=1 if one_way else sum(2 if size > 2 else 1 for size in real))
    return make


def _snake(sizes: tuple[int, ...]) -> Integers:
    """A ring through a grid: along rows to and fro, back through the first column.

    All its steps are between neighbours where any side is even.
    """
    if len(sizes) == 1:
        return np.arange(sizes[0])
    last = max((d for d, size in enumerate(sizes) if np.prod(sizes) // size % 2 == 0),
               key=lambda d: sizes[d], default=len(sizes) - 1)
    rows = _path(tuple(size for d, size in enumerate(sizes) if d != last))
    width = sizes[last]
    places: list[tuple[int, int]] = []
    even = len(rows) % 2 == 0
    for number in range(len(rows)):
        row = range(1 if even and width > 1 else 0, width)
        places += [(number, x) for x in (row if number % 2 == 0 else reversed(row))]
    if even and width > 1:
        places += [(number, 0) for number in reversed(range(len(rows)))]
    return np.array([np.ravel_multi_index((*rows[r][:last], x, *rows[r][last:]), sizes)
                     for r, x in places], np.int64)


def _path(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All places of a grid, each a neighbour of the one before it."""
    if not sizes:
        return [()]
    inner = _path(sizes[1:])
    return [(x, *rest) for x in range(sizes[0])
            for rest in (inner if x % 2 == 0 else reversed(inner))]


def _fully_connected(_: tuple[int, ...], name: str, n: int, bandwidth: float,
                     latency: float) -> Graph:
    source = np.repeat(np.arange(n), n - 1)
    target = np.tile(np.arange(n - 1), n)
    target += target >= source

    def route(source: Integers, target: Integers) -> Integers:
        link = source * (n - 1) + target - (target > source)
        return np.where(source == target, -1, link)[:, None]

    return _alike(name, n, n, source, target, bandwidth, latency, route=route, order=np.arange(n),
                  grid=(n,))


def _tree_graph(below: tuple[int, ...], name: str, n: int, bandwidth: float,
                latency: float) -> Graph:
    """A full-bisection tree of switches, XGFT(h; m1..mh; 1, m1..) of Oehring et al., IPPS 1995.

    A vertex of level l is what its digits say: those above l of the accelerators below it, and
    which of the switches that reach the same accelerators it is. Links up from it are numbered by
    the digit they choose, and links down have the number of those up, behind all of them. On its
    way up a message chooses by the digits of its target, so messages to different targets meet as
    little as they can.
    """
    levels = len(below)
    up = (1, *below[:-1])
    counts = [n]
    for level in range(levels):
        counts.append(counts[-1] // below[level] * up[level])
    first = np.cumsum([0, *counts])
    bases = np.cumsum([0, *(counts[level] * up[level] for level in range(levels))])
    half = int(bases[-1])

    def parents(level: int, index: Integers, choice: Integers) -> Integers:
        """Index in its level of the switch that a vertex chooses. A vertex's index is (which of
        its equals) + (equals) * (digits above)."""
        equals = math.prod(up[:level])
        which, above = index % equals, index // equals
        return which + equals * (choice + up[level] * (above // below[level]))

    sources, targets = [], []
    for level in range(levels):
        index = np.repeat(np.arange(counts[level]), up[level])
        choice = np.tile(np.arange(up[level]), counts[level])
        sources.append(first[level] + index)
        targets.append(first[level + 1] + parents(level, index, choice))
    upward, higher = np.concatenate(sources), np.concatenate(targets)

    def route(source: Integers, target: Integers) -> Integers:
        rising, falling = [], []
        at, goal = source, target
        for level in range(levels):
            # Who has not met yet rises one level further.
            equals = math.prod(up[:level])
            apart = at // equals != goal // equals
            choice = (target // math.prod(below[:level - 1])) % up[level] if level else 0 * target
            rising.append(np.where(apart, bases[level] + at * up[level] + choice, -1))
            falling.append(np.where(apart, half + bases[level] + goal * up[level] + choice, -1))
            at = np.where(apart, parents(level, at, choice), at)
            goal = np.where(apart, parents(level, goal, choice), goal)
            if level + 1 < levels:
                # Those who have met stay so: any common vertex of the next level will do.
                met = ~apart
                at = np.where(met, parents(level, at, choice), at)
                goal = np.where(met, at, goal)
        return columns([*rising, *reversed(falling)], len(source))

    return _alike(name, n, int(first[-1]), np.concatenate([upward, higher]),
                  np.concatenate([higher, upward]), bandwidth, latency, route=route,
                  order=np.arange(n), grid=_grouped(n, below[0]), two_way=False)


def _grouped(n: int, members: int) -> tuple[int, ...]:
    return (n // members, members) if 1 < members < n else (n,)


def _switch(_: tuple[int, ...], name: str, n: int, bandwidth: float, latency: float) -> Graph:
    return _tree_graph((n,), name, n, bandwidth, latency)


def _dragonfly(shape: tuple[int, ...], name: str, n: int, bandwidth: float,
               latency: float) -> Graph:
    """Links of accelerators, then links in groups, then links between groups.

    Two groups are joined by as many links as there are for each pair, and they are dealt out to a
    group's routers in turn; a message takes the one whose number is its target's modulo how many
    there are. Its way is minimal: in the group, to the other group, in that group.
    """
    groups, members, hosts = shape
    routers = groups * members
    local = members - 1
    pairs = members * hosts // (groups - 1) if groups > 1 else 0
    accelerator = np.arange(n)
    router = n + np.arange(routers)
    group, member = np.divmod(np.arange(routers), members)
    inside = np.arange(local)
    mate = inside[None, :] + (inside[None, :] >= member[:, None])
    #: Link `number` from a group to another, counted without itself.
    here, other, number = (axis.ravel() for axis in np.indices(
        (groups, max(groups - 1, 0), pairs)))
    there = other + (other >= here)

    def gate(other: Integers, number: Integers) -> Integers:
        """Router in its group where a link begins."""
        return (other * pairs + number) % members

    base_local = 2 * n
    base_global = base_local + routers * local
    source = np.concatenate([accelerator, n + accelerator // hosts, np.repeat(router, local),
                             n + here * members + gate(other, number)])
    target = np.concatenate([n + accelerator // hosts, accelerator,
                             (n + group[:, None] * members + mate).ravel(),
                             n + there * members + gate(here - (here > there), number)])

    def within(at: Integers, to: Integers) -> Integers:
        """Link from router to router of a group, -1 if they are one."""
        a, b = at % members, to % members
        return np.where(at == to, -1, base_local + at * local + b - (b > a))

    def route(source: Integers, target: Integers) -> Integers:
        start, end = source // hosts, target // hosts
        group, goal = start // members, end // members
        across = group != goal
        leave, enter, link = start, end, np.full(len(source), -1)
        if groups > 1:
            other = goal - (goal > group)
            choice = target % pairs
            leave = np.where(across, group * members + gate(other, choice), end)
            enter = np.where(across, goal * members + gate(group - (group > goal), choice), end)
            link = np.where(across, base_global + (group * (groups - 1) + other) * pairs + choice,
                            -1)
        else:
            leave = end
        apart = source != target
        return columns([np.where(apart, source, -1), within(start, leave), link,
                        within(enter, end), np.where(apart, n + target, -1)], len(source))

    return _alike(name, n, n + routers, source, target, bandwidth, latency, route=route,
                  order=accelerator, grid=_grouped(n, members * hosts), two_way=False)


TOPOLOGIES: dict[str, Callable[..., Graph]] = {
    "ring": _grid(wraps=True, one_way=True),
    "bidirectional-ring": _grid(wraps=True),
    "torus": _grid(wraps=True),
    "torus3": _grid(wraps=True),
    "mesh": _grid(wraps=False),
    "hypercube": _grid(wraps=False),
    "fat-tree": _tree_graph,
    "dragonfly": _dragonfly,
    "fully-connected": _fully_connected,
    "switch": _switch,
}
"""What `build` makes, by name."""
