"""A board in simulation: core, memory and link in Verilator, the UART a pseudo-terminal."""

import dataclasses
import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from amaranth.lib import wiring

from ..simulation import SimulationError, build_driver
from ..verilog import generate
from .system import System, SystemConfig

__all__ = ["SimulatedBoard", "build_board"]

#: Cycles a bit: the fewest, since every one is simulated.
DIVISOR = 4


def build_board(component: wiring.Component) -> Path:
    """The simulation of a component with the ports `receive` and `transmit` (cached)."""
    text, elements = generate(component, name="top")
    driver = (Path(__file__).parent / "simulated_board.cpp").read_text()
    return build_driver(text, driver, elements)


@functools.cache
def _build_system(config: SystemConfig) -> Path:
    return build_board(System(config=config))


class SimulatedBoard:
    """A running simulation of a board; a context manager.

    Parameters
    ----------
    config
        The board. Its UART runs at a quarter of the clock, whatever `config.baud` is.
    one_damaged_of
        So many bytes, at random, in either direction: changed, lost, doubled, or one from nowhere.
        0 for none.
    seed
        Of the damage.
    unplug_after
        Bytes in both directions after which the board is gone; 0 for never.
    component
        What is simulated, with the ports `receive` and `transmit`, instead of a whole `System`.

    Attributes
    ----------
    port
        Name of the terminal that is the board's serial port.

    Raises SimulationError if the simulation cannot be built or started.
    """

    def __init__(self, config: SystemConfig, *, one_damaged_of: int = 0, seed: int = 1,
                 unplug_after: int = 0, component: wiring.Component | None = None) -> None:
        self.config = dataclasses.replace(config, baud=config.clock_hz // DIVISOR)
        binary = build_board(component) if component else _build_system(self.config)
        self._folder = tempfile.TemporaryDirectory()
        self._faults = Path(self._folder.name) / "faults.json"
        # The simulation ends with this process: its standard input is then closed.
        self._process = subprocess.Popen(
            [binary, str(DIVISOR), str(one_damaged_of), str(seed), str(unplug_after), self._faults],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        if not self.port:
            self.close()
            raise SimulationError("the simulated board could not open a pseudo-terminal")

    def wait(self) -> None:
        """Until the simulation ends: the board is unplugged."""
        self._process.wait()

    def close(self) -> dict[str, int]:
        """End the simulation; the bytes that passed, and the faults of each kind."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        counts = json.loads(self._faults.read_text()) if self._faults.exists() else {}
        self._folder.cleanup()
        return counts

    @property
    def running(self) -> bool:
        return self._process.poll() is None and os.path.exists(self.port)

    def __enter__(self) -> "SimulatedBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._process.poll() is None or self._faults.exists():
            self.close()
