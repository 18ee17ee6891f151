"""Bitstreams for boards: `ulpcore build` and `ulpcore flash`."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from ulpcore.bitstream import Build, BuildError, build_bitstream, write_files
from ulpcore.link.system import System, SystemConfig
from ulpcore.synthesis import Area
from ulpcore.verilog import generate

from .board import Board, Top

__all__ = ["blocks", "build_board", "design", "flash_board", "report", "warnings", "written"]


def design(board: Board, system: SystemConfig, component: wiring.Component | None = None
           ) -> tuple[str, str]:
    """The Verilog of a board's whole design, its top module `top`, and the places of its pins.

    `component`, with the ports `receive` and `transmit`, stands for the `System` if it is given.
    """
    text, _ = generate(component or System(config=system), name="system")
    platform = board.platform()
    family = board.device.family
    plan = platform.prepare(Top(board.pll(system.clock_hz)), "top", toolchain=family.toolchain,
                            debug_verilog=True)
    return f"{text}\n{plan.files['top.debug.v']}", plan.files["top" + family.pins]


def build_board(board: Board, system: SystemConfig, *, seeds: Sequence[int], jobs: int = 1,
                progress: Callable[[str], None] = lambda text: None,
                component: wiring.Component | None = None) -> Build:
    """Everything from the generator to the bitstream; see `design` and `build_bitstream`."""
    progress(f"generating {system.core.name}")
    verilog, pins = design(board, system, component)
    return build_bitstream(board.device, verilog, pins, clock_hz=system.clock_hz, seeds=seeds,
                           jobs=jobs, progress=progress)


def blocks(areas: Mapping[str, Area]) -> dict[str, dict[str, int]]:
    """Of the areas by module those of blocks, for JSON, the largest first."""
    ordered = sorted(areas.items(), key=lambda item: -item[1].comb)
    return {name.split("$")[0]: dataclasses.asdict(area) for name, area in ordered
            if name.count(".") <= 2}


def report(board: Board, system: SystemConfig, build: Build) -> dict[str, Any]:
    """What a build came to, for JSON: sizes, areas by block (largest first), clocks by seed."""
    return {
        "board": board.name, "device": board.device.title, "config": system.core.name,
        "configuration": system.core.fingerprint, "memory_bytes": system.memory_bytes,
        "clock_mhz": system.clock_hz / 1e6, "baud": system.baud,
        "meets_clock": build.best.meets,
        "sizes": dict(zip(("comb", "flip_flops", "multipliers", "block_rams"),
                          board.device.sizes, strict=True)),
        "areas": blocks(build.areas),
        "routed": [dataclasses.asdict(routed) for routed in build.routed]}


def warnings(board: Board, build: Build) -> list[str]:
    """In words, what is wrong with a build."""
    best = build.best
    if best.meets:
        return []
    return [f"the clock of {best.target:g} MHz is missed: the best of {len(build.routed)} seeds "
            f"reaches {best.fmax:g} MHz, so results may be wrong; build with more --seeds, or with "
            f"--clock {int(best.fmax)}. Slowest is the path from {best.path[0]} to {best.path[1]}: "
            f"{best.logic_ns} ns of logic, {best.routing_ns} ns of wires"]


def flash_board(board: Board, bitstream: Path, *, permanent: bool = False) -> None:
    """Load a bitstream into the board, or with `permanent` into its flash memory.

    Raises BuildError when openFPGALoader or the file is missing, or the board does not answer.
    """
    if not bitstream.is_file():
        raise BuildError(f"there is no bitstream {bitstream}: make one with "
                         f"`ulpcore build --board {board.name}`")
    tool = shutil.which("openFPGALoader")
    if tool is None:
        raise BuildError("flashing needs openFPGALoader, which is not on PATH: install your "
                         "system's package openfpgaloader")
    result = subprocess.run(
        [tool, "-b", board.programmer, *(["-f"] if permanent else []), str(bitstream)],
        check=False)
    if result.returncode:
        raise BuildError(f"openFPGALoader could not load {bitstream} (exit code "
                         f"{result.returncode}): check that the {board.title} is plugged in and "
                         "that you may use its USB device")


def written(board: Board, system: SystemConfig, build: Build, folder: Path) -> list[Path]:
    """Write bitstream and report into a folder; their paths."""
    return write_files(build, report(board, system, build),
                       folder / f"{board.name}-{system.core.name}", board.device.family.suffix)
