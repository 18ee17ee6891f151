"""Faults on a board's serial line: whether an answer is ever wrong, or the link comes to a stand.

The board's end of the link, its registers and its memory run in Verilator behind a pseudo-terminal;
the host's end is the driver's own. Of the bytes in either direction, frames and answers alike, one
of `--one-of` is changed, lost, doubled or followed upon one from nowhere, until there were as many
faults as asked for. Each read is compared with what was written.
"""

import argparse
import random
import sys

from record import record
from rich.console import Console
from ulpboards.catalogue import find_board
from ulpboards.serial_port import open_port
from ulpcore.link.coreless import Coreless
from ulpcore.link.simulated_board import DIVISOR, SimulatedBoard
from ulpcore.link.system import SystemConfig
from ulpsim.config import NANO
from ulpsim.link.client import LinkBus, LinkError
from ulpsim.link.exercise import Tally, exercise

#: Accesses of one simulation; then the next begins, with another seed.
ACCESSES = 200
MEMORY = 8192
#: Seconds that a request may take, however often it is sent again.
PATIENCE = 60.0


def stretch(seed: int, one_of: int) -> tuple[dict[str, int], Tally, int, int]:
    """Faults by their kinds, accesses, requests sent again, and hangs of one simulation."""
    clock = find_board("ulx3s").clock_hz
    config = SystemConfig(core=NANO, memory_bytes=MEMORY, clock_hz=clock, baud=clock // DIVISOR)
    tally, repeated, hangs = Tally(), 0, 0
    with SimulatedBoard(config, one_damaged_of=one_of, seed=seed,
                        component=Coreless(config=config)) as board, \
            open_port(board.port, config.baud) as transport:
        try:
            bus = LinkBus(transport, timeout=0.03, patience=PATIENCE)
            bus.write_memory(0, bytes(MEMORY))
            exercise(bus, random.Random(seed), ACCESSES, MEMORY, tally, bytearray(MEMORY))
            repeated = bus.repeated
        except LinkError as error:
            print(error, file=sys.stderr)
            hangs = 1
        counts = board.close()
    return counts, tally, repeated, hangs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--one-of", type=int, default=250, metavar="BYTES")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    kinds = ("changed", "lost", "doubled", "invented")
    figures = dict.fromkeys((*kinds, "bytes", "faults", "accesses", "requests_repeated",
                             "wrong_answers", "hangs"), 0)
    seed = options.seed
    with Console(stderr=True).status("") as status:
        while figures["faults"] < options.faults:
            counts, tally, repeated, hangs = stretch(seed, options.one_of)
            for name, more in (*counts.items(), ("accesses", tally.accesses),
                               ("requests_repeated", repeated), ("wrong_answers", tally.wrong),
                               ("hangs", hangs), ("faults", sum(counts[k] for k in kinds))):
                figures[name] += more
            seed += 1
            status.update(f"{figures['faults']} faults, {figures['wrong_answers']} wrong answers, "
                          f"{figures['hangs']} hangs")
    record("link", {"one_damaged_of": options.one_of, "first_seed": options.seed,
                    "simulations": seed - options.seed, **figures}, keep=not options.no_keep)
    return 1 if figures["wrong_answers"] or figures["hangs"] else 0


if __name__ == "__main__":
    sys.exit(main())
