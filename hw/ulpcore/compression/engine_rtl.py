"""Commands through the compression engine's RTL, beside the AXI4 memory of `memory.v`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from amaranth.hdl import Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from numpy.typing import NDArray
from ulpsim.compression.adacomp import LARGEST_BIN
from ulpsim.compression.engine import Command, Completion, EngineCause, Place

from ..memory import MEMORY_SOURCE, simulated_memory
from ..simulation import SimulationError
from ..streams import StreamModel
from .engine import CompressionEngine
from .engine_command import EngineCommand, EngineCompletion

__all__ = ["EngineRun", "command_row", "completion_of", "run_engine"]

#: Words of the memory that is built; a run uses as many of them as it has.
_WORDS = 1 << 20
#: Cycles in which a command may move no stream: longer than any takes here.
_QUIET = 1 << 18


class EngineBench(wiring.Component):
    """An engine beside the memory."""

    def __init__(self, **options: int) -> None:
        self.engine = CompressionEngine(**options)
        members = self.engine.signature.members
        super().__init__({"commands": members["commands"], "completions": members["completions"],
                          "finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        for name in ("commands", "completions"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(engine, name))
        m.submodules.memory = simulated_memory(
            engine.read, engine.write, dump=self.finish, WORDS=_WORDS, BUS_BYTES=engine.bus_bytes)
        return m


@dataclasses.dataclass(frozen=True)
class EngineRun:
    """Reports, what memory holds at the end, and the cycles from each command to its report."""

    completions: list[Completion]
    memory: NDArray[np.uint8]
    cycles: list[int]


@functools.cache
def _model(**options: int) -> StreamModel:
    return StreamModel(EngineBench(**options), sources=MEMORY_SOURCE)


def command_row(command: Command) -> NDArray[np.uint32]:
    """A command as a payload of the stream `commands`."""
    shape = EngineCommand.as_shape()
    fields = {name: getattr(command, name) for name, _ in shape}
    fields["point"] &= 0xFF
    bits = Const(fields, shape).as_value().value
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-shape.size // 32))], np.uint32)


def completion_of(row: NDArray[np.uint32]) -> Completion:
    """A payload of the stream `completions`."""
    value = EngineCompletion.from_bits(sum(int(word) << 32 * i for i, word in enumerate(row)))
    fields = {name: int(getattr(value, name)) for name, _ in EngineCompletion.as_shape()}
    return Completion(**fields | {"cause": EngineCause(fields["cause"]),
                                  "place": Place(fields["place"]),
                                  "incomplete": bool(fields["incomplete"])})


def run_engine(memory: NDArray[np.uint8], commands: Sequence[Command], *, lanes: int,
               largest_bin: int = LARGEST_BIN, bus_bytes: int = 4, burst_beats: int = 16,
               outstanding: int = 4, latency: int = 16, stall_seed: int = 0,
               stalls: Mapping[str, float] | None = None,
               error: tuple[int, int, EngineCause] = (0, 0, EngineCause.SLAVE_ERROR)) -> EngineRun:
    """Run commands in Verilator.

    Parameters
    ----------
    memory
        What it holds from address 0 on: uint8, a multiple of 64, up to 4 MB.
    latency, stall_seed
        Of the memory, in cycles; every channel stalls at random if the seed is not 0.
    error
        First byte, bytes, and the cause of accesses to them.

    Raises ValueError for another memory, SimulationError when the simulation fails or a command
    has no end.
    """
    if memory.dtype != np.uint8 or memory.ndim != 1 or len(memory) % 64 \
            or len(memory) > 4 * _WORDS:
        raise ValueError("memory must be a vector of uint8 whose length is a multiple of 64, up "
                         f"to {4 * _WORDS}, not {memory.dtype} of shape {memory.shape}")
    model = _model(lanes=lanes, largest_bin=largest_bin, bus_bytes=bus_bytes,
                   burst_beats=burst_beats, outstanding=outstanding)
    words = memory.view("<u4")
    response = 2 if error[2] is EngineCause.SLAVE_ERROR else 3
    run = model.run(
        {"commands": np.stack([command_row(command) for command in commands])},
        stalls=stalls, seed=stall_seed + 1, quiet=_QUIET,
        plusargs=[f"+words={len(words)}", f"+latency={latency}", f"+stall_seed={stall_seed}",
                  f"+error_first={error[0]}", f"+error_bytes={error[1]}",
                  f"+error_response={response}"],
        files={"memory.hex": "\n".join(f"{word:x}" for word in words).encode()},
        keep=["final.hex"])
    rows = run.outputs["completions"]
    if len(rows) != len(commands):
        raise SimulationError(f"command {len(rows)} of {len(commands)} has no end")
    final = np.array([int(word, 16) for word in run.files["final.hex"].decode().split()
                      if not word.startswith(("//", "@"))], "<u4")
    cycles = run.times["completions"].astype(int) - run.times["commands"].astype(int)
    return EngineRun([completion_of(row) for row in rows], final.view(np.uint8),
                     [int(count) for count in cycles])
