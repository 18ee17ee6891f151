"""CLT-k in the arithmetic of AdaComp, as the hardware has it: one learner chooses for all.

`scalecom` is the paper's definition, in FP32. Here gradients and residues are those of `adacomp`,
integers of 32 bits in units of 2^-point, so that

- the leader chooses of each bin what AdaComp would send: with a factor of 1 the element of the
  largest |G|, all of them if there are several; with a larger one those that come near it as well;
- everyone sends G of the chosen elements, whole, and keeps nothing of it: the memory's factor b
  is 1;
- sums over the learners are exact, whatever their order.

The residues of all learners plus what was sent are *equal* to the sum of all gradients taken.

A learner's step is a pass of AdaComp that changes the residue by the gradient alone (`compress`
with `choose`, or of those who do not lead with a scale of zero), and then `Gather`, which takes the
leader's packets and reads the elements that they name.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .adacomp import Gradient, Settings, compress_array, quantise
from .packets import Round
from .scalecom import leader

__all__ = ["Gather", "Reduced", "reduce", "reduce_array"]


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What a step comes to.

    Attributes
    ----------
    positions
        The chosen elements, ascending.
    values
        Their sums over the learners, in units.
    residues
        Of each learner, (learners, elements), in units.
    refused
        How many gradients were not taken.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.int64]
    residues: NDArray[np.int32]
    refused: int


def reduce(residues: Sequence[Sequence[int]], gradients: Sequence[Sequence[int]],
           settings: Settings, step: int) -> Reduced:
    """One step of one layer: residues in units and gradients in FP32 bits, of all learners."""
    learners, elements = _check(np.shape(residues), np.shape(gradients))
    totals, refused = [], 0
    of_leader: list[int] = []
    for number, (residue, gradient) in enumerate(zip(residues, gradients, strict=True)):
        taken = []
        for r, bits in zip(residue, gradient, strict=True):
            w = quantise(bits, settings.point)
            if w is None or not -1 << 31 <= r + w < 1 << 31:
                w, refused = 0, refused + 1
            taken.append(w)
        totals.append([r + w for r, w in zip(residue, taken, strict=True)])
        if number == leader(step, learners):
            of_leader = taken

    leads, before = totals[leader(step, learners)], residues[leader(step, learners)]
    chosen = []
    for first in range(0, elements, settings.bin_size):
        one = range(first, min(first + settings.bin_size, elements))
        largest = max(abs(leads[j]) for j in one)
        chosen += [j for j in one if leads[j] != 0 and
                   abs(before[j] + Fraction(settings.factor) * of_leader[j]) >= largest]
    values = [sum(total[j] for total in totals) for j in chosen]
    sent = set(chosen)
    left = [[0 if j in sent else g for j, g in enumerate(total)] for total in totals]
    return Reduced(np.array(chosen, np.int64), np.array(values, np.int64),
                   np.array(left, np.int32), refused)


def reduce_array(residues: NDArray[np.int32], gradients: Gradient, settings: Settings,
                 step: int) -> Reduced:
    """`reduce` for arrays, (learners, elements)."""
    learners, _ = _check(residues.shape, gradients.shape)
    first = leader(step, learners)
    steps = [compress_array(residue, gradient, settings, None if number == first else 0,
                            choose=number == first)
             for number, (residue, gradient) in enumerate(zip(residues, gradients, strict=True))]
    positions = steps[first].positions
    left = np.stack([one.residue for one in steps])
    values = left[:, positions].sum(axis=0, dtype=np.int64)
    left[:, positions] = 0
    return Reduced(positions, values, left, sum(one.refused for one in steps))


def _check(residues: tuple[int, ...], gradients: tuple[int, ...]) -> tuple[int, int]:
    if residues != gradients or len(residues) != 2 or 0 in residues:
        raise ValueError("residues and gradients must have one shape (learners, elements), neither "
                         f"0, not {residues} and {gradients}")
    return residues[0], residues[1]


class Gather(Round):
    """The receiver of the leader's packets: takes the elements that they name out of a residue.

    Packets are refused as by `Round`, and then leave the residue as it was.

    Parameters
    ----------
    residue
        int32, after the pass that has added the gradient; it is changed in place.
    learner
        The leader.

    Attributes
    ----------
    values
        Of the packets so far, one after another.
    """

    def __init__(self, residue: NDArray[np.int32], *, layer: int, step: int, learner: int) -> None:
        super().__init__(residue.view(np.uint32), layer=layer, step=step, learners=learner + 1)
        self.learner = learner
        self.residue, self.values = residue, np.zeros(0, np.int32)

    def _take(self, positions: NDArray[np.int64], negative: NDArray[np.bool_], scale: int) -> None:
        self.values = np.concatenate([self.values, self.residue[positions]])
        self.residue[positions] = 0
