"""Many random packets, and whether a network has delivered each of them: once, in order, unchanged.

Flits of 64 bits in arrays, so that a million packets take seconds.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .packets import TAGS, packet_flits
from .router import DEPTH, largest_multicast
from .topology import Topology

__all__ = ["FIRST", "LAST", "Delivery", "Flits", "Traffic", "check", "random_traffic"]

#: Bits of a flit's marks.
FIRST, LAST = 1, 2
_BYTES = 8
Numbers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Flits:
    """A row of flits: their data, uint64, and `FIRST` and `LAST` of each, uint8."""

    data: NDArray[np.uint64]
    marks: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Packets, those of a terminal next to each other and in the order in which it sends them.

    Attributes
    ----------
    source, destination
        Of each packet, as numbers in `Topology.nodes`.
    multicast
        It goes to all terminals but its source.
    flits
        Of all packets.
    begin
        Of each packet its first flit, and behind the last one the number of flits.
    """

    topology: Topology
    source: Numbers
    destination: Numbers
    multicast: NDArray[np.bool_]
    flits: Flits
    begin: Numbers

    @property
    def queues(self) -> list[Flits]:
        """Of each terminal what it sends."""
        ends = self.begin[np.searchsorted(self.source, range(len(self.topology.nodes) + 1))]
        return [Flits(self.flits.data[a:b], self.flits.marks[a:b])
                for a, b in itertools.pairwise(ends)]


@dataclasses.dataclass(frozen=True)
class Delivery:
    """What became of packets; a multicast one counts once for each terminal that it goes to.

    Attributes
    ----------
    sent
        How many were to arrive.
    lost
        Of those how many did not.
    doubled
        How many came again.
    misled
        How many came to a terminal to which they were not sent.
    damaged
        How many have other bytes or another length than when they were sent, or are not known.
    overtaken
        How many came behind a later one of their flow: of the same source, destination and kind.
    """

    sent: int
    lost: int
    doubled: int
    misled: int
    damaged: int
    overtaken: int

    @property
    def perfect(self) -> bool:
        """Everything that was sent has come, once, in order, unchanged, and nothing else."""
        return not (self.lost or self.doubled or self.misled or self.damaged or self.overtaken)


