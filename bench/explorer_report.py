"""What a study of the explorer comes to: crossovers, as JSON and as a page."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ulpcore.explore import COLUMNS
from ulpsim.page import efficiency_plots, page, table

__all__ = ["SCHEMES", "STUDIED", "limits", "overtakes", "write"]

Rows = Sequence[dict[str, Any]]

SCHEMES = ("fp32", "fp16", "adacomp", "clt-k")
#: From the cheapest one on, at equal speed of links.
STUDIED = ("ring", "torus", "torus3", "fat-tree")
#: What is kept of a point, in this order.
KEPT = ("network", "scaling", "per_chip", "tflops", "gbs", "batch", "compression", "topology", "n",
        "by", "efficiency", "seconds", "exposed", "sent_mb", "cost_a_chip", "joules",
        "sustained_tflops", "overtaken", "cause")
ENOUGH = 0.9


def limits(rows: Rows) -> list[dict[str, Any]]:
    """For each chip, link and scheme: up to which n each topology keeps the efficiency, and which
    topology is the cheapest that does at each n."""
    found = []
    for tflops, gbs, scheme in _values(rows, "tflops", "gbs", "compression"):
        some = _where(rows, tflops=tflops, gbs=gbs, compression=scheme)
        entry: dict[str, Any] = {"tflops": tflops, "gbs": gbs, "compression": scheme}
        for topology in _values(some, "topology"):
            holds = [row["n"] for row in _where(some, topology=topology[0])
                     if row["efficiency"] >= ENOUGH]
            entry[topology[0]] = max(holds, default=0)
        for (n,) in _values(some, "n"):
            good = [row for row in _where(some, n=n) if row["efficiency"] >= ENOUGH]
            entry[f"cheapest at {n}"] = min(good, key=lambda row: row["cost_a_chip"])[
                "topology"] if good else "none"
        found.append(entry)
    return found


def overtakes(rows: Rows) -> list[dict[str, Any]]:
    """For each chip, link and topology: from which n on AdaComp's step is longer than that of other
    schemes by more than half a percent."""
    found = []
    for tflops, gbs, topology in _values(rows, "tflops", "gbs", "topology"):
        entry: dict[str, Any] = {"tflops": tflops, "gbs": gbs, "topology": topology}
        for other in ("fp32", "fp16", "clt-k"):
            slower = []
            for (n,) in _values(rows, "n"):
                here = {row["compression"]: row["seconds"] for row in _where(
                    rows, tflops=tflops, gbs=gbs, topology=topology, n=n)}
                if "adacomp" in here and other in here and \
                        here["adacomp"] > 1.005 * here[other]:
                    slower.append(n)
            entry[f"worse than {other} from"] = min(slower, default="never")
        found.append(entry)
    return found


def _values(rows: Rows, *names: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def _where(rows: Rows, **equal: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in equal.items())]


def write(rows: Rows, result: Path, target: Path) -> None:
    """The summary with all points as JSON, and the page; limits are printed."""
    good = [row for row in rows if "refused" not in row]
    main = _where(good, network="resnet50", scaling="weak", per_chip=False)
    # Points of the main part have one batch for a chip.
    holds, worse = limits(main), overtakes(main)
    kept = [[_short(row[name]) for name in KEPT] for row in good]
    lines = ",\n  ".join(json.dumps(row) for row in kept)
    result.write_text(
        f'{{\n "limits": {_lines(holds)},\n "adacomp is worse": {_lines(worse)},\n '
        f'"columns": {json.dumps(KEPT)},\n "points": [\n  {lines}\n ]\n}}\n')
    for entry in holds:
        print(json.dumps(entry))
    for entry in worse:
        print(json.dumps(entry))
    for row in good:
        row["ms"], row["exposed_ms"] = row["seconds"] * 1e3, row["exposed"] * 1e3
    target.write_text(page("The system explorer's study", _sections(good, main, holds, worse)))


def _lines(entries: Rows) -> str:
    return "[\n  " + ",\n  ".join(json.dumps(entry) for entry in entries) + "\n ]"


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _sections(good: Rows, main: Rows, holds: Rows, worse: Rows) -> list[Any]:
    def plain(entries: Rows) -> str:
        return table(entries, {name: name for name in entries[0]}) if entries else ""

    sections: list[Any] = [
        (f"Up to which n a topology keeps {ENOUGH:.0%}",
         "ResNet50, weak scaling, equal speed of links; 0: not even four chips. Costs of the "
         "cheapest are those of docs/explorer.md.", [], plain(holds)),
        ("Where AdaComp's growing volume makes it the slower choice", "", [], plain(worse))]
    for tflops, gbs in _values(main, "tflops", "gbs"):
        part = _where(main, tflops=tflops, gbs=gbs)
        sections.append((f"Chips of {tflops:g} TFLOPS, links of {gbs:g} GB/s",
                         "ResNet50, weak scaling: efficiency over accelerators.",
                         efficiency_plots(part, ["topology"], "compression"), ""))
    rest: list[tuple[str, Callable[[dict[str, Any]], bool], list[str], str]] = [
        ("Equal bandwidth of a chip", lambda row: row["per_chip"], ["compression"], "topology"),
        ("Strong scaling", lambda row: row["scaling"] == "strong", ["topology"], "compression"),
        ("Other networks, 15 TFLOPS, 4 GB/s", lambda row: row["network"] != "resnet50",
         ["network", "topology"], "compression")]
    for heading, chosen, pictures, line in rest:
        part = [row for row in good if chosen(row)]
        if part:
            columns = {name: COLUMNS[name] for name in (
                "network", "topology", "compression", "n", "by", "efficiency", "ms", "exposed_ms",
                "sent_mb", "cost_a_chip", "cause")}
            sections.append((heading, "", efficiency_plots(part, pictures, line),
                             table(part, columns)))
    return sections
