"""The array against multiply-adds in the written order; tiles follow each other without a gap."""

import dataclasses
import gc

import numpy as np
import pytest
from ulpcore.array import Array
from ulpcore.simulation import run_vectors
from ulpsim import dlfloat
from ulpsim.config import NANO, CoreConfig
from ulpsim.formats import Format, Precision
from ulpsim.integers import unpack

EDGE = CoreConfig()
CONFIGS = {
    "edge": EDGE,
    "nano": NANO,
    "float": dataclasses.replace(EDGE, formats=(Precision.FP16,), multiply_add_stages=5),
    "lanes": dataclasses.replace(EDGE, columns=2, lanes=4, rows=4, multiply_add_stages=6,
                                 formats=(Precision.FP16, Precision.INT8)),
    "fast": dataclasses.replace(EDGE, rows=2, multiply_add_stages=2),
    "three": dataclasses.replace(EDGE, columns=4, lanes=2, rows=2, multiply_add_stages=3),
}


@dataclasses.dataclass
class Tile:
    precision: Precision
    activation_signed: bool
    weight_signed: bool
    weights: np.ndarray             # [rows, N]
    vectors: np.ndarray             # [M, rows]
    depth: int                      # rows that count
    pause: int                      # cycles without a vector after it

    def sums(self, bits: int) -> np.ndarray:
        """[M, N] as the array gives them."""
        if self.precision.is_float:
            total = np.zeros((len(self.vectors), self.weights.shape[1]), np.uint16)
            for row in range(len(self.weights)):
                a = self.vectors[:, row, None] if row < self.depth else np.uint16(0)
                total = dlfloat.fma_array(a, self.weights[row], total)
            return total.astype(np.uint64)
        a = unpack(self.vectors[:, :self.depth], Format(self.precision, self.activation_signed))
        w = unpack(self.weights[:self.depth].T, Format(self.precision, self.weight_signed))
        return (a @ w.T % (1 << bits)).astype(np.uint64)


def random_tile(config: CoreConfig, rng: np.random.Generator) -> Tile:
    """Slots of any value, moderate ones (whose sums stay finite) or all at an extreme."""
    precision = rng.choice(np.array(config.formats, object))
    vectors = config.minimum_tile_period + int(rng.integers(0, 3) * rng.integers(0, 9))
    kind = rng.integers(0, 4)

    def slots(*shape: int) -> np.ndarray:
        values = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        if kind and precision.is_float:
            return values & 0x83FF | np.uint16(0x3800) - (values & np.uint16(0x0400))
        if kind == 3:
            code = rng.choice([0, 1 << precision.bits - 1, (1 << precision.bits) - 1,
                               (1 << precision.bits - 1) - 1])
            values[:] = code * (0xFFFF // ((1 << precision.bits) - 1))
        return values

    return Tile(precision, *(not precision.is_float and rng.random() < 0.5 for _ in range(2)),
                weights=slots(config.rows, config.column_lanes),
                vectors=slots(vectors, config.rows),
                depth=int(rng.integers(1, config.rows + 1)) if rng.random() < 0.5 else config.rows,
                pause=int(rng.integers(0, 4) if rng.random() < 0.3 else 0))


@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_follow_each_other(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    array = Array(config=config)
    assert array.next_weights + 1 <= config.minimum_tile_period
    tiles = [random_tile(config, rng) for _ in range(150)]
    starts, cycle = [], 2 + config.rows
    for tile in tiles:
        starts.append(cycle)
        cycle += len(tile.vectors) + tile.pause
    cycles = cycle + array.latency + config.columns

    columns = {n: rng.integers(0, 2, cycles, dtype=np.uint64) for n in (
        "activation_signed", "vector_weight_signed", "weight_signed", "overwrite", "last", "swap")}
    columns |= {n: rng.choice([p.value for p in config.formats], cycles).astype(np.uint64)
                for n in ("precision", "weight_precision")}
    columns["valid"] = np.zeros(cycles, np.uint64)
    columns["weight_valid"] = np.zeros(cycles, np.uint64)
    columns["mask"] = rng.integers(0, 1 << config.rows, cycles, dtype=np.uint64)
    columns["weight_row"] = rng.integers(0, config.rows, cycles, dtype=np.uint64)
    columns["address"] = rng.integers(0, config.accumulator_depth, cycles, dtype=np.uint64)
    columns["post"] = rng.integers(0, 16, cycles, dtype=np.uint64)
    vector = rng.integers(0, 1 << 16, (cycles, config.rows), dtype=np.uint16)
    weights = rng.integers(0, 1 << 16, (cycles, config.column_lanes), dtype=np.uint16)
    for i, (tile, start) in enumerate(zip(tiles, starts, strict=True)):
        rows = slice(start, start + len(tile.vectors))
        vector[rows] = tile.vectors
        columns["valid"][rows] = 1
        columns["swap"][rows] = 0
        columns["swap"][start] = 1
        columns["precision"][rows] = tile.precision.value
        columns["activation_signed"][rows] = tile.activation_signed
        columns["vector_weight_signed"][rows] = tile.weight_signed
        columns["mask"][rows] = (1 << tile.depth) - 1
        # As late as the rules allow, or as early.
        earliest = starts[i - 1] + array.next_weights if i else 0
        assert earliest < start
        given = start - 1 if i % 2 else earliest
        rows = slice(given, given + config.rows)
        weights[rows] = tile.weights
        columns["weight_valid"][rows] = 1
        columns["weight_row"][rows] = np.arange(config.rows)
        columns["weight_precision"][rows] = tile.precision.value
        columns["weight_signed"][rows] = tile.weight_signed

    out = run_vectors(array, {**columns, "vector": words(vector), "weights": words(weights)})
    valid = np.zeros(cycles, np.uint64)
    valid[array.latency:] = columns["valid"][:-array.latency]
    np.testing.assert_array_equal(out["sum_valid"], valid)
    for sideband in ("address", "overwrite", "last", "post"):
        np.testing.assert_array_equal(out[f"sum_{sideband}"][array.latency:],
                                      columns[sideband][:-array.latency])
    sums = fields(out["sums"], config.partial_sum_bits, config.column_lanes)
    for i, (tile, start) in enumerate(zip(tiles, starts, strict=True)):
        first = start + array.latency
        assert (out["sum_is_float"][first:first + len(tile.vectors)]
                == tile.precision.is_float).all()
        expected = tile.sums(config.partial_sum_bits)
        for n in range(config.column_lanes):
            column = first + n // config.lanes
            np.testing.assert_array_equal(
                sums[column:column + len(tile.vectors), n], expected[:, n],
                f"tile {i}, output {n}: {tile.precision}")


def words(slots: np.ndarray) -> np.ndarray:
    """The value of a port of slots."""
    wide = np.ascontiguousarray(slots).view(np.uint32)
    if wide.shape[1] == 1:
        return wide[:, 0]
    if wide.shape[1] == 2:
        return np.ascontiguousarray(wide).view(np.uint64)[:, 0]
    return wide


def fields(port: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The elements (cycles, count) of an array port."""
    if port.ndim == 1:
        port = np.ascontiguousarray(port).view(np.uint32).reshape(len(port), -1)
    raw = np.unpackbits(np.ascontiguousarray(port).view(np.uint8), axis=1, bitorder="little")
    raw = raw[:, :bits * count].reshape(len(port), count, bits)
    return (raw.astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(axis=2)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_bad_config_is_refused() -> None:
    with pytest.raises(TypeError, match="config must be a CoreConfig, not 3"):
        Array(config=3)  # type: ignore[arg-type]
    gc.collect()
