"""Tables and the page of the AdaComp study, from the runs that are there."""

import html
import re
import statistics
from pathlib import Path
from typing import Any

from record import record

__all__ = ["KINDS", "MEASURES", "PAGE", "Runs", "order", "parts", "report", "summary"]

PAGE = Path(__file__).parents[1] / "docs" / "adacomp-study.html"
#: The measure of a task, what a loss of one is called, and what is better: more or less.
MEASURES = {"cnn": ("accuracy", "points lost", -1), "lstm": ("bits a character", "bits lost", 1)}
TITLES = {"cnn": "Convolutional network on Fashion-MNIST",
          "lstm": "Character LSTM on the King James Version"}
KINDS = {"convolution": "convolutions", "other": "fully connected, LSTM"}

Runs = dict[str, dict[str, Any]]


def summary(task: str, runs: Runs) -> dict[str, dict[str, Any]]:
    """Of each setting: how many seeds; mean and standard deviation of the measure, of what is lost
    against no compression with the same seed and steps, and of the rates."""
    measure, _, sign = MEASURES[task]
    settings: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(runs):
        settings.setdefault(runs[key]["setting"], []).append(runs[key])
    plain = {(_steps(one["setting"]), one["seed"]): one[measure]
             for one in runs.values() if ", none, " in one["setting"]}
    rows = {}
    for setting, group in settings.items():
        lost = [sign * (one[measure] - plain[_steps(setting), one["seed"]]) for one in group
                if (_steps(setting), one["seed"]) in plain]
        rates = {kind: round(statistics.mean(one[kind]["rate"] for one in group), 1)
                 for kind in ("convolution", "other", "all") if kind in group[0]}
        kinds = [kind for kind in KINDS if kind in group[0]]
        unions = {kind: round(statistics.mean(one[kind]["union"][-1] for one in group), 4)
                  for kind in kinds}
        words = {f"{kind}, {when}": round(statistics.mean(one[kind]["words a bin"][at]
                                                          for one in group), 2)
                 for kind in kinds for when, at in (("first step", 0), ("end", -1))}
        rows[setting] = {"seeds": len(group), measure: _spread([one[measure] for one in group]),
                         "lost": _spread(lost) | {"seeds": len(lost)}, "rate": rates,
                         "union at the end": unions, "words a bin": words}
    return rows


def _steps(setting: str) -> int:
    return int(setting.rpartition("steps ")[2])


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"mean": round(statistics.mean(values), 4),
            "deviation": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0}


def report(tasks: dict[str, Runs]) -> None:
    """Print tables in Markdown, keep the summary as JSON, write the page.

    The summary is `bench/results/study-adacomp.json`, the page `docs/adacomp-study.html`; its plots
    need matplotlib.
    """
    from study_plots import plots_of

    rows = {task: summary(task, runs) for task, runs in tasks.items() if runs}
    record("study-adacomp", rows)
    tables = {task: _table(task, of_task) for task, of_task in rows.items()}
    for task, lines in tables.items():
        print(f"\n{TITLES[task]}\n")
        for number, cells in enumerate(lines):
            print("| " + " | ".join(cells) + " |")
            if number == 0:
                print("|" + "---|" * len(cells))
    plots = {task: plots_of(task, tasks[task], rows[task]) for task in rows}
    PAGE.write_text(_page(tables, plots))


def _table(task: str, rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    measure, lost, _ = MEASURES[task]
    kinds = [kind for kind in KINDS if any(kind in row["rate"] for row in rows.values())]
    digits = 2 if task == "cnn" else 3
    lines = [["method", "learners", "steps", "seeds", measure, lost,
              *(f"rate: {KINDS[kind]}" for kind in kinds), "rate: all"]]
    for setting, row in sorted(rows.items(), key=lambda item: order(item[0])):
        method, learners, steps = parts(setting)
        loss = row["lost"]
        lines.append([
            method, "any" if method == "none" else str(learners), str(steps), str(row["seeds"]),
            f"{row[measure]['mean']:.{digits}f} ± {row[measure]['deviation']:.{digits}f}",
            "" if not loss["seeds"] or method == "none"
            else f"{loss['mean']:.{digits}f} ± {loss['deviation']:.{digits}f}",
            *(f"{row['rate'][kind]:.1f}" for kind in kinds), f"{row['rate']['all']:.1f}"])
    return lines


def parts(setting: str) -> tuple[str, int, int]:
    """Method, learners and steps of a setting."""
    match = re.fullmatch(r"\w+, (.*), n (\d+), steps (\d+)", setting)
    assert match is not None, setting
    return match[1], int(match[2]), int(match[3])


def order(setting: str) -> tuple[Any, ...]:
    """Settings in the order of the tables."""
    method, learners, steps = parts(setting)
    first = next(i for i, name in enumerate(("none", "adacomp", "")) if method.startswith(name))
    return steps, first, "one pass" in method, learners != 8, learners, method


def _page(tables: dict[str, list[list[str]]], plots: dict[str, dict[str, str]]) -> str:
    page = ["<!doctype html><html lang=en><meta charset=utf-8><title>The AdaComp study</title>",
            "<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
            "table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;"
            "border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child"
            "{text-align:left}img{max-width:100%}</style><h1>The AdaComp study</h1>",
            "<p>Made by <code>python bench/study_adacomp.py</code>; what it means stands in "
            "<code>docs/compression.md</code>. Rates are bytes of dense FP32 gradients over all "
            "bytes sent. Mean ± standard deviation over the seeds; what is lost is against the "
            "run of the same seed without compression.</p>"]
    for task, lines in tables.items():
        page.append(f"<h2>{TITLES[task]}</h2><table>")
        for number, cells in enumerate(lines):
            tag = "td" if number else "th"
            page.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>"
                                         for cell in cells) + "</tr>")
        page.append("</table>")
        for title, picture in plots[task].items():
            page.append(f"<h3>{title}</h3><img alt='{html.escape(title)}' "
                        f"src='data:image/svg+xml;base64,{picture}'>")
    return "\n".join([*page, "</html>\n"])
