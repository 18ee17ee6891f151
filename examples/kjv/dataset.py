"""The text of the King James Version as numbers of symbols, from the Debian package or the sample.

The text is lower case, a verse a line, without the verses' names. Every 20th chapter is held out
of training; the sample kept beside this file is the beginning of what is held out.
"""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

SAMPLE_FILE = Path(__file__).parent / "sample.txt"
SAMPLE_SIZE = 65536
HELD_OUT = 20

#: The place of a character here is its number.
SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz,:.;?'!()-"


class TextMissingError(FileNotFoundError):
    """The text is not where it was looked for."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was not found. Install the Debian packages that hold the text, "
            "`sudo apt install bible-kjv bible-kjv-text`, or name a file that was written by "
            "`bible -f gen1:1-rev22:21` by --text."
        )


def read_text(path: Path | None = None) -> str:
    """The whole text, each line a verse behind its name: a file, or what `bible` prints."""
    if path is not None:
        if not path.is_file():
            raise TextMissingError(f"file {path}")
        return path.read_text(encoding="ascii")
    if shutil.which("bible") is None:
        raise TextMissingError("the command `bible`")
    command = ["bible", "-f", "gen1:1-rev22:21"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def split(text: str) -> tuple[str, str]:
    """The text for training and the text held out, both of known symbols only."""
    chapters: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.match(r"(\S+\d):\d+ (.*)", line)
        if match is None:
            raise ValueError(f"a line must be a verse behind its name, such as 'Ge1:1 In the', "
                             f"not {line[:40]!r}")
        chapters.setdefault(match[1], []).append(match[2].strip().lower() + "\n")
    parts = ["", ""]
    for number, verses in enumerate(chapters.values()):
        parts[number % HELD_OUT == HELD_OUT - 1] += "".join(verses)
    return parts[0], parts[1]


def encode(text: str) -> np.ndarray:
    """Numbers of symbols (uint8); raises ValueError for a character that is none."""
    try:
        return np.array([SYMBOLS.index(character) for character in text], np.uint8)
    except ValueError:
        unknown = next(c for c in text if c not in SYMBOLS)
        raise ValueError(f"characters must be among {SYMBOLS!r}, not {unknown!r}") from None


def load_sample() -> np.ndarray:
    """The sample of held-out text as numbers of symbols."""
    return encode(SAMPLE_FILE.read_text(encoding="ascii"))
