"""How long SPECIAL takes: four cycles a vector and the length of the pipeline."""

import math

from .config import CoreConfig
from .isa import Instruction

__all__ = ["Special", "special_cycles"]

#: Cycles of an instruction beyond its vectors, if it is taken in the last phase of a turn.
_PIPELINE = 26
#: The phase of the scratchpad's shared port in which a turn ends.
_END = 2


def special_cycles(vectors: int, phase: int) -> int:
    """Cycles from the one in which an instruction is taken to the one in which it retires.

    `vectors` is the product of its counts and window sizes, `phase` the phase of the scratchpad's
    shared port in the cycle in which it is taken.
    """
    phases = CoreConfig.phases
    return _PIPELINE + phases * vectors + (_END - phase) % phases


class Special:
    """The special unit: instructions one after the other."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.free = 0

    def take(self, instruction: Instruction, offered: int) -> tuple[int, int]:
        """Cycles in which an instruction is taken and retires, when offered in `offered`."""
        taken = max(offered, self.free)
        vectors = math.prod(instruction[f"count_{i}"] for i in range(3))
        vectors *= instruction["window_0"] * instruction["window_1"]
        self.free = taken + special_cycles(vectors, taken % self.config.phases)
        return taken, self.free
