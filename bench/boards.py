"""Bitstreams of boards: area by block, routed clock by seed, and what does not fit, with counts.

Boards that are not named keep the figures that they had. A board whose core does not fit takes one
or two minutes, the OrangeCrab some ten, one with `edge` an hour.
"""

import argparse
import sys
from typing import Any

from record import last, record
from rich.console import Console
from ulpboards.board import Board
from ulpboards.build import blocks, build_board, design, report
from ulpboards.catalogue import BOARDS, find_board
from ulpcore.bitstream import BuildError, synthesise_for
from ulpcore.link.system import SystemConfig


def figures(board: Board, system: SystemConfig, seeds: list[int], console: Console
            ) -> dict[str, Any]:
    """The report of a build; without routed clocks, and with the reason, if there is none."""
    with console.status(board.name) as status:
        def tell(text: str) -> None:
            status.update(f"{board.name}: {text}")

        try:
            return report(board, system, build_board(board, system, seeds=seeds, progress=tell))
        except BuildError as error:
            _, areas = synthesise_for(board.device, design(board, system)[0], "top")
            return {"board": board.name, "device": board.device.title,
                    "config": system.core.name, "memory_bytes": system.memory_bytes,
                    "refused": str(error), "areas": blocks(areas)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("boards", nargs="+", metavar="BOARD", help=", ".join(BOARDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="nextpnr's seeds")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    results = last("boards")
    for name in options.boards:
        board = find_board(name)
        results[name] = figures(board, board.system(), options.seeds, Console(stderr=True))
        record("boards", results, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