def random_traffic(topology: Topology, packets: int, rng: np.random.Generator, *,
                   payload: int = 48, multicast: float = 0.02, depth: int = DEPTH) -> Traffic:
    """Packets between random terminals, with random bytes.

    Parameters
    ----------
    payload
        The most bytes; all numbers from 0 on are as likely.
    multicast
        The share of packets to all terminals, which are as short as buffers of `depth` need.

    The tag of a packet is its number among those of its source, destination and kind, modulo
    `TAGS`: a flow's packets can be told apart. Raises ValueError if a flow has more.
    """
    nodes = topology.nodes
    source = np.sort(rng.integers(0, len(nodes), packets))
    destination = rng.integers(0, len(nodes), packets)
    to_all = rng.random(packets) < multicast
    most = min(payload, _BYTES * (largest_multicast(depth) - packet_flits(0, 64)))
    bytes_ = np.where(to_all, rng.integers(0, most + 1, packets),
                      rng.integers(0, payload + 1, packets))
    tags = _numbers(_flows(source, destination, to_all, len(nodes)))
    if packets and tags.max() >= TAGS:
        raise ValueError(f"packets of a flow must be at most {TAGS}, not {tags.max() + 1}; "
                         f"send fewer than {packets}")

    begin = np.concatenate([[0], np.cumsum(packet_flits(0, 64) + -(-bytes_ // _BYTES))])
    data = rng.integers(0, 1 << 64, begin[-1], np.uint64, endpoint=False)
    marks = np.zeros(begin[-1], np.uint8)
    marks[begin[:-1]], marks[begin[1:] - 1] = FIRST, LAST
    addresses = np.array([node.encode() for node in nodes])
    data[begin[:-1]] = (np.where(to_all, 0, addresses[destination]) | addresses[source] << 16
                        | bytes_ << 32 | to_all.astype(np.int64) << 48).astype(np.uint64) | (
                            tags.astype(np.uint64) << np.uint64(49))
    # What is beyond the payload in its last flit is zero.
    partial = np.flatnonzero(bytes_ % _BYTES)
    data[begin[partial + 1] - 2] &= (np.uint64(1) << (8 * (bytes_[partial] % _BYTES)).astype(
        np.uint64)) - np.uint64(1)
    content = memoryview(data).cast("B")
    data[begin[1:] - 1] = [zlib.crc32(content[_BYTES * a:_BYTES * b])
                           for a, b in zip(begin.tolist(), (begin[1:] - 1).tolist(), strict=False)]
    return Traffic(topology, source, destination, to_all, Flits(data, marks), begin)


def check(traffic: Traffic, received: Sequence[Flits]) -> Delivery:
    """Compare with what came to each terminal."""
    count, packets = len(traffic.topology.nodes), len(traffic.source)
    # A header tells a packet from all others.
    known = traffic.flits.data[traffic.begin[:-1]]
    order = np.argsort(known)
    expected = _expected(traffic)
    came: list[Numbers] = []
    misled = damaged = overtaken = 0
    for terminal, flits in enumerate(received):
        begin = np.flatnonzero(flits.marks & FIRST)
        # A row that does not begin a packet has one more, that nobody knows.
        damaged += bool(len(flits.marks) and not flits.marks[0] & FIRST)
        headers = flits.data[begin]
        at = np.minimum(np.searchsorted(known, headers, sorter=order), packets - 1)
        packet = order[at]
        right = known[packet] == headers
        lengths = np.diff(np.append(begin, len(flits.marks)))
        right &= lengths == traffic.begin[packet + 1] - traffic.begin[packet]
        # Flits of the packets that can be compared, here and as they were sent.
        here = _ranges(begin[right], lengths[right])
        there = _ranges(traffic.begin[packet[right]], lengths[right])
        equal = ((flits.data[here] == traffic.flits.data[there])
                 & (flits.marks[here] == traffic.flits.marks[there]))
        wrong = np.bincount(np.repeat(np.flatnonzero(right), lengths[right])[~equal],
                            minlength=len(right))
        right &= wrong[:len(right)] == 0
        damaged += int(np.count_nonzero(~right))
        packet = packet[right]
        goes_here = np.where(traffic.multicast[packet], traffic.source[packet] != terminal,
                             traffic.destination[packet] == terminal)
        misled += int(np.count_nonzero(~goes_here))
        packet = packet[goes_here]
        flow = _flows(traffic.source[packet], traffic.destination[packet],
                      traffic.multicast[packet], count)
        overtaken += _descents(flow, packet)
        came.append(packet * count + terminal)
    arrived = np.concatenate(came)
    once = np.unique(arrived)
    return Delivery(len(expected), len(expected) - len(once), len(arrived) - len(once), misled,
                    damaged, overtaken)


def _expected(traffic: Traffic) -> Numbers:
    """Packet and terminal of all that is to arrive, as numbers."""
    count = len(traffic.topology.nodes)
    single = np.flatnonzero(~traffic.multicast)
    copies = np.flatnonzero(traffic.multicast)
    others = (traffic.source[copies, None] + np.arange(1, count)) % count
    return np.concatenate([single * count + traffic.destination[single],
                           (copies[:, None] * count + others).ravel()])


def _flows(source: Numbers, destination: Numbers, multicast: NDArray[np.bool_], count: int
           ) -> Numbers:
    """The number of each packet's flow."""
    return source * (count + 1) + np.where(multicast, count, destination)


def _numbers(flows: Numbers) -> Numbers:
    """Of each packet how many of its flow were before it."""
    order = np.argsort(flows, kind="stable")
    ordered = flows[order]
    first = np.searchsorted(ordered, ordered)
    numbers = np.empty_like(flows)
    numbers[order] = np.arange(len(flows)) - first
    return numbers


def _descents(flows: Numbers, packets: Numbers) -> int:
    """How many packets follow a later one of their flow."""
    order = np.argsort(flows, kind="stable")
    flows, packets = flows[order], packets[order]
    # Flows one above the other, so that a running maximum does not reach from one to the next.
    if not len(flows):
        return 0
    lifted = packets + flows * (packets.max() + 1)
    return int(np.count_nonzero(lifted < np.maximum.accumulate(lifted)))


def _ranges(begin: Numbers, lengths: Numbers) -> Numbers:
    """The numbers from each beginning on."""
    if not len(begin):
        return np.zeros(0, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(begin - (ends - lengths), lengths)
