"""The seed of every random test, printed and settable by ULPCORE_SEED; results kept as JSON."""

import os
from pathlib import Path

import numpy as np
import pytest
from results import Results


def pytest_report_header() -> str:
    return f"ULPCORE_SEED={os.environ.get('ULPCORE_SEED', '1')}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, metavar="FILE.json",
                     help="write what was run, and what came of it, to this file")


def pytest_configure(config: pytest.Config) -> None:
    # All but the long regressions simulate a model for less time than it takes to compile it.
    if config.getoption("markexpr") != "nightly":
        os.environ.setdefault("ULPCORE_OPTIMISATION", "1")
    path = config.getoption("--results")
    # With xdist the workers report to the process that was called.
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(path, config.getoption("markexpr")))


@pytest.fixture
def seed() -> int:
    value = int(os.environ.get("ULPCORE_SEED", "1"))
    print(f"ULPCORE_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
