"""The exported Fashion-MNIST networks: well formed, and as accurate as they say."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ulpsim import fp8

EXAMPLE = Path(__file__).parent.parent / "examples" / "fashion_mnist"
FILES = sorted((EXAMPLE / "parameters").glob("*.json"))
WEIGHT_RANGES = {"INT8": (-127, 127), "INT4": (-7, 7), "INT2": (-2, 1), "ODD2": (-2, 1),
                 "BINARY": (0, 1)}
VARIANTS = ("float32", "fp16", "fp8", "int8", "int4", "int2", "odd2", "ternary", "binary")


@pytest.fixture
def evaluate(monkeypatch):
    """The example's evaluator, which runs as a script beside its own modules."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("evaluate")
    for name in ("evaluate", "dataset"):
        sys.modules.pop(name, None)


def test_files_are_there():
    names = {path.stem for path in FILES}
    assert {f"fashion-{v}" for v in VARIANTS} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_form(path):
    description = json.loads(path.read_text())
    assert description["name"] == path.stem
    known = {description["input"]["name"]}
    with np.load(path.with_suffix(".npz")) as arrays:
        for layer in description["layers"]:
            assert set(layer.get("inputs", [layer.get("input")])) <= known
            known.add(layer["name"])
            if "weights" not in layer:
                continue
            weights = arrays[layer["weights"]]
            assert arrays[layer["weight_step"]].shape == (len(weights),)
            assert arrays[layer["bias"]].shape == (len(weights),)
            if layer["weight_format"] in WEIGHT_RANGES:
                assert weights.dtype == np.int8
                lowest, highest = WEIGHT_RANGES[layer["weight_format"]]
                if "ternary" in path.stem and layer["weight_format"] == "INT2":
                    lowest = -1
                assert weights.min() >= lowest
                assert weights.max() <= highest


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_sample_accuracy(evaluate, path):
    description, arrays = evaluate.load(path)
    images, labels = importlib.import_module("dataset").load_sample()
    assert images.shape == (256, 28, 28)
    measured = evaluate.accuracy(description, arrays, images, labels)
    exact = description["input"]["format"] == "UINT8"
    assert measured == pytest.approx(description["accuracy"]["sample"], abs=1e-9 if exact else 1.0)


def test_ternary_has_three_levels_and_odd_has_four():
    for variant, levels in (("ternary", 3), ("odd2", 4), ("binary", 2)):
        with np.load(EXAMPLE / "parameters" / f"fashion-{variant}.npz") as arrays:
            assert len(np.unique(arrays["conv3.weights"])) == levels


def test_rounding_to_fp8(evaluate, rng):
    values = rng.normal(size=1000) * 2.0 ** rng.integers(-16, 8, 1000)
    values = values.astype(np.float32)
    kind = fp8.forward()
    expected = kind.decode_array(kind.encode_array(values.astype(np.float64)))
    assert np.array_equal(evaluate.rounded(values, "E4M3"), expected, equal_nan=True)
    assert np.isnan(expected).any()
    assert (expected == 0).any()


def test_rounding_to_dlfloat16(evaluate):
    values = [1.0, 1 + 1 / 1024, -1 - 1 / 1024, 1 + 1 / 1025, 2.0**-31, 2.0**-31 * (1 + 1 / 512)]
    expected = [1.0, 1 + 1 / 512, -1 - 1 / 512, 1.0, 0.0, 2.0**-31 * (1 + 1 / 512)]
    assert evaluate.rounded(np.array(values), "FP16").tolist() == expected
    largest = evaluate.rounded(np.array([8573157376.0, 2.0**33]), "FP16")
    assert largest[0] == 8573157376.0
    assert np.isnan(largest[1])
