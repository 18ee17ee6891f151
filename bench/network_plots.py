"""Plots of latency against load."""

import sys
from pathlib import Path
from typing import Any

try:
    import matplotlib
    from matplotlib import pyplot
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: plots need `pip install ulpcore[study]`.")

__all__ = ["draw"]

#: Latencies beyond so many times the lowest are cut off.
HIGHEST = 5
COLOURS = {"uniform": "tab:blue", "transpose": "tab:orange", "hotspot": "tab:red",
           "neighbour": "tab:green"}


def draw(curves: dict[str, Any], path: Path) -> None:
    """A panel for each network, a line for each pattern, as SVG."""
    matplotlib.rcParams.update({"svg.hashsalt": "network", "svg.fonttype": "none", "font.size": 8,
                                "axes.spines.top": False, "axes.spines.right": False})
    columns = 2
    figure, panels = pyplot.subplots(-(-len(curves) // columns), columns, figsize=(8, 10),
                                     layout="constrained")
    for axes in panels.flat[len(curves):]:
        axes.set_axis_off()
    for axes, (name, patterns) in zip(panels.flat, curves.items(), strict=False):
        lowest = []
        for pattern, curve in patterns.items():
            points = [(float(load), latency) for load, latency in curve["latency"].items()
                      if latency is not None]
            colour = COLOURS[pattern]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=2.5,
                      linewidth=1, label=pattern)
            axes.axvline(curve["highest_throughput"], color=colour, linewidth=0.6,
                         linestyle=":")
            lowest.append(points[0][1])
        axes.set_title(name)
        axes.set_ylim(0, HIGHEST * max(lowest))
        axes.set_xscale("log")
        axes.set_xlabel("load, flits a cycle a terminal")
        axes.set_ylabel("latency, cycles")
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
