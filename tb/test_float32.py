"""FP32 against numpy's binary32 and rationals; the array twins against the definitions."""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulpsim import dlfloat, float32
from ulpsim.formats import FORMATS, Format, Precision

EDGES = np.array([
    sign | magnitude for sign in (0, 1 << 31) for magnitude in (
        0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000,
        0x1FFFFFFF, 0x20000000, 0x33800000, 0x33800001, 0x34000000, 0x3EFFFFFF, 0x3F000000,
        0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000, 0x40200000, 0x4B000001, 0x4B7FFFFF,
        0x4F000000, 0x5F800000, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7F800001,
        0x7FC00000, 0x7FFFFFFF)], np.uint32)
INTEGERS = [f for f in FORMATS.values() if f.precision.is_integer and not f.odd]
bits = st.integers(0, (1 << 32) - 1)


def _random(rng: np.random.Generator, count: int, low: int = 0, high: int = 256) -> np.ndarray:
    fraction = rng.integers(0, 1 << 23, count) & np.where(rng.random(count) < 0.3, 0x7FF800, -1)
    return (rng.integers(0, 2, count) << 31 | rng.integers(low, high, count) << 23
            | fraction).astype(np.uint32)


def _pairs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of edges, random pairs, pairs that cancel, and pairs whose product is tiny."""
    edges = np.array(list(product(EDGES, repeat=2)), np.uint32).T
    close = _random(rng, 4_000)
    near = (close ^ np.uint32(1 << 31)) + rng.integers(0, 3, 4_000).astype(np.uint32)
    exponent = rng.integers(1, 126, 4_000)
    small = _random(rng, 4_000) & 0x807FFFFF | exponent.astype(np.uint32) << 23
    other = _random(rng, 4_000) & 0x807FFFFF | (127 - exponent).astype(np.uint32) << 23
    a = np.concatenate([edges[0], _random(rng, 4_000), close, small])
    b = np.concatenate([edges[1], _random(rng, 4_000), near, other])
    return a, b


def _native(operation: Callable, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What numpy's binary32 makes of it, with this format's zeros and NaN-Inf."""
    def canonical(values: np.ndarray) -> np.ndarray:
        values = np.where(np.abs(values) < np.float32(2.0**-126), np.float32(0), values)
        return np.where(np.isfinite(values), values, np.float32(np.nan)).astype(np.float32)

    quiet = [np.where(x & 0x7F800000 == 0x7F800000, np.uint32(0x7FC00000), x).view(np.float32)
             for x in (a, b)]
    with np.errstate(all="ignore"):
        result = canonical(operation(*map(canonical, quiet)))
    result = np.where(result == 0, np.float32(0), result).view(np.uint32)
    return np.where(result & 0x7FFFFFFF > 0x7F800000, np.uint32(0x7FC00000), result)


@pytest.mark.parametrize(("name", "operation"), [
    ("add", np.add), ("multiply", np.multiply), ("maximum", np.maximum),
    ("minimum", np.minimum)])
