"""A cluster's registers: one table, for the hardware, for hosts and for the documentation.

Addresses have pages of 256 bytes. Page 0 is the table here; page i + 1 are the registers of node
i's core (`registers`). An access to a page that is not there, or to that of a node that is held in
reset, is answered by SLVERR.
"""

from .registers import Access, Register
from .registers import table as table_of

__all__ = ["BY_NAME", "CLUSTER_IDENTIFIER", "CLUSTER_REGISTERS", "MOST_CORES", "PAGE",
           "documentation", "page"]

CLUSTER_IDENTIFIER = 0x636C7501
#: Bytes of a page, and the cores that a cluster can have.
PAGE, MOST_CORES = 256, 16
_CORES = (1 << MOST_CORES) - 1

CLUSTER_REGISTERS = (
    Register(0x00, "IDENTIFIER", Access.READ, f"{CLUSTER_IDENTIFIER:#010x}, \"clu\" and the "
             "version of this map"),
    Register(0x04, "NODES", Access.READ, "nodes"),
    Register(0x08, "BUSY", Access.READ, "bit i: the core of node i is busy"),
    Register(0x0C, "DONE", Access.READ, "bit i: its last run reached HALT"),
    Register(0x10, "FAULT", Access.READ, "bit i: its last run stopped; its page says why"),
    Register(0x14, "CUT", Access.READ, "bit i: node i has not taken what came for it, which is "
             "thrown away until RECONNECT"),
    Register(0x18, "NODE_FAULT", Access.WRITE, "bit i: the guard of node i has reported it since "
             "this bit was cleared, which writing a 1 does", mask=_CORES),
    Register(0x1C, "NODE_CAUSE", Access.READ, "the last report: bits 2:0 why (4 STALLED, 5 RESET, "
             "6 SILENT), 15:8 of which node"),
    Register(0x20, "INTERRUPT_STATUS", Access.READ, "bit i: DONE or FAULT of node i; bit 16 + i: "
             "NODE_FAULT of node i"),
    Register(0x24, "INTERRUPT_ENABLE", Access.WRITE, "the interrupt is high while one of these "
             "bits is set in INTERRUPT_STATUS", mask=0xFFFFFFFF),
    Register(0x28, "RESET", Access.WRITE, "bit i holds node i in reset: core, engines and what it "
             "has begun on memory and network, which is finished without it", mask=_CORES),
    Register(0x2C, "RECONNECT", Access.COMMAND, "bit i connects node i again. Reads as zero",
             mask=_CORES),
)
BY_NAME = {register.name: register for register in CLUSTER_REGISTERS}


def page(node: int) -> int:
    """The address of the registers of a node's core."""
    return PAGE * (node + 1)


def documentation() -> list[str]:
    """The map as lines of Markdown."""
    return [
        "## Of clusters", "",
        f"Pages of {PAGE} bytes. The first one is that of the cluster, page i + 1 that of the core "
        "of node i, as above. An access to a page that is not there, or to that of a node that is "
        "held in reset, is answered by SLVERR. Bits of nodes that are not there are zero.", "",
        *table_of(CLUSTER_REGISTERS)]
