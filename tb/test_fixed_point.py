"""Special functions without floating point: the array twin, exact arithmetic, parameters."""

from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest
from ulpsim.fixed_point import apply, element, words
from ulpsim.formats import FORMATS, Format
from ulpsim.isa import Pool
from ulpsim.special import ColumnParameters, SpecialFunction

INT8, UINT8, BINARY = FORMATS["INT8"], FORMATS["UINT8"], FORMATS["BINARY"]
#: What a core without floating point reads and writes.
ELEMENTS = [*(f for f in FORMATS.values() if f.precision.is_integer and not f.odd), BINARY]
EDGES = (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x8000, 0x7FFF, 0x1F7FFF, 0x1F8000)


def random_words(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """32 bits: any, small ones, and edges."""
    numbers = rng.integers(-1 << 31, 1 << 31, shape) >> rng.integers(0, 32, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice(EDGES, shape),
                    numbers & 0xFFFFFFFF).astype(np.uint32)


@pytest.mark.parametrize("output", ELEMENTS, ids=str)
@pytest.mark.parametrize("residual", [None, *ELEMENTS], ids=str)
def test_apply_is_element(rng: np.random.Generator, output: Format, residual: Format | None
                          ) -> None:
    for relu, clip, pool in product((False, True), (False, True), Pool):
        function = SpecialFunction(output=output, residual=residual, relu=relu, clip=clip,
                                   pool=pool)
        shape = (5, 1 if pool is Pool.NONE else 3, 8)
        accumulators, parameters = random_words(rng, shape), random_words(rng, (4, 8))
        codes = None if residual is None else rng.integers(0, 1 << residual.precision.bits, shape)
        result = apply(function, accumulators, ColumnParameters(*parameters), codes)
        for i, c in product(range(5), range(8)):
            assert result[i, c] == element(
                function, accumulators[i, :, c].tolist(),
                tuple(parameters[:, c].tolist()),  # type: ignore[arg-type]
                () if codes is None else codes[i, :, c].tolist())


def test_element_is_the_formula(rng: np.random.Generator) -> None:
    """Exact rationals, each rounded half up, for numbers that do not saturate."""
    function = SpecialFunction(output=INT8, residual=INT8)
    for _ in range(2000):
        multiplier, shift = int(rng.integers(-32768, 32768)), int(rng.integers(0, 32))
        accumulator = int(rng.integers(-1 << 20, 1 << 20)) >> int(rng.integers(0, 20))
        residual, residual_scale = int(rng.integers(-128, 128)), int(rng.integers(-999, 999))
        bias = int(rng.integers(-20_000, 20_000))
        exact = Fraction(accumulator * multiplier + residual * residual_scale, 1 << shift)
        v = floor(exact + Fraction(1, 2)) + bias
        if abs(v) < 1 << 31:
            expected = min(max(floor(Fraction(v, 256) + Fraction(1, 2)), -128), 127)
            parameters = (multiplier & 0xFFFF | shift << 16, bias & 0xFFFFFFFF,
                          residual_scale & 0xFFFFFFFF, 0)
            assert element(function, [accumulator & 0xFFFFFFFF], parameters,
                           [residual & 0xFF]) == expected


def test_binary_is_the_sign() -> None:
    """A result's own sign, whatever it would round to; residuals are +1 and -1."""
    pass_on = (1, 0, 0, 0)
    for value, code in ((0, 1), (1, 1), (-1, 0), (127, 1), (-128, 0), (1 << 30, 1), (-1 << 30, 0)):
        assert element(SpecialFunction(output=BINARY), [value & 0xFFFFFFFF], pass_on) == code
    add_ten = (0, 0, 10 << 8, 0)
    function = SpecialFunction(output=INT8, residual=BINARY)
    assert [element(function, [0], add_ten, [code]) for code in (0, 1)] == [-10, 10]
    with_binary = SpecialFunction(output=BINARY, residual=BINARY)
    assert [element(with_binary, [0], add_ten, [code]) for code in (0, 1)] == [0, 1]


def test_words_hold_real_numbers(rng: np.random.Generator) -> None:
    """Within half a unit of the result's last place and 2^-14 of the scale."""
    n = 400
    scale = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-7, 1.5, n)
    bias = rng.uniform(-50, 50, n)
    # Beyond this ratio the residual takes bits from the scale.
    residual_scale = np.minimum(rng.choice([0, 0.3, 1, 20], n), np.abs(scale) * 2**16)
    upper = rng.uniform(10, 300, n)
    parameters = words(scale, bias, residual_scale, upper)
    accumulators = np.rint(rng.uniform(-300, 300, n) / scale).clip(-1 << 31, (1 << 31) - 1)
    residuals = rng.integers(0, 256, n)
    function = SpecialFunction(output=UINT8, residual=UINT8, clip=True)
    result = apply(function, accumulators.astype(np.int64)[None].astype(np.uint32),
                   ColumnParameters(*parameters.T), residuals[None])
    exact = np.minimum(accumulators * scale + bias + residuals * residual_scale, upper)
    error = np.abs(result - exact.clip(0, 255))
    assert (error <= 0.5 + 0.05 + np.abs(accumulators * scale) * 2.0**-14).all()


@pytest.mark.parametrize(("numbers", "message"), [
    ((128.0, 0, 0, 0), r"scale must be at most 127.9961 on a core without floating point, not 128"),
    ((1, 9e6, 0, 0), "bias must be at most 8388608 on a core without floating point, not 9000000"),
    ((1, 0, -9e6, 0), "residual scale must be at most"),
])
def test_numbers_that_do_not_fit(numbers: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words(*(np.array([n]) for n in numbers))


def test_an_upper_bound_that_cannot_be_reached() -> None:
    assert words(*np.array([[1.0], [0], [0], [1e30]]))[0, 3] == 0x7FFFFFFF


def test_what_does_not_fit() -> None:
    function = SpecialFunction(output=INT8)
    with pytest.raises(ValueError, match="elements of a window must be 1 without a pool, not 2"):
        element(function, [0, 0], (0, 0, 0, 0))
    with pytest.raises(ValueError, match="residuals must be as many"):
        element(function, [0], (0, 0, 0, 0), [1])
    zero = ColumnParameters(0, 0, 0, 0)
    with pytest.raises(ValueError, match="residuals must have the shape"):
        apply(function, np.zeros((1, 8)), zero, np.zeros((1, 8)))
    with pytest.raises(ValueError, match="accumulators must be"):
        apply(function, np.zeros(8), zero)
