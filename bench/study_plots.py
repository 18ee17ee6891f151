"""Plots of the AdaComp study."""

import base64
import io
import sys
from typing import Any

from study_report import KINDS, MEASURES, Runs, order, parts

try:
    import matplotlib
    from matplotlib import pyplot
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: the page needs `pip install ulpcore[study]`.")

__all__ = ["plots_of"]


def plots_of(task: str, runs: Runs, rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Pictures (SVG) by their titles."""
    matplotlib.rcParams.update({"svg.hashsalt": "adacomp", "font.size": 9,
                                "axes.spines.top": False, "axes.spines.right": False})
    return {
        "What is lost against the rate (mean and standard deviation of the seeds)":
            _svg(_lost, task, rows),
        "Words a bin over training": _svg(_curves, runs, "words a bin", "adacomp"),
        "Rate over training": _svg(_curves, runs, "rate over training", ""),
        "Elements that any learner sends, by the number of learners":
            _svg(_unions, rows)}


def _svg(draw: Any, *arguments: Any) -> str:
    figure = pyplot.figure(figsize=(8, 3.6), layout="constrained")
    draw(figure, *arguments)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return base64.b64encode(file.getvalue()).decode()


def _lost(figure: Any, task: str, rows: dict[str, dict[str, Any]]) -> None:
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for setting, row in sorted(rows.items(), key=lambda item: order(item[0])):
        method, learners, _ = parts(setting)
        if method == "none" or not row["lost"]["seeds"]:
            continue
        point = row["rate"]["all"], row["lost"]["mean"]
        axes.errorbar(*point, row["lost"]["deviation"], capsize=2, markersize=5,
                      fmt="o" if method.startswith("adacomp") else "s",
                      label=f"{method}, n {learners}")
        # One curve over the factor, one over the bin size.
        if learners == 8 and "one pass" not in method:
            for which, line in (("bins 50 500", "over the factor"), ("factor 2.5,", "over bins")):
                if which in method:
                    lines.setdefault(line, []).append(point)
    for name, style in (("over the factor", "-"), ("over bins", ":")):
        axes.plot(*zip(*sorted(lines.get(name, [(1, 0)])), strict=True), style, color="grey",
                  linewidth=1, label=name)
    axes.axhline(0, color="grey", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_xlabel("rate, all layers")
    axes.set_ylabel(MEASURES[task][1])
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)


def _curves(figure: Any, runs: Runs, what: str, begins: str) -> None:
    kinds = [kind for kind in KINDS if any(kind in one for one in runs.values())]
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for key in sorted(runs, key=lambda key: order(runs[key]["setting"])):
            one = runs[key]
            method, learners, _ = parts(one["setting"])
            if (method == "none" or not method.startswith(begins) or one["seed"]
                    or learners != 8):
                continue
            axes.plot(one["points"], one[kind][what], linewidth=1, label=method)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(KINDS[kind])
        axes.set_xlabel("step (8 learners, seed 0)")
        axes.set_ylabel(what)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=7, frameon=False)


def _unions(figure: Any, rows: dict[str, dict[str, Any]]) -> None:
    axes = figure.subplots()
    for kind, marker in zip(KINDS, ("o-", "s-"), strict=True):
        found = {}
        for setting, row in rows.items():
            method, learners, _ = parts(setting)
            if method == "adacomp, factor 2.5, bins 50 500" and kind in row["union at the end"]:
                found[learners] = row["union at the end"][kind]
        if found:
            axes.plot(sorted(found), [found[n] for n in sorted(found)], marker, label=KINDS[kind])
    axes.set_xscale("log", base=2)
    axes.set_xlabel("learners (factor 2.5, end of training)")
    axes.set_ylabel("union density")
    axes.set_ylim(0, 1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
