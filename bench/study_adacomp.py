"""The AdaComp study: rate and accuracy of data-parallel training with compressed gradients.

    python bench/study_adacomp.py                                 # everything: many hours
    python bench/study_adacomp.py --task cnn --part factors --seeds 0 1 2 3 4
    python bench/study_adacomp.py --report                        # tables and page of what is there

A small convolutional network on Fashion-MNIST and the character LSTM of examples/kjv; learners are
simulated, each with its own residue, and every gradient goes through the golden model and its
packets. Each run is kept in bench/results/study-adacomp-TASK.json as soon as it has ended and is
not run again, so the study can be interrupted, and done part by part.

| part | runs |
|---|---|
| factors | no compression; AdaComp with factors 2, 2.25, 2.5 and 3; 8 learners |
| others | top-k with error feedback, 1-bit SGD, TernGrad, PowerSGD of rank 1; 8 learners |
| learners | AdaComp with factor 2.5 for 1, 32 and 128 learners (an LSTM's batch has 64: 1 and 32) |
| scale | AdaComp in one pass, with the scale of the step before; 8 learners |
| curve | other factors and bin sizes; 8 learners |
"""

import argparse
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import RESULTS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

try:
    from study_training import TASKS, Run, train
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: the study needs `pip install ulpcore[study]`.")

#: Steps of a run: three epochs of the images; of the text 3000, where examples/kjv takes 20000.
STEPS = {"cnn": 702, "lstm": 3000}
PARTS = ("factors", "others", "learners", "scale", "curve")
LEARNERS = 8
#: The rates that top-k is given are about those of AdaComp with factors 2.5 and 2.
RATES = ((42.0, 150.0), (60.0, 250.0))


def plan(task: str, part: str, seed: int, steps: int) -> Iterator[Run]:
    """The runs of a part, for a seed."""
    def run(method: str, learners: int = LEARNERS, **settings: Any) -> Run:
        return Run(task, method, learners, seed, steps, **settings)

    if part == "factors":
        yield run("none")
        for factor in (2.25, 2.5, 2.0, 3.0):
            yield run("adacomp", factor=factor)
    elif part == "others":
        for rates in RATES:
            yield run("topk", rates=rates)
        for method in ("powersgd", "onebit", "terngrad"):
            yield run(method)
    elif part == "learners":
        for learners in (1, 32, 128) if task == "cnn" else (1, 32):
            yield run("adacomp", learners, factor=2.5)
    elif part == "scale":
        yield run("adacomp", factor=2.5, one_pass=True)
    else:
        for factor in (1.5, 1.75, 4.0):
            yield run("adacomp", factor=factor)
        for bins in ((25, 250), (64, 1000), (200, 2000)):
            yield run("adacomp", factor=2.5, bins=bins)


def kept_in(task: str) -> Path:
    """Where the runs of a task are kept."""
    return RESULTS / f"study-adacomp-{task}.json"


def load(task: str) -> dict[str, Any]:
    """The runs of a task by their keys."""
    path = kept_in(task)
    return json.loads(path.read_text()) if path.exists() else {}


def keep(task: str, key: str, figures: dict[str, Any]) -> None:
    """Add a run to those of its task, beside other processes that do the same."""
    path = kept_in(task)
    with (Path(tempfile.gettempdir()) / f"{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = {**load(task), key: figures}
        fresh = path.with_suffix(".new")
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(runs[key])}" for key in sorted(runs))
        fresh.write_text("{\n" + lines + "\n}\n")
        os.replace(fresh, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--learners", nargs="+", type=int, metavar="N",
                        help="only runs of so many learners")
    parser.add_argument("--factors", nargs="+", type=float, metavar="F",
                        help="only AdaComp's runs with these factors, beside all others")
    parser.add_argument("--steps", type=int, metavar="N",
                        help=f"steps of a run (default: {STEPS['cnn']} and {STEPS['lstm']})")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"),
                        help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--text", type=Path, help="file that `bible -f gen1:1-rev22:21` wrote "
                        "(default: run it)")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    console = Console(stderr=True)
    if not options.report:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            for task in options.task:
                run_task(task, options, progress)
    from study_report import report

    report({task: load(task) for task in TASKS})
    return 0


def run_task(task: str, options: argparse.Namespace, progress: Progress) -> None:
    """Run what is not there yet."""
    steps = options.steps or STEPS[task]
    runs = [run for part in options.part for seed in options.seeds
            for run in plan(task, part, seed, steps)
            if (options.learners is None or run.learners in options.learners)
            and (options.factors is None or run.method != "adacomp"
                 or run.factor in options.factors)]
    data = None
    for number, run in enumerate(runs):
        if run.key in load(task):
            continue
        if data is None:
            data = TASKS[task](options.data if task == "cnn" else options.text)
        bar = progress.add_task(f"{number + 1}/{len(runs)} {run.key}", total=steps, loss=0.0)
        figures = train(run, data, lambda loss, bar=bar: progress.update(bar, advance=1, loss=loss))
        progress.remove_task(bar)
        keep(task, run.key, figures)
        progress.console.print(f"{run.key}: {figures[data.measure]:.3f} {data.measure}, "
                               f"{figures['all']['rate']:.1f}x")


if __name__ == "__main__":
    sys.exit(main())
