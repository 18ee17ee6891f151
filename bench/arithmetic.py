"""Speed of the models' matrix products, and their differences from exact arithmetic.

Speed: multiply-adds per second, the best of several runs. Differences: results of `matmul` that
are not those of `dot`, which computes with rationals, over random vectors of floats (wide range
of exponents, sums that cancel) and of integers. Every count must be 0; if one is not, the program
exits with 1.
"""

import argparse
import sys
import time

import numpy as np
from record import record
from ulpsim import dlfloat
from ulpsim.formats import Format, Precision
from ulpsim.matmul import dot, matmul

ROWS = 8


def operands(rng: np.random.Generator, precision: Precision, shape: tuple[int, ...],
             spread: int = 2) -> np.ndarray:
    if precision is Precision.FP16:
        return dlfloat.encode_array(rng.standard_normal(shape)
                                    * 2.0 ** rng.integers(-spread, spread + 1, shape))
    return rng.integers(0, 1 << 16, shape).astype(np.uint16)


def speed(rng: np.random.Generator, precision: Precision, size: int, runs: int) -> float:
    a = operands(rng, precision, (4 * size, size))
    w = operands(rng, precision, (size, size))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        matmul(a, w, Format(precision), Format(precision), ROWS)
        seconds.append(time.perf_counter() - start)
    return 4 * size**3 * precision.per_slot / min(seconds)


def differences(rng: np.random.Generator, precision: Precision, vectors: int) -> int:
    """Vectors of 2 tiles of which matmul and dot make different sums."""
    depth = 2 * ROWS
    a = operands(rng, precision, (vectors, depth), spread=14)
    w = operands(rng, precision, (vectors, depth), spread=14)
    if precision is Precision.FP16:
        # Half of the vectors end each tile with a product that cancels an earlier one.
        half = vectors // 2
        a[:half, ROWS - 1::ROWS] = a[:half, 2::ROWS] ^ 0x8000
        w[:half, ROWS - 1::ROWS] = w[:half, 2::ROWS]
    wrong = 0
    formats = Format(precision), Format(precision, signed=not precision.is_integer)
    for x, y in zip(a, w, strict=True):
        fast = matmul(x[None], y[:, None], *formats, ROWS)
        exact = dot(x.tolist(), y.tolist(), *formats, ROWS)
        wrong += int(fast[0, 0]) != exact
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256,
                        help="rows and columns of the weights, a quarter of the activations' rows")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the best counts")
    parser.add_argument("--vectors", type=int, default=5000,
                        help="vectors compared with exact arithmetic, for each precision")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-keep", action="store_true",
                        help="do not write the figures to bench/results")
    arguments = parser.parse_args()
    for name in ("size", "runs", "vectors"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    rng = np.random.default_rng(arguments.seed)
    wrong = {p.name: differences(rng, p, arguments.vectors) for p in Precision}
    record("arithmetic", {
        "seed": arguments.seed,
        "size": arguments.size,
        "vectors": arguments.vectors,
        "differences": wrong,
        "million_multiply_adds_per_second": {
            p.name: round(speed(rng, p, arguments.size, arguments.runs) / 1e6)
            for p in Precision},
    }, keep=not arguments.no_keep)
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
