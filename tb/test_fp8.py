"""FP8: conversions against exact rationals and ml_dtypes, the pair's sum against its bounds."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ulpsim import dlfloat, fp8

FORMATS = [*(fp8.forward(bias) for bias in range(16)), fp8.BACKWARD]


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_every_code_survives_and_every_midpoint_goes_up(kind):
    values = kind.decode_array(np.arange(256, dtype=np.uint8))
    codes = kind.encode_array(values)
    expected = [0 if code & 0x7F == 0 else fp8.NAN if code & 0x7F == 0x7F else code
                for code in range(256)]
    assert codes.tolist() == expected
    for code in range(1, 0x7E):
        low, high = kind.decode_exact(code), kind.decode_exact(code + 1)
        middle, little = (low + high) / 2, (high - low) / 1024
        for value, result in ((middle, code + 1), (middle - little, code)):
            assert kind.encode(value) == result
            assert kind.encode(-value) == result | 0x80
            assert kind.encode_array(float(value)) == result
            assert kind.encode_array(-float(value)) == result | 0x80


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_ends_of_the_range(kind):
    largest, smallest = kind.decode_exact(0x7E), kind.decode_exact(1)
    missing = Fraction(2) ** -kind.bias
    above = largest + (largest - kind.decode_exact(0x7D)) / 2
    for value, code in ((0, 0), (missing, 0), (missing / 2, 0), ((missing + smallest) / 2, 1),
                        (above, fp8.NAN), (-above, fp8.NAN), (above - Fraction(1, 1 << 30), 0x7E),
                        (largest * 1000, fp8.NAN)):
        assert kind.encode(value) == code
        assert kind.encode_array(float(value)) == code
    for value in (np.inf, -np.inf, np.nan):
        assert kind.encode(value) == fp8.NAN == kind.encode_array(value)
    assert kind.encode_array(5e-324) == 0 == kind.encode_array(-0.0)


@pytest.mark.parametrize("kind, other, last", [
    (fp8.forward(7), ml_dtypes.float8_e4m3fn, 0x7E),
    (fp8.forward(11), ml_dtypes.float8_e4m3b11fnuz, 0x7E),
    (fp8.BACKWARD, ml_dtypes.float8_e5m2, 0x7B)], ids=str)
def test_ml_dtypes_where_the_formats_coincide(kind, other, last, rng):
    first = 1 << kind.fraction_bits                    # the lowest binade is subnormal there
    codes = np.arange(first, last + 1, dtype=np.uint8)
    theirs = codes.view(other).astype(np.float64)
    assert np.array_equal(kind.decode_array(codes), theirs)
    values = np.exp2(rng.uniform(np.log2(theirs[0]), np.log2(theirs[-1]), 20000))
    values *= rng.choice([-1.0, 1.0], values.shape)
    assert np.array_equal(kind.encode_array(values),
                          values.astype(np.float32).astype(other).view(np.uint8))


def test_products_of_all_codes_are_exact():
    """Every pair of codes of every two kinds, alone in its slot, gives the rounded product."""
    codes = np.arange(256, dtype=np.uint8)
    zero = np.zeros((1, 1))
    for left in (fp8.forward(0), fp8.forward(7), fp8.forward(15), fp8.BACKWARD):
        for right in (fp8.forward(7), fp8.BACKWARD):
            a, w = left.decode_array(codes)[:, None], right.decode_array(codes)[None]
            expected = dlfloat.encode_array(a * w)
            for slot in ((a, w, zero, zero), (zero, zero, a, w)):
                result = dlfloat.encode_array(fp8.fma2_values(*slot, zero))
                assert np.array_equal(result, expected)


def _operands(rng, count):
    """Codes and kinds: random; exponents far apart; products that nearly cancel."""
    for i in range(count):
        kinds = [FORMATS[k] for k in rng.integers(len(FORMATS), size=2)]
        a, w = rng.integers(256, size=2), rng.integers(256, size=2)
        c = int(rng.integers(1 << 16))
        if i % 3 == 1:
            a[1], w[1] = a[0] ^ 0x80 ^ rng.integers(4), w[0] ^ rng.integers(4)
        if i % 7 == 2:
            a[rng.integers(2)] = rng.choice([0, 0x80, 0x7F, 0xFF, 1, 0x7E])
        values = [(kind.decode_exact(int(codes[0])), kind.decode_exact(int(codes[1])))
                  for kind, codes in zip(kinds, (a, w), strict=True)]
        if i % 2:                                      # c next to minus the pair's sum
            total = fp8.pair(values[0], values[1])
            if total is not None:
                c = max(0, dlfloat.round_exact(-total) ^ int(rng.integers(4)))
        yield kinds, a, w, values, c


def test_pair_loses_less_than_its_last_place_and_never_cancels_far(rng):
    for _, _, _, (a, w), _ in _operands(rng, 4000):
        total = fp8.pair(a, w)
        if total is None:
            assert None in (*a, *w)
            continue
        assert None not in (*a, *w)
        products = [x * y for x, y in zip(a, w, strict=True)]
        greatest = max(map(abs, products))
        assert abs(total - sum(products)) < (greatest or 1) * Fraction(1, 1 << 17)
        if total:
            assert abs(total) * (1 << 9) >= greatest


def test_fast_twin_equals_the_definition(rng):
    slots, sums, expected = [], [], []
    for kinds, a, w, (left, right), c in _operands(rng, 6000):
        slots.append([kinds[0].decode_array(a), kinds[1].decode_array(w)])
        sums.append(c)
        expected.append(fp8.fma2(left, right, c))
    slots = np.array(slots)
    result = fp8.fma2_values(slots[:, 0, 0], slots[:, 1, 0], slots[:, 0, 1], slots[:, 1, 1],
                             dlfloat.decode_array(sums))
    assert dlfloat.encode_array(result).tolist() == expected


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="bias must be from 0 to 15, not 16"):
        fp8.forward(16)
    with pytest.raises(ValueError, match="exponent_bits must be 4 or 5, not 3"):
        fp8.Float8(3, 7)
    with pytest.raises(ValueError, match="code must be from 0 to 0xFF, not 256"):
        fp8.BACKWARD.decode_exact(256)


def test_a_pair_has_at_most_20_bits_and_at_least_11_unless_it_is_zero():
    """Over all significands and differences of exponents: what an adder has to hold."""
    significands = np.arange(8, 16) / 8
    a0, w0, a1, w1 = np.meshgrid(*[significands] * 4, indexing="ij")
    for difference in range(32):
        for sign in (1.0, -1.0):
            total = fp8.pair_values(a0, w0, sign * a1 * 2.0 ** -difference, w1)
            places = np.abs(total) * 2.0 ** 17
            assert np.array_equal(places, np.trunc(places))
            assert places.max() < 2 ** 20
            assert places[places != 0].min() >= 2 ** 10
