"""Runs programs on the generated core in Verilator, beside an AXI4 memory, through cocotb.

The clock and the memory are Verilog (`harness.v`), so that Python takes part only when a run
starts and when its interrupt comes: the simulation goes at Verilator's own speed.
"""

import dataclasses
import functools
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ulpsim.config import CoreConfig
from ulpsim.formats import FORWARD_BIAS
from ulpsim.isa import Cause, Segment
from ulpsim.registers import WATCHDOG_RESET

from .core import Core
from .simulation import build_cocotb, run_cocotb
from .verilog import generate

__all__ = ["Job", "JobResult", "MemoryModel", "build", "run_jobs"]

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of the core: where the program stands, and the segments that it may touch.

    Addresses and sizes are bytes; `instructions` counts instructions, `watchdog` cycles;
    `forward_bias` is the bias of E4M3. An access
    to the `error` region (first byte, bytes) is answered with `error_response` (2 SLVERR,
    3 DECERR). With `reset_after` the host resets the core that many cycles after the start, if it
    still runs, by its register or, with `reset_pin`, by the reset of core and memory; the cause is
    then NONE. A run that has not ended after `limit` cycles fails the simulation: it hangs.
    """

    program: int
    instructions: int
    segments: Mapping[Segment, tuple[int, int]]
    watchdog: int = WATCHDOG_RESET
    error: tuple[int, int] = (0, 0)
    error_response: int = 2
    reset_after: int | None = None
    reset_pin: bool = False
    limit: int = 50_000_000
    forward_bias: int = FORWARD_BIAS


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What the core reported: the cause (NONE if done), the instruction it names, the cycles."""

    cause: Cause
    instruction: int
    cycles: int


@dataclasses.dataclass(frozen=True)
class MemoryModel:
    """The memory's behaviour: see `memory.v` for its exact timing.

    `latency` is in cycles. With a `stall_seed` every channel stalls at random.
    """

    latency: int = 16
    stall_seed: int | None = None


def run_jobs(config: CoreConfig, memory: np.ndarray, jobs: Sequence[Job], *,
             model: MemoryModel | None = None,
             progress: Callable[[int], None] = lambda more: None,
             extra: Mapping[str, str] | None = None, plusargs: Sequence[str] = ()
             ) -> tuple[list[JobResult], np.ndarray]:
    """Run jobs one after another on one core.

    Parameters
    ----------
    memory
        What external memory holds at the start: uint8, a multiple of the bus width, from address 0.
        An access beyond its end is answered with DECERR.
    progress
        Called with how many jobs have finished since the last call, from another thread.
    extra, plusargs
        More Verilog for the simulation, texts by file name, and arguments for it.

    Returns the results and what the memory holds at the end. Raises SimulationError when the
    simulation itself fails, a job hangs, or the core's registers contradict each other.
    """
    model = model or MemoryModel()
    if memory.dtype != np.uint8 or memory.ndim != 1 or len(memory) % config.bus_bytes:
        raise ValueError("memory must be a vector of uint8 whose length is a multiple of "
                         f"{config.bus_bytes}, not {memory.dtype} of shape {memory.shape}")
    simulation = build(config, tuple((extra or {}).items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = memory.view("<u4")
        (folder / "memory.hex").write_text("\n".join(f"{word:x}" for word in words) + "\n")
        (folder / "jobs.json").write_text(json.dumps([
            {**dataclasses.asdict(job),
             "segments": {s.name: list(job.segments.get(s, (0, 0))) for s in Segment}}
            for job in jobs]))
        plusargs = [f"+words={len(words)}", f"+latency={model.latency}",
                    f"+stall_seed={model.stall_seed or 0}", *plusargs]
        finished = threading.Event()
        watcher = threading.Thread(target=_watch, args=(folder, finished, progress))
        watcher.start()
        try:
            run_cocotb(simulation, top="harness", module="ulpcore.host", plusargs=plusargs,
                       folder=folder, environment={"ULPCORE_JOBS": str(folder)})
        finally:
            finished.set()
            watcher.join()
        results = [JobResult(Cause(cause), instruction, cycles) for cause, instruction, cycles
                   in json.loads((folder / "results.json").read_text())]
        final = np.array([int(word, 16) for word in
                          (folder / "final.hex").read_text().split()
                          if not word.startswith(("//", "@"))], dtype="<u4")
    return results, final.view(np.uint8)


@functools.lru_cache
def build(config: CoreConfig, extra: tuple[tuple[str, str], ...] = ()) -> Path:
    """Generate the core and build it with its harness, and with `extra` Verilog by file name
    (cached); the folder of the model."""
    text, elements = generate(Core(config=config), name="core")
    sources = {"core.v": text,
               **{name: (_HERE / name).read_text() for name in ("memory.v", "harness.v")},
               **dict(extra)}
    return build_cocotb(sources, top="harness", elements=elements, timing=True, public=False,
                        parameters={"BUS_BYTES": config.bus_bytes})


def _watch(folder: Path, finished: threading.Event, progress: Callable[[int], None]) -> None:
    seen = 0
    while not finished.wait(0.25):
        path = folder / "progress"
        count = os.path.getsize(path) if path.exists() else 0
        if count != seen:
            progress(count - seen)
            seen = count
    path = folder / "progress"
    count = os.path.getsize(path) if path.exists() else 0
    if count != seen:
        progress(count - seen)
