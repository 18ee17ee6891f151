"""The configuration `rapid`: convolutions on its RTL, every word and every cycle."""

import numpy as np
import pytest
from ulpcore.demonstration import compare_network
from ulpcore.rtl import MemoryModel
from ulpsim.config import RAPID
from ulpsim.evaluation import evaluate
from ulpsim.formats import Format
from ulpsim.network import Network
from ulpsim.programs import random_codes


def convolution(kind: Format, rng: np.random.Generator) -> Network:
    """3 x 3 from 40 channels to 100 on 9 x 7: nothing is a multiple of what the core takes."""
    shape = 100, 3, 3, 40
    weights = (rng.normal(size=shape) if kind.precision.is_float else
               rng.integers(kind.lowest, kind.highest + 1, shape))
    step = 1.0 if kind.precision.is_float else 4.0 * kind.highest * np.sqrt(np.prod(shape[1:]))
    return Network.from_description({
        "name": "convolution",
        "input": {"name": "image", "height": 9, "width": 7, "channels": 40, "format": kind.name,
                  "step": 1.0},
        "layers": [{"name": "layer", "op": "convolution", "input": "image", "padding": 1,
                    "weights": weights, "weight_format": kind.name},
                   {"name": "result", "op": "relu", "input": "layer",
                    "output": {"format": kind.name, "step": float(step)}}]})


@pytest.mark.nightly
@pytest.mark.parametrize("precision", RAPID.formats, ids=lambda p: p.name)
def test_convolution_agrees(precision, rng):
    kind = Format(precision)
    network = convolution(kind, rng)
    codes = random_codes(rng, kind, (2, *network.input_shape))
    run = compare_network(network, RAPID, codes, model=MemoryModel(latency=30), batch=2)
    assert run.comparison.agree
    assert run.cycles == run.predicted
    assert (run.outputs_rtl == evaluate(network, codes, RAPID)).all()
    assert len(np.unique(run.outputs_rtl)) > 1
