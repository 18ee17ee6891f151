"""Traffic for networks, and what becomes of it: latency and throughput against load.

Open-loop measurement (Dally and Towles, Principles and Practices of Interconnection Networks,
chapter 23): packets are generated whether or not the network takes them, wait in queues without
bound, and their latency counts from generation. Those generated in the measurement phase are
measured; the traffic goes on until the last of them has arrived.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .flit_model import NONE, FlitModel, flit
from .router import DEPTH
from .topology import Topology

__all__ = ["HOT", "PATTERNS", "Measurement", "Phases", "Point", "Schedule", "bisection_bound",
           "destinations", "full_load", "measure", "zero_load_latency"]

Array = npt.NDArray[np.integer]

PATTERNS = ("uniform", "transpose", "hotspot", "neighbour", "tornado", "complement")
#: The part of hotspot traffic that goes to the one terminal.
HOT = 0.1
_NEVER = np.iinfo(np.int32).max


def zero_load_latency(hops: int, length: int) -> int:
    """Cycles from the generation of a packet to the ejection of its last flit, with no others.

    Two cycles for each of the `hops` + 1 routers, one in front of the terminal, and one for each
    flit after the first.
    """
    return 2 * (hops + 1) + length


def bisection_bound(topology: Topology) -> float:
    """The most flits a cycle a terminal of uniform traffic, by the links that it has to pass.

    Of packets among n terminals the part 2 a b / (n (n - 1)) goes from the a terminals of one half
    to the b of the other, or back.
    """
    longest = max(topology.sizes)
    count = len(topology.nodes)
    half = count // longest * (longest // 2)
    return topology.bisection * (count - 1) / (2 * half * (count - half))


def destinations(topology: Topology, pattern: str, sources: Array, rng: np.random.Generator
                 ) -> Array:
    """Where terminals send packets, all as numbers in `Topology.nodes`.

    NONE for a terminal that the pattern makes silent: it would send to itself, or on a mesh beyond
    the edge.

    uniform
        To all others alike.
    hotspot
        A tenth goes to the first terminal of the router in the middle, the rest is uniform.
    transpose
        From x, y to y, x.
    neighbour
        To the next router: the first terminal of each in the first direction, the second in the
        second, and so on, each by a link of its own.
    tornado
        Nearly half around each dimension, upwards: (size - 1) // 2 routers on.
    complement
        To the router opposite of the middle.

    Raises ValueError for an unknown pattern, or transpose where there are not as many rows as
    columns.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, not {pattern!r}")
    count = len(topology.nodes)
    uniform = rng.integers(0, count - 1, len(sources))
    uniform += uniform >= sources
    if pattern == "uniform":
        return uniform
    router, terminal = sources // topology.terminals, sources % topology.terminals
    sizes = np.array(topology.sizes)
    steps = np.cumprod([1, *topology.sizes[:-1]])
    places = router[:, None] // steps % sizes
    if pattern == "hotspot":
        hot = int((sizes // 2 * steps).sum()) * topology.terminals
        return np.where((rng.random(len(sources)) < HOT) & (sources != hot), hot, uniform)
    if pattern == "transpose":
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            raise ValueError("transpose must have as many rows as columns, not routers of "
                             f"{topology.sizes!r}")
        goals = places[:, ::-1]
    elif pattern == "neighbour":
        way = np.array([(d.dimension, d.step) for d in topology.directions])
        dimension, step = way[terminal % len(way)].T
        goals = places + (np.arange(len(sizes)) == dimension[:, None]) * step[:, None]
    elif pattern == "tornado":
        goals = places + (sizes - 1) // 2
    else:
        goals = sizes - 1 - places
    inside = topology.wrap | ((goals >= 0) & (goals < sizes)).all(axis=1)
    numbers = (goals % sizes * steps).sum(axis=1) * topology.terminals + terminal
    return np.where(inside & (numbers != sources), numbers, NONE)


class Schedule:
    """Queues without bound at terminals: offers packets one after another, none before its time.

    Parameters
    ----------
    terminals
        How many there are.
    sources, times, lengths
        Of each packet, in the order of its number, its terminal, when it is generated, and its
        flits. A terminal's packets are in order.
    """

    def __init__(self, terminals: int, sources: Array, times: Array, lengths: Array) -> None:
        # Behind each terminal's last packet stands one that is never generated.
        sources = np.concatenate([sources, np.arange(terminals)])
        self._packets = np.argsort(sources, kind="stable")
        self._times = np.append(times, np.full(terminals, _NEVER))[self._packets]
        self._lengths = np.append(lengths, np.ones(terminals, int))[self._packets]
        self._next = np.searchsorted(sources[self._packets], np.arange(terminals))
        self._sent = np.zeros(terminals, np.int64)

    def offer(self, cycle: int) -> Array:
        """The flit that each terminal offers in a cycle, or NONE."""
        due = self._times[self._next] <= cycle
        self._ends = self._sent == self._lengths[self._next] - 1
        return np.where(due, flit(self._packets[self._next], self._sent == 0, self._ends), NONE)

    def taken(self, accepted: npt.NDArray[np.bool_]) -> None:
        """Which of the flits that were offered last have been accepted."""
        ended = accepted & self._ends
        self._sent = np.where(ended, 0, self._sent + accepted)
        self._next += ended


@dataclasses.dataclass(frozen=True)
class Phases:
    """Cycles of a measurement: before it, of it, and at most after it."""

    warm_up: int = 1000
    measured: int = 2000
    drain: int = 4000


@dataclasses.dataclass(frozen=True)
class Point:
    """What came of a load.

    Attributes
    ----------
    load, accepted
        Flits a cycle of each terminal that sends: generated on average, and those ejected in the
        measurement phase.
    latency, highest_latency
        Mean of the measured packets in cycles, and what 99 % of them have at most. None if the
        load is more than the network takes, so that latency would grow with the time measured:
        not all arrived before the end, or 5 % fewer flits came out than were generated.
    packets
        How many were measured.
    """

    load: float
    accepted: float
    latency: float | None
    highest_latency: float | None
    packets: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Points by load, and what was simulated for all of them together."""

    points: list[Point]
    cycles: int
    flit_hops: int


def full_load(length: int) -> float:
    """More flits a cycle than a terminal can send, as far as there are: queues do not run empty."""
    return min(2.0, length)


def measure(topology: Topology, pattern: str, loads: Sequence[float], length: int = 4, *,
            depth: int = DEPTH, phases: Phases | None = None, seed: int = 1) -> Measurement:
    """Send packets of `length` flits in a pattern at several loads, side by side.

    Each terminal generates a packet in a cycle with probability load / length. Raises ValueError
    for a load or length that cannot be.
    """
    phases = phases or Phases()
    if length < 1:
        raise ValueError(f"length must be at least 1 flit, not {length!r}")
    for load in loads:
        if not 0 < load <= length:
            raise ValueError("loads must be above 0 and at most a packet a cycle, which is "
                             f"{length} flits, not {load!r}")
    rng = np.random.default_rng(seed)
    count, networks = len(topology.nodes), len(loads)
    begin, end = phases.warm_up, phases.warm_up + phases.measured
    sources, times = _generate(rng, np.repeat(loads, count) / length, end + phases.drain)
    goals = destinations(topology, pattern, sources % count, rng)
    sends = goals != NONE
    sources, times, goals = sources[sends], times[sends], goals[sends]
    senders = np.count_nonzero(
        destinations(topology, pattern, np.arange(count), rng) != NONE)

    model = FlitModel(topology, depth, networks)
    addresses = np.array([node.encode() for node in topology.nodes])
    model.add_packets(addresses[sources % count], addresses[goals], length)
    schedule = Schedule(count * networks, sources, times, np.full(len(times), length))
    measured = (times >= begin) & (times < end)
    arrived = np.full(len(times), NONE)
    left = np.count_nonzero(measured)
    ejected = np.zeros(networks, int)
    takes = np.ones(count * networks, bool)
    while model.cycle < end + phases.drain and (model.cycle < end or left):
        cycle = model.cycle
        accepted, leaving = model.step(schedule.offer(cycle), takes)
        schedule.taken(accepted)
        if begin <= cycle < end:
            ejected += (leaving >= 0).reshape(networks, -1).sum(axis=1)
        packets = leaving[(leaving >= 0) & (leaving & 1 > 0)] >> 2
        arrived[packets] = cycle
        left -= np.count_nonzero(measured[packets])

    points = []
    for number, load in enumerate(loads):
        mine = measured & (sources // count == number)
        latency = arrived[mine] - times[mine]
        keeps_up = (len(latency) and (arrived[mine] != NONE).all()
                    and ejected[number] >= 0.95 * length * len(latency))
        points.append(Point(
            load, float(ejected[number] / (phases.measured * senders)),
            float(latency.mean()) if keeps_up else None,
            float(np.quantile(latency, 0.99)) if keeps_up else None, len(latency)))
    return Measurement(points, model.cycle, model.flit_hops)


def _generate(rng: np.random.Generator, chances: npt.NDArray[np.floating], cycles: int,
              block: int = 256) -> tuple[Array, Array]:
    """Terminals and times of packets, in order of time; a chance each cycle for each terminal."""
    sources, times = [], []
    for begin in range(0, cycles, block):
        time, source = np.nonzero(
            rng.random((min(block, cycles - begin), len(chances)), np.float32) < chances)
        sources.append(source)
        times.append(time + begin)
    return np.concatenate(sources), np.concatenate(times)
