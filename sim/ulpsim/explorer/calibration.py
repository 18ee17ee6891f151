"""Collectives in cycles, to be held against an interconnect in RTL.

Open: nothing has been compared yet. What is to be compared is the collective's cycles from the one
in which all accelerators begin to the one in which the last has its last byte.
"""

import math

from . import events, rounds
from .collectives import all_gather, all_reduce, broadcast
from .topologies import build

__all__ = ["TOPOLOGIES", "collective_cycles"]

#: Those that an interconnect in RTL is to have, of up to 16 accelerators.
TOPOLOGIES = ("ring", "bidirectional-ring", "mesh", "torus")
LARGEST = 16


def collective_cycles(topology: str, n: int, collective: str, algorithm: str,
                      size: float | list[float], *, link_bytes: int, hop_cycles: int,
                      packet_bytes: int | None = None, header_bytes: int = 0) -> int:
    """How many cycles a collective takes.

    Parameters
    ----------
    topology, n
        One of `TOPOLOGIES`, with up to 16 accelerators.
    collective, algorithm
        "all-reduce", "all-gather" or "broadcast", and a name of `collectives`.
    size
        Bytes; for an all-gather those of each accelerator.
    link_bytes
        That a link takes in a cycle.
    hop_cycles
        From a byte's entry into a router to its entry into the next one, without contention.
    packet_bytes, header_bytes
        Largest payload of a packet, and what each costs beside it; without the first, messages are
        packets.

    Raises ValueError for other topologies, sizes and names.
    """
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology must be one of {', '.join(TOPOLOGIES)}, not {topology!r}")
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n must be from 1 to {LARGEST}, not {n!r}")
    graph = build(topology, n, float(link_bytes), float(hop_cycles))

    def framed(payload: float) -> float:
        """Whole packets' share of their headers: exact where messages are whole packets."""
        return payload * (1 + header_bytes / packet_bytes) if packet_bytes else payload

    if collective == "all-gather":
        sizes = [float(size)] * n if isinstance(size, int | float) else size
        schedule = all_gather(algorithm, graph, [framed(one) for one in sizes])
    elif collective in ("all-reduce", "broadcast"):
        if not isinstance(size, int | float):
            raise ValueError(f"{collective} takes one size, not {size!r}")
        make = all_reduce if collective == "all-reduce" else broadcast
        schedule = make(algorithm, graph, framed(size))
    else:
        raise ValueError("collective must be all-reduce, all-gather or broadcast, not "
                         f"{collective!r}")
    found = rounds.simulate(graph, schedule)
    if found.overtaken:
        found = events.simulate(graph, schedule)
    return math.ceil(found.seconds - 1e-9)
