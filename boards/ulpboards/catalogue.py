"""The boards that there are, by name."""

from .board import Board
from .ecpix5 import ECPIX5
from .icebreaker import ICEBREAKER
from .orangecrab import ORANGECRAB
from .tang_nano_9k import TANG_NANO_9K
from .tang_nano_20k import TANG_NANO_20K
from .ulx3s import ULX3S

__all__ = ["BOARDS", "find_board"]

BOARDS = {board.name: board for board in
          (ULX3S, ECPIX5, ORANGECRAB, ICEBREAKER, TANG_NANO_9K, TANG_NANO_20K)}


def find_board(name: str) -> Board:
    """ValueError, with the names that there are, if there is none of this name."""
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]
