"""The core's registers: one table, for the hardware, for drivers and for the documentation."""

import dataclasses
import enum
from collections.abc import Iterable

from .config import CoreConfig
from .formats import FORWARD_BIAS
from .isa import Segment

__all__ = ["BY_NAME", "CORE_IDENTIFIER", "EXCHANGE_REGISTERS", "REGISTERS", "WATCHDOG_RESET",
           "Access", "Control", "Register", "Status", "constants", "documentation",
           "registers_of", "table"]

CORE_IDENTIFIER = 0x756C7001
WATCHDOG_RESET = 0x00100000


class Access(enum.Enum):
    """What the host can do with a register; a write to a READ one is answered by SLVERR."""

    READ = "read"
    WRITE = "read, write"
    COMMAND = "write, reads as zero"


class Control(enum.IntFlag):
    """Bits of CONTROL."""

    START = 1
    RESET = 2
    CLEAR = 4


class Status(enum.IntFlag):
    """Bits of STATUS."""

    BUSY = 1
    DONE = 2
    FAULT = 4


@dataclasses.dataclass(frozen=True)
class Register:
    """One 32-bit register: `offset` in bytes, the bits that can be written, the reset value."""

    offset: int
    name: str
    access: Access
    meaning: str
    mask: int = 0
    reset: int = 0


_ADDRESS = 0xFFFFFFFC
_WORD = 0xFFFFFFFF

REGISTERS = (
    Register(0x00, "IDENTIFIER", Access.READ, f"{CORE_IDENTIFIER:#010x}, \"ulp\" and the version "
             "of this map"),
    Register(0x04, "CONTROL", Access.COMMAND, "bit 0 starts a run (SLVERR, and nothing else, "
             "while busy); bit 1 stops it, waits for the bus and resets the core but for its "
             "memories and registers; bit 2 clears done, fault and with them the interrupt. "
             "Reads as zero", mask=7),
    Register(0x08, "STATUS", Access.READ, "bit 0 busy; bit 1 done: the last run reached HALT; "
             "bit 2 fault: it stopped, see CAUSE. A start or reset clears done and fault"),
    Register(0x0C, "CAUSE", Access.READ, "why the last run stopped, from the table of causes; 0 if "
             "it reached HALT"),
    Register(0x10, "FAULT_INSTRUCTION", Access.READ, "place in the program of the instruction "
             "that stopped it, 0 for the first"),
    Register(0x14, "INTERRUPT_ENABLE", Access.WRITE, "bit 0: the interrupt is high while done or "
             "fault is set", mask=1),
    Register(0x18, "PROGRAM_ADDRESS", Access.WRITE, "byte address of the program; the bits "
             "below a word of the bus are zero", mask=_ADDRESS),
    Register(0x1C, "PROGRAM_LENGTH", Access.WRITE, "instructions in the program", mask=_WORD),
    Register(0x20, "CYCLES_LOW", Access.READ, "clock cycles of the last run, bits 31:0"),
    Register(0x24, "CYCLES_HIGH", Access.READ, "clock cycles of the last run, bits 63:32"),
    Register(0x28, "WATCHDOG", Access.WRITE, "cycles without an instruction retiring after which "
             "a run stops with WATCHDOG; 0 is never", mask=_WORD, reset=WATCHDOG_RESET),
    Register(0x2C, "FORWARD_BIAS", Access.WRITE, "what is subtracted from the exponents of E4M3 "
             "numbers; not to be written during a run", mask=0xF, reset=FORWARD_BIAS),
    *(register for segment in Segment for register in (
        Register(0x40 + 8 * segment.value, f"SEGMENT_{segment.value}_BASE", Access.WRITE,
                 f"byte address of segment {segment.name}; the bits below a word of the bus are "
                 "zero", mask=_ADDRESS),
        Register(0x44 + 8 * segment.value, f"SEGMENT_{segment.value}_SIZE", Access.WRITE,
                 f"bytes in segment {segment.name}", mask=_WORD))),
    Register(0x80, "ROWS", Access.READ, "`rows` of the core's configuration"),
    Register(0x84, "COLUMN_LANES", Access.READ, "`columns` * `lanes` of the core's configuration"),
    Register(0x88, "FORMATS", Access.READ, "precisions that the core multiplies: bit p for the "
             "precision of code p"),
    Register(0x8C, "SPECIAL_FUNCTIONS", Access.READ, "1 if the core has functions, products, "
             "sources in the scratchpad and row scalars, else 0"),
    Register(0x90, "CONFIGURATION", Access.READ, "a hash of all parameters of the core's "
             "configuration: the same in every core that is built alike"),
)
#: Of cores with an exchange unit, besides.
EXCHANGE_REGISTERS = (
    Register(0x30, "STEP", Access.WRITE, "what steps are counted from in COMPRESS and DECODE",
             mask=0x3FF),
    Register(0x34, "ROUND", Access.WRITE, "what rounds are counted from in COLLECTIVE", mask=0x3F),
    Register(0x38, "EXCHANGE_FAULT", Access.READ, "why an engine failed: bits 3:0 its cause "
             "(docs/compression.md, docs/cluster.md); of a compression 7:4 its detail and 9:8 its "
             "place; 21:12 the learner or node to blame. Until the next start or reset"),
    Register(0x94, "EXCHANGE", Access.READ, "elements that the encoder takes in a cycle"),
    Register(0x98, "NODES", Access.READ, "nodes of the cluster that the core is in"),
)
BY_NAME = {register.name: register for register in (*REGISTERS, *EXCHANGE_REGISTERS)}


def registers_of(config: CoreConfig) -> tuple[Register, ...]:
    """The registers that a core has."""
    return (*REGISTERS, *EXCHANGE_REGISTERS) if config.exchange else REGISTERS


def writable(register: Register, config: CoreConfig) -> int:
    """The bits of a register that can be written: addresses are whole words of the core's bus."""
    return register.mask & -config.bus_bytes if register.mask == _ADDRESS else register.mask


def constants(config: CoreConfig) -> dict[str, int]:
    """The values of the registers that never change in a core."""
    return {
        "IDENTIFIER": CORE_IDENTIFIER,
        "ROWS": config.rows,
        "COLUMN_LANES": config.column_lanes,
        "FORMATS": sum(1 << precision.value for precision in config.formats),
        "SPECIAL_FUNCTIONS": int(config.special_functions),
        **({"EXCHANGE": config.exchange} if config.exchange else {}),
        "CONFIGURATION": config.fingerprint,
    }


def table(registers: Iterable[Register]) -> list[str]:
    """Registers as lines of a table in Markdown."""
    return ["| offset | register | access | reset | meaning |", "|---|---|---|---|---|",
            *(f"| {r.offset:#04x} | {r.name} | {r.access.value} | {r.reset:#x} | {r.meaning} |"
              for r in registers)]


def documentation() -> str:
    """The register map as Markdown, for `docs/registers.md`."""
    from . import cluster_registers

    lines = [
        "# Registers",
        "",
        "Printed by `ulpcore registers` from the table in `sim/ulpsim/registers.py`.",
        "",
        "AXI4-Lite, 32-bit data, 8-bit byte addresses. An access to an address that is not in the "
        "table, or a write to a register that can only be read, is answered by SLVERR. Write "
        "strobes select bytes. Do not write program, segment or watchdog registers during a run.",
        "",
        *table(REGISTERS),
        "",
        "## Of cores with an exchange unit",
        "",
        *table(EXCHANGE_REGISTERS),
        "",
        *cluster_registers.documentation(),
    ]
    return "\n".join(lines) + "\n"
