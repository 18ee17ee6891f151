"""How long SPECIAL takes: four cycles a turn and the length of the pipeline.

A turn takes one vector, or, with more `special_lanes` than a quarter of the outputs, several that
follow each other in the innermost output loop, where the scratchpad's shared port can reach them
all in one access: see `vectors_at_once`.
"""


from .config import CoreConfig
from .formats import Precision
from .isa import Fold, Instruction, Source

__all__ = ["Special", "fold_turns", "special_cycles", "tree_turns", "vectors_at_once",
           "vectors_together"]

#: Cycles of an instruction beyond its turns, if it is taken in the last phase of a turn; and what
#: the pipeline of a core with special functions and that of a reduction add.
_PIPELINE, _FUNCTION_PIPELINE, _REDUCE_PIPELINE = 26, 12, 12
#: Cycles in which the results of two lanes are combined.
_LANES_COMBINED = 5
#: Turns in front of each window when rows are reduced.
_REDUCE_PAUSE = 3
#: The phase of the scratchpad's shared port in which a turn ends.
_END = 2


def fold_turns(config: CoreConfig) -> int:
    """Turns in which the accumulators of groups of columns are added."""
    # They are wanted three turns after their address stands, which is there earlier than needed
    # otherwise.
    return 3 - (2 if not config.has_float else 1 if config.special_functions else 0)


def tree_turns(config: CoreConfig) -> int:
    """Turns in which the results of all lanes are combined until those of two are left."""
    levels = (config.quarter // 2).bit_length() - 1
    return -(-levels * _LANES_COMBINED // config.phases)


def vectors_together(config: CoreConfig, precision: Precision, stride: int) -> int:
    """Vectors of elements, `stride` slots apart, that one access of the shared port can touch.

    There are several if the stride is a power of two and no less than a vector's slots, as many as
    fit the banks: each then lies where one bit of the stride says. Vectors of half a slot come
    alone.
    """
    if (precision in config.halved_formats or stride & (stride - 1)
            or stride < config.column_lanes // precision.per_slot):
        return 1
    return max(1, config.banks // stride)


def vectors_at_once(config: CoreConfig, instruction: Instruction) -> int:
    """Vectors of the innermost output loop that SPECIAL takes in a turn: 1, 2 or 4.

    As many as there are lanes for and as can be reached together, in each of the source, the
    residual and the output that is in the scratchpad; with `reduce` or groups of columns one.
    """
    if instruction["reduce"] or Fold(instruction["fold"]) is not Fold.ONE:
        return 1
    used = {"output": "stride_2"}
    if instruction["residual"]:
        used["residual"] = "residual_stride_2"
    if instruction.choice("source") is Source.ACTIVATIONS:
        used["source"] = "accumulator_stride_2"
    most = min([config.special_vectors, *(
        vectors_together(config, Precision(instruction[f"{name}_precision"]), instruction[stride])
        for name, stride in used.items())])
    return next(count for count in (4, 2, 1) if count <= most)


def special_cycles(config: CoreConfig, instruction: Instruction, phase: int) -> int:
    """Cycles from the one in which an instruction is taken to the one in which it retires.

    `phase` is the phase of the scratchpad's shared port in the cycle in which it is taken.
    """
    rows = instruction["count_0"] * instruction["count_1"]
    outputs = rows * instruction["count_2"]
    turns = (rows * -(-instruction["count_2"] // vectors_at_once(config, instruction))
             * instruction["window_0"] * instruction["window_1"])
    pipeline = _PIPELINE
    if config.special_functions:
        pipeline += _FUNCTION_PIPELINE
        # Source and residual are read one after the other.
        if instruction["residual"] and instruction.choice("source") is Source.ACTIVATIONS:
            turns *= 2
        if instruction["reduce"]:
            turns += _REDUCE_PAUSE * outputs
            pipeline += _REDUCE_PIPELINE + config.phases * tree_turns(config)
    if Fold(instruction["fold"]) is not Fold.ONE:
        pipeline += config.phases * fold_turns(config)
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
