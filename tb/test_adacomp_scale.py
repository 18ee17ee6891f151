"""The hardware that divides: every scale as the golden model has it."""

import numpy as np
from amaranth.hdl import Const
from ulpcore.compression.layer import Measured
from ulpcore.compression.scale import Scale
from ulpcore.streams import StreamModel
from ulpsim.compression.adacomp import scale_of_mean, units_to_scale


def test_scales(rng: np.random.Generator) -> None:
    """Means around every power of two, ties, one unit, nothing, 2^31; all kinds of numbers of
    bins; the points' ends."""
    cases = [(0, 1, 0), (0, 999, 0), (1, 1 << 31, 0), (1, 2, 0), (3, 2, 0), (5, 2, 0), (1, 3, 0),
             (1 << 31, 1, 0), (((1 << 31) - 1) * 7, 7, 5),
             ((1 << 63) - (1 << 31), (1 << 32) - 1, 0)]
    cases += [((1 << k) + d, bins, int(rng.integers(-96, 127))) for k in range(1, 31)
              for d in (-1, 0, 1) for bins in (1, 2, 3)]
    for _ in range(3000):
        bins = int(rng.integers(1, 1 << int(rng.integers(1, 32))))
        mean = int(rng.integers(0, 1 << int(rng.integers(1, 32))))
        ties = int(rng.choice([0, bins // 2, int(rng.integers(0, bins))]))
        cases.append((mean * bins + ties, bins, int(rng.choice([-96, 0, 126, 17]))))
    size = -(-Measured.as_shape().size // 32)
    rows = []
    for i, (total, bins, point) in enumerate(cases):
        bits = Const({"layer": i % 4096, "point": point & 0xFF, "total": total, "bins": bins},
                     Measured.as_shape()).as_value().value
        rows.append([bits >> 32 * k & 0xFFFFFFFF for k in range(size)])
    run = StreamModel(Scale()).run({"measured": np.array(rows, np.uint32)},
                                   stalls={"scales": 0.3})
    for i, ((total, bins, point), row) in enumerate(
            zip(cases, run.outputs["scales"], strict=True)):
        bits = int(row[0]) | int(row[1]) << 32
        expected = units_to_scale(scale_of_mean(total, bins), point)
        assert (bits & 0xFFF, bits >> 12) == (i % 4096, expected), (total, bins, point)
    taken = run.times["measured"]
    assert int(np.diff(taken.astype(np.int64)).min()) >= 36
