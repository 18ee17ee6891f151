"""The special functions: against plain numpy, and the array twin against the definition."""

from itertools import product

import numpy as np
import pytest
from ulpsim import dlfloat, float32
from ulpsim.formats import FORMATS, Format
from ulpsim.isa import Function, Pool
from ulpsim.special import ColumnParameters, SpecialFunction, apply, combine, element

INT8 = FORMATS["INT8"]
#: All but those that only weights have.
STORED = [f for f in FORMATS.values() if not f.odd]
ONE = float32.encode(1)


def _bits(*values: float) -> list[int]:
    return [float32.encode(v) for v in values]


def _function(**changes: object) -> SpecialFunction:
    return SpecialFunction(**{"output": INT8, "float_accumulator": True, **changes})  # type: ignore


@pytest.mark.parametrize("output", STORED, ids=str)
@pytest.mark.parametrize("residual", [None, *STORED], ids=str)
def test_apply_is_element(rng: np.random.Generator, output: Format, residual: Format | None
                          ) -> None:
    for is_float, relu, clip, pool in product((False, True), (False, True), (False, True), Pool):
        function = SpecialFunction(output=output, residual=residual, float_accumulator=is_float,
                                   relu=relu, clip=clip, pool=pool)
        shape = (2, 1 if pool is Pool.NONE else 3, 4)
        accumulators = rng.integers(-5000, 5000, shape).astype(np.uint32)
        if is_float:
            accumulators = float32.encode_array(rng.standard_normal(shape) * 1000)
            accumulators[0, 0, :2] = 0x7F800000, 0x80000001
        parameters = [float32.encode_array(rng.standard_normal(4) * s) for s in (0.01, 1, 0.1, 5)]
        codes = None if residual is None else rng.integers(0, 1 << residual.precision.bits, shape)
        result = apply(function, accumulators, ColumnParameters(*parameters), codes)
        for i, column in product(range(2), range(4)):
            scale, bias, residual_scale, upper = (int(p[column]) for p in parameters)
            assert result[i, column] == element(
                function, accumulators[i, :, column].tolist(),
                (scale, bias, residual_scale, upper),
                () if codes is None else codes[i, :, column].tolist())


@pytest.mark.parametrize("source", [None, *STORED], ids=str)
def test_apply_is_element_with_functions_and_rows(rng: np.random.Generator, source: Format | None
                                                  ) -> None:
    for residual, function, pool, reduce in product((None, FORMATS["FP16"], INT8), Function, Pool,
                                                    (False, True)):
        if (residual and function is not Function.NONE) or (reduce and pool is Pool.NONE):
            continue
        operation = SpecialFunction(
            output=FORMATS["FP16"], source=source, float_accumulator=True, residual=residual,
            product=True, function=function, pool=pool, reduce=reduce)
        shape = (3, 1 if pool is Pool.NONE else 2, 8)
        sources = float32.encode_array(rng.standard_normal(shape) * 3) if source is None else \
            rng.integers(0, 1 << source.precision.bits, shape)
        # Scales of rows, biases of columns.
        scale = float32.encode_array(rng.standard_normal((3, 1, 1)))
        bias = float32.encode_array(rng.standard_normal(8))
        codes = None if residual is None else rng.integers(0, 1 << residual.precision.bits, shape)
        result = apply(operation, sources, ColumnParameters(scale, bias, 0, 0), codes)
        for i in range(3):
            columns = [element(operation, sources[i, :, c].tolist(),
                               (int(scale[i, 0, 0]), int(bias[c]), 0, 0),
                               () if codes is None else codes[i, :, c].tolist())
                       for c in range(8)]
            assert result[i].tolist() == (combine(operation, columns) if reduce else columns)


def test_rows_are_summed_as_a_tree() -> None:
    function = _function(pool=Pool.SUM, reduce=True)
    big = 2.0**24
    # In order, 1 would be lost each time; by neighbours, twos are added to twos.
    assert combine(function, _bits(big, 2, 1, 1, -big, 2, 1, 1)) == float32.encode(8)
    maximum = _function(pool=Pool.MAXIMUM, reduce=True)
    assert combine(maximum, _bits(-3, -1, -2, -9, -1.5, -4, -5, -6)) == float32.encode(-1)


