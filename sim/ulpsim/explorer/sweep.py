"""Many steps: each a point of a sweep, computed on all cores or on a Dask cluster, and kept.

A point's result is written to a file as soon as it is there, a line of JSON for each; a sweep that
is begun again reads the file first and computes what is missing.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .compression import load_scheme
from .cost import cost_of, energy_of
from .graph import Graph, load_graph
from .networks import load_network
from .step import Settings, simulate_step
from .topologies import build

__all__ = ["Point", "evaluate", "sweep"]

SCALINGS = ("weak", "strong")


@dataclasses.dataclass(frozen=True)
class Point:
    """One step.

    Parameters
    ----------
    network, compression
        By name.
    topology
        By name, or the path of a graph in JSON, whose links then have their own speed.
    n
        Accelerators.
    batch
        Samples: of a chip for weak scaling, of all chips for strong scaling.
    scaling
        "weak" or "strong".
    tflops
        Peak of a chip.
    gbs, latency_ns
        Of a link: gigabytes (10^9) a second each way, nanoseconds.
    per_chip
        `gbs` is what leaves a chip over all its links.
    bucket_mb, lanes, spread, seed
        See `step.Settings`.
    algorithm
        Of the collectives, or "best".
    """

    network: str = "resnet50"
    topology: str = "ring"
    n: int = 16
    compression: str = "fp32"
    batch: float = 32
    scaling: str = "weak"
    tflops: float = 15.0
    gbs: float = 16.0
    latency_ns: float = 100.0
    per_chip: bool = False
    bucket_mb: float = 25.0
    lanes: int = 16
    spread: float = 0.0
    seed: int = 1
    algorithm: str = "best"

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be {' or '.join(SCALINGS)}, not {self.scaling!r}")
        if self.scaling == "strong" and self.batch < self.n:
            raise ValueError(f"a batch of {self.batch:g} cannot be shared by {self.n} chips; it "
                             f"takes at least {self.n}, or at most {int(self.batch)} chips")

    @property
    def key(self) -> str:
        """What tells it from all other points."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def graph(self) -> Graph:
        if self.topology.endswith(".json"):
            return load_graph(Path(self.topology))
        return build(self.topology, self.n, self.gbs * 1e9, self.latency_ns * 1e-9,
                     per_chip=self.per_chip)


def evaluate(point: Point) -> dict[str, Any]:
    """The point's figures: seconds, efficiency, bytes, cost, energy.

    Efficiency is against one chip: of weak scaling its time for the same batch, of strong scaling a
    part of its time for the whole batch. Raises ValueError for what cannot be.
    """
    graph = point.graph()
    n = graph.accelerators
    network, scheme = load_network(point.network), load_scheme(point.compression)
    settings = Settings(tflops=point.tflops, lanes=point.lanes, bucket_bytes=point.bucket_mb * 1e6,
                        spread=point.spread, seed=point.seed)
    batch = point.batch if point.scaling == "weak" else point.batch / n
    step = simulate_step(graph, network, batch, scheme, settings, point.algorithm)
    alone = step.compute
    if point.scaling == "strong":
        alone = _alone(point.network, point.batch, point.tflops) / n
    work = 6 * network.multiply_adds * batch * n
    cost = cost_of(graph)
    return {**dataclasses.asdict(point), "n": n, "seconds": step.seconds,
            "efficiency": alone / step.seconds, "compute": step.compute, "exposed": step.exposed,
            "exchange": step.exchange, "encode": step.encode, "decode": step.decode,
            "cause": step.cause, "by": step.algorithm, "sent_mb": step.sent / 1e6,
            "busiest": step.busiest, "messages": step.messages, "overtaken": step.overtaken,
            "samples_a_second": batch * n / step.seconds,
            "sustained_tflops": work / step.seconds / 1e12,
            "chip_gbs": graph.chip_bandwidth() / 1e9, "cost_a_chip": cost.total / n,
            "joules": energy_of(graph, step.link_bytes_each)}


@functools.lru_cache(64)
def _alone(network: str, batch: float, tflops: float) -> float:
    from .compute import step_times
    times = step_times(load_network(network), batch, tflops)
    return times.forward + times.backward


def _try(point: Point) -> dict[str, Any]:
    """A point that cannot be says why instead."""
    try:
        return evaluate(point)
    except ValueError as error:
        return {**dataclasses.asdict(point), "refused": str(error)}


def sweep(points: Iterable[Point], path: Path | None = None, *, processes: int | None = None,
          scheduler: str | None = None,
          progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
    """All points, in their order.

    Parameters
    ----------
    path
        Where results are kept and taken up again; a last line that was cut off does not count.
    processes
        How many work at once; all cores by default, 1 works in this process.
    scheduler
        Address of a Dask scheduler that is to do the work instead (extra `dask`).
    progress
        Is called with how many points there are now, and are to be.

    Points that cannot be have `refused` with the reason in place of figures. Raises ValueError if
    the extra is missing, OSError if no scheduler answers.
    """
    wanted = {point.key: point for point in points}
    order = list(wanted)
    found = _kept(path) if path else {}
    missing = [point for key, point in wanted.items() if key not in found]
    done = len(order) - len(missing)
    if progress:
        progress(done, len(order))
    file = path.open("a") if path else None
    try:
        for point, row in _work(missing, processes, scheduler):
            found[point.key] = row
            done += 1
            if file:
                file.write(json.dumps({"point": dataclasses.asdict(point), "row": row}) + "\n")
                file.flush()
            if progress:
                progress(done, len(order))
    finally:
        if file:
            file.close()
    return [found[key] for key in order]


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    if path.exists():
        text = path.read_text()
        if text and not text.endswith("\n"):
            # What was being written when the sweep was stopped.
            text = text[:text.rfind("\n") + 1]
            path.write_text(text)
        for line in text.splitlines():
            entry = json.loads(line)
            found[Point(**entry["point"]).key] = entry["row"]
    return found


def _work(points: list[Point], processes: int | None,
          scheduler: str | None) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Points with their results, as they come."""
    if scheduler is not None:
        yield from _on_dask(points, scheduler)
        return
    processes = processes or os.cpu_count() or 1
    if processes == 1 or len(points) < 2:
        for point in points:
            yield point, _try(point)
        return
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        waiting = {pool.submit(_try, point): point for point in points}
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_dask(points: list[Point], scheduler: str) -> Iterator[tuple[Point, dict[str, Any]]]:
    try:
        from distributed import Client, as_completed  # pyright: ignore[reportMissingImports]
    except ImportError as missing:
        raise ValueError(f"{missing.name} is not installed: --scheduler needs "
                         "`pip install ulpcore[dask]`") from missing
    with Client(scheduler, timeout="10s") as client:
        futures = client.map(_try, points, pure=False)
        waiting = dict(zip((future.key for future in futures), points, strict=True))
        for future in as_completed(futures):
            yield waiting[future.key], future.result()
