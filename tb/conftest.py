"""The seed of every random test: printed, and settable by ULPCORE_SEED."""

import os

import numpy as np
import pytest


def pytest_report_header() -> str:
    return f"ULPCORE_SEED={os.environ.get('ULPCORE_SEED', '1')}"


@pytest.fixture
def seed() -> int:
    value = int(os.environ.get("ULPCORE_SEED", "1"))
    print(f"ULPCORE_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
