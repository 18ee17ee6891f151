"""Rings, meshes and tori of routers; twin of `ulpsim.interconnect.router.Network`."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Direction, Topology

from .link import AddressLayout, flit_stream
from .router import Router

__all__ = ["Network"]


class Network(wiring.Component):
    """The routers of a topology and their links.

    Parameters
    ----------
    topology, width, depth
        As for `Router`.

    Members
    -------
    terminals_in : In(flit_stream).array(nodes), terminals_out : Out(flit_stream).array(nodes)
        In the order of `Topology.nodes`. A packet that is begun must be ended, and a flit that is
        offered be taken at some time: otherwise others wait for ever. `Guard` makes sure of both.
    dropped : Out(stream(AddressLayout)).array(routers)
        See `Router`.
    """

    terminals_in: Any
    terminals_out: Any
    dropped: Any

    def __init__(self, *, topology: Topology, width: int = 64, depth: int = DEPTH) -> None:
        self.topology, self.width, self.depth = topology, width, depth
        nodes = len(topology.nodes)
        super().__init__({
            "terminals_in": In(flit_stream(width)).array(nodes),
            "terminals_out": Out(flit_stream(width)).array(nodes),
            "dropped": Out(stream.Signature(AddressLayout)).array(len(topology.routers))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        topology = self.topology
        routers = {place: Router(topology=topology, place=place, width=self.width,
                                 depth=self.depth) for place in topology.routers}
        for number, (place, router) in enumerate(routers.items()):
            m.submodules["router_" + "_".join(map(str, place))] = router
            for t in range(topology.terminals):
                node = number * topology.terminals + t
                wiring.connect(m, wiring.flipped(self.terminals_in[node]), router.terminals_in[t])
                wiring.connect(m, router.terminals_out[t], wiring.flipped(self.terminals_out[node]))
            wiring.connect(m, router.dropped, wiring.flipped(self.dropped[number]))
            for port in router.outputs:
                if isinstance(port, Direction):
                    neighbour = topology.neighbour(place, port)
                    assert neighbour is not None
                    wiring.connect(m, getattr(router, f"{port}_out"),
                                   getattr(routers[neighbour], f"{port}_in"))
        return m
