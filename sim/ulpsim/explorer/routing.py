"""Routes: which links a message passes. All are shortest ways, fixed for a source and a target."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["columns", "dimension_order", "tables"]

Integers = NDArray[np.int64]
Route = Callable[[Integers, Integers], Integers]


def columns(steps: list[Integers], messages: int) -> Integers:
    """Links step by step, -1 where a message has none, as rows without gaps."""
    if not steps:
        return np.full((messages, 0), -1, np.int64)
    table = np.stack(steps, axis=1)
    # A stable sort by "is there none" moves the links of each row to its front.
    return np.take_along_axis(table, np.argsort(table < 0, axis=1, kind="stable"), axis=1)


def dimension_order(sizes: tuple[int, ...], wraps: bool, one_way: bool, ports: Integers) -> Route:
    """Along the first dimension to the target's coordinate, then along the next.

    Parameters
    ----------
    sizes
        Of the dimensions; the last one varies fastest in the number of an accelerator.
    wraps
        Whether ends are joined, in dimensions of more than two. Then the shorter way is taken, up
        if both are as long.
    one_way
        All links go up.
    ports
        (accelerators, dimensions, 2): the links up and down.
    """
    def route(source: Integers, target: Integers) -> Integers:
        steps: list[Integers] = []
        at = list(np.unravel_index(source, sizes))
        goal = np.unravel_index(target, sizes)
        for dimension, size in enumerate(sizes):
            distance = goal[dimension] - at[dimension]
            if wraps and size > 2:
                distance %= size
                if not one_way:
                    distance = np.where(2 * distance > size, distance - size, distance)
            way = np.sign(distance)
            for step in range(int(np.abs(distance).max(initial=0))):
                moves = np.abs(distance) > step
                node = np.ravel_multi_index(at, sizes)
                steps.append(np.where(moves, ports[node, dimension, (way < 0).astype(int)], -1))
                at[dimension] = (at[dimension] + np.where(moves, way, 0)) % size
        return columns(steps, len(source))

    return route


def tables(vertices: int, source: Integers, target: Integers) -> Route:
    """Shortest ways in any graph, from tables that are made for a target when it is first needed.

    Of several links that lead on as short a way, a vertex takes the one whose place among them is
    the target's number modulo how many there are: this spreads traffic, and the way to a target is
    the same for all who come through a vertex.
    """
    order = np.argsort(target, kind="stable")
    into = [links.tolist() for links in np.split(order, np.searchsorted(
        target[order], np.arange(1, vertices)))]
    starts = source.tolist()
    ends = target
    next_link: dict[int, Integers] = {}

    def table(goal: int) -> Integers:
        distance = [-1] * vertices
        distance[goal] = 0
        choices: list[list[int]] = [[] for _ in range(vertices)]
        level = [goal]
        while level:
            further = []
            for at in level:
                for link in into[at]:
                    start = starts[link]
                    if distance[start] < 0:
                        distance[start] = distance[at] + 1
                        further.append(start)
                    if distance[start] == distance[at] + 1:
                        choices[start].append(link)
            level = further
        return np.array([sorted(found)[goal % len(found)] if found else -1 for found in choices],
                        np.int64)

    def route(source: Integers, target: Integers) -> Integers:
        steps = []
        goals, index = np.unique(target, return_inverse=True)
        for goal in goals.tolist():
            if goal not in next_link:
                next_link[goal] = table(goal)
        leads = np.stack([next_link[goal] for goal in goals.tolist()]) if len(goals) else None
        at = source.copy()
        while leads is not None and np.any(at != target):
            link = np.where(at == target, -1, leads[index, at])
            steps.append(link)
            at = np.where(link < 0, at, ends[link])
        return columns(steps, len(source))

    return route
