"""Matrices of slots: the scalar product against its definition, the matrix twin against it."""

from fractions import Fraction

import numpy as np
import pytest
from ulpsim import dlfloat, float32
from ulpsim.formats import FORMATS, Format, Precision, multipliable
from ulpsim.integers import pack, unpack, values
from ulpsim.matmul import dot, matmul, weight_ratio

INTEGERS = [p for p in Precision if p.is_integer]
FP16, INT8, INT4 = FORMATS["FP16"], FORMATS["INT8"], FORMATS["INT4"]
#: Every two formats that can be multiplied; E4M3 with several biases.
PAIRS = [(a, w) for a in FORMATS.values() for w in FORMATS.values()
         if multipliable(a.precision, w.precision) and not a.odd]
PAIRS += [(Format(Precision.E4M3, bias=a), Format(Precision.E4M3, bias=w))
          for a, w in ((0, 15), (7, 3))]


def _floats(rng: np.random.Generator, shape: tuple[int, ...], spread: int) -> np.ndarray:
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    return dlfloat.encode_array(values)


def _slots(rng: np.random.Generator, precision: Precision, shape: tuple[int, ...]) -> np.ndarray:
    if precision is Precision.FP16:
        return _floats(rng, shape, 6)
    return rng.integers(0, 1 << 16, shape).astype(np.uint16)


def _accumulators(rng: np.random.Generator, precision: Precision, shape: tuple[int, ...]
                  ) -> np.ndarray:
    if precision.is_float:
        return float32.encode_array(rng.standard_normal(shape) * 100)
    return rng.integers(0, 1 << 32, shape, dtype=np.uint32)


def test_dot_of_floats_is_a_chain_of_rounded_sums(rng: np.random.Generator) -> None:
    """Against rationals rounded by hand, in two tiles of 3 slots and one of 2."""
    for _ in range(50):
        a, w = _floats(rng, (8,), 4), _floats(rng, (8,), 4)
        start = float32.encode(float(rng.standard_normal()))
        total = Fraction(float32.decode(start))
        for first in (0, 3, 6):
            partial = Fraction(0)
            for x, y in zip(a[first:first + 3], w[first:first + 3], strict=True):
                exact = (Fraction(dlfloat.decode(int(x))) * Fraction(dlfloat.decode(int(y)))
                         + partial)
                partial = Fraction(dlfloat.decode(dlfloat.encode(exact)))
            total = Fraction(float(np.float32(float(total)) + np.float32(float(partial))))
        result = dot(a.tolist(), w.tolist(), FP16, FP16, 3, start)
        assert float32.decode_exact(result) == total


@pytest.mark.parametrize("source", [
    f for f in FORMATS.values() if f.precision.is_integer and not f.odd], ids=str)
def test_dot_of_integers_is_the_sum_modulo_2_to_32(rng: np.random.Generator, source: Format
                                                   ) -> None:
    for other in (source, Format(source.precision, not source.signed)):
        a, w = (rng.integers(f.lowest, f.highest + 1, 6 * source.precision.per_slot)
                for f in (source, other))
        for start in (0, (1 << 32) - 5, 1 << 31):
            expected = (start + sum(x * y for x, y in zip(a.tolist(), w.tolist(), strict=True))
                        ) % (1 << 32)
            assert dot(pack(a, source.precision).tolist(), pack(w, source.precision).tolist(),
                       source, other, 4, start) == expected


def test_what_odd_and_binary_codes_stand_for() -> None:
    """SAWB's levels and XNOR, against sums written out."""
    odd, two = FORMATS["ODD2"], FORMATS["UINT2"]
    codes, activations = [-2, -1, 0, 1, 1, 0, -1, -2], [3, 2, 1, 0, 3, 1, 0, 2]
    levels = {-2: -3, -1: -1, 0: 1, 1: 3}
    expected = sum(a * levels[c] for a, c in zip(activations, codes, strict=True))
    assert dot(pack(activations, two.precision), pack(codes, odd.precision), two, odd, 8
               ) == expected % (1 << 32)
    binary = FORMATS["BINARY"]
    for x, y in ((0, 0), (0xFFFF, 0), (0xA5A5, 0xA5A5), (0x00FF, 0x0F0F), (1, 3)):
        agreeing = 16 - (x ^ y).bit_count()
        assert dot([x], [y], binary, binary, 8) == (2 * agreeing - 16) % (1 << 32)
    # INT8 by BINARY: eight slots of activations to one of weights.
    numbers = [100, -3, 7, 0, -128, 127, 1, 1, 5, 6, -7, 8, 9, -10, 11, 12]
    signs = [1, 1, -1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1, 1, 1, -1]
    word = sum(1 << i for i, sign in enumerate(signs) if sign > 0)
    assert dot(pack(numbers, Precision.INT8), [word], INT8, binary, 8) == sum(
        a * s for a, s in zip(numbers, signs, strict=True)) % (1 << 32)


