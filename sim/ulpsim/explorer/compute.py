"""How long a chip computes: cycles of the core for each product of each layer.

A layer's step is three products (`ulpsim.training`): forward, weight gradient, data gradient; a
convolution's as products of patches: its data gradient has the filter's taps along its sum. Their
cycles on `rapid`, in FP16, come from the cycle model (`data/cycles.json`, written by
`bench/explorer_data.py --cycles`): a program each, all operands in external memory. Products with
more rows, inputs or outputs than `LARGEST` take as many times as long as one of that size.

A chip is a number of such cores, and takes so much less time: its products are taken to be shared
evenly. Batches between those in the table (1, 8, 64) are interpolated; larger ones take as many
times as long as the largest.
"""

import dataclasses
import functools

import numpy as np

from ..config import load_config
from .data import load
from .networks import Layer, Network

__all__ = ["CLOCK_HZ", "Part", "Times", "core_tflops", "products_of", "step_times"]

#: Clock of the core that `rapid` follows.
CLOCK_HZ = 1.5e9
BATCHES = (1, 8, 64)
#: A product with more of these is as many parts of this size, in cycles.
LARGEST = {"rows": 1024, "inputs": 2048, "outputs": 512}


@dataclasses.dataclass(frozen=True)
class Part:
    """A product: its place in the table of cycles, and how many times that it takes."""

    product: str
    key: str
    times: float


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a chip: the forward pass, and weight and data gradient of each layer."""

    forward: float
    weight_gradient: tuple[float, ...]
    data_gradient: tuple[float, ...]

    @property
    def backward(self) -> float:
        return sum(self.weight_gradient) + sum(self.data_gradient)


def core_tflops() -> float:
    """Peak of a core, two operations a multiply-add."""
    config = load_config("rapid")
    return 2 * config.rows * config.column_lanes * CLOCK_HZ / 1e12


def products_of(layer: Layer, batch: int) -> list[Part]:
    """The three products of a layer for a batch; none for a layer that only looks up rows."""
    if layer.rows == 0:
        return []
    rows = layer.rows * batch
    channels = layer.inputs // layer.taps
    # Products of two activations have no weights to be added up over the batch.
    shared = batch if layer.parameters == 0 else 1
    shapes = (("forward", rows // shared, layer.inputs, layer.outputs, layer.steps * shared),
              ("weight_gradient", rows * layer.steps // shared, layer.inputs, layer.outputs,
               shared),
              ("data_gradient", rows // shared, channels, layer.taps * layer.outputs,
               layer.steps * shared))
    parts = []
    for product, *sizes, times in shapes:
        most = [min(size, bound) for size, bound in zip(sizes, LARGEST.values(), strict=True)]
        times *= layer.groups * float(np.prod([size / part for size, part in
                                               zip(sizes, most, strict=True)]))
        parts.append(Part(product, f"{product} {' '.join(map(str, most))}", times))
    return parts


@functools.cache
def _table() -> dict[str, int]:
    return load("cycles")["cycles"]


def step_times(network: Network, batch: float, tflops: float) -> Times:
    """A step of one chip of a peak of `tflops` on a batch of its own, from 1 on.

    Raises ValueError for others.
    """
    if not batch >= 1:
        raise ValueError(f"a chip must have a batch of at least 1, not {batch:g}; use fewer chips "
                         "or a larger batch")
    if not tflops > 0:
        raise ValueError(f"a chip must have more than 0 TFLOPS, not {tflops!r}")
    seconds = core_tflops() / tflops / CLOCK_HZ
    sums: dict[str, list[float]] = {name: [] for name in
                                    ("forward", "weight_gradient", "data_gradient")}
    for layer in network.layers:
        at = [{part.product: part.times * _table()[part.key]
               for part in products_of(layer, known)} for known in BATCHES]
        for product, found in sums.items():
            found.append(_between(batch, [row.get(product, 0.0) for row in at]) * seconds)
    # Nothing is to be handed on in front of the first layer that has weights.
    first = next(number for number, layer in enumerate(network.layers) if layer.rows)
    if network.layers[0].rows:
        sums["data_gradient"][first] = 0.0
    return Times(sum(sums["forward"]), tuple(sums["weight_gradient"]),
                 tuple(sums["data_gradient"]))


def _between(batch: float, cycles: list[float]) -> float:
    """On the line between the two nearest batches; beyond the last one in proportion to it, since
    the line through the last two would go below the peak in the end."""
    if batch > BATCHES[-1]:
        return cycles[-1] * batch / BATCHES[-1]
    upper = 1 if batch <= BATCHES[1] else 2
    low, high = BATCHES[upper - 1], BATCHES[upper]
    share = (batch - low) / (high - low)
    return cycles[upper - 1] + share * (cycles[upper] - cycles[upper - 1])
