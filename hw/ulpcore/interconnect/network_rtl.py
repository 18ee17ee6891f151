"""Flits through a network's RTL, at Verilator's own speed."""

import functools
from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray
from ulpsim.interconnect.delivery import Delivery, Flits, Traffic, check
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Topology

from ..streams import StreamModel
from .link import flit_stream
from .network import Network

__all__ = ["NetworkBench", "deliver", "network_model"]

#: Cycles without a transfer after which everything has arrived.
_QUIET = 2000


class NetworkBench(wiring.Component):
    """A network with a stream for each end of each terminal."""

    def __init__(self, topology: Topology, depth: int) -> None:
        self.network = Network(topology=topology, depth=depth)
        self.count = len(topology.nodes)
        flits = flit_stream(64)
        super().__init__({
            **{f"in_{i}": In(flits) for i in range(self.count)},
            **{f"out_{i}": Out(flits) for i in range(self.count)},
            **{f"dropped_{i}": Out(stream.signature)
               for i, stream in enumerate(self.network.dropped)}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        for i in range(self.count):
            wiring.connect(m, wiring.flipped(getattr(self, f"in_{i}")), network.terminals_in[i])
            wiring.connect(m, network.terminals_out[i], wiring.flipped(getattr(self, f"out_{i}")))
        for i, stream in enumerate(network.dropped):
            wiring.connect(m, stream, wiring.flipped(getattr(self, f"dropped_{i}")))
        return m


@functools.cache
def network_model(topology: Topology, depth: int) -> StreamModel:
    """The simulation of a network whose flits have 64 bits."""
    return StreamModel(NetworkBench(topology, depth))


def deliver(traffic: Traffic, *, depth: int = DEPTH, stalls: Sequence[float], seed: int = 1,
            model: StreamModel | None = None) -> tuple[Delivery, int]:
    """Send packets through a network, and say what became of them and after how many cycles the
    last flit came.

    Parameters
    ----------
    stalls
        The share of cycles in which each terminal does not go on: as many as there are terminals
        for what they send, then as many for what they take.
    seed
        Of the stalls.
    model
        The network, if not that of `network_model`.

    Raises ValueError for another number of stalls.
    """
    count = len(traffic.topology.nodes)
    if len(stalls) != 2 * count:
        raise ValueError(f"stalls must be as many as the {2 * count} ends of terminals, not "
                         f"{len(stalls)}")
    names = [f"{side}_{i}" for side in ("in", "out") for i in range(count)]
    run = (model or network_model(traffic.topology, depth)).run(
        {f"in_{i}": _rows(queue) for i, queue in enumerate(traffic.queues)},
        stalls=dict(zip(names, stalls, strict=True)), seed=seed, quiet=_QUIET)
    received = [_flits(run.outputs[f"out_{i}"]) for i in range(count)]
    last = max((int(run.times[name][-1]) for name in names if len(run.times[name])), default=0)
    return check(traffic, received), last


def _rows(flits: Flits) -> NDArray[np.uint32]:
    """As payloads of a stream."""
    return np.column_stack([flits.data.view("<u4").reshape(-1, 2), flits.marks.astype(np.uint32)])


def _flits(rows: NDArray[np.uint32]) -> Flits:
    return Flits(np.ascontiguousarray(rows[:, :2]).view("<u8").ravel(),
                 rows[:, 2].astype(np.uint8))
