"""Figures that the explorer reads, written by `bench/explorer_data.py`; prices by hand."""

import json
from importlib import resources
from typing import Any

__all__ = ["load"]


def load(name: str) -> dict[str, Any]:
    """The contents of a file of JSON."""
    return json.loads(resources.files("ulpsim.explorer.data").joinpath(f"{name}.json").read_text())
