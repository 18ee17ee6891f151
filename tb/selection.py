"""Which parameters of a test belong to `make test`, and which to `make nightly`."""

from collections.abc import Iterable

import pytest

__all__ = ["nightly_but"]


def nightly_but(kept: str, names: Iterable[str]) -> list:
    """Parameters of a test by their names: those in `kept` in every run, the others nightly.

    Raises ValueError for a name to be kept that there is not.
    """
    names = list(names)
    if unknown := [name for name in kept.split() if name not in names]:
        raise ValueError(f"kept must name some of {', '.join(names)}, not {', '.join(unknown)}")
    return [name if name in kept.split() else pytest.param(name, marks=pytest.mark.nightly)
            for name in names]
