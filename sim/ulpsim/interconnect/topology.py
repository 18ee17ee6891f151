"""Rings, meshes and tori: routers, links, and the way of every packet.

Routers stand on a grid of one or two dimensions. Packets go along the first dimension, then along
the second (dimension-order routing; Dally and Towles, Principles and Practices of Interconnection
Networks, section 8.4.2), so no packet ever waits for one that has yet to turn. Around a ring
packets could still wait for each other in a circle. So each link of a ring has two classes of
virtual channels: a packet that is to pass the dateline, the link from the last router to the first,
begins in class 0 and is in class 1 from that link on (section 14.2.3). Packets that are not to pass
it take either class, and so do those that enter the ring there, for that one link. Which of the
channels that it may take a packet takes is a function of its source and destination, so that the
packets of a flow stay in order.

A multicast packet goes to every terminal but its source: along the first dimension both ways, and
from each router of that row along the second dimension both ways.
"""

import dataclasses
import itertools
import math

__all__ = ["LARGEST_SIZE", "MOST_TERMINALS", "Address", "Direction", "Hop", "Mesh", "Port", "Ring",
           "Topology", "Torus"]

#: Routers in a dimension, and terminals at a router, that an address can name.
LARGEST_SIZE, MOST_TERMINALS = 64, 4


@dataclasses.dataclass(frozen=True, order=True)
class Address:
    """A terminal: the coordinates of its router, and its number there.

    As a number: x in bits 0 to 5, y in bits 6 to 11, terminal in bits 12 and 13.
    """

    x: int
    y: int = 0
    terminal: int = 0

    def encode(self) -> int:
        return self.x | self.y << 6 | self.terminal << 12

    @classmethod
    def decode(cls, number: int) -> "Address":
        """Of a 16-bit number; its two highest bits belong to the terminal, so that none exists
        where they are set."""
        return cls(number & 63, number >> 6 & 63, number >> 12)


@dataclasses.dataclass(frozen=True)
class Direction:
    """Of travel: along which dimension, up (+1) or down (-1)."""

    dimension: int
    step: int

    def __str__(self) -> str:
        return "xy"[self.dimension] + ("_up" if self.step > 0 else "_down")


#: Where a flit enters or leaves a router: a terminal's number or the direction in which it travels.
Port = int | Direction


@dataclasses.dataclass(frozen=True)
class Hop:
    """How a packet leaves a router: by a virtual channel of an output."""

    output: Port
    channel: int


