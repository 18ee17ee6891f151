"""How long SPECIAL takes: four cycles a turn and the length of the pipeline."""

import math

from .config import CoreConfig
from .isa import Instruction, Source

__all__ = ["Special", "special_cycles", "tree_turns"]

#: Cycles of an instruction beyond its turns, if it is taken in the last phase of a turn; and what
#: the pipeline of a core with special functions and that of a reduction add.
_PIPELINE, _FUNCTION_PIPELINE, _REDUCE_PIPELINE = 26, 12, 12
#: Cycles in which the results of two lanes are combined.
_LANES_COMBINED = 5
#: Turns in front of each window when rows are reduced.
_REDUCE_PAUSE = 3
#: The phase of the scratchpad's shared port in which a turn ends.
_END = 2


def tree_turns(config: CoreConfig) -> int:
    """Turns in which the results of all lanes are combined until those of two are left."""
    levels = (config.special_lanes // 2).bit_length() - 1
    return -(-levels * _LANES_COMBINED // config.phases)


def special_cycles(config: CoreConfig, instruction: Instruction, phase: int) -> int:
    """Cycles from the one in which an instruction is taken to the one in which it retires.

    `phase` is the phase of the scratchpad's shared port in the cycle in which it is taken.
    """
    outputs = math.prod(instruction[f"count_{i}"] for i in range(3))
    turns = outputs * instruction["window_0"] * instruction["window_1"]
    pipeline = _PIPELINE
    if config.special_functions:
        pipeline += _FUNCTION_PIPELINE
        # Source and residual are read one after the other.
        if instruction["residual"] and instruction.choice("source") is Source.ACTIVATIONS:
            turns *= 2
        if instruction["reduce"]:
            turns += _REDUCE_PAUSE * outputs
            pipeline += _REDUCE_PIPELINE + config.phases * tree_turns(config)
    return pipeline + config.phases * turns + (_END - phase) % config.phases


class Special:
    """The special unit: instructions one after the other."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.free = 0

    def take(self, instruction: Instruction, offered: int) -> tuple[int, int]:
        """Cycles in which an instruction is taken and retires, when offered in `offered`."""
        taken = max(offered, self.free)
        self.free = taken + special_cycles(self.config, instruction, taken % self.config.phases)
        return taken, self.free
