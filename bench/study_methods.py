"""What learners send of their gradients in the AdaComp study, and what comes of it.

Every method counts the bytes that one learner sends in a step: an average over learners, of whole
bytes and of everything that a receiver needs. Dense is 4 bytes an element. Where a method has no
packets of its own to be counted, a layer costs the same `FRAME` bytes beside its values.
"""

import dataclasses
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from ulpsim import float32
from ulpsim.compression.learner import Learner

__all__ = ["FRAME", "AdaComp", "Dense", "Method", "OneBit", "Sent", "TernGrad", "TopK"]

Gradients = dict[str, NDArray[np.float32]]

#: Header and CRC of a layer.
FRAME = 16


@dataclasses.dataclass
class Sent:
    """What one step has sent of one layer.

    Attributes
    ----------
    total
        The sum over learners, in their order.
    bytes
        Of one learner, the mean.
    words_a_bin
        Elements sent of a bin, mean over bins and learners; 0 where there are none.
    union
        Elements that any learner sent, as a part of all.
    """

    total: NDArray[np.float32]
    bytes: float
    words_a_bin: float = 0.0
    union: float = 1.0


class Method:
    """Compresses the gradients of learners, (learners, elements) of each layer."""

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        """One step of a layer."""
        # Each method has its own; this class only says what it is given and gives.
        raise NotImplementedError


class Dense(Method):
    """No compression."""

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        return Sent(gradients.sum(0), 4.0 * gradients.shape[1])


class AdaComp(Method):
    """The golden model: every learner's residues, packets as they are sent.

    `bins` are bin sizes of layers; `one_pass` takes the scale of the step before.
    """

    def __init__(self, learners: int, bins: dict[str, int], factor: float,
                 one_pass: bool = False) -> None:
        self.bins = bins
        self.learners = [Learner(i, factor=factor, one_pass=one_pass) for i in range(learners)]
        self.steps: dict[str, int] = defaultdict(int)

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        elements = gradients.shape[1]
        total, union = np.zeros(elements, np.float32), np.zeros(elements, bool)
        size = sent = 0
        for learner, gradient in zip(self.learners, gradients, strict=True):
            learner.step = self.steps[layer]
            kept = learner.layer(layer, gradient, self.bins[layer])
            ours, packets = learner.compress(kept, gradient)
            # As `Round` adds packets; tb/test_adacomp_study.py holds the two together.
            value = np.float32(float32.decode(ours.scale))
            total[ours.positions] += np.where(ours.negative, -value, value)
            union[ours.positions] = True
            size += sum(map(len, packets))
            sent += len(ours.positions)
        self.steps[layer] += 1
        count = len(self.learners)
        bins = -(-elements // self.bins[layer])
        return Sent(total, size / count, sent / (bins * count), float(union.mean()))


class _WithErrors(Method):
    """Methods that add what was not sent to the next gradient."""

    def __init__(self) -> None:
        self.errors: Gradients = {}

    def _given(self, layer: str, gradients: NDArray[np.float32]) -> NDArray[np.float32]:
        return gradients + self.errors.get(layer, np.float32(0))


class TopK(_WithErrors):
    """The largest elements of each layer with error feedback (the core of Y. Lin et al., "Deep
    Gradient Compression", ICLR 2018): a value of 4 bytes and an index of 2 each.

    `rates` say how many, by layer: as many as give that rate.
    """

    def __init__(self, rates: dict[str, float]) -> None:
        super().__init__()
        self.rates = rates

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        given = self._given(layer, gradients)
        elements = given.shape[1]
        count = max(int((4 * elements / self.rates[layer] - FRAME) / 6), 1)
        chosen = np.argpartition(np.abs(given), elements - count, axis=1)[:, elements - count:]
        sent = np.zeros_like(given)
        np.put_along_axis(sent, chosen, np.take_along_axis(given, chosen, 1), 1)
        self.errors[layer] = given - sent
        return Sent(sent.sum(0), FRAME + 6.0 * count, union=float((sent != 0).any(0).mean()))


class OneBit(_WithErrors):
    """Signs with error feedback (F. Seide et al., "1-Bit Stochastic Gradient Descent",
    Interspeech 2014), reconstructed as the mean of a layer's positive and of its negative
    elements."""

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        given = self._given(layer, gradients)
        positive = given >= 0
        count = positive.sum(1, keepdims=True)
        high = (given * positive).sum(1, keepdims=True) / np.maximum(count, 1)
        low = (given * ~positive).sum(1, keepdims=True) / np.maximum(given.shape[1] - count, 1)
        sent = np.where(positive, high, low).astype(np.float32)
        self.errors[layer] = given - sent
        return Sent(sent.sum(0), FRAME + 8.0 + -(-given.shape[1] // 8))


class TernGrad(Method):
    """Signs that are sent at random with the probability |g| / max |g|, of gradients clipped to
    2.5 standard deviations (W. Wen et al., "TernGrad", NIPS 2017): five in a byte, no feedback."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reduce(self, layer: str, gradients: NDArray[np.float32]) -> Sent:
        limit = np.float32(2.5) * gradients.std(1, keepdims=True)
        clipped = np.clip(gradients, -limit, limit)
        magnitude = np.abs(clipped)
        largest = magnitude.max(1, keepdims=True)
        kept = self.rng.random(gradients.shape, np.float32) * largest < magnitude
        sent = np.where(kept, np.sign(clipped) * largest, np.float32(0))
        return Sent(sent.sum(0), FRAME + 4.0 + -(-gradients.shape[1] // 5),
                    union=float((sent != 0).any(0).mean()))
