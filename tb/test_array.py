"""The array against multiply-adds in the written order; tiles follow each other without a gap."""

import dataclasses
import gc

import numpy as np
import pytest
from selection import nightly_but
from ulpcore.array import Array
from ulpcore.simulation import run_vectors
from ulpsim import dlfloat, fp8
from ulpsim.config import NANO, CoreConfig
from ulpsim.formats import Format, Precision, multipliable
from ulpsim.integers import values
from ulpsim.matmul import weight_ratio

EDGE = CoreConfig()
CONFIGS = {
    "edge": EDGE,
    "nano": NANO,
    "float": dataclasses.replace(EDGE, formats=(Precision.FP16,), multiply_add_stages=5),
    "lanes": dataclasses.replace(EDGE, columns=2, lanes=4, rows=4, multiply_add_stages=6,
                                 formats=(Precision.FP16, Precision.INT8)),
    "fast": dataclasses.replace(EDGE, rows=2, multiply_add_stages=2),
    "fp8": dataclasses.replace(EDGE, rows=4, multiply_add_stages=5, formats=(
        Precision.FP16, Precision.E4M3)),
    "fp8_integers": dataclasses.replace(EDGE, rows=2, multiply_add_stages=3, formats=(
        Precision.FP16, Precision.E5M2, Precision.INT8, Precision.INT2)),
    "binary": dataclasses.replace(NANO, formats=(Precision.BINARY,)),
    "float_binary": dataclasses.replace(EDGE, rows=4, formats=(
        Precision.FP16, Precision.BINARY)),
    "folded": dataclasses.replace(EDGE, lanes=2, special_lanes=4, fold=2,
                                  formats=tuple(Precision)),
    "folded_float": dataclasses.replace(EDGE, columns=4, lanes=8, special_lanes=8, fold=4, rows=2,
                                        formats=(Precision.FP16,)),
    "folded_integers": dataclasses.replace(NANO, columns=16, lanes=2, special_lanes=8, fold=4),
    "three": dataclasses.replace(EDGE, columns=4, lanes=2, rows=2, multiply_add_stages=3),
}


@dataclasses.dataclass
class Tile:
    activation: Format
    weight: Format
    part: int                       # of the weights' slots in the first row
    weights: np.ndarray             # [rows, N]
    vectors: np.ndarray             # [M, groups * rows]
    depths: list[int]               # rows that count in each group
    pause: int                      # cycles without a vector after it

    @property
    def precision(self) -> Precision:
        return self.activation.precision

    @property
    def parts(self) -> np.ndarray:
        """Which part of the weights' slots counts in each row."""
        ratio = weight_ratio(self.precision, self.weight.precision)
        return (self.part + np.arange(len(self.weights))) % ratio

    def sums(self, bits: int) -> np.ndarray:
        """[M, N] as the array gives them."""
        vectors = np.split(self.vectors, len(self.depths), axis=1)
        weights = np.split(self.weights, len(self.depths), axis=1)
        return np.concatenate([self.group_sums(bits, *group) for group in zip(
            vectors, weights, self.depths, strict=True)], axis=1)

    def group_sums(self, bits: int, vectors: np.ndarray, weights: np.ndarray,
                   depth: int) -> np.ndarray:
        if self.precision.is_float:
            total = np.zeros((len(vectors), weights.shape[1]))
            for row in range(depth):
                a, w = vectors[:, row, None], weights[row]
                if self.precision is Precision.FP16:
                    total = dlfloat.fma_values(
                        dlfloat.decode_array(a), dlfloat.decode_array(w), total)
                else:
                    left, right = fp8.of(self.activation), fp8.of(self.weight)
                    total = fp8.fma2_values(
                        left.decode_array(a & 0xFF), right.decode_array(w & 0xFF),
                        left.decode_array(a >> 8), right.decode_array(w >> 8), total)
            return dlfloat.encode_array(total).astype(np.uint64)
        if not depth:
            return np.zeros((len(vectors), weights.shape[1]), np.uint64)
        a = values(vectors[:, :depth], self.activation)
        w = values(weights[:depth, :, None], self.weight)
        per_slot = self.precision.per_slot
        w = np.concatenate([w[row, :, part * per_slot:(part + 1) * per_slot]
                            for row, part in enumerate(self.parts[:depth])], axis=1)
        return (a @ w.T % (1 << bits)).astype(np.uint64)


def random_format(precision: Precision, bias: int, rng: np.random.Generator,
                  odd: float = 0.0) -> Format:
    signed = not precision.is_integer or rng.random() < 0.5
    return Format(precision, signed, precision.is_integer and signed and rng.random() < odd, bias)


