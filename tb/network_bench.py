"""Networks in RTL beside their reference, cycle by cycle, under the same stalls."""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from ulpcore.interconnect.network_rtl import network_model
from ulpcore.streams import StreamRun
from ulpsim.interconnect.packets import TAGS, Flit, Header, packetise
from ulpsim.interconnect.router import Network as Reference
from ulpsim.interconnect.router import largest_multicast
from ulpsim.interconnect.topology import Address, Topology

#: Cycles without a transfer after which everything has arrived.
QUIET = 200


class Stalls:
    """What `ulpcore.streams` does to one side of a stream, in Python."""

    def __init__(self, share: float, number: int) -> None:
        self.stall = min(round(share * 256), 255)
        self.state = (number * 0x9E3779B97F4A7C15 + 1) % (1 << 64)

    def goes(self) -> bool:
        if not self.stall:
            return True
        state = self.state
        state = (state ^ state << 13) % (1 << 64)
        state ^= state >> 7
        self.state = (state ^ state << 17) % (1 << 64)
        return (self.state >> 20 & 255) >= self.stall


def rows_of(flits: Sequence[Flit]) -> np.ndarray:
    """As payloads of a stream of 64-bit flits."""
    return np.array([[f.data & 0xFFFFFFFF, f.data >> 32, f.first | f.last << 1] for f in flits],
                    np.uint32).reshape(-1, 3)


def flits_of(rows: np.ndarray) -> list[Flit]:
    return [Flit(int(low) | int(high) << 32, bool(marks & 1), bool(marks >> 1))
            for low, high, marks in rows]


def random_traffic(topology: Topology, depth: int, packets: int, rng: random.Random, *,
                   payload: int = 6, multicast: float = 0.1, wrong: float = 0.0
                   ) -> list[list[Flit]]:
    """For each terminal the flits of its packets: some multicast, some that lead nowhere."""
    nodes = topology.nodes
    queues: list[list[Flit]] = [[] for _ in nodes]
    for number in range(packets):
        source, destination = rng.choice(nodes), rng.choice(nodes)
        to_all = rng.random() < multicast
        size = 8 * rng.randint(0, min(payload, largest_multicast(depth) - 2) if to_all else payload)
        told = source
        if rng.random() < wrong:
            if rng.random() < 0.5:
                destination = Address(rng.randrange(64), rng.randrange(64), rng.randrange(16))
            else:
                told = rng.choice(nodes)
        queues[nodes.index(source)] += packetise(
            Header(destination, told, size, to_all, number % TAGS), rng.randbytes(size))
    return queues


@dataclasses.dataclass
class ReferenceRun:
    """For each terminal the cycles in which its flits were taken, those in which flits came out,
    and these; of each router the packets that it dropped; the network at the end."""

    taken: list[list[int]]
    given: list[list[int]]
    flits: list[list[Flit]]
    network: Reference


def run_reference(topology: Topology, depth: int, queues: Sequence[Sequence[Flit]],
                  stall: float, seed: int) -> ReferenceRun:
    """Until nothing has moved for `QUIET` cycles, under the stalls of `run_rtl`."""
    count = len(queues)
    names = [*(f"in_{i}" for i in range(count)), *(f"out_{i}" for i in range(count))]
    stalls = [Stalls(stall, seed * 64 + i + 1) for i in range(len(names))]
    network = Reference(topology, depth)
    run = ReferenceRun([[] for _ in queues], [[] for _ in queues], [[] for _ in queues], network)
    offers = [False] * count
    cycle = last = 0
    while cycle - last < QUIET:
        for i, queue in enumerate(queues):
            if not offers[i] and len(run.taken[i]) < len(queue):
                offers[i] = stalls[i].goes()
        takes = [stalls[count + i].goes() for i in range(count)]
        taken, given = network.step(
            [queue[len(run.taken[i])] if offers[i] else None for i, queue in enumerate(queues)],
            takes)
        for i in range(count):
            if taken[i]:
                run.taken[i].append(cycle)
                offers[i], last = False, cycle
            flit = given[i]
            if flit is not None and takes[i]:
                run.given[i].append(cycle)
                run.flits[i].append(flit)
                last = cycle
        cycle += 1
    return run


def run_rtl(topology: Topology, depth: int, queues: Sequence[Sequence[Flit]], stall: float,
            seed: int) -> StreamRun:
    count = len(queues)
    stalls = {f"{side}_{i}": stall for side in ("in", "out") for i in range(count)}
    return network_model(topology, depth).run(
        {f"in_{i}": rows_of(queue) for i, queue in enumerate(queues)}, stalls=stalls, seed=seed,
        quiet=QUIET)
