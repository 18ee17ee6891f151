"""Figures as JSON: printed, compared with the last ones, and kept."""

import json
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "last", "record"]

RESULTS = Path(__file__).parent / "results"


def last(name: str) -> dict[str, Any]:
    """The figures that were kept last; none if there are no such ones."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def record(name: str, figures: dict[str, Any], *, keep: bool = True) -> None:
    """Print figures as JSON, beside each number that changed the last one, and keep them.

    The last figures stand in `bench/results/NAME.json`, which is committed.
    """
    print(json.dumps({name: figures}, indent=2))
    before, now = dict(_numbers(last(name))), dict(_numbers(figures))
    for key, value in now.items():
        if key in before and before[key] != value:
            change = f" ({value / before[key] - 1:+.1%})" if before[key] else ""
            print(f"# {name}.{key}: {before[key]} -> {value}{change}")
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def _numbers(value: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items()
                for pair in _numbers(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        return [pair for index, inner in enumerate(value)
                for pair in _numbers(inner, f"{prefix}[{index}]")]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [(prefix, value)]
    return []