def test_against_numpy(rng: np.random.Generator) -> None:
    """Ordinary numbers, for which FP32 is binary32."""
    sums = rng.integers(-30_000, 30_000, (50, 9, 8))
    scale, bias, residual_scale, upper = rng.uniform(0.001, 0.01, (4, 8)).astype(np.float32)
    bias, upper = bias * 1000 - 5, upper * 10_000
    residuals = rng.integers(-128, 128, (50, 9, 8))
    y = sums.astype(np.float32) * scale + bias + residuals.astype(np.float32) * residual_scale
    y = np.minimum(np.maximum(y, np.float32(0)), upper)
    parameters = ColumnParameters(*(p.view(np.uint32) for p in (scale, bias, residual_scale,
                                                                upper)))
    for pool, pooled in ((Pool.MAXIMUM, y.max(1)), (Pool.SUM, np.add.accumulate(y, 1)[:, -1])):
        function = SpecialFunction(output=FORMATS["UINT8"], relu=True, clip=True, residual=INT8,
                                   pool=pool)
        result = apply(function, sums.astype(np.uint32), parameters, residuals & 0xFF)
        np.testing.assert_array_equal(result, np.clip(np.rint(pooled), 0, 255))


def test_every_step_is_rounded() -> None:
    # (1 + 2^-23)^2 - (1 + 2^-22) is 2^-46 in one rounding and 0 in two.
    x = 0x3F800001
    function = _function(output=FORMATS["FP16"])
    assert element(function, [x], (x, *_bits(-1 - 2.0**-22, 0, 0))) == 0
    # Sums in the window's order: (2^24 + 1) + 1 = 2^24, 1 + (1 + 2^24) = 2^24 + 2.
    function = _function(output=FORMATS["FP16"], pool=Pool.SUM)
    unity = (ONE, 0, 0, 0)
    big, negative = _bits(2.0**24, -(2.0**24))
    assert element(function, [big, ONE, ONE, negative], unity) == 0
    assert element(function, [ONE, ONE, big, negative], unity) == dlfloat.encode(2)


def test_nan_wins_and_ends_as_zero_or_nan() -> None:
    unity = (ONE, 0, 0, ONE)
    window = [ONE, float32.NAN, 0]
    for pool in (Pool.MAXIMUM, Pool.SUM):
        function = _function(relu=True, clip=True, pool=pool)
        assert element(function, window, unity) == 0
        function = _function(relu=True, clip=True, pool=pool, output=FORMATS["FP16"])
        assert element(function, window, unity) == dlfloat.NAN


def test_an_upper_bound_below_zero_comes_after_relu() -> None:
    function = _function(relu=True, clip=True)
    assert element(function, _bits(5), tuple(_bits(1, 0, 0, -3))) == -3  # type: ignore


def test_float_accumulators_are_not_converted() -> None:
    parameters = (ONE, 0, 0, 0)
    assert element(_function(), [ONE], parameters) == 1
    assert element(_function(float_accumulator=False), [ONE], parameters) == INT8.highest
    assert element(_function(float_accumulator=False), [(1 << 32) - 7], parameters) == -7


def test_results_saturate() -> None:
    for output in STORED:
        if not output.precision.is_float:
            function = _function(output=output)
            for value, expected in ((1e9, output.highest), (-1e9, output.lowest)):
                assert element(function, _bits(value), (ONE, 0, 0, 0)) == expected


@pytest.mark.parametrize(("changes", "window", "residuals", "message"), [
    ({}, 2, 0, "elements of a window must be 1 without a pool, not 2"),
    ({"pool": Pool.SUM}, 0, 0, "elements of a window must be at least 1, not 0"),
    ({"residual": INT8}, 1, 0, "residuals must"),
    ({}, 1, 1, "residuals must"),
    ({"function": Function.TANH, "residual": INT8}, 1, 1, "function must be NONE with a residual"),
    ({"reduce": True}, 1, 0, "pool must be MAXIMUM or SUM to reduce a row"),
])
def test_what_does_not_fit(changes: dict, window: int, residuals: int, message: str) -> None:
    function = _function(**changes)
    with pytest.raises(ValueError, match=message):
        element(function, [0] * window, (0, 0, 0, 0), [0] * residuals)
    zero = np.zeros(8, np.uint32)
    with pytest.raises(ValueError, match=message):
        apply(function, np.zeros((4, window, 8), np.uint32),
              ColumnParameters(zero, zero, zero, zero),
              np.zeros((4, window, 8), np.int64) if residuals else None)
