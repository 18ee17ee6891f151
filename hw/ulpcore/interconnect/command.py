"""`ulpcore cluster`: learners exchange compressed gradients through a cluster in RTL."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ulpsim.config import cluster_core, load_config
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus

if TYPE_CHECKING:
    from .exchange import StepFigures

__all__ = ["TOPOLOGIES", "add_arguments", "make_topology", "run_learners"]

_IMAGES = Path(__file__).parents[3] / "examples" / "fashion_mnist" / "images.npz"
TOPOLOGIES = ("ring", "mesh", "torus")


def add_arguments(parser: Any) -> None:
    """The options of `ulpcore cluster`."""
    parser.add_argument("--learners", type=int, default=4, metavar="N",
                        help="nodes, 2 to 16 (default: 4)")
    parser.add_argument("--topology", choices=TOPOLOGIES, default="ring",
                        help="a one-way ring, or a mesh or torus as square as can be "
                        "(default: ring)")
    parser.add_argument("--steps", type=int, default=3, metavar="N",
                        help="training steps (default: 3)")
    parser.add_argument("--batch", type=int, default=32, metavar="N",
                        help="images of a learner in a step (default: 32)")
    parser.add_argument("--hidden", type=int, default=64, metavar="N",
                        help="outputs of the first fully connected layer, 784 times as many "
                        "weights (default: 64)")
    parser.add_argument("--factor", type=float, default=2, metavar="F",
                        help="AdaComp's soft threshold, a multiple of 1/4 (default: 2)")
    parser.add_argument("--config", default="nano", metavar="NAME|FILE.toml",
                        help="the core at each node, with an exchange unit added (default: nano, "
                        "the smallest)")
    parser.add_argument("--engines", action="store_true",
                        help="nodes of engines alone, without cores, whose commands come from the "
                        "bench")
    parser.add_argument("--lanes", type=int, default=1, metavar="N",
                        help="elements a cycle of the encoders: 1, 4, 8 or 16 (default: 1, which "
                        "is what a bus of 8 bytes brings)")
    parser.add_argument("--largest", type=int, default=1024, metavar="BYTES",
                        help="the most bytes of a network packet (default: 1024)")
    parser.add_argument("--shared", action="store_true",
                        help="one memory for all nodes instead of one each")
    parser.add_argument("--latency", type=int, default=16, metavar="CYCLES",
                        help="latency of the memories (default: 16)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="of weights and batches (default: 1)")
    parser.add_argument("--data", type=Path, default=_IMAGES, metavar="FILE.npz",
                        help="images and labels (default: the embedded sample of Fashion-MNIST)")


def make_topology(name: str, nodes: int) -> Topology:
    """The topology of a name: a ring is one way, the others are as square as can be.

    Raises ValueError if there is none of so many nodes.
    """
    if name == "ring":
        return Ring(nodes, one_way=True)
    rows = max(r for r in range(1, nodes + 1) if nodes % r == 0 and r * r <= nodes)
    if name == "mesh":
        return Mesh(nodes // rows, rows)
    if rows == 1:
        raise ValueError(f"learners of a torus must be a product of two numbers above 1, not "
                         f"{nodes}")
    return Torus(nodes // rows, rows)


def run_learners(options: Namespace) -> int:
    """Run the command; 1 if RTL and golden model, or the replicas, differ."""
    from .exchange import Learners

    if not 2 <= options.learners <= 16:
        raise ValueError(f"learners must be from 2 to 16, not {options.learners}")
    if options.steps < 1:
        raise ValueError(f"steps must be a positive integer, not {options.steps}")
    if options.hidden < 1:
        raise ValueError(f"hidden must be a positive integer, not {options.hidden}")
    with np.load(options.data) as arrays:
        for name in ("images", "labels"):
            if name not in arrays:
                raise ValueError(f"{options.data} must hold the array {name!r}; it holds "
                                 f"{', '.join(arrays)}")
        images, labels = arrays["images"], arrays["labels"].astype(int)
    if options.lanes not in (lanes := (1, 4, 8, 16)):
        raise ValueError(f"lanes must be one of {', '.join(map(str, lanes))}, not {options.lanes}")
    cores = None if options.engines else cluster_core(
        dataclasses.replace(load_config(options.config), exchange=options.lanes))
    learners = Learners(
        make_topology(options.topology, options.learners), images, labels, batch=options.batch,
        hidden=options.hidden, factor=options.factor, seed=options.seed, lanes=options.lanes,
        largest=options.largest, shared=options.shared, latency=options.latency, cores=cores)
    elements = sum(learners.elements.values())
    steps = [_figures(learners.step(), learners.count, elements)
             for _ in range(options.steps)]
    summary = {"learners": learners.count, "topology": options.topology, "elements": elements,
               "shared": options.shared, "cores": cores.name if cores else None, "steps": steps,
               "differing": {name: sum(step["differing"][name] for step in steps)
                             for name in steps[0]["differing"]}}
    if options.json:
        print(json.dumps(summary))
    else:
        _show(summary)
    return 1 if any(summary["differing"].values()) else 0


def _figures(step: "StepFigures", count: int, elements: int) -> dict[str, Any]:
    links, cycles = step.link_bytes, step.cycles
    byte_ratio, cycle_ratio = links["dense"] / links["gather"], cycles["dense"] / cycles["gather"]
    return {"loss": step.loss, "bytes": step.bytes, "cycles": cycles, "link_bytes": links,
            "rate": 4 * elements * count / sum(step.bytes),
            # All bytes on links, on the busiest one, over those of packets that must pass it, on
            # the average: what headers and CRCs add, and chunks that are not alike.
            "framing": links["gather_mean"] / ((count - 1) / count * sum(step.bytes)),
            "link_share": links["gather"] / ((count - 1) / count * sum(step.bytes)),
            "byte_ratio": byte_ratio, "cycle_ratio": cycle_ratio,
            "ratio_reached": cycle_ratio / byte_ratio, "differing": step.differing}


def _show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['learners']} learners, {summary['topology']}, "
                  f"{summary['elements']} gradients each")
    for heading in ("step", "loss", "packets", "rate", "compress", "gather", "decode", "dense",
                    "link: gather", "dense", "bytes", "cycles", "differing"):
        table.add_column(heading, justify="right")
    for number, step in enumerate(summary["steps"]):
        cycles, links = step["cycles"], step["link_bytes"]
        table.add_row(str(number), f"{step['loss']:.3f}", str(sum(step["bytes"])),
                      f"{step['rate']:.1f}x", *(str(cycles[name]) for name in
                                                ("compress", "gather", "decode", "dense")),
                      str(links["gather"]), str(links["dense"]), f"{step['byte_ratio']:.1f}x",
                      f"{step['cycle_ratio']:.1f}x", str(sum(step["differing"].values())))
    console = Console(width=140)
    console.print(table)
    console.print("packets: bytes of all learners; rate: 32-bit gradients over that; compress, "
                  "gather, decode, dense: cycles")
    console.print("link: bytes on the busiest one; bytes, cycles: the dense all-reduce of the "
                  "gradients over the gather of the packets")
    nodes = f"Each node is a core ({summary['cores']}) whose program starts it all; cores, e" \
        if summary["cores"] else "Each node is engines alone; e"
    console.print(f"{nodes}ncoders, network, decoders, sums and memory ports are RTL.")
    console.print("differing from the golden model, or between replicas: " + ", ".join(
        f"{name} {count}" for name, count in summary["differing"].items()))