@pytest.mark.parametrize("formats", PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_matmul_is_dot(rng: np.random.Generator, formats: tuple[Format, Format]) -> None:
    """FP8 over all codes, and over such as leave the sums finite."""
    precision, weight_precision = (f.precision for f in formats)
    ratio = weight_ratio(precision, weight_precision)
    for outputs, depth, columns, rows in (
            (3, 20, 5, 8), (1, 37, 8, 4), (17, 3, 1, 8), (2, 1, 2, 2), (1, 70, 1, 8),
            (4, 16, 8, 8)):
        a = _slots(rng, precision, (outputs, depth))
        w = _slots(rng, weight_precision, (-(-depth // ratio), columns))
        finite = precision.is_fp8 and bool(rng.integers(2))
        if finite:                                     # no exponent with its upper bit set
            a, w = a & 0xBFBF, w & 0xBFBF
        for start in (None, _accumulators(rng, precision, (outputs, columns))):
            result = matmul(a, w, *formats, rows, start)
            assert result.dtype == np.uint32
            expected = [[dot(a[i].tolist(), w[:, j].tolist(), *formats, rows,
                             0 if start is None else int(start[i, j])) for j in range(columns)]
                        for i in range(outputs)]
            np.testing.assert_array_equal(result, expected)
            assert not finite or (result != float32.NAN).all()


@pytest.mark.parametrize(("outputs", "depth", "columns"), [
    (900, 17, 80), (80, 17, 900), (2, 5000, 3), (40_000, 9, 1), (1, 9, 40_000)])
def test_large_float_products(rng: np.random.Generator, outputs: int, depth: int, columns: int
                              ) -> None:
    """Blocks, threads and every order of axes: against a plain loop over K of codes."""
    a, w = _floats(rng, (outputs, depth), 12), _floats(rng, (depth, columns), 12)
    expected = np.zeros((outputs, columns), np.uint32)
    for first in range(0, depth, 8):
        partial = np.zeros((outputs, columns), np.uint16)
        for k in range(first, min(first + 8, depth)):
            partial = dlfloat.fma_array(a[:, k, None], w[k], partial)
        expected = float32.add_array(expected, float32.from_dlfloat_array(partial))
    np.testing.assert_array_equal(matmul(a, w, FP16, FP16, 8), expected)


@pytest.mark.parametrize("precision", INTEGERS)
def test_large_integer_products(rng: np.random.Generator, precision: Precision) -> None:
    """Deep sums of the largest elements, which no float32 holds."""
    source = Format(precision, signed=False)
    a = np.full((3, 20_000), source.highest)
    w = np.full((20_000, 2), source.highest)
    w[rng.integers(0, 20_000, 50), 0] = 0
    result = matmul(pack(a, precision), pack(w.T, precision).T, source, source, 8)
    np.testing.assert_array_equal(result, (a @ w).astype(np.uint32))
    slots = rng.integers(0, 1 << 16, (2, 60, 1000)).astype(np.uint16)
    signed = Format(precision)
    result = matmul(slots[0], slots[1].T, signed, signed, 8)
    exact = unpack(slots[0], signed) @ unpack(slots[1], signed).T
    np.testing.assert_array_equal(result.astype(np.int32), exact)


def test_special_floats(rng: np.random.Generator) -> None:
    one, largest = 0x3E00, dlfloat.LARGEST
    a = np.array([[one, dlfloat.NAN, one, one], [largest, largest, one, one],
                  [one, one, one, 0xFFFF], [0, 0x8000, 0, 0], [one, one, one, one]], np.uint16)
    w = np.array([[one, one, 0], [one, largest, 0], [one, one, 0], [one, one, 0]], np.uint16)
    start = np.zeros((5, 3), np.uint32)
    start[4] = [float32.LARGEST, 0x7F800000, 0x80000001]
    result = matmul(a, w, FP16, FP16, 2, start)
    nan = float32.NAN
    assert result[0].tolist() == [nan, nan, nan]
    assert result[1].tolist() == [nan, nan, 0]
    assert result[2].tolist() == [nan, nan, nan]
    assert result[3].tolist() == [0, 0, 0]
    assert result[4].tolist() == [float32.LARGEST, nan, 0]
    for i in range(5):
        for j in range(3):
            assert result[i, j] == dot(a[i].tolist(), w[:, j].tolist(), FP16, FP16, 2,
                                       int(start[i, j]))


@pytest.mark.parametrize("formats", [
    (a, w) for a, w in PAIRS if a.precision.bits > w.precision.bits],
    ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.parametrize("depth", [1, 3, 8, 41])
def test_narrower_weights(rng: np.random.Generator, formats: tuple[Format, Format],
                          depth: int) -> None:
    """As if the weights had been widened before; the last slot may be used in part."""
    activation_format, weight_format = formats
    precision = activation_format.precision
    a = _slots(rng, precision, (5, depth))
    lines = -(-depth // weight_ratio(precision, weight_format.precision))
    w = _slots(rng, weight_format.precision, (lines, 3))
    numbers = values(w.T, weight_format)[:, :depth * precision.per_slot]
    wide = Format(precision, weight_format.signed)
    np.testing.assert_array_equal(
        matmul(a, w, *formats, 8),
        matmul(a, pack(numbers, precision).T, activation_format, wide, 8))


def test_pairs_of_precisions_are_checked() -> None:
    slot = np.zeros((1, 1), np.uint16)
    for a, w in (("INT4", "INT8"), ("FP16", "INT2"), ("INT8", "FP16"), ("E5M2", "FP16"),
                 ("FP16", "E4M3"), ("BINARY", "INT2"), ("INT8", "E4M3")):
        message = f"weights to activations of {a} must be of .* not {w}"
        with pytest.raises(ValueError, match=message):
            matmul(slot, slot, FORMATS[a], FORMATS[w], 8)
        with pytest.raises(ValueError, match=message):
            dot([0], [0], FORMATS[a], FORMATS[w], 8)
    with pytest.raises(ValueError, match=r"\[ceil\(K / 2\), N\]"):
        matmul(np.zeros((1, 3), np.uint16), np.zeros((3, 1), np.uint16), INT8, INT4, 8)


def test_fp8_pads_depth_with_zeros(rng: np.random.Generator) -> None:
    """A slot's missing element, and a tile's missing slots, are zero codes."""
    kind = FORMATS["E4M3"]
    a, w = rng.integers(0, 0x7F, (3, 9)), rng.integers(0, 0x7F, (9, 2))
    slots = pack(a, kind.precision), pack(w.T, kind.precision).T
    longer = np.pad(slots[0], ((0, 0), (0, 3))), np.pad(slots[1], ((0, 3), (0, 0)))
    np.testing.assert_array_equal(matmul(*slots, kind, kind, 8), matmul(*longer, kind, kind, 8))


def test_the_height_of_the_array_matters_to_floats_only(rng: np.random.Generator) -> None:
    a, w = _floats(rng, (4, 64), 3), _floats(rng, (64, 4), 3)
    results = [matmul(a, w, FP16, FP16, rows) for rows in (4, 8)]
    assert (results[0] != results[1]).any()
    results = [matmul(a, w, INT4, FORMATS["UINT4"], rows) for rows in (4, 8)]
    np.testing.assert_array_equal(results[0], results[1])


def test_shapes_are_checked() -> None:
    a, w = np.zeros((2, 3), np.uint16), np.zeros((3, 4), np.uint16)
    with pytest.raises(ValueError, match=r"must be \[M, K\] and \[K, N\]"):
        matmul(a, w.T, FP16, FP16, 8)
    with pytest.raises(ValueError, match=r"accumulators must be \[2, 4\]"):
        matmul(a, w, FP16, FP16, 8, np.zeros((4, 2), np.uint32))
    with pytest.raises(ValueError, match="rows must be at least 1"):
        matmul(a, w, FP16, FP16, 0)
    with pytest.raises(ValueError, match="weights must be 2 slots"):
        dot([1, 2], [1], FP16, FP16, 8)
