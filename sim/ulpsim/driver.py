"""The host's side: place a compiled network in external memory, run images, read the results.

`Driver` speaks to a core through a `Bus`: its registers and the external memory that both see.
`ModelBus` is one whose core is the interpreter; one for a board needs the same four methods.

    driver = Driver(ModelBus(EDGE, 1 << 20), compile_network(network, EDGE))
    codes = driver.run(images)
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .compiler import Compiled
from .config import CoreConfig
from .interpreter import Machine, Result
from .isa import INSTRUCTION_BYTES, MOST_INSTRUCTIONS, Cause, Segment, encode_program
from .registers import BY_NAME, WATCHDOG_RESET, Access, Control, Status, constants, registers_of
from .training import CompiledTraining

__all__ = ["Bus", "CoreError", "Driver", "ModelBus", "Placement", "place"]

#: Regions of external memory begin at multiples of this many bytes, if nothing else is said.
_ALIGNMENT = 4096


class CoreError(RuntimeError):
    """The core stopped: `cause` says why, `index` names the instruction."""

    def __init__(self, cause: Cause, index: int, text: str) -> None:
        super().__init__(f"the core stopped with {cause.name} at instruction {index}: {text}")
        self.cause = cause
        self.index = index


class Bus(Protocol):
    """What a host can reach. Register offsets and memory addresses are bytes."""

    def read_register(self, offset: int) -> int: ...

    def write_register(self, offset: int, value: int) -> None: ...

    def read_memory(self, address: int, size: int) -> bytes: ...

    def write_memory(self, address: int, data: bytes) -> None: ...


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a compiled network stands: the program's address, the segments, and the first byte
    after them."""

    program: int
    segments: dict[Segment, tuple[int, int]]
    end: int


