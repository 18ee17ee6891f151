"""FP32 operators against `ulpsim.float32`: every pair of edge cases and a million random ones."""

import gc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from amaranth.hdl import Const, Module, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore import float32 as rtl
from ulpcore.simulation import run_vectors
from ulpsim import float32
from ulpsim.formats import FORMATS, Format, Precision

_RANDOM = 1_000_000
_FRACTIONS = (0, 1, 2, 0x1FFF, 0x2000, 0x2001, 0x400000, 0x7FFFFE, 0x7FFFFF)
_EXPONENTS = (0, 1, 2, 24, 64, 95, 96, 103, 125, 126, 127, 128, 134, 135, 150, 151, 152, 158, 159,
              160, 190, 230, 253, 254, 255)


def _edges() -> np.ndarray:
    """Codes where something changes: exponents of the formats' limits, fractions around ties."""
    return np.array([sign << 31 | exponent << 23 | fraction for sign in (0, 1)
                     for exponent in _EXPONENTS for fraction in _FRACTIONS], np.uint32)


def _edge_pairs() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.meshgrid(_edges(), _edges())
    return first.reshape(-1), second.reshape(-1)


def _random(rng: np.random.Generator, count: int, low: int = 0, high: int = 256) -> np.ndarray:
    """Codes with exponents from low to high - 1; half of the fractions have few bits set."""
    fraction = rng.integers(0, 1 << 23, count)
    few = (1 << rng.integers(0, 24, count)) ^ (1 << rng.integers(0, 24, count)) & 0x7FFFFF
    fraction = np.where(rng.random(count) < 0.5, fraction, few & 0x7FFFFF)
    return (rng.integers(0, 2, count) << 31 | rng.integers(low, high, count) << 23
            | fraction).astype(np.uint32)


