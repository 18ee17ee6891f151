"""Sub-commands about boards: `build`, `flash`, `simulate-board`, and `run --device`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from ulpcore.link.simulated_board import SimulatedBoard
from ulpsim.config import CoreConfig, load_config

from .board import Board
from .build import build_board, flash_board, report, warnings, written
from .catalogue import BOARDS, find_board

__all__ = ["add_build", "add_device", "add_flash", "add_simulate", "build", "flash", "simulate"]


def _add_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME", help=", ".join(BOARDS))


def _add_system(parser: argparse.ArgumentParser) -> None:
    _add_board(parser)
    parser.add_argument("--config", metavar="NAME|FILE.toml",
                        help="the core (default: what the board has room for)")
    parser.add_argument("--memory", type=int, metavar="KB", help="on-chip memory beside the core")
    parser.add_argument("--clock", type=float, metavar="MHZ", help="(default: the board's)")


def _system(options: argparse.Namespace, board: Board):
    core = load_config(options.config) if options.config else None
    return board.system(core, clock_hz=round(options.clock * 1e6) if options.clock else None,
                        memory_bytes=options.memory * 1024 if options.memory else None)


def add_build(parser: argparse.ArgumentParser) -> None:
    _add_system(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1],
                        help="nextpnr's seeds; the fastest is taken (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="seeds tried at a time (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("build"), metavar="FOLDER",
                        help="where bitstream and report go (default: build)")


def add_flash(parser: argparse.ArgumentParser) -> None:
    _add_board(parser)
    parser.add_argument("--config", metavar="NAME|FILE.toml", help="the core that was built")
    parser.add_argument("--bitstream", type=Path, metavar="FILE",
                        help="(default: the one that `ulpcore build` wrote)")
    parser.add_argument("--permanent", action="store_true",
                        help="into the board's flash memory: it is there after power-on")


def add_simulate(parser: argparse.ArgumentParser) -> None:
    _add_system(parser)
    parser.add_argument("--damage", type=int, default=0, metavar="N",
                        help="one of N bytes on the lines is changed, lost or doubled (default: "
                        "none)")
    parser.add_argument("--unplug-after", type=int, default=0, metavar="BYTES",
                        help="the board is gone after so many bytes (default: never)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (default: 1)")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="PORT",
                        help="run on a board at this serial port, not in simulation")
    parser.add_argument("--baud", type=int, default=1_000_000,
                        help="of the board's UART (default: 1000000; docs/boards.md has each "
                        "board's)")


def _told(console: Console, as_json: bool, status: Callable[[str], None]) -> Callable[[str], None]:
    """Progress: a line that changes on a terminal, lines otherwise."""
    if console.is_terminal:
        return status
    last = [""]

    def tell(text: str) -> None:
        # Only what is new in kind: not every count.
        kind = text.split(",")[0]
        if kind != last[0]:
            last[0] = kind
            print(text, file=sys.stderr, flush=True)
    return tell


def build(options: argparse.Namespace) -> int:
    """`ulpcore build`: 0, or 1 when the clock is missed."""
    board = find_board(options.board)
    system = _system(options, board)
    console = Console(stderr=True)
    with console.status("") as status:
        result = build_board(board, system, seeds=options.seeds, jobs=options.jobs,
                             progress=_told(console, options.json, status.update))
    paths = written(board, system, result, options.output)
    summary = {**report(board, system, result), "files": [str(path) for path in paths],
               "warnings": warnings(board, result)}
    if options.json:
        print(json.dumps(summary))
    else:
        _print(summary)
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 1 if summary["warnings"] else 0


def _print(summary: dict) -> None:
    table = Table(title=f"{summary['config']} on {summary['board']} ({summary['device']}), "
                  f"{summary['memory_bytes'] // 1024} KB of memory")
    for heading in ("block", "COMB", "FF", "DSP", "BRAM"):
        table.add_column(heading, justify="left" if heading == "block" else "right")
    blocks = list(summary["areas"].items())
    for name, area in blocks[:24]:
        table.add_row(name, *(str(value) for value in area.values()))
    table.add_section()
    table.add_row("of the device's", *(str(size) for size in summary["sizes"].values()))
    Console(width=None if Console().is_terminal else 120).print(table)
    for routed in summary["routed"]:
        print(f"seed {routed['seed']}: {routed['fmax']} MHz of {routed['target']} wanted")
    print("wrote " + ", ".join(summary["files"]))


def flash(options: argparse.Namespace) -> int:
    board = find_board(options.board)
    core: CoreConfig = load_config(options.config or board.core)
    bitstream = options.bitstream or (
        Path("build") / f"{board.name}-{core.name}{board.device.family.suffix}")
    flash_board(board, bitstream, permanent=options.permanent)
    if options.json:
        print(json.dumps({"board": board.name, "bitstream": str(bitstream)}))
    return 0


def simulate(options: argparse.Namespace) -> int:
    """`ulpcore simulate-board`: prints the port, and goes on until interrupted or unplugged."""
    board = find_board(options.board)
    console = Console(stderr=True)
    with console.status(f"generating and building {board.name}: minutes the first time"):
        simulated = SimulatedBoard(_system(options, board), one_damaged_of=options.damage,
                                   seed=options.seed, unplug_after=options.unplug_after)
    with simulated:
        print(json.dumps({"port": simulated.port}) if options.json else simulated.port, flush=True)
        try:
            simulated.wait()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
    return 0
