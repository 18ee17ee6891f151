"""DLFloat16 against integers, rationals and gfloat; the array twin against the definition."""

import doctest
from fractions import Fraction
from itertools import product
from pathlib import Path

import gfloat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulpsim import dlfloat

CODES = np.arange(1 << 16, dtype=np.uint16)
GFLOAT = gfloat.FormatInfo(
    "dlf16", 16, 10, bias=31, is_signed=True, domain=gfloat.Domain.Finite, has_nz=True,
    num_high_nans=1, has_subnormals=False, is_twos_complement=False)
codes = st.integers(0, 0xFFFF)
tiny = Fraction(1, 1 << 80)


def _fixed(code: int) -> int | None:
    """The value of a code in units of 2^-40."""
    magnitude = code & 0x7FFF
    if magnitude == 0x7FFF:
        return None
    if magnitude == 0:
        return 0
    value = (512 | magnitude & 511) << (magnitude >> 9)
    return -value if code >> 15 else value


FIXED = [_fixed(code) for code in range(1 << 16)]


def integer_fma(a: int, b: int, c: int) -> int:
    """a * b + c in integers: no rational, no float, no word in common with the models."""
    x, y, z = FIXED[a], FIXED[b], FIXED[c]
    if x is None or y is None or z is None:
        return 0x7FFF
    total = x * y + (z << 40)                        # in units of 2^-80
    magnitude = abs(total)
    length = magnitude.bit_length()
    if length == 0:
        return 0
    if length > 10:
        magnitude = (magnitude + (1 << (length - 11))) >> (length - 10)
        if magnitude == 1024:
            magnitude, length = 512, length + 1
    else:
        magnitude <<= 10 - length
    exponent = length - 50
    if exponent < 0 or (exponent == 0 and magnitude == 512):
        return 0
    if exponent > 63 or (exponent == 63 and magnitude == 1023):
        return 0x7FFF
    return (total < 0) << 15 | exponent << 9 | magnitude - 512


def _codes(rng: np.random.Generator, count: int, low: int = 0, high: int = 64) -> np.ndarray:
    return (rng.integers(0, 2, count) << 15 | rng.integers(low, high, count) << 9
            | rng.integers(0, 512, count)).astype(np.uint16)