@dataclasses.dataclass(frozen=True)
class Topology:
    """A grid of routers; see `Ring`, `Mesh` and `Torus`.

    Attributes
    ----------
    sizes
        Routers in each dimension, one or two of them.
    wrap
        The last router of a row is linked to its first.
    one_way
        Links go up only (with `wrap`).
    terminals
        At each router.
    channels
        Virtual channels of each link.

    Raises ValueError for what cannot be built, and for too few channels: packets could wait for
    each other for ever.
    """

    sizes: tuple[int, ...]
    wrap: bool
    one_way: bool = False
    terminals: int = 1
    channels: int = 2

    def __post_init__(self) -> None:
        if len(self.sizes) not in (1, 2):
            raise ValueError(f"sizes must be of one or two dimensions, not {self.sizes!r}")
        for size in self.sizes:
            if not isinstance(size, int) or not 2 <= size <= LARGEST_SIZE:
                raise ValueError(f"routers in a dimension must be from 2 to {LARGEST_SIZE}, not "
                                 f"{size!r}")
        if not isinstance(self.terminals, int) or not 1 <= self.terminals <= MOST_TERMINALS:
            raise ValueError(f"terminals of a router must be from 1 to {MOST_TERMINALS}, not "
                             f"{self.terminals!r}")
        if not isinstance(self.channels, int) or not 1 <= self.channels <= 8:
            raise ValueError(f"channels must be from 1 to 8, not {self.channels!r}")
        if self.one_way and not self.wrap:
            raise ValueError("one_way must go with wrap: what lies behind could not be reached")
        if self.channels % self.classes:
            raise ValueError(
                f"channels must be a multiple of 2 on rings of {max(self.sizes)} routers, not "
                f"{self.channels}: with one class of channels packets around a ring could wait for "
                "each other for ever")

    @property
    def classes(self) -> int:
        """Classes of channels: two if packets travel far enough to wait in a circle."""
        far = any(self.reach(d, step) > 1 for d in range(len(self.sizes)) for step in (1, -1))
        return 2 if self.wrap and far else 1

    def reach(self, dimension: int, step: int) -> int:
        """The most links that a packet takes in a direction; without `wrap`, whichever way."""
        size = self.sizes[dimension]
        if not self.wrap:
            return size - 1
        if self.one_way:
            return size - 1 if step > 0 else 0
        return size // 2

    @property
    def directions(self) -> tuple[Direction, ...]:
        return tuple(Direction(d, step) for d in range(len(self.sizes))
                     for step in ((1,) if self.one_way else (1, -1)))

    @property
    def routers(self) -> list[tuple[int, ...]]:
        """Their coordinates, x first and fastest."""
        return [tuple(reversed(c)) for c in
                itertools.product(*(range(size) for size in reversed(self.sizes)))]

    @property
    def nodes(self) -> list[Address]:
        """All terminals, in the order of their numbers: routers in order, its terminals each."""
        return [self.address(router, terminal) for router in self.routers
                for terminal in range(self.terminals)]

    def address(self, router: tuple[int, ...], terminal: int) -> Address:
        """The address of a router's terminal."""
        return Address(router[0], router[1] if len(router) > 1 else 0, terminal)

    def coordinates(self, address: Address) -> tuple[int, ...]:
        return (address.x, address.y)[:len(self.sizes)]

    def exists(self, address: Address) -> bool:
        used = self.coordinates(address)
        return (address.terminal < self.terminals and all(map(int.__lt__, used, self.sizes))
                and (len(self.sizes) == 2 or address.y == 0))

    def neighbour(self, router: tuple[int, ...], direction: Direction) -> tuple[int, ...] | None:
        """The router at the other end of the link that leaves in a direction; None without one."""
        d, size = direction.dimension, self.sizes[direction.dimension]
        place = router[d] + direction.step
        if direction not in self.directions or not (self.wrap or 0 <= place < size):
            return None
        return (*router[:d], place % size, *router[d + 1:])

    def outputs(self, router: tuple[int, ...]) -> list[Port]:
        """The ports at which flits leave a router: terminals first."""
        return [*range(self.terminals), *(d for d in self.directions if self.neighbour(router, d))]

    def inputs(self, router: tuple[int, ...]) -> list[Port]:
        """The ports at which flits enter a router: terminals first."""
        return [*range(self.terminals),
                *(d for d in self.directions
                  if self.neighbour(router, Direction(d.dimension, -d.step))
                  or self.one_way)]

    def channels_of(self, port: Port) -> int:
        """A terminal's link has one channel."""
        return 1 if isinstance(port, int) else self.channels

    # The way of a packet.

    def toward(self, router: tuple[int, ...], target: tuple[int, ...]) -> Direction | None:
        """In which direction a packet leaves a router for another; None if it is there.

        The shorter way; of two equally short ones up, from routers whose coordinates have an even
        sum, else down, so that both carry as much.
        """
        for d, size in enumerate(self.sizes):
            if router[d] == target[d]:
                continue
            if not self.wrap:
                return Direction(d, 1 if target[d] > router[d] else -1)
            ahead = (target[d] - router[d]) % size
            up = (self.one_way or 2 * ahead < size
                  or (2 * ahead == size and sum(router) % 2 == 0))
            return Direction(d, 1 if up else -1)
        return None

    def at_dateline(self, place: int, direction: Direction) -> bool:
        """Whether the link that leaves a place of a row in a direction is its dateline."""
        return self.wrap and place == (
            self.sizes[direction.dimension] - 1 if direction.step > 0 else 0)

    def passes_dateline(self, place: int, target: int, direction: Direction) -> bool:
        """Whether a packet from a place of a row to another passes the dateline."""
        return self.wrap and (target < place if direction.step > 0 else target > place)

    def channel(self, router: tuple[int, ...], arrived: Port, arrived_channel: int,
                direction: Direction, target: int | None, flow: int) -> int:
        """The virtual channel in which a packet leaves in a direction.

        `target` is its place in the dimension of `direction`; None for a multicast packet.
        """
        place, each = router[direction.dimension], self.channels // self.classes
        at_dateline = self.at_dateline(place, direction)
        if isinstance(arrived, Direction) and arrived.dimension == direction.dimension:
            size = self.sizes[direction.dimension]
            behind = self.at_dateline((place - direction.step) % size, direction)
            after = self.classes == 2 and (at_dateline or behind or arrived_channel >= each)
            return after * each + arrived_channel % each
        passes = target is None or self.passes_dateline(place, target, direction)
        return flow % (each if passes and not at_dateline else self.channels)

    @staticmethod
    def flow(source: Address, destination: Address) -> int:
        """A number from 0 to 7 that spreads packets over channels."""
        return (source.x ^ source.y ^ source.terminal
                ^ destination.x ^ destination.y ^ destination.terminal) & 7

    def route(self, router: tuple[int, ...], arrived: Port, arrived_channel: int,
              source: Address, destination: Address, multicast: bool) -> list[Hop]:
        """How a packet leaves a router: none for a destination that does not exist, or from a
        terminal that is not its source.

        A multicast packet takes all of the hops, any other the only one.
        """
        if isinstance(arrived, int) and source != self.address(router, arrived):
            return []
        if multicast:
            return self._multicast(router, arrived, arrived_channel, source)
        if not self.exists(destination):
            return []
        target = self.coordinates(destination)
        direction = self.toward(router, target)
        if direction is None:
            return [Hop(destination.terminal, 0)]
        return [Hop(direction, self.channel(
            router, arrived, arrived_channel, direction, target[direction.dimension],
            self.flow(source, destination)))]

    def _multicast(self, router, arrived, arrived_channel, source: Address) -> list[Hop]:
        from_ = self.coordinates(source)
        dimension = arrived.dimension if isinstance(arrived, Direction) else -1
        hops = [Hop(t, 0) for t in range(self.terminals)
                if not (isinstance(arrived, int) and t == arrived)]
        for direction in self.directions:
            d = direction.dimension
            goes_on = direction == arrived or d > dimension
            if goes_on and self.neighbour(router, direction) and self.copies_beyond(
                    router[d], from_[d], direction):
                hops.append(Hop(direction, self.channel(
                    router, arrived, arrived_channel, direction, None, 0)))
        return hops

    def copies_beyond(self, place: int, source: int, direction: Direction) -> bool:
        """Whether a copy that has come this far from its source goes on."""
        if not self.wrap:
            return True
        size = self.sizes[direction.dimension]
        gone = (place - source) * direction.step % size
        if self.one_way:
            return gone < size - 1
        # The router opposite of the source is reached going up.
        return gone < (size // 2 if direction.step > 0 else (size - 1) // 2)

    @property
    def bisection(self) -> int:
        """Links from one half of the network to the other, both ways, cutting the longest
        dimension in its middle."""
        longest = max(self.sizes)
        cut = (2 if self.wrap else 1) * (1 if self.one_way else 2)
        return cut * math.prod(self.sizes) // longest


class Ring(Topology):
    """`size` routers in a ring; `one_way`, or both ways with packets taking the shorter one."""

    def __init__(self, size: int, *, one_way: bool = False, terminals: int = 1,
                 channels: int = 2) -> None:
        super().__init__((size,), True, one_way, terminals, channels)


class Mesh(Topology):
    """`columns` x `rows` routers; a single row is a line."""

    def __init__(self, columns: int, rows: int = 1, *, terminals: int = 1,
                 channels: int = 1) -> None:
        super().__init__((columns, rows) if rows != 1 else (columns,), False, False, terminals,
                         channels)


class Torus(Topology):
    """`columns` x `rows` routers, each row and each column a ring."""

    def __init__(self, columns: int, rows: int, *, terminals: int = 1, channels: int = 2) -> None:
        super().__init__((columns, rows), True, False, terminals, channels)
