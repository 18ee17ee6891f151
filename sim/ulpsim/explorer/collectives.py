"""Collectives: who sends how many bytes to whom, after what.

All-reduces add `size` bytes of every accelerator and leave the sum with all; all-gathers bring what
each has (`sizes`, bytes, which may differ) to all; broadcasts bring `size` bytes of one to all;
sparse reductions are all-reduces whose messages grow with the accelerators that are in the sum.

| name | all-reduce | all-gather |
|---|---|---|
| ring | 2 (n - 1) rounds of size / n, both ways round if links go both ways | n - 1 rounds |
| grid | rings along dimension after dimension, a stream for each way and order of them | the same |
| halving | distances 1, 2, 4 ..., half as much each time, and back | distances 1, 2, 4 ... |
| tree | up and down a binary tree, in pieces | |
| double-tree | two trees for a half each, the leaves of one within the other | |
| direct | from each to each, size / n, twice | from each to each |

Broadcasts go around a ring or down a tree, in pieces, or by halving over distances ..., 4, 2, 1.
Rings and trees follow the graph's `order`, grids its `grid`, halving the numbers in a grid.
References: Thakur, Rabenseifner and Gropp, IJHPCA 2005 (ring, halving); Sanders, Speck and Traeff,
Parallel Computing 2009 (double tree).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .schedule import Parts, Phase, Schedule

__all__ = ["ALL_GATHERS", "ALL_REDUCES", "BROADCASTS", "SPARSE_REDUCES", "all_gather", "all_reduce",
           "broadcast", "sparse_reduce"]

#: Messages of a round of `direct`, at most, where they do not meet.
_AT_ONCE = 65536
Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


def all_reduce(name: str, graph: Graph, size: float) -> Schedule:
    """The schedule of an all-reduce; ValueError for a name that is none of `ALL_REDUCES`."""
    return _named(ALL_REDUCES, "all-reduce", name)(graph, float(size))


def all_gather(name: str, graph: Graph, sizes: Sequence[float] | Reals) -> Schedule:
    """The schedule of an all-gather; ValueError for another name than those of `ALL_GATHERS`, and
    for other than a size for each accelerator."""
    blocks = np.asarray(sizes, float)
    if blocks.shape != (graph.accelerators,) or np.any(~(blocks >= 0)):
        raise ValueError(f"sizes must be {graph.accelerators} numbers that are not negative, not "
                         f"of shape {blocks.shape}")
    return _named(ALL_GATHERS, "all-gather", name)(graph, blocks)


def broadcast(name: str, graph: Graph, size: float) -> Schedule:
    """The schedule of a broadcast from an accelerator that the algorithm chooses; ValueError for a
    name that is none of `BROADCASTS`."""
    return _named(BROADCASTS, "broadcast", name)(graph, float(size))


def sparse_reduce(name: str, graph: Graph, sizes: Reals) -> Schedule:
    """An all-reduce of sparse sums: `sizes` are the bytes of sums over 1, 2, ... n accelerators.

    `ring` sums up a part of the elements in each place and then gathers the parts; `halving` sums
    up everything over distances 1, 2, 4 ... ValueError for another name.
    """
    return _named(SPARSE_REDUCES, "sparse reduction", name)(graph, sizes)


def _named(table: dict[str, Callable[..., Schedule]], what: str, name: str):
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, not {name!r}")
    return table[name]


def _pieces(size: float, depth: int, graph: Graph) -> int:
    """Into how many pieces to cut what passes `depth` links after each other: about the best.

    c pieces take (depth + c) (size / (c bandwidth) + latency), least for
    c = sqrt(depth size / (bandwidth latency)).
    """
    if size <= 0 or not graph.links:
        return 1
    pace = float(graph.bandwidth.min()) * max(float(graph.latency.max()), 1e-9)
    return max(1, min(math.ceil(math.sqrt(depth * size / pace)), math.ceil(size / 1024), 256))


# --- rings

def _ring_reduce(graph: Graph, size: float) -> Schedule:
    n = graph.accelerators
    ways = 2 if graph.two_way and n > 2 else 1

    def parts() -> Parts:
        return [[_around(graph.order, stream, -1 if stream else 1,
                         np.full(n, size / n / ways), 2 * (n - 1))]
                for stream in range(ways) if n > 1]
    return Schedule("ring", n, ways, parts, 2 * (n - 1) * n * ways)


def _around(order: Integers, stream: int, step: int, size, rounds: int) -> Phase:
    """Everyone to the next of a ring, which waits for what came from the one before."""
    n = len(order)
    target = np.roll(order, -step)
    return Phase(order, target, stream * n + order, stream * n + target, size, rounds)


def _ring_gather(graph: Graph, sizes: Reals) -> Schedule:
    """Blocks go half the way round in each direction where links go both ways."""
    n = graph.accelerators
    back = (n - 1) // 2 if graph.two_way else 0
    blocks = sizes[graph.order]
    equal = bool(np.all(sizes == sizes[:1]))

    def parts() -> Parts:
        return [[_around(
            graph.order, stream, step,
            blocks if equal else lambda number, step=step: np.roll(blocks, step * number), rounds)]
            for stream, (step, rounds) in enumerate(((1, n - 1 - back), (-1, back))) if rounds]
    return Schedule("ring", n, 2, parts, n * (n - 1))


def _ring_broadcast(graph: Graph, size: float) -> Schedule:
    """In pieces, which follow each other around."""
    n = graph.accelerators
    pieces = _pieces(size, n - 1, graph)
    order = graph.order

    def phases() -> Iterator[Phase]:
        for number in range(n - 2 + pieces if n > 1 else 0):
            first, last = max(0, number - pieces + 1), min(n - 2, number)
            yield Phase(order[first:last + 1], order[first + 1:last + 2], order[first:last + 1],
                        order[first + 1:last + 2], np.full(last - first + 1, size / pieces))
    return Schedule("ring", n, 1, lambda: [phases()], (n - 1) * pieces)


# --- grids

def _streams(graph: Graph) -> list[tuple[list[int], int]]:
    """Of each stream: its order of dimensions, and which way it goes round."""
    dimensions = list(range(len(graph.grid)))
    both = graph.ways > len(dimensions)
    return [(dimensions[first:] + dimensions[:first], step)
            for first in (dimensions if graph.ways > 1 else dimensions[:1])
            for step in ((1, -1) if both else (1,))]


def _places(graph: Graph) -> Integers:
    return np.arange(graph.accelerators).reshape(graph.grid)


def _along(graph: Graph, dimension: int, step: int, stream: int, size, rounds: int) -> Phase:
    """Everyone to the next along a dimension."""
    places = _places(graph)
    source, target = places.ravel(), np.roll(places, -step, dimension).ravel()
    slot = stream * graph.accelerators
    return Phase(source, target, slot + source, slot + target, size, rounds)


def _grid_reduce(graph: Graph, size: float) -> Schedule:
    streams = _streams(graph)
    n = graph.accelerators

    def part(stream: int, order: list[int], step: int) -> list[Phase]:
        share, scatter, gather = size / len(streams), [], []
        for dimension in order:
            length = graph.grid[dimension]
            share /= length
            if length > 1:
                for found in (scatter, gather):
                    found.append(_along(graph, dimension, step, stream, np.full(n, share),
                                        length - 1))
        return scatter + gather[::-1]

    def parts() -> Parts:
        return [part(stream, *way) for stream, way in enumerate(streams)]
    return Schedule("grid", n, len(streams), parts,
                    2 * n * sum(length - 1 for length in graph.grid) * len(streams))


def _grid_gather(graph: Graph, sizes: Reals) -> Schedule:
    streams = _streams(graph)
    n = graph.accelerators

    def part(stream: int, order: list[int], step: int) -> list[Phase]:
        held = (sizes / len(streams)).reshape(graph.grid)
        found = []
        for dimension in order:
            length = graph.grid[dimension]
            if length == 1:
                continue
            def rolled(number: int, held=held, dimension=dimension) -> Reals:
                return np.roll(held, step * number, dimension).ravel()
            size = held.ravel() if np.all(held == held.flat[0]) else rolled
            found.append(_along(graph, dimension, step, stream, size, length - 1))
            held = np.broadcast_to(held.sum(dimension, keepdims=True), held.shape).copy()
        return found

    def parts() -> Parts:
        return [part(stream, *way) for stream, way in enumerate(streams)]
    return Schedule("grid", n, len(streams), parts,
                    n * sum(length - 1 for length in graph.grid) * len(streams))


# --- halving and doubling

def _numbers(graph: Graph) -> Integers:
    """Accelerators so that those apart by a power of two are near each other: in a grid as they are
    numbered, which is along its dimensions."""
    return np.arange(graph.accelerators) if len(graph.grid) > 1 else graph.order


def _folded(n: int) -> tuple[int, int]:
    """The largest power of two that is not above n, and how many are beyond it."""
    core = 1 << (n.bit_length() - 1)
    return core, n - core


def _halving_reduce(graph: Graph, size: float) -> Schedule:
    """Accelerators beyond a power of two hand theirs to another first and get the sum from it."""
    n = graph.accelerators
    core, beyond = _folded(n)
    order = _numbers(graph)

    def phases() -> Iterator[Phase]:
        extra, host = order[core:], order[:beyond]
        if beyond:
            yield Phase(extra, host, extra, host, np.full(beyond, size))
        exchanges = [1 << level for level in range(core.bit_length() - 1)]
        for distance in exchanges + exchanges[::-1]:
            mate = order[np.arange(core) ^ distance]
            yield Phase(order[:core], mate, order[:core], mate,
                        np.full(core, size / (2 * distance)))
        if beyond:
            yield Phase(host, extra, host, extra, np.full(beyond, size))
    return Schedule("halving", n, 1, lambda: [phases()],
                    2 * core * (core.bit_length() - 1) + 2 * beyond)


def _doubling_gather(graph: Graph, sizes: Reals) -> Schedule:
    n = graph.accelerators
    core, beyond = _folded(n)
    order = _numbers(graph)

    def phases() -> Iterator[Phase]:
        extra, host = order[core:], order[:beyond]
        held = sizes[order[:core]].copy()
        if beyond:
            yield Phase(extra, host, extra, host, sizes[extra])
            held[:beyond] += sizes[extra]
        for level in range(core.bit_length() - 1):
            index = np.arange(core) ^ (1 << level)
            yield Phase(order[:core], order[index], order[:core], order[index], held)
            held = held + held[index]
        if beyond:
            yield Phase(host, extra, host, extra, sizes.sum() - sizes[extra])
    return Schedule("halving", n, 1, lambda: [phases()],
                    core * (core.bit_length() - 1) + 2 * beyond)


# --- sparse sums

def _sparse_ring(graph: Graph, sizes: Reals) -> Schedule:
    n = graph.accelerators
    ways = 2 if graph.two_way and n > 2 else 1

    def growing(number: int) -> Reals:
        return np.full(n, sizes[number] / n / ways)

    def parts() -> Parts:
        return [[_around(graph.order, stream, step, growing, n - 1),
                 _around(graph.order, stream, step, np.full(n, sizes[-1] / n / ways), n - 1)]
                for stream, step in list(enumerate((1, -1)))[:ways] if n > 1]
    return Schedule("ring", n, ways, parts, 2 * (n - 1) * n * ways)


def _sparse_doubling(graph: Graph, sizes: Reals) -> Schedule:
    n = graph.accelerators
    core, beyond = _folded(n)
    order = _numbers(graph)

    def phases() -> Iterator[Phase]:
        extra, host = order[core:], order[:beyond]
        if beyond:
            yield Phase(extra, host, extra, host, np.full(beyond, sizes[0]))
        for level in range(core.bit_length() - 1):
            distance = 1 << level
            mate = order[np.arange(core) ^ distance]
            yield Phase(order[:core], mate, order[:core], mate, np.full(core, sizes[distance - 1]))
        if beyond:
            yield Phase(host, extra, host, extra, np.full(beyond, sizes[-1]))
    return Schedule("halving", n, 1, lambda: [phases()],
                    core * (core.bit_length() - 1) + 2 * beyond)


# --- trees

def _binary_tree(n: int) -> Integers:
    """Parent of each of n in a row, -1 for the root.

    The root is the last place of the largest power of two; below it are a complete tree to its left
    and a tree of this form to its right. So every second place is a leaf.
    """
    parent = np.full(n, -1)
    waiting = [(0, n, -1)]
    while waiting:
        first, count, above = waiting.pop()
        if count:
            size = 1 << (count.bit_length() - 1)
            root = first + size - 1
            parent[root] = above
            waiting += [(first, size - 1, root), (root + 1, count - size, root)]
    return parent


def _depths(parent: Integers) -> Integers:
    depth = np.zeros(len(parent), np.int64)
    at = parent.copy()
    while np.any(at >= 0):
        depth += at >= 0
        at = np.where(at >= 0, parent[at], -1)
    return depth


def _flow(order: Integers, parent: Integers, size: float, pieces: int, stream: int, *,
          up: bool) -> Iterator[Phase]:
    """Pieces up a tree to its root, or down it, or up and down at once, one round after another."""
    n = len(order)
    depth = _depths(parent)
    deepest = int(depth.max())
    rising, falling = stream * n, (stream + 1) * n
    children = np.flatnonzero(parent >= 0)
    for number in range(pieces + deepest * (2 if up else 1) - 1):
        source, target, reads, writes = [], [], [], []
        if up:
            piece = number - (deepest - depth[children])
            sends = children[(piece >= 0) & (piece < pieces)]
            source.append(order[sends])
            target.append(order[parent[sends]])
            reads.append(rising + source[-1])
            writes.append(rising + target[-1])
        piece = number - (deepest if up else 0) - (depth[children] - 1)
        gets = children[(piece >= 0) & (piece < pieces)]
        source.append(order[parent[gets]])
        target.append(order[gets])
        reads.append(np.where(parent[parent[gets]] < 0, rising, falling) + source[-1])
        writes.append(falling + target[-1])
        sends = np.concatenate(source)
        yield Phase(sends, np.concatenate(target), np.concatenate(reads), np.concatenate(writes),
                    np.full(len(sends), size / pieces))


def _trees_reduce(graph: Graph, size: float, trees: int) -> Schedule:
    n = graph.accelerators
    parent = _binary_tree(n)
    pieces = _pieces(size / trees, 2 * int(_depths(parent).max()), graph)

    def parts() -> Parts:
        # The second tree is the first one shifted by one: leaves of one are within the other.
        return [_flow(np.roll(graph.order, -tree), parent, size / trees, pieces, 2 * tree, up=True)
                for tree in range(trees) if n > 1]
    return Schedule("tree" if trees == 1 else "double-tree", n, 2 * trees, parts,
                    2 * (n - 1) * pieces * trees)


def _tree_broadcast(graph: Graph, size: float) -> Schedule:
    n = graph.accelerators
    parent = _binary_tree(n)
    pieces = _pieces(size, int(_depths(parent).max()), graph)

    def parts() -> Parts:
        return [_flow(graph.order, parent, size, pieces, 0, up=False)] if n > 1 else []
    return Schedule("tree", n, 2, parts, (n - 1) * pieces)


def _doubling_broadcast(graph: Graph, size: float) -> Schedule:
    """Whole, from those who have it to as many again, the farthest first."""
    n = graph.accelerators
    order = _numbers(graph)

    def phases() -> Iterator[Phase]:
        distance = 1 << max(n - 1, 0).bit_length() >> 1
        while distance:
            source = np.arange(0, n - distance, 2 * distance)
            yield Phase(order[source], order[source + distance], order[source],
                        order[source + distance], np.full(len(source), size))
            distance >>= 1
    return Schedule("halving", n, 1, lambda: [phases()], n - 1)


# --- from each to each

def _direct(graph: Graph, sizes: Reals, times: int) -> Schedule:
    """To the first behind oneself, then to the second, ...: a message waits for no other but those
    of the time before."""
    n = graph.accelerators
    order = graph.order
    # Where all have links of their own to all, nothing is gained by turns.
    at_once = max(1, _AT_ONCE // n) if graph.name == "fully-connected" else 1

    def phases() -> Iterator[Phase]:
        for time in range(times):
            for first in range(1, n, at_once):
                distances = range(first, min(first + at_once, n))
                source = np.tile(order, len(distances))
                target = np.concatenate([np.roll(order, -distance) for distance in distances])
                yield Phase(source, target, time * n + source, (time + 1) * n + target,
                            sizes[source])
    return Schedule("direct", n, times + 1, lambda: [phases()], times * n * (n - 1))


ALL_REDUCES: dict[str, Callable[[Graph, float], Schedule]] = {
    "ring": _ring_reduce,
    "grid": _grid_reduce,
    "halving": _halving_reduce,
    "tree": lambda graph, size: _trees_reduce(graph, size, 1),
    "double-tree": lambda graph, size: _trees_reduce(graph, size, 2),
    "direct": lambda graph, size: _direct(
        graph, np.full(graph.accelerators, size / graph.accelerators), 2),
}
"""Algorithms by name; each adds what all have."""

ALL_GATHERS: dict[str, Callable[[Graph, Reals], Schedule]] = {
    "ring": _ring_gather,
    "grid": _grid_gather,
    "halving": _doubling_gather,
    "direct": lambda graph, sizes: _direct(graph, sizes, 1),
}
"""Algorithms by name; each brings what everyone has to all."""

BROADCASTS: dict[str, Callable[[Graph, float], Schedule]] = {
    "ring": _ring_broadcast,
    "halving": _doubling_broadcast,
    "tree": _tree_broadcast,
}
"""Algorithms by name; each brings what the first of the order has to all."""

SPARSE_REDUCES: dict[str, Callable[[Graph, Reals], Schedule]] = {
    "ring": _sparse_ring,
    "halving": _sparse_doubling,
}
"""Algorithms by name; each adds what all have, in messages that grow."""
