"""The system explorer's figures: studies over many points, and how fast it is.

- by default the small study, a few minutes: `build/explore` (results as they come, a page);
- `--study`: the full one, whose summary is `bench/results/explorer-study.json` and whose page is
  `docs/explorer-study.html`. Results as they come are kept in `build/explore`, too: a study that is
  interrupted goes on where it was.
- `--speed`: seconds and memory of single steps, each in a process of its own, and their growth with
  messages: `bench/results/explorer-speed.json`.
- `--order`: how far the simulator in arrays is off where messages overtake each other.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import explorer_report as report
from record import last, record
from rich.progress import Progress, track
from ulpsim.explorer import events, rounds
from ulpsim.explorer.collectives import all_gather, all_reduce
from ulpsim.explorer.sweep import Point, evaluate, sweep
from ulpsim.explorer.topologies import TOPOLOGIES, build, fits

ROOT = Path(__file__).resolve().parents[1]
#: Samples of a chip, by its TFLOPS.
BATCHES = {1.5: 8, 15.0: 32, 150.0: 128}
SMALL = [Point(topology=topology, n=n, compression=scheme, batch=BATCHES[tflops], tflops=tflops,
               gbs=gbs)
         for tflops in (1.5, 15.0) for gbs in (4.0, 16.0)
         for scheme in ("fp32", "adacomp", "clt-k")
         for topology in ("ring", "torus", "fat-tree") for n in (4, 16, 64, 256)]
FULL = [
    *(Point(topology=topology, n=n, compression=scheme, batch=batch, tflops=tflops, gbs=gbs)
      for n in (4, 16, 64, 256, 1024) for tflops, batch in BATCHES.items()
      for gbs in (4.0, 16.0, 64.0, 128.0) for scheme in report.SCHEMES
      for topology in report.STUDIED),
    # Equal bandwidth of a chip: what a topology is worth by itself.
    *(Point(topology=topology, n=n, compression=scheme, batch=32, gbs=16.0, per_chip=True)
      for n in (16, 64, 256, 1024) for scheme in ("fp32", "adacomp", "clt-k")
      for topology in TOPOLOGIES if topology != "fully-connected" or n < 1024),
    # Other networks.
    *(Point(network=network, topology=topology, n=n, compression=scheme, batch=batch, gbs=4.0)
      for network, batch in (("alexnet", 32), ("vgg19", 32), ("inception-v1", 32),
                             ("densenet121", 32), ("bert-base", 16), ("lstm-ptb", 20),
                             ("deepspeech", 16))
      for n in (16, 64, 256) for scheme in ("fp32", "adacomp", "clt-k", "top-k")
      for topology in ("ring", "torus")),
    # A batch of 1024 images shared by ever more chips.
    *(Point(topology=topology, n=n, compression=scheme, batch=1024, scaling="strong", gbs=16.0)
      for n in (4, 16, 64, 256, 1024) for scheme in ("fp32", "adacomp", "clt-k")
      for topology in ("ring", "torus", "fat-tree")),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="cases of --speed with this text")
    parser.add_argument("--order", action="store_true")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help="default: all cores")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, to do the work")
    parser.add_argument("--minutes", type=float, help="stop a study after so many, keep the rest")
    options = parser.parse_args()
    if options.point:
        return one(Point(**json.loads(options.point)))
    if options.speed:
        speed(options.only)
    elif options.order:
        overtaking()
    else:
        study("full" if options.study else "small", options)
    return 0


def study(name: str, options: argparse.Namespace) -> None:
    points = FULL if name == "full" else SMALL
    folder = ROOT / "build" / "explore"
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    with Progress() as progress:
        task = progress.add_task(name, total=len(points))

        def shown(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if end and time.monotonic() > end:
                raise KeyboardInterrupt

        rows = sweep(points, folder / f"{name}.jsonl", processes=options.processes,
                     scheduler=options.scheduler, progress=shown)
    if name == "full":
        report.write(rows, ROOT / "bench" / "results" / "explorer-study.json",
                     ROOT / "docs" / "explorer-study.html")
    else:
        report.write(rows, folder / "small.json", folder / "small.html")


# --- speed

def one(point: Point) -> int:
    """A point in this process; its figures as a line of JSON."""
    begin, work = time.perf_counter(), time.process_time()
    row = evaluate(point)
    print(json.dumps({
        "seconds": round(time.perf_counter() - begin, 2),
        "processor_seconds": round(time.process_time() - work, 2),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "messages": row["messages"], "efficiency": round(row["efficiency"], 4),
        "overtaken": row["overtaken"]}))
    return 0


def speed(only: str) -> None:
    """ResNet50, one step, each topology at 1024 and 4096; then growth with messages: packets of
    sizes that differ, so that no round repeats."""
    figures = last("explorer-speed")
    cases = [(f"{name}, n {n}, {scheme}", Point(topology=name, n=n, compression=scheme, gbs=16.0))
             for n in (1024, 4096) for name in TOPOLOGIES for scheme in ("fp32", "clt-k")
             if scheme == "fp32" or name == "ring"]
    cases += [(f"growth, ring, n {n}", Point(n=n, compression="adacomp", gbs=16.0, spread=0.05))
              for n in (256, 512, 1024, 2048, 4096)]
    for name, point in track([case for case in cases if only in case[0]], "speed"):
        answer = subprocess.run(
            [sys.executable, __file__, "--point", json.dumps(point.__dict__)],
            capture_output=True, text=True, check=True)
        figures[name] = json.loads(answer.stdout)
        print(name, answer.stdout, end="", file=sys.stderr, flush=True)
    record("explorer-speed", figures)


def overtaking() -> None:
    """Where messages overtake each other in the order of rounds, against event by event."""
    figures = {}
    for name in track(TOPOLOGIES, "order"):
        for n in (32, 64):
            if not fits(name, n):
                continue
            graph = build(name, n, 4e9, 1e-7)
            for schedule in (all_reduce("ring", graph, 25e6), all_reduce("grid", graph, 25e6),
                             all_reduce("halving", graph, 25e6),
                             all_gather("grid", graph, [4e5] * n)):
                found = rounds.simulate(graph, schedule, exact=0)
                if found.overtaken:
                    expected = events.simulate(graph, schedule).seconds
                    figures[f"{name}, n {n}, {schedule.name}, {schedule.count} messages"] = {
                        "overtaken": found.overtaken,
                        "off_percent": round(100 * (found.seconds / expected - 1), 2)}
    record("explorer-order", figures)


if __name__ == "__main__":
    sys.exit(main())