def place(compiled: Compiled | CompiledTraining, base: int = 0,
          alignment: int = _ALIGNMENT) -> Placement:
    """Regions for the program and for each segment, one after the other from `base` on, each at a
    multiple of `alignment`, which a beat of the bus must divide.

    Raises ValueError if `base` is no multiple of it.
    """
    if base % alignment:
        raise ValueError(f"base must be a multiple of {alignment}, not {base}")
    segments, end = {}, base + len(compiled.program) * INSTRUCTION_BYTES
    for segment, size in compiled.segment_bytes.items():
        end = -(-end // alignment) * alignment
        segments[segment] = end, size
        end += size
    return Placement(base, segments, end)


class Driver:
    """Runs one compiled network on one core.

    Parameters
    ----------
    bus
        The core. Its identifier, shape, formats and functions must be those of `compiled.config`.
    compiled
        What to run. Program and parameters are written to external memory at once.
    base
        First byte of the external memory to be used.
    wait
        Called again and again while the core is busy, for a host that has better things to do.
    alignment
        As `place`'s.

    `cycles` holds the clock cycles of the last run of the program. Raises ValueError if the core
    is another one.
    """

    def __init__(self, bus: Bus, compiled: Compiled, base: int = 0,
                 wait: Callable[[], None] = lambda: None, alignment: int = _ALIGNMENT) -> None:
        self.bus, self.compiled, self.wait = bus, compiled, wait
        self.placement = place(compiled, base, alignment)
        self.cycles = 0
        for name, expected in constants(compiled.config).items():
            found = bus.read_register(BY_NAME[name].offset)
            if found != expected:
                raise ValueError(f"register {name} of the core must hold {expected:#x}, as the "
                                 f"network was compiled for {compiled.config.name!r}, "
                                 f"not {found:#x}")
        bus.write_memory(self.placement.program, encode_program(compiled.program))
        bus.write_memory(self.placement.segments[Segment.PARAMETERS][0], compiled.parameters)

    def run(self, images: ArrayLike) -> NDArray[np.int64]:
        """Codes of the output [images, height, width, channels] for any number of images.

        Images are taken as by `Compiled.pack_input`. Raises CoreError if the core stops.
        """
        array = np.asarray(images)
        results = [self._run(array[first:first + self.compiled.batch])
                   for first in range(0, max(1, len(array)), self.compiled.batch)]
        return np.concatenate(results)[:len(array)]

    def _write(self, name: str, value: int) -> None:
        self.bus.write_register(BY_NAME[name].offset, value)

    def _read(self, name: str) -> int:
        return self.bus.read_register(BY_NAME[name].offset)

    def _run(self, images: NDArray) -> NDArray[np.int64]:
        """One run of the program."""
        segments = self.placement.segments
        self.bus.write_memory(segments[Segment.INPUT][0], self.compiled.pack_input(images))
        self._write("PROGRAM_ADDRESS", self.placement.program)
        self._write("PROGRAM_LENGTH", len(self.compiled.program))
        for segment, (address, size) in segments.items():
            self._write(f"SEGMENT_{segment.value}_BASE", address)
            self._write(f"SEGMENT_{segment.value}_SIZE", size)
        self._write("FORWARD_BIAS", self.compiled.forward_bias)
        self._write("CONTROL", Control.CLEAR)
        self._write("CONTROL", Control.START)
        while not (status := self._read("STATUS")) & (Status.DONE | Status.FAULT):
            self.wait()
        self.cycles = self._read("CYCLES_LOW") | self._read("CYCLES_HIGH") << 32
        if status & Status.FAULT:
            cause, index = Cause(self._read("CAUSE")), self._read("FAULT_INSTRUCTION")
            self._write("CONTROL", Control.RESET | Control.CLEAR)
            program = self.compiled.program
            raise CoreError(cause, index, str(program[index]) if index < len(program) else "")
        return self.compiled.unpack_output(self.bus.read_memory(*segments[Segment.OUTPUT]))


class ModelBus:
    """A `Bus` to the interpreter, with `memory_bytes` of external memory from address 0.

    A run is over as soon as it is started, and takes no cycles. An access that the core answers
    with an error raises ValueError.
    """

    def __init__(self, config: CoreConfig, memory_bytes: int) -> None:
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.machine = Machine(config, self.memory)
        registers = registers_of(config)
        self.values = {**{register.name: register.reset for register in registers},
                       **constants(config), "WATCHDOG": WATCHDOG_RESET}
        self._names = {register.offset: register.name for register in registers}

    def _name(self, offset: int) -> str:
        if offset not in self._names:
            raise ValueError(f"offset must be that of a register, not {offset:#x}")
        return self._names[offset]

    def read_register(self, offset: int) -> int:
        name = self._name(offset)
        return 0 if BY_NAME[name].access is Access.COMMAND else self.values[name]

    def write_register(self, offset: int, value: int) -> None:
        name = self._name(offset)
        if BY_NAME[name].access is Access.READ:
            raise ValueError(f"register {name} can only be read")
        self.values[name] = value & BY_NAME[name].mask
        if name != "CONTROL":
            return
        if value & (Control.CLEAR | Control.RESET | Control.START):
            self.values["STATUS"] = 0
        if value & Control.START:
            self._finish(self._start())

    def _start(self) -> Result:
        values = self.values
        self.machine.segments = {
            segment: (values[f"SEGMENT_{segment.value}_BASE"],
                      values[f"SEGMENT_{segment.value}_SIZE"]) for segment in Segment}
        self.machine.forward_bias = values["FORWARD_BIAS"]
        if self.machine.config.exchange:
            self.machine.step_register = values["STEP"]
            self.machine.round_register = values["ROUND"]
        size = values["PROGRAM_LENGTH"] * INSTRUCTION_BYTES
        if not 0 < size <= MOST_INSTRUCTIONS * INSTRUCTION_BYTES:
            return Result(Cause.PROGRAM_LENGTH, 0)
        first = values["PROGRAM_ADDRESS"]
        if first + size > len(self.memory):
            return Result(Cause.BUS_DECODE_ERROR, 0)
        return self.machine.run(self.memory[first:first + size].tobytes())

    def _finish(self, result: Result) -> None:
        failed = result.cause is not Cause.NONE
        self.values |= {"STATUS": Status.FAULT if failed else Status.DONE,
                        "CAUSE": result.cause.value, "FAULT_INSTRUCTION": result.index}
        if self.machine.config.exchange:
            self.values["EXCHANGE_FAULT"] = self.machine.exchange_fault

    def read_memory(self, address: int, size: int) -> bytes:
        self._check(address, size)
        return self.memory[address:address + size].tobytes()

    def write_memory(self, address: int, data: bytes) -> None:
        self._check(address, len(data))
        self.memory[address:address + len(data)] = np.frombuffer(data, np.uint8)

    def _check(self, address: int, size: int) -> None:
        if address < 0 or address + size > len(self.memory):
            raise ValueError(f"memory must be accessed within its {len(self.memory)} bytes, "
                             f"not at {address:#x} for {size}")
