"""A training step on many chips: backward pass, compression and exchange, each as it overlaps.

- All chips compute the same at the same time (`compute`): forward, then from the last layer to the
  first its weight gradient, then its data gradient.
- A gradient that is there is compressed by the chip's encoders (one a core, `lanes` elements a
  cycle, `passes` passes over it), layer after layer, beside the array.
- Layers are gathered in buckets until their gradients come to `bucket_bytes` in FP32; a bucket is
  exchanged when its last gradient is there, and the chip is done with the bucket before.
- Packets that arrive are decoded beside the exchange, a word a cycle and core; a bucket is done
  when it has arrived and been decoded. Sums in all-reduces keep up with the links.
- The step ends when computation and the last bucket are done; the update of weights is not counted.

What leaves a chip at the same time as what arrives is counted in full both ways.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import rounds
from .collectives import all_gather, all_reduce, broadcast, sparse_reduce
from .compression import Scheme
from .compute import CLOCK_HZ, Times, core_tflops, step_times
from .events import Result
from .graph import Graph
from .networks import Layer, Network
from .schedule import Schedule

__all__ = ["Settings", "Step", "algorithms", "buckets", "exchange", "simulate_step"]

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all chips are like.

    Parameters
    ----------
    tflops
        Peak of a chip.
    lanes, passes
        Elements a cycle of an encoder, and how often it goes over a gradient: twice for the exact
        scale (`docs/compression.md`).
    bucket_bytes
        Dense bytes of a bucket, FP32.
    spread
        Standard deviation of learners' packets, as a part of their mean; drawn with `seed`.
    """

    tflops: float = 15.0
    lanes: int = 16
    passes: int = 2
    bucket_bytes: float = 25e6
    spread: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("tflops", "lanes", "passes", "bucket_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not 0 <= self.spread < 1 / 3:
            raise ValueError(f"spread must be from 0 to below 1/3, not {self.spread!r}")

    @property
    def core_hertz(self) -> float:
        """Cycles a second of all cores of a chip together."""
        return self.tflops / core_tflops() * CLOCK_HZ


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What came of it; times in seconds.

    Attributes
    ----------
    seconds
        Of the step.
    compute
        Of the array: forward and backward.
    exposed
        What the step takes beyond that.
    exchange
        While any bucket is being exchanged.
    encode, decode
        Of a chip's encoders and decoders, busy.
    algorithm
        By which collectives went.
    sent
        Bytes a chip sends, the mean.
    link_bytes_each
        That passed each link.
    busiest
        The part of the exchange for which the busiest link carried something.
    messages, passes, overtaken
        How many there were, and how many links they passed; `Result.overtaken`.
    """

    seconds: float
    compute: float
    exposed: float
    exchange: float
    encode: float
    decode: float
    algorithm: str
    sent: float
    link_bytes_each: Reals
    busiest: float
    messages: int
    passes: int
    overtaken: int

    @property
    def efficiency(self) -> float:
        """Computing by the whole step: of a weak scaling against one chip."""
        return self.compute / self.seconds

    @property
    def cause(self) -> str:
        """What makes the step longer than its computation, in words."""
        if self.exposed <= 0.005 * self.compute:
            return "computation"
        if self.decode > self.exchange * 0.98:
            return "decoding, a word a cycle and core"
        if self.busiest > 0.7:
            return "bandwidth of the links"
        return "latency of many small messages"


def buckets(network: Network, size: float) -> list[list[int]]:
    """Numbers of the layers of each bucket, in the order in which gradients come."""
    found: list[list[int]] = [[]]
    held = 0
    for number in reversed(range(len(network.layers))):
        found[-1].append(number)
        held += 4 * network.layers[number].parameters
        if held >= size:
            found.append([])
            held = 0
    if not found[-1]:
        found.pop()
    elif len(found) > 1 and held == 0:
        # Layers without parameters: nothing to be sent.
        found[-2] += found.pop()
    return found


def algorithms(graph: Graph, scheme: Scheme) -> list[str]:
    """Those that are worth trying on a graph."""
    power = graph.accelerators & (graph.accelerators - 1) == 0
    if graph.name in ("fat-tree", "switch"):
        # Full bisection: as few rounds as possible, unless they do not come out even.
        return ["halving"] if power else ["ring", "halving"]
    if graph.name == "dragonfly":
        return ["ring", "halving"]
    if scheme.exchange == "sparse":
        return ["halving"] if power and graph.name in ("hypercube", "fully-connected") else ["ring"]
    if graph.name == "fully-connected":
        return ["direct"]
    return ["ring", "grid"] if len(graph.grid) > 1 else ["ring"]


def exchange(graph: Graph, scheme: Scheme, layers: list[Layer], algorithm: str,
             settings: Settings) -> list[Callable[[], Schedule]]:
    """The collectives that a bucket takes, one after the other."""
    n = graph.accelerators
    traffic = scheme.traffic(layers, n)
    if scheme.exchange == "all-reduce":
        return [lambda: all_reduce(algorithm, graph, traffic.values)]
    if scheme.exchange == "all-gather":
        sizes = np.full(n, traffic.packet)
        if settings.spread:
            rng = np.random.default_rng([settings.seed, sum(y.parameters for y in layers)])
            sizes *= np.clip(rng.normal(1, settings.spread, n), 0.1, None)
        return [lambda: all_gather(algorithm, graph, sizes)]
    if scheme.exchange == "leader":
        return [lambda: broadcast("halving", graph, traffic.packet),
                lambda: all_reduce(algorithm, graph, traffic.values)]
    return [lambda: sparse_reduce(algorithm, graph, scheme.union_bytes(layers, n))]


def simulate_step(graph: Graph, network: Network, batch: float, scheme: Scheme,
                  settings: Settings | None = None, algorithm: str = "best", *,
                  times: Times | None = None) -> Step:
    """A step of all the graph's accelerators.

    Parameters
    ----------
    batch
        Samples a chip, from 1 on.
    algorithm
        One of `algorithms`, or the best of them on the largest bucket.
    times
        Of a chip's computation; otherwise by `compute.step_times`.

    Raises ValueError for settings that are out of range and algorithms that are not known.
    """
    settings = settings or Settings()
    times = times or step_times(network, batch, settings.tflops)
    groups = buckets(network, settings.bucket_bytes)
    if graph.accelerators == 1:
        compute = times.forward + times.backward
        return Step(compute, compute, 0.0, 0.0, 0.0, 0.0, "none", 0.0,
                    np.zeros(graph.links), 0.0, 0, 0, 0)
    if algorithm == "best":
        algorithm = _best(graph, network, scheme, settings, groups)
    return _Exchange(graph, scheme, settings, algorithm).run(network, times, groups)


def _best(graph: Graph, network: Network, scheme: Scheme, settings: Settings,
          groups: list[list[int]]) -> str:
    found = algorithms(graph, scheme)
    if len(found) == 1:
        return found[0]
    parts = [[network.layers[number] for number in group] for group in groups]
    largest = max(parts, key=lambda layers: sum(layer.parameters for layer in layers))

    def seconds(name: str) -> float:
        return sum(rounds.simulate(graph, make()).seconds
                   for make in exchange(graph, scheme, largest, name, settings))
    return min(found, key=seconds)


class _Exchange:
    """Buckets one after the other over links that are still busy with those before."""

    def __init__(self, graph: Graph, scheme: Scheme, settings: Settings, algorithm: str) -> None:
        self.graph, self.scheme, self.settings = graph, scheme, settings
        self.algorithm = algorithm
        n = graph.accelerators
        self.done = np.zeros(n)
        self.decoded = np.zeros(n)
        self.free: Reals | None = None
        self.results: list[Result] = []
        self.decode = self.busy = 0.0
        self.link_bytes = np.zeros(graph.links)

    def run(self, network: Network, times: Times, groups: list[list[int]]) -> Step:
        hertz = self.settings.core_hertz
        now, encoded, encode, ready = times.forward, 0.0, 0.0, 0.0
        for group in groups:
            for number in group:
                now += times.weight_gradient[number]
                if self.scheme.compresses:
                    spent = (network.layers[number].parameters * self.settings.passes
                             / (self.settings.lanes * hertz))
                    encode += spent
                    encoded = max(encoded, now) + spent
                ready = max(now, encoded)
                now += times.data_gradient[number]
            self._bucket([network.layers[number] for number in group], ready)
        compute = times.forward + times.backward
        seconds = max(compute, float(self.done.max()), float(self.decoded.max()))
        busiest = float((self.link_bytes / self.graph.bandwidth).max())
        return Step(
            seconds, compute, seconds - compute, self.busy, encode, self.decode, self.algorithm,
            float(sum(one.sent.sum() for one in self.results)) / self.graph.accelerators,
            self.link_bytes, busiest / self.busy if self.busy else 0.0,
            sum(one.messages for one in self.results), sum(one.passes for one in self.results),
            sum(one.overtaken for one in self.results))

    def _bucket(self, layers: list[Layer], ready: float) -> None:
        traffic = self.scheme.traffic(layers, self.graph.accelerators)
        if not traffic.packet + traffic.values:
            return
        start = np.maximum(self.done, ready)
        at = start
        learners = self.graph.accelerators if self.scheme.exchange == "all-gather" else 1
        words = traffic.words * learners / self.settings.core_hertz
        for make in exchange(self.graph, self.scheme, layers, self.algorithm, self.settings):
            result = rounds.simulate(self.graph, make(), at, self.free)
            self.results.append(result)
            self.free, at = result.free, result.ready
            self.link_bytes += result.link_bytes
        if self.scheme.exchange != "all-reduce":
            self.decoded = np.maximum(at, np.maximum(start, self.decoded) + words)
            self.decode += words
        self.busy += float(at.max() - start.min())
        self.done = at
