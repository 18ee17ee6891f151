"""`ulpcore explore`: training steps on many accelerators."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ulpsim.explorer.compression import SCHEMES
from ulpsim.explorer.networks import NETWORKS
from ulpsim.explorer.search import cheapest
from ulpsim.explorer.sweep import SCALINGS, Point, evaluate, sweep
from ulpsim.explorer.topologies import TOPOLOGIES
from ulpsim.page import efficiency_plots, page, table

__all__ = ["COLUMNS", "add_arguments", "explore"]

#: What tables show, and their headings.
COLUMNS = {"network": "network", "compression": "compression", "topology": "topology", "n": "n",
           "tflops": "TFLOPS a chip", "gbs": "GB/s a link", "chip_gbs": "GB/s a chip",
           "batch": "batch", "by": "collectives", "efficiency": "efficiency", "ms": "step, ms",
           "exposed_ms": "not hidden, ms", "sent_mb": "sent, MB a chip",
           "sustained_tflops": "TFLOPS sustained", "cost_a_chip": "cost a chip",
           "joules": "exchange, J", "cause": "bound by"}


def add_arguments(parser: Any) -> None:
    """The options of `ulpcore explore`; those that take several values make a sweep of all."""
    point = Point()
    several: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("--network", default=[point.network], metavar="NAME", **several,
                        help=", ".join(NETWORKS))
    parser.add_argument("--topology", metavar="NAME", **several,
                        help=", ".join(TOPOLOGIES) + ", or all (default: ring, torus and fat-tree; "
                        "all for --cheapest)")
    parser.add_argument("--graph", type=Path, metavar="FILE.json",
                        help="a graph of your own in place of a topology (docs/explorer.md)")
    parser.add_argument("--n", type=int, default=[16, 64, 256], metavar="N", **several,
                        help="accelerators (default: 16 64 256)")
    parser.add_argument("--compression", default=["fp32", "adacomp", "clt-k"], metavar="NAME",
                        help=", ".join(SCHEMES), **several)
    parser.add_argument("--scaling", choices=SCALINGS, default=point.scaling,
                        help="--batch is that of a chip (weak) or of all chips (strong)")
    parser.add_argument("--batch", type=float, default=[point.batch], metavar="N", **several)
    parser.add_argument("--chip-tflops", type=float, default=[point.tflops], metavar="T",
                        help="peak of a chip (default: 15)", **several)
    parser.add_argument("--link-gbs", type=float, default=[point.gbs], metavar="G",
                        help="of a link, 10^9 bytes a second each way (default: 16)", **several)
    parser.add_argument("--per-chip", action="store_true",
                        help="--link-gbs is what leaves a chip over all its links")
    parser.add_argument("--latency-ns", type=float, default=point.latency_ns, metavar="NS",
                        help="of a link and a router (default: 100)")
    parser.add_argument("--algorithm", default=point.algorithm, metavar="NAME",
                        help="of collectives: ring, grid, halving, ... (default: the best)")
    parser.add_argument("--spread", type=float, default=point.spread, metavar="S",
                        help="standard deviation of learners' packets over their mean")
    parser.add_argument("--cheapest", action="store_true",
                        help="only the cheapest topology that keeps --efficiency, and why the next "
                        "cheaper one fails")
    parser.add_argument("--efficiency", type=float, default=0.9, metavar="E",
                        help="for --cheapest (default: 0.9)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl",
                        help="keep results as they come, and go on from what is there")
    parser.add_argument("--processes", type=int, metavar="N", help="default: all cores")
    parser.add_argument("--scheduler", metavar="ADDRESS",
                        help="of Dask, to do the work (extra dask)")


def explore(options: Namespace) -> int:
    """Run the command; the exit code is 1 if nothing of what was asked is possible."""
    points = _points(options)
    if options.cheapest:
        if options.graph is not None:
            raise ValueError("--cheapest is among named topologies, not --graph")
        return _cheapest(options, points)
    if len(points) == 1:
        rows = [evaluate(points[0])]
    else:
        rows = sweep(points, options.results, processes=options.processes,
                     scheduler=options.scheduler)
    for row in rows:
        if "refused" not in row:
            row["ms"], row["exposed_ms"] = row["seconds"] * 1e3, row["exposed"] * 1e3
    good = [row for row in rows if "refused" not in row]
    if options.html:
        options.html.write_text(page("ulpcore explore", [(
            "Efficiency against one chip", "", efficiency_plots(
                good, ["network", "compression", "tflops", "gbs"]), table(good, COLUMNS))]))
    if options.json:
        print(json.dumps(rows))
    if not good:
        raise ValueError("; ".join(dict.fromkeys(row["refused"] for row in rows)))
    if not options.json:
        _print(good, rows)
    return 0


def _points(options: Namespace) -> list[Point]:
    topologies = options.topology or ["ring", "torus", "fat-tree"]
    if options.graph is not None:
        topologies = [str(options.graph)]
        if options.graph.suffix != ".json":
            raise ValueError(f"--graph must be a file .json, not {options.graph}")
    elif topologies == ["all"]:
        topologies = list(TOPOLOGIES)
    sizes = [1] if options.graph is not None and options.scaling == "weak" else options.n
    return [Point(network=network, topology=topology, n=n, compression=compression, batch=batch,
                  scaling=options.scaling, tflops=tflops, gbs=gbs, per_chip=options.per_chip,
                  latency_ns=options.latency_ns, algorithm=options.algorithm,
                  spread=options.spread)
            for network in options.network for tflops in options.chip_tflops
            for gbs in options.link_gbs for batch in options.batch
            for compression in options.compression for topology in topologies for n in sizes]


def _print(good: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table()
    columns = {name: heading for name, heading in COLUMNS.items()
               if name in ("topology", "n", "compression", "efficiency", "cause")
               or (len({str(row.get(name)) for row in good}) > 1 and name != "chip_gbs")}
    for name, heading in columns.items():
        text = name in ("network", "compression", "topology", "cause", "by")
        shown.add_column(heading, justify="left" if text else "right")
    for row in good:
        shown.add_row(*(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name])
                        for name in columns))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(shown)
    for reason in dict.fromkeys(row["refused"] for row in rows if "refused" in row):
        console.print(f"left out: {reason}", highlight=False)


def _cheapest(options: Namespace, points: list[Point]) -> int:
    names = None if options.topology == ["all"] else options.topology
    settings = dict.fromkeys(dataclasses.replace(point, topology="ring") for point in points)
    found = [(point, cheapest(point, options.efficiency, names)) for point in settings]
    if options.json:
        print(json.dumps([{"best": one.best, "failed": one.failed, "refused": one.refused}
                          for _, one in found]))
    else:
        for point, one in found:
            print(f"{point.network}, {point.compression}, n {point.n}, {point.tflops:g} TFLOPS, "
                  f"{point.gbs:g} GB/s:\n{one.explanation()}\n")
    return 0 if all(one.best for _, one in found) else 1
