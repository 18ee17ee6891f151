"""The accumulators against sums in Python, with the skew and the latency that are promised."""

import dataclasses
import gc

import numpy as np
import pytest
from ulpcore.accumulators import Accumulators
from ulpcore.simulation import run_vectors
from ulpsim import float32
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.formats import Precision

_CONFIGS = {
    "edge": EDGE,
    "nano": NANO,
    "float_only": dataclasses.replace(EDGE, name="float_only", formats=(Precision.FP16,)),
    "lanes": dataclasses.replace(EDGE, name="lanes", columns=4, lanes=2, accumulator_depth=64),
    # Each quarter of the columns is read at an address of its own.
    "quarters": dataclasses.replace(EDGE, name="quarters", columns=4, lanes=4, special_lanes=8,
                                    accumulator_depth=64),
}


def _addresses(rng: np.random.Generator, cycles: int, depth: int, apart: int) -> np.ndarray:
    """Addresses none of which comes twice within `apart` cycles; many come just `apart` later."""
    addresses = rng.integers(0, depth, cycles)
    for t in range(apart, cycles):
        if rng.random() < 0.5:
            addresses[t] = addresses[t - apart]
        while addresses[t] in addresses[t - apart + 1:t]:
            addresses[t] = rng.integers(0, depth)
    return addresses


def _sums(rng: np.random.Generator, config: CoreConfig, cycles: int,
          is_float: np.ndarray) -> np.ndarray:
    """Partial sums [cycles, N] as bits; floats are mostly of moderate size, some are NaN-Inf."""
    shape = (cycles, config.column_lanes)
    bits = config.partial_sum_bits
    integers = rng.integers(-1 << (bits - 1), 1 << (bits - 1), shape) & ((1 << bits) - 1)
    codes = (rng.integers(0, 2, shape) << 15 | rng.integers(20, 44, shape) << 9
             | rng.integers(0, 512, shape))
    codes = np.where(rng.random(shape) < 0.1, rng.integers(0, 1 << 16, shape), codes)
    codes = np.where(rng.random(shape) < 0.01, 0x7FFF, codes)
    # What stands above the code has no meaning.
    codes |= integers & ~0xFFFF
    return np.where(is_float[:, None], codes, integers)


def _expected_sums(config: CoreConfig, sums: np.ndarray, valid: np.ndarray, address: np.ndarray,
                   overwrite: np.ndarray, is_float: np.ndarray) -> np.ndarray:
    """What each vector's address holds after it, [cycles, N]."""
    bits = config.partial_sum_bits
    integers = (np.where(sums >> (bits - 1), sums - (1 << bits), sums) & 0xFFFFFFFF
                ).astype(np.uint32)
    floats = float32.from_dlfloat_array((sums & 0xFFFF).astype(np.uint16))
    memory = np.zeros((config.accumulator_depth, config.column_lanes), np.uint32)
    result = np.zeros(sums.shape, np.uint32)
    for t in np.flatnonzero(valid):
        old = memory[address[t]] * np.uint32(not overwrite[t])
        new = float32.add_array(old, floats[t]) if is_float[t] else old + integers[t]
        memory[address[t]] = result[t] = new
    return result


@pytest.mark.parametrize("name", _CONFIGS)
def test_accumulators(rng: np.random.Generator, name: str) -> None:
    config = _CONFIGS[name]
    depth, lanes, latency = config.accumulator_depth, config.lanes, config.accumulate_latency
    # Every address is written first, then all happens at random.
    cycles = depth + 12_000
    address = np.concatenate([np.arange(depth), _addresses(rng, cycles - depth, depth, latency)])
    valid = np.where(np.arange(cycles) < depth, 1, rng.random(cycles) < 0.9).astype(bool)
    overwrite = np.where(np.arange(cycles) < depth, 1, rng.random(cycles) < 0.1).astype(bool)
    # The formats take turns, each overwriting first what the other one left.
    is_float = np.full(cycles, config.has_float)
    if config.has_float and config.has_integer:
        is_float = (address & 1).astype(bool)
    last = rng.random(cycles) < 0.2
    post = rng.integers(0, 16, cycles)
    shape = cycles, 1 if config.special_vectors == 1 else config.phases
    read_address = np.where(rng.random(shape) < 0.5, np.roll(address, latency)[:, None],
                            rng.integers(0, depth, shape))
    sums = _sums(rng, config, cycles, is_float)

    end = config.columns + latency
    skewed = np.zeros((cycles, config.column_lanes), np.int64)
    for index in range(config.column_lanes):
        skewed[:, index] = np.roll(sums[:, index], index // lanes)
    words = _pack(skewed, config.partial_sum_bits)
    outputs = run_vectors(Accumulators(config=config), {
        "sums": words, "valid": valid.astype(int), "address": address,
        "overwrite": overwrite.astype(int), "is_float": is_float.astype(int),
        "last": last.astype(int), "post": post, "read_address": _port(
            read_address, (depth - 1).bit_length())})

    expected = _expected_sums(config, sums, valid, address, overwrite, is_float)
    visible = np.zeros((depth, config.column_lanes), np.uint32)
    read = np.zeros((cycles, config.column_lanes), np.uint32)
    for t in range(cycles - 1):
        for index in range(config.column_lanes):
            written = t - latency - index // lanes
            if written >= 0 and valid[written]:
                visible[address[written], index] = expected[written, index]
        addresses = np.repeat(read_address[t], config.column_lanes // len(read_address[t]))
        read[t + 1] = visible[addresses, np.arange(config.column_lanes)]
    known = slice(depth + end, None)
    np.testing.assert_array_equal(outputs["read_data"][known], read[known])

    retired = np.roll(last & valid, end - 1)[end:]
    np.testing.assert_array_equal(outputs["retired"][end:], retired)
    np.testing.assert_array_equal(outputs["retired_post"][end:][retired],
                                  np.roll(post, end - 1)[end:][retired])
    assert retired.sum() > 1000


def _port(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers of `bits` bits as one number each."""
    return (values << (bits * np.arange(values.shape[1]))).sum(1)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers of `bits` bits, the first lowest, as rows of 32-bit words."""
    flat = (values[:, :, None] >> np.arange(bits) & 1).reshape(len(values), -1).astype(np.uint8)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return np.packbits(flat, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_what_is_not_a_configuration() -> None:
    with pytest.raises(TypeError, match="config must be a CoreConfig, not 'edge'"):
        Accumulators(config="edge")  # type: ignore[arg-type]
    gc.collect()
