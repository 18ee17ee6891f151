"""How long MATMUL takes: the execute unit (`ulpcore.execute`) as a recurrence over instructions.

With M vectors of R = `rows` slots (of F times as many, if the columns form F groups),
T = ceil(depth / R) tiles, S = max(M, minimum tile period) and P = max(S, R + 1):

- taken = max(offered, begin of the predecessor's last tile);
- begin of the first tile = max(taken + R + 1, begin of the predecessor's last tile + its S), or,
  if the instruction accumulates from another `accumulator` on than its predecessor, the
  predecessor's M + `accumulate_latency` - 1 instead of its S if that is more;
- begin of the last tile = begin of the first tile + (T - 1) * P;
- the last vector enters the array `VECTOR_LATENCY` + M - 1 cycles after that, and is to be seen in
  the last column's accumulator `finish_latency` cycles later.
"""

from .config import CoreConfig
from .isa import Fold, Instruction

__all__ = ["VECTOR_LATENCY", "Execute", "finish_latency", "tile_period", "vector_slots"]

#: Cycles from the beginning of a tile to its first vector at the array.
VECTOR_LATENCY = 5


def finish_latency(config: CoreConfig) -> int:
    """Cycles from an instruction's last vector at the array until it retires."""
    array = config.rows * config.multiply_add_stages + 1 + config.product_latency
    return array + config.columns - 1 + config.accumulate_latency


def vector_slots(config: CoreConfig, fold: Fold = Fold.ONE) -> int:
    """Slots of K that a vector has."""
    return config.rows * fold.groups


def tile_period(config: CoreConfig, vectors: int, fold: Fold = Fold.ONE) -> int:
    """Cycles from a tile of so many vectors to the next one."""
    return max(vectors, config.minimum_tile_period, vector_slots(config, fold) + 1)


def _vectors(instruction: Instruction) -> int:
    return instruction["count_0"] * instruction["count_1"] * instruction["count_2"]


class Execute:
    """The execute unit.

    Parameters
    ----------
    config
        The core. Raises TypeError if it is not a CoreConfig.
    """

    def __init__(self, config: CoreConfig) -> None:
        if not isinstance(config, CoreConfig):
            raise TypeError(f"config must be a CoreConfig, not {config!r}")
        self.config = config
        #: When the last tile of the instructions so far begins.
        self.begin = 0
        self._free = 0
        self._settled = 0
        self._accumulator = 0

    def feed(self, instruction: Instruction, offered: int) -> tuple[int, int, int]:
        """Cycles in which an instruction is taken, its first and its last tile begin.

        `offered` is the first cycle in which it is valid at the unit. Instructions must be given
        in the order of the queue, and must break no rule.
        """
        config = self.config
        taken = max(offered, self.begin)
        elsewhere = instruction["accumulate"] and instruction["accumulator"] != self._accumulator
        free = max(self._free, self._settled) if elsewhere else self._free
        fold = Fold(instruction["fold"])
        slots = vector_slots(config, fold)
        first = max(taken + slots + 1, free)
        vectors = _vectors(instruction)
        period = tile_period(config, vectors, fold)
        tiles = -(-instruction["depth"] // slots)
        self.begin = first + (tiles - 1) * period
        self._free = self.begin + max(vectors, config.minimum_tile_period)
        self._settled = self.begin + vectors + config.accumulate_latency - 1
        self._accumulator = instruction["accumulator"]
        return taken, first, self.begin

    def take(self, instruction: Instruction, offered: int) -> tuple[int, int]:
        """Cycles in which an instruction is taken and retires; as `feed` otherwise."""
        taken, _, last = self.feed(instruction, offered)
        entered = last + VECTOR_LATENCY + _vectors(instruction) - 1
        return taken, entered + finish_latency(self.config)
