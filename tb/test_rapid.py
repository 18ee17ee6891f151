"""The configuration `rapid`: convolutions on its RTL, every word and every cycle."""

import math

import numpy as np
import pytest
from ulpcore.demonstration import compare_network
from ulpcore.rtl import MemoryModel
from ulpsim.compiler import compile_network
from ulpsim.config import RAPID
from ulpsim.evaluation import evaluate
from ulpsim.formats import Format, Precision
from ulpsim.isa import Fold
from ulpsim.network import Network, encode_real
from ulpsim.programs import random_codes


def convolutions(kind: Format, rng: np.random.Generator) -> Network:
    """3 x 3 from 40 channels to 90 on 9 x 7, then to 10: nothing is a multiple of what the core
    takes, and columns form two groups and four. BINARY, which has no zero to fill anything up, to
    192 alone."""
    binary = kind.precision is Precision.BINARY
    channels, outputs = (48, [192]) if binary else (40, [90, 10])
    layers, before = [], "image"
    for number, count in enumerate(outputs):
        shape = count, 3, 3, channels
        # Behind a ReLU weights whose mean is negative would leave nothing but zeros; large ones
        # nothing but NaN-Inf in FP8.
        lowest = -kind.highest if before != "image" else kind.lowest
        weights = (rng.normal(scale=1 / math.sqrt(math.prod(shape[1:])), size=shape)
                   if kind.precision.is_float else rng.integers(
                       lowest, kind.highest + 1, shape))
        step = 1.0 if kind.precision.is_float or binary else 4.0 * kind.highest * math.sqrt(
            math.prod(shape[1:]))
        layer = {"name": f"layer{number}", "op": "convolution", "input": before,
                 "weights": weights, "weight_format": kind.name,
                 "padding": 0 if binary else 1}
        output = {"format": kind.name, "step": step}
        # The sign of what is not negative says nothing.
        layers += [layer | {"output": output}] if binary else [
            layer, {"name": f"result{number}", "op": "relu", "input": layer["name"],
                    "output": output}]
        before, channels = layers[-1]["name"], count
    return Network.from_description({
        "name": "convolutions", "layers": layers,
        "input": {"name": "image", "height": 9, "width": 7, "channels": 48 if binary else 40,
                  "format": kind.name, "step": 1.0}})


@pytest.mark.nightly
@pytest.mark.parametrize("precision", RAPID.formats, ids=lambda p: p.name)
def test_convolutions_agree(precision, rng):
    kind = Format(precision)
    network = convolutions(kind, rng)
    # Of random codes some are NaN-Inf, and every sum would be.
    shape = 2, *network.input_shape
    codes = (encode_real(rng.normal(size=shape), kind) if precision.is_float else
             random_codes(rng, kind, shape))
    run = compare_network(network, RAPID, codes, model=MemoryModel(latency=30), batch=2)
    assert run.comparison.agree
    assert run.cycles == run.predicted
    assert (run.outputs_rtl == evaluate(network, codes, RAPID)).all()
    assert len(np.unique(run.outputs_rtl)) > 1


@pytest.mark.parametrize("precision", RAPID.formats, ids=lambda p: p.name)
def test_groups_that_the_compiler_finds(precision, rng):
    program = compile_network(convolutions(Format(precision), rng), RAPID, 2).program
    found = {Fold(i["fold"]) for i in program if i.name == "MATMUL"}
    assert found == ({Fold.ONE} if precision is Precision.BINARY else set(Fold))
