"""ScaleCom's CLT-k: all learners send the elements that one of them, the leader, has chosen.

C.-Y. Chen et al., "ScaleCom: Scalable Sparsified Gradient Compression for Communication-Efficient
Distributed Training", NeurIPS 2020 (section 3: cyclic local top-k; equation of the low-pass memory;
section 4: selection in chunks). AdaComp's learners each send elements of their own, so what a
learner receives grows with their number; here the values of one set of elements are summed on the
way, and the volume stays as it is.

At step t, with n learners, memory m and gradient g of each:

    leader   = t mod n
    chosen   = in every chunk, the `top` elements of the leader's |m + g| that are largest
    sent     = m + g at the chosen elements, of every learner
    result   = sum over the learners, in their order, of what they sent
    m        = (1 - b) m + b (m + g - sent)

Arithmetic is FP32 (`ulpsim.float32`), every operation rounded: m + g; the sums; and the memory as
m + (b g) where nothing is sent, as (1 - b) m where something is, which are what the last line comes
to, with 1 - b rounded once. With b = 1 nothing is lost but by rounding; a smaller b, about 0.1, is
a low-pass filter against the noise of large batches. Of equal magnitudes the first is chosen; zeros
never are. A gradient that is NaN-Inf counts as zero and is reported.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .. import float32

__all__ = ["LowPass", "Reduced", "leader", "reduce", "reduce_array", "volume_bytes"]

_SIGN = 1 << 31
_INDEX_BITS = 14


@dataclasses.dataclass(frozen=True)
class LowPass:
    """How a layer is reduced: `top` elements of every `chunk`, memory with the factor b = `keep`.

    Raises ValueError for a chunk that is not from 1 to 16384, a `top` not from 1 to `chunk`, a
    `keep` that is not above 0 and at most 1.
    """

    chunk: int = 100
    top: int = 1
    keep: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.chunk, int) or not 1 <= self.chunk <= 1 << _INDEX_BITS:
            raise ValueError(f"chunk must be an integer from 1 to {1 << _INDEX_BITS}, not "
                             f"{self.chunk!r}")
        if not isinstance(self.top, int) or not 1 <= self.top <= self.chunk:
            raise ValueError(f"top must be an integer from 1 to the chunk's {self.chunk}, not "
                             f"{self.top!r}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {self.keep!r}")

    @property
    def factors(self) -> tuple[int, int]:
        """FP32 bits of b and of 1 - b."""
        b = float32.encode(self.keep)
        value = float32.decode_exact(b)
        assert value is not None
        return b, float32.round_exact(Fraction(1) - value)


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What a step comes to, all FP32 bits.

    Attributes
    ----------
    positions
        The chosen elements, ascending.
    values
        Their sums over the learners.
    memories
        Of each learner, (learners, elements).
    refused
        How many gradients were NaN-Inf.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.uint32]
    memories: NDArray[np.uint32]
    refused: int


def leader(step: int, learners: int) -> int:
    """Who chooses in a step."""
    return step % learners


def reduce(memories: Sequence[Sequence[int]], gradients: Sequence[Sequence[int]],
           settings: LowPass, step: int) -> Reduced:
    """One step of one layer, as the paper has it: memories and gradients of all learners in FP32
    bits. Raises ValueError if they are not of one length, at least 1."""
    learners, elements = _check(np.shape(memories), np.shape(gradients))
    b, rest = settings.factors
    refused = 0
    taken = []
    for one in gradients:
        finite = [0 if float32.decode_exact(g) is None else g for g in one]
        refused += sum(float32.decode_exact(g) is None for g in one)
        taken.append(finite)
    sums = [[float32.add(m, g) for m, g in zip(memory, gradient, strict=True)]
            for memory, gradient in zip(memories, taken, strict=True)]

    chosen = []
    of_leader = sums[leader(step, learners)]
    for first in range(0, elements, settings.chunk):
        chunk = range(first, min(first + settings.chunk, elements))
        largest = sorted(chunk, key=lambda j: (-(of_leader[j] & ~_SIGN), j))[:settings.top]
        chosen += sorted(j for j in largest if of_leader[j] & ~_SIGN)

    values = []
    for j in chosen:
        total = sums[0][j]
        for one in sums[1:]:
            total = float32.add(total, one[j])
        values.append(total)
    sent = set(chosen)
    left = [[float32.multiply(rest, m) if j in sent else float32.add(m, float32.multiply(b, g))
             for j, (m, g) in enumerate(zip(memory, gradient, strict=True))]
            for memory, gradient in zip(memories, taken, strict=True)]
    return Reduced(np.array(chosen, np.int64), np.array(values, np.uint32),
                   np.array(left, np.uint32), refused)


def reduce_array(memories: NDArray[np.uint32], gradients: NDArray[np.uint32], settings: LowPass,
                 step: int) -> Reduced:
    """`reduce` for arrays of FP32 bits, (learners, elements)."""
    learners, elements = _check(memories.shape, gradients.shape)
    m, g = float32.to_values(memories), float32.to_values(gradients)
    bad = np.isnan(g)
    g[bad] = 0
    sums = float32.add_values(m, g)
    magnitude = float32.from_values(sums[leader(step, learners)]) & np.uint32(_SIGN - 1)
    whole = -(-elements // settings.chunk) * settings.chunk
    padded = np.zeros(whole, np.int64)
    padded[:elements] = magnitude
    order = np.argsort(-padded.reshape(-1, settings.chunk), axis=1, kind="stable")
    order = order[:, :settings.top]
    positions = np.sort((order + np.arange(len(order))[:, None] * settings.chunk).ravel())
    positions = positions[padded[positions] > 0]

    values = sums[0, positions]
    for one in sums[1:]:
        values = float32.add_values(values, one[positions])
    b, rest = (np.array([x], np.uint32).view(np.float32) for x in settings.factors)
    left = float32.add_values(m, float32.multiply_values(b, g))
    left[:, positions] = float32.multiply_values(rest, m[:, positions])
    return Reduced(positions, float32.from_values(values), float32.from_values(left),
                   int(np.count_nonzero(bad)))


def _check(memories: tuple[int, ...], gradients: tuple[int, ...]) -> tuple[int, int]:
    if memories != gradients or len(memories) != 2 or 0 in memories:
        raise ValueError("memories and gradients must have one shape (learners, elements), neither "
                         f"0, not {memories} and {gradients}")
    return memories[0], memories[1]


def volume_bytes(elements: int, settings: LowPass) -> int:
    """Bytes that a learner sends or receives in a step at most: FP32 values, and 16-bit indices
    from the leader, whatever the number of learners."""
    chunks, rest = divmod(elements, settings.chunk)
    return 6 * (chunks * settings.top + min(rest, settings.top))
