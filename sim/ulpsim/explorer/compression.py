"""How many bytes learners send, and how many of the elements, by scheme and number of learners.

AdaComp and top-k are as the AdaComp study measured them (`data/rates.json`, written by
`bench/explorer_data.py --rates`; `docs/compression.md` says on what): bytes an element over a whole
training, everything in the packets counted, apart for convolutions and others. Between numbers of
learners that were measured bytes are interpolated over log n, beyond them they stay.

The *union*, elements that any of n learners sends, grows. With a density d of one learner, n who
choose apart reach 1 - (1 - d)^n; learners agree in part, so fewer count: m, with
1 - (1 - d)^m as measured. log m is interpolated over log n, and beyond the last measured number it
goes on as between the last two.

CLT-k sends one element of each bin, which the leader chooses (`compression.cyclic` with a factor of
1): a word of index by the leader, a value of 4 bytes by all. That is what it is defined to send;
how well it trains was not measured here.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .data import load
from .networks import Layer

__all__ = ["SCHEMES", "Scheme", "Traffic", "load_scheme"]

Reals = NDArray[np.float64]
#: Header and CRC of a layer.
FRAME = 16
_BINS = {"convolution": (50, 1), "other": (500, 2)}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of some layers, for n learners.

    Attributes
    ----------
    packet
        Bytes that each learner brings, in an all-gather or of the leader in a broadcast.
    words
        In those packets, which a decoder takes one by one.
    values
        Bytes that are summed up in an all-reduce.
    """

    packet: float
    words: float
    values: float


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to exchange gradients.

    Attributes
    ----------
    name
        As on the command line.
    exchange
        "all-reduce"; "all-gather" of packets; "leader", a broadcast of packets and then an
        all-reduce; "sparse", a reduction whose messages grow with the union.
    measured
        The study's setting; None where bytes are by definition.
    element_bytes
        Of values that are summed up.
    rates
        Fixed rates against 4 bytes an element, for convolutions and others, in place of measured
        ones.
    """

    name: str
    exchange: str
    measured: str | None = None
    element_bytes: float = 4
    rates: tuple[float, float] | None = None

    @property
    def compresses(self) -> bool:
        return self.exchange != "all-reduce"

    def traffic(self, layers: list[Layer], learners: int) -> Traffic:
        """What an exchange of these layers' gradients takes."""
        packet = words = values = 0.0
        for layer in layers:
            elements = layer.parameters
            if not elements:
                continue
            bin_size, word = _BINS[layer.kind]
            if self.exchange == "all-reduce":
                values += elements * self.element_bytes
            elif self.exchange == "leader":
                bins = math.ceil(elements / bin_size)
                packet += bins * word + FRAME
                words += bins
                values += bins * self.element_bytes
            elif self.rates is not None:
                size = 4 * elements / self.rates[layer.kind != "convolution"]
                packet += size
                words += size / word
            else:
                row = self._row(layer.kind, learners)
                packet += elements * row["bytes an element"]
                words += elements * row["density"]
        return Traffic(packet, words, values)

    def union_bytes(self, layers: list[Layer], learners: int) -> Reals:
        """Bytes of a sum over 1, 2, ... `learners`: an index and a value of each element that any
        sent, but never more than all elements without indices."""
        counts = np.arange(1, learners + 1)
        size = np.zeros(learners)
        for kind in _BINS:
            part = self.union(kind, counts) * (self.element_bytes + 2)
            size += (sum(layer.parameters for layer in layers if layer.kind == kind)
                     * np.minimum(part, self.element_bytes))
        return size

    def union(self, kind: str, learners: ArrayLike) -> Reals:
        """The part of elements that any of `learners` sends."""
        found = _measured(self.measured, kind)
        density = found[min(found)]["density"]
        logs = [(0.0, 0.0)] + [(math.log(n), math.log(
            max(1.0, math.log1p(-row["union"]) / math.log1p(-density))))
            for n, row in sorted(found.items()) if n > 1]
        x, y = (np.array(axis) for axis in zip(*logs, strict=True))
        at = np.log(np.asarray(learners, float))
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        count = np.where(at > x[-1], y[-1] + slope * (at - x[-1]), np.interp(at, x, y))
        return -np.expm1(np.exp(count) * math.log1p(-density))

    def _row(self, kind: str, learners: int) -> dict[str, float]:
        found = sorted(_measured(self.measured, kind).items())
        logs = [math.log(n) for n, _ in found]
        return {name: float(np.interp(math.log(learners), logs, [row[name] for _, row in found]))
                for name in ("bytes an element", "density")}


@functools.cache
def _measured(method: str | None, kind: str) -> dict[int, dict[str, float]]:
    return {int(n): row for n, row in load("rates")["methods"][method][kind].items()}


SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (
    Scheme("fp32", "all-reduce"),
    Scheme("fp16", "all-reduce", element_bytes=2),
    Scheme("adacomp", "all-gather", "cnn, adacomp, factor 2.5, bins 50 500"),
    Scheme("adacomp-2", "all-gather", "cnn, adacomp, factor 2, bins 50 500"),
    Scheme("adacomp-paper", "all-gather", rates=(40, 200)),
    Scheme("clt-k", "leader"),
    Scheme("top-k", "sparse", "cnn, topk, rates 60 250"),
)}
"""Dense gradients; AdaComp with the factor that loses next to nothing, with the paper's factor, and
with the paper's headline rates; CLT-k; top-k in sparse sums."""


def load_scheme(name: str) -> Scheme:
    """A scheme by its name; ValueError for one that is not known."""
    if name not in SCHEMES:
        raise ValueError(f"compression must be one of {', '.join(SCHEMES)}, not {name!r}")
    return SCHEMES[name]
