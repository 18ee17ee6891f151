"""The serial check of where a region of rows ends."""

import numpy as np
import pytest
from ulpcore.extent import Extent
from ulpcore.simulation import run_vectors


@pytest.mark.parametrize("width", [20, 32])
def test_ends_are_exact_or_saturate(width, rng):
    count, top = 400, (1 << width) - 1
    rows = rng.integers(1, 1 << 16, count)
    shifts = rng.integers(0, width, (3, count))
    pitch, first, length = (rng.integers(0, top + 1, count) >> shift for shift in shifts)
    # Limits: one row, all ones, and ends just below and just at the top.
    rows[:4], pitch[:4], first[:4], length[:4] = 1, top, [0, 0, 1, top], [top, 1, top, top]
    rows[4:6], pitch[4:6] = 0xFFFF, [top, 1]
    period = Extent.latency + 2
    held = {name: np.repeat(values, period).astype(np.uint64) for name, values in
            {"rows": rows, "pitch": pitch, "first": first, "length": length}.items()}
    start = np.zeros(count * period, int)
    start[::period] = 1
    out = run_vectors(Extent(width=width), {"start": start, **held}, flush=period)
    done = np.flatnonzero(out["done"])
    assert (done == np.arange(count) * period + Extent.latency).all()
    exact = [int(f) + (int(r) - 1) * int(p) + int(n)
             for f, r, p, n in zip(first, rows, pitch, length, strict=True)]
    for got, end in zip(out["end"][done].tolist(), exact, strict=True):
        assert got == end if end <= top else got > top


@pytest.mark.parametrize("width", [0, "20"])
def test_bad_widths_are_refused(width):
    with pytest.raises(ValueError, match="width must be a positive integer, not"):
        Extent(width=width)
