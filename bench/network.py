"""Networks under load, by the flit-level model: latency, saturation, speed of the model; with
--packets N so many random packets through the RTL of a ring of 8 and of a 4 x 4 torus.

Packets of four flits unless said otherwise, a buffer of 16 flits for each channel. Saturation is
what comes out at full load, in flits a cycle, beside two bounds: what the links across the middle
carry of uniform traffic, and the one flit a cycle that each terminal can send. A curve has the
mean latency of packets in cycles by the load of a terminal, or nothing where the network cannot
take the load, and the highest throughput at any load. Speed is flit-hops in a second of one
processor, traffic and statistics included.

Of packets in RTL, a few of them multicast, it is counted how many were lost, doubled, misled,
damaged and out of order; every end of every terminal stalls at random, in up to three cycles of
four. This is the only part that needs Verilator, and it is not among those that run by default.

--plot draws the curves that were kept last into docs/network-latency.svg, and nothing else.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import last, record
from rich.progress import Progress
from ulpsim.interconnect.delivery import random_traffic
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus
from ulpsim.interconnect.traffic import (
    HOT,
    Phases,
    bisection_bound,
    full_load,
    measure,
)

PLOT = Path(__file__).parent.parent / "docs" / "network-latency.svg"
PATTERNS = ("uniform", "transpose", "hotspot", "neighbour")
LENGTH = 4
NETWORKS: dict[str, Topology] = {
    "ring of 8, one way": Ring(8, one_way=True),
    "ring of 8": Ring(8),
    "torus 4 x 4": Torus(4, 4),
    "torus 4 x 4, 4 terminals, 4 channels": Torus(4, 4, terminals=4, channels=4),
    "mesh 8 x 8": Mesh(8, 8, channels=2),
    "torus 8 x 8": Torus(8, 8),
    "torus 64 x 64": Torus(64, 64),
}
#: Loads at which latency is measured are so many even steps up to a bound, and the full load.
STEPS = 14
#: On large networks a few loads are enough, one run each.
LARGE = 1000
FEW = {"uniform": (0.03, 0.06, 0.075, 0.09), "transpose": (0.01, 0.02, 0.03),
       "hotspot": (0.001, 0.002), "neighbour": (0.3, 0.6, 0.9)}


def phases(topology: Topology) -> Phases:
    return Phases(500, 500, 500) if len(topology.nodes) > LARGE else Phases(1000, 2000, 1000)


def bound(topology: Topology, pattern: str) -> float:
    """Flits a cycle a terminal that cannot be exceeded, or hardly."""
    if pattern == "neighbour":
        return 1.0
    most = min(1.0, bisection_bound(topology) / (2 if topology.one_way else 1))
    return min(most, 1 / (HOT * len(topology.nodes))) if pattern == "hotspot" else most


def curve(topology: Topology, pattern: str) -> dict[str, Any]:
    """Latency by load, and the highest throughput at any of them or at full load."""
    if len(topology.nodes) > LARGE:
        points = [measure(topology, pattern, [load], LENGTH, phases=phases(topology)).points[0]
                  for load in FEW[pattern]]
    else:
        most = bound(topology, pattern)
        loads = [round(most * step / STEPS, 4) for step in range(1, STEPS + 1)]
        points = measure(topology, pattern, [*loads, full_load(LENGTH)], LENGTH,
                         phases=phases(topology)).points
    return {"highest_throughput": round(max(p.accepted for p in points), 3),
            "latency": {str(p.load): p.latency and round(p.latency, 1) for p in points
                        if p.load <= 1}}


def saturation(topology: Topology, pattern: str, length: int, depth: int = 16) -> float:
    """Flits a cycle a terminal at full load."""
    before = phases(topology)
    return measure(topology, pattern, [full_load(length)], length, depth=depth,
                   phases=Phases(before.warm_up, before.measured, 0)).points[0].accepted


def uniform(topology: Topology, length: int, depth: int) -> dict[str, float]:
    """Throughput at full load of uniform traffic, beside its bounds."""
    accepted = saturation(topology, "uniform", length, depth) * topology.terminals
    bound = bisection_bound(topology) * topology.terminals
    return {"flits_a_router_a_cycle": round(accepted, 3), "bisection_bound": round(bound, 3),
            "injection_bound": topology.terminals,
            "percent_of_bisection_bound": round(100 * accepted / bound, 1),
            "percent_of_injection_bound": round(100 * accepted / topology.terminals, 1)}


def speed(topology: Topology, load: float, networks: int = 1) -> dict[str, float]:
    begin = time.process_time()
    measurement = measure(topology, "uniform", [load] * networks, LENGTH,
                          phases=Phases(500, 500, 0))
    seconds = time.process_time() - begin
    return {"flit_hops_a_second": round(measurement.flit_hops / seconds),
            "cycles_a_second": round(measurement.cycles / seconds)}


def curves(progress: Progress) -> dict[str, Any]:
    return {name: {pattern: curve(topology, pattern) for pattern in PATTERNS
                   if possible(topology, pattern)}
            for name, topology in progress.track(NETWORKS.items(), description="curves")}


def saturations(progress: Progress) -> dict[str, Any]:
    """Of uniform traffic, on all networks and, with more settings, on a torus."""
    runs = {name: (topology, LENGTH, 16) for name, topology in NETWORKS.items()} | {
        f"torus 4 x 4, {terminals} terminals, {channels} channels, depth {depth}, "
        f"{length} flits a packet": (Torus(4, 4, terminals=terminals, channels=channels),
                                     length, depth)
        for terminals in (1, 4) for channels in (2, 4) for depth in (8, 16, 32)
        for length in (2, 4, 8)}
    return {name: uniform(*run)
            for name, run in progress.track(runs.items(), description="saturation")}


def neighbours(progress: Progress) -> dict[str, float]:
    """Per cent of the links' rate; a terminal for each direction uses every link."""
    networks = {"ring of 8, one way": Ring(8, one_way=True), "ring of 8": Ring(8, terminals=2),
                "torus 4 x 4": Torus(4, 4, terminals=4), "torus 8 x 8": Torus(8, 8, terminals=4)}
    return {name: round(100 * saturation(topology, "neighbour", LENGTH), 2)
            for name, topology in progress.track(networks.items(), description="neighbours")}


