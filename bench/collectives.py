"""Cycles of collectives: the cycle model, which equals the RTL, beside the explorer's simulator.

Chunks of `--bytes` each on rings, meshes and tori of up to 16 nodes, 64-bit flits and buses, a
memory latency of 16 cycles, packets of up to 1024 bytes. The explorer's simulator is set as
`ulpsim.explorer.calibration` has it; per cent is how much more it says.
"""

import argparse
import sys
from typing import Any

from record import record
from rich.progress import track
from ulpsim.explorer.calibration import Engines, collective_cycles, commands
from ulpsim.interconnect.collective import Operation
from ulpsim.interconnect.collective_cycles import CollectiveCycles
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus

TOPOLOGIES: dict[str, Topology] = {
    "ring of 4, one way": Ring(4, one_way=True), "ring of 8, one way": Ring(8, one_way=True),
    "ring of 8": Ring(8), "ring of 16": Ring(16), "mesh 2 x 2": Mesh(2, 2),
    "mesh 4 x 2": Mesh(4, 2), "mesh 4 x 4": Mesh(4, 4), "torus 4 x 2": Torus(4, 2),
    "torus 4 x 4": Torus(4, 4)}
OPERATIONS = (Operation.ALL_GATHER, Operation.ALL_REDUCE, Operation.BROADCAST)


def figures(topology: Topology, operation: Operation, chunk: int) -> dict[str, Any]:
    engines, count = Engines(), len(topology.nodes)
    size = chunk * (count if operation is Operation.ALL_REDUCE else 1)
    model = CollectiveCycles(topology).run(
        [[own] for own in commands(topology, operation, size, engines)]).cycles
    explorer = collective_cycles(topology, operation, size, engines)
    return {"cycles": model, "explorer": round(explorer),
            "percent": round(100 * (explorer / model - 1), 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=4096, help="of a chunk (default: 4096)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    runs = [(name, operation) for name in TOPOLOGIES for operation in OPERATIONS]
    found: dict[str, Any] = {"chunk_bytes": options.bytes}
    for name, operation in track(runs, description="collectives"):
        found.setdefault(name, {})[operation.name.lower()] = figures(
            TOPOLOGIES[name], operation, options.bytes)
    shares = [abs(row["percent"]) for name in TOPOLOGIES for row in found[name].values()]
    found["largest_percent"] = max(shares)
    record("collectives", found, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