def random_tile(config: CoreConfig, bias: int, rng: np.random.Generator) -> Tile:
    """Slots of any value, moderate ones (whose sums stay finite) or all at an extreme."""
    precision = rng.choice(np.array(config.formats, object))
    partners = [p for p in config.formats if multipliable(precision, p)]
    weight = random_format(rng.choice(np.array(partners, object)), bias, rng, odd=0.5)
    ratio = weight_ratio(precision, weight.precision)
    vectors = config.minimum_tile_period + int(rng.integers(0, 3) * rng.integers(0, 9))
    kind = rng.integers(0, 4)

    def slots(precision: Precision, *shape: int) -> np.ndarray:
        values = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        if kind and precision is Precision.FP16:
            return values & 0x83FF | np.uint16(0x3800) - (values & np.uint16(0x0400))
        if kind and precision.is_fp8:
            return values & (0xBFBF if kind > 1 else 0x9F9F)
        if kind == 3:
            code = rng.choice([0, 1 << precision.bits - 1, (1 << precision.bits) - 1,
                               max(1, (1 << precision.bits - 1) - 1)])
            values[:] = code * (0xFFFF // ((1 << precision.bits) - 1))
        return values

    weights = slots(weight.precision, config.rows, config.column_lanes)
    depths = []
    for group in np.split(weights, config.fold, axis=1):
        depths.append(int(rng.integers(bool(depths), config.rows + 1)) if rng.random() < 0.5
                      else config.rows)
        group[depths[-1]:] = 0
    return Tile(random_format(precision, bias, rng), weight, part=int(rng.integers(ratio)),
                weights=weights, depths=depths,
                vectors=slots(precision, vectors, config.fold * config.rows),
                pause=int(rng.integers(0, 4) if rng.random() < 0.3 else 0))


@pytest.mark.parametrize("name", nightly_but("edge nano float_binary folded_float",
                                             CONFIGS))
def test_tiles_follow_each_other(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    array = Array(config=config)
    assert array.next_weights + 2 <= config.minimum_tile_period
    bias = int(rng.integers(16))
    tiles = [random_tile(config, bias, rng) for _ in range(300)]
    starts, cycle = [], 2 + config.rows
    for tile in tiles:
        starts.append(cycle)
        cycle += len(tile.vectors) + tile.pause
    cycles = cycle + array.latency + config.columns

    columns = {n: rng.integers(0, 2, cycles, dtype=np.uint64) for n in (
        "activation_signed", "vector_weight_signed", "vector_odd", "weight_signed", "overwrite",
        "last", "swap")}
    columns |= {n: rng.choice([p.value for p in config.formats], cycles).astype(np.uint64)
                for n in ("precision", "weight_precision", "weight_target")}
    columns["weight_part"] = rng.integers(0, 8, cycles, dtype=np.uint64)
    columns["forward_bias"] = np.full(cycles, bias, np.uint64)
    columns["valid"] = np.zeros(cycles, np.uint64)
    columns["weight_valid"] = np.zeros(cycles, np.uint64)
    columns["mask"] = rng.integers(0, 1 << config.fold * config.rows, cycles, dtype=np.uint64)
    columns["weight_row"] = rng.integers(0, config.rows, cycles, dtype=np.uint64)
    columns["address"] = rng.integers(0, config.accumulator_depth, cycles, dtype=np.uint64)
    columns["post"] = rng.integers(0, 16, cycles, dtype=np.uint64)
    vector = rng.integers(0, 1 << 16, (cycles, config.fold * config.rows), dtype=np.uint16)
    weights = rng.integers(0, 1 << 16, (cycles, config.column_lanes), dtype=np.uint16)
    for i, (tile, start) in enumerate(zip(tiles, starts, strict=True)):
        rows = slice(start, start + len(tile.vectors))
        vector[rows] = tile.vectors
        columns["valid"][rows] = 1
        columns["swap"][rows] = 0
        columns["swap"][start] = 1
        columns["precision"][rows] = tile.precision.value
        signs = tile.precision.is_integer and tile.weight.precision is Precision.BINARY
        signed = tile.weight.signed and tile.weight.precision.is_integer
        columns["activation_signed"][rows] = tile.activation.signed and tile.precision.is_integer
        columns["vector_weight_signed"][rows] = signed or signs
        columns["vector_odd"][rows] = tile.weight.odd or signs
        columns["mask"][rows] = sum(
            (1 << depth) - 1 << group * config.rows for group, depth in enumerate(tile.depths))
        # As late as the rules allow, or as early.
        earliest = starts[i - 1] + array.next_weights if i else 0
        assert earliest < start - 1
        given = start - 2 if i % 2 else earliest
        rows = slice(given, given + config.rows)
        weights[rows] = tile.weights
        columns["weight_valid"][rows] = 1
        columns["weight_row"][rows] = np.arange(config.rows)
        columns["weight_precision"][rows] = tile.weight.precision.value
        columns["weight_target"][rows] = tile.precision.value
        columns["weight_signed"][rows] = signed
        columns["weight_part"][rows] = tile.parts

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
                f"tile {i}, output {n}: {tile.activation} by {tile.weight}")


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
