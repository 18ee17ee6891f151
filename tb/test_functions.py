"""Functions: the array twin against the definition, and the worst errors that docs state."""

from collections.abc import Callable

import numpy as np
import pytest
from ulpsim import dlfloat, float32
from ulpsim.formats import FORMATS
from ulpsim.functions import evaluate, evaluate_array
from ulpsim.isa import Function
from ulpsim.special import ColumnParameters, SpecialFunction, apply

FUNCTIONS = [f for f in Function if f is not Function.NONE]
FP16 = FORMATS["FP16"]


def _all_codes() -> tuple[np.ndarray, np.ndarray]:
    codes = np.arange(1 << 16)
    codes = codes[codes & dlfloat.NAN != dlfloat.NAN]
    return codes, dlfloat.decode_array(codes)


def _special(function: Function, codes: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """FP16 to FP16 as one SPECIAL does it."""
    parameters = ColumnParameters(float32.encode(scale), 0, 0, 0)
    return apply(SpecialFunction(output=FP16, source=FP16, function=function),
                 codes[:, None, None], parameters)[:, 0]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_array_is_definition(rng: np.random.Generator, function: Function) -> None:
    edges = [0, 0x80000000, float32.NAN, 0xFF800000, float32.LARGEST, float32.SMALLEST,
             0x80000000 | float32.SMALLEST, 1, *(float32.encode(s * v) for s in (1, -1) for v in (
                 1, 0.5, 2, 128, 127.99999, 126, 2.0**-6, 2.0**-15, 2.0**-16, 256, 511.9, 512,
                 0.015624999))]
    random = rng.integers(0, 1 << 32, 2000)
    usual = float32.encode_array(rng.standard_normal(2000) * 2.0 ** rng.integers(-8, 9, 2000))
    bits = np.concatenate([edges, random, usual]).astype(np.uint32)
    result = evaluate_array(function, bits)
    for y, z in zip(bits.tolist(), result.tolist(), strict=True):
        assert evaluate(function, y) == z, hex(y)


# As docs/numerics.md states them: units in the last place of DLFloat16, or absolute.
@pytest.mark.parametrize(("function", "scale", "truth", "places", "absolute"), [
    (Function.SIGMOID, 1.0, lambda x: 1 / (1 + np.exp(-x)), np.inf, 5.6e-4),
    (Function.TANH, 1.0, np.tanh, 0.61, 6e-4),
    (Function.EXPONENTIAL, np.log2(np.e), np.exp, 0.53, np.inf),
    (Function.RECIPROCAL, 1.0, lambda x: 1 / x, 0.55, np.inf),
    (Function.RECIPROCAL_SQUARE_ROOT, 1.0, lambda x: x ** -0.5, 0.52, np.inf),
], ids=lambda value: value.name if isinstance(value, Function) else "")
def test_worst_error(function: Function, scale: float, truth: Callable, places: float,
                     absolute: float) -> None:
    """Every DLFloat16 argument."""
    codes, x = _all_codes()
    with np.errstate(all="ignore"):
        exact = truth(x)
    result = dlfloat.decode_array(_special(function, codes, scale))
    largest, smallest = dlfloat.decode(dlfloat.LARGEST), 2.0**-31
    no_number = ~(np.abs(exact) <= largest)
    assert np.isnan(result[no_number]).all()
    below = np.abs(exact) <= smallest
    assert (np.abs(result[below]) <= 1.1 * smallest).all()
    inside = ~no_number & ~below
    error, exact = np.abs(result[inside] - exact[inside]), np.abs(exact[inside])
    assert error.max() <= absolute
    assert (error / 2.0 ** (np.floor(np.log2(exact)) - 9)).max() <= places


def test_table_is_as_good_as_fp32_results_need() -> None:
    """Before the rounding to DLFloat16: what row scalars see."""
    mantissas = np.linspace(1, 4, 30_001)
    for function, truth in ((Function.RECIPROCAL, np.reciprocal),
                            (Function.RECIPROCAL_SQUARE_ROOT, lambda x: x ** -0.5),
                            (Function.EXPONENTIAL, np.exp2)):
        result = float32.to_values(evaluate_array(function, float32.encode_array(mantissas)))
        assert (np.abs(result / truth(mantissas) - 1)).max() < 1.5e-4


def test_refuses_none() -> None:
    for refused in (evaluate, evaluate_array):
        with pytest.raises(ValueError, match="function must not be"):
            refused(Function.NONE, float32.encode(1))