def test_operations(rng: np.random.Generator, name: str, operation: Callable) -> None:
    a, b = _pairs(rng)
    result = getattr(float32, f"{name}_array")(a, b)
    scalar = getattr(float32, name)
    np.testing.assert_array_equal(
        result, [scalar(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    native = _native(operation, a, b)
    if name == "multiply":
        # binary32 rounds products below 2^-126 on the coarser grid of the subnormals: some of
        # them become 2^-126 there and zero here.
        exact = np.abs(float32.to_values(a).astype(np.float64) * float32.to_values(b))
        coarse = (exact < 2.0**-126 - 2.0**-151) & (exact >= 2.0**-126 - 2.0**-150)
        assert coarse.any()
        assert not result[coarse].any()
        native[coarse] = 0
    np.testing.assert_array_equal(result, native)


def test_products_that_round_to_the_smallest() -> None:
    """2^-126 (1 + i 2^-23) (1 - i 2^-23) = 2^-126 (1 - i^2 2^-46): a tie at i^2 = 2^21."""
    for i, expected in ((1, float32.SMALLEST), (1448, float32.SMALLEST), (1449, 0), (2047, 0)):
        a, b = float32.SMALLEST + i, 0x3F800000 - 2 * i
        assert float32.multiply(a, b) == expected
        assert float32.multiply_array([a], [b]).tolist() == [expected]


@given(bits, bits)
def test_an_operation_is_nearest(a: int, b: int) -> None:
    x, y = float32.decode_exact(a), float32.decode_exact(b)
    for operation, exact in (
            (float32.add, None if x is None or y is None else x + y),
            (float32.multiply, None if x is None or y is None else x * y)):
        result = operation(a, b)
        assert result == operation(b, a)
        assert result == getattr(float32, f"{operation.__name__}_array")([a], [b])[0]
        if exact is None:
            assert result == float32.NAN
            continue
        value = float32.decode_exact(result)
        if value is None:
            assert abs(exact) >= Fraction(2) ** 128 * (1 - Fraction(1, 1 << 25))
        elif value == 0:
            assert abs(exact) < Fraction(2) ** -126
        else:
            ulp = Fraction(2) ** ((result >> 23 & 255) - 150)
            assert abs(exact - value) <= ulp / 2


def test_every_dlfloat_code_both_ways() -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    wide = float32.from_dlfloat_array(codes)
    assert wide.tolist() == [float32.from_dlfloat(code) for code in codes.tolist()]
    np.testing.assert_array_equal(float32.to_values(wide), dlfloat.decode_array(codes))
    canonical = codes.copy()
    canonical[0x8000], canonical[0xFFFF] = 0, dlfloat.NAN
    np.testing.assert_array_equal(float32.to_dlfloat_array(wide), canonical)


def test_to_dlfloat(rng: np.random.Generator) -> None:
    ties = float32.from_dlfloat_array(rng.integers(0, 1 << 16, 2_000)) | np.uint32(1 << 13)
    sample = np.concatenate([EDGES, _random(rng, 4_000, 90, 165), ties, ties - 1, ties + 1])
    result = float32.to_dlfloat_array(sample)
    assert result.tolist() == [float32.to_dlfloat(x) for x in sample.tolist()]
    assert result.tolist() == [dlfloat.encode(float32.decode(x)) for x in sample.tolist()]


def test_from_int32(rng: np.random.Generator) -> None:
    edges = np.array([0, 1, -1, 2**31 - 1, -2**31, 2**24 + 1, 2**24 + 3, -2**24 - 1, 2**25 + 2,
                      2**31 - 64, 2**31 - 65], np.int64)
    numbers = np.concatenate([edges, rng.integers(-2**31, 2**31, 5_000)])
    numbers = np.concatenate([numbers, numbers >> 5])
    words = numbers.astype(np.uint32)
    result = float32.from_int32_array(words)
    assert result.tolist() == [float32.from_int32(x) for x in words.tolist()]
    native = numbers.astype(np.float32)
    np.testing.assert_array_equal(result, native.view(np.uint32))


@pytest.mark.parametrize("target", INTEGERS, ids=str)
def test_to_integer(rng: np.random.Generator, target: Format) -> None:
    halves = float32.encode_array(np.arange(-600, 601) / 4)
    sample = np.concatenate([EDGES, halves, halves - 1, halves + 1, _random(rng, 2_000, 120, 140)])
    result = float32.to_integer_array(sample, target)
    assert result.tolist() == [float32.to_integer(x, target) for x in sample.tolist()]
    for x, integer in zip(sample.tolist(), result.tolist(), strict=True):
        value = float32.decode(x)
        nearest = 0 if math.isnan(value) else round(value)
        assert integer == max(target.lowest, min(target.highest, nearest))


@pytest.mark.parametrize("source", [f for f in FORMATS.values() if not f.odd], ids=str)
def test_from_code(source: Format) -> None:
    codes = np.arange(1 << source.precision.bits)
    result = float32.from_code_array(codes, source)
    assert result.tolist() == [float32.from_code(code, source) for code in codes.tolist()]
    values = float32.to_values(result)
    if source.precision is Precision.BINARY:
        assert values.tolist() == [-1.0, 1.0]
    if source.precision.is_integer:
        assert sorted(values.tolist()) == list(range(source.lowest, source.highest + 1))
        np.testing.assert_array_equal(values % (1 << source.precision.bits), codes)
    with pytest.raises(ValueError, match=f"code of {source} must be from 0 to"):
        float32.from_code(1 << source.precision.bits, source)


@pytest.mark.parametrize("bias", [0, 7, 11, 15])
@pytest.mark.parametrize("name", ["FP16", "E4M3", "E5M2", "BINARY", "INT8", "UINT2"])
def test_to_code(rng: np.random.Generator, name: str, bias: int) -> None:
    """Around every value of the format and every tie between two of them, and at the edges."""
    target = dataclasses.replace(FORMATS[name], bias=bias)
    codes = np.arange(0, 1 << target.precision.bits, 61 if name == "FP16" else 1)
    values = np.unique(float32.code_to_values(codes, target).astype(np.float64))
    values = values[np.isfinite(values)]
    middles = (values[1:] + values[:-1]) / 2
    near = float32.encode_array(np.concatenate([values, middles]))
    sample = np.concatenate([EDGES, near, near + 1, near - 1, _random(rng, 2_000, 100, 150)])
    result = float32.to_code_array(sample, target)
    assert result.tolist() == [float32.to_code(x, target) for x in sample.tolist()]
    exact = float32.encode_array(values)
    back = float32.code_to_values(float32.to_code_array(exact, target), target)
    if target.precision is not Precision.BINARY:
        np.testing.assert_array_equal(back.astype(np.float64), values)


def test_odd_formats_are_not_written() -> None:
    for convert in (float32.to_code, float32.to_code_array):
        with pytest.raises(ValueError, match="target must be a format that can be written, not "
                                             "ODD4"):
            convert(0, FORMATS["ODD4"])


@pytest.mark.parametrize(("value", "code"), [
    (1, 0x3F800000), (-1.5, 0xBFC00000), (Fraction(1, 3), 0x3EAAAAAB), (0.1, 0x3DCCCCCD),
    (float("inf"), 0x7FC00000), (float("nan"), 0x7FC00000), (-0.0, 0), (2**128, 0x7FC00000),
    (2**128 - 2**103, 0x7FC00000), (2**128 - 2**103 - 1, 0x7F7FFFFF),
    (Fraction(1, 2**126), 0x00800000), (Fraction(2**25 - 1, 2**151), 0x00800000),
    (Fraction(2**26 - 3, 2**152), 0), (Fraction(1, 2**200), 0),
])
def test_encode(value: float | Fraction, code: int) -> None:
    assert float32.encode(value) == code
    if not isinstance(value, int) or value < 2**53:
        assert float32.encode_array([float(value)])[0] == code


@pytest.mark.parametrize("word", [-1, 1 << 32])
def test_bits_are_32(word: int) -> None:
    with pytest.raises(ValueError, match="bits must be from 0 to 0xFFFFFFFF"):
        float32.decode(word)
