"""Which channels of which outputs a packet takes, from its header."""

from collections.abc import Iterable, Mapping
from typing import Any

from amaranth.hdl import C, Value
from ulpsim.interconnect.topology import Direction, Port, Topology

__all__ = ["Way", "legal_ways", "ways"]

#: A virtual channel of an output.
Way = tuple[Port, int]


def legal_ways(topology: Topology, router: tuple[int, ...], arrived: Port) -> list[Way]:
    """All ways that some packet takes from an input: it goes straight on, turns to a later
    dimension, or has arrived. In the order of the outputs."""
    def leads(output: Port) -> bool:
        return isinstance(output, int) or isinstance(arrived, int) or (
            output == arrived or output.dimension > arrived.dimension)

    return [(output, channel) for output in topology.outputs(router) if leads(output)
            for channel in range(topology.channels_of(output))]


def ways(topology: Topology, router: tuple[int, ...], arrived: Port, arrived_channel: int,
         header: Any) -> Mapping[Way, Value]:
    """`Topology.route` as logic: for each legal way whether a packet takes it.

    `header` is a view of `HeaderLayout`. In the middle of the network it is taken to be right.
    """
    dimensions = len(topology.sizes)
    target = (header.destination.x, header.destination.y)[:dimensions]
    source = (header.source.x, header.source.y)[:dimensions]
    trusted = isinstance(arrived, Direction)
    first = arrived.dimension if isinstance(arrived, Direction) else 0
    unicast = ~header.multicast
    right = C(1, 1) if trusted else (_is_source(topology, router, arrived, header)
                                     & (header.multicast | _exists(topology, header.destination)))
    flow = Value.cast(header.source.x)[:3]
    for field in (header.source.y, header.source.terminal, header.destination.x,
                  header.destination.y, header.destination.terminal):
        flow = flow ^ Value.cast(field)[:3]

    found: dict[Way, Value] = {}
    for way in legal_ways(topology, router, arrived):
        output, channel = way
        if isinstance(output, int):
            here = _all(_is_in(target[d], [router[d]]) for d in range(first, dimensions))
            copy = C(output != arrived or trusted, 1)
            found[way] = right & ((unicast & here & (header.destination.terminal == output))
                                  | (header.multicast & copy))
            continue
        d = output.dimension
        entering = output != arrived
        reached = _all(_is_in(target[e], [router[e]]) for e in range(first, d))
        places = [p for p in range(topology.sizes[d])
                  if topology.toward(router, (*router[:d], p, *router[d + 1:])) == output]
        by_flow = [
            _is_in(target[d], [p for p in places if topology.channel(
                router, arrived, arrived_channel, output, p, number) == channel])
            & (flow == number if entering else 1)
            for number in range(8 if entering else 1)]
        copy = C(0, 1)
        if topology.channel(router, arrived, arrived_channel, output, None, 0) == channel:
            copy = _is_in(source[d], [p for p in range(topology.sizes[d])
                                      if topology.copies_beyond(router[d], p, output)])
            if entering:                     # the copy is where its source is
                copy = C(topology.copies_beyond(router[d], router[d], output), 1)
        found[way] = right & ((unicast & reached & _any(by_flow)) | (header.multicast & copy))
    return found


def _is_source(topology: Topology, router: tuple[int, ...], terminal: Port, header: Any) -> Value:
    assert isinstance(terminal, int)
    return Value.cast(header.source) == topology.address(router, terminal).encode()


def _exists(topology: Topology, address: Any) -> Value:
    sizes = (*topology.sizes, 1)
    return ((address.x < sizes[0]) & (address.y < sizes[1])
            & (address.terminal < topology.terminals))


def _is_in(value: Value, numbers: Iterable[int]) -> Value:
    patterns = list(numbers)
    return value.matches(*patterns) if patterns else C(0, 1)


def _all(values: Iterable[Value]) -> Value:
    result: Value = C(1, 1)
    for value in values:
        result = result & value
    return result


def _any(values: Iterable[Value]) -> Value:
    result: Value = C(0, 1)
    for value in values:
        result = result | value
    return result