def _pairs(rng: np.random.Generator, count: int = _RANDOM) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs: any, of moderate exponents, and nearly equal ones, which cancel."""
    parts = [(_random(rng, count // 4), _random(rng, count // 4)),
             (_random(rng, count // 4, 60, 195), _random(rng, count // 4, 60, 195))]
    a = _random(rng, count // 2)
    near = a.astype(np.int64) + rng.integers(-3, 4, len(a)) * (
        np.int64(1) << rng.integers(0, 27, len(a)))
    parts.append((a, ((near & 0x7FFFFFFF) | rng.integers(0, 2, len(a)) << 31).astype(np.uint32)))
    return (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def _edges_and_pairs(rng: np.random.Generator,
                     count: int = _RANDOM) -> tuple[np.ndarray, np.ndarray]:
    sides = zip(_edge_pairs(), _pairs(rng, count), strict=True)
    a, b = (np.concatenate(side) for side in sides)
    return a, b


def _check(component: wiring.Component, latency: int, expected: np.ndarray,
           **inputs: np.ndarray) -> None:
    result = run_vectors(component, inputs, flush=latency)["result"][latency:]
    wrong = np.flatnonzero(result != expected)
    if len(wrong):
        first = wrong[0]
        values = ", ".join(f"{name} = {int(v[first]):#010x}" for name, v in inputs.items())
        pytest.fail(f"{len(wrong)} of {len(result)} differ, first {values}: result is "
                    f"{int(result[first]):#010x}, not {int(expected[first]):#010x}")


@pytest.mark.parametrize(("stages", "count"), [(3, 100_000), (4, _RANDOM), (5, 100_000)])
def test_add(rng: np.random.Generator, stages: int, count: int) -> None:
    a, b = _edges_and_pairs(rng, count)
    _check(rtl.Add(stages=stages), stages, float32.add_array(a, b), a=a, b=b)


@pytest.mark.parametrize("stages", [2, 6])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_add_refuses_other_stages(stages: int) -> None:
    with pytest.raises(ValueError, match=f"stages must be from 3 to 5, not {stages}"):
        rtl.Add(stages=stages)
    gc.collect()        # the refused component, of which Amaranth warns that it was not used


def test_multiply(rng: np.random.Generator) -> None:
    a, b = _edges_and_pairs(rng)
    _check(rtl.Multiply(), 4, float32.multiply_array(a, b), a=a, b=b)


def test_multiply_around_the_limits(rng: np.random.Generator) -> None:
    """Products near 2^-126 and 2^128, and ties: a short factor times a full one."""
    a = _random(rng, 300_000, 1, 255)
    exponent = np.where(rng.random(len(a)) < 0.5, 127, 127 + 255) - (a >> 23 & 255).astype(int)
    exponent = np.clip(exponent + rng.integers(-2, 3, len(a)), 0, 255)
    b = _random(rng, len(a)) & np.uint32(0x807FFFFF) | (exponent << 23).astype(np.uint32)
    _check(rtl.Multiply(), 4, float32.multiply_array(a, b), a=a, b=b)


def test_multiply_short(rng: np.random.Generator) -> None:
    """Every integer of 8 bits and random DLFloat16 codes times anything."""
    codes = rng.integers(0, 1 << 16, 500_000).astype(np.uint16)
    integers = rng.integers(-128, 256, len(codes)).astype(np.int32).view(np.uint32)
    a = np.concatenate([float32.from_dlfloat_array(codes), float32.from_int32_array(integers)])
    b = _random(rng, len(a))
    _check(rtl.Multiply(significand_bits=10), 4, float32.multiply_array(a, b), a=a, b=b)


@pytest.mark.parametrize("bits", [0, 25])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_multiply_refuses_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"significand_bits must be from 1 to 24, not {bits}"):
        rtl.Multiply(significand_bits=bits)
    gc.collect()


def test_from_integer(rng: np.random.Generator) -> None:
    powers = np.concatenate([(1 << np.arange(32)) + d for d in range(-3, 4)])
    ties = rng.integers(1 << 24, 1 << 25, 100_000) << rng.integers(0, 7, 100_000)
    value = np.concatenate([powers, -powers, ties, -ties, ties + 1, ties - 1,
                            rng.integers(-1 << 31, 1 << 31, _RANDOM)
                            >> rng.integers(0, 32, _RANDOM)]).astype(np.uint32)
    convert = rng.integers(0, 2, len(value)).astype(np.uint32)
    convert[:len(powers) * 2] = 1
    expected = np.where(convert == 1, float32.from_int32_array(value), value)
    _check(rtl.FromInteger(), 3, expected, value=value, convert=convert)


def _floats(precisions: Sequence[Precision]) -> list[Format]:
    return [Format(p, bias=bias) for p in precisions
            for bias in (range(16) if p is Precision.E4M3 else [15])]


@pytest.mark.parametrize("precisions", [
    (Precision.FP16,), (Precision.FP16, Precision.E4M3), (Precision.FP16, Precision.E5M2),
    (Precision.FP16, Precision.E4M3, Precision.E5M2)],
    ids=lambda precisions: "_".join(p.name for p in precisions))
def test_to_float(rng: np.random.Generator, precisions: tuple[Precision, ...]) -> None:
    """Every value with as many bits as a tie has, its neighbours, and random ones, for every
    bias."""
    blocks = []
    for target in _floats(precisions):
        is_half = target.precision is Precision.FP16
        exact = np.arange(1 << (18 if is_half else 13), dtype=np.uint32) << (13 if is_half else 18)
        blocks.append(np.concatenate([
            _edges(), exact, exact + 0x80000000 - 1, exact ^ 0x80000001,
            _random(rng, _RANDOM if is_half else 20_000, 90, 164)]).astype(np.uint32))
    # A register holds what depends on the format alone: the first result of each is left out.
    value = np.concatenate([np.concatenate([block[:1], block]) for block in blocks])
    lengths = [len(block) + 1 for block in blocks]
    inputs = {
        "value": value,
        "precision": np.repeat([f.precision.value for f in _floats(precisions)], lengths),
        "forward_bias": np.repeat([f.bias for f in _floats(precisions)], lengths)}
    result = run_vectors(rtl.ToFloat(formats=precisions), {
        name: np.append(v, v[-1]).astype(np.uint32) for name, v in inputs.items()})["result"]
    end = 0
    for target, block in zip(_floats(precisions), blocks, strict=True):
        begin, end = end + 1, end + 1 + len(block)
        expected = float32.to_code_array(block, target)
        # The last one is shown beside the next format.
        wrong = np.flatnonzero(result[begin + 1:end] != expected[:-1])
        assert not len(wrong), (
            f"{len(wrong)} of {len(block)} differ to {target} with bias {target.bias}, first "
            f"{block[wrong[0]]:#010x}: {result[begin + 1 + wrong[0]]:#06x}, not "
            f"{expected[wrong[0]]:#06x}")


@pytest.mark.parametrize("name", [
    name for name, f in FORMATS.items() if f.precision.is_integer and not f.odd])
def test_to_integer(rng: np.random.Generator, name: str) -> None:
    target = FORMATS[name]
    halves = np.arange(-1200, 1200) / np.float32(4)
    value = np.concatenate([
        _edges(), *(np.nextafter(halves, np.float32(way), dtype=np.float32).view(np.uint32)
                    for way in (-np.inf, np.inf)), halves.astype(np.float32).view(np.uint32),
        _random(rng, _RANDOM // 4, 120, 140)])
    constant = np.ones_like(value)
    _check(rtl.ToInteger(), 1, float32.to_integer_array(value, target) & 0xFF, value=value,
           highest=constant * np.uint32(target.highest), is_signed=constant * target.signed)


class _Combinational(wiring.Component):
    a: In(32)
    b: In(32)
    result: Out(32)

    def __init__(self, function: Callable[..., ValueLike]) -> None:
        self.function = function
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.result.eq(self.function(self.a, self.b))
        return m


@pytest.mark.parametrize(("name", "function", "model"), [
    ("maximum", rtl.maximum, float32.maximum_array),
    ("minimum", rtl.minimum, float32.minimum_array),
    ("canonical", lambda a, b: rtl.canonical(a), lambda a, b: float32.from_values(
        float32.to_values(a)))])
def test_combinational(rng: np.random.Generator, name: str, function: Callable,
                       model: Callable) -> None:
    a, b = _edges_and_pairs(rng, 200_000)
    _check(_Combinational(function), 0, model(a, b), a=a, b=b)


def test_from_fp8() -> None:
    """Every code with every bias."""
    code, bias = (x.ravel().astype(np.uint32) for x in np.meshgrid(np.arange(256), np.arange(16)))
    for backward in (False, True):
        expected = np.concatenate([
            float32.from_code_array(code[bias == b], Format(
                Precision.E5M2 if backward else Precision.E4M3, bias=b)) for b in range(16)])
        _check(_Combinational(lambda a, b, backward=backward: rtl.from_dlfloat(
            rtl.fp8_to_dlfloat(a[:8], Const(backward), b[:4]))), 0, expected, a=code, b=bias)


def test_from_dlfloat() -> None:
    code = np.arange(1 << 16, dtype=np.uint32)
    _check(_Combinational(lambda a, b: rtl.from_dlfloat(a[:16])), 0,
           float32.from_dlfloat_array(code.astype(np.uint16)), a=code, b=code)
