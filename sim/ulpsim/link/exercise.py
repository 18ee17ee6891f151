"""Accesses over a damaged link, compared with what was written."""

import dataclasses
import random

from ..registers import BY_NAME
from .client import LinkBus

__all__ = ["Tally", "exercise"]


@dataclasses.dataclass
class Tally:
    """What came of the accesses."""

    accesses: int = 0
    wrong: int = 0


def exercise(bus: LinkBus, source: random.Random, accesses: int, memory_bytes: int,
             tally: Tally, shadow: bytearray) -> None:
    """Random reads and writes of memory and of registers; each read is compared with `shadow`,
    which holds what memory holds, and with what was last written to the register."""
    scratch, constant = BY_NAME["PROGRAM_LENGTH"].offset, BY_NAME["CONFIGURATION"].offset
    for _ in range(accesses):
        address = source.randrange(memory_bytes)
        size = min(memory_bytes - address, source.choice((1, 3, 4, 8, 30, 64, 200)))
        kind = source.randrange(4)
        if kind == 0:
            data = source.randbytes(size)
            bus.write_memory(address, data)
            shadow[address:address + size] = data
        elif kind == 1:
            tally.wrong += bus.read_memory(address, size) != bytes(shadow[address:address + size])
        elif kind == 2:
            value = source.getrandbits(32)
            bus.write_register(scratch, value)
            tally.wrong += bus.read_register(scratch) != value
        else:
            tally.wrong += bus.read_register(constant) != bus.identity.configuration
        tally.accesses += 1
