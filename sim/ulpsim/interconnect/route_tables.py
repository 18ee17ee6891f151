"""The ways of many packets at once: `Topology`'s rules as tables over the places of a dimension."""

import numpy as np
import numpy.typing as npt

from .topology import Direction, Port, Topology

__all__ = ["NONE", "RouteTables"]

#: No flit, no direction, no router.
NONE = -1
Array = npt.NDArray[np.integer]


class RouteTables:
    """The rules for packets to one terminal; all rows of a dimension are alike.

    Attributes
    ----------
    ports
        What the numbers of ports mean: terminals, then directions, absent ones at edges too.
    beyond
        Of each port and router: the router at the other end of the output's link, or NONE.
    """

    def __init__(self, topology: Topology) -> None:
        sizes, routers = topology.sizes, topology.routers
        self.topology = topology
        self.ports: list[Port] = [*range(topology.terminals), *topology.directions]
        port_of = {port: number for number, port in enumerate(self.ports)}
        router_of = {place: number for number, place in enumerate(routers)}
        here = np.array(routers).T
        self._longest = max(sizes)
        self._dimension = np.array([p.dimension if isinstance(p, Direction) else -1
                                    for p in self.ports])
        # By which port from a router toward a place of each dimension. Where both ways are as long
        # it depends on whether the other coordinate is odd.
        self._toward = []
        for d, size in enumerate(sizes):
            odd = here[1 - d] % 2 if len(sizes) == 2 else np.zeros(size, int)
            port = np.full((max(odd) + 1, size, size), NONE, np.int8)
            for other, place, goal in np.ndindex(port.shape):
                direction = topology.toward(_row(topology, d, place, other),
                                            _row(topology, d, goal, other))
                if direction is not None:
                    port[other, place, goal] = port_of[direction]
            self._toward.append(port[odd, here[d]])
        # The channels of packets that enter a dimension, and of those that go on along it.
        ports, longest = len(self.ports), self._longest
        self.beyond = np.full((ports, len(routers)), NONE)
        self._place = np.zeros((ports, len(routers)), np.int8)
        self._entering = np.zeros((ports, longest, longest, 8), np.int8)
        self._going_on = np.zeros((ports, longest, topology.channels), np.int8)
        for number, port in enumerate(self.ports):
            if isinstance(port, int):
                continue
            d = port.dimension
            self._place[number] = here[d]
            for place in range(sizes[d]):
                row = _row(topology, d, place, 0)
                for goal, flow in np.ndindex(sizes[d], 8):
                    self._entering[number, place, goal, flow] = topology.channel(
                        row, 0, 0, port, goal, flow)
                for channel in range(topology.channels):
                    self._going_on[number, place, channel] = topology.channel(
                        row, port, channel, port, None, 0)
            for router, place in enumerate(routers):
                neighbour = topology.neighbour(place, port)
                if neighbour is not None:
                    self.beyond[number, router] = router_of[neighbour]

    def ways(self, router: Array, arrived: Array, channel: Array, goals: list[Array],
             terminal: Array, flow: Array) -> tuple[Array, Array]:
        """Ports and channels by which packets leave, as `Topology.route` has it.

        Parameters
        ----------
        router, arrived, channel
            Where each is, and how it came.
        goals, terminal
            The coordinates of each packet's destination, and its terminal there.
        flow
            `Topology.flow`.
        """
        port, goal = terminal, np.zeros(len(router), np.int32)
        # The first dimension comes last, and so goes before the others.
        for size, toward, place in reversed(
                list(zip(self.topology.sizes, self._toward, goals, strict=True))):
            step = toward.take(router * size + place)
            port, goal = np.where(step >= 0, step, port), np.where(step >= 0, place, goal)
        row = port * self._longest + self._place.take(port * self.beyond.shape[1] + router)
        return port, np.where(
            self._dimension[arrived] == self._dimension[port],
            self._going_on.take(row * self.topology.channels + channel),
            self._entering.take((row * self._longest + goal) * 8 + flow))


def _row(topology: Topology, dimension: int, place: int, other: int) -> tuple[int, ...]:
    """A router at a place of a dimension, and at another of the other."""
    return tuple(place if d == dimension else other for d in range(len(topology.sizes)))