def _random(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    return _codes(rng, count), _codes(rng, count), _codes(rng, count)


def _cancellation(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """c is a few units from -a * b."""
    a, b = _codes(rng, count, 8, 56), _codes(rng, count, 8, 56)
    c = dlfloat.encode_array(-dlfloat.decode_array(a) * dlfloat.decode_array(b))
    return a, b, (c + rng.integers(-2, 3, count)).astype(np.uint16)


def _disturbed_ties(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """a * b is a tie, or next to one, and c anything from half an ulp to nearly nothing."""
    a, b = _codes(rng, count, 16), _codes(rng, count, 16)
    a = (a & 0xFE00) | rng.choice([1, 3, 255, 511, 0], count)
    b = (b & 0xFE00) | rng.choice([256, 0, 128, 384], count)
    return a.astype(np.uint16), b.astype(np.uint16), _codes(rng, count, 0, 40)


def _limits(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Results around the smallest and the largest value."""
    exponent = rng.integers(0, 64, count)
    total = np.where(rng.random(count) < 0.5, rng.integers(28, 34, count),
                     rng.integers(91, 96, count))
    other = np.clip(total - exponent, 0, 63)
    a = _codes(rng, count) & 0x81FF | exponent << 9
    b = _codes(rng, count) & 0x81FF | other << 9
    c = np.where(total < 50, _codes(rng, count, 0, 2), _codes(rng, count, 50))
    c[::4] = 0
    return a.astype(np.uint16), b.astype(np.uint16), c.astype(np.uint16)


@pytest.mark.parametrize("cases", [_random, _cancellation, _disturbed_ties, _limits])
def test_fma_array_is_exact(rng: np.random.Generator, cases) -> None:
    a, b, c = cases(rng, 250_000)
    expected = np.array(list(map(integer_fma, a.tolist(), b.tolist(), c.tolist())), np.uint16)
    np.testing.assert_array_equal(dlfloat.fma_array(a, b, c), expected)


@pytest.mark.parametrize("cases", [_random, _cancellation, _disturbed_ties, _limits])
def test_fma_is_exact(rng: np.random.Generator, cases) -> None:
    for a, b, c in zip(*(x.tolist() for x in cases(rng, 5_000)), strict=True):
        assert dlfloat.fma(a, b, c) == integer_fma(a, b, c)


EDGES = [0x0000, 0x8000, 0x0001, 0x8001, 0x0002, 0x0100, 0x01FF, 0x0200, 0x3DFF, 0x3E00, 0x3E01,
         0xBE00, 0x3F00, 0x7DFF, 0x7E00, 0x7FFD, 0x7FFE, 0xFFFE, 0x7FFF, 0xFFFF]


def test_fma_of_all_edges() -> None:
    a, b, c = np.array(list(product(EDGES, repeat=3)), np.uint16).T
    expected = [integer_fma(*map(int, case)) for case in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(dlfloat.fma_array(a, b, c), expected)
    assert [dlfloat.fma(*map(int, case)) for case in zip(a, b, c, strict=True)] == expected


@given(codes, codes, codes)
def test_fma_as_a_function(a: int, b: int, c: int) -> None:
    """Nearest among its neighbours, commutative, odd in sign, canonical."""
    result = dlfloat.fma(a, b, c)
    x, y, z = map(dlfloat.decode_exact, (a, b, c))
    assert result not in (0x8000, 0xFFFF)
    assert result == dlfloat.fma(b, a, c)
    negated = dlfloat.fma(a ^ 0x8000, b, c ^ 0x8000)
    assert negated == (result if result in (0, dlfloat.NAN) else result ^ 0x8000)
    if x is None or y is None or z is None:
        assert result == dlfloat.NAN
        return
    exact = abs(x * y + z)
    value = dlfloat.decode_exact(result & 0x7FFF)
    if value is not None and value != 0:
        half_ulp = Fraction(2) ** ((result >> 9 & 63) - dlfloat.BIAS - 10)
        # Below a power of two the ulp is half as large.
        below = half_ulp / 2 if result & 511 == 0 else half_ulp
        assert value - below <= exact < value + half_ulp


def test_ties_go_up_in_magnitude() -> None:
    one_and_ulp = 0x3E01
    three_halves = 0x3F00
    assert dlfloat.fma(one_and_ulp, three_halves, 0) == 0x3F02               # 1.5 + 1.5 ulp
    assert dlfloat.fma(one_and_ulp | 0x8000, three_halves, 0) == 0xBF02


def test_a_tie_is_disturbed_by_the_smallest_value() -> None:
    a, b = 63 << 9 | 1, (31 << 9) | 256
    tie = dlfloat.fma(a, b, 0)
    assert dlfloat.fma(a, b, dlfloat.SMALLEST) == tie
    assert dlfloat.fma(a, b, dlfloat.SMALLEST | 0x8000) == tie - 1
    assert dlfloat.fma_array([a] * 3, [b] * 3, [0, 1, 0x8001]).tolist() == [tie, tie, tie - 1]


@pytest.mark.parametrize(("value", "code"), [
    (0, 0), (1, 0x3E00), (-2, 0xC000), (Fraction(1, 3), 29 << 9 | 171),
    (float("inf"), 0x7FFF), (float("-inf"), 0x7FFF), (float("nan"), 0x7FFF),
    (8573157376, 0x7FFE),
    (Fraction(2**32) * Fraction(2 * 511 - 1, 1024) + 2**32 - tiny, 0x7FFE),
    (Fraction(2**32) * Fraction(2 * 511 - 1, 1024) + 2**32, 0x7FFF),
    (-Fraction(2**32) * Fraction(2 * 511 - 1, 1024) - 2**32, 0x7FFF),
    (Fraction(1, 2**31), 0), (Fraction(1, 2**31) * Fraction(1025, 1024), 1),
    (Fraction(1, 2**31) * Fraction(1025, 1024) - tiny, 0),
    (-Fraction(1, 2**31) * Fraction(513, 512), 0x8001), (Fraction(2047, 2048 * 2**31), 0),
    (Fraction(1, 10**30), 0),
])
def test_encode(value: float | Fraction, code: int) -> None:
    assert dlfloat.encode(value) == code


def test_every_code() -> None:
    values = dlfloat.decode_array(CODES)
    scalars = [dlfloat.decode(code) for code in CODES.tolist()]
    np.testing.assert_array_equal(values, scalars)
    oracle = [gfloat.decode_float(GFLOAT, code).fval for code in CODES.tolist()]
    np.testing.assert_array_equal(values, oracle)
    canonical = CODES.copy()
    canonical[0x8000], canonical[0xFFFF] = 0, 0x7FFF
    np.testing.assert_array_equal(dlfloat.encode_array(values), canonical)
    assert [dlfloat.encode(v) for v in scalars] == canonical.tolist()


def test_encode_array_rounds_like_encode(rng: np.random.Generator) -> None:
    exponents = rng.integers(-40, 36, 20_000).astype(np.float64)
    values = rng.choice([-1, 1], 20_000) * rng.uniform(1, 2, 20_000) * 2.0 ** exponents
    ties = (rng.integers(512, 1024, 20_000) + 0.5) * 2.0 ** (exponents - 9)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1.7e308, 2.0**-31])
    for sample in (values, ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), special):
        expected = [dlfloat.encode(v) for v in sample.tolist()]
        np.testing.assert_array_equal(dlfloat.encode_array(sample), expected)


def test_rounding_agrees_with_gfloat(rng: np.random.Generator) -> None:
    exponents = rng.integers(-30, 34, 3_000).astype(np.float64)
    values = rng.choice([-1, 1], 3_000) * rng.integers(4096, 8192, 3_000) * 2.0 ** (exponents - 12)
    for value in values.tolist():
        rounded = gfloat.round_float(GFLOAT, value, gfloat.RoundMode.TiesToAway)
        result = dlfloat.decode(dlfloat.encode(value))
        # Beyond the largest value gfloat has no infinity to go to, and NaN is not a rounding.
        if np.isnan(result):
            assert abs(value) >= dlfloat.decode(dlfloat.LARGEST)
        else:
            assert result == rounded


def test_fma_values_broadcasts_and_chains(rng: np.random.Generator) -> None:
    a, b = _codes(rng, 24, 20, 44).reshape(24, 1), _codes(rng, 9, 20, 44)
    c = np.zeros((24, 9), np.uint16)
    values = dlfloat.decode_array(c)
    for _ in range(5):
        c = dlfloat.fma_array(a, b, c)
        values = dlfloat.fma_values(dlfloat.decode_array(a), dlfloat.decode_array(b), values)
        np.testing.assert_array_equal(dlfloat.encode_array(values), c)
    assert dlfloat.fma_array(0x3E00, 0x3E00, 0x3E00) == 0x4000
    assert dlfloat.fma_array(np.zeros((0, 3), np.uint16), a[0], b[0]).shape == (0, 3)


@pytest.mark.parametrize("code", [-1, 0x10000])
def test_a_code_has_16_bits(code: int) -> None:
    with pytest.raises(ValueError, match="code must be from 0 to 0xFFFF"):
        dlfloat.decode(code)


def test_the_samples_in_the_documentation() -> None:
    document = Path(__file__).parents[1] / "docs" / "numerics.md"
    result = doctest.testfile(str(document), module_relative=False, encoding="utf-8")
    assert result.attempted > 10
    assert result.failed == 0