def speeds(progress: Progress) -> dict[str, Any]:
    runs = [(4, 0.7, 1), (4, 0.7, 32), (8, 0.45, 1), (16, 0.25, 1), (64, 0.08, 1)]
    return {f"torus {size} x {size}, load {load}" + (f", {networks} side by side"
                                                    if networks > 1 else ""):
            speed(Torus(size, size), load, networks)
            for size, load, networks in progress.track(runs, description="speed")}


def delivered(topology: Topology, packets: int, seed: int) -> dict[str, Any]:
    """What becomes of random packets in RTL."""
    from ulpcore.interconnect.network_rtl import deliver

    rng = np.random.default_rng(seed)
    traffic = random_traffic(topology, packets, rng)
    stalls = (0.75 * rng.random(2 * len(topology.nodes))).tolist()
    delivery, cycles = deliver(traffic, stalls=stalls, seed=seed)
    return {"packets": packets, "seed": seed, "cycles": cycles, "perfect": delivery.perfect,
            **dataclasses.asdict(delivery)}


MEASUREMENTS = {"curves": curves, "saturation": saturations, "neighbour_percent": neighbours,
                  "speed": speeds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"what to measure, of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--packets", type=int, metavar="N",
                        help="only send so many random packets through the RTL")
    parser.add_argument("--seed", type=int, default=1, help="of these packets (default: 1)")
    parser.add_argument("--plot", action="store_true", help="only draw what was kept last")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    for part in options.parts:
        if part not in MEASUREMENTS:
            parser.error(f"PART must be one of {', '.join(MEASUREMENTS)}, not {part!r}")
    if options.packets is not None and options.packets < 1:
        parser.error(f"N must be at least 1, not {options.packets}")
    figures = last("network")
    if options.packets:
        networks = {"ring of 8": Ring(8), "torus 4 x 4": Torus(4, 4)}
        found = {name: delivered(topology, options.packets, options.seed)
                 for name, topology in networks.items()}
        record("network-packets", found, keep=not options.no_keep)
        return int(not all(row["perfect"] for row in found.values()))
    if options.plot:
        from network_plots import draw
        draw(figures["curves"], PLOT)
        return 0
    with Progress() as progress:
        for part in options.parts or MEASUREMENTS:
            figures[part] = MEASUREMENTS[part](progress)
    record("network", figures, keep=not options.no_keep)
    return 0


def possible(topology: Topology, pattern: str) -> bool:
    return pattern != "transpose" or (
        len(topology.sizes) == 2 and topology.sizes[0] == topology.sizes[1])


if __name__ == "__main__":
    sys.exit(main())
