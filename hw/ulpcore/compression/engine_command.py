"""What the compression engine is told, and what it reports."""

from amaranth.lib import data
from ulpsim.compression.engine import EngineCause, Operation, Place

from .lane import FACTOR_BITS, POINT_BITS
from .positions import BIN_BITS

__all__ = ["EngineCommand", "EngineCompletion"]


class EngineCommand(data.Struct):
    """`ulpsim.compression.engine.Command`; `point` is two's complement."""

    operation: Operation
    append: 1
    clear: 1
    exact: 1
    dlfloat16: 1
    choose: 1
    layer: 12
    step: 10
    learner: 10
    last_learner: 10
    elements: 32
    gradient: 32
    residue: 32
    buffer: 32
    capacity: 32
    pitch: 32
    bin_size: BIN_BITS
    factor: FACTOR_BITS
    point: POINT_BITS
    scale: 32


class EngineCompletion(data.Struct):
    """`ulpsim.compression.engine.Completion`."""

    cause: EngineCause
    detail: 4
    place: Place
    layer: 12
    learner: 10
    incomplete: 1
    packets: 32
    bytes: 32
    scale: 32
    mean: 32
